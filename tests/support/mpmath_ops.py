"""Special functions in many digits, by mpmath, as functions of tensors that torch differentiates to any order."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import mpmath as mp
import numpy as np
import torch

__all__ = ["BY_MPMATH"]

mp.mp.dps = 25
Function = Callable[..., Any]


def function_of_tensors(f: Function) -> Function:
    """`f` of numbers, the last of which is differentiated, for each entry of tensors."""

    @cache
    def entry(order: int, *numbers: float) -> float:
        held = [mp.mpf(x) for x in numbers[:-1]]
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


NUMBERS: dict[str, Function] = {
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
    # -- of those that return several arrays, each by itself
    "si": mp.si, "ci": mp.ci, "shi": mp.shi, "chi": mp.chi, "fresnel_s": mp.fresnels, "fresnel_c": mp.fresnelc,
    "airy_ai": mp.airyai, "airy_aip": lambda x: mp.airyai(x, 1), "airy_bi": mp.airybi,
    "airy_bip": lambda x: mp.airybi(x, 1),
}  # fmt: skip
BY_MPMATH = {name: function_of_tensors(f) for name, f in NUMBERS.items()}


def elliptic(f: Function) -> Function:
    """The argument comes first, and the parameter is held."""
    of = function_of_tensors(lambda m, u: f(u, m))
    return lambda u, m: of(m, u)


for _name, _kind in (("sn", "sn"), ("cn", "cn"), ("dn", "dn")):
    BY_MPMATH[f"ellip_{_name}"] = elliptic(lambda u, m, kind=_kind: mp.ellipfun(kind, u, m=m))
BY_MPMATH["ellip_ph"] = elliptic(lambda u, m: mp.findroot(lambda phi: mp.ellipf(phi, m) - u, u))
