"""Tensors that lie in the same memory and are not known as views of one another: arguments and what is captured.

A write to a tensor that is followed is seen by its views alone. Where torch's write would be seen by others, those are
read no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..backend import array_of as plain_array
from ..backend import namespace
from ..errors import MutationError
from ..lines import user_line
from .tensors import DTYPES, TracedTensor, array_of

__all__ = ["Memory", "shares"]

WORK = 1 << 20
"""Steps after which two arrays count as sharing memory."""
WHY = "Arguments, or an argument and a captured tensor, share that memory: pass x.clone(), or write to a .clone()."


def shares(a: Any, b: Any) -> bool:
    """Whether two arrays have an entry in the same place."""
    if type(a) is not type(b) or not namespace(a).may_share_memory(a, b):
        return False
    try:
        return not isinstance(a, np.ndarray) or np.shares_memory(a, b, WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _array(tensor: Any) -> Any:
    known = tensor.layout is torch.strided and tensor.dtype in DTYPES and tensor.device.type in ("cpu", "cuda")
    return array_of(tensor) if known and type(tensor) is not TracedTensor else None


class Memory:
    """What a function was given, and what of it was written where it lies for torch alone."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, Any]] = []
        """Tensors, and the arrays below them."""
        self.lost: list[Any] = []
        self.touched: list[Any] = []
        """Arrays that were written in any call."""

    @contextmanager
    def call(self, tensors: Sequence[Any], values: Sequence[Any]) -> Iterator[None]:
        """A function is given these tensors, of these values."""
        before = self.given, self.lost
        self.given, self.lost = list(zip(tensors, map(plain_array, values), strict=True)), []
        try:
            yield
        finally:
            self.given, self.lost = before

    def written(self, root: TracedTensor) -> None:
        """A followed tensor is written for the first time."""
        for tensor, array in self.given:
            if tensor is root or getattr(tensor, "root", None) is root:
                self._spoil(array, tensor)
                self.lost.append(array)

    def written_by_torch(self, tensor: Any) -> None:
        """A plain tensor is, or what stands for it from now on."""
        array = _array(tensor) if self.given else None
        if array is not None:
            self._spoil(array)

    def _spoil(self, array: Any, own: Any = None) -> None:
        self.touched.append(array)
        for tensor, other in self.given:
            if type(tensor) is TracedTensor and tensor is not own and shares(other, array):
                tensor.spoil(WHY)

    def writes(self, array: Any) -> bool:
        """Whether it was written in any call."""
        return any(shares(array, other) for other in self.touched)

    def refuse_lost(self, tensor: Any) -> None:
        """An error where a plain tensor should have been written in the place of a followed one."""
        array = _array(tensor)
        if any(shares(array, other) for other in self.lost):
            _refuse(f"a tensor of shape {tuple(tensor.shape)}")


def refuse_shared(tensors: Sequence[Any], written: Sequence[int]) -> None:
    """An error where tensors, of which some are written, share their memory with others."""
    arrays = [_array(t) if isinstance(t, torch.Tensor) else None for t in tensors]
    for k in written:
        if any(shares(arrays[k], other) for n, other in enumerate(arrays) if n != k):
            _refuse(f"an argument of shape {tuple(tensors[k].shape)}")


def _refuse(what: str) -> None:
    raise MutationError(
        f"{what} at {user_line()}: got one whose memory, in torch, is written through another one. {WHY}"
    )
