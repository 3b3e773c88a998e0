"""Functions of `scipy.special` that are others of another argument, and so no operations of their own.

On plain arrays they are SciPy's own; the forms are for traced values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from .backend import special
from .ops.equations import carlson
from .ops.special import DEGREE, FADDEEVA, PAIRS, SPECIAL
from .tape.traced import Traced

__all__ = ["FORMS"]

Form = Callable[..., Any]


of = SimpleNamespace(**SPECIAL)
"""minijac's functions, by name."""


def _bdtr(k: Any, n: Any, p: Any) -> Any:
    """The binomial distribution up to k of n: one where that is all."""
    whole, none = np.equal(np.floor(k), n), np.less(k, 0)
    more, rest = np.where(none, 1.0, np.floor(k) + 1.0), np.where(whole, 1.0, n - np.floor(k))
    return np.where(none, np.nan, np.where(whole, 1.0, of.betainc(rest, more, 1.0 - p)))


def _bdtrc(k: Any, n: Any, p: Any) -> Any:
    whole, none = np.equal(np.floor(k), n), np.less(k, 0)
    more, rest = np.where(none, 1.0, np.floor(k) + 1.0), np.where(whole, 1.0, n - np.floor(k))
    return np.where(none, 1.0, np.where(whole, 0.0, of.betainc(more, rest, p)))


def _f_quantile(dfn: Any, dfd: Any, p: Any) -> Any:
    w = of.betaincinv(0.5 * dfn, 0.5 * dfd, p)
    return dfd * w / (dfn * (1.0 - w))


def _f_share(dfn: Any, dfd: Any, x: Any) -> Any:
    return dfn * x / (dfn * x + dfd)


def _shifted_jacobi(n: Any, p: Any, q: Any, x: Any) -> Any:
    return of.eval_jacobi(n, p - q, q - 1.0, 2.0 * x - 1.0) / of.binom(2.0 * n + p - 1.0, n)


def _agm(a: Any, b: Any) -> Any:
    """Of positive numbers: Gauss's relation with the complete elliptic integral."""
    return 0.25 * math.pi * (a + b) / of.ellipk(((a - b) / (a + b)) ** 2)


def _gamma_sign(x: Any) -> Any:
    sign = np.where(x > 0, 1.0, 1.0 - 2.0 * (np.floor(x) % 2))
    return np.where(
        np.equal(x, 0), np.where(np.signbit(x), -1.0, 1.0), np.where((x < 0) & np.equal(np.floor(x), x), np.nan, sign)
    )


def _wofz(z: Any) -> Any:
    x, y = (z.real, z.imag) if np.iscomplexobj(z) else (z, 0.0)
    return FADDEEVA[0](x, y) + 1j * FADDEEVA[1](x, y)


def _voigt(x: Any, sigma: Any, gamma: Any) -> Any:
    """Cauchy's where sigma is zero, of which it is an even function."""
    flat = np.equal(sigma, 0)
    wide = math.sqrt(2.0) * np.where(flat, 1.0, sigma)
    narrow = gamma / np.where(flat, math.pi * (x * x + gamma * gamma), 1.0)
    return np.where(flat, narrow, FADDEEVA[0](x / wide, gamma / wide) / (math.sqrt(math.pi) * wide))


def _hankel(kind: float, scaled: bool) -> Form:
    def hankel(v: Any, x: Any) -> Any:
        y = of.jv(v, x) + 1j * kind * of.yv(v, x)
        return y * np.exp(-1j * kind * x) if scaled else y

    return hankel


_BERNOULLI = [1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600,
              -3617 / 10670622842880000]  # fmt: skip
"""``B_2k / (2k)!``"""


def _hurwitz(x: Any, q: Any) -> Any:
    """Hurwitz's zeta function by Euler and Maclaurin's sum: DLMF 25.11.28, from -1 up."""
    n, a = 10, q + 10.0
    total = sum((q + k) ** -x for k in range(n)) + a ** (1.0 - x) / (x - 1.0) + 0.5 * a**-x
    term = x * a ** (-x - 1.0)
    for k, factor in enumerate(_BERNOULLI, 1):
        total = total + factor * term
        term = term * (x + 2 * k - 1) * (x + 2 * k) / (a * a)
    return total


def _zeta(x: Any, q: Any = None) -> Any:
    """With a derivative by x."""
    return _hurwitz(x, 1.0 if q is None else q) if isinstance(x, Traced) else of.zeta(x, 1.0 if q is None else q)


