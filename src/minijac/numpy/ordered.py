"""Rows in an order that a program computes: kept where they are, until somebody looks at several of them.

Under ``minijac.compile`` nobody knows which sample ``x[order]`` has where, if ``order = np.argsort(...)`` is computed.
But all of them are there once. So that value keeps the rows of `x` in their own places, with the order beside: what is
done to each row by itself is done there, ``z[order] = v`` and ``v[np.argsort(order)]`` move nothing, and samples are
followed as if nothing had been sorted. Whatever else is done to it gets the rows in the order that they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from ..backend import array_of, namespace
from ..lines import Line, caller
from ..ops import REGISTRY, indexing, structural
from ..ops.families import Elementwise, Structural
from ..tape.op import Op
from ..tape.trace import Node, Trace, apply
from ..tape.traced import Traced, traced
from .rows import carried, inner_of, varies

__all__ = ["Order", "in_order", "laid", "permutes", "returned"]

ARGSORT = indexing.SEARCHES[np.argsort]


class Order(Trace):
    """The trace of one value whose rows are in an order: on which axis, at positions ``// stride``. It keeps nothing.

    Its value holds the rows where they were.
    """

    __slots__ = ("axis", "orders", "stride", "under", "where")

    def __init__(self, orders: tuple[Any, ...], axis: int, stride: int, under: Trace, where: Line | None) -> None:
        super().__init__()
        self.orders, self.axis, self.stride = orders, axis, stride
        """The orders are one after the other: permutations that are values of the program."""
        self.under, self.where = under, where
        self.program, self.complex = orders[0].home, under.complex

    def same(self, other: Order) -> bool:
        """Whether both are the same order in every call."""
        return len(self.orders) == len(other.orders) and all(map(_alike, self.orders, other.orders))

    def constant(self, value: Any) -> Traced:
        return self.under.constant(value)

    def known(self, x: Traced) -> Any:
        return None

    def shown(self, value: Any) -> Any:
        return self._moved(value, self._positions(), self.axis, self.stride)

    def _positions(self) -> Any:
        return reduce(lambda order, other: indexing.take(order, other, axis=0), self.orders)

    def _moved(self, x: Any, positions: Any, axis: int, stride: int) -> Any:
        """The rows at positions, of an array that has them on an axis."""
        n = positions.shape[0]
        if stride == 1 and x.shape[axis] == n:
            return indexing.take(x, positions, axis=axis)
        split = structural.reshape(
            x, shape=(*x.shape[:axis], x.shape[axis] // (n * stride), n, stride, *x.shape[axis + 1 :])
        )
        return structural.reshape(indexing.take(split, positions, axis=axis + 1), shape=x.shape)

    def _home(self, x: Any, axis: int, stride: int) -> Any:
        """What belongs to the rows as they are shown, where they are."""
        return self._moved(x, np.argsort(self._positions()), axis, stride)

    def process(self, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
        """Carry out an operation where the rows are, if each of its own is of one; else as they are shown."""
        inside = inner_of(args, Order)
        if inside is not None:
            return inside.process(op, args, params)
        homes = [order_of(x) for x in args]
        first, *others = [home for home in homes if home is not None]
        known = REGISTRY.get(op.name) is op  # a user's own may know rows by their numbers
        if known and all(first.same(other) for other in others):
            out = first._in_place(op, args, homes, params)
            if out is not None:
                return out
        shown = [x if home is None else home.shown(x.value) for x, home in zip(args, homes, strict=True)]
        return apply(op, tuple(shown), params)

    def _in_place(self, op: Op, args: Sequence[Any], homes: Sequence[Any], params: dict[str, Any]) -> Any:
        """The result of an operation on each row by itself; None where it is none."""
        values = [x if home is None else x.value for x, home in zip(args, homes, strict=True)]
        if "passing" in params:
            values[-1] = self._positions_of_these(values, homes[0], params)
            if values[-1] is None:
                return None
        with np.errstate(all="ignore"):  # where rows meet what is another's, to see which
            out = apply(op, tuple(values), params)
        node = Node(op, (-1,) * len(args), tuple(map(array_of, values)), params, array_of(out), None)
        count = self.orders[0].shape[0]
        places = {carried(node, k, home.axis, home.stride, count) for k, home in enumerate(homes) if home is not None}
        place = places.pop() if len(places) == 1 else None
        if place is None:
            return None
        others = [k for k, home in enumerate(homes) if home is None and varies(node, k, place)]
        if others:
            for k in others:
                own = _place_in(node, k, place, count)
                if own is None or _followed(values[k]):  # those of other samples: to sort them is to mix
                    return None
                values[k] = self._home(values[k], *own)
            out = apply(op, tuple(values), params)
        if not _followed(out):
            return self._moved(out, self._positions(), *place)
        return _ordered(out, self.orders, *place, self.where)

    def _positions_of_these(self, values: Sequence[Any], home: Order, params: dict[str, Any]) -> Any:
        """Flat positions, of which each is in a row of its own, in the rows where these are; None for others."""
        x, positions = values
        shape = params.get("shape", np.shape(x)[params.get("lead", 0) :])
        own = home.axis - params.get("lead", 0)
        paired = dict(params["passing"])
        if own < 0:
            return positions
        if own not in paired:
            return None
        axis, along = (own, paired[own]) if "shape" not in params else (paired[own], own)
        lines = namespace(array_of(positions)).arange(np.shape(positions)[along]) * prod(shape[axis + 1 :])
        lines = lines.reshape([-1 if k == along else 1 for k in range(np.ndim(positions))])
        return self._home(positions - lines, along, home.stride) + lines


def _ordered(value: Any, orders: tuple[Any, ...], axis: int, stride: int, where: Line | None) -> Traced:
    return traced(Order(orders, axis, stride, value.home, where), 0, value.fresh())


def order_of(x: Any) -> Order | None:
    """In which order the rows of a value are shown, where they are kept in another."""
    home = x.home if isinstance(x, Traced) else None
    return home if isinstance(home, Order) else None


def laid(x: Any) -> Any:
    """A value with its rows where they are shown."""
    home = order_of(x)
    return x if home is None else laid(home.shown(x.value))


def returned(x: Any) -> Any:
    """The same of a result of a function, which says where it was ordered."""
    home = order_of(x)
    if home is None:
        return x
    y = laid(x)
    y.home.nodes[y.index].where = home.where
    return y


def _followed(x: Any) -> bool:
    """Whether a value carries a derivative."""
    return isinstance(x, Traced) and x.home.program is not x.home and x.home.known(x) is None


def _place_in(node: Node, k: int, place: tuple[int, int], count: int) -> tuple[int, int] | None:
    """Where an operand has what belongs to the rows that are at a place of the result."""
    for axis, n in enumerate(np.shape(node.args[k])):
        for stride in {1, place[1]}:
            if n and n % (count * stride) == 0 and carried(node, k, axis, stride, count) == place:
                return axis, stride
    return None


# -- orders ------------------------------------------------------------------------------------------------------------
def _made(x: Any) -> Any:
    """The instruction that makes a vector of a program."""
    return x.home.maker(x.index) if isinstance(x, Traced) and x.home.program is x.home and x.ndim == 1 else None


def permutes(x: Any) -> bool:
    """Whether a value is one of a program that holds each position of an axis once, in every call."""
    waiting, seen = [_made(x)], set[int]()
    while waiting:
        step = waiting.pop()
        if step is None:
            return False
        if (
            step.op is not ARGSORT and step.out not in seen
        ):  # `order[order]` again and again has twice as many each time
            seen.add(step.out)
            waiting += [x.home.maker(n) for n in _rearranged(step, x.home.values, x.shape[0])] or [None]
    return True


def _rearranged(step: Any, values: Any, n: int) -> Sequence[int]:
    """The vectors that have to be permutations for a step's result to be one; none where that is not known."""
    computed = [arg for arg in step.args if values[arg].kind != "constant"]
    if any(values[arg].shape != ((n,) if arg in computed else ()) for arg in step.args):
        return ()
    if step.op is indexing.take:
        return computed
    if len(computed) != 1 or not isinstance(step.op, Structural | Elementwise):
        return ()
    operands = [np.arange(n) if arg in computed else values[arg].content for arg in step.args]
    with np.errstate(all="ignore"):
        moved = step.op.value(*operands, **step.params)  # from each position to another, or of it, if it is so
    return computed if moved.shape == (n,) and (np.sort(moved) == np.arange(n)).all() else ()


