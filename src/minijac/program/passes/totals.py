"""Totals: sums of many values, in whatever order they were added, as one instruction while loops are looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...ops.elementwise import UFUNCS
from ...tape.op import Op
from ..ir import Instruction, Program, Value
from ..loops import LOOP, Rewriting

__all__ = ["ADD", "TOTAL", "totalled", "without_totals"]

ADD = UFUNCS[np.add]


def _summed(*operands: Any) -> Any:
    return sum(operands)


TOTAL = Op("total", _summed)
"""The sum of its operands, which have one shape."""


def totalled(program: Program, fewest: int) -> Program:
    """Sums of so many values at least, of which nothing else reads a part, as totals."""
    uses = Counter(n for step in program.instructions for n in step.args) + Counter(program.outputs)
    leaves: dict[int, list[int]] = {}
    parts: dict[int, list[int]] = {}
    for step in program.instructions:
        if _adds(step, program.values):
            own = [n for n in step.args if n in leaves and uses[n] == 1]
            leaves[step.out] = [leaf for n in step.args for leaf in (leaves.pop(n) if n in own else [n])]
            parts[step.out] = [n for m in own for n in (m, *parts.pop(m))]
    whole = {n for n, found in leaves.items() if len(found) >= fewest}
    gone = {n for root in whole for n in parts[root]}
    steps = [
        Instruction(TOTAL, tuple(leaves[step.out]), {}, step.out) if step.out in whole else step
        for step in program.instructions
        if step.out not in gone
    ]
    return program._replace(instructions=tuple(steps))


def _adds(step: Instruction, values: Sequence[Value]) -> bool:
    if step.op is not ADD:
        return False
    out = values[step.out]
    alike = all(values[n][:2] == out[:2] and values[n].kind != "constant" for n in step.args)
    return alike and out.number is None and out.dtype.kind in "fc"


def without_totals(program: Program) -> Program:
    """Totals as sums of two values each, in the bodies of loops too."""
    if not any(step.op in (TOTAL, LOOP) for step in program.instructions):
        return program
    new = Rewriting(program)
    for step in program.instructions:
        step = step.reading(new.same)
        if step.op is LOOP:
            loop = step.params["loop"]
            step = step._replace(params={"loop": replace(loop, body=without_totals(loop.body), structure=None)})
        if step.op is not TOTAL:
            new.steps.append(step)
            continue
        total, *others = step.args
        for n in others:
            total = new.step(ADD, (total, n), new.values[step.out])
        new.same[step.out] = total
    return new.result()
