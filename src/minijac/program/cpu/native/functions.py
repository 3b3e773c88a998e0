"""Functions of entries without branches: exponential, logarithm, angles, trigonometric functions, erf, powers.

Each works on many entries at once, over the whole range, infinities, NaN and denormal numbers among them. Products are
fused with sums (`fma`) where that is written, which the reductions below rely on. Sources:

- ranges are reduced after W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980), with constants
  in two or three parts of full length, as products that are fused need no trailing zeros in them;
- logarithm, sine and cosine: the polynomials of K. C. Ng and others, fdlibm (Sun Microsystems, 1993) in float64; in
  float32 those of S. L. Moshier, Cephes (1992), and, for the logarithm, of FreeBSD's msun;
- angles: the polynomial and the rational function of Moshier's Cephes;
- erf: W. J. Cody's form (1969) with the rational functions of Moshier's Cephes;
- exponentials: Taylor's polynomial, whose next term is below rounding on the reduced range;
- powers: the logarithm in two numbers after T. J. Dekker (1971), so that the exponent keeps its digits.

What they are wrong by, at most, is in `ULPS`, which tests measure against many digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .entries import Entry

__all__ = ["FUNCTIONS", "LIMITS", "ULPS"]

INFINITE, NAN = math.inf, math.nan


def of(x: Entry, single: Any, double: Any) -> Any:
    """What a constant is in float32, and in float64."""
    return single if x.writer.format.bits == 32 else double


def fma(a: Entry, b: Any, c: Any) -> Entry:
    """a b + c, rounded once."""
    return a.writer.intrinsic("fma", a, a.writer.entry(b, "F"), a.writer.entry(c, "F"))


def where(condition: Entry, a: Any, b: Any) -> Entry:
    return condition.writer.select(condition, a, b)


def bits(x: Entry) -> Entry:
    return x.writer.cast(x, "I")


def number(x: Entry) -> Entry:
    return x.writer.cast(x, "F")


def root(x: Entry) -> Entry:
    return x.writer.intrinsic("sqrt", x)


def signed(x: Entry, sign: Entry) -> Entry:
    """|x| with the sign of another number."""
    return sign.writer.intrinsic("copysign", x, sign)


def polynomial(x: Entry, coefficients: Sequence[float]) -> Any:
    """By Horner's rule, the highest power's coefficient first."""
    result: Any = coefficients[0]
    for c in coefficients[1:]:
        result = fma(x, result, c)
    return result


def least(x: Entry, bound: float) -> Entry:
    """The smaller of both, or NaN."""
    return where(x > bound, bound, x)


def greatest(x: Entry, bound: float) -> Entry:
    return where(x < bound, bound, x)


def whole(x: Entry, factor: float) -> tuple[Entry, Entry]:
    """x times a factor, rounded to a whole number: as a number, and in the lowest bits."""
    magic = x.writer.format.magic
    shifted = fma(x, factor, magic)
    return shifted - magic, bits(shifted)


def two_to(n: Entry) -> Entry:
    """2**n for whole n, where that is a normal number."""
    form = n.writer.format
    return number((bits(n + form.magic) << form.digits) + (form.bias << form.digits))


# -- exponentials ------------------------------------------------------------------------------------------------------
LOG2_E = math.log2(math.e)
LN_2 = ((0.6931471824645996, -1.9046542121259336e-09), (0.6931471805599453, 2.3190468138462996e-17))
"""ln 2 in two parts, for float32 and float64."""


def _reduced(x: Entry, more: Any = 0.0) -> tuple[Entry, Entry]:
    """n and exp(r) - 1, for x = n ln 2 + r, and a little more that is added to r."""
    n, _ = whole(x, LOG2_E)
    high, low = of(x, *LN_2)
    r = fma(n, -low, fma(n, -high, x)) + more
    terms = of(x, 7, 13)
    q = polynomial(r, [1.0 / math.factorial(k) for k in range(terms, 1, -1)])
    return n, fma(r * r, q, r)


def _scaled(x: Entry, n: Entry) -> Entry:
    """x 2**n in two steps, neither of which leaves the range before the result does."""
    half, _ = whole(n, 0.5)
    return x * two_to(half) * two_to(n - half)


def exp(x: Entry, more: Any = 0.0) -> Entry:
    """Of x, or of a sum that is not rounded to one number."""
    n, p = _reduced(least(greatest(x, of(x, -104.0, -746.0)), of(x, 89.0, 710.0)), more)
    return _scaled(p + 1.0, n)


def expm1(x: Entry) -> Entry:
    n, p = _reduced(least(greatest(x, of(x, -20.0, -40.0)), of(x, 89.0, 710.0)))
    return where(x == 0.0, x, _scaled(p + (1.0 - two_to(-least(n, 100.0))), n))


def tanh(x: Entry) -> Entry:
    n, p = _reduced(2.0 * least(abs(x), of(x, 10.0, 20.0)))
    e = (p + (1.0 - two_to(-n))) * two_to(n)
    return signed(e / (e + 2.0), x)


def sinh(x: Entry) -> Entry:
    a = abs(x)
    e, half = expm1(a), exp(0.5 * a)
    return where(x == 0.0, x, signed(where(a < 20.0, 0.5 * (e + e / (e + 1.0)), 0.5 * half * half), x))


def cosh(x: Entry) -> Entry:
    a = abs(x)
    e, half = exp(a), exp(0.5 * a)
    return where(a < 20.0, 0.5 * e + 0.5 / e, 0.5 * half * half)


def expit(x: Entry) -> Entry:
    n, p = _reduced(greatest(-abs(x), of(x, -104.0, -746.0)))
    e = _scaled(p + 1.0, n)
    return where(x < 0.0, e, 1.0) / (1.0 + e)


# -- logarithms --------------------------------------------------------------------------------------------------------
TWO_THIRDS = ((0.6666666865348816, -1.9868215517249155e-08), (0.6666666666666666, 3.700743415417188e-17))
LN_2_SHORT = ((6.9313812256e-01, 9.0580006145e-06), (6.93147180369123816490e-01, 1.90821492927058770002e-10))
"""ln 2 in two parts, the first of which times an exponent is exact."""
ATANH = (
    (0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693),
    (
        1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01, 2.222219843214978396e-01,
        2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01,
    ),
)  # fmt: skip


def _taken_apart(x: Entry) -> tuple[Entry, Entry]:
    """k and m - 1, for normal x = 2**k m with m between the roots of 1/2 and 2."""
    form = x.writer.format
    digits, one = form.digits, form.bias << form.digits
    lowest = of(x, 0x3F3504F3, 0x3FE6A09E667F3BCD)
    i = bits(x) + (one - lowest)
    k = number((i >> digits) | ((form.bias + digits) << digits)) - (2.0**digits + form.bias)
    return k, number((i & ((1 << digits) - 1)) + lowest) - 1.0


def _log(x: Entry) -> Entry:
    """The logarithm of normal numbers."""
    k, f = _taken_apart(x)
    high, low = of(x, *LN_2_SHORT)
    s, half = f / (f + 2.0), 0.5 * f * f
    R = s * s * polynomial(s * s, of(x, *ATANH))
    return k * high - ((half - fma(k, low, s * (half + R))) - f)


def _at_ends(x: Entry, result: Any) -> Entry:
    """A logarithm's result, and what it is of infinity, zero and negative numbers."""
    return where(x > 0.0, where(x == INFINITE, INFINITE, result), where(x == 0.0, -INFINITE, NAN))


