"""Ways to carry an accumulation out: replayed as a program, as a product, by stretches, within a bound on memory."""

from . import repeats

__all__ = ["repeats"]
