"""The tape: traces, the nodes that they record, traced values, and the lines of the user's code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, ClassVar

import numpy as np

from .backend import Wrapped, array_of, carried_out, namespace, placed
from .errors import ConversionError, MutationError, TraceError, UnsupportedOperationError
from .lines import Line, caller, user_line

__all__ = ["Node", "Op", "Trace", "Traced", "apply", "is_traced", "user_line"]

_serial = count()


class Op:
    """An operation: how to compute it, and the local derivative (`edge`) for each operand.

    `value` takes plain arrays, or values traced further out. ``edge(node, k)`` is the derivative of the node's output
    with respect to its operand `k`; None marks an operation whose derivative is zero wherever it exists (comparisons,
    sign, rounding): it is not recorded by a differentiating trace.
    """

    __slots__ = ("edge", "family", "inert", "name", "partials", "samples", "signature", "value", "view")

    def __init__(
        self,
        name: str,
        value: Callable[..., Any],
        edge: Callable[[Node, int], Any] | None,
        family: str,
        samples: Any = (),
        inert: frozenset[int] = frozenset(),
        view: bool = False,
    ) -> None:
        self.name = name
        self.value = value
        self.edge = edge
        self.family = family
        self.samples = samples
        self.inert = inert
        """Positions of operands that have no derivative."""
        self.view = view
        """Whether the result is a view of the operand, where its strides allow."""
        self.partials: Sequence[Callable[..., Any] | float | None] | None = None
        """For an elementwise operation its partial derivatives as declared, one for each operand."""
        self.signature: Callable[..., Any] | None = None
        """Multilinear operations: the names of the axes of operands and output."""

    def __call__(self, *args: Any, **params: Any) -> Any:
        return apply(self, args, params)

    def __repr__(self) -> str:
        return f"<{self.family} operation {self.name}>"


class Node:
    """One recorded operation: its operands' values, which nodes they came from (-1: none), its output, its line."""

    __slots__ = ("args", "live", "op", "out", "params", "parents", "slopes", "where")

    def __init__(
        self,
        op: Op | None,
        parents: tuple[int, ...],
        args: tuple[Any, ...],
        params: dict[str, Any],
        out: Any,
        where: Line | None,
    ) -> None:
        self.op = op
        self.parents = parents
        self.args = args
        self.params = params
        self.out = out
        self.where = where
        self.live: Any = None
        """Which entries any output uses, where a `where` discards some: others have no derivative."""
        self.slopes: dict[int, Any] = {}
        """Partials of an elementwise operation that are known already, by operand."""


class Trace:
    """One run of a function under differentiation. Traces are told apart by identity; the younger one is the inner."""

    __slots__ = ("nodes", "open", "program", "serial", "watched")

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.open = True
        self.serial = next(_serial)
        self.program: Any = None
        """The program that records what this trace computes, if one does: it wants to know of captured arrays."""
        self.watched: dict[int, tuple[Any, Any, Line | None]] = {}
        """Large plain arrays among the operands, what they held, and where: they must hold it still at the end."""

    def input(self, value: Any) -> Traced:
        if self.program is None and isinstance(value, Traced):
            self.program = value.home.program
        self.nodes.append(Node(None, (), (), {}, value, None))
        return traced(self, len(self.nodes) - 1, value)

    def close(self) -> None:
        self.open = False

    def held(self, array: Any) -> Any:
        """A captured array as it is now, whatever is written to it later: derivatives are taken after the function ran.

        Small ones are copied; large ones, which are weights and not scratch, are only checked.
        """
        if array.nbytes <= COPIED_BYTES:
            return array.copy() if array.flags.writeable else array
        if id(array) not in self.watched:
            self.watched[id(array)] = array, fingerprint(array), caller(3)
        return array

    def check_captured(self) -> None:
        """Raise MutationError where a large captured array was written after an operation had used it."""
        for array, before, where in self.watched.values():
            if fingerprint(array) != before:
                raise MutationError(
                    f"a captured array of shape {array.shape}, used at {where}, was written in place since. Expected "
                    "arrays that stay as they are until the derivative is taken: make a new one instead of writing to "
                    "it, or copy it before it is used."
                )