def _normal(x: Entry) -> tuple[Entry, Entry]:
    """x, scaled where it is denormal, and the power of two by which it was."""
    small = x < of(x, 2.0**-126, 2.0**-1022)
    by = of(x, 25.0, 54.0)
    return where(small, x * 2.0**by, x), where(small, by, x.writer.entry(0.0, "F"))


def log(x: Entry) -> Entry:
    normal, by = _normal(x)
    return _at_ends(x, _log(normal) - by * math.log(2.0))


def log1p(x: Entry) -> Entry:
    u = x + 1.0
    lost = (x - (u - 1.0)) / u
    exact = where(abs(x) < 1.0, lost, where(x < 1e30, lost, 0.0))
    return where(abs(x) < 2.0 ** -of(x, 25, 54), x, _at_ends(u, _log(u) + exact))


def logaddexp(a: Entry, b: Entry) -> Entry:
    away = -abs(a - b)
    top = where(a > b, a, b) + log1p(exp(away))
    return where(a == b, a + math.log(2.0), where(away != away, a + b, top))


# -- powers ------------------------------------------------------------------------------------------------------------
def _log_in_two(x: Entry) -> tuple[Entry, Entry]:
    """The logarithm of positive finite numbers as a sum of two: products keep what rounding cuts off."""
    normal, by = _normal(x)
    k, f = _taken_apart(normal)
    k = k - by
    d = f + 2.0
    s = f / d
    s_low = fma(-s, f - (d - 2.0), fma(-s, d, f)) / d
    z = s * s
    z_low = fma(s, s, -z) + 2.0 * s * s_low
    rest = z * polynomial(z, [2.0 / (2 * k + 1) for k in range(of(x, 8, 15), 1, -1)])
    third, third_low = of(x, *TWO_THIRDS)
    rest = rest + third_low
    c = rest + third
    c_low = rest - (c - third)
    q = z * c
    q_low = fma(z, c, -q) + z * c_low + z_low * c
    p = s * q
    p_low = fma(s, q, -p) + s * q_low + s_low * q
    h = 2.0 * s + p
    h_low = p - (h - 2.0 * s) + (p_low + 2.0 * s_low)
    high, low = of(x, *LN_2_SHORT)
    whole_part = k * high
    total = whole_part + h
    took = total - whole_part
    lost = (whole_part - (total - took)) + (h - took) + (h_low + k * low)
    result = total + lost
    return result, lost - (result - total)


