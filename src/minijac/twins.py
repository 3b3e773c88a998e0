"""What stands for modules where `adapt` replaces them: `math`, NumPy's classes and Python loops, SciPy's functions."""

from __future__ import annotations

import cmath
import math
import sys
from collections import deque
from collections.abc import Callable
from functools import reduce, wraps
from inspect import signature
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np

from . import numpy as own
from . import special
from .backend import array_of
from .errors import UnsupportedOperationError
from .lines import user_line
from .numpy.creation import asarray, holds_traced
from .scipy import fft, interpolate, linalg, ndimage, signal, stats
from .tape.traced import Traced, TracedArray
from .transforms.vmap import vmap

__all__ = ["BUILTINS", "TWINS", "Twin", "complex_number", "number", "twin_function"]


class Twin(ModuleType):
    """A module in which some names are minijac's; all others are the original's."""

    def __init__(self, name: str, original: ModuleType, names: dict[str, Any]) -> None:
        super().__init__(name, original.__doc__)
        self.__dict__.update(names, _original=original, _adapted=lambda module: module)

    def within(self, adapted: Callable[[Any], Any]) -> Twin:
        """The twin, whose modules are what `adapted` makes of them."""
        self.__dict__["_adapted"] = adapted
        return self

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._original, name)
        return self._adapted(value) if isinstance(value, ModuleType) else value

    def __dir__(self) -> list[str]:
        return dir(self._original)


# -- math --------------------------------------------------------------------------------------------------------------
_RENAMED = {
    "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan", "atan2": "arctan2",
    "atanh": "arctanh", "pow": "power", "lgamma": "gammaln",
}  # fmt: skip
_ALIKE = """
    cbrt ceil copysign cos cosh degrees exp exp2 expm1 fabs floor fmod frexp isclose isfinite isinf isnan ldexp log10
    log1p log2 modf radians sin sinh sqrt tan tanh trunc erf erfc gamma
"""


def log(x: Any, base: Any = None) -> Any:
    """``math.log``"""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def hypot(*xs: Any) -> Any:
    """``math.hypot``"""
    return np.hypot(*xs) if len(xs) == 2 else np.linalg.norm(np.stack([asarray(x) for x in xs]), axis=0)


def dist(p: Any, q: Any) -> Any:
    """``math.dist``"""
    return np.linalg.norm(asarray(p) - asarray(q))


def fsum(xs: Any) -> Any:
    """``math.fsum``"""
    return np.sum(np.stack([asarray(x) for x in xs]), axis=0)


def prod(xs: Any, *, start: Any = 1) -> Any:
    """``math.prod``"""
    for x in xs:
        start = start * x
    return start


_SAID = {"log": log, "hypot": hypot, "dist": dist, "fsum": fsum, "prod": prod}


def _for_traced(plain: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """`plain` where nothing is traced, so that plain numbers give Python's."""

    @wraps(plain, updated=())
    def either(*args: Any, **kwargs: Any) -> Any:
        traced = any(map(holds_traced, args)) or any(map(holds_traced, kwargs.values()))
        return (function if traced else plain)(*args, **kwargs)

    return either


def _math() -> dict[str, Any]:
    found = {name: getattr(special, name, None) or getattr(np, name) for name in _ALIKE.split() if hasattr(math, name)}
    found |= {name: getattr(special, other, None) or getattr(np, other) for name, other in _RENAMED.items()}
    return {name: _for_traced(getattr(math, name), function) for name, function in (found | _SAID).items()}


# -- cmath -------------------------------------------------------------------------------------------------------------
_CMATH = "acos acosh asin asinh atan atanh cos cosh exp isclose isfinite isinf isnan log10 sin sinh sqrt tan tanh"


def _complex(x: Any) -> Any:
    return x if np.iscomplexobj(x) else asarray(x).astype(complex)


def _of_complex(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: function(*map(_complex, args), **options)


def rect(r: Any, phi: Any) -> Any:
    """``cmath.rect``"""
    return r * np.exp(1j * phi)


def _cmath() -> dict[str, Any]:
    found = {name: _of_complex(getattr(np, _RENAMED.get(name, name))) for name in _CMATH.split()}
    found |= {"log": _of_complex(log), "phase": np.angle, "polar": lambda z: (np.abs(z), np.angle(z)), "rect": rect}
    return {name: _for_traced(getattr(cmath, name), function) for name, function in found.items()}


# -- numbers -----------------------------------------------------------------------------------------------------------
class _Numbers(type):
    """Makes a class answer for ``float`` or ``complex``: as a class to ask, and as a dtype."""

    plain: Any
    dtype: Any
    traced: Callable[..., Any]

    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, cls.plain) or (isinstance(x, Traced) and x.shape == () and x.dtype == cls.dtype)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.plain)

    def __call__(cls, *args: Any) -> Any:
        if not any(isinstance(x, Traced) for x in args):
            return cls.plain(*args)
        x = cls.traced(*args)
        return x if x.ndim == 0 or cls.plain is np.float64 else np.reshape(x, ())

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.plain, name)


