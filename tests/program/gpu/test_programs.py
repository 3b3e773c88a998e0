"""Whole programs on the emulated device: the workloads of the benchmarks.

Each source that is run is compiled by NVRTC too.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
import optree
import pytest
from emulated import COMPILER, WHY_NOT, Device
from nvrtc import compiles

import minijac as mj
from minijac.program.entry import record
from minijac.program.gpu.executor import GraphExecutor

pytest.importorskip("torch")
from programs import axon
from workloads import WORKLOADS

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads(name):
    """Each with a few samples, three times: launched, captured, replayed, with other inputs each time."""
    workload = WORKLOADS[name]
    data = workload.data()
    data |= {key: data[key][:5] for key in ("x", "y") if key in data}
    call = workload.minijac(data)
    entry = record(call.function, call.arguments, {})
    device = Device()
    run = GraphExecutor(entry.program, device)
    assert not run.report.uncaptured
    assert run.report.captured
    tree = optree.tree_structure(call.arguments)
    for k in range(3):
        leaves = [(x * (1.0 + 0.1 * k)).astype(x.dtype) for x in optree.tree_leaves(call.arguments)]
        exact = [x.astype(np.float64) for x in leaves]
        arguments = optree.tree_unflatten(tree, exact)
        expected = workload.minijac(as_doubles(data)).function(*arguments)
        result = joined(entry, run.run(*leaves))
        eager = cache(lambda leaves=leaves: dense_leaves(call.function(*optree.tree_unflatten(tree, leaves))))
        for n, (y, z) in enumerate(zip(*map(dense_leaves, (result, expected)), strict=True)):
            assert y.dtype == np.float32
            assert y.shape == z.shape
            error = np.abs(y - z).max()
            if not error <= 2e-5 * max(1.0, np.abs(z).max()):  # single precision's own, over hundreds of steps
                assert error <= 2 * np.abs(eager()[n] - z).max()
    compiles(run.source)


def dense_leaves(tree: Any) -> list[Any]:
    return [x.todense() if isinstance(x, mj.Jacobian) else x for x in optree.tree_leaves(tree)]


def as_doubles(data: Any) -> Any:
    return optree.tree_map(lambda x: x.astype(np.float64), data)


def joined(entry: Any, results: Any) -> Any:
    """The leaves of the tree that a compiled function would return."""
    return list(results) if entry.parts is None else optree.tree_unflatten(entry.parts, results)


def test_a_loop_costs_by_its_steps_and_its_code_by_the_body():
    """Equal steps are the same kernels, and twice as many of them are planned in about twice as many events."""
    sources, events = [], []
    s = np.array([-60.0, 0.1, 0.6, 0.35], np.float32) + np.zeros((3, 4), np.float32)
    for steps in (20, 40):
        program = record(lambda s, n=steps: mj.jacobian(lambda s: axon(np, s, n))(s), (s,), {}).program
        counted: list[str] = []
        sys.setprofile(lambda frame, event, arg, counted=counted: counted.append(event))  # type: ignore[misc]
        try:
            run = GraphExecutor(program, Device())
        finally:
            sys.setprofile(None)
        sources.append(run.source)
        events.append(len(counted))
    assert sources[0] == sources[1]
    assert events[1] < 2.3 * events[0]
