"""Long programs on small arrays: what can be machine code is, between lines of Python, and gives what NumPy gives."""

from __future__ import annotations

import random

import fuzz
import numpy as np
import pytest
from functions import function_of_all_kinds, function_of_rarer_kinds
from programs import inverse_dynamics

import minijac as mj
from minijac.program.cpu import executor, fusion
from minijac.program.cpu.native import checks, llvm, mixed
from minijac.program.cpu.native.commands import Tile

pytestmark = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")


@pytest.fixture(autouse=True)
def everything_is_mixed(monkeypatch):
    monkeypatch.setattr(executor, "MANY", 0)


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_programs_of_all_kinds(monkeypatch, dtype, checked):
    monkeypatch.setattr(checks, "CHECKED", checked)
    rng = np.random.default_rng(0)
    x, W, V = (rng.normal(size=shape).astype(dtype) for shape in ((50, 4), (4, 5), (5, 3)))
    for f in (function_of_all_kinds(W, V), function_of_rarer_kinds):
        compiled = mj.compile(f)
        for argument in (x, x * 2, np.asfortranarray(x), x[::-1]):
            for found, expected in zip(compiled(argument), f(argument), strict=True):
                assert found.dtype == expected.dtype
                np.testing.assert_allclose(found, expected, rtol=3e-5 if dtype is np.float32 else 1e-12, atol=1e-5)


def test_results_are_not_written_again():
    """Each call makes its results anew, and reads arguments and captured arrays as they are then."""
    W = np.full((4, 3), 0.5)
    f = mj.compile(lambda x: [np.tanh(x @ W) * 2.0, x, x.T, np.exp(x.sum(1))])
    first = f(np.ones((5, 4)))
    kept = [y.copy() for y in first]
    W[0] = 3.0
    second = f(np.full((5, 4), 2.0))
    for y, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(y, before)
    np.testing.assert_allclose(second[0], np.tanh(np.full((5, 4), 2.0) @ W) * 2.0)


def test_arguments_beyond_what_a_function_takes():
    f = lambda x: np.sin(x * 3.0) * np.cos(x) + np.exp(x)
    compiled = mj.compile(f)
    for scale in (1.0, 1e15, 1.0):
        x = np.random.default_rng(0).normal(size=40) * scale
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(compiled(x), f(x), rtol=1e-13, atol=1e-15)


def test_arguments_beyond_what_a_function_takes_in_place():
    """The sine is written over the sum that it is of, the product over what Python made; in the first call too."""

    def f(x):
        b = np.sort(x, 1) * 2.0
        y = np.sin(b * 1e12) + b
        for _ in range(20):
            y = np.tanh(y * y[:, ::-1]) + b
        return np.cumsum(np.sin(np.cumsum(x, 1)), 1), y

    compiled = mj.compile(f)
    x = np.random.default_rng(0).normal(size=(40, 5))
    x[-1, 0] = 1e12
    for _ in range(3):
        for found, expected in zip(compiled(x), f(x), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_that_are_read_again_and_again_are_copied_once(monkeypatch, dtype):
    commands_of = []
    monkeypatch.setattr(mixed, "Tile", lambda *a, **k: commands_of.append(a[0]) or Tile(*a, **k))

    def f(x):
        a, b, c = (x * 2.0).T
        columns = [a * b + c, b * c - a, c * a * b, np.sin(b) - c, a - b, a[::2].repeat(2) + b]
        y = np.stack(columns, 1)
        y[:, 0] += a
        return y, y[:, ::-1] * c[:, None], (x * 2.0)[:, 1]

    compiled = mj.compile(f)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(64, 3)).astype(dtype)
        for found, expected in zip(compiled(x), f(x), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype is np.float32 else 1e-13, atol=1e-6)
    reads = [(b, o.axes) for run in commands_of for b in run if b._loop for o in b._loop.operands[: b._loop.reads]]
    copies = [b for b, axes in reads if axes == "s" and b._loop.steps[0][0] == "({})"]
    assert len(copies) >= 3
    assert len([b for b, axes in reads if axes == "s"]) <= len(copies) + 2  # what is read once


@pytest.mark.parametrize("n", range(6))
def test_random_programs(n):
    fuzz.check(fuzz.build(random.Random(f"mixed/{n}").choice))


def test_a_robots_inverse_dynamics_are_a_few_lines_of_python(monkeypatch):
    """Thousands of operations on a few numbers of each sample; without a word from the test."""
    monkeypatch.undo()
    x = np.random.default_rng(0).normal(size=(7, 18))
    compiled = mj.compile(mj.jacobian(lambda x: inverse_dynamics(np, x)))
    for data in (x, x * 0.3):
        np.testing.assert_allclose(
            compiled(data), mj.jacobian(lambda x: inverse_dynamics(np, x))(data), rtol=1e-11, atol=1e-12
        )
    lines = [line for line in compiled.source(x).splitlines() if not line.strip().startswith("#")]
    assert len(lines) < 60


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("often", [1, 5, 1 << 30])
def test_steps_in_pairs_give_the_same_to_the_last_bit(monkeypatch, dtype, often):
    """Also what is read twice, returned, of other shapes, and made of Python's numbers."""
    commands_of = []
    monkeypatch.setattr(mixed, "Tile", lambda *a, **k: commands_of.append(a[0]) or Tile(*a, **k))
    monkeypatch.setattr(fusion, "COMMON", often)
    monkeypatch.setattr(fusion, "WORTH", 1 << 60)

    def f(x):
        a, b, c = (x * 2.0).T
        kept = b * c
        for _ in range(5):
            a, b = a * b - c * c, (b * b + 0.5) * c - kept * (a - 1.0)
            a, b, c = a / (1.0 + a * a), b / (2.0 + b * b), -c * a + (a * a) * (b + b)
            c = c / (1.0 + c * c)
        return a, kept, np.stack([a, b, c], 1) * (x + 1.0), (a * b)[:, None] + x, a[::2] * b[1::2] - c[::2]

    compiled = mj.compile(f)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(64, 3)).astype(dtype)
        for found, expected in zip(compiled(x), f(x), strict=True):
            np.testing.assert_array_equal(found, expected)
    loops = [len(b._loop.steps) for run in commands_of for b in run if b._loop]
    assert (max(loops) > 1) == (often < 100), set(loops)


def test_parts_of_a_loop_that_are_alike_are_one_function(monkeypatch):
    """A few loops are compiled, however many columns there are; what is read by others and what differs stays right."""
    commands_of = []
    monkeypatch.setattr(mixed, "Tile", lambda *a, **k: commands_of.append(a[0]) or Tile(*a, **k))
    monkeypatch.setattr(fusion, "WORTH", 0)
    monkeypatch.setattr(fusion, "LEAST", 0)

    def f(x):
        columns = [x[:, k] * 2.0 for k in range(20)]
        grown = [np.exp(c) * c + x[:, 1] for c in columns]
        return np.stack([*grown, np.tanh(grown[3] - 1.0) * grown[4], grown[5] / columns[6]], 1)

    compiled = mj.compile(f)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(64, 20))
        np.testing.assert_allclose(compiled(x), f(x), rtol=1e-13)
    loops = [b for run in commands_of for b in run if b._loop]
    assert len(loops) > 14
    assert max(len(b._loop.steps) for b in loops) < 30
    assert len({b.function for b in loops}) < 10
