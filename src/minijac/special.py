"""Special functions as SciPy's `scipy.special` names them, on traced values and plain arrays of either backend.

SciPy is imported when a function is first called (``pip install minijac[special]``); on the GPU, CuPy's own. The ufuncs
of `scipy.special` itself also work on traced values, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .ops import special as _ops
from .ops.special import PAIRS as _PAIRS
from .ops.special import SPECIAL as _SPECIAL
from .ops.structural import normalised
from .special_forms import FORMS as _FORMS
from .tape.traced import Traced as _Traced

__all__ = ["log_softmax", "logsumexp", "softmax", *sorted({*_PAIRS, *_SPECIAL, *_FORMS, "digamma"})]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _several(ops: tuple[Any, ...]) -> Callable[..., tuple[Any, ...]]:
    return lambda *operands: tuple(op(*operands) for op in ops)


def logsumexp(a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False) -> Any:
    """``log(sum(b * exp(a)))`` along `axis`, without overflow; with `return_sign`, of the absolute value, and the sign.

    The derivative is the softmax. Where the largest entries are infinite, of either sign, they share it evenly; those
    of weight 0, in a plain array of weights, are left out.

    >>> import minijac as mj
    >>> mj.grad(logsumexp)(np.array([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    axes = normalised(axis, np.ndim(a))
    if b is None and not return_sign:
        return _ops.logsumexp(a, axis=axes, keepdims=keepdims)
    weighty = a if b is None else np.where(b != np.zeros_like(a), a, -np.inf)
    shift = _ops.peak(weighty, axis=axes)
    a = a if isinstance(b, _Traced) else weighty  # the derivative for a weight is that of its term, where it is 0 too
    terms = np.exp(a - shift) if b is None else b * np.exp(a - shift)
    total = terms.sum(axis=axes, keepdims=True)
    sign = np.sign(total)
    y = np.log(np.absolute(total) if return_sign else total) + shift
    if not keepdims:
        y, sign = np.squeeze(y, axes), np.squeeze(sign, axes)
    return (y, sign) if return_sign else y


def softmax(x: Any, axis: Any = None) -> Any:
    """``exp(x) / sum(exp(x))`` along `axis` (all of them for None); x: any shape, returns the same shape."""
    axes = normalised(axis, np.ndim(x))
    e = np.exp(x - _ops.peak(x, axis=axes))
    return e / e.sum(axis=axes, keepdims=True)


def log_softmax(x: Any, axis: Any = None) -> Any:
    """Logarithm of `softmax`, without overflow."""
    axes = normalised(axis, np.ndim(x))
    return x - _ops.logsumexp(x, axis=axes, keepdims=True)


_FUNCTIONS: dict[str, Callable[..., Any]] = {name: _several(ops) for name, ops in _PAIRS.items()}
_FUNCTIONS |= _SPECIAL | _FORMS | {"digamma": _SPECIAL["psi"]}
# what the ufuncs of scipy.special find when they meet a traced value
_Traced.special.update(_FUNCTIONS, riemann_zeta=_FORMS["zeta"])
_Traced.functions[np.i0] = _SPECIAL["i0"]
