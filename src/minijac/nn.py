"""Functions of neural networks, on traced values and plain arrays alike, with torch.nn.functional's names and layouts.

The first axis holds the samples, the second the channels, as in torch; `batch_norm` without running statistics is the
only function that mixes samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import namespace
from .errors import InputError
from .numpy.protocol import axes_of
from .ops import convolution as _convolution
from .ops import elementwise as _elementwise
from .ops import special as _special
from .ops.elementwise import relu, sigmoid
from .special import log_softmax as _log_softmax
from .special import logsumexp as _logsumexp
from .special import softmax as _softmax

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d",
    "avg_pool2d", "batch_norm", "celu", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "dropout", "elu", "embedding", "gelu", "glu", "group_norm", "hardsigmoid", "hardswish",
    "hardtanh", "instance_norm", "layer_norm", "leaky_relu", "linear", "log_softmax", "logsigmoid", "logsumexp",
    "max_pool1d", "max_pool2d", "mish", "prelu", "relu", "relu6", "rms_norm", "scaled_dot_product_attention",
    "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh", "tanhshrink",
]  # fmt: skip

Size = int | Sequence[int]
Padding = Size | str


# -- activations, elementwise ------------------------------------------------------------------------------------------
def tanh(x: Any) -> Any:
    return np.tanh(x)


def silu(x: Any) -> Any:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """x where positive, else ``negative_slope * x``; derivative `negative_slope` at 0."""
    return np.where(x > 0, x, negative_slope * x)


def prelu(x: Any, weight: Any) -> Any:
    """`leaky_relu` with a slope for each channel; x: (B, C, ...), weight: (C,) or (1,)."""
    return leaky_relu(x, _along_channels(weight, x))


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where positive, else ``alpha * (exp(x) - 1)``; derivative `alpha` at 0."""
    return np.where(x > 0, x, alpha * np.expm1(x))


def celu(x: Any, alpha: float = 1.0) -> Any:
    """x where positive, else ``alpha * (exp(x / alpha) - 1)``."""
    return np.where(x > 0, x, alpha * np.expm1(x / alpha))


def selu(x: Any) -> Any:
    """The scaled `elu` of Klambauer et al., arXiv:1706.02515."""
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


def gelu(x: Any, approximate: str = "none") -> Any:
    """Gaussian error linear unit ``x Phi(x)``; ``approximate="tanh"`` for the tanh form.

    The exact form needs SciPy (``pip install minijac[special]``). Source: Hendrycks and Gimpel, arXiv:1606.08415.
    """
    if approximate == "tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    if approximate != "none":
        raise InputError(f"gelu: expected approximate='none' or 'tanh', got {approximate!r}")
    return 0.5 * x * (1.0 + _elementwise.erf(x * math.sqrt(0.5)))


def softplus(x: Any, beta: float = 1.0, threshold: float = math.inf) -> Any:
    """``log(1 + exp(beta x)) / beta``, and x where ``beta x > threshold`` (torch's default is 20)."""
    y = _elementwise.softplus(x) if beta == 1.0 else _elementwise.softplus(beta * x) / beta
    return y if threshold == math.inf else np.where(beta * x > threshold, x, y)


def mish(x: Any) -> Any:
    """``x tanh(softplus(x))``."""
    return x * np.tanh(softplus(x))


def logsigmoid(x: Any) -> Any:
    """``log(sigmoid(x))``, without overflow."""
    return -_elementwise.softplus(-x)


def softsign(x: Any) -> Any:
    """``x / (1 + abs(x))``."""
    return x / (1.0 + np.absolute(x))


def tanhshrink(x: Any) -> Any:
    """``x - tanh(x)``."""
    return x - np.tanh(x)


def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """x between the two bounds, else the bound; derivative 0 at a bound, as `relu` has it at 0 (`np.clip`: 1)."""
    return np.where(x <= min_val, min_val, np.where(x >= max_val, max_val, x))


def relu6(x: Any) -> Any:
    """``hardtanh(x, 0, 6)``."""
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: Any) -> Any:
    """``relu6(x + 3) / 6``."""
    return relu6(x + 3.0) / 6.0


def hardswish(x: Any) -> Any:
    """``x * hardsigmoid(x)``; derivative 0 at -3 and 1 at 3, that of the outer pieces."""
    return np.where(x <= -3.0, 0.0, np.where(x >= 3.0, x, x * (x + 3.0) / 6.0))


