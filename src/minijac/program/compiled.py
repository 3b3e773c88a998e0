"""compile: signatures, the cache of recorded programs, and the call."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial, update_wrapper
from typing import Any, NamedTuple, overload

import numpy as np

from ..arguments import flatten, known_calls
from ..backend import is_array
from ..errors import InputError, TraceError
from ..foreign import a_function, handed_over, kind_of
from ..tape.traced import Traced
from .entry import Entry, How, record
from .gpu import eager as _eager  # noqa: F401 - fills the hook of traces
from .held import GONE, Held, drawn_from, held, unseeded
from .ir import Program
from .methods import Bound, Method, Static, static_names, through_class, unmarked
from .record import Foreign, is_number

__all__ = ["CacheInfo", "Compiled", "compile"]

ndarray = np.ndarray


class CacheInfo(NamedTuple):
    """How often a compiled function found its program, recorded one, and how many it holds, of how many at most."""

    hits: int
    misses: int
    size: int
    maxsize: int


MOST_CHANGES = 16
"""Times that captured values may be others before a warning is given."""


class Compiled:
    """A function that is recorded on its first call for each signature, and replayed after."""

    def __init__(
        self,
        fn: Callable[..., Any],
        maxsize: int,
        tf32: bool = False,
        static: str | Sequence[str] = (),
        often: bool = False,
    ) -> None:
        """`often`: as of `How`."""
        self._fn = fn
        self._name = getattr(fn, "__name__", "the function")
        self._static = static_names(fn, static)
        self._bound: dict[int, tuple[Any, Compiled]] = {}
        self._maxsize, self._tf32, self._often = maxsize, tf32, often
        self._entries: OrderedDict[Any, Entry] = OrderedDict()
        self._chosen: OrderedDict[Any, list[int]] = OrderedDict()
        """By signature: the arguments whose numbers are part of it."""
        self._lock = threading.RLock()
        self._hits = self._misses = self._changed = 0
        self._warned = self._warned_of_chosen = False
        update_wrapper(self, fn, updated=())  # not its attributes, which may have our names

    def __reduce__(self) -> Any:
        """A copy is of the same function, and has recorded nothing."""
        names = tuple(name for name in self._static if isinstance(name, str))
        return Compiled, (self._fn, self._maxsize, self._tf32, names, self._often)

    def __get__(self, instance: Any, owner: Any = None) -> Compiled | Bound:
        """The method of one instance, compiled for it: what its attributes hold is captured."""
        if instance is None:
            return self
        key = id(instance)
        found = self._bound.get(key)
        if found is None or found[0]() is not instance:
            method = Method(self._fn, weakref.ref(instance, lambda _: self._bound.pop(key, None)))
            static = [name for name in self._static if isinstance(name, str)]
            found = self._bound[key] = method.instance, Compiled(method, self._maxsize, self._tf32, static, self._often)
        return Bound(instance, found[1])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = args
        if self._static:
            args, kwargs = self._marked(args, kwargs)
        try:
            found = _signature(args, kwargs)
        except InputError:
            if not through_class(self, self._fn, given):
                raise
            return self.__get__(given[0])(*given[1:], **{name: unmarked(x) for name, x in kwargs.items()})
        if found is None:  # under another transformation the function is what it is
            return self._fn(*map(unmarked, args), **{name: unmarked(x) for name, x in kwargs.items()})
        signature, arguments = found
        entry = self._entries.get(self._key(signature, arguments) if self._chosen else signature)
        if entry is None:
            try:
                entry = self._recorded(found, args, kwargs)
            except Foreign:
                return self._fn(*map(unmarked, args), **{name: unmarked(x) for name, x in kwargs.items()})
        else:
            try:
                fresh = entry.fresh()
            except GONE:
                fresh = False
            stale = None if fresh else entry.stale()
            if stale is None:
                self._hits += 1
            else:
                self._note_change(entry)
                entry = self._recorded(found, args, kwargs, stale, entry)
        return entry([*arguments, *(same[0].read() for same in entry.lifted)] if entry.lifted else arguments)

    def _key(self, signature: Any, arguments: Sequence[Any]) -> Any:
        """Where the program is: a signature, and numbers of arguments that it was made for."""
        chosen = self._chosen.get(signature)
        return (signature, *[(k, _content(arguments[k])) for k in chosen]) if chosen else signature

    def _recorded(
        self,
        found: tuple[Any, Sequence[Any]],
        args: Any,
        kwargs: Any,
        lifted: Sequence[Held] = (),
        stale: Entry | None = None,
    ) -> Entry:
        """A new entry, in place of a stale one; `lifted` are arrays under names that were bound anew: inputs."""
        reached = held(self._fn)
        drawn = drawn_from(reached)
        how = How(often=self._often, tf32=self._tf32)
        with unseeded() as made:
            entry = record(self._fn, args, kwargs, how, reached, lifted)  # the user's code runs: no lock is held
        if drawn() or made:
            raise TraceError(
                f"compile: {self._name} drew random numbers, which would be the same in every call. Expected them as "
                "arguments: draw outside, `f(x, noise)`, or leave the function uncompiled."
            )
        with self._lock:
            if entry.chosen:
                self._choose(found[0], entry, stale is None)
            key = self._key(*found)
            now = self._entries.get(key)
            if now is not None and now is not stale:  # another thread was faster
                return now
            self._misses += 1
            self._entries[key] = entry
            if len(self._entries) > self._maxsize:
                self._entries.popitem(last=False)
                self._warn_of_many()
        return entry

    def _choose(self, signature: Any, entry: Entry, anew: bool) -> None:
        """Make numbers of arguments part of a signature; warn, once, where they alone make for one more program."""
        before = self._chosen.get(signature, [])
        self._chosen[signature] = sorted({*entry.chosen, *before})
        if len(self._chosen) > self._maxsize:
            self._chosen.popitem(last=False)
        if before and anew and not self._warned_of_chosen:
            self._warned_of_chosen = True
            warnings.warn(
                f"compile: {self._name} reads the numbers of an integer argument at {entry.chosen_at}, as `table[t]` "
                "does where `table` is a plain array: it is recorded again for each content. For one program look up "
                "positions by minijac.numpy.take(table, t); put sizes into static_argnames.",
                RuntimeWarning,
                stacklevel=4,
            )

    def _warn_of_many(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"compile: more than maxsize={self._maxsize} signatures of {self._name}: the oldest program is dropped "
                "for each new one. Shapes, dtypes, bools and strings among the arguments make a signature: pad batches "
                "to one size, or raise maxsize.",
                RuntimeWarning,
                stacklevel=4,
            )

    def _note_change(self, entry: Entry) -> None:
        """Warn, once, where captured values have been others so often that nothing is gained."""
        self._changed += entry.other is not None
        if self._changed == MOST_CHANGES and entry.other is not None:
            warnings.warn(
                f"compile: {self._name} was recorded anew {MOST_CHANGES} times, because what it captures was another: "
                f"now {entry.other.name!r}, which was {entry.other.value!r:.40}. Pass it as an argument instead.",
                RuntimeWarning,
                stacklevel=3,
            )

    def _marked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for name, x in (*enumerate(args), *kwargs.items()):
            if name in self._static and getattr(type(x), "__hash__", None) is None:
                raise InputError(
                    f"compile: expected a static argument that can be hashed, got {type(x).__name__}. Pass a tuple, a "
                    "number or a string, or leave it out of static_argnames."
                )
        marked = tuple([Static(x) if k in self._static else x for k, x in enumerate(args)])
        return marked, {name: Static(x) if name in self._static else x for name, x in kwargs.items()}

    def program(self, *args: Any, **kwargs: Any) -> Program:
        """The program for these arguments, recorded now if it was not before; ``print`` shows it."""
        return self._entry("program", args, kwargs).program

    def source(self, *args: Any, **kwargs: Any) -> str:
        """The Python that replays the program for these arguments: calls of NumPy with comments; on a GPU the CUDA."""
        source: str = self._entry("source", args, kwargs).ready().source
        return source

    def _entry(self, name: str, args: Any, kwargs: Any) -> Entry:
        args, kwargs = self._marked(args, kwargs)
        found = _signature(args, kwargs)
        if found is None:
            raise InputError(f"{name}: expected plain arrays and numbers as arguments, got a traced value.")
        return self._entries.get(self._key(*found)) or self._recorded(found, args, kwargs)

    def gpu_info(self, *args: Any, **kwargs: Any) -> Any:
        """How the program for these arguments, CuPy's arrays, is carried out: launches, memory, whether it is captured.

        Raises InputError where the arguments are NumPy's.
        """
        entry = self._entry("gpu_info", args, kwargs)
        if entry.device is None:
            raise InputError("gpu_info: expected arrays of CuPy's among the arguments, got none.")
        return entry.ready().report

    def cache_info(self) -> CacheInfo:
        """Hits, misses, and the number of programs held."""
        return CacheInfo(self._hits, self._misses, len(self._entries), self._maxsize)

    def cache_clear(self) -> None:
        """Forget all programs and their buffers."""
        with self._lock:
            self._entries.clear()
            self._chosen.clear()
            self._hits = self._misses = 0

    def buffer_bytes(self) -> int:
        """Bytes of the buffers that the recorded programs hold between calls."""
        return sum(entry.buffer_bytes() for entry in list(self._entries.values()))


def _signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Sequence[Any]] | None:
    """What a program depends on, and its arguments in order; None where a traced value is one."""
    key: list[Any] = []
    for x in args:
        if type(x) is not ndarray:
            break
        key.append(x.shape)
        key.append(x.dtype)
    else:
        if not kwargs:  # arrays alone need no tree
            return tuple(key), args
    leaves, tree = flatten((args, kwargs))
    key = [tree]
    arguments: list[Any] = []
    for leaf in leaves:
        if type(leaf) is ndarray:
            key.append((leaf.shape, leaf.dtype))
            arguments.append(leaf)
        elif isinstance(leaf, Traced):
            return None
        elif isinstance(leaf, bool | str | np.bool_):
            key.append((type(leaf), leaf))
        elif isinstance(leaf, Static):
            key.append((type(leaf.value), leaf))
        elif is_number(leaf):
            key.append(type(leaf))
            arguments.append(leaf)
        elif isinstance(leaf, np.ma.MaskedArray | np.matrix):
            raise InputError(
                f"compile: expected plain arrays as arguments, got {type(leaf).__name__}, whose operations are not "
                "NumPy's of plain arrays. Pass numpy.asarray(x), or a masked array's data and mask."
            )
        elif isinstance(leaf, ndarray | np.generic):
            key.append((leaf.shape, leaf.dtype, type(leaf)))
            arguments.append(leaf if isinstance(leaf, np.generic) else np.asarray(leaf))
        elif is_array(leaf):
            key.append((leaf.shape, leaf.dtype, leaf.device.id))
            arguments.append(leaf)
        else:
            raise InputError(
                f"compile: expected arrays, Python numbers, bools, strings or None (in any pytree) as arguments, got "
                f"{kind_of(leaf)}. {_remedy(leaf)}"
            )
    return tuple(key), arguments


def _content(x: Any) -> Any:
    """An argument's numbers, where a signature says its shape and dtype."""
    return x.tobytes() if isinstance(x, ndarray | np.generic) else x


