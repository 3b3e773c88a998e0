"""Seeds: where an accumulation starts from, the identity at an end of the graph, all at once or in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil, prod
from typing import Any, TypeAlias

import numpy as np

from ..algebra.block import Block
from ..algebra.factors import Shape
from ..algebra.labels import Label, window
from ..algebra.terms import Term
from ..backend import namespace

__all__ = ["Range", "seeds", "shared", "unit", "unshared", "without_axis"]


def unit(sources: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """The number one where the sources live, of a type so wide that a scale multiplied into it, such as the 1/3 of a
    mean, is not rounded to single precision."""
    return namespace(sources[0]).ones((), np.result_type(*(x.dtype for x in (*sources, *outputs))))


Range: TypeAlias = tuple[int, int]
"""Samples, from the first up to the one that is not among them any more."""


def seeds(
    shape: Shape, batch_axis: int | None, chunk_size: int | None, one: Any, samples: Range | None = None
) -> Iterator[Block]:
    """The identity on arrays of `shape`, or on some samples of them, in blocks of at most `chunk_size` seeds a sample.

    A seed is one entry of one sample; a chunk is a window of the array, so a chunked identity is still labels alone.
    """
    if chunk_size is None:
        if samples is None or batch_axis is None:
            yield Block.identity(shape, one)
            return
        chunk_size = max(prod(without_axis(shape, batch_axis)), 1)
    windows: list[list[tuple[int, int]]] = []
    budget = chunk_size
    for k in range(len(shape) - 1, -1, -1):  # whole axes from the right while they fit, then parts, then single ones
        n = shape[k]
        if k == batch_axis and samples is not None:
            windows.insert(0, [(samples[0], samples[1] - samples[0])])
            continue
        size = n if k == batch_axis else min(n, budget)
        pieces = ceil(n / size) if size else 1
        size = ceil(n / pieces) if n else 0
        windows.insert(0, [(start, min(size, n - start)) for start in range(0, max(n, 1), max(size, 1))])
        if k != batch_axis:
            budget = max(budget // size, 1) if size else 1
            if size < n:
                budget = 1
    for corner in product(*windows):
        parts = [(Label(size) if size > 1 else None, n, start) for n, (start, size) in zip(shape, corner, strict=True)]
        axes = tuple([window(*part, 1) for part in parts])
        yield Block(shape, shape, [Term(axes, axes)], one)


def without_axis(shape: Any, axis: int | None) -> Any:
    """A shape, or the axes of a term, as one sample has them, where `axis` is that of the samples."""
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])


def shared(seed: Block, batch_axis: int) -> Block:
    """A seed of all samples at once, without their axis: where they do not mix, each gets its own derivative."""
    terms = [term.over(term.out, without_axis(term.inp, batch_axis)) for term in seed.terms]
    return Block(seed.out_shape, without_axis(seed.inp_shape, batch_axis), terms, seed.one)


def unshared(block: Block, out_axis: int, batch_axis: int, batch: int) -> Block:
    """The block of a shared seed with the samples' axis back in its input: each sample's own entries."""
    terms = [Term(t.out, (*t.inp[:batch_axis], t.out[out_axis], *t.inp[batch_axis:]), t.factors, t.scale)
             for t in block.terms]  # fmt: skip
    shape = block.inp_shape
    return Block(block.out_shape, (*shape[:batch_axis], batch, *shape[batch_axis:]), terms, block.one)
