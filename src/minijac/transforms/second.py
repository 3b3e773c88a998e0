"""Second order in one pass: value, Jacobian block and second-order term go along the tape together.

With ``S`` the second derivatives d2/dx_k2 of a value, either listed over the inputs k (the Hessian's diagonal) or
already summed (the Laplacian), an operation y = F(a, b, ...) gives

    S_y = sum_a F_a S_a + sum_{a,b} F_ab J_a[., k] J_b[., k]

Structural operations have no F_ab, multilinear ones have themselves, elementwise ones their partials differentiated. So
no operation needs a rule of its own, and a block that touches two of fifty inputs costs two. This is the forward
Laplacian (Li et al., Nature Machine Intelligence 6, 2024) on labelled blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import combinations_with_replacement
from operator import add
from typing import Any, Unpack

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.plan import accumulate, plan_for
from ..accumulation.recording import Prepared, prepare
from ..accumulation.results import batch_first, finished, result_dtype
from ..accumulation.seeds import seeds, shared, unit, unshared, without_axis
from ..algebra.block import Block, bilinear
from ..algebra.labels import Axes, Label, axis_size, label_of
from ..algebra.terms import Term
from ..arguments import Argnums, Function, Options, SecondOptions, checked_options, known_options, unflatten
from ..backend import astype, taken_home
from ..errors import InputError
from ..ops.edges import without_ones
from ..ops.families import Elementwise, Multilinear, labelled, multilinear_axes, operand_axes
from ..tape.trace import Node
from ..ways.memory import seeds_at_a_time
from ..ways.thorough import settled
from .curvature import curvature, curved_bytes, outright
from .dask import chunkwise
from .elementwise import Partials
from .first import as_trees
from .roots import smoothed

__all__ = [
    "forms_of",
    "divergence",
    "hessian_diagonal",
    "laplacian",
    "value_and_divergence",
    "value_and_hessian_diagonal",
    "value_and_laplacian",
    "without_value",
]


def second_order(
    graph: Graph, seed: dict[int, Block], kept: Sequence[int] | None, forms: dict[tuple[int, int, int], Term | None]
) -> dict[int, Block]:
    """The second-order term of every output, from the identity at one input (or a part of it).

    `kept` are the axes of the seed along which it is listed, for all of them None; along the others it is summed.
    `forms` keeps the second derivatives of operations, which are the same for all seeds.
    """
    first: dict[int, Block] = dict(seed)
    second: dict[int, Block] = {}
    waiting, keep = Counter(p for i in graph.order for p in {p for _, p in graph.operands(i)}), set(graph.outputs)
    turned = graph.of_complex()
    for i in graph.order:
        node = graph.nodes[i]
        operands = [(k, p) for k, p in graph.operands(i) if p in first]
        if operands:
            first[i] = reduce(add, (graph.edge(i, k).after(first[p]) for k, p in operands))
            if i in turned:
                first[i] = first[i].of_reals(node.out.dtype)
            parts = [graph.edge(i, k).after(second[p]) for k, p in operands if p in second]
            given = dict(operands)
            for (k, l), form in forms_of(node, i, list(given), forms).items():
                parts.append(bilinear(form, first[given[k]], first[given[l]], node.out.shape, kept))
            if _outright(node):
                parts.append(curvature(node, {k: first[p] for k, p in operands}, first[i], kept))
            parts = [part for part in parts if part.terms]
            if parts:
                total = reduce(add, parts)
                second[i] = total.of_reals(node.out.dtype) if i in turned else total
        for p in {p for _, p in graph.operands(i)}:
            waiting[p] -= 1
            if not waiting[p] and p not in keep:
                first.pop(p, None)
                second.pop(p, None)
    return {i: second[i] for i in graph.outputs if i in second}


# -- the second derivative of one operation ----------------------------------------------------------------------------
def forms_of(
    node: Node, i: int, operands: Sequence[int], known: dict[tuple[int, int, int], Term | None]
) -> dict[tuple[int, int], Term]:
    """The bilinear forms of a node by pairs of operands, those that are not zero."""
    pairs = list(combinations_with_replacement(operands, 2))
    if any((i, *pair) not in known for pair in pairs):
        partials = Partials(node, operands, 2) if isinstance(node.op, Elementwise) else None
        known |= {(i, k, l): _form(node, partials, k, l) for k, l in pairs}
    return {pair: form for pair in pairs if (form := known[(i, *pair)]) is not None}


def _outright(node: Node) -> bool:
    """Whether its second derivative is that of its slope along curves, and no bilinear form."""
    return outright(node) and node.op.curved is None  # type: ignore[union-attr]


def _form(node: Node, partials: Partials | None, k: int, l: int) -> Term | None:
    """The second derivative by operands `k` and `l` as a bilinear form, both orders counted; None where it is zero."""
    assert node.op is not None
    if node.op.curved is not None:
        return node.op.curved(node)
    both = 1.0 if k == l else 2.0
    if partials is not None:
        partial = partials((k, l))
        if partial is None:
            return None
        axes: Axes = tuple((Label(n),) for n in node.out.shape)
        inp = tuple(axis for n in (k, l) for axis in operand_axes(axes, np.shape(node.args[n])))
        factors = () if partial.array is None else (labelled(partial.array, axes, node.out.dtype),)
        return Term(without_ones(axes), without_ones(inp), factors, both * partial.scale)
    if isinstance(node.op, Multilinear) and k != l:
        held = [j for j in range(len(node.args)) if j not in (k, l)]
        out, operands, parts = multilinear_axes(node, held)
        return Term(without_ones(out), without_ones((*operands[k], *operands[l])), tuple(parts), both)
    return None


# -- transformations ---------------------------------------------------------------------------------------------------
def _derivatives(ready: Prepared, args: Sequence[Any], options: Options, collapse: bool) -> list[list[Any]]:
    """The second derivatives of every output by every input, listed or summed over it, as ``result[output][input]``.

    Where samples do not mix, a seed is that of all samples at once: no array has two axes of samples.
    """
    found: list[list[Any]] = [[None] * len(ready.sources) for _ in ready.outputs]
    if not ready.sources:
        return found
    full, one = options.on_mixing == "full", unit(ready.sources, ready.outputs)
    forms: dict[tuple[int, int, int], Term | None] = {}
    chunk_size = seeds_at_a_time(
        ready, args, options, 3 if collapse else 4, partial(_curved_bytes, ready.graph, options.max_bytes is not None)
    )
    for n, (i, x, axis) in enumerate(zip(ready.run.inputs, ready.sources, ready.in_axes, strict=True)):
        apart = axis is not None and not ready.mixes
        shape = without_axis(x.shape, axis) if apart else x.shape
        kept = None if not collapse else () if apart or axis is None else (axis,)

        def add(m: int, block: Block, n: int = n, x: Any = x) -> None:
            own = _own(ready, m, n, block, collapse, full)
            found[m][n] = own.dense(result_dtype(ready.outputs[m], x), x, found[m][n])

        for seed in seeds(x.shape, axis, chunk_size, one):
            chunk, place = _closed_up(shared(seed, axis) if apart else seed)  # type: ignore[arg-type]
            blocks = second_order(ready.graph, {i: chunk}, kept, forms)
            for m, o in enumerate(ready.run.output_nodes):
                if o is not None and o in blocks:  # what is summed has its seeds' axes no more
                    add(m, blocks[o] if collapse else blocks[o].after(place))
        for m, y in enumerate(ready.outputs):
            if found[m][n] is None:
                add(m, Block(y.shape, shape if kept is None else tuple(shape[k] for k in kept)))
    return found


def _closed_up(seed: Block) -> tuple[Block, Block]:
    """A chunk of seeds on an input that has no others, for what makes arrays of them, and where it stands among all."""
    if not seed.terms:
        return seed, Block(seed.inp_shape, seed.inp_shape, (), seed.one)
    (term,) = seed.terms
    own = tuple(tuple(label for digit in axis if (label := label_of(digit)) is not None) for axis in term.inp)
    shape = tuple(map(axis_size, own))
    chunk = Block(seed.out_shape, shape, [term.over(term.out, own)], seed.one)
    return chunk, Block(shape, seed.inp_shape, [Term(own, term.inp)], seed.one)


def _own(ready: Prepared, m: int, n: int, block: Block, collapse: bool, full: bool) -> Block:
    """The second-order block of an output by an input as it is wanted: samples first, each sample's own or all."""
    out_axis, in_axis = ready.out_axes[m], ready.in_axes[n]
    if in_axis is None or out_axis is None or ready.batch is None:
        return batch_first(block, out_axis, None)
    at = 0 if collapse else in_axis
    if not ready.mixes:
        if not full:
            return batch_first(block, out_axis, None)
        block = unshared(block, out_axis, at, ready.batch)
    return finished(block, out_axis, at, full)


