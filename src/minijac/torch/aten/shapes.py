"""Views, parts, positions: operations that move entries."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...backend import astype, namespace, placed, value_of
from ...errors import UnsupportedOperationError
from ...lines import user_line
from ...numpy.indexing import add_at, put
from ...numpy.ordered import permutes
from ...numpy.parts import concatenate
from ...ops import structural
from ...ops.structural import normalised
from ...tape.traced import Traced
from ..views import layout_of
from .registry import BESIDE, COMPLEX, FACTORIES, TABLE, VIEWS, aten, promoted

WHOLE = slice(None)


def along(x: Any, dim: int, item: Any) -> Any:
    """``x[..., item, ...]`` with the item at axis `dim`."""
    return x[(WHOLE,) * (dim % x.ndim) + (item,)]


# -- views -------------------------------------------------------------------------------------------------------------
def reshape(x: Any, size: Any) -> Any:
    known, own = -prod(size), x.shape
    size = tuple([prod(own) // known if n < 0 < known else n for n in size])
    return x if size == own else structural.reshape(x, shape=size)


def permute(x: Any, dims: Any) -> Any:
    return structural.transpose(x, axes=normalised(dims, len(x.shape)))


def transpose(x: Any, a: int, b: int) -> Any:
    order = list(range(len(x.shape)))
    if not order:
        return x
    order[a], order[b] = order[b], order[a]
    return structural.transpose(x, axes=tuple(order))


def unsqueeze(x: Any, dim: int) -> Any:
    return structural.expand_dims(x, axis=(dim % (len(x.shape) + 1),))


def squeeze(x: Any, dim: Any = None) -> Any:
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    gone = tuple([k % x.ndim for k in dims if x.ndim and x.shape[k] == 1])
    return structural.squeeze(x, axis=gone) if gone else x


def expand(x: Any, size: Any, implicit: bool = False) -> Any:
    lead = len(size) - x.ndim
    to = tuple([x.shape[k - lead] if n == -1 else n for k, n in enumerate(size)])
    return x if to == x.shape else structural.broadcast_to(x, to=to)


def split(x: Any, size: Any, dim: int = 0) -> Any:
    n = x.shape[dim]
    if isinstance(size, int):
        size = [min(size, n - k) for k in range(0, n, size)] if n else [0]
    parts, start = [], 0
    for k in size:
        parts.append(along(x, dim, slice(start, start + k)))
        start += k
    return parts


def unfold(x: Any, dimension: int, size: int, step: int) -> Any:
    if not x.ndim:
        return np.broadcast_to(x, (size,))
    dim = dimension % x.ndim
    starts = np.arange(0, x.shape[dim] - size + 1, step)
    windows = along(x, dim, starts[:, None] + np.arange(size))
    return np.moveaxis(windows, dim + 1, -1)


_COPIED = {
    aten.view: reshape, aten.t: lambda x: permute(x, range(x.ndim)[::-1]), aten.transpose: transpose,
    aten.permute: permute, aten.squeeze: squeeze, aten.expand: expand, aten.unsqueeze: unsqueeze,
    aten.select: lambda x, dim, index: along(x, dim, int(index)),
    aten.slice: lambda x, dim=0, start=None, end=None, step=1: along(x, dim, slice(start, end, step)),
    aten.diagonal: lambda x, offset=0, dim1=0, dim2=1: np.diagonal(x, offset, dim1, dim2),
    aten.split: split, aten.split_with_sizes: split, aten.alias: lambda x: x, aten.unfold: unfold,
    aten.unbind: lambda x, dim=0: [along(x, dim, k) for k in range(x.shape[dim])],
    aten.as_strided: lambda x, size, stride, storage_offset=None:
        layout_of(x.shape, tuple(size), tuple(stride), storage_offset or 0).read(x),
}  # fmt: skip
"""Views that torch has as copies too."""
_VIEWS = {
    **_COPIED, aten._unsafe_view: _COPIED[aten.view], aten.lift_fresh: lambda x: x,
    aten._reshape_alias: lambda x, size, stride: reshape(x, size),
    aten._conj: lambda x: np.conj(x), aten._neg_view: lambda x: -x,
    aten.view_as_real: lambda x: np.stack([np.real(x), np.imag(x)], -1),
    aten.view_as_complex: lambda x: x[..., 0] + 1j * x[..., 1],
}  # fmt: skip
VIEWS.update(_VIEWS)
BESIDE.update((aten._conj, aten._neg_view, aten.view_as_real, aten.view_as_complex))
TABLE.update({**_VIEWS, **{getattr(aten, f"{view.__name__}_copy"): function for view, function in _COPIED.items()}})
TABLE.update({
    aten.unsafe_split: split, aten.unsafe_split_with_sizes: split, aten.detach_copy: lambda x: value_of(x),
})  # fmt: skip
FACTORIES.update((
    aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like,
    aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty_strided, aten.randint_like,
    aten.sym_size, aten.sym_stride, aten.sym_numel,
))  # fmt: skip


# -- parts put together ------------------------------------------------------------------------------------------------
def cat(tensors: Any, dim: int = 0) -> Any:
    kept = promoted(*([x for x in tensors if x.shape != (0,)] or tensors[:1]))
    return concatenate(kept, dim)


def stack(tensors: Any, dim: int = 0) -> Any:
    return concatenate([unsqueeze(x, dim) for x in promoted(*tensors)], dim)


def repeat(x: Any, repeats: Any) -> Any:
    return np.tile(x, tuple(repeats)) if len(repeats) else x


def roll(x: Any, shifts: Any, dims: Any = ()) -> Any:
    if not len(dims):
        return np.roll(x, shifts[0])
    for shift, dim in zip(shifts, dims, strict=True):
        x = np.roll(x, shift, dim) if x.ndim and x.shape[dim] else x
    return x


def constant_pad(x: Any, pad: Any, value: Any = 0) -> Any:
    widths, cut = [(0, 0)] * x.ndim, [WHOLE] * x.ndim
    for k in range(len(pad) // 2):
        before, after = pad[2 * k], pad[2 * k + 1]
        widths[-1 - k] = (max(before, 0), max(after, 0))
        n = x.shape[-1 - k]
        cut[-1 - k] = slice(max(-before, 0), n - max(-after, 0))
    x = x[tuple(cut)] if any(k < 0 for k in pad) else x
    return np.pad(x, widths, constant_values=value) if any(k > 0 for k in pad) else x


def _padded(mode: str) -> Any:
    def pad(x: Any, padding: Any) -> Any:
        for k in range(len(padding) // 2):  # along one axis after another, from the last
            n, before, after = x.shape[-1 - k], padding[2 * k], padding[2 * k + 1]
            at = np.arange(-before, n + after)
            at = np.clip(at, 0, n - 1) if mode == "edge" else (n - 1) - np.abs((n - 1) - np.abs(at))
            x = along(x, -1 - k, at)
        return x

    return pad


def triangle(lower: bool) -> Any:
    def part(x: Any, diagonal: int = 0) -> Any:
        return np.tril(x, diagonal) if lower else np.triu(x, diagonal)

    return part


def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    n = x.shape[-1] + abs(offset)
    inside = np.eye(n, k=offset, dtype=bool)
    rows = np.clip(np.arange(n) + min(offset, 0), 0, max(x.shape[-1] - 1, 0))
    spread = x[..., rows] if x.shape[-1] else np.zeros((*x.shape[:-1], n))
    y = np.where(placed(inside, x), np.expand_dims(spread, -1), placed(np.zeros((), x.dtype), x))
    dim1, dim2 = dim1 % y.ndim, dim2 % y.ndim
    return np.moveaxis(y, (-2, -1), (dim1, dim2))


# -- by position -------------------------------------------------------------------------------------------------------
def _positions(indices: Any, x: Any = None) -> tuple[Any, ...]:
    return tuple([WHOLE if index is None else _index(index) for index in indices])


def _index(index: Any) -> Any:
    index = value_of(index)
    return index.astype(bool) if getattr(index, "dtype", None) == np.uint8 else index


def _from_zero(index: Any, size: int) -> Any:
    """Positions where torch, other than in ``x[index]``, counts none from the end: negative ones raise."""
    index = _index(index)
    if isinstance(index, np.ndarray):
        if index.size and index.min() < 0:
            raise IndexError(f"index {index.min()} at {user_line()} is out of bounds for a dimension of size {size}")
        return index
    # of a program: what is beyond raises in each call
    return index if permutes(index) else np.where(index < 0, size, index)


def index(x: Any, indices: Any) -> Any:
    place = _positions(indices)
    return _table(x, *place)[place]


def _table(x: Any, *positions: Any) -> Any:
    """What is looked up by positions of a program: a value of that, so that it is one program for all of them."""
    home = next((each.home for each in positions if isinstance(each, Traced)), None)
    return x if home is None or isinstance(x, Traced) else home.program.captured(x)


def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    place = _positions(indices)
    if len(place) == 1 and type(place[0]) is np.ndarray and place[0].dtype == bool and place[0].sum() == 1:
        rest = x.shape[place[0].ndim :]  # torch drops the axis of the one entry
        values = np.reshape(values, (1, *rest)) if np.shape(values) == rest else values
    return add_at(x, place, values) if accumulate else put(x, place, values)


def index_select(x: Any, dim: int, index: Any) -> Any:
    if not x.ndim:
        return np.reshape(x, ())
    index = np.reshape(_from_zero(index, x.shape[dim]), (-1,))
    return np.take(_table(x, index), index, dim)


def embedding(weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False,
              sparse: bool = False) -> Any:  # fmt: skip
    refuse_frequencies(weight, scale_grad_by_freq)
    places = _from_zero(indices, weight.shape[0])
    rows = np.take(_table(weight, places), places, 0)
    if padding_idx < 0 or value_of(rows) is rows:
        return rows
    return np.where(np.expand_dims(indices == padding_idx, -1), value_of(rows), rows)  # which is not trained


def refuse_frequencies(weight: Any, scaled: bool) -> None:
    """An error where the derivative by the weights is to be another than that of the function."""
    if scaled and value_of(weight) is not weight:
        raise UnsupportedOperationError(
            f"an embedding at {user_line()}: got scale_grad_by_freq=True, with which torch's gradient is no derivative "
            "of the rows. Make the module without it, or let its weight not require grad."
        )


def gather(x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    if not x.ndim or not np.ndim(index):
        return np.reshape(np.reshape(x, (-1,))[np.reshape(_index(index), (-1,))], np.shape(index))
    dim %= x.ndim
    index = _from_zero(index, x.shape[dim])
    if not np.size(index):
        return namespace(x).zeros(index.shape, x.dtype)
    return np.take_along_axis(_cut(x, index.shape, dim), index, dim)


def _cut(x: Any, shape: Any, dim: int) -> Any:
    """The part of `x` that positions of this shape, along `dim`, speak of."""
    cut = tuple(
        [WHOLE if k == dim or n == m else slice(0, m) for k, (n, m) in enumerate(zip(x.shape, shape, strict=False))]
    )
    return x if all(item == WHOLE for item in cut) else x[cut]


def _grid(index: Any, dim: int, ndim: int) -> tuple[Any, ...]:
    return tuple([
        index if k == dim else np.arange(n).reshape((-1,) + (1,) * (ndim - k - 1)) for k, n in enumerate(index.shape)
    ])  # fmt: skip


def _scattered(function: Any) -> Any:
    def scatter(x: Any, dim: int, index: Any, source: Any, **kwargs: Any) -> Any:
        if not x.ndim:
            return np.reshape(scatter(np.reshape(x, (1,)), 0, np.reshape(index, (1,)), source, **kwargs), ())
        index, dim = _from_zero(index, x.shape[dim]), dim % x.ndim
        index = index.reshape(1) if not index.ndim else index
        source = _cut(source, index.shape, -1) if getattr(source, "ndim", 0) == index.ndim else source
        return function(x, _grid(index, dim, x.ndim), np.broadcast_to(source, index.shape), **kwargs)

    return scatter


def _reduced(x: Any, place: Any, source: Any, reduce: str, include_self: bool = True) -> Any:
    """scatter_reduce and index_reduce: entries that meet at a place are summed, multiplied, averaged, or compared."""
    xp = namespace(x)
    hit = xp.zeros(x.shape, np.int64)
    np.add.at(hit, place, 1)
    reduce = {"add": "sum", "multiply": "prod"}.get(reduce, reduce)
    fresh = np.logical_and(hit > 0, not include_self)
    if reduce in ("sum", "mean"):
        y = add_at(np.where(fresh, 0.0, x), place, source)
        count = hit + (1 if include_self else 0)
        return y / np.maximum(count, 1) if reduce == "mean" else y
    if reduce == "prod":
        return _products(np.where(fresh, 1.0, x), place, source)
    sign = 1.0 if reduce == "amax" else -1.0
    lowest = np.where(fresh, -np.inf, sign * value_of(x))
    np.maximum.at(lowest, place, sign * value_of(source))
    best = sign * lowest
    own = np.logical_and(value_of(x) == best, np.logical_not(fresh))
    other = value_of(source) == best[place]
    shared = own * 1.0
    np.add.at(shared, place, other * 1.0)
    untouched = hit == 0
    spread = add_at(np.where(own, x, 0.0), place, np.where(other, source, 0.0))
    return np.where(untouched, x, spread / np.where(shared == 0, 1.0, shared))


def _products(x: Any, place: Any, source: Any) -> Any:
    """Each entry of x times all entries of source that go to its place, in rounds of one to a place."""
    flat = np.arange(x.size).reshape(x.shape)[place].reshape(-1)
    order = np.argsort(flat, kind="stable")
    ranks = np.zeros(flat.size, int)
    ordered = flat[order]
    starts = np.r_[0, np.flatnonzero(np.diff(ordered)) + 1] if flat.size else np.zeros(0, int)
    ranks[order] = np.arange(flat.size) - np.repeat(starts, np.diff(np.r_[starts, flat.size]))
    y, values = np.reshape(x, (-1,)), np.reshape(source, (-1,))
    for rank in range(int(ranks.max(initial=-1)) + 1):
        picked = np.flatnonzero(ranks == rank)
        y = y * put(np.ones_like(value_of(y)), flat[picked], values[picked])
    return np.reshape(y, x.shape)


def _along(function: Any, from_end: bool = False) -> Any:
    """A scatter of whole slices, as index_add has it; `from_end`: negative positions count from there."""

    def scatter(x: Any, dim: int, index: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        if not x.ndim:
            source = np.reshape(source, (-1,)) if hasattr(source, "ndim") else source
            return np.reshape(scatter(np.reshape(x, (1,)), 0, index, source, *args, **kwargs), ())
        index = _index(index) if from_end else _from_zero(index, x.shape[dim])
        place = (WHOLE,) * (dim % x.ndim) + (np.reshape(index, (-1,)),)
        return function(x, place, source, *args, **kwargs)

    return scatter


def _index_reduce(x: Any, place: Any, source: Any, reduce: str, include_self: bool = True) -> Any:
    names = {"mean": "mean", "prod": "prod", "amax": "amax", "amin": "amin"}
    return _reduced(x, place, source, names[reduce], include_self)


def masked_scatter(x: Any, mask: Any, source: Any) -> Any:
    shape = np.broadcast_shapes(x.shape, np.shape(value_of(mask)))
    mask = np.broadcast_to(value_of(mask), shape)
    y = put(
        np.reshape(np.broadcast_to(x, shape), (-1,)), mask.reshape(-1), np.reshape(source, (-1,))[: int(mask.sum())]
    )
    return np.reshape(y, shape)


def masked_select(x: Any, mask: Any) -> Any:
    mask = value_of(mask)
    shape = np.broadcast_shapes(x.shape, mask.shape, (1,))
    return np.broadcast_to(x, shape)[np.broadcast_to(mask, shape)]


def put_flat(x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    flat, index = np.reshape(x, (-1,)), np.reshape(_index(index), (-1,))
    y = (add_at if accumulate else put)(flat, index, np.reshape(source, (-1,)))
    return np.reshape(y, x.shape)


def part_put(item: Any) -> Any:
    """slice_scatter and its kin: `source` in the place of a part."""

    def scatter(x: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        place = item(np.arange(x.size).reshape(x.shape), *args, **kwargs)
        flat = put(np.reshape(x, (-1,)), place.reshape(-1), np.reshape(np.broadcast_to(source, place.shape), (-1,)))
        return np.reshape(flat, x.shape)

    return scatter


def repeat_interleave(repeats: Any, output_size: Any = None) -> Any:
    repeats = value_of(repeats)
    return np.repeat(np.arange(len(repeats)), repeats)


TABLE.update({
    aten.cat: cat, aten.stack: stack, aten.repeat: repeat,
    aten.roll: roll, aten.flip: lambda x, dims: np.flip(x, tuple(dims)) if x.ndim else x,
    aten.rot90: lambda x, k=1, dims=(0, 1): np.rot90(x, k, tuple(dims)), aten.constant_pad_nd: constant_pad,
    aten.tril: triangle(True), aten.triu: triangle(False), aten.diag_embed: diag_embed,
    aten.trace: lambda x: np.trace(x), aten.index: index, aten._unsafe_index: index, aten.index_put: index_put,
    aten._unsafe_index_put: index_put,
    aten._index_put_impl: lambda x, i, v, a=False, unsafe=False: index_put(x, i, v, a),
    aten.index_select: index_select, aten.embedding: embedding, aten.gather: gather,
    aten.scatter.src: _scattered(put), aten.scatter.value: _scattered(put), aten.scatter_add: _scattered(add_at),
    aten.scatter.reduce: _scattered(_reduced), aten.scatter.value_reduce: _scattered(_reduced),
    aten.scatter_reduce.two: lambda x, dim, index, source, reduce, include_self=True:
        _scattered(_reduced)(x, dim, index, source, reduce=reduce, include_self=include_self),
    aten.index_add: _along(lambda x, place, source, alpha=1: add_at(x, place, source * alpha)),
    aten.index_copy: _along(put), aten.index_fill: _along(put, from_end=True), aten.index_reduce: _along(_index_reduce),
    aten.masked_scatter: masked_scatter, aten.masked_select: masked_select, aten.put: put_flat,
    aten.take: lambda x, index: np.reshape(x, (-1,))[_index(index)], aten.slice_scatter: part_put(TABLE[aten.slice]),
    aten.select_scatter: part_put(TABLE[aten.select]),
    aten.diagonal_scatter: part_put(TABLE[aten.diagonal]), aten.as_strided_scatter: part_put(TABLE[aten.as_strided]),
    aten.repeat_interleave.Tensor: repeat_interleave,
    aten.nonzero: lambda x: np.stack(np.nonzero(value_of(x)), -1),
    **{getattr(aten, f"reflection_pad{n}d"): _padded("reflect") for n in (1, 2, 3)},
    **{getattr(aten, f"replication_pad{n}d"): _padded("edge") for n in (1, 2, 3)},
    aten.masked_fill.Tensor: lambda x, mask, value: np.where(mask, astype(value, x.dtype, x), x),
    aten.select_backward: lambda g, shape, dim, index:
        part_put(TABLE[aten.select])(namespace(g).zeros(tuple(shape), g.dtype), g, dim, index),
    aten.slice_backward: lambda g, shape, dim, start, end, step:
        part_put(TABLE[aten.slice])(namespace(g).zeros(tuple(shape), g.dtype), g, dim, start, end, step),
    aten.diagonal_backward: lambda g, shape, offset, dim1, dim2:
        part_put(TABLE[aten.diagonal])(namespace(g).zeros(tuple(shape), g.dtype), g, offset, dim1, dim2),
    aten.embedding_dense_backward: lambda g, indices, n, padding_idx, scale:
        add_at(namespace(g).zeros((n, g.shape[-1]), g.dtype), _index(indices), g),
})  # fmt: skip
COMPLEX.update((
    aten.cat, aten.stack, aten.repeat, aten.roll, aten.flip, aten.rot90, aten.constant_pad_nd, aten.tril, aten.triu,
    aten.diag_embed, aten.trace, aten.index, aten.index_select, aten.embedding, aten.gather, aten.masked_select,
    aten.take, aten.unsafe_split, aten.unsafe_split_with_sizes,
))  # fmt: skip
