"""Looping: a loop over steps that are alike as one node of the tape for each result, its step recorded once.

Its derivative is a loop again, whatever the number of steps: forward, a step carries its carry and the blocks of it
along; in reverse it is given the carry that it began with, is carried out again, and pulls blocks back. What a block
is between steps is one array, with the axes apart on which it is diagonal in every step: found by recording a step on
what the one before makes, until that is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.samples import follow_samples
from ..algebra.block import Block
from ..arguments import flatten, unflatten
from ..backend import array_of
from ..errors import MutationError, TraceError
from ..lines import caller, user_line
from ..memo import Memo
from ..ops.structural import getitem_basic
from ..places import Owners, Place, Where
from ..program.entry import Entry, How
from ..program.held import drawn_from, held, unseeded
from ..program.ir import Instruction, Program, Value, interpreted
from ..program.loops import Loop, Rewriting
from ..program.passes import rolling
from ..program.passes.rolling import rolled, structure
from ..program.passes.totals import ADD
from ..program.record import Foreign, Recorder, Symbol
from ..tape.trace import THREAD, Node, Trace, running
from ..tape.traced import Traced, traced
from .closing import Closed, Run, innermost
from .repeats import on_arrays
from .steps import STEP, Outputs, Step
from .thorough import mark_thoroughly, settled, unbounded

__all__ = ["FEWEST", "as_loop", "as_scan", "is_plain"]

FEWEST = 8
"""Steps below which a loop is the operations of its steps;"""
LONG = 2000
"""and operations, all in all, where no program is being recorded."""
MOST_TRIES = 6
"""Times that a step is recorded for what blocks are between steps to settle."""


def as_loop(step: Callable[[Any, Any], Any], carry: Any, xs: Any, count: int, plainly: Callable[[], Any]) -> Any | None:
    """``(carry, ys)`` of a loop whose step is recorded once; None where it is no such loop.

    That is where it is short, a step looks at numbers or draws random ones, or another than the innermost
    transformation follows what it reads. `plainly` does the same step by step.
    """
    outer, (carries, tree), (rows, rows_tree) = running(), flatten(carry), flatten(xs)
    leaves = [*carries, *rows]
    if outer is None or THREAD.inside is not None or count < FEWEST:
        return None
    if not outer.takes_loops and outer.program is not outer:
        return None
    first = [np.asarray(x if k < len(carries) else x[0]) for k, x in enumerate(map(array_of, leaves)) if is_plain(x)]
    if len(first) < len(leaves) or not all(x.dtype.kind in "biuf" for x in first):
        return None

    def once(*own: Any) -> Any:
        given = unflatten(tree, own[: len(carries)])
        return step(given, unflatten(rows_tree, own[len(carries) :]))

    try:
        drawn = drawn_from(held(step))
        try:
            with unseeded() as made:
                closed = Closed(once, tuple(first), {}, free=True)
        finally:  # each step draws its own
            drew = drawn(undo=True)
        return None if drew or made else as_scan(closed, first, leaves, len(carries), count, plainly)
    except (TraceError, MutationError, Foreign, np.linalg.LinAlgError):  # as the loop itself says, or does without
        return None


def as_scan(
    closed: Closed, first: Sequence[Any], leaves: Sequence[Any], carries: int, count: int, plainly: Callable[[], Any]
) -> Any | None:
    """The results of a step, closed over what it captures, that is carried out so many times; None as above."""
    outer: Any = running()
    operands = [*leaves, *closed.operands]
    size = count * (len(closed.first.nodes) if closed.first is not None else 0)
    followed = innermost(operands)
    if followed is None or followed not in (outer, outer.program) or (outer.program is None and size < LONG):
        return None
    below = [x.value if isinstance(x, Traced) and x.home is outer is not outer.program else x for x in operands]
    below = [np.asarray(x) if isinstance(x, np.generic) else x for x in below]
    mine = all(is_plain(x) for x in below) if outer.program is None else outer.program.follows_all(below)
    scan = Scan(closed, first, carries, count, outer.program) if mine else None
    return scan.on_tape(outer, operands, below, plainly) if scan is not None and scan.simple else None


def is_plain(x: Any) -> bool:
    """Whether it is an array of NumPy's."""
    return isinstance(x, np.ndarray | np.generic)


