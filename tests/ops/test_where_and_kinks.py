"""Branches not taken leave no trace in a derivative, and kinks have the derivatives that are promised."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from helpers import MODES, close, random

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)
two_modes = pytest.mark.parametrize("outer, inner", list(product(("forward", "reverse", "mixed", "auto"), repeat=2)))
INF = np.inf


def quiet(f: Callable) -> Callable:
    """`f` without NumPy's warnings: the branches not taken overflow and divide by zero on purpose."""

    def wrapped(*args):
        with np.errstate(all="ignore"):
            return f(*args)

    return wrapped


def derivative(f, mode, order=1):
    """The derivatives of order `order` of an elementwise f on a batch of scalars, (B,) -> (B,)."""
    for _ in range(order):
        f = mj.jacobian(f, mode=mode)
    return quiet(f)


def by_jvp(f, x):
    return mj.jvp(f, (x,), (np.ones_like(x),))[1]


def by_vjp(f, x):
    return mj.vjp(f, x)[1](np.ones_like(x))[0]


def by_grad(f, x):
    return mj.grad(lambda t: f(t).sum())(x)


PRODUCTS = {"jvp": by_jvp, "vjp": by_vjp, "grad": by_grad}

# --- branches not taken -----------------------------------------------------------------------------------------------
# name: f, points, first derivatives, second derivatives

GUARDED = {
    "sqrt": (
        lambda x: np.where(x > 0, np.sqrt(x), 0.0),
        [-1.0, 0.0, 4.0],
        [0.0, 0.0, 0.25],
        [0.0, 0.0, -1 / 32],
    ),
    "sqrt of a guarded zero": (
        lambda x: np.where(x == 0, 0.0, np.sqrt(x * x)),
        [0.0, 2.0, -3.0],
        [0.0, 1.0, -1.0],
        [0.0, 0.0, 0.0],
    ),
    "log": (
        lambda x: np.where(x > 0, np.log(x), 0.0),
        [-1.0, 0.0, 2.0],
        [0.0, 0.0, 0.5],
        [0.0, 0.0, -0.25],
    ),
    "reciprocal": (
        lambda x: np.where(x != 0, 1 / x, 0.0),
        [0.0, 2.0],
        [0.0, -0.25],
        [0.0, 0.25],
    ),
    "sinc": (
        lambda x: np.where(x != 0, np.sin(x) / x, 1.0),
        [0.0, 1.0],
        [0.0, np.cos(1) - np.sin(1)],
        [0.0, np.sin(1) - 2 * np.cos(1)],
    ),
    "power": (
        lambda x: np.where(x > 0, x**0.5, 0.0),
        [-1.0, 0.0, 4.0],
        [0.0, 0.0, 0.25],
        [0.0, 0.0, -1 / 32],
    ),
    "negative power": (
        lambda x: np.where(x != 0, x**-2.0, 0.0),
        [0.0, 2.0],
        [0.0, -0.25],
        [0.0, 6 / 16],
    ),
    "self power": (
        lambda x: np.where(x > 0, x**x, 0.0),
        [-0.5, 0.0, 1.0],
        [0.0, 0.0, 1.0],
        [0.0, 0.0, 2.0],
    ),
    "overflowing exp": (
        lambda x: np.where(x < 100, np.exp(x), x),
        [0.0, 1000.0],
        [1.0, 1.0],
        [1.0, 0.0],
    ),
    "softplus": (
        lambda x: np.where(x > 30, x, np.log1p(np.exp(x))),
        [0.0, 1000.0],
        [0.5, 1.0],
        [0.25, 0.0],
    ),
    "chain of infinities": (
        lambda x: np.where(x > 0, np.exp(np.sqrt(x) * np.log(x)), x),
        [0.0, 1.0, -1.0],
        [1.0, 1.0, 1.0],
        [0.0, 1.0, 0.0],
    ),
    "taken where the derivative is zero": (
        lambda x: np.where(x > 0, np.sqrt(x), x**3),
        [0.0, -1.0, 1.0],
        [0.0, 3.0, 0.5],
        [0.0, -6.0, -0.25],
    ),
    "nested": (
        lambda x: np.where(x > 0, np.where(x > 1, np.log(x - 1), np.sqrt(x)), x),
        [0.0, 1.0, 2.0],
        [1.0, 0.5, 1.0],
        [0.0, -0.25, -1.0],
    ),
    "used again": (
        lambda x: np.where(x > 0, np.sqrt(x), 0.0) ** 2 + x,
        [0.0, 4.0],
        [1.0, 2.0],
        [0.0, 0.0],
    ),
    "arcsin at its end": (
        lambda x: np.where(np.abs(x) < 1, np.arcsin(x), x),
        [1.0, 2.0, 0.0],
        [1.0, 1.0, 1.0],
        [0.0, 0.0, 0.0],
    ),
    "sum of infinities": (
        lambda x: np.where(x > 0, 3.0 * np.sqrt(x) + 1.0 / x, 2.0 * x),
        [0.0, 1.0],
        [2.0, 0.5],
        [0.0, -0.75 + 2.0],
    ),
    "constant NaN": (
        lambda x: np.where(x > 0, x * x, x * np.nan * 0.0 + np.nan),
        [1.0, 2.0],
        [2.0, 4.0],
        [2.0, 2.0],
    ),
    "a quotient not taken": (
        lambda x: np.where(x < 1, x, np.log(x) / (x - 1)),
        [0.5, 1.0 - 1e-3],
        [1.0, 1.0],
        [0.0, 0.0],
    ),
}
guarded = pytest.mark.parametrize("case", GUARDED.values(), ids=GUARDED.keys())


