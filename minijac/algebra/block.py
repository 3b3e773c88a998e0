"""The block: a linear map between two arrays as a sum of terms over labels; compose, add, transpose, dense.

A term maps the input position that its labels name to the output position that they name, weighted by a product of
factors:

    y[out(labels)] += scale * prod(factors)[labels] * x[inp(labels)],   summed over all values of the labels

So a label in both `out` and `inp` makes the term diagonal along it, a label that no factor has makes it constant along
it, and the transpose is `out` and `inp` exchanged. A sum of no terms is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from ..backend import astype, namespace, zeros
from ..tape.traced import is_traced
from .factors import Array, Factor, aligned, contract, contract_to_one, product, size_of, substitute
from .labels import (
    Axes,
    Axis,
    Label,
    Misaligned,
    Substitution,
    Vanishes,
    axis_of,
    axis_size,
    label_of,
    labels_in,
    match,
    split,
)
from .terms import Term
from .view import View

__all__ = ["Block", "Term", "bilinear", "covers", "embed", "spread", "strided", "superposed", "written"]

Shape: TypeAlias = tuple[int, ...]


ONE = np.ones((), np.float32)  # of the narrowest type, so that it widens no other


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
        axes = tuple(axis_of(n) for n in array.shape)
        one = namespace(array).ones((), array.dtype)
        return Block(tuple(array.shape), (), [Term(axes, (), (_squeezed(array, axes),))], one)

    @property
    def T(self) -> Block:
        return Block(self.inp_shape, self.out_shape, [term.transposed for term in self.terms], self.one)

    def __add__(self, other: Block) -> Block:
        one = other.one if self.one is ONE else self.one
        return Block(self.out_shape, self.inp_shape, _collect((*self.terms, *other.terms)), one)

    def __matmul__(self, other: Block) -> Block:
        """The composition ``self after other``, whatever labels the two share."""
        renamed = [term.renamed() for term in other.terms]
        return self.after(Block(other.out_shape, other.inp_shape, renamed, other.one))

    def after(self, other: Block) -> Block:
        """The composition ``self after other`` of blocks that share no label."""
        one = other.one if self.one is ONE else self.one
        terms = [new for g in self.terms for f in other.terms if (new := _compose(g, f, one)) is not None]
        return Block(self.out_shape, other.inp_shape, _collect(terms), one)

    def axes_moved(self, out: Sequence[int], inp: Sequence[int]) -> Block:
        """The same map with the axes of its output and input permuted."""
        return Block(
            tuple(self.out_shape[k] for k in out),
            tuple(self.inp_shape[k] for k in inp),
            [Term(tuple(t.out[k] for k in out), tuple(t.inp[k] for k in inp), t.factors, t.scale) for t in self.terms],
            self.one,
        )

    def paired(self, out_axis: int, inp_axis: int) -> Block:
        """Only the entries where two axes of equal length have equal positions; the input loses that axis."""
        rest = [k for k in range(len(self.inp_shape)) if k != inp_axis]
        terms = []
        for term in self.terms:
            a, b = term.out[out_axis], term.inp[inp_axis]
            if a != b:
                kept = _restrict(term, out_axis, inp_axis, self.one)
                if kept is None:
                    continue
                term = kept
            terms.append(Term(term.out, tuple(term.inp[k] for k in rest), term.factors, term.scale))
        return Block(self.out_shape, tuple(self.inp_shape[k] for k in rest), terms, self.one)

    def per_sample(self) -> Block:
        """Only each sample's own entries, samples first on both sides: what couples samples is left out."""
        terms = [Term(t.out, (t.out[0], *t.inp), t.factors, t.scale) for t in self.paired(0, 0).terms]
        return Block(self.out_shape, self.inp_shape, terms, self.one)

    def dense(self, dtype: np.dtype[Any], like: Array, total: Array = None) -> Array:
        """The array of shape ``(*out_shape, *inp_shape)``, newly made, or added to `total` where that is given."""
        shape = (*self.out_shape, *self.inp_shape)
        parts = [((*t.out, *t.inp), t.factors, t.scale) for t in self.terms]
        if is_traced(like) or is_traced(total) or any(is_traced(f.array) for t in self.terms for f in t.factors):
            return _written_functional(parts, shape, dtype, like, total)
        return written(parts, shape, dtype, like, total)

    def materialised(self, axes: Sequence[int]) -> Block:
        """The same map, each of the given output axes with a label of its own that stands nowhere else but in data."""
        terms = self.terms
        for k in axes:
            terms = tuple(term if _lone(term, k) else _materialise(term, k, self.one) for term in terms)
        return Block(self.out_shape, self.inp_shape, terms, self.one)


