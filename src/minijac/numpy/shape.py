"""Functions of NumPy that change shapes and the order of axes and entries, on traced values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_of, namespace, placed
from ..errors import InputError, MutationError, UnsupportedOperationError
from ..lines import user_line
from ..ops import elementwise, indexing, structural
from ..ops.structural import normalised
from ..tape.traced import Traced
from .ordered import in_order, permutes
from .picked import within
from .positions import WHOLE
from .protocol import FUNCTIONS, as_arrays, axes_of, axis_of, implements


# -- reshape and transpose ---------------------------------------------------------------------------------------------
@implements(np.reshape)
def reshape(x: Any, /, shape: Any = None, order: str = "C", *, newshape: Any = None, copy: Any = None) -> Any:
    shape = newshape if shape is None else shape
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    _check_order(order)
    if order == "F":
        return transpose(reshape(transpose(x), shape[::-1]))
    known = 1
    for n in shape:
        known *= n if n >= 0 else 1
    shape = tuple(int(x.size // known if n < 0 and known else n) for n in shape)
    return x if shape == x.shape else structural.reshape(x, shape=shape)


@implements(method="reshape")
def reshape_method(x: Any, *shape: Any, order: str = "C", copy: Any = None) -> Any:
    return reshape(x, shape[0] if len(shape) == 1 else shape, order)


@implements(np.ravel, method="ravel")
def ravel(x: Any, order: str = "C") -> Any:
    """A copy of what does not lie in one piece, unlike `reshape`, which has a view of that too, where it can."""
    y, flags = reshape(x, (-1,), order), array_of(x).flags
    whole = flags.f_contiguous if order == "F" else flags.c_contiguous
    return y if whole or y.dtype.kind == "b" else np.positive(y)  # masks are not written


@implements(method="flatten")
def flatten(x: Any, order: str = "C") -> Any:
    return ravel(x, order).fresh()


def _check_order(order: str) -> None:
    if order not in ("C", "F"):
        raise UnsupportedOperationError(
            f"reshape at {user_line()}: got order={order!r}, which depends on how an array lies in memory. "
            "Expected 'C' or 'F'."
        )


@implements(np.transpose)
def transpose(x: Any, axes: Any = None) -> Any:
    axes = tuple(range(x.ndim))[::-1] if axes is None else axes_of(x, axes, "transpose")
    if len(axes) != x.ndim:
        raise InputError(f"transpose at {user_line()}: expected {x.ndim} axes for shape {x.shape}, got {axes}.")
    return structural.transpose(x, axes=axes)


@implements(method="transpose")
def transpose_method(x: Any, *axes: Any) -> Any:
    if not axes:
        return transpose(x)
    return transpose(x, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes)


@implements(np.swapaxes, method="swapaxes")
def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    axes = list(range(x.ndim))
    i, j = axis_of(x, axis1, "swapaxes"), axis_of(x, axis2, "swapaxes")
    axes[i], axes[j] = axes[j], axes[i]
    return structural.transpose(x, axes=tuple(axes))


@implements(np.matrix_transpose)
def matrix_transpose(x: Any, /) -> Any:
    return swapaxes(x, -1, -2)


FUNCTIONS[np.permute_dims] = transpose


@implements(np.moveaxis)
def moveaxis(x: Any, source: Any, destination: Any) -> Any:
    moved, to = axes_of(x, source, "moveaxis"), axes_of(x, destination, "moveaxis")
    order = [k for k in range(x.ndim) if k not in moved]
    for target, k in sorted(zip(to, moved, strict=True)):
        order.insert(target, k)
    return structural.transpose(x, axes=tuple(order))


@implements(np.rollaxis)
def rollaxis(a: Any, axis: int, start: int = 0) -> Any:
    axis = axis_of(a, axis, "rollaxis")
    start += a.ndim if start < 0 else 0
    if not 0 <= start <= a.ndim:
        raise InputError(f"rollaxis at {user_line()}: expected start within {a.ndim} axes, got {start}.")
    return moveaxis(a, axis, start - 1 if axis < start else start)


# -- axes of length one, and repetition along new axes -----------------------------------------------------------------
@implements(np.expand_dims)
def expand_dims(x: Any, axis: Any) -> Any:
    count = 1 if isinstance(axis, int | np.integer) else len(axis)
    axes = normalised(axis, x.ndim + count)
    if len(set(axes)) < count or not all(0 <= k < x.ndim + count for k in axes):
        raise InputError(f"expand_dims at {user_line()}: expected axes within {x.ndim + count}, got {axis}.")
    return structural.expand_dims(x, axis=axes)


@implements(np.squeeze, method="squeeze")
def squeeze(x: Any, axis: Any = None) -> Any:
    axes = tuple(k for k, n in enumerate(x.shape) if n == 1) if axis is None else axes_of(x, axis, "squeeze")
    return structural.squeeze(x, axis=axes)


@implements(np.broadcast_to)
def broadcast_to(x: Any, shape: Any, subok: bool = False) -> Any:
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(int(n) for n in shape)
    return x if x.shape == shape else structural.broadcast_to(x, to=shape)


@implements(np.broadcast_arrays)
def broadcast_arrays(*arrays: Any, subok: bool = False) -> tuple[Any, ...]:
    shape = np.broadcast_shapes(*(np.shape(x) for x in arrays))
    return tuple(np.broadcast_to(x, shape) for x in arrays)


def _at_least(arrays: tuple[Any, ...], widen: Callable[[Any], Any]) -> Any:
    results = tuple(widen(x) for x in as_arrays(*arrays))
    return results[0] if len(results) == 1 else results


@implements(np.atleast_1d)
def atleast_1d(*arrays: Any) -> Any:
    return _at_least(arrays, lambda x: x if x.ndim else np.reshape(x, (1,)))


@implements(np.atleast_2d)
def atleast_2d(*arrays: Any) -> Any:
    return _at_least(arrays, lambda x: x if x.ndim > 1 else np.expand_dims(atleast_1d(x), 0))


@implements(np.atleast_3d)
def atleast_3d(*arrays: Any) -> Any:
    return _at_least(arrays, lambda x: x if x.ndim > 2 else np.expand_dims(atleast_2d(x), 2))


@implements(np.meshgrid)
def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> tuple[Any, ...]:
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid at {user_line()}: expected indexing='xy' or 'ij', got {indexing!r}")
    n = len(xi)
    grids = [np.reshape(x, (1,) * k + (-1,) + (1,) * (n - 1 - k)) for k, x in enumerate(as_arrays(*xi))]
    if indexing == "xy" and n > 1:
        grids = [np.swapaxes(grid, 0, 1) for grid in grids]
    return tuple(grids) if sparse else broadcast_arrays(*grids)


# -- order along axes --------------------------------------------------------------------------------------------------
@implements(np.flip)
def flip(x: Any, axis: Any = None) -> Any:
    return structural.flip(x, axis=axes_of(x, axis, "flip"))


@implements(np.fliplr)
def fliplr(m: Any) -> Any:
    return flip(m, 1)


@implements(np.flipud)
def flipud(m: Any) -> Any:
    return flip(m, 0)


@implements(np.rot90)
def rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Any:
    first, second = axes_of(m, axes, "rot90")
    if k % 4 == 0:
        return m
    if k % 4 == 2:
        return flip(m, (first, second))
    return flip(swapaxes(m, first, second), first) if k % 4 == 1 else swapaxes(flip(m, first), first, second)


@implements(np.roll)
def roll(x: Any, shift: Any, axis: Any = None) -> Any:
    if axis is None:
        return reshape(structural.roll(ravel(x), shift=int(np.sum(shift)), axis=0), x.shape)
    axes = normalised(axis, x.ndim)
    shifts = ([shift] * len(axes), axes) if isinstance(shift, int) else np.broadcast_arrays(shift, axes)
    for s, k in zip(*(map(int, each) for each in shifts), strict=True):
        x = structural.roll(x, shift=s, axis=axis_of(x, k, "roll"))
    return x


def along(x: Any, positions: Any, axis: int, pieces: int = 8) -> Any:
    """The entries at `positions` of an axis (integers, none negative), as slices where `pieces` of them will do.

    Slices are labels without data; other positions are data.
    """
    if isinstance(positions, Traced) and permutes(positions) and within(x) is None:
        some = in_order(x, positions, axis)
        if some is not None:
            return some
    repeats = x.shape[axis] == 1 != positions.size  # a sample, maybe: to broadcast it would be to mix it
    runs = _runs(positions, pieces) if positions.ndim == 1 and type(positions) is np.ndarray and not repeats else None
    if runs is None:
        return indexing.take(x, placed(positions, x), axis=axis)
    parts = [_run(x, positions[start:stop], axis) for start, stop in runs]
    return parts[0] if len(parts) == 1 else structural.concatenate(*parts, axis=axis)


FIRST = 64
"""Positions in which more runs than are wanted are looked for first."""


def _runs(positions: Any, most: int) -> list[tuple[int, int]] | None:
    """The stretches along which positions are equally spaced, or None where there are more than `most`.

    Beside other stretches, only neighbours make one: two far apart are equally spaced by chance.
    """
    if len(positions) > FIRST and _runs(positions[:FIRST], most) is None:  # their runs are the first of all
        return None
    steps = np.diff(positions)
    turns = np.flatnonzero(np.diff(steps)) + 1
    runs: list[tuple[int, int]] = []
    start, n = 0, len(positions)
    while start < n:
        if len(runs) == most:
            return None
        later = turns[np.searchsorted(turns, start, side="right") :]
        if start < n - 1 and len(turns) and abs(steps[start]) > 1:
            stop = start + 1
        else:
            stop = int(later[0]) + 1 if start < n - 1 and later.size else n
        runs.append((start, stop))
        start = stop
    return runs or [(0, 0)]


def _run(x: Any, positions: Any, axis: int) -> Any:
    n = len(positions)
    first, last = (int(positions[0]), int(positions[-1])) if n else (0, -1)
    step = (last - first) // (n - 1) if n > 1 else 1
    stop = last + (1 if step >= 0 else -1)
    piece = slice(first, stop if stop >= 0 else None, step or 1) if n else slice(0, 0)
    if not (first == 0 and step == 1 and n == x.shape[axis]):
        x = structural.getitem_basic(x, index=(*(WHOLE,) * axis, piece, *(WHOLE,) * (x.ndim - axis - 1)))
    return x if step else broadcast_to(x, (*x.shape[:axis], n, *x.shape[axis + 1 :]))


# -- diagonals and triangles -------------------------------------------------------------------------------------------
@implements(np.diagonal, method="diagonal")
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    first, second = axes_of(x, (axis1, axis2), "diagonal")
    return structural.diagonal(x, offset=offset, axis1=first, axis2=second)


@implements(np.trace, method="trace")
def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Any:
    return np.sum(diagonal(x, offset, axis1, axis2), -1, dtype=dtype)


@implements(np.diag)
def diag(v: Any, k: int = 0) -> Any:
    if v.ndim not in (1, 2):
        raise ValueError(f"diag at {user_line()}: expected one or two axes, got shape {v.shape}")
    return structural.embed_diagonal(v, offset=k) if v.ndim == 1 else diagonal(v, k)


@implements(np.diagflat)
def diagflat(v: Any, k: int = 0) -> Any:
    return structural.embed_diagonal(ravel(v), offset=k)


@implements(np.tril)
def tril(m: Any, k: int = 0) -> Any:
    return _triangle(m, lambda i, j: j - i <= k)


@implements(np.triu)
def triu(m: Any, k: int = 0) -> Any:
    return _triangle(m, lambda i, j: j - i >= k)


def _triangle(m: Any, kept: Callable[[Any, Any], Any]) -> Any:
    xp = namespace(m)
    rows, columns = m.shape[-2:] if m.ndim > 1 else m.shape * 2
    return elementwise.where(kept(xp.arange(rows)[:, None], xp.arange(columns)), m, 0.0)


@implements(np.vander)
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    if x.ndim != 1:
        raise ValueError(f"vander at {user_line()}: expected one axis, got shape {x.shape}")
    powers = namespace(x).arange(len(x) if N is None else N)
    return expand_dims(x, 1) ** (powers if increasing else powers[::-1])


@implements(np.resize)
def resize(a: Any, new_shape: Any) -> Any:
    """The entries over and over, until the new shape is full."""
    shape = (new_shape,) if isinstance(new_shape, int | np.integer) else tuple(new_shape)
    count = math.prod(shape)
    if a.size == 0:
        return np.zeros_like(a, shape=shape)
    return reshape(along(ravel(a), np.arange(count) % a.size, 0), shape)


@implements(method="resize")
def resize_in_place(x: Any, *shape: Any, refcheck: bool = True) -> Any:
    raise MutationError(
        f"x.resize() at {user_line()}: a traced value keeps its shape. Write `y = x.reshape(shape)`, or "
        "np.resize(x, shape) for another size."
    )
