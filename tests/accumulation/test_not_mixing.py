"""What keeps samples apart is not called mixing, in whatever form; outputs whose batch is lost are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import (
    MODES,
    close,
    loop_reference,
    mentions,
    random,
    tensor,
    torch_full_jacobian,
)

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)
B, N = 4, 3
W = random(N, N, seed=11)
OTHER = random(B, N, seed=12)

# --- what does not mix ------------------------------------------------------------------------------------------------


def transposed_and_back(x):
    return (np.tanh(W @ x.T) * 2.0).T


def features_first(x):
    y = np.moveaxis(x[:, :, None] * x[:, None, :], 0, -1)
    return np.sin(y).sum(0).T


def iterated_over_features(x):
    return np.stack([np.sin(column) for column in x.T], axis=1)


def merged_and_split(x):
    tokens = x[:, None, :] * OTHER[:, :2, None]
    return np.tanh(tokens.reshape(-1, N) @ W).reshape(-1, 2, N)


def merged_and_split_by_shape(x):
    tokens = x[:, None, :] * OTHER[:, :2, None]
    merged = tokens.reshape(x.shape[0] * 2, N)
    return (merged @ W).reshape(x.shape[0], 2 * N)


def flattened(x):
    return np.sin(x.reshape(-1)).reshape(x.shape)


def ravelled(x):
    return np.sin(np.ravel(x)).reshape(len(x), -1)


def stopped_before(x):
    return x - mj.stop_gradient(x).mean(0)


def stopped_after(x):
    return x * mj.stop_gradient(x.mean(0))


def compared(x):
    return np.where(x > x.mean(0), np.sin(x), x**2)


def compared_as_factor(x):
    return x * (x > x.mean(0))


def sign_of_mean(x):
    return x * np.sign(x.mean(0))


def floor_of_mean(x):
    return np.sin(x) + np.floor(x.mean(0))


def arg_of_mean(x):
    return x * np.argmax(x.mean(0))


def unused_mean(x):
    centre = x.mean(0)
    np.exp(centre)
    return np.sin(x)


def python_branch(x):
    return np.sin(x) if x.mean() > -10 else x


def two_directions(x):
    return np.einsum("bi,ij,bj->b", x, W, x)


def batched_matmul(x):
    return (x[:, None, :] @ (x[:, :, None] * W))[:, 0, :]


def broadcast_constant(x):
    return x[:, None, :] + OTHER[None, :2, :]


def centred_features(x):
    return (x.T - x.mean(1)).T


def torch_where_compared(x):
    return pytest.importorskip("torch").where(x > x.mean(0), x.sin(), x**2)


def torch_tokens(x):
    return x[:, None, :] * tensor(OTHER)[:, :2, None]


CLEAN: dict[str, tuple[Callable, Callable]] = {
    "transposed and back": (transposed_and_back, lambda x: (x @ tensor(W).T).tanh() * 2.0),
    "features first": (features_first, lambda x: (x[:, :, None] * x[:, None, :]).sin().sum(1)),
    "iterated over features": (iterated_over_features, lambda x: x.sin()),
    "flattened": (flattened, lambda x: x.sin()),
    "ravelled": (ravelled, lambda x: x.sin()),
    "two directions": (two_directions, lambda x: ((x @ tensor(W)) * x).sum(-1)),
    "batched matmul": (batched_matmul, lambda x: (x[:, None, :] @ (x[:, :, None] * tensor(W)))[:, 0]),
    "broadcast constant": (broadcast_constant, lambda x: x[:, None, :] + tensor(OTHER)[None, :2, :]),
    "centred features": (centred_features, lambda x: x - x.mean(1, keepdim=True)),
    "unused mean": (unused_mean, lambda x: x.sin()),
    "python branch": (python_branch, lambda x: x.sin()),
}
# These hold something of the whole batch as a constant: the reference is the diagonal of torch's full Jacobian.
CLEAN_WITH_CONSTANTS: dict[str, tuple[Callable, Callable]] = {
    "merged and split": (merged_and_split, lambda x: (torch_tokens(x) @ tensor(W)).tanh()),
    "merged and split by shape": (
        merged_and_split_by_shape,
        lambda x: (torch_tokens(x) @ tensor(W)).reshape(x.shape[0], -1),
    ),
    "stopped before": (stopped_before, lambda x: x - x.detach().mean(0)),
    "stopped after": (stopped_after, lambda x: x * x.detach().mean(0)),
    "compared": (compared, torch_where_compared),
    "compared as a factor": (compared_as_factor, lambda x: x * (x > x.mean(0))),
    "sign of mean": (sign_of_mean, lambda x: x * x.mean(0).sign()),
    "floor of mean": (floor_of_mean, lambda x: x.sin() + x.mean(0).floor()),
    "index of largest mean": (arg_of_mean, lambda x: x * x.mean(0).argmax()),
}


@modes
@pytest.mark.parametrize("pair", CLEAN.values(), ids=CLEAN.keys())
def test_what_does_not_mix_passes_and_is_right(pair, mode):
    f, torch_f = pair
    x = random(B, N)
    close(mj.jacobian(f, mode=mode)(x), loop_reference(torch_f, x))


@modes
@pytest.mark.parametrize("pair", CLEAN.values(), ids=CLEAN.keys())
def test_one_sample_is_treated_like_many(pair, mode):
    f, torch_f = pair
    x = random(1, N)
    close(mj.jacobian(f, mode=mode)(x), loop_reference(torch_f, x))


@modes
@pytest.mark.parametrize("pair", CLEAN_WITH_CONSTANTS.values(), ids=CLEAN_WITH_CONSTANTS.keys())
def test_what_carries_no_derivative_does_not_mix(pair, mode):
    f, torch_f = pair
    x = random(B, N)
    full = torch_full_jacobian(torch_f, x)
    expected = np.moveaxis(np.diagonal(full, axis1=0, axis2=full.ndim - 2), -1, 0)
    close(mj.jacobian(f, mode=mode)(x), expected)


@modes
@pytest.mark.parametrize("batch_axis", [0, (0, None)])
def test_an_argument_that_is_not_differentiated_may_mix(batch_axis, mode):
    x, z = random(B, N), random(B, N, seed=1)

    def f(t, u):
        return np.sin(t) * (u - u.mean(0)).sum(0) + (u @ u.T).mean()

    J = mj.jacobian(f, batch_axis=batch_axis, mode=mode)(x, z)
    close(J, (np.cos(x) * (z - z.mean(0)).sum(0))[:, :, None] * np.eye(N), atol=1e-10)


@modes
def test_shared_parameters_may_be_reduced_and_transposed(mode):
    x = random(B, N)
    f = lambda w, t: np.tanh(t @ w) * w.sum(0) + (w.T @ w).mean()
    torch_f = lambda w, t: (t @ w).tanh() * w.sum(0) + (w.T @ w).mean()
    J = mj.jacobian(f, batch_axis=(None, 0), mode=mode)(W, x)
    close(J, loop_reference(torch_f, W, x, batch_axis=(None, 0)))


@modes
def test_a_square_batch_is_no_confusion(mode):
    """B equal to the feature size: labels, not lengths, tell the axes apart."""
    x = random(N, N)
    close(mj.jacobian(transposed_and_back, mode=mode)(x), loop_reference(CLEAN["transposed and back"][1], x))
    close(mj.jacobian(lambda t: t.T, mode=mode)(x), np.broadcast_to(np.eye(N), (N, N, N)))
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(lambda t: t + t.T, mode=mode)(x)
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(lambda t: t.T @ t, mode=mode)(x)


@modes
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.T.reshape(-1).reshape(N, B).T,
        lambda x: np.swapaxes(x.reshape(2, 2, N), 0, 1).reshape(B, N),
        lambda x: x[::-1][::-1],
        lambda x: np.concatenate([x[:2], x[2:]], axis=0),
        lambda x: x.reshape(2, 2, N).sum(1).repeat(2, axis=0),
        lambda x: np.roll(np.roll(x, 1, 0), -1, 0),
        lambda x: np.concatenate([np.sin(x), x - x.mean(0)], axis=1)[:, :N],
        lambda x: x.reshape(B * N)[np.arange(B * N)].reshape(B, N),
    ],
)
def test_unusual_rearrangements_raise_or_are_right(f, mode):
    """Structure may be too coarse to see that a rearrangement keeps samples apart; it is never wrong."""
    x = random(B, N)
    full = mj.jacobian(f, batch_axis=None)(x)
    apart = np.array_equal(full, full * np.eye(B)[:, None, :, None])
    try:
        J = mj.jacobian(f, mode=mode)(x)
    except mj.BatchMixingError:
        return
    assert apart
    close(J, np.einsum("bobi->boi", full))


# --- outputs whose batch axis is lost ---------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("policy", ["raise", "diagonal", "full"])
def test_constant_outputs_have_zero_jacobians(policy, mode):
    J = mj.jacobian(lambda x: OTHER, on_mixing=policy, mode=mode)(random(B, 2))
    assert J.shape == ((B, N, B, 2) if policy == "full" else (B, N, 2))
    assert not J.any()


@modes
@pytest.mark.parametrize("policy", ["raise", "diagonal", "full"])
@pytest.mark.parametrize(
    "f",
    [lambda x: np.ones(B + 1), lambda x: np.ones((N, B)), lambda x: np.float64(1.0), lambda x: 2.0],
    ids=["vector", "batch last", "NumPy scalar", "Python number"],
)
def test_a_constant_output_without_the_batch_on_axis_0_is_an_input_error(f, policy, mode):
    with pytest.raises(mj.InputError) as caught:
        mj.jacobian(f, on_mixing=policy, mode=mode)(random(B, 2))
    mentions(caught.value, "axis 0", str(B))


@modes
@pytest.mark.parametrize("policy", ["diagonal", "full"])
@pytest.mark.parametrize(
    "f",
    [lambda x: x.sum(0), lambda x: x.T @ x, lambda x: x.sum(), lambda x: x[1:] - x[:-1]],
    ids=["sum", "product", "scalar", "differences"],
)
def test_a_mixed_output_without_the_batch_on_axis_0_is_an_input_error(f, policy, mode):
    with pytest.raises(mj.InputError):
        mj.jacobian(f, on_mixing=policy, mode=mode)(random(B, N))


@modes
@pytest.mark.parametrize("f", [lambda x: x.sum(0), lambda x: x.T @ x, lambda x: x.sum(), lambda x: x[1:] - x[:-1]])
def test_a_reduction_to_no_batch_is_called_mixing(f, mode):
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(f, mode=mode)(random(B, N))


@modes
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x[:2],
        lambda x: x.reshape(-1),
        lambda x: np.concatenate([x, x], axis=0),
        lambda x: np.repeat(x, 2, axis=0),
        lambda x: x[0],
        lambda x: np.zeros((2, 1, 1)) + x,
    ],
    ids=["part", "flat", "twice", "repeated", "one", "broadcast in front"],
)
def test_an_output_that_is_no_batch_of_samples_is_never_taken_for_one(f, mode):
    x = random(B, N)
    try:
        J = mj.jacobian(f, mode=mode)(x)
    except (mj.BatchMixingError, mj.InputError):
        return
    # A tracked batch axis may stand anywhere: then this is (B, *out, *in) with the rest of the axes in order.
    assert f(x).ndim == 3
    close(J, np.broadcast_to(np.eye(N), (B, 2, N, N)))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.reshape(len(x), 2, 2) * 2.0,
        lambda x: np.median(x, axis=1),
        lambda x: (x.reshape(-1, 2) @ np.ones((2, 3))).reshape(len(x), 6),
    ],
)
def test_no_samples_mix_with_none(f):
    assert mj.jacobian(f)(random(3, 4, seed=7)[:0]).shape == (0, *f(random(3, 4, seed=7)).shape[1:], 4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [0, 1, 2, 5])
@pytest.mark.parametrize("way", [lambda J: J, mj.compile], ids=["eager", "compiled"])
def test_an_axis_of_length_one_before_the_samples_is_not_taken_for_theirs(way, batch, mode):
    v, x = np.arange(1.0, 5.0)[:, None, None], np.arange(3.0 * batch).reshape(batch, 3)
    J = way(mj.jacobian(lambda x: v * np.sin(x).reshape(1, len(x), 3), mode=mode))(x)
    np.testing.assert_allclose(J, np.einsum("v,bi,ij->bvij", v.ravel(), np.cos(x), np.eye(3)))
