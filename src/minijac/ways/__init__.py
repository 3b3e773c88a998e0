"""Ways to carry an accumulation out: at once, replayed as a program, stretch by stretch, within a bound on memory."""

from . import repeats

__all__ = ["repeats"]
