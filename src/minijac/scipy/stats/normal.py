"""Families of `scipy.stats` that follow from the normal."""

from __future__ import annotations

from math import log, pi, sqrt
from typing import Any

import numpy as np

from ... import special
from .exponential import expon
from .family import (
    LARGEST_POWER,
    LOG_ROOT_2PI,
    NEXT_TO_ZERO,
    ROOT_2PI,
    Family,
    beyond_zero,
    from_zero,
    log_rest,
    member,
    mirrored,
    not_negative,
    positive,
    through,
)

__all__ = [
    "alpha", "crystalball", "dpareto_lognorm", "exponnorm", "fatiguelife", "foldnorm", "genhyperbolic",
    "geninvgauss", "gibrat", "halfnorm", "invgauss", "johnsonsb", "johnsonsu", "levy", "levy_l", "lognorm", "moyal",
    "norm", "norminvgauss", "powerlognorm", "powernorm", "recipinvgauss", "rice", "skewnorm", "truncnorm", "wald",
]  # fmt: skip

norm = Family(
    "norm", "", lambda z: -0.5 * z * z - LOG_ROOT_2PI, special.ndtr, lambda z: special.ndtr(-z),
    log_distribution=special.log_ndtr, log_upper=lambda z: special.log_ndtr(-z),
)  # fmt: skip


def _log_normal_between(a: Any, b: Any) -> Any:
    """The logarithm of what the normal distribution has between a and b, in the tail where they lie."""
    a, b = np.clip(a, -1e9, 1e9), np.clip(b, -1e9, 1e9)
    low, high = np.where(a > 0, -b, a), np.where(a > 0, -a, b)
    most = special.log_ndtr(high)
    return most + log_rest(most - special.log_ndtr(low))


def _log_of_tail(z: Any) -> Any:
    """The logarithm of the normal distribution's upper tail over its density (Mills' ratio)."""
    return special.log_ndtr(-z) + 0.5 * z * z + LOG_ROOT_2PI


def _of_normal(
    name: str, shapes: str, to: Any, log_slope: Any, support: Any, valid: Any = positive
) -> Family:  # fmt: skip
    """The family of x of which ``to(x, *shapes)`` is normal; the logarithm of its derivative is `log_slope`."""
    return Family(
        name, shapes, lambda z, *args: norm.log_density(to(z, *args)) + log_slope(z, *args), support=support,
        valid=valid, **through(norm, to),
    )  # fmt: skip


lognorm = _of_normal("lognorm", "s", lambda z, s: np.log(z) / s, lambda z, s: -np.log(s * z), beyond_zero)
gibrat = member("gibrat", lognorm, 1.0)
johnsonsu = _of_normal(
    "johnsonsu", "a b", lambda z, a, b: a + b * np.arcsinh(z), lambda z, a, b: np.log(b) - 0.5 * np.log1p(z * z),
    lambda a, b: (-np.inf, np.inf),
    valid=lambda a, b: (b > 0) & (a == a),
)  # fmt: skip
johnsonsb = _of_normal(
    "johnsonsb", "a b", lambda z, a, b: a + b * special.logit(z), lambda z, a, b: np.log(b / z) - np.log1p(-z),
    lambda a, b: (NEXT_TO_ZERO, 1.0 - 1e-16),
    valid=lambda a, b: (b > 0) & (a == a),
)  # fmt: skip
fatiguelife = _of_normal(
    "fatiguelife", "c", lambda z, c: (np.sqrt(z) - np.sqrt(1.0 / z)) / c,
    lambda z, c: np.log1p(z) - np.log(2.0 * c) - 1.5 * np.log(z), beyond_zero,
)  # fmt: skip
halfnorm = Family(
    "halfnorm", "", lambda z: 0.5 * log(2 / pi) - z * z / 2, lambda z: special.erf(z * sqrt(0.5)),
    lambda z: special.erfc(z * sqrt(0.5)), from_zero,
)  # fmt: skip
foldnorm = Family(
    "foldnorm", "c", lambda z, c: norm.log_density(z - c) + np.log1p(np.exp(-2.0 * c * z)), support=from_zero,
    log_distribution=lambda z, c: _log_normal_between(-z - c, z - c),
    log_upper=lambda z, c: np.logaddexp(special.log_ndtr(c - z), special.log_ndtr(-c - z)),
    valid=not_negative,
)  # fmt: skip
truncnorm = Family(
    "truncnorm", "a b", lambda z, a, b: norm.log_density(z) - _log_normal_between(a, b), support=lambda a, b: (a, b),
    log_distribution=lambda z, a, b: _log_normal_between(a, z) - _log_normal_between(a, b),
    log_upper=lambda z, a, b: _log_normal_between(z, b) - _log_normal_between(a, b),
    valid=lambda a, b: a < b,
)  # fmt: skip
powernorm = Family(
    "powernorm", "c", lambda z, c: np.log(c) + norm.log_density(z) + (c - 1.0) * special.log_ndtr(-z),
    **through(expon, lambda z, c: -c * special.log_ndtr(-z)),
)  # fmt: skip
powerlognorm = Family(
    "powerlognorm", "c s", lambda z, c, s: powernorm.log_density(np.log(z) / s, c) - np.log(s * z),
    support=beyond_zero, **through(powernorm, lambda z, c, s: (np.log(z) / s, c)),
)  # fmt: skip
skewnorm = Family(
    "skewnorm", "a", lambda z, a: log(2) + norm.log_density(z) + special.log_ndtr(a * z),
    lambda z, a: np.maximum(special.ndtr(z) - 2.0 * special.owens_t(z, a), 0.0),
    lambda z, a: np.maximum(special.ndtr(-z) + 2.0 * special.owens_t(z, a), 0.0),
    valid=np.isfinite,
)  # fmt: skip


