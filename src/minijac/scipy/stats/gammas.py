"""Families of `scipy.stats` that follow from the gamma and beta distributions, and Student's."""

from __future__ import annotations

from math import log, pi, sqrt
from typing import Any

import numpy as np

from ... import special
from .family import (
    LARGEST_POWER,
    LOG_ROOT_2PI,
    NEXT_TO_ZERO,
    Family,
    beyond_zero,
    doubled,
    from_zero,
    inverse,
    member,
    through,
    unit,
)
from .normal import norm

__all__ = [
    "arcsine", "argus", "beta", "betaprime", "chi", "chi2", "dgamma", "erlang", "f", "gamma", "gausshyper",
    "gengamma", "gennorm", "halfgennorm", "invgamma", "jf_skew_t", "loggamma", "maxwell", "nakagami", "ncf", "nct",
    "ncx2", "pearson3", "rdist", "semicircular", "t",
]  # fmt: skip

gamma = Family(
    "gamma", "a", lambda z, a: special.xlogy(a - 1.0, z) - z - special.gammaln(a),
    lambda z, a: special.gammainc(a, z), lambda z, a: special.gammaincc(a, z), from_zero,
)  # fmt: skip
beta = Family(
    "beta", "a b",
    lambda z, a, b: special.xlogy(a - 1.0, z) + special.xlog1py(b - 1.0, -z) - special.betaln(a, b),
    lambda z, a, b: special.betainc(a, b, z), lambda z, a, b: special.betaincc(a, b, z), unit,
)  # fmt: skip
betaprime = Family(
    "betaprime", "a b",
    lambda z, a, b: special.xlogy(a - 1.0, z) - (a + b) * np.log1p(z) - special.betaln(a, b),
    lambda z, a, b: special.betainc(a, b, z / (1.0 + z)), lambda z, a, b: special.betainc(b, a, 1.0 / (1.0 + z)),
    from_zero,
)  # fmt: skip
erlang = gamma._replace(name="erlang")
dgamma = doubled("dgamma", gamma)
chi2 = Family(
    "chi2", "df", lambda z, k: special.xlogy(k / 2 - 1.0, z) - z / 2 - special.gammaln(k / 2) - k * (log(2) / 2),
    support=from_zero, **through(gamma, lambda z, k: (z / 2, k / 2)),
)  # fmt: skip
chi = Family(
    "chi", "df",
    lambda z, k: special.xlogy(k - 1.0, z) - z * z / 2 - special.gammaln(k / 2) - (k / 2 - 1.0) * log(2),
    support=from_zero, **through(gamma, lambda z, k: (z * z / 2, k / 2)),
)  # fmt: skip
maxwell = Family(
    "maxwell", "", lambda z: 0.5 * log(2 / pi) + 2.0 * np.log(z) - z * z / 2, support=from_zero,
    **through(gamma, lambda z: (z * z / 2, 1.5)),
)  # fmt: skip
nakagami = Family(
    "nakagami", "nu",
    lambda z, m: log(2) + special.xlogy(m, m) - special.gammaln(m) + special.xlogy(2.0 * m - 1.0, z) - m * z * z,
    support=from_zero, **through(gamma, lambda z, m: (m * z * z, m)),
)  # fmt: skip
invgamma = Family(
    "invgamma", "a", lambda z, a: -(a + 1.0) * np.log(z) - special.gammaln(a) - 1.0 / z, support=beyond_zero,
    **through(gamma, lambda z, a: (1.0 / z, a), falling=True),
)  # fmt: skip
loggamma = Family(
    "loggamma",
    "c",
    lambda z, c: c * z - np.exp(z) - special.gammaln(c),
    support=lambda c: (-np.inf, LARGEST_POWER),
    **through(gamma, lambda z, c: (np.exp(z), c)),
)
halfgennorm = Family(
    "halfgennorm", "beta", lambda z, b: np.log(b) - special.gammaln(1.0 / b) - z**b, support=from_zero,
    **through(gamma, lambda z, b: (z**b, 1.0 / b)),
)  # fmt: skip
gennorm = doubled("gennorm", halfgennorm)
gengamma = Family(
    "gengamma", "a c", lambda z, a, c: np.log(np.abs(c)) + special.xlogy(c * a - 1.0, z) - z**c - special.gammaln(a),
    lambda z, a, c: np.where(c > 0, special.gammainc(a, z**c), special.gammaincc(a, z**c)),
    lambda z, a, c: np.where(c > 0, special.gammaincc(a, z**c), special.gammainc(a, z**c)),
    lambda a, c: (np.where(c > 0, 0.0, NEXT_TO_ZERO), np.inf),
    valid=lambda a, c: (a > 0) & (c != 0),
)  # fmt: skip


