"""Loops: elementwise steps over strided arrays, as the text of one function that passes over them once.

The innermost axis goes by vectors, the last of which ends where the axis does; what does not depend on an axis is read
and computed outside of its loop. Sizes and strides are given in a table, so that one function serves all of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .entries import Entry, Writer, apply
from .functions import FUNCTIONS, LIMITS
from .llvm import library_function, vector_bytes

__all__ = ["Loop", "Operand", "lanes_of", "text_of"]

OBJECT = object.__basicsize__
"""Where in an array's object the address of its data stands: behind what every object begins with."""


LONG = 50
"""Steps from which on a loop goes by one register of the CPU's at a time, not two: those do not hold what so many steps
make, and to compile it for two takes twice as long."""


class Operand(NamedTuple):
    """What a loop's text knows of an array."""

    char: str
    """NumPy's name of its dtype: float32 (f), float64 (d) or bool (?)."""
    axes: str
    """For each axis of the loop how the array goes along it: not at all (0), side by side (1), with a stride (s)."""
    given: bool
    """Whether it is another one in every call, and given as an object."""

    @property
    def depth(self) -> int:
        """The number of loops that an entry of it depends on."""
        return max((k + 1 for k, axis in enumerate(self.axes) if axis != "0"), default=0)


_NAMES = {"f": ("float", 4), "d": ("double", 8), "?": ("i8", 1)}


class Loop(NamedTuple):
    """All that a loop's text depends on."""

    dtype: np.dtype[Any]
    steps: tuple[tuple[str, tuple[int, ...], int], ...]
    """Spelling, operands and result of each, by numbers: those of `operands` first."""
    operands: tuple[Operand, ...]
    reads: int
    """How many operands are read; the others are results."""
    lanes: int
    """Entries of a vector."""
    masked: bool
    """Whether vectors go under a mask; else the innermost axis has as many entries at least."""
    exact: bool = False
    """Whether arguments beyond what a function takes go to the C library, which is slow."""


