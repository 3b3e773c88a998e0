"""Lowering: how each operation is carried out by NumPy calls that write into a given array.

An operation that is not listed here is called as it is, and its result copied.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Protocol

import numpy as np

from ...algebra.labels import labels_in
from ...algebra.writing import covers, strided
from ..ir import Instruction, Program

__all__ = ["IN_PLACE", "LOWER", "elementwise_ufunc", "fixed_background", "ufunc"]


class Code(Protocol):
    """What a lowering may use of the executor that it writes code for."""

    program: Program

    def name(self, content: Any) -> str:
        """A name for an object in the generated code."""

    def line(self, text: str) -> None:
        """Append a line of code."""

    def array(self, n: int) -> Any:
        """The array of a value, where it is the same in every call, else None."""

    def reference(self, n: int) -> str:
        """The name of a value's array."""

    def part(self, n: int, index: Any) -> str:
        """The name of a view of a value's array by a basic index."""


def elementwise_ufunc(step: Instruction) -> bool:
    """Whether a step is one NumPy ufunc that reads and writes each entry by itself."""
    value: Any = step.op.value
    plain = isinstance(value, np.ufunc) and value.signature is None and value.nout == 1
    return plain and value.nin == len(step.args) and not step.params


def fixed_background(step: Instruction) -> bool:
    """Whether a step writes some entries of its result, the same ones every time, and leaves others at a constant."""
    if step.op.name == "superpose":
        return not any(meets or covers(axes) for _, axes, meets in step.params["parts"])
    return step.op.name in ("pad", "embed") or (step.op.name == "relabel" and not covers(step.params["out"]))


# -- one function for each operation: of code, step, names of operands, name of the result; False means "cannot" ------
def ufunc(code: Code, step: Instruction, args: list[str], out: str) -> Any:
    keyword = "out=" if step.op.value in (np.maximum, np.minimum) else ""  # which take more operands, one day
    code.line(f"{code.name(step.op.value)}({', '.join([*args, keyword + out])})")


def _matmul(code: Code, step: Instruction, args: list[str], out: str) -> None:
    values = code.program.values
    a, b = (values[n] for n in step.args)
    if len(a.shape) == len(b.shape) == 2 and a.dtype == b.dtype and all((*a.shape, *b.shape)):
        code.line(f"{code.name(np.dot)}({args[0]}, {args[1]}, {out})")  # costs less for small matrices
    else:
        ufunc(code, step, args, out)


def _reduction(ufunc: Any) -> Callable[..., Any]:
    def lower(code: Code, step: Instruction, args: list[str], out: str) -> None:
        axis, keepdims = code.name(step.params["axis"]), code.name(bool(step.params.get("keepdims", False)))
        code.line(f"{code.name(ufunc.reduce)}({args[0]}, {axis}, None, {out}, {keepdims})")

    return lower


def _mean(code: Code, step: Instruction, args: list[str], out: str) -> Any:
    if code.program.values[step.out].dtype == np.float16:  # which NumPy sums in single precision
        return False
    shape = code.program.values[step.args[0]].shape
    axis = step.params["axis"]
    count = float(np.prod([shape[k] for k in ((axis,) if isinstance(axis, int) else axis)], dtype=float))
    _reduction(np.add)(code, step, args, out)
    code.line(f"{code.name(np.divide)}({out}, {code.name(count)}, {out})")
    return None


def _where(code: Code, step: Instruction, args: list[str], out: str) -> Any:
    if code.program.values[step.args[0]].dtype != bool:
        return False
    if args[2] != out:
        code.line(f"copyto({out}, {args[2]})")
    code.line(f"copyto({out}, {args[1]}, where={args[0]})")
    return None


def _sigmoid(code: Code, step: Instruction, args: list[str], out: str) -> None:
    dtype = code.program.values[step.out].dtype
    multiply, tanh, add = code.name(np.multiply), code.name(np.tanh), code.name(np.add)
    half, one = code.name(np.asarray(0.5, dtype)), code.name(np.asarray(1.0, dtype))
    code.line(f"{multiply}({args[0]}, {half}, {out})")
    code.line(f"{tanh}({out}, {out})")
    code.line(f"{add}({out}, {one}, {out})")
    code.line(f"{multiply}({out}, {half}, {out})")


