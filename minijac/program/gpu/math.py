"""The elementwise operations as C: one expression for each, and the functions that C lacks, with NumPy's semantics.

The text is both CUDA and plain C, so that the tests run on any machine what a GPU would run. Functions are the accurate
ones of the precision at hand (``tanhf`` for float32), and no option trades accuracy for speed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ops.elementwise import UFUNCS
from ..ir import Instruction, Value

__all__ = [
    "CTYPE", "HELPERS", "PRELUDE", "Unsupported", "check_dtype", "convert", "expression", "helper", "helpers_of",
    "in_c", "is_known", "literal", "loop_dtypes",
]  # fmt: skip

CTYPE = {
    "float32": "float", "float64": "double", "bool": "bool",
    "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
}  # fmt: skip
"""The dtypes that kernels take; steps with others are called through CuPy."""


class Unsupported(Exception):
    """An operation, or a dtype, that no kernel is generated for."""


PRELUDE = """\
#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define SHARED __shared__
#define SYNC __syncthreads()
#define UNROLL _Pragma("unroll")
#define INFINITE __longlong_as_double(0x7ff0000000000000LL)
#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000LL)
#define VECTOR(NAME, T, W) struct __align__(sizeof(T) * W) NAME { T v[W]; }
"""
"""What CUDA and plain C spell differently. Kernels use these names, and the tests give them another meaning."""

# {T} is the C type, {t} the dtype's name, {f} the suffix of the C library's functions: "f" for float32
FLOAT_HELPERS = {
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
    "exponent": "{T} x) {{ int e; frexp{f}(x, &e); return isfinite(x) ? e : 0; }}",
    "sigmoid": "{T} x) {{ return ({T})0.5 * (1 + tanh{f}(({T})0.5 * x)); }}",
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
INTEGER_HELPERS = {
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
UNSIGNED_HELPERS = INTEGER_HELPERS | {
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
HELPERS = {"f": FLOAT_HELPERS, "i": INTEGER_HELPERS, "u": UNSIGNED_HELPERS, "b": {}}
LOOPS = {op.name: ufunc for ufunc, op in UFUNCS.items()}
RESULTS = {"exponent": "int"}
"""Helpers that return another type than that of their operands."""


def helper(name: str, dtype: Any) -> str:
    """The text of one function of `HELPERS` for one dtype; it is called ``name_dtype``."""
    dtype = np.dtype(dtype)
    T = CTYPE[dtype.name]
    body = HELPERS[dtype.kind][name].format(T=T, t=dtype.name, f="f" if dtype == np.float32 else "")
    return f"DEVICE {RESULTS.get(name, T)} {name}_{dtype.name}({body}\n"


def helpers_of(called: set[tuple[str, str]]) -> list[str]:
    """The texts of some functions, named with their dtypes, in an order in which they may call each other."""

    def by_table(each: tuple[str, str]) -> tuple[str, int]:
        name, dtype = each
        return dtype, list(HELPERS[np.dtype(dtype).kind]).index(name)

    return [helper(*each) for each in sorted(called, key=by_table)]


# -- expressions -------------------------------------------------------------------------------------------------------
# of the operands {0}, {1}, {2} in the loop's type {T}; {f} as above, {name} the operation's own
FLOAT = {
    "negative": "-{0}", "positive": "{0}", "conjugate": "{0}", "abs": "fabs{f}({0})", "fabs": "fabs{f}({0})",
    "square": "{0} * {0}", "reciprocal": "1 / {0}", "rint": "rint{f}({0})",
    "arcsin": "asin{f}({0})", "arccos": "acos{f}({0})", "arctan": "atan{f}({0})",
    "arcsinh": "asinh{f}({0})", "arccosh": "acosh{f}({0})", "arctanh": "atanh{f}({0})",
    "deg2rad": f"{{0}} * ({{T}}){math.pi / 180.0!r}", "rad2deg": f"{{0}} * ({{T}}){180.0 / math.pi!r}",
    "divide": "{0} / {1}", "power": "pow{f}({0}, {1})", "float_power": "pow{f}({0}, {1})",
    "arctan2": "atan2{f}({0}, {1})", "ldexp": "ldexp{f}({0}, (int)({1}))",
    "expit": "1 / (1 + exp{f}(-{0}))", "logit": "log{f}({0} / (1 - {0}))",
    "gamma": "tgamma{f}({0})", "gammaln": "lgamma{f}({0})",
    "loggamma": "({0} < 0 ? ({T})NOT_A_NUMBER : lgamma{f}({0}))",
    "ndtr": "normcdf{f}({0})", "ndtri": "normcdfinv{f}({0})",
    "i0": "cyl_bessel_i0{f}({0})", "i1": "cyl_bessel_i1{f}({0})",
    "relu": "maximum_{t}({0}, ({T})0)", "softplus": "logaddexp_{t}({0}, ({T})0)",
    "clip": "minimum_{t}(maximum_{t}({0}, {1}), {2})",
    "isnan": "{0} != {0}", "isinf": "fabs{f}({0}) == ({T})INFINITE", "isfinite": "fabs{f}({0}) < ({T})INFINITE",
    "signbit": "signbit({0}) != 0",
    **{
        name: f"{name}{{f}}({{0}})"
        for name in (
            "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "cbrt", "sin", "cos", "tan", "sinh",
            "cosh", "tanh", "floor", "ceil", "trunc", "erf", "erfc", "erfcx", "erfinv", "erfcinv", "exp10",
        )
    },
    **{name: f"{name}{{f}}({{0}}, {{1}})" for name in ("hypot", "copysign", "nextafter", "fmod")},
}  # fmt: skip
INTEGER = {
    "negative": "-{0}", "positive": "{0}", "conjugate": "{0}", "square": "{0} * {0}",
    "abs": "({0} < 0 ? -{0} : {0})", "clip": "minimum_{t}(maximum_{t}({0}, {1}), {2})",
    "floor": "{0}", "ceil": "{0}", "trunc": "{0}",
    "isnan": "false", "isinf": "false", "isfinite": "true",
    "invert": "~{0}", "bitwise_and": "{0} & {1}", "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}",
}  # fmt: skip
BOOLEAN = {
    "abs": "{0}", "conjugate": "{0}", "add": "{0} || {1}", "multiply": "{0} && {1}", "invert": "!{0}",
    "isnan": "false", "isinf": "false", "isfinite": "true", "floor": "{0}", "ceil": "{0}", "trunc": "{0}",
    "maximum": "{0} || {1}", "minimum": "{0} && {1}", "fmax": "{0} || {1}", "fmin": "{0} && {1}",
    "clip": "({0} || {1}) && {2}", "bitwise_and": "{0} && {1}", "bitwise_or": "{0} || {1}",
    "bitwise_xor": "{0} != {1}",
}  # fmt: skip
ANY = {
    "add": "{0} + {1}", "subtract": "{0} - {1}", "multiply": "{0} * {1}",
    "equal": "{0} == {1}", "not_equal": "{0} != {1}", "less": "{0} < {1}", "less_equal": "{0} <= {1}",
    "greater": "{0} > {1}", "greater_equal": "{0} >= {1}",
    "logical_not": "!{0}", "logical_and": "{0} && {1}", "logical_or": "{0} || {1}", "logical_xor": "!{0} != !{1}",
    "astype": "{0}", "cast": "{0}", "copy": "{0}",
}  # fmt: skip
NAMES = {"absolute": "abs", "radians": "deg2rad", "degrees": "rad2deg"}
TABLES = {"f": FLOAT | ANY, "i": ANY | INTEGER, "u": ANY | INTEGER | {"abs": "{0}"}, "b": ANY | BOOLEAN}
"""By the kind of the loop's operands. Names that only `HELPERS` has are calls of those."""


