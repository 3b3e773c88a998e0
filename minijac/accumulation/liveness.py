"""Liveness: the entries that a `where` discards on every path, at which no partials are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ..algebra.block import Block
from ..backend import astype
from ..ops.edges import Edge, Part
from ..ops.families import Elementwise
from ..tape.trace import Node

__all__ = ["discards", "mark_live"]

_Sides: TypeAlias = dict[int, Sequence[Any]]
"""For each node that chooses between its operands, the mask of each of them."""


def discards(node: Node) -> bool:
    """Whether an operation leaves out entries of its operands by values, not by structure."""
    return node.op is not None and node.op.selects is not None


def mark_live(
    nodes: Sequence[Node],
    order: Sequence[int],
    operands: Mapping[int, Sequence[tuple[int, int]]],
    outputs: Sequence[int],
    edge: Callable[[int, int], Edge],
) -> None:
    """Note at each node the entries that some output uses; None stands for all of them.

    An entry that every path discards has derivative zero, whatever its partials are: infinities and NaNs there must not
    meet the zeros of the chain rule. So partials are not taken at entries that are not live.
    """
    live: dict[int, Any] = dict.fromkeys(outputs, None)
    sides: _Sides = {}
    for i in reversed(order):
        node = nodes[i]
        node.live = live.get(i)
        for k, p in operands[i]:
            mask = node.live
            if node.op.selects is not None:  # type: ignore[union-attr]
                if i not in sides:
                    sides[i] = node.op.selects(node)  # type: ignore[union-attr]
                chosen = sides[i][k]
                mask = chosen if mask is None else np.logical_and(mask, chosen)
            used: Any = None if mask is None else _used(node, k, mask, partial(edge, i, k))
            if p not in live:
                live[p] = used
            else:
                live[p] = None if _everything(live[p], used, sides) else np.logical_or(live[p], used)


def _everything(a: Any, b: Any, sides: _Sides) -> bool:
    """Whether two masks together leave out nothing, by structure: one is none, or they are a choice's two sides."""
    return a is None or b is None or any({id(a), id(b)} == {*map(id, each)} - {id(None)} for each in sides.values())


def _used(node: Node, k: int, mask: Any, edge: Callable[[], Edge]) -> Any:
    """The entries of operand `k` that the output's entries in `mask` depend on."""
    assert node.op is not None
    shape = np.shape(node.args[k])
    if isinstance(node.op, Elementwise):
        lead = mask.ndim - len(shape)
        axes = tuple(range(lead)) + tuple(lead + j for j, n in enumerate(shape) if n != mask.shape[lead + j])
        return (astype(mask, np.float32, mask).sum(axis=axes) > 0).reshape(shape) if axes else mask
    local = edge()
    if local.linear is None or not node.op.flat:
        # by labels alone: what the factors hold may be zero, infinite or NaN, and says nothing about use
        local = Edge(local.out_shape, local.inp_shape, [Part(part.out, part.inp) for part in local.parts])
    counts = local.before(Block.column(astype(mask, np.float32, mask)).T)
    return counts.dense(np.dtype(np.float32), mask) > 0
