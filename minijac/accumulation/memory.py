"""A bound on memory: what a recorded function and its accumulation hold, and the work in chunks that stay below it.

What is held is counted on the recorded arrays (the function's values and their local derivatives); what an accumulation
adds is rehearsed on shadows, for fewer and fewer seeds at a time. Where not even that fits the whole batch, the
function is called for one chunk of samples after another, and each chunk's Jacobian is written into its part of the
result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np
import optree

from ..algebra.factors import Shape
from ..arguments import Options, batch_axes, batch_size, flatten
from ..backend import is_array, namespace
from ..errors import InputError
from ..memo import Memo
from ..tape.traced import Traced
from .plan import Plan, accumulate, plan_for, write
from .recording import Prepared
from .results import Blocks, accumulate_chunk, assemble, ends, finished, result_dtype, shown
from .seeds import seeds
from .shadow import Cost, Ledger, Shadow, ShadowGraph

__all__ = ["Way", "held_bytes", "rehearse", "ways", "within_bytes"]

RECORDED_PER_INPUT = 1024
"""Bytes that a function's values are taken to need for each byte of its batched inputs, before one was recorded."""

MARGIN = 1 / 16
"""The part of the bound kept free for what is not counted: Python's objects, buffers inside NumPy."""


class Way(NamedTuple):
    """A way to accumulate: a plan, how many seeds at a time, in how many pieces, and the price of them all."""

    plan: Plan
    chunk_size: int | None
    pieces: int
    cost: Cost


# -- what is held ------------------------------------------------------------------------------------------------------
def held_bytes(ready: Prepared, args: Sequence[Any]) -> int:
    """Bytes of the arrays that recording made: values, constants that go with the samples, local derivatives."""
    graph = ready.graph
    theirs = [*flatten(tuple(args))[0]]
    made: list[Any] = list(ready.run.outputs)
    for node in ready.run.nodes:
        made += [node.out, node.live, *node.params.values()]
        for parent, arg in zip(node.parents, node.args, strict=True):
            if parent < 0 and is_array(arg):
                # a captured weight is not ours; a mask, or what has an axis of this many samples, was made on the way
                (made if arg.dtype.kind == "b" or ready.batch in arg.shape else theirs).append(arg)
    for i in graph.order:
        for k, _ in graph.operands(i):
            made += [factor.array for part in graph.edge(i, k).parts for factor in part.factors]
    not_ours = {id(_owner(array)) for array in theirs}
    owners = {id(owner): owner for owner in map(_owner, filter(is_array, made))}
    copies = sum(y.nbytes for y in ready.outputs)  # the value is handed out as a copy
    return copies + sum(owner.nbytes for key, owner in owners.items() if key not in not_ours)


def _owner(array: Any) -> Any:
    """The array whose memory a view shows."""
    while is_array(getattr(array, "base", None)):
        array = array.base
    return array


# -- what an accumulation adds -----------------------------------------------------------------------------------------
def rehearse(ready: Prepared, plan: Plan, chunk_size: int | None, options: Options, fresh: bool) -> tuple[int, Cost]:
    """The number of pieces, and the price of all of them, of an accumulation on shadows.

    `fresh`: the result is written once, not added to.
    """
    key = (ready.structure, tuple(ready.in_axes), tuple(ready.out_axes), str(plan), chunk_size, fresh,
           options.structured, options.on_mixing)  # fmt: skip
    return _REHEARSED.get(key, lambda: _rehearsed(ready, plan, chunk_size, options, fresh))


_REHEARSED = Memo[tuple[int, Cost]](1024)


