"""Functions of loops against many digits, over the whole range of their type, and loops over arrays of any layout."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from functions import function_of_all_kinds, function_of_rarer_kinds
from tiles import run

import minijac as mj
from minijac.program.cpu import executor, fusion, regions, tiling
from minijac.program.cpu.native import bound, checks, commands, llvm, loops, products, streams
from minijac.program.cpu.native.functions import FUNCTIONS, LIMITS, ULPS

mpmath = pytest.importorskip("mpmath")
pytestmark = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
TYPES = [np.float32, np.float64]


def carried_out(spelling: str, *arrays: Any) -> Any:
    """One operation, on arrays of one shape and dtype."""
    out = np.empty(arrays[0].shape, arrays[0].dtype)
    step = (spelling, tuple(range(len(arrays))), len(arrays))
    bound.bound(out.dtype, out.shape, [step], [*arrays, out], 1)()
    return out


def entries(dtype: type, seed: int) -> Any:
    """Numbers of every size, each exponent as likely as the others; usual ones; and those at the ends."""
    random, limits = np.random.default_rng(seed), np.finfo(dtype)
    whole = np.dtype(f"u{limits.bits // 8}")
    any_bits = random.integers(0, np.iinfo(whole).max, 400, whole, endpoint=True).view(dtype)
    usual = np.concatenate([random.normal(size=100) * scale for scale in (0.1, 1.0, 10.0, 100.0)]).astype(dtype)
    ends = [0.0, np.inf, np.nan, limits.tiny, limits.smallest_subnormal, limits.tiny * 0.4, limits.max, 1.0]
    return np.concatenate([any_bits, usual, np.array([*ends, *(-x for x in ends)], dtype)])


EXACT = {
    "cos": mpmath.cos, "erf": mpmath.erf, "exp": mpmath.exp, "expm1": mpmath.expm1, "log": mpmath.log,
    "log1p": mpmath.log1p, "sin": mpmath.sin, "tanh": mpmath.tanh, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
    "arctan": mpmath.atan, "arcsin": mpmath.asin, "arccos": mpmath.acos,
    "tan": mpmath.tan, "expit": lambda x: 1 / (1 + mpmath.exp(-x)),
}  # fmt: skip


def expected_of(function: Any, x: float) -> Any:
    """With many digits; no number where it has none, or none that is real."""
    if np.isinf(x) and function in (mpmath.sin, mpmath.cos, mpmath.tan):
        return mpmath.nan
    try:
        found = function(mpmath.mpf(x))
    except ZeroDivisionError:
        return mpmath.nan
    return found if isinstance(found, mpmath.mpf) else mpmath.nan


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", [function.__name__ for function in ULPS])
def test_functions_are_right_to_a_few_units_in_the_last_place(name, dtype):
    x = entries(dtype, seed=len(name))
    if name.startswith("arc"):  # where polynomials meet they are furthest off
        x = np.concatenate([x, np.random.default_rng(0).uniform(-0.7, 0.7, 2000).astype(dtype)])
        x = np.concatenate([x, np.array([-0.44177, 0.56602, -0.41486], dtype)])
    found, ulps = carried_out(f"{name}({{}})", x), ULPS[FUNCTIONS[name]]
    with np.errstate(over="ignore"):
        for a, b in zip(x, found, strict=True):
            with mpmath.workprec(1200 if name in ("sin", "cos", "tan") and abs(a) > 1e9 else 140):
                exact = expected_of(EXACT[name], float(a))
            nearest = dtype(float(exact))
            if np.isfinite(nearest) and np.isfinite(b):
                assert abs(float(b - exact)) <= ulps * np.spacing(abs(nearest)), (a, b, nearest)
            else:
                np.testing.assert_array_equal(b, nearest, err_msg=f"{name}({a!r})")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["arcsin", "arctan", "exp", "expm1", "log1p", "sin", "sinh", "tan", "tanh", "erf"])
def test_zeros_keep_their_sign(name, dtype):
    zeros = np.array([0.0, -0.0] * 40, dtype)
    expected = np.ones_like(zeros) if name == "exp" else zeros
    np.testing.assert_array_equal(np.signbit(carried_out(f"{name}({{}})", zeros)), np.signbit(expected))


@pytest.mark.parametrize("dtype", TYPES)
def test_one_large_angle_leaves_the_others_as_they_are(dtype):
    x = np.linspace(-3, 3, 1000, dtype=dtype)
    alone = carried_out("sin({})", x)
    x[777] = 4 * LIMITS[dtype is np.float64]
    beside = carried_out("sin({})", x)
    np.testing.assert_array_equal(np.delete(alone, 777), np.delete(beside, 777))
    np.testing.assert_allclose(beside[777], np.sin(x[777].astype(np.longdouble)).astype(dtype), rtol=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
def test_angles_of_points_are_right_to_a_few_units_in_the_last_place(dtype):
    """All quarters of the plane; on the axes, at zero and infinity they are NumPy's."""
    y, x = (entries(dtype, seed)[np.random.default_rng(seed).permutation(816)] for seed in (1, 2))
    for a, b, found in zip(y, x, carried_out("arctan2({}, {})", y, x), strict=True):
        if 0 < abs(a) < np.inf and 0 < abs(b) < np.inf:
            with mpmath.workprec(200):
                exact = mpmath.atan2(mpmath.mpf(float(a)), mpmath.mpf(float(b)))
            if abs(exact) > np.finfo(dtype).tiny:
                assert abs(float(found - exact)) <= 3.0 * np.spacing(abs(dtype(float(exact)))), (a, b)
    ends = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 2.0, -3.0], dtype)
    y, x = (z.ravel() for z in np.meshgrid(ends, ends))
    found, expected = carried_out("arctan2({}, {})", y, x), np.arctan2(y, x)
    np.testing.assert_allclose(found, expected, rtol=2 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(np.signbit(found[~np.isnan(found)]), np.signbit(expected[~np.isnan(found)]))


@pytest.mark.parametrize("dtype", TYPES)
def test_powers_are_right_to_a_few_units_in_the_last_place(dtype):
    random = np.random.default_rng(0)
    bases = np.exp(random.uniform(-80, 80, 3000)).astype(dtype)
    bases[::3] = random.uniform(0.5, 2.0, 1000)
    exponents = (random.uniform(-1, 1, 3000) * (85 if dtype is np.float32 else 700) / np.abs(np.log(bases))).astype(
        dtype
    )
    for x, y, found in zip(bases, exponents, carried_out("power({}, {})", bases, exponents), strict=True):
        with mpmath.workprec(200):
            exact = mpmath.mpf(float(x)) ** mpmath.mpf(float(y))
        if np.finfo(dtype).tiny < exact < np.finfo(dtype).max:
            assert abs(float(found - exact)) <= 1.5 * np.spacing(dtype(float(exact))), (x, y)


@pytest.mark.parametrize("dtype", TYPES)
def test_powers_at_the_ends_are_numpys(dtype):
    ends = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e-40, 2.5]
    x, y = (each.ravel().copy() for each in np.meshgrid(np.array(ends, dtype), np.array(ends, dtype)))
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    found = carried_out("power({}, {})", x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype is np.float32 else 1e-15)
    kept = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found)[kept], np.signbit(expected)[kept])


