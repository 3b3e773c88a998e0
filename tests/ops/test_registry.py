"""Every operation of the registry, on every sample of its record, against torch and against itself.

The inputs are random in the sample's domain; operands have three samples on their first axis, but for those that the
record calls shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest

import minijac as mj
import minijac.testing
from minijac.ops import REGISTRY
from minijac.ops.families import Elementwise, Example, elementwise, structural
from minijac.tape.traced import is_traced

torch = pytest.importorskip("torch")
from registry import (  # noqa: E402 - needs torch
    CASES,
    KINDS,
    MODES,
    NAMES_BATCH,
    SMOOTH,
    B,
    Case,
    cases,
    every_case,
    in_real_numbers,
)
from torch_ops import COMPLEX, TORCH  # noqa: E402

# --- the truth ----------------------------------------------------------------------------------------------


def tensors(arrays: Sequence[np.ndarray]) -> list[Any]:
    return [torch.tensor(x if x.dtype == bool else x.astype(np.float64)) for x in arrays]


@cache
def whole_jacobian(case: Case, k: int) -> np.ndarray:
    """All of ``(*out, *in)`` by torch's reverse mode in float64."""
    given = tensors(case.operands())
    return torch.autograd.functional.jacobian(alone(case.in_torch, k, given), given[k]).numpy()


@cache
def out_axis(case: Case) -> int:
    """The axis of the output that holds the samples: the one along which each depends on its own operands alone."""
    y = case(*case.operands())
    batched = [k for k in case.differentiable if k not in case.sample.shared]
    for axis in (axis for axis, n in enumerate(y.shape) if n == B):
        for k in batched:
            J = np.moveaxis(whole_jacobian(case, k), (axis, y.ndim), (0, 1))
            if J[~np.eye(B, dtype=bool)].any():
                break
        else:
            return axis
    raise AssertionError(f"{case}: no axis of the output, of shape {y.shape}, keeps the samples apart")


def per_sample(case: Case, whole: np.ndarray, k: int) -> np.ndarray:
    """(B, *out, *in) from (*out, *in), or (B, *out, *operand) for a shared operand."""
    y = case(*case.operands())
    axis = out_axis(case)
    if case.batch_axis[k] is None:
        return np.moveaxis(whole, axis, 0)
    return np.moveaxis(np.diagonal(whole, axis1=axis, axis2=y.ndim), -1, 0)


def weighted_second_derivative(case: Case, weights: np.ndarray, j: int, k: int) -> np.ndarray:
    """d/dx_k d/dx_j of ``sum(weights * y)`` by torch: (B, *x_j, *x_k), or (*x_j, *x_k) where both are shared."""
    given = tensors(case.operands())

    def gradient(x: Any) -> Any:
        operands = [*given[:k], x, *given[k + 1 :]]
        if j != k:
            operands[j] = operands[j].clone().requires_grad_()
        total = (case.in_torch(*operands) * torch.from_numpy(weights)).sum()
        (result,) = torch.autograd.grad(total, operands[j], create_graph=True, allow_unused=True)
        return torch.zeros_like(operands[j]) + (0.0 if result is None else result) + 0.0 * x.sum()

    H = torch.autograd.functional.jacobian(gradient, given[k]).numpy()
    first = given[j].ndim
    samples = case.batch_axis[j], case.batch_axis[k]
    if samples == (0, 0):
        return np.moveaxis(np.diagonal(H, axis1=0, axis2=first), -1, 0)
    return np.moveaxis(H, first, 0) if samples == (None, 0) else H


def close(actual: Any, expected: Any, rtol: float) -> None:
    """Equal in shape, and to `rtol` of the largest entry in value."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * max(1.0, np.abs(expected).max(initial=0.0)))


# --- the checks ---------------------------------------------------------------------------------------------


def check_value(case: Case) -> None:
    operands = case.operands()
    y = case(*operands)
    expected = case.in_torch(*tensors(operands)).numpy()
    assert y.dtype.kind == expected.dtype.kind
    close(y.astype(float), expected.astype(float), 1e-13)
    if case in SMOOTH:
        primals = tuple(operands[k] for k in case.differentiable)
        close(mj.jvp(lambda *xs: case(*merged(case, xs)), primals, primals)[0], y, 0.0)


def check_first_order(case: Case, rtol: float = 1e-10) -> None:
    """The Jacobian for each operand is torch's, from either end."""
    operands = case.operands()
    for k, mode in product(case.differentiable, MODES):
        J = mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode)(*operands)
        close(J, per_sample(case, whole_jacobian(case, k), k), rtol)


