"""Methods that are compiled, and arguments that choose the program by their value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from inspect import signature
from typing import Any

from ..errors import InputError

__all__ = ["Bound", "Method", "Static", "static_names", "through_class", "unmarked"]


@dataclass(frozen=True)
class Static:
    """An argument that chooses the program, by its value."""

    value: Any


def unmarked(x: Any) -> Any:
    return x.value if isinstance(x, Static) else x


class Method:
    """A method of an instance that it keeps no hold of."""

    def __init__(self, function: Callable[..., Any], instance: Any) -> None:
        self.function = function
        self.instance = instance
        update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.instance(), *args, **kwargs)


class Bound:
    """A compiled method as its instance has it: it keeps the instance, and is else what was compiled for it."""

    def __init__(self, instance: Any, compiled: Callable[..., Any]) -> None:
        self.__self__ = instance
        self.__wrapped__ = compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


def static_names(fn: Callable[..., Any], names: Sequence[str]) -> frozenset[Any]:
    """The names of static arguments, and their positions."""
    names = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else (names,)
    if not names:
        return frozenset()
    known = list(signature(fn).parameters)[isinstance(fn, Method) :]
    for name in names:
        if name not in known:
            raise InputError(f"static_argnames: expected names of arguments, {', '.join(known)}, got {name!r}.")
    return frozenset((*names, *(known.index(name) for name in names)))


def through_class(compiled: Any, fn: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether the first argument is the instance: a call as ``Base.method(self, x)``, or a property's.

    Its class holds the compiled function, or is the one that the function is written in.
    """
    if not args or isinstance(fn, Method):
        return False
    place = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "").rpartition(".")[0]
    return any(
        (kind.__module__, kind.__qualname__) == place or any(x is compiled for x in vars(kind).values())
        for kind in type(args[0]).__mro__
    )
