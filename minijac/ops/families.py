"""The three families of operations, and the edge: the local derivative that follows from what a family declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from ..algebra.block import Block
from ..algebra.factors import Factor, Shape, aligned, contract, product, size_of, spread
from ..algebra.labels import Axes, Axis, Label, Window, window
from ..algebra.terms import Term
from ..backend import array_of, on_host, value_of
from ..errors import InputError
from ..tape.trace import Node, Op

__all__ = [
    "REGISTRY",
    "Edge",
    "Linear",
    "Part",
    "Sample",
    "Shape",
    "elementwise",
    "linear",
    "multilinear",
    "opaque",
    "structural",
]

REGISTRY: dict[str, Op] = {}
"""Every operation by name; the tests walk it, so that no operation is without a test."""


class Sample(NamedTuple):
    """How a test calls an operation: shapes of its array operands (samples first), parameters, and their domain."""

    shapes: tuple[Shape, ...]
    params: dict[str, Any] = {}  # noqa: RUF012 - never written
    low: float = -2.0
    high: float = 2.0
    shared: tuple[int, ...] = ()
    """Operands without a sample axis."""
    prepare: Callable[[Any], Any] | None = None
    """Applied to the first operand where its domain is no interval, such as symmetric matrices."""
    given: dict[int, Any] = {}  # noqa: RUF012 - never written
    """Operands that are not drawn, such as positions: operand, array."""


class Part(NamedTuple):
    """One term of an edge, with labels of size one still in place: they tell where an axis of length one goes."""

    out: Axes
    inp: Axes
    factors: tuple[Factor, ...] = ()
    scale: float = 1.0


class Linear(NamedTuple):
    """A linear map that is no block. Both functions take and return arrays with one more axis in front (seeds)."""

    push: Callable[[Any], Any]
    pull: Callable[[Any], Any]
    uniform: bool = False
    """Whether both do the same at all positions of the axes that pass, and take any number of them."""


class Edge:
    """The derivative of a node's output by one operand: parts, or a linear map along the axes that do not pass."""

    __slots__ = ("inp_shape", "linear", "out_shape", "parts")

    def __init__(self, out_shape: Shape, inp_shape: Shape, parts: Sequence[Part], linear: Linear | None = None) -> None:
        self.out_shape = out_shape
        self.inp_shape = inp_shape
        self.parts = parts
        self.linear = linear

    def block(self) -> Block:
        terms = [Term(without_ones(p.out), without_ones(p.inp), p.factors, p.scale) for p in self.parts]
        return Block(self.out_shape, self.inp_shape, terms)

    def without_dead(self, live: Any) -> Edge:
        """The same where an output entry is live; infinities and NaNs of entries that are not become zero.

        Data that is finite needs none of this: the zeros of the chain rule take care of it.
        """
        if live is not array_of(live):
            return self
        parts = [_without_dead(part, live) for part in self.parts]
        return Edge(self.out_shape, self.inp_shape, parts, self.linear)

    def after(self, block: Block) -> Block:
        """Forward: this derivative applied to a block that ends in the operand."""
        if self.linear is None:
            return self.block().after(block)
        (part,) = self.parts
        return _map(self.linear.push, part.inp, part.out, self.out_shape, block, self.linear.uniform)

    def before(self, block: Block) -> Block:
        """Reverse: a block that starts in the node's output, applied to this derivative."""
        if self.linear is None:
            return block.after(self.block())
        (part,) = self.parts
        return _map(self.linear.pull, part.out, part.inp, self.inp_shape, block.T, self.linear.uniform).T

    def carry(self, axis: int, stride: int, batch: int) -> tuple[int, int] | None:
        """Where samples that are digit `stride` of the operand's `axis` end up in the output; None where they mix."""
        places = {_carry(part, axis, stride, batch) for part in self.parts}
        return places.pop() if len(places) == 1 else None


def _without_dead(part: Part, live: Any) -> Part:
    if not part.factors or not all(type(digit) is Label for axis in part.out for digit in axis):
        return part
    lead = tuple(digit for axis in part.out for digit in axis if digit.size > 1)
    rest = dict.fromkeys(label for f in part.factors for label in f.axes if label not in lead)
    order: tuple[Label, ...] = (*lead, *rest)  # type: ignore[arg-type]
    grows = size_of(order) > max(size_of(f.axes) for f in part.factors)
    # to ask a device costs more than to write zeros, unless that makes data of what is shared or a product
    if (grows or on_host(array_of(live))) and all(_finite(f.array) for f in part.factors):
        return part
    mask = Factor(live.reshape(tuple(label.size for label in lead)), lead)  # type: ignore[arg-type]
    data = np.where(aligned(mask, order), product(part.factors, order), 0.0)
    return Part(part.out, part.inp, (Factor(data, order),), part.scale)


