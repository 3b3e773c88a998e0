"""Fusion: elementwise operations as runs, and what of a run is computed where it is read instead of being stored.

Each pass looks at steps in order and moves or repeats operations where less memory is written and read for it, or where
a launch is saved. Nothing changes what is computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

from ..ir import Value
from .math import scalar_of
from .operands import Computed, Load, Operand, Point, Register, reads_of
from .steps import Reduce, Run, Step, needed_for

__all__ = ["MOST_POINTS", "MOST_READS", "Fusion"]

MOST_POINTS, MOST_READS = 64, 24
"""Operations and operands in memory of one kernel."""
REPEATED = 1 << 20
"""Bytes of a result up to which cheap operations on smaller arrays are done again for every entry."""


class Fusion:
    """The passes over the steps of a plan."""

    def __init__(self, steps: list[Step], made: dict[int, int], values: Sequence[Value], outputs: set[int]) -> None:
        self.steps = steps
        self.made = made
        self.values = values
        self.outputs = outputs
        self._reads: list[tuple[int, ...]] = [()] * len(steps)
        self._readers: defaultdict[int, set[int]] = defaultdict(set)
        """For a value the positions of the steps that read its memory."""
        self._read_anew(range(len(steps)))

    def carry_out(self) -> None:
        for each in (self._into_reduction, self._into_later_runs, self._into_readers):
            for position in range(len(self.steps)):
                each(position)

    def stored(self, position: int) -> set[int]:
        """What of a run's values something else needs."""
        step = self.steps[position]
        members = step.members if isinstance(step, Run) else ()
        return {n for n in members if n in self.outputs or self._readers[n] - {position}}

    def _read_anew(self, positions: Iterable[int]) -> None:
        """Note what these steps read now."""
        for position in positions:
            for n in self._reads[position]:
                self._readers[n].discard(position)
            self._reads[position] = self.steps[position].reads
            for n in self._reads[position]:
                self._readers[n].add(position)

    def _moved(self, maker: int, *readers: int) -> None:
        """Drop from a run what is computed by its readers now."""
        self._read_anew((maker, *readers))
        self.steps[maker].keep(self.stored(maker))  # type: ignore[union-attr]
        self._read_anew((maker,))

    def _fresh(self, names: Sequence[int], size: int) -> set[int]:
        """Values as large as a run, which cost something to read."""
        return {n for n in names if 2 * prod(self.values[n].shape) >= size}

    def _into_reduction(self, position: int) -> None:
        """What a run computes for a reduction alone is computed where it is reduced.

        Where the run needs a part of it for others too, that is done twice, which costs less than to store it.
        """
        step = self.steps[position]
        if not isinstance(step, Reduce) or step.view.root not in self.made or step.view.root in self.outputs:
            return
        root, maker = step.view.root, self.made[step.view.root]
        run = self.steps[maker]
        if not isinstance(run, Run) or not step.view.contiguous or run.size != step.size or not run.size:
            return
        chain = needed_for(run.points, {root})
        alone = self.stored(maker) == {root}
        if self._readers[root] == {position} and (alone or len(self._fresh(reads_of(chain), run.size)) <= 2):
            self.steps[position] = step.become(chain)
            self._moved(maker, position)

    def _into_later_runs(self, maker: int) -> None:
        """What a run computes for one later run alone is computed there, where less is then written and read."""
        run = self.steps[maker]
        if not isinstance(run, Run):
            return
        for position in sorted({k for point in run.points for k in self._readers[point.out]}):
            target = self.steps[position]
            if isinstance(target, Run) and target.size == run.size:
                self._move(run, maker, target, position)

    def _move(self, run: Run, maker: int, target: Run, position: int) -> None:
        inside: defaultdict[int, set[int]] = defaultdict(set)
        for point in run.points:
            for x in point.operands:
                if isinstance(x, Register):
                    inside[x.n].add(point.out)
        moved, names = list[Point](), set[int]()
        for point in reversed(run.points):
            inner, readers = inside[point.out], self._readers[point.out]
            elsewhere = readers - {position} or point.out in self.outputs
            if not elsewhere and (inner or readers) and inner <= names:
                moved.append(point)
                names.add(point.out)
        moved.reverse()
        handed = {n for n in names if self._readers[n]}
        fits = len(moved) + len(target.points) <= MOST_POINTS and len(run.touched | target.touched) <= MOST_READS
        if not fits or not self._is_read_in_place(handed, target):
            return
        kept = {x.n for point in moved for x in point.operands if isinstance(x, Register)} - names
        rest = [point for point in run.points if point.out not in names]
        more = self._fresh([*kept, *reads_of(moved)], run.size) - target.touched
        less = self._fresh([*run.touched], run.size) - set(reads_of(rest))
        if len(more) + len(kept - self.stored(maker)) >= len(less) + 2 * len(handed):
            return
        loads, registers = {n: run.load(n) for n in kept}, {run.load(n): Register(n) for n in handed}
        moved = with_operands(moved, lambda x: loads.get(x.n, x) if isinstance(x, Register) else x)
        own = with_operands(target.points, lambda x: registers.get(x, x) if isinstance(x, Load) else x)
        run.become(rest)
        target.become([*moved, *own])
        self.made |= dict.fromkeys(names, position)
        self._moved(maker, position)

    def _is_read_in_place(self, names: set[int], target: Run) -> bool:
        """Whether a run reads values at its own positions and nowhere else."""
        operands = _operands(target.points)
        return all(x == target.load(access.root) for x in operands for access in x.accesses if access.root in names)

    def _into_readers(self, maker: int) -> None:
        """What is read at other positions is computed there: once in another order, or cheaply for many entries."""
        run = self.steps[maker]
        if not isinstance(run, Run):
            return
        for n in [point.out for point in run.points]:
            readers = sorted(self._readers[n])
            if not readers or n in self.outputs or n not in run.members:
                continue
            chain = needed_for(run.points, {n})

            def computed(x: Operand, n: int = n, chain: Sequence[Point] = chain) -> Operand:
                return Computed(tuple(chain), x.access) if isinstance(x, Load) and x.access.root == n else x

            targets = [self.steps[k] for k in readers]
            if all(self._may_repeat(n, chain, run, target, len(readers)) for target in targets):
                for position, target in zip(readers, targets, strict=True):
                    self.steps[position] = target.become(with_operands(target.points, computed))  # type: ignore[union-attr]
                self._moved(maker, *readers)

    def _may_repeat(self, n: int, chain: Sequence[Point], run: Run, target: Any, readers: int) -> bool:
        if not isinstance(target, Run | Reduce) or not target.points:
            return False
        operands = _operands(target.points)
        reading = [x for x in operands if any(access.root == n for access in x.accesses)]
        if not all(isinstance(x, Load) for x in reading) or len({*reads_of(chain), *target.reads}) > MOST_READS:
            return False
        if target.size == run.size and readers == len(reading) == 1 and reading[0] != run.load(n):
            return len(self._fresh(reads_of(chain), run.size)) <= 2
        cheap = len(chain) <= 6 and all(point.step is None or scalar_of(point.step.op).cheap for point in chain)
        return cheap and readers <= 3 and target.size >= run.size and target.size * 4 <= REPEATED


def _operands(points: Sequence[Point]) -> list[Operand]:
    return [x for point in points for x in point.operands]


def with_operands(points: Sequence[Point], other: Callable[[Operand], Operand]) -> list[Point]:
    """The operations with other operands."""
    return [point._replace(operands=tuple(map(other, point.operands))) for point in points]
