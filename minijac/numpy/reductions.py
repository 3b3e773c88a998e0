"""Reductions of NumPy on traced values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UnsupportedOperationError
from ..ops import indexing, structural
from ..tape import user_line
from .pointwise import astype
from .protocol import NOTHING, axes_of, flag, implements, refuse


@implements(np.sum, method="sum")
def sum(
    x: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = None,
    where: Any = None,
) -> Any:
    refuse("sum", initial=initial, where=where)
    x = x if dtype is None else astype(x, dtype)
    return structural.sum(x, axis=axes_of(x, axis, "sum"), keepdims=flag(keepdims))


@implements(np.mean, method="mean")
def mean(
    x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = None
) -> Any:
    refuse("mean", where=where)
    x = x if dtype is None else astype(x, dtype)
    return structural.mean(x, axis=axes_of(x, axis, "mean"), keepdims=flag(keepdims))


@implements(np.var, method="var")
def var(
    x: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: Any = 0,
    keepdims: Any = False,
    *,
    where: Any = None,
    mean: Any = None,
    correction: Any = None,
) -> Any:
    refuse("var", where=where, mean=mean)
    x = x if dtype is None else astype(x, dtype)
    axes = axes_of(x, axis, "var")
    count = 1
    for k in axes:
        count *= x.shape[k]
    centred = x - structural.mean(x, axis=axes, keepdims=True)
    ddof = ddof if correction in NOTHING else correction
    return structural.sum(centred * centred, axis=axes, keepdims=flag(keepdims)) / (count - ddof)


@implements(np.std, method="std")
def std(
    x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, **kwargs: Any
) -> Any:
    v = var(x, axis, dtype, None, ddof, keepdims, **kwargs)
    # a constant has standard deviation zero, and there the derivative that neither side contradicts is zero
    flat = v == 0
    return np.where(flat, 0.0, np.sqrt(np.where(flat, 1.0, v)))


@implements(np.max, np.amax, method="max")
def max(
    x: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = None
) -> Any:
    refuse("max", initial=initial, where=where)
    return indexing.max(x, axis=axes_of(x, axis, "max"), keepdims=flag(keepdims))


@implements(np.min, np.amin, method="min")
def min(
    x: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = None
) -> Any:
    refuse("min", initial=initial, where=where)
    return indexing.min(x, axis=axes_of(x, axis, "min"), keepdims=flag(keepdims))


@implements(np.ptp)
def ptp(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return max(x, axis, keepdims=keepdims) - min(x, axis, keepdims=keepdims)


@implements(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    if ord not in (None, 2, "fro") or (ord == 2 and axis is None and x.ndim != 1):
        raise UnsupportedOperationError(f"numpy.linalg.norm at {user_line()}: ord={ord!r} has no derivative here yet.")
    squares = structural.sum(x * x, axis=axes_of(x, axis, "norm"), keepdims=keepdims)
    zero = squares == 0  # the norm's kink: derivative zero there
    return np.where(zero, 0.0, np.sqrt(np.where(zero, 1.0, squares)))
