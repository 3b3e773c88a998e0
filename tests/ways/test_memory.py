"""Bounded memory: `max_bytes` is met by working through what was recorded by seeds and by samples."""

from __future__ import annotations

import gc
import re
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import digits as example
import numpy as np
import pytest
from helpers import close, random

import minijac as mj
import minijac.scipy.linalg as sl
import minijac.scipy.signal as ss
from minijac.accumulation.recording import prepare
from minijac.arguments import Options, flatten
from minijac.memo import Memo
from minijac.ops import edges
from minijac.ways import memory
from minijac.ways.memory import ways

BOOKKEEPING = 700_000
"""What Python's own objects and the caches of plans may take beside the arrays."""


def peak_beside(f: Callable[[], Any], result_bytes: Callable[[Any], int] = lambda J: J.nbytes) -> tuple[int, Any]:
    """The most memory that `f` holds at once beside its result, and the result."""
    gc.collect()
    tracemalloc.start()
    try:
        result = f()
        return tracemalloc.get_traced_memory()[1] - result_bytes(result), result
    finally:
        tracemalloc.stop()


def mlp(*sizes: int, activation: Callable = np.tanh, dtype: Any = np.float64) -> Callable:
    weights = [random(*pair, seed=k, dtype=dtype) / pair[0] ** 0.5 for k, pair in enumerate(pairwise(sizes))]

    def f(x: Any) -> Any:
        for w in weights:
            x = activation(x @ w + 0.1)
        return x

    return f


K1, K2 = random(8, 1, 3, 3, seed=1, dtype=np.float32), random(8, 8, 3, 3, seed=2, dtype=np.float32)
HEAD = random(8 * 16 * 16, 10, seed=3, dtype=np.float32)


def digits(x: Any) -> Any:
    """x: (B, 1, 16, 16) -> (B, 10)."""
    h = np.maximum(mj.nn.conv2d(x, K1, padding=1), 0)
    h = np.tanh(mj.nn.conv2d(h, K2, padding=1))
    return h.reshape(len(x), -1) @ HEAD


def burgers(u: Any) -> Any:
    p = np.pad(u, ((0, 0), (1, 1)))
    return -u * (p[:, 2:] - p[:, :-2]) / 0.2 + 0.01 * (p[:, 2:] - 2.0 * u + p[:, :-2]) / 0.01


SHARED = random(120, 80, seed=4)


def shared_stencil(u: Any) -> Any:
    return np.tanh(u[:, 4:] + 0.5 * u[:, 2:-2] - u[:, :-4]) @ SHARED


CASES: dict[str, tuple[Callable, np.ndarray]] = {
    "mlp": (mlp(100, 100, 100, 100), random(96, 100)),
    "relu": (mlp(100, 200, 300, 50, activation=lambda x: np.maximum(x, 0.0)), random(64, 100)),
    "digits": (digits, random(16, 1, 16, 16, dtype=np.float32)),
    "digits example": (partial(example.scores, example.start(np.random.default_rng(0))), random(1797, 64)),
    "burgers": (burgers, random(256, 256)),
    "shared stencil": (shared_stencil, random(96, 124)),
}
cases = pytest.mark.parametrize("f, x", CASES.values(), ids=CASES.keys())


