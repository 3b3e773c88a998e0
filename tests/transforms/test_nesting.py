"""Transformations of transformations agree with torch's nested reverse mode, and no level sees another's."""

from __future__ import annotations

from functools import cache, partial
from itertools import product

import numpy as np
import pytest
from helpers import (
    IN,
    MODES,
    OUT,
    close,
    loop_reference,
    net,
    parameters,
    parametric_net,
    pulled,
    pushed,
    random,
    tensor,
    torch_net,
    torch_parametric_net,
)

import minijac as mj

torch = pytest.importorskip("torch")

modes = pytest.mark.parametrize("mode", MODES)
two_modes = pytest.mark.parametrize(("outer", "inner"), list(product(("forward", "reverse", "mixed"), repeat=2)))


# --- functions, in NumPy and in torch -----------------------------------------------------------------------


def polynomial(x):
    """(B, n) -> (B, 2)."""
    return np.stack([(x**3).sum(-1), x[:, 0] * x[:, 1] ** 2], axis=-1)


def torch_polynomial(x):
    return torch.stack([(x**3).sum(-1), x[:, 0] * x[:, 1] ** 2], -1)


def quotient(x):
    return np.sin(x) / (2.0 + np.cos(x[:, ::-1]))


def torch_quotient(x):
    return x.sin() / (2.0 + x.flip(-1).cos())


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def torch_softmax(x):
    return x.softmax(-1)


def outer_products(x):
    """(B, n) -> (B, n, n)."""
    return np.einsum("bi,bj->bij", np.tanh(x), x * x)


def torch_outer_products(x):
    return torch.einsum("bi,bj->bij", x.tanh(), x * x)


def energy(x):
    """(B, n) -> (B,)."""
    return np.log(1.0 + (x * x).sum(-1)) * x[:, 0]


def torch_energy(x):
    return (1.0 + (x * x).sum(-1)).log() * x[:, 0]


PAIRS = {
    "net": (net, torch_net),
    "polynomial": (polynomial, torch_polynomial),
    "quotient": (quotient, torch_quotient),
    "softmax": (softmax, torch_softmax),
    "outer_products": (outer_products, torch_outer_products),
    "energy": (energy, torch_energy),
    "linear": (lambda x: x[:, ::2] * 3.0, lambda x: x[:, ::2] * 3.0),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())


def torch_hessian(torch_f, x):
    return loop_reference(torch_f, x, order=2)


# --- second and third order ---------------------------------------------------------------------------------


@two_modes
@pairs
def test_jacobian_of_jacobian_equals_torch(pair, outer, inner):
    f, torch_f = pair
    x = random(3, IN)
    close(mj.jacobian(mj.jacobian(f, mode=inner), mode=outer)(x), torch_hessian(torch_f, x))


@pairs
def test_hessian_is_the_jacobian_of_the_jacobian(pair):
    f, torch_f = pair
    x = random(3, IN)
    close(mj.hessian(f)(x), torch_hessian(torch_f, x))


@cache
def third_derivative(torch_f):
    return loop_reference(torch_f, random(2, IN), order=3)


@pytest.mark.parametrize("orders", list(product(("forward", "reverse"), repeat=3)), ids="-".join)
@pytest.mark.parametrize("name", ["net", "polynomial", "quotient", "softmax"])
def test_third_order_equals_torch(name, orders):
    f, torch_f = PAIRS[name]
    x = random(2, IN)
    derivative = f
    for mode in orders:
        derivative = mj.jacobian(derivative, mode=mode)
    close(derivative(x), third_derivative(torch_f))


def test_third_order_with_the_default_mode():
    x = random(2, IN)
    close(mj.jacobian(mj.jacobian(mj.jacobian(net)))(x), third_derivative(torch_net))


@modes
def test_fourth_order_of_a_known_function(mode):
    derivative = np.sin
    for _ in range(4):
        derivative = mj.jacobian(derivative, mode=mode)
    x = random(3)
    close(derivative(x), np.sin(x))


