"""Jacobians of a structure seen before: their accumulation is replayed as a program.

Much of what a Jacobian costs is Python: labels matched, terms composed, the same in every call on the same operations
and shapes. So the first call with a structure is recorded while it is carried out (as `minijac.compile` would record
it), the second makes a program of that, the third binds it to arrays, and from then on only its array operations are
carried out: no call takes longer than the first. `f` itself still runs on the tape in every call. Whatever could differ
between two calls of one structure is part of the key or an operand of the program. What programs hold between calls is
bounded (`MOST_HELD`), and one that works on large arrays is not kept: there, Python is not the cost. Nor is one of a
long program, which it would take longer to record than many calls: compile those. Where an outer transformation follows
what is read, as parameters that require grad in `minijac.torch`, the recorded operations are carried out on followed
values from the second call on: it sees what it would have seen.
Nothing of it is held under `max_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from ..accumulation.graph import Graph
from ..accumulation.plan import is_short
from ..accumulation.recording import Prepared
from ..accumulation.results import assemble
from ..algebra.labels import labels_in
from ..arguments import Options
from ..backend import value_of
from ..errors import MutationError, TraceError
from ..memo import Memo
from ..operator.jacobian import Jacobian
from ..ops import REGISTRY
from ..program.entry import Entry, recorded_in, run_recorded
from ..program.ir import Program
from ..program.record import Foreign
from ..tape.trace import Node, Trace
from ..tape.traced import Traced
from .thorough import may_be_settled_again

__all__ = ["follows_array", "held_bytes", "held_programs", "replayed"]

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
    written: Program | None = None
    """What was recorded, operation by operation as the accumulation has it, for values that are followed."""
    called: int = 0
    """Calls since it was recorded."""
    never: bool = False
    held: int = 0


class _Reads(NamedTuple):
    """What the accumulation of a structure may read. Each is the value of a node, at (node, -1), an operand of it, at
    (node, its number), or a result of the function, at (its number, None)."""

    arrays: dict[Any, tuple[int, int | None]]
    """By node, by node and operand, or by the number of an output that no node is."""
    numbers: list[tuple[int, int]]
    positions: list[tuple[int, int]]
    """Where entries are listed, structure depends on these arrays."""
    large: bool
    """Whether its results are written from their terms."""


_MET = Memo[_Met](128)
_NUMBERS = Memo[object](1024)
"""By all else that is known of a structure, the numbers among its operands in the last call."""


def replayed(ready: Prepared, options: Options) -> list[list[Any]] | None:
    """``result[output][input]`` as of `results.assemble`, or None where the accumulation has to be carried out."""
    if options.chunk_size is not None or not is_short(ready.graph):  # to record takes several accumulations
        return None
    found, key = ready.graph.structure.found, ("reads", ready.graph.listed, ready.batch)
    if key not in found:
        found[key] = _reads(ready)
    reads: _Reads | None = found[key]
    if reads is None:
        return None
    nodes, outputs = ready.run.nodes, ready.outputs
    operands = [nodes[i].out if k == -1 else outputs[i] if k is None else nodes[i].args[k]
                for i, k in reads.arrays.values()]  # fmt: skip
    followed = [x for x in operands if type(x) is not ndarray]
    if followed and (not all(map(follows_array, followed)) or _leaves_out(ready.graph)):
        return None
    numbers = tuple([repr(nodes[i].args[k]) for i, k in reads.numbers])  # 0.0 and -0.0 are equal, and not the same
    positions = {(i, k): nodes[i].args[k] for i, k in reads.positions}
    how = options.mode if isinstance(options.mode, str) else str(ready.plan(options.mode))
    kind = ready.graph.structure, *ready.in_axes, *ready.out_axes, how, options.on_mixing, options.structured
    met = _MET.seen((kind, numbers))
    if met is None or (positions and not _are(met.positions, positions)):
        others = met is not None or _NUMBERS.seen(kind) is not None
        met = _MET.put((kind, numbers), _Met({where: at.copy() for where, at in positions.items()}))
        _NUMBERS.put(kind, numbers)
        if (
            reads.large or others or followed
        ):  # written where it belongs, not copied; or other ones in each call, perhaps
            return None
    if followed:
        with np.errstate(all="ignore"):
            result = _followed(met, reads, operands, ready, options)
    elif met.called and met.entry is not None:
        result = met.entry(operands)
        _account(met, met.entry.buffer_bytes())
    else:
        with np.errstate(all="ignore"):
            result = _begun(met, reads, operands, ready, options)
    if result is None:
        return None
    if reads.large and not options.structured:
        with np.errstate(all="ignore"):
            return [[_dense(J) for J in row] for row in result]
    return [[J if isinstance(J, Jacobian | Traced) else np.asarray(J) for J in row] for row in result]


def follows_array(x: Any) -> bool:
    """Whether it is an array that outer transformations follow, and no program records."""
    while isinstance(x, Traced) and type(x.home) is Trace:
        x = x.value
    return type(x) is ndarray


def _leaves_out(graph: Graph) -> bool:
    """Whether entries are known to have no derivative, by numbers, beside one that may be infinite (`thorough`)."""
    if not may_be_settled_again(graph):
        return False
    nodes = [graph.nodes[i] for i in graph.order]
    masks = [mask for node in nodes for mask in (node.live, *node.varying.values()) if mask is not None]
    return not all(np.all(value_of(mask)) for mask in masks)


def _followable(written: Program | None) -> Program | None:
    """A program, unless an operation of it is a derivative that was given as a black box: that has none of its own."""
    known = written is not None and all(REGISTRY.get(step.op.name) is step.op for step in written.instructions)
    return written if known else None


def _followed(met: _Met, reads: _Reads, operands: list[Any], ready: Prepared, options: Options) -> Any:
    """The results on values that outer transformations follow: the program's operations, carried out on them."""
    if met.entry is None:
        _begun(met, reads, list(map(value_of, operands)), ready, options)
    entry, written = met.entry, met.written
    return entry and written and entry.followed(operands, written)