COPIED_BYTES = 2**16


def fingerprint(array: Any) -> Any:
    """A number that changes when an array's content does: the sum of its words, by position modulo a prime."""
    if not isinstance(array, np.ndarray):
        return None  # CuPy's: not looked at
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    with np.errstate(over="ignore"):
        return int(words.sum(dtype=np.uint64)), int(words[::509].sum(dtype=np.uint64)), bytes(flat[-8:])


def apply(op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """Compute an operation, recorded on the innermost trace among its operands, and on the outer ones through it."""
    trace: Trace | None = None
    for arg in args:
        if isinstance(arg, Traced) and (trace is None or arg.home.serial > trace.serial):
            trace = arg.home
    if trace is None:
        if "cupy" in sys.modules:
            return carried_out(op.name, op.value, args, params)
        return op.value(*args, **params)
    if not trace.open:
        raise TraceError(
            f"{op.name} at {user_line()}: expected values of a running transformation, got a traced value whose "
            "transformation has returned. Return it from the function (or as aux with has_aux=True) instead of "
            "storing it outside."
        )
    if trace.program is not None:
        args = tuple([trace.program.captured(arg) if trace.program.captures(arg) else arg for arg in args])
        if trace.program is trace:
            return trace.program.record(op, args, params)  # type: ignore[attr-defined]
    else:
        args = tuple([trace.held(arg) if type(arg) is np.ndarray else arg for arg in args])
    values = tuple([arg.value if isinstance(arg, Traced) and arg.home is trace else arg for arg in args])
    parents = tuple([arg.index if isinstance(arg, Traced) and arg.home is trace else -1 for arg in args])
    both = None
    if op.partials is not None and "cupy" in sys.modules:
        both = _value_and_partials(op, values, params, parents)
    out, slopes = both or (apply(op, values, params), None)
    if op.edge is None:
        return out
    trace.nodes.append(Node(op, parents, values, params, out, caller()))
    if slopes is not None:
        trace.nodes[-1].slopes = slopes
    return traced(trace, len(trace.nodes) - 1, out)


def _value_and_partials(op: Op, args: tuple[Any, ...], params: dict[str, Any], parents: tuple[int, ...]) -> Any:
    from .program.cuda_eager import value_and_partials  # operations are made of this module

    return value_and_partials(op, args, params, tuple([k for k, p in enumerate(parents) if p >= 0]))


def is_traced(x: Any) -> bool:
    return isinstance(x, Traced)


class Traced(Wrapped, np.lib.mixins.NDArrayOperatorsMixin):
    """A value that a trace follows: it acts as the array that it stands for, through NumPy's own functions."""

    __slots__ = ("home", "index")
    # filled by minijac.numpy: NumPy's ufuncs and functions, and the array methods, to minijac's own
    ufuncs: ClassVar[dict[Any, Callable[..., Any]]] = {}
    functions: ClassVar[dict[Any, Callable[..., Any]]] = {}
    methods: ClassVar[dict[str, Callable[..., Any]]] = {}
    creators: ClassVar[set[Any]] = set()
    # and by minijac.special: by name, because SciPy is not imported for it
    special: ClassVar[dict[str, Callable[..., Any]]] = {}

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
        from . import numpy as own

        np.empty(0).__array_namespace__(api_version=api_version)  # raises where there is no such version
        return own

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

    def __float__(self) -> float:
        return self._refuse("float(x)")

    def __int__(self) -> int:
        return self._refuse("int(x)")

    def __complex__(self) -> complex:
        return self._refuse("complex(x)")

    def __index__(self) -> int:
        return self._refuse("operator.index(x)")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._refuse("pickling x")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._refuse("np.asarray(x)")

    def item(self, *index: int) -> Any:
        return self._refuse("x.item()")

    def tolist(self) -> Any:
        return self._refuse("x.tolist()")

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
