"""Splines and grids as `scipy.interpolate` names them, evaluated at traced points.

SciPy makes them, of plain knots: ``CubicSpline(x, y)(t)`` has derivatives by `t`. Where a spline is linear in its
values (`LINEAR`), these may be traced, too; it is then the sum of the splines of each value alone. `followed` does the
same for a spline that is there already.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import product
from math import factorial
from typing import Any, NamedTuple

import numpy as np

from ..backend import placed
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..numpy.creation import asarray, holds_traced
from ..numpy.indexing import looked_up as take
from ..tape.traced import Traced, is_traced

_KINDS = (
    "RegularGridInterpolator",
    "Akima1DInterpolator", "BSpline", "CubicHermiteSpline", "CubicSpline", "InterpolatedUnivariateSpline",
    "LSQUnivariateSpline", "PPoly", "PchipInterpolator", "UnivariateSpline", "interp1d", "make_interp_spline",
    "make_lsq_spline", "make_smoothing_spline",
)  # fmt: skip
__all__ = ["followed", "interpn", *_KINDS]

LINEAR = {"CubicSpline": 1, "make_interp_spline": 1, "interp1d": 1, "BSpline": 1}
"""Kinds that are linear in their values, and which argument these are."""


def followed(interpolant: Any) -> Any:
    """An interpolant of SciPy's, which takes traced points too.

    Raises UnsupportedOperationError for kinds that are not made of polynomials between knots, or linear on a grid.
    """
    return _Grid(interpolant) if type(interpolant).__name__ == "RegularGridInterpolator" else _Spline(interpolant)


def interpn(
    points: Any, values: Any, xi: Any, method: str = "linear", bounds_error: bool = True, fill_value: Any = np.nan
) -> Any:
    """``RegularGridInterpolator(points, values, ...)(xi)``"""
    return __getattr__("RegularGridInterpolator")(points, values, method, bounds_error, fill_value)(xi)


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    make = getattr(import_module("scipy.interpolate"), name)

    def made(*args: Any, **options: Any) -> Any:
        place = LINEAR.get(name, len(args))
        values = args[place] if place < len(args) else None
        combined = holds_traced(values) and _plain_ends(options)
        if any(holds_traced(x) for x in (*args, *options.values()) if not combined or x is not values):
            raise UnsupportedOperationError(
                f"scipy.interpolate.{name} at {user_line()}: got traced values, of which it makes a plain array. "
                f"Points may be traced, and values of {', '.join(LINEAR)}, by position, without values at the ends: "
                "make it of these, or give the derivative by minijac.custom."
            )
        if combined:
            axis = options.pop("axis", -1 if name == "interp1d" else 0)
            one = np.eye(np.shape(asarray(values))[axis])
            each = followed(make(*args[:place], one, *args[place + 1 :], axis=0, **options))
            return _Combined(each, np.moveaxis(asarray(values), axis, 0), axis % np.ndim(asarray(values)))
        return followed(make(*args, **options))

    return made


def _plain_ends(options: dict[str, Any]) -> bool:
    """Whether nothing is added that is no multiple of the values."""
    fill, ends = options.get("fill_value", np.nan), options.get("bc_type", "")
    return isinstance(ends, str | None) and (fill == "extrapolate" or fill is np.nan)


class _Combined(NamedTuple):
    """A spline of traced values: the splines of each value alone, as many as there are, multiplied by the values."""

    each: Any
    values: Any
    axis: int

    def __call__(self, x: Any, *args: Any, **options: Any) -> Any:
        found = np.tensordot(self.each(x, *args, **options), self.values, 1)
        places = range(np.ndim(x))
        return np.moveaxis(found, places, [self.axis + k for k in places]) if self.axis else found

    def derivative(self, nu: int = 1) -> _Combined:
        """Of the spline itself."""
        return self._replace(each=self.each.derivative(nu))

    def antiderivative(self, nu: int = 1) -> _Combined:
        """Of the spline itself."""
        return self._replace(each=self.each.antiderivative(nu))


class _Followed:
    """What is SciPy's, but for calls on traced points."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def _refuse(self, what: str) -> UnsupportedOperationError:
        return UnsupportedOperationError(
            f"{type(self._original).__name__} at {user_line()}: got traced points, and {what} is not followed. Give "
            "its derivative by minijac.custom."
        )


