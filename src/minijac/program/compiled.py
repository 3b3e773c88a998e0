"""compile: signatures, the cache of recorded programs, and the call."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import is_dataclass
from functools import partial, update_wrapper
from typing import Any, NamedTuple, overload

import numpy as np
import optree

from ..arguments import DATA, flatten, known_calls
from ..backend import is_array
from ..errors import InputError, TraceError
from ..foreign import a_function, handed_over, kind_of, remedy_for
from ..memo import uncollected
from ..tape.traced import Traced
from .cpu.executor import Executor
from .gpu import eager as _eager  # noqa: F401 - fills the hook of traces
from .held import GONE, PLAIN, Held, drawn_from, held, unchanged, unseeded, watcher
from .ir import Program
from .loops import LOOP
from .methods import Bound, Method, Static, static_names, through_class, unmarked
from .passes.simplify import optimised
from .record import Foreign, Recorder, Symbol, is_number, on_gpu, whole

__all__ = ["CacheInfo", "Compiled", "compile"]

ndarray = np.ndarray


class CacheInfo(NamedTuple):
    """How often a compiled function found its program, recorded one, and how many it holds, of how many at most."""

    hits: int
    misses: int
    size: int
    maxsize: int


class How(NamedTuple):
    """How a program is carried out."""

    plain: bool = False
    """On the CPU, so that it is cheap to bind: without tiles and loops."""
    tf32: bool = False
    """On the GPU: matmuls of single precision with ten bits of mantissa."""


class Entry:
    """One signature's program, and executors for as many threads as have called it at once."""

    __slots__ = (
        "_program", "_recorded", "arrays", "device", "executors", "fresh", "lifted", "loops", "other", "parts", "plain",
        "shaping", "sizes", "tf32", "tree", "watched",
    )  # fmt: skip

    def __init__(self, recorded: Program, tree: Any, parts: Any, how: How, device: int | None, loops: bool) -> None:
        self.watched: list[Held] = []
        """Captured arrays that a name may be bound anew of; with names, numbers and other plain values that the code
        names, and arrays that something was computed from beforehand."""
        self.fresh: Callable[[], bool] = bool
        """Whether nothing has to be looked at further, as in nearly every call."""
        self.lifted: list[list[Held]] = []
        """Arrays whose names were bound anew before: inputs behind the arguments, each under all its names."""
        self.arrays: list[int] = []
        """Results that are arrays without axes, where the program has numbers."""
        self.shaping: list[Held] = []
        """Arrays that say what the program does, with copies of what they held."""
        self.other: Held | None = None
        """What is another now, and no input, where that is why the program is not the function's any more."""
        self._recorded: Program | None = recorded
        self.loops = loops
        self.plain = how.plain
        self.tf32 = how.tf32
        self.sizes: dict[int, tuple[int, int]] = {}
        self.device = device
        self.parts = parts
        """How results make the leaves of the tree, where those are not arrays alone."""
        self.tree = None if tree == LEAF else tree
        self.executors: list[Any] = []

    @property
    def program(self) -> Program:
        """What was recorded, after all passes: they are done when it is first asked for."""
        recorded = self._recorded
        if recorded is not None:
            with uncollected():
                self._program = released(optimised(recorded, self.loops))
            self._recorded = None
        return self._program

    @property
    def computed(self) -> bool:
        """Whether all was computed that was recorded, of which no program was made yet: what loops make is not."""
        return self._recorded is not None and all(step.op is not LOOP for step in self._recorded.instructions)

    def executor(self) -> Any:
        """An executor that nobody uses, bound now if there is none."""
        try:
            return self.executors.pop()
        except IndexError:
            if self.device is None:
                return Executor(self.program, plain=self.plain, sizes=self.sizes)
            from .gpu import executor as cuda
            from .gpu import runtime as cuda_runtime

            return cuda.GraphExecutor(self.program, cuda_runtime.CupyRuntime(self.device), self.tf32)

    def __call__(self, arguments: Sequence[Any]) -> Any:
        try:  # without a call
            executor = self.executors.pop()
        except IndexError:
            executor = self.executor()
        result: Sequence[Any] = executor.run(*arguments)
        self.executors.append(executor)
        if self.arrays:
            result = [np.asarray(x) if k in self.arrays else x for k, x in enumerate(result)]
        if self.parts is not None:
            result = optree.tree_unflatten(self.parts, result)
        return result[0] if self.tree is None else optree.tree_unflatten(self.tree, result)

    def stale(self) -> list[Held] | None:
        """What has to be lifted, where a name stands for another array since, or for one that does not fit.

        None where the program is still that of the function.
        """
        try:
            if not all(_same(read(), content) for read, content, _ in self.shaping):
                return []
            anew = [each for each in self.watched if not unchanged(each)]
            self.other = next((each for each in anew if each.name), None)
            if self.other is not None:
                return []
            for first, *rest in self.lifted:
                array = first.read()
                if not _alike(array, first.value) or any(each.read() is not array for each in rest):
                    anew.append(first)
        except GONE:  # it is not there any more
            return []
        return [each for group in self.lifted for each in group] + anew if anew else None

    def buffer_bytes(self) -> int:
        """Bytes that the executors hold between calls."""
        return sum(executor.nbytes for executor in list(self.executors))

    def ready(self) -> Any:
        """An executor to look at, which the next call uses."""
        executor = self.executor()
        self.executors.append(executor)
        return executor


