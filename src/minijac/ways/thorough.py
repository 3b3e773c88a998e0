"""Zeros that are structure: entries that a selection leaves out, and entries that a bound makes constant.

Their derivative is zero, whatever the others on the way are: zero times infinity is not a number. To find them takes a
pass over the graph in both directions; so it is done where a result came out as no number, or beforehand where numbers
are not looked at, on a GPU and in a program being recorded, or where it is differentiated again.
"""

from __future__ import annotations

from cmath import isfinite
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, TypeVar

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.liveness import note_use, used_entries
from ..algebra.block import Block
from ..algebra.factors import Factor
from ..arguments import flatten
from ..backend import astype, namespace, on_host, value_of
from ..operator.jacobian import Jacobian
from ..ops.edges import Edge, Part
from ..ops.families import Elementwise, Multilinear
from ..tape.trace import Node

__all__ = ["mark_thoroughly", "may_be_settled_again", "settled", "unbounded"]

T = TypeVar("T")


def settled(graph: Graph, compute: Callable[[], T]) -> T:
    """What is computed on a graph; again where it came out as no number, which a thorough look may mend."""
    if not graph.structure.chooses:
        return compute()
    outputs = [graph.nodes[i].out for i in graph.outputs]
    seen = all(on_host(value_of(y)) for y in outputs)
    # what is differentiated again may have a number for its derivative where the next has none
    if not (seen and all(value_of(y) is y for y in outputs)) and any(unbounded(graph.nodes[i]) for i in graph.order):
        with np.errstate(all="ignore"):
            mark_thoroughly(graph, everywhere=False)
    result = compute()
    if not seen:
        return result
    with np.errstate(all="ignore"):
        if not any(map(_no_number, flatten(result)[0])):
            return result
        del result  # before the next is made
        mark_thoroughly(graph, everywhere=True)
    return compute()


def may_be_settled_again(graph: Graph) -> bool:
    """Whether what is computed on a graph may come out as no number that a thorough look mends."""
    return graph.structure.chooses and any(unbounded(graph.nodes[i]) for i in graph.order)


def mark_thoroughly(graph: Graph, everywhere: bool) -> tuple[dict[int, Any], dict[int, Any]]:
    """Note at each node the entries that some output uses, and of each operand those that depend on some input: these,
    and those, by node.

    Beside what `where` discards: what indexing, extremes and sorting leave out, and what a bound (clip, maximum, relu)
    makes constant. Costs a pass over the graph in both directions, so that it is taken where a derivative came out as
    no number, and, unless `everywhere`, only between these operations and those whose derivative may be infinite.
    """
    graph.mark_live()
    above, below = _reach_unbounded(graph)
    varying: dict[int, Any] = dict.fromkeys(graph.inputs, None)
    for i in graph.order:
        node = graph.nodes[i]
        node.varying = {k: varying[p] for k, p in graph.operands(i) if varying.get(p) is not None}
        if node.step is not None or not (everywhere or i in below):
            varying[i] = None
            continue
        found = [_through(node, k, varying.get(p), partial(graph.edge, i, k), True) for k, p in graph.operands(i)]
        varying[i] = None if any(mask is None for mask in found) else _part(reduce(np.logical_or, found))
    live: dict[int, Any] = dict.fromkeys(graph.outputs, None)
    for i in reversed(graph.order):
        node = graph.nodes[i]
        mask = live[i] = _part(live.get(i))
        node.live = mask if node.live is None else _both(node.live, mask)
        for k, p in graph.operands(i):
            used = None
            if node.step is None and (everywhere or p in above):
                used = _through(node, k, node.live, partial(graph.edge, i, k), False)
            note_use(live, p, used, set())
    graph.forget_edges()  # those that told where entries go
    return varying, live


def _both(own: Any, mask: Any) -> Any:
    """What both masks have; a mask that leaves out nothing more takes no room."""
    if mask is None or (type(own) is type(mask) is np.ndarray and not (own & ~mask).any()):
        return own
    return np.logical_and(own, mask)


def _part(mask: Any) -> Any:
    """A mask, None where it is known to leave out nothing."""
    return None if type(mask) is np.ndarray and mask.all() else mask


def _reach_unbounded(graph: Graph) -> tuple[set[int], set[int]]:
    """The nodes at or after an operation whose derivative may be infinite, and those before one."""
    above: set[int] = set()
    below: set[int] = set()
    for i in graph.order:
        if unbounded(graph.nodes[i]) or any(p in above for _, p in graph.operands(i)):
            above.add(i)
    for i in reversed(graph.order):
        if unbounded(graph.nodes[i]) or i in below:
            below.update(p for _, p in graph.operands(i))
    return above, below


def unbounded(node: Node) -> bool:
    """Whether a derivative may be infinite: not of a power that is a simpler operation, such as a square."""
    op: Any = node.op
    if not op.unbounded or not op.shortcuts or not isinstance(node.args[-1], int | float):
        return bool(op.unbounded)
    simpler = op.shortcuts.get(node.args[-1])
    return simpler is None or bool(simpler.unbounded)


def _through(node: Node, k: int, mask: Any, edge: Callable[[], Edge], forward: bool) -> Any:
    """The entries at the other end of an edge that go with those in `mask` at one end; None for all."""
    assert node.op is not None
    if not node.op.chooses:
        if isinstance(node.op, Elementwise) or (mask is None and not node.op.flat):
            if mask is None:
                return None
            return np.broadcast_to(mask, node.out.shape) if forward else used_entries(node, k, mask, edge)
        if isinstance(node.op, Multilinear) and forward:
            return None  # sums, in which all entries of some position would have to be constant
    local = edge()
    if node.op.chooses and local.linear is None:
        parts = [Part(p.out, p.inp, tuple(map(_indicated, p.factors))) for p in local.parts if p.scale]
        local = Edge(local.out_shape, local.inp_shape, parts)
    elif local.linear is None or local.linear.signed or not node.op.flat:
        local = Edge(local.out_shape, local.inp_shape, [Part(part.out, part.inp) for part in local.parts])
    if mask is None:
        mask = namespace(node.out).ones(local.inp_shape if forward else local.out_shape, np.float32)
    column = Block.column(astype(mask, np.float32, mask))
    counts = local.after(column) if forward else local.before(column.T)
    return counts.dense(np.dtype(np.float32), mask) > 0


def _indicated(factor: Factor) -> Factor:
    return Factor(astype(factor.array != 0, np.float32, factor.array), factor.axes)


def _no_number(x: Any) -> bool:
    """Whether an array that may be looked at has a NaN among its entries, or will have when factors are multiplied."""
    if isinstance(x, Jacobian):
        terms = [term for part in x.parts for term in part.terms]
        arrays = [value_of(f.array) for term in terms for f in term.factors]
        return not all(isfinite(term.scale) for term in terms) or any(
            on_host(a) and not (np.isfinite(_squared(a)) or np.isfinite(a).all()) for a in arrays
        )  # the sum of squares may overflow, but costs one call
    x = value_of(x)
    if not on_host(x) or x.dtype.kind not in "fc":
        return False
    return bool(np.isnan(_squared(x)))


def _squared(x: Any) -> Any:
    flat = x.reshape(-1)
    return np.dot(flat, flat)
