"""Rolling: equal stretches of instructions that follow each other, as a loop leaves them, become one loop instruction.

Nothing is assumed of where they come from. Rows say what each instruction is, but for the values that it reads; where
rows repeat themselves, what is read decides: a value of the same step, of a step before (a carry), one that is the
same for all steps, or another for each (the rows of a stacked array). The first steps are left out where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

from ...algebra.labels import Label
from ...ops.structural import concatenate, expand_dims, getitem_basic, reshape
from ..ir import PYTHON_NUMBERS, Instruction, Program, Value, without_dead_code
from ..loops import LOOP, PICK, Loop, Rewriting, compacted, unrolled
from .periods import periods_of
from .totals import ADD, TOTAL, totalled, without_totals

__all__ = ["frozen_params", "looped", "rolled", "same_given", "structure"]

SHORTEST = 150
"""Instructions of a program, and of a loop in it, below which they are left as they are."""
FEWEST = 8
"""Steps of a loop below which it is left as it is."""
LEAST = 2
"""Operations of a step below which steps are left as they are,"""
LEAST_APART = 16
"""and those of steps that need nothing of each other."""
LARGE, LONG = 2**16, 2**12
"""Bytes that an instruction makes, on average, above which tiles of samples are worth more than loops; but
not in programs of so many instructions."""
DEEPEST = 16
"""Steps back that a step may read from."""


def rolled(program: Program) -> Program:
    """The program with loops in place of equal stretches, the ones inside of others too; calls are what they call."""
    if len(program.instructions) < SHORTEST:
        return compacted(unrolled(program, _is_call))
    return compacted(unrolled(looped(program), _is_call))


def looped(program: Program) -> Program:
    """The same, of a long program; its values keep their numbers, and new ones follow."""
    program, rows = _rows_apart(totalled(program, FEWEST))
    numbers = _Rows()
    while (found := _rolled_once(program, rows, numbers)) is not None:
        program = found
    return without_dead_code(without_totals(_restacked(_with_rows(program, rows))))


def _is_call(loop: Loop) -> bool:
    return loop.length == 1


# -- what an instruction is --------------------------------------------------------------------------------------------
def frozen(value: Any, number: dict[Label, int]) -> Any:
    """A hashable stand-in that is equal only for equal values: arrays by identity, labels by order of appearance."""
    kind = type(value)
    if kind in _ATOMS:
        return kind, value
    if kind is slice:
        return kind, value.start, value.stop, value.step
    if kind is tuple or kind is list:
        whole = _WHOLE.issuperset(map(type, value))
        return tuple(value) if whole else (kind, *[frozen(item, number) for item in value])
    if isinstance(value, Label):
        return "label", number.setdefault(value, len(number)), value.size
    if isinstance(value, tuple | list):  # windows, too
        return kind, *[frozen(item, number) for item in value]
    if isinstance(value, float):
        return "float", repr(value)  # 0.0 and -0.0 are equal, and not the same
    if hasattr(kind, "__array_ufunc__") or not getattr(kind, "__hash__", None):
        return "object", id(value)
    return kind.__name__, value


_ATOMS = {int, str, bool, type(None)}
_WHOLE = {int}


def frozen_params(step: Instruction) -> Any:
    """What an operation is carried out with, but for its operands."""
    if step.op is LOOP:
        return structure(step.params["loop"])
    number: dict[Label, int] = {}
    return tuple([(key, frozen(value, number)) for key, value in step.params.items()]) if step.params else ()


def structure(loop: Loop) -> Any:
    """What a loop is: equal for two that do the same."""
    if loop.structure is None:
        number: dict[int, Any] = {}
        body = loop.body
        for n, value in enumerate(body.values):
            number[n] = value.shape, value.dtype.char, value.number, value.kind, frozen(value.content, {})
        steps = tuple([
            (step.op, frozen_params(step), tuple([(n, number[n]) for n in (*step.args, step.out)]))
            for step in body.instructions
        ])  # fmt: skip
        ends = tuple([(n, number[n]) for n in (*body.inputs, *body.outputs)])
        object.__setattr__(loop, "structure", (loop.length, loop.carries, loop.rows, loop.stacked, steps, ends))
    return loop.structure


class _Rows:
    """Numbers for what instructions are, but for the values that they read."""

    def __init__(self) -> None:
        self._kinds: dict[Any, int] = {}
        self._kind: dict[int, int] = {}
        self._numbers: dict[Any, int] = {}
        self._known: dict[int, tuple[Instruction, int]] = {}

    def of(self, program: Program) -> Any:
        """The numbers of a program's instructions; of later versions, too, whose values are these and more."""
        values, known, kinds, kind, numbers = program.values, self._known, self._kinds, self._kind, self._numbers
        for n in range(len(kind), len(values)):
            value = values[n]
            kind[n] = kinds.setdefault((value.shape, value.dtype.char, value.number), len(kinds))
        found = []
        for step in program.instructions:
            same = known.get(step.out)
            if same is None or same[0] is not step:
                op, args, _, out = step
                key = op, frozen_params(step), tuple([kind[n] for n in args]), kind[out]
                same = known[out] = step, numbers.setdefault(key, len(numbers))
            found.append(same[1])
        return np.array(found)