def power(x: Entry, y: Entry) -> Entry:
    """With C's conventions at the ends, which NumPy follows."""
    x, y = (each.writer.entry(each, "F") for each in (x, y))
    a = abs(x)
    log_a, low = _log_in_two(a)
    e = y * log_a
    size = exp(e, where(abs(e) < 1e5, fma(y, log_a, -e) + y * low, 0.0))
    size = where(a == 0.0, where(y < 0.0, INFINITE, where(y > 0.0, x.writer.entry(0.0, "F"), y)), size)
    size = where(a == INFINITE, where(y < 0.0, 0.0, where(y > 0.0, x.writer.entry(INFINITE, "F"), y)), size)
    size = where(a == 1.0, 1.0, size)
    rint = x.writer.intrinsic
    is_whole, half = rint("rint", y) == y, 0.5 * y
    odd = is_whole & (rint("rint", half) != half)
    result = where(odd, signed(size, x), size)
    result = where((x < 0.0) & (a < INFINITE) & ~is_whole, NAN, result)
    return where((y == 0.0) | (x == 1.0), 1.0, where(x != x, x, result))


# -- sine and cosine ---------------------------------------------------------------------------------------------------
HALF_PI = (
    (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
    (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
)
"""pi / 2 in three parts."""
SINE = (
    (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1),
    (
        1.58969099521155010221e-10, -2.50507602534068634195e-08, 2.75573137070700676789e-06,
        -1.98412698298579493134e-04, 8.33333333332248946124e-03, -1.66666666666666324348e-01,
    ),
)  # fmt: skip
COSINE = (
    (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2),
    (
        -1.13596475577881948265e-11, 2.08757232129817482790e-09, -2.75573143513906633035e-07,
        2.48015872894767294178e-05, -1.38888888888741095749e-03, 4.16666666666666019037e-02,
    ),
)  # fmt: skip
LIMITS = (2.0**15, 2.0**29)
"""Sizes, for float32 and float64, up to which an angle is reduced here; beyond, the C library is called."""


def _turned(x: Entry, quarters: int) -> Entry:
    """The sine of x + quarters pi / 2."""
    n, i = whole(x, 2.0 / math.pi)
    r = x
    for part in of(x, *HALF_PI):
        r = fma(n, -part, r)
    z = r * r
    sine = fma(r * z, polynomial(z, of(x, *SINE)), r)
    half = 0.5 * z
    near = 1.0 - half
    cosine = near + fma(z * z, polynomial(z, of(x, *COSINE)), (1.0 - near) - half)
    i, sign = i + quarters, x.writer.format.bits - 1
    odd = x.writer.instruction(f"trunc {{I}} {i.text} to {{B}}", "B", (i,))
    return number(bits(where(odd, cosine, sine)) ^ ((i >> 1) << sign))


def sin(x: Entry) -> Entry:
    return where(x == 0.0, x, x.writer.beyond("sin", x, _turned(x, 0)))


def cos(x: Entry) -> Entry:
    return x.writer.beyond("cos", x, _turned(x, 1))


def tan(x: Entry) -> Entry:
    return where(x == 0.0, x, x.writer.beyond("tan", x, _turned(x, 0) / _turned(x, 1)))


# -- erf ---------------------------------------------------------------------------------------------------------------
ERF_NUMERATOR = (
    9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3, 7.00332514112805075473e3,
    5.55923013010394962768e4,
)  # fmt: skip
ERF_DENOMINATOR = (
    1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3, 2.26290000613890934246e4,
    4.92673942608635921086e4,
)  # fmt: skip
ERFC_NUMERATOR = (
    2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0, 4.86371970985681366614e1,
    1.96520832956077098242e2, 5.26445194995477358631e2, 9.34528527171957607540e2, 1.02755188689515710272e3,
    5.57535335369399327526e2,
)  # fmt: skip
ERFC_DENOMINATOR = (
    1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2, 9.75708501743205489753e2,
    1.82390916687909736289e3, 2.24633760818710981792e3, 1.65666309194161350182e3, 5.57535340817727675546e2,
)  # fmt: skip


def erf(x: Entry) -> Entry:
    z, a = x * x, least(abs(x), 6.0)
    near = x * polynomial(z, ERF_NUMERATOR) / polynomial(z, ERF_DENOMINATOR)
    rest = exp(-a * a) * polynomial(a, ERFC_NUMERATOR) / polynomial(a, ERFC_DENOMINATOR)
    return where(a < 1.0, near, signed(1.0 - rest, x))


# -- angles ------------------------------------------------------------------------------------------------------------
ARCTAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
ARCTAN_NUMERATOR = (
    -8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1, -1.228866684490136173410e2,
    -6.485021904942025371773e1,
)  # fmt: skip
ARCTAN_DENOMINATOR = (
    1.0, 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2, 4.853903996359136964868e2,
    1.945506571482613964425e2,
)  # fmt: skip


def _below(x: Entry, turns: float, angle: Any) -> Entry:
    """So many half turns of pi, less an angle."""
    high, low, _ = of(x, *HALF_PI)
    return (2.0 * turns * high - angle) + 2.0 * turns * low


def _first(r: Entry) -> Entry:
    """The angle of a slope from 0 to 1."""
    far = r > of(r, 0.4142135623730950, 0.66)
    z = where(far, (r - 1.0) / (r + 1.0), r)
    s = z * z
    if r.writer.format.bits == 32:
        angle = fma(z * s, polynomial(s, ARCTAN), z)
    else:
        angle = fma(z, s * polynomial(s, ARCTAN_NUMERATOR) / polynomial(s, ARCTAN_DENOMINATOR), z)
    return where(far, _below(r, 0.25, -angle), angle)


def arctan(x: Entry) -> Entry:
    a = abs(x)
    steep = a > 1.0
    angle = _first(where(steep, 1.0 / a, a))
    return signed(where(steep, _below(x, 0.5, angle), angle), x)


def arctan2(y: Entry, x: Entry) -> Entry:
    a, b = abs(y), abs(x)
    steep = a > b
    low, high = where(steep, b, a), where(steep, a, b)
    angle = _first(where(high == 0.0, 0.0, where(low == INFINITE, 1.0, low / high)))
    angle = where(steep, _below(x, 0.5, angle), angle)
    angle = where(signed(x.writer.entry(1.0, "F"), x) < 0.0, _below(x, 1.0, angle), angle)
    return where((x != x) | (y != y), NAN, signed(angle, y))


def arcsin(x: Entry) -> Entry:
    return arctan2(x, root((1.0 - x) * (1.0 + x)))


def arccos(x: Entry) -> Entry:
    return 2.0 * arctan2(root(1.0 - x), root(1.0 + x))


ULPS: dict[Callable[..., Any], float] = {
    arccos: 4.0, arcsin: 3.5, arctan: 2.5, cos: 1.5, cosh: 2.5, erf: 2.5, exp: 1.0, expit: 2.0, expm1: 1.5, log: 1.0,
    log1p: 1.5, sin: 1.5, sinh: 3.0, tan: 3.5, tanh: 2.5,
}  # fmt: skip
"""Units in the last place that a result may be wrong by."""
CALLED: Sequence[Any] = (abs, arctan2, logaddexp, power, root, where, *ULPS)
FUNCTIONS: dict[str, Callable[..., Any]] = {function.__name__: function for function in CALLED}
"""What the spelling of an operation (`ops/scalars.py`) may call."""