def embed(array: Array, labels: Sequence[Label], axes: Axes, shape: Shape) -> Array:
    """The array of `shape` that has ``array[labels]`` at the positions that `axes` name, and zero elsewhere."""
    if hasattr(array, "embedded"):  # a shadow, which only counts
        return array.embedded(shape)
    from ..ops.structural import relabel  # the operation is itself described by a block

    return relabel(array, inp=tuple((label,) for label in labels), out=axes, shape=shape)


def superposed(parts: Sequence[tuple[Array, Sequence[Label], Axes]], shape: Shape, total: Array = None) -> Array:
    """The sum of arrays over labels, each at the positions that its axes name, and of `total` where that is given."""
    if total is not None:
        whole = tuple(Label(n) for n in shape)
        parts = [(total, whole, tuple((label,) for label in whole)), *parts]
    if len(parts) == 1:
        return embed(*parts[0], shape)
    from ..ops.structural import superpose

    seen: list[Axes] = []
    places = []
    for _, labels, axes in parts:
        places.append((tuple(labels), axes, any(_meets(axes, other) for other in seen)))
        seen.append(axes)
    return superpose(*(array for array, _, _ in parts), parts=tuple(places), shape=shape)


def _meets(a: Axes, b: Axes) -> bool:
    """Whether two terms may have an entry in common."""
    for label in labels_in(b):  # labels of the two are to be distinct
        b = Substitution(label, Label(label.size), None, 0, 1).in_axes(b)
    try:
        _solve(list(zip(a, b, strict=True)), [], [])
    except Vanishes:
        return False
    except Misaligned:
        pass
    return True


def spread(factor: Factor, labels: Sequence[Label]) -> Array:
    """The factor's array over all of `labels`, repeated along those that it lacks."""
    if tuple(labels) == factor.axes:
        return factor.array
    shape = tuple(label.size for label in labels)
    if hasattr(factor.array, "spread"):
        return factor.array.spread(shape)
    return np.broadcast_to(aligned(factor, labels), shape)


def _squeezed(array: Array, axes: Axes) -> Factor:
    if () in axes:
        array = array.reshape(tuple(n for n in array.shape if n != 1))
    return Factor(array, tuple(axis[0] for axis in axes if axis))  # type: ignore[misc]


def _compose(g: Term, f: Term, one: Array) -> Term | None:
    """The term of `g` after `f`, or None where it is zero. Labels of the two are distinct."""
    if g.identity:
        return f
    if f.identity:
        return g
    if g.plain and f.plain:
        return _compose_plain(g, f)
    met = _meet(g, f, one)
    if met is None:
        return None
    g, f = met
    return _reduced(g.out, f.inp, g.inp, (*g.factors, *f.factors), g.scale * f.scale)


def _meet(g: Term, f: Term, one: Array) -> tuple[Term, Term] | None:
    """Two terms after substitutions that make `g.inp` and `f.out` name the same positions; None where they cannot."""
    while True:
        for k in range(len(g.inp)):  # one axis after the other, so that a failure names its axis
            try:
                solved = _solve([(g.inp[k], f.out[k])], [g.out, g.inp, f.out, f.inp], [*g.factors, *f.factors])
            except Misaligned:
                break
            except Vanishes:
                return None
            (out, g_inp, f_out, inp), factors = solved
            count = len(g.factors)
            g = Term(out, g_inp, tuple(factors[:count]), g.scale)
            f = Term(f_out, inp, tuple(factors[count:]), f.scale)
        else:
            return g, f
        if not _lone(f, k):
            f = _materialise(f, k, one)
        else:
            g = _materialise(g.transposed, k, one).transposed


def bilinear(form: Term, left: Block, right: Block, out_shape: Shape, collapse: bool) -> Block:
    """A bilinear form on the derivatives of its two operands along the same inputs k.

    `form` has the axes of both operands as its input, one after the other. Returns the block
    ``sum_{a, b} form[., a, b] left[a, k] right[b, k]``, or with `collapse` its sum over k as a column.
    """
    terms = []
    for a in left.terms:
        for b in right.terms:
            met = _meet(a, b.renamed().transposed, left.one)  # the two name the same input
            if met is None:
                continue
            a_k, b_k = met
            both = Term((*a_k.out, *b_k.inp), a_k.inp, (*a_k.factors, *b_k.factors), a_k.scale * b_k.scale)
            met = _meet(form.renamed(), both, left.one)
            if met is None:
                continue
            g, f = met
            inp: Axes = () if collapse else f.inp
            terms.append(_reduced(g.out, inp, (*g.inp, *f.inp), (*g.factors, *f.factors), g.scale * f.scale))
    return Block(out_shape, () if collapse else left.inp_shape, _collect(terms), left.one)