def _pearson3(z: Any, skew: Any) -> tuple[Any, Any, Any, Any]:
    """Whether it is next to normal, else the sign, the gamma distribution's argument and its shape."""
    normal = np.abs(skew) < 1.6e-5
    skew = np.where(normal, 1.0, skew)
    shape = 4.0 / (skew * skew)
    return normal, np.where(skew > 0, 1.0, -1.0), np.where(normal, 1.0, 2.0 * z / skew + shape), shape


def _pearson3_density(z: Any, skew: Any) -> Any:
    normal, _, y, shape = _pearson3(z, skew)
    return np.where(
        normal, norm.log_density(z) + skew * (z**3 - 3.0 * z) / 6, gamma.log_density(y, shape) + 0.5 * np.log(shape)
    )


def _pearson3_share(z: Any, skew: Any) -> Any:
    normal, sign, y, shape = _pearson3(z, skew)
    tail = np.where(sign > 0, special.gammainc(shape, y), special.gammaincc(shape, y))
    return np.where(normal, special.ndtr(z), tail)


pearson3 = Family(
    "pearson3", "skew", _pearson3_density, _pearson3_share, lambda z, skew: _pearson3_share(-z, -skew),
    lambda skew: (
        np.where(skew > 0, -2.0 * inverse(skew), -np.inf), np.where(skew < 0, -2.0 * inverse(skew), np.inf)
    ),
    valid=np.isfinite,
)  # fmt: skip


def _argus_share(z: Any, chi: Any) -> Any:
    return special.gammainc(1.5, 0.5 * chi * chi * (1.0 - z) * (1.0 + z))


argus = Family(
    "argus", "chi",
    lambda z, chi: (
        3.0 * np.log(chi) - LOG_ROOT_2PI - np.log(0.5 * _argus_share(0.0, chi)) + np.log(z)
        + 0.5 * np.log1p(-z * z) - 0.5 * chi * chi * (1.0 - z * z)
    ),
    None, lambda z, chi: _argus_share(z, chi) / _argus_share(0.0, chi), unit,
)  # fmt: skip
# -- of the beta distribution, and Student's ---------------------------------------------------------------------------


def _t_density(z: Any, df: Any) -> Any:
    constant = special.gammaln((df + 1) / 2) - special.gammaln(df / 2) - 0.5 * np.log(pi * df)
    return constant - (df + 1) / 2 * np.log1p(z * z / df)


t = Family("t", "df", _t_density, lambda z, df: special.stdtr(df, z), lambda z, df: special.stdtr(df, -z))
f = Family(
    "f", "dfn dfd", lambda z, m, n: betaprime.log_density(m * z / n, m / 2, n / 2) + np.log(m / n), support=from_zero,
    **through(betaprime, lambda z, m, n: (m * z / n, m / 2, n / 2)),
)  # fmt: skip


def _jf_skew_t_angle(z: Any, a: Any, b: Any) -> Any:
    return 2.0 * np.arcsinh(z / np.sqrt(a + b))


def _jf_skew_t_density(z: Any, a: Any, b: Any) -> Any:
    u = _jf_skew_t_angle(z, a, b)
    powers = (a + 0.5) * special.log_expit(u) + (b + 0.5) * special.log_expit(-u)
    return 2.0 * log(2) - special.betaln(a, b) - 0.5 * np.log(a + b) + powers


