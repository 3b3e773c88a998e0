"""What a function holds on to by name: arrays that a name may be bound anew of, and generators of random numbers."""

from __future__ import annotations

import pickle
import random
import secrets
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import lru_cache, partial
from itertools import islice
from keyword import iskeyword
from numbers import Number
from operator import getitem, is_
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeAlias
from weakref import ReferenceType

import numpy as np
from numpy.random import bit_generator

from ..backend import is_array
from ..lines import of_library

__all__ = [
    "GENERATORS", "GONE", "PLAIN", "Content", "Held", "drawn_from", "extent", "held", "same", "type_of", "unchanged",
    "unseeded", "watcher",
]  # fmt: skip

MOST_VISITED = 10_000
"""Objects that are looked at, so that a function that holds a large collection is not searched for long."""


COLLECTIONS = (list, dict, deque, set, frozenset)
ATOMS = (bool, int, float, complex, str, bytes, type(None), np.generic, Enum, slice, range, np.ufunc, np.dtype, Number,
         CodeType)  # fmt: skip
"""Plain values that hold nothing to look for."""
FOLLOWED = (FunctionType, ModuleType, partial, type)
PLAIN = (*ATOMS, *FOLLOWED)
"""What a program is made for: it is recorded anew where the code names another one since."""
MOST_ITEMS = 16
"""Plain values in a list, a tuple or a dict that are looked at, whatever their keys: those may be computed."""


ELSEWHERE: list[tuple[type, Callable[[Any], Iterable[str]]]] = []
"""Kinds of objects, and the names of the attributes of one that somebody else looks at. Filled by `minijac.torch`."""


class Held(NamedTuple):
    """An array, a generator or a plain value, and the call that reads what stands in its place now."""

    read: Callable[[], Any]
    value: Any
    name: str = ""
    """By what the code knows it, where it does."""


Names: TypeAlias = tuple[str | None, ...]
Reached: TypeAlias = tuple[Callable[[], Any], Any, Names]
"""A value, between the call that reads it and the names by which the code would reach it; None for any code."""
ANY: Names = (None,)
GONE = (AttributeError, LookupError, TypeError)
"""What reading raises where something is not there any more."""


def held(fn: Callable[..., Any]) -> list[Held]:
    """The arrays, generators and plain values that a function reaches by its closure, globals, attributes, and what
    they hold; of plain values those whose names stand in the code.

    An array that is reached in several ways comes once for each.
    """
    found: list[tuple[Names, Held]] = []
    plain: list[tuple[Names, Held]] = []
    known: set[str | None] = {None}
    seen: dict[int, Callable[[], Any]] = {}
    kinds: set[type] = set()
    waiting: list[Reached] = [(lambda: fn, fn, ANY)]
    of_others: list[Reached] = []
    while len(seen) < MOST_VISITED:
        if not waiting:  # what classes and modules define, where the code found so far names it
            waiting = [each for each in of_others if not known.isdisjoint(each[2])]
            of_others = [each for each in of_others if known.isdisjoint(each[2])]
        if not waiting:
            break
        read, value, names = waiting.pop()
        if id(value) in seen and _one_call(read, seen[id(value)]):
            continue
        is_a, fixed = _nature(_kind(value)), isinstance(read, partial) and read.func is same
        if (is_a.atom or is_a.followed) and not fixed:
            plain.append((names, Held(read, value)))
        elif is_a.tuple:
            plain.append((names[:1], Held(read, value)))
        elif is_a.collection:
            looked = [(names[:1], Content(read, extent, value))]
            looked += [(names, Content(read, _plain_in, value))] if isinstance(value, dict) else []
            plain += [(by, Held(content, content.last)) for by, content in looked]
        if is_a.generator or (is_array(value) and not is_a.atom):
            found.append((names, Held(read, value)))
        elif id(value) in seen:  # under another name: what it holds is looked for once
            if not fixed and not is_a.followed:
                plain.append((names, Held(partial(_still, read, kept := [value]), kept)))
        elif not is_a.atom:
            seen[id(value)] = read
            if not fixed and not (is_a.followed or is_a.collection or is_a.tuple):
                if _function_like(value):
                    plain.append((names, Held(read, value)))
                else:
                    inside = Content(partial(_attribute, read, "__dict__"), extent, value.__dict__)
                    plain += [(names, Held(partial(type_of, read), type(value))), (names, Held(inside, inside.last))]
            if isinstance(value, FunctionType) and not of_library(value.__code__.co_filename):
                known.update(names_in(value.__code__, strings=True))
            waiting += _inside(read, value, names)
            of_others += _of_module(value) if isinstance(value, ModuleType) else _of_class(read, value, kinds)
    named = [each._replace(name=_told(names)) for names, each in (*found, *plain) if not known.isdisjoint(names)]
    return named + [each for names, each in found if known.isdisjoint(names)]


