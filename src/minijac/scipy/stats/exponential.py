"""Families of `scipy.stats` that follow from the exponential, the logistic and Laplace's."""

from __future__ import annotations

from math import log, pi
from typing import Any

import numpy as np

from ... import special
from .family import LARGEST_POWER, Family, beyond_zero, doubled, from_zero, inverse, log_rest, mirrored, through, unit

__all__ = [
    "burr", "burr12", "dweibull", "expon", "exponpow", "exponweib", "fisk", "genexpon", "genextreme",
    "genhalflogistic", "genlogistic", "genpareto", "gompertz", "gumbel_l", "gumbel_r", "halflogistic", "hypsecant",
    "invweibull", "kappa3", "kappa4", "laplace", "laplace_asymmetric", "logistic", "loglaplace", "lomax", "mielke",
    "pareto", "powerlaw", "rayleigh", "truncexpon", "truncpareto", "truncweibull_min", "weibull_max", "weibull_min",
]  # fmt: skip

expon = Family(
    "expon", "", lambda z: -z, lambda z: -np.expm1(-z), lambda z: np.exp(-z), from_zero,
    log_distribution=log_rest, log_upper=lambda z: -z,
)  # fmt: skip
logistic = Family(
    "logistic", "", lambda z: special.log_expit(z) + special.log_expit(-z), special.expit, lambda z: special.expit(-z),
    log_distribution=special.log_expit, log_upper=lambda z: special.log_expit(-z),
)  # fmt: skip
truncexpon = Family(
    "truncexpon", "b", lambda z, b: -z - np.log(-np.expm1(-b)), lambda z, b: np.expm1(-z) / np.expm1(-b),
    lambda z, b: np.exp(-z) * np.expm1(z - b) / np.expm1(-b), lambda b: (0.0, b),
)  # fmt: skip


def _log_over(u: Any) -> Any:
    """``log(1 + u) / u``, also at zero."""
    near = np.abs(u) < 0.5
    far = np.where(near, 1.0, u)
    return np.where(near, special.hyp2f1(1, 1, 2, -np.where(near, u, 0.0)), np.log1p(far) / far)


def _bent(z: Any, c: Any) -> Any:
    """``-log(1 - c z) / c``, and z where c is zero."""
    return z * _log_over(-c * z)