def _compose_plain(g: Term, f: Term) -> Term:
    new = {a[0]: b[0] for a, b in zip(g.inp, f.out, strict=True) if a}
    out = tuple((new.get(axis[0], axis[0]),) if axis else axis for axis in g.out)
    factors = [Factor(array, tuple([new.get(label, label) for label in axes])) for array, axes in g.factors]  # type: ignore[misc]
    return _reduced(out, f.inp, f.out, (*factors, *f.factors), g.scale * f.scale)


def _reduced(out: Axes, inp: Axes, met: Axes, factors: tuple[Factor, ...], scale: float) -> Term:
    """A term whose factors have only labels of its axes; the labels in `met` are summed where nothing else has them."""
    keep = labels_in(out) | labels_in(inp)
    for label in labels_in(met):
        if label not in keep and all(label not in axes for _, axes in factors):
            scale *= label.size
    constants = [array for array, axes in factors if not axes]
    if constants and all(type(c) is float or type(c) is int for c in constants):
        scale *= prod(constants)
        factors = tuple(factor for factor in factors if factor.axes)
    if scale != 1.0 and len(factors) > 1:  # into the smallest of what is multiplied anyway
        gone = [factor for factor in factors if any(label not in keep for label in factor.axes)]
        if len(gone) > 1:
            least = min(gone, key=lambda factor: size_of(factor.axes))
            scaled = Factor(least.array * scale, least.axes)
            factors, scale = tuple([scaled if factor is least else factor for factor in factors]), 1.0
    return Term(out, inp, contract(factors, keep) if factors else (), scale)


def _solve(
    pairs: list[tuple[Axis, Axis]], groups: list[Axes], factors: list[Factor]
) -> tuple[list[Axes], list[Factor]]:
    """Substitute labels until the two axes of each pair name the same positions."""
    while pairs:
        a, b = pairs.pop()
        while a and b:
            high, low = a[-1], b[-1]
            changes: list[Substitution]
            if high.size == low.size:
                changes = match(high, low)
                a, b = a[:-1], b[:-1]
            elif high.size > low.size:
                *parts, change = split(high, low.size)
                a, changes = a[:-1] + parts[0] + parts[1], [change] if change else []
            else:
                *parts, change = split(low, high.size)
                b, changes = b[:-1] + parts[0] + parts[1], [change] if change else []
            for change in changes:
                *groups, (a, b) = [change.in_axes(group) for group in (*groups, (a, b))]
                pairs = [change.in_axes(pair) for pair in pairs]  # type: ignore[misc]
                factors = [substitute(factor, change) for factor in factors]
    return groups, factors


def _restrict(term: Term, out_axis: int, inp_axis: int, one: Array) -> Term | None:
    while True:
        pair = (term.out[out_axis], term.inp[inp_axis])
        try:
            (out, inp), factors = _solve([pair], [term.out, term.inp], list(term.factors))
        except Vanishes:
            return None
        except Misaligned:
            if _lone(term, out_axis):
                term = _materialise(term.transposed, inp_axis, one).transposed
            else:
                term = _materialise(term, out_axis, one)
        else:
            return Term(out, inp, tuple(factors), term.scale)


def _lone(term: Term, k: int) -> bool:
    """Whether output axis `k` is one whole label that stands nowhere else in the term's axes."""
    axis = term.out[k]
    if len(axis) != 1 or type(axis[0]) is not Label:
        return not axis
    rest = (*term.out[:k], *term.out[k + 1 :], *term.inp)
    return not any(label_of(digit) is axis[0] for other in rest for digit in other)


