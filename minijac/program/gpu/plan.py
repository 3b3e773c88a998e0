"""What a program becomes on the GPU: kernels, matmuls and calls of CuPy in order, and one block of memory for them.

Views cost nothing, elementwise operations are fused into runs, and a run whose only reader is a reduction becomes part
of it. The plan knows shapes and dtypes alone: it needs no GPU, and the tests carry it out on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...algebra.labels import labels_in
from ...ops.families import Structural
from ..ir import Instruction, Program, Value
from .access import (
    Access,
    Digit,
    View,
    accessed,
    broadcast,
    labelled_strides,
    parts_of,
    placed,
    relabelled,
    reshaped,
    row_major,
    whole,
)
from .fuse import MOST_POINTS, MOST_READS, Fusion, Reduce, Run
from .gemm import Gemm, products
from .math import CTYPE, Unsupported, expression, loop_dtypes
from .source import (
    REDUCTIONS,
    Constant,
    Kernel,
    Load,
    Operand,
    Placed,
    Point,
    Register,
    Taken,
    Windowed,
    accesses_of,
    fill,
    map_kernel,
    reads_of,
    reduction,
    reduction_layout,
    running_sum,
    scatter,
)

__all__ = ["Foreign", "Plan", "plan_of"]

COPY = Structural("copy", lambda x: x.copy())
LONGEST_SCAN = 4096
CHEAP = 1 << 18
"""Bytes of a result that are written in less time than a launch takes."""


class Foreign(NamedTuple):
    """An operation that no kernel is generated for: it is called with CuPy's arrays, between two graphs."""

    step: Instruction
    operands: tuple[View | int, ...]
    """Views of memory, and the numbers of values that the host knows."""
    writes: tuple[int, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        return tuple(view.root for view in self.operands if isinstance(view, View))


Step = Kernel | Gemm | Foreign


class Plan(NamedTuple):
    """Steps in order, each with the values that it reads and writes, and what is known of every value's memory."""

    values: list[Value]
    steps: list[Step]
    host: list[Instruction]
    """Operations on numbers, which the host carries out."""
    slots: dict[int, int]
    """Numbers that kernels read, to the value that stands for their place in memory."""
    outputs: list[int]
    """For each output the number of a value that the host knows, or of one with memory of its own."""
    on_host: set[int]


def plan_of(program: Program, memory: Callable[[Any], tuple[tuple[int, ...], bool]]) -> Plan:
    """Plan a program. ``memory(array)`` gives a captured array's strides, and whether vectors may be read from it."""
    return _Planner(program, memory).plan()


class _Planner:
    def __init__(self, program: Program, memory: Callable[[Any], tuple[tuple[int, ...], bool]]) -> None:
        self.program = program
        self.values = list(program.values)
        self.views: dict[int, View] = {}
        self.steps: list[Any] = []
        self.made: dict[int, int] = {}  # computed values, to the position of their step
        self.runs: dict[int, list[int]] = {}  # positions of runs by their sizes
        self.host: list[Instruction] = []
        self.on_host: set[int] = set()
        self.slots: dict[int, int] = {}
        self.unaligned: set[int] = set()
        for n, value in enumerate(self.values):
            if value.kind == "computed" or (value.kind == "captured" and value.content is None):
                continue
            if (value.shape == () and value.number is not None) or isinstance(value.content, str):
                self.on_host.add(n)
                continue
            self.views[n] = whole(n, value.shape)
            if value.kind == "captured":
                strides, aligned = memory(value.content)
                self.views[n] = View(n, value.shape, strides)
                if not aligned:
                    self.unaligned.add(n)

    def plan(self) -> Plan:
        for step in self.program.instructions:
            self.add(step)
        taken: set[int] = set()
        outputs = [self._output(n, taken) for n in self.program.outputs]
        fusion = Fusion(self.steps, self.made, self.values, set(outputs))
        fusion.carry_out()
        steps = self._kernels(fusion)
        return Plan(self.values, steps, self.host, self.slots, outputs, self.on_host)

    def _output(self, n: int, taken: set[int]) -> int:
        """The value whose memory an output is: one for each, in row-major order."""
        if n in self.on_host:
            return n
        view = self.views[n]
        value = self.values[view.root]
        if view.root in self.made and view.root not in taken and view.contiguous and view.size == prod(value.shape):
            taken.add(view.root)
            self.values[view.root] = value._replace(shape=view.shape)
            return view.root
        try:
            return self.copied(view).root
        except Unsupported:  # a dtype that no kernel takes
            copy = Instruction(COPY, (n,), {}, self.new(view.shape, self.values[view.root].dtype))
            self.define(copy.out, Foreign(copy, (view,), (copy.out,)))
            return copy.out

    # -- values --------------------------------------------------------------------------------------------------------
    def new(self, shape: tuple[int, ...], dtype: Any) -> int:
        self.values.append(Value(shape, np.dtype(dtype), "computed"))
        return len(self.values) - 1

    def define(self, n: int, step: Any) -> View:
        """A step that makes a value."""
        self.steps.append(step)
        self.made[n] = len(self.steps) - 1
        self.views[n] = whole(n, self.values[n].shape)
        return self.views[n]

    def copied(self, view: View, dtype: Any = None) -> View:
        """A view as memory of its own, in row-major order."""
        dtype = dtype or self.values[view.root].dtype
        self.check_dtype(dtype, self.values[view.root].dtype)
        n = self.new(view.shape, dtype)
        return self.point(n, [Load(accessed(view))])

    def device(self, n: int) -> View:
        """The memory of a value in its own dtype, also where the host knows it."""
        if n not in self.views:
            view, dtype = self.slot(n), self.values[n].dtype
            self.views[n] = view if self.values[view.root].dtype == dtype else self.copied(view, dtype)
        return self.views[n]

    def slot(self, n: int) -> View:
        """The place in memory of a number that the host knows."""
        if n not in self.slots:
            dtype = {"b": np.int64, "i": np.int64, "u": np.uint64, "f": np.float64}.get(self.values[n].dtype.kind)
            if dtype is None:
                raise Unsupported(f"a number of {self.values[n].dtype}")
            self.slots[n] = self.new((), dtype)
            self.views[self.slots[n]] = whole(self.slots[n], ())
        return self.views[self.slots[n]]

    def check_dtype(self, *dtypes: Any) -> None:
        for dtype in dtypes:
            if np.dtype(dtype).name not in CTYPE:
                raise Unsupported(f"an array of {dtype}")

    # -- one instruction -----------------------------------------------------------------------------------------------
    def add(self, step: Instruction) -> None:
        if all(n in self.on_host for n in step.args) and self.values[step.out].shape == ():
            self.host.append(step)
            self.on_host.add(step.out)
            return
        try:
            self.lower(step)
        except Unsupported:
            operands = tuple(n if n in self.on_host else self.views[n] for n in step.args)
            self.define(step.out, Foreign(step, operands, (step.out,)))

    def lower(self, step: Instruction) -> None:
        name, out = step.op.name, self.values[step.out]
        if 0 in out.shape:
            self.define(step.out, None)
        elif name == "matmul":
            self.define_matmul(step)
        elif name in REDUCTIONS:
            self.reduce(step)
        elif name == "reshape":
            view = self.device(step.args[0])
            self.views[step.out] = reshaped(view, out.shape) or reshaped(self.copied(view), out.shape)  # type: ignore[assignment]
        elif name in ("take", "gather"):
            self.take(step)
        elif name in ("deposit", "scatter"):
            self.scatter(step)
        elif name == "cumsum":
            self.cumsum(step)
        elif name == "patches":
            self.patches(step)
        elif name == "unpatches":
            self.unpatches(step)
        elif isinstance(step.op, Structural):
            self.structural(step)
        else:
            self.elementwise(step)

    def elementwise(self, step: Instruction) -> None:
        loop_dtypes(step, self.values)
        expression(step, self.values, ["x"] * len(step.args))
        self.check_dtype(self.values[step.out].dtype, *(self.values[n].dtype for n in step.args))
        shape = self.values[step.out].shape
        operands: list[Operand] = []
        for n in step.args:
            value = self.values[n]
            if n in self.on_host and value.kind == "constant":
                operands.append(Constant(value.content, value.dtype))
            else:
                view = self.slot(n) if n in self.on_host else self.views[n]
                operands.append(Load(accessed(broadcast(view, shape))))
        self.point(step.out, operands, step)

    def point(self, out: int, operands: Sequence[Operand], step: Instruction | None = None) -> View:
        """Add an operation to a run that reads or makes one of its operands, or to one of its own."""
        value = self.values[out]
        self.check_dtype(value.dtype)
        size = prod(value.shape)
        point = Point(out, tuple(operands), step)
        reads = set(reads_of([point]))
        first = max((self.made[n] for n in reads if n in self.made), default=0)
        # what has nothing in common with a run joins it where a launch costs more, or where it only moves entries
        alone = size * value.dtype.itemsize <= CHEAP or not any(isinstance(x, Load | Register) for x in operands)
        for position in self.runs.get(size, ()):
            run = self.steps[position]
            if position < first or len(run.points) >= MOST_POINTS:
                continue
            own = [self._in_run(operand, run) for operand in operands]
            related = alone or reads & run.members or reads & run.touched
            if None in own or not related or len(run.touched | reads) > MOST_READS:
                continue
            run.add(point._replace(operands=tuple(own)))  # type: ignore[arg-type]
            self.made[out] = position
            self.views[out] = whole(out, value.shape)
            return self.views[out]
        self.runs.setdefault(size, []).append(len(self.steps))
        return self.define(out, Run(size, point))

    def _in_run(self, operand: Operand, run: Run) -> Operand | None:
        """An operand as a run may read it: what the run itself makes only at the same position."""
        roots = [access.root for access in accesses_of(operand)]
        if not run.members.intersection(roots):
            return operand
        return Register(roots[0]) if operand == run.load(roots[0]) else None

    # -- structure -----------------------------------------------------------------------------------------------------
    def structural(self, step: Instruction) -> None:
        out = self.values[step.out]
        shapes = [self.values[n].shape for n in step.args]
        if any(meets for _, _, meets in step.params.get("parts", ())):
            raise Unsupported("superpose of parts that meet")
        views = [self.device(n) for n in step.args]
        if step.op.name == "broadcast_to":
            self.views[step.out] = broadcast(views[0], out.shape)
            return
        found: list[Access] = []
        for k, view in enumerate(views):
            if not view.size:
                continue
            parts = parts_of(step, k, shapes, out.shape)
            if parts is None or any(part.scale != 1.0 or part.factors for part in parts):
                raise Unsupported(step.op.name)
            for part in parts:
                strides, offset = labelled_strides(view, part.inp)
                kept = labels_in(part.out)
                gone = [label for label in strides if label not in kept and label.size > 1]
                root = view.root
                if gone:
                    root, strides, offset = self._summed(root, strides, offset, gone)
                one = relabelled(root, strides, offset, part.out, out.shape)
                if one is not None and len(views) == len(parts) == 1:
                    self.views[step.out] = one
                    return
                found.append(placed(root, strides, offset, part.out))
        background = step.params.get("constant", 0)
        if np.ndim(background):
            raise Unsupported("pad with a constant for each side")
        if not found:
            self.point(step.out, [Constant(background, out.dtype)])
        elif len(found) == 1 and found[0].plain:
            self.point(step.out, [Load(found[0])])
        else:
            self.check_dtype(*(self.values[access.root].dtype for access in found))
            parts_read = [self._converted(access, out.dtype) for access in found]
            self.point(step.out, [Placed(tuple(parts_read), background)])

    def _converted(self, access: Access, dtype: Any) -> Access:
        value = self.values[access.root]
        if value.dtype == dtype:
            return access
        copy = self.copied(whole(access.root, value.shape), dtype)  # parts of one result have one type
        return access._replace(root=copy.root)

    def _summed(
        self, root: int, strides: dict[Any, int], offset: int, gone: Sequence[Any]
    ) -> tuple[int, dict[Any, int], int]:
        rest = [label for label in strides if label not in gone]
        labels = [*rest, *gone]
        view = View(root, tuple(x.size for x in labels), tuple(strides[x] for x in labels), offset)
        n = self.new(tuple(x.size for x in rest), self.values[root].dtype)
        self.define_reduction("sum", n, view, tuple(range(len(rest), len(labels))))
        return n, dict(zip(rest, row_major(self.values[n].shape), strict=True)), 0

    def patches(self, step: Instruction) -> None:
        view, out = self.device(step.args[0]), self.values[step.out]
        n = len(step.params["kernel"])
        lead, steps = view.strides[: -n or None], view.strides[len(view.strides) - n :]
        windows = tuple(s * t for s, t in zip(step.params["stride"], steps, strict=True))
        inside = tuple(d * t for d, t in zip(step.params["dilation"], steps, strict=True))
        self.views[step.out] = View(view.root, out.shape, (*lead, *windows, *inside), view.offset)

    def unpatches(self, step: Instruction) -> None:
        view, out, p = self.device(step.args[0]), self.values[step.out], step.params
        self.check_dtype(out.dtype)
        n = len(p["kernel"])
        lead = len(view.shape) - 2 * n
        digits = [Digit(*each) for each in zip(view.shape[:lead], view.strides[:lead], strict=True)]
        digits += [Digit(size, 0) for size in p["size"]]
        axes = tuple(zip(
            p["size"], p["kernel"], p["stride"], p["dilation"], view.shape[lead : lead + n],
            view.strides[lead : lead + n], view.strides[lead + n :], strict=True,
        ))  # fmt: skip
        self.point(step.out, [Windowed(Access(view.root, tuple(digits), view.offset), axes)])

    # -- reductions ----------------------------------------------------------------------------------------------------
    def reduce(self, step: Instruction) -> None:
        view, out = self.device(step.args[0]), self.values[step.out]
        self.check_dtype(out.dtype, self.values[view.root].dtype)
        if set(step.params) - {"axis", "keepdims"}:
            raise Unsupported(f"{step.op.name} with {', '.join(step.params)}")
        axis = step.params.get("axis")
        axes = range(len(view.shape)) if axis is None else (axis,) if isinstance(axis, int | np.integer) else axis
        self.define_reduction(step.op.name, step.out, view, tuple(int(k) % len(view.shape) for k in axes))

    def define_reduction(self, name: str, out: int, view: View, axes: tuple[int, ...]) -> None:
        self.check_dtype(self.values[out].dtype, self.values[view.root].dtype)
        if not view.size and name in ("max", "min"):
            raise Unsupported(f"{name} of nothing")
        self.define(out, Reduce(name, out, view, axes))

    def cumsum(self, step: Instruction) -> None:
        view, out, axis = self.device(step.args[0]), self.values[step.out], step.params["axis"]
        self.check_dtype(out.dtype, self.values[view.root].dtype)
        if view.shape[axis] > LONGEST_SCAN:
            raise Unsupported("a long running sum")
        reverse = step.params.get("reverse", False)
        self.define(step.out, running_sum(step.out, view, axis, reverse, self.values))

    # -- positions -----------------------------------------------------------------------------------------------------
    def take(self, step: Instruction) -> None:
        view, positions = (self.device(n) for n in step.args)
        self.check_dtype(self.values[step.out].dtype, self.values[positions.root].dtype)
        if self.values[positions.root].dtype.kind not in "iu" or view.size == 0:
            raise Unsupported("take at what are no numbers")
        if step.op.name == "take":
            axis = step.params["axis"] % len(view.shape)
        else:
            axis = step.params.get("lead", 0)
            flat = (*view.shape[:axis], prod(view.shape[axis:]))
            view = reshaped(view, flat) or reshaped(self.copied(view), flat)  # type: ignore[assignment]
        access, at = _along(view, axis, positions)
        self.point(step.out, [Taken(access, at, view.strides[axis], view.shape[axis])])

    def scatter(self, step: Instruction) -> None:
        view, positions = (self.device(n) for n in step.args)
        out = self.values[step.out]
        if out.dtype.name not in ("float32", "float64", "int32", "uint32", "int64", "uint64"):
            raise Unsupported(f"sums of {out.dtype} at positions")
        if self.values[positions.root].dtype.kind not in "iu" or self.values[view.root].dtype != out.dtype:
            raise Unsupported("sums at what are no numbers")
        if step.op.name == "deposit":
            axis = step.params["axis"]
            target = whole(step.out, out.shape)
        else:
            axis = step.params.get("lead", 0)
            target = whole(step.out, (*out.shape[:axis], prod(out.shape[axis:])))
        access, at = _along(target, axis, positions)
        self.define(step.out, None)
        self.steps[-1] = [
            fill(step.out, prod(out.shape), self.values),
            *(
                [scatter(step.out, _digits(view), access, at, target.strides[axis], target.shape[axis], self.values)]
                if view.size
                else []
            ),
        ]

    # -- matmul --------------------------------------------------------------------------------------------------------
    def define_matmul(self, step: Instruction) -> None:
        out = self.values[step.out]
        if out.dtype.name not in ("float32", "float64"):
            raise Unsupported(f"matmul of {out.dtype}")
        a, b = (self.device(n) for n in step.args)
        a, b = (view if self.values[view.root].dtype == out.dtype else self.copied(view, out.dtype) for view in (a, b))
        if not a.size:
            self.define(step.out, fill(step.out, prod(out.shape), self.values))
            return
        self.define(step.out, products(step.out, a, b, out, self.copied))

    # -- the end -------------------------------------------------------------------------------------------------------
    def _kernels(self, fusion: Fusion) -> list[Step]:
        steps: list[Step] = []
        for position, step in enumerate(self.steps):
            if isinstance(step, Run):
                stored = [point.out for point in step.points if point.out in fusion.stored(position)]
                step.keep(set(stored))
                if stored:
                    steps.append(map_kernel(step.points, stored, step.size, self.values, self.unaligned))
            elif isinstance(step, Reduce):
                steps += self._reduction(step)
            elif isinstance(step, list):
                steps += step
            elif step is not None:
                steps.append(step)
        return steps

    def _reduction(self, step: Reduce) -> list[Kernel]:
        """One kernel, or two where few results are made of much."""
        axes = step.axes
        kept = [k for k in range(len(step.view.shape)) if k not in axes]
        shape = tuple(step.view.shape[k] for k in kept)
        if not step.view.size:
            return [fill(step.out, prod(shape), self.values, step.name == "all")]
        layout = reduction_layout(*(accessed(_part(step.view, which)) for which in (kept, axes)))
        if layout.chunks == 1:
            return [reduction(step.name, step.out, step.view, axes, self.values, layout, step.points)]
        dtype = self.values[step.out].dtype
        n = self.new((layout.chunks, prod(shape)), dtype)
        first = reduction(step.name, n, step.view, axes, self.values, layout, step.points)
        again = "sum" if step.name == "count_nonzero" else step.name
        return [first, reduction(again, step.out, whole(n, self.values[n].shape), (0,), self.values)]


def _part(view: View, axes: Sequence[int]) -> View:
    return view._replace(shape=tuple(view.shape[k] for k in axes), strides=tuple(view.strides[k] for k in axes))


def _digits(view: View) -> Access:
    return Access(view.root, tuple(Digit(n, s) for n, s in zip(view.shape, view.strides, strict=True)), view.offset)


def _along(view: View, axis: int, positions: View) -> tuple[Access, Access]:
    """For results whose axis is replaced by those of the positions: what is read of the rest, and of the positions."""
    lead, tail = view.shape[:axis], view.shape[axis + 1 :]
    zeros = tuple(Digit(n, 0) for n in positions.shape)
    rest = [Digit(n, s) for n, s in zip(view.shape, view.strides, strict=True)]
    at = (
        *(Digit(n, 0) for n in lead),
        *(Digit(n, s) for n, s in zip(positions.shape, positions.strides, strict=True)),
        *(Digit(n, 0) for n in tail),
    )
    return (
        Access(view.root, (*rest[:axis], *zeros, *rest[axis + 1 :]), view.offset),
        Access(positions.root, at, positions.offset),
    )
