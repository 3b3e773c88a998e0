"""Programs in columns compute what they computed: each operation, random programs, and loops and tiles made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from registry import CASES
from tiles import run

import minijac as mj
from minijac.ops import REGISTRY
from minijac.ops.families import Elementwise, Multilinear, Structural
from minijac.program.cpu import executor, regions, tiling
from minijac.program.cpu.native import checks, llvm
from minijac.program.entry import record
from minijac.program.ir import Instruction, Program, Value
from minijac.program.passes.columns import columns

TYPES = [np.float32, np.float64]
needs_llvm = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")


def carried_out(program: Program, arrays: Any) -> list[Any]:
    """A program, step by step, by NumPy."""
    held = [value.content for value in program.values]
    for n, x in zip(program.inputs, arrays, strict=True):
        held[n] = x
    with np.errstate(all="ignore"):
        for step in program.instructions:
            held[step.out] = step.op.value(*(held[n] for n in step.args), **step.params)
    return [held[n] for n in program.outputs]


def in_columns(program: Program, arrays: Any) -> list[Any] | None:
    """The same by the program in columns; None where there is none."""
    found = columns(program)
    if found is None:
        return None
    count = len(program.inputs)
    given = [x for own, array in zip(found.layouts, arrays, strict=False) for x in own.columns(array)]
    made = iter(carried_out(found.program, given))
    outputs = []
    for n, layout in zip(program.outputs, found.layouts[count:], strict=True):
        array = layout.like(np.empty(program.values[n].shape, program.values[n].dtype))
        for column in layout.columns(array):
            assert column.flags.c_contiguous
            column[...] = next(made)
        outputs.append(array)
    assert next(made, None) is None
    return outputs


# -- operation by operation --------------------------------------------------------------------------------------------
FAMILIES = Elementwise, Multilinear, Structural
APART = [case for case in CASES if isinstance(REGISTRY[case.name], FAMILIES)]


def on_its_columns(case: Any) -> tuple[Program, list[Any]]:
    """A program that reads another column of each operand beside the operation, so that something is taken apart."""
    op, arrays = REGISTRY[case.name], case.operands()
    values = [Value(np.shape(x), np.asarray(x).dtype, "input") for x in arrays]
    out = op.value(*arrays, **case.sample.params)
    steps = [Instruction(op, tuple(range(len(arrays))), dict(case.sample.params), len(arrays))]
    values.append(Value(out.shape, out.dtype, "computed"))
    outputs = [len(arrays)]
    for n, x in enumerate((*arrays, out)):
        for axis in range(1, np.ndim(x)):
            index = (*(slice(None),) * axis, x.shape[axis] - 1, *(slice(None),) * (x.ndim - axis - 1))
            steps.append(Instruction(REGISTRY["getitem"], (n,), {"index": index}, len(values)))
            values.append(Value(x[index].shape, x.dtype, "computed"))
            outputs.append(len(values) - 1)
    return Program(tuple(values), tuple(steps), tuple(range(len(arrays))), tuple(outputs)), arrays


@pytest.mark.parametrize("case", APART, ids=lambda case: f"{case.name}-{case.number}")
def test_every_operation_is_the_same_in_columns(case):
    program, arrays = on_its_columns(case)
    found = in_columns(program, arrays)
    if found is not None:
        for got, wanted in zip(found, carried_out(program, arrays), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-14, atol=1e-15)


def test_most_operations_come_apart():
    applied = {case.name for case in APART if columns(on_its_columns(case)[0]) is not None}
    moved = {
        "getitem", "reshape", "transpose", "expand_dims", "squeeze", "broadcast_to", "concatenate", "pad", "flip",
        "sum", "roll", "mean", "diagonal", "superpose", "relabel", "where", "multiply", "exp", "matmul",
    }  # fmt: skip
    assert moved <= applied


# -- random programs ---------------------------------------------------------------------------------------------------
def random_step(seed: int) -> Any:
    """A function of states (B, 4), in columns and slices, with what is chosen, summed and multiplied between."""
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, 14, 9), rng.integers(0, 1000, (9, 4))
    weights = rng.normal(size=(4, 3)) / 2

    def f(y: Any) -> Any:
        made = [y, y[:, 1], y[:, 2:]]
        for which, (i, j, k, m) in zip(*choices, strict=True):
            a, b = made[i % len(made)], made[j % len(made)]
            column = b if b.ndim == 1 else b[:, k % b.shape[1]]
            wide = a if a.ndim == 2 else np.stack([a, column, a * 0.5], 1)
            made.append([
                lambda wide=wide, column=column: wide * column[:, None],
                lambda wide=wide, column=column: np.concatenate([wide[:, :1], column[:, None]], 1),
                lambda wide=wide: np.sin(wide[:, ::-1]),
                lambda wide=wide: wide.sum(1),
                lambda wide=wide: wide.mean(1, keepdims=True) - wide,
                lambda wide=wide, column=column: np.where(wide > column[:, None], wide, column[:, None]),
                lambda wide=wide, column=column: np.where(column > 0.2, column, -0.5 * wide[:, -1]),
                lambda wide=wide, m=m: np.roll(wide, m, 1) / (1.0 + wide * wide),
                lambda wide=wide: (wide[:, :, None] * wide[:, None, :2]).sum(1),
                lambda wide=wide: np.pad(wide, ((0, 0), (1, 0)), constant_values=0.3),
                lambda column=column: np.exp(-column * column),
                lambda wide=wide, column=column: np.maximum(wide, 0.1) * np.tanh(column)[:, None],
                lambda y=y, weights=weights: y @ weights.astype(y.dtype),
                lambda wide=wide: wide.reshape(len(wide), 1, -1).transpose(0, 2, 1)[:, :, 0],
            ][which]())  # fmt: skip
        columns = [x if x.ndim == 1 else x[:, 0] for x in made[-4:]]
        return 0.7 * y + 0.2 * np.tanh(np.stack(columns, 1))

    return f


def data(size: int, dtype: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(size, 4)).astype(dtype)


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_are_the_same_in_columns(seed):
    f, dtype = random_step(seed), TYPES[seed % 2]
    x = data(31, dtype)
    for function in (f, mj.jacobian(f)):
        program = record(function, (x,), {}).program
        found = in_columns(program, [x])
        # of a derivative, whether any entry is masked may be asked of all samples
        assert found is not None or (
            function is not f and REGISTRY["any"] in {step.op for step in program.instructions}
        )
        for got, wanted in zip(found or (), carried_out(program, [x]), strict=found is not None):
            np.testing.assert_allclose(got, wanted, rtol=1e-4 if dtype is np.float32 else 1e-12, atol=1e-6)


@pytest.fixture
def applied(monkeypatch):
    """Columns wherever there can be, and how many programs of tiles were written in them."""
    found: list[Any] = []

    def spied(program: Program) -> Any:
        found.append(columns(program))
        return found[-1]

    monkeypatch.setattr(executor, "COLUMNS", 0.0)
    monkeypatch.setattr(executor, "columns", spied)
    return lambda: sum(each is not None for each in found)


def repeated(f: Any, count: int) -> Any:
    def g(y: Any) -> Any:
        for _ in range(count):
            y = f(y)
        return y

    return g


@needs_llvm
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("size", [2, 17, 131])
@pytest.mark.parametrize("dtype", TYPES)
def test_loops_in_columns_are_the_plain_loops(monkeypatch, applied, dtype, size, checked):
    monkeypatch.setattr(checks, "CHECKED", checked)
    for seed in (3, 4):
        for function in (repeated(random_step(seed), 12), mj.jacobian(repeated(random_step(seed), 12))):
            compiled = mj.compile(function)
            for again in range(2):  # other data in the second call
                x = data(size, dtype, again)
                np.testing.assert_allclose(
                    compiled(x), function(x), rtol=2e-4 if dtype is np.float32 else 1e-11, atol=1e-5
                )
    assert applied()


@needs_llvm
@pytest.mark.parametrize("checked", [False, True])
def test_what_steps_are_given_and_make_is_read_and_written_in_place(monkeypatch, applied, checked):
    monkeypatch.setattr(checks, "CHECKED", checked)
    rng = np.random.default_rng(0)
    scale = rng.normal(size=(23, 3))

    def step(y: Any, u: Any) -> Any:
        turned = np.stack([y[:, 1] * u[:, 0], np.sin(y[:, 2]) - u[:, 1], y[:, 0] * y[:, 1]], 1) * scale
        for _ in range(6):
            turned = np.tanh(np.roll(turned, 1, 1) * 0.9 + np.concatenate([y[:, 1:], y[:, :1]], 1))
        return 0.8 * y + 0.1 * turned, turned[:, 1:] - y[:, :2]

    f = lambda u, y: mj.scan(step, y, u)
    compiled = mj.compile(f)
    for _ in range(3):
        u, y = rng.normal(size=(24, 23, 2)), rng.normal(size=(23, 3))
        for got, wanted in zip(compiled(u, y), f(u, y), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)
        scale *= 0.9  # a captured array is read anew in each call
    assert applied()


@needs_llvm
@pytest.mark.parametrize("size, threads", [(64, 1), (31, 2), (7, 3)])
@pytest.mark.parametrize("dtype", TYPES)
def test_tiles_in_columns_are_the_plain_ones(monkeypatch, applied, dtype, size, threads):
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(checks, "CHECKED", True)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(size, threads), arrays))
    for seed in (1, 2, 5):
        f = repeated(random_step(seed), 2)
        compiled = mj.compile(f)
        for again in range(2):
            x = data(127, dtype, again)
            np.testing.assert_allclose(compiled(x), f(x), rtol=2e-4 if dtype is np.float32 else 1e-11, atol=1e-5)
    assert applied()


@needs_llvm
def test_what_masks_drop_stays_dropped(applied):
    def step(y: Any, _: Any) -> Any:
        safe = np.where(y[:, :1] > 0, y[:, :1], 1.0)
        root = np.where(y[:, :1] > 0, np.sqrt(safe), 0.0)
        for _ in range(6):
            root = np.where(y[:, 1:2] > 0, root, root * 0.5 + 0.1)
        return np.concatenate([root * 0.5, np.where(y[:, 1:3] > 1e300, 0.0, y[:, 1:3] * 0.5), y[:, 1:2] * 0.0], 1), None

    f = lambda y: mj.scan(step, y, None, 30)[0]
    x = data(19, np.float64)
    x[3], x[5, 1], x[7, 0], x[8, 2] = 0.0, np.inf, np.nan, np.nan
    compiled = mj.compile(f)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(compiled(x), f(x))
    assert applied()


# -- where there are none ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "f, x",
    [
        (lambda x: x[:, 0] @ np.ones((9, 9)) + x[:, 1], np.ones((9, 4))),  # samples that mix, in a large product
        (lambda x: np.tanh(x) * 2.0, np.ones((9, 4))),  # nothing is taken apart
        (lambda x: np.tanh(x @ np.ones((64, 64)))[:, 3] * x[:, 0], np.ones((9, 64))),  # a product for BLAS
        (lambda x: x[:, 0] * x[:, 1], np.ones((9, 4), complex)),
        (lambda x: x[:, 0] * x[:, 1], np.ones((9, 4), int)),
        (lambda x: np.sort(x, 1)[:, 0] * x[:, 0], np.ones((9, 4))),
        (lambda x: x[:, 0] * x[:, 1], np.ones((1, 4))),
        (lambda x: x[:, 0] * x[:, 1], np.ones((0, 4))),
    ],
)
def test_other_programs_stay_as_they_are(f, x):
    assert columns(record(f, (x,), {}).program) is None


@needs_llvm
@pytest.mark.parametrize("rounds, pays", [(1, False), (40, True)])
def test_columns_pay_where_more_is_computed_than_rearranged(monkeypatch, rounds, pays):
    asked: list[int] = []
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(executor, "columns", lambda program: asked.append(1))

    def f(x: Any) -> Any:
        for _ in range(rounds):
            x = np.concatenate([x[:, 1:] * 0.5, x[:, :1]], 1) * x[:, 1:2]
        return x

    mj.compile(f)(np.ones((500, 3)))
    assert bool(asked) == pays


@pytest.mark.parametrize("size", [0, 1])
def test_loops_over_no_sample_and_over_one(size):
    step, x = random_step(3), data(size, np.float64)
    f = lambda y: mj.scan(lambda y, _: (step(y), None), y, None, 30)[0]
    for function in (f, mj.jacobian(f)):
        np.testing.assert_allclose(mj.compile(function)(x), function(x), rtol=1e-11)
