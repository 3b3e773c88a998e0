"""Special functions, elementwise: SciPy's value and one partial derivative for each operand, one line each.

SciPy (CuPy's copy of it on the GPU) is imported when a function is first called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import astype, namespace, special
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..tape.op import Op
from ..tape.trace import Node
from .edges import Edge, Part
from .elementwise import INSIDE, LN10, ONE, PAIR, POSITIVE, POSITIVE_PAIR, erf
from .families import Example, along, define, elementwise, labelled, opaque, reduced
from .scalars import SCALARS
from .structural import fresh

__all__ = [
    "DEGREE",
    "FADDEEVA",
    "PAIRS",
    "ROOT_2PI",
    "SPECIAL",
    "logsumexp",
    "of_parameters",
    "one_of",
    "peak",
    "underived",
]

ROOT_2PI = math.sqrt(2.0 * math.pi)
ROOT_PI = math.sqrt(math.pi)
DEGREE = math.pi / 180.0
UNIT = [Example(((3, 4),), low=0.05, high=0.95)]
NEGATIVE = [Example(((3, 4),), low=-3.0, high=-0.05)]


def scipy_value(name: str) -> Callable[..., Any]:
    """SciPy's function of that name, imported when it is called."""

    return lambda *operands: special(name, *operands)(*operands)


def of_parameters(name: str) -> Callable[..., Any]:
    """A function with orders or parameters before its argument. CuPy wants them as arrays; the dtype is the floats'."""

    def value(*operands: Any) -> Any:
        floats = [x.dtype for x in operands if getattr(x, "dtype", _INTEGER).kind == "f"]
        xp = namespace(*operands)
        arrays = [x if hasattr(x, "dtype") else xp.full((), x) for x in operands]
        found = special(name, *operands)(*arrays)
        return found.astype(np.result_type(*floats) if floats else np.float64, copy=False)

    return value


_INTEGER = np.dtype(int)


def underived(name: str, operand: str) -> Callable[..., Any]:
    """The partial derivative that has no closed form."""

    def partial(*_: Any) -> Any:
        raise UnsupportedOperationError(
            f"scipy.special.{name} at {user_line()}: its derivative by {operand} has no closed form. "
            f"Give it by minijac.custom, or hold {operand} fixed: minijac.stop_gradient({operand})."
        )

    return partial


def _log_where(x: Any, y: Any, outside: Any) -> Any:
    """log(y), but zero where both x and y are such that ``x log(y)`` is zero without it."""
    zero = np.logical_and(x == 0, outside)
    return np.where(zero, 0.0, np.log(np.where(zero, 1.0, y)))


FAR = 20.0


def _far(x: Any, near: Any, scale: float, sign: float) -> Any:
    """A slope `near` zero; beyond, where that subtracts equals, ``scale / x**2`` times its series (DLMF 7.12)."""
    z = np.maximum(x, FAR)
    t, series = sign / (2.0 * z * z), 1.0
    for n in range(17, 1, -2):
        series = 1.0 + n * t * series
    return np.where(x > FAR, scale * series / (z * z), near)