def test_sums_of_exponentials_are_numpys():
    x = np.array([0.0, -0.0, 1.0, -2.0, 700.0, -800.0, np.inf, -np.inf, np.nan])
    a, b = (each.ravel().copy() for each in np.meshgrid(x, x))
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(carried_out("logaddexp({}, {})", a, b), np.logaddexp(a, b), rtol=1e-14, atol=1e-15)


# -- layouts -----------------------------------------------------------------------------------------------------------
LAYOUTS = {
    "as it is": lambda x: x.copy(),
    "one for all": lambda x: x[:1, :1, :1],
    "one for each row": lambda x: x[:, :, :1],
    "one row": lambda x: x[0, 0],
    "reversed": lambda x: x[::-1, :, ::-1],
    "transposed": lambda x: np.asfortranarray(x),
    "every other": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "middle": lambda x: x[:, :1],
}


@pytest.mark.parametrize("last", [1, 3, 16, 17, 70])
@pytest.mark.parametrize("dtype", TYPES)
def test_any_layout_and_length(dtype, last):
    """All entries are written, and nothing beside them."""
    random = np.random.default_rng(last)
    for name, first in LAYOUTS.items():
        for second in LAYOUTS.values():
            x, y = (random.normal(size=(3, 4, last)).astype(dtype) for _ in range(2))
            a, b = first(x), second(y)
            around = np.full((5, 4, last), 7.0, dtype)
            truth = np.full((5, 4, last), 2, np.uint8)
            steps = [("({} * {})", (0, 1), 2), ("({} < {})", (2, 0), 3)]
            with np.errstate(all="ignore"):
                bound.bound(np.dtype(dtype), (3, 4, last), steps, [a, b, around[1:4], truth[1:4].view(bool)], 2)()
                np.testing.assert_array_equal(around[1:4], np.broadcast_to(a * b, (3, 4, last)), err_msg=name)
                np.testing.assert_array_equal(truth[1:4], np.broadcast_to(a * b < a, (3, 4, last)), err_msg=name)
            assert np.all(around[[0, 4]] == 7.0) and np.all(truth[[0, 4]] == 2)


