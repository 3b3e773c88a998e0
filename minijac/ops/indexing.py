"""Operations that pick entries by data: gather and scatter by position, the extreme of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..backend import astype, namespace
from ..labels import Axes, Label
from ..tape import Node
from .families import Edge, Linear, Part, Sample, Shape, labelled, linear

__all__ = ["gather", "getitem_positions", "max", "min"]


# -- rows by position: the two linear maps that everything else here is made of ------------------------------------------
def _take_rows_edge(node: Node, k: int) -> Edge:
    positions, (seeds, size) = node.params["positions"], np.shape(node.args[0])
    row = (Label(seeds),)
    out = (row, *((Label(n),) for n in positions.shape))
    return Edge(node.out.shape, (seeds, size), [Part(out, (row, (Label(size),)))], _row_maps(positions, size))


def _row_maps(positions: Any, size: int) -> Linear:
    """The same maps with one more axis in front, which folds into the rows."""

    def push(x: Any) -> Any:
        return take_rows(x.reshape(-1, size), positions=positions).reshape(*x.shape[:-1], *positions.shape)

    def pull(y: Any) -> Any:
        lead = y.shape[: y.ndim - positions.ndim]
        return add_rows(y.reshape(-1, *positions.shape), positions=positions, size=size).reshape(*lead, size)

    return Linear(push, pull)


def _add_rows_value(y: Any, positions: Any, size: int) -> Any:
    xp = namespace(y)
    rows = y.shape[0]
    result = xp.zeros((rows, size), y.dtype)
    flat = positions.reshape(-1)
    values = y.reshape(rows, -1)
    if len(np.unique(flat) if xp is np else xp.unique(flat)) == flat.size:
        result[:, flat] = values
    elif xp is np:
        np.add.at(result, (slice(None), flat), values)
    else:
        from cupyx import scatter_add

        scatter_add(result, (slice(None), flat), values)
    return result


def _add_rows_edge(node: Node, k: int) -> Edge:
    positions, size = node.params["positions"], node.params["size"]
    seeds = np.shape(node.args[0])[0]
    row = (Label(seeds),)
    maps = _row_maps(positions, size)
    inp = (row, *((Label(n),) for n in positions.shape))
    return Edge((seeds, size), np.shape(node.args[0]), [Part((row, (Label(size),)), inp)], Linear(maps.pull, maps.push))


_POSITIONS = np.array([[0, 2, 2], [3, 0, 1]])
take_rows = linear(
    "take_rows",
    lambda x, positions: x[:, positions],
    _take_rows_edge,
    [Sample(((3, 4),), {"positions": _POSITIONS})],
    family="indexing",
)
add_rows = linear(
    "add_rows",
    _add_rows_value,
    _add_rows_edge,
    [Sample(((3, 2, 3),), {"positions": _POSITIONS, "size": 5})],
    family="indexing",
)


# -- gather --------------------------------------------------------------------------------------------------------------
def _gather_edge(node: Node, k: int) -> Edge:
    positions, passing = node.params["positions"], dict(node.params["passing"])
    shape = np.shape(node.args[0])
    inp: Axes = tuple((Label(n),) for n in shape)
    back = {out: axis for axis, out in passing.items()}
    out = tuple(inp[back[k]] if k in back else (Label(n),) for k, n in enumerate(positions.shape))
    maps = _row_maps(positions, prod(shape))
    push = lambda x: maps.push(x.reshape(-1, prod(shape)))  # noqa: E731
    pull = lambda y: maps.pull(y).reshape(-1, *shape)  # noqa: E731
    return Edge(positions.shape, shape, [Part(out, inp)], Linear(push, pull))


gather = linear(
    "gather",
    lambda x, positions, passing: x.reshape(-1)[positions],
    _gather_edge,
    [Sample(((3, 4),), {"positions": np.array([[0, 2, 2], [5, 4, 7], [8, 9, 11]]), "passing": ((0, 0),)})],
    family="indexing",
)
"""``x.reshape(-1)[positions]``; `passing` lists the axes (of `x`, of the result) along which entries stay in place."""


def getitem_positions(shape: Shape, index: tuple[Any, ...], xp: Any) -> tuple[Any, tuple[tuple[int, int], ...]]:
    """The flat positions that an index with integer or boolean arrays picks, and the axes that it leaves in place."""
    positions = xp.arange(prod(shape)).reshape(shape)[index]
    passing = []
    axis = 0
    advanced = [n for n, item in enumerate(index) if item is not None and not isinstance(item, slice)]
    arrays = [np.ndim(index[n]) if not _is_mask(index[n]) else 1 for n in advanced]
    width = max(arrays, default=0)
    together = advanced == list(range(advanced[0], advanced[-1] + 1)) if advanced else True
    first = (
        0 if not together else len([None for item in index[: advanced[0]] if item is None or isinstance(item, slice)])
    )
    place = 0 if together else width
    for n, item in enumerate(index):
        if item is None:
            place += 1
        elif isinstance(item, slice):
            if item == slice(None):
                passing.append((axis, place))
            place += 1
            axis += 1
        else:
            if _follows(item, shape[axis], width):
                passing.append((axis, first))
            if together and n == advanced[0]:
                place += width
            axis += np.ndim(item) if _is_mask(item) else 1
    return positions, tuple(passing)


def _is_mask(item: Any) -> bool:
    return getattr(item, "dtype", None) == bool


def _follows(item: Any, n: int, width: int) -> bool:
    """Whether an index array is ``arange(n)`` along the first axis the arrays make: each sample picks from itself."""
    if _is_mask(item) or np.ndim(item) != width or item.shape[0] != n or item.size != n:
        return False
    return bool((item.reshape(-1) == namespace(item).arange(n)).all())


# -- the extreme of an axis ----------------------------------------------------------------------------------------------
def _extreme_edge(node: Node, k: int) -> Edge:
    x, axis = node.args[0], node.params["axis"]
    y = node.out if node.params.get("keepdims") else np.expand_dims(node.out, axis)
    hit = astype(x == y, node.out.dtype, x)
    share = hit / hit.sum(axis=axis, keepdims=True)  # ties are split evenly
    inp: Axes = tuple((Label(n),) for n in x.shape)
    kept = [
        ((Label(1),) if i in axis else a) for i, a in enumerate(inp) if node.params.get("keepdims") or i not in axis
    ]
    return Edge(node.out.shape, x.shape, [Part(tuple(kept), inp, (labelled(share, inp, share.dtype),))])


_EXTREMES: Sequence[Sample] = [
    Sample(((3, 4, 2),), {"axis": (1,)}),
    Sample(((3, 4, 2),), {"axis": (1, 2), "keepdims": True}),
]
max = linear("max", lambda x, **p: x.max(**p), _extreme_edge, _EXTREMES, family="indexing")
min = linear("min", lambda x, **p: x.min(**p), _extreme_edge, _EXTREMES, family="indexing")
