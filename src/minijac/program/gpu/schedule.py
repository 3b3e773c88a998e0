"""What a program becomes on the GPU: kernels, matmuls and calls of CuPy in order.

Each operation is a view, part of a run, kernels or matmuls by what its record declares. Views cost nothing, elementwise
operations are fused into runs, and a run whose only reader is a reduction becomes part of it. The schedule knows shapes
and dtypes alone: it needs no GPU, and the tests carry it out on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from ...algebra.labels import Label, labels_in
from ...algebra.writing import strides_by_label
from ...ops.families import ADDED, Multilinear, Structural
from ...strides import View, row_major
from ...tape.op import Reduction
from ..ir import Instruction, Program, Value
from .access import Access, accessed, as_view, placed
from .draft import Draft, Memory
from .fusion import Fusion
from .gemm import products
from .kernels import fill, running_sum, scatter
from .math import Unsupported, check_dtype, expression
from .operands import Constant, Load, Operand, Placed, Taken
from .steps import Launch, Reduce

__all__ = ["Schedule", "scheduled"]

LONGEST_SCAN = 4096
COPY = Structural("copy", lambda x: x.copy())


class Schedule(NamedTuple):
    """Launches in order, each with the values that it reads and writes, and what is known of every value."""

    values: list[Value]
    launches: list[Launch]
    host: list[Instruction]
    """Operations on numbers, which the host carries out."""
    slots: dict[int, int]
    """Numbers that kernels read, to the value that stands for their place in memory."""
    outputs: list[int]
    """For each output the number of a value that the host knows, or of one with memory of its own."""
    on_host: set[int]


def scheduled(program: Program, memory: Memory) -> Schedule:
    """The schedule of a program."""
    draft = Draft(program, memory)
    for instruction in program.instructions:
        _add(draft, instruction)
    taken: set[int] = set()
    outputs = [_output(draft, n, taken) for n in program.outputs]
    fusion = Fusion(draft.steps, draft.made, draft.values, set(outputs))
    fusion.carry_out()
    launches: list[Launch] = []
    for position, step in enumerate(draft.steps):
        launches += step.launches(draft.values, fusion.stored(position), draft.unaligned)
    return Schedule(draft.values, launches, draft.host, draft.slots, outputs, draft.on_host)


def _output(draft: Draft, n: int, taken: set[int]) -> int:
    """The value whose memory an output is: one for each, in row-major order."""
    if n in draft.on_host:
        return n
    view = draft.views[n]
    value = draft.values[view.root]
    whole = view.contiguous and view.size == View.whole(value.shape).size
    if view.root in draft.made and view.root not in taken and whole:
        taken.add(view.root)
        draft.values[view.root] = value._replace(shape=view.shape)
        return view.root
    try:
        return draft.copied(view).root
    except Unsupported:  # a dtype that no kernel takes
        copy = Instruction(COPY, (n,), {}, draft.new(view.shape, value.dtype))
        return draft.called(copy, [view]).root


# -- one operation -----------------------------------------------------------------------------------------------------


def _add(draft: Draft, step: Instruction) -> None:
    """Add an operation to a draft; one without a kernel as a call of CuPy's."""
    if all(n in draft.on_host for n in step.args) and draft.values[step.out].shape == ():
        draft.host.append(step)
        draft.on_host.add(step.out)
        return
    try:
        _lower(draft, step)
    except Unsupported:
        draft.called(step, [n if n in draft.on_host else draft.views[n] for n in step.args])


def _lower(draft: Draft, step: Instruction) -> None:
    op = step.op
    if 0 in draft.values[step.out].shape:
        draft.ready(step.out)
    elif isinstance(op, Multilinear):
        _matmul(draft, step)
    elif op.reduction is not None:
        _reduce(draft, step, op.reduction)
    elif op.picks is not None:
        _take(draft, step)
    elif op.adds is not None:
        _scatter(draft, step)
    elif op.accumulates:
        _running_sum(draft, step)
    elif op.strided is not None:
        view, shape = draft.device(step.args[0]), draft.values[step.out].shape
        found = op.strided(view, shape, **step.params)
        draft.views[step.out] = found or op.strided(draft.copied(view), shape, **step.params)
    elif isinstance(op, Structural):
        _structural(draft, step)
    else:
        _elementwise(draft, step)


def _elementwise(draft: Draft, step: Instruction) -> None:
    expression(step, draft.values, lambda k, dtype: ("x", dtype))  # Unsupported where there is none
    check_dtype(*(draft.dtype(n) for n in (step.out, *step.args)))
    shape = draft.values[step.out].shape
    operands: list[Operand] = []
    for n in step.args:
        value = draft.values[n]
        if n in draft.on_host and value.kind == "constant":
            operands.append(Constant(value.content))
        else:
            view = draft.slot(n) if n in draft.on_host else draft.views[n]
            operands.append(Load(accessed(view.broadcast(shape))))
    draft.point(step.out, operands, step)


# -- by labels ---------------------------------------------------------------------------------------------------------
def _structural(draft: Draft, step: Instruction) -> None:
    out, shapes = draft.values[step.out], [draft.values[n].shape for n in step.args]
    views = [draft.device(n) for n in step.args]
    if any(meets for *_, meets in step.params.get("parts", ())):
        raise Unsupported("parts that meet")
    found: list[Access] = []
    for k, view in enumerate(views):
        if not view.size:
            continue
        parts = step.op.relation(k, out.shape, *shapes, **step.params)  # type: ignore[misc]
        if any(part.scale != 1.0 or part.factors for part in parts):
            raise Unsupported(step.op.name)
        for part in parts:
            strides, starts = strides_by_label(view, part.inp)
            offset = view.offset + sum(n * s for n, s in zip(starts, view.strides, strict=True))
            root, strides, offset = _summed(draft, view.root, strides, offset, labels_in(part.out))
            one = as_view(strides, offset, part.out, out.shape, root)
            if one is not None and len(views) == len(parts) == 1:
                draft.views[step.out] = one
                return
            found.append(placed(root, strides, offset, part.out))
    background = step.params.get("constant", 0)
    if np.ndim(background):
        raise Unsupported("pad with a constant for each side")
    if not found:
        draft.point(step.out, [Constant(background)])
    elif len(found) == 1 and found[0].plain:
        draft.point(step.out, [Load(found[0])])
    else:
        check_dtype(*(draft.dtype(access.root) for access in found))
        draft.point(step.out, [Placed(tuple(found), background)])


