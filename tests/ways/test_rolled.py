"""Equal steps that a plain loop leaves on a tape are taken as a scan's: values and derivatives stay the loop's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loop_programs import STEPS, WAYS, XS, W, X, loop, same

import minijac as mj
from minijac.program.passes import rolling
from minijac.ways import looping, rolled


@pytest.fixture(autouse=True)
def _all_loops(monkeypatch):
    for name, least in {"SHORTEST": 4, "FEWEST": 3, "LEAST": 1, "LEAST_APART": 3}.items():
        monkeypatch.setattr(rolling, name, least)
    monkeypatch.setattr(looping, "FEWEST", 2)
    monkeypatch.setattr(looping, "LONG", 0)


@pytest.fixture
def found(monkeypatch) -> list[int]:
    """How many nodes the tapes had, before and after, that were taken."""
    taken: list[int] = []

    def noted(run: Any, with_loops: Any = rolled.with_loops) -> Any:
        result = with_loops(run)
        if result is not None:
            taken.append(len(result[0].nodes))
        return result

    monkeypatch.setattr(rolled, "with_loops", noted)
    return taken


def as_it_is(g: Any, x: Any, monkeypatch: Any) -> Any:
    """A derivative with the tape as it is."""
    with monkeypatch.context() as patch:
        patch.setattr(rolled, "with_loops", lambda run: None)
        return g(x)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("f", STEPS, ids=lambda f: f.__name__)
def test_derivatives_are_those_of_the_tape_as_it_is(f, way, monkeypatch):
    g = way(lambda x: f(loop, x))
    with np.errstate(all="ignore"):
        wanted = as_it_is(g, X, monkeypatch)
        for each in (g, mj.compile(g)):
            for _ in range(2):
                same(each(X), wanted)


def cell(x: Any, steps: int, step: Any) -> Any:
    c = x
    for t in range(steps):
        c = step(c, x, t)
    return c


def in_rows(x: Any, count: int = 7) -> Any:
    """Two layers, of which the second reads what the first made in every step."""
    h, states = np.zeros_like(x), []
    for t in range(count):
        h = np.tanh(h @ W + x * (t + 1))
        states.append(h)
    c = x
    for h in states:
        c = np.sin(c) * h
    return c + states[2] + np.stack(states).sum(0)


PLAIN = {
    "numbers that differ": lambda x: cell(x, 9, lambda c, x, t: np.sin(c) * (0.1 * t) + x),
    "powers that differ": lambda x: cell(x, 9, lambda c, x, t: np.sin(c) ** t + x),
    "arrays that differ": lambda x: cell(x, 7, lambda c, x, t: np.sin(c) * XS[t] + x),
    "a row of x": lambda x: cell(x[:, :1], 9, lambda c, _, t: np.sin(c + np.concatenate([x, x, x], 1)[:, t : t + 1])),
    "a mask": lambda x: cell(x, 9, lambda c, x, t: np.where(c > 0.1, np.sin(c) * 1.1, c * x)),
    "held": lambda x: cell(x, 9, lambda c, x, t: np.sin(c) * mj.stop_gradient(np.cos(c * x))),
    "written": lambda x: cell(x, 9, lambda c, x, t: np.where(np.cumsum(c, 1) > 0, np.maximum(c, 0.5 * x), c)),
    "rows of every step": in_rows,
    "steps back": lambda x: fibonacci(x),
    "a tie after a sum": lambda x: tied(x),
    "in each other": lambda x: in_each_other(x),
    "largest of a row": lambda x: cell(x, 9, lambda c, x, t: np.sin(c - c.max(1, keepdims=True)) + x),
    "a norm": lambda x: cell(x, 9, lambda c, x, t: c / (1 + np.linalg.norm(c, axis=1, keepdims=True)) + x),
    "picked": lambda x: cell(x, 9, lambda c, x, t: np.sin(np.sort(c, 1)[:, ::-1]) + x[:, [t % 3]]),
}


def tied(x: Any) -> Any:
    total = sum([np.tanh(x * k) for k in range(9)])
    return np.maximum(total, total)


def in_each_other(x: Any) -> Any:
    c = x
    for _ in range(4):
        for k in range(5):
            c = np.tanh(np.maximum(c, x)) * (1.0 + 0.1 / (1 + k))
        c = 0.9 * c
    return c


def fibonacci(x: Any) -> Any:
    a, b = x, np.sin(x)
    for _ in range(9):
        a, b = b, np.sin(a) + 0.5 * b * x
    return a * b


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("f", PLAIN.values(), ids=PLAIN)
def test_so_they_are_for_loops_that_no_scan_could_be(f, way, monkeypatch):
    g = way(f)
    with np.errstate(all="ignore"):
        wanted = as_it_is(g, X, monkeypatch)
        for each in (g, mj.compile(g)):
            same(each(X), wanted)


@pytest.mark.parametrize(
    "name, compiled",  # compiled, what carries no derivative is the program's, and its tape stays as it is
    [("numbers that differ", True), ("arrays that differ", True)]
    + [(name, False) for name in ("numbers that differ", "arrays that differ", "a mask", "held", "rows of every step")],
)
def test_what_is_differentiated_does_not_grow_with_the_steps(name, compiled, found):
    steps = {
        "numbers that differ": lambda c, x, t: np.sin(c) * (0.1 * t) + x,
        "arrays that differ": lambda c, x, t: np.sin(c) * SERIES[t] + x,
        "a mask": lambda c, x, t: np.where(c > 0.1, np.sin(c) * 1.1, c * x),
        "held": lambda c, x, t: np.sin(c) * mj.stop_gradient(np.cos(c * x)),
    }
    way = mj.compile if compiled else lambda g: g
    for count in (20, 60):
        if name == "rows of every step":
            way(mj.jacobian(lambda x, count=count: in_rows(x, count)))(X)
        else:
            way(mj.jacobian(lambda x, count=count: cell(x, count, steps[name])))(X)
    assert len(found) == 2 and found[0] == found[1] < 40


SERIES = np.random.default_rng(1).normal(size=(60, 4, 3))


def test_the_dtype_is_kept(monkeypatch):
    for name in ("numbers that differ", "arrays that differ", "rows of every step"):
        for way in WAYS.values():
            g, x = way(PLAIN[name]), X.astype(np.float32)
            wanted = as_it_is(g, x, monkeypatch)
            same(g(x), wanted, 1e-4)
            same(mj.compile(g)(x), wanted, 1e-4)


def test_parameters_and_what_is_returned_beside(found):
    def loss(w: Any, x: Any) -> Any:
        h, seen = np.zeros_like(x), []
        for t in range(8):
            h = np.tanh(h @ w["W"] + x * t + w["b"])
            seen.append(h)
        return (h**2).mean(), (seen[3], h)

    w = {"W": W, "b": np.ones(3)}
    (value, aux), gradient = mj.value_and_grad(loss, has_aux=True)(w, X)
    assert found
    compiled = mj.compile(mj.value_and_grad(loss, has_aux=True))
    for _ in range(2):
        same(compiled(w, X), ((value, aux), gradient))
    wanted = mj.jacobian(lambda w: loss(w, X)[0], batch_axis=None, mode="mixed")(w)
    same(gradient, wanted)
    same(aux, loss(w, X)[1])


def test_arrays_that_a_step_captures_are_read_in_every_call():
    weights = W.copy()
    g = mj.jacobian(lambda x: cell(x, 9, lambda c, x, t: np.tanh(c @ weights) + x))
    compiled = mj.compile(g)
    for _ in range(3):
        same(compiled(X), g(X))
        weights *= 0.9


@pytest.mark.parametrize("compiled", [False, True])
def test_a_mix_of_samples_inside_is_named_as_it_is_without_loops(compiled, monkeypatch):
    g = mj.jacobian(lambda x: cell(x, 9, lambda c, x, t: np.sin(c) + c.mean(0)))  # <- here
    h = mj.compile(g) if compiled else g
    with pytest.raises(mj.BatchMixingError) as with_loops:
        h(X)
    with pytest.raises(mj.BatchMixingError) as without:
        as_it_is(g, X, monkeypatch)
    assert str(with_loops.value) == str(without.value)
    for kind in ("full", "diagonal"):
        g = mj.jacobian(lambda x: cell(x, 9, lambda c, x, t: np.sin(c) + c.mean(0)), on_mixing=kind)
        same((mj.compile(g) if compiled else g)(X), as_it_is(g, X, monkeypatch))


@pytest.mark.parametrize("compiled", [False, True])
def test_samples_that_change_axis_from_step_to_step_do_not_mix_where_each_step_is_read_alone(compiled, monkeypatch):
    def f(x: Any) -> Any:
        states = [x]
        for _ in range(8):
            states.append(np.sin(states[-1] * 1.01).T)
        return states[2] + states[4] * states[8] + states[3].T

    x = X[:3]
    g = mj.jacobian(f)
    same((mj.compile(g) if compiled else g)(x), as_it_is(g, x, monkeypatch))


def test_pullbacks_and_products_go_through_loops_and_outlive_the_call(found):
    f = lambda x: cell(x, 9, lambda c, x, t: np.sin(c @ W) + x)
    J, v = mj.jacobian(f, on_mixing="full", structured=True)(X).todense(), np.ones_like(X)
    found.clear()
    y, pullback = mj.vjp(f, X)
    same(mj.jvp(f, (X,), (v,)), (f(X), np.einsum("aibj,bj->ai", J, v)))
    assert len(found) == 2
    for _ in range(2):
        same((y, pullback(v)[0]), (f(X), np.einsum("aibj,ai->bj", J, v)))


@pytest.mark.parametrize("way", [mj.hessian, mj.laplacian, lambda f: mj.jacobian(mj.jacobian(f))])
def test_second_order_is_that_of_the_tape_as_it_is(way, monkeypatch):
    f = lambda x: cell(x, 9, lambda c, x, t: np.sin(c @ W) + x * t).sum(1)
    g = way(f)
    wanted = as_it_is(g, X, monkeypatch)
    same(g(X), wanted)
    same(mj.compile(g)(X), wanted)


MASKED = {
    "a mask": lambda h, x, t: np.sin(h) * (1.0 + (h >= 0.0) * 0.1),
    "a mask of the input": lambda h, x, t: np.sin(h) * (1.0 + (x >= 0.0) * 0.1),
    "another number in each step": lambda h, x, t: np.sin(h) * (h > (0.1 if t % 2 else 0.5)) + 0.1 * h,
    "another integer in each step": lambda h, x, t: np.sin(h) * (1 + (h >= t % 3 - 1) * 0.1),
    "a factor without derivative": lambda h, x, t: np.sin(h) * mj.stop_gradient(np.cos(h)),
    "an order": lambda h, x, t: np.sin(np.sort(h, 1)[:, ::-1]),
    "kinks": lambda h, x, t: np.sin(np.abs(h) - 0.3) + np.maximum(h, 0.1 * x) * 0.1,
}


@pytest.mark.parametrize("name", MASKED)
def test_what_carries_no_derivative_is_of_the_data_of_each_call(name):
    def f(x):
        h = x
        for t in range(60):
            h = MASKED[name](h, x, t)
        return h

    x, v = np.random.default_rng(3).normal(size=(3, 4)), np.ones((3, 4))
    along = lambda f: lambda x: mj.jvp(f, (x,), (v,))[1]
    for way in (along, mj.jacobian, lambda f: along(along(f)), lambda f: mj.jacobian(mj.grad(lambda x: f(x).sum()))):
        compiled = mj.compile(way(f))
        for data in (x, x[::-1] + 0.1, 0.5 - x):
            same(compiled(data), way(f)(data))
    for data in (x, 0.5 - x) if name != "a factor without derivative" else ():
        step = 1e-6 * v
        np.testing.assert_allclose(along(f)(data), (f(data + step) - f(data - step)) / 2e-6, 1e-5, 1e-8)
