"""Functions of NumPy that change shapes and move entries, on traced values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, UnsupportedOperationError
from ..ops import structural
from ..ops.structural import normalised
from ..tape import user_line
from .pointwise import astype
from .protocol import FUNCTIONS, METHODS, as_array, axes_of, axis_of, implements
from .reductions import sum


@implements(np.reshape)
def reshape(x: Any, /, shape: Any = None, order: str = "C", *, newshape: Any = None, copy: Any = None) -> Any:
    shape = newshape if shape is None else shape
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    if order in ("F",):
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
    return reshape(x, (-1,), order)


METHODS["flatten"] = ravel


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


if hasattr(np, "permute_dims"):
    FUNCTIONS[np.permute_dims] = transpose
if hasattr(np, "matrix_transpose"):
    FUNCTIONS[np.matrix_transpose] = lambda x: swapaxes(x, -1, -2)


@implements(np.swapaxes, method="swapaxes")
def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    axes = list(range(x.ndim))
    i, j = axis_of(x, axis1, "swapaxes"), axis_of(x, axis2, "swapaxes")
    axes[i], axes[j] = axes[j], axes[i]
    return structural.transpose(x, axes=tuple(axes))


@implements(np.moveaxis)
def moveaxis(x: Any, source: Any, destination: Any) -> Any:
    moved, to = axes_of(x, source, "moveaxis"), axes_of(x, destination, "moveaxis")
    order = [k for k in range(x.ndim) if k not in moved]
    for target, k in sorted(zip(to, moved, strict=True)):
        order.insert(target, k)
    return structural.transpose(x, axes=tuple(order))


@implements(np.expand_dims)
def expand_dims(x: Any, axis: Any) -> Any:
    count = 1 if isinstance(axis, int | np.integer) else len(axis)
    return structural.expand_dims(x, axis=normalised(axis, x.ndim + count))


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


@implements(np.concatenate)
def concatenate(
    arrays: Sequence[Any], axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: Any = None
) -> Any:
    parts = [as_array(x) for x in arrays]
    if axis is None:
        parts, axis = [x.reshape(-1) for x in parts], 0
    result = structural.concatenate(*parts, axis=normalised(axis, parts[0].ndim)[0])
    return result if dtype is None else astype(result, dtype)


if hasattr(np, "concat"):
    FUNCTIONS[np.concat] = concatenate


@implements(np.stack)
def stack(arrays: Sequence[Any], axis: int = 0, out: Any = None, *, dtype: Any = None, casting: Any = None) -> Any:
    parts = [as_array(x) for x in arrays]
    place = normalised(axis, parts[0].ndim + 1)[0]
    return concatenate([np.expand_dims(x, place) for x in parts], place, dtype=dtype)


@implements(np.pad)
def pad(x: Any, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0) -> Any:
    if mode != "constant" or np.ndim(constant_values) != 0:
        raise UnsupportedOperationError(
            f"numpy.pad at {user_line()}: expected mode='constant' with one constant, got mode={mode!r}. Write other "
            "modes with np.concatenate."
        )
    widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()
    return structural.pad(x, pad_width=tuple((a, b) for a, b in widths), constant=constant_values)


@implements(np.flip)
def flip(x: Any, axis: Any = None) -> Any:
    return structural.flip(x, axis=axes_of(x, axis, "flip"))


@implements(np.roll)
def roll(x: Any, shift: Any, axis: Any = None) -> Any:
    if axis is None:
        return reshape(structural.roll(ravel(x), shift=int(shift), axis=0), x.shape)
    axes = axes_of(x, axis, "roll")
    shifts = np.broadcast_to(np.asarray(shift), (len(axes),)).tolist()
    for s, k in zip(shifts, axes, strict=True):
        x = structural.roll(x, shift=s, axis=k)
    return x


@implements(np.diagonal, method="diagonal")
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return structural.diagonal(
        x, offset=offset, axis1=axis_of(x, axis1, "diagonal"), axis2=axis_of(x, axis2, "diagonal")
    )


@implements(np.trace, method="trace")
def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Any:
    return sum(diagonal(x, offset, axis1, axis2), -1, dtype=dtype)
