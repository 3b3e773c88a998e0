"""Carrying out a region: tile by tile, spread over threads, at the tile size that was measured to be fastest."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from functools import cache
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

from ...ops.families import Multilinear
from ..ir import Program, Value
from .native import checks
from .native.commands import Slot, Tile, all_done, carried_out
from .native.streams import STREAMED
from .tiling import Region, Rows, tile_program

__all__ = ["Binders", "Tiles", "blas", "threads"]

SMALL = 1 << 17
"""Bytes of intermediate values below which a tile is not made smaller."""
ROUNDS, ENOUGH = 3, 0.05
"""Each candidate is timed so often, or for so many seconds, after a first call."""
LONG = 0.5
"""Seconds of a candidate's first call that tell as much as those after it; where other candidates ran before, which had
what all of them need compiled, and wrote to the results, `ENOUGH` are."""
CANDIDATES, SECONDS = 3, 0.2
"""So many candidates are tried at least, if there are, and more until they have taken so many seconds."""
TURNS, IN_TURN = 16, 0.1
"""The better ones are then timed in turn, so often, or for so many seconds in all."""
LARGE = 1 << 24
"""Bytes of all intermediate values above which a tile is made smaller before one is tried."""
SOON = 2e-3
"""Seconds within which one thread may be done as soon as several."""
TOO_SLOW = 1.3
"""Candidates that take so many times as long as the best are not timed further; two end the search for smaller ones."""
RELIED, LAST = 1.15, 0.1
"""So many times as long one thread may take as several, which wait for each other where a CPU is busy otherwise, and
more by a part of what one tile is of a thread's: so long a thread that is kept from its CPU holds up the others."""
SETTLE, IDLE = 0.12, 2e-3
"""Seconds after which the threads of BLAS have stopped waiting for more work on the cores that the tiles need:
OpenBLAS's take turns with whatever else runs there for 2**28 cycles after each product that used them. They have
before, where this process takes no time of a processor for so many seconds."""


PANELS = (24, 320, 336)
"""The sizes of a product, of 5 million operations, of which OpenBLAS's kernels pack both operands in several panels."""
TOGETHER = 4
"""So often each thread makes it when all do, so that all are at it at some time."""


class _Blas:
    """NumPy's BLAS, kept to one thread while tiles run on threads of their own."""

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._lock = threading.Lock()
        self._running = 0
        self._before: list[int] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._alone)
        self._written = 0
        """Threads whose products find their buffers written."""

    def write_ahead(self, count: int) -> None:
        """Have the buffers that `count` threads' products pack their operands into written as far as is looked ahead.

        OpenBLAS's kernel for float32 prefetches the panel after the one at hand. Where the second operand is small, one
        panel is all that is ever written, and on a virtual machine each prefetch of a page that was never written
        walks through the tables of two systems: such products took four times as long, measured, until a larger one.
        """
        if count <= self._written or all(library.internal_api != "openblas" for library in self._libraries):
            return
        self._written = count
        rows, inner, columns = PANELS
        a, b = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
        begun = list[None]()

        def products() -> None:  # those at the same time have buffers of their own
            begun.append(None)
            together, end = 0, time.perf_counter() + SETTLE
            while together < TOGETHER and time.perf_counter() < end:
                np.matmul(a, b)
                together += len(begun) == count

        with self, suppress(RuntimeError), ThreadPoolExecutor(count) as pool:  # as where the interpreter ends
            for _ in range(count):
                pool.submit(products)

    def _alone(self) -> None:
        """In a child process: no other thread is left that could hold the lock, or be in the middle of a call."""
        self._lock = threading.Lock()
        if self._running:
            self._running = 0
            self._give_back()

    def libraries(self) -> tuple[Any, ...]:
        """The libraries themselves, whose functions can be called."""
        return tuple(library.dynlib for library in self._libraries)

    def threads(self) -> int:
        """Threads that the user lets BLAS use, and so us."""
        if not self._libraries:
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with self._lock:  # not the one thread that it has while another call's tiles run
            return max(self._before if self._running else [library.num_threads for library in self._libraries])

    def __enter__(self) -> None:
        with self._lock:
            if not self._running:
                self._before = [library.num_threads for library in self._libraries]
                for library in self._libraries:
                    library.set_num_threads(1)
            self._running += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._give_back()

    def _give_back(self) -> None:
        for library, number in zip(self._libraries, self._before, strict=True):
            library.set_num_threads(number)


@cache
def blas() -> _Blas:
    return _Blas()


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Threads of this process (those of a parent do not survive a fork)."""
    return ThreadPoolExecutor(workers, "minijac")


def threads() -> int:
    """Threads that a region may use: as many as NumPy's BLAS may, so that its settings hold for both."""
    return blas().threads()


