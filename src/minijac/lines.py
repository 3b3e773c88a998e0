"""The line of the user's code that a recorded operation or an error belongs to."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "UNKNOWN",
    "WHOLE",
    "Call",
    "Line",
    "asked_from_outside",
    "caller",
    "for_torch",
    "line_in",
    "of_library",
    "scipy_call",
    "user_line",
]

UNKNOWN = "an unknown line"

_PACKAGE = Path(__file__).parent
_LIBRARIES = (f"{_PACKAGE}{os.sep}", f"{Path(np.__file__).parent}{os.sep}")
_STANDARD = f"{Path(os.__file__).parent}{os.sep}"
_PROGRAM = f"{_PACKAGE / 'demo'}{os.sep}"
_TORCH = f"{_PACKAGE / 'torch'}{os.sep}"
_PUBLIC = tuple(str(_PACKAGE / name) for name in ("numpy", "nn.py", "special.py"))


class Line(NamedTuple):
    """A place in code, the public function that was called there (None where an operator was), and the module inside of
    which another package's code went on from there. Every operation has one, so which line it is waits to be asked."""

    code: CodeType
    instruction: int
    function: str | None
    module: Any = None

    @property
    def file(self) -> str:
        return self.code.co_filename

    @property
    def number(self) -> int:
        lines = self.code.co_lines()
        return next((n for start, end, n in lines if start <= self.instruction < end and n), self.code.co_firstlineno)

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


MODULES: list[CodeType] = []
"""The code that runs a module, its `self`. Filled by `minijac.torch`."""


class _Whole(threading.local):
    """The call that is being carried out, of as many operations as it takes: of a function of another library."""

    line: Line | None = None


WHOLE = _Whole()


def caller(depth: int = 2, name: str | None = None) -> Line | None:
    """The innermost frame of the user's, and the public function through which it went, or the one of this name.

    That is one that is neither minijac's nor NumPy's, nor another package's or Python's own unless there is no other.
    All operations that one call of another library's takes have its line, which is found once.
    """
    known = WHOLE.line
    if known is not None:
        return known
    frame: Any = sys._getframe(depth)
    function: str | None = None
    found: Any = None
    module: Any = None
    while frame is not None:
        code = frame.f_code
        kind = _KINDS[code.co_filename]
        if kind is _BELOW:
            pass
        elif kind is _USERS:
            found = code, frame.f_lasti, function
            break
        elif kind is _PUBLIC_HERE:
            function = code.co_name
        else:
            found = found or (code, frame.f_lasti, function)
            if module is None and MODULES and code is MODULES[0]:
                module = frame.f_locals["self"]
        frame = frame.f_back
    if found is None:
        return None
    code, instruction, function = found
    return _made(Line, (code, instruction, name or function, module))


_made: Callable[..., Line] = tuple.__new__
"""A named tuple of a tuple: sooner made than of arguments, and every operation has one."""
_USERS, _BELOW, _PUBLIC_HERE, _PACKAGES = "the user's", "minijac's or NumPy's", "of public functions", "a package's"


class _Kinds(dict[str, str]):
    """Whose code a file is, found once for each: another package's or Python's own are a package's."""

    def __missing__(self, file: str) -> str:
        if file.startswith(_PUBLIC) and not file.endswith(("protocol.py", "ordered.py")):
            kind = _PUBLIC_HERE
        elif file.startswith(_LIBRARIES) and not file.startswith(_PROGRAM):
            kind = _BELOW
        else:
            kind = _PACKAGES if "site-packages" in file or file.startswith(_STANDARD) else _USERS
        self[file] = kind
        return kind


_KINDS = _Kinds()


def of_library(file: str) -> bool:
    """Whether a file of code is minijac's, an installed package's or Python's own, and not the user's."""
    return file.startswith((*_LIBRARIES, _STANDARD)) or "site-packages" in file


def asked_from_outside(frame: Any) -> bool:
    """Whether it is another's code than minijac's that asks for a shape, itself or by way of what only passes it on."""
    while frame.f_code.co_filename.startswith(_LIBRARIES[0]) and frame.f_code.co_name in _PASSED_ON:
        frame = frame.f_back
    return not frame.f_code.co_filename.startswith(_LIBRARIES[0])


_PASSED_ON = {"shape", "size", "ndim", "nbytes", "__len__", "__array_function__"}


def for_torch(frame: Any) -> bool:
    """Whether code is what makes tensors of arrays."""
    file: str = frame.f_code.co_filename
    return file.startswith(_TORCH)


def line_in(traceback: Any) -> str:
    """File and line of the user's code that an error went through last."""
    found = UNKNOWN
    while traceback is not None:
        if not of_library(file := traceback.tb_frame.f_code.co_filename):
            found = f"{file}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def user_line() -> str:
    """File and line of the user's code that is being run."""
    return str(caller(2) or UNKNOWN)


class Call(NamedTuple):
    """A public function or class of SciPy's: its module, as linalg, its name, and what of it was called."""

    module: str
    name: str
    method: str = ""

    def __str__(self) -> str:
        return ".".join(filter(None, ("scipy", *self)))


def scipy_call() -> Call | None:
    """What of SciPy's the user's code has called, or None."""
    frame: Any = sys._getframe(2)
    found = None
    while frame is not None and of_library(frame.f_code.co_filename):
        found = _call(frame) or found
        frame = frame.f_back
    return found


def _call(frame: Any) -> Call | None:
    """The public name that a frame of SciPy's goes by, if it has one."""
    module, name, own = frame.f_globals.get("__name__") or "", frame.f_code.co_name, frame.f_locals.get("self")
    method = ""
    if name == "wrapper" and hasattr(frame.f_locals.get("f"), "__name__"):  # SciPy's loop over stacks of matrices
        module, name = frame.f_locals["f"].__module__, frame.f_locals["f"].__name__
    elif own is not None:
        method = "" if name in ("__init__", "__call__") else name
        name = vars(own).get("name") if hasattr(own, "__dict__") else None  # a family of scipy.stats has one
        name = name if isinstance(name, str) else type(own).__name__.removesuffix("_gen")
    package, *parts = module.split(".")
    for n in (2, 1) if package == "scipy" and not name.startswith("_") else ():
        public = ".".join(parts[:n])
        if "_" not in {part[0] for part in parts[:n]} and hasattr(sys.modules.get(f"scipy.{public}"), name):
            return Call(public, name, method)
    return None
