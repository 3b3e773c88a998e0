"""Callables and objects that a compiled function names: another one in their place is seen, an equal one is none."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import minijac as mj

X = np.array([[-1.0, 2.0]])


class Relu:
    def __call__(self, x: Any) -> Any:
        return np.maximum(x, 0)


class Tanh:
    def __call__(self, x: Any) -> Any:
        return np.tanh(x)


class Net:
    def relu(self, x: Any) -> Any:
        return np.maximum(x, 0)

    def tanh(self, x: Any) -> Any:
        return np.tanh(x)

    @classmethod
    def up(cls, x: Any) -> Any:
        return x + 1

    @classmethod
    def down(cls, x: Any) -> Any:
        return x - 1


NET = Net()
PAIRS: dict[str, tuple[Any, Any]] = {
    "instances": (Relu(), Tanh()),
    "methods": (NET.relu, NET.tanh),
    "class methods": (Net.up, Net.down),
    "functions of NumPy": (np.cumsum, np.cumprod),
    "methods of ufuncs": (np.add.reduce, np.multiply.reduce),
    "functions in C": (operator.neg, operator.pos),
    "getters": (operator.itemgetter(0), operator.itemgetter(slice(None))),
    "compiled functions": (mj.compile(np.sin), mj.compile(np.cos)),
}


def attribute(g: Any) -> tuple[Any, Callable[[Any], None]]:
    net = SimpleNamespace(act=g)
    return lambda x: net.act(x), lambda new: setattr(net, "act", new)


def in_a_list(g: Any) -> tuple[Any, Callable[[Any], None]]:
    layers = [g]
    return lambda x: layers[0](x), lambda new: layers.__setitem__(0, new)


def key(g: Any) -> tuple[Any, Callable[[Any], None]]:
    table = {"act": g}
    return lambda x: table["act"](x), lambda new: table.__setitem__("act", new)


def closure(g: Any) -> tuple[Any, Callable[[Any], None]]:
    def bind(new: Any) -> None:
        nonlocal g
        g = new

    return lambda x: g(x), bind


@pytest.mark.parametrize("place", [attribute, in_a_list, key, closure])
@pytest.mark.parametrize("pair", PAIRS)
def test_another_callable_in_its_place_is_seen(pair: str, place: Any) -> None:
    first, second = PAIRS[pair]
    f, bind = place(first)
    compiled = mj.compile(f)
    for g in (first, first, second, second):
        bind(g)
        assert_array_equal(compiled(X), g(X))
    assert compiled.cache_info().misses == 2


def test_an_equal_one_is_none() -> None:
    held = SimpleNamespace(method=NET.relu, layer=Relu(), reduce=np.add.reduce)
    compiled = mj.compile(lambda x: held.method(x) + held.layer(x) + held.reduce(x))
    for _ in range(4):
        assert_array_equal(compiled(X), 2 * np.maximum(X, 0) + X.sum(0))
        held.method, held.layer, held.reduce = NET.relu, Relu(), np.add.reduce
    assert compiled.cache_info().misses == 1


def test_an_object_of_another_class_or_value_is_seen() -> None:
    class Twice:
        def __mul__(self, other: Any) -> Any:
            return other * 2

    class Thrice:
        def __mul__(self, other: Any) -> Any:
            return other * 3

    held = SimpleNamespace(factor=Twice(), time=timedelta(seconds=2))
    compiled = mj.compile(lambda x: held.factor * (x * held.time.total_seconds()))
    assert_array_equal(compiled(X), 4 * X)
    held.factor = Thrice()
    assert_array_equal(compiled(X), 6 * X)
    held.time = timedelta(seconds=3)
    assert_array_equal(compiled(X), 9 * X)


def test_an_attribute_that_was_not_there_is_seen() -> None:
    net = Net()
    compiled = mj.compile(lambda x: x * getattr(net, "factor", 2.0))
    assert_array_equal(compiled(X), X * 2)
    net.factor = 3.0  # type: ignore[attr-defined]
    assert_array_equal(compiled(X), X * 3)


def test_a_captured_array_that_is_gone_is_recorded_without() -> None:
    net = SimpleNamespace(b=np.ones(2))
    compiled = mj.compile(lambda x: x + net.b if hasattr(net, "b") else x * 5)
    assert_array_equal(compiled(X), X + 1)
    del net.b
    assert_array_equal(compiled(X), X * 5)
