"""Whole programs on the emulated device: every operation of the registry with its Jacobians, and the workloads.

Each source that is run is compiled by NVRTC too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import pytest
from compiled import same
from emulated import COMPILER, WHY_NOT, Device
from nvrtc import compiles

import minijac as mj
from minijac.program.compiled import record
from minijac.program.gpu.executor import GraphExecutor

pytest.importorskip("torch")
from registry import GROUPS, calls, value_and_jacobians
from workloads import WORKLOADS

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0].name}-to-{group[-1].name}")
def test_every_operation_with_its_jacobians(group):
    """Twelve of them in one program, on the operands of the recording and on others."""

    def f(operands: Any) -> Any:
        return [value_and_jacobians(case, xs) for case, xs in zip(group, operands, strict=True)]

    numbers = [list(each) for each in zip(*(calls(case) for case in group), strict=True)]
    with np.errstate(all="ignore"):
        entry = record(f, (numbers[0],), {})
        run = GraphExecutor(entry.program, Device())
        for operands in numbers:
            found = run.run(*optree.tree_leaves(operands))
            expected = f(operands)
            position = 0
            for case, results in zip(group, expected, strict=True):
                for y in results:
                    try:
                        same(np.asarray(found[position]), np.asarray(y), rtol=1e-9)
                    except AssertionError as error:
                        raise AssertionError(f"{case.name}-{case.number}: {error}") from None
                    position += 1
    if run.source.count("KERNEL") > 1:
        compiles(run.source)


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
