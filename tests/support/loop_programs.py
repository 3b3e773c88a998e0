"""Programs with loops: of what goes from step to step, series, constants, loops in loops, entries left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree

import minijac as mj

RNG = np.random.default_rng(0)
X, XS = RNG.normal(size=(4, 3)), RNG.normal(size=(7, 4, 3))
W = 0.5 * RNG.normal(size=(3, 3))
A = 3 * np.eye(3) + 0.1


def loop(step: Any, carry: Any, xs: Any = None, length: int | None = None) -> Any:
    """The scan as what it stands for."""
    columns = []
    for t in range(len(optree.tree_leaves(xs)[0]) if length is None else length):
        carry, y = step(carry, optree.tree_map(lambda leaf, t=t: leaf[t], xs))
        columns.append(y)
    return carry, None if columns[0] is None else optree.tree_map(lambda *rows: np.stack(rows), *columns)


def passed_on(scan, x):
    (a, b), ys = scan(lambda c, _: ((c[0], c[0] * c[1]), c[1]), (x, x * 0 + 1), None, 5)
    return a * b + ys.sum(0)


def exchanged(scan, x):
    (a, b), ys = scan(lambda c, _: ((c[1], np.sin(c[0])), (c[0] * c[1], c[1])), (x, x * x), None, 5)
    return a * b + ys[0].sum(0) + ys[1][3]


def counted(scan, x):
    step = lambda c, _: ((c[0] * np.sin(c[1] * c[0]), c[1] + 1), c[1])
    (a, n), ys = scan(step, (x, np.array(1)), None, 5)
    return a * n + ys.sum()


def constants(scan, x):
    step = lambda c, _: ((np.sin(c[0]) + c[1], np.ones((4, 3)) * 2), np.arange(3.0))
    (a, b), ys = scan(step, (x, x * x), None, 5)
    return a * b + ys.sum(0)


def two_series(scan, x):
    step = lambda c, row: (np.tanh(c @ W + row[0] * row[1]), (c.sum(1), {"a": c * row[0]}))
    c, (sums, others) = scan(step, x, (XS, np.arange(7.0)))
    return c + others["a"].sum(0) + sums[2][:, None]


def series_of_x(scan, x):
    c, ys = scan(lambda c, row: (np.tanh(c @ W + row), c * row), x * 0, np.stack([x * k for k in range(6)]))
    return c + ys.prod(0)


def nested(scan, x):
    def outer(c, _):
        d, ys = scan(lambda d, _: (np.sin(d) + 0.1 * c, d), c, None, 4)
        return d, ys.sum(0)

    c, ys = scan(outer, x, None, 5)
    return c * ys[2]


def scalars(scan, x):
    c, ys = scan(lambda c, t: (c * np.cos(c) + t, c), x.sum(1), np.arange(5.0))
    return c + ys.sum(0)


def merged(scan, x):
    return scan(lambda c, _: (np.sin(c.reshape(len(x) * 3)).reshape(len(x), 3), None), x, None, 5)[0]


def solved(scan, x):
    step = lambda c, _: (np.linalg.solve(A + c[:, :, None] * c[:, None, :], c[..., None])[..., 0] * 2, None)
    return scan(step, x, None, 5)[0]


def written(scan, x):
    def step(c, _):
        y = np.zeros_like(c)
        y[:, 0] = c[:, 1] * 2
        y[:, 1:] = np.sin(c[:, :2])
        return y, None

    return scan(step, x, None, 5)[0]


def bounded(scan, x):
    return scan(lambda c, t: (np.maximum(c * 1.5, 0.2 * x * t), None), x, np.arange(5.0))[0]


def differentiated(scan, x):
    rate = lambda c: np.einsum("bij,bj->bi", mj.jacobian(lambda u: np.tanh(u @ W))(c), c)
    return scan(lambda c, _: (c + 0.1 * rate(c), None), x, None, 5)[0]


def picked(scan, x):
    return scan(lambda c, _: (np.sin(c[:, [2, 0, 1]]) + np.sort(c, 1), None), x, None, 5)[0]


def one_after_the_other(scan, x):
    c, ys = scan(lambda c, _: (np.sin(c) + x, c), x, None, 6)
    d, zs = scan(lambda d, y: (np.cos(d * y), d), c, ys)
    return d + zs.sum(0)


def discarded_outside(scan, x):
    return np.where(x > 0, scan(lambda c, _: (np.sin(c) * 1.1, None), x, None, 6)[0], 0.0)


def infinite_and_discarded(scan, x):
    c = scan(lambda c, _: (np.sqrt(c) + x, None), np.abs(x) * (x > -0.3), None, 3)[0]
    return np.where(c > 0.1, c, 0.0)


def gated(scan, x):
    def step(c, row):
        z = np.concatenate([c[0] @ W + row, c[1]], 1)
        kept = z[:, 3:] / (1 + np.exp(-z[:, :3]))
        return (np.tanh(kept), kept + z[:, 3:]), None

    return scan(step, (x, 0.1 * x), XS[:, : len(x)])[0][0]


def left_out_by_the_next_step(scan, x):
    def step(c, _):
        return np.concatenate([0.5 * np.sin(c[:, 1:]), np.sqrt(np.abs(c[:, 1:2]) * (c[:, 1:2] > 0.2))], 1), None

    return scan(step, x, None, 4)[0]


def constant_in_the_next_step(scan, x):
    def step(c, _):
        y = np.zeros_like(c)
        y[:, :2] = np.sqrt(c[:, :2] + c[:, 1:] + 4.0)
        return y * np.sqrt(np.abs(c)), None

    return scan(step, x, None, 4)[0]


def discarded_inside(scan, x):
    return scan(lambda c, _: (np.where(c > 0, np.log(np.where(c > 0, c, 1.0)) + 1, c * 2), None), x, None, 3)[0]


STEPS = [
    passed_on, exchanged, counted, constants, two_series, series_of_x, nested, scalars, merged, solved, written,
    bounded, differentiated, picked, one_after_the_other, discarded_outside, infinite_and_discarded, discarded_inside,
    gated, left_out_by_the_next_step, constant_in_the_next_step,
]  # fmt: skip
WAYS = {
    "forward": lambda f: mj.value_and_jacobian(f, mode="forward"),
    "reverse": lambda f: mj.value_and_jacobian(f, mode="reverse"),
    "full": lambda f: mj.jacobian(f, on_mixing="full"),
    "gradient": lambda f: mj.value_and_grad(lambda x: (f(x) ** 2).sum()),
}


def same(got: Any, wanted: Any, tolerance: float = 1e-10) -> None:
    for a, b in zip(*(optree.tree_leaves(each) for each in (got, wanted)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, tolerance, tolerance)
