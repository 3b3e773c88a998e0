"""Layout: products are computed in the order of axes that is wanted, so that nothing has to be transposed by a copy."""

from __future__ import annotations

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


class Product(NamedTuple):
    """A matmul of a matrix with an array whose other axes were merged: ``y[*rest, n] = sum_k x[*rest, k] w[k, n]``."""

    x: int
    x_rest: tuple[int, ...]
    """The axes of x that remain, in the order of those of the result."""
    x_sum: int
    w: int
    w_sum: int
    at: int
    """Where among the axes of the result the matrix's own axis stands."""


def products_in_order(program: Program) -> Program:
    """A transpose of a product that nothing else reads becomes a product in that order."""
    values = list(program.values)
    makers = {step.out: step for step in program.instructions}
    readers: dict[int, list[Instruction]] = {}
    for step in program.instructions:
        for n in step.args:
            readers.setdefault(n, []).append(step)
    steps: list[Instruction] = []
    for step in program.instructions:
        found = _product(step, program, makers, readers)
        if found is not None:
            steps += _rewritten(step, found, values)
        else:
            steps += _reversed(step, program, makers, readers, values) or [step]
    return program._replace(values=tuple(values), instructions=tuple(steps))


def _product(
    step: Instruction, program: Program, makers: dict[int, Instruction], readers: dict[int, list[Instruction]]
) -> Product | None:
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
    if [len(shape) for shape in shapes] != [2, 2]:
        return None
    shape = program.values[step.args[0]].shape
    columns, rows = shapes[1][1], shapes[0][0]
    if shape[-1:] == (columns,) and prod(shape[:-1]) == rows:
        x, x_rest, x_sum = _unmerged(a, shape[:-1], True, program.values, makers)
        product = Product(x, x_rest, x_sum, b, 0, len(shape) - 1)
    elif shape[:1] == (rows,) and prod(shape[1:]) == columns:
        x, x_rest, x_sum = _unmerged(b, shape[1:], False, program.values, makers)
        product = Product(x, x_rest, x_sum, a, 1, 0)
    else:
        return None
    return product if len(x_rest) == len(shape) - 1 and _worth_it(step, product, program.values) else None


def _reversed(
    step: Instruction,
    program: Program,
    makers: dict[int, Instruction],
    readers: dict[int, list[Instruction]],
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


def _unmerged(
    n: int, rest: tuple[int, ...], rows: bool, values: tuple[Value, ...], makers: dict[int, Instruction]
) -> tuple[int, tuple[int, ...], int]:
    """The operand before its remaining axes were merged into its rows (or columns), those axes, and the one summed."""
    summed = values[n].shape[1 if rows else 0]
    wanted = (*rest, summed) if rows else (summed, *rest)
    if n in makers and makers[n].op is reshape and values[makers[n].args[0]].shape == wanted:
        n = makers[n].args[0]
    if values[n].shape != wanted:
        return n, (), 0
    return (n, tuple(range(len(rest))), len(rest)) if rows else (n, tuple(range(1, len(rest) + 1)), 0)


def _worth_it(step: Instruction, product: Product, values: tuple[Value, ...]) -> bool:
    front, (m, n, k) = _sizes(step, product, values)
    return prod(front) <= 4 or m * n * k >= SMALL


def _sizes(
    step: Instruction, product: Product, values: tuple[Value, ...]
) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """The axes in front of each matmul, and its sizes."""
    *front, last = _order(step, product)
    shape = values[product.x].shape
    own = values[product.w].shape[1 - product.w_sum]
    return tuple(shape[axis] for axis in front), (own, shape[last], shape[product.x_sum])


def _order(step: Instruction, product: Product) -> list[int]:
    """The remaining axes of x in the order of the transposed result."""
    rest = [axis for axis in step.params["axes"] if axis != product.at]
    return [product.x_rest[axis - (axis > product.at)] for axis in rest]


def _rewritten(step: Instruction, product: Product, values: list[Value]) -> list[Instruction]:
    """The product with its axes in the order of the transpose, but for its own axis, which stands last or before."""
    *front, last = _order(step, product)
    axes = step.params["axes"]
    place = axes.index(product.at)
    steps: list[Instruction] = []

    def add(op: Op, args: tuple[int, ...], shape: tuple[int, ...], **params: object) -> int:
        values.append(Value(shape, np.result_type(*(values[n].dtype for n in args)), "computed"))
        steps.append(Instruction(op, args, params, len(values) - 1))
        return len(values) - 1

    def transposed(n: int, order: tuple[int, ...]) -> int:
        if order == tuple(range(len(order))):
            return n
        return add(transpose, (n,), tuple(values[n].shape[axis] for axis in order), axes=order)

    own = values[product.w].shape[1 - product.w_sum]
    if place == len(axes) - 1:  # [*front, last, k] @ [k, own]
        left = transposed(product.x, (*front, last, product.x_sum))
        right = transposed(product.w, (product.w_sum, 1 - product.w_sum))
        shape, at = (*values[left].shape[:-1], own), len(axes) - 1
    else:  # [own, k] @ [*front, k, last]
        right = transposed(product.x, (*front, product.x_sum, last))
        left = transposed(product.w, (1 - product.w_sum, product.w_sum))
        shape, at = (*values[right].shape[:-2], own, values[right].shape[-1]), len(axes) - 2
    result = add(matmul, (left, right), shape)
    if place != at:
        order = [axis for axis in range(len(axes)) if axis != at]
        order.insert(place, at)
        result = transposed(result, tuple(order))
    last_step = steps[-1]
    assert last_step.out == result
    return [*steps[:-1], last_step._replace(out=step.out)]
