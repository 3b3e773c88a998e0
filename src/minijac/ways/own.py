"""Samples that mix, where each one's derivative by its own input is wanted: no work for pairs of samples.

What lies behind the last operation that mixes passes each sample by itself, and so does what lies before the first one.
Of a block that reaches from one to the other only the entries of one and the same sample are needed: they are picked
before the next product sums over anything, which then has a sample's size, not that of all pairs of samples.
"""

from __future__ import annotations

from ..accumulation.graph import Graph
from ..accumulation.recording import Prepared, sample_places
from ..accumulation.samples import carried_to
from ..arguments import Options
from ..places import Place, is_whole

__all__ = ["keep_own"]


def keep_own(ready: Prepared, options: Options) -> None:
    """Have a graph that mixes samples pick each one's own entries as soon as it can, if no others are asked for."""
    graph, ends = ready.graph, {*ready.in_axes, *ready.out_axes}
    wanted = options.on_mixing != "full" and None not in ends and not options.structured
    if wanted and len(set(ready.in_axes)) == len(set(ready.out_axes)) == 1 and not (graph.steps or graph.by_positions):
        key = "own", ready.batch, *ready.in_axes
        if key not in graph.structure.found:
            graph.structure.found[key] = _ties(ready, graph)
        graph.own = graph.structure.found[key]


def _ties(ready: Prepared, graph: Graph) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
    """Going forward and in reverse, the nodes at whose blocks entries are picked, with the axes of the samples."""
    places, batch, (source, result) = sample_places(ready)[0], ready.batch or 0, (ready.in_axes[0], ready.out_axes[0])
    assert source is not None
    assert result is not None
    whole = {i for i, place in places.items() if is_whole(place, graph.nodes[i].out.shape, batch)}
    consumers: dict[int, list[tuple[int, int]]] = {}
    before, behind = {i for i in graph.inputs if i in whole}, set()
    for i in graph.order:
        passes = True
        for k, p in graph.operands(i):
            alone = {p, i} <= whole and carried_to(graph, i, k, places[p], batch) == places[i]
            consumers.setdefault(p, []).append((i, alone))
            passes = passes and alone and p in before
        if passes:
            before.add(i)
    for i in reversed(graph.order):
        passes = all(alone and c in behind for c, alone in consumers.get(i, ()))
        if passes and i in whole and (i not in graph.outputs or places[i] == Place(result, 1)):
            behind.add(i)
    axis = {i: place.axis for i, place in places.items() if isinstance(place, Place)}
    parents = {i: [p for _, p in graph.operands(i)] for i in graph.order}
    forward = {i: (axis[i], source) for i in behind - before if not behind.issuperset(parents[i])}
    reverse = {
        i: (result, axis[i]) for i in before - graph.inputs if any(c not in before for c, _ in consumers.get(i, ()))
    }
    return forward, reverse