def _zetac(x: Any) -> Any:
    """Less than -1 by reflection: DLMF 25.4.1."""
    low = x < -1.0
    s = np.where(low, 1.0 - x, x)
    less, below = _hurwitz(s, 2.0), np.where(low, s, 2.0)
    reflected = 2.0 * (2.0 * math.pi) ** -below * np.cos(0.5 * math.pi * below) * of.gamma(below) * (1.0 + less)
    return np.where(low, reflected - 1.0, less)


def _elliprc(x: Any, y: Any) -> Any:
    """Of a negative `y` the principal value: DLMF 19.20.6."""
    cut = y < 0
    start, end = np.where(cut, x - y, x), np.where(cut, -y, y)
    return np.where(cut, np.sqrt(x / start), 1.0) * of.elliprf(start, end, end)


def _elliprg(x: Any, y: Any, z: Any) -> Any:
    """DLMF 19.21.10, symmetric."""
    rest = x * (y + z) * carlson(y, z, x, x) + y * (x + z) * carlson(x, z, y, y) + z * (x + y) * carlson(x, y, z, z)
    return rest / 6.0


def _modified_fresnel(sign: float) -> Form:
    """DLMF 7.2: the integral from x on, and what is left of it without its oscillation."""

    def form(x: Any) -> Any:
        s, c = (part(x * math.sqrt(2.0 / math.pi)) for part in PAIRS["fresnel"])
        rest = math.sqrt(0.5 * math.pi) * ((0.5 - c) + sign * 1j * (0.5 - s))
        return rest, rest * np.exp(-sign * 1j * (x * x + 0.25 * math.pi)) / math.sqrt(math.pi)

    return form


def _multigammaln(a: Any, d: int) -> Any:
    return 0.25 * d * (d - 1) * math.log(math.pi) + sum(of.gammaln(a - 0.5 * k) for k in range(d))


def _diric(x: Any, n: int) -> Any:
    """Where the sine is zero, one or minus one."""
    flat = np.abs(np.sin(0.5 * x)) < 1e-7
    near = np.where(flat, 1.0, x)
    turns = np.round(np.where(flat, x, 0.0) / (2.0 * math.pi)) * (n - 1)
    return np.where(flat, 1.0 - 2.0 * (turns % 2), np.sin(0.5 * n * near) / (n * np.sin(0.5 * near)))


def _comb(N: Any, k: Any, *, exact: bool = False, repetition: bool = False) -> Any:
    top = N + k - 1 if repetition else N
    inside = (k <= top) & (top >= 0) & (k >= 0)
    return np.where(inside, of.binom(np.where(inside, top, 1.0), np.where(inside, k, 0.0)), 0.0)


def _perm(N: Any, k: Any, exact: bool = False) -> Any:
    inside = (k <= N) & (N >= 0) & (k >= 0)
    return np.where(inside, of.poch(np.where(inside, N - k + 1.0, 1.0), np.where(inside, k, 0.0)), 0.0)


def _factorial(n: Any, exact: bool = False, extend: str = "zero") -> Any:
    return np.where(n < 0, 0.0, of.gamma(np.where(n < 0, 0.0, n) + 1.0))


def _spherical(name: str) -> Form:
    """With the derivative, which SciPy's functions give too."""
    f: Any = SPECIAL[name]
    return lambda n, z, derivative=False: f.partials[1](None, n, z) if derivative else f(n, z)


def _assoc_legendre(n: Any, m: Any, z: Any, *, norm: bool = False) -> Any:
    """Stacked, as SciPy stacks it and its derivatives."""
    size = math.sqrt((n + 0.5) * math.gamma(n - m + 1) / math.gamma(n + m + 1)) if norm else 1.0
    return (size * of.lpmv(m, n, z))[None]


def _of_traced(name: str, form: Form) -> Form:
    """The form of traced values; SciPy's own function of plain ones."""

    def function(*operands: Any, **options: Any) -> Any:
        traced = any(isinstance(x, Traced) for x in (*operands, *options.values()))
        return form(*operands, **options) if traced else special(name, *operands)(*operands, **options)

    function.__name__ = name
    return function


