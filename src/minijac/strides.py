"""Strides: where the entries of an array lie in memory, and which rearrangements need no copy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Shaped", "View", "in_common_order", "row_major"]

Shape: TypeAlias = tuple[int, ...]


def row_major(shape: Sequence[int]) -> Shape:
    """The strides, in entries, of an array whose last axis lies together."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


class Shaped:
    """What has a shape and a dtype as an array has: what follows from them."""

    __slots__ = ()

    @property
    def ndim(self: Any) -> int:
        return len(self.shape)

    @property
    def size(self: Any) -> int:
        return prod(self.shape)

    @property
    def itemsize(self: Any) -> int:
        return int(self.dtype.itemsize)

    @property
    def nbytes(self: Any) -> int:
        return prod(self.shape) * int(self.dtype.itemsize)


class View(NamedTuple):
    """Entries in memory: how far the next one lies along each axis, and the first, in entries (or bytes)."""

    shape: Shape
    strides: Shape
    offset: int = 0
    root: int = -1
    """A number for whose memory it is, where there are several."""

    @classmethod
    def whole(cls, shape: Shape, root: int = -1) -> View:
        """All of a memory's entries, in row-major order."""
        return cls(shape, row_major(shape), 0, root)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def contiguous(self) -> bool:
        return all(s == t or n == 1 for n, s, t in zip(self.shape, self.strides, row_major(self.shape), strict=True))

    def of(self, axes: Sequence[int]) -> View:
        """Some of the axes, in that order: a transposed view, or the first positions along the others."""
        return self._replace(shape=tuple(self.shape[k] for k in axes), strides=tuple(self.strides[k] for k in axes))

    def broadcast(self, shape: Shape) -> View:
        """The view over more axes; as for NumPy, an axis of length one has no stride that counts."""
        strides = tuple(0 if n == 1 else s for n, s in zip(self.shape, self.strides, strict=True))
        return self._replace(shape=shape, strides=(0,) * (len(shape) - len(self.shape)) + strides)

    def merged(self) -> View:
        """The same order of entries with as few axes as there can be."""
        axes: list[tuple[int, int]] = []
        for n, stride in zip(self.shape, self.strides, strict=True):
            if n == 1:
                continue
            if axes and axes[-1][1] == n * stride:
                axes[-1] = axes[-1][0] * n, stride
            else:
                axes.append((n, stride))
        return self._replace(shape=tuple(n for n, _ in axes), strides=tuple(s for _, s in axes))

    def reshaped(self, shape: Shape) -> View | None:
        """The view in another shape; None where a reshape has to copy."""
        if not self.size:
            return self._replace(shape=shape, strides=row_major(shape))
        left = list(zip(*self.merged()[:2], strict=True))
        strides = [0] * len(shape)
        for k in reversed(range(len(shape))):
            if shape[k] == 1:
                continue
            n, stride = left.pop()
            if n % shape[k]:
                return None
            strides[k] = stride
            if n != shape[k]:
                left.append((n // shape[k], stride * shape[k]))
        return self._replace(shape=shape, strides=tuple(strides))


def in_common_order(shape: Sequence[int], operands: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The strides of a new array whose axes lie in memory as those of the operands do: NumPy's order "K"."""
    order: list[int] = []  # from the innermost axis outwards; each finds its place from the outside
    for axis in reversed(range(len(shape))):
        place = len(order)
        for position in range(len(order) - 1, -1, -1):
            inner = order[position]
            pairs = [(abs(s[axis]), abs(s[inner])) for s in operands if s[axis] and s[inner]]
            if pairs and all(outside < inside for outside, inside in pairs):
                place = position
            elif pairs:
                break
        order.insert(place, axis)
    result, step = [0] * len(shape), 1
    for axis in order:
        result[axis] = step
        step *= shape[axis]
    return tuple(result)