class _Spline(_Followed):
    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_traced(x):
            return self._original(x, *args, **kwargs)
        return self._interp1d(x) if hasattr(self._original, "fill_value") else self._polynomial(x, *args, **kwargs)

    def derivative(self, *args: Any) -> Any:
        """Of the spline itself, as SciPy has it."""
        return followed(self._original.derivative(*args))

    def antiderivative(self, *args: Any) -> Any:
        """Of the spline itself, as SciPy has it."""
        return followed(self._original.antiderivative(*args))

    def _polynomial(self, x: Traced, nu: int = 0, extrapolate: Any = None) -> Any:
        of, module = self._original, import_module("scipy.interpolate")
        extrapolate = getattr(of, "extrapolate", True) if extrapolate is None else extrapolate
        of = module.BSpline(*of._eval_args) if hasattr(of, "_eval_args") else of  # FITPACK's
        if isinstance(of, module.PPoly):
            of = of.derivative(nu) if nu else of
            c, knots = of.c, of.x
        elif hasattr(of, "tck"):
            c, knots = _pieces(of.derivative(nu) if nu else of)
        else:
            raise self._refuse("this kind")
        return _at(c, knots, x, extrapolate, getattr(of, "axis", 0))

    def _interp1d(self, x: Traced) -> Any:
        of = self._original
        kind, axis = of._kind, of.axis % np.ndim(of.y)
        if kind in ("linear", "slinear"):
            y = np.moveaxis(of.y, axis, 0)
            steps = np.diff(of.x).reshape((-1,) + (1,) * (y.ndim - 1))
            found = _at(np.stack([np.diff(y, axis=0) / steps, y[:-1]]), of.x, x, True, axis)
        elif kind == "spline":
            c, knots = _pieces(of._spline)
            found = _at(c.reshape(*c.shape[:2], *np.delete(np.shape(of.y), axis)), knots, x, True, axis)
        else:
            raise self._refuse(f"kind={kind!r}")
        below, above = x < of.x[0], x > of.x[-1]
        if of.bounds_error and bool(np.any(below | above)):
            raise ValueError(f"interp1d at {user_line()}: a point lies outside of {of.x[0]} to {of.x[-1]}")
        if of._extrapolate:
            return found
        wide = (...,) + (None,) * (found.ndim - x.ndim - axis)
        lead = (None,) * axis
        low, high = of._fill_value_below, of._fill_value_above
        return np.where(below[lead + wide], low, np.where(above[lead + wide], high, found))


def _pieces(spline: Any) -> tuple[Any, Any]:
    """The polynomials of a B-spline between its knots, by its derivatives there."""
    knots = np.unique(spline.t[spline.k : len(spline.t) - spline.k])
    of_order = [np.moveaxis(spline(knots[:-1], nu), spline.axis, 0) / factorial(nu) for nu in range(spline.k + 1)]
    return np.stack(of_order[::-1]), knots


def _at(c: Any, knots: Any, x: Traced, extrapolate: Any, axis: int) -> Any:
    """Polynomials between knots; c: (degree + 1, pieces, *values); the axes of `x` stand where `axis` was."""
    c, knots = (placed(np.asarray(a, np.result_type(a, x.dtype)), x) for a in (c, knots))
    first, last = knots[0], knots[-1]
    inside = (x >= first) & (x <= last)
    if extrapolate == "periodic":
        x = first + np.mod(x - first, last - first)
    piece = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    trailing = c.ndim - 2
    wide = (...,) + (None,) * trailing
    s = (x - take(knots, piece))[wide]
    found: Any = 0.0
    for of_power in c:
        found = found * s + take(of_power, piece, axis=0)
    if extrapolate is False:
        found = np.where(inside[wide], found, np.nan)
    return found if axis == 0 else np.moveaxis(found, range(x.ndim), range(axis, axis + x.ndim))


class _Grid(_Followed):
    def __call__(self, xi: Any, method: str | None = None, **kwargs: Any) -> Any:
        of = self._original
        if isinstance(xi, tuple | list) and any(map(is_traced, xi)):
            xi = np.stack(np.broadcast_arrays(*xi), -1)
        if not is_traced(xi):
            return of(xi, method, **kwargs)
        if (method or of.method) != "linear":
            raise self._refuse(f"method={method or of.method!r}")
        d, values = len(of.grid), of.values
        outside: Any = False
        ends, weights = [], []
        for k, knots in enumerate(of.grid):
            t, knots = xi[..., k], placed(knots, xi)
            piece = np.clip(np.searchsorted(knots, t, side="right") - 1, 0, len(knots) - 2)
            low, high = take(knots, piece), take(knots, piece + 1)
            share = (t - low) / (high - low)
            ends.append((piece, piece + 1))
            weights.append((1.0 - share, share))
            outside = outside | (t < knots[0]) | (t > knots[-1])
        if of.bounds_error and bool(np.any(outside)):
            raise ValueError(f"RegularGridInterpolator at {user_line()}: a point lies outside of the grid")
        flat = placed(values.reshape(-1, *values.shape[d:]), xi)
        wide = (...,) + (None,) * (values.ndim - d)
        found: Any = 0.0
        for corner in product((0, 1), repeat=d):
            place: Any = 0
            weight: Any = 1.0
            for k, side in enumerate(corner):
                place = place * values.shape[k] + ends[k][side]
                weight = weight * weights[k][side]
            found = found + weight[wide] * take(flat, place, axis=0)
        return found if of.fill_value is None else np.where(outside[wide], of.fill_value, found)
