"""Elementwise operations as C: what their records spell, in NumPy's loop for the dtypes at hand.

The text is both CUDA and plain C, so that the tests run on any machine what a GPU would run. Functions are the accurate
ones of the precision at hand (``tanhf`` for float32), and no option trades accuracy for speed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ops.families import Elementwise
from ...ops.scalars import C_FUNCTIONS
from ...tape.op import Op, Scalar
from ..ir import Instruction, Value

__all__ = [
    "CTYPE", "PRELUDE", "Unsupported", "check_dtype", "convert", "expression", "functions_of", "in_c", "literal",
    "scalar_of",
    "simpler",
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


def check_dtype(*dtypes: Any) -> None:
    """Raise Unsupported for a dtype that no kernel takes."""
    for dtype in dtypes:
        if np.dtype(dtype).name not in CTYPE:
            raise Unsupported(f"an array of {dtype}")


def _function(name: str, dtype: Any) -> str:
    """The text of one of the functions that C lacks, for one dtype."""
    T, f = CTYPE[dtype.name], "f" if dtype == np.float32 else ""
    return f"DEVICE {T} {name}_{dtype.name}({C_FUNCTIONS[dtype.kind][name].format(T=T, t=dtype.name, f=f)}\n"


def functions_of(called: set[tuple[str, str]]) -> list[str]:
    """The texts of some functions, named with their dtypes, in an order in which they may call each other."""
    tables = [(name, np.dtype(dtype)) for dtype in CTYPE for name in C_FUNCTIONS[np.dtype(dtype).kind]]
    return [_function(name, dtype) for name, dtype in tables if (name, dtype.name) in called]


# -- expressions -------------------------------------------------------------------------------------------------------
Given = Callable[[int, Any], tuple[str, Any]]
"""C for an operand and its dtype, by its number; the dtype asked for is what it may be where it may be any."""


def expression(step: Instruction, values: Sequence[Value], operand: Given) -> tuple[str, set[tuple[str, str]]]:
    """C for one elementwise operation, in the dtype of its result, and the functions that it calls."""
    *loop, result = _loop_dtypes(step, values)
    scalar = scalar_of(step.op)
    if scalar.ufunc and result.kind == "b" and len({*loop}) > 1:
        raise Unsupported(f"{step.op.name} of {loop[0]} and {loop[1]}")  # NumPy's loop for int64 beside uint64
    texts = [convert(*operand(k, dtype), dtype) for k, dtype in enumerate(loop)]
    text, functions = in_c(scalar, loop[0], texts)
    return convert(f"({CTYPE[result.name]})({text})", result, values[step.out].dtype), functions


def _loop_dtypes(step: Instruction, values: Sequence[Value]) -> list[np.dtype[Any]]:
    """The dtypes that the operands are converted to, and that of the result before it is stored: NumPy's loop."""
    operands, out = [values[n] for n in step.args], values[step.out]
    scalar = scalar_of(step.op)
    if scalar.ufunc:
        weak = [v.number if v.number in (int, float) else v.dtype for v in operands]
        found = list(scalar.ufunc.resolve_dtypes((*weak, *[None] * scalar.ufunc.nout)))
    else:
        found = [*(v.dtype if k in scalar.own else out.dtype for k, v in enumerate(operands)), out.dtype]
    if out.dtype.kind != "f":  # a test of small integers, which NumPy makes in half precision
        found = [np.dtype(np.float32) if dtype == np.float16 else dtype for dtype in found]
    check_dtype(*found)
    return found


def simpler(op: Op) -> Callable[..., Any] | None:
    """The operation in simpler ones: as it declares, or its value, which may be made of functions that are known."""
    if op.expansion is None and isinstance(op, Elementwise) and not (op.spelling and op.spelling.c):
        return op.value
    return op.expansion


def scalar_of(op: Op) -> Scalar:
    """How one entry is computed; Unsupported where that is not known."""
    scalar = op.spelling if isinstance(op, Elementwise) else None
    if scalar is None:
        raise Unsupported(op.name)
    return scalar


def in_c(scalar: Scalar, dtype: np.dtype[Any], operands: Sequence[str]) -> tuple[str, set[tuple[str, str]]]:
    """C for one entry in a loop of a dtype, and the functions that it calls."""
    template = scalar.c.get(dtype.kind)
    if template is None:
        raise Unsupported(f"a loop of {dtype}")
    text = template.format(*operands, T=CTYPE[dtype.name], t=dtype.name, f="f" if dtype == np.float32 else "")
    called = re.findall(rf"\b(\w+)_{dtype.name}\(", text)
    return text, {(each, dtype.name) for each in called if each in C_FUNCTIONS[dtype.kind]}


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
