"""The transformations: arguments, trees and policy around the accumulation of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import optree

from .accumulate import ANYWHERE, Graph, Place, raise_mixing
from .arguments import (
    Options,
    argument_positions,
    batch_axes,
    batch_size,
    check_tangent,
    differentiable,
    flatten,
    output_leaf,
)
from .backend import at_home, holds_array, is_array, module_of, namespace, taken_home, value_of
from .block import Block
from .bounded import within_bytes
from .chunking import assemble
from .errors import InputError, TraceError
from .lines import user_line
from .plan import plan_for, signature
from .program.replay import replayed
from .tape import Node, Trace, Traced

__all__ = [
    "grad",
    "jacobian",
    "jvp",
    "linearize",
    "stop_gradient",
    "value_and_grad",
    "value_and_jacobian",
    "vjp",
]


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
    value: Any
    aux: Any
    xp: Any
    """The module of the arguments' arrays."""


@contextmanager
def open_trace() -> Iterator[Trace]:
    trace = Trace()
    try:
        yield trace
    finally:
        trace.close()


def record(
    f: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    positions: Sequence[int],
    batched: dict[int, int],
    has_aux: bool,
    kept: bool = False,
) -> Recorded:
    """Run `f` once with the leaves of the arguments at `positions` traced.

    `batched` holds the batch axis of arguments that are traced only to follow their samples. With `kept`, what is
    recorded outlives the call, so the leaves are copied: the caller may write to them.
    """
    call = list(args)
    inputs: list[int] = []
    others: dict[int, int] = {}
    xp = module_of(args)
    with open_trace() as trace:
        for n in (*positions, *batched):
            leaves, tree = flatten(args[n])
            traced = []
            for leaf in leaves:
                if n in batched and not holds_array(leaf):
                    traced.append(leaf)
                    continue
                leaf = differentiable(leaf, n, xp) if n in positions else leaf
                value = trace.input(_owned(leaf) if kept else leaf)
                traced.append(value)
                if n in positions:
                    inputs.append(value.index)
                else:
                    others[value.index] = batched[n]
            call[n] = optree.tree_unflatten(tree, traced)
        result = f(*call, **kwargs)
        trace.check_captured()
        aux = None
        if has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise InputError(
                    f"has_aux=True: expected the function to return (y, aux), got {type(result).__name__}. Return a "
                    "pair, or leave has_aux out."
                )
            result, aux = result
    leaves, tree = flatten(result)
    nodes = [leaf.index if isinstance(leaf, Traced) and leaf.home is trace else None for leaf in leaves]
    outputs = [_stripped(leaf, trace) for leaf in leaves]
    aux_leaves, aux_tree = flatten(aux)
    return Recorded(
        trace,
        trace.nodes,
        inputs,
        others,
        outputs,
        nodes,
        tree,
        optree.tree_unflatten(tree, [_owned(y) for y in outputs]),
        optree.tree_unflatten(aux_tree, [_stripped(leaf, trace) for leaf in aux_leaves]),
        xp,
    )


def _stripped(leaf: Any, trace: Trace) -> Any:
    """A result without the trace that has just ended."""
    if not isinstance(leaf, Traced):
        return leaf
    if leaf.home is trace:
        return leaf.value
    if not leaf.home.open:
        raise TraceError(
            f"the function returned, at {user_line()}, a traced value of a transformation that has returned before. "
            "Expected values made in this call: do not store traced values outside of the function."
        )
    return leaf


def _owned(y: Any) -> Any:
    """A copy that the caller may write to: `y` may be a view of an argument, or needed again by a pullback."""
    return y.copy() if is_array(y) and not isinstance(y, np.generic) else y


