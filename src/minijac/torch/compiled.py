"""compile for functions of tensors: recorded once, replayed after, with torch's autograd through the results."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optree
import torch

from ..backend import array_of as plain_array
from ..errors import InputError
from ..foreign import a_function
from ..program.compiled import CacheInfo
from ..program.compiled import Compiled as CompiledArrays
from ..program.held import ELSEWHERE, GONE
from ..transforms.products import value_and_grad, vjp
from .captured import buffers_kept, modules_of, settings_of, stands, state_of, watched
from .jacobians import leaves_of
from .run import Run, current, entered, halves, joined
from .sharing import refuse_shared
from .tensors import array_of, refuse_around, tensor_of
from .transforms import _in_words_of_torch, _named

__all__ = ["Compiled", "compile"]

Tensor = torch.Tensor
PROGRAMS = 64
"""Programs that each function of arrays keeps: a signature of tensors needs one, or a few."""


# -- a function of arrays, called with tensors -------------------------------------------------------------------------
class Program:
    """A compiled function of arrays; called with tensors it gives tensors, tied to those that require grad."""

    def __init__(
        self, function: Callable[..., Any], stands: Callable[[], bool] = lambda: True, scalar: bool = False
    ) -> None:
        self.function, self.stands, self.scalar = function, stands, scalar
        self.replay: CompiledArrays = CompiledArrays(function, PROGRAMS, often=True)
        self.derived: dict[Any, Any] = {}
        """What was compiled for derivatives: by the inputs that have one, and the outputs that have a cotangent."""

    def __call__(self, tensors: Sequence[Any], arrays: Sequence[Any] = ()) -> list[Any]:
        """The results for `tensors`, of which the last ones are `arrays`, if the caller has those already."""
        first = tensors[: len(tensors) - len(arrays)]
        arrays = [*[array_of(t) if isinstance(t, Tensor) else t for t in first], *arrays]
        wanted = tuple([k for k, t in enumerate(tensors) if isinstance(t, Tensor) and t.requires_grad])
        if not wanted or not torch.is_grad_enabled():
            return [_tensor(y) for y in self.replay(*arrays)]
        slopes = None
        if self.scalar:  # its gradient is computed with it
            results, slopes = self._with_gradient(wanted)(*arrays)
        else:
            results = self.replay(*arrays)
        results = [_tensor(y) for y in results]
        at = [n for n, y in enumerate(results) if isinstance(y, Tensor) and (y.is_floating_point() or y.is_complex())]
        call = Call(self, wanted, at, slopes)
        tied = _tied(call, tensors, [results[n] for n in at], *[tensors[k] for k in wanted])
        for n, y in zip(at, tied, strict=True):
            results[n] = y
        return results

    def _with_gradient(self, wanted: tuple[int, ...]) -> CompiledArrays:
        if wanted not in self.derived:

            def scalar(*arrays: Any) -> Any:
                (y,) = self.function(*arrays)
                return y

            def with_gradient(*arrays: Any) -> Any:
                y, gradients = value_and_grad(scalar, wanted)(*arrays)
                return (y,), gradients

            self.derived[wanted] = CompiledArrays(with_gradient, PROGRAMS, often=True)
        return self.derived[wanted]

    def pulled(self, wanted: tuple[int, ...], given: tuple[int, ...], count: int) -> Program:
        """The pullback, a program of the inputs and of a cotangent for each of the outputs `given`.

        It is recorded by the function itself, in which everything has to stand as it did in the call.
        """
        if not self.stands():
            raise InputError(
                "minijac.torch.compile: expected modules, their modes and hooks, and captured tensors as they were in "
                "the call that backward goes through, got others. Call backward before they change, or compile a "
                "function that takes them as arguments."
            )
        key = wanted, given
        if key not in self.derived:

            def pullback(*arrays: Any) -> Any:
                inputs, cotangents = list(arrays[:count]), arrays[count:]

                def outputs(*own: Any) -> Any:
                    for k, x in zip(wanted, own, strict=True):
                        inputs[k] = x
                    results = self.function(*inputs)
                    return tuple([results[n] for n in given])

                return vjp(outputs, *[arrays[k] for k in wanted])[1](tuple(cotangents))

            self.derived[key] = Program(pullback, self.stands)
        return self.derived[key]


def _tensor(y: Any) -> Any:
    return tensor_of(y) if hasattr(y, "dtype") else y


class Call(NamedTuple):
    """One call of a program: which inputs have a derivative, which outputs, and the gradient if it is known."""

    program: Program
    wanted: tuple[int, ...]
    outputs: list[int]
    slopes: Sequence[Any] | None


class _Replay(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, call: Call, inputs: Sequence[Any], results: list[Any], *own: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*[t if isinstance(t, Tensor) else None for t in inputs])
        ctx.call, ctx.numbers = call, [None if isinstance(t, Tensor) else t for t in inputs]
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        call, saved = ctx.call, ctx.saved_tensors  # raises where one was written since
        given = [n for n, c in enumerate(cotangents) if c is not None]
        if not given:
            return None, None, None, *[None] * len(call.wanted)
        if call.slopes is not None and not torch.is_grad_enabled():
            return None, None, None, *torch._foreach_mul(list(map(tensor_of, call.slopes)), cotangents[0])
        inputs = [number if t is None else t for t, number in zip(saved, ctx.numbers, strict=True)]
        program = call.program.pulled(call.wanted, tuple([call.outputs[n] for n in given]), len(inputs))
        return None, None, None, *program([*inputs, *[cotangents[n].contiguous() for n in given]])


_tied = super(torch.autograd.Function, _Replay).apply
"""Without torch's look for transforms of torch.func, which are refused before."""


