"""Passes over a program: each takes a program and returns a smaller or cheaper one that computes the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ...algebra.labels import Label, Window
from ...ops import REGISTRY
from ..ir import Instruction, Program, Value, without_dead_code
from .layout import products_in_order
from .turning import turned_chains

__all__ = ["optimised"]


SCALINGS = {"multiply": ((0, 1), 2.0**-20, 1.0), "divide": ((0,), 1.0, 2.0**20)}
"""Operations with a number that may be moved into an operand of a product: positions of the other one, least, most."""


def optimised(program: Program) -> Program:
    """All passes, verified after each."""
    for each in PASSES:
        program = each(program).verify()
    return program


def _of_same_op(step: Instruction, makers: dict[int, Instruction], name: str) -> Instruction | None:
    """The step that makes the operand, where both are operations of one name."""
    maker = makers.get(step.args[0])
    return maker if step.op.name == name and maker is not None and maker.op.name == name else None


def _shortened(step: Instruction, makers: dict[int, Instruction]) -> Instruction:
    """A transpose of a transpose as one, and a reshape of a reshape."""
    if maker := _of_same_op(step, makers, "transpose"):
        axes = tuple(maker.params["axes"][axis] for axis in step.params["axes"])
        return step._replace(args=maker.args, params={"axes": axes})
    if maker := _of_same_op(step, makers, "reshape"):
        return step._replace(args=maker.args)
    return step


def without_repetition(program: Program) -> Program:
    """One instruction for all that compute the same from the same."""
    same: dict[int, int] = {}
    seen: dict[Any, int] = {}
    for n, value in enumerate(program.values):  # a captured array is one value however often it was captured as a view
        if value.kind == "captured":
            array = value.content
            if not isinstance(array, np.ndarray):  # CuPy's
                same[n] = seen.setdefault(("object", id(array)), n)
                continue
            key = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)
            same[n] = seen.setdefault(key, n)
        elif value.kind == "constant" and value.shape == ():
            same[n] = seen.setdefault((type(value.content), repr(value.content), value.dtype), n)
    kept = []
    for step in program.instructions:
        args = tuple([same.get(n, n) for n in step.args])
        key = ("step", step.op, args, _frozen(tuple(step.params.items()), {}))
        first = seen.setdefault(key, step.out)
        if first == step.out:
            kept.append(step._replace(args=args))
        same[step.out] = first
    return program._replace(instructions=tuple(kept), outputs=tuple(same.get(n, n) for n in program.outputs))


def simplified(program: Program) -> Program:
    """Without operations that do nothing: times one, minus zero, reshapes and conversions to what is there already."""
    same: dict[int, int] = {}
    kept = []
    makers: dict[int, Instruction] = {}
    for step in program.instructions:
        step = _shortened(step._replace(args=tuple([same.get(n, n) for n in step.args])), makers)
        source = _unchanged(program, step)
        if source is None:
            kept.append(step)
            makers[step.out] = step
        else:
            same[step.out] = source
    return program._replace(instructions=tuple(kept), outputs=tuple(same.get(n, n) for n in program.outputs))


def _unchanged(program: Program, step: Instruction) -> int | None:
    """The value that a step passes on as it is, if it does."""
    values, out = program.values, program.values[step.out]
    first = values[step.args[0]]
    alike = (first.shape, first.dtype, first.number) == (out.shape, out.dtype, out.number)
    name = step.op.name
    if name in ("reshape", "broadcast_to", "astype", "squeeze", "expand_dims") and alike:
        return step.args[0]
    if name == "transpose" and alike and tuple(step.params["axes"]) == tuple(range(len(out.shape))):
        return step.args[0]
    if name == "roll" and step.params["shift"] % max(1, out.shape[step.params["axis"]]) == 0:
        return step.args[0]
    if name in ("multiply", "divide", "subtract"):  # not x + 0.0, nor x - (-0.0), which are 0.0 for x = -0.0
        neutral = 0.0 if name == "subtract" else 1.0
        for k in (0, 1) if name == "multiply" else (1,):
            constant, other = values[step.args[k]], values[step.args[1 - k]]
            number = constant.kind == "constant" and constant.shape == () and constant.dtype.kind in "biuf"
            number = number and constant.content == neutral and not np.signbit(constant.content)
            if number and (other.shape, other.dtype, other.number) == (out.shape, out.dtype, out.number):
                return step.args[1 - k]
    return None


def signs_carried(program: Program) -> Program:
    """Changes of sign carried along products to where they meet another one, a number or a sum, and are gone.

    ``(-a) b = -(a b)``, ``(-a) 3 = a (-3)`` and ``c + (-a) = c - a``; IEEE arithmetic does all of them exactly.
    """
    values = list(program.values)
    uses = Counter(n for step in program.instructions for n in step.args) + Counter(program.outputs)
    negated: dict[int, int] = {}  # a value, and what it is the negative of
    same: dict[int, int] = {}
    kept = []

    def opposite(n: int) -> int | None:
        """The value or number that an operand is the negative of, where it is one."""
        if values[n].kind != "constant" or values[n].number not in (int, float):
            return negated.get(n)
        values.append(values[n]._replace(content=-values[n].content))
        return len(values) - 1

    for step in program.instructions:
        step = step._replace(args=tuple([same.get(n, n) for n in step.args]))
        out, source = values[step.out], _sign_changed(step, values)
        signed = [n for n in step.args if n in negated and out.dtype.kind == "f" and out.number is None]
        if source is not None:
            if source in negated:
                same[step.out] = negated[source]
            else:
                negated[step.out] = source
                kept.append(step)
        elif signed and step.op.name in ("add", "subtract"):
            kept.append(_without_signs(step, negated))
        elif signed and (step.op.name in ("multiply", "divide") or step.op.view):
            others = [n for n in map(opposite, step.args) if n is not None]
            size = prod(values[signed[0]].shape)
            if len(others) == 2:
                kept.append(step._replace(args=tuple(others)))
            elif uses[signed[0]] == 1 and size == prod(out.shape):
                values.append(out)
                args = tuple([negated[n] if n == signed[0] else n for n in step.args])
                kept.append(step._replace(args=args, out=len(values) - 1))
                kept.append(Instruction(REGISTRY["negative"], (len(values) - 1,), {}, step.out))
                negated[step.out] = len(values) - 1
            else:
                kept.append(step)
        else:
            kept.append(step)
    return program._replace(
        values=tuple(values), instructions=tuple(kept), outputs=tuple([same.get(n, n) for n in program.outputs])
    )


def _without_signs(step: Instruction, negated: Mapping[int, int]) -> Instruction:
    """A sum or difference with an operand that is the negative of another value, as one with that value."""
    a, b = step.args
    if b in negated:
        other, args = "subtract" if step.op.name == "add" else "add", (a, negated[b])
    elif step.op.name == "add":
        other, args = "subtract", (b, negated[a])
    else:
        return step
    return step._replace(op=REGISTRY[other], args=args)


def _sign_changed(step: Instruction, values: Sequence[Value]) -> int | None:
    """The floating point value whose negative a step computes, if that is all it does."""
    candidates = step.args[:1] if step.op.name == "negative" else ()
    if step.op.name == "multiply":
        candidates = tuple(n for n, other in (step.args, step.args[::-1]) if _is_number(values[other], -1))
    for n in candidates:
        if values[n][:2] == values[step.out][:2] and values[n].number is None and values[n].dtype.kind == "f":
            return n
    return None


def _is_number(value: Value, number: float) -> bool:
    return value.kind == "constant" and value.number in (int, float) and bool(value.content == number)


def scaled_early(program: Program) -> Program:
    """Numbers that multiply a product multiply its smaller operand instead: ``c (A B) = (c A) B``.

    Only numbers that make it smaller, but not much, and none in half precision: an operand might overflow or vanish
    where the product does not. Only positive ones: a sum of products that are 0.0 or -0.0 is 0.0, whatever their signs.
    """
    values, makers = list(program.values), {step.out: step for step in program.instructions}
    uses = Counter(n for step in program.instructions for n in step.args) + Counter(program.outputs)
    kept = []
    for step in program.instructions:
        k = _scaled_operand(step, values)
        product = None if k is None else makers.get(step.args[k])
        if k is None or product is None or product.op.name != "matmul" or uses[product.out] > 1:
            kept.append(step)
            continue
        j = min((0, 1), key=lambda j: prod(values[product.args[j]].shape))
        small, out = values[product.args[j]], values[step.out]
        if small.dtype != out.dtype or out.dtype == np.float16 or 2 * prod(small.shape) > prod(out.shape):
            kept.append(step)
            continue
        values.append(out._replace(shape=small.shape))
        new = len(values) - 1
        kept.append(step._replace(args=_with(step.args, k, product.args[j]), out=new))
        kept.append(product._replace(args=_with(product.args, j, new), out=step.out))
    return without_dead_code(program._replace(values=tuple(values), instructions=tuple(kept)))


def _with(args: tuple[int, ...], k: int, new: int) -> tuple[int, ...]:
    return (*args[:k], new, *args[k + 1 :])


def _scaled_operand(step: Instruction, values: Sequence[Value]) -> int | None:
    """Which operand a step makes smaller by a Python number of moderate size, if it does."""
    positions, least, most = SCALINGS.get(step.op.name, ((), 0.0, 0.0))
    for k in positions:
        number = values[step.args[1 - k]]
        if number.kind == "constant" and number.number in (int, float) and least <= number.content <= most:
            return k
    return None


def _frozen(value: Any, number: dict[Label, int]) -> Any:
    """A hashable stand-in that is equal only for equal values: arrays by identity, labels by order of appearance."""
    if isinstance(value, Label):
        return "label", number.setdefault(value, len(number)), value.size
    if isinstance(value, Window):
        return "window", *(_frozen(item, number) for item in tuple(value))
    if isinstance(value, tuple | list):
        return tuple([_frozen(item, number) for item in value])
    if isinstance(value, slice):
        return "slice", value.start, value.stop, value.step
    if isinstance(value, float):
        return "float", repr(value)  # 0.0 and -0.0 are equal, and not the same
    if isinstance(value, np.ndarray) or not getattr(type(value), "__hash__", None):
        return "object", id(value)
    return type(value).__name__, value


TIDY = (without_dead_code, simplified, without_repetition, without_dead_code)
PASSES = (*TIDY, signs_carried, *TIDY, scaled_early, turned_chains, *TIDY, products_in_order, *TIDY)
