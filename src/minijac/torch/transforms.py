"""minijac's transformations on functions of tensors: modules as they are, tensors in and out."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import update_wrapper
from inspect import getclosurevars
from operator import itemgetter
from types import FunctionType
from typing import Any
from weakref import WeakSet

import optree
import torch

from ..backend import is_array
from ..errors import BatchMixingError, InputError, MinijacError, TraceError, UnsupportedOperationError
from ..foreign import a_function
from ..lines import MODULES, UNKNOWN, line_in, of_library, user_line
from ..tape.trace import Trace
from ..tape.traced import Traced
from ..transforms import first, hessians, products, second
from ..transforms import partials as _partials
from ..views import plan, tape
from .jacobians import leaves_of, tree_map
from .run import Restart, Run, current, drawing_from, entered, recorded
from .tensors import TracedTensor
from .tie import outermost, value_in

Tensor = torch.Tensor
MODULES[:] = [torch.nn.Module._wrapped_call_impl.__code__]  # whose frame has few locals
_with_autograd: WeakSet[Any] = WeakSet()
"""Functions that were found to take derivatives by torch's autograd."""


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
    a_function(f, "torch.jacobian")
    if isinstance(f, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        raise InputError(
            f"minijac.torch: got a {type(f).__name__}, which hands samples to copies of a module on other devices, "
            "where they cannot be followed. Pass net.module."
        )
    if isinstance(f, torch.nn.Module):
        function.__name__ = type(f).__name__
        function.__wrapped__ = f  # type: ignore[attr-defined]
        return function
    return update_wrapper(function, f, updated=())


def _called(f: Callable[..., Any], run: Run, args: Any, kwargs: Any) -> Any:
    outside, state = run.autograd, torch.get_rng_state()
    try:
        if not outside and _remembered(f):
            raise Restart
        result = _result(f, run, args, kwargs, lambda x: x)
    except Restart:
        if outside:
            raise
        _remember(f)
        run.undo()
        torch.set_rng_state(state)
        run.autograd = True
        try:
            result = _result(f, run, args, kwargs, _requiring_grad)
        finally:
            run.autograd = False
    return result


def _result(f: Callable[..., Any], run: Run, args: Any, kwargs: Any, prepared: Callable[[Any], Any]) -> Any:
    values, tree = optree.tree_flatten((args, kwargs), namespace="minijac")
    leaves = [prepared(run.tensor(x)) for x in values]
    args, kwargs = optree.tree_unflatten(tree, leaves)
    try:
        with run.memory.call(leaves, values):
            result = f(*args, **kwargs)
    except MinijacError as error:
        where = _module_path(error.__traceback__)
        if where and where not in str(error):
            error.args = (f"{error} In {where}.", *error.args[1:])
        raise
    except (IndexError, TypeError, ValueError) as error:  # NumPy's, of operands that do not fit
        where, last = _module_path(error.__traceback__), traceback.extract_tb(error.__traceback__)[-1]
        if where and of_library(last.filename) and len(error.args) == 1:
            line = line_in(error.__traceback__)
            error.args = (f"{error} In {where}, at {user_line() if line == UNKNOWN else line}.",)
        raise
    except RuntimeError as error:
        if "a new Tensor subclass" not in str(error):
            raise
        raise UnsupportedOperationError(
            f"a tensor of a class of its own, at {line_in(error.__traceback__)}: got one that is made of a tensor that "
            "minijac.torch follows, which stays a plain one. Make it outside, or write the function for plain tensors."
        ) from error
    return tree_map(lambda y: _fresh(run.value(y)) if isinstance(y, Tensor) else y, result)


def _fresh(value: Any) -> Any:
    """A value as the caller's own, who may write to it."""
    return value.fresh() if isinstance(value, Traced) else value


def _module_path(at: Any) -> str:
    """The module in which an error came up, by its path from the outermost one."""
    modules: list[Any] = []
    for frame, _ in traceback.walk_tb(at):
        if frame.f_code in MODULES:
            modules.append(frame.f_locals["self"])
    return _path(modules[:1], modules[-1]) if modules else ""


def _path(roots: Sequence[Any], module: Any) -> str:
    """A module by its path from the first of some that holds it."""
    for root in roots:
        for name, part in root.named_modules():
            if part is module:
                return f"{type(root).__name__}{'.' if name else ''}{name} ({type(module).__name__})"
    return type(module).__name__


@contextmanager
def _in_words_of_torch(f: Any) -> Iterator[None]:
    """An error that samples mix inside of a module names it, by its path from the one that `f` is or uses; one that
    says what to do says it of tensors."""
    try:
        yield
    except (InputError, TraceError) as error:
        told = str(error).replace(".astype(float)", ".double()").replace("minijac.compile", "minijac.torch.compile")
        error.args = (re.sub(r"(?<![/\\\w])np\.(?!py\b)", "torch.", told), *error.args[1:])
        raise
    except BatchMixingError as error:
        if error.module is not None:
            reached = getclosurevars(f) if isinstance(f, FunctionType) else None
            roots = [f, *reached.nonlocals.values(), *reached.globals.values()] if reached else [f]
            where = _path([root for root in roots if isinstance(root, torch.nn.Module)], error.module)
            error.args = (f"{error}\n  In {where}.",)
            error.module = None  # named: transformations around this one leave it at that
        raise


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


# -- the transformations -----------------------------------------------------------------------------------------------
def _transformation(transform: Callable[..., Any]) -> Callable[..., Any]:
    def transformed(
        f: Callable[..., Any], *positional: Any, parameters: bool = False, **options: Any
    ) -> Callable[..., Any]:
        if parameters:
            return _by_parameters(transform, f, positional, options)
        g = transform(lowered(f), *positional, **options)

        def call(*args: Any, **kwargs: Any) -> Any:
            with _in_words_of_torch(f), torch.no_grad() if options.get("structured") else nullcontext():
                return outermost(g, args, kwargs, derived=_derived(transform, options))  # an operator is not tied

        return _named(call, f)

    transformed.__name__ = transformed.__qualname__ = transform.__name__
    transformed.__doc__ = (
        f"`minijac.{transform.__name__}` for a module or any function of tensors, with the same options.\n\n"
        "Results carry torch's autograd: their derivative by arguments and captured parameters that require grad.\n"
        "With ``parameters=True`` a module is differentiated by its parameters: a dict of their names.\n"
    )
    return transformed


def _derived(transform: Callable[..., Any], options: Any) -> Callable[[Any], Any]:
    """What of the results of a transformation are derivatives."""
    at = 1 if transform.__name__.startswith("value_and_") else 0 if options.get("has_aux") else None
    return (lambda result: result) if at is None else itemgetter(at)


def _by_parameters(transform: Callable[..., Any], f: Any, positional: Any, options: Any) -> Callable[..., Any]:
    """A transformation of a module as a function of its parameters, which all samples share."""
    if not isinstance(f, torch.nn.Module) or positional or "argnums" in options:
        raise InputError(
            f"parameters=True: expected a module, differentiated by its parameters alone, got {type(f).__name__}"
            f"{' and argnums' if isinstance(f, torch.nn.Module) else ''}. For a function of several things write "
            "torch.func.functional_call(net, params, (x,)) in it, and pass params as an argument."
        )
    axis = options.pop("batch_axis", 0)

    def call(*args: Any, **kwargs: Any) -> Any:
        def by_parameters(params: Any, *args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(f, params, args, kwargs)

        axes = (None, *(axis if isinstance(axis, tuple | list) else (axis,) * len(args)))
        g = transform(lowered(by_parameters), batch_axis=axes, **options)
        with _in_words_of_torch(f):
            own = dict(f.named_parameters())
            return outermost(g, (own, *args), kwargs, derived=_derived(transform, options))

    return _named(call, f)


jacobian = _transformation(first.jacobian)
value_and_jacobian = _transformation(first.value_and_jacobian)
hessian = _transformation(hessians.hessian)
value_and_hessian = _transformation(hessians.value_and_hessian)
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
    products.check_tuples("jvp", primals, tangents)
    return outermost(
        lambda own, along: products.jvp(g, tuple(own), tuple(along)),
        (tuple(primals), tuple(tangents)),
        {},
        derived=itemgetter(1),
    )


def _apart(g: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose writes to arguments are not the caller's: it is given followed values."""

    def values(*own: Any) -> Any:
        trace = Trace()
        try:
            result = g(*tree_map(lambda x: trace.input(x) if is_array(x) and x.dtype.kind in "fc" else x, own))
        finally:
            trace.close()
        return tree_map(lambda y: y.value if isinstance(y, Traced) and y.home is trace else y, result)

    return values


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """``(y, pullback)``; ``pullback(y_bar)`` is a tuple of one cotangent for each primal.

    A pullback runs `f` again, with the same random draws, so that what it returns carries torch's autograd too.

    >>> import minijac.torch, torch
    >>> y, pullback = minijac.torch.vjp(torch.sin, torch.zeros(2))
    >>> pullback(torch.ones(2))
    (tensor([1., 1.]),)
    """
    g, state = lowered(f), torch.get_rng_state()
    y = outermost(_apart(g), primals, {})

    def pullback(y_bar: Any) -> tuple[Any, ...]:
        with drawing_from(state):
            return outermost(
                lambda own, bar: products.vjp(g, *own)[1](bar), (primals, y_bar), {}, lasting=False, derived=tuple
            )

    return y, pullback


def linearize(f: Callable[..., Any], *primals: Any, **options: Any) -> tuple[Any, Any]:
    """``(y, J)`` with `J` the structured per-sample Jacobian; its products are tensors, not tied to torch's autograd.

    >>> import minijac.torch, torch
    >>> y, J = minijac.torch.linearize(torch.sin, torch.zeros(2, 3))
    >>> J @ torch.ones(2, 3)
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    g = lowered(f)
    with _in_words_of_torch(f), torch.no_grad():
        return outermost(lambda *own: first.linearize(g, *own, **options), primals, {})


def explain(f: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`minijac.explain` for a module or a function of tensors: the plan, and which operations torch took apart, since
    `minijac.torch` has no counterpart of their own for them.

    >>> import minijac.torch, torch
    >>> explanation = minijac.torch.explain(torch.nn.Linear(3, 2), torch.zeros(4, 3))
    """
    run = Run()
    found = _looked_at(run, plan.explain, f, args, options)
    found.remarks += [f"decomposed by torch: {name}, {n} times" for name, n in sorted(run.decomposed.items())]
    return found


def trace(f: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`minijac.trace` for a module or a function of tensors.

    >>> import minijac.torch, torch
    >>> tape = minijac.torch.trace(torch.sin, torch.zeros(2, 3))
    """
    return _looked_at(Run(), tape.trace, f, args, options)


def _looked_at(run: Run, view: Callable[..., Any], f: Any, args: Any, options: Any) -> Any:
    with torch.no_grad(), entered(run):
        return view(lowered(f), *tree_map(value_in(run), args), **options)


def stop_gradient(x: Any) -> Any:
    """`x` (a pytree of tensors), treated as constant; ``x.detach()`` for each."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, x)
