"""compile: signatures, the cache of recorded programs, and the call."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import update_wrapper
from typing import Any, NamedTuple

import numpy as np
import optree

from ..arguments import DATA, flatten
from ..backend import is_array
from ..errors import InputError
from ..tape.traced import Traced
from .cpu.executor import Executor
from .gpu import eager as _eager  # noqa: F401 - fills the hook of traces
from .ir import Program
from .passes.simplify import optimised
from .record import Foreign, Recorder, Symbol, is_number, on_gpu

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

    __slots__ = ("device", "executors", "parts", "plain", "program", "sizes", "tf32", "tree")

    def __init__(self, program: Program, tree: Any, parts: Any, how: How, device: int | None) -> None:
        self.program = program
        self.plain = how.plain
        self.tf32 = how.tf32
        self.sizes: dict[int, tuple[int, int]] = {}
        self.device = device
        self.parts = parts
        """How results make the leaves of the tree, where those are not arrays alone."""
        self.tree = None if tree == LEAF else tree
        self.executors: list[Any] = []

    def executor(self) -> Any:
        """An executor that nobody uses, bound now if there is none."""
        try:
            return self.executors.pop()
        except IndexError:
            if self.device is None:
                return Executor(self.program, plain=self.plain, sizes=self.sizes)
            from .gpu import executor as cuda
            from .gpu import runtime as cuda_runtime

            return cuda.Executor(self.program, cuda_runtime.CupyRuntime(self.device), self.tf32)

    def __call__(self, arguments: Sequence[Any]) -> Any:
        executor = self.executor()
        result: Sequence[Any] = executor.run(*arguments)
        self.executors.append(executor)
        if self.parts is not None:
            result = optree.tree_unflatten(self.parts, result)
        return result[0] if self.tree is None else optree.tree_unflatten(self.tree, result)

    def buffer_bytes(self) -> int:
        """Bytes that the executors hold between calls."""
        return sum(executor.nbytes for executor in list(self.executors))

    def ready(self) -> Any:
        """An executor to look at, which the next call uses."""
        executor = self.executor()
        self.executors.append(executor)
        return executor


LEAF = flatten(0)[1]


class Compiled:
    """A function that is recorded on its first call for each signature, and replayed after."""

    def __init__(self, fn: Callable[..., Any], maxsize: int, tf32: bool = False) -> None:
        self._fn = fn
        self._maxsize = maxsize
        self._tf32 = tf32
        self._entries: OrderedDict[Any, Entry] = OrderedDict()
        self._lock = threading.RLock()
        self._hits = self._misses = 0
        update_wrapper(self, fn, updated=())  # not its attributes, which may have our names

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = _signature(args, kwargs)
        if found is None:  # under another transformation the function is what it is
            return self._fn(*args, **kwargs)
        signature, arguments = found
        entry = self._entries.get(signature)
        if entry is None:
            try:
                entry = self._recorded(signature, args, kwargs)
            except Foreign:
                return self._fn(*args, **kwargs)
        else:
            self._hits += 1
        return entry(arguments)

    def _recorded(self, signature: Any, args: Any, kwargs: Any) -> Entry:
        entry = record(self._fn, args, kwargs, How(tf32=self._tf32))  # the user's code runs: no lock is held
        with self._lock:
            if signature in self._entries:  # another thread was faster
                return self._entries[signature]
            self._misses += 1
            self._entries[signature] = entry
            if len(self._entries) > self._maxsize:
                self._entries.popitem(last=False)
        return entry

    def program(self, *args: Any, **kwargs: Any) -> Program:
        """The program for these arguments, recorded now if it was not before; ``print`` shows it."""
        return self._entry("program", args, kwargs).program

    def source(self, *args: Any, **kwargs: Any) -> str:
        """The Python that replays the program for these arguments: calls of NumPy with comments; on a GPU the CUDA."""
        source: str = self._entry("source", args, kwargs).ready().source
        return source

    def _entry(self, name: str, args: Any, kwargs: Any) -> Entry:
        found = _signature(args, kwargs)
        if found is None:
            raise InputError(f"{name}: expected plain arrays and numbers as arguments, got a traced value.")
        return self._entries.get(found[0]) or self._recorded(found[0], args, kwargs)

    def gpu_info(self, *args: Any, **kwargs: Any) -> Any:
        """How the program for these arguments, CuPy's arrays, is carried out: launches, memory, whether it is captured.

        Raises InputError where the arguments are NumPy's.
        """
        found = _signature(args, kwargs)
        entry = None
        if found is not None:
            entry = self._entries.get(found[0]) or self._recorded(found[0], args, kwargs)
        if entry is None or entry.device is None:
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
            remedy = (
                "Pass numpy.from_dlpack(x)" if hasattr(leaf, "__dlpack__") else "Capture it in the function instead"
            )
            raise InputError(
                f"compile: expected arrays, Python numbers, bools, strings or None (in any pytree) as arguments, got "
                f"{type(leaf).__name__}. {remedy}."
            )
    return tuple(key), arguments


def record(fn: Callable[..., Any], args: Any, kwargs: Any, how: How = How()) -> Entry:  # noqa: B008 - immutable
    """Run `fn` once on symbols, and make a program of what it did."""
    leaves, tree = flatten((args, kwargs))
    with next((leaf.device for leaf in leaves if on_gpu(leaf)), nullcontext()):
        return _recorded(fn, leaves, tree, how)


def _recorded(fn: Callable[..., Any], leaves: Sequence[Any], tree: Any, how: How) -> Entry:
    recorder = Recorder()
    symbols = [leaf if isinstance(leaf, bool | str | np.bool_) else recorder.input(leaf) for leaf in leaves]
    inputs = tuple(symbol.index for symbol in symbols if isinstance(symbol, Symbol))
    args, kwargs = optree.tree_unflatten(tree, symbols)
    try:
        leaves, output_tree = flatten(fn(*args, **kwargs))
        arrays, parts = optree.tree_flatten(leaves, namespace=DATA)
        numbers = tuple([_output(recorder, y) for y in arrays])
        recorder.check_captured()
    finally:
        recorder.close()
    program = Program(tuple(recorder.values), tuple(recorder.instructions), inputs, numbers)
    device = _device(recorder)
    plain = len(arrays) == len(leaves) and all(a is b for a, b in zip(arrays, leaves, strict=True))
    return Entry(released(optimised(program.verify())), output_tree, None if plain else parts, how, device)


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
        return recorder.constant(y)
    raise InputError(
        f"compile: expected the function to return arrays, numbers and strings in any pytree, got {type(y).__name__}. "
        "Return what is in it instead."
    )


def released(program: Program) -> Program:
    """Without the arrays of the recording that no instruction reads."""
    used = {n for step in program.instructions for n in step.args} | set(program.outputs) | set(program.inputs)
    values = tuple(value if n in used else value._replace(content=None) for n, value in enumerate(program.values))
    return program._replace(values=values)


def compile(fn: Callable[..., Any], *, maxsize: int = 64, tf32: bool = False) -> Compiled:
    """`fn`, recorded on the first call for each signature and replayed after.

    A signature is the tree of the arguments, shapes and dtypes of the arrays, and the values of bools, strings and
    None. Arrays and Python numbers are inputs. Arrays that `fn` captures are read at replay, so writes to them in place
    are seen. All else that is captured is as it was when recording: which array a name stands for, numbers, what Python
    or NumPy computes from captured values alone before a traced value meets it, random draws, and indices, masks and
    other parameters. What `fn` does beside its result, such as to print, it does when recording only. `fn` may use any
    transformation, and be used in one.

    Args:
        fn: A function of pytrees that returns a pytree of arrays.
        maxsize: Programs kept, the oldest dropped first.
        tf32: Whether matmuls of float32 on a GPU may round their operands to TF32's ten bits.

    Raises TraceError where `fn` decides by values (``if``, ``while``, ``float``), with the line; MutationError where it
    writes to an array that it has used; InputError where an argument or a result is something else than the above. The
    function's floating point warnings are not given at replay.

    With CuPy's arrays the program is generated kernels and cuBLAS's matmuls in CUDA graphs, on the device and the
    current stream of the caller; captured arrays are not checked for writes there. ``fn.gpu_info(...)`` says what it
    became.

    Large programs are carried out a few samples at a time, on as many threads as NumPy's BLAS may use; the first call
    tries some tile sizes. With Numba (``pip install minijac[numba]``) arithmetic between products becomes one loop,
    which takes it a second or so to compile.

    Cost of a replay: the array operations, a few microseconds beside them. ``fn.program(...)`` is the program,
    ``fn.source(...)`` the Python that replays it, ``fn.cache_info()`` the cache, ``fn.buffer_bytes()`` the memory that
    is held between calls: for each program one set of buffers for as many threads as have called it at once.

    >>> import numpy as np, minijac as mj
    >>> step = compile(mj.jacobian(np.tanh))
    >>> step(np.zeros((2, 3))).shape, step.cache_info().misses
    ((2, 3, 3), 1)
    """
    if not callable(fn):
        raise InputError(
            f"compile: expected a function, got {type(fn).__name__}. Write compile(f), and call the result."
        )
    if type(maxsize) is not int or maxsize < 1:
        raise InputError(f"maxsize: expected a positive int, got {maxsize!r}.")
    return Compiled(fn, maxsize, tf32)
