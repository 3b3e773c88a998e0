"""Entries that a mask of a program being recorded picks: kept where they are, at full size, until they are put back.

How many they are differs from call to call, so ``x[m]`` stands for all of the rows of `x`, of which those are meant
that `m` holds. Operations on each row by itself are carried out on all; whatever looks at several rows, or at their
number, is refused. ``y[m] = v`` is a choice between `v` and `y`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..backend import Wrapped, array_of, is_array, namespace, value_of
from ..errors import MinijacError, TraceError
from ..lines import asked_from_outside, for_torch, user_line
from ..ops import structural
from ..ops.indexing import counted
from ..tape.op import Op
from ..tape.trace import Node, Trace, apply, running
from ..tape.traced import Indexable, Traced
from .handles import kinds
from .positions import WHOLE, full_index
from .rows import carried, inner_of, under, varies

__all__ = ["Picked", "Rows", "axis_of_rows", "beside", "broadcast", "coordinates", "picked", "replaced", "valid",
           "within"]  # fmt: skip

PUT_BACK = (
    "Expected operations on each entry by itself until they are put back with the same mask, `y[m] = g(x[m])`. Write a "
    "sum over them as np.where(m, v, 0.0).sum(), their number as np.count_nonzero(m), a buffer as np.zeros_like(x[m]), "
    "or leave the function uncompiled."
)


def _refused(what: str, why: str) -> TraceError:
    return TraceError(f"{what} at {user_line()}: under minijac.compile it differs from call to call which entries a "
                      f"mask picks, and how many, and {why}. {PUT_BACK}")  # fmt: skip


class Number(Wrapped):
    """How many entries a mask picks, which no one knows."""

    def __repr__(self) -> str:
        return "?"

    def _asked(self, *_: Any, **__: Any) -> Any:
        raise _refused("a length or shape", "this asks for their number")

    plain = outline = lowest = _asked
    shape = dtype = property(_asked)


_ASKING = """
    add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod divmod rdivmod pow rpow matmul rmatmul and
    rand or ror xor rxor lshift rlshift rshift rrshift neg pos abs invert round trunc floor ceil eq ne lt le gt ge hash
    index int float complex bool format array array_ufunc
"""
for _name in _ASKING.split():
    setattr(Number, f"__{_name}__", Number._asked)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a mask picks, among what another one picked or among all."""

    mask: Any
    """As it is in the program, of any number of axes: a handle of its own, which no later write to the mask moves."""
    within: Choice | None
    number: Number
    under: Any
    """The transformation that it is made for: nothing leaves that before it is put back."""

    def __eq__(self, other: object) -> bool:
        """Whether both pick the same in every call: the masks are computed alike."""
        if not isinstance(other, Choice) or (self.within is None) != (other.within is None):
            return False
        return self.mask.home.alike(self.mask.index, other.mask.index) and (
            self.within is None or self.within == other.within
        )

    def meant(self) -> Any:
        """For each row whether it is picked: a vector."""
        if self.within is None:
            return np.reshape(self.mask, (-1,))
        return np.reshape(self.mask & np.reshape(self.within.meant(), (-1, *[1] * (self.mask.ndim - 1))), (-1,))


class Picked(Traced):
    """What stands for picked entries: a value with all rows, along an axis whose length is not told."""

    __slots__ = ()
    home: Any
    full = property(lambda self: np.shape(self.value))

    @property
    def shape(self) -> tuple[Any, ...]:
        frame = sys._getframe(1)
        if for_torch(frame):  # whose shapes are numbers
            self._refuse("a tensor of them")
        if not asked_from_outside(frame):
            return self.full
        axis = self.home.axis
        return (*self.full[:axis], self.home.choice.number, *self.full[axis + 1 :])

    @property
    def size(self) -> Any:
        return self.home.choice.number if asked_from_outside(sys._getframe(1)) else prod(self.full)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return super().__array_function__(func, types, self._counted(args), self._counted(kwargs))

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)
        return lambda *args, **kwargs: method(*self._counted(args), **self._counted(kwargs))

    def _counted(self, x: Any) -> Any:
        """Arguments with the number of all rows for that of picked entries, as in ``v.reshape(v.shape[0], -1)``."""
        if type(x) in (tuple, list):
            return type(x)(map(self._counted, x))
        if type(x) is dict:
            return {key: self._counted(item) for key, item in x.items()}
        return self.home.choice.mask.size if x is self.home.choice.number else x

    def plain(self) -> Any:
        return self.home.again(value_of(self.value))

    lowest = plain

    def outline(self) -> Any:
        return namespace(self).empty(self.full, self.dtype)

    def _refuse(self, what: str) -> Any:
        raise _refused(what, "this asks for the entries themselves")

    def _plain(self, what: str, positions: bool = False) -> Any:
        return self._refuse(what)

    def __bool__(self) -> bool:
        return self._refuse("a decision (if, while, and, or)")

    def __repr__(self) -> str:
        return f"Picked({self.dtype}, rows of {list(self.full)})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)


