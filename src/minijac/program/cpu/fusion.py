"""Fusion: elementwise operations on arrays of one shape become one loop, compiled by LLVM where llvmlite is installed.

NumPy passes over its operands once for each operation; a fused loop reads each of them once, and keeps what lies
between in registers. Without llvmlite every operation remains a call of NumPy.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...ops.families import Elementwise
from ..ir import Instruction, Value
from .native.bound import Spelled
from .native.llvm import available
from .steps import Repeated
from .tiling import Region

__all__ = ["Fused", "Stage", "available", "effort", "fused", "in_parts", "made", "paired", "read", "spelled_steps"]

WORTH = 1 << 17
"""Bytes that the operations of a loop would read and write one by one; below, compiling it costs more than it saves."""
OFTEN = 1 << 15
"""The same for programs that are called thousands of times."""
LEAST = 1 << 12
"""Bytes of a result, in all calls of a loop together, below which calls cost more than the arithmetic."""
LONGEST = 200
"""Operations of one loop: compiling takes longer than in proportion to them."""
LANES = 16
"""Entries that a loop computes at once, about."""
SHORT = 512
"""Entries of a row that NumPy passes over faster than it gets to the next one."""
COMMON = 20
"""Pairs of steps of one kind for which it pays to compile a loop."""
ALIKE, NEAR = 8, 1 << 14
"""Parts of a loop that do the same and need nothing of each other from which on each is a loop, where its arrays have
so few bytes that to read one again takes no time: all of them are one function, which is compiled once."""
ENABLED = True
"""Whether loops are compiled where llvmlite is installed."""


FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}


class Fused(NamedTuple):
    """Elementwise steps with results of one shape, that are carried out as one loop."""

    dtype: np.dtype[Any]
    steps: tuple[Instruction, ...]
    args: tuple[int, ...]
    outs: tuple[int, ...]


Stage = Instruction | Region | Fused | Repeated


def read(stage: Stage) -> Sequence[int]:
    """The values that a stage reads."""
    return [n for n, _ in stage.args] if isinstance(stage, Region) else stage.args


def made(stage: Stage) -> Sequence[int]:
    """The values that a stage makes for others."""
    if isinstance(stage, Instruction):
        return (stage.out,)
    return [n for n, _ in stage.outs] if isinstance(stage, Region) else stage.outs


def paired(stages: Sequence[Stage], values: Sequence[Value], outputs: Sequence[int]) -> list[Stage]:
    """The stages, with cheap steps of which one other such step is the only reader in a loop with it.

    That is for programs of many small steps, on which more of a loop's time is its beginning and its end. Few different
    loops do for thousands of steps: a kind that is rare stays as it is.
    """
    uses = Counter([*outputs, *(n for stage in stages for n in read(stage))])
    kinds = {
        stage.out: (stage, kind)
        for stage in stages
        if isinstance(stage, Instruction) and (kind := _kind(stage, values)) and stage.op.spelling.cheap  # type: ignore[attr-defined]
    }
    loops: dict[int, Fused] = {}
    for out, (step, kind) in kinds.items():
        own = [n for n in step.args if uses[n] == 1 and n in kinds and kinds[n][1] == kind and n not in loops]
        if own:
            steps = (*(kinds[n][0] for n in own), step)
            args = dict.fromkeys(n for each in steps for n in each.args if n not in own)
            loops[out] = Fused(kind[1], steps, tuple(args), (out,))
    spelled = {out: tuple(spelled_steps(loop)) for out, loop in loops.items()}
    alike = Counter(spelled.values())
    kept = {out: loop for out, loop in loops.items() if alike[spelled[out]] >= COMMON}
    gone = {step.out for loop in kept.values() for step in loop.steps}
    return [
        kept.get(stage.out, stage) if isinstance(stage, Instruction) else stage
        for stage in stages
        if not (isinstance(stage, Instruction) and stage.out in gone and stage.out not in kept)
    ]


def in_parts(loop: Fused, values: Sequence[Value], known: Collection[int]) -> list[Fused]:
    """Loops of the parts that are alike in place of one that is long, as by so many seeds or columns.

    To compile a loop takes as long as it has steps; to carry it out as a command, of values whose arrays are known,
    some nanoseconds.
    """
    commands = all(n in known for n in (*loop.args, *loop.outs))
    if not commands or len(loop.steps) < ALIKE or values[loop.outs[0]].nbytes > NEAR:
        return [loop]
    parts = [_part(loop, steps) for steps in _parts(loop.steps)]
    kinds = [tuple(spelled_steps(part)) for part in parts]
    alike = Counter(kinds)
    rest = [step for part, kind in zip(parts, kinds, strict=True) if alike[kind] < ALIKE for step in part.steps]
    found = [part for part, kind in zip(parts, kinds, strict=True) if alike[kind] >= ALIKE]
    return [*found, _part(loop, rest)] if rest else found


def _part(loop: Fused, steps: Sequence[Instruction]) -> Fused:
    """Some steps of a loop, of which the others need nothing."""
    made = {step.out for step in steps}
    args = dict.fromkeys(n for step in steps for n in step.args if n not in made)
    return Fused(loop.dtype, tuple(steps), tuple(args), tuple([n for n in loop.outs if n in made]))


def _parts(steps: Sequence[Instruction]) -> list[list[Instruction]]:
    """Steps that need nothing of each other, apart."""
    part_of: dict[int, list[Instruction]] = {}
    for step in steps:
        joined = [step]
        for part in {id(part_of[n]): part_of[n] for n in step.args if n in part_of}.values():
            joined[:0] = part
        part_of |= dict.fromkeys([each.out for each in joined], joined)
    return list({id(part): part for part in part_of.values()}.values())


# -- which steps -------------------------------------------------------------------------------------------------------
def fused(
    stages: Sequence[Instruction | Region],
    values: Sequence[Value],
    outputs: Sequence[int],
    times: float = 1.0,
    every: bool = False,
    worth: int | None = None,
) -> Sequence[Stage]:
    """The stages, with loops in place of the elementwise steps that it pays to fuse.

    Args:
        times: How often these stages are carried out in a call, once for each tile.
        every: Whether all that can be a loop becomes one, also where NumPy's call would be as fast.
        worth: From how many bytes of traffic on.
    """
    groups = [
        (dtype, group[start : start + LONGEST])
        for dtype, group in _groups(stages, values, every)
        if every
        or (
            times * values[group[0].out].nbytes >= LEAST
            and times * _traffic(group, values) >= (WORTH if worth is None else worth)
        )
        for start in range(0, len(group), LONGEST)
    ]
    if not (groups and ENABLED and available()):
        return stages
    readers = _readers(stages, outputs)
    group_of = {step.out: k for k, (_, group) in enumerate(groups) for step in group}
    merged: list[tuple[int, Stage]] = []
    seen: set[int] = set()
    for place, stage in enumerate(stages):
        k = group_of.get(stage.out) if isinstance(stage, Instruction) else None
        if k is None:
            merged.append((place, stage))
        elif k not in seen:
            seen.add(k)
            dtype, steps = groups[k]
            merged.append((place, Fused(dtype, tuple(steps), *_operands(steps, readers))))
    return _in_order(merged)


def _groups(
    stages: Sequence[Instruction | Region], values: Sequence[Value], every: bool
) -> list[tuple[Any, list[Instruction]]]:
    """Elementwise steps of one kind that can be carried out at one moment.

    A step's level is the number of other stages, or loops of other kinds, that have to come before it: steps of one
    kind and level need nothing of each other but through themselves. A view has the level of what it shows.
    """
    level: dict[int, int] = {}
    kind_of: dict[int, Any] = {}
    groups: dict[Any, list[Instruction]] = {}
    kinds: dict[Any, Any] = {}
    for stage in stages:
        own = _kind(stage, values) if isinstance(stage, Instruction) else None
        own = kinds.setdefault(own, own)
        view = isinstance(stage, Instruction) and stage.op.view
        depth = 0
        for n in read(stage):
            if n in level:
                depth = max(depth, level[n] + (not view and (own is None or kind_of[n] is not own)))
        for n in made(stage):
            level[n], kind_of[n] = depth, own
        if own is not None and isinstance(stage, Instruction):
            groups.setdefault((own, depth), []).append(stage)
    return [
        (dtype, group)
        for ((_, dtype), _), group in groups.items()
        if every or len(group) > 1 or not group[0].op.spelling.cheap or _in_short_rows(group[0], values)  # type: ignore[attr-defined]
    ]


def _in_short_rows(step: Instruction, values: Sequence[Value]) -> bool:
    """Whether operands are broadcast along short rows, for each of which NumPy starts anew."""
    shape = values[step.out].shape
    own = [(1,) * (len(shape) - len(values[n].shape)) + values[n].shape for n in step.args]
    varying = [(size, [each[k] == 1 for each in own]) for k, size in enumerate(shape) if size > 1]
    rows = [prod(size for size, _ in run) for _, run in groupby(varying, lambda axis: axis[1])]
    return len(rows) > 1 and rows[-1] <= SHORT


def _kind(step: Instruction, values: Sequence[Value]) -> Any:
    """The shape of the result and the type of the arithmetic, where a step can be fused with others of its kind."""
    scalar = step.op.spelling if isinstance(step.op, Elementwise) and not step.params else None
    out = values[step.out]
    if scalar is None or scalar.loop is None or out.number is not None or not out.shape:
        return None
    args = [values[n] for n in step.args]
    if scalar.chooses and args.pop(0).dtype != bool:
        return None
    types = {value.dtype for value in args if value.kind != "constant" or not value.weak or value.dtype.kind == "c"}
    if len(types) != 1 or not types <= FLOATS or out.dtype not in (*types, bool):
        return None
    return out.shape, *types


def _traffic(steps: Iterable[Instruction], values: Sequence[Value]) -> int:
    return sum(values[n].nbytes for step in steps for n in (*step.args, step.out))


def _readers(stages: Sequence[Stage], outputs: Sequence[int]) -> dict[int, set[int]]:
    """What reads each value, by what it makes; -1 stands for the results."""
    readers: dict[int, set[int]] = {n: {-1} for n in outputs}
    for stage in stages:
        for n in read(stage):
            readers.setdefault(n, set()).update(made(stage))
    return readers


def _operands(steps: Sequence[Instruction], readers: Mapping[int, set[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The values that a loop reads, and those that it makes for others."""
    inside = {step.out for step in steps}
    args = dict.fromkeys(n for step in steps for n in step.args if n not in inside)
    outs = tuple(step.out for step in steps if not inside.issuperset(readers.get(step.out, ())))
    return tuple(args), outs


