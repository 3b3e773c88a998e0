"""Special functions: against SciPy, torch, and finite differences; at their ends; and by scipy.special's own names."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers import agrees_with_torch, close, random

import minijac as mj
from minijac import special, special_forms
from minijac.ops.special import PAIRS, SPECIAL

scipy_special = pytest.importorskip("scipy.special")
torch = pytest.importorskip("torch")

ANY = random(3, 4, seed=1, low=-2.5, high=2.5)
POSITIVE = random(3, 4, seed=2, low=0.2, high=3.0)
UNIT = random(3, 4, seed=3, low=0.05, high=0.95)
INSIDE = random(3, 4, seed=4, low=-0.9, high=0.9)
OTHER = random(3, 4, seed=5, low=0.3, high=2.0)

WITH_TORCH: dict[str, tuple[Any, tuple[np.ndarray, ...]]] = {
    "erf": (torch.erf, (ANY,)),
    "erfc": (torch.erfc, (ANY,)),
    "erfcx": (lambda x: torch.exp(x * x) * torch.erfc(x), (ANY,)),
    "erfinv": (torch.erfinv, (INSIDE,)),
    "ndtr": (torch.special.ndtr, (ANY,)),
    "ndtri": (torch.special.ndtri, (UNIT,)),
    "log_ndtr": (torch.special.log_ndtr, (ANY,)),
    "gamma": (lambda x: torch.exp(torch.lgamma(x)), (POSITIVE,)),
    "rgamma": (lambda x: torch.exp(-torch.lgamma(x)), (POSITIVE,)),
    "gammaln": (torch.lgamma, (POSITIVE,)),
    "loggamma": (torch.lgamma, (POSITIVE,)),
    "digamma": (torch.digamma, (POSITIVE,)),
    "beta": (lambda a, b: torch.exp(torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)), (POSITIVE, OTHER)),
    "betaln": (lambda a, b: torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b), (POSITIVE, OTHER)),
    "expit": (torch.sigmoid, (ANY,)),
    "logit": (torch.logit, (UNIT,)),
    "log_expit": (torch.nn.functional.logsigmoid, (ANY,)),
    "entr": (torch.special.entr, (POSITIVE,)),
    "xlogy": (torch.xlogy, (ANY, OTHER)),
    "xlog1py": (torch.special.xlog1py, (ANY, OTHER)),
    "rel_entr": (lambda a, b: a * torch.log(a / b), (POSITIVE, OTHER)),
    "kl_div": (lambda a, b: a * torch.log(a / b) - a + b, (POSITIVE, OTHER)),
    "i0": (torch.special.i0, (ANY,)),
    "i0e": (torch.special.i0e, (ANY,)),
    "i1": (torch.special.i1, (ANY,)),
    "i1e": (torch.special.i1e, (ANY,)),
    "exp10": (lambda x: 10.0**x, (ANY,)),
}


@pytest.mark.parametrize("name", WITH_TORCH)
def test_per_sample_derivatives(name):
    torch_f, args = WITH_TORCH[name]
    f = getattr(special, name)
    close(f(*args), getattr(scipy_special, name)(*args))
    agrees_with_torch(f, torch_f, *args, argnums=range(len(args)), order=2)


BEHIND = {"ellipkinc", "ellipeinc", "tklmbda", "chndtr", "besselpoly"}
CONSTANTS = {"mathieu_a", "mathieu_b", "pro_cv", "obl_cv"}
UFUNCS = {name for name in SPECIAL if isinstance(getattr(scipy_special, name), np.ufunc)}


@pytest.mark.parametrize("name", sorted({*UFUNCS, "digamma"} - {"erfcinv"} - CONSTANTS))
def test_scipys_own_ufunc_on_traced_values(name):
    examples = SPECIAL["psi" if name == "digamma" else name].examples
    for samples in examples if examples[0].given else examples[:1]:
        shapes = [shape for k, shape in enumerate(samples.shapes) if k not in samples.given]
        args = [random(*shape, seed=k, low=samples.low, high=samples.high) for k, shape in enumerate(shapes)]
        given = [value.item() for value in samples.given.values()]  # orders and parameters come first
        before, after = ([], given) if name in BEHIND else (given, [])
        of = lambda module, a=before, b=after: lambda *x: getattr(module, name)(*a, *x, *b)
        y, J = mj.value_and_jacobian(of(scipy_special))(*args)
        close(y, of(scipy_special)(*args))
        close(J, mj.jacobian(of(special))(*args))
        mj.testing.check_derivatives(of(scipy_special), *args)


@pytest.mark.parametrize("name", PAIRS)
def test_functions_with_several_results(name):
    f = getattr(scipy_special, name)
    example = PAIRS[name][0].examples[0]
    given = [value.item() for value in example.given.values()]
    traced = lambda x: f(x, *given) if name == "ellipj" else f(*given, x)
    x = random(3, 4, seed=2, low=example.low, high=example.high) if given else POSITIVE
    close(mj.value_and_jacobian(lambda x: list(traced(x)))(x)[0], list(traced(x)))
    for k in range(len(traced(x))):
        mj.testing.check_derivatives(lambda x, k=k: traced(x)[k], x, order=2)


def test_a_parameter_without_a_derivative_says_so():
    with pytest.raises(mj.UnsupportedOperationError, match="by a has no closed form"):
        mj.jacobian(lambda a: scipy_special.gammainc(a, 2.0))(POSITIVE)
    held = mj.jacobian(lambda a: scipy_special.gammainc(mj.stop_gradient(a), a))(POSITIVE)
    close(held, mj.jacobian(lambda x: scipy_special.gammainc(POSITIVE, x))(POSITIVE))


def test_derivatives_where_formulas_have_a_hole():
    for f, x, slopes in (
        (special.ellipk, 0.0, (np.pi / 8, 9 * np.pi / 64)),
        (special.spence, 1.0, (-1.0, 0.5)),
        (special.exprel, 0.0, (0.5, 1 / 3)),
        (lambda p: special.boxcox(np.e, p), 0.0, (0.5, 1 / 3)),
        (lambda x: special.eval_legendre(0, x), -1.0, (0.0, 0.0)),
    ):
        found = mj.jacobian(f, batch_axis=None)(np.array(x)), mj.hessian(f, batch_axis=None)(np.array(x))
        close(found, slopes, 1e-12, 1e-12)


def test_scipys_copies_of_numpys_ufuncs():
    for name in ("cbrt", "exp2", "expm1", "log1p"):
        close(mj.jacobian(getattr(scipy_special, name))(POSITIVE), mj.jacobian(getattr(np, name))(POSITIVE))


def test_functions_of_an_order():
    for n in (0, 1, 3):
        mj.testing.check_derivatives(lambda x, n=n: special.polygamma(n, x), POSITIVE, order=2)
        close(special.polygamma(n, POSITIVE), scipy_special.polygamma(n, POSITIVE))
        for f, g in ((special.iv, scipy_special.iv), (special.ive, scipy_special.ive)):
            mj.testing.check_derivatives(lambda x, f=f, n=n: f(n, x), ANY, order=2)
            close(mj.jacobian(lambda x, g=g, n=n: g(n, x))(ANY), mj.jacobian(lambda x, f=f, n=n: f(n, x))(ANY))


def test_a_ufunc_of_scipy_that_is_not_here_is_named():
    with pytest.raises(mj.UnsupportedOperationError, match=r"scipy\.special\.smirnov"):
        mj.jacobian(lambda x: scipy_special.smirnov(3, x))(POSITIVE)


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_a_characteristic_value_has_no_derivative_and_says_so(name):
    f = getattr(scipy_special, name)
    given = [1, 2][: 2 if "cv" in name else 1]
    with pytest.raises(mj.UnsupportedOperationError, match=f"{name}.*no closed form"):
        mj.jacobian(lambda c: f(*given, c))(POSITIVE)


A, C, D = random(3, 4, seed=8, low=0.3, high=3.0), random(3, 4, seed=9, low=0.3, high=3.0), POSITIVE + OTHER
INTEGRALS = {
    "elliprc": (POSITIVE, A), "elliprd": (POSITIVE, A, C), "elliprf": (POSITIVE, A, C), "elliprg": (POSITIVE, A, C),
    "elliprj": (POSITIVE, A, C, D),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGRALS)
def test_carlsons_integrals(name):
    f, args = getattr(scipy_special, name), INTEGRALS[name]
    close(mj.value_and_jacobian(f)(*args)[0], f(*args), 1e-14)
    mj.testing.check_derivatives(f, *args, order=2)
    same = (POSITIVE,) * len(args)  # where a closed form by divided differences has a hole
    mj.testing.check_derivatives(f, *same)


def test_carlsons_integrals_of_arguments_far_apart():
    for f, degree in ((lambda x: scipy_special.elliprf(0.0, x, 1e9 * x), -0.5),
                      (lambda x: scipy_special.elliprd(1e-9 * x, x, x), -1.5)):  # fmt: skip
        close(mj.jacobian(f, batch_axis=None)(np.array(0.7)), degree / 0.7 * f(0.7), 1e-13)


PYTHONS = {
    "lambertw": lambda s, x: s.lambertw(x),
    "lambertw, below": lambda s, x: s.lambertw(-0.1 * x, -1).real,
    "lambertw of complex numbers": lambda s, x: s.lambertw(x + 1j * x**2, 1),
    **{f"spherical_{kind}n": lambda s, x, kind=kind: getattr(s, f"spherical_{kind}n")(2, x) for kind in "jyik"},
    **{f"spherical_{kind}n'": lambda s, x, kind=kind: getattr(s, f"spherical_{kind}n")(0, x, True) for kind in "jyik"},
    "legendre_p": lambda s, x: s.legendre_p(3, x)[0],
    "assoc_legendre_p": lambda s, x: s.assoc_legendre_p(3, 2, 0.3 * x)[0],
    "assoc_legendre_p, normed": lambda s, x: s.assoc_legendre_p(3, -2, 0.3 * x, norm=True)[0],
    "sph_legendre_p": lambda s, x: s.sph_legendre_p(3, 2, x)[0],
    "sph_harm_y": lambda s, x: s.sph_harm_y(3, -2, x, x**2),
    "multigammaln": lambda s, x: s.multigammaln(x + 1.0, 3),
    "diric": lambda s, x: s.diric(x, 4),
    "factorial": lambda s, x: s.factorial(x),
    "comb": lambda s, x: s.comb(x + 3.0, 2.5),
    "comb, repeated": lambda s, x: s.comb(x + 3.0, x, repetition=True),
    "perm": lambda s, x: s.perm(x + 3.0, 2.5),
    "zeta": lambda s, x: s.zeta(1.2 + x),
    "zeta of Riemann's own": lambda s, x: s._ufuncs._riemann_zeta(1.2 + x),
    "zeta by both": lambda s, x: s.zeta(1.2 + x, x),
    "zetac": lambda s, x: s.zetac(1.2 + x),
    "zetac below": lambda s, x: s.zetac(0.6 - x),
    "modfresnelp": lambda s, x: s.modfresnelp(x)[0],
    "modfresnelm": lambda s, x: s.modfresnelm(x)[1],
}


@pytest.mark.parametrize("name", PYTHONS)
def test_functions_that_are_others(name):
    call = PYTHONS[name]
    f = mj.adapt(lambda x: call(scipy_special, x))
    close(mj.value_and_jacobian(f)(POSITIVE)[0], call(scipy_special, POSITIVE), 1e-13)
    for part in (np.real, np.imag):
        mj.testing.check_derivatives(lambda x, part=part: part(f(x)), POSITIVE, order=2)


def test_spherical_harmonics_are_regular_at_the_poles():
    f = mj.adapt(lambda x: scipy_special.sph_legendre_p(3, 1, x)[0])
    close(mj.jacobian(f, batch_axis=None)(np.array(0.0)), -np.sqrt(21 / (16 * np.pi)) * 2.0, 1e-14)


def test_scipy_is_imported_when_first_needed():
    loaded = "'scipy' in sys.modules"
    code = f"import sys, minijac; assert not {loaded}; minijac.special.erf(0.5); assert {loaded}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_broadcasting_and_numbers():
    shared = np.array([0.5, 1.0, 1.5, 2.0])
    f = lambda a, b: special.betaln(a, b) + special.xlogy(2.0, a) + special.xlogy(b, 3.0)
    mj.testing.check_derivatives(f, POSITIVE, shared, batch_axis=(0, None), order=2)


# --- along axes ---------------------------------------------------------------------------------------------

DEEP = random(3, 4, 2, seed=6, low=-2.0, high=2.0)
WEIGHTS = random(3, 4, 2, seed=7, low=0.1, high=1.0)


@pytest.mark.parametrize(
    "f, torch_f",
    [
        (lambda x: special.logsumexp(x, axis=1), lambda x: torch.logsumexp(x, 1)),
        (lambda x: special.logsumexp(x, axis=(-1, 1), keepdims=True), lambda x: torch.logsumexp(x, (1, 2), True)),
        (lambda x: special.logsumexp(x, axis=2, b=WEIGHTS[:1]),
         lambda x: torch.log((torch.tensor(WEIGHTS[:1]) * x.exp()).sum(2))),
        (lambda x: special.logsumexp(x, axis=1, b=-WEIGHTS[:1], return_sign=True)[0],
         lambda x: torch.log((torch.tensor(WEIGHTS[:1]) * x.exp()).sum(1))),
        (lambda x: special.softmax(x, axis=-1), lambda x: torch.softmax(x, -1)),
        (lambda x: special.softmax(x, axis=(1, 2)), lambda x: torch.softmax(x.reshape(-1, 8), 1).reshape(-1, 4, 2)),
        (lambda x: special.log_softmax(x, axis=1), lambda x: torch.log_softmax(x, 1)),
    ],
)  # fmt: skip
def test_reductions(f, torch_f):
    agrees_with_torch(f, torch_f, DEEP, order=2)


def test_reductions_are_scipys():
    for axis in (None, 0, 1, (0, 2)):
        for name in ("logsumexp", "softmax", "log_softmax"):
            if name == "log_softmax" and isinstance(axis, tuple):
                continue
            close(getattr(special, name)(DEEP, axis=axis), getattr(scipy_special, name)(DEEP, axis=axis))
    close(special.logsumexp(DEEP, b=WEIGHTS), scipy_special.logsumexp(DEEP, b=WEIGHTS))
    y, sign = special.logsumexp(DEEP, axis=1, b=-WEIGHTS, return_sign=True)
    expected = scipy_special.logsumexp(DEEP, axis=1, b=-WEIGHTS, return_sign=True)
    close(y, expected[0])
    close(sign, expected[1])


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
@pytest.mark.parametrize("way", [lambda J: J, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("inner, slope", [(np.sqrt, lambda x: 0.5 / np.sqrt(x)), (np.log, lambda x: 1 / x)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_weight_0_has_no_derivative_however_steep_it_is(dtype, inner, slope, way, mode):
    x, weights = np.array([[0.0, 1.0, 2.0], [0.0, 3.0, 1.0]], dtype), np.array([0.0, 1.0, 2.0], dtype)
    J = way(mj.jacobian(lambda x: special.logsumexp(inner(x), axis=1, b=weights), mode=mode))(x)
    share = weights * np.exp(inner(x))
    expected = share / share.sum(1, keepdims=True) * np.where(x > 0, slope(np.where(x > 0, x, 1)), 0)
    np.testing.assert_allclose(J, expected, rtol=1e-5)


def test_a_weight_of_0_has_the_derivative_of_its_term():
    a, b = np.array([[0.3, 0.2, 0.1]]), np.array([[0.0, 1.0, 2.0]])
    J = mj.jacobian(lambda b: special.logsumexp(a, axis=1, b=b))(b)
    np.testing.assert_allclose(J, np.exp(a) / (b * np.exp(a)).sum())


def test_reductions_over_the_batch_mix_samples():
    for f in (special.softmax, special.log_softmax, lambda x: special.logsumexp(x, axis=0)):
        with pytest.raises(mj.BatchMixingError):
            mj.jacobian(f)(DEEP)


# --- at the ends ---------------------------------------------------------------------------------------------

INF = np.inf


@pytest.mark.parametrize(
    "entries, expected",
    [
        ([-INF, -INF], [0.5, 0.5]),
        ([INF, INF, 0.0], [0.5, 0.5, 0.0]),
        ([INF, 0.0, -INF], [1.0, 0.0, 0.0]),
        ([-INF, 0.0, 0.0], [0.0, 0.5, 0.5]),
        ([1000.0, 1000.0], [0.5, 0.5]),
        ([-1000.0, -1000.0], [0.5, 0.5]),
    ],
)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_logsumexp_of_infinite_and_large_entries(entries, expected, mode):
    f = lambda x: special.logsumexp(x, axis=1)
    x = np.array([entries])
    close(mj.jacobian(f, mode=mode)(x), np.array([expected]))
    assert np.isfinite(mj.jacobian(mj.jacobian(f, mode=mode))(x)).all()
    if len(entries) == 2:
        pair = lambda x: np.logaddexp(x[:, 0], x[:, 1])
        close(mj.jacobian(pair, mode=mode)(x), np.array([expected]))


@pytest.mark.parametrize(
    "f, at, expected",
    [
        (special.xlogy, (0.0, 0.0), (0.0, 0.0)),
        (special.xlogy, (0.0, 2.0), (np.log(2.0), 0.0)),
        (special.xlog1py, (0.0, -1.0), (0.0, 0.0)),
        (special.rel_entr, (0.0, 2.0), (-INF, 0.0)),
        (special.entr, (0.0,), (INF,)),
        (special.i0e, (0.0,), (0.0,)),
        (special.i1, (0.0,), (0.5,)),
        (special.i1e, (0.0,), (0.5,)),
        (special.expit, (40.0,), (np.exp(-40.0),)),
        (special.expit, (-800.0,), (0.0,)),
        (special.log_ndtr, (-30.0,), (30 + 1 / 30 - 2 / 30**3 + 10 / 30**5 - 74 / 30**7 + 706 / 30**9,)),
        (special.log_ndtr, (60.0,), (0.0,)),
        (special.gammaln, (1e10,), (23.025850929890456,)),
    ],
)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_ends(f, at, expected, mode):
    args = [np.array([x]) for x in at]
    Js = mj.jacobian(f, tuple(range(len(at))), mode=mode)(*args)
    for J, value in zip(Js, expected, strict=True):
        np.testing.assert_allclose(J, [value], rtol=1e-10)


def test_mixed_second_derivative_of_xlogy_where_x_is_zero():
    x, y = np.zeros(1), np.full(1, 2.0)
    for f in (special.xlogy, lambda x, y: special.xlog1py(x, y - 1.0)):
        for k in (0, 1):
            close(mj.jacobian(mj.jacobian(f, k), 1 - k)(x, y), np.full(1, 0.5))


def test_second_derivative_of_a_bessel_function_at_zero():
    """I1''' = 3/8 at 0, where a quotient by x would give NaN."""
    third = mj.jacobian(mj.jacobian(mj.jacobian(special.i1)))(np.zeros(1))
    close(third, np.array([3.0 / 8.0]))


def test_single_precision_stays():
    x = POSITIVE.astype(np.float32)
    for name in ("erf", "gammaln", "expit", "log_ndtr", "i1", "digamma"):
        y, J = mj.value_and_jacobian(getattr(special, name))(x)
        assert y.dtype == J.dtype == np.float32
    assert mj.jacobian(lambda x: special.logsumexp(x, axis=1))(x).dtype == np.float32


def test_a_value_is_not_computed_where_there_are_no_numbers():
    """What runs values on symbols would give orders that are none, at which SciPy's recurrences do not end."""
    seen = []
    mj.compile(lambda x: seen.append(x) or x)(POSITIVE)
    with pytest.raises(TypeError, match="plain arrays"):
        SPECIAL["eval_chebyt"].value(3, seen[0])


A = np.array([0.15, 0.45, 0.85])


def each(names: str, *given: Any) -> dict[str, tuple[Any, ...]]:
    return dict.fromkeys(names.split(), given)


FORMS: dict[str, tuple[Any, ...]] = {
    **each("cbrt exp2 expm1 log1p cotdg gammasgn kelvin round wofz", A),
    **each("bdtr bdtrc bdtri nbdtr nbdtrc nbdtri", 2, 5, A),
    **each("chdtr chdtrc chdtri jve yve hankel1 hankel1e hankel2 hankel2e", 2.5, A),
    **each("fdtr fdtrc fdtri", 2.5, 3.5, A),
    **each("gdtr gdtrc gdtria gdtrix", A, 1.5, A[::-1]),
    **each("pdtr pdtrc pdtri jn eval_chebyc eval_chebys eval_sh_chebyt eval_sh_chebyu", 2, A),
    "radian": (A, A, A), "nrdtrimn": (A, A + 1.0, A), "nrdtrisd": (A, 0.4 * A + 0.55, A + 2.0),
    "eval_sh_jacobi": (3, 2.5, 1.5, A), "eval_sh_legendre": (3, A), "agm": (A, A + 0.5),
    "inv_boxcox1p": (A, np.array([0.0, 0.3, 1.2])), "voigt_profile": (A, A + 0.5, A + 0.2),
    # operations of their own, by operands that the registry holds fixed
    "ellipkinc": (3.0 * A, np.array([0.0, 1e-6, 0.7])), "ellipeinc": (3.0 * A, np.array([0.0, 1e-6, 0.7])),
    "chndtr": (A, 2.5, A + 0.3),
}  # fmt: skip


def test_every_form_is_checked():
    elsewhere = {*INTEGRALS, *(re.match(r"\w+", name)[0] for name in PYTHONS)}
    assert special_forms.FORMS.keys() <= FORMS.keys() | elsewhere


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_scipys_functions_by_every_operand(name):
    """As SciPy's own name on traced values, against differences of SciPy's."""
    given, f = FORMS[name], getattr(scipy_special, name)
    joined = lambda *x: np.stack(y) if isinstance(y := f(*x), tuple) else y
    close(getattr(special, name)(*given), f(*given))
    for k, x in enumerate(given):
        if isinstance(x, np.ndarray):
            alone = lambda x, k=k: joined(*given[:k], x, *given[k + 1 :])
            found = mj.jacobian(alone, batch_axis=None)(x)
            columns = [(alone(x + step) - alone(x - step)) / 2e-6 for step in 1e-6 * np.eye(3)]
            close(mj.value_and_jacobian(alone, batch_axis=None)(x)[0], alone(x), 1e-11, 1e-11)
            close(found, np.stack(columns, -1), 1e-6, 1e-8)


def test_forms_at_their_ends_are_scipys():
    """Values where SciPy's are limits, signs or none; derivatives where the formulas have a hole."""
    for name, args in (
        ("bdtr", (-1, 5, A)), ("bdtr", (5, 5, A)), ("bdtrc", (-1, 5, A)), ("bdtrc", (5, 5, A)),
        ("gammasgn", (np.array([-2.5, -2.0, -1.5, -0.0, 0.0, 3.0]),)), ("voigt_profile", (A, 0.0, A)),
    ):  # fmt: skip
        f = getattr(special, name)
        traced = mj.value_and_jacobian(lambda *x, f=f, args=args: f(*args[:-1], x[0]), batch_axis=None)(args[-1])[0]
        close(traced, getattr(scipy_special, name)(*args), 1e-12)
    zero = np.zeros(())
    for f, x, slope in (
        (lambda x: special.kolmogorov(x), -0.5, 0.0), (lambda x: special.kolmogorov(x), 0.0, 0.0),
        (lambda nc: special.chndtr(A[0], 2.5, nc), 0.0, (special.chdtr(4.5, A[0]) - special.chdtr(2.5, A[0])) / 2),
        (lambda x: special.it2j0y0(x)[0], 0.0, 0.0), (lambda x: special.it2i0k0(x)[0], 1e-9, 2.5e-10),
        (lambda p: special.inv_boxcox1p(0.7, p), 0.0, -0.245 * np.exp(0.7)),
        (lambda s: special.voigt_profile(0.7, s, 0.4), 0.0, 0.0),
    ):  # fmt: skip
        found = mj.jacobian(f, batch_axis=None)(zero + x)
        close(found, slope, 1e-9, 1e-12)


def test_elliptic_integrals_of_small_modulus_in_single_precision():
    for m in (2e-5, 1e-4, 1e-3, 1e-2):
        for f in (special.ellipkinc, special.ellipeinc):
            of = lambda m, f=f: f(np.asarray(1.1, np.result_type(m)), m)
            single, double = (mj.jacobian(of, batch_axis=None)(np.asarray(m, kind)) for kind in (np.float32, float))
            close(single, double, 2e-4)


def test_complex_arguments_of_the_faddeeva_function():
    f = lambda x: np.abs(scipy_special.wofz(x * x + 1j * x))
    close(np.diag(mj.jacobian(f, batch_axis=None)(A)), (f(A + 1e-6) - f(A - 1e-6)) / 2e-6, 1e-7)


@pytest.mark.parametrize("name", ["erfcx", "dawsn"])
def test_slopes_far_from_zero_do_not_subtract_equals(name):
    mpmath = pytest.importorskip("mpmath")
    x = np.array([0.5, 19.0, 21.0, 1e2, 1e3, 1e4])
    with mpmath.workdps(60):
        points = [mpmath.mpf(float(v)) for v in x]
        if name == "erfcx":
            values = [mpmath.exp(z * z) * mpmath.erfc(z) for z in points]
            slopes = [2 * z * y - 2 / mpmath.sqrt(mpmath.pi) for z, y in zip(points, values, strict=True)]
            bends = [2 * y + 2 * z * s for z, y, s in zip(points, values, slopes, strict=True)]
        else:
            values = [mpmath.sqrt(mpmath.pi) / 2 * mpmath.exp(-z * z) * mpmath.erfi(z) for z in points]
            slopes = [1 - 2 * z * y for z, y in zip(points, values, strict=True)]
            bends = [-2 * y - 2 * z * s for z, y, s in zip(points, values, slopes, strict=True)]
    f = getattr(mj.special, name)
    slope = lambda x: mj.grad(lambda x: f(x).sum())(x)
    np.testing.assert_allclose(slope(x), np.array(slopes, float), rtol=1e-11)
    np.testing.assert_allclose(mj.grad(lambda x: slope(x).sum())(x), np.array(bends, float), rtol=1e-8)
