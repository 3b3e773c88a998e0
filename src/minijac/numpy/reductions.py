"""Reductions and running reductions of NumPy on traced values, those that pass over NaN among them."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import is_complex, namespace, on_host, placed, value_of
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..ops import elementwise, indexing, structural
from ..tape.traced import Traced
from .pointwise import abs_squared, astype
from .positions import WHOLE
from .protocol import FUNCTIONS, absent, as_array, axes_of, axis_of, flag, implements, number_of, refuse


def _axes(x: Any, axis: Any, name: str) -> tuple[int, ...]:
    """The axes of a ufunc's reduction: NumPy lets a number have the axis 0, too."""
    return () if x.ndim == 0 and axis in (0, -1) else axes_of(x, axis, name)


def chosen(x: Any, where: Any, otherwise: float) -> Any:
    """The entries that `where` chooses; the others take no part, in the value nor in any derivative."""
    if absent(where) or where is True:
        return x
    if np.broadcast_shapes(np.shape(where), x.shape) != x.shape:
        raise ValueError(f"where= at {user_line()}: expected a mask for shape {x.shape}, got one of {np.shape(where)}")
    return np.where(where, x, otherwise)


def begun(function: Any, y: Any, initial: Any) -> Any:
    """A reduction with what it starts from."""
    return y if absent(initial) else function(y, initial)


# -- sums and moments --------------------------------------------------------------------------------------------------
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
    x = chosen(x if dtype is None else astype(x, dtype), where, 0.0)
    return begun(np.add, structural.sum(x, axis=_axes(x, axis, "sum"), keepdims=flag(keepdims)), initial)


@implements(np.mean, method="mean")
def mean(
    x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = None
) -> Any:
    x, axes = x if dtype is None else astype(x, dtype), axes_of(x, axis, "mean")
    if absent(where) or where is True:
        return structural.mean(x, axis=axes, keepdims=flag(keepdims))
    return sum(x, axes, keepdims=keepdims, where=where) / _count(x, axes, keepdims, where)


def _count(x: Any, axes: tuple[int, ...], keepdims: Any, where: Any) -> Any:
    """How many entries are chosen along the axes: a number, or an array of x's dtype."""
    if absent(where) or where is True:
        return math.prod(x.shape[k] for k in axes)
    where = np.broadcast_to(as_array(where, x), x.shape)
    return astype(np.count_nonzero(where, axis=axes, keepdims=flag(keepdims)), x.dtype)


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
    x = x if dtype is None else astype(x, dtype)
    axes = axes_of(x, axis, "var")
    if absent(mean):
        mean = _mean(x, axes, keepdims=True, where=where)
    freedom = np.real(_count(x, axes, keepdims, where)) - (ddof if absent(correction) else correction)
    if _is_single(x, axes, where) and freedom == 1 and mean.shape == x.shape:
        return structural.sum(np.real(x) * 0.0, axis=axes, keepdims=flag(keepdims))
    centred = x - mean
    squares = sum(abs_squared(centred), axes, keepdims=keepdims, where=where)
    return squares / (np.maximum(freedom, 0) if np.ndim(freedom) else builtins.max(freedom, 0))


_mean = mean


def _is_single(x: Any, axes: tuple[int, ...], where: Any) -> bool:
    """Whether every entry is alone: then it does not differ from its mean, whatever it is."""
    return (absent(where) or where is True) and all(x.shape[k] == 1 for k in axes)


@implements(np.std, method="std")
def std(
    x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, **kwargs: Any
) -> Any:
    variance = var(x, axis, dtype, None, ddof, keepdims, **kwargs)
    return variance if _is_single(x, axes_of(x, axis, "std"), kwargs.get("where")) else elementwise.length(variance)


