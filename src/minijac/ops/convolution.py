"""Sliding windows over the last axes of an array, and their transpose: what convolutions and poolings are made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from ..algebra.factors import Shape
from ..algebra.labels import Axes, Label, Window
from ..backend import namespace
from ..strides import View
from ..tape.trace import Node
from . import into
from .edges import Edge, Linear, Part
from .families import Example, define
from .structural import relabel

__all__ = ["patches", "unpatches"]


def _positions(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many windows of `kernel` entries, `dilation` apart, start every `stride` entries within `size`."""
    return max(0, (size - dilation * (kernel - 1) - 1) // stride + 1)


def _patches_value(x: Any, kernel: Shape, stride: Shape, dilation: Shape) -> Any:
    lead = x.ndim - len(kernel)
    windows = [_positions(*sizes) for sizes in zip(x.shape[lead:], kernel, stride, dilation, strict=True)]
    view = _windows(View(x.shape, x.strides), (*x.shape[:lead], *windows, *kernel), kernel, stride, dilation)
    return namespace(x).lib.stride_tricks.as_strided(x, view.shape, view.strides)


def _windows(view: View, out_shape: Shape, kernel: Shape, stride: Shape, dilation: Shape) -> View:
    lead, steps = view.strides[: -len(kernel) or None], view.strides[len(view.strides) - len(kernel) :]
    moved = [n * step for sizes in (stride, dilation) for n, step in zip(sizes, steps, strict=True)]
    return view._replace(shape=out_shape, strides=(*lead, *moved))


def _unpatches_value(y: Any, kernel: Shape, stride: Shape, dilation: Shape, size: Shape) -> Any:
    n = len(kernel)
    lead = y.ndim - 2 * n
    windows = y.shape[lead : lead + n]
    result = namespace(y).zeros((*y.shape[:lead], *size), y.dtype)
    for offset in product(*map(range, kernel)):
        target = tuple(
            slice(d * k, d * k + s * w, s) for k, d, s, w in zip(offset, dilation, stride, windows, strict=True)
        )
        result[(..., *target)] += y[(..., *offset)]
    return result


def _unpatches_expansion(y: Any, kernel: Shape, stride: Shape, dilation: Shape, size: Shape) -> Any:
    """Each entry of the windows in turn, where it came from, and their sum."""
    n = len(kernel)
    lead = y.shape[: y.ndim - 2 * n]
    labels = [Label(m) for m in y.shape[: y.ndim - n]]
    front, whole = (tuple((label,) for label in some) for some in (labels[: len(lead)], labels))
    parts = []
    for offset in product(*map(range, kernel)):
        entry = tuple((Window(None, m, k, 1),) for m, k in zip(kernel, offset, strict=True))
        places = zip(labels[len(lead) :], size, offset, dilation, stride, strict=True)
        target = tuple((Window(label, m, k * d, s),) for label, m, k, d, s in places)
        parts.append(relabel(y, inp=(*whole, *entry), out=(*front, *target), shape=(*lead, *size)))
    return sum(parts[1:], parts[0])


def _relation(k: int, target: Shape, source: Shape, kernel: Shape, **_: Any) -> Sequence[Part]:
    """The axes in front pass."""
    lead = min(len(source), len(target)) - len(kernel)
    common: Axes = tuple((Label(n),) for n in source[:lead])
    own: list[Axes] = [tuple((Label(n),) for n in shape[lead:]) for shape in (target, source)]
    return [Part((*common, *own[0]), (*common, *own[1]))]


def _edge(node: Node, k: int) -> Edge:
    """Along the other axes the map is the same for all positions of those in front."""
    kernel, stride, dilation = node.params["kernel"], node.params["stride"], node.params["dilation"]
    gathers = "size" not in node.params
    source, target = np.shape(node.args[0]), node.out.shape
    size = node.params.get("size", source[len(source) - len(kernel) :])
    gather = lambda x: patches(x, kernel=kernel, stride=stride, dilation=dilation)  # noqa: E731
    scatter = lambda y: unpatches(y, kernel=kernel, stride=stride, dilation=dilation, size=size)  # noqa: E731
    maps = Linear(gather, scatter, uniform=True) if gathers else Linear(scatter, gather, uniform=True)
    return Edge(target, source, _relation(k, target, source, kernel), maps)


_ONE = {"kernel": (2,), "stride": (1,), "dilation": (2,)}
_TWO = {"kernel": (2, 3), "stride": (2, 1), "dilation": (1, 2)}

patches = define(
    "patches",
    _patches_value,
    _edge,
    [Example(((3, 5),), _ONE), Example(((3, 2, 5, 6),), _TWO)],
    relation=_relation,
    flat=True,
    complex=True,
    strided=_windows,
    into=lambda code, out, x, **params: into.copied(code, out, x.view(partial(_patches_value, **params))),
)
"""The windows of the last axes: ``(..., *size) -> (..., *windows, *kernel)``."""

unpatches = define(
    "unpatches",
    _unpatches_value,
    _edge,
    [Example(((3, 3, 2),), {**_ONE, "size": (5,)}), Example(((3, 2, 2, 2, 2, 3),), {**_TWO, "size": (5, 6)})],
    relation=_relation,
    flat=True,
    complex=True,
    into=into.unpatches,
    expansion=_unpatches_expansion,
)
"""Its transpose: each entry of each window added where it came from, ``(..., *windows, *kernel) -> (..., *size)``."""