def glu(x: Any, dim: int = -1) -> Any:
    """The first half along `dim` times the sigmoid of the second."""
    a, b = np.split(x, 2, axis=dim)
    return a * sigmoid(b)


# -- along an axis -----------------------------------------------------------------------------------------------------
def softmax(x: Any, axis: int = -1) -> Any:
    """``exp(x) / sum(exp(x))`` along `axis`; x: any shape, returns the same shape."""
    return _softmax(x, axis)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """Logarithm of `softmax`, without overflow."""
    return _log_softmax(x, axis)


def logsumexp(x: Any, axis: Any = -1, keepdims: bool = False) -> Any:
    """``log(sum(exp(x)))`` along `axis`, without overflow; see `minijac.special.logsumexp` for infinite entries."""
    return _logsumexp(x, axis, keepdims=keepdims)


# -- layers ------------------------------------------------------------------------------------------------------------
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """``x @ weight.T + bias``; x: (B, ..., n), weight: (m, n), bias: (m,), returns (B, ..., m)."""
    y = x @ weight.T
    return y if bias is None else y + bias


def embedding(input: Any, weight: Any) -> Any:
    """Rows of `weight`; input: integers (B, ...), weight: (n, m), returns (B, ..., m)."""
    return weight[input]


def dropout(x: Any, mask: Any, p: float = 0.5) -> Any:
    """``x / (1 - p)`` where `mask` is true or 1, else 0; the mask, which broadcasts to x, is the caller's."""
    return x * (mask * (1.0 / (1.0 - p)))


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    """``softmax(query key.T * scale) value`` over the last two axes.

    Args:
        query: (B, ..., L, E).
        key: (B, ..., S, E).
        value: (B, ..., S, V); returns (B, ..., L, V).
        attn_mask: Boolean (true: takes part) or added to the scores, broadcastable to (B, ..., L, S).
        is_causal: Position i attends to positions up to i.
        scale: ``1 / sqrt(E)`` unless given.

    A query that every key is masked from gives zeros, with derivative zero.
    """
    scores = np.matmul(query * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale), np.swapaxes(key, -1, -2))
    if is_causal:
        nothing = False if attn_mask is None or attn_mask.dtype == bool else -np.inf
        causal = namespace(scores).tri(*scores.shape[-2:], dtype=bool)
        attn_mask = causal if attn_mask is None else np.where(causal, attn_mask, nothing)
    if attn_mask is not None and attn_mask.dtype == bool:
        scores = np.where(attn_mask, scores, -np.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    e = np.exp(scores - _special.peak(scores, axis=(scores.ndim - 1,)))
    total = e.sum(axis=-1, keepdims=True)
    return np.matmul(e / np.where(total == 0, 1.0, total), value)


# -- normalisation -----------------------------------------------------------------------------------------------------
def _along_channels(array: Any, x: Any) -> Any:
    """An array (C,) with axes of length one so that it broadcasts along axis 1 of `x`."""
    return np.reshape(array, (-1, *(1,) * (x.ndim - 2)))


def _normalised(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + eps)


def _scaled(y: Any, weight: Any, bias: Any) -> Any:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _last_axes(x: Any, normalized_shape: Any, axis: Any) -> tuple[int, ...]:
    if normalized_shape is None:
        return axes_of(x, axis, "axis")
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if x.shape[x.ndim - len(shape) :] != shape:
        raise InputError(f"normalized_shape: expected the last axes of {x.shape}, got {shape}.")
    return tuple(range(x.ndim - len(shape), x.ndim))


def layer_norm(
    x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, axis: Any = -1, *, normalized_shape: Any = None
) -> Any:
    """Mean 0 and variance 1 along `axis` (or the last axes, of shape `normalized_shape`), then scale and shift.

    x: (B, ...), weight and bias: of the shape of those axes; returns the shape of x.
    """
    return _scaled(_normalised(x, _last_axes(x, normalized_shape, axis), eps), weight, bias)


def rms_norm(
    x: Any, weight: Any = None, eps: float | None = None, axis: Any = -1, *, normalized_shape: Any = None
) -> Any:
    """``x / sqrt(mean(x**2) + eps)`` along `axis`, then scale; `eps` is the machine epsilon of x unless given."""
    axes = _last_axes(x, normalized_shape, axis)
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    return _scaled(x / np.sqrt(np.square(x).mean(axis=axes, keepdims=True) + eps), weight, None)


def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Mean 0 and variance 1 in each group of channels, then scale and shift; x: (B, C, ...), weight and bias: (C,)."""
    grouped = np.reshape(x, (x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:]))
    y = np.reshape(_normalised(grouped, tuple(range(2, grouped.ndim)), eps), x.shape)
    return _scaled(y, *(None if a is None else _along_channels(a, x) for a in (weight, bias)))


def instance_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """`group_norm` with a group for each channel."""
    return group_norm(x, x.shape[1], weight, bias, eps)


def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    *,
    eps: float = 1e-5,
) -> Any:
    """Normalise each channel; x: (B, C, ...), all others: (C,).

    By the running statistics, sample by sample; or, with `training` or where none are given, by those of the batch,
    which mixes samples: see `on_mixing` of `jacobian`.
    """
    mean, var, weight, bias = (
        None if a is None else _along_channels(a, x) for a in (running_mean, running_var, weight, bias)
    )
    if training or mean is None or var is None:
        return _scaled(_normalised(x, (0, *range(2, x.ndim)), eps), weight, bias)
    return _scaled((x - mean) / np.sqrt(var + eps), weight, bias)


# -- convolutions ------------------------------------------------------------------------------------------------------
def _per_axis(value: Size, n: int, name: str) -> tuple[int, ...]:
    sizes = (int(value),) * n if isinstance(value, int | np.integer) else tuple(int(v) for v in value)
    if len(sizes) != n:
        raise InputError(f"{name}: expected an integer or {n} of them, got {value!r}.")
    return sizes


def _check(x: Any, n: int, name: str) -> None:
    if np.ndim(x) != n + 2:
        axes = ("L", "H, W", "D, H, W")[n - 1]
        raise InputError(f"{name}: expected an input (B, C, {axes}), got shape {np.shape(x)}.")


def _padded(x: Any, widths: Sequence[tuple[int, int]], fill: float = 0.0) -> Any:
    return np.pad(x, ((0, 0), (0, 0), *widths), constant_values=fill) if any(map(any, widths)) else x


def _conv(n: int, x: Any, weight: Any, bias: Any, stride: Size, padding: Padding, dilation: Size, groups: int) -> Any:
    """Windows as columns, and one matmul for each sample and group."""
    _check(x, n, f"conv{n}d")
    out, inner, *kernel = weight.shape
    if x.shape[1] != inner * groups or out % groups:
        raise InputError(
            f"conv{n}d: expected weight (out, {x.shape[1]} // groups, *kernel) with groups={groups} for the input "
            f"{x.shape}, got {weight.shape}."
        )
    stride, dilation = _per_axis(stride, n, "stride"), _per_axis(dilation, n, "dilation")
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        widths = [(r // 2, r - r // 2) for r in reach]
    else:
        widths = [(p, p) for p in _per_axis(0 if padding == "valid" else padding, n, "padding")]  # type: ignore[arg-type]
    windows = _convolution.patches(_padded(x, widths), kernel=tuple(kernel), stride=stride, dilation=dilation)
    batch, places = x.shape[0], windows.shape[2 + n :]
    columns = np.reshape(windows, (batch, groups, inner * math.prod(kernel), math.prod(places)))
    rows = np.reshape(weight, (groups, out // groups, inner * math.prod(kernel)))
    y = np.reshape(np.matmul(rows, columns), (batch, out, *places))
    return y if bias is None else y + _along_channels(bias, y)


def _conv_transpose(
    n: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> Any:
    """The transpose of `_conv`: one matmul, whose columns are added where the windows are."""
    _check(x, n, f"conv_transpose{n}d")
    inner, out, *kernel = weight.shape
    if x.shape[1] != inner or inner % groups:
        raise InputError(
            f"conv_transpose{n}d: expected weight ({x.shape[1]}, out // groups, *kernel) with groups={groups} for the "
            f"input {x.shape}, got {weight.shape}."
        )
    stride, dilation = _per_axis(stride, n, "stride"), _per_axis(dilation, n, "dilation")
    cut, extra = _per_axis(padding, n, "padding"), _per_axis(output_padding, n, "output_padding")
    batch, _, *places = x.shape
    size = tuple(s * (p - 1) + d * (k - 1) + 1 for s, p, d, k in zip(stride, places, dilation, kernel, strict=True))
    rows = np.reshape(weight, (groups, inner // groups, out * math.prod(kernel)))
    columns = np.matmul(np.swapaxes(rows, -1, -2), np.reshape(x, (batch, groups, inner // groups, -1)))
    windows = np.reshape(columns, (batch, groups * out, *kernel, *places))
    y = _convolution.unpatches(windows, kernel=tuple(kernel), stride=stride, dilation=dilation, size=size)
    y = _padded(y, [(0, e) for e in extra])
    y = y[(..., *(slice(c, s + e - c) for c, s, e in zip(cut, size, extra, strict=True)))]
    return y if bias is None else y + _along_channels(bias, y)


def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: Size = 1, padding: Padding = 0, dilation: Size = 1, groups: int = 1
) -> Any:
    """Convolution (without flipping the kernel); x: (B, C, L), weight: (out, C // groups, k), bias: (out,).

    `padding` may be "same" or "valid". Cost: the windows are copied, k times the input. Returns (B, out, L').
    """
    return _conv(1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Size = 1, padding: Padding = 0, dilation: Size = 1, groups: int = 1
) -> Any:
    """As `conv1d`; x: (B, C, H, W), weight: (out, C // groups, kh, kw)."""
    return _conv(2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(
    x: Any, weight: Any, bias: Any = None, stride: Size = 1, padding: Padding = 0, dilation: Size = 1, groups: int = 1
) -> Any:
    """As `conv1d`; x: (B, C, D, H, W), weight: (out, C // groups, kd, kh, kw)."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Any:
    """The transpose of `conv1d` in x; x: (B, C, L), weight: (C, out // groups, k), bias: (out,)."""
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Any:
    """As `conv_transpose1d`; x: (B, C, H, W), weight: (C, out // groups, kh, kw)."""
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Any:
    """As `conv_transpose1d`; x: (B, C, D, H, W), weight: (C, out // groups, kd, kh, kw)."""
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, groups, dilation)


# -- pooling -----------------------------------------------------------------------------------------------------------
def _pool_windows(
    n: int, x: Any, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool, fill: float
) -> tuple[Any, list[tuple[int, int]]]:
    """The windows (B, C, *kernel, *places), and by how much the input was padded beyond `padding`."""
    _check(x, n, f"pool{n}d")
    kernel = _per_axis(kernel, n, "kernel_size")
    stride = kernel if stride is None else _per_axis(stride, n, "stride")
    padding, dilation = _per_axis(padding, n, "padding"), _per_axis(dilation, n, "dilation")
    widths = []
    for size, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        last = -(-(size + 2 * p - reach) // s) * s  # where the last window starts, part of it beyond the end
        while last >= size + p:
            last -= s
        widths.append((p, max(p, last + reach - size - p) if ceil_mode else p))
    x = _padded(x, widths, fill)
    if stride != kernel or any(d > 1 for d in dilation):
        return _convolution.patches(x, kernel=kernel, stride=stride, dilation=dilation), widths
    places = [size // k for size, k in zip(x.shape[2:], kernel, strict=True)]  # no two windows meet: axes, and no more
    inside = x[(..., *(slice(m * k) for m, k in zip(places, kernel, strict=True)))]
    apart = np.reshape(inside, (*x.shape[:2], *itertools.chain(*zip(places, kernel, strict=True))))
    return np.transpose(apart, (0, 1, *range(3, 2 * n + 2, 2), *range(2, 2 * n + 2, 2))), widths


def _max_pool(n: int, x: Any, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool) -> Any:
    windows, _ = _pool_windows(n, x, kernel, stride, padding, dilation, ceil_mode, -math.inf)
    return np.max(windows, axis=tuple(range(2, 2 + n)))


def _avg_pool(
    n: int,
    x: Any,
    kernel: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Any:
    windows, widths = _pool_windows(n, x, kernel, stride, padding, 1, ceil_mode, 0.0)
    axes = tuple(range(2, 2 + n))
    if divisor is not None:
        return windows.sum(axis=axes) / divisor
    inside = _per_axis(padding, n, "padding")
    if all(before == after for before, after in widths) and (count_include_pad or not any(inside)):
        return windows.mean(axis=axes)
    ones = namespace(x).ones((1, 1, *x.shape[2:]), x.dtype)
    if count_include_pad:  # what was padded counts, what only completes the last window does not
        padded = _padded(ones, [(p, p) for p in inside], 1.0)
        counted = _padded(padded, [(0, after - before) for before, after in widths])
    else:
        counted = _padded(ones, widths)
    stride = kernel if stride is None else stride
    counts, _ = _pool_windows(n, counted, kernel, stride, 0, 1, False, 0.0)
    return windows.sum(axis=axes) / counts.sum(axis=axes)


def max_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Any:
    """The largest entry of each window; x: (B, C, L), returns (B, C, L'). Ties share the derivative evenly."""
    return _max_pool(1, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Any:
    """As `max_pool1d`; x: (B, C, H, W)."""
    return _max_pool(2, x, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window; x: (B, C, L), returns (B, C, L')."""
    return _avg_pool(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """As `avg_pool1d`; x: (B, C, H, W)."""
    return _avg_pool(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _averages(size: int, places: int, x: Any) -> Any:
    """The matrix (places, size) of the means of `places` windows that cover an axis as evenly as they can."""
    xp = namespace(x)
    start = xp.arange(places) * size // places
    stop = -(-(xp.arange(places) + 1) * size // places)
    at = xp.arange(size)
    inside = (at >= start[:, None]) & (at < stop[:, None])
    return (inside / (stop - start)[:, None]).astype(x.dtype)


def _averaged(x: Any, axis: int, places: int) -> Any:
    """The means of `places` windows that cover an axis, counted from behind, as evenly as they can."""
    n = x.shape[axis]
    if places and n % places == 0:  # of one size
        axis += x.ndim
        return np.reshape(x, (*x.shape[:axis], places, n // places, *x.shape[axis + 1 :])).mean(axis=axis + 1)
    return _mapped(x, _averages(n, places, x), axis)


def _mapped(x: Any, matrix: Any, axis: int) -> Any:
    """A constant matrix (out, in) along an axis, counted from behind."""
    if axis == -2:
        return np.matmul(matrix, x)
    return (
        np.matmul(x, matrix.T) if axis == -1 else np.moveaxis(np.matmul(np.moveaxis(x, axis, -1), matrix.T), -1, axis)
    )


def _places(n: int, x: Any, output_size: Any, kind: str) -> tuple[int, ...]:
    """How many windows there are along each axis; None: as many as entries."""
    _check(x, n, f"adaptive_{kind}_pool{n}d")
    given = output_size if isinstance(output_size, list | tuple) else (output_size,) * n
    return _per_axis([x.shape[2 + k] if size is None else size for k, size in enumerate(given)], n, "output_size")


def adaptive_avg_pool1d(x: Any, output_size: Size) -> Any:
    """Means over `output_size` windows that cover the axis; x: (B, C, L), returns (B, C, output_size)."""
    (places,) = _places(1, x, output_size, "avg")
    return _averaged(x, -1, places)


def adaptive_avg_pool2d(x: Any, output_size: int | Sequence[int | None] | None) -> Any:
    """As `adaptive_avg_pool1d`; x: (B, C, H, W); None leaves an axis as it is."""
    rows, columns = _places(2, x, output_size, "avg")
    return _averaged(_averaged(x, -1, columns), -2, rows)


def adaptive_max_pool1d(x: Any, output_size: Size) -> Any:
    """Maxima over the windows of `adaptive_avg_pool1d`; ties are split evenly."""
    (places,) = _places(1, x, output_size, "max")
    return _adaptive_max(x, places)


def adaptive_max_pool2d(x: Any, output_size: int | Sequence[int | None] | None) -> Any:
    """As `adaptive_max_pool1d`; x: (B, C, H, W); None leaves an axis as it is."""
    rows, columns = _places(2, x, output_size, "max")
    return np.stack(
        [_adaptive_max(x[..., window, :], columns, axis=(-2, -1)) for window in _windows(x.shape[2], rows)], 2
    )


def _adaptive_max(x: Any, places: int, axis: Any = -1) -> Any:
    return np.stack([x[..., window].max(axis=axis) for window in _windows(x.shape[-1], places)], axis=-1)


def _windows(n: int, places: int) -> list[slice]:
    return [slice(k * n // places, -(-(k + 1) * n // places)) for k in range(places)]