gumbel_r = Family(
    "gumbel_r", "", lambda z: -z - np.exp(-z), support=lambda: (-LARGEST_POWER, np.inf),
    **through(expon, lambda z: np.exp(-z), falling=True),
)  # fmt: skip
gumbel_l = mirrored("gumbel_l", gumbel_r)
rayleigh = Family(
    "rayleigh", "", lambda z: np.log(z) - 0.5 * z * z, support=from_zero, **through(expon, lambda z: 0.5 * z * z)
)
weibull_min = Family(
    "weibull_min", "c", lambda z, c: np.log(c) + special.xlogy(c - 1.0, z) - z**c, support=from_zero,
    **through(expon, lambda z, c: z**c),
)  # fmt: skip
weibull_max = mirrored("weibull_max", weibull_min)
dweibull = doubled("dweibull", weibull_min)
invweibull = Family(
    "invweibull", "c", lambda z, c: np.log(c) - (c + 1.0) * np.log(z) - z**-c, support=beyond_zero,
    **through(expon, lambda z, c: z**-c, falling=True),
)  # fmt: skip
exponweib = Family(
    "exponweib", "a c",
    lambda z, a, c: np.log(a * c) + special.xlogy(a - 1.0, -np.expm1(-(z**c))) + special.xlogy(c - 1.0, z) - z**c,
    support=from_zero, **through(expon, lambda z, a, c: -a * log_rest(z**c), falling=True),
)  # fmt: skip
truncweibull_min = Family(
    "truncweibull_min", "c a b",
    lambda z, c, a, b: (
        np.log(c) + special.xlogy(c - 1.0, z) - (z**c - a**c) - np.log(-np.expm1(a**c - b**c))
    ),
    support=lambda c, a, b: (a, b), **through(truncexpon, lambda z, c, a, b: (z**c - a**c, b**c - a**c)),
    valid=lambda c, a, b: (a >= 0) & (b > a) & (c > 0),
)  # fmt: skip
exponpow = Family(
    "exponpow", "b", lambda z, b: np.log(b) + special.xlogy(b - 1.0, z) + z**b - np.expm1(z**b),
    support=lambda b: (0.0, LARGEST_POWER ** (1.0 / b)),
    **through(expon, lambda z, b: np.expm1(z**b)),
)  # fmt: skip
pareto = Family(
    "pareto", "b", lambda z, b: np.log(b) - (b + 1.0) * np.log(z), support=lambda b: (1.0, np.inf),
    **through(expon, lambda z, b: b * np.log(z)),
)  # fmt: skip
truncpareto = Family(
    "truncpareto", "b c", lambda z, b, c: np.log(-b / np.expm1(-b * np.log(c))) - (b + 1.0) * np.log(z),
    support=lambda b, c: (1.0, c), **through(truncexpon, lambda z, b, c: (b * np.log(z), b * np.log(c))),
    valid=lambda b, c: (b != 0) & (c > 1),
)  # fmt: skip
genpareto = Family(
    "genpareto", "c", lambda z, c: -(1.0 + c) * _bent(z, -c),
    support=lambda c: (0.0, np.where(c < 0, -inverse(c), np.inf)), **through(expon, lambda z, c: _bent(z, -c)),
    valid=np.isfinite,
)  # fmt: skip
lomax = Family(
    "lomax", "c", lambda z, c: np.log(c) - (c + 1.0) * np.log1p(z), support=from_zero,
    **through(expon, lambda z, c: c * np.log1p(z)),
)  # fmt: skip
powerlaw = Family(
    "powerlaw", "a", lambda z, a: np.log(a) + special.xlogy(a - 1.0, z), support=unit,
    **through(expon, lambda z, a: -a * np.log(z), falling=True),
)  # fmt: skip
burr = Family(
    "burr", "c d", lambda z, c, d: np.log(c * d) + special.xlogy(c * d - 1.0, z) - (d + 1.0) * np.log1p(z**c),
    support=from_zero, **through(expon, lambda z, c, d: d * np.log1p(z**-c), falling=True),
)  # fmt: skip
burr12 = Family(
    "burr12", "c d", lambda z, c, d: np.log(c * d) + special.xlogy(c - 1.0, z) - (d + 1.0) * np.log1p(z**c),
    support=from_zero, **through(expon, lambda z, c, d: d * np.log1p(z**c)),
)  # fmt: skip
mielke = Family(
    "mielke", "k s", lambda z, k, s: np.log(k) + special.xlogy(k - 1.0, z) - (1.0 + k / s) * np.log1p(z**s),
    support=from_zero, **through(expon, lambda z, k, s: k / s * np.log1p(z**-s), falling=True),
)  # fmt: skip
kappa3 = Family(
    "kappa3", "a", lambda z, a: np.log(a) - (1.0 + 1.0 / a) * np.log(a + z**a), support=from_zero,
    **through(expon, lambda z, a: np.log1p(a * z**-a) / a, falling=True),
)  # fmt: skip
gompertz = Family(
    "gompertz", "c", lambda z, c: np.log(c) + z - c * np.expm1(z), support=lambda c: (0.0, LARGEST_POWER),
    **through(expon, lambda z, c: c * np.expm1(z)),
)  # fmt: skip


def _genexpon_hazard(z: Any, a: Any, b: Any, c: Any) -> Any:
    return (a + b) * z + b / c * np.expm1(-c * z)


genexpon = Family(
    "genexpon", "a b c", lambda z, a, b, c: np.log(a - b * np.expm1(-c * z)) - _genexpon_hazard(z, a, b, c),
    support=from_zero, **through(expon, _genexpon_hazard),
)  # fmt: skip
genlogistic = Family(
    "genlogistic", "c", lambda z, c: np.log(c) - z + (c + 1.0) * special.log_expit(z),
    **through(expon, lambda z, c: -c * special.log_expit(z), falling=True),
)  # fmt: skip


