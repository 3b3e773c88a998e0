"""What was found out about structures, kept for the next call that meets them: bounded, and shared by threads."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Generic, TypeVar

__all__ = ["Memo", "uncollected"]

V = TypeVar("V")


class Memo(Generic[V]):
    """Values by key, of which the last used ones are kept, `most` of them.

    >>> squares = Memo[int](most=2)
    >>> [squares.get(n, lambda n=n: n * n) for n in (1, 2, 3)], squares.items()
    ([1, 4, 9], [(2, 4), (3, 9)])
    """

    _all: ClassVar[list[Memo[object]]] = []

    def __init__(self, most: int) -> None:
        self.most = most
        self._found: OrderedDict[Hashable, V] = OrderedDict()
        self._last: V | None = None
        """The value that was used last."""
        self._lock = threading.Lock()
        self._all.append(self)  # type: ignore[arg-type]

    def seen(self, key: Hashable) -> V | None:
        """The value of a key, which counts as used now; None where there is none."""
        with self._lock:
            value = self._found.get(key)
            if value is not None and value is not self._last:  # else it takes a hash and a comparison for nothing
                self._found.move_to_end(key)
                self._last = value
            return value

    def get(self, key: Hashable, find: Callable[[], V]) -> V:
        """The value of a key, found now if it was not before; threads that look for one at once may each find it."""
        value = self.seen(key)
        return self.put(key, find()) if value is None else value

    def put(self, key: Hashable, value: V) -> V:
        with self._lock:
            self._found[key] = value
            self._found.move_to_end(key)
            self._last = value
            if len(self._found) > self.most:
                self._found.popitem(last=False)
        return value

    def items(self) -> list[tuple[Hashable, V]]:
        """Keys and values, those used last at the end."""
        with self._lock:
            return list(self._found.items())

    def clear(self) -> None:
        with self._lock:
            self._found.clear()
            self._last = None

    @classmethod
    def clear_all(cls) -> None:
        """Forget everything in all of them."""
        for memo in cls._all:
            memo.clear()


@contextmanager
def uncollected() -> Iterator[None]:
    """Without looks for garbage in circles: where much is made that stays, each looks at all of it again."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
