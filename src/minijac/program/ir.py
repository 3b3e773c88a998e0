"""Programs: numbered values, the instructions that make them, and what must hold of both."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..ops.families import Elementwise
from ..ops.multilinear import matmul
from ..ops.structural import reshape, transpose
from ..tape.op import Op
from ..tape.trace import apply

PYTHON_NUMBERS = (bool, int, float, complex)

__all__ = [
    "PYTHON_NUMBERS",
    "Instruction",
    "Program",
    "Value",
    "broadcast",
    "carried_out",
    "interpreted",
    "without_dead_code",
]


class Value(NamedTuple):
    """What is known of a value before it is computed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str
    """``input``, ``captured``, ``constant`` or ``computed``."""
    content: Any = None
    """The array or number itself, of a captured array or constant."""
    number: type | None = None
    """The type where it is a number and no array: Python's (which promote weakly) or NumPy's."""

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def weak(self) -> bool:
        """Whether it is a constant Python number, which takes the type of the array that it meets."""
        return self.kind == "constant" and self.number in (int, float)


class Instruction(NamedTuple):
    """One array operation: the values that it reads, and the one that it makes."""

    op: Op
    args: tuple[int, ...]
    params: dict[str, Any]
    out: int

    @property
    def is_ufunc(self) -> bool:
        """Whether it is one NumPy ufunc that reads and writes each entry by itself."""
        value: Any = self.op.value
        plain = isinstance(value, np.ufunc) and value.signature is None and value.nout == 1
        return plain and value.nin == len(self.args) and not self.params

    def reading(self, stands: Mapping[int, int]) -> Instruction:
        """The same with the values that stand in place of others as operands; itself where none does."""
        if stands.keys().isdisjoint(self.args):
            return self
        args = tuple([stands.get(n, n) for n in self.args])
        return self if args == self.args else Instruction(self.op, args, self.params, self.out)

    @property
    def overwritable(self) -> tuple[int, ...]:
        """Operands in whose array the result may be written."""
        if self.is_ufunc:
            return self.args
        if self.op.overwrites is None or self.args.count(self.args[self.op.overwrites]) > 1:
            return ()
        return (self.args[self.op.overwrites],)


class Program(NamedTuple):
    """A flat list of instructions over numbered values. ``print`` shows it."""

    values: tuple[Value, ...]
    instructions: tuple[Instruction, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def __str__(self) -> str:
        lines = [f"inputs: {', '.join(map(self._typed, self.inputs)) or 'none'}"]
        for n, value in enumerate(self.values):
            if value.kind == "captured" and self._used(n):
                lines.append(f"captured: {self._typed(n)}")
        for step in self.instructions:
            params = "".join(f", {key}={_short(value)}" for key, value in step.params.items())
            args = ", ".join(self._name(n) for n in step.args)
            lines.append(f"{self._typed(step.out)} = {step.op.name}({args}{params})")
        lines.append(f"outputs: {', '.join(self._name(n) for n in self.outputs) or 'none'}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _used(self, n: int) -> bool:
        return n in self.outputs or any(n in step.args for step in self.instructions)

    def _name(self, n: int) -> str:
        value = self.values[n]
        return f"{value.content!r}" if value.kind == "constant" and not value.shape else f"%{n}"

    def _typed(self, n: int) -> str:
        value = self.values[n]
        return f"{self._name(n)}: {value.dtype}{list(value.shape)}"

    def does(self, other: Program) -> bool:
        """Whether it has the very instructions and outputs of another one."""
        a, b = self.instructions, other.instructions
        return len(a) == len(b) and self.outputs == other.outputs and all(map(operator.is_, a, b))

    def verify(self, before: Program | None = None) -> Program:
        """Check that every value is made once, before it is read, and in the shape that its operands give it.

        Shapes of what stands in the verified program `before` are not looked at again. RuntimeError where something is
        wrong: a fault of minijac.
        """
        looked_at = set(map(id, before.instructions)) if before is not None and self._extends(before) else set()
        known = {n for n, value in enumerate(self.values) if value.kind != "computed"}
        for step in self.instructions:
            _, args, _, out = step
            if out in known or not known.issuperset(args) or not (id(step) in looked_at or self._fits(step)):
                raise RuntimeError(f"minijac: invalid program at {step.op.name} -> %{out}\n{self}")
            known.add(out)
        if not known.issuperset(self.outputs):
            raise RuntimeError(f"minijac: invalid program: an output is never made\n{self}")
        return self

    def _extends(self, before: Program) -> bool:
        """Whether the values of another program are the first of this one."""
        return self.values is before.values or all(a is b for a, b in zip(before.values, self.values, strict=False))

    def _fits(self, step: Instruction) -> bool:
        """Whether a step makes the shape that its value has: of the operations that passes change or move."""
        out = self.values[step.out].shape
        shapes = [self.values[n].shape for n in step.args]
        if isinstance(step.op, Elementwise):
            return shapes.count(out) == len(shapes) or out == broadcast(*shapes)
        if step.op is matmul and min(map(len, shapes)) > 1:
            a, b = shapes
            lead = broadcast(a[:-2], b[:-2])
            return lead is not None and a[-1] == b[-2] and out == (*lead, a[-2], b[-1])
        if step.op is transpose:
            return out == tuple([shapes[0][axis] for axis in step.params["axes"]])
        return step.op is not reshape or prod(out) == prod(shapes[0])


@lru_cache(4096)
def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that arrays of these shapes are broadcast to, if they can be."""
    with suppress(ValueError):
        return np.broadcast_shapes(*shapes)
    return None


def interpreted(program: Program, arguments: Sequence[Any], apply: Callable[..., Any] = apply) -> list[Any]:
    """The results of a program, operation by operation: on values that traces follow, or as `apply` has it."""
    values: list[Any] = [value.content for value in program.values]
    for n, argument in zip(program.inputs, arguments, strict=True):
        values[n] = argument
    for step in program.instructions:
        values[step.out] = apply(step.op, tuple([values[n] for n in step.args]), step.params)
    return [values[n] for n in program.outputs]


def carried_out(op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """An operation on plain arrays, as when it was recorded."""
    if not op.takes_numbers(len(args)):
        args = tuple([np.asarray(x) if type(x) in PYTHON_NUMBERS else x for x in args])
    return op.value(*args, **params)


def without_dead_code(program: Program) -> Program:
    """Only what some output needs."""
    needed = set(program.outputs)
    kept: list[Instruction] = []
    for step in reversed(program.instructions):
        if step.out in needed:
            kept.append(step)
            needed.update(step.args)
    return program._replace(instructions=tuple(reversed(kept)))


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None or shape == () else f"<{value.dtype}{list(shape)}>"
