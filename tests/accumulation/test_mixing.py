"""Where samples mix: what raises, with which message, what does not, and the exact results on request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import (
    MODES,
    close,
    loop_reference,
    marked_line,
    mentions,
    names_place,
    places_named,
    random,
    tensor,
    torch_full_jacobian,
)

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)
B, N = 4, 3
W = random(N, N, seed=11)
OTHER = random(B, N, seed=12)
ORDER = np.array([2, 0, 3, 1])


@dataclass(frozen=True)
class Mix:
    """A function that mixes samples, the same in torch, and a pattern for the operation that does it."""

    f: Callable
    torch_f: Callable
    operation: str


def gram(x):
    return x @ x.T  # <- here


def gram_einsum(x):
    return np.einsum("bi,ci->bc", x, x)  # <- here


def gram_inner(x):
    return np.inner(x, x)  # <- here


def centred(x):
    return x - x.mean(0)  # <- here


def centred_by_function(x):
    return x - np.mean(x, axis=0, keepdims=True)  # <- here


def centred_by_negative_axis(x):
    return np.sin(x) * x.mean(-2)  # <- here


def plus_nothing(x):
    return x + 0 * x.mean(0)  # <- here


def plus_what_cancels(x):
    return x + (x.sum(0) - x.sum(0))  # <- here


def times_total(x):
    return x * x.sum()  # <- here


def reversed_samples(x):
    return np.sin(x[::-1])  # <- here


def flipped(x):
    return np.sin(x) * np.flip(x, 0)  # <- here


def rolled(x):
    return x * np.roll(x, 1, axis=0)  # <- here


def permuted(x):
    return x * x[ORDER]  # <- here


def taken(x):
    return x * np.take(x, ORDER, axis=0)  # <- here


def first_sample_for_all(x):
    return x - x[0]  # <- here


def softmax_over_samples(x):
    return np.exp(x) / np.exp(x).sum(axis=0)  # <- here


def share_of_norm(x):
    return x / np.linalg.norm(x, axis=0)  # <- here


def share_of_largest(x):
    return x / x.max(axis=0)  # <- here


def attention_over_the_batch(x):
    q = x @ W
    scores = q @ x.T  # <- here
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ x


def batch_norm(x):
    mean = x.mean(axis=0)  # <- here
    variance = ((x - mean) ** 2).mean(axis=0)
    return (x - mean) / np.sqrt(variance + 1e-2)


def standardised(x):
    return x / np.sqrt(x.var(axis=0) + 1e-2)  # <- here


def differences(x):
    steps = x[1:] - x[:-1]  # <- here
    return np.concatenate([steps, x[:1] * 2.0], axis=0)


def matrix_over_samples(x):
    return np.ones((B, B)) @ np.sin(x)  # <- here


def filled_with_mean(x):
    return np.where(x > 0, x, x.mean(0))  # <- here


def wrongly_split(x):
    merged = x[:, None, :] * OTHER[:, :2, None]
    return merged.reshape(-1, N).reshape(2, B, N).sum(0)  # <- here


def pairwise_distances(x):
    return ((x[:, None, :] - x[None, :, :]) ** 2).sum(-1)  # <- here


MIXES = {
    "gram": Mix(gram, lambda x: x @ x.T, "matmul"),
    "gram einsum": Mix(gram_einsum, lambda x: x @ x.T, "einsum"),
    "gram inner": Mix(gram_inner, lambda x: x @ x.T, "inner|matmul|tensordot|einsum"),
    "centred": Mix(centred, lambda x: x - x.mean(0), "mean"),
    "centred by function": Mix(centred_by_function, lambda x: x - x.mean(0), "mean"),
    "centred by negative axis": Mix(centred_by_negative_axis, lambda x: x.sin() * x.mean(0), "mean"),
    "plus nothing": Mix(plus_nothing, lambda x: x + 0 * x.mean(0), "mean"),
    "plus what cancels": Mix(plus_what_cancels, lambda x: x + (x.sum(0) - x.sum(0)), "sum"),
    "times total": Mix(times_total, lambda x: x * x.sum(), "sum"),
    "reversed samples": Mix(reversed_samples, lambda x: x.flip(0).sin(), "getitem|index|slic|flip"),
    "flipped": Mix(flipped, lambda x: x.sin() * x.flip(0), "flip"),
    "rolled": Mix(rolled, lambda x: x * x.roll(1, 0), "roll"),
    "permuted": Mix(permuted, lambda x: x * x[ORDER], "getitem|index|take|gather"),
    "taken": Mix(taken, lambda x: x * x[ORDER], "take|gather|index"),
    "first sample for all": Mix(first_sample_for_all, lambda x: x - x[0], "getitem|index|slic"),
    "softmax over samples": Mix(softmax_over_samples, lambda x: x.softmax(0), "sum"),
    "share of norm": Mix(share_of_norm, lambda x: x / x.norm(dim=0), "norm"),
    "share of largest": Mix(share_of_largest, lambda x: x / x.amax(0), "max"),
    "attention over the batch": Mix(
        attention_over_the_batch, lambda x: ((x @ tensor(W)) @ x.T).softmax(-1) @ x, "matmul"
    ),
    "batch norm": Mix(batch_norm, lambda x: (x - x.mean(0)) / (x.var(0, correction=0) + 1e-2).sqrt(), "mean"),
    "standardised": Mix(standardised, lambda x: x / (x.var(0, correction=0) + 1e-2).sqrt(), "var"),
    "differences": Mix(
        differences,
        lambda x: pytest.importorskip("torch").cat([x[1:] - x[:-1], x[:1] * 2.0]),
        "getitem|index|slic",
    ),
    "matrix over samples": Mix(matrix_over_samples, lambda x: tensor(np.ones((B, B))) @ x.sin(), "matmul"),
    "filled with mean": Mix(
        filled_with_mean, lambda x: pytest.importorskip("torch").where(x > 0, x, x.mean(0)), "mean"
    ),
    "wrongly split": Mix(
        wrongly_split,
        lambda x: (x[:, None, :] * tensor(OTHER)[:, :2, None]).reshape(2, B, N).sum(0),
        "reshape",
    ),
    "pairwise distances": Mix(
        pairwise_distances,
        lambda x: ((x[:, None, :] - x[None, :, :]) ** 2).sum(-1),
        r"getitem|index|subtract|broadcast|expand|newaxis|sum|-",
    ),
}
mixes = pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())


# --- what mixes raises ------------------------------------------------------------------------------------------------


@modes
@mixes
def test_mixing_raises_in_every_mode(mix, mode):
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(mix.f, mode=mode)(random(B, N))


@mixes
def test_the_message_names_operation_line_and_choices(mix):
    with pytest.raises(mj.BatchMixingError) as caught:
        mj.jacobian(mix.f)(random(B, N))
    mentions(caught.value, mix.operation, "on_mixing", "diagonal", "full")
    names_place(caught.value, mix.f)


def test_the_message_names_axis_and_shape():
    with pytest.raises(mj.BatchMixingError) as caught:
        mj.jacobian(centred)(random(B, N))
    mentions(caught.value, r"axis\W{1,3}0", rf"\({B}, {N}\)")


def statistics(values):
    """Stands for a helper of the user's, called by the function that is differentiated."""
    scale = 2.0 * np.sum(
        values,
        axis=0,
    )  # the statement starts three lines above
    return scale


