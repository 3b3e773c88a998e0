"""Random labelled axes and blocks, and what they mean, written without the engine: a sum over all label values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minijac.algebra.block import Block
from minijac.algebra.factors import Factor
from minijac.algebra.labels import Axes, Axis, Digit, Label, Window, labels_in, window
from minijac.algebra.terms import Term
from minijac.picks import Pick

LIKE = np.zeros(())
FLOAT = np.dtype(np.float64)
LARGEST = 3000
"""Label values that one term may have, so that its sum stays fast."""


# --- what labels mean ---------------------------------------------------------------------------------------


def position(axis: Axis, at: dict[Label, Any]) -> Any:
    """The position along an axis that values of its labels name."""
    result: Any = 0
    for digit in axis:
        if isinstance(digit, Label):
            result = result * digit.size + at[digit]
        elif isinstance(digit, Pick):
            result = result * digit.size + digit.array[tuple(at[label] for label in digit.axes)]
        else:
            value = 0 if digit.label is None else at[digit.label]
            result = result * digit.size + digit.offset + digit.step * value
    return result


def values(labels: Sequence[Label]) -> dict[Label, Any]:
    """All values of the labels, as arrays with one axis for each label."""
    grid = np.meshgrid(*(np.arange(label.size) for label in labels), indexing="ij") if labels else []
    return dict(zip(labels, grid, strict=True))


def term_by_sum(term: Term, shape: tuple[int, ...]) -> np.ndarray:
    """y[out(labels), inp(labels)] += scale * prod(factors)[labels], for all values of the labels."""
    labels = list(labels_in((*term.out, *term.inp)))
    at = values(labels)
    weights = np.full([label.size for label in labels], float(term.scale))
    for array, axes in term.factors:
        weights = weights * np.asarray(array)[tuple(at[label] for label in axes)]
    result = np.zeros(shape)
    np.add.at(result, tuple(position(axis, at) for axis in (*term.out, *term.inp)), weights)
    return result


def block_by_sum(block: Block) -> np.ndarray:
    """The dense array of a block, of shape ``(*out_shape, *inp_shape)``."""
    shape = (*block.out_shape, *block.inp_shape)
    return sum((term_by_sum(term, shape) for term in block.terms), np.zeros(shape))


def dense(block: Block) -> np.ndarray:
    """The dense array of a block by the engine."""
    return block.dense(FLOAT, LIKE)


# --- random digits, axes, terms, blocks -----------------------------------------------------------------------


@st.composite
def windows(draw: Any, size: int, label: Label) -> Window:
    """A window of a digit of `size` positions for a label that fits: any offset, any step, also negative."""
    step = draw(st.integers(1, (size - 1) // (label.size - 1)))
    extent = step * (label.size - 1)
    offset = draw(st.integers(0, size - 1 - extent))
    return Window(label, size, offset + extent, -step) if draw(st.booleans()) else Window(label, size, offset, step)


@st.composite
def picks(draw: Any, size: int, pool: list[Label]) -> Pick:
    """Positions below `size` in an array over one or two labels, new or from the pool."""
    axes: list[Label] = []
    for _ in range(draw(st.integers(1, 2))):
        label = draw(st.sampled_from([*(each for each in pool if each not in axes), None]))
        axes.append(Label(draw(st.integers(2, 5))) if label is None else label)
    pool += [label for label in axes if label not in pool]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Pick(rng.integers(0, size, [label.size for label in axes]), tuple(axes), size)


@st.composite
def digits(draw: Any, size: int, pool: list[Label], listed: bool = True) -> Digit:
    """A digit: a label, new or from the pool, whole or in a window; a fixed position; or positions in an array."""
    kind = draw(st.sampled_from(["whole", "whole", "window", "fixed", *["listed"] * listed]))
    if kind == "listed":
        return draw(picks(size, pool))
    if kind == "fixed":
        return Window(None, size, draw(st.integers(0, size - 1)), 1)
    count = size if kind == "whole" else draw(st.integers(2, size))
    known = [label for label in pool if label.size == count]
    label = draw(st.sampled_from([*known, None]))
    if label is None:
        label = Label(count)
        pool.append(label)
    if kind == "whole":
        return label
    (digit,) = window(*draw(windows(size, label)))
    return digit


@st.composite
def axes_of_size(draw: Any, size: int, pool: list[Label], listed: bool = True) -> Axis:
    """An axis of digits whose sizes multiply to `size`."""
    axis: list[Digit] = []
    while size > 1:
        part = draw(st.sampled_from([n for n in range(2, size + 1) if size % n == 0][::-1]))
        axis.append(draw(digits(part, pool, listed)))
        size //= part
    return tuple(axis)


shapes = st.lists(st.integers(1, 6), max_size=3).map(tuple)
small_shapes = st.lists(st.integers(1, 6), max_size=2).map(tuple)


def integers(rng: np.random.Generator, labels: Sequence[Label]) -> np.ndarray:
    """Small whole numbers: sums and products of them are exact, so results can be compared for equality."""
    return rng.integers(-2, 3, [label.size for label in labels]).astype(float)


@st.composite
def terms(draw: Any, out_shape: tuple[int, ...], inp_shape: tuple[int, ...]) -> Term:
    pool: list[Label] = []
    axes: Axes = tuple(draw(axes_of_size(n, pool)) for n in (*out_shape, *inp_shape))
    labels = list(labels_in(axes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    factors = []
    for _ in range(draw(st.integers(0, 3))):
        mine = draw(st.lists(st.sampled_from(labels), unique=True, max_size=3)) if labels else []
        factors.append(Factor(integers(rng, mine), tuple(mine)))
    scale = draw(st.sampled_from([1.0, 1.0, -1.0, 0.5, 2.0]))
    return Term(axes[: len(out_shape)], axes[len(out_shape) :], tuple(factors), scale)


@st.composite
def blocks(draw: Any, out_shape: tuple[int, ...], inp_shape: tuple[int, ...], most: int = 3) -> Block:
    chosen = []
    for _ in range(draw(st.integers(0, most))):
        term = draw(terms(out_shape, inp_shape))
        if prod(label.size for label in term.labels()) <= LARGEST:
            chosen.append(term)
    return Block(out_shape, inp_shape, chosen)


@st.composite
def some_blocks(draw: Any) -> Block:
    return draw(blocks(draw(shapes), draw(shapes)))


@st.composite
def chains(draw: Any, length: int) -> list[Block]:
    """Blocks that can be composed, the last one applied first."""
    ends = [draw(small_shapes) for _ in range(length + 1)]
    return [draw(blocks(out, inp, 2)) for out, inp in pairwise(ends)]


def lone(term: Term, k: int) -> bool:
    """Output axis `k` is whole labels that stand in no other axis, none of them twice."""
    axis = term.out[k]
    others = labels_in(tuple(other for j, other in enumerate((*term.out, *term.inp)) if j != k))
    whole = all(isinstance(digit, Label) and digit not in others for digit in axis)
    return whole and len(set(axis)) == len(axis)


def shown(block: Block) -> str:
    """A block in full, for messages."""
    lines = [f"{block.out_shape} <- {block.inp_shape}"]
    for term in block.terms:
        arrays = [(np.asarray(factor.array).tolist(), factor.axes) for factor in term.factors]
        lines.append(f"  {term.out} <- {term.inp}: {term.scale} * {arrays}")
    return "\n".join(lines)


Block.__repr__ = shown  # type: ignore[method-assign] - so that a failing example says what it is
