"""Periods: where a sequence repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["period_of", "periods_of"]

CANDIDATES = 8
"""Distances that are looked at, for each width of windows."""


def period_of(rows: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """The period that covers most of a sequence, and the runs ``(start, repetitions)`` that have it; 0 for none.

    >>> period_of([9, 1, 2, 1, 2, 1, 2, 7])
    (2, [(1, 3)])
    """
    return next(iter(periods_of(rows, 2)), (0, []))


def periods_of(rows: Any, fewest: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """Periods, each with its runs of so many repetitions at least, the one that covers most of the sequence first."""
    values = np.asarray(rows)
    candidates: set[int] = set()
    windows, width = values, 1
    while len(windows):
        candidates.update(_distances(windows))
        pairs = windows[:-width] * (int(windows.max()) + 1) + windows[width:]  # windows of twice the width, numbered
        windows, width = np.unique(pairs, return_inverse=True)[1], 2 * width
    found: list[tuple[float, int, list[tuple[int, int]]]] = []
    most = 0
    for period in sorted(candidates):
        shorter = [(p, run) for _, p, own in found if period % p == 0 for run in own]
        runs = [
            (start, count)
            for start, count in _runs(values, period)
            if count >= fewest
            and not any(s < start + period and s + n * p > start + (count - 1) * period for p, (s, n) in shorter)
        ]
        covered = sum(period * repetitions for _, repetitions in runs)
        if covered:
            better = covered > 1.05 * most  # a loop within the loop, where it is about as good
            most = covered if better else most
            found.append((covered if better else 0.5 * covered, period, runs))
    return [(period, runs) for _, period, runs in sorted(found, key=lambda one: -one[0])]


def _distances(values: Any) -> list[int]:
    """How far most entries are from the next one that is equal."""
    order = np.argsort(values, kind="stable")
    gaps = np.diff(order)[np.diff(values[order]) == 0]
    distances, counts = np.unique(gaps, return_counts=True)
    best: list[int] = distances[np.argsort(-distances * counts, kind="stable")][:CANDIDATES].tolist()
    return best


def _runs(values: Any, period: int) -> list[tuple[int, int]]:
    """Where a sequence repeats itself after `period` entries, twice at least."""
    same = np.concatenate([[False], values[period:] == values[:-period], [False]])
    edges = np.flatnonzero(same[1:] != same[:-1])
    found = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        repetitions = (int(stop - start)) // period + 1
        if repetitions >= 2:
            found.append((int(start), repetitions))
    return found