class _Body(NamedTuple):
    """A program of a step: its inputs are those that were asked for, and then arrays that it captures."""

    program: Program
    captured: list[Any]
    notes: Any
    """What was found out on the way."""


def _recorded(f: Callable[[list[Any]], tuple[list[Any], Any]], arrays: Sequence[Any]) -> _Body:
    """What a function of arrays does, and what it notes."""
    recorder = Recorder()
    symbols = [recorder.input(x) for x in arrays]
    with recorder, np.errstate(all="ignore"):
        results, notes = f(symbols)
        numbers = tuple([(y if isinstance(y, Symbol) else recorder.captured(np.asarray(y))).index for y in results])
        recorder.check_captured()
    values = recorder.values
    captured = [n for n, value in enumerate(values) if value.kind == "captured"]
    contents = [values[n].content for n in captured]
    inputs = (*(symbol.index for symbol in symbols), *captured)
    given = tuple([v._replace(kind="input", content=None) if v.kind == "captured" else v for v in values])
    return _Body(recorder.recorded(inputs, numbers)._replace(values=given), contents, notes)


def _zeros(value: Value) -> Any:
    return np.broadcast_to(np.zeros((), value.dtype), value.shape)


def called(recorder: Recorder | None, body: Program, sizes: tuple[int, int, int], args: Sequence[Any]) -> list[Any]:
    """Results of a loop: so many times, of so many carries and rows; the others are stacked."""
    count, carries, rows = sizes
    loop = Loop(rolled(body), count, carries, rows, (True,) * (len(body.outputs) - carries))
    if recorder is not None:
        like = [_zeros(loop.result(k)) for k in range(len(body.outputs))]
        return recorder.call(loop, args, like)
    entry = _ENTRIES.get((structure(loop), tuple([(x.shape, x.dtype) for x in args])), lambda: _entry(loop, args))
    result: list[Any] = entry(args)
    return result


def _entry(loop: Loop, args: Sequence[Any]) -> Entry:
    """A program that is a loop alone."""
    new = Rewriting(Program((), (), (), ()))
    inputs = [new.added(Value(x.shape, x.dtype, "input")) for x in args]
    outputs = new.loop(loop, inputs)
    program = new.result()._replace(inputs=tuple(inputs), outputs=tuple(outputs))
    return Entry(program.verify(), flatten([0] * len(outputs))[1], None, How(), None, loops=True)


_ENTRIES = Memo[Entry](64)


def _step_by_step(body: Program, sizes: tuple[int, int, int], args: Sequence[Any]) -> list[Any]:
    """As `called`, on plain arrays, each operation as it is."""
    count, carries, rows = sizes
    state, xs, same = list(args[:carries]), args[carries : carries + rows], args[carries + rows :]
    columns: list[list[Any]] = [[] for _ in body.outputs[carries:]]
    for t in range(count):
        made = interpreted(body, [*state, *(x[t] for x in xs), *same])
        state = made[:carries]
        for column, y in zip(columns, made[carries:], strict=True):
            column.append(y)
    return [*map(np.asarray, state), *map(np.stack, columns)]


class _Known(NamedTuple):
    """What the block of something is between steps: one array, and the axes apart on which it is diagonal."""

    shape: Any
    pairs: dict[int, int]

    def block(self, data: Any, seeds: Any, one: Any) -> Block:
        return Block.of_data(data, self.shape, seeds, self.pairs, one)

    def nothing(self, seeds: Any, one: Any) -> Any:
        """The data of no derivative."""
        rest = [n for k, n in enumerate(seeds) if k not in self.pairs]
        return np.broadcast_to(np.zeros((), one.dtype), (*self.shape, *rest))

    @property
    def row(self) -> _Known:
        """That of one row."""
        return _Known(self.shape[1:], {k: j - 1 for k, j in self.pairs.items()})

    def stacked(self, count: int) -> _Known:
        """That of all rows."""
        return _Known((count, *self.shape), {k: j + 1 for k, j in self.pairs.items()})


