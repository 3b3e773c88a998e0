"""Repetition: stretches of a long tape that do the same, as the steps of a loop do, and what they do to blocks.

Much of what a stretch costs is Python: labels matched, terms composed. The first stretch of a structure, on blocks of
a structure, is recorded while it is carried out, and those that follow are carried out by the program of that. Nothing
is approximated: what could differ between two stretches is part of the key or an operand of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.samples import follow_node
from ..algebra.block import Block
from ..algebra.factors import Factor
from ..algebra.labels import Label
from ..algebra.terms import Term
from ..backend import array_of
from ..errors import MutationError, TraceError
from ..memo import Memo
from ..program.entry import Entry, run_recorded
from ..program.ir import interpreted
from ..program.loops import Loop
from ..program.passes.periods import period_of
from ..program.record import Foreign, Recorder, Symbol
from ..tape.trace import Node

__all__ = ["Stretch", "on_arrays", "stretches"]

SHORTEST = 150
"""Nodes of a graph below which repetition is not looked for."""
FEWEST = 4
"""Repetitions for which a program is worth its making."""
MOST_BYTES = 2**22
"""Bytes of a stretch's arrays above which its arithmetic, and not Python, is what takes time."""


# -- finding it --------------------------------------------------------------------------------------------------------
class Stretch(NamedTuple):
    """Nodes that follow each other in a graph's order, the nodes that they read, and those of them that others read."""

    nodes: tuple[int, ...]
    operands: tuple[int, ...]
    results: tuple[int, ...]
    structure: Any
    followed: dict[Any, Any]
    """Where samples went, by where they came in: for all stretches of one graph."""

    def follow(self, graph: Graph, places: dict[int, Any], active: set[int], batch: int) -> Any:
        """Where its nodes have their samples, found once for each structure, and the first that mixes them."""
        key = self.structure, tuple([(places.get(p, "none"), p in active) for p in self.operands])
        found = None if graph.by_positions else self.followed.get(key)
        if found is None:
            mixing = [follow_node(graph, places, active, batch, j) for j in self.nodes]
            found = [(places.get(j, "none"), j in active) for j in self.nodes]
            if any(mixing):
                return next(filter(None, mixing))
            self.followed[key] = found
        places.update([(j, place) for j, (place, _) in zip(self.nodes, found, strict=True) if place != "none"])
        active.update([j for j, (_, alive) in zip(self.nodes, found, strict=True) if alive])
        return None

    def forward(self, graph: Graph, blocks: Mapping[int, Block]) -> dict[int, Block]:
        """From the blocks of what it reads to those of its results."""
        return _carried_out(self, graph, {p: blocks[p] for p in self.operands if p in blocks}, backward=False)

    def reverse(self, graph: Graph, blocks: Mapping[int, Block]) -> Iterable[tuple[int, Block]]:
        """From the blocks of its results to those of what it reads."""
        return _carried_out(self, graph, {i: blocks[i] for i in self.results if i in blocks}, backward=True).items()


_ROWS = Memo[int](2**16)
_ROW = count()


def stretches(graph: Graph) -> list[Stretch]:
    """The stretches of a long graph that repeat each other, in order."""
    order = graph.order
    if len(order) < SHORTEST or graph.by_positions:
        return []
    graph.mark_live()
    rows = [_ROWS.get(_row(graph, i), lambda: next(_ROW)) for i in order]
    period, runs = period_of(rows)
    parts = [
        order[start + n * period : start + (n + 1) * period]
        for start, repetitions in runs
        if repetitions >= FEWEST
        for n in range(repetitions)
    ]
    home = {i: n for n, part in enumerate(parts) for i in part}
    read: set[int] = set(graph.outputs)
    for i in order:
        read.update(p for _, p in graph.operands(i) if home.get(p, -1) != home.get(i, -2))
    number = dict(zip(order, rows, strict=True))
    followed: dict[Any, Any] = {}
    return [_stretch(graph, part, read, number, followed) for part in parts]


def _row(graph: Graph, i: int) -> Any:
    """What a node is, but for where its operands come from."""
    node, number = graph.nodes[i], dict[Label, int]()
    params = tuple([(key, _frozen(value, number)) for key, value in node.params.items()]) if node.params else ()
    args = tuple([_described_operand(arg) for arg in node.args])
    masks = node.live is None, tuple(node.varying)
    return node.op, args, params, masks, array_of(node.out).dtype.char, tuple([k for k, _ in graph.operands(i)])