class PickedArray(Indexable, Picked):
    """Picked entries."""

    __slots__ = ()


kinds(Picked, PickedArray, shape=Picked.shape, full=property(lambda self: self.unwritten().full))


class Rows(Trace):
    """The trace of one value of picked entries: on which axis they are, of positions ``// stride``.

    It keeps nothing: what an operation does to all rows is recorded below.
    """

    __slots__ = ("axis", "choice", "coordinate", "stride")

    def __init__(self, choice: Choice, axis: int, stride: int = 1, coordinate: int | None = None) -> None:
        super().__init__()
        self.choice, self.axis, self.stride = choice, axis, stride
        self.coordinate = coordinate
        """For positions by which the same is picked: along which axis of the mask."""
        self.program = choice.mask.home

    open = property(lambda self: self.choice.under.open, lambda self, value: None)

    def again(self, value: Any, coordinate: int | None = None) -> PickedArray:
        """Another value with the rows where this has them."""
        return PickedArray(Rows(self.choice, self.axis, self.stride, coordinate), 0, value)

    def constant(self, value: Any) -> Traced:
        return (PickedArray if value.ndim else Picked)(Rows(self.choice, self.axis, self.stride), -1, value)

    def process(self, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
        """Carry out an operation on all rows, where each of its rows is of one."""
        inside = inner_of(args, Rows)
        if inside is not None:
            return inside.process(op, args, params)
        homes = [_rows(x) for x in args]
        values = [x.value if isinstance(x, Picked) else x for x in args]
        found = [home for home in homes if home is not None]
        if any(home.choice is not found[0].choice and home.choice != found[0].choice for home in found):
            raise _refused(op.name, "this joins entries that two masks picked")
        if any(home.coordinate is not None and home.choice.within is not None for home in found):
            raise _refused(op.name, "this computes with positions among the entries that another mask picked")
        if any(isinstance(value, Picked) for value in params.values()):
            raise _refused(op.name, "this has a parameter that depends on them")
        with np.errstate(all="ignore"):  # of rows that are not meant
            if homes[-1] is not None and (op is counted or (op.picks and not params.get("passing"))):
                values[-1] = valid(args[-1]).value
            if op.refuses and homes[0] is not None:
                values[0] = _regular(args[0]).value
            try:
                out = apply(op, tuple(values), params)
            except ValueError as error:
                if not found or isinstance(error, MinijacError):
                    raise
                beside = "a plain array beside them is `np.compress(m, table, axis=0)`, not `table[m]`"
                raise _refused(op.name, f"this is carried out on all of them ({error}): {beside}") from None
        if not found:
            return self.constant(out) if is_array(out) else out
        node = Node(op, (-1,) * len(args), tuple(map(array_of, values)), params, array_of(out), None)
        count = found[0].choice.mask.size
        places = {carried(node, k, home.axis, home.stride, count) for k, home in enumerate(homes) if home is not None}
        place = places.pop() if len(places) == 1 else None
        if place is None or any(home is None and varies(node, k, place) for k, home in enumerate(homes)):
            raise _refused(op.name, "this looks at several of them, or at which they are")
        return PickedArray(Rows(found[0].choice, *place), 0, out)


def _meant(rows: Rows, value: Any) -> Any:
    """Which entries of a value are meant."""
    meant = np.repeat(rows.choice.meant(), rows.stride) if rows.stride != 1 else rows.choice.meant()
    meant = np.tile(meant, np.shape(value)[rows.axis] // meant.shape[0]) if meant.shape[0] else meant
    return np.reshape(meant, (-1, *[1] * (np.ndim(value) - rows.axis - 1)))


def _regular(x: Any) -> Any:
    """Matrices, a regular one with eigenvalues apart in rows that are not meant: where none is, all may be singular."""
    if x.home.axis > len(x.full) - 3:
        return x
    xp, (n, m) = namespace(x), x.full[-2:]
    return x.home.again(np.where(_meant(x.home, x.value), x.value, xp.eye(n, m, dtype=x.dtype) * xp.arange(1, m + 1)))


def _rows(x: Any) -> Rows | None:
    """Where a value has the rows of picked entries, if it has."""
    if not isinstance(x, Picked):
        return None
    rows: Rows = x.home
    most = rows.choice.mask.size * rows.stride
    return rows if len(x.full) > rows.axis and x.full[rows.axis] % max(most, 1) == 0 else None


# -- picking and putting back ------------------------------------------------------------------------------------------
def valid(positions: Any) -> Any:
    """Positions that are some of an axis also in rows that are not meant."""
    if not isinstance(positions, Picked):
        return positions
    return positions.home.again(np.where(_meant(positions.home, positions.value), positions.value, 0))


def beside(array: Any, x: Any) -> Any:
    """A plain array that was made for all rows of `x`, where these are picked entries."""
    return x.home.constant(array) if isinstance(x, Picked) else array


def broadcast(value: Any, shape: Sequence[int], y: Any, axis: int | None) -> Any:
    """`value` as it is written to a part of `y` of some shape, which has the rows of picked entries on `axis`."""
    if not isinstance(y, Picked) or axis is None or _rows(value) is not None:
        return value if value.shape == shape else structural.broadcast_to(value, to=shape)
    if y.home.stride != 1:
        raise _refused("a write", "this is to several of each")
    whole = _whole(value, y.home.choice, axis - len(shape))
    return PickedArray(Rows(y.home.choice, axis), 0, np.broadcast_to(whole, shape))


def within(x: Any) -> Picked | None:
    """The picked entries that a value is, or that it follows further out."""
    return under(x, Rows)


def axis_of_rows(y: Any) -> int | None:
    return y.home.axis if isinstance(y, Picked) else None


def mask_of(x: Any) -> Any:
    """A mask as the program has it, or with rows of picked entries; None for whatever else."""
    found: Any = value_of(x) if isinstance(x, Traced) else None
    known = isinstance(found, Picked) or (isinstance(found, Traced) and found.home.program is found.home)
    return found if known and found.dtype.kind == "b" else None


def _choice(mask: Any) -> Choice:
    """What a mask picks."""
    if not isinstance(mask, Picked):
        return Choice(mask.fresh(), None, Number(), running())
    if mask.home.axis or mask.home.stride != 1:
        raise _refused("a mask", "this one has the picked entries on another axis than the first")
    known = _recorded(value_of(mask.value), mask.home.program)
    return Choice(known.fresh(), mask.home.choice, Number(), running())


def _recorded(x: Any, program: Any) -> Any:
    """A value as one of the program: a buffer that was not written yet is a plain array."""
    return x if isinstance(x, Traced) else program.captured(np.asarray(x))


def coordinates(x: Any) -> tuple[Any, ...] | None:
    """``np.nonzero(x)`` of a value of the program: positions by which `x[m]` can be had and put back as well."""
    mask = mask_of(x if not isinstance(x, Traced) or x.dtype.kind == "b" else x != 0)
    if mask is None:
        return None
    choice = _choice(mask)
    rows = Rows(choice, 0)
    return tuple([rows.again(array, k) for k, array in enumerate(_along_each(choice))])


def _along_each(choice: Choice) -> Sequence[Any]:
    """The positions of all entries of a mask along its axes."""
    shape = choice.mask.shape
    return np.unravel_index(namespace(choice.mask).arange(prod(shape)), shape) if shape else ()


def _is_coordinate(item: Any, k: int, choice: Choice | None = None) -> bool:
    """Whether positions are those along an axis of a mask, or of the one that is asked for, of what it picks."""
    if not isinstance(item, Picked) or choice not in (None, item.home.choice):
        return False
    rows = item.home
    if rows.coordinate is not None or rows.choice.within is not None:
        return bool(rows.coordinate == k)
    vector = is_array(item.value) and item.value.dtype.kind == "i" and (item.ndim, rows.axis, rows.stride) == (1, 0, 1)
    return vector and k < rows.choice.mask.ndim and bool((item.value == _along_each(rows.choice)[k]).all())


def _selected(index: Any, x: Any) -> tuple[Any, tuple[Any, ...], int, Choice] | None:
    """What an index with a mask of the program picks from: the array with the rest of the index carried out, that
    index, and the axis at which the mask begins there. None for other indices."""
    items = list(index) if isinstance(index, tuple) else [index]
    traced = [k for k, item in enumerate(items) if isinstance(item, Traced)]
    at = next((k for k in traced if mask_of(items[k]) is not None or _is_coordinate(items[k], 0)), None)
    if at is None:
        return None
    mask = mask_of(items[at])
    by_positions, choice = mask is None, items[at].home.choice if mask is None else _choice(mask)
    shape, count = choice.mask.shape, choice.mask.ndim
    group = items[at : at + (count if by_positions else 1)]
    if by_positions and not (
        len(group) == count and all(_is_coordinate(item, k, choice) for k, item in enumerate(group))
    ):
        return None
    items[at : at + len(group)] = [WHOLE] * count
    if not all(item is None or item is Ellipsis or isinstance(item, int | np.integer | slice) for item in items):
        raise _refused("an index", "this one has arrays beside the mask")
    x = _recorded(x, choice.mask.home)
    axis = sum(item is None or isinstance(item, slice) for item in items[:at])
    axis += x.ndim - sum(item is not None for item in items) + 1 if Ellipsis in items[:at] else 0
    numbers = [k for k, item in enumerate(items) if isinstance(item, int | np.integer)]
    span = {*numbers, *range(at, at + count)}
    if axis and numbers and max(span) - min(span) >= len(span):
        raise _refused("an index", "this one has a slice between the mask and a number")
    basic = full_index(tuple(items), x)
    view = x[basic]
    if view.shape[axis : axis + count] != shape:
        if by_positions:
            return None
        raise IndexError(f"mask of shape {shape} at {user_line()}: picks from an array of shape {view.shape}")
    outer = within(view)
    if (outer is not None or choice.within is not None) and (outer is not view or outer.home.choice != choice.within):
        raise _refused("a mask", "this one is not of the same entries as what it picks from")
    if outer is not None and (outer.home.axis, outer.home.stride) != (axis, 1):
        raise _refused("a mask", "this one is along another axis than the entries")
    return view, basic, axis, choice


def picked(x: Any, index: Any) -> Any:
    """``x[index]`` by a mask of the program; None where the index has none.

    Rows that are not meant are the first one that is, so that nothing is computed of numbers that the mask keeps out.
    """
    found = _selected(index, x)
    if found is None:
        return None
    view, _, axis, choice = found
    shape = (*view.shape[:axis], choice.mask.size, *view.shape[axis + choice.mask.ndim :])
    value = np.reshape(view.value if isinstance(view, Picked) else view.fresh(), shape)
    if value.size:
        meant = choice.meant()
        first = np.where(meant, namespace(meant).arange(meant.size), meant.size - 1).min()
        row = np.expand_dims(np.take(_recorded(value_of(value), choice.mask.home), first, axis), axis)
        value = np.where(np.reshape(meant, (-1, *[1] * (value.ndim - axis - 1))), value, row)
    return PickedArray(Rows(choice, axis), 0, value)


def replaced(y: Any, index: Any, value: Any, adds: bool = False) -> Any:
    """`y` with `value` written, or added, where a mask of the program says; None where the index has none."""
    found = _selected(index, y)
    if found is None:
        return None
    view, basic, axis, choice = found
    there = view.value if isinstance(view, Picked) else view.fresh()
    behind = view.ndim - axis - choice.mask.ndim
    whole, mask = _whole(value, choice, -behind - 1), np.reshape(choice.mask, (*choice.mask.shape, *[1] * behind))
    new = there + np.where(mask, whole, 0) if adds else np.where(mask, whole, there)
    new = new if new.dtype == there.dtype else new.astype(there.dtype)
    new = view.home.again(new) if isinstance(view, Picked) else new
    if all(item == WHOLE for item in basic):
        return new
    result = y.fresh() if isinstance(y, Traced) else choice.mask.home.captured(y).fresh()
    result[basic] = new
    return result


def _whole(value: Any, choice: Choice, axis: int) -> Any:
    """What is written at picked entries, which are along `axis` (counted from behind), at all of them."""
    rows, inner = _rows(value), value.value if isinstance(value, Picked) else value
    shape = np.shape(inner)
    at = len(shape) + axis
    if rows is not None and rows.choice == choice and (rows.coordinate is None or choice.within is None):
        if (rows.axis, rows.stride) != (at, 1):
            raise _refused("a write", "the values have the entries on another axis")
        return np.reshape(inner, (*shape[:at], *choice.mask.shape, *shape[at + 1 :]))
    if at < 0:
        return inner
    if shape[at] != 1 or rows is not None:
        raise _refused("a write", "the values are not those of the entries that this mask picks")
    return np.reshape(inner, (*shape[:at], *[1] * choice.mask.ndim, *shape[at + 1 :]))
