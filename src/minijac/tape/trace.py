"""Traces, the nodes that they record, and how an operation on traced values is carried out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from itertools import count
from sys import modules
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy import ndarray

from ..backend import PLAIN, REAL, carried_out, check_operand, check_real, cupy_of, fingerprint
from ..errors import ConversionError, MutationError, TraceError
from ..lines import Line, caller, user_line
from .traced import FIXED, Traced, traced

if TYPE_CHECKING:
    from .op import Op

__all__ = ["THREAD", "Node", "Trace", "apply", "running"]

_serial = count()


class Node:
    """One recorded operation: its operands' values, which nodes they came from (-1: none), its output, its line."""

    live: Any = None
    """Which entries any output uses, where a `where` discards some: others have no derivative."""
    varying: Mapping[int, Any] = MappingProxyType({})
    """By operand, which of its entries depend on an input, where not all do: others have no derivative."""
    slopes: Mapping[int, Any] = varying
    """Partials of an elementwise operation that are known already, by operand."""
    step: Callable[[tuple[int, ...]], Any] | None = None
    """Of an output of a function with a tape of its own: the whole of several nodes that are (`ways.steps.Outputs`)."""

    def __init__(
        self, op: Op | None, parents: tuple[int, ...], args: tuple[Any, ...], params: Any, out: Any, where: Line | None
    ) -> None:
        self.op, self.parents, self.args = op, parents, args
        self.params: dict[str, Any] = params
        self.out, self.where = out, where

    def kept(self, *operands: int) -> Any:
        """The entries at which an elementwise operation has derivatives by some operands; None for all."""
        mask = self.live
        for k in operands:
            varying = self.varying.get(k)
            if varying is not None:
                mask = varying if mask is None else np.logical_and(mask, varying)
        return mask


