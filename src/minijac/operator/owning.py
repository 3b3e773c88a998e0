"""Memory of its own: a Jacobian holds copies of arrays that the caller may write to later."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ..backend import is_array
from ..tape.trace import Node
from .jacobian import with_arrays

__all__ = ["owned"]


def owned(table: list[list[Any]], nodes: Iterable[Node], inputs: Collection[int]) -> list[list[Any]]:
    """The Jacobians, without the memory of arguments (`inputs`) and of arrays that the function captured."""
    pairs = [pair for node in nodes for pair in zip(node.parents, node.args, strict=False)]
    theirs = {id(_memory(arg)) for parent, arg in pairs if (parent < 0 or parent in inputs) and is_array(arg)}

    def own(array: Any) -> Any:
        return array.copy() if id(_memory(array)) in theirs else array

    return [[with_arrays(J, own) for J in row] for row in table]


def _memory(array: Any) -> Any:
    """The array that holds the numbers of a view."""
    while is_array(array) and is_array(array.base):
        array = array.base
    return array
