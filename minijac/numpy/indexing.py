"""Indexing of traced values: integers, slices, arrays and masks."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from ..backend import namespace, value_of
from ..errors import UnsupportedOperationError
from ..ops import indexing, structural
from ..tape import Traced, user_line
from .protocol import as_array, axis_of, implements
from .shape import ravel


@implements(method="__getitem__")
def getitem(x: Any, index: Any) -> Any:
    items = index if isinstance(index, tuple) else (index,)
    full, advanced = _full_index(items, x)
    if advanced:
        if builtins.all(isinstance(item, slice | int) or item is None for item in full):
            return structural.getitem_basic(x, index=full)
        positions, passing = indexing.getitem_positions(x.shape, full, namespace(x))
        return indexing.gather(x, positions=positions, passing=passing)
    return structural.getitem_basic(x, index=full)


def _full_index(items: tuple[Any, ...], x: Any) -> tuple[tuple[Any, ...], bool]:
    """The index with the ellipsis and missing axes written out, plain values for traced ones, lists as arrays."""
    items = tuple(value_of(item) if isinstance(item, Traced) else item for item in items)
    items = tuple(np.asarray(item) if isinstance(item, list | tuple) else item for item in items)
    used = 0
    advanced = False
    for item in items:
        if item is None or item is Ellipsis:
            continue
        if isinstance(item, slice):
            used += 1
        elif isinstance(item, bool | np.bool_):
            raise UnsupportedOperationError(f"indexing with a single bool at {user_line()}: use an array or np.where.")
        elif isinstance(item, int | np.integer):
            used += 1
        else:
            advanced = True
            used += item.ndim if item.dtype == bool else 1
    if used > x.ndim:
        raise IndexError(f"too many indices at {user_line()}: {used} for a traced value of shape {x.shape}")
    fill = (slice(None),) * (x.ndim - used)
    where = [n for n, item in enumerate(items) if item is Ellipsis]
    full = (*items[: where[0]], *fill, *items[where[0] + 1 :]) if where else (*items, *fill)
    axis = 0
    for item in full:
        if item is None:
            continue
        if isinstance(item, int | np.integer) and not -x.shape[axis] <= item < x.shape[axis]:
            raise IndexError(f"index {item} at {user_line()} is out of bounds for axis {axis} of shape {x.shape}")
        axis += item.ndim if getattr(item, "dtype", None) == bool else 1
    return full, advanced


@implements(np.take, method="take")
def take(x: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Any:
    if axis is None:
        return ravel(x)[np.asarray(indices)]
    return x[(*(slice(None),) * axis_of(x, axis, "take"), as_array(indices))]
