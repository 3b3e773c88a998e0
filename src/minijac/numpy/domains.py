"""``np.emath`` on traced values: NumPy's functions, complex where an entry is beyond the real ones.

Whether one is, is asked of the values, which a program that is being recorded has not: `compile` raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import is_complex
from .pointwise import astype
from .protocol import as_array, implements, number_of


def _widened(x: Any, low: float, high: float) -> Any:
    """`x`, complex where some of its entries are beyond the bounds."""
    x = as_array(x)
    if is_complex(x):
        return x
    plain = number_of(x)
    beyond = bool(np.any((plain < low) | (plain > high)))
    return astype(x, np.result_type(x.dtype, np.complex64)) if beyond else x


def _extended(name: str, low: float, high: float) -> None:
    function: Callable[..., Any] = getattr(np, name)

    @implements(getattr(np.emath, name))
    def extended(x: Any) -> Any:
        return function(_widened(x, low, high))


for _name in ("sqrt", "log", "log2", "log10"):
    _extended(_name, 0.0, np.inf)
for _name in ("arccos", "arcsin", "arctanh"):
    _extended(_name, -1.0, 1.0)


@implements(np.emath.logn)
def logn(n: Any, x: Any) -> Any:
    return np.emath.log(x) / np.emath.log(n)


@implements(np.emath.power)
def power(x: Any, p: Any) -> Any:
    return np.power(_widened(x, 0.0, np.inf), p)
