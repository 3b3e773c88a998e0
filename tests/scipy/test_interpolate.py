"""Splines and grids at traced points: values as SciPy's, derivatives as SciPy's own and as differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.interpolate
from helpers import close

import minijac as mj
from minijac.scipy import interpolate

RNG = np.random.default_rng(0)
KNOTS = np.sort(RNG.uniform(0, 5, 8))
Y, COLUMNS, ROWS = RNG.normal(size=8), RNG.normal(size=(8, 2)), RNG.normal(size=(3, 8))
ANYWHERE, INSIDE = RNG.uniform(-1, 6, (3, 4)), RNG.uniform(KNOTS[0], KNOTS[-1], (3, 4))
GRID = (np.linspace(0, 1, 5), np.linspace(0, 2, 6))
TABLE, TABLES = RNG.normal(size=(5, 6)), RNG.normal(size=(5, 6, 2))
POINTS = RNG.uniform(0.05, 0.95, (4, 2))
LOOPED = np.r_[Y[:-1], Y[0]]

CASES: dict[str, tuple[Any, np.ndarray]] = {
    **{
        f"{kind}, {name}": (lambda m, kind=kind, y=y, o=o: getattr(m, kind)(KNOTS, y, **o), ANYWHERE)
        for kind in ("CubicSpline", "PchipInterpolator", "Akima1DInterpolator")
        for name, y, o in (("one", Y, {}), ("columns", COLUMNS, {}), ("rows", ROWS, {"axis": 1}))
    },
    "derivative": (lambda m: m.CubicSpline(KNOTS, Y).derivative(), ANYWHERE),
    "antiderivative": (lambda m: m.CubicSpline(KNOTS, Y).antiderivative(), ANYWHERE),
    "periodic": (lambda m: m.CubicSpline(KNOTS, LOOPED, bc_type="periodic"), ANYWHERE),
    "nothing beyond": (lambda m: m.CubicSpline(KNOTS, Y, extrapolate=False), ANYWHERE),
    "B-spline": (lambda m: m.make_interp_spline(KNOTS, Y, k=3), INSIDE),
    "B-spline of columns": (lambda m: m.make_interp_spline(KNOTS, COLUMNS, k=3), ANYWHERE),
    "smoothing": (lambda m: m.UnivariateSpline(KNOTS, Y), INSIDE),
    **{
        f"interp1d, {kind}, {name}": (
            lambda m, kind=kind, y=y, o=o: m.interp1d(KNOTS, y, kind=kind, bounds_error=False, **o),
            ANYWHERE,
        )
        for kind in ("linear", "quadratic", "cubic")
        for name, y, o in (
            ("extrapolated", ROWS, {"fill_value": "extrapolate"}),
            ("two values", Y, {"fill_value": (0.0, 1.0)}),
        )
    },
    "grid": (lambda m: m.RegularGridInterpolator(GRID, TABLE, bounds_error=False), 3 * POINTS - 1),
    "interpn": (lambda m: lambda x: m.interpn(GRID, TABLE, x, bounds_error=False, fill_value=None), POINTS),
    "grid of vectors": (lambda m: m.RegularGridInterpolator(GRID, TABLES, bounds_error=False), POINTS),
    "grid, extrapolated": (
        lambda m: m.RegularGridInterpolator(GRID, TABLE, bounds_error=False, fill_value=None), 3 * POINTS - 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_at_traced_points(case):
    make, x = case
    f, truth = make(interpolate), make(scipy.interpolate)
    value, J = mj.value_and_jacobian(f, batch_axis=None)(x)
    close(value, truth(x), 1e-10, 1e-10)
    steps = 1e-6 * np.eye(x.size).reshape(-1, *x.shape)
    columns = [(truth(x + step) - truth(x - step)) / 2e-6 for step in steps]
    expected = np.stack(columns, -1).reshape(J.shape)
    known = np.isfinite(expected)
    close(J[known], expected[known], 1e-4, 1e-4)
    close(mj.jacobian(f, batch_axis=None, mode="reverse")(x), J)
    close(mj.compile(mj.jacobian(f, batch_axis=None))(x), J)
    assert f(x).shape == truth(x).shape


def test_slopes_are_the_splines_own():
    spline = scipy.interpolate.CubicSpline(KNOTS, Y)
    f = interpolate.followed(spline)
    close(mj.jacobian(lambda x: f(x).sum(1))(ANYWHERE), spline(ANYWHERE, 1))
    second = mj.hessian(lambda x: f(x).sum(1))(ANYWHERE)
    close(np.einsum("bii->bi", second), spline(ANYWHERE, 2))
    close(mj.jacobian(lambda x: f(x, 1).sum(1))(ANYWHERE), spline(ANYWHERE, 2))


def test_adapted_code_finds_splines_made_inside_and_outside():
    from scipy.interpolate import CubicSpline

    made = CubicSpline(KNOTS, Y)
    for f in (
        lambda x: made(x),
        lambda x: CubicSpline(KNOTS, Y)(x),
        lambda x: scipy.interpolate.CubicSpline(KNOTS, Y)(x),
    ):
        close(mj.jacobian(mj.adapt(f))(ANYWHERE), mj.jacobian(interpolate.followed(made))(ANYWHERE))


def test_what_cannot_be_followed_says_so():
    nearest = interpolate.interp1d(KNOTS, Y, kind="nearest")
    cubic = interpolate.RegularGridInterpolator(GRID, TABLE, method="cubic")
    for f, x in ((nearest, INSIDE), (cubic, POINTS), (interpolate.followed(scipy.interpolate.Rbf(KNOTS, Y)), INSIDE)):
        with pytest.raises(mj.UnsupportedOperationError, match="custom"):
            mj.jacobian(f, batch_axis=None)(x)
    for f, x in (
        (interpolate.interp1d(KNOTS, Y), ANYWHERE),
        (interpolate.RegularGridInterpolator(GRID, TABLE), 3 * POINTS),
    ):
        with pytest.raises(ValueError, match="outside"):
            mj.jacobian(f, batch_axis=None)(x)


AT, VALUES = np.array([0.0, 0.2, 0.5, 0.8, 1.0]), np.array([0.1, 0.5, 0.3, 0.9, 0.2])
BETWEEN = np.linspace(0.05, 0.95, 4)
OF_VALUES = {
    "CubicSpline": lambda si, y: si.CubicSpline(AT, y)(BETWEEN),
    "natural, at traced points": lambda si, y: si.CubicSpline(AT, np.stack([y, y**2], 1), bc_type="natural")(y),
    "a list": lambda si, y: si.CubicSpline(AT, [y[0], y[1], 1.0, y[2], y[3]])(BETWEEN, 1),
    "derivative": lambda si, y: si.CubicSpline(AT, y).derivative()(BETWEEN),
    "integral": lambda si, y: si.CubicSpline(AT, y).antiderivative()(BETWEEN),
    "interp1d, cubic, last axis": lambda si, y: si.interp1d(AT, np.stack([y, y**2]), kind="cubic")(BETWEEN),
    "interp1d, beyond": lambda si, y: si.interp1d(AT, y, fill_value="extrapolate")(2 * y - 0.3),
    "make_interp_spline": lambda si, y: si.make_interp_spline(AT, y, k=3)(BETWEEN),
    "BSpline": lambda si, y: si.BSpline([0, 0, 0, 0.3, 0.6, 1, 1, 1], y, 2)(BETWEEN),
}


@pytest.mark.parametrize("name", OF_VALUES)
def test_values_may_be_traced_where_a_spline_is_linear_in_them(name):
    f = lambda y: OF_VALUES[name](scipy.interpolate, y)
    g = mj.adapt(f)
    truth = np.stack([(f(VALUES + h) - f(VALUES - h)) / 2e-5 for h in 1e-5 * np.eye(5)], -1)
    for mode in ("forward", "reverse"):
        y, J = mj.value_and_jacobian(g, batch_axis=None, mode=mode)(VALUES)
        close(y, f(VALUES), 1e-13)
        close(J, truth, 1e-7, 1e-7)
        close(mj.compile(mj.jacobian(g, batch_axis=None, mode=mode))(VALUES), J)


@pytest.mark.parametrize(
    "make",
    [
        lambda si, y: si.CubicSpline(y, AT),
        lambda si, y: si.PchipInterpolator(AT, y),
        lambda si, y: si.interp1d(AT, y, fill_value=0.0, bounds_error=False),
        lambda si, y: si.CubicSpline(AT, y, bc_type=((1, 0.5), (1, 0.0))),
    ],
)
def test_what_is_not_linear_in_its_values_says_what_is(make):
    f = mj.adapt(lambda y: make(scipy.interpolate, y)(BETWEEN))
    with pytest.raises(mj.UnsupportedOperationError, match=r"scipy\.interpolate\.\w+ at .*values of CubicSpline"):
        mj.jacobian(f, batch_axis=None)(np.sort(VALUES))
