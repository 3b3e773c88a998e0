"""What a compiled function holds on to by name: bound anew it is seen; random draws, methods, static sizes."""

from __future__ import annotations

import enum
import functools
import gc
import importlib
import random
import subprocess
import sys
import threading
import weakref
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal

import minijac as mj

X = np.arange(6.0).reshape(2, 3) / 7
WEIGHTS = np.ones(3)
TABLE = {"scale": [np.ones(3), np.ones(3)]}


class Model:
    def __init__(self, factor: float = 1.0) -> None:
        self.w = np.ones((3, 2)) * factor
        self.layers = [np.ones(2)]
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        return np.tanh(x @ self.w) * self.layers[0]

    @mj.compile
    def step(self, x: Any) -> Any:
        """One step."""
        return x @ self.w

    @mj.compile(static_argnames="n", maxsize=4)
    def power(self, x: Any, n: int = 1) -> Any:
        return x**n if n > 1 else x @ self.w


def test_an_attribute_bound_anew_is_seen_and_recorded_once_for_it() -> None:
    model = Model()
    compiled = mj.compile(mj.jacobian(model.__call__))
    for n in range(6):
        assert_array_equal(compiled(X), mj.jacobian(model.__call__)(X))
        model.w = model.w - 0.1 * n
    assert compiled.cache_info().misses == 2


class Schedule:
    def __init__(self) -> None:
        self.rate, self.kind, self.calls, self.inner = 1.0, "tanh", 0, Inner()
        self.options = {"scale": 3.0, "unused": 0.0}

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        self.left = 1.0
        del self.left
        y = x * self.rate * self.options["scale"] * self.inner.gain * FACTOR
        return np.tanh(y) if self.kind == "tanh" else y


class Inner:
    gain: float

    def __init__(self) -> None:
        self.gain = 1.5


FACTOR = 2.0


def test_plain_values_that_the_code_names_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Schedule()
    compiled = mj.compile(mj.jacobian(f.__call__))

    def same(misses: int) -> None:
        for _ in range(2):
            assert_array_equal(compiled(X), mj.jacobian(f.__call__)(X))
        assert compiled.cache_info().misses == misses

    same(1)
    f.rate *= 0.5
    same(2)
    f.kind = "linear"
    same(3)
    f.options["scale"] = 1.0
    f.options["unused"] = 5.0
    same(4)
    f.inner.gain = 2
    same(5)
    monkeypatch.setitem(globals(), "FACTOR", 7.0)
    same(6)
    f.rate = float("nan")
    compiled(X)
    compiled(X)
    assert compiled.cache_info().misses == 7


def test_a_number_of_a_closure_is_seen() -> None:
    scale = 1.0
    compiled = mj.compile(lambda x: x * scale)
    assert_array_equal(compiled(X), X)
    scale = 4.0
    assert_array_equal(compiled(X), 4.0 * X)


def test_what_containers_hold_is_seen() -> None:
    model = Model()
    compiled = mj.compile(model.__call__)
    compiled(X)
    model.layers[0] = np.full(2, 3.0)
    assert_array_equal(compiled(X), model(X))
    model.layers = [np.full(2, 5.0)]
    assert_array_equal(compiled(X), model(X))
    model.w, model.layers = np.ones((3, 4)), [np.ones(4)]  # of other shapes
    assert_array_equal(compiled(X), model(X))


def test_globals_and_closures_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = mj.compile(lambda x: x * WEIGHTS * TABLE["scale"][1])
    compiled(X)
    monkeypatch.setitem(globals(), "WEIGHTS", np.arange(3.0))
    assert_array_equal(compiled(X), X * np.arange(3.0))
    monkeypatch.setitem(TABLE, "scale", [np.ones(3), np.full(3, 2.0)])
    assert_array_equal(compiled(X), 2 * X * np.arange(3.0))

    w = np.ones(3)
    inner = mj.compile(lambda x: x * w)
    inner(X)
    for factor in (2.0, 3.0):
        w = np.full(3, factor)
        assert_array_equal(inner(X), X * factor)


def test_one_array_under_two_names_may_come_apart() -> None:
    model = Model()
    model.other = model.w  # type: ignore[attr-defined]
    f = lambda x: x @ model.w + x @ model.other  # type: ignore[attr-defined]
    compiled = mj.compile(f)
    compiled(X)
    model.w = np.zeros((3, 2))
    assert_array_equal(compiled(X), f(X))
    model.w = model.other = np.full((3, 2), 2.0)  # type: ignore[attr-defined]
    assert_array_equal(compiled(X), f(X))
    model.other = np.zeros((3, 2))  # type: ignore[attr-defined]
    assert_array_equal(compiled(X), f(X))