def _rehearsed(ready: Prepared, plan: Plan, chunk_size: int | None, options: Options, fresh: bool) -> tuple[int, Cost]:
    in_axis, out_axis = ends(ready, Plan("forward")), ends(ready, Plan("reverse"))

    def written(blocks: Blocks, ledger: Ledger, fresh: bool) -> None:
        for (o, i), block in blocks.items():
            own = finished(block, out_axis[o], in_axis[i], options.on_mixing == "full")
            if not options.structured:
                write(own, ledger, fresh)

    if chunk_size is None:
        ledger = Ledger()
        blocks = accumulate(ShadowGraph(ready.graph, ledger), plan, ready.run.inputs, ready.nodes, _one(ledger))
        before = ledger.peak
        if fresh and not options.structured:  # the result does not exist yet
            before -= sum(_result_bytes(ready, y, x) for y in ready.outputs for x in ready.sources)
        ledger.peak = ledger.live
        written(blocks, ledger, fresh)
        return 1, ledger.cost()._replace(peak_bytes=max(before, ledger.peak))

    pieces, total = 0, Cost(0, 0, 0, 0.0)
    for end, axis in ends(ready, plan).items():
        ledger = Ledger()
        graph = ShadowGraph(ready.graph, ledger)
        chunks = list(seeds(graph.nodes[end].out.shape, axis, chunk_size, _one(ledger)))
        if chunks:  # all alike: the first stands for the others
            written(accumulate_chunk(graph, plan, end, chunks[0]), ledger, False)
            pieces += len(chunks)
            total = total.and_then(ledger.cost(), len(chunks))
    return pieces, total


def _result_bytes(ready: Prepared, y: Any, x: Any) -> int:
    return y.size * x.size // max(ready.batch or 1, 1) * result_dtype(y, x).itemsize


def _one(ledger: Ledger) -> Shadow:
    return Shadow((), np.dtype(np.float32), ledger)


def ways(ready: Prepared, options: Options, fresh: bool) -> list[Way]:
    """What may be done with a recorded function, from all seeds at once to one at a time."""
    mode = options.mode if isinstance(options.mode, str) else options.mode.mode
    found = []
    if mode in ("mixed", "auto") and options.chunk_size is None:
        plan = plan_for(ready.graph, options.mode if mode == "mixed" else "mixed", ready.run.inputs, ready.nodes,
                        ready.structure)  # fmt: skip
        found.append(Way(plan, None, *rehearse(ready, plan, None, options, fresh)))
    for direction in ("forward", "reverse"):
        if mode in ("forward", "reverse") and direction != mode:
            continue
        plan = Plan(direction)
        for size in _chunk_sizes(ready, direction, options.chunk_size):
            found.append(Way(plan, size, *rehearse(ready, plan, size, options, fresh)))
    return found


def _chunk_sizes(ready: Prepared, direction: str, given: int | None) -> list[int | None]:
    """All seeds at once, and then halves of them."""
    ends = (ready.sources, ready.in_axes) if direction == "forward" else (ready.outputs, ready.out_axes)
    seeds_of = [prod(n for k, n in enumerate(x.shape) if k != axis) for x, axis in zip(*ends, strict=True)]
    sizes: list[int | None] = [given]
    size = min(max(seeds_of, default=1), given or max(seeds_of, default=1))
    while size > 1:
        size = ceil(size / 2)
        sizes.append(size)
    return sizes


def _chosen(ready: Prepared, args: Sequence[Any], options: Options, fresh: bool) -> tuple[list[Way], int, Way | None]:
    """All ways, the bytes held, and the way of least predicted time within the bound; None where none is."""
    with np.errstate(all="ignore"):  # local derivatives are computed here; the function's own warnings were given
        held = held_bytes(ready, args)
        found = ways(ready, options, fresh)
    return found, held, _best(found, _countable(options) - held, options.mode)


def _countable(options: Options) -> float:
    return options.max_bytes * (1 - MARGIN)


def _best(found: Sequence[Way], room: float, mode: Any) -> Way | None:
    """The way of least predicted time within the room; mixed, where that was asked for and fits."""
    fitting = [way for way in found if way.cost.peak_bytes <= room]
    asked = [way for way in fitting if way.plan.mode == (mode if isinstance(mode, str) else mode.mode)]
    return min(asked or fitting, key=lambda way: way.cost.nanoseconds, default=None)


# -- the work ----------------------------------------------------------------------------------------------------------
def within_bytes(
    prepared: Callable[..., Prepared], args: tuple[Any, ...], options: Options
) -> tuple[Prepared, Any, Any, list[list[Any]]]:
    """Jacobians of all outputs by all inputs within `max_bytes`, after the last recording, the value and the aux.

    `prepared` records the function for some arguments. Inside another transformation, whose tape keeps everything, the
    bound is left to that one.
    """
    if any(isinstance(leaf, Traced) for leaf in flatten(args)[0]):
        return _at_once(prepared(*args), options)
    axes = batch_axes(options.batch_axis, args)
    batch = batch_size(args, axes)
    if not batch or batch == 1 or options.structured or options.on_mixing != "raise":
        ready = prepared(*args)
        return _at_once(ready, options) if _is_traced(ready) else _whole(ready, args, options)
    size = _first_size(args, axes, batch, options.max_bytes)
    work = _Work(prepared, args, axes, batch, options)
    return work.run(size)


