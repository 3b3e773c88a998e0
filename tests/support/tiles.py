"""Tiles of whatever size, where only what is worth it would be tiled."""

from __future__ import annotations

from typing import Any

import pytest

from minijac.program.cpu import executor, regions, tiling
from minijac.program.cpu.native import checks


def tile_everything(monkeypatch: pytest.MonkeyPatch, size: int = 1, threads: int = 2) -> None:
    """However small; in tiles of so many samples, on so many threads, in shuffled order, with all addresses looked at.

    What is in no tile is machine code too, where it can be.
    """
    monkeypatch.setattr(checks, "CHECKED", True)
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(executor, "MANY", 0)
    monkeypatch.setattr(regions, "SETTLE", 0.0)
    monkeypatch.setattr(regions, "SECONDS", 0.0)
    monkeypatch.setattr(regions, "threads", lambda: threads)
    fastest = lambda tiles, arrays: run(tiles._scheduled(min(size, tiles._region.batch), threads), arrays)
    monkeypatch.setattr(regions.Tiles, "_fastest", fastest)


def run(plan: Any, arrays: Any) -> Any:
    plan(arrays)
    return plan
