"""Arrays in their places: one term without data carried out, several arrays laid over each other, dense results.

Plain arrays are written in place, through strided views. What stands for an array says itself how that is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard

from ..backend import astype, namespace, zeros
from ..strides import View
from .factors import Array, Factor, Shape, aligned, product, size_of, spread
from .labels import Axes, Label, labels_in, progression

__all__ = ["Placed", "StandIn", "covers", "embed", "rearranged", "stands_in", "strided", "strides_by_label",
           "superposed", "written", "written_functional"]  # fmt: skip


Placed: TypeAlias = tuple[Array, Sequence[Label], Axes]
"""An array over labels, and the axes that say where its entries go."""


class StandIn(Protocol):
    """What stands for an array in a block: a traced value, which records what is done, or a shadow, which counts it."""

    def embedded(self, labels: Sequence[Label], axes: Axes, shape: Shape) -> Array:
        """As `embed`."""

    def superposed(self, parts: Sequence[Placed], shape: Shape) -> Array:
        """The sum of arrays in their places, of the first one's dtype, which nothing else holds."""

    def added_at(self, positions: Array, size: int) -> Array:
        """Zeros ``(m, size)`` with the entries of this, ``(m, k)``, added at k positions along the second axis."""

    def as_array(self) -> Array:
        """The same, as an array where NumPy's arithmetic made a number of one without axes."""


def stands_in(array: Array) -> TypeGuard[StandIn]:
    return hasattr(array, "embedded")


def embed(array: Array, labels: Sequence[Label], axes: Axes, shape: Shape) -> Array:
    """The array of `shape` that has ``array[labels]`` at the positions that `axes` name, and zero elsewhere."""
    if stands_in(array):
        return array.embedded(labels, axes, shape)
    return rearranged(array, tuple((label,) for label in labels), axes, shape)


def rearranged(array: Array, inp: Axes, out: Axes, shape: Shape) -> Array:
    """One term without data applied to a plain array: each entry goes from where `inp` points to where `out` points."""
    xp = namespace(array)
    labels = tuple(labels_in(inp))
    if inp == tuple((label,) for label in labels):
        data = Factor(array, labels)
    else:
        data = Factor(strided(xp.asarray(array, order="C"), inp, labels), labels)
    kept = labels_in(out)
    gone = tuple(k for k, label in enumerate(labels) if label not in kept)
    if gone:
        data = Factor(data.array.sum(axis=gone), tuple(label for label in labels if label in kept))
    target = tuple(kept)
    if out == tuple((label,) for label in target):
        return xp.asarray(spread(data, target), order="C")
    return written([(out, (data,), 1.0)], shape, array.dtype, array)


def superposed(parts: Sequence[Placed], shape: Shape, total: Array = None) -> Array:
    """The sum of arrays over labels, each at the positions that its axes name, and of `total` where that is given."""
    if total is not None:
        whole = tuple(Label(n) for n in shape)
        parts = [(total, whole, tuple((label,) for label in whole)), *parts]
    if len(parts) == 1:
        return embed(*parts[0], shape)
    stand_in = next((array for array, _, _ in parts if stands_in(array)), None)
    if stand_in is not None:
        return stand_in.superposed(parts, shape)
    first = parts[0][0]
    return written([(axes, (Factor(x, tuple(labels)),), 1.0) for x, labels, axes in parts], shape, first.dtype, first)


_Parts: TypeAlias = Sequence[tuple[Axes, tuple[Factor, ...], complex]]


def written(parts: _Parts, shape: Shape, dtype: Any, like: Array, result: Array = None) -> Array:
    """Each part's product, written or added to where its axes say, in `result` or a new array of `shape`."""
    xp = namespace(like)
    for axes, factors, scale in sorted(parts, key=lambda part: not covers(part[0])):
        labels = tuple(labels_in(axes))
        if result is None:
            result = (xp.empty if covers(axes) else xp.zeros)(shape, dtype)
            add = False
        else:
            add = True
        view = strided(result, axes, labels)
        if len(factors) > 1 and not add:
            *first, last = sorted(factors, key=lambda factor: size_of(factor.axes))
            xp.multiply(product(first, labels, scale), aligned(last, labels), out=view, casting="same_kind")
        elif add:
            view += product(factors, labels, scale)
        else:
            view[...] = product(factors, labels, scale)
    return xp.zeros(shape, dtype) if result is None else result


def covers(axes: Axes) -> bool:
    """Whether the positions that the axes name are all there are."""
    digits = [digit for axis in axes for digit in axis]
    return all(type(digit) is Label for digit in digits) and len(set(digits)) == len(digits)


def strided(array: Array, axes: Axes, labels: Sequence[Label]) -> Array:
    """The strided view of `array` whose axes are the labels."""
    if [axis for axis in axes if axis] == [(label,) for label in labels]:
        return array if len(labels) == array.ndim else array.reshape([label.size for label in labels])
    strides, start = strides_by_label(View(array.shape, array.strides), axes)
    first = array[(*[slice(k, None) for k in start], ...)]
    shape, steps = [label.size for label in labels], [strides.get(label, 0) for label in labels]
    return namespace(array).lib.stride_tricks.as_strided(first, shape, steps)


def strides_by_label(view: View, axes: Axes) -> tuple[dict[Label, int], Shape]:
    """For axes of labels: how far apart the positions of each label lie, and where on each axis the first lies."""
    strides: dict[Label, int] = {}
    starts = []
    for axis, stride in zip(axes, view.strides, strict=True):
        start, inner = 0, 1
        for digit in reversed(axis):
            label, offset, step = progression(digit)
            start += offset * inner
            if label is not None:
                strides[label] = strides.get(label, 0) + step * inner * stride
            inner *= digit.size
        starts.append(start)
    return strides, tuple(starts)


def written_functional(parts: _Parts, shape: Shape, dtype: Any, like: Array, result: Array = None) -> Array:
    """As `written`, without writing in place, so that an outer trace can record it."""
    placed: list[Placed] = []
    for axes, factors, scale in sorted(parts, key=lambda part: not covers(part[0])):
        labels = tuple(labels_in(axes))
        have = tuple(label for label in labels if any(label in factor.axes for factor in factors))
        array = astype(product(factors, have, scale), dtype, like)
        if have == labels and tuple(axis for axis in axes if axis) == tuple((label,) for label in labels):
            array = array if array.shape == shape else array.reshape(shape)
            result = array if result is None else result + array
        else:
            placed.append((array, have, axes))
    if result is not None:
        result = astype(result, dtype, like)
    if placed:
        result = superposed(placed, shape, result)
    if result is None:
        return zeros(shape, dtype, like)
    return result if shape or not stands_in(result) else result.as_array()