class Nature(NamedTuple):
    """What an object is by its type."""

    atom: bool
    followed: bool
    collection: bool
    tuple: bool
    generator: bool


@lru_cache(1024)
def _nature(kind: type) -> Nature:
    return Nature(*(issubclass(kind, kinds) for kinds in (ATOMS, FOLLOWED, COLLECTIONS, tuple, GENERATORS)))


GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
GLOBAL: tuple[Any, ...] = (np.random.mtrand._rand, random._inst)
"""Those that the functions of the modules draw from. Other threads may, too, at any time."""


def _inside(read: Callable[[], Any], value: Any, names: Names) -> Iterator[Reached]:
    """What a value holds, each with the call that reads it, and the names by which the code would reach it."""
    if isinstance(value, FunctionType):
        yield from _of_function(read, value)
    elif isinstance(value, MethodType | partial):
        parts = (value.__self__, value.__func__) if isinstance(value, MethodType) else (value.func, *value.args)
        yield from ((partial(same, part), part, ANY) for part in parts)
        if isinstance(value, partial):
            yield partial(_attribute, partial(same, value), "keywords"), value.keywords, ANY
    elif isinstance(value, ReferenceType):
        yield value, value(), ANY
    elif isinstance(value, dict):
        for key, inner in list(value.items()):
            within = names if isinstance(inner, dict) else ()
            any_key = ANY if isinstance(inner, tuple | set | frozenset) else ()  # as for plain values
            yield partial(_item, read, key), inner, (*any_key, str(key), *within)
    elif isinstance(value, list | tuple | deque):
        yield from (
            (partial(_item, read, k), inner, (None, *names) if k < MOST_ITEMS else ()) for k, inner in enumerate(value)
        )
    elif not isinstance(value, type | ModuleType | str | bytes | int | float):
        attributes = getattr(value, "__dict__", {})
        if elsewhere := [name for kind, names_of in ELSEWHERE if isinstance(value, kind) for name in names_of(value)]:
            attributes = {name: inner for name, inner in attributes.items() if name not in elsewhere}
        yield from ((partial(_attribute, read, name), inner, (name,)) for name, inner in list(attributes.items()))


def _of_function(read: Callable[[], Any], value: FunctionType) -> Iterator[Reached]:
    """What a function's closure, globals, defaults and attributes hold."""
    own = not of_library(value.__code__.co_filename)
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            yield partial(getattr, cell, "cell_contents"), cell.cell_contents, (None, name) if own else ()
        except ValueError:  # not bound yet
            continue
    if own:
        # a reload in a notebook replaces it; that the function is the same one is watched by itself
        yield partial(getattr, value, "__code__"), value.__code__, (None, value.__name__)
        names = set(names_in(value.__code__))
        if "random" in names:
            yield from ((partial(same, each), each, ANY) for each in GLOBAL)
        yield from _named(value.__globals__, names)
        for part in ("__defaults__", "__dict__"):
            yield from _inside(partial(_attribute, read, part), getattr(value, part), ANY)
        if value.__kwdefaults__:
            yield partial(_attribute, read, "__kwdefaults__"), value.__kwdefaults__, ANY


def _of_class(read: Callable[[], Any], value: Any, kinds: set[type]) -> Iterator[Reached]:
    """What the user's classes say of a value, or a class itself: functions (of classes that are not in `kinds`, which
    is given them), numbers and the like, slots."""
    methods = set[str]()
    for kind in _users(value if isinstance(value, type) else type(value)):
        for name, inner in list(vars(kind).items()):
            function = _function(inner)
            if isinstance(function, FunctionType):
                methods.add(name)
                if kind not in kinds and name.startswith("__") and name not in (*MAKING, *CALLED):
                    yield partial(same, function), function, ANY
                elif kind not in kinds:
                    yield partial(_defined, kind, name), function, (name, None) if name in CALLED else (name,)
            elif not isinstance(inner, MemberDescriptorType):
                yield partial(_attribute, read, name), inner, (name,)
            elif hasattr(value, name):
                yield partial(_attribute, read, name), getattr(value, name), (name,)
        kinds.add(kind)
    if methods and not isinstance(value, type) and hasattr(value, "__dict__"):  # no attribute stands before a method
        yield partial(methods.isdisjoint, value.__dict__), methods.isdisjoint(value.__dict__), tuple(methods)


