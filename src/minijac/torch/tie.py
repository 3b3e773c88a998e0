"""Results tied to torch's autograd: what an outer trace recorded, pulled back when torch asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree
import torch

from ..accumulation.graph import Graph
from ..algebra.block import Block
from ..backend import is_array
from ..operator.jacobian import Jacobian
from ..tape.trace import Node
from ..tape.traced import Traced
from ..transforms.products import vjp
from .jacobians import TensorJacobian, leaves_of, tree_map
from .run import Run, current, entered
from .tensors import array_of, tensor_of

__all__ = ["outermost", "value_in"]

Tensor = torch.Tensor


class Tape(NamedTuple):
    """What an outer trace recorded between tensors that require grad and results."""

    nodes: Sequence[Node]
    inputs: list[int]
    outputs: list[int]

    def again(self, *arrays: Any) -> list[Any]:
        """The outputs for the inputs, carried out anew: on followed values they are followed."""
        found = dict(zip(self.inputs, arrays, strict=True))
        needed: set[int] = set()
        stack = list(self.outputs)
        while stack:
            i = stack.pop()
            if i not in found and i not in needed:
                needed.add(i)
                stack.extend(p for p in self.nodes[i].parents if p >= 0)
        for i in sorted(needed):
            node = self.nodes[i]
            args = [arg if p < 0 else found[p] for p, arg in zip(node.parents, node.args, strict=True)]
            found[i] = node.op(*args, **node.params)  # type: ignore[misc]
        return [found[i] for i in self.outputs]

    def pullback(self, cotangents: Sequence[Any]) -> list[Any]:
        """One cotangent for each input; arrays."""
        graph = Graph(self.nodes, self.inputs, list(dict.fromkeys(self.outputs)))
        seeds: dict[int, Block] = {}
        for i, cotangent in zip(self.outputs, cotangents, strict=True):
            if cotangent is not None:
                block = Block.column(cotangent.conj() if cotangent.dtype.kind == "c" else cotangent).T
                seeds[i] = seeds[i] + block if i in seeds else block
        with np.errstate(all="ignore"):
            blocks = graph.reverse(seeds, real=True)
            ends = [(i, self.nodes[i].out) for i in self.inputs]
            return [blocks.get(i, Block((), x.shape)).dense(x.dtype, x) for i, x in ends]


class _Tie(torch.autograd.Function):  # type: ignore[misc]
    """Its backward is the pullback of a tape; that of its backward, the pullback of the tape carried out anew."""

    @staticmethod
    def forward(ctx: Any, pull: Callable[..., Any], results: list[Any], *tensors: Any) -> Any:
        ctx.pull = pull
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        tensors = ctx.saved_tensors  # raises where one was written since
        return None, None, *ctx.pull(tensors, cotangents)


def tied(tape: Tape, tensors: Sequence[Any], results: Sequence[Any]) -> tuple[Any, ...]:
    """The results (tensors), with their derivative by `tensors` as the tape has it: zero beyond its outputs."""

    def pull(own: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
        cotangents = cotangents[: len(tape.outputs)]
        followed = torch.is_grad_enabled() and any(t is not None for t in cotangents)
        if followed and any(t is not None and t.requires_grad for t in (*own, *cotangents)):
            return _pulled(tape, own, cotangents)
        arrays = [None if t is None else array_of(t.contiguous()) for t in cotangents]
        return [tensor_of(y) for y in tape.pullback(arrays)]

    return _Tie.apply(pull, list(results), *tensors)


def _pulled(tape: Tape, tensors: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
    """The pullback as a result that torch's autograd can go on from."""
    given = [k for k, t in enumerate(cotangents) if t is not None]
    part = tape._replace(outputs=[tape.outputs[k] for k in given])

    def pulled(*arrays: Any) -> Any:
        inputs, seeds = arrays[: len(tensors)], arrays[len(tensors) :]
        return vjp(lambda *own: tuple(part.again(*own)), *inputs)[1](tuple(seeds))

    return outermost(pulled, (*tensors, *[cotangents[k] for k in given]), {})


# -- a transformation of it, called ------------------------------------------------------------------------------------
def outermost(
    g: Callable[..., Any], args: Any, kwargs: Any, lasting: bool = True, derived: Callable[[Any], Any] = lambda _: ()
) -> Any:
    """A function of arrays called with tensors: its results are tensors, tied to those among its arguments, and those
    that it captured, that require grad; what of them is `derived` also where they do not depend on those. What it
    writes to buffers stays, if `lasting`."""
    run = current()
    if run is not None:  # within a function that is followed already
        result = g(*tree_map(value_in(run), args), **tree_map(value_in(run), kwargs))
        return tree_map(run.tensor, result)
    run = Run(lifts=torch.is_grad_enabled())
    run.device = next((x.device for x in leaves_of((args, kwargs)) if isinstance(x, Tensor)), run.device)
    value = value_in(run)
    with entered(run):
        result = g(*tree_map(value, args), **tree_map(value, kwargs))
    if lasting:
        run.commit()
    else:
        run.undo()
    return _as_tensors(run, result, derived)


def value_in(run: Run) -> Callable[[Any], Any]:
    return lambda x: run.value(x) if isinstance(x, Tensor) else x


def _as_tensors(run: Run, result: Any, derived: Callable[[Any], Any]) -> Any:
    """The leaves of a result as tensors, those that depend on lifted tensors, and derivatives, tied to them."""
    if run.outer is not None:
        run.outer.close()
    leaves, tree = optree.tree_flatten(result, namespace="minijac")
    outputs = {n: y.index for n, y in enumerate(leaves) if isinstance(y, Traced) and y.home is run.outer}
    flat = set(map(id, leaves_of(derived(result)))) if run.inputs and len(outputs) < len(leaves) else ()
    constant = [n for n, y in enumerate(leaves) if id(y) in flat and is_array(y) and y.dtype.kind in "fc"]
    places = [*outputs, *constant]
    leaves = [TensorJacobian(y) if isinstance(y, Jacobian) else _plain(y) for y in leaves]
    if places:
        assert run.outer is not None
        record = Tape(run.outer.nodes, [i for _, i in run.inputs], list(outputs.values()))
        results = tied(record, [tensor for tensor, _ in run.inputs], [leaves[n] for n in places])
        for n, y in zip(places, results, strict=True):
            leaves[n] = y
    return optree.tree_unflatten(tree, leaves)


def _plain(y: Any) -> Any:
    if isinstance(y, Traced):
        y = y.value
    return tensor_of(y) if hasattr(y, "dtype") else y
