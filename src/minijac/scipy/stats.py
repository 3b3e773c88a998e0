"""Densities and distribution functions as `scipy.stats` names them, on traced values and plain arrays.

``norm.logpdf(x, loc, scale)``: every parameter may be traced, and all broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import Any, NamedTuple

import numpy as np

from .. import special
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..numpy.creation import asarray

__all__ = [
    "beta", "cauchy", "expon", "gamma", "gumbel_r", "laplace", "logistic", "lognorm", "norm", "pareto", "rayleigh", "t",
    "uniform", "weibull_min",
]  # fmt: skip


class Family(NamedTuple):
    """A continuous family: its standard density's logarithm, and its distribution function, of x and the shapes."""

    name: str
    shapes: int
    log_density: Callable[..., Any]
    distribution: Callable[..., Any] | None = None
    upper: Callable[..., Any] | None = None
    """One minus the distribution function, where that is more exact."""
    support: Callable[..., tuple[Any, Any]] = lambda *shapes: (-np.inf, np.inf)

    def _standard(self, x: Any, args: tuple[Any, ...], loc: Any, scale: Any) -> tuple[Any, tuple[Any, ...], Any]:
        shapes, rest = args[: self.shapes], args[self.shapes :]
        if len(shapes) < self.shapes:
            raise TypeError(f"{self.name}: expected {self.shapes} shape parameters, got {len(shapes)}")
        loc, scale = (*rest, *(loc, scale)[len(rest) :])
        return (asarray(x) - loc) / scale, tuple(map(asarray, shapes)), asarray(scale)

    def _within(self, z: Any, shapes: tuple[Any, ...]) -> tuple[Any, Any]:
        """Whether z lies in the support, and z with what does not put where the formulas hold."""
        low, high = self.support(*shapes)
        inside = (z >= low) & (z <= high)
        middle = 0.5 if np.isfinite(low) and np.isfinite(high) else low + 1.0 if np.isfinite(low) else 0.0
        return inside, np.where(inside, z, middle)

    def logpdf(self, x: Any, *args: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """The logarithm of the density."""
        z, shapes, scale = self._standard(x, args, loc, scale)
        inside, z = self._within(z, shapes)
        return np.where(inside, self.log_density(z, *shapes) - np.log(scale), -np.inf)

    def pdf(self, x: Any, *args: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """The density."""
        return np.exp(self.logpdf(x, *args, loc=loc, scale=scale))

    def cdf(self, x: Any, *args: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """The distribution function."""
        return self._share(self.distribution, "cdf", x, args, loc, scale, 0.0)

    def sf(self, x: Any, *args: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """One minus the distribution function."""
        if self.upper is None:
            return 1.0 - self.cdf(x, *args, loc=loc, scale=scale)
        return self._share(self.upper, "sf", x, args, loc, scale, 1.0)

    def logcdf(self, x: Any, *args: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """The logarithm of the distribution function."""
        if self is norm:
            return special.log_ndtr(self._standard(x, args, loc, scale)[0])
        return np.log(self.cdf(x, *args, loc=loc, scale=scale))

    def logsf(self, x: Any, *args: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """The logarithm of `sf`."""
        if self is norm:
            return special.log_ndtr(-self._standard(x, args, loc, scale)[0])
        return np.log(self.sf(x, *args, loc=loc, scale=scale))

    def _share(self, function: Any, name: str, x: Any, args: Any, loc: Any, scale: Any, below: float) -> Any:
        if function is None:
            raise UnsupportedOperationError(
                f"scipy.stats.{self.name}.{name} at {user_line()}: minijac has the density of this family, not its "
                "distribution function. Give it by minijac.custom."
            )
        z, shapes, _ = self._standard(x, args, loc, scale)
        low, high = self.support(*shapes)
        inside, safe = self._within(z, shapes)
        return np.where(inside, function(safe, *shapes), np.where(z < low, below, 1.0 - below))


def _positive(*shapes: Any) -> tuple[Any, Any]:
    return 0.0, np.inf


def _beta_density(z: Any, a: Any, b: Any) -> Any:
    return special.xlogy(a - 1.0, z) + special.xlog1py(b - 1.0, -z) - special.betaln(a, b)


def _t_density(z: Any, df: Any) -> Any:
    constant = special.gammaln((df + 1) / 2) - special.gammaln(df / 2) - 0.5 * np.log(pi * df)
    return constant - (df + 1) / 2 * np.log1p(z * z / df)


norm = Family("norm", 0, lambda z: -0.5 * (z * z + log(2 * pi)), special.ndtr, lambda z: special.ndtr(-z))
expon = Family("expon", 0, lambda z: -z, lambda z: -np.expm1(-z), lambda z: np.exp(-z), _positive)
logistic = Family(
    "logistic", 0, lambda z: special.log_expit(z) + special.log_expit(-z), special.expit, lambda z: special.expit(-z)
)
laplace = Family(
    "laplace", 0, lambda z: -np.abs(z) - log(2),
    lambda z: np.where(z < 0, 0.5 * np.exp(np.minimum(z, 0.0)), 1.0 - 0.5 * np.exp(-np.maximum(z, 0.0))),
    lambda z: np.where(z > 0, 0.5 * np.exp(-np.maximum(z, 0.0)), 1.0 - 0.5 * np.exp(np.minimum(z, 0.0))),
)  # fmt: skip
cauchy = Family(
    "cauchy", 0, lambda z: -np.log1p(z * z) - log(pi), lambda z: 0.5 + np.arctan(z) / pi,
    lambda z: 0.5 - np.arctan(z) / pi,
)  # fmt: skip
uniform = Family("uniform", 0, lambda z: 0.0 * z, lambda z: z, lambda z: 1.0 - z, lambda: (0.0, 1.0))
gumbel_r = Family(
    "gumbel_r", 0, lambda z: -z - np.exp(-z), lambda z: np.exp(-np.exp(-z)), lambda z: -np.expm1(-np.exp(-z))
)
rayleigh = Family(
    "rayleigh", 0, lambda z: np.log(z) - 0.5 * z * z, lambda z: -np.expm1(-0.5 * z * z), lambda z: np.exp(-0.5 * z * z),
    _positive,
)  # fmt: skip
lognorm = Family(
    "lognorm", 1, lambda z, s: -0.5 * (np.log(z) / s) ** 2 - np.log(s * z) - 0.5 * log(2 * pi),
    lambda z, s: special.ndtr(np.log(z) / s), lambda z, s: special.ndtr(-np.log(z) / s), _positive,
)  # fmt: skip
weibull_min = Family(
    "weibull_min", 1, lambda z, c: np.log(c) + special.xlogy(c - 1.0, z) - z**c, lambda z, c: -np.expm1(-(z**c)),
    lambda z, c: np.exp(-(z**c)), _positive,
)  # fmt: skip
pareto = Family(
    "pareto", 1, lambda z, b: np.log(b) - (b + 1.0) * np.log(z), lambda z, b: 1.0 - z**-b, lambda z, b: z**-b,
    lambda b: (1.0, np.inf),
)  # fmt: skip
gamma = Family("gamma", 1, lambda z, a: special.xlogy(a - 1.0, z) - z - special.gammaln(a), None, None, _positive)
beta = Family("beta", 2, _beta_density, None, None, lambda a, b: (0.0, 1.0))
t = Family("t", 1, _t_density)
