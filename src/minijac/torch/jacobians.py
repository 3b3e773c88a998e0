"""Structured Jacobians whose products are tensors, and trees of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree
import torch

from ..operator.jacobian import Jacobian
from .tensors import array_of, tensor_of

__all__ = ["TensorJacobian", "leaves_of", "tree_map"]

Tensor = torch.Tensor


def tree_map(function: Callable[[Any], Any], *trees: Any) -> Any:
    return optree.tree_map(function, *trees, namespace="minijac")


def leaves_of(tree: Any) -> list[Any]:
    return optree.tree_leaves(tree, namespace="minijac")


class TensorJacobian:
    """A structured Jacobian (`minijac.Jacobian`) whose products are tensors. It is not tied to torch's autograd."""

    def __init__(self, operator: Jacobian) -> None:
        self.operator = operator

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.operator, name)
        if not callable(found):
            return TensorJacobian(found) if isinstance(found, Jacobian) else found
        return lambda *args, **kwargs: _returned(found(*map(_given, args), **kwargs))

    def __matmul__(self, v: Any) -> Any:
        return _returned(self.operator @ _given(v))

    def __repr__(self) -> str:
        return repr(self.operator)


def _given(x: Any) -> Any:
    return array_of(x) if isinstance(x, Tensor) else x.operator if isinstance(x, TensorJacobian) else x


def _returned(y: Any) -> Any:
    if isinstance(y, Jacobian):
        return TensorJacobian(y)
    return tree_map(lambda leaf: tensor_of(leaf) if hasattr(leaf, "__array_interface__") else leaf, y)
