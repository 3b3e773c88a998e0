"""Writing in place, as NumPy has it: a handle moves to a new value, and the views of what was written follow.

Parts that are written wait until the value is read, and are then put in place together, as one operation: a buffer
filled in a loop costs what its columns cost. A view remembers of what it is a view, and how; a write to it is a write
to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..backend import array_of, check_operand, is_array, namespace, placed
from ..errors import ConversionError, InputError, MutationError
from ..lines import user_line
from ..ops import structural
from ..tape.traced import FIXED, Traced
from .handles import Pending
from .picked import axis_of_rows, broadcast
from .positions import WHOLE

__all__ = ["Region", "Sight", "Writes", "as_view", "assign", "into", "looked", "overwrite", "refuse_plain", "writable"]

Region: TypeAlias = tuple[int | range, ...]
"""What a basic index names, for each axis: a position, or some at equal distances."""


# -- what handles keep -------------------------------------------------------------------------------------------------
class Writes:
    """The link of a value that was written: how often, and the pieces, each in its region, that wait to be put there.

    No two regions meet. Those that differ in positions alone, as columns do, are known to be apart without a look.
    """

    __slots__ = ("pattern", "pieces", "version")

    def __init__(self) -> None:
        self.version = 0
        self.pieces: dict[Region, Any] = {}
        self.pattern: Any = None

    def apart(self, region: Region) -> bool:
        """Whether a region meets none of those that wait."""
        if _pattern(region) == self.pattern:
            return region not in self.pieces
        return all(_apart(region, other) for other in self.pieces)

    def wait(self, region: Region, value: Any) -> None:
        pattern = _pattern(region)
        self.pattern = pattern if not self.pieces or pattern == self.pattern else None
        self.pieces[region] = value
        self.version += 1

    def settled(self, y: Traced) -> Traced:
        """`y` with the pieces in their places."""
        y.__class__ = type(y).ordinary
        pieces, self.pieces = self.pieces, {}
        y.moved(_lain(together(y, pieces), y))
        return y


class Sight:
    """The link of a view: of what, how it is read from that, and, for a basic index, which part it is."""

    __slots__ = ("again", "axes", "current", "parent", "positions", "region", "root", "version")

    def __init__(
        self,
        parent: Traced,
        current: Traced,
        again: Callable[[Any], Any],
        positions: Callable[[Any], Any] | None = None,
        region: Region = (),
        axes: Sequence[int | None] = (),
    ) -> None:
        link = parent.link
        self.parent = parent
        self.root: Traced = link.root if type(link) is Sight else parent
        self.current = current
        self.version = _version(self.root)
        self.again = again
        self.positions = positions
        """For a view by a function: that function on a plain array of the parent's shape."""
        self.region = region
        self.axes = axes
        """For a view by an index: the parent's axis behind each of its own, None for a new one."""

    def now(self) -> Traced:
        version = _version(self.root)
        if version != self.version:
            self.current, self.version = _plain(self.again(self.parent)), version
        return self.current


def _version(root: Traced) -> int:
    return root.link.version if type(root.link) is Writes else 0


def _plain(x: Any) -> Any:
    """A handle that is nobody's but the caller's, and no view."""
    return x.fresh() if isinstance(x, Traced) and x.link is not None else x


def _seen(current: Traced, sight: Sight) -> Traced:
    view = object.__new__(type(current).viewed)
    view.link = sight
    return view


# -- regions -----------------------------------------------------------------------------------------------------------
def _region(basic: Sequence[Any], shape: Sequence[int]) -> tuple[Region, tuple[int | None, ...]]:
    """The region of a full basic index, and the axis behind each axis of what it picks."""
    region: list[int | range] = []
    axes: list[int | None] = []
    for item in basic:
        if item is None:
            axes.append(None)
            continue
        n = shape[len(region)]
        if isinstance(item, slice):
            axes.append(len(region))
            region.append(range(n)[item])
        else:
            region.append(int(item) % n)
    return tuple(region), tuple(axes)


