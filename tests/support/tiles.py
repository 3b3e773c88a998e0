"""Tiles of whatever size, where only what is worth it would be tiled."""

from __future__ import annotations

from typing import Any

import pytest

from minijac.program.cpu import executor, regions, tiling
from minijac.program.cpu.native import commands


def tile_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small; on two threads, at the smallest tile size, in shuffled order, with all addresses looked at.

    What is in no tile is machine code too, where it can be.
    """
    monkeypatch.setattr(commands, "CHECKED", True)
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(executor, "MANY", 0)
    monkeypatch.setattr(regions, "SETTLE", 0.0)
    monkeypatch.setattr(regions, "SECONDS", 0.0)
    monkeypatch.setattr(regions, "threads", lambda: 2)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(1, 2), arrays))


def run(plan: Any, arrays: Any) -> Any:
    plan(arrays)
    return plan