@modes
@guarded
def test_a_branch_not_taken_never_spoils_a_derivative(case, mode):
    f, points, first, _ = case
    close(derivative(f, mode)(np.array(points)), first)


@guarded
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_branch_not_taken_never_spoils_a_product(name, case):
    f, points, first, _ = case
    close(quiet(PRODUCTS[name])(f, np.array(points)), first)


@two_modes
@guarded
def test_a_branch_not_taken_never_spoils_a_second_derivative(case, outer, inner):
    f, points, _, second = case
    f = mj.jacobian(mj.jacobian(f, mode=inner), mode=outer)
    close(quiet(f)(np.array(points)), second)


@guarded
@pytest.mark.parametrize("outer, inner", list(product(PRODUCTS, repeat=2)))
def test_a_branch_not_taken_never_spoils_a_product_of_products(case, outer, inner):
    f, points, _, second = case
    close(quiet(PRODUCTS[outer])(lambda t: PRODUCTS[inner](f, t), np.array(points)), second)


@modes
def test_third_order_behind_where(mode):
    f = lambda x: np.where(x > 0, np.sqrt(x), x**3)
    close(derivative(f, mode, order=3)(np.array([0.0, -1.0, 1.0])), [6.0, 6.0, 0.375])


@modes
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_where_in_feature_space(mode, chunk_size):
    x = np.array([[0.0, 1.0, 4.0], [-1.0, 0.0, 9.0]])
    f = lambda t: np.where(t > 0, np.sqrt(t), 0.0)
    slope = np.array([[0.0, 0.5, 0.25], [0.0, 0.0, 1 / 6]])
    J = quiet(mj.jacobian(f, mode=mode, chunk_size=chunk_size))(x)
    close(J, slope[:, :, None] * np.eye(3))


@modes
def test_where_before_a_dense_layer(mode):
    x = np.array([[0.0, 1.0, 4.0], [-1.0, 0.0, 9.0]])
    w = random(3, 2)
    f = lambda t: np.tanh(np.where(t > 0, np.sqrt(t), 0.0) @ w)
    h = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 3.0]])
    slope = np.array([[0.0, 0.5, 0.25], [0.0, 0.0, 1 / 6]])
    expected = (1 - np.tanh(h @ w) ** 2)[:, :, None] * w.T * slope[:, None, :]
    close(quiet(mj.jacobian(f, mode=mode))(x), expected)


