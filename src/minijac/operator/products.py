"""Products of blocks that are not multiplied out: what would hold many times the numbers of its factors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from ..algebra.block import Block
from ..algebra.collect import collect
from ..algebra.compose import reduced, restrict
from ..algebra.factors import Array, Factor
from ..algebra.labels import labels_in
from ..algebra.terms import Term
from .arithmetic import selected

__all__ = ["Parts", "diagonal", "multiplied"]

Parts = tuple[Block, ...]
"""Blocks of which each is applied to what the next one gives."""
AT_ONCE = 2**22
"""Entries of a product of which the diagonal is taken for all samples together."""


def multiplied(parts: Parts) -> Block:
    """The product as one block; of several, the pair with the smallest result comes first."""
    blocks = list(parts)
    while len(blocks) > 1:
        sizes = [prod(a.out_shape) * prod(b.inp_shape) for a, b in pairwise(blocks)]
        k = sizes.index(min(sizes))
        blocks[k : k + 2] = [blocks[k] @ blocks[k + 1]]
    return blocks[0]


def diagonal(parts: Parts, batched: bool, dtype: Any, like: Array) -> Any:
    """The entries at equal positions of output and input: (B, *in), or (*in) where there are no samples."""
    shape = parts[0].out_shape
    count = max(1, AT_ONCE * shape[0] // max(prod(shape) * prod(shape[1:]), 1)) if batched and len(parts) > 1 else 0
    if not count or count >= shape[0]:
        return _diagonal(parts, dtype, like)
    some = [slice(start, start + count) for start in range(0, shape[0], count)]
    return np.concatenate([_diagonal(tuple(selected(part, own) for part in parts), dtype, like) for own in some])


def _diagonal(parts: Parts, dtype: Any, like: Array) -> Any:
    if len(parts) > 1 and all(term.plain and not term.conj for part in parts for term in part.terms):
        out, one = parts[0].out_shape, parts[0].one
        terms = [_on_diagonal(term, one) for term in _open(parts)]
        return Block(out, (), collect([term for term in terms if term is not None]), one).dense(dtype, like)
    block = multiplied(parts)
    for k in range(len(block.out_shape)):
        block = block.paired(k, 0)
    return block.dense(dtype, like)


def _open(parts: Sequence[Block]) -> list[Term]:
    """The terms of a product with all their factors, over whose inner labels nothing is summed yet."""
    return reduce(lambda found, part: [_met(g, f.renamed()) for g in found for f in part.terms],
                  parts[1:], [term.renamed() for term in parts[0].terms])  # fmt: skip


def _met(g: Term, f: Term) -> Term:
    new = {a[0]: b[0] for a, b in zip(g.inp, f.out, strict=True) if a}
    out = tuple((new.get(axis[0], axis[0]),) if axis else axis for axis in g.out)
    factors = [Factor(array, tuple([new.get(label, label) for label in axes])) for array, axes in g.factors]  # type: ignore[misc]
    held = labels_in(out) | labels_in(f.inp) | {label: None for _, axes in (*factors, *f.factors) for label in axes}
    summed = prod(label.size for label in labels_in(f.out) if label not in held)
    return Term(out, f.inp, (*factors, *f.factors), g.scale * f.scale * summed)


def _on_diagonal(term: Term, one: Array) -> Term | None:
    for k in range(len(term.out)):
        kept = restrict(term, k, k, one)
        if kept is None:
            return None
        term = kept
    return reduced(term.out, (), (), term.factors, term.scale)
