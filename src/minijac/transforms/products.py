"""Products with the Jacobian: tangents, cotangents, and the gradient of a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optree

from ..accumulation.graph import Graph
from ..accumulation.recording import Recorded, run_on_tape
from ..algebra.block import Block
from ..arguments import (
    Function,
    Options,
    argument_positions,
    check_tangent,
    checked_options,
    flatten,
    known_calls,
    output_leaf,
    regrouped,
    some_primals,
    tree_words,
    unflatten,
)
from ..backend import at_home, namespace, shape_of, taken_home, value_of
from ..errors import InputError
from ..foreign import a_function, kind_of
from ..ways.rolled import rolled
from ..ways.thorough import settled
from .roots import smooth_roots

__all__ = ["grad", "hvp", "jvp", "stop_gradient", "value_and_grad", "vjp"]


# -- products with one tangent or cotangent ----------------------------------------------------------------------------
def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
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
    a_function(f, "jvp", "(x,), (v,)")
    check_tuples("jvp", primals, tangents)
    with at_home((tuple(primals), tuple(tangents))) as (own, along):
        return _jvp(f, own, along)


def check_tuples(caller: str, primals: Any, tangents: Any) -> None:
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, tuple | list):
            raise InputError(
                f"{caller}: expected {name} as a tuple, one entry per argument, got {kind_of(given)}. Write (x,)."
            )


def _jvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    run = rolled(run_on_tape(f, primals, {}, range(len(primals)), {}, False, takes_steps=True))
    smooth_roots(run)
    flat, tree = flatten(primals)
    given, given_tree = flatten(tangents)
    if tree != given_tree:
        raise InputError(
            f"tangents: expected the tree of the primals, {tree_words(tree)}, got {tree_words(given_tree)}."
        )
    seeds: dict[int, Block] = {}
    for n, tangent in zip(run.inputs, given, strict=True):
        seeds[n] = Block.column(check_tangent(tangent, run.nodes[n].out, "tangent", "primal"))
    outputs = [output_leaf(y, run.xp) for y in run.outputs]
    graph = Graph(run.nodes, run.inputs, [i for i in run.output_nodes if i is not None])
    like = flat[0] if flat else None

    def pushed() -> list[Any]:
        blocks = graph.forward(seeds, real=True)
        result = []
        for y, i in zip(outputs, run.output_nodes, strict=True):
            block = blocks.get(i, Block(y.shape, ())) if i is not None else Block(y.shape, ())
            result.append(block.dense(y.dtype, y if i is not None else like))
        return result

    return run.value, unflatten(run.tree, settled(graph, pushed))


def hvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of a scalar-valued `f` times tangents, of the tree of the primal; of several primals a tuple.

    Args:
        f: Returns one scalar.
        primals: Tuple of arguments (pytrees).
        tangents: The same trees and shapes.

    Cost: about four times `f`; the Hessian is not formed. Raises InputError where trees or shapes differ.

    >>> import numpy as np
    >>> hvp(lambda x: (x**3).sum(), (np.ones(2),), (np.array([1.0, 2.0]),))
    array([ 6., 12.])
    """
    a_function(f, "hvp", "(x,), (v,)")
    check_tuples("hvp", primals, tangents)
    argnums: Any = 0 if len(primals) == 1 else tuple(range(len(primals)))
    gradient = _with_grad(f, checked_options(argnums=argnums), "hvp")
    return jvp(lambda *args: gradient(*args)[1], primals, tangents)[1]


