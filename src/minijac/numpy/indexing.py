"""Indexing of traced values: integers, slices, arrays and masks; taking, sorting, updates that return a new array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from math import prod
from typing import Any

import numpy as np

from ..backend import array_of, astype, check_operand, is_array, namespace, on_host, placed, value_of
from ..errors import InputError
from ..lines import user_line
from ..ops import indexing, structural
from ..ops.families import Elementwise
from ..tape.trace import Node
from ..tape.traced import Traced, traced
from .creation import array
from .ordered import permutes
from .picked import beside, coordinates, picked, replaced, valid
from .positions import (
    WHOLE,
    counted_from_the_start,
    flat_positions,
    full_index,
    indexes,
    is_mask,
    split_index,
    without_traces,
)
from .protocol import FUNCTIONS, METHODS, absent, as_array, as_arrays, axis_of, implements, plain, recorded
from .shape import along, ravel
from .writing import assign, lay, looked, overwrite, refuse_plain, writable


# -- x[index] ----------------------------------------------------------------------------------------------------------
@implements(method="__getitem__")
def getitem(x: Any, index: Any) -> Any:
    if (some := picked(x, index)) is not None:
        return some
    full = full_index(index, x)
    basic, picks = split_index(full, x.shape)
    if not picks:
        return looked(x, basic)
    if (by := _sorted_by(full, x.shape)) is not None:
        return along(structural.getitem_basic(x, index=split_index(by[0], x.shape)[0]), by[2], by[1])
    found = x._detached(_picked(x, basic, picks), (x,))
    _lay_picked(found, picks)
    if is_mask(full[0]) and full[1:] == (WHOLE,) * (len(full) - 1) and found.index >= 0 <= x.index:
        found.home.masked[found.index] = full[0].copy(), x.index  # it may be written later
    return found


def _lay_picked(y: Any, picks: dict[int, Any]) -> None:
    """Have what was picked along inner axes lie as NumPy's does, these outermost."""
    first, count = min(picks), max(positions.ndim for positions in picks.values())
    if first and count and max(picks) - first < len(picks):
        own = range(first, first + count)
        lay(y, [*own, *(k for k in range(y.ndim) if k not in own)])


def _picked(x: Any, basic: tuple[Any, ...], picks: dict[int, Any]) -> Any:
    if any(item != WHOLE for item in basic):
        x = structural.getitem_basic(x, index=basic)
    if len(picks) == 1:
        ((axis, positions),) = picks.items()
        return along(x, positions, axis, pieces=1)
    positions, passing = flat_positions(x.shape, picks, x)
    return indexing.gather(x, positions, passing=tuple(passing.items()))


