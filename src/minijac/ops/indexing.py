"""Operations that pick entries by data: take and gather by position, their transposes, and the extremes of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..algebra.factors import Factor, Shape
from ..algebra.labels import Axes, Axis, Label, window
from ..backend import astype, namespace, on_host, placed, scatter_add, to_host
from ..picks import Pick, added
from ..picks import picked as picked_axis
from ..tape.op import Op, Reduction
from ..tape.trace import Node
from ..tape.traced import Traced
from . import into
from .edges import Edge, Linear, Part
from .families import Example, along, define, labelled, opaque, reduced
from .structural import fresh

__all__ = [
    "SEARCHES", "counted", "counted_unchecked", "deposit", "gather", "max", "min", "order_statistic", "scatter",
    "searchsorted", "take",
]  # fmt: skip


# -- along one axis: the two linear maps that everything else here is made of ------------------------------------------
def _deposit_value(y: Any, positions: Any, axis: int, size: int) -> Any:
    xp = namespace(y)
    lead, tail = y.shape[:axis], y.shape[axis + positions.ndim :]
    flat = positions.reshape(-1)
    values = y.reshape(prod(lead), flat.size, prod(tail))
    if xp is np:
        result = added(values, flat, size)
    else:  # looks at no positions, and adds in no fixed order
        result = xp.zeros((prod(lead), size, prod(tail)), y.dtype)
        scatter_add(result, (slice(None), flat), values)
    return result.reshape(*lead, size, *tail)


def _axis_edge(node: Node, k: int) -> Edge:
    """Both maps do the same at all positions of the other axes."""
    (x, positions), y, axis = node.args, node.out, node.params["axis"]
    taking = "size" not in node.params
    size = np.shape(x)[axis] if taking else node.params["size"]
    push = lambda x: take(x, positions, axis=axis + 1)  # noqa: E731
    pull = lambda y: deposit(y, positions, axis=axis + 1, size=size)  # noqa: E731
    whole = fresh(x.shape if taking else y.shape)
    own = fresh(positions.shape)
    picked = (*whole[:axis], *own, *whole[axis + 1 :])

    def listed(look: bool) -> Part | None:
        known = _known(positions, look)
        if known is None:
            return None
        each = (*whole[:axis], picked_axis(known, tuple([label for (label,) in own]), size), *whole[axis + 1 :])  # type: ignore[misc]
        return Part(picked, each) if taking else Part(each, picked)

    maps = Linear(*((push, pull) if taking else (pull, push)), True)
    parts = [Part(picked, whole) if taking else Part(whole, picked)]
    return Edge(y.shape, x.shape, parts, maps, listed)


def _known(positions: Any, look: bool) -> Any:
    """Positions as an array of the host's; None where a program computes them, or they are on a device that is not to
    be looked at."""
    if isinstance(positions, Traced):
        look = False  # a program's, which are read anew in every call
        positions = positions.home.program and positions.home.program.stated(positions)
    return positions if type(positions) is np.ndarray else to_host(positions) if look else None


def _at(shapes: tuple[Shape, ...], positions: Any, **params: Any) -> Example:
    """A sample with positions as its last operand."""
    return Example((*shapes, positions.shape), params, shared=(len(shapes),), given={len(shapes): positions})


def _flat(shape: Shape, lead: int = 0, **_: Any) -> tuple[Shape, int]:
    """The shape with the axes behind `lead` as one, which is that of the positions."""
    return (*shape[:lead], prod(shape[lead:])), lead


_POSITIONS = np.array([[0, 2, 2], [3, 0, 1]])
take = define(
    "take",
    lambda x, positions, axis: x.take(positions, axis),
    _axis_edge,
    [
        _at(((3, 4),), _POSITIONS, axis=1),
        _at(((3, 4, 2),), np.array([3, 0, 0]), axis=1),
        _at(((3, 2, 4),), np.array(2), axis=2),
    ],
    flat=True,
    complex=True,
    into=into.take,
    picks=lambda shape, axis: (shape, axis % len(shape)),
    inert=(1,),
)
deposit = define(
    "deposit",
    _deposit_value,
    _axis_edge,
    [
        _at(((3, 2, 3),), _POSITIONS, axis=1, size=5),
        _at(((3, 3, 2),), np.array([3, 0, 2]), axis=1, size=4),
    ],
    flat=True,
    adds=lambda shape, axis, size: (shape, axis),
    inert=(1,),
    complex=True,
)
"""The transpose of `take`: entries add up at their positions along the axis."""
Traced.added_at = lambda y, positions, size: deposit(y, placed(positions, y), axis=y.ndim - 1, size=size)


# -- anywhere ----------------------------------------------------------------------------------------------------------
def _flat_edge(node: Node, k: int) -> Edge:
    """Between an array, of which the positions are, and what is picked from it: of `gather`, and of `scatter`."""
    (x, positions), taking = node.args, "shape" not in node.params
    lead, own = node.params.get("lead", 0), np.shape(x)
    back = tuple((b, a) for a, b in node.params["passing"])
    shape, passing = (own[lead:], node.params["passing"]) if taking else (node.params["shape"], back)
    front, (whole, picked) = fresh(own[:lead]), _passing_axes(shape, positions.shape, passing)

    def between(of_array: Axes, *factors: Factor) -> Part:
        ends = (*front, *picked), (*front, *of_array)
        return Part(*(ends if taking else ends[::-1]), factors)

    def listed(look: bool) -> Part | None:
        known = _known(positions, look)
        return None if known is None else between(_listed_axes(known, whole, picked))

    if taking and positions.size == prod(shape[axis] for axis, _ in passing):
        # one entry of each: a block no larger than the array
        ones = namespace(node.out).ones(positions.shape, node.out.dtype)
        factor = labelled(scatter(ones, positions, passing=back, shape=shape), whole, node.out.dtype)
        return Edge(node.out.shape, own, [between(whole, factor)], None, listed)
    return Edge(node.out.shape, own, [between(whole)], _flat_maps(positions, passing, shape, lead, taking), listed)


def _listed_axes(positions: Any, whole: Axes, picked: Axes) -> Axes:
    """The axes of an array whose flat positions are given for each entry of axes that share labels with them."""
    shape = [axis[0].size for axis in whole]
    found: list[Axis] = []
    for axis, place in zip(whole, np.unravel_index(positions, shape), strict=True):
        if axis in picked:
            found.append(axis)
            continue
        kept = [k for k, n in enumerate(place.shape) if n != 1 and (not n or (place != place.take([0], k)).any())]
        at = place[tuple(slice(None) if k in kept else 0 for k in range(place.ndim))]
        own = tuple([picked[k][0] for k in kept])
        found.append((Pick(at, own, axis[0].size),) if own else window(None, axis[0].size, int(at), 1))  # type: ignore[arg-type]
    return tuple(found)


def _passing_axes(whole: Shape, picked: Shape, passing: Sequence[tuple[int, int]]) -> tuple[Axes, Axes]:
    labels = fresh(whole)
    back = {place: axis for axis, place in passing}
    return labels, tuple(labels[back[k]] if k in back else (Label(n),) for k, n in enumerate(picked))


def _flat_maps(positions: Any, passing: Any, shape: Shape, lead: int, taking: bool) -> Linear:
    """Between the array that holds the positions, which is that of the operand if `taking`, and what is picked."""
    back = tuple((place, axis) for axis, place in passing)
    push = lambda x: gather(x, positions, passing=passing, lead=lead + 1)  # noqa: E731
    pull = lambda y: scatter(y, positions, passing=back, shape=shape, lead=lead + 1)  # noqa: E731

    def fewer(axis: int, some: Any) -> Linear:
        if axis < lead:  # for each position there the same
            return maps
        own, place = next(pair for pair in passing if pair[taking] == axis - lead)
        kept = positions[(*(slice(None),) * place, some)]
        inner, count = prod(shape[own + 1 :]), kept.shape[place]
        rank = namespace(kept).arange(count).reshape((count, *(1,) * (kept.ndim - place - 1)))
        at = (kept // (shape[own] * inner) * count + rank) * inner + kept % inner
        return _flat_maps(at, passing, (*shape[:own], count, *shape[own + 1 :]), lead, taking)

    maps = Linear(*((push, pull) if taking else (pull, push)), fewer=fewer)
    return maps


def _gather_value(x: Any, positions: Any, passing: Any, lead: int = 0) -> Any:
    return x.reshape(*x.shape[:lead], prod(x.shape[lead:]))[..., positions]


def _scatter_value(y: Any, positions: Any, passing: Any, shape: Shape, lead: int = 0) -> Any:
    flat = y.reshape(*y.shape[:lead], positions.size)
    return _deposit_value(flat, positions.reshape(-1), lead, prod(shape)).reshape(*y.shape[:lead], *shape)


_EACH = np.array([[0, 2, 2], [5, 4, 7], [8, 9, 11]])
gather = define(
    "gather",
    _gather_value,
    _flat_edge,
    [
        _at(((3, 4),), _EACH, passing=((0, 0),)),
        _at(((3, 4),), np.array([1, 7, 8]), passing=((0, 0),)),
        _at(((3, 2, 2),), _EACH.T, passing=((0, 1),)),
        _at(((3, 2, 2),), _POSITIONS, passing=(), lead=1),
    ],
    flat=True,
    chooses=True,
    complex=True,
    into=into.gather,
    picks=_flat,
    prebound=True,
    inert=(1,),
)
"""``x.reshape(-1)[positions]``, for each position along `lead` axes in front.

