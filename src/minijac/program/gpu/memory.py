"""A program's memory on the device: one block, in which buffers that live at different times share their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ...strides import View
from ..ir import Program
from .runtime import CupyRuntime
from .schedule import Schedule
from .steps import Launch

__all__ = ["SMALL", "DeviceMemory", "strides_of"]

ALIGNMENT = 512
SMALL = 1 << 16
"""Results of up to so many bytes are copied out together; larger ones are written into new arrays where that can be."""


def aligned(nbytes: int) -> int:
    """The size with the space to the next buffer's beginning."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def arranged(lives: dict[int, tuple[int, int, int]]) -> tuple[dict[int, int], int]:
    """Offsets of buffers given as (first step, last step, bytes), and the size of the block.

    The largest first, each at the lowest place that no other buffer holds while it lives.
    """
    placed = np.empty((4, len(lives)), np.int64)  # start, end, first step, last step
    offsets: dict[int, int] = {}
    for n, (first, last, nbytes) in sorted(lives.items(), key=lambda item: (-item[1][2], item[1][0], item[0])):
        size, start, known = aligned(nbytes), 0, placed[:, : len(offsets)]
        beside = known[:2, (known[2] <= last) & (known[3] >= first)]
        for other, end in sorted(beside.T.tolist()):
            if other >= start + size:
                break
            start = max(start, end)
        placed[:, len(offsets)] = start, start + size, first, last
        offsets[n] = start
    return offsets, int(placed[1].max(initial=0))


class Layout(NamedTuple):
    """The launches, those of the graphs first, and where what they read and write lies."""

    early: list[Launch]
    late: list[Launch]
    """Launched plainly: the last ones that write large results."""
    fresh: list[int]
    """Results that are written into new arrays, those that are copied out together, and those copied one by one."""
    together: list[int]
    copied: list[int]
    together_size: int
    offsets: dict[int, int]
    size: int


def laid_out(schedule: Schedule, sizes: Mapping[int, int], fixed: Mapping[int, int]) -> Layout:
    """One block of memory: results that are copied out, numbers, inputs, and what lives between two launches."""
    early, late = _apart(schedule, sizes)
    launches = [*early, *late]
    computed = {n for launch in launches for n in launch.writes}
    outputs = [n for n in dict.fromkeys(schedule.outputs) if n in computed]
    last = {n for launch in late for n in launch.writes}
    fresh = [n for n in outputs if n in last and sizes[n] > SMALL]
    together = [n for n in outputs if sizes[n] <= SMALL]
    copied = [n for n in outputs if n not in fresh and n not in together]
    offsets, end = {}, 0
    for n in together:
        offsets[n] = end
        end += aligned(sizes[n])
    lives: dict[int, tuple[int, int, int]] = {}
    for position, launch in enumerate(launches):
        for n in (*launch.reads, *launch.writes):
            if n not in offsets and n not in fixed and n not in fresh:
                first = lives[n][0] if n in lives else position if n in computed else -1
                lives[n] = first, len(launches) if n in copied else position, sizes[n]
    placed, size = arranged(lives)
    offsets |= {n: end + offset for n, offset in placed.items()}
    return Layout(early, late, fresh, together, copied, end, offsets, end + size)


def _apart(schedule: Schedule, sizes: Mapping[int, int]) -> tuple[list[Launch], list[Launch]]:
    """The launches that may stand last because nothing after them needs what they write, and write large results."""
    outputs, late = set(schedule.outputs), set[int]()
    launches = schedule.launches
    written: set[int] = set()  # by launches that are late
    for position in reversed(range(len(launches))):
        writes = set(launches[position].writes)
        large = any(n in outputs and sizes[n] > SMALL for n in writes)
        if not large and not writes & written:  # which a fill before a scatter does
            continue
        after = [k for k in range(position + 1, len(launches)) if k not in late]
        if not any(writes & {*launches[k].reads, *launches[k].writes} for k in after):
            late.add(position)
            written |= writes
    early = [launch for k, launch in enumerate(launches) if k not in late]
    return early, [launches[k] for k in sorted(late)]


class DeviceMemory:
    """The memory that a program holds between calls, and arrays over it."""

    def __init__(self, program: Program, schedule: Schedule, runtime: CupyRuntime) -> None:
        self.runtime, self.values = runtime, schedule.values
        read = {n for launch in schedule.launches for n in launch.reads}
        self.constants: dict[int, Any] = {}  # kept, so that their memory stays
        for n, value in enumerate(program.values):
            if value.kind in ("captured", "constant") and n not in schedule.on_host and n in read:
                self.constants[n] = value.content if value.kind == "captured" else runtime.upload(value.content)
        fixed = {n: runtime.address(array) for n, array in self.constants.items()}
        self.layout = laid_out(schedule, {n: self.nbytes_of(n) for n in range(len(self.values))}, fixed)
        self.block = runtime.block(self.layout.size)
        start = runtime.address(self.block)
        self.addresses = {**fixed, **{n: start + offset for n, offset in self.layout.offsets.items()}}

    def nbytes_of(self, n: int) -> int:
        value = self.values[n]
        return int(np.prod(value.shape, dtype=np.int64)) * value.dtype.itemsize

    def new(self, n: int) -> Any:
        """A new array for a value."""
        return self.runtime.empty(self.values[n].shape, self.values[n].dtype)

    def whole(self, n: int) -> Any:
        """A value's own array in the block."""
        return self.array(View.whole(self.values[n].shape, n), {})

    def array(self, view: View, elsewhere: Mapping[int, Any]) -> Any:
        """An array of CuPy's over planned memory, or over an array that is there already."""
        n = view.root
        base = elsewhere.get(n, self.constants.get(n))
        if base is not None:
            return self._over(base, 0, view)
        if n not in self.layout.offsets:  # without entries
            return self.runtime.empty(view.shape, self.values[n].dtype)
        return self._over(self.block, self.layout.offsets[n], view)

    def _over(self, base: Any, offset: int, view: View) -> Any:
        dtype = self.values[view.root].dtype
        strides = tuple(s * dtype.itemsize for s in view.strides)
        return self.runtime.array(base, offset + view.offset * dtype.itemsize, view.shape, strides, dtype)

    def copied_out(self) -> dict[int, Any]:
        """Results that lie in planned memory, in memory of their own: the small ones by one copy."""
        runtime, layout, found = self.runtime, self.layout, {}
        if layout.together:
            block = runtime.block(layout.together_size)
            runtime.copy(runtime.address(block), runtime.address(self.block), layout.together_size)
            for n in layout.together:
                found[n] = self._over(block, layout.offsets[n], View.whole(self.values[n].shape, n))
        for n in layout.copied:
            found[n] = self.new(n)
            runtime.copy(runtime.address(found[n]), self.addresses[n], self.nbytes_of(n))
        return found


def strides_of(array: Any, address: int) -> tuple[tuple[int, ...], bool]:
    """A captured array's strides in entries, and whether vectors of 16 bytes may be read from it."""
    itemsize = array.dtype.itemsize
    if any(stride % itemsize for stride in array.strides):
        raise InputError(
            f"compile: a captured array of shape {array.shape} and strides {array.strides} has entries that do not "
            f"lie whole numbers of {itemsize} bytes apart. Copy it before it is captured."
        )
    return tuple(stride // itemsize for stride in array.strides), address % 16 == 0
