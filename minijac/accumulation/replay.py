"""Jacobians of a structure seen before: their accumulation is replayed as a program.

Much of what a Jacobian costs is Python: labels matched, terms composed, the same in every call on the same operations
and shapes. So on the second call with a structure the accumulation is recorded (as `minijac.compile` would record it),
and from then on only its array operations are carried out. `f` itself still runs on the tape in every call. Whatever
could differ between two calls of one structure is part of the key or an operand of the program. What programs hold
between calls is bounded (`MOST_HELD`), and one that works on large arrays is not kept: there, Python is not the cost.
Nor is one of a long program, which it would take longer to record than many calls: compile those.
Nothing of it is held under `max_bytes`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from math import prod
from typing import Any

import numpy as np

from ..algebra.labels import labels_in
from ..arguments import Options
from ..errors import MutationError, TraceError
from ..operator.jacobian import Jacobian
from ..program.compiled import Entry, How, record
from ..program.ir import Program
from ..program.record import Foreign
from ..tape.trace import Node
from .graph import Graph
from .plan import Plan, is_short
from .results import assemble

__all__ = ["forget", "held_bytes", "held_programs", "replayed"]

MOST_STRUCTURES = 128
MOST_LIVE = 2**24
"""Bytes that one program may need at once. Above, the arithmetic takes longer than Python, and memory counts."""
MOST_HELD = 2**26
"""Bytes that all of them may hold between calls: buffers, and results that the caller let go of."""
MOST_WHOLE = 2**22
"""Bytes of results that programs make whole. Larger ones are written from their terms after the replay."""
MOST_COPIED = 2**20
"""Bytes of operands that a structured result may hold as they are: a replay copies them, an accumulation does not."""

_LOCK = threading.Lock()
_SEEN: OrderedDict[Any, Entry | str] = OrderedDict()
"""Structures met, the last ones at the end: "once" after the first call, then the recorded accumulation, or "never"."""
_HELD: dict[Any, int] = {}
"""What each recorded accumulation holds."""


def replayed(ready: Any, plan: Plan, wanted: Options) -> list[list[Any]] | None:
    """``result[output][input]`` as of `chunking.assemble`, or None where the accumulation has to be carried out."""
    options = wanted
    if options.chunk_size is not None or any(type(x) is not np.ndarray for x in ready.sources):
        return None
    if not is_short(ready.graph):  # to record takes several accumulations
        return None
    operands = _operands(ready)
    if operands is None:
        return None
    arrays, numbers = operands
    if _result_bytes(ready) > MOST_WHOLE:
        options = options._replace(structured=True)
    mode = options.mode if isinstance(options.mode, str) else str(plan)
    how = mode, options.on_mixing, options.structured
    key = ready.structure, numbers, tuple(ready.in_axes), tuple(ready.out_axes), how
    with _LOCK:
        entry = _SEEN.pop(key, None)
        _SEEN[key] = entry or "once"
        if len(_SEEN) > MOST_STRUCTURES:
            _HELD.pop(_SEEN.popitem(last=False)[0], None)
    if entry is None or entry == "never":
        return None
    if isinstance(entry, str):
        try:
            entry = record(_accumulation(ready, plan, options), (list(arrays.values()),), {}, How(plain=True))
        except (TraceError, MutationError, Foreign):  # a local derivative that looks at numbers
            entry = None
        large = entry is None or live_bytes(entry.program) > MOST_LIVE or _passed_on(entry.program) > MOST_COPIED
        with _LOCK:
            _SEEN[key] = "never" if entry is None or large else entry
        if entry is None or large:
            return None
    result = entry(list(arrays.values()))
    _account(key, entry)
    if options.structured and not wanted.structured:
        return [[_dense(J) for J in row] for row in result]
    return [[J if isinstance(J, Jacobian) else np.asarray(J) for J in row] for row in result]


def _result_bytes(ready: Any) -> int:
    """Bytes of the dense Jacobians, at most, where samples do not mix."""
    if not ready.outputs or not ready.sources:
        return 0
    entries = sum(y.size for y in ready.outputs) * sum(x.size for x in ready.sources)
    return entries // (ready.batch or 1) * max(array.dtype.itemsize for array in (*ready.outputs, *ready.sources))


def live_bytes(program: Program) -> int:
    """The most that a program's computed values take at once."""
    made: dict[int, int] = {}
    root = list(range(len(program.values)))
    last: dict[int, int] = {}
    for number, step in enumerate(program.instructions):
        if step.op.view:
            root[step.out] = root[step.args[0]]
        else:
            value = program.values[step.out]
            made[step.out] = prod(value.shape) * value.dtype.itemsize
        last.update((root[n], number) for n in (*step.args, step.out))
    last.update((root[n], len(program.instructions)) for n in program.outputs)
    live = most = 0
    for number, step in enumerate(program.instructions):
        live += made.get(step.out, 0)
        most = max(most, live)
        live -= sum(made.get(n, 0) for n in {root[n] for n in (*step.args, step.out)} if last[n] == number)
    return most


