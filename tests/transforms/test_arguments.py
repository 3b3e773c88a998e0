"""Which arguments are differentiated, where their samples are, which trees they form, and what is returned beside."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import (
    B1,
    HIDDEN,
    IN,
    MODES,
    W1,
    close,
    loop_reference,
    net,
    net_jacobian,
    parameters,
    parametric_net,
    random,
    tensor,
    torch_full_jacobian,
    torch_parametric_net,
)

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)


class Point(NamedTuple):
    position: Any
    velocity: Any


# --- argnums and batch_axis ---------------------------------------------------------------------------------


def bilinear(a, b):
    """a: (B, 2), b: (B, 3) -> (B, 2, 3)."""
    return np.sin(a)[:, :, None] * b[:, None, :] ** 2


def bilinear_jacobians(a, b):
    size = len(a)
    to_a = np.einsum("bi,bj,ik->bijk", np.cos(a), b**2, np.eye(2)).reshape(size, 2, 3, 2)
    to_b = np.einsum("bi,bj,jk->bijk", np.sin(a), 2 * b, np.eye(3)).reshape(size, 2, 3, 3)
    return to_a, to_b


@modes
@pytest.mark.parametrize("argnums", [0, 1, (0,), (1,), (0, 1), (1, 0)])
def test_argnums_choose_the_arguments_in_their_order(argnums, mode):
    a, b = random(4, 2), random(4, 3)
    expected = bilinear_jacobians(a, b)
    J = mj.jacobian(bilinear, argnums, mode=mode)(a, b)
    if isinstance(argnums, int):
        close(J, expected[argnums])
    else:
        assert type(J) is tuple
        assert len(J) == len(argnums)
        for block, number in zip(J, argnums, strict=True):
            close(block, expected[number])


@modes
@pytest.mark.parametrize("axis", [1, -1])
def test_batch_axis_may_be_the_last_of_a_matrix(axis, mode):
    x = random(IN, 4)
    J = mj.jacobian(lambda t: np.tanh(W1.T @ t + B1[:, None]), batch_axis=axis, mode=mode)(x)
    expected = (1 - np.tanh(x.T @ W1 + B1) ** 2)[:, :, None] * W1.T
    close(J, expected)


@modes
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_jacobians_are_batch_first_wherever_the_batch_is(axis, mode):
    x = np.ascontiguousarray(np.moveaxis(random(4, 2, 3), 0, axis))

    def f(t):
        return np.sin(t) * np.sum(t * t, axis=tuple(k for k in range(3) if k != axis % 3), keepdims=True)

    def f_first(t):
        return t.sin() * (t * t).sum((1, 2), keepdim=True)

    close(mj.jacobian(f, batch_axis=axis, mode=mode)(x), loop_reference(f_first, np.moveaxis(x, axis, 0)))


@modes
def test_batch_axis_may_differ_between_arguments(mode):
    a, b = random(4, 2), random(4, 3)
    to_a, to_b = bilinear_jacobians(a, b)
    J = mj.jacobian(lambda s, t: bilinear(s.T, t), (0, 1), batch_axis=(1, 0), mode=mode)(a.T.copy(), b)
    close(J[0], to_a)
    close(J[1], to_b)


@modes
def test_output_axis_follows_the_batch_through_a_transpose(mode):
    x = random(4, IN)
    y, J = mj.value_and_jacobian(lambda t: net(t).T, mode=mode)(x)
    close(y, net(x).T)
    close(J, net_jacobian(x))


@modes
def test_shared_parameters_give_one_jacobian_per_sample(mode):
    x = random(4, IN)
    J = mj.jacobian(lambda w, t: np.tanh(t @ w + B1), batch_axis=(None, 0), mode=mode)(W1, x)
    assert J.shape == (4, HIDDEN, IN, HIDDEN)
    slope = 1 - np.tanh(x @ W1 + B1) ** 2
    close(J, np.einsum("bi,bh,hk->bhik", x, slope, np.eye(HIDDEN)))


@modes
def test_per_sample_jacobians_of_a_whole_parameter_tree(mode):
    p, x = parameters(), random(5, 3)
    J = mj.jacobian(parametric_net, batch_axis=(None, 0), mode=mode)(p, x)
    assert set(J) == set(p)
    for name in p:
        expected = loop_reference(
            lambda leaf, t, name=name: torch_parametric_net({**{k: tensor(v) for k, v in p.items()}, name: leaf}, t),
            p[name],
            x,
            batch_axis=(None, 0),
        )
        assert J[name].shape == (5, 2, *p[name].shape)
        close(J[name], expected)


@modes
def test_parameters_and_samples_at_once(mode):
    x = random(4, IN)
    to_w, to_x = mj.jacobian(lambda w, t: np.sin(t @ w), (0, 1), batch_axis=(None, 0), mode=mode)(W1, x)
    slope = np.cos(x @ W1)
    close(to_w, np.einsum("bi,bh,hk->bhik", x, slope, np.eye(HIDDEN)))
    close(to_x, np.einsum("ih,bh->bhi", W1, slope))


@modes
def test_without_a_batch_it_is_the_ordinary_jacobian(mode):
    x = random(3, 4)
    J = mj.jacobian(lambda t: np.sin(t @ t.T) * t.sum(), batch_axis=None, mode=mode)(x)
    assert J.shape == (3, 3, 3, 4)
    close(J, torch_full_jacobian(lambda t: (t @ t.T).sin() * t.sum(), x))


@modes
def test_without_a_batch_scalars_have_scalar_jacobians(mode):
    J = mj.jacobian(lambda t: np.sin(t) * t, batch_axis=None, mode=mode)(np.array(0.7))
    close(J, np.cos(0.7) * 0.7 + np.sin(0.7))


@modes
def test_none_for_each_argument_is_none_for_all(mode):
    a, b = random(2), random(3)
    J = mj.jacobian(lambda s, t: np.outer(s, t), (0, 1), batch_axis=(None, None), mode=mode)(a, b)
    close(J[0], np.einsum("j,ik->ijk", b, np.eye(2)))
    close(J[1], np.einsum("i,jk->ijk", a, np.eye(3)))


@modes
def test_scalar_samples(mode):
    x = random(5)
    close(mj.jacobian(np.sin, mode=mode)(x), np.cos(x))


@modes
def test_an_argument_that_is_not_differentiated_may_be_integer(mode):
    x, index = random(3, IN), np.array([2, 0, 1])
    J = mj.jacobian(lambda t, k: np.sin(t[:, k]), batch_axis=(0, None), mode=mode)(x, index)
    close(J, np.einsum("bk,ki->bki", np.cos(x[:, index]), np.eye(IN)[index]))


@modes
def test_constant_output_has_a_zero_jacobian(mode):
    J = mj.jacobian(lambda t: np.ones((4, 2)), mode=mode)(random(4, 3))
    close(J, np.zeros((4, 2, 3)), atol=0)


# --- trees --------------------------------------------------------------------------------------------------


@modes
def test_trees_in_and_out_nest_as_output_argument_input(mode):
    s = {"a": random(4, 2), "c": [random(4, 3)]}
    t = random(4, 2, seed=1)

    def f(tree, u):
        return {"sum": tree["a"] * u, "pair": (np.sin(tree["c"][0]), [tree["a"].sum(-1)])}

    J = mj.jacobian(f, (0, 1), mode=mode)(s, t)
    assert set(J) == {"sum", "pair"}
    assert type(J["pair"]) is tuple
    assert type(J["pair"][1]) is list
    of_sum = J["sum"]
    assert type(of_sum) is tuple
    assert set(of_sum[0]) == {"a", "c"}
    assert type(of_sum[0]["c"]) is list
    close(of_sum[0]["a"], t[:, :, None] * np.eye(2))
    close(of_sum[0]["c"][0], np.zeros((4, 2, 3)), atol=0)
    close(of_sum[1], s["a"][:, :, None] * np.eye(2))
    close(J["pair"][0][0]["c"][0], np.cos(s["c"][0])[:, :, None] * np.eye(3))
    close(J["pair"][0][1], np.zeros((4, 3, 2)), atol=0)
    close(J["pair"][1][0][0]["a"], np.ones((4, 2)))


@modes
def test_named_tuples_and_none_keep_their_place(mode):
    x = Point(random(4, 2), random(4, 2, seed=1))
    J = mj.jacobian(lambda p: Point(p.position * p.velocity, None), mode=mode)(x)
    assert type(J) is Point
    assert J.velocity is None
    assert type(J.position) is Point
    close(J.position.position, x.velocity[:, :, None] * np.eye(2))
    close(J.position.velocity, x.position[:, :, None] * np.eye(2))


def test_one_batch_axis_holds_for_every_leaf_of_an_argument():
    tree = {"a": random(2, 4), "b": random(3, 4)}
    J = mj.jacobian(lambda t: np.sin(t["a"]).sum(0) * t["b"], batch_axis=1)(tree)
    close(J["a"], np.einsum("jb,ib->bji", tree["b"], np.cos(tree["a"])))
    close(J["b"], np.sin(tree["a"]).sum(0)[:, None, None] * np.eye(3))


def test_a_list_is_a_tree_and_never_an_array():
    x = [random(4), random(4, seed=1)]
    J = mj.jacobian(lambda t: t[0] * t[1])(x)
    assert type(J) is list
    close(J[0], x[1])
    close(J[1], x[0])


def test_gradient_has_the_tree_of_its_argument():
    p, x = parameters(), random(6, 3)
    torch = pytest.importorskip("torch")
    q = {k: tensor(v, requires_grad=True) for k, v in p.items()}
    loss = (torch_parametric_net(q, tensor(x)) ** 2).mean()
    expected = dict(zip(q, torch.autograd.grad(loss, list(q.values())), strict=True))
    value, g = mj.value_and_grad(lambda r: (parametric_net(r, x) ** 2).mean())(p)
    close(value, loss.item())
    assert type(g) is dict
    assert set(g) == set(p)
    for name in p:
        close(g[name], expected[name].numpy())


@pytest.mark.parametrize("argnums", [0, 1, (0,), (1, 0)])
def test_gradient_argnums(argnums):
    a, b = random(3), random(3, seed=1)
    expected = (np.cos(a) * b, np.sin(a))
    g = mj.grad(lambda s, t: (np.sin(s) * t).sum(), argnums)(a, b)
    if isinstance(argnums, int):
        close(g, expected[argnums])
    else:
        assert type(g) is tuple
        for block, number in zip(g, argnums, strict=True):
            close(block, expected[number])


def test_jvp_and_vjp_of_trees():
    p = {"a": random(4, 2), "b": (random(4),)}
    p_dot = {"a": random(4, 2, seed=1), "b": (random(4, seed=2),)}
    x, x_dot = random(4, 2, seed=3), random(4, 2, seed=4)

    def f(tree, t):
        return {"y": tree["a"] * t, "z": [tree["b"][0] ** 2]}

    y, y_dot = mj.jvp(f, (p, x), (p_dot, x_dot))
    close(y["y"], p["a"] * x)
    close(y_dot["y"], p_dot["a"] * x + p["a"] * x_dot)
    close(y_dot["z"][0], 2 * p["b"][0] * p_dot["b"][0])
    y, pullback = mj.vjp(f, p, x)
    w = {"y": random(4, 2, seed=5), "z": [random(4, seed=6)]}
    cotangents = pullback(w)
    assert type(cotangents) is tuple
    assert len(cotangents) == 2
    close(cotangents[0]["a"], w["y"] * x)
    close(cotangents[0]["b"][0], 2 * p["b"][0] * w["z"][0])
    close(cotangents[1], w["y"] * p["a"])


def test_python_numbers_are_leaves():
    close(mj.grad(lambda t: t * t)(3.0), 6.0)
    close(mj.grad(lambda t: {"k": t["k"] ** 3}["k"])({"k": 2.0})["k"], 12.0)
    y, y_dot = mj.jvp(lambda t: t * t, (3.0,), (1.0,))
    close(y, 9.0)
    close(y_dot, 6.0)


# --- aux ----------------------------------------------------------------------------------------------------


def with_aux(x):
    h = np.tanh(x @ W1 + B1)
    return np.sin(h), {
        "hidden": h,
        "count": 3,
        "name": "net",
        "none": None,
        "positive": h > 0,
        "pair": (h * 2, 1.5),
    }


def check_aux(aux, x):
    h = np.tanh(x @ W1 + B1)
    assert type(aux["hidden"]) is np.ndarray
    assert type(aux["pair"][0]) is np.ndarray
    assert type(aux["positive"]) is np.ndarray
    close(aux["hidden"], h)
    close(aux["pair"][0], 2 * h)
    assert aux["pair"][1] == 1.5
    assert np.array_equal(aux["positive"], h > 0)
    assert aux["count"] == 3
    assert aux["name"] == "net"
    assert aux["none"] is None


@modes
def test_aux_of_jacobians_is_returned_free_of_traces(mode):
    x = random(4, IN)
    h = np.tanh(x @ W1 + B1)
    expected = np.einsum("bh,ih->bhi", np.cos(h) * (1 - h**2), W1)
    J, aux = mj.jacobian(with_aux, has_aux=True, mode=mode)(x)
    close(J, expected)
    check_aux(aux, x)
    (y, aux), J = mj.value_and_jacobian(with_aux, has_aux=True, mode=mode)(x)
    close(y, np.sin(h))
    close(J, expected)
    check_aux(aux, x)


def test_aux_of_gradients_is_returned_free_of_traces():
    def loss(x):
        y, aux = with_aux(x)
        return y.sum(), aux

    x = random(4, IN)
    h = np.tanh(x @ W1 + B1)
    expected = (np.cos(h) * (1 - h**2)) @ W1.T
    g, aux = mj.grad(loss, has_aux=True)(x)
    close(g, expected)
    check_aux(aux, x)
    (y, aux), g = mj.value_and_grad(loss, has_aux=True)(x)
    close(y, np.sin(h).sum())
    close(g, expected)
    check_aux(aux, x)


def test_aux_may_mix_samples():
    x = random(4, 3)
    J, mean = mj.jacobian(lambda t: (np.sin(t), t.mean(0)), has_aux=True)(x)
    close(J, np.cos(x)[:, :, None] * np.eye(3))
    close(mean, x.mean(0))