# the name, which is SciPy's, samples, and the partial derivatives, functions of the output and the operands
TABLE: list[tuple[Any, ...]] = [
    # -- error functions -----------------------------------------------------------------------------------------------
    ("erfc", ONE, lambda y, x: -2.0 / ROOT_PI * np.exp(-x * x)),
    ("erfcx", ONE, lambda y, x: _far(x, 2.0 * (x * y - 1.0 / ROOT_PI), -1.0 / ROOT_PI, -1.0)),
    ("erfinv", INSIDE, lambda y, x: 0.5 * ROOT_PI * np.exp(y * y)),
    ("erfcinv", UNIT, lambda y, x: -0.5 * ROOT_PI * np.exp(y * y)),
    ("ndtr", ONE, lambda y, x: np.exp(-0.5 * x * x) / ROOT_2PI),
    ("ndtri", UNIT, lambda y, x: ROOT_2PI * np.exp(0.5 * y * y)),
    ("log_ndtr", ONE, lambda y, x: 2.0 / ROOT_2PI / SPECIAL["erfcx"](-x * math.sqrt(0.5))),
    # -- the gamma function and its kin --------------------------------------------------------------------------------
    ("gamma", POSITIVE, lambda y, x: y * SPECIAL["psi"](x)),
    ("rgamma", POSITIVE, lambda y, x: -y * SPECIAL["psi"](x)),
    ("gammaln", POSITIVE, lambda y, x: SPECIAL["psi"](x)),
    ("loggamma", POSITIVE, lambda y, x: SPECIAL["psi"](x)),
    ("psi", POSITIVE, lambda y, x: SPECIAL["polygamma"](1, x)),
    ("beta", POSITIVE_PAIR, lambda y, a, b: y * _psi_gap(a, a + b), lambda y, a, b: y * _psi_gap(b, a + b)),
    ("betaln", POSITIVE_PAIR, lambda y, a, b: _psi_gap(a, a + b), lambda y, a, b: _psi_gap(b, a + b)),
    # -- logistic ------------------------------------------------------------------------------------------------------
    ("expit", ONE, lambda y, x: y * SPECIAL["expit"](-x)),
    ("logit", UNIT, lambda y, x: 1.0 / (x * (1.0 - x))),
    ("log_expit", ONE, lambda y, x: SPECIAL["expit"](-x)),
    # -- entropies -----------------------------------------------------------------------------------------------------
    ("entr", POSITIVE, lambda y, x: -np.log(x) - 1.0),
    ("xlogy", POSITIVE_PAIR, lambda y, a, b: _log_where(a, b, b <= 0), lambda y, a, b: _ratio(a, b)),
    ("xlog1py", POSITIVE_PAIR, lambda y, a, b: _log_where(a, 1.0 + b, b <= -1), lambda y, a, b: _ratio(a, 1 + b)),
    ("rel_entr", POSITIVE_PAIR, lambda y, a, b: np.log(a / b) + 1.0, lambda y, a, b: -_ratio(a, b)),
    ("kl_div", POSITIVE_PAIR, lambda y, a, b: np.log(a / b), lambda y, a, b: 1.0 - _ratio(a, b)),
    # -- modified Bessel functions -------------------------------------------------------------------------------------
    ("i0", ONE, lambda y, x: SPECIAL["i1"](x)),
    ("i0e", ONE, lambda y, x: SPECIAL["i1e"](x) - np.sign(x) * y),
    ("i1", ONE, lambda y, x: 0.5 * (SPECIAL["i0"](x) + SPECIAL["iv"](2, x))),
    ("i1e", ONE, lambda y, x: 0.5 * (SPECIAL["i0e"](x) + SPECIAL["ive"](2, x)) - np.sign(x) * y),
    # -- Bessel functions ----------------------------------------------------------------------------------------------
    ("j0", ONE, lambda y, x: -SPECIAL["j1"](x)),
    ("j1", ONE, lambda y, x: 0.5 * (SPECIAL["j0"](x) - SPECIAL["jv"](2, x))),
    ("y0", POSITIVE, lambda y, x: -SPECIAL["y1"](x)),
    ("y1", POSITIVE, lambda y, x: 0.5 * (SPECIAL["y0"](x) - SPECIAL["yv"](2, x))),
    ("k0", POSITIVE, lambda y, x: -SPECIAL["k1"](x)),
    ("k0e", POSITIVE, lambda y, x: y - SPECIAL["k1e"](x)),
    ("k1", POSITIVE, lambda y, x: -0.5 * (SPECIAL["k0"](x) + SPECIAL["kv"](2, x))),
    ("k1e", POSITIVE, lambda y, x: y - 0.5 * (SPECIAL["k0e"](x) + SPECIAL["kve"](2, x))),
    # -- integrals -----------------------------------------------------------------------------------------------------
    ("dawsn", ONE, lambda y, x: _far(np.abs(x), 1.0 - 2.0 * x * y, -0.5, 1.0)),
    ("erfi", ONE, lambda y, x: 2.0 / ROOT_PI * np.exp(x * x)),
    ("exp1", POSITIVE, lambda y, x: -np.exp(-x) / x),
    ("expi", POSITIVE, lambda y, x: np.exp(x) / x),
    ("spence", POSITIVE, lambda y, x: -SPECIAL["hyp2f1"](1, 1, 2, 1.0 - x)),
    ("ellipk", INSIDE, lambda y, m: math.pi / 8.0 * SPECIAL["hyp2f1"](1.5, 1.5, 2, m)),
    ("ellipe", INSIDE, lambda y, m: -math.pi / 8.0 * SPECIAL["hyp2f1"](0.5, 1.5, 2, m)),
    ("ellipkm1", UNIT, lambda y, p: -math.pi / 8.0 * SPECIAL["hyp2f1"](1.5, 1.5, 2, 1.0 - p)),
    (
        "owens_t", PAIR, lambda y, h, a: np.exp(-0.5 * h * h) / ROOT_2PI * (0.5 - SPECIAL["ndtr"](a * h)),
        lambda y, h, a: np.exp(-0.5 * h * h * (1.0 + a * a)) / (2.0 * math.pi * (1.0 + a * a)),
    ),
    # -- powers and exponentials ---------------------------------------------------------------------------------------
    ("exp10", ONE, lambda y, x: y * LN10),
    ("exprel", ONE, lambda y, x: 0.5 * SPECIAL["hyp1f1"](2, 3, x)),
    ("cosm1", ONE, lambda y, x: -np.sin(x)),
    ("sindg", ONE, lambda y, x: DEGREE * SPECIAL["cosdg"](x)),
    ("cosdg", ONE, lambda y, x: -DEGREE * SPECIAL["sindg"](x)),
    ("tandg", ONE, lambda y, x: DEGREE * (1.0 + y * y)),
    ("boxcox", POSITIVE_PAIR, lambda y, x, p: x ** (p - 1.0), lambda y, x, p: _boxcox_slope(np.log(x), p)),
    ("boxcox1p", POSITIVE_PAIR, lambda y, x, p: (1 + x) ** (p - 1), lambda y, x, p: _boxcox_slope(np.log1p(x), p)),
    (
        "inv_boxcox", POSITIVE_PAIR, lambda x, y, p: x ** (1.0 - p),
        lambda x, y, p: -0.5 * x * y * y * SPECIAL["hyp2f1"](2, 2, 3, -p * y),
    ),
    ("powm1", POSITIVE_PAIR, lambda y, x, p: p * x ** (p - 1.0), lambda y, x, p: (1.0 + y) * np.log(x)),
    ("ndtri_exp", NEGATIVE, lambda y, x: ROOT_2PI * np.exp(x + 0.5 * y * y)),
    ("wrightomega", ONE, lambda y, x: y / (1.0 + y)),
    # -- Kelvin functions ----------------------------------------------------------------------------------------------
    ("ber", POSITIVE, lambda y, x: SPECIAL["berp"](x)),
    ("bei", POSITIVE, lambda y, x: SPECIAL["beip"](x)),
    ("ker", POSITIVE, lambda y, x: SPECIAL["kerp"](x)),
    ("kei", POSITIVE, lambda y, x: SPECIAL["keip"](x)),
    ("berp", POSITIVE, lambda y, x: -SPECIAL["bei"](x) - y / x),
    ("beip", POSITIVE, lambda y, x: SPECIAL["ber"](x) - y / x),
    ("kerp", POSITIVE, lambda y, x: -SPECIAL["kei"](x) - y / x),
    ("keip", POSITIVE, lambda y, x: SPECIAL["ker"](x) - y / x),
    ("itstruve0", POSITIVE, lambda y, x: SPECIAL["struve"](0, x)),
    ("it2struve0", POSITIVE, lambda y, x: -SPECIAL["struve"](0, x) / x),
    ("itmodstruve0", POSITIVE, lambda y, x: SPECIAL["modstruve"](0, x)),
    # -- distributions without parameters ------------------------------------------------------------------------------
    ("kolmogorov", POSITIVE, lambda y, x: _kolmogorov_slope(x)),
    ("kolmogi", UNIT, lambda x, y: 1.0 / _kolmogorov_slope(x)),
    (
        "inv_boxcox1p", POSITIVE_PAIR, lambda x, y, p: (1.0 + x) ** (1.0 - p),
        lambda x, y, p: -0.5 * (1.0 + x) * y * y * SPECIAL["hyp2f1"](2, 2, 3, -p * y),
    ),
    # -- losses --------------------------------------------------------------------------------------------------------
    (
        "huber", POSITIVE_PAIR, lambda y, d, r: np.maximum(np.abs(r) - d, 0.0), lambda y, d, r: np.clip(r, -d, d),
    ),
    (
        "pseudo_huber", POSITIVE_PAIR, lambda y, d, r: 2.0 * y / d - r * r / (d * np.hypot(1.0, r / d)),
        lambda y, d, r: r / np.hypot(1.0, r / d),
    ),
    ("poch", POSITIVE_PAIR, lambda y, z, m: y * _psi_gap(z + m, z), lambda y, z, m: y * SPECIAL["psi"](z + m)),
    (
        "binom", [Example(((3, 4), (3, 4)), low=0.3, high=1.2)], lambda y, n, k: y * _psi_gap(n + 1.0, n - k + 1.0),
        lambda y, n, k: y * _psi_gap(n - k + 1.0, k + 1.0),
    ),
]  # fmt: skip
SPECIAL: dict[str, Op] = {"erf": erf}
for _name, _examples, *_partials in TABLE:
    SPECIAL[_name] = elementwise(_name, scipy_value(_name), *_partials, examples=_examples, scalar=SCALARS.get(_name))


