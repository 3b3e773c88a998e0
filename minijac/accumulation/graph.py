"""Accumulation: the recorded graph, its local derivatives, and its Jacobian blocks from either end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..algebra.block import Block
from ..ops.edges import Edge, Part
from ..ops.families import Elementwise
from ..tape.trace import Node
from .liveness import discards, mark_live

__all__ = ["Graph"]


class Graph:
    """The part of a tape that lies between some of its inputs and its outputs."""

    def __init__(self, nodes: Sequence[Node], inputs: Iterable[int], outputs: Iterable[int]) -> None:
        self.nodes = nodes
        self._edges: dict[tuple[int, int], Edge] = {}
        self._restrict(inputs, outputs)
        self._marked = not any(discards(nodes[i]) for i in self.order)

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

    def mark_live(self) -> None:
        """Find the entries that some output uses: once, before the first local derivative is taken."""
        if not self._marked:
            self._marked = True
            mark_live(self.nodes, self.order, self._operands, self.outputs, self.edge)

    def edge(self, i: int, k: int) -> Edge:
        """The local derivative of node `i` with respect to its operand `k`, computed once."""
        edge = self._edges.get((i, k))
        if edge is None:
            self.mark_live()
            node = self.nodes[i]
            edge = node.op.edge(node, k)  # type: ignore[union-attr, misc]
            if node.live is not None and not isinstance(node.op, Elementwise):
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
