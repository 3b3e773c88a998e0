"""Small arithmetic on many samples, in columns: each entry of a sample becomes a value of its own, over all samples.

A step on one entry after the other, with slices, columns and concatenations between, is many short passes. Entries
along the axes that steps take apart are numbered, so that what only moves them is gone, and what computes them is
written anew for each; the other axes, samples among them, are those of every value. All is elementwise then, and a few
loops do it, with what lies between in registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...algebra.labels import Axes, labels_in
from ...algebra.writing import strided
from ...ops.elementwise import UFUNCS
from ...ops.families import Elementwise, Multilinear
from ..ir import Instruction, Program, Value, without_dead_code
from ..loops import Rewriting
from .apart import Layout, Related, layouts_of, related
from .simplify import tidied

__all__ = ["Columns", "columns"]

MOST = 500
"""Steps of a program in columns, each of which takes up to a millisecond to compile."""
TYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(bool))


class Columns(NamedTuple):
    """A program in columns, and how each of the inputs, then each of the outputs of the original one comes apart."""

    program: Program
    layouts: tuple[Layout, ...]


class _TooMany(Exception):
    """The program would have more steps than are worth it."""


def columns(program: Program) -> Columns | None:
    """The program in columns; None where it is no small arithmetic on many samples."""
    values, steps, ends = program.values, program.instructions, (*program.inputs, *program.outputs)
    used = {n for step in steps for n in (*step.args, step.out)}.union(ends)
    if not all(_fits(values[n]) for n in used):
        return None
    if any(related(step, values) is None for step in steps if isinstance(step.op, Multilinear)):  # as of a network
        return None
    relations = [parts for step in steps if (parts := related(step, values)) is not None]
    if len(relations) < len(steps):
        return None
    layouts = layouts_of(program, relations, used)
    if not 1 < max(prod(layouts[n].frame(values[n].shape)) for n in used) <= MOST:
        return None
    writing = _Writing(program, layouts)
    try:
        for step, parts in zip(steps, relations, strict=True):
            writing.take(step, parts)
    except _TooMany:
        return None
    found = writing.result()
    single = sum(not found.values[step.out].shape for step in found.instructions)
    if 2 * single > len(found.instructions):  # each of which is a call for one entry
        return None
    return Columns(found, tuple([layouts[n] for n in ends]))


def _fits(value: Value) -> bool:
    if value.number is not None:
        return value.kind == "constant"
    return value.dtype in TYPES and 0 not in value.shape


class _Writing:
    """The program as it is written: for each value the numbers of its columns, along the axes that are taken apart."""

    def __init__(self, program: Program, layouts: dict[int, Layout]) -> None:
        self._program, self._values, self._layouts = program, program.values, layouts
        self._new = Rewriting(program)
        self._entries: dict[int, Any] = {}
        self._inputs = [m for n in program.inputs for m in self._of(n).ravel().tolist()]

    def result(self) -> Program:
        outputs = [m for n in self._program.outputs for m in self._of(n).ravel().tolist()]
        found = Program(tuple(self._new.values), tuple(self._new.steps), tuple(self._inputs), tuple(outputs))
        return without_dead_code(tidied(found)).verify()

    def take(self, step: Instruction, relations: Related) -> None:
        """Write a step."""
        frame = self._frame(step.out)
        if isinstance(step.op, Elementwise):
            operands = np.broadcast_arrays(*map(self._of, step.args), np.empty(frame))[:-1]
            each = zip(*(x.ravel().tolist() for x in operands), strict=True)
            dtype = self._values[step.out].dtype
            made: Any = np.reshape([self._added(step.op, args, dtype, step.params) for args in each], frame)
        elif step.op.view:
            (n,) = step.args
            made = step.op.value(np.broadcast_to(self._of(n), self._values[n].shape), **step.params)
            made = made[tuple(map(slice, frame))]
        else:
            made = self._summed(step, relations, frame)
        self._entries[step.out] = made

    # -- values --------------------------------------------------------------------------------------------------------
    def _frame(self, n: int) -> tuple[int, ...]:
        return self._layouts[n].frame(self._values[n].shape)

    def _of(self, n: int) -> Any:
        if n not in self._entries:
            self._entries[n] = np.array(n) if self._values[n].number is not None else self._given(n)
        return self._entries[n]

    def _given(self, n: int) -> Any:
        """The columns of a value that no step makes: of a captured array, views."""
        shape, dtype, kind, content, _ = self._values[n]
        array = np.broadcast_to(np.empty((), dtype), shape) if content is None else content
        own = [Value(x.shape, dtype, kind, None if content is None else x) for x in self._layouts[n].columns(array)]
        return np.reshape([self._new.added(value) for value in own], self._frame(n))

    def _added(self, op: Any, args: Sequence[int], dtype: Any, params: dict[str, Any]) -> int:
        values = [self._new.values[n] for n in args]
        if all(value.kind == "constant" for value in values):
            with np.errstate(all="ignore"):
                return self._new.constant(np.asarray(op.value(*(value.content for value in values), **params), dtype))
        shape = np.broadcast_shapes(*(value.shape for value in values))
        if len(self._new.steps) >= MOST:
            raise _TooMany
        return self._new.step(op, args, Value(shape, dtype, "computed"), **params)

    # -- sums ----------------------------------------------------------------------------------------------------------
    def _summed(self, step: Instruction, relations: Related, frame: tuple[int, ...]) -> Any:
        """Sums of the entries that labels send to the same place, or of their products."""
        dtype, totals = self._values[step.out].dtype, dict[int, int]()
        for scale, axes, operands in _terms(step, relations):
            for place, *factors in self._met(step.out, axes, operands):
                term = factors[0]
                for factor in factors[1:]:
                    term = self._added(UFUNCS[np.multiply], (term, factor), dtype, {})
                if scale != 1.0:
                    number = self._new.added(Value((), np.dtype(float), "constant", scale, float))
                    term = self._added(UFUNCS[np.multiply], (term, number), dtype, {})
                if place in totals:
                    term = self._added(UFUNCS[np.add], (totals[place], term), dtype, {})
                totals[place] = term
        if len(totals) < prod(frame):
            rest = self._background(step, frame)
            totals |= {place: self._new.constant(x) for place, x in enumerate(rest) if place not in totals}
        return np.reshape([totals[place] for place in range(prod(frame))], frame)

    def _met(self, out: int, axes: Axes, operands: Sequence[tuple[int, Axes]]) -> Iterable[Any]:
        """For all values of the labels that are taken apart, the place in the result, and the entries of operands."""
        given = [(out, axes), *operands]
        kept = {own[k][0] for n, own in given for k in self._layouts[n].kept}
        labels = [label for label in labels_in(tuple(axis for _, own in given for axis in own)) if label not in kept]
        frame = self._frame(out)
        numbers = [np.arange(prod(frame)).reshape(frame), *(self._of(n) for n, _ in operands)]
        whole = [np.broadcast_to(x, self._values[n].shape) for x, (n, _) in zip(numbers, given, strict=True)]
        views = [strided(x, own, labels) for x, (_, own) in zip(whole, given, strict=True)]
        return zip(*(view.ravel().tolist() for view in views), strict=True)

    def _background(self, step: Instruction, frame: tuple[int, ...]) -> Any:
        """The entries of the result as they are where no operand's come."""
        zeros = [np.zeros(self._values[n].shape, self._values[n].dtype) for n in step.args]
        return step.op.value(*zeros, **step.params)[tuple(map(slice, frame))].ravel()


def _terms(step: Instruction, relations: Related) -> list[tuple[float, Axes, list[tuple[int, Axes]]]]:
    """What is summed: a scale, the labels of the result, and those of the operand, or of all that are multiplied."""
    if isinstance(step.op, Multilinear):
        operands = [(n, part.inp) for n, (part,) in zip(step.args, relations, strict=True)]
        return [(1.0, relations[0][0].out, operands)]
    return [
        (float(part.scale.real), part.out, [(n, part.inp)])
        for n, parts in zip(step.args, relations, strict=True)
        for part in parts
    ]
