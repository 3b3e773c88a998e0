"""Picks: digits whose positions stand in an array, as those of a mesh or a graph do, and what the algebra asks of them.

Between ``x`` and ``x[:, idx]`` entry e is at position ``idx[e]``: the block has the label e on one side and the pick
``idx[e]`` on the other, and no entry but those. Gathering, scaling and adding up at positions leaves it so, whatever
lies between two of them (labels are replaced by picks). Where a pick meets another, or a window, the places that agree
are listed (a join of two lists), and entries of one place are added up. A term whose entries are no fewer than a dense
array's becomes that array, and so does one that goes on through what is no block, unless each place is listed, once.

Arrays of positions are NumPy's. Those on a device are read where they pick samples; there otherwise, and where a
program computes them, maps by positions stay maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .algebra.factors import Array, Factor, contract_to_one, size_of, spread, substitute
from .algebra.labels import (
    Axes,
    Axis,
    Digit,
    Label,
    Listed,
    Misaligned,
    Vanishes,
    axis_of,
    axis_size,
    labels_in,
    progression,
    window,
)
from .algebra.terms import Term
from .algebra.writing import stands_in
from .backend import namespace, on_host, placed, scatter_add

__all__ = ["Pick", "added", "as_pick", "combined"]


class Pick(Listed):
    """Positions below `size`: ``array[axes]``, for all values of the labels `axes`. Immutable."""

    __slots__ = ("_key", "array", "axes", "size")

    def __init__(self, array: Any, axes: tuple[Label, ...], size: int) -> None:
        self.array, self.axes, self.size = array, axes, size
        self._key: bytes | None = None

    @property
    def key(self) -> bytes:
        if self._key is None:
            self._key = blake2b(self.array.astype(np.int64, "C").data, digest_size=16).digest()
        return self._key

    def changed(self, change: Any) -> Axis:
        array, axes = substitute(Factor(self.array, self.axes), change)
        return (self,) if array is self.array and axes == self.axes else picked(array, axes, self.size)

    def split(self, inner: int) -> tuple[Axis, Axis, None]:
        high, low = divmod(self.array, inner)
        return picked(high, self.axes, self.size // inner), picked(low, self.axes, inner), None

    def match(self, other: Digit, most: float) -> list[Listing]:
        if type(other) is Label and other not in self.axes:
            return [Listing({other: self.array}, self.axes)]
        found = _meetings(self, as_pick(other), most)
        count = len(next(iter(found.values())))
        if count == 0:
            raise Vanishes
        new = axis_of(count)
        return [Listing({label: k if new else k[0] for label, k in found.items()}, new)]  # type: ignore[arg-type]

    def settled(self, term: Term, before: int, unit: Array) -> Term:
        count, plain = size_of(term.labels()), labels_in(_others(term))
        if count >= size_of(plain) * prod(pick.size for pick in _apart(term.listed)):
            return _summed(term, unit)
        listed = labels_in((term.listed,))
        return _summed(term, unit, True) if count > before and plain.keys().isdisjoint(listed) else term

    def written(self, term: Term, unit: Array) -> Term:
        return _summed(term, unit)

    def merged(self, term: Term, k: int) -> Term:
        mine, axis = tuple(labels_in((term.out[k],))), term.out[k]
        at = combined([as_pick(digit) for digit in axis], mine).reshape(_sizes(mine))
        out = (*term.out[:k], picked(at, mine, axis_size(axis)), *term.out[k + 1 :])
        return term.over(out, term.inp)

    def named(self, term: Term, k: int) -> Term | None:
        (label, *others), counts = self.axes, np.bincount(self.array.reshape(-1), minlength=self.size)
        if others or (counts != 1).any():
            return None
        new = Label(self.size)
        listing = Listing({label: np.argsort(self.array)}, (new,))
        out, inp = listing.in_axes(term.out), listing.in_axes(term.inp)
        factors = tuple([listing.in_factor(factor) for factor in term.factors])
        return Term((*out[:k], (new,), *out[k + 1 :]), inp, factors, term.scale, term.conj)

    def without_ones(self) -> Axis:
        axes = tuple(label for label in self.axes if label.size != 1)
        return picked(self.array.reshape(_sizes(axes)), axes, self.size)

    def over(self, order: Sequence[Label]) -> Any:
        """The positions with an axis for each label in `order`, of length one along those that they lack."""
        array = self.array.transpose([self.axes.index(label) for label in order if label in self.axes])
        return array.reshape([label.size if label in self.axes else 1 for label in order])


def picked(array: Any, axes: tuple[Label, ...], size: int) -> Axis:
    """A pick as the shortest axis that says the same."""
    if size == 1 or not axes:
        return window(None, size, int(array.flat[0]), 1) if size > 1 else ()
    return (Pick(array, axes, size),)


def as_pick(digit: Digit) -> Pick:
    """The positions of a digit as an array."""
    if isinstance(digit, Pick):
        return digit
    label, offset, step = progression(digit)
    if label is None:
        return Pick(np.array(offset), (), digit.size)
    return Pick(offset + step * np.arange(label.size), (label,), digit.size)


def _sizes(axes: Sequence[Label]) -> list[int]:
    return [label.size for label in axes]


def _others(term: Term) -> Axes:
    """The axes of both sides without their picks."""
    return tuple([tuple([d for d in axis if not isinstance(d, Listed)]) for axis in (*term.out, *term.inp)])


class Listing(NamedTuple):
    """What stands in place of some labels: positions that arrays over the labels `axes` have."""

    places: Mapping[Any, Any]
    axes: tuple[Label, ...]

    def in_axes(self, axes: Axes) -> Axes:
        return tuple(tuple(new for digit in axis for new in self._in_digit(digit)) for axis in axes)

    def then(self, change: Any) -> list[Any]:
        """This and then another one, as one where both are lists over the same labels."""
        if isinstance(change, Listing) and change.axes == self.axes and change.places.keys().isdisjoint(self.axes):
            return [Listing({**change.places, **self.places}, self.axes)]
        return [self, change]

    def _in_digit(self, digit: Digit) -> Axis:
        if isinstance(digit, Listed):
            return digit.changed(self)
        label, offset, step = progression(digit)
        return picked(offset + step * self.places[label], self.axes, digit.size) if label in self.places else (digit,)

    def in_factor(self, factor: Factor) -> Factor:
        """The factor's entries at the positions. Along a label that both have, the same value is meant."""
        array, axes = factor
        if not any(label in self.places for label in axes):
            return factor
        mine = [label for label in axes if label in self.places or label in self.axes]
        rest = [label for label in axes if label not in mine]
        first = axes.index(mine[0])
        before, after = rest[:first], rest[first:]
        if (order := [*before, *mine, *after]) != [*axes]:
            array = array.transpose([axes.index(label) for label in order])
        if len(mine) > 1:
            array = array.reshape([*_sizes(before), -1, *_sizes(after)])
            picks = [Pick(self.places[a], self.axes, a.size) if a in self.places else as_pick(a) for a in mine]
            at = combined(picks, self.axes).reshape(_sizes(self.axes))
        else:
            at = self.places[mine[0]]
        return Factor(array.take(placed(at, array), axis=first), (*before, *self.axes, *after))


