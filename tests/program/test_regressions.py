"""Compiled functions against faults that were found once, each with the smallest program that showed it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from compiled import same

import minijac as mj
from minijac.program.cpu import fusion, regions, tiling
from minijac.program.cpu.fusion import Fused, fused
from minijac.program.passes import simplify


@pytest.fixture
def tiles_of_two(monkeypatch):
    def first(tiles, arrays):
        plan = tiles._scheduled(2, 2)
        plan(arrays)
        return plan

    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "threads", lambda: 2)
    monkeypatch.setattr(regions.Tiles, "_fastest", first)


@pytest.mark.parametrize("transform", [mj.jacobian, lambda f: mj.hessian(lambda x: f(x).sum(-1))])
def test_a_transformation_of_a_compiled_function_compiled(transform):
    x = np.linspace(0, 1, 18).reshape(6, 3)
    f = transform(mj.compile(lambda x: np.tanh(x) * x))
    same(mj.compile(f)(x), f(x), rtol=1e-12)


def test_a_callable_with_attributes_of_the_same_names():
    class Net:
        def __init__(self):
            self._fn = np.cos

        def __call__(self, x):
            return np.sin(self._fn(x))

    x = np.ones(3)
    same(mj.compile(Net())(x), np.sin(np.cos(x)), rtol=1e-15)
    assert mj.compile(mj.compile(np.sin), maxsize=2).cache_info().maxsize == 2


def test_a_roll_around_the_whole_batch(tiles_of_two):
    f = lambda x: np.cos(np.roll(np.sin(x), 6, 0))
    x = np.linspace(0, 1, 18).reshape(6, 3)
    same(mj.compile(f)(x), f(x), rtol=1e-15)


@pytest.mark.parametrize("swapped", [False, True])
def test_products_of_two_dtypes_are_those_of_the_wider(swapped):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(8, 8)), rng.normal(size=(64, 8, 8))
    w, x = (w.astype(np.float32), x) if swapped else (w, x.astype(np.float32))
    f = lambda x: np.swapaxes(w @ x, 1, 2) * 1.5
    same(mj.compile(f)(x), f(x), rtol=1e-14)


def test_a_mean_of_half_precision():
    x = np.full((100_000, 2), 3, np.float16)
    same(mj.compile(lambda x: x.mean(0))(x), x.mean(0), rtol=0)


@pytest.mark.parametrize("change", [
    lambda y: y.setflags(write=False), lambda y: setattr(y, "shape", (-1,)), lambda y: setattr(y, "dtype", np.int64),
])  # fmt: skip
def test_results_that_the_caller_altered(change):
    f = mj.compile(lambda x: np.sin(x))
    x = np.ones((200, 200))
    for _ in range(4):
        y = f(x)
        same(y, np.sin(x), rtol=1e-15)
        change(y)
        del y


def test_results_that_are_still_seen_are_not_written():
    f = mj.compile(lambda x: np.sin(x))
    kept = [f(np.full((200, 200), float(k)))[:: 1 + k] for k in range(5)]
    for k, y in enumerate(kept):
        assert (y == np.sin(float(k))).all()


def test_numbers_and_arrays_without_axes_stay_what_they_are():
    for f in (lambda x: x * 1.0, lambda x: x / 1.0, lambda x: x - 0.0):
        for x in (np.array(2.0), np.float64(2.0)):
            assert type(mj.compile(f)(x)) is type(f(x))


def test_complex_constants():
    x = np.ones(3)
    for f in (lambda x: x * (1 + 0j), lambda x: (x + 1j) * (1 + 0j), lambda x: (x - 0j) / (1 + 0j)):
        same(mj.compile(f)(x), f(x), rtol=0)


def test_signs_of_zero():
    x = np.array([-0.0, 0.0])
    for f in (lambda x: x - (-0.0), lambda x: x - 0.0, lambda x: (np.pad(x, 1), np.pad(x, 1, constant_values=-0.0))):
        for found, expected in zip(np.atleast_2d(mj.compile(f)(x)), np.atleast_2d(f(x)), strict=True):
            np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_dropped_functions_are_let_go_of_at_once():
    f = mj.compile(mj.jacobian(lambda x: np.tanh(x @ np.ones((50, 50)))))
    f(np.ones((200, 50)))
    (entry,) = f._entries.values()
    held = weakref.ref(entry.executors[0])
    gc.disable()
    try:
        del entry, f
        assert held() is None
    finally:
        gc.enable()


def test_the_tile_size_is_searched_once(monkeypatch):
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "SETTLE", 0.0)
    monkeypatch.setattr(regions, "SECONDS", 0.0)
    f = mj.compile(lambda x: np.tanh(x) * 2)
    x = np.ones((8, 3))
    f(x)
    (entry,) = f._entries.values()
    entry.executors.clear()  # as where two threads call at once
    monkeypatch.setattr(regions.Tiles, "_fastest", None)
    same(f(x), np.tanh(x) * 2, rtol=1e-15)


def test_loops_are_not_made_of_small_arrays_and_not_too_long(monkeypatch):
    monkeypatch.setattr(fusion, "available", lambda: True)

    def f(x):
        for _ in range(1000):
            x = x * 1.5 + 1.0
        return x

    def longest(x):
        program = mj.compile(f).program(x)
        loops = fused(program.instructions, program.values, program.outputs)
        return max((len(loop.steps) for loop in loops if isinstance(loop, Fused)), default=0)

    assert longest(np.ones((4, 2))) == 0
    assert 0 < longest(np.ones((100, 50))) <= fusion.LONGEST


def test_two_functions_that_call_each_other_recorded_at_once():
    barrier = threading.Barrier(2, timeout=20)

    def meet():
        if barrier.n_waiting or not barrier.broken:
            try:
                barrier.wait(1)
            except threading.BrokenBarrierError:
                barrier.reset()

    one = np.ones(3)
    f = mj.compile(lambda x: (meet(), x + g(one))[1] if x.ndim == 2 else x * 2)
    g = mj.compile(lambda x: (meet(), x + f(one))[1] if x.ndim == 2 else x * 3)
    x = np.ones((2, 3))
    threads = [threading.Thread(target=h, args=(x,), daemon=True) for h in (f, g)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


PRELUDE = """
import os, threading, time, numpy as np, minijac as mj
from minijac.program.cpu import regions, tiling
tiling.WORTH, regions.SETTLE, regions.threads = 0, 0.0, lambda: 2
def first(tiles, arrays):
    plan = tiles._scheduled(2, 2)
    plan(arrays)
    return plan
