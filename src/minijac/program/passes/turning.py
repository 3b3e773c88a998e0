"""Turning: chains of operations on stacked matrices are computed transposed where that is cheaper.

A Jacobian's axes come in the order in which labels met. Where a weight then multiplies from the left,
``w[m, k] @ x[..., k, n]`` is one small product for each sample; of ``x`` transposed it is a single large one, and a
transpose at the end of the chain is gone as well. Whether a chain is better off transposed is decided by cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...ops.multilinear import matmul
from ...ops.structural import reshape, transpose
from ...prices import CALL_PER_MATRIX, MATMUL, MOVE, SMALL, STRIDED
from ..ir import Instruction, Program, Value, without_dead_code
from ..loops import Rewriting

__all__ = ["turned_chains"]

DEEP = 100
"""Operations in a row after which a chain is left as it is."""
LEAST = 1024
"""Entries of a value below which its order does not matter."""
MOST = 128
"""Chains that are tried, the last ones of a program,"""
LOOKED_AT = 2**15
"""and instructions that are looked at, in all trials together."""


def turned_chains(program: Program) -> Program:
    """Transposes, what is computed from them, and products with a matrix from the left, tried with the chain turned."""
    transposes = {step.out for step in program.instructions if _is_transpose(step)}
    candidates = [
        step.out
        for step in program.instructions
        if prod(program.values[step.out].shape) >= LEAST
        and (
            step.out in transposes
            or _from_left(step, program.values)
            or (step.is_ufunc and not transposes.isdisjoint(step.args))
        )
    ]
    best = _cost(program) if candidates else 0.0
    most = min(MOST, LOOKED_AT // (len(program.instructions) + 1))
    for out in reversed(candidates[-most:] if most else []):
        trial = _turned_at(program, out)
        if trial is not None and (cost := _cost(trial)) < 0.9999 * best:
            program, best = trial, cost
    return program


def _swap(ndim: int) -> tuple[int, ...]:
    return (*range(ndim - 2), ndim - 1, ndim - 2)


def _is_transpose(step: Instruction) -> bool:
    axes = step.params.get("axes", ()) if step.op is transpose else ()
    return len(axes) > 1 and tuple(axes) == _swap(len(axes))


def _from_left(step: Instruction, values: Sequence[Value]) -> bool:
    if step.op is not matmul:
        return False
    left, right = (values[n].shape for n in step.args)
    return len(left) == 2 and len(right) > 2


def _turned_at(program: Program, out: int) -> Program | None:
    """The program with the chain up to a value turned; None where the value is not made any more."""
    turner = _Turner(program)
    for step in program.instructions:
        if step.out != out:
            turner.steps.append(step.reading(turner.same))
        elif _is_transpose(step):
            turner.same[out] = turner.turned(step.args[0])
        else:
            axes = _swap(len(turner.shape(out)))
            turner.steps.append(Instruction(transpose, (turner.turned(out),), {"axes": axes}, out))
    if out not in turner.same and all(step.out != out for step in turner.steps):
        return None
    return without_dead_code(turner.result())


class _Turner(Rewriting):
    """Makes, once each, values with their last two axes exchanged."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self._makers = {step.out: step for step in program.instructions}
        self._turned: dict[int, int] = {}
        self._depth = 0

    def shape(self, n: int) -> tuple[int, ...]:
        return self.values[n].shape

    def turned(self, n: int) -> int:
        """The number of the value's transpose; that of a vector is a column, that of a number the number."""
        if n not in self._turned:
            self._depth += 1
            self._turned[n] = self._made(n)
            self._depth -= 1
        return self._turned[n]

    def _made(self, n: int) -> int:
        shape, maker = self.shape(n), self._makers.get(n)
        if len(shape) < 2:
            return self.reshaped(n, (*shape, 1)) if shape else n
        if maker is not None and self._depth < DEEP:
            if maker.is_ufunc:
                args = tuple([self.turned(m) for m in maker.args])
                other = Value((*shape[:-2], shape[-1], shape[-2]), self.values[n].dtype, "computed")
                return self.step(maker.op, args, other)
            if _is_transpose(maker):
                return maker.args[0]
            if _from_left(maker, self.values):
                return self._product(maker, shape)
            if maker.op is reshape and (product := self._makers.get(maker.args[0])) is not None:
                columns = self._with_columns(product, shape)
                if columns is not None:
                    return columns
        return self.transposed(n, _swap(len(shape)))

    def _product(self, step: Instruction, shape: tuple[int, ...]) -> int:
        """``(w @ x).T`` as ``x.T @ w.T``, with all rows of all samples in one matrix."""
        w, x = step.args
        rows = self.turned(x)
        flat = self.reshaped(rows, (prod(self.shape(rows)[:-1]), self.shape(x)[-2]))
        return self.reshaped(self.product(flat, self.transposed(w, (1, 0))), (*shape[:-2], shape[-1], shape[-2]))

    def _with_columns(self, product: Instruction, shape: tuple[int, ...]) -> int | None:
        """A product whose columns are the last two axes: the other matrix's columns in the other order."""
        if product.op is not matmul or any(len(self.shape(n)) != 2 for n in product.args):
            return None
        x, w = product.args
        k, columns = self.shape(w)
        if shape[-2] * shape[-1] != columns:
            return None
        parts = self.transposed(self.reshaped(w, (k, *shape[-2:])), (0, 2, 1))
        made = self.product(x, self.reshaped(parts, (k, columns)))
        return self.reshaped(made, (*shape[:-2], shape[-1], shape[-2]))


# -- cost --------------------------------------------------------------------------------------------------------------
def _cost(program: Program) -> float:
    """What NumPy's calls would take, by the order of the entries that they read."""
    strided: set[int] = set()
    total = 0.0
    for step in program.instructions:
        out = program.values[step.out]
        moved = [program.values[n].size * (STRIDED if n in strided else MOVE) for n in step.args]
        if step.op is reshape:
            total += out.size * (MOVE + STRIDED) * (step.args[0] in strided)
        elif step.op.view:
            if (step.args[0] in strided) != (step.op is transpose):
                strided.add(step.out)
        elif step.op is matmul:
            total += _product_cost(program, step)
        else:
            total += out.size * MOVE + sum(moved)
    return total + sum(prod(program.values[n].shape) * STRIDED for n in program.outputs if n in strided)


def _product_cost(program: Program, step: Instruction) -> float:
    a, b = (program.values[n].shape for n in step.args)
    out = program.values[step.out].shape
    multiplied = prod(out) * a[-1]
    if len(a) == len(b) == 2 or len(out) < 3:
        return multiplied * MATMUL
    small = min(*out[-2:], a[-1]) < 32
    return prod(out[:-2]) * CALL_PER_MATRIX + multiplied * (SMALL if small else 2 * MATMUL)