# -- Jacobians ---------------------------------------------------------------------------------------------------------
def value_and_jacobian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    batch_axis: int | Sequence[int | None] | None = 0,
    mode: str = "auto",
    on_mixing: str = "raise",
    structured: bool = False,
    has_aux: bool = False,
    chunk_size: int | None = None,
    max_bytes: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    """Function that returns ``(y, J)``, or ``((y, aux), J)`` with `has_aux`; `f` runs once. See `jacobian`.

    >>> import numpy as np
    >>> y, J = value_and_jacobian(np.sin)(np.zeros((2, 3)))
    >>> y.shape, J.shape
    ((2, 3), (2, 3, 3))
    """
    options = Options(argnums, batch_axis, mode, on_mixing, structured, has_aux, chunk_size, max_bytes, progress)

    @taken_home(f)
    def with_jacobian(*args: Any, **kwargs: Any) -> Any:
        run, result = _jacobian(f, args, kwargs, options)
        return ((run.value, run.aux) if has_aux else run.value), result

    return with_jacobian


def jacobian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    batch_axis: int | Sequence[int | None] | None = 0,
    mode: str = "auto",
    on_mixing: str = "raise",
    structured: bool = False,
    has_aux: bool = False,
    chunk_size: int | None = None,
    max_bytes: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    """Function that returns the per-sample Jacobians ``d y_i / d x_i`` of a batched function.

    Args:
        f: Maps arrays for a whole batch to arrays for a whole batch; it is called once, with the true shapes. Takes
            and returns any pytree of arrays.
        argnums: The positional argument(s) to differentiate. A tuple gives a tuple of Jacobians at each output leaf.
        batch_axis: The axis that holds the samples, for each positional argument: one int or None for all, or a tuple.
            None: shared by all samples. All None: the ordinary Jacobian ``(*out, *in)``.
        mode: ``"forward"``, ``"reverse"``, ``"mixed"``, or ``"auto"``, the cheapest by predicted cost. All agree to
            rounding.
        on_mixing: If samples mix: ``"raise"``, ``"diagonal"`` (the exact ``d y_i / d x_i``), or ``"full"``
            (``(B, *out, B, *in)``).
        structured: Return the Jacobian as an operator (`minijac.Jacobian`) instead of a dense array.
        has_aux: `f` returns ``(y, aux)``; the result is ``(J, aux)``.
        chunk_size: Seeds (columns of the per-sample Jacobian in forward mode, rows in reverse) at a time.
        max_bytes: Bound on peak memory beside inputs and result.
        progress: Show a progress bar over chunks (needs tqdm).

    Returns:
        A function of the same arguments. For x: ``(B, *in)`` and y: ``(B, *out)`` it returns ``(B, *out, *in)``, of
        dtype ``numpy.result_type(y, x)``, C-contiguous and newly made.

    Raises:
        BatchMixingError: One sample's output depends on another's input, and `on_mixing` is ``"raise"``.
        InputError: Wrong dtype, rank, batch sizes or option.

    Cost: a forward pass of `f`, and per sample and seed about as much again, less where blocks are sparse or shared.

    >>> import numpy as np
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> jacobian(lambda x: x * x)(x)[1]
    array([[4., 0.],
           [0., 6.]])
    """
    options = Options(argnums, batch_axis, mode, on_mixing, structured, has_aux, chunk_size, max_bytes, progress)

    @taken_home(f)
    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        run, result = _jacobian(f, args, kwargs, options)
        return (result, run.aux) if has_aux else result

    return jacobian_of


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
    structure: Any
    """What plans depend on (`plan.signature`)."""