GENERATOR, PYTHONS = np.random.default_rng(0), random.Random(0)


@pytest.mark.parametrize(
    "draws",
    [
        lambda x: x + GENERATOR.normal(size=3),
        lambda x: x + np.random.normal(size=3),
        lambda x: x * random.random(),
        lambda x: x * PYTHONS.random(),
        lambda x: x + np.random.default_rng().normal(size=3),
        lambda x: x + np.random.RandomState().normal(size=3),
        lambda x: x + np.random.Generator(np.random.PCG64()).normal(size=3),
        lambda x: mj.jacobian(lambda x: x * GENERATOR.normal(size=3))(x),
    ],
)
def test_random_draws_are_refused(draws: Any) -> None:
    with pytest.raises(mj.TraceError, match=r"drew random numbers.*as arguments"):
        mj.compile(draws)(X)


def test_draws_of_other_threads_are_not_the_functions() -> None:
    stop = threading.Event()
    others = threading.Thread(target=lambda: [random.random() for _ in iter(stop.is_set, True)])
    others.start()
    try:
        assert_array_equal(mj.compile(lambda x: np.sin(x) + x)(X), np.sin(X) + X)
        with pytest.raises(mj.TraceError, match="drew random numbers"):
            mj.compile(lambda x: x * np.random.normal())(X)
    finally:
        stop.set()
        others.join()


def test_a_generator_of_its_own_seed_gives_constants() -> None:
    f = lambda x: x + np.random.default_rng(0).normal(size=3)
    assert_array_equal(mj.compile(f)(X), f(X))


def test_methods_are_compiled_for_each_instance() -> None:
    one, two = Model(), Model(2.0)
    assert_array_equal(one.step(X), X @ one.w)
    assert_array_equal(two.step(X), X @ two.w)
    one.w = 5 * one.w
    assert_array_equal(one.step(X), X @ one.w)
    assert Model.step.__doc__ == "One step."
    gone = weakref.ref(two)
    del two
    gc.collect()
    assert gone() is None


class Wider(Model):
    @mj.compile
    def step(self, x: Any) -> Any:
        return Model.step(self, x) + 1.0

    scaled = mj.compile(lambda self, x, n: x * n * self.calls, static_argnames="n")

    @property
    @mj.compile
    def total(self) -> Any:
        return self.w.sum()


@pytest.mark.parametrize("kind", [Model, Wider])
def test_a_method_may_be_called_through_its_class(kind: Any) -> None:
    one, two = Wider(), Wider(2.0)
    for model in (one, two):
        assert_array_equal(kind.step(model, X), X @ model.w + (kind is Wider))
        assert_array_equal(mj.jacobian(lambda x: kind.step(model, x))(X), np.broadcast_to(model.w.T, (2, 2, 3)))  # noqa: B023
        assert model.total == model.w.sum()
    one.calls = 2
    assert_array_equal(Wider.scaled(one, X, n=3), X * 6)
    assert_array_equal(Wider.scaled(one, X, 4), X * 8)
    one.w = 5 * one.w
    assert_array_equal(kind.step(one, X), X @ one.w + (kind is Wider))
    with pytest.raises(mj.InputError, match="SimpleNamespace"):
        kind.step(SimpleNamespace(w=one.w), X)


def test_static_arguments_choose_the_program() -> None:
    @mj.compile(static_argnames=("n", "kind"))
    def repeated(x: Any, n: int, flag: bool = True, kind: Any = ("a",)) -> Any:
        return sum(x * i for i in range(n)) if kind == ("a",) else x

    assert_array_equal(repeated(X, 4), 6 * X)
    assert_array_equal(repeated(X, n=3), 3 * X)
    assert_array_equal(repeated(X, 3, kind=("b",)), X)
    assert repeated.cache_info().misses == 3
    assert_array_equal(mj.jacobian(lambda x: repeated(x, 4))(X), mj.jacobian(lambda x: 6 * x)(X))
    model = Model()
    assert_array_equal(model.power(X, 3), X**3)
    assert_array_equal(model.power(X, n=1), X @ model.w)
    with pytest.raises(mj.InputError, match="that can be hashed, got list"):
        repeated(X, [1])
    with pytest.raises(mj.InputError, match="expected names of arguments, x, got 'n'"):
        mj.compile(lambda x: x, static_argnames="n")


