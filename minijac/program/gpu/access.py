"""Where entries lie: views of device memory, found from labels, and C expressions for the positions that they read.

Every structural operation says by labels where its entries come from. An operation whose result is strided memory of
its operand is a view, and costs nothing. One that places entries among others (a pad, a diagonal) is read by whoever
needs it, entry by entry: a position is split into digits, which either name an entry or the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from ...algebra.labels import Axes, Axis, Label
from ...ops.edges import Part
from ...tape.trace import Node
from ..ir import Instruction

__all__ = [
    "Access", "Digit", "View", "accessed", "broadcast", "labelled_strides", "parts_of", "placed", "relabelled",
    "reshaped", "row_major", "whole",
]  # fmt: skip

Shape = tuple[int, ...]


class View(NamedTuple):
    """Entries of the memory of a value: where the first lies, and how far the next along each axis, in entries."""

    root: int
    shape: Shape
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def contiguous(self) -> bool:
        return all(s == t or n == 1 for n, s, t in zip(self.shape, self.strides, row_major(self.shape), strict=True))


class Digit(NamedTuple):
    """One digit of a position: names entry ``(digit - start) / step`` of `entries`, `stride` apart, or the background.

    `same` is the number of another digit that has to name the same entry; such a one has no stride of its own.
    """

    size: int
    stride: int
    start: int = 0
    step: int = 1
    entries: int = -1
    same: int = -1

    @property
    def plain(self) -> bool:
        return self.start == 0 and self.step == 1 and self.same < 0 and self.entries in (-1, self.size)


class Access(NamedTuple):
    """What a flat position reads of a value's memory: its digits, most significant first."""

    root: int
    digits: tuple[Digit, ...]
    offset: int = 0

    @property
    def plain(self) -> bool:
        """Whether every position names an entry."""
        return all(digit.plain for digit in self.digits)

    def place(self, i: str) -> str:
        """C for where the entry of position `i` lies."""
        terms = [f"{self.offset}"] if self.offset else []
        inner = prod(digit.size for digit in self.digits)
        for k, digit in enumerate(self.digits):
            inner //= digit.size
            if not digit.stride:
                continue
            entry = _entry(digit, _digit(i, inner, digit.size, k == 0))
            terms.append(entry if digit.stride == 1 else f"{entry} * {digit.stride}")
        return " + ".join(terms) or "0"

    def condition(self, i: str) -> str:
        """C for whether position `i` names an entry, where not all do."""
        tests = []
        inner = prod(digit.size for digit in self.digits)
        inners = []
        for digit in self.digits:
            inner //= digit.size
            inners.append(inner)
        text = [_digit(i, n, d.size, k == 0) for k, (d, n) in enumerate(zip(self.digits, inners, strict=True))]
        for k, digit in enumerate(self.digits):
            if digit.plain:
                continue
            if digit.same >= 0:
                other = self.digits[digit.same]
                entry = _entry(other, text[digit.same])
                wanted = entry if digit.step == 1 else f"{digit.step} * {entry}"
                tests.append(f"{text[k]} == {wanted}{f' + {digit.start}' if digit.start else ''}")
                continue
            low, high = sorted((digit.start, digit.start + digit.step * (digit.entries - 1)))
            if digit.entries == 1:
                tests.append(f"{text[k]} == {digit.start}")
                continue
            if low > 0:
                tests.append(f"{text[k]} >= {low}")
            if high < digit.size - 1:
                tests.append(f"{text[k]} <= {high}")
            if abs(digit.step) > 1:
                tests.append(f"({text[k]} - {low}) % {abs(digit.step)} == 0")
        return " && ".join(tests) or "true"


def _digit(i: str, inner: int, size: int, first: bool) -> str:
    text = i if inner == 1 else f"{i} / {inner}"
    if size == 1:
        return "0"
    return f"({text})" if first else f"{f'({text})' if inner > 1 else i} % {size}"


def _entry(digit: Digit, text: str) -> str:
    text = f"({text})"
    if digit.start:
        text = f"({text} - {digit.start})"
    if digit.step == -1:
        return f"(-{text})"
    return text if digit.step == 1 else f"({text} / {digit.step})"


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for n in reversed(shape[1:]):
        strides.append(strides[-1] * n)
    return tuple(reversed(strides))[: len(shape)] if shape else ()


def whole(root: int, shape: Shape) -> View:
    """All of a value's own memory."""
    return View(root, shape, row_major(shape))