def is_known(name: str) -> bool:
    """Whether there is an expression for an operation of floats, by its name; `expression` may refuse it still."""
    return name == "where" or NAMES.get(name, name) in TABLES["f"].keys() | FLOAT_HELPERS.keys()


def loop_dtypes(step: Instruction, values: Sequence[Value]) -> list[np.dtype[Any]]:
    """The dtypes that the operands are converted to, and that of the result before it is stored: NumPy's loop."""
    operands, out = [values[n] for n in step.args], values[step.out]
    ufunc = LOOPS.get(step.op.name)
    if ufunc is not None:
        weak = [v.number if v.number in (int, float, bool) else v.dtype for v in operands]
        weak = [np.dtype(bool) if kind is bool else kind for kind in weak]
        found = ufunc.resolve_dtypes((*weak, *[None] * ufunc.nout))
    elif step.op.name == "where":
        found = [np.dtype(bool), out.dtype, out.dtype, out.dtype]
    elif step.op.name == "exponent":
        found = [operands[0].dtype if operands[0].dtype.kind == "f" else np.dtype(float), out.dtype]
    elif step.op.name in ("astype", "cast", "round") or (len(operands) == 1 and out.dtype == bool):
        found = [operands[0].dtype, out.dtype]
    else:
        found = [out.dtype] * (len(operands) + 1)
    if out.dtype.kind != "f":  # a test of small integers, which NumPy makes in half precision
        found = [np.dtype(np.float32) if dtype == np.float16 else dtype for dtype in found]
    for dtype in found:
        if dtype.name not in CTYPE:
            raise Unsupported(f"{step.op.name} of {dtype}")
    return list(found)


