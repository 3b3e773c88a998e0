"""Jacobians of a structure seen before: their accumulation is replayed as a program.

Much of what a Jacobian costs is Python: labels matched, terms composed, the same in every call on the same operations
and shapes. So the first call with a structure is recorded while it is carried out (as `minijac.compile` would record
it), the second makes a program of that, the third binds it to arrays, and from then on only its array operations are
carried out: no call takes longer than the first. `f` itself still runs on the tape in every call. Whatever could differ
between two calls of one structure is part of the key or an operand of the program. What programs hold between calls is
bounded (`MOST_HELD`), and one that works on large arrays is not kept: there, Python is not the cost. Nor is one of a
long program, which it would take longer to record than many calls: compile those.
Nothing of it is held under `max_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.plan import Plan, is_short
from ..accumulation.recording import Prepared
from ..accumulation.results import assemble
from ..algebra.labels import labels_in
from ..arguments import Options
from ..errors import MutationError, TraceError
from ..memo import Memo
from ..operator.jacobian import Jacobian
from ..program.entry import Entry, run_recorded
from ..program.ir import Program
from ..program.record import Foreign
from ..tape.trace import Node

__all__ = ["held_bytes", "held_programs", "replayed"]

MOST_LIVE = 2**24
"""Bytes that one program may need at once. Above, the arithmetic takes longer than Python, and memory counts."""
MOST_HELD = 2**26
"""Bytes that all of them may hold between calls: buffers, and results that the caller let go of."""
NUMBERS = (bool, int, float, complex, np.generic, type(None))
MOST_WHOLE = 2**22
"""Bytes of results that programs make whole. Larger ones are written from their terms after the replay."""


@dataclass
class _Met:
    """What is known of a structure: recorded or not, whether to try, and what its program holds between calls."""

    positions: dict[Any, Any]
    """What structure depends on beside shapes: positions, where entries are listed."""
    entry: Entry | None = None
    called: int = 0
    """Calls since it was recorded."""
    never: bool = False
    held: int = 0


_MET = Memo[_Met](128)
_NUMBERS = Memo[object](1024)
"""By all else that is known of a structure, the numbers among its operands in the last call."""


def replayed(ready: Prepared, plan: Plan, wanted: Options) -> list[list[Any]] | None:
    """``result[output][input]`` as of `results.assemble`, or None where the accumulation has to be carried out."""
    options = wanted
    if options.chunk_size is not None or any(type(x) is not np.ndarray for x in ready.sources):
        return None
    if not is_short(ready.graph):  # to record takes several accumulations
        return None
    found = _operands(ready)
    if found is None:
        return None
    arrays, dtypes, numbers, positions = found
    large = _result_bytes(ready) > MOST_WHOLE
    if large:
        options = replace(options, structured=True)
    mode = options.mode if isinstance(options.mode, str) else str(plan)
    how = mode, options.on_mixing, options.structured
    key = ready.structure, dtypes, tuple(ready.in_axes), tuple(ready.out_axes), how
    met = _MET.seen((key, numbers))
    if met is None or (positions and not _are(met.positions, positions)):
        others = met is not None or _NUMBERS.seen(key) is not None
        met = _MET.put((key, numbers), _Met({where: at.copy() for where, at in positions.items()}))
        _NUMBERS.put(key, numbers)
        if large or others:  # written where it belongs, not copied; or other ones in each call, perhaps
            return None
    if met.never:
        return None
    operands, entry = list(arrays.values()), met.entry
    if entry is None:
        try:
            met.entry, result = run_recorded(_accumulation(ready, plan, options, met.positions), operands)
        except (TraceError, MutationError, Foreign):  # a local derivative that looks at numbers
            met.never = True
            return None
    else:
        met.called += 1
        if met.called == 1 and live_bytes(entry.program) > MOST_LIVE:
            met.entry, met.never = None, True
            return None
        once = met.called == 1 and not entry.executors and made_bytes(entry.program) <= MOST_LIVE
        result = entry.unbound(operands) if once else entry(operands)
        _account(met, entry.buffer_bytes())
    if options.structured and not wanted.structured:
        return [[_dense(J) for J in row] for row in result]
    return [[J if isinstance(J, Jacobian) else np.asarray(J) for J in row] for row in result]


def _are(known: dict[Any, Any], positions: dict[Any, Any]) -> bool:
    return all(np.array_equal(at, known[where]) for where, at in positions.items())


def _result_bytes(ready: Prepared) -> int:
    """Bytes of the dense Jacobians, at most, where samples do not mix."""
    if not ready.outputs or not ready.sources:
        return 0
    entries = sum([y.size for y in ready.outputs]) * sum([x.size for x in ready.sources])
    return entries // (ready.batch or 1) * max([array.itemsize for array in (*ready.outputs, *ready.sources)])


def made_bytes(program: Program) -> int:
    """What all of a program's computed values take together."""
    return sum([program.values[step.out].nbytes for step in program.instructions if not step.op.view])


