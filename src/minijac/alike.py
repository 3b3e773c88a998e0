"""Tapes that are alike: the same operations on the same shapes and dtypes, connected alike, whatever the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy import dtype, generic, ndarray

from .algebra.labels import Label

if TYPE_CHECKING:
    from .tape.trace import Node

__all__ = ["rows_of"]


def rows_of(nodes: Sequence[Node]) -> tuple[Any, ...]:
    """What the nodes of a tape are, equal for tapes that are alike. Of numbers among the operands the type counts."""
    rows: list[Any] = []  # one behind the other: each begins with an operation
    for node in nodes:
        parents, out = node.parents, node.out
        rows += node.op, parents, out.shape, out.dtype
        if -1 in parents:
            for arg, p in zip(node.args, parents, strict=True):
                if p < 0:
                    rows += (arg.shape, arg.dtype) if type(arg) is ndarray else _described(arg)
        if node.params:
            rows.append(_frozen(node.params.values(), {}))
    return tuple(rows)


def _described(arg: Any) -> tuple[Any, ...]:
    """An operand that is neither a node nor an array."""
    return type(arg), getattr(arg, "shape", ()), getattr(arg, "dtype", None)


def _frozen(values: Any, number: dict[Label, int]) -> Any:
    """Hashable stand-ins of parameters: arrays by shape and dtype, labels by order of appearance."""
    return tuple([_frozen_value(value, number) for value in values])


def _frozen_value(value: Any, number: dict[Label, int]) -> Any:
    if isinstance(value, Label):
        return number.setdefault(value, len(number)), value.size
    if isinstance(value, tuple | list):
        return _frozen(value, number)
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    if hasattr(value, "shape") and not isinstance(value, generic | dtype | type):
        return value.shape, getattr(value, "dtype", None)
    return value if not isinstance(value, dict) else str(value)
