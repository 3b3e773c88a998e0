"""Multilinear operations: linear in each operand, declared by naming axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .families import Sample, Shape, multilinear

__all__ = ["einsum", "matmul", "parse_einsum"]


def _matmul_signature(a: Shape, b: Shape) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
    depth = max(len(a), len(b)) - 2
    lead = range(depth)
    left: list[Any] = [*lead[depth - len(a) + 2 :], "i", "k"] if len(a) > 1 else ["k"]
    right: list[Any] = [*lead[depth - len(b) + 2 :], "k", "j"] if len(b) > 1 else ["k"]
    return (left, right), [*lead, *("i" if len(a) > 1 else ""), *("j" if len(b) > 1 else "")]


matmul = multilinear(
    "matmul",
    np.matmul,
    _matmul_signature,
    [
        Sample(((3, 4), (4, 2)), shared=(1,)),
        Sample(((2, 4), (3, 4, 2)), shared=(0,)),
        Sample(((3, 2, 4), (3, 4, 5))),
        Sample(((3, 4), (4,)), shared=(1,)),
        Sample(((3, 2, 4), (4,)), shared=(1,)),
        Sample(((2, 1, 4), (3, 1, 4, 5)), shared=(0,)),
    ],
)


def _einsum_signature(*shapes: Shape, subscripts: str) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
    """Letters, and for an ellipsis numbers counted from its right end, which is how NumPy broadcasts it."""
    inputs, output = subscripts.split("->")
    names = []
    for letters, shape in zip(inputs.split(","), shapes, strict=True):
        hidden = len(shape) - len(letters.replace("...", ""))
        names.append(_spelled(letters, hidden))
    hidden = max((sum(isinstance(c, int) for c in letters) for letters in names), default=0)
    return names, _spelled(output, hidden)


def _spelled(letters: str, hidden: int) -> list[Any]:
    before, dots, after = letters.partition("...")
    return [*before, *(range(-hidden, 0) if dots else ()), *after]


def parse_einsum(subscripts: str, count: int) -> str:
    """The subscripts without blanks and with an explicit output, as numpy.einsum understands the implicit one."""
    subscripts = subscripts.replace(" ", "")
    if "->" in subscripts:
        return subscripts
    letters = subscripts.replace(",", "").replace("...", "")
    once = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return f"{subscripts}->{'...' if '...' in subscripts else ''}{once}"


einsum = multilinear(
    "einsum",
    lambda *operands, subscripts: np.einsum(subscripts, *operands, optimize=len(operands) > 2),
    _einsum_signature,
    [
        Sample(((3, 4), (3, 4)), {"subscripts": "bi,bi->b"}),
        Sample(((3, 4), (4, 2), (3, 2)), {"subscripts": "bi,ij,bj->b"}, shared=(1,)),
        Sample(((3, 4, 4),), {"subscripts": "bii->b"}),
        Sample(((3, 4, 4),), {"subscripts": "bii->bi"}),
        Sample(((3, 2, 4), (4, 5)), {"subscripts": "...i,ij->...j"}, shared=(1,)),
        Sample(((3, 4), (3, 2)), {"subscripts": "bi,bj->bji"}),
        Sample(((3, 4), (5,)), {"subscripts": "bi,j->b"}, shared=(1,)),
    ],
)
