"""Second and higher derivatives of an operation whose derivative is given outright: that derivative, along a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.plan import write
from ..accumulation.shadow import Ledger, ShadowGraph
from ..algebra.block import Block
from ..algebra.terms import Term
from ..backend import is_array, zeros
from ..ops.families import Elementwise, Multilinear
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


def _curve(node: Node, directions: Mapping[int, Block], own: Block) -> tuple[Trace, dict[int, Block], Any]:
    """The slope along a curve of operands and output: its trace, the curve's tangents on it, and the slope."""
    trace = Trace()
    args, y = list(node.args), trace.input(node.out)
    curve = {y.index: own}
    for k, direction in directions.items():
        args[k] = trace.input(args[k])
        curve[args[k].index] = direction
    try:
        slopes = slope(node, args, y, directions)
    finally:
        trace.close()
    return trace, curve, slopes if isinstance(slopes, Traced) and slopes.home is trace else None


def curvature(node: Node, tangents: Mapping[int, Block], own: Block, kept: Sequence[int] | None) -> Block:
    """The second-order term of a node: its slope's derivative by each seed, along the same seed.

    `tangents` are those of the operands and `own` that of the output, for all seeds; `kept` are the axes of the seeds
    along which it is not summed (None: all). Cost: the square of the number of seeds for this one operation.
    """
    seeds, shape, one = own.inp_shape, node.out.shape, own.one
    kept = range(len(seeds)) if kept is None else kept

    def fresh(block: Block, like: Any) -> Block:  # of labels that nothing recorded here has
        return _as_block(block.dense(np.result_type(node.out, like), like), len(seeds), one)

    trace, curve, slopes = _curve(
        node, {k: fresh(block, node.args[k]) for k, block in tangents.items()}, fresh(own, node.out)
    )
    block = None
    if slopes is not None:  # no linear operation
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

    def direction(x: Any) -> Block:
        return _as_block(zeros((*x.shape, seeds), np.result_type(node.out, x), x) + 1.0, 1, one)

    with np.errstate(all="ignore"):
        trace, curve, slopes = _curve(node, {k: direction(node.args[k]) for k in operands}, direction(node.out))
    if slopes is None:
        return 0
    ledger = Ledger()
    inner = Graph(trace.nodes, curve, [slopes.index])
    shadows = ShadowGraph(inner, ledger)

    def shadowed(block: Block) -> Block:
        terms = [Term(t.out, t.inp, tuple(map(shadows.shadow, t.factors)), t.scale, t.conj) for t in block.terms]
        return Block(block.out_shape, block.inp_shape, terms, ledger.one)

    found = shadows.forward({i: shadowed(block) for i, block in curve.items()}, real=True)
    for block in found.values():
        write(block, ledger)
    arrays = [x for n in trace.nodes for x in (n.out, *n.args)]
    arrays += [factor.array for block in curve.values() for term in block.terms for factor in term.factors]
    arrays += local_arrays(inner)
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
