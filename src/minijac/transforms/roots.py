"""Smooth functions of a length, an absolute value, a standard deviation: right in every order, also where that is zero.

A root r, such as the norm of x, has a kink at zero, where its derivative is taken as 0. But a function of it may have
none: `norm(x)**2`, `exp(-abs(x)**2)`, the kernels of Matern written by the distance. Where derivatives are to be
differentiated again, each function g(r) that a tape makes of a root by elementwise operations is therefore taken as one
operation on the root's operands, whose derivative is written by g'(r) / r, with its limit g''(0) at zero: the product
of two factors of which one vanishes and the other has no derivative there does not occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..accumulation.graph import Graph, structure_of
from ..accumulation.recording import Prepared, Recorded
from ..backend import Wrapped, astype, on_host, value_of
from ..errors import UnsupportedOperationError
from ..ops.families import Elementwise, elementwise_edge
from ..tape.trace import Node
from .elementwise import Partials

__all__ = ["refuse_order", "smooth_roots", "smoothed"]

REACH = 0.6**0.5
"""Where the curve is taken on the way from 0 to r: the node of Gauss' rule for even functions."""
MOST = 7
"""The order up to which that is right."""
ROUNDINGS = 16
"""How many roundings a slope may be off zero that is zero, of the size of what cancels in it."""


def smoothed(ready: Prepared, higher: bool = False) -> Prepared:
    """A recorded function whose functions of roots are operations of their own, as by `smooth_roots`."""
    if not smooth_roots(ready.run, higher):
        return ready
    nodes, ends = ready.run.nodes, (ready.run.inputs, ready.nodes)
    return ready._replace(graph=Graph(nodes, *ends, structure=structure_of(nodes, *ends)))


def smooth_roots(run: Recorded, higher: bool = False) -> bool:
    """Replace functions of a root that may be zero on a tape, if derivatives are differentiated again; whether any was.

    That is where the tape's values are followed by a trace further out, or `higher` says so.
    """
    for y in run.outputs:
        higher = higher or value_of(y) is not y
    return higher and smooth(run.nodes, [i for i in run.output_nodes if i is not None])


def smooth(nodes: list[Node], outputs: Iterable[int]) -> bool:
    """The same on the nodes of any tape."""
    roots = [i for i, node in enumerate(nodes) if node.op is not None and node.op.rooted and _may_be_zero(node.out)]
    if not roots:
        return False
    same = _same_values(nodes)
    key_of: dict[int, int] = {}
    """The root that a node is a function of."""
    for i, node in enumerate(nodes):
        if i in roots:
            key_of[i] = same[i]
        elif isinstance(node.op, Elementwise) and not node.op.chooses and node.op.partials:
            keys = {key_of.get(p) for p in _followed(node)}
            (key, *others) = keys or {None}
            if key is not None and not others:
                key_of[i] = key
    outside = {p for i, node in enumerate(nodes) for p in node.parents if key_of.get(p) != key_of.get(i)}
    outside.update(outputs)
    chains = [(i, nodes[key_of[i]], _chain(nodes, i, set(roots))) for i in key_of if i in outside]
    for i, root, chain in chains:
        nodes[i] = Node(_function_of_root(root, chain), root.parents, root.args, {}, nodes[i].out, nodes[i].where)
    return True


class _Constant(NamedTuple):
    identity: int


def _same_values(nodes: Sequence[Node]) -> list[int]:
    """For each node the first one that is computed alike, from the same."""
    known: dict[Any, int] = {}
    same: list[int] = []
    for i, node in enumerate(nodes):
        operands = [same[p] if p >= 0 else _Constant(id(arg)) for p, arg in zip(node.parents, node.args, strict=True)]
        params = [(k, _Constant(id(v)) if hasattr(v, "shape") else repr(v)) for k, v in node.params.items()]
        key = (node.op, *operands, *params) if node.op is not None and node.step is None else i
        same.append(known.setdefault(key, i))
    return same


def refuse_order(nodes: Sequence[Node], order: int) -> None:
    """Raise where a root may be zero, and derivatives of so high an order would be wrong."""
    for node in nodes if order > MOST else ():
        if node.op is not None and node.op.rooted and _may_be_zero(node.out):
            raise UnsupportedOperationError(
                f"partials of order {order} through {node.op.name}, at {node.where}, which may be 0: expected order "
                f"{MOST} at most, up to which functions of it have their limits there. Write it by squares: "
                "x * x for abs(x) ** 2, (x * x).sum(1) for norm(x, axis=1) ** 2."
            )