def _exponnorm_excess(z: Any, k: Any) -> Any:
    return 0.5 / (k * k) - z / k + special.log_ndtr(z - 1.0 / k)


exponnorm = Family(
    "exponnorm", "K", lambda z, k: _exponnorm_excess(z, k) - np.log(k),
    lambda z, k: special.ndtr(z) - np.exp(_exponnorm_excess(z, k)),
    lambda z, k: special.ndtr(-z) + np.exp(_exponnorm_excess(z, k)),
)  # fmt: skip
alpha = Family(
    "alpha", "a", lambda z, a: norm.log_density(a - 1.0 / z) - 2.0 * np.log(z) - special.log_ndtr(a),
    support=beyond_zero, log_distribution=lambda z, a: special.log_ndtr(a - 1.0 / z) - special.log_ndtr(a),
    log_upper=lambda z, a: _log_normal_between(a - 1.0 / z, a) - special.log_ndtr(a),
)  # fmt: skip


def _invgauss_tails(z: Any, m: Any) -> tuple[Any, Any, Any]:
    root = np.sqrt(1.0 / z)
    far = 2.0 / m + special.log_ndtr(-root * (z / m + 1.0))
    return special.log_ndtr(root * (z / m - 1.0)), special.log_ndtr(root * (1.0 - z / m)), far


def _invgauss_log_share(z: Any, m: Any) -> Any:
    lower, _, far = _invgauss_tails(z, m)
    return np.logaddexp(lower, far)


def _invgauss_log_upper(z: Any, m: Any) -> Any:
    _, upper, far = _invgauss_tails(z, m)
    return upper + log_rest(upper - far)


invgauss = Family(
    "invgauss", "mu", lambda z, m: -LOG_ROOT_2PI - 1.5 * np.log(z) - ((z - m) / m) ** 2 / (2.0 * z),
    support=beyond_zero, log_distribution=_invgauss_log_share, log_upper=_invgauss_log_upper,
)  # fmt: skip
wald = member("wald", invgauss, 1.0)
recipinvgauss = Family(
    "recipinvgauss", "mu", lambda z, m: -LOG_ROOT_2PI - 0.5 * np.log(z) - ((1.0 - m * z) / m) ** 2 / (2.0 * z),
    support=beyond_zero, **through(invgauss, lambda z, m: (1.0 / z, m), falling=True),
)  # fmt: skip
levy = Family(
    "levy", "", lambda z: -LOG_ROOT_2PI - 1.5 * np.log(z) - 0.5 / z, lambda z: special.erfc(np.sqrt(0.5 / z)),
    lambda z: special.erf(np.sqrt(0.5 / z)), beyond_zero,
)  # fmt: skip
levy_l = mirrored("levy_l", levy)
moyal = Family(
    "moyal", "", lambda z: -0.5 * (z + np.exp(-z)) - LOG_ROOT_2PI,
    lambda z: special.erfc(np.exp(-z / 2) * sqrt(0.5)), lambda z: special.erf(np.exp(-z / 2) * sqrt(0.5)),
    lambda: (-LARGEST_POWER, np.inf),
)  # fmt: skip


