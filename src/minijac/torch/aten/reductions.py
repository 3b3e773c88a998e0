"""Reductions, running reductions, order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import special
from ...backend import astype, value_of
from ...numpy.protocol import axes_of
from ...ops import structural
from ..tensors import tensor_of
from .registry import COMPLEX, EXACT, TABLE, aten, cast, floating, promoted


def _dims(dim: Any, x: Any) -> tuple[int, ...]:
    """Axes, counted from the first: an empty list or None is all of them."""
    ndim = len(x.shape)
    dims = () if dim is None else (dim,) if type(dim) is int else tuple(dim)
    if not dims or not ndim:
        return tuple(range(ndim))
    axes = tuple([k + ndim if k < 0 else k for k in dims])
    return axes if 0 <= min(axes) <= max(axes) < ndim else axes_of(x, dims, "a reduction")  # its error


def sum_(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return structural.sum(cast(x, dtype), axis=_dims(dim, x), keepdims=keepdim)


def mean(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return structural.mean(cast(x, dtype), axis=_dims(dim, x), keepdims=keepdim)


def prod(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return np.prod(cast(x, dtype), axis=_dims(dim, x), keepdims=keepdim)


def _correction(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, bool]:
    """The three ways in which torch says it: dim, correction, keepdim."""
    names = ["unbiased"] if args and isinstance(args[0], bool) else ["dim", "unbiased", "keepdim"]
    given = dict(zip(names, args, strict=False)) | kwargs
    correction = given.get("correction")
    if correction is None:
        correction = 1 if given.get("unbiased", True) else 0
    return given.get("dim"), correction, given.get("keepdim", False)


def var(x: Any, *args: Any, **kwargs: Any) -> Any:
    dim, correction, keepdim = _correction(args, kwargs)
    return np.var(x, axis=_dims(dim, x), ddof=correction, keepdims=keepdim)


def std(x: Any, *args: Any, **kwargs: Any) -> Any:
    return _root(var(x, *args, **kwargs))


def _root(v: Any) -> Any:
    """The root of a variance; torch's derivative at zero is zero."""
    zero = v == 0
    return np.where(zero, 0.0, np.sqrt(np.where(zero, 1.0, v)))


def var_mean(x: Any, *args: Any, **kwargs: Any) -> Any:
    dim, _, keepdim = _correction(args, kwargs)
    return var(x, *args, **kwargs), mean(x, dim, keepdim)


def std_mean(x: Any, *args: Any, **kwargs: Any) -> Any:
    dim, _, keepdim = _correction(args, kwargs)
    return std(x, *args, **kwargs), mean(x, dim, keepdim)


def cumsum(x: Any, dim: int, dtype: Any = None) -> Any:
    return np.cumsum(cast(x, dtype), dim) if x.ndim else cast(x, dtype)


def cumprod(x: Any, dim: int, dtype: Any = None) -> Any:
    return np.cumprod(cast(x, dtype), dim) if x.ndim else cast(x, dtype)