# -- with orders and parameters, which have no derivative in closed form -----------------------------------------------
def _half_gap(name: str, sign: float) -> Callable[..., Any]:
    """Half the order below, and half the order above with a sign."""
    return lambda y, v, x: 0.5 * SPECIAL[name](v - 1, x) + 0.5 * sign * SPECIAL[name](v + 1, x)


def _struve_rest(v: Any, x: Any) -> Any:
    return 0.5 / ROOT_PI * (0.5 * x) ** v * SPECIAL["rgamma"](v + 1.5)


def _gamma_slope(a: Any, x: Any) -> Any:
    """The density of the gamma distribution."""
    return np.exp(SPECIAL["xlogy"](a - 1.0, x) - x - SPECIAL["gammaln"](a))


def _beta_slope(a: Any, b: Any, x: Any) -> Any:
    """The density of the beta distribution."""
    return np.exp(SPECIAL["xlogy"](a - 1.0, x) + SPECIAL["xlog1py"](b - 1.0, -x) - SPECIAL["betaln"](a, b))


def _t_slope(df: Any, t: Any) -> Any:
    """The density of Student's distribution."""
    return np.exp(-0.5 * (df + 1.0) * np.log1p(t * t / df) - SPECIAL["betaln"](0.5 * df, 0.5)) / np.sqrt(df)


