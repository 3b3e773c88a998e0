"""What a structured Jacobian is made of, how much memory a call holds, and functions of every structure."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import random

import minijac as mj
from minijac.algebra.labels import Label
from minijac.algebra.terms import Term


def structured(f: Callable, x: Any, mode: str = "auto", **options: Any) -> Any:
    return mj.jacobian(f, structured=True, mode=mode, **options)(x)


def terms(J: Any) -> tuple[Term, ...]:
    return J.block.terms


def stored(term: Term) -> list[tuple[int, ...]]:
    """The shapes of a term's data."""
    return sorted(np.shape(factor.array) for factor in term.factors)


def data_labels(term: Term) -> set[Label]:
    return {label for factor in term.factors for label in factor.axes}


def offsets(J: Any) -> list[int]:
    """How far input positions are ahead of output positions along the features, for each term."""
    found = []
    for term in terms(J):
        (i,), (o,) = term.inp[1], term.out[1]
        found.append(getattr(i, "offset", 0) - getattr(o, "offset", 0))
    return sorted(found)


def peak_bytes(f: Callable[[], Any]) -> int:
    """The most memory that `f` holds at once; it runs once before, so that caches are filled."""
    f()
    gc.collect()
    tracemalloc.start()
    try:
        f()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def softmax(x: Any) -> Any:
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_without_shift(x: Any) -> Any:
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


W = random(6, 6)


FUNCTIONS = {
    "diagonal": np.sin,
    "identity": lambda x: x + 0.0,
    "shared": lambda x: x @ W,
    "dense": lambda x: np.tanh(x @ W) @ W,
    "banded": lambda x: np.roll(x, 1, axis=1) * x,
    "flipped": lambda x: x[:, ::-1] * 2.0,
    "regrouped": lambda x: np.sin(x).reshape(-1, 2, 3).transpose(0, 2, 1).reshape(-1, 6),
    "softmax": softmax_without_shift,
    "residual": lambda x: x + np.tanh(x @ W),
    "sum": lambda x: np.broadcast_to(x.sum(-1, keepdims=True), x.shape) * x,
    "gather": lambda x: x[:, [0, 0, 5, 2, 2, 1]],
    "zero": lambda x: np.floor(x) + 0.0 * x,
}
