"""The tape: what an operation is, the traces that record them, and the values that traces follow."""

from .trace import Node, Op, Trace, apply
from .traced import Indexable, Traced, TracedArray, is_traced, unsupported

__all__ = ["Indexable", "Node", "Op", "Trace", "Traced", "TracedArray", "apply", "is_traced", "unsupported"]