# --- the estimate -----------------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize(
    "mode, chunk_size", [("forward", None), ("forward", 16), ("reverse", None), ("reverse", 16), ("mixed", None)]
)
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(f, x, mode, chunk_size):
    options = Options(mode=mode, chunk_size=chunk_size)
    ready = prepare(f, (x,), {}, options)
    chosen = next(way for way in ways(ready, (x,), options) if way.plan.mode == mode)
    estimate = chosen.peak_bytes
    del ready
    mj.jacobian(f, mode=mode, chunk_size=chunk_size)(x)
    Memo.clear_all()  # the estimate is of an accumulation that is carried out, as under max_bytes
    measured, _ = peak_beside(lambda: mj.jacobian(f, mode=mode, chunk_size=chunk_size)(x))
    objects = 200_000  # of Python, which are not counted
    assert 0.75 * (measured - objects) <= estimate <= 1.25 * measured


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, mode, bound",
    [
        (name, mode, bound)
        for name in ("mlp", "relu", "shared stencil", "digits example")
        for mode in ("forward", "reverse", "mixed", "auto")
        for bound in (4_000_000, 6_000_000)
    ]
    + [("digits", "reverse", 6_000_000), ("digits", "auto", 6_000_000)],
)
def test_the_peak_beside_inputs_and_result_is_within_the_bound(name, mode, bound):
    f, x = CASES[name]
    free = mj.jacobian(f, mode=mode)(x)
    peak, J = peak_beside(lambda: mj.jacobian(f, mode=mode, max_bytes=bound)(x))
    assert peak <= bound + BOOKKEEPING
    close(J, free, rtol=1e-4 if J.dtype == np.float32 else 1e-10, atol=1e-5 if J.dtype == np.float32 else 1e-11)


def test_a_bound_that_cannot_be_met_is_told_with_the_least_that_can():
    f, x = CASES["digits"]
    with pytest.raises(mj.InputError, match=r"Give it max_bytes=[\d,]+ or more") as caught:
        mj.jacobian(f, mode="reverse", max_bytes=3_600_000)(x)
    least = int(re.search(r"Give it max_bytes=([\d,]+)", str(caught.value))[1].replace(",", ""))
    peak, J = peak_beside(lambda: mj.jacobian(f, mode="reverse", max_bytes=least)(x))
    assert peak <= least + BOOKKEEPING
    close(J, mj.jacobian(f)(x), rtol=1e-4, atol=1e-5)


def test_a_wide_network_stays_within_256_mib():
    f, x = mlp(2048, 4096, 2048, dtype=np.float32), random(2, 2048, dtype=np.float32)
    bound = 48 * 2**20
    peak, J = peak_beside(lambda: mj.jacobian(f, max_bytes=bound)(x))
    assert J.shape == (2, 2048, 2048) and J.dtype == np.float32
    assert peak <= bound + BOOKKEEPING


def test_a_wide_network_of_32_samples_stays_within_half_of_its_result():
    f, x = mlp(1024, 2048, 1024, dtype=np.float32), random(32, 1024, dtype=np.float32)
    bound = 64 * 2**20
    peak, J = peak_beside(lambda: mj.jacobian(f, max_bytes=bound)(x))
    assert J.shape == (32, 1024, 1024)
    assert peak <= bound + BOOKKEEPING


def test_a_hessian_stays_within_the_bound():
    f, x = (lambda x: mlp(24, 24, 24)(x).sum(axis=1)), random(64, 24)
    free = mj.hessian(f)(x)
    bound = 2_000_000
    peak, H = peak_beside(lambda: mj.hessian(f, max_bytes=bound)(x))
    assert peak <= bound + BOOKKEEPING
    close(H, free)
    y, H = mj.value_and_hessian(f, max_bytes=bound)(x)
    close(y, f(x))
    close(H, free)


