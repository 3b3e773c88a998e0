"""Temporary: what operations will declare themselves."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...tape.trace import Node


class Reduction(NamedTuple):
    combine: Any
    identity: Any = None
    counts: bool = False


REDUCTIONS = {
    "sum": Reduction(np.add, 0), "max": Reduction(np.maximum), "min": Reduction(np.minimum),
    "all": Reduction(np.logical_and, True, True), "any": Reduction(np.logical_or, False, True),
    "count_nonzero": Reduction(np.add, 0, True),
}  # fmt: skip
PICKS = {
    "take": lambda shape, axis: (shape, axis % len(shape)),
    "gather": lambda shape, lead=0, **_: ((*shape[:lead], prod(shape[lead:])), lead),
}
ADDS = {
    "deposit": lambda shape, axis, size: (shape, axis),
    "scatter": lambda shape, lead=0, **_: ((*shape[:lead], prod(shape[lead:])), lead),
}


def relation(op: Any, k: int, out_shape: Any, *shapes: Any, **params: Any) -> Any:
    arrays = [np.broadcast_to(np.empty(()), shape) for shape in (*shapes, out_shape)]
    edge = op.edge(Node(op, (), tuple(arrays[:-1]), params, arrays[-1], None), k)
    return None if edge.linear is not None else edge.parts


def strides(op: Any, shape: Any, strides: Any, kernel: Any, stride: Any, dilation: Any) -> Any:
    n = len(kernel)
    lead, steps = strides[: -n or None], strides[len(strides) - n :]
    windows = tuple(s * t for s, t in zip(stride, steps, strict=True))
    return (*lead, *windows, *(d * t for d, t in zip(dilation, steps, strict=True)))
