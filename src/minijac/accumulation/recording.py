"""A function run on the tape: what was recorded, and where its samples go, ready to accumulate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arguments import (
    Options,
    argument_positions,
    batch_axes,
    batch_size,
    differentiable,
    flatten,
    output_leaf,
    returned,
    unflatten,
    with_aux,
)  # fmt: skip
from ..backend import holds_array, is_array, module_of
from ..errors import InputError, TraceError
from ..foreign import a_function, remedy_for
from ..lines import user_line
from ..numpy.ordered import returned as in_place
from ..places import ANYWHERE, Place, Where, raise_mixing
from ..tape.trace import Node, Trace
from ..tape.traced import Traced
from .graph import Graph, structure_of
from .plan import Plan, plan_for
from .samples import follow_samples

__all__ = ["Prepared", "Recorded", "prepare", "run_on_tape", "sample_places"]


class Recorded(NamedTuple):
    """A function's run on the tape: nodes, one input node per differentiated leaf, outputs as leaves and as nodes."""

    trace: Trace
    nodes: list[Node]
    inputs: list[int]
    others: dict[int, int]
    """Input nodes that are not differentiated but hold samples, with their batch axis."""
    outputs: list[Any]
    output_nodes: list[int | None]
    tree: Any
    aux: Any
    xp: Any
    """The module of the arguments' arrays."""

    @property
    def value(self) -> Any:
        """What the function returned, a copy for the caller."""
        return unflatten(self.tree, [_owned(y) for y in self.outputs])

    def told(self, has_aux: bool) -> Any:
        """What is returned beside a derivative: the value, or ``(value, aux)``."""
        return (self.value, self.aux) if has_aux else self.value


def run_on_tape(
    f: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    positions: Sequence[int],
    batched: dict[int, Sequence[int | None]],
    has_aux: bool,
    kept: bool = False,
    takes_steps: bool = False,
    listed: bool = False,
) -> Recorded:
    """Run `f` once with the leaves of the arguments at `positions` traced.

    `batched` holds the batch axes of arguments that are traced only to follow their samples. With `kept`, what is
    recorded outlives the call, so the leaves are copied: the caller may write to them. With `takes_steps`, functions
    that are to be recomputed are steps, and so are loops, unless entries are to stay `listed`.
    """
    call = list(args)
    inputs: list[int] = []
    others: dict[int, int] = {}
    xp = module_of(args)
    with Trace() as trace:
        trace.takes_steps, trace.takes_loops = takes_steps, takes_steps and not listed
        for n in (*positions, *batched):
            leaves, tree = flatten(args[n])
            if args[n] is None:
                raise InputError(f"argument {n}: expected arrays to differentiate by, got None. {remedy_for(None)}")
            traced = []
            for k, leaf in enumerate(leaves):
                if n in batched and (batched[n][k] is None or not holds_array(leaf)):
                    traced.append(leaf)
                    continue
                leaf = differentiable(leaf, n, xp) if n in positions else leaf
                value = trace.input(_owned(leaf) if kept else leaf)
                traced.append(value)
                if n in positions:
                    inputs.append(value.index)
                else:
                    others[value.index] = batched[n][k]  # type: ignore[assignment]
            call[n] = unflatten(tree, traced)
        result = a_function(f)(*call, **kwargs)
        trace.check_captured()
        result, aux = with_aux(returned(result, f)) if has_aux else (returned(result, f), None)
        leaves, tree = _settled(result)
        aux_leaves, aux_tree = _settled(aux) if has_aux else ([], None)
    nodes = [_node(leaf, trace) for leaf in leaves]
    outputs = [_stripped(leaf, trace) for leaf in leaves]
    aux = unflatten(aux_tree, [_owned(_stripped(leaf, trace)) for leaf in aux_leaves]) if has_aux else None
    return Recorded(trace, trace.nodes, inputs, others, outputs, nodes, tree, aux, xp)


def _settled(result: Any) -> tuple[list[Any], Any]:
    """The leaves of a result, as they are when the function ends: what waits to be written is written."""
    leaves, tree = flatten(result)
    return [in_place(leaf).fresh() if isinstance(leaf, Traced) else leaf for leaf in leaves], tree


def _node(leaf: Any, trace: Trace) -> int | None:
    return leaf.index if isinstance(leaf, Traced) and leaf.home is trace and leaf.index >= 0 else None


def _stripped(leaf: Any, trace: Trace) -> Any:
    """A result without the trace that has just ended."""
    if not isinstance(leaf, Traced):
        return leaf
    if leaf.home is trace:
        return leaf.value
    if not leaf.home.open:
        raise TraceError(
            f"the function returned, at {user_line()}, a traced value stored outside of it before, or what a mask "
            "picks under compile. Expected values made in this call; what is picked put back, `y[m] = g(x[m])`."
        )
    return leaf


def _owned(y: Any) -> Any:
    """A copy that the caller may write to: `y` may be a view of an argument, or needed again by a pullback."""
    if isinstance(y, Traced):
        return y.fresh()
    return y.copy() if is_array(y) and not isinstance(y, np.generic) else y