BY_MAPS: dict[str, Callable] = {
    "cholesky": lambda x: np.linalg.cholesky(x @ np.swapaxes(x, 1, 2) + np.eye(3)),
    "sqrtm": lambda x: sl.sqrtm(0.1 * x + 3.0 * np.eye(3)),
    "sylvester": lambda x: sl.solve_sylvester(x + 9.0 * np.eye(3), np.eye(3) + 0.0 * mj.stop_gradient(x), np.sin(x)),
    "eigenvectors": lambda x: np.linalg.eigh(x + np.swapaxes(x, 1, 2))[1],
    "filtered": lambda x: ss.lfilter([1.0], [1.0, 0.5], np.sin(x)),
    "summed up": lambda x: np.cumsum(np.sin(x), 1),
}
"""Operations whose derivative is a linear map that is no block."""


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("f", BY_MAPS.values(), ids=BY_MAPS)
def test_linear_maps_are_given_each_sample_once_in_all_pieces_together(f, mode, monkeypatch):
    """And not all of them in each piece."""
    given: list[int] = []

    def counted(how: Any, x: Any) -> Any:
        given.append(x.size if isinstance(x, np.ndarray) else 0)
        return carried_out(how, x)

    carried_out = edges._Map.__call__
    monkeypatch.setattr(edges._Map, "__call__", counted)
    x, counts = random(60, 3, 3), []
    least = least_bound(f, x, mode=mode)
    for bound in (10**9, 2 * least, least):
        given.clear()
        J = mj.jacobian(f, mode=mode, max_bytes=bound)(x)
        counts.append((sum(given), len(given)))
        close(J, mj.jacobian(f, mode=mode)(x))
    (once, _), (few, some), (one_by_one, most) = counts
    assert most > some >= 1 and most >= 60
    at_most = max(once, 9 * x.size)  # some are given what is alike for all samples: once for all, or in each piece
    assert once > 0 and few <= at_most and one_by_one <= at_most


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("f", [BY_MAPS[name] for name in BY_MAPS if name != "sylvester"])  # SciPy's takes a minute
def test_the_peak_is_within_the_bound_where_a_derivative_is_a_linear_map(f, mode):
    x = random(1500, 3, 3)
    bound = int(1.5 * least_bound(f, x, mode=mode))
    Memo.clear_all()
    peak, J = peak_beside(lambda: mj.jacobian(f, mode=mode, max_bytes=bound)(x))
    assert peak <= bound + BOOKKEEPING
    close(J, mj.jacobian(f, mode=mode)(x))


# --- what a bounded function sees and returns -------------------------------------------------------------------------


def least_bound(f: Callable, x: Any, **options: Any) -> int:
    """The bound that the error names."""
    with pytest.raises(mj.InputError) as error:
        mj.jacobian(f, max_bytes=1, **options)(x)
    return int(str(error.value).split("Give it max_bytes=")[1].split(" ")[0].replace(",", ""))


V = random(4, 1, 1, seed=7)
WHOLE_BATCH: dict[str, Callable] = {
    "a mean without derivative": lambda x: (x - mj.stop_gradient(x.mean(0))) ** 2 @ np.ones((3, 200)),
    "divided by the number of samples": lambda x: np.sin(x) @ np.ones((3, 200)) / len(x),
    "positions of samples": lambda x: np.tanh(x * np.arange(len(x))[:, None]) @ np.ones((3, 100)),
    "a median": lambda x: (x * np.median(mj.stop_gradient(x), axis=0)) ** 2 @ np.ones((3, 100)),
    "a captured row for each sample": lambda x: np.tanh(x @ np.ones((3, 50))) * ROWS,
    "samples on the second axis": lambda x: np.exp(V * x.reshape(1, len(x), 3))[0] @ np.ones((3, 100)),
    "samples last": lambda x: (np.ones((100, 3)) @ np.sin(x.T)).T,
    "samples merged": lambda x: np.tanh(np.exp(x).reshape(-1, 1) @ np.ones((1, 40))).reshape(len(x), 3, 40) * 2.0,
    "an einsum of samples": lambda x: (
        np.einsum("bi,bj->bij", np.sin(x), np.cos(x)).reshape(len(x), 9) @ np.ones((9, 90))
    ),
    "a dropped branch": lambda x: np.where(x > 0, np.log(np.abs(x)), 0.0) @ np.ones((3, 100)),
    "a maximum": lambda x: (x * x).max(axis=1, keepdims=True) * np.ones((1, 120)) * x[:, :1],
    "the input itself": lambda x: np.concatenate([x, np.sin(x) @ np.ones((3, 80))], axis=1),
}
ROWS = random(8, 50, seed=9)


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
@pytest.mark.parametrize("f", WHOLE_BATCH.values(), ids=WHOLE_BATCH.keys())
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_bound_never_changes_the_result(f, mode, dtype):
    x = random(8, 3, dtype=dtype)
    free = mj.jacobian(f, mode=mode)(x)
    least = least_bound(f, x, mode=mode)
    for bound in (least, least + 3_000, 10**9):
        J = mj.jacobian(f, mode=mode, max_bytes=bound)(x)
        assert J.dtype == free.dtype
        close(J, free, rtol=1e-4 if dtype == np.float32 else 1e-10, atol=1e-5 if dtype == np.float32 else 1e-11)