def test_truth_values_are_read_with_any_layout():
    condition = np.random.default_rng(0).normal(size=(40, 30)) > 0
    x, y = np.random.default_rng(1).normal(size=(2, 40, 30))
    for c in (condition, np.asfortranarray(condition), condition[:, :1], condition[0], condition[:, ::-1]):
        out = np.empty((40, 30))
        bound.bound(out.dtype, out.shape, [("where({}, {}, {})", (0, 1, 2), 3)], [c, x, y, out], 1)()
        np.testing.assert_array_equal(out, np.where(c, x, y))


@pytest.mark.parametrize("checked", [False, True])
def test_no_entries(monkeypatch, checked):
    monkeypatch.setattr(checks, "CHECKED", checked)
    for shape in ((0,), (3, 0), (0, 3), (0, 100)):
        bound.bound(np.dtype(float), shape, [("exp({})", (0,), 1)], [np.empty(shape), np.empty(shape)], 1)()


def test_arithmetic_is_not_contracted():
    """a b - c d is zero where both products are equal, as in NumPy."""
    a, b = np.random.default_rng(0).normal(size=(2, 1000))
    found = carried_out("(({0} * {1}) - ({1} * {0}))", a, b)
    np.testing.assert_array_equal(found, 0.0)
    c = np.random.default_rng(1).normal(size=1000)
    np.testing.assert_array_equal(carried_out("(({} * {}) + {})", a, b, c), a * b + c)


def test_equal_parts_are_computed_once():
    operands = (loops.Operand("d", "1", False),) * 2
    once, twice = (
        loops.text_of(loops.Loop(np.dtype(float), ((spelling, (0,), 1),), operands, 1, 8, False))
        for spelling in ("exp({})", "(exp({0}) * exp({0}))")
    )
    assert len(twice.splitlines()) - len(once.splitlines()) == 1


def test_a_program_with_all_of_them(monkeypatch):
    monkeypatch.setattr(fusion, "WORTH", 0)
    monkeypatch.setattr(fusion, "LEAST", 0)
    f = lambda x: mj.nn.softplus(x) * mj.nn.sigmoid(x) + np.log1p(x * x) * np.expm1(-np.abs(x)) + mj.nn.silu(np.cos(x))
    x = np.random.default_rng(0).normal(size=(20, 3)) * 5
    compiled = mj.compile(mj.jacobian(f))
    np.testing.assert_allclose(compiled(x), mj.jacobian(f)(x), rtol=1e-13, atol=1e-14)
    assert "LLVM" in compiled.source(x)