@implements(np.average)
def average(a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False) -> Any:
    a = as_array(a, weights)
    axes = axes_of(a, axis, "average")
    if weights is None:
        result = np.mean(a, axis=axes, keepdims=flag(keepdims))
        total: Any = namespace(a).full(result.shape, a.size / builtins.max(result.size, 1), result.dtype)
    else:
        weights = as_array(weights, a)
        if weights.shape != a.shape:
            if weights.shape != tuple(a.shape[k] for k in axes):
                raise ValueError(
                    f"average at {user_line()}: expected weights of the shape of a, {a.shape}, or of the axes averaged "
                    f"over, got {weights.shape}"
                )
            order = np.argsort(axes).tolist()
            weights = np.expand_dims(np.transpose(weights, order), [k for k in range(a.ndim) if k not in axes])
        weights = np.broadcast_to(weights, a.shape)
        total = np.sum(weights, axis=axes, keepdims=flag(keepdims))
        result = np.sum(a * weights, axis=axes, keepdims=flag(keepdims)) / total
    return (result, total) if returned else result


# -- products ----------------------------------------------------------------------------------------------------------
@implements(np.prod, method="prod")
def prod(
    x: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = None,
    where: Any = None,
) -> Any:
    """Products of halves: the derivative is the product of the other entries, without a division, zero or not."""
    x = chosen(x if dtype is None else astype(x, dtype), where, 1.0)
    axes = _axes(x, axis, "prod")
    return begun(np.multiply, fold(np.multiply, x, axes, keepdims, 1.0), initial)


def fold(function: Any, x: Any, axes: tuple[int, ...], keepdims: Any, neutral: float) -> Any:
    for k in axes:
        x = _folded(function, x, k, neutral)
    return x if flag(keepdims) or not axes else structural.squeeze(x, axis=axes)


def _folded(function: Any, x: Any, axis: int, neutral: float) -> Any:
    lead = (WHOLE,) * axis
    if x.shape[axis] == 0:
        return namespace(x).full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), neutral, x.dtype)
    while (n := x.shape[axis]) > 1:
        half = n // 2
        halves = function(x[(*lead, slice(0, half))], x[(*lead, slice(half, 2 * half))])
        x = structural.concatenate(halves, x[(*lead, slice(n - 1, n))], axis=axis) if n % 2 else halves
    return x


