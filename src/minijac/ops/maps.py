"""Linear maps that are no block, as edges: for operations that say how to push and to pull."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..algebra.factors import Shape
from ..algebra.labels import Label
from .edges import Edge, Linear, Part

__all__ = ["linear_map"]


def linear_map(
    source: Shape,
    target: Shape,
    push: Callable[[Any], Any],
    pull: Callable[[Any], Any],
    passing: Sequence[tuple[int, int]],
    uniform: bool = False,
    real: bool = False,
    signed: bool = False,
    fewer: Callable[[int, Any], Linear] | None = None,
) -> Edge:
    """The edge of a linear map that is no block, from arrays of shape `source` to arrays of shape `target`.

    Args:
        push: Takes tangents ``(n, *source)`` to ``(n, *target)``, for any n; written with NumPy functions or minijac's
            operations, so that it differentiates again.
        pull: Its transpose, ``(n, *target)`` to ``(n, *source)``.
        passing: Pairs of axes (of source, of target) along which entries stay in place and do not mix; the samples
            have to be on one of them.
        uniform: Whether both do the same at all positions of the passing axes, and take any number of them.
        real: Whether they are linear in real numbers alone (`Linear.real`).
        signed: Whether entries of one sign may give zero; matters for operations that are `flat`.
        fewer: The maps of some positions of a passing axis (`Linear.fewer`), where they are not uniform.
    """
    labels = [Label(n) for n in source]
    out = [Label(n) for n in target]
    for i, j in passing:
        out[j] = labels[i]
    part = Part(tuple((label,) for label in out), tuple((label,) for label in labels))
    return Edge(target, source, [part], Linear(push, pull, uniform, real, signed=signed, fewer=fewer))
