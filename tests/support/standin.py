"""A stand-in for CuPy where there is no GPU: NumPy's arithmetic behind CuPy's interface and CuPy's refusals.

What CuPy has is read from the real package, which imports without a GPU: a function, method or keyword that it lacks is
missing here too. Operands have to be arrays of the stand-in, on the current device, or numbers; nothing becomes a NumPy
array by itself, and reductions give arrays without axes. `log` counts launches (calls that make an array, not views),
copies from the host, and looks at numbers from the host, which `cupyx.allow_synchronize(False)` forbids as CuPy's does.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, reduce
from inspect import Signature, signature
from types import ModuleType
from typing import Any

import cupy as real
import cupyx.scipy.special
import numpy as np
import scipy.special
from emulated import elementwise

__all__ = ["cupy", "cupyx_module", "installed", "log", "ndarray"]


class Log:
    """What was done since the last `clear`."""

    def __init__(self) -> None:
        self.clear()
        self.allowed = True

    def clear(self) -> None:
        self.launches: list[str] = []
        self.uploads: list[int] = []
        """Bytes of each copy from the host."""
        self.reads: list[str] = []
        """How numbers were looked at from the host: get, item, bool, int, float."""

    def read(self, how: str) -> None:
        if not self.allowed:
            raise cupyx.DeviceSynchronized(f"{how} looks at an array from the host")
        self.reads.append(how)


log = Log()


# -- devices -----------------------------------------------------------------------------------------------------------
class Device:
    """One of as many devices as are asked for; the current one is the innermost ``with``."""

    _stack = threading.local()

    def __init__(self, device: int | None = None) -> None:
        self.id = Device.current() if device is None else int(device)

    @classmethod
    def current(cls) -> int:
        stack = getattr(cls._stack, "ids", [])
        return stack[-1] if stack else 0

    def __enter__(self) -> Device:
        ids = self._stack.__dict__.setdefault("ids", [])
        ids.append(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.ids.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<stand-in device {self.id}>"


# -- arrays ------------------------------------------------------------------------------------------------------------
class Flags:
    """CuPy's flags: contiguity and ownership, and no others."""

    def __init__(self, host: Any) -> None:
        self.c_contiguous, self.f_contiguous = host.flags.c_contiguous, host.flags.f_contiguous
        self.owndata = host.flags.owndata