def broadcast(view: View, shape: Shape) -> View:
    extra = len(shape) - len(view.shape)
    pairs = zip(view.shape, shape[extra:], view.strides, strict=True)
    return view._replace(shape=shape, strides=(0,) * extra + tuple(0 if n != m else s for n, m, s in pairs))


def accessed(view: View) -> Access:
    """A view read at flat positions in its own row-major order, with as few digits as there can be."""
    digits: list[tuple[int, int]] = []
    for n, stride in zip(view.shape, view.strides, strict=True):
        if n == 1:
            continue
        if digits and digits[-1][1] == n * stride:
            digits[-1] = digits[-1][0] * n, stride
        else:
            digits.append((n, stride))
    return Access(view.root, tuple(Digit(*digit) for digit in digits), view.offset)


def reshaped(view: View, shape: Shape) -> View | None:
    """The view in another shape, where its strides allow one."""
    if not view.size:
        return view._replace(shape=shape, strides=row_major(shape))
    merged = [(d.size, d.stride) for d in accessed(view).digits]
    strides = [0] * len(shape)
    for k in reversed(range(len(shape))):
        if shape[k] == 1:
            continue
        while merged and merged[-1][0] == 1:
            merged.pop()
        n, stride = merged.pop()
        if n % shape[k]:
            return None
        strides[k] = stride
        merged.append((n // shape[k], stride * shape[k]))
    return view._replace(shape=shape, strides=tuple(strides))


# -- structural operations, by their labels ----------------------------------------------------------------------------
def parts_of(step: Instruction, k: int, shapes: Sequence[Shape], out_shape: Shape) -> Sequence[Part] | None:
    """How entries of operand `k` go to the result, by labels; None where labels do not say it."""
    arrays = [np.broadcast_to(np.empty(()), shape) for shape in (*shapes, out_shape)]
    edge = step.op.edge(Node(step.op, (), tuple(arrays[:-1]), step.params, arrays[-1], None), k)  # type: ignore[misc]
    return None if edge.linear is not None else edge.parts


def labelled_strides(view: View, axes: Axes) -> tuple[dict[Label, int], int]:
    """How far apart the positions of each label are in a view whose axes are labelled, and where the first lies."""
    strides: dict[Label, int] = {}
    offset = view.offset
    for axis, step in zip(axes, view.strides, strict=True):
        for digit in reversed(axis):
            if type(digit) is Label:
                strides[digit] = strides.get(digit, 0) + step
            else:
                offset += step * digit.offset  # type: ignore[union-attr]
                if (label := digit.label) is not None:  # type: ignore[union-attr]
                    strides[label] = strides.get(label, 0) + step * digit.step  # type: ignore[union-attr]
            step *= digit.size
    return strides, offset


def relabelled(root: int, strides: dict[Label, int], offset: int, out: Axes, shape: Shape) -> View | None:
    """The view with axes `out`, where it is one: each label once, and the digits of an axis evenly spaced."""
    labels = [digit for axis in out for digit in axis]
    if any(type(digit) is not Label for digit in labels) or len({*labels}) < len(labels):
        return None
    steps = []
    for axis in out:
        step = inner = 0
        for digit in reversed(axis):
            if digit.size == 1:
                continue
            stride = strides.get(digit, 0)  # type: ignore[arg-type]
            if inner and stride != step * inner:
                return None
            if not inner:
                step, inner = stride, 1
            inner *= digit.size
        steps.append(step)
    return View(root, shape, tuple(steps), offset)


def placed(root: int, strides: dict[Label, int], offset: int, out: Axes) -> Access:
    """The entries at the places that `out` gives them in a larger array."""
    flat: Axis = tuple(digit for axis in out for digit in axis)
    owner: dict[Label, int] = {}  # the digit that names a label's entries: a whole label before a window
    for k, digit in sorted(enumerate(flat), key=lambda item: type(item[1]) is not Label):
        label = digit if type(digit) is Label else digit.label  # type: ignore[union-attr]
        if label is not None:
            owner.setdefault(label, k)
    digits = []
    for k, digit in enumerate(flat):
        if type(digit) is Label:
            label, start, step = digit, 0, 1
        else:
            label, _, start, step = digit  # type: ignore[misc]
        if label is None:
            digits.append(Digit(digit.size, 0, start, 1, 1))
        elif owner[label] == k:
            digits.append(Digit(digit.size, strides.get(label, 0), start, step, label.size))
        else:
            digits.append(Digit(digit.size, 0, start, step, label.size, owner[label]))
    return Access(root, tuple(digits), offset)