def _described_operand(arg: Any) -> Any:
    array = array_of(arg)
    return (array.shape, array.dtype.char) if hasattr(array, "shape") else (type(arg), repr(arg))


def _frozen(value: Any, number: dict[Label, int]) -> Any:
    """A hashable stand-in, equal for equal values: labels by order of appearance, unknown objects equal to nothing."""
    if isinstance(value, tuple | list):
        whole = all(type(item) is int for item in value)
        return tuple(value) if whole else tuple([_frozen(item, number) for item in value])
    if isinstance(value, Label):
        return number.setdefault(value, len(number)), value.size
    if (
        value is None
        or value is Ellipsis
        or isinstance(value, bool | int | str | float | complex | slice | np.dtype | type)
    ):
        return type(value), repr(value)
    return object()


def _stretch(
    graph: Graph, part: Sequence[int], read: set[int], number: Mapping[int, int], followed: dict[Any, Any]
) -> Stretch:
    local: dict[int, int] = {i: n for n, i in enumerate(part)}
    operands: dict[int, int] = {}
    structure: list[Any] = []
    for i in part:
        structure.append(number[i])
        for _, p in graph.operands(i):
            structure.append(local[p] if p in local else -1 - operands.setdefault(p, len(operands)))
    results = tuple([i for i in part if i in read])
    structure.append(tuple([local[i] for i in results]))
    return Stretch(tuple(part), tuple(operands), results, tuple(structure), followed)


# -- carrying it out ---------------------------------------------------------------------------------------------------
class _Recorded:
    """The program of a stretch, and the blocks that its results make."""

    def __init__(self, entry: Entry, blocks: dict[int, Any]) -> None:
        self.entry, self.blocks = entry, blocks

    @cached_property
    def _call(self) -> tuple[Loop, list[int], list[Any]]:
        """The program as one that is carried out once, in programs; the arrays that it reads; and its results, for
        their shapes and dtypes."""
        program = self.entry.program
        outputs = [program.values[n] for n in program.outputs]
        used = {n for step in program.instructions for n in step.args} | set(program.outputs)
        read = [k for k, n in enumerate(program.inputs) if n in used]
        body = program._replace(inputs=tuple([program.inputs[k] for k in read]))
        like = [np.broadcast_to(np.zeros((), value.dtype), value.shape) for value in outputs]
        return Loop(body, 1, stacked=(False,) * len(like)), read, like

    def results(self, arrays: Sequence[Any]) -> list[Any]:
        if all(type(array) is np.ndarray for array in arrays):
            found: list[Any] = self.entry(arrays)
            return found
        recorder = next((x.home for x in arrays if isinstance(x, Symbol)), None)
        if isinstance(recorder, Recorder) and recorder.follows_all(arrays):
            call, read, like = self._call
            return list(recorder.call(call, [arrays[k] for k in read], like))
        return interpreted(self.entry.program, arrays)


_PROGRAMS = Memo[_Recorded | str](128)
"""By structure: what was recorded; "once" after the first time on arrays that a trace follows; or "never"."""


def _carried_out(stretch: Stretch, graph: Graph, given: Mapping[int, Block], backward: bool) -> dict[int, Block]:
    if not given:
        return {}
    local = {i: n for n, i in enumerate((*stretch.operands, *stretch.nodes))}
    arrays = _Arrays()
    structure = tuple([(local[i], _described(block, arrays)) for i, block in given.items()])
    nodes = tuple([_held(graph.nodes[i], arrays) for i in (*stretch.operands, *stretch.nodes)])
    key = backward, stretch.structure, structure, nodes, arrays.described()
    found = _PROGRAMS.seen(key)
    followed = next((x for x in arrays.all if type(x) is not np.ndarray), None)
    results = None
    if found is None and followed is not None and not isinstance(followed, Symbol):
        _PROGRAMS.put(key, "once" if arrays.small else "never")
    elif found in (None, "once"):
        found, results = _recorded(stretch, graph, given, arrays, backward) if arrays.small else ("never", None)
        _PROGRAMS.put(key, found)
    if not isinstance(found, _Recorded):
        part = _between(graph, stretch)
        return part.reverse(given) if backward else part.forward(given)
    if results is None or followed is not None:
        results = found.results(arrays.all)
    there = {n: i for i, n in local.items()}
    one = next(iter(given.values())).one
    return {there[n]: _block(described, results, one) for n, described in found.blocks.items()}


def _between(graph: Graph, stretch: Stretch) -> Graph:
    """The stretch as a graph of its own, of the same local derivatives."""
    part = graph.part(stretch.nodes, stretch.operands, stretch.results)
    return part


