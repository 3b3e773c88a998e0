"""Recording: a trace that keeps every array operation, with shapes and dtypes, and knows what was captured."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import TraceError
from ..lines import user_line
from ..tape import Op, Trace, Traced

__all__ = ["Instruction", "Program", "Recorder", "Symbol", "Value"]


class Value(NamedTuple):
    """What is known of a value before it is computed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str
    """``input``, ``captured``, ``constant`` or ``computed``."""
    content: Any = None
    """The array or number itself, of a captured array or constant."""


class Instruction(NamedTuple):
    """One array operation: the values that it reads, and the one that it makes."""

    op: Op
    args: tuple[int, ...]
    params: dict[str, Any]
    out: int


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

    __repr__ = __str__

    def _used(self, n: int) -> bool:
        return n in self.outputs or any(n in step.args for step in self.instructions)

    def _name(self, n: int) -> str:
        value = self.values[n]
        return f"{value.content!r}" if value.kind == "constant" and not value.shape else f"%{n}"

    def _typed(self, n: int) -> str:
        value = self.values[n]
        return f"{self._name(n)}: {value.dtype}{list(value.shape)}"

    def verify(self) -> Program:
        """Check that every value is made once, before it is read. Raises RuntimeError where not (a fault of minijac)."""
        known = {n for n, value in enumerate(self.values) if value.kind != "computed"}
        for step in self.instructions:
            if not known.issuperset(step.args) or step.out in known:
                raise RuntimeError(f"minijac: invalid program at {step.op.name} -> %{step.out}\n{self}")
            known.add(step.out)
        if not known.issuperset(self.outputs):
            raise RuntimeError(f"minijac: invalid program: an output is never made\n{self}")
        return self


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None or shape == () else f"<{value.dtype}{list(shape)}>"


class Symbol(Traced):
    """A value of a program that is being recorded: it has a shape and a dtype, and its numbers may not be looked at."""

    __slots__ = ()
    recorded = True

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.value)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype if hasattr(self.value, "dtype") else np.result_type(self.value)

    def _hidden(self, what: str) -> Any:
        raise TraceError(
            f"{what} at {user_line()}: got a value of shape {self.shape} of a function under minijac.compile, whose "
            "numbers differ from call to call. Expected a program that does not depend on them: write `if` on values "
            "as np.where, or leave this function uncompiled; pass a bool or string where the program should depend "
            "on an argument."
        )

    def __bool__(self) -> bool:
        return self._hidden("a decision (if, while, and, or)")  # type: ignore[no-any-return]

    def _refuse(self, what: str) -> Any:
        return self._hidden(what)

    def __repr__(self) -> str:
        return f"Symbol({self.dtype}{list(self.shape)})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)


class Recorder(Trace):
    """The trace of a program. Other traces inside it tell it of the arrays that they capture."""

    __slots__ = ("_captured", "instructions", "values")

    def __init__(self) -> None:
        super().__init__()
        self.program = self
        self.values: list[Value] = []
        self.instructions: list[Instruction] = []
        self._captured: dict[int, Symbol] = {}

    def _symbol(self, value: Any, kind: str, content: Any = None) -> Symbol:
        dtype = value.dtype if hasattr(value, "dtype") else np.result_type(value)
        self.values.append(Value(np.shape(value), dtype, kind, content))
        return Symbol(self, len(self.values) - 1, value)

    def input(self, value: Any) -> Symbol:
        return self._symbol(value, "input")

    def captured(self, array: Any) -> Symbol:
        """A captured array's symbol: the array itself is read at replay, so that writes to it are seen."""
        symbol = self._captured.get(id(array))
        if symbol is None:
            symbol = self._captured[id(array)] = self._symbol(array, "captured", array)
        return symbol

    def constant(self, value: Any) -> int:
        """The number of a plain value that is the same in every call."""
        self.values.append(Value(np.shape(value), np.result_type(value), "constant", value))
        return len(self.values) - 1

    def record(self, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Symbol:
        """Compute an operation once, for its result's shape and dtype, and keep it as an instruction."""
        for value in params.values():
            if isinstance(value, Traced):
                value._refuse(f"{op.name} with a parameter that depends on values,")
        out = op.value(*[arg.value if isinstance(arg, Symbol) else arg for arg in args], **params)
        numbers = tuple([arg.index if isinstance(arg, Symbol) else self.constant(arg) for arg in args])
        symbol = self._symbol(out, "computed")
        self.instructions.append(Instruction(op, numbers, params, symbol.index))
        return symbol