@cache
def _placing(process: int) -> threading.Lock:
    """Held by the call of this process whose threads keep to CPUs of their own; those beside it are not placed."""
    return threading.Lock()


def _allowed() -> set[int]:
    """CPUs that this thread may run on; none where the system does not say."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()


def _stay_on(cpus: set[int]) -> None:
    """Have this thread run on these CPUs alone. A wish: what a container forbids is not worth an error."""
    if cpus:
        with suppress(OSError):
            os.sched_setaffinity(0, cpus)


def _places(allowed: set[int], count: int) -> list[set[int]]:
    """CPUs for each of `count` threads, none of them in two places where there are enough.

    Linux likes to wake a thread on the CPU of the one that wakes it. After a rest, and after each handing over of
    Python's lock, two threads then share one CPU while another is idle: for up to 50 ms, measured, in which they take
    twice as long. Kept apart, the first calls after a rest are as fast as the later ones.
    """
    if len(allowed) < count:
        return [allowed] * count
    return [set(sorted(allowed)[k::count]) for k in range(count)]


class Executor(Protocol):
    """A tile's program, bound."""

    run: Callable[..., Any]

    @property
    def nbytes(self) -> int: ...
    @property
    def source(self) -> str: ...


class Binders(NamedTuple):
    """What makes executors of a tile's program."""

    calls: Callable[[Program, Sequence[bool], float], Executor]
    """As NumPy's calls: given which of its outputs are contiguous, and how often it runs."""
    native: Callable[[Program, Sequence[Slot], int], Tile | None]
    """As machine code, if it can be: given the places of inputs and outputs, and what goes on from tile to tile."""


class Given(NamedTuple):
    """What a region is called with: arrays of which a tile takes a part, or (None) all; then those for sums."""

    rows: tuple[Rows | None, ...]
    sums: tuple[tuple[tuple[int, ...], Any], ...]


