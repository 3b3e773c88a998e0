"""vmap: a function of one sample run once on a batch is the function of every sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import minijac as mj

RNG = np.random.default_rng(0)
W, A, C = RNG.normal(size=(4, 3)), RNG.normal(size=(3, 3)), RNG.normal(size=4)
X = RNG.normal(size=(5, 3))
M = RNG.normal(size=(5, 3, 3)) + 3 * np.eye(3)
VECTORS: dict[str, Callable[[Any], Any]] = {
    "layer": lambda x: np.tanh(W @ x + C),
    "quadratic form": lambda x: x @ A @ x,
    "sum": lambda x: np.sin(x).sum(),
    "mean": lambda x: (x**2).mean(),
    "entries": lambda x: np.stack([x[0] * x[1], x[2] ** 2, x[-1]]),
    "slices": lambda x: x[1:] * x[:-1],
    "reversed": lambda x: x[::-1] * x,
    "padded with a constant": lambda x: np.pad(x * x, (1, 2), constant_values=0.5),
    "padded with constants": lambda x: np.pad(x[None], ((0, 0), (1, 2)), constant_values=((0, 0), (0.5, -2.0)))[0],
    "picked": lambda x: x[[0, 2, 1]] * x,
    "roll": lambda x: np.roll(x, 1) * x,
    "concatenate": lambda x: np.concatenate([x, np.ones(2), x**2]),
    "vstack": lambda x: np.vstack([x, x * 2]),
    "outer": lambda x: np.outer(x, x),
    "kron": lambda x: np.kron(x, x),
    "columns": lambda x: x[:, None] * x[None, :] + A,
    "norm": np.linalg.norm,
    "maximum": lambda x: x.max(),
    "softmax": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
    "cumsum": np.cumsum,
    "sort": lambda x: np.sort(x) ** 2,
    "where": lambda x: np.where(x > 0, x, 0.1 * x),
    "std": lambda x: x.std(),
    "diagonal matrix": lambda x: np.diag(x) @ A,
    "prod": lambda x: x.prod(),
    "pad": lambda x: np.pad(x, 1),
    "repeat": lambda x: np.repeat(x, 2),
    "take": lambda x: np.take(x, [0, 2]),
    "cross": lambda x: np.cross(x, A[0]),
    "median": np.median,
    "logsumexp": mj.special.logsumexp,
    "hypot": lambda x: np.hypot(x[0], x[1]),
    "constant in the middle": lambda x: x * mj.stop_gradient(x),
    "positions of its own": lambda x: x * x[np.argmax(x, axis=0)],
    "largest": lambda x: x[np.argmax(x)] * x[x.argmin()],
    "interpolated": lambda x: np.interp(x, np.array([-1.0, 0.0, 1.0]), np.array([0.0, 2.0, 1.0])),
    "looked up": lambda x: mj.numpy.take(W, np.where(x > 0, 1, 2), axis=1) @ x,
    "put": lambda x: mj.numpy.put(np.zeros(5) * x[0], [1, 3, 4], x),
}
MATRICES: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda m: m.T @ m,
    "inverse": np.linalg.inv,
    "solve": lambda m: np.linalg.solve(m, np.ones(3)),
    "det": np.linalg.det,
    "slogdet": lambda m: np.linalg.slogdet(m)[1],
    "eigenvalues": lambda m: np.linalg.eigvalsh(m + m.T),
    "cholesky": lambda m: np.linalg.cholesky(m @ m.T + np.eye(3)),
    "reshape": lambda m: m.reshape(-1) ** 2,
    "trace": np.trace,
    "diagonal": lambda m: np.diagonal(m) ** 2,
    "einsum": lambda m: np.einsum("ij,jk->ik", m, A),
    "broadcast": lambda m: m * np.arange(3.0),
    "rows": lambda m: m.max(axis=-1),
    "variance": lambda m: m.var(axis=0),
    "rows picked": lambda m: np.take(m, np.argmax(m, axis=1), axis=0),
    "whether any or all, and how many": lambda m: m * np.any(m > 2) + m**2 * (m > -9).all() + np.count_nonzero(m > 0),
    "order of all": lambda m: m.reshape(-1)[np.argsort(m, axis=None)] + m.reshape(-1)[m.argsort(axis=None)[::-1]],
    "sorted rows": lambda m: np.take_along_axis(m, np.argsort(m, axis=1), 1),
}
CASES = [(name, f, X) for name, f in VECTORS.items()] + [(name, f, M) for name, f in MATRICES.items()]


@pytest.mark.parametrize("name, f, x", CASES, ids=[name for name, *_ in CASES])
def test_a_batch_is_every_sample_by_itself(name: str, f: Any, x: Any) -> None:
    assert_allclose(mj.vmap(f)(x), np.stack([f(sample) for sample in x]), atol=1e-13)
    each = np.stack([mj.jacobian(f, batch_axis=None)(sample) for sample in x])
    for mode in ("forward", "reverse"):
        assert_allclose(mj.jacobian(mj.vmap(f), mode=mode)(x), each, atol=1e-11)
    assert_allclose(mj.compile(mj.jacobian(mj.vmap(f)))(x), each, atol=1e-11)


def test_the_function_runs_once() -> None:
    calls = []
    mj.vmap(lambda x: calls.append(x.shape) or x)(X)
    assert calls == [(3,)]


def test_structure_is_kept() -> None:
    J = mj.jacobian(mj.vmap(lambda x: np.roll(x, 1) * x), structured=True)(X)
    assert J.structure == "banded (offsets -1, 0, +2)"


def test_transformations_inside_and_vmap_inside_vmap() -> None:
    squared = lambda x: (W @ x).sum() ** 2
    want = np.stack([2 * (W @ x).sum() * W.sum(0) for x in X])
    assert_allclose(mj.vmap(mj.grad(squared))(X), want)
    inner = mj.vmap(mj.jacobian(lambda x: np.sin(W @ x), batch_axis=None))(X)
    assert_allclose(inner, mj.jacobian(mj.vmap(lambda x: np.sin(W @ x)))(X))
    assert_allclose(mj.vmap(mj.vmap(lambda a: a**2))(X), X**2)
    assert_allclose(mj.vmap(mj.vmap(lambda a, b: a * b, in_axes=(0, None)))(X, X[:, 0]), X * X[:, :1])
    assert_allclose(mj.laplacian(mj.vmap(lambda x: (x**3).sum()))(X), 6 * X.sum(1))


SCALAR = lambda x: np.sin(A @ x).prod() * x.sum() * x[0]
INSIDE: dict[str, Callable[[Any], Any]] = {
    "grad": mj.grad(SCALAR),
    "jacobian of grad": mj.jacobian(mj.grad(SCALAR), batch_axis=None),
    "hessian": mj.hessian(SCALAR, batch_axis=None),
    "hessian_diagonal": mj.hessian_diagonal(SCALAR, batch_axis=None),
    "laplacian": mj.laplacian(SCALAR, batch_axis=None),
    "divergence of grad": mj.divergence(mj.grad(SCALAR), batch_axis=None),
    "jvp of grad": lambda x: mj.jvp(mj.grad(SCALAR), (x,), (x,))[1],
    "vjp of grad": lambda x: mj.vjp(mj.grad(SCALAR), x)[1](x)[0],
    "hvp": lambda x: mj.hvp(SCALAR, (x,), (x,)),
    "linearize, solved": lambda x: mj.linearize(mj.grad(SCALAR), x, batch_axis=None)[1].solve(x),
    "sum by one entry": mj.grad(lambda x: x.sum() * x[0]),
    "checkpoint": mj.grad(mj.checkpoint(SCALAR)),
    "scan": lambda x: mj.scan(lambda c, r: (np.sin(A @ c) * r, c.sum()), x, 2 * x, checkpoint=2)[1],
    "scan, grad": mj.grad(lambda x: mj.scan(lambda c, r: (np.sin(A @ c) * r, None), x, x, checkpoint=2)[0].sum()),
}


@pytest.mark.parametrize("f", INSIDE.values(), ids=INSIDE)
def test_derivatives_taken_inside_are_those_of_every_sample(f: Callable[[Any], Any]) -> None:
    each = np.stack([f(x) for x in X])
    for _ in range(2):  # what was computed before must not show through
        assert_allclose(mj.vmap(f)(X), each, atol=1e-10)
    slopes = np.stack([mj.jacobian(f, batch_axis=None)(x) for x in X])
    assert_allclose(mj.jacobian(mj.vmap(f))(X), slopes, rtol=1e-6, atol=1e-7)
    assert mj.vmap(f)(X[:0]).shape == (0, *each.shape[1:])


def test_samples_are_where_in_axes_says_and_trees_are_taken_and_returned() -> None:
    assert_allclose(mj.vmap(lambda w, x: w @ x, in_axes=(None, 1))(W, X.T), X @ W.T)
    got = mj.vmap(lambda p: {"y": p["a"] * p["b"], "c": 3.0})({"a": X, "b": X[:, 0]})
    assert_allclose(got["y"], X * X[:, :1])
    assert_allclose(got["c"], np.full(5, 3.0))
    assert mj.vmap(lambda x: x.sum())(np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: mj.vmap(lambda x: x if x[0] > 0 else -x)(X), mj.TraceError, r"if.*np\.where"),
        (lambda: mj.vmap(lambda x: float(x[0]))(X), mj.TraceError, "stands for all samples"),
        (lambda: mj.vmap(lambda x: x, in_axes=None)(X), mj.InputError, "with samples"),
        (lambda: mj.vmap(lambda x, y: x * y)(X, X[:2]), mj.InputError, "batch sizes differ"),
        (
            lambda: mj.vmap(lambda x: mj.root(lambda z: z - x, np.ones((1, 3))))(X),
            mj.UnsupportedOperationError,
            "outside",
        ),
        (
            lambda: mj.vmap(lambda x: mj.root(lambda z: z - 1, x[None]))(X),
            mj.UnsupportedOperationError,
            "outside of vmap",
        ),
        (lambda: mj.vmap(lambda x: np.searchsorted(x, x))(X), mj.UnsupportedOperationError, "searchsorted.*the batch"),
        (lambda: mj.vmap(lambda x, k: x * k)(X, 2.0), mj.InputError, r"got float.*in_axes=\(0, None\)"),
        (lambda: mj.vmap(lambda x, k: x * k)(X, np.array(2.0)), mj.InputError, r"shape \(\).*in_axes="),
        (lambda: mj.compile(mj.vmap(lambda x, k: x * k))(X, 2.0), mj.InputError, "in_axes="),
        (lambda: mj.vmap(lambda d: d["x"] * d["k"])({"x": X, "k": 2}), mj.InputError, "got int.*in_axes="),
    ],
)
def test_what_cannot_be_says_what_to_do(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("f", [np.sort, lambda x: np.sort(x)[:2] ** 2, lambda x: np.partition(x, 1) @ np.arange(3.0)])
def test_positions_of_each_sample_hold_behind_the_seeds_of_a_jacobian_inside(f: Any, mode: Any) -> None:
    jacobian = mj.jacobian(f, batch_axis=None, mode=mode)
    for x in (X, X[:1]):
        assert_allclose(mj.vmap(jacobian)(x), np.stack([jacobian(row) for row in x]))


def test_an_array_in_the_place_of_the_function_or_of_a_tuple_is_told() -> None:
    with pytest.raises(mj.InputError, match=r"expected a function, got numpy\.ndarray"):
        mj.vmap(X)  # type: ignore[arg-type]
    for x in (X, 1.0):
        with pytest.raises(mj.InputError, match="hvp: expected primals as a tuple"):
            mj.hvp(np.sum, x, x)  # type: ignore[arg-type]


def test_tables_of_each_sample_are_looked_up_in_a_program() -> None:
    tables = RNG.normal(size=(5, 4, 2))
    f = lambda x, table: table[np.where(x > 0, 1, 2)]
    each = np.stack([f(x, table) for x, table in zip(X, tables, strict=True)])
    assert_allclose(mj.compile(lambda x: mj.vmap(f)(x, tables))(X), each)
    assert_allclose(mj.compile(mj.vmap(f))(X, tables), each)