# -- compile -----------------------------------------------------------------------------------------------------------
class Entry:
    """A program for one signature, and the tensors that the function captures, which are inputs of it."""

    def __init__(self, fn: Callable[..., Any], leaves: list[Any], tree: Any) -> None:
        self.at = [k for k, leaf in enumerate(leaves) if _is_input(leaf)]
        self.fn = fn
        settings = settings_of(modules_of(fn))
        self.captured, self.constants, scalar = _captured(fn, leaves, tree)
        self.settings = [place for place in settings if stands(place)]  # but for what the function itself counts
        self.arrays: Sequence[Any] = ()
        """Those of the captured tensors, while they are these."""
        self.kept: list[Any] = []
        self.looked = 0
        self.as_before: Callable[[], bool] = bool
        self.tree: Any = None
        self.written: list[int] = []
        """Which of the inputs the function writes, whose memory no others may share then."""
        fixed = [None if _is_input(leaf) else leaf for leaf in leaves]

        def on_arrays(*arrays: Any) -> Any:
            run = Run()
            run.made = {}
            values = list(fixed)
            for k, array in zip(self.at, arrays, strict=False):
                values[k] = array
            run.lie(arrays)
            lifted = zip(self.captured, arrays[len(self.at) :], strict=True)
            run.lifted = {id(t): (t, joined(array) if _apart(t) else array) for t, array in lifted}
            with entered(run), buffers_kept(fn):
                args, kwargs = optree.tree_unflatten(
                    tree, [run.tensor(v) if hasattr(v, "dtype") else v for v in values]
                )
                results, self.tree = optree.tree_flatten(fn(*args, **kwargs), namespace="minijac")
                self.written = [k for k, x in enumerate(map(plain_array, arrays)) if run.memory.writes(x)]
                return [run.value(y) if isinstance(y, Tensor) else y for y in results]

        self.program = Program(on_arrays, self.stands, scalar)
        self.state = tuple(state_of(fn))

    def stands(self) -> bool:
        """Whether the function would be recorded as it was."""
        return self.fresh() or (self.holds() and tuple(state_of(self.fn)) == self.state)

    def holds(self) -> bool:
        """Whether the tensors that were taken for constants hold what they held, and attributes are what they were."""
        for t, version, place in self.constants:
            if t._version != version or t.data_ptr() != place:
                return False
        return all(map(stands, self.settings))

    def look(self, fn: Callable[..., Any]) -> None:
        """Keep the arrays of the captured tensors, and how all stands, so that `fresh` tells it in little time.

        What changes in every call, of which nothing need be recorded anew, is looked at again ever less often.
        """
        self.looked += 1
        if self.looked & (self.looked - 1) or any(t.device.type != "cpu" or _apart(t) for t in self.captured):
            self.as_before = bool
            return
        self.kept = [
            (t, t.detach(), t.data_ptr(), t.requires_grad) for t in (*self.captured, *[t for t, *_ in self.constants])
        ]
        self.arrays, self.as_before = list(map(array_of, self.captured)), watched(fn)

    def fresh(self) -> bool:
        """Whether all stands as when it was looked at: what `holds` asks, and that the kept arrays are the tensors."""
        try:
            if not self.as_before():
                return False
        except (ValueError, *GONE):  # it is not there any more
            return False
        for t, alias, place, grad in self.kept:
            if t.requires_grad is not grad or t.data_ptr() != place or not t.is_set_to(alias):
                return False
        return self.holds()

    def __call__(self, leaves: Sequence[Any], arrays: Sequence[Any] = ()) -> Any:
        captured = self.captured if arrays else [halves(t) if _apart(t) else t for t in self.captured]
        inputs = [*[leaves[k] for k in self.at], *captured]
        results = self.program(inputs, arrays)
        if self.written:
            refuse_shared([*inputs, *[t for t, *_ in self.constants]], self.written)
        return results[0] if self.tree == LEAF else optree.tree_unflatten(self.tree, results)


