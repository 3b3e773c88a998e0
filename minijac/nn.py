"""Functions of neural networks, on traced values and plain arrays alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .ops import elementwise as _elementwise
from .ops.elementwise import relu, sigmoid, softplus

__all__ = [
    "gelu",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
]


def silu(x: Any) -> Any:
    """``x * sigmoid(x)``, elementwise."""
    return x * sigmoid(x)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """x where positive, else ``negative_slope * x``; derivative `negative_slope` at 0."""
    return np.where(x > 0, x, negative_slope * x)


def gelu(x: Any, approximate: str = "none") -> Any:
    """Gaussian error linear unit ``x Phi(x)``, elementwise; ``approximate="tanh"`` for the tanh form.

    The exact form needs SciPy (``pip install minijac[special]``). Source: Hendrycks and Gimpel, arXiv:1606.08415.
    """
    if approximate == "tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    if approximate != "none":
        raise ValueError(f"gelu: expected approximate='none' or 'tanh', got {approximate!r}")
    return 0.5 * x * (1.0 + _elementwise.erf(x * math.sqrt(0.5)))


def softmax(x: Any, axis: int = -1) -> Any:
    """``exp(x) / sum(exp(x))`` along `axis`; x: any shape, returns the same shape."""
    e = np.exp(x - _peak(x, axis))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """Logarithm of `softmax`, without overflow."""
    shifted = x - _peak(x, axis)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _peak(x: Any, axis: int) -> Any:
    """The maximum, as a constant: a shift that cancels needs no derivative."""
    from .backend import value_of

    return value_of(x).max(axis=axis, keepdims=True)


def layer_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, axis: Any = -1) -> Any:
    """Normalise along `axis` to mean 0 and variance 1, then scale and shift; x: (B, ..., n), weight and bias: (n,)."""
    centred = x - x.mean(axis=axis, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axis=axis, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
