"""Where an operation has the rows of an operand: what traces ask that carry it out on rows which stand elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..algebra.labels import labels_in
from ..ops import structural
from ..ops.edges import Edge, Part
from ..ops.families import Elementwise, along
from ..tape.trace import Node, Trace
from ..tape.traced import Traced

__all__ = ["carried", "inner_of", "under", "varies"]


def _parts(node: Node, k: int) -> Sequence[Part]:
    """How the axes of a result and of an operand go together."""
    op, shapes, out = node.op, [np.shape(x) for x in node.args], np.shape(node.out)
    assert op is not None
    labels = op.labels(shapes, out, node.params)
    if labels is not None:
        return [labels[k]]
    if op.edge is not None:
        return op.edge(node, k).parts
    if "axis" in node.params:
        return along(k, out, shapes[k], node.params["axis"]) or ()
    stack, matrix = structural.fresh(shapes[k][:-2]), structural.fresh(shapes[k][-2:])  # one result for each matrix
    rest = structural.fresh(out[len(stack) :])
    return [Part((*stack, *rest), (*stack, *matrix))] if out[: len(stack)] == shapes[k][:-2] else ()


def carried(node: Node, k: int, axis: int, stride: int, count: int) -> tuple[int, int] | None:
    """Where rows, at positions ``// stride`` of an operand's axis, are in the result; None where they do not pass
    whole and in order."""
    op, shape, out = node.op, np.shape(node.args[k]), np.shape(node.out)
    assert op is not None
    if k in op.inert and not isinstance(op, Elementwise):
        if op.picks is None:
            return None
        return op.picks(np.shape(node.args[0]), **node.params)[1] + axis, stride
    parts = _parts(node, k)
    for part in parts:  # a diagonal, or a product with one, has them twice
        mine = labels_in((part.inp[axis],))
        if any(sum(label in labels_in((own,)) for own in side) > 1 for label in mine for side in (part.out, part.inp)):
            return None
    return Edge(out, shape, parts).carry(axis, stride, count)


def varies(node: Node, k: int, place: tuple[int, int]) -> bool:
    """Whether an operand has something for each of the rows that are at a place of the result."""
    op = node.op
    assert op is not None
    if not np.ndim(node.args[k]) or (k in op.inert and not isinstance(op, Elementwise)):
        return False
    return any(
        label.size > 1 and label in labels_in(part.inp)
        for part in _parts(node, k)
        for label in labels_in((part.out[place[0]],))
    )


def under(x: Any, kind: type[Trace]) -> Any:
    """The value of a kind of trace that a value is, or that it follows further out; None if there is none."""
    while isinstance(x, Traced) and not isinstance(x.home, kind):
        x = x.value
    return x if isinstance(x, Traced) else None


def inner_of(args: Sequence[Any], kind: type[Trace]) -> Trace | None:
    """The innermost transformation of values of a kind of trace: those have one each, which may be younger."""
    homes = [
        x.home for x in args if isinstance(x, Traced) and not isinstance(x.home, kind) and under(x, kind) is not None
    ]
    return max(homes, key=lambda home: home.serial, default=None)
