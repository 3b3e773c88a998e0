"""Functions that create arrays, where a traced value is their source or the array to be like."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from ..backend import namespace, placed
from ..tape.trace import THREAD, running
from ..tape.traced import Traced
from .pointwise import astype

__all__ = ["LIKE", "MADE", "array", "asarray", "empty", "empty_like", "full", "full_like", "holds_traced", "listed"]

_CREATORS: list[Any] = [
    np.array, np.asanyarray, np.asarray, np.ascontiguousarray, np.asfortranarray, np.arange, np.empty, np.eye, np.full,
    np.identity, np.ones, np.require, np.tri, np.zeros,
]  # fmt: skip
LIKE = frozenset(_CREATORS)
"""NumPy's functions with ``like=``. Given a traced value there, NumPy asks that one to create the array."""


def made(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's function that makes an array of plain values; inside a transformation one of floats can be written."""
    name = function.__name__

    @wraps(function)
    def writable(*args: Any, **kwargs: Any) -> Any:
        trace = running()
        if trace is None or kwargs.get("like") is not None:
            return function(*args, **kwargs)
        result = getattr(namespace(*args, trace.source), name)(*args, **kwargs)
        floats = not isinstance(result, Traced) and result.dtype.kind in "fc"
        return trace.constant(result) if floats else result

    return writable


def full(shape: Any, fill_value: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """As ``numpy.full``; the value may be a traced one."""
    if isinstance(fill_value, Traced):
        return np.full_like(fill_value, fill_value, dtype, shape=shape)
    return MADE["full"](shape, fill_value, dtype, **kwargs)


def full_like(a: Any, fill_value: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """As ``numpy.full_like``; the value may be a traced one."""
    if isinstance(fill_value, Traced) and not isinstance(a, Traced):
        a = np.asarray(a)
        return full(kwargs.get("shape", a.shape), fill_value, a.dtype if dtype is None else dtype)
    return MADE["full_like"](a, fill_value, dtype, **kwargs)


_array = made(np.array)
_MADE = """
    zeros ones full eye identity arange linspace zeros_like ones_like full_like copy diag tri logspace geomspace tile
    fromfunction
"""
MADE: dict[str, Callable[..., Any]] = {name: made(getattr(np, name)) for name in _MADE.split()}
"""Functions that make arrays which programs write to."""


def empty(*args: Any, **kwargs: Any) -> Any:
    """As ``numpy.empty``; inside a transformation zeros."""
    return (np.empty if running() is None else MADE["zeros"])(*args, **kwargs)


def empty_like(*args: Any, **kwargs: Any) -> Any:
    """As ``numpy.empty_like``; inside a transformation zeros."""
    return (np.empty_like if running() is None else MADE["zeros_like"])(*args, **kwargs)


def array(
    object: Any, dtype: Any = None, *, copy: bool | None = True, ndmin: int = 0, like: Any = None, **kwargs: Any
) -> Any:
    """As ``numpy.array``; a traced value, or nested lists of them, become one traced value.

    >>> import numpy as np
    >>> import minijac as mj
    >>> mj.grad(lambda x: np.sum(array([x[0], [2.0, x[1]][1]]) ** 2))(np.array([1.0, 3.0]))
    array([2., 6.])
    """
    if holds_traced(object):
        if isinstance(object, Traced) and not copy and object.ndim >= max(ndmin, 1) and dtype in (None, object.dtype):
            return object  # as NumPy, which makes no copy
        y = object.fresh() if isinstance(object, Traced) else _stacked(object)
        y = y if dtype is None else astype(y, dtype)
        return y if y.ndim >= ndmin else np.reshape(y, (1,) * (ndmin - y.ndim) + y.shape)
    if like is not None:
        kwargs["like"] = like
    return (_array if THREAD.traces else np.array)(object, dtype, copy=copy, ndmin=ndmin, **kwargs)


def asarray(a: Any, dtype: Any = None, *, copy: bool | None = None, **kwargs: Any) -> Any:
    """As ``numpy.asarray``; a traced value, or nested lists of them, become one traced value; CuPy's stay CuPy's."""
    if isinstance(a, np.ndarray):
        return np.asarray(a, dtype, copy=copy, **kwargs)
    if holds_traced(a):
        return array(a, dtype, copy=copy)
    if hasattr(a, "dtype"):
        return namespace(a).asarray(a, dtype, **kwargs)
    return _array(a, dtype, copy=copy, **kwargs)


def holds_traced(x: Any) -> bool:
    """Whether `x` is traced, or a sequence in which something is."""
    return isinstance(x, Traced) or (isinstance(x, list | tuple | deque) and any(map(holds_traced, x)))


def listed(x: Any, like: Any) -> Any:
    """What a list stands for beside a traced value, as an operand."""
    return _stacked(x) if holds_traced(x) else placed(x, like)


def _stacked(x: Any) -> Any:
    if isinstance(x, Traced):
        return x
    if not holds_traced(x):
        return x
    parts = [_stacked(item) for item in x]
    like = next(part for part in parts if isinstance(part, Traced))
    return np.stack([placed(part, like) for part in parts])
