"""What a function of tensors captures: the modules and tensors that it can be seen to use, and how they stand."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import getitem
from typing import Any

import torch

from ..errors import TraceError
from ..program.held import CALLED, ELSEWHERE, Content, Held, extent, names_in, same, type_of, watcher

__all__ = ["buffers_kept", "modules_of", "settings_of", "stands", "state_of", "watched"]

Tensor = torch.Tensor
Reached = tuple[Callable[[], Any], Any]
"""The call that reads a value, and the value."""
MOST_ITEMS = 1000
"""Entries of a collection up to which it is searched."""


# -- what it is --------------------------------------------------------------------------------------------------------
def modules_of(f: Any) -> list[Any]:
    """The modules, and tensors, that a function can be seen to use: itself, what it closes over, globals it names."""
    return list({id(x): x for x in _places(f)}.values())


def _places(f: Any) -> Iterator[Any]:
    """The modules and tensors, each as often as it has a name."""
    return (x for _, x in _reached(f) if isinstance(x, torch.nn.Module | Tensor))


def _reached(f: Any) -> Iterator[Reached]:
    """All that a function can be seen to use, under each of its names."""
    seen: set[int] = set()
    waiting: list[Reached] = [_fixed(f)]
    while waiting:
        read, x = waiting.pop()
        yield read, x
        if id(x) not in seen:
            seen.add(id(x))
            waiting += _inside(x)


def _fixed(x: Any) -> Reached:
    return partial(same, x), x


def _items(namespace: Any, names: Iterable[Any]) -> Iterator[Reached]:
    return ((partial(getitem, namespace, name), namespace[name]) for name in names if name in namespace)


def _inside(x: Any) -> Iterator[Reached]:
    """What a value holds; of a module its layers, and attributes of the user's."""
    if isinstance(x, Tensor):
        return
    if isinstance(x, torch.nn.Module):
        yield from _items(x._modules, x._modules.keys())
        yield from _items(vars(x), [name for name in vars(x) if name not in (*_OWN, "_modules")])
        for name in _HOOKS:
            yield from _items(hooks := getattr(x, name), list(hooks))
    elif isinstance(x, functools.partial):
        yield from map(_fixed, (x.func, *x.args))
        yield from _items(x.keywords, x.keywords)
    elif isinstance(x, types.MethodType):
        yield from map(_fixed, (x.__self__, x.__func__))
    elif isinstance(x, types.FunctionType):
        for cell in x.__closure__ or ():
            if _filled(cell):
                yield partial(getattr, cell, "cell_contents"), cell.cell_contents
            else:
                yield partial(_filled, cell), False
        yield partial(getattr, x, "__defaults__"), x.__defaults__
        yield partial(getattr, x, "__kwdefaults__"), x.__kwdefaults__
        yield from _items(vars(x), ["__wrapped__"])
        yield from _items(x.__globals__, dict.fromkeys(names_in(x.__code__)) if _is_own(x) else ())
    elif isinstance(x, tuple) and tuple.__len__(x) < MOST_ITEMS:  # whatever a class says of its length, and of items
        yield from map(_fixed, tuple.__iter__(x))
    elif isinstance(x, list | deque) and len(x) < MOST_ITEMS:
        yield from ((partial(getitem, x, k), item) for k, item in enumerate(x))
    elif isinstance(x, dict) and dict.__len__(x) < MOST_ITEMS:
        yield from _items(x, list(dict.__iter__(x)))
    elif _is_users(x):
        for kind in type(x).__mro__:
            yield from _of_class(kind)
            yield from ((partial(getattr, x, name), getattr(x, name)) for name in _slots(kind) if hasattr(x, name))
        yield from _items(vars(x), list(vars(x))) if hasattr(x, "__dict__") else ()
    elif isinstance(x, type):
        for kind in x.__mro__:
            yield from _of_class(kind)


def _of_class(kind: type) -> Iterator[Reached]:
    """The tensors and modules that a class holds."""
    found = [name for name, inner in vars(kind).items() if isinstance(inner, torch.nn.Module | Tensor)]
    return ((partial(getattr, kind, name), getattr(kind, name)) for name in found)


def _slots(kind: type) -> list[str]:
    return [name for name, inner in vars(kind).items() if isinstance(inner, types.MemberDescriptorType)]


def _is_own(function: Any) -> bool:
    return (function.__module__ or "").split(".")[0] not in ("torch", "minijac")


def _is_users(x: Any) -> bool:
    """Whether it is an object of a class of the user's, whose attributes a method may use."""
    library = type(x).__module__.split(".")[0] in ("torch", "numpy", "builtins", "minijac")
    return not library and not isinstance(x, type | types.ModuleType)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it is there or not
        return True
    except ValueError:
        return False


# -- how it stands -----------------------------------------------------------------------------------------------------
def state_of(f: Any) -> Iterator[Any]:
    """What a recording depends on: which modules and tensors stand where, kinds and modes of modules, their hooks and
    those of all modules, which tensors they hold, the numbers of those of integers."""
    yield from map(id, _places(f))
    yield _named(_OF_ALL)
    for x in modules_of(f):
        if isinstance(x, Tensor):
            yield _identity(x)
            continue
        yield type(x)
        yield x.training
        yield _named({name: getattr(x, name) for name in _HOOKS})
        for t in (*x._parameters.values(), *x._buffers.values()):
            yield _identity(t)


