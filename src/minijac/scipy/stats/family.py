"""What a family of `scipy.stats` is: its standard density and distribution function, moved and scaled to any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import log, pi, sqrt
from operator import and_
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError, UnsupportedOperationError
from ...lines import user_line
from ...numpy.creation import asarray

__all__ = [
    "LARGEST_POWER", "LOG_ROOT_2PI", "NEXT_TO_ZERO", "ROOT_2PI", "Family", "beyond_zero", "doubled", "from_zero",
    "inverse", "log_rest", "member", "mirrored", "not_negative", "positive", "through", "unit",
]  # fmt: skip

Function = Callable[..., Any]
ROOT_2PI = sqrt(2 * pi)
LOG_ROOT_2PI = 0.5 * log(2 * pi)
NEXT_TO_ZERO = 1e-45
"""The end of a support where the density falls to zero faster than any power, so that its formula does not hold."""

LARGEST_POWER = 700.0
"""Beyond it the density is zero by an exponential of an exponential, which overflows."""


def positive(*shapes: Any) -> Any:
    return reduce(and_, (shape > 0 for shape in shapes)) if shapes else True


def not_negative(shape: Any) -> Any:
    return shape >= 0


class Family(NamedTuple):
    """A continuous family: its standard density's logarithm, and its distribution function, of x and the shapes."""

    name: str
    shapes: str
    """Their names, as SciPy has them."""
    log_density: Function
    distribution: Function | None = None
    upper: Function | None = None
    """One minus the distribution function, where that is more exact; so are the logarithms."""
    support: Callable[..., tuple[Any, Any]] = lambda *shapes: (-np.inf, np.inf)
    log_distribution: Function | None = None
    log_upper: Function | None = None
    valid: Callable[..., Any] = positive
    """Whether there is a member with these shapes; where there is none, and for no positive scale, all is NaN."""

    def _standard(self, x: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, tuple[Any, ...], Any]:
        names = self.shapes.split()
        order = (*names, "loc", "scale")
        given = {"loc": 0.0, "scale": 1.0, **dict(zip(order, args, strict=False)), **named}
        if len(args) > len(order) or set(given) != set(order) or set(order[: len(args)]) & set(named):
            raise InputError(
                f"scipy.stats.{self.name} at {user_line()}: expected x, the {len(names)} shape parameters {names}, "
                f"then loc and scale, each once, got {len(args)} by position and {sorted(named)} by name."
            )
        scale = asarray(given["scale"])
        shapes = tuple(asarray(given[name]) for name in names)
        scale = np.where((scale > 0) & self.valid(*shapes), scale, np.nan)
        return (asarray(x) - given["loc"]) / scale, shapes, scale

    def _within(self, z: Any, shapes: tuple[Any, ...], ends: bool) -> tuple[Any, Any]:
        """Whether z lies in the support (NaN does), and z with what does not put where the formulas hold."""
        low, high = self.support(*shapes)
        outside = np.isinf(z) | ((z < low) | (z > high) if ends else (z <= low) | (z >= high))
        below, above = np.isfinite(low), np.isfinite(high)
        with np.errstate(invalid="ignore"):
            one_sided = np.where(below, low + 1.0, np.where(above, high - 1.0, 1.0))
            middle = np.where(below & above, 0.5 * (low + high), one_sided)
        return outside, np.where(outside, middle, z)

    def logpdf(self, x: Any, *args: Any, **named: Any) -> Any:
        """The logarithm of the density."""
        z, shapes, scale = self._standard(x, args, named)
        outside, z = self._within(z, shapes, ends=True)
        with np.errstate(divide="ignore"):
            return np.where(outside, -np.inf, self.log_density(z, *shapes) - np.log(scale))

    def pdf(self, x: Any, *args: Any, **named: Any) -> Any:
        """The density."""
        return np.exp(self.logpdf(x, *args, **named))

    def cdf(self, x: Any, *args: Any, **named: Any) -> Any:
        """The distribution function."""
        own = (self.distribution, self.log_distribution), (self.upper, self.log_upper)
        return self._share("cdf", _share_by(*own), x, args, named, (0.0, 1.0))

    def sf(self, x: Any, *args: Any, **named: Any) -> Any:
        """One minus the distribution function."""
        own = (self.upper, self.log_upper), (self.distribution, self.log_distribution)
        return self._share("sf", _share_by(*own), x, args, named, (1.0, 0.0))

    def logcdf(self, x: Any, *args: Any, **named: Any) -> Any:
        """The logarithm of the distribution function."""
        if self.log_distribution is None:
            return _log(self.cdf(x, *args, **named), self.upper and self.sf(x, *args, **named))
        return self._share("logcdf", self.log_distribution, x, args, named, (-np.inf, 0.0))

    def logsf(self, x: Any, *args: Any, **named: Any) -> Any:
        """The logarithm of `sf`."""
        if self.log_upper is None:
            return _log(self.sf(x, *args, **named), self.distribution and self.cdf(x, *args, **named))
        return self._share("logsf", self.log_upper, x, args, named, (0.0, -np.inf))

    def _share(self, name: str, function: Any, x: Any, args: Any, named: Any, beyond: tuple[float, float]) -> Any:
        if function is None:
            raise UnsupportedOperationError(
                f"scipy.stats.{self.name}.{name} at {user_line()}: minijac has the density of this family, not its "
                "distribution function. Give it by minijac.custom."
            )
        z, shapes, _ = self._standard(x, args, named)
        outside, safe = self._within(z, shapes, ends=False)
        inside = np.where(np.isnan(z), np.nan, function(safe, *shapes))  # a power of zero would hide it
        return np.where(outside, np.where(z <= self.support(*shapes)[0], *beyond), inside)


