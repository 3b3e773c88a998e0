"""Which axes of values the steps of a program take apart, and which go whole through all of it: samples among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...algebra.labels import Axis, Label, labels_in
from ...ops.edges import Part, without_ones
from ...ops.families import Elementwise, Multilinear, Structural
from ..ir import Instruction, Program, Value

__all__ = ["Layout", "Related", "layouts_of", "related"]

SMALL = 32
"""Products of one sample that a step sums at most: BLAS is faster for more."""
Related = Sequence[Sequence[Part]]
Place = tuple[int, int]
"""An axis: of which value, and which one."""


class Layout(NamedTuple):
    """How an array comes apart in columns: which of its axes are taken apart, and which become those of a column."""

    apart: tuple[int, ...]
    kept: tuple[int, ...]
    """In the order that they have in a column."""
    picked: tuple[slice | None, ...]
    """What makes a column of an entry's part: None for an axis that only other values have."""

    def columns(self, array: Any) -> list[Any]:
        """The columns of an array, as views."""
        moved = array.transpose(*self.apart, *self.kept)
        places = product(*(range(array.shape[k]) for k in self.apart))
        return [moved[(*place, *self.picked, ...)] for place in places]

    def moves(self, shape: Sequence[int]) -> bool:
        """Whether the entries of a column of a contiguous array are not side by side."""
        order = [k for k in (*self.apart, *self.kept) if shape[k] > 1]
        return order != sorted(order)

    def like(self, array: Any) -> Any:
        """An array like another one, whose columns lie together."""
        order = (*self.apart, *self.kept)
        return np.empty([array.shape[k] for k in order], array.dtype).transpose(np.argsort(order))

    def frame(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape with one position along the axes of a column."""
        return tuple([1 if k in self.kept else size for k, size in enumerate(shape)])


def related(step: Instruction, values: Sequence[Value]) -> Related | None:
    """For each operand the parts that relate its positions to the result's; None where that is not all it does.

    Nothing of elementwise steps, of which shapes say it.
    """
    op, out = step.op, values[step.out]
    if isinstance(op, Elementwise):
        return () if op.relation is None else None
    if any(values[n].dtype != out.dtype for n in step.args):
        return None
    shapes, found = [values[n].shape for n in step.args], None
    if isinstance(op, Structural) and op.relation is not None and (op.by_labels or op.view):
        found = [op.relation(k, out.shape, *shapes, **step.params) for k in range(len(shapes))]
    elif isinstance(op, Multilinear) and (one := op.labels(shapes, out.shape, step.params)) is not None:
        sizes = [label.size for label in labels_in(tuple(axis for part in one for axis in (*part.out, *part.inp)))]
        found = [[part] for part in one] if prod(sizes) <= SMALL * max(sizes, default=1) else None
    if found is None:
        return None
    return [[part._replace(out=without_ones(part.out), inp=without_ones(part.inp)) for part in own] for own in found]


def layouts_of(program: Program, relations: Sequence[Related], used: Collection[int]) -> dict[int, Layout]:
    """The layout of each value: what no step takes apart is kept, the longest axis last."""
    axes = _Axes(program.values)
    for step, parts in zip(program.instructions, relations, strict=True):
        if isinstance(step.op, Elementwise):
            axes.through_entries(step)
        for n, own in zip(step.args, parts, strict=False):
            for part in own:
                axes.through(n, part, step)
    place = axes.kept(used)
    return {n: _layout([place.get(axes.of((n, k))) for k in range(len(program.values[n].shape))], len(place))
            for n in used}  # fmt: skip


def _layout(places: Sequence[int | None], count: int) -> Layout:
    """Of a value whose axes have these places in a column, of `count`; None of those that are taken apart."""
    held = {place: k for k, place in enumerate(places) if place is not None}
    picked = tuple([slice(None) if place in held else None for place in range(min(held, default=count), count)])
    return Layout(
        tuple([k for k, place in enumerate(places) if place is None]),
        tuple([held[place] for place in sorted(held)]),
        picked,
    )


class _Axes:
    """The axes of all values in classes: those through which labels go whole, from operands to results."""

    def __init__(self, values: Sequence[Value]) -> None:
        self._values = values
        self._above: dict[Place, Place] = {}
        self._apart: list[Place] = []

    def of(self, axis: Place) -> Place:
        """The class of an axis, which is one of those in it."""
        first, axis = axis, self._above.get(axis, axis)
        while (above := self._above.get(axis, axis)) != axis:
            axis = above
        self._above[first] = axis
        return axis

    def _joined(self, a: Place, b: Place) -> None:
        self._above[self.of(a)] = self.of(b)

    def through_entries(self, step: Instruction) -> None:
        """Join the axes of an elementwise step."""
        depth = len(self._values[step.out].shape)
        for n in step.args:
            shape = self._values[n].shape
            for k, size in enumerate(shape):
                if size > 1:
                    self._joined((n, k), (step.out, depth - len(shape) + k))

    def through(self, n: int, part: Part, step: Instruction) -> None:
        """Join the axes that go together in a part of a step's derivative by a value."""
        inside, outside = (Counter(label for axis in axes for label in labels_in((axis,))) for axes in part[1::-1])
        whole = {axis[0]: j for j, axis in enumerate(part.out) if _is_whole(axis, outside)}
        taken = {axis[0]: k for k, axis in enumerate(part.inp) if _is_whole(axis, inside)}
        repeats = not isinstance(step.op, Structural) or step.op.by_labels  # what only the result has is repeated
        for label, k in taken.items():
            if label in whole:
                self._joined((n, k), (step.out, whole[label]))
        self._apart += [
            (n, k) for k, axis in enumerate(part.inp) if axis and not (axis[0] in taken and axis[0] in whole)
        ]
        for j, axis in enumerate(part.out):
            if axis and not (axis[0] in whole and (axis[0] in taken or (repeats and axis[0] not in inside))):
                self._apart.append((step.out, j))

    def kept(self, used: Collection[int]) -> dict[Place, int]:
        """The classes that nothing takes apart, with their places in a column."""
        apart, sizes = {self.of(axis) for axis in self._apart}, dict[Place, int]()
        for n in used:
            shape = self._values[n].shape
            own = Counter(self.of((n, k)) for k, size in enumerate(shape) if size > 1)
            apart |= {each for each, times in own.items() if times > 1}  # which has an entry for each pair of positions
            sizes |= {self.of((n, k)): size for k, size in enumerate(shape) if size > 1}
        kept = sorted((size, own) for own, size in sizes.items() if own not in apart)
        return {own: k for k, (_, own) in enumerate(kept)}


def _is_whole(axis: Axis, count: Counter[Label]) -> bool:
    return len(axis) == 1 and type(axis[0]) is Label and count[axis[0]] == 1
