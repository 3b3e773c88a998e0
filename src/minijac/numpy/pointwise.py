"""Elementwise functions of NumPy with more than a ufunc's arguments, and those without a derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from warnings import warn

import numpy as np

from ..backend import array_of, check_operand, is_complex, value_of
from ..errors import MutationError, UnsupportedOperationError
from ..lines import user_line
from ..ops import elementwise
from ..tape.traced import Traced
from .picked import coordinates, within
from .protocol import FUNCTIONS, METHODS, absent, as_array, implements, number_of, plain, refuse
from .writing import as_view, overwrite, writable

UFUNCS: dict[Any, Callable[..., Any]] = {}
"""Ufuncs that are not one operation."""


# -- choices between branches ------------------------------------------------------------------------------------------
@implements(np.where)
def where(condition: Any, *branches: Any) -> Any:
    if not branches and (found := coordinates(condition)) is not None:
        return found
    if len(branches) != 2:
        raise UnsupportedOperationError(
            f"numpy.where at {user_line()}: expected where(condition, x, y); with one argument its result is an index "
            "with a shape that depends on values. Ask for np.nonzero(minijac.stop_gradient(x))."
        )
    condition = value_of(condition) if isinstance(condition, Traced) else condition
    a, b = (as_array(x, condition, *branches) if isinstance(x, list | tuple) else x for x in branches)
    if not hasattr(condition, "dtype") or condition.dtype.kind != "b":
        condition = as_array(condition, a, b) != 0
    return elementwise.where(condition, a, b)


@implements(np.select)
def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Any:
    """As branches of `where`: one that is not selected does not count."""
    if len(condlist) != len(choicelist) or not len(condlist):
        raise ValueError(f"select at {user_line()}: {len(condlist)} conditions for {len(choicelist)} choices")
    result = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        result = where(condition, choice, result)
    return result


@implements(np.piecewise)
def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Any:
    """Every function is applied to all of `x`, and chosen from by `where`."""
    if not isinstance(condlist, list | tuple) or (np.ndim(condlist[0]) == 0 and x.ndim):
        condlist = [condlist] if np.ndim(condlist) == x.ndim else list(condlist)
    conditions = [value_of(c) if isinstance(c, Traced) else as_array(c, x) for c in condlist]
    functions = list(funclist)
    if len(functions) == len(conditions) + 1:
        functions = [functions[-1], *functions[:-1]]
    elif len(functions) == len(conditions):
        functions = [0, *functions]
    else:
        raise ValueError(f"piecewise at {user_line()}: {len(conditions)} conditions for {len(functions)} functions")
    branches = [f(x, *args, **kw) if callable(f) else f for f in functions]
    result = branches[0]
    for condition, branch in zip(conditions, branches[1:], strict=True):
        result = where(condition, branch, result)
    result = np.broadcast_to(as_array(result, x), x.shape)
    return result if result.dtype == x.dtype else result.astype(x.dtype)


@implements(np.nan_to_num)
def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    if is_complex(x):
        y = nan_to_num(np.real(x), True, nan, posinf, neginf) + 1j * nan_to_num(np.imag(x), True, nan, posinf, neginf)
        return _into(x, y, copy)
    limits = np.finfo(x.dtype)
    posinf, neginf = (
        (float(limits.max) if posinf is None else posinf),
        (float(limits.min) if neginf is None else neginf),
    )
    y = x
    for found, number in ((np.isnan(x), nan), (x == np.inf, posinf), (x == -np.inf, neginf)):
        y = where(found, number, y)
    return _into(x, y, copy)


def _into(x: Any, y: Any, copy: bool) -> Any:
    if copy:
        return y
    writable(x)
    overwrite(x, y)
    return x


@implements(np.clip)
def clip(
    x: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None, **kwargs: Any
) -> Any:
    refuse("clip", **kwargs)
    x = as_array(x, a_min, a_max, min, max)
    low, high = _bound(x, a_min, min), _bound(x, a_max, max)
    return elementwise.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def _bound(x: Any, *given: Any) -> Any:
    bound = next((b for b in given if not absent(b)), None)
    return as_array(bound, x) if isinstance(bound, list | tuple) else bound


@implements(method="clip")
def clip_method(x: Any, min: Any = None, max: Any = None, out: Any = None, **kwargs: Any) -> Any:
    return clip(x, min, max, out, **kwargs)


# -- types and copies --------------------------------------------------------------------------------------------------
@implements(method="astype")
def astype(x: Any, dtype: Any, order: str = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True) -> Any:
    dtype = np.dtype(dtype)
    if not isinstance(x, Traced):
        return x.astype(dtype)
    if is_complex(x) and dtype.kind not in "cb":
        warn(f".astype({dtype}) at {user_line()} discards the imaginary part", np.exceptions.ComplexWarning, 2)
        x = elementwise.real(x)
    if dtype.kind not in "fc":
        return elementwise.cast(x, dtype=dtype)  # integers carry no derivative
    if dtype == x.dtype:
        return x.fresh() if copy else x
    return elementwise.astype_op(x, dtype=dtype)


if hasattr(np, "astype"):  # came with NumPy 2.1
    implements(np.astype)(lambda x, dtype, /, *, copy=True, device=None: astype(x, dtype, copy=copy))


@implements(np.copy)
def copy(x: Any, order: str = "K", subok: bool = False) -> Any:
    return x.fresh() if array_of(x).flags.c_contiguous or x.dtype.kind == "b" else np.positive(x)


@implements(method="copy")
def copy_method(x: Any, order: str = "C") -> Any:
    """In C order, whatever the order of `x`, so that views of it are what NumPy's are."""
    if order != "C" or array_of(x).flags.c_contiguous:
        return copy(x)
    flat: Any = np.reshape(x, (-1,))
    return flat.reshape(x.shape).fresh()