def test_a_function_runs_once_on_the_whole_batch_whatever_the_bound():
    sizes = []

    def f(x: Any) -> Any:
        sizes.append(len(x))
        return CASES["mlp"][0](x)

    mj.jacobian(f, max_bytes=1_000_000)(CASES["mlp"][1])
    assert sizes == [96]


def test_samples_are_found_along_any_axis():
    x = random(3, 40)
    f = lambda x: {"moved": np.sin(x), "first": (x.T * 2.0).sum(axis=1)}
    whole = mj.value_and_jacobian(f, batch_axis=1)(x)
    y, J = mj.value_and_jacobian(f, batch_axis=1, max_bytes=least_bound(f, x, batch_axis=1))(x)
    for name in ("moved", "first"):
        close(y[name], whole[0][name])
        close(J[name], whole[1][name])


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
def test_arguments_with_and_without_samples_are_bounded_alike(mode):
    W, t = random(4, 5, seed=1), random(2, 30, seed=2)
    f = lambda x, w, t: np.tanh(x @ w) * t.T[:, :1] + (w * w)[0]
    x = random(30, 4)
    options = {"argnums": (0, 1), "batch_axis": (0, None, 1), "mode": mode}
    whole = mj.jacobian(f, **options)(x, W, t)
    for bound in (12_000, 16_000, 40_000):
        parts = mj.jacobian(f, max_bytes=bound, **options)(x, W, t)
        for a, b in zip(parts, whole, strict=True):
            close(a, b)
    weights = mj.jacobian(lambda w: f(x, w, t), batch_axis=None, max_bytes=20_000)(W)
    close(weights, whole[1])


def test_shared_weights_are_taken_from_the_outputs_side_under_a_bound_too():
    W, x = random(100, 80, seed=1), random(256, 100)
    f = lambda w, x: np.tanh(x @ w).sum(axis=1)
    ready = prepare(f, (W, x), {}, Options(batch_axis=(None, 0)))
    found = ways(ready, (W, x), Options(batch_axis=(None, 0), max_bytes=1), 2_000_000)
    assert min(found, key=lambda way: way.cost.nanoseconds).plan.mode in ("reverse", "mixed")


def test_aux_is_that_of_the_whole_batch():
    f = lambda x: (np.tanh(x @ np.ones((4, 4))), {"sum": mj.stop_gradient(x).sum(), "hidden": x.sum(axis=1)})
    x = random(50, 4)
    J, aux = mj.jacobian(f, has_aux=True, max_bytes=15_000)(x)
    close(J, mj.jacobian(f, has_aux=True)(x)[0])
    close(aux["hidden"], x.sum(axis=1))
    close(aux["sum"], x.sum())


def test_mixing_is_found_under_a_bound_too():
    for f in (lambda x: x - x.mean(0), lambda x: x * np.roll(x, 1, axis=0), lambda x: x[::-1] * x):
        with pytest.raises(mj.BatchMixingError):
            mj.jacobian(f, max_bytes=1_000)(random(64, 4))


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
def test_too_little_for_one_seed_of_one_sample_names_the_least_bound_that_can_be_met(mode):
    f, x = mlp(6, 5, 4), random(7, 6)
    with pytest.raises(mj.InputError, match=r"max_bytes=1: expected room for one seed of one sample"):
        mj.jacobian(f, mode=mode, max_bytes=1)(x)
    needed = least_bound(f, x, mode=mode)
    close(mj.jacobian(f, mode=mode, max_bytes=needed)(x), mj.jacobian(f)(x))
    with pytest.raises(mj.InputError):
        mj.jacobian(f, mode=mode, max_bytes=needed - 1)(x)


