"""Commands: NumPy's calls on arrays that are known, each as a function of machine code and its tables.

`Commands` takes the place of `Code`: what writes itself as calls of NumPy is written as commands instead, where all of
it can be; else `NotNative` is raised, and the calls are made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from ....ops.into import background
from ....ops.scalars import SCALARS, TRUTHS
from ..code import Names, Place
from . import checks
from .bound import Bound, bound, whole
from .checks import Axes
from .products import along, in_rows, multiplied, worthwhile
from .reductions import STARTS, reduced
from .runner import awaited, gemm, work
from .streams import zeroed

__all__ = ["Commands", "NotNative", "Slot", "Tile", "all_done", "carried_out"]

FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
NUMBER = "where({{{}}}, T(1.0), T(0.0))"
"""The number that a truth value is."""

LOOKS = 1 << 18
"""So often a thread looks whether others are done, 0.1 to 0.3 ms, before it sleeps: to be woken takes 0.05 to 0.1."""

_LOCK = threading.Lock()


def _taken(counter: Any) -> int:
    with _LOCK:
        counter[0] += 1
        return int(counter[0]) - 1


class NotNative(Exception):
    """Something has to be carried out by NumPy."""


class Slot(NamedTuple):
    """An array of which a tile takes a part: one that stands for the part, and the bytes from one tile to the next."""

    array: Any
    step: int
    free: bool = False
    """Whether its axes may lie in memory in any order."""
    large: bool = False
    """Whether the array is one that no cache holds."""


class Commands(Names):
    """Calls of NumPy as commands; what a `Code` is asked, it is asked."""

    def __init__(self, libraries: tuple[Any, ...], slots: Sequence[Slot] = ()) -> None:
        super().__init__()
        self._large = {id(whole(slot.array)) for slot in slots if slot.large}
        self.notes: list[Callable[[], str]] = []
        self.commands: list[Bound] = []
        self._libraries = libraries

    def line(self, text: str) -> None:
        raise NotNative(text)

    def note(self, text: Callable[[], str]) -> None:
        self.notes.append(text)

    def __call__(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> None:
        if isinstance(function, Bound):
            self.commands.append(function)
            return
        given: list[Any] = [*map(_known, args)]
        named: dict[str, Any] = {key: _known(x) for key, x in keywords.items()}
        if function in (np.dot, np.matmul):
            self._product(*given, **named)
        elif function is np.copyto:
            self._copied(*given, **named)
        elif function in (np.ndarray.fill, background):
            self._filled(given[0], given[1], sparse=function is background)
        elif function is np.concatenate:
            self._joined(*given)
        elif isinstance(function, np.ufunc):
            self._ufunc(function, given, named)
        elif isinstance(ufunc := getattr(function, "__self__", None), np.ufunc) and function == ufunc.reduce:
            self._reduced(ufunc, *given)
        else:
            raise NotNative(getattr(function, "__name__", str(function)))

    # -- entry by entry --
    def _filled(self, out: Any, number: Any, sparse: bool) -> None:
        large = sparse and id(whole(out)) in self._large
        if large and out.flags.c_contiguous and repr(float(number)) == "0.0":
            self.commands.append(zeroed(out))
        else:
            self._entries(out, f"T({float(number)!r})")

    def _entries(self, out: Any, spelling: str, *operands: Any) -> None:
        """A loop; `out` may be one of the operands."""
        dtypes = {x.dtype for x in operands if x.dtype != bool} | ({out.dtype} - {np.dtype(bool)})
        if not dtypes <= FLOATS or len(dtypes) > 1:
            raise NotNative(f"entries of {sorted(map(str, dtypes))}")
        dtype = dtypes.pop() if dtypes else np.dtype(np.float32)
        if not out.size:
            return
        again = any(np.may_share_memory(out, x) for x in operands)
        step = (spelling, tuple(range(len(operands))), len(operands))
        found = bound(dtype, out.shape, [step], [*operands, out], 1, again)
        if again and found.leaves:  # when its operands are to be there still
            apart = np.empty(out.shape, out.dtype)
            self._entries(apart, spelling, *operands)
            self._entries(out, "({})", apart)
        else:
            self.commands.append(found)

    def _copied(self, out: Any, x: Any, casting: str = "same_kind", where: Any = None) -> None:
        x = np.asarray(x)
        if where is not None:
            self._entries(out, "where({}, {}, {})", where, x, out)
            return
        if x.dtype == bool and out.dtype in FLOATS:
            self._entries(out, NUMBER.format(0), x)
            return
        if out.dtype != x.dtype:
            raise NotNative(f"{x.dtype} to {out.dtype}")
        if out.dtype not in FLOATS and out.dtype != bool:
            other = {4: np.float32, 8: np.float64}.get(out.dtype.itemsize)
            if other is None:
                raise NotNative(str(out.dtype))
            x, out = x.view(other), out.view(other)
        self._entries(out, "({})", x)

    def _joined(self, arrays: Sequence[Any], axis: int, out: Any) -> None:
        start = 0
        for x in arrays:
            end = start + x.shape[axis]
            self._copied(out[(*(slice(None),) * (axis % out.ndim), slice(start, end))], x)
            start = end

    def _ufunc(self, function: np.ufunc, given: list[Any], named: dict[str, Any]) -> None:
        operands = [*given[: function.nin]]
        out = named["out"] if "out" in named else given[function.nin]
        floats = [x.dtype for x in operands if isinstance(x, np.ndarray) and x.dtype != bool]
        plain = floats[0] if floats else out.dtype
        arrays = [np.asarray(x, plain if not isinstance(x, np.ndarray) else None) for x in operands]
        truth = all(x.dtype == bool for x in arrays)
        spelling = TRUTHS.get(function) if truth else SCALARS[function].loop if function in SCALARS else None
        if spelling is None:
            raise NotNative(function.__name__)
        if not truth:  # truth values are numbers beside numbers
            spelling = spelling.format(
                *[NUMBER.format(k) if x.dtype == bool else f"{{{k}}}" for k, x in enumerate(arrays)]
            )
        self._entries(out, spelling, *arrays)

    def _reduced(self, function: np.ufunc, x: Any, axis: Any, dtype: None, out: Any, keepdims: bool = False) -> None:
        axes = (axis,) if isinstance(axis, int) else range(x.ndim) if axis is None else axis
        axes = tuple(k % x.ndim for k in axes)
        if x.dtype not in FLOATS or x.dtype != out.dtype or not x.size:
            raise NotNative(f"{function.__name__} of {x.dtype}")
        kept = tuple(k for k in range(x.ndim) if k not in axes)
        found = reduced(
            function, x.transpose(*kept, *axes), out.reshape([x.shape[k] for k in kept]) if keepdims else out
        )
        if found is None and function in STARTS:  # in another order, so that something lies side by side
            copy = np.empty([x.shape[k] for k in (*kept, *axes)], x.dtype)
            self._entries(copy, "({})", x.transpose(*kept, *axes))
            found = reduced(function, copy, out.reshape(copy.shape[: len(kept)]))
        if found is None:
            raise NotNative(function.__name__)
        self.commands.append(found)

    # -- products --
    def _product(self, a: Any, b: Any, out: Any) -> None:
        function = gemm(self._libraries, a.dtype.char) if a.dtype in FLOATS else None
        if function is None or not a.dtype == b.dtype == out.dtype or not (a.size and b.size):
            raise NotNative(f"product of {a.dtype} and {b.dtype}")
        if a.ndim == 1:
            a, out = a[None], out[..., None, :] if b.ndim > 1 else out[..., None]
        if b.ndim == 1:
            b, out = b[:, None], out[..., None]
        lead = out.shape[:-2]
        a, b = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (a, b))
        if (_orientation(out) or (0,))[0] != 111:
            raise NotNative("a product into a transposed array")
        copies: dict[Any, Any] = {}
        for a1, b1, c1 in _stacks(a, b, out):
            if worthwhile(a1, b1):
                found = multiplied(a1, b1 if in_rows(b1) or along(a1, b1) else self._copy(b1, copies), c1)
            else:
                a1, b1 = (x if _orientation(x) else self._copy(x, copies) for x in (a1, b1))
                found = _by_blas(function, a1, b1, c1)
            self.commands.append(found)

    def _copy(self, x: Any, copies: dict[Any, Any]) -> Any:
        """The operand in rows, copied by a command, once for all parts of a product."""
        key = x.ctypes.data, x.shape, x.strides
        if key not in copies:
            used = x if x.strides[0] else x[:1]
            copy = np.empty(used.shape, x.dtype)
            self._entries(copy, "({})", used)
            copies[key] = np.broadcast_to(copy, x.shape)
        return copies[key]


def _known(x: Any) -> Any:
    """The array in a place, which has to be the same in every call."""
    if isinstance(x, tuple):
        return tuple(map(_known, x))
    if isinstance(x, Place) and x.array is None:
        raise NotNative("an array that is another one in every call")
    return np.asarray(x.array) if isinstance(x, Place) else x


def _orientation(x: Any) -> tuple[int, int] | None:
    """How BLAS reads a matrix: in rows (111) or columns (112), and how many entries one is from the next."""
    (rows, columns), (down, along), size = x.shape[-2:], x.strides[-2:], x.itemsize
    if (along == size or columns == 1) and (rows == 1 or (down >= columns * size and down % size == 0)):
        return 111, max(columns, down // size if rows > 1 else 1)
    if (down == size or rows == 1) and (columns == 1 or (along >= rows * size and along % size == 0)):
        return 112, max(rows, along // size if columns > 1 else 1)
    return None


def _stacks(a: Any, b: Any, out: Any) -> Any:
    """Products as few stacks of matrices, of three axes."""
    if out.ndim == 3 and not b.strides[0] and all(x.strides[0] == x.shape[1] * x.strides[1] for x in (a, out)):
        a, b, out = _joined(a), b[0], _joined(out)  # all rows by one matrix
    if out.ndim == 2:
        yield a[None], b[None], out[None]
        return
    if out.ndim == 3:
        yield a, b, out
        return
    if all(x.strides[0] == x.strides[1] * x.shape[1] or x.shape[0] == 1 for x in (a, b, out)):
        yield from _stacks(_joined(a), _joined(b), _joined(out))
        return
    shortest = int(np.argmin(out.shape[:-2]))
    for each in zip(*(np.moveaxis(x, shortest, 0) for x in (a, b, out)), strict=True):
        yield from _stacks(*each)


def _joined(x: Any) -> Any:
    """The first two axes as one."""
    return np.lib.stride_tricks.as_strided(x, (x.shape[0] * x.shape[1], *x.shape[2:]), x.strides[1:])


def _by_blas(function: Any, a: Any, b: Any, out: Any) -> Bound:
    (ta, lda), (tb, ldb), (_, ldc) = (_orientation(x) or (0, 0) for x in (a, b, out))
    (count, m, k), n = a.shape, b.shape[-1]
    table = np.array([ta, tb, m, n, k, lda, ldb, ldc, count, *(x.strides[0] for x in (a, b, out))], np.int64)
    addresses = np.array([x.ctypes.data for x in (a, b, out)], np.intp)
    return Bound(function, addresses, table, (a, b, out), partial(_axes, a.itemsize))


def _axes(size: int, table: Any) -> Sequence[Axes]:
    """Of a product: along which axes its operands and its result go."""
    ta, tb, m, n, k, lda, ldb, ldc, count, *steps = table.tolist()
    rows = [((m, k), ta, lda), ((k, n), tb, ldb), ((m, n), 111, ldc)]
    matrices = [
        [(shape[0], ld * size), (shape[1], size)] if kind == 111 else [(shape[1], ld * size), (shape[0], size)]
        for shape, kind, ld in rows
    ]
    return [[(count, step), *own, (size, 1)] for step, own in zip(steps, matrices, strict=True)]


class Tile:
    """The commands of a tile's program, for one thread."""

    def __init__(
        self,
        commands: Sequence[Bound],
        source: str,
        slots: Sequence[Slot],
        known: Sequence[Any],
        nbytes: int,
        exact: bool = False,
    ) -> None:
        """Put commands together; `known` are the arrays, beside the slots', that they only read.

        With `exact`, the exact forms of functions are at hand from the first call on.
        """
        self.nbytes, self.source, self.slots = nbytes, source, slots
        self._commands, self._known = commands, known
        self._exact = [command.exact() for command in commands] if exact else []
        patches: list[int] = []
        bounds = [np.lib.array_utils.byte_bounds(slot.array) for slot in slots]
        for command in self._commands:
            cells = command.addresses
            for k, address in enumerate(cells.tolist()):
                for number, (slot, (low, high)) in enumerate(zip(slots, bounds, strict=True)):
                    if low <= address < high:
                        cell = cells.ctypes.data + k * cells.itemsize
                        patches += [cell, number, address - slot.array.ctypes.data, slot.step]
        self._patches = patches

    @cached_property
    def _table(self) -> Any:
        """What the runner reads: made when a call needs it, so that the functions of many tiles are made at once."""
        exact = [function.address for function in self._exact] or [0] * len(self._commands)
        entries = [
            number
            for command, other in zip(self._commands, exact, strict=True)
            for number in (command.function.address, *command.places, other)
        ]
        return np.array([len(self._commands), len(self._patches) // 4, *self._patches, *entries], np.int64)

    @cached_property
    def address(self) -> int:
        """Where its table is: one, whichever of the threads that share a tile ask first."""
        with _LOCK:  # which a cached property has no more, from Python 3.12 on
            return int(self._table.ctypes.data)

    def again(self) -> Tile:
        """The same for another thread: with memory of its own for what the commands write."""
        places = {id(root): root for root in map(whole, [*self._known, *(slot.array for slot in self.slots)])}
        commands = [command.moved(places) for command in self._commands]
        return Tile(commands, self.source, self.slots, self._known, self.nbytes)

    def checked(self, t: int, arrays: Sequence[Any]) -> None:
        """Carry out tile `t` with every address looked at: RuntimeError where memory of no array would be touched."""
        first = len(self._table) - 4 * len(self._commands)
        starts = {
            int(cell): (slot, offset + t * step) for cell, slot, offset, step in self._table[2:first].reshape(-1, 4)
        }
        for command in self._commands:
            others = {}
            for k in range(len(command.addresses)):
                slot, offset = starts.get(command.addresses.ctypes.data + 8 * k, (None, 0))
                if slot is not None:
                    command.addresses[k] = arrays[slot].ctypes.data + offset
                    others[k] = arrays[slot], int(command.addresses[k])
            command.check(others)
            command.run()

    def make_exact(self) -> None:
        """Have the exact forms of functions at hand."""
        self._exact = [command.exact() for command in self._commands]
        first = len(self._table) - 4 * len(self._commands)
        self._table[first + 3 :: 4] = [function.address for function in self._exact]


def carried_out(
    tile: Tile, rest: Tile | None, count: int, counter: Any, bases: Any, arrays: Sequence[Any], in_order: bool = False
) -> None:
    """Take tiles until none is left: from `counter`, which all threads share. `bases` are where the arrays begin."""
    if checks.CHECKED:
        order = range(count) if in_order else checks.order(count)
        while (t := _taken(counter)) < count:
            (rest if rest is not None and order[t] == count - 1 else tile).checked(order[t], arrays)
        return
    table = np.array([count, -1, bases.ctypes.data, tile.address, 0 if rest is None else rest.address], np.int64)
    while (missing := work().call(counter.ctypes.data, table.ctypes.data)) >= 0:
        for each in (tile, rest):
            if each is not None:
                each.make_exact()
        table[1] = missing


def all_done(count: int, counter: Any) -> bool:
    """Whether all tiles of a call are done, on whatever threads, before it is better to sleep until they are."""
    table = np.array([count, LOOKS], np.int64)
    return bool(awaited().call(counter.ctypes.data, table.ctypes.data))
