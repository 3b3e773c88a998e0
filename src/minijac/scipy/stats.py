"""Densities and distribution functions as `scipy.stats` names them, on traced values and plain arrays.

``norm.logpdf(x, loc, scale)``: every parameter may be traced, and all broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi, sqrt
from typing import Any, NamedTuple

import numpy as np

from .. import special
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..numpy.creation import asarray

__all__ = [
    "arcsine", "beta", "burr12", "cauchy", "chi", "chi2", "dweibull", "expon", "exponnorm", "f", "fisk", "gamma",
    "gennorm", "genpareto", "gumbel_l", "gumbel_r", "halfcauchy", "halflogistic", "halfnorm", "hypsecant", "invgamma",
    "invgauss", "laplace", "levy", "logistic", "lognorm", "lomax", "maxwell", "moyal", "multivariate_normal",
    "nakagami", "norm", "pareto", "powerlaw", "rayleigh", "skewnorm", "t", "triang", "truncnorm", "uniform",
    "vonmises", "weibull_max", "weibull_min",
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
        below, above = np.isfinite(low), np.isfinite(high)
        with np.errstate(invalid="ignore"):
            one_sided = np.where(below, low + 1.0, np.where(above, high - 1.0, 0.0))
            middle = np.where(below & above, 0.5 * (low + high), one_sided)
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


def _f_density(z: Any, m: Any, n: Any) -> Any:
    powers = special.xlogy(m / 2, m / n) + special.xlogy(m / 2 - 1.0, z) - (m + n) / 2 * np.log1p(m * z / n)
    return powers - special.betaln(m / 2, n / 2)


def _inverse_gauss(z: Any, m: Any) -> Any:
    root = np.sqrt(1.0 / z)
    return special.ndtr(root * (z / m - 1.0)) + np.exp(2.0 / m + special.log_ndtr(-root * (z / m + 1.0)))


def _log_over(u: Any) -> Any:
    """``log(1 + u) / u``, also at zero."""
    return special.hyp2f1(1, 1, 2, -u)


def _right_of(z: Any, c: Any) -> Any:
    return (1.0 - z) / np.where(c < 1, 1.0 - c, 1.0)


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
gamma = Family(
    "gamma", 1, lambda z, a: special.xlogy(a - 1.0, z) - z - special.gammaln(a), lambda z, a: special.gammainc(a, z),
    lambda z, a: special.gammaincc(a, z), _positive,
)  # fmt: skip
beta = Family(
    "beta", 2, _beta_density, lambda z, a, b: special.betainc(a, b, z), lambda z, a, b: special.betaincc(a, b, z),
    lambda a, b: (0.0, 1.0),
)  # fmt: skip
t = Family("t", 1, _t_density, lambda z, df: special.stdtr(df, z), lambda z, df: special.stdtr(df, -z))
chi2 = Family(
    "chi2", 1, lambda z, k: special.xlogy(k / 2 - 1.0, z) - z / 2 - special.gammaln(k / 2) - k * (log(2) / 2),
    lambda z, k: special.gammainc(k / 2, z / 2), lambda z, k: special.gammaincc(k / 2, z / 2), _positive,
)  # fmt: skip
chi = Family(
    "chi", 1,
    lambda z, k: special.xlogy(k - 1.0, z) - z * z / 2 - special.gammaln(k / 2) - (k / 2 - 1.0) * log(2),
    lambda z, k: special.gammainc(k / 2, z * z / 2), lambda z, k: special.gammaincc(k / 2, z * z / 2), _positive,
)  # fmt: skip
invgamma = Family(
    "invgamma", 1, lambda z, a: -(a + 1.0) * np.log(z) - special.gammaln(a) - 1.0 / z,
    lambda z, a: special.gammaincc(a, 1.0 / z), lambda z, a: special.gammainc(a, 1.0 / z), _positive,
)  # fmt: skip
f = Family(
    "f", 2, _f_density, lambda z, m, n: special.betainc(m / 2, n / 2, m * z / (m * z + n)),
    lambda z, m, n: special.betaincc(m / 2, n / 2, m * z / (m * z + n)), _positive,
)  # fmt: skip
halfnorm = Family(
    "halfnorm", 0, lambda z: 0.5 * log(2 / pi) - z * z / 2, lambda z: special.erf(z * sqrt(0.5)),
    lambda z: special.erfc(z * sqrt(0.5)), _positive,
)  # fmt: skip
halfcauchy = Family(
    "halfcauchy", 0, lambda z: log(2 / pi) - np.log1p(z * z), lambda z: 2 / pi * np.arctan(z), None, _positive
)
halflogistic = Family(
    "halflogistic", 0, lambda z: log(2) - z - 2.0 * np.log1p(np.exp(-z)), lambda z: np.tanh(z / 2),
    lambda z: 2.0 * special.expit(-z), _positive,
)  # fmt: skip
maxwell = Family(
    "maxwell", 0, lambda z: 0.5 * log(2 / pi) + 2.0 * np.log(z) - z * z / 2,
    lambda z: special.gammainc(1.5, z * z / 2), lambda z: special.gammaincc(1.5, z * z / 2), _positive,
)  # fmt: skip
gumbel_l = Family("gumbel_l", 0, lambda z: z - np.exp(z), lambda z: -np.expm1(-np.exp(z)), lambda z: np.exp(-np.exp(z)))
hypsecant = Family(
    "hypsecant", 0, lambda z: -log(pi) - np.logaddexp(z, -z) + log(2), lambda z: 2 / pi * np.arctan(np.exp(z)),
    lambda z: 2 / pi * np.arctan(np.exp(-z)),
)  # fmt: skip
arcsine = Family(
    "arcsine", 0, lambda z: -log(pi) - 0.5 * np.log(z * (1.0 - z)), lambda z: 2 / pi * np.arcsin(np.sqrt(z)), None,
    lambda: (0.0, 1.0),
)  # fmt: skip
levy = Family(
    "levy", 0, lambda z: -0.5 * log(2 * pi) - 1.5 * np.log(z) - 0.5 / z, lambda z: special.erfc(np.sqrt(0.5 / z)),
    lambda z: special.erf(np.sqrt(0.5 / z)), _positive,
)  # fmt: skip
moyal = Family(
    "moyal", 0, lambda z: -0.5 * (z + np.exp(-z)) - 0.5 * log(2 * pi),
    lambda z: special.erfc(np.exp(-z / 2) * sqrt(0.5)), lambda z: special.erf(np.exp(-z / 2) * sqrt(0.5)),
)  # fmt: skip
powerlaw = Family(
    "powerlaw", 1, lambda z, a: np.log(a) + special.xlogy(a - 1.0, z), lambda z, a: z**a, None, lambda a: (0.0, 1.0)
)
lomax = Family(
    "lomax", 1, lambda z, c: np.log(c) - (c + 1.0) * np.log1p(z), lambda z, c: -np.expm1(-c * np.log1p(z)),
    lambda z, c: (1.0 + z) ** -c, _positive,
)  # fmt: skip
fisk = Family(
    "fisk", 1, lambda z, c: np.log(c) + (c - 1.0) * np.log(z) - 2.0 * np.log1p(z**c), lambda z, c: 1.0 / (1.0 + z**-c),
    lambda z, c: 1.0 / (1.0 + z**c), _positive,
)  # fmt: skip
burr12 = Family(
    "burr12", 2, lambda z, c, d: np.log(c * d) + special.xlogy(c - 1.0, z) - (d + 1.0) * np.log1p(z**c),
    lambda z, c, d: -np.expm1(-d * np.log1p(z**c)), lambda z, c, d: (1.0 + z**c) ** -d, _positive,
)  # fmt: skip
invgauss = Family(
    "invgauss", 1, lambda z, m: -0.5 * (log(2 * pi) + 3.0 * np.log(z)) - ((z - m) / m) ** 2 / (2.0 * z),
    _inverse_gauss, None, _positive,
)  # fmt: skip
weibull_max = Family(
    "weibull_max", 1, lambda z, c: np.log(c) + special.xlogy(c - 1.0, -z) - (-z) ** c,
    lambda z, c: np.exp(-((-z) ** c)), lambda z, c: -np.expm1(-((-z) ** c)), lambda c: (-np.inf, 0.0),
)  # fmt: skip
dweibull = Family("dweibull", 1, lambda z, c: np.log(c / 2) + special.xlogy(c - 1.0, np.abs(z)) - np.abs(z) ** c)
gennorm = Family("gennorm", 1, lambda z, b: np.log(b / 2) - special.gammaln(1.0 / b) - np.abs(z) ** b)
vonmises = Family("vonmises", 1, lambda z, k: k * (np.cos(z) - 1.0) - log(2 * pi) - np.log(special.i0e(k)))
skewnorm = Family(
    "skewnorm", 1, lambda z, a: log(2) - 0.5 * (z * z + log(2 * pi)) + special.log_ndtr(a * z),
    lambda z, a: special.ndtr(z) - 2.0 * special.owens_t(z, a),
    lambda z, a: special.ndtr(-z) + 2.0 * special.owens_t(z, a),
)  # fmt: skip
genpareto = Family(
    "genpareto", 1, lambda z, c: -(1.0 + c) * z * _log_over(c * z), lambda z, c: -np.expm1(-z * _log_over(c * z)),
    lambda z, c: np.exp(-z * _log_over(c * z)),
    lambda c: (0.0, np.where(c < 0, -1.0 / np.where(c < 0, c, -1.0), np.inf)),
)  # fmt: skip
truncnorm = Family(
    "truncnorm", 2, lambda z, a, b: -0.5 * (z * z + log(2 * pi)) - np.log(special.ndtr(b) - special.ndtr(a)),
    lambda z, a, b: (special.ndtr(z) - special.ndtr(a)) / (special.ndtr(b) - special.ndtr(a)), None,
    lambda a, b: (a, b),
)  # fmt: skip
nakagami = Family(
    "nakagami", 1,
    lambda z, m: log(2) + special.xlogy(m, m) - special.gammaln(m) + special.xlogy(2.0 * m - 1.0, z) - m * z * z,
    lambda z, m: special.gammainc(m, m * z * z), lambda z, m: special.gammaincc(m, m * z * z), _positive,
)  # fmt: skip
triang = Family(
    "triang", 1, lambda z, c: log(2) + np.log(np.where(z < c, z / np.where(c > 0, c, 1.0), _right_of(z, c))),
    lambda z, c: np.where(z < c, z * z / np.where(c > 0, c, 1.0), 1.0 - (1.0 - z) * _right_of(z, c)), None,
    lambda c: (0.0, 1.0),
)  # fmt: skip
exponnorm = Family(
    "exponnorm", 1, lambda z, k: 0.5 / (k * k) - z / k - np.log(k) + special.log_ndtr(z - 1.0 / k),
    lambda z, k: special.ndtr(z) - np.exp(0.5 / (k * k) - z / k + special.log_ndtr(z - 1.0 / k)),
)  # fmt: skip


class multivariate_normal:
    """The normal distribution of several dimensions: `logpdf` and `pdf` of points x: (..., d)."""

    @staticmethod
    def logpdf(x: Any, mean: Any = None, cov: Any = 1) -> Any:
        """The logarithm of the density, (...); cov: (d, d), (d,) for a diagonal, or a number."""
        x = asarray(x)
        x = x if mean is None else x - asarray(mean)
        d, cov = x.shape[-1], asarray(cov)
        L = np.linalg.cholesky(cov) if cov.ndim == 2 else np.sqrt(cov) * np.eye(d)
        white = np.linalg.solve(L, x[..., None])[..., 0]
        return -0.5 * ((white * white).sum(-1) + d * log(2 * pi)) - np.log(np.diagonal(L)).sum()

    @staticmethod
    def pdf(x: Any, mean: Any = None, cov: Any = 1) -> Any:
        """The density, (...)."""
        return np.exp(multivariate_normal.logpdf(x, mean, cov))
