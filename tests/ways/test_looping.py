"""A scan is a step of the tape, recorded once: values and derivatives are the loop's, whatever its step does."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from helpers import names_place
from loop_programs import (
    STEPS,
    WAYS,
    XS,
    W,
    X,
    constant_in_the_next_step,
    constants,
    exchanged,
    gated,
    left_out_by_the_next_step,
    loop,
    nested,
    passed_on,
    same,
    two_series,
    written,
)

import minijac as mj
from minijac.program.record import Recorder
from minijac.ways import looping

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _all_loops(monkeypatch):
    monkeypatch.setattr(looping, "FEWEST", 2)
    monkeypatch.setattr(looping, "LONG", 0)


OF_ANY_BATCH = [f for f in STEPS if f not in (two_series, constants)]
AS_BEFORE = {
    "hessian": mj.hessian,
    "structured": lambda f: lambda x: mj.jacobian(f, structured=True)(x).todense(),
    "max_bytes": lambda f: mj.jacobian(f, max_bytes=10**6),
    "chunks": lambda f: mj.jacobian(f, chunk_size=2),
}


def each_way(f: Any, way: Any, x: Any, tolerance: float = 1e-10) -> None:
    with np.errstate(all="ignore"):
        wanted = way(lambda x: f(loop, x))(x)
        eager = way(lambda x: f(mj.scan, x))
        for g in (eager, mj.compile(eager)):
            for _ in range(2):
                same(g(x), wanted, tolerance)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("f", STEPS, ids=lambda f: f.__name__)
def test_a_scan_is_the_loop(f, way):
    each_way(f, way, X)


@pytest.mark.parametrize("way", AS_BEFORE.values(), ids=AS_BEFORE)
@pytest.mark.parametrize("f", [exchanged, two_series, written], ids=lambda f: f.__name__)
def test_and_where_it_is_taken_step_by_step(f, way):
    each_way(f, way, X)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("f", OF_ANY_BATCH, ids=lambda f: f.__name__)
def test_so_it_is_for_one_sample_and_none(f, batch):
    for way in ("forward", "reverse"):
        each_way(f, WAYS[way], X[:batch])


@pytest.mark.parametrize("f", [passed_on, exchanged, nested, written], ids=lambda f: f.__name__)
def test_the_dtype_is_kept(f):
    each_way(f, WAYS["forward"], X.astype(np.float32), 1e-4)
    each_way(f, WAYS["gradient"], X.astype(np.float32), 1e-4)


def test_parameters_that_a_step_captures():
    def last(w: Any, x: Any, scan: Any) -> Any:
        v = np.sin(w)
        c, ys = scan(lambda c, row: (np.tanh(c @ v + row) * w[0], c.sum(1)), X, XS)
        return c + ys[2][:, None] + 0 * x

    for mode in ("forward", "reverse"):
        wanted, eager = (
            mj.jacobian(lambda w, x, scan=scan: last(w, x, scan), batch_axis=(None, 0), mode=mode)
            for scan in (loop, mj.scan)
        )
        for g in (eager, mj.compile(eager)):
            same(g(W, X), wanted(W, X))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_an_input_that_no_step_depends_on(mode):
    def f(x: Any, y: Any, scan: Any) -> Any:
        return x * scan(lambda c, _: (np.sin(c) * y, None), y, None, 6)[0]

    wanted, eager = (mj.jacobian(lambda x, y, s=s: f(x, y, s), argnums=(0, 1), mode=mode) for s in (loop, mj.scan))
    for g in (eager, mj.compile(eager)):
        same(g(X, X + 1), wanted(X, X + 1))


def test_arrays_that_a_step_captures_are_read_in_every_call():
    weights = W.copy()
    f = lambda x, scan: scan(lambda c, _: (np.tanh(c @ weights.T), None), x, None, 6)[0]
    compiled, eager = mj.compile(mj.jacobian(lambda x: f(x, mj.scan))), mj.jacobian(lambda x: f(x, mj.scan))
    for _ in range(3):
        wanted = mj.jacobian(lambda x: f(x, loop))(X)
        same(compiled(X), wanted)
        same(eager(X), wanted)
        weights *= 0.9


def test_a_name_bound_to_another_array_is_seen():
    held = {"w": W}

    class Cell:
        def __init__(self):
            self.w = W

        def __call__(self, x):
            return mj.scan(lambda c, _: (np.tanh(c @ self.w), None), x, None, 6)[0]

    cell = Cell()
    compiled = mj.compile(mj.jacobian(cell))
    for scale in (1.0, 0.5, 0.25):
        cell.w = held["w"] * scale
        same(compiled(X), mj.jacobian(cell)(X))


def test_an_infinite_derivative_inside_a_step_does_not_keep_it_from_being_a_loop(monkeypatch):
    found = []
    on_tape = looping.Scan.on_tape
    monkeypatch.setattr(looping.Scan, "on_tape", lambda *args: found.append(1) or on_tape(*args))
    for f, loops in ((gated, 1), (left_out_by_the_next_step, 0), (constant_in_the_next_step, 0)):
        found.clear()
        mj.jacobian(lambda x, f=f: f(mj.scan, x))(X)
        assert len(found) == loops


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_recorded_does_not_grow_with_the_steps(compiled, monkeypatch):
    count = []
    process = Recorder.process
    monkeypatch.setattr(Recorder, "process", lambda *args: count.append(1) or process(*args))
    found = []
    for steps in (20, 200):
        g = mj.jacobian(lambda x, steps=steps: mj.scan(lambda c, _: (np.sin(c) + c @ W, None), x, None, steps)[0])
        count.clear()
        (mj.compile(g) if compiled else g)(X)
        found.append(len(count))
    assert found[0] == found[1] > 0


def test_a_step_that_looks_at_numbers_is_taken_step_by_step():
    f = lambda x: mj.scan(lambda c, t: (np.sin(c) if t > 2 else c * c, None), x, np.arange(6.0))[0]
    wanted = mj.jacobian(lambda x: loop(lambda c, t: (np.sin(c) if t > 2 else c * c, None), x, np.arange(6.0))[0])(X)
    same(mj.jacobian(f)(X), wanted)
    same(mj.compile(mj.jacobian(f))(X), wanted)


OWN, OLD, PYTHON = np.random.default_rng(1), np.random.RandomState(1), random.Random(1)
DRAWS = {
    "generator": lambda: OWN.normal(),
    "legacy": lambda: OLD.normal(),
    "python": lambda: PYTHON.gauss(0, 1),
    "global": lambda: np.random.normal(),
    "global_of_python": lambda: random.random(),
}


@pytest.mark.parametrize("long", [0, 10**9])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_step_that_draws_random_numbers_draws_them_in_every_step(draw, long, monkeypatch):
    monkeypatch.setattr(looping, "LONG", long)
    f = lambda x, scan: scan(lambda c, _: (np.sin(c) + draw() * x, c), x, None, 6)[1]
    found = []
    for scan in (loop, mj.scan):
        OWN.bit_generator.state = np.random.default_rng(1).bit_generator.state
        OLD.seed(1), PYTHON.seed(1), np.random.seed(1), random.seed(1)
        found.append((mj.value_and_jacobian(lambda x, scan=scan: f(x, scan).sum(0))(X), np.asarray(draw())))
    same(found[1], found[0])


def test_a_step_that_looks_at_numbers_too_has_drawn_nothing_before():
    def f(x, scan):
        rng = np.random.default_rng(0)
        step = lambda c, t: (np.sin(c) * rng.normal() if rng.normal() > -9 and t > 2 else c * c, None)
        return scan(step, x, np.arange(6.0))[0]

    same(*(mj.jacobian(lambda x, scan=scan: f(x, scan))(X) for scan in (mj.scan, loop)))


def test_a_step_with_a_generator_without_a_seed_draws_in_every_step():
    step = lambda c, _: (c, c * np.random.default_rng().normal())
    rows = mj.value_and_jacobian(lambda x: mj.scan(step, x, None, 6)[1].swapaxes(0, 1))(X)[0]
    assert len(np.unique(rows[0, :, 0])) == 6


def test_a_compiled_step_draws_constants_from_a_generator_seeded_inside_and_else_raises():
    def f(x, scan):
        rng = np.random.default_rng(1)
        return scan(lambda c, _: (np.sin(c) + rng.normal() * x, None), x, None, 6)[0]

    same(mj.compile(mj.jacobian(lambda x: f(x, mj.scan)))(X), mj.jacobian(lambda x: f(x, loop))(X))
    for draw in (*DRAWS.values(), lambda: np.random.default_rng().normal()):
        g = lambda x, draw=draw: mj.scan(lambda c, _: (np.sin(c) * draw(), None), x, None, 6)[0]
        with pytest.raises(mj.TraceError, match="random"):
            mj.compile(mj.jacobian(g))(X)


def test_the_value_is_the_plain_loops_to_the_last_bit():
    f = lambda x: mj.scan(lambda c, _: (np.tanh(c @ W) * np.exp(-c), None), x, None, 9)[0]
    np.testing.assert_array_equal(mj.value_and_jacobian(f)(X)[0], f(X))


def test_samples_on_the_axis_of_the_steps_mix():
    with pytest.raises(mj.BatchMixingError, match=r"test_looping\.py"):
        mj.jacobian(lambda xs: mj.scan(lambda c, row: (c + row, None), np.zeros(3), xs)[0] + 0 * xs)(X)


def turned(scan, x):
    return scan(lambda c, _: ((c * 1.01).T, c), x, None, 6)[1]  # <- here


def exchanged_samples(scan, x):
    return scan(lambda c, _: ((c[1] * 2, c[0]), c[0]), (x, x.T.copy()), None, 6)[1]  # <- here


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("f", [turned, exchanged_samples])
def test_samples_that_change_axis_from_step_to_step_mix_where_the_steps_are_stacked(f, compiled):
    x = RNG.normal(size=(3, 3))
    way = mj.compile if compiled else lambda g: g
    for part in (lambda ys: ys.sum(0), lambda ys: ys[0], lambda ys: ys[1]):
        g = lambda x, part=part: part(f(mj.scan, x))
        with pytest.raises(mj.BatchMixingError, match="in stack") as caught:
            way(mj.jacobian(g))(x)
        names_place(caught.value, f)
        wanted = mj.jacobian(lambda x, part=part: part(f(loop, x)), batch_axis=None)(x)
        same(way(mj.jacobian(g, on_mixing="full"))(x), wanted)


@pytest.mark.parametrize("compiled", [False, True])
def test_samples_that_change_axis_from_step_to_step_are_followed_to_the_last(compiled):
    x = RNG.normal(size=(3, 3))
    for count in (6, 7):
        f = lambda x, scan, count=count: scan(lambda c, _: (np.sin(c * 1.01).T, None), x, None, count)[0]
        g = mj.jacobian(lambda x, f=f: f(x, mj.scan))
        same((mj.compile(g) if compiled else g)(x), mj.jacobian(lambda x, f=f: f(x, loop))(x))


def test_what_is_written_after_a_loop_does_not_change_its_derivative():
    weights, rows = W.copy(), XS.copy()

    def f(x, scan):
        y = scan(lambda c, row: (np.tanh(c @ weights + row), None), x, rows)[0]
        weights[...], rows[...] = 0.0, 0.0
        return y

    wanted = mj.jacobian(lambda x: f(x, loop))(X)
    weights[...], rows[...] = W, XS
    for mode in ("forward", "reverse"):
        weights[...], rows[...] = W, XS
        same(mj.jacobian(lambda x: f(x, mj.scan), mode=mode)(X), wanted)
