"""What each transformation promises: shapes, trees, batch axes, dtypes, memory, agreement of all modes."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import (
    B1,
    HIDDEN,
    IN,
    MODES,
    OUT,
    W1,
    close,
    is_fresh_result,
    loop_reference,
    marked_line,
    net,
    net_jacobian,
    parameters,
    parametric_net,
    places_named,
    pulled,
    pushed,
    random,
    tensor,
    torch_full_jacobian,
    torch_net,
    torch_parametric_net,
)

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)


class Point(NamedTuple):
    position: Any
    velocity: Any


class Calls:
    """Counts the calls of `f` and keeps the shapes that it was called with."""

    def __init__(self, f: Callable):
        self.f, self.shapes = f, []

    def __call__(self, *args: Any) -> Any:
        self.shapes.append(tuple(np.shape(a) for a in args))
        return self.f(*args)


# --- per-sample Jacobians against torch ---------------------------------------------------------------------


def widening(x):
    """(B, 5) -> (B, 10)."""
    return np.concatenate([np.sin(x), x * x], axis=-1)


def torch_widening(x):
    return pytest.importorskip("torch").cat([x.sin(), x * x], -1)


def to_scalar(x):
    """(B, 5) -> (B,)."""
    return np.exp(-(x**2).sum(axis=-1))


def torch_to_scalar(x):
    return (-(x**2).sum(-1)).exp()


def to_matrix(x):
    """(B, 5) -> (B, 5, 5)."""
    return x[:, :, None] * np.sin(x)[:, None, :]


def torch_to_matrix(x):
    return x[:, :, None] * x.sin()[:, None, :]


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def torch_softmax(x):
    return x.softmax(-1)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)


def torch_layer_norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-3).sqrt()


def stencil(x):
    """(B, 5) -> (B, 4)."""
    return (x[:, 1:] - x[:, :-1]) * x[:, 1:]


def branching(x):
    """A value used along several paths, of which one is unused and one is constant."""
    a = np.tanh(x)
    unused = np.exp(a)
    del unused
    return a * x + a @ W1 @ W1.T + 3.0


def torch_branching(x):
    a = x.tanh()
    return a * x + a @ tensor(W1) @ tensor(W1).T + 3.0


PAIRS = {
    "net": (net, torch_net),
    "widening": (widening, torch_widening),
    "to_scalar": (to_scalar, torch_to_scalar),
    "to_matrix": (to_matrix, torch_to_matrix),
    "softmax": (softmax, torch_softmax),
    "layer_norm": (layer_norm, torch_layer_norm),
    "stencil": (stencil, stencil),
    "branching": (branching, torch_branching),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())


@modes
@pairs
def test_jacobian_equals_a_loop_of_torch_over_the_samples(pair, mode):
    f, torch_f = pair
    x = random(3, IN)
    close(mj.jacobian(f, mode=mode)(x), loop_reference(torch_f, x))


@pairs
def test_jvp_and_vjp_are_products_with_the_jacobian(pair):
    f, torch_f = pair
    x, v = random(3, IN), random(3, IN, seed=1)
    J = loop_reference(torch_f, x)
    y, y_dot = mj.jvp(f, (x,), (v,))
    close(y, f(x))
    close(y_dot, pushed(J, v))
    y, pullback = mj.vjp(f, x)
    close(y, f(x))
    w = random(*y.shape, seed=2)
    (x_bar,) = pullback(w)
    close(x_bar, pulled(J, w))


@pairs
def test_forward_and_reverse_are_adjoint(pair):
    f, _ = pair
    x, v = random(3, IN), random(3, IN, seed=1)
    y, y_dot = mj.jvp(f, (x,), (v,))
    w = random(*y.shape, seed=2)
    _, pullback = mj.vjp(f, x)
    close(np.vdot(y_dot, w), np.vdot(v, pullback(w)[0]))


@pairs
def test_linearize_gives_the_value_and_the_structured_jacobian(pair):
    f, torch_f = pair
    x = random(3, IN)
    y, J = mj.linearize(f, x)
    close(y, f(x))
    close(J.todense(), loop_reference(torch_f, x))


@modes
@pairs
def test_samples_do_not_influence_each_other(pair, mode):
    f, _ = pair
    x = random(4, IN)
    whole = mj.jacobian(f, mode=mode)(x)
    for i in range(4):
        close(whole[i : i + 1], mj.jacobian(f, mode=mode)(x[i : i + 1]))


@modes
def test_the_readme_shape(mode):
    assert mj.jacobian(net, mode=mode)(random(7, IN)).shape == (7, OUT, IN)


@modes
@pairs
def test_value_comes_with_the_jacobian(pair, mode):
    f, torch_f = pair
    x = random(3, IN)
    y, J = mj.value_and_jacobian(f, mode=mode)(x)
    close(y, f(x))
    close(J, loop_reference(torch_f, x))


# --- f runs once, on the true batch -------------------------------------------------------------------------

RUNS = {
    "jacobian": lambda f, x: mj.jacobian(f)(x),
    "jacobian forward": lambda f, x: mj.jacobian(f, mode="forward")(x),
    "jacobian reverse": lambda f, x: mj.jacobian(f, mode="reverse")(x),
    "jacobian mixed": lambda f, x: mj.jacobian(f, mode="mixed")(x),
    "jacobian by single seeds": lambda f, x: mj.jacobian(f, chunk_size=1)(x),
    "jacobian structured": lambda f, x: mj.jacobian(f, structured=True)(x).todense(),
    "value_and_jacobian": lambda f, x: mj.value_and_jacobian(f)(x),
    "jvp": lambda f, x: mj.jvp(f, (x,), (x,)),
    "linearize": lambda f, x: mj.linearize(f, x)[1].todense(),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_f_runs_once_on_the_whole_batch(run):
    f, x = Calls(net), random(6, IN)
    run(f, x)
    assert f.shapes == [((6, IN),)]


def test_pullback_does_not_run_f_again():
    f = Calls(net)
    y, pullback = mj.vjp(f, random(6, IN))
    pullback(np.ones_like(y))
    pullback(y)
    assert f.shapes == [((6, IN),)]


@pytest.mark.parametrize("transform", [mj.grad, mj.value_and_grad])
def test_gradients_run_f_once(transform):
    f = Calls(lambda x: net(x).sum())
    transform(f)(random(6, IN))
    assert f.shapes == [((6, IN),)]


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


# --- results ------------------------------------------------------------------------------------------------

CAPTURED = random(4, IN, seed=9)
RESULTS = {
    "identity": lambda x: x,
    "transposed": lambda x: x.T,
    "reversed features": lambda x: x[:, ::-1],
    "part": lambda x: x[:, 1:3],
    "captured factor": lambda x: x * CAPTURED,
    "captured matrix": lambda x: x @ W1,
    "captured value": lambda x: CAPTURED,
    "broadcast": lambda x: np.broadcast_to(x[:, None, :], (4, 2, IN)),
    "net": net,
}
results = pytest.mark.parametrize("f", RESULTS.values(), ids=RESULTS.keys())


@modes
@results
def test_jacobians_are_fresh_contiguous_arrays(f, mode):
    x = random(4, IN)
    y, J = mj.value_and_jacobian(f, mode=mode)(x)
    is_fresh_result(J, x, CAPTURED, W1)
    is_fresh_result(y, x, CAPTURED, W1)
    close(y, f(x), atol=0)


@results
def test_products_are_fresh_contiguous_arrays(f):
    x, v = random(4, IN), random(4, IN, seed=1)
    y, y_dot = mj.jvp(f, (x,), (v,))
    is_fresh_result(y, x, v, CAPTURED, W1)
    is_fresh_result(y_dot, x, v, CAPTURED, W1)
    y, pullback = mj.vjp(f, x)
    w = random(*y.shape, seed=2)
    is_fresh_result(pullback(w)[0], x, w, CAPTURED, W1)
    g = mj.grad(lambda t: (f(t) * f(CAPTURED)).sum())(x)
    is_fresh_result(g, x, CAPTURED, W1)


@results
def test_two_pullbacks_share_nothing(f):
    x = random(4, IN)
    y, pullback = mj.vjp(f, x)
    w = random(*y.shape, seed=2)
    (first,) = pullback(w)
    kept = first.copy()
    (second,) = pullback(2 * w)
    close(first, kept, atol=0)
    close(second, 2 * kept)
    first[...] = 7.0
    close(pullback(w)[0], kept)


def test_changing_the_value_does_not_change_the_pullback():
    """tanh keeps its output for the derivative, and the value that is returned is the caller's to change."""
    x = random(4, IN)
    y, pullback = mj.vjp(np.tanh, x)
    y[...] = 0.0
    close(pullback(np.ones((4, IN)))[0], 1 - np.tanh(x) ** 2)


