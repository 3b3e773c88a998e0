"""Liveness: the entries that a `where` discards on every path, at which no partials are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..algebra.block import Block
from ..backend import astype
from ..ops.edges import Edge, Part
from ..ops.families import Elementwise
from ..tape.trace import Node

if TYPE_CHECKING:
    from .graph import Graph

__all__ = ["mark_live", "note_use", "used_entries"]

_Wholes: TypeAlias = set[frozenset[int]]
"""The masks of each node that chooses between its operands, by identity: together they leave out nothing."""


def mark_live(graph: Graph, outputs: Mapping[int, Any]) -> dict[int, Any]:
    """Note at each node the entries that some output uses, and return them by node; None stands for all of them.

    An entry that every path discards has derivative zero, whatever its partials are: infinities and NaNs there must not
    meet the zeros of the chain rule. So partials are not taken at entries that are not live.
    """
    live: dict[int, Any] = dict(outputs)
    sides: dict[int, Sequence[Any]] = {}
    wholes: _Wholes = set()
    for i in reversed(graph.order):
        node = graph.nodes[i]
        node.live = live.get(i)
        if i in graph.steps:
            if i == graph.steps[i].nodes[0]:  # the last of its outputs to be met
                for p, used in graph.steps[i].live(graph):
                    note_use(live, p, used, wholes)
            continue
        for k, p in graph.operands(i):
            mask = node.live
            if node.op.selects is not None:  # type: ignore[union-attr]
                if i not in sides:
                    sides[i] = node.op.selects(node)  # type: ignore[union-attr]
                    wholes.add(frozenset(id(side) for side in sides[i] if side is not None))
                chosen = sides[i][k]
                mask = chosen if mask is None else np.logical_and(mask, chosen)
            note_use(live, p, None if mask is None else used_entries(node, k, mask, partial(graph.edge, i, k)), wholes)
    return live


def note_use(live: dict[int, Any], p: int, used: Any, wholes: _Wholes) -> None:
    """Note a use of some entries of a node beside others."""
    if p not in live:
        live[p] = used
    else:
        live[p] = None if _everything(live[p], used, wholes) else np.logical_or(live[p], used)


def _everything(a: Any, b: Any, wholes: _Wholes) -> bool:
    """Whether two masks together leave out nothing, by structure: one is none, or they are a choice's two sides."""
    return a is None or b is None or frozenset((id(a), id(b))) in wholes


def used_entries(node: Node, k: int, mask: Any, edge: Callable[[], Edge]) -> Any:
    """The entries of operand `k` that the output's entries in `mask` depend on."""
    assert node.op is not None
    shape = np.shape(node.args[k])
    if isinstance(node.op, Elementwise):
        lead = mask.ndim - len(shape)
        axes = tuple(range(lead)) + tuple(lead + j for j, n in enumerate(shape) if n != mask.shape[lead + j])
        return (astype(mask, np.float32, mask).sum(axis=axes) > 0).reshape(shape) if axes else mask
    local = edge()
    if local.linear is None or local.linear.signed or not node.op.flat:
        # by labels alone: what the factors hold may be zero, infinite or NaN, and says nothing about use
        local = Edge(local.out_shape, local.inp_shape, [Part(part.out, part.inp) for part in local.parts])
    counts = local.before(Block.column(astype(mask, np.float32, mask)).T)
    return counts.dense(np.dtype(np.float32), mask) > 0