def _named(hooks: dict[str, Any]) -> Any:
    found = [(name, hook) for name, own in hooks.items() for hook in own.values()]
    return tuple([(name, hook if isinstance(hook, types.FunctionType) else id(hook)) for name, hook in found])


def _identity(t: Any) -> Any:
    if t is None:
        return None
    followed = t.is_floating_point() or t.is_complex()
    return (
        (id(t), t.requires_grad, t.layout is torch.strided and t.is_contiguous()) if followed else (id(t), t._version)
    )


_OWN = frozenset(vars(torch.nn.Module())) - {"_modules"}
_OF_ALL = {
    name: hooks for name, hooks in vars(torch.nn.modules.module).items() if name in (
        "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks"
    )
}  # fmt: skip
_HOOKS = sorted(name for name in _OWN if name.endswith("_hooks") and "state_dict" not in name)


def _told(module: Any) -> list[str]:
    """The attributes of a module of which `state_of` tells all there is, so that programs need not look at them too."""
    return [name for name in _OWN if name in ("_parameters", "_buffers", "training") or not getattr(module, name, None)]


ELSEWHERE.append((torch.nn.Module, _told))
CALLED.add("forward")


@contextmanager
def buffers_kept(f: Any) -> Iterator[None]:
    """The buffers of modules are the same tensors after a run that is recorded: a replay would bind no others."""
    modules = [x for x in modules_of(f) if isinstance(x, torch.nn.Module)]
    before = [(x, name, t) for x in modules for name, t in x._buffers.items() if t is not None]
    yield
    for x, name, t in before:
        now, x._buffers[name] = x._buffers.get(name), t
        if now is not t:
            raise TraceError(
                f"{type(x).__name__}.{name}: got a buffer that is bound to another tensor in each call of a function "
                "under minijac.torch.compile, which a replay would not bind. Leave the function uncompiled, or return "
                "what it is to be."
            )


def settings_of(captured: Sequence[Any]) -> list[tuple[dict[str, Any], str, Any]]:
    """Numbers, strings and functions that are attributes of modules, each with where it stands."""
    modules = [vars(x) for x in captured if isinstance(x, torch.nn.Module)]
    places = [(attributes, name, value) for attributes in modules for name, value in attributes.items()]
    return [place for place in places if isinstance(place[2], SETTINGS)]


def stands(place: tuple[dict[str, Any], str, Any]) -> bool:
    attributes, name, value = place
    now = attributes.get(name)
    return now is value or (type(now) is type(value) and bool(now == value))


SETTINGS = (int, float, str, types.FunctionType, types.BuiltinFunctionType)


# -- whether it stands as it did, in a call's time ---------------------------------------------------------------------
def watched(f: Any) -> Callable[[], bool]:
    """One function that tells whether all of `modules_of` and `state_of`, but for what tensors tell themselves, is the
    very same as it is now; where it may not be it says no, or raises any of `GONE`."""
    reached = list(_reached(f))
    kinds = [_kind_of(read, x) for read, x in reached if getattr(read, "func", None) is not same]
    contents = [each for x in {id(x): x for _, x in reached}.values() for each in _contents(x)]
    for hooks in _OF_ALL.values():
        contents += [_extent_of(hooks), *[Held(*each) for each in _items(hooks, list(hooks))]]
    return watcher([*kinds, *contents], MOST_SPELLED)


def _kind_of(read: Callable[[], Any], x: Any) -> Held:
    """That the same stands there; of plain values, which may change in every call, their type."""
    return Held(read, x) if isinstance(x, FOLLOWED) or _is_users(x) else Held(partial(type_of, read), type(x))


def _contents(x: Any) -> Iterator[Held]:
    """How much there is to look at in a value; of a module, all there is."""
    if isinstance(x, list | dict | deque):
        yield _extent_of(x)
    elif isinstance(x, types.FunctionType):
        yield from [_extent_of(x.__globals__)] if _is_own(x) else ()
    elif isinstance(x, torch.nn.Module):
        yield from _of_module(x)
    elif _is_users(x) and hasattr(x, "__dict__"):
        yield _extent_of(vars(x))


MOST_SPELLED = 4096
"""What is looked at by one expression, which takes some milliseconds to compile for each hundred."""
FOLLOWED = (bool, type(None), torch.nn.Module, Tensor, functools.partial, types.MethodType, types.FunctionType, list,
            tuple, dict)  # fmt: skip


def _extent_of(collection: Any) -> Held:
    content = Content(partial(same, collection), extent, collection)
    return Held(content, content.last)


def _of_module(module: Any) -> Iterator[Held]:
    if isinstance(module, torch.jit.ScriptModule):  # keeps what it holds elsewhere
        yield Held(object, None)
        return
    yield Held(partial(type_of, partial(same, module)), type(module))
    yield _extent_of(vars(module))
    yield from (Held(*each) for each in _items(vars(module), ["training"]))
    for read, inner in _items(vars(module), ("_modules", "_parameters", "_buffers", *_HOOKS)):
        yield Held(read, inner)
        yield _extent_of(inner)
        yield from (Held(*each) for each in _items(inner, list(inner)))
