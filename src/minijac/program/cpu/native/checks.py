"""What tests turn on: tiles in shuffled order, and a look at all that machine code will reach before it is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Axes", "inside", "order"]

CHECKED = False
"""Whether it is on."""
SEED = 0
"""Of the shuffling."""

Axes = Sequence[tuple[int, int]]
"""What an array is read or written along: pairs of a size and bytes, the bytes of an entry last."""


def order(count: int) -> Sequence[int]:
    """Tiles in the order in which they are taken."""
    return np.random.default_rng([SEED, count]).permutation(count).tolist() if CHECKED else range(count)


def inside(what: str, array: Any, start: int, axes: Axes) -> None:
    """RuntimeError where what is reached along axes, from an address on, is not all in the memory of the array."""
    if min(size for size, _ in axes) < 1:
        return
    ends = [(size - 1) * stride for size, stride in axes]
    reach = start + sum(min(end, 0) for end in ends), start + sum(max(end, 0) for end in ends)
    low, high = np.lib.array_utils.byte_bounds(array)
    if not low <= reach[0] <= reach[1] < high:
        raise RuntimeError(f"minijac: {what} reaches {reach} outside {low, high - 1}")