def _known(block: Block, rows: bool = False) -> _Known:
    pairs = block.pairs if block.terms else {}
    return _Known(block.out_shape, {k: j for k, j in pairs.items() if j or not rows})


def _are_plain(blocks: Mapping[int, Block], live: Mapping[int, Any]) -> bool:
    """Whether all entries are used, and numbers are real."""
    real = all(block.one.dtype.kind == "f" and not any(t.conj for t in block.terms) for block in blocks.values())
    return real and all(mask is None for mask in live.values())


def _one(blocks: Mapping[int, Block], arrays: Sequence[Any]) -> Any:
    """The number one, of a type as wide as all that is met."""
    floats = [x.dtype for x in arrays if x.dtype.kind == "f"]
    return np.ones((), np.result_type(*(block.one.dtype for block in blocks.values()), *floats))


class Scan:
    """A step that is carried out many times, on carries, rows, and what it captures of traces: in this order."""

    def __init__(
        self, closed: Closed, first: Sequence[Any], carries: int, count: int, recorder: Recorder | None
    ) -> None:
        self._closed, self.carries, self.count, self.recorder = closed, carries, count, recorder
        self.leaves = len(first)
        self._first = [*first, *(array_of(x) for x in closed.operands)]
        """Operands of the first step, for their shapes and dtypes."""
        self._run = self._carried_out(self._first)
        self._values = _recorded(self._next, self._first)
        self._captured = self._values.captured
        """Arrays that a step captures, as they were when the loop was met."""
        self.by_positions = False
        """Whether samples are picked (`Graph.by_positions`)."""

    def _carried_out(self, values: Sequence[Any]) -> Run:
        """One step."""
        return self._closed.run(values[self.leaves :], values[: self.leaves])

    def _ends(self, run: Run) -> list[int]:
        """The nodes of operands: what is captured enters first."""
        captured = len(run.inputs) - self.leaves
        return [*run.inputs[captured:], *run.inputs[:captured]]

    def _next(self, symbols: list[Any]) -> tuple[list[Any], Any]:
        """The next carries, what is stacked, and the carries that the step began with; how many arrays it captures."""
        run = self._carried_out(symbols)
        captured = sum(value.kind == "captured" for value in symbols[0].home.values)
        return [*run.values, *symbols[: self.carries]], captured

    def captured_by(self, body: _Body) -> list[Any]:
        """The arrays that a body captures: those of a step, as they were, and what derivatives make of structure."""
        count = self._values.notes
        return [*self._captured[:count], *body.captured[count:]]

    @property
    def simple(self) -> bool:
        """Whether numbers are real, derivatives are zero by structure alone, and arrays are small or steps many."""
        nodes = [node for node in self._run.nodes if node.op is not None]
        steps, made = self._values.program.instructions, self._values.program.values
        traffic = sum(made[step.out].nbytes for step in steps)
        if self.count * len(steps) < rolling.LONG and traffic > rolling.LARGE * len(steps):
            return False  # tiles of samples are worth more
        real = all(node.step is None and node.out.dtype.kind != "c" for node in nodes)
        infinite = {node.op.unbounded for node in nodes if node.op is not None and unbounded(node)}
        if True in infinite:  # beside finite values: structure would have to say which zeros it meets
            return real and not any(node.op.flat or node.op.chooses for node in nodes if node.op is not None)
        return real and (not infinite or self._is_whole(nodes))

    def _is_whole(self, nodes: Sequence[Node]) -> bool:
        """Whether all entries of carries are used and vary: no zero meets an infinite derivative of another step."""
        if any(node.op.selects is not None or node.op.chooses for node in nodes if node.op is not None):
            return False
        run = self._carried_out(self._first)
        begun, ended = self._ends(run), [-1 if i is None else i for i in run.outputs]
        graph = Graph(run.nodes, self._ends(run), list(dict.fromkeys(i for i in run.outputs if i is not None)))
        varying, live = mark_thoroughly(graph, everywhere=True)
        floats = [k for k in range(self.carries) if self._first[k].dtype.kind == "f"]
        masks = [mask for k in floats for mask in (live.get(begun[k], False), varying.get(ended[k], False))]
        return all(mask is None or bool(np.all(mask)) for mask in masks)

    # -- its values ----------------------------------------------------------------------------------------------------
    def on_tape(self, trace: Trace, met: Sequence[Any], below: Sequence[Any], plainly: Callable[[], Any]) -> Any:
        """The results, of operands as they were met and below the trace: of the trace, or of the program alone."""
        if self.recorder is None:
            below = [trace.held(x) if x is y else x for x, y in zip(below, met, strict=True)]
            self._captured = [trace.held(x) for x in self._captured]
        self._met, self._operands, self._plainly = met, below, plainly
        program, args = self._values.program, [*below, *self._captured]
        sizes = self.count, self.carries, self.leaves - self.carries
        eager = self.recorder is None
        found = _step_by_step(program, sizes, args) if eager else called(self.recorder, program, sizes, args)
        results: list[Any] = found[: len(self._run.outputs)]
        self._begun = found[len(results) :]
        """The carries that each step began with."""
        self._where, own, step = caller(), object(), partial(Outputs, self)
        parents = tuple([x.index if isinstance(x, Traced) and x.home is trace else -1 for x in met])
        for m, (i, y) in enumerate(zip(self._run.outputs, results, strict=True)):
            if trace is not self.recorder and i is not None and y.dtype.kind == "f":
                node = Node(STEP, parents, tuple(below), {"output": m, "structure": own}, y, self._where)
                node.step = step
                trace.nodes.append(node)
                results[m] = traced(trace, len(trace.nodes) - 1, y)
        return unflatten(self._run.tree, results)

    # -- its derivatives -----------------------------------------------------------------------------------------------
    def forward(self, given: Mapping[int, Block], live: Mapping[int, Any]) -> dict[int, Block]:
        """From the blocks of operands to those of outputs; `live` has the outputs that are wanted."""
        found = self._as_loop(given, live, partial(self._forward, given, sorted(live)))
        if found is not None:
            return found
        step, place = self._unrolled()
        return step.forward({place[k]: block for k, block in given.items()}, live)

    def reverse(self, given: Mapping[int, Block], operands: Sequence[int], live: Mapping[int, Any]) -> dict[int, Block]:
        """From the blocks of outputs to those of operands."""
        found = self._as_loop(given, live, partial(self._reverse, given, operands))
        if found is not None:
            return found
        step, place = self._unrolled()
        own = {place[k]: k for k in operands if k in place}
        return {own[k]: block for k, block in step.reverse(given, list(own), live).items()}

    def _as_loop(
        self, given: Mapping[int, Block], live: Mapping[int, Any], derivative: Callable[[], dict[int, Block] | None]
    ) -> dict[int, Block] | None:
        """A derivative as one loop, where it is one: none of its local derivatives looks at numbers."""
        if not given:
            return {}
        with suppress(TraceError, MutationError, Foreign):
            return derivative() if _are_plain(given, live) and not self.by_positions else None
        return None

    def live(self, operands: Sequence[int], masks: Mapping[int, Any]) -> dict[int, Any]:
        """Which entries of its operands it uses: as far as is known all."""
        return {}

    def follow(
        self, given: Mapping[int, Where], active: set[int], outputs: Sequence[int], batch: int
    ) -> tuple[dict[int, Where], set[int], Node | None]:
        """Where its outputs have the samples, which of them depend on the active operands, and where samples mix."""
        first, last = self.carries, self.leaves
        ends, nodes = self._ends(self._run), self._run.outputs
        if _picked(given):
            return self._follow_unrolled(given, active, outputs, batch)
        state, alive = dict(given), set(active)
        stacked: dict[int, Where] = {}
        for k in given.keys() & set(range(first, last)):
            place = given[k]
            state[k] = Place(place.axis - 1, place.stride) if isinstance(place, Place) and place.axis > 0 else place
            if isinstance(place, Place) and place.axis == 0:
                state[k] = None
                if k in active:
                    row = Node(getitem_basic, (0,), (self._operands[k],), {"index": (0,)}, self._first[k], caller())
                    return dict.fromkeys(outputs), set(outputs), row
        for _ in range(self.count):
            wanted = [i for i in nodes if i is not None]
            graph = Graph(self._run.nodes, [ends[k] for k in state], list(dict.fromkeys(wanted)))
            depend = {ends[k] for k in alive}
            places, mixing = follow_samples(graph, {ends[k]: place for k, place in state.items()}, depend, batch)
            if graph.by_positions or _picked(places):
                return self._follow_unrolled(given, active, outputs, batch)
            now = {m: places[i] for m, i in enumerate(nodes) if i in places}
            if mixing is None and any(stacked.setdefault(m, now[m]) != now[m] for m in now if m >= first):
                return self._follow_unrolled(given, active, outputs, batch)  # which says at what they mix
            reached = {m for m, i in enumerate(nodes) if i in depend}
            before = dict(state), set(alive)
            state |= {m: place for m, place in now.items() if m < first}
            alive |= {m for m in reached if m < first}
            if mixing is not None or before == (state, alive):
                break
        found = {m: now[m] if m < first else _on_rows(now[m]) for m in outputs if m in now}
        return found, reached & set(outputs), mixing

    def _follow_unrolled(
        self, given: Mapping[int, Where], active: set[int], outputs: Sequence[int], batch: int
    ) -> tuple[dict[int, Where], set[int], Node | None]:
        """The same where samples are picked, or change their axis from step to step."""
        self.by_positions = True
        step, place = self._unrolled()
        own = {place[k]: at for k, at in given.items() if k in place}
        found, alive, mixing = step.follow(own, {place[k] for k in active if k in place}, outputs, batch)
        stack, scan = mixing and mixing.where, self._where
        if mixing is not None and stack and scan and str(stack) == user_line():  # that of the derivative
            mixing.where = scan._replace(function=stack.function)
        return found, alive, mixing

    def _unrolled(self) -> tuple[Step, dict[int, int]]:
        """The operations of all steps, and which of its operands ours are."""
        closed = Closed(self._plainly, (), {})
        outputs = closed.first.outputs if closed.first is not None else ()
        closed.first = None
        number = {(x.home.serial, x.index): k for k, x in enumerate(closed.operands)}
        keys = [(x.home.serial, x.index) if isinstance(x, Traced) else None for x in self._met]
        place = {k: number[key] for k, key in enumerate(keys) if key in number}
        values = {n: self._operands[k] for k, n in place.items()}
        below = [values.get(n, x) for n, x in enumerate(closed.operands)]
        step = Step(closed, below, range(len(outputs)), {})
        step.by_positions = self.by_positions
        return step, place

    def _forward(self, given: Mapping[int, Block], wanted: Sequence[int]) -> dict[int, Block] | None:
        first, last, ops = self.carries, self.leaves, self._operands
        same = {k: block for k, block in given.items() if k >= last}
        parts = [factor.array for block in same.values() for term in block.terms for factor in term.factors]
        loop = _Derivative(self, given, self._first, parts, backward=False)

        def advance(
            values: list[Any], blocks: dict[int, Block], parts: list[Any]
        ) -> tuple[list[Any], dict[int, Block]]:
            arrays = iter(parts)
            blocks |= {k: on_arrays(block, lambda _: next(arrays)) for k, block in same.items()}
            run = self._carried_out(values)
            ends = self._ends(run)
            nodes = {m: i for m in sorted({*range(first), *wanted}) if (i := run.outputs[m]) is not None}
            graph = Graph(run.nodes, [ends[k] for k in blocks], list(dict.fromkeys(nodes.values())))
            found = settled(graph, lambda: graph.forward({ends[k]: block for k, block in blocks.items()}))
            return list(run.values[:first]), {m: found[i] for m, i in nodes.items() if i in found}

        if not loop.settle(advance):
            return None
        found = loop.call(ops[:first], ops[first:last], ops[last:], parts)
        return {m: block for m, block in found.items() if m in wanted}

    def _reverse(self, given: Mapping[int, Block], operands: Sequence[int]) -> dict[int, Block] | None:
        first, last, ops = self.carries, self.leaves, self._operands
        loop = _Derivative(self, {m: block.T for m, block in given.items()}, self._first, [], backward=True)

        def advance(values: list[Any], blocks: dict[int, Block], _: list[Any]) -> tuple[list[Any], dict[int, Block]]:
            run = self._carried_out(values)
            ends = self._ends(run)
            seeds: dict[int, Block] = {}
            for m, block in blocks.items():
                i = run.outputs[m]
                if i is not None:
                    seeds[i] = seeds[i] + block.T if i in seeds else block.T
            asked = sorted({*range(first), *operands}, key=lambda k: (k >= first, k < last, k))
            graph = Graph(run.nodes, [ends[k] for k in asked], list(seeds))
            seeds = {i: block for i, block in seeds.items() if i in graph.outputs}
            found = settled(graph, lambda: graph.reverse(seeds))
            return [], {k: found[ends[k]].T for k in asked if ends[k] in found}

        if not loop.settle(advance):
            return None
        rows = [x[::-1] for x in (*self._begun, *ops[first:last])]
        found = loop.call(rows[:first], rows[first:], ops[last:], [])
        return {k: block.T for k, block in found.items() if k in operands}


