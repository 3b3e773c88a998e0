"""Tiling: which steps of a program treat each sample by itself, and so can be carried out a few samples at a time.

A tile's intermediate values fit in the processor's cache, and tiles are independent, so threads share them. What makes
a step tileable is what its operation says of itself anyway: the labels of its derivative, the names of the axes of a
multilinear operation, the broadcasting of an elementwise one. A step whose samples mix, or that has none, is carried
out whole, before or after the tiles that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...algebra.labels import Axes, Axis, Label, labels_in
from ...ops.edges import Part
from ...strides import View
from ..ir import Instruction, Program, Value

__all__ = ["Region", "Rows", "stages", "tile_program"]

WORTH = 1 << 22
"""Bytes that the steps of a region read and write; below, tiles and threads cost more than they save."""


class Rows(NamedTuple):
    """Where a value's samples are: `axis` holds ``batch * inner`` positions, those of one sample side by side."""

    axis: int
    inner: int


class Tiled(NamedTuple):
    """A step that can be carried out tile by tile."""

    step: Instruction
    args: tuple[Rows | None, ...]
    """Which part of each operand a tile reads; None for all of it."""
    out: Rows | None
    """Which part of the result a tile makes; None where the result is the sum of what the tiles make."""


class Region(NamedTuple):
    """Steps that are carried out together, tile by tile."""

    batch: int
    steps: tuple[Tiled, ...]
    args: tuple[tuple[int, Rows | None], ...]
    """Values made elsewhere that it reads, and which part of each."""
    outs: tuple[tuple[int, Rows | None], ...]
    """Values that it makes for others, as parts or as sums."""


LONG = 2000
SMALL = 2**17
"""Steps of a program above which, and bytes that one of them moves below which, it is not tiled: arrays are in a cache
as they are, and to make programs of the tiles takes long."""


def stages(program: Program) -> Sequence[Instruction | Region]:
    """The steps of a program, those that treat each sample by itself gathered in regions where that pays."""
    count = len(program.instructions)
    moved = sum(_traffic(step, program.values) for step in program.instructions)
    if moved <= WORTH or (count > LONG and moved < SMALL * count):
        return program.instructions
    best: list[Instruction | Tiled] = []
    most = size = 0
    labels: dict[int, Any] = {}  # of each step, found once for all candidates
    for batch, seeds in _candidates(program):
        steps = _assigned(program, batch, seeds, labels)
        traffic = sum(_traffic(step.step, program.values) for step in steps if isinstance(step, Tiled))
        if traffic > most:
            best, most, size = steps, traffic, batch
    return _gathered(program, best, size) if most > WORTH else program.instructions


def _candidates(program: Program) -> list[tuple[int, tuple[int, ...]]]:
    """Batch sizes, each with the inputs that could have samples along their first axis."""
    found: dict[int, list[int]] = {}
    used = {n for step in program.instructions for n in step.args}
    for n in sorted(used):
        value = program.values[n]
        if value.kind in ("input", "captured") and len(value.shape) > 0 and value.shape[0] > 1:
            found.setdefault(value.shape[0], []).append(n)
    candidates = []
    for batch, arrays in found.items():
        inputs = [n for n in arrays if program.values[n].kind == "input"]
        some = {tuple(inputs), tuple(arrays), *((n,) for n in arrays[:8])}
        candidates += [(batch, seeds) for seeds in sorted(some) if seeds]
    return candidates


def _assigned(
    program: Program, batch: int, seeds: tuple[int, ...], labels: dict[int, Any]
) -> list[Instruction | Tiled]:
    """Each step, tiled where it can be, when the samples of some values lie along their first axis."""
    rows: dict[int, Rows] = {n: Rows(0, 1) for n in seeds}
    steps: list[Instruction | Tiled] = []
    for step in program.instructions:
        tiled = None
        if any(n in rows for n in step.args) and program.values[step.out].number is None:
            tiled = _tiled(step, program.values, rows, batch, labels)
        if tiled is None:
            steps.append(step)
        else:
            if tiled.out is not None:
                rows[step.out] = tiled.out
            steps.append(tiled)
    return steps