@two_modes
def test_nested_jacobians_without_a_batch(outer, inner):
    x = random(3)
    inner_jacobian = mj.jacobian(lambda t: np.outer(np.sin(t), t), batch_axis=None, mode=inner)
    second = mj.jacobian(inner_jacobian, batch_axis=None, mode=outer)(x)
    expected = torch.func.hessian(lambda t: torch.outer(t.sin(), t))(tensor(x))
    assert second.shape == (3, 3, 3, 3)
    close(second, expected.numpy())


@two_modes
def test_nested_jacobians_at_another_batch_axis(outer, inner):
    x = random(3, IN)

    def first(t):  # t: (IN, B), its Jacobian (B, OUT, IN)
        return mj.jacobian(lambda s: net(s.T), batch_axis=1, mode=inner)(t)

    close(mj.jacobian(first, batch_axis=1, mode=outer)(x.T.copy()), torch_hessian(torch_net, x))


@pytest.mark.parametrize("size", [0, 1])
def test_nested_jacobians_of_small_batches(size):
    x = random(size, IN)
    second = mj.jacobian(mj.jacobian(net))(x)
    assert second.shape == (size, OUT, IN, IN)
    if size:
        close(second, torch_hessian(torch_net, x))


@pytest.mark.parametrize("options", [{"chunk_size": 1}, {"chunk_size": 2}])
@two_modes
def test_chunks_at_both_levels(options, outer, inner):
    x = random(3, IN)
    second = mj.jacobian(mj.jacobian(net, mode=inner, **options), mode=outer, **options)(x)
    close(second, torch_hessian(torch_net, x))


def test_float32_stays_float32_at_second_order():
    x = random(3, IN, dtype=np.float32)
    found = {
        mj.jacobian(mj.jacobian(np.tanh, mode=inner), mode=outer)(x).dtype for outer, inner in product(MODES, repeat=2)
    }
    assert found == {np.dtype(np.float32)}


# --- other transformations inside and outside a Jacobian ----------------------------------------------------

FIRST_DERIVATIVES = {
    "jacobian": lambda f: lambda x: mj.jacobian(f)(x),
    "value_and_jacobian": lambda f: lambda x: mj.value_and_jacobian(f)(x)[1],
    "structured": lambda f: lambda x: mj.jacobian(f, structured=True)(x).todense(),
    "linearize": lambda f: lambda x: mj.linearize(f, x)[1].todense(),
    "aux": lambda f: lambda x: mj.jacobian(lambda t: (f(t), t), has_aux=True)(x)[0],
    "jvp by columns": lambda f: (
        lambda x: np.stack([mj.jvp(f, (x,), (np.tile(row, (len(x), 1)),))[1] for row in np.eye(IN)], axis=-1)
    ),
    "vjp by rows": lambda f: (
        lambda x: np.stack([mj.vjp(f, x)[1](np.tile(row, (len(x), 1)))[0] for row in np.eye(OUT)], axis=1)
    ),
    "structured by columns": lambda f: (
        lambda x: np.stack(
            [mj.jacobian(f, structured=True)(x) @ np.tile(row, (len(x), 1)) for row in np.eye(IN)], axis=-1
        )
    ),
    "structured by rows": lambda f: (
        lambda x: np.stack(
            [mj.jacobian(f, structured=True)(x).T @ np.tile(row, (len(x), 1)) for row in np.eye(OUT)], axis=1
        )
    ),
}


