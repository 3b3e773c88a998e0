"""Carrying out an accumulation: seeds at either end, all at once or in chunks, and the blocks as results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil
from typing import Any

import numpy as np

from ..algebra.block import Block
from ..algebra.factors import Shape
from ..algebra.labels import Axis, Label, axis_of, window
from ..algebra.terms import Term
from ..arguments import Options
from ..backend import namespace
from ..operator.bands import merged
from ..operator.jacobian import Jacobian
from .graph import Graph
from .plan import Plan, accumulate

__all__ = ["assemble", "batch_first", "finished", "result_dtype", "seeds", "shown", "unit"]


def assemble(
    graph: Graph,
    input_nodes: Sequence[int],
    output_nodes: Sequence[int | None],
    sources: Sequence[Any],
    outputs: Sequence[Any],
    in_axes: Sequence[int | None],
    out_axes: Sequence[int | None],
    plan: Plan,
    options: Options,
    into: Sequence[Sequence[Any]] | None = None,
) -> list[list[Any]]:
    """The Jacobian of every output leaf with respect to every input leaf, as ``result[output][input]``.

    `into` holds an array of zeros for each, to be filled instead of a new one.
    """
    one = unit(sources, outputs)
    table = [[_Result(y, x, b, a, options, into and into[m][n])
              for n, (x, a) in enumerate(zip(sources, in_axes, strict=True))]
             for m, (y, b) in enumerate(zip(outputs, out_axes, strict=True))]  # fmt: skip
    rows: dict[int, list[int]] = {}  # one output node may be several output leaves
    for m, node in enumerate(output_nodes):
        if node is not None:
            rows.setdefault(node, []).append(m)
    columns = {node: n for n, node in enumerate(input_nodes)}

    def add(o: int, i: int, block: Block) -> None:
        for m in rows[o]:
            table[m][columns[i]].add(block)

    if options.chunk_size is None or plan.mode == "mixed":
        for (o, i), block in accumulate(graph, plan, input_nodes, list(rows), one).items():
            add(o, i, block)
    else:
        forward = plan.mode == "forward"
        ends = [(i, graph.nodes[i].out.shape, axis) for i, axis in zip(input_nodes, in_axes, strict=True)]
        if not forward:
            ends = [(o, outputs[ms[0]].shape, out_axes[ms[0]]) for o, ms in rows.items()]
        work = [(end, seed) for end, shape, axis in ends for seed in seeds(shape, axis, options.chunk_size, one)]

        def accumulate_chunk(end: int, seed: Block) -> None:  # what it holds is gone before the next
            blocks = graph.forward({end: seed}) if forward else graph.reverse({end: seed.T})
            for other, block in blocks.items():
                add(*((other, end) if forward else (end, other)), block)

        for end, seed in shown(work, options.progress):
            accumulate_chunk(end, seed)
    return [[result.value() for result in row] for row in table]


def shown(work: Any, progress: bool, **options: Any) -> Any:
    """The work, behind a progress bar where one is wanted. Raises ImportError where tqdm is not installed."""
    if not progress:
        return work
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install minijac[progress]") from error
    return tqdm(work, **{"desc": "jacobian", "unit": "chunk", **options})


def unit(sources: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """The number one where the sources live, of a type so wide that a scale multiplied into it, such as the 1/3 of a
    mean, is not rounded to single precision."""
    return namespace(sources[0]).ones((), np.result_type(*(x.dtype for x in (*sources, *outputs))))


class _Result:
    """One output's Jacobian with respect to one input, gathered over chunks."""

    def __init__(
        self, y: Any, x: Any, out_axis: int | None, in_axis: int | None, options: Options, into: Any = None
    ) -> None:
        self.y, self.x = y, x
        self.out_axis, self.in_axis = out_axis, in_axis
        self.full, self.structured = options.on_mixing == "full", options.structured
        self.dtype = result_dtype(y, x)
        self.dense: Any = into
        self.block: Block | None = None

    def add(self, block: Block) -> None:
        if self.structured:
            self.block = block if self.block is None else self.block + block
        else:
            own = finished(block, self.out_axis, self.in_axis, self.full)
            self.dense = own.dense(self.dtype, self.x, self.dense)

    def value(self) -> Any:
        if not self.structured:
            if self.dense is None:
                self.add(Block(self.y.shape, self.x.shape))
            return self.dense
        block = Block(self.y.shape, self.x.shape) if self.block is None else self.block
        batched = not self.full and self.out_axis is not None and self.in_axis is not None
        block = batch_first(block, self.out_axis, self.in_axis)
        block = block.per_sample() if batched else block
        terms = merged(block.terms, self.dtype, self.x) if len(block.terms) > 1 else block.terms
        return Jacobian(Block(block.out_shape, block.inp_shape, terms, block.one), self.dtype, self.x, batched)


def finished(block: Block, out_axis: int | None, in_axis: int | None, full: bool) -> Block:
    """Batch first, and only each sample's own entries unless all are wanted."""
    block = batch_first(block, out_axis, in_axis)
    return block if full or out_axis is None or in_axis is None else block.paired(0, 0)


def result_dtype(y: Any, x: Any) -> Any:
    """The dtype of a derivative of `y` by `x`, the same in every mode."""
    return np.result_type(y.dtype, x.dtype)


def batch_first(block: Block, out_axis: int | None, in_axis: int | None) -> Block:
    """The same block with the samples on the first axis of its output and of its input."""
    if not out_axis and not in_axis:
        return block
    return block.axes_moved(_first(out_axis, len(block.out_shape)), _first(in_axis, len(block.inp_shape)))


def _first(axis: int | None, ndim: int) -> tuple[int, ...]:
    """The order of axes that puts `axis` in front."""
    rest = tuple(k for k in range(ndim) if k != axis)
    return rest if axis is None else (axis, *rest)


def seeds(shape: Shape, batch_axis: int | None, chunk_size: int | None, one: Any) -> Iterator[Block]:
    """The identity on arrays of `shape`, cut into blocks of at most `chunk_size` seeds per sample.

    A seed is one entry of one sample; a chunk is a window of the array, so a chunked identity is still labels alone.
    """
    if chunk_size is None:
        yield Block.identity(shape, one)
        return
    windows: list[list[tuple[int, int]]] = []
    budget = chunk_size
    for k in range(len(shape) - 1, -1, -1):  # whole axes from the right while they fit, then parts, then single ones
        n = shape[k]
        size = n if k == batch_axis else min(n, budget)
        pieces = ceil(n / size) if size else 1
        size = ceil(n / pieces) if n else 0
        windows.insert(0, [(start, min(size, n - start)) for start in range(0, max(n, 1), max(size, 1))])
        if k != batch_axis:
            budget = max(budget // size, 1) if size else 1
            if size < n:
                budget = 1
    for corner in product(*windows):
        axes = tuple(_window_axis(n, start, size) for n, (start, size) in zip(shape, corner, strict=True))
        yield Block(shape, shape, [Term(axes, axes)], one)


def _window_axis(n: int, start: int, size: int) -> Axis:
    if size == n:
        return axis_of(n)
    return window(Label(size) if size > 1 else None, n, start, 1)
