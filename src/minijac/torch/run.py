"""One run of a function of tensors: torch's operations, as they come by below autograd, become minijac's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..backend import Wrapped, is_array, value_of
from ..backend import array_of as plain_array
from ..errors import InputError, MinijacError, MutationError, TraceError, UnsupportedOperationError
from ..lines import WHOLE, caller, user_line
from ..tape.trace import Trace
from .aten.registry import BESIDE, EXACT, FACTORIES, NUMBERS, RESOLVED, TABLE, VIEWS, of_one_dtype, of_reals
from .sharing import Memory
from .tensors import TracedTensor, array_of, kept_array_of, laid_out, refuse_around, tensor_of, torch_dtype, traced_of
from .views import Known, Place, order, refuse_unordered

__all__ = ["Restart", "Run", "above", "current", "decomposed", "drawing_from", "entered"]

Tensor = torch.Tensor
_SEQUENCES = (list, tuple)
_grad, _autocast = torch.is_grad_enabled, torch._C._is_any_autocast_enabled


class _Active(threading.local):
    run: Run | None = None


_active = _Active()


class Restart(BaseException):
    """The function asks torch's autograd for derivatives: it is run once more, and autograd sees every operation."""


def current() -> Run | None:
    """The run that the calling thread is in."""
    return _active.run


def above() -> Run | None:
    """The run that the calling thread is in, where torch need not see what operations are made of."""
    run = _active.run
    return None if run is None or run.autograd or not _grad() or _autocast() else run


