"""The one seam to NumPy and CuPy: which namespace and device an array belongs to, and what the two spell differently.

NumPy's own functions do on CuPy's arrays what CuPy's do, through NumPy's protocols; so most code says ``np`` and means
either. What is made from nothing, and what CuPy has not or has otherwise, goes through here. CuPy is not imported: an
array of it comes from a caller who has (or by DLPack from a GPU).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

import numpy as np
import optree

from .errors import InputError, UnsupportedOperationError
from .foreign import a_function, brief, handed_over, kind_of, needing
from .lines import user_line

__all__ = [
    "PLAIN", "REAL", "Wrapped", "array_of", "astype", "at_home", "carried_out", "check_operand", "check_real",
    "cupy_of", "fingerprint", "holds_array", "is_array", "is_complex", "is_sparse", "lacking", "module_of",
    "namespace", "of_scipy", "on_gpu", "on_host", "placed", "scatter_add", "shape_of", "special", "taken_home",
    "to_host", "value_of", "zeros",
]  # fmt: skip


def _keep_memory() -> None:
    """Free an array of 16 MiB that nobody touched, so that memory freed by one call is there for the next.

    glibc takes the largest array that was freed for the size of what a program works with, and keeps twice as much
    before it gives memory back. Else a call, which frees all that it made, gives back what the next one asks for again,
    page by page; that may double what a Jacobian of some hundred KiB costs.
    """
    np.empty(2**24, np.uint8)


_keep_memory()
_HOST = (np.ndarray, np.generic)


def _cupy() -> Any:
    """CuPy if the caller has imported it (no array of it can exist otherwise), else None."""
    return sys.modules.get("cupy")


class Wrapped:
    """What stands for an array: the traced value, which holds the array, or another traced value, in `value`."""

    __slots__ = ("value",)
    value: Any

    def plain(self) -> Any:
        """What it stands for without derivative; itself where its numbers must not be looked at."""
        return value_of(self.shown())

    def outline(self) -> Any:
        """An array of its shape, dtype and device, whose numbers say nothing."""
        return self.value.outline() if isinstance(self.value, Wrapped) else self.value

    def lowest(self) -> Any:
        """The plain array under all traces, as they show it."""
        value = self.shown()
        return value.lowest() if isinstance(value, Wrapped) else value

    def shown(self) -> Any:
        """What it holds, in the order that it has."""
        return self.value


def value_of(x: Any) -> Any:
    """The value without derivative: the plain array under all traces, or its place in a program being recorded."""
    return x.plain() if isinstance(x, Wrapped) else x


def array_of(x: Any) -> Any:
    """The plain array under all traces, for what depends on its kind alone and not on its numbers."""
    while isinstance(x, Wrapped):
        x = x.value
    return x


def namespace(*operands: Any) -> Any:
    """The module whose arrays the operands are, or stand for: cupy if one of them is CuPy's, else numpy."""
    return cupy_of(operands) or np


def cupy_of(operands: Iterable[Any]) -> Any:
    """CuPy, if one of the operands is its array, or stands for one. A single call, as each operation asks for it."""
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        array = cupy.ndarray
        for x in operands:
            while isinstance(x, Wrapped):
                x = x.value
            if isinstance(x, array):
                return cupy
    return None


def module_of(arguments: Any) -> Any:
    """The module of the arrays in a pytree, as by `namespace`."""
    return np if _cupy() is None else namespace(*optree.tree_leaves(arguments, namespace="minijac"))


def is_array(x: Any) -> bool:
    """Whether `x` is a plain array: numpy's, a numpy scalar, or cupy's."""
    if isinstance(x, _HOST):
        return True
    cupy = _cupy()
    return cupy is not None and isinstance(x, cupy.ndarray)


