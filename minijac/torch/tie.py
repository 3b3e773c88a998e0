"""Results tied to torch's autograd: what an outer trace recorded, pulled back when torch asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..accumulation.graph import Graph
from ..algebra.block import Block
from ..tape.trace import Node
from ..transforms.products import vjp
from .tensors import array_of, tensor_of

__all__ = ["Tape", "tied"]


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
                block = Block.column(cotangent).T
                seeds[i] = seeds[i] + block if i in seeds else block
        with np.errstate(all="ignore"):
            blocks = graph.reverse(seeds)
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
    """The results (tensors) with their derivative by `tensors` as the tape has it."""

    def pull(own: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*own, *cotangents)):
            return _pulled(tape, own, cotangents)
        arrays = [None if t is None else array_of(t.contiguous()) for t in cotangents]
        return [tensor_of(y) for y in tape.pullback(arrays)]

    return _Tie.apply(pull, list(results), *tensors)


def _pulled(tape: Tape, tensors: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
    """The pullback as a result that torch's autograd can go on from."""
    from .transforms import outermost

    given = [k for k, t in enumerate(cotangents) if t is not None]
    part = tape._replace(outputs=[tape.outputs[k] for k in given])

    def pulled(*arrays: Any) -> Any:
        inputs, seeds = arrays[: len(tensors)], arrays[len(tensors) :]
        return vjp(lambda *own: tuple(part.again(*own)), *inputs)[1](tuple(seeds))

    return outermost(pulled, (*tensors, *[cotangents[k] for k in given]), {})

