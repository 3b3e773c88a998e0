"""torch.autograd.Function inside a followed function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["followed"]


@contextmanager
def followed() -> Iterator[None]:
    yield
