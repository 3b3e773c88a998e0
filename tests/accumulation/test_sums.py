"""Where paths meet: one label at several places, and structure that is given up where it stops paying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import by_columns, close, random
from hypothesis import given
from hypothesis import strategies as st
from inspection import FUNCTIONS, peak_bytes, stored, structured, terms

import minijac as mj
from minijac.program.entry import record, recorded_in

modes = pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
both_ends = pytest.mark.parametrize("mode", ["forward", "reverse"])


# --- one label at several places ------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize(
    "diagonal",
    [lambda y: np.diagonal(y, axis1=1, axis2=2), lambda y: np.einsum("biik->bki", y)],
    ids=["np.diagonal", "np.einsum"],
)
@pytest.mark.parametrize(
    "step",
    [lambda y: y[..., np.array([2, 0, 0])], lambda y: y.reshape(2, 3, 3, 2, 3)[..., 1]],
    ids=["gather", "misaligned reshape"],
)
def test_a_map_that_is_no_block_before_a_diagonal(step, diagonal, mode):
    """From the output's end, the map meets a block in which one label stands on two axes that pass through it."""
    x = random(2, 3, 3, 6)
    f = lambda x: diagonal(step(np.sin(x)))
    whole = by_columns(lambda t: diagonal(step(t)), x.shape) * np.cos(x)
    close(mj.jacobian(f, mode=mode)(x), np.stack([whole[b, :, :, b] for b in range(2)]))


@modes
def test_a_misaligned_reshape_before_a_diagonal(mode):
    x = random(2, 3, 3, 2, 3)
    move = lambda y: np.einsum("biikl->bikl", y.reshape(2, 3, 3, 3, 2))
    whole = by_columns(move, x.shape) * np.cos(x)
    J = mj.jacobian(lambda x: move(np.sin(x)), mode=mode)(x)
    close(J, np.stack([whole[b, ..., b, :, :, :, :] for b in range(2)]))


@modes
def test_windows_of_a_label_beside_the_label_itself(mode):
    """x_i x_(i+1) needs the same input label whole and shifted."""
    x = random(3, 5)
    expected = np.zeros((3, 4, 5))
    for i in range(4):
        expected[:, i, i], expected[:, i, i + 1] = x[:, i + 1], x[:, i]
    close(mj.jacobian(lambda x: x[:, :-1] * x[:, 1:], mode=mode)(x), expected)


def test_repr_names_the_structures():
    names = {
        "diagonal": "diagonal",
        "shared": "shared by all samples",
        "banded": "banded",
        "softmax": "product of 2 factors",
        "identity": "constant",
    }
    for name, word in names.items():
        assert word in repr(structured(FUNCTIONS[name], random(3, 6)))


# --- when structure stops paying -----------------------------------------------------------------------------------


def recorded(f: Callable, x: Any, mode: str) -> list[tuple[str, tuple[int, ...]]]:
    """The operations of a compiled Jacobian, with the shapes of their results."""
    program = mj.compile(mj.jacobian(f, mode=mode)).program(x)
    return [(step.op.name, program.values[step.out].shape) for step in program.instructions]


WEIGHTS = [random(6, 6) for _ in range(10)]


def residual(x):
    for V, W in zip(WEIGHTS[::2], WEIGHTS[1::2], strict=True):
        x = x + np.tanh(x @ V) @ W
    return x


@both_ends
def test_an_identity_beside_a_full_array_is_added_into_it_once(mode):
    x = random(7, 6)
    steps = recorded(residual, x, mode)
    assert [name for name, _ in steps].count("superpose") == 1
    # the sum of two full arrays at each of the blocks but the first, and once where the first is not yet full
    assert steps.count(("add", (7, 6, 6))) <= 5
    if mode == "reverse":
        assert ("transpose", (7, 6, 6)) not in steps
    h = 1e-6 * random(7, 6)
    close(
        np.einsum("boi,bi->bo", mj.jacobian(residual, mode=mode)(x), h), (residual(x + h) - residual(x - h)) / 2, 1e-9
    )


@both_ends
def test_what_is_added_into_an_array_never_reaches_one_that_something_else_holds(mode):
    """Here the full array comes of two equal terms, whose data is a captured array."""
    weights = random(5, 6, 6)
    f = lambda x: 0.5 * np.einsum("bij,bj->bi", weights, x) + 0.5 * np.einsum("bij,bj->bi", weights, x) + x
    before = weights.copy()
    for _ in range(3):
        close(mj.jacobian(f, mode=mode)(random(5, 6)), before + np.eye(6), 1e-14)
    np.testing.assert_array_equal(weights, before)


