"""Indexing, taking, sorting and functional updates on traced values: values, both modes, second order, samples."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import close, random
from numpy_harness import ENDS, B, Case, cases, check, check_mixes, one, whole

import minijac as mj
from minijac.numpy import add_at, put

MASK = np.array([True, False, True, True])
ROWS = np.arange(B)
EACH = np.array([2, 0, 3])
EACH_TWO = np.array([[2, 0], [1, 1], [3, 0]])
own = lambda x: np.arange(len(x))

BASIC = {
    "an entry": one(lambda x: x[:, 2] * x[:, -1], 4, second=True),
    "slices": one(lambda x: x[:, 1:3] * x[:, -3:-1] + x[:, ::2], 4),
    "backwards": one(lambda x: x[:, ::-1] * x + x[:, 3:0:-1].sum(1, keepdims=True), 4),
    "new axes and the ellipsis": one(lambda x: x[..., None, :2] * x[:, None, ..., 1:3] + x[None][0, :, :1, None], 4),
    "inner axes": one(lambda x: x[:, 1, 2:] + x[:, :, 1] + x[..., -1], 2, 4),
    "nothing": one(lambda x: x[()] * x[...], 4),
    "an empty slice": one(lambda x: np.concatenate([x[:, 2:2], x], 1), 4),
    "NumPy integers": one(lambda x: x[:, np.int64(1)] + x[:, np.array(2)], 4),
}
ADVANCED = {
    "integers": one(lambda x: x[:, [0, 3, 3, -1]] ** 2, 4, second=True),
    "integers in two axes": one(lambda x: x[:, [[0, 1], [2, 3]]] * x[:, np.array([[3], [3]])], 4),
    "integers, last axis": one(lambda x: x[..., np.array([1, 1, 0])] * 2.0, 2, 4),
    "a range": one(lambda x: x[:, np.arange(3, 0, -1)] + x[:, list(range(1, 4))], 4),
    "no integers": one(lambda x: x[:, np.array([], int)], 4),
    "a mask": one(lambda x: x[:, MASK] * x[:, ~MASK], 4, second=True),
    "a mask as a list": one(lambda x: x[:, [True, False, True, False]], 4),
    "a mask of two axes": one(lambda x: x[:, np.array([[True, False], [True, True]])] ** 2, 2, 2),
    "a mask and an integer array": one(lambda x: x[:, np.array([True, False, True]), [0, 1]], 3, 2),
    "a mask that holds nothing": one(lambda x: x[:, np.zeros(4, bool)], 4),
    "two arrays": one(lambda x: x[:, [0, 1, 1], [2, 0, 0]], 2, 3),
    "two arrays, broadcast": one(lambda x: x[:, [[0], [1]], [2, 0]] + x[np.ix_(own(x), [0, 1], [2, 0])], 2, 3),
    "two arrays apart": one(lambda x: np.swapaxes(x[:, [0, 1], :, [1, 0]], 0, 1), 2, 2, 3),
    "an array and an integer": one(lambda x: x[:, 1, [2, 0]] * x[:, [0, 0], 1], 2, 3),
    "an array and an integer apart": one(lambda x: np.swapaxes(x[:, 1, :, [2, 0]], 0, 1), 2, 2, 3),
    "an array, slices and new axes": one(lambda x: x[:, None, [0, 1, 1], 1:, None] * 2.0, 2, 3),
    "an array and a step": one(lambda x: x[:, ::-1, [2, 0]], 2, 3),
    "an array of the whole": whole(lambda x: x[[1, 0, 1]] * x[[0, 0, 0], [1, 2, 0]], 2, 3),
    "a mask of the whole": whole(lambda x: x[np.array([[True, False, True], [False, True, True]])] ** 2, 2, 3),
    "a mask that follows the values": one(lambda x: x[:, np.abs(x).sum(0) > 0], 4),
    "each sample's own": one(lambda x: x[own(x), EACH[: len(x)]] ** 2, 4, second=True, loop=False),
    "each sample's own, several": one(lambda x: x[own(x)[:, None], EACH_TWO[: len(x)]], 4, loop=False),
    "each sample's own, inner axes": one(lambda x: x[own(x), :, EACH[: len(x)]], 2, 4, loop=False),
    "each sample's own, by argmax": one(lambda x: x[own(x), x.argmax(1)] * 2.0, 4),
    "samples on another axis": one(lambda x: x.T[EACH[: len(x)], own(x)], 4, loop=False),
}
TAKEN = {
    "take": one(lambda x: np.take(x, [0, 2, 2], axis=1) * x.take([1, -1, 0], 1), 4),
    "take one": one(lambda x: np.take(x, 2, axis=-1), 2, 4),
    "take in two axes": one(lambda x: np.take(x, [[0, 1], [1, 1]], axis=1), 2, 3),
    "take, flat": whole(lambda x: np.take(x, [5, 0, 0]) + x.take(2), 2, 3),
    "take, wrapped and clipped": one(
        lambda x: np.take(x, [4, -5], 1, mode="wrap") * x.take([9, -9], 1, mode="clip"), 4
    ),
    "take_along_axis": one(lambda x: np.take_along_axis(x, np.argsort(x, 1), 1) ** 2, 4, second=True),
    "take_along_axis, inner": one(lambda x: np.take_along_axis(x, np.argmin(x, 1, keepdims=True), axis=1), 2, 3),
    "take_along_axis, broadcast": one(lambda x: np.take_along_axis(x, np.array([[[2, 0]]]), axis=-1), 2, 3),
    "take_along_axis, flat": whole(lambda x: np.take_along_axis(x, np.array([4, 1]), axis=None), 2, 3),
    "compress": one(lambda x: np.compress([True, False, True], x, axis=1) + x.compress([False, True, True], 1), 4),
    "extract": whole(lambda x: np.extract(np.eye(2, 3) > 0, x), 2, 3),
    "sort": one(lambda x: np.sort(x) ** 2, 5, second=True),
    "sort, inner axis": one(lambda x: np.sort(x, axis=1, kind="stable") + np.sort(x, -1), 2, 3),
    "sort, flat": whole(lambda x: np.sort(x, axis=None), 2, 3),
    "partition": one(lambda x: np.partition(x, 2)[:, 2] + np.partition(x, (1, 3), axis=1)[:, 1], 5),
    "bincount": whole(lambda x: np.bincount([0, 2, 2, 0], weights=x, minlength=5) ** 2, 4),
    "positions": one(
        lambda x: x * (np.argsort(x) + x.argmax(1, keepdims=True) + np.argmin(x, 1)[:, None])
        + np.searchsorted([0.0, 1.0], x) + np.digitize(x, [0.0]) + np.count_nonzero(x > 0, 1, keepdims=True), 4
    ),
}  # fmt: skip
UPDATED = {
    "put a number": one(lambda x: put(x, (slice(None), 1), 5.0) ** 2, 4),
    "put a slice": Case(lambda x, y: put(x, (slice(None), slice(1, 3)), y * x[:, :2]), ((4,), (2,)), second=True),
    "put, broadcast": Case(lambda x, y: put(x, (slice(None), slice(None, None, 2)), y), ((4,), (1,))),
    "put by position": Case(lambda x, y: put(x, (slice(None), [3, 0]), y), ((4,), (2,))),
    "put twice at one place": Case(lambda x, y: put(x, (slice(None), [3, 3, 0]), y), ((4,), (3,))),
    "put by mask": Case(lambda x, y: put(x, (slice(None), MASK), y), ((4,), (3,))),
    "put into each sample's own": Case(
        lambda x, y: put(x, (own(x), EACH[: len(x)]), y[:, 0]), ((4,), (1,)), loop=False
    ),
    "put into a plain array": one(lambda x: put(np.zeros((len(x), 5), x.dtype), (slice(None), slice(1, 4)), x), 3),
    "put into a column": one(lambda x: put(x, (..., -1), x[..., 0] * x[..., 1]), 2, 3),
    "put backwards": one(lambda x: put(x, (slice(None), slice(None, None, -1)), x * x), 3),
    "add_at": Case(lambda x, y: add_at(x, (slice(None), [3, 3, 0]), y) ** 2, ((4,), (3,)), second=True),
    "add_at a slice": Case(lambda x, y: add_at(x, (slice(None), slice(1, 3)), y), ((4,), (2,))),
    "add_at, several axes": Case(lambda x, y: add_at(x, (slice(None), [0, 1, 0], [2, 0, 2]), y), ((2, 3), (3,))),
    "add_at each sample's own": Case(
        lambda x, y: add_at(x, (own(x)[:, None], EACH_TWO[: len(x)]), y), ((4,), (2,)), loop=False
    ),
    "add_at with an integer and a slice": Case(
        lambda x, y: add_at(x, (slice(None), 1, slice(1, None)), y), ((2, 3), (2,))
    ),
    "add_at of the whole": whole(lambda x: add_at(x, [0, 0, 1], x[[1, 1, 0]]), 2, 3),
}


@cases(BASIC)
def test_basic_indexing(case):
    check(case)


@cases(ADVANCED)
def test_indexing_by_arrays_and_masks(case):
    check(case)


@cases(TAKEN)
def test_taking_and_sorting(case):
    check(case)


@cases(UPDATED)
def test_functional_updates(case):
    check(case)


@pytest.mark.parametrize("index", [
    1, slice(1, 3), (0, 1), (slice(None), [2, 0]), [1, 1, 0], ([0, 1], [1, 1]), np.eye(3, 4) > 0, (..., None, 2),
    (slice(None), MASK), ([[0], [2]], slice(None, None, 2)),
], ids=repr)  # fmt: skip
def test_updates_do_to_plain_arrays_what_assignment_does(index):
    x = np.arange(12.0).reshape(3, 4)
    values = np.random.default_rng(0).uniform(size=x[index].shape)
    expected, added = x.copy(), x.copy()
    expected[index] = values
    np.add.at(added, index, values)
    close(put(x, index, values), expected)
    close(add_at(x, index, values), added)
    close(put(x, index, 7.0)[index], np.full(x[index].shape, 7.0))
    assert np.array_equal(x, np.arange(12.0).reshape(3, 4))
    y = mj.jvp(lambda x, v: (put(x, index, v), add_at(x, index, v)), (x, values), (x, values))[0]
    close(y[0], expected)
    close(y[1], added)


def test_ties_in_sort_keep_their_order():
    x = np.array([[2.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    for mode in ENDS:
        J = mj.jacobian(np.sort, mode=mode)(x)
        close(J, np.stack([np.eye(3)[[2, 0, 1]], np.eye(3)]))


def test_duplicates_accumulate():
    x = np.arange(8.0).reshape(2, 4)
    f = lambda x: x[:, [1, 1, 3, 1]].sum(1)
    for mode in ENDS:
        close(mj.jacobian(f, mode=mode)(x), np.array([[0.0, 3, 0, 1]] * 2))


BY_VALUE = {
    "sort": np.sort,
    "partition": lambda x: np.partition(x, 2)[:, 2],
    "argmax": lambda x: x[own(x), x.argmax(1)],
    "take_along_axis": lambda x: np.take_along_axis(x, np.argsort(-x, 1), 1) * [1.0, 2.0, 3.0, 4.0],
    "choose": lambda x: np.choose((x > 0).astype(int), [x, x * x]),
    "median": lambda x: np.median(x, axis=1),
    "nansum": lambda x: np.nansum(np.sqrt(x), axis=1),
    "searchsorted": lambda x: x * np.searchsorted(np.array([-1.0, 0.0, 1.0]), x),
}


@pytest.mark.parametrize("f", BY_VALUE.values(), ids=BY_VALUE.keys())
def test_positions_that_depend_on_values_are_found_anew_by_a_compiled_function(f):
    first, second = np.random.default_rng(0).uniform(-2, 2, (2, B, 4))
    with np.errstate(invalid="ignore"):
        for g in (f, mj.jacobian(f)):
            compiled = mj.compile(g)
            compiled(first)
            close(compiled(second), g(second))


# --- samples --------------------------------------------------------------------------------------------------

MIXES = {
    "one sample": lambda x: x * x[0],
    "a slice of samples": lambda x: x[1:].sum(1),
    "samples in another order": lambda x: x[[1, 2, 0]],
    "a mask of samples": lambda x: x * x[np.array([True, False, False])],
    "a mask of entries": lambda x: x * x[x > 0].sum(),
    "samples by position": lambda x: x[[1, 0, 2], [0, 1, 2]],
    "each sample's neighbour": lambda x: x[(np.arange(B) + 1) % B, [0, 1, 2]],
    "take": lambda x: np.take(x, [2, 1, 0], axis=0),
    "take, flat": lambda x: x * np.take(x, [0, 1, 2, 3]),
    "take_along_axis": lambda x: np.take_along_axis(x, np.argsort(x, 0), 0),
    "sort": lambda x: np.sort(x, axis=0),
    "partition": lambda x: np.partition(x, 1, axis=0),
    "compress": lambda x: x * np.compress([True, False, False], x, axis=0),
    "extract": lambda x: x * np.extract([True], x),
    "put": lambda x: put(x, 0, x[1]),
    "add_at": lambda x: add_at(x, [0, 0, 1], x),
}


@pytest.mark.parametrize("f", MIXES.values(), ids=MIXES.keys())
def test_picking_among_samples_mixes_them(f):
    check_mixes(f, 4)


def test_one_entry_of_each_sample_is_a_block_no_larger_than_the_input():
    """A class picked from each of many scores: nothing of size (n, B, n) is made on the way."""
    n = 400
    x = np.random.default_rng(0).uniform(size=(n, n))
    idx = np.arange(n)[::-1].copy()
    J = mj.jacobian(lambda x: x[np.arange(n), idx], mode="forward", structured=True)(x)
    assert J.nbytes <= 2 * x.nbytes
    close((J @ np.ones_like(x)), np.ones(n))


# --- errors ---------------------------------------------------------------------------------------------------

X = np.arange(6.0).reshape(2, 3)
WRONG = {
    "out of bounds": (lambda x: x[:, 3], IndexError),
    "out of bounds, in an array": (lambda x: x[:, [0, 5]], IndexError),
    "out of bounds, taken": (lambda x: np.take(x, [3], axis=1), IndexError),
    "too many": (lambda x: x[0, 0, 0], IndexError),
    "a mask of another shape": (lambda x: x[:, np.ones(4, bool)], IndexError),
    "floats": (lambda x: x[:, np.array([0.0])], IndexError),
    "a single bool": (lambda x: x[True], mj.UnsupportedOperationError),
    "an axis that is not there": (lambda x: np.take(x, [0], axis=2), mj.InputError),
    "assignment": (lambda x: x.__setitem__(0, 1.0), mj.MutationError),
    "put into integers": (lambda x: put(np.zeros(3, int), 0, x[0, 0]), mj.InputError),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_wrong_indices_raise(wrong):
    f, error = wrong
    with pytest.raises(error):
        mj.jvp(lambda x: (f(x), x * 1.0)[1], (X,), (X,))


PUT_AT = [np.s_[:, 1], np.s_[:, -1, 2:4], np.s_[1:3], np.s_[..., 0], np.s_[:, ::2], np.s_[:, 5:], np.s_[0, 0, 0],
          np.s_[:, ::-1], np.s_[-2:, 1:], np.s_[...]]  # fmt: skip


@pytest.mark.parametrize("wrapped", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("index", PUT_AT, ids=str)
def test_what_is_put_at_slices_stands_between_the_rest(index, wrapped):
    x = random(4, 3, 5, seed=1)
    for dtype in (np.float32, np.float64):
        expected, values = x.astype(dtype), random(*x[index].shape, seed=2, dtype=dtype)
        expected[index] = values
        found = mj.numpy.put(x.astype(dtype), index, values)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == dtype
        assert not np.shares_memory(found, values)
        slopes = np.ones_like(expected)
        slopes[index] = 2.0 * np.cos(x[index])
        for mode in ("forward", "reverse"):
            J = mj.jacobian(lambda x: mj.numpy.put(x, index, 2.0 * np.sin(x[index])), batch_axis=None, mode=mode)
            J = wrapped(J)(x.astype(dtype))
            np.testing.assert_allclose(J.reshape(60, 60), np.diag(slopes.ravel()), rtol=1e-5)


@pytest.mark.parametrize("wrapped", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("chosen", [np.zeros(4, bool), np.array([], int), slice(2, 2)], ids=["mask", "array", "slice"])
def test_no_entries_of_no_sample_mix_nothing(chosen, wrapped):
    f = lambda x: np.sin(x) + x[chosen].sum()
    x = random(4, 3, seed=1)
    for mode in ("forward", "reverse", "mixed", "auto"):
        J = wrapped(mj.jacobian(f, mode=mode))(x)
        np.testing.assert_allclose(J, np.cos(x)[:, :, None] * np.eye(3))
    np.testing.assert_allclose(wrapped(mj.laplacian(lambda x: f(x).sum(1)))(x), -np.sin(x).sum(1))
    np.testing.assert_allclose(wrapped(mj.hessian_diagonal(f))(x), -np.sin(x)[:, :, None] * np.eye(3))


def test_slices_are_bounded_by_arrays_of_one_integer_too():
    x, start = np.arange(12.0).reshape(3, 4), np.array(1)
    f = lambda x: x[:, start : np.array(-1)] ** 2
    close(mj.jacobian(f)(x), mj.jacobian(lambda x: x[:, 1:-1] ** 2)(x))
    compiled = mj.compile(f)
    for first in (1, 2):
        start[()] = first
        close(compiled(x), x[:, first:-1] ** 2)


@pytest.mark.parametrize("function", [np.argmax, np.argmin, np.argsort, np.any, np.all, np.count_nonzero])
@pytest.mark.parametrize("keywords", [{}, {"axis": None}, {"axis": 1}, {"axis": None, "keepdims": True}])
def test_positions_and_counts_are_numpy_s_for_every_axis_and_for_none(function, keywords):
    if function is np.argsort:
        keywords = {key: value for key, value in keywords.items() if key == "axis"}
    x = random(3, 4, 2)
    for array in (x, x[:, 0, 0], np.round(x) * 0, np.array(2.0)):
        if keywords.get("axis") and array.ndim < 2:
            continue
        expected = function(array, **keywords)
        for got in (
            mj.jacobian(lambda x: (x, function(x, **keywords)), has_aux=True, batch_axis=None)(array)[1],
            mj.compile(lambda x: function(x, **keywords))(array),
        ):
            np.testing.assert_array_equal(got, expected, strict=True)


def test_a_partition_of_all_entries_is_numpy_s():
    x = random(3, 4, 2)
    got = mj.jacobian(lambda x: (x, np.argpartition(x, 2, axis=None)), has_aux=True)(x)[1]
    np.testing.assert_array_equal(got, np.argpartition(x, 2, axis=None), strict=True)
