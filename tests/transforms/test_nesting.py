"""Transformations of transformations agree with torch's nested reverse mode."""

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
