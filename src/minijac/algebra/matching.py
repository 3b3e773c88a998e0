"""Matching: labels substituted until axes name the same positions, and whether they ever do."""

from __future__ import annotations

from functools import reduce
from math import inf
from typing import Any

from .factors import Factor, substitute
from .labels import Axes, Axis, Label, Misaligned, Substitution, Vanishes, extent, labels_in, match, split

__all__ = ["meets", "solve"]


def solve(
    pairs: list[tuple[Axis, Axis]], groups: list[Axes], factors: list[Factor], most: float = inf
) -> tuple[list[Axes], list[Factor]]:
    """Substitute labels until the two axes of each pair name the same positions; `most`: as of `match`."""
    made: list[Any] = []  # lists that replace several labels do so at once: one by one they would be as many more
    while pairs:
        a, b = pairs.pop()
        while a and b:
            high, low = a[-1], b[-1]
            changes: list[Any]
            if high.size == low.size:
                changes = match(high, low, most)
                a, b = a[:-1], b[:-1]
            elif high.size > low.size:
                *parts, change = split(high, low.size)
                a, changes = a[:-1] + parts[0] + parts[1], [change] if change else []
            else:
                *parts, change = split(low, high.size)
                b, changes = b[:-1] + parts[0] + parts[1], [change] if change else []
            for change in changes:
                *groups, (a, b) = [change.in_axes(group) for group in (*groups, (a, b))]
                pairs = [change.in_axes(pair) for pair in pairs]
                made = [*made[:-1], *made[-1].then(change)] if made else [change]
    return groups, [reduce(substitute, made, factor) for factor in factors]


def meets(a: Axes, b: Axes) -> bool:
    """Whether two terms may have an entry in common."""
    for one, other in zip(a[::-1], b[::-1], strict=True):  # most lie apart, and nothing has to be solved for that
        (first, last), (start, end) = extent(one), extent(other)
        if last < start or end < first:
            return False
    for label in labels_in(a).keys() & labels_in(b).keys():  # labels of the two are to be distinct
        b = Substitution(label, Label(label.size), None, 0, 1).in_axes(b)
    try:
        solve(list(zip(a, b, strict=True)), [], [])
    except Vanishes:
        return False
    except Misaligned:
        pass
    return True
