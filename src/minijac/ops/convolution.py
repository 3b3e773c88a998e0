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
from .into import shifts
from .structural import relabel

__all__ = ["patches", "unpatches"]


def _positions(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many windows of `kernel` entries, `dilation` apart, start every `stride` entries within `size`."""
    return max(0, (size - dilation * (kernel - 1) - 1) // stride + 1)


def _patches_value(x: Any, kernel: Shape, stride: Shape, dilation: Shape, behind: int = 0) -> Any:
    n, lead = len(kernel), x.ndim - len(kernel) - behind
    windows = [_positions(*sizes) for sizes in zip(x.shape[lead : lead + n], kernel, stride, dilation, strict=True)]
    shape = (*x.shape[:lead], *kernel, *windows, *x.shape[lead + n :])
    view = _windows(View(x.shape, x.strides), shape, kernel, stride, dilation, behind)
    return namespace(x).lib.stride_tricks.as_strided(x, view.shape, view.strides)


def _windows(view: View, out_shape: Shape, kernel: Shape, stride: Shape, dilation: Shape, behind: int = 0) -> View:
    last = len(view.strides) - behind
    first = last - len(kernel)
    moved = [n * s for sizes in (dilation, stride) for n, s in zip(sizes, view.strides[first:last], strict=True)]
    return view._replace(shape=out_shape, strides=(*view.strides[:first], *moved, *view.strides[last:]))


def _unpatches_value(y: Any, kernel: Shape, stride: Shape, dilation: Shape, size: Shape, behind: int = 0) -> Any:
    n = len(kernel)
    lead = y.ndim - 2 * n - behind
    result = namespace(y).zeros((*y.shape[:lead], *size, *y.shape[lead + 2 * n :]), y.dtype)
    for source, target in shifts(y.shape[lead + n : lead + 2 * n], kernel, stride, dilation, lead):
        result[target] += y[source]
    return result


def _unpatches_expansion(y: Any, kernel: Shape, stride: Shape, dilation: Shape, size: Shape, behind: int = 0) -> Any:
    """Each entry of the windows in turn, where it came from, and their sum."""
    n = len(kernel)
    lead = y.ndim - 2 * n - behind
    labels = [Label(m) for m in (*y.shape[:lead], *y.shape[lead + n :])]
    front, windows, rest = labels[:lead], labels[lead : lead + n], labels[lead + n :]
    parts = []
    for offset in product(*map(range, kernel)):
        entry = [Window(None, m, k, 1) for m, k in zip(kernel, offset, strict=True)]
        places = zip(windows, size, offset, dilation, stride, strict=True)
        target = [Window(label, m, k * d, s) for label, m, k, d, s in places]
        inp, out = ([(digit,) for digit in (*front, *own, *rest)] for own in ((*entry, *windows), target))
        shape = (*y.shape[:lead], *size, *y.shape[lead + 2 * n :])
        parts.append(relabel(y, inp=tuple(inp), out=tuple(out), shape=shape))
    return sum(parts[1:], parts[0])


def _relation(k: int, target: Shape, source: Shape, kernel: Shape, behind: int = 0, **_: Any) -> Sequence[Part]:
    """The axes in front and behind pass."""
    lead = min(len(source), len(target)) - len(kernel) - behind
    common: list[Axes] = [tuple((Label(n),) for n in some) for some in (source[:lead], source[len(source) - behind :])]
    own: list[Axes] = [tuple((Label(n),) for n in each[lead : len(each) - behind]) for each in (target, source)]
    return [Part((*common[0], *own[0], *common[1]), (*common[0], *own[1], *common[1]))]


def _edge(node: Node, k: int) -> Edge:
    """Along the other axes the map is the same for all positions. Seeds come last: they are long rows to add."""
    how = {key: node.params[key] for key in ("kernel", "stride", "dilation")}
    n, behind = len(node.params["kernel"]), node.params.get("behind", 0)
    source, target = np.shape(node.args[0]), node.out.shape
    size = node.params.get("size", source[len(source) - n - behind : len(source) - behind])
    gather = partial(patches, **how, behind=behind + 1)
    scatter = partial(unpatches, **how, size=size, behind=behind + 1)
    push, pull = (scatter, gather) if "size" in node.params else (gather, scatter)
    parts = _relation(k, target, source, **node.params)
    return Edge(target, source, parts, Linear(push, pull, uniform=True, behind=True))


_ONE = {"kernel": (2,), "stride": (1,), "dilation": (2,)}
_TWO = {"kernel": (2, 3), "stride": (2, 1), "dilation": (1, 2)}

patches = define(
    "patches",
    _patches_value,
    _edge,
    [Example(((3, 5),), _ONE), Example(((3, 2, 5, 6),), _TWO), Example(((3, 5, 2),), {**_ONE, "behind": 1})],
    relation=_relation,
    flat=True,
    complex=True,
    strided=_windows,
    into=lambda code, out, x, **params: into.copied(code, out, x.view(partial(_patches_value, **params))),
)
"""The windows of some axes, the last ones but for `behind`: ``(..., *size, ...) -> (..., *kernel, *windows, ...)``."""

unpatches = define(
    "unpatches",
    _unpatches_value,
    _edge,
    [
        Example(((3, 2, 3),), {**_ONE, "size": (5,)}),
        Example(((3, 2, 2, 3, 2, 2),), {**_TWO, "size": (5, 6)}),
        Example(((3, 2, 3, 2),), {**_ONE, "size": (5,), "behind": 1}),
    ],
    relation=_relation,
    flat=True,
    complex=True,
    into=into.unpatches,
    expansion=_unpatches_expansion,
)
"""Its transpose: each entry of each window added where it came from, ``(..., *kernel, *windows, ...) -> (..., *size,
...)``."""
