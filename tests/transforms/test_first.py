"""Jacobians, value and Jacobian, products with them: against torch; one call of f; chunks and bounds change nothing."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from functions import PAIRS
from helpers import (
    IN,
    MODES,
    OUT,
    close,
    loop_reference,
    net,
    net_jacobian,
    parameters,
    parametric_net,
    pulled,
    pushed,
    random,
)

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)


class Calls:
    """Counts the calls of `f` and keeps the shapes that it was called with."""

    def __init__(self, f: Callable):
        self.f, self.shapes = f, []

    def __call__(self, *args: Any) -> Any:
        self.shapes.append(tuple(np.shape(a) for a in args))
        return self.f(*args)


# --- per-sample Jacobians against torch ---------------------------------------------------------------------


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
