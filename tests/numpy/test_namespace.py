"""minijac.numpy is one namespace for plain arrays, at NumPy's speed, and for traced values."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import MODES, close, random

import minijac as mj

OWN = {"take", "add_at", "array", "asarray", "empty", "empty_like", "put", *mj.numpy._creation.MADE}
XP = mj.numpy


# --- plain arrays -----------------------------------------------------------------------------------------------------
def test_every_name_of_numpy_is_there_and_is_numpys():
    for name in set(np.__all__) - OWN:
        assert getattr(XP, name) is getattr(np, name), name
    assert set(np.__all__) <= set(dir(XP))
    assert XP.linalg is np.linalg


def test_names_are_found_without_a_detour():
    """As globals: a module's __getattr__ would be called at each access."""
    for name in ("tanh", "sum", "einsum", "zeros", "linalg", "float32", "pi", "newaxis"):
        assert name in vars(XP)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="tanhh"):
        XP.tanhh  # noqa: B018


def calls_of_python(f: Callable[[], Any]) -> list[str]:
    """The functions written in Python that one call runs, itself included."""
    called: list[str] = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_qualname) if event == "call" else None)
    try:
        f()
    finally:
        sys.setprofile(before)
    return called


@pytest.mark.parametrize("name, most", [("tanh", 0), ("sum", 0), ("asarray", 1), ("array", 2)])
def test_plain_arrays_pass_without_a_detour(name, most):
    """NumPy's own functions are called as they are; what minijac wraps runs at most itself and one test of the type."""
    x = np.ones(3)
    in_numpy = calls_of_python(lambda: getattr(np, name)(x))
    assert len(calls_of_python(lambda: getattr(XP, name)(x))) <= len(in_numpy) + most


def test_what_numpy_imports_on_first_use_stays_so():
    late = {"numpy.f2py", "numpy.testing", "numpy.ctypeslib"}
    imported = []
    for module in ("numpy", "minijac"):
        code = f"import sys, {module}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        imported.append(late & set(done.stdout.split()))
    assert imported[0] == imported[1]


def test_plain_arrays_give_plain_arrays():
    x = random(3, 4)
    assert XP.asarray(x) is x
    assert XP.array(x) is not x
    close(XP.array([[1, 2], [3, 4]], dtype=float), np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert XP.asarray([1, 2], dtype=np.float32).dtype == np.float32
    assert type(XP.put(x, 0, 1.0)) is np.ndarray
    assert x[0, 0] != 1.0


# --- traced values ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
def test_a_function_written_for_the_namespace_is_differentiated(mode):
    def f(x):
        xp = x.__array_namespace__()
        weights = xp.full((4, 2), 0.5, dtype=x.dtype)
        return xp.tanh(xp.asarray(x) @ weights) + xp.zeros(2) + xp.arange(2.0)

    x = random(3, 4)
    close(mj.jacobian(f, mode=mode)(x), mj.jacobian(lambda x: np.tanh(x @ np.full((4, 2), 0.5)), mode=mode)(x))
    y, _ = mj.value_and_jacobian(f, mode=mode)(x)
    close(y, np.tanh(x @ np.full((4, 2), 0.5)) + np.arange(2.0))


@pytest.mark.parametrize("version", [None, "2022.12", "2023.12"])
def test_traced_values_name_their_namespace(version):
    seen = []

    def f(x):
        seen.append(x.__array_namespace__(api_version=version))
        seen.append(x.sum().__array_namespace__(api_version=version))
        return x.sum()

    mj.grad(f)(random(3))
    mj.compile(f)(random(3))
    assert len(seen) == 4
    assert all(found is XP for found in seen)


def test_a_version_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="1999"):
        mj.grad(lambda x: x.__array_namespace__(api_version="1999.01").sum(x))(random(3))


def test_traced_values_have_the_attributes_of_the_array_standard():
    def f(x):
        assert x.device == np.ones(1).device
        assert (x.dtype, x.ndim, x.shape, x.size) == (np.float64, 2, (3, 4), 12)
        assert XP.isdtype(x.dtype, "real floating")
        return XP.permute_dims(x.mT, (1, 0)) + x

    close(mj.jacobian(f)(random(3, 4)), 2.0 * np.broadcast_to(np.eye(4), (3, 4, 4)))


