"""Functions of NumPy that join arrays, take them apart, repeat and pad them, on traced values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ..backend import check_operand, lacking, namespace, placed, value_of
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..ops import convolution, structural
from ..ops.structural import normalised
from ..tape.traced import Traced
from .pointwise import astype
from .positions import WHOLE
from .protocol import FUNCTIONS, as_array, as_arrays, axis_of, implements, refuse
from .shape import along, atleast_1d, atleast_2d, atleast_3d, broadcast_to, expand_dims, ravel

# -- join --------------------------------------------------------------------------------------------------------------
WIDEST = 64
"""Parts that one operation joins: the derivative of each looks at all that are beside it."""


@implements(np.concatenate)
def concatenate(
    arrays: Sequence[Any], axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: Any = None
) -> Any:
    parts = as_arrays(*arrays)
    if axis is None:
        parts, axis = [np.reshape(x, (-1,)) for x in parts], 0
    place = axis_of(parts[0], axis, "concatenate")
    while len(parts) > WIDEST:
        parts = [structural.concatenate(*parts[n : n + WIDEST], axis=place) for n in range(0, len(parts), WIDEST)]
    result = structural.concatenate(*parts, axis=place)
    return result if dtype is None else astype(result, dtype)


FUNCTIONS[np.concat] = concatenate


@implements(np.stack)
def stack(arrays: Sequence[Any], axis: int = 0, out: Any = None, *, dtype: Any = None, casting: Any = None) -> Any:
    parts = as_arrays(*arrays)
    place = normalised(axis, parts[0].ndim + 1)[0]
    return concatenate([expand_dims(x, place) for x in parts], place, dtype=dtype)


def _widened(arrays: Sequence[Any], widen: Callable[..., Any]) -> list[Any]:
    return [widen(x) for x in as_arrays(*arrays)]


@implements(np.hstack)
def hstack(tup: Sequence[Any], *, dtype: Any = None, casting: Any = None) -> Any:
    parts = _widened(tup, atleast_1d)
    return concatenate(parts, 0 if parts[0].ndim == 1 else 1, dtype=dtype)


@implements(np.vstack)
def vstack(tup: Sequence[Any], *, dtype: Any = None, casting: Any = None) -> Any:
    return concatenate(_widened(tup, atleast_2d), 0, dtype=dtype)


@implements(np.dstack)
def dstack(tup: Sequence[Any]) -> Any:
    return concatenate(_widened(tup, atleast_3d), 2)


@implements(np.column_stack)
def column_stack(tup: Sequence[Any]) -> Any:
    return concatenate([x if x.ndim > 1 else np.reshape(x, (-1, 1)) for x in as_arrays(*tup)], 1)


@implements(np.block)
def block(arrays: Any) -> Any:
    arrays = _placed(arrays, _leaves(arrays))
    depth = _depth(arrays)
    width = max(_widest(arrays), depth)
    return _block(arrays, depth, width)


def _placed(arrays: Any, leaves: list[Any]) -> Any:
    return [_placed(x, leaves) for x in arrays] if isinstance(arrays, list) else as_array(arrays, *leaves)


def _leaves(arrays: Any) -> list[Any]:
    return [leaf for part in arrays for leaf in _leaves(part)] if isinstance(arrays, list) else [arrays]


def _depth(arrays: Any) -> int:
    return 1 + _depth(arrays[0]) if isinstance(arrays, list) else 0


def _widest(arrays: Any) -> int:
    return max(map(_widest, arrays)) if isinstance(arrays, list) else np.ndim(arrays)


def _block(arrays: Any, depth: int, width: int) -> Any:
    """The innermost lists are joined along the last axis, those around them along the one before, and so on."""
    if isinstance(arrays, list):
        return concatenate([_block(x, depth - 1, width) for x in arrays], width - depth)
    return _in_front(arrays, width)


def _in_front(x: Any, ndim: int) -> Any:
    """New axes in front, up to `ndim`."""
    return x if x.ndim >= ndim else np.expand_dims(x, tuple(range(ndim - x.ndim)))


@implements(np.append)
def append(arr: Any, values: Any, axis: int | None = None) -> Any:
    return concatenate((arr, values), axis)


# -- take apart --------------------------------------------------------------------------------------------------------
@implements(np.array_split)
def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    axis = axis_of(ary, axis, "array_split")
    n = ary.shape[axis]
    if np.ndim(indices_or_sections) == 0:
        count = int(indices_or_sections)
        if count <= 0:
            raise ValueError(f"array_split at {user_line()}: expected a number of sections above 0, got {count}")
        sizes = [n // count + (k < n % count) for k in range(count)]
        cuts = np.cumsum(sizes)[:-1].tolist()
    else:
        cuts = [int(cut) for cut in indices_or_sections]
    return [ary[(*(WHOLE,) * axis, slice(a, b))] for a, b in zip([0, *cuts], [*cuts, n], strict=True)]


@implements(np.split)
def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    if np.ndim(indices_or_sections) == 0:
        n = ary.shape[axis_of(ary, axis, "split")]
        if n % int(indices_or_sections):
            raise ValueError(
                f"split at {user_line()}: {n} entries do not divide into {indices_or_sections} equal parts"
            )
    return array_split(ary, indices_or_sections, axis)


@implements(np.hsplit)
def hsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    return split(ary, indices_or_sections, 1 if ary.ndim > 1 else 0)


@implements(np.vsplit)
def vsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    return split(ary, indices_or_sections, 0)


@implements(np.dsplit)
def dsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    return split(ary, indices_or_sections, 2)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    axis = axis_of(x, axis, "unstack")
    return tuple(x[(*(WHOLE,) * axis, k)] for k in range(x.shape[axis]))


if hasattr(np, "unstack"):  # came with NumPy 2.1
    FUNCTIONS[np.unstack] = unstack


@implements(np.delete)
def delete(arr: Any, obj: Any, axis: int | None = None) -> Any:
    arr, axis = (ravel(arr), 0) if axis is None else (arr, axis_of(arr, axis, "delete"))
    obj = _plain(obj)
    return along(arr, np.delete(namespace(obj).arange(arr.shape[axis]), obj), axis)


@implements(np.insert)
def insert(arr: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    arr = as_array(arr)
    arr, axis = (np.ravel(arr), 0) if axis is None else (arr, axis_of(arr, axis, "insert"))
    obj = _plain(obj)
    if namespace(obj) is not np:
        raise lacking("numpy.insert with positions on the GPU")
    n = arr.shape[axis]
    values = _in_front(as_array(values, arr), arr.ndim)
    if np.ndim(obj) == 0 and not isinstance(obj, slice):
        values = np.moveaxis(values, 0, axis)  # as NumPy has it: one place takes all entries of the first axis
        count = values.shape[axis]
    else:
        count = len(np.insert(np.arange(n), obj, 0)) - n
    values = astype(values, arr.dtype) if isinstance(values, Traced) else values.astype(arr.dtype)
    values = np.broadcast_to(values, (*arr.shape[:axis], count, *arr.shape[axis + 1 :]))
    order = np.insert(np.arange(n), obj, np.arange(n, n + count))
    return along(concatenate((arr, values), axis), order, axis)


def _plain(x: Any) -> Any:
    """Positions as a plain array; those that a program computes are refused."""
    plain = value_of(x)
    return np.asarray(plain) if isinstance(plain, Traced) else plain


# -- repeat ------------------------------------------------------------------------------------------------------------
@implements(np.tile)
def tile(A: Any, reps: Any) -> Any:
    reps = tuple(int(n) for n in np.atleast_1d(reps))
    ndim = max(A.ndim, len(reps))
    reps = (1,) * (ndim - len(reps)) + reps
    x = _in_front(A, ndim)
    for axis, times in enumerate(reps):
        if times != 1:
            x = _copies(x, axis, axis, times)
    return x


@implements(np.repeat, method="repeat")
def repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    a, axis = (ravel(a), 0) if axis is None else (a, axis_of(a, axis, "repeat"))
    if np.size(repeats) == 1:
        return _copies(a, axis, axis + 1, int(np.reshape(repeats, ())))
    return along(a, np.repeat(np.arange(a.shape[axis]), repeats), axis)


def _copies(x: Any, axis: int, new: int, times: int) -> Any:
    """Copies along a new axis, in front of `axis` or behind it, which is then merged with that."""
    wide = np.expand_dims(x, new)
    wide = broadcast_to(wide, (*wide.shape[:new], times, *wide.shape[new + 1 :]))
    return np.reshape(wide, (*x.shape[:axis], times * x.shape[axis], *x.shape[axis + 1 :]))


# -- windows ---------------------------------------------------------------------------------------------------------
@implements(np.lib.stride_tricks.sliding_window_view)
def sliding_window_view(
    x: Any, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False
) -> Any:
    """A copy: NumPy's is a view, which is read-only unless asked otherwise."""
    refuse("sliding_window_view", writeable=writeable or None)
    kernel = tuple(int(n) for n in np.atleast_1d(window_shape))
    axes = tuple(range(x.ndim)) if axis is None else normalised(axis, x.ndim)
    if len(axes) != len(kernel) or len(set(axes)) < len(axes):
        raise UnsupportedOperationError(
            f"sliding_window_view at {user_line()}: expected one window length for each of some different axes, got "
            f"{kernel} along {axes}."
        )
    last, n = tuple(range(x.ndim - len(axes), x.ndim)), len(axes)
    ones = (1,) * n
    windows = convolution.patches(np.moveaxis(x, axes, last), kernel=kernel, stride=ones, dilation=ones)
    ends = tuple(range(x.ndim, x.ndim + n))
    return np.moveaxis(windows, (*last, *ends), (*ends, *axes))