def check_single_precision(case: Case) -> None:
    operands = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in case.operands()]
    for k, mode in product(case.differentiable, MODES):
        y, J = mj.value_and_jacobian(case, k, batch_axis=case.batch_axis, mode=mode)(*operands)
        assert J.dtype == np.result_type(y, operands[k])
        assert y.dtype == case.sample.params.get("dtype", y.dtype)
        close(J, per_sample(case, whole_jacobian(case, k), k), 2e-5)


def check_second_order(case: Case, rtol: float = 1e-9) -> None:
    """The Jacobian of the Jacobian is torch's, both summed with random weights over the outputs."""
    operands = case.operands()
    y = case(*operands)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, y.shape)
    own = np.moveaxis(weights, out_axis(case), 0)
    for j, k in product(case.differentiable, repeat=2):
        expected = weighted_second_derivative(case, weights, j, k)
        for inner, outer in product(MODES[:2], repeat=2):
            first = mj.jacobian(case, j, batch_axis=case.batch_axis, mode=inner)
            H = mj.jacobian(first, k, batch_axis=case.batch_axis, mode=outer)(*operands)
            summed = np.stack([np.tensordot(w, h, w.ndim) for w, h in zip(own, H, strict=True)])
            if case.batch_axis[j] is case.batch_axis[k] is None:
                summed = summed.sum(0)
            close(summed, expected, rtol)


def check_adjoint(case: Case) -> None:
    """<J v, w> == <v, J^T w>, for all operands at once."""
    operands = case.operands()
    primals = tuple(operands[k] for k in case.differentiable)
    if not primals:  # all are held fixed
        return
    rng = np.random.default_rng(1)
    f = lambda *xs: case(*merged(case, xs))
    tangents = tuple(rng.uniform(-1, 1, x.shape) for x in primals)
    y, y_dot = mj.jvp(f, primals, tangents)
    w = rng.uniform(-1, 1, y.shape)
    y_again, pullback = mj.vjp(f, *primals)
    close(y_again, y, 0.0)
    expected = sum(np.vdot(v, v_bar) for v, v_bar in zip(tangents, pullback(w), strict=True))
    np.testing.assert_allclose(np.vdot(y_dot, w), expected, rtol=1e-11, atol=1e-11)


def check_samples_are_independent(case: Case) -> None:
    """Example i among copies of itself has the Jacobian that it has among the others, to the last bit but rounding."""
    operands = case.operands()
    for k in case.differentiable:
        J = mj.jacobian(case, k, batch_axis=case.batch_axis)(*operands)
        for i in range(B):
            copies = [x if a is None else np.stack([x[i]] * B) for x, a in zip(operands, case.batch_axis, strict=True)]
            close(mj.jacobian(case, k, batch_axis=case.batch_axis)(*copies)[i], J[i], 1e-13)


def check_batch_equals_loop(case: Case) -> None:
    """One sample at a time gives the same, where no parameter names the number of samples."""
    if case.name in NAMES_BATCH:
        return
    operands = case.operands()
    op = lambda *xs: in_real_numbers(REGISTRY[case.name](*xs, **case.sample.params))
    for k, mode in product(case.differentiable, MODES[:2]):
        J = mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode)(*operands)
        for i in range(B):
            one = [x if a is None else x[i : i + 1] for x, a in zip(operands, case.batch_axis, strict=True)]
            close(mj.jacobian(op, k, batch_axis=case.batch_axis, mode=mode)(*one), J[i : i + 1], 1e-13)


def check_structured(case: Case) -> None:
    operands = case.operands()
    for k, mode in product(case.differentiable, MODES[:2]):
        J = mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode)(*operands)
        S = mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode, structured=True)(*operands)
        assert S.shape == J.shape and S.dtype == J.dtype
        close(S.todense(), J, 1e-13)
        v = np.random.default_rng(2).uniform(-1, 1, operands[k].shape)
        each = [v] * B if case.batch_axis[k] is None else v
        close(S @ v, np.stack([np.tensordot(a, b, np.ndim(b)) for a, b in zip(J, each, strict=True)]), 1e-12)


