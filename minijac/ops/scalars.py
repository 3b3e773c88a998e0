"""Scalars: how one entry of NumPy's elementwise functions is spelled in generated loops and kernels, one line each.

An operation whose value is made of such functions is spelled by running that value on symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from ..tape.op import Scalar

__all__ = ["SCALARS", "spelled"]

ARITHMETIC = {
    np.add: "({} + {})", np.subtract: "({} - {})", np.multiply: "({} * {})", np.divide: "({} / {})",
    np.negative: "(-{})", np.positive: "({})", np.square: "({0} * {0})", np.reciprocal: "(T(1) / {})",
    np.sqrt: "root({})", np.absolute: "abs({})", np.fabs: "abs({})", np.conjugate: "({})",
    np.maximum: "({0} if ({0} >= {1}) | ({0} != {0}) else {1})",
    np.minimum: "({0} if ({0} <= {1}) | ({0} != {0}) else {1})",
    np.where: "({1} if {0} else {2})",
    np.less: "({} < {})", np.less_equal: "({} <= {})", np.greater: "({} > {})", np.greater_equal: "({} >= {})",
    np.equal: "({} == {})", np.not_equal: "({} != {})", np.isnan: "({0} != {0})",
}  # fmt: skip
"""Operations of IEEE arithmetic, whose results are NumPy's to the last bit; of 0.0 and -0.0 either may be larger."""
CHEAP = {*ARITHMETIC, np.logical_and, np.logical_or, np.logical_not, np.isfinite, np.isinf, np.sign} - {
    np.positive, np.reciprocal, np.fabs, np.conjugate,
}  # fmt: skip
"""Operations that cost less than a read of memory."""
SCALARS: dict[Any, Scalar] = {
    function: Scalar(ARITHMETIC.get(function), {}, function in CHEAP, function is np.where)
    for function in dict.fromkeys([*ARITHMETIC, *CHEAP])
}
"""By NumPy's function."""


class _Entry(np.lib.mixins.NDArrayOperatorsMixin):
    """An entry that a value is run on: it keeps how what is done to it is spelled."""

    def __init__(self, scalar: Scalar) -> None:
        self.scalar = scalar

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        if method != "__call__" or keywords or ufunc not in SCALARS:
            return NotImplemented
        return _Entry(_composed(SCALARS[ufunc], [_operand(x) for x in inputs]))

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        return NotImplemented if keywords else self.__array_ufunc__(function, "__call__", *args)


def _operand(x: Any) -> Scalar:
    if isinstance(x, _Entry):
        return x.scalar
    number = repr(float(x))
    return Scalar(f"T({number})", dict.fromkeys("fiu", f"(({{T}}){number})"), True)


def _composed(outer: Scalar, operands: list[Scalar]) -> Scalar:
    """One function of others, each spelled."""
    loops = [x.loop for x in operands]
    loop = None if outer.loop is None or None in loops else outer.loop.format(*loops)
    same = {name: f"{{{name}}}" for name in "Ttf"}
    c = {
        kind: text.format(*(f"({x.c[kind]})" for x in operands), **same)
        for kind, text in outer.c.items()
        if all(kind in x.c for x in operands)
    }
    return Scalar(loop, c, outer.cheap and all(x.cheap for x in operands))


@cache
def spelled(value: Callable[..., Any], count: int) -> Scalar | None:
    """How one entry of a function of `count` operands is computed, where it is made of what has a spelling."""
    if value in SCALARS:
        return SCALARS[value]
    entries = [_Entry(Scalar(f"{{{k}}}", dict.fromkeys("fiub", f"{{{k}}}"), True)) for k in range(count)]
    with suppress(Exception):  # whatever a function of the user's does with what is no array
        result = value(*entries)
        if isinstance(result, _Entry):
            return result.scalar
    return None
