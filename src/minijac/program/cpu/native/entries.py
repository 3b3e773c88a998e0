"""Entries: values of a generated loop, many at once, on which expressions are run to be written as LLVM's instructions.

Arithmetic is IEEE's, operation by operation: no flag lets LLVM assume that numbers are finite, or contract a product
with a sum; where a fused product is meant it is called by name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Entry", "Format", "Writer", "apply"]


class Format(NamedTuple):
    """What a type of floating-point numbers looks like."""

    name: str
    """LLVM's name."""
    char: str
    """NumPy's."""
    digits: int
    """Bits of the fraction."""
    bias: int
    """Of the exponent."""
    bits: int

    @property
    def magic(self) -> float:
        """What added to a number leaves it as a whole one in the lowest bits, and taken away again rounded to one."""
        return 1.5 * 2.0**self.digits


FORMATS = {
    np.dtype(np.float32): Format("float", "f", 23, 127, 32),
    np.dtype(np.float64): Format("double", "d", 52, 1023, 64),
}
_OPERATIONS = {
    "F": {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"},
    "I": {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor", "<<": "shl", ">>": "lshr"},
    "B": {"&": "and", "|": "or", "^": "xor"},
}
_COMPARISONS = {"<": "olt", "<=": "ole", ">": "ogt", ">=": "oge", "==": "oeq", "!=": "une"}


def _operator(sign: str, turned: bool = False) -> Callable[[Entry, Any], Entry]:
    return lambda self, other: self._with(sign, other, turned)


def _comparison(sign: str) -> Callable[[Entry, Any], Entry]:
    return lambda self, other: self._than(sign, other)


class Entry:
    """One value for each of a vector's places: floating-point (F), whole (I), or true or false (B)."""

    __slots__ = ("depth", "kind", "text", "writer")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, writer: Writer, kind: str, text: str, depth: int) -> None:
        self.writer, self.kind, self.text, self.depth = writer, kind, text, depth

    def _with(self, operation: str, other: Any, turned: bool = False) -> Entry:
        a, b = self, self.writer.entry(other, self.kind)
        a, b = (b, a) if turned else (a, b)
        name = _OPERATIONS[self.kind][operation]
        return self.writer.instruction(f"{name} {{{self.kind}}} {a.text}, {b.text}", self.kind, (a, b))

    def _than(self, comparison: str, other: Any) -> Entry:
        b = self.writer.entry(other, "F")
        return self.writer.instruction(f"fcmp {_COMPARISONS[comparison]} {{F}} {self.text}, {b.text}", "B", (self, b))

    __add__, __radd__ = _operator("+"), _operator("+", True)
    __sub__, __rsub__ = _operator("-"), _operator("-", True)
    __mul__, __rmul__ = _operator("*"), _operator("*", True)
    __truediv__, __rtruediv__ = _operator("/"), _operator("/", True)
    __and__, __or__, __xor__ = _operator("&"), _operator("|"), _operator("^")
    __lshift__, __rshift__ = _operator("<<"), _operator(">>")
    __lt__, __le__, __gt__, __ge__ = _comparison("<"), _comparison("<="), _comparison(">"), _comparison(">=")
    __eq__, __ne__ = _comparison("=="), _comparison("!=")  # type: ignore[assignment]

    def __invert__(self) -> Entry:
        return self._with("^", True)

    def __neg__(self) -> Entry:
        return self.writer.instruction(f"fneg {{F}} {self.text}", "F", (self,))

    def __abs__(self) -> Entry:
        return self.writer.intrinsic("fabs", self)


class Writer:
    """Instructions of a loop's body, each at the depth of the innermost axis that it depends on, and none twice."""

    def __init__(self, dtype: Any, lanes: int, depths: int, beyond: Callable[[str, Entry, Entry], Entry]) -> None:
        self.beyond = beyond
        """What a function's result becomes, given its name and argument, where that may be too large."""
        self.format = FORMATS[np.dtype(dtype)]
        self.lanes = lanes
        whole = f"i{self.format.bits}"
        self.types = {"F": f"<{lanes} x {self.format.name}>", "I": f"<{lanes} x {whole}>", "B": f"<{lanes} x i1>"}
        self._suffix = {"F": f"v{lanes}f{self.format.bits}", "I": f"v{lanes}{whole}"}
        self.single = {"F": self.format.name, "I": whole, "B": "i1"}
        self.lines: list[list[str]] = [[] for _ in range(depths + 1)]
        self.declared: set[str] = set()
        self._known: dict[str, Entry] = {}

    def constant(self, value: Any, kind: str) -> Entry:
        """A number, in every place."""
        if kind == "F":
            rounded = float(np.dtype(self.format.char).type(value))
            text = f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
        else:
            text = str(value).lower() if kind == "B" else str(int(value))
        return Entry(self, kind, f"<{', '.join([f'{self.single[kind]} {text}'] * self.lanes)}>", 0)

    def entry(self, x: Any, kind: str) -> Entry:
        return x if isinstance(x, Entry) else self.constant(x, kind)

    def instruction(self, text: str, kind: str, operands: Sequence[Entry]) -> Entry:
        """One instruction: written once, where all that it needs is known."""
        text = text.format(**self.types)
        known = self._known.get(text)
        if known is None:
            depth = max((x.depth for x in operands), default=0)
            known = self._known[text] = Entry(self, kind, self.name(depth), depth)
            self.lines[depth].append(f"{known.text} = {text}")
        return known

    def name(self, depth: int) -> str:
        """A new name, which tells the depth."""
        return f"%d{depth}_{sum(map(len, self.lines))}"

    def intrinsic(self, name: str, *operands: Entry) -> Entry:
        """LLVM's function of that name, of floating-point numbers."""
        full = f"@llvm.{name}.{self._suffix['F']}"
        self.declared.add(f"declare {self.types['F']} {full}({', '.join([self.types['F']] * len(operands))})")
        given = ", ".join(f"{{F}} {x.text}" for x in operands)
        return self.instruction(f"call {{F}} {full}({given})", "F", operands)

    def select(self, condition: Entry, a: Any, b: Any) -> Entry:
        kind = next((x.kind for x in (a, b) if isinstance(x, Entry)), "F")
        a, b = self.entry(a, kind), self.entry(b, kind)
        text = f"select {{B}} {condition.text}, {{{kind}}} {a.text}, {{{kind}}} {b.text}"
        return self.instruction(text, kind, (condition, a, b))

    def cast(self, x: Entry, kind: str) -> Entry:
        """The same bits as another kind of number."""
        return self.instruction(f"bitcast {{{x.kind}}} {x.text} to {{{kind}}}", kind, (x,))


def apply(writer: Writer, spelling: str, operands: Sequence[Entry], functions: dict[str, Any]) -> Entry:
    """What an operation's spelling (`ops/scalars.py`) computes of entries."""
    names = [f"x{k}" for k in range(len(operands))]
    known = {**functions, "T": lambda value: writer.constant(value, "F"), **dict(zip(names, operands, strict=True))}
    result = eval(spelling.format(*names), {"__builtins__": {}}, known)
    return result
