"""Special functions that come with their derivative and solve an equation of second order, and Carlson's integrals.

Cylinder functions, Mathieu's, spheroidal waves: the equation gives the derivative's derivative. What has no closed
derivative by its parameters says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import special
from ..tape.op import Op
from .elementwise import POSITIVE
from .families import Example, elementwise
from .special import DEGREE, PAIRS, SPECIAL, of_parameters, one_of, underived

__all__ = ["carlson"]


# -- the second derivatives: of the parameters, the argument, the value and its derivative -----------------------------
def _mathieu(name: str) -> Callable[..., Any]:
    return lambda m, q, x, y, slope: -(SPECIAL[name](m, q) - 2.0 * q * np.cos(2.0 * DEGREE * x)) * y


def _mathieu_modified(name: str) -> Callable[..., Any]:
    return lambda m, q, x, y, slope: (SPECIAL[name](m, q) - 2.0 * q * np.cosh(2.0 * x)) * y


def _spheroidal(shape: float, kind: float) -> Callable[..., Any]:
    """DLMF 30.2.1: `shape` is -1 for oblate ones, `kind` for their radial functions, whose argument is imaginary."""

    def bend(m: Any, n: Any, c: Any, cv: Any, x: Any, y: Any, slope: Any) -> Any:
        w = 1.0 - kind * x * x
        return (2.0 * kind * x * slope - kind * (cv - shape * kind * (c * x) ** 2 - m * m / w) * y) / w

    return bend


_prolate, _oblate, _oblate_radial = _spheroidal(1.0, 1.0), _spheroidal(-1.0, 1.0), _spheroidal(-1.0, -1.0)


def _found(name: str, equation: Callable[..., Any]) -> Callable[..., Any]:
    """The equation with the characteristic value of the parameters."""
    return lambda m, n, c, *rest: equation(m, n, c, SPECIAL[name](m, n, c), *rest)


def _constant(name: str, orders: str, *given: int) -> Op:
    """A characteristic value, which has no closed derivative by its parameter."""
    names = orders.split(", ")
    held = dict(enumerate((*map(np.array, given), np.full((3, 4), 0.7))))
    example = Example(((),) * len(given) + ((3, 4),), shared=tuple(range(len(given))), given=held)
    return elementwise(name, of_parameters(name), *[underived(name, k) for k in names], examples=[example])


SPECIAL |= {name: _constant(name, "m, q", 2) for name in ("mathieu_a", "mathieu_b")}
SPECIAL |= {name: _constant(name, "m, n, c", 1, 2) for name in ("pro_cv", "obl_cv")}

_WAVE, _BEYOND = ("m, n, c", (1, 2, 0.7), (0.1, 0.9)), ("m, n, c", (1, 2, 0.7), (1.2, 2.5))
_PRO_CV, _OBL_CV = (1, 2, 0.7, 6.2090683961734605), (1, 2, 0.7, 5.7890650026648975)
# SciPy's name, the second derivative, the parameters before the argument, their values and its domain in tests
_EQUATIONS: Sequence[tuple[str, Callable[..., Any], tuple[str, tuple[Any, ...], tuple[float, float]]]] = [
    *[(name, lambda v, x, y, slope: (0.25 * x * x - v - 0.5) * y, ("v", (0.7,), (0.3, 2.0)))
      for name in ("pbdv", "pbvv")],
    ("pbwa", lambda a, x, y, slope: (a - 0.25 * x * x) * y, ("a", (0.7,), (0.3, 2.0))),
    ("mathieu_cem", _mathieu("mathieu_a"), ("m, q", (2, 0.7), (10.0, 80.0))),
    ("mathieu_sem", _mathieu("mathieu_b"), ("m, q", (2, 0.7), (10.0, 80.0))),
    *[(f"mathieu_mod{kind}m{k}", _mathieu_modified(value), ("m, q", (2, 0.7), (0.3, 1.5)))
      for kind, value in (("ce", "mathieu_a"), ("se", "mathieu_b")) for k in (1, 2)],
    ("pro_ang1", _found("pro_cv", _prolate), _WAVE), ("pro_rad1", _found("pro_cv", _prolate), _BEYOND),
    ("pro_ang1_cv", _prolate, ("m, n, c, cv", _PRO_CV, (0.1, 0.9))),
    ("pro_rad1_cv", _prolate, ("m, n, c, cv", _PRO_CV, (1.2, 2.5))),
    ("obl_ang1", _found("obl_cv", _oblate), _WAVE), ("obl_rad1", _found("obl_cv", _oblate_radial), _WAVE),
    ("obl_ang1_cv", _oblate, ("m, n, c, cv", _OBL_CV, (0.1, 0.9))),
    ("obl_rad1_cv", _oblate_radial, ("m, n, c, cv", _OBL_CV, (0.1, 0.9))),
]  # fmt: skip


def _solution(
    name: str, equation: Callable[..., Any], given: tuple[str, tuple[Any, ...], tuple[float, float]]
) -> tuple[Op, Op]:
    """A function and its derivative."""
    parameters, values, (low, high) = given
    unit = DEGREE if name in ("mathieu_cem", "mathieu_sem") else 1.0
    orders = [underived(name, parameter) for parameter in parameters.split(", ")]
    examples = [
        Example(((),) * len(values) + ((3, 4),), low=low, high=high, shared=tuple(range(len(values))),
                given={k: np.array(v) for k, v in enumerate(values)})
    ]  # fmt: skip

    def slope(y: Any, *operands: Any) -> Any:
        return unit * PAIRS[name][1](*operands)

    def bend(s: Any, *operands: Any) -> Any:
        return unit * equation(*operands, PAIRS[name][0](*operands), s)

    return (
        elementwise(f"{name}_0", one_of(name, 0), *orders, slope, examples=examples),
        elementwise(f"{name}_1", one_of(name, 1), *orders, bend, examples=examples),
    )


PAIRS |= {name: _solution(name, equation, given) for name, equation, given in _EQUATIONS}


# -- Carlson's integrals -----------------------------------------------------------------------------------------------
def _degenerate(e: Any) -> Any:
    """``R_C(1, 1 + e)``: DLMF 19.6.18 and its series."""
    near = np.abs(e) < 0.05
    root = np.sqrt(np.abs(np.where(near, 0.5, e)))
    far = np.where(e > 0, np.arctan(root), np.arctanh(np.where(e > 0, 0.5, root))) / root
    t: Any = np.where(near, e, 0.0)
    series: Any = 0.0
    for k in range(14, -1, -1):
        series = 1.0 / (2 * k + 1) - t * series
    return np.where(near, series, far)


def carlson(x: Any, y: Any, z: Any, p: Any) -> Any:
    """``R_J`` by duplication, written so that it differentiates again; ``R_D(x, y, z)`` where `p` is `z` itself.

    Of arguments that are not negative, within ten powers of ten: B. C. Carlson, Numerical Algorithms 10, 1995.
    """
    gap, mean, scale, rest = (p - x) * (p - y) * (p - z), 0.2 * (x + y + z + 2.0 * p), 1.0, 0.0
    start, a, b, c, d = mean, x, y, z, p
    for _ in range(14):
        ra, rb, rc, rd = np.sqrt(a), np.sqrt(b), np.sqrt(c), np.sqrt(d)
        step, product = ra * rb + ra * rc + rb * rc, (rd + ra) * (rd + rb) * (rd + rc)
        rest = rest + scale / product * (1.0 if p is z else _degenerate(scale**3 * gap / product**2))
        a, b, c, d, mean = (0.25 * (value + step) for value in (a, b, c, d, mean))
        scale = 0.25 * scale
    X, Y, Z = (scale * (start - value) / mean for value in (x, y, z))
    P, XYZ = -0.5 * (X + Y + Z), X * Y * Z
    E2 = X * Y + X * Z + Y * Z - 3.0 * P * P
    E3, E4 = XYZ + 2.0 * E2 * P + 4.0 * P**3, (2.0 * XYZ + E2 * P + 3.0 * P**3) * P
    series = 1.0 - 3 / 14 * E2 + E3 / 6 + 9 / 88 * E2 * E2 - 3 / 22 * E4 - 9 / 52 * E2 * E3 + 3 / 26 * XYZ * P * P
    return scale * series / (mean * np.sqrt(mean)) + 6.0 * rest


SPECIAL["elliprf"] = elementwise(
    "elliprf", of_parameters("elliprf"), lambda r, x, y, z: carlson(y, z, x, x) / -6.0,
    lambda r, x, y, z: carlson(x, z, y, y) / -6.0, lambda r, x, y, z: carlson(x, y, z, z) / -6.0,
    examples=[POSITIVE[0]._replace(shapes=((3, 4),) * 3)],
)  # fmt: skip
"""DLMF 19.18.1: each derivative is an ``R_D``."""


# -- those whose derivatives are their neighbours ----------------------------------------------------------------------
def _spherical(name: str, below: float, above: float) -> Op:
    """A spherical Bessel function: DLMF 10.51.2 and 10.51.5."""

    def slope(y: Any, n: Any, x: Any) -> Any:
        f = SPECIAL[name]
        return (below * n * f(np.maximum(n - 1, 0), x) + above * (n + 1) * f(n + 1, x)) / (2 * n + 1)

    given = [POSITIVE[0]._replace(shapes=((), (3, 4)), shared=(0,), given={0: np.array(n)}) for n in (0, 2)]
    return elementwise(name, of_parameters(name), underived(name, "n"), slope, examples=given)


def _harmonic_slope(y: Any, n: Any, m: Any, x: Any) -> Any:
    """Regular at the poles: the ladder operators of angular momentum."""
    up, down = np.sqrt(1.0 * (n - m) * (n + m + 1)), np.sqrt(1.0 * (n + m) * (n - m + 1))
    f = SPECIAL["sph_legendre_p"]
    return 0.5 * (up * f(n, m + 1, x) - down * f(n, m - 1, x))


SPECIAL |= {
    name: _spherical(name, below, above)
    for name, below, above in (
        ("spherical_jn", 1.0, -1.0), ("spherical_yn", 1.0, -1.0), ("spherical_in", 1.0, 1.0),
        ("spherical_kn", -1.0, -1.0),
    )
}  # fmt: skip
SPECIAL["sph_legendre_p"] = elementwise(
    "sph_legendre_p", one_of("sph_legendre_p", 0), underived("sph_legendre_p", "n"), underived("sph_legendre_p", "m"),
    _harmonic_slope,
    examples=[POSITIVE[0]._replace(shapes=((), (), (3, 4)), shared=(0, 1), given={0: np.array(n), 1: np.array(m)})
              for n, m in ((2, 1), (3, 0))],
)  # fmt: skip
SPECIAL["besselpoly"] = elementwise(
    "besselpoly", of_parameters("besselpoly"), lambda y, a, power, v: (
        SPECIAL["besselpoly"](a, power + 1, v - 1) - SPECIAL["besselpoly"](a, power + 1, v + 1)),
    underived("besselpoly", "lmb"), underived("besselpoly", "nu"),
    examples=[POSITIVE[0]._replace(shapes=((3, 4), (), ()), shared=(1, 2), given={1: np.array(1.5), 2: np.array(0.5)})],
)  # fmt: skip


SPECIAL["lambertw"] = elementwise(
    "lambertw", lambda z, k: special("lambertw", z)(z, k).astype(np.result_type(z, np.complex64), copy=False),
    lambda w, z, k: np.exp(-w) / (1.0 + w), underived("lambertw", "k"), complex=True,
    examples=[POSITIVE[0]._replace(shapes=((3, 4), ()), shared=(1,), given={1: np.array(0)})],
)  # fmt: skip
"""Complex of real numbers too, as SciPy's."""
