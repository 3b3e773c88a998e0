"""C for where entries lie: what a flat position reads of memory, found from views and from labels.

Every structural operation says by labels where its entries come from. An operation whose result is strided memory of
its operand is a view, and costs nothing. One that places entries among others (a pad, a diagonal) is read by whoever
needs it, entry by entry: a position is split into digits, which either name an entry or the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from ...algebra.labels import Axes, Label, label_of, progression
from ...algebra.writing import covers
from ...strides import View

__all__ = ["Access", "Digit", "accessed", "as_view", "placed"]


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

    @property
    def size(self) -> int:
        """How many positions there are."""
        return prod(digit.size for digit in self.digits)

    def place(self, i: str) -> str:
        """C for where the entry of position `i` lies."""
        terms = [f"{self.offset}"] if self.offset else []
        for digit, text in zip(self.digits, self._texts(i), strict=True):
            if digit.stride:
                entry = _entry(digit, text)
                terms.append(entry if digit.stride == 1 else f"{entry} * {digit.stride}")
        return " + ".join(terms) or "0"

    def condition(self, i: str) -> str:
        """C for whether position `i` names an entry, where not all do."""
        tests = []
        texts = self._texts(i)
        for digit, text in zip(self.digits, texts, strict=True):
            if digit.plain:
                continue
            if digit.same >= 0:
                entry = _entry(self.digits[digit.same], texts[digit.same])
                wanted = entry if digit.step == 1 else f"{digit.step} * {entry}"
                tests.append(f"{text} == {wanted}{f' + {digit.start}' if digit.start else ''}")
                continue
            if digit.entries == 1:
                tests.append(f"{text} == {digit.start}")
                continue
            low, high = sorted((digit.start, digit.start + digit.step * (digit.entries - 1)))
            if low > 0:
                tests.append(f"{text} >= {low}")
            if high < digit.size - 1:
                tests.append(f"{text} <= {high}")
            if abs(digit.step) > 1:
                tests.append(f"({text} - {low}) % {abs(digit.step)} == 0")
        return " && ".join(tests) or "true"

    def _texts(self, i: str) -> list[str]:
        """C for each digit of position `i`."""
        found, inner = [], 1
        for k, digit in reversed([*enumerate(self.digits)]):
            text = f"({i} / {inner})" if inner > 1 else f"({i})"
            found.append("0" if digit.size == 1 else f"{text} % {digit.size}" if k else text)
            inner *= digit.size
        return found[::-1]


def _entry(digit: Digit, text: str) -> str:
    text = f"({text} - {digit.start})" if digit.start else f"({text})"
    if digit.step == -1:
        return f"(-{text})"
    return text if digit.step == 1 else f"({text} / {digit.step})"


def accessed(view: View) -> Access:
    """A view read at flat positions in its own row-major order, with as few digits as there can be."""
    view = view.merged()
    return Access(view.root, tuple(map(Digit, view.shape, view.strides)), view.offset)


def as_view(strides: Mapping[Label, int], offset: int, axes: Axes, shape: tuple[int, ...], root: int) -> View | None:
    """The view whose axes are `axes`, where it is one: each label once, and the digits of an axis evenly spaced."""
    if not covers(axes):
        return None
    steps = []
    for axis in axes:
        own = View(tuple(digit.size for digit in axis), tuple(strides.get(digit, 0) for digit in axis)).merged()  # type: ignore[arg-type]
        if len(own.shape) > 1:
            return None
        steps.append(own.strides[0] if own.shape else 0)
    return View(shape, tuple(steps), offset, root)


def placed(root: int, strides: Mapping[Label, int], offset: int, out: Axes) -> Access:
    """The entries at the places that `out` gives them in a larger array."""
    flat = [digit for axis in out for digit in axis]
    owner: dict[Label | None, int] = {}  # the digit that names a label's entries: a whole label before a window
    for k, digit in sorted(enumerate(flat), key=lambda item: type(item[1]) is not Label):
        owner.setdefault(label_of(digit), k)
    digits = []
    for k, digit in enumerate(flat):
        label, start, step = progression(digit)
        if label is None:
            digits.append(Digit(digit.size, 0, start, 1, 1))
        else:
            own = owner[label] == k
            stride, same = (strides.get(label, 0), -1) if own else (0, owner[label])
            digits.append(Digit(digit.size, stride, start, step, label.size, same))
    return Access(root, tuple(digits), offset)