def test_blocks_of_one_call_share_no_memory():
    x = random(4, 3)
    J = mj.jacobian(lambda t: (t * 2.0, t * 2.0))(x)
    assert not np.shares_memory(J[0], J[1])


# --- dtypes -------------------------------------------------------------------------------------------------

F32, F64 = np.float32, np.float64
W32 = random(3, 2, dtype=F32)
W64 = random(3, 2)
DTYPES = {
    "float32 alone": (F32, np.sin, F32),
    "float64 alone": (F64, np.sin, F64),
    "float32 with Python numbers": (F32, lambda x: 2.0 * x + 1, F32),
    "float32 with a float32 matrix": (F32, lambda x: np.tanh(x @ W32), F32),
    "float32 with a float64 matrix": (F32, lambda x: np.tanh(x @ W64), None),
    "float64 with a float32 matrix": (F64, lambda x: np.tanh(x @ W32), F64),
    "float32 with a float64 scalar": (F32, lambda x: np.float64(2.0) * x, None),
    "float32 with a float32 scalar": (F32, lambda x: np.float32(2.0) * x, F32),
    "float32 with integers": (F32, lambda x: x * np.arange(3), None),
    "float32 with small integers": (F32, lambda x: x * np.arange(3, dtype=np.int8), F32),
    "float32 cast up": (F32, lambda x: np.sin(x.astype(np.float64)), None),
    "float64 cast down": (F64, lambda x: np.sin(x.astype(np.float32)), None),
    "float32 power": (F32, lambda x: (x + 2) ** 2, F32),
    "float32 reduction": (F32, lambda x: x.mean(-1), F32),
    "float32 where": (F32, lambda x: np.where(x > 0, x, 0.0), None),
    "float32 constant": (F32, lambda x: np.ones((4, 2), np.float32), F32),
    "float32 unused": (F32, lambda x: (np.sin(x), np.ones((4, 2), np.float32)), F32),
}


