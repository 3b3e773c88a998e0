"""Loops bound to arrays: addresses and strides in tables, and one call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np

from . import checks
from .checks import Axes
from .llvm import Function, compiled
from .loops import Loop, Operand, lanes_of, text_of

__all__ = ["Bound", "Spelled", "bound", "merged", "whole"]

LINE = 64
"""Bytes of a cache line."""

Spelled = Sequence[tuple[str, tuple[int, ...], int]]


class Bound:
    """A function and its tables, called with the arrays that are other ones in every call."""

    __slots__ = ("_loop", "addresses", "arrays", "axes", "function", "places", "table")

    def __init__(
        self,
        function: Function,
        addresses: Any,
        table: Any,
        arrays: Sequence[Any],
        axes: Callable[[Any], Sequence[Axes]],
        loop: Loop | None = None,
    ) -> None:
        self.function, self.addresses, self.table, self.arrays, self._loop = function, addresses, table, arrays, loop
        self.axes = axes
        """Of its table, for each array what it is read or written along."""
        self.places = address_of(addresses), address_of(table)
        """Where its tables are."""

    def __repr__(self) -> str:
        steps = () if self._loop is None else self._loop.steps
        return f"{self.function.name}({'; '.join(spelling for spelling, *_ in steps)})"

    def __call__(self, *given: Any) -> None:
        if checks.CHECKED:
            operands = () if self._loop is None else self._loop.operands
            numbers = [k for k, operand in enumerate(operands) if operand.given]
            self.check({k: (x, x.ctypes.data) for k, x in zip(numbers, given, strict=True)})
        self.run(*given)

    def check(self, others: Mapping[int, tuple[Any, int]]) -> None:
        """RuntimeError where memory of no array would be touched; of some, others stand in their places, and where."""
        for k, axes in enumerate(self.axes(self.table)):
            array, start = others.get(k) or (whole(self.arrays[k]), int(self.addresses[k]))
            checks.inside(f"operand {k} of {self}", array, start, axes)

    def run(self, *given: Any) -> None:
        """Carry it out, unchecked."""
        if self.function.call(*self.places, *given):
            self.exact().call(*self.places, *given)

    @property
    def leaves(self) -> bool:
        """Whether it may end in the middle, as an argument is beyond what it takes."""
        return "\nbeyond:" in self.function.text

    def moved(self, places: dict[int, Any]) -> Bound:
        """The same on other memory: where an array has its memory is known, or is added."""
        addresses = self.addresses.copy()
        arrays = list(self.arrays)
        for k, array in enumerate(arrays):
            root = whole(array)
            arrays[k] = places[id(root)] if id(root) in places else places.setdefault(id(root), _elsewhere(root))
            addresses[k] += arrays[k].ctypes.data - root.ctypes.data
        return Bound(self.function, addresses, self.table, arrays, self.axes, self._loop)

    def exact(self) -> Function:
        """The function that takes any argument."""
        return function_of(self._loop._replace(exact=True)) if self._loop and self.leaves else self.function


def whole(array: Any) -> Any:
    """The array whose memory a view shows."""
    while (base := array.base) is not None:
        base = base if isinstance(base, np.ndarray) else getattr(base, "base", None)  # of what as_strided makes
        if not isinstance(base, np.ndarray):
            break
        array = base
    return array


def _elsewhere(array: Any) -> Any:
    """The same bytes in other memory, as far from the beginning of a cache line."""
    raw = np.empty(array.nbytes + LINE, np.uint8)
    start = (array.ctypes.data - raw.ctypes.data) % LINE
    copy = raw[start : start + array.nbytes]
    copy[...] = array.ravel("K").view(np.uint8)
    return copy


def bound(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    steps: Spelled,
    arrays: Sequence[Any],
    results: int,
    again: bool = False,
) -> Bound:
    """The steps as one loop over entries of that shape.

    Args:
        dtype: Of the arithmetic.
        steps: Spelling, operands and result of each, by numbers: those of `arrays` first.
        arrays: What is read, then the results: the array itself, or the shape and dtype of a contiguous one.
        results: How many of them are results.
        again: Whether one of them is also read, at the same places.
    """
    kinds = tuple([(*x, None) if isinstance(x, tuple) else (x.shape, x.dtype, x.strides) for x in arrays])
    function, loop, table, axes = _loop(dtype, shape, tuple(steps), kinds, results, again)
    known = [None if isinstance(x, tuple) else x for x in arrays]
    addresses = np.array([0 if x is None else address_of(x) for x in known], np.intp)
    return Bound(function, addresses, table.copy(), known, axes, loop)


def address_of(x: Any) -> int:
    """Where an array's first entry is: of thousands, NumPy's ways take a third of what making their loops does."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(x))
    except (TypeError, ValueError):  # no contiguous memory that may be written
        return int(x.ctypes.data)


