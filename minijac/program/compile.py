"""compile: signatures, the cache of recorded programs, and the call."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, NamedTuple

import numpy as np
import optree

from ..arguments import flatten
from ..backend import is_array
from ..errors import InputError
from ..tape import Traced
from .executor import Executor
from .passes import optimised
from .record import Program, Recorder, Symbol

__all__ = ["CacheInfo", "Compiled", "compile"]


class CacheInfo(NamedTuple):
    """How often a compiled function found its program, recorded one, and how many it holds, of how many at most."""

    hits: int
    misses: int
    size: int
    maxsize: int


class Entry:
    """One signature's program, and executors for as many threads as have called it at once."""

    __slots__ = ("executors", "leaves", "program", "tree")

    def __init__(self, program: Program, tree: Any, leaves: tuple[int, ...]) -> None:
        self.program = program
        self.tree = tree
        self.leaves = leaves
        self.executors: list[Executor] = []

    def __call__(self, arguments: list[Any]) -> Any:
        try:
            executor = self.executors.pop()
        except IndexError:
            executor = Executor(self.program)
        result = executor(arguments)
        self.executors.append(executor)
        return optree.tree_unflatten(self.tree, result)


class Compiled:
    """A function that is recorded on its first call for each signature, and replayed after."""

    def __init__(self, fn: Callable[..., Any], maxsize: int) -> None:
        self._fn = fn
        self._maxsize = maxsize
        self._entries: OrderedDict[Any, Entry] = OrderedDict()
        self._lock = threading.RLock()
        self._hits = self._misses = 0
        update_wrapper(self, fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, tree = flatten((args, kwargs))
        key: list[Any] = [tree]
        arguments = []
        for leaf in leaves:
            if type(leaf) is np.ndarray:
                key.append((leaf.shape, leaf.dtype))
                arguments.append(leaf)
            elif isinstance(leaf, Traced):  # under another transformation the function is what it is
                return self._fn(*args, **kwargs)
            else:
                key.append(_described(leaf, arguments))
        signature = tuple(key)
        entry = self._entries.get(signature)
        if entry is None:
            entry = self._recorded(signature, leaves, tree)
        else:
            self._hits += 1
        return entry(arguments)

    def _recorded(self, signature: Any, leaves: list[Any], tree: Any) -> Entry:
        with self._lock:
            entry = self._entries.get(signature)
            if entry is None:
                entry = record(self._fn, leaves, tree)
                self._misses += 1
                self._entries[signature] = entry
                if len(self._entries) > self._maxsize:
                    self._entries.popitem(last=False)
        return entry

    def program(self, *args: Any, **kwargs: Any) -> Program:
        """The program for these arguments, recorded now if it was not before; ``print`` shows it."""
        leaves, tree = flatten((args, kwargs))
        ignored: list[Any] = []
        key = [(x.shape, x.dtype) if type(x) is np.ndarray else _described(x, ignored) for x in leaves]
        signature = (tree, *key)
        return (self._entries.get(signature) or self._recorded(signature, leaves, tree)).program

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
        return sum(executor.nbytes for entry in self._entries.values() for executor in entry.executors)


def _described(leaf: Any, arguments: list[Any]) -> Any:
    """The signature's part for a leaf that is no plain array; numbers and arrays also go to the arguments."""
    if isinstance(leaf, bool | str | np.bool_):
        return leaf
    if isinstance(leaf, int | float):
        arguments.append(leaf)
        return type(leaf)
    if is_array(leaf):
        arguments.append(np.asarray(leaf))
        return leaf.shape, leaf.dtype
    raise InputError(
        f"compile: expected arrays, Python numbers, bools, strings or None (in any pytree) as arguments, got "
        f"{type(leaf).__name__}. Capture other objects in the function instead of passing them."
    )


def record(fn: Callable[..., Any], leaves: list[Any], tree: Any) -> Entry:
    """Run `fn` once on symbols, and make a program of what it did."""
    recorder = Recorder()
    inputs: list[int] = []
    symbols = []
    for leaf in leaves:
        if isinstance(leaf, bool | str | np.bool_):
            symbols.append(leaf)
            continue
        number = isinstance(leaf, int | float) and not isinstance(leaf, np.generic)
        symbol = recorder.input(leaf if number else np.asarray(leaf))
        if number:
            recorder.values[symbol.index] = recorder.values[symbol.index]._replace(content=leaf)
        inputs.append(symbol.index)
        symbols.append(symbol)
    args, kwargs = optree.tree_unflatten(tree, symbols)
    try:
        result = fn(*args, **kwargs)
    finally:
        recorder.close()
    outputs, output_tree = flatten(result)
    numbers = []
    for y in outputs:
        if isinstance(y, Symbol) and y.trace is recorder:
            numbers.append(y.index)
        elif is_array(y) or isinstance(y, int | float):
            numbers.append(recorder.constant(y))
        else:
            raise InputError(f"compile: expected the function to return arrays in any pytree, got {type(y).__name__}.")
    program = Program(tuple(recorder.values), tuple(recorder.instructions), tuple(inputs), tuple(numbers))
    program = released(optimised(program.verify()))
    return Entry(program, output_tree, tuple(numbers))


def released(program: Program) -> Program:
    """Without the arrays of the recording that no instruction reads."""
    used = {n for step in program.instructions for n in step.args} | set(program.outputs) | set(program.inputs)
    values = tuple(value if n in used else value._replace(content=None) for n, value in enumerate(program.values))
    return program._replace(values=values)


def compile(fn: Callable[..., Any], *, maxsize: int = 64) -> Compiled:
    """`fn`, recorded on the first call for each signature and replayed after.

    A signature is the tree of the arguments, shapes and dtypes of the arrays, and the values of bools, strings and
    None. Arrays and Python numbers are inputs. Arrays that `fn` captures are read at replay, so writes to them in place
    are seen; what Python or NumPy computes from captured values alone, before a traced value meets it, is computed when
    recording. `fn` may use any transformation, and be used in one.

    Args:
        fn: A function of pytrees that returns a pytree of arrays.
        maxsize: Programs kept, the oldest dropped first.

    Raises TraceError where `fn` decides by values (``if``, ``while``, ``float``), with the line.

    Cost of a replay: the array operations, a few microseconds beside them. ``fn.program(...)`` is the program,
    ``fn.cache_info()`` the cache.

    >>> import numpy as np, minijac as mj
    >>> step = compile(mj.jacobian(np.tanh))
    >>> step(np.zeros((2, 3))).shape, step.cache_info().misses
    ((2, 3, 3), 1)
    """
    return Compiled(fn, maxsize)