class _Text:
    """The text of a loop as it is written."""

    def __init__(self, loop: Loop) -> None:
        self.operands, self.lanes, self.masked, self.exact = loop.operands, loop.lanes, loop.masked, loop.exact
        self.depths = len(loop.operands[0].axes)
        self.writer = Writer(loop.dtype, loop.lanes, self.depths, self._beyond)
        self.setup: list[list[str]] = [[] for _ in range(self.depths + 1)]
        self.loads: list[tuple[int, Entry]] = []
        self.stores: list[tuple[int, Entry]] = []
        self._exits = 0
        self._gathers: set[str] = set()

    # -- the body --
    def read(self, k: int) -> Entry:
        """An operand's entry: of every place, or the same in all of them where it does not go along the last axis."""
        operand, depth = self.operands[k], self.operands[k].depth
        kind = "B" if operand.char == "?" else "F"
        if depth == self.depths:
            entry = Entry(self.writer, kind, f"%v{k}", depth)
            self.loads.append((k, entry))
            return entry
        name, _ = _NAMES[operand.char]
        lines = self.writer.lines[depth]
        lines.append(f"%r{k} = load {name}, ptr %x{k}_{depth}, align 1")
        single = f"%r{k}"
        if kind == "B":
            lines.append(f"%q{k} = icmp ne i8 %r{k}, 0")
            single, name = f"%q{k}", self.writer.single[kind]
        whole = self.writer.types[kind]
        lines.append(f"%w{k} = insertelement {whole} poison, {name} {single}, i32 0")
        lines.append(f"%v{k} = shufflevector {whole} %w{k}, {whole} poison, <{self.lanes} x i32> zeroinitializer")
        return Entry(self.writer, kind, f"%v{k}", depth)

    def _beyond(self, name: str, x: Entry, result: Entry) -> Entry:
        """A function's result where its argument is not too large; else the loop ends, and the exact one is run."""
        form, writer = self.writer.format, self.writer
        limit = LIMITS[form.bits == 64]
        far = abs(x) > limit
        if not self.exact:
            self._exits += 1
            lines = writer.lines[far.depth]
            lines.append(f"%e{self._exits} = bitcast <{self.lanes} x i1> {far.text} to i{self.lanes}")
            lines.append(f"%c{self._exits} = icmp ne i{self.lanes} %e{self._exits}, 0")
            lines.append(f"br i1 %c{self._exits}, label %beyond, label %near{self._exits}")
            lines.append(f"near{self._exits}:")
            return result
        pointer = library_function(name + ("f" if form.bits == 32 else ""))
        called = self.writer.entry(0.0, "F")
        for lane in range(self.lanes):
            one = writer.instruction(f"extractelement {{F}} {x.text}, i32 {lane}", "F", (x,))
            value = writer.instruction(
                f"call {form.name} inttoptr (i64 {pointer} to ptr)({form.name} {one.text})", "F", (one,)
            )
            called = writer.instruction(
                f"insertelement {{F}} {called.text}, {form.name} {value.text}, i32 {lane}", "F", (called, value)
            )
        return writer.select(far, called, result)

    # -- memory --
    def _address(self, k: int, depth: int) -> None:
        """An operand's address in a loop of that depth, where the loop before has one."""
        before = f"%x{k}_{depth - 1}"
        axis = self.operands[k].axes[depth - 1]
        if axis == "0":
            self.setup[depth].append(f"%x{k}_{depth} = getelementptr i8, ptr {before}, i64 0")
            return
        size = _NAMES[self.operands[k].char][1]
        step = str(size) if axis == "1" else f"%s{k}_{depth - 1}"
        self.setup[depth].append(f"%o{k}_{depth} = mul i64 %i{depth - 1}, {step}")
        self.setup[depth].append(f"%x{k}_{depth} = getelementptr i8, ptr {before}, i64 %o{k}_{depth}")

    def _places(self, k: int) -> list[str]:
        """The addresses of an operand's entries with a stride."""
        vector, d = f"<{self.lanes} x i64>", self.depths
        numbers = ", ".join(f"i64 {lane}" for lane in range(self.lanes))
        return [
            f"%g{k}a = insertelement {vector} poison, i64 %s{k}_{d - 1}, i32 0",
            f"%g{k}b = shufflevector {vector} %g{k}a, {vector} poison, <{self.lanes} x i32> zeroinitializer",
            f"%g{k}c = mul {vector} %g{k}b, <{numbers}>",
            f"%g{k}d = getelementptr i8, ptr %x{k}_{d}, {vector} %g{k}c",
        ]

    def _load(self, k: int) -> list[str]:
        operand, form, lanes = self.operands[k], self.writer.format, self.lanes
        truth = operand.char == "?"
        name, size = _NAMES[operand.char]
        vector, to = f"<{lanes} x {name}>", f"%l{k}" if truth else f"%v{k}"
        suffix = f"v{lanes}i8" if truth else f"v{lanes}f{form.bits}"
        mask = f"<{lanes} x i1> " + ("%mask" if self.masked else f"<{', '.join(['i1 true'] * lanes)}>")
        rest = f"i32 {size}, {mask}, {vector} zeroinitializer"
        if operand.axes[-1] == "s":
            lines = self._places(k)
            intrinsic = f"{vector} @llvm.masked.gather.{suffix}.v{lanes}p0"
            lines.append(f"{to} = call {intrinsic}(<{lanes} x ptr> %g{k}d, {rest})")
            self.writer.declared.add(f"declare {intrinsic}(<{lanes} x ptr>, i32, <{lanes} x i1>, {vector})")
        elif self.masked:
            intrinsic = f"{vector} @llvm.masked.load.{suffix}.p0"
            lines = [f"{to} = call {intrinsic}(ptr %x{k}_{self.depths}, {rest})"]
            self.writer.declared.add(f"declare {intrinsic}(ptr, i32, <{lanes} x i1>, {vector})")
        else:
            lines = [f"{to} = load {vector}, ptr %x{k}_{self.depths}, align {size}"]
        return [*lines, f"%v{k} = icmp ne {vector} {to}, zeroinitializer"] if truth else lines

    def _store(self, k: int, entry: Entry) -> list[str]:
        operand, form, lanes = self.operands[k], self.writer.format, self.lanes
        name, size = _NAMES[operand.char]
        vector, text, lines = f"<{lanes} x {name}>", entry.text, list[str]()
        if operand.char == "?":
            lines.append(f"%t{k} = zext <{lanes} x i1> {text} to {vector}")
            text = f"%t{k}"
        suffix = f"v{lanes}i8" if operand.char == "?" else f"v{lanes}f{form.bits}"
        if operand.axes[-1] == "s":
            mask = "%mask" if self.masked else f"<{', '.join(['i1 true'] * lanes)}>"
            intrinsic = f"void @llvm.masked.scatter.{suffix}.v{lanes}p0"
            self.writer.declared.add(f"declare {intrinsic}({vector}, <{lanes} x ptr>, i32, <{lanes} x i1>)")
            given = f"{vector} {text}, <{lanes} x ptr> %g{k}d, i32 {size}, <{lanes} x i1> {mask}"
            return [*lines, *self._places(k), f"call {intrinsic}({given})"]
        if not self.masked:
            return [*lines, f"store {vector} {text}, ptr %x{k}_{self.depths}, align {size}"]
        intrinsic = f"void @llvm.masked.store.{suffix}.p0"
        self.writer.declared.add(f"declare {intrinsic}({vector}, ptr, i32, <{lanes} x i1>)")
        return [*lines, f"call {intrinsic}({vector} {text}, ptr %x{k}_{self.depths}, i32 {size}, <{lanes} x i1> %mask)"]

    # -- around it --
    def _innermost(self) -> list[str]:
        loads = [line for k, _ in self.loads for line in self._load(k)]
        stores = [line for k, entry in self.stores for line in self._store(k, entry)]
        return [*self.setup[self.depths], *loads, *self.writer.lines[self.depths], *stores]

    def _vectors(self) -> list[str]:
        """The innermost axis: all of it under a mask, or by vectors, the last of which ends where the axis does."""
        last = self.depths - 1
        if self.masked:
            whole = f"<{self.lanes} x i64>"
            numbers = ", ".join(f"i64 {lane}" for lane in range(self.lanes))
            inside = [
                f"%i{last} = add i64 %place, 0",
                f"%left = sub i64 %n{last}, %place",
                f"%size = insertelement {whole} poison, i64 %left, i32 0",
                f"%sizes = shufflevector {whole} %size, {whole} poison, <{self.lanes} x i32> zeroinitializer",
                f"%mask = icmp ult {whole} <{numbers}>, %sizes",
            ]
        else:
            inside = ["%fits = icmp ult i64 %place, %end", f"%i{last} = select i1 %fits, i64 %place, i64 %end"]
        head = [
            f"%end = sub i64 %n{last}, {self.lanes}", "br label %before", "before:", "br label %head", "head:",
            "%place = phi i64 [0, %before], [%next, %latch]",
            f"%more = icmp ult i64 %place, %n{last}", "br i1 %more, label %inside, label %done", "inside:", *inside,
        ]  # fmt: skip
        tail = ["br label %latch", "latch:", f"%next = add i64 %place, {self.lanes}", "br label %head", "done:"]
        return [*head, *self._innermost(), *tail]

    def body(self) -> list[str]:
        lines = [*self.writer.lines[0]]
        for k in range(self.depths - 1):
            lines += [
                f"br label %pre{k}", f"pre{k}:", f"br label %head{k}", f"head{k}:",
                f"%i{k} = phi i64 [0, %pre{k}], [%j{k}, %latch{k}]",
                f"%more{k} = icmp ult i64 %i{k}, %n{k}", f"br i1 %more{k}, label %body{k}, label %exit{k}",
                f"body{k}:", *self.setup[k + 1], *self.writer.lines[k + 1],
            ]  # fmt: skip
        lines += self._vectors()
        for k in reversed(range(self.depths - 1)):
            lines += [
                f"br label %latch{k}",
                f"latch{k}:",
                f"%j{k} = add i64 %i{k}, 1",
                f"br label %head{k}",
                f"exit{k}:",
            ]
        return lines

    def text(self) -> str:
        given = [k for k, operand in enumerate(self.operands) if operand.given]
        parameters = ", ".join(["ptr %p", "ptr %s", *(f"ptr %object{k}" for k in given)])
        for k in range(len(self.operands)):
            for depth in range(1, self.depths + 1):
                self._address(k, depth)
        inner, lines, place = self.body(), list[str](), 0
        for k in range(self.depths):
            lines += _table(f"%n{k}", place)
            place += 1
        for k, operand in enumerate(self.operands):
            base = (
                f"getelementptr i8, ptr %object{k}, i64 {OBJECT}"
                if operand.given
                else f"getelementptr ptr, ptr %p, i64 {k}"
            )
            lines += [f"%b{k} = {base}", f"%x{k}_0 = load ptr, ptr %b{k}, align 8"]
            for axis, kind in enumerate(operand.axes):
                if kind == "s":
                    lines += _table(f"%s{k}_{axis}", place)
                place += 1
        end = ["beyond:", "ret i32 1"] if self._exits else []
        body = "\n".join([*lines, *inner, "ret i32 0", *end])
        return "\n".join([*sorted(self.writer.declared), f"define i32 @loop({parameters}) nounwind {{", body, "}\n"])


