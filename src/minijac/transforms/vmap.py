"""vmap: a function of one sample, run once on a batch, the samples' axis hidden from it.

Inside, values have the shape of one sample and hold all of them, on axis 0. An operation on them is carried out for all
by what it declares: an elementwise one broadcasts, a multilinear one gets one more name, a structural one one more
label. Of the others those run whose axes can be moved on, or that take stacks of matrices; the rest is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from math import prod
from typing import Any

import numpy as np

from ..algebra.labels import Axes, Label, labels_in
from ..algebra.writing import Placed, superposed
from ..arguments import batch_axes, batch_size, check_array, flatten, known_calls, returned, unflatten
from ..backend import Wrapped, check_operand, holds_array, is_array, namespace, value_of
from ..errors import InputError, TraceError, UnsupportedOperationError
from ..foreign import a_function, kind_of
from ..lines import caller, user_line
from ..numpy.handles import kinds
from ..ops import indexing, multilinear, structural
from ..ops.edges import Part
from ..ops.families import Elementwise, Multilinear, Structural
from ..tape.op import Op
from ..tape.trace import Node, Trace, apply
from ..tape.traced import FIXED, Indexable, Traced

__all__ = ["vmap"]


@known_calls
def vmap(f: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    """Function of a batch, from a function `f` of one sample; `f` runs once, on all of them.

    Args:
        f: Takes and returns pytrees of arrays for one sample. It is not called in a loop: inside, an array has one
            sample's shape and stands for all. So it may not decide by values (``if``); write np.where.
        in_axes: The axis that holds the samples in each positional argument: one int or None (shared) for all of them,
            or a tuple with one for each, or a tree of them where an argument is a tree.

    Returns a function of the same arguments; its results have the samples on axis 0. Cost: that of `f` on the batch.

    Raises:
        TraceError: `f` decides by a value.
        UnsupportedOperationError: an operation that cannot be carried out for all samples at once. Write that part for
            the batch.

    >>> import numpy as np, minijac as mj
    >>> W = np.arange(6.0).reshape(2, 3)
    >>> f = vmap(lambda x: np.tanh(W @ x))  # x: (3,), as JAX's code has it
    >>> mj.jacobian(f)(np.ones((5, 3))).shape
    (5, 2, 3)
    """

    if getattr(in_axes, "shape", ()):
        raise InputError(
            "in_axes: expected an int, None, or a tuple with one for each argument, got an array. vmap takes the "
            "function, and what it returns takes the arguments: minijac.vmap(f)(x), not minijac.vmap(f, x)."
        )

    @wraps(a_function(f, "vmap"))
    def batched(*args: Any, **kwargs: Any) -> Any:
        axes = batch_axes(in_axes, args, "in_axes")
        batch = batch_size(args, axes, "in_axes")
        if batch is None:
            given = "in_axes of None for all of them" if args else "no argument by position"
            raise InputError(f"vmap: expected an argument with samples, got {given}.")
        trace = OneSample(batch)
        call = []
        for arg, own in zip(args, axes, strict=True):
            leaves, tree = flatten(arg)
            shown = [x if axis is None else trace.input(_samples_first(x, axis))
                     for x, axis in zip(leaves, own, strict=True)]  # fmt: skip
            call.append(unflatten(tree, shown))
        with trace:
            leaves, tree = flatten(returned(f(*call, **kwargs), f))
            for leaf in leaves:
                if not isinstance(leaf, int | float | complex):
                    check_array("vmap: a result", leaf, "arrays or numbers (in any pytree)")
            results = [trace.batched(y, np.shape(y)) for y in leaves]
        return unflatten(tree, results)

    return batched


class Sample(Traced):
    """One sample's value, which holds those of all samples on an axis in front that it does not show."""

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape[1:]

    def plain(self) -> Sample:
        return self.home.hidden(value_of(self.value))  # type: ignore[attr-defined]

    def outline(self) -> Any:
        return namespace(self).empty(self.shape, self.dtype)

    def lowest(self) -> Sample:
        value = self.value
        return self.home.hidden(value.lowest() if isinstance(value, Wrapped) else value)  # type: ignore[attr-defined]

    def _refuse(self, what: str) -> Any:
        raise TraceError(
            f"{what} at {user_line()}: got a value of shape {self.shape} under minijac.vmap, which stands for all "
            "samples. Expected one program for all of them: write `if` on values as np.where, or write the function "
            "for the batch."
        )

    def __bool__(self) -> bool:
        return self._refuse("a decision (if, while, and, or)")

    def __repr__(self) -> str:
        return f"Sample({self.dtype}{list(self.shape)} of {len(self.value)})"

    __str__ = __repr__


