"""A structured Jacobian as the product of what lies between cuts of its graph, not multiplied out.

The Jacobian of a network from 784 features to 784 has 614,656 entries for each sample; its layers' blocks have the
weights, once for all samples, and a slope for each unit. Products with vectors and the diagonal need no more.
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.plan import chain_of, coarse_chain, is_short, segment
from ..accumulation.recording import Prepared
from ..accumulation.results import result_dtype
from ..accumulation.seeds import unit
from ..accumulation.shadow import Ledger, ShadowGraph
from ..algebra.block import Block
from ..algebra.factors import size_of
from ..arguments import Options
from ..operator.jacobian import Jacobian
from ..operator.owning import owned

__all__ = ["chained"]

LEAST = 2**20
"""Entries of a Jacobian below which it is multiplied out: one block is then handled in less time than several."""
SMALLER = 4
"""How many times fewer entries the parts of a product have."""


def chained(ready: Prepared, options: Options) -> list[list[Any]] | None:
    """``result[output][input]`` where it is one structured Jacobian that is better kept as a product; else None."""
    graph, ends = ready.graph, (ready.run.inputs, ready.nodes, ready.outputs)
    if not options.structured or options.mode != "auto" or options.chunk_size is not None or ready.mixes:
        return None
    if any(len(each) != 1 for each in ends) or ready.in_axes != ready.out_axes or any(ready.in_axes):
        return None
    (x,), (y,), batch = ready.sources, ready.outputs, ready.batch or 1
    if y.size * x.size // batch < LEAST or not is_short(graph) or graph.of_complex():
        return None
    found, key = graph.structure.found, ("cuts", ready.batch)
    with np.errstate(all="ignore"):
        if key not in found:
            found[key] = _cuts(graph, ready.run.inputs[0], ready.nodes[0])
        cuts: tuple[int, ...] = found[key]
        if not cuts:
            return None
        one = unit(ready.sources, ready.outputs)
        parts = tuple(segment(graph, a, b, one) for a, b in pairwise(cuts))[::-1]
    batched = ready.in_axes[0] is not None and options.on_mixing != "full"
    if batched and not all(part.pairs.get(0) == 0 for part in parts):  # on the way the samples are on another axis
        return None
    J = Jacobian(parts, result_dtype(y, x), x, batched)
    return owned([[J]], ready.run.nodes, {*ready.run.inputs, *ready.run.others})


def _cuts(graph: Graph, source: int, target: int) -> tuple[int, ...]:
    """The nodes between which blocks are kept apart, both ends included; none where their product is no larger."""
    ledger = Ledger()
    part = ShadowGraph(graph, ledger).between(source, target)
    if target not in part.outputs or source == target:
        return ()
    cuts = list(coarse_chain(part, chain_of(part, source, target)))
    blocks = [segment(part, a, b, ledger.one) for a, b in pairwise(cuts)]
    k = 0
    while k + 1 < len(blocks):  # what is no larger than its parts is multiplied
        both = blocks[k + 1].after(blocks[k])
        if _entries(both) <= _entries(blocks[k]) + _entries(blocks[k + 1]):
            blocks[k : k + 2] = [both]
            del cuts[k + 1]
            k = max(k - 1, 0)
        else:
            k += 1
    whole = reduce(lambda low, high: high.after(low), blocks)
    worth = len(blocks) > 1 and _entries(whole) >= max(SMALLER * sum(map(_entries, blocks)), LEAST)
    return tuple(cuts) if worth else ()


def _entries(block: Block) -> int:
    return sum(size_of(factor.axes) for term in block.terms for factor in term.factors)
