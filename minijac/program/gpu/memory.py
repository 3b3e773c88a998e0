"""Where buffers lie in one block of memory: those that live at different times share it."""

from __future__ import annotations

from bisect import insort

__all__ = ["aligned", "arranged"]

ALIGNMENT = 512


def aligned(nbytes: int) -> int:
    """The size with the space to the next buffer's beginning."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def arranged(lives: dict[int, tuple[int, int, int]]) -> tuple[dict[int, int], int]:
    """Offsets of buffers given as (first step, last step, bytes), and the size of the block.

    The largest first, each at the lowest place that no other buffer holds while it lives.
    """
    placed: list[tuple[int, int, int, int]] = []  # start, end, first step, last step
    offsets: dict[int, int] = {}
    for n, (first, last, nbytes) in sorted(lives.items(), key=lambda item: (-item[1][2], item[1][0], item[0])):
        size, start = aligned(nbytes), 0
        for other, end, begins, ends in placed:
            if begins > last or ends < first or end <= start:
                continue
            if other >= start + size:
                break
            start = end
        offsets[n] = start
        insort(placed, (start, start + size, first, last))
    return offsets, max((end for _, end, _, _ in placed), default=0)