def _genextreme_support(c: Any) -> tuple[Any, Any]:
    """Below, the exponent is past `LARGEST_POWER`; that point is rounded inwards from 1 / c."""
    low = -LARGEST_POWER * special.exprel(np.minimum(LARGEST_POWER * c, 600.0))
    return (1.0 - 4e-16) * low, np.where(c > 0, inverse(c), np.inf)


genextreme = Family(
    "genextreme", "c", lambda z, c: -np.exp(-_bent(z, c)) - (1.0 - c) * _bent(z, c), support=_genextreme_support,
    **through(expon, lambda z, c: np.exp(-_bent(z, c)), falling=True),
    valid=np.isfinite,
)  # fmt: skip


def _kappa4_support(h: Any, k: Any) -> tuple[Any, Any]:
    start = np.log(np.where(h > 0, h, 1.0))
    lowest = np.where(k < 0, inverse(k), -np.inf)
    return np.where(h > 0, start * special.exprel(-k * start), lowest), np.where(k > 0, inverse(k), np.inf)


def _kappa4_hazard(z: Any, h: Any, k: Any) -> Any:
    """``_bent(exp(y), h)``, also where the exponential overflows."""
    y, falls = -_bent(z, k), h < 0
    large, slope = y > 700.0, np.where(falls, h, -1.0)
    far = np.where(falls, -(y + np.log(-slope)) / slope, np.inf)
    return np.where(large, far, _bent(np.exp(np.where(large, 0.0, y)), h))


kappa4 = Family(
    "kappa4", "h k", lambda z, h, k: -(1.0 - k) * _bent(z, k) - (1.0 - h) * _kappa4_hazard(z, h, k),
    support=_kappa4_support, **through(expon, _kappa4_hazard, falling=True),
    valid=lambda h, k: True,
)  # fmt: skip
# -- of the logistic and of Laplace's ----------------------------------------------------------------------------------
halflogistic = Family(
    "halflogistic", "", lambda z: log(2) - z - 2.0 * np.log1p(np.exp(-z)), lambda z: np.tanh(z / 2),
    lambda z: 2.0 * special.expit(-z), from_zero,
)  # fmt: skip
genhalflogistic = Family(
    "genhalflogistic", "c",
    lambda z, c: log(2) - (1.0 - c) * _bent(z, c) - 2.0 * np.log1p(np.exp(-_bent(z, c))),
    support=lambda c: (0.0, inverse(c)), **through(halflogistic, _bent),
)  # fmt: skip
fisk = Family(
    "fisk", "c", lambda z, c: np.log(c) + special.xlogy(c - 1.0, z) - 2.0 * np.log1p(z**c), support=from_zero,
    **through(logistic, lambda z, c: c * np.log(z)),
)  # fmt: skip
hypsecant = doubled("hypsecant", Family(
    "half", "", lambda z: log(4 / pi) - z - np.log1p(np.exp(-2.0 * z)), None,
    lambda z: 4 / pi * np.arctan(np.exp(-z)), from_zero,
))  # fmt: skip
laplace = doubled("laplace", expon)
loglaplace = Family(
    "loglaplace", "c", lambda z, c: np.log(c / 2) + special.xlogy(np.where(z < 1, c, -c) - 1.0, z),
    support=from_zero, **through(laplace, lambda z, c: c * np.log(z)),
)  # fmt: skip


def _laplace_asymmetric(z: Any, k: Any) -> tuple[Any, Any, Any]:
    """Whether z is to the right, and what is beyond it at its side: to the left, to the right."""
    right = z >= 0
    beyond = np.exp(np.where(right, -k, 1.0 / k) * z) / (1.0 + k * k)
    return right, k * k * beyond, beyond


def _laplace_asymmetric_share(z: Any, k: Any) -> Any:
    right, before, after = _laplace_asymmetric(z, k)
    return np.where(right, 1.0 - after, before)


def _laplace_asymmetric_upper(z: Any, k: Any) -> Any:
    right, before, after = _laplace_asymmetric(z, k)
    return np.where(right, after, 1.0 - before)


laplace_asymmetric = Family(
    "laplace_asymmetric", "kappa", lambda z, k: np.where(z >= 0, -k, 1.0 / k) * z - np.log(k + 1.0 / k),
    _laplace_asymmetric_share, _laplace_asymmetric_upper,
)  # fmt: skip