def test_arrays_of_traced_values_are_stacked():
    def f(x):
        return XP.array([[x[:, 0], 2.0 * x[:, 1]], [np.ones(3), x[:, 0] * x[:, 1]]])

    x = random(3, 2)
    y, J = mj.value_and_jacobian(lambda x: np.moveaxis(f(x), -1, 0))(x)
    close(y, np.moveaxis(f(x), -1, 0))
    close(J[0], np.array([[[1, 0], [0, 2]], [[0, 0], [x[0, 1], x[0, 0]]]]))
    assert mj.jvp(lambda x: XP.asarray(x, dtype=np.float32), (x,), (x,))[1].dtype == np.float32


def test_numpys_own_conversions_still_refuse():
    for convert in (np.array, np.asarray, lambda x: np.array([x[0], x[1]])):
        with pytest.raises(mj.ConversionError):
            mj.grad(lambda x, convert=convert: convert(x).sum())(random(3))


@pytest.mark.parametrize(
    "create",
    [
        lambda x: np.zeros((2, 3), like=x),
        lambda x: np.ones(3, np.float32, like=x),
        lambda x: np.full(3, 2.0, like=x),
        lambda x: np.eye(3, like=x),
        lambda x: np.arange(3.0, like=x),
        lambda x: np.asarray([1.0, 2.0, 3.0], like=x),
        lambda x: np.array([1.0, 2.0, 3.0], like=x),
    ],
)
def test_arrays_are_created_like_a_traced_value(create):
    seen = []
    x = random(3)
    mj.grad(lambda x: seen.append(create(x)) or (x * seen[0]).sum())(x)
    assert type(seen[0]) is np.ndarray
    assert seen[0].dtype == create(x).dtype
    close(seen[0], create(x))


def test_membership_is_numpys():
    seen = []
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    mj.jacobian(lambda x: seen.append((2.0 in x, 5.0 in x)) or x)(x)
    assert seen == [(True, False)]


# --- updates that return a new array ----------------------------------------------------------------------------------
@pytest.mark.parametrize("index", [1, slice(0, 2), [2, 0], np.array([True, False, True])])
def test_updates_match_numpys_on_a_copy(index):
    x, v = random(2, 3), 7.0
    replaced, added = x.copy(), x.copy()
    replaced[:, index] = v
    np.add.at(added, (slice(None), np.asarray(index) if isinstance(index, list) else index), v)
    v = np.full(added[:, index].shape, v)
    close(XP.put(x, (slice(None), index), v), replaced)
    close(XP.add_at(x, (slice(None), index), v), added)
    values = lambda x: np.sin(x[:, 1:2] if v.ndim == 2 else x[:, 1])
    mj.testing.check_derivatives(lambda x: XP.put(x, (slice(None), index), values(x)), x)
    mj.testing.check_derivatives(lambda x: XP.add_at(x, (slice(None), index), values(x)), x, order=2)


# --- masks under compile ----------------------------------------------------------------------------------------------
MASKS = {
    "not": lambda x: np.where(~(x > 0), x * x, 0.0),
    "and": lambda x: np.where((x > 0) & (x < 0.5), x * x, 0.0),
    "or": lambda x: np.where((x < 0) | (x > 0.5), x * x, 0.0),
    "xor": lambda x: np.where((x < 0.2) ^ (x > -0.2), x * x, 0.0),
    "with a plain mask": lambda x: np.where((x > 0) & np.array([True, False, True, False]), x * x, 0.0),
    "with a plain bool": lambda x: np.where((x > 0) & True, x * x, 0.0),
    "by name": lambda x: np.where(np.logical_not(np.bitwise_or(x > 0.5, np.invert(x > 0))), x * x, 0.0),
}


@pytest.mark.parametrize("f", MASKS.values(), ids=MASKS.keys())
def test_masks_combine_under_compile(f):
    compiled = mj.compile(f)
    derivative = mj.compile(mj.jacobian(f))
    for seed in range(3):
        x = random(3, 4, seed=seed)
        close(compiled(x), f(x))
        close(derivative(x), mj.jacobian(f)(x))
    assert compiled.cache_info().misses == 1


def test_truth_of_numbers_combines_under_compile():
    f = lambda x, a, b: np.where((a > 0) & (b > 0) | (a > 5), x, 2 * x)
    compiled = mj.compile(f)
    x = random(3)
    for a, b in ((1.0, 2.0), (-1.0, 2.0), (7.0, -1.0)):
        close(compiled(x, a, b), f(x, a, b))
    assert compiled.cache_info().misses == 1


def test_bits_of_floats_are_refused_as_by_numpy():
    with pytest.raises(TypeError):
        mj.grad(lambda x: (~x).sum())(random(3))


