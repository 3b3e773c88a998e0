"""Structured Jacobians hold memory of their own: what the caller writes afterwards, to whatever array, changes none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minijac as mj

N = 120  # arrays of more than 64 KiB: smaller ones are copied when they are used
ROLL = np.roll(np.arange(N), 1)
FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "matmul": lambda x, y, W: x @ W,
    "a transposed view": lambda x, y, W: x @ W.T,
    "a part": lambda x, y, W: x[:, :60] @ W[:60],
    "an einsum": lambda x, y, W: np.einsum("bi,io->bo", x, W),
    "a layer": lambda x, y, W: np.tanh(0.01 * (x @ W)),
    "a product": lambda x, y, W: x * y,
    "a quotient": lambda x, y, W: x / (y + 3.0),
    "itself": lambda x, y, W: x * x,
    "taken": lambda x, y, W: (x * y)[:, ROLL],
    "a sum": lambda x, y, W: x * y + x @ W,
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_write_changes_a_jacobian(name: str, compiled: bool) -> None:
    rng = np.random.default_rng(0)
    x, y, W = rng.normal(size=(N, N)), rng.normal(size=(N, N)), rng.normal(size=(N, N))
    captured = W
    transformations: list[Callable[..., Any]] = [
        lambda f: mj.jacobian(f, batch_axis=(0, 0, None), structured=True),
        lambda f: lambda *args: mj.jacobian(lambda x, y: f(x, y, captured), structured=True)(*args[:2]),
        lambda f: lambda *args: mj.linearize(lambda x: f(x, args[1], captured), args[0])[1],
    ]
    for transformation in transformations:
        jacobian = transformation(FUNCTIONS[name])
        jacobian = mj.compile(jacobian) if compiled else jacobian
        for _ in range(3):  # accumulated, recorded, replayed
            J = jacobian(x, y, W)
            before, sparse = J.todense(), J @ x
            kept = [array.copy() for array in (x, y, W)]
            for array in (x, y, W, positions := ROLL.copy()):
                array *= -3
            ROLL[:] = 0
            np.testing.assert_array_equal(J.todense(), before)
            np.testing.assert_array_equal(J @ kept[0], sparse)
            for array, old in zip((x, y, W), kept, strict=True):
                array[:] = old
            ROLL[:] = positions // -3


def test_nor_does_one_to_what_was_added_or_multiplied() -> None:
    x, A = np.ones((3, 4)), np.ones((3, 4, 4))
    for J in (mj.jacobian(np.sin, structured=True)(x) + A, mj.jacobian(np.sin, structured=True)(x) * A):
        before = J.todense()
        A[:] = 7.0
        np.testing.assert_array_equal(J.todense(), before)