@implements(np.cumprod, method="cumprod")
def cumprod(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    x, axis = _running(a, axis, dtype, "cumprod")
    return scan(np.multiply, x, axis)


def scan(function: Any, x: Any, axis: int) -> Any:
    """The results over all first k entries, from those over ever longer runs, of which each is twice the one before."""
    lead, n, reach = (WHOLE,) * axis, x.shape[axis], 1
    while reach < n:
        longer = function(x[(*lead, slice(reach, n))], x[(*lead, slice(0, n - reach))])
        x = structural.concatenate(x[(*lead, slice(0, reach))], longer, axis=axis)
        reach *= 2
    return x


# -- running sums ------------------------------------------------------------------------------------------------------
@implements(np.cumsum, method="cumsum")
def cumsum(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    x, axis = _running(a, axis, dtype, "cumsum")
    return structural.cumsum(x, axis=axis)


def _running(a: Any, axis: int | None, dtype: Any, name: str) -> tuple[Any, int]:
    x = a if dtype is None else astype(a, dtype)
    flat = axis is None or (x.ndim == 0 and axis in (0, -1))
    return (np.reshape(x, (-1,)), 0) if flat else (x, axis_of(x, axis, name))  # type: ignore[arg-type]


def _cumulative(running: Callable[..., Any], first: float) -> Callable[..., Any]:
    def cumulative(
        x: Any, /, *, axis: int | None = None, dtype: Any = None, out: Any = None, include_initial: bool = False
    ) -> Any:
        if axis is None and x.ndim != 1:
            raise ValueError(f"cumulative at {user_line()}: expected axis= for an array of shape {x.shape}")
        axis = axis_of(x, 0 if axis is None else axis, "cumulative")
        y = running(x, axis, dtype)
        if not include_initial:
            return y
        initial = namespace(y).full((*y.shape[:axis], 1, *y.shape[axis + 1 :]), first, y.dtype)
        return structural.concatenate(initial, y, axis=axis)

    return cumulative


for _name, _running_function, _first in (("cumulative_sum", cumsum, 0.0), ("cumulative_prod", cumprod, 1.0)):
    if hasattr(np, _name):  # came with NumPy 2.1
        implements(getattr(np, _name))(_cumulative(_running_function, _first))


# -- extremes ----------------------------------------------------------------------------------------------------------
@implements(np.max, np.amax, method="max")
def max(
    x: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = None
) -> Any:
    return _extreme(indexing.max, np.maximum, -np.inf, x, _axes(x, axis, "max"), keepdims, initial, where)


@implements(np.min, np.amin, method="min")
def min(
    x: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = None
) -> Any:
    return _extreme(indexing.min, np.minimum, np.inf, x, _axes(x, axis, "min"), keepdims, initial, where)


def _extreme(
    op: Any, ufunc: Any, least: float, x: Any, axes: tuple[int, ...], keepdims: Any, initial: Any, where: Any
) -> Any:
    if absent(initial):
        if not (absent(where) or where is True):
            raise ValueError(f"{op.name} at {user_line()}: expected initial= beside where=, as NumPy does, got none")
        return op(x, axis=axes, keepdims=flag(keepdims))
    x = chosen(x, where, least)
    if any(x.shape[k] == 0 for k in axes):
        shape = [1 if k in axes else n for k, n in enumerate(x.shape) if k not in axes or flag(keepdims)]
        return np.broadcast_to(as_array(initial, x), shape)
    return ufunc(op(x, axis=axes, keepdims=flag(keepdims)), initial)


@implements(np.ptp)
def ptp(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return max(x, axis, keepdims=keepdims) - min(x, axis, keepdims=keepdims)


# -- order statistics --------------------------------------------------------------------------------------------------
@implements(np.median)
def median(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = False) -> Any:
    return _quantile(a, 0.5, axis, "linear", keepdims, False, "median")


@implements(np.nanmedian)
def nanmedian(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = False) -> Any:
    return _quantile(a, 0.5, axis, "linear", keepdims, True, "nanmedian")


def _quantile_of(name: str) -> Callable[..., Any]:
    def quantile(
        a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
        keepdims: Any = False, *, weights: Any = None,
    ) -> Any:  # fmt: skip
        refuse(name, weights=weights)
        return _quantile(a, q, axis, method, keepdims, name.startswith("nan"), name)

    return quantile


for _name in ("quantile", "percentile", "nanquantile", "nanpercentile"):
    implements(getattr(np, _name))(_quantile_of(_name))


def _quantile(a: Any, q: Any, axis: Any, method: str, keepdims: Any, skip_nan: bool, name: str) -> Any:
    """Order statistics, interpolated. Of equal entries each takes an even share, so their order does not matter."""
    if isinstance(q, Traced) and (method != "linear" or skip_nan):
        raise UnsupportedOperationError(
            f"numpy.{name} at {user_line()}: got a traced q, in which only method='linear' is differentiated, without "
            "NaNs left out. Expected plain numbers: minijac.stop_gradient(q)."
        )
    if is_complex(a):
        raise UnsupportedOperationError(
            f"numpy.{name} at {user_line()}: got complex numbers, which have no order. Take np.abs(z), "
            "z.real or z.imag."
        )
    plain: Any = np.percentile if "percentile" in name else np.quantile
    a = as_array(a, q)
    a = astype(
        a, plain(np.zeros(2, a.dtype), np.zeros((), q.dtype) if isinstance(q, Traced) else q, method=method).dtype
    )
    axes = tuple(sorted(axes_of(a, axis, name)))
    kept = tuple(k for k in range(a.ndim) if k not in axes)
    lengths = tuple(a.shape[k] for k in kept)
    size = int(np.prod([a.shape[k] for k in axes], dtype=int))
    x = np.reshape(np.transpose(a, (*kept, *axes)), (*lengths, size))
    q = (q if isinstance(q, Traced) else np.asarray(q, float)) / (100.0 if "percentile" in name else 1.0)
    flat = np.reshape(q, (-1,))
    parts = [_one_quantile(x, flat[k], method, skip_nan) for k in range(q.size)]
    if flag(keepdims):
        parts = [np.expand_dims(part, axes) for part in parts]
    if q.ndim == 0:
        return parts[0]
    result = np.stack(parts)
    return result if q.ndim == 1 else np.reshape(result, (*q.shape, *result.shape[1:]))


def _one_quantile(x: Any, q: Any, method: str, skip_nan: bool) -> Any:
    """Along the last axis. NumPy's own quantile of 0, 1, 2, ... says between which ranks it lies, by any method."""
    n = x.shape[-1]
    if isinstance(q, Traced):
        place = q * (n - 1)
        start = _lower(int(number_of(np.floor(place))), n)
        low, high = (indexing.order_statistic(x, rank=rank, axis=x.ndim - 1) for rank in (start, start + (n > 1)))
        return low + (place - start) * (high - low)
    ranks: Any = np.quantile
    missing = np.isnan(x)
    if skip_nan and isinstance(missing, Traced):
        return _recorded_quantile(x, n - missing.sum(-1), [ranks(np.arange(float(k or 1)), q, method=method)
                                                           for k in range(n + 1)])  # fmt: skip
    if skip_nan and missing.any():
        present = n - missing.sum(-1)
        counts = np.unique(present[present > 0]).tolist()
        place = namespace(x).zeros(present.shape)
        for count in counts:
            place[present == count] = ranks(np.arange(float(count)), q, method=method)
        empty = present == 0
    else:
        place = ranks(np.arange(float(n)), q, method=method)
        empty = np.any(missing, axis=-1)
    low = np.floor(place).astype(int)
    share = (place - low).astype(x.dtype)
    result = indexing.order_statistic(x, rank=_rank(low), axis=x.ndim - 1)
    if share.any():
        upper = indexing.order_statistic(x, rank=_rank(np.ceil(place).astype(int)), axis=x.ndim - 1)
        result = (1 - share) * result + share * upper
    return np.where(empty, np.nan, result) if _maybe(empty) else result


def _recorded_quantile(x: Any, present: Any, places: Any) -> Any:
    """A quantile of what is not NaN in a program that is being recorded, where it lies in `places` of each number."""
    place = indexing.gather(placed(np.array(places), x), present, passing=())
    low, high = np.floor(place), np.ceil(place)
    in_order, result = np.sort(value_of(x), axis=-1), 0.0
    for rank, share in ((low, 1.0 - (place - low)), (high, place - low)):
        y = np.take_along_axis(in_order, rank.astype(int)[..., None], -1)
        hit = np.equal(value_of(x), y)  # ties are split evenly
        result = result + share.astype(x.dtype) * (np.sum(x, -1, where=hit) / hit.sum(-1).astype(x.dtype))
    return np.where(present == 0, np.nan, result)


def _lower(rank: int, n: int) -> int:
    """The lower of the two ranks between which a place lies, so that the last place has one, too."""
    return builtins.min(builtins.max(rank, 0), builtins.max(n - 2, 0))


def _rank(rank: Any) -> Any:
    return int(rank) if np.ndim(rank) == 0 else rank


# -- passing over NaN --------------------------------------------------------------------------------------------------
def _without_nan(x: Any, fill: float) -> Any:
    """An entry that is NaN is a branch not taken: it has no part in the value, nor in any derivative."""
    missing = np.isnan(x)
    return np.where(missing, fill, x) if _maybe(missing) else x


def _maybe(mask: Any) -> bool:
    """Whether any entry is true, or may be: a program that is being recorded, or a device, is not asked."""
    return isinstance(mask, Traced) or not on_host(mask) or bool(mask.any())


def _counted(x: Any, axes: tuple[int, ...], keepdims: Any) -> Any:
    return np.sum(np.logical_not(np.isnan(x)), axis=axes, keepdims=flag(keepdims)).astype(x.dtype)


@implements(np.nansum)
def nansum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, **kwargs: Any) -> Any:
    return sum(_without_nan(a, 0.0), axis, dtype, None, keepdims, **kwargs)


@implements(np.nanprod)
def nanprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, **kwargs: Any) -> Any:
    return prod(_without_nan(a, 1.0), axis, dtype, None, keepdims, **kwargs)


@implements(np.nancumsum)
def nancumsum(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    return cumsum(_without_nan(a, 0.0), axis, dtype)


@implements(np.nancumprod)
def nancumprod(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    return cumprod(_without_nan(a, 1.0), axis, dtype)


@implements(np.nanmean)
def nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = None
) -> Any:
    a, axes = chosen(a, where, np.nan), axes_of(a, axis, "nanmean")
    return nansum(a, axes, dtype, None, keepdims) / _counted(a, axes, keepdims)


@implements(np.nanvar)
def nanvar(
    a: Any,
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
    a, axes = chosen(a, where, np.nan), axes_of(a, axis, "nanvar")
    x = a if dtype is None else astype(a, dtype)
    centred = _without_nan(x - (nanmean(x, axes, keepdims=True) if absent(mean) else mean), 0.0)
    count = np.real(_counted(a, axes, keepdims))
    freedom = count - (ddof if absent(correction) else correction)
    squares = abs_squared(centred)
    return sum(squares, axes, keepdims=keepdims) / np.where(freedom > 0, freedom, np.nan).astype(squares.dtype)


@implements(np.nanstd)
def nanstd(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, **kwargs: Any
) -> Any:
    return elementwise.length(nanvar(a, axis, dtype, None, ddof, keepdims, **kwargs))


@implements(np.nanmax)
def nanmax(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, **kwargs: Any) -> Any:
    return _nan_extreme(max, a, axis, keepdims, -np.inf, kwargs)


@implements(np.nanmin)
def nanmin(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, **kwargs: Any) -> Any:
    return _nan_extreme(min, a, axis, keepdims, np.inf, kwargs)


def _nan_extreme(extreme: Callable[..., Any], a: Any, axis: Any, keepdims: Any, fill: float, kwargs: Any) -> Any:
    axes = axes_of(a, axis, "nanmax")
    result = extreme(_without_nan(a, fill), axes, None, keepdims, **kwargs)
    if not absent(kwargs.get("initial")):
        return result
    empty = _counted(a, axes, keepdims) == 0
    return np.where(empty, np.nan, result) if _maybe(empty) else result


# -- whether any, whether all ----------------------------------------------------------------------------------------
def _of_masks(function: Any, neutral: bool) -> Callable[..., Any]:
    recorded = FUNCTIONS[function]

    def reduce(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = None, initial: Any = None
    ) -> Any:
        if not (absent(where) or where is True):
            a = np.where(where, a != 0, neutral)
        y = recorded(a, axis=axis, keepdims=flag(keepdims))
        return y if absent(initial) else (np.logical_and if neutral else np.logical_or)(y, initial)

    return implements(function, method=function.__name__)(reduce)


for _function, _neutral in ((np.all, True), (np.any, False)):
    _of_masks(_function, _neutral)


@implements(np.apply_over_axes)
def apply_over_axes(func: Callable[..., Any], a: Any, axes: Any) -> Any:
    for axis in axes_of(a, axes, "apply_over_axes"):
        result = func(a, axis)
        a = result if result.ndim == a.ndim else np.expand_dims(result, axis)
    return a
