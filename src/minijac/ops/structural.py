"""Structural operations: they move, repeat or sum entries, and their derivative is labels alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index
from typing import Any

import numpy as np

from ..algebra.factors import Array, Shape
from ..algebra.labels import Axes, Axis, Label, Window, axis_size, labels_in
from ..algebra.matching import meets
from ..algebra.writing import Placed, covers, rearranged, strided
from ..backend import astype, namespace, shape_of
from ..picks import Pick
from ..tape.op import Reduction
from ..tape.trace import Node
from ..tape.traced import Traced
from . import into
from .edges import Edge, Linear, Part
from .families import Example, along, reduced, structural
from .maps import linear_map

__all__ = [
    "broadcast_to", "concatenate", "cumsum", "diagonal", "embed", "embed_diagonal", "expand_dims", "flip",
    "getitem_basic", "mean", "pad", "region", "relabel", "reshape", "roll", "squeeze", "sum", "superpose", "transpose",
]  # fmt: skip


def fresh(shape: Sequence[int]) -> Axes:
    """One label for each axis, also for those of length one: an edge's labels say where they go."""
    return tuple([(Label(n),) for n in shape])


def normalised(axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    axes: Any = range(ndim) if axis is None else (axis,) if isinstance(axis, int | np.integer | Traced) else axis
    return tuple([k + ndim if k < 0 else k for k in map(index, axes)])


# -- relabel: all structural operations in one, by labels alone --------------------------------------------------------
def _relabel_relation(k: int, out_shape: Shape, shape_: Shape, inp: Axes, out: Axes, shape: Shape) -> Sequence[Part]:
    return [Part(out, inp)]


_b, _h, _w, _v = Label(3), Label(2), Label(3), Label(4)
relabel = structural(
    "relabel",
    rearranged,
    _relabel_relation,
    [
        Example(((3, 6),), {"inp": ((_b,), (_h, _w)), "out": ((_b,), (_w,), (_h,)), "shape": (3, 3, 2)}),
        Example(((3, 6),), {"inp": ((_b,), (_h, _w)), "out": ((_b,), (Window(_w, 8, 7, -3),)), "shape": (3, 8)}),
        Example(((3, 3),), {"inp": ((_b,), (_w,)), "out": ((_b,), (_w,), (_v, _w)), "shape": (3, 3, 12)}),
        Example(((3, 3, 5),), {"inp": ((_b,), (_w,), (Window(_w, 5, 2, 1),)), "out": ((_b,), (_w,)), "shape": (3, 3)}),
    ],
    carries_one=True,
    into=into.relabel,
    keeps=into.covered,
    prebound=True,
)
"""One term without data, as an operation: the entry that labels name on one side goes where they point on the other."""


def _superpose_value(*arrays: Array, parts: Any, shape: Shape) -> Array:
    xp = namespace(*arrays)
    result = (xp.empty if covers(parts[0][1]) else xp.zeros)(shape, arrays[0].dtype)
    for x, (labels, axes, adds) in zip(arrays, parts, strict=True):
        extra = tuple([label for label in labels_in(axes) if label not in labels])
        view = strided(result, axes, (*extra, *labels))
        if adds:
            view += x
        else:
            view[...] = x
    return result


def _superpose_relation(k: int, out_shape: Shape, *shapes: Shape, parts: Any, shape: Shape) -> Sequence[Part]:
    labels, axes, _ = parts[k]
    return [Part(axes, tuple((label,) for label in labels))]


def _tridiagonal() -> Example:
    """Three diagonals of which the last lies on the first."""
    b, i, j, k = map(Label, (3, 4, 3, 2))
    parts = (
        ((b, i), ((b,), (i,), (i,)), False),
        ((j,), ((b,), (Window(j, 4, 1, 1),), (Window(j, 4, 0, 1),)), False),
        ((b, k), ((b,), (Window(k, 4, 0, 2),), (Window(k, 4, 0, 2),)), True),
    )
    return Example(((3, 4), (3,), (3, 2)), {"parts": parts, "shape": (3, 4, 4)}, shared=(1,))


def _superpose_expansion(*arrays: Any, parts: Any, shape: Shape) -> Any:
    """What meets nothing is written, in one pass; what meets an earlier part is added to it."""
    apart = [k for k, (_, _, may_meet) in enumerate(parts) if not may_meet]
    if len(apart) == len(parts):
        return NotImplemented
    total = superpose(*[arrays[k] for k in apart], parts=tuple([parts[k] for k in apart]), shape=shape)
    for x, (labels, axes, may_meet) in zip(arrays, parts, strict=True):
        if may_meet:
            total = total + relabel(x, inp=tuple((label,) for label in labels), out=axes, shape=shape)
    return total


superpose = structural(
    "superpose",
    _superpose_value,
    _superpose_relation,
    [_tridiagonal()],
    into=into.superpose,
    expansion=_superpose_expansion,
    keeps=into.apart,
)
"""The sum of arrays, each in its place among zeros, as one array that is written once.

``parts`` has for each operand the labels of its axes, the axes of the result over those labels (and others, along which
it is repeated), and whether it may meet an earlier operand: where none does, an entry is written, not added to.
"""


def _embedded(x: Any, labels: Sequence[Label], axes: Axes, shape: Shape) -> Any:
    return relabel(x, inp=tuple((label,) for label in labels), out=axes, shape=shape)


def _superposed(_: Any, parts: Sequence[Placed], shape: Shape) -> Any:
    seen: list[Axes] = []
    places = []
    for _, labels, axes in parts:
        places.append((tuple(labels), axes, any(meets(axes, other) for other in seen)))
        seen.append(axes)
    like = parts[0][0]
    return superpose(*(astype(x, like.dtype, like) for x, _, _ in parts), parts=tuple(places), shape=shape)


Traced.embedded, Traced.superposed = _embedded, _superposed  # how blocks place what stands for an array


# -- reshape -----------------------------------------------------------------------------------------------------------
def _groups(a: Shape, b: Shape) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes of two shapes that hold as many entries, from the left."""
    groups = []
    i = j = 0
    while i < len(a) and j < len(b):
        left, right = [i], [j]
        m, n = a[i], b[j]
        i, j = i + 1, j + 1
        while m != n and (i < len(a) if m < n else j < len(b)):
            if m < n:
                left.append(i)
                m *= a[i]
                i += 1
            else:
                right.append(j)
                n *= b[j]
                j += 1
        groups.append((left, right))
    rest = list(range(i, len(a))), list(range(j, len(b)))
    if groups and any(a[k] != 1 for k in rest[0]) | any(b[k] != 1 for k in rest[1]):
        groups[-1] = ([*groups[-1][0], *rest[0]], [*groups[-1][1], *rest[1]])
    elif rest[0] or rest[1]:  # of length one: new at the right end, or gone there
        groups.append(rest)
    return groups


def _refine(a: Sequence[int], b: Sequence[int]) -> tuple[list[Axis], list[Axis]] | None:
    """Digits of two runs of axes that hold as many entries, or None where they have no common refinement."""
    if 0 in (*a, *b) or prod(a) != prod(b):
        return None
    left: list[list[Label]] = [[] for _ in a]
    right: list[list[Label]] = [[] for _ in b]
    i, j = len(a) - 1, len(b) - 1
    m, n = a[i] if a else 1, b[j] if b else 1
    while i >= 0 or j >= 0:
        if i >= 0 and m == 1:  # used up, or of length one: an own label, kept as a digit of what stands beside it
            if a[i] == 1:
                one = Label(1)
                left[i] = [one]
                if b:
                    right[j if j >= 0 and n != b[j] else min(j + 1, len(b) - 1)].insert(0, one)
            i -= 1
            m = a[i] if i >= 0 else 1
        elif j >= 0 and n == 1:
            if b[j] == 1 and not right[j]:
                right[j] = [Label(1)]
            j -= 1
            n = b[j] if j >= 0 else 1
        else:
            low = min(m, n)
            if max(m, n) % low:
                return None
            label = Label(low)
            left[i].insert(0, label)
            right[j].insert(0, label)
            m, n = m // low, n // low
    return [tuple(axis) for axis in left], [tuple(axis) for axis in right]


def _reshape_part(shape: Shape, out_shape: Shape) -> tuple[Part, bool]:
    """The labels of a reshape, and whether they tell all; where axes have no common refinement, others keep theirs."""
    inp: list[Axis] = [()] * len(shape)
    out: list[Axis] = [()] * len(out_shape)
    whole = True
    for left, right in _groups(shape, out_shape):
        digits = _refine([shape[i] for i in left], [out_shape[j] for j in right])
        if digits is None:
            whole = False
            digits = [(Label(shape[i]),) for i in left], [(Label(out_shape[j]),) for j in right]
        for i, axis in zip(left, digits[0], strict=True):
            inp[i] = axis
        for j, axis in zip(right, digits[1], strict=True):
            out[j] = axis
    part = Part(tuple(out), tuple(inp))
    return (part, True) if whole else (_only_single_digits(part, out_shape, shape), False)


def _reshape_relation(k: int, out_shape: Shape, operand: Shape, shape: Shape) -> Sequence[Part]:
    return [_reshape_part(operand, out_shape)[0]]


def _reshape_edge(node: Node, k: int) -> Edge:
    shape, out_shape = shape_of(node.args[0]), node.out.shape
    part, whole = _reshape_part(shape, out_shape)

    def listed(look: bool) -> Part:
        own = [axis[0] for axis in part.out if axis not in part.inp]
        moved = [i for i, axis in enumerate(part.inp) if axis not in part.out]
        entries = np.arange(prod(label.size for label in own)).reshape([label.size for label in own])
        inp = list(part.inp)
        for i, at in zip(moved, np.unravel_index(entries, [shape[i] for i in moved]), strict=True):
            inp[i] = (Pick(at, tuple(own), shape[i]),)  # type: ignore[arg-type]
        return Part(part.out, tuple(inp))

    def moved(x: Any, source: Axes, target: Axes) -> Any:
        """However many positions there are on the axes that pass."""
        sizes = [x.shape[1 + source.index(axis)] if axis in source else axis_size(axis) for axis in target]
        return x.reshape((x.shape[0], *sizes))

    move = Linear(lambda x: moved(x, part.inp, part.out), lambda y: moved(y, part.out, part.inp), uniform=True)
    return Edge(out_shape, shape, [part], *(() if whole else (move, listed)))


def _only_single_digits(part: Part, out_shape: Shape, shape: Shape) -> Part:
    """Axes that pass whole keep their label; axes that were split or merged get fresh ones."""
    out = [
        axis if axis in part.inp and len(axis) == 1 else (Label(n),)
        for axis, n in zip(part.out, out_shape, strict=True)
    ]
    inp = [axis if axis in out else (Label(n),) for axis, n in zip(part.inp, shape, strict=True)]
    return Part(tuple(out), tuple(inp))


reshape = structural(
    "reshape",
    lambda x, shape: x.reshape(shape),
    _reshape_relation,
    [
        Example(((3, 4, 2),), {"shape": (3, 8)}),
        Example(((3, 8),), {"shape": (3, 2, 4)}),
        Example(((3, 4, 2),), {"shape": (-1, 2)}),
        Example(((3, 4, 3),), {"shape": (3, 6, 2)}),
        Example(((3, 2, 3),), {"shape": (3, 3, 1, 2)}),
    ],
    edge=_reshape_edge,
    carries_one=True,
    view=True,
    unchanged=lambda own, shape: True,
    strided=lambda view, out_shape, shape: view.reshaped(out_shape),
    merged=lambda first, second: second,
    into=into.reshape,
)


# -- one label per axis, moved -----------------------------------------------------------------------------------------
def _transpose_relation(k: int, out_shape: Shape, shape: Shape, axes: Sequence[int]) -> Sequence[Part]:
    inp = fresh(shape)
    return [Part(tuple(inp[i] for i in axes), inp)]


transpose = structural(
    "transpose",
    lambda x, axes: x.transpose(axes),
    _transpose_relation,
    [Example(((3, 4, 2),), {"axes": (0, 2, 1)}), Example(((3, 4, 2),), {"axes": (2, 0, 1)})],
    view=True,
    unchanged=lambda shape, axes: tuple(axes) == tuple(range(len(shape))),
    merged=lambda first, second: {"axes": tuple(first["axes"][axis] for axis in second["axes"])},
)


def _expand_relation(k: int, out_shape: Shape, shape: Shape, axis: tuple[int, ...]) -> Sequence[Part]:
    inp = iter(kept := fresh(shape))
    return [Part(tuple((Label(1),) if i in axis else next(inp) for i in range(len(out_shape))), kept)]


expand_dims = structural(
    "expand_dims",
    lambda x, axis: np.expand_dims(x, axis),
    _expand_relation,
    [Example(((3, 4),), {"axis": (1, 3)}), Example(((3, 4),), {"axis": (0,)})],
    view=True,
    unchanged=lambda shape, axis: True,
)


def _squeeze_relation(k: int, out_shape: Shape, shape: Shape, axis: tuple[int, ...]) -> Sequence[Part]:
    inp = fresh(shape)
    return [Part(reduced(inp, axis, False), inp)]


squeeze = structural(
    "squeeze",
    lambda x, axis: x.squeeze(axis),
    _squeeze_relation,
    [Example(((3, 1, 4),), {"axis": (1,)})],
    view=True,
    unchanged=lambda shape, axis: True,
)


def _broadcast_relation(k: int, out_shape: Shape, shape: Shape, to: Shape) -> Sequence[Part]:
    out = fresh(out_shape)
    tail = out[len(out) - len(shape) :]
    inp = tuple(axis if n == axis_size(axis) else (Label(n),) for axis, n in zip(tail, shape, strict=True))
    return [Part(out, inp)]


broadcast_to = structural(
    "broadcast_to",
    lambda x, to: np.broadcast_to(x, to),
    _broadcast_relation,
    [Example(((3, 1, 4),), {"to": (3, 2, 4)}), Example(((3, 1),), {"to": (2, 3, 1)})],
    view=True,
    unchanged=lambda shape, to: True,
    into=into.copied,
)


def _sum_relation(
    k: int, out_shape: Shape, shape: Shape, axis: tuple[int, ...], keepdims: bool = False, scale: float = 1.0
) -> Sequence[Part]:
    inp = fresh(shape)
    return [Part(reduced(inp, axis, keepdims), inp, (), scale)]


def _mean_relation(
    k: int, out_shape: Shape, shape: Shape, axis: tuple[int, ...], keepdims: bool = False
) -> Sequence[Part]:
    count = prod(shape[i] for i in axis)
    return _sum_relation(k, out_shape, shape, axis, keepdims, 1.0 / count if count else float("nan"))


_REDUCTIONS = [
    Example(((3, 4, 2),), {"axis": (1,)}),
    Example(((3, 4, 2),), {"axis": (2,), "keepdims": True}),
    Example(((3, 4, 2),), {"axis": (1, 2)}),
]
sum = structural(
    "sum",
    lambda x, **p: x.sum(**p),
    _sum_relation,
    _REDUCTIONS,
    reduction=Reduction(np.add, 0),
    into=into.reduced(np.add),
)


def _mean_expansion(x: Any, axis: tuple[int, ...], keepdims: bool = False) -> Any:
    x = x if x.dtype.kind in "fc" else x.astype(float)
    return np.sum(x, axis=axis, keepdims=keepdims) / float(prod(x.shape[k] for k in normalised(axis, x.ndim)))


mean = structural(
    "mean", lambda x, **p: x.mean(**p), _mean_relation, _REDUCTIONS, into=into.mean, expansion=_mean_expansion
)


def _diagonal_relation(k: int, out_shape: Shape, shape: Shape, offset: int, axis1: int, axis2: int) -> Sequence[Part]:
    along = Label(out_shape[-1])
    inp = list(fresh(shape))
    out = tuple(axis for i, axis in enumerate(inp) if i not in (axis1, axis2))
    inp[axis1] = (Window(along, shape[axis1], max(-offset, 0), 1),)
    inp[axis2] = (Window(along, shape[axis2], max(offset, 0), 1),)
    return [Part((*out, (along,)), tuple(inp))]


diagonal = structural(
    "diagonal",
    lambda x, offset, axis1, axis2: x.diagonal(offset, axis1, axis2),
    _diagonal_relation,
    [
        Example(((3, 4, 4),), {"offset": 0, "axis1": 1, "axis2": 2}),
        Example(((3, 4, 5),), {"offset": 1, "axis1": 2, "axis2": 1}),
        Example(((3, 4, 5),), {"offset": -2, "axis1": 1, "axis2": 2}),
    ],
    view=True,
)


def _embed_diagonal_relation(k: int, out_shape: Shape, shape: Shape, offset: int) -> Sequence[Part]:
    *lead, (along,) = inp = fresh(shape)
    n = out_shape[-1]
    rows, columns = (Window(along, n, max(d, 0), 1) for d in (-offset, offset))  # type: ignore[arg-type]
    return [Part((*lead, (rows,), (columns,)), inp)]


def _embed_diagonal_value(x: Array, offset: int) -> Array:
    n = x.shape[-1] + abs(offset)
    result = namespace(x).zeros((*x.shape[:-1], n, n), x.dtype)
    step = slice(max(offset, 0) + n * max(-offset, 0), None, n + 1)
    result.reshape(*x.shape[:-1], n * n)[..., step][..., : x.shape[-1]] = x
    return result


embed_diagonal = structural(
    "embed_diagonal",
    _embed_diagonal_value,
    _embed_diagonal_relation,
    [Example(((3, 4),), {"offset": 0}), Example(((3, 2, 4),), {"offset": 1}), Example(((3, 2),), {"offset": -2})],
)
"""The last axis as the diagonal of a square matrix of zeros, `offset` columns above the main one."""


# -- running sums ------------------------------------------------------------------------------------------------------
def _cumsum_edge(node: Node, k: int) -> Edge:
    shape, axis, reverse = node.out.shape, node.params["axis"], node.params.get("reverse", False)
    push = lambda x: cumsum(x, axis=axis + 1, reverse=reverse)  # noqa: E731
    pull = lambda y: cumsum(y, axis=axis + 1, reverse=not reverse)  # noqa: E731
    return linear_map(shape, shape, push, pull, [(i, i) for i in range(len(shape)) if i != axis], uniform=True)


def _cumsum_value(x: Array, axis: int, reverse: bool = False) -> Array:
    xp = namespace(x)
    return xp.flip(xp.flip(x, axis).cumsum(axis), axis) if reverse else x.cumsum(axis)


cumsum = structural(
    "cumsum",
    _cumsum_value,
    along,  # type: ignore[arg-type]
    [Example(((3, 4),), {"axis": 1}), Example(((3, 4, 2),), {"axis": 1, "reverse": True})],
    edge=_cumsum_edge,
    into=into.cumsum,
    accumulates=True,
)


# -- windows -----------------------------------------------------------------------------------------------------------
def _getitem_relation(k: int, out_shape: Shape, shape: Shape, index: tuple[Any, ...]) -> Sequence[Part]:
    """Integers, slices and new axes, the ellipsis already written out."""
    out: list[Axis] = []
    inp: list[Axis] = []
    sizes = iter(shape)
    for item in index:
        if item is None:
            out.append((Label(1),))
            continue
        n = next(sizes)
        if isinstance(item, slice):
            start, stop, step = item.indices(n)
            label = Label(len(range(start, stop, step)))
            out.append((label,))
            inp.append((label,) if (start, step, label.size) == (0, 1, n) else (Window(label, n, start, step),))
        else:
            inp.append((Window(None, n, int(item) % n, 1),))
    return [Part(tuple(out), tuple(inp))]


def region(shape: Shape, index: tuple[Any, ...]) -> Part:
    """The labels of what a basic index picks, and the axes of the array over them."""
    return _getitem_relation(0, (), shape, index)[0]


getitem_basic = structural(
    "getitem",
    lambda x, index: x[index],
    _getitem_relation,
    [
        Example(((3, 5),), {"index": (slice(None), slice(1, 4))}),
        Example(((3, 5),), {"index": (slice(None), 2)}),
        Example(((3, 5, 4),), {"index": (slice(None), slice(None, None, -2), None, slice(1, 2))}),
        Example(((3, 5, 4),), {"index": (slice(None), -1, slice(None))}),
    ],
    view=True,
)


def _embed_relation(k: int, out_shape: Shape, picked: Shape, shape: Shape, index: tuple[Any, ...]) -> Sequence[Part]:
    (part,) = _getitem_relation(0, picked, shape, index)
    return [Part(part.inp, part.out)]


def _embed_value(x: Array, shape: Shape, index: tuple[Any, ...]) -> Array:
    result = namespace(x).zeros(shape, x.dtype)
    result[index] = x
    return result


embed = structural(
    "embed",
    _embed_value,
    _embed_relation,
    [
        Example(((3, 2),), {"shape": (3, 5), "index": (slice(None), slice(1, 4, 2))}),
        Example(((3, 4),), {"shape": (3, 2, 4), "index": (slice(None), -1, slice(None, None, -1))}),
    ],
    into=into.embed,
    keeps=lambda shape, index: True,
)
"""The transpose of `getitem`: zeros of `shape`, with `x` at the positions of a basic index."""


def _flip_relation(k: int, out_shape: Shape, shape: Shape, axis: tuple[int, ...]) -> Sequence[Part]:
    out = fresh(shape)
    inp = tuple(
        (Window(a[0], n, n - 1, -1),) if i in axis else a  # type: ignore[arg-type]
        for i, (a, n) in enumerate(zip(out, shape, strict=True))
    )
    return [Part(out, inp)]


flip = structural(
    "flip",
    lambda x, axis: np.flip(x, axis),
    _flip_relation,
    [Example(((3, 5, 2),), {"axis": (1, 2)})],
    view=True,
)


def _roll_relation(k: int, out_shape: Shape, shape: Shape, shift: int, axis: int) -> Sequence[Part]:
    n = shape[axis]
    shift = shift % n if n else 0
    if not shift:
        inp = fresh(shape)
        return [Part(inp, inp)]
    parts = []
    for size, source, target in ((shift, n - shift, 0), (n - shift, 0, shift)):
        label, rest = Label(size), fresh(shape)
        before, after = rest[:axis], rest[axis + 1 :]
        moved = [(*before, (Window(label, n, offset, 1),), *after) for offset in (target, source)]
        parts.append(Part(moved[0], moved[1]))
    return parts


roll = structural(
    "roll",
    lambda x, shift, axis: np.roll(x, shift, axis),
    _roll_relation,
    [Example(((3, 5),), {"shift": 1, "axis": 1}), Example(((3, 5, 2),), {"shift": -2, "axis": 1})],
    unchanged=lambda shape, shift, axis: shift % (shape[axis] or 1) == 0,
    into=into.roll,
)


def _pad_relation(
    k: int, out_shape: Shape, shape: Shape, pad_width: Sequence[tuple[int, int]], constant: float
) -> Sequence[Part]:
    inp = fresh(shape)
    out = tuple(
        axis if axis_size(axis) == n else (Window(axis[0], n, before, 1),)  # type: ignore[arg-type]
        for axis, n, (before, _) in zip(inp, out_shape, pad_width, strict=True)
    )
    return [Part(out, inp)]


pad = structural(
    "pad",
    lambda x, pad_width, constant: np.pad(x, pad_width, constant_values=constant),
    _pad_relation,
    [Example(((3, 4, 2),), {"pad_width": ((0, 0), (1, 2), (0, 1)), "constant": 0.5})],
    into=into.pad,
    keeps=lambda pad_width, constant: True,
)


def _concatenate_relation(k: int, out_shape: Shape, *shapes: Shape, axis: int) -> Sequence[Part]:
    inp = fresh(shapes[k])
    offset = 0
    for shape in shapes[:k]:
        offset += shape[axis]
    if shapes[k][axis] == out_shape[axis]:
        return [Part(inp, inp)]
    placed = (Window(inp[axis][0], out_shape[axis], offset, 1),)  # type: ignore[arg-type]
    return [Part((*inp[:axis], placed, *inp[axis + 1 :]), inp)]


concatenate = structural(
    "concatenate",
    lambda *arrays, axis: np.concatenate(arrays, axis),
    _concatenate_relation,
    [Example(((3, 4), (3, 1), (3, 2)), {"axis": 1}), Example(((3, 4, 2), (3, 4, 2)), {"axis": 2})],
    into=into.concatenate,
)