LEAF = optree.tree_structure(0, namespace="minijac")
ELSEWHERE.append((Entry, vars))  # what it knows is no part of the function that it recorded


def _apart(tensor: Any) -> bool:
    """Whether the program has its real and imaginary parts for an input, by which it differentiates."""
    return bool(tensor.is_complex() and tensor.requires_grad)


def _is_input(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) or (isinstance(leaf, int | float) and not isinstance(leaf, bool))


def _captured(fn: Callable[..., Any], leaves: list[Any], tree: Any) -> tuple[list[Any], list[Any], bool]:
    """The tensors that the function meets and that are no arguments, found by running it once: inputs, and constants.
    And whether it returns one number alone.

    What is a parameter, a buffer of floats, or requires grad is an input. All else, of which the function may make
    decisions, is a constant as long as it is not written.
    """
    run = Run(lifts=torch.is_grad_enabled())
    run.made = {}
    refuse_around()
    # others of the same memory, so that an argument that is captured as well is met
    leaves = [t.detach().requires_grad_(t.requires_grad) if isinstance(t, Tensor) else t for t in leaves]
    with entered(run):
        args, kwargs = optree.tree_unflatten(tree, leaves)
        for name, arg in (*enumerate(args), *kwargs.items()):
            own = [t for t in leaves_of(arg) if isinstance(t, Tensor) and t.layout is torch.strided]
            run.arguments |= {t.untyped_storage()._cdata: f"argument {name}" for t in own}
        results = leaves_of(fn(*args, **kwargs))
        scalar = len(results) == 1 and isinstance(results[0], Tensor) and not results[0].ndim
    if run.outer is not None:
        run.outer.close()
    modules = [x for x in modules_of(fn) if isinstance(x, torch.nn.Module)]
    buffers = {id(t) for module in modules for t in module.buffers(recurse=False) if t.is_floating_point()}
    inputs = {key: tensor for key, (tensor, _) in run.lifted.items()}
    constants: dict[int, Any] = {}
    for key, tensor in run.met.items():
        lasting = isinstance(tensor, torch.nn.Parameter) or tensor.requires_grad or key in buffers
        (inputs if lasting else constants)[key] = tensor
    for leaf in leaves:
        inputs.pop(id(leaf), None)
        constants.pop(id(leaf), None)
    return list(inputs.values()), [(t, t._version, t.data_ptr()) for t in constants.values()], scalar


