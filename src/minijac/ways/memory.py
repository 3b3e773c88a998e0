"""A bound on memory: what a recorded function and its accumulation hold, and the work in pieces that stay below it.

A function sees its whole batch, once; what it recorded is cut afterwards. The labels say where the samples are, so the
local derivatives of some samples alone are those of the same operations on slices of their operands, in a window of the
samples' axis (`Samples`). Samples are taken together as long as they fit, then seeds. What is held is counted on the
recorded arrays; what an accumulation adds is rehearsed on shadows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.plan import Plan, accumulate, plan_for, write
from ..accumulation.recording import Prepared, sample_places
from ..accumulation.results import Blocks, Results, accumulate_chunk, assemble, ends, finished, result_dtype
from ..accumulation.seeds import Range, seeds, unit
from ..accumulation.shadow import Cost, Ledger, ShadowGraph
from ..algebra.block import Block
from ..algebra.factors import substitute
from ..algebra.labels import Axes, Label, Substitution, axis_of, axis_size, label_of, window
from ..algebra.terms import Term
from ..arguments import Options, flatten, shown
from ..backend import is_array
from ..errors import InputError
from ..memo import Memo
from ..ops.edges import Edge, Part, without_ones
from ..ops.families import REGISTRY, Elementwise, Multilinear
from ..places import Place, Where
from ..tape.trace import Node
from ..tape.traced import Traced
from .thorough import mark_thoroughly

__all__ = [
    "Samples",
    "Way",
    "at_a_time",
    "held_bytes",
    "live_bytes",
    "local_arrays",
    "owner",
    "seeds_at_a_time",
    "ways",
    "within_bytes",
]

MARGIN = 1 / 16
"""The part of the bound kept free for what is not counted: Python's objects, buffers inside NumPy."""


class Way(NamedTuple):
    """A way to accumulate: a plan, how many samples and how many seeds at a time (None: all), and what it takes."""

    plan: Plan
    samples: int | None
    chunk_size: int | None
    held: int
    """Bytes of recorded values and of the local derivatives of one piece."""
    cost: Cost
    """Of all pieces; its peak is that of one, beside what is held."""

    @property
    def peak_bytes(self) -> int:
        return self.held + self.cost.peak_bytes


# -- some of the samples -----------------------------------------------------------------------------------------------
class Samples(Graph):
    """A recorded graph as some of its samples see it: local derivatives computed for them alone, in their window.

    Operations whose parameters may tell of the whole batch have the derivative of all samples, and of that the window.
    """

    def __init__(self, whole: Graph, places: dict[int, Where], batch: int, samples: Range) -> None:
        whole.mark_live()
        self.__dict__.update(whole.__dict__)
        self._whole, self._places, self._batch, self._samples = whole, places, batch, samples
        self._edges = {}

    def edge(self, i: int, k: int) -> Edge:
        if (i, k) not in self._edges:
            self._edges[i, k] = self._cut(i, k) or self._whole.edge(i, k)
        return self._edges[i, k]

    @property
    def given_all(self) -> bool:
        """Whether maps are known of all samples alone, as those of black boxes are."""
        edges = [self.edge(i, k) for i in self.order if i in self._places for k, _ in self.operands(i)]
        maps = [edge.linear for edge in edges if type(edge) is Edge and edge.linear is not None]
        return any(not (linear.uniform or linear.fewer) for linear in maps)

    def _cut(self, i: int, k: int) -> Edge | None:
        node, place = self.nodes[i], self._places.get(i)
        if not isinstance(place, Place) or place.axis < 0 or node.out.shape[place.axis] != place.stride * self._batch:
            return None  # no samples, or not outermost on their axis
        some = slice(*[n * place.stride for n in self._samples])
        key = "axes of samples", i, place.axis
        if key not in self.structure.found:
            self.structure.found[key] = _axes_of_samples(node, place.axis)
        axes = self.structure.found[key]
        if axes is None:
            return _window_of(self._whole.edge(i, k), place.axis, some)
        edge = _edge_of_slices(node, k, axes, place.axis, some)
        placed = partial(_placed, size=node.out.shape[place.axis], start=some.start)
        parts = [Part(placed(p.out, (place.axis,)), placed(p.inp, axes[k]), *p[2:]) for p in edge.parts]
        kind = Edge if edge.linear is None else _OfSome
        return kind(node.out.shape, np.shape(node.args[k]), parts, edge.linear)