def expression(step: Instruction, values: Sequence[Value], operands: list[str]) -> tuple[str, set[tuple[str, str]]]:
    """C for one elementwise operation of operands already in its loop's dtypes, and the helpers that it calls.

    Raises Unsupported where there is none.
    """
    *loop, _ = loop_dtypes(step, values)
    name = NAMES.get(step.op.name, step.op.name)
    if name == "where":
        return f"{operands[0]} ? {operands[1]} : {operands[2]}", set()
    if (
        name == "power"
        and loop[0].kind == "f"
        and (text := _small_power(values[step.args[1]], operands[0], "f" if loop[0] == np.float32 else ""))
    ):
        return text, set()
    if name == "round":
        return _rounded(step, loop[0], operands[0]), set()
    if name == "sinc" and step.params.get("order", 0):
        raise Unsupported("a derivative of sinc")
    if name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal") and loop[0] != loop[1]:
        raise Unsupported(f"{name} of {loop[0]} and {loop[1]}")  # NumPy's loop for int64 beside uint64
    return _in_c(name, loop[0], operands)


def in_c(ufunc: Any, dtype: np.dtype[Any], operands: list[str]) -> tuple[str, set[tuple[str, str]]]:
    return _in_c(UFUNCS[ufunc].name, dtype, operands)


def check_dtype(*dtypes: Any) -> None:
    """Raise Unsupported for a dtype that no kernel takes."""
    for dtype in dtypes:
        if np.dtype(dtype).name not in CTYPE:
            raise Unsupported(f"an array of {dtype}")


def _in_c(name: str, dtype: np.dtype[Any], operands: list[str]) -> tuple[str, set[tuple[str, str]]]:
    template = TABLES[dtype.kind].get(name)
    if template is None:
        if name not in HELPERS[dtype.kind]:
            raise Unsupported(f"{name} of {dtype}")
        template = f"{name}_{{t}}({', '.join(f'{{{k}}}' for k in range(len(operands)))})"
    text = template.format(*operands, T=CTYPE[dtype.name], t=dtype.name, f="f" if dtype == np.float32 else "")
    used = {(each, dtype.name) for each in HELPERS[dtype.kind] if re.search(rf"\b{each}_{dtype.name}\(", text)}
    return text, used


def _small_power(exponent: Value, x: str, f: str) -> str | None:
    """Products in place of a constant exponent that is a small integer, and the root that NumPy takes for a half."""
    p = exponent.content if exponent.kind == "constant" and exponent.shape == () else None
    if p is None or p not in (0, 0.5, 1, 2, 3, 4, -1, -2):
        return None
    if p == 0.5:
        return f"sqrt{f}({x})"
    return {0: "1", 1: x, 2: f"{x} * {x}", 3: f"{x} * {x} * {x}", 4: f"({x} * {x}) * ({x} * {x})",
            -1: f"1 / {x}", -2: f"1 / ({x} * {x})"}[int(p)]  # fmt: skip


def _rounded(step: Instruction, dtype: Any, x: str) -> str:
    decimals = step.params["decimals"]
    if dtype.kind != "f":
        if decimals >= 0:
            return x
        raise Unsupported("round of integers to tens")
    f, scale = "f" if dtype == np.float32 else "", literal(10.0 ** abs(decimals), dtype)
    if decimals == 0:
        return f"rint{f}({x})"
    return f"rint{f}({x} * {scale}) / {scale}" if decimals > 0 else f"rint{f}({x} / {scale}) * {scale}"


def literal(value: Any, dtype: Any) -> str:
    """A number as C, exactly."""
    dtype = np.dtype(dtype)
    number = np.asarray(value).astype(dtype)[()]
    if dtype.kind == "b":
        return "true" if number else "false"
    if dtype.kind in "iu":
        text = str(int(number))
        if int(number) == np.iinfo(np.int64).min:
            return "(-9223372036854775807LL - 1)"
        suffix = "ULL" if dtype.kind == "u" else "LL"
        return f"({CTYPE[dtype.name]})({text}{suffix})" if dtype.itemsize == 8 else f"({CTYPE[dtype.name]})({text})"
    if np.isnan(number):
        return f"({CTYPE[dtype.name]})NOT_A_NUMBER"
    if np.isinf(number):
        return f"({CTYPE[dtype.name]})({'-' if number < 0 else ''}INFINITE)"
    text = f"{float(number).hex()}{'f' if dtype == np.float32 else ''}"
    return f"({text})" if text.startswith("-") else text


def convert(text: str, source: Any, target: Any) -> str:
    """An expression of one dtype as another."""
    if np.dtype(source) == np.dtype(target):
        return text
    return f"({CTYPE[np.dtype(target).name]})({text})"
