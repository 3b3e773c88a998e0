"""Scalars: how one entry of NumPy's elementwise functions is spelled in generated loops and kernels, one line each.

An operation whose value is made of such functions is spelled by running that value on symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from ..tape.op import Scalar

__all__ = ["BRANCH_FREE", "C_FUNCTIONS", "SCALARS", "TRUTHS", "spelled"]

ARITHMETIC = {
    np.add: "({} + {})", np.subtract: "({} - {})", np.multiply: "({} * {})", np.divide: "({} / {})",
    np.negative: "(-{})", np.positive: "({})", np.square: "({0} * {0})", np.reciprocal: "(T(1) / {})",
    np.sqrt: "root({})", np.absolute: "abs({})", np.fabs: "abs({})", np.conjugate: "({})",
    np.maximum: "where(({0} >= {1}) | ({0} != {0}), {0}, {1})",
    np.minimum: "where(({0} <= {1}) | ({0} != {0}), {0}, {1})",
    np.where: "where({}, {}, {})",
    np.less: "({} < {})", np.less_equal: "({} <= {})", np.greater: "({} > {})", np.greater_equal: "({} >= {})",
    np.equal: "({} == {})", np.not_equal: "({} != {})", np.isnan: "({0} != {0})",
    np.isinf: "(abs({}) == T(1e999))", np.isfinite: "(abs({}) < T(1e999))",
    np.sign: "where({0} > T(0), T(1), where({0} < T(0), T(-1), where({0} == T(0), T(0), {0})))",
}  # fmt: skip
"""Operations of IEEE arithmetic, whose results are NumPy's to the last bit; of 0.0 and -0.0 either may be larger."""
BRANCH_FREE = {
    **{getattr(np, name, name): f"{name}({{}})" for name in (
        "arccos", "arcsin", "arctan", "cos", "cosh", "erf", "exp", "expit", "expm1", "log", "log1p", "sin", "sinh",
        "tan", "tanh",
    )},
    np.arctan2: "arctan2({}, {})", np.logaddexp: "logaddexp({}, {})", np.power: "power({}, {})",
}  # fmt: skip
"""Functions that loops of the CPU compute by schemes of their own, right to a few units in the last place."""
CHEAP = {*ARITHMETIC, np.logical_and, np.logical_or, np.logical_not, np.isfinite, np.isinf, np.sign, "astype"} - {
    np.positive, np.reciprocal, np.fabs, np.conjugate,
}  # fmt: skip
"""Operations that cost less than a read of memory."""