def _materialise(term: Term, k: int, unit: Array) -> Term:
    """Give output axis `k` one label of its own: what tied it to other axes becomes data."""
    axis = term.out[k]
    (new,) = fresh = axis_of(axis_size(axis))
    assert type(new) is Label
    elsewhere = labels_in((*term.out[:k], *term.out[k + 1 :], *term.inp))
    mine = labels_in((axis,))
    touched = [factor for factor in term.factors if not mine.keys().isdisjoint(factor.axes)]
    others = tuple(factor for factor in term.factors if all(factor is not t for t in touched))
    keep = elsewhere | mine
    one = contract_to_one(touched, keep) if touched else Factor(unit, ())
    labels = tuple(one.axes) + tuple(label for label in mine if label not in one.axes)
    array = spread(one, labels)
    stays = tuple(label for label in labels if label in elsewhere)
    data = embed(array, labels, (*((label,) for label in stays), axis), (*(label.size for label in stays), new.size))
    factors = (*others, Factor(data, (*stays, new)))
    return Term((*term.out[:k], fresh, *term.out[k + 1 :]), term.inp, factors, term.scale)


def _collect(terms: Sequence[Term]) -> list[Term]:
    """Add terms of equal structure where that costs no memory, and give up products where they cost more than data."""
    if len(terms) < 2:
        return list(terms)
    groups: dict[Any, list[Term]] = {}
    for term in terms:
        groups.setdefault(term.key()[0], []).append(term)
    result: list[Term] = []
    for group in groups.values():
        summed: list[Term] = []
        for term in group:
            for n, other in enumerate(summed):
                total = _sum(other, term)
                if total is not None:
                    summed[n] = total
                    break
            else:
                summed.append(term)
        stored = sum(size_of(factor.axes) for term in summed for factor in term.factors)
        products = any(len(term.factors) > 1 for term in summed)
        if products and len(summed) > 1 and stored >= size_of(group[0].labels()):
            summed = [_sum_dense(summed)]
        result += summed
    held = {id(factor.array) for term in terms for factor in term.factors}
    made = [term for term in result if _full(term) and id(term.factors[0].array) not in held]
    return _gathered(result, made[0]) if made and len(result) > 1 else result


def _gathered(terms: list[Term], full: Term) -> list[Term]:
    """The terms, those that lie within a full array which has just been made added into it.

    Beside a term with data for every entry structure saves nothing: the others would be multiplied along in every step,
    and added in the end.
    """
    (factor,) = full.factors
    inside: list[tuple[Array, Sequence[Label], Axes]] = []
    rest: list[Term] = []
    for term in terms:
        axes = None if term is full else _within(full, term)
        dtypes = [f.array.dtype for f in (factor, *term.factors) if hasattr(f.array, "dtype")]
        if axes is None or np.result_type(*dtypes) != dtypes[0]:
            rest.append(term)
            continue
        labels = tuple(labels_in(axes))
        have = tuple(label for label in labels if any(label in f.axes for f in term.factors))
        inside.append((product(term.factors, have, term.scale), have, axes))
    if not inside:
        return terms
    total = Term(full.out, full.inp, (Factor(_added(factor.array, inside), factor.axes),))
    return [total if term is full else term for term in rest]


def _full(term: Term) -> bool:
    """Whether a term is one array, with an axis for each label, and each of its axes one whole label."""
    return (
        len(term.factors) == 1 and term.scale == 1.0 and term.plain and len(term.factors[0].axes) == len(term.labels())
    )


def _within(full: Term, term: Term) -> Axes | None:
    """The axes of the full term's array over the labels of another one, where its entries are among the full term's."""
    found: dict[Any, Axis] = {}
    for mine, other in zip((*full.out, *full.inp), (*term.out, *term.inp), strict=True):
        if mine and found.setdefault(mine[0], other) != other:
            return None
    return tuple(found[label] for label in full.factors[0].axes)


def _added(array: Array, parts: list[tuple[Array, Sequence[Label], Axes]]) -> Array:
    """Parts added into an array that nothing else holds."""
    if hasattr(array, "embedded"):  # a shadow, which only counts
        for _, labels, _ in parts:
            array.added(size_of(labels))
        return array
    if is_traced(array) or any(is_traced(part) for part, _, _ in parts):
        placed = [(astype(part, array.dtype, array), labels, axes) for part, labels, axes in parts]
        return superposed(placed, array.shape, array)
    for part, labels, axes in parts:
        where = tuple(labels_in(axes))
        view = strided(array, axes, where)
        view += aligned(Factor(part, tuple(labels)), where) if labels else part
    return array


