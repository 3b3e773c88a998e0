"""Elementwise operations: a value and one partial derivative for each operand, one line each.

Partials are functions of the output and the operands, written with NumPy functions, so that they differentiate again
and run wherever the operands live. A number is a constant partial; None an operand without a derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import astype, is_complex, special
from ..tape.op import Op
from . import into
from .families import Example, along, elementwise
from .scalars import SCALARS

__all__ = [
    "UFUNCS",
    "astype_op",
    "cast",
    "clip",
    "exponent",
    "imag",
    "length",
    "real",
    "round",
    "sinc",
    "unwrap",
    "where",
]

LN2 = math.log(2.0)
LN10 = math.log(10.0)
ONE = [Example(((3, 4),))]
POSITIVE = [Example(((3, 4),), low=0.2, high=3.0)]
INSIDE = [Example(((3, 4),), low=-0.9, high=0.9)]
PAIR = [Example(((3, 4), (3, 4))), Example(((3, 4), (4,)), shared=(1,)), Example(((3, 1, 4), (3, 2, 1)))]
_TRUTHS = (np.arange(12).reshape(3, 4) % 2 == 0, np.arange(12).reshape(3, 4) % 3 == 0)
TRUTH = [Example(((3, 4),), given={0: _TRUTHS[0]})]
TRUTHS = [Example(((3, 4), (3, 4)), given={0: _TRUTHS[0], 1: _TRUTHS[1]})]
POSITIVE_PAIR = [Example(s.shapes, low=0.3, high=2.0, shared=s.shared) for s in PAIR]


def _tie(x: Any, other: Any, y: Any) -> Any:
    """One where `x` is the extreme `y` of the two, a half where both are: ties are split evenly."""
    return astype(x == y, y.dtype, y) * (1.0 - 0.5 * astype(x == other, y.dtype, y))


def _power_base(y: Any, x: Any, p: Any) -> Any:
    if isinstance(p, int | float | complex):
        return 0.0 if p == 0 else p * x ** (p - 1)
    # where p is 0 the value is 1 for every x, so the derivative is 0 also where x**(p - 1) is infinite
    zero = p == 0
    return np.where(zero, 0.0, p * x ** np.where(zero, 1.0, p - 1))


def _power_exponent(y: Any, x: Any, p: Any) -> Any:
    # 0**p is 0 for every p > 0, so its derivative in p is 0, not 0 * log(0); at p = 0 the slope of the right side
    zero = np.logical_and(x == 0, np.real(p) >= 0)
    return np.where(zero, 0.0, y * np.log(np.where(zero, 1.0, x)))


def _small_power(x: Any, p: Any) -> Any:
    """Products in place of an exponent that is a small number, and the root that NumPy takes for a half."""
    if x.dtype.kind != "f" or not isinstance(p, int | float) or p not in (0, 0.5, 1, 2, 3, 4, -1, -2):
        return NotImplemented
    if p == 0.5:
        return np.sqrt(x)
    if p == 0:
        return np.where(True, 1.0, x)
    square = np.square(x) if abs(p) > 1 else x
    found = square if abs(p) < 3 else square * (x if p == 3 else square)
    return np.reciprocal(found) if p < 0 else np.positive(found) if p == 1 else found


def _either(real: Callable[..., Any], complex: Callable[..., Any]) -> Callable[..., Any]:
    """A partial that is written by the operand for real numbers, and by the value, which knows the branch, for complex
    ones."""
    return lambda y, x: complex(y, x) if is_complex(y) else real(y, x)


def _abs_sign(y: Any, x: Any) -> Any:
    return np.sign(x)


def _part_of_length(y: Any, x: Any) -> Any:
    """``x / y`` for a length `y`, and 0 where that is 0, as for the norm."""
    zero = y == 0
    return np.where(zero, 0.0, x / np.where(zero, 1.0, y))


def _over_root(r: Any, slope: Any, limit: Any, level: Any) -> Any:
    """``slope / r`` of a function of a root, at zero its limit; where the function has a kink there, 0, but not in any
    neighbourhood of it: its derivative is no number."""
    zero = r == 0
    return np.where(zero, np.where(level, limit, np.sqrt(r)), slope / np.where(zero, 1.0, r))


def _of_size(r: Any, slope: Any, limit: Any, level: Any, x: Any) -> tuple[Any]:
    """The slope on either side: at zero 0, from where it goes as the second derivative of both sides has it."""
    return (np.where(r == 0, np.where(np.isfinite(limit), x * limit, np.sqrt(r)), slope * np.sign(x)),)


def _over_squares(x: Any, a: Any, b: Any) -> Any:
    """``x / (a**2 + b**2)``, whose squares may overflow or vanish, and 0 at the origin."""
    r = np.hypot(a, b)
    return _part_of_length(r, _part_of_length(r, x))


def _weight(exp: Any, y: Any, x: Any, other: Any) -> Any:
    """``exp(x - y)``, the share of `x` in ``y = log(exp(x) + exp(other))``, also where both are the same infinity."""
    endless = np.logical_and(np.isinf(y), x == y)
    share = 1.0 - 0.5 * astype(x == other, y.dtype, y)
    return np.where(endless, share, exp(np.where(endless, 0.0, x) - np.where(endless, 0.0, y)))


def _sinc_value(x: Any, order: int = 0) -> Any:
    """The derivative of ``sin(pi x) / (pi x)`` of any order: a series near 0, else the recurrence of ``x sinc(x)``."""
    if order == 0:
        return np.sinc(x)
    near = abs(x) < 1
    inside, outside = np.where(near, x, 0.0), np.where(near, 1.0, x)
    series = 0.0 * inside
    for k in range((order + 1) // 2, order + 20):
        falling = math.factorial(2 * k) // math.factorial(2 * k - order)
        series = series + (-1) ** k * math.pi ** (2 * k) * (falling / math.factorial(2 * k + 1)) * inside ** (
            2 * k - order
        )
    far = np.sinc(outside)
    for n in range(1, order + 1):
        far = (math.pi ** (n - 1) * np.sin(math.pi * outside + n * math.pi / 2) - n * far) / outside
    return np.where(near, series, far)


# -- one operand -------------------------------------------------------------------------------------------------------
_positive = elementwise("positive", np.positive, 1.0, examples=ONE, complex=True)
_square = elementwise("square", np.square, lambda y, x: 2.0 * x, examples=ONE, complex=True)
UFUNCS: dict[Any, Any] = {
    np.negative: elementwise("negative", np.negative, -1.0, examples=ONE, complex=True),
    np.positive: _positive,
    np.exp: elementwise("exp", np.exp, lambda y, x: y, examples=ONE, complex=True),
    np.exp2: elementwise("exp2", np.exp2, lambda y, x: y * LN2, examples=ONE, complex=True),
    np.expm1: elementwise("expm1", np.expm1, lambda y, x: np.exp(x), examples=ONE, complex=True),
    np.log: elementwise("log", np.log, lambda y, x: 1.0 / x, examples=POSITIVE, unbounded="pole", complex=True),
    np.log2: elementwise(
        "log2", np.log2, lambda y, x: 1.0 / (x * LN2), examples=POSITIVE, unbounded="pole", complex=True,
    ),
    np.log10: elementwise(
        "log10", np.log10, lambda y, x: 1.0 / (x * LN10), examples=POSITIVE, unbounded="pole", complex=True,
    ),
    np.log1p: elementwise(
        "log1p", np.log1p, lambda y, x: 1.0 / (1.0 + x), examples=POSITIVE, unbounded="pole", complex=True,
    ),
    np.sqrt: elementwise("sqrt", np.sqrt, lambda y, x: 0.5 / y, examples=POSITIVE, unbounded=True, complex=True),
    np.cbrt: elementwise("cbrt", np.cbrt, lambda y, x: 1.0 / (3.0 * y * y), examples=POSITIVE, unbounded=True),
    np.square: _square,
    np.reciprocal: elementwise(
        "reciprocal", np.reciprocal, lambda y, x: -y * y, examples=POSITIVE, unbounded="pole", complex=True,
    ),
    np.absolute: elementwise("abs", np.absolute, _abs_sign, examples=ONE, rooted=_of_size),
    np.fabs: elementwise("fabs", np.fabs, _abs_sign, examples=ONE, rooted=_of_size),
    np.sin: elementwise("sin", np.sin, lambda y, x: np.cos(x), examples=ONE, complex=True),
    np.cos: elementwise("cos", np.cos, lambda y, x: -np.sin(x), examples=ONE, complex=True),
    np.tan: elementwise("tan", np.tan, lambda y, x: 1.0 + y * y, examples=INSIDE, complex=True),
    np.arcsin: elementwise(
        "arcsin", np.arcsin, _either(lambda y, x: 1.0 / np.sqrt((1.0 - x) * (1.0 + x)), lambda y, x: 1.0 / np.cos(y)),
        examples=INSIDE,
        unbounded=True, complex=True),
    np.arccos: elementwise(
        "arccos", np.arccos, _either(lambda y, x: -1.0 / np.sqrt((1.0 - x) * (1.0 + x)), lambda y, x: -1.0 / np.sin(y)),
        examples=INSIDE,
        unbounded=True, complex=True),
    np.arctan: elementwise("arctan", np.arctan, lambda y, x: 1.0 / (1.0 + x * x), examples=ONE, complex=True),
    np.sinh: elementwise("sinh", np.sinh, lambda y, x: np.cosh(x), examples=ONE, complex=True),
    np.cosh: elementwise("cosh", np.cosh, lambda y, x: np.sinh(x), examples=ONE, complex=True),
    np.tanh: elementwise("tanh", np.tanh, lambda y, x: 1.0 - y * y, examples=ONE, complex=True),
    np.arcsinh: elementwise(
        "arcsinh", np.arcsinh, _either(lambda y, x: 1.0 / np.sqrt(x * x + 1.0), lambda y, x: 1.0 / np.cosh(y)),
        examples=ONE, complex=True,
    ),
    np.arccosh: elementwise(
        "arccosh", np.arccosh,
        _either(lambda y, x: 1.0 / np.sqrt((x - 1.0) * (x + 1.0)), lambda y, x: 1.0 / np.sinh(y)),
        examples=[Example(((3, 4),), low=1.2, high=3.0)], unbounded=True, complex=True,
    ),
    np.arctanh: elementwise(
        "arctanh", np.arctanh, lambda y, x: 1.0 / ((1.0 - x) * (1.0 + x)), examples=INSIDE,
        unbounded=True, complex=True),
    np.deg2rad: elementwise("deg2rad", np.deg2rad, math.pi / 180.0, examples=ONE),
    np.radians: elementwise("radians", np.radians, math.pi / 180.0, examples=ONE),
    np.rad2deg: elementwise("rad2deg", np.rad2deg, 180.0 / math.pi, examples=ONE),
    np.degrees: elementwise("degrees", np.degrees, 180.0 / math.pi, examples=ONE),
    # -- two operands --------------------------------------------------------------------------------------------------
    np.add: elementwise("add", np.add, 1.0, 1.0, examples=PAIR, complex=True),
    np.subtract: elementwise("subtract", np.subtract, 1.0, -1.0, examples=PAIR, complex=True),
    np.multiply: elementwise(
        "multiply", np.multiply, lambda y, a, b: b, lambda y, a, b: a, examples=PAIR, complex=True,
    ),
    np.divide: elementwise(
        "divide", np.divide, lambda y, a, b: np.divide(1.0, b), lambda y, a, b: -y / b, examples=POSITIVE_PAIR,
        unbounded="pole", complex=True),
    np.power: elementwise(
        "power", np.power, _power_base, _power_exponent, examples=POSITIVE_PAIR, shortcuts={1: _positive, 2: _square},
        expansion=_small_power, unbounded=True, complex=True),
    np.float_power: elementwise(
        "float_power", np.float_power, _power_base, _power_exponent, examples=POSITIVE_PAIR,
        unbounded=True, complex=True),
    **{
        ufunc: elementwise(
            ufunc.__name__, ufunc, lambda y, a, b: _tie(a, b, y), lambda y, a, b: _tie(b, a, y), examples=PAIR,
            chooses=True)
        for ufunc in (np.maximum, np.minimum, np.fmax, np.fmin)
    },
    np.arctan2: elementwise(
        "arctan2", np.arctan2, lambda y, a, b: _over_squares(b, a, b), lambda y, a, b: -_over_squares(a, a, b),
        examples=POSITIVE_PAIR),
    np.hypot: elementwise(
        "hypot", np.hypot, lambda y, a, b: _part_of_length(y, a), lambda y, a, b: _part_of_length(y, b),
        examples=POSITIVE_PAIR,
        rooted=lambda r, slope, limit, level, a, b: (a * (q := _over_root(r, slope, limit, level)), b * q)),
    np.logaddexp: elementwise(
        "logaddexp", np.logaddexp, lambda y, a, b: _weight(np.exp, y, a, b), lambda y, a, b: _weight(np.exp, y, b, a),
        examples=PAIR),
    np.logaddexp2: elementwise(
        "logaddexp2", np.logaddexp2, lambda y, a, b: _weight(np.exp2, y, a, b),
        lambda y, a, b: _weight(np.exp2, y, b, a), examples=PAIR),
    np.copysign: elementwise(
        "copysign", np.copysign, lambda y, a, b: np.sign(a) * np.copysign(1.0, b), None, examples=PAIR
    ),
    np.remainder: elementwise(
        "remainder", np.remainder, 1.0, lambda y, a, b: -np.floor_divide(a, b), examples=POSITIVE_PAIR
    ),
    np.fmod: elementwise("fmod", np.fmod, 1.0, lambda y, a, b: -np.rint((a - y) / b), examples=POSITIVE_PAIR),
    np.heaviside: elementwise(
        "heaviside", np.heaviside, None, lambda y, a, b: astype(a == 0, y.dtype, y), examples=POSITIVE_PAIR
    ),
    np.ldexp: elementwise(
        "ldexp",
        np.ldexp,
        lambda y, x, e: np.ldexp(1.0, e),
        None,
        examples=[Example(((3, 4), (4,)), shared=(1,), given={1: np.array([-1, 0, 2, 5])})],
    ),
    np.nextafter: elementwise("nextafter", np.nextafter, 1.0, None, examples=PAIR),
    np.conjugate: elementwise("conjugate", np.conjugate, 0.0, examples=ONE, complex=True, conjugate=1.0),
    # -- zero wherever a derivative exists -----------------------------------------------------------------------------
    **{
        ufunc: elementwise(ufunc.__name__, ufunc, *[None] * ufunc.nin, examples=examples, complex=complex)
        for ufuncs, examples, complex in (
            ((np.sign, np.floor, np.ceil, np.trunc, np.rint, np.signbit, np.spacing), ONE, False),
            ((np.isfinite, np.isinf, np.isnan, np.logical_not), ONE, True),
            ((np.less, np.less_equal, np.greater, np.greater_equal, np.floor_divide), PAIR, False),
            ((np.equal, np.not_equal, np.logical_and, np.logical_or, np.logical_xor), PAIR, True),
            ((np.invert,), TRUTH, False),  # these meet masks under compile
            ((np.bitwise_and, np.bitwise_or, np.bitwise_xor), TRUTHS, False),
        )
        for ufunc in ufuncs
    },
}  # fmt: skip


def _sides(condition: Any) -> tuple[Any, Any, Any]:
    return None, condition, np.logical_not(condition)


where = elementwise(
    "where",
    np.where,
    None,
    lambda y, c, a, b: astype(c, y.dtype, y),
    lambda y, c, a, b: astype(np.logical_not(c), y.dtype, y),
    examples=[Example(((3, 4), (3, 4), (3, 4))), Example(((3, 4), (3, 1), (4,)), shared=(2,))],
    chooses=True,
    complex=True,
    selects=lambda node: _sides(np.broadcast_to(node.args[0], node.out.shape)),
    into=into.where,
    overwrites=2,
)


length = elementwise(
    "length",
    np.sqrt,
    lambda y, squares: np.where(y == 0, 0.0, 0.5 / np.where(y == 0, 1.0, y)),
    examples=POSITIVE,
    rooted=lambda r, slope, limit, level, squares: (0.5 * _over_root(r, slope, limit, level),),
)
"""The square root of a sum of squares: at zero, its kink, it has derivative zero."""


# where the bounds cross, clip returns the upper one
clip = elementwise(
    "clip",
    np.clip,
    lambda y, x, low, high: astype(np.logical_and(low <= x, x <= high), y.dtype, y),
    lambda y, x, low, high: astype(np.logical_and(x < low, low <= high), y.dtype, y),
    lambda y, x, low, high: astype(np.logical_or(x > high, low > high), y.dtype, y),
    examples=[Example(((3, 4), (4,), (3, 1)), low=-2.0, high=2.0, shared=(1,))],
    chooses=True,
)


def _cast(x: Any, dtype: Any) -> Any:
    return (x if hasattr(x, "astype") else np.asarray(x)).astype(dtype)


astype_op = elementwise(
    "astype",
    _cast,
    lambda y, x, dtype: 1.0,
    examples=[Example(((3, 4),), {"dtype": np.float64})],
    scalar=SCALARS["astype"],
    unchanged=lambda shape, dtype: True,
    into=into.converted,
    of_numbers=True,
    complex=True,
)
real = elementwise("real", np.real, 0.5, examples=ONE, complex=True, conjugate=0.5)
imag = elementwise("imag", np.imag, -0.5j, examples=ONE, complex=True, conjugate=0.5j)


sinc: Op = elementwise(
    "sinc",
    _sinc_value,
    lambda y, x, order=0: sinc(x, order=order + 1),
    examples=[Example(((3, 4),)), Example(((3, 4),), {"order": 2})],
    scalar=SCALARS[np.sinc],
    expansion=lambda x, order=0: _sinc_value(x, order) if order else NotImplemented,
)
unwrap = elementwise(
    "unwrap",
    lambda x, axis, discont, period: np.unwrap(x, discont, axis, period=period),
    1.0,
    examples=[Example(((3, 4),), {"axis": 1, "discont": None, "period": 2.5})],
    relation=along,
)
"""Multiples of the period are added: the derivative is that of `x`, entry by entry."""
exponent = elementwise("exponent", lambda x: np.frexp(x)[1], None, examples=ONE, scalar=SCALARS["exponent"])
"""The power of two of a float's representation."""
cast = elementwise(
    "cast",
    _cast,
    None,
    examples=[Example(((3, 4),), {"dtype": np.dtype(int)})],
    scalar=SCALARS["astype"],
    into=into.converted,
    of_numbers=True,
)


