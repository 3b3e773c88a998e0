"""Reductions with where= and initial=: NumPy's values, derivatives of what is chosen, none of what is not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random

import minijac as mj

MASK = np.array([True, False, True, True])
X = random(3, 4, seed=1)
NAMES = (
    "sum",
    "prod",
    "max",
    "min",
    "mean",
    "var",
    "std",
    "nansum",
    "nanprod",
    "nanmax",
    "nanmin",
    "nanmean",
    "nanvar",
)
STARTS = ("sum", "prod", "max", "min", "nansum", "nanprod", "nanmax", "nanmin")
MASKS = {
    "captured": lambda x: MASK,
    "of the argument": lambda x: x > -0.5,
    "column": lambda x: np.array([[True], [True], [False]]),
    "none": lambda x: True,
}
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def reduction(name, mask, initial, **keywords):
    keywords |= {"initial": initial} if name in STARTS else {}
    return lambda x: getattr(np, name)(x, axis=1, where=MASKS[mask](x), **keywords)


def cases():
    for name in NAMES:
        for mask in MASKS:
            if mask != "column" or name in ("sum", "prod", "max", "min", "nansum", "nanprod"):
                yield pytest.param(name, mask, id=f"{name}, {mask}")


@dtypes
@pytest.mark.parametrize("name, mask", [*cases()])
def test_values_are_numpys_and_derivatives_agree(name, mask, dtype):
    x = X.astype(dtype)
    for f in (reduction(name, mask, 0.25, keepdims=True), reduction(name, mask, 0.25)):
        y, J = mj.value_and_jacobian(f)(x)
        expected = f(x)
        np.testing.assert_allclose(y, expected, rtol=1e-6 if dtype is np.float32 else 1e-13)
        assert y.dtype == expected.dtype
        assert J.dtype == y.dtype
    for transformed in (mj.jacobian, mj.laplacian) if mask != "none" else ():
        np.testing.assert_allclose(mj.compile(transformed(f))(x), transformed(f)(x), rtol=1e-5, atol=1e-6)
    for mode in ("forward", "reverse"):
        np.testing.assert_allclose(mj.jacobian(f, mode=mode)(x), J, rtol=1e-5, atol=1e-6)
    if dtype is np.float64:
        mj.testing.check_derivatives(f, x)
        if mask != "of the argument":
            mj.testing.check_derivatives(f, x, order=2)


@pytest.mark.parametrize("wrapped", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "std"])
def test_what_is_not_chosen_spoils_nothing(name, wrapped):
    x = X.copy()
    x[:, 1] = np.nan
    f = reduction(name, "captured", -0.25)
    clean = np.delete(X, 1, axis=1)
    keywords = {"initial": -0.25} if name in STARTS else {}
    J = mj.jacobian(lambda x: getattr(np, name)(x, axis=1, **keywords))(clean)
    for transformed in (
        mj.jacobian,
        lambda f: mj.jacobian(f, mode="reverse"),
        lambda f: mj.jacobian(f, mode="forward"),
    ):
        found = wrapped(transformed(f))(x)
        np.testing.assert_allclose(np.delete(found, 1, axis=1), J, atol=1e-12)
        assert (found[:, 1] == 0).all()


def test_methods_and_ufuncs_take_them_too():
    x = X[0]
    for f in (
        lambda x: x.sum(where=MASK, initial=2.0),
        lambda x: np.add.reduce(x, where=MASK, initial=2.0),
        lambda x: x.max(where=MASK, initial=0.1),
        lambda x: np.maximum.reduce(x, where=MASK, initial=0.1),
        lambda x: np.logaddexp.reduce(x, where=MASK, initial=0.3),
        lambda x: x.mean(where=MASK),
        lambda x: np.max(x[:0], initial=0.5) + x[0],
        lambda x: x * np.any(x, where=MASK) * np.all(x > -5, where=x > 0),
    ):
        y, J = mj.value_and_jacobian(f, batch_axis=None)(x)
        np.testing.assert_allclose(y, f(x), rtol=1e-13)
        np.testing.assert_allclose(mj.compile(mj.jacobian(f, batch_axis=None))(x), J, rtol=1e-12)
        mj.testing.check_derivatives(f, x, batch_axis=None)


def test_an_extreme_of_some_entries_needs_a_start():
    with pytest.raises(ValueError, match="initial="):
        mj.jacobian(lambda x: np.max(x, axis=1, where=MASK))(X)


@pytest.mark.parametrize("wrapped", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["std", "var"])
def test_one_entry_does_not_differ_from_its_mean_in_any_order(name, wrapped):
    f = lambda x: getattr(np, name)(x, axis=1)
    x = random(3, 1, seed=2)
    np.testing.assert_array_equal(wrapped(mj.jacobian(f))(x), np.zeros((3, 1)))
    np.testing.assert_array_equal(wrapped(mj.hessian(f))(x), np.zeros((3, 1, 1)))
    np.testing.assert_array_equal(wrapped(mj.laplacian(f))(x), np.zeros(3))
    np.testing.assert_array_equal(wrapped(mj.partials(f, [(0, 0, 0)]))(x)[0], np.zeros(3))


@dtypes
@pytest.mark.parametrize("wrapped", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
@pytest.mark.parametrize("widths", [(2, 1), (0, 3), (5, 9)], ids=str)
def test_odd_reflection(mode, widths, wrapped, dtype):
    f = lambda x: np.pad(x, ((0, 0), widths), mode=mode, reflect_type="odd")
    x = X.astype(dtype)
    y, J = wrapped(mj.value_and_jacobian(f))(x)
    np.testing.assert_allclose(y, f(x), rtol=1e-5)
    assert J.dtype == dtype
    each = np.stack([f(row)[0] for row in np.eye(4)[:, None]], axis=-1)  # it is linear
    np.testing.assert_allclose(J, np.broadcast_to(each, J.shape), atol=1e-6)
