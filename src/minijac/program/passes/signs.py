"""Signs and numbers: changes of sign meet and are gone, and numbers scale the smaller operand of a product."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ...ops.elementwise import UFUNCS
from ...ops.multilinear import matmul
from ..ir import Instruction, Program, Value, without_dead_code
from ..loops import Rewriting

__all__ = ["scaled_early", "signs_carried"]

SCALINGS: dict[Any, tuple[tuple[int, ...], float, float]] = {
    np.multiply: ((0, 1), 2.0**-20, 1.0),
    np.divide: ((0,), 1.0, 2.0**20),
}
"""Operations with a number that may be moved into an operand of a product: positions of the other one, least, most."""


def signs_carried(program: Program) -> Program:
    """Changes of sign carried along products to where they meet another one, a number or a sum, and are gone.

    ``(-a) b = -(a b)``, ``(-a) 3 = a (-3)`` and ``c + (-a) = c - a``; IEEE arithmetic does all of them exactly.
    """
    signs = _Signs(program)
    for step in program.instructions:
        signs.take(step.reading(signs.same))
    return signs.result()


class _Signs(Rewriting):
    """The steps so far, and which of their values are the negatives of others."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self._negated: dict[int, int] = {}  # a value, and what it is the negative of
        self._uses = Counter(n for step in program.instructions for n in step.args) + Counter(program.outputs)

    def take(self, step: Instruction) -> None:
        out, source = self.values[step.out], self._sign_changed(step)
        signed = [n for n in step.args if n in self._negated and out.dtype.kind == "f" and out.number is None]
        if source in self._negated:
            self.same[step.out] = self._negated[source]
            return
        if source is not None:
            self._negated[step.out] = source
        elif signed and step.op.value in (np.add, np.subtract):
            step = self._sum(step)
        elif signed and (step.op.value in (np.multiply, np.divide) or step.op.view):
            step = self._product(step, signed[0])
        self.steps.append(step)

    def _sign_changed(self, step: Instruction) -> int | None:
        """The floating point value whose negative a step computes, if that is all it does."""
        candidates = step.args[:1] if step.op.value is np.negative else ()
        if step.op.value is np.multiply:
            pairs = (step.args, step.args[::-1])
            candidates = tuple(n for n, other in pairs if self.values[other].weak and self.values[other].content == -1)
        for n in candidates:
            value = self.values[n]
            if value[:2] == self.values[step.out][:2] and value.number is None and value.dtype.kind == "f":
                return n
        return None

    def _sum(self, step: Instruction) -> Instruction:
        """A sum or difference with an operand that is the negative of another value, as one with that value."""
        a, b = step.args
        adds = step.op.value is np.add
        if b in self._negated:
            return step._replace(op=UFUNCS[np.subtract if adds else np.add], args=(a, self._negated[b]))
        return step._replace(op=UFUNCS[np.subtract], args=(b, self._negated[a])) if adds else step

    def _product(self, step: Instruction, signed: int) -> Instruction:
        """A step through which a sign passes: two of them are gone, and one is taken after it if that is as cheap."""
        others = [n for n in map(self._opposite, step.args) if n is not None]
        if len(others) == 2:
            return step._replace(args=tuple(others))
        out = self.values[step.out]
        if self._uses[signed] > 1 or self.values[signed].size != out.size:
            return step
        args = tuple([self._negated[n] if n == signed else n for n in step.args])
        new = self.step(step.op, args, out, **step.params)
        self._negated[step.out] = new
        return Instruction(UFUNCS[np.negative], (new,), {}, step.out)

    def _opposite(self, n: int) -> int | None:
        """The value or number that an operand is the negative of, where it is one."""
        if not self.values[n].weak:
            return self._negated.get(n)
        return self.added(self.values[n]._replace(content=-self.values[n].content))


def scaled_early(program: Program) -> Program:
    """Numbers that multiply a product multiply its smaller operand instead: ``c (A B) = (c A) B``.

    Only numbers that make it smaller, but not much, and none in half precision: an operand might overflow or vanish
    where the product does not. Only positive ones: a sum of products that are 0.0 or -0.0 is 0.0, whatever their signs.
    """
    if all(step.op is not matmul for step in program.instructions):
        return program
    values, makers = list(program.values), {step.out: step for step in program.instructions}
    uses = Counter(n for step in program.instructions for n in step.args) + Counter(program.outputs)
    kept = []
    for step in program.instructions:
        k = _scaled_operand(step, values)
        product = None if k is None else makers.get(step.args[k])
        if k is None or product is None or product.op is not matmul or uses[product.out] > 1:
            kept.append(step)
            continue
        j = min((0, 1), key=lambda j: values[product.args[j]].size)
        small, out = values[product.args[j]], values[step.out]
        if small.dtype != out.dtype or out.dtype == np.float16 or 2 * small.size > out.size:
            kept.append(step)
            continue
        values.append(out._replace(shape=small.shape))
        new = len(values) - 1
        kept.append(step._replace(args=_with(step.args, k, product.args[j]), out=new))
        kept.append(product._replace(args=_with(product.args, j, new), out=step.out))
    return without_dead_code(program._replace(values=tuple(values), instructions=tuple(kept)))


def _with(args: tuple[int, ...], k: int, new: int) -> tuple[int, ...]:
    return (*args[:k], new, *args[k + 1 :])


def _scaled_operand(step: Instruction, values: list[Value]) -> int | None:
    """Which operand a step makes smaller by a Python number of moderate size, if it does."""
    positions, least, most = SCALINGS.get(step.op.value, ((), 0.0, 0.0))
    for k in positions:
        number = values[step.args[1 - k]]
        if number.weak and number.dtype.kind != "c" and least <= number.content <= most:
            return k
    return None