def check_without_batch(case: Case) -> None:
    """With no batch axis, the ordinary Jacobian."""
    operands = case.operands()
    for k, mode in product(case.differentiable, MODES):
        close(mj.jacobian(case, k, batch_axis=None, mode=mode)(*operands), whole_jacobian(case, k), 1e-10)


def check_shared_operand(case: Case) -> None:
    """An operand that all samples share, beside others with samples: every sample's derivative for all of it."""
    operands = case.operands()
    for k, mode in product(case.differentiable, MODES[:2]):
        axes = tuple(None if j == k else axis for j, axis in enumerate(case.batch_axis))
        if any(axis is not None for axis in axes):
            J = mj.jacobian(case, k, batch_axis=axes, mode=mode)(*operands)
            close(J, np.moveaxis(whole_jacobian(case, k), out_axis(case), 0), 1e-10)


def check_numbers(case: Case) -> None:
    """Python numbers, NumPy's, and arrays without axes in place of all operands but one, in elementwise operations."""
    operands = case.operands()
    if not isinstance(REGISTRY[case.name], Elementwise) or len(operands) == 1:
        return
    for k, kind in product(case.differentiable, (float, np.float64, np.asarray)):
        given: list[Any] = [kind(x.flat[0]) if x.dtype.kind == "f" else x for x in operands]
        op = alone(partial(REGISTRY[case.name], **case.sample.params), k, given)
        tensors = [torch.tensor(np.asarray(x)) for x in given]
        truth = alone(partial(TORCH[case.name], **case.sample.params), k, tensors)
        expected = torch.autograd.functional.jacobian(truth, torch.tensor(operands[k])).numpy()
        for mode in MODES[:2]:
            close(mj.jacobian(op, batch_axis=None, mode=mode)(operands[k]), expected, 1e-10)


def alone(f: Callable[..., Any], k: int, operands: Sequence[Any]) -> Callable[[Any], Any]:
    """`f` as a function of its operand `k` alone."""
    return lambda x: f(*operands[:k], x, *operands[k + 1 :])


def check_chunks(case: Case) -> None:
    operands = case.operands()
    for k, mode in product(case.differentiable, MODES[:2]):
        J = mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode)(*operands)
        close(mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode, chunk_size=3)(*operands), J, 1e-13)


def check_bounded(case: Case) -> None:
    """One sample at a time, each with the local derivatives of its own alone."""
    operands = case.operands()
    for k, mode in product(case.differentiable, MODES[:2]):
        how = {"batch_axis": case.batch_axis, "mode": mode}
        with pytest.raises(mj.InputError) as error:
            mj.jacobian(case, k, max_bytes=1, **how)(*operands)
        least = int(str(error.value).split("Give it max_bytes=")[1].split(" ")[0].replace(",", ""))
        close(mj.jacobian(case, k, max_bytes=least, **how)(*operands), mj.jacobian(case, k, **how)(*operands), 1e-13)


def merged(case: Case, differentiable: Sequence[Any]) -> list[Any]:
    """All operands, with others in place of the differentiable ones."""
    operands: list[Any] = list(case.operands())
    for k, x in zip(case.differentiable, differentiable, strict=True):
        operands[k] = x
    return operands


CHECKS: dict[Callable[[Case], None], list[Case]] = {
    **dict.fromkeys(
        (check_first_order, check_single_precision, check_second_order, check_adjoint, check_numbers), SMOOTH
    ),
    **dict.fromkeys((check_samples_are_independent, check_batch_equals_loop, check_structured), KINDS),
    **dict.fromkeys((check_without_batch, check_shared_operand, check_chunks, check_bounded), KINDS),
}
"""Each with the cases that it is made for."""
CHECKED = {f"{check.__name__.removeprefix('check_')}-{case.name}-{case.number}": (check, case)
           for case in CASES for check, chosen in CHECKS.items() if case in chosen}  # fmt: skip
"""Case by case, each of which has one truth."""


# --- the tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRY)
def test_every_operation_has_samples_and_a_truth(name):
    assert REGISTRY[name].examples, f"{name} is registered without samples: say how to call it in its record"
    assert name in TORCH or name in COMPLEX, (
        f"{name} has no entry in tests/support/torch_ops.py: say what it is in torch"
    )