def _softplus(code: Code, step: Instruction, args: list[str], out: str) -> None:
    code.line(f"{code.name(np.logaddexp)}({args[0]}, 0.0, {out})")


def _relu(code: Code, step: Instruction, args: list[str], out: str) -> None:
    code.line(f"{code.name(np.maximum)}({args[0]}, 0.0, out={out})")


def _convert(code: Code, step: Instruction, args: list[str], out: str) -> None:
    code.line(f"copyto({out}, {args[0]}, 'unsafe')")


def _copy(code: Code, step: Instruction, args: list[str], out: str) -> None:
    code.line(f"copyto({out}, {args[0]})")


def _reshape(code: Code, step: Instruction, args: list[str], out: str) -> None:
    """A reshape that has to copy: into the result, seen in the operand's shape."""
    shape = code.program.values[step.args[0]].shape
    array = code.array(step.out)
    target = code.name(array.reshape(shape)) if array is not None else f"{out}.reshape({code.name(shape)})"
    code.line(f"copyto({target}, {args[0]})")


def _concatenate(code: Code, step: Instruction, args: list[str], out: str) -> None:
    code.line(f"{code.name(np.concatenate)}(({', '.join(args)},), {code.name(step.params['axis'])}, {out})")


def _roll(code: Code, step: Instruction, args: list[str], out: str) -> None:
    axis, shape = step.params["axis"], code.program.values[step.out].shape
    n = shape[axis]
    shift = step.params["shift"] % n if n else 0
    lead = (slice(None),) * axis
    for target, source in ((slice(shift, n), slice(0, n - shift)), (slice(0, shift), slice(n - shift, n))):
        if target.start < target.stop:
            code.line(f"copyto({code.part(step.out, (*lead, target))}, {code.part(step.args[0], (*lead, source))})")


def _cumsum(code: Code, step: Instruction, args: list[str], out: str) -> None:
    axis = step.params["axis"]
    if step.params.get("reverse", False):
        back = (*(slice(None),) * axis, slice(None, None, -1))
        args, out = [code.part(step.args[0], back)], code.part(step.out, back)
    code.line(f"{code.name(np.add.accumulate)}({args[0]}, {code.name(axis)}, None, {out})")


def _take(code: Code, step: Instruction, args: list[str], out: str) -> None:
    code.line(f"{args[0]}.take({args[1]}, {code.name(step.params['axis'])}, {out})")


def _gather(code: Code, step: Instruction, args: list[str], out: str) -> None:
    shape, lead = code.program.values[step.args[0]].shape, step.params.get("lead", 0)
    flat = (*shape[:lead], int(np.prod(shape[lead:], dtype=int)))
    array = code.array(step.args[0])
    contiguous = array is not None and array.flags.c_contiguous
    source = code.name(array.reshape(flat)) if contiguous else f"{args[0]}.reshape({code.name(flat)})"
    code.line(f"{source}.take({args[1]}, {code.name(lead)}, {out})")


def _einsum(code: Code, step: Instruction, args: list[str], out: str) -> None:
    code.line(f"{code.name(np.einsum)}({code.name(step.params['subscripts'])}, {', '.join(args)}, out={out})")


def _pad(code: Code, step: Instruction, args: list[str], out: str) -> Any:
    if np.ndim(step.params["constant"]):  # another one for each side
        return False
    shape = code.program.values[step.args[0]].shape
    index = tuple(slice(before, before + n) for n, (before, _) in zip(shape, step.params["pad_width"], strict=True))
    _background(code, step, out, step.params["constant"])
    code.line(f"copyto({code.part(step.out, index)}, {args[0]})")
    return None


