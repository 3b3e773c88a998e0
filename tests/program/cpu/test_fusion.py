"""Fused loops: NumPy's results, of arithmetic to the last bit, with and without llvmlite, for any arrangement."""

from __future__ import annotations

import random

import numpy as np
import pytest

import minijac as mj
from minijac.ops import REGISTRY
from minijac.ops.families import Elementwise
from minijac.ops.scalars import BRANCH_FREE
from minijac.program.cpu import fusion, regions, tiling
from minijac.program.cpu.fusion import Fused, fused, made, read
from minijac.program.cpu.native import llvm

needs_llvm = pytest.mark.skipif(not fusion.available(), reason="llvmlite is not installed")
B, D = 6, 5
SPECIAL = [0.0, -0.0, 1.0, -1.5, 2.25, np.inf, -np.inf, np.nan, 1e-30, -3e30]


AS_SHIPPED = {"WORTH": fusion.WORTH, "LEAST": fusion.LEAST}


@pytest.fixture(autouse=True)
def everything_is_fused(monkeypatch):
    monkeypatch.setattr(fusion, "WORTH", 0)
    monkeypatch.setattr(fusion, "LEAST", 0)


def loops_of(compiled, *args) -> list[Fused]:
    program = compiled.program(*args)
    return [stage for stage in fused(program.instructions, program.values, program.outputs) if isinstance(stage, Fused)]


def near(found, expected, ulps):
    """Equal but for so many units in the last place."""
    assert found.dtype == expected.dtype
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    assert np.all(np.abs(found - expected)[finite] <= ulps * np.spacing(np.abs(expected[finite])))


def equal(found, expected, signed=True):
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    if found.dtype.kind == "f" and signed:
        kept = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found)[kept], np.signbit(expected)[kept])


SPELLED = [
    name
    for name, op in REGISTRY.items()
    if isinstance(op, Elementwise)
    and op.spelling is not None
    and op.spelling.loop is not None
    and name not in ("relu", "length", "sigmoid", "softplus")  # taken apart
]


def at_once(name: str):
    """Each operation twice, so that there is something to fuse, on operands of any kind it takes."""
    op = REGISTRY[name]

    def two(*xs):
        return op(*xs), np.subtract(xs[-1], 1.5)

    return two


@needs_llvm
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SPELLED)
def test_each_operation_is_numpys(name, dtype):
    grid = np.array(np.meshgrid(SPECIAL, SPECIAL)).astype(dtype).reshape(2, -1)
    operands = tuple(grid)
    if len(REGISTRY[name].partials) == 1:
        operands = (grid[0],)
    if name == "where":
        operands = (grid[0] > 0, *grid)
    compiled = mj.compile(at_once(name))
    with np.errstate(all="ignore"):
        for found, expected in zip(compiled(*operands), at_once(name)(*operands), strict=True):
            if REGISTRY[name].spelling.loop in BRANCH_FREE.values():
                near(found, expected, ulps=4)  # NumPy's own are not right to the last bit
            else:
                equal(found, expected, signed=name not in ("maximum", "minimum"))
    (loop,) = loops_of(compiled, *operands)
    assert name in [step.op.name for step in loop.steps]


