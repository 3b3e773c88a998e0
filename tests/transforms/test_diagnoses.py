"""Diagnoses: what is not an array, or not a function, is named, and what to write in its place."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import optree
import pytest
import scipy.sparse

import minijac as mj

X = np.random.default_rng(0).normal(size=(3, 5))
f = np.tanh


@dataclass
class Pair:
    a: Any
    b: Any


def of_package(name: str) -> Any:
    """An object whose class another package defines."""
    kind = type("Frame", (), {})
    kind.__module__ = f"{name}.core.frame"
    return kind()


@pytest.mark.parametrize(
    "x, message",
    [
        ([1.0, 2.0], r"got list\. A list is a tree of its items, not an array: pass numpy\.array\(x\)"),
        ([[1.0], [2.0]], r"got list\. A list is a tree"),
        (None, r"got NoneType\. Pass an array; a default of None"),
        (2.0, r"got float\. Pass numpy\.asarray\(x\), with an axis for the samples"),
        ("a", r"got str\. Pass the arrays in it"),
        (of_package("pandas"), r"got pandas\.Frame\. Pass x\.to_numpy\(\)"),
        (of_package("polars"), r"got polars\.Frame\. Pass x\.to_numpy\(\)"),
        (
            of_package("xarray"),
            r"got xarray\.Frame\. Pass x\.values, or put the transformed function into xarray",
        ),
        (of_package("jax"), r"got jax\.Frame\. Pass numpy\.asarray\(x\)"),
        (of_package("torch"), r"got torch\.Frame\. Pass numpy\.from_dlpack\(x\.detach\(\)\), or use minijac\.torch"),
        (
            Pair(X, X),
            r"got .*Pair\. Make the class a tree of its fields: @optree\.dataclasses\.dataclass\(namespace=",
        ),
    ],
)
def test_an_argument_that_is_no_array_is_named_with_what_to_pass(x: Any, message: str) -> None:
    with pytest.raises(mj.InputError, match=rf"argument 0: expected an array with samples on axis 0, {message}"):
        mj.jacobian(f)(x)


def test_a_dataclass_made_a_tree_as_the_message_says_works() -> None:
    @optree.dataclasses.dataclass(namespace="minijac")
    class Tree:
        a: Any
        b: Any

    J = mj.jacobian(lambda p: p.a * p.b)(Tree(X, 2 * X))
    np.testing.assert_allclose(J.a[0], np.diag(2 * X[0]))
    with pytest.raises(mj.InputError, match="Make the class a tree"):
        mj.jacobian(lambda x: Pair(x, x))(X)


TRANSFORMATIONS = ["jacobian", "value_and_jacobian", "grad", "hessian", "hessian_diagonal", "laplacian", "divergence"]


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_the_arguments_go_to_what_a_transformation_returns(name: str) -> None:
    transformation = getattr(mj, name)
    with pytest.raises(mj.InputError, match=r"got an array\..*jacobian\(f\)\(x\), not minijac\.jacobian\(f, x\)"):
        transformation(f, X)
    with pytest.raises(mj.InputError, match=r"expected a function, got numpy\.ndarray.*not minijac\.jacobian\(f\("):
        transformation(f(X))


@pytest.mark.parametrize("name", ["jacobian", "hessian", "laplacian", "divergence", "hessian_diagonal"])
def test_a_function_that_returns_nothing_may_have_lost_its_return(name: str) -> None:
    def forgotten(x: Any) -> None:
        np.tanh(x)

    with pytest.raises(mj.InputError, match=r"forgotten: expected arrays.*got None. Is a return missing"):
        getattr(mj, name)(forgotten)(X)
    with pytest.raises(mj.InputError, match="Is a return missing"):
        mj.grad(forgotten)(X)


@pytest.mark.parametrize("name", ["hessian", "value_and_hessian", "laplacian", "divergence"])
def test_an_unknown_option_is_named_with_those_that_there_are(name: str) -> None:
    with pytest.raises(mj.InputError, match=r"unexpected keyword argument 'mod': expected one of .*mode"):
        getattr(mj, name)(f, mod="auto")


@pytest.mark.parametrize("wrong", [np.ones(3), "reversed", None, scipy.sparse.eye(3), {1}])
def test_an_option_of_any_type_is_refused_with_those_that_there_are(wrong: Any) -> None:
    for option, first in ({"mode": wrong}, "auto"), ({"on_mixing": wrong}, "raise"):
        with pytest.raises(mj.InputError, match=f"expected one of '?.*{first}"):
            mj.jacobian(f, **option)


@pytest.mark.parametrize("wrong", [1.0, "0", (1.0,), ("0",), (np.zeros(2, int),)])
def test_samples_axes_that_are_no_integers_are_refused(wrong: Any) -> None:
    with pytest.raises(mj.InputError, match="in_axes: expected an int"):
        mj.vmap(np.sin, in_axes=wrong)(X)
    with pytest.raises(mj.InputError, match="batch_axis: expected an int"):
        mj.jacobian(f, batch_axis=wrong)(X)


def test_mixing_is_told_in_short_lines() -> None:
    with pytest.raises(mj.BatchMixingError) as caught:
        mj.jacobian(lambda x: x - x.mean(0))(X)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("samples mix in mean(axis=(0,), keepdims=False) at ") and __file__ in lines[0]
    assert "mj.jacobian(lambda x: x - x.mean(0))(X)" in lines[1]
    assert lines[2:] == [
        "  Operands of shape (3, 5) give (5,): the axis of the 3 samples does not pass whole.",
        "  Expected every sample's output to depend on its own input alone. Is it meant? Then choose",
        '    on_mixing="diagonal"   the exact d y_i / d x_i, the coupling included',
        '    on_mixing="full"       all of it, (B, *out, B, *in)',
        "    mj.stop_gradient(...)  around an operand that counts as constant",
        "  If not: are the samples on another axis? Say batch_axis=... A single sample? Pass x[None].",
    ]
    with pytest.raises(mj.BatchMixingError, match=r"mj\.grad\(f\)             the gradient of one number"):
        mj.jacobian(lambda x: (x**2).sum())(X)


@pytest.mark.parametrize("module, package, call", [
    ("tqdm.auto", "tqdm", lambda: mj.jacobian(lambda x: np.tanh(x), chunk_size=1, mode="forward", progress=True)(X)),
    ("scipy.sparse", "scipy", lambda: mj.jacobian(f, structured=True)(X).tosparse(0)),
])  # fmt: skip
def test_a_missing_extra_says_what_to_install(
    module: str, package: str, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install minijac\[\w+\], or in a checkout: pip install {package}$"):
        call()
    assert isinstance(sys.modules["minijac"], ModuleType)
