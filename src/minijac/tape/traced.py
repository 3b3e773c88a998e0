"""Traced values: what acts as an array for a trace, through the protocols of NumPy and CuPy."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..backend import Wrapped, array_of, namespace, value_of
from ..errors import ConversionError, UnsupportedOperationError
from ..foreign import left_by_sparse, refuse_of_scipy, unsupported
from ..lines import scipy_call, user_line
from ..strides import Shaped

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["FIXED", "Indexable", "Traced", "TracedArray", "is_traced", "traced"]

FIXED = "an argument of a transformation, or a part of one, or a number"
"""The link of a value that cannot be written: NumPy would write to the caller's array, or has none to write to."""


_SEQUENCES = (list, tuple)


def is_traced(x: Any) -> bool:
    return isinstance(x, Traced)


def _converted(what: str, function: Callable[..., Any]) -> Any:
    """A method that makes something plain of a constant; of another value that would lose the derivative."""
    return lambda self, *args, **kwargs: function(self._plain(what), *args, **kwargs)


class Traced(Wrapped, Shaped, np.lib.mixins.NDArrayOperatorsMixin):
    """A value that a trace follows: it acts as the array that it stands for, through NumPy's own functions.

    It is a handle on a node of its trace (`index`; -1 for a constant): writing moves it to another node.
    """

    __slots__ = ("home", "index", "link")
    # filled by minijac.numpy: NumPy's ufuncs and functions, and the array methods, to minijac's own
    ufuncs: ClassVar[dict[Any, Callable[..., Any]]] = {}
    functions: ClassVar[dict[Any, Callable[..., Any]]] = {}
    methods: ClassVar[dict[str, Callable[..., Any]]] = {}
    creators: ClassVar[set[Any]] = set()
    namespace: ClassVar[Any] = None
    views: ClassVar[set[Any]] = set()
    ordinary: ClassVar[type[Traced]]
    viewed: ClassVar[type[Traced]]
    waiting: ClassVar[type[Traced]]
    write: ClassVar[Callable[..., Any]]
    write_out: ClassVar[Callable[..., Any]]
    listed: ClassVar[Callable[..., Any]]
    # and by minijac.special: by name, because SciPy is not imported for it
    special: ClassVar[dict[str, Callable[..., Any]]] = {}
    # and by minijac.ops: what blocks ask of what stands for an array (`algebra.writing.StandIn`)
    real: Any
    imag: Any
    embedded: ClassVar[Callable[..., Any]]
    superposed: ClassVar[Callable[..., Any]]
    added_at: ClassVar[Callable[..., Any]]

    def __init__(self, trace: Trace, index: int, value: Any) -> None:
        self.home = trace
        self.index = index
        self.value = value
        self.link: Any = None
        """What is known of its being written: nothing, `FIXED`, or what `numpy.writing` keeps."""

    # -- what is known without a derivative ----------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def device(self) -> Any:
        return namespace(self).asarray(array_of(self)).device

    def shown(self) -> Any:
        return self.home.shown(self.value)

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
            return self.write_out(ufunc, method, inputs, **kwargs)
        for x in inputs:
            if isinstance(x, _SEQUENCES) and method != "at":
                inputs = tuple([self.listed(x, self) if isinstance(x, _SEQUENCES) else x for x in inputs])
                break
        called = method == "__call__"
        function = self.ufuncs.get(ufunc if called else (ufunc, method))
        if function is None or (kwargs and called and ufunc.signature is None):
            name = ufunc.__name__ if called else f"{ufunc.__name__}.{method}"
            special: Any = sys.modules.get("scipy.special")
            own = ufunc.__name__.lstrip("_")
            of_scipy = special is not None and ufunc in (
                getattr(special, own, None), getattr(special._ufuncs, ufunc.__name__, None)
            )  # fmt: skip
            if of_scipy and function is None and called:
                function = self.special.get(own)
            name = f"{'scipy.special' if of_scipy else 'numpy'}.{name}"
            if function is None:
                raise unsupported(name)
            if kwargs and called:
                raise UnsupportedOperationError(
                    f"{name} at {user_line()}: got {', '.join(f'{key}=' for key in kwargs)}, which minijac does not "
                    "take on traced values. Write it as a step of its own: np.where for where=, .astype for dtype=."
                )
        return function(*inputs, **kwargs)

    def __cupy_override_elementwise_kernel__(self, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        """CuPy's elementwise functions ask this of their operands. Each is called as NumPy's or SciPy's is."""
        name = kernel.name.removeprefix("cupy_").removeprefix("cupyx_scipy_").removeprefix("special_")
        original = getattr(np, name, None)
        if len(args) > kernel.nin:  # an in-place operator
            return self.write_out(original, "__call__", args[: kernel.nin], out=args[kernel.nin])
        if isinstance(original, np.ufunc):
            return self.__array_ufunc__(original, "__call__", *args, **kwargs)
        function = self.functions.get(original) or self.special.get(name)
        if function is None:
            raise unsupported(f"cupy's {name}")
        return function(*args, **kwargs)

    __pandas_priority__ = 10_000  # pandas' operators leave it to this class

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise ConversionError(
            f"torch's {func.__name__} at {user_line()}: got a traced value of an array, which would drop its "
            "derivative. For functions of tensors and modules write minijac.torch.jacobian(f)(x) and the like."
        )

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
        result = function(*args, **kwargs)
        return result if func in self.views else self._detached(result, args)

    # -- writing, in the place that the handle has ---------------------------------------------------------------------
    def fresh(self) -> Traced:
        """Another handle on the same value, which a write to this one does not move."""
        now = type(self).ordinary
        return now(self.home, self.index, self.value)

    def as_array(self) -> Traced:
        """Another handle on the same value, an array where NumPy's arithmetic made a number of one without axes."""
        value = self.value.as_array() if isinstance(self.value, Traced) else np.asarray(self.value)
        return type(self).ordinary(self.home, self.index, value)

    def moved(self, new: Traced) -> None:
        """Let this handle, which is no view, stand for another value."""
        self.__class__ = type(new)
        self.home, self.index, self.value = new.home, new.index, new.value

    def _detached(self, result: Any, args: tuple[Any, ...]) -> Any:
        """What a function returns, as NumPy has it: neither a view nor one of its arguments."""
        if isinstance(result, Traced) and (result.link is not None or any(result is arg for arg in args)):
            return result.fresh()
        return result

    def __setitem__(self, index: Any, value: Any) -> None:
        self.write(index, value)

    __copy__ = fresh

    def __deepcopy__(self, memo: Any) -> Traced:
        return self.fresh()

    # -- what would lose the derivative --------------------------------------------------------------------------------
    def _plain(self, what: str, positions: bool = False) -> Any:
        """The numbers of a constant, and integers, which have no derivative; of others none."""
        known = self.home.known(self)
        if known is None and self.dtype.kind in "iub":
            value = value_of(self)
            if not isinstance(value, Wrapped):
                known = value
            elif isinstance(value, Traced):  # of a program
                known = value.home.made_for(value) if positions else None
                return value._refuse(what) if known is None else known
        if known is not None:
            return known
        called = scipy_call()
        return self._refuse(what) if called is None else refuse_of_scipy(called)

    def _refuse(self, what: str) -> Any:
        raise ConversionError(
            f"{what} at {user_line()}: got a traced value of shape {self.shape} where a plain number or array was "
            "made of it, which would drop its derivative. Write it with NumPy functions (np.sin instead of math.sin, "
            "np.stack instead of np.array), fill a buffer that is made of a traced value "
            "(np.zeros_like(x, shape=...)), run the function as it is by minijac.adapt(f), return it as aux, or ask "
            "for the plain value with minijac.stop_gradient(x)."
        )

    __float__ = _converted("float(x)", float)
    __int__ = _converted("int(x)", int)
    __complex__ = _converted("complex(x)", complex)

    def __index__(self) -> int:
        return operator.index(self._plain("operator.index(x)", positions=True))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if left_by_sparse(sys._getframe(1)):
            return np.fromiter([self], object).reshape(())
        return np.array(self._plain("np.asarray(x)", positions=True), dtype)

    item = _converted("x.item()", lambda array, *index: array.item(*index))
    tolist = _converted("x.tolist()", lambda array: array.tolist())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._refuse("pickling x")

    __iter__: Any = None  # of a number: Python would take indices in its place

    def __getitem__(self, index: Any) -> Any:
        return self.methods["__getitem__"](self, index)

    # -- array methods -------------------------------------------------------------------------------------------------
    @property
    def T(self) -> Any:
        return self.methods["transpose"](self)

    @property
    def mT(self) -> Any:
        return self.methods["swapaxes"](self, -1, -2)

    @property
    def flat(self) -> Any:
        return self.methods["reshape"](self, -1)

    def __getattr__(self, name: str) -> Any:
        method = type(self).methods.get(name)
        if method is not None:
            if name in self.views:
                return lambda *args, **kwargs: method(self, *args, **kwargs)
            return lambda *args, **kwargs: self._detached(method(self, *args, **kwargs), (self,))
        if hasattr(np.ndarray, name) and not name.startswith("__"):
            raise unsupported(f"the array method or attribute .{name}")
        raise AttributeError(f"a traced value has no attribute {name!r}")


class Indexable:
    """What a traced value with axes can do beside: length, iteration, writing. A traced number has none of it."""

    __slots__ = ()

    def __len__(self) -> int:
        return self.shape[0]  # type: ignore[attr-defined]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    def __contains__(self, item: Any) -> bool:
        return bool((self == item).any())


for _name in [
    name for name in vars(np.lib.mixins.NDArrayOperatorsMixin) if name.startswith("__i") and name != "__invert__"
]:
    # a number has no place to write to: Python takes `a = a + b` for `a += b`
    setattr(Traced, _name, lambda self, other: NotImplemented)
    setattr(Indexable, _name, getattr(np.lib.mixins.NDArrayOperatorsMixin, _name))


class TracedArray(Indexable, Traced):
    """A traced value with axes."""

    __slots__ = ()


def traced(trace: Trace, index: int, value: Any) -> Traced:
    return (TracedArray if value.shape else Traced)(trace, index, value)
