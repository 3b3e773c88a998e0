"""Arithmetic of structured Jacobians, that of the dense arrays, with the structure kept: sums, products, samples.

The entries of a term, taken as a diagonal map, multiply those of another: a product entry by entry is a composition.
So is the choice of some samples.
"""

from __future__ import annotations

from ..algebra.block import Block
from ..algebra.collect import collect
from ..algebra.compose import compose
from ..algebra.factors import Array, Factor, Shape
from ..algebra.labels import Label, axis_of, window
from ..algebra.terms import Term

__all__ = ["alone", "broadcast", "columns", "entrywise", "scaled", "selected"]


def scaled(block: Block, number: float) -> Block:
    """The block times a number."""
    terms = [Term(t.out, t.inp, t.factors, t.scale * number) for t in block.terms]
    return Block(block.out_shape, block.inp_shape, terms, block.one)


def entrywise(a: Block, b: Block) -> Block:
    """The product of the entries of two blocks of the same shapes: zero wherever one of them is."""
    n = len(a.out_shape)
    terms: list[Term] = []
    others = [Term((*t.out, *t.inp), (), t.factors, t.scale) for t in b.terms]
    for s in a.terms:
        axes = (*s.out, *s.inp)
        made = compose([Term(axes, axes, s.factors, s.scale)], [t.renamed() for t in others], a.one)
        terms += [Term(both.out[:n], both.out[n:], both.factors, both.scale) for both in made]
    return Block(a.out_shape, a.inp_shape, collect(terms), a.one)


def broadcast(array: Array, block: Block, batched: bool) -> Block:
    """An array that broadcasts to the dense shape of a block, as a block of the same shapes, with a copy of it."""
    shape = (*block.out_shape, *block.inp_shape[1:]) if batched else (*block.out_shape, *block.inp_shape)
    axes = tuple(map(axis_of, shape))
    last = axes[len(axes) - array.ndim :]
    kept = tuple([axis[0] for axis, n in zip(last, array.shape, strict=True) if n != 1])
    data = Factor(array.reshape([n for n in array.shape if n != 1]).copy(), kept)  # type: ignore[arg-type]
    n = len(block.out_shape)
    inp = (axes[0], *axes[n:]) if batched else axes[n:]
    return Block(block.out_shape, block.inp_shape, [Term(axes[:n], inp, (data,))], block.one)


def selected(block: Block, samples: slice) -> Block:
    """The block of some of its samples, which are on the first axis on both sides."""
    batch = block.out_shape[0]
    start, _, step = samples.indices(batch)
    count = len(range(batch)[samples])

    def selection(shape: Shape) -> Block:
        label = Label(count) if count > 1 else None
        rest = tuple(map(axis_of, shape[1:]))
        chosen = Term(((label,) if label else (), *rest), (window(label, batch, start, step), *rest))
        return Block((count, *shape[1:]), shape, [chosen], block.one)

    return selection(block.out_shape) @ block @ selection(block.inp_shape).T


def alone(block: Block) -> Block:
    """The block of its only sample, without the axis of the samples."""
    terms = [Term(t.out[1:], t.inp[1:], t.factors, t.scale) for t in block.terms]
    return Block(block.out_shape[1:], block.inp_shape[1:], terms, block.one)


def columns(array: Array, n: int) -> Block:
    """An array as the map from numbers along the axes behind the first `n` to arrays of the first `n` axes."""
    column = Block.column(array)
    terms = [Term(t.out[:n], t.out[n:], t.factors, t.scale) for t in column.terms]
    return Block(column.out_shape[:n], column.out_shape[n:], terms, column.one)
