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

__all__ = ["Tape", "line_of", "name_of", "table", "trace"]


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
            operands = ", ".join(
                f"%{p}" if p >= 0 else _short(arg) for p, arg in zip(node.parents, node.args, strict=True)
            )
            mark, kind = " ->" if i in self.outputs else "", f"{node.out.dtype}{list(node.out.shape)}"
            rows.append((f"%{i}{mark}", name_of(node), operands, kind, self.batch(i), line_of(node)))
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
        return table([header, *self.rows()])

    __repr__ = __str__

    def to_dot(self) -> str:
        """The graph in Graphviz's language: operations with shapes, edges from operand to result."""
        lines = ["digraph tape {", '  node [shape=box, fontname="monospace"];']
        for i, node in enumerate(self.nodes):
            style = ", style=bold" if i in self.outputs or node.op is None else ""
            lines.append(f'  n{i} [label="{name_of(node)}\\n{list(node.out.shape)}, batch {self.batch(i)}"{style}];')
            lines += [f"  n{p} -> n{i};" for p in node.parents if p >= 0]
        return "\n".join([*lines, "}"])


def name_of(node: Node) -> str:
    return "input" if node.op is None else node.op.name


def line_of(node: Node) -> str:
    return "" if node.where is None else f"{Path(node.where.file).name}:{node.where.number}"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Cells below each other, to the left but for those of the columns `right`."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.rjust(w) if k in right else cell.ljust(w) for k, (cell, w) in cells).rstrip()

    return "\n".join(map(line, rows))


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
        pairs = zip(run.inputs, [axis for n in positions for axis in axes[n]], strict=True)
        held: dict[int, Where] = {i: Place(axis % run.nodes[i].out.ndim, 1) for i, axis in pairs if axis is not None}
        places, _ = follow_samples(everything, held, set(held), batch)
    return Tape(run.nodes, outputs, places)
