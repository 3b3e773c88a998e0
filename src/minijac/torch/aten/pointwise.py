"""Operations entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import nn, special
from ...backend import astype, namespace, value_of
from ...ops import elementwise
from .registry import COMPLEX, TABLE, aten, cast, floating, promoted


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: function(floating(x))


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: function(*promoted(a, b))


def _binary_float(function: Callable[..., Any]) -> Callable[..., Any]:
    def on_floats(a: Any, b: Any) -> Any:
        a, b = promoted(a, b)
        return function(floating(a) if hasattr(a, "dtype") else a, floating(b) if hasattr(b, "dtype") else b)

    return on_floats


TABLE.update({
    packet: _unary(elementwise.UFUNCS[ufunc])
    for packet, ufunc in {
        aten.exp: np.exp, aten.exp2: np.exp2, aten.expm1: np.expm1, aten.log: np.log, aten.log2: np.log2,
        aten.log10: np.log10, aten.log1p: np.log1p, aten.sqrt: np.sqrt, aten.sin: np.sin, aten.cos: np.cos,
        aten.tan: np.tan, aten.asin: np.arcsin, aten.acos: np.arccos, aten.atan: np.arctan, aten.sinh: np.sinh,
        aten.cosh: np.cosh, aten.tanh: np.tanh, aten.asinh: np.arcsinh, aten.acosh: np.arccosh,
        aten.atanh: np.arctanh, aten.reciprocal: np.reciprocal, aten.deg2rad: np.deg2rad, aten.rad2deg: np.rad2deg,
    }.items()
})  # fmt: skip
TABLE.update({
    packet: elementwise.UFUNCS[ufunc]
    for packet, ufunc in {
        aten.neg: np.negative, aten.square: np.square, aten.sign: np.sign,
        aten.floor: np.floor, aten.ceil: np.ceil, aten.trunc: np.trunc, aten.isnan: np.isnan, aten.isinf: np.isinf,
        aten.isfinite: np.isfinite, aten.logical_not: np.logical_not, aten.bitwise_not: np.invert,
        aten.signbit: np.signbit, aten.positive: np.positive,
    }.items()
})  # fmt: skip
TABLE.update({
    packet: _binary(ufunc)
    for packet, ufunc in {
        aten.mul: np.multiply, aten.maximum: np.maximum, aten.minimum: np.minimum, aten.fmax: np.fmax,
        aten.fmin: np.fmin, aten.hypot: np.hypot, aten.logaddexp: np.logaddexp, aten.logaddexp2: np.logaddexp2,
        aten.remainder: np.remainder, aten.fmod: np.fmod, aten.nextafter: np.nextafter, aten.floor_divide:
        np.floor_divide, aten.eq: np.equal, aten.ne: np.not_equal, aten.lt: np.less, aten.le: np.less_equal,
        aten.gt: np.greater, aten.ge: np.greater_equal, aten.bitwise_and: np.bitwise_and,
        aten.bitwise_or: np.bitwise_or, aten.bitwise_xor: np.bitwise_xor, aten.copysign: np.copysign,
        aten.heaviside: np.heaviside, aten.logical_and: np.logical_and, aten.logical_or: np.logical_or,
        aten.logical_xor: np.logical_xor, aten.__and__: np.bitwise_and, aten.__or__: np.bitwise_or,
        aten.__xor__: np.bitwise_xor,
    }.items()
})  # fmt: skip
_UNARY: dict[Any, Callable[..., Any]] = {
        aten.sigmoid: elementwise.sigmoid, aten.erf: special.erf, aten.erfc: special.erfc, aten.erfinv: special.erfinv,
        aten.lgamma: special.gammaln, aten.digamma: special.digamma, aten.i0: special.i0,
        aten.special_i0e: special.i0e, aten.special_i1: special.i1, aten.special_i1e: special.i1e,
        aten.special_ndtri: special.ndtri, aten.special_erfcx: special.erfcx, aten.special_entr: special.entr,
        aten.special_log_ndtr: special.log_ndtr, aten.silu: nn.silu, aten.mish: nn.mish,
        aten.hardsigmoid: lambda x: np.where(x <= -3.0, 0.0, np.where(x >= 3.0, 1.0, x / 6.0 + 0.5)),
        aten.hardswish: nn.hardswish, aten.selu: nn.selu, aten.log_sigmoid: nn.logsigmoid, aten.sinc: np.sinc,
        aten.rsqrt: lambda x: 1.0 / np.sqrt(x), aten.frac: lambda x: x - np.trunc(value_of(x)),
        aten.relu6: nn.relu6, aten.log_sigmoid_forward: lambda x: (nn.logsigmoid(x), np.zeros_like(value_of(x))),
        aten.special_ndtr: lambda x: 0.5 * special.erfc(x * -math.sqrt(0.5)),
}  # fmt: skip
TABLE.update({packet: _unary(function) for packet, function in _UNARY.items()})


def add(a: Any, b: Any, alpha: Any = 1) -> Any:
    a, b = promoted(a, b)
    return a + (b if alpha == 1 else b * alpha)


def sub(a: Any, b: Any, alpha: Any = 1) -> Any:
    a, b = promoted(a, b)
    return a - (b if alpha == 1 else b * alpha)


def div(a: Any, b: Any, rounding_mode: Any = None) -> Any:
    a, b = promoted(a, b)
    if rounding_mode == "floor":
        return np.floor_divide(a, b)
    if rounding_mode == "trunc":
        return np.trunc(a / b) if a.dtype.kind == "f" else astype(np.trunc(a / b), a.dtype, a)
    return np.divide(*[floating(x) if hasattr(x, "dtype") else x for x in (a, b)])


def power(a: Any, b: Any) -> Any:
    a, b = promoted(a, b)
    if not hasattr(b, "dtype"):
        if b == 2:
            return np.square(a)
        if b == 0.5:
            return np.sqrt(a)
    return np.power(a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    condition = value_of(condition)
    return elementwise.where(condition if condition.dtype.kind == "b" else condition != 0, *promoted(a, b))


_BOUNDS = (int, float, type(None))


def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    if x.dtype.kind == "f" and type(low) in _BOUNDS and type(high) in _BOUNDS:
        return elementwise.clip(x, -math.inf if low is None else low, math.inf if high is None else high)
    bounds = [bound for bound in (low, high) if bound is not None]
    x, *bounds = promoted(x, *bounds)
    low = bounds.pop(0) if low is not None else None
    high = bounds.pop(0) if high is not None else None
    if any(hasattr(bound, "dtype") for bound in (low, high)):
        x = x if low is None else np.where(x < low, low, x)
        return x if high is None else np.where(x > high, high, x)
    return np.clip(x, low, high)


def elu(x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    negative = scale * alpha * np.expm1(x * input_scale)
    return np.where(x > 0, x if scale == 1 else x * scale, negative)


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return np.where(mask, astype(value, x.dtype, x) if hasattr(value, "dtype") else value, x)


def logit(x: Any, eps: Any = None) -> Any:
    x = x if eps is None else np.clip(x, eps, 1 - eps)
    return np.log(x / (1 - x))


def to_copy(x: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
            non_blocking: bool = False, memory_format: Any = None) -> Any:  # fmt: skip
    return cast(x, dtype) if dtype is not None else np.copy(x)


def fill(x: Any, value: Any) -> Any:
    value = astype(value, x.dtype, x) if hasattr(value, "dtype") else namespace(x).asarray(value, x.dtype)
    return np.broadcast_to(value, x.shape)


def float_power(a: Any, b: Any) -> Any:
    a, b = (astype(x, np.float64, x) if hasattr(x, "dtype") else float(x) for x in (a, b))
    return np.power(a, b)


def lerp(start: Any, end: Any, weight: Any) -> Any:
    start, end, weight = promoted(start, end, weight)
    return start + weight * (end - start)


def _added(function: Callable[..., Any]) -> Callable[..., Any]:
    """``x + value * function(a, b)``."""

    def added(x: Any, a: Any, b: Any, value: Any = 1) -> Any:
        x, a, b = promoted(x, a, b)
        y = function(a, b)
        return x + (y if value == 1 else value * y)

    return added


def angle(x: Any) -> Any:
    return np.angle(x) if x.dtype.kind == "c" else np.where(np.isnan(x), x, np.where(x < 0, math.pi, 0.0)) * 1.0


TABLE.update({
    aten.add: add, aten.sub: sub, aten.div: div, aten.true_divide: div, aten.pow: power, aten.clamp: clamp,
    aten.clamp_min: lambda x, low: clamp(x, low), aten.clamp_max: lambda x, high: clamp(x, None, high),
    **dict.fromkeys((aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar), where),
    aten.masked_fill: masked_fill, aten.logit: logit,
    aten.round: lambda x, decimals=0: np.round(x, decimals),
    aten.lerp: lerp,
    aten.threshold: lambda x, threshold, value: np.where(x <= threshold, value, x),
    aten.softplus: lambda x, beta=1, threshold=20: nn.softplus(x, float(beta), float(threshold)), aten.elu: elu,
    aten.gelu: lambda x, approximate="none": nn.gelu(x, approximate), aten.xlogy: _binary_float(special.xlogy),
    aten.special_xlog1py: _binary(special.xlog1py),
    aten.polygamma: lambda n, x: special.polygamma(n, floating(x)), aten._to_copy: to_copy,
    aten.nan_to_num: lambda x, nan=None, posinf=None, neginf=None: np.nan_to_num(
        x, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf),
    aten.addcmul: _added(np.multiply), aten.addcdiv: _added(np.divide),
    aten.rsub: lambda a, b, alpha=1: sub(b, a, alpha),
    aten._prelu_kernel: lambda x, weight: np.where(x > 0, x, weight * x),
    aten.copy: lambda x, source, non_blocking=False: np.broadcast_to(astype(source, x.dtype, x), x.shape),
    aten.fill: fill, aten.zero: lambda x: namespace(x).zeros(x.shape, x.dtype), aten.atan2: _binary_float(np.arctan2),
    aten.isclose: lambda a, b, rtol=1e-5, atol=1e-8, equal_nan=False:
        np.logical_or(a == b, np.abs(a - b) <= atol + rtol * np.abs(b)),
    aten.float_power: float_power,
    aten.ldexp: _binary_float(lambda a, b: a * np.exp2(b)),
    aten.hardshrink: lambda x, lambd=0.5: np.where(np.logical_and(x >= -lambd, x <= lambd), 0.0, x),
    aten.softshrink: lambda x, lambd=0.5: np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, 0.0 * x)),
    aten.relu: elementwise.relu, aten.hardtanh: nn.hardtanh, aten.leaky_relu: nn.leaky_relu,
    aten.clone: lambda x, memory_format=None: np.copy(x), aten.celu: lambda x, alpha=1.0: nn.celu(x, alpha),
    aten.lift_fresh: lambda x: x, aten.frexp: lambda x: tuple(np.frexp(x)),
    aten.abs: np.absolute, aten.sgn: np.sign, aten.conj_physical: np.conj, aten._conj_physical: np.conj,
    aten.complex: lambda re, im: re + 1j * im,
    aten.polar: lambda r, angle: r * np.cos(angle) + 1j * (r * np.sin(angle)), aten.angle: angle,
    aten.mvlgamma: lambda x, p: p * (p - 1) / 4 * math.log(math.pi)
    + sum(special.gammaln(x - 0.5 * k) for k in range(p)),
    aten.sigmoid_backward: _binary(lambda g, y: g * (y * (1.0 - y))),
    aten.tanh_backward: _binary(lambda g, y: g * (1.0 - y * y)),
    aten.threshold_backward: lambda g, x, t: np.where(x <= t, 0.0, promoted(g, x)[0]),
})  # fmt: skip
COMPLEX.update((
    aten.exp, aten.log, aten.sqrt, aten.sin, aten.cos, aten.tan, aten.sinh, aten.cosh, aten.tanh, aten.reciprocal,
    aten.neg, aten.abs, aten.square, aten.sgn, aten.angle, aten.conj_physical, aten._conj_physical, aten.add, aten.sub,
    aten.mul, aten.div, aten.true_divide, aten.rsub, aten.pow, aten.addcmul, aten.addcdiv, aten.lerp, aten.eq, aten.ne,
    aten.isnan, aten.isfinite, aten.where, aten.masked_fill, aten.copy, aten.fill, aten.zero, aten.clone,
    aten._to_copy, aten.lift_fresh,
))  # fmt: skip