def live_bytes(program: Program) -> int:
    """The most that a program's computed values take at once."""
    made: dict[int, int] = {}
    root = list(range(len(program.values)))
    last: dict[int, int] = {}
    for number, step in enumerate(program.instructions):
        if step.op.view:
            root[step.out] = root[step.args[0]]
        else:
            made[step.out] = program.values[step.out].nbytes
        last.update((root[n], number) for n in (*step.args, step.out))
    last.update((root[n], len(program.instructions)) for n in program.outputs)
    live = most = 0
    for number, step in enumerate(program.instructions):
        live += made.get(step.out, 0)
        most = max(most, live)
        live -= sum(made.get(n, 0) for n in {root[n] for n in (*step.args, step.out)} if last[n] == number)
    return most


def held_programs() -> int:
    """How many recorded accumulations there are."""
    return len(_entries())


def held_bytes() -> int:
    """Bytes that they hold between calls."""
    return sum(entry.buffer_bytes() for entry in _entries())


def _entries() -> list[Entry]:
    return [met.entry for _, met in _MET.items() if met.entry is not None]


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


def _account(met: _Met, held: int) -> None:
    """Note what a program holds; give up the oldest ones, or this one, where all together hold too much."""
    if held == met.held:
        return
    met.held = held
    others = [other for _, other in _MET.items() if other is not met and other.entry is not None]
    for other in (met, *others) if held > MOST_HELD else (*others, met):
        if sum(one.held for one in (met, *others)) <= MOST_HELD:
            break
        other.entry, other.held = None, 0
        other.never = True  # recorded again and again, they would push each other out


def _operands(ready: Prepared) -> tuple[dict[Any, Any], tuple[Any, ...], tuple[Any, ...], dict[Any, Any]] | None:
    """Arrays that the accumulation may read, by node or by node and operand; their dtypes, with the outputs' shapes;
    the numbers among its operands; and the arrays of positions that its structure depends on, where entries are listed.

    None where the case follows an outer transformation, or has operands or parameters that are neither.
    """
    nodes = ready.graph.nodes
    arrays: dict[Any, Any] = {}
    numbers: list[Any] = []
    dtypes: list[Any] = []
    positions: dict[Any, Any] = {}
    for i in (*ready.run.inputs, *ready.graph.order):
        node = nodes[i]
        arrays[i] = node.out
        for k, p in enumerate(node.parents):
            if p < 0:
                arg = node.args[k]
                if type(arg) is np.ndarray:
                    listed = ready.graph.listed and k in node.op.inert and arg.dtype.kind == "i"  # type: ignore[union-attr]
                    (positions if listed else arrays)[i, k] = arg
                elif isinstance(arg, NUMBERS):
                    numbers.append((i, k, type(arg), repr(arg)))  # 0.0 and -0.0 are equal, and not the same
                else:
                    return None
            elif p not in arrays:
                arrays[p] = node.args[k]
        for value in node.params.values():
            if hasattr(value, "dtype"):
                return None
    for n, (o, y) in enumerate(zip(ready.run.output_nodes, ready.outputs, strict=True)):
        arrays[("output", n) if o is None else o] = y
        dtypes.append((o, y.shape))
    for array in arrays.values():
        if type(array) is not np.ndarray:
            return None
        dtypes.append(array.dtype)
    return arrays, tuple(dtypes), tuple(numbers), positions


def _accumulation(ready: Prepared, plan: Plan, options: Options, positions: dict[Any, Any]) -> Any:
    """The accumulation as a function of its operands alone."""
    order = list(_operands(ready)[0])  # type: ignore[index]
    inputs = ready.run.inputs

    def accumulation(arrays: list[Any]) -> list[list[Any]]:
        value = dict(zip(order, arrays, strict=True)) | positions
        rebuilt = []
        for n, node in enumerate(ready.graph.nodes):
            operands = tuple([
                value[p] if p in value else value.get((n, k), arg)
                for k, (p, arg) in enumerate(zip(node.parents, node.args, strict=True))
            ])  # fmt: skip
            rebuilt.append(Node(node.op, node.parents, operands, node.params, value.get(n), node.where))
        graph = Graph(rebuilt, inputs, ready.nodes, listed=ready.graph.listed)
        sources = [value[i] for i in inputs]
        outputs = [value["output", m] if i is None else value[i] for m, i in enumerate(ready.run.output_nodes)]
        return assemble(ready._replace(graph=graph, sources=sources, outputs=outputs), plan, options)

    return accumulation
