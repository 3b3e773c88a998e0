"""Products of small or narrow matrices as machine code: most of BLAS's time for them is not their arithmetic.

A block of rows and of one to three vectors along the result's columns is kept in registers. The last block of an axis
ends where the axis does, and does again what the one before it did. Rows narrower than a vector are written in parts.
One or two columns, where what is summed lies side by side, are made of vectors along the sum instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from .bound import Bound
from .checks import Axes
from .llvm import Function, compiled, vector_bytes
from .text import Text

__all__ = ["along", "in_rows", "multiplied", "worthwhile"]

ROWS = {1: 8, 2: 6, 3: 4}
"""Rows of a block by its vectors: results, and what a step multiplies, are sixteen registers or less."""


TERMS, ENTRIES = 16, 512
"""Of one matrix: terms of a sum, or entries of what rows are multiplied by, up to which BLAS takes longer."""
WIDE = 4096
"""Such entries where all that is read lies in rows and fills registers of 32 bytes, for which alone it was measured."""
FEW, ALIASED = 32, 1024
"""Terms up to which BLAS, which goes over a result twice, takes longer whatever its size, in registers of 32 bytes; but
not where lines that lie a multiple of so many bytes apart put each other out of the cache."""
STACKED = 1 << 15
"""Multiplications for each matrix of a stack up to which a call of BLAS for each takes longer."""
LONG = 4
"""Vectors of a sum, for each of one or two columns, from which on they go along it: a half to a fifth of the time."""
COPIED = 100
"""Entries of each matrix of a stack up to which it may be copied into rows."""


class Product(NamedTuple):
    """All that the text depends on."""

    char: str
    lanes: int
    narrow: int
    """The columns where they are fewer than the entries of a vector, else 0."""
    rows: int
    """Of a block."""
    vectors: int
    along: bool = False
    """Whether vectors go along what is summed."""


def worthwhile(a: Any, b: Any) -> bool:
    """Whether a stack of products takes no longer so than by BLAS, and mostly half as long or less.

    Measured beside OpenBLAS, one thread of AVX2, in float32 and float64, in all orientations: 32 to 2,048 rows by one
    matrix take BLAS 1.1 to 2 times as long within these bounds, matrices of a stack 1.3 to 12 times, as a call for each
    takes 0.1 microseconds or more, those of few terms 1.1 to 1.3 times. A matrix that has to be copied into rows needs
    enough rows to be multiplied by it.
    """
    (count, m, k), n = a.shape, b.shape[-1]
    shared = count == 1 or not b.strides[0]
    if shared and (k <= TERMS or k * n <= ENTRIES):
        return True
    wide = vector_bytes() == 32 and k * n <= WIDE and (n <= 24 or n % 16 == 0)
    if shared and wide and in_rows(a) and (in_rows(b) or m >= 256):
        return True
    apart = in_rows(a) or (a.strides[-1] % ALIASED and k * a.itemsize <= 4 * FEW)
    if vector_bytes() == 32 and k <= FEW and in_rows(b) and apart and n * b.itemsize % ALIASED:
        return True
    free = shared or in_rows(b) or k * n <= COPIED or 2 * k <= TERMS <= m // 2
    return bool(count > 1 and m * k * n <= STACKED and free)


def in_rows(x: Any) -> bool:
    return bool(x.strides[-1] == x.itemsize or x.shape[-1] == 1)


def along(a: Any, b: Any) -> bool:
    """Whether vectors go along what is summed."""
    k, n = b.shape[1:]
    return bool(
        n <= 2 and k >= LONG * n * (vector_bytes() // a.itemsize) and a.strides[2] == b.strides[1] == a.itemsize
    )


def multiplied(a: Any, b: Any, out: Any) -> Bound:
    """A stack of products, (s, m, k) by (s, k, n) into (s, m, n), where rows of `b` and `out` have no gaps.

    Those of `b` may where vectors go along what is summed.
    """
    (count, m, k), n, size = a.shape, b.shape[-1], a.itemsize
    lanes = vector_bytes() // size
    if along(a, b):
        form = Product(a.dtype.char, lanes, 0, min(m, lanes), 1, along=True)
        table = np.array([count, m, n, k, *a.strides, b.strides[0], b.strides[2], *out.strides[:2]], np.int64)
        return Bound(_function(form), _addresses(a, b, out), table, (a, b, out), partial(_axes, form))
    narrow = n if n < lanes else 0
    lanes = 1 << (narrow - 1).bit_length() if narrow else lanes
    vectors = -(-n // lanes) if n <= 3 * lanes else 2
    blocks = -(-m // ROWS[vectors])
    form = Product(a.dtype.char, lanes, narrow, -(-m // blocks), vectors)
    table = np.array([count, m, n, k, *a.strides, *b.strides[:2], *out.strides[:2]], np.int64)
    return Bound(_function(form), _addresses(a, b, out), table, (a, b, out), partial(_axes, form))


def _addresses(*arrays: Any) -> Any:
    return np.array([x.ctypes.data for x in arrays], np.intp)


def _axes(form: Product, table: Any) -> Sequence[Axes]:
    """As the text goes along them: in whole blocks."""
    count, m, n, k, *strides = table.tolist()
    m, size = max(m, form.rows), np.dtype(form.char).itemsize
    a, b, out = strides[:3], strides[3:5], strides[5:]
    if form.along:
        side = k, size
        return [
            [*zip((count, m), a, strict=False), side, (size, 1)],
            [*zip((count, n), b, strict=True), side, (size, 1)],
            [*zip((count, m), out, strict=True), (n, size), (size, 1)],
        ]
    n = form.narrow or max(n, form.lanes)
    side = n, size
    return [
        [*zip((count, m, k), a, strict=True), (size, 1)],
        [*zip((count, k), b, strict=True), side, (size, 1)],
        [*zip((count, m), out, strict=True), side, (size, 1)],
    ]


@lru_cache(1024)
def _function(form: Product) -> Function:
    return compiled((_Along if form.along else _Text)(form).text(), "product", 2)


class _Text(Text):
    """The text of a product."""

    def __init__(self, form: Product) -> None:
        super().__init__(form.char, form.lanes)
        self.form = form
        self.whole = form.narrow in (0, form.lanes)
        self.columns = 1 if form.along else form.lanes * form.vectors

    def text(self) -> str:
        self.read(
            ("%a", "%b", "%o"), [f"%{x}" for x in ("count", "m", "n", "k", "as", "am", "ak", "bs", "bk", "os", "om")]
        )
        self.say(f"%lastrow = sub i64 %m, {self.form.rows}", f"%last = sub i64 %n, {self.lanes}")
        self.loop("stack", "%count", 1, self._matrix)
        declared = (
            f"declare {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr, i32, {self.mask}, {self.vector})\n"
            f"declare {self.vector} @llvm.fma.{self.suffix}({', '.join([self.vector] * 3)})\n"
        )
        body = "\n".join(self.lines)
        return f"{declared}define i32 @product(ptr %p, ptr %s) nounwind {{\n{body}\nret i32 0\n}}\n"

    def _matrix(self, index: str, _: Sequence[str]) -> Sequence[str]:
        a, b, out = (self.moved(f"%{x}", index, f"%{x}s") for x in "abo")

        def rows(start: str, _: Sequence[str]) -> Sequence[str]:
            first = self.least(start, "%lastrow")
            of_a, of_out = ([self.moved(x, first, f"%{name}m")] for x, name in ((a, "a"), (out, "o")))
            for places, name in ((of_a, "a"), (of_out, "o")):
                while len(places) < self.form.rows:
                    places.append(self.plus(places[-1], f"%{name}m"))
            self.loop("column", "%n", self.columns, partial(self._block, of_a, b, of_out))
            return ()

        self.loop("row", "%m", self.form.rows, rows)
        return ()

    def _block(self, a: Sequence[str], b: str, out: Sequence[str], start: str, _: Sequence[str]) -> Sequence[str]:
        """Some rows, from those of `a` on, by some vectors."""
        starts = [self.new(f"add i64 {start}, {v * self.lanes}") for v in range(self.form.vectors)]
        offsets = [
            "0" if self.form.narrow else self.new(f"mul i64 {self.least(x, '%last')}, {self.size}") for x in starts
        ]

        def step(index: str, gathered: Sequence[str]) -> Sequence[str]:
            along, place = self.new(f"mul i64 {index}, %ak"), self.moved(b, index, "%bk")
            columns = [self._load(self.plus(place, offset)) for offset in offsets]
            factors = [self.new(f"load {self.number}, ptr {self.plus(x, along)}, align {self.size}") for x in a]
            pairs = [(self.splat(self.number, x), y) for x in factors for y in columns]
            return [self._fused(x, y, z) for (x, y), z in zip(pairs, gathered, strict=True)]

        zeros = ["zeroinitializer"] * (len(a) * len(offsets))
        found = iter(self.loop("term", "%k", 1, step, zeros))
        for row in out:
            for offset in offsets:
                self._store(next(found), self.plus(row, offset))
        return ()

    def _fused(self, x: str, y: str, z: str) -> str:
        given = ", ".join(f"{self.vector} {each}" for each in (x, y, z))
        return self.new(f"call {self.vector} @llvm.fma.{self.suffix}({given})")

    def _load(self, place: str, mask: str = "") -> str:
        if not mask and self.whole:
            return self.new(f"load {self.vector}, ptr {place}, align {self.size}")
        own = ", ".join(f"i1 {'true' if lane < self.form.narrow else 'false'}" for lane in range(self.lanes))
        rest = f"i32 {self.size}, {self.mask} {mask or f'<{own}>'}, {self.vector} zeroinitializer"
        return self.new(f"call {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr {place}, {rest})")

    def _store(self, x: str, place: str) -> None:
        """By vectors of halves, quarters ...: a store under a mask takes some CPUs ten times as long."""
        done, width, columns = 0, self.lanes, self.form.narrow or self.lanes
        while done < columns:
            if done + width <= columns:
                lanes, to = ", ".join(f"i32 {done + lane}" for lane in range(width)), f"<{width} x {self.number}>"
                part = self.new(f"shufflevector {self.vector} {x}, {self.vector} poison, <{width} x i32> <{lanes}>")
                self.say(f"store {to} {part}, ptr {self.plus(place, done * self.size)}, align {self.size}")
                done += width
            width //= 2


class _Along(_Text):
    """The text of a product of few columns, by vectors along what is summed."""

    def _block(self, a: Sequence[str], b: str, out: Sequence[str], start: str, _: Sequence[str]) -> Sequence[str]:
        """Some rows, from those of `a` on, by one column."""
        column = self.moved(b, start, "%bk")

        def added(index: str, gathered: Sequence[str], mask: str = "") -> Sequence[str]:
            along = self.new(f"mul i64 {index}, {self.size}")
            y = self._load(self.plus(column, along), mask)
            return [self._fused(self._load(self.plus(x, along), mask), y, z) for x, z in zip(a, gathered, strict=True)]

        full = self.new(f"and i64 %k, {-self.lanes}")
        sums = self.loop("term", full, self.lanes, added, ["zeroinitializer"] * len(a))
        numbers = ", ".join(f"i64 {lane}" for lane in range(self.lanes))
        left = self.splat("i64", self.new(f"sub i64 %k, {full}"))
        rest = self.new(f"icmp ult <{self.lanes} x i64> <{numbers}>, {left}")
        totals = self._totals(added(full, sums, rest))
        for lane, row in zip(range(0, self.lanes, self.lanes // self._padded(len(a))), out, strict=False):
            one = self.new(f"extractelement {self.vector} {totals}, i32 {lane}")
            place = self.plus(row, self.new(f"mul i64 {start}, {self.size}"))
            self.say(f"store {self.number} {one}, ptr {place}, align {self.size}")
        return ()

    def _padded(self, count: int) -> int:
        return 1 << (count - 1).bit_length()

    def _totals(self, vectors: Sequence[str]) -> str:
        """The sums over each vector's entries as the entries of one, so far apart that all have room."""
        vectors = [*vectors, *["zeroinitializer"] * (self._padded(len(vectors)) - len(vectors))]
        half = self.lanes // 2
        while half:
            count = len(vectors) // 2
            pairs = zip(vectors[:count], vectors[count:], strict=True) if count else [(vectors[0], vectors[0])]
            vectors = [self._halved(x, y, half) for x, y in pairs]
            half //= 2
        return vectors[0]

    def _halved(self, x: str, y: str, half: int) -> str:
        """Entries of `x` that are so far apart added, where the first of them are, and of `y` where the others are."""
        parts = []
        for other in (0, half):
            places = [(lane ^ other) + (self.lanes if lane & half else 0) for lane in range(self.lanes)]
            lanes = ", ".join(f"i32 {place}" for place in places)
            parts.append(
                self.new(f"shufflevector {self.vector} {x}, {self.vector} {y}, <{self.lanes} x i32> <{lanes}>")
            )
        return self.new(f"fadd {self.vector} {parts[0]}, {parts[1]}")
