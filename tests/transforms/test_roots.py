"""Second derivatives of smooth functions that are written by a norm, an absolute value, a deviation, where it is 0."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import close

import minijac as mj

norm = np.linalg.norm
I2 = np.eye(2)


def matern32(r: Any) -> Any:
    return (1.0 + 3**0.5 * r) * np.exp(-(3**0.5) * r)


def matern52(r: Any, scale: float = 0.7) -> Any:
    z = 5**0.5 * r / scale
    return (1.0 + z + 5.0 * r**2 / (3.0 * scale**2)) * np.exp(-z)


def huber(x: Any) -> Any:
    r = np.abs(x[0])
    return np.where(r < 1.0, 0.5 * r**2, r - 0.5)


def masked(x: Any) -> Any:
    r = norm(x)
    return np.where(r > 0, 1.0 / r**6, 0.0)


CASES: dict[str, tuple[Callable[[Any], Any], list[float], Any]] = {
    # a function of n numbers, a point, its Hessian there
    "abs(x)**2": (lambda x: np.abs(x[0]) ** 2, [0.0], [[2.0]]),
    "abs(x) * abs(x)": (lambda x: np.abs(x[0]) * np.abs(x[0]), [0.0], [[2.0]]),
    "square(fabs(x))": (lambda x: np.square(np.fabs(x[0])), [0.0], [[2.0]]),
    "abs(x)**4": (lambda x: np.abs(x[0]) ** 4, [0.0], [[0.0]]),
    "abs(x)": (lambda x: np.abs(x[0]), [0.0], [[0.0]]),
    "softplus": (lambda x: np.maximum(x[0], 0.0) + np.log1p(np.exp(-np.abs(x[0]))), [0.0], [[0.25]]),
    "log(cosh(x)) by abs": (lambda x: np.abs(x[0]) + np.log1p(np.exp(-2.0 * np.abs(x[0]))), [0.0], [[1.0]]),
    "Huber": (huber, [0.0], [[1.0]]),
    "norm(x)**2": (lambda x: norm(x) ** 2, [0.0, 0.0], 2.0 * I2),
    "norm(x)**3": (lambda x: norm(x) ** 3, [0.0, 0.0], 0.0 * I2),
    "hypot(a, b)**2": (lambda x: np.hypot(x[0], x[1]) ** 2, [0.0, 0.0], 2.0 * I2),
    "std(x)**2": (lambda x: np.std(x) ** 2, [1.0, 1.0], [[0.5, -0.5], [-0.5, 0.5]]),
    "exp(-norm(x)**2 / 2)": (lambda x: np.exp(-(norm(x) ** 2) / 2.0), [0.0, 0.0], -I2),
    "Matern 3/2": (lambda x: matern32(norm(x)), [0.0, 0.0], -3.0 * I2),
    "Matern 5/2": (lambda x: matern52(norm(x)), [0.0, 0.0], -5.0 / (3.0 * 0.7**2) * I2),
    "cos(norm(x))": (lambda x: np.cos(norm(x)), [0.0, 0.0], -I2),
    "cosh(hypot(a, b))": (lambda x: np.cosh(np.hypot(x[0], x[1])), [0.0, 0.0], I2),
    "sqrt(1 + norm(x)**2)": (lambda x: np.sqrt(1.0 + norm(x) ** 2), [0.0, 0.0], I2),
    "a product with others": (lambda x: (x[0] + 3.0) * norm(x) ** 2, [0.0, 0.0], 6.0 * I2),
    "a masked force": (masked, [0.0, 0.0], 0.0 * I2),
}
NOT_SMOOTH: dict[str, tuple[Callable[[Any], Any], list[float]]] = {
    "norm(x)": (lambda x: norm(x), [0.0, 0.0]),
    "Matern 1/2": (lambda x: np.exp(-norm(x)), [0.0, 0.0]),
    "hypot(a, b)": (lambda x: np.hypot(x[0], x[1]), [0.0, 0.0]),
    "abs(x)**1.5": (lambda x: np.abs(x[0]) ** 1.5, [0.0]),
    "std(x)": (lambda x: np.std(x), [1.0, 1.0]),
}


def _columns(product: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda x: np.stack([product(x, e) for e in np.eye(x.size, dtype=x.dtype)])


HESSIANS: dict[str, Callable[[Callable], Callable]] = {
    **{mode: lambda f, mode=mode: mj.hessian(f, batch_axis=None, mode=mode)
       for mode in ("forward", "reverse", "mixed", "auto")},
    **{f"compiled {mode}": lambda f, mode=mode: mj.compile(mj.hessian(f, batch_axis=None, mode=mode))
       for mode in ("forward", "reverse")},
    "jacobian of grad": lambda f: mj.jacobian(mj.grad(f), batch_axis=None),
    "jvp of grad": lambda f: _columns(lambda x, e: mj.jvp(mj.grad(f), (x,), (e,))[1]),
    "vjp of grad": lambda f: _columns(lambda x, e: mj.vjp(mj.grad(f), x)[1](e)[0]),
}  # fmt: skip
TRACES: dict[str, Callable[[Callable], Callable]] = {
    "laplacian": lambda f: mj.laplacian(f, batch_axis=None),
    "compiled laplacian": lambda f: mj.compile(mj.laplacian(f, batch_axis=None)),
    "sum of hessian_diagonal": lambda f: lambda x: mj.hessian_diagonal(f, batch_axis=None)(x).sum(),
}
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def tolerance(dtype: Any) -> dict[str, float]:
    return {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {}


@quiet
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", HESSIANS.values(), ids=HESSIANS.keys())
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_hessians_of_smooth_functions_of_a_root_are_right_where_it_is_zero(name, way, dtype):
    f, x, H = CASES[name]
    found = way(f)(np.asarray(x, dtype))
    assert found.dtype == dtype
    close(found, np.asarray(H, dtype), **tolerance(dtype))


@quiet
@pytest.mark.parametrize("name", [name for name in CASES if name != "std(x)**2"])
@pytest.mark.parametrize("way", TRACES.values(), ids=TRACES.keys())
def test_laplacians_are_too(name, way):
    f, x, H = CASES[name]
    close(np.sum(way(f)(np.asarray(x))), np.trace(np.asarray(H)))


@pytest.mark.parametrize("name", CASES)
def test_first_derivatives_are_as_ever(name):
    f, x, _ = CASES[name]
    x = np.asarray(x)
    with np.errstate(all="ignore"):
        once = mj.grad(f)(x)
        nested = mj.grad(lambda x: mj.stop_gradient(mj.grad(f)(x)).sum() * 0.0 + f(x))(x)
    close(once, nested)


@quiet
@pytest.mark.parametrize("name", NOT_SMOOTH)
@pytest.mark.parametrize("way", [*HESSIANS.values(), TRACES["laplacian"]])
def test_what_has_no_second_derivative_has_no_quiet_zero(name, way):
    f, x = NOT_SMOOTH[name]
    x = np.asarray(x)
    assert np.isfinite(mj.grad(f)(x)).all()
    assert not np.isfinite(way(f)(x)).all()


def test_the_variance_of_a_kernels_derivative_at_zero_distance():
    def kernel(a: Any, b: Any) -> Any:
        return matern52(norm(a[:, None] - b[None], axis=-1))

    x = np.array([[0.1, 0.2], [0.4, -0.3]])
    mixed = mj.jacobian(mj.jacobian(kernel, 0, batch_axis=None), 1, batch_axis=None)(x, x)
    for n in range(2):
        close(mixed[n, n, n, :, n, :], 5.0 / (3.0 * 0.7**2) * I2)


def test_fourth_derivatives_are_right_as_well():
    f = lambda x: np.cos(np.abs(x))
    fourth = mj.grad(mj.grad(mj.grad(mj.grad(f))))
    close(fourth(np.float64(0.0)), np.ones(()))
    close(mj.compile(fourth)(np.float64(0.0)), np.ones(()))


LENGTHS = {
    "norm": lambda x: norm(x, axis=1),
    "hypot": lambda x: np.hypot(x[:, 0], x[:, 1]),
    "deviation": lambda x: np.std(np.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1], -2.0 * x[:, 0]], 1), 1) * 0.5**-0.5,
}
OF_LENGTH = {  # the coefficients of r**2, r**4
    "cosine": (np.cos, -1 / 2, 1 / 24),
    "fourth power": (lambda r: r**4, 0.0, 1.0),
    "gaussian": (lambda r: np.exp(-(r**2)), -1.0, 1 / 2),
    "in steps": (lambda r: r * r * np.exp(r**2), 1.0, 1.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name, length, wrapped",
    [
        *((name, length, lambda f: f) for name in OF_LENGTH for length in ("norm", "hypot")),
        ("cosine", "norm", mj.compile),
    ],
    ids=lambda x: x if isinstance(x, str) else "compiled" if x is mj.compile else "eager",
)
def test_partial_derivatives_are_right_as_well(name, length, wrapped, dtype):
    g, second, fourth = OF_LENGTH[name]
    f = lambda x: g(LENGTHS[length](x))
    wanted = [(0,), (0, 0), (0, 1), (1, 1), (0, 0, 1), (0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 1, 1)]
    truth = [0.0, 2 * second, 0.0, 2 * second, 0.0, 24 * fourth, 8 * fourth, 0.0]
    found = wrapped(mj.partials(f, wanted))(np.zeros((2, 2), dtype))
    np.testing.assert_allclose(np.stack(found), np.stack([truth, truth], axis=1), atol=1e-6)


def test_a_deviation_is_a_length():
    f = lambda x: LENGTHS["deviation"](x) ** 4
    x = np.zeros((1, 2))
    by_squares = lambda x: np.var(np.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1], -2.0 * x[:, 0]], 1), 1) ** 2 * 4.0
    wanted = [(0, 0, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1)]
    close(np.stack(mj.partials(f, wanted)(x)), np.stack(mj.partials(by_squares, wanted)(x)))


SIXTH = pytest.param(6, 6, marks=pytest.mark.skipif("MINIJAC_WALK" not in os.environ, reason="takes ten seconds"))


@pytest.mark.parametrize("power, order", [(4, 4), (4, 5), (6, 4), SIXTH])
def test_powers_of_a_size_in_high_order(power, order):
    f = lambda x: np.abs(x[:, 0]) ** power
    truth = 720.0 if (power, order) == (6, 6) else 24.0 if (power, order) == (4, 4) else 0.0
    close(mj.partials(f, [(0,) * order])(np.zeros((1, 1)))[0], np.array([truth]), rtol=1e-9)


def test_orders_that_would_be_wrong_are_refused():
    f = lambda x: np.abs(x[:, 0]) ** 8
    for wrapped in (lambda f: f, mj.compile):
        with pytest.raises(mj.UnsupportedOperationError, match=r"order 8 through abs, at .*order 7 at most"):
            wrapped(mj.partials(f, [(0,) * 8]))(np.zeros((1, 1)))


def test_where_no_root_is_zero_nothing_is_replaced():
    f = lambda x: matern52(norm(x, axis=1))
    x = np.array([[0.3, 0.4], [0.0, 0.2]])
    whole = mj.hessian(f)(x)
    rows = [mj.hessian(f)(x[n : n + 1])[0] for n in range(2)]
    close(whole, np.stack(rows))