def _all_of(shape: Sequence[int]) -> Region:
    return tuple(range(n) for n in shape)


def _pattern(region: Region) -> tuple[range | None, ...]:
    return tuple([None if isinstance(item, int) else item for item in region])


def _as_index(region: Region) -> tuple[Any, ...]:
    return tuple(item if isinstance(item, int) else _as_slice(item) for item in region)


def _as_slice(r: range) -> slice:
    return slice(r.start, r.stop if r.stop >= 0 else None, r.step) if len(r) else slice(0, 0)


def _extent(region: Region) -> tuple[int, ...]:
    return tuple(len(item) for item in region if isinstance(item, range))


def _within(outer: Region, inner: Region) -> tuple[Any, ...] | None:
    """The index that picks the region `inner` from an array over the region `outer`; None where it reaches beyond."""
    index: list[Any] = []
    for o, i in zip(outer, inner, strict=True):
        if isinstance(o, int):
            if o != i:
                return None
        elif isinstance(i, int):
            if i not in o:
                return None
            index.append(o.index(i))
        elif not len(i) or i[0] not in o or i[-1] not in o or i.step % o.step:
            return None
        else:
            start, step = o.index(i[0]), i.step // o.step
            index.append(_as_slice(range(start, start + step * len(i), step)))
    return tuple(index)


def _apart(a: Region, b: Region) -> bool:
    """Whether two regions have no position in common, as far as the axes tell one by one."""
    return any(_disjoint(i, j) for i, j in zip(a, b, strict=True))


def _disjoint(a: int | range, b: int | range) -> bool:
    if isinstance(a, int):
        return a not in b if isinstance(b, range) else a != b
    if isinstance(b, int):
        return b not in a
    if not len(a) or not len(b):
        return True
    if max(a[0], a[-1]) < min(b[0], b[-1]) or max(b[0], b[-1]) < min(a[0], a[-1]):
        return True
    return bool((a.start - b.start) % np.gcd(a.step, b.step))


# -- reading -----------------------------------------------------------------------------------------------------------
def looked(x: Traced, basic: tuple[Any, ...]) -> Any:
    """``x[basic]``: a view, or where no axis is left, a number."""
    if all(type(item) is slice and item == WHOLE for item in basic):
        return x
    if x.link is FIXED:
        y = structural.getitem_basic(x, index=basic)
        y.link = FIXED
        return y
    current = _read(x, basic)
    if not any(item is None or isinstance(item, slice) for item in basic):
        current.link = FIXED
        return current
    region, axes = _region(basic, x.shape)
    return _seen(current, Sight(x, current, lambda parent: _read(parent, basic), None, region, axes))


def _read(x: Traced, basic: tuple[Any, ...]) -> Traced:
    """The part of `x` that a basic index names, from a piece that waits to be written where that holds it."""
    link = x.link
    if type(link) is Writes and link.pieces:
        region, axes = _region(basic, x.shape)
        if region in link.pieces:
            return _with_new_axes(link.pieces[region].fresh(), axes)
        if link.apart(region):
            return structural.getitem_basic(x.unwritten(), index=basic)
        for other, piece in link.pieces.items():
            index = _within(other, region)
            if index is not None:
                return _with_new_axes(structural.getitem_basic(piece, index=index), axes)
    return structural.getitem_basic(x, index=basic)


def _with_new_axes(x: Traced, axes: Sequence[int | None]) -> Traced:
    new = tuple(k for k, axis in enumerate(axes) if axis is None)
    return structural.expand_dims(x, axis=new) if new else x


