"""Higher partial derivatives of elementwise operations, from the declared ones; and which are constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..accumulation.graph import Graph
from ..algebra.factors import Array
from ..backend import astype, value_of
from ..ops.families import Elementwise
from ..tape.trace import Node, Trace
from ..tape.traced import Traced

__all__ = ["Partials", "Scaled", "shape_of_partials"]


class Scaled(NamedTuple):
    """A number times an array, or a number alone: constants are kept out of the arrays as long as possible."""

    scale: float
    array: Array | None


class Partials:
    """The partial derivatives of an elementwise operation at a node, of any order.

    The declared ones, ``p_k(y, a, b, ...)``, are traced as functions of the output and the operands; each further
    order is ``d/da_j + d/dy p_j`` of the one before. Entries are independent, so that one reverse pass with scalars
    in the place of blocks gives all of it.
    """

    smooth: ClassVar[Callable[..., bool]]
    """Filled by `transforms.roots`: functions of a root on a tape as operations of their own."""

    def __init__(self, node: Node, operands: Sequence[int], order: int) -> None:
        self.node = node
        self.order = order
        self.trace = Trace()  # no code of a user runs on it, so that nothing has to close it
        self.out = 0
        self.places = dict(zip(operands, range(1, len(operands) + 1), strict=True))
        self.values: list[Traced] = []
        self._masked: dict[tuple[int, ...], Scaled | None] = {}
        self._known: dict[tuple[int, ...], Scaled | None] = {}
        self._slopes: dict[tuple[int, ...], dict[int, Scaled | None]] = {}
        self._y = self.trace.input(node.out)
        self._args = [self.trace.input(arg) if k in self.places else arg for k, arg in enumerate(node.args)]

    def __call__(self, positions: tuple[int, ...]) -> Scaled | None:
        """The partial derivative by the operands at the given positions; None: zero by structure."""
        if positions not in self._masked:
            value = self._partial(positions)
            if value is not None and value.array is not None:
                array = self._stripped(value.array)
                kept = self.node.kept(*positions)
                value = Scaled(value.scale, array if kept is None else np.where(kept, array, 0.0))
            self._masked[positions] = value
        return self._masked[positions]

    def _partial(self, positions: tuple[int, ...]) -> Scaled | None:
        if positions not in self._known and len(positions) == 1:
            self._known[positions] = self._declared(self.node, positions[0], self._y, self._args)
        if positions not in self._known:
            *stem, last = positions
            slopes = self._slopes_of(tuple(stem))
            through_y = slopes.get(self.out)
            inner = self._partial((last,))
            if len(positions) == self.order and inner is not None:
                inner = Scaled(inner.scale, self._stripped(inner.array))
            total = slopes.get(self.places[last])
            if through_y is not None and inner is not None:
                total = _plus(total, _times(through_y, inner))
            self._known[positions] = total
        return self._known[positions]

    def _slopes_of(self, stem: tuple[int, ...]) -> dict[int, Scaled | None]:
        """A partial's derivatives by the output and the operands, traced if they are to be differentiated again."""
        value = self._partial(stem)
        if value is None or not self._mine(value.array):
            return {}
        if stem not in self._slopes:
            target = value.array.index  # type: ignore[union-attr]
            if len(stem) + 1 < self.order:
                type(self).smooth(self.trace.nodes, [target])
            graph = Graph(self.trace.nodes, [self.out, *self.places.values()], [target])
            graph.mark_live()
            slopes: dict[int, Scaled | None] = {target: Scaled(value.scale, None)}
            for i in reversed(graph.order):
                slope, node = slopes.pop(i, None), self.trace.nodes[i]
                if slope is None:
                    continue
                y: Any = node.out
                args: Sequence[Any] = node.args
                if len(stem) + 1 < self.order:
                    y = self._traced(i)
                    args = [self._traced(p) if p >= 0 else a for p, a in zip(node.parents, args, strict=True)]
                for k, p in graph.operands(i):
                    step = self._declared(node, k, y, args)
                    if step is not None:
                        slopes[p] = _plus(slopes.get(p), _times(slope, step))
            self._slopes[stem] = slopes
        return self._slopes[stem]

    def _declared(self, node: Node, k: int, y: Any, args: Sequence[Any]) -> Scaled | None:
        partial: Any = node.op.partials[k]  # type: ignore[union-attr]
        if y is node.out:
            partial = node.slopes.get(k, partial)
        if callable(partial):
            partial = partial(y, *args, **node.params)
        if isinstance(partial, int | float) and not isinstance(partial, np.generic):
            if isfinite(partial):
                return Scaled(float(partial), None) if partial else None
            partial = astype(partial, y.dtype, y)  # an array, so that it can be left out where it is not live
        kept = None if node is self.node else node.kept(k)
        if kept is not None:
            partial = np.where(kept, partial, 0.0)
        return Scaled(1.0, partial)

    def _traced(self, i: int) -> Traced:
        """The traced value of a node, the same object each time: sums of equal arrays become scales."""
        while len(self.values) < len(self.trace.nodes):
            self.values.append(Traced(self.trace, len(self.values), self.trace.nodes[len(self.values)].out))
        return self.values[i]

    def _mine(self, array: Any) -> bool:
        return isinstance(array, Traced) and array.home is self.trace

    def _stripped(self, array: Any) -> Any:
        return array.value if self._mine(array) else array


def shape_of_partials(node: Node, operands: Sequence[tuple[int, int]]) -> tuple[bool, bool]:
    """Whether the partials are the same for all values of the operands, and whether they act entry by entry.

    That is structure, so arrays without entries tell it, of a shape that goes with any constant.
    """
    assert isinstance(node.op, Elementwise)
    chosen = [k for k, _ in operands]
    declared = [node.op.partials[k] for k in chosen]
    if not any(callable(partial) for partial in declared):
        return True, True
    if any(np.ndim(value) for value in node.params.values()):
        return False, True
    trace, ndim = Trace(), node.out.ndim
    y = trace.input(_emptied(node.out, ndim))
    args = [trace.input(_emptied(a, ndim)) if k in chosen else _emptied(a, ndim) for k, a in enumerate(node.args)]
    values = [partial(y, *args, **node.params) if callable(partial) else partial for partial in declared]
    traced = any(isinstance(value, Traced) and value.home is trace for value in values)
    return not traced, all(n.op is None or isinstance(n.op, Elementwise) for n in trace.nodes)


def _emptied(x: Any, ndim: int) -> Any:
    x = value_of(x)
    return x.reshape(-1)[:0].reshape(0, *(1,) * ndim) if np.ndim(x) else x


def _times(a: Scaled, b: Scaled) -> Scaled:
    scale = a.scale * b.scale
    if a.array is None or b.array is None:
        return Scaled(scale, b.array if a.array is None else a.array)
    return Scaled(scale, a.array * b.array)


def _plus(a: Scaled | None, b: Scaled) -> Scaled | None:
    if a is None:
        return b
    if a.array is b.array:
        scale = a.scale + b.scale
        return Scaled(scale, a.array) if scale else None
    if a.array is not None and b.array is not None and a.scale == b.scale:
        return Scaled(a.scale, a.array + b.array)
    return Scaled(1.0, _full(a) + _full(b))


def _full(a: Scaled) -> Any:
    if a.array is None:
        return a.scale
    return a.array if a.scale == 1.0 else a.scale * a.array
