"""Layout: products are computed in the order of axes that is wanted, so that nothing has to be transposed by a copy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from ...ops.multilinear import matmul
from ...ops.structural import reshape, transpose
from ..ir import Instruction, Program, Value
from ..loops import Rewriting

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
    if all(step.op is not transpose for step in program.instructions):
        return program
    new = Rewriting(program)
    makers, readers = {step.out: step for step in program.instructions}, _readers(program)
    for step in program.instructions:
        found = _product(step, program, makers, readers)
        if found is not None:
            _rewrite(step, found, new)
        else:
            new.steps.append(_reversed(step, makers, readers, new) or _in_order(step, makers, readers, new) or step)
    return new.result()


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


def _entrywise(maker: Instruction | None, values: Sequence[Value]) -> Instruction | None:
    """The step, where it computes each entry by itself and its operands can be transposed."""
    if maker is None or not maker.is_ufunc:
        return None
    ndim = len(values[maker.out].shape)
    return maker if all(len(values[n].shape) in (0, ndim) for n in maker.args) else None


def _in_order(
    step: Instruction, makers: dict[int, Instruction], readers: Readers, new: Rewriting
) -> Instruction | None:
    """Entries that are transposed and then copied, made in the order of the copy of operands that are no larger."""
    users, maker = readers.get(step.out, []), _entrywise(makers.get(step.args[0]), new.program.values)
    if step.op is not transpose or maker is None or any(user.op is not reshape for user in users):
        return None
    alone = users and len(readers[maker.out]) == 1 and maker.out not in new.program.outputs
    if not alone or sum(new.values[n].size for n in maker.args) > new.values[step.out].size:
        return None
    return maker._replace(args=_all_transposed(maker, step.params["axes"], new), out=step.out)


def _all_transposed(step: Instruction, axes: Sequence[int], new: Rewriting) -> tuple[int, ...]:
    """The operands of a step that computes each entry by itself, for it to make a transposed result."""
    return tuple([new.transposed(n, axes) if new.values[n].shape else n for n in step.args])


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
def _rewrite(step: Instruction, product: Product, new: Rewriting) -> None:
    """Add the product with its axes in the order of the transpose; its own stand last or before the last."""
    front, last, before = _order(step, product)
    x = new.values[product.x].shape
    own = [new.values[step.args[0]].shape[k] for k in product.own]
    sizes, rest = ([x[axis] for axis in axes] for axes in (front, last))
    behind = before == len(front) + len(last)
    right = _operand(product, front, last, behind, new)
    if behind:  # [*front, last, k] @ [k, own]
        matrix = new.transposed(product.w, (product.w_sum, 1 - product.w_sum))
        new.reshaped(new.product(right, matrix), (*sizes, *rest, *own))
    else:  # [own, k] @ [*front, k, last]
        matrix = new.transposed(product.w, (1 - product.w_sum, product.w_sum))
        made = new.reshaped(new.product(matrix, right), (*sizes, *own, *rest))
        axes, start, end = range(len(new.values[made].shape)), len(front), len(front) + len(own)
        new.transposed(made, (*axes[:before], *axes[start:end], *axes[before:start], *axes[end:]))
    new.steps[-1] = new.steps[-1]._replace(out=step.out)


def _operand(product: Product, front: list[int], last: list[int], behind: bool, new: Rewriting) -> int:
    """The array of a product as ``[*front, last, k]``, or as ``[*front, k, last]``, the last axes as one."""
    x, k, maker = product.x, product.x_sum, product.maker
    shape = new.values[x].shape
    if maker is not None:
        order = (*front, *last, k) if behind else (*front, k, *last)
        sizes, ends = [shape[axis] for axis in order], (prod(shape[axis] for axis in last), shape[k])
        made = new.step(maker.op, _all_transposed(maker, order, new), new.values[x]._replace(shape=tuple(sizes)))
        return new.reshaped(made, (*sizes[: len(front)], *(ends if behind else ends[::-1])))
    first, after = last[0], last[-1] + 1
    x = new.reshaped(x, (*shape[:first], prod(shape[first:after]), *shape[after:]))
    *lead, k = [axis if axis < first else axis - len(last) + 1 for axis in (*front, k)]
    return new.transposed(x, (*lead, first, k) if behind else (*lead, k, first))


def _reversed(
    step: Instruction, makers: dict[int, Instruction], readers: Readers, new: Rewriting
) -> Instruction | None:
    """``transpose(a @ b)`` of stacked matrices, where nothing else reads the product, as ``b.T @ a.T``."""
    maker = makers.get(step.args[0])
    if step.op is not transpose or maker is None or maker.op is not matmul or maker.out in new.program.outputs:
        return None
    *front, row, column = step.params["axes"]
    ndim = len(front) + 2
    shapes = [new.values[n].shape for n in maker.args]
    if len(readers[maker.out]) > 1 or (row, column) != (ndim - 1, ndim - 2) or any(len(s) != ndim for s in shapes):
        return None
    operands = tuple([new.transposed(n, step.params["axes"]) for n in reversed(maker.args)])
    return Instruction(maker.op, operands, {}, step.out)
