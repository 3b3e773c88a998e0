"""Second and higher order where samples mix: "diagonal" and "full" of all, against the full Hessian; bounds, chunks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers import random

import minijac as mj

X, W = random(4, 3, seed=1), random(3, 3, seed=2)
FUNCTIONS = {
    "centred": lambda x: (x - x.mean(0)) ** 3,
    "normalised": lambda x: (x - x.mean(0)) / np.sqrt(x.var(0) + 0.1),
    "attention": lambda x: np.exp(x @ x.T / 3.0) @ np.tanh(x @ W.astype(x.dtype)),
    "a maximum": lambda x: x**2 * np.max(x**3, axis=0),
    "a determinant": lambda x: x * np.linalg.det(x.T @ x + np.eye(3, dtype=x.dtype)),
    "neighbours": lambda x: x * np.roll(x, 1, axis=0) ** 2,
    "none mix": lambda x: np.tanh(x @ W.astype(x.dtype)) ** 2 * x,
}
DTYPES = {"single": np.float32, "double": np.float64}
functions = pytest.mark.parametrize("name", FUNCTIONS)
compiled_too = pytest.mark.parametrize("wrapped", [lambda f: f, mj.compile], ids=["eager", "compiled"])
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def hessian(f):
    return mj.hessian(f, batch_axis=None)(X)  # (4, 3, 4, 3, 4, 3)


def second(f):
    """d2 y[i] / d x[j, k]2, shape (4, 3, 4, 3)."""
    return np.einsum("iojkjk->iojk", hessian(f))


def own(array):
    """The entries of two axes of samples, first and third, that belong together."""
    return np.einsum("ioi...->io...", array)


def close(actual, expected, dtype):
    assert actual.dtype == DTYPES[dtype]
    tolerance = 1e-10 if dtype == "double" else 2e-4
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@dtypes
@compiled_too
@functions
def test_the_diagonal_of_the_hessian(name, wrapped, dtype):
    f, x = FUNCTIONS[name], X.astype(DTYPES[dtype])
    close(wrapped(mj.hessian_diagonal(f, on_mixing="full"))(x), second(f), dtype)
    close(wrapped(mj.hessian_diagonal(f, on_mixing="diagonal"))(x), own(second(f)), dtype)


@dtypes
@compiled_too
@functions
def test_the_laplacian(name, wrapped, dtype):
    f, x = FUNCTIONS[name], X.astype(DTYPES[dtype])
    close(wrapped(mj.laplacian(f, on_mixing="full"))(x), second(f).sum(-1), dtype)
    close(wrapped(mj.laplacian(f, on_mixing="diagonal"))(x), own(second(f)).sum(-1), dtype)


@dtypes
@compiled_too
@functions
@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
def test_the_divergence(name, wrapped, dtype, mode):
    f, x = FUNCTIONS[name], X.astype(DTYPES[dtype])
    J = mj.jacobian(f, batch_axis=None)(X)
    close(wrapped(mj.divergence(f, on_mixing="full", mode=mode))(x), np.einsum("ikjk->ij", J), dtype)
    close(wrapped(mj.divergence(f, on_mixing="diagonal", mode=mode))(x), np.einsum("ikik->i", J), dtype)


@dtypes
@compiled_too
@functions
def test_partial_derivatives(name, wrapped, dtype):
    f, x = FUNCTIONS[name], X.astype(DTYPES[dtype])
    wanted = [(), (1,), (0, 2)]
    y, J, H = f(X), mj.jacobian(f, batch_axis=None)(X), hessian(f)
    full = y, J[..., 1], np.einsum("iojj->ioj", H[:, :, :, 0, :, 2])
    for found, expected in zip(wrapped(mj.partials(f, wanted, on_mixing="full"))(x), full, strict=True):
        close(found, expected, dtype)
    diagonal = y, own(full[1]), own(full[2])
    for found, expected in zip(wrapped(mj.partials(f, wanted, on_mixing="diagonal"))(x), diagonal, strict=True):
        close(found, expected, dtype)


@functions
@pytest.mark.parametrize("policy", ["diagonal", "full"])
def test_linearised(name, policy):
    f = FUNCTIONS[name]
    y, J = mj.linearize(f, X, on_mixing=policy)
    np.testing.assert_allclose(J.todense(), mj.jacobian(f, on_mixing=policy)(X), atol=1e-12)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "attention"])  # of which nothing says the axis
def test_samples_on_another_axis(name):
    f = FUNCTIONS[name]
    turned = lambda x: f(x.T).T
    for policy in ("diagonal", "full"):
        for transformed in (mj.laplacian, mj.hessian_diagonal, mj.divergence):
            expected = transformed(f, on_mixing=policy)(X)
            np.testing.assert_allclose(
                transformed(turned, on_mixing=policy, batch_axis=1)(X.T.copy()), expected, rtol=1e-10, atol=1e-12
            )


@functions
@pytest.mark.parametrize("size", [1, 2])
def test_chunks_change_nothing(name, size):
    f = FUNCTIONS[name]
    for transformed in (mj.laplacian, mj.hessian_diagonal, mj.divergence):
        for policy in ("diagonal", "full"):
            expected = transformed(f, on_mixing=policy)(X)
            found = transformed(f, on_mixing=policy, chunk_size=size)(X)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_where_samples_mix_it_is_said_unless_that_is_meant():
    for transformed in (mj.laplacian, mj.hessian_diagonal, mj.divergence, lambda f: mj.partials(f, [(0,)])):
        with pytest.raises(mj.BatchMixingError):
            transformed(FUNCTIONS["centred"])(X)


def test_a_laplacian_of_shared_and_batched_arguments_has_no_full_form():
    f = lambda x, w: (x - x.mean(0)) * w
    with pytest.raises(mj.InputError, match="samples in all differentiated arguments"):
        mj.laplacian(f, (0, 1), batch_axis=(0, None), on_mixing="full")(X, W[0])


def peak_of(call):
    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# --- bounds on memory -------------------------------------------------------------------------------------------------
WIDE = random(64, 64, seed=3) / 8.0
BOUNDED = {
    "laplacian": lambda **o: mj.laplacian(lambda x: np.tanh(np.tanh(x @ WIDE) @ WIDE).sum(1), **o),
    "hessian_diagonal": lambda **o: mj.hessian_diagonal(lambda x: np.tanh(np.tanh(x @ WIDE) @ WIDE).sum(1), **o),
    "divergence": lambda **o: mj.divergence(lambda x: np.tanh(np.tanh(x @ WIDE) @ WIDE), **o),
    "partials": lambda **o: mj.partials(
        lambda x: np.tanh(np.tanh(x @ WIDE) @ WIDE).sum(1), [(k, k) for k in range(24)], **o
    ),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_a_bound_on_memory_is_kept_and_changes_nothing(name):
    x = random(512, 64, seed=4)
    expected = BOUNDED[name]()(x)
    with pytest.raises(mj.InputError, match=r"Give it max_bytes=([\d,]+) or more") as raised:
        BOUNDED[name](max_bytes=1000)(x)
    least = int(raised.value.args[0].split("Give it max_bytes=")[1].split()[0].replace(",", ""))
    for bound in (least, 2 * least, 10 * least):
        bounded = BOUNDED[name](max_bytes=bound)
        found = bounded(x)
        for a, b in zip(found if name == "partials" else [found], expected if name == "partials" else [expected],
                        strict=True):  # fmt: skip
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        result = sum(a.nbytes for a in found) if name == "partials" else found.nbytes
        assert peak_of(lambda bounded=bounded: bounded(x)) <= bound + result


def test_the_diagonal_of_a_wide_hessian_is_made_some_seeds_at_a_time():
    w = random(400, 400, seed=5) / 20.0
    x = random(16, 400, seed=6)
    f = mj.hessian_diagonal(lambda x: np.tanh(np.tanh(x @ w) @ w).sum(1))
    assert peak_of(lambda: f(x)) < 5 * 2**26  # one block of all seeds takes 20 MB, and several are held
    some = mj.hessian_diagonal(lambda x: np.tanh(np.tanh(x @ w) @ w).sum(1), chunk_size=50)(x)
    np.testing.assert_allclose(f(x), some, rtol=1e-9, atol=1e-12)