regions.Tiles._fastest = first
f = mj.compile(lambda x: np.tanh(x) * 2)
x = np.ones((8, 3))
f(x)
"""


def script(text: str) -> str:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PRELUDE + text], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_call_after_the_main_thread_has_ended():
    text = "def late():\n    time.sleep(0.5)\n    print(f(x).sum())\nthreading.Thread(target=late).start()\n"
    assert script(text).strip() == str((np.tanh(np.ones((8, 3))) * 2).sum())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_forked_while_tiles_run():
    text = """
with regions.blas():  # as another thread may be in the middle of a call
    regions.blas()._lock.acquire()
    child = os.fork()
    if child == 0:
        f(x)
        assert regions.blas()._running == 0
        os._exit(0)
    regions.blas()._lock.release()
print(os.waitpid(child, 0)[1])
"""
    assert script(text).strip() == "0"


def test_a_compiled_function_inside_an_operation_that_runs_in_tiles():
    text = """
import faulthandler
from minijac.ops import define_elementwise
faulthandler.dump_traceback_later(20, exit=True)
inner = mj.compile(lambda x: np.tanh(x) * 3)
inside = lambda y: time.sleep(0.01) or inner(np.repeat(y, 4, 0))[::4]
g = define_elementwise("inside", inside, lambda y, x: 3.0 - y * y / 3.0)
print(mj.compile(lambda x: g(np.sin(x)) * 2)(x).sum())
"""
    assert float(script(text)) == pytest.approx(24 * 6 * np.tanh(np.sin(1.0)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_an_interrupt_while_the_other_threads_end():
    text = """
import signal
from minijac.ops import define_elementwise
def slow(y):
    time.sleep(0.1 if threading.current_thread() is threading.main_thread() else 1.0)
    return y + 0.0
def stop(*_):
    raise KeyboardInterrupt
before = os.sched_getaffinity(0)
g = mj.compile(lambda x, slow=define_elementwise("slow", slow, 1.0): slow(np.sin(x)) * 2)
g(x)
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.5)
try:
    g(x)
except KeyboardInterrupt:
    print(os.sched_getaffinity(0) == before, regions._placing(os.getpid()).locked())
"""
    assert script(text).split() == ["True", "False"]


def test_an_interrupt_before_the_threads_begin(monkeypatch, tiles_of_two):
    def interrupted():
        raise KeyboardInterrupt

    f = mj.compile(lambda x: np.tanh(x) * 2)
    f(np.ones((8, 3)))
    monkeypatch.setattr(regions, "blas", interrupted)
    with pytest.raises(KeyboardInterrupt):
        f(np.ones((8, 3)))
    assert not regions._placing(os.getpid()).locked()


NEGATIVE = {"negative": lambda y: -y, "times": lambda y: -2.0 * y, "over": lambda y: y / -3}


@pytest.mark.parametrize("name", NEGATIVE)
def test_a_product_that_is_zero_times_a_negative_number_is_minus_zero(name):
    f = lambda x, W: np.arctan2(NEGATIVE[name](x @ W), -1.0)
    for shape in ((40, 3), (40, 0)):
        x, W = np.zeros(shape), np.linspace(-1, 1, shape[1] * 9).reshape(shape[1], 9)
        same(mj.compile(f)(x, W), f(x, W))


@pytest.mark.parametrize("number", [1e-4, 1000])
def test_numbers_scale_products_of_half_precision_after_them(number):
    f = lambda x, W: number * (x @ W)
    x, W = np.full((40, 3), 0.1 / number, np.float16), np.full((3, 9), number / 10, np.float16)
    np.testing.assert_array_equal(mj.compile(f)(x, W), f(x, W))


def test_no_later_pass_counts_the_cost_of_a_product_that_was_scaled(monkeypatch):
    monkeypatch.setattr(simplify, "PASSES", (simplify.scaled_early,))
    program = mj.compile(lambda x, W: 0.5 * (x @ W)).program(np.ones((40, 3)), np.ones((3, 9)))
    assert [step.op.name for step in program.instructions] == ["multiply", "matmul"]


@pytest.mark.parametrize("array", [np.ma.array([1.0, 2.0], mask=[0, 1])])
def test_arrays_with_other_operations_are_refused(array):
    with pytest.raises(mj.InputError, match="plain arrays as arguments, got"):
        mj.compile(lambda x: x.sum())(array)
