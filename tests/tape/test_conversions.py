"""A traced value cannot be made a plain one, written to, or used after its trace."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import close, mentions, names_place, random
from misuse import CONVERSIONS, MUTATIONS, calls_asarray, calls_float, calls_int, runs

import minijac as mj

B, N = 4, 3
X = random(B, N, low=0.5, high=1.5)
EYE = np.eye(N)

# --- conversions ------------------------------------------------------------------------------------------------------


conversions = pytest.mark.parametrize("f", CONVERSIONS)


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


def test_pickling_a_traced_value_raises():
    with pytest.raises(mj.ConversionError, match="pickling"):
        mj.jacobian(lambda x: pickle.loads(pickle.dumps(x)) * 2.0)(random(3, 4, seed=7))
