"""Writing in place: traced values are written as NumPy's arrays are, views and aliases with them."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import writing_programs
from helpers import close, names_place, random

import minijac as mj
import minijac.numpy as mnp

B, N = 3, 4
X = random(B, N)
MODES = ("forward", "reverse", "mixed", "auto")


def same(f, g, x=X, **options) -> None:
    """`f`, which writes, is `g`, which does not: value and derivatives, in every way."""
    close(f(x.copy()), g(x), 1e-13)
    truth = mj.jacobian(g, **options)(x)
    for mode in MODES:
        J = mj.value_and_jacobian(f, mode=mode, **options)
        for run in (J, mj.compile(J)):
            y, found = run(x)
            close(y, g(x), 1e-13)
            close(found, truth, 1e-12)
    if not options:
        close(mj.hessian(f)(x), mj.hessian(g)(x), 1e-11)
        close(mj.jacobian(mj.jacobian(f))(x), mj.hessian(g)(x), 1e-11)


def shifted(x):
    y = np.zeros_like(x)
    y[:, 1:] = x[:, :-1]
    return y


def test_a_shift_into_a_buffer_is_one_diagonal():
    _, J = mj.linearize(shifted, X)
    assert "offset -1" in repr(J) and J.nbytes == 0
    close(J.todense(), np.broadcast_to(np.eye(N, k=-1), (B, N, N)))


def columns(x):
    out = np.empty_like(x, shape=(len(x), 3))
    out[:, 0] = x[:, 0] * x[:, 1]
    out[:, 1] = np.sin(x[:, 2])
    out[:, 2] = 2.0
    return out


def recurrence(x):
    y = x.copy()
    for k in range(1, N):
        y[:, k] = 0.5 * y[:, k - 1] ** 2 + x[:, k]
    return y


def rotations(x):
    R = np.zeros_like(x, shape=(len(x), 2, 2))
    R[:, 0, 0] = R[:, 1, 1] = np.cos(x[:, 0])
    R[:, 0, 1] = -np.sin(x[:, 0])
    R[:, 1, 0] = -R[:, 0, 1]
    return R


def through_views(x):
    state = np.concatenate([x, x], 1)
    position, velocity = state[:, :N], state[:, N:]
    for _ in range(3):
        velocity += 0.1 * np.sin(position)
        position += 0.1 * velocity
    return state


def swapped(x):
    y = x * x
    y[:, 0], y[:, 1] = y[:, 1].copy(), y[:, 0].copy()
    return y


def swapped_by_positions(x):
    y = x * x
    y[:, [0, 1]] = y[:, [1, 0]]
    return y


def by_numbers(x):
    y = np.ones_like(x)
    y *= 3.0
    y -= x
    y /= 2.0
    return y


WRITES = {
    "columns": (columns, lambda x: np.stack([x[:, 0] * x[:, 1], np.sin(x[:, 2]), 2.0 + 0.0 * x[:, 0]], 1)),
    "shifted": (shifted, lambda x: np.pad(x[:, :-1], ((0, 0), (1, 0)))),
    "rotations": (
        rotations,
        lambda x: np.stack(
            [np.stack([np.cos(x[:, 0]), -np.sin(x[:, 0])], 1), np.stack([np.sin(x[:, 0]), np.cos(x[:, 0])], 1)], 1
        ),
    ),
    "swapped": (swapped, lambda x: (x * x)[:, [1, 0, 2, 3]]),
    "swapped by positions": (swapped_by_positions, lambda x: (x * x)[:, [1, 0, 2, 3]]),
    "by numbers": (by_numbers, lambda x: (3.0 - x) / 2.0),
}


@pytest.mark.parametrize("pair", WRITES.values(), ids=WRITES.keys())
def test_what_is_written_is_what_could_be_said_without(pair):
    same(*pair)


def _recurred(x):
    parts = [x[:, 0]]
    for k in range(1, N):
        parts.append(0.5 * parts[-1] ** 2 + x[:, k])
    return np.stack(parts, 1)


def _moved(x):
    position, velocity = x, x
    for _ in range(3):
        velocity = velocity + 0.1 * np.sin(position)
        position = position + 0.1 * velocity
    return np.concatenate([position, velocity], 1)


def test_a_loop_may_read_what_it_has_written():
    same(recurrence, _recurred)


def test_writing_to_views_writes_to_what_they_are_views_of():
    same(through_views, _moved)


def put_at(x):
    y = x.copy()
    np.add.at(y, (slice(None), [0, 0, 1]), x[:, :3])
    np.subtract.at(y, (slice(None), [2]), 1.0)
    return y


def by_mask(x):
    y = x.copy()
    y[x > 0] = 0.5
    y[:, np.array([True, False, False, True])] *= 2.0
    return y


def by_mask_of_all(x):
    y = x.copy()
    positive = x > 0
    y[positive] *= 3.0
    y[positive] += np.exp(x)[positive]
    part = y[y > 1]
    part *= np.arange(1.0, part.size + 1)
    y[y > 1] = np.sqrt(part) - x[y > 1]
    y[x[:, 0] > 0] *= np.array([1.0, 2.0, 3.0, 4.0])
    return y


def by_where(x):
    y = np.where(x > 0, 3.0 * x + np.exp(x), x)
    count = np.cumsum(np.ones(x.size)).reshape(x.shape)
    large = y > 1
    count[large] = np.arange(1.0, large.sum() + 1)
    y = np.where(large, np.sqrt(np.where(large, y * count, 1.0)) - x, y)
    return np.where(x[:, :1] > 0, y * np.array([1.0, 2.0, 3.0, 4.0]), y)


def by_range(x):
    y = x[:, :, None] * x[:, None, :]
    y[:, range(4), range(4)] = 1.0
    return y[:, range(1, 3)]


def copied_to(x):
    y = np.zeros_like(x)
    np.copyto(y, x * x)
    np.copyto(y, 1.0, where=x > 0.2)
    return y


def outs(x):
    y = np.empty_like(x)
    np.sin(x, out=y)
    np.multiply(y, x, out=y)
    np.divide(1.0, x, out=y, where=x > 0.3)
    total = np.zeros_like(x, shape=len(x))
    np.sum(y, axis=1, out=total)
    y.cumsum(1, out=y)
    return y + total[:, None]


def diagonal(x):
    M = x[:3, :3] * 1.0
    np.fill_diagonal(M, 2.0)
    return M


def sorted_in_place(x):
    y = x.copy()
    y.sort(1)
    return y


def put_flat(x):
    y = x.copy()
    y.flat[[1, 3]] = 2.0
    np.put(y, [2], x[0, 0])
    y.T[0, 0] = x[1, 1] * 3.0
    return y


FUNCTIONS = {
    "add.at": (
        put_at,
        lambda x: x + x[:, [0, 2, 0, 0]] * [1, 1, 0, 0] + x[:, [1, 0, 0, 0]] * [1, 0, 0, 0] - [0, 0, 1, 0],
    ),
    "mask": (by_mask, lambda x: np.where(x > 0, 0.5, x) * np.array([2.0, 1.0, 1.0, 2.0])),
    "range": (by_range, lambda x: (x[:, :, None] * x[:, None, :] * (1 - np.eye(4)) + np.eye(4))[:, 1:3]),
    "copyto": (copied_to, lambda x: np.where(x > 0.2, 1.0, x * x)),
    "out=": (
        outs,
        lambda x: (y := np.where(x > 0.3, 1.0 / x, np.sin(x) * x)).cumsum(1) + y.sum(1)[:, None],
    ),
    "sort": (sorted_in_place, lambda x: np.sort(x, 1)),
}


def test_what_is_written_by_a_mask_over_samples_keeps_them_apart():
    for x in (X, X[:1], X[:0], np.abs(X), -np.abs(X)):
        truth = mj.jacobian(by_where)(x)
        for mode in MODES:
            close(mj.jacobian(by_mask_of_all, mode=mode)(x), truth, 1e-12)
        close(mj.hessian(by_mask_of_all)(x), mj.hessian(by_where)(x), 1e-10)
        close(by_mask_of_all(x), by_where(x), 1e-12)


def test_what_is_used_several_times_is_computed_once_at_all_entries():
    def f(x):
        y, positive = x.copy(), x > 0
        part = y[positive]
        for _ in range(20):
            part = part * 0.5 + part * part * 0.1 + 0.1 * part
        y[positive] = part
        return y

    begin = time.perf_counter()
    J = mj.jacobian(f)(X)
    assert time.perf_counter() - begin < 5.0
    close(J, np.stack([mj.jacobian(f)(x[None])[0] for x in X]))
    assert np.abs(J).max() > 0


def test_entries_that_another_mask_chose_mix_samples():
    def f(x):
        y = x.copy()
        y[x > 0] = x[x < 0][:1] * np.ones((x > 0).sum())
        return y

    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(f)(X)


@pytest.mark.parametrize(
    "way",
    [lambda y: y.astype(y.dtype, copy=False), lambda y: y.conj(), lambda y: np.nan_to_num(y, copy=False), np.copy,
     lambda y: y.astype(y.dtype), np.conj, np.nan_to_num],
)  # fmt: skip
def test_what_returns_its_argument_where_it_makes_no_copy_is_written_with_it(way):
    def f(x):
        y = x * 2.0
        other = way(y)
        other[:, 0] = 7.0
        y[:, 1] = other[:, 0] * y[:, 2]
        return y, other

    plain = f(X.copy())
    for found, expected in zip(mj.value_and_jacobian(f)(X)[0], plain, strict=True):
        close(found, expected)


@pytest.mark.parametrize("pair", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_functions_that_write_into_their_argument(pair):
    same(*pair)


def test_positions_of_a_whole_array():
    same(diagonal, lambda x: np.where(np.eye(3) > 0, 2.0, x[:3, :3]), batch_axis=None)

    def plain(x):
        flat = [x.ravel()[k] for k in range(x.size)]
        flat[0], flat[1], flat[2], flat[3] = x[1, 1] * 3.0, 0 * x[0, 0] + 2.0, x[0, 0], 0 * x[0, 0] + 2.0
        return np.reshape(np.stack(flat), x.shape)

    same(put_flat, plain, batch_axis=None)


def test_a_view_sees_what_was_written_and_a_copy_does_not():
    def f(x):
        y = x * 2.0
        view, turned, flat, kept, alias = y[:, 1:], y.T, y.reshape(-1), y.copy(), y
        y[:, 1] = 7.0
        return view[:, 0], turned[1], flat.reshape(y.shape)[:, 1], kept[:, 1], alias[:, 1]

    J = mj.jacobian(f)(X)
    two = np.broadcast_to(2.0 * np.eye(N)[1], (B, N))
    for found, expected in zip(J, (0 * two, 0 * two, 0 * two, two, 0 * two), strict=True):
        close(found, expected)
    assert [float(y[0]) for y in f(X)] == [7.0, 7.0, 7.0, 2 * X[0, 1], 7.0]


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, np.copy, lambda x: x.copy(), lambda x: mnp.array(x)])
def test_a_copy_of_an_argument_can_be_written(way):
    def f(x):
        y = way(x)
        y += 1.0
        return y * x

    close(mj.jacobian(f)(X), mj.jacobian(lambda x: (x + 1.0) * x)(X))


@pytest.mark.parametrize("make", [mnp.zeros, mnp.empty, mnp.ones, lambda shape: mnp.full(shape, 2.0)])
def test_arrays_made_from_nothing_inside_a_transformation_can_be_filled(make):
    def f(x):
        y = make((len(x), 2))
        y[:, 0] = x[:, 1]
        y[:, 1] = 3.0 * x[:, 0]
        return y

    same(f, lambda x: np.stack([x[:, 1], 3.0 * x[:, 0]], 1))
    assert type(make((2, 2))) is np.ndarray


def test_lists_of_traced_values_become_one():
    def f(x):
        c, s = np.cos(x[:, 0]), np.sin(x[:, 0])
        R = mnp.array([[c, -s], [s, c]])
        R[0, 1] *= 2.0
        return np.moveaxis(R, -1, 0)

    close(mj.jacobian(f)(X)[:, 0, 1, 0], -2.0 * np.cos(X[:, 0]))


def test_constants_may_be_looked_at():
    def f(x):
        y = np.zeros_like(x)
        assert float(y[0, 0]) == 0.0 and np.asarray(y).shape == x.shape and y.tolist()[0][0] == 0.0
        return x + y

    close(mj.jacobian(f)(X), mj.jacobian(lambda x: x)(X))


def test_a_number_is_rebound():
    def f(x):
        total = 0.0
        for k in range(N):
            total += x[:, k] ** 2
        s = x.sum(1)
        before = s
        s = s + 1.0
        t = total.sum()
        kept = t
        t += 1.0
        return before * total + (t - kept)

    close(mj.jacobian(f, on_mixing="diagonal")(X), mj.jacobian(lambda x: x.sum(1) * (x**2).sum(1))(X))


def read_only(x):
    y = x * 1.0
    np.broadcast_to(y, (2, *y.shape))[0] = 1.0  # <- here
    return y


def of_a_diagonal(x):
    y = x[:, None] * x[..., None]
    np.diagonal(y, axis1=1, axis2=2)[0] = 1.0  # <- here
    return y


@pytest.mark.parametrize("f", [read_only, of_a_diagonal])
def test_views_that_numpy_does_not_write_to_are_not_written(f):
    with pytest.raises(ValueError, match="read-only"):
        f(X)
    with pytest.raises(mj.MutationError, match="read-only") as caught:
        mj.jacobian(f)(X)
    names_place(caught.value, f)


def test_a_diagonal_follows_its_matrix():
    def f(x):
        y = x[:, None] * x[..., None]
        d = np.diagonal(y, axis1=1, axis2=2)
        y *= 2.0
        return d

    close(mj.jacobian(f)(X), mj.jacobian(lambda x: 2.0 * x * x)(X))


def test_a_plain_buffer_says_what_to_write():
    def f(x):
        y = np.zeros((B, 2))
        y[:, 0] = x[:, 0]  # <- here
        return y

    with pytest.raises(mj.ConversionError, match=r"zeros_like\(x, shape=.*adapt") as caught:
        mj.jacobian(f)(X)
    names_place(caught.value, f)


def test_what_an_outer_function_writes_is_not_what_an_inner_one_has_recorded():
    def f(x):
        y = x * x
        value, pull = mj.vjp(lambda z: (z * y).sum(), x)
        y[:] = 0.0
        return pull(np.ones(()))[0] + y

    close(mj.jacobian(f)(X), mj.jacobian(lambda x: x * x)(X))


def test_a_dropped_entry_leaves_no_nan():
    def f(x):
        y = np.log(x)
        y[:, 0] = 1.0
        return y

    x = np.array([[0.0, 2.0]])
    with np.errstate(all="ignore"):
        for mode in MODES:
            close(mj.jacobian(f, mode=mode)(x), np.array([[[0.0, 0.0], [0.0, 0.5]]]))


def test_minus_zero_is_written_as_it_is():
    def f(x):
        y = np.zeros_like(x)
        y[:, 0] = -0.0 * x[:, 0]
        return 1.0 / y

    with np.errstate(divide="ignore"):
        assert mj.value_and_jacobian(f)(np.ones((1, 2)))[0].tolist() == [[-np.inf, np.inf]]


def test_filling_a_buffer_costs_what_its_columns_cost():
    def fill(n):
        def f(x):
            y = np.zeros_like(x, shape=(len(x), n))
            for k in range(n):
                y[:, k] = x[:, 0]
            return y

        x, best = X.copy(), np.inf
        for _ in range(3):
            start = time.perf_counter()
            mj.jvp(f, (x,), (x,))
            best = min(best, time.perf_counter() - start)
        return best

    assert fill(800) < 30 * fill(100)


@pytest.mark.parametrize("part", range(4))
def test_random_programs_that_write(part):
    ends = [writing_programs.check(100_000 * (part + 1) + n) for n in range(40)]
    assert ends.count("right") > 30


OF_PARTS = {
    "all": lambda v: v, "a column": lambda v: v[:, 2], "a row": lambda v: v[1], "steps": lambda v: v[:, ::2],
    "turned": lambda v: v.T, "rows": lambda v: v[1:3], "reversed": lambda v: v[::-1], "narrow": lambda v: v[:, 1:2],
}  # fmt: skip
MAYBE_COPIES = {
    "ravel": lambda v: v.ravel(), "np.ravel": lambda v: np.ravel(v),
    "reshape": lambda v: v.reshape(-1), "flatten": lambda v: v.flatten(), "asarray": lambda v: np.asarray(v),
    "array, no copy": lambda v: np.array(v, copy=None), "array": lambda v: np.array(v),
    "ascontiguousarray": lambda v: np.ascontiguousarray(v), "asfortranarray": lambda v: np.asfortranarray(v),
    "require": lambda v: np.require(v, requirements=["C"]), "astype": lambda v: v.astype(float, copy=False),
    "real_if_close": lambda v: np.real_if_close(v), "all positions": lambda v: v[np.arange(len(v))],
    "a list of all": lambda v: v[list(range(len(v)))], "a mask of all": lambda v: v[np.ones(len(v), bool)],
    "ix_": lambda v: v[np.ix_(range(len(v)))], "take": lambda v: np.take(v, range(len(v)), 0),
    "roll by nothing": lambda v: np.roll(v, 0), "no repeats": lambda v: np.repeat(v, 1, 0),
    "squeeze": lambda v: np.squeeze(v), "concatenate": lambda v: np.concatenate([v]),
    "clip": lambda v: np.clip(v, -9, 9),
}  # fmt: skip


@pytest.mark.parametrize("part", OF_PARTS)
@pytest.mark.parametrize("name", MAYBE_COPIES)
def test_what_is_a_copy_in_numpy_is_one_here_and_what_is_a_view_is_a_view(name, part):
    def f(x, backward):
        whole = x.copy()
        some = OF_PARTS[part](whole)
        other = MAYBE_COPIES[name](some)
        if backward:
            other[...] = 7.0
        else:
            whole[:, 2] = np.sin(whole[:, 1])
            whole[1] = 5.0
        return whole, some, other

    x = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 4))
    for backward in (False, True):
        g = mj.adapt(lambda x, backward=backward: f(x, backward))
        for function in (mj.value_and_jacobian(g, batch_axis=None), mj.compile(lambda x, g=g: (g(x), None))):
            for found, expected in zip(function(x)[0], f(x, backward), strict=True):
                np.testing.assert_array_equal(found, expected)


def turned(x):
    c, s = np.cos(x[:, 0]), np.sin(x[:, 0])
    y = np.zeros_like(x, shape=(len(x), 4, 4))
    y[:, 0, 0], y[:, 0, 1], y[:, 0, 3] = c, -s, 0.3
    y[:, 1, 0], y[:, 1, 1] = s, c
    y[:, 2, 2], y[:, 3, 3] = 1, np.ones(len(x))
    y[:, 3, :2] = np.array([2.0, 5.0])
    return y


def turned_by_rows(x):
    c, s = np.cos(x[:, 0]), np.sin(x[:, 0])
    o = np.ones_like(c)
    rows = (c, -s, 0 * o, 0.3 * o), (s, c, 0 * o, 0 * o), (0 * o, 0 * o, o, 0 * o), (2 * o, 5 * o, 0 * o, o)
    return np.stack([np.stack(row, -1) for row in rows], -2)


def test_numbers_and_plain_arrays_that_are_written_wait_with_the_other_writes():
    same(turned, turned_by_rows)
    operations = [step.op.name for step in mj.compile(turned).program(X).instructions]
    assert operations.count("superpose") == 1 and operations.count("getitem") <= 2  # no remains of what was there