def _in_order(stages: list[tuple[int, Stage]]) -> list[Stage]:
    """Stages such that each comes after those that it reads from, otherwise in the order of their places."""
    maker = {n: place for place, stage in stages for n in made(stage)}
    waits = {place: {maker[n] for n in read(stage) if n in maker} for place, stage in stages}
    waiting: dict[int, list[int]] = {}
    for place, before in waits.items():
        for other in before:
            waiting.setdefault(other, []).append(place)
    ready = [place for place, before in waits.items() if not before]
    heapq.heapify(ready)
    stage_at, result = dict(stages), []
    while ready:
        place = heapq.heappop(ready)
        result.append(stage_at[place])
        for other in waiting.get(place, ()):
            waits[other].discard(place)
            if not waits[other]:
                heapq.heappush(ready, other)
    return result


def effort(stages: Sequence[Stage], values: Sequence[Value]) -> float:
    """What stages take, about: instructions of loops on vectors, which short rows do not fill, and entries moved."""
    total = 0.0
    for stage in stages:
        if isinstance(stage, Fused):
            shape = values[stage.outs[0]].shape
            whole = all(values[n].shape in (shape, ()) for n in stage.args)
            rows, inner = (1, prod(shape)) if whole else (prod(shape[:-1]), shape[-1])
            vectors = rows * -(-inner // LANES)
            total += vectors * (len(stage.steps) + 2 * (len(stage.args) + len(stage.outs)))
        elif isinstance(stage, Instruction) and not stage.op.view:
            total += sum(values[n].size for n in (*stage.args, stage.out))
    return total


def spelled_steps(loop: Fused) -> Spelled:
    """How each step of a loop is computed, with what it reads numbered first, then what it makes for others."""
    number = {n: k for k, n in enumerate((*loop.args, *loop.outs))}
    steps = []
    for step in loop.steps:
        args = tuple([number[n] for n in step.args])
        steps.append((step.op.spelling.loop, args, number.setdefault(step.out, len(number))))  # type: ignore[attr-defined]
    return steps