CALLED = {"__call__"}
"""Methods that are called where no code says their names; `minijac.torch` adds one."""
MAKING = ("__init__", "__new__", "__post_init__")
"""Methods that no operator calls."""


def _named(namespace: dict[str, Any], names: set[str]) -> Iterator[Reached]:
    """What a namespace has under some names, but for modules that are not the user's."""
    for name in names & namespace.keys():
        inner = namespace[name]
        if not isinstance(inner, ModuleType) or not _library(inner):
            yield partial(getitem, namespace, name), inner, (name,)


def _of_module(module: ModuleType) -> Iterator[Reached]:
    return iter(()) if _library(module) else _named(vars(module), set(vars(module)))


@lru_cache(1024)
def _users(kind: type) -> tuple[type, ...]:
    """A class and its bases, but for those that libraries define."""
    return tuple(
        base for base in kind.__mro__ if base.__module__ == "__main__" or not _library(sys.modules.get(base.__module__))
    )


def _library(module: ModuleType | None) -> bool:
    """Whether a module is not the user's. Of those without a file only Python's own are not: there are plugins."""
    file = getattr(module, "__file__", None) or getattr(getattr(module, "__spec__", None), "origin", None) or ""
    return file in ("built-in", "frozen") or of_library(file)


def names_in(code: CodeType, strings: bool = False) -> Iterator[str]:
    """The names that a function, and the functions written in it, may look up; with `strings`, keys too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant, strings)
        elif strings and isinstance(constant, str | int):
            yield str(constant)


def _told(names: Names) -> str:
    return next((name for name in names if name), "a value without a name")


def same(value: Any) -> Any:
    return value


def _still(read: Callable[[], Any], kept: list[Any]) -> Any:
    """The list, while what is in it stands where it did."""
    return kept if read() is kept[0] else None


def _one_call(a: Any, b: Any) -> bool:
    """Whether two calls read one name: a global's or a closure's, in several functions."""
    return (
        type(a) is type(b) is partial
        and len(a.args) == len(b.args)
        and a.func is b.func
        and all(map(is_, a.args, b.args))
    )


class Content:
    """What is looked at of a collection: while it is the same, one list.

    A dict into which the function writes plain values is its journal: of that only what the code names counts.
    """

    def __init__(self, read: Callable[[], Any], look: Callable[[Any], list[Any]], found: Any) -> None:
        self.read, self.look, self.last = read, look, look(found)
        of_set = isinstance(found, set | frozenset)
        self.of_extent = look is extent and not of_set
        """Whether it is looked at for its type and length alone."""
        self.key: Callable[[Any], Any] = _exact if look is _plain_in else _unordered if of_set else same

    def __call__(self) -> Any:
        now, last = self.look(self.read()), self.last
        if len(now) == len(last) and all(map(is_, now, last)):  # as in nearly every call
            return last
        return last if self.key(now) == self.key(last) else now


def extent(found: Any) -> list[Any]:
    """The type of a collection and its length; of a set what is in it, or, of a large one, which it is."""
    if not isinstance(found, set | frozenset):
        return [type(found), len(found) if isinstance(found, COLLECTIONS) else None]
    if len(found) <= MOST_ITEMS:
        return [type(found), *found]
    # of a bound method: equal where it is the same set's, and keeps hold of it
    return [type(found), len(found), found.copy]


def _plain_in(found: dict[Any, Any]) -> list[Any]:
    """The first plain values in a dict, whatever their keys, which may be computed."""
    return [inner for inner in islice(found.values(), MOST_ITEMS) if _plain_kind(_kind(inner))] if found else []


_kind: Callable[[Any], Any] = type


@lru_cache(1024)
def _plain_kind(kind: type) -> bool:
    return kind is not np.ndarray and issubclass(kind, PLAIN)


def _exact(x: Any) -> Any:
    """What is equal for equal values of one type only, where 0.0 is not -0.0, and NaN is NaN."""
    if isinstance(x, tuple | list):
        return type(x), *map(_exact, x)
    return (type(x), repr(x), x if x == x else None) if isinstance(x, Number) else (type(x), x)


def _unordered(items: list[Any]) -> Any:
    return frozenset(map(_exact, items))


MOST_SPELLED = 256
"""Names above which each is read by a call: a long text takes a while to compile."""


def watcher(watched: Sequence[Held], most: int = MOST_SPELLED) -> Callable[[], bool]:
    """One function that tells whether all that is watched is the very same as before; it may raise any of `GONE`.

    It is asked in each call of a compiled function, so it is written as one expression.
    """
    if len(watched) > most:
        return lambda: all(read() is value for read, value, _ in watched)
    names: dict[str, Any] = {}

    def name(x: Any) -> str:
        names[f"x{len(names)}"] = x
        return f"x{len(names) - 1}"

    checks = []
    for read, value, _ in watched:
        if isinstance(read, Content) and read.of_extent:
            kind, length = read.last
            at = _spelled(read.read, name)
            checks.append(f"type({at}) is {name(kind)} and len({at}) == {length}")
        else:
            checks.append(f"{_spelled(read, name)} is {name(value)}")
    fresh: Callable[[], bool] = eval(f"lambda: {' and '.join(checks) or True}", names)
    return fresh


def _spelled(read: Callable[[], Any], name: Callable[[Any], str]) -> str:
    """The expression that reads what a call reads."""
    func, args = (read.func, read.args) if isinstance(read, partial) else (None, ())
    if func in (getattr, _attribute) and args[1].isascii() and args[1].isidentifier() and not iskeyword(args[1]):
        return f"{name(args[0]) if func is getattr else _spelled(args[0], name)}.{args[1]}"
    if func in (getitem, _item):
        return f"{name(args[0]) if func is getitem else _spelled(args[0], name)}[{name(args[1])}]"
    if func is type_of:
        return f"type({_spelled(args[0], name)})"
    return name(args[0]) if func is same else f"{name(read)}()"


def unchanged(each: Held) -> bool:
    """Whether a name stands for what it did."""
    try:
        now, value = each.read(), each.value
    except GONE:  # it is not there any more
        return False
    if isinstance(value, tuple):  # its items are watched one by one
        return type(now) is type(value) and tuple.__len__(now) == tuple.__len__(value)
    if now is value or is_array(value) or isinstance(value, COLLECTIONS):
        return now is value
    if isinstance(value, PLAIN):
        return bool(_exact(now) == _exact(value))
    with suppress(Exception):  # an equality of the user's
        return type(now) is type(value) and bool(now == value)
    return False


def _function_like(value: Any) -> bool:
    """Whether another object of its type does something else, whatever both hold."""
    return hasattr(value, "__name__") or not hasattr(value, "__dict__")


def type_of(read: Callable[[], Any]) -> type:
    return type(read())


def _item(read: Callable[[], Any], key: Any) -> Any:
    return read()[key]


def _attribute(read: Callable[[], Any], name: str) -> Any:
    return getattr(read(), name)


def _defined(kind: type, name: str) -> Any:
    return _function(vars(kind)[name])


def _function(x: Any) -> Any:
    """The function of a property, a class method or a static one; anything else as it is."""
    return x if type(x) is FunctionType else getattr(x, "fget", None) or getattr(x, "__func__", x)


def drawn_from(found: list[Held]) -> Callable[..., bool]:
    """A question for later: whether random numbers were drawn since, from what was found or from global generators.
    With ``undo=True``, they are as if none were.

    Where other threads run, who draw when they will, from global ones only where the code that was found says `random`.
    """
    generators = list({id(each.value): each.value for each in found if isinstance(each.value, GENERATORS)}.values())
    generators += GLOBAL if threading.active_count() == 1 else ()
    before = [pickle.dumps(_state(generator)) for generator in generators]

    def drawn(undo: bool = False) -> bool:
        other = [(g, state) for g, state in zip(generators, before, strict=True) if pickle.dumps(_state(g)) != state]
        for generator, state in other if undo else ():
            _set_state(generator, pickle.loads(state))
        return bool(other)

    return drawn


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        (generator.setstate if isinstance(generator, random.Random) else generator.set_state)(state)


_LISTENING: dict[object, tuple[int, list[int]]] = {}
_LOCK = threading.Lock()


@contextmanager
def unseeded() -> Iterator[list[int]]:
    """What this thread asks the system for meanwhile, to seed generators of NumPy's that are given none."""
    key, taken = object(), list[int]()
    with _LOCK:
        _LISTENING[key] = threading.get_ident(), taken
        bit_generator.randbits = _noted  # type: ignore[attr-defined]
    try:
        yield taken
    finally:
        with _LOCK:
            del _LISTENING[key]
            if not _LISTENING:
                bit_generator.randbits = secrets.randbits  # type: ignore[attr-defined]


def _noted(bits: int) -> int:
    for thread, taken in list(_LISTENING.values()):
        if thread == threading.get_ident():
            taken.append(bits)
    return secrets.randbits(bits)
