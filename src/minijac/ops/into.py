"""How operations write into a given array: as calls of NumPy, which a program binds once.

Each function takes `code`, the place of the result, those of the operands, and the parameters. ``code(function, *xs)``
has the function called in every run; what a place says of its array is known before. False means "not so": then the
operation is called as it is, and its result copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from operator import getitem
from typing import Any, Protocol

import numpy as np

from ..algebra.factors import Shape
from ..algebra.labels import Axes, labels_in
from ..algebra.writing import covers, strided

__all__ = ["Code", "Place", "apart", "background", "covered", "reduced", "shifts"]

SPARSE = 8
"""So many times fewer entries are written among a background that it is not read again with them."""


class Place(Protocol):
    """An array of a program, or a number."""

    shape: tuple[int, ...]
    dtype: Any
    array: Any
    """The array itself, where it is the same in every call, else None."""
    own: bool
    """Whether nothing else is ever written there."""

    def view(self, function: Callable[..., Any], *args: Any) -> Place:
        """The view of it that a function makes: now where the array is known, else in every call."""


class Code(Protocol):
    """What an operation may use of the program that it is written into."""

    def __call__(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> None:
        """Have a function called on places, and on other things as they are."""


def copied(code: Code, out: Place, x: Place, **params: Any) -> None:
    code(np.copyto, out, x)


def converted(code: Code, out: Place, x: Place, **params: Any) -> None:
    code(np.copyto, out, x, "unsafe")


def matmul(code: Code, out: Place, a: Place, b: Place) -> None:
    small = len(a.shape) == len(b.shape) == 2 and a.dtype == b.dtype and all((*a.shape, *b.shape))
    code(np.dot if small else np.matmul, a, b, out)  # dot costs less for small matrices


def einsum(code: Code, out: Place, *operands: Place, subscripts: str) -> None:
    code(np.einsum, subscripts, *operands, out=out)


def reduced(ufunc: Any) -> Callable[..., Any]:
    def into(code: Code, out: Place, x: Place, axis: Any, keepdims: bool = False) -> None:
        code(ufunc.reduce, x, axis, None, out, bool(keepdims))

    return into


def mean(code: Code, out: Place, x: Place, axis: Any, keepdims: bool = False) -> Any:
    if out.dtype == np.float16:  # which NumPy sums in single precision
        return False
    reduced(np.add)(code, out, x, axis, keepdims)
    code(np.divide, out, float(prod(x.shape[k] for k in ((axis,) if isinstance(axis, int) else axis))), out)
    return None


def cumsum(code: Code, out: Place, x: Place, axis: int, reverse: bool = False) -> None:
    if reverse:
        back = (*(slice(None),) * axis, slice(None, None, -1))
        x, out = x.view(getitem, back), out.view(getitem, back)
    code(np.add.accumulate, x, axis, None, out)


# -- elementwise -------------------------------------------------------------------------------------------------------
def where(code: Code, out: Place, condition: Place, a: Place, b: Place) -> Any:
    if condition.dtype != bool:
        return False
    if out.array is None or b.array is not out.array:
        copied(code, out, b)
    code(np.copyto, out, a, where=condition)
    return None


def sigmoid(code: Code, out: Place, x: Place) -> None:
    half, one = np.asarray(0.5, out.dtype), np.asarray(1.0, out.dtype)
    code(np.multiply, x, half, out)
    code(np.tanh, out, out)
    code(np.add, out, one, out)
    code(np.multiply, out, half, out)


def softplus(code: Code, out: Place, x: Place) -> None:
    code(np.logaddexp, x, 0.0, out)


def relu(code: Code, out: Place, x: Place) -> None:
    code(np.maximum, x, 0.0, out=out)


# -- moved -------------------------------------------------------------------------------------------------------------
def reshape(code: Code, out: Place, x: Place, shape: Any) -> None:
    """A reshape that has to copy: into the result, seen in the operand's shape."""
    copied(code, out.view(np.reshape, x.shape), x)


def concatenate(code: Code, out: Place, *arrays: Place, axis: int) -> None:
    code(np.concatenate, arrays, axis, out)


def roll(code: Code, out: Place, x: Place, shift: int, axis: int) -> None:
    n = out.shape[axis]
    shift = shift % n if n else 0
    lead = (slice(None),) * axis
    for target, source in ((slice(shift, n), slice(0, n - shift)), (slice(0, shift), slice(n - shift, n))):
        if target.start < target.stop:
            copied(code, out.view(getitem, (*lead, target)), x.view(getitem, (*lead, source)))


