"""Complex numbers on the second backend, by hand and replayed; compiled they are in tests/program/gpu."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gpu import Device, agree, on_device
from helpers import random

import minijac as mj

X = random(3, 4, seed=0)
C = random(4, seed=1) + 1j * random(4, seed=2)
W = random(4, 4, seed=3) + 1j * random(4, 4, seed=4)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "a factor": lambda x, c, w: 1j * x * c,
    "abs": lambda x, c, w: np.abs((x * c) @ w),
    "conj": lambda x, c, w: np.conj(np.sin(x * c) @ w) * (x * c),
    "there and back": lambda x, c, w: np.exp(np.abs((x * c) @ w) * 0.1).real @ np.imag(w),
    "angle": lambda x, c, w: np.angle((x * c) @ w + 3.0),
    "sums": lambda x, c, w: np.cumsum(np.conj(x * c), 1).mean(1),
    "indices": lambda x, c, w: np.conj((x * c)[:, np.array([0, 2, 2])])[:, ::-1],
    "where": lambda x, c, w: np.where(x > 0, x * c, np.conj(x * c) ** 2),
}
WAYS: dict[str, Callable[..., Any]] = {
    "forward": lambda f: mj.jacobian(f, mode="forward"),
    "reverse": lambda f: mj.jacobian(f, mode="reverse"),
    "auto": lambda f: mj.jacobian(f),
    "laplacian": lambda f: mj.laplacian(f),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_complex_numbers_on_a_device(name, way, device: Device):
    f = FUNCTIONS[name]
    c, w = device.put((C, W))
    expected = WAYS[way](lambda x: f(x, C, W))(X)
    derivative = WAYS[way](on_device(lambda x: f(x, c, w), device))
    for _ in range(3):
        agree(derivative(device.put(X)), expected, device)