def forget() -> None:
    """Drop all recorded accumulations and their buffers."""
    with _LOCK:
        _SEEN.clear()
        _HELD.clear()


def held_programs() -> int:
    """How many recorded accumulations there are."""
    return len(_entries())


def held_bytes() -> int:
    """Bytes that they hold between calls."""
    return sum(entry.buffer_bytes() for entry in _entries())


def _entries() -> list[Entry]:
    with _LOCK:
        return [entry for entry in _SEEN.values() if isinstance(entry, Entry)]


def _dense(J: Jacobian) -> Any:
    """The dense array: the data itself where that is all there is, as it was made for this call."""
    if len(J.block.terms) == 1:
        (term,) = J.block.terms
        if len(term.factors) == 1 and term.scale == 1.0 and term.plain:
            array, axes = term.factors[0]
            whole = array.size == prod(J.shape) and axes == tuple(labels_in((*term.out, *term.inp)))
            if whole and array.dtype == J.dtype and array.flags.c_contiguous:
                return array.reshape(J.shape)
    return J.todense()


def _passed_on(program: Program) -> int:
    """Bytes of results that are operands as they are."""
    values = [program.values[n] for n in set(program.outputs) & set(program.inputs)]
    return sum(prod(value.shape) * value.dtype.itemsize for value in values)


def _account(key: Any, entry: Entry) -> None:
    """Note what an entry holds; give up the oldest ones, or this one, where all together hold too much."""
    held = entry.buffer_bytes()
    if held == _HELD.get(key, 0):
        return
    with _LOCK:
        if held > MOST_HELD:
            _SEEN[key] = "never"
            _HELD.pop(key, None)
        elif _SEEN.get(key) is entry:
            _HELD[key] = held
            for other in list(_SEEN):
                if sum(_HELD.values()) <= MOST_HELD:
                    break
                if _HELD.pop(other, 0):
                    _SEEN[other] = "never"  # not "once": recorded again and again, they would push each other out


def _operands(ready: Any) -> tuple[dict[Any, Any], tuple[Any, ...]] | None:
    """Arrays that the accumulation may read, by node or by node and operand; and what else is part of the key.

    None where the case follows an outer transformation, or has parameters that are arrays.
    """
    nodes = ready.graph.nodes
    arrays: dict[Any, Any] = {}
    numbers: list[Any] = []
    for i in (*ready.run.inputs, *ready.graph.order):
        node = nodes[i]
        arrays[i] = node.out
        for k, p in enumerate(node.parents):
            if p < 0:
                arg = node.args[k]
                if type(arg) is np.ndarray:
                    arrays[i, k] = arg
                else:
                    numbers.append((i, k, type(arg), repr(arg)))  # 0.0 and -0.0 are equal, and not the same
            elif p not in arrays:
                arrays[p] = node.args[k]
        for value in node.params.values():
            if hasattr(value, "dtype"):
                return None
    for n, (i, y) in enumerate(zip(ready.run.output_nodes, ready.outputs, strict=True)):
        arrays[("output", n) if i is None else i] = y
        numbers.append((i, y.shape))
    for array in arrays.values():
        if type(array) is not np.ndarray:
            return None
        numbers.append(array.dtype.str)
    return arrays, tuple(numbers)


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
