"""Labels, digits and axes: how the positions along an array's axes are named, split, and matched.

A *label* is an index variable with a size. An *axis* is a tuple of *digits*, most significant first, as in a
mixed-radix number (einops writes ``(c h w)``). A digit is a whole label, or a *window*: a label placed at positions
``offset + step * label`` within the digit's extent (a slice, a pad, a flip), or a fixed position; or *listed*, its
positions in an array (`minijac.picks`). An axis of length one has no digits, so labels of size one do not exist.

Two axes of the same length are matched by splitting digits until they line up, and by substituting labels so that
both name the same position. Where no split exists (``(2, 3)`` against ``(3, 2)``), `Misaligned` is raised, and the
caller gives one of the axes a label of its own.
"""

from __future__ import annotations

from math import gcd, inf
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Axes", "Axis", "Digit", "Label", "Listed", "Misaligned", "Substitution", "Vanishes", "Window", "axis_of",
           "axis_size"]  # fmt: skip


class Label:
    """An index variable that runs over ``range(size)``; two labels are the same only if they are one object."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __repr__(self) -> str:
        return f"<{self.size}#{id(self) // 16 % 9973}>"


class Window(NamedTuple):
    """Positions ``offset + step * label`` of a digit that has ``size``; without a label, the position ``offset``."""

    label: Label | None
    size: int
    offset: int
    step: int


class Listed:
    """A digit whose positions are listed for all values of the labels `axes`, and what the algebra asks of it."""

    __slots__ = ()
    label = None
    size: int
    axes: tuple[Label, ...]
    key: Any
    """The same for the same positions."""
    changed: Any
    """``(change) -> Axis``: the digit after labels were substituted."""
    split: Any
    """As `split`."""
    match: Any
    """``(digit, most)``: as `match`. Raises Misaligned where more than `most` entries would be listed anew."""
    settled: Any
    """``(term, before, unit) -> Term``: a composed term as it is kept; its parts had `before` entries."""
    written: Any
    """``(term, unit) -> Term``: the term with a label for each listed digit, dense along it."""
    merged: Any
    """``(term, k) -> Term``: the term with output axis `k` as one listed digit."""
    named: Any
    """``(term, k) -> Term``: the term with a label as output axis `k`, which this digit is, if it lists each position
    once; else None."""
    without_ones: Any
    """``() -> Axis``: labels of size one gone."""


Digit: TypeAlias = Label | Window | Listed
Axis: TypeAlias = tuple[Digit, ...]
Axes: TypeAlias = tuple[Axis, ...]


class Misaligned(Exception):
    """Two axes have no common refinement into digits."""


class Vanishes(Exception):
    """Two axes name no common position: the term that asked is zero."""


def axis_of(size: int) -> Axis:
    """An axis with one fresh label, or with none where its length is one."""
    return () if size == 1 else (Label(size),)


def axis_size(axis: Axis) -> int:
    n = 1
    for digit in axis:
        n *= digit.size
    return n


def label_of(digit: Digit) -> Label | None:
    return digit if type(digit) is Label else digit.label  # type: ignore[union-attr]


def labels_in(axes: Axes) -> dict[Label, None]:
    """The labels of some axes, in order of first appearance."""
    found: dict[Label, None] = {}
    for axis in axes:
        for digit in axis:
            if type(digit) is Label:
                found[digit] = None
            elif (label := digit.label) is not None:  # type: ignore[union-attr]
                found[label] = None
            elif isinstance(digit, Listed):
                found.update(dict.fromkeys(digit.axes))
    return found


def progression(digit: Digit) -> tuple[Label | None, int, int]:
    """The label of a digit that is not listed, its offset, and its step."""
    return (digit, 0, 1) if type(digit) is Label else (digit.label, digit.offset, digit.step)  # type: ignore[union-attr]


def extent(axis: Axis) -> tuple[int, int]:
    """The first and the last position that an axis may name."""
    first = last = 0
    for digit in axis:
        label, offset, step = (None, 0, 0) if isinstance(digit, Listed) else progression(digit)
        far = digit.size - 1 if isinstance(digit, Listed) else offset + step * (label.size - 1 if label else 0)
        first, last = first * digit.size + min(offset, far), last * digit.size + max(offset, far)
    return first, last


def window(label: Label | None, size: int, offset: int, step: int) -> Axis:
    """A window as the shortest axis that says the same."""
    if size == 1:
        return ()
    if label is not None and offset == 0 and step == 1 and label.size == size:
        return (label,)
    return (Window(label, size, offset, 1 if label is None else step),)


class Substitution(NamedTuple):
    """What stands in place of `label`: a product of two labels (`high`, `low`), or ``offset + step * high``.

    With neither `high` nor `low` the label is fixed at `offset`.
    """

    label: Label
    high: Label | None
    low: Label | None
    offset: int
    step: int

    def in_digit(self, digit: Digit) -> Axis:
        """The digit after the substitution. Raises Misaligned where a window does not split along `low`."""
        if digit is self.label:
            if self.low is not None:
                assert self.high is not None
                return (self.high, self.low)
            return window(self.high, digit.size, self.offset, self.step)
        if isinstance(digit, Listed):
            return digit.changed(self)
        if type(digit) is Label or digit.label is not self.label:  # type: ignore[union-attr]
            return (digit,)
        _, size, offset, step = digit  # type: ignore[misc]
        if self.low is None:
            return window(self.high, size, offset + step * self.offset, step * self.step)
        inner = self.low.size
        if step != 1 or offset % inner or size % inner:
            raise Misaligned
        return (*window(self.high, size // inner, offset // inner, 1), self.low)

    def then(self, change: Any) -> list[Any]:
        """This and then another one, as few as do the same."""
        return [self, change]

    def in_axes(self, axes: Axes) -> Axes:
        return tuple([self._in_axis(axis) for axis in axes])

    def _in_axis(self, axis: Axis) -> Axis:
        for digit in axis:
            if label_of(digit) is self.label or isinstance(digit, Listed):
                return tuple([new for each in axis for new in self.in_digit(each)])
        return axis


def split(digit: Digit, inner: int) -> tuple[Axis, Axis, Substitution | None]:
    """Split a digit into a high and a low part, the low one of `inner` positions.

    Returns the two parts, and the substitution to make everywhere else (None where nothing else changes).
    Raises Misaligned where the digit's positions do not form such a product.
    """
    outer, rest = divmod(digit.size, inner)
    if rest:
        raise Misaligned
    if isinstance(digit, Listed):
        return digit.split(inner)
    if type(digit) is Label:
        high, low = Label(outer), Label(inner)
        return (high,), (low,), Substitution(digit, high, low, 0, 1)
    label, _, offset, step = digit  # type: ignore[misc]
    if label is None or step % inner == 0:
        return window(label, outer, offset // inner, step // inner), window(None, inner, offset % inner, 1), None
    if offset // inner == (offset + step * (label.size - 1)) // inner:  # all within one position of the high part
        return window(None, outer, offset // inner, 1), window(label, inner, offset % inner, step), None
    if step != 1 or offset % inner or label.size % inner:
        raise Misaligned
    high, low = Label(label.size // inner), Label(inner)
    return window(high, outer, offset // inner, 1), (low,), Substitution(label, high, low, 0, 1)


def match(a: Digit, b: Digit, most: float = inf) -> list[Any]:
    """The substitutions after which two digits of the same size name the same position.

    Raises Vanishes where they never do.
    """
    if a is b:
        return []
    if isinstance(a, Listed) or isinstance(b, Listed):
        return a.match(b, most) if isinstance(a, Listed) else b.match(a, most)  # type: ignore[union-attr]
    (u, o1, s1), (v, o2, s2) = progression(a), progression(b)
    if u is None:
        if v is not None:
            return [_fix(v, o1 - o2, s2)]
        if o1 != o2:
            raise Vanishes
        return []
    if u is v:  # one label at two places: either everywhere equal, or a single position
        if s1 == s2:
            if o1 != o2:
                raise Vanishes
            return []
        return [_fix(u, o2 - o1, s1 - s2)]
    if v is None:
        return [_fix(u, o2 - o1, s1)]
    if o1 == o2 and s1 == s2:
        if u.size == v.size:
            return [Substitution(u, v, None, 0, 1)]
        small, large = (u, v) if u.size < v.size else (v, u)
        return [Substitution(large, small, None, 0, 1)]
    return _intersect(u, o1, s1, v, o2, s2)


def _fix(label: Label, distance: int, step: int) -> Substitution:
    """The label at the one value where ``step * label == distance``."""
    value, rest = divmod(distance, step)
    if rest or not 0 <= value < label.size:
        raise Vanishes
    return Substitution(label, None, None, value, 1)


def _intersect(u: Label, o1: int, s1: int, v: Label, o2: int, s2: int) -> list[Substitution]:
    """Two arithmetic progressions, ``o1 + s1 u == o2 + s2 v``: both labels along their common positions."""
    common = gcd(s1, s2)
    if (o2 - o1) % common:
        raise Vanishes
    # u = u0 + du w and v = v0 + dv w solve the equation for every integer w
    du, dv = abs(s2) // common, (s1 * abs(s2)) // (common * s2)
    u0 = ((o2 - o1) // common * pow(s1 // common, -1, du)) % du if du > 1 else 0
    v0 = (o1 + s1 * u0 - o2) // s2
    low, high = -(u0 // du), (u.size - 1 - u0) // du
    if dv > 0:
        low, high = max(low, -(v0 // dv)), min(high, (v.size - 1 - v0) // dv)
    else:
        low, high = max(low, -((v.size - 1 - v0) // -dv)), min(high, v0 // -dv)
    if high < low:
        raise Vanishes
    w = Label(high - low + 1) if high > low else None
    return [Substitution(u, w, None, u0 + du * low, du), Substitution(v, w, None, v0 + dv * low, dv)]