def _remedy(x: Any) -> str:
    """What to do with an argument that is none."""
    if kind_of(x).startswith("dask."):
        return "Leave the transformation uncompiled: on Dask arrays it is compiled in each worker. Or pass x.compute()."
    if hasattr(x, "__dlpack__"):
        return "Pass numpy.from_dlpack(x)."
    return handed_over(x).strip() or "Capture it in the function instead."


@overload
def compile(
    fn: None = None, *, static_argnames: str | Sequence[str] = (), maxsize: int = 64, tf32: bool = False
) -> Callable[[Callable[..., Any]], Compiled]: ...
@overload
def compile(
    fn: Callable[..., Any], *, static_argnames: str | Sequence[str] = (), maxsize: int = 64, tf32: bool = False
) -> Compiled: ...
@known_calls
def compile(
    fn: Callable[..., Any] | None = None,
    *,
    static_argnames: str | Sequence[str] = (),
    maxsize: int = 64,
    tf32: bool = False,
) -> Any:
    """`fn`, recorded on the first call for each signature and replayed after.

    A signature is the tree of the arguments, shapes and dtypes of the arrays, and the values of bools, strings and
    None; and the numbers of integer arguments that Python or NumPy looks something plain up by, as in `table[t]` of a
    plain array, with a RuntimeWarning where those are others: write ``minijac.numpy.take(table, t)``. Arrays and Python
    numbers are inputs else. Arrays that `fn` captures are read at replay, so writes to them in place
    are seen, and so is a global, a closure's variable or an attribute that is bound to another array: it becomes an
    input, once. A captured index, mask or sparse matrix that was written, or bound anew, is recorded with again, and so
    are numbers, flags, strings and functions that the code names and that are others now. What Python or NumPy computes
    from captured values alone, before a traced value meets it, is as it was when recording. What `fn` does beside its
    result, such as to print, it does when recording only. `fn` may use any transformation, and be used in one.

    It also decorates functions and methods, with or without arguments: ``@mj.compile``, ``@mj.compile(maxsize=8)``.

    Args:
        fn: A function of pytrees that returns a pytree of arrays.
        static_argnames: Arguments that choose the program by their value, such as sizes; hashable.
        maxsize: Programs kept, the oldest dropped first. A first one too many gives a RuntimeWarning.
        tf32: Whether matmuls of float32 on a GPU may round their operands to TF32's ten bits.

    Raises TraceError where `fn` decides by values (``if``, ``while``, ``float``), with the line, or draws random
    numbers; MutationError where it writes to an array that it has used; InputError where an argument or a result is
    something else than the above. The function's floating point warnings are not given at replay.

    With CuPy's arrays the program is generated kernels and cuBLAS's matmuls in CUDA graphs, on the device and the
    current stream of the caller; captured arrays are not checked for writes there. ``fn.gpu_info(...)`` says what it
    became.

    Large programs are carried out a few samples at a time, on as many threads as NumPy's BLAS may use; the first call
    tries some tile sizes. With llvmlite (``pip install minijac[native]``) what lies between products becomes one loop
    of machine code; ``fn.source(...)`` says which executor is used.

    Cost of a replay: the array operations, a few microseconds beside them. ``fn.program(...)`` is the program,
    ``fn.source(...)`` the Python that replays it, ``fn.cache_info()`` the cache, ``fn.buffer_bytes()`` the memory that
    is held between calls: for each program one set of buffers for as many threads as have called it at once.

    >>> import numpy as np, minijac as mj
    >>> step = compile(mj.jacobian(np.tanh))
    >>> step(np.zeros((2, 3))).shape, step.cache_info().misses
    ((2, 3, 3), 1)
    """
    if fn is None:
        return partial(compile, static_argnames=static_argnames, maxsize=maxsize, tf32=tf32)
    a_function(fn, "compile")
    if type(maxsize) is not int or maxsize < 1:
        raise InputError(f"maxsize: expected a positive int, got {maxsize!r}.")
    return Compiled(fn, maxsize, tf32, static_argnames)