# --- methods of ufuncs ------------------------------------------------------------------------------------------------
UFUNC_METHODS = {
    "running maximum": lambda x: np.maximum.accumulate(x, axis=1),
    "running minimum": lambda x: np.minimum.accumulate(x, 1),
    "running hypot": lambda x: np.hypot.accumulate(x, axis=-1),
    "reduce by hypot": lambda x: np.hypot.reduce(x, axis=1, keepdims=True),
    "reduce by fmax": lambda x: np.fmax.reduce(x, axis=1),
    "reduce by subtract": lambda x: np.subtract.reduce(x, axis=1),
    "running quotient": lambda x: np.divide.accumulate(x, axis=1),
    "pieces": lambda x: np.add.reduceat(x, [0, 3, 1], axis=1),
    "pieces of a product": lambda x: np.multiply.reduceat(x, np.array([0, 2]), axis=1),
}


@pytest.mark.parametrize("f", UFUNC_METHODS.values(), ids=UFUNC_METHODS.keys())
def test_methods_of_ufuncs(f):
    x = random(3, 4, low=0.3, high=0.9)
    close(mj.value_and_jacobian(f)(x)[0], f(x))
    mj.testing.check_derivatives(f, x, order=2)


def test_running_extremes_mix_samples_along_the_batch():
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(lambda x: np.maximum.accumulate(x, axis=0))(random(3, 4))


# --- histograms and sets ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("density", [False, True])
@pytest.mark.parametrize("bins", [3, np.array([-0.5, 0.0, 0.25, 0.5])])
def test_histograms_keep_the_derivative_of_weights_and_edges(bins, density):
    x, w = random(12), random(12, seed=1, low=0.5, high=1.0)
    f = lambda x, w: np.histogram(x, bins, density=density, weights=w)
    g = lambda x, w: np.histogram2d(x, w, [bins, 2], density=density, weights=w)
    for function in (f, g):
        (y, _) = mj.value_and_jacobian(function, (0, 1), batch_axis=None)(x, w)
        for found, truth in zip(y, function(x, w), strict=True):
            close(found, truth)
        mj.testing.check_derivatives(function, x, w, batch_axis=None)


def test_counts_are_plain():
    x = random(12)
    counts = []
    mj.grad(lambda x: counts.append(np.histogram(x, 4)[0]) or x.sum())(x)
    assert counts[0].tolist() == np.histogram(x, 4)[0].tolist()


SETS = {
    "unique": np.unique,
    "unique with counts": lambda x: np.unique(x, return_counts=True)[0],
    "unique values": np.unique_values,
    "union": lambda x: np.union1d(x, x * 0.5),
    "intersection": lambda x: np.intersect1d(x, x[1:]),
    "difference": lambda x: np.setdiff1d(x, x[:1]),
    "exclusive": lambda x: np.setxor1d(x, 2.0 * x),
    "trimmed": lambda x: np.trim_zeros(np.pad(x, (2, 1))),
    "resized": lambda x: np.resize(x, (3, 5)),
}


@pytest.mark.parametrize("f", SETS.values(), ids=SETS.keys())
def test_sets_keep_the_derivative_of_what_they_choose(f):
    x = random(7)
    close(mj.value_and_jacobian(f, batch_axis=None)(x)[0], f(x))
    mj.testing.check_derivatives(f, x, batch_axis=None)


# --- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("index", [(), ..., None, (None, ..., None)], ids=str)
def test_a_traced_number_is_indexed_as_numpys_is(index):
    f = lambda x: x.sum()[index]
    x = random(3)
    close(mj.value_and_jacobian(f, batch_axis=None)(x)[0], f(x))
    close(mj.jacobian(f, batch_axis=None)(x), np.ones((*np.shape(f(x)), 3)))
    close(mj.compile(mj.jacobian(f, batch_axis=None))(x), np.ones((*np.shape(f(x)), 3)))


@pytest.mark.parametrize("ask, error", [(lambda y: y[0], IndexError), (len, TypeError), (list, TypeError)])
def test_a_traced_number_is_no_sequence(ask, error):
    def f(x):
        with pytest.raises(error):
            ask(x.sum())
        return x.sum()

    close(mj.grad(f)(random(3)), np.ones(3))


def test_what_stands_for_the_index_of_a_number():
    close(mj.jacobian(lambda x: np.expand_dims(x.sum(), 0), batch_axis=None)(random(3)), np.ones((1, 3)))
    close(mj.jacobian(lambda x: np.reshape(x.sum(), (1, 1)), batch_axis=None)(random(3)), np.ones((1, 1, 3)))