def test_the_table_of_truths_names_no_operation_that_is_gone():
    assert set(TORCH) | set(COMPLEX) <= set(REGISTRY)


@every_case
def test_value(case):
    check_value(case)


@pytest.mark.parametrize("check, case", CHECKED.values(), ids=CHECKED)
def test_derivatives(check, case):
    check(case)


@every_case
def test_samples_on_the_first_axis_of_all_operands_that_are_not_shared(case):
    sizes = {shape[0] for k, shape in enumerate(case.sample.shapes) if k not in case.sample.shared}
    assert sizes == {B}


@cases([case for case in CASES if case not in SMOOTH])
def test_operations_without_a_derivative_are_not_recorded(case):
    seen = []

    def f(*operands: Any) -> Any:
        y = REGISTRY[case.name](*operands, **case.sample.params)
        seen.append(is_traced(y))
        return y * 1.0

    operands = case.operands()
    for k in case.differentiable:
        J = mj.jacobian(f, k, batch_axis=case.batch_axis)(*operands)
        assert not J.any()
        assert J.shape == (B, *f(*operands).shape[1:], *operands[k].shape[case.batch_axis[k] is not None :])
    assert not any(seen)


@cases([case for case in SMOOTH if REGISTRY[case.name].inert])
def test_inert_operands_carry_no_derivative(case):
    operands = case.operands()
    for k in REGISTRY[case.name].inert:
        if operands[k].dtype.kind == "f":
            assert not mj.jacobian(case, k, batch_axis=case.batch_axis)(*operands).any()


# --- the tests are tested -------------------------------------------------------------------------------------


def _slope_times(factor: float) -> Callable[[Any, Any], Any]:
    return lambda y, x: factor * np.cos(x)


def _frozen_slope(y: Any, x: Any) -> Any:
    """The right derivative, of which nothing more can be taken."""
    return np.cos(minijac.stop_gradient(x))


def _sum_without_its_scale(*args: Any) -> Any:
    from minijac.ops.structural import _sum_relation

    return _sum_relation(*args, axis=(1,))


WRONG = {
    "a factor off by a thousandth": (
        lambda: elementwise("wrong", np.sin, _slope_times(1.001), examples=[Example(((3, 4),))]),
        torch.sin,
        1,
    ),
    "a sign": (
        lambda: elementwise("wrong", np.subtract, 1.0, 1.0, examples=[Example(((3, 4), (3, 4)))]),
        torch.subtract,
        1,
    ),
    "a missing derivative": (
        lambda: elementwise("wrong", np.multiply, lambda y, a, b: b, 0.0, examples=[Example(((3, 4), (3, 4)))]),
        torch.multiply,
        1,
    ),
    "a missing scale": (
        lambda: structural("wrong", lambda x: x.mean(1), _sum_without_its_scale, [Example(((3, 4),))]),
        lambda x: x.mean(1),
        1,
    ),
    "a second derivative": (
        lambda: elementwise("wrong", np.sin, _frozen_slope, examples=[Example(((3, 4),))]),
        torch.sin,
        2,
    ),
}


@pytest.fixture
def registered(monkeypatch):
    """A maker of operations that are gone from the tables after the test."""

    def register(make: Callable[[], Any], truth: Callable[..., Any]) -> Case:
        monkeypatch.setitem(TORCH, "wrong", truth)
        make()
        return Case("wrong", 0)

    yield register
    REGISTRY.pop("wrong", None)
    whole_jacobian.cache_clear()
    out_axis.cache_clear()


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_caught(wrong, registered):
    make, truth, order = WRONG[wrong]
    case = registered(make, truth)
    check_value(case)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        (check_first_order if order == 1 else check_second_order)(case)
    with pytest.raises(AssertionError, match="differ"):
        minijac.testing.check_derivatives(case, *case.operands(), order=order)


def test_a_right_rule_passes_the_same_checks(registered):
    case = registered(lambda: elementwise("wrong", np.sin, _slope_times(1.0), examples=[Example(((3, 4),))]), torch.sin)
    for check in CHECKS:
        check(case)
    minijac.testing.check_derivatives(case, *case.operands(), order=2)