# -- regions -----------------------------------------------------------------------------------------------------------
def test_expansions_and_truth_values_in_a_region(monkeypatch):
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(checks, "CHECKED", True)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(16, 2), arrays))
    x = np.random.default_rng(0).normal(size=(50, 6))
    x[3] = 0.0
    x[4, 1], x[5, 0], x[6, 2] = np.nan, np.inf, -np.inf
    compiled = mj.compile(function_of_rarer_kinds)
    with np.errstate(all="ignore"):
        for found, expected in zip(compiled(x), function_of_rarer_kinds(x), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


def native_of(compiled: Any, *args: Any) -> int:
    return int(compiled.source(*args).count("# machine code"))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size, threads", [(1, 1), (7, 2), (16, 4), (50, 1), (64, 3)])
@pytest.mark.parametrize("checked", [False, True])
def test_regions_at_any_size_and_number_of_threads(monkeypatch, dtype, size, threads, checked):
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(checks, "CHECKED", checked)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(size, threads), arrays))
    random = np.random.default_rng(0)
    x, W, V = (random.normal(size=shape).astype(dtype) for shape in ((50, 4), (4, 5), (5, 3)))
    f = function_of_all_kinds(W, V)
    compiled = mj.compile(f)
    with np.errstate(all="ignore"):
        for arguments in (x, x * 2, np.asfortranarray(x), x[::-1]):
            for found, expected in zip(compiled(arguments), f(arguments), strict=True):
                np.testing.assert_allclose(found, expected, rtol=3e-5 if dtype is np.float32 else 1e-12, atol=1e-5)
    assert native_of(compiled, x)


def test_large_angles_in_a_region(monkeypatch):
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(8, 2), arrays))
    x = np.random.default_rng(0).normal(size=(50, 4))
    f = lambda x: np.sin(x * 3.0) + np.cos(x)
    compiled = mj.compile(f)
    for place in (0, 17, 49):
        x[place] *= 1e15
        np.testing.assert_allclose(compiled(x), f(x), rtol=1e-13, atol=1e-15)
    assert native_of(compiled, x)


# -- zeros past the caches ---------------------------------------------------------------------------------------------
def test_zeros_are_written_where_they_belong_and_nowhere_else():
    """Wherever an array begins and ends within a cache line."""
    memory = np.empty(4 * bound.LINE, np.uint8)
    for start, size in itertools.product(range(bound.LINE), range(0, 3 * bound.LINE, 3)):
        memory[:] = 7
        streams.zeroed(memory[start : start + size])()
        expected = np.full(memory.shape, 7, np.uint8)
        expected[start : start + size] = 0
        np.testing.assert_array_equal(memory, expected)


BANDS = {
    "diagonal": lambda x: np.sin(x) * np.exp(-x * x),
    "three bands": lambda x: np.pad(x, ((0, 0), (1, 1)))[:, 2:] * x - np.pad(x, ((0, 0), (1, 1)))[:, :-2],
    "around the end": lambda x: np.tanh(x) * np.roll(x, 1, 1) + np.sin(x),
}


def zeros_of(compiled: Any) -> int:
    """Commands of a compiled function that write zeros past the caches."""
    (entry,) = compiled._entries.values()
    plans = [tiles._schedule for tiles in entry.executors[0]._tiles]
    return sum(repr(each).startswith("zeros") for plan in plans for each in plan.executors[0]._commands)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size, threads", [(1, 1), (7, 2), (50, 1)])
@pytest.mark.parametrize("name", BANDS)
def test_what_no_cache_holds_is_the_same(monkeypatch, dtype, size, threads, name):
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "STREAMED", 1 << 14)
    monkeypatch.setattr(checks, "CHECKED", True)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(size, threads), arrays))
    x = np.random.default_rng(0).normal(size=(50, 33)).astype(dtype)
    transform = mj.jacobian(BANDS[name])
    compiled, expected = mj.compile(transform), transform(x)
    for _ in range(3):
        found = compiled(x)
        np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype is np.float32 else 1e-12, atol=1e-6)
        found[...] = np.nan  # in memory that the next call has again
        del found
    assert zeros_of(compiled) == 1


