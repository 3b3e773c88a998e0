"""Multi-indices: what is below one, and the ways to part it among operands and factors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from itertools import combinations, product
from typing import TypeAlias

__all__ = ["MultiIndex", "dealt", "greatest", "parted", "parts_of"]

MultiIndex: TypeAlias = tuple[int, ...]
"""The features to differentiate by, sorted."""


def parts_of(indices: Iterable[MultiIndex]) -> set[MultiIndex]:
    """Everything that can be left of the multi-indices when some of their entries are taken out, but not all."""
    return {part for index in indices for n in range(1, len(index) + 1) for part in combinations(index, n)}


def greatest(indices: Collection[MultiIndex]) -> set[MultiIndex]:
    """Those that are part of no other."""
    times = Counter(part for index in indices for part in parts_of([index]))
    return {index for index in indices if times[index] == 1}


@lru_cache(maxsize=4096)
def parted(index: MultiIndex, operands: tuple[int, ...]) -> tuple[tuple[int, tuple[tuple[int, MultiIndex], ...]], ...]:
    """The terms of Faa di Bruno's formula, linear ones first: how often each occurs, and its (operand, part) pairs."""
    count: Counter[tuple[tuple[int, MultiIndex], ...]] = Counter()
    for groups in _set_partitions(index):
        for chosen in product(operands, repeat=len(groups)):
            count[tuple(sorted(zip(chosen, groups, strict=True)))] += 1
    return tuple((times, parts) for parts, times in sorted(count.items(), key=lambda item: len(item[0])))


def _set_partitions(items: MultiIndex) -> Iterator[list[MultiIndex]]:
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for n in range(len(rest) + 1):
        for with_first in combinations(range(len(rest)), n):
            group = (first, *(rest[j] for j in with_first))
            for others in _set_partitions(tuple(rest[j] for j in range(len(rest)) if j not in with_first)):
                yield [group, *others]


@lru_cache(maxsize=4096)
def dealt(index: MultiIndex, operands: tuple[int, ...]) -> tuple[tuple[int, tuple[MultiIndex, ...]], ...]:
    """The terms of Leibniz' rule: how often each occurs, and the part of the index that each operand gets."""
    count: Counter[tuple[MultiIndex, ...]] = Counter()
    for chosen in product(operands, repeat=len(index)):
        count[tuple(tuple(n for n, k in zip(index, chosen, strict=True) if k == mine) for mine in operands)] += 1
    return tuple((times, parts) for parts, times in count.items())
