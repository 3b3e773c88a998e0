"""torch's operations in minijac's own functions, one line for each."""

from . import linear, networks, pointwise, reductions, shapes  # noqa: F401 - importing registers
from .registry import register

__all__ = ["register"]
