"""Entries without derivative, by a choice or by a kink, are zeros: no infinity and no NaN meets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import close

import minijac as mj

NAN, INF = np.nan, np.inf
ROWS = np.array([[1.0, 2.0], [NAN, NAN], [4.0, 5.0]])
GOOD = np.array([[True], [False], [True]])

CASES: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    # the function, its argument, its Jacobian
    "rows that where drops after a product": (
        lambda w: np.where(GOOD, ROWS.astype(w.dtype) @ w, 0.0).sum(0), [[1.0], [3.0]], [[[5.0], [7.0]]],
    ),
    "take_along_axis": (lambda x: np.take_along_axis(np.log(x), np.array([[1]]), 1), [[0.0, 4.0]], [[[[0.0, 0.25]]]]),
    "a mask": (lambda x: np.log(x)[np.array([False, True])], [0.0, 4.0], [[0.0, 0.25]]),
    "positions": (lambda x: np.sqrt(x)[[1, 1]], [0.0, 4.0], [[0.0, 0.25], [0.0, 0.25]]),
    "take": (lambda x: np.take(np.sqrt(x), [1]), [0.0, 4.0], [[0.0, 0.25]]),
    "compress": (lambda x: np.compress([False, True], np.sqrt(x)), [0.0, 4.0], [[0.0, 0.25]]),
    "a slice": (lambda x: 2.0 * np.log(x)[1:], [0.0, 4.0], [[0.0, 0.5]]),
    "a maximum": (lambda x: np.sqrt(x).max(), [0.0, 4.0], [0.0, 0.25]),
    "a minimum": (lambda x: (1.0 / x).min(), [0.0, 4.0], [0.0, -0.0625]),
    "a median": (lambda x: np.median(np.sqrt(x)), [0.0, 1.0, 4.0], [0.0, 0.5, 0.0]),
    "sorted": (lambda x: np.sort(np.log(x))[1:], [0.0, 4.0, 2.0], [[0.0, 0.0, 0.5], [0.0, 0.25, 0.0]]),
    "sorted logarithms of lengths": (
        lambda x: np.sort(np.log(np.abs(x)))[1:], [0.0, -4.0, 2.0], [[0.0, 0.0, 0.5], [0.0, -0.25, 0.0]],
    ),
    "the largest logarithm of a length": (lambda x: np.log(np.abs(x)).max(), [0.0, -4.0], [0.0, -0.25]),
    "positions of inverse lengths": (lambda x: (1.0 / np.abs(x))[[1, 1]], [0.0, -2.0], [[0.0, 0.25], [0.0, 0.25]]),
    "nansum": (lambda x: np.nansum(np.log(x) * 2.0), [-1.0, 4.0], [0.0, 0.5]),
    "nanmax": (lambda x: np.nanmax(np.log(x)), [-1.0, 4.0], [0.0, 0.25]),
    "nanmean": (lambda x: np.nanmean(np.sqrt(x)), [-1.0, 4.0], [0.0, 0.25]),
    "weights of zero": (lambda x: np.where(np.array([0.0, 1.0]) > 0, np.log(x), 0.0).sum(), [0.0, 4.0], [0.0, 0.25]),
    "arccos of clip": (
        lambda x: np.arccos(np.clip(x, -1, 1)), [-2.0, 0.0, 3.0], np.diag([0.0, -1.0, 0.0]),
    ),
    "arctanh of clip": (lambda x: np.arctanh(np.clip(x, -1, 1)), [-2.0, 0.5], np.diag([0.0, 4.0 / 3.0])),
    "sqrt of maximum": (lambda x: np.sqrt(np.maximum(x, 0.0)), [-2.0, 0.25], np.diag([0.0, 1.0])),
    "log of minimum": (
        lambda x: np.log(np.maximum(np.minimum(x, 1.0), 0.0)), [-2.0, 0.25, 2.0], np.diag([0.0, 4.0, 0.0]),
    ),
    "sqrt of relu": (lambda x: np.sqrt(mj.nn.relu(x)), [-2.0, 0.25], np.diag([0.0, 1.0])),
    "a norm of units at rest": (lambda x: np.sqrt(np.maximum(x, 0.0).sum()), [-2.0, -3.0], [0.0, 0.0]),
    "a power of maximum": (lambda x: np.maximum(x, 0.0) ** 0.5, [-2.0, 0.25], np.diag([0.0, 1.0])),
    "one over maximum": (lambda x: 1.0 / np.maximum(x, 0.0), [-2.0, 0.5], np.diag([0.0, -4.0])),
}  # fmt: skip


def _by_vjp(f: Callable) -> Callable:
    def jacobian(x: Any) -> Any:
        y, pullback = mj.vjp(f, x)
        rows = [pullback(np.reshape(e, y.shape).astype(y.dtype))[0] for e in np.eye(y.size)]
        return np.stack(rows).reshape(y.shape + x.shape)

    return jacobian


def _by_jvp(f: Callable) -> Callable:
    def jacobian(x: Any) -> Any:
        columns = [mj.jvp(f, (x,), (np.reshape(e, x.shape).astype(x.dtype),))[1] for e in np.eye(x.size)]
        return np.stack(columns, -1).reshape(columns[0].shape + x.shape)

    return jacobian


def _structured(f: Callable) -> Callable:
    return lambda x: mj.jacobian(f, batch_axis=None, structured=True)(x).todense()


WAYS: dict[str, Callable[[Callable], Callable]] = {
    **{mode: lambda f, mode=mode: mj.jacobian(f, batch_axis=None, mode=mode)
       for mode in ("forward", "reverse", "mixed", "auto")},
    **{f"compiled {mode}": lambda f, mode=mode: mj.compile(mj.jacobian(f, batch_axis=None, mode=mode))
       for mode in ("forward", "reverse")},
    "vjp": _by_vjp, "jvp": _by_jvp, "structured": _structured,
    "bounded": lambda f: mj.jacobian(f, batch_axis=None, max_bytes=10**6),
}  # fmt: skip
SECOND: dict[str, Callable[[Callable], Callable]] = {
    "hessian": lambda f: mj.hessian(f, batch_axis=None),
    "hessian, reverse": lambda f: mj.hessian(f, batch_axis=None, mode="reverse"),
    "compiled hessian": lambda f: mj.compile(mj.hessian(f, batch_axis=None)),
    **{
        f"{second} of {first}": lambda f, first=first, second=second: mj.jacobian(
            mj.jacobian(f, batch_axis=None, mode=first), batch_axis=None, mode=second
        )
        for first in ("forward", "reverse")
        for second in ("forward", "reverse")
    },
    "laplacian": lambda f: mj.laplacian(f, batch_axis=None),
    "compiled laplacian": lambda f: mj.compile(mj.laplacian(f, batch_axis=None)),
    "hessian_diagonal": lambda f: mj.hessian_diagonal(f, batch_axis=None),
}
cases = pytest.mark.parametrize("name", CASES)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@cases
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_entries_left_out_or_made_constant_have_derivative_zero(name, way, dtype):
    f, x, J = CASES[name]
    x = np.asarray(x, dtype)
    found = way(f)(x)
    assert found.dtype == dtype
    close(found, np.reshape(J, f(x).shape + x.shape).astype(dtype), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@cases
@pytest.mark.parametrize("way", SECOND.values(), ids=SECOND.keys())
def test_they_have_no_second_derivative_either(name, way):
    f, x, _ = CASES[name]
    assert np.isfinite(way(f)(np.asarray(x, float))).all()


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_a_column_that_where_drops_is_left_out_of_a_product(mode):
    w = np.array([[1.0, INF], [2.0, 3.0]])
    J = mj.jacobian(lambda x: np.where([True, False], x @ w, 0.0), mode=mode)(np.ones((2, 2)))
    close(J, np.broadcast_to([[1.0, 2.0], [0.0, 0.0]], (2, 2, 2)))


def test_what_is_infinite_stays_so():
    assert np.isinf(mj.jacobian(np.sqrt, batch_axis=None)(np.zeros(2)).diagonal()).all()
    J = mj.jacobian(lambda x: np.sqrt(np.maximum(x, 0.0)), batch_axis=None)(np.array([0.0, -1.0]))
    assert np.isinf(J[0, 0]) and J[1, 1] == 0.0


def test_what_is_no_number_stays_so():
    with np.errstate(all="ignore"):
        assert np.isnan(mj.grad(lambda x: (x / x)[1:].sum())(np.zeros(3))[1:]).all()


def test_masks_under_compile_are_known_at_replay():
    f = mj.compile(mj.grad(lambda w, x, good: np.where(good[:, None], x @ w, 0.0).sum()))
    w = np.ones((2, 1))
    for bad in range(3):
        x, good = np.arange(6.0).reshape(3, 2), np.arange(3) != bad
        x[bad] = NAN
        close(f(w, x, good), x[good].sum(0)[:, None])
