"""Of samples that mix, each one's derivative by its own input: right, and without work for pairs of samples."""

from __future__ import annotations

import random as chance
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minijac as mj

B, N = 5, 3
MODES = ("forward", "reverse", "mixed", "auto")
rng = np.random.default_rng(5)
W, V = rng.standard_normal((N, N)), rng.standard_normal((N, N))

LAYERS: dict[str, Callable[[Any], Any]] = {
    "dense": lambda x: np.tanh(x @ W),
    "own square": lambda x: x * np.sin(x),
    "softmax of each": lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    "turned": lambda x: (x.T * 0.9).T,
    "merged": lambda x: (x.reshape(-1) ** 2).reshape(x.shape) @ V,
    "centred": lambda x: x - x.mean(0),
    "normalised": lambda x: x / np.sqrt((x * x).mean(0) + 1.0),
    "attention to all": lambda x: np.tanh(x @ x.T) @ x / len(x),
    "beside itself": lambda x: x + 0.3 * np.tanh(x.sum(0)) * x,
    "neighbours": lambda x: x * np.roll(x, 1, 0),
}


def net(names: list[str], skip: bool) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        y = x
        for name in names:
            y = LAYERS[name](y)
        return y + np.sin(x) if skip else y

    return f


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(25))
def test_layers_that_mix_among_layers_that_do_not(seed: int, mode: str) -> None:
    draw = chance.Random(seed)
    f = net([draw.choice(list(LAYERS)) for _ in range(draw.randint(2, 6))], draw.random() < 0.4)
    x = rng.standard_normal((B, N))
    expected = np.einsum("bobi->boi", mj.jacobian(f, on_mixing="full", mode="forward")(x))
    J = mj.jacobian(f, on_mixing="diagonal", mode=mode)
    for _ in range(3):  # carried out, recorded, replayed
        np.testing.assert_allclose(J(x), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mj.compile(J)(x), expected, rtol=1e-9, atol=1e-12)
    chunked = mj.jacobian(f, on_mixing="diagonal", mode=mode, chunk_size=2)
    np.testing.assert_allclose(chunked(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_several_inputs_and_outputs(mode: str) -> None:
    f = lambda x, y: (LAYERS["normalised"](x * y) @ W, [x + y.mean(0), np.tanh(y) @ V])
    x, y = rng.standard_normal((2, B, N))
    full = mj.jacobian(f, (0, 1), on_mixing="full", mode=mode)(x, y)
    own = mj.jacobian(f, (0, 1), on_mixing="diagonal", mode=mode)(x, y)
    for row, expected in zip([own[0], *own[1]], [full[0], *full[1]], strict=True):
        for J, block in zip(row, expected, strict=True):
            np.testing.assert_allclose(J, np.einsum("bobi->boi", block), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
@pytest.mark.parametrize("compiled", [False, True])
def test_nothing_has_the_size_of_all_pairs_of_samples(mode: str, compiled: bool) -> None:
    f = lambda x: LAYERS["dense"](LAYERS["normalised"](LAYERS["centred"](LAYERS["dense"](x)))) @ W
    J = mj.jacobian(f, on_mixing="diagonal", mode=mode)
    J = mj.compile(J) if compiled else J
    x = rng.standard_normal((600, N))
    J(x)
    tracemalloc.start()
    J(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600 * 600 * 8  # a number for each pair, where a Jacobian of pairs has nine
