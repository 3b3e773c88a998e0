"""Polynomials by their coefficients, highest power first, on traced values.

NumPy drops leading coefficients that happen to be zero from some results; here their number depends on shapes alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import is_complex, namespace
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..ops import eigen
from .linalg import real_if_numpys
from .protocol import as_array, as_arrays, implements


@implements(np.polyval)
def polyval(p: Any, x: Any) -> Any:
    p, x = as_arrays(p, x)
    y = np.zeros_like(x)
    for k in range(p.shape[0]):
        y = y * x + p[k]
    return y


def _aligned(a1: Any, a2: Any) -> tuple[Any, Any]:
    """Both with as many coefficients as the longer one has."""
    a, b = (np.reshape(x, (-1,)) for x in as_arrays(a1, a2))
    n = max(len(a), len(b))
    return np.pad(a, (n - len(a), 0)), np.pad(b, (n - len(b), 0))


@implements(np.polyadd)
def polyadd(a1: Any, a2: Any) -> Any:
    a, b = _aligned(a1, a2)
    return a + b


@implements(np.polysub)
def polysub(a1: Any, a2: Any) -> Any:
    a, b = _aligned(a1, a2)
    return a - b


@implements(np.polymul)
def polymul(a1: Any, a2: Any) -> Any:
    return np.convolve(*as_arrays(a1, a2))


@implements(np.polydiv)
def polydiv(u: Any, v: Any) -> tuple[Any, Any]:
    u, v = (np.reshape(x, (-1,)) for x in as_arrays(u, v))
    if len(u) < len(v):
        return np.zeros_like(u[:1]), u
    quotient = []
    for _ in range(len(u) - len(v) + 1):
        factor = u[0] / v[0]
        quotient.append(factor)
        u = np.concatenate([u[1 : len(v)] - factor * v[1:], u[len(v) :]])
    return np.stack(quotient), u if len(u) else np.zeros_like(v[:1])


@implements(np.polyder)
def polyder(p: Any, m: int = 1) -> Any:
    p = as_array(p)
    xp = namespace(p)
    for _ in range(m):
        p = p[:-1] * xp.arange(len(p) - 1, 0, -1)
    return p


@implements(np.polyint)
def polyint(p: Any, m: int = 1, k: Any = None) -> Any:
    p = as_array(p, k)
    xp = namespace(p)
    constants = np.broadcast_to(as_array(0.0 if k is None else k, p), (m,))
    for n in range(m):
        p = np.concatenate([p / xp.arange(len(p), 0, -1), constants[n : n + 1]])
    return p


@implements(np.polyfit)
def polyfit(
    x: Any, y: Any, deg: int, rcond: float | None = None, full: bool = False, w: Any = None, cov: Any = False
) -> Any:
    if full or cov:
        raise UnsupportedOperationError(f"numpy.polyfit at {user_line()}: expected full=False and cov=False.")
    x, y = as_arrays(x, y)
    powers, right = np.vander(x, deg + 1), y
    if w is not None:
        weights = as_array(w, x)
        powers = powers * np.expand_dims(weights, -1)
        right = y * (weights if y.ndim == 1 else np.expand_dims(weights, -1))
    # columns of length one: the same solution, with smaller errors
    scale = np.sqrt(np.square(powers).sum(axis=0))
    rcond = len(x) * float(np.finfo(x.dtype).eps) if rcond is None else rcond
    c = np.linalg.lstsq(powers / scale, right, rcond)[0]
    return c / (scale if c.ndim == 1 else np.expand_dims(scale, -1))


@implements(np.poly)
def poly(seq_of_zeros: Any) -> Any:
    zeros = as_array(seq_of_zeros)
    if zeros.ndim == 2:  # the characteristic polynomial
        result = poly(eigen.eig_values(zeros))
        return result if is_complex(zeros) else np.real(result)
    if zeros.ndim != 1:
        raise ValueError(f"numpy.poly at {user_line()}: expected zeros (n,) or a matrix (n, n), got {zeros.shape}.")
    p, nothing = (make(1, zeros.dtype) for make in (namespace(zeros).ones, namespace(zeros).zeros))
    for n in range(len(zeros)):
        p = np.concatenate([p, nothing]) - zeros[n] * np.concatenate([nothing, p])
    return p


@implements(np.roots)
def roots(p: Any) -> Any:
    """Their number depends on whether leading coefficients are zero; repeated ones have no derivative."""
    p = as_array(p)
    if p.ndim != 1:
        raise ValueError(f"numpy.roots at {user_line()}: expected coefficients (n,), got shape {p.shape}.")
    return real_if_numpys(eigen.polynomial_zeros(p), p)