def _picked(places: Mapping[int, Where]) -> bool:
    return any(isinstance(place, Owners) for place in places.values())


def _on_rows(place: Where) -> Where:
    """Where samples are once rows are stacked."""
    return Place(place.axis + 1, place.stride) if isinstance(place, Place) and place.axis >= 0 else place


class _Derivative:
    """The loop of a derivative: what its step is given, in the order of its inputs, and what comes of it.

    Forward, carries and their blocks go from step to step, and rows and their blocks come in; what is captured has
    blocks that are the same in all steps. Backward, blocks go, and carries are rows too; blocks of what is captured add
    up.
    """

    def __init__(
        self, scan: Scan, given: Mapping[int, Block], first: Sequence[Any], parts: Sequence[Any], backward: bool
    ) -> None:
        self._scan, self._first, self._parts, self._backward = scan, first, parts, backward
        self._given = given
        self._one, self._seeds = _one(given, first), next(iter(given.values())).inp_shape
        carries, leaves = scan.carries, scan.leaves
        self._state = {k: _known(given[k]) for k in sorted(given) if k < carries}
        rows = [k for k in sorted(given) if k >= carries and (backward or k < leaves)]
        self._rows = {k: _known(given[k], rows=True) for k in rows}
        self._found: list[tuple[int, _Known]] = []
        """What a step makes: blocks of carries, then of what adds up, then of rows."""

    def _order(self, *groups: Sequence[Any]) -> list[Any]:
        """Carries, their blocks, rows, their blocks, what is captured and parts of its blocks: as inputs."""
        own, between, *rest = groups
        pair = (between, own) if self._backward else (own, between)
        return [x for group in (*pair, *rest) for x in group]

    def settle(self, advance: Callable[[list[Any], dict[int, Block], list[Any]], tuple[list[Any], Any]]) -> bool:
        """Record what one step does, on what the one before makes; False where that is always something else."""
        count, last, first = self._scan.carries, self._scan.leaves, self._first
        for _ in range(MOST_TRIES):
            between = [known.nothing(self._seeds, self._one) for known in self._state.values()]
            rows = [known.row.nothing(self._seeds, self._one) for known in self._rows.values()]
            parts = [np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in self._parts]
            groups = first[:count], between, first[count:last], rows, first[last:], parts

            def carried(symbols: list[Any], groups: Any = groups) -> tuple[list[Any], Any]:
                take = iter(symbols)
                places = self._order(*([k] * len(group) for k, group in enumerate(groups)))
                split: list[list[Any]] = [[] for _ in groups]
                for k, x in zip(places, take, strict=True):
                    split[k].append(x)
                known = dict(self._state) | {k: row.row for k, row in self._rows.items()}
                data = zip(known, (*split[1], *split[3]), strict=True)
                blocks = {k: known[k].block(x, self._seeds, self._one) for k, x in data}
                following, made = advance([*split[0], *split[2], *split[4]], blocks, split[5])
                results, notes = self._written(made)
                return [*following, *results], notes

            body = _recorded(carried, self._order(*groups))
            self._body, (self._found, grown) = body, body.notes
            if not grown:
                return True
            self._state = dict(sorted((self._state | grown).items()))
        return False

    def _written(self, made: dict[int, Block]) -> tuple[list[Any], Any]:
        """Blocks as what they are between steps, and those that are something else than they were."""
        results: list[Any] = []
        found: list[tuple[int, _Known]] = []
        grown: dict[int, _Known] = {}
        gone = {k: Block(known.shape, self._seeds) for k, known in self._state.items() if k not in made}
        rows = {k: block for k, block in made.items() if k >= self._scan.carries and block.terms}
        carries = {k: block for k, block in made.items() if k < self._scan.carries} | gone
        for k, block in (*sorted(carries.items()), *rows.items()):
            own, before = _known(block), self._state.get(k)
            if k in carries:
                if before is not None:
                    kept = own.pairs.items() & before.pairs.items() if block.terms else before.pairs.items()
                    own = own._replace(pairs=dict(sorted(kept)))
                if own != before:
                    grown[k] = own
            results.append(block.data(own.pairs, self._one.dtype, self._one))
            found.append((k, own))
        return results, (found, grown)

    def call(self, own: Sequence[Any], xs: Sequence[Any], captured: Sequence[Any], parts: Sequence[Any]) -> Any:
        """The blocks that the loop makes, from those given."""
        scan, seeds, one, dtype = self._scan, self._seeds, self._one, self._one.dtype
        between = [self._given[k].data(known.pairs, dtype, one) if k in self._given else known.nothing(seeds, one)
                   for k, known in self._state.items()]  # fmt: skip
        rows = [self._given[k].data(known.pairs, dtype, one) for k, known in self._rows.items()]
        if self._backward:
            rows = [x[::-1] for x in rows]
        args = [*self._order(own, between, xs, rows, captured, parts), *scan.captured_by(self._body)]
        sums = [known for k, known in self._found if self._backward and k >= scan.leaves]
        start = len(between)
        program = _summing(self._body.program, start, len(sums)) if sums else self._body.program
        args[start:start] = [known.nothing(seeds, one) for known in sums]
        carries, moving = start + len(sums), len(xs) + len(rows)
        carries, moving = (carries, moving + len(own)) if self._backward else (carries + len(own), moving)
        made = called(scan.recorder, program, (scan.count, carries, moving), args)
        found: dict[int, Block] = {}
        for (k, known), data in zip(self._found, made[0 if self._backward else len(own) :], strict=True):
            if k < scan.carries or (self._backward and k >= scan.leaves):
                found[k] = known.block(data, seeds, one)
            else:
                data = data[::-1] if self._backward else data
                found[k] = known.stacked(scan.count).block(data, seeds, one)
        return found


def _summing(program: Program, start: int, count: int) -> Program:
    """The program with some of its outputs added to inputs at the same places."""
    values, steps, outputs = list(program.values), list(program.instructions), list(program.outputs)
    before = range(len(values), len(values) + 2 * count, 2)
    for n, k in zip(before, range(start, start + count), strict=True):
        value = values[outputs[k]]._replace(content=None)
        values += [value._replace(kind="input"), value._replace(kind="computed")]
        steps.append(Instruction(ADD, (n, outputs[k]), {}, n + 1))
        outputs[k] = n + 1
    inputs = (*program.inputs[:start], *before, *program.inputs[start:])
    return Program(tuple(values), tuple(steps), inputs, tuple(outputs))