def _tiled(
    step: Instruction, values: Sequence[Value], rows: dict[int, Rows], batch: int, labels: dict[int, Any]
) -> Tiled | None:
    """The step with the rows of its operands and result, or None where it does not treat each sample by itself."""
    if step.out not in labels:
        shapes = [values[n].shape for n in step.args]
        labels[step.out] = step.op.labels(shapes, values[step.out].shape, step.params)
    related = labels[step.out]
    if related is None:
        return None
    found = {
        _moved(part.inp, part.out, rows[n], batch) for part, n in zip(related, step.args, strict=True) if n in rows
    }
    if found == {None}:
        return _summed(step, values, related, rows, batch)
    if len(found) != 1:
        return None
    (out,) = found
    if out is None or not all(_separate(part, out, batch) for part in related):
        return None
    args = [rows.get(n) or _moved(part.out, part.inp, out, batch) for part, n in zip(related, step.args, strict=True)]
    return Tiled(step, tuple(args), out)


def _separate(part: Part, out: Rows, batch: int) -> bool:
    """Whether some samples of the result need the same samples of an operand, or all samples the same of it."""
    if not _whole(part.out[out.axis], batch):
        return False
    label = _digits(part.out[out.axis])[0]
    repeated = label not in labels_in(part.inp) and _leading(part.out, label) is not None
    return repeated or _moved(part.out, part.inp, out, batch) is not None


def _summed(
    step: Instruction, values: Sequence[Value], related: list[Part], rows: dict[int, Rows], batch: int
) -> Tiled | None:
    """A step that sums over the samples, where the tiles' sums are small beside what they read."""
    out = values[step.out]
    added = step.op.reduction is not None and step.op.reduction.combine is np.add and not step.op.reduction.counts
    if not added or 16 * out.nbytes > sum(values[n].nbytes for n in step.args):
        return None
    summed = [set(labels_in(part.inp)) - set(labels_in(part.out)) for part in related]
    args = []
    for part, n, gone in zip(related, step.args, summed, strict=True):
        own = rows.get(n)
        if own is None or own.inner != 1 or _digits(part.inp[own.axis])[0] not in gone:
            return None
        args.append(own)
    if len({_digits(part.inp[own.axis])[0] for part, own in zip(related, args, strict=True)}) != 1:
        return None
    return Tiled(step, tuple(args), None)


# -- where samples go --------------------------------------------------------------------------------------------------
def _digits(axis: Axis) -> Axis:
    return tuple(digit for digit in axis if digit.size > 1)


def _leading(axes: Axes, label: Any) -> int | None:
    """The one axis in which a label occurs, where it is the first digit there."""
    places = [k for k, axis in enumerate(axes) if label in labels_in((axis,))]
    return places[0] if len(places) == 1 and _digits(axes[places[0]])[:1] == (label,) else None


def _whole(axis: Axis, batch: int) -> bool:
    """Whether an axis goes through all samples, and is not a window of them."""
    digits = _digits(axis)
    return bool(digits) and isinstance(digits[0], Label) and digits[0].size % batch == 0


