"""The text of an executor: lines of Python that call functions on named objects, and the places that they work on.

The names are of this module's making and nothing else, so that the text can be read, and run, without a second look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import getitem
from typing import Any

import numpy as np

__all__ = ["Code", "Names", "Place"]


class Place:
    """An array in the text: by its name, and itself where it is the same in every call."""

    __slots__ = ("array", "code", "dtype", "shape", "text")

    def __init__(self, code: Code, text: str, shape: tuple[int, ...], dtype: Any, array: Any = None) -> None:
        self.code = code
        self.text = text
        self.shape = shape
        self.dtype = dtype
        self.array = array

    @property
    def own(self) -> bool:
        """Whether it is a buffer of its own, to which nothing else is ever written."""
        return self.array is not None and self.array.base is None

    def view(self, function: Callable[..., Any], *args: Any) -> Place:
        """The view of it that a function makes: made now where the array is known, else in every call."""
        if self.array is not None:
            view = function(self.array, *args)
            if not view.size or np.may_share_memory(view, self.array):
                return Place(self.code, self.code.name(view), view.shape, view.dtype, view)
        names = ", ".join(map(self.code.name, args))
        method = {getitem: f"{self.text}[{names}]", np.reshape: f"{self.text}.reshape({names})"}
        text = method.get(function) or f"{self.code.name(function)}({self.text}, {names})"
        return Place(self.code, text, (), self.dtype)

    def contiguous(self) -> Place:
        """The array, or a copy where its entries are not side by side."""
        return Place(self.code, f"{self.code.name(np.ascontiguousarray)}({self.text})", self.shape, self.dtype)


class Names:
    """What the names in a text stand for."""

    def __init__(self, **names: Any) -> None:
        self.names: dict[str, Any] = dict(names)
        self._known = {id(content): name for name, content in names.items()}

    def name(self, content: Any, name: str | None = None) -> str:
        """The name of an object in the text."""
        known = self._known.get(id(content)) if name is None else None
        if known is None:
            known = self._known[id(content)] = name or f"c{len(self.names)}"
            self.names[known] = content
        return known


class Code(Names):
    """Lines of Python, and what their names stand for."""

    def __init__(self, **names: Any) -> None:
        super().__init__(**names)
        self.lines: list[str | Callable[[], str]] = []

    def __call__(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> None:
        """Have a function called, on places and on other things as they are."""
        given = [*map(self._text, args), *(f"{key}={self._text(x)}" for key, x in keywords.items())]
        self.lines.append(f"{self.name(function)}({', '.join(given)})")

    def _text(self, x: Any) -> str:
        if isinstance(x, Place):
            return x.text
        if isinstance(x, tuple) and any(isinstance(each, Place) for each in x):
            return f"({', '.join(map(self._text, x))},)"
        return "None" if x is None else self.name(x)

    def line(self, text: str) -> None:
        self.lines.append(text)

    def note(self, text: Callable[[], str]) -> None:
        """A comment, which is not written before somebody wants to read it."""
        self.lines.append(text)

    def function(self, parameters: str, results: str) -> tuple[Callable[[], str], Callable[..., Any]]:
        """What writes the text as a function, and the function."""
        lines = [f"def run({parameters}):", *self.lines, f"return ({results})"]
        exec(compile(_text([line for line in lines if isinstance(line, str)]), "<minijac program>", "exec"), self.names)
        return partial(_text, lines), self.names.pop("run")


def _text(lines: Sequence[str | Callable[[], str]]) -> str:
    return "\n    ".join([line if isinstance(line, str) else f"# {line()}" for line in lines]) + "\n"