def uses_a_helper(x):
    return x * statistics(x)


def test_the_line_is_the_innermost_of_the_user():
    with pytest.raises(mj.BatchMixingError) as caught:
        mj.jacobian(uses_a_helper)(random(B, N))
    last = marked_line(statistics, "# the statement starts")
    assert set(places_named(str(caught.value), __file__)) & set(range(last - 3, last + 1))


@pytest.mark.parametrize(
    "call",
    [
        lambda f, x: mj.value_and_jacobian(f)(x),
        lambda f, x: mj.jacobian(f, structured=True)(x),
        lambda f, x: mj.jacobian(f, chunk_size=1)(x),
        lambda f, x: mj.jacobian(f, max_bytes=10**6)(x),
        lambda f, x: mj.jacobian(lambda t: (f(t), t), has_aux=True)(x),
        lambda f, x: mj.jacobian(lambda t: {"fine": np.sin(t), "mixed": f(t)})(x),
        lambda f, x: mj.linearize(f, x),
        lambda f, x: mj.hessian(lambda t: f(t) ** 3)(x),
    ],
    ids=["value", "structured", "chunk_size", "max_bytes", "aux", "tree", "linearize", "hessian"],
)
@pytest.mark.parametrize("f", [gram, centred, reversed_samples])
def test_mixing_raises_in_every_transformation(f, call):
    with pytest.raises(mj.BatchMixingError):
        call(f, random(B, N))