def _finite(array: Any) -> bool:
    plain = array_of(array)
    return value_of(array) is not plain or bool(np.isfinite(plain).all())  # a program's numbers are not looked at


def without_ones(axes: Axes) -> Axes:
    """The axes as a term has them: labels of size one gone, axes of length one empty."""
    for axis in axes:
        for digit in axis:
            if digit.size == 1 or (type(digit) is not Label and digit.label is not None and digit.label.size == 1):  # type: ignore[union-attr]
                return tuple(tuple(new for digit in axis for new in _without_one(digit)) for axis in axes)
    return axes


def _without_one(digit: Label | Window) -> Axis:
    if type(digit) is Label:
        return () if digit.size == 1 else (digit,)
    label, size, offset, step = digit  # type: ignore[misc]
    return window(None if label is not None and label.size == 1 else label, size, offset, step)


def _carry(part: Part, axis: int, stride: int, batch: int) -> tuple[int, int] | None:
    """Follow the samples, which are positions ``// stride % batch`` of an input axis, through one part."""
    digits = part.inp[axis]
    if len(digits) == 1 and type(digits[0]) is Label:
        return _find(part.out, digits[0], stride)
    low = 1
    covered: list[Label] = []
    relative = 0
    for digit in reversed(digits):
        high = low * digit.size
        if type(digit) is Label and batch == 1 and low == stride and digit.size == 1:
            return _find(part.out, digit, 1)
        inside = low <= stride and stride * batch <= high and not (batch == 1 and stride == high)
        if inside or (stride < high and low < stride * batch):
            if type(digit) is not Label:
                return None
            if inside and not covered:
                relative = stride // low
                return _find(part.out, digit, relative) if stride % low == 0 else None
            covered.insert(0, digit)
        low = high
    if batch == 1 and stride == low and digits:  # one sample, merged in front of the axis
        lead = digits[0]
        return _find(part.out, lead, lead.size) if type(lead) is Label else None
    size = 1
    for label in covered:
        size *= label.size
    if size != batch or not covered:
        return None
    places = [_find(part.out, label, 1) for label in covered]
    for high_place, b, low_place in zip(places, covered[1:], places[1:], strict=False):
        if high_place is None or low_place is None or high_place[0] != low_place[0]:
            return None
        if high_place[1] != low_place[1] * b.size:
            return None
    return places[-1]


def _find(axes: Axes, label: Label, relative: int) -> tuple[int, int] | None:
    for k, axis in enumerate(axes):
        stride = 1
        for digit in reversed(axis):
            if digit is label:
                return k, stride * relative
            stride *= digit.size
    return None


def _map(
    function: Callable[[Any], Any], source: Axes, target: Axes, shape: Shape, block: Block, uniform: bool
) -> Block:
    """Apply a linear function along a block's output axes; labels stay where source and target share theirs."""
    shared = {axis[0] for axis in source if axis} & {axis[0] for axis in target if axis}
    passing = {k: target.index(axis) for k, axis in enumerate(source) if axis and axis[0] in shared}
    block = block.materialised([k for k in range(len(source)) if k not in passing])
    result = []
    for term in block.terms:
        for k in passing:  # a label that stands twice would be one axis of the data for two of the array
            digits = [digit for axis in term.out for digit in axis]
            if any(type(digit) is not Label or digits.count(digit) > 1 for digit in term.out[k]):
                (term,) = Block(block.out_shape, block.inp_shape, [term], block.one).materialised([k]).terms
        result.append(_map_term(function, passing, target, shape, term, block, uniform))
    return Block(shape, block.inp_shape, result, block.one)


def _map_term(
    function: Callable[[Any], Any],
    passing: dict[int, int],
    target: Axes,
    shape: Shape,
    term: Term,
    block: Block,
    uniform: bool,
) -> Term:
    factor = Term(term.out, term.inp, term.factors).one_factor() if term.factors else Factor(block.one, ())
    alike = [label for k in passing for label in term.out[k] if label not in factor.axes] if uniform else []
    # a uniform map is carried out once for all positions along which the block is constant
    digits = [tuple(digit for digit in axis if digit not in alike) for axis in term.out]
    own = [digit for axis in digits for digit in axis]
    assert all(type(digit) is Label for digit in own)
    extra = [label for label in factor.axes if label not in own]
    lead = spread(factor, (*extra, *own)).reshape(size_of(extra), *map(size_of, digits))  # type: ignore[arg-type]
    back = {out: k for k, out in passing.items()}
    axes: list[Axis] = []
    for k, n in enumerate(shape):
        axes.append(term.out[back[k]] if k in back else (() if n == 1 else (Label(n),)))
    order = (*extra, *(digit for axis in axes for digit in axis if digit not in alike))
    data = function(lead).reshape(tuple(label.size for label in order))
    return Term(tuple(axes), term.inp, (Factor(data, order),), term.scale)  # type: ignore[arg-type]