@both_ends
def test_elementwise_paths_are_added_before_they_meet_the_weights(mode):
    """``w p + w q`` is ``w (p + q)``: one matmul of each matrix, however many paths an activation has."""
    V, W = random(6, 20), random(20, 6)

    def f(x):
        h = x @ V
        return (0.5 * h * (1.0 + np.tanh(0.8 * (h + 0.04 * h * h * h)))) @ W

    x = random(7, 6)
    count = [name for name, _ in recorded(f, x, mode)].count("matmul")
    assert count == [name for name, _ in recorded(lambda x: np.tanh(x @ V) @ W, x, mode)].count("matmul")


@both_ends
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_difference_of_paths_is_a_subtraction_and_no_product_with_a_sign(mode, sign):
    f = (lambda x: np.sin(x) - np.exp(x)) if sign == 1.0 else (lambda x: np.exp(x) - np.sin(x))
    J, x = mj.jacobian(f, mode=mode), random(7, 6)
    program = recorded_in(record(J, (x,), {}))
    assert program is not None
    assert all(value.content != -1.0 for value in program.values if value.kind == "constant")
    close(J(x), sign * (np.cos(x) - np.exp(x))[..., None] * np.eye(6), 1e-14)


@both_ends
def test_dense_diagonals_are_written_into_one_array(mode):
    def stencil(u):
        p = np.pad(u, ((0, 0), (1, 1)))
        return u * (p[:, 2:] - p[:, :-2]) + np.roll(u * u, 1, axis=1)

    u = random(64, 128)
    dense = 128 * u.nbytes
    full = [name for name, shape in recorded(stencil, u, mode) if shape == (64, 128, 128)]
    assert full == ["superpose"]
    assert peak_bytes(lambda: mj.jacobian(stencil, mode=mode)(u)) < 1.5 * dense
    J = mj.jacobian(stencil, mode=mode)
    close(mj.compile(J)(u), J(u), 1e-14)


@st.composite
def shifts(draw):
    """A slice of nine features, and where it is put among nine."""
    size, step = draw(st.integers(1, 5)), draw(st.sampled_from([-2, -1, 1, 2]))
    start = draw(st.integers(0, 8 - abs(step) * (size - 1))) + (abs(step) * (size - 1) if step < 0 else 0)
    return np.arange(start, start + step * size, step), draw(st.integers(0, 9 - size))


@modes
@given(st.lists(shifts(), min_size=1, max_size=5))
def test_random_diagonals_superposed_are_their_sum(mode, moved):
    """Windows of the same and of other diagonals, which meet or do not; as they are, and under compile."""
    x = random(3, 9)

    def f(x):
        total = 0.0
        for source, at in moved:
            first, step = source[0], source[1] - source[0] if len(source) > 1 else 1
            stop = first + step * len(source)
            piece = np.sin(x[:, slice(first, stop if stop >= 0 else None, step)])
            total = total + np.pad(piece, ((0, 0), (at, 9 - at - len(source))))
        return total

    expected = np.zeros((3, 9, 9))
    for source, at in moved:
        expected[:, np.arange(at, at + len(source)), source] += np.cos(x[:, source])
    close(mj.jacobian(f, mode=mode)(x), expected, 1e-14)
    close(mj.compile(mj.jacobian(f, mode=mode))(x), expected, 1e-14)


@both_ends
def test_an_operand_given_twice_meets_a_block_once(mode):
    x, W, V = random(4, 6), random(6, 5), random(5, 3)
    f = lambda x: (x @ W) * (x @ W)
    g = lambda x: (lambda h: (h * h) @ V)(x @ W)
    counts = [[name for name, _ in recorded(h, x, mode)] for h in (g, lambda x: np.tanh(x @ W) @ V)]
    assert counts[0].count("matmul") == counts[1].count("matmul")
    assert "add" not in counts[0]
    (term,) = terms(structured(lambda x: x * x, x, mode))
    assert term.scale == 2.0 and stored(term) == [(4, 6)]
    close(mj.jacobian(g, mode=mode)(x), np.einsum("bij,jk->bki", 2.0 * W * (x @ W)[:, None], V), 1e-12)
    close(mj.jacobian(f, mode=mode)(x), np.einsum("bij->bji", 2.0 * W * (x @ W)[:, None]), 1e-12)