@lru_cache(4096)
def _loop(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    steps: tuple[Any, ...],
    kinds: tuple[Any, ...],
    results: int,
    again: bool,
) -> tuple[Function, Loop, Any, Callable[[Any], Sequence[Axes]]]:
    """The function, the loop that it is, the sizes and strides of its table, and how these are read: by shapes, dtypes
    and strides alone."""
    layouts = [_layout(own, kind, strides, shape) for own, kind, strides in kinds]
    sizes, strides = merged(shape, [stride for _, stride in layouts])
    operands = tuple(
        Operand(
            kind.char, "".join(_axis(step, kind.itemsize, k == len(sizes) - 1) for k, step in enumerate(own)), given
        )
        for (kind, _), own, given in zip(layouts, strides, [strides is None for *_, strides in kinds], strict=True)
    )
    lanes, masked = lanes_of(dtype, sizes[-1], again, len(steps))
    loop = Loop(dtype, steps, operands, len(kinds) - results, lanes, masked)
    table = np.array([*sizes, *(step for own in strides for step in own)], np.int64)
    return function_of(loop), loop, table, partial(_axes, loop)


def _axes(loop: Loop, table: Any) -> Sequence[Axes]:
    """As the text goes along them: in whole vectors where there is no mask, and what is read as soon as it can be."""
    sizes, *strides = np.reshape(table, (-1, len(loop.operands[0].axes))).tolist()
    if not loop.masked and sizes[-1]:
        sizes[-1] = max(sizes[-1], loop.lanes)
    found = []
    for k, (operand, own) in enumerate(zip(loop.operands, strides, strict=True)):
        size = np.dtype(operand.char).itemsize
        steps = [{"0": 0, "1": size, "s": step}[kind] for kind, step in zip(operand.axes, own, strict=True)]
        depth = operand.depth if k < loop.reads else len(sizes)
        found.append([*zip(sizes[:depth], steps, strict=False), (size, 1)])
    return found


@lru_cache(4096)
def function_of(loop: Loop) -> Function:
    """One function for all programs that have the loop: it depends on no sizes and no numbers."""
    return compiled(text_of(loop), "loop", 2 + sum(operand.given for operand in loop.operands))


def _layout(
    own: tuple[int, ...], dtype: np.dtype[Any], strides: tuple[int, ...] | None, shape: tuple[int, ...]
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype, and the bytes from one entry to the next along each axis of the loop: 0 where it has one for all.

    Where it has none they are not 0: it is read inside of the loop along that axis, which is over nothing.
    """
    if strides is None:
        strides = tuple(dtype.itemsize * prod(own[k + 1 :]) for k in range(len(own)))
    used = [stride if size > 1 else 0 if size else dtype.itemsize for size, stride in zip(own, strides, strict=True)]
    return dtype, (*(0,) * (len(shape) - len(own)), *used)


def merged(shape: tuple[int, ...], strides: Sequence[tuple[int, ...]]) -> tuple[list[int], list[list[int]]]:
    """The axes with neighbours made one where every array goes through them in one stride."""
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for k, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(own[-1] == given[k] * size for own, given in zip(merged, strides, strict=True)):
            sizes[-1] *= size
            for own, given in zip(merged, strides, strict=True):
                own[-1] = given[k]
        else:
            sizes.append(size)
            for own, given in zip(merged, strides, strict=True):
                own.append(given[k])
    if not sizes:
        return [1], [[0] for _ in strides]
    return sizes, merged


def _axis(stride: int, itemsize: int, last: bool) -> str:
    return "0" if stride == 0 else "1" if last and stride == itemsize else "s"
