"""Partial derivatives by multi-index: Taylor coefficients carried along the tape, all of them in one pass.

A coefficient is the derivative of a value with respect to the inputs that a multi-index names. Each operation turns the
coefficients of its operands into those of its output: a linear one applies itself, a multilinear one follows Leibniz,
an elementwise one Faa di Bruno, with its declared partials differentiated. What is zero by structure is never stored,
and what no result needs is never computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.recording import Prepared, prepare
from ..accumulation.seeds import unshared
from ..algebra.block import Block
from ..algebra.factors import Array, Factor, Shape
from ..algebra.factors import product as factors_product
from ..algebra.labels import axis_of, labels_in, window
from ..algebra.terms import Term
from ..arguments import (
    Argnums,
    BatchAxis,
    Function,
    OnMixing,
    Options,
    argument_positions,
    batch_axes,
    checked_options,
    known_calls,
    unflatten,
)
from ..backend import astype, is_array, namespace, taken_home, zeros
from ..errors import InputError
from ..foreign import brief
from ..ops.families import Elementwise, Multilinear, Structural
from ..tape.trace import Node
from ..tape.traced import is_traced
from ..ways.memory import at_a_time, live_bytes
from ..ways.thorough import settled
from .curvature import curved_bytes, outright, slope
from .dask import chunkwise
from .elementwise import Partials, Scaled, shape_of_partials
from .indices import MultiIndex, dealt, greatest, parted, parts_of
from .products import jvp
from .pulled import Pulled, worth_pulling
from .roots import refuse_order, smoothed

__all__ = ["coefficients", "partials"]

Coefficient: TypeAlias = "Block | Array"
"""A block from the shape ``()`` while it is known by structure (a derivative of the input), then an array that
broadcasts to the value's shape: of length one along axes where it is constant."""
Coefficients: TypeAlias = dict[MultiIndex, Coefficient]


