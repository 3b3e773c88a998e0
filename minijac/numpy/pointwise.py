"""Elementwise functions of NumPy with more than a ufunc's arguments, and those without a derivative."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import value_of
from ..errors import InputError, UnsupportedOperationError
from ..ops import elementwise
from ..tape import Traced, user_line
from .protocol import FUNCTIONS, METHODS, NOTHING, implements, plain, refuse


@implements(np.where)
def where(condition: Any, *branches: Any) -> Any:
    if len(branches) != 2:
        raise UnsupportedOperationError(
            f"numpy.where at {user_line()}: expected where(condition, x, y); with one argument its result is an index "
            "with a shape that depends on values. Ask for np.nonzero(minijac.stop_gradient(x))."
        )
    condition = value_of(condition) if isinstance(condition, Traced) else condition
    a, b = (np.asarray(x) if isinstance(x, list | tuple) else x for x in branches)
    if getattr(condition, "dtype", None) != bool:
        condition = condition != 0
    return elementwise.where(condition, a, b)


@implements(np.clip, method="clip")
def clip(
    x: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None, **kwargs: Any
) -> Any:
    refuse("clip", **kwargs)
    low = a_min if min in NOTHING else min
    high = a_max if max in NOTHING else max
    low = -np.inf if low in NOTHING else low
    high = np.inf if high in NOTHING else high
    return elementwise.clip(x, low, high)


if hasattr(np, "clip"):
    METHODS["clip"] = lambda x, min=None, max=None, **kwargs: clip(x, min, max, **kwargs)


@implements(method="astype")
def astype(x: Any, dtype: Any, order: str = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True) -> Any:
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        raise InputError(f".astype({dtype}) at {user_line()}: complex is not supported.")
    if dtype.kind != "f":
        return value_of(x).astype(dtype)  # integers carry no derivative
    return x if dtype == x.dtype else elementwise.astype_op(x, dtype=dtype)


@implements(np.copy, method="copy")
def copy(x: Any, order: str = "K", subok: bool = False) -> Any:
    return elementwise.UFUNCS[np.positive](x)


@implements(np.round, np.around, method="round")
def round(x: Any, decimals: int = 0, out: Any = None) -> Any:
    return np.round(value_of(x), decimals)


for _function in (
    np.shape, np.ndim, np.size, np.argmax, np.argmin, np.argsort, np.all, np.any, np.allclose, np.isclose,
    np.array_equal, np.zeros_like, np.ones_like, np.empty_like, np.full_like, np.nonzero, np.count_nonzero,
    np.searchsorted, np.result_type, np.iscomplexobj, np.isrealobj, np.array_repr, np.array_str, np.may_share_memory,
    np.shares_memory,
):  # fmt: skip
    FUNCTIONS[_function] = plain(_function)
for _name in ("argmax", "argmin", "argsort", "all", "any", "nonzero"):
    METHODS[_name] = plain(getattr(np, _name))
METHODS["conj"] = METHODS["conjugate"] = lambda x: x
for _original in (np.real, np.conj, np.conjugate):
    FUNCTIONS[_original] = lambda x: x