def _axes_of_samples(node: Node, axis: int) -> list[tuple[int, ...]] | None:
    """The axes of each operand that go with an axis of the output; None for an operation that is not to be cut."""
    op, shapes = node.op, [np.shape(arg) for arg in node.args]
    assert op is not None and op.edge is not None
    if isinstance(op, Elementwise | Multilinear):
        parts = op.labels(shapes, node.out.shape, node.params)
        return None if parts is None else [_axes_with(part, axis) for part in parts]
    if REGISTRY.get(op.name) is not op or op.relation is not None or op.inert or node.params:
        return None
    ties = [{_axes_with(part, axis) for part in op.edge(node, k).parts} for k in range(len(shapes))]
    return [own for (own,) in ties] if all(len(own) == 1 for own in ties) else None


def _axes_with(part: Part, axis: int) -> tuple[int, ...]:
    """The axes of the operand that go with an axis of the output."""
    return tuple([j for j, own in enumerate(part.inp) if own == part.out[axis]])


def _edge_of_slices(node: Node, k: int, axes: Sequence[Sequence[int]], axis: int, some: slice) -> Edge:
    """The local derivative of some samples alone, which are on these axes of the operands, and on one of the output."""

    def sliced(x: Any, along: Sequence[int]) -> Any:
        return x[tuple(some if j in along else slice(None) for j in range(x.ndim))] if along else x

    args = tuple(sliced(arg, own) for arg, own in zip(node.args, axes, strict=True))
    part = Node(node.op, node.parents, args, node.params, sliced(node.out, (axis,)), node.where)
    lead = {n: np.ndim(x) - node.out.ndim + axis for n, x in node.slopes.items()}
    part.slopes = {n: sliced(x, (lead[n],) if lead[n] >= 0 and x.shape[lead[n]] > 1 else ())
                   for n, x in node.slopes.items()}  # fmt: skip
    if node.live is not None:
        part.live = sliced(node.live, (axis,))
    part.varying = {j: sliced(mask, axes[j]) for j, mask in node.varying.items()}
    edge: Edge = node.op.edge(part, k)  # type: ignore[union-attr, misc]
    if not isinstance(node.op, Elementwise):
        edge = edge if part.live is None else edge.without_dead(part.live)
        edge = edge.where_varying(part.varying[k]) if k in part.varying else edge
    return edge


def _window_of(edge: Edge, axis: int, some: slice) -> Edge | None:
    """Of a local derivative some positions on an axis of the output alone; None where that changes nothing, or a map is
    not known for them."""
    linear, parts = edge.linear, []
    if linear is not None and not linear.uniform:
        linear = linear.fewer and linear.fewer(axis, some)
    if (linear is None) != (edge.linear is None):
        return None
    for part in edge.parts:
        label, n = part.out[axis][0], some.stop - some.start
        if type(label) is not Label or part.out[axis] != (label,):
            return None
        change = Substitution(label, Label(n), None, some.start, 1)
        data = change if n > 1 else change._replace(high=None)  # a factor has no labels of size one
        factors = tuple([substitute(factor, data) for factor in part.factors])
        parts.append(Part(change.in_axes(part.out), change.in_axes(part.inp), factors, *part[3:]))
    return (Edge if linear is None else _OfSome)(edge.out_shape, edge.inp_shape, parts, linear)


