"""Rolled tapes: equal steps that a plain loop left on a tape become one node for each result, as a scan's are.

A tape is taken for a program of its nodes, in which `program.passes.rolling` finds loops; what it makes of it is put on
the tape in place of what was there, loops as `looping` has them. What comes later sees one step of each loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.recording import Prepared, Recorded
from ..backend import array_of
from ..errors import BatchMixingError, MutationError, TraceError
from ..lines import Line
from ..memo import uncollected
from ..numpy.parts import stack
from ..ops.families import Elementwise
from ..program.ir import PYTHON_NUMBERS, Instruction, Program, Value
from ..program.loops import LOOP, PICK, Loop, unrolled
from ..program.passes import rolling
from ..program.record import Foreign, Recorder, Symbol
from ..tape.trace import THREAD, Node, Trace, apply
from ..tape.traced import Traced, traced
from . import looping
from .closing import Closed
from .looping import as_scan, is_plain

__all__ = ["followed_with_loops", "rolled"]


def followed_with_loops(run: Recorded, followed: Callable[[Recorded], Prepared]) -> Prepared:
    """A run as it is followed from its inputs to its outputs, with loops where samples go through them as they are."""
    found = with_loops(run) if run.trace.takes_loops else None
    if found is not None:
        with suppress(BatchMixingError):  # which names the line in the step
            ready = followed(found[0])
            if not ready.mixes and not ready.graph.by_positions:
                found[1]()
                return ready
    return followed(run)


def with_loops(run: Recorded) -> tuple[Recorded, Callable[[], None]] | None:
    """A run with loops in place of equal steps, and what to call where it is taken; None where it has none."""
    trace, nodes = run.trace, run.nodes
    shortest = looping.LONG if trace.program is None else rolling.SHORTEST
    if len(nodes) < shortest or THREAD.inside is not None or trace.masked or trace.complex:
        return None
    inputs = [*run.inputs, *run.others]
    if not all(_is_below(nodes[i].out, trace.program) for i in inputs):
        return None
    with uncollected():
        graph = Graph(nodes, inputs, list(dict.fromkeys(i for i in run.output_nodes if i is not None)))
        if len(graph.order) < rolling.SHORTEST or graph.steps:
            return None
        tape = _Tape.of(graph, inputs, trace.program)
        if tape is None:
            return None
        program = rolling.looped(tape.program)
        if not any(step.op is LOOP for step in program.instructions):
            return None
        return _put_back(run, tape, program)


def rolled(run: Recorded) -> Recorded:
    """The run with loops, where it has any."""
    found = with_loops(run)
    if found is None:
        return run
    found[1]()
    return found[0]


def _is_below(x: Any, recorder: Any) -> bool:
    """Whether a value is NumPy's, or of the program that is being recorded."""
    return is_plain(x) if recorder is None else isinstance(x, Symbol) and x.home is recorder and is_plain(x.value)


class _Tape(NamedTuple):
    """A tape as a program: of each of its first values the node, or -1 where it is given."""

    program: Program
    nodes: list[int]

    @classmethod
    def of(cls, graph: Graph, inputs: Sequence[int], recorder: Recorder | None) -> _Tape | None:
        nodes = graph.nodes
        if recorder is not None and _reads_beside(graph, recorder):
            return None
        writer = _Numbers(plain=recorder is None)
        for i in inputs:
            writer.add(_value(nodes[i].out, "input"), i)
        for i in graph.order:
            writer.node(i, nodes[i], graph.operands(i))
        outputs = tuple([writer.number[i] for i in graph.outputs])
        inputs = [writer.number[i] for i in inputs]
        return cls(Program(tuple(writer.values), tuple(writer.steps), tuple(inputs), outputs), writer.nodes)


def _reads_beside(graph: Graph, recorder: Recorder) -> bool:
    """Whether nodes read what the program computes without a derivative, such as the mask of a choice."""
    for i in graph.order:
        followed = {k for k, _ in graph.operands(i)}
        for k, arg in enumerate(graph.nodes[i].args):
            if k not in followed and isinstance(arg, Symbol) and recorder.values[arg.index].kind == "computed":
                return True
    return False


