"""Digits are split and matched without losing or inventing a position."""

from __future__ import annotations

import operator

import pytest
from blocks import axes_of_size, digits, position, values, windows
from hypothesis import assume, given
from hypothesis import strategies as st

from minijac.algebra.labels import (
    Axis,
    Digit,
    Label,
    Misaligned,
    Substitution,
    Vanishes,
    Window,
    axis_of,
    axis_size,
    extent,
    label_of,
    labels_in,
    match,
    split,
    window,
)
from minijac.algebra.matching import meets


def positions(*axes: Axis) -> list[tuple[int, ...]]:
    """The positions along each axis, for all values of all their labels."""
    at = values(list(labels_in(axes)))
    found = [position(axis, at) for axis in axes]
    shape = [label.size for label in at]
    return sorted(tuple(int(p[i]) if hasattr(p, "shape") else p for p in found) for i in _indices(shape))


def _indices(shape: list[int]) -> list[tuple[int, ...]]:
    result: list[tuple[int, ...]] = [()]
    for n in shape:
        result = [(*index, i) for index in result for i in range(n)]
    return result


def after(changes: list[Substitution], axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    for change in changes:
        axes = change.in_axes(axes)
    return axes


# --- match --------------------------------------------------------------------------------------------------


@given(st.data())
def test_matched_digits_name_the_intersection_of_their_positions(data):
    size = data.draw(st.integers(2, 24))
    a, b = data.draw(digits(size, [])), data.draw(digits(size, []))
    common = [p for (p,) in positions((a,)) for (q,) in positions((b,)) if p == q]
    try:
        changes = match(a, b)
    except Vanishes:
        assert not common
        return
    assert positions(*after(changes, ((a,), (b,)))) == sorted((p, p) for p in common)


@given(st.data())
def test_one_label_matched_with_itself_keeps_the_values_at_which_both_places_agree(data):
    size = data.draw(st.integers(2, 24))
    label = Label(data.draw(st.integers(2, size)))
    a, b = data.draw(windows(size, label)), data.draw(windows(size, label))
    same = [(p, q) for p, q in positions((a,), (b,)) if p == q]
    try:
        changes = match(a, b)
    except Vanishes:
        assert not same
        return
    assert positions(*after(changes, ((a,), (b,)))) == same


@given(st.data())
def test_matching_does_not_depend_on_the_order_of_the_two(data):
    size = data.draw(st.integers(2, 24))
    a, b = data.draw(digits(size, [])), data.draw(digits(size, []))
    found = []
    for pair in ((a, b), (b, a)):
        try:
            found.append(positions(*after(match(*pair), ((a,), (b,)))))
        except Vanishes:
            found.append([])
    assert found[0] == found[1]


@given(st.integers(1, 24), st.data())
def test_an_axis_reaches_from_end_to_end_of_its_extent_and_no_further(size, data):
    pool: list[Label] = []  # a label may stand at several digits
    axis = data.draw(axes_of_size(size, pool, listed=False))
    named = [p for (p,) in positions(axis)]
    first, last = extent(axis)
    assert 0 <= first <= min(named) and max(named) <= last < size
    if len(labels_in((axis,))) == sum(label_of(digit) is not None for digit in axis):
        assert (first, last) == (min(named), max(named))
    listed = data.draw(axes_of_size(size, pool))
    assert extent(listed)[0] <= min(positions(listed))[0] <= max(positions(listed))[0] <= extent(listed)[1]


@given(st.integers(1, 12), st.integers(1, 6), st.data())
def test_axes_meet_wherever_they_name_a_common_position(m, n, data):
    pools: list[list[Label]] = [[], []]
    a, b = (tuple(data.draw(axes_of_size(size, pool, listed=False)) for size in (m, n)) for pool in pools)
    assert meets(a, b) or not {*positions(*a)} & {*positions(*b)}
    assert not meets(a, b) or all(extent(x)[0] <= extent(y)[1] for x, y in (*zip(a, b), *zip(b, a)))  # noqa: B905


def test_matched_labels_of_equal_size_become_one():
    a, b = Label(5), Label(5)
    ((x,), (y,)) = after(match(a, b), ((a,), (b,)))
    assert x is y


def test_opposite_steps_meet_in_one_position_at_most():
    label = Label(5)
    ((x,), (y,)) = after(match(label, Window(label, 5, 4, -1)), ((label,), (Window(label, 5, 4, -1),)))
    assert x == y == Window(None, 5, 2, 1)
    even = Label(4)
    with pytest.raises(Vanishes):
        match(even, Window(even, 4, 3, -1))


# --- split --------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_split_digit_names_the_same_positions(data):
    inner, outer = data.draw(st.integers(2, 5)), data.draw(st.integers(2, 5))
    digit = data.draw(digits(inner * outer, []))
    try:
        high, low, change = split(digit, inner)
    except Misaligned:
        assume(False)
    assert axis_size(high) == outer and axis_size(low) == inner
    if change is not None:
        (expected,) = change.in_axes(((digit,),))
    else:
        expected = (digit,)
    assert positions((*high, *low), expected) == [(p, p) for (p,) in positions((digit,))]


@given(st.data())
def test_a_split_label_keeps_its_place_in_every_digit(data):
    """After a substitution, values of the new labels name what the value ``high * low.size + low`` did."""
    low, high = Label(data.draw(st.integers(2, 4))), Label(data.draw(st.integers(2, 4)))
    label = Label(low.size * high.size)
    size = data.draw(st.sampled_from([label.size, 2 * label.size, label.size + 1]))
    digit: Digit = data.draw(windows(size, label)) if data.draw(st.booleans()) else label
    try:
        (axis,) = Substitution(label, high, low, 0, 1).in_axes(((digit,),))
    except Misaligned:
        assume(False)
    assert axis_size(axis) == digit.size
    assert positions(axis, (high, low)) == positions((digit,), (label,))


@pytest.mark.parametrize("inner", [2, 3, 4, 6])
def test_labels_and_fixed_positions_always_split(inner):
    for digit in (Label(12), *(Window(None, 12, k, 1) for k in range(12))):
        split(digit, inner)


@pytest.mark.parametrize(
    "digit",
    [Window(Label(4), 12, 4, 1), Window(Label(8), 12, 4, 1), Window(Label(3), 12, 1, 4), Window(Label(3), 12, 9, -4),
     Window(Label(3), 12, 5, 1), Window(Label(4), 12, 7, -1), Window(Label(2), 12, 8, 2)],
    ids=["one row", "rows", "column", "column upwards", "part of a row", "row backwards", "every second of a row"],
)  # fmt: skip
def test_a_window_splits_where_its_positions_form_a_product(digit):
    high, low, _ = split(digit, 4)
    assert axis_size(high) == 3 and axis_size(low) == 4


def test_digits_without_a_common_refinement_are_misaligned():
    with pytest.raises(Misaligned):
        split(Label(3), 2)
    with pytest.raises(Misaligned):
        split(Window(Label(4), 12, 2, 1), 4)


# --- substitution -------------------------------------------------------------------------------------------


@given(st.data())
def test_a_restricted_label_names_the_values_of_the_restriction(data):
    label = Label(data.draw(st.integers(2, 8)))
    new = Label(data.draw(st.integers(2, label.size)))
    restriction = data.draw(windows(label.size, new))
    size = data.draw(st.integers(label.size, 20))
    digit: Digit = data.draw(windows(size, label)) if data.draw(st.booleans()) else label
    change = Substitution(label, new, None, restriction.offset, restriction.step)
    (axis,) = change.in_axes(((digit,),))
    assert axis_size(axis) == digit.size
    expected = [(p, v) for p, v in positions((digit,), (label,)) if (v,) in positions((restriction,))]
    assert positions(axis, (restriction,)) == expected


@given(st.data())
def test_a_fixed_label_names_one_position(data):
    label = Label(data.draw(st.integers(2, 8)))
    value = data.draw(st.integers(0, label.size - 1))
    digit = data.draw(windows(data.draw(st.integers(label.size, 20)), label))
    (axis,) = Substitution(label, None, None, value, 1).in_axes(((digit,),))
    assert positions(axis) == [(digit.offset + digit.step * value,)]


def test_a_substitution_leaves_other_labels_alone():
    a, b = Label(4), Label(4)
    axes = ((b,), (Window(b, 6, 1, 1), Window(None, 3, 2, 1)))
    found = Substitution(a, c := Label(4), None, 0, 1).in_axes((*axes, (b, a)))
    assert all(map(operator.is_, found[:2], axes))
    assert found[2] == (b, c)


# --- axes ---------------------------------------------------------------------------------------------------


def test_an_axis_of_length_one_has_no_digits():
    assert axis_of(1) == () and axis_size(()) == 1
    assert window(None, 1, 0, 1) == ()


def test_a_window_over_everything_is_the_label():
    label = Label(4)
    assert window(label, 4, 0, 1) == (label,)
    assert label_of(Window(label, 4, 3, -1)) is label