class _OfSome(Edge):
    """A linear map that is no block, of some samples alone: the axes that they are on are windows in its part."""

    __slots__ = ()

    def after(self, block: Block) -> Block:
        alone, given, made = self._alone()
        return made.after(alone.after(given.T.after(block)))

    def before(self, block: Block) -> Block:
        alone, given, made = self._alone()
        return alone.before(block.after(made)).after(given.T)

    def _alone(self) -> tuple[Edge, Block, Block]:
        """The map of their arrays, and what puts such arrays, of the operand and the output, among those of all."""
        (part,) = self.parts
        own: list[Any] = [tuple([(label_of(digit),) for (digit,) in axes]) for axes in part[:2]]
        ends = zip((self.out_shape, self.inp_shape), part[:2], own, strict=True)
        made, given = [Block(whole, _sizes(axes), [Term(without_ones(windows), without_ones(axes)).renamed()])
                       for whole, windows, axes in ends]  # fmt: skip
        return Edge(made.inp_shape, given.inp_shape, [Part(*own)], self.linear), given, made


def _sizes(axes: Axes) -> tuple[int, ...]:
    return tuple([axis_size(axis) for axis in axes])


def _placed(axes: Axes, along: Sequence[int], size: int, start: int) -> Axes:
    """Axes of some samples as a window among all of them."""
    return tuple(window(axis[0], size, start, 1) if j in along else axis for j, axis in enumerate(axes))  # type: ignore[arg-type]


def _windowed(block: Block, axis: int | None, samples: Range | None) -> Block:
    if samples is None or axis is None:
        return block
    start, stop = samples
    axes = [axis_of(n) for n in block.out_shape]
    axes[axis] = window(Label(stop - start) if stop - start > 1 else None, block.out_shape[axis], start, 1)
    term = Term(tuple(axes), tuple(axes))
    return Block(block.out_shape, block.out_shape, [term], block.one).after(block)


# -- what is held ------------------------------------------------------------------------------------------------------
def held_bytes(ready: Prepared, args: Sequence[Any], graph: Graph | None = None) -> int:
    """Bytes of the arrays that recording made: values, constants that go with the samples, local derivatives.

    `graph` has the local derivatives that are held, those of all samples or of some.
    """
    graph = ready.graph if graph is None else graph
    theirs = [*flatten(tuple(args))[0]]
    made: list[Any] = list(ready.run.outputs)
    for node in ready.run.nodes:
        made += [node.out, node.live, *node.varying.values(), *node.params.values()]
        for parent, arg in zip(node.parents, node.args, strict=True):
            if parent < 0 and is_array(arg):
                # a captured weight is not ours; a mask, or what has an axis of this many samples, was made on the way
                (made if arg.dtype.kind == "b" or ready.batch in arg.shape else theirs).append(arg)
    made += local_arrays(graph)
    not_ours = {id(owner(array)) for array in theirs}
    owners = {id(owner): owner for owner in map(owner, filter(is_array, made))}
    copies = sum(y.nbytes for y in ready.outputs)  # the value is handed out as a copy
    return copies + sum(owner.nbytes for key, owner in owners.items() if key not in not_ours)


def local_arrays(graph: Graph) -> list[Any]:
    """The data of a graph's local derivatives."""
    edges = (graph.edge(i, k) for i in graph.order for k, _ in graph.operands(i))
    return [factor.array for edge in edges for part in edge.parts for factor in part.factors]


def owner(array: Any) -> Any:
    """The array whose memory a view shows."""
    while is_array(getattr(array, "base", None)):
        array = array.base
    return array