`passing` lists the axes (of `x`, of the result; those in front not counted) along which entries stay in place.
"""

scatter = define(
    "scatter",
    _scatter_value,
    _flat_edge,
    [
        _at(((3, 3),), _EACH, passing=((0, 0),), shape=(3, 4)),
        _at(((3,),), np.array([1, 7, 8]), passing=((0, 0),), shape=(3, 2, 2)),
        _at(((3, 2, 3),), _POSITIONS, passing=(), shape=(5,), lead=1),
    ],
    flat=True,
    adds=lambda out_shape, lead=0, **_: _flat(out_shape, lead),
    inert=(1,),
    complex=True,
)
"""The transpose of `gather`: zeros of `shape`, with entries added at positions; `passing`: (of `y`, of the result)."""


# -- the extremes of an axis -------------------------------------------------------------------------------------------
def _extreme_edge(node: Node, k: int) -> Edge:
    x, axis = node.args[0], node.params["axis"]
    axis = (axis,) if isinstance(axis, int) else axis
    keepdims = node.params.get("keepdims", False)
    y = node.out if keepdims else np.expand_dims(node.out, axis)
    hit = astype(x == y, node.out.dtype, x)
    share = hit / hit.sum(axis=axis, keepdims=True)  # ties are split evenly
    inp = fresh(x.shape)
    part = Part(reduced(inp, axis, keepdims), inp, (labelled(share, inp, share.dtype),))
    return Edge(node.out.shape, x.shape, [part])


_EXTREMES: Sequence[Example] = [
    Example(((3, 4, 2),), {"axis": (1,)}),
    Example(((3, 4, 2),), {"axis": (1, 2), "keepdims": True}),
]


def _extreme(name: str, ufunc: Any) -> Op:
    return define(
        name,
        lambda x, **p: getattr(x, name)(**p),
        _extreme_edge,
        _EXTREMES,
        relation=along,
        flat=True,
        chooses=True,
        reduction=Reduction(ufunc),
        into=into.reduced(ufunc),
    )


max, min = _extreme("max", np.maximum), _extreme("min", np.minimum)


def _order_statistic_value(x: Any, rank: Any, axis: int) -> Any:
    xp = namespace(x)
    if np.ndim(rank) == 0:
        return xp.partition(x, int(rank), axis).take(int(rank), axis)
    return xp.take_along_axis(xp.sort(x, axis), xp.expand_dims(xp.asarray(rank), axis), axis).squeeze(axis)


order_statistic = define(
    "order_statistic",
    _order_statistic_value,
    _extreme_edge,
    [Example(((3, 5, 2),), {"rank": 1, "axis": 1}), Example(((3, 4),), {"rank": np.array([0, 2, 3]), "axis": 1})],
    flat=True,
    chooses=True,
)
"""The entry that stands at `rank` of the sorted axis: a number, or one for each entry of the result."""


# -- positions and counts: integers, without a derivative --------------------------------------------------------------
_ROWS = [Example(((3, 4),), {"axis": 1})]
SEARCHES: dict[Any, Op] = {
    np.argmax: opaque("argmax", np.argmax, [*_ROWS, Example(((3, 2, 4),), {"axis": -1, "keepdims": True})]),
    np.argmin: opaque("argmin", np.argmin, _ROWS),
    np.argsort: opaque("argsort", np.argsort, [Example(((3, 4),), {"axis": 1, "kind": "stable"})], complex=True),
    np.argpartition: opaque("argpartition", np.argpartition, [Example(((3, 5),), {"axis": 1, "kth": 2})]),
    np.all: opaque("all", np.all, _ROWS, relation=along, reduction=Reduction(np.logical_and, True, True), complex=True),
    np.any: opaque("any", np.any, _ROWS, relation=along, reduction=Reduction(np.logical_or, False, True), complex=True),
    np.count_nonzero: opaque(
        "count_nonzero",
        lambda a, axis=None, keepdims=False: (a != 0).sum(axis=axis, keepdims=keepdims),
        _ROWS,
        relation=along,
        reduction=Reduction(np.add, 0, True),
        complex=True,
    ),
}
searchsorted = opaque(
    "searchsorted",
    lambda v, a, side="left": np.searchsorted(a, v, side),
    [_at(((3, 4),), np.array([-1.0, 0.0, 0.5]), side="right")],
    relation=lambda k, out, *shapes, **_: [Part(own := fresh(out), fresh(shapes[1]) if k else own)],
)


def _counted_value(positions: Any, size: int) -> Any:
    if size <= FEW or not on_host(positions):
        return namespace(positions).arange(size)[positions]
    positions = np.asarray(positions, np.int64)
    wrong = positions[(positions < -size) | (positions >= size)]
    if wrong.size:
        raise IndexError(f"index {wrong[0]} is out of bounds for an axis of size {size}")
    return np.where(positions < 0, positions + size, positions)


def _count_into(out: Any, positions: Any, size: int) -> None:
    np.copyto(out, _counted_value(positions, size))


def counted_unchecked(positions: Any, size: int) -> Any:
    positions = positions.astype(np.int64)
    return np.where(positions < 0, positions + size, positions)


FEW = 2**10
"""Entries of an axis up to which NumPy's own indexing is asked, as it is the sooner."""
counted = opaque(
    "counted",
    _counted_value,
    [Example(((3, 4),), {"size": 5}, given={0: np.array([[0, -5, 4, 1]] * 3)})],
    relation=lambda k, out, *shapes, **_: [Part(own := fresh(out), own)],
    into=lambda code, out, positions, size: code(_count_into, out, positions, size),
    expansion=counted_unchecked,
)
"""Positions along an axis of NumPy's, counted from its start: those beyond it raise, in each call of a program too.
A device's are not looked at."""
