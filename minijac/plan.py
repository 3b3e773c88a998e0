"""Plans: the accumulation orders of a recorded graph, priced on labels and sizes alone, and the choice among them.

A mode is a contraction order. *Forward* multiplies blocks from the inputs' side, *reverse* from the outputs' side.
*Mixed* cuts the graph at the nodes that every path crosses, takes each segment as one block, and multiplies the chain
of segments in the order that costs least.

Prices come from running the accumulation on shadows: arrays that have a shape and no data, and that count what would be
done to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .accumulate import Graph
from .block import Block
from .factors import Factor
from .labels import Label, Window
from .ops.families import Edge, Linear, Part

__all__ = ["Candidate", "Cost", "Plan", "accumulate", "candidates", "chain_of", "plan_for", "signature"]

# What a multiply-add in a matmul, an entry read or written elsewhere, and a call cost on a CPU, in nanoseconds. Only
# their ratios matter; measured with float32 on one core.
MATMUL, MOVE, CALL, CALL_PER_MATRIX = 0.05, 1.0, 2000.0, 200.0

Order = Any
"""How to multiply a chain: the index of a segment, or a pair of orders (output's side, input's side)."""


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


class Plan(NamedTuple):
    """An accumulation order: ``"forward"``, ``"reverse"``, or ``"mixed"`` with the order of its chain."""

    mode: str
    order: Order = None


class Ledger:
    """What the shadows of one run would have done."""

    __slots__ = ("calls", "live", "matmul", "moved", "multiplied", "peak")

    def __init__(self) -> None:
        self.matmul = self.multiplied = self.moved = self.live = self.peak = 0
        self.calls = 0.0

    def cost(self) -> Cost:
        time = self.matmul * MATMUL + self.moved * MOVE + self.calls * CALL
        return Cost(self.matmul + self.multiplied, self.moved, self.peak, time)


class Shadow:
    """An array without data: it does what blocks do to arrays, and enters it in the ledger."""

    __slots__ = ("base", "dtype", "ledger", "shape")
    __array_ufunc__ = None  # a NumPy array on the left leaves the operation to the shadow

    def __init__(self, shape: Sequence[int], dtype: Any, ledger: Ledger, base: Any = None) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.ledger = ledger
        self.base = base  # a view keeps the memory of what it views
        if base is None:
            ledger.live += self.nbytes
            ledger.peak = max(ledger.peak, ledger.live)

    def __del__(self) -> None:
        if self.base is None:
            self.ledger.live -= self.nbytes

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * int(self.dtype.itemsize)

    def _view(self, shape: Sequence[int]) -> Shadow:
        return Shadow(shape, self.dtype, self.ledger, self if self.base is None else self.base)

    def _new(self, shape: Sequence[int], dtype: Any, moved: int) -> Shadow:
        self.ledger.moved += moved
        self.ledger.calls += 1
        return Shadow(shape, dtype, self.ledger)

    def transpose(self, axes: Sequence[int]) -> Shadow:
        return self._view([self.shape[k] for k in axes])

    def reshape(self, *shape: Any) -> Shadow:
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        known = prod(n for n in sizes if n >= 0)
        return self._view([n if n >= 0 else prod(self.shape) // max(known, 1) for n in sizes])

    def diagonal(self, axis1: int, axis2: int) -> Shadow:
        rest = [n for k, n in enumerate(self.shape) if k not in (axis1, axis2)]
        return self._view([*rest, min(self.shape[axis1], self.shape[axis2])])

    def __getitem__(self, index: tuple[Any, ...]) -> Shadow:
        shape, axis = [], 0
        for item in index:
            if item is None:
                shape.append(1)
                continue
            if isinstance(item, slice):
                shape.append(len(range(*item.indices(self.shape[axis]))))
            axis += 1
        return self._view([*shape, *self.shape[axis:]])

    def sum(self, axis: tuple[int, ...]) -> Shadow:
        shape = [n for k, n in enumerate(self.shape) if k not in axis]
        return self._new(shape, self.dtype, prod(self.shape))

    def astype(self, dtype: Any) -> Shadow:
        return self._new(self.shape, np.dtype(dtype), prod(self.shape))

    def spread(self, shape: Sequence[int]) -> Shadow:
        return self._view(shape)

    def embedded(self, shape: Sequence[int]) -> Shadow:
        return self._new(shape, self.dtype, prod(shape) + prod(self.shape))

    def _elementwise(self, other: Any) -> Shadow:
        shape = np.broadcast_shapes(self.shape, getattr(other, "shape", ()))
        dtype = np.result_type(self.dtype, other.dtype) if hasattr(other, "dtype") else self.dtype
        size = prod(shape)
        self.ledger.multiplied += size
        return self._new(shape, dtype, size)

    __mul__ = __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = _elementwise

    def __matmul__(self, other: Shadow) -> Shadow:
        batch = np.broadcast_shapes(self.shape[:-2], other.shape[:-2])
        rows, inner, columns = self.shape[-2], self.shape[-1], other.shape[-1]
        self.ledger.matmul += prod(batch) * rows * inner * columns
        self.ledger.calls += prod(batch) * CALL_PER_MATRIX / CALL
        shape = (*batch, rows, columns)
        return self._new(shape, np.result_type(self.dtype, other.dtype), prod(shape))


class ShadowGraph(Graph):
    """A graph whose edges carry shadows."""

    def __init__(self, graph: Graph, ledger: Ledger) -> None:
        self.__dict__.update(graph.__dict__)
        self._graph = graph
        self._ledger = ledger
        self._edges = {}

    def edge(self, i: int, k: int) -> Edge:
        if (i, k) not in self._edges:
            edge = self._graph.edge(i, k)
            parts = [Part(p.out, p.inp, tuple(map(self._shadow, p.factors)), p.scale) for p in edge.parts]
            linear = edge.linear and Linear(
                self._map(edge.out_shape), self._map(edge.inp_shape), edge.linear.uniform
            )
            self._edges[i, k] = Edge(edge.out_shape, edge.inp_shape, parts, linear)
        return self._edges[i, k]

    def _shadow(self, factor: Factor) -> Factor:
        if not hasattr(factor.array, "shape"):
            return factor
        shadow = Shadow(factor.array.shape, factor.array.dtype, self._ledger, base=self)  # not counted as memory
        return Factor(shadow, factor.axes)

    def _map(self, shape: tuple[int, ...]) -> Callable[[Any], Any]:
        def move(x: Any) -> Any:
            return x._new((x.shape[0], *shape), x.dtype, prod(x.shape) + x.shape[0] * prod(shape))

        return move


# -- chains --------------------------------------------------------------------------------------------------------------
def chain_of(graph: Graph, source: int, target: int) -> tuple[int, ...]:
    """The nodes that every path from one node to another crosses, both ends included.

    Sweeps the graph in order, and notes where all open paths meet in one node.
    """
    below = {target}
    for i in reversed(graph.order):
        if i in below:
            below.update(p for _, p in graph.operands(i))
    last_use: dict[int, int] = {}
    for i in graph.order:
        if i in below and i <= target:
            for _, p in graph.operands(i):
                last_use[p] = i
    reached, cuts = {source}, [source]
    pending: set[int] = {source}  # reached values that are still to be used
    for i in graph.order:
        if i not in below or i > target or not any(p in reached for _, p in graph.operands(i)):
            continue
        reached.add(i)
        pending = {p for p in pending if last_use.get(p, -1) > i}
        if not pending:
            cuts.append(i)
        pending.add(i)
    return tuple(cuts)


def segments(graph: Graph, chain: Sequence[int], one: Any) -> list[Block]:
    """The block of each segment, from the input's side: from one cut to the next, in the direction that suits it."""
    return [_segment(graph, a, b, one) for a, b in zip(chain, chain[1:], strict=False)]