@pytest.mark.parametrize("constant", [0.0, -0.0, 1.5])
@pytest.mark.parametrize("width", [1, 300])
def test_only_zeros_among_which_little_is_written_go_past_the_caches(monkeypatch, constant, width):
    """What is read again from memory, and is not zero to the last bit, does not."""
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "STREAMED", 1 << 14)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(8, 2), arrays))
    x = np.random.default_rng(0).normal(size=(50, 33)).astype(np.float32)
    f = lambda x: np.pad(x * 2, ((0, 0), (width, 0)), constant_values=constant)
    compiled = mj.compile(f)
    found = compiled(x)
    np.testing.assert_array_equal(found, f(x))
    np.testing.assert_array_equal(np.signbit(found), np.signbit(f(x)))
    assert zeros_of(compiled) == (width == 300 and not constant and not np.signbit(constant))


def test_a_table_that_is_wrong_is_caught_before_it_is_used(monkeypatch):
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(8, 1), arrays))
    compiled = mj.compile(mj.jacobian(lambda x: np.tanh(x @ np.ones((4, 5))).sum(1)))
    x = np.ones((50, 4))
    compiled(x)
    monkeypatch.setattr(checks, "CHECKED", True)
    compiled(x)
    (entry,) = compiled._entries.values()
    for k in range(3):
        command = entry.executors[0]._tiles[0]._schedule.executors[0]._commands[k]
        command.table[command.table > 0] *= 100
        with pytest.raises(RuntimeError, match="reaches"):
            compiled(x)
        compiled(x)  # by another set of buffers


PRODUCTS = [
    ((7, 5), (5, 3)), ((4, 7, 5), (5, 3)), ((4, 7, 5), (4, 5, 3)), ((7, 5), (4, 5, 3)), ((2, 4, 7, 5), (4, 5, 3)),
    ((2, 1, 7, 5), (1, 4, 5, 3)), ((5,), (5, 3)), ((7, 5), (5,)), ((4, 7, 5), (5,)), ((1, 5), (5, 1)),
    ((4, 1, 5), (4, 5, 1)),
]  # fmt: skip


BY = {"its size": products.worthwhile, "machine code": lambda a, b: True, "BLAS": lambda a, b: False}


@pytest.mark.parametrize("a, b", PRODUCTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("by", BY)
def test_products_of_any_shape_and_layout(monkeypatch, a, b, dtype, by):
    monkeypatch.setattr(commands, "worthwhile", BY[by])
    random = np.random.default_rng(0)
    layouts = [np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, -1)[..., ::2], lambda x: x[..., ::-1]]
    for first in layouts:
        for second in layouts:
            x, y = first(random.normal(size=a).astype(dtype)), second(random.normal(size=b).astype(dtype))
            out = np.empty(np.matmul(x, y).shape, dtype)
            written = commands.Commands(regions.blas().libraries())
            written._product(x, y, out)
            for command in written.commands:
                command()
            np.testing.assert_allclose(out, np.matmul(x, y), rtol=1e-5, atol=1e-5)