class number(metaclass=_Numbers):
    """``float``, which lets a traced number through."""

    plain, dtype = float, np.dtype(float)

    @staticmethod
    def traced(x: Any) -> Any:
        if np.iscomplexobj(x):
            raise TypeError("float(z): expected a real number, got a complex one: take z.real, z.imag or abs(z).")
        return x


class float64(metaclass=_Numbers):
    """``np.float64``, which lets a traced number through, and an array."""

    plain, dtype = np.float64, np.dtype(float)
    traced = staticmethod(lambda x: own.asarray(x, float))


class complex_number(metaclass=_Numbers):
    """``complex``, which lets traced numbers through."""

    plain, dtype = complex, np.dtype(complex)

    @staticmethod
    def traced(x: Any, y: Any = 0.0) -> Any:
        return _complex(x) + 1j * y


def _extreme(plain: Callable[..., Any], ufunc: np.ufunc) -> Callable[..., Any]:
    """``min`` or ``max``, which takes traced numbers without a decision, so that each sample has its own."""

    def extreme(*args: Any, **options: Any) -> Any:
        items = list(args[0]) if len(args) == 1 else list(args)
        numbers = not options and any(isinstance(x, Traced) for x in items) and all(np.ndim(x) == 0 for x in items)
        return reduce(ufunc, items) if numbers else plain(*(items,) if len(args) == 1 else items, **options)

    return extreme


BUILTINS = {
    "float": number, "complex": complex_number, "min": _extreme(min, np.minimum), "max": _extreme(max, np.maximum),
}  # fmt: skip


# -- numpy -------------------------------------------------------------------------------------------------------------
class _Joined:
    """``np.r_`` and ``np.c_``: what stands in brackets, one after the other."""

    def __init__(self, plain: Any, columns: bool) -> None:
        self._plain, self._columns = plain, columns

    def __getitem__(self, items: Any) -> Any:
        items = items if isinstance(items, tuple) else (items,)
        if not any(map(holds_traced, items)):
            return self._plain[items]
        if any(isinstance(item, str) for item in items):
            return np.stack(items)  # raises: a traced value beside a directive
        parts = [np.r_[item] if isinstance(item, slice) else np.atleast_1d(asarray(item)) for item in items]
        if self._columns:
            parts = [part[:, None] if part.ndim == 1 else part for part in parts]
        return np.concatenate(parts, axis=-1)


class vectorize:
    """``np.vectorize``: the function runs once, for one entry that stands for all of them (`vmap`)."""

    def __init__(self, pyfunc: Any = None, otypes: Any = None, *args: Any, **options: Any) -> None:
        self.pyfunc, self._plain = pyfunc, np.vectorize(pyfunc, otypes, *args, **options)
        self._options = options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(x, Traced) for x in (*args, *kwargs.values())):
            return self._plain(*args, **kwargs)
        if any(isinstance(x, Traced) for x in kwargs.values()) or self._options.get("signature"):
            raise TypeError("np.vectorize of traced values: expected positional arguments, and no signature.")
        arrays = np.broadcast_arrays(*map(asarray, args))
        shape = arrays[0].shape
        flat = vmap(lambda *xs: self.pyfunc(*xs, **kwargs))(*[np.reshape(x, (-1,)) for x in arrays])
        return tuple(np.reshape(y, shape) for y in flat) if isinstance(flat, tuple) else np.reshape(flat, shape)


def apply_along_axis(func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, **kwargs: Any) -> Any:
    """``np.apply_along_axis``: the function runs once, for one line that stands for all of them (`vmap`)."""
    if not isinstance(arr, Traced):
        return np.apply_along_axis(func1d, axis, arr, *args, **kwargs)
    lines: Any = np.moveaxis(arr, axis, -1)  # type: ignore[type-var]
    lead = lines.shape[:-1]
    y = vmap(lambda line: func1d(line, *args, **kwargs))(np.reshape(lines, (-1, lines.shape[-1])))
    y = np.reshape(y, (*lead, *y.shape[1:]))
    place = axis % arr.ndim
    return np.moveaxis(y, tuple(range(len(lead), y.ndim)), tuple(range(place, place + y.ndim - len(lead))))


class _Arrays(type):
    """Makes a class answer for ``np.ndarray``."""

    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(array_of(x), np.ndarray)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, np.ndarray | TracedArray)


