"""Replayed accumulations: the same Jacobians as carried out ones, results of their own, and bounded memory."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import random

import minijac as mj
from minijac.memo import Memo
from minijac.program import entry
from minijac.transforms import first
from minijac.ways import replay

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(6, 6))


def stencil(u):
    p = np.pad(u, ((0, 0), (1, 1)))
    return -u * (p[:, 2:] - p[:, :-2]) + 0.1 * (p[:, 2:] - 2 * u + p[:, :-2])


def limited(u):
    step = np.roll(u, -1, axis=1) - u
    return np.where(np.abs(step) > 0.5, np.log(np.abs(step)), step**2) + np.maximum(u, 0.0)


FUNCTIONS = {
    "elementwise": lambda x: np.sin(x) * np.exp(-x * x),
    "stencil": stencil,
    "limiter": limited,
    "product": lambda x: np.tanh(x) @ WEIGHTS,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    "rows": lambda x: x[:, ::-1] * x[:, :1],
}


@pytest.fixture(autouse=True)
def _forgotten():
    Memo.clear_all()


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_replay_gives_what_was_carried_out(name, structured):
    f, found = FUNCTIONS[name], []
    for n in range(4):  # recorded, made a program, replayed twice
        x = np.random.default_rng(n).normal(size=(3, 6))
        J = mj.jacobian(f, structured=structured)(x)
        replay_free = mj.jacobian(f, structured=structured, chunk_size=10**6)(x)  # chunks are never replayed
        found.append((J, replay_free, f(x)))
    assert replay.held_programs() == 1
    v = RNG.normal(size=(3, 6))
    for J, expected, y in found:
        if structured:
            assert (J.shape, J.dtype, J.structure) == (expected.shape, expected.dtype, expected.structure)
            np.testing.assert_allclose(J @ v, expected @ v, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(J.T @ y, expected.T @ y, rtol=1e-12, atol=1e-14)
            J, expected = J.todense(), expected.todense()
        np.testing.assert_allclose(J, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_first_call_makes_no_program_and_no_call_accumulates_after_it(name, monkeypatch):
    """So no call takes longer than the first."""
    work, done = [], []
    for owner, part in ((replay, "assemble"), (first, "assemble"), (entry, "optimised")):
        known = getattr(owner, part)
        counted = lambda *args, known=known, part=part: (work.append(part), known(*args))[1]
        monkeypatch.setattr(owner, part, counted)
    for n in range(4):
        mj.jacobian(FUNCTIONS[name])(np.random.default_rng(n).normal(size=(3, 6)))
        done.append(tuple(work))
        work.clear()
    assert done == [("assemble",), ("optimised",), (), ()]


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_outer_transformations_follow_is_replayed_too(name, structured, monkeypatch):
    f, work = FUNCTIONS[name], []

    def penalty(options):
        def value(x, w):
            J = mj.jacobian(lambda x: f(x * w) @ w[:, None] * x, structured=structured, **options)(x)
            return np.tanh(J @ x if structured else J).sum()

        return mj.value_and_grad(lambda x, w: (mj.grad(value, (0, 1))(x, w)[1] ** 2).sum() + value(x, w), (0, 1))

    for owner in (replay, first):
        monkeypatch.setattr(owner, "assemble", lambda *args, known=owner.assemble: (work.append(1), known(*args))[1])
    for n in range(4):
        x, w = np.random.default_rng(n).normal(size=(3, 6)), np.linspace(0.5, 1.0 + n, 6)
        found, calls = penalty({})(x, w), len(work)
        expected = penalty({"chunk_size": 10**6})(x, w)
        work.clear()
        assert (calls == 0) == (n > 0 and name != "limiter")  # a logarithm that is not chosen
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        for own, theirs in zip(found[1], expected[1], strict=True):
            np.testing.assert_allclose(own, theirs, rtol=1e-11, atol=1e-12)


def test_a_result_that_outer_transformations_follow_can_be_written():
    def f(w):
        J = mj.jacobian(lambda x: x @ w)(np.ones((2, 3)))
        J[:, 0] = 0.0
        return J.sum() + (w * w).sum()

    for n in range(4):
        w = RNG.normal(size=(3, 3)) + n
        np.testing.assert_allclose(mj.grad(f)(w), 2.0 * w + 2.0 * np.array([0.0, 1.0, 1.0]), rtol=1e-13)


def test_a_call_is_not_recorded_where_numbers_are_others_in_each(monkeypatch):
    recorded = []
    known = replay.run_recorded
    monkeypatch.setattr(replay, "run_recorded", lambda *args: recorded.append(1) or known(*args))
    x = RNG.normal(size=(3, 6))
    for n in range(6):
        J = mj.jacobian(lambda x, t=1.0 + n: np.sin(t * x))(x)
        np.testing.assert_allclose(np.diagonal(J, axis1=1, axis2=2), (1.0 + n) * np.cos((1.0 + n) * x), 1e-13)
    assert len(recorded) == 1
    for _ in range(3):
        mj.jacobian(lambda x: np.sin(6.0 * x))(x)
    assert len(recorded) == 2


def test_a_memory_map_is_read_in_every_call(tmp_path):
    held = np.memmap(tmp_path / "held.bin", dtype=float, mode="w+", shape=(1500,))
    for n in range(5):
        held[:], held[700] = 1.0, n
        for structured in (False, True):
            J = mj.jacobian(lambda x: (x * held).sum(1), structured=structured)(np.ones((2, 1500)))
            assert (J.todense() if structured else J)[0, 700] == n


def test_threads_with_positions_of_their_own_do_not_disturb_each_other():
    x, right = np.random.default_rng(0).normal(size=(3, 40)), []

    def work(seed):
        at = np.random.default_rng(seed % 2).integers(0, 40, size=40)
        for k in range(80):
            y = mj.jacobian(lambda x: x[:, at] ** 2, structured=True)(x) @ x
            right.append(np.allclose(y, 2 * x[:, at] ** 2))
            time.sleep(1e-3 * (k % (2 + seed)))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 320 and all(right)


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_dense_results_lie_in_memory_in_the_same_way_in_every_call(mode):
    at, W = np.array([3, 0, 3]), RNG.normal(size=(6, 6))
    for f in (lambda x: np.tanh(x) @ W, lambda x: np.cumsum(np.sin(x), 1), lambda x: x[:, at]):
        for B in (1, 3):
            assert all(mj.jacobian(f, mode=mode)(RNG.normal(size=(B, 6))).flags.c_contiguous for _ in range(4))


@pytest.mark.parametrize("structured", [False, True])
def test_results_of_the_first_call_are_arrays_of_their_own(structured):
    W = RNG.normal(size=(6, 6))
    functions = (lambda x: x @ W, lambda x: x * W[:3], lambda x: (x, x), lambda x: x.reshape(3, 2, 3))
    for f in functions:
        x = RNG.normal(size=(3, 6))
        leaves = mj.jacobian(f, structured=structured)(x)
        leaves = leaves if isinstance(leaves, tuple) else (leaves,)
        for J in leaves:
            arrays = [f.array for part in J.parts for t in part.terms for f in t.factors] if structured else [J]
            for array in arrays:
                assert not any(np.shares_memory(array, other) for other in (x, W))
        dense = [J.todense() if structured else J for J in leaves]
        assert all(J.flags.writeable for J in dense)
        before = [J.copy() for J in dense]
        np.multiply(W, 3.0, out=W)
        np.multiply(x, 2.0, out=x)
        for J, expected in zip(leaves, before, strict=True):
            np.testing.assert_array_equal(J.todense() if structured else J, expected)


def test_structured_and_dense_results_of_one_structure_are_told_apart():
    x = RNG.normal(size=(2, 6))
    for structured in (True, False) * 4:
        J = mj.jacobian(stencil, structured=structured)(x)
        assert isinstance(J, mj.Jacobian) == structured


def test_a_replayed_structured_jacobian_owns_its_data():
    x = RNG.normal(size=(2, 6))
    for _ in range(3):
        x += 1.0
        J = mj.jacobian(lambda x: x * WEIGHTS[0] * x, structured=True)(x)
        before = J.todense()
        mj.jacobian(lambda x: x * WEIGHTS[0] * x, structured=True)(x + 1.0)
        x[0] = 7.0
        np.testing.assert_array_equal(J.todense(), before)


def test_what_replays_hold_is_bounded(monkeypatch):
    monkeypatch.setattr(replay, "MOST_HELD", 30_000)
    for width in range(10, 40):
        for _ in range(3):
            mj.jacobian(np.sin, structured=True)(RNG.normal(size=(20, width)))
            assert replay.held_bytes() <= 30_000
    assert replay.held_programs() > 1


def test_a_program_on_large_arrays_is_not_kept(monkeypatch):
    monkeypatch.setattr(replay, "MOST_LIVE", 10_000)
    for _ in range(3):
        mj.jacobian(stencil)(RNG.normal(size=(20, 30)))
    assert replay.held_programs() == 0


def test_large_results_are_written_after_the_replay(monkeypatch):
    monkeypatch.setattr(replay, "MOST_WHOLE", 100)
    for f in FUNCTIONS.values():
        held = []
        for n in range(4):
            x = np.random.default_rng(n).normal(size=(3, 6))
            J = mj.jacobian(f)(x)
            assert type(J) is np.ndarray and J.flags.c_contiguous and J.flags.writeable
            held.append((J, mj.jacobian(f, chunk_size=10**6)(x)))
        for J, expected in held:  # none was overwritten by a later one
            np.testing.assert_allclose(J, expected, rtol=1e-12, atol=1e-14)


def test_replay_tells_zero_from_minus_zero_and_returns_arrays():
    found = [mj.jacobian(lambda x, c=c: np.copysign(x, c) * x)(np.ones((1, 1))) for c in (0.0, 0.0, 0.0, -0.0, -0.0)]
    assert [float(J[0, 0, 0]) for J in found] == [2.0, 2.0, 2.0, -2.0, -2.0]
    for _ in range(3):
        assert type(mj.jacobian(np.sin, batch_axis=None)(np.float64(0.3))) is np.ndarray


def test_replay_follows_data_and_constants():
    weights = random(3, 4, seed=7)
    for n in range(6):
        x = random(3, 4, seed=7) + n
        weights[:] = random(3, 4, seed=7) * n
        scale = float(n % 3)
        J = mj.jacobian(lambda x, s=scale: np.sin(x * weights) * s)(x)
        np.testing.assert_allclose(np.diagonal(J, axis1=1, axis2=2), scale * weights * np.cos(x * weights), atol=1e-14)


COUNTED = """
import sys
import numpy as np
import minijac as mj

def calls_of_python(call):
    for _ in range(3):  # found out, recorded, replayed
        call()
    events = []
    sys.setprofile(lambda frame, event, arg: events.append(event))
    call()
    sys.setprofile(None)
    return events.count("call")

rng = np.random.default_rng(0)
x, W, b, V = rng.normal(size=(3, 5)), rng.normal(size=(5, 2)), rng.normal(size=2), rng.normal(size=(2, 10))
f = lambda x: np.tanh(x @ W + b) @ V
compiled = mj.compile(mj.jacobian(f))
print(calls_of_python(lambda: mj.jacobian(f)(x)), calls_of_python(lambda: compiled(x)))
"""


def test_a_small_call_takes_few_calls_of_python():
    """Nine tenths of a small call's time is Python, and calls can be counted on a busy machine.

    Counted in a process of its own: what the other tests have imported is looked at with each call.
    """
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    eager, compiled = map(int, done.stdout.split())
    assert eager <= 149
    assert compiled <= 10
