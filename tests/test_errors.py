"""Every error: its class, the built-in it also is, and a message that says what, where and what to do."""

from __future__ import annotations

import builtins
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import MODES, close, marked_line, mentions, names_place, net, places_named, random

import minijac as mj

B, N = 4, 3
X = random(B, N, low=0.5, high=1.5)
EYE = np.eye(N)
modes = pytest.mark.parametrize("mode", MODES)


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


# --- conversions ------------------------------------------------------------------------------------------------------


def calls_float(x):
    return x * float(x[0, 0])  # <- here


def calls_int(x):
    return x * int(x[0, 0])  # <- here


def calls_complex(x):
    return x * complex(x[0, 0]).real  # <- here


def calls_math(x):
    return x * math.sin(x[0, 0])  # <- here


def calls_item(x):
    return x * x[0, 0].item()  # <- here


def calls_tolist(x):
    return x * x.tolist()[0][0]  # <- here


def calls_asarray(x):
    return np.sin(np.asarray(x))  # <- here


def calls_array(x):
    return np.array([x[:, 0], x[:, 1]]).T  # <- here


def calls_array_of_scalars(x):
    return x * np.array([x[0, 0], 1.0, 2.0])  # <- here


def calls_array_of_all(x):
    return np.array(x)  # <- here


def calls_asarray_with_dtype(x):
    return np.asarray(x, dtype=np.float64)  # <- here


def calls_ascontiguousarray_of_list(x):
    return np.asarray([x, x])[0]  # <- here


def writes_into_a_buffer(x):
    buffer = np.zeros((B, N))
    buffer[0] = x[0]  # <- here
    return buffer


def writes_a_number_into_a_buffer(x):
    buffer = np.zeros((B, N))
    buffer[0, 0] = x[0, 0]  # <- here
    return buffer


def fills_a_buffer(x):
    buffer = np.zeros((B, N))
    buffer[...] = x  # <- here
    return buffer


def formats_as_number(x):
    return x * float(f"{float(x[0, 0]):.3f}")  # <- here


def uses_as_range(x):
    return x * len(range(int(x[0, 0])))  # <- here


CONVERSIONS = [
    calls_float,
    calls_int,
    calls_complex,
    calls_math,
    calls_item,
    calls_tolist,
    calls_asarray,
    calls_array,
    calls_array_of_scalars,
    calls_array_of_all,
    calls_asarray_with_dtype,
    calls_ascontiguousarray_of_list,
    writes_into_a_buffer,
    writes_a_number_into_a_buffer,
    fills_a_buffer,
    formats_as_number,
    uses_as_range,
]
conversions = pytest.mark.parametrize("f", CONVERSIONS)

RUNS: dict[str, Callable[[Callable], Any]] = {
    "jacobian": lambda f: mj.jacobian(f)(X),
    "forward": lambda f: mj.jacobian(f, mode="forward")(X),
    "ordinary": lambda f: mj.jacobian(f, batch_axis=None)(X),
    "jvp": lambda f: mj.jvp(f, (X,), (X,)),
    "vjp": lambda f: mj.vjp(f, X),
    "grad": lambda f: mj.grad(lambda x: f(x).sum())(X),
    "nested": lambda f: mj.jacobian(mj.jacobian(f))(X),
}
runs = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())


@runs
@conversions
def test_turning_a_traced_value_into_a_plain_one_raises(f, run):
    with pytest.raises(mj.ConversionError):
        run(f)


@conversions
def test_conversion_errors_name_the_line_and_the_way_out(f):
    with pytest.raises(mj.ConversionError) as caught:
        mj.jacobian(f)(X)
    names_place(caught.value, f)
    mentions(caught.value, "derivative", "stop_gradient|np.stack|stack")


def test_conversion_errors_say_what_was_written():
    for f, word in [(calls_float, "float"), (calls_int, "int"), (calls_asarray, "array")]:
        with pytest.raises(mj.ConversionError) as caught:
            mj.jacobian(f)(X)
        mentions(caught.value, word)


def test_stop_gradient_is_the_way_to_the_plain_value():
    seen = []

    def f(x):
        plain = mj.stop_gradient(x)
        seen.extend([float(plain[0, 0]), math.sin(mj.stop_gradient(x[0, 0])), np.asarray(plain)])
        return x * seen[0]

    close(mj.jacobian(f)(X), np.broadcast_to(X[0, 0] * EYE, (B, N, N)))
    assert type(seen[0]) is float
    assert seen[0] == X[0, 0]
    assert seen[1] == math.sin(X[0, 0])
    close(seen[2], X, atol=0)


def test_what_does_not_drop_a_derivative_is_allowed():
    """Shapes, comparisons and what comes of them are plain."""

    def f(x):
        index = int(np.argmax(mj.stop_gradient(x)[0]))
        positive = np.asarray(x > 0)
        assert positive.dtype == bool
        assert isinstance(repr(x), str)
        assert f"{x}"
        return np.where(positive, x, 0.0) * float(x.shape[0]) + index * 0.0

    close(mj.jacobian(f)(X), np.broadcast_to(B * EYE, (B, N, N)))


