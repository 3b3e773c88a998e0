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
from .ops.special import DEGREE, FADDEEVA, SPECIAL
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


def _of_traced(name: str, form: Form) -> Form:
    """The form of traced values; SciPy's own function of plain ones."""

    def function(*operands: Any) -> Any:
        traced = any(isinstance(x, Traced) for x in operands)
        return form(*operands) if traced else special(name, *operands)(*operands)

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
    # -- others
    "agm": _agm, "gammasgn": _gamma_sign,
    "voigt_profile": _voigt, "wofz": _wofz,
}  # fmt: skip
FORMS = {name: form if isinstance(form, np.ufunc) else _of_traced(name, form) for name, form in _FORMS.items()}