@modes
def test_where_over_a_reduced_branch(mode):
    """The branch not taken is a sum over features: nothing of it may come back, whatever stands inside."""
    x = np.array([[0.0, 1.0], [1.0, 4.0]])
    f = lambda t: np.where(t[:, 0] > 0, np.sqrt(t).sum(-1), t[:, 1] * 3.0)
    close(quiet(mj.jacobian(f, mode=mode))(x), [[0.0, 3.0], [0.5, 0.25]])


@modes
def test_where_over_a_dense_branch(mode):
    x = np.array([[0.0, 1.0], [1.0, 4.0]])
    w = random(2, 2)
    f = lambda t: np.where(t[:, :1] > 0, np.log(t) @ w, t)
    expected = np.stack([np.eye(2), w.T / x[1]])
    close(quiet(mj.jacobian(f, mode=mode))(x), expected)


@two_modes
def test_second_order_over_a_dense_branch(outer, inner):
    x = np.array([[0.0, 1.0], [1.0, 4.0]])
    w = random(2, 2)
    f = lambda t: np.where(t[:, :1] > 0, np.log(t) @ w, t)
    second = quiet(mj.jacobian(mj.jacobian(f, mode=inner), mode=outer))(x)
    expected = np.zeros((2, 2, 2, 2))
    for k in range(2):
        expected[1, :, k, k] = -w[k] / x[1, k] ** 2
    close(second, expected)


@modes
def test_the_norm_behind_where(mode):
    x = np.array([[0.0, 0.0], [3.0, 4.0]])

    def unit(t):
        length = np.sqrt((t * t).sum(-1, keepdims=True))
        return np.where(length > 0, t / length, t)

    n = np.array([0.6, 0.8])
    expected = np.stack([np.eye(2), (np.eye(2) - np.outer(n, n)) / 5.0])
    close(quiet(mj.jacobian(unit, mode=mode))(x), expected)


@modes
def test_both_branches_are_differentiated_where_they_are_taken(mode):
    x, y = np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.0, 0.0])
    f = lambda a, b: np.where(a > b, a * a / b, b * b / a)
    f_safe = lambda a, b: np.where(a > 1, a**3, b * 5.0)
    J = quiet(mj.jacobian(f_safe, (0, 1), mode=mode))(x, y)
    close(J[0], [0.0, 0.0, 12.0])
    close(J[1], [5.0, 5.0, 0.0])
    guarded_f = lambda a, b: np.where(a * b != 0, f(a, b), a)
    J = quiet(mj.jacobian(guarded_f, (0, 1), mode=mode))(x, y)
    close(J[0], np.ones(3))
    close(J[1], np.zeros(3))


@modes
def test_infinite_derivatives_that_are_real_stay(mode):
    """Only what is not taken vanishes: zeros do not stand in for a derivative that is infinite."""
    close(derivative(np.sqrt, mode)(np.array([0.0, 4.0])), [INF, 0.25])
    close(derivative(lambda x: np.where(x >= 0, np.sqrt(x), 0.0), mode)(np.array([0.0, 4.0])), [INF, 0.25])
    with np.errstate(all="ignore"):
        assert np.isnan(mj.jacobian(lambda x: np.where(x > 0, x * np.nan, x), mode=mode)(np.ones(1))).all()


@modes
def test_a_condition_that_is_traced_carries_no_derivative(mode):
    x = random(4, 3)
    f = lambda t: np.where(np.sin(t) > t**2, 2.0 * t, -t)
    slope = np.where(np.sin(x) > x**2, 2.0, -1.0)
    close(mj.jacobian(f, mode=mode)(x), slope[:, :, None] * np.eye(3))


@modes
def test_where_broadcasts_its_branches(mode):
    x = random(4, 3)
    mask = np.array([True, False, True])
    J = mj.jacobian(lambda t: np.where(mask, t, t.sum(-1, keepdims=True)), mode=mode)(x)
    expected = np.where(mask[:, None], np.eye(3), np.ones((3, 3)))
    close(J, np.broadcast_to(expected, (4, 3, 3)))


# --- kinks ------------------------------------------------------------------------------------------------------------

