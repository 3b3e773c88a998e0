"""torch.autograd.Function inside a followed function: its backward, followed and transposed, is the derivative."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.autograd.function import BackwardCFunction, FunctionMeta

from ..accumulation.graph import Graph
from ..algebra.block import Block
from ..backend import array_of, namespace
from ..errors import UnsupportedOperationError
from ..lines import user_line
from ..ops.edges import Edge, Part
from ..tape.op import Op
from ..tape.trace import Node, Trace
from ..tape.traced import Traced
from .run import Restart, Run, around, current, drawing_from, entered
from .tensors import tensor_of

Tensor = torch.Tensor
_serial = count()
_lock, _depth = threading.Lock(), [0]


class Context:
    """What a Function's forward leaves for its backward, with the names of torch's."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self.saved_tensors: tuple[Any, ...] = ()
        self.fixed: list[int] = []
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
        self.cls, self.at = cls, at
        self.args = [None if k in at else x for k, x in enumerate(args)]  # what is followed is not kept
        self.state: Any = torch.get_rng_state()
        """From where all runs of forward and backward draw, so that they draw the same; None where none draws."""
        self.linear: set[int | None] = set()
        """The outputs of whose cotangents backward is known to be linear."""

    def drawing(self) -> Any:
        return nullcontext() if self.state is None else drawing_from(self.state)

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
            with self.drawing():
                result = self.forward([tensor_of(x) for x in arrays])[1]
            return (result if n is None else result[n]).numpy()

        return value

    def pulled(self, tensors: Sequence[Any], n: int | None, cotangent: Any) -> tuple[Any, ...]:
        """What backward gives for a cotangent of output `n`."""
        try:
            with self.drawing():
                context, result = self.forward(tensors)
                results = result if isinstance(result, tuple) else (result,)
                given = [torch.zeros_like(y) if context.materializes else None for y in results]
                given[n or 0] = cotangent
                found = self.cls.backward(context, *given)
        except Restart:
            raise UnsupportedOperationError(
                f"{self.cls.__name__}: got a torch.autograd.Function that asks torch's autograd for derivatives, where "
                "it is differentiated twice. Write what it asks for in torch's operations."
            ) from None
        return found if isinstance(found, tuple) else (found,)

    def refuse_nonlinear(self, node: Node, n: int | None) -> None:
        """An error where backward is no linear map of cotangents (it clips them, say), and so no derivative."""
        tensors = [tensor_of(array_of(x)) for x in node.args]
        probe = torch.arange(1.0, node.out.size + 1, dtype=torch.float64).sin().reshape(node.out.shape)
        probe = probe.to(tensor_of(array_of(node.out)))
        small, large = (self.pulled(tensors, n, scale * probe) for scale in (1.0, -1024.0))  # which rounds nothing
        for x, y in zip(small, large, strict=True):
            if isinstance(x, Tensor) and not torch.allclose(-1024.0 * x, y, 1e-3, 0.0, equal_nan=True):
                raise UnsupportedOperationError(
                    f"{self.cls.__name__} at {node.where}: expected a torch.autograd.Function whose backward is linear "
                    "in the gradients that it is given, got one that is not (it clips or normalises them, say), which "
                    "is no derivative. Do that to the gradients of the parameters, after backward."
                )
        self.linear.add(n)

    def edge(self, n: int | None) -> Callable[[Node, int], Edge]:
        """The derivative of output `n` by a followed argument: the linear map that backward is, transposed."""

        def edge(node: Node, k: int) -> Edge:
            run, trace = Run(), Trace()
            one = namespace(node.out).ones((), node.out.dtype)
            cotangent = trace.input(namespace(node.out).ones(node.out.shape, node.out.dtype))
            try:
                with entered(run):
                    run.insists = True  # Functions run without grad; what is followed stays followed
                    if n not in self.linear:
                        self.refuse_nonlinear(node, n)
                    pulled = self.pulled([run.tensor(x) for x in node.args], n, run.tensor(cotangent))[self.at[k]]
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


def applied(run: Run, cls: Any, forward: Callable[..., Any], *given: Any) -> Any:
    """What torch takes for the forward of a Function whose `apply` was called while a run lasts."""
    takes_context = cls.setup_context is torch.autograd.Function.setup_context
    args = given[1:] if takes_context else given
    at = [k for k, x in enumerate(args) if isinstance(x, Tensor) and run.follows((type(x),), (x,), {})]
    if not at:
        return forward(*given)
    if run.autograd:
        raise UnsupportedOperationError(
            f"{cls.__name__} at {user_line()}: got a torch.autograd.Function in a function that asks torch's "
            "autograd for derivatives. Write one of the two in torch's operations."
        )
    with torch.enable_grad():
        if cls.__module__ == "torch.utils.checkpoint":  # the function itself, and a flag
            return args[0](*args[2:])
        return _carried_out(run, Custom(cls, args, at), [run.value(args[k]) for k in at])


def _carried_out(run: Run, call: Custom, values: Sequence[Any]) -> Any:
    context, plain = call.forward([tensor_of(array_of(x).copy()) for x in values])
    if torch.equal(call.state, torch.get_rng_state()):
        call.state = None
    numbers = [None] if isinstance(plain, Tensor) else list(range(len(plain)))
    results = []
    for n in numbers:
        y = plain if n is None else plain[n]
        if not isinstance(y, Tensor) or not y.is_floating_point() or id(y) in context.fixed:
            results.append(y)
            continue
        op = Op(f"{call.cls.__name__}_{next(_serial)}", call.value(n), call.edge(n))
        results.append(run.result(op(*values)))
    return results[0] if isinstance(plain, Tensor) else tuple(results)


# -- where a call is met: `apply` may be a name bound before, and from torch 2.14 on is no Python --------------------
_opened = threading.local()


def _opens(_: Any) -> None:
    """torch makes the context of a call, in the mode in which the user calls; next it asks for the forward."""
    _opened.grad = torch.is_grad_enabled()


def _forward_of(cls: Any) -> Any:
    forward = next(vars(base)["forward"] for base in cls.__mro__ if "forward" in vars(base)).__get__(None, cls)
    run, followed = current(), vars(_opened).pop("grad", False)
    if run is None or not followed or not issubclass(cls, torch.autograd.Function):
        return forward
    return partial(applied, run, cls, forward)


def _set_forward(cls: Any, forward: Any) -> None:
    with _lock:
        _switch(False)
        try:
            cls.forward = forward
        finally:
            _switch(_depth[0] > 0)


def _switch(follows: bool) -> None:
    if follows:
        FunctionMeta.forward, BackwardCFunction.__init__ = property(_forward_of, _set_forward), _opens
    elif "forward" in vars(FunctionMeta):
        del FunctionMeta.forward, BackwardCFunction.__init__


@contextmanager
def followed() -> Iterator[None]:
    """While a run lasts, Functions look whether their arguments are followed; other threads see no difference."""
    with _lock:
        _depth[0] += 1
        if _depth[0] == 1:
            _switch(True)
    try:
        yield
    finally:
        with _lock:
            _depth[0] -= 1
            if not _depth[0]:
                _switch(False)


around.append(followed)
