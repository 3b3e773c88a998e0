"""Functions of one argument and of several, in NumPy and in torch, that the tests of transformations share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import (
    W1,
    net,
    tensor,
    torch_net,
)

import minijac as mj


def widening(x):
    """(B, 5) -> (B, 10)."""
    return np.concatenate([np.sin(x), x * x], axis=-1)


def torch_widening(x):
    return pytest.importorskip("torch").cat([x.sin(), x * x], -1)


def to_scalar(x):
    """(B, 5) -> (B,)."""
    return np.exp(-(x**2).sum(axis=-1))


def torch_to_scalar(x):
    return (-(x**2).sum(-1)).exp()


def to_matrix(x):
    """(B, 5) -> (B, 5, 5)."""
    return x[:, :, None] * np.sin(x)[:, None, :]


def torch_to_matrix(x):
    return x[:, :, None] * x.sin()[:, None, :]


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def torch_softmax(x):
    return x.softmax(-1)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)


def torch_layer_norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-3).sqrt()


def stencil(x):
    """(B, 5) -> (B, 4)."""
    return (x[:, 1:] - x[:, :-1]) * x[:, 1:]


def branching(x):
    """A value used along several paths, of which one is unused and one is constant."""
    a = np.tanh(x)
    unused = np.exp(a)
    del unused
    return a * x + a @ W1 @ W1.T + 3.0


def torch_branching(x):
    a = x.tanh()
    return a * x + a @ tensor(W1) @ tensor(W1).T + 3.0


PAIRS = {
    "net": (net, torch_net),
    "widening": (widening, torch_widening),
    "to_scalar": (to_scalar, torch_to_scalar),
    "to_matrix": (to_matrix, torch_to_matrix),
    "softmax": (softmax, torch_softmax),
    "layer_norm": (layer_norm, torch_layer_norm),
    "stencil": (stencil, stencil),
    "branching": (branching, torch_branching),
}


def elementwise(x):
    return np.sin(x) * np.exp(-(x**2))


def shared(x):
    return x @ W1


STRUCTURED = {**{name: pair[0] for name, pair in PAIRS.items()}, "elementwise": elementwise, "shared": shared}
structured = pytest.mark.parametrize("f", STRUCTURED.values(), ids=STRUCTURED.keys())


def function_of_all_kinds(W: Any, V: Any) -> Any:
    """Products by shared matrices and by a sample's own, sums, extremes, copies, masks."""

    def f(x):
        h = np.tanh(x @ W)
        own = h[:, :, None] * x[:, None, :] + 1.0
        both = (own @ np.swapaxes(own, 1, 2)) @ V
        padded = np.pad(h, ((0, 0), (1, 2)))
        picked = np.where(h > 0.1, h, x[:, :1])
        return [
            both.sum(1),
            np.max(own, (1, 2)),
            padded[:, ::-1] * 2.0,
            picked.mean(1),
            np.concatenate([h, x], 1).sum(1),
        ]

    return f


def function_of_rarer_kinds(x):
    """Expansions, truth values, windows, powers."""
    flags = np.logical_and(x > 0, np.isfinite(x)) | ~(x < 1.0)
    windows = mj.nn.conv1d(x[:, None], np.ones((2, 1, 3), x.dtype))
    return [
        mj.nn.logsumexp(x, 1),
        mj.nn.softmax(x, 1),
        np.where(flags, x * 2.0, x),
        np.sign(x) * x**3.0,
        windows,
        np.where(flags, x, 0.0).max(1),
    ]
