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

from ...ops.scalars import SCALARS
from ...strides import View
from ...tape.op import Reduction
from ..ir import Value
from .access import Access, accessed
from .math import CTYPE, PRELUDE, functions_of, in_c, literal
from .operands import Body, Constant, Point

__all__ = [
    "Kernel", "fill", "map_kernel", "module_source", "reduction", "running_sum", "scalars_kernel", "scatter",
]  # fmt: skip

THREADS = 256


class Kernel(NamedTuple):
    """A kernel and how it is launched. In the text its name is ``@``."""

    text: str
    reads: tuple[int, ...]
    """The values whose memory it takes, in the order of its parameters; then those that it writes."""
    writes: tuple[int, ...]
    grid: tuple[int, int]
    called: frozenset[tuple[str, str]] = frozenset()
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
        *functions_of({each for kernel in kernels for each in kernel.called}),
    ]
    parts += [text.replace("@", name) for text, name in names.items()]
    return "\n".join(parts), [names[kernel.text] for kernel in kernels]


def _kernel(
    body: Body, lines: Sequence[str], writes: Sequence[int], grid: tuple[int, int], vectors: Any = (), own: str = ""
) -> Kernel:
    """The kernel of some lines, which may call the function `own`."""
    inner = "\n  ".join(lines)
    text = f"{own}KERNEL @({body.parameters(writes)}) {{\n  {inner}\n}}\n"
    return Kernel(text, tuple(body.reads), tuple(writes), grid, frozenset(body.called), frozenset(vectors))


