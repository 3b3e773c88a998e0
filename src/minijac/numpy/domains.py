"""``np.emath`` on traced values: NumPy's functions, where their results are real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UnsupportedOperationError
from ..lines import user_line
from .protocol import as_array, implements, number_of


def _within(name: str, x: Any, low: float, high: float) -> None:
    plain = number_of(as_array(x))
    if not bool(np.all((plain >= low) & (plain <= high) | np.isnan(plain))):
        raise UnsupportedOperationError(
            f"numpy.emath.{name} at {user_line()}: got values beyond [{low}, {high}], where the result is complex, "
            "which minijac does not differentiate."
        )


def _real(name: str, low: float, high: float) -> None:
    function: Callable[..., Any] = getattr(np, name)

    @implements(getattr(np.emath, name))
    def within(x: Any) -> Any:
        _within(name, x, low, high)
        return function(x)


for _name in ("sqrt", "log", "log2", "log10"):
    _real(_name, 0.0, np.inf)
for _name in ("arccos", "arcsin", "arctanh"):
    _real(_name, -1.0, 1.0)


@implements(np.emath.logn)
def logn(n: Any, x: Any) -> Any:
    return np.emath.log(x) / np.emath.log(n)


@implements(np.emath.power)
def power(x: Any, p: Any) -> Any:
    _within("power", x, 0.0, np.inf)
    return np.power(x, p)
