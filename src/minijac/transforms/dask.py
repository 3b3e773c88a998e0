"""Transformations of Dask arrays: lazily, one task for each chunk of samples, compiled once in each worker.

Samples are independent, so a batch larger than a machine needs no algorithm of its own: a chunk's Jacobian is the
Jacobian of the chunk. What has to be known before anything is computed (shapes, dtypes, which axis holds the samples,
that no sample meets those of another chunk) is found on a batch of three samples made up for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..accumulation.recording import prepare
from ..arguments import Options, batch_axes, flatten, unflatten
from ..backend import namespace, to_host
from ..errors import BatchMixingError, InputError, MutationError, TraceError
from ..memo import Memo
from ..program.compiled import compile

__all__ = ["chunkwise"]


def chunkwise(f: Callable[..., Any], options: Options) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a transformed `f`: Dask arrays among its arguments give Dask arrays, anything else passes through."""

    def decorate(transformed: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if "dask.array" in sys.modules and any(map(is_lazy, flatten((args, kwargs))[0])):
                return _over_chunks(f, transformed, options, args, kwargs)
            return transformed(*args, **kwargs)

        return called

    return decorate


def is_lazy(x: Any) -> bool:
    """Whether `x` is a Dask array."""
    dask: Any = sys.modules.get("dask.array")
    return dask is not None and isinstance(x, dask.Array)


@dataclass(frozen=True)
class Task:
    """What is done to one chunk: `call` with the chunk's leaves in the tree of the arguments."""

    call: Callable[..., Any]
    tree: Any
    kwargs: dict[str, Any]
    token: str
    """The same for the same function, so that a worker compiles it once."""
    compiled: bool

    def __call__(self, leaves: Sequence[Any]) -> list[Any]:
        call = _PROGRAMS.get(self.token, lambda: compile(self.call)) if self.compiled else self.call
        return flatten(call(*unflatten(self.tree, leaves), **self.kwargs))[0]


_PROGRAMS: Memo[Callable[..., Any]] = Memo(most=32)
"""What this worker has compiled, by token."""


class _Leaf(NamedTuple):
    """A leaf of the result, as the samples made up for it show: its samples' axis, shape and dtype."""

    axis: int
    shape: tuple[int, ...]
    dtype: Any
    empty: Any


def _over_chunks(
    f: Callable[..., Any], transformed: Callable[..., Any], options: Options, args: Any, kwargs: Any
) -> Any:
    import dask
    import dask.array as da

    if options.structured:
        raise InputError("structured=True: expected NumPy or CuPy arrays, got Dask's, which hold dense Jacobians only.")
    if any(map(is_lazy, flatten(kwargs)[0])):
        raise InputError("got a Dask array as a keyword argument: pass it by position, where its batch axis is known.")
    leaves, tree = flatten(args)
    axes = [axis for own in batch_axes(options.batch_axis, args) for axis in own]
    sizes = _chunks(leaves, axes)
    found, result_tree, compiled = _probed(f, transformed, options, args, leaves, axes, kwargs, len(sizes) > 1)
    columns = [_pieces(leaf, axis, sizes) for leaf, axis in zip(leaves, axes, strict=True)]
    token = dask.base.tokenize(transformed)
    run = dask.delayed(Task(transformed, tree, kwargs, token, compiled), pure=True)
    rows = [run([column[n] for column in columns]) for n in range(len(sizes))]
    arrays = []
    for k, leaf in enumerate(found):
        parts = [
            da.from_delayed(row[k], (*leaf.shape[: leaf.axis], size, *leaf.shape[leaf.axis + 1 :]), meta=leaf.empty)
            for row, size in zip(rows, sizes, strict=True)
        ]
        arrays.append(da.concatenate(parts, axis=leaf.axis))
    return unflatten(result_tree, arrays)


def _chunks(leaves: Sequence[Any], axes: Sequence[int | None]) -> tuple[int, ...]:
    """The sizes of the chunks, on which all Dask arrays with samples agree. Raises InputError for any other chunks."""
    sizes: tuple[int, ...] | None = None
    for x, axis in zip(leaves, axes, strict=True):
        if not is_lazy(x):
            continue
        k = None if axis is None else axis % max(x.ndim, 1)
        for n, chunks in enumerate(x.chunks):
            if n != k and len(chunks) > 1:
                raise InputError(
                    f"a Dask array of shape {x.shape}: expected chunks along the samples only"
                    f"{'' if k is None else f' (axis {k})'}, got {len(chunks)} along axis {n}. "
                    f"Say x.rechunk({{{n}: -1}})."
                )
        if k is None:
            continue
        if any(np.isnan(size) for size in x.chunks[k]):
            raise InputError("a Dask array of unknown chunk sizes: say x.compute_chunk_sizes() first.")
        if sizes is not None and sizes != x.chunks[k]:
            raise InputError(
                f"Dask arrays: expected the same chunks of samples in all of them, got {sizes} and {x.chunks[k]}. "
                "Rechunk one as the other: y.rechunk({0: x.chunks[0]})."
            )
        sizes = x.chunks[k]
    if sizes is None:
        raise InputError(
            "Dask arrays: expected one with a batch axis among the arguments, got none to go through chunk by chunk. "
            "Say x.compute() for what all samples share."
        )
    return sizes


def _pieces(x: Any, axis: int | None, sizes: Sequence[int]) -> list[Any]:
    """An argument's leaf as each chunk's task gets it."""
    if axis is None or not (is_lazy(x) or hasattr(x, "shape")):
        return [x.to_delayed().item() if is_lazy(x) else x] * len(sizes)
    if is_lazy(x):
        return list(x.to_delayed().reshape(-1))
    ends = np.cumsum([0, *sizes])
    if x.shape[axis] != ends[-1]:
        raise InputError(f"batch sizes differ: expected the {ends[-1]} samples of a Dask array, got {x.shape[axis]}.")
    before = (slice(None),) * (axis % x.ndim)
    return [x[(*before, slice(int(a), int(b)))] for a, b in pairwise(ends)]


def _probed(
    f: Callable[..., Any],
    transformed: Callable[..., Any],
    options: Options,
    args: Any,
    leaves: Sequence[Any],
    axes: Sequence[int | None],
    kwargs: Any,
    parted: bool,
) -> tuple[list[_Leaf], Any, bool]:
    """The leaves of the result, its tree, and whether the function can be compiled, found on three made-up samples.

    Raises BatchMixingError or InputError where a sample's result depends on others, which may lie in other chunks.
    """
    tree = flatten(args)[1]
    three = [_made_up(x, axis) for x, axis in zip(leaves, axes, strict=True)]
    two = [_first_two(x, axis) for x, axis in zip(three, axes, strict=True)]
    if parted:
        try:
            prepare(f, unflatten(tree, three), kwargs, replace(options, on_mixing="raise"))
        except BatchMixingError as error:
            if options.on_mixing == "raise":
                raise
            raise InputError(
                f"on_mixing={options.on_mixing!r}: expected all samples in one chunk, since they mix, got several. Say "
                "x.rechunk({0: -1}), or work on a NumPy array."
            ) from error
    whole, result_tree = flatten(transformed(*unflatten(tree, three), **kwargs))
    part = flatten(transformed(*unflatten(tree, two), **kwargs))[0]
    found = [_leaf(a, b, parted) for a, b in zip(whole, part, strict=True)]
    try:
        compile(transformed)(*unflatten(tree, two), **kwargs)
    except (TraceError, MutationError):  # it decides by values, so it runs as it is written
        return found, result_tree, False
    return found, result_tree, True


def _made_up(x: Any, axis: int | None) -> Any:
    """Three samples of the kind of `x`, of numbers that most functions are defined at."""
    if (axis is None and not is_lazy(x)) or not hasattr(x, "shape"):
        return x
    shape = list(x.shape)
    if axis is not None:
        shape[axis] = 3
    numbers = np.random.default_rng(0).uniform(0.3, 0.7, shape)
    xp = namespace(x._meta if is_lazy(x) else x)
    return xp.asarray(numbers if x.dtype.kind in "fc" else np.zeros(shape), x.dtype)


def _first_two(x: Any, axis: int | None) -> Any:
    return x if axis is None or not hasattr(x, "shape") else x[(*(slice(None),) * (axis % x.ndim), slice(2))]


def _leaf(whole: Any, part: Any, parted: bool) -> _Leaf:
    axes = [k for k, (m, n) in enumerate(zip(np.shape(whole), np.shape(part), strict=True)) if m != n]
    if len(axes) != 1:
        raise InputError(
            f"a result of shape {np.shape(whole)} for three samples: expected one axis that grows with the samples, to "
            "be chunked along it, got none. Leave it out, or work on a NumPy array."
        )
    first = _first_two(whole, axes[0])
    tolerance = np.sqrt(np.finfo(whole.dtype).eps) if whole.dtype.kind in "fc" else 0.0
    if parted and not np.allclose(to_host(first), to_host(part), tolerance, tolerance, equal_nan=True):
        raise InputError(
            "a sample's result changes with the other samples in the batch (a size, a mean, or a random draw in f): "
            "expected a function that chunks of samples can be given to. Say x.rechunk({0: -1}), or pass what it takes "
            "from the whole batch as an argument with batch_axis None."
        )
    return _Leaf(axes[0], whole.shape, whole.dtype, whole[(slice(0),) * whole.ndim])