@modes
@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("f", [gram, centred, centred_by_function, plus_nothing, times_total])
def test_detection_does_not_depend_on_the_batch_size(f, size, mode):
    with pytest.raises(mj.BatchMixingError), np.errstate(all="ignore"):
        mj.jacobian(f, mode=mode)(random(size, N))


@modes
@pytest.mark.parametrize("f", [centred, gram, plus_nothing])
def test_detection_does_not_depend_on_values(f, mode):
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(f, mode=mode)(np.zeros((B, N)))


@modes
def test_mixing_at_another_batch_axis(mode):
    x = random(N, B)
    mj.jacobian(lambda t: t - t.mean(0), batch_axis=1, mode=mode)(x)
    for f in (lambda t: t - t.mean(1, keepdims=True), lambda t: t.T @ t, lambda t: t[:, ::-1]):
        with pytest.raises(mj.BatchMixingError):
            mj.jacobian(f, batch_axis=1, mode=mode)(x)


@modes
def test_samples_of_an_argument_not_differentiated_may_mix_in_a_parameter_jacobian(mode):
    """Batch statistics of x, seen from the shared w: only w carries a derivative, and the result is exact."""
    x = random(B, N)

    def batch_normalised(w, t):
        y = np.sin(t @ w)
        return y - y.mean(0)

    expected = torch_full_jacobian(
        lambda w: (tensor(x) @ w).sin() - (tensor(x) @ w).sin().mean(0),
        W,
    )
    close(mj.jacobian(batch_normalised, batch_axis=(None, 0), mode=mode)(W, x), expected)


@modes
def test_samples_of_an_argument_that_is_differentiated_still_mix_beside_parameters(mode):
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(lambda w, t: t @ w - (t @ w).mean(0), (0, 1), batch_axis=(None, 0), mode=mode)(W, random(B, N))


def test_sums_over_samples_are_legitimate_in_products_and_gradients():
    torch = pytest.importorskip("torch")
    x, v = random(B, N), random(B, N, seed=1)
    for mix in MIXES.values():
        full = torch_full_jacobian(mix.torch_f, x)
        y, y_dot = mj.jvp(mix.f, (x,), (v,))
        close(y, mix.f(x))
        close(y_dot, np.einsum("...bi,bi->...", full, v))
        _, pullback = mj.vjp(mix.f, x)
        close(pullback(y)[0], np.tensordot(y, full, y.ndim))
        leaf = tensor(x, requires_grad=True)
        (expected,) = torch.autograd.grad((mix.torch_f(leaf) ** 2).sum(), leaf)
        close(mj.grad(lambda t, mix=mix: (mix.f(t) ** 2).sum())(x), expected.numpy())


@modes
def test_without_a_batch_nothing_mixes(mode):
    x = random(B, N)
    for mix in MIXES.values():
        close(mj.jacobian(mix.f, batch_axis=None, mode=mode)(x), torch_full_jacobian(mix.torch_f, x))


# --- the exact results on request -------------------------------------------------------------------------------------


@modes
@mixes
def test_full_is_torchs_full_jacobian(mix, mode):
    x = random(B, N)
    y, J = mj.value_and_jacobian(mix.f, on_mixing="full", mode=mode)(x)
    close(y, mix.f(x))
    close(J, torch_full_jacobian(mix.torch_f, x))


@modes
@mixes
def test_diagonal_is_the_diagonal_of_torchs_full_jacobian(mix, mode):
    x = random(B, N)
    y, J = mj.value_and_jacobian(mix.f, on_mixing="diagonal", mode=mode)(x)
    close(y, mix.f(x))
    close(J, np.einsum("bobi->boi", torch_full_jacobian(mix.torch_f, x)))