# --- mutation ---------------------------------------------------------------------------------------------------------


def sets_an_item(x):
    x[0] = 1.0  # <- here
    return x


def sets_everything(x):
    x[...] = 0.0  # <- here
    return x


def sets_a_column(x):
    y = np.sin(x)
    y[:, 0] = 0.0  # <- here
    return y


def sets_from_itself(x):
    y = x * 2.0
    y[:, 0] = y[:, 1]  # <- here
    return y


def adds_to_an_item(x):
    y = x * 1.0
    y[:, 0] += 1.0  # <- here
    return y


def sets_by_mask(x):
    y = x * 1.0
    y[x > 0] = 0.0  # <- here
    return y


def writes_out(x):
    np.add(x, 1.0, out=x)  # <- here
    return x


def writes_out_of_plain(x):
    np.add(X, 1.0, out=x)  # <- here
    return x


def fills(x):
    x.fill(0.0)  # <- here
    return x


def sorts_in_place(x):
    x.sort()  # <- here
    return x


def copies_to(x):
    np.copyto(x, 0.0)  # <- here
    return x


MUTATIONS = [
    sets_an_item,
    sets_everything,
    sets_a_column,
    sets_from_itself,
    adds_to_an_item,
    sets_by_mask,
    writes_out,
    writes_out_of_plain,
    fills,
    sorts_in_place,
    copies_to,
]
mutations = pytest.mark.parametrize("f", MUTATIONS)


@runs
@mutations
def test_writing_to_a_traced_value_raises_and_changes_nothing(f, run):
    before = X.copy()
    with pytest.raises(mj.MutationError):
        run(f)
    assert np.array_equal(X, before)


@mutations
def test_mutation_errors_name_the_line_and_the_way_out(f):
    with pytest.raises(mj.MutationError) as caught:
        mj.jacobian(f)(X)
    names_place(caught.value, f)
    mentions(caught.value, r"np\.where|np\.concatenate|np\.stack|np\.sort|np\.full_like|instead")


def _plus(x, y):
    x += y
    return x


def _minus(x, y):
    x -= y
    return x


def _times(x, y):
    x *= y
    return x


def _over(x, y):
    x /= y
    return x


def _power(x, y):
    x **= y
    return x


REBINDINGS: dict[str, tuple[Callable, Callable]] = {
    "+=": (_plus, lambda x, y: x + y),
    "-=": (_minus, lambda x, y: x - y),
    "*=": (_times, lambda x, y: x * y),
    "/=": (_over, lambda x, y: x / y),
    "**=": (_power, lambda x, y: x**y),
}


@pytest.mark.parametrize("pair", REBINDINGS.values(), ids=REBINDINGS.keys())
@pytest.mark.parametrize("value", [3.0, X[::-1].copy()], ids=["number", "array"])
def test_augmented_assignment_gives_a_name_a_new_value_or_raises(pair, value):
    """`x += 1` is x = x + 1 for the name, or an error; the caller's array and other names keep their value."""
    augmented, plain = pair
    mine = X.copy()
    kept = []

    def f(x):
        y = x
        try:
            result = augmented(y, value)
        finally:
            kept.append(np.array_equal(mj.stop_gradient(x), X))
        return result

    try:
        J = mj.jacobian(f)(mine)
    except mj.MutationError:
        J = None
    assert kept == [True]
    assert np.array_equal(mine, X)
    if J is not None:
        close(J, mj.jacobian(lambda x: plain(x, value))(X))


@pytest.mark.parametrize("augmented", [_plus, _minus, _times])
def test_a_plain_accumulator_is_right_or_raises(augmented):
    """total = np.zeros(...); total += traced: either a new value under the old name, or an error."""
    plain = {_plus: lambda a, b: a + b, _minus: lambda a, b: a - b, _times: lambda a, b: a * b}[augmented]
    start = np.full((B, N), 2.0)
    try:
        J = mj.jacobian(lambda x: augmented(start, np.sin(x)))(X)
    except (mj.ConversionError, mj.MutationError):
        J = None
    assert np.array_equal(start, np.full((B, N), 2.0))
    if J is not None:
        close(J, mj.jacobian(lambda x: plain(start, np.sin(x)))(X))


def writes_a_traced_result_into_a_plain_out(x):
    buffer = np.zeros((B, N))
    np.sin(x, out=buffer)  # <- here
    return buffer


def copies_a_traced_value_into_a_plain_array(x):
    buffer = np.zeros((B, N))
    np.copyto(buffer, x)  # <- here
    return buffer


def reduces_into_a_plain_out(x):
    buffer = np.zeros(B)
    np.sum(x, axis=1, out=buffer)  # <- here
    return buffer