def amax(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return np.max(x, axis=_dims(dim, x), keepdims=keepdim)


def amin(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return np.min(x, axis=_dims(dim, x), keepdims=keepdim)


def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return special.logsumexp(floating(x), _dims(dim, x), keepdims=keepdim)


def softmax(x: Any, dim: int, half_to_float: Any = None) -> Any:
    return special.softmax(x, dim) if x.ndim else x / x


def log_softmax(x: Any, dim: int, half_to_float: Any = None) -> Any:
    return special.log_softmax(x, dim) if x.ndim else x - x


def safe_softmax(x: Any, dim: int, dtype: Any = None) -> Any:
    x = cast(x, dtype)
    nothing = np.all(x == -math.inf, axis=dim, keepdims=True)
    return np.where(nothing, 0.0, special.softmax(np.where(nothing, 0.0, x), dim))


# -- picked entries: torch gives the whole derivative to the one that the position names -------------------------------
def picked(x: Any, positions: Any, dim: int, keepdim: bool) -> Any:
    """The entries at `positions` along `dim`, which has length one there, and the positions."""
    values = np.take_along_axis(x, positions, dim)
    return (values, positions) if keepdim else (np.squeeze(values, dim), np.squeeze(positions, dim))


def _extreme(search: Any, whole: Any) -> Any:
    def extreme(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return whole(x)
        if not x.ndim:
            return x, np.zeros((), np.int64)
        return picked(x, np.expand_dims(search(x, axis=dim), dim), dim, keepdim)

    return extreme


def median(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The lower of the two in the middle."""
    return _at_rank(x, lambda n, nans: (n - 1) // 2, dim, keepdim)


def nanmedian(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return _at_rank(x, lambda n, nans: np.maximum(n - nans - 1, 0) // 2, dim, keepdim)


def kthvalue(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    return _at_rank(x, lambda n, nans: k - 1, dim, keepdim)


def _at_rank(x: Any, rank: Any, dim: Any, keepdim: bool) -> Any:
    if not x.ndim:
        return x if dim is None else (x, np.zeros((), np.int64))
    if dim is None:
        flat = np.reshape(x, (-1,))
        return picked(flat, _ranked(flat, rank, 0), 0, False)[0]
    return picked(x, _ranked(x, rank, dim), dim, keepdim)


def _ranked(x: Any, rank: Any, dim: int) -> Any:
    order = np.argsort(x, dim, kind="stable")
    nans = np.sum(np.isnan(value_of(x)), axis=dim, keepdims=True)
    at = np.broadcast_to(rank(x.shape[dim], nans), nans.shape).astype(np.int64)
    return np.take_along_axis(order, at, dim)


def mode(x: Any, dim: int = -1, keepdim: bool = False) -> Any:
    if not x.ndim:
        return x, np.zeros((), np.int64)
    own = np.moveaxis(value_of(x), dim, -1)
    counts = (own[..., :, None] == own[..., None, :]).sum(-1)
    best = np.where(counts == counts.max(-1, keepdims=True), own, np.inf).min(-1, keepdims=True)
    last = own.shape[-1] - 1 - np.argmax((own == best)[..., ::-1], -1)
    return picked(x, np.expand_dims(last, dim), dim, keepdim)


def sort(x: Any, dim: int = -1, descending: bool = False, stable: Any = None) -> Any:
    if not x.ndim:
        return x, np.zeros((), np.int64)
    order = np.flip(np.argsort(np.flip(x, dim), dim, kind="stable"), dim) if descending else np.argsort(
        x, dim, kind="stable"
    )  # fmt: skip
    order = x.shape[dim] - 1 - order if descending else order
    return np.take_along_axis(x, order, dim), order


def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if not x.ndim:
        return x, np.zeros((), np.int64)
    order = sort(x, dim, largest)[1]
    order = order[(slice(None),) * (dim % x.ndim) + (slice(0, k),)]
    return np.take_along_axis(x, order, dim), order


def _running(better: Any) -> Any:
    """cummax and cummin: the last position so far of the best."""

    def running(x: Any, dim: int) -> Any:
        if not x.ndim:
            return x, np.zeros((), np.int64)
        own = value_of(x)
        best = better.accumulate(own, axis=dim)
        n = own.shape[dim]
        at = np.arange(n).reshape((-1,) + (1,) * (own.ndim - dim % own.ndim - 1))
        positions = np.maximum.accumulate(np.where(own == best, at, 0), axis=dim)
        return np.take_along_axis(x, positions, dim), positions

    return running


def logcumsumexp(x: Any, dim: int) -> Any:
    return np.logaddexp.accumulate(x, axis=dim) if x.ndim else x


def aminmax(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return amin(x, dim, keepdim), amax(x, dim, keepdim)


def _arg(search: Any) -> Any:
    def arg(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None or not x.ndim:
            y = search(np.reshape(x, (-1,)))
            return np.reshape(y, (1,) * x.ndim) if keepdim else y
        y = search(x, axis=dim)
        return np.expand_dims(y, dim) if keepdim else y

    return arg


# -- norms -------------------------------------------------------------------------------------------------------------
def vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    x = floating(cast(x, dtype))
    axes = _dims(dim, x)
    if not x.ndim:
        return np.abs(x) if ord != 0 else astype(x != 0, x.dtype, x)
    if ord == 2:
        squares = np.square(np.real(x)) + np.square(np.imag(x)) if x.dtype.kind == "c" else np.square(x)
        return _root(np.sum(squares, axis=axes, keepdims=keepdim))
    size = np.abs(x)
    if ord == math.inf:
        return np.max(size, axis=axes, keepdims=keepdim)
    if ord == -math.inf:
        return np.min(size, axis=axes, keepdims=keepdim)
    if ord == 0:
        return np.sum(astype(value_of(x) != 0, x.dtype, x), axis=axes, keepdims=keepdim)
    if ord == 1:
        return np.sum(size, axis=axes, keepdims=keepdim)
    total = np.sum(np.where(size == 0, 0.0 if ord > 0 else math.inf, np.where(size == 0, 1.0, size) ** ord), axis=axes,
                   keepdims=keepdim)  # fmt: skip
    zero = total == 0
    return np.where(zero, 0.0, np.where(zero, 1.0, total) ** (1.0 / ord))


def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return vector_norm(x, 2 if p is None else p, dim, keepdim, dtype)


def renorm(x: Any, p: Any, dim: int, maxnorm: Any) -> Any:
    axes = [k for k in range(x.ndim) if k != dim % x.ndim]
    sizes = vector_norm(x, p, axes, True)
    return x * np.where(sizes > maxnorm, maxnorm / (sizes + 1e-7), 1.0)


def segment_reduce(x: Any, reduce: str, lengths: Any = None, indices: Any = None, offsets: Any = None, axis: int = 0,
                   unsafe: bool = False, initial: Any = None) -> Any:  # fmt: skip
    """Segments of an axis, one after another, each filled up to the longest one and reduced."""
    counts = np.diff(value_of(offsets), axis=-1) if lengths is None else value_of(lengths)
    steps = np.arange(max(counts.max(initial=0), 1))
    inside = steps < counts[..., None]
    at = np.where(inside, (np.cumsum(counts, -1) - counts)[..., None] + steps, 0)
    rest = x.shape[axis + 1 :]
    own = np.reshape(at, (*at.shape[:-2], -1, *[1] * len(rest)))
    parts = np.take_along_axis(x, np.broadcast_to(own, (*own.shape[: axis + 1], *rest)), axis)
    parts = np.reshape(parts, (*at.shape, *rest))
    inside, counts = (np.reshape(a, (*a.shape, *[1] * len(rest))) for a in (inside, counts))
    averaged = reduce == np.mean.__name__
    reduction, neutral, join = _SEGMENTS[np.sum.__name__ if averaged else reduce]
    result = reduction(np.where(inside, parts, neutral), axis=axis + 1)
    result = result if initial is None else join(result, initial)
    if not averaged:
        return result
    return np.where(counts > 0, result / np.maximum(counts, 1), np.nan if initial is None else initial)


_SEGMENTS: dict[str, tuple[Any, float, Any]] = {
    reduction.__name__: (reduction, neutral, join)
    for reduction, neutral, join in (
        (np.sum, 0.0, np.add), (np.prod, 1.0, np.multiply), (np.max, -np.inf, np.maximum),
        (np.min, np.inf, np.minimum),
    )
}  # fmt: skip


def scalar(run: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """A number where an operation takes no tensor, which torch refuses of one that has a derivative."""
    value = run.value(args[0])
    if value_of(value) is not value:
        args[0]._refuse("a number")
    return number(run, args[0])


def number(run: Any, x: Any) -> Any:
    """``x.item()``: the number, which has no derivative, as in torch."""
    value = value_of(run.value(x))
    if hasattr(value, "_refuse"):
        value._refuse("x.item(), or a decision (if, while)")
    return value.item()


EXACT.update({aten._local_scalar_dense: scalar, aten.item: scalar,
              aten.is_nonzero: lambda run, func, args, kwargs: bool(number(run, args[0])),
              aten.equal: lambda run, func, args, kwargs: func(*[_plain(run, x) for x in args])})  # fmt: skip


def _plain(run: Any, x: Any) -> Any:
    return tensor_of(value_of(run.value(x)))


TABLE.update({
    aten.sum: sum_, aten.mean: mean, aten.prod: prod, aten.var: var, aten.std: std, aten.var_mean: var_mean,
    aten.std_mean: std_mean, aten.cumsum: cumsum, aten.cumprod: cumprod, aten.amax: amax, aten.amin: amin,
    aten.logsumexp: logsumexp, aten._softmax: softmax, aten._log_softmax: log_softmax, aten.softmax: softmax,
    aten._safe_softmax: safe_softmax, aten.max: _extreme(np.argmax, np.max), aten.min: _extreme(np.argmin, np.min),
    aten.max.other: lambda a, b: np.maximum(a, b), aten.min.other: lambda a, b: np.minimum(a, b),
    aten.median: median, aten.nanmedian: nanmedian, aten.kthvalue: kthvalue, aten.mode: mode, aten.sort: sort,
    aten.topk: topk, aten.cummax: _running(np.maximum), aten.cummin: _running(np.minimum),
    aten.logcumsumexp: logcumsumexp, aten.aminmax: aminmax, aten.argmax: _arg(np.argmax),
    aten.argmin: _arg(np.argmin), aten.argsort: lambda x, dim=-1, descending=False: sort(x, dim, descending)[1],
    aten.argsort.stable: lambda x, stable=None, dim=-1, descending=False: sort(x, dim, descending)[1],
    aten.any: lambda x, dim=None, keepdim=False: np.any(x, axis=_dims(dim, x), keepdims=keepdim),
    aten.all: lambda x, dim=None, keepdim=False: np.all(x, axis=_dims(dim, x), keepdims=keepdim),
    aten.nansum: lambda x, dim=None, keepdim=False, dtype=None:
        sum_(np.where(np.isnan(x), 0.0, x), dim, keepdim, dtype),
    aten.count_nonzero: lambda x, dim=None: np.sum(value_of(x) != 0, axis=_dims(dim, x)),
    aten.segment_reduce: segment_reduce,
    aten.linalg_vector_norm: vector_norm, aten.norm: norm, aten.norm.ScalarOpt_dtype:
        lambda x, p, dtype=None: norm(x, p, dtype=dtype), aten.renorm: renorm,
    aten.searchsorted: lambda a, v, out_int32=False, right=False, side=None, sorter=None:
        np.searchsorted(value_of(a), value_of(v), "right" if right or side == "right" else "left"),
    aten.bucketize: lambda x, bins, out_int32=False, right=False:
        np.searchsorted(value_of(bins), value_of(x), "right" if right else "left"),
    aten._is_all_true: lambda x: np.all(x), aten._is_any_true: lambda x: np.any(x),
    aten.dist: lambda a, b, p=2: vector_norm(np.subtract(*promoted(a, b)), p),
    aten._softmax_backward_data: lambda g, y, dim, dtype: y * (g - np.sum(g * y, axis=dim, keepdims=True)),
    aten._log_softmax_backward_data: lambda g, y, dim, dtype: g - np.exp(y) * np.sum(g, axis=dim, keepdims=True),
})  # fmt: skip
COMPLEX.update((
    aten.sum, aten.mean, aten.prod, aten.cumsum, aten.cumprod, aten.linalg_vector_norm, aten.norm, aten.dist,
))  # fmt: skip
