"""Complex numbers in programs for the GPU, on the emulated device: kernels leave them to CuPy's calls, matmuls too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulated import COMPILER, WHY_NOT, Device
from helpers import close, random

import minijac as mj
from minijac.program.entry import record
from minijac.program.gpu.executor import GraphExecutor

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)

X = random(3, 4, seed=0)
C = random(4, seed=1) + 1j * random(4, seed=2)
W = random(4, 4, seed=3) + 1j * random(4, 4, seed=4)
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "a factor": lambda x: 1j * x * C,
    "abs": lambda x: np.abs((x * C) @ W),
    "conj": lambda x: np.conj(np.sin(x * C) @ W) * (x * C),
    "there and back": lambda x: np.exp(np.abs((x * C) @ W) * 0.1) @ W.imag,
    "angle": lambda x: np.angle((x * C) @ W + 3.0),
    "sums": lambda x: np.cumsum(np.conj(x * C), 1).mean(1),
    "indices": lambda x: np.conj((x * C)[:, [0, 2, 2]])[:, ::-1],
    "where": lambda x: np.where(x > 0, x * C, np.conj(x * C) ** 2),
    "a comparison": lambda x: np.where(x * (1 + 0j) == 1j, x, x * C),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("way", [lambda f: f, mj.jacobian, mj.laplacian], ids=["value", "jacobian", "laplacian"])
def test_complex_numbers_in_programs(name, way, single):
    derivative = way(FUNCTIONS[name])
    x = X.astype(np.float32) if single else X
    run = GraphExecutor(record(derivative, (x,), {}).program, Device())
    for k in range(3):
        moved = (x * (1.0 + 0.1 * k)).astype(x.dtype)
        (found,) = run.run(moved)
        expected = derivative(moved)
        assert found.dtype == expected.dtype
        close(found, expected, *((1e-3, 1e-3) if single else (1e-10, 1e-10)))
