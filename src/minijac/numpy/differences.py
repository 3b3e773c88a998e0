"""Differences, gradients and integrals of sampled functions, spaced numbers and covariances, on traced values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import namespace, on_host, value_of
from ..errors import InputError
from ..lines import user_line
from ..ops import elementwise
from .pointwise import conj
from .positions import WHOLE
from .protocol import as_array, as_arrays, axes_of, axis_of, implements


def between(x: Any, axis: int, start: int | None, stop: int | None) -> Any:
    return x[(*(WHOLE,) * axis, slice(start, stop))]


@implements(np.diff)
def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = np._NoValue, append: Any = np._NoValue) -> Any:
    x = as_array(a, prepend, append)
    axis = axis_of(x, axis, "diff")
    ends = []
    for end in (prepend, append):
        end = None if end is np._NoValue else as_array(end, x)
        if end is not None and end.ndim == 0:
            end = np.broadcast_to(end, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
        ends.append(end)
    if n and (ends[0] is not None or ends[1] is not None):
        x = np.concatenate([part for part in (ends[0], x, ends[1]) if part is not None], axis)
    for _ in range(n):
        x = between(x, axis, 1, None) - between(x, axis, None, -1)
    return x


@implements(np.ediff1d)
def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    ends = [[] if end is None else [np.ravel(as_array(end, ary)).astype(ary.dtype)] for end in (to_begin, to_end)]
    return np.concatenate([*ends[0], diff(np.ravel(ary)), *ends[1]])


@implements(np.trapezoid)
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    y = as_array(y, x)
    axis = axis_of(y, axis, "trapezoid")
    if x is None:
        steps = dx
    else:
        x = as_array(x, y)
        steps = diff(x, axis=0 if x.ndim == 1 else axis)
        if x.ndim == 1:
            steps = np.reshape(steps, (-1,) + (1,) * (y.ndim - axis - 1))
    return np.sum(steps * (between(y, axis, 1, None) + between(y, axis, None, -1)) / 2.0, axis)


@implements(np.gradient)
def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    f = as_array(f, *varargs)
    axes = axes_of(f, axis, "gradient")
    spacings = list(varargs) or [1.0]
    spacings = spacings * len(axes) if len(spacings) == 1 and np.ndim(spacings[0]) == 0 else spacings
    if len(spacings) != len(axes):
        raise TypeError(
            f"gradient at {user_line()}: expected one spacing for each of {len(axes)} axes, got {len(spacings)}"
        )
    results = [_gradient_along(f, k, _steps(h, f, k), edge_order) for k, h in zip(axes, spacings, strict=True)]
    return results[0] if len(results) == 1 else tuple(results)


def _steps(spacing: Any, f: Any, axis: int) -> Any:
    """The distances of neighbours along an axis, broadcastable to the rest, or one distance for all."""
    if f.shape[axis] < 2:
        raise ValueError(f"gradient at {user_line()}: expected at least two entries along axis {axis}, got {f.shape}")
    if np.ndim(spacing) == 0:
        return spacing
    spacing = as_array(spacing, f)
    if np.shape(spacing) != (f.shape[axis],):
        raise ValueError(
            f"gradient at {user_line()}: expected {f.shape[axis]} coordinates along axis {axis}, got {spacing.shape}"
        )
    return np.reshape(diff(spacing), (-1,) + (1,) * (f.ndim - axis - 1))


def _gradient_along(f: Any, axis: int, h: Any, edge_order: int) -> Any:
    """Second order inside, and of `edge_order` at the ends: numpy.gradient's formulas, for steps that may differ."""
    n = f.shape[axis]
    if edge_order not in (1, 2) or n < edge_order + 1:
        raise ValueError(f"gradient at {user_line()}: edge_order={edge_order} does not fit {n} entries")
    even = np.ndim(h) == 0

    def step(k: int) -> Any:
        return h if even else h[k : k + 1 or None]

    def at(k: int) -> Any:
        return between(f, axis, k, k + 1 or None)

    inside = []
    if n > 2:
        left, middle, right = between(f, axis, None, -2), between(f, axis, 1, -1), between(f, axis, 2, None)
        if even:
            inside = [(right - left) / (2.0 * h)]
        else:
            a, b = h[:-1], h[1:]
            inside = [-b / (a * (a + b)) * left + (b - a) / (a * b) * middle + a / (b * (a + b)) * right]
    if edge_order == 1:
        first, last = (at(1) - at(0)) / step(0), (at(-1) - at(-2)) / step(-1)
    else:
        first = _one_sided(at(0), at(1), at(2), step(0), step(1))
        last = -_one_sided(at(-1), at(-2), at(-3), step(-1), step(-2))
    result = np.concatenate([first, *inside, last], axis)
    return result.astype(f.dtype) if f.dtype.kind == "f" else result