# -- arrays of positions -----------------------------------------------------------------------------------------------
def combined(picks: Sequence[Pick], order: Sequence[Label]) -> Any:
    """Several positions as one number, the first most significant, for all values of the labels: a vector."""
    flat: Any = 0
    for pick in picks:
        flat = flat * pick.size + pick.over(order)
    return np.broadcast_to(flat, _sizes(order)).reshape(-1)


def _meetings(a: Pick, b: Pick, most: float) -> dict[Label, Any]:
    """The values of all labels, label by label, at which two positions are equal.

    Labels that both have take one value. Raises Misaligned where both have labels of their own and more than `most`
    pairs of their values meet. Cost: the lengths of `a`, `b` and of the result, and a sort of `b`.
    """
    axes = (*a.axes, *(label for label in b.axes if label not in a.axes))
    if len(axes) < len(a.axes) + len(b.axes):
        return dict(zip(axes, np.nonzero(a.over(axes) == b.over(axes)), strict=True))
    left, right = a.array.reshape(-1), b.array.reshape(-1)
    count = np.bincount(right, minlength=a.size)
    each = count[left]  # how many partners each has
    total = int(each.sum())
    if total > most:
        raise Misaligned
    within = np.arange(total) - np.repeat(np.cumsum(each) - each, each)
    partner = np.repeat((np.cumsum(count) - count)[left], each) + within
    found = np.repeat(np.arange(left.size), each), np.argsort(right, kind="stable")[partner]
    sides = [np.unravel_index(flat, _sizes(x.axes)) if x.axes else () for flat, x in zip(found, (a, b), strict=True)]
    return dict(zip(axes, [*sides[0], *sides[1]], strict=True))


