"""Shadows: arrays with a shape and no data, on which an accumulation is carried out to learn what it would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..algebra.factors import Factor, Shape, size_of
from ..algebra.labels import Axes, Label, label_of
from ..algebra.writing import Placed
from ..backend import Wrapped, zeros
from ..ops.edges import Edge, Linear
from ..prices import CALL, CALL_PER_MATRIX, MATMUL, MOVE
from ..strides import Shaped, View, in_common_order, row_major
from .graph import Graph

__all__ = ["Cost", "Ledger", "Shadow", "ShadowGraph"]


class Cost(NamedTuple):
    """A predicted price."""

    multiply_adds: int
    """Multiply-adds, in matmuls and elementwise products alike."""
    moved: int
    """Entries read or written outside of matmuls."""
    peak_bytes: int
    """Largest sum of arrays alive at once, local derivatives and the result not counted."""
    nanoseconds: float
    """Predicted time, on which the choice rests."""

    def and_then(self, other: Cost, times: int) -> Cost:
        """Of this, and then of something else so many times, one after the other."""
        return Cost(
            self.multiply_adds + times * other.multiply_adds,
            self.moved + times * other.moved,
            max(self.peak_bytes, other.peak_bytes),
            self.nanoseconds + times * other.nanoseconds,
        )


class Ledger:
    """What the shadows of one run would have done."""

    __slots__ = ("calls", "live", "matmul", "moved", "multiplied", "peak")

    def __init__(self) -> None:
        self.matmul = self.multiplied = self.moved = self.live = self.peak = 0
        self.calls = 0.0

    @property
    def one(self) -> Shadow:
        """The number one, of the narrowest type."""
        return Shadow((), np.dtype(np.float32), self)

    def cost(self) -> Cost:
        time = self.matmul * MATMUL + self.moved * MOVE + self.calls * CALL
        return Cost(self.matmul + self.multiplied, self.moved, self.peak, time)


class Shadow(Shaped):
    """An array without data: it does what blocks do to arrays, and enters it in the ledger."""

    __slots__ = ("base", "dtype", "ledger", "shape", "strides")
    __array_ufunc__ = None  # a NumPy array on the left leaves the operation to the shadow

    def __init__(
        self, shape: Sequence[int], dtype: Any, ledger: Ledger, base: Any = None, strides: Sequence[int] | None = None
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.ledger = ledger
        self.base = base  # a view keeps the memory of what it views
        self.strides = row_major(self.shape) if strides is None else tuple(strides)
        """In entries: which reshapes copy depends on them."""
        if base is None:
            ledger.live += self.nbytes
            ledger.peak = max(ledger.peak, ledger.live)

    def __del__(self) -> None:
        if self.base is None:
            self.ledger.live -= self.nbytes

    def _view(self, shape: Sequence[int], strides: Sequence[int], dtype: Any = None) -> Shadow:
        return Shadow(shape, dtype or self.dtype, self.ledger, self if self.base is None else self.base, strides)

    def _new(self, shape: Sequence[int], dtype: Any, moved: int, strides: Sequence[int] | None = None) -> Shadow:
        self.ledger.moved += moved * (2 if dtype.kind == "c" else 1)
        self.ledger.calls += 1
        return Shadow(shape, dtype, self.ledger, None, strides)

    # -- views ---------------------------------------------------------------------------------------------------------
    def transpose(self, axes: Sequence[int]) -> Shadow:
        return self._view([self.shape[k] for k in axes], [self.strides[k] for k in axes])

    def reshape(self, *shape: Any) -> Shadow:
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        known = prod(n for n in sizes if n >= 0)
        sizes = tuple(n if n >= 0 else self.size // max(known, 1) for n in sizes)
        view = View(self.shape, self.strides).reshaped(sizes)
        return self._new(sizes, self.dtype, 2 * self.size) if view is None else self._view(sizes, view.strides)

    def diagonal(self, axis1: int, axis2: int) -> Shadow:
        rest = [k for k in range(self.ndim) if k not in (axis1, axis2)]
        shape = [*(self.shape[k] for k in rest), min(self.shape[axis1], self.shape[axis2])]
        return self._view(shape, [*(self.strides[k] for k in rest), self.strides[axis1] + self.strides[axis2]])

    def __getitem__(self, index: tuple[Any, ...]) -> Shadow:
        shape, strides, axis = [], [], 0
        for item in index:
            if item is None:
                shape.append(1)
                strides.append(0)
                continue
            if isinstance(item, slice):
                start, stop, step = item.indices(self.shape[axis])
                shape.append(len(range(start, stop, step)))
                strides.append(self.strides[axis] * step)
            axis += 1
        return self._view([*shape, *self.shape[axis:]], [*strides, *self.strides[axis:]])

    @property
    def real(self) -> Shadow:
        """The real part, a view; of the same price as the imaginary one."""
        return self._view(self.shape, [2 * s for s in self.strides], np.empty(0, self.dtype).real.dtype)

    imag = real

    def spread(self, shape: Sequence[int]) -> Shadow:
        """The view over more axes. Where it repeats entries, its strides are such that a reshape has to copy."""
        packed = row_major(shape)
        return self._view(shape, packed if self.size == prod(shape) else [step + 1 for step in packed])

    # -- work ----------------------------------------------------------------------------------------------------------
    def sum(self, axis: tuple[int, ...]) -> Shadow:
        shape = [n for k, n in enumerate(self.shape) if k not in axis]
        return self._new(shape, self.dtype, self.size)

    def conjugate(self) -> Shadow:
        return self._new(self.shape, self.dtype, self.size, in_common_order(self.shape, [self.strides]))

    def astype(self, dtype: Any) -> Shadow:
        return self._new(self.shape, np.dtype(dtype), self.size, in_common_order(self.shape, [self.strides]))

    def take(self, positions: Any, axis: int) -> Shadow:
        shape = (*self.shape[:axis], *np.shape(positions), *self.shape[axis + 1 :])
        return self._new(shape, self.dtype, 2 * prod(shape))

    def added_at(self, positions: Any, size: int) -> Shadow:
        return self._new((self.shape[0], size), self.dtype, 2 * self.size + self.shape[0] * size)

    def embedded(self, labels: Sequence[Label], axes: Axes, shape: Sequence[int]) -> Shadow:
        return self._new(shape, self.dtype, prod(shape) + self.size)

    def superposed(self, parts: Sequence[Placed], shape: Sequence[int]) -> Any:
        """The others added into the first array, which nothing else holds, or into a new one."""
        first = parts[0][0]
        if tuple(first.shape) != tuple(shape):
            first = self._new(shape, self.dtype, prod(shape) + size_of(parts[0][1]))
        for _, labels, _ in parts[1:]:
            self.ledger.multiplied += size_of(labels)
            self.ledger.moved += 2 * size_of(labels)
            self.ledger.calls += 1
        return first

    def _elementwise(self, other: Any) -> Shadow:
        shape = np.broadcast_shapes(self.shape, getattr(other, "shape", ()))
        dtype = np.result_type(self.dtype, other.dtype if hasattr(other, "dtype") else other)
        self.ledger.multiplied += prod(shape)
        views = [View(x.shape, x.strides).broadcast(shape) for x in (self, other) if isinstance(x, Shadow)]
        return self._new(shape, dtype, prod(shape), in_common_order(shape, [view.strides for view in views]))

    __mul__ = __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = _elementwise

    def __matmul__(self, other: Shadow) -> Shadow:
        batch = np.broadcast_shapes(self.shape[:-2], other.shape[:-2])
        rows, inner, columns = self.shape[-2], self.shape[-1], other.shape[-1]
        dtype = np.result_type(self.dtype, other.dtype)
        self.ledger.matmul += prod(batch) * rows * inner * columns * (4 if dtype.kind == "c" else 1)
        self.ledger.calls += prod(batch) * CALL_PER_MATRIX / CALL
        shape = (*batch, rows, columns)
        return self._new(shape, dtype, prod(shape))


# -- graphs ------------------------------------------------------------------------------------------------------------
HELD = object()
"""What the shadows of local derivatives are views of: memory that exists already. (Not the graph: no cycles.)"""


class ShadowGraph(Graph):
    """A graph whose edges carry shadows. Its edges' own arrays exist already and are not counted as memory."""

    def __init__(self, graph: Graph, ledger: Ledger) -> None:
        graph.mark_live()
        self.__dict__.update(graph.__dict__)
        self._graph = graph
        self._ledger = ledger
        self._edges = {}

    def edge(self, i: int, k: int) -> Edge:
        if (i, k) not in self._edges:
            edge = self._graph.edge(i, k)
            parts = [p._replace(factors=tuple(map(self.shadow, p.factors))) for p in edge.parts]
            linear = edge.linear
            if linear is not None:
                inp, out, like = parts[0].inp, parts[0].out, self.nodes[i].out
                push, pull = _moves(linear.push, linear, inp, out, like), _moves(linear.pull, linear, out, inp, like)
                fewer = linear.fewer and (lambda k, some: alike)  # of any number of positions
                linear = alike = linear._replace(push=push, pull=pull, fewer=fewer)
            self._edges[i, k] = edge._replace(parts=parts, linear=linear)
        return self._edges[i, k]

    def wholes(self) -> dict[int, Any]:
        return {}

    def shadow(self, factor: Factor) -> Factor:
        array = factor.array
        if not hasattr(array, "shape"):
            return factor
        plain = array.outline() if isinstance(array, Wrapped) else array  # it lies in memory as the plain one does
        strides = [s // array.dtype.itemsize for s in plain.strides] if hasattr(plain, "strides") else None
        return Factor(Shadow(array.shape, array.dtype, self._ledger, base=HELD, strides=strides), factor.axes)


def _moves(apply: Callable[[Any], Any], linear: Linear, source: Axes, target: Axes, like: Any) -> Callable[[Any], Any]:
    """What a linear map that is no block does to a shadow with one more axis for the seeds.

    A uniform map is tried on an array of one position to see whether what it returns is a view, which no reshape keeps.
    """
    sides: list[list[Any]] = [[label_of(digit) for (digit,) in axes] for axes in (source, target)]
    given, made = sides  # windows have some samples alone
    passing = {k: given.index(label) for k, label in enumerate(made) if label in given}
    with_seeds: Callable[[Any, int], Shape] = lambda x, seeds: (*x, seeds) if linear.behind else (seeds, *x)  # noqa: E731
    shows = False
    if linear.uniform:
        shape = [1 if k in passing.values() else label.size for k, label in enumerate(given)]
        one = zeros(with_seeds(shape, 1), np.float32, like)
        shows = np.may_share_memory(apply(one), one)

    def move(x: Shadow) -> Shadow:
        # along an axis that passes, a uniform map gets only as many entries as there are different ones
        own, seeds = (x.shape[:-1], x.shape[-1]) if linear.behind else (x.shape[1:], x.shape[0])
        out = with_seeds([own[passing[k]] if k in passing else label.size for k, label in enumerate(made)], seeds)
        Shadow((0 if linear.uniform else 2, x.size + prod(out)), x.dtype, x.ledger)  # made on the way, and let go
        return x._view(out, [s + 1 for s in row_major(out)]) if shows else x._new(out, x.dtype, x.size + prod(out))

    return move