def _segment(graph: Graph, a: int, b: int, one: Any) -> Block:
    part = graph.between(a, b)
    edges = [(i, k, p) for i in part.order for k, p in part.operands(i)]
    if len(edges) == 1:
        edge = part.edge(edges[0][0], edges[0][1])
        if edge.linear is None:
            return edge.block()
    return part.forward({a: _identity(graph, a, one)})[b]


def multiply_chain(blocks: Sequence[Block], order: Order) -> Block:
    """The product of a chain of blocks, listed from the input's side, in the given order."""
    if isinstance(order, int):
        return blocks[order]
    after, before = order
    return multiply_chain(blocks, after).after(multiply_chain(blocks, before))


def cheapest_order(blocks: Sequence[Block], ledger: Ledger) -> Order:
    """Dynamic programming over where to split the chain, priced by composing shadows.

    Blocks keep products of factors apart, so what a composition costs is what it contracts, not what it collects.
    """
    n = len(blocks)
    best: dict[tuple[int, int], tuple[float, Order, Block]] = {(i, i): (0.0, i, b) for i, b in enumerate(blocks)}
    for width in range(1, n):
        for i in range(n - width):
            j = i + width
            for k in range(i, j):
                low, high = best[i, k], best[k + 1, j]
                if (i, j) in best and low[0] + high[0] >= best[i, j][0]:
                    continue
                before = ledger.cost().nanoseconds
                block = high[2].after(low[2])
                if width == n - 1:
                    _write(block, ledger)
                spent = low[0] + high[0] + ledger.cost().nanoseconds - before
                if (i, j) not in best or spent < best[i, j][0]:
                    best[i, j] = spent, (high[1], low[1]), block
    return best[0, n - 1][1]