class Trace:
    """One run of a function under differentiation. Traces are told apart by identity; the younger one is the inner."""

    __slots__ = ("complex", "masked", "nodes", "open", "program", "serial", "takes_loops", "takes_steps", "watched")
    eager: ClassVar[Callable[..., Any] | None] = None
    """Filled by the GPU's kernels: a value and the partials that are wanted in one launch, or None."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.open = True
        self.serial = next(_serial)
        self.program: Any = None
        """The program that records what this trace computes, if one does: it wants to know of captured arrays."""
        self.complex = False
        """Whether a complex number has entered: operations are asked whether they take them."""
        self.takes_steps = self.takes_loops = False
        """Whether a function that is to be recomputed is one step, and a loop, and not all the operations inside."""
        self.masked: dict[int, tuple[Any, int]] = {}
        """Of nodes that are what a mask chose of another node: the mask, and that node."""
        self.watched: dict[int, tuple[Any, Any, Line | None]] = {}
        """Large plain arrays among the operands, what they held, and where: they must hold it still at the end."""

    def input(self, value: Any) -> Traced:
        self.complex |= check_operand("argument", value)
        if self.program is None and isinstance(value, Traced):
            self.program = value.home.program
        value = value.fresh() if isinstance(value, Traced) else value
        self.nodes.append(Node(None, (), (), {}, value, None))
        x = traced(self, len(self.nodes) - 1, value)
        x.link = FIXED
        return x

    def constant(self, value: Any) -> Traced:
        """A plain array as a value of this trace, which can be written; it has no node."""
        return traced(self, -1, value)

    @property
    def source(self) -> Any:
        """A value that lives where its values do, if there is one yet."""
        return self.nodes[0].out if self.nodes else None

    def known(self, x: Traced) -> Any:
        """The plain array of a constant of this trace; None for other values."""
        return x.value if x.index < 0 else None

    def made_for(self, x: Traced) -> Any:
        """The numbers of positions, for which a program being recorded is then made; None where it may not be."""
        return None

    def shown(self, value: Any) -> Any:
        """What a value of this trace holds, in the order that it has."""
        return value

    def __enter__(self) -> Self:
        THREAD.traces.append(self)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        THREAD.traces.remove(self)
        self.close()
        if type(error) is ValueError and isinstance(error.__cause__, ConversionError):
            raise error.__cause__ from None  # NumPy, which takes a traced number for a sequence, says so in its place

    def close(self) -> None:
        self.open = False

    def process(self, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
        """Carry out an operation on this trace's values, and others further out, and keep a node of it."""
        values, parents, plain, program, recorded = [], [], True, self.program, False
        for arg in args:
            parent = -1
            if isinstance(arg, Traced):
                if arg.home is self:  # a node keeps its own by value, those of outer traces by a handle nobody moves
                    parent, arg = arg.index, arg.value
                    recorded = recorded or parent >= 0
                    plain = plain and (type(arg) is ndarray or not isinstance(arg, Traced))
                else:
                    self.complex |= arg.home.complex
                    arg, plain = arg.fresh(), False
            elif program is None:
                if type(arg) is ndarray:
                    arg = self.held(arg)
            elif program.captures(arg):
                arg, plain = program.captured(arg), False
            values.append(arg)
            parents.append(parent)
        operands, both, slopes = tuple(values), None, None
        if self.complex and not op.complex:
            check_real(op.name, operands)
        if "cupy" not in modules or cupy_of(operands) is None:
            out = op.value(*operands, **params) if plain else apply(op, operands, params)
        else:
            if Trace.eager is not None:
                both = Trace.eager(op, operands, params, tuple([k for k, p in enumerate(parents) if p >= 0]))
            out, slopes = both or ((_computed if plain else apply)(op, operands, params), None)
        if type(out) is not ndarray or out.dtype.char not in REAL:
            self.complex |= check_operand(op.name, out)
        if op.edge is None:
            return out
        if not recorded:
            return out if isinstance(out, Traced) else self.constant(out)
        nodes = self.nodes
        nodes.append(Node(op, tuple(parents), operands, params, out, caller(3)))
        if slopes is not None:
            nodes[-1].slopes = slopes
        return traced(self, len(nodes) - 1, out)

    def held(self, array: Any) -> Any:
        """A captured array as it is now, whatever is written to it later: derivatives are taken after the function ran.

        Small ones are copied; large ones, which are weights and not scratch, are only checked.
        """
        if array.nbytes <= COPIED_BYTES:
            return array.copy() if array.flags.writeable else array
        if id(array) not in self.watched and (array.flags.writeable or array.base is not None):  # or nobody can write
            self.watched[id(array)] = array, fingerprint(array), caller(3)
        return array

    def check_captured(self) -> None:
        """Raise MutationError where a large captured array was written after an operation had used it."""
        for array, before, where in self.watched.values():
            if fingerprint(array) != before:
                raise MutationError(
                    f"a captured array of shape {array.shape}, used at {where}, was written in place since. Expected "
                    "arrays that stay as they are until the derivative is taken: make a new one instead of writing to "
                    "it, or copy it before it is used."
                )


COPIED_BYTES = 2**16


class _Thread(threading.local):
    """What runs on this thread."""

    inside: Trace | None = None
    """The inside of a function that is being recorded (`ways.closing`): all that older traces follow enters it."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []
        """The traces that functions are run for, the innermost last."""


THREAD = _Thread()


def running() -> Trace | None:
    """The innermost trace that a function of this thread is run for, if any: what is made from nothing is its own."""
    return THREAD.traces[-1] if THREAD.traces else None


def apply(op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """Compute an operation, recorded on the innermost trace among its operands, and on the outer ones through it."""
    trace: Trace | None = None
    known = True
    for arg in args:
        if isinstance(arg, Traced):
            home = arg.home
            if trace is None or home.serial > trace.serial:
                trace = home
        elif not (type(arg) in PLAIN or (type(arg) is ndarray and arg.dtype.char in REAL)):
            known = False
    if trace is None:
        return _computed(op, args, params)
    inside = THREAD.inside
    if inside is not None and trace.serial < inside.serial:
        trace = inside
    if not trace.open:
        raise TraceError(
            f"{op.name} at {user_line()}: expected values of a running transformation, got a traced value whose "
            "transformation has returned. Return it from the function (or as aux with has_aux=True) instead of "
            "storing it outside."
        )
    for arg in () if known else args:
        if not isinstance(arg, Traced) and check_operand(op.name, arg):
            trace.complex = True
    return trace.process(op, args, params)


def _computed(op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """An operation on plain arrays."""
    if modules.get("cupy") is not None:
        return carried_out(op.name, op.value, args, params)
    return op.value(*args, **params)