class Schedule:
    """A tile size, an executor of its program for each thread, and one for the last tile where that is smaller."""

    def __init__(
        self, region: Region, size: int, executors: Sequence[Executor], rest: Executor | None, given: Given
    ) -> None:
        self.size = size
        self.executors = executors
        self._rest = rest
        self._count = -(-region.batch // size)
        one, multiplies = len(executors) == 1, _multiplies(region)
        self.keeps_blas = not one or (multiplies and self._count > 1 and threads() > 1)
        """Whether BLAS has one thread while the tiles run; its threads share the products of all samples at once."""
        self.alone = one and (self.keeps_blas or not multiplies)
        """Whether it is the work of the thread that calls it alone."""
        self.relies = 1.0 if self.alone else RELIED + LAST * min(threads() / self._count, 1.0)
        """What its time is multiplied by where it is compared to others'."""
        starts = range(0, region.batch, size)
        self._sums = [np.empty((len(starts), *shape), dtype) for shape, dtype in given.sums]
        self._parts = [
            (*(_part(each, start, min(size, region.batch - start)) for each in given.rows), *((k,) for _ in self._sums))
            for k, start in enumerate(starts)
        ]

    def __call__(self, arrays: Sequence[Any]) -> None:
        sums = arrays[len(arrays) - len(self._sums) :]
        arrays = (*arrays[: len(arrays) - len(self._sums)], *self._sums)
        parts, arrays = self._shared(arrays)
        with blas() if self.keeps_blas else nullcontext():
            if len(self.executors) == 1:
                self._work(self.executors[0], set(), parts, arrays)
            else:
                self._spread(parts, arrays)
        for total, own in zip(sums, self._sums, strict=True):
            np.add.reduce(own, 0, None, total)

    def _shared(self, arrays: Sequence[Any]) -> tuple[Any, Any]:
        """What the threads of a call share: the tiles that are left, of which each takes the next, and the arrays."""
        return iter([self._parts[k] for k in checks.order(self._count)]), arrays  # `next` is atomic

    def _spread(self, parts: Any, arrays: Any) -> None:
        count, allowed, others = len(self.executors), _allowed(), []
        pool, placing = _pool(os.getpid(), count - 1), _placing(os.getpid())
        alone = placing.acquire(blocking=False)
        try:
            places = _places(allowed, count) if alone else [allowed] * count
            try:
                with suppress(RuntimeError):  # the interpreter ends, and starts no work: this thread does all
                    for executor, place in zip(self.executors[1:], places[1:], strict=True):
                        others.append(pool.submit(self._work, executor, place, parts, arrays))
                self._work(self.executors[0], places[0], parts, arrays)
            finally:
                try:
                    # What has not begun may never do so: its thread may be this one, busy with a tile around it.
                    others = [other for other in others if not other.cancel()]
                    if self._done(parts):
                        others = []  # they take no tile any more
                    wait(others)  # also after an error: they write into buffers that the next call uses
                finally:
                    _stay_on(allowed)
            for other in others:
                other.result()
        finally:
            if alone:
                placing.release()

    def _work(self, executor: Any, place: set[int], parts: Any, arrays: Any) -> None:
        """Carry out tiles until none is left."""
        _stay_on(place)
        rest, last = (executor, None) if self._rest is None else (self._rest, self._parts[-1])
        for part in parts:
            run = rest.run if part is last else executor.run
            run(*[x if index is ... else x[index] for x, index in zip(arrays, part, strict=True)])

    def _done(self, parts: Any) -> bool:
        """Whether all tiles are known to be done."""
        return False

    @property
    def nbytes(self) -> int:
        executors = [*self.executors, *([] if self._rest is None else [self._rest])]
        return sum(executor.nbytes for executor in executors) + sum(own.nbytes for own in self._sums)


class NativeSchedule(Schedule):
    """The same, of tiles that are machine code: a thread's tiles are one call, without Python's lock."""

    def _shared(self, arrays: Sequence[Any]) -> tuple[Any, Any]:
        held = [np.ascontiguousarray(x) for x in arrays]
        return np.zeros(2, np.int64), (np.array([x.ctypes.data for x in held], np.int64), held)

    def _work(self, executor: Any, place: set[int], parts: Any, arrays: Any) -> None:
        _stay_on(place)
        carried_out(executor, self._rest, self._count, parts, *arrays)  # type: ignore[arg-type]

    def _done(self, parts: Any) -> bool:
        return all_done(self._count, parts)


def _multiplies(region: Region) -> bool:
    return any(isinstance(each.step.op, Multilinear) for each in region.steps)


def _part(rows: Rows | None, start: int, size: int) -> Any:
    if rows is None:
        return ...
    return (*(slice(None),) * rows.axis, slice(start * rows.inner, (start + size) * rows.inner))


class Tiles:
    """A region bound to the arrays it captures; called with those of `args`, and those it writes, in order."""

    def __init__(
        self,
        region: Region,
        values: Sequence[Value],
        known: Callable[[int], Any],
        sizes: dict[int, tuple[int, int]],
        number: int,
        bind: Binders,
    ) -> None:
        self._sizes, self._number, self._bind = sizes, number, bind
        self._region = region
        self._values = values
        self._known = known
        self._schedule: Schedule | None = None
        self._may_be_native = True
        """Until some step was found to be NumPy's, of whatever number of samples."""
        given = [(n, rows) for n, rows in region.args if rows is not None or known(n) is None]
        parts = [(n, rows) for n, rows in region.outs if rows is not None]
        sums = [n for n, rows in region.outs if rows is None]
        self.arrays = (*(n for n, _ in (*given, *parts)), *sums)
        """The values whose arrays it is called with."""
        rows = tuple(rows for _, rows in (*given, *parts))
        self._given = Given(rows, tuple((values[n].shape, values[n].dtype) for n in sums))

    @property
    def nbytes(self) -> int:
        return 0 if self._schedule is None else self._schedule.nbytes

    @property
    def source(self) -> str:
        """The generated Python of a tile, once its size is known."""
        if self._schedule is None:
            return f"# tiles of {self._region.batch} samples: their size is chosen by time on the first call\n"
        schedule = self._schedule
        title = f"# tiles of {schedule.size} of {self._region.batch} samples, threads: {len(schedule.executors)}\n"
        return title + schedule.executors[0].source

    @property
    def keeps_blas(self) -> bool:
        """Whether BLAS has one thread while its tiles run."""
        return self._schedule is not None and self._schedule.keeps_blas

    def __call__(self, *arrays: Any) -> None:
        if self._schedule is not None:
            self._schedule(arrays)
        elif self._number in self._sizes:
            self._schedule = self._scheduled(*self._sizes[self._number])
            self._schedule(arrays)
        else:
            self._schedule = self._fastest(arrays)
            self._sizes[self._number] = self._schedule.size, len(self._schedule.executors)

    def _fastest(self, arrays: Sequence[Any]) -> Schedule:
        """The schedule that is fastest on the arrays of the first call, whose results all of them write."""
        batch, count = self._region.batch, threads()
        if _multiplies(self._region):
            blas().write_ahead(count)
        tried = self._halved(arrays, count)
        best = min(tried, key=_time)
        soon = count > 1 and best.seconds < SOON
        if soon:
            tried.append(self._timed(best.schedule.size, 1, arrays, ENOUGH))
        compared = [each for each in tried if each.seconds <= TOO_SLOW * best.seconds]
        turns = min(TURNS, int(IN_TURN / sum(each.seconds for each in compared)))
        for _ in range(turns if len(compared) > 1 else 0):
            for each in compared:
                each.call(arrays)
        if soon or (count > 1 and _multiplies(self._region)):  # last, as BLAS's threads disturb what comes after
            tried.append(self._timed(batch, 1, arrays, ENOUGH, turns))
        return min(tried, key=lambda each: each.seconds * each.schedule.relies).schedule

    def _halved(self, arrays: Sequence[Any], count: int) -> list[Timed]:
        """Tile sizes for so many threads, each half of the one before, until they get slower."""
        tried, slower, start = list[Timed](), 0, time.perf_counter()
        size = self._largest(-(-self._region.batch // count))
        while size and slower < 2 and (len(tried) < CANDIDATES or time.perf_counter() - start < SECONDS):
            tried.append(self._timed(size, count, arrays, ENOUGH if tried else LONG))
            slower = slower + 1 if tried[-1].seconds > TOO_SLOW * min(map(_time, tried)) else 0
            if tried[-1].schedule.executors[0].nbytes < SMALL:
                break
            size //= 2
        return tried

    def _largest(self, size: int) -> int:
        """The largest halving of a tile size whose values are not too large for a cache."""
        made = sum(self._values[item.step.out].nbytes for item in self._region.steps if not item.step.op.view)
        while size > 1 and made // self._region.batch * size > LARGE:
            size //= 2
        return size

    def _timed(self, size: int, count: int, arrays: Sequence[Any], long: float, more: int = 0) -> Timed:
        timed = Timed(self._scheduled(size, count))
        timed.call(arrays)
        if timed.seconds < long:
            timed.calls.clear()
            if count > 1:
                _settle()
        while len(timed.calls) < ROUNDS + more and sum(timed.calls) < ENOUGH:
            timed.call(arrays)
        return timed

    def _scheduled(self, size: int, count: int) -> Schedule:
        rest = self._region.batch % size
        first = self._native(size, size) if self._may_be_native else None
        last = self._native(rest, size) if rest and first is not None else None
        if first is not None and (last is not None or not rest):
            tiles = [first, *(first.again() for _ in range(count - 1))]
            return NativeSchedule(self._region, size, tiles, last, self._given)  # type: ignore[arg-type]
        self._may_be_native = False
        executors = [self._executor(size) for _ in range(count)]
        return Schedule(self._region, size, executors, self._executor(rest) if rest else None, self._given)

    def _native(self, size: int, before: int) -> Tile | None:
        """The machine code of the program for `size` samples, of parts of contiguous arrays, after tiles of another."""
        program = tile_program(self._region, self._values, size, self._known)
        rows = [*self._given.rows, *(None for _ in self._given.sums)]
        slots = []
        for k, (n, own) in enumerate(zip(self.arrays, rows, strict=True)):
            value = self._values[n]
            slots.append(_slot(value, own, size, before, k >= len(self._given.rows)))
        return self._bind.native(program, slots, 0)

    def _executor(self, size: int) -> Executor:
        """An executor of the program for `size` samples."""
        program = tile_program(self._region, self._values, size, self._known)
        contiguous = [rows is None or rows.axis == 0 for rows in self._given.rows[len(program.inputs) :]]
        return self._bind.calls(program, [*contiguous, *(True for _ in self._given.sums)], self._region.batch / size)


def _slot(value: Value, rows: Rows | None, size: int, before: int, summed: bool) -> Slot:
    """An array that stands for the part of a contiguous one of which a tile takes `size` samples."""
    item = value.dtype.itemsize
    strides = tuple(item * prod(value.shape[k + 1 :]) for k in range(len(value.shape)))
    shape, step = value.shape, value.nbytes if summed else 0
    if rows is not None:
        along = size * rows.inner
        shape = (*shape[: rows.axis], along, *shape[rows.axis + 1 :])
        step = before * rows.inner * strides[rows.axis]
    extent = item + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True) if n)
    array = np.ndarray(shape, value.dtype, np.empty(extent, np.uint8), 0, strides)
    return Slot(array, step, large=value.nbytes >= STREAMED)


class Timed:
    """A schedule, and what its calls took."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.calls = schedule, list[float]()

    def call(self, arrays: Sequence[Any]) -> None:
        self.calls.append(_seconds(self.schedule, arrays))

    @property
    def seconds(self) -> float:
        """Of a call that little else on the machine has disturbed, and not by luck alone."""
        return sorted(self.calls)[len(self.calls) // 4]


def _settle() -> None:
    """Until no thread of BLAS waits for work any more, on cores that are to be timed."""
    end = time.perf_counter() + SETTLE
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(IDLE)
        if time.process_time() - before < IDLE / 4:
            return


def _time(timed: Timed) -> float:
    return timed.seconds


def _seconds(schedule: Schedule, arrays: Sequence[Any]) -> float:
    start = time.perf_counter()
    schedule(arrays)
    return time.perf_counter() - start