def _curved_bytes(graph: Graph, bounded: bool, seeds: int) -> int:
    """What the second derivatives of operations hold: those of entries, kept, and the others for so many seeds."""
    bent = [(i, node) for i in graph.order if not (node := graph.nodes[i]).op.flat]  # type: ignore[union-attr]
    entrywise = [node.out.nbytes for _, node in bent if isinstance(node.op, Elementwise)]
    forms = [max(getattr(x, "nbytes", 0) for x in node.args) for _, node in bent if node.op.curved is not None]  # type: ignore[union-attr]
    curves = [curved_bytes(graph, i, seeds) if bounded else 2 * node.out.nbytes * seeds**2
              for i, node in bent if _outright(node)]  # fmt: skip
    return (
        sum(entrywise) + 4 * max(entrywise, default=0) + sum(forms) + 3 * max(forms, default=0) + max(curves, default=0)
    )


def _with_value(
    f: Function,
    argnums: Argnums,
    options: Mapping[str, Any],
    derivative: Callable[[Prepared, tuple[Any, ...], Options], Any],
) -> Function:
    """Function that returns the value, and what `derivative` makes of what was recorded."""
    known_options(options, ("batch_axis", "mode", "on_mixing", "has_aux", "chunk_size", "max_bytes"))
    chosen = checked_options(argnums=argnums, **options)

    @taken_home(f, chosen.leading)
    @chunkwise(f, chosen)
    def with_value(*args: Any, **kwargs: Any) -> Any:
        ready = smoothed(prepare(f, args, kwargs, chosen), higher=True)
        with np.errstate(all="ignore"):
            found = derivative(ready, args, chosen)
        return ready.run.told(chosen.has_aux), found

    return with_value


