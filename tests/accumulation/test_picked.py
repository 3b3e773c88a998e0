"""Samples that are picked by masks and positions, and put back: nothing mixes as long as each stays its own."""

from __future__ import annotations

import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers import MODES, close, loop_reference, mentions, names_place, random

import minijac as mj

pytest.importorskip("torch")

from picking import (
    CASES,
    B,
    N,
    W,
    X,
    added_per_sample,
    branches,
    entries,
    rows_by_mask,
    sorted_and_back,
)  # fmt: skip

cases = pytest.mark.parametrize("case", CASES)


@cases
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_way_to_a_jacobian_is_that_of_each_sample_by_itself(case, dtype):
    f, torch_f = CASES[case]
    rtol = 1e-10 if dtype == np.float64 else 1e-4
    for seed in (10, 11):  # other samples are picked in another call
        x = random(B, N, seed=seed, dtype=dtype)
        truth = loop_reference(torch_f, x)
        for mode in MODES:
            J = mj.jacobian(f, mode=mode)(x)
            assert J.dtype == dtype
            close(J, truth, rtol, rtol)
        if dtype == np.float32:
            return
        close(mj.jacobian(f, structured=True)(x).todense(), truth, rtol, rtol)
        for mode in ("forward", "reverse"):
            close(mj.jacobian(f, mode=mode, chunk_size=2)(x), truth, rtol, rtol)
        close(mj.jacobian(f, max_bytes=2**20)(x), truth, rtol, rtol)
        v = random(B, N, seed=5, dtype=dtype)
        close(mj.jvp(f, (x,), (v,))[1], np.einsum("bij,bj->bi", truth, v), rtol, rtol)
        close(mj.vjp(f, x)[1](v)[0], np.einsum("bij,bi->bj", truth, v), rtol, rtol)


@cases
def test_second_derivatives_are_those_of_each_sample_by_itself(case):
    f, torch_f = CASES[case]
    truth = loop_reference(torch_f, X, order=2)
    close(mj.hessian(f)(X), truth, 1e-9, 1e-9)
    close(mj.jacobian(mj.jacobian(f, mode="reverse"), mode="forward")(X), truth, 1e-9, 1e-9)
    close(mj.hessian_diagonal(f)(X), np.einsum("boii->boi", truth), 1e-9, 1e-9)
    close(mj.laplacian(f)(X), np.einsum("boii->bo", truth), 1e-9, 1e-9)


@cases
@pytest.mark.parametrize("B", [1, 2])
def test_few_samples_are_no_special_case(case, B):
    f, torch_f = CASES[case]
    x = X[:B]
    for mode in ("forward", "reverse"):
        close(mj.jacobian(f, mode=mode)(x), loop_reference(torch_f, x), 1e-10)


@cases
def test_samples_on_another_axis_are_followed_too(case):
    f, torch_f = CASES[case]
    J = mj.jacobian(lambda x: f(x.T).T, batch_axis=1)(X.T)
    close(J, loop_reference(torch_f, X), 1e-10)


@pytest.mark.parametrize("f", [rows_by_mask, branches, entries, added_per_sample, sorted_and_back])
def test_memory_grows_with_the_samples_and_no_faster(f):
    transformations: dict[str, Any] = {
        "forward": mj.jacobian(f, mode="forward"),
        "reverse": mj.jacobian(f, mode="reverse"),
        "structured": mj.jacobian(f, structured=True),
        "laplacian": mj.laplacian(f),
        "hessian_diagonal": mj.hessian_diagonal(f),
        "hessian": mj.hessian(f),
    }
    for name, transformed in transformations.items():
        peaks = []
        for size in (500, 2000):
            x = random(size, N, seed=3)
            transformed(x[:7])
            tracemalloc.start()
            transformed(x)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 4.6 * peaks[0], f"{name}: {peaks}"


