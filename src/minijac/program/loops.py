"""Loops in programs: a body that is carried out many times is one instruction, whose results are picked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..ops.multilinear import matmul
from ..ops.structural import concatenate, getitem_basic, reshape, transpose
from ..tape.op import Op
from .ir import PYTHON_NUMBERS, Instruction, Program, Value

__all__ = ["LOOP", "PICK", "SEVERAL", "Loop", "Rewriting", "compacted", "unrolled"]


def _as_a_whole(*operands: Any, **params: Any) -> Any:
    raise RuntimeError("minijac: a loop is carried out by an executor, or unrolled")


LOOP = Op("loop", _as_a_whole)
"""A `Loop`, on its initial carries, the arrays of which each step is given a row, and what is the same in all steps."""
PICK = Op("pick", _as_a_whole)
"""One of a loop's results: the last of each carry, then of what each step makes the last, or all as the rows of one."""
SEVERAL = Value((), np.dtype(object), "computed", None, tuple)
"""What is known of the value of a loop, from which results are picked."""


@dataclass(frozen=True, eq=False, repr=False)
class Loop:
    """A program that is carried out `length` times."""

    body: Program
    """Of carries, rows and what is the same in all steps, in this order; it makes new carries, and what is kept."""
    length: int
    carries: int = 0
    rows: int = 0
    """Inputs that are rows of stacked arrays; of an array of Python's numbers, a number."""
    stacked: tuple[bool, ...] = ()
    """Of what it makes beside the carries, whether all steps' are results, stacked; or the last."""
    structure: Any = None
    """What it is, once that was asked for: equal for two that do the same."""

    def result(self, k: int) -> Value:
        """What is known of a result."""
        value = self.body.values[self.body.outputs[k]]
        own = k >= self.carries and self.stacked[k - self.carries]
        return Value((self.length, *value.shape) if own else value.shape, value.dtype, "computed")

    def __repr__(self) -> str:
        return f"{self.length} times:\n  " + str(self.body).replace("\n", "\n  ") + "\n "


