"""Steps: a function as one node of the tape for each of its outputs, whose inside is run again when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..accumulation.graph import Graph, structure_of
from ..accumulation.liveness import mark_live
from ..accumulation.samples import follow_samples
from ..algebra.block import Block
from ..arguments import unflatten
from ..backend import check_operand, value_of
from ..lines import caller
from ..memo import Memo
from ..places import Owners, Where
from ..tape.op import Op
from ..tape.trace import Node
from ..tape.traced import Traced, traced
from .closing import Closed, Run, innermost

__all__ = ["Outputs", "Step", "as_step"]


def _carried_out(*operands: Any, **params: Any) -> Any:
    raise RuntimeError("minijac: a step is carried out as a whole")


STEP = Op("step", _carried_out, _carried_out)
"""What the nodes of a step's outputs are made by."""


class Outputs(NamedTuple):
    """The outputs of a step that a graph has: one whole of it."""

    step: Any
    """A `Step`, or what can do the same (`looping.Scan`)."""
    nodes: tuple[int, ...]

    def live(self, graph: Graph) -> list[tuple[int, Any]]:
        """Which entries of what the step reads are used."""
        operands = graph.operands(self.nodes[0])
        used = self.step.live([k for k, _ in operands], self._masks(graph))
        return [(p, used.get(k)) for k, p in operands]

    def forward(self, graph: Graph, blocks: Mapping[int, Block]) -> dict[int, Block]:
        """From the blocks of what the step reads to those of its outputs."""
        graph.mark_live()
        given = {k: blocks[p] for k, p in graph.operands(self.nodes[0]) if p in blocks}
        found = self.step.forward(given, self._masks(graph))
        return {i: found[m] for i, m in self._numbers(graph).items() if m in found}

    def reverse(self, graph: Graph, blocks: Mapping[int, Block]) -> list[tuple[int, Block]]:
        """From the blocks of its outputs to those of what the step reads."""
        graph.mark_live()
        operands, number = dict(graph.operands(self.nodes[0])), self._numbers(graph)
        given = {number[i]: block for i, block in blocks.items()}
        found = self.step.reverse(given, list(operands), self._masks(graph)) if given else {}
        return [(operands[k], block) for k, block in found.items()]

    def follow(self, graph: Graph, places: dict[int, Where], active: set[int], batch: int) -> Node | None:
        """Note where its outputs have their samples; the operation at which they mix."""
        operands, number = graph.operands(self.nodes[0]), self._numbers(graph)
        given = {k: places[p] for k, p in operands if p in places}
        depend = {k for k, p in operands if p in places and p in active}
        found, alive, mixing = self.step.follow(given, depend, list(number.values()), batch)
        if self.step.by_positions:
            graph.list_positions()
        places.update({j: found[m] for j, m in number.items() if m in found})
        active.update([j for j, m in number.items() if m in alive])
        return mixing

    def _numbers(self, graph: Graph) -> dict[int, int]:
        """Of each node which output of the step it is."""
        return {i: graph.nodes[i].params["output"] for i in self.nodes}

    def _masks(self, graph: Graph) -> dict[int, Any]:
        """By output, which of its entries are used."""
        return {m: graph.nodes[i].live for i, m in self._numbers(graph).items()}


