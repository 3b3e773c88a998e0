"""custom: a black box on plain arrays, with its derivative given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import Any

import numpy as np

from ..algebra.labels import Axes, Label
from ..arguments import known_calls
from ..backend import array_of, is_array, namespace, on_host, zeros
from ..errors import InputError, UnsupportedOperationError
from ..foreign import kind_of
from ..lines import user_line
from ..numpy.protocol import as_arrays
from ..ops.edges import Edge, Part
from ..ops.families import labelled
from ..ops.maps import linear_map
from ..program.record import Symbol
from ..tape.op import Op
from ..tape.trace import Node, apply
from ..tape.traced import Traced

__all__ = ["custom"]

Function = Callable[..., Any]

MIXED = 1e-4
"""Of the largest entry: what one sample's tangent may be wrong by in the company of others, as solvers leave it."""


@known_calls
def custom(
    f: Function, *, jacobian: Function | None = None, jvp: Function | None = None, vjp: Function | None = None
) -> Function:
    """`f`, a black box on plain arrays (a solver, a table, C code), with the derivative given.

    Args:
        f: Maps arrays, the samples on axis 0, to one array (B, *out), each sample by itself. It sees plain arrays
            alone, by position, and is not looked into.
        jacobian: ``jacobian(*args)``: (B, *out, *in), or (B, *out, *arg) for an argument that all samples share; of
            several float arguments a tuple with one for each.
        jvp: ``jvp(primals, tangents)``, tuples: the tangent of the output, (B, *out).
        vjp: ``vjp(primals, cotangent)``: a tuple of cotangents, one for each argument, or the one there is.

    One of the three is needed. `jvp` serves forward mode and `vjp` reverse, one call for each seed; where only one of
    them is given it serves both. Two calls more find out, once for shapes, on the CPU, whether they mix samples, which
    is then treated as anywhere else. A `jacobian` cannot say that samples mix: where `f` mixes them it is wrong, which
    minijac.testing.check_derivatives notices. What is given may be a black box too; where it is written in NumPy or by
    `custom` itself, it is differentiated again for second derivatives.

    Raises UnsupportedOperationError where it cannot be, and InputError where shapes are wrong, arguments are given by
    name, or `f` returns several arrays: make a function of each.

    >>> import numpy as np, minijac as mj
    >>> sine = mj.custom(np.sin, jacobian=lambda x: np.cos(x)[:, :, None] * np.eye(2))
    >>> mj.jacobian(sine)(np.zeros((1, 2)))
    array([[[1., 0.],
            [0., 1.]]])
    """
    for name, function in (("f", f), ("jacobian", jacobian), ("jvp", jvp), ("vjp", vjp)):
        if not callable(function) and (function is not None or name == "f"):
            raise InputError(f"custom: {name}: expected a function, got {type(function).__name__}.")
    if jacobian is jvp is vjp is None:
        raise InputError("custom: expected a derivative, jacobian=, jvp= or vjp=, got none of them.")
    label = getattr(f, "__name__", type(f).__name__)
    given = _Given(label, jacobian, jvp, vjp)
    op = Op(f"custom {label}", lambda *args: _checked(label, f(*args), args), given.edge)

    @wraps(f)
    def black_box(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            raise InputError(
                f"custom: expected the arguments of {given.label} by position, as its derivative is given them, got "
                f"{', '.join(kwargs)}=. For what is no argument of both, let functions capture it."
            )
        return apply(op, tuple(as_arrays(*args)), {})

    return black_box


def _checked(label: str, y: Any, args: Sequence[Any]) -> Any:
    if not is_array(y) and not isinstance(y, int | float | complex):
        several = f"a {type(y).__name__} of {len(y)}" if isinstance(y, tuple | list | dict) else kind_of(y)
        raise InputError(
            f"custom: expected {label} to return one array, (B, *out), got {several}. Make a function by custom for "
            "each result, or stack them."
        )
    y = y if is_array(y) else np.asarray(y)
    if y.dtype.kind not in "fc" and any(x.dtype.kind in "fc" for x in args):
        raise InputError(f"custom: expected {label} to return an array of floats, got {y.dtype}{list(y.shape)}.")
    return y


class _Given:
    """The derivative of a black box."""

    def __init__(self, label: str, jacobian: Function | None, jvp: Function | None, vjp: Function | None) -> None:
        self.label = label
        self.jacobian, self.jvp, self.vjp = jacobian, jvp, vjp
        self._known: dict[Any, bool] = {}
        """Whether samples mix, by the argument and the shapes."""

    def edge(self, node: Node, k: int) -> Edge:
        x, y = node.args[k], node.out
        if self.jacobian is not None:
            one = partial(self._one_of, [x.dtype.kind for x in node.args], k)
            return self._block(node, k, self._asked("jacobian", one, node.out, *node.args))
        push, pull = self._pushed(node, k), self._pulled(node, k)
        alike = bool(x.ndim and y.ndim) and x.shape[0] == y.shape[0]
        paired = alike and not self._mixes(node, k)
        if self.jvp is not None and self.vjp is not None:
            return linear_map(x.shape, y.shape, push, pull, [(0, 0)] if paired else [])
        source, of_units = (x, push) if self.jvp is not None else (y, pull)
        if alike and not paired:  # of all entries by all, if it comes to that
            back = _transposed(of_units, source)
            return linear_map(x.shape, y.shape, *((push, back) if self.jvp is not None else (back, pull)), [])
        J: Any = of_units(_units(source, paired))  # (seeds, *target)
        within = source.shape[1:] if paired else source.shape
        J = J.reshape((*within, *J.shape[1:]))
        first = list(range(len(within)))
        rest = list(range(len(within), J.ndim))
        if self.jvp is not None:
            return self._block(node, k, np.transpose(J, (*rest, *first)))
        return self._block(node, k, np.transpose(J, (rest[0], *first, *rest[1:]) if paired else (*first, *rest)))

    def _mixes(self, node: Node, k: int) -> bool:
        """Whether what is given for half of the samples reaches the others, or is other than in company of them."""
        args, y = [array_of(x) for x in node.args], array_of(node.out)
        if len(y) < 2 or not all(map(on_host, (*args, y))):
            return False
        key = k, args[k].shape, y.shape
        if key not in self._known:
            forward = self.jvp is not None
            source, target = (args[k], y) if forward else (y, args[k])
            plain = Node(node.op, node.parents, tuple(args), node.params, y, node.where)
            ask = (self._pushed if forward else self._pulled)(plain, k)
            seed = (1.5 + np.cos(np.arange(source.size))).reshape(source.shape).astype(source.dtype)
            half = (np.arange(len(y)) % 2).astype(source.real.dtype)
            with np.errstate(all="ignore"):
                together = ask(seed[None])[0]
                apart = ask((seed.T * half).T[None])[0]
                off, size = (np.max(np.abs(d), initial=0.0) for d in (apart - (together.T * half).T, together))
                if not 0 < size < np.inf:  # which says nothing
                    return False
                self._known[key] = bool(off > MIXED * size)
        return self._known[key]

    def _one_of(self, kinds: Sequence[str], k: int, *args: Any) -> Any:
        """The Jacobian by argument `k`, of those that were given."""
        found: Any = self.jacobian(*args)  # type: ignore[misc]
        found = found if isinstance(found, tuple | list) else (found,)
        floats = [n for n, kind in enumerate(kinds) if kind == "f"]
        if len(found) not in (len(kinds), len(floats)):
            raise InputError(
                f"custom: expected jacobian of {self.label} to return one array for each of {len(floats)} arguments of "
                f"floats, got {len(found)}."
            )
        return found[k] if len(found) == len(kinds) else found[floats.index(k)]

    def _block(self, node: Node, k: int, J: Any) -> Edge:
        shape, out_shape = node.args[k].shape, node.out.shape
        out: Axes = tuple((Label(n),) for n in out_shape)
        own: Axes = tuple((Label(n),) for n in shape)
        if np.shape(J) == (*out_shape, *shape[1:]) and shape and shape[0] == out_shape[0]:
            inp: Axes = (out[0], *own[1:])
            over = (*out, *own[1:])
        elif np.shape(J) == (*out_shape, *shape):
            inp, over = own, (*out, *own)
        else:
            raise InputError(
                f"custom: expected jacobian of {self.label} to return (B, *out, *in), {(*out_shape, *shape[1:])}, got "
                f"{np.shape(J)}."
            )
        return Edge(out_shape, shape, [Part(out, inp, (labelled(J, over, node.out.dtype),))])

    def _pushed(self, node: Node, k: int) -> Function:
        """Tangents of argument `k`, (seeds, *in), to those of the output."""

        def push(seeds: Any) -> Any:
            def one(v: Any, *args: Any) -> Any:
                return self.jvp(args, tuple([v if n == k else np.zeros_like(x) for n, x in enumerate(args)]))  # type: ignore[misc]

            return self._stacked("jvp", node.out, [self._asked("jvp", one, node.out, v, *node.args) for v in seeds])

        return push

    def _pulled(self, node: Node, k: int) -> Function:
        """Cotangents of the output, (seeds, *out), to those of argument `k`."""

        def pull(seeds: Any) -> Any:
            def one(v: Any, *args: Any) -> Any:
                found = self.vjp(args, v)  # type: ignore[misc]
                return found[k] if isinstance(found, tuple | list) else found

            return self._stacked("vjp", node.args[k], [self._asked("vjp", one, node.out, v, *node.args) for v in seeds])

        return pull

    def _stacked(self, name: str, like: Any, found: Sequence[Any]) -> Any:
        """What was given for each seed, (seeds, *like)."""
        for one in found:
            if np.shape(one) != like.shape:
                got = "None" if one is None else f"shape {np.shape(one)}"
                raise InputError(f"custom: expected {name} of {self.label} to return shape {like.shape}, got {got}.")
        return np.stack(found) if found else zeros((0, *like.shape), like.dtype, like)

    def _asked(self, name: str, function: Function, y: Any, *operands: Any) -> Any:
        """What was given, called: with traced values if it takes them, else as a black box of its own.

        In a program it is one that is called in every replay, after the function itself, which made `y`: it may look at
        what that kept.
        """
        if not any(isinstance(x, Traced) for x in operands):
            return function(*operands)
        if any(isinstance(x, Traced) and not isinstance(x, Symbol) for x in operands):
            with suppress(Exception):  # whatever a black box says to what is no array
                return function(*operands)
        line = user_line()

        def none_given(node: Node, k: int) -> Edge:
            raise UnsupportedOperationError(
                f"custom at {line}: a second derivative of {self.label} was asked for, and its {name} is a black "
                f"box. Write {name} in NumPy, or make it by minijac.custom with a derivative of its own."
            ) from None

        op = Op(f"custom {self.label} {name}", lambda y, *operands: function(*operands), none_given)
        return apply(op, (y, *operands), {})


def _transposed(of_units: Function, source: Any) -> Function:
    """The transpose of a linear map of what has the shape of `source`, by its matrix, made when it is asked for."""

    def transposed(seeds: Any) -> Any:
        J = of_units(_units(source, False))
        count = len(seeds)
        return (seeds.reshape(count, -1) @ J.reshape(len(J), -1).T).reshape(count, *source.shape)

    return transposed


def _units(x: Any, paired: bool) -> Any:
    """The unit vectors of the entries of one sample, for all samples at once: (seeds, *x)."""
    shape = x.shape[1:] if paired else x.shape
    n = int(np.prod(shape, dtype=int))
    eye = namespace(x).eye(n, dtype=x.dtype)
    if not paired:
        return eye.reshape((n, *shape))
    return namespace(x).broadcast_to(eye.reshape((n, 1, *shape)), (n, *x.shape)).copy()