def _rows_apart(program: Program) -> tuple[Program, dict[int, Instruction]]:
    """The program with given arrays once each, and what makes views of them of which there are many, as of a series."""
    same = same_given(program.values)
    given = {n for n, value in enumerate(program.values) if value.kind != "computed"}
    new = Rewriting(program)
    new.same = {n: first for n, first in same.items() if n != first}
    steps = [step.reading(new.same) for step in program.instructions]
    views: dict[Any, set[Any]] = {}
    for step in steps:
        if step.op.view and step.args[0] in given:
            views.setdefault((step.op, step.args), set()).add(frozen_params(step))
    many = {key for key, found in views.items() if len(found) >= FEWEST}
    rows = {step.out: step for step in steps if step.op.view and (step.op, step.args) in many}
    outputs = tuple([same.get(n, n) for n in program.outputs])
    kept = tuple([step for step in steps if step.out not in rows])
    return program._replace(instructions=kept, outputs=outputs), rows


def _with_rows(program: Program, rows: Mapping[int, Instruction]) -> Program:
    """The program with the rows that are still read, where they are first read."""
    if not rows:
        return program
    steps: list[Instruction] = []
    made: set[int] = set()

    def make(read: Sequence[int]) -> None:
        for n in read:
            if n in rows and n not in made:
                made.add(n)
                make(rows[n].args)
                steps.append(rows[n])

    for step in program.instructions:
        make(step.args)
        steps.append(step)
    make(program.outputs)
    return program._replace(instructions=tuple(steps))


def same_given(values: Sequence[Value]) -> dict[int, int]:
    """For each captured array and number the first one that is the same."""
    same: dict[int, int] = {}
    seen: dict[Any, int] = {}
    for n, value in enumerate(values):  # a captured array is one value however often it was captured as a view
        if value.kind == "captured":
            array = value.content
            if not isinstance(array, np.ndarray):  # CuPy's
                same[n] = seen.setdefault(("object", id(array)), n)
                continue
            key = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)
            same[n] = seen.setdefault(key, n)
        elif value.kind == "constant" and value.shape == ():
            same[n] = seen.setdefault((type(value.content), repr(value.content), value.dtype), n)
    return same


# -- finding a loop ----------------------------------------------------------------------------------------------------
class _Run(NamedTuple):
    """Steps of a loop among the instructions: the first of them, how many one step has, and the number of steps."""

    start: int
    period: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.length

    def size(self, program: Program) -> int:
        """Instructions, were no loop one."""
        return self.length * sum(map(_size, program.instructions[self.stop - self.period : self.stop]))


