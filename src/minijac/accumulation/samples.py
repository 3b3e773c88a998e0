"""Samples: where each recorded value has them, by structure and positions, and the first operation that mixes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..algebra.labels import labels_in
from ..ops.families import Elementwise
from ..places import ANYWHERE, Owners, Place, Where, agreed, in_order_again, owned, passed_on, together
from ..tape.trace import Node
from .graph import Graph

__all__ = ["carried_to", "follow_node", "follow_samples"]


def follow_samples(
    graph: Graph, inputs: Mapping[int, Where], active: set[int], batch: int, ends: Sequence[int] = ()
) -> tuple[dict[int, Where], Node | None]:
    """Where each node has its samples, and the first operation that mixes those of a differentiated input.

    `active` holds the inputs that are differentiated, and is given the nodes that depend on them. Samples that were
    picked have to be in order again at the outputs `ends`.
    """
    places: dict[int, Where] = dict(inputs)
    wholes, found = graph.wholes(), []
    for i in graph.order:
        if i not in wholes:
            found.append(follow_node(graph, places, active, batch, i))
        elif i == wholes[i].nodes[0]:
            found.append(wholes[i].follow(graph, places, active, batch))
    return places, next(filter(None, [*found, in_order_again(places, graph.nodes, ends, batch)]), None)


def follow_node(graph: Graph, places: dict[int, Where], active: set[int], batch: int, i: int) -> Node | None:
    """Where one node has its samples, and at which operation they mix."""
    found: dict[bool, set[Where]] = {True: set(), False: set()}
    for k, p in graph.operands(i):
        if p in places and not _idle(graph, i, k):
            found[p in active].add(carried_to(graph, i, k, places[p], batch))
    mine = found[True] or found[False]
    if len(mine) > 1:
        mine.discard(ANYWHERE)
    picked = next((place for place in mine if isinstance(place, Owners)), None)
    node = picked.node if picked and None not in mine else graph.nodes[i]  # that brings in what is another's
    if picked:
        mine = agreed(mine, picked, graph.nodes[i].out.shape, batch)
    if not mine or (batch and not graph.nodes[i].out.size and None in mine):
        return None  # no entries of it, which so depend on nothing, are left
    whole = mine - {None}  # of an operand that is not mixed
    places[i] = next(iter(whole)) if len(whole) == 1 else None
    if found[True]:
        active.add(i)
    return node if found[True] and (len(mine) > 1 or places[i] is None) else None


def _idle(graph: Graph, i: int, k: int) -> bool:
    """Whether a node has no derivative by an operand, which tells nothing of where samples are."""
    return not isinstance(graph.nodes[i].op, Elementwise) and not graph.edge(i, k).parts


def carried_to(graph: Graph, i: int, k: int, place: Where, batch: int) -> Where:
    """Where a node has the samples that its operand `k` has at a place."""
    if place is None or place is ANYWHERE:
        return place
    node, shape = graph.nodes[i], np.shape(graph.nodes[i].args[k])
    assert node.op is not None
    if isinstance(node.op, Elementwise):  # entries stay in place: no need of the partials for that
        if isinstance(place, Owners):
            return place
        axis = place.axis + node.out.ndim - len(shape)
        whole = shape[place.axis] == node.out.shape[axis]  # else another's axis of length one was taken for theirs
        return Place(axis, place.stride) if whole else ANYWHERE if batch == 1 else None
    if isinstance(place, Place):
        carried = graph.edge(i, k).carry(*place, batch)
        gone = carried is None or node.out.shape[carried[0]] != 1
        if batch <= 1 and gone and node.op.carries_one:
            return ANYWHERE
        if carried is not None:
            return Place(*carried)
    return _picked(graph, i, k, place, batch)


def _picked(graph: Graph, i: int, k: int, place: Place | Owners, batch: int) -> Where:
    """Whose each entry of a node is, where samples do not pass whole; None where one is several samples'."""
    node, edge = graph.nodes[i], graph.edge(i, k)
    if edge.listed and edge.listed(True):
        graph.list_positions()
        edge = graph.edge(i, k)
    if isinstance(place, Place) and any(
        not labels_in((part.inp[place.axis],)).keys() <= labels_in(part.out).keys() for part in edge.parts
    ):
        return None  # by structure alone, whatever their number
    if batch == 1:
        return ANYWHERE
    owners = owned(place, np.shape(node.args[k]), batch)
    total = together([passed_on(part.out, part.inp, owners, node.out.shape) for part in edge.parts])
    return None if total is None else Owners(total, node if isinstance(place, Place) else place.node)