LEAF = flatten(0)[1]


def _last(known: Callable[[], Any], content: Any) -> Any:
    """An array while it is there; nobody can write to it after."""
    array = known()
    return content if array is None else array


def _same(a: Any, b: Any) -> bool:
    return _alike(a, b) and (a is b or a.tobytes() == b.tobytes())


def _alike(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a.shape == b.shape and a.dtype == b.dtype


MOST_CHANGES = 16
"""Times that captured values may be others before a warning is given."""


class Compiled:
    """A function that is recorded on its first call for each signature, and replayed after."""

    def __init__(
        self, fn: Callable[..., Any], maxsize: int, tf32: bool = False, static: str | Sequence[str] = ()
    ) -> None:
        self._fn = fn
        self._name = getattr(fn, "__name__", "the function")
        self._static = static_names(fn, static)
        self._bound: dict[int, tuple[Any, Compiled]] = {}
        self._maxsize, self._tf32 = maxsize, tf32
        self._entries: OrderedDict[Any, Entry] = OrderedDict()
        self._lock = threading.RLock()
        self._hits = self._misses = self._changed = 0
        self._warned = False
        update_wrapper(self, fn, updated=())  # not its attributes, which may have our names

    def __reduce__(self) -> Any:
        """A copy is of the same function, and has recorded nothing."""
        names = tuple(name for name in self._static if isinstance(name, str))
        return Compiled, (self._fn, self._maxsize, self._tf32, names)

    def __get__(self, instance: Any, owner: Any = None) -> Compiled | Bound:
        """The method of one instance, compiled for it: what its attributes hold is captured."""
        if instance is None:
            return self
        key = id(instance)
        found = self._bound.get(key)
        if found is None or found[0]() is not instance:
            method = Method(self._fn, weakref.ref(instance, lambda _: self._bound.pop(key, None)))
            static = [name for name in self._static if isinstance(name, str)]
            found = self._bound[key] = method.instance, Compiled(method, self._maxsize, self._tf32, static)
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
        entry = self._entries.get(signature)
        if entry is None:
            try:
                entry = self._recorded(signature, args, kwargs)
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
                entry = self._recorded(signature, args, kwargs, stale, entry)
        return entry([*arguments, *(same[0].read() for same in entry.lifted)] if entry.lifted else arguments)

    def _recorded(
        self, signature: Any, args: Any, kwargs: Any, lifted: Sequence[Held] = (), stale: Entry | None = None
    ) -> Entry:
        """A new entry, in place of a stale one; `lifted` are arrays under names that were bound anew: inputs."""
        found = held(self._fn)
        drawn = drawn_from(found)
        how = How(tf32=self._tf32)
        with unseeded() as made:
            entry = record(self._fn, args, kwargs, how, found, lifted)  # the user's code runs: no lock is held
        if drawn() or made:
            raise TraceError(
                f"compile: {self._name} drew random numbers, which would be the same in every call. Expected them as "
                "arguments: draw outside, `f(x, noise)`, or leave the function uncompiled."
            )
        with self._lock:
            now = self._entries.get(signature)
            if now is not None and now is not stale:  # another thread was faster
                return now
            self._misses += 1
            self._entries[signature] = entry
            if len(self._entries) > self._maxsize:
                self._entries.popitem(last=False)
                self._warn_of_many()
        return entry

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
        return self._entries.get(found[0]) or self._recorded(found[0], args, kwargs)

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


def _remedy(x: Any) -> str:
    """What to do with an argument that is none."""
    if kind_of(x).startswith("dask."):
        return "Leave the transformation uncompiled: on Dask arrays it is compiled in each worker. Or pass x.compute()."
    if hasattr(x, "__dlpack__"):
        return "Pass numpy.from_dlpack(x)."
    return handed_over(x).strip() or "Capture it in the function instead."


def record(
    fn: Callable[..., Any],
    args: Any,
    kwargs: Any,
    how: How = How(),  # noqa: B008 - immutable
    found: Sequence[Held] | None = None,
    lifted: Sequence[Held] = (),
) -> Entry:
    """Run `fn` once on symbols, and make a program of what it did.

    `found` is what it reaches by name, which is watched if it is given; `lifted` become inputs.
    """
    leaves, tree = flatten((args, kwargs))
    with next((leaf.device for leaf in leaves if on_gpu(leaf)), nullcontext()), uncollected():
        groups: dict[int, list[Held]] = {}
        for read, *_ in lifted:
            array = read()
            groups.setdefault(id(array), []).append(Held(read, array))
        entry, captured, shaping = _recorded(fn, leaves, tree, how, [same[0].value for same in groups.values()])
        entry.lifted = list(groups.values())
        entry.watched = list(_watched(fn, found, captured, groups.keys(), shaping)) if found is not None else []
        for known, content in shaping:
            array = known()
            if array is not None:  # it was not made on the way
                named = [each for each in found or () if isinstance(each.value, ndarray) and whole(each.value) is array]
                entry.shaping += [Held(each.read, each.value.copy()) for each in named]
                if all(each.value is not array for each in named):
                    entry.shaping.append(Held(partial(_last, known, content), content))
        if not entry.lifted and not entry.shaping:
            entry.fresh = watcher(entry.watched)
        return entry


def run_recorded(fn: Callable[[list[Any]], Any], arrays: list[Any]) -> tuple[Entry, Any]:
    """A function of a list of arrays, recorded, to be bound with little effort; and its result, for which it ran.

    Where it calls loops, which are not carried out while it is recorded, the result is that of the program.
    """
    made: list[Any] = []

    def noted(symbols: list[Any]) -> Any:
        made.append(fn(symbols))
        return made[0]

    entry = record(noted, (arrays,), {}, How(plain=True))
    if not entry.computed:
        return entry, entry(arrays)
    return entry, optree.tree_map(lambda x: x.value if isinstance(x, Symbol) else x, made[0], namespace=DATA)


def _watched(
    fn: Callable[..., Any], found: Sequence[Held], captured: set[int], lifted: Any, shaping: Sequence[tuple[Any, Any]]
) -> Iterator[Held]:
    """What has to stand where it stands for a program to be that of the function.

    What the function writes itself, such as a count of its calls, it does when it is recorded only, so that is not
    watched; but captured arrays are, wherever they stand now.
    """
    shapes = [known() for known, _ in shaping]
    before = {id(each.value) for each in found}
    for each in (*found, *(each for each in held(fn) if is_array(each.value) and id(each.value) not in before)):
        if isinstance(each.value, (*PLAIN, tuple, list)):
            if unchanged(each):
                yield each
        elif not is_array(each.value) or id(each.value) in lifted:
            continue
        elif id(each.value) in captured:
            with suppress(*GONE):
                yield Held(each.read, each.read())
        elif each.name and unchanged(each) and all(whole(each.value) is not array for array in shapes):
            yield each


def _recorded(
    fn: Callable[..., Any], leaves: Sequence[Any], tree: Any, how: How, lifted: Sequence[Any]
) -> tuple[Entry, set[int], list[tuple[Any, Any]]]:
    recorder = Recorder()
    symbols = [
        unmarked(leaf) if isinstance(leaf, bool | str | np.bool_ | Static) else recorder.input(leaf) for leaf in leaves
    ]
    behind = [recorder.lift(array) for array in lifted]
    inputs = tuple(symbol.index for symbol in (*symbols, *behind) if isinstance(symbol, Symbol))
    args, kwargs = optree.tree_unflatten(tree, symbols)
    with recorder:
        leaves, output_tree = flatten(fn(*args, **kwargs))
        arrays, parts = optree.tree_flatten(leaves, namespace=DATA)
        numbers = tuple([_output(recorder, y) for y in arrays])
        without_axes = [k for k, y in enumerate(arrays) if isinstance(y, Symbol) and _is_array(y)]
        recorder.check_captured()
        captured, shaping = recorder.captured_ids(), recorder.shaping
    program = recorder.recorded(inputs, numbers)
    device = _device(recorder)
    alone = len(arrays) == len(leaves) and all(a is b for a, b in zip(arrays, leaves, strict=True))
    loops = not how.plain and not recorder.bounded
    entry = Entry(program.verify(), output_tree, None if alone else parts, how, device, loops)
    entry.arrays = [k for k in without_axes if program.values[numbers[k]].number is not None]
    return entry, captured, shaping


def _device(recorder: Recorder) -> int | None:
    """The device of CuPy's arrays that a program is recorded with; None for NumPy's."""
    devices = {array.device.id for array in recorder.arrays if on_gpu(array)}
    if len(devices) > 1 or (devices and any(type(array) is ndarray for array in recorder.arrays)):
        places = [f"GPU {n}" for n in sorted(devices)]
        places += ["the host"] if any(type(array) is ndarray for array in recorder.arrays) else []
        raise TypeError(
            "compile: expected all arrays, arguments and captured ones, in one place, got arrays on "
            f"{' and '.join(places)}. Move them with cupy.asarray(x) or x.get()."
        )
    return devices.pop() if devices else None


def _output(recorder: Recorder, y: Any) -> int:
    """The number of an output's value."""
    if isinstance(y, Symbol) and y.home is recorder:
        return y.index
    if isinstance(y, Traced):
        raise Foreign
    if recorder.captures(y):
        return recorder.captured(y).index
    if is_array(y) or is_number(y) or isinstance(y, str):
        return recorder.constant(y).index
    raise InputError(
        f"compile: expected the function to return arrays, numbers and strings in any pytree, got {kind_of(y)}. "
        f"{remedy_for(y) if is_dataclass(y) else 'Return the arrays in it instead.'}"
    )


def _is_array(y: Symbol) -> bool:
    return type(y.value) is ndarray and not y.value.shape


def released(program: Program) -> Program:
    """Without the arrays of the recording that no instruction reads."""
    used = {n for step in program.instructions for n in step.args} | set(program.outputs) | set(program.inputs)
    values = tuple(value if n in used else value._replace(content=None) for n, value in enumerate(program.values))
    return program._replace(values=values)


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
    None. Arrays and Python numbers are inputs. Arrays that `fn` captures are read at replay, so writes to them in place
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