def _tukey_slope(y: Any, x: Any, shape: Any) -> Any:
    """The density of Tukey's lambda distribution, from its quantiles' derivative."""
    return 1.0 / (y ** (shape - 1.0) + (1.0 - y) ** (shape - 1.0))


def _chi_square_slope(x: Any, df: Any, nc: Any) -> Any:
    """The density of the noncentral chi-squared distribution, by two of its forms: neither holds everywhere."""
    near, half = x * nc < 1.0, 0.5 * df
    z, far = np.where(near, x * nc, 0.0), np.where(near, 1.0, nc)
    gap = np.sqrt(x) - np.sqrt(far)
    series = np.exp(-0.5 * (x + nc)) * (0.5 * x) ** (half - 1.0) * SPECIAL["hyp0f1"](half, 0.25 * z)
    bessel = (x / far) ** (0.5 * half - 0.5) * SPECIAL["ive"](half - 1.0, np.sqrt(x * far))
    return 0.5 * np.where(near, series * SPECIAL["rgamma"](half), np.exp(-0.5 * gap * gap) * bessel)


def _kolmogorov_slope(x: Any) -> Any:
    """The derivative of the theta series that converges: Marsaglia, Tsang, Wang, J. Stat. Software 8 (18), 2003."""
    low, none = x < 1.0, x < 0.04  # where the value is one in all its digits
    x = np.where(none, 0.5, x)
    small, large, terms = np.where(low, x, 1.0), np.where(low, 1.0, x), range(1, 6)
    odd = [(2 * k - 1) ** 2 * math.pi**2 / 8.0 for k in terms]
    below = sum((2.0 * c / small**4 - 1.0 / small**2) * np.exp(-c / small**2) for c in odd)
    above = sum((-1) ** k * 8.0 * k * k * large * np.exp(-2.0 * k * k * large**2) for k in terms)
    return np.where(none, 0.0, np.where(low, -ROOT_2PI * below, above))


def _legendre_slope(y: Any, m: Any, v: Any, x: Any) -> Any:
    below = np.where(np.equal(v + m, 0), 0.0, (v + m) * SPECIAL["lpmv"](m, v - 1.0, x))
    return (v * x * y - below) / (x * x - 1.0)


def _elliptic_gap(phi: Any, m: Any, first: Any, second: Any) -> Any:
    """``(F - E) / m``: the integral of ``sin**2 / sqrt(1 - m sin**2)``, by its series where m is small."""
    small = np.abs(m) < np.finfo(first.dtype).eps ** (1 / 3)
    a, b, c = np.sin(2.0 * phi), np.sin(4.0 * phi), np.sin(6.0 * phi)
    powers = 0.5 * phi - a / 4, 0.375 * phi - a / 4 + b / 32, 0.3125 * phi - 15 / 64 * a + 3 / 64 * b - c / 192
    series = powers[0] + m * (0.5 * powers[1] + 0.375 * m * powers[2])
    return np.where(small, series, (first - second) / np.where(small, 1.0, m))


def _elliptic_slope(first: Any, phi: Any, m: Any) -> Any:
    """The derivative of the incomplete integral of the first kind by m: DLMF 19.4.5."""
    gap = _elliptic_gap(phi, m, first, SPECIAL["ellipeinc"](phi, m))
    return (0.5 * (first - gap) - 0.25 * np.sin(2.0 * phi) / np.sqrt(1.0 - m * np.sin(phi) ** 2)) / (1.0 - m)


