"""Samples that are picked by masks and positions, and put back: nothing mixes as long as each stays its own."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import MODES, close, loop_reference, mentions, names_place, random, tensor

import minijac as mj

torch = pytest.importorskip("torch")
B, N = 6, 3
W, V = random(N, N, seed=1), random(N, N, seed=2)
TW, TV = tensor(W), tensor(V)
X = random(B, N, seed=10)
BINS, BOUND = 4, 0.7
KNOTS = random(1, 5, seed=3, low=-2.0, high=2.0), random(5, 2 * (3 * BINS + 1), seed=4)


# --- programs, in NumPy and, for a batch of any size, in torch --------------------------------------------------------


def rows_by_mask(x):
    inside = x[:, 0] > 0
    y = x.copy()
    y[inside] = np.tanh(x[inside] @ W.astype(x.dtype)) * x[inside][:, ::-1]
    return y


def torch_rows(x):
    return torch.where(x[:, :1] > 0, torch.tanh(x @ TW) * x.flip(1), x)


def rows_by_positions(x):
    at = np.where(x[:, 0] > 0)[0]
    y = x.copy()
    y[at] = np.tanh(x[at] @ W.astype(x.dtype)) * x[at][:, ::-1]
    return y


def rows_by_flatnonzero(x):
    at = np.flatnonzero(x[:, 0] > 0)[::-1]
    rows = np.take(x, at, axis=0)
    return mj.numpy.put(x, at, np.tanh(rows @ W.astype(x.dtype)) * rows[:, ::-1])


def rows_by_compress(x):
    inside = x[:, 0] > 0
    rows = np.compress(inside, x, axis=0)
    y = np.zeros_like(x)
    y[np.nonzero(inside)] = np.tanh(rows @ W.astype(x.dtype)) * rows[:, ::-1]
    return np.where(inside[:, None], y, x)


def branches(x):
    m = x[:, 0] > 0
    y = np.zeros_like(x)
    y[m] = np.sin(x[m] @ W.astype(x.dtype))
    y[~m] = np.cumsum(x[~m], 1) ** 2 + x[~m].mean(1, keepdims=True)
    return np.tanh(y @ V.astype(x.dtype))


def torch_branches(x):
    other = torch.cumsum(x, 1) ** 2 + x.mean(1, keepdim=True)
    return torch.tanh(torch.where(x[:, :1] > 0, torch.sin(x @ TW), other) @ TV)


def entries(x):
    """A ragged vector of entries, with rows of their own, as in spline flows."""
    m = x > -0.2
    heights = np.tanh(x[:, :, None] * W.astype(x.dtype) + x[:, None, :1])
    h, e = heights[m], x[m]
    y = x.copy()
    y[m] = (mj.nn.softmax(h, axis=-1) * np.cumsum(h, -1)).sum(-1) * e
    return np.cumsum(y, 1)


def torch_entries(x):
    h = torch.tanh(x[:, :, None] * TW + x[:, None, :1])
    new = (torch.softmax(h, -1) * torch.cumsum(h, -1)).sum(-1) * x
    return torch.cumsum(torch.where(x > -0.2, new, x), 1)


def looked_up(x):
    """Entries picked by place in rows of picked samples."""
    m = x.sum(1) > -0.5
    knots = np.cumsum(np.exp(x[m] @ W.astype(x.dtype)), 1)
    t = np.tanh(x[m][:, :1]) + 1.5
    k = (knots < t).sum(1, keepdims=True).clip(0, N - 1)
    y = np.zeros_like(x[:, :1])
    y[m] = np.take_along_axis(knots, k, 1) * t + np.where(k > 0, t, 1.0)
    return y + x


def torch_looked_up(x):
    knots, t = torch.cumsum(torch.exp(x @ TW), 1), torch.tanh(x[:, :1]) + 1.5
    k = (knots < t).sum(1, keepdim=True).clamp(0, N - 1)
    new = torch.gather(knots, 1, k) * t + torch.where(k > 0, t, 1.0)
    return torch.where(x.sum(1, keepdim=True) > -0.5, new, 0.0) + x


def added_per_sample(x):
    """Several entries of each sample, some of none, added up where they belong."""
    at = np.repeat(np.arange(len(x)), (x > 0).sum(1))
    pieces = np.tanh(x[at] @ W.astype(x.dtype))
    y = np.zeros_like(x)
    np.add.at(y, at, pieces * pieces.sum(1, keepdims=True))
    return y * x


def torch_added_per_sample(x):
    pieces = torch.tanh(x @ TW)
    return (x > 0).sum(1, keepdim=True) * pieces * pieces.sum(1, keepdim=True) * x


def sorted_and_back(x):
    order = np.argsort(x[:, 0], kind="stable")
    z = np.sin(x[order] @ W.astype(x.dtype))
    return z[np.argsort(order)] * x


def repeated(x):
    z = np.tanh(x[np.repeat(np.arange(len(x)), 2)] @ W.astype(x.dtype))
    return z.reshape(len(x), 2, N).sum(1) ** 2


def row_by_row(x):
    y = np.zeros_like(x)
    for i in range(len(x)):
        y[i] = np.tanh(W.astype(x.dtype) @ x[i]) * x[i].sum()
    return y


def parts_joined(x):
    half = len(x) // 2
    return np.concatenate([np.tanh(x[:half] @ W.astype(x.dtype)), np.tanh(x[half:] @ W.astype(x.dtype))]) * x


def rolled_back(x):
    return np.roll(np.tanh(np.roll(x, 2, axis=0) @ W.astype(x.dtype)), -2, axis=0)


def recomputed(x):
    def inner(x):
        m = x[:, 0] > 0
        y = np.zeros_like(x)
        y[m] = np.sin(x[m] @ W.astype(x.dtype))
        y[~m] = np.cumsum(x[~m], 1) ** 2 + x[~m].mean(1, keepdims=True)
        return y

    return np.tanh(mj.checkpoint(inner)(x) @ V.astype(x.dtype))


def spline_coupling(x):
    """Half of the entries go through rational quadratic splines whose knots a network makes of the other half.

    Within bounds only: what lies inside is picked, looked up in its own knots, and put back (Durkan et al., Neural
    Spline Flows, 2019, equations 4 to 6).
    """
    low, high = x[:, :1], x[:, 1:]
    made = (np.tanh(low @ KNOTS[0].astype(x.dtype)) @ KNOTS[1].astype(x.dtype)).reshape(len(x), 2, 3 * BINS + 1)
    inside = (high > -BOUND) & (high < BOUND)
    widths = mj.nn.softmax(made[..., :BINS], axis=-1)[inside]
    heights = mj.nn.softmax(made[..., BINS : 2 * BINS], axis=-1)[inside]
    slopes = mj.nn.softplus(made[..., 2 * BINS :])[inside] + 0.1
    left = np.pad(np.cumsum(widths, -1), [(0, 0), (1, 0)]) * 2 * BOUND - BOUND
    below = np.pad(np.cumsum(heights, -1), [(0, 0), (1, 0)]) * 2 * BOUND - BOUND
    z = high[inside][:, None]
    k = np.clip((left <= z).sum(1, keepdims=True) - 1, 0, BINS - 1)
    x0, x1, y0, y1, d0, d1 = (np.take_along_axis(knots, at, 1) for knots in (left, below, slopes) for at in (k, k + 1))
    t, s = (z - x0) / (x1 - x0), (y1 - y0) / (x1 - x0)
    new = y0 + (y1 - y0) * (s * t**2 + d0 * t * (1 - t)) / (s + (d1 + d0 - 2 * s) * t * (1 - t))
    y, out = high.copy(), ~inside
    y[inside] = new[:, 0]
    y[out] = high[out]
    return np.concatenate([low, y], axis=1)


def torch_spline_coupling(x):
    low, high = x[:, :1], x[:, 1:]
    made = (torch.tanh(low @ tensor(KNOTS[0])) @ tensor(KNOTS[1])).reshape(len(x), 2, 3 * BINS + 1)
    widths, heights = torch.softmax(made[..., :BINS], -1), torch.softmax(made[..., BINS : 2 * BINS], -1)
    slopes = torch.nn.functional.softplus(made[..., 2 * BINS :]) + 0.1
    left, below = (torch.nn.functional.pad(torch.cumsum(w, -1), (1, 0)) * 2 * BOUND - BOUND for w in (widths, heights))
    z = high[..., None]
    k = ((left <= z).sum(-1, keepdim=True) - 1).clamp(0, BINS - 1)
    x0, x1, y0, y1, d0, d1 = (torch.gather(knots, -1, at) for knots in (left, below, slopes) for at in (k, k + 1))
    t, s = (z - x0) / (x1 - x0), (y1 - y0) / (x1 - x0)
    new = y0 + (y1 - y0) * (s * t**2 + d0 * t * (1 - t)) / (s + (d1 + d0 - 2 * s) * t * (1 - t))
    return torch.cat([low, torch.where(high.abs() < BOUND, new[..., 0], high)], 1)


def looped(x):
    """A loop of many equal steps, in each of which samples are picked by where they are now."""
    M = W.astype(x.dtype)

    def step(c, _):
        m = mj.stop_gradient(c)[:, 0] > 0
        return mj.numpy.put(c, m, np.sin(c[m] @ M)) * 0.9 + 0.1 * x, None

    return mj.scan(step, x, None, 10)[0]


def torch_looped(x):
    c = x
    for _ in range(10):
        c = torch.where(c[:, :1] > 0, torch.sin(c @ TW), c) * 0.9 + 0.1 * x
    return c


def looped_in_another_order(x):
    """The same steps with the samples in an order that does not change, and back."""
    M, order = W.astype(x.dtype), np.argsort(np.arange(len(x)) % 2, kind="stable")

    def step(c, _):
        return np.sin(c[order] @ M)[np.argsort(order)] * 0.9 + 0.1 * x, None

    return mj.scan(step, x, None, 10)[0]


def torch_looped_in_another_order(x):
    c = x
    for _ in range(10):
        c = torch.sin(c @ TW) * 0.9 + 0.1 * x
    return c


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "rows by a mask": (rows_by_mask, torch_rows),
    "rows by positions": (rows_by_positions, torch_rows),
    "take and put": (rows_by_flatnonzero, torch_rows),
    "compress": (rows_by_compress, torch_rows),
    "two branches": (branches, torch_branches),
    "entries": (entries, torch_entries),
    "looked up": (looked_up, torch_looked_up),
    "added up": (added_per_sample, torch_added_per_sample),
    "sorted and back": (sorted_and_back, lambda x: torch.sin(x @ TW) * x),
    "repeated": (repeated, lambda x: (2.0 * torch.tanh(x @ TW)) ** 2),
    "row by row": (row_by_row, lambda x: torch.tanh(x @ TW.T) * x.sum(1, keepdim=True)),
    "parts joined": (parts_joined, lambda x: torch.tanh(x @ TW) * x),
    "rolled back": (rolled_back, lambda x: torch.tanh(x @ TW)),
    "recomputed": (recomputed, torch_branches),
    "looped": (looped, torch_looped),
    "looped in another order": (looped_in_another_order, torch_looped_in_another_order),
    "spline coupling": (spline_coupling, torch_spline_coupling),
}
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
    with pytest.raises(mj.TraceError):
        mj.compile(mj.jacobian(rows_by_mask))(X)


def test_the_tape_says_where_samples_were_picked():
    assert "picked" in str(mj.trace(rows_by_mask, X))
