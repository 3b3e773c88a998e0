"""The Hessian: the Jacobian of the Jacobian or, where that is less work, a sum over the operations that bend.

With ``J_a`` the derivative of a value a by the inputs, and ``c`` that of the output by an operation y = F(a, b, ...),

    H = sum over operations of  sum_{a,b} J_a' (c F_ab) J_b

(Gower and Mello, A new framework for the computation of Hessians, 2012). Of a network with more neurons than inputs,
that is one pass forward with a column for each input, one pass back with a row for each output, and small products,
where the Jacobian of the Jacobian takes both passes with a column for each input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from math import prod
from typing import Any, Unpack

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.plan import Plan, price
from ..accumulation.recording import Prepared
from ..accumulation.results import batch_first, result_dtype
from ..accumulation.seeds import shared, unit, without_axis
from ..algebra.block import Block
from ..algebra.terms import Term
from ..arguments import Argnums, Function, Options, SecondOptions, checked_options, known_options
from ..backend import taken_home
from ..ops.families import Elementwise, Multilinear
from ..prices import CALL_PER_MATRIX, MATMUL
from ..tape.trace import Node
from ..ways.replay import follows_array
from ..ways.thorough import settled
from .dask import chunkwise
from .elementwise import shape_of_partials
from .first import as_arguments, as_trees, jacobian, recorded, result_of
from .pulled import Adjoints, add_to
from .second import forms_of, without_value

__all__ = ["hessian", "value_and_hessian"]


# -- the sum over operations -------------------------------------------------------------------------------------------
def _may_be_summed(ready: Prepared, options: Options) -> bool:
    """Whether all that bends are operations with bilinear forms, in a whole result of samples that do not mix."""
    if options.structured or options.on_mixing == "full" or ready.mixes or not ready.nodes:
        return False
    if options.mode != "auto" or options.chunk_size is not None or options.max_bytes is not None:
        return False
    graph = ready.graph
    if graph.by_positions or graph.structure.stepped or graph.of_complex():
        return False
    return all(isinstance(node.op, Elementwise | Multilinear) and node.op.curved is None for node in _bent(graph))


def _bent(graph: Graph) -> list[Node]:
    """The operations that have a second derivative."""
    found = graph.structure.found
    if "bent" not in found:
        found["bent"] = [i for i in graph.order if not _linear(graph.nodes[i], graph.operands(i))]
    return [graph.nodes[i] for i in found["bent"]]


def _linear(node: Node, operands: Sequence[tuple[int, int]]) -> bool:
    if isinstance(node.op, Elementwise):
        return shape_of_partials(node, operands)[0]
    return node.op.flat or (isinstance(node.op, Multilinear) and len(operands) == 1)  # type: ignore[union-attr]


def _is_less(ready: Prepared) -> bool:
    """Whether a product for each bent entry and two inputs is less than a pass back for each input.

    Where no program is recorded, the Jacobian of the Jacobian is replayed, which takes less Python.
    """
    if all(map(follows_array, ready.outputs)):
        return False
    (inputs, outputs), bent = ready.seeds, _bent(ready.graph)
    entries = sum(max(prod(np.shape(x)) for x in (node.out, *node.args)) for node in bent)
    products = outputs * (inputs**2 * entries * MATMUL + (ready.batch or 1) * len(bent) * CALL_PER_MATRIX)
    back = price(ready.graph, Plan("reverse"), ready.run.inputs, ready.nodes)
    return products < inputs * back.multiply_adds * MATMUL


Blocks = dict[tuple[int, int, int], Block]
"""By the output's node and the numbers of two inputs, the first of which is not the greater one."""


def _summed(ready: Prepared) -> Blocks:
    graph, total = ready.graph, Blocks()
    adjoints, one = Adjoints(graph), unit(ready.sources, ready.outputs)
    first: dict[int, dict[int, Block]] = {}
    for n, (i, x, axis) in enumerate(zip(ready.run.inputs, ready.sources, ready.in_axes, strict=True)):
        seed = Block.identity(x.shape, one)
        first.setdefault(i, {})[n] = seed if axis is None else shared(seed, axis)
    waiting = Counter(p for i in graph.order for _, p in graph.operands(i))
    for i in graph.order:
        operands = graph.operands(i)
        forms = forms_of(graph.nodes[i], i, [k for k, _ in operands], {})
        given = {k: first[p] for k, p in operands}
        for o, adjoint in adjoints.pop(i, bool(forms)).items():
            for (k, l), form in forms.items():
                _add_form(total, o, adjoint, graph.nodes[i], form, (k, l), given)
        own: dict[int, Block] = {}
        for k, p in operands:
            for n, block in first[p].items():
                add_to(own, n, graph.edge(i, k).after(block))
        first[i] = own
        for _, p in operands:
            waiting[p] -= 1
            if not waiting[p]:
                first.pop(p)
    return total