@needs_llvm
def test_relu_and_squares():
    f = lambda x: (mj.nn.relu(x) * 2, np.power(x, 2) + 1)
    x = np.array(SPECIAL)
    compiled = mj.compile(f)
    with np.errstate(all="ignore"):
        for found, expected in zip(compiled(x), f(x), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert {step.op.name for loop in loops_of(compiled, x) for step in loop.steps} >= {"relu", "multiply", "square"}


ARRANGEMENTS = {
    "columns": lambda x, w: (x * w + x) * w,
    "rows": lambda x, w: (x[:, :1] * x + x[:, 1:2]) * x,
    "outer": lambda x, w: (x[:, :, None] * x[:, None, :] + w) * 2 - x[:, None, :],
    "transposed": lambda x, w: ((x.T * x.T + 1) * x.T).T * 3 + x,
    "reversed": lambda x, w: (x[:, ::-1] * x + w[::-1]) * x[::-1],
    "one number": lambda x, w: (x * w[0] + x[0, 0]) * x - w[1],
    "long axes of one": lambda x, w: (x[:, None, None] * w + x[:, None, None]) * 2,
    "several results": lambda x, w: (x * 2 + 1, x * x, (x - w) * (x + w)),
    "two shapes": lambda x, w: (x * w + 1).sum(1) * 2 + (x * w - 1).sum(1) ** 2 / 3,
    "between others": lambda x, w: np.tanh(x * w + 1) * (x * x - 2) + np.sin(x) * x * 0.5,
    "conditions": lambda x, w: np.where(x > w, x * 2 - 1, np.where(x < 0, -x, w) * 3),
    "fortran": lambda x, w: (x * np.asfortranarray(WEIGHTS) + WEIGHTS.T.copy().T) * 2,
}
WEIGHTS = np.random.default_rng(1).normal(size=(B, D))


@needs_llvm
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_any_arrangement(arrangement, dtype):
    f = ARRANGEMENTS[arrangement]
    compiled = mj.compile(f)
    rng = np.random.default_rng(0)
    for _ in range(2):
        x, w = rng.normal(size=(B, D)).astype(dtype), rng.normal(size=D).astype(dtype)
        found, expected = compiled(x, w), f(x, w)
        for a, b in zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]:
            np.testing.assert_allclose(a, b, rtol=1e-6 if dtype == np.float32 else 1e-14, atol=1e-6)
            assert a.dtype == b.dtype
    for strided in (x[::-1], np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        a, b = compiled(strided, w), f(strided, w)
        np.testing.assert_allclose(
            np.hstack(a) if isinstance(a, tuple) else a,
            np.hstack(b) if isinstance(b, tuple) else b,
            rtol=1e-5,
            atol=1e-6,
        )
    assert loops_of(compiled, x, w)


@needs_llvm
@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
@pytest.mark.parametrize(
    "transform", [mj.jacobian, mj.hessian, lambda f: mj.partials(f, [(0,), (0, 0), (0, 1)])], ids=["J", "H", "partials"]
)
def test_derivatives(monkeypatch, transform, tiled):
    monkeypatch.setattr(tiling, "WORTH", 0 if tiled else 1 << 60)
    monkeypatch.setattr(regions, "threads", lambda: 2)
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2, D))
    f = transform(lambda x: (np.tanh(x @ W) / (1 + (x @ W) ** 2)).sum(-1))
    compiled = mj.compile(f)
    for x in rng.normal(size=(2, B, 2)):
        found, expected = compiled(x), f(x)
        for a, b in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    assert loops_of(compiled, x)


@needs_llvm
@pytest.mark.parametrize("order", ["C", "F"])
def test_captured_arrays_are_read_at_replay(order):
    W = np.array(WEIGHTS, order=order)
    f = lambda x: (x * W + 1) * W
    compiled = mj.compile(f)
    x = np.ones((B, D))
    compiled(x)
    W *= 2
    np.testing.assert_array_equal(compiled(x), f(x))


@needs_llvm
def test_one_compiled_loop_for_all_sizes_and_numbers():
    before = llvm.compiled.cache_info().misses
    for size in (40, 50, 600):
        mj.compile(lambda x, c=float(size): (x * c + x) * (x - c))(np.ones((size, 2)))
    assert llvm.compiled.cache_info().misses - before <= 1


def test_without_llvmlite_the_same(monkeypatch):
    monkeypatch.setattr(fusion, "available", lambda: False)
    f = lambda x: (x * 2 + 1) * x
    compiled = mj.compile(f)
    x = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(compiled(x), f(x))
    assert not loops_of(compiled, x)


def test_llvmlite_that_cannot_be_imported_is_told(monkeypatch):
    import importlib

    def fails(name):
        raise ImportError("a library is missing")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.warns(UserWarning, match="left to NumPy, as llvmlite cannot be imported: a library is missing"):
        assert not llvm.available.__wrapped__()