def _summed(
    draft: Draft, root: int, strides: dict[Label, int], offset: int, kept: dict[Label, None]
) -> tuple[int, dict[Label, int], int]:
    """The entries summed over the labels that the result lacks."""
    gone = [label for label in strides if label not in kept and label.size > 1]
    if not gone:
        return root, strides, offset
    rest = [label for label in strides if label not in gone]
    labels = [*rest, *gone]
    view = View(tuple(x.size for x in labels), tuple(strides[x] for x in labels), offset, root)
    n = draft.new(view.shape[: len(rest)], draft.dtype(root))
    _define_reduction(draft, ADDED, n, view, range(len(rest), len(labels)))
    return n, dict(zip(rest, row_major(draft.values[n].shape), strict=True)), 0


# -- reductions, running sums ------------------------------------------------------------------------------------------
def _reduce(draft: Draft, step: Instruction, how: Reduction) -> None:
    view = draft.device(step.args[0])
    if set(step.params) - {"axis", "keepdims"}:
        raise Unsupported(f"{step.op.name} with {', '.join(step.params)}")
    axis = step.params.get("axis")
    axes = range(len(view.shape)) if axis is None else (axis,) if isinstance(axis, int | np.integer) else axis
    _define_reduction(draft, how, step.out, view, [int(k) % len(view.shape) for k in axes])


def _define_reduction(draft: Draft, how: Reduction, out: int, view: View, axes: Sequence[int]) -> None:
    check_dtype(draft.dtype(out), draft.dtype(view.root))
    if not view.size and how.identity is None:
        raise Unsupported("the extreme of nothing")
    draft.define(out, Reduce(how, out, view, tuple(axes)))


def _running_sum(draft: Draft, step: Instruction) -> None:
    view, axis = draft.device(step.args[0]), step.params["axis"]
    check_dtype(draft.dtype(step.out), draft.dtype(view.root))
    if view.shape[axis] > LONGEST_SCAN:
        raise Unsupported("a long running sum")
    draft.ready(step.out, running_sum(step.out, view, axis, step.params.get("reverse", False), draft.values))


# -- positions ---------------------------------------------------------------------------------------------------------
def _take(draft: Draft, step: Instruction) -> None:
    view, positions = (draft.device(n) for n in step.args)
    check_dtype(draft.dtype(step.out), draft.dtype(positions.root))
    if draft.dtype(positions.root).kind not in "iu" or view.size == 0:
        raise Unsupported("take at what are no numbers")
    shape, axis = step.op.picks(view.shape, **step.params)  # type: ignore[misc]
    view = view.reshaped(shape) or draft.copied(view)._replace(shape=shape, strides=row_major(shape))
    rest, at = _along(view, axis, positions)
    draft.point(step.out, [Taken(accessed(rest), accessed(at), view.strides[axis], shape[axis])])


def _scatter(draft: Draft, step: Instruction) -> None:
    view, positions = (draft.device(n) for n in step.args)
    out = draft.values[step.out]
    if out.dtype.name not in ("float32", "float64", "int32", "uint32", "int64", "uint64"):
        raise Unsupported(f"sums of {out.dtype} at positions")
    if draft.dtype(positions.root).kind not in "iu" or draft.dtype(view.root) != out.dtype:
        raise Unsupported("sums at what are no numbers")
    shape, axis = step.op.adds(out.shape, **step.params)  # type: ignore[misc]
    target = View.whole(shape, step.out)
    rest, at = map(accessed, _along(target, axis, positions))
    launches = [fill(step.out, target.size, draft.values)]
    if view.size:
        stride, size = target.strides[axis], shape[axis]
        launches.append(scatter(step.out, accessed(view), rest, at, stride, size, draft.values))
    draft.ready(step.out, *launches)


def _along(view: View, axis: int, positions: View) -> tuple[View, View]:
    """Of results whose axis is replaced by those of the positions: what is read of the rest, and of the positions."""
    lead, tail = view.shape[:axis], view.shape[axis + 1 :]
    shape, zeros = (*lead, *positions.shape, *tail), (0,) * len(positions.shape)
    rest = (*view.strides[:axis], *zeros, *view.strides[axis + 1 :])
    at = ((0,) * len(lead), positions.strides, (0,) * len(tail))
    return view._replace(shape=shape, strides=rest), positions._replace(shape=shape, strides=sum(at, ()))


# -- matmul ------------------------------------------------------------------------------------------------------------
def _matmul(draft: Draft, step: Instruction) -> None:
    out = draft.values[step.out]
    if out.dtype.name not in ("float32", "float64") or step.op.expansion is not None:
        raise Unsupported(f"a product of {out.dtype}")
    views = [draft.device(n) for n in step.args]
    a, b = (view if draft.dtype(view.root) == out.dtype else draft.copied(view, out.dtype) for view in views)
    if a.size:
        draft.ready(step.out, *products(step.out, a, b, out, draft.copied))
    else:
        draft.ready(step.out, fill(step.out, prod(out.shape), draft.values))