def test_samples_that_have_to_stay_together_are_named_in_the_error():
    f, x = CASES["mlp"]
    with pytest.raises(mj.InputError, match="structured"):
        mj.jacobian(f, structured=True, max_bytes=10_000)(x)
    with pytest.raises(mj.InputError, match="on_mixing"):
        mj.jacobian(f, on_mixing="full", max_bytes=10_000)(x)


def test_inside_another_transformation_the_bound_is_left_to_that_one():
    f = mlp(5, 5, 5)
    x = random(6, 5)
    g = mj.grad(lambda x: (mj.jacobian(f, max_bytes=200)(x) ** 2).sum())
    close(g(x), mj.grad(lambda x: (mj.jacobian(f)(x) ** 2).sum())(x))
    s = np.float64(1.5)
    bounded = lambda s: (mj.jacobian(lambda x: f(x * s), max_bytes=2_000)(x) ** 2).sum()
    free = lambda s: (mj.jacobian(lambda x: f(x * s))(x) ** 2).sum()
    close(mj.grad(bounded)(s), mj.grad(free)(s))


def test_shared_arguments_alone_take_chunks_of_seeds():
    f = mlp(40, 60, 40)
    x = random(40)
    close(mj.jacobian(f, batch_axis=None, max_bytes=10_000)(x), mj.jacobian(f, batch_axis=None)(x))


# --- progress ---------------------------------------------------------------------------------------------------------


def test_a_bar_counts_the_pieces(capfd):
    pytest.importorskip("tqdm")
    f, x = mlp(6, 5, 4), random(7, 6)
    mj.jacobian(f, max_bytes=least_bound(f, x), progress=True)(x)
    shown = capfd.readouterr()
    assert "7/7" in shown.err + shown.out