KINKS = {
    "abs": (np.abs, [0.0, 2.0, -2.0], [0.0, 1.0, -1.0]),
    "builtin abs": (abs, [0.0, 2.0, -2.0], [0.0, 1.0, -1.0]),
    "maximum with zero": (lambda x: np.maximum(x, 0.0), [0.0, 1.0, -1.0], [0.5, 1.0, 0.0]),
    "maximum with zero on the left": (lambda x: np.maximum(0.0, x), [0.0, 1.0, -1.0], [0.5, 1.0, 0.0]),
    "minimum with zero": (lambda x: np.minimum(x, 0.0), [0.0, 1.0, -1.0], [0.5, 0.0, 1.0]),
    "maximum of itself": (lambda x: np.maximum(x, x), [0.0, 1.0, -1.0], [1.0, 1.0, 1.0]),
    "minimum of itself": (lambda x: np.minimum(x, x), [0.0, 1.0, -1.0], [1.0, 1.0, 1.0]),
    "maximum of equal values": (lambda x: np.maximum(2.0 * x, x + 1.0), [1.0, 2.0, 0.0], [1.5, 2.0, 1.0]),
    "clip": (lambda x: np.clip(x, 0.0, 1.0), [-1.0, 0.0, 0.5, 1.0, 2.0], [0.0, 1.0, 1.0, 1.0, 0.0]),
    "clip method": (lambda x: x.clip(0.0, 1.0), [-1.0, 0.0, 0.5, 1.0, 2.0], [0.0, 1.0, 1.0, 1.0, 0.0]),
    "clip from below": (lambda x: np.clip(x, 0.0, None), [-1.0, 0.0, 2.0], [0.0, 1.0, 1.0]),
    "sign": (lambda x: np.sign(x) * x, [0.0, 2.0, -2.0], [0.0, 1.0, -1.0]),
    "sign alone": (np.sign, [0.0, 2.0], [0.0, 0.0]),
    "floor": (lambda x: np.floor(x) + x, [0.0, 1.5], [1.0, 1.0]),
    "sqrt": (np.sqrt, [0.0], [INF]),
    "square": (lambda x: x**2, [0.0], [0.0]),
    "first power": (lambda x: x**1.0, [0.0], [1.0]),
    "zeroth power": (lambda x: x**0, [0.0], [0.0]),
    "zeroth power, float": (lambda x: x**0.0, [0.0], [0.0]),
    "power of zero": (lambda x: 0.0**x, [0.0, 1.0], [0.0, 0.0]),
}


@modes
@pytest.mark.parametrize("case", KINKS.values(), ids=KINKS.keys())
def test_elementwise_kinks(case, mode):
    f, points, expected = case
    close(derivative(f, mode)(np.array(points)), expected)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("case", KINKS.values(), ids=KINKS.keys())
def test_elementwise_kinks_in_products(case, name):
    f, points, expected = case
    close(quiet(PRODUCTS[name])(f, np.array(points)), expected)


SECOND_AT_KINKS = {
    "abs": (np.abs, [0.0, 1.0], [0.0, 0.0]),
    "square": (lambda x: x**2, [0.0], [2.0]),
    "square, float": (lambda x: x**2.0, [0.0], [2.0]),
    "first power": (lambda x: x**1.0, [0.0], [0.0]),
    "maximum": (lambda x: np.maximum(x, 0.0) ** 2, [-1.0, 1.0], [0.0, 2.0]),
    "clip": (lambda x: np.clip(x, 0.0, 1.0) ** 2, [0.0, 0.5, 1.0, 2.0], [2.0, 2.0, 2.0, 0.0]),
    "product of itself and its abs": (lambda x: x * np.abs(x), [0.0, 1.0, -1.0], [0.0, 2.0, -2.0]),
}


@two_modes
@pytest.mark.parametrize("case", SECOND_AT_KINKS.values(), ids=SECOND_AT_KINKS.keys())
def test_second_derivatives_at_kinks(case, outer, inner):
    f, points, expected = case
    close(quiet(mj.jacobian(mj.jacobian(f, mode=inner), mode=outer))(np.array(points)), expected)


