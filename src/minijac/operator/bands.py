"""Diagonals: how far off the main one a term lies, and terms of one diagonal in different windows made one.

A stencil with boundary conditions has, on each diagonal, a long term of the interior and short ones of the boundary.
The short ones are added into the data of the long one, padded to hold both.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from ..algebra.factors import Array, Factor, size_of, spread
from ..algebra.labels import Axes, Axis, Label, labels_in, progression, window
from ..algebra.terms import Term
from ..algebra.writing import stands_in, superposed
from ..backend import astype, namespace
from ..picks import Pick

__all__ = ["merged", "offsets"]

WORTH = 1.5
"""How much larger than its larger part a joined term may be."""


# -- offsets -----------------------------------------------------------------------------------------------------------
def offsets(out: Axes, inp: Axes) -> tuple[int, ...] | None:
    """How far each input axis is ahead of the output axis, if each entry has one place: a diagonal; None otherwise."""
    if len(out) != len(inp) or any(type(digit) is Pick for axis in (*out, *inp) for digit in axis):
        return None
    found = tuple(_offset(a, b) for a, b in zip(out, inp, strict=True))
    return None if None in found else found  # type: ignore[return-value]


def _offset(a: Axis, b: Axis) -> int | None:
    """The constant distance of two axes that run along the same labels."""
    left, right = _placed(a), _placed(b)
    return right[0] - left[0] if left[1] == right[1] else None


def _placed(axis: Axis) -> tuple[int, list[tuple[int, int]]]:
    """The first position of an axis, and for each label its identity and the step with which it moves on."""
    start, steps, stride = 0, [], 1
    for digit in reversed(axis):
        label, offset, step = progression(digit)
        start += offset * stride
        if label is not None:
            steps.append((id(label), step * stride))
        stride *= digit.size
    return start, steps


# -- joining -----------------------------------------------------------------------------------------------------------
class Fit(NamedTuple):
    """Where a label of a term lies in another term: its first position there, and the other's label (None: fixed)."""

    start: int
    label: Label | None

    @property
    def size(self) -> int:
        return 1 if self.label is None else self.label.size


def merged(terms: Sequence[Term], dtype: Any, like: Array) -> list[Term]:
    """The terms, those of one diagonal joined where one of them holds nearly all of it. Data is of `dtype`."""
    result: list[Term] = []
    for term in sorted(terms, key=lambda term: -size_of(term.labels())):
        for n, other in enumerate(result):
            fit = _fit(other, term) if _joinable(other) and _joinable(term) else None
            if fit is not None and _pays(fit):
                result[n] = _joined(other, term, fit, dtype, like)
                break
        else:
            result.append(term)
    return result


def _joinable(term: Term) -> bool:
    """Whether the term lies along lines, its weights as one array no larger than its diagonal."""
    if term.listed:
        return False
    return len(term.factors) < 2 or labels_in(term.out).keys() == labels_in(term.inp).keys()


def _fit(large: Term, small: Term) -> dict[Label, Fit] | None:
    """Where each label of the large term meets the small one, if both name positions along the same lines."""
    fits: dict[Label, Fit] = {}
    owner: dict[Label, Label] = {}
    for a, b in zip((*large.out, *large.inp), (*small.out, *small.inp), strict=True):
        if len(a) != len(b):
            return None
        for left, right in zip(a, b, strict=True):
            if left.size != right.size:
                return None
            (label, o1, s1), (other, o2, s2) = progression(left), progression(right)
            if label is None:
                if other is not None or o1 != o2:
                    return None
                continue
            start, rest = divmod(o2 - o1, s1)
            fit = Fit(start, other)
            if rest or (other is not None and s1 != s2) or fits.setdefault(label, fit) != fit:
                return None
            if other is not None and owner.setdefault(other, label) is not label:
                return None
    return fits


def _pays(fits: dict[Label, Fit]) -> bool:
    hull = prod(_end(label, fit) - min(0, fit.start) for label, fit in fits.items())
    return hull <= WORTH * size_of(fits)


def _end(label: Label, fit: Fit) -> int:
    return max(label.size, fit.start + fit.size)


def _joined(large: Term, small: Term, fits: dict[Label, Fit], dtype: Any, like: Array) -> Term:
    """The sum of two terms, over labels that span both."""
    first = {label: min(0, fit.start) for label, fit in fits.items()}
    same = {label for label, fit in fits.items() if fit.start == 0 and fit.size == label.size}
    new = {label: label if label in same else Label(_end(label, fit) - first[label]) for label, fit in fits.items()}
    x, y = large.one_factor(), small.one_factor()
    # constant along a label only where both terms are, and both run over all of it
    order = [label for label in fits if label not in same or label in x.axes or fits[label].label in y.axes]
    within = [fits[label] for label in order]
    parts = [
        (x, order, [-first[label] for label in order], [label.size for label in order]),
        (y, [fit.label for fit in within], [fit.start - first[label] for fit, label in zip(within, order, strict=True)],
         [fit.size for fit in within]),
    ]  # fmt: skip
    total = _total(parts, tuple(new[label].size for label in order), dtype, like)

    def moved(axes: Axes) -> Axes:
        return tuple(tuple(d for digit in axis for d in _moved(digit, first, new)) for axis in axes)

    return Term(moved(large.out), moved(large.inp), (Factor(total, tuple(new[label] for label in order)),))


def _total(parts: Any, shape: tuple[int, ...], dtype: Any, like: Array) -> Array:
    """The sum of factors, each in its window of an array of `shape`."""
    if not any(map(stands_in, (like, *(factor.array for factor, *_ in parts)))):
        total = namespace(like).zeros(shape, dtype)
        for factor, labels, starts, sizes in parts:
            where = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
            # a label of size one is none: its axis is made again
            kept = [label for label in labels if label is not None]
            total[where] += spread(factor, kept).reshape(sizes) if factor.axes else factor.array
        return total
    placed = []
    for factor, labels, starts, _ in parts:
        kept = [label for label in labels if label is not None]
        axes = tuple(window(label, n, start, 1) for label, n, start in zip(labels, shape, starts, strict=True))
        array = spread(factor, kept) if factor.axes else factor.array
        placed.append((astype(array, dtype, like), kept if factor.axes else (), axes))
    return superposed(placed, shape)


def _moved(digit: Any, first: dict[Label, int], new: dict[Label, Label]) -> Axis:
    label, offset, step = progression(digit)
    if label is None or new[label] is label:
        return (digit,)
    return window(new[label], digit.size, offset + step * first[label], step)
