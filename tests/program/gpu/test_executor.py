"""The GPU executor's logic on the emulated device: graphs, memory, inputs, results, and what falls back, visibly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import optree
import pytest
from compiled import RESULTS, same
from emulated import COMPILER, WHY_NOT, Device
from helpers import net, random
from hypothesis import given
from hypothesis import strategies as st

import minijac as mj
from minijac.program.entry import record
from minijac.program.gpu.executor import GraphExecutor
from minijac.program.gpu.memory import ALIGNMENT, SMALL, arranged
from minijac.program.gpu.steps import CupyCall

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)

X = random(3, 5, seed=1)


def bound(function: Callable[..., Any], *arguments: Any, device: Device | None = None, **more: Any) -> GraphExecutor:
    return GraphExecutor(record(function, arguments, {}).program, device or Device(), **more)


def launches(run: GraphExecutor, *arguments: Any) -> list[str]:
    """What one call asked the device for."""
    run.runtime.calls.clear()  # type: ignore[attr-defined]
    run.run(*arguments)
    return list(run.runtime.calls)  # type: ignore[attr-defined]


def agrees_silently(run: GraphExecutor, calls: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(calls):
            same(run.run(X + k)[0], mj.jacobian(net)(X + k), rtol=1e-10)


# --- graphs -------------------------------------------------------------------------------------------------------


def test_the_first_call_launches_the_second_captures_and_later_ones_replay():
    run = bound(mj.jacobian(net), X)
    first, second, third, fourth = (launches(run, X + k) for k in range(4))
    assert "gemm" in first and "graph" not in first
    assert second.index("capture") < second.index("graph")
    assert "capture" not in third
    assert third == fourth
    assert third[:3] == ["order", "copy", "graph"]
    assert third[-1] == "copy"
    assert run.report.captured
    assert run.report.reason is None


def test_what_has_no_kernel_is_called_between_two_graphs_and_named():
    def f(x: Any) -> Any:
        y = np.tanh(x) @ x.T
        return np.sort(y, axis=1) * 2.0 + np.linalg.inv(y + 4.0 * np.eye(3))

    run = bound(f, X)
    assert set(run.report.uncaptured) == {"argsort", "inv"}
    segments = run._launcher.segments(run.memory.layout.early, run.memory.addresses)
    kinds = ["foreign" if isinstance(segment, CupyCall) else "graph" for segment in segments]
    assert kinds.count("foreign") == 2
    assert all(a != b or a == "foreign" for a, b in pairwise(kinds))
    for k in range(3):
        same(run.run(X + k)[0], f(X + k), rtol=1e-12)
    assert launches(run, X).count("graph") == kinds.count("graph")
    assert "called through CuPy" in str(run.report)


def test_without_bindings_for_matmuls_they_are_launched_one_by_one_and_it_says_so_once():
    device = Device(why_no_graphs="no nvmath here")
    with pytest.warns(RuntimeWarning, match="no nvmath here") as caught:
        run = bound(mj.jacobian(net), X, device=device)
    assert len(caught) == 1
    agrees_silently(run, 3)
    assert not run.report.captured
    assert run.report.reason == "no nvmath here"
    assert "capture" not in device.calls
    assert "launched one by one: no nvmath here" in str(run.report)


def test_a_program_without_matmuls_needs_no_bindings_for_them():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = bound(mj.jacobian(np.tanh), X, device=Device(why_no_graphs="no nvmath here"))
        for _ in range(3):
            run.run(X)
    assert run.report.captured
    assert "graph" in run.runtime.calls  # type: ignore[attr-defined]


def test_a_capture_that_fails_is_said_once_and_the_launches_go_on():
    run = bound(mj.jacobian(net), X, device=Device(refuses_capture=True))
    run.run(X)
    with pytest.warns(RuntimeWarning, match="no graphs here") as caught:
        run.run(X)
    assert len(caught) == 1
    agrees_silently(run, 3)
    assert not run.report.captured
    assert "no graphs here" in str(run.report.reason)


# --- inputs -------------------------------------------------------------------------------------------------------


def test_inputs_may_lie_in_memory_in_any_way():
    run = bound(lambda x: np.sin(x) + x[:, ::-1], X)
    for x in (X, X.copy("F"), random(5, 3, seed=2).T, random(6, 10, seed=3)[::2, ::-2]):
        same(run.run(x)[0], np.sin(x) + x[:, ::-1], rtol=1e-14)


def test_large_inputs_from_the_same_memory_are_read_in_place():
    x, other = random(400, 400, seed=4), random(400, 400, seed=5)
    device = Device()
    x, other = device.upload(x), device.upload(other)
    run = bound(lambda x: (x * 2.0).sum(1), x, device=device)
    seen = []
    for array in (x, x, x, x, other, x, other, other, other):
        seen.append(launches(run, array).count("copy"))
        array += 1.0
        same(run.run(array)[0], (array * 2.0).sum(1), rtol=1e-12)
    assert seen[0] == 2
    assert seen[3] == 1  # that of the result


def test_writes_to_captured_arrays_are_seen():
    W = random(5, 4, seed=6)
    V = random(4, 6, seed=7)[:, ::-2]
    f = mj.jacobian(lambda x: np.tanh(x @ W) @ V + W[0, :1])
    run = bound(f, X)
    for k in range(4):
        same(run.run(X)[0], f(X), rtol=1e-10)
        W += 0.1 * k
        V *= 1.5


def test_numbers_among_the_arguments_are_read_in_every_call():
    run = bound(lambda x, a, n: np.tanh(x * a) ** 2 + n, X, 0.5, 2)
    for a, n in ((0.5, 2), (1.5, -3), (-2.0, 7)):
        same(run.run(X, a, n)[0], np.tanh(X * a) ** 2 + n, rtol=1e-14)


def test_numbers_stay_on_the_host_through_any_operation():
    f = lambda x, a: (x * mj.ops.elementwise.cast(a, dtype=np.dtype(np.float32)), np.tanh(a) * x, np.floor(a * 3.0))
    run = bound(f, X, 0.7)
    for a in (0.7, -2.5):
        for y, z in zip(run.run(X, a), f(X, np.float64(a)), strict=True):
            same(np.asarray(y), np.asarray(z), rtol=1e-14)


# --- results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in RESULTS if name != "constants"])
def test_results_are_new_arrays_that_no_later_call_writes_to(name):
    f = RESULTS[name]
    entry = record(f, (X,), {})
    run = GraphExecutor(entry.program, Device())
    inputs = [X, X + 1.0, X - 2.0, X * 3.0]
    results = [run.run(x) for x in inputs]
    start, end = run.runtime.address(run.memory.block), run.runtime.address(run.memory.block) + run.memory.block.nbytes
    for x, found in zip(inputs, results, strict=True):
        expected = optree.tree_leaves(f(x))
        for y, z in zip(found, expected, strict=True):
            if isinstance(z, np.ndarray):
                same(y, np.ascontiguousarray(z) if z.ndim else z, rtol=1e-12)
                assert y.flags.c_contiguous
                assert not start <= run.runtime.address(y) < end
                assert not np.shares_memory(y, x)


def test_small_results_are_copied_out_together():
    run = bound(lambda x: [np.sin(x) * k for k in range(5)], X)
    for _ in range(2):
        run.run(X)
    calls = launches(run, X)
    assert calls == ["order", "copy", "graph", "copy"]


def test_large_results_are_written_where_they_stay():
    x = random(200, 100, seed=8)
    assert x.nbytes > SMALL
    run = bound(lambda x: np.exp(x) - 1.0, x)
    calls = launches(run, x)
    assert calls == ["order", "copy", "kernel"]
    assert run.nbytes == -(-x.nbytes // ALIGNMENT) * ALIGNMENT  # that of the input
    run = bound(lambda x: (y := np.exp(x), (y @ y.T).sum()), x)  # one that is read again is copied
    assert launches(run, x).count("copy") == 3
    same(run.run(x)[0], np.exp(x), rtol=1e-14)


def test_a_scatter_into_a_large_result_is_filled_first():
    x, positions = random(3, 60, 60, seed=9), np.arange(60) % 7
    y = np.zeros((3, 60, 60))
    for k, p in enumerate(positions):
        y[:, p] += x[:, k]
    f = lambda x: mj.ops.indexing.deposit(x, positions, axis=1, size=60)
    run = bound(f, x)
    for _ in range(3):
        same(run.run(x)[0], y, rtol=1e-12)


# --- memory -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8), st.integers(0, 5000)), max_size=30))
def test_buffers_that_live_at_the_same_time_do_not_overlap(sizes):
    lives = {n: (first, first + length, nbytes) for n, (first, length, nbytes) in enumerate(sizes)}
    offsets, size = arranged(lives)
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    for n, (first, last, nbytes) in lives.items():
        assert offsets[n] + nbytes <= size
        for m, (begins, ends, other) in lives.items():
            if m != n and first <= ends and begins <= last and nbytes and other:
                assert offsets[n] + nbytes <= offsets[m] or offsets[m] + other <= offsets[n]


def test_memory_is_reused_along_a_chain():
    W = [random(64, 64, seed=k) for k in range(12)]

    def f(x: Any) -> Any:
        for w in W:
            x = np.tanh(x @ w)
        return x.sum()

    x = random(64, 64, seed=20)
    run = bound(f, x)
    assert run.report.matmuls == 12
    assert run.memory.layout.size <= 3 * x.nbytes + 4 * ALIGNMENT
    same(run.run(x)[0], np.asarray(f(x)), rtol=1e-10)
    assert run.nbytes == run.memory.layout.size + run.runtime.workspace


def test_tf32_is_off_unless_it_is_asked_for():
    asked = []

    class Watched(Device):
        def gemm(self, call: Any, addresses: Any, tf32: bool, workspace: int) -> Any:
            asked.append(tf32)
            return super().gemm(call, addresses, tf32, workspace)

    for tf32 in (False, True):
        run = bound(net, X, device=Watched(), tf32=tf32)
        run.run(X)
        assert set(asked) == {tf32}
        assert run.report.tf32 == tf32
        asked.clear()
