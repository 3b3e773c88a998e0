"""How a function of torch's is called on followed tensors: bound to its operation, without a way through torch.

torch reads the arguments, goes through its dispatcher and comes back into Python, which takes longer than an operation.
What the arguments become is the same for all calls with arguments of the same kinds, so it is found once for each.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from ..errors import MinijacError
from .aten.registry import CALLS, aten
from .run import above, handler_of
from .tensors import TracedTensor

__all__ = ["bound", "called", "met_directly"]

Tensor = torch.Tensor
_IN_C = ("builtin_function_or_method", "method_descriptor", "wrapper_descriptor")
_OPERATORS = {
    "__gt__": aten.gt, "__ge__": aten.ge, "__lt__": aten.lt, "__le__": aten.le, "__eq__": aten.eq, "__ne__": aten.ne,
    "__mod__": aten.remainder, "__iadd__": aten.add_, "__isub__": aten.sub_, "__imul__": aten.mul_,
    "__itruediv__": aten.div_,
}  # fmt: skip
_LISTS = (list, tuple, torch.Size)
_NUMBERS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float, int), "bool": (bool,), "number": (float, int, bool, complex), "str": (str,),
}  # fmt: skip
_COMPOSED = torch._C.DispatchKey.CompositeImplicitAutograd


def called(func: Any) -> Callable[..., Any]:
    """How a function that nothing else is known of is called: as its operation, if it is one, or by torch without a
    look for classes like ours.

    Those of torch's that are written in Python are copied without it; what they call has it. Not so methods, which call
    their own kind in C++, and would come back here.
    """
    if type(func).__name__ in _IN_C:
        if not _gives_tensors(_packet(func)):
            return _left
        met_directly(func, bound)
        return bound
    code = func.__code__ if isinstance(func, FunctionType) else None
    if code is None or func.__module__ not in ("torch.nn.functional", "torch.functional"):
        return _left
    if "handle_torch_function" not in code.co_names:
        return _left
    nothing = dict.fromkeys(("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), _no)
    copy = FunctionType(code, func.__globals__ | nothing, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return lambda func, args, kwargs: copy(*args, **kwargs)


def met_directly(original: Any, handle: Callable[..., Any]) -> None:
    """Have a method of tensors, if it is one, carried out without a way through torch, which would look at all of its
    arguments before it hands it on to `__torch_function__`."""
    name = getattr(original, "__name__", "__")
    if name.startswith("__") or getattr(Tensor, name, _left) is not original:
        return

    def method(*args: Any, **kwargs: Any) -> Any:
        result = handle(original, args, kwargs)
        if result is NotImplemented:
            with torch._C.DisableTorchFunctionSubclass():
                return original(*args, **kwargs)
        return result

    method.__wrapped__ = original  # type: ignore[attr-defined]
    setattr(TracedTensor, name, method)


def _left(func: Any, args: Any, kwargs: Any) -> Any:
    return NotImplemented


def _no(*_: Any) -> bool:
    return False


def _gives_tensors(packet: Any) -> bool:
    """Whether an operation gives tensors; others, as `x.dim`, torch answers by itself."""
    return packet is not None and any(
        "Tensor" in str(result.type) for schema in packet._schemas.values() for result in schema.returns
    )


# -- a call as that of an operation ------------------------------------------------------------------------------------
def bound(func: Any, args: Any, kwargs: Any) -> Any:
    """A call of a function written in C, as the operation that it is; NotImplemented where torch has to find out."""
    run = above()
    if run is None:
        return NotImplemented
    kinds = func, *[kind if (kind := type(arg)) not in _LISTS else _kinds(arg) for arg in args]
    if kwargs:
        kinds += tuple(
            [(name, kind if (kind := type(arg)) not in _LISTS else _kinds(arg)) for name, arg in kwargs.items()]
        )
    call = CALLS.get(kinds, ())
    if call == ():
        call = CALLS[kinds] = _call(func, args, kwargs)
    if call is None:
        return NotImplemented
    handler, overload, spread, single, named = call
    if spread:
        args = args[0], list(args[1:])
    elif named:
        args, kwargs = (*args, *[kwargs.get(name, default) for name, default in named]), dict(kwargs)
        for name, _ in named:
            kwargs.pop(name, None)
    if single:
        args = [[arg] if k in single else arg for k, arg in enumerate(args)]
    try:
        return handler(run, overload, args, kwargs)
    except MinijacError as error:
        run.failed = error
        raise


def _kinds(sequence: Any) -> Any:
    return type(sequence), *set(map(type, sequence))


def _packet(func: Any) -> Any:
    return _OPERATORS.get(func.__name__) or getattr(aten, func.__name__)


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    """The handler, the overload, whether all arguments but the first are a list's entries, which are a list's only
    one, and the names and defaults of those that were given by name and may be given by position; or None."""
    packet, method = _packet(func), hasattr(func, "__objclass__")
    for name in packet.overloads():
        try:
            overload = getattr(packet, name)
            composed = torch._C._dispatch_has_kernel_for_dispatch_key(overload.name(), _COMPOSED)
        except (AttributeError, RuntimeError):  # listed for TorchScript alone
            continue
        own = [arg for arg in overload._schema.arguments if not arg.kwarg_only]
        single, spread = _singles(overload._schema, method, args, kwargs), False
        if single is None and method and len(own) == 2 and len(args) > 1 and type(args[1]) is int:  # x.expand(2, 3)
            single, spread = _singles(overload._schema, method, (args[0], args[1:]), kwargs), True
        if single is not None:
            handler = None if composed else handler_of(overload, args)
            last = max([k for k, arg in enumerate(own) if arg.name in kwargs], default=-1)
            named = [(arg.name, arg.default_value) for arg in own[len(args) : last + 1]]
            return handler and (handler, overload, spread, single, named)
    return None


def _singles(schema: Any, method: bool, args: Any, kwargs: Any) -> frozenset[int] | None:
    """Which of the arguments stand for a list of one, if they are those of a schema."""
    own, rest = [arg for arg in schema.arguments if not arg.kwarg_only], schema.arguments[len(args) :]
    if len(schema.returns) != 1 or str(schema.returns[0].type) != "Tensor" or not 0 < len(args) <= len(own):
        return None
    named = {arg.name: arg for arg in rest}
    missing = any(not arg.has_default_value() and arg.name not in kwargs for arg in rest)
    if missing or not kwargs.keys() <= named.keys() or (method and own[0].name != "self"):
        return None
    single = frozenset(k for k, (arg, x) in enumerate(zip(own, args, strict=False)) if arg.N and type(x) is int)
    given = [(own[k], x) for k, x in enumerate(args) if k not in single] + [
        (named[key], x) for key, x in kwargs.items()
    ]
    return single if all(_fits(str(arg.type), arg.name, x) for arg, x in given) else None


def _fits(kind: str, name: str, x: Any) -> bool:
    if kind.startswith("Optional["):
        return x is None or _fits(kind[9:-1], name, x)
    if kind.startswith("List["):
        return isinstance(x, list | tuple) and all(_fits(kind[5:-1], name, part) for part in x)
    if kind == "Tensor":
        return isinstance(x, Tensor)
    if name == "dtype":
        return isinstance(x, torch.dtype)
    return type(x) in _NUMBERS.get(kind, ())


TracedTensor.called = called