def _alike(a: Any, b: Any) -> bool:
    return a.home is b.home and (a.index == b.index or a.home.alike(a.index, b.index))


def _undoes(order: Any, other: Any) -> bool:
    """Whether one of two permutations is the sorting order of the other."""
    for one, two in ((order, other), (other, order)):
        step = _made(one)
        if step is not None and step.op is ARGSORT and one.home is two.home:
            (source,) = step.args
            if source == two.index or one.home.alike(source, two.index):
                return True
    return False


def in_order(x: Any, order: Any, axis: int) -> Any:
    """The entries of `x` along an axis in an order, which `permutes`; None where they are moved as ever."""
    home = order_of(x)
    if not _followed(x) or x.home.program is not order.home or order.shape[0] != x.shape[axis]:
        return None
    if home is None:
        return _ordered(x, (order.fresh(),), axis, 1, caller())
    if home.axis != axis:  # that of another axis stays around it
        inner = in_order(x.value, order, axis)
        return None if inner is None else _ordered(inner, home.orders, home.axis, home.stride, home.where)
    if home.stride != 1:
        return None
    orders = home.orders[:-1] if _undoes(home.orders[-1], order) else (*home.orders, order.fresh())
    return _ordered(x.value, orders, axis, 1, home.where) if orders else x.value.fresh()
