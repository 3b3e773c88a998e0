"""Structured Jacobians that are kept as products: those of dense networks, whose layers hold fewer numbers."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import close

import minijac as mj
from minijac.memo import Memo
from minijac.ways import chained

rng = np.random.default_rng(0)
B, N = 3, 6
W = [rng.normal(size=(N, N)) for _ in range(4)]
X = rng.normal(size=(B, N))


def residual(x: Any) -> Any:
    for w in W[:3]:
        x = x + np.tanh(x @ w)
    return x


def attention(x: Any) -> Any:
    scores = x @ W[0] * np.exp(x @ W[1])
    return scores / scores.sum(1, keepdims=True) @ W[2]


NETS: dict[str, Callable[[Any], Any]] = {
    "two layers": lambda x: np.tanh(x @ W[0]) @ W[1],
    "four layers": lambda x: np.sin(np.tanh(np.exp(0.1 * x @ W[0]) @ W[1]) @ W[2]) @ W[3],
    "relu": lambda x: np.maximum(np.maximum(x @ W[0], 0.0) @ W[1], 0.0) @ W[2],
    "residual": residual,
    "normalised": attention,
    "reshaped": lambda x: np.tanh((x @ W[0]).reshape(-1, 2, 3) @ W[1][:3, :3]).reshape(-1, N) @ W[2],
    "turned": lambda x: (W[1] @ np.tanh(W[0] @ x.T)).T,  # the samples are on another axis on the way
    "wide": lambda x: np.tanh(x @ np.ones((N, 20))) @ np.ones((20, N)),
    "narrow": lambda x: np.tanh(x @ W[0][:, :2]) @ W[1][:2],
    "float32": lambda x: np.tanh(x.astype(np.float32) @ W[0].astype(np.float32)) @ W[1].astype(np.float32),
}

PRODUCTS = {"two layers", "four layers", "relu", "reshaped", "narrow", "float32"}  # others are no smaller so


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks of a few units are kept as products, too, and no other test is told where they were cut."""
    monkeypatch.setattr(chained, "LEAST", 1)
    monkeypatch.setattr(chained, "SMALLER", 0)
    Memo.clear_all()
    yield
    Memo.clear_all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_a_product_does_what_the_dense_array_does(name: str, compiled: bool) -> None:
    f, tolerance = NETS[name], 1e-5 if name == "float32" else 1e-10
    jacobian: Any = mj.jacobian(f, structured=True)
    jacobian = mj.compile(jacobian) if compiled else jacobian
    D = mj.jacobian(f)(X)
    agree = lambda a, b: close(a, b, tolerance, tolerance)
    for _ in range(2):
        J = jacobian(X)
        assert (J.shape, J.dtype, len(J.parts) > 1) == (D.shape, D.dtype, name in PRODUCTS)
        v, several = rng.normal(size=(B, N)), rng.normal(size=(B, N, 4))
        agree(J.todense(), D)
        agree(J @ v, np.einsum("boi,bi->bo", D, v))
        agree(J @ several, D @ several)
        agree(J.T @ v, np.einsum("boi,bo->bi", D, v))
        for K, E in (J, D), (J.T, D.swapaxes(1, 2)), (-2.0 * J, -2.0 * D), (J[1:], D[1:]), (J @ J, D @ D):
            agree(K.todense(), E)
            agree(K.diagonal(), np.diagonal(E, axis1=1, axis2=2))
        agree(J[1].todense(), D[1])
        agree(J[1].diagonal(), np.diagonal(D[1]))
        agree((J.eye() - 0.1 * J + J).todense(), np.eye(N) + 0.9 * D)
        agree((J * D).todense(), D * D)
        agree(J.tosparse(1).toarray(), D[1])
        agree(J.aslinearoperator(0) @ v[0], D[0] @ v[0])
        if name not in ("relu", "float32"):
            agree((J.eye() + 0.01 * J).solve(v), np.linalg.solve(np.eye(N) + 0.01 * D, v[..., None])[..., 0])
        assert J._repr_html_().startswith("<div>") and ("@" in repr(J)) == (len(J.parts) > 1)