def register(op: Op) -> Op:
    """Enter an operation in the registry: programs tell operations apart by name, and write it into generated code."""
    if not (op.name.isidentifier() and op.name.isascii()):
        raise InputError(f"name of an operation: expected ASCII letters, digits and underscores, got {op.name!r}.")
    if op.name in REGISTRY:
        raise InputError(
            f"name of an operation: expected one that is not taken, got {op.name!r}. Choose another, and define an "
            "operation once: not in code that is run again."
        )
    REGISTRY[op.name] = op
    return op


# -- elementwise -------------------------------------------------------------------------------------------------------
def elementwise(
    name: str, value: Callable[..., Any], *partials: Callable[..., Any] | float | None, samples: Sequence[Sample] = ()
) -> Op:
    """An operation on each entry by itself, with broadcasting.

    `partials` holds one derivative for each operand, a number or a function of the output and the operands
    (``lambda y, x: ...``), written with NumPy functions so that it differentiates again. None stands for an operand
    without a derivative.
    """

    def edge(node: Node, k: int) -> Edge:
        out_shape = node.out.shape
        axes: Axes = tuple([(Label(n),) for n in out_shape])
        partial: Any = node.slopes.get(k, partials[k])
        if callable(partial):
            partial = partial(node.out, *node.args, **node.params)
        if node.live is not None and not (isinstance(partial, int | float) and isfinite(partial)):
            partial = np.where(node.live, partial, 0.0)
        return elementwise_edge(out_shape, np.shape(node.args[k]), axes, partial, node.out.dtype)

    inert = frozenset(k for k, partial in enumerate(partials) if partial is None)
    op = Op(name, value, edge, "elementwise", tuple(samples), inert)
    op.partials = partials
    return register(op)


def elementwise_edge(out_shape: Shape, shape: Shape, axes: Axes, partial: Any, dtype: Any) -> Edge:
    inp = operand_axes(axes, shape)
    if isinstance(partial, int | float):
        return Edge(out_shape, shape, [Part(axes, inp, (), float(partial))])
    return Edge(out_shape, shape, [Part(axes, inp, (labelled(partial, axes, dtype),))])


def operand_axes(axes: Axes, shape: Shape) -> Axes:
    """The axes of an operand of `shape` that broadcasts to an array whose axes are one label each."""
    inp = axes[len(axes) - len(shape) :]
    return tuple([axis if n == axis[0].size else (Label(n),) for axis, n in zip(inp, shape, strict=True)])


def labelled(array: Any, axes: Axes, dtype: Any) -> Factor:
    """An array broadcastable to axes of one label each, as a factor over the labels along which it varies.

    Integers and booleans become `dtype`: sums of them would not be sums of numbers, or overflow.
    """
    shape = np.shape(array)
    if array.dtype.kind != "f":
        array = array.astype(dtype)
    mine = axes[len(axes) - len(shape) :]
    if 1 not in shape:
        return Factor(array, tuple([axis[0] for axis in mine]))  # type: ignore[misc]
    array = array.reshape(tuple(n for n in shape if n != 1))
    return Factor(array, tuple(axis[0] for axis, n in zip(mine, shape, strict=True) if n != 1))  # type: ignore[misc]


# -- multilinear -------------------------------------------------------------------------------------------------------
def multilinear(
    name: str,
    value: Callable[..., Any],
    signature: Callable[..., tuple[Sequence[Sequence[Any]], Sequence[Any]]],
    samples: Sequence[Sample] = (),
) -> Op:
    """An operation linear in each operand: ``signature(*shapes, **params)`` names the axes of each and of the output.

    The names are any hashables; one that several operands have is multiplied along, one that the output lacks is
    summed over. An axis of length one broadcasts. The derivative for one operand is the others, held.
    """

    def edge(node: Node, k: int) -> Edge:
        out, operands, factors = multilinear_axes(node, held=[j for j in range(len(node.args)) if j != k])
        return Edge(node.out.shape, np.shape(node.args[k]), [_tidy(out, operands[k], factors)])

    op = Op(name, value, edge, "multilinear", tuple(samples))
    op.signature = signature
    return register(op)


