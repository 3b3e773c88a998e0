"""The families of operations: for each a record, from which the local derivative follows, and its builder."""

from __future__ import annotations

from cmath import isfinite
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..algebra.factors import Factor, Shape, contract, contract_to_one, spread
from ..algebra.labels import Axes, Label
from ..backend import shape_of
from ..errors import InputError
from ..tape.op import Op, Reduction, Scalar
from ..tape.trace import Node
from .edges import Edge, Part
from .scalars import spelled

__all__ = [
    "REGISTRY", "Elementwise", "Example", "Multilinear", "Structural", "along", "contracted", "define", "elementwise",
    "elementwise_edge", "labelled", "multilinear", "opaque", "reduced", "register",
    "structural",
]  # fmt: skip

REGISTRY: dict[str, Op] = {}
"""Every operation by name; the tests walk it, so that no operation is without a test."""
ADDED = Reduction(np.add, 0)


class Example(NamedTuple):
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


AnyOp = TypeVar("AnyOp", bound=Op)


def register(op: AnyOp) -> AnyOp:
    """Enter an operation in the registry: programs write its name into generated code."""
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
@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Elementwise(Op):
    """An operation on each entry by itself, with broadcasting."""

    partials: Sequence[Callable[..., Any] | complex | None] = ()
    """As declared, one for each operand."""
    scalar: Scalar | None = None
    """How one entry is computed, where the value does not say it."""
    of_numbers: bool = False
    """Whether its only operand may be a Python number, of any size."""

    @property
    def spelling(self) -> Scalar | None:
        """How one entry is computed, where that can be said; parameters have no place in it."""
        return self.scalar or spelled(self.value, len(self.partials))

    def labels(self, shapes: Sequence[Shape], out: Shape, params: dict[str, Any]) -> list[Part] | None:  # type: ignore[override]
        if self.relation is not None:
            return super(Elementwise, self).labels(shapes, out, params)
        if np.broadcast_shapes(*shapes) != tuple(out):
            return None
        labels: Axes = tuple((Label(n),) for n in out)
        return [Part(labels, operand_axes(labels, shape)) for shape in shapes]

    def takes_numbers(self, count: int) -> bool:
        return count > 1 or self.of_numbers or isinstance(self.value, np.ufunc)


def elementwise(
    name: str,
    value: Callable[..., Any],
    *partials: Callable[..., Any] | complex | None,
    examples: Sequence[Example] = (),
    scalar: Scalar | None = None,
    **facts: Any,
) -> Elementwise:
    """An `Elementwise` operation.

    `partials` holds one derivative for each operand, a number or a function of the output and the operands
    (``lambda y, x: ...``), written with NumPy functions so that it differentiates again. None stands for an operand
    without a derivative; where all are None, it is zero wherever it exists, as of sign. `facts` are fields of `Op`.
    """
    inert = frozenset(k for k, partial in enumerate(partials) if partial is None)
    edge = None if len(inert) == len(partials) else elementwise_edge
    return register(Elementwise(name, value, edge, examples, inert, partials=partials, scalar=scalar, **facts))


def elementwise_edge(node: Node, k: int) -> Edge:
    out_shape = node.out.shape
    axes: Axes = tuple([(Label(n),) for n in out_shape])
    partial: Any = node.slopes.get(k, node.op.partials[k])  # type: ignore[union-attr]
    if callable(partial):
        partial = partial(node.out, *node.args, **node.params)
    kept = node.kept(k)
    if kept is not None and not (isinstance(partial, int | float | complex) and isfinite(partial)):
        partial = np.where(kept, partial, 0.0)
    shape = shape_of(node.args[k])
    inp = operand_axes(axes, shape)
    if isinstance(partial, int | float | complex):
        parts = [Part(axes, inp, (), complex(partial) if isinstance(partial, complex) else float(partial))]
        if other := node.op.conjugate:  # type: ignore[union-attr]
            parts = [*(parts if partial else ()), Part(axes, inp, (), other, True)]
        return Edge(out_shape, shape, parts)
    return Edge(out_shape, shape, [Part(axes, inp, (labelled(partial, axes, node.out.dtype),))])