@pytest.mark.parametrize("name", ["two layers", "relu", "narrow"])
def test_products_are_differentiated(name: str) -> None:
    f = NETS[name]
    for structured, dense in [
        (lambda J: J.diagonal(), lambda D: np.diagonal(D, axis1=1, axis2=2)),
        (lambda J: J @ X, lambda D: (D * X[:, None]).sum(2)),
        (lambda J: J.T @ X, lambda D: (D * X[:, :, None]).sum(1)),
    ]:
        of = lambda x, s=structured: s(mj.jacobian(f, structured=True)(x))
        truth = mj.jacobian(lambda x, d=dense: d(mj.jacobian(f)(x)))(X)
        close(mj.jacobian(of)(X), truth, 1e-9, 1e-10)
        close(mj.compile(mj.jacobian(of))(X), truth, 1e-9, 1e-10)


def test_without_samples_a_jacobian_is_a_product_too() -> None:
    f = NETS["narrow"]
    J, D = mj.jacobian(f, batch_axis=None, structured=True)(X[0]), mj.jacobian(f, batch_axis=None)(X[0])
    assert len(J.parts) == 2
    close(J.todense(), D)
    close(J.diagonal(), np.diagonal(D))
    close(J @ X[1], D @ X[1])


def test_an_order_or_mixing_that_is_asked_for_is_kept_to() -> None:
    f = lambda x: np.tanh(x @ W[0]) @ W[1]
    assert len(mj.jacobian(f, structured=True, mode="reverse")(X).parts) == 1
    J = mj.jacobian(f, structured=True, on_mixing="full")(X)
    D = mj.jacobian(f, on_mixing="full")(X)
    assert J.shape == D.shape == (B, N, B, N)
    close(J.todense(), D)
    close(J @ X, np.einsum("bocI,cI->bo", D, X))
    mixing = lambda x: np.tanh((x - x.mean(0)) @ W[0]) @ W[1]
    J = mj.jacobian(mixing, structured=True, on_mixing="diagonal")(X)
    close(J.todense(), mj.jacobian(mixing, on_mixing="diagonal")(X))


def test_what_the_caller_writes_changes_no_product() -> None:
    first, second = np.ones((100, 100)), np.eye(100)
    J = mj.jacobian(lambda x: np.tanh(0.01 * x @ first) @ second, structured=True)(np.ones((2, 100)))
    before = J.todense()
    first *= 2.0
    second *= 2.0
    np.testing.assert_array_equal(J.todense(), before)


def test_the_diagonal_of_a_wide_network_takes_no_room_for_its_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # as it is
    n, samples = 784, 40
    w, x = [rng.normal(size=(n, n)) / 28 for _ in range(3)], rng.normal(size=(samples, n))
    for f, bound in [
        (lambda x: np.tanh(x @ w[0]) @ w[1], 20e6),
        (lambda x: np.tanh(np.tanh(x @ w[0]) @ w[1]) @ w[2], 150e6),  # some samples at a time
    ]:
        tracemalloc.start()
        J = mj.jacobian(f, structured=True)(x)
        found = J.diagonal()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < bound < 8 * samples * n * n + 1e6 and J.nbytes < 20e6
        close(found[:2], np.diagonal(mj.jacobian(f)(x[:2]), axis1=1, axis2=2), 1e-10, 1e-12)


def test_what_is_small_or_has_structure_is_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    stencil = lambda x: np.roll(np.sin(np.roll(x, 1, 1) - x), 1, 1)
    for f, x in (NETS["two layers"], X), (stencil, np.ones((2, 3000))), (np.sin, np.ones((2, 3000))):
        assert len(mj.jacobian(f, structured=True)(x).parts) == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_discarded_has_no_derivative_in_a_product(compiled: bool) -> None:
    f = lambda x: np.tanh(np.where(x > 0.0, np.sqrt(np.maximum(x, 0.0)), 1.0) @ W[0]) @ W[1]
    x = np.where(np.arange(B * N).reshape(B, N) % 2, 0.0, 1.0)
    jacobian: Any = mj.jacobian(f, structured=True)
    J = (mj.compile(jacobian) if compiled else jacobian)(x)
    assert len(J.parts) > 1
    close(J.todense(), mj.jacobian(f)(x))
    assert np.isfinite(J.diagonal()).all()