def without_value(with_value: Function, f: Function, options: Mapping[str, Any]) -> Function:
    @taken_home(f)
    def result(*args: Any, **kwargs: Any) -> Any:
        value, derivative = with_value(*args, **kwargs)
        return (derivative, value[1]) if options.get("has_aux") else derivative

    return result


def value_and_hessian_diagonal(f: Function, argnums: Argnums = 0, **options: Unpack[SecondOptions]) -> Function:
    """Function that returns ``(y, d)``, or ``((y, aux), d)`` with `has_aux`; `f` runs once. See `hessian_diagonal`."""
    return _with_value(f, argnums, options, _diagonal)


def _diagonal(ready: Prepared, args: tuple[Any, ...], options: Options) -> Any:
    rows = settled(ready.graph, lambda: _derivatives(ready, args, options, False))
    return as_trees(rows, ready, args, options)


def hessian_diagonal(f: Function, argnums: Argnums = 0, **options: Unpack[SecondOptions]) -> Function:
    """Function that returns the second derivatives ``d2 y / d x_k2`` per sample, without forming the Hessian.

    Args:
        f: As for `jacobian`; x: ``(B, *in)``, y: ``(B, *out)``.
        argnums, batch_axis, has_aux, chunk_size, max_bytes: As for `jacobian`.
        on_mixing: If samples mix: ``"raise"``, ``"diagonal"`` (by a sample's own input, the coupling included), or
            ``"full"`` (by each sample's input, ``(B, *out, B, *in)``).

    Returns a function of the same arguments that gives ``(B, *out, *in)``. Cost: about twice a forward-mode Jacobian,
    a large one some seeds at a time; where samples mix, that of a seed for each sample.

    >>> import numpy as np
    >>> hessian_diagonal(lambda x: x**3)(np.ones((1, 2)))
    array([[[6., 0.],
            [0., 6.]]])
    """
    return without_value(value_and_hessian_diagonal(f, argnums, **options), f, options)


def value_and_laplacian(f: Function, argnums: Argnums = 0, **options: Unpack[SecondOptions]) -> Function:
    """Function that returns ``(y, L)``, or ``((y, aux), L)`` with `has_aux`; `f` runs once. See `laplacian`."""
    return _with_value(f, argnums, options, _laplacian)


def _laplacian(ready: Prepared, args: tuple[Any, ...], options: Options) -> Any:
    if options.on_mixing == "full" and None in ready.in_axes and set(ready.in_axes) != {None}:
        raise InputError(
            "on_mixing='full': expected samples in all differentiated arguments, got shared ones among them, whose "
            "Laplacian has no axis of samples to be summed with. Take each by itself, by argnums."
        )
    rows = settled(ready.graph, lambda: _derivatives(ready, args, options, True))
    dense = [astype(reduce(add, row), y.dtype, y) for row, y in zip(rows, ready.outputs, strict=True)]
    return unflatten(ready.run.tree, dense)