# --- what mixes -------------------------------------------------------------------------------------------------------
M1, M2 = np.array([True, True, False, True, False, False]), np.array([True, False, False, True, False, True])


def put_elsewhere(x):
    y = x.copy()
    y[M1] = x[M2]  # <- here
    return y


def other_rows_beside(x):
    y = x.copy()
    y[M1] = x[M1] * x[M2]  # <- here
    return y


def shuffled(x):
    return np.tanh(x)[np.array([1, 0, 2, 3, 5, 4])]  # <- here


def turned(x):
    z = x[::-1]  # <- here
    return z * x


def all_of_the_picked(x):
    return x - x[M1].mean(0)  # <- here


def row_for_all(x):
    return x * x[2]  # <- here


def not_put_back(x):
    return np.sin(x[M1])  # <- here


def along_the_picked(x):
    y = x.copy()
    y[M1] = np.cumsum(x[M1], 0)  # <- here
    return y


@pytest.mark.parametrize("f", [put_elsewhere, other_rows_beside, shuffled, turned, all_of_the_picked, row_for_all,
                               not_put_back, along_the_picked])  # fmt: skip
def test_a_sample_that_meets_anothers_is_mixing(f):
    for transformed in (mj.jacobian(f), mj.jacobian(f, mode="reverse", structured=True), mj.laplacian(f)):
        with pytest.raises(mj.BatchMixingError) as caught:
            transformed(X)
        mentions(caught.value, "samples mix", "on_mixing")
        names_place(caught.value, f)


@pytest.mark.parametrize("f", [put_elsewhere, other_rows_beside, shuffled, turned, all_of_the_picked, row_for_all,
                               along_the_picked])  # fmt: skip
def test_what_mixes_is_right_in_full_and_on_its_diagonal(f):
    full = mj.jacobian(f, batch_axis=None)(X)
    for mode in MODES:
        close(mj.jacobian(f, on_mixing="full", mode=mode)(X), full, 1e-12)
        close(mj.jacobian(f, on_mixing="diagonal", mode=mode)(X), np.einsum("bibj->bij", full), 1e-12)


@pytest.mark.parametrize("policy", ["diagonal", "full"])
def test_samples_put_back_are_on_their_axis_though_another_output_mixes(policy):
    def put_back(x):
        y = np.zeros_like(x.T)
        y[:, M1[:N]] = np.sin(x.T[:, M1[:N]])
        return y

    x = X[:N]
    alone = mj.jacobian(put_back, on_mixing=policy)(x)
    assert np.count_nonzero(alone) == N * M1[:N].sum()
    close(mj.jacobian(lambda x: (x - x.mean(0), put_back(x)), on_mixing=policy)(x)[1], alone, 1e-12)


def test_whether_samples_mix_is_found_anew_for_other_positions_of_the_same_number():
    def f(x, a, b):
        y = x.copy()
        y[a] = np.sin(x[b])
        return y

    first = np.array([0, 2, 3])
    J = mj.jacobian(f, batch_axis=(0, None, None))
    for _ in range(3):
        J(X, first, first)
    with pytest.raises(mj.BatchMixingError):
        J(X, first, np.array([0, 2, 4]))
    for at in (np.array([1, 2, 4]), first):
        slope = np.ones((B, N))
        slope[at] = np.cos(X[at])
        close(J(X, at, at), slope[:, :, None] * np.eye(N), 1e-12)


def test_mixing_is_found_in_whichever_step_of_a_long_loop_it_is():
    def f(x, mixes):
        for k in range(40):
            at = np.array([k % 2, 2 + k % 3])
            back = at[::-1] if k == 30 and mixes else at
            x = mj.numpy.put(x * 0.99, back, np.sin(x[at] @ W))
        return x

    close(mj.jacobian(lambda x: f(x, False))(X), mj.jacobian(lambda x: f(x, False), on_mixing="diagonal")(X), 1e-12)
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(lambda x: f(x, True))(X)