# -- by position -------------------------------------------------------------------------------------------------------
@implements(np.take, method="take")
def take(x: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Any:
    if axis is None:
        x, axis = ravel(x), 0
    axis = axis_of(x, axis, "take")
    if (some := picked(x, (*[WHOLE] * axis, indices))) is not None:
        return some
    n = x.shape[axis]
    positions = _brought_in(_plain_index(indices, x), n, mode)
    return along(x, counted_from_the_start(positions, n), axis, pieces=1)


def _brought_in(positions: Any, n: int, mode: str) -> Any:
    """Positions among the first `n`, where `mode` says that others are brought there."""
    if mode == "wrap":
        return positions.astype(np.int64) % n  # narrow integers may not hold n
    return np.clip(positions, 0, n - 1) if mode == "clip" else positions


def looked_up(a: Any, indices: Any, axis: Any = None, **keywords: Any) -> Any:
    """``numpy.take``, which does not dispatch on positions, for those of a program that is being recorded too."""
    if isinstance(a, Traced) or not isinstance(indices, Traced):
        return np.take(a, indices, axis, **keywords)
    return take(as_array(a, indices), indices, axis, **keywords)


@implements(np.compress)
def compress(condition: Any, x: Any, axis: Any = None, out: Any = None) -> Any:
    if axis is None:
        x, axis = ravel(x), 0
    condition = _plain_index(condition, x)
    if isinstance(condition, Traced):
        return picked(x, (*[WHOLE] * (axis % np.ndim(x)), condition if condition.dtype.kind == "b" else condition != 0))
    (positions,) = condition.astype(bool).nonzero()
    return take(x, positions, axis)


METHODS["compress"] = lambda x, condition, axis=None, out=None: compress(condition, x, axis, out)


@implements(np.extract)
def extract(condition: Any, arr: Any) -> Any:
    return compress(np.ravel(_plain_index(condition, arr)), arr)


@implements(np.take_along_axis)
def take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Any:
    indices = _plain_index(indices, arr)
    if not isinstance(arr, Traced):  # traced indices alone carry no derivative
        if not isinstance(indices, Traced):
            return np.take_along_axis(arr, indices, axis)
        arr = as_array(arr, indices)
    indices = valid(placed(indices, arr))
    if axis is None:
        arr, indices, axis = ravel(arr), np.reshape(indices, (-1,)), 0
    axis = axis_of(arr, axis, "take_along_axis")
    if indices.ndim != arr.ndim or indices.dtype.kind not in "iu":
        raise IndexError(f"take_along_axis at {user_line()}: expected {arr.ndim} axes of integers, got {indices.shape}")
    positions = counted_from_the_start(indices, arr.shape[axis]) * prod(arr.shape[axis + 1 :])
    for k, n in enumerate(arr.shape):
        if k != axis:
            lines = namespace(arr).arange(n) * prod(arr.shape[k + 1 :])
            positions = positions + beside(lines.reshape((1,) * k + (-1,) + (1,) * (arr.ndim - k - 1)), arr)
    passing = tuple((k, k) for k, n in enumerate(arr.shape) if k != axis and positions.shape[k] == n)
    return indexing.gather(arr, positions, passing=passing)


def _plain_index(indices: Any, x: Any) -> Any:
    """Positions in x, or a condition on it, where they are: on the host, stretches of them can be slices."""
    return without_traces(indices, x) if indexes(indices) else np.asarray(indices)


@implements(np.choose)
def choose(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Any:
    like = next((choice for choice in choices if isinstance(choice, Traced)), a)
    a = without_traces(a, like) if indexes(a) else namespace(*choices).asarray(a)
    if a.dtype.kind not in "iub":
        raise TypeError(f"choose at {user_line()}: expected integers that say which choice, got {a.dtype}")
    n = len(choices)
    a = _brought_in(a, n, mode)
    if mode == "raise" and isinstance(a, Traced):
        a = counted_from_the_start(np.where(a < 0, n, a), n)  # which raises for those too
    elif mode == "raise" and on_host(a) and not ((a >= 0) & (a < n)).all():
        raise ValueError(f"choose at {user_line()}: expected numbers of the {n} choices, got {a.min()} to {a.max()}")
    result = as_array(choices[0], a)
    for k in range(1, len(choices)):
        result = np.where(a == k, choices[k], result)
    return np.broadcast_to(result, np.broadcast_shapes(a.shape, *(np.shape(choice) for choice in choices)))


# -- order -------------------------------------------------------------------------------------------------------------
@implements(np.sort)
def sort(a: Any, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    """Equal entries stay in their order, and each derivative goes with its entry."""
    a, axis = (ravel(a), 0) if axis is None else (a, axis)
    y, strides = take_along_axis(a, np.argsort(a, axis, kind="stable"), axis), array_of(a).strides
    if isinstance(y, Traced) and not array_of(a).flags.c_contiguous:
        lay(y, sorted(range(y.ndim), key=lambda k: -abs(strides[k])))
    return y


@implements(np.partition)
def partition(a: Any, kth: Any, axis: int | None = -1, kind: str = "introselect", order: Any = None) -> Any:
    a, axis = (ravel(a), 0) if axis is None else (a, axis)
    return take_along_axis(a, np.argpartition(a, kth, axis), axis)


for _function, _op in indexing.SEARCHES.items():
    FUNCTIONS[_function] = METHODS[_function.__name__] = recorded(_op, _function)
FUNCTIONS[np.isin] = plain(np.isin)


@implements(np.nonzero, method="nonzero")
def nonzero(a: Any) -> Any:
    return coordinates(a) or plain(np.nonzero)(a)


@implements(np.argwhere)
def argwhere(a: Any) -> Any:
    found = coordinates(a)
    return plain(np.argwhere)(a) if found is None else np.stack(found, axis=-1)


@implements(np.flatnonzero)
def flatnonzero(a: Any) -> Any:
    return nonzero(np.ravel(a))[0]


def _past_nan(function: Any, search: Any, last: float) -> Any:
    """`function`, and in a program that is being recorded `search` with NaN as the number that is found last."""
    names = signature(function)

    def found(*args: Any, **kwargs: Any) -> Any:
        keywords = {key: value for key, value in names.bind(*args, **kwargs).arguments.items() if not absent(value)}
        a = value_of(keywords.pop("a"))
        return function(a, **keywords) if not isinstance(a, Traced) else search(np.where(a == a, a, last), **keywords)

    return found


FUNCTIONS[np.nanargmax] = _past_nan(np.nanargmax, np.argmax, -np.inf)
FUNCTIONS[np.nanargmin] = _past_nan(np.nanargmin, np.argmin, np.inf)


@implements(np.lexsort)
def lexsort(keys: Any, axis: int = -1) -> Any:
    """Sorted by each key in turn, the first of all first."""
    first, *others = [as_array(value_of(key)) for key in keys]
    taken = take if first.ndim == 1 else take_along_axis
    if all(map(on_host, (first, *others))):
        return np.lexsort((first, *others), axis)
    order = np.argsort(first, axis, kind="stable")
    for key in others:
        again = np.argsort(taken(key, order, axis), axis, kind="stable")
        order = taken(order, again, axis)
    return order


@implements(np.searchsorted, method="searchsorted")
def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    a = a if sorter is None else np.take(a, sorter)
    return indexing.searchsorted(*as_arrays(v, a), side=side)


@implements(np.digitize)
def digitize(x: Any, bins: Any, right: bool = False) -> Any:
    bins = as_array(bins, x)
    if isinstance(bins, Traced) or bins.size < 2 or bins[0] <= bins[-1]:
        return searchsorted(bins, x, "left" if right else "right")
    return len(bins) - searchsorted(bins[::-1], x, "right" if right else "left")


@implements(np.bincount)
def bincount(x: Any, /, weights: Any = None, minlength: int = 0) -> Any:
    bins = placed(_plain_index(x, weights), weights)
    if isinstance(bins, Traced):
        bins._refuse("bincount, whose shape depends on values,")
    if weights is None:
        return np.bincount(bins, minlength=minlength)
    size = max(int(bins.max()) + 1 if bins.size else 0, minlength)
    return indexing.deposit(astype(weights, float, weights), bins, axis=0, size=size)


# -- updates -----------------------------------------------------------------------------------------------------------
def put(x: Any, index: Any, values: Any) -> Any:
    """A copy of `x` with ``copy[index] = values``, for traced values and plain arrays alike.

    Args:
        x: Any shape; stays as it is.
        index: Whatever stands in brackets: integers, slices, arrays, masks. Of equal positions the last counts.
        values: Broadcastable to the shape of ``x[index]``.

    Cost: that of a copy.

    >>> import numpy as np
    >>> put(np.zeros(4), slice(1, 3), 5.0)
    array([0., 5., 5., 0.])
    """
    if (some := replaced(x, index, values)) is not None:
        return some
    x = as_array(x, values)
    whole, mask = _by_mask(x, index, values)
    if whole is not None:
        return np.where(mask, whole, x)
    new, full = _placed(x, index, values, once=True)
    if all(isinstance(item, slice) and item == WHOLE for item in full):
        return new
    if any(isinstance(item, Traced) for item in full):  # of a program that is being recorded
        return np.where(_placed(np.zeros_like(x), full, 1.0, once=False)[0] != 0, new, x)
    hit = namespace(x).zeros(x.shape, bool)
    hit[full] = True
    return np.where(hit, new, x)


def add_at(x: Any, index: Any, values: Any) -> Any:
    """`x` with `values` added at ``x[index]``, as by ``np.add.at``: positions that come twice get both.

    Args:
        x: Any shape; stays as it is.
        index: Whatever stands in brackets: integers, slices, arrays, masks.
        values: Broadcastable to the shape of ``x[index]``.

    Cost: that of a copy, and of sorting the index where it is an array.

    >>> import numpy as np
    >>> add_at(np.zeros(3), np.array([0, 2, 2]), np.array([1.0, 2.0, 3.0]))
    array([1., 0., 5.])
    """
    if (some := replaced(x, index, values, adds=True)) is not None:
        return some
    x = as_array(x, values)
    return x + _placed(x, index, values, once=False)[0]


def _placed(x: Any, index: Any, values: Any, once: bool) -> tuple[Any, Any]:
    """Zeros like `x` with `values` added at `index`, and the full index."""
    xp = namespace(x)
    values = as_array(values, x)
    if x.dtype.kind not in "fc":
        raise InputError(
            f"update at {user_line()}: expected an array of floats to put values into, got {x.dtype}. Choose among "
            "integers by np.where; the inverse of an order is np.argsort(order)."
        )
    values = astype(values, x.dtype, x)
    full = full_index(index, x)
    full = tuple(placed(item, x) if is_array(item) else item for item in full)
    if (found := _sorted_by(full, x.shape)) is not None:
        full, axis, order = found
        values = along(np.broadcast_to(values, xp.empty(x.shape, bool)[full].shape), np.argsort(order), axis)
    basic, picks = split_index(full, x.shape)
    if not picks:
        values = np.broadcast_to(values, xp.empty(x.shape, bool)[full].shape)
        return structural.embed(values, shape=x.shape, index=basic), full
    whole = all(item == WHOLE for item in basic)
    positions, passing = flat_positions(x.shape if whole else xp.empty(x.shape, bool)[basic].shape, picks, x)
    if not whole:
        positions = _picked(xp.arange(x.size).reshape(x.shape), basic, picks)
    values = np.broadcast_to(values, positions.shape)
    if once:
        values = np.where(_last(positions, xp), values, 0.0)
    kept = _kept_axes(basic)
    back = tuple((place, kept[axis]) for axis, place in passing.items() if axis in kept)
    return indexing.scatter(values, positions, passing=back, shape=x.shape), full


def _sorted_by(full: tuple[Any, ...], shape: Sequence[int]) -> tuple[tuple[Any, ...], int, Any] | None:
    """Of a full index whose one array names all of an axis, in an order that a program computes: the index without it,
    the axis in what that picks, and the order."""
    found = [k for k, item in enumerate(full) if isinstance(item, Traced)]
    if len(found) != 1 or not permutes(order := full[found[0]]) or sum(map(indexes, full)) != 1:
        return None
    (at,) = found
    axis = sum(item is None or isinstance(item, slice) for item in full[:at])
    span = [k for k, item in enumerate(full) if isinstance(item, int | np.integer) or k == at]
    apart = axis and span[-1] - span[0] >= len(span)  # NumPy then has it in front
    if apart or order.shape[0] != shape[sum(item is not None for item in full[:at])]:
        return None
    return (*full[:at], WHOLE, *full[at + 1 :]), axis, order


def _kept_axes(basic: tuple[Any, ...]) -> dict[int, int]:
    """Where whole axes stand in the first step of an index: axis after, axis before. An index with arrays keeps all."""
    before = 0
    kept = {}
    for after, item in enumerate(basic):
        if item == WHOLE:
            kept[after] = before
        before += item is not None
    return kept


def _last(positions: Any, xp: Any) -> Any:
    """Which of the positions that come more than once is the last."""
    flat = positions.reshape(-1)
    if isinstance(flat, Traced):
        order = np.argsort(flat, kind="stable")
        in_order = take(flat, order)
        last = np.concatenate([in_order[1:] != in_order[:-1], xp.ones(min(flat.size, 1), bool)])
        return take(last, np.argsort(order)).reshape(positions.shape)
    _, first = xp.unique(flat[::-1], return_index=True)
    last = xp.zeros(flat.size, bool)
    last[flat.size - 1 - first] = True
    return last.reshape(positions.shape)


# -- in place ----------------------------------------------------------------------------------------------------------
def setitem(y: Any, index: Any, value: Any) -> None:
    """``y[index] = value``"""
    writable(y)
    value = array(value) if isinstance(value, list | tuple) else value
    if (some := replaced(y, index, value)) is not None:
        overwrite(y, some)
        return
    whole, mask = _by_mask(y, index, value)
    if whole is not None:
        overwrite(y, np.where(mask, whole, y.fresh()))
        return
    full = full_index(index, y)
    basic, picks = split_index(full, y.shape)
    if picks:
        overwrite(y, put(y.fresh(), index, value))
    else:
        assign(y, basic, value)


def _by_mask(y: Any, index: Any, value: Any) -> tuple[Any, Any]:
    """What is written where a mask alone is the index, at all entries, and the mask for `y`; None where not known."""
    mask = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if not is_mask(mask) or mask.shape != y.shape[: mask.ndim]:
        return None, None
    wide = np.reshape(mask, (*mask.shape, *(1,) * (y.ndim - mask.ndim)))
    if np.ndim(value) <= y.ndim - mask.ndim:
        return value, wide
    if isinstance(value, Traced):
        with np.errstate(all="ignore"):  # what the mask does not choose is discarded
            whole = _everywhere(value, mask, np.ndim(value), {})
        if whole is not None and np.shape(whole) == y.shape:
            return whole, wide
    return None, None


def _everywhere(x: Any, mask: Any, ndim: int, known: dict[tuple[int, int], Any], depth: int = 128) -> Any:
    """What was computed entry by entry of entries that `mask` chose, (k, ...), at all entries; None for other values.

    So samples stay apart, which a list of the entries of all of them puts in one axis. `known` has what was found.
    """
    if np.ndim(x) < ndim:
        return x  # the same for all entries
    if not isinstance(x, Traced):
        whole = namespace(x).ones((*mask.shape, *x.shape[1:]), x.dtype)
        whole[mask] = x
        return whole
    key = x.home.serial, x.index
    if key not in known:
        known[key] = _computed_everywhere(x, mask, ndim, known, depth) if 0 <= x.index < len(x.home.nodes) else None
    return known[key]


def _computed_everywhere(x: Traced, mask: Any, ndim: int, known: dict[tuple[int, int], Any], depth: int) -> Any:
    trace, node = x.home, x.home.nodes[x.index]
    chosen, source = trace.masked.get(x.index, (None, -1))
    if chosen is not None and np.array_equal(chosen, mask):
        return traced(trace, source, trace.nodes[source].out)
    if not isinstance(node, Node) or not depth:
        return None
    operands = [arg if p < 0 else traced(trace, p, trace.nodes[p].out)
                for p, arg in zip(node.parents, node.args, strict=True)]  # fmt: skip
    if node.op is structural.reshape and node.parents[0] >= 0:  # a buffer, laid out in order of memory
        inner = trace.nodes[node.parents[0]]
        if inner.op is not structural.reshape or np.shape(inner.args[0]) != x.shape or inner.parents[0] < 0:
            return None
        source = inner.parents[0]
        return _everywhere(traced(trace, source, trace.nodes[source].out), mask, ndim, known, depth - 1)
    if not isinstance(node.op, Elementwise) or "axis" in node.params:
        return None
    operands = [_everywhere(operand, mask, ndim, known, depth - 1) for operand in operands]
    return None if any(operand is None for operand in operands) else node.op(*operands, **node.params)


def _in_place(*functions: Any, method: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers what NumPy's functions that write into their first argument write there."""

    def decorate(new: Callable[..., Any]) -> Callable[..., Any]:
        def written(target: Any, *args: Any, **kwargs: Any) -> None:
            if not isinstance(target, Traced):
                refuse_plain(f"numpy.{functions[0].__name__}")
            writable(target)
            overwrite(target, new(target.fresh(), *args, **kwargs))

        for function in functions:
            FUNCTIONS[function] = written
        if method is not None:
            METHODS[method] = written
        return new

    return decorate


@_in_place(np.copyto)
def copied(x: Any, src: Any, casting: str = "same_kind", where: Any = True) -> Any:
    return src if where is True else np.where(where, src, x)


@_in_place(np.putmask)
def put_by_mask(x: Any, mask: Any, values: Any) -> Any:
    return np.where(mask, values if np.ndim(values) == 0 else np.resize(values, x.shape), x)


@_in_place(np.place)
def put_in_turn(x: Any, mask: Any, vals: Any) -> Any:
    """The values one after the other where the mask says, over and over."""
    mask = _plain_index(mask, x)
    if isinstance(mask, Traced):
        return np.reshape(put(np.ravel(x), np.ravel(mask), vals), x.shape)
    (positions,) = np.reshape(mask, (-1,)).nonzero()
    return _put_flat(x, positions, np.resize(_numbers(vals), positions.shape))


@_in_place(np.put, method="put")
def put_by_position(x: Any, ind: Any, v: Any, mode: str = "raise") -> Any:
    positions = np.reshape(_plain_index(ind, x), (-1,))
    return _put_flat(x, _brought_in(positions, x.size, mode), np.resize(_numbers(v), positions.shape))


def _put_flat(x: Any, positions: Any, values: Any) -> Any:
    return np.reshape(put(np.reshape(x, (-1,)), positions, values), x.shape)


@_in_place(np.put_along_axis)
def put_along_axis(x: Any, indices: Any, values: Any, axis: int | None = -1) -> Any:
    if axis is None:
        return np.reshape(put(np.reshape(x, (-1,)), _plain_index(indices, x), values), x.shape)
    indices, axis = _plain_index(indices, x), axis_of(x, axis, "put_along_axis")
    lines = [np.arange(n).reshape((-1,) + (1,) * (x.ndim - k - 1)) for k, n in enumerate(x.shape)]
    return put(x, tuple(indices if k == axis else line for k, line in enumerate(lines)), values)


@_in_place(np.fill_diagonal)
def with_diagonal(a: Any, val: Any, wrap: bool = False) -> Any:
    if a.ndim < 2 or (a.ndim > 2 and len(set(a.shape)) > 1):
        raise ValueError(f"fill_diagonal at {user_line()}: expected a matrix, or equal axes, got shape {a.shape}")
    step = a.shape[1] + 1 if a.ndim == 2 else 1 + int(np.cumprod(a.shape[:-1]).sum())
    stop = a.shape[1] * a.shape[1] if a.ndim == 2 and not wrap else a.size
    positions = np.arange(0, min(stop, a.size), step)
    hit = np.zeros(a.size, bool)
    hit[positions] = True
    hit = placed(hit.reshape(a.shape), a)
    if np.ndim(val) == 0:
        return np.where(hit, val, a)
    return _put_flat(a, positions, np.resize(_numbers(val), positions.shape))


@_in_place(method="fill")
def filled(x: Any, value: Any) -> Any:
    return value


@_in_place(method="sort")
def sorted_along(x: Any, axis: int = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    return sort(x, axis)


@_in_place(method="partition")
def partitioned(x: Any, kth: Any, axis: int = -1, kind: str = "introselect", order: Any = None) -> Any:
    return partition(x, kth, axis)


def _numbers(values: Any) -> Any:
    """What is written somewhere, as an array; an array that is none of numbers alone, such as a masked one, raises."""
    if is_array(values):
        check_operand("assignment", values)
    return array(values)


def add_in_place(y: Any, index: Any, values: Any) -> None:
    """``np.add.at``"""
    if not isinstance(y, Traced):
        refuse_plain("numpy.add.at")
    writable(y)
    overwrite(y, add_at(y.fresh(), index, _numbers(values)))


def subtract_in_place(y: Any, index: Any, values: Any) -> None:
    """``np.subtract.at``"""
    add_in_place(y, index, -_numbers(values))
