"""Samples in an order that a program computes, and put back: recorded once, right whatever the order is.

What is done to each of them alone is done where they are. Cases against torch are those of `picking.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulated import COMPILER, WHY_NOT, Device
from helpers import close, mentions, random

import minijac as mj
from minijac.program.entry import record
from minijac.program.gpu.executor import GraphExecutor

pytest.importorskip("torch")

from picking import CASES, X

B, N = X.shape
W, C = random(N, N, seed=1), random(B, N, seed=9)
OTHERS = [random(B, N, seed=3), -np.abs(X), np.ones_like(X)]
"""What a program is replayed with: in other orders, and such that all tie."""


def replayed(transformed: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled, and recorded with some data."""
    compiled = mj.compile(transformed)
    compiled(X)
    return compiled


def back(g: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What `g` makes of sorted samples, each in its place again."""

    def f(x):
        order = np.argsort(x[:, 0], kind="stable")
        return g(x[order])[np.argsort(order)] * x

    return f


def buffered(v):
    u = np.zeros_like(v)
    first = u[:, 0]
    u[...] = v**2
    u[:, 1] = np.sin(first)
    u[v > 0.3] = 0.5
    u[:, 2] += v[:, 0]
    return u


def masked(v):
    u, m = v * 1.0, v[:, 0] > 0
    u[m] = np.sin(v[m] @ W)
    (i,) = np.nonzero(v[:, 1] > 0)
    u[i] *= v[i]
    return u


def added(x):
    order, y = np.argsort(x[:, 0]), x * 1.0
    np.add.at(y, order, x[order] ** 2)
    y[order, 0] = np.sin(x[order, 1])
    y[order, 1:] += x[order, 1:]
    return y


def by_ranks(x):
    order = np.argsort(x[:, 0])
    rank = np.argsort(order)
    m = rank < 2
    y = np.sin(x[order])[rank] * rank[:, None]
    y[m] = x[m] ** 2
    return y


def along_both_axes(x):
    order, columns = np.argsort(x[:, 0]), np.argsort(mj.stop_gradient(x).sum(0))
    y = np.zeros_like(x)
    y[:, columns] = np.sin(x[order][:, columns])[np.argsort(order)] * x[:, columns][order][np.argsort(order)]
    return y


def along_the_last_axis(x):
    z, order = x.T, np.argsort(x[:, 0])
    y = z * 1.0
    y[:, order] = np.sin(z[:, order]) * z[:, order][::-1]
    return y.T


def turned(x):
    order = np.roll(np.argsort(x[:, 0]), 2)
    z = np.empty_like(x)
    z[order] = x[order] * mj.stop_gradient(x[order]) * mj.numpy.take(C, order, axis=0)
    return z


def from_behind(x):
    order = len(x) - 1 - np.flip(np.argsort(np.flip(x[:, 0])))
    z = np.empty_like(x)
    z[order] = np.tanh(x[order] @ W)
    return z


def doubled(x):
    """As pointers that are followed: the order 2**30 times after another."""
    order = np.argsort(x[:, 0])
    for _ in range(30):
        order = order[order]
    return np.tanh(x[order] @ W)[np.argsort(order)] * x


def steps_in_an_order(x):
    order = np.argsort(x[:, 0])
    v, back = x[order], np.argsort(order)
    c, rows = mj.scan(lambda c, _: (np.tanh(c @ W) * v, c[back] ** 2), v, None, 4)
    for _ in range(9):
        c = 0.9 * np.sin(c) + 0.1 * v
    return c[back] + rows.sum(0)


def sorted_inside(x):
    return mj.jacobian(back(lambda v: np.tanh(v @ W)))(x).sum(2) * mj.checkpoint(back(np.tanh))(x)


PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "added": added,
    "along both axes": along_both_axes,
    "along the last axis": along_the_last_axis,
    "by ranks": by_ranks,
    "doubled": doubled,
    "from behind": from_behind,
    "sorted inside": sorted_inside,
    "steps in an order": steps_in_an_order,
    "turned": turned,
    "buffered": back(buffered),
    "masked": back(masked),
    "weighted by rank": back(lambda v: v**2 * C + v @ W * np.arange(len(v))[:, None]),
    "first ones otherwise": back(lambda v: np.where(np.arange(len(v))[:, None] < 3, np.sin(v), v**2)),
    "entries": back(lambda v: v[np.arange(len(v)), np.argmax(v, 1)][:, None] * v),
    "entries written": back(lambda v: mj.numpy.put(v, (np.arange(len(v)), np.argmax(v, 1)), v[:, 0] ** 2)),
    "entries by rank": back(lambda v: v[np.arange(len(v)), np.arange(len(v)) % N][:, None] * v),
    "merged": back(lambda v: (np.tanh(v.ravel()) * C.ravel()).reshape(-1, N)),
    "repeated": back(lambda v: np.repeat(v, 2, axis=0).reshape(-1, 2, N).sum(1) ** 2),
    "systems": back(lambda v: np.linalg.solve(np.eye(N) + C[:, :, None] ** 2 * v[:, None] ** 2, v[..., None])[..., 0]),
    "one by one": back(lambda v: mj.vmap(lambda row, c: np.tanh(W @ row) * c)(v, C)),
    "differentiated": back(lambda v: mj.jacobian(lambda z: z @ W * np.sin(v) * C)(v).sum(2)),
    "recomputed": back(lambda v: mj.checkpoint(lambda z: np.tanh(z @ W) * v * C)(v)),
    "complex": back(lambda v: np.abs((v + 1j * C) * 2j) ** 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_what_it_is_uncompiled_in_whichever_order(name):
    f = PROGRAMS[name]
    ways: list[Callable[..., Any]] = [
        f, mj.jacobian(f, mode="forward"), mj.jacobian(f, mode="reverse"), mj.jacobian(f, on_mixing="full"),
        mj.grad(lambda x: (f(x) ** 2).sum()), mj.hessian(f), mj.laplacian(f),
    ]  # fmt: skip
    for way in ways:
        compiled = replayed(way)
        for x in [*OTHERS, X]:
            close(compiled(x), way(x), 1e-9, 1e-9)


def torn(x):
    order = np.argsort(x[:, 0])
    return np.diff(x[order], axis=0, append=0.0)[np.argsort(order)]  # <- here


def of_two_orders(x):
    return (x[np.argsort(x[:, 0])] + x[np.argsort(x[:, 1])])[np.argsort(np.argsort(x[:, 0]))]  # <- here


MIXING: dict[str, Callable[[Any], Any]] = {
    "not put back": lambda x: np.sin(x[np.argsort(x[:, 0])]),  # <- here
    "put back by another": lambda x: np.sin(x[np.argsort(x[:, 0])])[np.argsort(np.argsort(x[:, 1]))],  # <- here
    "put back twice": lambda x: x[np.argsort(x[:, 0])][np.argsort(np.argsort(x[:, 0]))][np.argsort(x[:, 0])],  # <- here
    "beside others": lambda x: x[np.argsort(x[:, 0])] * x,  # <- here
    "no order": lambda x: x[np.argsort(x[:, 0]) // 2] * 2.0,  # <- here
    "of a few": lambda x: x[np.minimum(np.argsort(x[:, 0]), 3)][np.argsort(np.argsort(x[:, 0]))],  # <- here
    "neighbours": torn,
    "cumulative": back(lambda v: np.cumsum(v, 0)),
    "first": lambda x: x * x[np.argsort(x[:, 0])][0],  # <- here
    "mean": back(lambda v: v - v.mean(0)),
    "reversed": back(lambda v: v[::-1]),
    "of all": back(lambda v: v @ v.T @ v),
    "of two orders": of_two_orders,
    "solved for all": back(lambda v: mj.fixed_point(lambda z, a: 0.3 * np.tanh(z) + a - a.mean(0), v, v)),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_looks_at_several_mixes_as_it_does_uncompiled(name):
    f = MIXING[name]
    for way in (mj.jacobian(f), mj.compile(mj.jacobian(f)), mj.compile(mj.hessian(f))):
        with pytest.raises(mj.BatchMixingError) as caught:
            way(X)
        mentions(caught.value, "test_ordered_compiled.py:", "samples mix in")
    for way in (mj.jacobian(f, on_mixing="full"), mj.jacobian(f, on_mixing="diagonal"), f):
        compiled = replayed(way)
        for x in [OTHERS[0], X]:
            close(compiled(x), way(x), 1e-6, 1e-6)  # a solution is found up to that


KNOWING: dict[str, Callable[[Any], Any]] = {
    "a black box": back(mj.custom(lambda v: v * C, jacobian=lambda v: C[:, :, None] * np.eye(N))),
    "a diagonal": back(lambda v: np.einsum("ii,ij->ij", C @ C.T, v)),
    "one of its own": back(lambda v: np.diagonal(v[:, :1] + C @ C.T)[:, None] * v),
    "halves": back(lambda v: (v.reshape(2, -1, N) * C[:3]).reshape(-1, N)),
}
"""What may know rows by their numbers, or is not known to pass them one by one."""


@pytest.mark.parametrize("name", KNOWING)
def test_what_may_know_rows_by_their_numbers_gets_them_in_their_order(name):
    f = KNOWING[name]
    with pytest.raises(mj.BatchMixingError) as caught:
        mj.compile(mj.jacobian(f))(X)
    mentions(caught.value, "test_ordered_compiled.py:")
    for way in (mj.jacobian(f, on_mixing="full"), mj.grad(lambda x: (f(x) ** 2).sum()), f):
        compiled = replayed(way)
        for x in [OTHERS[0], X]:
            close(compiled(x), way(x), 1e-10, 1e-10)


def test_what_leaves_the_function_is_in_the_order_that_it_shows():
    def f(x):
        order = np.argsort(x[:, 0])
        v = x[order] ** 2
        return v[np.argsort(order)], (order, v, v > 0.2, mj.stop_gradient(v))

    J = replayed(mj.jacobian(f, has_aux=True))
    for x in [*OTHERS, X]:
        order = np.argsort(x[:, 0])
        own, (found, v, hit, still) = J(x)
        close(own, 2.0 * x[:, :, None] * np.eye(N))
        for got, expected in ((found, order), (v, x[order] ** 2), (hit, x[order] ** 2 > 0.2), (still, x[order] ** 2)):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("buffer", [np.empty_like, np.copy, lambda order: np.zeros(len(order), int)])
def test_an_inverse_that_is_written_is_refused_with_the_one_that_is_followed(buffer):
    def f(x):
        order = np.argsort(x[:, 0])
        inverse = buffer(order)
        inverse[order] = np.arange(len(order))
        return x[order][inverse]

    close(mj.jacobian(f)(X), mj.jacobian(lambda x: x * 1.0)(X))
    with pytest.raises(mj.MinijacError) as caught:
        mj.compile(mj.jacobian(f))(X)
    mentions(caught.value, "test_ordered_compiled.py:", r"np.argsort\(order\)")


def test_nothing_is_moved():
    f, _ = CASES["sorted and back"]
    for way in (mj.jacobian(f), mj.hessian(f)):
        names = {step.op.name for step in mj.compile(way).program(X).instructions}
        assert not names & {"take", "argsort", "gather", "scatter"}


def test_a_sum_over_sorted_samples_is_differentiated_as_ever():
    def distance(x):
        return (np.diff(x[np.argsort(x[:, 0])], axis=0) ** 2).sum() + x[np.argsort(x[:, 1])][:2].sum()

    gradient = replayed(mj.grad(distance))
    for x in [*OTHERS[:2], X]:
        close(gradient(x), mj.grad(distance)(x), 1e-12)


@pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)
@pytest.mark.parametrize("name", ["sorted and put", "experts"])
def test_kernels_for_a_device_know_no_more_of_the_order(name):
    f, _ = CASES[name]
    entry = record(mj.jacobian(f), (X.astype(np.float32),), {})
    run = GraphExecutor(entry.program, Device())
    assert {*run.report.uncaptured} <= {"argmax", "argsort"}  # these are CuPy's
    for x in [*OTHERS[:2], X]:
        (J,) = run.run(x.astype(np.float32))
        close(J, mj.jacobian(f)(x), 1e-3, 1e-3)