# -- complex numbers ---------------------------------------------------------------------------------------------------
# the parts and the conjugate are the operations that are not holomorphic; all others that are not are made of them
def _parts_are_views(array: Any) -> Any:
    raise MutationError(
        f"assignment at {user_line()}: this is the real or the imaginary part of a complex value, which is written "
        "as a whole. Write z[...] = x + 1j * y, or to a copy of the part (.copy())."
    )


def _real(val: Any) -> Any:
    return elementwise.real(val) if is_complex(val) else val


def _imag(val: Any) -> Any:
    return elementwise.imag(val) if is_complex(val) else np.zeros_like(val)


FUNCTIONS[np.real] = as_view(_real, _parts_are_views)
FUNCTIONS[np.imag] = as_view(_imag, _parts_are_views)


def _set_real(z: Any, x: Any) -> None:
    z[...] = x + 1j * np.imag(z) if is_complex(z) else x


def _set_imag(z: Any, y: Any) -> None:
    if not is_complex(z):
        raise TypeError(f"z.imag = ... at {user_line()}: expected a complex value, got {z.dtype}.")
    z[...] = np.real(z) + 1j * y


setattr(Traced, "real", property(FUNCTIONS[np.real], _set_real))  # noqa: B010 - for the type checker they are plain
setattr(Traced, "imag", property(FUNCTIONS[np.imag], _set_imag))  # noqa: B010


@implements(np.conjugate, method="conj")
def conj(x: Any) -> Any:
    return elementwise.UFUNCS[np.conjugate](x) if is_complex(x) else x


METHODS["conjugate"] = METHODS["conj"]


@implements(np.real_if_close)
def real_if_close(a: Any, tol: Any = 100) -> Any:
    if not is_complex(a):
        return a
    tol = tol * np.finfo(a.dtype).eps if tol > 1 else tol
    return elementwise.real(a) if np.all(np.abs(number_of(a).imag) < tol) else a


def absolute(x: Any, /) -> Any:
    """The length of the plane's vector, with its kink at 0."""
    return np.hypot(np.real(x), np.imag(x)) if is_complex(x) else elementwise.UFUNCS[np.absolute](x)


def sign(x: Any, /) -> Any:
    if not is_complex(x):
        return elementwise.UFUNCS[np.sign](x)
    r = absolute(x)
    return where(r == 0, 0.0, x / where(r == 0, 1.0, r))


