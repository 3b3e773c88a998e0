"""Random programs that move entries, and random contractions: the Jacobian is that of their columns, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import by_columns, close, random
from hypothesis import assume, given
from hypothesis import strategies as st
from inspection import structured

import minijac as mj

both_ends = pytest.mark.parametrize("mode", ["forward", "reverse"])


# --- random programs that move entries --------------------------------------------------------------------------------


KINDS = [
    "reshape", "transpose", "slice", "pick", "flip", "roll", "pad", "sum", "repeat", "join", "take", "new", "diagonal",
]  # fmt: skip


@st.composite
def moves(draw: Any, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """A step that moves, repeats, drops or adds entries of an array of `shape`."""
    n = len(shape)
    axis = draw(st.integers(0, n - 1))
    kind = draw(st.sampled_from(KINDS))
    if kind == "reshape":
        size = int(np.prod(shape))
        target: list[int] = []
        while size > 1 and len(target) < 3:
            target.append(draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
            size //= target[-1]
        to = (*target, size)
        return lambda x: x.reshape(to)
    if kind == "transpose":
        order = tuple(draw(st.permutations(range(n))))
        return lambda x: x.transpose(order)
    if kind == "slice":
        start, stop = sorted((draw(st.integers(0, shape[axis])), draw(st.integers(0, shape[axis]))))
        assume(start < stop)
        step = draw(st.sampled_from([1, 1, 2]))
        return lambda x: x[(slice(None),) * axis + (slice(start, stop, step),)]
    if kind == "pick":
        assume(n > 1)
        k = draw(st.integers(-shape[axis], shape[axis] - 1))
        return lambda x: x[(slice(None),) * axis + (k,)]
    if kind == "flip":
        return lambda x: np.flip(x, axis)
    if kind == "roll":
        shift = draw(st.integers(-3, 3))
        return lambda x: np.roll(x, shift, axis)
    if kind == "pad":
        widths = [(0, 0)] * n
        widths[axis] = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        return lambda x: np.pad(x, widths)
    if kind == "sum":
        keep = draw(st.booleans())
        assume(n > 1 or keep)
        return lambda x: x.sum(axis, keepdims=keep)
    if kind == "repeat":
        assume(int(np.prod(shape)) < 60)
        return lambda x: np.broadcast_to(x, (2, *shape))
    if kind == "join":
        assume(int(np.prod(shape)) < 60)
        return lambda x: np.concatenate([x, 2.0 * np.flip(x, axis)], axis)
    if kind == "take":
        places = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=4))
        return lambda x: x[(slice(None),) * axis + (np.array(places),)]
    if kind == "new":
        return lambda x: np.expand_dims(x, axis)
    other = draw(st.integers(0, n - 1))
    assume(other != axis)
    return lambda x: np.diagonal(x, 0, axis, other)


@st.composite
def programs(draw: Any) -> tuple[tuple[int, ...], list[Callable[[Any], Any]]]:
    """An input shape, samples first, and a few steps."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    steps: list[Callable[[Any], Any]] = []
    x = np.zeros(shape)
    for _ in range(draw(st.integers(1, 5))):
        steps.append(draw(moves(x.shape)))
        x = steps[-1](x)
    assume(x.size < 200)
    return shape, steps


def run(steps: list[Callable[[Any], Any]], x: Any) -> Any:
    for step in steps:
        x = step(x)
    return x


@both_ends
@given(program=programs())
def test_random_moves_have_the_jacobian_of_their_columns(mode, program):
    shape, steps = program
    f = lambda x: run(steps, x)
    expected = by_columns(f, shape)
    close(mj.jacobian(f, batch_axis=None, mode=mode)(random(*shape)), expected)
    close(structured(f, random(*shape), mode, batch_axis=None).todense(), expected)


@both_ends
@given(program=programs())
def test_random_moves_either_keep_samples_apart_or_raise(mode, program):
    """Where nothing is raised, the output's sample axis is where the entries of each sample went, and nowhere else."""
    shape, steps = program
    f = lambda x: run(steps, x)
    whole = by_columns(f, shape)
    y = f(np.zeros(shape))
    try:
        J = mj.jacobian(f, mode=mode)(random(*shape))
    except (mj.BatchMixingError, mj.InputError):
        return
    B = shape[0]
    for axis in (axis for axis, n in enumerate(y.shape) if n == B):
        first = np.moveaxis(whole, (axis, y.ndim), (0, 1))
        own = first[np.arange(B), np.arange(B)]
        if not first[~np.eye(B, dtype=bool)].any() and np.array_equal(J, own):
            return
    raise AssertionError("entries of other samples are missing from the result, or the result is wrong")