@pytest.mark.parametrize(
    ("outer", "inner"),
    list(product(FIRST_DERIVATIVES, ["jacobian", "structured", "jvp by columns", "vjp by rows"])),
)
def test_every_way_to_a_first_derivative_nests_with_every_other(outer, inner):
    x = random(3, IN)
    first = FIRST_DERIVATIVES[inner](net)
    close(first(x), loop_reference(torch_net, x))
    if outer == "vjp by rows":
        rows = lambda t: first(t).reshape(len(t), OUT * IN)
        _, pullback = mj.vjp(rows, x)
        second = np.stack([pullback(np.tile(row, (3, 1)))[0] for row in np.eye(OUT * IN)], axis=1)
        close(second.reshape(3, OUT, IN, IN), torch_hessian(torch_net, x))
    elif outer == "structured by rows":
        J = mj.jacobian(lambda t: first(t).reshape(len(t), OUT * IN), structured=True)(x)
        second = np.stack([J.T @ np.tile(row, (3, 1)) for row in np.eye(OUT * IN)], axis=1)
        close(second.reshape(3, OUT, IN, IN), torch_hessian(torch_net, x))
    else:
        close(FIRST_DERIVATIVES[outer](first)(x), torch_hessian(torch_net, x))


@modes
def test_jacobian_of_a_gradient_is_the_hessian_per_sample(mode):
    x = random(4, IN)
    gradient = mj.grad(lambda t: energy(t).sum())
    close(mj.jacobian(gradient, mode=mode)(x), torch_hessian(torch_energy, x))


@modes
def test_jacobian_of_a_gradient_of_a_mean(mode):
    x = random(4, IN)
    gradient = mj.grad(lambda t: (energy(t) ** 2).mean())
    close(mj.jacobian(gradient, mode=mode)(x), torch_hessian(lambda t: torch_energy(t) ** 2, x) / 4)


@modes
def test_a_gradient_that_really_mixes_is_found_by_the_outer_jacobian(mode):
    gradient = mj.grad(lambda t: energy(t).sum() ** 2)
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(gradient, mode=mode)(random(4, IN))


@modes
def test_an_inner_jacobian_may_be_a_small_part(mode):
    x = random(3, IN)

    def f(t):
        inner = mj.jacobian(quotient)(np.tanh(t))
        return np.einsum("bij,bj->bi", inner, t) + t**2

    def torch_f(t):
        def one(s):
            return torch_quotient(s[None])[0]

        J = torch.autograd.functional.jacobian(one, t[0].tanh(), create_graph=True)
        return (J @ t[0] + t[0] ** 2)[None]

    close(mj.jacobian(f, mode=mode)(x), loop_reference(torch_f, x))


HESSIAN_PRODUCTS = {
    "jvp of grad": lambda g, x, v: mj.jvp(mj.grad(g), (x,), (v,))[1],
    "grad of jvp": lambda g, x, v: mj.grad(lambda t: mj.jvp(g, (t,), (v,))[1])(x),
    "vjp of grad": lambda g, x, v: mj.vjp(mj.grad(g), x)[1](v)[0],
    "grad of product": lambda g, x, v: mj.grad(lambda t: (mj.grad(g)(t) * v).sum())(x),
    "vjp of jvp": lambda g, x, v: mj.vjp(lambda t: mj.jvp(g, (t,), (v,))[1], x)[1](np.ones(()))[0],
    "jvp of vjp": lambda g, x, v: mj.jvp(lambda t: mj.vjp(g, t)[1](np.ones(()))[0], (x,), (v,))[1],
    "structured": lambda g, x, v: mj.jacobian(mj.grad(g), batch_axis=None, structured=True)(x) @ v,
    "linearize": lambda g, x, v: mj.linearize(mj.grad(g), x, batch_axis=None)[1] @ v,
    "value_and_grad": lambda g, x, v: mj.jvp(lambda t: mj.value_and_grad(g)(t)[1], (x,), (v,))[1],
}


@pytest.mark.parametrize("product_of", HESSIAN_PRODUCTS.values(), ids=HESSIAN_PRODUCTS.keys())
def test_hessian_vector_products_agree_in_every_order(product_of):
    x, v = random(4, IN), random(4, IN, seed=1)
    loss = lambda t: energy(t).sum() ** 2 + np.sin(t).mean()
    torch_loss = lambda t: torch_energy(t).sum() ** 2 + t.sin().mean()
    _, expected = torch.autograd.functional.hvp(torch_loss, tensor(x), tensor(v))
    close(product_of(loss, x, v), expected.numpy())


