"""The one seam to NumPy and CuPy: which namespace an array belongs to, and what the two spell differently."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = ["Wrapped", "array_of", "astype", "holds_array", "is_array", "namespace", "special", "value_of", "zeros"]


def _cupy() -> Any:
    """CuPy if the caller has imported it (no array of it can exist otherwise), else None."""
    return sys.modules.get("cupy")


class Wrapped:
    """What stands for an array: the traced value, which holds the array, or another traced value, in `value`."""

    __slots__ = ("value",)
    value: Any
    recorded = False
    """Whether it stands for an array of a program that is being recorded, so that its numbers must not be looked at."""


def value_of(x: Any) -> Any:
    """The value without derivative: the plain array under all traces, or its place in a program being recorded."""
    while isinstance(x, Wrapped) and not x.recorded:
        x = x.value
    return x


def array_of(x: Any) -> Any:
    """The plain array under all traces, for what depends on its kind alone and not on its numbers."""
    while isinstance(x, Wrapped):
        x = x.value
    return x


def namespace(x: Any) -> Any:
    """The module (numpy or cupy) whose array `x` is, or stands for."""
    x = array_of(x)
    cupy = _cupy()
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


def is_array(x: Any) -> bool:
    """Whether `x` is a plain array: numpy's, a numpy scalar, or cupy's."""
    cupy = _cupy()
    return isinstance(x, np.ndarray | np.generic) or (cupy is not None and isinstance(x, cupy.ndarray))


def holds_array(x: Any) -> bool:
    """Whether `x` is an array, plain or followed by traces: no number, plain or of a program that is recorded."""
    return is_array(array_of(x))


def zeros(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    return namespace(like).zeros(shape, dtype)


def astype(x: Any, dtype: Any, like: Any) -> Any:
    """`x` (an array, a traced value, or a Python number) as an array of `dtype` where `like` lives."""
    if not hasattr(x, "dtype"):
        return namespace(like).asarray(x, dtype)
    return x if x.dtype == dtype else x.astype(dtype)


def special(x: Any) -> Any:
    """The module of special functions for the backend of `x`; needs SciPy, or CuPy on the GPU."""
    if namespace(x) is np:
        try:
            import scipy.special
        except ImportError as error:
            raise ImportError("this function needs SciPy: pip install minijac[special]") from error
        return scipy.special
    import cupyx.scipy.special

    return cupyx.scipy.special
