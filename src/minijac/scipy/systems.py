"""Linear systems of a structure, as `scipy.linalg` names them. They are solved as dense ones: n^3."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numpy.creation import asarray

__all__ = ["from_bands", "solve_banded", "solve_circulant", "solveh_banded"]


def from_bands(ab: Any, lower: int, upper: int) -> Any:
    """The matrix whose diagonals are the rows of ab: (..., lower + upper + 1, n), the highest first."""
    n = ab.shape[-1]
    i, j = np.arange(n)[:, None], np.arange(n)
    row = upper + i - j
    inside = (row >= 0) & (row <= lower + upper)
    return np.where(inside, asarray(ab)[..., np.where(inside, row, 0), np.broadcast_to(j, row.shape)], 0.0)


def solve_banded(l_and_u: tuple[int, int], ab: Any, b: Any) -> Any:
    """``a x = b`` with the diagonals of `a` in the rows of ab: (..., l + u + 1, n). b: (n,) or (..., n, k)."""
    return np.linalg.solve(from_bands(asarray(ab), *l_and_u), asarray(b))


def solveh_banded(ab: Any, b: Any, *, lower: bool = False) -> Any:
    """``a x = b`` for a Hermitian `a`, the diagonals of one of whose triangles are the rows of ab: (..., u + 1, n)."""
    ab = asarray(ab)
    width = ab.shape[-2] - 1
    half = from_bands(ab, width, 0) if lower else from_bands(ab, 0, width)
    strict = np.tril(half, -1) if lower else np.triu(half, 1)
    return np.linalg.solve(half + np.conj(np.swapaxes(strict, -1, -2)), asarray(b))


def solve_circulant(c: Any, b: Any) -> Any:
    """``circulant(c) x = b`` by Fourier transforms. c: (..., n), b: (n, ...): along SciPy's axes."""
    c, b = asarray(c), asarray(b)
    x = np.moveaxis(np.fft.ifft(np.fft.fft(np.moveaxis(b, 0, -1)) / np.fft.fft(c)), -1, 0)
    return x if np.iscomplexobj(c) or np.iscomplexobj(b) else x.real