@pairs
def test_vjp_of_jvp_and_jvp_of_vjp_agree(pair):
    f, torch_f = pair
    x, v = random(3, IN), random(3, IN, seed=1)
    w = random(*f(x).shape, seed=2)
    H = torch_hessian(torch_f, x)
    expected = pushed(pulled(H.reshape(*w.shape, -1), w).reshape(3, IN, IN), v)
    _, pullback = mj.vjp(lambda t: mj.jvp(f, (t,), (v,))[1], x)
    close(pullback(w)[0], expected)
    close(mj.jvp(lambda t: mj.vjp(f, t)[1](w)[0], (x,), (v,))[1], expected)


@pairs
def test_products_are_linear_in_traced_seeds(pair):
    f, torch_f = pair
    x, v = random(3, IN), random(3, IN, seed=1)
    w = random(*f(x).shape, seed=2)
    J = loop_reference(torch_f, x)
    close(mj.jacobian(lambda s: mj.jvp(f, (x,), (s,))[1])(v), J)
    _, pullback = mj.vjp(f, x)
    close(mj.jvp(lambda s: pullback(s)[0], (w,), (2 * w,))[1], 2 * pulled(J, w))


# --- losses that hold a Jacobian ----------------------------------------------------------------------------


def torch_parameters(p):
    return {name: tensor(leaf, requires_grad=True) for name, leaf in p.items()}


@modes
def test_gradient_of_a_loss_that_holds_a_jacobian(mode):
    p, x = parameters(), random(5, 3)

    def loss(q):
        y, J = mj.value_and_jacobian(partial(parametric_net, q), mode=mode)(x)
        return (J**2).sum() + (y * J.sum(-1)).mean()

    q = torch_parameters(p)
    t = tensor(x)
    J = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda s: torch_parametric_net(q, s), t[i], create_graph=True)
            for i in range(5)
        ]
    )
    torch_loss = (J**2).sum() + (torch_parametric_net(q, t) * J.sum(-1)).mean()
    expected = torch.autograd.grad(torch_loss, list(q.values()))
    value, g = mj.value_and_grad(loss)(p)
    close(value, torch_loss.item())
    for name, leaf in zip(q, expected, strict=True):
        close(g[name], leaf.numpy())


@modes
def test_gradient_of_a_loss_that_holds_a_second_derivative(mode):
    """The residual of a differential equation: the trace of the second derivatives of the net."""
    p, x = parameters(), random(4, 3)

    def loss(q):
        H = mj.jacobian(mj.jacobian(partial(parametric_net, q), mode=mode), mode=mode)(x)
        return (np.einsum("bkii->bk", H) ** 2).mean()

    q = torch_parameters(p)
    t = tensor(x)
    f = lambda s: torch_parametric_net(q, s)
    H = torch.stack([torch.func.jacrev(torch.func.jacrev(f))(t[i]) for i in range(4)])
    torch_loss = (torch.einsum("bkii->bk", H) ** 2).mean()
    expected = torch.autograd.grad(torch_loss, list(q.values()))
    value, g = mj.value_and_grad(loss)(p)
    close(value, torch_loss.item())
    for name, leaf in zip(q, expected, strict=True):
        close(g[name], leaf.numpy())