# -- pad ---------------------------------------------------------------------------------------------------------------
BY_POSITION = ("edge", "reflect", "symmetric", "wrap")
BY_STATISTIC = {"maximum": np.max, "mean": np.mean, "median": np.median, "minimum": np.min}


@implements(np.pad)
def pad(array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Any:
    x = array
    widths = _pad_widths(pad_width, x.ndim)
    constant = kwargs.get("constant_values", 0)
    if mode == "constant" and not isinstance(constant, Traced):
        check_operand("numpy.pad", np.asarray(constant))
        return structural.pad(x, pad_width=widths, constant=constant)
    if mode not in BY_POSITION and mode not in BY_STATISTIC and mode != "linear_ramp":
        raise UnsupportedOperationError(
            f"numpy.pad at {user_line()}: got mode={mode!r}, {kwargs}. Expected constant, edge, reflect, symmetric, "
            "wrap, linear_ramp, maximum, mean, median, minimum, and constants without a derivative. Write others with "
            "np.concatenate."
        )
    for axis, (before, after) in enumerate(widths):
        if before or after:
            x = _pad_axis(x, axis, before, after, mode, kwargs)
    return x


def _pad_widths(pad_width: Any, ndim: int) -> tuple[tuple[int, int], ...]:
    if isinstance(pad_width, dict):
        pairs = [pad_width.get(k, pad_width.get(k - ndim, 0)) for k in range(ndim)]
        rows = [np.broadcast_to(np.asarray(pair), 2).tolist() for pair in pairs]
    else:
        rows = np.broadcast_to(np.asarray(pad_width), (ndim, 2)).tolist()
    return tuple((int(before), int(after)) for before, after in rows)


def _pad_odd(x: Any, axis: int, before: int, after: int, mode: str) -> Any:
    """Twice the edge less what is reflected; wider than the array, as NumPy has it, by a matrix."""
    n = x.shape[axis]
    if max(before, after) > n - (mode == "reflect"):
        matrix: Any = np.pad(np.eye(n), ((0, 0), (before, after)), cast(Any, mode), reflect_type="odd")
        matrix = placed(matrix.astype(x.dtype), x)
        return np.moveaxis(np.moveaxis(x, axis, -1) @ matrix, -1, axis)
    positions = np.pad(np.arange(n), (before, after), cast(Any, mode))
    lead = (WHOLE,) * axis
    left = 2.0 * x[(*lead, slice(0, 1))] - along(x, positions[:before], axis)
    right = 2.0 * x[(*lead, slice(n - 1, n))] - along(x, positions[before + n :], axis)
    return structural.concatenate(left, x, right, axis=axis)


def _pad_axis(x: Any, axis: int, before: int, after: int, mode: str, kwargs: dict[str, Any]) -> Any:
    n = x.shape[axis]
    if kwargs.get("reflect_type", "even") == "odd":
        return _pad_odd(x, axis, before, after, mode)
    if mode in BY_POSITION:
        return along(x, np.pad(np.arange(n), (before, after), cast(Any, mode)), axis)
    key = "end_values" if mode == "linear_ramp" else "stat_length"
    default = 0 if mode == "linear_ramp" else None
    given: Any = kwargs.get(key, default)
    ends: Any = np.broadcast_to(np.asarray(given), (x.ndim, 2))[axis]
    sides = [(before, x[(*(WHOLE,) * axis, slice(0, 1))]), (after, x[(*(WHOLE,) * axis, slice(n - 1, n))])]
    if mode != "linear_ramp":
        lengths = [n if length is None else min(int(length), n) for length in ends]
        pieces = (slice(0, lengths[0]), slice(n - lengths[1], n))
        stat: Any = BY_STATISTIC[mode]
        sides = [
            (width, stat(x[(*(WHOLE,) * axis, piece)], axis=axis, keepdims=True))
            for (width, _), piece in zip(sides, pieces, strict=True)
        ]
        left, right = (broadcast_to(value, (*x.shape[:axis], width, *x.shape[axis + 1 :])) for width, value in sides)
    else:
        along_axis = (-1,) + (1,) * (x.ndim - axis - 1)
        xp = namespace(x)
        steps = [xp.linspace(0.0, 1.0, width, endpoint=False).astype(x.dtype) for width, _ in sides]
        rising = [steps[0].reshape(along_axis), steps[1][::-1].reshape(along_axis)]
        left, right = (
            t * value + (1.0 - t) * end for t, (_, value), end in zip(rising, sides, ends.tolist(), strict=True)
        )
    return structural.concatenate(left, x, right, axis=axis)