def _exp_integral_slope(y: Any, n: Any, x: Any) -> Any:
    """Less by one order; of order zero it is ``exp(-x) / x``."""
    return np.where(np.equal(n, 0), -y * (1.0 + 1.0 / x), -SPECIAL["expn"](np.maximum(n - 1, 0), x))


def _below(n: Any, factor: Any, value: Callable[[], Any]) -> Any:
    """The derivative of a polynomial of degree n by one of degree n - 1: zero for a constant."""
    return np.where(np.equal(n, 0), 0.0, factor * value())


REAL, WHOLE, EITHER = ((1.5,),), ((0,), (3,)), ((0,), (1.5,))
# SciPy's name, the parameters before the argument and their values in tests, the argument's domain, its derivative
WITH_PARAMETERS: list[tuple[str, str, Sequence[tuple[Any, ...]], tuple[float, float], Callable[..., Any]]] = [
    ("polygamma", "n", WHOLE, (0.3, 2.0), lambda y, n, x: SPECIAL["polygamma"](n + 1, x)),
    ("iv", "v", EITHER, (0.3, 2.0), _half_gap("iv", 1.0)),
    ("ive", "v", EITHER, (0.3, 2.0), lambda y, v, x: _half_gap("ive", 1.0)(y, v, x) - np.sign(x) * y),
    ("jv", "v", EITHER, (0.3, 2.0), _half_gap("jv", -1.0)),
    ("yv", "v", EITHER, (0.3, 2.0), _half_gap("yv", -1.0)),
    ("yn", "n", WHOLE, (0.3, 2.0), lambda y, n, x: _half_gap("yv", -1.0)(y, n, x)),
    ("kv", "v", EITHER, (0.3, 2.0), lambda y, v, x: -_half_gap("kv", 1.0)(y, v, x)),
    ("kn", "n", WHOLE, (0.3, 2.0), lambda y, n, x: -_half_gap("kv", 1.0)(y, n, x)),
    ("kve", "v", EITHER, (0.3, 2.0), lambda y, v, x: y - _half_gap("kve", 1.0)(y, v, x)),
    ("struve", "v", REAL, (0.3, 2.0), lambda y, v, x: _half_gap("struve", -1.0)(y, v, x) + _struve_rest(v, x)),
    (
        "modstruve", "v", EITHER, (0.3, 2.0),
        lambda y, v, x: _half_gap("modstruve", 1.0)(y, v, x) + _struve_rest(v, x),
    ),
    ("expn", "n", ((1,), (3,)), (0.3, 2.0), lambda y, n, x: _exp_integral_slope(y, n, x)),
    ("zeta", "x", ((2.5,), (4.0,)), (0.3, 2.0), lambda y, x, q: -x * SPECIAL["zeta"](x + 1.0, q)),
    ("hyp0f1", "v", REAL, (-2.0, 2.0), lambda y, v, z: SPECIAL["hyp0f1"](v + 1.0, z) / v),
    (
        "hyp1f1", "a, b", ((0.5, 1.5), (2, 3)), (-2.0, 2.0),
        lambda y, a, b, z: a / b * SPECIAL["hyp1f1"](a + 1, b + 1, z),
    ),
    ("hyperu", "a, b", ((0.5, 1.5), (2, 1)), (0.3, 2.0), lambda y, a, b, z: -a * SPECIAL["hyperu"](a + 1, b + 1, z)),
    (
        "hyp2f1", "a, b, c", ((0.5, 1.5, 2.0), (1, 1, 2)), (-0.8, 0.8),
        lambda y, a, b, c, z: a * b / c * SPECIAL["hyp2f1"](a + 1, b + 1, c + 1, z),
    ),
    ("gammainc", "a", REAL, (0.3, 2.0), lambda y, a, x: _gamma_slope(a, x)),
    ("gammaincc", "a", REAL, (0.3, 2.0), lambda y, a, x: -_gamma_slope(a, x)),
    ("gammaincinv", "a", REAL, (0.1, 0.9), lambda x, a, y: 1.0 / _gamma_slope(a, x)),
    ("gammainccinv", "a", REAL, (0.1, 0.9), lambda x, a, y: -1.0 / _gamma_slope(a, x)),
    ("betainc", "a, b", ((0.5, 1.5), (2, 3)), (0.1, 0.9), lambda y, a, b, x: _beta_slope(a, b, x)),
    ("betaincc", "a, b", ((0.5, 1.5), (2, 3)), (0.1, 0.9), lambda y, a, b, x: -_beta_slope(a, b, x)),
    ("betaincinv", "a, b", ((0.5, 1.5), (2, 3)), (0.1, 0.9), lambda x, a, b, y: 1.0 / _beta_slope(a, b, x)),
    ("betainccinv", "a, b", ((0.5, 1.5), (2, 3)), (0.1, 0.9), lambda x, a, b, y: -1.0 / _beta_slope(a, b, x)),
    ("stdtr", "df", REAL, (-2.0, 2.0), lambda y, df, t: _t_slope(df, t)),
    ("stdtrit", "df", REAL, (0.1, 0.9), lambda t, df, p: 1.0 / _t_slope(df, t)),
    (
        "eval_jacobi", "n, alpha, beta", ((0, 0.5, 1.0), (3, 1.0, 0.5)), (-0.9, 0.9),
        lambda y, n, a, b, x: _below(n, 0.5 * (n + a + b + 1), lambda: SPECIAL["eval_jacobi"](n - 1, a + 1, b + 1, x)),
    ),
    (
        "eval_legendre", "n", WHOLE, (-0.9, 0.9),
        lambda y, n, x: _below(n, 0.5 * (n + 1), lambda: SPECIAL["eval_jacobi"](n - 1, 1, 1, x)),
    ),
    (
        "eval_gegenbauer", "n, alpha", ((0, 1.5), (3, 0.7)), (-0.9, 0.9),
        lambda y, n, a, x: _below(n, 2.0 * a, lambda: SPECIAL["eval_gegenbauer"](n - 1, a + 1, x)),
    ),
    ("eval_chebyt", "n", WHOLE, (-0.9, 0.9), lambda y, n, x: _below(n, n, lambda: SPECIAL["eval_chebyu"](n - 1, x))),
    (
        "eval_chebyu", "n", WHOLE, (-0.9, 0.9),
        lambda y, n, x: _below(n, 2.0, lambda: SPECIAL["eval_gegenbauer"](n - 1, 2.0, x)),
    ),
    (
        "eval_genlaguerre", "n, alpha", ((0, 1.5), (3, 0.7)), (0.3, 2.0),
        lambda y, n, a, x: _below(n, -1.0, lambda: SPECIAL["eval_genlaguerre"](n - 1, a + 1, x)),
    ),
    (
        "eval_laguerre", "n", WHOLE, (0.3, 2.0),
        lambda y, n, x: _below(n, -1.0, lambda: SPECIAL["eval_genlaguerre"](n - 1, 1.0, x)),
    ),
    (
        "eval_hermite", "n", WHOLE, (-2.0, 2.0),
        lambda y, n, x: _below(n, 2 * n, lambda: SPECIAL["eval_hermite"](n - 1, x)),
    ),
    (
        "eval_hermitenorm", "n", WHOLE, (-2.0, 2.0),
        lambda y, n, x: _below(n, n, lambda: SPECIAL["eval_hermitenorm"](n - 1, x)),
    ),
]  # fmt: skip

