"""The kernels of a program as source: fused elementwise runs, reductions, scatters and running sums.

Shapes and strides are written into the text as numbers. A kernel takes nothing but pointers: those that it reads, in
the order in which they are met, and then those that it writes. Between two operations of a run, values stay in
registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..ir import Instruction, Value
from .access import Access, View, accessed
from .math import CTYPE, PRELUDE, convert, expression, helpers_of, literal, loop_dtypes

__all__ = [
    "REDUCTIONS", "Computed", "Constant", "Kernel", "Load", "Operand", "Placed", "Point", "Register", "Taken",
    "Windowed", "accesses_of", "fill", "map_kernel", "module_source", "reads_of", "reduction", "reduction_layout",
    "running_sum", "scalars_kernel", "scatter",
]  # fmt: skip

THREADS = 256


# -- what an operation of a run reads ----------------------------------------------------------------------------------
class Register(NamedTuple):
    """A value that the same run has computed for the same position."""

    n: int


class Constant(NamedTuple):
    value: Any
    dtype: Any


class Load(NamedTuple):
    """Memory of a value, at the same position or one that belongs to it."""

    access: Access


class Placed(NamedTuple):
    """Entries of one or several values among a background; at most one of the parts names each position."""

    parts: tuple[Access, ...]
    background: Any


class Taken(NamedTuple):
    """Entries picked by positions: `positions` gives a number below `size`, which counts in steps of `stride`."""

    access: Access
    positions: Access
    stride: int
    size: int


class Windowed(NamedTuple):
    """The sum over the windows that hold a position (the transpose of sliding windows); one tuple for each axis."""

    lead: Access
    axes: tuple[tuple[int, int, int, int, int, int, int], ...]
    """size of the axis, kernel, stride, dilation, number of windows, and the strides of windows and of the kernel."""


class Computed(NamedTuple):
    """What a few operations make at another position, computed again where it is wanted."""

    points: tuple[Point, ...]
    access: Access


Operand = Register | Constant | Load | Placed | Taken | Windowed | Computed


class Point(NamedTuple):
    """One operation of a run, and what it reads; without an instruction the entry is stored as it is."""

    out: int
    operands: tuple[Operand, ...]
    step: Instruction | None = None


class Kernel(NamedTuple):
    """A kernel and how it is launched. In the text its name is ``@``."""

    text: str
    reads: tuple[int, ...]
    """The values whose memory it takes, in the order of its parameters; then those that it writes."""
    writes: tuple[int, ...]
    grid: tuple[int, int]
    helpers: frozenset[tuple[str, str]] = frozenset()
    vectors: frozenset[tuple[str, int]] = frozenset()
    block: int = THREADS


def module_source(kernels: Sequence[Kernel]) -> tuple[str, list[str]]:
    """One source for all, kernels of the same text once, and the name of each."""
    vectors = sorted({each for kernel in kernels for each in kernel.vectors})
    names: dict[str, str] = {}
    for kernel in kernels:
        names.setdefault(kernel.text, f"k{len(names)}")
    parts = [
        PRELUDE,
        *(f"VECTOR({_vector(T, W)}, {T}, {W});\n" for T, W in vectors),
        *helpers_of({each for kernel in kernels for each in kernel.helpers}),
    ]
    parts += [text.replace("@", name) for text, name in names.items()]
    return "\n".join(parts), [names[kernel.text] for kernel in kernels]


def accesses_of(operand: Operand) -> tuple[Access, ...]:
    """What an operand reads of memory."""
    if isinstance(operand, Load):
        return (operand.access,)
    if isinstance(operand, Placed):
        return operand.parts
    if isinstance(operand, Taken):
        return operand.access, operand.positions
    if isinstance(operand, Computed):
        return tuple(each for point in operand.points for x in point.operands for each in accesses_of(x))
    return (operand.lead,) if isinstance(operand, Windowed) else ()


def reads_of(points: Sequence[Point]) -> tuple[int, ...]:
    """The values whose memory some operations read."""
    return tuple(dict.fromkeys(each.root for point in points for x in point.operands for each in accesses_of(x)))


def _extent(access: Access) -> int:
    """More than the largest position that an access may compute."""
    return access.offset + sum(digit.size * (abs(digit.stride) + 1) for digit in access.digits)


# -- the body of a run: a function of one position ---------------------------------------------------------------------
class Body:
    """The function that computes a run at position `i`, and what it has to be given."""

    def __init__(self, points: Sequence[Point], stored: Sequence[int], values: Sequence[Value], n: int) -> None:
        self.values = list(values)
        reach = max([n, *(_extent(each) for point in points for x in point.operands for each in accesses_of(x))])
        self.index = "int" if reach < 2**31 - 2**12 else "long long"
        self.reads: dict[int, str] = {}  # the value whose memory is read, to the name of its pointer
        self.loads: dict[Access, str] = {}
        self.helpers: set[tuple[str, str]] = set()
        self.pointers: set[int] = set()  # of those, the ones that the body itself reads through
        self.extra: list[str] = []
        self._inner = 0  # functions that the body calls, counted for their names
        self._direct_loads = False
        lines = []
        for point in points:
            lines.append(f"{self.type(point.out)} v{point.out} = {self.computed(point)};")
        lines += [f"*y{k} = v{n};" for k, n in enumerate(stored)]
        parameters = [f"{self.index} i"]
        parameters += [f"{self.type(access.root)} {name}" for access, name in self.loads.items()]
        parameters += [f"const {self.type(n)}* {self.reads[n]}" for n in sorted(self.pointers)]
        parameters += [f"{self.type(n)}* y{k}" for k, n in enumerate(stored)]
        inner = "\n  ".join(lines)
        self.text = "".join(self.extra) + f"DEVICE void @_at({', '.join(parameters)}) {{\n  {inner}\n}}\n"

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

    def pointer(self, n: int) -> str:
        return self.reads.setdefault(n, f"p{len(self.reads)}")

    def computed(self, point: Point) -> str:
        """The C expression of one operation."""
        out = self.values[point.out].dtype
        if point.step is None:
            text, dtype = self.read(point.operands[0], out)
            return convert(text, dtype, out)
        *loop, result = loop_dtypes(point.step, self.values)
        texts = []
        for operand, dtype in zip(point.operands, loop, strict=True):
            text, own = self.read(operand, dtype)
            texts.append(convert(text, own, dtype))
        text, helpers = expression(point.step, self.values, texts)
        self.helpers |= helpers
        return convert(f"({CTYPE[result.name]})({text})", result, out)

    def read(self, operand: Operand, dtype: Any) -> tuple[str, Any]:
        """An operand as C, and its dtype."""
        if isinstance(operand, Register):
            return f"v{operand.n}", self.values[operand.n].dtype
        if isinstance(operand, Constant):
            return literal(operand.value, dtype), dtype
        if isinstance(operand, Load):
            if self._direct_loads:
                root = operand.access.root
                return f"{self._direct(root)}[{operand.access.place('i')}]", self.values[root].dtype
            self.pointer(operand.access.root)
            name = self.loads.setdefault(operand.access, f"x{len(self.loads)}")
            return name, self.values[operand.access.root].dtype
        if isinstance(operand, Placed):
            return self._placed(operand)
        if isinstance(operand, Taken):
            return self._taken(operand)
        return self._windowed(operand) if isinstance(operand, Windowed) else self._computed(operand)

    def _name(self, of: str) -> str:
        self._inner += 1
        return f"@_{of}{self._inner}"

    def _computed(self, operand: Computed) -> tuple[str, Any]:
        """A function of the other position, which reads memory by itself."""
        name, out = self._name("value"), operand.points[-1].out
        before = self.pointers, self._direct_loads
        self.pointers, self._direct_loads = set(), True
        lines = [f"{self.type(point.out)} v{point.out} = {self.computed(point)};" for point in operand.points]
        inner = sorted(self.pointers)
        self.pointers, self._direct_loads = before[0] | self.pointers, before[1]
        parameters = "".join(f", const {self.type(n)}* {self.reads[n]}" for n in inner)
        text = "\n  ".join([*lines, f"return v{out};"])
        self.extra.append(f"DEVICE {self.type(out)} {name}({self.index} i{parameters}) {{\n  {text}\n}}\n")
        given = "".join(f", {self.reads[n]}" for n in inner)
        return f"{name}({operand.access.place('i')}{given})", self.values[out].dtype

    def _direct(self, n: int) -> str:
        self.pointers.add(n)
        return self.pointer(n)

    def _placed(self, operand: Placed) -> tuple[str, Any]:
        dtype = self.values[operand.parts[0].root].dtype
        text = literal(operand.background, dtype)
        for access in reversed(operand.parts):
            entry = f"{self._direct(access.root)}[{access.place('i')}]"
            text = f"({access.condition('i')} ? {entry} : {text})"
        return text, dtype

    def _taken(self, operand: Taken) -> tuple[str, Any]:
        n, positions = operand.access.root, operand.positions
        name, kind = self._name("position"), self.type(positions.root)
        self.extra.append(
            f"DEVICE long long {name}({self.index} i, const {kind}* p) {{\n"
            f"  long long at = (long long)p[{positions.place('i')}] % {operand.size};\n"
            f"  return at < 0 ? at + {operand.size} : at;\n}}\n"
        )
        at = f"{name}(i, {self._direct(positions.root)}) * {operand.stride}"
        return f"{self._direct(n)}[{operand.access.place('i')} + {at}]", self.values[n].dtype

    def _windowed(self, operand: Windowed) -> tuple[str, Any]:
        kind, name = self.type(operand.lead.root), self._name("windows")
        body, inner = "sum += p[at];", prod(axis[0] for axis in operand.axes)
        steps = []
        for k, (size, kernel, stride, dilation, windows, apart, inside) in enumerate(operand.axes):
            inner //= size
            steps.append(f"""\
