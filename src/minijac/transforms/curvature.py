"""Second and higher derivatives of an operation whose derivative is given outright: that derivative, along a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.plan import write
from ..accumulation.samples import follow_samples
from ..accumulation.shadow import Ledger, ShadowGraph
from ..algebra.block import Block
from ..algebra.terms import Term
from ..backend import is_array, zeros
from ..ops.families import Elementwise, Multilinear
from ..places import Place, Where, is_whole
from ..tape.trace import Node, Trace
from ..tape.traced import Traced
from ..ways.memory import local_arrays, owner

__all__ = ["curvature", "curved_bytes", "outright", "slope"]


def outright(node: Node) -> bool:
    """Whether an operation's derivative is given outright, and is not the same for all operands."""
    op = node.op
    return op is not None and not op.flat and not isinstance(op, Elementwise | Multilinear)


def slope(node: Node, args: Sequence[Any], y: Any, directions: Mapping[int, Block]) -> Any:
    """``edge(args, y) directions`` as an array: a node's derivative at other operands, applied to tangents of them.

    Its derivatives along a curve of operands and output are the higher ones of the operation, which is not computed
    again: its output stands in its own derivative.
    """
    moved = Node(node.op, node.parents, tuple(args), node.params, y, node.where)
    moved.live = node.live
    total = None
    for k, direction in directions.items():
        edge = node.op.edge(moved, k)  # type: ignore[union-attr, misc]
        part = (edge if node.live is None else edge.without_dead(node.live)).after(direction)
        total = part if total is None else total + part
    assert total is not None
    return total.dense(node.out.dtype, y)


class _Curve:
    """A node's slope as its operands and output move along tangents of shape ``(*shape, seeds)``, on a tape of its own.

    Where the tape shows which entries of the slope are a seed's, only that seed's derivatives of them are computed.
    """

    def __init__(self, node: Node, directions: Mapping[int, Any], own: Any, one: Any) -> None:
        self.trace = Trace()
        args, y = list(node.args), self.trace.input(node.out)
        self.tangents = {y.index: _as_block(own, 1, one)}
        given = {}
        for k, direction in directions.items():
            args[k] = self.trace.input(args[k])
            self.tangents[args[k].index] = _as_block(direction, 1, one)
            given[k] = self.trace.input(direction)
        try:
            slopes = slope(node, args, y, {k: _as_block(direction, 1, one) for k, direction in given.items()})
        finally:
            self.trace.close()
        self.graph: Graph | None = None
        if isinstance(slopes, Traced) and slopes.home is self.trace:
            self.graph = Graph(self.trace.nodes, self.tangents, [slopes.index])
            self._keep_own(self.graph, {e.index: Place(np.ndim(args[k]), 1) for k, e in given.items()}, own.shape[-1])

    def _keep_own(self, graph: Graph, seeds: Mapping[int, Where], count: int) -> None:
        """Have each seed's own entries picked as soon as seeds are on an axis of a value."""
        whole = Graph(self.trace.nodes, [*self.tangents, *seeds], graph.outputs)
        places, mixing = follow_samples(whole, seeds, set(seeds), count, graph.outputs)
        if mixing is None and not whole.by_positions and count > 1:
            own = {i: place for i, place in places.items() if is_whole(place, whole.nodes[i].out.shape, count)}
            graph.own = {i: (place.axis, 0) for i, place in own.items()}, {}


