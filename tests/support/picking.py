"""Programs that pick samples by masks and positions and put them back, in NumPy and, for any batch, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from helpers import random, tensor

import minijac as mj

B, N = 6, 3
W, V = random(N, N, seed=1), random(N, N, seed=2)
TW, TV = tensor(W), tensor(V)
X = random(B, N, seed=10)
BINS, BOUND = 4, 0.7
KNOTS = random(1, 5, seed=3, low=-2.0, high=2.0), random(5, 2 * (3 * BINS + 1), seed=4)


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


def sorted_and_put(x):
    """The same by a second key where the first one ties, put back where each was."""
    order = np.lexsort((x[:, 1], np.round(x[:, 0])))
    z = np.empty_like(x)
    z[order] = np.sin(x[order] @ W.astype(x.dtype))
    return z * x


def sorted_twice(x):
    """In falling order, and what comes out of it in an order of its own."""
    order = np.argsort(x[:, 0])[::-1]
    v = np.cumsum(x[order], 1)
    other = np.argsort(v[:, 1])
    w = np.take_along_axis(v, np.argmax(v, 1)[:, None], 1) * np.sort(v, 1)
    u, z = np.empty_like(v), np.empty_like(v)
    u[other] = np.tanh(w[other] @ W.astype(x.dtype))
    z[order] = u
    return z


def torch_sorted_twice(x):
    v = torch.cumsum(x, 1)
    return torch.tanh((v.amax(1, keepdim=True) * torch.sort(v, 1)[0]) @ TW)


def experts(x):
    """Samples grouped by which expert is theirs, each with the weights of that one."""
    chosen = np.argmax(x @ V.astype(x.dtype), 1)
    order = np.argsort(chosen, kind="stable")
    weights = mj.numpy.take(np.stack([W, V, W - V]).astype(x.dtype), chosen[order], axis=0)
    z = np.zeros_like(x)
    z[order] = np.tanh(np.einsum("bi,bij->bj", x[order], weights)) * chosen[order][:, None]
    return z + x


def torch_experts(x):
    chosen = torch.argmax(x @ TV, 1)
    y = torch.einsum("bi,bij->bj", x, torch.stack([TW, TV, TW - TV])[chosen])
    return torch.tanh(y) * chosen[:, None] + x


def buckets(x):
    """Samples by the bucket that they are in, with what belongs to each sample beside."""
    found = np.searchsorted(np.array([-0.5, 0.0, 0.5], x.dtype), x[:, 0])
    order = np.argsort(found, kind="stable")
    own = np.exp(x @ V.astype(x.dtype))
    v = x[order] * mj.numpy.take(np.array([1.0, 2.0, 3.0, 4.0], x.dtype), found[order])[:, None]
    return np.take(np.tanh(v**2) + own[order, 1][:, None], np.argsort(order), axis=0)


def torch_buckets(x):
    found = torch.searchsorted(torch.tensor([-0.5, 0.0, 0.5], dtype=x.dtype), x[:, 0].detach().contiguous())
    return torch.tanh((x * (found + 1.0)[:, None]) ** 2) + torch.exp(x @ TV)[:, 1:2]


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


def looped_by_values(x):
    """A loop in each step of which samples are sorted by where they are now."""
    M = W.astype(x.dtype)

    def step(c, _):
        order = np.argsort(mj.stop_gradient(c)[:, 0])
        z = np.empty_like(c)
        z[order] = np.sin(c[order] @ M)
        return z * 0.9 + 0.1 * x, None

    return mj.scan(step, x, None, 10)[0]


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
    "sorted and put": (sorted_and_put, lambda x: torch.sin(x @ TW) * x),
    "sorted twice": (sorted_twice, torch_sorted_twice),
    "experts": (experts, torch_experts),
    "buckets": (buckets, torch_buckets),
    "repeated": (repeated, lambda x: (2.0 * torch.tanh(x @ TW)) ** 2),
    "row by row": (row_by_row, lambda x: torch.tanh(x @ TW.T) * x.sum(1, keepdim=True)),
    "parts joined": (parts_joined, lambda x: torch.tanh(x @ TW) * x),
    "rolled back": (rolled_back, lambda x: torch.tanh(x @ TW)),
    "recomputed": (recomputed, torch_branches),
    "looped": (looped, torch_looped),
    "looped in another order": (looped_in_another_order, torch_looped_in_another_order),
    "looped by values": (looped_by_values, torch_looped_in_another_order),
    "spline coupling": (spline_coupling, torch_spline_coupling),
}