class _Numbers:
    """Numbers the values of a tape; `plain`: arrays, and none of a program that is being recorded."""

    def __init__(self, plain: bool) -> None:
        self._plain = plain
        self.values: list[Value] = []
        self.nodes: list[int] = []
        self.steps: list[Instruction] = []
        self.number: dict[int, int] = {}
        """Of a node,"""
        self._given: dict[Any, int] = {}
        """and of what is given."""

    def add(self, value: Value, node: int = -1) -> int:
        self.values.append(value)
        self.nodes.append(node)
        if node >= 0:
            self.number[node] = len(self.values) - 1
        return len(self.values) - 1

    def node(self, i: int, node: Node, operands: Sequence[tuple[int, int]]) -> None:
        """Add a node."""
        args = [-1] * len(node.args)
        for k, p in operands:
            args[k] = self.number[p]
        for k, arg in enumerate(node.args):
            if args[k] < 0:
                args[k] = self._operand(arg)
        out = self.add(_value(node.out, "computed"), i)
        self.steps.append(Instruction(node.op, tuple(args), node.params, out))  # type: ignore[arg-type]

    def _operand(self, arg: Any) -> int:
        key = _identity(arg, self._plain)
        if key not in self._given:
            self._given[key] = self.add(_value(arg, "captured"))
        return self._given[key]


SMALL = 2**16
"""Bytes of an array up to which equal ones are one: each use of a captured array holds a copy of it."""


def _identity(x: Any, plain: bool) -> Any:
    if isinstance(x, Symbol):
        return "symbol", x.index
    if not isinstance(x, np.ndarray):
        return type(x), repr(x)
    return (x.shape, x.dtype, x.tobytes()) if plain and x.nbytes <= SMALL else id(x)


def _value(x: Any, kind: str) -> Value:
    array = array_of(x)
    content = None if kind in ("input", "computed") else x
    if isinstance(array, np.ndarray) or content is None:
        return Value(array.shape, array.dtype, kind, content)
    return Value((), np.dtype(object) if array is None else np.asarray(array).dtype, "constant", x, type(array))


# -- on the tape again -------------------------------------------------------------------------------------------------
def _put_back(run: Recorded, tape: _Tape, program: Program) -> tuple[Recorded, Callable[[], None]] | None:
    trace, nodes = run.trace, run.nodes
    trace.nodes = nodes[: next(i for i, node in enumerate(nodes) if node.op is not None)]
    trace.open = True
    writer = _Writer(trace, nodes, tape, program)
    try:
        with trace:
            found = writer.written() and {n: writer.at[n] for n in program.outputs}
        if not found or not all(isinstance(x, Traced) and x.home is trace for x in found.values()):
            return None
    except (TraceError, MutationError, Foreign):
        return None
    finally:
        made, trace.nodes = trace.nodes, nodes
    for before, after in zip(tape.program.outputs, program.outputs, strict=True):
        writer.note(nodes[tape.nodes[before]].out, writer.at[after].value)
    places = [tape.nodes[n] for n in tape.program.outputs]
    number = {i: writer.at[n].index for i, n in zip(places, program.outputs, strict=True)}
    output_nodes = [None if i is None else number.get(i) for i in run.output_nodes]

    def take() -> None:
        for before, after in writer.replaced:
            trace.program.replace(before, after)

    return run._replace(nodes=made, output_nodes=output_nodes), take


class _Writer:
    """Writes a program of a tape's nodes, with loops, on the tape."""

    def __init__(self, trace: Trace, nodes: Sequence[Node], tape: _Tape, program: Program) -> None:
        self._trace, self._nodes, self._tape, self._program = trace, nodes, tape, program
        self._lines = {id(node.params): node.where for node in nodes}
        self.at: dict[int, Any] = {n: value.content for n, value in enumerate(program.values)}
        """What stands for a value."""
        for n in program.inputs:
            i = tape.nodes[n]
            self.at[n] = traced(trace, i, nodes[i].out)
        self.replaced: list[tuple[Symbol, Symbol]] = []

    def note(self, before: Any, after: Any) -> None:
        """Note what is computed by a loop now."""
        if isinstance(before, Symbol) and isinstance(after, Symbol) and before.index != after.index:
            self.replaced.append((before, after))

    def written(self) -> bool:
        """Write it; False where a loop is none that `looping` takes."""
        results: dict[int, Any] = {}
        for op, args, params, out in self._program.instructions:
            own = [self.at[n] for n in args] if op is not PICK else []
            if op is LOOP:
                results[out] = self._loop(params["loop"], own)
                if results[out] is None:
                    return False
            elif op is PICK:
                self.at[out] = results[args[0]][params["index"]]
            elif out < len(self._tape.nodes) and self._tape.nodes[out] >= 0:
                self.at[out] = self._copied(self._tape.nodes[out], own)
            else:
                self.at[out] = apply(op, tuple(own), params)
        return True

    def _copied(self, i: int, args: Sequence[Any]) -> Any:
        node, trace = self._nodes[i], self._trace
        if len(args) != len(node.args):  # rows put together that are one array now
            y = apply(node.op, tuple(args), node.params)  # type: ignore[arg-type]
            trace.nodes[-1].where = node.where
            self.note(node.out, y.value)
            return y
        parents = tuple([x.index if isinstance(x, Traced) and x.home is trace else -1 for x in args])
        for before, x, p in zip(node.args, args, parents, strict=True):
            self.note(before, x.value if p >= 0 else x)
        trace.nodes.append(
            Node(node.op, parents, node.args, node.params, node.out, node.where)
        )  # agree to the last bit
        trace.nodes[-1].slopes = node.slopes
        return traced(trace, len(trace.nodes) - 1, node.out)

    def _loop(self, loop: Loop, args: Sequence[Any]) -> list[Any] | None:
        body = unrolled(loop.body)
        if any(step.op.rooted is not None for step in body.instructions):
            return None
        count, last = loop.carries, loop.carries + loop.rows
        rows = [_numbers(body, n, x) for n, x in zip(body.inputs[count:last], args[count:last], strict=True)]
        leaves = [*args[:count], *rows]
        first = [np.asarray(x if k < count else x[0]) for k, x in enumerate(map(array_of, leaves)) if x is not None]
        plain = all(is_plain(array_of(x)) for x in leaves)
        if len(first) < len(leaves) or not plain or not all(x.dtype.kind in "biuf" for x in first):
            return None
        start = len(self._trace.nodes)
        step = _Step(body, loop, args[last:], self._lines)
        closed = Closed(step, tuple(first), {}, free=True)
        found = as_scan(closed, first, leaves, count, loop.length, lambda: step.repeated(leaves))
        if found is None:
            return None
        for node in self._trace.nodes[start:]:
            node.where = step.line
        return step.results(found)


