"""Stretches of a tape that repeat each other: found where they are, and carried out as they would be one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minijac as mj
from minijac.accumulation.graph import Graph
from minijac.accumulation.recording import prepare
from minijac.memo import Memo
from minijac.ways import repeats

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 4)) * 0.4
X = RNG.normal(size=(5, 4))
XS = RNG.normal(size=(5, 80, 4))


def runge_kutta(steps: int, h: float = 0.01) -> Any:
    def rate(y: Any) -> Any:
        a, b, c, d = (y[:, k] for k in range(4))
        return np.stack([-0.5 * a * b + 0.3 * c * d, -0.5 * a * b, 0.5 * a * b - 0.3 * c, np.sin(a) - d], 1)

    def f(y: Any) -> Any:
        for _ in range(steps):
            k1 = rate(y)
            k2 = rate(y + h / 2 * k1)
            y = y + h * k2
        return y

    return f


def recurrent(x: Any) -> Any:
    h = np.zeros((len(x), 4))
    for t in range(x.shape[1]):
        z = np.tanh(h @ W + x[:, t])
        h = z / (1 + np.exp(-h)) + 0.1 * z * x[:, t]
    return h[:, :2]


def limited(y: Any) -> Any:
    for _ in range(60):
        d = np.roll(y, -1, 1) - y
        y = y + 0.1 * np.where(d > 0, np.minimum(d, 0.5), d * np.tanh(d)) / (1 + y * y)
    return y


def stencil(y: Any) -> Any:
    for _ in range(60):
        p = np.pad(y, ((0, 0), (1, 1)))
        y = y + 0.1 * (p[:, 2:] - 2 * y + p[:, :-2]) - 0.01 * y * (p[:, 2:] - p[:, :-2]) + 0.001 * y**3
    return y


def two_loops(y: Any) -> Any:
    for _ in range(50):
        y = y + 0.1 * np.sin(y @ W) * np.cos(y) - 0.3 * y / (2 + y * y)
    y = np.exp(-y * y)
    for _ in range(50):
        y = y - 0.1 * np.tanh(y) * y + 0.05 * np.cos(y[:, ::-1])
    return y


PROGRAMS = {"runge kutta": (runge_kutta(30), X), "recurrent": (recurrent, XS), "limiter": (limited, X),
            "stencil": (stencil, X), "two loops": (two_loops, X)}  # fmt: skip
programs = pytest.mark.parametrize("f, x", PROGRAMS.values(), ids=PROGRAMS)


@pytest.fixture
def one_by_one(monkeypatch: Any) -> Any:
    """The same without stretches."""

    def call(function: Any, *args: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Graph, "stretches", None)
            return function(*args)

    return call


@pytest.mark.parametrize(
    "sequence, expected",
    [
        ([9, 1, 2, 1, 2, 1, 2, 7], (2, [(1, 3)])),
        ([1, 2, 3], (0, [])),
        ([], (0, [])),
        ([5, 1, 1, 2, 1, 1, 2, 1, 1, 2, 8], (3, [(1, 3)])),
        ([1, 2, 1, 2, 7, 1, 2, 1, 2, 1, 2], (2, [(0, 2), (5, 3)])),
    ],
)
def test_the_period_that_covers_most_is_found(sequence, expected):
    assert repeats.period_of(sequence) == expected


def test_it_is_found_in_time_that_grows_with_the_sequence():
    body = list(range(300))
    period, runs = repeats.period_of(body * 100)
    assert (period, runs) == (300, [(0, 100)])


@programs
@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_jacobians_are_those_of_step_by_step(f, x, mode, dtype, one_by_one):
    x = x.astype(dtype)
    jacobian = mj.jacobian(f, mode=mode)
    expected = one_by_one(jacobian, x)
    for _ in range(2):
        found = jacobian(x)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(
            found, expected, 1e-4 if dtype is np.float32 else 1e-11, 1e-6 if dtype is np.float32 else 1e-13
        )


@programs
def test_every_other_transformation_goes_through(f, x, one_by_one):
    loss = lambda x: (f(x) ** 2).sum()
    J = one_by_one(mj.jacobian(f), x)
    np.testing.assert_allclose(mj.jacobian(f, structured=True)(x).todense(), J, 1e-11, 1e-13)
    np.testing.assert_allclose(mj.jacobian(f, chunk_size=1)(x), J, 1e-11, 1e-13)
    np.testing.assert_allclose(mj.grad(loss)(x), one_by_one(mj.grad(loss), x), 1e-11, 1e-13)
    np.testing.assert_allclose(mj.jvp(f, (x,), (x,))[1], one_by_one(mj.jvp, f, (x,), (x,))[1], 1e-11, 1e-13)


def test_compiled_it_is_the_same(one_by_one):
    f = runge_kutta(12)
    np.testing.assert_allclose(mj.compile(mj.jacobian(f))(X), one_by_one(mj.jacobian(f), X), 1e-11, 1e-13)


def test_second_derivatives_nest(one_by_one):
    f = runge_kutta(12)
    loss = lambda x: (f(x) ** 2).sum()
    second = mj.jacobian(mj.grad(loss))
    np.testing.assert_allclose(second(X), one_by_one(second, X), 1e-11, 1e-13)
    assert mj.hvp(loss, (X,), (X,)).shape == X.shape


def test_parameters_and_numbers_that_change_from_step_to_step(one_by_one):
    def f(w: Any) -> Any:
        y = X
        for n in range(120):
            y = y + 0.1 * np.sin(y @ w) * np.cos(y) - (0.1 + 0.001 * n) * y / (2 + y * y)
        return y.sum(0)

    for mode in ("forward", "reverse"):
        jacobian = mj.jacobian(f, batch_axis=None, mode=mode)
        np.testing.assert_allclose(jacobian(W), one_by_one(jacobian, W), 1e-11, 1e-13)


def test_steps_are_carried_out_by_one_program():
    Memo.clear_all()
    ready = prepare(runge_kutta(100), (X,), {}, mj.arguments.checked_options())
    found = repeats.stretches(ready.graph)
    assert len(found) >= 95
    assert len({stretch.structure for stretch in found}) == 1
    mj.jacobian(runge_kutta(100), mode="forward")(X)
    recorded = [entry for _, entry in repeats._PROGRAMS.items() if not isinstance(entry, str)]
    assert len([stretch for stretch in recorded if stretch.entry.executors]) == 1  # not those at the ends


def test_large_arrays_are_left_alone(monkeypatch):
    monkeypatch.setattr(repeats, "MOST_BYTES", 1)
    monkeypatch.setattr(repeats, "run_recorded", lambda *args: pytest.fail("recorded"))
    Memo.clear_all()
    mj.jacobian(runge_kutta(30))(X)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_what_a_later_step_discards_is_not_looked_at_in_an_earlier_one(mode, compiled):
    def f(x: Any) -> Any:
        v = w = x
        for _ in range(60):
            chosen = np.where(np.abs(x) > 0.1, w, 0.3 * v)
            w = 1.1 * np.sqrt(np.abs(v))  # of infinite slope at zero, where the next step leaves it out
            v = chosen + 0.01 * np.sin(x)
        return v

    x = np.array([[0.0, 0.5], [1.0, -0.3], [0.05, 2.0]])
    h = 1e-7 * np.eye(2)[:, None]
    expected = np.stack([(f(x + h[j]) - f(x - h[j])) / 2e-7 for j in range(2)], -1)
    g = mj.jacobian(f, mode=mode)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose((mj.compile(g) if compiled else g)(x), expected, 1e-6, 1e-7)


def test_entries_that_are_all_used_are_no_masks_in_a_program():
    def f(x: Any) -> Any:
        for _ in range(20):
            x = np.concatenate([np.sqrt(x[:, :1] + 2.0), x[:, 1:] / (1.0 + x[:, :1] ** 2)], 1)
        return x

    names = {step.op.name for step in mj.compile(mj.jacobian(f)).program(np.abs(X)).instructions}
    assert not names & {"where", "logical_and", "logical_or"}
