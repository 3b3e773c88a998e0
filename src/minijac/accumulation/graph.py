"""Accumulation: the recorded graph, its local derivatives, and its Jacobian blocks from either end.

Some nodes are carried out together, as a *whole*, on the blocks of what they read or of what others read of them: the
outputs of a step, a function with a tape of its own (`minijac.checkpoint`), and stretches of a long graph that repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar

from ..algebra.block import Block
from ..alike import rows_of
from ..memo import Memo
from ..ops.edges import Edge, Part
from ..ops.families import Elementwise
from ..tape.trace import Node
from .liveness import mark_live

__all__ = ["Graph", "Structure", "structure_of"]


class Structure:
    """The part of a tape that lies between some of its inputs and its outputs, whatever the numbers are."""

    def __init__(self, nodes: Sequence[Node], inputs: set[int], outputs: Iterable[int]) -> None:
        reached = set(inputs)
        carried: dict[int, list[tuple[int, int]]] = {}
        for i, node in enumerate(nodes):
            if node.op is not None and i not in inputs:
                inert = node.op.inert
                carriers = [(k, p) for k, p in enumerate(node.parents) if p in reached and k not in inert]
                if carriers:
                    carried[i] = carriers
                    reached.add(i)
        self.outputs = [i for i in outputs if i in reached]
        used = set(self.outputs)
        for i in reversed(carried):
            if i in used:
                used.update([p for _, p in carried[i]])
        self.operands = {i: carriers for i, carriers in carried.items() if i in used}
        self.order = list(self.operands)
        self.edges = sum(map(len, self.operands.values()))
        ops: set[Any] = {nodes[i].op for i in self.order}
        self.discards = any(op.selects is not None for op in ops)
        """Whether operations leave out entries of their operands by values."""
        self.chooses = any(op.chooses or op.flat for op in ops)
        """Whether there may be entries without derivative beside a local derivative that is not finite."""
        self.stepped = any(nodes[i].step is not None for i in self.order)
        self.found: dict[Any, Any] = {}
        """What else was found of it, by what for, with all that it depends on beside."""


def structure_of(nodes: Sequence[Node], inputs: Iterable[int], outputs: Iterable[int], *more: Any) -> Structure:
    """The structure of what lies between, the same object for the same: plans and programs depend on it."""
    ends = tuple(inputs), tuple(outputs)
    return _STRUCTURES.get((rows_of(nodes), ends, more), lambda: Structure(nodes, set(ends[0]), ends[1]))


_STRUCTURES = Memo[Structure](1024)


class Graph:
    """The part of a tape that lies between some of its inputs and its outputs."""

    stretches: ClassVar[Callable[[Graph], Sequence[Any]] | None] = None
    """Filled by `ways.repeats`: the stretches of a long graph that repeat each other, to be carried out as wholes."""

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Iterable[int],
        outputs: Iterable[int],
        live: Mapping[int, Any] | None = None,
        listed: bool = False,
        structure: Structure | None = None,
    ) -> None:
        self.nodes = nodes
        self.listed = listed
        """Whether maps by arrays of positions are blocks of their entries: for results that are to stay sparse."""
        self.by_positions = False
        """Whether positions tell where samples are, so that another call may have them elsewhere."""
        self._edges: dict[tuple[int, int], Edge] = {}
        inputs = set(inputs)
        self._restrict(inputs, structure or Structure(nodes, inputs, outputs))
        self._live = live or {}
        """Which entries of the outputs are used, where not all are."""
        self.marked = not self._live and not self.structure.discards
        self.own: tuple[Mapping[int, tuple[int, int]], ...] = {}, {}
        """Going forward and in reverse, nodes of whose block only entries of equal positions on two axes are needed."""

    def _restrict(self, inputs: set[int], structure: Structure) -> None:
        self.inputs, self.structure = inputs, structure
        self.order, self._operands, self.outputs = structure.order, structure.operands, structure.outputs
        self._stretched: dict[int, Any] | None = None
        self.steps: dict[int, Any] = {}
        """For each node that is an output of a step the whole of those that are here."""
        groups: dict[Any, list[int]] = {}
        for i in self.order if structure.stepped else ():
            groups.setdefault(self.nodes[i].step, []).append(i)
        for step, group in groups.items():
            self.steps |= {} if step is None else dict.fromkeys(group, step(tuple(group)))

    def between(self, source: int, target: int) -> Graph:
        """The part between two nodes, of the same local derivatives."""
        self.mark_live()
        part = copy(self)
        part.own = {}, {}
        part._restrict({source}, Structure(self.nodes, {source}, [target]))
        return part

    def mark_live(self) -> None:
        """Find the entries that some output uses: once, before the first local derivative is taken."""
        if not self.marked:
            self.marked = True
            mark_live(self, {i: self._live.get(i) for i in self.outputs})

    def list_positions(self) -> None:
        """Positions tell where samples are: maps by them are blocks from now on, in which samples stay apart."""
        self.listed = self.by_positions = True
        self.forget_edges()

    def forget_edges(self) -> None:
        """Compute local derivatives anew: other entries are known to have none."""
        self._edges.clear()
        self._stretched = None

    def edge(self, i: int, k: int) -> Edge:
        """The local derivative of node `i` with respect to its operand `k`, computed once."""
        edge = self._edges.get((i, k))
        if edge is None:
            self.mark_live()
            node = self.nodes[i]
            edge = node.op.edge(node, k)  # type: ignore[union-attr, misc]
            if self.listed and (part := edge.listed and edge.listed(self.by_positions)):
                edge = Edge(edge.out_shape, edge.inp_shape, [part])
            if not isinstance(node.op, Elementwise):
                if node.live is not None:
                    edge = edge.without_dead(node.live)
                if k in node.varying:
                    edge = edge.where_varying(node.varying[k])
            self._edges[i, k] = edge
        return edge

    def operands(self, i: int) -> list[tuple[int, int]]:
        """Operand positions of node `i` that carry a derivative, with the nodes that they came from."""
        return self._operands.get(i, [])

    # -- accumulation --------------------------------------------------------------------------------------------------
    def forward(self, seeds: Mapping[int, Block], real: bool = False) -> dict[int, Block]:
        """From blocks that end in inputs to blocks that end in outputs: ``edges after block``, in recorded order.

        With `real`, the blocks start in real numbers, and none has to remember that it conjugates them.
        """
        turned = self.of_complex() if real else ()
        blocks: dict[int, Block] = dict(seeds)
        waiting = self._consumers()
        keep = set(self.outputs)
        wholes = self.wholes()
        for i in self.order:
            parents = self._parents(i)
            if i in wholes:
                if i == wholes[i].nodes[0]:
                    blocks |= wholes[i].forward(self, blocks)
            else:
                total = _Sum()
                for p, positions in parents.items():
                    if p in blocks:
                        for edge in self._between(i, p, positions):
                            total.add((edge.of_reals(self._real(i)) if i in turned else edge).after(blocks[p]))
                if total:
                    block = total.block().tied(*self.own[0][i]) if i in self.own[0] else total.block()
                    blocks[i] = block.of_reals(self.nodes[i].out.dtype) if i in turned else block
            for p in parents:
                waiting[p] -= 1
                if waiting[p] == 0 and p not in keep:
                    blocks.pop(p, None)
        return {i: blocks[i] for i in self.outputs if i in blocks}

    def reverse(self, seeds: Mapping[int, Block], real: bool = False) -> dict[int, Block]:
        """From blocks that start in outputs to blocks that start in inputs: ``block after edges``, in reverse order.

        With `real`, only the real part of what the blocks end in counts, and none has to remember that it conjugates.
        """
        turned = self.of_complex() if real else ()
        totals: dict[int, _Sum] = {i: _Sum(block) for i, block in seeds.items()}
        wholes = self.wholes()
        for i in reversed(self.order):
            if i in wholes:
                if i == wholes[i].nodes[-1]:
                    given = {j: totals.pop(j).block() for j in wholes[i].nodes if j in totals}
                    for p, block in wholes[i].reverse(self, given):
                        totals.setdefault(p, _Sum()).add(block)
                continue
            total = totals.pop(i, None)
            if total is None:
                continue
            block = total.block().tied(*self.own[1][i]) if i in self.own[1] else total.block()
            for p, positions in self._parents(i).items():
                for edge in self._between(i, p, positions):
                    before = (edge.of_reals(self._real(i)) if i in turned else edge).before(block)
                    if turned:
                        before = before.of_reals(self.nodes[p].out.dtype, backward=True)
                    totals.setdefault(p, _Sum()).add(before)
        return {i: totals[i].block() for i in self.inputs if i in totals}

    def of_complex(self) -> set[int]:
        """The nodes with a complex operand."""
        return {i for i in self.order for _, p in self._operands[i] if not self._real(p)}

    def _real(self, i: int) -> bool:
        return bool(self.nodes[i].out.dtype.kind != "c")

    def wholes(self) -> dict[int, Any]:
        """For each node that is carried out with others the whole that they are."""
        if self._stretched is None:
            found = [] if Graph.stretches is None or self.steps else Graph.stretches(self)
            self._stretched = {i: stretch for stretch in found for i in stretch.nodes}
        return self.steps or self._stretched

    def part(self, order: Sequence[int], inputs: Iterable[int], outputs: Iterable[int]) -> Graph:
        """Some nodes that follow each other, of the same local derivatives."""
        part = copy(self)
        part.own = {}, {}
        part.order, part.inputs, part.outputs = list(order), set(inputs), list(outputs)
        part._stretched = {}
        return part

    def _parents(self, i: int) -> dict[int, list[int]]:
        """The nodes that node `i` depends on, with the positions of the operands that they are."""
        found: dict[int, list[int]] = {}
        for k, p in self._operands[i]:
            found.setdefault(p, []).append(k)
        return found

    def _between(self, i: int, p: int, positions: Sequence[int]) -> list[Edge]:
        """The local derivatives of node `i` by one node; of several operands, as in ``x * x``, their sum."""
        edges = [self.edge(i, k) for k in positions]
        if len(edges) == 1 or any(edge.linear is not None for edge in edges):
            return edges
        key = i, -1 - p
        if key not in self._edges:
            total = edges[0].block()
            for edge in edges[1:]:
                total = total + edge.block()
            parts = [Part(term.out, term.inp, term.factors, term.scale, term.conj) for term in total.terms]
            self._edges[key] = Edge(total.out_shape, total.inp_shape, parts)
        return [self._edges[key]]

    def _consumers(self) -> dict[int, int]:
        count: dict[int, int] = {}
        for i in self.order:
            for p in self._parents(i):
                count[p] = count.get(p, 0) + 1
        return count


class _Sum:
    """A sum of blocks, added in pairs of equal count: with n of different structure no term is looked at n times."""

    __slots__ = ("_parts",)

    def __init__(self, *blocks: Block) -> None:
        self._parts: list[tuple[int, Block]] = [(1, block) for block in blocks]

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, block: Block) -> None:
        count = 1
        while self._parts and self._parts[-1][0] == count:
            block = self._parts.pop()[1] + block
            count *= 2
        self._parts.append((count, block))

    def block(self) -> Block:
        total = self._parts[-1][1]
        for _, part in reversed(self._parts[:-1]):
            total = part + total
        return total