def test_nothing_selected_is_no_mixing():
    none = np.zeros(B, bool)
    for f in (lambda x: x + x[none].sum(), lambda x: x * (1.0 + x[none].sum(0)), lambda x: x + x[[]].sum(0)):
        J = mj.jacobian(f)(X)
        close(J, np.broadcast_to(np.eye(N), (B, N, N)), 1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_that_was_written_since_it_picked_is_another_one(mode):
    old = X > 0
    new = np.roll(old, 1, 1)

    def picked_by(m, x):
        v = x[m]
        m[:] = new
        return mj.numpy.put(x, m, v * v)

    J = mj.jacobian(lambda x: picked_by(old.copy(), x), mode=mode, on_mixing="full")(X)
    close(J, mj.jacobian(lambda x: mj.numpy.put(x, new, x[old] ** 2), mode=mode, on_mixing="full")(X), 1e-12)


def test_picked_samples_need_not_carry_a_derivative():
    def f(x, t):
        m = t > 0
        return mj.numpy.put(x, m, x[m] * t[m, None])

    t = X[:, 0]
    J = mj.jacobian(f)(X, t)
    close(J, np.where(t > 0, t, 1.0)[:, None, None] * np.eye(N), 1e-12)
    Jt = mj.jacobian(f, argnums=1)(X, t)
    close(Jt, np.where(t[:, None] > 0, X, 0.0), 1e-12)


def test_picked_samples_under_compile_where_positions_are_captured():
    at = np.array([0, 2, 5])

    def f(x):
        y = x.copy()
        y[at] = np.tanh(x[at] @ W.astype(x.dtype))
        return y

    J = mj.compile(mj.jacobian(f))
    for seed in (1, 2):
        x = random(B, N, seed=seed)
        close(J(x), mj.jacobian(f)(x), 1e-12)
    at[1] = 3
    close(J(x), mj.jacobian(f)(x), 1e-12)


def test_the_tape_says_where_samples_were_picked():
    assert "picked" in str(mj.trace(rows_by_mask, X))


WITHIN = {
    "all": (np.array([2, 0, 3, 1]), np.array([1, 3, 0, 2])),
    "some": (np.array([3, 1]), None),
    "mask": (np.array([True, False, True, True]), None),
}


@pytest.mark.parametrize("name", WITHIN)
@pytest.mark.parametrize(
    "op",
    [
        lambda x: np.cumsum(x, 1),
        lambda x: np.sort(x, 1),
        lambda x: np.linalg.solve(4.0 * np.eye(3) + x[:, :, None] * np.cos(x)[:, None, :], np.sin(x)[:, :, None])[
            ..., 0
        ],
    ],
)
def test_samples_picked_behind_what_is_no_block_stay_apart(name, op):
    """Backward, the positions stand on an axis that a linear map lets pass: there they become a label of their own."""
    at, back = WITHIN[name]

    def squared(y):
        if back is not None:
            return (y[at] ** 2)[back]
        z = y.copy()
        z[at] = y[at] ** 2
        return z

    def f(x, squared=squared):
        y = op(squared(x) * x)
        return (squared(y) * y).sum(1)

    x = random(4, 3, seed=3) ** 2 + 0.5
    J, H = (T(f, mode="forward")(x) for T in (mj.jacobian, mj.hessian))
    for k in range(len(x)):  # alone: a sample that is picked, or not
        alone = partial(f, squared=np.square if k in np.arange(4)[at] else np.positive)
        close(J[k], mj.jacobian(alone)(x[k : k + 1])[0], 1e-12, 1e-12)
        close(H[k], mj.hessian(alone)(x[k : k + 1])[0], 1e-12, 1e-12)
    for mode in ("reverse", "auto"):
        close(mj.jacobian(f, mode=mode)(x), J, 1e-11, 1e-11)
        close(mj.hessian(f, mode=mode)(x), H, 1e-11, 1e-11)