def _is_traced(ready: Prepared) -> bool:
    return any(isinstance(y, Traced) for y in ready.outputs)


def _at_once(ready: Prepared, options: Options) -> tuple[Prepared, Any, Any, list[list[Any]]]:
    with np.errstate(all="ignore"):
        plan = plan_for(ready.graph, options.mode, ready.run.inputs, ready.nodes, ready.structure, ready.seeds)
        return ready, ready.run.value, ready.run.aux, _assembled(ready, plan, options)


def _whole(ready: Prepared, args: Sequence[Any], options: Options) -> tuple[Prepared, Any, Any, list[list[Any]]]:
    """All samples in one piece, the seeds in chunks."""
    found, held, way = _chosen(ready, args, options, fresh=True)
    if way is None:
        raise _too_little(options, held, found, ready.batch)
    pairs = _assembled(ready, way.plan, replace(options, chunk_size=way.chunk_size))
    return ready, ready.run.value, ready.run.aux, pairs


def _assembled(ready: Prepared, plan: Plan, options: Options, into: Any = None) -> list[list[Any]]:
    with np.errstate(all="ignore"):
        return assemble(ready, plan, options, into)


def _too_little(options: Options, held: int, found: Sequence[Way], samples: int | None) -> MemoryError:
    least = min(way.cost.peak_bytes for way in found)
    needed = ceil((held + least) / (1 - MARGIN))
    what, why = "one seed", ""
    if samples is not None:
        what += " of one sample" if samples == 1 else f" of {samples} samples"
    if samples not in (None, 1):
        why = " The samples stay together with structured=True, and with on_mixing other than 'raise'."
    return MemoryError(
        f"max_bytes={options.max_bytes:,}: expected room for {what}, which takes {needed:,} bytes beside inputs and "
        f"result: {held:,} for the function's own values and local derivatives, {least:,} for the accumulation, and a "
        f"margin of {needed - held - least:,}.{why} Give it max_bytes={needed:,} or more, or a smaller problem."
    )