@pytest.mark.parametrize(("dtype", "f", "expected"), DTYPES.values(), ids=DTYPES.keys())
def test_dtype_is_the_same_in_every_mode_and_the_value_has_numpys(dtype, f, expected):
    x = random(4, 3, dtype=dtype)
    found = set()
    for mode in MODES:
        y, J = mj.value_and_jacobian(f, mode=mode)(x)
        for block, value, plain in zip(*((t if isinstance(t, tuple) else (t,)) for t in (J, y, f(x))), strict=True):
            assert value.dtype == plain.dtype
            found.add(block.dtype)
    assert len(found) == 1, found
    assert found <= {np.dtype(F32), np.dtype(F64)}
    if expected is not None:
        assert found == {np.dtype(expected)}


@pytest.mark.parametrize("dtype", [F32, F64])
def test_products_and_gradients_keep_the_dtype(dtype):
    x = random(4, 3, dtype=dtype)
    y, y_dot = mj.jvp(np.tanh, (x,), (x,))
    assert y.dtype == y_dot.dtype == dtype
    y, pullback = mj.vjp(np.tanh, x)
    assert pullback(y)[0].dtype == dtype
    value, g = mj.value_and_grad(lambda t: np.tanh(t).sum())(x)
    assert value.dtype == g.dtype == dtype


@modes
def test_float32_values_are_right_to_float32(mode):
    x = random(4, IN, dtype=F32)
    close(mj.jacobian(net, mode=mode)(x), net_jacobian(x.astype(F64)), rtol=1e-4, atol=1e-5)


# --- sizes and layouts of the input -------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("size", [0, 1, 2])
@pairs
def test_small_batches(pair, size, mode):
    f, torch_f = pair
    x = random(size, IN)
    y, J = mj.value_and_jacobian(f, mode=mode)(x)
    close(y, f(x))
    if size:
        close(J, loop_reference(torch_f, x))
    else:
        is_fresh_result(J)
        assert J.shape == (0, *f(x).shape[1:], IN)