def take(code: Code, out: Place, x: Place, positions: Place, axis: int) -> None:
    code(np.ndarray.take, x, positions, axis, out)


def gather(code: Code, out: Place, x: Place, positions: Place, passing: Any, lead: int = 0) -> None:
    flat = (*x.shape[:lead], prod(x.shape[lead:]))
    code(np.ndarray.take, x.view(np.reshape, flat), positions, lead, out)


def shifts(windows: Shape, kernel: Shape, stride: Shape, dilation: Shape, lead: int) -> Iterator[tuple[Any, Any]]:
    """For each entry of a kernel where it stands, behind `lead` axes of the windows, and where in what they are of."""
    front = (slice(None),) * lead
    for offset in product(*map(range, kernel)):
        places = zip(offset, dilation, stride, windows, strict=True)
        yield (*front, *offset), (*front, *(slice(d * k, d * k + s * w, s) for k, d, s, w in places))


def unpatches(
    code: Code, out: Place, y: Place, kernel: Any, stride: Any, dilation: Any, size: Any, behind: int = 0
) -> None:
    """Each entry of the windows added where it came from, one position within the windows after the other."""
    n, lead = len(kernel), len(y.shape) - 2 * len(kernel) - behind
    code(np.ndarray.fill, out, 0)
    for source, place in shifts(y.shape[lead + n : lead + 2 * n], kernel, stride, dilation, lead):
        target = out.view(getitem, place)
        code(np.add, target, y.view(getitem, source), target)


# -- among a background ------------------------------------------------------------------------------------------------
def background(out: Any, constant: Any) -> None:
    """Fill an array of which little is written after."""
    out.fill(constant)


def _background(code: Code, out: Place, constant: Any, *written: Place) -> None:
    """A constant, but in what is written after."""
    if out.own:  # what is not written stays
        out.array[...] = constant
    else:
        sparse = SPARSE * sum(prod(place.shape) for place in written) <= prod(out.shape)
        code(background if sparse else np.ndarray.fill, out, constant)


def pad(code: Code, out: Place, x: Place, pad_width: Any, constant: Any) -> Any:
    if np.ndim(constant):  # another one for each side
        return False
    index = tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, pad_width, strict=True))
    inside = out.view(getitem, index)
    _background(code, out, constant, inside)
    copied(code, inside, x)
    return None


def embed(code: Code, out: Place, x: Place, shape: Any, index: Any) -> None:
    inside = out.view(getitem, (*index, ...))
    _background(code, out, 0, inside)
    copied(code, inside, x)


def covered(out: Axes, **params: Any) -> bool:
    """Whether a relabelling leaves a background, which stays from call to call."""
    return not covers(out)


def apart(parts: Any, shape: Any) -> bool:
    """Whether no part of a superposition meets another, and there is a background."""
    return not any(meets or covers(axes) for _, axes, meets in parts)


def superpose(code: Code, out: Place, *arrays: Place, parts: Any, shape: Any) -> None:
    targets = []
    for labels, axes, _ in parts:
        extra = tuple(label for label in labels_in(axes) if label not in labels)
        targets.append(out.view(strided, axes, (*extra, *labels)))
    if not covers(parts[0][1]):
        if apart(parts, shape):
            _background(code, out, 0, *targets)
        else:
            code(np.ndarray.fill, out, 0)
    for x, target, (_, _, meets) in zip(arrays, targets, parts, strict=True):
        if meets:
            code(np.add, target, x, target)
        else:
            copied(code, target, x)


def relabel(code: Code, out_place: Place, x: Place, inp: Axes, out: Axes, shape: Any) -> Any:
    labels, kept = tuple(labels_in(inp)), tuple(labels_in(out))
    rest = tuple(label for label in labels if label in kept)
    extra = tuple(label for label in kept if label not in labels)
    gone = tuple(k for k, label in enumerate(labels) if label not in kept)
    if gone and extra:
        return False
    if inp != tuple((label,) for label in labels):
        if x.array is None or not x.array.flags.c_contiguous:
            return False
        x = x.view(strided, inp, labels)
    target = out_place.view(strided, out, (*extra, *rest))
    if not covers(out):
        _background(code, out_place, 0, target)
    if gone:
        code(np.add.reduce, x, gone, None, target)
    else:
        copied(code, target, x)
    return None
