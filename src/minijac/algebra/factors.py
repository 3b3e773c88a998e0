"""Arrays with labelled axes: the numbers of a block, and the few things done to them.

Every function takes plain arrays and traced values alike (it uses operators and methods only), so that an outer trace
records what an inner transformation computes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from math import inf, prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..backend import is_complex
from ..prices import CALL_PER_MATRIX, MATMUL, MOVE, SMALL
from .labels import Label, Substitution

__all__ = [
    "Factor", "aligned", "conjugated", "contract", "contract_to_one", "product", "size_of", "substitute",
]  # fmt: skip

Array: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
SOME = 5
"""Factors up to which all orders of multiplying them are priced."""
LONG = 32
"""Entries side by side from which on to multiply arrays and sum takes NumPy less than matrices across them."""


class Factor(NamedTuple):
    """An array and the label of each of its axes, no label twice."""

    array: Array
    axes: tuple[Label, ...]


def size_of(axes: Iterable[Label]) -> int:
    return prod(label.size for label in axes)


def conjugated(factor: Factor) -> Factor:
    return Factor(factor.array.conjugate(), factor.axes) if is_complex(factor.array) else factor


def aligned(factor: Factor, order: Sequence[Label]) -> Array:
    """The array with its axes in `order`, of length one along labels that it lacks."""
    array, axes = factor
    if axes == order:
        return array
    present = [axes.index(label) for label in order if label in axes]
    if present != sorted(present):
        array = array.transpose(present)
    if len(present) < len(order) and present:
        array = array[tuple(slice(None) if label in axes else None for label in order)]
    return array


def product(factors: Sequence[Factor], order: Sequence[Label], scale: complex = 1.0) -> Array:
    """The product over all factors, broadcastable to `order`; scaled where the factor is smallest."""
    by_size = sorted(factors, key=lambda factor: size_of(factor.axes))
    result: Array = None
    if scale != 1.0 or not by_size:
        result = scale
    for factor in by_size:
        array = aligned(factor, order)
        result = array if result is None else array * result if isinstance(result, complex) else result * array
    return result  # a complex first would make Python's complex of a number of NumPy's


def substitute(factor: Factor, change: Any) -> Factor:
    """The factor after a label was split, renamed, restricted to a window, fixed, or listed."""
    array, axes = factor
    if type(change) is not Substitution:
        return change.in_factor(factor)
    if change.label not in axes:
        return factor
    k = axes.index(change.label)
    new, low, offset, step = change.high, change.low, change.offset, change.step
    if low is not None:
        assert new is not None
        shape = array.shape
        return Factor(
            array.reshape(*shape[:k], new.size, low.size, *shape[k + 1 :]), (*axes[:k], new, low, *axes[k + 1 :])
        )
    before = (slice(None),) * k
    if new is None:
        return Factor(array[(*before, offset)], axes[:k] + axes[k + 1 :])
    if offset != 0 or step != 1 or new.size != change.label.size:
        stop = offset + step * new.size
        array = array[(*before, slice(offset, stop if stop >= 0 else None, step))]
    if new not in axes:
        return Factor(array, (*axes[:k], new, *axes[k + 1 :]))
    other = axes.index(new)  # one label on two axes means the diagonal of the two
    rest = tuple(label for i, label in enumerate(axes) if i not in (k, other))
    return Factor(array.diagonal(axis1=other, axis2=k), (*rest, new))


def contract(factors: Sequence[Factor], keep: Collection[Label]) -> tuple[Factor, ...]:
    """Sum over the labels that are not kept, multiplying only what this needs; the rest stays a product of factors."""
    result = list(factors)
    while True:
        gone = next((label for factor in result for label in factor.axes if label not in keep), None)
        if gone is None:
            return _merge_equal(result)
        # everything that shares a label to be summed has to be multiplied together, and nothing else does
        linked: list[Factor] = []
        labels = {gone}
        grew = True
        while grew:
            grew = False
            for factor in result:
                if all(factor is not other for other in linked) and not labels.isdisjoint(factor.axes):
                    linked.append(factor)
                    labels.update(label for label in factor.axes if label not in keep)
                    grew = True
        result = [factor for factor in result if all(factor is not other for other in linked)]
        result.append(contract_to_one(linked, keep))


def contract_to_one(factors: Sequence[Factor], keep: Collection[Label]) -> Factor:
    """One factor from several, in the order that takes least time."""
    work = list(factors)
    while len(work) > 2:
        number: dict[Label, int] = {}
        inputs = tuple(tuple(number.setdefault(label, len(number)) for label in factor.axes) for factor in work)
        output = tuple(n for label, n in number.items() if label in keep)
        i, j = _cheapest(inputs, output, tuple(label.size for label in number))[1]
        b, a = work.pop(j), work.pop(i)
        work.append(_pair(a, b, keep, {label for factor in work for label in factor.axes}))
    return _pair(work[0], work[1], keep) if len(work) == 2 else _sum_out(work[0], keep.__contains__)


def _merge_equal(factors: list[Factor]) -> tuple[Factor, ...]:
    """Multiply factors over the same labels: an elementwise chain stays one array."""
    if len(factors) < 2:
        return tuple(factors)
    merged: dict[frozenset[Label], Factor] = {}
    for factor in factors:
        key = frozenset(factor.axes)
        other = merged.get(key)
        if other is None:
            merged[key] = factor
        else:
            merged[key] = Factor(other.array * aligned(factor, other.axes), other.axes)
    return tuple(merged.values())


@lru_cache(maxsize=4096)
def _cheapest(
    inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[float, tuple[int, int]]:
    """The time of multiplying all of them in the best order, and the pair that comes first in it.

    A diagonal multiplied into what all samples share saves arithmetic, and costs more: one large product becomes many
    small ones. Of many factors the pair that is multiplied fastest comes first.
    """
    best = inf, (0, 1)
    for i, j in combinations(range(len(inputs)), 2):
        rest = tuple([axes for k, axes in enumerate(inputs) if k not in (i, j)])
        needed = {*output}.union(*rest)
        time = _time({*inputs[i]}, {*inputs[j]}, needed, sizes)
        if rest and time < best[0] and len(inputs) <= SOME:
            made = tuple([n for n in dict.fromkeys(inputs[i] + inputs[j]) if n in needed])
            time += _cheapest((*rest, made), output, sizes)[0]
        best = min(best, (time, (i, j)))
    return best


def _time(a: set[int], b: set[int], needed: set[int], sizes: tuple[int, ...]) -> float:
    """What `_pair` takes, in nanoseconds."""
    whole, front, summed, rows, columns = (
        prod([sizes[n] for n in labels]) for labels in (a | b, a & b & needed, (a & b) - needed, a - b, b - a)
    )
    if summed == 1 or rows == columns == 1:
        return 2 * MOVE * whole
    rate = SMALL if front > 1 and min(rows, columns, summed) < 32 else MATMUL
    return front * CALL_PER_MATRIX + whole * rate + MOVE * front * rows * columns


def _sum_out(factor: Factor, kept: Callable[[Label], bool]) -> Factor:
    gone = tuple(k for k, label in enumerate(factor.axes) if not kept(label))
    if not gone:
        return factor
    return Factor(factor.array.sum(axis=gone), tuple(label for label in factor.axes if kept(label)))


def _pair(a: Factor, b: Factor, keep: Collection[Label], needed: Collection[Label] = ()) -> Factor:
    """The product of two factors, as a broadcast multiply or a matmul, summed over labels not kept and not needed.

    The first label to keep, which is the samples' where there are any, comes first in the result, and what is still to
    be summed comes last: then the next matmul folds the rest into its rows without a copy.
    """

    def kept(label: Label) -> bool:
        return label in keep or label in needed

    a = _sum_out(a, lambda label: label in b.axes or kept(label))
    b = _sum_out(b, lambda label: label in a.axes or kept(label))
    first = next(iter(keep), None)
    if (first in b.axes, size_of(b.axes)) > (first in a.axes, size_of(a.axes)):
        a, b = b, a
    summed = [label for label in a.axes if label in b.axes and not kept(label)]
    if not summed:
        labels = a.axes + tuple(label for label in b.axes if label not in a.axes)
        order = tuple(sorted(labels, key=lambda label: (label not in keep, label is not first)))
        return Factor(aligned(a, order) * aligned(b, order), order)
    batch = [label for label in a.axes if label in b.axes and kept(label)]
    rows = [label for label in a.axes if label not in b.axes]
    columns = [label for label in b.axes if label not in a.axes]
    if not columns and (not rows or (a.axes[-1] in batch and a.axes[-1].size >= LONG)):
        # entry by entry: a matmul of single columns is slow where they are rows too, or do not lie side by side
        return _sum_out(Factor(a.array * aligned(b, a.axes), a.axes), kept)
    left = _matrix(a, batch, rows, summed)
    right = _matrix(b, batch, summed, columns)
    result = left @ right
    order = (*batch, *rows, *columns)
    return Factor(result.reshape(tuple(label.size for label in order)), order)


def _matrix(factor: Factor, batch: list[Label], rows: list[Label], columns: list[Label]) -> Array:
    array = aligned(factor, (*batch, *rows, *columns))
    shape = (*(label.size for label in batch), size_of(rows), size_of(columns))
    return array if array.shape == shape else array.reshape(shape)


def spread(factor: Factor, labels: Sequence[Label]) -> Array:
    """The factor's array over all of `labels`, repeated along those that it lacks."""
    if tuple(labels) == factor.axes:
        return factor.array
    shape = tuple(label.size for label in labels)
    if hasattr(factor.array, "spread"):
        return factor.array.spread(shape)
    return np.broadcast_to(aligned(factor, labels), shape)