def _begun(met: _Met, reads: _Reads, operands: list[Any], ready: Prepared, options: Options) -> Any:
    """The results of a structure in its first calls, which record it, and make a program of that; None if neither."""
    if met.never:
        return None
    if met.entry is None:
        wanted = replace(options, structured=options.structured or reads.large)
        try:
            met.entry, result = run_recorded(_accumulation(ready, wanted, reads, met.positions), operands)
        except (TraceError, MutationError, Foreign):  # a local derivative that looks at numbers
            met.never = True
            return None
        met.written = _followable(recorded_in(met.entry))
        return result
    entry = met.entry
    met.called += 1
    if live_bytes(entry.program) > MOST_LIVE:
        met.entry, met.never = None, True
        return None
    once = not entry.executors and made_bytes(entry.program) <= MOST_LIVE
    result = entry.unbound(operands) if once else entry(operands)
    _account(met, entry.buffer_bytes())
    return result


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


def _reads(ready: Prepared) -> _Reads | None:
    """What the accumulation of a structure reads; None where some operands are neither arrays nor numbers, or where
    parameters are arrays."""
    nodes = ready.run.nodes
    reads = _Reads({}, [], [], _result_bytes(ready) > MOST_WHOLE)
    for i in (*ready.run.inputs, *ready.graph.order):
        node = nodes[i]
        reads.arrays[i] = i, -1
        for k, p in enumerate(node.parents):
            if p >= 0:
                reads.arrays.setdefault(p, (i, k))
            elif type(node.args[k]) is ndarray or (isinstance(node.args[k], Traced) and k not in node.op.inert):  # type: ignore[union-attr]
                listed = ready.graph.listed and k in node.op.inert and node.args[k].dtype.kind == "i"  # type: ignore[union-attr]
                if listed:
                    reads.positions.append((i, k))
                else:
                    reads.arrays[i, k] = i, k
            elif isinstance(node.args[k], NUMBERS):
                reads.numbers.append((i, k))
            else:
                return None
        if any(hasattr(value, "dtype") for value in node.params.values()):
            return None
    for n, o in enumerate(ready.run.output_nodes):
        reads.arrays[("output", n) if o is None else o] = n, None
    return reads


def _accumulation(ready: Prepared, options: Options, reads: _Reads, positions: dict[Any, Any]) -> Any:
    """The accumulation as a function of its operands alone."""
    plan = ready.plan(options.mode)
    inputs = ready.run.inputs

    def accumulation(arrays: list[Any]) -> list[list[Any]]:
        value = dict(zip(reads.arrays, arrays, strict=True)) | positions
        rebuilt = []
        for n, node in enumerate(ready.graph.nodes):
            operands = tuple([
                value[p] if p in value else value.get((n, k), arg)
                for k, (p, arg) in enumerate(zip(node.parents, node.args, strict=True))
            ])  # fmt: skip
            rebuilt.append(Node(node.op, node.parents, operands, node.params, value.get(n), node.where))
        graph = Graph(rebuilt, inputs, ready.nodes, None, ready.graph.listed, ready.graph.structure)
        graph.own = ready.graph.own
        sources = [value[i] for i in inputs]
        outputs = [value["output", m] if i is None else value[i] for m, i in enumerate(ready.run.output_nodes)]
        return assemble(ready._replace(graph=graph, sources=sources, outputs=outputs), plan, options)

    return accumulation