@modes
def test_empty_features_in(mode):
    J = mj.jacobian(lambda x: x @ np.zeros((0, 4)) + 1.0, mode=mode)(np.zeros((3, 0)))
    assert J.shape == (3, 4, 0)


@modes
def test_empty_features_out(mode):
    J = mj.jacobian(lambda x: np.sin(x)[:, :0], mode=mode)(random(3, 5))
    assert J.shape == (3, 0, 5)


@modes
def test_empty_features_between(mode):
    J = mj.jacobian(lambda x: x @ np.zeros((5, 0)) @ np.zeros((0, 2)), mode=mode)(random(3, 5))
    close(J, np.zeros((3, 2, 5)), atol=0)


@modes
@pytest.mark.parametrize("structured", [False, True])
def test_empty_batch_of_parameters(mode, structured):
    J = mj.jacobian(parametric_net, batch_axis=(None, 0), mode=mode, structured=structured)(
        parameters(), np.zeros((0, 3))
    )
    assert J["w"].shape == (0, 2, 3, 4)


def test_empty_products_and_gradients():
    x = np.zeros((0, IN))
    y, y_dot = mj.jvp(net, (x,), (x,))
    assert y.shape == y_dot.shape == (0, OUT)
    y, pullback = mj.vjp(net, x)
    assert pullback(y)[0].shape == (0, IN)
    assert mj.grad(lambda t: net(t).sum())(x).shape == (0, IN)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "every second row": lambda: random(8, IN)[::2],
    "every second column": lambda: random(4, 2 * IN)[:, ::2],
    "backwards": lambda: random(4, IN)[::-1, ::-1],
    "Fortran order": lambda: np.asfortranarray(random(4, IN)),
    "transposed": lambda: random(IN, 4).T,
    "read-only": lambda: read_only(random(4, IN)),
    "broadcast along the batch": lambda: np.broadcast_to(random(IN), (4, IN)),
    "broadcast along features": lambda: np.broadcast_to(random(4, 1), (4, IN)),
    "broadcast scalar": lambda: np.broadcast_to(np.float64(0.3), (4, IN)),
    "unaligned": lambda: np.frombuffer(b"\0" + random(4, IN).tobytes(), np.uint8)[1:].view(np.float64).reshape(4, IN),
}


@modes
@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_of_the_input_does_not_matter(make, mode):
    x = make()
    before = x.copy()
    y, J = mj.value_and_jacobian(net, mode=mode)(x)
    close(y, net(before))
    close(J, net_jacobian(before))
    is_fresh_result(J, x)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_of_seeds_does_not_matter(make):
    x, v = random(4, IN, seed=1), make()
    _, y_dot = mj.jvp(np.sin, (x,), (v,))
    close(y_dot, np.cos(x) * v)
    _, pullback = mj.vjp(np.sin, x)
    (x_bar,) = pullback(v)
    close(x_bar, np.cos(x) * v)
    is_fresh_result(x_bar, v, x)


# --- chunks -------------------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
@pairs
def test_chunk_size_does_not_change_the_result(pair, chunk_size, mode):
    f, _ = pair
    x = random(3, IN)
    close(mj.jacobian(f, mode=mode, chunk_size=chunk_size)(x), mj.jacobian(f, mode=mode)(x))


@modes
@pytest.mark.parametrize("max_bytes", [20_000, 100_000, 10**9])
def test_max_bytes_does_not_change_the_result(max_bytes, mode):
    x = random(64, IN)
    f = Calls(net)
    y, J = mj.value_and_jacobian(f, mode=mode, max_bytes=max_bytes)(x)
    close(y, net(x))
    close(J, net_jacobian(x))
    assert sum(shape[0] for ((*shape,),) in f.shapes) == 64
    assert {shape[1] for ((*shape,),) in f.shapes} == {IN}


