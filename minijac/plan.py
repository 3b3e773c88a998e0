"""The choice of a mode."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from .accumulate import Graph

__all__ = ["choose_mode"]


def choose_mode(graph: Graph, mode: str, inputs: Sequence[int]) -> str:
    if mode != "auto":
        return mode
    n_in = sum(prod(graph.nodes[i].out.shape) for i in inputs)
    n_out = sum(prod(graph.nodes[i].out.shape) for i in graph.outputs)
    return "forward" if n_in < n_out else "reverse"
