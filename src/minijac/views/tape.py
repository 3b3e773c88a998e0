"""What users look at: the tape as a table and as a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.recording import run_on_tape
from ..accumulation.samples import follow_samples
from ..arguments import argument_positions, batch_axes, batch_size, some_primals
from ..backend import at_home
from ..foreign import a_function
from ..places import Owners, Place, Where
from ..tape.trace import Node

__all__ = ["Tape", "trace"]


class Tape:
    """A function's recorded operations: ``print(tape)`` is a table, `to_dot` a Graphviz graph.

    Each row has the operation, its operands' rows, the shape and dtype of its output, the axis that holds the samples
    (``picked`` where they were picked by positions, ``mixed`` where an operation lost them, ``-`` where there are
    none), and the line of the user's code.
    """

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[int], places: dict[int, Where]) -> None:
        self.nodes = nodes
        self.outputs = outputs
        self._places = places

    def __len__(self) -> int:
        return len(self.nodes)

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells, one tuple for each node."""
        rows: list[tuple[str, ...]] = []
        for i, node in enumerate(self.nodes):
            name = "input" if node.op is None else node.op.name
            operands = ", ".join(
                f"%{p}" if p >= 0 else _short(arg) for p, arg in zip(node.parents, node.args, strict=True)
            )
            where = "" if node.where is None else f"{Path(node.where.file).name}:{node.where.number}"
            mark = " ->" if i in self.outputs else ""
            rows.append(
                (f"%{i}{mark}", name, operands, f"{node.out.dtype}{list(node.out.shape)}", self.batch(i), where)
            )
        return rows

    def batch(self, i: int) -> str:
        """Where node `i` has its samples, in words."""
        if i not in self._places:
            return "-"
        place = self._places[i]
        if place is None:
            return "mixed"
        if isinstance(place, Owners):
            return "picked"
        return str(place.axis) if place.stride == 1 else f"{place.axis} (stride {place.stride})"

    def __str__(self) -> str:
        header = ("node", "operation", "operands", "output", "batch axis", "line")
        rows = [header, *self.rows()]
        widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    __repr__ = __str__

    def to_dot(self) -> str:
        """The graph in Graphviz's language: operations with shapes, edges from operand to result."""
        lines = ["digraph tape {", '  node [shape=box, fontname="monospace"];']
        for i, node in enumerate(self.nodes):
            name = "input" if node.op is None else node.op.name
            style = ", style=bold" if i in self.outputs or node.op is None else ""
            lines.append(f'  n{i} [label="{name}\\n{list(node.out.shape)}, batch {self.batch(i)}"{style}];')
            lines += [f"  n{p} -> n{i};" for p in node.parents if p >= 0]
        return "\n".join([*lines, "}"])


def _short(arg: Any) -> str:
    shape = np.shape(arg)
    return f"{arg}" if shape == () else f"const{list(shape)}"


def trace(f: Callable[..., Any], *args: Any, batch_axis: int | Sequence[int | None] | None = 0) -> Tape:
    """The tape of ``f(*args)``, all arguments traced.

    >>> import numpy as np
    >>> print(trace(lambda x: np.sin(x).sum(axis=1), np.zeros((3, 2))))  # doctest: +ELLIPSIS
    node   operation  operands  output          batch axis  line
    %0     input                float64[3, 2]   0
    %1     sin        %0        float64[3, 2]   0           ...
    %2 ->  sum        %1        float64[3]      0           ...
    """
    a_function(f, "trace", "x")
    some_primals("trace", args)
    home = at_home(args)
    args = home.args
    axes = batch_axes(batch_axis, args)
    batch = batch_size(args, axes)
    positions = argument_positions(tuple(range(len(args))), args)
    with home:
        run = run_on_tape(f, args, {}, positions, {}, False)
    outputs = [i for i in run.output_nodes if i is not None]
    everything = Graph(run.nodes, run.inputs, range(len(run.nodes)))
    places: dict[int, Where] = {}
    if batch is not None:
        held: dict[int, Where] = {}
        start = 0
        for n in positions:
            for i, axis in zip(run.inputs[start:], axes[n], strict=False):
                if axis is not None:
                    held[i] = Place(axis % run.nodes[i].out.ndim, 1)
            start += len(axes[n])
        places, _ = follow_samples(everything, held, set(held), batch)
    return Tape(run.nodes, outputs, places)
