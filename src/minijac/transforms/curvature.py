"""Second and higher derivatives of an operation whose derivative is given outright: that derivative, along a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..accumulation.graph import Graph
from ..algebra.block import Block
from ..algebra.terms import Term
from ..tape.trace import Node, Trace
from ..tape.traced import Traced

__all__ = ["curvature", "slope"]


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


def curvature(node: Node, tangents: Mapping[int, Block], own: Block, kept: Sequence[int] | None) -> Block:
    """The second-order term of a node: its slope's derivative by each seed, along the same seed.

    `tangents` are those of the operands and `own` that of the output, for all seeds; `kept` are the axes of the seeds
    along which it is not summed (None: all). Cost: the square of the number of seeds for this one operation.
    """
    seeds, shape, one = own.inp_shape, node.out.shape, own.one
    kept = range(len(seeds)) if kept is None else kept

    def fresh(block: Block, like: Any) -> Block:  # of labels that nothing recorded here has
        return _as_block(block.dense(np.result_type(node.out, like), like), len(seeds), one)

    directions = {k: fresh(block, node.args[k]) for k, block in tangents.items()}
    trace = Trace()
    args, y = list(node.args), trace.input(node.out)
    curve = {y.index: fresh(own, node.out)}
    for k, direction in directions.items():
        args[k] = trace.input(args[k])
        curve[args[k].index] = direction
    try:
        slopes = slope(node, args, y, directions)
    finally:
        trace.close()
    block = None
    if isinstance(slopes, Traced) and slopes.home is trace:  # no linear operation
        block = Graph(trace.nodes, curve, [slopes.index]).forward(curve, real=True).get(slopes.index)
    if block is None:
        return Block(shape, tuple(seeds[k] for k in kept), (), one)
    for _ in seeds:  # (out, k) by k: only equal k
        block = block.paired(len(shape), 0)
        order = [*range(len(shape)), *range(len(shape) + 1, len(block.out_shape)), len(shape)]
        block = block.axes_moved(order, range(len(block.inp_shape)))
    array = block.dense(node.out.dtype, node.out)
    summed = tuple(len(shape) + k for k in range(len(seeds)) if k not in kept)
    return _as_block(array.sum(axis=summed) if summed else array, len(kept), one)


def _as_block(array: Any, inputs: int, one: Any) -> Block:
    """An array of shape ``(*out, *in)`` as a block."""
    column = Block.column(array)
    n = len(array.shape) - inputs
    terms = [Term(term.out[:n], term.out[n:], term.factors, term.scale) for term in column.terms]
    return Block(tuple(array.shape[:n]), tuple(array.shape[n:]), terms, one)