def vjp(f: Function, *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Value and pullback: ``(y, pullback)``; ``pullback(y_bar)`` is a tuple of one cotangent for each primal.

    Args:
        f: Any differentiable function of the primals; no batch is assumed.
        primals: The arguments (pytrees).

    The pullback may be called any number of times; `y_bar` has the tree and shapes of y. For a complex y it is, as
    torch's is, the derivative of a real loss by the real part of y plus ``1j`` times that by the imaginary part.
    Cost of a call: about twice `f`. Raises InputError where a cotangent differs from y in tree or shape.

    >>> import numpy as np
    >>> y, pullback = vjp(np.sin, np.zeros(2))
    >>> pullback(np.ones(2))
    (array([1., 1.]),)
    """
    a_function(f, "vjp", "x")
    some_primals("vjp", primals)
    with at_home(primals) as own:
        return _vjp(f, own)


def _vjp(f: Function, primals: tuple[Any, ...]) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    run = rolled(run_on_tape(f, primals, {}, range(len(primals)), {}, False, kept=True, takes_steps=True))
    smooth_roots(run)
    outputs = [output_leaf(y, run.xp) for y in run.outputs]
    graph = Graph(run.nodes, run.inputs, [i for i in run.output_nodes if i is not None])
    trees = [flatten(primal)[1] for primal in primals]
    sources = tuple(run.nodes[i].out for i in run.inputs)

    def pullback(y_bar: Any) -> tuple[Any, ...]:
        run.trace.check_captured()
        with at_home(sources), at_home((y_bar,)) as (own,):
            given, tree = flatten(own)
            if tree != run.tree:
                raise InputError(
                    f"cotangent: expected the tree of the output, {tree_words(run.tree)}, got {tree_words(tree)}."
                )
            seeds: dict[int, Block] = {}
            for i, y, cotangent in zip(run.output_nodes, outputs, given, strict=True):
                cotangent = check_tangent(cotangent, y, "cotangent", "output")
                block = Block.column(cotangent.conj() if cotangent.dtype.kind == "c" else cotangent).T
                if i is not None:
                    seeds[i] = seeds[i] + block if i in seeds else block
            return _cotangents(graph, seeds, run, trees)

    return run.value, pullback


def _cotangents(graph: Graph, seeds: dict[int, Block], run: Recorded, trees: Sequence[Any]) -> tuple[Any, ...]:
    def pulled() -> list[Any]:
        blocks = graph.reverse(seeds, real=True)
        sources = [(i, run.nodes[i].out) for i in run.inputs]
        return [blocks.get(i, Block((), x.shape)).dense(x.dtype, x) for i, x in sources]

    return regrouped(settled(graph, pulled), trees)


@known_calls
def value_and_grad(f: Function, argnums: int | Sequence[int] = 0, *, has_aux: bool = False) -> Function:
    """Function that returns ``(y, g)``, or ``((y, aux), g)`` with `has_aux`; `f` runs once. See `grad`.

    >>> import numpy as np
    >>> y, g = value_and_grad(lambda x: (x * x).sum())(np.arange(3.0))
    >>> float(y), g
    (5.0, array([0., 2., 4.]))
    """
    return _with_grad(f, checked_options(argnums=argnums, has_aux=has_aux), "grad")


def _with_grad(f: Function, options: Options, name: str) -> Function:
    """Function that returns value and gradient, for a transformation of this name."""
    argnums, has_aux = options.argnums, options.has_aux

    @taken_home(f, options.leading)
    def with_grad(*args: Any, **kwargs: Any) -> Any:
        positions = argument_positions(argnums, args, f)
        run = rolled(run_on_tape(f, args, kwargs, positions, {}, has_aux, takes_steps=True))
        if len(run.outputs) != 1 or shape_of(run.outputs[0]) != ():
            shapes = [np.shape(y) for y in run.outputs]
            raise InputError(
                f"{name}: expected a function that returns one scalar (shape ()), got {shapes}. Sum or average the "
                "result, or use minijac.jacobian for the derivative of each entry."
            )
        y = output_leaf(run.outputs[0], run.xp)
        if y.dtype.kind == "c":
            raise InputError(
                f"{name}: expected a function that returns a real scalar, got {y.dtype}. Take y.real, y.imag or "
                "np.abs(y), or use minijac.jvp or minijac.jacobian, whose results are complex."
            )
        node = run.output_nodes[0]
        smooth_roots(run)
        graph = Graph(run.nodes, run.inputs, [] if node is None else [node])
        seeds = {} if node is None else {node: Block.identity((), namespace(y).ones((), y.dtype))}
        gradients = _cotangents(graph, seeds, run, [flatten(args[n])[1] for n in positions])
        result = gradients[0] if isinstance(argnums, int | np.integer) else gradients
        return run.told(has_aux) if has_aux or node is not None else y, result

    return with_grad


@known_calls
def grad(f: Function, argnums: int | Sequence[int] = 0, *, has_aux: bool = False) -> Function:
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