def test_a_bar_without_tqdm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install minijac\[progress\]"):
        mj.jacobian(np.sin, chunk_size=1, mode="forward", progress=True)(random(3, 4))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_compiled_loop_holds_no_more_than_was_asked_for(mode):
    weights = np.random.default_rng(0).normal(size=(16, 16)) * 0.2

    def f(x):
        v = x
        for _ in range(60):
            v = np.tanh(v @ weights) * np.cos(v) + 0.1 * x
        return v

    x = np.random.default_rng(1).normal(size=(512, 16))
    most = 26_000_000
    compiled = mj.compile(mj.jacobian(f, mode=mode, max_bytes=most))
    expected = mj.jacobian(f, mode=mode)(x)
    np.testing.assert_allclose(compiled(x), expected, 1e-12, 1e-14)
    tracemalloc.start()
    compiled(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert compiled.buffer_bytes() + peak - expected.nbytes <= most


def _off(x: Any) -> Any:
    return x - np.array([0.3, 0.4, 0.0]).astype(x.dtype)


SELECTED = {
    "sorted": lambda x: np.sort(np.log(np.abs(x)), 1)[:, 1:].sum(1),
    "taken": lambda x: np.take_along_axis(np.log(x), np.array([[1]] * len(x)), 1)[:, 0] ** 2,
    "sliced": lambda x: np.log(x)[:, 1:].sum(1) ** 2,
    "a length": lambda x: np.maximum(np.max(_off(x) ** 2, 1), np.linalg.norm(_off(x) * np.ones((1, 3)), axis=1)),
    "a length, spread": lambda x: (
        np.maximum(_off(x), 0.0) * (np.linalg.norm(_off(x), axis=1)[:, None] * np.ones((1, 3)))
    ).sum(1),
    "bounded": lambda x: np.max(np.sqrt(np.maximum(x @ np.ones((3, 40)), 0.0)), 1) ** 3,
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("f", SELECTED.values(), ids=SELECTED)
@pytest.mark.parametrize(
    "transform",
    [
        mj.hessian_diagonal,
        mj.laplacian,
        lambda f, **how: mj.divergence(lambda x: f(x)[:, None] * x, **how),
        lambda f, **how: mj.partials(f, [(0, 0), (1, 2)], **how),
    ],
    ids=["hessian_diagonal", "laplacian", "divergence", "partials"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_least_bound_named_is_enough_for_a_second_look(transform, f, dtype):
    x = np.array([[0.0, 2.0, 3.0], [1.0, -2.0, 0.5], [0.3, 0.4, 0.0]], dtype)
    with pytest.raises(mj.InputError) as error:
        transform(f, max_bytes=64)(x)
    (least,) = re.findall(r"max_bytes=([\d,]+) or more", str(error.value))
    found, expected = transform(f, max_bytes=int(least.replace(",", "")))(x), transform(f)(x)
    for a, b in zip(found, expected, strict=True) if isinstance(found, list) else [(found, expected)]:
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_least_bound_is_enough_where_one_seed_takes_more_than_is_taken_without_a_bound(monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 1000)
    x = random(50, 4)
    with pytest.raises(mj.InputError) as error:
        mj.laplacian(np.exp, max_bytes=64)(x)
    (least,) = re.findall(r"max_bytes=([\d,]+) or more", str(error.value))
    close(mj.laplacian(np.exp, max_bytes=int(least.replace(",", "")))(x), mj.laplacian(np.exp)(x))


BENT: dict[str, Callable] = {
    "det": np.linalg.det,
    "slogdet": lambda x: np.linalg.slogdet(x)[1],
    "inv": np.linalg.inv,
    "pinv": np.linalg.pinv,
    "cholesky": lambda x: np.linalg.cholesky(x @ np.swapaxes(x, 1, 2) + 3.0 * np.eye(3)),
    "eigh": lambda x: np.linalg.eigh(x + np.swapaxes(x, 1, 2))[1],
    "svd": lambda x: np.linalg.svd(x, compute_uv=False),
    "qr": lambda x: np.linalg.qr(x)[1],
    "logsumexp": lambda x: mj.special.logsumexp(x, (1, 2)),
}
SECOND: dict[str, Callable] = {
    "hessian_diagonal": mj.hessian_diagonal,
    "laplacian": mj.laplacian,
    "divergence": lambda f, **how: mj.divergence(lambda x: x * f(x).reshape(len(x), -1).sum(1)[:, None, None], **how),
    "partials": lambda f, **how: (
        lambda x: mj.partials(lambda z: f(z.reshape(-1, 3, 3)), [(0, 0), (0, 8)], **how)(x.reshape(-1, 9))
    ),
}


@pytest.mark.parametrize("transform", SECOND.values(), ids=SECOND)
@pytest.mark.parametrize("f", BENT.values(), ids=BENT)
def test_the_least_bound_named_and_twice_it_are_kept_where_a_derivative_is_given_outright(f, transform):
    x = random(4000, 3, 3)
    with pytest.raises(mj.InputError) as error:
        transform(f, max_bytes=1)(x)
    least = int(re.search(r"max_bytes=([\d,]+) or more", str(error.value))[1].replace(",", ""))
    free = transform(f)(x)
    for bound in (least, 2 * least):
        bounded = transform(f, max_bytes=bound)
        bounded(x)
        peak, found = peak_beside(lambda: bounded(x), lambda y: sum(a.nbytes for a in flatten(y)[0]))  # noqa: B023
        assert peak <= bound + BOOKKEEPING / 2
        for a, b in zip(flatten(found)[0], flatten(free)[0], strict=True):
            close(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("f", [BENT[name] for name in ("det", "inv", "pinv", "svd", "logsumexp")])
def test_a_chunk_of_seeds_takes_no_room_for_the_others(f):
    x = random(1000, 3, 3)
    call = mj.laplacian(f, chunk_size=1)
    call(x)
    one, all_at_once = (peak_beside(lambda: g(x))[0] for g in (call, mj.laplacian(f)))  # noqa: B023
    assert one < 0.5 * all_at_once
