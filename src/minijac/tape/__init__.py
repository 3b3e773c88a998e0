"""The tape: what an operation is, the traces that record them, and the values that traces follow."""

from ..foreign import unsupported
from .op import Op, Reduction, Scalar
from .trace import Node, Trace, apply
from .traced import Indexable, Traced, TracedArray, is_traced

__all__ = [
    "Indexable", "Node", "Op", "Reduction", "Scalar", "Trace", "Traced", "TracedArray", "apply", "is_traced",
    "unsupported",
]  # fmt: skip