def _may_be_zero(root: Any) -> bool:
    value = value_of(root)
    return not on_host(value) or bool((value == 0).any())


def _followed(node: Node) -> list[int]:
    return [p for k, p in enumerate(node.parents) if p >= 0 and k not in node.op.inert]  # type: ignore[union-attr]


def _chain(nodes: Sequence[Node], target: int, roots: set[int]) -> list[tuple[int, Node, bool]]:
    """The nodes from a root to one of its functions, in order; of each its number and whether it is the root."""
    needed, found = {target}, []
    for i in range(target, -1, -1):
        if i in needed:
            found.append((i, nodes[i], i in roots))
            needed.update([] if i in roots else _followed(nodes[i]))
    return found[::-1]


def _function_of_root(root: Node, chain: Sequence[tuple[int, Node, bool]]) -> Elementwise:
    """A function of a root as an operation on the root's operands."""
    assert root.op is not None and root.op.rooted is not None
    op, rooted = root.op, root.op.rooted
    of_root = Elementwise("function", _no_value, elementwise_edge, partials=(lambda y, r: _slope(chain, r)[0],))

    def partials(*operands: Any) -> Sequence[Any]:
        r = op(*operands, **root.params)
        slope, size = _slope(chain, r)
        near = REACH * r
        node = Node(of_root, (0,), (near,), {}, _values(chain, near), None)
        second = Partials(node, [0], 2)((0, 0))
        curve: Any = 0.0 if second is None else second.scale if second.array is None else second.scale * second.array
        # slope / r is the mean of the curve from 0 to r: its value, and its second and fourth derivative at zero
        known = second is None or second.array is None
        limit = astype(curve, r.dtype, r) if known else (4.0 * value_of(curve) + 5.0 * curve) / 9.0
        level = np.logical_and(abs(value_of(slope)) <= ROUNDINGS * np.finfo(r.dtype).eps * size, np.isfinite(limit))
        return rooted(r, slope, limit, level, *operands)

    def partial(k: int) -> Any:
        return lambda y, *operands: partials(*operands)[k]

    name = f"{chain[-1][1].op.name}_of_{op.name}"  # type: ignore[union-attr]
    unbounded = any(node.op.unbounded for _, node, _ in chain)  # type: ignore[union-attr]
    each = [partial(k) for k in range(len(root.args))]
    return Elementwise(name, _no_value, elementwise_edge, unbounded=unbounded, partials=each)


def _no_value(*operands: Any, **params: Any) -> Any:
    raise RuntimeError("minijac: a function of a root is computed in its steps")


def _steps(chain: Sequence[tuple[int, Node, bool]], r: Any) -> Iterator[tuple[int, Node, list[Any], Any]]:
    """Each step of a function of a root: number, node, operands, result."""
    values: dict[int, Any] = {}
    for i, node, is_root in chain:
        if is_root:
            values[i] = r
            continue
        args = [values.get(p, arg) for p, arg in zip(node.parents, node.args, strict=True)]
        values[i] = node.op(*args, **node.params)  # type: ignore[misc]
        yield i, node, args, values[i]


def _values(chain: Sequence[tuple[int, Node, bool]], r: Any) -> Any:
    return [r, *(y for _, _, _, y in _steps(chain, r))][-1]


def _slope(chain: Sequence[tuple[int, Node, bool]], r: Any) -> tuple[Any, Any]:
    """The derivative of a function of a root by the root, and the sum of the sizes of what it is a sum of."""
    one = np.ones_like(value_of(r)) if isinstance(r, Wrapped) else np.ones_like(r)
    slopes: dict[int, Any] = {i: one for i, _, is_root in chain if is_root}
    sizes = dict(slopes)
    last = chain[-1][0]
    for i, node, args, y in _steps(chain, r):
        terms, large = [], []
        for k, p in enumerate(node.parents):
            if p in slopes and k not in node.op.inert:  # type: ignore[union-attr]
                partial: Any = node.op.partials[k]  # type: ignore[union-attr]
                partial = partial(y, *args, **node.params) if callable(partial) else partial
                terms.append(partial * slopes[p])
                large.append(abs(value_of(partial)) * sizes[p])
        slopes[i], sizes[i] = sum(terms[1:], terms[0]), sum(large[1:], large[0])
    return slopes[last], sizes[last]


Partials.smooth = smooth