def prepare(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Prepared:
    """Run `f` on the tape, and follow its samples from the inputs to the outputs. Raises where they mix."""
    positions = argument_positions(options.argnums, args)
    axes = batch_axes(options.batch_axis, args)
    batch = batch_size(args, axes)
    follow: dict[int, int] = {}
    if all(axes[n] is None for n in positions):  # only other arguments hold samples: trace them to find the output's
        follow = {n: axis for n, axis in enumerate(axes) if axis is not None}
    run = record(f, args, kwargs, positions, follow, options.has_aux, kept=options.structured)

    outputs = [output_leaf(value, run.xp) for value in run.outputs]
    sources = [run.nodes[i].out for i in run.inputs]
    leaf_axes = [axis for n in positions for axis in [axes[n]] * len(flatten(args[n])[0])]
    in_axes = [None if axis is None else axis % x.ndim for axis, x in zip(leaf_axes, sources, strict=True)]

    nodes = list(dict.fromkeys(i for i in run.output_nodes if i is not None))
    graph = Graph(run.nodes, run.inputs, nodes)
    structure = signature(graph, run.inputs, nodes)
    shapes = tuple([y.shape for y in outputs])
    key = structure, batch, tuple(in_axes), tuple(run.output_nodes), shapes, options.on_mixing == "raise"
    out_axes = None if run.others else _OUT_AXES.get(key)
    if out_axes is None:
        out_axes = _out_axes(run, graph, nodes, in_axes, outputs, batch, options)
        if len(_OUT_AXES) >= 1024:
            _OUT_AXES.clear()
        _OUT_AXES[key] = out_axes
    return Prepared(run, graph, positions, sources, outputs, in_axes, out_axes, batch, nodes, structure)


_OUT_AXES: dict[Any, list[int | None]] = {}
"""Where outputs hold their samples, for structures that were followed before and mix none."""


def _out_axes(
    run: Recorded,
    graph: Graph,
    nodes: list[int],
    in_axes: list[int | None],
    outputs: list[Any],
    batch: int | None,
    options: Options,
) -> list[int | None]:
    """The batch axis of every output. Raises where samples mix, or where an output has lost them."""
    if batch is None:
        return [None] * len(outputs)
    if run.others:
        whole = Graph(run.nodes, [*run.inputs, *run.others], nodes)
        others = {i: axis % run.nodes[i].out.ndim for i, axis in run.others.items() if run.nodes[i].out.ndim}
        places, mixing = whole.places(others, set(), batch)
    else:
        held = {i: axis for i, axis in zip(run.inputs, in_axes, strict=True) if axis is not None}
        places, mixing = graph.places(held, set(held), batch)
    if mixing is not None and options.on_mixing == "raise":
        raise_mixing(mixing, batch)
    return [
        _output_axis(y, None if i is None else places.get(i), batch)
        for y, i in zip(outputs, run.output_nodes, strict=True)
    ]


def _jacobian(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
) -> tuple[Recorded, Any]:
    if options.max_bytes is not None:
        prepared = lambda *part: prepare(f, part, kwargs, options)  # noqa: E731
        ready, value, aux, pairs = within_bytes(prepared, args, options)
        return ready.run._replace(value=value, aux=aux), as_trees(pairs, ready, args, options)
    ready = prepare(f, args, kwargs, options)
    with np.errstate(all="ignore"):  # infinite derivatives are results; the function's own warnings were given
        mode = "either" if options.mode == "auto" and options.chunk_size is not None else options.mode
        plan = plan_for(ready.graph, mode, ready.run.inputs, ready.nodes, ready.structure)
        pairs = replayed(ready, plan, options) or assemble(
            ready.graph,
            ready.run.inputs,
            ready.run.output_nodes,
            ready.sources,
            ready.outputs,
            ready.in_axes,
            ready.out_axes,
            plan,
            options,
        )
    return ready.run, as_trees(pairs, ready, args, options)


def _output_axis(y: Any, place: Place | None, batch: int) -> int:
    if (
        place is not None and place is not ANYWHERE
    ):  # an axis of length B beside the one that the samples are merged into is not theirs
        if place.stride == 1 and y.shape[place.axis] == batch:
            return place.axis
    elif y.ndim and y.shape[0] == batch:
        return 0
    raise InputError(
        f"output of shape {y.shape}: expected its samples on an axis of their own, got none of length {batch} that "
        "follows the input's samples (a merged batch axis has to be split again; a constant output or one that mixes "
        "samples needs them on axis 0). Return it as aux (has_aux=True) if its Jacobian is not wanted."
    )


def as_trees(pairs: list[list[Any]], ready: Prepared, args: tuple[Any, ...], options: Options) -> Any:
    """``J[out][arg][in]``: the output's tree outside, then the tuple of arguments, then each argument's tree."""
    rows = []
    for row in pairs:
        per_argument, start = [], 0
        for n in ready.positions:
            leaves, tree = flatten(args[n])
            per_argument.append(optree.tree_unflatten(tree, row[start : start + len(leaves)]))
            start += len(leaves)
        rows.append(per_argument[0] if isinstance(options.argnums, int | np.integer) else tuple(per_argument))
    return optree.tree_unflatten(ready.run.tree, rows)


def linearize(
    f: Callable[..., Any], *primals: Any, batch_axis: int | Sequence[int | None] | None = 0
) -> tuple[Any, Any]:
    """``(y, J)`` with `J` the structured per-sample Jacobian at `primals`, its products not yet multiplied out.

    Args:
        f: A batched function of the primals.
        primals: The arguments, all differentiated. With several, `J` has a tuple of Jacobians at each output leaf.
        batch_axis: As for `jacobian`.

    >>> import numpy as np
    >>> y, J = linearize(lambda x: np.sin(x), np.zeros((2, 3)))
    >>> J @ np.ones((2, 3))
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    if not primals:
        raise InputError("linearize: expected at least one primal after the function, got none.")
    argnums: Any = 0 if len(primals) == 1 else tuple(range(len(primals)))
    return value_and_jacobian(f, argnums, batch_axis=batch_axis, structured=True)(*primals)


# -- products with one tangent or cotangent ----------------------------------------------------------------------------
def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """Value and directional derivative: ``(y, y_dot)`` with ``y_dot = J @ tangents``.

    Args:
        f: Any differentiable function of the primals; no batch is assumed.
        primals: Tuple of arguments (pytrees).
        tangents: The same trees and shapes.

    Cost: about twice `f`. Raises InputError where tangents and primals differ in tree or shape.

    >>> import numpy as np
    >>> jvp(np.sin, (np.zeros(2),), (np.ones(2),))
    (array([0., 0.]), array([1., 1.]))
    """
    for name, given_tuple in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given_tuple, tuple | list):
            raise InputError(
                f"jvp: expected {name} as a tuple, one entry per argument, got {type(given_tuple).__name__}."
            )
    with at_home((tuple(primals), tuple(tangents))) as (own, along):
        return _jvp(f, own, along)


def _jvp(f: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    run = record(f, primals, {}, range(len(primals)), {}, False)
    flat, tree = flatten(primals)
    given, given_tree = flatten(tangents)
    if tree != given_tree:
        raise InputError(f"tangents: expected the tree of the primals, {tree}, got {given_tree}.")
    seeds: dict[int, Block] = {}
    for n, tangent in zip(run.inputs, given, strict=True):
        seeds[n] = Block.column(check_tangent(tangent, run.nodes[n].out, "tangent", "primal"))
    outputs = [output_leaf(y, run.xp) for y in run.outputs]
    graph = Graph(run.nodes, run.inputs, [i for i in run.output_nodes if i is not None])
    blocks = graph.forward(seeds)
    like = flat[0] if flat else None
    result = []
    for y, i in zip(outputs, run.output_nodes, strict=True):
        block = blocks.get(i, Block(y.shape, ())) if i is not None else Block(y.shape, ())
        result.append(block.dense(y.dtype, y if i is not None else like))
    return run.value, optree.tree_unflatten(run.tree, result)


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Value and pullback: ``(y, pullback)``; ``pullback(y_bar)`` is a tuple of one cotangent for each primal.

    Args:
        f: Any differentiable function of the primals; no batch is assumed.
        primals: The arguments (pytrees).

    The pullback may be called any number of times; `y_bar` has the tree and shapes of y. Cost of a call: about twice
    `f`. Raises InputError where a cotangent differs from y in tree or shape.

    >>> import numpy as np
    >>> y, pullback = vjp(np.sin, np.zeros(2))
    >>> pullback(np.ones(2))
    (array([1., 1.]),)
    """
    with at_home(primals) as own:
        return _vjp(f, own)


def _vjp(f: Callable[..., Any], primals: tuple[Any, ...]) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    run = record(f, primals, {}, range(len(primals)), {}, False, kept=True)
    outputs = [output_leaf(y, run.xp) for y in run.outputs]
    graph = Graph(run.nodes, run.inputs, [i for i in run.output_nodes if i is not None])
    trees = [flatten(primal) for primal in primals]
    sources = tuple(run.nodes[i].out for i in run.inputs)

    def pullback(y_bar: Any) -> tuple[Any, ...]:
        run.trace.check_captured()
        with at_home(sources), at_home((y_bar,)) as (own,):
            given, tree = flatten(own)
            if tree != run.tree:
                raise InputError(f"cotangent: expected the tree of the output, {run.tree}, got {tree}.")
            seeds: dict[int, Block] = {}
            for i, y, cotangent in zip(run.output_nodes, outputs, given, strict=True):
                block = Block.column(check_tangent(cotangent, y, "cotangent", "output")).T
                if i is not None:
                    seeds[i] = seeds[i] + block if i in seeds else block
            return _cotangents(graph, seeds, run, trees)

    return run.value, pullback


def _cotangents(graph: Graph, seeds: dict[int, Block], run: Recorded, trees: list[Any]) -> tuple[Any, ...]:
    blocks = graph.reverse(seeds)
    dense = []
    for i in run.inputs:
        x = run.nodes[i].out
        dense.append(blocks.get(i, Block((), x.shape)).dense(x.dtype, x))
    result, start = [], 0
    for leaves, tree in trees:
        result.append(optree.tree_unflatten(tree, dense[start : start + len(leaves)]))
        start += len(leaves)
    return tuple(result)


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """Function that returns ``(y, g)``, or ``((y, aux), g)`` with `has_aux`; `f` runs once. See `grad`.

    >>> import numpy as np
    >>> y, g = value_and_grad(lambda x: (x * x).sum())(np.arange(3.0))
    >>> float(y), g
    (5.0, array([0., 2., 4.]))
    """
    Options(argnums, None, "auto", "raise", False, has_aux, None, None, False)

    @taken_home(f)
    def with_grad(*args: Any, **kwargs: Any) -> Any:
        positions = argument_positions(argnums, args)
        run = record(f, args, kwargs, positions, {}, has_aux)
        if len(run.outputs) != 1 or np.shape(run.outputs[0]) != ():
            shapes = [np.shape(y) for y in run.outputs]
            raise InputError(
                f"grad: expected a function that returns one scalar (shape ()), got {shapes}. Sum or average the "
                "result, or use minijac.jacobian for the derivative of each entry."
            )
        y = output_leaf(run.outputs[0], run.xp)
        node = run.output_nodes[0]
        graph = Graph(run.nodes, run.inputs, [] if node is None else [node])
        seeds = {} if node is None else {node: Block.identity((), namespace(y).ones((), y.dtype))}
        gradients = _cotangents(graph, seeds, run, [flatten(args[n]) for n in positions])
        result = gradients[0] if isinstance(argnums, int | np.integer) else gradients
        return ((run.value, run.aux) if has_aux else run.value if node is not None else y), result

    return with_grad


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False) -> Callable[..., Any]:
    """Function that returns the gradient of a scalar-valued `f`.

    Args:
        f: Returns one scalar; a sum over the batch is legitimate here.
        argnums: The positional argument(s) to differentiate (pytrees); a tuple gives a tuple of gradients.
        has_aux: `f` returns ``(y, aux)``; the result is ``(g, aux)``.

    Returns a function of the same arguments; gradients have the trees, shapes and dtypes of the arguments. Cost: about
    three times `f`. Raises InputError where the output is no scalar.

    >>> import numpy as np
    >>> grad(lambda x: (x**3).sum())(np.arange(3.0))
    array([ 0.,  3., 12.])
    """
    with_value = value_and_grad(f, argnums, has_aux=has_aux)

    @taken_home(f)
    def grad_of(*args: Any, **kwargs: Any) -> Any:
        value, result = with_value(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return grad_of


def stop_gradient(x: Any) -> Any:
    """`x` (a pytree), treated as constant: its plain value, free of all traces.

    >>> import numpy as np
    >>> grad(lambda x: x * stop_gradient(x))(np.float64(3.0))
    array(3.)
    """
    return optree.tree_map(value_of, x, namespace="minijac")
