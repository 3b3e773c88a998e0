"""The line of the user's code that a recorded operation or an error belongs to."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Line", "caller", "of_library", "scipy_function", "user_line"]

_PACKAGE = Path(__file__).parent
_LIBRARIES = (f"{_PACKAGE}{os.sep}", f"{Path(np.__file__).parent}{os.sep}")
_STANDARD = f"{Path(os.__file__).parent}{os.sep}"
_PROGRAM = f"{_PACKAGE / 'demo'}{os.sep}"
_PUBLIC = tuple(str(_PACKAGE / name) for name in ("numpy", "nn.py", "special.py"))


class Line(NamedTuple):
    """A file, a line, the public function that was called there (None where an operator was), and the module inside of
    which another package's code went on from there."""

    file: str
    number: int
    function: str | None
    module: Any = None

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


MODULES: list[CodeType] = []
"""The code that runs a module, its `self`. Filled by `minijac.torch`."""


def caller(depth: int = 2) -> Line | None:
    """The innermost frame of the user's, and the public function through which it went.

    That is one that is neither minijac's nor NumPy's, nor another installed package's unless there is no other.
    """
    frame: Any = sys._getframe(depth)
    function: str | None = None
    installed: Any = None
    module: Any = None
    while frame is not None:
        code = frame.f_code
        below, public, package = _kind(code.co_filename)
        if public:
            function = code.co_name
        elif not below:
            if not package:
                return Line(code.co_filename, frame.f_lineno, function, module)
            installed = installed or (frame, function)
            if module is None and MODULES and code is MODULES[0]:
                module = frame.f_locals["self"]
        frame = frame.f_back
    return installed and Line(installed[0].f_code.co_filename, installed[0].f_lineno, installed[1], module)


@lru_cache(4096)
def _kind(file: str) -> tuple[bool, bool, bool]:
    """Whether a file is minijac's or NumPy's, one of public functions, and of an installed package."""
    public = file.startswith(_PUBLIC) and not file.endswith("protocol.py")
    return file.startswith(_LIBRARIES) and not file.startswith(_PROGRAM), public, "site-packages" in file


def of_library(file: str) -> bool:
    """Whether a file of code is minijac's, an installed package's or Python's own, and not the user's."""
    return file.startswith((*_LIBRARIES, _STANDARD)) or "site-packages" in file or file == "<built-in>"


def user_line() -> str:
    """File and line of the user's code that is being run."""
    return str(caller(2) or "an unknown line")


def scipy_function() -> tuple[str, str] | None:
    """The module and the name of SciPy's function that the user's code is in, such as special, logsumexp."""
    frame: Any = sys._getframe(2)
    found = None
    while frame is not None and found is None:
        package, *parts = (frame.f_globals.get("__name__") or "").split(".")
        name = frame.f_code.co_name
        if package == "scipy" and parts and hasattr(sys.modules.get(f"scipy.{parts[0]}"), name):
            found = parts[0], name
        frame = frame.f_back
    return found
