"""What an index names: integers, slices, arrays and masks, in two steps, and the positions that arrays pick."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

import numpy as np

from ..backend import array_of, is_array, namespace, on_host, placed, value_of
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..ops import indexing
from ..tape.traced import Traced
from .ordered import permutes

__all__ = [
    "WHOLE",
    "counted_from_the_start",
    "flat_positions",
    "full_index",
    "indexes",
    "is_mask",
    "split_index",
    "without_traces",
]

WHOLE = slice(None)


def full_index(index: Any, x: Any) -> tuple[Any, ...]:
    """The index with the ellipsis and missing axes written out, plain values for traced ones, lists as arrays."""
    items = index if isinstance(index, tuple) else (index,)
    if not all(map(_is_basic, items)):
        items = tuple([_item(without_traces(item, x)) for item in items])
        for item in items:
            if isinstance(item, bool | np.bool_) or (is_array(item) and not item.ndim and item.dtype.kind == "b"):
                raise UnsupportedOperationError(
                    f"indexing with a single bool at {user_line()}: use an array or np.where."
                )
            if indexes(item) and item.size and item.dtype.kind not in "iub":
                raise IndexError(f"index at {user_line()}: expected integers or booleans, got an array of {item.dtype}")
    used, shape = sum(map(_axes_used, items)), x.shape
    if used > len(shape):
        raise IndexError(f"too many indices at {user_line()}: {used} for a traced value of shape {shape}")
    fill = (WHOLE,) * (len(shape) - used)
    where = [n for n, item in enumerate(items) if item is Ellipsis]
    full = (*items[: where[0]], *fill, *items[where[0] + 1 :]) if where else (*items, *fill)
    axis = 0
    for item in full:
        if type(item) is slice or (type(item) is int and -shape[axis] <= item < shape[axis]):
            axis += 1
            continue
        sizes = shape[axis : axis + _axes_used(item)]
        if is_mask(item) and isinstance(item, Traced):
            item._refuse("indexing with a mask")
        if isinstance(item, int | np.integer) and not -sizes[0] <= item < sizes[0]:
            raise IndexError(f"index {item} at {user_line()} is out of bounds for axis {axis} of shape {shape}")
        if is_mask(item) and item.shape != sizes:
            raise IndexError(f"mask of shape {item.shape} at {user_line()}: expected {sizes}, of shape {shape}")
        axis += len(sizes)
    return full


_BOUNDS = (int, type(None))


def _is_basic(item: Any) -> bool:
    """Whether an item of an index is one of Python's own, with nothing to look at in it."""
    if type(item) is slice:
        return type(item.start) in _BOUNDS and type(item.stop) in _BOUNDS and type(item.step) in _BOUNDS
    return type(item) in _BOUNDS or item is Ellipsis


def _item(item: Any) -> Any:
    """An item of an index: lists as arrays, whole numbers of any kind as ints."""
    if item is None or item is Ellipsis or isinstance(item, int | slice | Traced):
        return item
    if isinstance(item, list | tuple | range):
        return np.asarray(item)
    if is_array(item):
        return int(item) if item.ndim == 0 and item.dtype.kind in "iu" else item
    try:
        return operator.index(item)
    except TypeError:
        raise IndexError(
            f"index at {user_line()}: expected integers, slices, None, ... or arrays, got {item!r:.40}"
        ) from None


def _axes_used(item: Any) -> int:
    if type(item) is slice:
        return 1
    if item is None or item is Ellipsis:
        return 0
    return int(item.ndim) if is_mask(item) else 1


def is_mask(item: Any) -> bool:
    return hasattr(item, "dtype") and item.dtype.kind == "b"


def indexes(item: Any) -> bool:
    """Whether an item of an index is an array, plain or of a program that is being recorded."""
    return is_array(item) or isinstance(item, Traced)


def without_traces(index: Any, x: Any) -> Any:
    """An index of x without traces; a program is told of an array that says what it does."""
    if isinstance(index, Traced):
        return value_of(index)
    if isinstance(index, slice):
        bounds = (index.start, index.stop, index.step)
        if not _is_basic(index):  # which an integer argument of a program may bound: that is made for its numbers
            index = slice(*(each if each is None else operator.index(without_traces(each, x)) for each in bounds))
        return index
    if isinstance(x, Traced) and x.home.program is not None and is_array(index):
        x.home.program.looked_at(index)
    return index


