"""The term: one product of factors between labelled axes, of which a block is a sum.

Between complex arrays a real-linear map is ``dy = A dx + B conj(dx)``: a term may conjugate what it is given (`conj`).
"""

from __future__ import annotations

from typing import Any

from ..backend import is_complex
from .factors import Factor, conjugated, product, substitute
from .labels import Axes, Label, Listed, Substitution, labels_in

__all__ = ["Term", "plain"]


class Term:
    """One product of factors between labelled axes. Immutable."""

    __slots__ = ("_key", "_listed", "_plain", "conj", "factors", "inp", "out", "scale")

    def __init__(
        self, out: Axes, inp: Axes, factors: tuple[Factor, ...] = (), scale: complex = 1.0, conj: bool = False
    ) -> None:
        self.out = out
        self.inp = inp
        self.factors = factors
        self.scale = scale
        self.conj = conj
        """Whether it conjugates what it is given."""
        self._plain: bool | None = None
        self._listed: tuple[Listed, ...] | None = None
        self._key: tuple[Any, list[Label]] | None = None

    @property
    def plain(self) -> bool:
        """Every axis is one whole label, and no label stands twice on one side: composing is renaming."""
        if self._plain is None:
            self._plain = plain(self.out) and plain(self.inp)
        return self._plain

    @property
    def listed(self) -> tuple[Listed, ...]:
        """The digits of which positions are listed, the output's first."""
        if self._listed is None:
            axes = () if self.plain else (*self.out, *self.inp)
            self._listed = tuple([digit for axis in axes for digit in axis if isinstance(digit, Listed)])
        return self._listed

    @property
    def identity(self) -> bool:
        return not self.factors and self.scale == 1.0 and self.out == self.inp and self.plain and not self.conj

    @property
    def transposed(self) -> Term:
        return self.over(self.inp, self.out)

    @property
    def conjugated(self) -> Term:
        """The term of the conjugate weights."""
        return Term(self.out, self.inp, tuple(map(conjugated, self.factors)), self.scale.conjugate(), self.conj)

    def over(self, out: Axes, inp: Axes) -> Term:
        """The same weights over other axes of the same labels."""
        return Term(out, inp, self.factors, self.scale, self.conj)

    def real_parts(self) -> list[Term]:
        """The real part of the weights, as terms of real factors."""
        n = next((n for n, factor in enumerate(self.factors) if is_complex(factor.array)), None)
        if n is None:
            real = self.scale.real
            return [Term(self.out, self.inp, self.factors, real)] if real else []
        (array, axes), parts = self.factors[n], list[Term]()
        turned = 1j * self.scale
        for part, scale in ((array.real, self.scale), (array.imag, turned)):
            rest = Term(self.out, self.inp, (*self.factors[:n], Factor(part, axes), *self.factors[n + 1 :]), scale)
            parts += rest.real_parts()
        return parts

    def labels(self) -> dict[Label, None]:
        return labels_in(self.out) | labels_in(self.inp)

    def key(self) -> tuple[Any, list[Label]]:
        """The structure with labels numbered by first appearance, and those labels: equal structures may be added."""
        if self._key is None:
            number: dict[Label, int] = {}
            structure: list[Any] = []
            for axis in (*self.out, *self.inp):
                structure.append(-1)
                for digit in axis:
                    if type(digit) is Label:
                        structure.append(number.setdefault(digit, len(number)))
                    elif isinstance(digit, Listed):
                        own = [number.setdefault(each, len(number)) for each in digit.axes]
                        structure.append((digit.size, digit.key, *own))
                    else:
                        label, *place = digit  # type: ignore[misc]
                        n = -2 if label is None else number.setdefault(label, len(number))
                        structure.append((n, label and label.size, *place))
            self._key = (tuple(structure), tuple([label.size for label in number]), self.conj), list(number)
        return self._key

    def renamed(self) -> Term:
        """The same term over fresh labels."""
        out, inp, factors = self.out, self.inp, self.factors
        for change in [Substitution(old, Label(old.size), None, 0, 1) for old in self.labels()]:
            out, inp = change.in_axes(out), change.in_axes(inp)
            factors = tuple([substitute(factor, change) for factor in factors])
        return Term(out, inp, factors, self.scale, self.conj)

    def without_listed(self, unit: Any) -> Term:
        """The same term, dense along the axes of listed digits."""
        return self.listed[0].written(self, unit) if self.listed else self

    def one_factor(self) -> Factor:
        """The weights as one factor over the labels that carry any, the scale multiplied in."""
        if not self.factors:
            return Factor(self.scale, ())
        order = tuple({label: None for factor in self.factors for label in factor.axes})
        if len(self.factors) == 1 and self.scale == 1.0:
            return self.factors[0]
        return Factor(product(self.factors, order, self.scale), order)


def plain(axes: Axes) -> bool:
    seen: list[Label] = []
    for axis in axes:
        if axis:
            if len(axis) > 1:
                return False
            label = axis[0]
            if type(label) is not Label or label in seen:
                return False
            seen.append(label)
    return True
