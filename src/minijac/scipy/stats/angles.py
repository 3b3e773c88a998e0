"""Families of `scipy.stats` by angles, Cauchy's and those on a circle, and by straight lines."""

from __future__ import annotations

from math import log, pi, sqrt
from typing import Any

import numpy as np

from ... import special
from .family import Family, from_zero, not_negative, through, unit

__all__ = [
    "anglit", "bradford", "cauchy", "cosine", "foldcauchy", "halfcauchy", "loguniform", "reciprocal",
    "rel_breitwigner", "skewcauchy", "trapezoid", "triang", "uniform", "vonmises", "vonmises_line", "wrapcauchy",
]  # fmt: skip


def _cauchy_upper(z: Any) -> Any:
    return np.arctan2(1.0, z) / pi


cauchy = Family(
    "cauchy", "", lambda z: -np.log1p(z * z) - log(pi), lambda z: _cauchy_upper(-z), _cauchy_upper
)  # fmt: skip
halfcauchy = Family(
    "halfcauchy", "", lambda z: log(2 / pi) - np.log1p(z * z), lambda z: 2 / pi * np.arctan(z),
    lambda z: 2.0 * _cauchy_upper(z), from_zero,
)  # fmt: skip
foldcauchy = Family(
    "foldcauchy", "c", lambda z, c: np.logaddexp(cauchy.log_density(z - c), cauchy.log_density(z + c)),
    lambda z, c: (np.arctan(z - c) + np.arctan(z + c)) / pi,
    lambda z, c: _cauchy_upper(z - c) + _cauchy_upper(z + c), from_zero,
    valid=not_negative,
)  # fmt: skip


def _skewcauchy_upper(z: Any, a: Any) -> Any:
    left, right = (1.0 - a) * _cauchy_upper(-z / (1.0 - a)), (1.0 + a) * _cauchy_upper(z / (1.0 + a))
    return np.where(z < 0, 1.0 - left, right)


skewcauchy = Family(
    "skewcauchy", "a", lambda z, a: cauchy.log_density(z / np.where(z < 0, 1.0 - a, 1.0 + a)),
    lambda z, a: _skewcauchy_upper(-z, -a), _skewcauchy_upper,
    valid=lambda a: np.abs(a) < 1,
)  # fmt: skip


def _wrapcauchy_share(z: Any, c: Any) -> Any:
    return (0.5 * z + np.arctan(c * np.sin(z) / (1.0 - c * np.cos(z)))) / pi


wrapcauchy = Family(
    "wrapcauchy", "c",
    lambda z, c: np.log1p(-c * c) - log(2 * pi) - np.log(1.0 + c * c - 2.0 * c * np.cos(z)),
    _wrapcauchy_share, lambda z, c: _wrapcauchy_share(2 * pi - z, c), lambda c: (0.0, 2 * pi),
    valid=lambda c: (c > 0) & (c < 1),
)  # fmt: skip


def _rel_breitwigner_density(z: Any, r: Any) -> Any:
    root = np.hypot(r, 1.0)
    scale = np.log(sqrt(8.0) / pi * r * r * root) - 0.5 * np.log(r * (r + root))
    return scale - np.log(((z - r) * (z + r)) ** 2 + r * r)


def _rel_breitwigner_share(z: Any, r: Any) -> Any:
    """By partial fractions: ``1 / (z^2 - w)``, of which the integral is ``arctan(z / s) / s`` where ``s^2 = -w``."""
    s = np.sqrt(-r * (r + 1j))
    return np.exp(_rel_breitwigner_density(r, r)) * r * np.imag(np.arctan(z / s) / s)


rel_breitwigner = Family("rel_breitwigner", "rho", _rel_breitwigner_density, _rel_breitwigner_share, support=from_zero)
# -- straight, and on a circle -----------------------------------------------------------------------------------------
uniform = Family("uniform", "", lambda z: 0.0 * z, lambda z: z, lambda z: 1.0 - z, unit)
loguniform = Family(
    "loguniform", "a b", lambda z, a, b: -np.log(z) - np.log(np.log(b / a)),
    lambda z, a, b: np.log(z / a) / np.log(b / a), lambda z, a, b: np.log(b / z) / np.log(b / a),
    lambda a, b: (a, b),
    valid=lambda a, b: (a > 0) & (b > a),
)  # fmt: skip
reciprocal = loguniform._replace(name="reciprocal")
bradford = Family(
    "bradford", "c", lambda z, c: np.log(c / np.log1p(c)) - np.log1p(c * z),
    lambda z, c: np.log1p(c * z) / np.log1p(c), lambda z, c: np.log1p(c * (1.0 - z) / (1.0 + c * z)) / np.log1p(c),
    unit,
)  # fmt: skip


def _trapezoid_sides(z: Any, c: Any, d: Any) -> tuple[Any, Any, Any, Any]:
    """Whether z is on the left slope and on the right, and how high it is on each."""
    left, right = z / np.where(c > 0, c, 1.0), (1.0 - z) / np.where(d < 1, 1.0 - d, 1.0)
    return z < c, z > d, left, right


def _trapezoid_density(z: Any, c: Any, d: Any) -> Any:
    rising, sinking, left, right = _trapezoid_sides(z, c, d)
    return np.log(2.0 * np.where(rising, left, np.where(sinking, right, 1.0 + 0.0 * z)) / (d - c + 1.0))


def _trapezoid_share(z: Any, c: Any, d: Any) -> Any:
    rising, sinking, left, right = _trapezoid_sides(z, c, d)
    middle = np.where(sinking, d - c + 1.0 - (1.0 - z) * right, 2.0 * z - c)
    return np.where(rising, z * left, middle) / (d - c + 1.0)


trapezoid = Family(
    "trapezoid", "c d", _trapezoid_density, _trapezoid_share,
    lambda z, c, d: _trapezoid_share(1.0 - z, 1.0 - d, 1.0 - c), unit,
    valid=lambda c, d: (c >= 0) & (c <= d) & (d <= 1),
)  # fmt: skip
triang = Family(
    "triang",
    "c",
    lambda z, c: _trapezoid_density(z, c, c),
    support=unit,
    **through(trapezoid, lambda z, c: (z, c, c)),
    valid=lambda c: (c >= 0) & (c <= 1),
)
anglit = Family(
    "anglit", "", lambda z: np.log(np.cos(2.0 * z)), lambda z: np.sin(z + pi / 4) ** 2,
    lambda z: np.cos(z + pi / 4) ** 2, lambda: (-pi / 4, pi / 4),
)  # fmt: skip
cosine = Family(
    "cosine", "", lambda z: np.log1p(np.cos(z)) - log(2 * pi), lambda z: (pi + z + np.sin(z)) / (2 * pi),
    lambda z: (pi - z - np.sin(z)) / (2 * pi), lambda: (-pi, pi),
)  # fmt: skip
vonmises = Family(
    "vonmises", "kappa", lambda z, k: k * (np.cos(z) - 1.0) - log(2 * pi) - np.log(special.i0e(k)), valid=not_negative
)
vonmises_line = vonmises._replace(name="vonmises_line", support=lambda k: (-pi, pi))
