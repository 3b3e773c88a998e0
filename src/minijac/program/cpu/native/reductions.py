"""Sums and extremes along axes of strided arrays, as machine code.

Where the result's last axis lies side by side in the operand, vectors go along it, and each gathers what is reduced;
else they go along a reduced axis, and the entries of the last one are combined in halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from .bound import Bound, merged
from .checks import Axes
from .llvm import Function, compiled
from .loops import lanes_of
from .text import Text

__all__ = ["STARTS", "reduced"]

STARTS: dict[np.ufunc, float] = {np.add: -0.0, np.maximum: -np.inf, np.minimum: np.inf}
"""What each leaves as it is."""


class Reduction(NamedTuple):
    """All that the text depends on."""

    function: np.ufunc
    char: str
    kept: int
    """Axes of the result, the last of which has vectors if `along` is false."""
    gone: int
    """Axes that are reduced, the last of which has vectors if `along`."""
    along: bool
    lanes: int
    masked: bool


def reduced(function: np.ufunc, x: Any, out: Any) -> Bound | None:
    """The axes of `x` that `out`, which has the first ones, lacks, reduced; None where NumPy has to do it."""
    if function not in STARTS:
        return None
    own, size = x.ndim - out.ndim, x.itemsize
    split = out.ndim
    kept, (of_x, of_out) = merged(out.shape, [_strides(x)[:split], _strides(out)])
    gone = sorted(range(split, x.ndim), key=lambda k: -abs(x.strides[k]))
    gone_sizes, (of_gone,) = merged(tuple(x.shape[k] for k in gone), [tuple(_strides(x)[k] for k in gone)])
    along = not (of_x[-1] == of_out[-1] == size)
    if along and (of_gone[-1] != size or not own):
        return None
    lanes, masked = lanes_of(x.dtype, gone_sizes[-1] if along else kept[-1])
    form = Reduction(function, x.dtype.char, len(kept), len(gone_sizes), along, lanes, masked or along)
    table = np.array([*kept, *gone_sizes, *of_x, *of_gone, *of_out], np.int64)
    addresses = np.array([x.ctypes.data, out.ctypes.data], np.intp)
    return Bound(_function(form), addresses, table, (x, out), partial(_axes, form))


def _axes(form: Reduction, table: Any) -> Sequence[Axes]:
    count = form.kept + form.gone
    sizes, strides = table[:count].tolist(), table[count:].tolist()
    if not form.masked:
        sizes[form.kept - 1] = max(sizes[form.kept - 1], form.lanes)
    entry = np.dtype(form.char).itemsize, 1
    return [[*zip(sizes, strides[:count], strict=True), entry], [*zip(sizes, strides[count:], strict=False), entry]]


def _strides(x: Any) -> tuple[int, ...]:
    return tuple(stride if size > 1 else 0 for size, stride in zip(x.shape, x.strides, strict=True))


@lru_cache(1024)
def _function(form: Reduction) -> Function:
    return compiled(_Text(form).text(), "reduction", 2)


class _Text(Text):
    """The text of a reduction."""

    def __init__(self, form: Reduction) -> None:
        super().__init__(form.char, form.lanes)
        self.form = form

    def combined(self, a: str, b: str) -> str:
        if self.form.function is np.add:
            return self.new(f"fadd {self.vector} {a}, {b}")
        better = self.new(f"fcmp {'oge' if self.form.function is np.maximum else 'ole'} {self.vector} {a}, {b}")
        odd = self.new(f"fcmp uno {self.vector} {a}, {a}")
        first = self.new(f"or {self.mask} {better}, {odd}")
        return self.new(f"select {self.mask} {first}, {self.vector} {a}, {self.vector} {b}")

    def masked(self, left: str) -> str:
        numbers = ", ".join(f"i64 {lane}" for lane in range(self.form.lanes))
        return self.new(f"icmp ult <{self.form.lanes} x i64> <{numbers}>, {self.splat('i64', left)}")

    def load(self, address: str, mask: str | None) -> str:
        if mask is None:
            return self.new(f"load {self.vector}, ptr {address}, align {self.size}")
        name = f"@llvm.masked.load.{self.suffix}.p0"
        rest = f"i32 {self.size}, {self.mask} {mask}, {self.vector} %start"
        return self.new(f"call {self.vector} {name}(ptr {address}, {rest})")

    def text(self) -> str:
        form = self.form
        names = [
            *(f"%n{k}" for k in range(form.kept)), *(f"%m{k}" for k in range(form.gone)),
            *(f"%x{k}" for k in range(form.kept)), *(f"%g{k}" for k in range(form.gone)),
            *(f"%o{k}" for k in range(form.kept)),
        ]  # fmt: skip
        self.read(("%x", "%o"), names)
        start = f"{self.number} 0x{np.float64(STARTS[form.function]).view(np.uint64):016X}"
        self.say(f"%start = bitcast {self.vector} <{', '.join([start] * form.lanes)}> to {self.vector}")
        self._kept(0, "%x", "%o")
        declared = (
            f"declare {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr, i32, {self.mask}, {self.vector})\n"
            f"declare void @llvm.masked.store.{self.suffix}.p0({self.vector}, ptr, i32, {self.mask})\n"
        )
        body = "\n".join(self.lines)
        return f"{declared}define i32 @reduction(ptr %p, ptr %s) nounwind {{\n{body}\nret i32 0\n}}\n"

    def _kept(self, axis: int, x: str, out: str) -> None:
        form = self.form
        if axis < form.kept - (not form.along):

            def body(index: str, _: Sequence[str]) -> Sequence[str]:
                self._kept(axis + 1, self.moved(x, index, f"%x{axis}"), self.moved(out, index, f"%o{axis}"))
                return ()

            self.loop(f"kept{axis}", f"%n{axis}", 1, body)
        elif form.along:
            self._store_one(self._gone(0, x, "%start", None), out)
        else:
            self._vectors(axis, x, out)

    def _vectors(self, axis: int, x: str, out: str) -> None:
        """The last axis of the result, by vectors, the last of which ends where it does."""
        form = self.form

        def body(index: str, _: Sequence[str]) -> Sequence[str]:
            mask = None
            if form.masked:
                mask = self.masked(self.new(f"sub i64 %n{axis}, {index}"))
            else:
                index = self.least(index, self.new(f"sub i64 %n{axis}, {form.lanes}"))
            result = self._gone(0, self.moved(x, index, f"%x{axis}"), "%start", mask)
            target = self.moved(out, index, f"%o{axis}")
            if mask is None:
                self.say(f"store {self.vector} {result}, ptr {target}, align {self.size}")
            else:
                name = f"@llvm.masked.store.{self.suffix}.p0"
                self.say(f"call void {name}({self.vector} {result}, ptr {target}, i32 {self.size}, {self.mask} {mask})")
            return ()

        self.loop(f"kept{axis}", f"%n{axis}", form.lanes, body)

    def _gone(self, axis: int, x: str, sofar: str, mask: str | None) -> str:
        """What is gathered along the reduced axes from one on."""
        form = self.form
        last = axis == form.gone - 1

        def body(index: str, gathered: Sequence[str]) -> Sequence[str]:
            place = self.moved(x, index, f"%g{axis}")
            if not last:
                return (self._gone(axis + 1, place, gathered[0], mask),)
            return (self.combined(gathered[0], self.load(place, mask)),)

        if not (last and form.along):
            return self.loop(f"gone{axis}", f"%m{axis}", 1, body, [sofar])[0]
        full = self.new(f"and i64 %m{axis}, {-form.lanes}")
        (whole,) = self.loop(f"gone{axis}", full, form.lanes, body, [sofar])
        left = self.new(f"sub i64 %m{axis}, {full}")
        rest = self.load(self.moved(x, full, f"%g{axis}"), self.masked(left))
        return self.combined(whole, rest)

    def _store_one(self, gathered: str, out: str) -> None:
        half = self.form.lanes // 2
        while half:
            places = ", ".join(f"i32 {(lane + half) % self.form.lanes}" for lane in range(self.form.lanes))
            other = self.new(
                f"shufflevector {self.vector} {gathered}, {self.vector} poison, <{self.form.lanes} x i32> <{places}>"
            )
            gathered = self.combined(gathered, other)
            half //= 2
        one = self.new(f"extractelement {self.vector} {gathered}, i32 0")
        self.say(f"store {self.number} {one}, ptr {out}, align {self.size}")
