"""Arguments by keyword, trees of batch axes, and partial derivatives by several arguments."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import close

import minijac as mj
from minijac.arguments import flatten

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(4, 3)), RNG.normal(size=(3, 2))


def net(x, w):
    return np.tanh(x @ w)


def energy(x, w):
    return net(x, w).sum(axis=1)


# --- by keyword -------------------------------------------------------------------------------------------------------

SHARED = {"batch_axis": (0, None)}
CALLS = {
    "jacobian": lambda f, **o: mj.jacobian(f, **o, **SHARED),
    "value_and_jacobian": lambda f, **o: mj.value_and_jacobian(f, **o, **SHARED),
    "hessian": lambda f, **o: mj.hessian(f, **o, **SHARED),
    "hessian_diagonal": lambda f, **o: mj.hessian_diagonal(f, **o, **SHARED),
    "laplacian": lambda f, **o: mj.laplacian(f, **o, **SHARED),
    "compiled": lambda f, **o: mj.compile(mj.jacobian(f, **o, **SHARED)),
    "grad": lambda f, **o: mj.grad(lambda x, w: f(x, w).sum(), **o),
}


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
@pytest.mark.parametrize("name", CALLS)
def test_arguments_by_keyword_are_differentiated_as_if_by_position(name, argnums):
    call = CALLS[name](energy, argnums=argnums)
    expected = call(X, W)
    for got in (call(X, w=W), call(x=X, w=W), call(w=W, x=X)):
        for a, b in zip(flatten(got)[0], flatten(expected)[0], strict=True):
            close(a, b)


def test_partials_and_divergence_take_x_by_keyword():
    close(mj.partials(energy, [(0, 1)], batch_axis=(0, None))(x=X, w=W)[0], mj.hessian(energy, **SHARED)(X, W)[:, 0, 1])
    close(mj.divergence(lambda x: np.sin(x))(x=X), np.cos(X).sum(axis=1))


def test_keywords_that_no_option_speaks_of_stay_keywords_and_shared():
    """A matrix by keyword has no batch axis, although batch_axis=0 holds for all positional arguments."""
    seen = []

    def f(x, *, w):
        seen.append(type(w))
        return x @ w

    close(mj.jacobian(f)(x=X, w=W), np.broadcast_to(W.T, (4, 2, 3)))
    close(mj.jacobian(net)(x=X, w=W), mj.jacobian(net, **SHARED)(X, W))
    assert seen == [np.ndarray]


def test_an_argument_that_did_not_come_is_named_with_what_to_do():
    with pytest.raises(mj.InputError, match="by position, or by the name that it has in the function"):
        mj.jacobian(net, argnums=1)(X)
    with pytest.raises(mj.InputError, match="by position, or by the name that it has in the function"):
        mj.jacobian(lambda *xs, **named: named["x"])(x=X)


# --- trees of batch axes ----------------------------------------------------------------------------------------------


def layer(inputs):
    return np.tanh(inputs["x"] @ inputs["w"] + inputs["more"][0].T * inputs["more"][1])


INPUTS = {"x": X, "w": W, "more": (RNG.normal(size=(2, 4)), np.float64(0.3))}
AXES = {"x": 0, "w": None, "more": (1, None)}


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_leaves_of_one_argument_have_batch_axes_of_their_own(mode):
    J = mj.jacobian(layer, batch_axis=(AXES,), mode=mode)(INPUTS)
    separate = lambda x, w, b, s: layer({"x": x, "w": w, "more": (b, s)})
    leaves = (INPUTS["x"], INPUTS["w"], *INPUTS["more"])
    expected = mj.jacobian(separate, (0, 1, 2, 3), batch_axis=(0, None, 1, None), mode=mode)(*leaves)
    for got, want in zip((J["x"], J["w"], *J["more"]), expected, strict=True):
        close(got, want)
    assert J["x"].shape == (4, 2, 3) and J["w"].shape == (4, 2, 3, 2) and J["more"][0].shape == (4, 2, 2)


def test_a_tree_of_axes_holds_for_all_leaves_below_its_own():
    f = lambda batch, params: net(batch["a"] + batch["b"][0], params["w"])
    args = {"a": X, "b": [2.0 * X]}, {"w": W}
    J = mj.jacobian(f, argnums=1, batch_axis=({"a": 0, "b": 0}, None))(*args)
    close(J["w"], mj.jacobian(f, argnums=1, batch_axis=(0, None))(*args)["w"])


def test_trees_of_axes_hold_in_every_transformation():
    scalar = lambda inputs: layer(inputs).sum(axis=1)
    only_x = lambda x: scalar({**INPUTS, "x": x})
    close(mj.hessian(scalar, batch_axis=(AXES,))(INPUTS)["x"]["x"], mj.hessian(only_x)(X))
    close(mj.hessian_diagonal(scalar, batch_axis=(AXES,))(INPUTS)["x"], mj.hessian_diagonal(only_x)(X))
    close(mj.compile(mj.jacobian(scalar, batch_axis=(AXES,)))(INPUTS)["x"], mj.jacobian(only_x)(X))
    assert "batch axis" in str(mj.trace(layer, INPUTS, batch_axis=(AXES,)))
    mj.testing.check_derivatives(layer, INPUTS, batch_axis=(AXES,))
    one = lambda inputs: np.tanh(inputs["x"] @ inputs["w"] + inputs["more"][0] * inputs["more"][1])
    close(mj.vmap(one, in_axes=(AXES,))(INPUTS), layer(INPUTS))


def test_mixing_is_found_by_leaf():
    f = lambda inputs: inputs["x"] - inputs["w"].mean(axis=0)
    J = mj.jacobian(f, batch_axis=({"x": 0, "w": None},))({"x": X, "w": X.copy()})
    assert J["w"].shape == (4, 3, 4, 3)
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(f)({"x": X, "w": X.copy()})


@pytest.mark.parametrize("axes", [({"x": 0},), ((0, None),), ({"x": 0, "w": "first", "more": None},), {"x": 0}])
def test_a_tree_of_axes_that_does_not_fit_is_refused(axes):
    with pytest.raises(mj.InputError, match="batch_axis: expected an int, None, or a t"):
        mj.jacobian(layer, batch_axis=axes)(INPUTS)


# --- partials by several arguments ------------------------------------------------------------------------------------


def wave(x, t, c):
    return np.sin(x[:, 0] * x[:, 1] - c * t[:, 0]) * np.exp(t[:, 0] * x[:, 0])


def test_partials_by_a_later_argument():
    t, c = RNG.normal(size=(4, 1)), 0.7
    (u_tt,) = mj.partials(wave, [(0, 0)], 1, batch_axis=(0, 0, None))(X, t, c)
    close(u_tt, mj.hessian(wave, 1, batch_axis=(0, 0, None))(X, t, c)[:, 0, 0])


@pytest.mark.parametrize("compiled", [False, True])
def test_partials_by_several_arguments_count_their_features_on(compiled):
    t, c = RNG.normal(size=(4, 1)), 0.7
    together = lambda z: wave(z[:, :3], z[:, 3:], c)
    wanted = [(), (0,), (3,), (1, 3), (3, 3), (0, 1, 3), (2, 3)]
    call = mj.partials(wave, wanted, (0, 1), batch_axis=(0, 0, None))
    got = (mj.compile(call) if compiled else call)(X, t, c)
    for a, b in zip(got, mj.partials(together, wanted)(np.concatenate([X, t], axis=1)), strict=True):
        close(a, b)
    swapped = mj.partials(wave, [(0, 2)], (1, 0), batch_axis=(0, 0, None))(X, t, c)[0]
    close(swapped, got[3])


def test_partials_by_several_arguments_through_operations_with_rules_of_their_own():
    f = lambda x, t: np.sort(x * t, axis=1)[:, 0] * np.cumsum(x, axis=1)[:, 2] + t[:, 0] ** 3
    t = 1.0 + RNG.random((4, 1))
    both = mj.hessian(lambda z: f(z[:, :3], z[:, 3:]))(np.concatenate([X, t], axis=1))
    for i in range(4):
        for j in range(4):
            close(mj.partials(f, [(i, j)], (0, 1))(X, t)[0], both[:, i, j])


def test_a_feature_that_no_argument_has_is_refused():
    with pytest.raises(mj.InputError, match=r"within range\(4\) for x of shape \(4, 3\), \(4, 1\)"):
        mj.partials(wave, [(4,)], (0, 1), batch_axis=(0, 0, None))(X, np.ones((4, 1)), 1.0)
