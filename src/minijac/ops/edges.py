"""Edges: the local derivative of an operation by one operand, as labelled parts or as a linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..algebra.block import Block
from ..algebra.factors import Factor, Shape, aligned, conjugated, product, size_of, spread
from ..algebra.labels import Axes, Axis, Digit, Label, Listed, axis_of, labels_in, window
from ..algebra.terms import Term
from ..backend import array_of, on_host, placed, value_of
from ..picks import as_pick, combined

__all__ = ["Edge", "Linear", "Part", "without_ones"]


class Part(NamedTuple):
    """One term of an edge, with labels of size one still in place: they tell where an axis of length one goes."""

    out: Axes
    inp: Axes
    factors: tuple[Factor, ...] = ()
    scale: complex = 1.0
    conj: bool = False


class Linear(NamedTuple):
    """A linear map that is no block. Both functions take and return arrays with one more axis (seeds), in front."""

    push: Callable[[Any], Any]
    pull: Callable[[Any], Any]
    uniform: bool = False
    """Whether both do the same at all positions of the axes that pass, and take any number of them."""
    real: bool = False
    """Whether they are linear in real numbers alone; the pull is then the adjoint for ``re(sum(a * b))``."""
    signed: bool = False
    """Whether entries may cancel each other, so that adding does not tell where they go."""
    behind: bool = False
    """Whether the axis of the seeds is the last one instead."""
    fewer: Callable[[int, Any], Linear] | None = None
    """The maps of some positions alone, a slice or an array of them, on an axis of the output that passes."""


class Edge(NamedTuple):
    """The derivative of a node's output by one operand: parts, or a linear map along the axes that do not pass."""

    out_shape: Shape
    inp_shape: Shape
    parts: Sequence[Part]
    linear: Linear | None = None
    listed: Callable[[bool], Part | None] | None = None
    """The same as a part with listed digits, for results that keep nothing but entries; None where a program computes
    the positions, or a device has them that may not be looked at, which is what it is asked with."""

    def block(self) -> Block:
        terms = [Term(without_ones(p.out), without_ones(p.inp), *p[2:]) for p in self.parts]
        return Block(self.out_shape, self.inp_shape, terms)

    def of_reals(self, to_real: bool) -> Edge:
        """The same as a part of a map from or to real numbers, for which to be linear in those is enough. And `to_real`
        ones, ``A dz + conj(A) conj(dz)``: that of which it is the real part, ``2 A dz``."""
        parts, linear = self.parts, self.linear and self.linear._replace(real=False)
        if to_real and any(part.conj for part in parts):
            parts = [part._replace(scale=2 * part.scale) for part in parts if not part.conj]
        return self._replace(parts=parts, linear=linear)

    def without_dead(self, live: Any) -> Edge:
        """The same where an output entry is live; infinities and NaNs of entries that are not become zero.

        Data that is finite needs none of this: the zeros of the chain rule take care of it.
        """
        return self._replace(parts=[_without_dead(part, live) for part in self.parts])

    def where_varying(self, varying: Any) -> Edge:
        """The same where an entry of the operand depends on an input, as `without_dead` is for the output's."""
        turned = [_without_dead(Part(p.inp, p.out, *p[2:]), varying, asks=False) for p in self.parts]
        return self._replace(parts=[Part(p.inp, p.out, *p[2:]) for p in turned])

    def after(self, block: Block) -> Block:
        """Forward: this derivative applied to a block that ends in the operand."""
        if self.linear is None:
            return self.block().after(block)
        return self._mapped(block, self.linear, False)

    def before(self, block: Block) -> Block:
        """Reverse: a block that starts in the node's output, applied to this derivative."""
        if self.linear is None:
            return block.after(self.block())
        return self._mapped(block.T, self.linear, True).T

    def _mapped(self, block: Block, linear: Linear, backward: bool) -> Block:
        (part,) = self.parts
        ends = (part.out, part.inp, self.inp_shape) if backward else (part.inp, part.out, self.out_shape)
        mapped = _map(_Map(linear, backward), *ends, block)
        return mapped + _map(_Map(linear, backward, conjugates=True), *ends, block) if linear.real else mapped

    def carry(self, axis: int, stride: int, batch: int) -> tuple[int, int] | None:
        """Where samples that are digit `stride` of the operand's `axis` end up in the output; None where they mix."""
        places = {_carry(part, axis, stride, batch) for part in self.parts}
        return places.pop() if len(places) == 1 else None


