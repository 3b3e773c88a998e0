"""Where samples are in a value: on an axis, or an owner for each entry; and what is said where they mix.

``y[m] = g(x[m])`` mixes nothing, though no axis of ``x[m]`` is that of the samples: each of its entries still is one
sample's. So where an axis does not pass whole, it is noted for each position whose it is, carried on by the labels of
both sides, and read as an axis again where all samples are back in their places.
"""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from .algebra.labels import Axes, Label, labels_in
from .errors import BatchMixingError
from .picks import as_pick, combined

__all__ = ["ANYWHERE", "Owners", "Place", "Where", "agreed", "in_order_again", "is_whole", "owned", "passed_on",
           "raise_mixing", "together"]  # fmt: skip


class Place(NamedTuple):
    """Where the samples of a value are: positions ``// stride % B`` of `axis`."""

    axis: int
    stride: int


ANYWHERE = Place(-1, 0)
"""A single sample, or none, whose axis was reshaped away: it mixes with nothing, wherever it is."""


@dataclass(frozen=True, eq=False)
class Owners:
    """Whose each entry is: numbers of samples, -1 for nobody's, of length one along axes where all is alike."""

    array: Any
    node: Any
    """The operation that picked them."""


Where: TypeAlias = Place | Owners | None
"""None: samples are mixed."""


def owned(place: Place | Owners, shape: Sequence[int], batch: int) -> Any:
    """The owners in a value of `shape`."""
    if isinstance(place, Owners):
        return place.array.reshape((1,) * (len(shape) - place.array.ndim) + place.array.shape)
    along = np.arange(shape[place.axis]) // place.stride % batch if place.stride else np.zeros(1, int)
    return along.reshape([-1 if k == place.axis % len(shape) else 1 for k in range(len(shape))])


def passed_on(out: Axes, inp: Axes, owners: Any, shape: Sequence[int]) -> Any:
    """The owners in an output of `shape`, given those in an operand, by the labels of both; None where some share."""
    varying = [k for k, n in enumerate(owners.shape) if n != 1]
    mine = labels_in(tuple([inp[k] for k in varying]))
    kept = [k for k, axis in enumerate(out) if any(type(d) is not Label or d in mine for d in axis)]
    order = tuple(mine | labels_in(tuple([out[k] for k in kept])))
    at, to = (combined([as_pick(digit) for k in axes for digit in side[k]], order)
              for side, axes in ((inp, varying), (out, kept)))  # fmt: skip
    given = owners.reshape(-1)[at]
    result = np.full([shape[k] if k in kept else 1 for k in range(len(shape))], -1)
    flat, there = result.reshape(-1), given >= 0
    flat[to[there]] = given[there]
    return result if (flat[to] == given)[there].all() else None


def together(found: Sequence[Any]) -> Any:
    """The owners of which each of these knows some; None where two do not agree."""
    total: Any = None
    for owners in found:
        if owners is None or (total is not None and ((total != owners) & (total >= 0) & (owners >= 0)).any()):
            return None
        total = owners if total is None else np.maximum(total, owners)
    return total


def agreed(mine: set[Where], picked: Owners, shape: Sequence[int], batch: int) -> set[Where]:
    """The one place of a value that has all of these, with None where samples mix; none for what is nobody's."""
    total = together([owned(place, shape, batch) for place in mine if place is not None])
    if total is None:  # the axis is that of an operand whose samples are in order
        return {None, *(place for place in mine if isinstance(place, Place))}
    one: set[Where] = {_placed_again(total, shape, batch) or Owners(total, picked.node)}
    return mine & {None} | (one if (total >= 0).any() else set())


def in_order_again(places: dict[int, Where], nodes: Sequence[Any], ends: Sequence[int], batch: int) -> Any:
    """Note on which axis some nodes have their samples, where these were picked; the node that picked, if on none."""
    mixing = None
    for i in ends:
        place = places.get(i)
        if isinstance(place, Owners):
            places[i] = _placed_again(place.array, nodes[i].out.shape, batch, nobody=True)
            if places[i] is None and mixing is None:
                mixing = place.node
    return mixing


def _placed_again(owners: Any, shape: Sequence[int], batch: int, nobody: bool = False) -> Place | None:
    """The samples' axis where each entry is that sample's, or, if that may be, nobody's."""
    for axis, n in enumerate(shape if batch else ()):
        for stride in {1, n // batch} if n and n % batch == 0 else ():
            if ((owners == owned(Place(axis, stride), shape, batch)) | ((owners < 0) & nobody)).all():
                return Place(axis, stride)
    return None


# -- mixing ------------------------------------------------------------------------------------------------------------
def raise_mixing(node: Any, batch: int) -> None:
    """Raise BatchMixingError for the operation, a node of a tape, at which so many samples mix."""
    where = node.where or "an unknown line"
    params = ", ".join(f"{key}={value!r}" for key, value in node.params.items() if _short(value))
    name = f"{node.op.name}({params})"
    if node.where is not None and node.where.function not in (None, node.op.name):
        name = f"{node.where.function}, in its step {name},"
    operands = " and ".join(str(np.shape(arg)) for arg in node.args)
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


def is_whole(place: Where, shape: tuple[int, ...], batch: int) -> TypeGuard[Place]:
    """Whether each sample is at a position of its own on one axis."""
    return isinstance(place, Place) and place is not ANYWHERE and place.stride == 1 and shape[place.axis] == batch