def laplacian(f: Function, argnums: Argnums = 0, **options: Unpack[SecondOptions]) -> Function:
    """Function that returns the Laplacian per sample, the sum over k of ``d2 y / d x_k2``, without forming the Hessian.

    Args:
        f: As for `jacobian`; x: ``(B, *in)``, y: ``(B, *out)``.
        argnums, batch_axis, has_aux, chunk_size, max_bytes: As for `jacobian`. Several arguments are summed over.
        on_mixing: If samples mix: ``"raise"``, ``"diagonal"`` (by a sample's own input, the coupling included), or
            ``"full"`` (by each sample's input, ``(B, *out, B)``).

    Returns a function of the same arguments that gives ``(B, *out)``. Cost: little more than a forward-mode
    Jacobian; no array with two feature axes of the input is made. Where samples mix, that of a seed for each sample.

    >>> import numpy as np
    >>> laplacian(lambda x: (x**3).sum(axis=1))(np.ones((2, 3)))
    array([18., 18.])
    """
    return without_value(value_and_laplacian(f, argnums, **options), f, options)


def value_and_divergence(f: Function, argnums: int = 0, **options: Unpack[SecondOptions]) -> Function:
    """Function that returns ``(y, div)``, or ``((y, aux), div)`` with `has_aux`; `f` runs once. See `divergence`."""
    return _with_value(f, argnums, options, _divergence)


def _divergence(ready: Prepared, args: tuple[Any, ...], options: Options) -> Any:
    if len(ready.sources) != 1 or len(ready.outputs) != 1:
        raise InputError("divergence: expected one array in and one array out, got a tree of several.")
    (x,), (y,), (a,), (b,) = ready.sources, ready.outputs, ready.in_axes, ready.out_axes
    inside, outside = without_axis(x.shape, a), without_axis(y.shape, b)
    if inside != outside:
        raise InputError(
            f"divergence: expected as many outputs as inputs per sample, got samples of shape {inside} in and "
            f"{outside} out. It is the trace of a square Jacobian."
        )
    full = options.on_mixing == "full" and a is not None

    def diagonal() -> Any:
        total = None
        for block in _jacobian_in_pieces(ready, args, options):
            block = batch_first(block, b, a)
            for k in range(int(full), len(block.out_shape)):
                block = block.paired(k, int(full))
            total = block.dense(result_dtype(y, x), x, total)
        return total

    return settled(ready.graph, diagonal).sum(axis=tuple(range(0 if b is None else 1, len(y.shape))))


def _jacobian_in_pieces(ready: Prepared, args: Sequence[Any], options: Options) -> Iterator[Block]:
    """The block of the output by the input, or of some of its seeds after the other where it would be large."""
    (x,), (y,), (axis,) = ready.sources, ready.outputs, ready.in_axes
    (i,), (o,) = ready.run.inputs, ready.run.output_nodes
    if o is None or o not in ready.graph.outputs:
        yield Block(y.shape, x.shape)
        return
    one, plan = unit([x], [y]), plan_for(ready.graph, options.mode, [i], [o])
    chunk_size = seeds_at_a_time(ready, args, options, 2, lambda seeds: int(y.nbytes))  # beside the diagonal
    if chunk_size is None:
        yield accumulate(ready.graph, plan, [i], [o], one).get((o, i), Block(y.shape, x.shape))
        return
    for seed in seeds(x.shape, axis, chunk_size, one):
        yield ready.graph.forward({i: seed}, real=True)[o]


def divergence(f: Function, argnums: int = 0, **options: Unpack[SecondOptions]) -> Function:
    """Function that returns the divergence of each sample: the trace of its square Jacobian.

    Args:
        f: Maps x: ``(B, *in)`` to y: ``(B, *in)``.
        argnums, batch_axis, mode, has_aux, chunk_size, max_bytes: As for `jacobian`.
        on_mixing: If samples mix: ``"raise"``, ``"diagonal"`` (by a sample's own input, the coupling included), or
            ``"full"`` (by each sample's input, ``(B, B)``).

    Returns a function of the same arguments that gives ``(B,)``. Cost: that of the Jacobian; the dense array is
    not made where structure spares it, and a large one some seeds at a time.

    >>> import numpy as np
    >>> divergence(lambda x: x**2)(np.ones((2, 3)))
    array([6., 6.])
    """
    return without_value(value_and_divergence(f, argnums, **options), f, options)
