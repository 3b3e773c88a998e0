"""How NumPy's functions reach traced values: the tables, and the reading of arguments that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import is_array, value_of
from ..errors import InputError, UnsupportedOperationError
from ..ops.structural import normalised
from ..tape import Traced, user_line

__all__ = ["FUNCTIONS", "METHODS", "NOTHING", "as_array", "axes_of", "axis_of", "flag", "implements", "plain", "refuse"]

FUNCTIONS: dict[Any, Callable[..., Any]] = {}
METHODS: dict[str, Callable[..., Any]] = {}


def implements(*functions: Any, method: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function for NumPy functions and, with `method`, as an array method."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for original in functions:
            FUNCTIONS[original] = function
        if method is not None:
            METHODS[method] = function
        return function

    return decorate


def reduction_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """A ufunc's reduce, which works along the first axis unless told otherwise."""

    def reduce(x: Any, axis: Any = 0, dtype: Any = None, **kwargs: Any) -> Any:
        return function(x, axis=axis, **({} if dtype is None else {"dtype": dtype}), **kwargs)

    return reduce


NOTHING = (None, np._NoValue)


def refuse(name: str, **keywords: Any) -> None:
    """Raise for keywords of NumPy's that minijac does not take on traced values."""
    for key, value in keywords.items():
        if value is not None and value is not np._NoValue and value is not True:
            raise UnsupportedOperationError(
                f"{name} at {user_line()}: got {key}=, which minijac does not take on traced values. Write it as a step "
                "of its own: np.where for where=, .astype for dtype=, an addition for initial=."
            )


def axes_of(x: Any, axis: Any, name: str) -> tuple[int, ...]:
    axes = normalised(axis, x.ndim)
    if len(set(axes)) < len(axes) or not all(0 <= k < x.ndim for k in axes):
        raise InputError(f"{name} at {user_line()}: expected axes within the {x.ndim} of shape {x.shape}, got {axis}.")
    return axes


def axis_of(x: Any, axis: int, name: str) -> int:
    return axes_of(x, axis, name)[0]


def as_array(x: Any) -> Any:
    """Lists of traced values are stacked by no one: only arrays, traced values and numbers pass."""
    return x if isinstance(x, Traced) or is_array(x) else np.asarray(x)


def flag(value: Any) -> bool:
    return False if value in NOTHING else bool(value)


def plain(function: Any) -> Callable[..., Any]:
    """A function whose result carries no derivative: it is computed on the plain values."""

    def on_values(*args: Any, **kwargs: Any) -> Any:
        return function(*(value_of(arg) if isinstance(arg, Traced) else arg for arg in args), **kwargs)

    return on_values
