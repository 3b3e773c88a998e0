"""Prices: what work costs on a CPU, in nanoseconds, for plans of an accumulation and for the order of a program's axes.

Only their ratios matter for a choice; measured with float32 on one core (benchmarks/plans.py).
"""

from __future__ import annotations

__all__ = ["CALL", "CALL_PER_MATRIX", "MATMUL", "MOVE", "SMALL", "STRIDED"]

MATMUL, SMALL = 0.02, 0.08
"""A multiply-add of a product, and of one whose matrices have a side below 32."""
MOVE, STRIDED = 0.4, 1.2
"""An entry read or written elsewhere, in order and out of order."""
CALL, CALL_PER_MATRIX = 1500.0, 100.0
"""A call of Python's, and beside it each matrix of a stack."""
