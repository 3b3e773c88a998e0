"""What transformations take: dtypes, ranks, batch sizes, options, seeds; what does not fit is refused with the line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import MODES, close, mentions, net, places_named, random
from misuse import calls_float, calls_sort_complex, sets_an_item

import minijac as mj

B, N = 4, 3
X = random(B, N, low=0.5, high=1.5)
EYE = np.eye(N)
modes = pytest.mark.parametrize("mode", MODES)

# --- inputs: dtype, rank, batch sizes ---------------------------------------------------------------------------------


WRONG_DTYPES = {
    "int64": (np.arange(12).reshape(B, N), "astype|cast"),
    "int8": (np.ones((B, N), np.int8), "astype|cast"),
    "bool": (np.ones((B, N), bool), "astype|cast"),
    "complex128": (np.ones((B, N), complex), "complex"),
    "complex64": (np.ones((B, N), np.complex64), "complex"),
    "float16": (np.ones((B, N), np.float16), "astype|cast"),
    "longdouble": (np.ones((B, N), np.longdouble), "astype|cast"),
    "object": (np.array([[1.0] * N] * B, object), "object"),
    "str": (np.array([["a"] * N] * B), "str|<U"),
    "Python int": (3, "int"),
    "Python bool": (True, "bool|int"),
    "Python complex": (1j, "complex"),
}
TAKES_X: dict[str, Callable[[Any], Any]] = {
    "jacobian": lambda x: mj.jacobian(np.sin, batch_axis=0 if np.ndim(x) else None)(x),
    "ordinary": lambda x: mj.jacobian(np.sin, batch_axis=None)(x),
    "structured": lambda x: mj.jacobian(np.sin, batch_axis=0 if np.ndim(x) else None, structured=True)(x),
    "vjp": lambda x: mj.vjp(np.sin, x),
    "jvp": lambda x: mj.jvp(np.sin, (x,), (x,)),
    "grad": lambda x: mj.grad(lambda t: np.sin(t).sum())(x),
    "linearize": lambda x: mj.linearize(np.sin, x, batch_axis=0 if np.ndim(x) else None),
    "tree": lambda x: mj.grad(lambda t: np.sin(t["a"]).sum())({"a": x, "b": X}),
}


@pytest.mark.parametrize("call", TAKES_X.values(), ids=TAKES_X.keys())
@pytest.mark.parametrize("case", WRONG_DTYPES.values(), ids=WRONG_DTYPES.keys())
def test_only_float32_and_float64_are_differentiated(case, call):
    x, hint = case
    with pytest.raises(mj.InputError) as caught:
        call(x)
    mentions(caught.value, hint)


def test_complex_arguments_are_to_be_passed_in_parts():
    with pytest.raises(mj.InputError) as caught:
        mj.jacobian(np.sin)(X.astype(complex))
    mentions(caught.value, "complex", "Pass real and imaginary parts")


def test_wrong_dtypes_are_named_with_what_was_expected():
    with pytest.raises(mj.InputError) as caught:
        mj.jacobian(np.sin)(np.arange(3))
    mentions(caught.value, "float32", "float64", "int64")


@pytest.mark.parametrize("x", ["text", object(), np.sin])
def test_what_is_no_array_cannot_be_differentiated(x):
    with pytest.raises(mj.InputError):
        mj.grad(lambda t: 1.0)(x)


WRONG_OUTPUTS = {
    "integer": (lambda x: np.argmax(x, axis=-1), "cast|astype", "aux"),
    "boolean": (lambda x: x > 0, "cast|astype", "aux"),
    "integer in a tree": (lambda x: {"y": x, "label": np.argsort(x, axis=-1)}, "cast|astype", "aux"),
    "text": (lambda x: "text", "str", ""),
}


@modes
@pytest.mark.parametrize("case", WRONG_OUTPUTS.values(), ids=WRONG_OUTPUTS.keys())
def test_outputs_are_float32_or_float64(case, mode):
    f, *hints = case
    with pytest.raises(mj.InputError) as caught:
        mj.jacobian(f, mode=mode)(X)
    mentions(caught.value, *hints)


@pytest.mark.parametrize("case", WRONG_OUTPUTS.values(), ids=WRONG_OUTPUTS.keys())
def test_outputs_of_products_are_float32_or_float64(case):
    f, *_ = case
    for call in (lambda: mj.vjp(f, X), lambda: mj.jvp(f, (X,), (X,)), lambda: mj.grad(f)(X)):
        with pytest.raises(mj.InputError):
            call()


def test_integer_outputs_may_be_aux():
    J, label = mj.jacobian(lambda x: (x**2, np.argmax(x, axis=-1)), has_aux=True)(X)
    close(J, 2 * X[:, :, None] * EYE)
    assert np.array_equal(label, X.argmax(-1))


BATCHES = {
    "differ": (lambda: mj.jacobian(lambda a, b: a, (0, 1))(np.ones((3, 2)), np.ones((4, 2))), ["3", "4"]),
    "differ, one not differentiated": (
        lambda: mj.jacobian(lambda a, b: a)(np.ones((3, 2)), np.ones((4, 2))),
        ["3", "4"],
    ),
    "differ in a tree": (
        lambda: mj.jacobian(lambda t: t["a"])({"a": np.ones((3, 2)), "b": np.ones((4, 2))}),
        ["3", "4"],
    ),
    "differ at other axes": (
        lambda: mj.jacobian(lambda a, b: a, batch_axis=(1, 0))(np.ones((2, 3)), np.ones((4, 2))),
        ["3", "4"],
    ),
    "1 is not broadcast": (lambda: mj.jacobian(lambda a, b: a)(np.ones((3, 2)), np.ones((1, 2))), ["3", "1"]),
}


@pytest.mark.parametrize("case", BATCHES.values(), ids=BATCHES.keys())
def test_batch_sizes_must_agree(case):
    call, numbers = case
    with pytest.raises(mj.InputError) as caught:
        call()
    mentions(caught.value, "batch", *(rf"\b{n}\b" for n in numbers))


RANKS = {
    "a scalar has no axis 0": lambda: mj.jacobian(np.sin)(np.array(1.0)),
    "a Python number has no axis 0": lambda: mj.jacobian(np.sin)(1.0),
    "a number among arrays has no axis 0": lambda: mj.jacobian(lambda t: t["x"] * t["k"])({"x": X, "k": 1.0}),
    "a list of numbers is no array": lambda: mj.jacobian(lambda t: t[0])([1.0, 2.0]),
    "a vector has no axis 1": lambda: mj.jacobian(np.sin, batch_axis=1)(np.ones(3)),
    "a matrix has no axis 2": lambda: mj.jacobian(np.sin, batch_axis=2)(X),
    "a matrix has no axis -3": lambda: mj.jacobian(np.sin, batch_axis=-3)(X),
    "a leaf has no such axis": lambda: mj.jacobian(lambda t: t["a"], batch_axis=1)({"a": X, "b": np.ones(4)}),
}


@pytest.mark.parametrize("call", RANKS.values(), ids=RANKS.keys())
def test_the_batch_axis_must_exist(call):
    with pytest.raises(mj.InputError) as caught:
        call()
    mentions(caught.value, "axis")


# --- inputs: options --------------------------------------------------------------------------------------------------


TWO = lambda a, b: a * b
BAD_OPTIONS = {
    "argnums too large": ({"argnums": 2}, "argnums"),
    "argnums too small": ({"argnums": -3}, "argnums"),
    "argnums tuple too large": ({"argnums": (0, 2)}, "argnums"),
    "argnums float": ({"argnums": 0.5}, "argnums"),
    "argnums str": ({"argnums": "a"}, "argnums"),
    "argnums None": ({"argnums": None}, "argnums"),
    "argnums tuple of str": ({"argnums": ("a",)}, "argnums"),
    "batch_axis str": ({"batch_axis": "0"}, "batch_axis"),
    "batch_axis float": ({"batch_axis": 0.0}, "batch_axis"),
    "batch_axis too short": ({"batch_axis": (0,)}, "batch_axis"),
    "batch_axis too long": ({"batch_axis": (0, 0, 0)}, "batch_axis"),
    "batch_axis tuple of str": ({"batch_axis": (0, "0")}, "batch_axis"),
    "mode unknown": ({"mode": "backward"}, "mode"),
    "mode upper case": ({"mode": "FORWARD"}, "mode"),
    "mode None": ({"mode": None}, "mode"),
    "on_mixing unknown": ({"on_mixing": "ignore"}, "on_mixing"),
    "on_mixing None": ({"on_mixing": None}, "on_mixing"),
    "chunk_size zero": ({"chunk_size": 0}, "chunk_size"),
    "chunk_size negative": ({"chunk_size": -1}, "chunk_size"),
    "chunk_size float": ({"chunk_size": 1.5}, "chunk_size"),
    "chunk_size str": ({"chunk_size": "auto"}, "chunk_size"),
    "max_bytes zero": ({"max_bytes": 0}, "max_bytes"),
    "max_bytes negative": ({"max_bytes": -1}, "max_bytes"),
    "max_bytes float": ({"max_bytes": 0.5}, "max_bytes"),
    "max_bytes str": ({"max_bytes": "1 GB"}, "max_bytes"),
}
bad_options = pytest.mark.parametrize("case", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())


@pytest.mark.parametrize("transform", ["jacobian", "value_and_jacobian"])
@bad_options
def test_bad_options_raise_and_name_the_option_and_what_came(case, transform):
    options, name = case
    with pytest.raises(mj.InputError) as caught:
        getattr(mj, transform)(TWO, **options)(X, X)
    mentions(caught.value, name)
    (value,) = options.values()
    culprits = value if isinstance(value, tuple) else (value,)
    assert any(repr(v) in str(caught.value) for v in (value, *culprits))


@pytest.mark.parametrize("argnums", [2, -3, (0, 2), "a", None])
def test_gradients_check_argnums(argnums):
    for transform in (mj.grad, mj.value_and_grad):
        with pytest.raises(mj.InputError) as caught:
            transform(lambda a, b: (a * b).sum(), argnums)(X, X)
        mentions(caught.value, "argnums")


def test_the_choices_are_listed():
    for options, choices in [
        ({"mode": "backward"}, ("forward", "reverse", "mixed", "auto")),
        ({"on_mixing": "ignore"}, ("raise", "diagonal", "full")),
    ]:
        with pytest.raises(mj.InputError) as caught:
            mj.jacobian(np.sin, **options)(X)
        mentions(caught.value, *choices)


def test_no_argument_at_all():
    with pytest.raises(mj.InputError):
        mj.jacobian(lambda: X)()


def test_unknown_options_are_pythons_own_type_error():
    with pytest.raises(TypeError):
        mj.jacobian(np.sin, vectorize=True)


def test_positive_integers_of_numpy_are_integers():
    close(
        mj.jacobian(np.sin, argnums=np.int64(0), batch_axis=np.int64(0), chunk_size=np.int64(2))(X),
        mj.jacobian(np.sin)(X),
    )


# --- inputs: tangents, cotangents, scalars ----------------------------------------------------------------------------


SEEDS = {
    "cotangent of another shape": (lambda: mj.vjp(net, random(2, 5))[1](np.ones((2, 2))), [r"\(2, 3\)", r"\(2, 2\)"]),
    "cotangent that would broadcast": (lambda: mj.vjp(net, random(2, 5))[1](np.ones(3)), [r"\(2, 3\)", r"\(3,\)"]),
    "cotangent that is a number": (lambda: mj.vjp(net, random(2, 5))[1](1.0), [r"\(2, 3\)"]),
    "cotangent of another tree": (lambda: mj.vjp(lambda x: {"y": x}, X)[1](X), ["tree|structure|dict"]),
    "cotangent of complex numbers": (lambda: mj.vjp(np.sin, X)[1](np.ones((B, N), complex)), ["complex"]),
    "tangent of another shape": (lambda: mj.jvp(np.sin, (X,), (X[:2],)), [r"\(4, 3\)", r"\(2, 3\)"]),
    "tangent that would broadcast": (lambda: mj.jvp(np.sin, (X,), (np.ones(3),)), [r"\(4, 3\)", r"\(3,\)"]),
    "too few tangents": (lambda: mj.jvp(TWO, (X, X), (X,)), ["tangent"]),
    "too many tangents": (lambda: mj.jvp(np.sin, (X,), (X, X)), ["tangent"]),
    "primals that are no tuple": (lambda: mj.jvp(np.sin, X, X), ["tuple"]),
    "tangent of another tree": (lambda: mj.jvp(lambda t: t["a"], ({"a": X},), (X,)), ["tree|structure|dict"]),
    "operand of a structured Jacobian": (
        lambda: mj.jacobian(net, structured=True)(random(2, 5)) @ np.ones((2, 4)),
        [r"\(2, 5\)", r"\(2, 4\)"],
    ),
    "operand of a transposed Jacobian": (
        lambda: mj.jacobian(net, structured=True)(random(2, 5)).T @ np.ones((2, 5)),
        [r"\(2, 3\)", r"\(2, 5\)"],
    ),
    "operand without its batch": (
        lambda: mj.jacobian(net, structured=True)(random(2, 5)) @ np.ones(5),
        [r"\(2, 5\)", r"\(5,\)"],
    ),
}


@pytest.mark.parametrize("case", SEEDS.values(), ids=SEEDS.keys())
def test_seeds_must_fit(case):
    call, patterns = case
    with pytest.raises(mj.InputError) as caught:
        call()
    mentions(caught.value, *patterns)


@pytest.mark.parametrize("transform", [mj.grad, mj.value_and_grad])
@pytest.mark.parametrize("f", [lambda x: x, lambda x: x.sum(0), lambda x: (x.sum(), x.sum()), lambda x: {"a": x}])
def test_gradients_need_a_scalar(f, transform):
    with pytest.raises(mj.InputError) as caught:
        transform(f)(X)
    mentions(caught.value, "scalar")


def test_gradients_of_a_non_scalar_say_its_shape_and_the_way_out():
    with pytest.raises(mj.InputError) as caught:
        mj.grad(np.sin)(X)
    mentions(caught.value, r"\(4, 3\)", "jacobian")


@pytest.mark.parametrize("f", [lambda x: x, lambda x: (x,), lambda x: (x, x, x)])
def test_aux_needs_a_pair(f):
    with pytest.raises(mj.InputError) as caught:
        mj.jacobian(f, has_aux=True)(X)
    mentions(caught.value, "aux")


# --- where, for every input error -------------------------------------------------------------------------------------


WRONG_CALLS: dict[str, Callable[[], Any]] = {
    "dtype": lambda: mj.jacobian(np.sin)(np.arange(3)),  # <- dtype
    "rank": lambda: mj.jacobian(np.sin)(np.array(1.0)),  # <- rank
    "batches": lambda: mj.jacobian(TWO)(X, X[:2]),  # <- batches
    "argnums": lambda: mj.jacobian(TWO, 5)(X, X),  # <- argnums
    "batch_axis": lambda: mj.jacobian(TWO, batch_axis="0")(X, X),  # <- batch_axis
    "mode": lambda: mj.jacobian(TWO, mode="x")(X, X),  # <- mode
    "on_mixing": lambda: mj.jacobian(TWO, on_mixing="x")(X, X),  # <- on_mixing
    "chunk_size": lambda: mj.jacobian(TWO, chunk_size=0)(X, X),  # <- chunk_size
    "max_bytes": lambda: mj.jacobian(TWO, max_bytes=0)(X, X),  # <- max_bytes
    "cotangent": lambda: mj.vjp(np.sin, X)[1](X[0]),  # <- cotangent
    "tangent": lambda: mj.jvp(np.sin, (X,), (X[0],)),  # <- tangent
    "scalar": lambda: mj.grad(np.sin)(X),  # <- scalar
    "output": lambda: mj.jacobian(lambda x: x > 0)(X),  # <- output
    "lost": lambda: mj.jacobian(lambda x: np.ones(2))(X),  # <- lost
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_input_errors_name_the_users_line(name):
    with pytest.raises(mj.InputError) as caught:
        WRONG_CALLS[name]()
    with open(__file__, encoding="utf-8") as lines:
        (line,) = [k for k, text in enumerate(lines, 1) if text.rstrip().endswith(f"# <- {name}")]
    assert line in places_named(str(caught.value), __file__)


def test_messages_do_not_show_the_inside_of_the_library():
    """No line of minijac itself is given as the place of the user's mistake."""
    for f in (calls_float, sets_an_item, calls_sort_complex, lambda x: x - x.mean(0)):
        with pytest.raises(mj.MinijacError) as caught:
            mj.jacobian(f)(X)
        assert "minijac/" not in str(caught.value).replace("\\", "/").replace(__file__, "")
