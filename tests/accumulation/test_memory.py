"""Bounded memory: `max_bytes` is met by chunks of seeds and of samples, and what it rests on is honest."""

from __future__ import annotations

import gc
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
from minijac.accumulation.memory import held_bytes, ways
from minijac.accumulation.recording import prepare
from minijac.arguments import Options
from minijac.memo import Memo

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
    chosen = next(way for way in ways(ready, options, fresh=True) if way.chunk_size == chunk_size)
    estimate = held_bytes(ready, (x,)) + chosen.cost.peak_bytes
    del ready
    mj.jacobian(f, mode=mode, chunk_size=chunk_size)(x)
    Memo.clear_all()  # the estimate is of an accumulation that is carried out, as under max_bytes
    measured, _ = peak_beside(lambda: mj.jacobian(f, mode=mode, chunk_size=chunk_size)(x))
    objects = 200_000  # of Python, which are not counted
    assert 0.75 * (measured - objects) <= estimate <= 1.25 * measured


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [3_000_000, 6_000_000])
@pytest.mark.parametrize(
    "name, mode",
    [
        (name, mode)
        for name in ("mlp", "relu", "shared stencil", "digits example")
        for mode in ("forward", "reverse", "mixed", "auto")
    ]
    + [("digits", "reverse"), ("digits", "auto")],
)
def test_the_peak_beside_inputs_and_result_is_within_the_bound(name, bound, mode):
    f, x = CASES[name]
    free = mj.jacobian(f, mode=mode)(x)
    peak, J = peak_beside(lambda: mj.jacobian(f, mode=mode, max_bytes=bound)(x))
    assert peak <= bound + BOOKKEEPING
    close(J, free, rtol=1e-4 if J.dtype == np.float32 else 1e-10, atol=1e-5 if J.dtype == np.float32 else 1e-11)


def test_a_wide_network_stays_within_256_mib():
    f, x = mlp(2048, 4096, 2048, dtype=np.float32), random(2, 2048, dtype=np.float32)
    bound = 48 * 2**20
    peak, J = peak_beside(lambda: mj.jacobian(f, max_bytes=bound)(x))
    assert J.shape == (2, 2048, 2048) and J.dtype == np.float32
    assert peak <= bound + BOOKKEEPING


@pytest.mark.slow
def test_a_wide_network_of_32_samples_stays_within_256_mib():
    f, x = mlp(2048, 4096, 2048, dtype=np.float32), random(32, 2048, dtype=np.float32)
    bound = 256 * 2**20
    peak, J = peak_beside(lambda: mj.jacobian(f, max_bytes=bound)(x))
    assert J.shape == (32, 2048, 2048)
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


# --- what a chunked function sees and returns -------------------------------------------------------------------------


class Calls:
    def __init__(self, f: Callable) -> None:
        self.f, self.sizes = f, []

    def __call__(self, x: Any, *rest: Any) -> Any:
        self.sizes.append(x.shape[0])
        return self.f(x, *rest)


def test_a_bound_that_is_no_bound_calls_the_function_once():
    f, x = CASES["mlp"]
    calls = Calls(f)
    mj.jacobian(calls, max_bytes=10**10)(x)
    assert calls.sizes == [96]


def test_samples_come_in_chunks_each_once():
    f, x = CASES["mlp"]
    calls = Calls(f)
    J = mj.jacobian(calls, max_bytes=500_000)(x)
    assert sum(calls.sizes) == 96 and len(calls.sizes) > 1
    close(J, mj.jacobian(f)(x))


def test_values_are_put_together_along_their_own_batch_axis():
    x = random(3, 40)
    f = lambda x: {"moved": np.sin(x), "first": (x.T * 2.0).sum(axis=1)}
    whole = mj.value_and_jacobian(f, batch_axis=1)(x)
    y, J = mj.value_and_jacobian(f, batch_axis=1, max_bytes=2_000)(x)
    for name in ("moved", "first"):
        close(y[name], whole[0][name])
        close(J[name], whole[1][name])


def test_several_arguments_are_cut_along_their_own_axes():
    W, t = random(4, 5, seed=1), random(2, 30, seed=2)
    f = lambda x, w, t: np.tanh(x @ w) * t.T[:, :1]
    x = random(30, 4)
    options = {"argnums": (0, 1), "batch_axis": (0, None, 1)}
    whole = mj.jacobian(f, **options)(x, W, t)
    parts = mj.jacobian(f, max_bytes=10_000, **options)(x, W, t)
    for a, b in zip(parts, whole, strict=True):
        close(a, b)


def test_aux_with_the_samples_first_is_put_together():
    f = lambda x: (np.tanh(x @ np.ones((4, 4))), {"hidden": x.sum(axis=1), "name": "net", "scale": np.ones(3)})
    x = random(50, 4)
    J, aux = mj.jacobian(f, has_aux=True, max_bytes=5_000)(x)
    close(J, mj.jacobian(f, has_aux=True)(x)[0])
    close(aux["hidden"], x.sum(axis=1))
    close(aux["scale"], np.ones(3))
    assert aux["name"] == "net"


def test_aux_that_sums_over_the_samples_is_refused():
    f = lambda x: (np.tanh(x @ np.ones((4, 4))), mj.stop_gradient(x).sum())
    with pytest.raises(mj.InputError, match="chunks"):
        mj.jacobian(f, has_aux=True, max_bytes=5_000)(random(50, 4))


def test_mixing_is_found_in_chunks_too():
    for f in (lambda x: x - x.mean(0), lambda x: x * np.roll(x, 1, axis=0), lambda x: x[::-1] * x):
        with pytest.raises(mj.BatchMixingError):
            mj.jacobian(f, max_bytes=1_000)(random(64, 4))


def test_too_little_for_one_seed_of_one_sample_says_so_with_the_numbers():
    f, x = CASES["digits"]
    with pytest.raises(MemoryError, match=r"max_bytes=100,000.*one seed of one sample.*[0-9],[0-9]{3} bytes") as error:
        mj.jacobian(f, max_bytes=100_000)(x)
    needed = int(str(error.value).split("Give it max_bytes=")[1].split(" ")[0].replace(",", ""))
    mj.jacobian(f, max_bytes=needed)(x)


def test_samples_that_have_to_stay_together_are_named_in_the_error():
    f, x = CASES["mlp"]
    with pytest.raises(MemoryError, match="structured"):
        mj.jacobian(f, structured=True, max_bytes=10_000)(x)
    with pytest.raises(MemoryError, match="on_mixing"):
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


def test_a_bar_counts_the_samples(capfd):
    pytest.importorskip("tqdm")
    f, x = CASES["mlp"]
    mj.jacobian(f, max_bytes=500_000, progress=True)(x)
    shown = capfd.readouterr()
    assert "96/96" in shown.err + shown.out


def test_a_bar_without_tqdm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install minijac\[progress\]"):
        mj.jacobian(np.sin, chunk_size=1, mode="forward", progress=True)(random(3, 4))
