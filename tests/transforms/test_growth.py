"""Memory grows with the number of samples, not with its square: every transformation of every operation."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from growth import FUNCTIONS, Growth
from registry import NAMES_BATCH, SMOOTH, B, Case, cases

import minijac as mj
from minijac.memo import Memo
from minijac.ops import REGISTRY

FEW, MANY = 33, 264
SLACK = 4
"""For temporary arrays of a first call, which a later one does not make; a square would be off by 8."""
FLOOR = 100_000
"""Python's own objects, which do not grow."""

TRANSFORMATIONS: dict[str, Callable[..., Callable[..., Any]]] = {
    "jacobian": lambda f, k, axes: mj.jacobian(f, k, batch_axis=axes, mode="mixed"),
    "hessian": lambda f, k, axes: mj.hessian(f, k, batch_axis=axes),
    "hessian_diagonal": lambda f, k, axes: mj.hessian_diagonal(f, k, batch_axis=axes),
    "laplacian": lambda f, k, axes: mj.laplacian(f, k, batch_axis=axes),
    "grad of grad": lambda f, k, axes: mj.grad(lambda *x: (mj.grad(lambda *z: f(*z).sum(), k)(*x) ** 2).sum(), k),
}


def peak(call: Callable[[], Any]) -> int:
    """Of a first call: later ones record and replay, at times of their own."""
    Memo.clear_all()
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def grown(operands: list[Any], axes: tuple[int | None, ...], samples: int) -> list[Any]:
    return [x if axis is None else np.concatenate([x] * (samples // B)) for x, axis in zip(operands, axes, strict=True)]


def check_linear(f: Callable[..., Any], k: int, axes: tuple[int | None, ...], few: list[Any], many: list[Any]) -> None:
    for name, transformation in TRANSFORMATIONS.items():
        call = transformation(f, k, axes)
        with np.errstate(all="ignore"):
            call(*few)  # what is imported and compiled once is no part of it
            small, large = peak(lambda call=call: call(*few)), peak(lambda call=call: call(*many))
        assert large <= SLACK * MANY / FEW * max(small, FLOOR), (
            f"{name}: {small:,} bytes of {FEW} samples, {large:,} of {MANY}"
        )


@pytest.mark.slow
@pytest.mark.skipif(
    "MINIJAC_WALK" not in os.environ, reason="a walk over all operations takes half an hour: MINIJAC_WALK=1 make test"
)
@cases([case for case in SMOOTH if case.name not in NAMES_BATCH and case.differentiable])
def test_no_transformation_of_an_operation_takes_more_than_linear_memory(case: Case):
    axes, operands = case.batch_axis, case.operands()
    k = next((k for k in case.differentiable if axes[k] == 0), None)
    if k is None:
        pytest.skip("no operand with samples")
    op = REGISTRY[case.name]

    def f(*x: Any) -> Any:
        samples = len(x[k])
        y = op(*x, **case.sample.params)
        y = y.real + y.imag if y.dtype.kind == "c" else y  # for gradients
        return y if samples in y.shape or not y.ndim else y.reshape(samples, -1, *y.shape[1:])

    check_linear(f, k, axes, grown(operands, axes, FEW), grown(operands, axes, MANY))


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_no_transformation_of_a_composition_does(f):
    x = np.random.default_rng(1).standard_normal((B, 9))
    check_linear(f, 0, (0,), grown([x], (0,), FEW), grown([x], (0,), MANY))


def test_the_sweep_tells_a_square_from_a_line():
    line, square = ([1e6 * n**power for n in (64, 256, 1024)] for power in (1, 2))
    assert not Growth("bytes", line).too_fast
    assert Growth("bytes", square).too_fast
