"""Machine code under checks: nothing beyond its arrays is reached, and nothing depends on the order of the tiles."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import optree
import pytest
from functions import function_of_all_kinds, function_of_rarer_kinds
from programs import PROGRAMS as OF_BENCHMARKS
from programs import acrobot_step, axon_step, filtered, geodetic, kinetics, projection
from tiles import run, tile_everything

import minijac as mj
from minijac.program.cpu import executor, fusion, regions, tiling
from minijac.program.cpu.native import bound, checks, commands, llvm, products
from minijac.program.cpu.regions import NativeSchedule, Tiles

needs_llvm = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
RNG = np.random.default_rng(0)
W, V = RNG.normal(size=(4, 5)), RNG.normal(size=(5, 3))
N, TURN = 50, RNG.normal(size=(4, 4))


def loss(weights: Any, x: Any) -> Any:
    return np.square(np.tanh(x @ weights[0]) @ weights[1]).sum()


def in_single_or_double(f: Any) -> Any:
    return lambda x: f(*[w.astype(x.dtype) for w in (W, V)])(x)


PROGRAMS: dict[str, Any] = {
    "all kinds": in_single_or_double(function_of_all_kinds),
    "rarer kinds": function_of_rarer_kinds,
    "Jacobian": mj.jacobian(lambda x: np.tanh(x @ W.astype(x.dtype)) @ V.astype(x.dtype)),
    "Hessian": mj.hessian(lambda x: np.sin(np.tanh(x @ W.astype(x.dtype))).sum(1)),
    "gradient by weights": in_single_or_double(lambda *w: lambda x: mj.grad(loss)(list(w), x)),
    "sums over samples": lambda x: (x - x.mean(0)) / np.sqrt(np.square(x - x.mean(0)).mean(0) + 1e-3),
    "kinetics": mj.jacobian(lambda x: kinetics(np, np.concatenate([x, x[:, :2]], 1))),
    "geodetic": mj.jacobian(lambda x: geodetic(np, x[:, :3] + 6.4)),
    "steps of a scan": lambda x: mj.scan(lambda y, _: (np.tanh(y @ TURN.astype(x.dtype) + x), y.sum(1)), x, None, 9),
    "an axis of length zero": lambda x: np.sin(np.sin(x[:, :0] * 2)[:, :, None] * x[:, None]) + x[:, None],
}  # fmt: skip


@pytest.fixture(autouse=True)
def everything_is_tiled(monkeypatch):
    monkeypatch.setattr(checks, "CHECKED", False)
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(fusion, "WORTH", 0)
    monkeypatch.setattr(fusion, "LEAST", 0)


def normal(*shape: int) -> np.ndarray:
    """The same numbers in every test, whichever ran before."""
    return np.random.default_rng(1).normal(size=shape)


# -- the order of the tiles --------------------------------------------------------------------------------------------
def scheduled(compiled: Any, size: int, threads: int) -> list[Any]:
    """How its regions are carried out from now on."""
    (entry,) = compiled._entries.values()
    found = [each for bound_to in entry.executors for each in bound_to._tiles if isinstance(each, Tiles)]
    for tiles in found:
        tiles._schedule = tiles._scheduled(size, threads)
    return [tiles._schedule for tiles in found]


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in optree.tree_leaves(tree, namespace="minijac")]


def close(found: Any, expected: Any, dtype: Any) -> None:
    for y, z in zip(*(optree.tree_leaves(x, namespace="minijac") for x in (found, expected)), strict=True):
        np.testing.assert_allclose(
            y, z, rtol=3e-4 if dtype is np.float32 else 1e-11, atol=1e-4 if dtype is np.float32 else 1e-11
        )


@pytest.mark.parametrize("by", ["machine code", "calls"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PROGRAMS)
def test_results_are_the_same_to_the_last_bit_in_any_order_on_any_number_of_threads(monkeypatch, name, dtype, by):
    if by == "calls":
        monkeypatch.setattr(fusion, "ENABLED", False)
    elif not llvm.available():
        pytest.skip("llvmlite is not installed")
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(7, 1), arrays))
    f, x = PROGRAMS[name], normal(N, 4).astype(dtype)
    compiled = mj.compile(f)
    close(compiled(x), f(x), dtype)
    for size, numbers in ((7, (1, 2, 4)), (17, (3,))):
        monkeypatch.setattr(checks, "CHECKED", False)
        scheduled(compiled, size, 1)
        plain = bits(compiled(x))
        for threads, shuffled in product(numbers, (False, True)):
            monkeypatch.setattr(checks, "CHECKED", shuffled)
            monkeypatch.setattr(checks, "SEED", threads)
            for schedule in scheduled(compiled, size, threads):
                if isinstance(schedule, NativeSchedule) and not shuffled:
                    assert_apart(schedule)
            assert bits(compiled(x)) == plain


PRACTICE: dict[str, Any] = {
    "camera, 20,000": projection,
    "acrobot, one step": acrobot_step,
    "Kalman filter": lambda xp, x: filtered(xp, x, 1),
    "axon, 200 steps": axon_step,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PRACTICE)
def test_programs_of_practice_in_odd_tiles_on_1_2_and_4_threads(monkeypatch, name, dtype):
    tile_everything(monkeypatch, 3, 1)
    f, x = PRACTICE[name], OF_BENCHMARKS[name][1][:17].astype(dtype)
    J = mj.jacobian(lambda x: f(np, x))
    compiled, expected = mj.compile(J), J(x)
    assert expected.dtype == compiled(x).dtype
    for size, threads in ((3, 1), (7, 2), (5, 4)):
        scheduled(compiled, size, threads)
        error = np.abs(compiled(x) - expected).max() / np.abs(expected).max()
        assert error < (1e-4 if dtype is np.float32 else 1e-12)


def test_tiles_of_numpys_calls_are_shuffled_too(monkeypatch):
    monkeypatch.setattr(checks, "CHECKED", True)
    monkeypatch.setattr(fusion, "ENABLED", False)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(4, 1), arrays))
    seen = []
    watched = mj.ops.define_elementwise(
        "watched", lambda x: seen.append(x.flat[0]) or np.sin(x), lambda y, x: np.cos(x)
    )
    compiled = mj.compile(lambda x: watched(x * 2.0) + 1.0)
    x = np.arange(50.0)[:, None] * np.ones(3)
    for _ in range(2):
        seen.clear()
        np.testing.assert_array_equal(compiled(x), np.sin(x * 2.0) + 1.0)
        assert seen != sorted(seen)
        assert sorted(set(seen)) == [8.0 * t for t in range(13)]


def touched(command: Any, k: int, start: int = 0) -> np.ndarray:
    """The bytes of an operand that are read or written."""
    found = np.array([start])
    for size, stride in command.axes(command.table)[k]:
        found = np.add.outer(found, np.arange(size) * stride).ravel()
    return np.unique(found)


def is_written(command: Any, k: int) -> bool:
    return bool(k >= (len(command.arrays) - 1 if command._loop is None else command._loop.reads))


def assert_apart(schedule: NativeSchedule) -> None:
    """Tiles share no byte that one of them writes: of their own memory by threads, of what they are given by tiles."""
    rest = schedule._rest
    own: list[dict[int, bool]] = []  # of each thread: memory, and whether it is written
    owner: dict[int, np.ndarray] = {}  # of each array that is given, by bytes: the tile that writes
    read: list[tuple[int, int, np.ndarray]] = []
    for tile in (*schedule.executors, *([] if rest is None else [rest])):
        memory: dict[int, bool] = {}
        for command in tile._commands:
            given = parts_of(tile, command)
            for k, array in enumerate(command.arrays):
                if k not in given and len(touched(command, k)):
                    root = id(bound.whole(array))
                    memory[root] = memory.get(root, False) or is_written(command, k)
        own.append(memory)
    for n, memory in enumerate(own):
        for other in own[n + 1 :]:
            assert not any(memory[root] or other[root] for root in memory.keys() & other.keys())
    for t in range(schedule._count):
        tile = rest if rest is not None and t == schedule._count - 1 else schedule.executors[0]
        for command in tile._commands:
            for k, (slot, offset, step) in parts_of(tile, command).items():
                places = touched(command, k, offset + t * step)
                if not len(places):
                    continue
                if not is_written(command, k):
                    read.append((t, slot, places))
                    continue
                written = owner.get(slot, np.empty(0, int))
                owner[slot] = written = np.pad(written, (0, max(0, places[-1] + 1 - len(written))), constant_values=-1)
                assert np.isin(written[places], (-1, t)).all()
                written[places] = t
    for t, slot, places in read:
        written = owner.get(slot, np.empty(0, int))
        assert np.isin(written[places[places < len(written)]], (-1, t)).all()


def parts_of(tile: Any, command: Any) -> dict[int, tuple[int, int, int]]:
    """The operands of a command that are parts of what a tile is given: of what, from where, and how far per tile."""
    first = len(tile._table) - 4 * len(tile._commands)
    cells = (tile._table[2:first].reshape(-1, 4) - [command.addresses.ctypes.data, 0, 0, 0]).tolist()
    return {
        cell // 8: (slot, offset, step) for cell, slot, offset, step in cells if 0 <= cell < command.addresses.nbytes
    }


# -- what is reached ---------------------------------------------------------------------------------------------------
def wrong_loop(make: Any, columns: slice) -> Any:
    def made(*args: Any, **keywords: Any) -> Any:
        found = make(*args, **keywords)
        found.table[columns] *= 1000
        return found

    return made


PLANTS = {
    "loop": (executor, "bound", wrong_loop, lambda x: np.tanh(x[:, ::2]) * 2.0, r"loop\(.*tanh"),
    "copies": (commands, "bound", wrong_loop, lambda x: np.concatenate([x[:, ::2], x[:, :1]], 1), r"loop\("),
    "sum": (commands, "reduced", wrong_loop, lambda x: np.tanh(x).sum(1), "reduction"),
    "product": (commands, "multiplied", wrong_loop, lambda x: np.tanh(x @ W), "product"),
    "product by BLAS": (commands, "_by_blas", wrong_loop, lambda x: np.tanh(np.tile(x, (1, 20)) @ np.eye(80)), "gemm"),
}  # fmt: skip
COLUMNS = {"product": (slice(1, 2), slice(4, None)), "product by BLAS": (slice(2, 3), slice(5, 8))}
"""Of a table: what is a size, and what are strides; else the first one is a size, and strides follow it."""


@needs_llvm
@pytest.mark.parametrize("where", ["sizes", "strides"])
@pytest.mark.parametrize("name", PLANTS)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_number_too_large_in_a_table_is_caught_before_it_is_used(monkeypatch, name, where, mixed):
    module, function, wrong, f, what = PLANTS[name]
    monkeypatch.setattr(checks, "CHECKED", True)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(7, 2), arrays))
    columns = COLUMNS.get(name, (slice(1), slice(1, None)))[where == "strides"]
    inside = lambda x: f(x)
    if mixed:  # what is sorted is NumPy's
        monkeypatch.setattr(tiling, "WORTH", 1 << 60)
        monkeypatch.setattr(executor, "MANY", 0)
        inside = lambda x: np.sort(f(np.sort(x, 0)), 0)
    x = normal(N, 4)
    np.testing.assert_allclose(mj.compile(inside)(x), inside(x), rtol=1e-12)
    monkeypatch.setattr(module, function, wrong(getattr(module, function), columns))
    with pytest.raises(RuntimeError, match=rf"operand \d of {what}.* reaches .* outside"):
        mj.compile(inside)(x)


@needs_llvm
def test_a_loop_on_an_array_of_the_call_is_checked(monkeypatch):
    x, y = np.arange(40.0), np.empty(40)
    loop = bound.bound(x.dtype, x.shape, [("tanh({})", (0,), 1)], [((40,), x.dtype), y], 1)
    monkeypatch.setattr(checks, "CHECKED", True)
    loop(x)
    np.testing.assert_allclose(y, np.tanh(x), rtol=1e-15)
    for wrong in (x[:-1], x[::-1], np.repeat(x, 2)[::2][:20]):
        with pytest.raises(RuntimeError, match=r"operand 0 of loop\(tanh\({}\)\) reaches"):
            loop(wrong)


@needs_llvm
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_whole_vectors_of_too_few_entries_are_caught(monkeypatch, n):
    monkeypatch.setattr(checks, "CHECKED", True)
    x, y = np.ones(40), np.empty(40)
    long = bound.bound(x.dtype, x.shape, [("tanh({})", (0,), 1)], [x, y], 1)
    lanes = long._loop.lanes
    assert not long._loop.masked
    table = np.array([min(n, lanes - 1), 8, 8])
    for size in (lanes, min(n, lanes - 1)):
        arrays = [np.ones(size), np.empty(size)]
        addresses = np.array([a.ctypes.data for a in arrays])
        short = bound.Bound(long.function, addresses, table, arrays, long.axes, long._loop)
        if size == lanes:
            short()
        else:
            with pytest.raises(RuntimeError, match="reaches"):
                short()


@needs_llvm
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_of_more_rows_or_columns_than_there_are_are_caught(monkeypatch, dtype):
    monkeypatch.setattr(checks, "CHECKED", True)
    made = lambda m, n: products.multiplied(*(np.ones((1, *own), dtype) for own in ((m, 3), (3, n), (m, n))))
    long = made(6, 40)
    long()
    for m, n in ((5, 40), (6, 3), (1, 1)):
        own = made(m, n)
        own()
        with pytest.raises(RuntimeError, match="reaches"):
            bound.Bound(long.function, own.addresses, own.table, own.arrays, long.axes)()


@needs_llvm
def test_a_rest_that_is_left_to_numpy_is_no_whole_tile(monkeypatch):
    """The extremes of two rows of one entry are machine code, of one row they are NumPy's."""
    monkeypatch.setattr(checks, "CHECKED", True)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(2, 1), arrays))
    f = lambda x: np.sin(x.min(1)) * 2.0
    x = normal(3, 1)
    np.testing.assert_allclose(mj.compile(f)(x), f(x), rtol=1e-14)


@needs_llvm
def test_a_loop_over_nothing_reads_nothing(monkeypatch):
    """Rows that do not depend on the empty axis would be read outside of the loop over it."""
    monkeypatch.setattr(checks, "CHECKED", True)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(40, 2), arrays))
    f = lambda x, e: (np.tanh(x) * 2, np.sin(np.sin(e * 2)[:, :, None] * x[:, None]))
    for y, z in zip(*(g(np.ones((80, 3)), np.ones((80, 0))) for g in (mj.compile(f), f)), strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-14)
