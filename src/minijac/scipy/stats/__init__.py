"""Densities and distribution functions as `scipy.stats` names them, on traced values and plain arrays.

``norm.logpdf(x, loc, scale)``: every parameter may be traced, given by name too, and all broadcast. Formulas are those
of SciPy's documentation; most distribution functions are those of a few families `through` a change of x. Outside of
the support the density is zero, and so are its derivatives. Missing are the continuous families whose density has no
closed form (ksone, kstwo, kstwobign, landau, levy_stable, studentized_range, tukeylambda), and irwinhall.
"""

from __future__ import annotations

from math import log, pi
from typing import Any

import numpy as np

from ...errors import InputError
from ...lines import user_line
from ...numpy.creation import asarray
from . import angles, exponential, gammas, normal
from .angles import *  # noqa: F403
from .exponential import *  # noqa: F403
from .gammas import *  # noqa: F403
from .normal import *  # noqa: F403

__all__ = ["multivariate_normal"]
__all__ += angles.__all__
__all__ += exponential.__all__
__all__ += gammas.__all__
__all__ += normal.__all__


class multivariate_normal:
    """The normal distribution of several dimensions: `logpdf` and `pdf` of points x: (..., d), or (B,) where d is 1."""

    @staticmethod
    def logpdf(x: Any, mean: Any = None, cov: Any = 1) -> Any:
        """The logarithm of the density, (...). mean: (d,) or a number; cov: (d, d), (d,) of a diagonal, or a number."""
        x, cov, mean = asarray(x), asarray(cov), None if mean is None else asarray(mean)
        told = cov.shape or x.shape[1:] if mean is None else mean.shape  # a number has no say where x has points
        d = told[-1] if told else 1
        x = x[..., None] if d == 1 and x.ndim < 2 else x
        if x.shape[-1:] != (d,):
            raise InputError(
                f"scipy.stats.multivariate_normal at {user_line()}: expected points x: (..., {d}), as mean and cov are "
                f"of {d} dimensions, got {x.shape}."
            )
        x = x if mean is None else x - mean
        L = np.linalg.cholesky(cov) if cov.ndim == 2 else np.sqrt(cov) * np.eye(d)
        white = np.linalg.solve(L, x[..., None])[..., 0]
        return -0.5 * ((white * white).sum(-1) + d * log(2 * pi)) - np.log(np.diagonal(L)).sum()

    @staticmethod
    def pdf(x: Any, mean: Any = None, cov: Any = 1) -> Any:
        """The density, (...)."""
        return np.exp(multivariate_normal.logpdf(x, mean, cov))