# -- the choice ------------------------------------------------------------------------------------------------------------
class Candidate(NamedTuple):
    """A plan with its price."""

    plan: Plan
    cost: Cost


def accumulate(graph: Graph, plan: Plan, inputs: Sequence[int], outputs: Sequence[int], one: Any) -> dict[Any, Block]:
    """The block of each (output, input) pair of nodes, in the order of the plan."""
    result: dict[Any, Block] = {}
    if plan.mode == "forward":
        for i in inputs:
            blocks = graph.forward({i: Block.identity(graph.nodes[i].out.shape, one)})
            result |= {(o, i): block for o, block in blocks.items()}
    elif plan.mode == "reverse":
        for o in outputs:
            blocks = graph.reverse({o: Block.identity(graph.nodes[o].out.shape, one)})
            result |= {(o, i): block for i, block in blocks.items()}
    else:
        for o in outputs:
            for i in inputs:
                part = graph.between(i, o)
                if o in part.outputs:
                    blocks_of = segments(part, chain_of(part, i, o), one)
                    order = plan.order.get((outputs.index(o), inputs.index(i)))
                    result[o, i] = multiply_chain(blocks_of, order) if blocks_of else _identity(graph, i, one)
    return result


def _identity(graph: Graph, i: int, one: Any) -> Block:
    return Block.identity(graph.nodes[i].out.shape, one)


def candidates(graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> list[Candidate]:
    """Forward, reverse and mixed, each with its predicted cost."""
    plans = [Plan("forward"), Plan("reverse"), mixed_plan(graph, inputs, outputs)]
    return [Candidate(plan, price(graph, plan, inputs, outputs)) for plan in plans]


def mixed_plan(graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> Plan:
    """The cheapest order of each chain between an input and an output."""
    orders: dict[tuple[int, int], Order] = {}
    for m, o in enumerate(outputs):
        for n, i in enumerate(inputs):
            ledger = Ledger()
            part = ShadowGraph(graph, ledger).between(i, o)
            if o in part.outputs and o != i:
                orders[m, n] = cheapest_order(segments(part, chain_of(part, i, o), _one(ledger)), ledger)
    return Plan("mixed", orders)


def _one(ledger: Ledger) -> Shadow:
    return Shadow((), np.dtype(np.float32), ledger)


def price(graph: Graph, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> Cost:
    """Carry a plan out on shadows."""
    ledger = Ledger()
    blocks = accumulate(ShadowGraph(graph, ledger), plan, inputs, outputs, _one(ledger))
    for block in blocks.values():
        _write(block, ledger)
    return ledger.cost()


def _write(block: Block, ledger: Ledger) -> None:
    """The price of making a block dense: each term's factors multiplied into place."""
    for term in block.terms:
        size = prod(label.size for label in term.labels())
        ledger.moved += size * max(len(term.factors), 1)
        ledger.multiplied += size * max(len(term.factors) - 1, 0)
        ledger.calls += max(len(term.factors), 1)


def signature(graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    """What a plan depends on: operations, shapes, dtypes and how they are connected."""
    rows = []
    for i in graph.order:
        node = graph.nodes[i]
        shapes = tuple([getattr(arg, "shape", ()) for arg in node.args])
        params = _frozen(tuple(node.params.values()), {}) if node.params else ()
        rows.append((node.op.name, node.parents, shapes, params, node.out.dtype.char))  # type: ignore[union-attr]
    shapes = tuple([graph.nodes[i].out.shape for i in inputs])
    return tuple(rows), tuple(inputs), tuple(outputs), shapes


def _frozen(value: Any, number: dict[Label, int]) -> Any:
    """A hashable stand-in: arrays by shape, labels by order of appearance."""
    if isinstance(value, Label):
        return number.setdefault(value, len(number)), value.size
    if isinstance(value, Window):
        return tuple(_frozen(item, number) for item in tuple(value))
    if isinstance(value, tuple | list):
        return tuple([_frozen(item, number) for item in value])
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    return getattr(value, "shape", value) if not isinstance(value, dict) else str(value)


_PLANS: dict[Any, Plan] = {}


def plan_for(graph: Graph, mode: Any, inputs: Sequence[int], outputs: Sequence[int]) -> Plan:
    """The plan of a mode; ``"auto"`` is the candidate of least predicted time, found once for each structure."""
    if isinstance(mode, Plan):
        return mode
    if mode in ("forward", "reverse"):
        return Plan(mode)
    key = mode, signature(graph, inputs, outputs)
    plan = _PLANS.get(key)
    if plan is None:
        if mode == "mixed":
            plan = mixed_plan(graph, inputs, outputs)
        else:
            plan = min(candidates(graph, inputs, outputs), key=lambda c: c.cost.nanoseconds).plan
        if len(_PLANS) >= 1024:
            _PLANS.clear()
        _PLANS[key] = plan
    return plan
