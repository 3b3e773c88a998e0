"""Views by label: how far apart the entries lie along each, and when axes of labels are a view."""

from __future__ import annotations

from collections.abc import Mapping

from ..strides import View
from .factors import Shape
from .labels import Axes, Label

__all__ = ["labelled", "relabelled"]


def labelled(view: View, axes: Axes) -> tuple[dict[Label, int], Shape]:
    """For axes of labels: how far apart the positions of each label lie, and where on each axis the first lies."""
    strides: dict[Label, int] = {}
    starts = []
    for axis, stride in zip(axes, view.strides, strict=True):
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
