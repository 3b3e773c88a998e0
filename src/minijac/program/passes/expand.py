"""Operations as simpler ones, which kernels or loops exist for, recorded once when a program is bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ops.families import Elementwise
from ...tape.op import Op
from ..ir import Instruction, Program, Value
from ..record import Recorder, Symbol, SymbolArray

__all__ = ["expanded"]


def expanded(
    program: Program, empty: Callable[..., Any], simpler: Callable[[Op], Callable[..., Any] | None]
) -> Program:
    """The program in simpler operations.

    Args:
        empty: ``empty(shape, dtype)`` makes the arrays that the recording computes with.
        simpler: An operation in simpler ones, or None.
    """
    expansion = _Expansion(program, empty, simpler)
    for step in program.instructions:
        expansion.add(step)
    expansion.recorder.close()
    return expansion.program(program)


class _Expansion:
    def __init__(self, program: Program, empty: Callable[..., Any], simpler: Callable[[Op], Any]) -> None:
        self.simpler = simpler
        self.recorder = Recorder()
        self.recorder.values = list(program.values)
        self.empty = empty
        self.same: dict[int, int] = {}

    def program(self, program: Program) -> Program:
        outputs = tuple(self.same.get(n, n) for n in program.outputs)
        instructions = tuple(self.recorder.instructions)
        return Program(tuple(self.recorder.values), instructions, program.inputs, outputs).verify()

    def add(self, step: Instruction) -> None:
        """Keep a step, or in its place what it is made of, in simpler operations in turn."""
        step = step.reading(self.same)
        recorder, start = self.recorder, len(self.recorder.instructions)
        found = self._recorded(step)
        made = recorder.instructions[start:]
        del recorder.instructions[start:]
        if found is None or any(each.op is step.op and each.params == step.params for each in made):
            recorder.instructions.append(step)
            return
        for each in made:
            self.add(each)
        self.same[step.out] = self.same.get(found.index, found.index)

    def _recorded(self, step: Instruction) -> Symbol | None:
        values, out = [self.recorder.values[n] for n in step.args], self.recorder.values[step.out]
        simpler = self.simpler(step.op)
        numbers = isinstance(step.op, Elementwise) and not out.shape and all(v.number for v in values)
        if simpler is None or numbers or any(0 in v.shape for v in values):
            return None
        operands = [self._operand(n, value) for n, value in zip(step.args, values, strict=True)]
        captured = len(self.recorder.arrays)
        try:
            with np.errstate(all="ignore"):
                found = simpler(*operands, **step.params)
        except Exception:  # what it asks of arrays symbols do not have: it is called as it is
            return None
        if not isinstance(found, Symbol) or len(self.recorder.arrays) > captured:  # an array of its own may be another
            return None
        return found if found.shape == out.shape and found.dtype == out.dtype else None

    def _operand(self, n: int, value: Value) -> Any:
        if value.number is not None:
            return value.content if value.kind == "constant" else Symbol(self.recorder, n, value.number(1))
        return (SymbolArray if value.shape else Symbol)(self.recorder, n, self.empty(value.shape, value.dtype))
