"""NumPy's set functions on traced values: which entries are chosen depends on values, and each keeps its derivative.

Of equal entries, the first is the one that is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UnsupportedOperationError
from ..lines import user_line
from .indexing import take
from .protocol import FUNCTIONS, as_array, implements, number_of


@implements(np.unique)
def unique(
    ar: Any,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    **kwargs: Any,
) -> Any:
    ar = as_array(ar)
    _, first, inverse, counts = np.unique(number_of(ar), True, True, True, axis, **kwargs)
    asked = ((first, return_index), (inverse, return_inverse), (counts, return_counts))
    values = take(ar, first, axis)
    extras = [found for found, wanted in asked if wanted]
    return (values, *extras) if extras else values


for _name, _result in (("unique_all", 3), ("unique_counts", 1), ("unique_inverse", 1), ("unique_values", 0)):
    _original = getattr(np, _name)

    def _unique(x: Any, /, _function: Any = _original, _result: int = _result, **kwargs: Any) -> Any:
        found = _function(number_of(x), **kwargs)
        first = np.unique(number_of(x), return_index=True, equal_nan=False)[1]
        values = take(x, first)
        return type(found)(values, *found[1:]) if _result else values

    FUNCTIONS[getattr(np, _name)] = _unique


def _of_two(function: Callable[..., Any]) -> Callable[..., Any]:
    def on_values(ar1: Any, ar2: Any, assume_unique: bool = False, return_indices: bool = False) -> Any:
        if return_indices:
            raise UnsupportedOperationError(
                f"numpy.{function.__name__} at {user_line()}: got return_indices=True, which minijac does not take on "
                "traced values. Ask for them with minijac.stop_gradient."
            )
        both = np.concatenate([np.ravel(as_array(ar1)), np.ravel(as_array(ar2))])
        numbers = number_of(both)
        chosen = function(number_of(ar1), number_of(ar2))
        order = np.argsort(numbers, kind="stable")
        return take(both, order[np.searchsorted(numbers, chosen, sorter=order)])

    return on_values


for _set_function in (np.union1d, np.intersect1d, np.setdiff1d, np.setxor1d):
    FUNCTIONS[_set_function] = _of_two(_set_function)


@implements(np.trim_zeros)
def trim_zeros(filt: Any, trim: str = "fb", axis: Any = None) -> Any:
    x = as_array(filt)
    found = np.nonzero(number_of(x))
    axes = range(x.ndim) if axis is None else [k % x.ndim for k in np.ravel(axis).tolist()]
    index = [slice(None)] * x.ndim
    for k in axes:
        if not found[k].size:
            index[k] = slice(0, 0)
            continue
        first = int(found[k].min()) if "f" in trim.lower() else 0
        last = int(found[k].max()) + 1 if "b" in trim.lower() else x.shape[k]
        index[k] = slice(first, last)
    return x[tuple(index)]


@implements(np.apply_along_axis)
def apply_along_axis(func1d: Any, axis: int, arr: Any, *args: Any, **kwargs: Any) -> Any:
    raise UnsupportedOperationError(
        f"numpy.apply_along_axis at {user_line()}: calls its function for one row after another, which takes the "
        "samples of a batch apart. Write the function for all rows at once, with axis=, as NumPy's own "
        "functions are: then its derivative follows from that of its steps, and no operation has to be defined."
    )
