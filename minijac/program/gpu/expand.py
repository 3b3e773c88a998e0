"""Composite operations as the simple ones that kernels exist for, recorded once when a program is bound."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import numpy as np

from ...algebra.factors import contract_to_one, spread
from ...algebra.labels import Label, Window
from ...ops import REGISTRY
from ...ops.families import labelled_repeated
from ...ops.multilinear import _einsum_signature as einsum_axes
from ..ir import Program
from ..record import Recorder, Symbol, SymbolArray

__all__ = ["expanded"]


def _mean(x: Any, axis: Any, keepdims: bool = False) -> Any:
    axes = (axis,) if isinstance(axis, int | np.integer) else axis
    count = prod(x.shape[k] for k in axes)
    if x.dtype.kind != "f":
        x = REGISTRY["astype"](x, dtype=np.dtype(float))
    return REGISTRY["divide"](REGISTRY["sum"](x, axis=axes, keepdims=keepdims), float(count))


def _peak(x: Any, axis: tuple[int, ...]) -> Any:
    top = REGISTRY["max"](x, axis=axis, keepdims=True)
    return REGISTRY["where"](REGISTRY["isfinite"](top), top, 0.0)


def _logsumexp(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    shift = _peak(x, axis)
    shares = REGISTRY["exp"](REGISTRY["subtract"](x, shift))
    y = REGISTRY["add"](REGISTRY["log"](REGISTRY["sum"](shares, axis=axis, keepdims=True)), shift)
    shape = tuple(n for k, n in enumerate(y.shape) if keepdims or k not in {a % x.ndim for a in axis})
    return REGISTRY["reshape"](y, shape=shape)


def _einsum(*operands: Any, subscripts: str) -> Any:
    """Pairwise contractions as matmuls, also for small arrays: a launch costs more than they do."""
    names, out = einsum_axes(*(x.shape for x in operands), subscripts=subscripts)
    sizes: dict[Any, int] = {}
    for letters, x in zip(names, operands, strict=True):
        for letter, n in zip(letters, x.shape, strict=True):
            sizes[letter] = max(n, sizes.get(letter, 1)) if n else 0
    label = {letter: Label(n) for letter, n in sizes.items()}
    dtype = np.result_type(*(x.dtype for x in operands))
    factors = [labelled_repeated(x, [label[c] for c in own], dtype) for x, own in zip(operands, names, strict=True)]
    target = [label[c] for c in out if sizes[c] > 1]
    return spread(contract_to_one(factors, set(target)), target).reshape(tuple(sizes[c] for c in out))


def _superpose(*arrays: Any, parts: Any, shape: tuple[int, ...]) -> Any:
    """What meets nothing is written, in one pass; what meets an earlier part is added to it."""
    apart = [k for k, (_, _, meets) in enumerate(parts) if not meets]
    total = REGISTRY["superpose"](*(arrays[k] for k in apart), parts=tuple(parts[k] for k in apart), shape=shape)
    for x, (labels, axes, meets) in zip(arrays, parts, strict=True):
        if meets:
            own = REGISTRY["relabel"](x, inp=tuple((label,) for label in labels), out=axes, shape=shape)
            total = REGISTRY["add"](total, own)
    return total


def _unpatches(y: Any, kernel: Any, stride: Any, dilation: Any, size: Any) -> Any:
    """Each entry of the windows in turn where it came from, and their sum."""
    lead, windows = y.shape[: -2 * len(kernel)], y.shape[-2 * len(kernel) : -len(kernel)]
    labels = [Label(n) for n in (*lead, *windows)]
    whole, front = tuple((label,) for label in labels), tuple((label,) for label in labels[: len(lead)])
    total = None
    for offsets in product(*map(range, kernel)):
        inp = (*whole, *((Window(None, n, k, 1),) for n, k in zip(kernel, offsets, strict=True)))
        places = zip(labels[len(lead) :], size, offsets, dilation, stride, strict=True)
        out = (*front, *((Window(label, n, k * d, s),) for label, n, k, d, s in places))
        part = REGISTRY["relabel"](y, inp=inp, out=out, shape=(*lead, *size))
        total = part if total is None else REGISTRY["add"](total, part)
    return total


EXPANSIONS: dict[str, Callable[..., Any]] = {
    "mean": _mean, "peak": _peak, "logsumexp": _logsumexp, "einsum": _einsum, "superpose": _superpose,
    "unpatches": _unpatches,
}  # fmt: skip


def expanded(program: Program, empty: Callable[..., Any]) -> Program:
    """The program without composites. ``empty(shape, dtype)`` makes the arrays that the recording computes with."""
    recorder = Recorder()
    recorder.values = list(program.values)
    same: dict[int, int] = {}
    try:
        for step in program.instructions:
            args = tuple([same.get(n, n) for n in step.args])
            values = [recorder.values[n] for n in args]
            expand = EXPANSIONS.get(step.op.name)
            out = recorder.values[step.out]
            plain = all(v.number is None and 0 not in v.shape for v in values) and out.dtype.kind == "f"
            if expand is None or not plain:
                recorder.instructions.append(step._replace(args=args))
                continue
            symbols = [_symbol(recorder, n, empty(v.shape, v.dtype)) for n, v in zip(args, values, strict=True)]
            with np.errstate(all="ignore"):
                result = expand(*symbols, **step.params)
            assert result.shape == out.shape and result.dtype == out.dtype, (step, result)
            same[step.out] = result.index
    finally:
        recorder.close()
    outputs = tuple(same.get(n, n) for n in program.outputs)
    return Program(tuple(recorder.values), tuple(recorder.instructions), program.inputs, outputs).verify()


def _symbol(recorder: Recorder, n: int, array: Any) -> Symbol:
    return (SymbolArray if array.shape else Symbol)(recorder, n, array)
