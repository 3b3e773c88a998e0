"""Multilinear operations: linear in each operand, declared by naming axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..algebra.factors import Shape
from . import into
from .families import Example, contracted, multilinear

__all__ = ["LETTERS", "einsum", "matmul", "parse_einsum", "spelled"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


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
        Example(((3, 4), (4, 2)), shared=(1,)),
        Example(((2, 4), (3, 4, 2)), shared=(0,)),
        Example(((3, 2, 4), (3, 4, 5))),
        Example(((3, 4), (4,)), shared=(1,)),
        Example(((3, 2, 4), (4,)), shared=(1,)),
        Example(((2, 1, 4), (3, 1, 4, 5)), shared=(0,)),
    ],
    into=into.matmul,
    expansion=None,
)


def _einsum_signature(*shapes: Shape, subscripts: str) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
    """Letters, and for an ellipsis numbers counted from its right end, which is how NumPy broadcasts it."""
    inputs, output = subscripts.split("->")
    names = []
    if inputs.count(",") + 1 != len(shapes):
        raise ValueError(
            f"einsum: expected {inputs.count(',') + 1} operands for subscripts {subscripts!r}, got {len(shapes)}"
        )
    for letters, shape in zip(inputs.split(","), shapes, strict=True):
        hidden = len(shape) - len(letters.replace("...", ""))
        names.append(_spelled(letters, hidden))
    hidden = max((sum(isinstance(c, int) for c in letters) for letters in names), default=0)
    return names, _spelled(output, hidden)


def _spelled(letters: str, hidden: int) -> list[Any]:
    before, dots, after = letters.partition("...")
    return [*before, *(range(-hidden, 0) if dots else ()), *after]


def parse_einsum(operands: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Subscripts with an explicit output, and the operands, from the arguments of numpy.einsum in either form."""
    if isinstance(operands[0], str):
        subscripts, operands = operands[0].replace(" ", ""), operands[1:]
    else:  # operand, its labels, operand, its labels, ..., and maybe those of the output
        pairs = len(operands) // 2
        subscripts = ",".join(spelled(labels) for labels in operands[1 : 2 * pairs : 2])
        if len(operands) % 2:
            subscripts += "->" + spelled(operands[-1])
        operands = operands[: 2 * pairs : 2]
    if "->" not in subscripts:
        letters = subscripts.replace(",", "").replace("...", "")
        once = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        subscripts = f"{subscripts}->{'...' if '...' in subscripts else ''}{once}"
    return subscripts, operands


def spelled(labels: Sequence[Any]) -> str:
    return "".join("..." if n is Ellipsis else LETTERS[n] for n in labels)


SMALL = 20_000
"""Multiplications below which NumPy's own loop beats the set-up of a matmul."""


def _einsum_value(*operands: Any, subscripts: str) -> Any:
    """NumPy's einsum, each pairwise contraction of a large one as a matmul; NumPy says what does not fit."""
    names, out = _einsum_signature(*(x.shape for x in operands), subscripts=subscripts)
    sizes: dict[Any, int] = {}
    fits = all(len(letters) == x.ndim for letters, x in zip(names, operands, strict=True))
    for letters, x in zip(names, operands, strict=True):
        for letter, n in zip(letters, x.shape, strict=False):
            fits = fits and (n == 1 or sizes.get(letter, 1) in (1, n))
            sizes[letter] = max(n, sizes.get(letter, 1)) if n else 0
    if not fits or len(operands) < 2 or prod(sizes.values()) < SMALL or not sizes.keys() >= set(out):
        return np.einsum(subscripts, *operands)
    return contracted(names, out, operands)


einsum = multilinear(
    "einsum",
    _einsum_value,
    _einsum_signature,
    [
        Example(((3, 4), (3, 4)), {"subscripts": "bi,bi->b"}),
        Example(((3, 4), (4, 2), (3, 2)), {"subscripts": "bi,ij,bj->b"}, shared=(1,)),
        Example(((3, 4, 4),), {"subscripts": "bii->b"}),
        Example(((3, 4, 4),), {"subscripts": "bii->bi"}),
        Example(((3, 2, 4), (4, 5)), {"subscripts": "...i,ij->...j"}, shared=(1,)),
        Example(((3, 4), (3, 2)), {"subscripts": "bi,bj->bji"}),
        Example(((3, 4), (5,)), {"subscripts": "bi,j->b"}, shared=(1,)),
    ],
    into=into.einsum,
)