def on_gpu(x: Any) -> bool:
    """Whether `x` is a plain array of CuPy's."""
    return is_array(x) and not isinstance(x, _HOST)


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an operand: of an array, of what stands for one, or of a number."""
    return getattr(x, "shape", ())


def is_complex(x: Any) -> bool:
    """Whether an array, or a number, is of a complex type."""
    return x.dtype.kind == "c" if hasattr(x, "dtype") else isinstance(x, complex)


def holds_array(x: Any) -> bool:
    """Whether `x` is an array, plain or followed by traces: no number, plain or of a program that is recorded."""
    return is_array(array_of(x))


# -- what may be computed with -----------------------------------------------------------------------------------------
_NUMBERS = frozenset("?bBhHiIlLqQfdFD")
"""The dtypes of operands: booleans, integers, float32, float64, complex64 and complex128."""
REAL = _NUMBERS - set("FD")
PLAIN = (float, int, bool, type(None))
"""Types of other operands that are real, whatever they hold."""


def check_operand(name: str, x: Any) -> bool:
    """Whether `x`, an operand or a result, is complex. Raises InputError where minijac does not compute with it.

    Every operation asks this of all that meets a traced value, so that nothing else slips in by any way.
    """
    kind = type(x)
    if (kind is np.ndarray and x.dtype.char in REAL) or kind in PLAIN:
        return False
    if isinstance(x, Wrapped):
        return x.dtype.kind == "c"  # type: ignore[attr-defined]
    if is_array(x) and x.dtype.char in _NUMBERS and not isinstance(x, np.ma.MaskedArray | np.matrix):
        return bool(x.dtype.kind == "c")
    if kind is complex:
        return True
    raise InputError(f"{name}: expected numbers or arrays of them, got {_described(x)}.")


def check_real(name: str, operands: tuple[Any, ...]) -> None:
    """Raise UnsupportedOperationError where an operation that orders numbers, or has no derivative for complex ones,
    is given some."""
    if any(check_operand(name, x) for x in operands):
        raise UnsupportedOperationError(
            f"{name} at {user_line()}: got complex numbers, for which minijac does not have it: it orders numbers, or "
            "its derivative is known for real ones only. Write it with np.abs(z), z.real and z.imag."
        )


def _described(x: Any) -> str:
    if isinstance(x, np.ma.MaskedArray):
        return "a masked array. Pass its data and its mask apart: np.where(x.mask, 0.0, x.data)"
    if isinstance(x, np.matrix):
        return "a numpy.matrix, which multiplies otherwise than arrays do. Pass np.asarray(x)"
    if not is_array(x):
        advice = handed_over(x)[:-1]
        return f"{kind_of(x)}.{advice}" if advice else f"{type(x).__name__} ({brief(x)}). Pass float(x)"
    found = f"dtype {x.dtype}"
    if x.dtype.kind in "OSUVMm":
        return f"{found}. Make numbers of it before, outside of the function: x.astype(float)"
    return f"{found}, which rounds otherwise than float32 and float64. Cast it: x.astype(float)"


# -- making arrays where others live -----------------------------------------------------------------------------------
def is_sparse(x: Any) -> bool:
    """Whether `x` is a sparse matrix or array of SciPy's."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(x))


