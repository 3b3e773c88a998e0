"""Elementwise functions of NumPy on traced values: values, both modes, second order, and kinks."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import close
from numpy_harness import ENDS, Case, cases, check, derivative_at, one, whole

import minijac as mj

INF, NAN = np.inf, np.nan
TWO = ((2, 3), (1, 3))
MASK = np.array([True, False, True, False])


def unary(f, low=-2.0, high=2.0):
    return one(f, 4, low=low, high=high, second=True)


def binary(f, low=-2.0, high=2.0):
    return Case(f, TWO, low, high, second=True)


UNARY = {
    **{name: unary(getattr(np, name)) for name in (
        "negative", "positive", "exp", "exp2", "expm1", "square", "absolute", "fabs", "sin", "cos", "arctan", "sinh",
        "cosh", "tanh", "arcsinh", "deg2rad", "radians", "rad2deg", "degrees", "conjugate", "sinc",
    )},
    **{name: unary(getattr(np, name), 0.2, 3.0) for name in (
        "log", "log2", "log10", "log1p", "sqrt", "cbrt", "reciprocal",
    )},
    **{name: unary(getattr(np, name), -0.9, 0.9) for name in ("tan", "arcsin", "arccos", "arctanh")},
    "arccosh": unary(np.arccosh, 1.2, 3.0),
    "abs": unary(abs),
    "sinc far out": unary(np.sinc, 2.0, 9.0),
    "cbrt of negatives": unary(np.cbrt, -3.0, -0.2),
}  # fmt: skip
BINARY = {
    **{name: binary(getattr(np, name)) for name in (
        "add", "subtract", "multiply", "maximum", "minimum", "fmax", "fmin", "hypot", "arctan2", "logaddexp",
        "logaddexp2", "copysign", "heaviside",
    )},
    **{name: binary(getattr(np, name), 0.3, 2.0) for name in ("divide", "power", "float_power", "remainder", "fmod")},
    "operators": binary(lambda x, y: (x + y) * (x - y) / (2.0 + y * y) - (-x) + x % 2.0 + 3.0 / (x * x + 1.0)),
    "power with numbers": binary(lambda x, y: x**3 + x**2.0 + 2**y + 1.5**x + x**-1 + x**0.5, 0.3, 2.0),
    "power with an integer array": binary(lambda x, y: x ** np.array([0, 1, 3]) * y),
    "lists": binary(lambda x, y: x * [1.0, 2.0, 3.0] + [[3, 2, 1]] - np.maximum(y, [0.0, 1.0, 2.0])),
    "reflected": binary(lambda x, y: 1.0 - x + 2.0 * y + np.array([1.0, 2.0, 3.0]) / (x * x + 1.0)),
    "fmod of negatives": Case(lambda x, y: np.fmod(-x, y) + np.remainder(-x, y), TWO, 0.3, 2.0),
    "divmod": Case(lambda x, y: np.divmod(x, y), TWO, 0.3, 2.0),
    "builtin divmod": Case(lambda x, y: divmod(x, y)[1], TWO, 0.3, 2.0),
    "mod, floor_divide": Case(lambda x, y: x % y + x // y, TWO, 0.3, 2.0),
    "ldexp": binary(lambda x, y: np.ldexp(x, np.array([-1, 0, 3])) * np.ldexp(y, 2)),
    "nextafter": Case(lambda x, y: np.nextafter(x, 5.0) * y, TWO),
}  # fmt: skip
OTHERS = {
    "clip": one(lambda x: np.clip(x, -1.0, 0.5), 4, second=True),
    "clip, one-sided": one(lambda x: np.clip(x, None, 0.5) + np.clip(x, a_min=-1, a_max=None), 4),
    "clip by keyword": one(lambda x: np.clip(x, min=-1.0, max=0.5) + x.clip(-0.5, 1.0) + x.clip(max=0.0), 4),
    "clip to arrays": Case(lambda x, y: np.clip(x, y - 1.0, y + 0.5), TWO),
    "clip, bounds crossed": Case(lambda x, y: np.clip(x, y + 1.0, y), TWO),
    "where": Case(lambda x, y: np.where(x > 0, x * y, y * y), TWO, second=True),
    "where of numbers": Case(lambda x, y: np.where(x > 0, x, 1.0) + np.where(y > 0, 0, y), TWO),
    "where of a list": one(lambda x: np.where([True, False, True, False], x, 2.0 * x), 4),
    "select": one(lambda x: np.select([x < -1, x < 0, x < 1], [x * x, np.exp(x), 2.0 * x], 1.5), 4, second=True),
    "select without default": one(lambda x: np.select([x < 0], [x**3]), 4),
    "piecewise": one(lambda x: np.piecewise(x, [x < -0.5, x > 0.5], [np.exp, lambda x: x**2, np.sin]), 4, second=True),
    "piecewise of numbers": one(lambda x: np.piecewise(x, [x < 0], [1.0, lambda x: x * x]), 4),
    "piecewise with arguments": one(lambda x: np.piecewise(x, [x < 0], [lambda x, a: a * x, 1.0], 3.0), 4),
    "choose": Case(lambda x, y: np.choose(np.array([0, 1, 1]), [x, y]), TWO),
    "choose, wrapped": Case(lambda x, y: np.choose(np.array([5, 2, -1]), [x, y, x * y], mode="wrap"), TWO),
    "nan_to_num": one(lambda x: np.nan_to_num(x) * 2.0, 4),
    "round": one(lambda x: np.round(x, 1) * x + np.around(x) + x.round(), 4),
    "piecewise constant": one(
        lambda x: x * (np.sign(x) + np.floor(x) + np.ceil(x) + np.trunc(x) + np.rint(x) + np.fix(x) + np.signbit(x)), 4
    ),
    "modf": one(lambda x: np.modf(x), 4),
    "frexp": one(lambda x: np.frexp(x)[0] * x, 4, second=True),
    "unwrap": one(lambda x: np.unwrap(x, axis=-1), 6, low=-9.0, high=9.0),
    "unwrap with a period": one(lambda x: np.unwrap(x, period=2.0, discont=1.1), 6, low=-9.0, high=9.0),
    "astype": one(lambda x: (x.astype(np.float64) * 2.0).astype(x.dtype), 4, second=True),
    "astype int": one(lambda x: x * x.astype(int), 4),
    "copy": one(lambda x: np.copy(x) * x.copy(), 4, second=True),
    "real": one(lambda x: np.real(x) * x.real + np.imag(x) + x.imag + np.real_if_close(x).conj(), 4),
    "like": one(lambda x: np.zeros_like(x) + np.ones_like(x) * x + np.full_like(x, 2.0) * x, 4),
    "full_like of a traced value": one(lambda x: np.full_like(x, x[:, :1]) * x, 4),
    "comparisons": one(lambda x: x * ((x > 0) & (x < 1) | (x <= -1)) + (x == 0) * x + x * ~(x != 1), 4),
    "outer": Case(lambda x, y: np.multiply.outer(x, np.array([1.0, 2.0])) * y[..., None], ((3,), (3,)), second=True),
    "vander": whole(lambda x: np.vander(x, 3), 4, second=True),
    "vander, increasing": whole(lambda x: np.vander(x, increasing=True), 3),
    "linspace": Case(lambda x, y: np.linspace(x, y, 5, axis=-1), ((2,), (2,)), second=True),
    "linspace, open": Case(lambda x, y: np.linspace(x, y, 4, endpoint=False, retstep=True, axis=1)[0], ((2,), (2,))),
    "logspace": Case(lambda x, y: np.logspace(x, y, 3, axis=-1), ((2,), (2,)), -1.0, 1.0),
    "geomspace": Case(lambda x, y: np.geomspace(x, y, 4, axis=-1), ((2,), (2,)), 0.5, 3.0),
}


@cases(UNARY)
def test_functions_of_one_operand(case):
    check(case)


@cases(BINARY)
def test_functions_of_two_operands(case):
    check(case)


@cases(OTHERS)
def test_other_pointwise_functions(case):
    check(case)


# --- kinks and hazards --------------------------------------------------------------------------------------
# name: f, points, first derivatives in x, second derivatives in x (None where they are not finite)

HAZARDS = {
    "abs": (np.abs, [[0.0, -0.0]], [0, 0], [0, 0]),
    "clip": (lambda x: np.clip(x, 0, 1), [[-1.0, 0.0, 1.0, 2.0]], [0, 1, 1, 0], [0, 0, 0, 0]),
    "sqrt": (np.sqrt, [[0.0, 4.0]], [INF, 0.25], None),
    "cbrt": (np.cbrt, [[0.0, 8.0]], [INF, 1 / 12], None),
    "x**0": (lambda x: x**0 + x**0.0 + x ** np.zeros(2), [[0.0, 2.0]], [0, 0], [0, 0]),
    "x**1": (lambda x: x**1 + x**1.0 + x ** np.ones(2), [[0.0, 2.0]], [3, 3], [0, 0]),
    "x**2": (lambda x: x**2 + x ** np.full(2, 2.0), [[0.0, -2.0]], [0, -8], [4, 4]),
    "x**0.5": (lambda x: x**0.5, [[0.0, 4.0]], [INF, 0.25], None),
    "0**x": (lambda x: 0.0**x + np.zeros(3) ** x, [[0.0, 0.5, 2.0]], [0, 0, 0], [0, 0, 0]),
    "hypot at the origin": (lambda x: np.hypot(x, 0.0), [[0.0, 3.0, -2.0]], [0, 1, -1], [np.nan, 0, 0]),
    "hypot of large and tiny": (lambda x: np.hypot(x, x), [[1e200, 1e-200]], [np.sqrt(2)] * 2, None),
    "arctan2 at the origin": (lambda x: np.arctan2(x, 0.0), [[0.0, 2.0]], [0, 0], [0, 0]),
    "arctan2 of tiny": (lambda x: np.arctan2(x, 1e-200), [[0.0]], [1e200], None),
    "sinc": (np.sinc, [[0.0, 1e-9, 1.0]], [0, -(np.pi**2) / 3 * 1e-9, -1], [-(np.pi**2) / 3, -(np.pi**2) / 3, 2]),
    "logaddexp, both -inf": (lambda x: np.logaddexp(x, -INF), [[-INF, 0.0]], [0.5, 1], [0, 0]),
    "logaddexp, infinities": (lambda x: np.logaddexp(x, 0.0), [[-INF, INF, 0.0]], [0, 1, 0.5], [0, 0, 0.25]),
    "logaddexp, both inf": (lambda x: np.logaddexp(x, INF), [[INF, 0.0]], [0.5, 0], [0, 0]),
    "logaddexp2": (lambda x: np.logaddexp2(x, -INF), [[-INF, INF, 3.0]], [0.5, 1, 1], [0, 0, 0]),
    "copysign": (lambda x: np.copysign(x, -1.0), [[0.0, 2.0, -2.0]], [0, -1, 1], [0, 0, 0]),
    "heaviside": (lambda x: np.heaviside(0.0, x) + np.heaviside(x, 0.5), [[0.0, 2.0]], [1, 1], [0, 0]),
    "nan_to_num": (np.nan_to_num, [[NAN, INF, -INF, 1.0]], [0, 0, 0, 1], [0, 0, 0, 0]),
    "nan_to_num behind a pole": (lambda x: np.nan_to_num(np.log(x) * x), [[0.0, 1.0]], [0, 1], [0, 1]),
    "maximum": (lambda x: np.maximum(x, 1.0), [[1.0, 0.0, 2.0]], [0.5, 0, 1], [0, 0, 0]),
    "maximum of itself": (lambda x: np.maximum(x, x), [[1.0, 0.0]], [1, 1], [0, 0]),
    "fmax passes over NaN": (lambda x: np.fmax(x, NAN), [[1.0, 2.0]], [1, 1], [0, 0]),
    "remainder": (lambda x: np.remainder(x, 1.0), [[0.5, 2.0, -0.25]], [1, 1, 1], [0, 0, 0]),
    "select": (lambda x: np.select([x > 0], [np.sqrt(x)], x), [[0.0, -1.0, 4.0]], [1, 1, 0.25], [0, 0, -1 / 32]),
    "piecewise": (lambda x: np.piecewise(x, [x > 0], [np.log, 0.0]), [[0.0, -1.0, 2.0]], [0, 0, 0.5], [0, 0, -0.25]),
    "choose": (lambda x: np.choose(np.array([1, 0]), [np.sqrt(x), x]), [[0.0, 4.0]], [1, 0.25], [0, -1 / 32]),
    "a branch that is only NaN": (lambda x: np.where(x > 0, x, NAN * x), [[1.0, 2.0]], [1, 1], [0, 0]),
    "division 0/0 not taken": (lambda x: np.where(x == 0, 1.0, np.sin(x) / x), [[0.0]], [0], [0]),
}


@pytest.mark.parametrize("hazard", HAZARDS.values(), ids=HAZARDS.keys())
def test_kinks_and_hazards(hazard):
    f, points, first, second = hazard
    for found in derivative_at(f, *points):
        close(found, np.array(first, float))
    for found in derivative_at(f, *points, order=2) if second is not None else ():
        close(found, np.array(second, float), rtol=1e-7)


def test_sinc_has_derivatives_of_any_order():
    """sinc(x) is the integral of cos(pi x t) over t in [0, 1]."""
    t, w = np.polynomial.legendre.leggauss(40)
    t, w = (t + 1) / 2, w / 2
    x = np.array([0.0, 0.3, 0.999, 1.0, 1.001, -2.5])
    f = np.sinc
    for order in range(1, 6):
        f = mj.jacobian(f, mode=ENDS[order % 2])
        expected = ((np.pi * t) ** order * np.cos(np.pi * x[:, None] * t + order * np.pi / 2)) @ w
        close(f(x), expected, rtol=1e-9, atol=1e-9)


def test_ties_share_evenly_in_both_operands():
    x = np.array([1.0, 2.0])
    for f in (np.maximum, np.minimum, np.fmax, np.fmin):
        for mode in ENDS:
            for J in mj.jacobian(f, (0, 1), mode=mode)(x, x.copy()):
                close(J, [0.5, 0.5])


def test_a_traced_value_names_its_namespace():
    seen = []
    mj.jacobian(lambda x: seen.append(x.__array_namespace__()) or x)(np.ones((2, 2)))
    assert seen[0] is mj.numpy and seen[0].tanh is np.tanh


# --- what would lose a derivative -----------------------------------------------------------------------------

X = np.array([[1.0, -2.0], [0.5, 3.0]])
REFUSED = {
    "where=": (lambda x: np.add(x, 1.0, where=x > 0), mj.UnsupportedOperationError, "np.where"),
    "where= of a reduction": (lambda x: np.subtract.reduce(x, where=x > 0), mj.UnsupportedOperationError, "np.where"),
    "initial=": (lambda x: np.divide.reduce(x, initial=1.0), mj.UnsupportedOperationError, "initial"),
    "out=": (lambda x: np.exp(x, out=np.zeros_like(X)), mj.ConversionError, "out"),
    "out= of a method": (lambda x: x.sum(1, out=np.zeros(2)), mj.ConversionError, "out"),
    "out= by position": (lambda x: np.cumsum(x, 1, None, np.zeros((2, 2))), mj.ConversionError, "out"),
    "in-place operator": (lambda x: x.__iadd__(1.0), mj.MutationError, "x = x"),
    "copyto": (lambda x: np.copyto(x, 0.0), mj.MutationError, "np.where"),
    "put": (lambda x: np.put(x, [0], 1.0), mj.MutationError, "copy"),
    "put method": (lambda x: x.put([0], 1.0), mj.MutationError, "copy"),
    "putmask": (lambda x: np.putmask(x, X > 0, 1.0), mj.MutationError, "np.where"),
    "place": (lambda x: np.place(x, X > 0, [1.0]), mj.MutationError, "np.where"),
    "put_along_axis": (lambda x: np.put_along_axis(x, X.astype(int), 0.0, 1), mj.MutationError, "copy"),
    "fill_diagonal": (lambda x: np.fill_diagonal(x, 0.0), mj.MutationError, "copy"),
    "add.at": (lambda x: np.add.at(x, [0], 1.0), mj.MutationError, "copy"),
    "add.at into a plain array": (lambda x: np.add.at(np.zeros((2, 2)), 0, x), mj.ConversionError, "zeros_like"),
    "sort in place": (lambda x: x.sort(), mj.MutationError, "copy"),
    "partition in place": (lambda x: x.partition(1), mj.MutationError, "copy"),
    "fill": (lambda x: x.fill(0.0), mj.MutationError, "copy"),
    "resize in place": (lambda x: x.resize((4,)), mj.MutationError, "reshape"),
    "full of a traced value": (lambda x: np.full((2, 2), x), mj.ConversionError, "np.asarray|copyto"),
    "where with one argument": (lambda x: np.where(x), mj.UnsupportedOperationError, "stop_gradient"),
    "quantile in q": (lambda x: np.quantile(X, x[0, 0], method="lower"), mj.UnsupportedOperationError, "q"),
    "an order of complex numbers": (lambda x: np.maximum(1j * x, 0), mj.UnsupportedOperationError, "complex"),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_lose_a_derivative_raises(refused):
    f, error, hint = refused
    with pytest.raises(error, match=hint):
        mj.jvp(lambda x: (f(x), x * 1.0)[1], (X,), (X,))


def test_python_zero_as_a_divisor_is_numpys():
    with np.errstate(divide="ignore"):
        assert mj.jacobian(lambda x: x / 0.0)(np.ones((3, 4)))[0, 0, 0] in (np.inf, -np.inf)


def test_full_like_has_the_dtype_of_its_first_operand():
    f, whole, narrow = lambda x, s: np.full_like(x, s), np.arange(3), np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(mj.compile(f)(whole, 2.7), [2, 2, 2], strict=True)
    assert mj.compile(f)(narrow, np.array(2.5)).dtype == np.float32
    y, J = mj.value_and_jacobian(lambda x, s: f(x, s) * x, 1, batch_axis=(0, None))(narrow, np.array(2.5))
    np.testing.assert_array_equal(y, 2.5 * narrow, strict=True)
    np.testing.assert_array_equal(J, narrow)


@pytest.mark.parametrize("shape", [(3,), (2, 1)])
def test_full_like_a_plain_array_takes_a_traced_value(shape):
    J = mj.jacobian(lambda s: mj.numpy.full_like(np.ones(3), s, shape=shape) * s, batch_axis=None)(np.array(2.5))
    np.testing.assert_array_equal(J, np.full(shape, 5.0), strict=True)
