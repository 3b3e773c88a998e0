"""First derivatives: per-sample Jacobians, dense or as operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Unpack, overload

import numpy as np

from ..accumulation.recording import Prepared, prepare
from ..accumulation.results import assemble
from ..arguments import (
    Argnums,
    BatchAxis,
    Function,
    JacobianOptions,
    Mode,
    OnMixing,
    Options,
    checked_options,
    flatten,
    known_calls,
    known_options,
    regrouped,
    some_primals,
    unflatten,
)
from ..backend import taken_home
from ..foreign import a_function
from ..numpy.picked import within
from ..operator.jacobian import Jacobian
from ..ways.chained import chained
from ..ways.memory import within_bytes
from ..ways.own import keep_own
from ..ways.replay import replayed
from ..ways.rolled import followed_with_loops
from ..ways.thorough import settled
from .dask import chunkwise
from .roots import smoothed

__all__ = [
    "as_arguments",
    "as_trees",
    "assembled",
    "jacobian",
    "linearize",
    "recorded",
    "result_of",
    "value_and_jacobian",
]


# -- Jacobians ---------------------------------------------------------------------------------------------------------
@overload
def value_and_jacobian(
    f: Function, argnums: Argnums = 0, *, structured: Literal[True], has_aux: bool = False, **o: Unpack[JacobianOptions]
) -> Callable[..., tuple[Any, Jacobian]]: ...
@overload
def value_and_jacobian(
    f: Function, argnums: Argnums = 0, *, structured: bool = False, has_aux: bool = False, **o: Unpack[JacobianOptions]
) -> Callable[..., tuple[Any, Any]]: ...
@known_calls
def value_and_jacobian(
    f: Function,
    argnums: Argnums = 0,
    *,
    batch_axis: BatchAxis = 0,
    mode: Mode = "auto",
    on_mixing: OnMixing = "raise",
    structured: bool = False,
    has_aux: bool = False,
    chunk_size: int | None = None,
    max_bytes: int | None = None,
    progress: bool = False,
) -> Function:
    """Function that returns ``(y, J)``, or ``((y, aux), J)`` with `has_aux`; `f` runs once. See `jacobian`.

    >>> import numpy as np
    >>> y, J = value_and_jacobian(np.sin)(np.zeros((2, 3)))
    >>> y.shape, J.shape
    ((2, 3), (2, 3, 3))
    """
    options = checked_options(
        argnums=argnums, batch_axis=batch_axis, mode=mode, on_mixing=on_mixing, structured=structured, has_aux=has_aux,
        chunk_size=chunk_size, max_bytes=max_bytes, progress=progress)  # fmt: skip

    @taken_home(f, options.leading)
    @chunkwise(f, options)
    def with_jacobian(*args: Any, **kwargs: Any) -> Any:
        ready = recorded(f, args, kwargs, options)
        result = result_of(ready, args, options)
        return ready.run.told(has_aux), result

    return with_jacobian


@overload
def jacobian(
    f: Function, argnums: Argnums = 0, *, has_aux: Literal[True], structured: bool = False, **o: Unpack[JacobianOptions]
) -> Callable[..., tuple[Any, Any]]: ...
@overload
def jacobian(
    f: Function,
    argnums: Argnums = 0,
    *,
    structured: Literal[True],
    has_aux: Literal[False] = False,
    **o: Unpack[JacobianOptions],
) -> Callable[..., Jacobian]: ...
@overload
def jacobian(
    f: Function, argnums: Argnums = 0, *, structured: bool = False, has_aux: bool = False, **o: Unpack[JacobianOptions]
) -> Function: ...
@known_calls
def jacobian(
    f: Function,
    argnums: Argnums = 0,
    *,
    batch_axis: BatchAxis = 0,
    mode: Mode = "auto",
    on_mixing: OnMixing = "raise",
    structured: bool = False,
    has_aux: bool = False,
    chunk_size: int | None = None,
    max_bytes: int | None = None,
    progress: bool = False,
) -> Function:
    """Function that returns the per-sample Jacobians ``d y_i / d x_i`` of a batched function.

    Args:
        f: Maps arrays for a whole batch to arrays for a whole batch; it is called once, with the true shapes. Takes
            and returns any pytree of arrays.
        argnums: The argument(s) to differentiate. A tuple gives a tuple of Jacobians at each output leaf.
        batch_axis: The axis that holds the samples, for each positional argument: one int or None for all, or a tuple,
            in it a tree for a tree. None: shared by all samples. All None: the ordinary Jacobian ``(*out, *in)``.
        mode: ``"forward"``, ``"reverse"``, ``"mixed"``, or ``"auto"``, the cheapest by predicted cost. All agree to
            rounding.
        on_mixing: If samples mix: ``"raise"``, ``"diagonal"`` (the exact ``d y_i / d x_i``), or ``"full"``
            (``(B, *out, B, *in)``).
        structured: Return the Jacobian as an operator (`minijac.Jacobian`) instead of a dense array.
        has_aux: `f` returns ``(y, aux)``; the result is ``(J, aux)``.
        chunk_size: Seeds (columns of the per-sample Jacobian in forward mode, rows in reverse) at a time.
        max_bytes: Bound on peak memory beside inputs and result; met by taking samples, then seeds, a few at a time.
        progress: Show a progress bar over chunks (needs tqdm).

    Returns:
        A function of the same arguments. For x: ``(B, *in)`` and y: ``(B, *out)`` it returns ``(B, *out, *in)``, of
        dtype ``numpy.result_type(y, x)``, C-contiguous and newly made.

    Raises:
        BatchMixingError: One sample's output depends on another's input, and `on_mixing` is ``"raise"``.
        InputError: Wrong dtype, rank, batch sizes or option; a bound that cannot be met, with the least that can.

    Dask arrays chunked along the samples give Dask arrays, lazily: one task a chunk, compiled once in each worker.

    Cost: a forward pass of `f`, and per sample and seed about as much again, less where blocks are sparse or shared.

    >>> import numpy as np
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> jacobian(lambda x: x * x)(x)[1]
    array([[4., 0.],
           [0., 6.]])
    """
    options = checked_options(
        argnums=argnums, batch_axis=batch_axis, mode=mode, on_mixing=on_mixing, structured=structured, has_aux=has_aux,
        chunk_size=chunk_size, max_bytes=max_bytes, progress=progress)  # fmt: skip

    @taken_home(f, options.leading)
    @chunkwise(f, options)
    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        ready = recorded(f, args, kwargs, options)
        return (result_of(ready, args, options), ready.run.aux) if has_aux else result_of(ready, args, options)

    return jacobian_of


def recorded(f: Function, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Prepared:
    """The function on the tape, as its Jacobian is accumulated from."""
    takes_steps = options.max_bytes is None and options.mode in ("auto", "forward", "reverse")
    ready = smoothed(prepare(f, args, kwargs, options, followed_with_loops if takes_steps else None))
    if ready.mixes:
        keep_own(ready, options)
    return ready


def result_of(ready: Prepared, args: tuple[Any, ...], options: Options) -> Any:
    """The Jacobian of a recorded function."""
    for rows in filter(None, map(within, ready.sources)) if options.structured else ():
        rows._refuse("a structured Jacobian, which tells its shape,")
    if options.max_bytes is not None:
        pairs = settled(ready.graph, lambda: within_bytes(ready, args, options))
        return as_trees(pairs, ready, args, options)
    once = [replayed]  # what it lacks, or gives no number, is assembled

    def found() -> list[list[Any]]:
        kept = chained(ready, options) or (once and once.pop()(ready, options))
        return kept or assembled(ready, options)

    return as_trees(settled(ready.graph, found), ready, args, options)


def assembled(ready: Prepared, options: Options) -> list[list[Any]]:
    """The accumulation, carried out as planned."""
    mode = "either" if options.mode == "auto" and options.chunk_size is not None else options.mode
    with np.errstate(all="ignore"):  # infinite derivatives are results; the function's own warnings were given
        return assemble(ready, ready.plan(mode), options)


def as_trees(pairs: list[list[Any]], ready: Prepared, args: tuple[Any, ...], options: Options) -> Any:
    """``J[out][arg][in]``: the output's tree outside, then the tuple of arguments, then each argument's tree."""
    return unflatten(ready.run.tree, [as_arguments(row, ready, args, options) for row in pairs])


def as_arguments(row: Sequence[Any], ready: Prepared, args: tuple[Any, ...], options: Options) -> Any:
    """One for each differentiated leaf, as the arguments' trees, several arguments as a tuple."""
    per_argument = regrouped(row, [flatten(args[n])[1] for n in ready.positions])
    return per_argument[0] if isinstance(options.argnums, int | np.integer) else per_argument


@overload
def linearize(f: Function, primal: Any, /, **options: Unpack[JacobianOptions]) -> tuple[Any, Jacobian]: ...
@overload
def linearize(f: Function, *primals: Any, **options: Unpack[JacobianOptions]) -> tuple[Any, Any]: ...
def linearize(f: Function, *primals: Any, **options: Unpack[JacobianOptions]) -> tuple[Any, Any]:
    """``(y, J)`` with `J` the structured per-sample Jacobian at `primals`, its products not yet multiplied out.

    Args:
        f: A batched function of the primals.
        primals: The arguments, all differentiated. With several, `J` has a tuple of Jacobians at each output leaf.
        options: batch_axis, mode, on_mixing, chunk_size, max_bytes, as for `jacobian`.

    >>> import numpy as np
    >>> y, J = linearize(lambda x: np.sin(x), np.zeros((2, 3)))
    >>> J @ np.ones((2, 3))
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    a_function(f, "linearize", "x")
    some_primals("linearize", primals)
    known_options(options, tuple(JacobianOptions.__annotations__))
    argnums: Any = 0 if len(primals) == 1 else tuple(range(len(primals)))
    return value_and_jacobian(f, argnums, structured=True, **options)(*primals)
