"""The methods of NumPy's ufuncs on traced values: reduce, accumulate, reduceat, outer; `at` is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..lines import user_line
from ..ops import structural
from .indexing import add_in_place, subtract_in_place
from .positions import WHOLE
from .protocol import FUNCTIONS, axes_of, axis_of, flag, refuse
from .reductions import begun, chosen, cumprod, cumsum, fold, max, min, nanmax, nanmin, prod, scan, sum

__all__ = ["ufunc_methods"]


# -- one function for all entries of an axis ---------------------------------------------------------------------------
def _by_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction of NumPy's as a ufunc's reduce, which works along the first axis unless told otherwise."""

    def reduce(x: Any, axis: Any = 0, dtype: Any = None, **kwargs: Any) -> Any:
        return function(x, axis=axis, **({} if dtype is None else {"dtype": dtype}), **kwargs)

    return reduce


def _by_halves(ufunc: Any, neutral: float) -> Callable[..., Any]:
    def reduce(x: Any, axis: Any = 0, keepdims: Any = False, initial: Any = None, where: Any = None) -> Any:
        y = fold(ufunc, chosen(x, where, neutral), axes_of(x, axis, "reduce"), keepdims, neutral)
        return begun(ufunc, y, initial)

    return reduce


def _scan_by(ufunc: Any) -> Callable[..., Any]:
    return lambda x, axis=0: scan(ufunc, x, axis_of(x, axis, "accumulate"))


# -- one after the other, for what is not associative ------------------------------------------------------------------
def _running(ufunc: Any, x: Any, axis: int) -> list[Any]:
    """The running results, each of length one along the axis."""
    lead = (WHOLE,) * axis
    results: list[Any] = []
    for k in range(x.shape[axis]):
        entry = x[(*lead, slice(k, k + 1))]
        results.append(ufunc(results[-1], entry) if results else entry)
    if not results:
        raise ValueError(f"{ufunc.__name__} at {user_line()}: shape {x.shape} has no entries along axis {axis}")
    return results


def _in_order(ufunc: Any) -> Callable[..., Any]:
    def reduce(x: Any, axis: Any = 0, keepdims: Any = False, initial: Any = None, where: Any = None) -> Any:
        refuse(f"{ufunc.__name__}.reduce", initial=initial, where=where)
        axis = axis_of(x, axis, "reduce")
        result = _running(ufunc, x, axis)[-1]
        return result if flag(keepdims) else structural.squeeze(result, axis=(axis,))

    return reduce


def _all_in_order(ufunc: Any) -> Callable[..., Any]:
    def accumulate(x: Any, axis: int = 0) -> Any:
        axis = axis_of(x, axis, "accumulate")
        return structural.concatenate(*_running(ufunc, x, axis), axis=axis)

    return accumulate


# -- pieces, and pairs -------------------------------------------------------------------------------------------------
def _pieces(ufunc: Any) -> Callable[..., Any]:
    """Each piece reaches up to the next position; it holds one entry where that position is not a later one."""

    def reduceat(x: Any, indices: Any, axis: int = 0) -> Any:
        axis = axis_of(x, axis, "reduceat")
        starts = np.asarray(indices).tolist()
        pieces = []
        for start, stop in zip(starts, [*starts[1:], x.shape[axis]], strict=True):
            piece = x[(*(WHOLE,) * axis, slice(start, stop if stop > start else start + 1))]
            pieces.append(ufunc.reduce(piece, axis=axis, keepdims=True))
        return structural.concatenate(*pieces, axis=axis)

    return reduceat


def _outer(ufunc: Any) -> Callable[..., Any]:
    """Each entry of the one operand with each of the other."""

    def outer(a: Any, b: Any) -> Any:
        return ufunc(np.reshape(a, (*np.shape(a), *(1,) * np.ndim(b))), b)

    return outer


IN_ORDER = (
    np.subtract, np.divide, np.remainder, np.fmod, np.copysign, np.power, np.float_power, np.arctan2, np.heaviside,
)  # fmt: skip


def ufunc_methods(ufuncs: list[Any]) -> dict[tuple[Any, str], Callable[..., Any]]:
    """For each ufunc and method that traced values know: minijac's function. `ufuncs`: those that may be called."""
    reductions: dict[Any, Any] = {
        np.add: sum, np.multiply: prod, np.maximum: max, np.minimum: min, np.fmax: nanmax, np.fmin: nanmin,
        np.logical_and: FUNCTIONS[np.all], np.logical_or: FUNCTIONS[np.any],
    }  # fmt: skip
    neutral: dict[Any, float] = {np.logaddexp: -np.inf, np.logaddexp2: -np.inf, np.hypot: 0.0}
    methods: dict[tuple[Any, str], Callable[..., Any]] = {}
    for ufunc, function in reductions.items():
        methods[ufunc, "reduce"] = _by_function(function)
    for ufunc, number in neutral.items():
        methods[ufunc, "reduce"] = _by_halves(ufunc, number)
    for ufunc in (*neutral, np.maximum, np.minimum, np.fmax, np.fmin):
        methods[ufunc, "accumulate"] = _scan_by(ufunc)
    for ufunc, function in ((np.add, cumsum), (np.multiply, cumprod)):
        methods[ufunc, "accumulate"] = _by_function(function)
    for ufunc in IN_ORDER:
        methods[ufunc, "reduce"], methods[ufunc, "accumulate"] = _in_order(ufunc), _all_in_order(ufunc)
    for ufunc in [ufunc for ufunc, method in methods if method == "reduce"]:
        methods[ufunc, "reduceat"] = _pieces(ufunc)
    for ufunc in ufuncs:
        if ufunc.nin == 2 and ufunc.signature is None:
            methods[ufunc, "outer"] = _outer(ufunc)
    methods[np.add, "at"], methods[np.subtract, "at"] = add_in_place, subtract_in_place
    return methods
