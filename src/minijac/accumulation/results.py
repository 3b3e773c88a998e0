"""Carrying out an accumulation, all seeds at once or in chunks, and the blocks as results."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..algebra.block import Block
from ..arguments import Options, shown
from ..operator.bands import merged
from ..operator.jacobian import Jacobian
from ..operator.owning import owned
from .plan import Blocks, Plan, accumulate, accumulate_chunk
from .recording import Prepared
from .seeds import seeds, unit

__all__ = ["Blocks", "Results", "accumulate_chunk", "assemble", "batch_first", "ends", "finished", "result_dtype"]


def assemble(ready: Prepared, plan: Plan, options: Options) -> list[list[Any]]:
    """The Jacobian of every output leaf with respect to every input leaf, as ``result[output][input]``."""
    one = unit(ready.sources, ready.outputs)
    results = Results(ready, options)
    if options.chunk_size is None or plan.mode == "mixed":
        results.add(accumulate(ready.graph, plan, ready.run.inputs, ready.nodes, one))
    else:
        work = [(end, seed) for end, axis in ends(ready, plan).items()
                for seed in seeds(ready.graph.nodes[end].out.shape, axis, options.chunk_size, one)]  # fmt: skip
        for end, seed in shown(work, options.progress):
            results.add(accumulate_chunk(ready.graph, plan, end, seed))
    return results.values()


def ends(ready: Prepared, plan: Plan) -> dict[int, int | None]:
    """The nodes at which a plan has its seeds, with their batch axes."""
    if plan.mode == "forward":
        return dict(zip(ready.run.inputs, ready.in_axes, strict=True))
    pairs = zip(ready.run.output_nodes, ready.out_axes, strict=True)
    return {node: axis for node, axis in pairs if node is not None}


class Results:
    """The Jacobians of all output leaves by all input leaves, to which blocks are added."""

    def __init__(self, ready: Prepared, options: Options) -> None:
        self._ready, self._structured = ready, options.structured
        self._table = [[_Result(y, x, b, a, options) for x, a in zip(ready.sources, ready.in_axes, strict=True)]
                       for y, b in zip(ready.outputs, ready.out_axes, strict=True)]  # fmt: skip
        self._rows: dict[int, list[dict[int, _Result]]] = {}  # one output node may be several output leaves
        for row, node in zip(self._table, ready.run.output_nodes, strict=True):
            if node is not None:
                self._rows.setdefault(node, []).append(dict(zip(ready.run.inputs, row, strict=True)))

    def add(self, blocks: Blocks) -> None:
        for (o, i), block in blocks.items():
            for row in self._rows[o]:
                row[i].add(block)

    def values(self) -> list[list[Any]]:
        values, run = [[result.value() for result in row] for row in self._table], self._ready.run
        return owned(values, run.nodes, {*run.inputs, *run.others}) if self._structured else values


class _Result:
    """One output's Jacobian with respect to one input, gathered over chunks."""

    def __init__(self, y: Any, x: Any, out_axis: int | None, in_axis: int | None, options: Options) -> None:
        self.y, self.x = y, x
        self.out_axis, self.in_axis = out_axis, in_axis
        self.full, self.structured = options.on_mixing == "full", options.structured
        self.dtype = result_dtype(y, x)
        self.dense: Any = None
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
        block = batch_first(block.of_reals(self.dtype), self.out_axis, self.in_axis)
        block = block.tied(0, 0) if batched else block
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
