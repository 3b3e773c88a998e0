"""A plan in the making: the values of a program, where each lies in memory, and the steps so far.

Views cost nothing, and elementwise operations join a run that reads or makes one of their operands.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from ...strides import View
from ..ir import Instruction, Program, Value
from .access import accessed
from .fusion import MOST_POINTS, MOST_READS
from .math import Unsupported, check_dtype
from .operands import Load, Operand, Point, Register, reads_of
from .steps import CupyCall, Launch, Ready, Run, Step

__all__ = ["Draft", "Memory"]

CHEAP = 1 << 18
"""Bytes of a result that are written in less time than a launch takes."""
Memory = Callable[[Any], tuple[tuple[int, ...], bool]]
"""A captured array's strides, and whether vectors may be read from it."""


class Draft:
    def __init__(self, program: Program, memory: Memory) -> None:
        self.values = list(program.values)
        self.views: dict[int, View] = {}
        self.steps: list[Step] = []
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
            self.views[n] = View.whole(value.shape, n)
            if value.kind == "captured":
                strides, aligned = memory(value.content)
                self.views[n] = View(value.shape, strides, 0, n)
                if not aligned:
                    self.unaligned.add(n)

    def dtype(self, n: int) -> np.dtype[Any]:
        return self.values[n].dtype

    def new(self, shape: tuple[int, ...], dtype: Any) -> int:
        self.values.append(Value(shape, np.dtype(dtype), "computed"))
        return len(self.values) - 1

    def define(self, n: int, step: Step) -> View:
        """A step that makes a value."""
        self.steps.append(step)
        self.made[n] = len(self.steps) - 1
        self.views[n] = View.whole(self.values[n].shape, n)
        return self.views[n]

    def ready(self, n: int, *launches: Launch) -> View:
        return self.define(n, Ready(launches))

    def called(self, step: Instruction, operands: Sequence[View | int]) -> View:
        """The result of an operation without a kernel."""
        return self.ready(step.out, CupyCall(step, tuple(operands), (step.out,)))

    def copied(self, view: View, dtype: Any = None) -> View:
        """A view as memory of its own, in row-major order."""
        dtype = dtype or self.dtype(view.root)
        check_dtype(dtype, self.dtype(view.root))
        return self.point(self.new(view.shape, dtype), [Load(accessed(view))])

    def device(self, n: int) -> View:
        """The memory of a value in its own dtype, also where the host knows it."""
        if n not in self.views:
            view, dtype = self.slot(n), self.dtype(n)
            self.views[n] = view if self.dtype(view.root) == dtype else self.copied(view, dtype)
        return self.views[n]

    def slot(self, n: int) -> View:
        """The place in memory of a number that the host knows."""
        if n not in self.slots:
            dtype = {"b": np.int64, "i": np.int64, "u": np.uint64, "f": np.float64}.get(self.dtype(n).kind)
            if dtype is None:
                raise Unsupported(f"a number of {self.dtype(n)}")
            self.slots[n] = self.new((), dtype)
            self.views[self.slots[n]] = View.whole((), self.slots[n])
        return self.views[self.slots[n]]

    def point(self, out: int, operands: Sequence[Operand], step: Instruction | None = None) -> View:
        """Add an operation to a run that reads or makes one of its operands, or to one of its own."""
        value = self.values[out]
        check_dtype(value.dtype)
        size = prod(value.shape)
        point = Point(out, tuple(operands), step)
        reads = set(reads_of([point]))
        first = max((self.made[n] for n in reads if n in self.made), default=0)
        # what has nothing in common with a run joins it where a launch costs more, or where it only moves entries
        alone = size * value.dtype.itemsize <= CHEAP or not any(isinstance(x, Load | Register) for x in operands)
        open_ = self.runs.setdefault(size, [])  # in order; those that are full are left out
        for position in open_[bisect_left(open_, first) :]:
            run = self.steps[position]
            assert isinstance(run, Run)
            own = [_in_run(operand, run) for operand in operands]
            related = alone or reads & run.members or reads & run.touched
            if None in own or not related or len(run.touched | reads) > MOST_READS:
                continue
            run.add(point._replace(operands=tuple(own)))  # type: ignore[arg-type]
            if len(run.points) == MOST_POINTS:
                open_.remove(position)
            self.made[out] = position
            self.views[out] = View.whole(value.shape, out)
            return self.views[out]
        open_.append(len(self.steps))
        return self.define(out, Run(size, point))


def _in_run(operand: Operand, run: Run) -> Operand | None:
    """An operand as a run may read it: what the run itself makes only at the same position."""
    roots = [access.root for access in operand.accesses]
    if not run.members.intersection(roots):
        return operand
    return Register(roots[0]) if operand == run.load(roots[0]) else None