# -- what an accumulation adds -----------------------------------------------------------------------------------------
class _Rehearsal:
    """The ways to accumulate a recorded function, with what they take."""

    def __init__(self, ready: Prepared, args: Sequence[Any], options: Options) -> None:
        self.ready, self.args, self.options = ready, args, options
        self.in_axis, self.out_axis = ends(ready, Plan("forward")), ends(ready, Plan("reverse"))
        cut = ready.batch is not None and ready.batch > 1 and options.on_mixing == "raise"
        cut = cut and not options.structured and not ready.graph.by_positions
        self.places = sample_places(ready)[0] if cut else {}
        self.batch = ready.batch if cut and not self._given_all() else None
        """How many samples there are to cut; None where they stay together."""

    def _given_all(self) -> bool:
        """Whether each piece would be the work of all samples."""
        ready, key = self.ready, ("given all", self.ready.batch, *self.ready.in_axes)
        found = ready.graph.structure.found
        if key not in found:
            found[key] = Samples(ready.graph, self.places, ready.batch or 1, (0, 1)).given_all
        return bool(found[key])

    def graph(self, samples: Range | None) -> Graph:
        if samples is None or self.batch is None or samples[1] - samples[0] == self.batch:
            return self.ready.graph
        return Samples(self.ready.graph, self.places, self.batch, samples)

    def rehearsed(self, plan: Plan, count: int | None, chunk_size: int | None) -> Way:
        """What it takes to work through `count` samples at a time."""
        count = None if count == self.batch else count
        ready, options = self.ready, self.options
        key = (ready.graph.structure, tuple(ready.in_axes), tuple(ready.out_axes), str(plan), count, chunk_size,
               options.structured, options.on_mixing)  # fmt: skip
        return _REHEARSED.get(key, lambda: self._rehearsed(plan, count, chunk_size))

    def _rehearsed(self, plan: Plan, count: int | None, chunk_size: int | None) -> Way:
        samples = None if count is None else (0, count)
        graph = self.graph(samples)
        if samples is None and chunk_size is None:
            cost = self._whole(plan, graph)
        else:
            pieces = 1 if count is None or self.batch is None else ceil(self.batch / count)
            cost = self._in_pieces(plan, graph, samples, chunk_size, pieces)
        return Way(plan, count, chunk_size, held_bytes(self.ready, self.args, graph), cost)

    def _whole(self, plan: Plan, graph: Graph) -> Cost:
        """All at once: the result is written once, not added to."""
        ready, ledger = self.ready, Ledger()
        blocks = accumulate(ShadowGraph(graph, ledger), plan, ready.run.inputs, ready.nodes, ledger.one)
        before = ledger.peak
        if not self.options.structured:  # the result does not exist yet
            before -= sum(_result_bytes(ready, y, x) for y in ready.outputs for x in ready.sources)
        ledger.peak = ledger.live
        self._write(blocks, None, ledger, True)
        return ledger.cost()._replace(peak_bytes=max(before, ledger.peak))

    def _in_pieces(self, plan: Plan, graph: Graph, samples: Range | None, chunk_size: int | None, pieces: int) -> Cost:
        total = Cost(0, 0, 0, 0.0)
        for end in self.ends(plan):
            ledger = Ledger()
            seeds = list(self.seeds(plan, end, chunk_size, samples, ledger.one))
            if seeds:  # all alike: the first stands for the others
                blocks = self.piece(ShadowGraph(graph, ledger), plan, end, seeds[0], ledger.one)
                self._write(blocks, samples, ledger, False)
                total = total.and_then(ledger.cost(), len(seeds) * pieces)
        return total

    def _write(self, blocks: Blocks, samples: Range | None, ledger: Ledger, fresh: bool) -> None:
        for (o, i), block in self.own(blocks, samples).items():
            if not self.options.structured:
                write(
                    finished(block, self.out_axis[o], self.in_axis[i], self.options.on_mixing == "full"), ledger, fresh
                )

    # -- the pieces ----------------------------------------------------------------------------------------------------
    def ends(self, plan: Plan) -> list[int | None]:
        """The nodes at which a plan has its seeds; a mixed one has them everywhere at once."""
        return [None] if plan.mode == "mixed" else [*ends(self.ready, plan)]

    def seeds(
        self, plan: Plan, end: int | None, chunk_size: int | None, samples: Range | None, one: Any
    ) -> Iterator[Block | None]:
        if end is None:
            return iter([None])
        axis = ends(self.ready, plan)[end]
        return seeds(self.ready.graph.nodes[end].out.shape, axis, chunk_size, one, samples)

    def piece(self, graph: Graph, plan: Plan, end: int | None, seed: Block | None, one: Any) -> Blocks:
        if end is None or seed is None:
            return accumulate(graph, plan, self.ready.run.inputs, self.ready.nodes, one)
        return accumulate_chunk(graph, plan, end, seed)

    def own(self, blocks: Blocks, samples: Range | None) -> Blocks:
        """Only the outputs of some samples."""
        return {(o, i): _windowed(block, self.out_axis[o], samples) for (o, i), block in blocks.items()}

    # -- the choice ----------------------------------------------------------------------------------------------------
    def ways(self, room: float) -> list[Way]:
        """For each order the most samples at a time that fit, with as many seeds; or else the least there is."""
        mode = self.options.mode if isinstance(self.options.mode, str) else self.options.mode.mode
        found = []
        for direction in ("mixed", "forward", "reverse"):
            if mode not in ("auto", "mixed", direction) or (direction == "mixed" and self.options.chunk_size):
                continue
            plan = Plan(direction)
            if direction == "mixed":
                plan = self._mixed_plan()
            every, *some = self._chunk_sizes(direction)
            way = self._most_samples(plan, every, room)  # structure may take less than one dense seed
            if way.peak_bytes > room and some:
                way = self._most_samples(plan, some[-1], room)
                if way.peak_bytes <= room:
                    fewer = (self._most_samples(plan, size, room) for size in some)
                    way = next(way for way in fewer if way.peak_bytes <= room)
            found.append(way)
        return found

    def _mixed_plan(self) -> Plan:
        """Found on a few of the samples, whose local derivatives are no burden."""
        ready, few = self.ready, min(self.batch or 1, PROBES[-1])
        wanted = self.options.mode if self.options.mode != "auto" else "mixed"
        structure = (ready.graph.structure, few) if self.batch else ready.graph.structure
        graph = self.graph((0, few) if self.batch else None)
        return plan_for(graph, wanted, ready.run.inputs, ready.nodes, structure)

    def _chunk_sizes(self, direction: str) -> list[int | None]:
        """All seeds at once, and then halves of them."""
        ready, given = self.ready, self.options.chunk_size
        if direction == "mixed":
            return [None]
        ends = (ready.sources, ready.in_axes) if direction == "forward" else (ready.outputs, ready.out_axes)
        seeds_of = [prod(n for k, n in enumerate(x.shape) if k != axis) for x, axis in zip(*ends, strict=True)]
        sizes: list[int | None] = [given]
        size = min(max(seeds_of, default=1), given or max(seeds_of, default=1))
        while size > 1:
            size = ceil(size / 2)
            sizes.append(size)
        return sizes

    def _most_samples(self, plan: Plan, chunk_size: int | None, room: float) -> Way:
        """As many samples at a time as fit, or one. What it takes grows with them, at most in a straight line."""
        if self.batch is None:
            return self.rehearsed(plan, None, chunk_size)
        one = self.rehearsed(plan, 1, chunk_size)
        if one.peak_bytes > room:
            return one
        low, high = (self.rehearsed(plan, min(n, self.batch), chunk_size) for n in PROBES)
        grown = max((high.peak_bytes - low.peak_bytes) / (PROBES[1] - PROBES[0]), 1.0)
        count = int(min(self.batch, PROBES[1] + (room - high.peak_bytes) / grown))
        while count > 1:
            count = ceil(self.batch / ceil(self.batch / count))
            way = self.rehearsed(plan, count, chunk_size)
            if way.peak_bytes <= room:
                return way
            count = min(count - 1, int(count * room / way.peak_bytes))
        return one


