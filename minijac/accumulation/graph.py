"""Accumulation: the recorded graph, where its samples go, and its Jacobian blocks from either end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..algebra.block import Block
from ..backend import astype
from ..errors import BatchMixingError
from ..ops.families import Edge, Part
from ..tape.trace import Node

__all__ = ["Graph", "Mixing", "Place"]


class Place(NamedTuple):
    """Where the samples of a value are: positions ``// stride % B`` of `axis`."""

    axis: int
    stride: int


ANYWHERE = Place(-1, 0)
"""A single sample, or none, whose axis was reshaped away: it mixes with nothing, wherever it is."""


class Mixing(NamedTuple):
    """The operation at which samples mix."""

    node: Node
    shapes: tuple[tuple[int, ...], ...]


class Graph:
    """The part of a tape that lies between some of its inputs and its outputs."""

    def __init__(self, nodes: Sequence[Node], inputs: Iterable[int], outputs: Iterable[int]) -> None:
        self.nodes = nodes
        self._edges: dict[tuple[int, int], Edge] = {}
        self._restrict(inputs, outputs)
        self._marked = all(nodes[i].op.name != "where" for i in self.order)  # type: ignore[union-attr]

    def _restrict(self, inputs: Iterable[int], outputs: Iterable[int]) -> None:
        nodes = self.nodes
        self.inputs = set(inputs)
        reached = set(self.inputs)
        for i, node in enumerate(nodes):
            for k, p in enumerate(node.parents):
                if p in reached and k not in node.op.inert:  # type: ignore[union-attr]
                    reached.add(i)
                    break
        self.outputs = [i for i in outputs if i in reached]
        used = set(self.outputs)
        operands: dict[int, list[tuple[int, int]]] = {}
        for i in range(max(used, default=-1), -1, -1):
            if i in used and i not in self.inputs:
                inert = nodes[i].op.inert  # type: ignore[union-attr]
                operands[i] = [(k, p) for k, p in enumerate(nodes[i].parents) if p in reached and k not in inert]
                used.update(p for _, p in operands[i])
        self.order = [i for i in sorted(used) if i not in self.inputs]
        self._operands = operands

    def between(self, source: int, target: int) -> Graph:
        """The part between two nodes, of the same local derivatives."""
        self.mark_live()
        part: Graph = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part._restrict([source], [target])
        return part

    def edge(self, i: int, k: int) -> Edge:
        """The local derivative of node `i` with respect to its operand `k`, computed once."""
        edge = self._edges.get((i, k))
        if edge is None:
            self.mark_live()
            node = self.nodes[i]
            edge = node.op.edge(node, k)  # type: ignore[union-attr, misc]
            if node.live is not None and node.op.family != "elementwise":  # type: ignore[union-attr]
                edge = edge.without_dead(node.live)
            self._edges[i, k] = edge
        return edge

    def operands(self, i: int) -> list[tuple[int, int]]:
        """Operand positions of node `i` that carry a derivative, with the nodes that they came from."""
        return self._operands.get(i, [])

    # -- accumulation --------------------------------------------------------------------------------------------------
    def forward(self, seeds: Mapping[int, Block]) -> dict[int, Block]:
        """From blocks that end in inputs to blocks that end in outputs: ``edges after block``, in recorded order."""
        blocks: dict[int, Block] = dict(seeds)
        waiting = self._consumers()
        keep = set(self.outputs)
        for i in self.order:
            total: Block | None = None
            for p in self._parents(i):
                block = blocks.get(p)
                if block is not None:
                    for edge in self._between(i, p):
                        part = edge.after(block)
                        total = part if total is None else total + part
                waiting[p] -= 1
                if waiting[p] == 0 and p not in keep:
                    blocks.pop(p, None)
            if total is not None:
                blocks[i] = total
        return {i: blocks[i] for i in self.outputs if i in blocks}

    def reverse(self, seeds: Mapping[int, Block]) -> dict[int, Block]:
        """From blocks that start in outputs to blocks that start in inputs: ``block after edges``, in reverse order."""
        blocks: dict[int, Block] = dict(seeds)
        for i in reversed(self.order):
            block = blocks.pop(i, None)
            if block is None:
                continue
            for p in self._parents(i):
                for edge in self._between(i, p):
                    part = edge.before(block)
                    blocks[p] = blocks[p] + part if p in blocks else part
        return {i: blocks[i] for i in self.inputs if i in blocks}

    def _parents(self, i: int) -> dict[int, None]:
        """The nodes that node `i` depends on, each once."""
        return dict.fromkeys(p for _, p in self._operands[i])

    def _between(self, i: int, p: int) -> list[Edge]:
        """The local derivatives of node `i` by one node; of several operands, as in ``x * x``, their sum."""
        edges = [self.edge(i, k) for k, q in self._operands[i] if q == p]
        if len(edges) == 1 or any(edge.linear is not None for edge in edges):
            return edges
        key = i, -1 - p
        if key not in self._edges:
            total = edges[0].block()
            for edge in edges[1:]:
                total = total + edge.block()
            parts = [Part(term.out, term.inp, term.factors, term.scale) for term in total.terms]
            self._edges[key] = Edge(total.out_shape, total.inp_shape, parts)
        return [self._edges[key]]

    def _consumers(self) -> dict[int, int]:
        count: dict[int, int] = {}
        for i in self.order:
            for p in self._parents(i):
                count[p] = count.get(p, 0) + 1
        return count

    # -- samples -------------------------------------------------------------------------------------------------------
    def places(
        self, inputs: Mapping[int, int], differentiated: set[int], batch: int
    ) -> tuple[dict[int, Place | None], Mixing | None]:
        """Where each node has its samples, and the first operation that mixes those of a differentiated input."""
        places: dict[int, Place | None] = {i: Place(axis, 1) for i, axis in inputs.items()}
        active = {i for i in inputs if i in differentiated}
        mixing: Mixing | None = None
        for i in self.order:
            found: dict[bool, set[Place | None]] = {True: set(), False: set()}
            for k, p in self._operands[i]:
                if p in places:
                    found[p in active].add(self._carried(i, k, places[p], batch))
            mine = found[True] or found[False]
            if len(mine) > 1:
                mine.discard(ANYWHERE)
            if not mine:
                continue
            places[i] = next(iter(mine)) if len(mine) == 1 else None
            if found[True]:
                active.add(i)
                if places[i] is None and mixing is None:
                    mixing = Mixing(self.nodes[i], tuple(np.shape(arg) for arg in self.nodes[i].args))
        return places, mixing

    def _carried(self, i: int, k: int, place: Place | None, batch: int) -> Place | None:
        if place is None or place is ANYWHERE:
            return place
        node = self.nodes[i]
        assert node.op is not None
        if node.op.family == "elementwise":  # entries stay in place: no need of the partials for that
            axis = place.axis + node.out.ndim - np.ndim(node.args[k])
            return Place(axis, place.stride) if node.args[k].shape[place.axis] == node.out.shape[axis] else None
        carried = self.edge(i, k).carry(*place, batch)
        gone = carried is None or self.nodes[i].out.shape[carried[0]] != 1
        if batch <= 1 and gone and self.nodes[i].op.name in ("reshape", "relabel"):  # type: ignore[union-attr]
            return ANYWHERE
        return carried and Place(*carried)

    # -- entries that a `where` discards -------------------------------------------------------------------------------
    def mark_live(self) -> None:
        """Find, for each node, the entries that some output uses: once, before the first local derivative is taken.

        An entry that every path discards at a `where` has derivative zero, whatever its partials are: infinities and
        NaNs there must not meet the zeros of the chain rule. So partials are not taken at entries that are not live.
        """
        if self._marked:
            return
        self._marked = True
        live: dict[int, Any] = dict.fromkeys(self.outputs, None)
        self._sides: dict[int, tuple[Any, Any]] = {}
        for i in reversed(self.order):
            node, mask = self.nodes[i], live.get(i)
            node.live = mask
            for k, p in self._operands[i]:
                used = self._live_operand(i, k, mask)
                if p not in live:
                    live[p] = used
                else:
                    other = live[p]
                    live[p] = None if self._everything(other, used) else np.logical_or(other, used)

    def _everything(self, a: Any, b: Any) -> bool:
        """Whether two masks together leave out nothing, by structure: one is none, or they are a `where`'s sides."""
        return a is None or b is None or any({id(a), id(b)} == {id(c), id(d)} for c, d in self._sides.values())

    def _live_operand(self, i: int, k: int, mask: Any) -> Any:
        node = self.nodes[i]
        assert node.op is not None
        if node.op.name == "where":
            if i not in self._sides:
                condition = np.broadcast_to(node.args[0], node.out.shape)
                self._sides[i] = condition, np.logical_not(condition)
            chosen = self._sides[i][k - 1]
            mask = chosen if mask is None else np.logical_and(mask, chosen)
        if mask is None:
            return None
        shape = np.shape(node.args[k])
        if node.op.family == "elementwise":
            lead = mask.ndim - len(shape)
            axes = tuple(range(lead)) + tuple(lead + j for j, n in enumerate(shape) if n != mask.shape[lead + j])
            return (astype(mask, np.float32, mask).sum(axis=axes) > 0).reshape(shape) if axes else mask
        edge = self.edge(i, k)
        if edge.linear is None or node.op.family not in ("structural", "indexing", "sliding windows"):
            # by labels alone: what the factors hold may be zero, infinite or NaN, and says nothing about use
            parts = [Part(part.out, part.inp) for part in edge.parts]
            edge = Edge(edge.out_shape, edge.inp_shape, parts)
        counts = edge.before(Block.column(astype(mask, np.float32, mask)).T)
        return counts.dense(np.dtype(np.float32), mask) > 0


def raise_mixing(mixing: Mixing, batch: int) -> None:
    """Raise BatchMixingError for the operation found by `Graph.places`."""
    node = mixing.node
    where = node.where or "an unknown line"
    params = ", ".join(
        f"{key}={value!r}" for key, value in node.params.items() if np.ndim(value) == 0 or len(value) < 9
    )
    assert node.op is not None
    name = f"{node.op.name}({params})"
    if node.where is not None and node.where.function not in (None, node.op.name):
        name = f"{node.where.function}, in its step {name},"
    operands = " and ".join(str(shape) for shape in mixing.shapes)
    raise BatchMixingError(
        f"samples mix in {name} at {where}: operands of shape {operands} give {node.out.shape}, and "
        f"the axis of the {batch} samples does not pass through whole and in order. Expected every sample's output to "
        'depend on its own input alone. If the mixing is meant, choose on_mixing="diagonal" for the exact '
        'd y_i / d x_i, or on_mixing="full" for all of (B, *out, B, *in); if one operand is to count as constant, wrap '
        "it in minijac.stop_gradient."
    )