def operand_axes(axes: Axes, shape: Shape) -> Axes:
    """The axes of an operand of `shape` that broadcasts to an array whose axes are one label each."""
    own = zip(axes[len(axes) - len(shape) :], shape, strict=True)
    return tuple([axis if n == axis[0].size else (Label(n),) for axis, n in own])


def labelled(array: Any, axes: Axes, dtype: Any) -> Factor:
    """An array broadcastable to axes of one label each, as a factor over the labels along which it varies.

    Integers and booleans become `dtype`: sums of them would not be sums of numbers, or overflow.
    """
    shape = shape_of(array)
    if array.dtype.kind not in "fc":
        array = array.astype(dtype)
    mine = axes[len(axes) - len(shape) :]
    if 1 not in shape:
        return Factor(array, tuple([axis[0] for axis in mine]))  # type: ignore[misc]
    array = array.reshape(tuple(n for n in shape if n != 1))
    return Factor(array, tuple(axis[0] for axis, n in zip(mine, shape, strict=True) if n != 1))  # type: ignore[misc]


# -- multilinear -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Multilinear(Op):
    """An operation linear in each operand, by the names of their axes."""

    signature: Callable[..., tuple[Sequence[Sequence[Any]], Sequence[Any]]] = lambda *shapes: ((), ())
    reduction: Reduction | None = ADDED
    complex: bool = True

    def labels(self, shapes: Sequence[Shape], out: Shape, params: dict[str, Any]) -> list[Part] | None:  # type: ignore[override]
        names, out_names = self.signature(*shapes, **params)
        if any(len(set(letters)) < len(letters) for letters in (*names, out_names)):
            return None  # a diagonal
        label, out_axes, operands = _named_axes(names, out_names, shapes)
        return [Part(out_axes, inp) for inp in operands]


def multilinear(
    name: str,
    value: Callable[..., Any],
    signature: Callable[..., tuple[Sequence[Sequence[Any]], Sequence[Any]]],
    examples: Sequence[Example] = (),
    **facts: Any,
) -> Multilinear:
    """An operation linear in each operand: ``signature(*shapes, **params)`` names the axes of each and of the output.

    The names are any hashables; one that several operands have is multiplied along, one that the output lacks is
    summed over. An axis of length one broadcasts. The derivative for one operand is the others, held.
    """

    def expansion(*operands: Any, **params: Any) -> Any:
        return contracted(*signature(*(x.shape for x in operands), **params), operands)

    facts.setdefault("expansion", expansion)
    return register(Multilinear(name, value, _multilinear_edge, examples, signature=signature, **facts))


def _multilinear_edge(node: Node, k: int) -> Edge:
    out, operands, factors = multilinear_axes(node, held=[j for j in range(len(node.args)) if j != k])
    return Edge(node.out.shape, shape_of(node.args[k]), [_tidy(out, operands[k], factors)])


def multilinear_axes(node: Node, held: Sequence[int]) -> tuple[Axes, list[Axes], list[Factor]]:
    """The axes of the output and of each operand of a multilinear node, and the operands `held` as factors."""
    shapes = [shape_of(arg) for arg in node.args]
    names, out_names = node.op.signature(*shapes, **node.params)  # type: ignore[union-attr]
    label, out, operands = _named_axes(names, out_names, shapes)
    factors = [labelled_repeated(node.args[j], [label[c] for c in names[j]], node.out.dtype) for j in held]
    return out, operands, factors


def _named_axes(
    names: Sequence[Sequence[Any]], out_names: Sequence[Any], shapes: Sequence[Shape]
) -> tuple[dict[Any, Label], Axes, list[Axes]]:
    """A label for each name, and with them the axes of the output and of each operand."""
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
    return label, tuple((label[c],) for c in out_names), operands