@modes
@pytest.mark.parametrize("policy", ["diagonal", "full"])
@pytest.mark.parametrize("options", [{"chunk_size": 1}, {"chunk_size": 2}, {"max_bytes": 100_000}])
def test_chunks_do_not_change_the_exact_results(policy, options, mode):
    x = random(B, N)
    for f in (batch_norm, gram, differences):
        close(
            mj.jacobian(f, on_mixing=policy, mode=mode, **options)(x),
            mj.jacobian(f, on_mixing=policy)(x),
        )


@modes
def test_policies_change_nothing_where_nothing_mixes(mode):
    x = random(B, N)
    f = lambda t: np.tanh(t @ W) * t
    torch_f = lambda t: (t @ tensor(W)).tanh() * t
    close(mj.jacobian(f, on_mixing="diagonal", mode=mode)(x), loop_reference(torch_f, x))
    full = mj.jacobian(f, on_mixing="full", mode=mode)(x)
    assert full.shape == (B, N, B, N)
    close(full, torch_full_jacobian(torch_f, x))


@modes
def test_policies_at_another_batch_axis(mode):
    x = random(N, B)
    f = lambda t: (t - t.mean(1, keepdims=True)).T ** 2
    full = torch_full_jacobian(lambda t: (t - t.mean(0)) ** 2, x.T)
    close(mj.jacobian(f, batch_axis=1, on_mixing="full", mode=mode)(x), full)
    close(mj.jacobian(f, batch_axis=1, on_mixing="diagonal", mode=mode)(x), np.einsum("bobi->boi", full))


@modes
def test_policies_and_trees(mode):
    x = {"a": random(B, 2), "b": random(B, N)}
    f = lambda t: (t["a"] - t["a"].mean(0), t["b"] * t["a"].sum())
    full = mj.jacobian(f, on_mixing="full", mode=mode)(x)
    diagonal = mj.jacobian(f, on_mixing="diagonal", mode=mode)(x)
    expected = {
        (0, "a"): torch_full_jacobian(lambda a: a - a.mean(0), x["a"]),
        (0, "b"): np.zeros((B, 2, B, N)),
        (1, "a"): torch_full_jacobian(lambda a: tensor(x["b"]) * a.sum(), x["a"]),
        (1, "b"): torch_full_jacobian(lambda b: b * tensor(x["a"]).sum(), x["b"]),
    }
    for (row, name), block in expected.items():
        close(full[row][name], block)
        close(diagonal[row][name], np.einsum("bobi->boi", block))


@modes
def test_samples_that_are_scalars(mode):
    x = random(B)
    f = lambda t: np.exp(t) / np.exp(t).sum()
    full = torch_full_jacobian(lambda t: t.softmax(0), x)
    close(mj.jacobian(f, on_mixing="full", mode=mode)(x), full)
    close(mj.jacobian(f, on_mixing="diagonal", mode=mode)(x), np.diagonal(full))


@modes
def test_images_with_batch_statistics(mode):
    x = random(3, 2, 2, 2)
    f = lambda t: t / np.sqrt((t**2).mean(axis=(0, 2, 3), keepdims=True) + 0.1)
    full = torch_full_jacobian(lambda t: t / ((t**2).mean((0, 2, 3), keepdim=True) + 0.1).sqrt(), x)
    close(mj.jacobian(f, on_mixing="full", mode=mode)(x), full)
    close(mj.jacobian(f, on_mixing="diagonal", mode=mode)(x), np.einsum("bopqbijk->bopqijk", full))


@pytest.mark.parametrize("policy", ["diagonal", "full"])
def test_one_sample(policy):
    x = random(1, N)
    full = torch_full_jacobian(lambda t: t.softmax(0) + t @ t.T * t, x)
    f = lambda t: np.exp(t) / np.exp(t).sum(0) + t @ t.T * t
    J = mj.jacobian(f, on_mixing=policy)(x)
    close(J, full if policy == "full" else full[:, :, 0])


@modes
def test_mixing_undone_is_exact_on_request(mode):
    """x[::-1][::-1] may raise; where it does not, and where it is asked for, the result is right."""
    x = random(B, N)
    eye = np.broadcast_to(np.eye(N), (B, N, N))
    close(mj.jacobian(lambda t: t[::-1][::-1], on_mixing="diagonal", mode=mode)(x), eye)
    try:
        J = mj.jacobian(lambda t: t[::-1][::-1], mode=mode)(x)
    except mj.BatchMixingError:
        return
    close(J, eye)


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