WITH_PARAMETERS += [
    ("lpmv", "m, v", ((0, 2.0), (1, 2.5)), (-0.9, 0.9), _legendre_slope),
    (
        "wright_bessel", "a, b", ((0.5, 1.5), (1, 2)), (0.3, 2.0),
        lambda y, a, b, x: SPECIAL["wright_bessel"](a, a + b, x),
    ),
    (
        "log_wright_bessel", "a, b", ((0.5, 1.5), (1, 2)), (0.3, 2.0),
        lambda y, a, b, x: np.exp(SPECIAL["log_wright_bessel"](a, a + b, x) - y),
    ),
]  # fmt: skip
for _name, _parameters, _values, (_low, _high), _partial in WITH_PARAMETERS:
    _operands = _parameters.split(", ")
    SPECIAL[_name] = elementwise(
        _name, of_parameters(_name), *[underived(_name, operand) for operand in _operands], _partial,
        examples=[
            Example(
                ((),) * len(values) + ((3, 4),), low=_low, high=_high, shared=tuple(range(len(values))),
                given={k: np.array(v) for k, v in enumerate(values)},
            )
            for values in _values
        ],
    )  # fmt: skip


MODULUS = [Example(((3, 4), ()), shared=(1,), given={1: np.array(0.7)})]
BEHIND: list[tuple[Any, ...]] = [
    (
        "ellipkinc", MODULUS, lambda y, phi, m: 1.0 / np.sqrt(1.0 - m * np.sin(phi) ** 2), _elliptic_slope,
    ),
    (
        "ellipeinc", MODULUS, lambda y, phi, m: np.sqrt(1.0 - m * np.sin(phi) ** 2),
        lambda y, phi, m: -0.5 * _elliptic_gap(phi, m, SPECIAL["ellipkinc"](phi, m), y),
    ),
    ("tklmbda", [MODULUS[0]._replace(low=-0.9, high=0.9)], _tukey_slope, underived("tklmbda", "lmbda")),
    (
        "chndtr", [Example(((3, 4), (), ()), low=0.3, shared=(1, 2), given={1: np.array(2.5), 2: np.array(0.7)})],
        lambda y, x, df, nc: _chi_square_slope(x, df, nc), underived("chndtr", "df"),
        lambda y, x, df, nc: -_chi_square_slope(x, df + 2.0, nc),
    ),
]  # fmt: skip
"""With the parameters behind the argument."""
for _name, _examples, *_partials in BEHIND:
    SPECIAL[_name] = elementwise(_name, of_parameters(_name), *_partials, examples=_examples)


