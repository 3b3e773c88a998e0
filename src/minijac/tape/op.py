"""What an operation is: a record of everything that others need to know of it."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .trace import apply

__all__ = ["Op", "Reduction", "Scalar"]


class Scalar(NamedTuple):
    """How one entry is computed, as text in ``{0}``, ``{1}`` ...: what loops and kernels are generated from."""

    loop: str | None = None
    """An expression of arithmetic, ``where`` and functions without branches; None: NumPy's call is all there is."""
    c: Mapping[str, str] = {}
    """C, by the kind of the loop's dtype; without, an operation whose value is made of others is taken apart."""
    cheap: bool = False
    """Whether it costs less than a read of memory."""
    chooses: bool = False
    """Whether the first operand is true or false, and the others what it chooses between."""
    ufunc: Any = None
    """Whose loops are used: operands are converted to what it takes, or else to the result's dtype."""
    own: tuple[int, ...] = ()
    """Operands that are read in their own dtype all the same."""


class Reduction(NamedTuple):
    """What is combined along the axes that the result lacks, in any order."""

    combine: Any
    """NumPy's ufunc of two operands."""
    identity: Any = None
    """What it leaves as it is; None for the least or greatest number of the dtype."""
    counts: bool = False
    """Whether an entry counts as true or false, and not as it is."""


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """An operation: how to compute it, its local derivative for each operand, and what a program may ask of it.

    `value` takes plain arrays, or values traced further out. ``edge(node, k)`` is the derivative of the node's output
    with respect to its operand `k`; None marks an operation whose derivative is zero wherever it exists (comparisons,
    sign, rounding): it is not recorded by a differentiating trace. The families (`ops/families.py`) derive the edge.
    """

    name: str
    value: Callable[..., Any]
    edge: Callable[[Any, int], Any] | None = None
    examples: Sequence[Any] = ()
    """How tests call it."""
    inert: frozenset[int] = frozenset()
    """Positions of operands that have no derivative."""
    relation: Callable[..., Any] | None = None
    """The parts of the derivative for an operand by labels alone: ``relation(k, out_shape, *shapes, **params)``."""
    flat: bool = False
    """Whether its derivative is the same everywhere, but where it jumps: there is no second one."""
    carries_one: bool = False
    """Whether a single sample passes wherever its axis goes, or goes."""
    selects: Callable[[Any], Sequence[Any]] | None = None
    """Where it picks entries of one operand or another: ``selects(node)``, for each operand the mask of its entries."""
    chooses: bool = False
    """Whether a zero of its derivative tells that it does not look at an entry: it chooses, or stops at a bound."""
    unbounded: bool | Literal["pole"] = False
    """Whether its derivative may be infinite, or not a number, at finite operands; `pole`: where it is so itself."""
    curved: Callable[[Any], Any] | None = None
    """``curved(node)``: its second derivative by its operand, a bilinear form, where that is known in factors."""
    complex: bool = False
    """Whether it takes complex numbers: its derivative is then the one of a holomorphic function."""
    conjugate: float | builtins.complex = 0.0
    """But for the partial by the conjugate of a complex operand, where it has one."""
    rooted: Callable[..., Sequence[Any]] | None = None
    """For an operation with a kink where it is zero: the partials of a function of it (`transforms/roots.py`)."""
    refuses: bool = False
    """Whether it raises for some matrices, such as singular ones, of its first operand."""
    # -- what programs ask ---------------------------------------------------------------------------------------------
    view: bool = False
    """Whether the result is a view of the operand, where its strides allow."""
    unchanged: Callable[..., bool] | None = None
    """``unchanged(shape, **params)``: whether a result of the operand's own shape and dtype is the operand."""
    merged: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None
    """The parameters of the one operation that does what two in a row do: those of the first, and of the second."""
    shortcuts: Mapping[float, Op] = field(default_factory=dict)
    """What it is of the first operand alone, where the second is such a number."""
    reduction: Reduction | None = None
    into: Callable[..., Any] | None = None
    """How it writes into a given array (`ops/into.py`); None where it is called, and its result copied."""
    overwrites: int | None = None
    """The operand in whose array the result may be written."""
    keeps: Callable[..., bool] | None = None
    """``keeps(**params)``: whether entries that it does not write stay as they were: the same ones in every call."""
    prebound: bool = False
    """Whether it is cheaper where the operand's array is the same in every call."""
    expansion: Callable[..., Any] | None = None
    """The same in simpler operations, where calls cost more than they; NotImplemented where nothing is simpler."""
    strided: Callable[..., Any] | None = None
    """``strided(view, out_shape, **params)``: the view (`strides.View`) that it makes of any operand; None: a copy."""
    picks: Callable[..., tuple[Any, int]] | None = None
    """``picks(shape, **params)``: where the last operand's numbers pick entries of the first, along an axis of it in
    another shape: that shape, and the axis. What stands there is replaced by the axes of the numbers."""
    adds: Callable[..., tuple[Any, int]] | None = None
    """``adds(out_shape, **params)``: its transpose; shape and axis are those of the result."""
    accumulates: bool = False
    """Whether it sums along `axis` up to each entry, or from it on if `reverse`."""

    def __call__(self, *args: Any, **params: Any) -> Any:
        return apply(self, args, params)

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} operation {self.name}>"

    def labels(self, shapes: Sequence[Sequence[int]], out: Sequence[int], params: dict[str, Any]) -> Any:
        """For each operand the labels of result and operand: one of both names positions that go together.

        None where that is not known, or takes several parts: an operation of which no more is known mixes all entries.
        """
        if self.relation is None:
            return None
        found = [self.relation(k, out, *shapes, **params) for k in range(len(shapes))]
        if any(parts is None or len(parts) != 1 for parts in found):
            return None
        return [part for (part,) in found]

    def takes_numbers(self, count: int) -> bool:
        """Whether Python numbers may be operands as they are, and take the dtype of the arrays beside them."""
        return False
