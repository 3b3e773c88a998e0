"""Derivatives that are part of no other one, pulled back from the outputs instead of carried along.

Taylor coefficients below a multi-index make the ones above it. What is asked for and makes none is, at each operation,
linear in its operands' own, plus what lower coefficients add there. So it is the sum, over the operations, of what they
add, times the outputs' derivatives by them: one reverse sweep for all such multi-indices, where each would be carried
along by itself. With u_t and u_xx of one output that is three passes beside u: of u_x, and of the sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ..accumulation.graph import Graph
from ..accumulation.seeds import unit
from ..algebra.block import Block

__all__ = ["Adjoints", "Pulled", "add_to", "worth_pulling"]


def worth_pulling(graph: Graph, batch: int, indices: int) -> bool:
    """Whether a seed for each number that a sample makes is less than a coefficient for each of so many multi-indices.

    Samples do not mix. Where positions tell where they are, or a step is a tape of its own, or numbers are complex,
    coefficients are carried along.
    """
    seeds = sum(prod(graph.nodes[o].out.shape) for o in set(graph.outputs))
    plain = not (graph.by_positions or graph.structure.stepped or graph.of_complex())
    return plain and 0 < seeds < batch * indices


class Adjoints:
    """The outputs' derivatives by nodes of a graph, each found when it is asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph, nodes = graph, graph.nodes
        self._readers: dict[int, list[tuple[int, int]]] = {}
        for i in graph.order:
            for k, p in graph.operands(i):
                self._readers.setdefault(p, []).append((i, k))
        one = unit([nodes[i].out for i in graph.inputs], [nodes[o].out for o in graph.outputs])
        self._ends = {o: Block.identity(nodes[o].out.shape, one) for o in graph.outputs}
        self._blocks: dict[int, dict[int, Block]] = {}

    def pop(self, i: int, wanted: bool = True) -> dict[int, Block]:
        """Those by a node, by output: for the last time, as no node recorded later asks for them."""
        if wanted:
            self._pull(i)
        return self._blocks.pop(i, {})

    def _pull(self, i: int) -> None:
        waiting = [i]
        while waiting:
            node = waiting[-1]
            readers = self._readers.get(node, ())
            unknown = [reader for reader, _ in readers if reader not in self._blocks]
            waiting += unknown
            if not unknown and waiting.pop() not in self._blocks:
                self._blocks[node] = blocks = {node: self._ends[node]} if node in self._ends else {}
                for reader, k in readers:
                    for o, block in self._blocks[reader].items():
                        add_to(blocks, o, self._graph.edge(reader, k).before(block))


class Pulled:
    """Coefficients of some multi-indices at the outputs, as what operations add comes together, in recorded order."""

    def __init__(self, graph: Graph) -> None:
        self.found: dict[tuple[int, Any], Block] = {}
        """By output and multi-index."""
        self._adjoints = Adjoints(graph)

    def take(self, i: int, added: Mapping[Any, Block]) -> None:
        """What node `i` adds to its operands' own coefficients."""
        for o, block in self._adjoints.pop(i, bool(added)).items():
            for index, own in added.items():
                add_to(self.found, (o, index), block.after(own))


def add_to(blocks: dict[Any, Block], key: Any, block: Block) -> None:
    blocks[key] = blocks[key] + block if key in blocks else block