def zeros(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    return namespace(like).zeros(shape, dtype)


def astype(x: Any, dtype: Any, like: Any) -> Any:
    """`x` (an array, a traced value, or a Python number) as an array of `dtype` where `like` lives."""
    if not hasattr(x, "dtype"):
        return namespace(like).asarray(x, dtype)
    return x if x.dtype == dtype else x.astype(dtype)


def placed(x: Any, like: Any) -> Any:
    """A number, a list, or a constant of NumPy's (positions, a mask) as an array where `like` lives."""
    if isinstance(x, Wrapped) or (is_array(x) and not isinstance(x, np.ndarray | np.generic)):
        return x
    return namespace(like).asarray(x)


def on_host(x: Any) -> bool:
    """Whether looking at the numbers of a plain array costs no wait for a device."""
    return isinstance(x, _HOST)


def to_host(x: Any) -> Any:
    """An array, or a number, as one of NumPy's: a copy, where it is CuPy's."""
    return np.asarray(x) if namespace(x) is np else x.get()


def fingerprint(array: Any) -> Any:
    """A number that changes when an array's content does: the sum of its words, by position modulo a prime."""
    if not isinstance(array, np.ndarray):
        return None  # CuPy's: not looked at
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    with np.errstate(over="ignore"):
        return int(words.sum(dtype=np.uint64)), int(words[::509].sum(dtype=np.uint64)), bytes(flat[-8:])


# -- arguments, and operands that do not fit ---------------------------------------------------------------------------
class at_home:
    """Context in which a transformation works on its arguments: ``with at_home(args) as args``.

    The device of the first argument of CuPy's is the current one. Arrays of other libraries (torch's tensors) come in
    by DLPack, which copies nothing.
    """

    __slots__ = ("args", "device")

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args, self.device = args, None
        for x in args:
            if type(x) is not np.ndarray:
                break
        else:
            return
        leaves, tree = optree.tree_flatten(args, namespace="minijac")
        adopted = [_adopted(leaf) for leaf in leaves]
        if any(new is not old for new, old in zip(adopted, leaves, strict=True)):
            self.args = optree.tree_unflatten(tree, adopted)
        cupy = _cupy()
        if cupy is not None:
            arrays = (array_of(leaf) for leaf in adopted)
            self.device = next((array.device for array in arrays if isinstance(array, cupy.ndarray)), None)

    def __enter__(self) -> tuple[Any, ...]:
        if self.device is not None:
            self.device.__enter__()
        return self.args

    def __exit__(self, *error: Any) -> None:
        if self.device is not None:
            self.device.__exit__(*error)


def taken_home(f: Callable[..., Any], leading: int = 1) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates what a transformation of `f` returns: it is named as `f` is, and works at home on its arguments.

    The first `leading` arguments, which the transformation's options speak of, may come by keyword.
    """

    def decorate(transformed: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(a_function(f))
        def called(*args: Any, **kwargs: Any) -> Any:
            if kwargs and len(args) < leading:
                args, kwargs = _by_position(f, args, kwargs, leading)
            with at_home(args) as args:
                return transformed(*args, **kwargs)

        return called

    return decorate


def _by_position(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], leading: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call of `f` with those of its first arguments that came by keyword in their places."""
    try:
        parameters = list(signature(f).parameters.values())
    except (TypeError, ValueError):  # written in C, without one
        return args, kwargs
    for parameter in parameters[len(args) : leading]:
        if parameter.kind is not Parameter.POSITIONAL_OR_KEYWORD or parameter.name not in kwargs:
            break
        args, kwargs = (*args, kwargs[parameter.name]), {k: v for k, v in kwargs.items() if k != parameter.name}
    return args, kwargs


def _adopted(x: Any) -> Any:
    """An array of another library as one of NumPy's or CuPy's in the same memory; anything else as it is."""
    if isinstance(x, np.ndarray | np.generic | Wrapped) or not hasattr(x, "__dlpack__") or is_array(x):
        return x
    host = int(x.__dlpack_device__()[0]) in (1, 3)  # the host's memory, or pinned memory of it
    try:
        if host:
            return np.from_dlpack(x)
        with needing("an array on a GPU", "CuPy", "cuda12", "cupy-cuda12x"):
            import cupy
        return cupy.from_dlpack(x)
    except BufferError as error:
        raise InputError(
            f"an array of type {type(x).__name__}: expected one that DLPack can pass on, got: {error}."
        ) from error


def carried_out(name: str, function: Callable[..., Any], operands: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """An operation on plain arrays; where they are CuPy's, in terms that say what is wrong.

    Raises TypeError where some operands are NumPy's and others CuPy's, UnsupportedOperationError for what CuPy lacks.
    """
    cupy = cupy_of(operands)
    if cupy is None:
        return function(*operands, **params)
    _refuse_mixed(name, operands, cupy)
    if isinstance(function, np.ufunc) and not hasattr(cupy, function.__name__):  # NumPy's error would print the array
        raise lacking(f"{name} (cupy.{function.__name__})")
    try:
        return function(*operands, **params)
    except TypeError as error:  # NumPy's, where CuPy's array does not answer for a function
        if "no implementation found" in str(error):
            raise lacking(name) from error
        raise


def _refuse_mixed(name: str, operands: tuple[Any, ...], cupy: Any) -> None:
    kinds = [(k, "CuPy" if isinstance(x, cupy.ndarray) else "NumPy", x) for k, x in enumerate(operands)
             if isinstance(x, np.ndarray | cupy.ndarray)]  # fmt: skip
    if any(kind == "NumPy" for _, kind, _ in kinds):
        found = " and ".join(f"operand {k} of shape {x.shape} in {kind}" for k, kind, x in kinds)
        raise TypeError(
            f"{name} at {user_line()}: expected all arrays in one place, got {found}. Arrays do not move by "
            "themselves: take one to the GPU with cupy.asarray(x), or to the host with x.get()."
        )


# -- what CuPy spells otherwise, or lacks ------------------------------------------------------------------------------
def scatter_add(target: Any, index: Any, values: Any) -> None:
    """``target[index] += values`` in place, where positions that come twice get both."""
    if namespace(target) is np:
        np.add.at(target, index, values)
        return
    import cupyx

    cupyx.scatter_add(target, index, values)


def special(name: str, *operands: Any) -> Callable[..., Any]:
    """A special function for the backend of the operands; needs SciPy, or CuPy on the GPU.

    Plain operands alone: what runs a value on symbols has no numbers for them, and an order that is none never ends.
    """
    if any(isinstance(x, Wrapped) for x in operands):
        raise TypeError(f"{name}: expected plain arrays; it is called as it is.")
    return of_scipy("special", name, *operands)


def of_scipy(module: str, name: str, *operands: Any) -> Callable[..., Any]:
    """SciPy's function of that name, or CuPy's, imported when it is called."""
    if namespace(*operands) is np:
        with needing("this function", "SciPy", "special", "scipy"):
            return getattr(sys.modules.get(f"scipy.{module}") or _imported(f"scipy.{module}"), name)
    try:
        found = getattr(import_module(f"cupyx.scipy.{module}"), name, None)
    except ImportError:
        found = None
    if found is None:
        raise lacking(f"cupyx.scipy.{module}.{name}")
    return found


def _imported(module: str) -> Any:
    """On a thread of its own: modules of SciPy make generators, which are not draws of the recorded function."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(import_module, module).result()


def lacking(name: str) -> UnsupportedOperationError:
    """The error for a function that is asked for on CuPy's arrays and that CuPy has not."""
    return UnsupportedOperationError(
        f"{name} at {user_line()}: got an array of CuPy's, and CuPy has no such function. Write it with functions that "
        "it has (docs/gpu.md lists those that it lacks), or work on the host: x.get()."
    )
