"""Linear systems with a block, one for each sample: by its diagonals where it is banded, by a sparse factorisation
where its entries are listed, dense otherwise."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..algebra.block import Block
from ..algebra.factors import Array
from ..algebra.terms import Term
from ..algebra.writing import stands_in
from ..backend import namespace, on_host
from .bands import offsets
from .entries import entries, sparse

__all__ = ["solve", "solve_banded"]

NARROW = 4
"""A band pays where it is this many times narrower than the matrix."""


def solve(block: Block, rhs: Array, batched: bool, dtype: Any) -> Array:
    """``x`` with ``block x = rhs``; rhs: ``(B, *out)`` or ``(B, *out, k)``, result ``(B, *in)`` or ``(B, *in, k)``.

    Without samples, one system for all.
    """
    several = rhs.shape[len(block.out_shape) :]
    bands = _bands(block, dtype, rhs) if batched and all(block.out_shape[1:]) else None
    if bands is not None:
        batch = rhs.shape[0]
        n = prod(block.out_shape[1:])
        solution = solve_banded(bands, rhs.astype(dtype).reshape(batch, n, prod(several)))
        return solution.reshape((*block.inp_shape, *several))
    if any(term.listed for term in block.terms) and not _stands_in(block, rhs) and (lu := _sparse_lu()):
        matrix = sparse(entries(block.tied(0, 0) if batched else block, dtype)).tocsc()
        try:
            solution = np.ascontiguousarray(lu(matrix).solve(rhs.astype(dtype).reshape(matrix.shape[0], prod(several))))
        except RuntimeError as error:
            raise np.linalg.LinAlgError(
                f"J.solve(rhs): expected a regular matrix for every sample: {error}."
            ) from error
        return solution.reshape((*block.inp_shape, *several))
    matrix = (block.paired(0, 0) if batched else block).dense(dtype, rhs)
    lead = block.out_shape[:1] if batched else ()
    n = prod(block.out_shape[len(lead) :])
    solution = np.linalg.solve(matrix.reshape(*lead, n, n), rhs.reshape(*lead, n, prod(several)))
    return solution.reshape((*block.inp_shape, *several))


def _stands_in(block: Block, like: Array) -> bool:
    return any(map(stands_in, (like, *(factor.array for term in block.terms for factor in term.factors))))


def _sparse_lu() -> Any:
    """SciPy's sparse factorisation; None where SciPy is not installed."""
    try:
        from scipy.sparse.linalg import splu
    except ImportError:
        return None
    return splu


def _bands(block: Block, dtype: Any, like: Array) -> dict[int, Array] | None:
    """The diagonals of each sample's matrix by offset, ``(B, n)`` by row; None where it is not banded, or traced."""
    if _stands_in(block, like):
        return None
    shape = block.out_shape[1:]
    if shape != block.inp_shape[1:]:
        return None
    found: dict[int, list[Term]] = {}
    for term in block.terms:
        off = offsets(term.out, term.inp)
        if off is None or off[0] != 0:
            return None
        flat = 0
        for distance, size in zip(off[1:], shape, strict=True):
            flat = flat * size + distance
        found.setdefault(flat, []).append(Term(term.out, (), term.factors, term.scale))
    n = prod(shape)
    below, above = -min(found, default=0), max(found, default=0)
    if n > 1 and (below > 0 or above > 0) and NARROW * (2 * max(below, 0) + max(above, 0) + 1) > n:
        return None
    return {
        offset: Block(block.out_shape, (), terms, block.one).dense(dtype, like).reshape(-1, n)
        for offset, terms in found.items()
    }


def solve_banded(bands: dict[int, Array], rhs: Array) -> Array:
    """Gaussian elimination with row exchanges along a band, all samples together.

    Args:
        bands: ``(B, n)`` for each offset: the entry of row i and column ``i + offset`` at i.
        rhs: ``(B, n)`` or ``(B, n, k)``; returns the same shape.

    Raises numpy.linalg.LinAlgError where a sample's matrix is singular; on the GPU the result is infinite or NaN then.

    Cost per sample: ``n * below * (below + above)`` multiply-adds, in n steps.
    """
    if rhs.ndim == 2:
        return solve_banded(bands, rhs[:, :, None])[:, :, 0]
    xp = namespace(rhs)
    batch, n, count = rhs.shape
    below, above = max(0, -min(bands, default=0)), max(0, max(bands, default=0))
    width = below + above + 1
    # row i holds the columns from i - below; rows beyond the last are those of an identity
    rows = xp.zeros((batch, n + below, width), rhs.dtype)
    rows[:, n:, below] = 1.0
    for offset, band in bands.items():
        rows[:, :n, offset + below] = band
    b = xp.zeros((batch, n + below, count), rhs.dtype)
    b[:, :n] = rhs
    upper = xp.empty((batch, n, width), rhs.dtype)
    value = xp.empty((batch, n, count), rhs.dtype)

    # the rows that meet the current column, each from that column on
    active = xp.zeros((batch, below + 1, width), rhs.dtype)
    for k in range(below + 1):
        active[:, k, : width - below + k] = rows[:, k, below - k :]
    right = b[:, : below + 1].copy()
    sample = xp.arange(batch)
    for k in range(n):
        if below:
            pivot = abs(active[:, :, 0]).argmax(axis=1)
            top, first = active[sample, pivot], right[sample, pivot]
            active[sample, pivot], right[sample, pivot] = active[:, 0], right[:, 0]
        else:
            top, first = active[:, 0], right[:, 0]
        upper[:, k], value[:, k] = top, first
        if on_host(top) and bool((top[:, 0] == 0).any()):
            raise np.linalg.LinAlgError("J.solve(rhs): expected a regular matrix for every sample, got a singular one.")
        if k + 1 == n:
            break
        following = xp.empty_like(active)
        rest = xp.empty_like(right)
        if below:
            ratio = active[:, 1:, 0] / top[:, :1]
            following[:, :-1, :-1] = active[:, 1:, 1:] - ratio[:, :, None] * top[:, None, 1:]
            following[:, :-1, -1] = 0.0
            rest[:, :-1] = right[:, 1:] - ratio[:, :, None] * first[:, None]
        following[:, -1] = rows[:, k + 1 + below]
        rest[:, -1] = b[:, k + 1 + below]
        active, right = following, rest
    return _substituted(upper, value)


def _substituted(upper: Array, value: Array) -> Array:
    """The solution of an upper triangular band, row i of which begins at column i, from the last row on."""
    batch, n, width = upper.shape
    x = namespace(value).zeros((batch, n + width - 1, value.shape[2]), value.dtype)
    for k in range(n - 1, -1, -1):
        known = (upper[:, k, 1:, None] * x[:, k + 1 : k + width]).sum(axis=1)
        x[:, k] = (value[:, k] - known) / upper[:, k, :1]
    return x[:, :n].copy()