@known_calls
def partials(
    f: Function,
    multi_indices: Sequence[MultiIndex],
    argnums: Argnums = 0,
    *,
    batch_axis: BatchAxis = 0,
    on_mixing: OnMixing = "raise",
    chunk_size: int | None = None,
    max_bytes: int | None = None,
) -> Callable[..., tuple[Any, ...]]:
    """Function that returns chosen partial derivatives of a batched function, of any order, computed in one pass.

    Args:
        f: Maps a flat x: ``(B, n)`` (others are constants) to y: ``(B, *out)``, or a pytree; it is called once.
        multi_indices: For each derivative the tuple of the features of x to differentiate by: ``()`` the value,
            ``(0,)`` the first derivative by feature 0, ``(0, 1)`` the mixed second one, in any order and number.
        argnums: The argument that is x, or several, their features counted on: after x: ``(B, 2)``, t is feature 2.
        batch_axis: The axis that holds the samples, as for `jacobian`.
        on_mixing: If samples mix: ``"raise"``, ``"diagonal"`` (derivatives of a sample's output by its own input), or
            ``"full"`` (by the input of each sample, one for all factors: ``(B, *out, B)``; the value stays as it is).
        chunk_size: Multi-indices at a time.
        max_bytes: Bound on peak memory beside inputs and result; met by taking multi-indices a few at a time.

    Returns:
        A function of the same arguments. It returns a tuple with one ``(B, *out)``, of the dtype of y, C-contiguous and
        newly made, for each multi-index (with the tree of y, where that is a pytree).

    Raises:
        BatchMixingError: One sample's output depends on another's input.
        InputError: x is not ``(B, n)``, or a multi-index is not a tuple of ints within ``range(n)``.

    Cost: a forward pass of `f`, and about as much again for each multi-index and each part of one, shared among them;
    those that are part of no other cost one reverse pass in all for each number of y in a sample, if that is less and
    there is no `max_bytes`; where samples mix, all that for each sample.
    The Hessian, or the Jacobian, is not formed. Source: Faa di Bruno's formula; Griewank and Walther, Evaluating
    Derivatives (2008), chapter 13.

    >>> import numpy as np
    >>> wave = lambda x: np.sin(x[:, 1] - 2.0 * x[:, 0])
    >>> u, u_tt, u_xx = partials(wave, [(), (0, 0), (1, 1)])(np.array([[0.0, 0.5], [1.0, 2.0]]))
    >>> bool(np.allclose(u_tt, 4.0 * u_xx))
    True
    """
    options = checked_options(
        argnums=argnums, batch_axis=batch_axis, on_mixing=on_mixing, chunk_size=chunk_size, max_bytes=max_bytes
    )
    wanted = _checked(multi_indices)

    @taken_home(f, options.leading)
    @chunkwise(f, options)
    def partials_of(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        _check_flat(args, options, wanted)
        ready = prepare(f, args, kwargs, options)
        refuse_order(ready.run.nodes, max(map(len, wanted), default=0))
        ready = smoothed(ready, higher=True)
        with np.errstate(all="ignore"):  # infinite derivatives are results; the function's own warnings were given
            leaves = settled(ready.graph, lambda: _by_leaf(ready, wanted, args, options))
        return tuple(unflatten(ready.run.tree, [leaf[n] for leaf in leaves]) for n in range(len(wanted)))

    return partials_of


def _by_leaf(ready: Prepared, wanted: list[MultiIndex], args: Sequence[Any], options: Options) -> list[list[Any]]:
    """The derivatives of every output leaf, in the order in which they are wanted."""
    if not ready.mixes:
        return _results(ready, wanted, args, options, None)
    columns = [_results(ready, wanted, args, options, sample) for sample in range(ready.batch or 0)]

    def own(index: MultiIndex, derivatives: list[Any]) -> Any:
        if not index:
            return derivatives[0]
        if options.on_mixing == "full":
            return np.stack(derivatives, axis=-1)
        return np.stack([derivative[sample] for sample, derivative in enumerate(derivatives)])

    return [[own(index, [column[m][n] for column in columns]) for n, index in enumerate(wanted)]
            for m in range(len(ready.outputs))]  # fmt: skip


def _results(
    ready: Prepared, wanted: list[MultiIndex], args: Sequence[Any], options: Options, sample: int | None
) -> list[list[Any]]:
    """The same by the input of one sample, or of each output's own."""
    sources = {i: 0 if axis else 1 for i, axis in zip(ready.run.inputs, ready.in_axes, strict=True)}
    size = options.chunk_size or _indices_at_a_time(ready, wanted, args, options) or max(len(wanted), 1)
    leaves: list[list[Any]] = [[] for _ in ready.outputs]
    batch = ready.batch if sample is None and options.max_bytes is None else None
    for start in range(0, len(wanted), size):
        chunk = wanted[start : start + size]
        found = coefficients(ready.graph, sources, {index for index in chunk if index}, sample, batch)
        for results, y, i, axis in zip(leaves, ready.outputs, ready.run.output_nodes, ready.out_axes, strict=True):
            for index in chunk:
                derivative = None if i is None else found.get(i, {}).get(index)
                own = _result(y, y if index == () else derivative, axis or 0)
                if index and options.on_mixing == "full" and sample is None:
                    own = unshared(Block.column(own), 0, 0, ready.batch or 0).dense(y.dtype, y)
                results.append(own)
    return leaves


def _indices_at_a_time(ready: Prepared, indices: list[MultiIndex], args: Sequence[Any], options: Options) -> int | None:
    """So many multi-indices that what is below them fits the bound on memory."""
    if options.max_bytes is None or any(map(is_traced, ready.outputs)):
        return None
    most, graph = 2 ** max(map(len, indices), default=0), ready.graph

    def needed() -> Callable[[int], int]:
        curves = max((curved_bytes(graph, i, 1) for i in graph.order if outright(graph.nodes[i])), default=0)
        return lambda n: most * (2 * n * live_bytes(graph) + curves // 4)

    return at_a_time(ready, args, options.max_bytes, max(len(indices), 1), needed, "multi-index")


# -- arguments and results ---------------------------------------------------------------------------------------------
def _checked(multi_indices: Any) -> list[MultiIndex]:
    """The multi-indices, each sorted: the order of differentiation does not matter."""
    if not isinstance(multi_indices, Sequence) or isinstance(multi_indices, str):
        hint = " The arguments go to what partials returns." if hasattr(multi_indices, "shape") else ""
        raise InputError(
            f"multi_indices: expected a sequence of tuples of ints, such as [(), (0,), (0, 0)], got "
            f"{brief(multi_indices)}.{hint}"
        )
    for index in multi_indices:
        whole = isinstance(index, tuple) and all(
            isinstance(k, int | np.integer) and not isinstance(k, bool) for k in index
        )
        if not whole:
            raise InputError(
                f"multi_indices: expected each to be a tuple of ints, such as () for the value, (0,) or (0, 1), got "
                f"{index!r}."
            )
    return [tuple(sorted(int(k) for k in index)) for index in multi_indices]


def _check_flat(args: tuple[Any, ...], options: Options, wanted: Sequence[MultiIndex]) -> None:
    """Raise InputError unless x is ``(B, n)``, or ``(n, B)`` where `batch_axis` says so, with all features wanted."""
    axes, shapes, features = batch_axes(options.batch_axis, args), [], 0
    for n in argument_positions(options.argnums, args):
        x = args[n]
        shape = x.shape if is_array(x) or is_traced(x) else type(x).__name__
        if not isinstance(shape, tuple) or len(shape) != 2:
            raise InputError(
                f"argument {n}: expected a flat input of shape (B, n), got {shape}. Reshape it, or use "
                "minijac.jacobian for derivatives with respect to arrays of other ranks and pytrees."
            )
        (axis,) = axes[n]
        if axis is None:
            raise InputError(
                f"batch_axis: expected the axis of the samples in argument {n}, got None. For a function of one point "
                "add an axis of length one."
            )
        shapes.append(str(shape))
        features += shape[1 - axis % 2]
    for index in wanted:
        if not all(0 <= k < features for k in index):
            raise InputError(
                f"multi-index {index}: expected features within range({features}) for x of shape {', '.join(shapes)}."
            )


def _result(y: Any, coefficient: Coefficient | None, axis: int) -> Any:
    if coefficient is None:
        array = zeros(y.shape, y.dtype, y)
    elif isinstance(coefficient, Block):
        array = coefficient.dense(y.dtype, y)
    else:
        array = astype(coefficient, y.dtype, y)
        if array.shape != y.shape:
            array = np.broadcast_to(array, y.shape)
    if axis:
        array = array.transpose((axis, *(k for k in range(y.ndim) if k != axis)))
    return array if is_traced(array) else namespace(array).array(array, order="C", copy=True)


# -- the pass ----------------------------------------------------------------------------------------------------------
def coefficients(
    graph: Graph,
    sources: Mapping[int, int],
    wanted: set[MultiIndex],
    sample: int | None = None,
    batch: int | None = None,
) -> dict[int, Coefficients]:
    """The wanted coefficients of the graph's outputs; `sources` are the inputs, with the axis of their features.

    They are those by the input of one sample, or of all, where those do not mix. With their number `batch` given, those
    that no other one is made of may be pulled back, which holds derivatives by all nodes.
    """
    if not wanted:
        return {}
    rules, needed = _rules(graph, wanted)
    keep = set(graph.outputs)
    waiting = Counter(p for i in graph.order for _, p in graph.operands(i))
    found: dict[int, Coefficients] = {}
    ends = greatest(wanted)
    pulled = Pulled(graph) if batch and worth_pulling(graph, batch, len(ends)) else None
    first = 0  # features are counted on from one input to the next
    for i, axis in sources.items():
        x = graph.nodes[i].out
        own = range(first, first := first + x.shape[axis])
        found[i] = {index: _one_hot(x, axis, index[0] - own.start, sample) for index in needed.get(i, ())
                    if len(index) == 1 and index[0] in own}  # fmt: skip
        if pulled:
            pulled.take(i, _popped(found[i], ends, x.shape))
    for i in graph.order:
        operands = {k: found[p] for k, p in graph.operands(i) if found.get(p)}
        if operands:
            found[i] = rules[i].apply(operands, sorted(needed[i], key=len))
            if pulled:
                pulled.take(i, _popped(found[i], ends, graph.nodes[i].out.shape))
        for _, p in graph.operands(i):
            waiting[p] -= 1
            if not waiting[p] and p not in keep:
                found.pop(p, None)
    for (o, index), block in pulled.found.items() if pulled else ():
        if block.terms:
            found.setdefault(o, {})[index] = _block_array(block, graph.nodes[o].out)
    return found


def _popped(own: Coefficients, indices: set[MultiIndex], shape: Shape) -> dict[MultiIndex, Block]:
    return {index: _as_block(own.pop(index), shape) for index in indices & own.keys()}


def _rules(graph: Graph, wanted: set[MultiIndex]) -> tuple[dict[int, Any], dict[int, set[MultiIndex]]]:
    """What to do at each node, and the coefficients that are needed of it."""
    rules: dict[int, Any] = {}
    needed: dict[int, set[MultiIndex]] = {i: set(wanted) for i in graph.outputs}
    for i in reversed(graph.order):
        rule = rules[i] = _rule(graph, i, max(map(len, needed[i])))
        below = needed[i] if rule.linear else parts_of(needed[i])
        for _, p in graph.operands(i):
            needed.setdefault(p, set()).update(below)
    return rules, needed


def _one_hot(x: Array, axis: int, k: int, sample: int | None) -> Block:
    """The derivative of x: ``(B, n)`` by its feature k: the same for all samples, or that of one of them."""
    samples = axis_of(x.shape[1 - axis]) if sample is None else window(None, x.shape[1 - axis], sample, 1)
    feature = window(None, x.shape[axis], k, 1)
    axes = (samples, feature) if axis else (feature, samples)
    return Block(x.shape, (), [Term(axes, ())], namespace(x).ones((), x.dtype))


def _rule(graph: Graph, i: int, order: int) -> Any:
    op = graph.nodes[i].op
    assert op is not None
    if isinstance(op, Elementwise):
        linear, entrywise = (True, True) if order == 1 else shape_of_partials(graph.nodes[i], graph.operands(i))
        return _Elementwise(graph, i, linear, order) if entrywise else _General(graph, i)
    if isinstance(op, Multilinear):
        return _Multilinear(graph, i)
    return _Linear(graph, i) if op.flat else _General(graph, i)


Operands: TypeAlias = dict[int, Coefficients]
"""The coefficients of the operands that have any, by position."""


class _Linear:
    """An operation linear in its operands, one by one."""

    linear = True

    def __init__(self, graph: Graph, i: int) -> None:
        self.graph, self.i = graph, i
        self.node = graph.nodes[i]

    def apply(self, operands: Operands, indices: Sequence[MultiIndex]) -> Coefficients:
        result = {}
        for index in indices:
            given = {k: own[index] for k, own in operands.items() if index in own}
            coefficient = self._pushed(given) if given else None
            if coefficient is not None:
                result[index] = coefficient
        return result

    def _pushed(self, given: dict[int, Coefficient]) -> Coefficient | None:
        node = self.node
        assert node.op is not None
        if len(node.args) == 1 and "constant" not in node.params and isinstance(node.op, Structural):
            (own,) = given.values()  # the operation is its own derivative, unless it fills in constants
            if not isinstance(own, Block) and own.shape == node.args[0].shape:
                return node.op(own, **node.params)
        return _through_edges(self.graph, self.i, given)


class _Multilinear(_Linear):
    """Leibniz: the derivatives are dealt out to the operands, and the operation applied to what each of them gets."""

    def __init__(self, graph: Graph, i: int) -> None:
        super().__init__(graph, i)
        self.linear = len(graph.operands(i)) == 1

    def apply(self, operands: Operands, indices: Sequence[MultiIndex]) -> Coefficients:
        if self.linear:
            return super().apply(operands, indices)
        arrays = {k: _arrays(own, self.node.args[k]) for k, own in operands.items()}
        result = {}
        for index in indices:
            total = _Sum()
            for count, parts in dealt(index, tuple(arrays)):
                held = [(k, part) for k, part in zip(arrays, parts, strict=True) if part]
                if all(part in arrays[k] for k, part in held):
                    value = self._value({k: arrays[k][part] for k, part in held})
                    total.add(value if count == 1 else count * value, True)
            if total.array is not None:
                result[index] = total.array
        return result

    def _pushed(self, given: dict[int, Coefficient]) -> Coefficient | None:
        ((k, own),) = given.items()
        if isinstance(own, Block) or own.shape != self.node.args[k].shape:
            return _through_edges(self.graph, self.i, given)
        return self._value({k: own})

    def _value(self, held: dict[int, Array]) -> Array:
        node = self.node
        assert node.op is not None
        args = list(node.args)
        for k, array in held.items():
            args[k] = _spread(array, np.shape(args[k]))
        return node.op(*args, **node.params)


class _Elementwise(_Linear):
    """Faa di Bruno: partials of the operation times coefficients of its operands, over all ways to part the index."""

    def __init__(self, graph: Graph, i: int, linear: bool, order: int) -> None:
        super().__init__(graph, i)
        self.linear = linear
        self.order = order

    def apply(self, operands: Operands, indices: Sequence[MultiIndex]) -> Coefficients:
        if self.linear and all(isinstance(c, Block) for own in operands.values() for c in own.values()):
            return super().apply(operands, indices)
        arrays = {k: _arrays(own, self.node.args[k]) for k, own in operands.items()}
        if self.node.op.conjugate:  # type: ignore[union-attr] # linear in real numbers, which the inputs are
            (own,) = arrays.values()
            return {n: _ranked(self.node.op(own[n]), self.node.out.ndim) for n in indices if n in own}  # type: ignore[misc]
        weights = self._first if self.linear else Partials(self.node, list(arrays), self.order)
        result = {}
        for index in indices:
            total = _Sum()
            for count, parts in parted(index, tuple(arrays)):
                if len(parts) > 1 and self.linear:
                    break
                factors = [arrays[k][part] for k, part in parts if part in arrays[k]]
                if len(factors) < len(parts):
                    continue
                weight = weights(tuple(k for k, _ in parts))
                if weight is not None:
                    total.add(*_product(count * weight.scale, factors, weight.array))
            if total.array is not None:
                result[index] = _ranked(total.array, self.node.out.ndim)
        return result

    def _first(self, positions: tuple[int, ...]) -> Scaled:
        (part,) = self.graph.edge(self.i, positions[0]).parts
        if not part.factors:
            return Scaled(part.scale, None)  # type: ignore[arg-type]
        return Scaled(1.0, _as_array(Term(part.out, (), part.factors, part.scale), self.node.out))


class _General(_Linear):
    """An operation with a derivative of its own: that derivative, differentiated along a curve through the operands."""

    linear = False

    def apply(self, operands: Operands, indices: Sequence[MultiIndex]) -> Coefficients:
        node = self.node
        indices = sorted(parts_of(indices), key=len)  # the output stands in its own derivative
        result = super().apply(operands, [index for index in indices if len(index) == 1])
        if len(indices[-1]) == 1:
            return result
        arrays = {k: _spread_all(own, node.args[k]) for k, own in operands.items()}
        result = _spread_all(result, node.out)
        reached = {n for own in arrays.values() for part in own for n in part}
        for index in indices:
            if len(index) > 1 and reached.issuperset(index):
                result[index] = _along_curve(node, arrays, result, index)
        return result


def _through_edges(graph: Graph, i: int, given: dict[int, Coefficient]) -> Coefficient | None:
    """The local derivatives applied to one coefficient of each operand; None where the result is zero by structure."""
    node = graph.nodes[i]
    total: Block | None = None
    for k, coefficient in given.items():
        part = graph.edge(i, k).after(_as_block(coefficient, node.args[k].shape))
        total = part if total is None else total + part
    if total is None or not total.terms:
        return None
    if all(isinstance(coefficient, Block) for coefficient in given.values()):
        return total
    return _block_array(total, node.out)


def _along_curve(node: Node, operands: Mapping[int, Coefficients], own: Coefficients, index: MultiIndex) -> Array:
    """One coefficient of an operation from those below it, by forward derivatives of its local derivative.

    With a(t) the curve that has the operands' coefficients, and y(t) likewise for the output, the coefficient is
    d/dt2 ... d/dtr of ``edge(a(t), y(t)) da/dt1`` at 0. The operation itself is not computed again.
    """
    first, *others = index
    picks = [pick for n in range(len(others) + 1) for pick in combinations(range(len(others)), n)]

    def curve(total: Any, coefficients: Coefficients, lead: MultiIndex, ts: Sequence[Any]) -> Any:
        for pick in picks:
            coefficient = coefficients.get((*lead, *(others[n] for n in pick)))
            if coefficient is not None:
                for n in pick:
                    coefficient = coefficient * ts[n]
                total = coefficient if total is None else total + coefficient
        return total

    def slope_at(ts: Sequence[Any]) -> Any:
        args = [curve(arg, operands[k], (), ts) if k in operands else arg for k, arg in enumerate(node.args)]
        directions = {k: curve(None, coefficients, (first,), ts) for k, coefficients in operands.items()}
        tangents = {k: Block.column(direction) for k, direction in directions.items() if direction is not None}
        if not tangents:
            return zeros(node.out.shape, node.out.dtype, node.out)
        return slope(node, args, curve(node.out, own, (), ts), tangents)

    def derivative(ts: tuple[Any, ...]) -> Any:
        if len(ts) == len(others):
            return slope_at(ts)
        zero = zeros((), node.out.real.dtype, node.out)
        return jvp(lambda t: derivative((*ts, t)), (zero,), (zero + 1.0,))[1]

    return derivative(())


# -- arrays ------------------------------------------------------------------------------------------------------------
class _Sum:
    """A sum of arrays, added in place where that spoils nothing: `own` says that an array is used nowhere else."""

    def __init__(self) -> None:
        self.array: Array = None
        self.own = False

    def add(self, array: Array, own: bool) -> None:
        if self.array is None:
            self.array, self.own = array, own
        elif self.own and _fits(array, self.array):
            self.array += array
        elif own and _fits(self.array, array):
            array += self.array
            self.array, self.own = array, True
        else:
            self.array, self.own = self.array + array, True


def _fits(array: Array, target: Array) -> bool:
    """Whether `array` may be added to, or multiplied into, `target` in place."""
    if is_traced(array) or is_traced(target) or isinstance(target, np.generic):
        return False
    shape, into = array.shape, target.shape
    if shape != into and (len(shape) > len(into) or not all(m in (1, n) for m, n in zip(shape[::-1], into[::-1]))):  # noqa: B905
        return False
    return array.dtype == target.dtype


def _product(scale: float, factors: Sequence[Array], weight: Array | None) -> tuple[Array, bool]:
    """The product, smallest factors and the scale first, and whether it is a new array."""
    if weight is not None:
        factors = [weight, *factors]
    first, *rest = sorted(factors, key=lambda array: array.size)
    total, own = first, False
    if scale != 1.0:
        total, own = scale * total, True
    for factor in rest:
        if own and _fits(factor, total):
            total *= factor
        else:
            total, own = total * factor, True
    return total, own


def _ranked(array: Array, ndim: int) -> Array:
    return array if array.ndim == ndim else array.reshape((1,) * (ndim - array.ndim) + array.shape)


def _spread(array: Array, shape: Shape) -> Array:
    return array if array.shape == shape else np.broadcast_to(array, shape)


def _arrays(coefficients: Coefficients, like: Array) -> dict[MultiIndex, Array]:
    """Coefficients of the value `like`, all as arrays that broadcast to it."""
    return {index: _block_array(own, like) if isinstance(own, Block) else own for index, own in coefficients.items()}


def _spread_all(coefficients: Coefficients, like: Array) -> dict[MultiIndex, Array]:
    return {index: _spread(own, like.shape) for index, own in _arrays(coefficients, like).items()}


def _as_block(coefficient: Coefficient, shape: Shape) -> Block:
    if isinstance(coefficient, Block):
        return coefficient
    axes = tuple(axis_of(n) for n in shape)
    held: tuple[Any, ...] = tuple(axis[0] for axis, n in zip(axes, coefficient.shape, strict=True) if n != 1)
    if len(held) < len(shape):
        coefficient = coefficient.reshape(tuple(label.size for label in held))
    one = namespace(coefficient).ones((), coefficient.dtype)
    return Block(shape, (), [Term(axes, (), (Factor(coefficient, held),))], one)


def _block_array(block: Block, like: Array) -> Array:
    """A block from the shape ``()`` as an array that broadcasts to `like`."""
    if len(block.terms) == 1 and block.terms[0].plain:
        return _as_array(block.terms[0], like)
    return block.dense(like.dtype, like)


def _as_array(term: Term, like: Array) -> Array:
    """A plain term as an array, of length one along the axes where it is constant."""
    array = factors_product(term.factors, tuple(labels_in(term.out)), term.scale)
    if isinstance(array, int | float | complex):
        array = namespace(like).full((), array, like.dtype)
    sizes = iter(array.shape)
    shape = tuple(next(sizes, 1) if axis else 1 for axis in term.out)
    return array if array.shape == shape else array.reshape(shape)