class Prepared(NamedTuple):
    """A recorded function, ready to accumulate: the graph, and where inputs and outputs hold their samples."""

    run: Recorded
    graph: Graph
    positions: tuple[int, ...]
    sources: list[Any]
    """The differentiated leaves."""
    outputs: list[Any]
    in_axes: list[int | None]
    out_axes: list[int | None]
    batch: int | None
    nodes: list[int]
    """The output nodes, each once."""
    mixes: bool
    """Whether samples mix."""

    @property
    def seeds(self) -> tuple[int, int]:
        """How many entries the inputs and the outputs have, for each sample."""
        ends = (self.sources, self.in_axes), (self.outputs, self.out_axes)
        found = [sum(x.size if axis is None else x.size // (self.batch or 1) for x, axis in zip(*end, strict=True))
                 for end in ends]  # fmt: skip
        return found[0], found[1]

    def plan(self, mode: Any) -> Plan:
        """The plan of a mode (`plan.plan_for`)."""
        return plan_for(self.graph, mode, self.run.inputs, self.nodes, None, lambda: self.seeds)


def prepare(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options, rolled: Any = None
) -> Prepared:
    """Run `f` on the tape, and follow its samples from the inputs to the outputs. Raises where they mix.

    ``rolled(run, followed)`` may put loops and other steps on the tape, which takes them then (`ways.rolled`).
    """
    positions = argument_positions(options.argnums, args, f)
    axes = batch_axes(options.batch_axis, args)
    batch = batch_size(args, axes)
    leaf_axes = [axis for n in positions for axis in axes[n]]
    follow: dict[int, Sequence[int | None]] = {}
    if set(leaf_axes) <= {None}:  # only other arguments hold samples: trace them to find the output's
        follow = {n: own for n, own in enumerate(axes) if any(axis is not None for axis in own)}
    steps, has_aux, structured = rolled is not None, options.has_aux, options.structured
    run = run_on_tape(f, args, kwargs, positions, follow, has_aux, structured, steps, structured)
    followed = partial(_followed, options=options, positions=positions, leaf_axes=leaf_axes, batch=batch)
    return rolled(run, followed) if steps else followed(run)


def _followed(run: Recorded, options: Options, positions: Any, leaf_axes: Any, batch: int | None) -> Prepared:
    outputs = [output_leaf(value, run.xp) for value in run.outputs]
    sources = [run.nodes[i].out for i in run.inputs]
    in_axes: list[int | None] = []
    for axis, x in zip(leaf_axes, sources, strict=True):
        if axis is not None and not x.ndim:
            raise InputError(
                "expected arrays with samples to differentiate, got a number among them. Make it an array, (B,), or "
                "pass it as an argument that argnums leaves out, or that batch_axis=(0, None) says is shared."
            )
        in_axes.append(None if axis is None else axis % x.ndim)
    nodes = list(dict.fromkeys([i for i in run.output_nodes if i is not None]))
    returned = tuple([(i, y.shape, y.dtype) for i, y in zip(run.output_nodes, outputs, strict=True)])
    structure = structure_of(run.nodes, run.inputs, nodes, options.structured, returned)
    graph = Graph(run.nodes, run.inputs, nodes, None, options.structured, structure)
    key = "samples", batch, *in_axes, options.on_mixing == "raise"
    found = None if run.others else structure.found.get(key)
    out_axes, mixes = found or ([], False)
    ready = Prepared(run, graph, positions, sources, outputs, in_axes, out_axes, batch, nodes, mixes)
    if found is None:
        out_axes, mixes = found = _out_axes(ready, options)
        if not run.others and not graph.by_positions:
            structure.found[key] = found
        ready = ready._replace(out_axes=out_axes, mixes=mixes)
    return ready


def _out_axes(ready: Prepared, options: Options) -> tuple[list[int | None], bool]:
    """The batch axis of every output, and whether samples mix. Raises where an output has lost them."""
    if ready.batch is None:
        return [None] * len(ready.outputs), False
    places, mixing = sample_places(ready)
    if mixing is not None and options.on_mixing == "raise":
        raise_mixing(mixing, ready.batch)
    pairs = zip(ready.outputs, ready.run.output_nodes, strict=True)
    return [_output_axis(y, None if i is None else places.get(i), ready.batch) for y, i in pairs], mixing is not None


def sample_places(ready: Prepared) -> tuple[dict[int, Where], Node | None]:
    """Where each node has its samples, and where they mix."""
    run, graph, batch = ready.run, ready.graph, ready.batch or 0
    pairs = zip(run.inputs, ready.in_axes, strict=True)
    held: dict[int, Where] = {i: Place(axis, 1) for i, axis in pairs if axis is not None}
    active = set(held)
    if run.others:
        graph = Graph(run.nodes, [*run.inputs, *run.others], ready.nodes)
        others = ((i, axis, run.nodes[i].out.ndim) for i, axis in run.others.items())
        held = {i: Place(axis % ndim, 1) for i, axis, ndim in others if ndim}
    return follow_samples(graph, held, active, batch, ready.nodes)


def _output_axis(y: Any, place: Where, batch: int) -> int:
    # an axis of length B beside the one that the samples are merged into is not theirs
    if isinstance(place, Place) and place is not ANYWHERE:
        if place.stride == 1 and y.shape[place.axis] == batch:
            return place.axis
    elif batch in y.shape and (y.shape[0] == batch or place is ANYWHERE):
        return y.shape.index(batch)
    raise InputError(
        f"output of shape {y.shape}: expected its samples on an axis of their own, got none of length {batch} that "
        "follows the input's samples (a merged batch axis has to be split again; a constant output or one that mixes "
        "samples needs them on axis 0). Return it as aux (has_aux=True) if its Jacobian is not wanted."
    )
