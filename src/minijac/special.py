"""Special functions as SciPy's `scipy.special` names them, on traced values and plain arrays of either backend.

SciPy is imported when a function is first called (``pip install minijac[special]``); on the GPU, CuPy's own. The ufuncs
of `scipy.special` itself also work on traced values, by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .ops import special as _ops
from .ops.special import SPECIAL as _SPECIAL
from .ops.structural import normalised
from .tape.traced import Traced as _Traced

erf, erfc, erfcx, erfinv, erfcinv = (_SPECIAL[name] for name in ("erf", "erfc", "erfcx", "erfinv", "erfcinv"))
ndtr, ndtri, log_ndtr = _SPECIAL["ndtr"], _SPECIAL["ndtri"], _SPECIAL["log_ndtr"]
gamma, rgamma, gammaln, loggamma = (_SPECIAL[name] for name in ("gamma", "rgamma", "gammaln", "loggamma"))
digamma = psi = _SPECIAL["psi"]
beta, betaln = _SPECIAL["beta"], _SPECIAL["betaln"]
expit, logit, log_expit = _SPECIAL["expit"], _SPECIAL["logit"], _SPECIAL["log_expit"]
entr, xlogy, xlog1py = _SPECIAL["entr"], _SPECIAL["xlogy"], _SPECIAL["xlog1py"]
rel_entr, kl_div = _SPECIAL["rel_entr"], _SPECIAL["kl_div"]
i0, i0e, i1, i1e = _SPECIAL["i0"], _SPECIAL["i0e"], _SPECIAL["i1"], _SPECIAL["i1e"]
exp10 = _SPECIAL["exp10"]

__all__ = [
    "beta", "betaln", "digamma", "entr", "erf", "erfc", "erfcinv", "erfcx", "erfinv", "exp10", "expit", "gamma",
    "gammaln", "i0", "i0e", "i1", "i1e", "iv", "ive", "kl_div", "log_expit", "log_ndtr", "log_softmax", "loggamma",
    "logit", "logsumexp", "ndtr", "ndtri", "polygamma", "psi", "rel_entr", "rgamma", "softmax", "xlog1py", "xlogy",
]  # fmt: skip


def polygamma(n: int, x: Any) -> Any:
    """The derivative of order `n` of `digamma`, elementwise; `n` is a number."""
    return _ops.polygamma(x, order=int(n))


def iv(v: int, x: Any) -> Any:
    """The modified Bessel function of the first kind, of integer order `v`, elementwise."""
    return _ops.iv(x, order=abs(int(v)))


def ive(v: int, x: Any) -> Any:
    """``iv(v, x) * exp(-abs(x))``, elementwise."""
    return _ops.ive(x, order=abs(int(v)))


def logsumexp(a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False) -> Any:
    """``log(sum(b * exp(a)))`` along `axis`, without overflow; with `return_sign`, of the absolute value, and the sign.

    The derivative is the softmax. Where the largest entries are infinite, of either sign, they share it evenly.

    >>> import minijac as mj
    >>> mj.grad(logsumexp)(np.array([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    axes = normalised(axis, np.ndim(a))
    if b is None and not return_sign:
        return _ops.logsumexp(a, axis=axes, keepdims=keepdims)
    shift = _ops.peak(a if b is None else np.where(b != 0, a, -np.inf), axis=axes)
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


# what the ufuncs of scipy.special find when they meet a traced value
_Traced.special.update(
    _SPECIAL, digamma=digamma, iv=iv, ive=ive, cbrt=np.cbrt, exp2=np.exp2, expm1=np.expm1, log1p=np.log1p
)
_Traced.functions[np.i0] = i0
