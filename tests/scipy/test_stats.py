"""minijac.scipy.stats against SciPy's values and central differences, and by `adapt` from code that calls SciPy."""

from __future__ import annotations

import warnings
from itertools import product

import numpy as np
import pytest
import scipy.stats
from helpers import close

import minijac as mj
from minijac.scipy import stats

# a row for each family: its shapes, and others where the formula is another
FAMILIES = {
    "alpha": [(1.3,)],
    "anglit": [()],
    "arcsine": [()],
    "argus": [(1.2,)],
    "beta": [(1.7, 2.4), (1.0, 1.0), (0.5, 0.6)],
    "betaprime": [(1.7, 2.4)],
    "bradford": [(0.7,)],
    "burr": [(2.1, 0.8), (0.5, 1.7)],
    "burr12": [(1.7, 2.4)],
    "cauchy": [()],
    "chi": [(2.5,)],
    "chi2": [(2.5,)],
    "cosine": [()],
    "crystalball": [(0.9, 2.5), (2.5, 4.0)],
    "dgamma": [(1.4,), (0.6,)],
    "dpareto_lognorm": [(0.3, 1.2, 1.5, 2.0)],
    "dweibull": [(1.5,)],
    "erlang": [(2.0,)],
    "expon": [()],
    "exponnorm": [(1.3,)],
    "exponpow": [(1.6,)],
    "exponweib": [(1.7, 1.3)],
    "f": [(3.0, 4.5)],
    "fatiguelife": [(0.9,)],
    "fisk": [(2.2,)],
    "foldcauchy": [(0.8,)],
    "foldnorm": [(0.8,)],
    "gamma": [(2.3,), (0.7,)],
    "gausshyper": [(1.7, 2.4, 1.2, 0.6)],
    "genexpon": [(0.8, 1.2, 0.9)],
    "genextreme": [(0.3,), (-0.4,), (0.0,)],
    "gengamma": [(1.8, 1.4), (1.8, -1.4)],
    "genhalflogistic": [(0.4,)],
    "genhyperbolic": [(0.6, 1.5, 0.4), (-0.6, 1.5, -0.4)],
    "geninvgauss": [(0.7, 1.4)],
    "genlogistic": [(1.6,)],
    "gennorm": [(1.5,)],
    "genpareto": [(0.4,), (-0.4,), (0.0,)],
    "gibrat": [()],
    "gompertz": [(0.8,)],
    "gumbel_l": [()],
    "gumbel_r": [()],
    "halfcauchy": [()],
    "halfgennorm": [(1.5,)],
    "halflogistic": [()],
    "halfnorm": [()],
    "hypsecant": [()],
    "invgamma": [(2.3,)],
    "invgauss": [(0.8,)],
    "invweibull": [(1.8,)],
    "jf_skew_t": [(2.2, 3.1)],
    "johnsonsb": [(0.3, 1.2)],
    "johnsonsu": [(0.3, 1.2)],
    "kappa3": [(1.6,)],
    "kappa4": [(0.3, 0.2), (0.3, -0.2), (-0.3, 0.2), (-0.3, -0.2), (0.0, 0.2), (0.3, 0.0), (0.0, 0.0)],
    "laplace": [()],
    "laplace_asymmetric": [(1.4,)],
    "levy": [()],
    "levy_l": [()],
    "loggamma": [(1.6,)],
    "logistic": [()],
    "loglaplace": [(2.3,)],
    "lognorm": [(0.7,)],
    "loguniform": [(0.4, 2.6)],
    "lomax": [(2.0,)],
    "maxwell": [()],
    "mielke": [(2.2, 1.6)],
    "moyal": [()],
    "nakagami": [(1.4,)],
    "ncf": [(3.0, 4.5, 0.8)],
    "nct": [(4.5, 0.6), (4.5, -1.6), (3.0, 5.0)],
    "ncx2": [(2.5, 0.8), (5.0, 200.0)],
    "norm": [()],
    "norminvgauss": [(1.5, 0.4)],
    "pareto": [(2.5,)],
    "pearson3": [(0.7,), (-0.7,), (0.0,)],
    "powerlaw": [(1.7,)],
    "powerlognorm": [(1.6, 0.7)],
    "powernorm": [(1.6,)],
    "rayleigh": [()],
    "rdist": [(2.6,)],
    "recipinvgauss": [(0.8,)],
    "reciprocal": [(0.4, 2.6)],
    "rel_breitwigner": [(0.9,)],
    "rice": [(0.8,)],
    "semicircular": [()],
    "skewcauchy": [(0.3,), (-0.3,)],
    "skewnorm": [(1.2,)],
    "t": [(4.5,)],
    "trapezoid": [(0.3, 0.6)],
    "triang": [(0.4,)],
    "truncexpon": [(1.8,)],
    "truncnorm": [(-0.8, 1.1), (1.0, 8.0), (-9.0, 0.5)],
    "truncpareto": [(1.6, 2.8), (-1.6, 2.8)],
    "truncweibull_min": [(1.6, 0.3, 2.2)],
    "uniform": [()],
    "vonmises": [(1.5,)],
    "vonmises_line": [(1.5,)],
    "wald": [()],
    "weibull_max": [(1.6,)],
    "weibull_min": [(1.6,)],
    "wrapcauchy": [(0.4,)],
}
FUNCTIONS = ("pdf", "logpdf", "cdf", "sf", "logcdf", "logsf")
WITHOUT_DISTRIBUTION = {
    "gausshyper", "genhyperbolic", "geninvgauss", "ncf", "nct", "ncx2", "norminvgauss", "rice", "vonmises",
    "vonmises_line",
}  # fmt: skip
# shapes that have no derivative in closed form: in the density, and in the distribution function
HELD = {"gausshyper": "abc", "genhyperbolic": "p", "geninvgauss": "p", "ncf": ("dfn", "dfd"), "nct": ("df",),
        "ncx2": ("df",)}  # fmt: skip
