"""Operations that pick entries by data: take and gather by position, their transposes, and the extremes of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..backend import astype, namespace
from ..labels import Axes, Label
from ..tape import Node
from .families import Edge, Linear, Part, Sample, Shape, labelled, linear
from .structural import fresh

__all__ = ["deposit", "gather", "max", "min", "order_statistic", "scatter", "take"]


# -- along one axis: the two linear maps that everything else here is made of ---------------------------------------------
def _deposit_value(y: Any, positions: Any, axis: int, size: int) -> Any:
    xp = namespace(y)
    lead, tail = y.shape[:axis], y.shape[axis + positions.ndim :]
    flat = positions.reshape(-1)
    values = y.reshape(prod(lead), flat.size, prod(tail))
    result = xp.zeros((prod(lead), size, prod(tail)), y.dtype)
    order = xp.argsort(flat, kind="stable")
    ordered = flat[order]
    first = xp.concatenate([xp.ones(1, bool), ordered[1:] != ordered[:-1]])[: flat.size]
    if first.all():
        result[:, flat] = values
    elif xp is np:
        result[:, ordered[first]] = np.add.reduceat(values[:, order], np.flatnonzero(first), axis=1)
    else:
        from cupyx import scatter_add

        scatter_add(result, (slice(None), flat), values)
    return result.reshape(*lead, size, *tail)


def _axis_edge(node: Node, k: int) -> Edge:
    """Both maps do the same at all positions of the other axes."""
    positions, axis, x, y = node.params["positions"], node.params["axis"], node.args[0], node.out
    taking = "size" not in node.params
    size = np.shape(x)[axis] if taking else node.params["size"]
    push = lambda x: take(x, positions=positions, axis=axis + 1)  # noqa: E731
    pull = lambda y: deposit(y, positions=positions, axis=axis + 1, size=size)  # noqa: E731
    whole = fresh(x.shape if taking else y.shape)
    picked = (*whole[:axis], *fresh(positions.shape), *whole[axis + 1 :])
    if taking:
        return Edge(y.shape, x.shape, [Part(picked, whole)], Linear(push, pull, uniform=True))
    return Edge(y.shape, x.shape, [Part(whole, picked)], Linear(pull, push, uniform=True))


_POSITIONS = np.array([[0, 2, 2], [3, 0, 1]])
take = linear(
    "take",
    lambda x, positions, axis: x.take(positions, axis),
    _axis_edge,
    [
        Sample(((3, 4),), {"positions": _POSITIONS, "axis": 1}),
        Sample(((3, 4, 2),), {"positions": np.array([3, 0, 0]), "axis": 1}),
        Sample(((3, 2, 4),), {"positions": np.array(2), "axis": 2}),
    ],
    family="indexing",
)
deposit = linear(
    "deposit",
    _deposit_value,
    _axis_edge,
    [
        Sample(((3, 2, 3),), {"positions": _POSITIONS, "axis": 1, "size": 5}),
        Sample(((3, 3, 2),), {"positions": np.array([3, 0, 2]), "axis": 1, "size": 4}),
    ],
    family="indexing",
)
"""The transpose of `take`: entries add up at their positions along the axis."""


# -- anywhere -----------------------------------------------------------------------------------------------------------
def _gather_edge(node: Node, k: int) -> Edge:
    positions, passing = node.params["positions"], dict(node.params["passing"])
    shape = np.shape(node.args[0])
    inp, out = _passing_axes(shape, positions.shape, passing)
    if positions.size == prod(shape[axis] for axis in passing):  # one entry of each: a block no larger than the array
        chosen = namespace(node.out).zeros(prod(shape), node.out.dtype)
        chosen[positions.reshape(-1)] = 1.0
        return Edge(positions.shape, shape, [Part(out, inp, (labelled(chosen.reshape(shape), inp, chosen.dtype),))])
    return Edge(positions.shape, shape, [Part(out, inp)], _flat_maps(shape, positions))


def _scatter_edge(node: Node, k: int) -> Edge:
    positions, shape = node.params["positions"], node.params["shape"]
    passing = {axis: place for place, axis in node.params["passing"]}
    out, inp = _passing_axes(shape, positions.shape, passing)
    maps = _flat_maps(shape, positions)
    return Edge(shape, positions.shape, [Part(out, inp)], Linear(maps.pull, maps.push))


def _passing_axes(whole: Shape, picked: Shape, passing: dict[int, int]) -> tuple[Axes, Axes]:
    labels = fresh(whole)
    back = {place: axis for axis, place in passing.items()}
    return labels, tuple(labels[back[k]] if k in back else (Label(n),) for k, n in enumerate(picked))


def _flat_maps(shape: Shape, positions: Any) -> Linear:
    size = prod(shape)
    push = lambda x: take(x.reshape(-1, size), positions=positions, axis=1)  # noqa: E731
    pull = lambda y: deposit(y, positions=positions, axis=1, size=size).reshape(-1, *shape)  # noqa: E731
    return Linear(push, pull)


_EACH = np.array([[0, 2, 2], [5, 4, 7], [8, 9, 11]])
gather = linear(
    "gather",
    lambda x, positions, passing: x.reshape(-1)[positions],
    _gather_edge,
    [
        Sample(((3, 4),), {"positions": _EACH, "passing": ((0, 0),)}),
        Sample(((3, 4),), {"positions": np.array([1, 7, 8]), "passing": ((0, 0),)}),
        Sample(((3, 2, 2),), {"positions": _EACH.T, "passing": ((0, 1),)}),
    ],
    family="indexing",
)
"""``x.reshape(-1)[positions]``; `passing` lists the axes (of `x`, of the result) along which entries stay in place."""

scatter = linear(
    "scatter",
    lambda y, positions, passing, shape: _deposit_value(y.reshape(-1), positions.reshape(-1), 0, prod(shape)).reshape(
        shape
    ),
    _scatter_edge,
    [
        Sample(((3, 3),), {"positions": _EACH, "passing": ((0, 0),), "shape": (3, 4)}),
        Sample(((3,),), {"positions": np.array([1, 7, 8]), "passing": ((0, 0),), "shape": (3, 2, 2)}),
    ],
    family="indexing",
)
"""The transpose of `gather`: zeros of `shape`, with entries added at flat positions; `passing`: (of `y`, of the result)."""


# -- the extremes of an axis ----------------------------------------------------------------------------------------------
def _extreme_edge(node: Node, k: int) -> Edge:
    x, axis = node.args[0], node.params["axis"]
    axis = (axis,) if isinstance(axis, int) else axis
    keepdims = node.params.get("keepdims", False)
    y = node.out if keepdims else np.expand_dims(node.out, axis)
    hit = astype(x == y, node.out.dtype, x)
    share = hit / hit.sum(axis=axis, keepdims=True)  # ties are split evenly
    inp = fresh(x.shape)
    kept = tuple(((Label(1),) if i in axis else a) for i, a in enumerate(inp) if keepdims or i not in axis)
    return Edge(node.out.shape, x.shape, [Part(kept, inp, (labelled(share, inp, share.dtype),))])


_EXTREMES: Sequence[Sample] = [
    Sample(((3, 4, 2),), {"axis": (1,)}),
    Sample(((3, 4, 2),), {"axis": (1, 2), "keepdims": True}),
]
max = linear("max", lambda x, **p: x.max(**p), _extreme_edge, _EXTREMES, family="indexing")
min = linear("min", lambda x, **p: x.min(**p), _extreme_edge, _EXTREMES, family="indexing")


def _order_statistic_value(x: Any, rank: Any, axis: int) -> Any:
    xp = namespace(x)
    if np.ndim(rank) == 0:
        return xp.partition(x, int(rank), axis).take(int(rank), axis)
    return xp.take_along_axis(xp.sort(x, axis), xp.expand_dims(xp.asarray(rank), axis), axis).squeeze(axis)


order_statistic = linear(
    "order_statistic",
    _order_statistic_value,
    _extreme_edge,
    [Sample(((3, 5, 2),), {"rank": 1, "axis": 1}), Sample(((3, 4),), {"rank": np.array([0, 2, 3]), "axis": 1})],
    family="indexing",
)
"""The entry that stands at `rank` of the sorted axis: a number, or one for each entry of the result."""
