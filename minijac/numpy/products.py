"""Products of NumPy on traced values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UnsupportedOperationError
from ..ops import multilinear
from ..tape import user_line
from .protocol import as_array, axes_of, implements, refuse
from .reductions import sum


@implements()
def matmul(a: Any, b: Any) -> Any:
    if not getattr(a, "shape", ()) or not getattr(b, "shape", ()):
        raise ValueError(
            f"matmul at {user_line()}: expected operands with axes, got shapes {np.shape(a)}, {np.shape(b)}"
        )
    return multilinear.matmul(a, b)


@implements(np.einsum)
def einsum(subscripts: Any, *operands: Any, out: Any = None, optimize: Any = None, **kwargs: Any) -> Any:
    if not isinstance(subscripts, str):
        raise UnsupportedOperationError(
            f"numpy.einsum at {user_line()}: expected subscripts as a string such as 'bi,ij->bj', got a list form."
        )
    refuse("einsum", **{key: value for key, value in kwargs.items() if key in ("dtype", "casting")})
    arrays = [as_array(x) for x in operands]
    return multilinear.einsum(*arrays, subscripts=multilinear.parse_einsum(subscripts, len(arrays)))


@implements(np.dot, method="dot")
def dot(a: Any, b: Any, out: Any = None) -> Any:
    a, b = as_array(a), as_array(b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    if b.ndim <= 2:
        return multilinear.matmul(a, b)
    return np.tensordot(a, b, axes=(-1, -2))


@implements(np.outer)
def outer(a: Any, b: Any, out: Any = None) -> Any:
    return np.reshape(a, (-1, 1)) * np.reshape(b, (1, -1))


@implements(np.inner)
def inner(a: Any, b: Any) -> Any:
    a, b = as_array(a), as_array(b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    return np.tensordot(a, b, axes=(-1, -1))


@implements(np.vdot)
def vdot(a: Any, b: Any) -> Any:
    return sum(np.ravel(a) * np.ravel(b))


@implements(np.tensordot)
def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    a, b = as_array(a), as_array(b)
    if isinstance(axes, int | np.integer):
        left, right = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    else:
        left, right = axes_of(a, axes[0], "tensordot"), axes_of(b, axes[1], "tensordot")
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    first = list(letters[: a.ndim])
    second = list(letters[a.ndim : a.ndim + b.ndim])
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    free = [c for k, c in enumerate(first) if k not in left] + [c for k, c in enumerate(second) if k not in right]
    return einsum(f"{''.join(first)},{''.join(second)}->{''.join(free)}", a, b)