# -- several results at once: the names of the results, and of each its derivative -------------------------------------
def one_of(name: str, position: int) -> Callable[..., Any]:
    return lambda *operands: special(name, *operands)(*operands)[position]


def _integrals(row: tuple[Any, ...]) -> tuple[str, tuple[Op, ...]]:
    """A function of one operand, from the derivative of each of its results."""
    name, *partials = row
    return name, tuple(
        elementwise(f"{name}_{k}", one_of(name, k), partial, examples=POSITIVE) for k, partial in enumerate(partials)
    )


PAIRS: dict[str, tuple[Op, ...]] = {
    "sici": (
        elementwise("si", one_of("sici", 0), lambda y, x: np.sinc(x / math.pi), examples=POSITIVE),
        elementwise("ci", one_of("sici", 1), lambda y, x: np.cos(x) / x, examples=POSITIVE),
    ),
    "shichi": (
        elementwise("shi", one_of("shichi", 0), lambda y, x: np.sinh(x) / x, examples=POSITIVE),
        elementwise("chi", one_of("shichi", 1), lambda y, x: np.cosh(x) / x, examples=POSITIVE),
    ),
    "fresnel": (
        elementwise("fresnel_s", one_of("fresnel", 0), lambda y, x: np.sin(0.5 * math.pi * x * x), examples=ONE),
        elementwise("fresnel_c", one_of("fresnel", 1), lambda y, x: np.cos(0.5 * math.pi * x * x), examples=ONE),
    ),
    "airy": (
        elementwise("airy_ai", one_of("airy", 0), lambda y, x: PAIRS["airy"][1](x), examples=ONE),
        elementwise("airy_aip", one_of("airy", 1), lambda y, x: x * PAIRS["airy"][0](x), examples=ONE),
        elementwise("airy_bi", one_of("airy", 2), lambda y, x: PAIRS["airy"][3](x), examples=ONE),
        elementwise("airy_bip", one_of("airy", 3), lambda y, x: x * PAIRS["airy"][2](x), examples=ONE),
    ),
    "ellipj": (
        elementwise("ellip_sn", one_of("ellipj", 0), lambda y, u, m: _elliptic(1, u, m) * _elliptic(2, u, m),
                    underived("ellipj", "m"), examples=MODULUS),
        elementwise("ellip_cn", one_of("ellipj", 1), lambda y, u, m: -_elliptic(0, u, m) * _elliptic(2, u, m),
                    underived("ellipj", "m"), examples=MODULUS),
        elementwise("ellip_dn", one_of("ellipj", 2), lambda y, u, m: -m * _elliptic(0, u, m) * _elliptic(1, u, m),
                    underived("ellipj", "m"), examples=MODULUS),
        elementwise("ellip_ph", one_of("ellipj", 3), lambda y, u, m: _elliptic(2, u, m),
                    underived("ellipj", "m"), examples=MODULUS),
    ),
    **dict(map(_integrals, (
        ("airye", lambda y, x: _scaled_airy(1, x) + np.sqrt(x) * y,
         lambda y, x: x * _scaled_airy(0, x) + np.sqrt(x) * y,
         lambda y, x: _scaled_airy(3, x) - np.sqrt(x) * y, lambda y, x: x * _scaled_airy(2, x) - np.sqrt(x) * y),
        ("itairy", lambda y, x: PAIRS["airy"][0](x), lambda y, x: PAIRS["airy"][2](x),
         lambda y, x: PAIRS["airy"][0](-x), lambda y, x: PAIRS["airy"][2](-x)),
        ("itj0y0", lambda y, x: SPECIAL["j0"](x), lambda y, x: SPECIAL["y0"](x)),
        ("iti0k0", lambda y, x: SPECIAL["i0"](x), lambda y, x: SPECIAL["k0"](x)),
        ("it2j0y0", lambda y, x: _less_one("j0", -1.0, x), lambda y, x: -SPECIAL["y0"](x) / x),
        ("it2i0k0", lambda y, x: _less_one("i0", 1.0, x), lambda y, x: -SPECIAL["k0"](x) / x),
    ))),
}  # fmt: skip
"""Functions that return several arrays, each an operation."""