def _without_dead(part: Part, live: Any, asks: bool = True) -> Part:
    if not part.factors or not live.size or not all(type(digit) is Label for axis in part.out for digit in axis):
        return part
    lead = tuple(digit for axis in part.out for digit in axis if digit.size > 1)
    rest = dict.fromkeys(label for f in part.factors for label in f.axes if label not in lead)
    order: tuple[Label, ...] = (*lead, *rest)  # type: ignore[arg-type]
    grows = size_of(order) > max(size_of(f.axes) for f in part.factors)
    mask = Factor(live.reshape(tuple(label.size for label in lead)), lead)  # type: ignore[arg-type]
    looked_at = live is array_of(live) and (asks or on_host(live))
    if grows and not looked_at:  # of a program, whose numbers are not there, or of a device that is not to be asked
        return part._replace(factors=tuple(_used_alone(factor, mask) for factor in part.factors))
    # to ask a device costs more than to write zeros, unless that makes data of what is shared or a product
    if (grows or on_host(value_of(live))) and all(_finite(f.array) for f in part.factors):
        return part
    data = np.where(aligned(mask, order), product(part.factors, order), 0.0)
    return part._replace(factors=(Factor(data, order),))


def _used_alone(factor: Factor, mask: Factor) -> Factor:
    """A factor without what no entry of the mask uses along the labels that the two share."""
    if not any(label in factor.axes for label in mask.axes):
        return factor
    gone = tuple(k for k, label in enumerate(mask.axes) if label not in factor.axes)
    used = mask.array.any(axis=gone) if gone else mask.array
    rest = tuple(label for label in mask.axes if label in factor.axes)
    return Factor(np.where(aligned(Factor(used, rest), factor.axes), factor.array, 0.0), factor.axes)


def _finite(array: Any) -> bool:
    plain = array_of(array)  # a program's numbers are not looked at
    return value_of(array) is plain and bool(np.isfinite(plain).all())


def without_ones(axes: Axes) -> Axes:
    """The axes as a term has them: labels of size one gone, axes of length one empty."""
    for axis in axes:
        for digit in axis:
            if digit.size == 1 or any(label.size == 1 for label in labels_in(((digit,),))):
                return tuple(tuple(new for digit in axis for new in _without_one(digit)) for axis in axes)
    return axes


def _without_one(digit: Digit) -> Axis:
    if type(digit) is Label:
        return () if digit.size == 1 else (digit,)
    if isinstance(digit, Listed):
        return digit.without_ones()
    label, size, offset, step = digit  # type: ignore[misc]
    return window(None if label is not None and label.size == 1 else label, size, offset, step)