def _share_by(own: tuple[Function | None, Function | None], other: tuple[Function | None, Function | None]) -> Any:
    """A share by itself, by its logarithm, or by what is left of one."""
    plain, logarithm = own
    if plain is None and logarithm is not None:
        return lambda z, *shapes: np.exp(logarithm(z, *shapes))
    if plain is None and other != (None, None):
        rest = _share_by(other, (None, None))
        return lambda z, *shapes: 1.0 - rest(z, *shapes)
    return plain


def _log(share: Any, rest: Any) -> Any:
    """The logarithm of a share: where it is most, by the rest, if that is known by itself."""
    nothing, most = share == 0.0, share > 0.5
    if rest is None:
        return np.where(nothing, -np.inf, np.log(np.where(nothing, 1.0, share)))
    little = np.log(np.where(nothing | most, 1.0, share))
    return np.where(nothing, -np.inf, np.where(most, np.log1p(-np.where(most, rest, 0.0)), little))


def from_zero(*shapes: Any) -> tuple[Any, Any]:
    return 0.0, np.inf


def beyond_zero(*shapes: Any) -> tuple[Any, Any]:
    return NEXT_TO_ZERO, np.inf


def unit(*shapes: Any) -> tuple[Any, Any]:
    return 0.0, 1.0


def inverse(c: Any) -> Any:
    """1 / c, and infinity for zero."""
    return np.where(c == 0, np.inf, 1.0 / np.where(c == 0, 1.0, c))


def log_rest(h: Any) -> Any:
    """``log(1 - exp(-h))`` for positive h."""
    near = h < np.log(2.0)
    return np.where(near, np.log(-np.expm1(-np.where(near, h, 0.5))), np.log1p(-np.exp(-np.where(near, 1.0, h))))


def through(base: Family, to: Function, falling: bool = False) -> dict[str, Any]:
    """The distribution function, in its four forms, of that x of which ``to(x, *shapes)`` is distributed as `base` is.

    `to` returns a number, or with it base's shapes; it grows with x, or falls.
    """

    def of(function: Function | None) -> Function | None:
        def composed(z: Any, *shapes: Any) -> Any:
            found = to(z, *shapes)
            return function(*found) if isinstance(found, tuple) else function(found)  # type: ignore[misc]

        return function and composed

    names = ("distribution", "upper", "log_distribution", "log_upper")
    turned = ("upper", "distribution", "log_upper", "log_distribution") if falling else names
    return {name: of(getattr(base, source)) for name, source in zip(names, turned, strict=True)}


def mirrored(name: str, base: Family) -> Family:
    """The family of -x, with the same shapes."""

    def support(*shapes: Any) -> tuple[Any, Any]:
        low, high = base.support(*shapes)
        return -high, -low

    parts = through(base, lambda z, *shapes: (-z, *shapes), falling=True)
    return Family(
        name, base.shapes, lambda z, *shapes: base.log_density(-z, *shapes), support=support, valid=base.valid, **parts
    )


def member(name: str, base: Family, *shapes: float) -> Family:
    """One member as a family without shapes."""
    parts = through(base, lambda z: (z, *shapes))
    return Family(name, "", lambda z: base.log_density(z, *shapes), support=lambda: base.support(*shapes), **parts)


def doubled(name: str, base: Family) -> Family:
    """The family whose distance from zero is of `base`, and whose sign is either."""

    def share(z: Any, right: Any, *shapes: Any) -> Any:
        half = 0.5 * base.upper(np.where(z < 0, -z, z), *shapes)  # type: ignore[misc]
        return np.where(right, half, 1.0 - half)

    return Family(
        name, base.shapes, lambda z, *shapes: base.log_density(np.abs(z), *shapes) - np.log(2.0),
        lambda z, *shapes: share(z, z < 0, *shapes), lambda z, *shapes: share(z, z >= 0, *shapes),
        valid=base.valid,
    )  # fmt: skip