def abs_squared(x: Any) -> Any:
    """``abs(x)**2``, which is smooth."""
    return np.square(np.real(x)) + np.square(np.imag(x)) if is_complex(x) else x * x


@implements(np.angle)
def angle(z: Any, deg: bool = False) -> Any:
    if is_complex(z):
        result = np.arctan2(np.imag(z), np.real(z))
        return result * (180.0 / np.pi) if deg else result
    return np.where(z < 0, 180.0 if deg else np.pi, 0.0).astype(z.dtype)


def conjugate(x: Any, /) -> Any:
    """As a ufunc, which returns no operand: the method of real numbers does."""
    return conj(x) if is_complex(x) else x.fresh()


UFUNCS.update({np.absolute: absolute, np.sign: sign, np.conjugate: conjugate})


def _like(function: Any) -> Callable[..., Any]:
    """A function that makes an array like another one; of floats, it is a constant of the trace, and can be written."""

    def made(a: Any, *args: Any, **kwargs: Any) -> Any:
        array = function(a.outline() if isinstance(a, Traced) else a, *args, **kwargs)
        if (rows := within(a)) is not None:
            return rows.home.constant(array)
        return a.home.constant(array) if array.dtype.kind in "fc" and isinstance(a, Traced) else array

    return made


for _function in (np.zeros_like, np.ones_like):
    FUNCTIONS[_function] = _like(_function)
FUNCTIONS[np.empty_like] = _like(np.zeros_like)  # no NaNs of the memory where a program reads what it never wrote


@implements(np.full_like)
def full_like(a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True, **kwargs: Any) -> Any:
    if not isinstance(fill_value, Traced):
        check_operand("full_like", fill_value)
        if not np.ndim(fill_value):
            return _like(np.full_like)(a, fill_value, dtype, **kwargs)
    ones = _like(np.ones_like)(a, dtype, **kwargs)
    return (ones * fill_value).astype(ones.dtype)


# -- ufuncs and their like ---------------------------------------------------------------------------------------------
@implements(np.sinc)
def sinc(x: Any) -> Any:
    return elementwise.sinc(x)


@implements(np.round, np.around, method="round")
def round(a: Any, decimals: int = 0, out: Any = None) -> Any:
    if is_complex(a):
        return round(np.real(a), decimals) + 1j * round(np.imag(a), decimals)
    return elementwise.round(a, decimals=decimals)


FUNCTIONS[np.fix] = elementwise.UFUNCS[np.trunc]


def frexp(x: Any, /) -> tuple[Any, Any]:
    """The exponent is an integer, and the mantissa has the slope ``2**-exponent``."""
    exponent = elementwise.exponent(x)
    return np.ldexp(x, -exponent), exponent


def modf(x: Any, /) -> tuple[Any, Any]:
    whole = np.trunc(x)
    return where(np.isinf(x), 0.0, x - whole), whole


def divmod(a: Any, b: Any, /) -> tuple[Any, Any]:
    return np.floor_divide(a, b), np.remainder(a, b)


UFUNCS.update({np.frexp: frexp, np.modf: modf, np.divmod: divmod})


@implements(np.shape)
def shape(a: Any) -> Any:
    return a.shape


@implements(np.size)
def size(a: Any, axis: Any = None) -> Any:
    return a.size if axis is None else a.shape[axis]


# -- without a derivative ----------------------------------------------------------------------------------------------
for _name in (
    "allclose", "array_equal", "array_equiv", "array_repr", "array_str", "array2string",
    "broadcast_shapes", "can_cast", "common_type",
    "iscomplex", "iscomplexobj", "isclose", "isneginf", "isposinf", "isreal", "isrealobj", "may_share_memory",
    "min_scalar_type", "ndim", "result_type", "shares_memory",
    "tril_indices_from", "triu_indices_from", "diag_indices_from", "iterable",
):  # fmt: skip
    FUNCTIONS[getattr(np, _name)] = plain(getattr(np, _name))