# -- functions in C ----------------------------------------------------------------------------------------------------
# {T} is the C type, {t} the dtype's name, {f} the suffix of the C library's functions: "f" for float32
FLOAT_FUNCTIONS = {
    "sign": "{T} x) {{ return x > 0 ? 1 : x < 0 ? -1 : x == 0 ? 0 : x; }}",
    "maximum": "{T} a, {T} b) {{ return a >= b || a != a ? a : b; }}",
    "minimum": "{T} a, {T} b) {{ return a <= b || a != a ? a : b; }}",
    "fmax": "{T} a, {T} b) {{ return a >= b || b != b ? a : b; }}",
    "fmin": "{T} a, {T} b) {{ return a <= b || b != b ? a : b; }}",
    "remainder": """{T} a, {T} b) {{
  {T} r = fmod{f}(a, b);
  if (b == 0) return r;
  if (r == 0) return copysign{f}(({T})0, b);
  return (b < 0) != (r < 0) ? r + b : r;
}}""",
    "floor_divide": """{T} a, {T} b) {{
  if (b == 0) return a / b;
  {T} r = fmod{f}(a, b), q = (a - r) / b;
  if (r != 0 && (b < 0) != (r < 0)) q -= 1;
  if (q == 0) return copysign{f}(({T})0, a / b);
  {T} whole = floor{f}(q);
  return q - whole > ({T})0.5 ? whole + 1 : whole;
}}""",
    "logaddexp": """{T} a, {T} b) {{
  if (a == b) return a + ({T})0.69314718055994530942;
  {T} d = a - b;
  return d > 0 ? a + log1p{f}(exp{f}(-d)) : d <= 0 ? b + log1p{f}(exp{f}(d)) : d;
}}""",
    "logaddexp2": """{T} a, {T} b) {{
  if (a == b) return a + 1;
  {T} d = a - b, e = ({T})1.44269504088896340736;
  return d > 0 ? a + e * log1p{f}(exp2{f}(-d)) : d <= 0 ? b + e * log1p{f}(exp2{f}(d)) : d;
}}""",
    "heaviside": "{T} x, {T} h) {{ return x > 0 ? 1 : x < 0 ? 0 : x == 0 ? h : x; }}",
    "spacing": """{T} x) {{
  return isfinite(x) ? nextafter{f}(x, copysign{f}(({T})INFINITE, x)) - x : ({T})NOT_A_NUMBER;
}}""",
    "sinc": "{T} x) {{ {T} y = ({T})3.14159265358979323846 * x; return x == 0 ? 1 : sin{f}(y) / y; }}",
    "log_expit": "{T} x) {{ return x < 0 ? x - log1p{f}(exp{f}(x)) : -log1p{f}(exp{f}(-x)); }}",
    "xlogy": "{T} a, {T} b) {{ return a == 0 && b == b ? 0 : a * log{f}(b); }}",
    "xlog1py": "{T} a, {T} b) {{ return a == 0 && b == b ? 0 : a * log1p{f}(b); }}",
    "entr": "{T} x) {{ return x > 0 ? -x * log{f}(x) : x == 0 ? 0 : x != x ? x : -({T})INFINITE; }}",
    "rel_entr": """{T} a, {T} b) {{
  if (a != a || b != b) return a + b;
  return a > 0 && b > 0 ? a * log{f}(a / b) : a == 0 && b >= 0 ? 0 : ({T})INFINITE;
}}""",
    "kl_div": """{T} a, {T} b) {{
  if (a != a || b != b) return a + b;
  return a > 0 && b > 0 ? ({T})(a * log((double)a / b) - a + b) : a == 0 && b >= 0 ? b : ({T})INFINITE;
}}""",
}
INTEGER_FUNCTIONS = {
    "sign": "{T} x) {{ return (x > 0) - (x < 0); }}",
    "maximum": "{T} a, {T} b) {{ return a >= b ? a : b; }}",
    "minimum": "{T} a, {T} b) {{ return a <= b ? a : b; }}",
    "fmax": "{T} a, {T} b) {{ return a >= b ? a : b; }}",
    "fmin": "{T} a, {T} b) {{ return a <= b ? a : b; }}",
    "remainder": """{T} a, {T} b) {{
  if (b == 0 || b == ({T})-1 && ({T})-1 < 0) return 0;
  {T} r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}}""",
    "floor_divide": """{T} a, {T} b) {{
  if (b == 0) return 0;
  if (b == ({T})-1 && ({T})-1 < 0) return ({T})(0 - (unsigned long long)a);
  {T} q = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}}""",
    "fmod": "{T} a, {T} b) {{ return b == 0 || b == ({T})-1 && ({T})-1 < 0 ? 0 : a % b; }}",
    "power": """{T} a, {T} b) {{
  if (b < 0) return a == 1 ? 1 : a == ({T})-1 ? (b % 2 ? ({T})-1 : 1) : 0;
  unsigned long long x = (unsigned long long)a, y = 1;
  for (; b; b /= 2, x *= x) if (b % 2) y *= x;
  return ({T})y;
}}""",
}
UNSIGNED_FUNCTIONS = INTEGER_FUNCTIONS | {
    "sign": "{T} x) {{ return x != 0; }}",
    "remainder": "{T} a, {T} b) {{ return b ? a % b : 0; }}",
    "floor_divide": "{T} a, {T} b) {{ return b ? a / b : 0; }}",
    "fmod": "{T} a, {T} b) {{ return b ? a % b : 0; }}",
    "power": """{T} a, {T} b) {{
  unsigned long long x = a, y = 1;
  for (; b; b /= 2, x *= x) if (b % 2) y *= x;
  return ({T})y;
}}""",
}
C_FUNCTIONS: dict[str, dict[str, str]] = {
    "f": FLOAT_FUNCTIONS,
    "i": INTEGER_FUNCTIONS,
    "u": UNSIGNED_FUNCTIONS,
    "b": {},
}
"""By the kind of their dtype: functions that C lacks, with NumPy's semantics, called as ``name_dtype``."""