def _moved(source: Axes, target: Axes, rows: Rows | None, batch: int) -> Rows | None:
    """Where the samples of `source` are in `target`; None where they are not, or are not whole."""
    if rows is None:
        return None
    if not _whole(source[rows.axis], batch):
        return None
    label = _digits(source[rows.axis])[0]
    if _leading(source, label) is None:
        return None
    axis = _leading(target, label)
    return None if axis is None else Rows(axis, prod(digit.size for digit in target[axis]) // batch)


# -- regions -----------------------------------------------------------------------------------------------------------
def _gathered(program: Program, steps: list[Instruction | Tiled], batch: int) -> list[Instruction | Region]:
    """Whole steps as early as they can be, and between them as few regions as there can be."""
    level: dict[int, int] = {}
    tiled = {step.step.out: step.out for step in steps if isinstance(step, Tiled)}
    wholes: dict[int, list[Instruction]] = {}
    regions: dict[int, list[Tiled]] = {}
    for item in steps:
        step = item.step if isinstance(item, Tiled) else item
        later = {n for n in step.args if n in tiled and (not isinstance(item, Tiled) or tiled[n] is None)}
        level[step.out] = max((level[n] + (n in later) for n in step.args if n in level), default=0)
        if isinstance(item, Tiled):
            regions.setdefault(level[step.out], []).append(item)
        else:
            wholes.setdefault(level[step.out], []).append(item)
    result: list[Instruction | Region] = []
    for k in range(max(level.values(), default=-1) + 1):
        result += wholes.get(k, [])
        own = regions.get(k, [])
        if sum(_traffic(item.step, program.values) for item in own) > WORTH:
            inside, views = _without_views(own, program.values)
            result += [_region(program, inside, batch), *views]
        else:
            result += [item.step for item in own]
    return result


def _without_views(steps: list[Tiled], values: Sequence[Value]) -> tuple[list[Tiled], list[Instruction]]:
    """The steps of a region, and those at its end that only show its results otherwise: no tile need copy for them."""
    shown: dict[int, View] = {}
    for item in steps:
        step = item.step
        if step.op.view and values[step.out].size == values[step.args[0]].size:
            view = _seen(step, shown.get(step.args[0]) or View.whole(values[step.args[0]].shape), values)
            if view is not None:
                shown[step.out] = view
    read: set[int] = set()
    inside, views = list[Tiled](), list[Instruction]()
    for item in reversed(steps):
        if item.step.out in shown and item.step.out not in read:
            views.append(item.step)
        else:
            inside.append(item)
            read.update(item.step.args)
    return inside[::-1], views[::-1]


def _seen(step: Instruction, view: View, values: Sequence[Value]) -> View | None:
    """What an operation shows of a view; None where it copies it."""
    if step.op.strided is not None:
        found: View | None = step.op.strided(view, values[step.out].shape, **step.params)
        return found
    outline = as_strided(np.empty((), np.int8), view.shape, view.strides)  # nobody reads what it stands for
    shown = step.op.value(outline, **step.params)
    return View(shown.shape, shown.strides)


def _region(program: Program, steps: list[Tiled], batch: int) -> Region:
    made = {item.step.out: item.out for item in steps}
    args = {
        (n, rows): None for item in steps for n, rows in zip(item.step.args, item.args, strict=True) if n not in made
    }
    inside = {item.step.out for item in steps}
    used = set(program.outputs).union(*(step.args for step in program.instructions if step.out not in inside))
    outs = tuple((n, rows) for n, rows in made.items() if n in used)
    return Region(batch, tuple(steps), tuple(args), outs)


def _traffic(step: Instruction, values: Sequence[Value]) -> int:
    """Bytes that a step moves, at the least."""
    if step.op.view:
        return 0
    return sum(values[n].nbytes for n in (*step.args, step.out))


# -- the program of a tile ---------------------------------------------------------------------------------------------
def tile_program(region: Region, values: Sequence[Value], size: int, known: Callable[[int], Any]) -> Program:
    """The steps of a region for `size` samples: inputs and outputs as `Region.args` and `outs`, in that order.

    Whole operands that are the same arrays in every call, as `known` tells, are captured instead.
    """
    new: list[Value] = []
    number: dict[Any, int] = {}
    inputs = []
    for n, rows in region.args:
        value = values[n]
        content = known(n) if rows is None else None
        if content is not None:
            kind = "constant" if value.kind == "constant" else "captured"
            new.append(value._replace(kind=kind, content=content))
        else:
            new.append(Value(_sized(value.shape, rows, size), value.dtype, "input", None, value.number))
            inputs.append(len(new) - 1)
        number[n, rows] = len(new) - 1
    steps = []
    for item in region.steps:
        step, value = item.step, values[item.step.out]
        args = tuple([
            number[n] if n in number else number[n, rows] for n, rows in zip(step.args, item.args, strict=True)
        ])  # fmt: skip
        shape = _sized(value.shape, item.out, size)
        new.append(Value(shape, value.dtype, "computed", None, value.number))
        number[step.out] = len(new) - 1
        params = _resized(item, values, shape, region.batch, size)
        steps.append(Instruction(step.op, args, params, number[step.out]))
    return Program(
        tuple(new),
        tuple(steps),
        tuple(inputs),
        tuple(number[n] for n, _ in sorted(region.outs, key=lambda out: out[1] is None)),
    ).verify()


def _sized(shape: tuple[int, ...], rows: Rows | None, size: int) -> tuple[int, ...]:
    if rows is None:
        return shape
    return (*shape[: rows.axis], size * rows.inner, *shape[rows.axis + 1 :])


def _resized(item: Tiled, values: Sequence[Value], shape: tuple[int, ...], batch: int, size: int) -> dict[str, Any]:
    """Parameters that name the shape of the result, or labels of it, for another number of samples."""
    step = item.step
    params = step.params | {key: shape for key in ("shape", "to") if key in step.params}
    if item.out is None:
        return params
    parts = step.op.labels([values[n].shape for n in step.args], values[step.out].shape, step.params)
    own = {_digits(part.out[item.out.axis])[0] for part in parts}
    other = {label: Label(label.size // batch * size) for label in own}
    return {key: _exchanged(value, other) for key, value in params.items()}


def _exchanged(value: Any, other: Mapping[Any, Label]) -> Any:
    """A parameter with other labels in place of some."""
    if isinstance(value, Label):
        return other.get(value, value)
    if type(value) is tuple:
        return tuple([_exchanged(each, other) for each in value])
    return value