def labelled_repeated(array: Any, labels: list[Label], dtype: Any) -> Factor:
    """As `labelled`, for labels of which some may repeat: one that does means the diagonal."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            array = array.diagonal(axis1=first, axis2=second)
            labels = [x for i, x in enumerate(labels) if i not in (first, second)] + [label]
    return labelled(array, tuple((label,) for label in labels), dtype)


def contracted(names: Sequence[Sequence[Any]], out: Sequence[Any], operands: Sequence[Any]) -> Any:
    """A contraction by named axes, each pair of operands as a matmul, also a small one."""
    label, _, _ = _named_axes(names, out, [x.shape for x in operands])
    dtype = np.result_type(*(x.dtype for x in operands))
    factors = [labelled_repeated(x, [label[c] for c in own], dtype) for x, own in zip(operands, names, strict=True)]
    target = [label[c] for c in out if label[c].size > 1]
    return spread(contract_to_one(factors, set(target)), target).reshape(tuple(label[c].size for c in out))


def _tidy(out: Axes, inp: Axes, factors: list[Factor]) -> Part:
    """Sum the factors over the labels that neither side has, which a term may not keep."""
    keep = {axis[0] for axis in (*out, *inp)}
    kept = all(label in keep for factor in factors for label in factor.axes)
    return Part(out, inp, tuple(factors) if kept else contract(factors, keep))  # type: ignore[arg-type]


# -- structural --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Structural(Op):
    """A linear operation that only moves, repeats or sums entries: its derivative is labels, without data."""

    flat: bool = True
    complex: bool = True

    @property
    def by_labels(self) -> bool:
        """Whether the relation says all: nothing is moved as data."""
        return self.edge is _structural_edge


def structural(
    name: str,
    value: Callable[..., Any],
    relation: Callable[..., Sequence[Part]],
    examples: Sequence[Example] = (),
    edge: Callable[[Node, int], Edge] | None = None,
    **facts: Any,
) -> Structural:
    """A `Structural` operation. Where `edge` is given, the relation is what is known by labels alone."""
    return register(Structural(name, value, edge or _structural_edge, examples, relation=relation, **facts))


def _structural_edge(node: Node, k: int) -> Edge:
    shapes = [shape_of(arg) for arg in node.args]
    parts = node.op.relation(k, node.out.shape, *shapes, **node.params)  # type: ignore[union-attr, misc]
    return Edge(node.out.shape, shapes[k], parts)


# -- the rest ----------------------------------------------------------------------------------------------------------
def define(
    name: str,
    value: Callable[..., Any],
    edge: Callable[[Node, int], Edge],
    examples: Sequence[Example] = (),
    inert: Sequence[int] = (),
    **facts: Any,
) -> Op:
    """An operation whose local derivative is given outright: an `Edge` for each node and operand.

    `inert` lists operands that have none, such as positions; `facts` are fields of `Op`.
    """
    return register(Op(name, value, edge, examples, frozenset(inert), **facts))


def opaque(name: str, value: Callable[..., Any], examples: Sequence[Example] = (), **facts: Any) -> Op:
    """An operation whose derivative is zero wherever it exists, and that is not elementwise: searches, sorting."""
    return register(Op(name, value, None, examples, **facts))


def reduced(inp: Axes, axis: Sequence[int], keepdims: bool) -> Axes:
    """The axes of a reduction's result, from those of its operand."""
    return tuple([(Label(1),) if k in axis else own for k, own in enumerate(inp) if keepdims or k not in axis])


def along(
    k: int, out_shape: Shape, shape: Shape, axis: int | Sequence[int] | None = None, **_: Any
) -> Sequence[Part] | None:
    """The relation of an operation along the axes in its parameter `axis`, which treats the others' positions apart."""
    axes = [k % len(shape) for k in ((axis,) if isinstance(axis, int) else axis or range(len(shape)))]
    inp: Axes = tuple((Label(n),) for n in shape)
    if len(out_shape) < len(shape):
        return [Part(reduced(inp, axes, False), inp)]
    return [Part(tuple((Label(out_shape[k]),) if k in axes else own for k, own in enumerate(inp)), inp)]