def _each(body: Body, count: int, lines: Sequence[str], out: int) -> Kernel:
    """One thread for each of `count` positions `i`."""
    i = f"{body.index} i = blockIdx.x * ({body.index})blockDim.x + threadIdx.x;"
    return _kernel(body, [i, f"if (i >= {count}) return;", *lines], [out], (-(-count // THREADS), 1))


# -- one thread for each entry, or for each vector of entries ----------------------------------------------------------
def map_kernel(
    points: Sequence[Point], stored: Sequence[int], size: int, values: Sequence[Value], unaligned: Any = ()
) -> Kernel:
    """A fused run over `size` positions, which writes the values `stored`. No vectors are read from `unaligned`."""
    body = Body(points, stored, values, size)
    width = _width(body, stored, size, unaligned)
    one = body.call("i", body.loaded("i"), [f"q{k} + i" for k in range(len(stored))])
    first = f"{body.index} i = (blockIdx.x * ({body.index})blockDim.x + threadIdx.x)"
    vectors: set[tuple[str, int]] = set()
    if width == 1:
        lines = [f"{first};", f"if (i < {size}) {one}"]
    else:
        lanes, vectors = _vectors(body, stored, width)
        whole = "\n    ".join(lanes)
        lines = [f"{first} * {width};", f"if (i + {width} <= {size}) {{\n    {whole}\n  }}"]
        if size % width:
            lines.append(f"else for (; i < {size}; ++i) {one}")
    return _kernel(body, lines, stored, (-(-size // (width * THREADS)), 1), vectors, body.text)


def _vectors(body: Body, stored: Sequence[int], width: int) -> tuple[list[str], set[tuple[str, int]]]:
    """A vector of entries: loaded, computed one by one, and stored; and the types that it takes."""
    lines, loads = [], []
    types = [body.type(n) for n in stored]
    vectors = set(types)
    for access, name in body.loads.items():
        T, p, at = body.type(access.root), body.reads[access.root], access.place("i")
        if _inner_stride(access):
            vectors.add(T)
            vector = _vector(T, width)
            lines.append(f"const {vector} {name} = *(const {vector}*)({p} + {at});")
            loads.append(f"{name}.v[l]")
        else:
            lines.append(f"const {T} {name} = {p}[{at}];")
            loads.append(name)
    lines += [f"{_vector(T, width)} y{k};" for k, T in enumerate(types)]
    call = body.call("i + l", loads, [f"&y{k}.v[l]" for k in range(len(stored))])
    lines += ["UNROLL", f"for (int l = 0; l < {width}; ++l) {call}"]
    lines += [f"*({_vector(T, width)}*)(q{k} + i) = y{k};" for k, T in enumerate(types)]
    return lines, {(T, width) for T in vectors}


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
    return map_kernel([Point(n, (Constant(value),))], [n], size, values)


# -- reductions --------------------------------------------------------------------------------------------------------
def _identity(how: Reduction, dtype: Any) -> Any:
    if how.identity is not None:
        return how.identity
    low = how.combine is np.maximum
    if dtype.kind == "f":
        return -np.inf if low else np.inf
    return not low if dtype.kind == "b" else getattr(np.iinfo(dtype), "min" if low else "max")


class Sharing(NamedTuple):
    """How threads share a reduction: `lanes` of them for each result, neighbours along it or along the results."""

    lanes: int
    along: bool
    """Whether neighbouring threads read along the reduction."""
    chunks: int
    """Parts of each reduction, in blocks of their own, whose results a second kernel combines."""


def _sharing(kept: Access, summed: Access) -> Sharing:
    """Neighbouring threads read neighbouring entries; few results with much to reduce each are split."""
    entries, length = kept.size, summed.size
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
    return Sharing(lanes, along, max(1, chunks))


def _least_stride(access: Access) -> float:
    return min((abs(digit.stride) for digit in access.digits if digit.stride), default=float("inf"))


def reduction(
    how: Reduction, out: int, view: View, axes: Sequence[int], values: list[Value], points: Sequence[Point] = ()
) -> list[Kernel]:
    """The entries of a view reduced over some of its axes; of a run's positions, where `points` computes them.

    One kernel, or two where few results are made of much.
    """
    kept = accessed(view.of([k for k in range(len(view.shape)) if k not in axes]))
    summed = accessed(view.of(axes))._replace(offset=0)
    if not view.size:
        return [fill(out, kept.size, values, how.identity)]
    shared = _sharing(kept, summed)
    if shared.chunks == 1:
        return [_reduced(how, out, view, kept, summed, shared, values, points)]
    shape = (shared.chunks, kept.size)
    values.append(Value(shape, values[out].dtype, "computed"))
    n = len(values) - 1
    first = _reduced(how, n, view, kept, summed, shared, values, points)
    return [first, *reduction(how._replace(counts=False), out, View.whole(shape, n), (0,), values)]


def _reduced(
    how: Reduction, out: int, view: View, kept: Access, summed: Access, shared: Sharing, values: Sequence[Value],
    points: Sequence[Point],
) -> Kernel:  # fmt: skip
    entries, length, dtype = kept.size, summed.size, values[out].dtype
    T, at = CTYPE[dtype.name], f"{kept.place('o')} + {summed.place('r')}"
    if points:
        body, source = Body(points, [points[-1].out], values, view.size), points[-1].out
        element = f"{body.type(source)} v; {body.index} i = {at}; {body.call('i', body.loaded('i'), ['&v'])}"
    else:
        body, source = Body([], [], values, _reach(view)), view.root
        element = f"{body.type(source)} v = {body.pointer(source)}[{at}];"

    def combined(a: str, b: str) -> str:
        text, called = in_c(SCALARS[how.combine], dtype, [a, b])
        body.called.update(called)
        return f"{a} = {text};"

    entry = f"({T})(v != 0)" if how.counts else f"({T})v"
    lanes, columns = shared.lanes, THREADS // shared.lanes
    lane, column = (f"% {lanes}", f"/ {lanes}") if shared.along else (f"/ {columns}", f"% {columns}")
    idx, start = body.index, f" + blockIdx.y * {lanes}" if shared.chunks > 1 else ""
    lines = [
        f"int lane = threadIdx.x {lane};",
        f"{idx} o = blockIdx.x * ({idx}){columns} + threadIdx.x {column};",
        f"{T} sum = {literal(_identity(how, dtype), dtype)};",
        f"if (o < {entries}) for ({idx} r = lane{start}; r < {length}; r += {lanes * shared.chunks}) {{",
        f"  {element}",
        f"  {combined('sum', entry)}",
        "}",
    ]
    if lanes > 1:
        apart = "h" if shared.along else f"h * {columns}"
        lines += [
            f"SHARED {T} shared[{THREADS}];",
            "shared[threadIdx.x] = sum;",
            "SYNC;",
            f"for (int h = {lanes // 2}; h > 0; h /= 2) {{",
            f"  if (lane < h) {combined('shared[threadIdx.x]', f'shared[threadIdx.x + {apart}]')}",
            "  SYNC;",
            "}",
            "sum = shared[threadIdx.x];",
        ]
    target = f"blockIdx.y * ({idx}){entries} + o" if shared.chunks > 1 else "o"
    lines.append(f"if (lane == 0 && o < {entries}) q0[{target}] = sum;")
    return _kernel(body, lines, [out], (-(-entries // columns), shared.chunks), own=body.text if points else "")


def _reach(view: View) -> int:
    """More than the largest position that a view names."""
    return view.offset + sum(n * abs(s) for n, s in zip(view.shape, view.strides, strict=True)) + 1


# -- sums at positions, running sums -----------------------------------------------------------------------------------
ADDED = {"int64": "unsigned long long", "uint64": "unsigned long long"}


def scatter(
    out: int, source: Access, target: Access, positions: Access, stride: int, size: int, values: Sequence[Value]
) -> Kernel:
    """Add each entry of `source` where `positions` puts it, in an array that was filled before."""
    body, dtype = Body([], [], values, source.size), values[out].dtype.name
    p, at, word = body.pointer(source.root), body.pointer(positions.root), ADDED.get(dtype, CTYPE[dtype])
    lines = [
        f"long long at = (long long){at}[{positions.place('i')}] % {size};",
        f"if (at < 0) at += {size};",
        f"atomicAdd(({word}*)(q0 + ({target.place('i')} + at * {stride})), ({word}){p}[{source.place('i')}]);",
    ]
    return _each(body, source.size, lines, out)


def running_sum(out: int, view: View, axis: int, reverse: bool, values: Sequence[Value]) -> Kernel:
    """One thread for each line along the axis."""
    source = accessed(view.of([k for k in range(len(view.shape)) if k != axis]))
    inner, n = prod(view.shape[axis + 1 :]), view.shape[axis]
    body = Body([], [], values, max(_reach(view), view.size))
    p, T, k = body.pointer(view.root), CTYPE[values[out].dtype.name], f"{n - 1} - k" if reverse else "k"
    lines = [
        f"{body.index} to = i / {inner} * {n * inner} + i % {inner}, from = {source.place('i')};",
        f"{T} sum = 0;",
        f"for (int k = 0; k < {n}; ++k) {{",
        f"  sum += ({T}){p}[from + ({k}) * {view.strides[axis]}];",
        f"  q0[to + ({k}) * {inner}] = sum;",
        "}",
    ]
    return _each(body, source.size, lines, out)


def scalars_kernel(slots: Sequence[int], dtypes: Sequence[Any]) -> Kernel:
    """Numbers from the host into memory, as parameters: they are copied when it is launched, and nothing waits."""
    types = [CTYPE[np.dtype(dtype).name] for dtype in dtypes]
    parameters = [f"{T}* q{k}" for k, T in enumerate(types)] + [f"{T} x{k}" for k, T in enumerate(types)]
    lines = " ".join(f"*q{k} = x{k};" for k in range(len(slots)))
    return Kernel(f"KERNEL @({', '.join(parameters)}) {{\n  {lines}\n}}\n", (), tuple(slots), (1, 1), block=1)
