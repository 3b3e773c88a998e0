"""Passes over a program: each takes a program and returns a smaller or cheaper one that computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..ir import Instruction, Program, Value, without_dead_code
from ..loops import LOOP, unrolled
from .layout import products_in_order
from .rolling import frozen_params, rolled, same_given
from .signs import scaled_early, signs_carried
from .tightening import tightened
from .turning import turned_chains

__all__ = ["optimised"]


NEUTRAL: dict[Any, tuple[float | None, ...]] = {
    np.multiply: (1.0, 1.0),
    np.divide: (1.0, None),
    np.subtract: (0.0, None),
}
"""What leaves the other operand as it is, as the second one and as the first: not x + 0.0, nor x - (-0.0), which are
0.0 for x = -0.0."""


def optimised(program: Program, loops: bool = True) -> Program:
    """Loops in place of equal stretches, if they are wanted, and all passes, on the bodies of loops too.

    Verified after each pass: what it has changed.
    """
    return _passed(rolled(program) if loops else unrolled(program))


def _passed(program: Program) -> Program:
    program = _each(PASSES, program)
    if all(step.op is not LOOP for step in program.instructions):
        return program
    program = tightened(program).verify()
    steps = tuple(
        [step._replace(params=_inside(step.params)) if step.op is LOOP else step for step in program.instructions]
    )
    return _each((tidied,), program._replace(instructions=steps).verify())


def _inside(params: dict[str, Any]) -> dict[str, Any]:
    loop = params["loop"]
    return {"loop": replace(loop, body=_passed(loop.body), structure=None)}


def _each(passes: Sequence[Callable[[Program], Program]], program: Program) -> Program:
    """Passes one after the other, but for those that would find the program as they left it."""
    vain: set[Any] = set()
    for each in passes:
        if each in vain:
            continue
        after = each(program)
        if not after.does(program):
            program = after.verify(program)
            vain.clear()
        vain.add(each)  # what it does it has done, until another changes something
    return program


def _shortened(step: Instruction, values: Sequence[Value], makers: Mapping[int, Instruction]) -> Instruction:
    """A transpose of a transpose as one, and a reshape of a reshape; a square for the second power."""
    maker = makers.get(step.args[0])
    if step.op.merged is not None and maker is not None and maker.op is step.op:
        return step._replace(args=maker.args, params=step.op.merged(maker.params, step.params))
    if step.op.shortcuts and values[step.args[1]].weak and values[step.out].dtype.kind == "f":
        shorter = step.op.shortcuts.get(values[step.args[1]].content)
        if shorter is not None and values[step.args[0]].number is None:
            return step._replace(op=shorter, args=step.args[:1])
    return step


def tidied(program: Program) -> Program:
    """Without operations that do nothing: times one, minus zero, reshapes and conversions to what is there already; and
    one instruction for all that compute the same from the same; of all that only what some output needs."""
    program, values = without_dead_code(program), program.values
    same = same_given(values)
    makers: dict[int, Instruction] = {}
    seen: dict[Any, int] = {}
    kept = []
    for step in program.instructions:
        step = _shortened(step.reading(same), values, makers)
        first = _unchanged(values, step)
        if first is None:
            first = seen.setdefault((step.op, step.args, frozen_params(step)), step.out)
        if first == step.out:
            kept.append(step)
            makers[first] = step
        else:
            same[step.out] = first
    tidy = program._replace(instructions=tuple(kept), outputs=tuple(same.get(n, n) for n in program.outputs))
    return without_dead_code(tidy)


def _unchanged(values: Sequence[Value], step: Instruction) -> int | None:
    """The value that a step passes on as it is, if it does."""
    op, args, params, _ = step
    if op.unchanged is not None:
        first, out = values[args[0]], values[step.out]
        alike = (first.shape, first.dtype, first.number) == (out.shape, out.dtype, out.number)
        if alike and op.unchanged(out.shape, **params):
            return args[0]
    neutral = NEUTRAL.get(op.value) if len(args) == 2 else None
    for kept, other, number in zip(args, args[::-1], neutral, strict=True) if neutral else ():
        known = values[other]
        plain = number is not None and known.kind == "constant" and known.shape == () and known.dtype.kind in "biuf"
        if plain and known.content == number and not np.signbit(known.content):
            given, out = values[kept], values[step.out]
            if (given.shape, given.dtype, given.number) == (out.shape, out.dtype, out.number):
                return kept
    return None


PASSES = (tidied, signs_carried, tidied, scaled_early, turned_chains, tidied, products_in_order, tidied)
