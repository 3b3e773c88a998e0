"""Special functions in many digits, by mpmath, as functions of tensors that torch differentiates to any order."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np
import scipy.special
import torch

__all__ = ["BY_MPMATH"]

mp.mp.dps = 25
Function = Callable[..., Any]


def function_of_tensors(f: Function | Integral) -> Function:
    """`f` of numbers, the last of which is differentiated, for each entry of tensors."""

    @cache
    def entry(order: int, *numbers: float) -> float:
        held = [mp.mpf(x) for x in numbers[:-1]]
        if isinstance(f, Integral):
            if order == 0:
                return f.value(*numbers)
            return float(mp.diff(lambda x: f.slope(*held, x), mp.mpf(numbers[-1]), order - 1))
        return float(mp.diff(lambda x: f(*held, x), mp.mpf(numbers[-1]), order))

    class Derivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, order: int, x: Any, *held: Any) -> Any:
            ctx.order, ctx.held = order, held
            ctx.save_for_backward(x)
            arrays = np.broadcast_arrays(*(np.asarray(y) for y in held), x.detach().numpy())
            rows = zip(*(a.ravel() for a in arrays), strict=True)
            found = np.array([entry(order, *map(float, row)) for row in rows])
            return torch.from_numpy(found.reshape(arrays[-1].shape))

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return None, g * Derivative.apply(ctx.order + 1, x, *ctx.held), *[None] * len(ctx.held)

    return lambda *operands: Derivative.apply(0, operands[-1], *operands[:-1])


def inverse(f: Function, start: float) -> Function:
    """The last argument at which `f` has the value that stands in its place."""
    ends = (start / 100, 4 * start)
    return lambda *xs: mp.findroot(lambda x: f(*xs[:-1], x) - xs[-1], ends, solver="anderson", tol=1e-24)


def lower_gamma(a: Any, x: Any) -> Any:
    return mp.gammainc(a, 0, x, regularized=True)


def lower_beta(a: Any, b: Any, x: Any) -> Any:
    return mp.betainc(a, b, 0, x, regularized=True)


def student(df: Any, t: Any) -> Any:
    """By the hypergeometric function."""
    slope = mp.gamma((df + 1) / 2) / (mp.sqrt(mp.pi * df) * mp.gamma(df / 2))
    return mp.mpf(1) / 2 + t * slope * mp.hyp2f1(0.5, (df + 1) / 2, 1.5, -t * t / df)


class Integral(NamedTuple):
    """A function whose derivative is known in many digits, and whose value is SciPy's, in which nothing is derived."""

    name: str
    position: int
    slope: Function

    def value(self, *numbers: float) -> float:
        found = getattr(scipy.special, self.name)(*numbers)
        return float(found[self.position] if isinstance(found, tuple) else found)


def integrals(name: str, *slopes: Function) -> dict[str, Integral]:
    """Of several results."""
    return {f"{name}_{k}": Integral(name, k, slope) for k, slope in enumerate(slopes)}


def ker(x: Any, order: int = 0) -> Any:
    """``ker + i kei``, or its derivative: a modified Bessel function on a diagonal of the plane."""
    turn = mp.expjpi(0.25)
    return mp.besselk(0, turn * x) if order == 0 else -turn * mp.besselk(1, turn * x)


def ber(x: Any, order: int = 0) -> Any:
    turn = mp.expjpi(0.25)
    return mp.besseli(0, turn * x) if order == 0 else turn * mp.besseli(1, turn * x)


def kolmogorov(x: Any) -> Any:
    if x < 0.8:
        terms = [mp.exp(-((2 * k - 1) ** 2) * mp.pi**2 / (8 * x * x)) for k in range(1, 12)]
        return 1 - mp.sqrt(2 * mp.pi) / x * mp.fsum(terms)
    return 2 * mp.fsum((-1) ** (k - 1) * mp.exp(-2 * k * k * x * x) for k in range(1, 12))


def wright(a: Any, b: Any, x: Any) -> Any:
    return mp.fsum(x**k / (mp.factorial(k) * mp.gamma(a * k + b)) for k in range(40))


