"""minijac's transformations on functions of tensors: modules as they are, tensors in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import update_wrapper
from typing import Any
from weakref import WeakSet

import optree
import torch

from ..errors import InputError
from ..operator.jacobian import Jacobian
from ..tape.traced import Traced
from ..transforms import first, products, second
from ..transforms import partials as _partials
from ..views import plan, tape
from .run import Restart, Run, current, entered, recorded
from .tensors import TracedTensor, tensor_of
from .tie import Tape, tied

Tensor = torch.Tensor
_with_autograd: WeakSet[Any] = WeakSet()
"""Functions that were found to take derivatives by torch's autograd."""


def tree_map(function: Callable[[Any], Any], *trees: Any) -> Any:
    return optree.tree_map(function, *trees, namespace="minijac")


def leaves_of(tree: Any) -> list[Any]:
    return optree.tree_leaves(tree, namespace="minijac")


# -- a function of tensors as one of arrays ----------------------------------------------------------------------------
def lowered(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, a module or any function of tensors, as a function of arrays, for any of minijac's transformations.

    Args:
        f: Takes and returns any pytree of tensors.

    Parameters and other tensors that it captures are constants. What a transformation follows stays followed.

    >>> import minijac as mj, minijac.torch, numpy as np, torch
    >>> mj.jacobian(minijac.torch.lowered(torch.nn.Tanh()))(np.zeros((2, 3))).shape
    (2, 3, 3)
    """

    def on_arrays(*args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is not None:
            return _called(f, run, args, kwargs)
        run = Run()
        if any(map(recorded, leaves_of((args, kwargs)))):
            run.made = {}
        with entered(run):
            result = _called(f, run, args, kwargs)
        run.commit()
        return result

    return _named(on_arrays, f)


def _named(function: Callable[..., Any], f: Any) -> Any:
    if not callable(f):
        raise InputError(f"minijac.torch: expected a module or a function of tensors, got {type(f).__name__}.")
    if isinstance(f, torch.nn.Module):
        function.__name__ = type(f).__name__
        function.__wrapped__ = f  # type: ignore[attr-defined]
        return function
    return update_wrapper(function, f, updated=())


def _called(f: Callable[..., Any], run: Run, args: Any, kwargs: Any) -> Any:
    own = tree_map(run.tensor, (args, kwargs))
    try:
        if not run.autograd and _remembered(f):
            raise Restart
        state = torch.get_rng_state()
        result = f(*own[0], **own[1])
    except Restart:
        if run.autograd:
            raise
        _remember(f)
        run.autograd = True
        torch.set_rng_state(state if "state" in locals() else torch.get_rng_state())
        own = tree_map(_requiring_grad, tree_map(run.tensor, (args, kwargs)))
        try:
            result = f(*own[0], **own[1])
        finally:
            run.autograd = False
    return tree_map(lambda y: run.value(y) if isinstance(y, Tensor) else y, result)


def _remembered(f: Any) -> bool:
    try:
        return f in _with_autograd
    except TypeError:
        return False


def _remember(f: Any) -> None:
    with suppress(TypeError):  # what cannot be held weakly is tried anew
        _with_autograd.add(f)


def _requiring_grad(x: Any) -> Any:
    return x.requires_grad_() if type(x) is TracedTensor and x.dtype.is_floating_point else x


# -- a transformation of it, called ------------------------------------------------------------------------------------
def outermost(g: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A function of arrays called with tensors: its results are tensors, tied to those among its arguments, and those
    that it captured, that require grad."""
    run = current()
    if run is not None:  # within a function that is followed already
        result = g(*tree_map(_value(run), args), **tree_map(_value(run), kwargs))
        return tree_map(run.tensor, result)
    run = Run(lifts=torch.is_grad_enabled())
    run.device = next((x.device for x in leaves_of((args, kwargs)) if isinstance(x, Tensor)), run.device)
    value = _value(run)
    with entered(run):
        result = g(*tree_map(value, args), **tree_map(value, kwargs))
    run.commit()
    return _as_tensors(run, result)


def _value(run: Run) -> Callable[[Any], Any]:
    return lambda x: run.value(x) if isinstance(x, Tensor) else x


def _as_tensors(run: Run, result: Any) -> Any:
    """The leaves of a result as tensors, those that depend on lifted tensors tied to them."""
    if run.outer is not None:
        run.outer.close()
    leaves, tree = optree.tree_flatten(result, namespace="minijac")
    outputs = {n: y for n, y in enumerate(leaves) if isinstance(y, Traced) and y.home is run.outer}
    leaves = [TensorJacobian(y) if isinstance(y, Jacobian) else _plain(y) for y in leaves]
    if outputs:
        assert run.outer is not None
        inputs = [(tensor, value.index) for tensor, value in run.lifted.values()]
        record = Tape(run.outer.nodes, [i for _, i in inputs], [y.index for y in outputs.values()])
        results = tied(record, [tensor for tensor, _ in inputs], [leaves[n] for n in outputs])
        for n, y in zip(outputs, results, strict=True):
            leaves[n] = y
    return optree.tree_unflatten(tree, leaves)


def _plain(y: Any) -> Any:
    if isinstance(y, Traced):
        y = y.value
    return tensor_of(y) if hasattr(y, "dtype") else y


class TensorJacobian:
    """A structured Jacobian (`minijac.Jacobian`) whose products are tensors. It is not tied to torch's autograd."""

    def __init__(self, operator: Jacobian) -> None:
        self.operator = operator

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.operator, name)
        if not callable(found):
            return TensorJacobian(found) if isinstance(found, Jacobian) else found
        return lambda *args, **kwargs: _returned(found(*map(_given, args), **kwargs))

    def __matmul__(self, v: Any) -> Any:
        return _returned(self.operator @ _given(v))

    def __repr__(self) -> str:
        return repr(self.operator)


