"""The block: a linear map between two arrays as a sum of terms over labels; compose, add, transpose, dense.

A term maps the input position that its labels name to the output position that they name, weighted by a product of
factors:

    y[out(labels)] += scale * prod(factors)[labels] * x[inp(labels)],   summed over all values of the labels

So a label in both `out` and `inp` makes the term diagonal along it, a label that no factor has makes it constant along
it, and the transpose is `out` and `inp` exchanged. A sum of no terms is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..backend import is_complex, namespace
from .collect import collect
from .compose import compose, lone, materialise, meet, reduced, restrict
from .factors import Array, Factor, Shape, size_of
from .labels import Axes, Axis, Label, axis_of
from .terms import Term
from .writing import stands_in, written, written_functional

__all__ = ["Block", "bilinear"]

ONE = np.ones((), np.float32)  # of the narrowest type, so that it widens no other


MOST_PIECES = 24
"""Terms that a block may have where one array would hold no more than four times what they do."""


class Block:
    """A linear map from arrays of shape `inp_shape` to arrays of shape `out_shape`, as a sum of terms. Immutable."""

    __slots__ = ("inp_shape", "one", "out_shape", "terms")

    def __init__(self, out_shape: Shape, inp_shape: Shape, terms: Iterable[Term] = (), one: Array = ONE) -> None:
        self.out_shape = out_shape
        self.inp_shape = inp_shape
        empty = 0 in out_shape or 0 in inp_shape  # no entries, hence no terms: labels of size zero never meet
        self.terms = () if empty else tuple(terms)
        self.one = one
        """The number one as an array of the block's backend, from which data is made where structure gives out."""

    @staticmethod
    def identity(shape: Shape, one: Array = ONE) -> Block:
        axes = tuple(axis_of(n) for n in shape)
        return Block(shape, shape, [Term(axes, axes)], one)

    @staticmethod
    def column(array: Array) -> Block:
        """An array as the map from one number (shape ``()``) to it: a tangent."""
        return Block.of_data(array, tuple(array.shape), (), {}, namespace(array).ones((), array.dtype))

    @property
    def T(self) -> Block:
        return Block(self.inp_shape, self.out_shape, [term.transposed for term in self.terms], self.one)

    def __add__(self, other: Block) -> Block:
        one = other.one if self.one is ONE else self.one
        return Block(self.out_shape, self.inp_shape, collect((*self.terms, *other.terms)), one)._without_pieces()

    def __matmul__(self, other: Block) -> Block:
        """The composition ``self after other``, whatever labels the two share."""
        renamed = [term.renamed() for term in other.terms]
        return self.after(Block(other.out_shape, other.inp_shape, renamed, other.one))

    def after(self, other: Block) -> Block:
        """The composition ``self after other`` of blocks that share no label."""
        one = other.one if self.one is ONE else self.one
        terms = collect(compose(self.terms, other.terms, one))
        return Block(self.out_shape, other.inp_shape, terms, one)._without_pieces()

    def _without_pieces(self) -> Block:
        """The same map, one array where it has come apart in so many pieces that they are no less: as a stencil's has
        after some steps along a short axis."""
        if len(self.terms) <= MOST_PIECES or any(term.conj for term in self.terms):
            return self
        pairs = self.pairs
        rest = prod(n for k, n in enumerate(self.inp_shape) if k not in pairs)
        if prod(self.out_shape) * rest > 4 * sum(size_of(term.labels()) for term in self.terms):
            return self
        arrays = [f.array for t in self.terms for f in t.factors if hasattr(f.array, "dtype")]
        dtype = np.result_type(self.one.dtype, *(array.dtype for array in arrays))
        data = self.data(pairs, dtype, (*arrays, self.one)[0])
        return Block.of_data(data, self.out_shape, self.inp_shape, pairs, self.one)

    @property
    def pairs(self) -> dict[int, int]:
        """Axes of the input that are an axis of the output in every term."""
        ends = [(j, k) for j in range(len(self.out_shape)) for k in range(len(self.inp_shape))]
        return {k: j for j, k in ends if all(_one_label(t.out[j]) and t.out[j] == t.inp[k] for t in self.terms)}

    def data(self, pairs: Mapping[int, int], dtype: np.dtype[Any], like: Array) -> Array:
        """All entries that are not zero by pairs, as one array over the output and the other axes of the input."""
        rest = [k for k in range(len(self.inp_shape)) if k not in pairs]
        return self.axes_moved(range(len(self.out_shape)), rest).dense(dtype, like)

    @staticmethod
    def of_data(data: Array, out_shape: Shape, inp_shape: Shape, pairs: Mapping[int, int], one: Array) -> Block:
        """The map whose `data` an array is."""
        axes = tuple(axis_of(n) for n in data.shape)
        out, rest = axes[: len(out_shape)], iter(axes[len(out_shape) :])
        inp = tuple(out[pairs[k]] if k in pairs else next(rest) for k in range(len(inp_shape)))
        return Block(out_shape, inp_shape, [Term(out, inp, (_squeezed(data, axes),))], one)

    def axes_moved(self, out: Sequence[int], inp: Sequence[int]) -> Block:
        """The same map with the axes of its output and input permuted; some may go whose labels the others have."""
        return Block(
            tuple(self.out_shape[k] for k in out),
            tuple(self.inp_shape[k] for k in inp),
            [t.over(tuple(t.out[k] for k in out), tuple(t.inp[k] for k in inp)) for t in self.terms],
            self.one,
        )

    def tied(self, out_axis: int, inp_axis: int) -> Block:
        """Only the entries where two axes of equal length have equal positions."""
        pairs = [(term, term.out[out_axis] == term.inp[inp_axis]) for term in self.terms]
        kept = [term if same else restrict(term, out_axis, inp_axis, self.one) for term, same in pairs]
        return Block(self.out_shape, self.inp_shape, [term for term in kept if term is not None], self.one)

    def paired(self, out_axis: int, inp_axis: int) -> Block:
        """The same, and the input loses that axis."""
        rest = [k for k in range(len(self.inp_shape)) if k != inp_axis]
        terms = []
        for term in self.tied(out_axis, inp_axis).terms:
            alone = term.over(term.out, tuple(term.inp[k] for k in rest))
            listed = term.listed and reduced(alone.out, alone.inp, term.inp, term.factors, term.scale, term.conj)
            terms.append(listed or alone)
        return Block(self.out_shape, tuple(self.inp_shape[k] for k in rest), terms, self.one)

    def of_reals(self, dtype: np.dtype[Any], backward: bool = False) -> Block:
        """The same map of real numbers, which are the same conjugated; where `dtype` is real, its real part.

        Or `backward`, where only the real part of what comes out counts, ``re(A conj(dz)) = re(conj(A) dz)``.
        """
        terms = self.terms
        if any(term.conj for term in terms):
            turned = [term.conjugated if term.conj and backward else term for term in terms]
            terms = tuple(collect([Term(t.out, t.inp, t.factors, t.scale) for t in turned]))
        if dtype.kind != "c" and any(map(_complex, terms)):
            terms = tuple(collect([part for term in terms for part in term.real_parts()]))
        return self if terms is self.terms else Block(self.out_shape, self.inp_shape, terms, self.one)

    def dense(self, dtype: np.dtype[Any], like: Array, total: Array = None) -> Array:
        """The array of shape ``(*out_shape, *inp_shape)``, newly made, or added to `total` where that is given."""
        self = self.of_reals(dtype)
        shape = (*self.out_shape, *self.inp_shape)
        terms = [term.without_listed(self.one) for term in self.terms]
        parts = [((*t.out, *t.inp), t.factors, t.scale) for t in terms]
        if any(map(stands_in, (like, total, *(f.array for t in terms for f in t.factors)))):
            return written_functional(parts, shape, dtype, like, total)
        return written(parts, shape, dtype, like, total)

    def materialised(self, axes: Sequence[int]) -> Block:
        """The same map, each of the given output axes made of labels that stand nowhere else but in data."""
        terms = self.terms
        for k in axes:
            terms = tuple(term if lone(term, k, True) else materialise(term, k, self.one) for term in terms)
        return Block(self.out_shape, self.inp_shape, collect(terms), self.one)