PROBES = (2, 4)
"""Numbers of samples on which it is found out how memory grows with them."""


_REHEARSED = Memo[Way](1024)


def _result_bytes(ready: Prepared, y: Any, x: Any) -> int:
    return y.size * x.size // max(ready.batch or 1, 1) * result_dtype(y, x).itemsize


def ways(ready: Prepared, args: Sequence[Any], options: Options, room: float = np.inf) -> list[Way]:
    """What may be done with a recorded function within so many bytes: for each order the way of fewest pieces."""
    with np.errstate(all="ignore"):  # local derivatives are computed here; the function's own warnings were given
        return _Rehearsal(ready, args, options).ways(room)


# -- the work ----------------------------------------------------------------------------------------------------------
def within_bytes(ready: Prepared, args: tuple[Any, ...], options: Options) -> list[list[Any]]:
    """Jacobians of all outputs by all inputs within `max_bytes`, as ``result[output][input]``.

    Inside another transformation, whose tape keeps everything, the bound is left to that one; a program that is being
    recorded is told of it, and keeps no rows of all steps.
    """
    with np.errstate(all="ignore"):
        if any(isinstance(x, Traced) for x in (*ready.outputs, *flatten(args)[0])):
            if ready.run.trace.program is not None:
                ready.run.trace.program.bounded = True
            plan = ready.plan(options.mode)
            return assemble(ready, plan, options)
        rehearsal, room = _Rehearsal(ready, args, options), options.max_bytes * (1 - MARGIN)
        found = rehearsal.ways(room)
        fitting = [way for way in found if way.peak_bytes <= room]
        if not fitting:
            raise _too_little(ready, args, options, found)
        mode = options.mode if isinstance(options.mode, str) else options.mode.mode
        asked = [way for way in fitting if way.plan.mode == mode]
        way = min(asked or fitting, key=lambda way: way.cost.nanoseconds)
        if way.samples is None:
            return assemble(ready, way.plan, replace(options, chunk_size=way.chunk_size))
        return _piecewise(rehearsal, way)