# -- expressions in C --------------------------------------------------------------------------------------------------
# of operands {0}, {1}, {2} in the loop's type {T}; {f} and {t} as above; by NumPy's function, or SciPy's name of one
_UNARY = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "cbrt", "sin", "cos", "tan", "sinh", "cosh",
    "tanh", "floor", "ceil", "trunc", "rint", "fabs", "erf", "erfc", "erfcx", "erfinv", "erfcinv", "exp10",
)  # fmt: skip
_FLOAT: dict[Any, str] = {
    **{getattr(np, name, name): f"{name}{{f}}({{0}})" for name in _UNARY},
    **{getattr(np, name): f"{name}{{f}}({{0}}, {{1}})" for name in ("hypot", "copysign", "nextafter", "fmod")},
    **{getattr(np, f"arc{name}"): f"a{name}{{f}}({{0}})" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    np.negative: "-{0}", np.positive: "{0}", np.conjugate: "{0}", np.absolute: "fabs{f}({0})",
    np.square: "{0} * {0}", np.reciprocal: "1 / {0}", np.divide: "{0} / {1}",
    **dict.fromkeys([np.deg2rad, np.radians], f"{{0}} * ({{T}}){math.pi / 180.0!r}"),
    **dict.fromkeys([np.rad2deg, np.degrees], f"{{0}} * ({{T}}){180.0 / math.pi!r}"),
    **dict.fromkeys([np.power, np.float_power], "pow{f}({0}, {1})"),
    np.arctan2: "atan2{f}({0}, {1})", np.ldexp: "ldexp{f}({0}, (int)({1}))", np.signbit: "signbit({0}) != 0",
    np.isnan: "{0} != {0}", np.isinf: "fabs{f}({0}) == ({T})INFINITE", np.isfinite: "fabs{f}({0}) < ({T})INFINITE",
    "expit": "1 / (1 + exp{f}(-{0}))", "logit": "log{f}({0} / (1 - {0}))",
    "gamma": "tgamma{f}({0})", "gammaln": "lgamma{f}({0})",
    "loggamma": "({0} < 0 ? ({T})NOT_A_NUMBER : lgamma{f}({0}))",
    "ndtr": "normcdf{f}({0})", "ndtri": "normcdfinv{f}({0})",
    "i0": "cyl_bessel_i0{f}({0})", "i1": "cyl_bessel_i1{f}({0})",
    "exponent": "(isfinite({0}) && {0} != 0 ? ilogb{f}({0}) + 1 : 0)",
}  # fmt: skip
_WHOLE: dict[Any, str] = {
    **dict.fromkeys([np.floor, np.ceil, np.trunc, np.conjugate, np.positive], "{0}"),
    **dict.fromkeys([np.isnan, np.isinf], "false"), np.isfinite: "true",
    "exponent": "({0} ? ilogb((double)({0})) + 1 : 0)",
}  # fmt: skip
_INTEGER: dict[Any, str] = {
    **_WHOLE, np.negative: "-{0}", np.square: "{0} * {0}", np.absolute: "({0} < 0 ? -{0} : {0})", np.invert: "~{0}",
    np.bitwise_and: "{0} & {1}", np.bitwise_or: "{0} | {1}", np.bitwise_xor: "{0} ^ {1}",
}  # fmt: skip
_TRUTH: dict[Any, str] = {
    **_WHOLE, np.absolute: "{0}", np.invert: "!{0}", np.clip: "({0} || {1}) && {2}", np.bitwise_xor: "{0} != {1}",
    **dict.fromkeys([np.add, np.maximum, np.fmax, np.bitwise_or], "{0} || {1}"),
    **dict.fromkeys([np.multiply, np.minimum, np.fmin, np.bitwise_and], "{0} && {1}"),
}  # fmt: skip
_ANY: dict[Any, str] = {
    np.add: "{0} + {1}", np.subtract: "{0} - {1}", np.multiply: "{0} * {1}", np.where: "{0} ? {1} : {2}",
    np.equal: "{0} == {1}", np.not_equal: "{0} != {1}", np.less: "{0} < {1}", np.less_equal: "{0} <= {1}",
    np.greater: "{0} > {1}", np.greater_equal: "{0} >= {1}",
    np.logical_not: "!{0}", np.logical_and: "{0} && {1}", np.logical_or: "{0} || {1}", np.logical_xor: "!{0} != !{1}",
    np.clip: "minimum_{t}(maximum_{t}({0}, {1}), {2})", "astype": "{0}",
}  # fmt: skip


def _calls(functions: dict[str, str]) -> dict[Any, str]:
    """Calls of the functions that C lacks, which have NumPy's and SciPy's names."""
    found = {}
    for name, body in functions.items():
        operands = ", ".join(f"{{{k}}}" for k in range(body[: body.index(")")].count(",") + 1))
        found[getattr(np, name, name)] = f"{name}_{{t}}({operands})"
    return found


_TABLES = {
    "f": _calls(FLOAT_FUNCTIONS) | _ANY | _FLOAT, "i": _calls(INTEGER_FUNCTIONS) | _ANY | _INTEGER,
    "u": _calls(UNSIGNED_FUNCTIONS) | _ANY | _INTEGER | {np.absolute: "{0}"}, "b": _ANY | _TRUTH,
}  # fmt: skip
_OWN = {np.where: (0,), "astype": (0,), "exponent": (0,)}


LOOPS = ARITHMETIC | BRANCH_FREE
TRUTHS: dict[Any, str] = {
    **dict.fromkeys([np.logical_and, np.bitwise_and, np.multiply, np.minimum], "({} & {})"),
    **dict.fromkeys([np.logical_or, np.bitwise_or, np.add, np.maximum], "({} | {})"),
    **dict.fromkeys([np.logical_xor, np.bitwise_xor, np.not_equal], "({} ^ {})"),
    **dict.fromkeys([np.logical_not, np.invert], "(~{})"), np.equal: "(~({} ^ {}))",
}  # fmt: skip
"""Operations of truth values, as loops of the CPU."""


def _scalar(function: Any) -> Scalar:
    c = {kind: table[function] for kind, table in _TABLES.items() if function in table}
    ufunc = function if isinstance(function, np.ufunc) else None
    return Scalar(LOOPS.get(function), c, function in CHEAP, function is np.where, ufunc, _OWN.get(function, ()))


SCALARS = {function: _scalar(function) for function in {*CHEAP, *LOOPS, *(f for t in _TABLES.values() for f in t)}}
"""By NumPy's function, or by the name of one of SciPy's."""


# -- values that are made of such functions ----------------------------------------------------------------------------
class _Entry(np.lib.mixins.NDArrayOperatorsMixin):
    """An entry that a value is run on: it keeps how what is done to it is spelled."""

    def __init__(self, scalar: Scalar) -> None:
        self.scalar = scalar

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        if method != "__call__" or keywords or ufunc not in SCALARS:
            return NotImplemented
        return _Entry(_composed(SCALARS[ufunc], [_operand(x) for x in inputs]))

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        return NotImplemented if keywords else self.__array_ufunc__(function, "__call__", *args)


def _operand(x: Any) -> Scalar:
    if isinstance(x, _Entry):
        return x.scalar
    number = repr(float(x))
    return Scalar(f"T({number})", cheap=True)


def _composed(outer: Scalar, operands: list[Scalar]) -> Scalar:
    """One function of others, each spelled."""
    loops = [x.loop for x in operands]
    loop = None if outer.loop is None or None in loops else outer.loop.format(*loops)
    return Scalar(loop, cheap=outer.cheap and all(x.cheap for x in operands))


@cache
def spelled(value: Callable[..., Any], count: int) -> Scalar | None:
    """How one entry of a function of `count` operands is computed, where it is made of what has a spelling."""
    if value in SCALARS:
        return SCALARS[value]
    entries = [_Entry(Scalar(f"{{{k}}}", cheap=True)) for k in range(count)]
    with suppress(Exception):  # whatever a function of the user's does with what is no array
        result = value(*entries)
        if isinstance(result, _Entry):
            return result.scalar
    return None