def _rounded(x: Any, decimals: int) -> Any:
    if x.dtype.kind != "f":
        return np.positive(x) if decimals >= 0 and x.dtype.kind != "b" else NotImplemented
    scale = 10.0 ** abs(decimals)
    if decimals == 0:
        return np.rint(x)
    return np.rint(x * scale) / scale if decimals > 0 else np.rint(x / scale) * scale


round = elementwise(
    "round",
    lambda x, decimals: np.round(x, decimals),
    None,
    examples=[Example(((3, 4),), {"decimals": 1})],
    expansion=_rounded,
)


# -- networks ----------------------------------------------------------------------------------------------------------
def _sigmoid_value(x: Any) -> Any:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # no overflow at either end


def _softplus_value(x: Any) -> Any:
    return np.logaddexp(x, 0.0)


sigmoid = elementwise(
    "sigmoid", _sigmoid_value, lambda y, x: y * (1.0 - y), examples=ONE, into=into.sigmoid, overwrites=0, complex=True
)
softplus = elementwise("softplus", _softplus_value, lambda y, x: sigmoid(x), examples=ONE, into=into.softplus)
relu = elementwise(
    "relu",
    lambda x: np.maximum(x, 0.0),
    lambda y, x: astype(x > 0, y.dtype, y),
    examples=ONE,
    chooses=True,
    into=into.relu,
    overwrites=0,
)
erf = elementwise(
    "erf",
    lambda x: special("erf", x)(x),
    lambda y, x: 2.0 / math.sqrt(math.pi) * np.exp(-x * x),
    examples=ONE,
    scalar=SCALARS["erf"],
)