LARGE = 2**26
"""Bytes beyond which what only a sum or a diagonal is wanted of is made some seeds at a time."""


def seeds_at_a_time(
    ready: Prepared,
    args: Sequence[Any],
    options: Options,
    orders: int,
    beside: Callable[[int], int] = lambda seeds: 0,
) -> int | None:
    """How many seeds a sample to take at a time, if not all: as many as are asked for, or as many as there is room for.

    `orders` says how many blocks of each value are held; ``beside(n)`` bytes are taken by n seeds beside. Raises
    InputError where there is no room for one.
    """
    if options.chunk_size is not None:
        return int(options.chunk_size)
    count = every = max(ready.seeds[0], 1)
    mixed = ready.batch or 1 if ready.mixes else 1
    alive = orders * mixed * live_bytes(ready.graph)
    bound = options.max_bytes
    if any(isinstance(x, Traced) for x in (*ready.outputs, *flatten(args)[0])):
        return None
    if bound is None and alive * count + beside(count * mixed) <= LARGE:
        return None

    def rehearsed(n: int) -> int:
        most = 0
        for i, x, axis in zip(ready.run.inputs, ready.sources, ready.in_axes, strict=True):
            ledger = Ledger()
            for seed in islice(seeds(x.shape, axis, n, ledger.one), 1):  # all alike
                ShadowGraph(ready.graph, ledger).forward({i: seed}, real=True)
            most = max(most, ledger.peak)
        return orders * most

    def needed() -> Callable[[int], int]:
        if bound is not None:
            return lambda n: rehearsed(n) + beside(n * mixed)
        whole = rehearsed(every)
        return lambda n: min(whole * n // every, alive * n) + beside(n * mixed)

    return at_a_time(ready, args, bound, every, needed, "seed")


def at_a_time(
    ready: Prepared,
    args: Sequence[Any],
    bound: int | None,
    every: int,
    needed: Callable[[], Callable[[int], int]],
    kind: str,
) -> int | None:
    """How many of `every` to take at a time, so that the bytes ``needed()(n)`` fit; None: all.

    A bound that is too small for a first look is asked about once more with the masks of a second: what is named is
    enough for both.
    """
    with np.errstate(all="ignore"):
        count, least = _fitting(ready, args, bound, every, needed())
        if least is not None and ready.graph.structure.chooses:
            mark_thoroughly(ready.graph, everywhere=True)
            first = least
            count, least = _fitting(ready, args, bound, every, needed())
            least = least and max(first, least)
    if least is not None:
        total, held, derivatives = least
        raise InputError(
            f"max_bytes={bound:,}: expected room for one {kind}, which takes {total:,} bytes beside inputs and result: "
            f"{held:,} for values and local derivatives, {derivatives:,} for derivatives, and a margin. Give it "
            f"max_bytes={total:,} or more, or call the function on fewer samples."
        )
    return None if count == every else count


def _fitting(
    ready: Prepared, args: Sequence[Any], bound: int | None, every: int, needed: Callable[[int], int]
) -> tuple[int, tuple[int, int, int] | None]:
    """How many fit; and where not even one does, the least bound, what is held, and what one takes."""
    held = 0 if bound is None else held_bytes(ready, args)
    room, count = np.inf if bound is None else int(bound * (1 - MARGIN)) - held, every
    while count > 1 and needed(count) > min(LARGE, room):
        count = ceil(count / 2)
    if bound is None or needed(count) <= room:
        return count, None
    return count, (ceil((held + needed(count)) / (1 - MARGIN)), held, needed(count))


def live_bytes(graph: Graph) -> int:
    """The most bytes of values that are alive at once between inputs and outputs: what one seed's derivatives take."""
    waiting = Counter(p for i in graph.order for p in {p for _, p in graph.operands(i)})
    keep = set(graph.outputs)
    alive = sum(graph.nodes[i].out.nbytes for i in graph.inputs)
    most = alive
    for i in graph.order:
        alive += graph.nodes[i].out.nbytes
        most = max(most, alive + graph.nodes[i].out.nbytes)
        for p in {p for _, p in graph.operands(i)}:
            waiting[p] -= 1
            if not waiting[p] and p not in keep:
                alive -= graph.nodes[p].out.nbytes
    return most


def _piecewise(rehearsal: _Rehearsal, way: Way) -> list[list[Any]]:
    ready, batch = rehearsal.ready, rehearsal.batch
    assert batch is not None and way.samples is not None
    results, one = Results(ready, rehearsal.options), unit(ready.sources, ready.outputs)

    def carry_out(samples: Range) -> None:  # what it holds is gone before the next
        graph = rehearsal.graph(samples)
        for end in rehearsal.ends(way.plan):
            for seed in rehearsal.seeds(way.plan, end, way.chunk_size, samples, one):
                results.add(rehearsal.own(rehearsal.piece(graph, way.plan, end, seed, one), samples))

    for start in shown(range(0, batch, way.samples), rehearsal.options.progress):
        carry_out((start, min(start + way.samples, batch)))
    return results.values()


def _too_little(ready: Prepared, args: Sequence[Any], options: Options, found: Sequence[Way]) -> InputError:
    least = min(found, key=lambda way: way.peak_bytes)
    needed = ceil(least.peak_bytes / (1 - MARGIN))
    values = held_bytes(ready, args, Graph([], (), ()))
    what, why = "one seed", ""
    if least.samples == 1:
        what += " of one sample"
    elif ready.batch not in (None, 1):
        what += f" of {ready.batch} samples"
        why = (
            " The samples stay together where some are picked, where a black box has a jvp or vjp, which is one of all "
            "of them, with structured=True, and with on_mixing other than 'raise'."
        )
    return InputError(
        f"max_bytes={options.max_bytes:,}: expected room for {what}, which takes {needed:,} bytes beside inputs and "
        f"result: {values:,} for the values that the function computes for its whole batch, {least.held - values:,} "
        f"for local derivatives, {least.cost.peak_bytes:,} for the accumulation, and a margin of "
        f"{needed - least.peak_bytes:,}.{why} Give it max_bytes={needed:,} or more, or call the function on fewer "
        "samples."
    )