@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
def test_max_bytes_bounds_the_memory_beside_inputs_and_result(mode):
    size, n, bound = 64, 48, 2_000_000
    weights = [random(n, n, seed=k) for k in range(4)]

    def f(x):
        for w in weights:
            x = np.tanh(x @ w)
        return x

    x = random(size, n)
    free = mj.jacobian(f, mode=mode)(x)
    gc.collect()
    tracemalloc.start()
    try:
        J = mj.jacobian(f, mode=mode, max_bytes=bound)(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    close(J, free)
    bookkeeping = 200_000
    assert peak - J.nbytes <= bound + bookkeeping


def test_chunks_and_parameter_trees():
    p, x = parameters(), random(5, 3)
    whole = mj.jacobian(parametric_net, batch_axis=(None, 0))(p, x)
    for options in ({"chunk_size": 1}, {"chunk_size": 3, "mode": "forward"}, {"max_bytes": 20_000}):
        parts = mj.jacobian(parametric_net, batch_axis=(None, 0), **options)(p, x)
        for name in p:
            close(parts[name], whole[name])


def test_progress_changes_nothing_but_the_screen(capfd):
    pytest.importorskip("tqdm")
    x = random(3, IN)
    close(mj.jacobian(net, mode="forward", chunk_size=1, progress=True)(x), net_jacobian(x))
    shown = capfd.readouterr()
    assert shown.err or shown.out


# --- structured Jacobians -----------------------------------------------------------------------------------


def elementwise(x):
    return np.sin(x) * np.exp(-(x**2))


def shared(x):
    return x @ W1


STRUCTURED = {**{name: pair[0] for name, pair in PAIRS.items()}, "elementwise": elementwise, "shared": shared}
structured = pytest.mark.parametrize("f", STRUCTURED.values(), ids=STRUCTURED.keys())


@modes
@structured
def test_structured_jacobian_is_the_dense_one_as_an_operator(f, mode):
    x = random(3, IN)
    dense = mj.jacobian(f, mode=mode)(x)
    J = mj.jacobian(f, mode=mode, structured=True)(x)
    v, w = random(3, IN, seed=1), random(*f(x).shape, seed=2)
    assert J.shape == dense.shape
    close(J.todense(), dense)
    is_fresh_result(J.todense(), x, W1)
    close(J @ v, pushed(dense, v))
    close(J.T @ w, pulled(dense, w))
    close(np.vdot(J @ v, w), np.vdot(v, J.T @ w))


@structured
def test_transposed_operator(f):
    x = random(3, IN)
    J = mj.jacobian(f, structured=True)(x)
    dense = J.todense()
    transposed = np.moveaxis(dense, -1, 1)
    assert J.T.shape == transposed.shape
    close(J.T.todense(), transposed)
    close(J.T.T.todense(), dense)


@pytest.mark.parametrize("f", [elementwise, softmax, layer_norm, branching])
def test_diagonal_of_a_square_structured_jacobian(f):
    x = random(3, IN)
    J = mj.jacobian(f, structured=True)(x)
    close(J.diagonal(), np.einsum("bii->bi", mj.jacobian(f)(x)))


@structured
def test_sparse_sample_equals_the_dense_one(f):
    sparse = pytest.importorskip("scipy.sparse")
    x = random(3, IN)
    J = mj.jacobian(f, structured=True)(x)
    dense = mj.jacobian(f)(x)
    for i in range(3):
        one = J.tosparse(i)
        assert sparse.issparse(one)
        close(one.toarray(), dense[i].reshape(-1, IN))


def test_structure_is_not_densified_until_asked():
    x = random(50, 200)
    w = random(200, 200)
    diagonal = mj.jacobian(elementwise, structured=True)(x)
    common = mj.jacobian(lambda t: t @ w, structured=True)(x)
    bands = mj.jacobian(lambda t: t[:, 1:] * t[:, :-1], structured=True)(x)
    assert diagonal.nbytes <= 2 * x.nbytes
    assert common.nbytes <= 2 * w.nbytes
    assert bands.nbytes <= 4 * x.nbytes


def test_repr_names_the_structure():
    x = random(4, IN)
    assert "diagonal" in repr(mj.jacobian(elementwise, structured=True)(x)).lower()
    assert "shared" in repr(mj.jacobian(shared, structured=True)(x)).lower()
    assert "dense" in repr(mj.jacobian(to_scalar, structured=True)(x)).lower()
    bands = repr(mj.jacobian(stencil, structured=True)(x)).lower()
    assert "band" in bands
    assert "0" in bands
    assert "1" in bands


def test_structured_trees_hold_one_operator_per_leaf():
    x = {"a": random(4, 2), "b": random(4, 3)}
    J = mj.jacobian(lambda t: {"y": t["a"].sum(-1)[:, None] * t["b"]}, structured=True)(x)
    v = random(4, 2, seed=1)
    close(J["y"]["a"] @ v, v.sum(-1)[:, None] * x["b"])
    close(J["y"]["b"].todense(), x["a"].sum(-1)[:, None, None] * np.eye(3))


def test_structured_jacobian_without_a_batch():
    x = random(3)
    J = mj.jacobian(lambda t: np.sin(t) * t.sum(), batch_axis=None, structured=True)(x)
    dense = mj.jacobian(lambda t: np.sin(t) * t.sum(), batch_axis=None)(x)
    close(J.todense(), dense)
    close(J @ x, dense @ x)
    close(J.T @ x, dense.T @ x)


def test_structured_parameter_jacobian():
    x = random(4, IN)
    J = mj.jacobian(lambda w, t: np.tanh(t @ w), batch_axis=(None, 0), structured=True)(W1, x)
    dense = mj.jacobian(lambda w, t: np.tanh(t @ w), batch_axis=(None, 0))(W1, x)
    assert J.shape == (4, HIDDEN, IN, HIDDEN)
    close(J.todense(), dense)


def test_linearize_at_another_batch_axis():
    x = random(IN, 4)
    y, J = mj.linearize(lambda t: net(t.T), x, batch_axis=1)
    close(y, net(x.T))
    close(J.todense(), net_jacobian(x.T))


# --- stop_gradient and traced values ------------------------------------------------------------------------


@modes
def test_stop_gradient_is_a_constant(mode):
    x = random(4, 3)
    J = mj.jacobian(lambda t: t * mj.stop_gradient(np.sin(t)), mode=mode)(x)
    close(J, np.sin(x)[:, :, None] * np.eye(3))


def test_stop_gradient_passes_plain_values_and_trees_through():
    x = random(4, 3)
    close(mj.stop_gradient(x), x, atol=0)
    assert mj.stop_gradient(2.5) == 2.5
    g = mj.grad(lambda t: float(mj.stop_gradient(t.sum())) * t.sum())(x)
    close(g, np.full((4, 3), x.sum()))


def test_traced_values_answer_like_arrays():
    x = random(4, 3, low=1.0, high=2.0)
    seen = {}

    def f(t):
        seen.update(shape=t.shape, ndim=t.ndim, dtype=t.dtype, size=t.size, length=len(t))
        seen.update(text=str(t), all_above=bool((t > 0.5).all()), below=np.array_equal(np.asarray(t < 1.5), x < 1.5))
        columns = list(t.T)
        return np.stack([np.sin(c) for c in columns], axis=-1) if t[0, 0] > 0 else t * 0

    J = mj.jacobian(f)(x)
    close(J, np.cos(x)[:, :, None] * np.eye(3))
    assert seen["shape"] == (4, 3)
    assert seen["ndim"] == 2
    assert seen["dtype"] == x.dtype
    assert seen["size"] == 12
    assert seen["length"] == 4
    assert seen["all_above"] is True
    assert seen["below"]
    assert f"{x[0, 0]:.4f}"[:5] in seen["text"]


def test_minijac_numpy_is_one_namespace_for_plain_and_traced():
    x = random(4, IN)

    def f(t):
        return mj.numpy.tanh(mj.numpy.matmul(t, W1))

    plain = f(x)
    assert type(plain) is np.ndarray
    close(plain, np.tanh(x @ W1))
    close(mj.jacobian(f)(x), mj.jacobian(lambda t: np.tanh(t @ W1))(x))


# --- the tape -----------------------------------------------------------------------------------------------


def taped(x):
    h = np.tanh(x @ W1)  # <- here
    return h.sum(axis=-1)


def test_tape_lists_operations_shapes_and_source_lines():
    tape = mj.trace(taped, random(4, IN))
    text = str(tape)
    for word in ("matmul", "tanh", "sum"):
        assert word in text
    assert re.search(rf"\b4, ?{HIDDEN}\b", text)
    assert marked_line(taped) in places_named(text, __file__)


def test_tape_draws_itself():
    dot = mj.trace(taped, random(4, IN)).to_dot()
    assert dot.lstrip().startswith("digraph")
    assert dot.rstrip().endswith("}")
    assert "->" in dot
    assert "tanh" in dot


def test_tape_takes_several_arguments_and_batch_axes():
    tape = mj.trace(parametric_net, parameters(), random(5, 3), batch_axis=(None, 0))
    assert "tanh" in str(tape)


# --- exceptions, threads, memory, imports -------------------------------------------------------------------


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("transform", ["jacobian", "jvp", "vjp", "grad", "linearize"])
def test_an_exception_in_f_passes_through_and_leaves_no_trace_open(transform, kind):
    x = random(4, 3)
    error = kind("mine")
    kept = []

    def bad(t):
        kept.append(np.sin(t))
        raise error

    calls = {
        "jacobian": lambda: mj.jacobian(bad)(x),
        "jvp": lambda: mj.jvp(bad, (x,), (x,)),
        "vjp": lambda: mj.vjp(bad, x),
        "grad": lambda: mj.grad(bad)(x),
        "linearize": lambda: mj.linearize(bad, x),
    }
    with pytest.raises(kind) as caught:
        calls[transform]()
    assert caught.value is error
    assert type(np.sin(x)) is np.ndarray
    close(mj.jacobian(np.sin)(x), np.cos(x)[:, :, None] * np.eye(3))
    with pytest.raises(mj.TraceError):
        kept[0] + 1.0


def test_an_exception_of_an_inner_transformation_does_not_disturb_the_outer():
    x = random(4, 3)

    def bad(t):
        np.sin(t)
        raise ValueError("mine")

    def f(t):
        with pytest.raises(ValueError, match="mine"):
            mj.jacobian(bad)(t)
        return t**2

    close(mj.jacobian(f)(x), 2 * x[:, :, None] * np.eye(3))


def test_threads_do_not_see_each_others_traces():
    barrier = threading.Barrier(2, timeout=20)

    def work(k):
        def f(x):
            h = np.sin(k * x)
            barrier.wait()
            return mj.jacobian(lambda t: t**3)(h).sum(-1) * x

        for _ in range(10):
            x = random(4, 3, seed=k)
            h = np.sin(k * x)
            expected = 3 * h**2 + 6 * h * np.cos(k * x) * k * x
            close(mj.jacobian(f)(x), expected[:, :, None] * np.eye(3))
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (1, 2))) == [True, True]