def as_view(function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns a view of its first argument where NumPy's function `plain` does."""

    def view_of(x: Any, *args: Any, **kwargs: Any) -> Any:
        y = function(x, *args, **kwargs)
        if y is x or not isinstance(x, Traced) or not isinstance(y, Traced) or y.link is not None:
            return y
        if x.link is FIXED:
            y.link = FIXED
        elif _shares(array_of(y), array_of(x)):
            again = lambda parent: function(parent, *args, **kwargs)  # noqa: E731
            y = _seen(y, Sight(x, y, again, lambda array: plain(array, *args, **kwargs)))
        return y

    return view_of


def _shares(a: Any, b: Any) -> bool:
    return _owner(a) is _owner(b)


def _owner(array: Any) -> Any:
    while isinstance(getattr(array, "base", None), type(array)):
        array = array.base
    return array


# -- writing -----------------------------------------------------------------------------------------------------------
def assign(y: Traced, basic: tuple[Any, ...], value: Any) -> None:
    """``y[basic] = value``"""
    region, axes = _region(basic, y.shape)
    if type(value) is type(y).viewed and value.link.parent is y and value.link.region == region:
        return  # what ``y[index] += v`` does at its end: the view was written
    shape = tuple(1 if axis is None else len(region[axis]) for axis in axes)  # type: ignore[arg-type]
    rows = axis_of_rows(y)
    if rows is not None and region[rows] != range(y.shape[rows]):
        y._refuse("a write to some of them")
    value = _fitted(y, value, shape, axes.index(rows) if rows in axes else None)
    if None in axes:
        value = structural.reshape(value, shape=_extent(region))
    _write(y, region, value)


def _fitted(y: Traced, value: Any, shape: tuple[int, ...], rows: int | None = None) -> Any:
    """A value as it is written to `y`: of its dtype, of `shape`, and not changed by what is written later.

    Of picked entries `rows` is the axis.
    """
    if is_array(array_of(value)):
        check_operand("assignment", array_of(value))
    value = value.fresh() if isinstance(value, Traced) else _own(y, value)
    if value.dtype != y.dtype:
        value = value.astype(y.dtype)
    extra = value.ndim - len(shape)
    if extra > 0 and value.shape[:extra] == (1,) * extra:
        value = structural.reshape(value, shape=value.shape[extra:])
    if value.shape == shape and axis_of_rows(y) is None:
        return value
    try:
        np.broadcast_shapes(value.shape, shape)
        return broadcast(value, shape, y, rows)
    except ValueError:
        raise InputError(
            f"assignment at {user_line()}: expected a value that broadcasts to shape {shape}, got shape {value.shape}."
        ) from None


def _own(y: Traced, value: Any) -> Traced:
    """A plain value as one of the trace of `y`, whose writes go on waiting."""
    y = y.unwritten() if isinstance(y, Pending) else y
    program = y.home.program
    if program is not None and program.captures(value):
        return program.captured(value).fresh()
    return y.home.constant(placed(value.copy() if is_array(value) else np.asarray(value, y.dtype), y))


def writable(y: Traced) -> None:
    """Raise MutationError for a value that cannot be written."""
    if y.link is FIXED:
        raise MutationError(
            f"assignment at {user_line()}: this value of shape {y.shape} is {FIXED}, so it cannot be written. Write to "
            "a copy (`y = x.copy()`), rebind (`x = x + 1` instead of `x += 1`), or make a new array: "
            "np.where(mask, new, x), np.concatenate."
        )


def _write(y: Traced, region: Region, value: Traced) -> None:
    """Let `value`, of the region's shape, be there from now on."""
    writable(y)
    link = y.link
    if 0 in value.shape:
        return
    if type(link) is Sight:
        _write_through(y, link, region, value)
    elif region == _all_of(y.shape):
        overwrite(y, value)
    else:
        _wait(y, region, value)


def _wait(y: Traced, region: Region, value: Traced) -> None:
    if type(y.link) is not Writes:
        y.link = Writes()
    if region not in y.link.pieces and not y.link.apart(region):
        y.link.settled(y)
    y.link.wait(region, value)
    y.__class__ = type(y).waiting


def _write_through(y: Traced, link: Sight, region: Region, value: Traced) -> None:
    """Write to that of which `y` is a view."""
    if link.positions is None:
        up = list(link.region)
        for item, axis in zip(region, link.axes, strict=True):
            if axis is not None:
                whole = up[axis]
                assert isinstance(whole, range)
                up[axis] = whole[item] if isinstance(item, int) else whole[_as_slice(item)]
        if None in link.axes:
            value = structural.reshape(value, shape=_extent(tuple(up)))
        _write(link.parent, tuple(up), value)
        return
    if region != _all_of(y.shape):
        value = together(link.now(), {region: value})
    overwrite(link.parent, _back(link, value))


def _back(link: Sight, value: Traced) -> Traced:
    """What a view by a function is a view of, where the view is `value`: its axes in the order that they lie there."""
    shape = link.parent.shape
    dummy = np.empty(shape, np.int8)
    view = link.positions(dummy)  # type: ignore[misc]
    if not (isinstance(view, np.ndarray) and view.flags.writeable and view.size == dummy.size and _shares(view, dummy)):
        raise MutationError(
            f"assignment at {user_line()}: this view of shape {value.shape} is read-only, as NumPy's is, or may be a "
            "copy. Write to the array itself, or to a copy of the view."
        )
    order = sorted((k for k, n in enumerate(view.shape) if n > 1), key=lambda k: -abs(view.strides[k]))
    turned = tuple(k for k in order if view.strides[k] < 0)
    if turned:
        value = structural.flip(value, axis=turned)
    value = structural.transpose(value, axes=(*(k for k, n in enumerate(view.shape) if n <= 1), *order))
    return structural.reshape(value, shape=shape)


def overwrite(y: Traced, value: Any) -> None:
    """``y[...] = value`` for a value of the same shape."""
    value = _fitted(y, value, y.shape, axis_of_rows(y))
    if y.link is FIXED or type(y.link) is Sight:
        _write(y, _all_of(y.shape), value)
        return
    if type(y.link) is not Writes:
        y.link = Writes()
    y.link.pieces = {}
    y.link.version += 1
    y.__class__ = type(y).ordinary
    y.moved(_lain(value, y))


def _lain(value: Traced, y: Traced) -> Traced:
    """The value in the order of memory that the buffer `y` has."""
    strides = array_of(y).strides
    axes = sorted(range(y.ndim), key=lambda k: -abs(strides[k]))
    if y.ndim < 2 or array_of(value).transpose(*axes).flags.c_contiguous:
        return value
    value = value.fresh()
    lay(value, axes)
    return value


def lay(y: Traced, axes: Sequence[int]) -> None:
    """Have a value lie in memory with its axes in that order: on it depends what views of it are."""
    while isinstance(y.value, Traced):
        y.value = y.value.fresh()  # which others may stand for too
        y = y.value
    y.value = namespace(y.value).ascontiguousarray(y.value.transpose(*axes)).transpose(*np.argsort(axes))


# -- putting together --------------------------------------------------------------------------------------------------
def together(x: Traced, pieces: dict[Region, Any]) -> Traced:
    """`x` with each piece in its region, as one operation. The regions do not meet."""
    placed_there = [*_rest(x, list(pieces)), *((_as_index(region), piece) for region, piece in pieces.items())]
    parts = []
    for index, _ in placed_there:
        part = structural.region(x.shape, index)
        labels = tuple(axis[0] for axis in part.out)
        parts.append((labels, part.inp, False))
    return structural.superpose(*(piece for _, piece in placed_there), parts=tuple(parts), shape=x.shape)


def _rest(x: Traced, regions: list[Region]) -> list[tuple[tuple[Any, ...], Any]]:
    """What is left of `x`, in parts that are not zero."""
    whole = (WHOLE,) * x.ndim
    known = x.home.known(x)
    if known is not None:
        if not known.any():
            return []
        rest = known.copy()
        for region in regions:
            rest[_as_index(region)] = 0
        return [(whole, x.home.constant(rest))]
    gaps = _gaps(x.shape, regions)
    if gaps is not None:
        return [(index, structural.getitem_basic(x, index=index)) for index in gaps]
    hit = namespace(x).zeros(x.shape, bool)
    for region in regions:
        hit[_as_index(region)] = True
    return [(whole, np.where(hit, np.zeros((), x.dtype), x))]


def _gaps(shape: tuple[int, ...], regions: list[Region]) -> list[tuple[Any, ...]] | None:
    """Slices that make up what the regions leave, where a few of them do."""
    cut = {k for region in regions for k, item in enumerate(region) if item != range(shape[k])}
    if len(cut) == 1:
        (axis,) = cut
        left = np.ones(shape[axis], bool)
        for region in regions:
            item = region[axis]
            left[item if isinstance(item, int) else _as_slice(item)] = False
        edges = np.flatnonzero(np.diff(left, prepend=False, append=False)).tolist()
        runs = [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        lead, tail = (WHOLE,) * axis, (WHOLE,) * (len(shape) - axis - 1)
        return [(*lead, run, *tail) for run in runs] if len(runs) <= 8 else None
    if len(regions) > 1 or not all(isinstance(item, int) or item.step == 1 for item in regions[0]):
        return None
    gaps: list[tuple[Any, ...]] = []
    box: list[Any] = [WHOLE] * len(shape)
    for k, item in enumerate(regions[0]):
        start, stop = (item, item + 1) if isinstance(item, int) else (item.start, item.stop)
        for side in (slice(0, start), slice(stop, shape[k])):
            if side.start < side.stop:
                gaps.append((*box[:k], side, *box[k + 1 :]))
        box[k] = slice(start, stop)
    return gaps


# -- out= --------------------------------------------------------------------------------------------------------------
def into(target: Any, result: Any, name: str) -> Any:
    """What a function returns, written where its ``out=`` says."""
    if not isinstance(target, Traced):
        refuse_plain(name)
    dtype = result.dtype
    if not np.can_cast(dtype, target.dtype, "same_kind"):
        raise InputError(f"{name} at {user_line()}: out= of {target.dtype} cannot hold a result of {dtype}.")
    if result.ndim > target.ndim or np.broadcast_shapes(result.shape, target.shape) != target.shape:
        raise InputError(f"{name} at {user_line()}: out= has shape {target.shape}, the result {result.shape}.")
    overwrite(target, result)
    return target


def refuse_plain(name: str) -> None:
    """Raise for a write of a traced value into a plain array."""
    raise ConversionError(
        f"{name} at {user_line()}: a traced value would be written into a plain array, which would drop its "
        "derivative. Make the array of a traced value, np.zeros_like(x, shape=...), or by minijac.numpy, or run the "
        "function as it is by minijac.adapt(f); or use what the function returns without out=: `y = np.exp(x)`."
    )


def ufunc_into(self: Traced, ufunc: Any, method: str, inputs: Sequence[Any], **kwargs: Any) -> Any:
    """A ufunc with ``out=``, and an in-place operator."""
    out, where = kwargs.pop("out"), kwargs.pop("where", True)
    targets = out if isinstance(out, tuple) else (out,)
    name = ufunc.__name__
    for target in targets:
        if target is not None and not isinstance(target, Traced):
            refuse_plain(f"numpy.{name}")
        if target is not None:
            writable(target)
    if not any(isinstance(x, Traced) for x in inputs):
        like = next(target for target in targets if target is not None)
        inputs = [_own(like, x) if is_array(x) else x for x in inputs]
    result = getattr(ufunc, method)(*inputs, **kwargs)
    results = result if isinstance(result, tuple) else (result,)
    written = []
    for target, y in zip(targets, results, strict=True):
        if target is not None:
            y = np.where(where, y, target.fresh()) if where is not True else y
            y = into(target, y if hasattr(y, "dtype") else np.asarray(y), f"numpy.{name}")
        written.append(y)
    return tuple(written) if len(written) > 1 else written[0]
