"""The table of torch's operations, and what all of them do with dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...backend import astype, namespace, placed
from ...errors import InputError, UnsupportedOperationError
from ...lines import user_line
from ..tensors import DTYPES

__all__ = [
    "ALIKE",
    "BESIDE",
    "CALLS",
    "COMPLEX",
    "EXACT",
    "FACTORIES",
    "NUMBERS",
    "RESOLVED",
    "TABLE",
    "VIEWS",
    "aten",
    "floating",
    "of_one_dtype",
    "of_reals",
    "promoted",
    "register",
]


class _Aten:
    """torch's operations by name; None for one that the installed torch has no more, which nothing will ask for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.aten, name, None)


aten = _Aten()
TABLE: dict[Any, Callable[..., Any]] = {}
"""For a packet of torch's, or one of its overloads: a function of values, with the arguments of torch's schema."""
VIEWS: set[Any] = set()
"""Those whose result is a view of the first argument."""
BESIDE: set[Any] = set()
"""Of these, those that are no part of it: real parts, conjugates."""
COMPLEX: set[Any] = set()
"""Those that are right for complex operands as they stand."""
ALIKE: set[Any] = set()
"""Those that take operands of one dtype only, as torch's do."""
FACTORIES: set[Any] = set()
"""Those that look at shapes alone."""
RESOLVED: dict[Any, Callable[..., Any]] = {}
"""How an operation is carried out, as was found when it was first met."""
CALLS: dict[Any, Any] = {}
"""Of functions of torch's, with kinds of arguments, likewise."""
NUMBERS = (int, float, bool, type(None))
"""Types of arguments that have no dtype."""
EXACT: dict[Any, Callable[..., Any]] = {}
"""Those that handle tensors themselves: ``function(run, func, args, kwargs)``."""


def register(operation: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function of arrays that stands for an operation of torch's, with the arguments of its schema.

    Args:
        operation: An overload such as ``torch.ops.aten.sin.default``, or a packet, ``torch.ops.aten.sin``; one of a
            library of your own likewise. The function is written in NumPy's functions, on arrays and followed values.

    >>> import minijac.torch, numpy as np, torch
    >>> @minijac.torch.register(torch.ops.aten.special_spherical_bessel_j0)
    ... def spherical_bessel_j0(x):
    ...     return np.sinc(x / np.pi)
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        TABLE[operation] = function
        RESOLVED.clear()
        CALLS.clear()
        return function

    return decorate


def of_reals(packet: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which refuses complex operands unless it is known to be right for them."""
    if packet in COMPLEX or packet in VIEWS:
        return function

    def on_reals(*values: Any, **kwargs: Any) -> Any:
        for x in values:
            if type(x) not in NUMBERS and hasattr(x, "dtype") and x.dtype.kind == "c":
                raise UnsupportedOperationError(
                    f"{packet} at {user_line()}: got complex numbers, which this operation has no counterpart for in "
                    "minijac.torch. Write it in real and imaginary parts, or apply it to x.abs()."
                )
        return function(*values, **kwargs)

    return on_reals


def of_one_dtype(packet: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which refuses operands of several dtypes where torch's does."""
    if packet not in ALIKE:
        return function

    def on_one_dtype(*values: Any, **kwargs: Any) -> Any:
        found = [x.dtype for x in values if type(x) not in NUMBERS and hasattr(x, "dtype")]
        if found.count(found[0]) < len(found):
            found = list(dict.fromkeys(map(str, found)))
            raise InputError(
                f"{packet} at {user_line()}: expected tensors of one dtype, as torch does, got {' and '.join(found)}. "
                "Cast one of them: module.double(), x.float(), x.to(y.dtype)."
            )
        return function(*values, **kwargs)

    return on_one_dtype


# -- dtypes ------------------------------------------------------------------------------------------------------------
_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}


def default_float() -> Any:
    return np.dtype(np.float64 if torch.get_default_dtype() is torch.float64 else np.float32)


def _rank(x: Any) -> int:
    if hasattr(x, "dtype"):
        return _RANK[x.dtype.kind]
    return 0 if isinstance(x, bool) else 1 if isinstance(x, int) else 2 if isinstance(x, float) else 3


def _array(x: Any) -> bool:
    return hasattr(x, "dtype")


_NUMBER = (
    lambda: np.dtype(bool),
    lambda: np.dtype(np.int64),
    default_float,
    lambda: np.result_type(default_float(), "F"),
)
"""The dtype that torch gives a number, by its rank."""


def promoted(*operands: Any) -> tuple[Any, ...]:
    """The operands with the dtype that torch gives the result: tensors with axes count before numbers of equal kind."""
    if len(operands) == 2:  # nearly always there is nothing to do
        a, b = operands
        dtype = getattr(a, "dtype", None)
        if dtype is not None and (dtype.kind == "f" if type(b) in (float, int) else dtype == getattr(b, "dtype", None)):
            return operands
    arrays = [x for x in operands if _array(x)]
    if not arrays:
        return tuple([np.asarray(x, _NUMBER[max(map(_rank, operands))]()) for x in operands])
    first = arrays[0].dtype
    if all(x.dtype == first for x in arrays) and all(_array(x) or _rank(x) <= _RANK[first.kind] for x in operands):
        return operands
    best = None
    rank = -1
    for group in ([x for x in arrays if x.ndim], [x for x in arrays if not x.ndim]):
        if not group or max(map(_rank, group)) <= rank:
            continue
        rank = max(map(_rank, group))
        best = np.result_type(*[x.dtype for x in group if _rank(x) == rank])
        if best.kind in "iu":
            best = np.result_type(*[x.dtype for x in group])
    if best is not None and best.kind == "c":  # of the precision that dimensioned floats have
        best = np.result_type(best, *[x.dtype for x in arrays if x.ndim and x.dtype.kind == "f"])
    numbers = max([_rank(x) for x in operands if not _array(x)], default=-1)
    if numbers > rank:
        best = (
            _NUMBER[numbers]() if numbers < 3 else np.result_type(first if first.kind == "f" else default_float(), "F")
        )
    return tuple([astype(x, best, x) if _array(x) else x for x in operands])


def floating(x: Any) -> Any:
    """An integer or boolean operand as torch's default float."""
    return x if x.dtype.kind in "fc" else astype(x, default_float(), x)


def array(x: Any, like: Any) -> Any:
    """A number as an array of the dtype of `like`."""
    return x if _array(x) else namespace(like).asarray(x, like.dtype)


def as_numpy_dtype(dtype: Any) -> Any:
    if dtype not in DTYPES:
        raise InputError(
            f"a conversion at {user_line()}: expected float32, float64, complex64, complex128, integers or bools, got "
            f"{dtype}. Stay in one of these: x.float(), x.double(), without `with torch.autocast(...)`."
        )
    return DTYPES[dtype]


def cast(x: Any, dtype: Any) -> Any:
    """`x` with one of torch's dtypes; None leaves it."""
    return x if dtype is None else astype(placed(x, x), as_numpy_dtype(dtype), x)