jf_skew_t = Family(
    "jf_skew_t", "a b", _jf_skew_t_density,
    **through(betaprime, lambda z, a, b: (np.exp(_jf_skew_t_angle(z, a, b)), a, b)),
)  # fmt: skip
rdist = Family(
    "rdist", "c", lambda z, c: special.xlog1py(c / 2 - 1.0, -z * z) - special.betaln(0.5, c / 2),
    support=lambda c: (-1.0, 1.0),
    **through(beta, lambda z, c: (0.5 * (1.0 + z), c / 2, c / 2)),
)  # fmt: skip
semicircular = member("semicircular", rdist, 3.0)
arcsine = Family(
    "arcsine", "", lambda z: -log(pi) - 0.5 * np.log(z * (1.0 - z)), lambda z: 2 / pi * np.arcsin(np.sqrt(z)),
    lambda z: 2 / pi * np.arcsin(np.sqrt(1.0 - z)), unit,
)  # fmt: skip
gausshyper = Family(
    "gausshyper", "a b c z",
    lambda x, a, b, c, z: (
        beta.log_density(x, a, b) - c * np.log1p(z * x) - np.log(special.hyp2f1(c, a, a + b, -z))
    ),
    support=unit,
    valid=lambda a, b, c, z: (a > 0) & (b > 0) & (c == c) & (z > -1),
)  # fmt: skip
# -- noncentral: densities alone ---------------------------------------------------------------------------------------


def _log_hyp0f1(b: Any, v: Any) -> Any:
    """By the Bessel function of order b - 1 where the argument is large."""
    small = v < 1.0
    near, far = np.where(small, v, 1.0), np.where(small, 1.0, v)
    y = 2.0 * np.sqrt(far)
    scaled = np.log(special.ive(b - 1.0, y)) + y - (b - 1.0) / 2 * np.log(far) + special.gammaln(b)
    return np.where(small, np.log(special.hyp0f1(b, near)), scaled)


ncx2 = Family(
    "ncx2", "df nc", lambda z, k, nc: chi2.log_density(z, k) - nc / 2 + _log_hyp0f1(k / 2, nc * z / 4),
    support=from_zero,
    valid=lambda df, nc: (df > 0) & np.isfinite(df) & (nc >= 0),
)  # fmt: skip
ncf = Family(
    "ncf", "dfn dfd nc",
    lambda z, m, n, nc: (
        f.log_density(z, m, n) - nc / 2 + np.log(special.hyp1f1((m + n) / 2, m / 2, nc / 2 * m * z / (m * z + n)))
    ),
    support=from_zero,
    valid=lambda m, n, nc: (m > 0) & (n > 0) & (nc >= 0),
)  # fmt: skip


def _nct_density(z: Any, df: Any, nc: Any) -> Any:
    """By Tricomi's function where the two of Kummer's would cancel."""
    a, root = (df + 1.0) / 2, np.sqrt(df + z * z)
    w = nc * z / root
    v, opposed = 0.5 * w * w, (w < 0) & (w * w > 1.0)
    near, far = np.where(opposed, 0.5, v), np.where(opposed, v, 0.5)
    even = special.hyp1f1(a, 0.5, near) * special.rgamma(df / 2 + 1.0)
    odd = sqrt(2) * np.where(opposed, 0.0, w) * special.hyp1f1(df / 2 + 1.0, 1.5, near) * special.rgamma(a)
    both = np.where(opposed, special.hyperu(a, 0.5, far) / sqrt(pi), even + odd)
    constant = df / 2 * np.log(df) + special.gammaln(df + 1.0) - df * log(2) - special.gammaln(df / 2) - nc * nc / 2
    return constant - (df + 1.0) * np.log(root) + np.log(both)


nct = Family("nct", "df nc", _nct_density, valid=lambda df, nc: (df > 0) & (nc == nc))