HELD_IN_SHARES = {
    "beta": "ab", "betaprime": "ab", "chi": ("df",), "chi2": ("df",), "dgamma": "a", "erlang": "a",
    "f": ("dfn", "dfd"), "gamma": "a", "gengamma": "a", "gennorm": ("beta",), "halfgennorm": ("beta",),
    "invgamma": "a", "jf_skew_t": "ab", "loggamma": "c", "nakagami": ("nu",), "pearson3": ("skew",), "rdist": "c",
    "t": ("df",),
}  # fmt: skip
A = np.random.default_rng(0).normal(size=(3, 3))
S = A @ A.T + np.eye(3)
OWN_ENDS = {"kappa4"}  # the ends of the support are rounded
DIFFERENCES = {"skewnorm", "kappa4"}  # by which minijac or SciPy has no exact logarithm far out
POINTS = np.array([-3.4, -1.3, -0.4, 0.2, 0.45, 0.9, 1.7, 2.3, 3.1])
ROWS = [(name, shapes) for name, rows in FAMILIES.items() for shapes in rows]


def _names(name):
    return (getattr(scipy.stats, name).shapes or "").split(", ") if FAMILIES[name][0] else []


def test_each_family_has_a_row_and_SciPys_names_of_shapes():
    assert {*FAMILIES, "multivariate_normal"} == set(stats.__all__)
    for name in FAMILIES:
        assert getattr(stats, name).shapes.split() == _names(name)


@pytest.mark.parametrize("name, shapes", ROWS, ids=[f"{name}{list(shapes)}" for name, shapes in ROWS])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_families(name, shapes, function):
    mine, theirs = getattr(getattr(stats, name), function), getattr(getattr(scipy.stats, name), function)
    if name in WITHOUT_DISTRIBUTION and "pdf" not in function:
        with pytest.raises(mj.UnsupportedOperationError, match="distribution function"):
            mine(POINTS, *shapes)
        return
    free = _free(name, function)
    parameters = np.array([*shapes, 0.05, 1.3])
    step = 2e-3 if name == "pearson3" else 5e-4  # SciPy's rounds much where the skew is small
    with np.errstate(all="ignore"):
        for options in ((), (0.1, 1.4)):
            close(mine(POINTS, *shapes, *options), theirs(POINTS, *shapes, *options), 1e-9, 1e-12)
        named = dict(zip(_names(name), shapes, strict=True))
        close(mine(POINTS, **named, loc=0.1, scale=1.4), theirs(POINTS, *shapes, loc=0.1, scale=1.4), 1e-9, 1e-12)
        f = lambda p: mine(POINTS, *[p[free.index(k)] if k in free else v for k, v in enumerate(parameters)])
        truth = [_slope(lambda h: theirs(POINTS, *(parameters + h * e)), step) for e in np.eye(len(parameters))[free]]  # noqa: B023
        mode = ("forward", "reverse")[(FUNCTIONS.index(function) + len(name)) % 2]
        found = mj.jacobian(f, batch_axis=None, mode=mode)(parameters[free])
        inside = np.isfinite(theirs(POINTS, *parameters))
        close(found[inside], np.stack(truth, -1)[inside], 2e-5, 2e-6)
        assert (found[~inside] == 0).all()
        truth = _slope(lambda h: theirs(POINTS + h, *parameters), step)
        slope = mj.jacobian(lambda x: mine(x, *parameters))(POINTS[:, None])[:, 0, 0]
        close(slope[inside], truth[inside], 2e-5, 2e-6)
        assert (slope[~inside] == 0).all()


def _slope(f, h):
    """The central difference of order four."""
    return (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * h)


