"""Matmuls as cuBLAS takes them: strided operands as leading dimensions, batch axes as one stride, rows folded."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

from ...strides import View
from ..ir import Value
from .math import Unsupported, check_dtype

__all__ = ["Gemm", "products"]

MOST_PRODUCTS = 16
"""Products in place of one, where the batch's axes have no common stride: beyond, an operand is copied."""


class Gemm(NamedTuple):
    """One call of cublasGemmStridedBatchedEx; everything is column-major there, so the right operand is the first."""

    reads: tuple[int, int]
    """The values whose memory the call's operands A and B lie in."""
    writes: tuple[int]
    double: bool
    transposed: tuple[bool, bool]
    sizes: tuple[int, int, int]
    """m, n, k."""
    leading: tuple[int, int, int]
    strides: tuple[int, int, int]
    offsets: tuple[int, int, int]
    batch: int


def matrix_of(view: View) -> tuple[bool, int] | None:
    """How cuBLAS may read the last two axes, if it may: whether transposed in memory, and the leading dimension."""
    (rows, columns), (down, across) = view.shape[-2:], view.strides[-2:]
    if columns == 1 or across == 1:
        leading = down if rows > 1 else columns
        if leading >= columns:
            return False, leading
    if rows == 1 or down == 1:
        leading = across if columns > 1 else rows
        if leading >= rows:
            return True, leading
    return None


def products(out: int, a: View, b: View, value: Value, copied: Callable[..., View]) -> list[Gemm]:
    """The calls that make a matmul's result; ``copied(view)`` is an operand in memory of its own."""
    check_dtype(value.dtype)
    if len(a.shape) == 1:
        a = a._replace(shape=(1, *a.shape), strides=(0, *a.strides))
    if len(b.shape) == 1:
        b = b._replace(shape=(*b.shape, 1), strides=(*b.strides, 0))
    (m, k), n = a.shape[-2:], b.shape[-1]
    depth = max(len(a.shape), len(b.shape)) - 2
    lead = tuple(max(_size(a.shape, depth, axis), _size(b.shape, depth, axis)) for axis in range(depth))
    a, b = (view if matrix_of(view) else _compact(view, copied) for view in (a, b))
    a, b = a.broadcast((*lead, m, k)), b.broadcast((*lead, k, n))
    c = View.whole((*lead, m, n), out)
    axes = _folded(a, b, c)
    left, right = matrix_of(a), matrix_of(b)
    assert left is not None and right is not None
    rows, down = m, left[1]
    while axes and not left[0]:  # where the right operand is shared, its positions are rows of the left one
        size, sa, sb, sc = axes[-1]
        if rows == 1 and sa >= k:
            down = sa
        if sb or sa != rows * down or sc != rows * n:
            break
        rows *= size
        axes.pop()
    if rows > 1:
        left = left[0], down
    if len(axes) > 1 and prod(axis[0] for axis in axes) // max(axis[0] for axis in axes) > MOST_PRODUCTS:
        # no common stride: both as they are wanted
        a, b = (view if view.contiguous else copied(view) for view in (a, b))
        return products(out, a, b, value, copied)
    if max(rows, n, k, left[1], right[1]) >= 2**31:
        raise Unsupported("a matrix of more than 2**31 rows")
    axes.sort(key=lambda axis: axis[0])
    batch, *apart = axes.pop() if axes else (1, 0, 0, 0)
    found = []
    for offsets in _positions(axes):
        found.append(Gemm(
            (b.root, a.root), (out,), value.dtype.itemsize == 8, (right[0], left[0]), (n, rows, k),
            (right[1], left[1], n), (apart[1], apart[0], apart[2]),
            (b.offset + offsets[1], a.offset + offsets[0], offsets[2]), batch,
        ))  # fmt: skip
    return found


def _size(shape: tuple[int, ...], depth: int, axis: int) -> int:
    k = axis - depth + len(shape) - 2
    return shape[k] if k >= 0 else 1


def _compact(view: View, copied: Callable[..., View]) -> View:
    """A copy, each entry once: an axis along which the operand is the same stays so."""
    lead = tuple(1 if s == 0 else n for n, s in zip(view.shape[:-2], view.strides[:-2], strict=True))
    return copied(view._replace(shape=(*lead, *view.shape[-2:]))).broadcast(view.shape)


def _folded(a: View, b: View, c: View) -> list[tuple[int, int, int, int]]:
    """The batch's axes as (size, strides in a, b and c), neighbours as one where all three allow it."""
    axes: list[tuple[int, int, int, int]] = []
    for size, *strides in zip(c.shape[:-2], a.strides[:-2], b.strides[:-2], c.strides[:-2], strict=True):
        if size == 1:
            continue
        if axes and all(before == size * now for before, now in zip(axes[-1][1:], strides, strict=True)):
            axes[-1] = axes[-1][0] * size, *strides  # type: ignore[assignment]
        else:
            axes.append((size, *strides))  # type: ignore[arg-type]
    return axes


def _positions(axes: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int]]:
    found = [(0, 0, 0)]
    for size, sa, sb, sc in axes:
        found = [(x + k * sa, y + k * sb, z + k * sc) for x, y, z in found for k in range(size)]
    return found
