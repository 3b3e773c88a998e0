"""Layout: products are computed in the order of axes that is wanted, so that nothing has to be transposed by a copy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from ...ops.multilinear import matmul
from ...ops.structural import reshape, transpose
from ...tape.op import Op
from ..ir import Instruction, Program, Value

__all__ = ["products_in_order"]

SMALL = 1 << 14
"""Multiplications below which one product for each position of the axes in front costs more than a copy saves."""


Readers = dict[int, list[Instruction]]


class Product(NamedTuple):
    """A matmul of a matrix with an array, its other axes merged: ``y[*rest, *own] = sum_k x[*rest, k] w[k, own]``.

    The matrix's own axis may come apart in several.
    """

    x: int
    x_rest: tuple[int, ...]
    """The axes of x that remain, in the order of those of the result."""
    x_sum: int
    w: int
    w_sum: int
    own: range
    """Which axes of the result are the matrix's own."""
    maker: Instruction | None
    """What makes x entry by entry for this product alone, and so can make it in another order."""


def products_in_order(program: Program) -> Program:
    """A transpose of a product that nothing else reads becomes a product in that order."""
    values = list(program.values)
    makers, readers = {step.out: step for step in program.instructions}, _readers(program)
    steps: list[Instruction] = []
    for step in program.instructions:
        found = _product(step, program, makers, readers)
        if found is not None:
            steps += _rewritten(step, found, values)
        else:
            draft = _reversed(step, program, makers, readers, values) or _in_order(
                step, program, makers, readers, values
            )
            steps += draft or [step]
    return program._replace(values=tuple(values), instructions=tuple(steps))


def _readers(program: Program) -> Readers:
    readers: Readers = {}
    for step in program.instructions:
        for n in step.args:
            readers.setdefault(n, []).append(step)
    return readers


# -- which products ----------------------------------------------------------------------------------------------------
def _product(step: Instruction, program: Program, makers: dict[int, Instruction], readers: Readers) -> Product | None:
    """The product that a step transposes, where its order is worth choosing."""
    users = readers.get(step.out, [])
    if step.op is not transpose or (users and all(user.op is matmul for user in users)):
        return None  # a matmul takes a transposed operand as it is
    source = step.args[0]
    chain = []
    while source in makers and len(readers[source]) == 1 and source not in program.outputs:
        chain.append(makers[source])
        if chain[-1].op is not reshape:
            break
        source = chain[-1].args[0]
    if not chain or chain[-1].op is not matmul or len(chain) > 2:
        return None
    a, b = chain[-1].args
    shapes = [program.values[n].shape for n in (a, b)]
    shape = program.values[step.args[0]].shape
    split = next((k for k in range(1, len(shape)) if prod(shape[:k]) == shapes[0][0]), 0)
    if [len(each) for each in shapes] != [2, 2] or not split:
        return None
    rows, columns = range(split), range(split, len(shape))
    for x, w, w_sum, rest, own in ((a, b, 0, rows, columns), (b, a, 1, columns, rows)):
        found = _unmerged(x, tuple(shape[k] for k in rest), w_sum == 0, program.values, makers)
        if found is not None and _together(own, step.params["axes"]):
            alone = all(len(readers[n]) == 1 and n not in program.outputs for n in (x, found[0]))
            product = Product(
                *found, w, w_sum, own, _entrywise(makers.get(found[0]), program.values) if alone else None
            )
            if _worth_it(step, product, program.values):
                return product
    return None


def _together(own: range, axes: Sequence[int]) -> bool:
    """Whether some axes stay side by side, in their order."""
    place = axes.index(own[0])
    return tuple(axes[place : place + len(own)]) == tuple(own)


def _entrywise(maker: Instruction | None, values: tuple[Value, ...]) -> Instruction | None:
    """The step, where it computes each entry by itself and its operands can be transposed."""
    if maker is None or not maker.is_ufunc:
        return None
    ndim = len(values[maker.out].shape)
    return maker if all(len(values[n].shape) in (0, ndim) for n in maker.args) else None


def _in_order(
    step: Instruction, program: Program, makers: dict[int, Instruction], readers: Readers, values: list[Value]
) -> list[Instruction]:
    """Entries that are transposed and then copied, made in the order of the copy of operands that are no larger."""
    users, maker = readers.get(step.out, []), _entrywise(makers.get(step.args[0]), program.values)
    if step.op is not transpose or maker is None or any(user.op is not reshape for user in users):
        return []
    alone = users and len(readers[maker.out]) == 1 and maker.out not in program.outputs
    if not alone or sum(values[n].size for n in maker.args) > values[step.out].size:
        return []
    steps: list[Instruction] = []
    draft = _Draft(values, steps)
    args = tuple([draft.transposed(n, step.params["axes"]) if values[n].shape else n for n in maker.args])
    return [*steps, maker._replace(args=args, out=step.out)]


def _unmerged(
    n: int, rest: tuple[int, ...], rows: bool, values: tuple[Value, ...], makers: dict[int, Instruction]
) -> tuple[int, tuple[int, ...], int] | None:
    """The operand before its remaining axes were merged into its rows (or columns), those axes, and the one summed."""
    summed = values[n].shape[1 if rows else 0]
    wanted = (*rest, summed) if rows else (summed, *rest)
    if n in makers and makers[n].op is reshape and values[makers[n].args[0]].shape == wanted:
        n = makers[n].args[0]
    if values[n].shape != wanted:
        return None
    axes = tuple(range(len(wanted)))
    if n in makers and makers[n].op is transpose:
        n, axes = makers[n].args[0], tuple(makers[n].params["axes"])
    return (n, axes[:-1], axes[-1]) if rows else (n, axes[1:], axes[0])


