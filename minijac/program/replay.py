"""Small Jacobians of a structure seen before: their accumulation is replayed as a program.

What a Jacobian of a few thousand numbers costs is Python: labels matched, terms composed, the same in every call on the
same operations and shapes. So on the second call with a structure the accumulation is recorded (as `minijac.compile`
would record it), and from then on only its array operations are carried out. `f` itself still runs on the tape in every
call. Whatever could differ between two calls of one structure is part of the key or an operand of the program.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from ..accumulate import Graph
from ..arguments import Options
from ..chunking import assemble
from ..errors import MutationError, TraceError
from ..plan import Plan
from ..tape import Node
from .compile import Entry, record
from .record import Foreign

__all__ = ["replayed"]

MOST_BYTES = 2**16  # of operands, and of results: above, what is saved is small beside the arithmetic
MOST_STRUCTURES = 128

_LOCK = threading.Lock()
_SEEN: OrderedDict[Any, Entry | str] = OrderedDict()
"""Structures met, the last ones at the end: "once" after the first call, then the recorded accumulation, or "never"."""


def replayed(ready: Any, plan: Plan, options: Options) -> list[list[Any]] | None:
    """``result[output][input]`` as of `chunking.assemble`, or None where the accumulation has to be carried out."""
    if options.structured or options.chunk_size is not None or any(type(x) is not np.ndarray for x in ready.sources):
        return None
    operands = _operands(ready)
    if operands is None:
        return None
    arrays, numbers = operands
    key = ready.structure, numbers, tuple(ready.in_axes), tuple(ready.out_axes), str(plan), options.on_mixing
    with _LOCK:
        entry = _SEEN.pop(key, None)
        _SEEN[key] = entry or "once"
        if len(_SEEN) > MOST_STRUCTURES:
            _SEEN.popitem(last=False)
    if entry is None or entry == "never":
        return None
    if isinstance(entry, str):
        try:
            entry = record(_accumulation(ready, plan, options), (list(arrays.values()),), {})
        except (TraceError, MutationError, Foreign):  # a local derivative that looks at numbers
            _SEEN[key] = "never"
            return None
        _SEEN[key] = entry
    return [[np.asarray(J) for J in row] for row in entry(list(arrays.values()))]


def _operands(ready: Any) -> tuple[dict[Any, Any], tuple[Any, ...]] | None:
    """Arrays that the accumulation may read, by node or by node and operand; and what else is part of the key.

    None where the case is too large, follows an outer transformation, or has parameters that are arrays.
    """
    nodes = ready.graph.nodes
    arrays: dict[Any, Any] = {}
    numbers: list[Any] = []
    for i in (*ready.run.inputs, *ready.graph.order):
        node = nodes[i]
        arrays[i] = node.out
        for k, (p, arg) in enumerate(zip(node.parents, node.args, strict=True)):
            if p >= 0:
                arrays[p] = arg
            elif type(arg) is np.ndarray:
                arrays[i, k] = arg
            else:
                numbers.append((i, k, type(arg), repr(arg)))  # 0.0 and -0.0 are equal, and not the same
        if any(hasattr(value, "dtype") for value in node.params.values()):
            return None
    for n, (i, y) in enumerate(zip(ready.run.output_nodes, ready.outputs, strict=True)):
        arrays[("output", n) if i is None else i] = y
        numbers.append((i, y.shape))
    total = 0
    for array in arrays.values():
        if type(array) is not np.ndarray:
            return None
        numbers.append(array.dtype.char)
        total += array.nbytes
    entries = sum(y.size for y in ready.outputs) * sum(x.size for x in ready.sources)
    own = entries // (ready.batch or 1)  # each sample's entries, where samples do not mix
    return (arrays, tuple(numbers)) if total <= MOST_BYTES and own * 8 <= MOST_BYTES else None


def _accumulation(ready: Any, plan: Plan, options: Options) -> Any:
    """The accumulation as a function of its operands alone."""
    run, order = ready.run, list(_operands(ready)[0])  # type: ignore[index]
    skeletons = [(node.op, node.parents, node.args, node.params, node.where) for node in ready.graph.nodes]
    inputs, nodes, in_axes, out_axes = run.inputs, ready.nodes, ready.in_axes, ready.out_axes
    output_nodes = run.output_nodes

    def accumulation(arrays: list[Any]) -> list[list[Any]]:
        value = dict(zip(order, arrays, strict=True))
        rebuilt = []
        for i, (op, parents, args, params, where) in enumerate(skeletons):
            operands = tuple([
                value[p] if p in value else value.get((i, k), arg)
                for k, (p, arg) in enumerate(zip(parents, args, strict=True))
            ])  # fmt: skip
            rebuilt.append(Node(op, parents, operands, params, value.get(i), where))
        graph = Graph(rebuilt, inputs, nodes)
        sources = [value[i] for i in inputs]
        outputs = [value[i] if i is not None else value["output", n] for n, i in enumerate(output_nodes)]
        return assemble(graph, inputs, output_nodes, sources, outputs, in_axes, out_axes, plan, options)

    return accumulation