def _add_form(
    total: Blocks,
    o: int,
    adjoint: Block,
    node: Node,
    form: Term,
    operands: tuple[int, int],
    first: Mapping[int, Mapping[int, Block]],
) -> None:
    """Add a bilinear form of two operands, weighted with an output's derivative, between theirs by the inputs."""
    left, right = first[operands[0]], first[operands[1]]
    same = operands[0] == operands[1]
    if not same:  # it stands for both orders
        form = Term(form.out, form.inp, form.factors, form.scale / 2)
    shape = tuple(n for k in operands for n in np.shape(node.args[k]))
    weighted = adjoint @ Block(node.out.shape, shape, [form], adjoint.one)
    ends = range(len(weighted.out_shape))
    a, b = _ranges(len(ends), *(np.ndim(node.args[k]) for k in operands))
    for m, by_m in right.items():
        half = _over(weighted, (*ends, *a), b) @ by_m
        (x,) = _ranges(len(half.out_shape), len(half.inp_shape))
        half = _over(half, (*ends, *x), a)
        for n, by_n in left.items():
            if same and n > m:
                continue
            both = half @ by_n
            x, y = _ranges(len(ends), len(by_m.inp_shape), len(by_n.inp_shape))
            if n <= m:
                add_to(total, (o, n, m), _over(both, ends, (*y, *x)))
            if n >= m and not same:
                add_to(total, (o, m, n), _over(both, ends, (*x, *y)))


def _ranges(start: int, *lengths: int) -> Iterator[range]:
    for length in lengths:
        yield range(start, start := start + length)


def _over(block: Block, out: Sequence[int], inp: Sequence[int]) -> Block:
    """The same weights between other axes, which are numbered from the output's first on."""
    axes = [(*term.out, *term.inp) for term in block.terms]
    terms = [term.over(_picked(own, out), _picked(own, inp)) for term, own in zip(block.terms, axes, strict=True)]
    shape = (*block.out_shape, *block.inp_shape)
    return Block(_picked(shape, out), _picked(shape, inp), terms, block.one)


def _picked(items: Sequence[Any], places: Sequence[int]) -> tuple[Any, ...]:
    return tuple([items[k] for k in places])


def _results(ready: Prepared, args: tuple[Any, ...], options: Options) -> Any:
    total = _summed(ready)

    def dense(m: int, n: int, l: int) -> Any:
        y, o, axis = ready.outputs[m], ready.run.output_nodes[m], ready.out_axes[m]
        shapes = [without_axis(ready.sources[k].shape, ready.in_axes[k]) for k in (n, l)]
        block = total.get((o, min(n, l), max(n, l)))  # type: ignore[arg-type]
        if block is None:
            block = Block(y.shape, (*shapes[0], *shapes[1]))
        elif n > l:
            ends, cut = range(len(y.shape)), len(shapes[1])
            x, z = _ranges(len(ends), cut, len(shapes[0]))
            block = _over(block, ends, (*z, *x))
        dtype = np.result_type(result_dtype(y, ready.sources[n]), ready.sources[l].dtype)
        return batch_first(block, axis, None).dense(dtype, ready.sources[n])

    inputs = range(len(ready.sources))

    def row(m: int) -> list[Any]:
        return [as_arguments([dense(m, n, l) for l in inputs], ready, args, options) for n in inputs]

    return as_trees([row(m) for m in range(len(ready.outputs))], ready, args, options)


# -- transformations ---------------------------------------------------------------------------------------------------
def value_and_hessian(f: Function, argnums: Argnums = 0, **options: Unpack[SecondOptions]) -> Function:
    """Function that returns ``(y, H)``, or ``((y, aux), H)`` with `has_aux`; `f` runs once. See `hessian`."""
    known_options(options, [field.name for field in fields(Options)])
    chosen = checked_options(argnums=argnums, **options)
    within = replace(chosen, structured=False)  # the last one alone is an operator

    def first(*args: Any, **kwargs: Any) -> Any:
        ready = recorded(f, args, kwargs, within)
        value = ready.run.told(chosen.has_aux)
        with np.errstate(all="ignore"):
            if _may_be_summed(ready, chosen) and _is_less(ready):
                return (), (value, settled(ready.graph, lambda: _results(ready, args, within)))
        return result_of(ready, args, within), (value, None)

    outer: Any = {**options, "has_aux": True}
    second: Function = jacobian(first, argnums, **outer)

    @taken_home(f, chosen.leading)
    @chunkwise(f, chosen)
    def with_hessian(*args: Any, **kwargs: Any) -> Any:
        H, (value, summed) = second(*args, **kwargs)
        return value, H if summed is None else summed

    return with_hessian


def hessian(f: Function, argnums: Argnums = 0, **options: Unpack[SecondOptions]) -> Function:
    """Function that returns the Hessian of each sample: the Jacobian of the Jacobian.

    Args:
        f: As for `jacobian`; x: ``(B, *in)``, y: ``(B, *out)``.
        argnums, batch_axis, mode, on_mixing, has_aux, chunk_size, max_bytes, structured: As for `jacobian`.

    Returns a function of the same arguments that gives ``(B, *out, *in, *in)``, trees as ``H[out][arg][in][arg][in]``.
    Cost: that of a Jacobian, times the inputs of a sample; under `minijac.compile`, where it is less, that of a
    Jacobian in both modes and the product of two rows for each entry of what is not linear.

    >>> import numpy as np
    >>> hessian(lambda x: x[:, 0] * x[:, 1] ** 2)(np.ones((1, 2)))
    array([[[0., 2.],
            [2., 2.]]])
    """
    return without_value(value_and_hessian(f, argnums, **options), f, options)