def _given(x: Any) -> Any:
    from .tensors import array_of

    return array_of(x) if isinstance(x, Tensor) else x.operator if isinstance(x, TensorJacobian) else x


def _returned(y: Any) -> Any:
    if isinstance(y, Jacobian):
        return TensorJacobian(y)
    return tree_map(lambda leaf: tensor_of(leaf) if hasattr(leaf, "__array_interface__") else leaf, y)


# -- the transformations -----------------------------------------------------------------------------------------------
def _transformation(transform: Callable[..., Any]) -> Callable[..., Any]:
    def transformed(f: Callable[..., Any], *positional: Any, **options: Any) -> Callable[..., Any]:
        g = transform(lowered(f), *positional, **options)

        def call(*args: Any, **kwargs: Any) -> Any:
            return outermost(g, args, kwargs)

        return _named(call, f)

    transformed.__name__ = transformed.__qualname__ = transform.__name__
    transformed.__doc__ = (
        f"`minijac.{transform.__name__}` for a module or any function of tensors, with the same options.\n\n"
        "Results carry torch's autograd: their derivative by arguments and captured parameters that require grad.\n"
    )
    return transformed


jacobian = _transformation(first.jacobian)
value_and_jacobian = _transformation(first.value_and_jacobian)
hessian = _transformation(second.hessian)
value_and_hessian = _transformation(second.value_and_hessian)
hessian_diagonal = _transformation(second.hessian_diagonal)
value_and_hessian_diagonal = _transformation(second.value_and_hessian_diagonal)
laplacian = _transformation(second.laplacian)
value_and_laplacian = _transformation(second.value_and_laplacian)
divergence = _transformation(second.divergence)
value_and_divergence = _transformation(second.value_and_divergence)
partials = _transformation(_partials.partials)
grad = _transformation(products.grad)
value_and_grad = _transformation(products.value_and_grad)


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """``(y, y_dot)`` with ``y_dot = J @ tangents``; primals and tangents are tuples of tensors (or trees of them).

    >>> import minijac.torch, torch
    >>> minijac.torch.jvp(torch.sin, (torch.zeros(2),), (torch.ones(2),))
    (tensor([0., 0.]), tensor([1., 1.]))
    """
    g = lowered(f)
    return outermost(
        lambda own, along: products.jvp(g, tuple(own), tuple(along)), (tuple(primals), tuple(tangents)), {}
    )


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """``(y, pullback)``; ``pullback(y_bar)`` is a tuple of one cotangent for each primal.

    A pullback runs `f` again, so that what it returns carries torch's autograd too.

    >>> import minijac.torch, torch
    >>> y, pullback = minijac.torch.vjp(torch.sin, torch.zeros(2))
    >>> pullback(torch.ones(2))
    (tensor([1., 1.]),)
    """
    g = lowered(f)
    y = outermost(g, primals, {})

    def pullback(y_bar: Any) -> tuple[Any, ...]:
        return outermost(lambda own, cotangent: products.vjp(g, *own)[1](cotangent), (primals, y_bar), {})

    return y, pullback


def linearize(f: Callable[..., Any], *primals: Any, batch_axis: Any = 0) -> tuple[Any, Any]:
    """``(y, J)`` with `J` the structured per-sample Jacobian; its products are tensors, not tied to torch's autograd.

    >>> import minijac.torch, torch
    >>> y, J = minijac.torch.linearize(torch.sin, torch.zeros(2, 3))
    >>> J @ torch.ones(2, 3)
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    g = lowered(f)
    with torch.no_grad():
        return outermost(lambda *own: first.linearize(g, *own, batch_axis=batch_axis), primals, {})


def explain(f: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`minijac.explain` for a module or a function of tensors: the plan, and what torch's decompositions were used for.

    >>> import minijac.torch, torch
    >>> explanation = minijac.torch.explain(torch.nn.Linear(3, 2), torch.zeros(4, 3))
    """
    return _looked_at(plan.explain, f, args, options)


def trace(f: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`minijac.trace` for a module or a function of tensors.

    >>> import minijac.torch, torch
    >>> tape = minijac.torch.trace(torch.sin, torch.zeros(2, 3))
    """
    return _looked_at(tape.trace, f, args, options)


def _looked_at(view: Callable[..., Any], f: Any, args: Any, options: Any) -> Any:
    run = Run()
    with torch.no_grad(), entered(run):
        return view(lowered(f), *tree_map(_value(run), args), **options)


def stop_gradient(x: Any) -> Any:
    """`x` (a pytree of tensors), treated as constant; ``x.detach()`` for each."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, x)
