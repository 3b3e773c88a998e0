"""Corners of NumPy: numbers with an axis, windows, `emath`, quantiles in q, methods of ufuncs, sparse constants."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import close
from numpy.lib.stride_tricks import sliding_window_view
from numpy_harness import Case, cases, check, one, whole

import minijac as mj

sparse = pytest.importorskip("scipy.sparse")
L = sparse.random(4, 4, 0.5, random_state=0).tocsr()
WIDE = sparse.random(4, 6, 0.4, random_state=1)
TABLE: dict[str, Case] = {
    "sum of a number": whole(lambda x: np.sum(x.sum(), axis=0) * x, 4),
    "prod, max, min of a number": whole(
        lambda x: np.prod(x[0], axis=-1) * np.max(x[1], axis=0) * np.min(x[2], axis=0) * x, 4
    ),
    "cumsum of a number": whole(lambda x: np.cumsum(x.sum(), axis=0), 4),
    "lists of traced values as operands": whole(lambda x: x * [x[0], 1.0, x[1] ** 2] + [[x[2]], [0.5]], 3),
    "a list of them in matmul": whole(lambda x: np.outer(x, x) @ [[x[0], 1.0], [2.0, x[1]], [x[2], x[2]]], 3),
    "windows": one(lambda x: sliding_window_view(x, 2, 1), 5, second=True),
    "windows along two axes": one(lambda x: sliding_window_view(x, (2, 3), (2, 1)), 4, 3),
    "windows along all": whole(lambda x: sliding_window_view(x, (2, 2)) ** 2, 3, 4),
    "emath.sqrt, log": one(lambda x: np.emath.sqrt(x) * np.emath.log(x) + np.emath.log2(x), 4, low=0.2),
    "emath.power": one(lambda x: np.emath.power(x, 3) + np.emath.logn(3.0, x * x), 4, low=0.2),
    "emath.arcsin": one(lambda x: np.emath.arcsin(x) + np.emath.arctanh(x), 4, low=-0.9, high=0.9),
    "quantile in q": whole(lambda x: np.quantile(np.arange(6.0) ** 2, x[0]), 2, low=0.1, high=0.9),
    "quantile in both": whole(lambda x: np.quantile(x, 0.31 + 0.1 * x[:2]), 5, low=0.1, high=0.9),
    "percentile in q": whole(lambda x: np.percentile(np.sin(np.arange(7.0)), 50 + x[0]) * x, 3),
    "power.reduce": one(lambda x: np.power.reduce(x, axis=1), 3, low=0.5, high=1.5),
    "arctan2.accumulate": one(lambda x: np.arctan2.accumulate(x, axis=1), 3, low=0.5),
    "float_power.reduceat": one(lambda x: np.float_power.reduceat(x, [0, 2], axis=1), 4, low=0.5),
    "x @ sparse": one(lambda x: np.sin(x @ L), 4, second=True),
    "x @ wide sparse": one(lambda x: x @ WIDE, 4),
    "sparse @ x": whole(lambda x: L @ x + L.T @ x**2, 4, second=True),
    "sparse @ matrix": whole(lambda x: WIDE.T @ x, 4, 2),
    "sparse.dot": whole(lambda x: L.dot(x), 4),
}


@cases(TABLE)
def test_corners(case):
    check(case)


def test_the_jacobian_of_a_sparse_product_is_the_matrix():
    x = np.ones(4)
    close(mj.jacobian(lambda u: L @ u, batch_axis=None)(x), L.toarray())
    J = mj.compile(mj.jacobian(lambda u: u @ L))
    close(J(np.ones((3, 4))), np.broadcast_to(L.toarray().T, (3, 4, 4)))


def test_an_empty_system_is_solved():
    f = lambda x: np.linalg.solve(np.zeros((0, 0)) * x.sum(), np.zeros((0, 2)) * x.sum())
    assert mj.jacobian(f, batch_axis=None)(np.ones(3)).shape == (0, 2, 3)