def _numbers(body: Program, n: int, x: Any) -> Any:
    """What each step is given; of Python's numbers, an array of the type that they take; None where that is not one."""
    if body.values[n].number not in PYTHON_NUMBERS:
        return x
    readers = [step for step in body.instructions if n in step.args]
    plain = all(isinstance(step.op, Elementwise) and not step.op.shortcuts for step in readers)
    if not plain or x.dtype.kind not in "if":
        return None
    number = float(0) if x.dtype.kind == "f" else 0  # which takes the dtype of what it meets
    types = {np.result_type(*(body.values[m].dtype for m in step.args if m != n), number) for step in readers}
    return np.asarray(x, types.pop()) if len(types) == 1 else None


class _Step:
    """The step of a loop, as a function of carries and rows."""

    def __init__(self, body: Program, loop: Loop, same: Sequence[Any], lines: Mapping[int, Line | None]) -> None:
        self._body, self._loop, self._lines = body, loop, lines
        own = loop.carries + loop.rows
        self._inputs = body.inputs[:own]
        self._values = [value.content for value in body.values]
        for n, x in zip(body.inputs[own:], same, strict=True):
            self._values[n] = x
        ends = body.outputs
        every = (False,) * loop.carries + loop.stacked
        self._stacked = [k for k in range(loop.carries, len(ends)) if every[k] or ends[k] not in ends[: loop.carries]]
        """What it makes beside the last carries."""
        found = [lines.get(id(step.params)) for step in body.instructions]
        self.line = next((line for line in reversed(found) if line is not None), None)
        """The user's line of its end."""

    def __call__(self, *own: Any) -> tuple[Any, ...]:
        values = list(self._values)
        for n, x in zip(self._inputs, own, strict=True):
            values[n] = x
        for step in self._body.instructions:
            y = values[step.out] = apply(step.op, tuple([values[n] for n in step.args]), step.params)
            if isinstance(y, Traced) and y.index >= 0 and not isinstance(y, Symbol):
                y.home.nodes[y.index].where = self._lines.get(id(step.params))
        ends = self._body.outputs
        return tuple([values[n] for n in (*ends[: self._loop.carries], *(ends[k] for k in self._stacked))])

    def repeated(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """The same as the loop that it is in, step by step."""
        count = self._loop.carries
        carry, columns = tuple(leaves[:count]), [[] for _ in self._stacked]  # type: ignore[var-annotated]
        for t in range(self._loop.length):
            made = self(*carry, *(x[t] for x in leaves[count:]))
            carry = made[:count]
            for column, y in zip(columns, made[count:], strict=True):
                column.append(y)
        return *carry, *(stack(column) for column in columns)

    def results(self, found: Sequence[Any]) -> list[Any]:
        """The loop's, of what a scan gives."""
        count, ends = self._loop.carries, self._body.outputs
        results = list(found[:count])
        for k in range(count, len(ends)):
            if k in self._stacked:
                y = found[count + self._stacked.index(k)]
                results.append(y if self._loop.stacked[k - count] else y[-1])
            else:
                results.append(found[ends.index(ends[k])])
        return results