SIDES = [*range(1, 10), 15, 16, 17, 24, 33]
OPERANDS: dict[str, Any] = {
    "in rows": lambda x: np.ascontiguousarray(x),
    "in columns": lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
    "with gaps": lambda x: np.repeat(np.repeat(x, 2, 1), 3, 2)[:, ::2, ::3],
    "turned round": lambda x: np.ascontiguousarray(x[:, ::-1, ::-1])[:, ::-1, ::-1],
    "one for all": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("first", OPERANDS)
def test_small_products_are_within_rounding_and_touch_nothing_beside(monkeypatch, first, n, dtype):
    monkeypatch.setattr(checks, "CHECKED", True)
    random, eps = np.random.default_rng(n), np.finfo(dtype).eps
    for m, k, stack in [*itertools.product(SIDES, (1, 2, 3, 8), (1,)), (3, 3, 5), (8, 5, 2), (1, 40, 3), (13, 33, 2)]:
        a, b = (random.normal(size=(stack, *shape)).astype(dtype) for shape in ((m, k), (k, n)))
        around = np.full((stack, m + 1, n + 3), np.nan, dtype)
        a, b, out = OPERANDS[first](a), np.repeat(b, 2, 1)[:, ::2] if m % 2 else b, around[:, :-1, :-3]
        products.multiplied(a, b, out)()
        exact, size = a.astype(np.longdouble) @ b, np.abs(a) @ np.abs(b)
        assert (np.abs(out - exact) <= k * eps * size).all(), (m, k, stack)
        assert np.isnan(around[:, -1]).all() and np.isnan(around[:, :, -3:]).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("m", range(1, 18))
def test_products_by_one_or_two_columns_are_within_rounding_and_touch_nothing_beside(monkeypatch, m, dtype):
    monkeypatch.setattr(checks, "CHECKED", True)
    random, eps = np.random.default_rng(m), np.finfo(dtype).eps
    for n, k, stack in itertools.product((1, 2), (127, 128, 131), (1, 3)):
        a, b = (random.normal(size=(stack, *shape)).astype(dtype) for shape in ((m, k), (k, n)))
        around = np.full((stack, m + 1, n + 3), np.nan, dtype)
        b, out = OPERANDS["in columns"](b), around[:, :-1, :-3]
        assert products.along(a, b)
        products.multiplied(a, b, out)()
        exact, size = a.astype(np.longdouble) @ b, np.abs(a) @ np.abs(b)
        assert (np.abs(out - exact) <= k * eps * size).all(), (m, k, stack)
        assert np.isnan(around[:, -1]).all() and np.isnan(around[:, :, -3:]).all()


def test_products_of_few_terms_are_machine_code_but_where_lines_meet_in_a_cache(monkeypatch):
    monkeypatch.setattr(products, "vector_bytes", lambda: 32)
    made = lambda k, n: (np.ones((1, 700, k), np.float32), np.ones((1, k, n), np.float32))
    assert products.worthwhile(*made(32, 700))
    assert not products.worthwhile(*made(33, 700))
    assert not products.worthwhile(*made(32, 512))
    a, b = made(32, 700)
    assert products.worthwhile(OPERANDS["in columns"](a), b)
    assert not products.worthwhile(a, OPERANDS["in columns"](b))


@pytest.mark.parametrize("k, n", [(3, 5), (131, 2)])
def test_a_product_that_goes_beyond_its_arrays_is_caught_before_it_does(monkeypatch, k, n):
    monkeypatch.setattr(checks, "CHECKED", True)
    a, b, out = (np.ones(shape) for shape in ((2, 7, k), (2, k, n), (2, 7, n)))
    b = OPERANDS["in columns"](b) if n == 2 else b
    assert products.along(a, b) == (n == 2)
    for place in {*range(11)} - (
        {6} if n == 2 else set()
    ):  # sizes and strides, but for one that is known to be an entry
        command = products.multiplied(a, b, out)
        command.table[place] *= 2
        with pytest.raises(RuntimeError, match="reaches"):
            command()


@pytest.mark.parametrize("a, b", [((0, 3), (3, 4)), ((5, 0), (0, 4)), ((5, 3), (3, 0)), ((0, 3, 3), (0, 3, 3))])
def test_products_over_nothing_are_numpys(a, b):
    compiled = mj.compile(lambda x, y: np.tanh(x @ y) + 1.0)
    x, y = np.ones(a), np.ones(b)
    np.testing.assert_array_equal(compiled(x, y), np.tanh(x @ y) + 1.0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size, threads", [(1, 1), (7, 2), (16, 3)])
@pytest.mark.parametrize("checked", [False, True])
def test_jacobians_of_small_products_of_each_sample(monkeypatch, dtype, size, threads, checked):
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(checks, "CHECKED", checked)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(size, threads), arrays))
    seen = []
    monkeypatch.setattr(commands, "multiplied", lambda *given: seen.append(given) or products.multiplied(*given))
    W = np.random.default_rng(1).normal(size=(3, 5)).astype(dtype)

    def f(x):
        frames = np.sin(x[:, :, None] * W[:, :3])
        return np.tanh((frames @ np.swapaxes(np.cos(frames), 1, 2)) @ W)

    x = np.random.default_rng(0).normal(size=(50, 3)).astype(dtype)
    compiled, expected = mj.compile(mj.jacobian(f)), mj.jacobian(f)(x)
    for _ in range(2):
        np.testing.assert_allclose(compiled(x), expected, rtol=2e-4 if dtype is np.float32 else 1e-12, atol=1e-5)
    assert seen and native_of(compiled, x)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape", [(5,), (40,), (7, 50), (50, 7), (20, 33, 3), (2, 3, 4, 5), (1, 6), (6, 1), (33, 1, 20)]
)
def test_reductions_along_any_axes(shape, dtype):
    base = np.random.default_rng(0).normal(size=shape).astype(dtype)
    odd = base.copy()
    odd.flat[0] = np.nan
    for x in (base, base.T, base[::-1], np.repeat(base, 2, -1)[..., ::2], odd):
        for function in (np.add, np.maximum, np.minimum):
            for axes in [(0,), (x.ndim - 1,), tuple(range(x.ndim)), tuple(range(1, x.ndim))]:
                out = np.empty(function.reduce(x, axes).shape, dtype)
                written = commands.Commands(())
                written(function.reduce, *(x, axes, None, out))
                for command in written.commands:
                    command()
                np.testing.assert_allclose(out, function.reduce(x, axes), rtol=1e-5, atol=1e-5)