def _one_sided(f0: Any, f1: Any, f2: Any, a: Any, b: Any) -> Any:
    return -(2.0 * a + b) / (a * (a + b)) * f0 + (a + b) / (a * b) * f1 - a / (b * (a + b)) * f2


@implements(np.unwrap)
def unwrap(p: Any, discont: float | None = None, axis: int = -1, *, period: float = 2.0 * np.pi) -> Any:
    return elementwise.unwrap(p, axis=axis_of(p, axis, "unwrap"), discont=discont, period=period)


# -- spaced numbers ----------------------------------------------------------------------------------------------------
@implements(np.linspace)
def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
    *,
    device: Any = None,
) -> Any:
    start, stop = as_arrays(start, stop)
    intervals = num - 1 if endpoint else num
    step = (stop - start) / intervals if intervals > 0 else (stop - start) * np.nan
    t = (namespace(step).arange(num) / max(intervals, 1)).reshape((-1,) + (1,) * step.ndim).astype(step.dtype)
    y = (1.0 - t) * start + t * stop
    y = np.moveaxis(y, 0, axis) if axis else y
    y = y if dtype is None else y.astype(dtype)
    return (y, step) if retstep else y


@implements(np.logspace)
def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, dtype: Any = None, axis: int = 0
) -> Any:
    y = np.power(
        base if np.ndim(base) == 0 else np.expand_dims(base, axis), np.linspace(start, stop, num, endpoint, axis=axis)
    )
    return y if dtype is None else y.astype(dtype)


@implements(np.geomspace)
def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0) -> Any:
    start, stop = as_arrays(start, stop)
    sign = np.sign(value_of(start))
    if on_host(sign) and not np.all(sign * value_of(stop) > 0):
        raise InputError(f"geomspace at {user_line()}: expected start and stop of one sign, neither of them zero.")
    exponents = np.linspace(np.log(sign * start), np.log(sign * stop), num, endpoint, axis=axis)
    y = (sign if sign.ndim == 0 else np.expand_dims(sign, axis)) * np.exp(exponents)
    return y.astype(np.float64 if dtype is None else dtype)


# -- covariances -------------------------------------------------------------------------------------------------------
@implements(np.cov)
def cov(
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    *,
    dtype: Any = None,
) -> Any:
    x = _variables(as_array(m, y), rowvar)
    if y is not None:
        x = np.concatenate([x, _variables(as_array(y, x), rowvar)], 0)
    x = x.astype(np.result_type(x.dtype, np.float64) if dtype is None else dtype)
    ddof = (0 if bias else 1) if ddof is None else ddof
    fweights, aweights = (None if given is None else as_array(given, x) for given in (fweights, aweights))
    weights: Any = aweights if fweights is None else fweights if aweights is None else fweights * aweights
    if weights is None:
        total: Any = x.shape[1]
        centred = x - np.mean(x, axis=1, keepdims=True)
        result = centred @ conj(centred).T
        freedom = total - ddof
    else:
        total = np.sum(weights)
        centred = x - np.expand_dims(np.sum(x * weights, axis=1) / total, 1)
        result = (centred * weights) @ conj(centred).T
        spread = 0.0 if ddof == 0 else ddof * (np.sum(weights * aweights) / total if aweights is not None else 1.0)
        freedom = total - spread
    return np.squeeze(result / freedom)


def _variables(m: Any, rowvar: bool) -> Any:
    x = np.atleast_2d(as_array(m))
    return x if rowvar or x.shape[0] == 1 else x.T


@implements(np.corrcoef)
def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Any:
    c = cov(x, y, rowvar, dtype=dtype)
    if c.ndim == 0:
        return c / c
    scale = np.sqrt(np.real(np.diagonal(c)))
    return c / np.expand_dims(scale, 1) / scale
