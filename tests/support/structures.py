"""Blocks of every structure: maps from (B, N) to (B, N), their labels new at every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from blocks import integers

from minijac.algebra.block import Block
from minijac.algebra.factors import Factor
from minijac.algebra.labels import Label, Window
from minijac.algebra.terms import Term
from minijac.picks import Pick

B, N = 3, 6


def rng(name: str) -> np.random.Generator:
    return np.random.default_rng([ord(c) for c in name])


def data(name: str, *labels: Label) -> Factor:
    return Factor(integers(rng(name), labels) + 0.5, labels)


def one(out: Any, inp: Any, *factors: Factor, scale: float = 1.0) -> Block:
    return Block((B, N), (B, N), [Term(out, inp, factors, scale)])


STRUCTURES: dict[str, Callable[[], Block]] = {}
"""One maker of a block for each kind of structure."""


def structure(make: Callable[[], Block]) -> Callable[[], Block]:
    STRUCTURES[make.__name__] = make
    return make


@structure
def identity() -> Block:
    return Block.identity((B, N))


@structure
def diagonal() -> Block:
    b, i = Label(B), Label(N)
    return one(((b,), (i,)), ((b,), (i,)), data("diagonal", b, i))


@structure
def shared_dense() -> Block:
    b, i, o = Label(B), Label(N), Label(N)
    return one(((b,), (o,)), ((b,), (i,)), data("shared", i, o))


@structure
def dense_per_sample() -> Block:
    b, i, o = Label(B), Label(N), Label(N)
    return one(((b,), (o,)), ((b,), (i,)), data("dense", b, o, i))


@structure
def all_pairs_of_samples() -> Block:
    b, c, i, o = Label(B), Label(B), Label(N), Label(N)
    return one(((b,), (o,)), ((c,), (i,)), data("full", b, o, c, i))


@structure
def shifted() -> Block:
    b, i = Label(B), Label(N - 1)
    return one(((b,), (Window(i, N, 1, 1),)), ((b,), (Window(i, N, 0, 1),)), data("window", b, i))


@structure
def every_second() -> Block:
    b, i = Label(B), Label(N // 2)
    return one(((b,), (Window(i, N, 1, 2),)), ((b,), (Window(i, N, 0, 1),)), scale=2.0)


@structure
def flip() -> Block:
    b, i = Label(B), Label(N)
    return one(((b,), (i,)), ((b,), (Window(i, N, N - 1, -1),)))


@structure
def regrouped() -> Block:
    """Read as (2, 3), written as (3, 2): after itself, digits of 2 meet digits of 3."""
    b, h, w = Label(B), Label(2), Label(3)
    return one(((b,), (w, h)), ((b,), (h, w)), data("regrouped", h))


@structure
def rows_summed() -> Block:
    b, h, w, v = Label(B), Label(2), Label(3), Label(3)
    return one(((b,), (h, w)), ((b,), (h, v)), data("rows", b, h, w))


@structure
def misaligned() -> Block:
    b, h, w, p, q = Label(B), Label(2), Label(3), Label(3), Label(2)
    to = Block((B, 3, 2), (B, N), [Term(((b,), (p,), (q,)), ((b,), (p, q)), (data("p", p, b),))])
    b = Label(B)
    back = Block((B, N), (B, 3, 2), [Term(((b,), (h, w)), ((b,), (w,), (h,)))])
    return back @ to.materialised([1])


@structure
def repeated() -> Block:
    """The same position along samples and features."""
    b, i = Label(B), Label(N)
    return one(((b,), (Window(b, N, 0, 2),)), ((b,), (i,)), data("repeated", i, b))


@structure
def first_broadcast() -> Block:
    b, i = Label(B), Label(N)
    return one(((b,), (i,)), ((b,), (Window(None, N, 0, 1),)))


@structure
def summed_into_the_last() -> Block:
    b, i = Label(B), Label(N)
    return one(((b,), (Window(None, N, N - 1, 1),)), ((b,), (i,)), scale=-1.0)


@structure
def samples_summed() -> Block:
    b, c, i = Label(B), Label(B), Label(N)
    return one(((b,), (i,)), ((c,), (i,)), scale=0.5)


@structure
def low_rank() -> Block:
    b, i, o = Label(B), Label(N), Label(N)
    return one(((b,), (o,)), ((b,), (i,)), data("left", b, o), data("right", b, i))


@structure
def gathered() -> Block:
    """Entries at listed positions, some of them twice."""
    b, i = Label(B), Label(N)
    return one(((b,), (i,)), ((b,), (Pick(np.array([1, 0, 5, 1, 4, 4]), (i,), N),)), data("gathered", b, i))


@structure
def scattered() -> Block:
    """A mesh of three edges: from its nodes to its nodes."""
    b, e, k, m = Label(B), Label(3), Label(2), Label(2)
    edges = np.array([[0, 2], [2, 5], [5, 1]])
    out, inp = Pick(edges, (e, k), N), Pick(edges, (e, m), N)
    return one(((b,), (out,)), ((b,), (inp,)), data("scattered", b, e, k, m))


@structure
def listed_digits() -> Block:
    """Positions of part of an axis, whose entries are on the diagonal along the rest."""
    b, h, e = Label(B), Label(2), Label(4)
    to, of = Pick(np.array([2, 0, 0, 1]), (e,), 3), Pick(np.array([1, 1, 0, 2]), (e,), 3)
    return one(((b,), (h, to)), ((b,), (of, h)), data("part", e, b))


@structure
def zero() -> Block:
    return Block((B, N), (B, N))


@structure
def softmax_like() -> Block:
    return diagonal() + low_rank()


@structure
def stencil() -> Block:
    return identity() + shifted() + shifted().T + first_broadcast()


@structure
def residual() -> Block:
    return identity() + shared_dense() + regrouped()