for (int k{k} = 0; k{k} < {kernel}; ++k{k}) {{
    {self.index} t{k} = (i / {inner}) % {size} - {dilation} * k{k};
    if (t{k} < 0 || t{k} % {stride} || t{k} / {stride} >= {windows}) continue;
    {self.index} at{k} = t{k} / {stride} * {apart} + k{k} * {inside};
""")
        at = " + ".join(
            [
                f"{operand.lead.offset}",
                operand.lead._replace(offset=0).place("i"),
                *(f"at{k}" for k in range(len(steps))),
            ]
        )
        self.extra.append(
            f"DEVICE {kind} {name}({self.index} i, const {kind}* p) {{\n  {kind} sum = 0;\n  {''.join(steps)}"
            f"    {self.index} at = {at};\n    {body}\n  {'}' * len(steps)}\n  return sum;\n}}\n"
        )
        return f"{name}(i, {self._direct(operand.lead.root)})", self.values[operand.lead.root].dtype


# -- one thread for each entry, or for each vector of entries ----------------------------------------------------------
def map_kernel(
    points: Sequence[Point], stored: Sequence[int], size: int, values: Sequence[Value], unaligned: Any = ()
) -> Kernel:
    """A fused run over `size` positions, which writes the values `stored`. No vectors are read from `unaligned`."""
    body = Body(points, stored, values, size)
    width = _width(body, stored, size, unaligned)
    vectors = set()
    stores = [f"q{k} + i" for k in range(len(stored))]
    one = body.call("i", body.loaded("i"), stores)
    first = f"{body.index} i = (blockIdx.x * ({body.index})blockDim.x + threadIdx.x)"
    if width == 1:
        lines = [f"{first};", f"if (i < {size}) {one}"]
    else:
        lanes, loads = [], []
        for access, name in body.loads.items():
            T, pointer = body.type(access.root), body.reads[access.root]
            if _inner_stride(access):
                vectors.add((T, width))
                vector = _vector(T, width)
                lanes.append(f"const {vector} {name} = *(const {vector}*)({pointer} + {access.place('i')});")
                loads.append(f"{name}.v[l]")
            else:
                lanes.append(f"const {T} {name} = {pointer}[{access.place('i')}];")
                loads.append(name)
        types = [body.type(n) for n in stored]
        vectors |= {(T, width) for T in types}
        lanes += [f"{_vector(T, width)} y{k};" for k, T in enumerate(types)]
        call = body.call("i + l", loads, [f"&y{k}.v[l]" for k in range(len(stored))])
        lanes += ["UNROLL", f"for (int l = 0; l < {width}; ++l) {call}"]
        lanes += [f"*({_vector(T, width)}*)(q{k} + i) = y{k};" for k, T in enumerate(types)]
        whole = "\n    ".join(lanes)
        lines = [f"{first} * {width};", f"if (i + {width} <= {size}) {{\n    {whole}\n  }}"]
        if size % width:
            lines.append(f"else for (; i < {size}; ++i) {one}")
    text = body.text + f"KERNEL @({body.parameters(stored)}) {{\n  {_joined(lines)}\n}}\n"
    threads = -(-size // width)
    grid = (-(-threads // THREADS), 1)
    return Kernel(text, tuple(body.reads), tuple(stored), grid, frozenset(body.helpers), frozenset(vectors))


def _joined(lines: Sequence[str]) -> str:
    return "\n  ".join(lines)


def _vector(T: str, width: int) -> str:
    return f"vector_{T.replace(' ', '_')}{width}"


def _inner_stride(access: Access) -> int:
    return access.digits[-1].stride if access.digits else 0


def _width(body: Body, stored: Sequence[int], size: int, unaligned: Any) -> int:
    """How many entries a thread takes: as many as 16 bytes hold, where every load is a vector or one entry for all."""
    sizes = [body.values[n].dtype.itemsize for n in (*stored, *(access.root for access in body.loads))]
    width = min(8, 16 // max(sizes))
    if width < 2 or size < width:
        return 1
    for access in body.loads:
        inner = access.digits[-1].size if access.digits else size
        if inner != size and inner % width:
            return 1
        if _inner_stride(access) == 0:
            continue
        rest = [digit.stride for digit in access.digits[:-1]]
        if _inner_stride(access) != 1 or any(n % width for n in (access.offset, *rest)) or access.root in unaligned:
            return 1
    return width


def fill(n: int, size: int, values: Sequence[Value], value: Any = 0) -> Kernel:
    """One number for all entries."""
    return map_kernel([Point(n, (Constant(value, values[n].dtype),))], [n], size, values)


# -- reductions --------------------------------------------------------------------------------------------------------
COMBINED = {
    "sum": "{a} + {b}", "max": "maximum_{t}({a}, {b})", "min": "minimum_{t}({a}, {b})",
    "all": "{a} && {b}", "any": "{a} || {b}", "count_nonzero": "{a} + {b}",
}  # fmt: skip
REDUCTIONS = tuple(COMBINED)


def _identity(name: str, dtype: Any) -> Any:
    if name in ("max", "min"):
        low = name == "max"
        if dtype.kind == "f":
            return -np.inf if low else np.inf
        return not low if dtype.kind == "b" else getattr(np.iinfo(dtype), "min" if low else "max")
    return name == "all"


class Layout(NamedTuple):
    """How threads share a reduction: `lanes` of them for each result, neighbours along it or along the results."""

    lanes: int
    along: bool
    """Whether neighbouring threads read along the reduction."""
    chunks: int
    """Parts of each reduction, in blocks of their own, whose results a second kernel combines."""


def reduction_layout(kept: Access, summed: Access) -> Layout:
    """Neighbouring threads read neighbouring entries; few results with much to reduce each are split."""
    entries, length = _positions(kept), _positions(summed)
    along = _least_stride(summed) < _least_stride(kept) or entries == 1
    most = THREADS if along else max(1, THREADS // 32)
    lanes = 1
    while lanes < min(length, most):
        lanes *= 2
    if not along and entries < 32:  # few results: the threads that have none help with the reduction
        while lanes * entries < THREADS and lanes < length and lanes < THREADS:
            lanes *= 2
    blocks = -(-entries * lanes // THREADS)
    chunks = min(256, length // 4096) if blocks < 64 else 1
    return Layout(lanes, along, max(1, chunks))


def _positions(access: Access) -> int:
    return prod(digit.size for digit in access.digits)


def _least_stride(access: Access) -> float:
    return min((abs(digit.stride) for digit in access.digits if digit.stride), default=float("inf"))


def reduction(
    name: str, out: int, view: View, axes: Sequence[int], values: Sequence[Value], layout: Layout | None = None,
    points: Sequence[Point] = (),
) -> Kernel:  # fmt: skip
    """The entries of a view reduced over some of its axes; of a run's positions, where `points` computes them."""
    kept = accessed(_axes_of(view, [k for k in range(len(view.shape)) if k not in axes]))
    summed = accessed(_axes_of(view, list(axes)))._replace(offset=0)
    layout = layout or reduction_layout(kept, summed)
    entries, length = _positions(kept), _positions(summed)
    dtype = values[out].dtype
    T, t = CTYPE[dtype.name], dtype.name
    at = f"{kept.place('o')} + {summed.place('r')}"
    if points:
        body, source = Body(points, [points[-1].out], values, view.size), points[-1].out
        element = f"{body.type(source)} v; {body.index} i = {at}; {body.call('i', body.loaded('i'), ['&v'])}"
    else:
        body, source = Body([], [], values, _reach(view)), view.root
        element = f"{body.type(source)} v = {body.pointer(source)}[{at}];"
    value = "(v != 0)" if name in ("all", "any", "count_nonzero") else "v"
    combine = COMBINED[name].replace("{t}", t)
    helpers = set(body.helpers)
    if name in ("max", "min"):
        if dtype.kind == "b":
            combine = COMBINED["any" if name == "max" else "all"]
        else:
            helpers.add(("maximum" if name == "max" else "minimum", t))
    lanes, columns = layout.lanes, THREADS // layout.lanes
    lane, column = (f"% {lanes}", f"/ {lanes}") if layout.along else (f"/ {columns}", f"% {columns}")
    apart = "h" if layout.along else f"h * {columns}"
    idx, start = body.index, f" + blockIdx.y * {lanes}" if layout.chunks > 1 else ""
    lines = [
        f"int lane = threadIdx.x {lane};",
        f"{idx} o = blockIdx.x * ({idx}){columns} + threadIdx.x {column};",
        f"{T} sum = {literal(_identity(name, dtype), dtype)};",
        f"if (o < {entries}) for ({idx} r = lane{start}; r < {length}; r += {lanes * layout.chunks}) {{",
        f"  {element}",
        f"  sum = {combine.format(a='sum', b=f'({T}){value}')};",
        "}",
    ]
    if lanes > 1:
        both = combine.format(a="shared[threadIdx.x]", b=f"shared[threadIdx.x + {apart}]")
        lines += [
            f"SHARED {T} shared[{THREADS}];",
            "shared[threadIdx.x] = sum;",
            "SYNC;",
            f"for (int h = {lanes // 2}; h > 0; h /= 2) {{",
            f"  if (lane < h) shared[threadIdx.x] = {both};",
            "  SYNC;",
            "}",
            "sum = shared[threadIdx.x];",
        ]
    target = f"blockIdx.y * ({idx}){entries} + o" if layout.chunks > 1 else "o"
    lines.append(f"if (lane == 0 && o < {entries}) q0[{target}] = sum;")
    kernel = f"KERNEL @({body.parameters([out])}) {{\n  {_joined(lines)}\n}}\n"
    text = body.text + kernel if points else kernel
    grid = (-(-entries // columns), layout.chunks)
    return Kernel(text, tuple(body.reads), (out,), grid, frozenset(helpers))


def _axes_of(view: View, axes: Sequence[int]) -> View:
    return view._replace(shape=tuple(view.shape[k] for k in axes), strides=tuple(view.strides[k] for k in axes))


def _reach(view: View) -> int:
    """More than the largest position that a view names."""
    return view.offset + sum(n * abs(s) for n, s in zip(view.shape, view.strides, strict=True)) + 1


# -- sums at positions, running sums -----------------------------------------------------------------------------------
ADDED = {"int64": "unsigned long long", "uint64": "unsigned long long"}


def scatter(out: int, source: Access, target: Access, positions: Access, stride: int, size: int,
            values: Sequence[Value]) -> Kernel:  # fmt: skip
    """Add each entry of `source` where `positions` puts it, in an array that was filled before."""
    count = _positions(source)
    taken = Body([], [], values, count)
    dtype = values[out].dtype
    T = CTYPE[dtype.name]
    p, at = taken.pointer(source.root), taken.pointer(positions.root)
    word = ADDED.get(dtype.name, T)
    lines = [
        f"{taken.index} i = blockIdx.x * ({taken.index})blockDim.x + threadIdx.x;",
        f"if (i >= {count}) return;",
        f"long long at = (long long){at}[{positions.place('i')}] % {size};",
        f"if (at < 0) at += {size};",
        f"atomicAdd(({word}*)(q0 + ({target.place('i')} + at * {stride})), ({word}){p}[{source.place('i')}]);",
    ]
    text = f"KERNEL @({taken.parameters([out])}) {{\n  {_joined(lines)}\n}}\n"
    return Kernel(text, tuple(taken.reads), (out,), (-(-count // THREADS), 1))


def running_sum(out: int, view: View, axis: int, reverse: bool, values: Sequence[Value]) -> Kernel:
    """One thread for each line along the axis."""
    lines_of = [k for k in range(len(view.shape)) if k != axis]
    source = accessed(_axes_of(view, lines_of))
    inner = prod(view.shape[axis + 1 :])
    n, stride = view.shape[axis], view.strides[axis]
    count = _positions(source)
    body = Body([], [], values, max(_reach(view), view.size))
    p, T = body.pointer(view.root), CTYPE[values[out].dtype.name]
    k = f"{n - 1} - k" if reverse else "k"
    lines = [
        f"{body.index} o = blockIdx.x * ({body.index})blockDim.x + threadIdx.x;",
        f"if (o >= {count}) return;",
        f"{body.index} to = o / {inner} * {n * inner} + o % {inner}, from = {source.place('o')};",
        f"{T} sum = 0;",
        f"for (int k = 0; k < {n}; ++k) {{",
        f"  sum += ({T}){p}[from + ({k}) * {stride}];",
        f"  q0[to + ({k}) * {inner}] = sum;",
        "}",
    ]
    text = f"KERNEL @({body.parameters([out])}) {{\n  {_joined(lines)}\n}}\n"
    return Kernel(text, tuple(body.reads), (out,), (-(-count // THREADS), 1))


def scalars_kernel(slots: Sequence[int], dtypes: Sequence[Any]) -> Kernel:
    """Numbers from the host into memory, as parameters: they are copied when it is launched, and nothing waits."""
    values = [f"{CTYPE[np.dtype(dtype).name]} x{k}" for k, dtype in enumerate(dtypes)]
    pointers = [f"{CTYPE[np.dtype(dtype).name]}* q{k}" for k, dtype in enumerate(dtypes)]
    lines = [f"*q{k} = x{k};" for k in range(len(slots))]
    text = f"KERNEL @({', '.join([*pointers, *values])}) {{\n  {_joined(lines)}\n}}\n"
    return Kernel(text, (), tuple(slots), (1, 1), block=1)
