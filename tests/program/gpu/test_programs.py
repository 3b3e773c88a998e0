"""Whole programs on the emulated device: the workloads of the benchmarks.

Each source that is run is compiled by NVRTC too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import pytest
from emulated import COMPILER, WHY_NOT, Device
from nvrtc import compiles

import minijac as mj
from minijac.program.compiled import record
from minijac.program.gpu.executor import GraphExecutor

pytest.importorskip("torch")
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
    for k in range(3):
        leaves = [(x * (1.0 + 0.1 * k)).astype(x.dtype) for x in optree.tree_leaves(call.arguments)]
        exact = [x.astype(np.float64) for x in leaves]
        arguments = optree.tree_unflatten(optree.tree_structure(call.arguments), exact)
        expected = optree.tree_leaves(workload.minijac(as_doubles(data)).function(*arguments))
        expected = [x.todense() if isinstance(x, mj.Jacobian) else x for x in expected]
        result = joined(entry, run.run(*leaves))
        found = [x.todense() if isinstance(x, mj.Jacobian) else x for x in optree.tree_leaves(result)]
        for y, z in zip(found, expected, strict=True):
            assert y.dtype == np.float32
            assert y.shape == z.shape
            assert np.abs(y - z).max() <= 2e-5 * max(1.0, np.abs(z).max())
    compiles(run.source)


def as_doubles(data: Any) -> Any:
    return optree.tree_map(lambda x: x.astype(np.float64), data)


def joined(entry: Any, results: Any) -> Any:
    """The leaves of the tree that a compiled function would return."""
    return list(results) if entry.parts is None else optree.tree_unflatten(entry.parts, results)