def multilinear_axes(node: Node, held: Sequence[int]) -> tuple[Axes, list[Axes], list[Factor]]:
    """The axes of the output and of each operand of a multilinear node, and the operands `held` as factors."""
    shapes = [np.shape(arg) for arg in node.args]
    names, out_names = node.op.signature(*shapes, **node.params)  # type: ignore[union-attr, misc]
    sizes: dict[Any, int] = {}
    for letters, shape in zip(names, shapes, strict=True):
        for letter, n in zip(letters, shape, strict=True):
            if sizes.get(letter, 1) == 1:
                sizes[letter] = n
    label = {letter: Label(n) for letter, n in sizes.items()}
    operands: list[Axes] = [
        tuple((label[c] if sizes[c] == n else Label(n),) for c, n in zip(letters, shape, strict=True))
        for letters, shape in zip(names, shapes, strict=True)
    ]
    factors = [labelled_repeated(node.args[j], [label[c] for c in names[j]], node.out.dtype) for j in held]
    return tuple((label[c],) for c in out_names), operands, factors


def labelled_repeated(array: Any, labels: list[Label], dtype: Any) -> Factor:
    """As `labelled`, for labels of which some may repeat: one that does means the diagonal."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            array = array.diagonal(axis1=first, axis2=second)
            labels = [x for i, x in enumerate(labels) if i not in (first, second)] + [label]
    return labelled(array, tuple((label,) for label in labels), dtype)


def _tidy(out: Axes, inp: Axes, factors: list[Factor]) -> Part:
    """Sum the factors over the labels that neither side has, which a term may not keep."""
    keep = {axis[0] for axis in (*out, *inp)}
    if all(label in keep for factor in factors for label in factor.axes):
        return Part(out, inp, tuple(factors))
    return Part(out, inp, contract(factors, keep))  # type: ignore[arg-type]


# -- structural --------------------------------------------------------------------------------------------------------
def structural(
    name: str,
    value: Callable[..., Any],
    relation: Callable[..., Sequence[Part]],
    samples: Sequence[Sample] = (),
    view: bool = False,
) -> Op:
    """A linear operation that only moves, repeats or sums entries: its derivative is labels, without data.

    ``relation(k, out_shape, *shapes, **params)`` returns the parts of the derivative for operand `k`. `view` tells that
    NumPy makes a view of the operand, where its strides allow.
    """

    def edge(node: Node, k: int) -> Edge:
        shapes = [np.shape(arg) for arg in node.args]
        return Edge(node.out.shape, shapes[k], relation(k, node.out.shape, *shapes, **node.params))

    return register(Op(name, value, edge, "structural", tuple(samples), view=view))


# -- the rest ----------------------------------------------------------------------------------------------------------
def linear(
    name: str,
    value: Callable[..., Any],
    edge: Callable[[Node, int], Edge],
    samples: Sequence[Sample] = (),
    family: str = "linear map",
    inert: Sequence[int] = (),
    view: bool = False,
) -> Op:
    """An operation whose local derivative is given outright: an `Edge` for each node and operand.

    `inert` lists operands that have none, such as positions; `view` is that of `structural`.
    """
    return register(Op(name, value, edge, family, tuple(samples), frozenset(inert), view))


def linear_map(
    source: Shape,
    target: Shape,
    push: Callable[[Any], Any],
    pull: Callable[[Any], Any],
    passing: Sequence[tuple[int, int]],
    uniform: bool = False,
) -> Edge:
    """The edge of a linear map that is no block, from arrays of shape `source` to arrays of shape `target`.

    Args:
        push: Takes tangents ``(n, *source)`` to ``(n, *target)``, for any n; written with NumPy functions or minijac's
            operations, so that it differentiates again.
        pull: Its transpose, ``(n, *target)`` to ``(n, *source)``.
        passing: Pairs of axes (of source, of target) along which entries stay in place and do not mix; the samples
            have to be on one of them.
        uniform: Whether both do the same at all positions of the passing axes, and take any number of them.
    """
    labels = [Label(n) for n in source]
    out = [Label(n) for n in target]
    for i, j in passing:
        out[j] = labels[i]
    part = Part(tuple((label,) for label in out), tuple((label,) for label in labels))
    return Edge(target, source, [part], Linear(push, pull, uniform))


def opaque(name: str, value: Callable[..., Any], samples: Sequence[Sample] = ()) -> Op:
    """An operation whose derivative is zero wherever it exists: comparisons, sign, rounding."""
    return register(Op(name, value, None, "piecewise constant", tuple(samples)))
