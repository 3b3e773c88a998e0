"""The steps of a program on the GPU: what they are while it is planned, and what is launched for them in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from ...strides import View
from ...tape.op import Reduction
from ..ir import Instruction, Value
from .access import Access, Digit
from .gemm import Gemm
from .kernels import Kernel, map_kernel, reduction
from .operands import Load, Point, Register, reads_of

__all__ = ["CupyCall", "Launch", "Ready", "Reduce", "Run", "Step", "needed_for"]


class CupyCall(NamedTuple):
    """An operation that no kernel is generated for: it is called with CuPy's arrays, between two graphs."""

    step: Instruction
    operands: tuple[View | int, ...]
    """Views of memory, and the numbers of values that the host knows."""
    writes: tuple[int, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        return tuple(view.root for view in self.operands if isinstance(view, View))


Launch: TypeAlias = Kernel | Gemm | CupyCall


class Ready(NamedTuple):
    """Launches that are found already; none for a value without entries."""

    given: tuple[Launch, ...] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        return tuple(n for launch in self.given for n in launch.reads)

    def launches(self, values: list[Value], stored: set[int], unaligned: set[int]) -> Sequence[Launch]:
        return self.given


class Reduce(NamedTuple):
    """A reduction of a view; or of what `points` compute, at the positions of an array of the view's shape."""

    how: Reduction
    out: int
    view: View
    axes: tuple[int, ...]
    points: tuple[Point, ...] = ()

    @property
    def size(self) -> int:
        return self.view.size

    @property
    def reads(self) -> tuple[int, ...]:
        return reads_of(self.points) if self.points else (self.view.root,)

    def become(self, points: Sequence[Point]) -> Reduce:
        return self._replace(points=tuple(points))

    def launches(self, values: list[Value], stored: set[int], unaligned: set[int]) -> Sequence[Launch]:
        return reduction(self.how, self.out, self.view, self.axes, values, self.points)


class Run:
    """Elementwise operations over the same positions, which become one kernel."""

    def __init__(self, size: int, point: Point) -> None:
        self.size = size
        self.become([point])

    def become(self, points: Sequence[Point]) -> Run:
        self.points = list(points)
        self.members = {point.out for point in points}
        self.touched = set(reads_of(points))
        """The values whose memory is read."""
        return self

    def add(self, point: Point) -> None:
        self.points.append(point)
        self.members.add(point.out)
        self.touched |= set(reads_of([point]))

    def keep(self, stored: set[int]) -> None:
        """Drop what nothing needs any more."""
        self.become(needed_for(self.points, stored))

    def load(self, n: int) -> Load:
        """A value of as many entries, read at the run's own positions."""
        return Load(Access(n, (Digit(self.size, 1),) if self.size > 1 else ()))

    @property
    def reads(self) -> tuple[int, ...]:
        return reads_of(self.points)

    def launches(self, values: list[Value], stored: set[int], unaligned: set[int]) -> Sequence[Launch]:
        self.keep(stored)
        written = [point.out for point in self.points if point.out in stored]
        return [map_kernel(self.points, written, self.size, values, unaligned)] if written else []


Step: TypeAlias = Run | Reduce | Ready


def needed_for(points: Sequence[Point], wanted: set[int]) -> list[Point]:
    """The operations that values of a run are computed by."""
    needed, kept = set(wanted), []
    for point in reversed(points):
        if point.out in needed:
            kept.append(point)
            needed |= {operand.n for operand in point.operands if isinstance(operand, Register)}
    kept.reverse()
    return kept
