"""Long programs on small arrays: lines of Python, and between them runs of commands, which need no Python.

A call of NumPy's takes about a microsecond before it does anything; a command takes a few nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..code import Code
from .bound import Bound
from .commands import Commands, NotNative, Tile, carried_out

__all__ = ["Mixed"]


class Mixed(Code):
    """Code of which what can be commands, on arrays that are the same in every call, is."""

    def __init__(self, libraries: tuple[Any, ...], **names: Any) -> None:
        super().__init__(**names)
        self._libraries = libraries
        self._run = Commands(libraries)

    def __call__(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> None:
        before = len(self._run.commands)
        try:
            if isinstance(function, Bound) and args:
                raise NotNative("arrays that are other ones in every call")
            self._run(function, *args, **keywords)
        except NotNative:
            del self._run.commands[before:]
            self._end_run()
            super().__call__(function, *args, **keywords)

    def line(self, text: str) -> None:
        self._end_run()
        super().line(text)

    def function(self, parameters: str, results: str) -> tuple[Callable[[], str], Callable[..., Any]]:
        self._end_run()
        return super().function(parameters, results)

    def _end_run(self) -> None:
        run, self._run = self._run, Commands(self._libraries)
        if run.commands:
            # exact, as a call that asked for that would begin anew with what it has changed
            super().__call__(partial(_carried_out, Tile(run.commands, "", [], [], 0, exact=True)))


def _carried_out(tile: Tile) -> None:
    carried_out(tile, None, 1, np.zeros(2, np.int64), np.zeros(1, np.int64), [])
