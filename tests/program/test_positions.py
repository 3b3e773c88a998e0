"""Positions under compile: computed ones are data, captured ones are read at replay, arguments look up tables."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import agrees, same
from helpers import random

import minijac as mj

X, OTHER = random(4, 3, seed=1), random(4, 3, seed=2)
OWN = np.arange(4)[:, None]
TABLE, KNOTS = random(4, 3, seed=3), np.linspace(-1.0, 1.0, 4)
WAYS = {
    "forward": lambda f: mj.jacobian(f, mode="forward"),
    "reverse": lambda f: mj.jacobian(f, mode="reverse"),
    "hessian": mj.hessian,
    "laplacian": mj.laplacian,
}


def written(index):
    def f(x):
        y = x.copy()
        index(y, x**2)
        return y

    return f


def with_gaps(x):
    return np.where(x > 0.3, np.nan, x)


LOOKUPS = {
    "nanargmax": lambda x: np.take_along_axis(x**2, np.nanargmax(with_gaps(x), 1)[:, None], 1),
    "nanargmin": lambda x: np.take_along_axis(x**2, np.nanargmin(with_gaps(x), axis=1, keepdims=True), 1),
    "lexsort": lambda x: np.take_along_axis(x, np.lexsort((x, np.round(x)), axis=1), 1) ** 2,
    "nanmedian": lambda x: np.nanmedian(with_gaps(x) ** 2, 1),
    "nanquantile": lambda x: np.nanquantile(with_gaps(x) ** 2, 0.3, axis=1, method="weibull"),
    "nanquantile of ties": lambda x: np.nanquantile(np.round(with_gaps(x)) * 0 + x[:, :1] ** 2, [0.3, 0.7], axis=1).T,
    "a mask turned and in a row": lambda x: np.ravel((x > 0).T).reshape(3, 4).T * x**2,
    "put_along_axis": written(lambda y, v: np.put_along_axis(y, np.argsort(v, 1)[:, :2], v[:, 1:], 1)),
    "positions that come twice": written(lambda y, v: y.__setitem__((OWN, np.argsort(v, 1) // 2), v)),
    "added at positions": written(lambda y, v: np.add.at(y, (OWN, np.argsort(v, 1) // 2), v)),
    "one position of each": written(lambda y, v: y.__setitem__((OWN[:, 0], np.argmax(v, 1)), v[:, 0])),
    "take_along_axis": lambda x: np.take_along_axis(TABLE.astype(x.dtype), np.argmax(x, 1)[:, None], 1) * x**2,
    "take_along_axis of all": lambda x: (
        np.take_along_axis(TABLE.ravel(), np.argsort(x, 1).ravel(), None).reshape(4, 3) * x**2
    ),
    "searchsorted": lambda x: mj.numpy.take(KNOTS.astype(x.dtype), np.searchsorted(KNOTS, x) % 4) * x**2,
    "digitize": lambda x: mj.numpy.take(KNOTS.astype(x.dtype), np.digitize(x, KNOTS) % 4) * x**2,
    "argsort": lambda x: np.take_along_axis(x, np.argsort(x, 1), 1) ** 2,
    "argmax": lambda x: mj.numpy.take(KNOTS.astype(x.dtype), np.argmax(x, 1))[:, None] * x**2,
    "rows": lambda x: mj.numpy.take(TABLE.astype(x.dtype), np.argmin(x, 1), axis=0) * x**2,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LOOKUPS)
def test_computed_positions_are_data(name, way, dtype):
    rtol = 1e-12 if dtype is np.float64 else 1e-5
    agrees(WAYS[way](LOOKUPS[name]), (X.astype(dtype),), (OTHER.astype(dtype),), rtol=rtol)


def test_a_table_of_positions_has_the_derivative_of_the_entries_chosen():
    J = mj.compile(mj.jacobian(LOOKUPS["take_along_axis"]))(X)
    chosen = TABLE[np.arange(4), X.argmax(1)]
    np.testing.assert_allclose(J, 2 * chosen[:, None, None] * X[:, :, None] * np.eye(3))


@pytest.mark.parametrize("t", [2, np.array([0, 3, 1])], ids=["number", "array"])
def test_an_integer_argument_looks_up_a_table(t):
    f = lambda x, t: x * mj.numpy.take(KNOTS, t)
    agrees(mj.jacobian(f, batch_axis=(0, None)), (X, t), (X, t + 0), (OTHER, 3 - t))


def test_a_plain_table_indexed_by_positions_of_arguments_says_how_to_write_it():
    with pytest.raises(mj.TraceError, match=r"minijac\.numpy\.take\(table, t\)"):
        mj.compile(lambda x: KNOTS[np.argmax(x)])(X)


def test_integers_that_hold_samples_look_up_tables_as_they_are():
    kind = np.array([0, 2, 1, 2])
    f = lambda w, kind: np.sin(w) * TABLE[kind]
    w = random(3, seed=5)
    J = mj.jacobian(f, batch_axis=(None, 0))(w, kind)
    np.testing.assert_allclose(J, np.cos(w) * TABLE[kind][:, :, None] * np.eye(3))


class Captured:
    """A function by its captured positions, under several kinds of index."""

    def __init__(self) -> None:
        self.positions = np.array([2, 0, 1])
        self.mask = np.array([True, False, True])

    def columns(self, x):
        return x[:, self.positions] ** 2

    def part(self, x):
        return x[:, self.positions[1:]] ** 2

    def chosen(self, x):
        return x[:, self.mask] ** 2

    def taken(self, x):
        return np.take(x, self.positions, axis=1) ** 2

    def along(self, x):
        return np.take_along_axis(x, self.positions[None], 1) ** 2

    def compressed(self, x):
        return np.compress(self.mask, x, axis=1) ** 2


@pytest.mark.parametrize("name", ["columns", "part", "chosen", "taken", "along", "compressed"])
@pytest.mark.parametrize("anew", [False, True], ids=["written", "bound anew"])
def test_captured_positions_are_read_at_replay(name, anew):
    held = Captured()
    f = mj.jacobian(getattr(held, name))
    compiled = mj.compile(f)
    same(compiled(X), f(X))
    if anew:
        held.positions, held.mask = np.array([1, 2, 2]), np.array([False, False, True])
    else:
        held.positions[:], held.mask[:] = [1, 2, 2], [False, False, True]
    same(compiled(X), f(X))
    same(compiled(OTHER), f(OTHER))
    assert compiled.cache_info().misses == 2


def test_positions_made_on_the_way_are_not_watched():
    compiled = mj.compile(mj.jacobian(lambda x: x[:, np.array([2, 0])]))
    for _ in range(3):
        compiled(X)
    assert compiled.cache_info().misses == 1


AT_A_NUMBER = {
    "jacobian": mj.jacobian(lambda x: x * x, batch_axis=None),
    "value_and_jacobian": mj.value_and_jacobian(lambda x: np.exp(x), batch_axis=None),
    "hessian": mj.hessian(lambda x: x**3, batch_axis=None),
    "grad": mj.grad(lambda x: x * x),
    "value_and_grad": mj.value_and_grad(np.exp),
    "jvp": lambda x: mj.jvp(lambda x: x * x, (x,), (x,)),
    "vjp": lambda x: mj.vjp(lambda x: x * x, x)[1](x),
    "laplacian": mj.laplacian(lambda x: x**3, batch_axis=None),
    "hessian_diagonal": mj.hessian_diagonal(lambda x: x**3, batch_axis=None),
}


@pytest.mark.parametrize("name", AT_A_NUMBER)
def test_derivatives_without_axes_are_arrays(name):
    agrees(AT_A_NUMBER[name], (np.array(2.0),), (np.array(3.0),))


ROWS = np.arange(4)
BY_ARGUMENTS = {
    "columns": lambda x, t: x[:, t] ** 2,
    "one of each": lambda x, t: x[ROWS, t] ** 2,
    "take": lambda x, t: np.take(x**2, t, axis=1),
    "take_along_axis": lambda x, t: np.take_along_axis(x**2, t[:, None], 1),
    "a table": lambda x, t: x * mj.numpy.take(TABLE[:3], t, axis=0),
    "choose": lambda x, t: np.choose(t, [x[:, 0], x[:, 1] ** 2, 1.0]),
    "a write": lambda x, t: written(lambda y, v: y.__setitem__((ROWS, t), v[:, 0]))(x),
    "a sum": lambda x, t: written(lambda y, v: np.add.at(y, (ROWS, t), v[:, 0]))(x),
    "put_along_axis": lambda x, t: written(lambda y, v: np.put_along_axis(y, t[:, None], v[:, :1], 1))(x),
}


@pytest.mark.parametrize("way", ["the function", "jacobian"])
@pytest.mark.parametrize("name", BY_ARGUMENTS)
def test_positions_beyond_an_axis_raise_in_every_call(name, way):
    """Never the entries of another sample, which flat positions would name."""
    f = BY_ARGUMENTS[name]
    of = f if way == "the function" else mj.jacobian(f, batch_axis=(0, None), on_mixing="full")
    compiled = mj.compile(of)
    for t in ([0, 1, 2, 1], [2, 2, 0, 1]):
        same(compiled(X, np.array(t)), of(X, np.array(t)))
    for t in ([3, 1, 2, 1], [0, 1, 2, 3], [0, 1, -4, 1], [-9, 0, 0, 0]):
        with pytest.raises(IndexError, match="out of bounds"):
            compiled(X, np.array(t))
    same(compiled(X, np.array([0, 1, 2, 1])), of(X, np.array([0, 1, 2, 1])))


def test_positions_beyond_a_long_axis_raise_in_every_call():
    long = random(2, 3000, seed=7)
    compiled = mj.compile(lambda x, t: x[:, t])
    for t in ([1, 2], [-3000, 2999]):
        np.testing.assert_array_equal(compiled(long, np.array(t)), long[:, t])
    for wrong in (3000, -3001):
        with pytest.raises(IndexError, match=f"index {wrong} is out of bounds for an axis of size 3000"):
            compiled(long, np.array([1, wrong]))


def test_positions_of_what_a_mask_leaves_out_may_be_beyond():
    def f(x, t, m):
        y = np.sin(x)
        y[m] = x[m] * mj.numpy.take(KNOTS, t[m])[:, None]
        return y

    rest, none = np.array([True, False, True, False]), np.zeros(4, bool)
    agrees(f, (X, np.array([0, 9, 1, -9]), rest), (X, np.array([9, 9, 9, 9]), none))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("n", [200, 3000])
def test_positions_of_narrow_integers_count_along_axes_that_they_cannot_number(n, dtype):
    x, t = random(3, 6, n, seed=8), np.array([5, 3, 2], dtype)
    for f in (
        lambda x, t: x[np.arange(3), t],
        lambda x, t: x[:, t, t],
        lambda x, t: np.take_along_axis(x, t[:, None, None], 1),
        lambda x, t: np.take(x, t, axis=2, mode="wrap"),
        lambda x, t: np.take(x, t, axis=2, mode="clip"),
    ):
        others = -t if dtype is np.int8 else t[::-1]
        agrees(f, (x, t), (x, others))
        value, _ = mj.jvp(lambda x, f=f: f(x, t), (x,), (x,))
        np.testing.assert_array_equal(value, f(x, t))
