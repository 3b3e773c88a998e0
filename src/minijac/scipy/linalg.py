"""Linear algebra as `scipy.linalg` names it, on traced values and plain arrays; matrices are on the last two axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..lines import user_line
from ..numpy.creation import asarray
from ..ops import scipy as matrices

__all__ = [
    "block_diag", "cho_factor", "cho_solve", "cholesky", "circulant", "det", "eigh", "eigvalsh", "expm", "inv", "logm",
    "lu_factor", "lu_solve", "norm", "pinv", "solve", "solve_triangular", "sqrtm", "svd", "svdvals", "toeplitz",
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
    of squarings follows from the largest norm; under `minijac.compile`, which does not look at numbers, it is given
    (``ceil(log2(norm / 5.4))``). Cost: some 10 products of n x n matrices. Raises InputError for what is not square.

    >>> import numpy as np
    >>> expm(np.zeros((2, 2)))
    array([[1., 0.],
           [0., 1.]])
    """
    A = _square(A, "expm")
    if squarings is None:
        norms = np.abs(A).sum(axis=-2)
        squarings = 0
        while bool(np.any(norms > _LARGEST * 2.0**squarings)):
            squarings += 1
    b, eye = _PADE, np.eye(A.shape[-1], dtype=A.dtype)
    A = A / 2.0**squarings
    A2 = A @ A
    A4 = A2 @ A2
    A6 = A4 @ A2
    U = A @ (A6 @ (b[13] * A6 + b[11] * A4 + b[9] * A2) + b[7] * A6 + b[5] * A4 + b[3] * A2 + b[1] * eye)
    V = A6 @ (b[12] * A6 + b[10] * A4 + b[8] * A2) + b[6] * A6 + b[4] * A4 + b[2] * A2 + b[0] * eye
    result = np.linalg.solve(V - U, V + U)
    for _ in range(squarings):
        result = result @ result
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


def solve(a: Any, b: Any) -> Any:
    """``a x = b``"""
    return np.linalg.solve(asarray(a), asarray(b))


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
    """The triangular factor: upper unless `lower`, as SciPy has it."""
    L = np.linalg.cholesky(_square(a, "cholesky"))
    return L if lower else np.conj(np.swapaxes(L, -1, -2))


def cho_factor(a: Any, lower: bool = False) -> tuple[Any, bool]:
    """The factor and its side, for `cho_solve`."""
    return cholesky(a, lower), lower


def cho_solve(c_and_lower: tuple[Any, bool], b: Any) -> Any:
    """``a x = b`` by the factor of `a`."""
    c, lower = c_and_lower
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


def lu_factor(a: Any) -> tuple[Any, Any]:
    """The factors ``P a = L U`` in one matrix, and the pivots, as SciPy has them. a: (n, n).

    The factors are found without a derivative, and made exact by two Newton steps, which change nothing but that:
    ``L0^-1 P a U0^-1`` is near the identity, and its triangles multiply L0 and U0.
    """
    a = _square(a, "lu_factor")
    lu, pivots = matrices.lu_values(a), matrices.lu_pivots(a)
    n, eye = a.shape[-1], np.eye(a.shape[-1], dtype=a.dtype)
    L, U = np.tril(lu, -1) + eye, np.triu(lu)
    for _ in range(2):
        near = np.linalg.solve(L, _permuted(a, pivots, n))
        near = np.swapaxes(np.linalg.solve(np.swapaxes(U, -1, -2), np.swapaxes(near, -1, -2)), -1, -2) - eye
        L, U = L @ (eye + np.tril(near, -1)), (eye + np.triu(near)) @ U
    return np.tril(L, -1) + U, pivots


def _permuted(b: Any, pivots: Any, n: int) -> Any:
    rows = np.eye(n)
    for k in range(n):  # the exchanges one by one; positions are data, so that a program follows them
        rows = np.where((np.arange(n) == k)[:, None], _row(rows, pivots[k]), np.where(
            (np.arange(n) == pivots[k])[:, None], rows[k], rows))  # fmt: skip
    return rows.astype(b.dtype) @ b


def _row(rows: Any, k: Any) -> Any:
    return ((np.arange(len(rows)) == k)[:, None] * rows).sum(0)


def lu_solve(lu_and_piv: tuple[Any, Any], b: Any, trans: int = 0) -> Any:
    """``a x = b`` by the factors of `a`; ``a^T x = b`` for `trans` 1. b: (n,) or (n, k)."""
    lu, pivots = lu_and_piv
    lu, b = asarray(lu), asarray(b)
    n = lu.shape[-1]
    if trans == 0:
        first = solve_triangular(lu, _permuted(b, pivots, n), lower=True, unit_diagonal=True)
        return solve_triangular(lu, first)
    if trans != 1:
        raise InputError(f"lu_solve at {user_line()}: trans: expected 0 or 1, got {trans!r}.")
    first = solve_triangular(lu, b, trans=1)
    last = solve_triangular(lu, first, trans=1, lower=True, unit_diagonal=True)
    return np.swapaxes(_permuted(np.eye(n, dtype=last.dtype), pivots, n), -1, -2) @ last


def eigh(a: Any) -> tuple[Any, Any]:
    """Eigenvalues and eigenvectors of a symmetric matrix."""
    values, vectors = np.linalg.eigh(_square(a, "eigh"))
    return values, vectors


def eigvalsh(a: Any) -> Any:
    """Eigenvalues of a symmetric matrix."""
    return np.linalg.eigvalsh(_square(a, "eigvalsh"))


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


def norm(a: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """The norm of a vector or matrix."""
    return np.linalg.norm(asarray(a), ord, axis, keepdims)


def block_diag(*arrs: Any) -> Any:
    """Matrices along a diagonal, zeros elsewhere."""
    blocks = [np.atleast_2d(asarray(a)) for a in arrs]
    width = sum(a.shape[1] for a in blocks)
    rows, start = [], 0
    for a in blocks:
        stop = start + a.shape[1]
        rows.append(np.pad(a, ((0, 0), (start, width - stop))))
        start = stop
    return np.concatenate(rows, axis=0)


def toeplitz(c: Any, r: Any = None) -> Any:
    """Constant along diagonals: `c` is the first column, ``r[1:]`` the rest of the first row. c: (m,), r: (n,)."""
    c = asarray(c)
    r = np.conj(c) if r is None else asarray(r)
    entries = np.concatenate([c[::-1], r[1:]])
    m, n = c.shape[0], r.shape[0]
    return entries[np.arange(m - 1, -1, -1)[:, None] + np.arange(n)]


def circulant(c: Any) -> Any:
    """Each column the one before, moved down by one. c: (n,)."""
    c = asarray(c)
    n = c.shape[0]
    return c[(np.arange(n)[:, None] - np.arange(n)) % n]
