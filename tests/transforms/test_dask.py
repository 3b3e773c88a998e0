"""Dask arrays: every transformation lazily, a chunk of samples a task, and what chunks cannot give refused."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest

import minijac as mj
from minijac.transforms import dask as chunked

da = pytest.importorskip("dask.array", reason="Dask is not installed: pip install dask")

RNG = np.random.default_rng(3)
W = RNG.normal(size=(4, 4))
X = RNG.normal(size=(23, 4))
CHUNKS = da.from_array(X, chunks=(7, 4))


def f(x: Any) -> Any:
    return np.tanh(x @ W) * x


TRANSFORMED = {
    "jacobian": mj.jacobian(f),
    "reverse": mj.jacobian(f, mode="reverse"),
    "in chunks of seeds": mj.jacobian(f, chunk_size=2),
    "value_and_jacobian": mj.value_and_jacobian(f),
    "with aux": mj.value_and_jacobian(lambda x: (f(x), {"s": x.sum(1)}), has_aux=True),
    "hessian": mj.hessian(f),
    "hessian_diagonal": mj.hessian_diagonal(f),
    "laplacian": mj.laplacian(f),
    "value_and_laplacian": mj.value_and_laplacian(f),
    "divergence": mj.divergence(f),
    "partials": mj.partials(f, [(), (0,), (1, 2), (3, 3, 3)]),
    "a tree": mj.jacobian(lambda x: {"a": f(x), "b": [x[:, :2] ** 2]}),
}


@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_transformation_of_chunks_is_that_of_the_whole_and_known_before_it_is_computed(name: str, dtype: Any) -> None:
    x = X.astype(dtype)
    lazy = TRANSFORMED[name](da.from_array(x, chunks=(7, 4)))
    whole = TRANSFORMED[name](x)
    leaves, tree = chunked.flatten(lazy)
    expected, same_tree = chunked.flatten(whole)
    assert tree == same_tree
    for got, want in zip(leaves, expected, strict=True):
        assert isinstance(got, da.Array)
        assert (got.shape, got.dtype, got.chunks[0]) == (want.shape, want.dtype, (7, 7, 7, 2))
        np.testing.assert_allclose(got.compute(), want, rtol=1e-4 if dtype == np.float32 else 1e-12, atol=1e-5)


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    sizes: list[int] = []

    def watched(x: Any) -> Any:
        sizes.append(len(x))
        return x * x

    J = mj.jacobian(watched)(da.from_array(X, chunks=(10, 4)))
    assert max(sizes) <= 3
    J.compute(scheduler="synchronous")
    assert max(sizes) == 10


def test_a_worker_compiles_a_function_once() -> None:
    chunked._PROGRAMS.clear()
    mj.jacobian(f)(da.from_array(X, chunks=(2, 4))).compute()
    mj.jacobian(f)(da.from_array(X, chunks=(2, 4))).compute()
    ((_, program),) = chunked._PROGRAMS.items()
    assert program.cache_info().misses <= 2  # chunks of two samples, and the last of one


def test_a_function_that_decides_by_values_runs_as_it_is_written() -> None:
    def kinked(x: Any) -> Any:
        return np.sin(x) if x.sum() > 100 else x * x

    np.testing.assert_allclose(mj.jacobian(kinked)(da.from_array(X, chunks=(8, 4))), mj.jacobian(kinked)(X))


def test_shared_and_plain_arguments_go_to_every_chunk() -> None:
    of_weights = mj.jacobian(lambda w, x, t: np.tanh(x @ w) * t[:, None], batch_axis=(None, 0, 0))
    t = np.arange(23.0)
    whole = of_weights(W, X, t)
    for w in (W, da.from_array(W, chunks=-1)):
        got = of_weights(w, da.from_array(X, chunks=(9, 4)), t)
        assert got.shape == (23, 4, 4, 4)
        np.testing.assert_allclose(got, whole)


def test_samples_on_another_axis_are_chunked_there() -> None:
    columns = mj.jacobian(lambda x: np.tanh(W @ x), batch_axis=1)
    got = columns(da.from_array(X.T, chunks=(4, 6)))
    assert got.chunks[0] == (6, 6, 6, 5)
    np.testing.assert_allclose(got, columns(X.T))


def centred(x: Any) -> Any:
    return x - x.mean(0)


def test_mixing_is_found_when_the_graph_is_built() -> None:
    x = da.from_array(X, chunks=(7, 4))
    with pytest.raises(mj.BatchMixingError, match="mean"):
        mj.jacobian(centred)(x)
    for choice in ("diagonal", "full"):
        with pytest.raises(mj.InputError, match=r"all samples in one chunk.*rechunk"):
            mj.jacobian(centred, on_mixing=choice)(x)
    one = mj.jacobian(centred, on_mixing="diagonal")(x.rechunk(-1))
    np.testing.assert_allclose(one, mj.jacobian(centred, on_mixing="diagonal")(X))


@pytest.mark.parametrize(
    "whole",
    [
        lambda x: x * mj.stop_gradient(x.mean(0)),
        lambda x: x / len(x),
        lambda x: x * np.arange(len(x))[::-1, None],
    ],
)
def test_what_looks_at_the_whole_batch_is_refused(whole: Any) -> None:
    with pytest.raises(mj.InputError, match="changes with the other samples"):
        mj.jacobian(whole)(da.from_array(X, chunks=(7, 4)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mj.jacobian(f)(da.from_array(X, chunks=(7, 2))), r"along the samples only.*rechunk\(\{1: -1\}\)"),
        (lambda: mj.jacobian(f, structured=True)(da.from_array(X)), "structured=True"),
        (lambda: mj.jacobian(lambda x, y: x * y)(CHUNKS, da.from_array(X, chunks=(9, 4))), "same chunks"),
        (lambda: mj.jacobian(f, batch_axis=None)(da.from_array(X, chunks=-1)), "batch axis"),
        (lambda: mj.jacobian(lambda x, y: x * y)(CHUNKS, X[:5]), "batch sizes differ"),
        (lambda: mj.jacobian(lambda x, y: x * y)(X, y=da.from_array(X)), "keyword"),
        (lambda: mj.jacobian(f)(CHUNKS[da.from_array(X[:, 0] > 0, chunks=7)]), "compute_chunk_sizes"),
        (lambda: mj.jacobian(lambda w, x: x @ w, batch_axis=None)(W, da.from_array(X, chunks=-1)), "batch axis"),
        (lambda: mj.value_and_jacobian(lambda x: (f(x), W), has_aux=True)(CHUNKS), "grows with"),
    ],
)  # fmt: skip
def test_what_chunks_cannot_give_says_what_to_do(make: Any, message: str) -> None:
    with pytest.raises(mj.InputError, match=message):
        make()


@pytest.mark.slow
def test_a_worker_that_dies_in_the_middle_loses_nothing(tmp_path: Any) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

    def slow(x: Any) -> Any:
        return np.tanh(x @ W) * x

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        x = da.from_array(np.tile(X, (40, 1)), chunks=(10, 4)).map_blocks(lambda block: (time.sleep(0.05), block)[1])
        future = client.compute(mj.jacobian(slow)(x))
        time.sleep(1.0)
        pid = next(iter(client.run(os.getpid).values()))
        os.kill(pid, signal.SIGKILL)
        np.testing.assert_allclose(future.result(timeout=120), mj.jacobian(slow)(np.tile(X, (40, 1))))