def _faddeeva(part: str) -> Callable[..., Any]:
    return lambda x, y: getattr(special("wofz", x, y)(x + 1j * y), part)


def _along_reals(x: Any, y: Any) -> Any:
    return -2.0 * (x * FADDEEVA[0](x, y) - y * FADDEEVA[1](x, y))


def _along_imaginaries(x: Any, y: Any) -> Any:
    return 2.0 / ROOT_PI - 2.0 * (x * FADDEEVA[1](x, y) + y * FADDEEVA[0](x, y))


FADDEEVA: tuple[Op, Op] = (
    elementwise("faddeeva_real", _faddeeva("real"), lambda u, x, y: _along_reals(x, y),
                lambda u, x, y: -_along_imaginaries(x, y), examples=MODULUS),
    elementwise("faddeeva_imag", _faddeeva("imag"), lambda v, x, y: _along_imaginaries(x, y),
                lambda v, x, y: _along_reals(x, y), examples=MODULUS),
)  # fmt: skip
"""The parts of ``wofz(x + iy)``, whose derivative is ``2i / sqrt(pi) - 2 z w``: DLMF 7.10.2."""


def _less_one(name: str, sign: float, x: Any) -> Any:
    """``sign * (f(x) - 1) / x`` of a Bessel function of order zero, by its series near zero."""
    near = np.abs(x) < 0.5
    t = np.where(near, 0.25 * x * x, 0.0) * sign
    series = 0.25 * x * (1.0 + t / 4 * (1.0 + t / 9 * (1.0 + t / 16 * (1.0 + t / 25 * (1.0 + t / 36)))))
    return np.where(near, series, sign * (SPECIAL[name](x) - 1.0) / np.where(near, 1.0, x))


def _scaled_airy(position: int, x: Any) -> Any:
    return PAIRS["airye"][position](x)


def _elliptic(position: int, u: Any, m: Any) -> Any:
    return PAIRS["ellipj"][position](u, m)


def _boxcox_slope(logarithm: Any, p: Any) -> Any:
    """The derivative of ``(x**p - 1) / p`` by p, also where p is zero."""
    return 0.5 * logarithm * logarithm * SPECIAL["hyp1f1"](2, 3, p * logarithm)


def _psi_gap(a: Any, b: Any) -> Any:
    return SPECIAL["psi"](a) - SPECIAL["psi"](b)


def _ratio(a: Any, b: Any) -> Any:
    """a / b, and zero for 0 / 0."""
    zero = np.logical_and(a == 0, b == 0)
    return np.where(zero, 0.0, a / np.where(zero, 1.0, b))


# -- along axes --------------------------------------------------------------------------------------------------------
def _peak_value(x: Any, axis: tuple[int, ...]) -> Any:
    if 0 in (x.shape[k] for k in axis):
        return namespace(x).zeros(tuple(1 if k in axis else n for k, n in enumerate(x.shape)), x.dtype)
    top = x.max(axis=axis, keepdims=True)
    return np.where(np.isfinite(top), top, 0.0) if top.dtype.kind == "f" else top


def _logsumexp_value(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    shift = _peak_value(x, axis)
    with np.errstate(divide="ignore"):
        y = np.log(np.exp(x - shift).sum(axis=axis, keepdims=True)) + shift
    return y if keepdims else y.squeeze(axis)


def _logsumexp_edge(node: Node, k: int) -> Edge:
    """The softmax; where the largest entries are infinite, they share evenly, as the ties of a maximum."""
    x, axis, keepdims = node.args[0], node.params["axis"], node.params["keepdims"]
    y = node.out if keepdims else np.expand_dims(node.out, axis)
    endless = np.isinf(y)
    tied = astype(x == y, y.dtype, y)
    even = tied / np.maximum(tied.sum(axis=axis, keepdims=True), 1.0)
    weights = np.where(endless, even, np.exp(np.where(endless, 0.0, x) - np.where(endless, 0.0, y)))
    inp = fresh(x.shape)
    part = Part(reduced(inp, axis, keepdims), inp, (labelled(weights, inp, y.dtype),))
    return Edge(node.out.shape, x.shape, [part])


peak = opaque("peak", _peak_value, [Example(((3, 4, 2),), {"axis": (1,)})], relation=along, expansion=_peak_value)
"""The maximum along axes, which are kept; 0 where it is infinite: a shift that cancels, and so needs no derivative."""

logsumexp = define(
    "logsumexp",
    _logsumexp_value,
    _logsumexp_edge,
    [
        Example(((3, 4, 2),), {"axis": (1,), "keepdims": False}),
        Example(((3, 4, 2),), {"axis": (1, 2), "keepdims": True}),
    ],
    relation=along,
    expansion=_logsumexp_value,
)
