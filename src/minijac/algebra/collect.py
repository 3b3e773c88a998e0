"""Adding terms: those of equal structure become one, where that costs no memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from .factors import Array, Factor, aligned, product, size_of
from .labels import Axes, Axis, labels_in
from .terms import Term
from .writing import Placed, stands_in, strided, superposed

__all__ = ["collect"]


def collect(terms: Sequence[Term]) -> list[Term]:
    """Add terms of equal structure where that costs no memory, and give up products where they cost more than data."""
    if len(terms) < 2:
        return list(terms)
    groups: dict[Any, list[Term]] = {}
    for term in terms:
        groups.setdefault(term.key()[0], []).append(term)
    if len(groups) == len(terms):
        return list(terms)
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
    inside: list[Placed] = []
    rest: list[Term] = []
    for term in terms:
        axes = None if term is full or term.conj != full.conj else _within(full, term)
        dtypes = [f.array.dtype for f in (factor, *term.factors) if hasattr(f.array, "dtype")]
        if axes is None or np.result_type(*dtypes, term.scale) != dtypes[0]:
            rest.append(term)
            continue
        labels = tuple(labels_in(axes))
        have = tuple(label for label in labels if any(label in f.axes for f in term.factors))
        inside.append((product(term.factors, have, term.scale), have, axes))
    if not inside:
        return terms
    total = Term(full.out, full.inp, (Factor(_added(factor.array, inside), factor.axes),), conj=full.conj)
    return [total if term is full else term for term in rest]


def _full(term: Term) -> bool:
    """Whether a term is one array, with an axis for each label, and each of its axes one whole label."""
    return (
        len(term.factors) == 1 and term.scale == 1.0 and term.plain and len(term.factors[0].axes) == len(term.labels())
    )


def _within(full: Term, term: Term) -> Axes | None:
    """The axes of the full term's array over the labels of another one, where its entries are among the full term's."""
    if term.listed:
        return None
    found: dict[Any, Axis] = {}
    for mine, other in zip((*full.out, *full.inp), (*term.out, *term.inp), strict=True):
        if mine and found.setdefault(mine[0], other) != other:
            return None
    return tuple(found[label] for label in full.factors[0].axes)


def _added(array: Array, parts: list[Placed]) -> Array:
    """Parts added into an array that nothing else holds."""
    if any(map(stands_in, (array, *(part for part, _, _ in parts)))):
        return superposed(parts, array.shape, array)
    for part, labels, axes in parts:
        where = tuple(labels_in(axes))
        view = strided(array, axes, where)
        view += aligned(Factor(part, tuple(labels)), where) if labels else part
    return array


def _sum(a: Term, b: Term) -> Term | None:
    """The sum of two terms of equal structure, or None where it would need more memory than they do.

    Factors that both have stay apart: ``w p + w q = w (p + q)``, so that a product with `w` is made once.
    """
    theirs = _factors_over(a, b)
    common: list[Factor] = []
    mine: list[Factor] = []
    for factor in a.factors:
        same = [n for n, f in enumerate(theirs) if f.array is factor.array and f.axes == factor.axes]
        (common if same else mine).append(theirs.pop(same[0]) if same else factor)
    if not mine and not theirs:
        return Term(a.out, a.inp, a.factors, a.scale + b.scale, a.conj)
    own = {label: None for f in (*mine, *theirs) for label in f.axes}
    apart = not (mine and theirs) if common else len(mine) > 1 or len(theirs) > 1
    if apart or size_of(tuple(own)) > max(size_of(f.axes) for f in (*mine, *theirs)):
        return None
    opposite = (a.scale, b.scale) in ((1.0, -1.0), (-1.0, 1.0))  # a difference: nothing is multiplied by a sign
    scales = (1.0, 1.0) if opposite else (a.scale, b.scale)
    x, y = (Term(a.out, a.inp, tuple(f), s).one_factor() for f, s in zip((mine, theirs), scales, strict=True))
    large, small = (x, y) if size_of(x.axes) >= size_of(y.axes) else (y, x)  # the larger one stays as it lies in memory
    order = large.axes + tuple([label for label in small.axes if label not in large.axes])
    p, q = (aligned(each, order) for each in ((y, x) if opposite and a.scale == -1.0 else (x, y)))
    return Term(a.out, a.inp, (*common, Factor(p - q if opposite else p + q, order)), conj=a.conj)


def _factors_over(first: Term, term: Term) -> list[Factor]:
    """The factors of a term over the labels of another one of equal structure."""
    rename = dict(zip(term.key()[1], first.key()[1], strict=True))
    return [Factor(f.array, tuple([rename[label] for label in f.axes])) for f in term.factors]


def _sum_dense(terms: list[Term]) -> Term:
    first = terms[0]
    renamed = [_factors_over(first, term) for term in terms]
    # along a label that no factor has, the sum is constant too
    order = tuple(label for label in first.key()[1] if any(label in f.axes for factors in renamed for f in factors))
    total: Array = reduce(add, (product(own, order, term.scale) for own, term in zip(renamed, terms, strict=True)))
    return Term(first.out, first.inp, (Factor(total, order),), conj=first.conj)
