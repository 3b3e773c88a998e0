"""Functions that create arrays, where a traced value is their source or the array to be like."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import namespace, placed
from ..tape.traced import Traced
from .pointwise import astype

__all__ = ["LIKE", "array", "asarray"]

_CREATORS: list[Any] = [
    np.array, np.asanyarray, np.asarray, np.ascontiguousarray, np.asfortranarray, np.arange, np.empty, np.eye, np.full,
    np.identity, np.ones, np.require, np.tri, np.zeros,
]  # fmt: skip
LIKE = frozenset(_CREATORS)
"""NumPy's functions with ``like=``. Given a traced value there, NumPy asks that one to create the array."""


def array(object: Any, dtype: Any = None, *, copy: bool | None = True, like: Any = None, **kwargs: Any) -> Any:
    """As ``numpy.array``; a traced value, or nested lists of them, become one traced value.

    >>> import numpy as np
    >>> import minijac as mj
    >>> mj.grad(lambda x: np.sum(array([x[0], [2.0, x[1]][1]]) ** 2))(np.array([1.0, 3.0]))
    array([2., 6.])
    """
    if _holds_traced(object):
        y = _stacked(object)
        return y if dtype is None else astype(y, dtype)
    if like is not None:
        kwargs["like"] = like
    return np.array(object, dtype, copy=copy, **kwargs)


def asarray(a: Any, dtype: Any = None, *, copy: bool | None = None, **kwargs: Any) -> Any:
    """As ``numpy.asarray``; a traced value, or nested lists of them, become one traced value; CuPy's stay CuPy's."""
    if isinstance(a, np.ndarray):
        return np.asarray(a, dtype, copy=copy, **kwargs)
    if _holds_traced(a):
        return array(a, dtype)
    if hasattr(a, "dtype"):
        return namespace(a).asarray(a, dtype, **kwargs)
    return np.asarray(a, dtype, copy=copy, **kwargs)


def _holds_traced(x: Any) -> bool:
    return isinstance(x, Traced) or (isinstance(x, list | tuple) and any(map(_holds_traced, x)))


def _stacked(x: Any) -> Any:
    if isinstance(x, Traced):
        return x
    if not _holds_traced(x):
        return x
    parts = [_stacked(item) for item in x]
    like = next(part for part in parts if isinstance(part, Traced))
    return np.stack([placed(part, like) for part in parts])
