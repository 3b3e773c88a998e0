"""Wrong calls of the public interface, as a new user makes them: each is told what was expected and what to write."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import minijac as mj

X = np.random.default_rng(0).normal(size=(4, 3))
W = np.ones((3, 2))
f, s = np.sin, lambda x: (x**2).sum()
J = mj.jacobian(f, structured=True)(X)
mapped = lambda *axes: mj.vmap(lambda x, y: x + y, in_axes=axes)


def of_package(name: str, **attributes: Any) -> Any:
    """An object whose class another package defines."""
    kind = type("Array", (), attributes)
    kind.__module__ = f"{name}.core"
    return kind()


@dataclass
class Pair:
    a: Any
    b: Any


class Frame:
    """What pandas' operators do: they leave those to the other operand that say so."""

    def __mul__(self, other: Any) -> Any:
        return NotImplemented if other.__pandas_priority__ > 4000 else [self] * len(other)


Frame.__module__ = "pandas.core.frame"


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no arguments": (lambda: mj.jacobian(f)(), r"within the 0 positional.*go to what a transformation returns"),
    "a default": (lambda: mj.jacobian(lambda x, w=W: x @ w, 1)(X), "The default of w is not diff.*pass w in the call"),
    "a keyword alone": (lambda: mj.grad(lambda x, *, w: x @ w, 1)(X, w=W), r"lambda x, w: f\(x, w=w\)"),
    "an argument that is missing": (lambda: mj.grad(lambda x, w: x @ w, 1)(X), "Pass w by position, or by the name"),
    "one argument fewer": (lambda: mj.grad(s, 1)(X), "is passed by position, or by the name"),
    "none to differentiate by": (lambda: mj.grad(s)(None), "argument 0: expected arrays.*got None. Pass an array"),
    "a word for a flag": (lambda: mj.jacobian(f, structured="yes"), "structured: expected True or False, got 'yes'"),  # type: ignore[call-overload]
    "no pair for aux": (lambda: mj.jacobian(f, has_aux=True)(X), r"return \(y, aux\), got an array. Return a pair"),
    "another tree of axes": (
        lambda: mj.jacobian(lambda p: p["a"], batch_axis=({"b": 0},))({"a": X}),
        r"batch_axis: expected an int, None, or a tree like argument 0, \{'a': \*\}, got \{'b': 0\}",
    ),
    "options of linearize": (lambda: mj.linearize(f, X, argnums=0), "'argnums': expected one of batch_axis, mode"),  # type: ignore[call-overload]
    "axes outside of vmap's": (lambda: mj.vmap(f, 5)(X), r"samples on axis 5.*say in_axes=\(..., None"),
    "too many axes for vmap": (lambda: mapped(0, 0, 0)(X, X), "in_axes: expected one entry for each of the 2"),
    "a word for axes": (lambda: mj.vmap(f, "a")(X), "in_axes: expected an int, None, or a tuple"),
    "another tree of vmap's axes": (
        lambda: mj.vmap(lambda p: p["a"], ({"b": 0},))({"a": X}),
        r"in_axes: expected an int, None, or a tree like argument 0, \{'a': \*\}",
    ),
    "samples that differ under vmap": (lambda: mapped(0, 0)(X, X[:2]), r"say so: in_axes=\(0, None\)"),
    "a list under vmap": (lambda: mj.vmap(f)([1.0, 2.0]), r"got list.*pass numpy.array\(x\)\. \(at"),
    "an array for axes": (lambda: mj.vmap(f, X), r"in_axes: .*got an array.*minijac.vmap\(f\)\(x\)"),
    "objects under vmap": (lambda: mj.vmap(f)(X.astype(object)), "argument of vmap: .*got dtype object"),
    "no argument of vmap": (lambda: mj.vmap(f)(), "got no argument by position"),
    "shared arguments alone": (lambda: mapped(None, None)(X, X), "got in_axes of None for all of them"),
    "another tree of tangents": (lambda: mj.jvp(f, (X,), (X, X)), r"tree of the primals, \(\*,\), got \(\*, \*\)\."),
    "a tuple of one cotangent": (lambda: mj.vjp(f, X)[1]((X,)), r"tree of the output, \*, got \(\*,\)\."),
    "a frame for a tangent": (lambda: mj.jvp(f, (X,), (of_package("pandas"),)), r"got pandas.Array. Pass x.to_numpy"),
    "a frame inside": (lambda: mj.jacobian(lambda x: x * of_package("pandas"))(X), r"got pandas.Array. Pass x.to_n"),
    "a frame compiled": (lambda: mj.compile(f)(of_package("pandas")), r"got pandas.Array. Pass x.to_numpy\(\)"),
    "Dask compiled": (
        lambda: mj.compile(mj.jacobian(f))(of_package("dask")),
        "got dask.Array. Leave the transf.*worker",
    ),
    "a tensor compiled": (lambda: mj.compile(f)(SimpleNamespace(__dlpack__=0)), r"Pass numpy.from_dlpack\(x\)"),
    "a set compiled": (lambda: mj.compile(f)(frozenset()), "got frozenset. Capture it in the function instead"),
    "a matrix on the right": (lambda: J @ X.view(np.matrix), r"J @ v: .*got a numpy.matrix.*np.asarray\(x\)"),
    "a masked array on the right": (lambda: J @ np.ma.masked_array(X), "J @ v: .*got a masked array. Pass its data"),
    "a frame on the right": (lambda: J @ of_package("pandas"), r"J @ v: .*got pandas.Array. Pass x.to_numpy\(\)"),
    "a sparse matrix on the right": (lambda: J @ scipy.sparse.eye(3), r"J @ v: .*got scipy.*. Pass x.toarray\(\)"),
    "a list on the right": (lambda: J @ X.tolist(), r"J @ v: .*got list. .*pass numpy.array\(x\)"),
    "a number on the right": (lambda: J @ 1.0, r"J @ v: expected an array of shape \(4, 3\), got float\. \(at"),
    "a matrix to solve for": (lambda: J.solve(X.view(np.matrix)), r"J.solve\(rhs\): .*got a numpy.matrix"),
    "a masked array to solve for": (lambda: J.solve(np.ma.masked_array(X)), r"J.solve\(rhs\): .*got a masked array"),
    "a matrix added": (lambda: J + X.view(np.matrix), r"J \+ K: .*got a numpy.matrix"),
    "a sparse matrix added": (lambda: J + scipy.sparse.eye(3), r"J \+ K: .*Pass x.toarray\(\)"),
    "an array on the left": (lambda: X @ J, r"w @ J: .*got numpy.ndarray. Write J.T @ w"),
    "a quotient of two": (lambda: J / J, r"J / K: .*got a Jacobian. For the inverse, J.solve\(rhs\)"),
    "axes of a picture": (lambda: J.spy(2), r"J.spy\(ax\): .*got int. A sample is J\[i\].spy\(\)"),
    "an order that is none": (lambda: mj.testing.check_derivatives(f, X, order="a"), "expected an int of at least 1"),  # type: ignore[arg-type]
    "no torch function": (lambda: mj.testing.compare_with_torch(f, X), "got numpy.ndarray for the second"),  # type: ignore[arg-type]
    "an option misspelt": (
        lambda: mj.jacobian(f, mod="auto"),
        "argument 'mod': .*batch_axis, mode",
    ),  # type: ignore[call-overload]
    "an option of others": (lambda: mj.grad(s, mode="forward"), "'mode': expected one of f, argnums, has_aux"),  # type: ignore[call-arg]
    "an option of partials": (lambda: mj.partials(f, [()], bath_axis=0), "'bath_axis': .*on_mixing"),  # type: ignore[call-arg]
    "an option of compile": (lambda: mj.compile(f, static_argname="a"), "'static_argname': .*static_argnames, maxsize"),  # type: ignore[call-overload]
    "an option of scan": (lambda: mj.scan(lambda c, x: (c, x), X, X, lenght=1), "'lenght': .*length, checkpoint"),  # type: ignore[call-arg]
    "an option of root": (lambda: mj.root(lambda x: x, X, max_step=1), "'max_step': .*max_steps"),  # type: ignore[call-arg]
    "arguments of compile": (
        lambda: mj.compile(f, X),  # type: ignore[call-overload]
        "compile: expected at most 1 argument.*go to what compile returns",
    ),
    "a value to compile": (
        lambda: mj.compile(f(X)),
        r"compile\(f\)\(x\), not minijac.compile\(f\(x\)\)",
    ),
    "a value to vmap": (lambda: mj.vmap(f(X)), r"minijac.vmap\(f\)\(x\), not minijac.vmap\(f\(x\)\)"),
    "a value to jvp": (
        lambda: mj.jvp(f(X), (X,), (X,)),
        r"jvp\(f, \(x,\), \(v,\)\), not minijac.jvp",
    ),
    "a value to vjp": (lambda: mj.vjp(f(X), X), r"minijac.vjp\(f, x\), not minijac.vjp\(f\(x\)\)"),
    "a value to linearize": (lambda: mj.linearize(f(X), X), r"minijac.linearize\(f, x\), not"),
    "a value to explain": (lambda: mj.explain(f(X)), r"got numpy.ndarray.*minijac.explain\(f, x\), not"),
    "a value to trace": (lambda: mj.trace(f(X)), r"got numpy.ndarray.*minijac.trace\(f, x\), not"),
    "no argument of vjp": (lambda: mj.vjp(f), r"vjp: expected the arguments.*minijac.vjp\(f, x\), got none"),
    "no argument of explain": (lambda: mj.explain(f), r"minijac.explain\(f, x\), got none"),
    "no argument of trace": (lambda: mj.trace(f), r"minijac.trace\(f, x\), got none"),
    "no tuple of primals": (lambda: mj.jvp(f, X, X), r"expected primals as a tuple.*got numpy.ndarray. Write \(x,\)"),
    "an array for multi-indices": (lambda: mj.partials(f, X), r"such as \[\(\), \(0,\).*go to what partials returns"),
    "no scalar for hvp": (lambda: mj.hvp(f, (X,), (X,)), "hvp: expected a function that returns one scalar"),
    "a frame before": (lambda: mj.jacobian(lambda x: Frame() * x)(X), r"got pandas.Frame. Pass x.to_numpy"),
    "a carry that is no array": (lambda: mj.scan(lambda c, x: (c, x), Pair(X, X), X), "scan: carry: .*Make the class"),
    "a result of vmap": (lambda: mj.vmap(lambda x: Pair(x, x))(X), "vmap: a result: .*Pair. Make the class a tree"),
    "a dataclass compiled": (lambda: mj.compile(lambda p: p.a)(Pair(X, X)), "as arguments, got .*Pair. Make the class"),
    "a dataclass returned": (lambda: mj.compile(lambda x: Pair(x, x))(X), "compile: .*Pair. Make the class a tree"),
    "a dataclass in checkpoint": (lambda: mj.jacobian(mj.checkpoint(lambda x: Pair(x, x)))(X), "Pair.*Make the class"),
    "a package's object returned": (
        lambda: mj.jacobian(lambda x: of_package("xarray"))(X),
        "output: .*got xarray.Array .*Return the arrays in it, or the whole as aux",
    ),
    "an axis of a layer": (lambda: mj.nn.layer_norm(X, axis=9), "axis at .*expected axes within the 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_told_what_to_write(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(mj.InputError, match=f"(?s){message}") as caught:
        call()
    assert str(caught.value).count(__file__) == 1


@pytest.mark.parametrize("index", [1.5, "a", {1}])
def test_an_index_that_is_none_is_refused_as_numpy_refuses_it(index: Any) -> None:
    with pytest.raises(IndexError, match=r"expected integers, slices, None, \.\.\. or arrays, got"):
        mj.jacobian(lambda x: x[:, index])(X)
    with pytest.raises(IndexError):
        X[:, index]


def test_what_acts_as_a_whole_number_is_an_index() -> None:
    class Two:
        def __index__(self) -> int:
            return 2

    np.testing.assert_array_equal(mj.jacobian(lambda x: x[:, Two()])(X), mj.jacobian(lambda x: x[:, 2])(X))  # type: ignore[index]


@pytest.mark.parametrize(
    "name, instead", [("jit", "minijac.compile"), ("jacfwd", 'mode="forward"'), ("jacrev", 'mode="reverse"')]
)
def test_names_of_other_packages_are_told_what_they_are_here(name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute {name!r}: write .*{instead}"):
        getattr(mj, name)


def test_a_name_misspelt_is_suggested() -> None:
    with pytest.raises(AttributeError) as caught:
        mj.jacobain  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("jacobain", mj)  # of which Python makes "Did you mean"


@pytest.mark.parametrize("name", ["vmap", "root", "fixed_point"])
def test_a_return_is_missing_here_too(name: str) -> None:
    def forgotten(x: Any) -> None:
        np.tanh(x)

    with pytest.raises(mj.InputError, match=r"forgotten: expected arrays.*got None. Is a return missing"):
        mj.vmap(forgotten)(X) if name == "vmap" else getattr(mj, name)(forgotten, X)


def test_a_function_of_tensors_is_for_minijac_torch() -> None:
    torch = pytest.importorskip("torch")
    for g in torch.tanh, torch.nn.Linear(3, 2).double(), lambda x: torch.cat([x, x], 1):
        with pytest.raises(
            mj.ConversionError, match=r"torch's .* at .*test_wrong_calls.*minijac\.torch\.jacobian\(f\)\(x\)"
        ):
            mj.jacobian(g)(X)


def test_the_line_of_a_call_through_pythons_own_modules_is_the_users() -> None:
    from concurrent.futures import ThreadPoolExecutor

    assert "test_wrong_calls" in str(caught_in(lambda: next(map(functools.partial(mj.jacobian, f), [X]))))
    with ThreadPoolExecutor(1) as pool:
        assert "test_wrong_calls" in str(caught_in(lambda: pool.submit(lambda: mj.jacobian(f, X)).result()))
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: None)
        call = contextlib.contextmanager(lambda: (yield mj.jacobian(f, X)))
        assert "test_wrong_calls" in str(caught_in(lambda: stack.enter_context(call())))


def caught_in(call: Callable[[], Any]) -> mj.InputError:
    with pytest.raises(mj.InputError) as caught:
        call()
    return caught.value


def test_torchs_function_is_one_of_tensors() -> None:
    pytest.importorskip("torch")
    with pytest.raises(mj.InputError, match=r"torch_f to return tensors, got numpy\.ndarray\. Write it"):
        mj.testing.compare_with_torch(lambda x: x * 2, lambda x: x.detach().numpy(), X)


def test_a_jacobian_is_walked_through_sample_by_sample() -> None:
    np.testing.assert_array_equal(np.stack([sample.todense() for sample in J]), J.todense())


def test_shapes_that_do_not_fit_under_vmap_are_those_of_one_sample() -> None:
    with pytest.raises(
        ValueError, match=r"matmul at .*test_wrong_calls.py:\d+: one sample's .*\(3,\) and \(2, 3\) do not"
    ):
        mj.vmap(lambda x: x @ W.T)(X)
