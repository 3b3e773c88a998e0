"""What an operation of a run reads, and the function of one position that a run becomes in a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..ir import Instruction, Value
from .access import Access
from .math import CTYPE, convert, expression, literal

__all__ = ["Body", "Computed", "Constant", "Load", "Operand", "Placed", "Point", "Register", "Taken", "reads_of"]


class Operand:
    """Something that an operation of a run reads."""

    @property
    def accesses(self) -> tuple[Access, ...]:
        """What is read of memory."""
        return ()

    def read(self, body: Body, dtype: Any) -> tuple[str, Any]:
        """C for the operand in a body, and its dtype, which is `dtype` where it may be any."""
        raise NotImplementedError


@dataclass(frozen=True)
class Register(Operand):
    """A value that the same run has computed for the same position."""

    n: int

    def read(self, body: Body, dtype: Any) -> tuple[str, Any]:
        return body.name(self.n), body.values[self.n].dtype


@dataclass(frozen=True)
class Constant(Operand):
    """A number that is the same in every call."""

    value: Any

    def read(self, body: Body, dtype: Any) -> tuple[str, Any]:
        return literal(self.value, dtype), dtype


@dataclass(frozen=True)
class Load(Operand):
    """Memory of a value, at the same position or one that belongs to it."""

    access: Access

    @property
    def accesses(self) -> tuple[Access, ...]:
        return (self.access,)

    def read(self, body: Body, dtype: Any) -> tuple[str, Any]:
        n = self.access.root
        if body.reads_directly:
            return body.entry(self.access), body.values[n].dtype
        body.pointer(n)
        return body.loads.setdefault(self.access, f"x{len(body.loads)}"), body.values[n].dtype


@dataclass(frozen=True)
class Placed(Operand):
    """Entries of one or several values among a background; at most one of the parts names each position."""

    parts: tuple[Access, ...]
    background: Any

    @property
    def accesses(self) -> tuple[Access, ...]:
        return self.parts

    def read(self, body: Body, dtype: Any) -> tuple[str, Any]:
        text = literal(self.background, dtype)
        for access in reversed(self.parts):
            entry = convert(body.entry(access), body.values[access.root].dtype, dtype)
            text = f"({access.condition('i')} ? {entry} : {text})"
        return text, dtype


@dataclass(frozen=True)
class Taken(Operand):
    """Entries picked by positions: `positions` gives a number below `size`, which counts in steps of `stride`."""

    access: Access
    positions: Access
    stride: int
    size: int

    @property
    def accesses(self) -> tuple[Access, ...]:
        return self.access, self.positions

    def read(self, body: Body, dtype: Any) -> tuple[str, Any]:
        kind, n = body.type(self.positions.root), self.positions.root
        name = body.function(
            "position", "long long", f", const {kind}* p",
            [f"long long at = (long long)p[{self.positions.place('i')}] % {self.size};",
             f"return at < 0 ? at + {self.size} : at;"],
        )  # fmt: skip
        entry = body.entry(self.access, f" + {name}(i, {body.direct(n)}) * {self.stride}")
        return entry, body.values[self.access.root].dtype


@dataclass(frozen=True)
class Computed(Operand):
    """What a few operations make at another position, computed again where it is wanted."""

    points: tuple[Point, ...]
    access: Access

    @property
    def accesses(self) -> tuple[Access, ...]:
        return tuple(each for point in self.points for x in point.operands for each in x.accesses)

    def read(self, body: Body, dtype: Any) -> tuple[str, Any]:
        """A function of the other position, which reads memory by itself."""
        n = self.points[-1].out
        before = body.pointers, body.reads_directly
        body.pointers, body.reads_directly = set(), True
        lines = [*map(body.line, self.points), f"return {body.name(n)};"]
        inner = sorted(body.pointers)
        body.pointers, body.reads_directly = before[0] | body.pointers, before[1]
        parameters = "".join(f", const {body.type(m)}* {body.reads[m]}" for m in inner)
        name = body.function("value", body.type(n), parameters, lines)
        given = "".join(f", {body.reads[m]}" for m in inner)
        return f"{name}({self.access.place('i')}{given})", body.values[n].dtype


class Point(NamedTuple):
    """One operation of a run, and what it reads; without an instruction the entry is stored as it is."""

    out: int
    operands: tuple[Operand, ...]
    step: Instruction | None = None


def reads_of(points: Sequence[Point]) -> tuple[int, ...]:
    """The values whose memory some operations read."""
    return tuple(dict.fromkeys(each.root for point in points for x in point.operands for each in x.accesses))


def _extent(access: Access) -> int:
    """More than the largest position that an access may compute."""
    return access.offset + sum(digit.size * (abs(digit.stride) + 1) for digit in access.digits)


class Body:
    """The function that computes a run at position `i`, and what it has to be given."""

    def __init__(self, points: Sequence[Point], stored: Sequence[int], values: Sequence[Value], n: int) -> None:
        self.values = values
        reach = max([n, *(_extent(each) for point in points for x in point.operands for each in x.accesses)])
        self.index = "int" if reach < 2**31 - 2**12 else "long long"
        self.reads: dict[int, str] = {}  # the value whose memory is read, to the name of its pointer
        self.loads: dict[Access, str] = {}
        self.called: set[tuple[str, str]] = set()
        self.pointers: set[int] = set()  # of those, the ones that the body itself reads through
        self.reads_directly = False
        self._names: dict[int, str] = {}
        self._inner: list[str] = []  # functions that the body calls
        lines = [*map(self.line, points), *(f"*y{k} = {self.name(n)};" for k, n in enumerate(stored))]
        parameters = [f"{self.index} i"]
        parameters += [f"{self.type(access.root)} {name}" for access, name in self.loads.items()]
        parameters += [f"const {self.type(n)}* {self.reads[n]}" for n in sorted(self.pointers)]
        parameters += [f"{self.type(n)}* y{k}" for k, n in enumerate(stored)]
        text = "\n  ".join(lines)
        self.text = "".join(self._inner) + f"DEVICE void @_at({', '.join(parameters)}) {{\n  {text}\n}}\n"

    def call(self, i: str, loads: Sequence[str], stores: Sequence[str]) -> str:
        pointers = [self.reads[n] for n in sorted(self.pointers)]
        return f"@_at({', '.join([i, *loads, *pointers, *stores])});"

    def loaded(self, i: str) -> list[str]:
        """Each load at a position, as C."""
        return [f"{self.reads[access.root]}[{access.place(i)}]" for access in self.loads]

    def parameters(self, writes: Sequence[int]) -> str:
        reads = [f"const {self.type(n)}* __restrict__ {name}" for n, name in self.reads.items()]
        return ", ".join([*reads, *(f"{self.type(n)}* __restrict__ q{k}" for k, n in enumerate(writes))])

    def type(self, n: int) -> str:
        return CTYPE[self.values[n].dtype.name]

    def name(self, n: int) -> str:
        """The variable of a value: counted anew in each body, so that equal bodies are the same text."""
        return self._names.setdefault(n, f"v{len(self._names)}")

    def pointer(self, n: int) -> str:
        return self.reads.setdefault(n, f"p{len(self.reads)}")

    def direct(self, n: int) -> str:
        """The pointer to memory that the body itself reads."""
        self.pointers.add(n)
        return self.pointer(n)

    def entry(self, access: Access, more: str = "") -> str:
        return f"{self.direct(access.root)}[{access.place('i')}{more}]"

    def function(self, of: str, kind: str, parameters: str, lines: Sequence[str]) -> str:
        """The name of a function of a position that the body calls."""
        name = f"@_{of}{len(self._inner)}"
        text = "\n  ".join(lines)
        self._inner.append(f"DEVICE {kind} {name}({self.index} i{parameters}) {{\n  {text}\n}}\n")
        return name

    def line(self, point: Point) -> str:
        """One operation in C."""
        out, operands = self.values[point.out].dtype, point.operands
        if point.step is None:
            text = convert(*operands[0].read(self, out), out)
        else:
            text, called = expression(point.step, self.values, lambda k, dtype: operands[k].read(self, dtype))
            self.called |= called
        return f"{self.type(point.out)} {self.name(point.out)} = {text};"