TIES = {
    "max, two tie": (lambda x: np.max(x, axis=-1), [1.0, 3.0, 3.0], [0.0, 0.5, 0.5]),
    "max, all tie": (lambda x: x.max(-1), [2.0, 2.0, 2.0], [1 / 3, 1 / 3, 1 / 3]),
    "max, none ties": (lambda x: x.max(-1), [2.0, 5.0, 3.0], [0.0, 1.0, 0.0]),
    "min, two tie": (lambda x: np.min(x, axis=-1), [1.0, 3.0, 1.0], [0.5, 0.0, 0.5]),
    "amax": (lambda x: np.amax(x, axis=-1), [1.0, 3.0, 3.0], [0.0, 0.5, 0.5]),
    "median, two tie": (lambda x: np.median(x, axis=-1), [2.0, 2.0, 5.0], [0.5, 0.5, 0.0]),
    "median, all tie": (lambda x: np.median(x, axis=-1), [1.0, 1.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
    "median, none ties": (lambda x: np.median(x, axis=-1), [7.0, 2.0, 5.0], [0.0, 0.0, 1.0]),
    "median, even": (lambda x: np.median(x, axis=-1), [7.0, 2.0, 5.0, 1.0], [0.0, 0.5, 0.5, 0.0]),
    "median, even, the middle ties": (
        lambda x: np.median(x, axis=-1),
        [1.0, 2.0, 2.0, 3.0],
        [0.0, 0.5, 0.5, 0.0],
    ),
    "norm at zero": (lambda x: np.linalg.norm(x, axis=-1), [0.0, 0.0], [0.0, 0.0]),
    "norm": (lambda x: np.linalg.norm(x, axis=-1), [3.0, 4.0], [0.6, 0.8]),
    "max of a concatenation with itself": (
        lambda x: np.concatenate([x, x], axis=-1).max(-1),
        [1.0, 3.0],
        [0.0, 1.0],
    ),
    "maximum of features": (lambda x: np.maximum(x[:, 0], x[:, 1]), [2.0, 2.0], [0.5, 0.5]),
    "minimum of features": (lambda x: np.minimum(x[:, 0], x[:, 1]), [2.0, 2.0], [0.5, 0.5]),
}


@modes
@pytest.mark.parametrize("case", TIES.values(), ids=TIES.keys())
def test_ties_share_evenly(case, mode):
    f, sample, expected = case
    x = np.stack([sample, np.array(sample) + 0.0])
    close(mj.jacobian(f, mode=mode)(x), np.stack([expected, expected]))


@pytest.mark.parametrize("case", TIES.values(), ids=TIES.keys())
def test_ties_share_evenly_in_products(case):
    f, sample, expected = case
    x = np.array([sample])
    v = random(*x.shape)
    close(mj.jvp(f, (x,), (v,))[1], v @ np.array(expected))
    close(mj.vjp(f, x)[1](np.array([2.0]))[0], 2.0 * np.array([expected]))


@modes
def test_ties_over_the_whole_array_share_evenly(mode):
    x = np.array([[1.0, 3.0], [3.0, 3.0]])
    close(mj.jacobian(np.max, batch_axis=None, mode=mode)(x), np.array([[0, 1], [1, 1]]) / 3)


@modes
def test_the_norm_at_zero_does_not_spoil_a_sum(mode):
    x = np.array([[0.0, 0.0], [3.0, 4.0]])
    J = mj.jacobian(lambda t: np.linalg.norm(t, axis=-1) + t[:, 0], mode=mode)(x)
    close(J, [[1.0, 0.0], [1.6, 0.8]])


@modes
@pytest.mark.parametrize("points", [[0.0, -1.0, 2.0]])
def test_relu_at_zero_is_zero(points, mode):
    close(mj.jacobian(mj.nn.relu, mode=mode)(np.array(points)), [0.0, 0.0, 1.0])


@modes
def test_renaming_the_arguments_of_a_tie_changes_nothing(mode):
    x = np.array([1.0, 2.0])
    for f in (np.maximum, np.minimum):
        one = mj.jacobian(lambda a, b, f=f: f(a, b), (0, 1), mode=mode)(x, x.copy())
        other = mj.jacobian(lambda a, b, f=f: f(b, a), (0, 1), mode=mode)(x, x.copy())
        close(one[0], [0.5, 0.5])
        close(one[0], other[0])
        close(one[1], other[1])


@pytest.mark.parametrize(
    "branch",
    [
        lambda y: y.max(1, keepdims=True),
        lambda y: np.einsum("bi,bi->b", y, y)[:, None],
        lambda y: np.linalg.norm(y, axis=1, ord=np.inf)[:, None],
        lambda y: (y @ y.swapaxes(0, 1) if y.shape[0] == 1 else y) * 1.0,
    ],
)
def test_a_dead_branch_with_data_of_its_own_spoils_nothing(branch):
    x = -np.ones((1, 2))

    def f(x):
        return np.where(x > 9.0, branch(np.log(x)), x)

    with np.errstate(invalid="ignore"):
        for mode in ("forward", "reverse", "mixed"):
            np.testing.assert_array_equal(mj.jacobian(f, mode=mode, batch_axis=None)(x).reshape(2, 2), np.eye(2))
        assert not mj.hessian(f, batch_axis=None)(x).any()


@pytest.mark.parametrize("wrapped", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_weight_that_no_sample_uses_spoils_nothing(bad, wrapped):
    W = np.array([[1.0, bad], [2.0, bad]])
    f = lambda x: np.where([True, False], np.sin(x @ W), 0.0)
    g = lambda x: np.where([[True], [False]], np.einsum("bi,jki->bjk", x, np.stack([W[:, :1], W[:, 1:]]).mT), 0.0)
    x = np.array([[0.1, 0.2], [0.3, -0.4]])
    slope = np.cos(x @ W[:, 0])[:, None] * W[:, 0]
    truth = np.stack([slope, 0 * slope], axis=1)
    second = np.zeros((2, 2))
    second[:, 0] = -5.0 * np.sin(x @ W[:, 0])
    with np.errstate(invalid="ignore"):
        for mode in ("forward", "reverse", "auto"):
            np.testing.assert_allclose(wrapped(mj.jacobian(f, mode=mode))(x), truth)
            J = wrapped(mj.jacobian(g, mode=mode))(x)
            np.testing.assert_array_equal(J[:, :, 0], np.broadcast_to([[1.0, 2.0], [0.0, 0.0]], (2, 2, 2)))
        np.testing.assert_allclose(wrapped(mj.laplacian(f))(x), second)
        np.testing.assert_allclose(np.einsum("bojj->bo", wrapped(mj.hessian(f))(x)), second)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_zeros_of_a_bound_are_zeros_within_a_bound_on_memory(samples):
    f = lambda x: np.arccos(np.clip(x, -1.0, 1.0))[:, :, None] * np.sqrt(np.maximum(x - 0.5, 0.0))[:, None]
    x = np.linspace(-2.0, 2.1, 160).reshape(40, 4)
    expected = mj.jacobian(f)(x)
    assert np.isfinite(expected).all()
    with pytest.raises(mj.InputError, match="Give it max_bytes=") as raised:
        mj.jacobian(f, max_bytes=1)(x)
    least = int(str(raised.value).split("Give it max_bytes=")[1].split()[0].replace(",", ""))
    np.testing.assert_allclose(mj.jacobian(f, max_bytes=samples * least)(x), expected)


@pytest.mark.parametrize("wrapped", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("bounded", [lambda s: np.maximum(s, 0.0), lambda s: np.clip(s, 0.0, 1.0), mj.nn.relu])
def test_a_bound_of_a_number_is_a_zero_by_structure(bounded, wrapped):
    f = lambda x: np.sqrt(bounded(x.sum() - 5.0)) + x.prod()
    for dtype in (np.float32, np.float64):
        x = np.array([0.5, -1.5], dtype)
        np.testing.assert_allclose(wrapped(mj.grad(f))(x), x[::-1])
        for mode in ("forward", "reverse", "auto"):
            np.testing.assert_allclose(wrapped(mj.jacobian(f, batch_axis=None, mode=mode))(x), x[::-1])
        np.testing.assert_allclose(wrapped(mj.hessian(f, batch_axis=None))(x), [[0.0, 1.0], [1.0, 0.0]])