def _first_size(args: Sequence[Any], axes: Sequence[int | None], batch: int, max_bytes: int) -> int:
    """How many samples to record first: all if they surely fit, and never one alone, in which nothing could mix."""
    leaves = [leaf for arg, axis in zip(args, axes, strict=True) if axis is not None for leaf in flatten(arg)[0]]
    each = sum(leaf.nbytes for leaf in leaves if is_array(leaf)) // batch
    return min(batch, max(2, max_bytes // max(RECORDED_PER_INPUT * each, 1)))


class _Work:
    """The samples in chunks: what has been done of the value, the aux and the Jacobians."""

    def __init__(
        self,
        prepared: Callable[..., Prepared],
        args: tuple[Any, ...],
        axes: Sequence[int | None],
        batch: int,
        options: Options,
    ) -> None:
        self.prepared, self.args, self.axes, self.batch, self.options = prepared, args, axes, batch, options
        self.sizes: list[int] = []
        self.aux: list[Any] = []
        self.values: list[Any] = []
        self.table: list[list[Any]] = []

    def run(self, size: int) -> tuple[Prepared, Any, Any, list[list[Any]]]:
        start, bar = 0, None
        while True:
            stop = min(start + size, self.batch)
            ready = self.prepared(*self._part(start, stop))
            if _is_traced(ready):
                return _at_once(ready if size == self.batch else self.prepared(*self.args), self.options)
            whole = stop - start == self.batch
            found, held, way = _chosen(ready, self.args, self.options, fresh=whole)
            if way is None:
                if stop - start == 1:
                    raise _too_little(self.options, held, found, 1)
                size = (stop - start) // 2
                del ready  # before the next is recorded
                continue
            if whole:
                options = replace(self.options, chunk_size=way.chunk_size)
                return ready, ready.run.value, ready.run.aux, _assembled(ready, way.plan, options)
            if start == 0:
                self._allocate(ready)
                bar = shown(None, self.options.progress, total=self.batch, unit="sample")
            self._add(ready, way, start, stop)
            if bar is not None:
                bar.update(stop - start)
            start = stop
            if start == self.batch:
                break
            size = self._next_size(found, held, self.batch - start)
            del ready
        if bar is not None:
            bar.close()
        return ready, optree.tree_unflatten(ready.run.tree, self.values), self._joined_aux(), self.table

    def _part(self, start: int, stop: int) -> list[Any]:
        def cut(leaf: Any, axis: int) -> Any:
            if not is_array(leaf) or not leaf.ndim:
                return leaf
            return leaf[(*(slice(None),) * (axis % leaf.ndim), slice(start, stop))]

        return [
            arg if axis is None else optree.tree_map(lambda leaf, axis=axis: cut(leaf, axis), arg, namespace="minijac")
            for arg, axis in zip(self.args, self.axes, strict=True)
        ]

    def _allocate(self, ready: Prepared) -> None:
        """The whole result, filled with zeros, into which chunks are written."""
        for y, b in zip(ready.outputs, ready.out_axes, strict=True):
            xp = namespace(y)
            assert b is not None
            self.values.append(xp.empty((*y.shape[:b], self.batch, *y.shape[b + 1 :]), y.dtype))
            row = []
            for x, a in zip(ready.sources, ready.in_axes, strict=True):
                shape = (self.batch, *_without(y.shape, b), *_without(x.shape, a))
                row.append(xp.zeros(shape, result_dtype(y, x)))
            self.table.append(row)

    def _add(self, ready: Prepared, way: Way, start: int, stop: int) -> None:
        if self.sizes and len(ready.outputs) != len(self.values):
            raise InputError("max_bytes: expected the same tree of outputs for each chunk of samples, got another.")
        into = [[whole[start:stop] for whole in row] for row in self.table]
        _assembled(ready, way.plan, replace(self.options, chunk_size=way.chunk_size, progress=False), into)
        for value, y, b in zip(self.values, ready.outputs, ready.out_axes, strict=True):
            value[(*(slice(None),) * b, slice(start, stop))] = y  # type: ignore[operator]
        self.aux.append(ready.run.aux)
        self.sizes.append(stop - start)

    def _next_size(self, found: Sequence[Way], held: int, rest: int) -> int:
        """The chunk of samples for which the rest takes fewest accumulations; what is held grows with it at most."""
        size = result = self.sizes[-1]
        best: int | None = None
        count = 1
        while count <= rest:
            samples = ceil(rest / count)
            room = _countable(self.options) - held * samples / size
            pieces = [way.pieces for way in found if way.cost.peak_bytes * samples / size <= room]
            if pieces and (best is None or count * (min(pieces) + 2) < best):  # 2: recording and planning
                best, result = count * (min(pieces) + 2), samples
            count *= 2
        if result == size and len(self.sizes) == 1 and size > 1:
            result = size - 1  # chunks of two lengths tell apart what goes with the samples
        return result

    def _joined_aux(self) -> Any:
        """The aux of the whole batch: leaves that have the chunk's samples on axis 0 one after the other."""
        if not self.options.has_aux:
            return None
        parts = [flatten(aux) for aux in self.aux]
        leaves = [self._joined(list(pieces)) for pieces in zip(*(leaves for leaves, _ in parts), strict=True)]
        return optree.tree_unflatten(parts[0][1], leaves)

    def _joined(self, pieces: list[Any]) -> Any:
        shapes = [np.shape(piece) for piece in pieces]
        with_samples = [shape[:1] == (size,) for shape, size in zip(shapes, self.sizes, strict=True)]
        if all(with_samples) and len(set(self.sizes)) > 1:
            return namespace(pieces[0]).concatenate(pieces)
        if not any(with_samples) and all(_same(pieces[0], piece) for piece in pieces[1:]):
            return pieces[0]
        raise InputError(
            f"has_aux=True with max_bytes={self.options.max_bytes:,}: samples were taken in chunks of {self.sizes}, "
            f"and an aux leaf came in shapes {shapes}. Expected the samples on its axis 0, or the same value for every "
            "chunk. Return it with the samples first, or leave max_bytes out."
        )


def _same(a: Any, b: Any) -> bool:
    if is_array(a) and is_array(b):
        return a.shape == b.shape and bool((a == b).all())
    return type(a) is type(b) and bool(a == b)


def _without(shape: Shape, axis: int | None) -> Shape:
    return tuple(n for k, n in enumerate(shape) if k != axis)
