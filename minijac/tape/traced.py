"""Traced values: what acts as an array for a trace, through the protocols of NumPy and CuPy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..backend import Wrapped, array_of, namespace, placed
from ..errors import ConversionError, MutationError, UnsupportedOperationError
from ..lines import user_line

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["Indexable", "Traced", "TracedArray", "is_traced", "traced", "unsupported"]


def is_traced(x: Any) -> bool:
    return isinstance(x, Traced)


def _refusing(what: str) -> Any:
    """A method of what would lose the derivative."""
    return lambda self, *args, **kwargs: self._refuse(what)


class Traced(Wrapped, np.lib.mixins.NDArrayOperatorsMixin):
    """A value that a trace follows: it acts as the array that it stands for, through NumPy's own functions."""

    __slots__ = ("home", "index")
    # filled by minijac.numpy: NumPy's ufuncs and functions, and the array methods, to minijac's own
    ufuncs: ClassVar[dict[Any, Callable[..., Any]]] = {}
    functions: ClassVar[dict[Any, Callable[..., Any]]] = {}
    methods: ClassVar[dict[str, Callable[..., Any]]] = {}
    creators: ClassVar[set[Any]] = set()
    namespace: ClassVar[Any] = None
    # and by minijac.special: by name, because SciPy is not imported for it
    special: ClassVar[dict[str, Callable[..., Any]]] = {}
    # and by minijac.ops: what blocks ask of what stands for an array (`algebra.writing.StandIn`)
    embedded: ClassVar[Callable[..., Any]]
    superposed: ClassVar[Callable[..., Any]]

    def __init__(self, trace: Trace, index: int, value: Any) -> None:
        self.home = trace
        self.index = index
        self.value = value

    # -- what is known without a derivative ----------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def device(self) -> Any:
        return namespace(self).asarray(array_of(self)).device

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        return f"Traced({self.value!r})"

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    __hash__ = object.__hash__

    # -- NumPy's protocols ---------------------------------------------------------------------------------------------
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            self._refuse_out(ufunc.__name__, kwargs["out"])
        if any(isinstance(x, list | tuple) for x in inputs):
            inputs = tuple([placed(x, self) if isinstance(x, list | tuple) else x for x in inputs])
        name = f"numpy.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        function = self.ufuncs.get(ufunc if method == "__call__" else (ufunc, method))
        special: Any = sys.modules.get("scipy.special")
        if function is None and special is not None and ufunc is getattr(special, ufunc.__name__, None):
            name = name.replace("numpy", "scipy.special", 1)
            function = self.special.get(name.split(".")[-1]) if method == "__call__" else None
        if function is None:
            raise unsupported(name)
        if kwargs and method == "__call__" and ufunc.signature is None:
            raise UnsupportedOperationError(
                f"{name} at {user_line()}: got {', '.join(f'{key}=' for key in kwargs)}, which minijac does not take "
                "on traced values. Write it as a step of its own: np.where for where=, .astype for dtype=."
            )
        return function(*inputs, **kwargs)

    def __cupy_override_elementwise_kernel__(self, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        """CuPy's elementwise functions ask this of their operands. Each is called as NumPy's or SciPy's is."""
        name = kernel.name.removeprefix("cupy_").removeprefix("cupyx_scipy_").removeprefix("special_")
        if len(args) > kernel.nin:  # an in-place operator
            self._refuse_out(name, args[kernel.nin])
        original = getattr(np, name, None)
        if isinstance(original, np.ufunc):
            return self.__array_ufunc__(original, "__call__", *args, **kwargs)
        if kwargs.get("out") is not None:
            self._refuse_out(name, kwargs["out"])
        function = self.functions.get(original) or self.special.get(name)
        if function is None:
            raise unsupported(f"cupy's {name}")
        return function(*args, **kwargs)

    def __array_namespace__(self, *, api_version: Any = None) -> Any:
        np.empty(0).__array_namespace__(api_version=api_version)  # raises where there is no such version
        return self.namespace

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        function = self.functions.get(func)
        if function is None and func in self.creators:  # like= names this value
            function = getattr(namespace(self), func.__name__)
            if kwargs.get("device", 0) is None:  # NumPy passes it on, CuPy does not know it
                kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        if function is None:
            raise unsupported(f"{func.__module__}.{func.__name__}")
        if kwargs.get("out") is not None:
            self._refuse_out(func.__name__, kwargs["out"])
        return function(*args, **kwargs)

    def _refuse_out(self, name: str, out: Any) -> None:
        target = out[0] if isinstance(out, tuple) else out
        kind = "a traced value" if isinstance(target, Traced) else "a plain array"
        error = MutationError if isinstance(target, Traced) else ConversionError
        raise error(
            f"{name} at {user_line()}: got out= (or an in-place operator) that writes into {kind}, which would lose "
            "the derivative. Call it without out= and use what it returns: `y = np.exp(x)`, or `y = x + 1` instead of "
            "`x += 1`."
        )

    # -- what would lose the derivative --------------------------------------------------------------------------------
    def __setitem__(self, index: Any, value: Any) -> None:
        raise MutationError(
            f"assignment at {user_line()}: a traced value of shape {self.shape} cannot be written in place. Expected "
            "an operation that returns a new array: np.where(mask, new, x), minijac.numpy.put(x, index, new), or "
            "np.concatenate / np.stack of the parts."
        )

    def _refuse(self, what: str) -> Any:
        raise ConversionError(
            f"{what} at {user_line()}: got a traced value of shape {self.shape} where a plain number or array was "
            "made of it, which would drop its derivative. Write it with NumPy functions (np.sin instead of math.sin, "
            "np.stack instead of np.array or filling a buffer), return it as aux, or ask for the plain value with "
            "minijac.stop_gradient(x)."
        )

    __float__ = _refusing("float(x)")
    __int__ = _refusing("int(x)")
    __complex__ = _refusing("complex(x)")
    __index__ = _refusing("operator.index(x)")
    __reduce_ex__ = _refusing("pickling x")
    __array__ = _refusing("np.asarray(x)")
    item = _refusing("x.item()")
    tolist = _refusing("x.tolist()")

    def __copy__(self) -> Any:
        return self  # nothing can write to it, and a copy of its trace would lose the derivative

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    # -- array methods -------------------------------------------------------------------------------------------------
    @property
    def T(self) -> Any:
        return self.methods["transpose"](self)

    @property
    def mT(self) -> Any:
        return self.methods["swapaxes"](self, -1, -2)

    @property
    def real(self) -> Any:
        return self

    @property
    def imag(self) -> Any:
        return np.zeros_like(self)

    @property
    def flat(self) -> Any:
        return iter(self.methods["reshape"](self, -1))

    def __getattr__(self, name: str) -> Any:
        method = type(self).methods.get(name)
        if method is not None:
            return lambda *args, **kwargs: method(self, *args, **kwargs)
        if hasattr(np.ndarray, name) and not name.startswith("__"):
            raise unsupported(f"the array method or attribute .{name}")
        raise AttributeError(f"a traced value has no attribute {name!r}")


class Indexable:
    """What a traced value with axes can do beside: length, iteration, indexing.

    A traced number is a class of its own, without these: NumPy takes whatever has them for a sequence, and would
    complain of one, not of the lost derivative, at ``buffer[0] = x``.
    """

    __slots__ = ()

    def __len__(self) -> int:
        return self.shape[0]  # type: ignore[attr-defined]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __contains__(self, item: Any) -> bool:
        return bool((self == item).any())

    def __getitem__(self, index: Any) -> Any:
        return Traced.methods["__getitem__"](self, index)


class TracedArray(Indexable, Traced):
    """A traced value with axes."""

    __slots__ = ()


def traced(trace: Trace, index: int, value: Any) -> Traced:
    return (TracedArray if value.shape else Traced)(trace, index, value)


def unsupported(name: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"{name} at {user_line()}: got a traced value, and minijac has no derivative for this function. Write it with "
        "supported functions, define it (docs/adding-an-op.md), or apply it to minijac.stop_gradient(x) where its "
        "derivative is not wanted."
    )
