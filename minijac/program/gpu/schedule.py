"""What a program becomes on the GPU: kernels, matmuls and calls of CuPy in order.

Views cost nothing, elementwise operations are fused into runs, and a run whose only reader is a reduction becomes part
of it. The schedule knows shapes and dtypes alone: it needs no GPU, and the tests carry it out on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

from ...algebra.view import View
from ...ops.families import Structural
from ..ir import Instruction, Program, Value
from .draft import Draft, Memory
from .fusion import Fusion
from .lower import lower
from .math import Unsupported
from .steps import Launch

__all__ = ["Schedule", "scheduled"]

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
        lower(draft, instruction)
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