def _carry(part: Part, axis: int, stride: int, batch: int) -> tuple[int, int] | None:
    """Follow the samples, which are positions ``// stride % batch`` of an input axis, through one part."""
    digits = part.inp[axis]
    if len(digits) == 1 and type(digits[0]) is Label:
        return _find(part.out, digits[0], stride)
    lows = [prod(digit.size for digit in digits[k + 1 :]) for k in range(len(digits))]
    if batch == 1:
        return _carry_one(part.out, digits, lows, stride)
    touched = [k for k, low in enumerate(lows) if low < stride * batch and stride < low * digits[k].size]
    labels = [digit for digit in (digits[k] for k in touched) if type(digit) is Label]
    if not labels or len(labels) < len(touched):
        return None
    if len(labels) == 1:  # the samples are part of one digit
        low = lows[touched[0]]
        whole = low <= stride and stride * batch <= low * labels[0].size and stride % low == 0
        return _find(part.out, labels[0], stride // low) if whole else None
    places = [_find(part.out, label, 1) for label in labels]
    if prod(label.size for label in labels) != batch or any(
        high is None or low is None or high != (low[0], low[1] * label.size)
        for high, low, label in zip(places, places[1:], labels[1:], strict=False)
    ):
        return None
    return places[-1]


def _carry_one(out: Axes, digits: Axis, lows: Sequence[int], stride: int) -> tuple[int, int] | None:
    """The same for one sample: at a label of length one, within a digit, or in front of the axis."""
    for digit, low in zip(reversed(digits), reversed(lows), strict=True):
        if type(digit) is Label and digit.size == 1 and low == stride:
            return _find(out, digit, 1)
        if low <= stride < low * digit.size:
            return _find(out, digit, stride // low) if type(digit) is Label and stride % low == 0 else None
    if digits and type(digits[0]) is Label and stride == lows[0] * digits[0].size:
        return _find(out, digits[0], digits[0].size)
    return None


def _find(axes: Axes, label: Label, relative: int) -> tuple[int, int] | None:
    for k, axis in enumerate(axes):
        stride = 1
        for digit in reversed(axis):
            if digit is label:
                return k, stride * relative
            stride *= digit.size
    return None


class _Map(NamedTuple):
    """One direction of a linear map. A term of a block that comes backward and conjugates meets the conjugate: ``A
    conj(M x) = A conj(M) conj(x)``."""

    linear: Linear
    backward: bool
    conjugates: bool = False
    """Whether it is B alone of ``A x + B conj(x)``, as maps that are linear in real numbers are, or the adjoint."""

    def __call__(self, x: Any) -> Any:
        function = self.linear.pull if self.backward else self.linear.push
        if not self.linear.real:
            return function(x)
        return 0.5 * (function(x) + (1j if self.conjugates else -1j) * function(1j * x))  # which tells A from B

    def at(self, k: int, axis: Axis, like: Any) -> _Map | None:
        """The map of the positions alone that an axis names, of the output's axis `k`; None where it is not known."""
        if self.linear.uniform or _is_whole(axis):
            return self
        if self.linear.fewer is None:
            return None
        return self._replace(linear=self.linear.fewer(k, _positions(axis, like)))


def _is_whole(axis: Axis) -> bool:
    """Whether an axis names all of its positions, each once, in order."""
    return all(type(digit) is Label for digit in axis) and len(set(axis)) == len(axis)


def _positions(axis: Axis, like: Any) -> Any:
    """The positions that an axis names, for all values of its labels: a slice, where they are evenly spaced, or an
    array where `like` lives."""
    at = combined([as_pick(digit) for digit in axis], tuple(labels_in((axis,))))
    step = int(at[1] - at[0]) if at.size > 1 else 1
    even = step > 0 and (at.size < 3 or (np.diff(at) == step).all())
    return slice(int(at[0]), int(at[-1]) + 1, step) if even else placed(at, like)


def _map(how: _Map, source: Axes, target: Axes, shape: Shape, block: Block) -> Block:
    """Apply a linear function along a block's output axes; labels stay where source and target share theirs."""
    shared = {axis[0] for axis in source if axis} & {axis[0] for axis in target if axis}
    passing = {k: target.index(axis) for k, axis in enumerate(source) if axis and axis[0] in shared}
    block = block.materialised([k for k in range(len(source)) if k not in passing])
    terms = []
    for term in block.terms:
        here, taken = how, set[Label]()
        for k in passing:  # what is zero at other positions stays so
            digit = term.out[k][0] if len(term.out[k]) == 1 else None
            term = (isinstance(digit, Listed) and digit.named(term, k)) or term
            some = here.at(k if how.backward else passing[k], term.out[k], block.one)
            # a label that stands on two axes would be one axis of the data for two of the array
            if some is None or not (here.linear.uniform or taken.isdisjoint(labels_in((term.out[k],)))):
                (term,) = Block(block.out_shape, block.inp_shape, [term], block.one).materialised([k]).terms
            else:
                here = some
            taken |= labels_in((term.out[k],)).keys()
        terms.append(_map_term(here, passing, target, shape, term, block))
    return Block(shape, block.inp_shape, terms, block.one)


def _map_term(how: _Map, passing: dict[int, int], target: Axes, shape: Shape, term: Term, block: Block) -> Term:
    turned = how.backward and term.conj
    real = isinstance(term.scale, float | int)  # not every map lets i pass
    scale, rest = (1.0, term.scale) if real else (term.scale, 1.0)
    factor = Term(term.out, term.inp, term.factors or (Factor(block.one, ()),), scale).one_factor()
    if turned:
        factor = conjugated(factor)
    own: list[Label] = []
    digits: list[tuple[Label, ...]] = []
    for k, axis in enumerate(term.out):
        # a uniform map is carried out once for all positions along which the block is constant
        alike = how.linear.uniform and k in passing
        new = [label for label in labels_in((axis,)) if label not in own and not (alike and label not in factor.axes)]
        digits.append(tuple(new))
        own += new
    extra = [label for label in factor.axes if label not in own]
    behind = how.linear.behind
    sizes = [tuple(map(size_of, digits)), (size_of(extra),)]
    given = spread(factor, (*own, *extra) if behind else (*extra, *own))
    given = given.reshape(sum(sizes if behind else sizes[::-1], ()))
    back = {out: k for k, out in passing.items()}
    new_axes = [() if k in back else axis_of(n) for k, n in enumerate(shape)]
    axes = tuple([term.out[back[k]] if k in back else axis for k, axis in enumerate(new_axes)])
    made = [label for k, axis in enumerate(new_axes) for label in (digits[back[k]] if k in back else axis)]
    order = (*made, *extra) if behind else (*extra, *made)
    data = Factor(how(given).reshape(tuple(label.size for label in order)), order)  # type: ignore[arg-type]
    if turned != (how.backward and how.conjugates):
        data = conjugated(data)
    return Term(axes, term.inp, (data,), rest, term.conj != how.conjugates)