def tukey(x: Any, shape: Any) -> Any:
    """The quantiles' inverse."""
    return mp.findroot(lambda p: (p**shape - (1 - p) ** shape) / shape - x, (0.02, 0.98), solver="anderson")


def noncentral(df: Any, nc: Any, x: Any) -> Any:
    weights = [mp.exp(-nc / 2) * (nc / 2) ** k / mp.factorial(k) for k in range(30)]
    return mp.fsum(w * lower_gamma(df / 2 + k, x / 2) for k, w in enumerate(weights))


def faddeeva(x: Any, y: Any) -> Any:
    z = mp.mpc(x, y)
    return mp.exp(-z * z) * mp.erfc(-1j * z)


def grown(x: Any) -> Any:
    return mp.exp(mp.mpf(2) / 3 * mp.mpf(x) ** 1.5)


NUMBERS: dict[str, Function | Integral] = {
    "j0": lambda x: mp.besselj(0, x), "j1": lambda x: mp.besselj(1, x),
    "y0": lambda x: mp.bessely(0, x), "y1": lambda x: mp.bessely(1, x),
    "k0": lambda x: mp.besselk(0, x), "k0e": lambda x: mp.besselk(0, x) * mp.exp(x),
    "k1": lambda x: mp.besselk(1, x), "k1e": lambda x: mp.besselk(1, x) * mp.exp(x),
    "dawsn": lambda x: mp.sqrt(mp.pi) / 2 * mp.exp(-x * x) * mp.erfi(x), "erfi": mp.erfi,
    "exp1": mp.e1, "expi": mp.ei, "spence": lambda x: mp.polylog(2, 1 - x).real,
    "ellipk": mp.ellipk, "ellipe": mp.ellipe, "ellipkm1": lambda p: mp.ellipk(1 - p),
    "exprel": lambda x: mp.expm1(x) / x, "cosm1": lambda x: mp.cos(x) - 1,
    "iv": mp.besseli, "ive": lambda v, x: mp.besseli(v, x) * mp.exp(-x), "jv": mp.besselj, "yv": mp.bessely,
    "yn": mp.bessely, "kv": mp.besselk, "kn": mp.besselk, "kve": lambda v, x: mp.besselk(v, x) * mp.exp(x),
    "struve": mp.struveh, "modstruve": mp.struvel, "expn": mp.expint, "zeta": mp.zeta,
    "hyp0f1": mp.hyp0f1, "hyp1f1": mp.hyp1f1, "hyperu": mp.hyperu, "hyp2f1": mp.hyp2f1,
    "gammainc": lower_gamma, "gammaincc": lambda a, x: 1 - lower_gamma(a, x),
    "gammaincinv": inverse(lower_gamma, 1.0), "gammainccinv": inverse(lambda a, x: 1 - lower_gamma(a, x), 1.0),
    "betainc": lower_beta, "betaincc": lambda a, b, x: 1 - lower_beta(a, b, x),
    "betaincinv": inverse(lower_beta, 0.24), "betainccinv": inverse(lambda a, b, x: 1 - lower_beta(a, b, x), 0.24),
    "stdtr": student, "stdtrit": lambda df, p: mp.findroot(lambda t: student(df, t) - p, 0),
    "eval_jacobi": mp.jacobi, "eval_legendre": mp.legendre, "eval_gegenbauer": mp.gegenbauer,
    "eval_chebyt": mp.chebyt, "eval_chebyu": mp.chebyu, "eval_genlaguerre": mp.laguerre,
    "eval_laguerre": lambda n, x: mp.laguerre(n, 0, x), "eval_hermite": mp.hermite,
    "eval_hermitenorm": lambda n, x: mp.mpf(2) ** (-n / 2) * mp.hermite(n, x / mp.sqrt(2)),
    "ndtri_exp": lambda x: mp.sqrt(2) * mp.erfinv(2 * mp.exp(x) - 1),
    "wrightomega": lambda x: mp.lambertw(mp.exp(x)).real,
    "ber": lambda x: ber(x).real, "bei": lambda x: ber(x).imag, "ker": lambda x: ker(x).real,
    "kei": lambda x: ker(x).imag, "berp": lambda x: ber(x, 1).real, "beip": lambda x: ber(x, 1).imag,
    "kerp": lambda x: ker(x, 1).real, "keip": lambda x: ker(x, 1).imag,
    "itstruve0": Integral("itstruve0", 0, lambda x: mp.struveh(0, x)),
    "itmodstruve0": Integral("itmodstruve0", 0, lambda x: mp.struvel(0, x)),
    "it2struve0": Integral("it2struve0", 0, lambda x: -mp.struveh(0, x) / x),
    "kolmogorov": kolmogorov,
    "kolmogi": lambda y: mp.findroot(lambda x: kolmogorov(x) - y, (0.3, 2.0), solver="anderson", tol=1e-40),
    "lpmv": lambda m, v, x: mp.legenp(v, m, x).real, "wright_bessel": wright,
    "log_wright_bessel": lambda a, b, x: mp.log(wright(a, b, x)),
    # -- of those that return several arrays, each by itself
    "si": mp.si, "ci": mp.ci, "shi": mp.shi, "chi": mp.chi, "fresnel_s": mp.fresnels, "fresnel_c": mp.fresnelc,
    "airy_ai": mp.airyai, "airy_aip": lambda x: mp.airyai(x, 1), "airy_bi": mp.airybi,
    "airy_bip": lambda x: mp.airybi(x, 1),
    "airye_0": lambda x: mp.airyai(x) * grown(x), "airye_1": lambda x: mp.airyai(x, 1) * grown(x),
    "airye_2": lambda x: mp.airybi(x) / grown(x), "airye_3": lambda x: mp.airybi(x, 1) / grown(x),
    **integrals("itairy", mp.airyai, mp.airybi, lambda x: mp.airyai(-x), lambda x: mp.airybi(-x)),
    **integrals("itj0y0", lambda x: mp.besselj(0, x), lambda x: mp.bessely(0, x)),
    **integrals("iti0k0", lambda x: mp.besseli(0, x), lambda x: mp.besselk(0, x)),
    **integrals("it2j0y0", lambda x: (1 - mp.besselj(0, x)) / x, lambda x: -mp.bessely(0, x) / x),
    **integrals("it2i0k0", lambda x: (mp.besseli(0, x) - 1) / x, lambda x: -mp.besselk(0, x) / x),
    "pbdv_0": mp.pcfd, "pbdv_1": lambda v, x: x / 2 * mp.pcfd(v, x) - mp.pcfd(v + 1, x),
    "pbvv_0": lambda v, x: mp.pcfv(-v - 0.5, x), "pbwa_0": mp.pcfw,
    "pbvv_1": Integral("pbvv", 1, lambda v, x: (x * x / 4 - v - 0.5) * mp.pcfv(-v - 0.5, x)),
    "pbwa_1": Integral("pbwa", 1, lambda a, x: (a - x * x / 4) * mp.pcfw(a, x)),
}  # fmt: skip
BY_MPMATH = {name: function_of_tensors(f) for name, f in NUMBERS.items()}


def elliptic(f: Function) -> Function:
    """The argument comes first, and the parameter is held."""
    of = function_of_tensors(lambda m, u: f(u, m))
    return lambda u, m: of(m, u)


for _name, _kind in (("sn", "sn"), ("cn", "cn"), ("dn", "dn")):
    BY_MPMATH[f"ellip_{_name}"] = elliptic(lambda u, m, kind=_kind: mp.ellipfun(kind, u, m=m))
for _name, _of in (("ellipkinc", mp.ellipf), ("ellipeinc", mp.ellipe), ("tklmbda", tukey),
                   ("faddeeva_real", lambda x, y: faddeeva(x, y).real),
                   ("faddeeva_imag", lambda x, y: faddeeva(x, y).imag)):  # fmt: skip
    BY_MPMATH[_name] = elliptic(_of)
_chndtr = function_of_tensors(noncentral)
BY_MPMATH["chndtr"] = lambda x, df, nc: _chndtr(df, nc, x)
BY_MPMATH["ellip_ph"] = elliptic(lambda u, m: mp.findroot(lambda phi: mp.ellipf(phi, m) - u, u))
