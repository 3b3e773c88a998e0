"""Partial derivatives that no other is made of are pulled back from the outputs: the same numbers, for less work."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from helpers import random, tensor

import minijac as mj
from minijac.transforms import pulled

W, V = random(3, 8, seed=1), random(8, 8, seed=2)
PAIRS = [*combinations_with_replacement(range(3), 2)]
WANTED = [(), (0,), (1,), (2,), *PAIRS, (0, 0, 0), (1, 1, 2), (0, 1, 1, 2)]


def network(xp, x, W, V):
    return xp.tanh(xp.tanh(x @ W) @ V).sum(-1)


def skipping(xp, x, W, V):
    """What later operations read again, the inputs among it."""
    h = xp.tanh(x @ W)
    return (h + xp.sin(h @ V)).sum(-1) + (x * x).sum(-1) * h[:, 0]


def multiplied(xp, x, W, V):
    a, b = xp.exp(0.3 * (x @ W)), xp.sin(x @ W)
    return (a @ V * b).sum(-1) / (1.0 + a[:, 1] ** 2)


def outright(xp, x, W, V):
    """Derivatives that are no blocks, and one that a curve gives."""
    M = (x @ W)[:, :4].reshape(-1, 2, 2)
    return xp.cumsum(xp.sin(x @ W), -1)[:, -2] * xp.linalg.det(M)


def chosen(xp, x, W, V):
    """Entries that are no number, and are left out; torch has to be kept from them."""
    positive = x[:, 0] > 0.0
    inside = x[:, 0] if xp is np else xp.where(positive, x[:, 0], 1.0)
    return xp.where(positive, xp.sqrt(inside), x[:, 1] ** 3) * x[:, 2]


def linear(xp, x, W, V):
    return (x @ W).sum(-1)


def several(xp, x, W, V):
    return xp.stack([xp.sin(x[:, 0] * x[:, 1]), xp.exp(x[:, 2] * x[:, 0])], 1)


FUNCTIONS = [network, skipping, multiplied, outright, chosen, linear, several]


def by_torch(f, x, index):
    """Nested reverse passes in float64."""
    torch = pytest.importorskip("torch")
    t = tensor(x, requires_grad=True)
    columns = []
    for u in f(torch, t, tensor(W), tensor(V)).reshape(len(x), -1).unbind(1):
        for k in index:
            (d,) = torch.autograd.grad(u.sum(), t, create_graph=True) if u.requires_grad else [torch.zeros_like(t)]
            u = d[:, k]
        columns.append(u.detach().numpy())
    return np.stack(columns, 1)


@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("compiled", [False, True])
def test_they_are_torchs(monkeypatch, f, compiled):
    seen = []
    monkeypatch.setattr(pulled.Pulled, "take", lambda *given, take=pulled.Pulled.take: seen.append(1) or take(*given))
    x = random(5, 3, seed=3)
    D = mj.partials(lambda x: f(np, x, W, V), WANTED)
    for index, found in zip(WANTED, (mj.compile(D) if compiled else D)(x), strict=True):
        np.testing.assert_allclose(
            found.reshape(5, -1), by_torch(f, x, index), rtol=1e-9, atol=1e-9, err_msg=str(index)
        )
    assert seen


@pytest.mark.parametrize("f", FUNCTIONS)
def test_gradients_of_them_are_those_of_the_ones_carried_along(f):
    x, bound = random(4, 3, seed=4), 1 << 40  # under a bound on memory nothing is pulled
    both = [mj.partials(lambda x: f(np, x, W, V), PAIRS, max_bytes=limit) for limit in (None, bound)]
    found, expected = (mj.jacobian(D)(x) for D in both)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_a_training_step_through_them():
    x = random(6, 3, seed=5)

    def loss(max_bytes):
        f = lambda W: lambda x: np.tanh(np.tanh(x @ W) @ V).sum(-1)
        return lambda W: sum((u**2).mean() for u in mj.partials(f(W), PAIRS, max_bytes=max_bytes)(x))

    found, expected = (mj.grad(loss(limit))(W) for limit in (None, 1 << 40))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def products(wanted, end):
    """How many products a program has."""
    x = random(4000, 3, seed=7)
    program = mj.compile(mj.partials(lambda x: end(np.tanh(np.tanh(np.tanh(x @ W) @ V) @ V)), wanted))
    program(x)
    return program.source(x).count("matmul(")


def test_work_does_not_grow_with_the_number_of_those_that_no_other_is_made_of():
    total, whole = (lambda y: y.sum(-1)), lambda y: y
    assert products(PAIRS, total) <= products([(0, 0), (1, 1), (2, 2)], total)
    assert products(PAIRS, total) < products(PAIRS, whole)


def test_as_many_numbers_of_a_sample_are_not_pulled(monkeypatch):
    monkeypatch.setattr(pulled, "Pulled", None)  # calling it would raise
    x = random(5, 3, seed=8)
    (found,) = mj.partials(lambda x: np.sin(x).sum(-1), [(0, 0)])(x)
    np.testing.assert_allclose(found, -np.sin(x[:, 0]), rtol=1e-12)
    found = mj.partials(lambda x: np.sin(x), [(0, 0), (1, 1), (2, 2)])(x)
    np.testing.assert_allclose(sum(found), -np.sin(x), rtol=1e-12)


def test_a_long_chain_read_at_every_step_takes_time_in_proportion():
    def f(x):
        h = x[:, 0] * x[:, 1]
        for _ in range(300):
            h = h + 0.01 * np.sin(h)
        return h

    x = random(3, 2, seed=9)
    found = mj.partials(f, [(0, 0), (0, 1), (1, 1)])(x)
    expected = mj.hessian(f)(x)
    np.testing.assert_allclose(found, [expected[:, 0, 0], expected[:, 0, 1], expected[:, 1, 1]], rtol=1e-9)