def test_more_signatures_than_are_kept_warn_once() -> None:
    compiled = mj.compile(np.sin, maxsize=2)
    compiled(np.ones(1)), compiled(np.ones(2))
    with pytest.warns(RuntimeWarning, match="more than maxsize=2 signatures of sin") as caught:
        assert [len(compiled(np.ones(n))) for n in range(3, 7)] == [3, 4, 5, 6]
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_blocked_import_of_cupy_breaks_nothing() -> None:
    code = """
import sys; sys.modules["cupy"] = None
import numpy as np, minijac as mj
f = lambda x: np.tanh(x) * x
assert mj.jacobian(f)(np.ones((2, 3))).shape == mj.compile(mj.jacobian(f))(np.ones((2, 3))).shape == (2, 3, 3)
mj.hessian(f)(np.ones((2, 3))), mj.jacobian(f, structured=True)(np.ones((2, 3))).todense()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Layered:
    """A compiled method that calls others: what those name counts, and what they do not name does not."""

    gain = 1.0

    def __init__(self) -> None:
        self.rate, self.kind, self.steps, self.matrices = np.float64(1.0), Kind.LINEAR, 0, [np.eye(3)]

    @property
    def scale(self) -> float:
        return Settings.factor * self.gain

    def inner(self, x: Any) -> Any:
        for matrix in self.matrices:
            x = x @ matrix
        return activation(x * self.rate * self.scale) if self.kind is Kind.CURVED else x * self.rate * self.scale

    def fit(self) -> None:
        self.steps += 1

    @mj.compile
    def loss(self, x: Any) -> Any:
        return self.inner(x).sum(1)


class Kind(enum.Enum):
    LINEAR, CURVED = 1, 2


class Settings:
    factor = 2.0


activation: Any = np.tanh


def test_what_methods_and_classes_name_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Layered()
    changes: list[Any] = [
        lambda: setattr(model, "rate", np.float64(3.0)),
        lambda: setattr(model, "kind", Kind.CURVED),
        lambda: monkeypatch.setitem(globals(), "activation", np.sin),
        lambda: monkeypatch.setattr(Layered, "gain", 0.5),
        lambda: monkeypatch.setattr(Settings, "factor", 0.7),
        lambda: model.matrices.append(np.full((3, 3), 0.1)),
    ]
    for n, change in enumerate([lambda: None, *changes], 1):
        change()
        for _ in range(2):
            assert_array_equal(model.loss(X), model.inner(X).sum(1))
            model.fit()
        assert model.loss.cache_info().misses == n


def test_functions_bound_anew_are_seen() -> None:
    inner = lambda x: x * 2
    outer = lambda x: inner(x) + 1
    compiled = mj.compile(lambda x: outer(x))
    for replaced in (inner, lambda x: x * 3, functools.partial(np.multiply, 4.0), functools.partial(np.multiply, 5.0)):
        inner = replaced
        assert_array_equal(compiled(X), outer(X))


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "coo_array", "bsr_array", "dia_array"])
def test_entries_of_a_sparse_matrix_are_seen(kind: str) -> None:
    L = getattr(scipy.sparse, kind)(np.diag([1.0, 2.0, 3.0]))
    f = lambda x: np.sin(x @ L)
    compiled, jacobian = mj.compile(f), mj.compile(mj.jacobian(f))
    for change in ("none", "written", "bound anew", "of other entries"):
        if change == "written":
            L.data[:] *= 2
        elif change != "none":
            L = L * 3 if change == "bound anew" else getattr(scipy.sparse, kind)(np.eye(3)[::-1])
        for _ in range(2):
            assert_array_equal(compiled(X), f(X))
            assert_array_equal(jacobian(X), mj.jacobian(f)(X))


def test_a_view_that_is_an_index_may_be_bound_anew() -> None:
    at = np.array([0, 1, 2])[:2]
    compiled = mj.compile(lambda x: x[:, at])
    assert_array_equal(compiled(X), X[:, at])
    at[0] = 2
    assert_array_equal(compiled(X), X[:, at])
    at = np.array([1, 1, 2])[1:]
    assert_array_equal(compiled(X), X[:, at])


def test_static_argnames_that_are_no_names_are_refused() -> None:
    with pytest.raises(mj.InputError, match="static_argnames: expected names of arguments, x, n, got 1"):
        mj.compile(lambda x, n: x, static_argnames=1)  # type: ignore[call-overload]


class Journal:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


class Counting:
    """A function that changes what it holds: a replay does not, and what it counts is no reason to record anew."""

    total = 0

    def __init__(self) -> None:
        self.calls, self.stats, self.log, self.seen, self.last = 0, {"calls": 0}, [0.0], set[int](), None
        self.journal, self.weights, self.grid = Journal(), np.ones(3), None
        self.history: dict[str, list[Any]] = {"shapes": []}

    def fit(self) -> None:
        """What goes on between calls, in what the function writes to as well."""
        self.history.setdefault("losses", []).append(1.0)
        self.stats["best"] = self.stats.get("best", 0) + 1

    def __call__(self, x: Any) -> Any:
        global COUNTED
        self.calls += 1
        self.stats["calls"] += 1
        self.stats[f"call {self.calls}"] = self.calls
        self.log[0] = float(self.calls)
        self.log.append(1.0)
        self.seen.add(self.calls)
        self.journal.note("called")
        self.history["shapes"].append(x.shape)
        self.last = self.calls
        Counting.total += 1
        COUNTED += 1
        type(self).__call__.times = getattr(type(self).__call__, "times", 0) + 1  # type: ignore[attr-defined]
        if self.grid is None:
            self.grid = np.linspace(0.0, 1.0, 3)
        return x * self.weights + self.grid


COUNTED = 0


def test_what_the_function_counts_itself_is_no_reason_to_record_anew() -> None:
    f, calls = Counting(), 0

    def counted(x: Any) -> Any:
        nonlocal calls
        calls += 1
        return f(x)

    for fn in (f, f.__call__, counted, mj.jacobian(f)):
        compiled = mj.compile(fn)
        for n in (2, 2, 5, 2, 5, 5):
            f.fit()
            compiled(np.ones((n, 3)))
        f(X)
        f.fit()
        compiled(np.ones((5, 3)))
        assert compiled.cache_info().misses == 2
    assert calls == 2


def test_an_array_that_the_function_makes_once_is_watched_where_it_stands() -> None:
    f = Counting()
    compiled = mj.compile(f)
    assert_array_equal(compiled(X), X + [0.0, 0.5, 1.0])
    f.grid = np.zeros(3)
    for _ in range(3):
        assert_array_equal(compiled(X), X)
    f.weights = np.full(3, 2.0)
    for _ in range(3):
        assert_array_equal(compiled(X), 2 * X)
    assert compiled.cache_info().misses == 3


class Keyed:
    def __init__(self) -> None:
        self.rates: dict[Any, float] = {1: 2.0, 2: 3.0, "unused": 1.0}
        self.nested = {"inner": {"a b": 2.0}}
        self.recent = deque([np.ones(3), np.ones(3)])
        self.active, self.fixed = {"a"}, frozenset("a")
        self.step = 0
        self.history: list[str] = []

    def inner(self, x: Any) -> Any:
        return np.tanh(x)

    def scaled(self, x: Any, by: float = 2.0, *, plus: float = 1.0) -> Any:
        return x * by + plus

    def __call__(self, x: Any) -> Any:
        scale = self.rates[self.step + 1] * sum(self.rates.values()) * self.nested["inner"]["a" + " b"]
        scale *= 2.0 if "b" in self.active else 1.0
        scale *= 3.0 if "b" in self.fixed else 1.0
        return self.scaled(self.inner(x) * self.recent[-1] * scale) * scaled.factor  # type: ignore[attr-defined]


def scaled(x: Any, by: float = 3.0, *, plus: float = 1.0) -> Any:
    return x * by + plus + scaled.factor  # type: ignore[attr-defined]


scaled.factor = 1.5  # type: ignore[attr-defined]


def test_values_behind_computed_keys_defaults_and_attributes_of_functions_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f = Keyed()
    compiled = mj.compile(lambda x: scaled(f(x)))
    changes: list[Any] = [
        lambda: f.rates.update({1: 5.0}),
        lambda: setattr(f, "step", 1),
        lambda: f.nested["inner"].update({"a b": 0.5}),
        lambda: monkeypatch.setattr(scaled, "factor", 0.1),
        lambda: monkeypatch.setattr(scaled, "__defaults__", (0.2,)),
        lambda: monkeypatch.setattr(scaled, "__kwdefaults__", {"plus": 0.3}),
        lambda: monkeypatch.setattr(Keyed.scaled, "__defaults__", (0.4,)),
        lambda: f.recent.append(np.full(3, 2.0)),
        lambda: (f.active.clear(), f.active.add("b")),
        lambda: setattr(f, "fixed", frozenset("b")),
        lambda: setattr(f, "inner", np.sin),
        lambda: delattr(f, "inner"),
        lambda: monkeypatch.setattr(Keyed, "inner", lambda self, x: x),
        lambda: monkeypatch.setattr(Keyed, "__call__", lambda self, x: 2 * x),
    ]
    for n, change in enumerate([lambda: None, *changes], 1):
        change()
        for _ in range(3):
            assert_array_equal(compiled(X), scaled(f(X)))
            f.history.append("not the function's")
        assert compiled.cache_info().misses == n


def test_an_array_from_which_something_was_computed_beforehand_is_seen_when_it_is_bound_anew() -> None:
    model = Model()
    f = lambda x: x @ (model.w / np.linalg.norm(model.w))
    compiled = mj.compile(f)
    for n in range(3):
        assert_array_equal(compiled(X), f(X))
        model.w = model.w + np.arange(6.0).reshape(3, 2)
        assert compiled.cache_info().misses == n + 1


def test_values_that_are_others_again_and_again_are_warned_of_once() -> None:
    model = Schedule()
    compiled = mj.compile(model.__call__)

    def trained() -> None:
        for n in range(40):
            compiled(X)
            model.rate = float(n)

    with pytest.warns(RuntimeWarning, match=r"recorded anew 16 times.*now 'rate', which was.*as an argument") as caught:
        trained()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_an_import_of_cupy_does_not_slow_down_work_on_numpys_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    f = lambda x: np.tanh(x @ np.ones((3, 4))) @ np.ones((4, 2)) + x[:, :2]
    transformed = [mj.jacobian(f), mj.hessian(f), mj.grad(lambda x: f(x).sum()), mj.compile(mj.jacobian(f))]

    def calls() -> list[int]:
        counts = []
        for function in transformed:
            for _ in range(4):
                function(X)
            events: Counter[str] = Counter()
            sys.setprofile(lambda frame, event, arg, events=events: events.update([event]))  # type: ignore[misc]
            function(X)
            sys.setprofile(None)
            counts.append(events["call"])
        return counts

    monkeypatch.setitem(sys.modules, "cupy", None)
    without = calls()
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=type("ndarray", (), {})))
    carried_out = 9  # operations of f, and those of its derivatives, each of which looks once more whose arrays it has
    assert all(found <= 2 * carried_out + before for found, before in zip(calls(), without, strict=True)), without


def test_values_in_modules_of_modules_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "of_the_user"
    package.mkdir()
    (package / "__init__.py").write_text("from . import config")
    (package / "config.py").write_text("scale = 2.0")
    (package / "model.py").write_text("import of_the_user\ndef f(x): return x * of_the_user.config.scale")
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("of_the_user.model")
    compiled = mj.compile(model.f)
    assert_array_equal(compiled(X), 2 * X)
    monkeypatch.setattr(sys.modules["of_the_user.config"], "scale", 5.0)
    assert_array_equal(compiled(X), 5 * X)


@pytest.mark.parametrize("wrapped", [lambda p: p, lambda p: lambda x: p(x)])
def test_keywords_written_into_a_partial_are_seen(wrapped):
    x, array, other = np.ones((2, 3)), np.full(3, 2.0), np.full(3, 5.0)
    scaled = functools.partial(lambda x, factor, weights, more: x * factor * weights * more["deep"], factor=2.0,
                               weights=array, more={"deep": 1.0})  # fmt: skip
    fn = mj.compile(wrapped(scaled))
    np.testing.assert_array_equal(fn(x), np.full((2, 3), 4.0))
    scaled.keywords["factor"] = 3.0
    np.testing.assert_array_equal(fn(x), np.full((2, 3), 6.0))
    scaled.keywords["weights"] = other
    np.testing.assert_array_equal(fn(x), np.full((2, 3), 15.0))
    scaled.keywords["more"]["deep"] = 2.0
    np.testing.assert_array_equal(fn(x), np.full((2, 3), 30.0))
    misses = fn.cache_info().misses
    fn(x)
    assert fn.cache_info().misses == misses