def test_small_arrays_are_not_worth_compiling_for(monkeypatch):
    monkeypatch.setattr(fusion, "WORTH", AS_SHIPPED["WORTH"])
    compiled = mj.compile(lambda x: (x * 2 + 1) * x)
    x = np.ones((3, 4))
    compiled(x)
    assert not loops_of(compiled, x)


@needs_llvm
def test_some_ten_thousand_entries_are(monkeypatch):
    """NumPy takes 3 us for each of three steps, a loop for all of them; so it is with a stencil's few bands."""
    for name, value in AS_SHIPPED.items():
        monkeypatch.setattr(fusion, name, value)
    compiled = mj.compile(lambda x: (x[:, 1:] - x[:, :-1]) * 2 + 1)
    (loop,) = loops_of(compiled, np.ones((64, 256), np.float32))
    assert [step.op.name for step in loop.steps] == ["subtract", "multiply", "add"]


MAKERS = (
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: np.tanh(a),
    lambda a, b: a.sum(1, keepdims=True),
    lambda a, b: a - 1.5,
    lambda a, b: np.maximum(a, b),
    lambda a, b: a[:, ::-1],
)


@pytest.mark.parametrize("seed", range(40))
def test_stages_come_after_what_they_read(monkeypatch, seed):
    """Random programs: every stage once, each after those that make what it reads, and all results are made."""
    monkeypatch.setattr(fusion, "available", lambda: True)

    def f(x):
        choose = random.Random(seed)
        values = [x, x[:, :1] * 2]
        for _ in range(25):
            a, b = choose.choice(values), choose.choice(values)
            values.append(choose.choice(MAKERS)(a, b))
        return values[-4:]

    program = mj.compile(f).program(np.ones((B, D)))
    stages = fused(program.instructions, program.values, program.outputs)
    known = {n for n, value in enumerate(program.values) if value.kind != "computed"}
    steps = 0
    for stage in stages:
        assert known.issuperset(read(stage))
        known.update(made(stage))
        steps += len(stage.steps) if isinstance(stage, Fused) else 1
    assert known.issuperset(program.outputs)
    assert steps == len(program.instructions)
    assert any(isinstance(stage, Fused) for stage in stages)


def test_a_view_of_what_is_read_does_not_part_a_loop(monkeypatch):
    """Scales of each column, one of them turned: both loops of whole arrays wait for the scales alone."""
    monkeypatch.setattr(fusion, "available", lambda: True)
    monkeypatch.setattr(fusion, "WORTH", 1)
    monkeypatch.setattr(fusion, "LEAST", 1)

    def f(x):
        y, scale = np.tanh(x), x.mean(0)
        return (x - scale) * y + y * scale[::-1] * 2.0

    program = mj.compile(f).program(np.ones((B, D)))
    stages = fused(program.instructions, program.values, program.outputs)
    whole = [stage for stage in stages if isinstance(stage, Fused) and program.values[stage.outs[0]].shape == (B, D)]
    assert [len(loop.steps) for loop in whole] == [1, 5]  # tanh needs no scale


def test_loops_are_not_made_of_small_arrays_and_not_too_long(monkeypatch):
    monkeypatch.setattr(fusion, "available", lambda: True)
    for name, value in AS_SHIPPED.items():
        monkeypatch.setattr(fusion, name, value)

    draws = np.random.default_rng(0).random(2000) < 0.5  # nothing that repeats itself

    def f(x):
        for draw in draws:
            x = x * 1.5 if draw else x + 1.0
        return x

    def longest(x):
        program = mj.compile(f).program(x)
        loops = fused(program.instructions, program.values, program.outputs)
        return max((len(loop.steps) for loop in loops if isinstance(loop, Fused)), default=0)

    assert longest(np.ones((4, 2))) == 0
    assert 0 < longest(np.ones((100, 50))) <= fusion.LONGEST
