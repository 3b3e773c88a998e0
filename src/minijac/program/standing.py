"""Arrays that stand for values of a recording which were not computed: their numbers say nothing."""

from __future__ import annotations

import mmap
import warnings
import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ops.families import Elementwise, Multilinear
from ..ops.structural import reshape
from ..strides import View
from ..tape.op import Op
from .ir import broadcast, carried_out, interpreted, without_dead_code
from .loops import unrolled

if TYPE_CHECKING:
    from .record import Recorder

__all__ = ["Standing"]

LARGE = 1 << 22
"""Bytes of a result from which on it is not computed where a program alone is recorded."""


class Standing:
    """Which values are such, and the numbers of those that were asked for since.

    A shape and a dtype are all that a recording wants to know. So results of loops, and large ones where nobody wants
    the numbers, are not computed; unless an operation fails on what stands there: a matrix of zeros has no inverse.
    """

    def __init__(self, postpones: bool) -> None:
        self._postpones = postpones
        """Whether large results are not computed either."""
        self._arrays: dict[int, Callable[[], Any]] = {}
        """By number of the value, for as long as somebody holds the array."""
        self._computed: dict[int, Any] = {}

    def note(self, n: int, array: Any) -> None:
        """An array stands for a value from now on."""
        self._arrays[n] = weakref.ref(array, lambda _: self._computed.pop(n, None)) if _weak(array) else lambda: array

    def result(
        self, recorder: Recorder, op: Op, numbers: Sequence[int], args: Sequence[Any], params: dict[str, Any]
    ) -> tuple[Any, bool]:
        """What an operation makes of values, and whether that only stands for it."""
        unknown = self._arrays and any(n in self._arrays and n not in self._computed for n in numbers)
        args = [self._computed.get(n, x) for n, x in zip(numbers, args, strict=True)] if self._computed else args
        if self._postpones:
            out = _outline(op, args, params)
            if out is not None:
                return out, True
        if not unknown:
            return op.value(*args, **params), False
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                return op.value(*args, **params), True
        except Exception:  # of numbers that nobody computed
            self._compute(recorder)
        return op.value(*[self._computed.get(n, x) for n, x in zip(numbers, args, strict=True)], **params), False

    def _compute(self, recorder: Recorder) -> None:
        """Find the numbers of all values that are still held; none is postponed after."""
        self._postpones = False
        wanted = [n for n, array in self._arrays.items() if n not in self._computed and array() is not None]
        given = {**recorder.given, **self._computed}
        program = recorder.recorded(tuple(given), wanted)
        rest = tuple([step for step in program.instructions if step.out not in given])
        program = unrolled(without_dead_code(program._replace(instructions=rest)))
        with np.errstate(all="ignore"):
            results = interpreted(program, list(given.values()), carried_out)
        self._computed.update(zip(wanted, results, strict=True))


def _weak(array: Any) -> bool:
    return type(array) is np.ndarray


def _outline(op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """An array like the result, in memory that nobody touches; None where it is small, or not known beforehand."""
    most = 1  # entries of a result: what many operations are asked for, and few reach
    for x in args:
        if type(x) is np.ndarray:
            most *= x.size
        elif isinstance(x, np.ndarray):
            return None
    if most < LARGE // 16:  # of complex numbers at most
        return None
    if op is reshape:
        (x,) = args
        shape = np.broadcast_to(np.zeros(()), x.shape).reshape(params["shape"]).shape
        copied = x.nbytes >= LARGE and View(x.shape, x.strides).reshaped(shape) is None
        return _untouched(shape, x.dtype, range(len(shape))) if copied else None
    shape = _shape(op, [np.shape(x) for x in args], params)
    if shape is None or prod(shape) < LARGE // 16:
        return None
    corner = [_corner(x) if isinstance(x, np.ndarray) else x for x in args]
    with np.errstate(all="ignore"):
        small = op.value(*corner, **params)
    if type(small) is not np.ndarray or small.shape != tuple([min(n, 2) for n in shape]):
        return None
    fits = prod(shape) * small.itemsize >= LARGE and _is_compact(small)
    return _untouched(shape, small.dtype, _order(small)) if fits else None


def _corner(x: Any) -> Any:
    """The first two positions along each axis, lying in memory as all do."""
    corner = x[(slice(2),) * x.ndim]
    return corner.copy("K") if _is_compact(x) else corner


def _order(x: Any) -> list[int]:
    """The axes from the outermost in memory to the innermost."""
    return sorted(range(x.ndim), key=lambda k: (-x.strides[k], k))


def _is_compact(x: Any) -> bool:
    return bool(x.transpose(_order(x)).flags.c_contiguous)


def _shape(op: Op, shapes: Sequence[Any], params: dict[str, Any]) -> tuple[int, ...] | None:
    """The shape of a result; None where that is not known beforehand."""
    if isinstance(op, Elementwise) and op.relation is None:
        return broadcast(*shapes)  # where they do not fit, the operation says so in its own words
    if not isinstance(op, Multilinear):
        return None
    names, own = op.signature(*shapes, **params)
    pairs = [pair for letters, sizes in zip(names, shapes, strict=True) for pair in zip(letters, sizes, strict=True)]
    size = dict(sorted(pairs, key=lambda pair: pair[1]))
    if any(n not in (1, size[letter]) for letter, n in pairs):  # likewise
        return None
    return tuple([size[letter] for letter in own])


def _untouched(shape: Sequence[int], dtype: Any, order: Sequence[int]) -> Any:
    """An array whose axes lie in memory in this order; the system gives no memory for it before somebody looks."""
    memory = np.frombuffer(mmap.mmap(-1, prod(shape) * dtype.itemsize, **_PRIVATE), dtype)
    return memory.reshape([shape[k] for k in order]).transpose(np.argsort(order))


_PRIVATE: Any = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
