"""Jacobians whose entries are at listed positions (meshes, graphs, sparse matrices): only those, from end to end."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from helpers import close, random

import minijac as mj

B, N = 3, 40
RNG = np.random.default_rng(0)
EDGES = RNG.integers(0, N, (60, 2))
TRIANGLES = RNG.integers(0, N, (30, 3))
SHUFFLED = RNG.permutation(N)
L = scipy.sparse.csr_array(scipy.sparse.random(N, N, 0.04, random_state=1) + scipy.sparse.eye(N))


def springs(x: Any) -> Any:
    """Forces along the edges of a graph: gather, elementwise, scatter-add."""
    pull = np.tanh(x[:, EDGES[:, 1]] - x[:, EDGES[:, 0]])
    y = np.zeros_like(x)
    np.add.at(y, (slice(None), EDGES[:, 0]), pull)
    np.add.at(y, (slice(None), EDGES[:, 1]), -pull)
    return y


def elements(x: Any) -> Any:
    """Forces of the triangles of a mesh on their corners."""
    u = x[:, TRIANGLES]
    y = np.zeros_like(x)
    np.add.at(y, (slice(None), TRIANGLES), np.sin(u) * u.sum(-1, keepdims=True))
    return y


CASES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "gather": (lambda x: x[:, EDGES[:, 0]], 60),
    "take": (lambda x: np.take(x, EDGES, axis=1).reshape(B, 120) ** 2, 120),
    "difference": (lambda x: (x[:, EDGES[:, 1]] - x[:, EDGES[:, 0]]) ** 2, 120),
    "shuffled": (lambda x: np.sin(x[:, SHUFFLED]) * x, 80),
    "springs": (springs, 240),
    "elements": (elements, 360),
    "elements of an elementwise function": (lambda x: elements(np.cos(x)), 360),
    "x @ L": (lambda x: np.tanh(x @ L), L.nnz),
    "L @ x": (lambda x: np.sin((L @ x.T).T) * x, L.nnz + N),
    "gradient of an energy": (mj.grad(lambda x: np.sin(x[:, TRIANGLES]).prod(-1).sum()), 270),
    "windows of a gather": (lambda x: x[:, EDGES[:, 0]][:, 5:50:3] * 2.0, 15),
    "gather of a window": (lambda x: x[:, 1:][:, EDGES[:20, 0] // 2], 20),
    "reshaped": (lambda x: x[:, TRIANGLES].reshape(B, 45, 2)[:, :, 1], 45),
}
"""Functions of (B, N), and how many entries the Jacobian of a sample may have."""
cases = pytest.mark.parametrize("case", CASES)


@cases
@pytest.mark.parametrize("mode", ["auto", "forward", "reverse", "mixed"])
def test_entries_are_those_of_the_dense_jacobian_and_no_others(case, mode):
    f, most = CASES[case]
    for seed in range(4):  # carried out at once, recorded, replayed
        x = random(B, N, seed=seed)
        J, D = mj.jacobian(f, structured=True, mode=mode)(x), mj.jacobian(f)(x)
        close(J.todense(), D)
        close(J.tosparse(1).toarray(), D[1])
        assert sum(np.prod([label.size for label in term.labels()]) for term in J.block.terms) <= B * most
        close(J @ x, np.einsum("bij,bj->bi", D, x))
        close(J.T @ D[:, :, 0], np.einsum("bij,bi->bj", D, D[:, :, 0]))


@cases
def test_arithmetic_is_that_of_the_dense_arrays(case):
    f, _ = CASES[case]
    x = random(B, N)
    J, D = mj.jacobian(f, structured=True)(x), mj.jacobian(f)(x)
    close((J.T @ J).todense(), np.swapaxes(D, 1, 2) @ D)
    close((2.0 * J - J).todense(), D)
    close((J * J).todense(), D * D)
    close((J * np.arange(N)).todense(), D * np.arange(N))
    close(J[1:].todense(), D[1:])
    close(J.aslinearoperator(2) @ x[0], D[2] @ x[0])


def test_axes_behind_the_listed_one_stay_as_they_are():
    x = random(2, N, 3)
    for f in (
        lambda x: np.linalg.norm(x[:, EDGES[:, 0]] - x[:, EDGES[:, 1]], axis=-1),
        lambda x: x[:, EDGES[:, 0], EDGES[:, 1] % 3],
        lambda x: x[..., np.array([2, 0])] ** 2,
        lambda x: x[:, TRIANGLES].reshape(2, 30, 9) @ np.ones((9, 2)),
    ):
        J = mj.jacobian(f, structured=True)(x)
        close(J.todense(), mj.jacobian(f)(x))
        assert J.nbytes < J.todense().nbytes / 5


def test_a_step_after_another_joins_their_entries():
    f = lambda x: springs(springs(x))
    x = random(B, N)
    J, D = mj.jacobian(f, structured=True, mode="forward")(x), mj.jacobian(f)(x)
    close(J.todense(), D)
    assert J.tosparse(0).nnz < N * N // 2
    # of one place, once: a chain of sparse products does not grow beyond its entries
    g = lambda x: (((x @ L) @ L) @ L) @ L
    K = mj.jacobian(g, structured=True, mode="forward")(x)
    close(K.todense(), mj.jacobian(g)(x))
    (term,) = K.block.terms
    assert np.prod([label.size for label in term.labels()]) <= N * N * B


def test_without_samples_too():
    u = random(N)
    for f in (lambda u: L @ u, lambda u: np.sin(u @ L) * u, lambda u: L @ (L.T @ u)):
        J = mj.jacobian(f, structured=True, batch_axis=None)(u)
        close(J.tosparse().toarray(), mj.jacobian(f, batch_axis=None)(u))


@pytest.mark.parametrize("f", [springs, elements, lambda x: springs(x) @ L, lambda x: springs(springs(x))])
def test_a_batch_without_samples_has_a_jacobian_without_entries(f):
    x = np.zeros((0, N))
    J = mj.jacobian(f, structured=True)(x)
    assert J.todense().shape == (0, N, N) and (J @ x).shape == (J.T @ x).shape == (0, N)


def test_diagonals_and_sums_over_the_entries():
    x = random(B, N)
    J = mj.jacobian(elements, structured=True)(x)
    close(J.diagonal(), np.einsum("bii->bi", J.todense()))
    close(mj.divergence(elements)(x), J.diagonal().sum(1))


def test_what_has_no_fewer_entries_than_a_dense_array_is_one():
    x = random(B, 3)
    corners = np.array([[0, 1, 2], [1, 2, 0], [2, 1, 0]])
    J = mj.jacobian(lambda x: x[:, corners].sum((1, 2), keepdims=True)[:, :, 0], structured=True)(x)
    assert "listed" not in repr(J)
    J = mj.jacobian(lambda x: np.cumsum(x[:, SHUFFLED], axis=1), structured=True)(random(B, N))  # no block
    assert "dense" in repr(J)


def test_it_says_how_many_entries_there_are():
    J = mj.jacobian(lambda x: x[:, EDGES[:, 0]] ** 2, structured=True)(random(B, N))
    assert repr(J).startswith(f"Jacobian of shape ({B}, 60, {N}), float64: 60 entries at listed positions; ")
    assert "<svg" in J._repr_html_()


def test_other_positions_in_a_later_call_are_seen():
    positions = EDGES[:, 0].copy()
    J = mj.jacobian(lambda x: x[:, positions] ** 2, structured=True)
    x = random(B, N)
    for k in range(8):
        positions[:] = RNG.integers(0, N, 60) if k in (3, 6) else positions
        close(J(x).tosparse(0).toarray(), mj.jacobian(lambda x: x[:, positions] ** 2)(x)[0])


def test_compiled_it_stays_sparse_and_sees_other_positions():
    positions = EDGES[:, 0].copy()
    f = lambda x: np.sin(springs(x)[:, positions])
    J = mj.compile(mj.jacobian(f, structured=True))
    for k in range(6):
        if k in (2, 4):
            positions[:] = RNG.integers(0, N, 60)
        x = random(B, N, seed=k)
        close(J(x).todense(), mj.jacobian(f)(x))
        assert "listed" in J(x).structure and "dense" not in J(x).structure


def test_inside_other_transformations_it_is_right():
    x = random(B, N)
    close(
        mj.grad(lambda x: ((mj.jacobian(elements, structured=True)(x) @ x) ** 2).sum())(x),
        mj.grad(lambda x: (np.einsum("bij,bj->bi", mj.jacobian(elements)(x), x) ** 2).sum())(x),
    )


@pytest.mark.parametrize("batch_axis", [0, None])
def test_solves_are_sparse(batch_axis):
    f = lambda x: springs(x) if batch_axis == 0 else springs(x[None])[0]
    x = random(B, N) if batch_axis == 0 else random(N)
    J = mj.jacobian(f, structured=True, batch_axis=batch_axis)(x)
    J = J.eye() - 0.1 * J
    dense = J.todense()
    close(J.solve(x), np.linalg.solve(dense, x[..., None])[..., 0])
    many = random(*x.shape, 2, seed=1)
    close(J.solve(many), np.linalg.solve(dense, many))
    assert J.solve(x).flags.c_contiguous and J.solve(many).flags.c_contiguous
    singular = mj.jacobian(lambda x: x[:, np.arange(N) // 2], structured=True)(random(B, N))
    with pytest.raises(np.linalg.LinAlgError, match="regular"):
        singular.solve(random(B, N))


def test_no_dense_array_is_made_on_the_way():
    n = 20_000  # a dense Jacobian would take 3.2 GB
    ring = np.stack([np.arange(n), (np.arange(n) + 1) % n], 1)[np.random.default_rng(1).permutation(n)]

    def f(u: Any) -> Any:
        y = np.zeros_like(u)
        np.add.at(y, ring[:, 0], np.tanh(u[ring[:, 1]] - u[ring[:, 0]]))
        return y * u

    u = random(n)
    tracemalloc.start()
    try:
        for _ in range(3):
            J = mj.jacobian(f, structured=True, batch_axis=None)(u)
            S = J.tosparse()
        J.solve(u)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert S.nnz == 2 * n
    assert "<svg" in J._repr_html_()
    assert peak < 60e6