@runs
@pytest.mark.parametrize(
    "f",
    [
        writes_a_traced_result_into_a_plain_out,
        copies_a_traced_value_into_a_plain_array,
        reduces_into_a_plain_out,
    ],
)
def test_a_plain_out_array_would_drop_the_derivative(f, run):
    with pytest.raises((mj.ConversionError, mj.MutationError)) as caught:
        run(f)
    names_place(caught.value, f)


def test_the_callers_array_cannot_be_written_through_the_value_returned():
    mine = X.copy()
    y, _ = mj.value_and_jacobian(lambda x: x)(mine)
    y += 1.0
    assert np.array_equal(mine, X)


# --- unsupported operations -------------------------------------------------------------------------------------------


def calls_rfft(x):
    return np.fft.rfft(x)  # <- here


def calls_apply_along_axis(x):
    return x * np.apply_along_axis(np.sum, 1, x)[0]  # <- here


def calls_eig(x):
    return x * np.linalg.eig(x[:3, :3])[0].real  # <- here


def calls_eigvals(x):
    return np.linalg.eigvals(x[:3, :3]).real  # <- here


def calls_roots(x):
    return x * np.roots(x[0])[0]  # <- here


def calls_struve(x):
    return pytest.importorskip("scipy.special").struve(1.0, x)  # <- here


def calls_airy(x):
    return pytest.importorskip("scipy.special").airy(x)[0]  # <- here


UNSUPPORTED = {
    "rfft": calls_rfft,
    "apply_along_axis": calls_apply_along_axis,
    "eig": calls_eig,
    "eigvals": calls_eigvals,
    "roots": calls_roots,
    "struve": calls_struve,
    "airy": calls_airy,
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


# --- traces -----------------------------------------------------------------------------------------------------------


def leaked(run=lambda f: mj.jacobian(f)(X)):
    kept = []

    def f(x):
        kept.append(np.sin(x))
        return x * 2.0

    run(f)
    return kept[0]


LEAK_USES: dict[str, Callable[[Any], Any]] = {
    "addition": lambda v: v + 1.0,
    "addition from the left": lambda v: 1.0 + v,
    "ufunc": lambda v: np.sin(v),
    "method": lambda v: v.sum(-1),
    "function": lambda v: np.concatenate([v, v]),
    "indexing": lambda v: v[0],
    "matmul with a plain array": lambda v: X.T @ v,
    "transpose": lambda v: v.T,
    "as an argument": lambda v: mj.jacobian(np.sin)(v),
    "inside another trace": lambda v: mj.jacobian(lambda x: x + v)(X),
    "inside a gradient": lambda v: mj.grad(lambda x: (x * v).sum())(X),
    "as the output of another trace": lambda v: mj.jacobian(lambda x: v)(X),
}


@pytest.mark.parametrize("use", LEAK_USES.values(), ids=LEAK_USES.keys())
def test_a_traced_value_cannot_be_used_after_its_trace(use):
    value = leaked()
    with pytest.raises(mj.TraceError):
        use(value)


@runs
def test_a_trace_ends_with_every_transformation(run):
    value = leaked(run)
    with pytest.raises(mj.TraceError):
        value + 1.0


def test_trace_errors_say_where_and_what_to_do():
    kept = []

    def f(x):
        kept.append(np.sin(x))  # <- here
        return x

    def g():
        return kept[0] + 1.0  # <- there

    mj.jacobian(f)(X)
    with pytest.raises(mj.TraceError) as caught:
        g()
    names_place(caught.value, g, "# <- there")
    mentions(caught.value, "trace", "aux", "return")


def test_an_inner_value_cannot_be_used_at_the_outer_level():
    kept = []

    def inner(y):
        kept.append(y * 2.0)
        return y**2

    def outer(x):
        mj.jacobian(inner)(x)
        return x * kept[0]

    with pytest.raises(mj.TraceError):
        mj.jacobian(outer)(X)


def test_printing_a_value_of_an_ended_trace_does_not_fail():
    value = leaked()
    assert isinstance(repr(value), str)
    assert isinstance(str(value), str)


def branches(x):
    if x.sum() > 0:  # <- here
        return x
    return -x


def test_if_on_a_traced_value_under_compile_raises():
    close(mj.jacobian(branches, batch_axis=None)(X[0]), EYE)
    with pytest.raises(mj.TraceError) as caught:
        mj.compile(mj.grad(lambda x: branches(x).sum()))(X)
    names_place(caught.value, branches)
    mentions(caught.value, r"where")


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


def test_complex_is_said_not_to_be_supported():
    with pytest.raises(mj.InputError) as caught:
        mj.jacobian(np.sin)(X.astype(complex))
    mentions(caught.value, "complex", "not supported")


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
    "complex": (lambda x: np.ones((B, N)) * 1j, "complex", "not supported"),
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
    for f in (calls_float, sets_an_item, calls_rfft, lambda x: x - x.mean(0)):
        with pytest.raises(mj.MinijacError) as caught:
            mj.jacobian(f)(X)
        assert "minijac/" not in str(caught.value).replace("\\", "/").replace(__file__, "")


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