def split_index(full: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[tuple[Any, ...], dict[int, Any]]:
    """A full index in two steps: slices and new axes, which keep structure, then positions along some of the axes.

    Without arrays, integers belong to the first step; with some, NumPy counts integers among them.
    """
    basic: list[Any] = []
    picks: dict[int, Any] = {}
    arrays = not all(map(_is_basic, full)) and any(map(indexes, full))
    axis = 0
    for item in full:
        if item is None:
            basic.append(None)
            continue
        n = shape[axis]
        if isinstance(item, slice):
            basic.append(WHOLE if item.indices(n) == (0, n, 1) else item)
        elif not arrays:
            basic.append(int(item))
        else:
            for positions in item.nonzero() if is_mask(item) else (item,):
                picks[len(basic)] = counted_from_the_start(positions, shape[axis])
                basic.append(WHOLE)
                axis += 1
            continue
        axis += 1
    return tuple(basic), picks


def counted_from_the_start(positions: Any, size: int) -> Any:
    if isinstance(positions, Traced):  # of a program that is being recorded: what it holds is not known yet
        if permutes(positions):
            return positions
        if on_host(array_of(positions)):
            return indexing.counted(positions, size=size)
        return indexing.counted_unchecked(positions, size)  # a device's are not looked at
    if is_array(positions) and positions.dtype.kind not in "iu":  # an empty list
        positions = positions.astype(int)
    if isinstance(positions, np.ndarray) and positions.size > MANY and positions.min() >= 0 and positions.max() < size:
        return _sealed(positions.astype(np.int64))
    return _sealed(namespace(positions).arange(size)[positions])  # NumPy's own indexing checks the bounds


MANY = 2**9
"""Positions from which on it is cheaper to look for the least and the largest than to look them up."""


def _sealed(positions: Any) -> Any:
    """Positions of our own, which nobody writes to: they need not be copied, nor watched."""
    if isinstance(positions, np.ndarray) and positions.base is None:
        positions.flags.writeable = False
    return positions


def flat_positions(shape: tuple[int, ...], picks: dict[int, Any], like: Any) -> tuple[Any, dict[int, int]]:
    """The flat positions that an index with arrays along the axes `picks` names, and which axes it leaves in place.

    Those are given as axis of the array, axis of the result.
    """
    axes = list(picks)
    common = np.broadcast_shapes(*(item.shape for item in picks.values()))
    width, ndim = len(common), len(common) + len(shape) - len(axes)
    together = axes == list(range(axes[0], axes[-1] + 1))
    first = axes[0] if together else 0  # where the arrays' axes go, as NumPy has it
    passing = {}
    place = 0 if together else width
    positions: Any = None
    for axis, n in enumerate(shape):
        if axis in picks:
            item, behind = picks[axis], ndim - first - width
            followed = _followed(item, n, width)
            if followed is not None and common[followed] == n:
                passing[axis] = first + followed
            place += width if together and axis == first else 0
        else:
            item, behind = namespace(like).arange(n), ndim - place - 1
            passing[axis] = place
            place += 1
        item = placed(np.reshape(item, (*item.shape, *(1,) * behind)) if behind else item, like)
        stride = prod(shape[axis + 1 :])
        item = item if stride == 1 else item * stride
        positions = item if positions is None else positions + item
    return _sealed(positions), passing


def _followed(item: Any, n: int, width: int) -> int | None:
    """The axis of the arrays' common shape along which this one is ``arange(n)``: each sample picks from itself."""
    if isinstance(item, Traced):
        return None
    long = [k for k, size in enumerate(np.shape(item)) if size != 1] or list(range(np.ndim(item)))[:1]
    if len(long) != 1 or np.size(item) != n or not bool((item.reshape(-1) == namespace(item).arange(n)).all()):
        return None
    return width - np.ndim(item) + long[0]
