"""Values that a compiled function captures: each kind is seen when it is another, and only then."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import minijac as mj

X = np.arange(6.0).reshape(2, 3) / 7


def _set_in(collection: set[Any], *items: Any) -> None:
    collection.clear()
    collection.update(items)


@pytest.mark.parametrize(
    ("first", "second", "read"),
    [
        ((1.0, 2.0), (1.0, 2.0, 3.0), sum),
        ((np.ones(3), np.ones(3)), (np.ones(3), np.ones(3), np.full(3, 5.0)), sum),
        ((), (1.0,), sum),
        (range(2), range(5), sum),
        (b"ab", b"abc", sum),
        (np.dtype("f4"), np.dtype("f8"), lambda kind: np.asarray(1.1, kind)),
        (Fraction(1, 2), Fraction(3, 2), float),
        (Decimal("0.5"), Decimal("1.5"), float),
        ({-1}, {-2}, sum),
        (frozenset({-1.0}), frozenset({-2.0}), sum),
        ({0.0}, {-0.0}, lambda of: np.copysign(1.0, *of)),
        ({(1, 0.0)}, {(1, -0.0)}, lambda of: np.copysign(1.0, next(iter(of))[1])),
        ({1}, [5], sum),
        ({1}, {True}, lambda of: 2.0 if True in map(type, of) or bool in map(type, of) else 1.0),
        (set(range(5, 40)), set(range(9, 44)), sum),
        ({"a": 0.0}, {"a": -0.0}, lambda of: np.copysign(1.0, *of.values())),
        (0.0, -0.0, lambda z: np.copysign(1.0, z)),
        (np.float32(0.0), np.float32(-0.0), lambda z: np.copysign(1.0, z)),
        (complex(0.0, 0.0), complex(0.0, -0.0), lambda z: np.copysign(1.0, z.imag)),
    ],
)
@pytest.mark.parametrize("where", ["attribute", "key", "computed key"])
def test_a_captured_value_of_any_kind_is_seen_when_it_is_another(
    first: Any, second: Any, read: Any, where: str
) -> None:
    holder, table, key = SimpleNamespace(value=first), {"a": first}, "A".lower()
    of = {"attribute": lambda: holder.value, "key": lambda: table["a"], "computed key": lambda: table[key]}[where]
    f = lambda x: x * read(of())
    compiled = mj.compile(f)
    for value in (first, second, first):
        holder.value = table["a"] = value
        for _ in range(2):
            assert_array_equal(np.signbit(compiled(X)), np.signbit(f(X)))
            assert_array_equal(compiled(X), f(X))


def test_what_is_in_a_set_is_seen_when_it_is_written_in_place() -> None:
    active = {-1}
    compiled = mj.compile(lambda x: x * sum(active))
    for items in ((-1,), (-2,), (-2, -3), (-2.0, -3), tuple(range(20))):
        _set_in(active, *items)
        assert_array_equal(compiled(X), X * sum(items))


def test_values_that_are_equal_are_the_same_though_they_are_other_objects() -> None:
    held = SimpleNamespace(
        nan=float("nan"), pair=(1.0, float("nan")), few={1.5, "a"}, many=list(range(1000)), kind=range(3)
    )
    compiled = mj.compile(lambda x: x * held.nan * held.pair[1] * len(held.few) * len(held.many) * len(held.kind))
    for _ in range(3):
        compiled(X)
        held.nan, held.pair, held.few = float("nan"), (float("1"), float("nan")), {"a", float("1.5")}
        held.many, held.kind = list(range(1000)), range(3)
    assert compiled.cache_info().misses == 1


@pytest.mark.parametrize(
    ("first", "second", "read"),
    [
        ((1.0, 2.0), (3.0, 4.0), sum),
        ([1.0, 2.0], [3.0, 4.0], sum),
        ({"k": 1.0}, {"k": 3.0}, lambda of: of["k"]),
        ({"k": [1.0]}, {"k": [3.0]}, lambda of: of["k"][0]),
        (SimpleNamespace(k=1.0), SimpleNamespace(k=3.0), lambda of: of.k),
        (SimpleNamespace(k=np.ones(3)), SimpleNamespace(k=np.full(3, 3.0)), lambda of: of.k),
        ((np.ones(3),), (np.full(3, 5.0),), lambda of: of[0]),
    ],
)
@pytest.mark.parametrize("which", ["one", "two"])
def test_one_object_under_two_names_may_come_apart(first: Any, second: Any, read: Any, which: str) -> None:
    names = SimpleNamespace(one=first, two=first)
    f = lambda x: x * read(names.one) - read(names.two)
    compiled = mj.compile(f)
    for value in (first, second, first):
        setattr(names, which, value)
        for _ in range(2):
            assert_array_equal(compiled(X), f(X))
    assert compiled.cache_info().misses <= 3


SHARED = {"gain": 2.0, "bias": np.ones(3)}


def test_a_name_that_several_functions_use_is_looked_at_once() -> None:
    def scaled(x: Any) -> Any:
        return x * SHARED["gain"]

    def shifted(x: Any) -> Any:
        return x + SHARED["bias"]

    def watched(fn: Any) -> int:
        compiled = mj.compile(fn)
        assert_array_equal(compiled(X), fn(X))
        return len(next(iter(compiled._entries.values())).watched)

    both = watched(lambda x: scaled(shifted(x)))
    assert both == watched(lambda x: shifted(x)) + 3  # the other function, its code, and the number that it names


def test_a_tuple_of_a_class_that_has_no_length_is_looked_at():
    class Pair(tuple):
        def __len__(self):
            raise NotImplementedError

    holder = SimpleNamespace(pair=Pair((2.0, 3.0)))
    f = mj.compile(lambda x: x * holder.pair[0] + holder.pair[1])
    x = np.ones(3)
    assert_array_equal(f(x), x * 5.0)
    holder.pair = Pair((4.0, 5.0))
    assert_array_equal(f(x), x * 9.0)


PLUGIN = """
FACTOR = 2.0
class Model:
    power = 1
    def __call__(self, x): return x**self.power * FACTOR