def added(values: Any, flat: Any, size: int) -> Any:
    """Zeros ``(m, size, n)`` with values ``(m, k, n)`` added at k positions along the second axis."""
    m, k, n = values.shape
    if not on_host(values):
        result = namespace(values).zeros((m, size, n), values.dtype)
        scatter_add(result, (slice(None), placed(flat, values)), values)
        return result
    if values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        lines = np.arange(m)[:, None, None] * size + flat[:, None]
        where = lines if n == 1 else lines * n + np.arange(n)
        total = np.bincount(where.reshape(-1), values.reshape(-1), m * size * n)
        return total.astype(values.dtype, copy=False).reshape(m, size, n)
    result = np.zeros((m, size, n), values.dtype)
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    first = np.concatenate([np.ones(1, bool), ordered[1:] != ordered[:-1]])[: flat.size]
    if first.all():
        result[:, flat] = values
    else:
        result[:, ordered[first]] = np.add.reduceat(values[:, order], np.flatnonzero(first), axis=1)
    return result


def _summed(term: Term, unit: Array, distinct: bool = False) -> Term:
    """The same term with a label of its own for each pick, dense along it; equal picks have one.

    With `distinct`, picks are kept that share one label, along which no place comes twice.
    """
    plain, mine = labels_in(_others(term)), labels_in((term.listed,))
    apart = _apart(term.listed)
    picks: list[Any] = [*(as_pick(label) for label in mine if label in plain), *apart]
    sizes = [pick.size for pick in picks]
    keys = combined(picks, [*mine])
    new = [axis_of(pick.size) for pick in apart]
    own = tuple(axis[0] for axis in new)
    if distinct:
        found, keys = np.unique(keys, return_inverse=True)
        own = axis_of(len(found))
        new = [picked(k, own, n) for k, n in zip(np.unravel_index(found, sizes), sizes, strict=True)]  # type: ignore[arg-type]
    touched = [factor for factor in term.factors if not mine.keys().isdisjoint(factor.axes)]
    others = [factor for factor in term.factors if mine.keys().isdisjoint(factor.axes)]
    one = contract_to_one(touched, plain | mine) if touched else Factor(unit, ())
    rest = tuple(label for label in one.axes if label not in mine)
    target: tuple[Any, ...] = (*rest, *(label for label in mine if label in plain), *own)
    data = spread(one, (*rest, *mine)).reshape(size_of(rest), keys.size)
    size = size_of(target[len(rest) :])
    data = data.added_at(keys, size) if stands_in(data) else added(data[:, :, None], keys, size)
    axis_for = dict(zip(map(_mark, apart), new, strict=True))
    out, inp = (tuple(tuple(d for digit in axis for d in axis_for.get(_mark(digit), (digit,)))
                      for axis in axes) for axes in (term.out, term.inp))  # fmt: skip
    return Term(out, inp, (*others, Factor(data.reshape(_sizes(target)), target)), term.scale, term.conj)


def _mark(digit: Digit) -> Any:
    """The same for picks that are equal for all values of their labels."""
    return (digit.key, digit.axes, digit.size) if isinstance(digit, Pick) else digit


def _apart(picks: Sequence[Any]) -> list[Any]:
    """Each of several equal picks once."""
    return list({_mark(pick): pick for pick in picks}.values())
