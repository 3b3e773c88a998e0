"""Layers: convolutions, pooling, normalisation, interpolation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ... import nn
from ...backend import astype, namespace, placed, value_of
from ...numpy.indexing import put
from ..tensors import tensor_of
from .reductions import picked
from .registry import ALIKE, EXACT, TABLE, aten
from .shapes import along, refuse_frequencies

CONV = {1: nn.conv1d, 2: nn.conv2d, 3: nn.conv3d}
_TRANSPOSED = {1: nn.conv_transpose1d, 2: nn.conv_transpose2d, 3: nn.conv_transpose3d}


def convolution(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
                output_padding: Any, groups: int) -> Any:  # fmt: skip
    n = weight.ndim - 2
    sizes = [[k[0]] * n if len(k) == 1 else list(k) for k in (stride, padding, dilation, output_padding or [0])]
    stride, padding, dilation, output_padding = sizes
    if transposed:
        return _TRANSPOSED[n](x, weight, bias, stride, padding, output_padding, groups, dilation)
    return CONV[n](x, weight, bias, stride, padding, dilation, groups)


# -- pooling -----------------------------------------------------------------------------------------------------------
def _batched(n: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of (B, C, ...) that also takes (C, ...)."""

    def on_any(x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.ndim == n + 2:
            return function(x, *args, **kwargs)
        y = function(np.expand_dims(x, 0), *args, **kwargs)
        return tuple([part[0] for part in y]) if isinstance(y, tuple) else y[0]

    return on_any


def _largest(windows: Any, places: Any, n: int) -> tuple[Any, Any]:
    """Of each window (..., *kernel, *out) the first of the largest entries, and where it was in the plane."""
    first = windows.ndim - 2 * n
    size, out = math.prod(windows.shape[first : first + n]), windows.shape[first + n :]
    flat = np.reshape(windows, (*windows.shape[:first], size, *out))
    values, at = picked(flat, np.expand_dims(np.argmax(value_of(flat), first), first), first, True)
    chosen = np.arange(size).reshape(-1, *(1,) * n) == value_of(at)
    return np.squeeze(values, first), np.sum(np.where(chosen, np.reshape(places, (size, *out)), 0), axis=first)


def _max_pool(n: int) -> Callable[..., Any]:
    def pool(
        x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Any:
        kernel, stride, padding, dilation = (_each(k, n) for k in (kernel, stride or kernel, padding, dilation))
        how = kernel, stride, padding, dilation, ceil_mode
        windows, _ = nn._pool_windows(n, x, *how, -math.inf)
        plane = np.arange(float(math.prod(x.shape[2:]))).reshape(1, 1, *x.shape[2:])
        places, _ = nn._pool_windows(n, plane, *how, -1.0)
        return _largest(windows, places.astype(np.int64), n)

    return _batched(n, pool)


def _each(k: Any, n: int) -> tuple[int, ...]:
    k = (k,) if isinstance(k, int) else tuple(k)
    return k * n if len(k) == 1 else k


def _avg_pool(n: int) -> Callable[..., Any]:
    def pool(x: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
             count_include_pad: bool = True, divisor_override: Any = None) -> Any:  # fmt: skip
        kernel, stride, padding = (_each(k, n) for k in (kernel, stride or kernel, padding))
        return nn._avg_pool(n, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)

    return _batched(n, pool)


def _adaptive_avg(n: int) -> Callable[..., Any]:
    def pool(x: Any, sizes: Any) -> Any:
        for axis, places in zip(range(-n, 0), sizes, strict=True):
            x = nn._averaged(x, axis, places)
        return x

    return _batched(n, pool)


def _by_windows(n: int, x: Any, spans: Sequence[Sequence[tuple[int, int]]]) -> tuple[Any, Any]:
    """The largest of windows that are given by start and stop along each axis; short ones repeat their last entry."""
    index = []
    for axis, span in enumerate(spans):
        longest = max((stop - start for start, stop in span), default=1)
        at = np.array([[min(start + k, stop - 1) for start, stop in span] for k in range(longest)])
        index.append(at.reshape((1,) * axis + (longest,) + (1,) * (n - 1) + (len(span),) + (1,) * (n - axis - 1)))
    windows = x[(..., *index)]
    places = np.arange(math.prod(x.shape[-n:])).reshape(x.shape[-n:])[tuple(index)]
    return _largest(windows, places, n)


def _adaptive_max(n: int) -> Callable[..., Any]:
    def pool(x: Any, sizes: Any) -> Any:
        spans = [
            [(k * size // places, -(-(k + 1) * size // places)) for k in range(places)]
            for size, places in zip(x.shape[-n:], sizes, strict=True)
        ]
        return _by_windows(n, x, spans)

    return _batched(n, pool)


def _fractional_max(n: int) -> Callable[..., Any]:
    """Windows of one size whose starts are drawn: by torch, as `samples`."""

    def pool(x: Any, kernel: Any, sizes: Any, samples: Any) -> Any:
        drawn = value_of(samples)
        if not (drawn == drawn[:1, :1]).all():
            return _each_plane(x, kernel, sizes, drawn)
        return _by_windows(n, x, _starts(x.shape[-n:], kernel, sizes, drawn[0, 0]))

    def _each_plane(x: Any, kernel: Any, sizes: Any, drawn: Any) -> Any:
        rows = []
        for b in range(x.shape[0]):
            planes = [
                _by_windows(n, x[b, c], _starts(x.shape[-n:], kernel, sizes, drawn[b, c])) for c in range(x.shape[1])
            ]
            rows.append([np.stack([plane[k] for plane in planes]) for k in (0, 1)])
        return tuple([np.stack([row[k] for row in rows]) for k in (0, 1)])

    return _batched(n, pool)


def _starts(shape: Any, kernel: Any, sizes: Any, drawn: Any) -> list[list[tuple[int, int]]]:
    spans = []
    order = [1, 0] if len(shape) == 2 else [0, 1, 2]  # torch's draws are (width, height) in two dimensions
    for size, k, places, sample in zip(shape, kernel, sizes, [drawn[i] for i in order], strict=True):
        alpha = (size - k) / (places - 1) if places > 1 else 0.0
        starts = [int((i + sample) * alpha) - int(sample * alpha) for i in range(places - 1)] + [size - k]
        spans.append([(start, start + k) for start in starts])
    return spans


def _unpool(n: int) -> Callable[..., Any]:
    def unpool(x: Any, indices: Any, output_size: Any, *_: Any) -> Any:
        lead = x.shape[:-n]
        flat = np.reshape(x, (*lead, math.prod(x.shape[-n:])))
        at = np.reshape(value_of(indices), flat.shape)
        grid = tuple([np.arange(k).reshape((-1,) + (1,) * (flat.ndim - axis - 1)) for axis, k in enumerate(lead)])
        zeros = namespace(x).zeros((*lead, math.prod(output_size)), x.dtype)
        return np.reshape(put(zeros, (*grid, at), flat), (*lead, *output_size))

    return unpool


# -- normalisation -----------------------------------------------------------------------------------------------------
def _moments(x: Any, axes: Any, eps: float) -> tuple[Any, Any, Any]:
    """The normalised entries, the mean, and one over the standard deviation."""
    mean = np.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    rstd = 1.0 / np.sqrt(np.mean(np.square(centred), axis=axes, keepdims=True) + eps)
    return centred * rstd, mean, rstd


def layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    y, mean, rstd = _moments(x, tuple(range(x.ndim - len(shape), x.ndim)), eps)
    return nn._scaled(y, weight, bias), mean, rstd


def group_norm(x: Any, weight: Any, bias: Any, n: int, channels: int, size: int, groups: int, eps: float) -> Any:
    grouped = np.reshape(x, (x.shape[0], groups, channels // groups, *x.shape[2:]))
    y, mean, rstd = _moments(grouped, tuple(range(2, grouped.ndim)), eps)
    y = np.reshape(y, x.shape)
    scale = [None if a is None else nn._along_channels(a, x) for a in (weight, bias)]
    return nn._scaled(y, *scale), np.reshape(mean, (n, groups)), np.reshape(rstd, (n, groups))


def rms_norm(x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    rstd = 1.0 / np.sqrt(np.mean(np.square(x), axis=axes, keepdims=True) + eps)
    return nn._scaled(x * rstd, weight, None), rstd


def normalised(x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Any:
    """Batch norm by statistics that are given."""
    mean, rstd, weight, bias = [
        None if a is None else nn._along_channels(a, x) for a in (mean, 1.0 / np.sqrt(var + eps), weight, bias)
    ]
    return nn._scaled((x - mean) * rstd, weight, bias)


def batch_norm(
    run: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    """Batch statistics move the running ones, which are tensors; that is committed when the run has succeeded."""
    x, weight, bias = (None if t is None else run.value(t) for t in (x, weight, bias))
    if not training:
        empty = np.zeros(0, x.dtype)
        return run.result((normalised(x, weight, bias, run.value(mean), run.value(var), eps), empty, empty))
    axes = (0, *range(2, x.ndim))
    y, centre, rstd = _moments(x, axes, eps)
    if mean is not None:
        n = x.size // x.shape[1]
        spread = np.var(value_of(x), axis=axes, ddof=1) if n > 1 else np.zeros(x.shape[1], x.dtype)
        for target, new in ((mean, np.mean(value_of(x), axis=axes)), (var, spread)):
            own = run.adopt(target)
            own.write((1.0 - momentum) * value_of(own.read()) + momentum * new)
    y = nn._scaled(y, *[a if a is None else nn._along_channels(a, x) for a in (weight, bias)])
    return run.result((y, np.reshape(centre, (-1,)), np.reshape(rstd, (-1,))))


def _exact_batch_norm(read: Any) -> Callable[..., Any]:
    return lambda run, func, args, kwargs: batch_norm(run, *read(*args, **kwargs))


def _updated_batch_norm(run: Any, func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias, mean, var, momentum, eps = args
    return *batch_norm(run, x, weight, bias, mean, var, True, momentum, eps), torch.empty(0, dtype=torch.uint8)


def rrelu(run: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """Slopes are drawn, by torch, for the entries that are not positive."""
    x, noise, lower, upper, training = (*args, 1 / 8, 1 / 3, False)[:5] if len(args) < 5 else args[:5]
    value = run.value(x)
    if not training:
        return run.result(np.where(value > 0, value, value * ((lower + upper) / 2)))
    run.plain(func, [tensor_of(value_of(value)).clone(), noise, lower, upper, training], kwargs)
    return run.result(np.where(value > 0, value, value * run.value(noise)))


EXACT.update({
    aten.rrelu_with_noise.default: rrelu,
    aten.native_batch_norm.default: _exact_batch_norm(lambda *args: args),
    aten._native_batch_norm_legit.default: _exact_batch_norm(lambda *args: args),
    aten._native_batch_norm_legit.no_stats: _exact_batch_norm(lambda x, w, b, *rest: (x, w, b, None, None, *rest)),
    aten._native_batch_norm_legit_no_training.default:
        _exact_batch_norm(lambda x, w, b, m, v, momentum, eps: (x, w, b, m, v, False, momentum, eps)),
    aten._batch_norm_with_update.default: _updated_batch_norm,
    aten.cudnn_batch_norm.default: _exact_batch_norm(lambda *args: args),
})  # fmt: skip


# -- samples of a picture at places ------------------------------------------------------------------------------------
def _folded(at: Any, n: int, align: bool) -> Any:
    """Places outside of an axis of length `n` reflected into it."""
    low, span = (0.0, n - 1.0) if align else (-0.5, float(n))
    if not span:
        return np.zeros_like(value_of(at))
    outside = np.abs(at - low)
    turns = np.floor(value_of(outside) / span)
    part = outside - turns * span
    return np.where(turns % 2 == 0, part, span - part) + low


def grid_sampler(x: Any, grid: Any, mode: int, padding: int, align: bool) -> Any:
    """x: (N, C, *sizes), grid: (N, *places, axes) with the last axis of x first; modes and paddings as torch numbers
    them: linear or nearest; zeros, border or reflection."""
    sizes, places = x.shape[2:], grid.shape[1:-1]
    flat = np.reshape(grid, (len(grid), -1, len(sizes)))
    axes = []
    for k, n in enumerate(sizes):
        at = flat[..., len(sizes) - 1 - k]
        at = (at + 1.0) * ((n - 1) / 2) if align else ((at + 1.0) * n - 1.0) * 0.5
        at = _folded(at, n, align) if padding == 2 else at
        at = np.clip(at, 0.0, n - 1.0) if padding else at
        low = (np.rint if mode else np.floor)(value_of(at)).astype(int)
        part = value_of(at) * 0.0 if mode else at - low
        axes.append([(low, 1.0 - part), (low + 1, part)][: 1 if mode else 2])
    whole, result = np.reshape(x, (*x.shape[:2], -1)), 0.0
    for corner in itertools.product(*axes):
        weight: Any = 1.0
        index: Any = 0
        for (at, part), n in zip(corner, sizes, strict=True):
            weight, index = weight * (part * np.logical_and(at >= 0, at < n)), index * n + np.clip(at, 0, n - 1)
        taken = np.take_along_axis(whole, np.broadcast_to(index[:, None], (*x.shape[:2], index.shape[1])), 2)
        result = result + taken * weight[:, None]
    return np.reshape(result, (*x.shape[:2], *places))


# -- interpolation: a constant matrix along each axis ------------------------------------------------------------------
def _sources(n: int, size: int, align: bool, scale: Any) -> Any:
    """Where in an axis of length `n` each of `size` new entries lies."""
    at = np.arange(size)
    if align:
        return at * ((n - 1) / (size - 1)) if size > 1 else at * 0.0
    ratio = 1.0 / scale if scale is not None and scale > 0 else n / size
    return (at + 0.5) * ratio - 0.5


def _linear_weights(n: int, size: int, align: bool, scale: Any) -> Any:
    at = np.maximum(_sources(n, size, align, scale), 0.0)
    low = np.minimum(np.floor(at).astype(int), n - 1)
    part = np.clip(at - low, 0.0, 1.0)
    matrix = np.zeros((size, n))
    np.add.at(matrix, (np.arange(size), low), 1.0 - part)
    np.add.at(matrix, (np.arange(size), np.minimum(low + 1, n - 1)), part)
    return matrix


def _cubic_weights(n: int, size: int, align: bool, scale: Any) -> Any:
    at = _sources(n, size, align, scale)
    low = np.floor(at).astype(int)
    t = at - low
    a = -0.75
    d = np.stack([t + 1, t, 1 - t, 2 - t])
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    matrix = np.zeros((size, n))
    for k, weight in zip(range(-1, 3), (far[0], near[1], near[2], far[3]), strict=True):
        np.add.at(matrix, (np.arange(size), np.clip(low + k, 0, n - 1)), weight)
    return matrix


def _antialiased_weights(n: int, size: int, align: bool, scale: Any) -> Any:
    ratio = (n - 1) / max(size - 1, 1) if align else 1.0 / scale if scale else n / size
    width = max(ratio, 1.0)
    centre = ratio * (np.arange(size) + 0.5)
    low = np.maximum((centre - width + 0.5).astype(int), 0)
    high = np.minimum((centre + width + 0.5).astype(int), n)
    at = np.arange(n)
    matrix = np.maximum(1.0 - np.abs((at + 0.5 - centre[:, None]) / width), 0.0)
    matrix = np.where((at >= low[:, None]) & (at < high[:, None]), matrix, 0.0)
    return matrix / matrix.sum(1, keepdims=True)


def _interpolated(n: int, weights: Callable[..., Any]) -> Callable[..., Any]:
    def interpolate(x: Any, sizes: Any, align: bool, *scales: Any) -> Any:
        for axis, size, scale in itertools.zip_longest(range(-n, 0), sizes, scales):
            x = nn._mapped(x, placed(weights(x.shape[axis], size, align, scale).astype(x.dtype), x), axis)
        return x

    return interpolate


def _nearest(n: int, exact: bool) -> Callable[..., Any]:
    def interpolate(x: Any, sizes: Any, *scales: Any) -> Any:
        for axis, size, scale in itertools.zip_longest(range(-n, 0), sizes, scales):
            length = x.shape[axis]
            ratio = np.float32(1.0 / scale if scale else length / size)
            at = np.floor((np.arange(size, dtype=np.float32) + np.float32(0.5 if exact else 0.0)) * ratio).astype(int)
            x = along(x, axis, np.minimum(at, length - 1))
        return x

    return interpolate


# -- what is left ------------------------------------------------------------------------------------------------------
def trilinear(a: Any, b: Any, c: Any, expand1: Any, expand2: Any, expand3: Any, sumdim: Any, unroll: int = 1) -> Any:
    parts = []
    for x, dims in ((a, expand1), (b, expand2), (c, expand3)):
        for dim in sorted(dims):
            x = np.expand_dims(x, dim)
        parts.append(x)
    y = parts[0] * parts[1] * parts[2]
    return np.sum(y, axis=tuple(sumdim)) if len(sumdim) else y


def weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    axes = tuple([k for k in range(v.ndim) if k != dim % v.ndim])
    size = np.sqrt(np.sum(np.square(v), axis=axes, keepdims=True))
    return v * (g / size), size


def embedding_bag(
    weight: Any, indices: Any, offsets: Any, scale: bool = False, mode: int = 0, sparse: bool = False,
    per_sample_weights: Any = None, include_last_offset: bool = False, padding_idx: int = -1,
) -> Any:  # fmt: skip
    """Sums, means or largest of bags of rows; bags of one size keep their axis, so that samples stay apart."""
    refuse_frequencies(weight, scale)
    indices, starts = value_of(indices), value_of(offsets)
    starts = starts[:-1] if include_last_offset else starts
    sizes = np.diff(starts, append=len(indices))
    kept = indices != (padding_idx % len(weight) if padding_idx >= 0 else -1)
    rows = np.take(weight, indices, 0)
    rows = rows if per_sample_weights is None else rows * np.expand_dims(per_sample_weights, -1)
    n = int(sizes.max(initial=0))
    if (sizes == n).all():
        windows, inside = np.reshape(rows, (len(sizes), n, rows.shape[1])), kept.reshape(len(sizes), n)
    else:
        at = np.minimum(starts[:, None] + np.arange(n), len(indices) - 1)
        windows, inside = rows[at], kept[at] & (np.arange(n) < sizes[:, None])
    counts, own = inside.sum(1), inside[..., None]
    if mode == 2 and n:
        windows = np.where(own, windows, -math.inf)
        best = picked(windows, np.expand_dims(np.argmax(value_of(windows), 1), 1), 1, False)[0]
        y = np.where((counts > 0)[:, None], best, 0.0)
    else:
        y = np.sum(np.where(own, windows, 0.0), axis=1)
        y = y / np.maximum(counts, 1)[:, None].astype(weight.dtype) if mode == 1 else y
    return y, np.repeat(np.arange(len(sizes)), sizes), counts, counts


def dropout_backward(g: Any, mask: Any, scale: float) -> Any:
    return g * astype(mask, g.dtype, g) * scale


TABLE.update({
    aten.convolution: convolution, aten.convolution_overrideable: convolution,
    aten._convolution: lambda *args: convolution(*args[:9]),
    **{getattr(aten, f"max_pool{n}d_with_indices"): _max_pool(n) for n in (2, 3)},
    **{getattr(aten, f"avg_pool{n}d"): _avg_pool(n) for n in (1, 2, 3)},
    **{getattr(aten, f"_adaptive_avg_pool{n}d"): _adaptive_avg(n) for n in (2, 3)},
    aten.adaptive_avg_pool2d: _adaptive_avg(2), aten.adaptive_avg_pool3d: _adaptive_avg(3),
    **{getattr(aten, f"adaptive_max_pool{n}d"): _adaptive_max(n) for n in (2, 3)},
    **{getattr(aten, f"fractional_max_pool{n}d"): _fractional_max(n) for n in (2, 3)},
    aten.max_unpool2d: _unpool(2), aten.max_unpool3d: _unpool(3),
    aten.native_layer_norm: layer_norm, aten.native_group_norm: group_norm,
    aten.grid_sampler_3d: grid_sampler, aten._fused_rms_norm: rms_norm,
    aten.upsample_linear1d: _interpolated(1, _linear_weights),
    aten.upsample_bilinear2d: _interpolated(2, _linear_weights),
    aten.upsample_trilinear3d: _interpolated(3, _linear_weights),
    aten.upsample_bicubic2d: _interpolated(2, _cubic_weights),
    aten._upsample_bilinear2d_aa: _interpolated(2, _antialiased_weights),
    **{getattr(aten, f"upsample_nearest{n}d"): _nearest(n, False) for n in (1, 2, 3)},
    **{getattr(aten, f"_upsample_nearest_exact{n}d"): _nearest(n, True) for n in (1, 2, 3)},
    aten._trilinear: trilinear, aten._weight_norm_interface: weight_norm, aten.glu: nn.glu,
    aten._embedding_bag: embedding_bag, aten._embedding_bag_forward_only: embedding_bag,
    aten.native_dropout_backward: dropout_backward,
    aten._nested_tensor_from_mask_left_aligned: lambda x, mask: False,  # so that encoders do without nested tensors
})  # fmt: skip
ALIKE.update((
    aten.convolution, aten.convolution_overrideable, aten._convolution, aten.native_layer_norm, aten.native_group_norm,
))  # fmt: skip