class ndarray(np.ndarray[Any, Any], metaclass=_Arrays):
    """``np.ndarray``, which traced values with axes are instances of."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return np.ndarray(*args, **kwargs)


def _of_lists(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """NumPy's function, to which a list of traced values is the array that NumPy would make of it."""
    level = _asarrays if name in _OF_SEQUENCES else _asarray

    @wraps(function, updated=())
    def of_lists(*args: Any, **kwargs: Any) -> Any:
        if any(type(x) in (list, tuple, deque) and holds_traced(x) for x in (*args, *kwargs.values())):
            args, kwargs = tuple(map(level, args)), {key: x if key == "out" else level(x) for key, x in kwargs.items()}
        return function(*args, **kwargs)

    return of_lists


def _asarray(x: Any) -> Any:
    return asarray(x) if type(x) in (list, tuple, deque) and holds_traced(x) else x


def _asarrays(x: Any) -> Any:
    return [_asarray(item) for item in x] if type(x) in (list, tuple, deque) and holds_traced(x) else x


_OF_SEQUENCES = frozenset(
    ("concatenate", "concat", "stack", "hstack", "vstack", "dstack", "column_stack", "select", "choose", "lexsort",
     "piecewise", "multi_dot")
)  # fmt: skip
"""Functions that take several arrays as one argument."""


class _Ufunc:
    """A ufunc that takes lists of traced values."""

    def __init__(self, ufunc: np.ufunc) -> None:
        self._ufunc, self._call = ufunc, _of_lists(ufunc, ufunc.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._ufunc, name)
        return _of_lists(value, name) if callable(value) else value


def _functions(module: ModuleType, names: list[str]) -> dict[str, Any]:
    """The functions of one of NumPy's modules, which take lists of traced values."""
    found = {name: getattr(module, name) for name in names if name in vars(module) and name != "block"}
    return {
        name: _Ufunc(value) if isinstance(value, np.ufunc) else _of_lists(value, name)
        for name, value in found.items()
        if callable(value) and not isinstance(value, type)
    }


def _as_array(plain: Callable[..., Any], order: str = "") -> Callable[..., Any]:
    """A function that makes an array as it should lie in memory: another one, where it does not lie so."""

    def lying(a: Any, dtype: Any = None, requirements: Any = (), **_: Any) -> Any:
        y, wanted = asarray(a, dtype), {order, *(str(word)[0].upper() for word in requirements or ())}
        flags = array_of(y).flags
        as_it_is = ("C" not in wanted or flags.c_contiguous) and ("F" not in wanted or flags.f_contiguous)
        return y if as_it_is else y.copy()

    return _for_traced(plain, lying)


def ndenumerate(arr: Any) -> Any:
    """``np.ndenumerate``"""
    return ((index, arr[index]) for index in np.ndindex(arr.shape)) if isinstance(arr, Traced) else np.ndenumerate(arr)


def fromiter(iter: Any, dtype: Any, count: int = -1, **kwargs: Any) -> Any:
    """``np.fromiter``"""
    items = list(islice(iter, None if count < 0 else count))
    return asarray(items, dtype) if holds_traced(items) else np.fromiter(items, dtype, count, **kwargs)


_NUMPY = _functions(own, np.__all__) | {
    **{name: _as_array(getattr(np, name)) for name in ("asanyarray", "asarray_chkfinite", "require")},
    "ascontiguousarray": _as_array(np.ascontiguousarray, "C"), "asfortranarray": _as_array(np.asfortranarray, "F"),
    "r_": _Joined(np.r_, False), "c_": _Joined(np.c_, True), "vectorize": vectorize,
    "apply_along_axis": apply_along_axis, "ndarray": ndarray, "float64": float64,
    "ndenumerate": ndenumerate, "fromiter": fromiter,
}  # fmt: skip
_LINALG, _FFT = _functions(np.linalg, np.linalg.__all__), _functions(np.fft, np.fft.__all__)

MATH, CMATH = _math(), _cmath()
_OF_SCIPY = {"fft": fft, "interpolate": interpolate, "linalg": linalg, "ndimage": ndimage, "signal": signal}
"""Modules all of whose names are functions that stand for SciPy's of the same name."""
TWINS: dict[str, Callable[[ModuleType], Twin]] = {
    "numpy": lambda original: Twin("numpy", own, _NUMPY),
    "numpy.linalg": lambda original: Twin("numpy.linalg", original, _LINALG),
    "numpy.fft": lambda original: Twin("numpy.fft", original, _FFT),
    "math": lambda original: Twin("math", original, MATH),
    "cmath": lambda original: Twin("cmath", original, CMATH),
    **dict.fromkeys(
        map("scipy.{}".format, _OF_SCIPY),
        lambda original: Twin(original.__name__, original, _public(_OF_SCIPY[original.__name__.split(".")[1]])),
    ),
    "scipy.linalg": lambda original: Twin(
        "scipy.linalg",
        original,
        {name: _of_matrices(getattr(original, name), mine) for name, mine in _public(linalg).items()},
    ),
    "scipy.stats": lambda original: Twin("scipy.stats", original, _families(original)),
    "scipy.special": lambda original: Twin("scipy.special", original, _special(original)),
}
"""Modules that have a twin, by name."""