@pytest.mark.parametrize("penalty", ["vjp", "jvp", "grad", "structured"])
def test_gradient_penalties(penalty):
    p, x = parameters(), random(4, 3)
    v, w = random(4, 3, seed=1), random(4, 2, seed=2)

    def seen(q):
        f = partial(parametric_net, q)
        if penalty == "vjp":
            return mj.vjp(f, x)[1](w)[0]
        if penalty == "jvp":
            return mj.jvp(f, (x,), (v,))[1]
        if penalty == "grad":
            return mj.grad(lambda t: (f(t) * w).sum())(x)
        return mj.jacobian(f, structured=True)(x) @ v

    q, t = torch_parameters(p), tensor(x)
    f = lambda s: torch_parametric_net(q, s)
    if penalty in ("vjp", "grad"):
        _, torch_seen = torch.autograd.functional.vjp(f, t, tensor(w), create_graph=True)
    else:
        _, torch_seen = torch.autograd.functional.jvp(f, t, tensor(v), create_graph=True)
    expected = torch.autograd.grad((torch_seen**2).sum(), list(q.values()))
    g = mj.grad(lambda r: (seen(r) ** 2).sum())(p)
    for name, leaf in zip(q, expected, strict=True):
        close(g[name], leaf.numpy())


@modes
def test_per_sample_parameter_jacobian_of_an_input_jacobian(mode):
    p, x = parameters(), random(3, 3)

    def first(q, t):
        return mj.jacobian(partial(parametric_net, q))(t)

    J = mj.jacobian(first, batch_axis=(None, 0), mode=mode)(p, x)
    for name in p:
        others = {k: tensor(v) for k, v in p.items() if k != name}
        expected = []
        for i in range(3):
            sample = tensor(x[i])

            def torch_first(leaf, others=others, name=name, sample=sample):
                f = lambda s: torch_parametric_net({**others, name: leaf}, s)
                return torch.autograd.functional.jacobian(f, sample, create_graph=True)

            expected.append(torch.autograd.functional.jacobian(torch_first, tensor(p[name])).numpy())
        close(J[name], np.stack(expected))


@modes
def test_mixed_second_derivative_of_two_arguments(mode):
    a, b = random(4, 3), random(4, 3, seed=1)

    def f(s, t):
        return (np.sin(s) * t**2).sum(-1)

    mixed = mj.jacobian(lambda s, t: mj.jacobian(f, 0, mode=mode)(s, t), 1, mode=mode)(a, b)
    close(mixed, (np.cos(a) * 2 * b)[:, :, None] * np.eye(3))
    other = mj.jacobian(lambda s, t: mj.jacobian(f, 1, mode=mode)(s, t), 0, mode=mode)(a, b)
    close(other, mixed.swapaxes(1, 2))


@modes
def test_trees_nest_too(mode):
    x = {"a": random(4, 2), "b": random(4, 2, seed=1)}

    def f(t):
        return {"y": t["a"] ** 2 * t["b"]}

    second = mj.jacobian(mj.jacobian(f, mode=mode), mode=mode)(x)
    eye = np.einsum("ij,jk->ijk", np.eye(2), np.eye(2))
    close(second["y"]["a"]["a"], 2 * x["b"][:, :, None, None] * eye)
    close(second["y"]["a"]["b"], 2 * x["a"][:, :, None, None] * eye)
    close(second["y"]["b"]["a"], 2 * x["a"][:, :, None, None] * eye)
    close(second["y"]["b"]["b"], np.zeros((4, 2, 2, 2)), atol=0)


@two_modes
def test_mixing_policies_reach_through_two_levels(outer, inner):
    x = random(3, 2)

    def torch_f(t):
        return (t - t.mean(0)) ** 3

    def torch_first(t):
        full = torch.autograd.functional.jacobian(torch_f, t, create_graph=True)
        return torch.einsum("bobi->boi", full)

    expected = torch.autograd.functional.jacobian(torch_first, tensor(x)).numpy()
    first = mj.jacobian(lambda t: (t - t.mean(0)) ** 3, on_mixing="diagonal", mode=inner)
    close(mj.jacobian(first, on_mixing="full", mode=outer)(x), expected)
    close(mj.jacobian(first, on_mixing="diagonal", mode=outer)(x), np.einsum("boibj->boij", expected))


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
