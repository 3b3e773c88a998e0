"""Samples: where each recorded value has them, by structure alone, and the first operation that mixes them."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..errors import BatchMixingError
from ..ops.families import Elementwise
from ..tape.trace import Node
from .graph import Graph

__all__ = ["ANYWHERE", "Mixing", "Place", "follow_samples", "raise_mixing"]


class Place(NamedTuple):
    """Where the samples of a value are: positions ``// stride % B`` of `axis`."""

    axis: int
    stride: int


ANYWHERE = Place(-1, 0)
"""A single sample, or none, whose axis was reshaped away: it mixes with nothing, wherever it is."""


class Mixing(NamedTuple):
    """The operation at which samples mix."""

    node: Node
    shapes: tuple[tuple[int, ...], ...]


def follow_samples(
    graph: Graph, inputs: Mapping[int, Place | None], active: set[int], batch: int
) -> tuple[dict[int, Place | None], Mixing | None]:
    """Where each node has its samples, and the first operation that mixes those of a differentiated input.

    `active` holds the inputs that are differentiated, and is given the nodes that depend on them.
    """
    places: dict[int, Place | None] = dict(inputs)
    wholes, follow = graph.wholes(), partial(_follow, graph, places, active, batch)
    found = [wholes[i].follow(i, places, active, follow) if i in wholes else follow(i) for i in graph.order]
    return places, next(filter(None, found), None)


def _follow(graph: Graph, places: dict[int, Place | None], active: set[int], batch: int, i: int) -> Mixing | None:
    """Where one node has its samples, and whether it mixes them."""
    step: Any = graph.nodes[i].step
    if step is not None:
        return _through(graph, step, graph.steps[i], places, active, batch) if i in graph.steps else None
    found: dict[bool, set[Place | None]] = {True: set(), False: set()}
    for k, p in graph.operands(i):
        if p in places:
            found[p in active].add(_carried(graph, i, k, places[p], batch))
    mine = found[True] or found[False]
    if len(mine) > 1:
        mine.discard(ANYWHERE)
    if not mine or (batch and not graph.nodes[i].out.size and None in mine):
        return None  # no entries of it, which so depend on nothing, are left
    whole = mine - {None}  # of an operand that is not mixed
    places[i] = next(iter(whole)) if len(whole) == 1 else None
    if found[True]:
        active.add(i)
    mixes = found[True] and (len(mine) > 1 or places[i] is None)
    return Mixing(graph.nodes[i], tuple(np.shape(arg) for arg in graph.nodes[i].args)) if mixes else None


def _through(graph: Graph, step: Any, group: list[int], places: Any, active: set[int], batch: int) -> Mixing | None:
    """Follow the samples through a step."""
    operands = {k: p for k, p in graph.operands(group[0]) if p in places}
    given = {k: places[p] for k, p in operands.items()}
    outputs = [graph.nodes[i].params["output"] for i in group]
    mixing: Mixing | None
    found, alive, mixing = step.follow(given, {k for k, p in operands.items() if p in active}, outputs, batch)
    for i, output in zip(group, outputs, strict=True):
        if output in found:
            places[i] = found[output]
        if output in alive:
            active.add(i)
    return mixing


def _carried(graph: Graph, i: int, k: int, place: Place | None, batch: int) -> Place | None:
    if place is None or place is ANYWHERE:
        return place
    node = graph.nodes[i]
    assert node.op is not None
    if isinstance(node.op, Elementwise):  # entries stay in place: no need of the partials for that
        axis = place.axis + node.out.ndim - np.ndim(node.args[k])
        return Place(axis, place.stride) if node.args[k].shape[place.axis] == node.out.shape[axis] else None
    carried = graph.edge(i, k).carry(*place, batch)
    gone = carried is None or graph.nodes[i].out.shape[carried[0]] != 1
    if batch <= 1 and gone and node.op.carries_one:
        return ANYWHERE
    return carried and Place(*carried)


def raise_mixing(mixing: Mixing, batch: int) -> None:
    """Raise BatchMixingError for the operation found by `follow_samples`."""
    node = mixing.node
    where = node.where or "an unknown line"
    params = ", ".join(f"{key}={value!r}" for key, value in node.params.items() if _short(value))
    assert node.op is not None
    name = f"{node.op.name}({params})"
    if node.where is not None and node.where.function not in (None, node.op.name):
        name = f"{node.where.function}, in its step {name},"
    operands = " and ".join(str(shape) for shape in mixing.shapes)
    source = linecache.getline(node.where.file, node.where.number).strip() if node.where is not None else ""
    lines = [
        f"samples mix in {name} at {where}",
        *([f"    {source:.100}"] if source else []),
        f"  Operands of shape {operands} give {node.out.shape}: the axis of the {batch} samples does not pass whole.",
        "  Expected every sample's output to depend on its own input alone. Is it meant? Then choose",
        '    on_mixing="diagonal"   the exact d y_i / d x_i, the coupling included',
        '    on_mixing="full"       all of it, (B, *out, B, *in)',
        "    mj.stop_gradient(...)  around an operand that counts as constant",
    ]
    if node.out.shape == ():
        lines.append("    mj.grad(f)             the gradient of one number, a sum over the samples")
    lines.append("  If not: are the samples on another axis? Say batch_axis=... A single sample? Pass x[None].")
    error = BatchMixingError("\n".join(lines))
    error.module = node.where and node.where.module
    raise error


def _short(value: Any) -> bool:
    """Whether a parameter is told in a message: a number, text, or a few of them."""
    if isinstance(value, tuple | list):
        return len(value) < 9 and all(item is None or isinstance(item, int | slice) for item in value)
    return isinstance(value, int | float | str)