def test_a_pullback_may_be_used_in_another_thread():
    x = random(4, IN)
    y, pullback = mj.vjp(net, x)
    with ThreadPoolExecutor(1) as pool:
        (x_bar,) = pool.submit(pullback, np.ones_like(y)).result()
    close(x_bar, net_jacobian(x).sum(1))


REPEATED = {
    "jacobian": lambda x: mj.jacobian(np.sin)(x),
    "grad": lambda x: mj.grad(lambda t: np.sin(t).sum())(x),
    "pullback": lambda x: mj.vjp(np.sin, x)[1](x),
    "nested": lambda x: mj.jacobian(mj.jacobian(np.sin))(x),
}


@pytest.mark.parametrize("call", REPEATED.values(), ids=REPEATED.keys())
def test_a_thousand_calls_do_not_grow_memory(call):
    x = random(2, 3)
    for _ in range(100):
        call(x)
    gc.collect()
    tracemalloc.start()
    try:
        call(x)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            call(x)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 50_000


def test_importing_and_using_minijac_imports_nothing_optional():
    code = (
        "import sys, numpy as np, minijac as mj\n"
        "mj.jacobian(lambda x: np.tanh(x) @ np.ones((3, 2)))(np.ones((4, 3)))\n"
        "optional = {'torch', 'jax', 'scipy', 'cupy', 'matplotlib', 'tqdm'}\n"
        "print(sorted(optional & set(sys.modules)))\n"
    )
    root = Path(mj.__file__).resolve().parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