class Step:
    """A function that was run, with its operands. What a graph asks of it runs it again, and is then forgotten."""

    __slots__ = ("_closed", "_followed", "_operands", "_outputs", "by_positions")

    def __init__(
        self, closed: Closed, operands: Sequence[Any], outputs: Sequence[int], followed: dict[Any, Any]
    ) -> None:
        self._closed = closed
        self._operands = operands
        self._outputs = outputs
        """Of each of its outputs on the tape the position among the function's results."""
        self._followed = followed
        """Where samples went, by where they came in: for all steps of one structure."""
        self.by_positions = False
        """Whether positions told where samples go (`Graph.by_positions`)."""

    def forward(self, given: Mapping[int, Block], live: Mapping[int, Any]) -> dict[int, Block]:
        """From the blocks of operands to those of outputs; `live` has the outputs that are wanted."""
        graph, run, nodes = self._graph(given, live)
        blocks = graph.forward({run.inputs[k]: block for k, block in given.items()})
        return {m: blocks[i] for m, i in nodes.items() if i in blocks}

    def reverse(self, given: Mapping[int, Block], operands: Sequence[int], live: Mapping[int, Any]) -> dict[int, Block]:
        """From the blocks of outputs to those of operands."""
        graph, run, nodes = self._graph(operands, {m: mask for m, mask in live.items() if m in given})
        seeds: dict[int, Block] = {}
        for m, block in given.items():
            seeds[nodes[m]] = seeds[nodes[m]] + block if nodes[m] in seeds else block
        blocks = graph.reverse(seeds)
        return {k: blocks[run.inputs[k]] for k in operands if run.inputs[k] in blocks}

    def live(self, operands: Sequence[int], masks: Mapping[int, Any]) -> dict[int, Any]:
        """Which entries of its operands it uses, where of some outputs not all are used."""
        if all(mask is None for mask in masks.values()):
            return {}
        graph, run, nodes = self._graph(operands, {})
        found = mark_live(graph, {nodes[m]: mask for m, mask in masks.items()})
        return {k: found.get(run.inputs[k]) for k in operands}

    def follow(
        self, given: Mapping[int, Where], active: set[int], outputs: Sequence[int], batch: int
    ) -> tuple[dict[int, Where], set[int], Node | None]:
        """Where its outputs have the samples, which of them depend on the active operands, and where samples mix."""
        key = tuple(given.items()), tuple(sorted(active)), tuple(outputs), batch
        found = self._followed.get(key)
        if found is None:
            graph, run, nodes = self._graph(given, dict.fromkeys(outputs))
            alive = {run.inputs[k] for k in active}
            places, mixing = follow_samples(graph, {run.inputs[k]: place for k, place in given.items()}, alive, batch)
            found = (
                {m: places[i] for m, i in nodes.items() if i in places},
                {m for m, i in nodes.items() if i in alive},
                mixing,
            )
            self.by_positions |= graph.by_positions
            if mixing is None and not self.by_positions and not any(isinstance(at, Owners) for at in given.values()):
                self._followed[key] = found
        return found

    def _graph(self, operands: Any, live: Mapping[int, Any]) -> tuple[Graph, Run, dict[int, int]]:
        """The inside, run again: the part between some operands and outputs, and the node of each output."""
        run = self._closed.run(self._operands)
        nodes: dict[int, Any] = {m: run.outputs[n] for m, n in enumerate(self._outputs)}
        masks: dict[int, Any] = {}
        for m, mask in live.items():
            i = nodes[m]
            other = masks.get(i, mask)
            masks[i] = None if mask is None or other is None else mask if mask is other else np.logical_or(mask, other)
        wanted = list(dict.fromkeys(nodes[m] for m in live)) if live else list(dict.fromkeys(nodes.values()))
        masks = {i: m for i, m in masks.items() if m is not None}
        graph = Graph(run.nodes, [run.inputs[k] for k in operands], wanted, masks, self.by_positions)
        return graph, run, nodes


_STRUCTURES = Memo[tuple[object, dict[Any, Any]]](1024)
"""For each structure of a step's inside what stands for it in the structure around, and where samples went."""


def _structure(run: Run) -> tuple[object, dict[Any, Any]]:
    outputs = [i for i in run.outputs if i is not None]
    key = structure_of(run.nodes, run.inputs, outputs)
    return _STRUCTURES.get(key, lambda: (object(), {}))


def as_step(f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``f(*args, **kwargs)``, as one step of the trace that follows what it depends on, if that takes steps."""
    closed = Closed(f, args, kwargs)
    first, closed.first = closed.first, None
    assert first is not None
    trace = innermost(closed.operands)
    if trace is None:
        return unflatten(first.tree, first.values)
    if not trace.takes_steps or any(
        isinstance(value_of(x), Traced) for x in closed.operands
    ):  # a program being recorded
        return f(*args, **kwargs)
    below = [x.value if x.home is trace else x for x in closed.operands]
    nested = any(isinstance(x, Traced) for x in below)
    values = list((closed.run(below) if nested else first).values)
    outputs = [n for n, i in enumerate(first.outputs) if i is not None]
    structure, followed = _structure(first)
    step = partial(Outputs, Step(closed, below, outputs, followed))
    parents = tuple([x.index if x.home is trace else -1 for x in closed.operands])
    where = caller()
    trace.complex |= any(check_operand("a result", value) for value in values)
    for m, n in enumerate(outputs):
        node = Node(STEP, parents, tuple(below), {"output": m, "structure": structure}, values[n], where)
        node.step = step
        trace.nodes.append(node)
        values[n] = traced(trace, len(trace.nodes) - 1, values[n])
    return unflatten(first.tree, values)
