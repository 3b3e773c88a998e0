"""Tiles on threads: at the end of the main one, across a fork, in recursion, and when interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from compiled import same

import minijac as mj
from minijac.program.cpu import regions, tiling
from minijac.program.cpu.native import commands, llvm


@pytest.fixture
def tiles_of_two(monkeypatch):
    def first(tiles, arrays):
        plan = tiles._scheduled(2, 2)
        plan(arrays)
        return plan

    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "threads", lambda: 2)
    monkeypatch.setattr(regions.Tiles, "_fastest", first)


def test_a_roll_around_the_whole_batch(tiles_of_two):
    f = lambda x: np.cos(np.roll(np.sin(x), 6, 0))
    x = np.linspace(0, 1, 18).reshape(6, 3)
    same(mj.compile(f)(x), f(x), rtol=1e-15)


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


def test_buffers_are_written_ahead_also_where_no_thread_can_be_started(monkeypatch):
    blas, ran = regions._Blas(), []
    before = blas.threads()

    class One(regions.ThreadPoolExecutor):
        def submit(self, products, /):
            if ran:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            ran.append(super().submit(products))

    monkeypatch.setattr(regions, "ThreadPoolExecutor", One)
    monkeypatch.setattr(regions, "SETTLE", 0.01)
    blas.write_ahead(2)
    assert all(future.result() is None for future in ran)
    assert blas.threads() == before
    blas.write_ahead(2)  # done once
    assert len(ran) <= 1


def test_of_sizes_that_take_the_same_time_the_smallest_is_taken(monkeypatch):
    """One thread that is kept from its CPU then holds up the others by little."""
    tried, f = [], lambda x: np.tanh(np.sin(x) @ np.ones((8, 8)))
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "threads", lambda: 2)
    monkeypatch.setattr(
        regions, "_seconds", lambda schedule, arrays: schedule(arrays) or tried.append(schedule) or 0.01
    )
    x = np.linspace(0, 1, 80000).reshape(10000, 8)
    compiled = mj.compile(f)
    same(compiled(x), f(x), rtol=1e-12)
    (entry,) = compiled._entries.values()
    (tiles,) = entry.executors[0]._tiles
    assert tiles._schedule.size == min(schedule.size for schedule in tried) < 5000
    assert len(tiles._schedule.executors) == 2


@pytest.mark.skipif(not llvm.available(), reason="needs llvmlite")
def test_a_thread_that_comes_when_all_tiles_are_done_is_not_waited_for(monkeypatch, tiles_of_two):
    ready, late = regions._stay_on, threading.Event()

    def begin(cpus):
        if threading.current_thread() is not threading.main_thread():
            assert late.wait(60)
        ready(cpus)

    f = mj.compile(lambda x: np.tanh(x) * 2)
    x = np.linspace(0, 1, 36).reshape(12, 3)
    f(x)
    monkeypatch.setattr(regions, "_stay_on", begin)
    for k in range(3):  # the first call's thread is still at its beginning in the others
        same(f(x + k), np.tanh(x + k) * 2, rtol=1e-15)
    late.set()
    same(f(x), np.tanh(x) * 2, rtol=1e-15)


@pytest.mark.skipif(not llvm.available(), reason="needs llvmlite")
def test_threads_that_share_a_tile_read_one_table(monkeypatch):
    """Of two, one would be gone while it is read."""
    x, start, found = np.ones(4), threading.Barrier(2), list[int]()
    written = commands.Commands(())
    written(np.exp, x, np.empty(4))
    tile = commands.Tile(written.commands, "", [], [], 0)
    monkeypatch.setattr(llvm.Function, "address", property(lambda function: time.sleep(0.02) or 1))

    def ask():
        start.wait()
        found.append(tile.address)

    others = [threading.Thread(target=ask) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert set(found) == {tile._table.ctypes.data}


def test_tiles_are_done_when_all_are(monkeypatch):
    monkeypatch.setattr(commands, "LOOKS", 1000)
    assert [commands.all_done(5, np.array([9, done])) for done in range(7)] == [False] * 5 + [True] * 2


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
    return y.copy()
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