class Rewriting:
    """Values and instructions of a program that is being written from another one."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values = list(program.values)
        self.steps: list[Instruction] = []
        self.same: dict[int, int] = {}
        """What stands in place of a value."""
        self._constants: dict[Any, int] = {}

    def constant(self, array: Any) -> int:
        """An array of numbers that are known; the same value for equal ones."""
        key = array.dtype, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.added(Value(array.shape, array.dtype, "constant", array))
        return self._constants[key]

    def added(self, value: Value) -> int:
        self.values.append(value)
        return len(self.values) - 1

    def step(self, op: Op, args: Sequence[int], value: Value, **params: Any) -> int:
        """Add an instruction that makes a new value."""
        self.steps.append(Instruction(op, tuple(args), params, self.added(value)))
        return len(self.values) - 1

    def reshaped(self, n: int, shape: Sequence[int]) -> int:
        """The value in a shape; itself where it has that."""
        value = Value(tuple(shape), self.values[n].dtype, "computed")
        return n if value.shape == self.values[n].shape else self.step(reshape, (n,), value, shape=value.shape)

    def transposed(self, n: int, axes: Sequence[int]) -> int:
        """The value with its axes in an order; itself where they are."""
        value = self.values[n]
        made = Value(tuple([value.shape[axis] for axis in axes]), value.dtype, "computed")
        return n if tuple(axes) == tuple(range(len(axes))) else self.step(transpose, (n,), made, axes=tuple(axes))

    def product(self, a: int, b: int) -> int:
        """The product of two stacks of matrices, of which one may be a single matrix."""
        (x, dtype), (y, other) = self.values[a][:2], self.values[b][:2]
        shape = (*max(x[:-2], y[:-2], key=len), x[-2], y[-1])
        return self.step(matmul, (a, b), Value(shape, np.result_type(dtype, other), "computed"))

    def loop(self, loop: Loop, args: Sequence[int]) -> list[int]:
        """Add a loop, and its results."""
        several = self.step(LOOP, args, SEVERAL, loop=loop)
        return [self.step(PICK, (several,), loop.result(k), index=k) for k in range(len(loop.body.outputs))]

    def row(self, stacked: int, t: int, value: Value) -> int:
        """One row of a stacked array, of which `value` is known."""
        if value.number in PYTHON_NUMBERS:
            content = value.number(self.values[stacked].content[t])
            return self.added(value._replace(kind="constant", content=content))
        index = (t, *(slice(None) for _ in value.shape))
        return self.step(getitem_basic, (stacked,), value._replace(kind="computed", content=None), index=index)

    def stack(self, rows: Sequence[int]) -> int:
        """Rows as one array."""
        value = self.values[rows[0]]
        parts = [self.reshaped(n, (1, *value.shape)) for n in rows]
        whole = Value((len(rows), *value.shape), value.dtype, "computed")
        return self.step(concatenate, parts, whole, axis=0)

    def copied(self, body: Program, inputs: Sequence[int]) -> list[int]:
        """Add the steps of a program on these values; what its outputs are."""
        number = dict(zip(body.inputs, inputs, strict=True))
        for step in body.instructions:
            for n in step.args:
                if n not in number:
                    number[n] = self.added(body.values[n])
            number[step.out] = self.step(step.op, [number[n] for n in step.args], body.values[step.out], **step.params)
        return [number[n] if n in number else self.added(body.values[n]) for n in body.outputs]

    def spread(self, loop: Loop, args: Sequence[int]) -> list[int]:
        """Add the steps of a loop one after the other; its results."""
        carries, xs = list(args[: loop.carries]), args[loop.carries : loop.carries + loop.rows]
        columns: list[list[int]] = [[] for _ in loop.stacked]
        inputs = [loop.body.values[n] for n in loop.body.inputs[loop.carries :]]
        for t in range(loop.length):
            rows = [self.row(n, t, value) for n, value in zip(xs, inputs, strict=False)]
            made = self.copied(loop.body, (*carries, *rows, *args[loop.carries + loop.rows :]))
            carries = made[: loop.carries]
            for column, n in zip(columns, made[loop.carries :], strict=True):
                column.append(n)
        ys = [self.stack(column) if all_ else column[-1] for column, all_ in zip(columns, loop.stacked, strict=True)]
        return [*carries, *ys]

    def result(self) -> Program:
        outputs = tuple([self.same.get(n, n) for n in self.program.outputs])
        return Program(tuple(self.values), tuple(self.steps), self.program.inputs, outputs)


def compacted(program: Program) -> Program:
    """The program without the values that nothing reads, numbered anew."""
    new = Rewriting(program._replace(values=()))
    steps, number = program.instructions, dict[int, int]()
    for n in (*program.inputs, *(n for step in steps for n in (*step.args, step.out)), *program.outputs):
        if n not in number:
            number[n] = new.added(program.values[n])
    renumbered = tuple([
        Instruction(op, tuple([number[n] for n in args]), params, number[out]) for op, args, params, out in steps
    ])  # fmt: skip
    inputs, outputs = (tuple([number[n] for n in ends]) for ends in (program.inputs, program.outputs))
    return Program(tuple(new.values), renumbered, inputs, outputs)


def unrolled(program: Program, which: Callable[[Loop], bool] = lambda loop: True) -> Program:
    """The steps of loops one after the other, in place of the loops."""
    if not any(step.op is LOOP for step in program.instructions):
        return program
    new = Rewriting(program)
    results: dict[int, list[int]] = {}
    for step in program.instructions:
        step = step.reading(new.same)
        if step.op is LOOP:
            loop = step.params["loop"]
            flat = replace(loop, body=unrolled(loop.body, which), structure=None)
            if which(loop):
                results[step.out] = new.spread(flat, step.args)
            else:
                new.steps.append(step._replace(params={"loop": flat}))
        elif step.op is PICK and step.args[0] in results:
            new.same[step.out] = results[step.args[0]][step.params["index"]]
        else:
            new.steps.append(step)
    return new.result()