def _table(name: str, place: int) -> list[str]:
    return [f"{name}p = getelementptr i64, ptr %s, i64 {place}", f"{name} = load i64, ptr {name}p, align 8"]


def text_of(loop: Loop) -> str:
    """The function `loop`, which returns 1 where an argument was beyond what its functions take, and 0 else."""
    text = _Text(loop)
    known: dict[int, Entry] = {}
    for spelling, args, out in loop.steps:
        for n in args:
            if n not in known:
                known[n] = text.read(n)
        known[out] = apply(text.writer, spelling, [known[n] for n in args], FUNCTIONS)
        if loop.reads <= out < len(loop.operands):
            text.stores.append((out, known[out]))
    return text.text()


def lanes_of(dtype: np.dtype[Any], size: int, again: bool = False, steps: int = 1) -> tuple[int, bool]:
    """Entries of a vector for an innermost axis of that size, and whether vectors go under a mask.

    Without one, the last vector does again what the one before it did; where that may not be, they have to fit.
    """
    most = (2 if steps < LONG else 1) * vector_bytes() // dtype.itemsize
    lanes = most
    while lanes > 2 and (lanes > size or (again and size % lanes)):
        lanes //= 2
    if lanes > size or (again and (lanes < 4 or size % lanes)):
        return min(most, 1 << max(size - 1, 1).bit_length()), True
    return lanes, False