class _Arrays:
    """The arrays that a stretch reads, each once."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._slots: dict[int, int] = {}

    def slot(self, array: Any) -> int:
        found = self._slots.get(id(array))
        if found is None:
            found = self._slots[id(array)] = len(self.all)
            self.all.append(array)
        return found

    def described(self) -> Any:
        return tuple([(array.shape, array.dtype.char) for array in self.all])

    @property
    def small(self) -> bool:
        """Whether they are NumPy's, and take so little that Python is what takes time."""
        return all(type(array_of(x)) is np.ndarray for x in self.all) and sum(x.nbytes for x in self.all) <= MOST_BYTES


def _described(block: Block, arrays: _Arrays) -> Any:
    """A block with slots in place of arrays and numbers in place of labels."""
    terms = []
    for term in block.terms:
        structure, labels = term.key()
        number = {label: n for n, label in enumerate(labels)}
        factors = tuple([
            (arrays.slot(array) if hasattr(array, "dtype") else (repr(array),), tuple([number[x] for x in axes]))
            for array, axes in term.factors
        ])  # fmt: skip
        terms.append((structure, factors, repr(term.scale)))
    return block.out_shape, block.inp_shape, block.one.dtype.char, tuple(terms)


def _held(node: Node, arrays: _Arrays) -> Any:
    """The slots of a node's arrays, and of masks of its entries."""
    masks = () if node.live is None and not node.varying else (node.live, *node.varying.values())
    return tuple([arrays.slot(x) if hasattr(x, "dtype") else -1 for x in (node.out, *node.args, *masks)])


def _recorded(
    stretch: Stretch, graph: Graph, given: Mapping[int, Block], arrays: _Arrays, backward: bool
) -> tuple[_Recorded | str, list[Any] | None]:
    """The program of a stretch and what it computes; "never" where a local derivative looks at numbers."""
    local = {i: n for n, i in enumerate((*stretch.operands, *stretch.nodes))}
    blocks: dict[int, Any] = {}

    def carried(symbols: list[Any]) -> list[Any]:
        def at(x: Any) -> Any:
            return symbols[arrays.slot(x)] if hasattr(x, "dtype") else x

        nodes = []
        for i in (*stretch.operands, *stretch.nodes):
            node = graph.nodes[i]
            own = dict(graph.operands(i)) if i in stretch.nodes else {}
            parents = tuple([local[own[k]] if k in own else -1 for k in range(len(node.args))])
            args = tuple([at(arg) for arg in node.args])
            operation = node.op if i in stretch.nodes else None
            nodes.append(Node(operation, parents if operation else (), args, node.params, at(node.out), node.where))
            nodes[-1].live, nodes[-1].varying = at(node.live), {k: at(mask) for k, mask in node.varying.items()}
        own_graph = Graph(nodes, range(len(stretch.operands)), [local[i] for i in stretch.results])
        own_graph.marked = True  # as the whole graph has it
        seeds = {local[i]: on_arrays(block, at) for i, block in given.items()}
        found = own_graph.reverse(seeds) if backward else own_graph.forward(seeds)
        results: list[Any] = []
        for n, block in found.items():
            terms = []
            for term in block.terms:
                factors = []
                for array, axes in term.factors:
                    results.append(array)
                    factors.append((len(results) - 1, axes))
                terms.append((term.out, term.inp, factors, term.scale, term.conj))
            blocks[n] = block.out_shape, block.inp_shape, terms
        return results

    try:
        entry, results = run_recorded(carried, [array_of(x) for x in arrays.all])
    except (TraceError, MutationError, Foreign):
        return "never", None
    return _Recorded(entry, blocks), results


def on_arrays(block: Block, at: Callable[[Any], Any]) -> Block:
    """A block on other arrays."""
    terms = [
        Term(t.out, t.inp, tuple([Factor(at(array), axes) for array, axes in t.factors]), t.scale, t.conj)
        for t in block.terms
    ]
    return Block(block.out_shape, block.inp_shape, terms, np.ones((), block.one.dtype))


def _block(described: Any, results: Sequence[Any], one: Any) -> Block:
    out_shape, inp_shape, terms = described
    made = [
        Term(out, inp, tuple([Factor(results[n], axes) for n, axes in factors]), scale, conj).renamed()
        for out, inp, factors, scale, conj in terms
    ]
    return Block(out_shape, inp_shape, made, one)


Graph.stretches = stretches