_FORMS: dict[str, Form] = {
    # -- NumPy's
    "cbrt": np.cbrt, "exp2": np.exp2, "expm1": np.expm1, "log1p": np.log1p, "round": np.round,
    # -- angles
    "radian": lambda d, m, s: (d + m / 60.0 + s / 3600.0) * DEGREE, "cotdg": lambda x: 1.0 / of.tandg(x),
    # -- distributions
    "bdtr": _bdtr, "bdtrc": _bdtrc,
    "bdtri": lambda k, n, y: 1.0 - of.betaincinv(n - np.floor(k), np.floor(k) + 1.0, y),
    "chdtr": lambda v, x: of.gammainc(0.5 * v, 0.5 * x), "chdtrc": lambda v, x: of.gammaincc(0.5 * v, 0.5 * x),
    "chdtri": lambda v, p: 2.0 * of.gammainccinv(0.5 * v, p),
    "fdtr": lambda n, d, x: of.betainc(0.5 * n, 0.5 * d, _f_share(n, d, x)),
    "fdtrc": lambda n, d, x: of.betaincc(0.5 * n, 0.5 * d, _f_share(n, d, x)), "fdtri": _f_quantile,
    "gdtr": lambda a, b, x: of.gammainc(b, a * x), "gdtrc": lambda a, b, x: of.gammaincc(b, a * x),
    "gdtria": lambda p, b, x: of.gammaincinv(b, p) / x, "gdtrix": lambda a, b, p: of.gammaincinv(b, p) / a,
    "nbdtr": lambda k, n, p: of.betainc(n, np.floor(k) + 1.0, p),
    "nbdtrc": lambda k, n, p: of.betaincc(n, np.floor(k) + 1.0, p),
    "nbdtri": lambda k, n, y: of.betaincinv(n, np.floor(k) + 1.0, y),
    "nrdtrimn": lambda p, std, x: x - std * of.ndtri(p), "nrdtrisd": lambda mn, p, x: (x - mn) / of.ndtri(p),
    "pdtr": lambda k, m: of.gammaincc(np.floor(k) + 1.0, m), "pdtrc": lambda k, m: of.gammainc(np.floor(k) + 1.0, m),
    "pdtri": lambda k, y: of.gammainccinv(np.floor(k) + 1.0, y),
    # -- polynomials
    "eval_chebyc": lambda n, x: 2.0 * of.eval_chebyt(n, 0.5 * x),
    "eval_chebys": lambda n, x: of.eval_chebyu(n, 0.5 * x),
    "eval_sh_chebyt": lambda n, x: of.eval_chebyt(n, 2.0 * x - 1.0),
    "eval_sh_chebyu": lambda n, x: of.eval_chebyu(n, 2.0 * x - 1.0), "eval_sh_jacobi": _shifted_jacobi,
    "eval_sh_legendre": lambda n, x: of.eval_legendre(n, 2.0 * x - 1.0),
    # -- Bessel functions
    "jn": lambda n, x: of.jv(n, x), "jve": lambda v, x: of.jv(v, x), "yve": lambda v, x: of.yv(v, x),
    "hankel1": _hankel(1.0, False), "hankel1e": _hankel(1.0, True),
    "hankel2": _hankel(-1.0, False), "hankel2e": _hankel(-1.0, True),
    "kelvin": lambda x: tuple(real(x) + 1j * imaginary(x) for real, imaginary in (
        (of.ber, of.bei), (of.ker, of.kei), (of.berp, of.beip), (of.kerp, of.keip))),
    "lambertw": lambda z, k=0, tol=1e-8: of.lambertw(z, k),
    **{name: _spherical(name) for name in ("spherical_jn", "spherical_yn", "spherical_in", "spherical_kn")},
    # -- spherical harmonics, which SciPy stacks with as many derivatives as are asked for
    "legendre_p": lambda n, z: of.eval_legendre(n, z)[None], "assoc_legendre_p": _assoc_legendre,
    "sph_legendre_p": lambda n, m, theta: of.sph_legendre_p(n, m, theta)[None],
    "sph_harm_y": lambda n, m, theta, phi: of.sph_legendre_p(n, m, theta) * np.exp(1j * m * phi),
    # -- Carlson's integrals
    "elliprc": _elliprc, "elliprd": lambda x, y, z: carlson(x, y, z, z), "elliprg": _elliprg, "elliprj": carlson,
    # -- zeta functions, factorials
    "zeta": _zeta, "zetac": _zetac, "multigammaln": _multigammaln, "factorial": _factorial,
    "comb": _comb, "perm": _perm,
    # -- others
    "diric": _diric, "modfresnelp": _modified_fresnel(1.0), "modfresnelm": _modified_fresnel(-1.0),
    "agm": _agm, "gammasgn": _gamma_sign,
    "voigt_profile": _voigt, "wofz": _wofz,
}  # fmt: skip
FORMS = {name: form if isinstance(form, np.ufunc) else _of_traced(name, form) for name, form in _FORMS.items()}
