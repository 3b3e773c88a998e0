"""Every operation of the registry under compile: value and Jacobian as without, with other data on the second call."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from compiled import same

import minijac as mj
from minijac.ops import REGISTRY

pytest.importorskip("torch")
from registry import CASES, MODES, SMOOTH, calls, cases


@cases(CASES)
def test_value(case):
    compiled = mj.compile(case)
    for operands in calls(case):
        with np.errstate(all="ignore"):
            same(compiled(*operands), case(*operands), rtol=1e-13)
    assert compiled.cache_info().misses == 1


@cases(CASES)
def test_value_of_views(case):
    """Operands that are transposed when replayed, and results that go through views and other operations."""

    def f(*operands: Any) -> Any:
        y = case(*[x.T.T for x in operands])
        return y.T, y + 0 * y, (y.T * 1.0).reshape(-1), np.concatenate([y, y]) if y.ndim else y

    compiled = mj.compile(f)
    for operands in calls(case):
        turned = [np.asarray(x.T, order="C").T for x in operands]
        with np.errstate(all="ignore"):
            same(compiled(*turned), tuple(np.ascontiguousarray(y) if y.ndim else y for y in f(*operands)), rtol=1e-13)


@cases(SMOOTH)
def test_jacobian(case):
    for k, mode in product(case.differentiable, MODES):
        f = mj.value_and_jacobian(case, k, batch_axis=case.batch_axis, mode=mode)
        compiled = mj.compile(f)
        for operands in calls(case):
            same(compiled(*operands), f(*operands), rtol=1e-10)
        assert compiled.cache_info().misses == 1


@cases([case for case in SMOOTH if case.number == 0])
def test_second_derivative_in_single_precision(case):
    single = [[x.astype(np.float32) if x.dtype == float else x for x in operands] for operands in calls(case)]
    for k in case.differentiable:
        f = mj.jacobian(case, k, batch_axis=case.batch_axis)
        f = mj.jacobian(f, k, batch_axis=case.batch_axis, mode="reverse")
        compiled = mj.compile(f)
        for operands in single:
            same(compiled(*operands), f(*operands), rtol=2e-3)


def test_every_operation_is_walked():
    assert {case.name for case in CASES} == set(REGISTRY)
