"""Special functions that solve an equation, on tensors: SciPy's values, derivatives by the equation; and others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import scipy.special
import torch
from mpmath_ops import function_of_tensors

__all__ = ["BY_EQUATIONS", "lambertw"]

Bend = Callable[..., Any]
DEGREE = math.pi / 180


def plain(name: str) -> Callable[..., Any]:
    return lambda *xs: torch.tensor(np.asarray(getattr(scipy.special, name)(*map(np.asarray, xs))))


def solution(name: str, bend: Bend, unit: float = 1.0) -> dict[str, Callable[..., Any]]:
    """A function and its slope: ``unit * slope`` and ``unit * bend`` are what they change by."""

    class Of(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, position: int, x: Any, *held: Any) -> Any:
            ctx.position, ctx.held = position, held
            ctx.save_for_backward(x)
            found = getattr(scipy.special, name)(*map(np.asarray, held), x.detach().numpy())
            return torch.tensor(np.asarray(found[position]))

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            y, slope = Of.apply(0, x, *ctx.held), Of.apply(1, x, *ctx.held)
            change = bend(*ctx.held, x, y, slope) if ctx.position else slope
            return None, g * unit * change, *[None] * len(ctx.held)

    return {f"{name}_{k}": lambda *xs, k=k: Of.apply(k, xs[-1], *xs[:-1]) for k in (0, 1)}


def mathieu(value: str, modified: bool) -> Bend:
    characteristic = plain(value)
    if modified:
        return lambda m, q, x, y, _: y * (characteristic(m, q) - 2 * q * torch.cosh(2 * x))
    return lambda m, q, x, y, _: y * (2 * q * torch.cos(2 * torch.deg2rad(x)) - characteristic(m, q))


def angular(value: str, sign: int) -> Bend:
    """``((1 - x^2) y')' + (value - sign c^2 x^2 - m^2 / (1 - x^2)) y = 0``"""
    of = plain(value)

    def bend(m: Any, n: Any, c: Any, *rest: Any) -> Any:
        x, y, slope = rest[-3:]
        rest = of(m, n, c) - sign * c * c * x * x - m * m / (1 - x * x)
        return (2 * x * slope - rest * y) / (1 - x * x)

    return bend


def radial(m: Any, n: Any, c: Any, *rest: Any) -> Any:
    """``((1 + x^2) y')' - (value - c^2 x^2 - m^2 / (1 + x^2)) y = 0``"""
    x, y, slope = rest[-3:]
    return ((plain("obl_cv")(m, n, c) - c * c * x * x - m * m / (1 + x * x)) * y - 2 * x * slope) / (1 + x * x)


def elliprf(x: Any, y: Any, z: Any) -> Any:
    """Doubled until the three are one."""
    for _ in range(30):
        a, b, c = x.sqrt(), y.sqrt(), z.sqrt()
        x, y, z = ((v + a * b + a * c + b * c) / 4 for v in (x, y, z))
    return 3**0.5 / (x + y + z).sqrt()


def lambertw(z: Any, k: Any) -> Any:
    """Newton's steps from the root; they double the orders of derivatives that are right."""
    w = torch.tensor(scipy.special.lambertw(z.detach().numpy(), int(k)))
    z = z.to(w.dtype)
    for _ in range(3):
        w = w - (w - z * torch.exp(-w)) / (1 + w)
    return w


def spherical(bessel: Callable[..., Any], factor: float) -> Callable[..., Any]:
    return function_of_tensors(lambda n, x: mp.sqrt(factor * mp.pi / x / 2) * bessel(n + mp.mpf(0.5), x))


def besselpoly(power: Any, v: Any, a: Any) -> Any:
    half = (power + v + 1) / 2
    return a**v / (2 * half * mp.gamma(v + 1)) * mp.hyp1f2(half, half + 1, v + 1, -a * a)


_besselpoly = function_of_tensors(besselpoly)
_harmonic = function_of_tensors(lambda n, m, x: mp.spherharm(n, m, x, 0).real)
BY_EQUATIONS: dict[str, Callable[..., Any]] = {
    **{name: plain(name) for name in ("mathieu_a", "mathieu_b", "pro_cv", "obl_cv")},
    **solution("mathieu_cem", mathieu("mathieu_a", False), DEGREE),
    **solution("mathieu_sem", mathieu("mathieu_b", False), DEGREE),
    **solution("mathieu_modcem1", mathieu("mathieu_a", True)),
    **solution("mathieu_modcem2", mathieu("mathieu_a", True)),
    **solution("mathieu_modsem1", mathieu("mathieu_b", True)),
    **solution("mathieu_modsem2", mathieu("mathieu_b", True)),
    **solution("pro_ang1", angular("pro_cv", 1)), **solution("pro_ang1_cv", angular("pro_cv", 1)),
    **solution("pro_rad1", angular("pro_cv", 1)), **solution("pro_rad1_cv", angular("pro_cv", 1)),
    **solution("obl_ang1", angular("obl_cv", -1)), **solution("obl_ang1_cv", angular("obl_cv", -1)),
    **solution("obl_rad1", radial), **solution("obl_rad1_cv", radial),
    "spherical_jn": spherical(mp.besselj, 1), "spherical_yn": spherical(mp.bessely, 1),
    "spherical_in": spherical(mp.besseli, 1), "spherical_kn": spherical(mp.besselk, 1),
    "sph_legendre_p": _harmonic, "besselpoly": lambda a, power, v: _besselpoly(power, v, a),
    "elliprf": elliprf,
}  # fmt: skip