class Run(TorchDispatchMode):  # type: ignore[misc]
    """What a run knows: the arrays of the tensors it met, those that were lifted, those that were written."""

    def __init__(self, lifts: bool = False) -> None:
        super().__init__()
        self.outer = Trace() if lifts else None
        """Follows tensors that require grad, so that torch's autograd can go on from the result."""
        self.lifted: dict[int, tuple[Any, Any]] = {}
        self.inputs: list[tuple[Any, int]] = []
        """What of them the outer trace has for inputs: of complex ones their halves."""
        self.arrays: dict[int, tuple[Any, Any]] = {}
        self.shadows: dict[int, TracedTensor] = {}
        """What was written into plain tensors, by their storage."""
        self.bases: list[tuple[Any, TracedTensor]] = []
        self.before: dict[int, tuple[Any, Any]] = {}
        """Plain tensors that torch wrote in this run, and what they held: they get it back if the run fails."""
        self.made: dict[int, Any] | None = None
        """While a program is recorded: the storages that were made in this run."""
        self.met: dict[int, Any] = {}
        """Then too: the tensors that were not, and are not lifted."""
        self.lasting: set[int] = set()
        """Their storages, of which there are views since."""
        self.arguments: dict[int, str] = {}
        """And what the storages of the function's arguments are."""
        self.autograd = False
        """Whether torch's autograd sees all operations, because the function asks it for derivatives."""
        self.insists = False
        """Whether results stay followed without grad, as in the forward and backward of a torch.autograd.Function."""
        self.failed: MinijacError | None = None
        """The error of an operation: those that are a TypeError torch's operators take for one of their own."""
        self.memory = Memory()
        self.known: Known = {}
        self.device = torch.device("cpu")
        self.decomposed: dict[str, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps each operation in a call of its compiler, which it imports for that

    @property
    def recording(self) -> bool:
        return self.made is not None

    def lie(self, inputs: Sequence[Any]) -> None:
        """Inputs of a program lie as they do in the first call."""
        for x in inputs:
            if isinstance(x, Wrapped) and order(plain_array(x), {}):
                self.known[x.home.serial, x.index] = 1  # type: ignore[attr-defined]

    # -- values --------------------------------------------------------------------------------------------------------
    def lift(self, tensor: Any) -> Any:
        """The tensor as a value of the outer trace."""
        found = self.lifted.get(id(tensor))
        if found is None:
            assert self.outer is not None
            real = halves(tensor)
            value = self.outer.input(kept_array_of(real))
            self.inputs.append((real, value.index))
            found = tensor, value if real is tensor else joined(value)
            self.lifted[id(tensor)] = found
        return found[1]

    def value(self, tensor: Any) -> Any:
        """What a tensor stands for: a followed value, or its array."""
        if type(tensor) is TracedTensor:
            if tensor.run is not self:
                raise TraceError(
                    f"{user_line()}: got a tensor of a transformation of minijac.torch that has returned. Return it "
                    "from the function (or as aux with has_aux=True) instead of storing it."
                )
            return tensor.held if tensor.root is None else tensor.read()
        shadow = self.shadow(tensor) if self.shadows else None
        if shadow is not None:
            return shadow.read()
        if id(tensor) in self.lifted or (self.outer is not None and tensor.requires_grad and torch.is_grad_enabled()):
            return self.lift(tensor)
        found = self.arrays.get(id(tensor))
        if self.memory.lost:
            self.memory.refuse_lost(tensor)
        if self.made is not None:
            self._meet(tensor)
        if found is None:
            found = tensor, kept_array_of(tensor)
            self.arrays[id(tensor)] = found
        return found[1]

    def _meet(self, tensor: Any) -> None:
        assert self.made is not None
        if tensor.layout is torch.strided and (storage := tensor.untyped_storage()._cdata) not in self.made:
            self.met[id(tensor)] = tensor
            self.lasting.add(storage)

    def shadow(self, tensor: Any) -> TracedTensor | None:
        """For a plain tensor that a followed value was written into, what stands for it."""
        if tensor.layout is not torch.strided:
            return None
        root = self.shadows.get(tensor.untyped_storage()._cdata)
        if root is None:
            return None
        return root.viewed(None, place_of(tensor))

    def adopt(self, tensor: Any) -> TracedTensor:
        """What stands for a plain tensor from now on, because a followed value is written into it."""
        shadow = self.shadow(tensor)
        if shadow is not None:
            return shadow
        storage = tensor.untyped_storage()
        self._refuse_lasting(tensor)
        if tensor.requires_grad and self.outer is not None:
            raise MutationError(
                f"a write at {user_line()}: got a tensor of shape {tuple(tensor.shape)} that was made outside and "
                "has a derivative of its own (a parameter). Write to a .clone() of it."
            )
        base = tensor._base if tensor._is_view() else tensor
        count = storage.nbytes() // tensor.element_size()
        if not base.is_contiguous() or base.storage_offset() or base.numel() != count:
            base = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (count,))
        array = array_of(base)
        self.memory.written_by_torch(tensor)
        root = traced_of(array if self.recording else array.copy(), self)
        self.shadows[storage._cdata] = root
        self.bases.append((base, root))
        return self.shadow(tensor)  # type: ignore[return-value]

    def _refuse_lasting(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()._cdata
        if self.made is not None and (storage not in self.made or storage in self.lasting):
            raise _outlives(tensor, self.arguments.get(storage))

    def commit(self) -> None:
        """Write into plain tensors what the function wrote into them. Done once, when all went well."""
        if self.recording:
            return
        with torch.no_grad():
            for base, root in self.bases:
                base.copy_(tensor_of(value_of(root.held)))

    def undo(self) -> None:
        """Give back what plain tensors held before the run."""
        with torch.no_grad():
            for tensor, held in self.before.values():
                if tensor.shape == held.shape:  # else one that `out` let torch resize
                    tensor.copy_(held)
        self.before.clear()

    def tensor(self, value: Any) -> Any:
        """A tensor for a value: one that is followed for a followed value, a plain one for an array."""
        if isinstance(value, Wrapped):
            return traced_of(value, self)
        if is_array(value):
            with torch._C._DisableTorchDispatch():
                plain = tensor_of(value)
            if self.made is not None:
                self.made[plain.untyped_storage()._cdata] = plain
            return plain
        if isinstance(value, tuple | list):
            return tuple([self.tensor(part) for part in value])
        return value

    def result(self, value: Any) -> Any:
        """Tensors for what an operation gave. Those of floats torch's autograd may take for differentiable."""
        if isinstance(value, Wrapped) and _grad():
            return traced_of(value, self)
        if self.insists or not _grad():
            return self.tensor(value if self.insists else _stopped(value))
        if isinstance(value, tuple | list):
            return tuple(map(self.result, value))
        return traced_of(value, self) if is_array(value) and value.dtype.kind in "fc" else self.tensor(value)

    def carried(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """An operation of torch's, of this name, by a function of values."""
        values = self.values(args)
        if kwargs:
            kwargs = {key: self.value(arg) if isinstance(arg, Tensor) else arg for key, arg in kwargs.items()}
        WHOLE.line = caller(4, name)  # found from here, where it is less far: beyond the two that called
        try:
            result = function(*values, **kwargs)
        finally:
            WHOLE.line = None
        return result if result is NotImplemented else self.result(result)

    def values(self, args: Any) -> list[Any]:
        values = []
        for arg in args:
            kind = type(arg)
            if kind is TracedTensor and arg.root is None and arg.run is self:
                arg = arg.held
            elif kind is Tensor or (kind not in NUMBERS and isinstance(arg, Tensor)):
                arg = self.value(arg)
            elif kind in _SEQUENCES:
                arg = self.values(arg)
            values.append(arg)
        return values

    def follows(self, types: Any, args: Any, kwargs: Any) -> bool:
        """Whether an operand stands for a followed value, or is lifted to one."""
        if TracedTensor in types:
            return True
        lifts = self.outer is not None and torch.is_grad_enabled()
        if not lifts and not self.lifted and not self.shadows:
            return False
        for arg in (*args, *kwargs.values()):
            for tensor in arg if type(arg) in (list, tuple) else (arg,):
                if isinstance(tensor, Tensor) and (
                    (lifts and tensor.requires_grad)
                    or id(tensor) in self.lifted
                    or (self.shadows and self.shadow(tensor) is not None)
                ):
                    return True
        return False

    # -- operations ----------------------------------------------------------------------------------------------------
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.follows(types, args, kwargs) or (func is _DETACH and type(args[0]) is not TracedTensor):
            return self.plain(func, args, kwargs)
        try:
            return _handler(func)(self, func, args, kwargs)
        except MinijacError as error:
            self.failed = error
            raise

    def plain(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation on plain tensors alone, by torch."""
        for tensor in tensors_in((args, tuple(kwargs.values()))) if self.memory.lost else ():
            self.memory.refuse_lost(tensor)
        written = written_by(func._schema, args, kwargs) if func._schema.is_mutable else ()
        for tensor in written:
            self.memory.written_by_torch(tensor)
        if self.made is None:
            for tensor in written:
                self.before.setdefault(tensor.untyped_storage()._cdata, (tensor, tensor.detach().clone()))
            return func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise TraceError(
                f"{func} at {user_line()}: got a random draw in a function under minijac.torch.compile, which a replay "
                "would repeat. Pass what is drawn as an argument, or call .eval() on the module (dropout)."
            )
        if func is _FRESH:
            self.made[args[0].untyped_storage()._cdata] = args[0]
        for tensor in tensors_in((args, tuple(kwargs.values()))):
            self._meet(tensor)
        for tensor in written:
            self._refuse_lasting(tensor)
        result = func(*args, **kwargs)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                self.made[tensor.untyped_storage()._cdata] = tensor
        return result


def halves(tensor: Any) -> Any:
    """A complex tensor as one of real and imaginary parts, through which torch's autograd goes on."""
    with torch._C._DisableTorchDispatch():
        return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def joined(value: Any) -> Any:
    """Of real and imaginary parts, along the last axis, the complex value."""
    return value[..., 0] + 1j * value[..., 1]


def place_of(tensor: Any) -> Place:
    return Place(tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


def tensors_in(tree: Any) -> Iterator[Any]:
    """The tensors in nested tuples and lists."""
    for x in tree:
        if isinstance(x, Tensor):
            yield x
        elif type(x) in (list, tuple):
            yield from tensors_in(x)


def _outlives(tensor: Any, argument: str | None) -> TraceError:
    """The error of a write that a replay would not make."""
    what, remedy = argument, "Write to a .clone() of it"
    if what is None:
        what, remedy = "a buffer, such as running statistics", "Put the module in eval mode"
    return TraceError(
        f"a write at {user_line()}: got a tensor of shape {tuple(tensor.shape)} that lives longer than the call of a "
        f"function under minijac.torch.compile ({what}), which a replay would not write. {remedy}, or leave the "
        "function uncompiled."
    )


def written_by(schema: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that a call of an operation writes: its first operand, those of a list, or what `out` says."""
    given = {arg.name: x for arg, x in zip(schema.arguments, args, strict=False)} | kwargs
    targets = [arg.name for arg in schema.arguments if arg.alias_info is not None and arg.alias_info.is_write]
    return list(tensors_in([given.get(name) for name in targets]))


def _stopped(value: Any) -> Any:
    return tuple(map(_stopped, value)) if isinstance(value, tuple | list) else value_of(value)


_DETACH = torch.ops.aten.detach.default
_FRESH = torch.ops.aten.lift_fresh.default
"""By which what `torch.tensor` has made comes by first."""


# -- how an operation is carried out, found once for each --------------------------------------------------------------
Handler = Callable[[Run, Any, Any, Any], Any]


def _handler(func: Any) -> Handler:
    handler = RESOLVED.get(func)
    if handler is None:
        handler = RESOLVED[func] = _resolved(func)
    return handler


def handler_of(func: Any, args: Any) -> Handler | None:
    """How an operation is carried out that needs nothing of torch for it: one of the table, a view of a followed
    tensor, a write to one; else None."""
    handler = _handler(func)
    kind, own = getattr(handler, "func", None), type(args[0]) is TracedTensor
    if kind is _functional or (own and (kind is _view or (kind is _write and not handler.args[1]))):  # type: ignore[attr-defined]
        return handler
    return None


def _resolved(func: Any) -> Handler:
    packet, schema = func.overloadpacket, func._schema
    if func in EXACT:
        return EXACT[func]
    if packet in EXACT:
        return EXACT[packet]
    if packet in FACTORIES:
        return _made
    if packet in DRAWS:
        return _drawn
    composed = func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    function = TABLE.get(func) or (None if composed else TABLE.get(packet))  # those come by in inference mode alone
    function = function and of_one_dtype(packet, of_reals(packet, function))
    if packet in VIEWS and function is not None:
        return partial(_view, function)
    if torch.Tag.inplace_view in func.tags:
        return partial(_relaid, getattr(torch.ops.aten, packet.__name__[:-1], None))
    if schema.is_mutable:
        return _written(func)
    if function is not None:
        return partial(_functional, function, packet.__name__)
    return decomposed(func)


def _functional(function: Callable[..., Any], name: str, run: Run, func: Any, args: Any, kwargs: Any) -> Any:
    return run.carried(name, function, args, kwargs)


def _view(function: Callable[..., Any], run: Run, func: Any, args: Any, kwargs: Any) -> Any:
    base = args[0]
    if type(base) is not TracedTensor:
        if run.shadows and run.shadow(base) is not None:
            return func(*args, **kwargs)  # lies in the same storage
        if func.overloadpacket is _aten.as_strided:
            refuse_unordered("as_strided", base.is_contiguous() and not base.storage_offset())
        return run.carried(func.overloadpacket.__name__, function, args, kwargs)
    rest = tuple([tuple(arg) if isinstance(arg, list) else arg for arg in args[1:]])
    place = _place_of_view(func, base.held.dtype, base.place, rest, tuple(kwargs.items()))
    stopped = not (run.insists or torch.is_grad_enabled())
    if func.overloadpacket is _aten.as_strided and isinstance(place, Place):  # a part of the root, if not of the base
        return base.viewed(None, place, stopped)
    value = function(run.value(base), *args[1:], **kwargs)
    value = _stopped(value) if stopped else value
    if func.overloadpacket in BESIDE:
        return base.beside(value, stopped)
    if isinstance(place, list):
        return [base.viewed(v, p, stopped) for v, p in zip(value, place, strict=True)]
    return base.viewed(value, place, stopped)


@lru_cache(4096)
def _place_of_view(func: Any, dtype: Any, place: Place, args: Any, kwargs: Any) -> Place | list[Place]:
    """Where a view of a tensor lies, or several: torch finds out on one without data."""
    with torch._C._DisableTorchDispatch():
        meta = func(laid_out(dtype, place), *args, **dict(kwargs))
    return [place_of(m) for m in meta] if isinstance(meta, tuple | list) else place_of(meta)


def _relaid(packet: Any, run: Run, func: Any, args: Any, kwargs: Any) -> Any:
    """``x.t_()`` and its kin: the same tensor, laid out anew. It becomes a view of what it was."""
    x, function = args[0], TABLE.get(packet)
    if type(x) is not TracedTensor or function is None:
        return _missing(run, func, args, kwargs) if function is None else func(*args, **kwargs)
    value, meta = function(x.read(), *args[1:], **kwargs), packet(x.meta(), *args[1:], **kwargs)
    if x.root is None:
        x.root, x.version = traced_of(x.held, run), 0
        x.root.born = x.born
    x.held, x.place_, x.layout_ = value, place_of(meta), None
    with torch._C._DisableTorchDispatch():
        return func(*args, **kwargs)


def _made(run: Run, func: Any, args: Any, kwargs: Any) -> Any:
    """What is made in the likeness of a tensor, without its numbers."""
    return run.plain(func, [_empty(arg) if type(arg) is TracedTensor else arg for arg in args], kwargs)


def _empty(tensor: Any) -> Any:
    return torch.empty(tensor.place.shape, dtype=torch_dtype(tensor.held.dtype), device=tensor.run.device)


def _drawn(run: Run, func: Any, args: Any, kwargs: Any) -> Any:
    """A random draw, by torch, so that the same seed gives the same numbers; it has no derivative."""
    target, rest = args[0], [_numbers(run, arg) for arg in args[1:]]
    if not func._schema.is_mutable:
        return run.plain(func, [_numbers(run, target), *rest], kwargs)
    own = target if type(target) is TracedTensor else run.adopt(target)
    own.write(array_of(run.plain(func, [_empty(own), *rest], kwargs)))
    return target


def _numbers(run: Run, arg: Any) -> Any:
    if not isinstance(arg, Tensor):
        return arg
    value = value_of(run.value(arg))
    return torch.empty(plain_array(value).shape) if isinstance(value, Wrapped) else tensor_of(value)


_aten = torch.ops.aten
DRAWS = {
    _aten.bernoulli, _aten.bernoulli_, _aten.multinomial, _aten.poisson, _aten.normal, _aten.normal_, _aten.uniform,
    _aten.uniform_, _aten.exponential_, _aten.random_, _aten.geometric_, _aten.cauchy_, _aten.log_normal_,
    _aten.binomial,
}  # fmt: skip
"""Random draws, which have no derivative."""


def _written(func: Any) -> Handler:
    """An operation that writes: its functional form, and the result written where it belongs."""
    name, overload = func.overloadpacket.__name__, func._overloadname
    targets = [
        k for k, arg in enumerate(func._schema.arguments) if arg.alias_info is not None and arg.alias_info.is_write
    ]
    outs = [func._schema.arguments[k].name for k in targets if func._schema.arguments[k].kwarg_only]
    if name.endswith("_") and not name.endswith("__"):
        packet = getattr(torch.ops.aten, name[:-1], None)
    elif outs:
        packet = func.overloadpacket
    else:
        packet = None
    function = None
    if packet is not None:
        exact = getattr(packet, overload, None) if overload in packet.overloads() else None
        function = TABLE.get(exact) or TABLE.get(packet)
        function = function and of_reals(packet, function)
    if function is None:
        return _missing

    return partial(_write, function, outs)


def _write(function: Any, outs: list[str], run: Run, func: Any, args: Any, kwargs: Any) -> Any:
    wanted = [kwargs[key] for key in outs] if outs else [args[0]]
    rest = {key: value for key, value in kwargs.items() if key not in outs}
    values = run.values(args)
    result = function(*values, **{k: run.value(v) if isinstance(v, Tensor) else v for k, v in rest.items()})
    for target, value in zip(wanted, result if isinstance(result, tuple | list) else [result], strict=True):
        own = target if type(target) is TracedTensor else run.adopt(target)
        if outs and own.read().shape != value.shape:
            raise MutationError(
                f"out= at {user_line()}: expected a tensor of shape {value.shape} to write into, got "
                f"{own.read().shape}."
            )
        own.write(value)
    return wanted[0] if len(wanted) == 1 else tuple(wanted)


def decomposed(func: Any) -> Handler:
    """An operation that the table lacks, by torch's own decomposition into others."""
    decompose: Any = None
    if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        decompose = func.decompose
    else:
        from torch._decomp import decomposition_table

        decompose = decomposition_table.get(func)
    if decompose is None:
        return _missing

    def handle(run: Run, func: Any, args: Any, kwargs: Any) -> Any:
        run.decomposed[str(func)] = run.decomposed.get(str(func), 0) + 1
        with run:
            result = decompose(*args, **kwargs)
        return _missing(run, func, args, kwargs) if result is NotImplemented else result

    return handle


def _missing(run: Run, func: Any, args: Any, kwargs: Any) -> Any:
    raise UnsupportedOperationError(
        f"{func} at {user_line()}: minijac.torch has no counterpart of this operation. Write it with others, give one "
        "with minijac.torch.register, or apply it to x.detach() where its derivative is not wanted."
    )


# -- entering ----------------------------------------------------------------------------------------------------------
around: list[Callable[[], Any]] = []
"""What else holds while a run lasts: context managers."""


@contextmanager
def entered(run: Run) -> Iterator[Run]:
    """The calling thread is in this run."""
    refuse_around()
    if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
        raise InputError(
            "minijac.torch: got a call under autocast, which computes in half precision. Expected float32 or float64: "
            "leave the `with torch.autocast(...)` block for this call."
        )
    before = current()
    _active.run = run
    stance: Any = nullcontext()
    if "torch._dynamo" in sys.modules:
        stance = torch.compiler.set_stance("force_eager")
    try:
        with ExitStack() as stack:
            for context in (stance, torch.enable_grad(), *[each() for each in around], run):
                stack.enter_context(context)
            yield run
    except BaseException:
        run.undo()
        raise
    finally:
        _active.run = before


@contextmanager
def drawing_from(state: Any) -> Iterator[None]:
    """Random numbers are those that this state of the generator gives; afterwards it is what it was."""
    before = torch.get_rng_state()
    torch.set_rng_state(state)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def recorded(value: Any) -> bool:
    """Whether a value belongs to a program that is being recorded."""
    return plain_array(value) is not value_of(value)
