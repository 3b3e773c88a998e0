"""No level of nesting sees another: perturbations are never confused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from helpers import (
    close,
    random,
    tensor,
)

import minijac as mj

torch = pytest.importorskip("torch")

# --- perturbation confusion ---------------------------------------------------------------------------------


def by_jvp(f, x):
    return mj.jvp(f, (x,), (np.ones(np.shape(x)),))[1]


def by_vjp(f, x):
    return mj.vjp(f, x)[1](np.ones(np.shape(x)))[0]


def by_grad(f, x):
    return mj.grad(lambda t: f(t).sum())(x)


def by_value_and_grad(f, x):
    return mj.value_and_grad(lambda t: f(t).sum())(x)[1]


def by_structured(f, x):
    return mj.jacobian(f, structured=True)(x) @ np.ones(np.shape(x))


def by_linearize(f, x):
    return mj.linearize(f, x)[1].todense()


DERIVATIVES = {
    "jvp": by_jvp,
    "vjp": by_vjp,
    "grad": by_grad,
    "value_and_grad": by_value_and_grad,
    "forward": lambda f, x: mj.jacobian(f, mode="forward")(x),
    "reverse": lambda f, x: mj.jacobian(f, mode="reverse")(x),
    "value_and_jacobian": lambda f, x: mj.value_and_jacobian(f)(x)[1],
    "structured": by_structured,
    "linearize": by_linearize,
}
levels = pytest.mark.parametrize(
    ("D", "E"),
    list(product(DERIVATIVES.values(), repeat=2)),
    ids=["-".join(pair) for pair in product(DERIVATIVES, repeat=2)],
)
X = np.array([0.5, -1.0, 2.0])
ONES = np.ones(3)


@levels
def test_a_constant_of_the_inner_level_is_no_perturbation(D, E):
    """d/dx (x d/dy (x + y)) = 1, and 2 where levels are confused (Siskind and Pearlmutter, 2005)."""
    close(D(lambda x: x * E(lambda y: x + y, ONES), X), ONES)


@levels
def test_the_inner_derivative_depends_on_the_outer_variable(D, E):
    """d/dx (x d/dy (x y)) = 2 x."""
    close(D(lambda x: x * E(lambda y: x * y, ONES), X), 2 * X)


@levels
def test_both_levels_at_the_same_point(D, E):
    """d/dx [d/dy (x y) at y = x] = 1: the x that is closed over and the x of the point are the same array."""
    close(D(lambda x: E(lambda y: x * y, x), X), ONES)


@levels
def test_the_inner_function_that_ignores_its_argument(D, E):
    """d/dy x = 0, so x + d/dy x has derivative 1."""
    close(D(lambda x: x + E(lambda y: x * 1.0 + 0.0 * y, ONES), X), ONES)
    close(D(lambda x: x + E(lambda y: x**2, ONES), X), ONES)


@levels
def test_the_inner_result_is_used_nonlinearly(D, E):
    """d/dx sin(d/dy (y^2 x) at y = x) = d/dx sin(2 x^2)."""
    close(D(lambda x: np.sin(E(lambda y: y**2 * x, x)), X), 4 * X * np.cos(2 * X**2))


@levels
def test_an_identity_inside(D, E):
    close(D(lambda x: x * E(lambda y: y, x), X), ONES)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_three_levels(name):
    """d/dx (x d/dy (y d/dz (x y z))) = d/dx (x d/dy (x y^2)) = d/dx (2 x^2 y) = 4 x y, at y = 3."""
    D = DERIVATIVES[name]
    close(D(lambda x: x * D(lambda y: y * D(lambda z: x * y * z, ONES), 3 * ONES), X), 12 * X)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_inner_levels_beside_each_other(name):
    D = DERIVATIVES[name]
    close(D(lambda x: D(lambda y: x * y, ONES) * D(lambda y: x**2 * y, ONES), X), 3 * X**2)


def test_a_pullback_made_at_an_outer_level_is_used_at_an_inner_one():
    """The pullback of x -> x^2 holds 2 x, which the inner level takes for a constant."""

    def f(x):
        _, pullback = mj.vjp(lambda t: t**2, x)
        return x * by_jvp(lambda y: pullback(y)[0] * y, ONES)

    # d/dy (2 x y^2) at 1 = 4 x; d/dx (4 x^2) = 8 x
    close(by_grad(f, X), 8 * X)
    close(by_jvp(f, X), 8 * X)


def test_scalars_without_a_batch():
    assert float(mj.grad(lambda x: x * mj.grad(lambda y: x + y)(1.0))(1.0)) == 1.0
    D = mj.jacobian(lambda x: x * mj.jacobian(lambda y: x * y, batch_axis=None)(2.0), batch_axis=None)
    close(D(np.array(3.0)), 6.0)


def test_gradients_of_gradients():
    close(mj.grad(mj.grad(lambda x: x**3))(2.0), 12.0)
    close(mj.grad(mj.grad(mj.grad(lambda x: np.sin(x) * x)))(0.3), -3 * np.sin(0.3) - 0.3 * np.cos(0.3))
    nested = mj.grad(lambda x: mj.grad(lambda t: (t**4).sum())(x).sum())
    close(nested(X), 12 * X**2)


def test_stop_gradient_stops_every_level():
    f = lambda x: x * mj.stop_gradient(x)
    close(mj.grad(f)(3.0), 3.0)
    close(mj.grad(mj.grad(f))(3.0), 0.0)
    # x d/dy (c y^2) at y = x is 2 c x^2, with c = x held constant
    close(mj.jacobian(lambda x: x * mj.jacobian(lambda y: mj.stop_gradient(x) * y**2)(x))(X), 4 * X**2)


def test_the_inner_value_returned_as_aux_keeps_the_outer_derivative():
    def f(x):
        _, aux = mj.jacobian(lambda y: (y, y * x), has_aux=True)(x)
        return aux

    close(mj.jacobian(f)(X), 2 * X)
    close(mj.grad(lambda x: mj.value_and_grad(lambda y: (y * x).sum())(x)[0])(X), 2 * X)


def test_a_trace_closed_by_an_exception_does_not_shift_the_levels():
    def bad(y):
        raise ValueError("mine")

    def f(x):
        with pytest.raises(ValueError, match="mine"):
            mj.grad(bad)(x)
        return x * by_grad(lambda y: x + y, ONES)

    for D in (by_jvp, by_grad):
        close(D(f, X), ONES)


def test_a_transformed_function_is_reusable_at_several_levels():
    g = mj.jacobian(lambda t: t**4)
    close(g(X), 4 * X**3)
    close(mj.jacobian(g)(X), 12 * X**2)
    close(mj.jacobian(lambda x: g(x) * mj.jacobian(g)(x))(X), 48 * 5 * X**4)
    close(g(X), 4 * X**3)


def test_jacobian_over_an_argument_while_another_level_holds_the_rest():
    """d/dw of the diagonal of d/dx, for a shared matrix w: each level has its own batch axes."""
    w, x = random(3, 3), random(4, 3, seed=1)

    def inner(v):
        J = mj.jacobian(lambda t: np.sin(t @ v))(x)
        return np.einsum("bii->b", J).sum()

    torch_x = tensor(x)
    v = tensor(w, requires_grad=True)
    torch_value = torch.einsum("bi,ii->b", (torch_x @ v).cos(), v).sum()
    (expected,) = torch.autograd.grad(torch_value, v)
    close(mj.grad(inner)(w), expected.numpy())