class SampleArray(Indexable, Sample):
    """One sample's value with axes."""

    __slots__ = ()


kinds(Sample, SampleArray, shape=property(lambda self: self.unwritten().shape))


class OneSample(Trace):
    """The trace of a function of one sample, which carries out every operation for the batch and keeps nothing."""

    __slots__ = ("batch", "count")

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.count = 0
        """Values so far: each has a number of its own, by which functions that are run again tell them apart."""

    def hidden(self, value: Any) -> Sample:
        """A value for all samples, on axis 0, as that of one."""
        self.count += 1
        return (SampleArray if value.ndim > 1 else Sample)(self, self.count, value)

    def input(self, value: Any) -> Sample:
        if value.dtype.kind not in "biufc":
            check_operand("argument of vmap", value)  # which says what to do with it
        sample = self.hidden(value)
        sample.link = FIXED
        return sample

    def constant(self, value: Any) -> Sample:
        sample = self.hidden(np.broadcast_to(value, (self.batch, *value.shape)))
        sample.index = -self.count
        return sample

    def known(self, x: Traced) -> Any:
        return x.value[0] if x.index < 0 and self.batch else None

    def batched(self, x: Any, shape: Sequence[int]) -> Any:
        """The values of all samples on axis 0, of an operand of one sample's `shape`, whether it has samples or not."""
        if isinstance(x, Sample) and x.home is self:
            return x.value
        xp = namespace(x)
        return np.broadcast_to(x if is_array(x) or isinstance(x, Traced) else xp.asarray(x), (self.batch, *shape))

    def process(self, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
        mine = [isinstance(x, Sample) and x.home is self for x in args]
        try:
            if isinstance(op, Elementwise):
                return self.hidden(self._elementwise(op, args, params, mine))
            if isinstance(op, Multilinear):
                return self.hidden(self._multilinear(op, args, params, mine))
            if isinstance(op, Structural) and op.by_labels:
                return self.hidden(self._structural(op, args, params))
            return self.hidden(self._stacked(op, args, params, mine))
        except ValueError as error:  # NumPy's, of the whole batch
            if type(error) is not ValueError:
                raise
            shapes = " and ".join(str(np.shape(x)) for x in args)
            raise ValueError(
                f"{op.name} at {user_line()}: one sample's operands of shape {shapes} do not fit: {error}"
            ) from error

    def _elementwise(self, op: Op, args: tuple[Any, ...], params: dict[str, Any], mine: list[bool]) -> Any:
        """Operands of fewer axes get axes of length one behind the samples, so that they broadcast as one sample's."""
        most = max(np.ndim(x) for x in args)
        operands = []
        for x, own in zip(args, mine, strict=True):
            value = x.value if own else x
            if own and x.ndim < most:
                value = value.reshape(self.batch, *[1] * (most - x.ndim), *x.shape)
            operands.append(value)
        return apply(op, tuple(operands), _moved_on(op, params, most) if "axis" in params else params)

    def _multilinear(self, op: Multilinear, args: tuple[Any, ...], params: dict[str, Any], mine: list[bool]) -> Any:
        """One more name, of the samples, for the operands that have them and for the result."""
        names, out = op.signature(*(np.shape(x) for x in args), **params)
        number: dict[Any, int] = {}
        for letter in (letter for letters in names for letter in letters):
            number.setdefault(letter, len(number) + 1)
        lists = [[0, *(number[c] for c in letters)] if own else [number[c] for c in letters]
                 for letters, own in zip(names, mine, strict=True)]  # fmt: skip
        target = [0, *(number[c] for c in out)]
        subscripts = ",".join(map(multilinear.spelled, lists)) + "->" + multilinear.spelled(target)
        operands = tuple([x.value if own else x for x, own in zip(args, mine, strict=True)])
        return apply(multilinear.einsum, operands, {"subscripts": subscripts})

    def _structural(self, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
        """Every part of the relation with one more label, of the samples: moved by labels, and written into place."""
        shapes = [np.shape(x) for x in args]
        operands = [self.batched(x, shape) for x, shape in zip(args, shapes, strict=True)]
        still = _of_zeros(op, operands, shapes, params)
        if np.any(still):  # what stands in the result besides the operands, as the constant of a pad
            still = namespace(operands[0]).asarray(still)
            return self._related(op, operands, shapes, params, np.shape(still)) + still
        return self._related(op, operands, shapes, params, np.shape(still))

    def _related(
        self, op: Op, operands: Sequence[Any], shapes: Sequence[Any], params: dict[str, Any], out: tuple[int, ...]
    ) -> Any:
        shape = (self.batch, *out)
        pieces: list[tuple[Any, Part]] = []
        for k, x in enumerate(operands):
            assert op.relation is not None
            pieces += [(x, part) for part in op.relation(k, out, *shapes, **params)]
        samples = Label(self.batch)
        if len(pieces) == 1:
            ((x, part),) = pieces
            params = {"inp": ((samples,), *part.inp), "out": ((samples,), *part.out), "shape": shape}
            return _scaled(apply(structural.relabel, (x,), params), part.scale)
        placed: list[Placed] = []
        for x, part in pieces:
            there = labels_in(part.out)
            kept = (samples, *(label for label in labels_in(part.inp) if label in there))
            axes: Axes = tuple((label,) for label in kept)
            if axes != ((samples,), *part.inp):
                params = {"inp": ((samples,), *part.inp), "out": axes, "shape": tuple(label.size for label in kept)}
                x = apply(structural.relabel, (x,), params)
            placed.append((_scaled(x, part.scale), kept, ((samples,), *part.out)))
        return superposed(placed, shape)

    def _stacked(self, op: Op, args: tuple[Any, ...], params: dict[str, Any], mine: list[bool]) -> Any:
        """An operation given outright, on stacks: its axes moved on by one, if the samples pass through it in place."""
        if op is indexing.take and mine[1]:
            return self._taken(args[0], args[1].value, params["axis"], mine[0])
        fixed = op.inert if op.edge is not None else range(len(args))  # positions, and what is searched in
        operands = tuple([x if k in fixed and not own else self.batched(x, np.shape(x))
                          for k, (x, own) in enumerate(zip(args, mine, strict=True))])  # fmt: skip
        if op is structural.reshape:
            return apply(op, operands, {"shape": (self.batch, *_of_zeros(op, operands, [args[0].shape], params).shape)})
        if "passing" in params:
            operands, params = self._at_positions(operands, params, np.shape(args[0]), mine[1])
        else:
            params = _moved_on(op, params, np.ndim(args[0]))
        out = None
        if "passing" in params or not any(mine[k] for k in op.inert):
            with suppress(ValueError):  # where it takes no stacks
                out = apply(op, operands, params)
        if out is not None and out.shape[:1] == (self.batch,) and self._passes(op, operands, params, out):
            return out
        raise UnsupportedOperationError(
            f"{op.name} at {user_line()}: got a value of shape {np.shape(args[0])} under minijac.vmap, and this "
            "operation cannot be carried out for all samples at once. Write this part for the batch, without vmap."
        )

    def _taken(self, x: Any, positions: Any, axis: int, own: bool) -> Any:
        """Entries along an axis at each sample's positions: of what is each sample's `own`, or of one for all."""
        if not own:
            return np.moveaxis(apply(indexing.take, (x, positions), {"axis": axis}), axis, 0)
        front = np.moveaxis(x.value, axis + 1, 1)
        samples = namespace(front).arange(self.batch).reshape(-1, *[1] * (positions.ndim - 1))
        if isinstance(positions, Traced) and not isinstance(front, Traced):  # of which an index of arrays knows nothing
            rows = front.reshape(self.batch * front.shape[1], *front.shape[2:])
            found = apply(indexing.take, (rows, positions + samples * front.shape[1]), {"axis": 0})
        else:
            found = front[samples, positions]
        return np.moveaxis(found, range(1, positions.ndim), range(axis + 1, axis + positions.ndim))

    def _at_positions(
        self, operands: tuple[Any, ...], params: dict[str, Any], shape: Sequence[int], own: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positions counted through the array of all samples, where each has its own; else the same for all of them."""
        if not own:
            return operands, {**params, "lead": params.get("lead", 0) + 1}
        x, positions = operands
        lead = params.get("lead", 0)  # axes in front, such as seeds: every sample's positions are those of its rows
        front = tuple(shape[:lead])
        goal = params.get("shape", shape[lead:])
        rows = namespace(x).arange(self.batch * prod(front)).reshape(-1, *front, *[1] * (positions.ndim - 1))
        positions = positions.reshape(self.batch, *[1] * lead, *positions.shape[1:]) + rows * prod(goal)
        moved = [(axis + lead + 1, place + lead + 1) for axis, place in params["passing"]]
        params = {**params, "passing": (*[(k, k) for k in range(lead + 1)], *moved), "lead": 0}
        return (x, positions), {**params, "shape": (self.batch, *front, *goal)} if "shape" in params else params

    def _passes(self, op: Op, operands: tuple[Any, ...], params: dict[str, Any], out: Any) -> bool:
        if op.edge is None:
            return True
        node = Node(op, (-1,) * len(operands), tuple(map(value_of, operands)), params, value_of(out), caller())
        return all(
            op.edge(node, k).carry(0, 1, self.batch) == (0, 1) for k in range(len(operands)) if k not in op.inert
        )


def _samples_first(x: Any, axis: int) -> Any:
    if not holds_array(x):
        raise InputError(
            f"vmap: expected an array with samples on axis {axis} for each argument, got {kind_of(x)} among them. Say "
            "in_axes=(0, None) for an argument that all samples share."
        )
    return np.moveaxis(x, axis, 0)


def _of_zeros(op: Op, operands: Sequence[Any], shapes: Sequence[Any], params: dict[str, Any]) -> Any:
    """One sample's result where the operands are zeros."""
    samples = [np.broadcast_to(np.zeros((), x.dtype), shape) for x, shape in zip(operands, shapes, strict=True)]
    return op.value(*samples, **params)


def _scaled(x: Any, scale: complex) -> Any:
    return x if scale == 1.0 else x * scale


def _moved_on(op: Op, params: dict[str, Any], ndim: int) -> dict[str, Any]:
    """The parameters of an operation whose operand has one more axis in front."""
    axis = params.get("axis")
    if axis is None:
        if "axis" in params:
            raise UnsupportedOperationError(
                f"{op.name} at {user_line()}: got axis=None under minijac.vmap. Expected an axis: flatten first, and "
                "say axis=0."
            )
        return params
    moved = axis % ndim + 1 if isinstance(axis, int | np.integer) else tuple(k % ndim + 1 for k in axis)
    return {**params, "axis": moved}
