"""Views: where the entries of an array lie in memory, by axis and by label, and which rearrangements need no copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from .factors import Shape
from .labels import Axes, Label

__all__ = ["View", "relabelled", "row_major"]


def row_major(shape: Sequence[int]) -> Shape:
    """The strides, in entries, of an array whose last axis lies together."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


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

    def labelled(self, axes: Axes) -> tuple[dict[Label, int], Shape]:
        """For axes of labels: how far apart the positions of each label lie, and where on each axis the first lies."""
        strides: dict[Label, int] = {}
        starts = []
        for axis, stride in zip(axes, self.strides, strict=True):
            start, inner = 0, 1
            for digit in reversed(axis):
                label, step = digit, 1
                if type(digit) is not Label:
                    label, _, offset, step = digit  # type: ignore[misc, assignment]
                    start += offset * inner
                if label is not None:
                    strides[label] = strides.get(label, 0) + step * inner * stride  # type: ignore[index, arg-type]
                inner *= digit.size
            starts.append(start)
        return strides, tuple(starts)


def relabelled(strides: Mapping[Label, int], offset: int, axes: Axes, shape: Shape, root: int = -1) -> View | None:
    """The view whose axes are `axes`, where it is one: each label once, and the digits of an axis evenly spaced."""
    labels = [digit for axis in axes for digit in axis]
    if any(type(digit) is not Label for digit in labels) or len({*labels}) < len(labels):
        return None
    steps = []
    for axis in axes:
        own = View(tuple(digit.size for digit in axis), tuple(strides.get(digit, 0) for digit in axis)).merged()  # type: ignore[arg-type]
        if len(own.shape) > 1:
            return None
        steps.append(own.strides[0] if own.shape else 0)
    return View(shape, tuple(steps), offset, root)