def _sum(a: Term, b: Term) -> Term | None:
    """The sum of two terms of equal structure, or None where it would need more memory than they do.

    Factors that both have stay apart: ``w p + w q = w (p + q)``, so that a product with `w` is made once.
    """
    rename = dict(zip(b.key()[1], a.key()[1], strict=True))
    theirs = [Factor(f.array, tuple(rename[label] for label in f.axes)) for f in b.factors]
    common: list[Factor] = []
    mine: list[Factor] = []
    for factor in a.factors:
        same = [n for n, f in enumerate(theirs) if f.array is factor.array and f.axes == factor.axes]
        (common if same else mine).append(theirs.pop(same[0]) if same else factor)
    if not mine and not theirs:
        return Term(a.out, a.inp, a.factors, a.scale + b.scale)
    if len(mine) > 1 or len(theirs) > 1 or (common and not (mine and theirs)):
        return None
    x, y = (Term(a.out, a.inp, tuple(f), t.scale).one_factor() for f, t in ((mine, a), (theirs, b)))
    large, small = (x, y) if size_of(x.axes) >= size_of(y.axes) else (y, x)  # the larger one stays as it lies in memory
    order = large.axes + tuple(label for label in small.axes if label not in large.axes)
    if size_of(order) > size_of(large.axes):
        return None
    return Term(a.out, a.inp, (*common, Factor(aligned(x, order) + aligned(y, order), order)))


def _sum_dense(terms: list[Term]) -> Term:
    first = terms[0]
    labels = first.key()[1]
    renamed = []
    for term in terms:
        rename = dict(zip(term.key()[1], labels, strict=True))
        renamed.append([Factor(f.array, tuple(rename[label] for label in f.axes)) for f in term.factors])
    # along a label that no factor has, the sum is constant too
    order = tuple(label for label in labels if any(label in f.axes for factors in renamed for f in factors))
    total: Array = None
    for term, factors in zip(terms, renamed, strict=True):
        array = product(factors, order, term.scale)
        total = array if total is None else total + array
    return Term(first.out, first.inp, (Factor(total, order),))


_Parts: TypeAlias = Sequence[tuple[Axes, tuple[Factor, ...], float]]


def written(parts: _Parts, shape: Shape, dtype: Any, like: Array, result: Array) -> Array:
    """Each part's product, written or added to where its axes say, in `result` or a new array of `shape`."""
    xp = namespace(like)
    for axes, factors, scale in sorted(parts, key=lambda part: not covers(part[0])):
        labels = tuple(labels_in(axes))
        if result is None:
            result = (xp.empty if covers(axes) else xp.zeros)(shape, dtype)
            add = False
        else:
            add = True
        view = strided(result, axes, labels)
        if len(factors) > 1 and not add:
            *first, last = sorted(factors, key=lambda factor: size_of(factor.axes))
            xp.multiply(product(first, labels, scale), aligned(last, labels), out=view, casting="same_kind")
        elif add:
            view += product(factors, labels, scale)
        else:
            view[...] = product(factors, labels, scale)
    return xp.zeros(shape, dtype) if result is None else result


def covers(axes: Axes) -> bool:
    """Whether the positions that the axes name are all there are."""
    digits = [digit for axis in axes for digit in axis]
    return all(type(digit) is Label for digit in digits) and len(set(digits)) == len(digits)


def strided(array: Array, axes: Axes, labels: Sequence[Label]) -> Array:
    """The strided view of `array` whose axes are the labels."""
    strides, start = View(array.shape, array.strides).labelled(axes)
    first = array[(*[slice(k, None) for k in start], ...)]
    shape, steps = [label.size for label in labels], [strides.get(label, 0) for label in labels]
    return namespace(array).lib.stride_tricks.as_strided(first, shape, steps)


def _written_functional(parts: _Parts, shape: Shape, dtype: Any, like: Array, result: Array) -> Array:
    """As `written`, without writing in place, so that an outer trace can record it."""
    placed: list[tuple[Array, Sequence[Label], Axes]] = []
    for axes, factors, scale in sorted(parts, key=lambda part: not covers(part[0])):
        labels = tuple(labels_in(axes))
        have = tuple(label for label in labels if any(label in factor.axes for factor in factors))
        array = astype(product(factors, have, scale), dtype, like)
        if have == labels and tuple(axis for axis in axes if axis) == tuple((label,) for label in labels):
            array = array if array.shape == shape else array.reshape(shape)
            result = array if result is None else result + array
        else:
            placed.append((array, have, axes))
    if result is not None:
        result = astype(result, dtype, like)
    if placed:
        result = superposed(placed, shape, result)
    return zeros(shape, dtype, like) if result is None else result