def curvature(node: Node, tangents: Mapping[int, Block], own: Block, kept: Sequence[int] | None) -> Block:
    """The second-order term of a node: its slope's derivative by each seed, along the same seed.

    `tangents` are those of the operands and `own` that of the output, for all seeds; `kept` are the axes of the seeds
    along which it is not summed (None: all). Cost: that of the operation's derivative by each seed.
    """
    seeds, shape, one = own.inp_shape, node.out.shape, own.one
    kept = range(len(seeds)) if kept is None else kept

    def fresh(block: Block, like: Any) -> Any:  # of labels that nothing recorded here has
        array = block.dense(np.result_type(node.out, like), like)
        return array.reshape(*block.out_shape, prod(seeds))

    directions = {k: fresh(block, node.args[k]) for k, block in tangents.items()}
    curve = _Curve(node, directions, fresh(own, node.out), one)
    found = {} if curve.graph is None else curve.graph.forward(curve.tangents, real=True)
    if not found:
        return Block(shape, tuple(seeds[k] for k in kept), (), one)
    (block,) = found.values()
    array = block.paired(len(shape), 0).dense(node.out.dtype, node.out).reshape(*shape, *seeds)
    summed = tuple(len(shape) + k for k in range(len(seeds)) if k not in kept)
    return _as_block(array.sum(axis=summed) if summed else array, len(kept), one)


FEW = 2
"""Samples on which it is found out what a curvature takes."""


def curved_bytes(graph: Graph, i: int, seeds: int) -> int:
    """What the curvature of a node takes with so many seeds: of a few samples, in proportion where they pass through.

    Its slope's trace is made, which holds all values of it; the accumulation along the curve is rehearsed.
    """
    whole, operands = graph.nodes[i], [k for k, _ in graph.operands(i)]
    parts = [part for k in operands for part in graph.edge(i, k).parts]
    passes = all(part.out and part.inp and part.out[0] and part.out[0] == part.inp[0] for part in parts)
    node = _few(whole) if passes and whole.out.shape[0] > FEW else whole
    one = zeros((), node.out.dtype, node.out) + 1.0

    def direction(x: Any) -> Any:
        return zeros((*x.shape, seeds), np.result_type(node.out, x), x) + 1.0

    with np.errstate(all="ignore"):
        curve = _Curve(node, {k: direction(node.args[k]) for k in operands}, direction(node.out), one)
    if curve.graph is None:
        return 0
    ledger = Ledger()
    shadows = ShadowGraph(curve.graph, ledger)

    def shadowed(block: Block) -> Block:
        terms = [Term(t.out, t.inp, tuple(map(shadows.shadow, t.factors)), t.scale, t.conj) for t in block.terms]
        return Block(block.out_shape, block.inp_shape, terms, ledger.one)

    found = shadows.forward({i: shadowed(block) for i, block in curve.tangents.items()}, real=True)
    for block in found.values():
        write(block, ledger)
    arrays = [x for n in curve.trace.nodes for x in (n.out, *n.args)]
    arrays += [factor.array for block in curve.tangents.values() for term in block.terms for factor in term.factors]
    arrays += local_arrays(curve.graph)
    owners = {id(x): x.nbytes for x in map(owner, filter(is_array, arrays))}
    inside = max(x.nbytes for x in arrays if is_array(x))
    return (sum(owners.values()) + ledger.peak + MADE_INSIDE * seeds * inside) * (
        whole.out.size // max(node.out.size, 1)
    )


MADE_INSIDE = 2
"""Arrays as large as an operation's largest, that it makes and lets go on the way, for each seed."""


def _few(node: Node) -> Node:
    """An operation on a few of its samples, which are on the first axis."""
    samples = node.out.shape[0]

    def cut(x: Any) -> Any:
        return x[:FEW].copy() if is_array(x) and x.shape[:1] == (samples,) else x

    few = Node(node.op, node.parents, tuple(map(cut, node.args)), node.params, cut(node.out), node.where)
    few.live = cut(node.live)
    return few


def _as_block(array: Any, inputs: int, one: Any) -> Block:
    """An array of shape ``(*out, *in)`` as a block."""
    column = Block.column(array)
    n = len(array.shape) - inputs
    terms = [Term(term.out[:n], term.out[n:], term.factors, term.scale) for term in column.terms]
    return Block(tuple(array.shape[:n]), tuple(array.shape[n:]), terms, one)