def _rolled_once(program: Program, rows_apart: Mapping[int, Instruction], rows: _Rows) -> Program | None:
    """The program with the runs of one period as loops; None where there are none."""
    numbers = rows.of(program)
    reads = _Reads(program)
    for period, runs in periods_of(numbers, FEWEST):
        loops: dict[int, _Writer] = {}
        taken = 0
        for start, length in runs:
            late = max(start, taken)  # the last step of a run may reach into the first one of the next
            whole = _whole_picks(_Run(late, period, length - -(-(late - start) // period)), program, numbers)
            if whole.size(program) < SHORTEST:
                continue
            run, columns = reads.columns(reads.turned(whole, numbers))
            writer = _Writer(reads, run, columns) if columns is not None else None
            if writer is not None and writer.writable:
                loops[run.start] = writer
                taken = run.stop
        if loops:
            shorter = without_dead_code(_restacked(_written(program, loops, rows_apart)))
            if len(shorter.instructions) < len(program.instructions):  # what is put around a loop counts too
                return shorter
    return None


def _whole_picks(run: _Run, program: Program, numbers: Any) -> _Run:
    """The run without what is picked of a loop before it."""
    start, period, length = run
    while start < run.start + period and program.instructions[start].op is PICK:
        start += 1
    late = start - run.start
    tail = numbers[run.stop : run.stop + late]
    if len(tail) < late or (tail != numbers[run.stop - period : run.stop - period + late]).any():
        length -= 1
    return _Run(start, period, length)


def _written(program: Program, loops: Mapping[int, _Writer], apart: Mapping[int, Instruction]) -> Program:
    new = Rewriting(program)
    makers = {step.out: step for step in program.instructions} | dict(apart)
    stop = 0
    for place, step in enumerate(program.instructions):
        if place in loops:
            loops[place].write(new, makers)
            stop = loops[place].run.stop
        if place >= stop:
            for writer in loops.values():
                if (place, step.out) in writer.summed:
                    gone, sums = writer.summed[place, step.out]
                    step = step._replace(args=(*(n for n in step.args if n not in gone), *sums))
            new.steps.append(step.reading(new.same))
    return new.result()


class _Given(NamedTuple):
    """An operand that is made before the loop: its values, by step."""

    values: Any


class _Own(NamedTuple):
    """An operand that is made in the loop, in the same step or so many before; and what the first steps read."""

    where: int
    lag: int
    initial: tuple[int, ...]


class _Reads:
    """What the instructions of a program read, as arrays of numbers."""

    def __init__(self, program: Program) -> None:
        self.program = program
        steps = program.instructions
        self.place = np.full(len(program.values), -1)
        self.place[[step.out for step in steps]] = range(len(steps))
        counts = [len(step.args) for step in steps]
        self.first = np.cumsum([0, *counts])
        self.args = np.array([n for step in steps for n in step.args], dtype=np.intp)
        self.reader = np.repeat(np.arange(len(steps)), counts)

    def turned(self, run: _Run, numbers: Any) -> _Run:
        """The run from where least is carried from step to step, of all that have as many steps."""
        _, period, length = run
        stop, last = run.stop, run.stop - period
        more = numbers[stop : stop + period - 1] == numbers[last : last + len(numbers[stop : stop + period - 1])]
        tail = int(np.argmin(np.append(more, False)))
        span = slice(self.first[last], self.first[stop + tail])
        made = self.place[self.args[span]]
        within = (made >= run.start) & (made < stop)
        ends: dict[int, int] = dict(zip(made[within].tolist(), self.reader[span][within].tolist(), strict=True))
        carried = np.zeros(period + 1)
        for place, reader in ends.items():
            own = self.program.values[self.program.instructions[place].out].nbytes
            carried[max(place + 1 - last, 0) : reader + 1 - last] += own
        for r in range(tail + 1):
            if self.program.instructions[last + r].op is PICK:
                carried[r] = np.inf
        return _Run(run.start + int(np.argmin(carried[: tail + 1])), period, length)

    def columns(self, run: _Run) -> tuple[_Run, list[_Given | _Own] | None]:
        """What each operand of a step is, and the run without the first steps that differ; None where it is no loop."""
        while run.length >= FEWEST:
            read = self.args[self.first[run.start] : self.first[run.stop]].reshape(run.length, -1)
            at = self.place[read] - run.start
            inside = (self.place[read] >= 0) & (at >= 0)
            back = at - np.arange(run.length)[:, None] * run.period
            columns: list[_Given | _Own] = []
            skipped = 0
            for k in range(read.shape[1]):
                own = int(back[-1, k]) if inside[-1, k] else None
                others = np.flatnonzero(inside[:, k] if own is None else ~inside[:, k] | (back[:, k] != own))
                lag = max(0, -(own // run.period)) if own is not None else 0
                early = others[inside[others, k] & (others < lag)]  # what they read is to be made before the loop
                made = int((at[early, k] // run.period).max(initial=-1))
                skipped = max(skipped, int(others.max(initial=-1)) + 1 - lag, made + 1)
                if own is None:
                    columns.append(_Given(read[:, k]))
                else:
                    columns.append(_Own(own + lag * run.period, lag, tuple(read[:lag, k].tolist())))
            if skipped <= 0:
                deep = any(isinstance(column, _Own) and column.lag > DEEPEST for column in columns)
                return run, None if deep else columns
            run = _Run(run.start + skipped * run.period, run.period, run.length - skipped)
        return run, None

    def outside(self, run: _Run) -> tuple[dict[int, list[int]], dict[tuple[int, int], set[int]]]:
        """By place in the step, the steps whose value is read by what is not in the run; but for totals of all steps.

        Those by the instruction, its result, and the places in the step.
        """
        far = (self.reader < run.start) | (self.reader >= run.stop)
        at = self.place[self.args] - run.start
        far &= (self.place[self.args] >= 0) & (at >= 0) & (at < run.period * run.length)
        totals: dict[tuple[int, int], set[int]] = {}
        for reader in np.unique(self.reader[far]).tolist():
            step = self.program.instructions[reader]
            if step.op is TOTAL:
                own = far & (self.reader == reader)
                places, counts = np.unique(at[own] % run.period, return_counts=True)
                whole = {j for j, n in zip(places.tolist(), counts.tolist(), strict=True) if n == run.length}
                if len(set(step.args)) == len(step.args) and whole:
                    totals[reader, step.out] = whole
                    far &= ~(own & np.isin(at % run.period, list(whole)))
        read = np.unique(np.concatenate([at[far], self.place[list(self.program.outputs)] - run.start]))
        found: dict[int, list[int]] = {}
        for n in read[(read >= 0) & (read < run.period * run.length)].tolist():
            found.setdefault(n % run.period, []).append(n // run.period)
        return found, totals


def _size(step: Instruction) -> int:
    """Instructions, were no loop one."""
    if step.op is not LOOP:
        return 1
    return int(step.params["loop"].length) * sum(map(_size, step.params["loop"].body.instructions))


def _work(step: Instruction) -> int:
    """Operations that compute."""
    if step.op is LOOP:
        return sum(map(_work, step.params["loop"].body.instructions))
    return int(not step.op.view and step.op is not PICK)


def _before(own: _Own) -> _Own:
    """What was made one step later than another operand."""
    return _Own(own.where, own.lag - 1, own.initial[1:])


# -- writing it --------------------------------------------------------------------------------------------------------
class _Writer:
    """Writes one loop: its body from the last step, and the arrays that it is given."""

    def __init__(self, reads: _Reads, run: _Run, columns: Sequence[_Given | _Own]) -> None:
        self.run = run
        self._columns = iter(columns)
        self._program = reads.program
        self._values: list[Value] = []
        self._local: dict[Any, int] = {}
        """Values of the body, by what they are: a place in the step, a carry, what is given."""
        self._carries: dict[Any, int] = {}
        self._rows: dict[Any, tuple[int, ...]] = {}
        self._same: dict[Any, int] = {}
        self._used, self._totals = reads.outside(run)
        self.summed: dict[tuple[int, int], tuple[set[int], list[int]]] = {}
        """Of totals: the operands that are summed in the loop, and their sums."""
        first = run.stop - run.period
        self._steps = self._program.instructions[first : run.stop]
        self._body = [self._instruction(j, step) for j, step in enumerate(self._steps)]

    @property
    def writable(self) -> bool:
        """Whether it is worth it, and nothing that goes from step to step is a number of Python's."""
        work, size = sum(map(_work, self._steps)), self.run.size(self._program)
        traffic = sum(self._values[step.out].nbytes for step in self._body)
        deep = sum(key.lag > 1 for key in self._carries)
        if size < SHORTEST or (size < LONG and traffic > LARGE * len(self._body)):
            return False
        if work < LEAST or 4 * deep > work or (not self._carries and work < LEAST_APART):
            return False
        made = [self._values[self._local[key]] for key in self._carries]
        kept = [self._values[self._local[j]] for j in self._used]
        rows = [value for key in self._rows if not self._is_number(key) for value in [self._values[self._local[key]]]]
        return all(value.number not in PYTHON_NUMBERS for value in (*made, *kept, *rows))

    def _is_number(self, key: Any) -> bool:
        values = [self._program.values[n] for n in self._rows[key]]
        return all(value.kind == "constant" for value in values)

    # -- the body ------------------------------------------------------------------------------------------------------
    def _instruction(self, j: int, step: Instruction) -> Instruction:
        args = tuple([self._operand(next(self._columns)) for _ in step.args])
        self._local[j] = self._added(self._program.values[step.out])
        return Instruction(step.op, args, step.params, self._local[j])

    def _added(self, value: Value) -> int:
        self._values.append(value)
        return len(self._values) - 1

    def _operand(self, column: _Given | _Own) -> int:
        if isinstance(column, _Own):
            return self._carry(column) if column.lag else self._local[column.where]
        first = int(column.values[0])
        value = self._program.values[first]
        if (column.values == first).all():
            key: Any = "same", first
            if key not in self._local:
                given = value.kind in ("constant", "captured")
                self._local[key] = self._added(value if given else value._replace(kind="input", content=None))
                if not given:
                    self._same[key] = first
        else:
            key = "rows", column.values.tobytes()
            if key not in self._local:
                self._local[key] = self._added(value._replace(kind="input", content=None))
                self._rows[key] = tuple(column.values.tolist())
        return self._local[key]

    def _carry(self, column: _Own) -> int:
        """The input that holds what was made some steps before: it goes on through one carry for each step between."""
        key = column
        if key not in self._local:
            value = self._program.values[column.initial[0]]
            self._local[key] = self._added(value._replace(kind="input", content=None))
            self._carries[key] = column.initial[0]
            if column.lag > 1:
                self._carry(_before(column))
        return self._local[key]

    # -- around it -----------------------------------------------------------------------------------------------------
    def write(self, new: Rewriting, makers: dict[int, Instruction]) -> None:
        """Add the loop, and what stands in place of its steps' values."""
        run, local = self.run, self._local
        next_of = [local[key.where] if key.lag == 1 else local[_before(key)] for key in self._carries]
        sums = [(total, self._summed(j), j) for total, places in self._totals.items() for j in sorted(places)]
        kept = {j: steps != [run.length - 1] for j, steps in self._used.items()}
        carried = (*(local[key] for key in self._carries), *(before for _, (before, _), _ in sums))
        inputs = (*carried, *(local[key] for key in (*self._rows, *self._same)))
        outputs = (*next_of, *(after for _, (_, after), _ in sums), *(local[j] for j in kept))
        body = Program(tuple(self._values), tuple(self._body), inputs, outputs)
        loop = Loop(body, run.length, len(carried), len(self._rows), tuple(kept.values()))
        initial = [new.same.get(n, n) for n in self._carries.values()]
        initial += [new.added(_zeros(self._values[before])) for _, (before, _), _ in sums]
        rows = [self._stacked([new.same.get(n, n) for n in values], new, makers) for values in self._rows.values()]
        results = new.loop(loop, [*initial, *rows, *(new.same.get(n, n) for n in self._same.values())])
        for (total, _, j), result in zip(sums, results[len(self._carries) : len(carried)], strict=True):
            gone, found = self.summed.setdefault(total, (set(), []))
            gone.update(step.out for step in self._program.instructions[run.start + j : run.stop : run.period])
            found.append(result)
        for (j, steps), result in zip(self._used.items(), results[len(carried) :], strict=True):
            for t in steps:
                old = self._program.instructions[run.start + t * run.period + j].out
                new.same[old] = result
                if kept[j]:
                    new.same[old] = new.row(result, t, self._program.values[old])
                    makers[new.same[old]] = new.steps[-1]

    def _summed(self, j: int) -> tuple[int, int]:
        """A sum of what each step makes, before and after the step."""
        value = self._values[self._local[j]]
        before, after = self._added(value._replace(kind="input")), self._added(value)
        self._body.append(Instruction(ADD, (before, self._local[j]), {}, after))
        return before, after

    def _stacked(self, rows: Sequence[int], new: Rewriting, makers: Mapping[int, Instruction]) -> int:
        """One array of what each step is given."""
        values = [new.values[n] for n in rows]
        if all(value.kind == "constant" and value.shape == () for value in values):
            return new.constant(np.array([value.content for value in values]))
        picked = _picked(rows, new, makers)
        return new.stack(rows) if picked is None else picked


def _zeros(value: Value) -> Value:
    """What a sum begins with."""
    return value._replace(kind="captured", content=np.broadcast_to(np.zeros((), value.dtype), value.shape))


def _picked(rows: Sequence[int], new: Rewriting, makers: Mapping[int, Instruction]) -> int | None:
    """Rows of one array that follow each other at equal distances, as a view of it."""
    found = [makers.get(n) for n in rows]
    first = found[0]
    if first is None or any(step is None or step.op is not getitem_basic or step.args != first.args for step in found):
        return None
    indices = [step.params["index"] for step in found if step is not None]
    varying = [k for k, items in enumerate(zip(*indices, strict=False)) if any(item != items[0] for item in items)]
    if len(varying) != 1 or len({len(index) for index in indices}) != 1:
        return None
    (k,) = varying
    at = [index[k] for index in indices]
    if any(not isinstance(item, int | np.integer) or item < 0 for item in at):
        return None
    step = at[1] - at[0]
    if not step or any(b - a != step for a, b in pairwise(at)):
        return None
    stop = at[-1] + (1 if step > 0 else -1)
    index = (*indices[0][:k], slice(at[0], stop if stop >= 0 else None, step), *indices[0][k + 1 :])
    own = new.values[rows[0]]
    place = sum(item is None or isinstance(item, slice) for item in index[:k])
    shape = (*own.shape[:place], len(rows), *own.shape[place:])
    whole = new.step(getitem_basic, first.args, Value(shape, own.dtype, "computed"), index=index)
    return new.transposed(whole, (place, *(axis for axis in range(len(shape)) if axis != place)))


def _restacked(program: Program) -> Program:
    """The program with parts of arrays in place of rows that are taken from them and put together again."""
    if not any(step.op is concatenate and len(step.args) >= FEWEST for step in program.instructions):
        return program
    makers = {step.out: step for step in program.instructions}
    new = Rewriting(program)
    for step in program.instructions:
        if step.op is concatenate and len(step.args) >= FEWEST:
            axis = step.params["axis"]
            rows = [_row_of(makers.get(n), axis, program.values) for n in step.args]
            args: list[int] = []
            for source, group in groupby(zip(step.args, rows, strict=True), lambda pair: _source(pair[1], makers)):
                parts = list(group)
                whole = None
                if source is not None and len(parts) >= FEWEST:
                    whole = _picked([n for _, n in parts if n is not None], new, makers)
                args += [n for n, _ in parts] if whole is None else [_with_axis(whole, axis, new)]
            if len(args) == 1:
                new.same[step.out] = args[0]
                continue
            step = step._replace(args=tuple(args))
        new.steps.append(step.reading(new.same))
    return new.result()


def _row_of(maker: Instruction | None, axis: int, values: Sequence[Value]) -> int | None:
    """What an axis of length one was added to."""
    if maker is None or maker.op not in (expand_dims, reshape):
        return None
    shape = values[maker.args[0]].shape
    return maker.args[0] if values[maker.out].shape == (*shape[:axis], 1, *shape[axis:]) else None


def _source(n: int | None, makers: Mapping[int, Instruction]) -> int | None:
    maker = None if n is None else makers.get(n)
    return maker.args[0] if maker is not None and maker.op is getitem_basic else None


def _with_axis(n: int, axis: int, new: Rewriting) -> int:
    """An array with its first axis at another place."""
    return new.transposed(n, (*range(1, axis + 1), 0, *range(axis + 1, len(new.values[n].shape))))