def _embed(code: Code, step: Instruction, args: list[str], out: str) -> None:
    _background(code, step, out, 0)
    code.line(f"copyto({code.part(step.out, (*step.params['index'], Ellipsis))}, {args[0]})")


def _background(code: Code, step: Instruction, out: str, constant: Any) -> None:
    array = code.array(step.out)
    if array is not None and array.base is None:  # a buffer of its own: what is not written stays
        array[...] = constant
    else:
        code.line(f"{out}.fill({code.name(constant)})")


def _placed(code: Code, step: Instruction, out: str, axes: Any, labels: Any) -> str:
    """The view of the result whose axes are the labels."""
    array = code.array(step.out)
    if array is not None:
        return code.name(strided(array, axes, labels))
    return f"{code.name(strided)}({out}, {code.name(axes)}, {code.name(labels)})"


def _superpose(code: Code, step: Instruction, args: list[str], out: str) -> None:
    parts = step.params["parts"]
    if not covers(parts[0][1]):
        if fixed_background(step):
            _background(code, step, out, 0)
        else:
            code.line(f"{out}.fill(0)")
    for arg, (labels, axes, meets) in zip(args, parts, strict=True):
        extra = tuple(label for label in labels_in(axes) if label not in labels)
        target = _placed(code, step, out, axes, (*extra, *labels))
        if meets:
            code.line(f"{code.name(np.add)}({target}, {arg}, {target})")
        else:
            code.line(f"copyto({target}, {arg})")


def _unpatches(code: Code, step: Instruction, args: list[str], out: str) -> None:
    """Each entry of the windows added where it came from, one position within the windows after the other."""
    kernel, stride, dilation = (step.params[key] for key in ("kernel", "stride", "dilation"))
    shape = code.program.values[step.args[0]].shape
    windows = shape[len(shape) - 2 * len(kernel) : len(shape) - len(kernel)]
    code.line(f"{out}.fill(0)")
    for offset in product(*map(range, kernel)):
        window = [slice(d * k, d * k + s * w, s) for k, d, s, w in zip(offset, dilation, stride, windows, strict=True)]
        target = code.part(step.out, (..., *window))
        code.line(f"{code.name(np.add)}({target}, {code.part(step.args[0], (..., *offset))}, {target})")


def _relabel(code: Code, step: Instruction, args: list[str], out: str) -> Any:
    inp, axes = step.params["inp"], step.params["out"]
    labels, kept = tuple(labels_in(inp)), tuple(labels_in(axes))
    rest = tuple(label for label in labels if label in kept)
    extra = tuple(label for label in kept if label not in labels)
    gone = tuple(k for k, label in enumerate(labels) if label not in kept)
    if gone and extra:
        return False
    source = args[0]
    if inp != tuple((label,) for label in labels):
        array = code.array(step.args[0])
        if array is None or not array.flags.c_contiguous:
            return False
        source = code.name(strided(array, inp, labels))
    if not covers(axes):
        _background(code, step, out, 0)
    target = _placed(code, step, out, axes, (*extra, *rest))
    if gone:
        code.line(f"{code.name(np.add.reduce)}({source}, {code.name(gone)}, None, {target})")
    else:
        code.line(f"copyto({target}, {source})")
    return None


LOWER: dict[str, Callable[..., Any]] = {
    "matmul": _matmul,
    "sum": _reduction(np.add),
    "max": _reduction(np.maximum),
    "min": _reduction(np.minimum),
    "mean": _mean,
    "where": _where,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "relu": _relu,
    "astype": _convert,
    "cast": _convert,
    "broadcast_to": _copy,
    "reshape": _reshape,
    "concatenate": _concatenate,
    "roll": _roll,
    "cumsum": _cumsum,
    "take": _take,
    "gather": _gather,
    "einsum": _einsum,
    "pad": _pad,
    "embed": _embed,
    "relabel": _relabel,
    "superpose": _superpose,
    "unpatches": _unpatches,
}
IN_PLACE = {"sigmoid": 0, "relu": 0, "where": 2}
"""Operations other than ufuncs that may write into the array of one of their operands: its position."""
