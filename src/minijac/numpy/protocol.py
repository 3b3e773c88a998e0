"""How NumPy's functions reach traced values: the tables, and the reading of arguments that all of them share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any

import numpy as np

from ..backend import array_of, check_operand, is_array, namespace, value_of
from ..errors import InputError, UnsupportedOperationError
from ..lines import user_line
from ..ops.structural import normalised
from ..tape.op import Op
from ..tape.trace import apply
from ..tape.traced import Traced, TracedArray
from .writing import into

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "OPERATORS",
    "absent",
    "as_array",
    "as_arrays",
    "axes_of",
    "axis_of",
    "flag",
    "implements",
    "number_of",
    "operator",
    "plain",
    "recorded",
    "refuse",
]

FUNCTIONS: dict[Any, Callable[..., Any]] = {}
METHODS: dict[str, Callable[..., Any]] = {}


def implements(*functions: Any, method: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function for NumPy functions and, with `method`, as an array method."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        offered = _without_out(function)
        for original in functions:
            FUNCTIONS[original] = offered
        if method is not None:
            METHODS[method] = offered
        return function

    return decorate


def _without_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with `out`, if it has that argument: what it returns is written there."""
    parameters = signature(function).parameters
    if "out" not in parameters:
        return function
    by_name = parameters["out"].kind is Parameter.KEYWORD_ONLY
    place = sys.maxsize if by_name else list(parameters).index("out")

    @wraps(function)
    def written(*args: Any, **kwargs: Any) -> Any:
        target = args[place] if len(args) > place else kwargs.pop("out", None)
        if target is None:
            return function(*args, **kwargs)
        rest = (*args[:place], None, *args[place + 1 :]) if len(args) > place else args
        return into(target, function(*rest, **kwargs), function.__name__)

    return written


def absent(value: Any) -> bool:
    """Whether an argument is one of the two things that stand for none in NumPy's signatures."""
    return value is None or value is np._NoValue


def refuse(name: str, **keywords: Any) -> None:
    """Raise for keywords of NumPy's that minijac does not take on traced values."""
    for key, value in keywords.items():
        if not absent(value) and value is not True:
            raise UnsupportedOperationError(
                f"{name} at {user_line()}: got {key}=, which minijac does not take on traced values. Write it as a "
                "step of its own: np.where for where=, .astype for dtype=, an addition for initial=."
            )


def axes_of(x: Any, axis: Any, name: str) -> tuple[int, ...]:
    axes = normalised(axis, x.ndim)
    if axis is not None and (len(set(axes)) < len(axes) or not all(0 <= k < x.ndim for k in axes)):
        raise InputError(f"{name} at {user_line()}: expected axes within the {x.ndim} of shape {x.shape}, got {axis}.")
    return axes


def axis_of(x: Any, axis: int, name: str) -> int:
    return axes_of(x, axis, name)[0]


def as_array(x: Any, *others: Any) -> Any:
    """Numbers and lists as arrays where the other operands live. Lists of traced values are stacked by no one."""
    if isinstance(x, Traced):
        return x
    array = x if is_array(x) else namespace(*others).asarray(x)
    check_operand("array", array)
    return array


def as_arrays(*operands: Any) -> list[Any]:
    """The same for several operands."""
    return [x if isinstance(x, Traced) or type(x) is np.ndarray else as_array(x, *operands) for x in operands]


def flag(value: Any) -> bool:
    return not absent(value) and bool(value)


def recorded(op: Any, function: Any) -> Callable[..., Any]:
    """A function of one array whose result carries no derivative, as an operation: keywords as `function` has them."""
    names = signature(function)

    def on_array(*args: Any, **kwargs: Any) -> Any:
        bound = names.bind(*args, **kwargs).arguments
        (name, x), *rest = bound.items()
        params = {key: value for key, value in rest if not absent(value)}
        target = params.pop("out", None)
        if bound.get("axis", names.parameters["axis"].default) is None:
            y = _over_all(op, as_array(x), params)
        else:
            y = op(x, **params)
        return y if target is None else into(target, y, function.__name__)

    return on_array


def _over_all(op: Any, x: Any, params: dict[str, Any]) -> Any:
    """Along all axes, which are named, as under vmap there is one more; what takes but one goes along all in a row."""
    if op.reduction is not None:
        return op(x, **params, axis=tuple(range(x.ndim)))
    kept = params.pop("keepdims", False)
    y = op(x.reshape(-1), **params, axis=0)
    return y.reshape((1,) * x.ndim) if kept else y


SHAPE_ONLY = (
    np.ndim, np.result_type, np.common_type, np.iscomplexobj,
    np.isrealobj, np.may_share_memory, np.shares_memory,
)  # fmt: skip
"""Functions that look at shapes and dtypes, not at numbers: they may be asked of a program being recorded."""


def plain(function: Any) -> Callable[..., Any]:
    """A function whose result carries no derivative: it is computed on the plain values."""
    strip = (lambda x: x.outline()) if function in SHAPE_ONLY else number_of

    def on_values(*args: Any, **kwargs: Any) -> Any:
        return function(*[_stripped(x, strip) for x in args], **{key: _stripped(x, strip) for key, x in kwargs.items()})

    return on_values


def _stripped(x: Any, strip: Callable[[Any], Any]) -> Any:
    if isinstance(x, list | tuple):
        return type(x)([_stripped(item, strip) for item in x]) if any(map(_holds_traced, x)) else x
    return strip(x) if isinstance(x, Traced) else x


def _holds_traced(x: Any) -> bool:
    return isinstance(x, Traced | list | tuple)


def number_of(x: Any) -> Any:
    """The plain array; a program being recorded has none to give, and says so."""
    if not isinstance(x, Traced):
        return x
    x = value_of(x)
    return (
        x._refuse("a function whose result depends on values and carries no derivative") if x is not array_of(x) else x
    )


# -- operators ---------------------------------------------------------------------------------------------------------
OPERATORS = {"add__": np.add, "sub__": np.subtract, "mul__": np.multiply, "truediv__": np.divide, "pow__": np.power,
             "matmul__": np.matmul}  # fmt: skip
"""Those with two operands that are met most, by the ends of their names."""


def operator(name: str, ufunc: Any) -> Callable[..., Any]:
    """An operator that goes to minijac's function at once where NumPy would go there as well, by a longer way."""
    general: Any = getattr(np.lib.mixins.NDArrayOperatorsMixin, name)
    function: Any = Traced.ufuncs[ufunc]
    reflected, one = name.startswith("__r"), isinstance(function, Op)

    def method(self: Any, other: Any) -> Any:
        kind = type(other)
        if kind is np.ndarray or kind is float or kind is int or kind is TracedArray:
            operands = (other, self) if reflected else (self, other)
            return apply(function, operands, {}) if one else function(*operands)
        return general(self, other)

    return method


def negative(self: Any) -> Any:
    """The operator of one operand that is met most, at once as well."""
    function: Any = Traced.ufuncs[np.negative]
    return apply(function, (self,), {})