def _crystalball_gap(z: Any, b: Any, m: Any) -> Any:
    """How far z lies in the tail, which is a power of one more than this."""
    return np.where(z > -b, 0.0, -b - z) * b / m


def _crystalball_tail(b: Any, m: Any) -> tuple[Any, Any]:
    """What is in the tail, and in all, before they are scaled to one."""
    tail = m / b / (m - 1.0) * np.exp(-0.5 * b * b)
    return tail, tail + ROOT_2PI * special.ndtr(b)


def _crystalball_density(z: Any, b: Any, m: Any) -> Any:
    tail = -0.5 * b * b - m * np.log1p(_crystalball_gap(z, b, m))
    return np.where(z > -b, -0.5 * z * z, tail) - np.log(_crystalball_tail(b, m)[1])


def _crystalball_share(z: Any, b: Any, m: Any) -> Any:
    tail, whole = _crystalball_tail(b, m)
    middle = tail + ROOT_2PI * (special.ndtr(z) - special.ndtr(-b))
    return np.where(z > -b, middle, tail * (1.0 + _crystalball_gap(z, b, m)) ** (1.0 - m)) / whole


def _crystalball_upper(z: Any, b: Any, m: Any) -> Any:
    right = ROOT_2PI * special.ndtr(-z) / _crystalball_tail(b, m)[1]
    return np.where(z > -b, right, 1.0 - _crystalball_share(z, b, m))


crystalball = Family(
    "crystalball",
    "beta m",
    _crystalball_density,
    _crystalball_share,
    _crystalball_upper,
    valid=lambda b, m: (m > 1) & (b > 0),
)


def _dpareto_lognorm(z: Any, u: Any, s: Any, a: Any, b: Any) -> tuple[Any, Any, Any]:
    w = (np.log(z) - u) / s
    return w, _log_of_tail(a * s - w), _log_of_tail(b * s + w)


def _dpareto_lognorm_density(z: Any, u: Any, s: Any, a: Any, b: Any) -> Any:
    w, left, right = _dpareto_lognorm(z, u, s, a, b)
    return np.log(a * b / (a + b)) - np.log(z) + norm.log_density(w) + np.logaddexp(left, right)


def _dpareto_lognorm_share(z: Any, u: Any, s: Any, a: Any, b: Any) -> Any:
    w, left, right = _dpareto_lognorm(z, u, s, a, b)
    normal = norm.log_density(w)
    return special.ndtr(w) - (b * np.exp(normal + left) - a * np.exp(normal + right)) / (a + b)


dpareto_lognorm = Family(
    "dpareto_lognorm",
    "u s a b",
    _dpareto_lognorm_density,
    _dpareto_lognorm_share,
    support=beyond_zero,
    valid=lambda u, s, a, b: positive(s, a, b),
)
# -- with Bessel functions: densities alone ----------------------------------------------------------------------------
rice = Family(
    "rice",
    "b",
    lambda z, b: np.log(z) - 0.5 * (z - b) ** 2 + np.log(special.i0e(z * b)),
    support=from_zero,
    valid=not_negative,
)


def _norminvgauss_density(z: Any, a: Any, b: Any) -> Any:
    root, rate = np.hypot(1.0, z), np.sqrt((a - b) * (a + b))
    return np.log(a / pi * special.k1e(a * root) / root) + rate + b * z - a * root


def _genhyperbolic_density(z: Any, p: Any, a: Any, b: Any) -> Any:
    root, rate = np.hypot(1.0, z), np.sqrt((a - b) * (a + b))
    constant = p * np.log(rate) - (p - 0.5) * np.log(a) - LOG_ROOT_2PI - np.log(special.kve(p, rate)) + rate
    return constant + b * z - a * root + (p - 0.5) * np.log(root) + np.log(special.kve(p - 0.5, a * root))


norminvgauss = Family("norminvgauss", "a b", _norminvgauss_density, valid=lambda a, b: np.abs(b) < a)
genhyperbolic = Family(
    "genhyperbolic",
    "p a b",
    _genhyperbolic_density,
    valid=lambda p, a, b: ((p >= 0) & (np.abs(b) < a)) | ((p < 0) & (np.abs(b) <= a)),
)
geninvgauss = Family(
    "geninvgauss", "p b",
    lambda z, p, b: (p - 1.0) * np.log(z) - 0.5 * b * (z - 1.0) ** 2 / z - np.log(2.0 * special.kve(p, b)),
    support=beyond_zero,
    valid=lambda p, b: (p == p) & (b > 0),
)  # fmt: skip