def _worth_it(step: Instruction, product: Product, values: tuple[Value, ...]) -> bool:
    shape = values[product.x].shape
    front, last, _ = _order(step, product)
    count, rows, summed = (prod(shape[axis] for axis in axes) for axes in (front, last, [product.x_sum]))
    return count <= 4 or rows * summed * values[product.w].shape[1 - product.w_sum] >= SMALL


def _order(step: Instruction, product: Product) -> tuple[list[int], list[int], int]:
    """The axes of x in front of each matmul, those of its rows (or columns), side by side in x or made so, and how many
    of both stand before the matrix's own in the result."""
    axes = step.params["axes"]
    rest = [k for k in range(len(axes)) if k not in product.own]
    where = dict(zip(rest, product.x_rest, strict=True))
    order = [where[k] for k in axes if k in where]
    before = axes.index(product.own[0])
    first, start = before % len(order), len(order) - 1
    while start > first and (product.maker or order[start - 1] + 1 == order[start]):
        start -= 1
    return order[:start], order[start:], before


# -- the same in order -------------------------------------------------------------------------------------------------
def _rewritten(step: Instruction, product: Product, values: list[Value]) -> list[Instruction]:
    """The product with its axes in the order of the transpose, but for its own, which stand last or before the last."""
    front, last, before = _order(step, product)
    steps: list[Instruction] = []
    draft, x = _Draft(values, steps), values[product.x].shape
    own = [values[step.args[0]].shape[k] for k in product.own]
    sizes, rest = ([x[axis] for axis in axes] for axes in (front, last))
    behind = before == len(front) + len(last)
    right = draft.operand(product, front, last, behind)
    if behind:  # [*front, last, k] @ [k, own]
        matrix = draft.transposed(product.w, (product.w_sum, 1 - product.w_sum))
        draft.reshaped(draft.product(right, matrix), (*sizes, *rest, *own))
    else:  # [own, k] @ [*front, k, last]
        matrix = draft.transposed(product.w, (1 - product.w_sum, product.w_sum))
        made = draft.reshaped(draft.product(matrix, right), (*sizes, *own, *rest))
        axes, start, end = range(len(values[made].shape)), len(front), len(front) + len(own)
        draft.transposed(made, (*axes[:before], *axes[start:end], *axes[before:start], *axes[end:]))
    return [*steps[:-1], steps[-1]._replace(out=step.out)]


class _Draft:
    """Steps that are added to a program, where they do something."""

    def __init__(self, values: list[Value], steps: list[Instruction]) -> None:
        self.values, self.steps = values, steps

    def operand(self, product: Product, front: list[int], last: list[int], behind: bool) -> int:
        """The array of a product as ``[*front, last, k]``, or as ``[*front, k, last]``, the last axes as one."""
        x, k = product.x, product.x_sum
        shape = self.values[x].shape
        if product.maker is not None:
            order = (*front, *last, k) if behind else (*front, k, *last)
            args = tuple([self.transposed(n, order) if self.values[n].shape else n for n in product.maker.args])
            self.values.append(self.values[x]._replace(shape=tuple(shape[axis] for axis in order)))
            self.steps.append(product.maker._replace(args=args, out=len(self.values) - 1))
            ends = (prod(shape[axis] for axis in last), shape[k])
            return self.reshaped(
                len(self.values) - 1, (*(shape[axis] for axis in front), *(ends if behind else ends[::-1]))
            )
        first, after = last[0], last[-1] + 1
        x = self.reshaped(x, (*shape[:first], prod(shape[first:after]), *shape[after:]))
        *lead, k = [axis if axis < first else axis - len(last) + 1 for axis in (*front, k)]
        return self.transposed(x, (*lead, first, k) if behind else (*lead, k, first))

    def _add(self, op: Op, args: tuple[int, ...], result: tuple[int, ...], **params: object) -> int:
        self.values.append(Value(result, np.result_type(*(self.values[n].dtype for n in args)), "computed"))
        self.steps.append(Instruction(op, args, params, len(self.values) - 1))
        return len(self.values) - 1

    def product(self, a: int, b: int) -> int:
        shapes = [self.values[n].shape for n in (a, b)]
        front = max((shape[:-2] for shape in shapes), key=len)
        return self._add(matmul, (a, b), (*front, shapes[0][-2], shapes[1][-1]))

    def transposed(self, n: int, order: tuple[int, ...]) -> int:
        if order == tuple(range(len(order))):
            return n
        return self._add(transpose, (n,), tuple(self.values[n].shape[axis] for axis in order), axes=order)

    def reshaped(self, n: int, shape: tuple[int, ...]) -> int:
        return n if shape == self.values[n].shape else self._add(reshape, (n,), shape, shape=shape)


def _reversed(
    step: Instruction,
    program: Program,
    makers: dict[int, Instruction],
    readers: Readers,
    values: list[Value],
) -> list[Instruction]:
    """``transpose(a @ b)`` of stacked matrices, where nothing else reads the product, as ``b.T @ a.T``."""
    maker = makers.get(step.args[0])
    if step.op is not transpose or maker is None or maker.op is not matmul or maker.out in program.outputs:
        return []
    *front, row, column = step.params["axes"]
    ndim = len(front) + 2
    shapes = [values[n].shape for n in maker.args]
    if len(readers[maker.out]) > 1 or (row, column) != (ndim - 1, ndim - 2) or any(len(s) != ndim for s in shapes):
        return []
    axes = (*front, row, column)
    operands, steps = [], []
    for n in reversed(maker.args):
        values.append(Value(tuple(values[n].shape[axis] for axis in axes), values[n].dtype, "computed"))
        operands.append(len(values) - 1)
        steps.append(Instruction(transpose, (n,), {"axes": axes}, operands[-1]))
    return [*steps, Instruction(maker.op, tuple(operands), {}, step.out)]
