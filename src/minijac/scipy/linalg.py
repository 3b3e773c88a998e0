"""Linear algebra as `scipy.linalg` names it, on traced values and plain arrays; matrices are on the last two axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..lines import user_line
from ..numpy.creation import asarray

__all__ = [
    "block_diag", "cho_factor", "cho_solve", "cholesky", "circulant", "det", "expm", "inv", "solve", "solve_triangular",
    "toeplitz",
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
    return np.linalg.solve(a if trans in (0, "N") else np.swapaxes(a, -1, -2), asarray(b))


def cholesky(a: Any, lower: bool = False) -> Any:
    """The triangular factor: upper unless `lower`, as SciPy has it."""
    L = np.linalg.cholesky(_square(a, "cholesky"))
    return L if lower else np.swapaxes(L, -1, -2)


def cho_factor(a: Any, lower: bool = False) -> tuple[Any, bool]:
    """The factor and its side, for `cho_solve`."""
    return cholesky(a, lower), lower


def cho_solve(c_and_lower: tuple[Any, bool], b: Any) -> Any:
    """``a x = b`` by the factor of `a`."""
    c, lower = c_and_lower
    first = solve_triangular(c, b, 0 if lower else 1, lower)
    return solve_triangular(c, first, 1 if lower else 0, lower)


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
    r = c if r is None else asarray(r)
    entries = np.concatenate([c[::-1], r[1:]])
    m, n = c.shape[0], r.shape[0]
    return entries[np.arange(m - 1, -1, -1)[:, None] + np.arange(n)]


def circulant(c: Any) -> Any:
    """Each column the one before, moved down by one. c: (n,)."""
    c = asarray(c)
    n = c.shape[0]
    return c[(np.arange(n)[:, None] - np.arange(n)) % n]