class Compiled:
    """A function of tensors that is recorded on its first call for each signature, and replayed after."""

    def __init__(self, fn: Callable[..., Any], maxsize: int) -> None:
        self._fn, self._maxsize = fn, maxsize
        self._entries: OrderedDict[Any, Entry] = OrderedDict()
        self._latest: dict[Any, Entry] = {}
        """Of each signature of arguments alone the entry that was called last."""
        self._lock = threading.RLock()
        self._hits = self._misses = 0
        _named(self, fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if current() is not None:  # within a function that is followed already
            return self._fn(*args, **kwargs)
        if torch._C._len_torch_dispatch_stack():
            refuse_around()
        leaves, tree = _flat(args, kwargs)
        around = torch.is_grad_enabled(), torch.get_default_dtype(), torch._C._is_any_autocast_enabled()
        signature = tree, *around, *map(_signature, leaves)
        latest = self._latest.get(signature)
        if latest is not None and latest.fresh():
            self._hits += 1
            return latest(leaves, latest.arrays)
        return self._looked_at(signature, args, kwargs)

    def _looked_at(self, signature: Any, args: Any, kwargs: Any) -> Any:
        """The result where something is not as it was in the last call: by another entry, or a new one."""
        leaves, tree = optree.tree_flatten((args, kwargs), namespace="minijac")
        key = *signature, *state_of(self._fn)
        entry = self._entries.get(key)
        if entry is not None and entry.holds():
            self._hits += 1
            result = entry(leaves)
        else:
            with _in_words_of_torch(self._fn):
                entry = Entry(self._fn, leaves, tree)
                result = entry(leaves)
            with self._lock:
                self._misses += 1
                self._entries[key] = entry
                if len(self._entries) > self._maxsize:
                    self._entries.popitem(last=False)
                    self._latest.clear()
        entry.look(self._fn)
        self._latest[signature] = entry
        return result

    def __reduce__(self) -> Any:
        return Compiled, (self._fn, self._maxsize)  # a copy records anew, for its own modules

    def cache_info(self) -> CacheInfo:
        """Hits, misses, and the number of programs held."""
        return CacheInfo(self._hits, self._misses, len(self._entries), self._maxsize)

    def cache_clear(self) -> None:
        """Forget all programs and their buffers."""
        with self._lock:
            self._entries.clear()
            self._latest.clear()
            self._hits = self._misses = 0


def _flat(args: Any, kwargs: Any) -> tuple[Sequence[Any], Any]:
    """The leaves of the arguments and their tree; of tensors alone their number tells it."""
    if not kwargs and all(isinstance(x, Tensor) for x in args):
        return args, len(args)
    return optree.tree_flatten((args, kwargs), namespace="minijac")


def _signature(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad, leaf.is_contiguous()
    return type(leaf) if _is_input(leaf) else (type(leaf), leaf)


def compile(fn: Callable[..., Any] | None = None, *, maxsize: int = 64) -> Any:
    """`fn`, a function of tensors, recorded on the first call for each signature and replayed after.

    Args:
        fn: Takes and returns any pytree of tensors; it may use any transformation of `minijac.torch`.
        maxsize: Programs kept, the oldest dropped first.

    A signature is the tree of the arguments, shapes, dtypes and devices, which of them require grad, the values of
    bools and strings, and of the modules that `fn` uses their modes and which parameters and buffers they hold.
    Parameters, buffers of floats and captured tensors that require grad are inputs: a step of an optimiser is seen.
    Other captured tensors are constants, and `fn` is recorded anew when one was written. Results carry torch's
    autograd; for a scalar result value and gradient are one program.

    Raises TraceError where `fn` decides by values (``if``, ``.item()``), draws random numbers (dropout in train mode),
    or writes to a tensor that lives on (running statistics of batch norm in train mode).
    Raises InputError in a backward pass through a call in which modules, modes or hooks stood otherwise than now.

    >>> import minijac.torch, torch
    >>> net = torch.nn.Linear(3, 2)
    >>> loss = minijac.torch.compile(lambda x: minijac.torch.jacobian(net)(x).pow(2).mean())
    >>> loss(torch.ones(4, 3)).backward()
    >>> net.weight.grad.shape
    torch.Size([2, 3])
    """
    if fn is None:
        return lambda fn: compile(fn, maxsize=maxsize)
    a_function(fn, "torch.compile")
    return Compiled(fn, maxsize)
