"""Linear algebra as `scipy.linalg` names it, on traced values and plain arrays; matrices are on the last two axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError, TraceError
from ..lines import user_line
from ..numpy.creation import asarray
from ..ops import scipy as matrices
from ..ops.linalg import H, T
from .systems import solve_banded, solve_circulant, solveh_banded

__all__ = [
    "block_diag", "cho_factor", "cho_solve", "cholesky", "circulant", "companion", "convolution_matrix", "coshm",
    "cosm", "det", "eig", "eigh", "eigh_tridiagonal", "eigvals", "eigvalsh", "eigvalsh_tridiagonal", "expm",
    "expm_frechet", "fiedler", "fractional_matrix_power", "hankel", "inv", "khatri_rao", "leslie", "logm", "lstsq",
    "lu", "lu_factor", "lu_solve", "matmul_toeplitz", "norm", "orthogonal_procrustes", "pinv", "pinvh", "polar", "qr",
    "signm", "sinhm", "sinm", "solve", "solve_banded", "solve_circulant", "solve_continuous_are",
    "solve_continuous_lyapunov", "solve_discrete_are", "solve_discrete_lyapunov", "solve_lyapunov", "solve_sylvester",
    "solve_toeplitz", "solve_triangular", "solveh_banded", "sqrtm", "svd", "svdvals", "tanhm", "tanm", "toeplitz",
]  # fmt: skip

_PADE = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0, 129060195264000.0,
    10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip
_LARGEST = 5.371920351148152
"""The norm up to which the approximant of order 13 is exact to rounding."""


def expm(A: Any, squarings: int | None = None) -> Any:
    """The matrix exponential. A: (..., n, n); returns the same shape.

    By scaling, the Pade approximant of order 13 and squaring (Higham, SIAM J. Matrix Anal. Appl. 26, 2005). The number
    of squarings follows from the norm of each matrix, unless it is given (``ceil(log2(norm / 5.4))``). Cost: some 10
    products of n x n matrices; under `minijac.compile`, which does not look at numbers, SciPy finds value and
    derivative, from matrices of twice the size for each direction, unless `squarings` is given. Raises InputError for
    what is not square.

    >>> import numpy as np
    >>> expm(np.zeros((2, 2)))
    array([[1., 0.],
           [0., 1.]])
    """
    A = _square(A, "expm")
    larger: list[Any] = []
    """For each squaring the matrices that take it: more than a matrix needs would cost it its last digits, or all."""
    if squarings is None:
        norms = np.abs(A).sum(axis=-2, keepdims=True).max(axis=-1, keepdims=True, initial=0.0)
        try:
            while bool(np.any(more := (norms > _LARGEST * 2.0 ** len(larger)) & (norms < np.inf))):
                larger.append(more)
        except TraceError:  # its numbers differ from call to call
            return matrices.expm(A)
        larger = [True if bool(np.all(more)) else more for more in larger]
    else:
        larger = [True] * squarings
    b, eye = _PADE, np.eye(A.shape[-1], dtype=A.dtype)
    for more in larger:
        A = 0.5 * A if more is True else np.where(more, 0.5 * A, A)
    A2 = A @ A
    A4 = A2 @ A2
    A6 = A4 @ A2
    U = A @ (A6 @ (b[13] * A6 + b[11] * A4 + b[9] * A2) + b[7] * A6 + b[5] * A4 + b[3] * A2 + b[1] * eye)
    V = A6 @ (b[12] * A6 + b[10] * A4 + b[8] * A2) + b[6] * A6 + b[4] * A4 + b[2] * A2 + b[0] * eye
    result = np.linalg.solve(V - U, V + U)
    for more in larger:
        result = result @ result if more is True else np.where(more, result @ result, result)
    return result


def _square(A: Any, name: str) -> Any:
    A = asarray(A)
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise InputError(f"{name} at {user_line()}: expected square matrices on the last two axes, got {A.shape}.")
    return A


def inv(a: Any) -> Any:
    """The inverse."""
    return np.linalg.inv(asarray(a))


def det(a: Any) -> Any:
    """The determinant."""
    return np.linalg.det(asarray(a))


def _mirrored(a: Any, lower: bool, hermitian: bool = True) -> Any:
    """The Hermitian matrix, or the symmetric one, of which one triangle is looked at."""
    part, diagonal = np.tril(a, -1) if lower else np.triu(a, 1), np.triu(np.tril(a))
    if hermitian and a.dtype.kind == "c":
        return part + H(part) + np.real(diagonal)
    return part + np.swapaxes(part, -1, -2) + diagonal


_ASSUMED: dict[str | None, Any] = {
    "diagonal": lambda a, lower: np.triu(np.tril(a)), "tridiagonal": lambda a, lower: np.triu(np.tril(a, 1), -1),
    "upper triangular": lambda a, lower: np.triu(a), "lower triangular": lambda a, lower: np.tril(a),
    **dict.fromkeys((None, "banded", "gen", "general"), lambda a, lower: a),
    **dict.fromkeys(("sym", "symmetric"), lambda a, lower: _mirrored(a, lower, hermitian=False)),
    **dict.fromkeys(("her", "hermitian", "pos", "positive definite"), _mirrored),
}  # fmt: skip


def solve(a: Any, b: Any, lower: bool = False, *, assume_a: str | None = None, transposed: bool = False) -> Any:
    """``a x = b``; of an `a` that is assumed to be "sym", "her" or "pos", one triangle is looked at, as in SciPy."""
    a = _square(a, "solve")
    if assume_a not in _ASSUMED:
        known = sorted(filter(None, _ASSUMED))
        raise InputError(f"solve at {user_line()}: assume_a: expected one of {known}, got {assume_a!r}.")
    a = _ASSUMED[assume_a](a, lower)
    return np.linalg.solve(np.swapaxes(a, -1, -2) if transposed else a, asarray(b))


def solve_triangular(a: Any, b: Any, trans: Any = 0, lower: bool = False, unit_diagonal: bool = False) -> Any:
    """``a x = b`` where only one triangle of `a` is looked at. a: (n, n), b: (n,) or (n, k)."""
    a = _square(a, "solve_triangular")
    a = np.tril(a) if lower else np.triu(a)
    if unit_diagonal:
        eye = np.eye(a.shape[-1], dtype=bool)
        a = np.where(eye, 1.0, a)
    turned = a if trans in (0, "N") else np.swapaxes(np.conj(a) if trans in (2, "C") else a, -1, -2)
    return np.linalg.solve(turned, asarray(b))


def cholesky(a: Any, lower: bool = False) -> Any:
    """The triangular factor: upper unless `lower`, which is also the triangle of `a` that is looked at, as in SciPy."""
    L = np.linalg.cholesky(_mirrored(_square(a, "cholesky"), lower))
    return L if lower else np.conj(np.swapaxes(L, -1, -2))


def cho_factor(a: Any, lower: bool = False) -> tuple[Any, bool]:
    """The factor and its side, for `cho_solve`."""
    return cholesky(a, lower), lower


def cho_solve(c_and_lower: tuple[Any, bool], b: Any) -> Any:
    """``a x = b`` by the factor of `a`. b: (n,) or (..., n, k)."""
    c, lower = c_and_lower
    if np.ndim(b) == 1:
        return cho_solve(c_and_lower, asarray(b)[:, None])[..., 0]
    first = solve_triangular(c, b, 0 if lower else 2, lower)
    return solve_triangular(c, first, 2 if lower else 0, lower)


def sqrtm(A: Any) -> Any:
    """The principal square root. A: (..., n, n) without eigenvalues on the negative axis, or complex.

    Cost: for each seed that of a root of twice the size. Raises InputError where the root of a real one is complex.
    """
    return matrices.sqrtm(_square(A, "sqrtm"))


def logm(A: Any) -> Any:
    """The principal logarithm; shapes, cost and errors are those of `sqrtm`."""
    return matrices.logm(_square(A, "logm"))


def fractional_matrix_power(A: Any, t: Any) -> Any:
    """``A`` to a real power: ``expm(t logm(A))``, which holds where `logm` does; whole powers by products."""
    A = _square(A, "fractional_matrix_power")
    if isinstance(t, int | float | np.integer) and t == int(t):
        return np.linalg.matrix_power(A, int(t))
    return expm(t * logm(A))


def signm(A: Any) -> Any:
    """The matrix sign, ``A (A^2)^(-1/2)``: no eigenvalue on the imaginary axis."""
    A = _square(A, "signm")
    return np.linalg.solve(sqrtm(A @ A), A)


def cosm(A: Any) -> Any:
    """The matrix cosine, by exponentials."""
    return _of_exponentials(A, 1j, 1.0)


def sinm(A: Any) -> Any:
    """The matrix sine, by exponentials."""
    return _of_exponentials(A, 1j, -1.0)


def tanm(A: Any) -> Any:
    """The matrix tangent: ``cosm(A)^-1 sinm(A)``."""
    return np.linalg.solve(cosm(A), sinm(A))


def coshm(A: Any) -> Any:
    """The hyperbolic matrix cosine, by exponentials."""
    return _of_exponentials(A, 1.0, 1.0)


def sinhm(A: Any) -> Any:
    """The hyperbolic matrix sine, by exponentials."""
    return _of_exponentials(A, 1.0, -1.0)


def tanhm(A: Any) -> Any:
    """The hyperbolic matrix tangent: ``coshm(A)^-1 sinhm(A)``."""
    return np.linalg.solve(coshm(A), sinhm(A))


def _of_exponentials(A: Any, factor: complex, sign: float) -> Any:
    """``(exp(f A) + sign exp(-f A)) / 2``, over i for the sine: of a real matrix, a part of one of them."""
    A = _square(A, "a function of matrices")
    if factor == 1j and A.dtype.kind != "c":
        turned = expm(1j * A)
        return turned.real if sign > 0 else turned.imag
    found = 0.5 * (expm(factor * A) + sign * expm(-factor * A))
    return found / 1j if factor == 1j and sign < 0 else found


def polar(a: Any, side: str = "right") -> tuple[Any, Any]:
    """``a = u p`` (``p u`` for the left side), u unitary and p positive definite. a: (m, n) of full rank."""
    a = asarray(a)
    m, n = a.shape[-2:]
    tall = a if m >= n else H(a)
    p = sqrtm(H(tall) @ tall)
    u = H(np.linalg.solve(p, H(tall)))
    if m < n:
        u = H(u)
    beside = side == ("right" if m >= n else "left")
    return u, p if beside else (u @ p @ H(u) if m >= n else H(u) @ p @ u)


def solve_sylvester(a: Any, b: Any, q: Any) -> Any:
    """``a x + x b = q``. a: (..., n, n), b: (..., m, m), q: (..., n, m). Cost: another one for each seed."""
    a, b, q = _square(a, "solve_sylvester"), _square(b, "solve_sylvester"), asarray(q)
    dtype = np.result_type(a.dtype, b.dtype, q.dtype, np.float32)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2], q.shape[:-2])
    return matrices.sylvester(*(np.broadcast_to(m.astype(dtype), (*lead, *m.shape[-2:])) for m in (a, b, q)))


def solve_continuous_lyapunov(a: Any, q: Any) -> Any:
    """``a x + x a^H = q``"""
    return solve_sylvester(a, H(_square(a, "solve_continuous_lyapunov")), q)


def solve_discrete_lyapunov(a: Any, q: Any) -> Any:
    """``a x a^H - x + q = 0``, by the continuous equation of ``(a + 1)^-1 (a - 1)``."""
    a = _square(a, "solve_discrete_lyapunov")
    shifted = np.linalg.inv(a + np.eye(a.shape[-1]))
    return solve_continuous_lyapunov(np.eye(a.shape[-1]) - 2.0 * shifted, -2.0 * (shifted @ asarray(q) @ H(shifted)))


solve_lyapunov = solve_continuous_lyapunov


def solve_continuous_are(a: Any, b: Any, q: Any, r: Any) -> Any:
    """The stabilising x with ``a^T x + x a - x b r^-1 b^T x + q = 0``.

    a, q: (..., n, n), b: (..., n, m), r: (..., m, m).

    SciPy's, made exact by Kleinman's steps, which are Newton's (IEEE Trans. Automatic Control 13, 1968), so that it has
    derivatives up to the seventh order.
    """
    a, b, q, r = map(asarray, (a, b, q, r))
    x = matrices.solve_continuous_are(a, b, q, r)
    for _ in range(3):
        gain = np.linalg.solve(r, T(b) @ x)
        x = solve_continuous_lyapunov(T(a - b @ gain), -(q + T(gain) @ r @ gain))
    return x


def solve_discrete_are(a: Any, b: Any, q: Any, r: Any) -> Any:
    """The stabilising x with ``x = a^T x a - a^T x b (r + b^T x b)^-1 b^T x a + q``, likewise."""
    a, b, q, r = map(asarray, (a, b, q, r))
    x = matrices.solve_discrete_are(a, b, q, r)
    for _ in range(3):
        gain = np.linalg.solve(r + T(b) @ x @ b, T(b) @ x @ a)
        x = solve_discrete_lyapunov(T(a - b @ gain), q + T(gain) @ r @ gain)
    return x


def lu(a: Any, permute_l: bool = False) -> tuple[Any, ...]:
    """``a = p l u``, or ``(p l, u)``. a: (..., n, n)."""
    factors, pivots = lu_factor(a)
    n = factors.shape[-1]
    low, up = np.tril(factors, -1) + np.eye(n, dtype=factors.dtype), np.triu(factors)
    p = T(_permuted(np.eye(n, dtype=factors.dtype), pivots, n))
    return (p @ low, up) if permute_l else (p, low, up)


def expm_frechet(A: Any, E: Any) -> tuple[Any, Any]:
    """The exponential of A, and its derivative in the direction of E: both (..., n, n)."""
    A, E = asarray(A), asarray(E)
    whole = expm(np.block([[A, E], [np.zeros_like(E), A]]))
    n = A.shape[-1]
    return whole[..., :n, :n], whole[..., :n, n:]


def eigh_tridiagonal(d: Any, e: Any, eigvals_only: bool = False) -> Any:
    """Of the symmetric matrix with the diagonals d: (..., n) and e: (..., n - 1); as of a dense one."""
    d, e = asarray(d), asarray(e)
    on, below = (np.eye(d.shape[-1], k=k, dtype=bool) for k in (0, -1))
    rows = np.pad(e, (*[(0, 0)] * (e.ndim - 1), (1, 0)))
    return eigh(np.where(on, d[..., None], np.where(below, rows[..., None], 0.0)), eigvals_only=eigvals_only)


def eigvalsh_tridiagonal(d: Any, e: Any) -> Any:
    """The eigenvalues alone."""
    return eigh_tridiagonal(d, e, eigvals_only=True)


def orthogonal_procrustes(A: Any, B: Any) -> tuple[Any, Any]:
    """The orthogonal R for which ``A R`` is nearest to B, and the sum of the singular values of ``A^T B``."""
    u, values, vt = np.linalg.svd(T(T(asarray(B)) @ asarray(A)), full_matrices=False)
    return u @ vt, values.sum(-1)


def solve_toeplitz(c_or_cr: Any, b: Any) -> Any:
    """``toeplitz(c, r) x = b``, as a dense system. b: (n,) or (n, k)."""
    column, row = c_or_cr if isinstance(c_or_cr, tuple) else (c_or_cr, None)
    return np.linalg.solve(toeplitz(column, row), asarray(b))


def lu_factor(a: Any) -> tuple[Any, Any]:
    """The factors ``P a = L U`` in one matrix, and the pivots, as SciPy has them. a: (..., n, n).

    The factors are found without a derivative, and made exact by two Newton steps, which change nothing but that:
    ``L0^-1 P a U0^-1`` is near the identity, and its triangles multiply L0 and U0.
    """
    a = _square(a, "lu_factor")
    lu, pivots = matrices.lu_values(a), matrices.lu_pivots(a)
    n, eye = a.shape[-1], np.eye(a.shape[-1], dtype=a.dtype)
    L, U = np.tril(lu, -1) + eye, np.triu(lu)
    for _ in range(2):
        near = np.linalg.solve(L, _permuted(a, pivots, n))
        near = T(np.linalg.solve(T(U), T(near))) - eye
        L, U = L @ (eye + np.tril(near, -1)), (eye + np.triu(near)) @ U
    return np.tril(L, -1) + U, pivots


def _permuted(b: Any, pivots: Any, n: int) -> Any:
    rows, number = np.eye(n), np.arange(n)
    for k in range(n):  # the exchanges one by one; positions are data, so that a program follows them
        other = (number == pivots[..., k : k + 1])[..., None]
        moved = (other * rows).sum(-2, keepdims=True)
        rows = np.where((number == k)[:, None], moved, np.where(other, rows[..., k : k + 1, :], rows))
    return rows.astype(b.dtype) @ b


def lu_solve(lu_and_piv: tuple[Any, Any], b: Any, trans: int = 0) -> Any:
    """``a x = b`` by the factors of `a`; ``a^T x = b`` for `trans` 1. b: (n,) or (..., n, k)."""
    lu, pivots = lu_and_piv
    lu, b = asarray(lu), asarray(b)
    if b.ndim == 1:
        return lu_solve(lu_and_piv, b[:, None], trans)[..., 0]
    n = lu.shape[-1]
    if trans == 0:
        first = solve_triangular(lu, _permuted(b, pivots, n), lower=True, unit_diagonal=True)
        return solve_triangular(lu, first)
    if trans != 1:
        raise InputError(f"lu_solve at {user_line()}: trans: expected 0 or 1, got {trans!r}.")
    first = solve_triangular(lu, b, trans=1)
    last = solve_triangular(lu, first, trans=1, lower=True, unit_diagonal=True)
    return T(_permuted(np.eye(n, dtype=last.dtype), pivots, n)) @ last


def eigh(
    a: Any, b: Any = None, *, lower: bool = True, eigvals_only: bool = False, type: int = 1, subset_by_index: Any = None
) -> Any:
    """Eigenvalues and eigenvectors of a symmetric or Hermitian matrix, of which one triangle is looked at.

    With a positive definite `b` those of ``a v = w b v``, of ``a b v = w v`` for `type` 2, of ``b a v = w v`` for 3: by
    its Cholesky factor, as LAPACK has it, with vectors of length one in the norm of `b`.
    """
    a, turn = _mirrored(_square(a, "eigh"), lower), None
    if type not in (1, 2, 3):
        raise InputError(f"eigh at {user_line()}: type: expected 1, 2 or 3, got {type!r}.")
    if b is not None:
        L = np.linalg.cholesky(_mirrored(_square(b, "eigh"), lower))
        R = np.conj(np.swapaxes(L, -1, -2))
        half = np.linalg.solve(L, a) if type == 1 else R @ a
        a = np.linalg.solve(L, np.conj(np.swapaxes(half, -1, -2))) if type == 1 else half @ L
        turn = (lambda y: L @ y) if type == 3 else (lambda y: np.linalg.solve(R, y))
    some = slice(None) if subset_by_index is None else slice(subset_by_index[0], subset_by_index[1] + 1)
    if eigvals_only:
        return np.linalg.eigvalsh(a)[..., some]
    values, vectors = np.linalg.eigh(a)
    vectors = vectors[..., some]
    return values[..., some], vectors if turn is None else turn(vectors)


def eig(a: Any, b: Any = None) -> tuple[Any, Any]:
    """Eigenvalues and right eigenvectors of length one; with a regular `b` those of ``a v = w b v``."""
    values, vectors = np.linalg.eig(_square(a, "eig") if b is None else solve(b, a))
    return values + 0j, vectors


def eigvals(a: Any, b: Any = None) -> Any:
    """Eigenvalues, complex; with a regular `b` those of ``a v = w b v``."""
    return np.linalg.eigvals(_square(a, "eigvals") if b is None else solve(b, a)) + 0j


def qr(a: Any, mode: str = "full") -> Any:
    """``a = q r``, for `mode` "economic" of the smaller shape; "r" gives ``(r,)``."""
    a = asarray(a)
    if mode == "r":
        r: Any = np.linalg.qr(a, mode="r")
        return (np.pad(r, (*[(0, 0)] * (r.ndim - 2), (0, a.shape[-2] - r.shape[-2]), (0, 0))),)
    return tuple(np.linalg.qr(a, mode="complete" if mode == "full" else "reduced"))


def lstsq(a: Any, b: Any, cond: Any = None) -> tuple[Any, Any, Any, Any]:
    """The least-squares solution, sums of squares, rank and singular values. a: (m, n), b: (m,) or (m, k)."""
    x, squares, rank, s = np.linalg.lstsq(asarray(a), asarray(b), -1 if cond is None else cond)
    return x, squares if np.ndim(b) == 2 or squares.shape == (0,) else squares[0], rank, s


def eigvalsh(a: Any, b: Any = None, *, lower: bool = True, type: int = 1, subset_by_index: Any = None) -> Any:
    """Eigenvalues of a symmetric or Hermitian matrix, of which one triangle is looked at. See `eigh`."""
    return eigh(a, b, lower=lower, eigvals_only=True, type=type, subset_by_index=subset_by_index)


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """The singular value decomposition."""
    if not compute_uv:
        return svdvals(a)
    return tuple(np.linalg.svd(asarray(a), full_matrices=full_matrices))


def svdvals(a: Any) -> Any:
    """The singular values."""
    return np.linalg.svd(asarray(a), compute_uv=False)


def pinv(a: Any) -> Any:
    """The pseudo-inverse."""
    return np.linalg.pinv(asarray(a))


def pinvh(a: Any, *, lower: bool = True) -> Any:
    """The pseudo-inverse of a symmetric or Hermitian matrix, of which one triangle is looked at."""
    return np.linalg.pinv(_mirrored(_square(a, "pinvh"), lower))


def norm(a: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """The norm of a vector or matrix."""
    return np.linalg.norm(asarray(a), ord, axis, keepdims)


def block_diag(*arrs: Any) -> Any:
    """Matrices along a diagonal, zeros elsewhere. Each (..., m, n)."""
    blocks = [np.atleast_2d(asarray(a)) for a in arrs]
    lead = np.broadcast_shapes(*(a.shape[:-2] for a in blocks))
    width = sum(a.shape[-1] for a in blocks)
    rows, start = [], 0
    for a in blocks:
        stop = start + a.shape[-1]
        row = np.pad(a, (*[(0, 0)] * (a.ndim - 1), (start, width - stop)))
        rows.append(np.broadcast_to(row, (*lead, *row.shape[-2:])))
        start = stop
    return np.concatenate(rows, axis=-2)


def toeplitz(c: Any, r: Any = None) -> Any:
    """Constant along diagonals: c (..., m) is the first column, ``r[1:]`` of r (..., n) the rest of the first row."""
    c = asarray(c)
    r = np.conj(c) if r is None else asarray(r)
    lead, (m, n) = np.broadcast_shapes(c.shape[:-1], r.shape[:-1]), (c.shape[-1], r.shape[-1])
    parts = c[..., ::-1], r[..., 1:]
    entries = np.concatenate([np.broadcast_to(x, (*lead, x.shape[-1])) for x in parts], axis=-1)
    return entries[..., np.arange(m - 1, -1, -1)[:, None] + np.arange(n)]


def circulant(c: Any) -> Any:
    """Each column the one before, moved down by one. c: (..., n)."""
    c = asarray(c)
    n = c.shape[-1]
    return c[..., (np.arange(n)[:, None] - np.arange(n)) % n]


def hankel(c: Any, r: Any = None) -> Any:
    """Constant along anti-diagonals: c (..., m) is the first column, ``r[1:]`` of r the rest of the last row, or 0."""
    c = asarray(c)
    return toeplitz(c[..., ::-1], np.zeros_like(c) if r is None else r)[..., ::-1, :]


def companion(a: Any) -> Any:
    """Its eigenvalues are the roots of the polynomial with the coefficients a: (..., n)."""
    a = asarray(a)
    n = a.shape[-1]
    below = np.broadcast_to(np.eye(n - 2, n - 1, dtype=a.dtype), (*a.shape[:-1], n - 2, n - 1))
    return np.concatenate([(-a[..., 1:] / a[..., :1])[..., None, :], below], axis=-2)


def leslie(f: Any, s: Any) -> Any:
    """Fecundities f: (..., n) in the first row, survivals s: (..., n - 1) below the diagonal."""
    f, s = asarray(f), asarray(s)
    below = np.pad(s[..., None] * np.eye(s.shape[-1], dtype=s.dtype), (*[(0, 0)] * s.ndim, (0, 1)))
    return np.concatenate([f[..., None, :], below], axis=-2)


def fiedler(a: Any) -> Any:
    """Distances between the entries of a: (..., n)."""
    a = asarray(a)
    return np.abs(a[..., :, None] - a[..., None, :])


def khatri_rao(a: Any, b: Any) -> Any:
    """The Kronecker product column by column. a: (..., n, k), b: (..., m, k); returns (..., n m, k)."""
    found = asarray(a)[..., :, None, :] * asarray(b)[..., None, :, :]
    *lead, n, m, k = found.shape
    return found.reshape(*lead, n * m, k)


def convolution_matrix(a: Any, n: int, mode: str = "full") -> Any:
    """The matrix that convolves vectors of length n with a: (..., m), in NumPy's modes."""
    a = asarray(a)
    m, behind = a.shape[-1], (*[(0, 0)] * (a.ndim - 1), (0, n - 1))
    whole = toeplitz(np.pad(a, behind), np.pad(a[..., :1], behind))
    start = {"full": 0, "same": (min(m, n) - 1) // 2, "valid": min(m, n) - 1}[mode]
    count = {"full": m + n - 1, "same": max(m, n), "valid": max(m, n) - min(m, n) + 1}[mode]
    return whole[..., start : start + count, :]


def matmul_toeplitz(c_or_cr: Any, x: Any) -> Any:
    """``toeplitz(c, r) @ x``. x: (n,) or (n, k)."""
    column, row = c_or_cr if isinstance(c_or_cr, tuple) else (c_or_cr, None)
    return toeplitz(column, row) @ asarray(x)