model = Model()
def f(x): return model(x)
"""


def _plugin() -> Any:
    module = ModuleType("minijac_plugin")
    exec(PLUGIN, module.__dict__)
    return module


def _called(place: str, module: Any) -> tuple[Any, Any]:
    """A function that calls a module's, and what holds the module."""
    outer: Any = SimpleNamespace() if place == "attribute" else ModuleType("minijac_outer")
    outer.inner = module
    table = {"inner": module}
    calls = {
        "closure": lambda x: module.f(x),
        "attribute": lambda x: outer.inner.f(x),
        "module": lambda x: outer.inner.f(x),
        "key": lambda x: table["inner"].f(x),
    }
    return calls[place], table if place == "key" else vars(outer)


@pytest.mark.parametrize(("of", "name", "value"), [("", "FACTOR", 3.0), ("Model", "power", 2), ("", "f", np.sin)])
@pytest.mark.parametrize("place", ["closure", "attribute", "module", "key"])
def test_names_bound_anew_in_modules_without_a_file_are_seen(of: str, name: str, value: Any, place: str) -> None:
    module = _plugin()
    f, _ = _called(place, module)
    compiled = mj.compile(f)
    assert_array_equal(compiled(X), 2 * X)
    setattr(getattr(module, of) if of else module, name, value)
    for _ in range(2):
        assert_array_equal(compiled(X), f(X))
    assert compiled.cache_info().misses == 2


@pytest.mark.parametrize("place", ["attribute", "module", "key"])
def test_another_module_in_the_place_of_one_is_seen(place: str) -> None:
    other = _plugin()
    other.FACTOR = 7.0
    f, holder = _called(place, _plugin())
    compiled = mj.compile(f)
    assert_array_equal(compiled(X), 2 * X)
    holder["inner"] = other
    assert_array_equal(compiled(X), 7 * X)


def _double(x: Any) -> Any:
    return x * 2


class Doubling:
    def __call__(self, x: Any) -> Any:
        return x * self.factor

    @property
    def factor(self) -> float:
        return 2.0


@pytest.mark.parametrize(
    ("function", "other", "f"),
    [
        (_double, lambda x: x * 5, _double),
        (_double, lambda x: x * 5, lambda x: _double(x)),
        (_double, lambda x: x * 5, lambda x: {"a": _double}["a"](x)),
        (Doubling.__call__, lambda self, x: x * 5, Doubling()),
        (Doubling.factor.fget, lambda self: 5.0, lambda x, doubling=Doubling(): doubling(x)),  # type: ignore[attr-defined]  # noqa: B008
    ],
)
def test_a_function_whose_code_is_replaced_as_a_reload_does_is_seen(function: Any, other: Any, f: Any) -> None:
    compiled, code = mj.compile(f), function.__code__
    assert_array_equal(compiled(X), 2 * X)
    try:
        function.__code__ = other.__code__
        assert_array_equal(compiled(X), 5 * X)
        assert_array_equal(compiled(X), 5 * X)
    finally:
        function.__code__ = code
    assert_array_equal(compiled(X), 2 * X)
    assert compiled.cache_info().misses == 3


class Lazy:
    """Makes its weights when they are first asked for."""

    def __init__(self):
        self.scale, self.weights = np.array([1.0, 2.0]), None

    def __call__(self, x):
        if self.weights is None:
            self.weights = np.array([1.0, 1.0])
        return x * self.scale * self.weights.sum()


def test_an_array_that_the_first_call_made_is_seen_to_be_bound_anew_though_only_its_sum_was_used():
    f, x = Lazy(), np.ones((2, 2))
    compiled = mj.compile(f)
    np.testing.assert_array_equal(compiled(x), f(x))
    f.weights = np.array([9.0, 9.0])
    np.testing.assert_array_equal(compiled(x), f(x))