def _free(name, function):
    """The positions of the parameters that have a derivative."""
    held = (HELD if "pdf" in function else HELD_IN_SHARES).get(name, ())
    names = [*_names(name), "loc", "scale"]
    return [k for k, one in enumerate(names) if one not in held]


@pytest.mark.parametrize("name, shapes", ROWS, ids=[f"{name}{list(shapes)}" for name, shapes in ROWS])
def test_families_at_the_ends_beyond_them_and_in_the_tails(name, shapes):
    mine, theirs = getattr(stats, name), getattr(scipy.stats, name)
    low, high = theirs.support(*shapes)
    with np.errstate(all="ignore"):
        for function in FUNCTIONS[: 2 if name in WITHOUT_DISTRIBUTION else 6]:
            ends = [low, high] if name not in OWN_ENDS else []
            x = np.array([-np.inf, -800.0, -60.0, -12.0, -3.2, 1e-4, 6.0, 13.0, 50.0, 900.0, np.inf, *ends])
            found, expected = getattr(mine, function)(x, *shapes), getattr(theirs, function)(x, *shapes)
            lost = np.isnan(expected) | (expected == -np.inf)  # at infinite x; and where a share underflows
            lost |= (name in DIFFERENCES) & (expected < -20.0)
            close(found[~lost], expected[~lost], 1e-7, 1e-15)
            assert (found[lost] <= (-20.0 if "log" in function else 0.0)).all()
            assert np.isnan(getattr(mine, function)(np.nan, *shapes))
            slopes = mj.jacobian(lambda x: getattr(mine, function)(x, *shapes))(x[:-2, None])  # noqa: B023
            assert np.isfinite(slopes[np.isfinite(found[:-2])]).all()
        if name not in WITHOUT_DISTRIBUTION | OWN_ENDS:
            assert (mine.cdf(low, *shapes), mine.cdf(high, *shapes)) == (0.0, 1.0)
            assert (mine.sf(low, *shapes), mine.sf(high, *shapes)) == (1.0, 0.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_no_member_of_a_family_is_NaN_as_in_SciPy(name):
    mine, theirs = getattr(stats, name), getattr(scipy.stats, name)
    count = len(_names(name))
    bad = list(product((-1.5, -1.0, 0.0, 0.3, 1.0, 1.5, np.nan), repeat=count))
    rng = np.random.default_rng(count)
    bad = [bad[k] for k in rng.permutation(len(bad))[:150]]
    if name == "kappa4":  # of which SciPy makes zeros of NaN
        bad = [row for row in bad if not np.isnan(row).any()]
    good = FAMILIES[name][0]
    rows = np.array([[*row, 1.3] for row in bad] + [[*good, scale] for scale in (-1.0, 0.0, np.nan, 1.3)]).T
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy's
        for function in FUNCTIONS[: 2 if name in WITHOUT_DISTRIBUTION else 6]:
            for x in (-0.4, 0.45, 3.1):
                found = getattr(mine, function)(x, *rows[:-1], scale=rows[-1])
                expected = getattr(theirs, function)(x, *rows[:-1], scale=rows[-1])
                assert (np.isnan(found) == np.isnan(expected)).all(), rows[:, np.isnan(found) != np.isnan(expected)].T


def test_parameters_that_a_family_does_not_have_are_refused():
    for args, named in (((0.5,), {}), ((0.5, 2.0, 1.0, 1.0, 1.0), {}), ((0.5, 2.0), {"a": 2.0}), ((0.5,), {"b": 2.0})):
        with pytest.raises(mj.InputError, match=r"scipy.stats.gamma at .*expected x, the 1 shape parameters \['a'\]"):
            stats.gamma.pdf(*args, **named)


@pytest.mark.parametrize("name", FAMILIES)
def test_second_order_and_replay(name):
    shapes = FAMILIES[name][0]
    low, high = getattr(scipy.stats, name).interval(0.6, *shapes)
    f = lambda p: getattr(stats, name).logpdf(np.linspace(low, high, 4), *shapes, loc=p[0], scale=p[1]).sum()
    p = np.array([0.01, 1.02])
    H = mj.hessian(f, batch_axis=None)(p)
    g = mj.grad(f)
    close(H, np.stack([_slope(lambda h: g(p + h * e), 1e-3) for e in np.eye(2)]), 1e-6, 1e-6)  # noqa: B023
    close(mj.compile(g)(p), g(p), 1e-12, 1e-12)


def test_adapted_code_finds_the_families():
    named = mj.adapt(lambda x: scipy.stats.johnsonsu.logpdf(x, b=1.2, a=0.3) + scipy.stats.rice(0.8).pdf(x))
    x = np.array([0.3, 0.9])
    own = lambda x: stats.johnsonsu.logpdf(x, 0.3, 1.2) + stats.rice.pdf(x, 0.8)
    close(mj.jacobian(named, batch_axis=None)(x), mj.jacobian(own, batch_axis=None)(x))

    def f(x):
        return scipy.stats.norm.logpdf(x, 0.5, 2.0) + scipy.stats.gamma(2.0).mean() * x

    close(mj.jacobian(mj.adapt(f), batch_axis=None)(x), np.diag(-(x - 0.5) / 4.0 + 2.0))

    def frozen(x):
        return scipy.stats.norm(0.5, scale=x[0]).logpdf(x) + scipy.stats.norm(0.5).std()

    close(
        mj.jacobian(mj.adapt(frozen), batch_axis=None)(x),
        mj.jacobian(lambda x: stats.norm.logpdf(x, 0.5, x[0]), batch_axis=None)(x),
    )


frozen_normal, frozen_normals = scipy.stats.norm(0.5, scale=2.0), scipy.stats.multivariate_normal([0.1, 0.2], 1.5)


def test_adapted_code_finds_families_their_members_and_methods_by_their_own_names():
    from scipy.stats import gamma, multivariate_normal
    from scipy.stats import norm as normal

    log_density = scipy.stats.t.logpdf

    def f(x):
        own = normal.logpdf(x, 0.5) + gamma(2.0).cdf(x) + frozen_normal.sf(x) + log_density(x, 4.5)
        return (
            own
            + multivariate_normal.logpdf(x, [0.1, 0.2]) * frozen_normals.pdf(x)
            + normal.mean()
            + frozen_normal.std()
        )

    def same(x):
        own = stats.norm.logpdf(x, 0.5) + stats.gamma.cdf(x, 2.0) + stats.norm.sf(x, 0.5, 2.0) + stats.t.logpdf(x, 4.5)
        normals = stats.multivariate_normal
        return own + normals.logpdf(x, [0.1, 0.2]) * normals.pdf(x, [0.1, 0.2], 1.5) + 2.0

    x = np.array([0.3, 0.9])
    y, J = mj.value_and_jacobian(mj.adapt(f), batch_axis=None)(x)
    close(y, f(x))
    close(J, mj.jacobian(same, batch_axis=None)(x))
    assert mj.adapt(scipy.stats.norm).logpdf(0.3) == scipy.stats.norm.logpdf(0.3)
    drawn = scipy.stats.norm(0.5)
    drawn.random_state = 3
    assert (mj.adapt(drawn).rvs(4) == scipy.stats.norm(0.5).rvs(4, random_state=3)).all()


def test_the_normal_distribution_of_several_dimensions():
    x, mean = np.random.default_rng(2).normal(size=(2, 4, 3))
    close(stats.multivariate_normal.logpdf(x, mean[0], S), scipy.stats.multivariate_normal.logpdf(x, mean[0], S))
    close(
        stats.multivariate_normal.pdf(x, cov=np.diag(S)),
        scipy.stats.multivariate_normal.pdf(x, np.zeros(3), np.diag(S)),
    )
    f = mj.adapt(lambda x: scipy.stats.multivariate_normal.logpdf(x, mean[0], S))
    close(mj.jacobian(f)(x), -np.linalg.solve(S, (x - mean[0]).T).T)


@pytest.mark.parametrize("mean, cov", [(0.3, 2.0), (None, 2.0), ([0.3], [[2.0]]), (None, [[2.0]]), (0.3, [2.0])])
def test_numbers_are_points_of_the_normal_distribution_of_one_dimension(mean, cov):
    x = np.array([[0.2, 1.0], [-0.7, 0.0], [1.5, 2.0]])
    f = lambda x: scipy.stats.multivariate_normal.pdf(x[:, 0], mean=mean, cov=cov)
    y, J = mj.value_and_jacobian(mj.adapt(f))(x)
    close(y, f(x))
    close(J[:, 0], -y * (x[:, 0] - (0.3 if mean else 0.0)) / 2.0)
    assert (J[:, 1] == 0).all()
    close(stats.multivariate_normal.logpdf(0.4, mean, cov), scipy.stats.multivariate_normal.logpdf(0.4, mean, cov))


def test_the_mean_of_the_normal_distribution_may_be_a_list_of_traced_numbers():
    x = np.random.default_rng(3).normal(size=(4, 2))
    f = mj.adapt(lambda m: scipy.stats.multivariate_normal.logpdf(x, [m[0], m[1]], 1.5).sum())
    close(mj.grad(f)(np.zeros(2)), x.sum(0) / 1.5)


def test_points_of_other_dimensions_than_the_normal_distribution_are_refused():
    for x, mean, cov in ((np.ones((4, 2)), np.zeros(3), 1.0), (np.ones(4), None, S), (1.0, np.zeros(3), S)):
        with pytest.raises(mj.InputError, match=r"multivariate_normal at .*expected points x: \(\.\.\., 3\)"):
            stats.multivariate_normal.logpdf(x, mean, cov)
