"""Value and partials in one launch: what is computed so on the second backend, and that it is what it was."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from helpers import random
from nvrtc import ARCHITECTURES, compile_as_cupy

import minijac as mj
from minijac.ops.families import REGISTRY, Elementwise, elementwise
from minijac.ops.scalars import SCALARS
from minijac.ops.special import FADDEEVA, PAIRS, SPECIAL
from minijac.program.gpu import eager
from minijac.program.gpu.eager import source_of
from minijac.program.record import Recorder
from minijac.tape.trace import Trace

FREE = {"exp", "multiply"}
"""Operations whose partials are operands or the value itself: no work."""
OTHERWISE = {
    "astype", "beta", "betaln", "gamma", "gammaln", "i0e", "i1", "i1e", "log_ndtr", "loggamma", "psi", "rgamma", "sinc",
}  # fmt: skip
"""Operations with parameters, or whose value or partial has no C expression."""
OTHERWISE |= {name for name in SPECIAL if name not in SCALARS} | {
    op.name for ops in (*PAIRS.values(), FADDEEVA) for op in ops
}
OPERATIONS = [op for op in REGISTRY.values() if isinstance(op, Elementwise) and any(map(callable, op.partials))]
DTYPES = ["float32", "float64"]
FUSED = [op.name for op in OPERATIONS if op.name not in FREE | OTHERWISE]


def operands_of(name: str, dtype: str) -> list[Any]:
    """Arrays of one shape in the domain of an operation."""
    op = REGISTRY[name]
    sample = op.examples[0]
    drawn = [random(3, 4, low=sample.low, high=sample.high, seed=k).astype(dtype) for k in range(len(op.partials))]
    return [np.broadcast_to(sample.given[k], (3, 4)).copy() if k in sample.given else x for k, x in enumerate(drawn)]


def sources(name: str, dtype: str) -> list[Any]:
    """The kernels of an operation for each choice of operands that are differentiated."""
    op = REGISTRY[name]
    if any(sample.params for sample in op.examples):
        return []
    kinds = tuple([x.dtype.name for x in operands_of(name, dtype)])
    positions = [k for k, partial in enumerate(op.partials) if partial is not None]
    chosen = [each for n in range(1, len(positions) + 1) for each in combinations(positions, n)]
    return [source for each in chosen if (source := source_of(op, kinds, each)) is not None]


def partials_of(name: str, operands: list[Any]) -> Any:
    """The value, and the Jacobians for all operands that have one."""
    op = REGISTRY[name]
    which = tuple(k for k, partial in enumerate(op.partials) if partial is not None)
    return mj.value_and_jacobian(lambda *args: op(*args), which, batch_axis=(0,) * len(operands))(*operands)


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_which_operations_are_fused(op):
    assert bool(sources(op.name, "float64")) == (op.name in FUSED)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUSED)
def test_nothing_changes_but_the_launches(device, monkeypatch, name, dtype):
    operands = device.put(operands_of(name, dtype))
    with device.apart():
        value, jacobians = partials_of(name, operands)
    monkeypatch.setattr(Trace, "eager", None)
    expected, others = partials_of(name, operands)
    rtol = 1e-11 if dtype == "float64" else 1e-5
    for found, before in zip((value, *jacobians), (expected, *others), strict=True):
        assert found.dtype == before.dtype and found.shape == before.shape
        before = before.get()
        np.testing.assert_allclose(found.get(), before, rtol=rtol, atol=rtol * max(1.0, np.abs(before).max()))


@pytest.mark.parametrize("dtype, architecture", zip(DTYPES, ARCHITECTURES, strict=True))
def test_every_kernel_compiles_in_the_form_that_cupy_gives_it(dtype, architecture):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: pip install minijac[cuda12]")
    found = [source for name in FUSED for source in sources(name, dtype)]
    assert len(found) > len(FUSED)
    compile_as_cupy([cupy.ElementwiseKernel(*source[:4], **source.keywords) for source in found], architecture)


# -- launches ----------------------------------------------------------------------------------------------------------
X = random(3, 4, low=0.3, high=2.0, seed=1)


def launches(device: Any, f: Any, *operands: Any, which: Any = 0) -> list[str]:
    """What a forward pass launches, and the local derivatives after it."""
    if device.log is None:
        pytest.skip("launches are counted on the stand-in")
    trace = Trace()
    args = [trace.input(x) if k in np.atleast_1d(which) else x for k, x in enumerate(device.put(operands))]
    device.log.clear()
    f(*args)
    trace.close()
    for node in trace.nodes:
        for k, p in enumerate(node.parents):
            if p >= 0 and k not in node.op.inert:
                node.op.edge(node, k)
    return device.log.launches


@pytest.mark.parametrize("name", FUSED)
def test_one_launch_for_value_and_partials(device, name):
    op = REGISTRY[name]
    which = [k for k, partial in enumerate(op.partials) if partial is not None]
    assert launches(device, op, *operands_of(name, "float32"), which=which) == [f"minijac_{name}"]


def test_numbers_beside_arrays_take_part(device):
    for f in (lambda x: np.maximum(x, 0.5), lambda x: 2.0 / x, lambda x: x**2, lambda x: x**-1.5, lambda x: x**7):
        assert len(launches(device, f, X)) == 1


def test_exponents_that_are_not_whole_share_a_kernel(device):
    assert device
    eager._kernel.cache_clear()
    for p in (0.3, 0.4, 1.7):
        launches(device, lambda x, p=p: x**p, X)
    assert eager._kernel.cache_info().currsize == 1
    assert eager._kernel.cache_info().maxsize == eager.MOST_KERNELS


def test_no_kernel_for_partials_that_are_no_work(device):
    assert launches(device, lambda x, y: np.exp(x) * y + x, X, X, which=(0, 1)) == [
        "cupy_exp", "cupy_multiply", "cupy_add",
    ]  # fmt: skip


def test_operands_that_are_not_differentiated_cost_nothing():
    (source,) = [each for each in sources("divide", "float64") if each.slopes == (0,)]
    assert source.out_params.count(",") == 1 and source.operation.count("out") == 2


def test_operands_that_broadcast_keep_partials_of_their_own_shape(device):
    """A partial that depends on a small operand alone stays small."""
    assert "minijac_divide" not in launches(device, np.divide, X, X[0], which=(0,))


def test_special_values(device):
    edges = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e300, 5e-324])
    a, b = (x.ravel() for x in np.meshgrid(edges, edges))
    for f in (np.maximum, np.fmin, np.hypot, np.arctan2, np.logaddexp, np.power, np.copysign, np.divide):
        with np.errstate(all="ignore"):
            expected = mj.vjp(f, a, b)[1](np.ones_like(a))
        theirs = device.put((a, b))
        found = device.get(mj.vjp(f, *theirs)[1](device.put(np.ones_like(a))))
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-300)


def test_derivatives_of_derivatives(device):
    f = lambda x: np.tanh(x) * np.log1p(x**2) / np.hypot(x, 0.5)
    found = device.get(mj.value_and_hessian(lambda x: f(x).sum(axis=1))(*device.put([X])))
    for x, y in zip(found, mj.value_and_hessian(lambda x: f(x).sum(axis=1))(X), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)


def test_operations_of_users_are_left_alone(device):
    """Their partials may decide by numbers, which no recording of them allows."""
    halves = elementwise(
        "test_halves", lambda x: x / 2, lambda y, x: 0.5 if x.shape[0] > 2 and bool(x.sum() > 0) else y
    )
    try:
        found = mj.vjp(lambda x: halves(x), *device.put([X]))[1](*device.put([X]))[0]
        np.testing.assert_allclose(found.get(), X / 2)
    finally:
        del REGISTRY["test_halves"]


def test_partials_that_read_other_arrays_are_left_alone(device):
    (table,) = device.put([X])
    scaled = elementwise("test_scaled", lambda x: x * table, lambda y, x: table * 1.0)
    try:
        found = mj.vjp(lambda x: scaled(x), *device.put([X]))[1](*device.put([np.ones_like(X)]))[0]
        np.testing.assert_allclose(found.get(), X)
    finally:
        del REGISTRY["test_scaled"]


def test_partials_that_ask_for_shapes_are_left_alone(device):
    spread = elementwise("test_spread", lambda x: x * x, lambda y, x: 2.0 * x if x.size > 5 else x * x)
    try:
        found = mj.vjp(lambda x: spread(x), *device.put([X]))[1](*device.put([np.ones_like(X)]))[0]
        np.testing.assert_allclose(found.get(), 2.0 * X)
    finally:
        del REGISTRY["test_spread"]


def test_a_program_records_the_operation_itself(device):
    recorder, trace = Recorder(), Trace()
    np.tanh(trace.input(recorder.input(*device.put([X]))))
    assert [step.op.name for step in recorder.instructions] == ["tanh"]
    assert trace.nodes[-1].slopes == {}
