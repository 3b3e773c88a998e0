"""Every error: its class, the built-in it also is, what its message says, and how it leaves things."""

from __future__ import annotations

import builtins
import warnings

import numpy as np
import pytest
from helpers import close, marked_line, mentions, names_place, net, random
from misuse import CONVERSIONS, MUTATIONS, runs

import minijac as mj

B, N = 4, 3
X = random(B, N, low=0.5, high=1.5)
EYE = np.eye(N)

# --- the classes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, built_ins",
    [
        ("BatchMixingError", ["ValueError"]),
        ("UnsupportedOperationError", ["NotImplementedError"]),
        ("InputError", ["TypeError", "ValueError"]),
        ("TraceError", ["RuntimeError"]),
        ("MutationError", ["TypeError"]),
        ("ConversionError", ["TypeError"]),
    ],
)
def test_each_error_is_also_the_built_in_that_fits(error, built_ins):
    for name in built_ins:
        assert issubclass(getattr(mj, error), getattr(builtins, name))
    assert issubclass(getattr(mj, error), mj.MinijacError)


def test_the_base_is_an_exception_and_no_built_in_of_its_own():
    assert mj.MinijacError.__mro__[1] is Exception


# --- unsupported operations -------------------------------------------------------------------------------------------


def calls_apply_along_axis(x):
    return x * np.apply_along_axis(np.sum, 1, x)[0]  # <- here


def calls_sort_complex(x):
    return x * np.sort_complex(x).real  # <- here


def calls_smirnov(x):
    return pytest.importorskip("scipy.special").smirnov(1, x)  # <- here


def calls_ncfdtr(x):
    return pytest.importorskip("scipy.special").ncfdtr(1.0, 2.0, 0.5, x)  # <- here


UNSUPPORTED = {
    "apply_along_axis": calls_apply_along_axis,
    "sort_complex": calls_sort_complex,
    "smirnov": calls_smirnov,
    "ncfdtr": calls_ncfdtr,
}


@runs
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unknown_derivative_raises_in_every_transformation(name, run):
    with pytest.raises(mj.UnsupportedOperationError):
        run(UNSUPPORTED[name])


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operations_are_named_with_the_line_and_the_way_out(name):
    with pytest.raises(mj.UnsupportedOperationError) as caught:
        mj.jacobian(UNSUPPORTED[name])(X)
    mentions(caught.value, rf"\b{name}\b", "derivative|differentiate", "defin|stop_gradient|eigh|zero")
    mentions(caught.value, "defin")
    names_place(caught.value, UNSUPPORTED[name])


def test_unsupported_operations_pass_constants_through():
    def f(x):
        return x * np.unwrap(mj.stop_gradient(x))

    close(mj.jacobian(f)(X), np.unwrap(X)[:, :, None] * EYE)


# --- how errors leave things ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [*CONVERSIONS, *MUTATIONS, *UNSUPPORTED.values()])
def test_after_an_error_everything_works_as_before(f):
    with pytest.raises(mj.MinijacError):
        mj.jacobian(f)(X)
    assert type(np.sin(X)) is np.ndarray
    close(mj.jacobian(np.sin)(X), np.cos(X)[:, :, None] * EYE)


def test_errors_may_be_caught_inside_f():
    def f(x):
        try:
            scale = float(x[0, 0])
        except mj.ConversionError:
            scale = 2.0
        return scale * x

    close(mj.jacobian(f)(X), np.broadcast_to(2.0 * EYE, (B, N, N)))


def test_errors_of_the_users_own_pass_through_unchanged():
    class Mine(Exception):
        pass

    def f(x):
        raise Mine("hello")

    with pytest.raises(Mine, match=r"^hello$"):
        mj.jacobian(f)(X)


def test_numpys_own_shape_errors_stay_what_they_are():
    with pytest.raises(ValueError, match=r"\w") as caught:
        mj.jacobian(lambda x: x @ np.ones((N + 1, 2)))(X)
    assert not isinstance(caught.value, mj.BatchMixingError)
    with pytest.raises(ValueError, match=r"\w"):
        mj.jacobian(lambda x: x + np.ones(N + 1))(X)
    with pytest.raises(ValueError, match=r"\w"):
        mj.jacobian(lambda x: x.reshape(5, 5))(X)
    with pytest.raises(IndexError):
        mj.jacobian(lambda x: x[:, N])(X)


def test_unknown_attributes_are_attribute_errors():
    """So that `hasattr` works, and a typing mistake is called by its name."""
    with pytest.raises(AttributeError):
        mj.jacobian(lambda x: x.no_such_method())(X)


def test_no_warnings_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mj.jacobian(net)(random(2, 5))
        mj.grad(lambda x: net(x).sum())(random(2, 5))
        mj.jacobian(mj.jacobian(net))(random(2, 5))


def test_marks_are_unique():
    """The tests above look for one marked line in each function."""
    for f in (*CONVERSIONS, *MUTATIONS, *UNSUPPORTED.values()):
        assert marked_line(f) > 0


def test_an_error_inside_another_package_names_the_users_line():
    special = pytest.importorskip("scipy.special")
    with pytest.raises(mj.MinijacError, match=r"test_errors\.py:\d+"):
        mj.jacobian(lambda x: special.softmax(x, axis=1))(random(3, 4, seed=7))