def _public(module: ModuleType) -> dict[str, Any]:
    return {name: getattr(module, name) for name in module.__all__}


_NO_MATTER = frozenset(
    ("check_finite", "lapack_driver", "lwork", "overwrite_a", "overwrite_ab", "overwrite_b", "workers")
)
"""Options of `scipy.linalg` that say how a result is found, not which."""


def _of_matrices(plain: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    taken = signature(function)

    def without(*args: Any, **options: Any) -> Any:
        options = {name: value for name, value in options.items() if name not in _NO_MATTER}
        try:
            taken.bind(*args, **options)
        except TypeError as error:
            name = f"scipy.linalg.{function.__name__}"
            raise UnsupportedOperationError(
                f"{name} at {user_line()}: {error}. On traced values minijac takes {taken}: leave the rest out, or "
                f"apply {name} to minijac.stop_gradient(x) where its derivative is not wanted."
            ) from error
        return function(*args, **options)

    return _for_traced(plain, without)


class _Family:
    """A family of `scipy.stats`, or one of its members: minijac's functions for traced values, all else SciPy's."""

    def __init__(self, original: Any, family: Any, *parameters: Any, **options: Any) -> None:
        self._original, self._family, self._parameters, self._options = original, family, parameters, options
        self._member: Any = None  # SciPy's, if it is there already

    def __call__(self, *parameters: Any, **options: Any) -> _Family:
        return _Family(self._original, self._family, *parameters, **options)

    def __getattr__(self, name: str) -> Any:
        parameters, options = self._parameters, self._options
        given = bool(parameters or options)
        if name not in ("pdf", "logpdf", "cdf", "logcdf", "sf", "logsf") or not hasattr(self._family, name):
            original = self._original(*parameters, **options) if given and not self._member else self._original
            return getattr(self._member or original, name)
        function = _for_traced(getattr(self._original, name), getattr(self._family, name))
        return (lambda x: function(x, *parameters, **options)) if given else function


def _families(original: ModuleType) -> dict[str, Any]:
    return {name: _Family(getattr(original, name), family) for name, family in _public(stats).items()}


def _family(member: Any, original: Any) -> _Family | None:
    """What stands for a family, or for one of its members, that was imported by its own name."""
    dist, parameters, options = member, tuple[Any, ...](), dict[str, Any]()
    if hasattr(member, "dist"):
        dist, parameters, options = member.dist, member.args, member.kwds
    elif hasattr(member, "_dist") and not getattr(member, "allow_singular", True):
        dist, parameters = member._dist, (member.mean, member.cov)
    for name, family in _public(stats).items():
        theirs = getattr(original, name, None)
        if theirs is dist or (
            dist is not member and type(theirs) is type(dist) and getattr(dist, "name", name) == name
        ):
            twin = _Family(theirs, family, *parameters, **options)
            twin._member = None if dist is member else member
            return twin
    return None


def _special(original: ModuleType) -> dict[str, Any]:
    return {
        name: getattr(special, name)
        for name in special.__all__
        if hasattr(original, name) and not isinstance(getattr(original, name), np.ufunc)
    }


def twin_function(function: Any) -> Any:
    """What stands for a function or class that was imported by its own name; None where it may stay."""
    module = getattr(function, "__module__", None)
    if id(function) in _OF_NUMPY:
        return _OF_NUMPY[id(function)]
    if not isinstance(module, str | None) or isinstance(function, np.ufunc):
        return None
    name = str(getattr(function, "__name__", None))
    if module in ("math", "cmath"):
        return (MATH if module == "math" else CMATH).get(name)
    place = (module or "").split(".")
    if len(place) < 2 or place[0] != "scipy":
        return None
    if place[1] == "stats":
        return _family(function, sys.modules.get("scipy.stats"))
    mine = special if place[1] == "special" else _OF_SCIPY.get(place[1])
    if mine is not None and name in mine.__all__:
        return _of_matrices(function, getattr(mine, name)) if mine is linalg else getattr(mine, name)
    if mine is interpolate and name == "None":  # an interpolant that is there already
        return interpolate.followed(function)
    return None


_OF_NUMPY = {
    id(getattr(module, name)): mine
    for module, names in ((np, _NUMPY), (np.linalg, _LINALG), (np.fft, _FFT))
    for name, mine in names.items()
}
