"""Traced values: they answer like arrays, and stop_gradient takes the derivative from them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    IN,
    MODES,
    W1,
    close,
    random,
)

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)

# --- stop_gradient and traced values ------------------------------------------------------------------------


@modes
def test_stop_gradient_is_a_constant(mode):
    x = random(4, 3)
    J = mj.jacobian(lambda t: t * mj.stop_gradient(np.sin(t)), mode=mode)(x)
    close(J, np.sin(x)[:, :, None] * np.eye(3))


def test_stop_gradient_passes_plain_values_and_trees_through():
    x = random(4, 3)
    close(mj.stop_gradient(x), x, atol=0)
    assert mj.stop_gradient(2.5) == 2.5
    g = mj.grad(lambda t: float(mj.stop_gradient(t.sum())) * t.sum())(x)
    close(g, np.full((4, 3), x.sum()))


def test_traced_values_answer_like_arrays():
    x = random(4, 3, low=1.0, high=2.0)
    seen = {}

    def f(t):
        seen.update(shape=t.shape, ndim=t.ndim, dtype=t.dtype, size=t.size, length=len(t))
        seen.update(text=str(t), all_above=bool((t > 0.5).all()), below=np.array_equal(np.asarray(t < 1.5), x < 1.5))
        columns = list(t.T)
        return np.stack([np.sin(c) for c in columns], axis=-1) if t[0, 0] > 0 else t * 0

    J = mj.jacobian(f)(x)
    close(J, np.cos(x)[:, :, None] * np.eye(3))
    assert seen["shape"] == (4, 3)
    assert seen["ndim"] == 2
    assert seen["dtype"] == x.dtype
    assert seen["size"] == 12
    assert seen["length"] == 4
    assert seen["all_above"] is True
    assert seen["below"]
    assert f"{x[0, 0]:.4f}"[:5] in seen["text"]


def test_minijac_numpy_is_one_namespace_for_plain_and_traced():
    x = random(4, IN)

    def f(t):
        return mj.numpy.tanh(mj.numpy.matmul(t, W1))

    plain = f(x)
    assert type(plain) is np.ndarray
    close(plain, np.tanh(x @ W1))
    close(mj.jacobian(f)(x), mj.jacobian(lambda t: np.tanh(t @ W1))(x))