ENDS = """
import gc
from minijac.program.cpu.native.llvm import compiled

text = "define i32 @f(ptr %a, ptr %b) {{\\n ret i32 {}\\n}}\\n"
for _ in range(2):
    functions = [compiled(text.format(k), "f", 2) for k in range(50)]
    assert functions[7].call(None, None) == 7
    more = [compiled(text.format(k), "f", 2) for k in range(50, 60)]
    assert [function.call(None, None) for function in (*more, *functions)] == [*range(50, 60), *range(50)]
    compiled.cache_clear()
    del more[1:], functions[1:]
    gc.collect()
    assert (more[0].call(None, None), functions[0].call(None, None)) == (50, 0)
    del more
    del functions
    gc.collect()
"""


def test_functions_that_wait_are_made_as_one_module(monkeypatch):
    from llvmlite import binding

    modules, parse = [], binding.parse_assembly
    monkeypatch.setattr(binding, "parse_assembly", lambda text: modules.append(text) or parse(text))
    llvm.compiled.cache_clear()
    bound.function_of.cache_clear()
    x, out = np.linspace(-2.0, 2.0, 40), [np.empty(40) for _ in range(3)]
    spellings = ["exp({})", "sin({})", "exp({} * {})"]
    loops = [bound.bound(x.dtype, x.shape, [(s, (0, 0), 1)], [x, y], 1) for s, y in zip(spellings, out, strict=True)]
    assert not modules
    for loop in loops:
        loop()
    assert len(modules) == 1
    for found, expected in zip(out, (np.exp(x), np.sin(x), np.exp(x * x)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)


def test_machine_code_ends_with_the_last_of_the_functions_that_were_made_together():
    """In a process of its own: what is freed twice ends it."""
    subprocess.run([sys.executable, "-c", ENDS], check=True)


def test_what_is_numpys_to_do_is_tried_once_and_nothing_is_compiled_for_it(monkeypatch):
    """Here the length of a vector, behind a loop; each tile size has the same steps."""
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "SMALL", 0)
    waiting, tile = [], executor.NativeBinding.tile

    def noted(*args):
        before = len(llvm._WAITING)
        try:
            return tile(*args)
        finally:
            waiting.append(len(llvm._WAITING) - before)

    monkeypatch.setattr(executor.NativeBinding, "tile", noted)
    native_tile, left = executor.native_tile, []

    def tried(*args):
        found = native_tile(*args)
        left.append(len(llvm._WAITING))
        return found

    monkeypatch.setattr(executor, "BINDERS", executor.BINDERS._replace(native=tried))
    bound.function_of.cache_clear()
    llvm.compiled.cache_clear()
    x = np.random.default_rng(0).normal(size=(64, 3))
    llvm._WAITING.clear()
    f = mj.compile(lambda x: np.hypot(np.sin(x) * np.exp(x), np.cos(x)))
    np.testing.assert_allclose(f(x), np.hypot(np.sin(x) * np.exp(x), np.cos(x)), rtol=1e-12)
    assert waiting == [1]
    assert left == [0]
