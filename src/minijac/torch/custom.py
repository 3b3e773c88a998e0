"""torch.autograd.Function inside a followed function: its backward, followed and transposed, is the derivative."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import torch

from ..accumulation.graph import Graph
from ..algebra.block import Block
from ..backend import array_of, namespace
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..ops.edges import Edge, Part
from ..tape.op import Op
from ..tape.trace import Node, Trace
from ..tape.traced import Traced
from .run import Run, around, current, entered
from .tensors import tensor_of

Tensor = torch.Tensor
_serial = count()
_lock, _depth = threading.Lock(), [0]


class Context:
    """What a Function's forward leaves for its backward, with the names of torch's."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self.saved_tensors: tuple[Any, ...] = ()
        self.materializes = True

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        pass

    def mark_non_differentiable(self, *tensors: Any) -> None:
        self.fixed = [id(t) for t in tensors]

    def set_materialize_grads(self, value: bool) -> None:
        self.materializes = value

    def mark_dirty(self, *tensors: Any) -> None:
        raise UnsupportedOperationError(
            f"a torch.autograd.Function at {user_line()}: got one that writes its input (mark_dirty). Let its forward "
            "return a new tensor."
        )

    @property
    def saved_variables(self) -> tuple[Any, ...]:
        return self.saved_tensors


class Custom:
    """One call of a Function: which of its arguments are followed, and all others as they were given."""

    def __init__(self, cls: Any, args: tuple[Any, ...], at: list[int]) -> None:
        self.cls, self.args, self.at = cls, args, at

    def forward(self, tensors: Any) -> tuple[Context, Any]:
        args = list(self.args)
        for k, tensor in zip(self.at, tensors, strict=True):
            args[k] = tensor
        context = Context(tuple([k in self.at for k in range(len(args))]))
        with torch.no_grad():
            if self.cls.setup_context is not torch.autograd.Function.setup_context:
                result = self.cls.forward(*args)
                self.cls.setup_context(context, tuple(args), result)
            else:
                result = self.cls.forward(context, *args)
        return context, result

    def value(self, n: int | None) -> Callable[..., Any]:
        """The output `n` (None: the only one) of plain arrays."""

        def value(*arrays: Any) -> Any:
            result = self.forward([tensor_of(x) for x in arrays])[1]
            return (result if n is None else result[n]).numpy()

        return value

    def edge(self, n: int | None) -> Callable[[Node, int], Edge]:
        """The derivative of output `n` by a followed argument: the linear map that backward is, transposed."""

        def edge(node: Node, k: int) -> Edge:
            run, trace = Run(), Trace()
            one = namespace(node.out).ones((), node.out.dtype)
            cotangent = trace.input(namespace(node.out).ones(node.out.shape, node.out.dtype))
            try:
                with entered(run):
                    run.insists = True  # Functions run without grad; what is followed stays followed
                    context, result = self.forward([run.tensor(x) for x in node.args])
                    results = result if isinstance(result, tuple) else (result,)
                    empty = [torch.zeros_like(y) if context.materializes else None for y in results]
                    empty[n or 0] = run.tensor(cotangent)
                    found = self.cls.backward(context, *empty)
                    found = found if isinstance(found, tuple) else (found,)
                    pulled = found[self.at[k]]
                    pulled = run.value(pulled) if isinstance(pulled, Tensor) else None
            finally:
                trace.close()
            shape = np.shape(node.args[k])
            if not isinstance(pulled, Traced) or pulled.home is not trace:
                return Edge(node.out.shape, shape, [])
            graph = Graph(trace.nodes, [cotangent.index], [pulled.index])
            block = graph.forward({cotangent.index: Block.identity(node.out.shape, one)})[pulled.index].T
            parts = [Part(term.out, term.inp, term.factors, term.scale) for term in block.terms]
            return Edge(node.out.shape, shape, parts)

        return edge


def _applied(descriptor: Any) -> Callable[..., Any]:
    def original(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return descriptor.__get__(None, cls)(*args, **kwargs)

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        run = current()
        at = [k for k, x in enumerate(args) if isinstance(x, Tensor) and run is not None and run.follows_one(x)]
        if run is None or not at:
            return original(cls, *args, **kwargs)
        if cls.__module__ == "torch.utils.checkpoint":  # the function itself, and a flag
            return args[0](*args[2:])
        if run.autograd:
            raise UnsupportedOperationError(
                f"{cls.__name__} at {user_line()}: got a torch.autograd.Function in a function that asks torch's "
                "autograd for derivatives. Write one of the two in torch's operations."
            )
        values = [run.value(args[k]) for k in at]
        if not torch.is_grad_enabled():
            return original(cls, *args, **kwargs)
        call = Custom(cls, args, at)
        plain = call.forward([tensor_of(array_of(x).copy()) for x in values])[1]
        numbers = [None] if isinstance(plain, Tensor) else list(range(len(plain)))
        results = []
        for n in numbers:
            y = plain if n is None else plain[n]
            if not isinstance(y, Tensor) or not y.is_floating_point():
                results.append(y)
                continue
            op = Op(f"{cls.__name__}_{next(_serial)}", call.value(n), call.edge(n))
            results.append(run.result(op(*values)))
        return results[0] if isinstance(plain, Tensor) else tuple(results)

    return apply


_original: Any = vars(torch.autograd.Function)["apply"]
"""A class method, in Python or in C."""


@contextmanager
def followed() -> Iterator[None]:
    """While a run lasts, Functions look whether their arguments are followed; other threads see no difference."""
    with _lock:
        _depth[0] += 1
        torch.autograd.Function.apply = classmethod(_applied(_original))
    try:
        yield
    finally:
        with _lock:
            _depth[0] -= 1
            if not _depth[0]:
                torch.autograd.Function.apply = _original


around.append(followed)
