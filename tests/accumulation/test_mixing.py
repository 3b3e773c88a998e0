"""Where samples mix: what raises, with which message, and the exact results on request."""

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


@pytest.mark.parametrize("f, name", [(lambda x: x.T @ x, "matmul"), (lambda x: x * x.sum(0), "sum")])
def test_an_operator_is_called_by_the_operations_name(f, name):
    with pytest.raises(mj.BatchMixingError, match=rf"samples mix in {name}\(.*\) at "):
        mj.jacobian(f)(np.ones((4, 4)))


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
