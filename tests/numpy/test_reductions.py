"""Reductions, running reductions and differences of NumPy on traced values: values, both modes, second order, kinks."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import close
from numpy_harness import ENDS, Case, cases, check, check_mixes, one, whole

import minijac as mj

NAN, INF = np.nan, np.inf
HOLES = [[[1.0, NAN, 3.0, -2.0], [NAN, 5.0, 4.0, 0.5], [2.0, 1.5, -1.0, 7.0]]]
EMPTY_ROW = [[[NAN, NAN], [1.0, NAN], [2.0, 3.0]]]


def last(y):
    """The axis of the quantiles, which NumPy puts in front, behind the samples."""
    return np.moveaxis(y, 0, -1)


REDUCTIONS = {
    "sum": one(lambda x: np.sum(x, axis=-1), 2, 4),
    "sum of several axes": one(lambda x: np.sum(x * x, axis=(1, -1)), 2, 4, second=True),
    "sum, keepdims": one(lambda x: x * np.sum(x, 1, keepdims=True) + x.sum((1, 2), keepdims=True), 2, 4, second=True),
    "sum, dtype": one(lambda x: np.sum(x, 1, dtype=np.float64) + x.sum(-1, np.float64), 4),
    "sum of everything": whole(lambda x: np.sum(x) * x.sum(), 2, 3, second=True),
    "add.reduce": one(lambda x: np.add.reduce(x, axis=1), 2, 4),
    "mean": one(lambda x: np.mean(x, axis=1) + x.mean(-1).sum(1, keepdims=True), 2, 4),
    "mean, keepdims": one(lambda x: (x - x.mean((1, 2), keepdims=True)) ** 2, 2, 3, second=True),
    "var": one(lambda x: np.var(x, axis=-1), 2, 4, second=True),
    "var, ddof": one(lambda x: x.var((1, 2), ddof=1, keepdims=True), 2, 4),
    "var, correction": one(lambda x: np.var(x, axis=1, correction=1), 4),
    "var about a mean": one(lambda x: np.var(x, axis=1, mean=x.mean(1, keepdims=True)), 4),
    "std": one(lambda x: np.std(x, axis=-1), 2, 4, second=True),
    "std, ddof": one(lambda x: x.std(1, ddof=1, keepdims=True) * x, 4),
    "average": one(lambda x: np.average(x, axis=1), 2, 3),
    "average with weights": Case(
        lambda x, w: np.average(x, axis=1, weights=w), ((2, 3), (2, 3)), 0.2, 2.0, second=True
    ),
    "average with fixed weights": one(lambda x: np.average(x, axis=2, weights=[1.0, 2.0, 3.0]), 2, 3),
    "average of several axes": one(
        lambda x: np.average(x, axis=(2, 1), weights=np.arange(1.0, 7.0).reshape(3, 2), returned=True), 2, 3
    ),
    "average, returned": Case(
        lambda x, w: np.average(x, axis=-1, weights=w, returned=True, keepdims=True), ((3,), (3,)), 0.2, 2.0
    ),
    "prod": one(lambda x: np.prod(x, axis=-1), 5, second=True),
    "prod of several axes": one(
        lambda x: x.prod((1, 2)) + np.prod(x, (2, 1), keepdims=True)[:, 0, 0], 2, 3, second=True
    ),
    "prod of two, of one, of none": one(lambda x: np.prod(x[:, :2], 1) + x[:, :1].prod(1) + x[:, :0].prod(1), 3),
    "multiply.reduce": one(lambda x: np.multiply.reduce(x, axis=1), 3),
    "logaddexp.reduce": one(lambda x: np.logaddexp.reduce(x, axis=1), 5, second=True),
    "logaddexp.accumulate": one(lambda x: np.logaddexp.accumulate(x, 1) + np.logaddexp2.accumulate(x, axis=1), 5),
    "max": one(lambda x: np.max(x, axis=-1), 2, 4),
    "max of several axes": one(lambda x: x.max((1, 2), keepdims=True) * x, 2, 4, second=True),
    "min": one(lambda x: np.min(x, axis=1) + np.amin(x, 1) - x.min(axis=1, keepdims=True)[:, 0], 2, 4),
    "maximum.reduce": one(lambda x: np.maximum.reduce(x, axis=1) + np.minimum.reduce(x, axis=1), 4),
    "ptp": one(lambda x: np.ptp(x, axis=1) ** 2, 4, second=True),
    "ptp, keepdims": one(lambda x: np.ptp(x, axis=(1, 2), keepdims=True), 2, 4),
    "apply_over_axes": one(lambda x: np.apply_over_axes(np.sum, x * x, [1, 2]), 2, 3),
}
QUANTILES = {
    "median": one(lambda x: np.median(x, axis=1), 5),
    "median, even": one(lambda x: np.median(x, axis=-1) ** 2, 2, 4, second=True),
    "median of several axes": one(lambda x: np.median(x, axis=(1, 2), keepdims=True), 2, 3),
    "median of everything": whole(lambda x: np.median(x) * x, 2, 3),
    "quantile": one(lambda x: np.quantile(x, 0.3, axis=1), 5),
    "quantiles": one(lambda x: last(np.quantile(x, [0.0, 0.25, 1.0], axis=-1)), 2, 5),
    "quantiles in rows": one(lambda x: last(last(np.quantile(x, [[0.1, 0.2], [0.3, 0.4]], axis=1))), 5),
    "percentile": one(lambda x: np.percentile(x, 40, axis=1)[:, None] + last(np.percentile(x, [10, 90], axis=1)), 7),
    "percentile, keepdims": one(lambda x: x - np.percentile(x, 75, axis=-1, keepdims=True), 6),
    "quantile of several axes": one(lambda x: np.quantile(x, 0.6, axis=(1, 2), keepdims=True), 2, 3),
    **{f"quantile, {method}": one(lambda x, method=method: last(np.quantile(x, [0.13, 0.8], axis=1, method=method)), 6)
       for method in (
           "inverted_cdf", "averaged_inverted_cdf", "closest_observation", "interpolated_inverted_cdf", "hazen",
           "weibull", "median_unbiased", "normal_unbiased", "lower", "higher", "midpoint", "nearest",
       )},
}  # fmt: skip
OVER_NAN = {
    **{f.__name__: Case(lambda x, f=f: f(x, axis=1), points=HOLES, second=True) for f in (
        np.nansum, np.nanprod, np.nanmean, np.nanvar, np.nanstd, np.nanmax, np.nanmin, np.nanmedian, np.nancumsum,
        np.nancumprod,
    )},
    "keepdims": Case(
        lambda x: np.nansum(x, 1, keepdims=True) + np.nanmean(x, 1, keepdims=True) + np.nanmax(x, 1, keepdims=True),
        points=HOLES,
    ),
    "ddof": Case(lambda x: np.nanvar(x, axis=1, ddof=1) + np.nanstd(x, 1, ddof=1), points=HOLES),
    "nanquantile": Case(lambda x: last(np.nanquantile(x, [0.2, 0.5], axis=1)), points=HOLES),
    "nanpercentile": Case(lambda x: np.nanpercentile(x, 70, axis=1, method="hazen", keepdims=True), points=HOLES),
    "no NaN": one(lambda x: np.nanmean(x, 1) * np.nanmedian(x, 1) + np.nanstd(x, 1) + np.nanmax(x, 1), 4),
    "a sample of NaN alone": Case(lambda x: np.nansum(x, 1) + np.nanprod(x, 1), points=EMPTY_ROW),
}  # fmt: skip
RUNNING = {
    "cumsum": one(lambda x: np.cumsum(x, axis=1) ** 2, 5, second=True),
    "cumsum, inner axis": one(lambda x: x.cumsum(1) + np.cumsum(x, axis=-1), 2, 3),
    "cumsum, flat": whole(lambda x: np.cumsum(x * x), 2, 3, second=True),
    "cumsum, dtype": one(lambda x: np.cumsum(x, axis=1, dtype=np.float64), 3),
    "add.accumulate": one(lambda x: np.add.accumulate(x, axis=1) * np.multiply.accumulate(x, axis=1), 4),
    "cumprod": one(lambda x: np.cumprod(x, axis=1), 6, second=True),
    "cumprod, inner axis": one(lambda x: x.cumprod(1) + np.cumprod(x, -1), 2, 3),
    "cumprod, flat": whole(lambda x: np.cumprod(x), 2, 3),
    "cumulative_sum": one(lambda x: np.cumulative_sum(x, axis=1, include_initial=True), 4),
    "cumulative_prod": one(lambda x: np.cumulative_prod(x, axis=-1, include_initial=True), 4),
}
DIFFERENCES = {
    "diff": one(lambda x: np.diff(x) ** 2, 5, second=True),
    "diff twice": one(lambda x: np.diff(x, n=2, axis=1) + np.diff(x, 0, 1)[:, 2:], 5, 2),
    "diff with ends": Case(lambda x, y: np.diff(x, prepend=y, append=np.array([[1.0]] * len(x)), axis=1), ((4,), (2,))),
    "diff with a number": one(lambda x: np.diff(x, prepend=0.0, append=1.0), 4),
    "ediff1d": whole(lambda x: np.ediff1d(x * x, to_begin=[1.0, 2.0], to_end=x[0, :1]), 2, 3),
    "gradient": one(lambda x: np.gradient(x, axis=1), 5),
    "gradient, spacing": one(lambda x: np.gradient(x * x, 0.3, axis=1, edge_order=2), 5, second=True),
    "gradient, coordinates": one(lambda x: np.gradient(x, np.array([0.0, 0.1, 0.4, 1.0, 3.0]), axis=1), 5),
    "gradient, coordinates, second order": one(
        lambda x: np.gradient(x, np.array([0.0, 0.1, 0.4, 1.0, 3.0]), axis=-1, edge_order=2), 2, 5
    ),
    "gradient of several axes": one(lambda x: np.gradient(x, 0.5, [1.0, 2.0, 4.0], axis=(1, 2)), 4, 3),
    "gradient of two entries": one(lambda x: np.gradient(x, axis=-1), 2),
    "gradient in its spacing": whole(lambda h: np.gradient(np.array([1.0, 4.0, 2.0]), h[0]), 1, low=0.5),
    "gradient in its coordinates": whole(lambda t: np.gradient(t * t, np.cumsum(np.exp(t)), edge_order=2), 4),
    "trapezoid": one(lambda x: np.trapezoid(x * x, dx=0.1), 5, second=True),
    "trapezoid over x": Case(lambda y, x: np.trapezoid(y, x, axis=1), ((4, 2), (4, 2))),
    "trapezoid over fixed x": one(lambda y: np.trapezoid(y, [0.0, 1.0, 3.0, 3.5], axis=1), 4, 2),
    "cov": whole(lambda x: np.cov(x), 3, 5, second=True),
    "cov, columns": whole(lambda x: np.cov(x, rowvar=False, bias=True), 5, 2),
    "cov of two": Case(lambda x, y: np.cov(x, y, ddof=0), ((5,), (5,)), axis=None),
    "cov with weights": whole(lambda x: np.cov(x, fweights=[1, 2, 1, 3], aweights=[0.5, 1.0, 2.0, 1.0]), 2, 4),
    "corrcoef": whole(lambda x: np.corrcoef(x), 3, 5),
}


@cases(REDUCTIONS)
def test_reductions(case):
    check(case)


@cases(QUANTILES)
def test_quantiles(case):
    check(case)


@cases(OVER_NAN)
def test_reductions_that_pass_over_nan(case):
    check(case)


@cases(RUNNING)
def test_running_reductions(case):
    check(case)


@cases(DIFFERENCES)
def test_differences_and_integrals(case):
    check(case)


# --- kinks and hazards --------------------------------------------------------------------------------------
# name: f of (B, n), one sample, the derivative of the (B,) output, second derivatives or None

HAZARDS = {
    "prod, one zero": (lambda x: x.prod(1), [2.0, 0.0, 3.0], [0, 6, 0], [[0, 3, 0], [3, 0, 2], [0, 2, 0]]),
    "prod, two zeros": (lambda x: x.prod(1), [0.0, 0.0, 3.0], [0, 0, 0], [[0, 3, 0], [3, 0, 0], [0, 0, 0]]),
    "prod, all zero": (lambda x: x.prod(1), [0.0, 0.0, 0.0], [0, 0, 0], np.zeros((3, 3))),
    "prod, subnormal": (lambda x: x.prod(1), [1e-320, 2.0], [2, 1e-320], [[0, 1], [1, 0]]),
    "cumprod over a zero": (
        lambda x: x.cumprod(1)[:, -1],
        [2.0, 0.0, 3.0],
        [0, 6, 0],
        [[0, 3, 0], [3, 0, 2], [0, 2, 0]],
    ),
    "nanprod": (lambda x: np.nanprod(x, 1), [2.0, NAN, 0.0], [0, 0, 2], [[0, 0, 1], [0, 0, 0], [1, 0, 0]]),
    "std of a constant": (lambda x: x.std(1), [2.0, 2.0, 2.0], [0, 0, 0], np.full((3, 3), NAN)),
    "std of one": (lambda x: x.std(1), [2.0], [0], [[0.0]]),
    "var of a constant": (lambda x: x.var(1), [2.0, 2.0], [0, 0], [[0.5, -0.5], [-0.5, 0.5]]),
    "nanstd of a constant": (lambda x: np.nanstd(x, 1), [2.0, NAN, 2.0], [0, 0, 0], np.full((3, 3), NAN)),
    "max, ties": (lambda x: x.max(1), [3.0, 1.0, 3.0, 3.0], [1 / 3, 0, 1 / 3, 1 / 3], np.zeros((4, 4))),
    "max of infinities": (lambda x: x.max(1), [INF, INF, 1.0], [0.5, 0.5, 0], np.zeros((3, 3))),
    "nanmax, ties": (lambda x: np.nanmax(x, 1), [3.0, NAN, 3.0], [0.5, 0, 0.5], np.zeros((3, 3))),
    "ptp of a constant": (lambda x: np.ptp(x, 1), [2.0, 2.0], [0, 0], np.zeros((2, 2))),
    "median, ties": (lambda x: np.median(x, 1), [2.0, 2.0, 2.0, 5.0, 1.0], [1 / 3, 1 / 3, 1 / 3, 0, 0], None),
    "quantile, ties": (lambda x: np.quantile(x, 0.25, axis=1), [1.0, 1.0, 3.0, 4.0], [0.5, 0.5, 0, 0], None),
    "nanmedian": (lambda x: np.nanmedian(x, 1), [NAN, 2.0, 2.0, 7.0], [0, 0.5, 0.5, 0], None),
    "nansum behind a pole": (lambda x: np.nansum(np.log(x) * x, 1), [0.0, 1.0], [0, 1], [[0, 0], [0, 1]]),
    "nanmean of a branch": (lambda x: np.nanmean(np.where(x > 0, np.sqrt(x), NAN), 1), [0.0, 4.0], [0, 0.25], None),
    "logaddexp.reduce of -inf": (lambda x: np.logaddexp.reduce(x, 1), [-INF, -INF], [0.5, 0.5], None),
    "logaddexp.reduce with -inf": (lambda x: np.logaddexp.reduce(x, 1), [-INF, 0.0, 0.0], [0, 0.5, 0.5], None),
}


@pytest.mark.parametrize("hazard", HAZARDS.values(), ids=HAZARDS.keys())
def test_kinks_and_hazards(hazard):
    f, sample, first, second = hazard
    x = np.array([sample, sample])
    with np.errstate(all="ignore"):
        for inner in ENDS:
            close(mj.jacobian(f, mode=inner)(x), np.array([first, first], float))
            for outer in ENDS if second is not None else ():
                H = mj.jacobian(mj.jacobian(f, mode=inner), mode=outer)(x)
                close(H, np.array([second, second], float))


@pytest.mark.parametrize("f", [np.median, lambda x, axis: np.quantile(x, 0.3, axis=axis)], ids=["median", "quantile"])
def test_nan_spreads_through_quantiles(f):
    x = np.array([[1.0, NAN, 3.0], [1.0, 2.0, 3.0]])
    y, J = mj.value_and_jacobian(lambda x: f(x, axis=1))(x)
    close(y, f(x, axis=1))
    assert np.isfinite(J[1]).all() and not np.isnan(y[1])


# --- samples --------------------------------------------------------------------------------------------------

MIXES = {
    "sum": lambda x: x.sum(0),
    "sum of everything": lambda x: x * np.sum(x),
    "prod": lambda x: x * np.prod(x, axis=0),
    "mean": lambda x: x - x.mean((0, 1)),
    "var": lambda x: np.var(x, axis=0),
    "std": lambda x: x / x.std(0),
    "max": lambda x: x / x.max(),
    "median": lambda x: x - np.median(x, axis=0),
    "quantile": lambda x: x - np.quantile(x, 0.3),
    "cumsum": lambda x: np.cumsum(x, axis=0),
    "cumprod": lambda x: np.cumprod(x, axis=0),
    "diff": lambda x: np.diff(x, axis=0, prepend=0.0),
    "gradient": lambda x: np.gradient(x, axis=0),
    "trapezoid": lambda x: x * np.trapezoid(x, axis=0),
    "average": lambda x: x * np.average(x, axis=0, weights=[1.0, 2.0, 3.0]),
    "nanmean": lambda x: x - np.nanmean(x, axis=0),
    "cov": lambda x: x @ np.cov(x, rowvar=False),
    "logaddexp.reduce": lambda x: x - np.logaddexp.reduce(x),
}


@pytest.mark.parametrize("f", MIXES.values(), ids=MIXES.keys())
def test_reducing_over_samples_mixes_them(f):
    check_mixes(f, 4)


def test_the_message_names_the_function_that_mixed():
    for f, name in ((lambda x: x * np.prod(x, axis=0), "prod"), (lambda x: np.cumprod(x, 0), "cumprod")):
        with pytest.raises(mj.BatchMixingError, match=rf"\b{name}\b"):
            mj.jacobian(f)(np.ones((3, 2)))
