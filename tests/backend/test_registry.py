"""The registry on the second backend: every operation and way to a derivative gives there what it gives in NumPy.

The NumPy results are those that the walk of `ops` holds against torch. Nothing may look at the device's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from gpu import Device

import minijac as mj

pytest.importorskip("torch")
from registry import MODES, Case, every_case, every_smooth_case

LACKING = {"iv": 0, "ive": 0, "i1": 1, "i1e": 1, "i0": 2, "i0e": 2, "spacing": 0}
"""Operations of which CuPy lacks the function itself, or one that their derivative of an order needs."""
WAITS = {"det", "cofactor", "cofactor_slope", "inverse_transposed", "logabsdet"}
"""Operations that look whether a matrix is singular."""


def same(device: Device, found: Any, expected: Any, rtol: float = 1e-10) -> None:
    """On the device, and equal in shape, dtype and value."""
    assert isinstance(found, device.xp.ndarray), f"{type(found)} is not of the device"
    found = found.get()
    assert found.dtype == expected.dtype and found.shape == expected.shape
    scale = max(1.0, np.abs(expected).max(initial=0.0)) if expected.dtype.kind == "f" else 1.0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale)


def compare(
    device: Device, case: Case, f: Callable[..., Any], rtol: float = 1e-10, dtype: Any = None, order: int = 1
) -> None:
    """`f` of the case's operands, here and there; `order` derivatives are taken."""
    operands = [x.astype(dtype) if dtype and x.dtype.kind == "f" else x for x in case.operands()]
    theirs = device.put(operands)
    if order >= LACKING.get(case.name, 9):
        with pytest.raises(mj.UnsupportedOperationError, match="CuPy has no such function"):
            f(*theirs)
        return
    if case.name in WAITS:
        found = f(*theirs)
    else:
        with device.apart():
            found = f(*theirs)
    expected = f(*operands)
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        same(device, a, np.asarray(b), rtol)
        assert f is case or a.flags.c_contiguous


def leaves(x: Any) -> list[Any]:
    return [leaf for part in x for leaf in leaves(part)] if isinstance(x, tuple) else [x]


def value(device: Device, case: Case) -> None:
    compare(device, case, case, 1e-13, order=0)


def jacobians(device: Device, case: Case) -> None:
    for k, mode in product(case.differentiable, MODES):
        compare(device, case, mj.value_and_jacobian(case, k, batch_axis=case.batch_axis, mode=mode))


def single_precision(device: Device, case: Case) -> None:
    for k, mode in product(case.differentiable, MODES[:2]):
        f = mj.value_and_jacobian(case, k, batch_axis=case.batch_axis, mode=mode)
        compare(device, case, f, 2e-5, np.float32)


def second_order(device: Device, case: Case) -> None:
    for j, k in product(case.differentiable, repeat=2):
        for inner, outer in product(MODES[:2], repeat=2):
            first = mj.jacobian(case, j, batch_axis=case.batch_axis, mode=inner)
            compare(device, case, mj.jacobian(first, k, batch_axis=case.batch_axis, mode=outer), order=2)


def products(device: Device, case: Case) -> None:
    """Both ends, with tangents and cotangents of the device's."""

    def both(*operands: Any) -> Any:
        primals = tuple(operands[k] for k in case.differentiable)
        f = lambda *xs: case(*[xs[case.differentiable.index(k)] if k in case.differentiable else x
                               for k, x in enumerate(operands)])  # fmt: skip
        y, y_dot = mj.jvp(f, primals, tuple(x * 0.5 + 1.0 for x in primals))
        y, pullback = mj.vjp(f, *primals)
        return y, y_dot, pullback(y * 0.5 + 1.0)

    compare(device, case, both)


def structured(device: Device, case: Case) -> None:
    def operator(k: int, mode: str) -> Callable[..., Any]:
        def f(*operands: Any) -> Any:
            J = mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode, structured=True)(*operands)
            return J.todense(), J @ (operands[k] + 1.0)

        return f

    for k, mode in product(case.differentiable, MODES[:2]):
        compare(device, case, operator(k, mode))


def policies(device: Device, case: Case) -> None:
    for k, policy in product(case.differentiable, ("diagonal", "full")):
        compare(device, case, mj.jacobian(case, k, batch_axis=case.batch_axis, on_mixing=policy))


def chunks(device: Device, case: Case) -> None:
    for k, mode in product(case.differentiable, MODES[:2]):
        compare(device, case, mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode, chunk_size=3))


CHECKS = [jacobians, single_precision, second_order, products, structured, policies, chunks]


@every_case
def test_value(device, case):
    value(device, case)


@every_smooth_case
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_derivatives(device, case, check):
    check(device, case)