@both_ends
@given(program=programs())
def test_random_moves_under_both_policies(mode, program):
    shape, steps = program
    f = lambda x: run(steps, x)
    whole = by_columns(f, shape)
    B, ndim = shape[0], whole.ndim - len(shape)
    assume(ndim and whole.shape[0] == B)
    try:
        full = mj.jacobian(f, on_mixing="full", mode=mode)(random(*shape))
    except mj.InputError:
        return
    axes = [axis for axis in range(ndim) if whole.shape[axis] == B]
    candidates = [np.moveaxis(whole, axis, 0) for axis in axes]
    (match,) = [c for c in candidates if c.shape == full.shape and np.array_equal(c, full)][:1]
    diagonal = mj.jacobian(f, on_mixing="diagonal", mode=mode)(random(*shape))
    own = np.moveaxis(match, ndim, 1)[np.arange(B), np.arange(B)]
    close(diagonal, own)


@both_ends
@given(program=programs(), seed=st.integers(0, 99))
def test_random_moves_around_a_nonlinear_step(mode, program, seed):
    """The chain rule through sin and tanh, of a program applied before and after."""
    shape, steps = program
    first = by_columns(lambda x: run(steps[:2], x), shape)
    x = random(*shape, seed=seed)
    inner = run(steps[:2], x)
    last = by_columns(lambda z: run(steps[2:], z), inner.shape)
    slope = (np.cos(inner) * inner + np.sin(inner)).reshape(-1)
    m, n = int(np.prod(last.shape)) // slope.size, x.size
    expected = last.reshape(m, -1) @ (slope[:, None] * first.reshape(-1, n))

    def f(x):
        z = run(steps[:2], x)
        return run(steps[2:], np.sin(z) * z)

    close(
        mj.jacobian(f, batch_axis=None, mode=mode)(x), expected.reshape(*last.shape[: last.ndim - inner.ndim], *shape)
    )


# --- random multilinear operations ------------------------------------------------------------------------------------


@st.composite
def contractions(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    """Subscripts for one to three operands, letters repeated and summed at will; shapes, some axes of length one."""
    size = {c: draw(st.integers(1, 4)) for c in "ijkl"}
    names = ["".join(draw(st.lists(st.sampled_from("ijkl"), max_size=3))) for _ in range(draw(st.integers(1, 3)))]
    used = sorted(set("".join(names)))
    out = "".join(draw(st.permutations(used))[: draw(st.integers(0, len(used)))])
    shapes = []
    for name in names:
        once = [c for c in name if name.count(c) == 1 and "".join(names).count(c) > 1]
        ones = set(draw(st.lists(st.sampled_from(once), max_size=1))) if once else set()
        shapes.append(tuple(1 if c in ones else size[c] for c in name))
    full = {
        c for name, shape in zip(names, shapes, strict=True) for c, n in zip(name, shape, strict=True) if n == size[c]
    }
    assume(full.issuperset(used))
    return f"{','.join(names)}->{out}", shapes


@both_ends
@given(contraction=contractions())
def test_random_contractions_have_the_jacobian_of_their_columns(mode, contraction):
    subscripts, shapes = contraction
    operands = [random(*shape, seed=k) for k, shape in enumerate(shapes)]
    for k, shape in enumerate(shapes):
        f = lambda x, k=k: np.einsum(subscripts, *operands[:k], x, *operands[k + 1 :])
        close(mj.jacobian(f, batch_axis=None, mode=mode)(operands[k]), by_columns(f, shape))


@st.composite
def matrix_products(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    depth, (i, k, j) = draw(st.integers(0, 2)), draw(st.tuples(*[st.integers(1, 3)] * 3))
    lead = draw(st.lists(st.integers(1, 3), min_size=depth, max_size=depth))
    sides = []
    for core in ((i, k), (k, j)):
        mine = [draw(st.sampled_from([n, 1])) for n in lead[draw(st.integers(0, depth)) :]]
        sides.append((*mine, *core))
    a, b = sides
    a = a[-1:] if draw(st.booleans()) and len(a) == 2 else a
    b = b[:1] if draw(st.booleans()) and len(b) == 2 else b
    return a, b


@both_ends
@given(sides=matrix_products())
def test_random_matrix_products_have_the_jacobian_of_their_columns(mode, sides):
    a, b = (random(*shape, seed=k) for k, shape in enumerate(sides))
    close(mj.jacobian(lambda x: x @ b, batch_axis=None, mode=mode)(a), by_columns(lambda x: x @ b, a.shape))
    close(mj.jacobian(lambda x: a @ x, batch_axis=None, mode=mode)(b), by_columns(lambda x: a @ x, b.shape))