def _complex(term: Term) -> bool:
    return not isinstance(term.scale, float | int) or any(is_complex(factor.array) for factor in term.factors)


def _one_label(axis: Axis) -> bool:
    return len(axis) == 1 and type(axis[0]) is Label


def bilinear(form: Term, left: Block, right: Block, out_shape: Shape, kept: Sequence[int] | None) -> Block:
    """A bilinear form on the derivatives of its two operands along the same inputs k.

    `form` has the axes of both operands as its input, one after the other. Returns the block
    ``sum_{a, b} form[., a, b] left[a, k] right[b, k]``, summed over k but for the axes that are `kept` (None: all).
    """
    terms, n, ends = [], len(left.out_shape), len(out_shape)
    for a in left.terms:
        g = form.renamed()
        met = meet(Term((*g.out, *g.inp[n:]), g.inp[:n], g.factors, g.scale), a, left.one)
        if met is None:
            continue
        g, f = met
        out = (*g.out[:ends], *g.inp, *f.out)  # with what is summed, to be renamed along
        half = Term(out, (*g.out[ends:], *f.inp), (*g.factors, *f.factors), g.scale * f.scale)
        for b in right.terms:
            b = b.renamed()  # the right operand, and then the same input: entries of one output entry alone meet there
            met = meet(half, Term((*b.out, *b.inp), (), b.factors, b.scale), left.one)
            if met is None:
                continue
            g, f = met
            k = f.out[len(b.out) :]
            inp: Axes = k if kept is None else tuple(k[axis] for axis in kept)
            met_at = (*g.out[ends:], *g.inp)
            terms.append(reduced(g.out[:ends], inp, met_at, (*g.factors, *f.factors), g.scale * f.scale))
    shape = left.inp_shape if kept is None else tuple(left.inp_shape[k] for k in kept)
    return Block(out_shape, shape, collect(terms), left.one)


def _squeezed(array: Array, axes: Axes) -> Factor:
    if () in axes:
        array = array.reshape(tuple(n for n in array.shape if n != 1))
    return Factor(array, tuple(axis[0] for axis in axes if axis))  # type: ignore[misc]
