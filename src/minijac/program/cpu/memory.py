"""Memory of a program: buffers that are used again once nothing reads what they held, and results let go of."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..ir import Value

__all__ = ["Memory", "take"]

POOLED = 1 << 17
"""Results of so many bytes are made again from memory that the caller has let go of."""


class Memory:
    """The buffers of one executor, planned as it is bound."""

    def __init__(self) -> None:
        self._owner: dict[int, Any] = {}  # values, to the memory that they were given
        self._free: dict[int, list[Any]] = {}  # by their bytes
        self._pools: list[list[Any]] = []
        self._planned = 0

    @property
    def nbytes(self) -> int:
        """Bytes held between calls: buffers, and large results that are made again when the caller lets go of them."""
        return self._planned + (sum([array.nbytes for pool in self._pools for array in pool]) if self._pools else 0)

    def fixed(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A buffer of its own."""
        array = np.empty(shape, dtype)
        self._planned += array.nbytes
        return array

    def given(self, n: int, value: Value) -> Any:
        """A free buffer that is about as large as a value, or a new one."""
        size = value.nbytes
        if free := self._free.get(size):  # the most usual, and as good as can be
            raw = free.pop()
        elif fitting := [nbytes for nbytes, free in self._free.items() if free and size <= nbytes <= 2 * size]:
            raw = self._free[min(fitting)].pop()
        else:
            raw = _aligned(size)
            self._planned += size
        self._owner[n] = raw
        return raw[:size].view(value.dtype).reshape(value.shape)

    def owns(self, n: int) -> bool:
        return n in self._owner

    def handed(self, n: int, to: int) -> None:
        """A value's memory becomes another's."""
        self._owner[to] = self._owner.pop(n)

    def released(self, n: int) -> None:
        """A value is read no more: others may have its memory."""
        if n in self._owner:
            raw = self._owner.pop(n)
            self._free.setdefault(raw.nbytes, []).append(raw)

    def pool(self, value: Value) -> list[Any] | None:
        """Where a large result is taken from in every call; None for a small one."""
        if value.nbytes < POOLED or not _COUNTED:
            return None
        self._pools.append([])
        return self._pools[-1]


def _aligned(size: int) -> Any:
    """Memory that begins at a cache line."""
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def _references(pool: list[Any]) -> list[int]:
    return [sys.getrefcount(array) for array in pool]


def take(pool: list[Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """An array for a result: one made before that the caller has let go of, or a new one.

    A new large array costs a page fault for every 4 KiB when it is first written, more than the write itself.
    """
    for array, count in zip(pool, _references(pool), strict=True):
        if count == _ALONE:
            return array.view()  # which keeps a reference to it, and may be altered
    array = np.empty(shape, dtype)
    if len(pool) < 2:
        pool.append(array)
        return array.view()
    return array


_ALONE = _references([np.empty(0)])[0]
"""What `_references` counts for an array that only the pool holds."""
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)() and sys.implementation.name == "cpython"