class ndarray:
    """A NumPy array that is taken to lie on a device."""

    __slots__ = ("_host", "base", "device")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    __cuda_array_interface__ = property(lambda self: {"shape": self.shape, "version": 3})

    _host: Any
    base: Any
    device: Device

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: Flags(self._host))
    T = property(lambda self: _raised(self._host.T, [self], "T"))
    mT = property(lambda self: _raised(self._host.mT, [self], "mT"))
    real = property(lambda self: _raised(self._host.real, [self], "real"))
    imag = property(lambda self: _raised(self._host.imag, [self], "imag"))

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[Any]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[k] for k in range(len(self)))

    # -- NumPy's protocols, as CuPy answers them -----------------------------------------------------------------------
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        own = getattr(cupy, ufunc.__name__, None) if method == "__call__" else None
        handled = (ndarray, np.ndarray, np.generic, bool, int, float, complex)
        if own is None or not all(isinstance(x, handled) for x in inputs):
            return NotImplemented
        return own(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        try:
            own = getattr(reduce(getattr, func.__module__.split(".")[1:], cupy), func.__name__)
        except AttributeError:
            return NotImplemented
        if own is func or not all(t in (ndarray, np.ndarray) for t in types):
            return NotImplemented
        return own(*args, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id  # CUDA

    def __dlpack__(self, **_: Any) -> Any:
        return self

    # -- what looks at numbers -----------------------------------------------------------------------------------------
    def get(self) -> Any:
        log.read("get")
        return self._host.copy()

    def item(self, *index: int) -> Any:
        log.read("item")
        return self._host.item(*index)

    def tolist(self) -> Any:
        log.read("tolist")
        return self._host.tolist()

    def _number(self, kind: Callable[[Any], Any]) -> Any:
        log.read(kind.__name__)
        return kind(self._host)

    __bool__ = lambda self: self._number(bool)
    __int__ = lambda self: self._number(int)
    __float__ = lambda self: self._number(float)
    __complex__ = lambda self: self._number(complex)
    __index__ = lambda self: self._number(int)
    __repr__ = lambda self: repr(self.get())
    __str__ = lambda self: str(self.get())
    __format__ = lambda self, spec: format(self.get(), spec)

    # -- indexing ------------------------------------------------------------------------------------------------------
    def __getitem__(self, index: Any) -> Any:
        if any(x.dtype == bool for x in _arrays(index if isinstance(index, tuple) else (index,))):
            log.read("indexing with a mask")  # how many it chooses has to be known
        return _raised(self._host[_lowered(index)], [self], "getitem")

    def __setitem__(self, index: Any, value: Any) -> None:
        log.launches.append("setitem")
        self._host[_lowered(index)] = _lowered(value)

    def scatter_add(self, slices: Any, value: Any) -> None:
        log.launches.append("scatter_add")
        np.add.at(_lowered(self), _lowered(slices), _lowered(value))


def made(host: Any, base: Any = None) -> ndarray:
    """An array of the stand-in around one of NumPy's, on the current device."""
    array = object.__new__(ndarray)
    array._host, array.base, array.device = host, base, Device() if base is None else base.device
    return array


def _lowered(x: Any) -> Any:
    """An operand as NumPy takes it. Refuses what CuPy refuses."""
    if type(x) is ndarray:
        if x.device.id != Device.current():
            raise ValueError(f"Array device must be same as the current device: array {x.device}, current {Device()}")
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}: an array of NumPy's, of shape {x.shape}")
    if isinstance(x, list | tuple):
        return type(x)([_lowered(item) for item in x])
    plain = (np.generic, np.dtype, bool, int, float, complex, str, type, slice, dict, type(None), type(Ellipsis))
    if isinstance(x, plain) or callable(x):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _raised(result: Any, operands: list[Any], name: str) -> Any:
    """A result of NumPy's as CuPy gives it: an array, a view of an operand or new; what is no array stays."""
    if isinstance(result, tuple | list):
        return tuple([_raised(item, operands, name) for item in result])
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if not isinstance(result, np.ndarray):
        return result
    for x in operands:
        if result is x._host:
            return x
        if result.base is not None and result.size and np.may_share_memory(result, x._host):
            return made(result, x if x.base is None else x.base)
    log.launches.append(name)
    return made(result)


def _arrays(*values: Any) -> list[ndarray]:
    found: list[ndarray] = []
    for x in values:
        if type(x) is ndarray:
            found.append(x)
        elif isinstance(x, list | tuple):
            found += _arrays(*x)
    return found


# -- functions ---------------------------------------------------------------------------------------------------------
SIZED_BY_VALUES = {
    "nonzero", "flatnonzero", "argwhere", "unique", "bincount", "compress", "extract", "histogram", "union1d",
    "intersect1d", "setdiff1d", "setxor1d",
}  # fmt: skip
"""Functions whose result has a shape that has to be known on the host."""


def _computed(name: str, host: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if name in SIZED_BY_VALUES:
        log.read(name)
    operands = _arrays(*args, *kwargs.values())
    with np.errstate(all="ignore"):  # a GPU does not warn
        result = host(*map(_lowered, args), **{key: _lowered(x) for key, x in kwargs.items()})
    if kwargs.get("out") is not None:
        log.launches.append(name)
        return kwargs["out"]
    return _raised(result, operands, name)


class Ufunc:
    """One of CuPy's ufuncs: numbers and arrays, and of the keywords only out, casting and dtype."""

    def __init__(self, kernel: Any, host: Any) -> None:
        self.name, self.nin, self.nout, self.types = kernel.name, kernel.nin, kernel.nout, kernel.types
        self.__name__ = kernel.name
        self._host = host

    def __call__(self, *args: Any, out: Any = None, casting: Any = None, dtype: Any = None) -> Any:
        for x in args:
            if hasattr(x, "__cupy_override_elementwise_kernel__"):
                given = {"out": out, "casting": casting, "dtype": dtype}
                kwargs = {key: value for key, value in given.items() if value is not None}
                return x.__cupy_override_elementwise_kernel__(self, *args, **kwargs)
        if any(isinstance(x, list | tuple) for x in args):
            raise TypeError(f"Unsupported type {list}")
        given = {"out": out, "casting": casting, "dtype": dtype}
        if len(args) > self.nin:
            args, given["out"] = args[: self.nin], args[self.nin]
        if all(not isinstance(x, ndarray) for x in args) and given["out"] is None:
            log.uploads.append(8)  # numbers alone become an array
        return _computed(self.name, self._host, args, {key: value for key, value in given.items() if value is not None})


class Function:
    """A function of CuPy's with its own signature, which its values are NumPy's for."""

    def __init__(self, name: str, original: Any, host: Any) -> None:
        self.__name__, self.__module__ = name, "cupy"
        self._original, self._host, self._signature = original, host, _signature_of(name, original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._signature.bind(*args, **kwargs).arguments
        if any(hasattr(x, "__cupy_override_elementwise_kernel__") for x in (*args, *kwargs.values())):
            return self._original(*args, **kwargs)  # what CuPy's own code makes of a traced value
        check = CHECKS.get(self.__name__)
        if check is not None:
            check(bound)
        result = _computed(self.__name__, self._host, args, kwargs)
        return made(np.asarray(result)) if self.__name__ in TRUTHS else result


class ElementwiseKernel:
    """A kernel of the caller's with typed parameters, whose body the C compiler compiles."""

    def __init__(self, in_params: str, out_params: str, operation: str, name: str = "kernel", **kwargs: Any) -> None:
        self.kernel = real.ElementwiseKernel(in_params, out_params, operation, name, **kwargs)  # which reads them
        types = [[(p.dtype, p.ctype, p.name) for p in self.kernel.params[part]]
                 for part in (slice(self.kernel.nin), slice(self.kernel.nin, self.kernel.nargs))]  # fmt: skip
        self.inputs, self.outputs = [[dtype for dtype, _, _ in part] for part in types]
        self._run = elementwise(operation, self.kernel.preamble, *[[each[1:] for each in part] for part in types])

    def __call__(self, *args: Any) -> Any:
        assert len(args) == len(self.inputs), f"{self.kernel.name} takes {len(self.inputs)} operands, got {len(args)}"
        for x, dtype in zip(args, self.inputs, strict=True):
            assert not isinstance(x, ndarray) or x.dtype == dtype, f"{self.kernel.name}: {x.dtype} for {dtype}"
        shape = np.broadcast_shapes(*[x.shape for x in _arrays(*args)])
        given = [np.ascontiguousarray(np.broadcast_to(np.asarray(_lowered(x), dtype), shape))
                 for x, dtype in zip(args, self.inputs, strict=True)]  # fmt: skip
        made_ = [np.empty(shape, dtype) for dtype in self.outputs]
        self._run([x.reshape(shape) for x in given], made_)
        log.launches.append(self.kernel.name)
        return made(made_[0]) if len(made_) == 1 else tuple([made(x) for x in made_])


EMBEDDED = re.compile(r"^\w+\.(\w+)\((.*?)\)(?: ->.*)?$")
HIDDEN = {"einsum": "*operands, dtype=None, optimize=False", "size": "a, axis=None", "min_scalar_type": "a"}
"""Signatures that cannot be read off."""


def _signature_of(name: str, function: Any) -> Signature:
    if name in HIDDEN:
        return _signature(HIDDEN[name])
    if isinstance(function, type(real.matmul)):
        return signature(function.__call__)
    return signature(function)


@cache
def _signature(text: str) -> Signature:
    names: dict[str, Any] = {}
    exec(f"def f({text}): pass", names)
    return signature(names["f"])


def _method(name: str) -> Callable[..., Any]:
    """A method with the signature that CuPy's documentation gives it."""
    found = EMBEDDED.match((getattr(real.ndarray, name).__doc__ or "").strip().split("\n")[0])
    assert found, f"CuPy's documentation does not say how ndarray.{name} is called"
    bound = _signature(re.sub(r"\b(?:int|bint|bool|_ndarray_base|ndarray|str|Py_ssize_t) (?=\w)", "", found[2]))
    host = getattr(np.ndarray, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound.bind(self, *args, **kwargs)
        return _computed(name, host, (self, *args), kwargs)

    return method


for _name in (
    "all", "any", "argmax", "argmin", "argpartition", "argsort", "astype", "choose", "clip", "compress", "conj",
    "conjugate", "copy", "cumprod", "cumsum", "diagonal", "dot", "fill", "flatten", "max", "mean", "min", "nonzero",
    "partition", "prod", "put", "ravel", "repeat", "reshape", "round", "searchsorted", "sort", "squeeze", "std",
    "sum", "swapaxes", "take", "trace", "transpose", "var", "view",
):  # fmt: skip
    setattr(ndarray, _name, _method(_name))


def _operator(name: str, ufunc: Any, swapped: bool) -> Callable[..., Any]:
    """CuPy's operators leave it to NumPy's ufuncs which operand is asked, unless the other wants to be."""

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, ndarray) and getattr(other, "__array_ufunc__", 0) is None:
            return NotImplemented
        return ufunc(other, self) if swapped else ufunc(self, other)

    return method


def _in_place(name: str) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        return getattr(cupy, name)(self, other, self)

    return method


for _name, _short in {
    "add": "add", "subtract": "sub", "multiply": "mul", "true_divide": "truediv", "floor_divide": "floordiv",
    "remainder": "mod", "power": "pow", "matmul": "matmul", "bitwise_and": "and", "bitwise_or": "or",
    "bitwise_xor": "xor",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_short}__", _operator(_name, getattr(np, _name), False))
    setattr(ndarray, f"__r{_short}__", _operator(_name, getattr(np, _name), True))
    setattr(ndarray, f"__i{_short}__", _in_place(_name))
for _name, _short in {
    "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "equal": "eq", "not_equal": "ne",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_short}__", _operator(_name, getattr(np, _name), False))
for _name, _short in {"negative": "neg", "positive": "pos", "absolute": "abs", "invert": "invert"}.items():
    setattr(ndarray, f"__{_short}__", lambda self, _name=_name: getattr(cupy, _name)(self))


# -- what CuPy refuses beside that -------------------------------------------------------------------------------------
def _only(name: str, *values: Any) -> Callable[[dict[str, Any]], None]:
    def check(bound: dict[str, Any]) -> None:
        if bound.get(name) not in values:
            raise ValueError(f"got {name}={bound[name]!r}, expected one of {values}")

    return check


def _first_is_array(bound: dict[str, Any]) -> None:
    first = next(iter(bound.values()))
    if not isinstance(first[0] if isinstance(first, tuple) and first else first, ndarray):
        raise TypeError(f"Argument has incorrect type (expected cupy.ndarray, got {type(first)})")


def _all_are_arrays(bound: dict[str, Any]) -> None:
    if not all(isinstance(x, ndarray) for x in next(iter(bound.values()))):
        raise TypeError("Only cupy arrays can be joined")


def _is_matrix(bound: dict[str, Any]) -> None:
    if bound["a"].ndim != 2:
        raise np.linalg.LinAlgError(f"{bound['a'].ndim}-dimensional array given. Array must be two-dimensional")


def _solvable(bound: dict[str, Any]) -> None:
    a, b = bound["a"], bound["b"]
    if not isinstance(a, ndarray) or not isinstance(b, ndarray):
        raise TypeError(f"cupy.ndarray expected, got {type(a)} and {type(b)}")
    if b.ndim != 1 and a.shape[:-1] != b.shape[:-1]:
        raise ValueError("a must have (..., M, M) shape and b must have (..., M, K)")


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "sort": _only("kind", None, "stable"),
    "argsort": _only("kind", None, "stable"),
    "concatenate": _all_are_arrays,
    "stack": _all_are_arrays,
    "where": _first_is_array,
    "lstsq": _is_matrix,
    "solve": _solvable,
    **dict.fromkeys((
        "broadcast_to", "expand_dims", "transpose", "reshape", "squeeze", "take", "pad", "roll", "flip", "diagonal",
        "as_strided", "sum", "mean", "max", "min", "prod", "moveaxis", "swapaxes", "repeat", "tile", "partition",
        "take_along_axis", "searchsorted", "cumsum", "nonzero", "unwrap", "clip", "inv", "det", "svd", "eigh", "qr",
        "cholesky", "pinv", "slogdet", "matmul", "argmax", "argmin", "all", "any", "count_nonzero",
        "polygamma",
    ), _first_is_array),
}  # fmt: skip
TRUTHS = {"allclose", "array_equal", "array_equiv"}
"""What is a Python bool in NumPy, and an array in CuPy."""


# -- modules -----------------------------------------------------------------------------------------------------------
class Module(ModuleType):
    """A module of CuPy's: names that it has, with values that NumPy has for them."""

    def __init__(self, name: str, original: Any, host: Any, **own: Any) -> None:
        super().__init__(name)
        self.__dict__.update(own, _original=original, _host=host)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        original, host = getattr(self._original, name), getattr(self._host, name, None)
        found: Any = original
        if isinstance(original, ModuleType):
            found = Module(f"{self.__name__}.{name}", original, host)
        elif isinstance(original, real.ufunc) and host is not None:
            found = Ufunc(original, host)
        elif callable(original) and not isinstance(original, type) and original is not host and host is not None:
            found = Function(name, original, host)
        setattr(self, name, found)
        return found


def _uploaded(obj: Any, dtype: Any = None, copy: bool | None = True, order: Any = None) -> Any:
    """`cupy.array`, the way onto the device."""
    if isinstance(obj, ndarray):
        host = np.array(_lowered(obj), dtype, copy=copy, order=order or "K")
        return _raised(host, [obj], "array")
    parts = _arrays(obj)
    if parts:
        return _raised(np.array(_lowered(obj), dtype), [], "array")
    if hasattr(obj, "__array_ufunc__") and not isinstance(obj, np.ndarray | np.generic):
        raise TypeError(f"Unsupported type {type(obj)}")
    host = np.array(obj, dtype, order=order if order in ("C", "F") else "K")
    log.uploads.append(host.nbytes)
    return made(host)


def _asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None) -> Any:
    return _uploaded(a, dtype, copy, order)


def _from_dlpack(x: Any) -> Any:
    kind, number = x.__dlpack_device__()
    if kind != 2:
        raise BufferError("expected an array on a CUDA device")
    with Device(number):
        source = x.__dlpack__()
        return made(source._host, source)


def _creator(name: str) -> Callable[..., Any]:
    bound, host = signature(getattr(real, name)), getattr(np, name)

    def create(*args: Any, **kwargs: Any) -> Any:
        bound.bind(*args, **kwargs)
        return _computed(name, host, args, kwargs)

    return create


cuda = Module("cupy.cuda", real.cuda, None, Device=Device)
cupy = Module(
    "cupy", real, np, ndarray=ndarray, ufunc=Ufunc, ElementwiseKernel=ElementwiseKernel, cuda=cuda,
    array=_uploaded, asarray=_asarray, asanyarray=_asarray, asnumpy=lambda a: a.get(), from_dlpack=_from_dlpack,
    **{name: _creator(name) for name in ("arange", "empty", "eye", "full", "identity", "ones", "tri", "zeros")},
)  # fmt: skip


@contextmanager
def _allow_synchronize(allow: bool) -> Iterator[None]:
    before, log.allowed = log.allowed, allow
    try:
        yield
    finally:
        log.allowed = before


cupyx_module = Module(
    "cupyx", cupyx, None, allow_synchronize=_allow_synchronize,
    scatter_add=lambda a, slices, value: a.scatter_add(slices, value),
)  # fmt: skip
special = Module("cupyx.scipy.special", cupyx.scipy.special, scipy.special)
cupyx_module.scipy = Module("cupyx.scipy", cupyx.scipy, None, special=special)
MODULES = {
    "cupy": cupy, "cupy.linalg": cupy.linalg, "cupy.cuda": cuda, "cupyx": cupyx_module,
    "cupyx.scipy": cupyx_module.scipy, "cupyx.scipy.special": special,
}  # fmt: skip


@contextmanager
def installed() -> Iterator[ModuleType]:
    """The stand-in in CuPy's place, for whoever imports it meanwhile."""
    before = {name: sys.modules.get(name) for name in MODULES}
    sys.modules.update(MODULES)
    log.clear()
    try:
        yield cupy
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
