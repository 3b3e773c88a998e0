"""Tensors that stand for traced values, and the passage between tensors and arrays, which share their memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ..backend import Wrapped, value_of
from ..errors import ConversionError, InputError, MutationError, TraceError
from ..lines import user_line
from ..numpy.indexing import put
from .views import Layout, layout_of

if TYPE_CHECKING:
    from .run import Run

__all__ = ["DTYPES", "TracedTensor", "array_of", "tensor_of", "torch_dtype"]

DTYPES: dict[Any, Any] = {
    torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64), torch.bool: np.dtype(bool),
    torch.int8: np.dtype(np.int8), torch.int16: np.dtype(np.int16), torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64), torch.uint8: np.dtype(np.uint8),
}  # fmt: skip
_wrapper = torch.Tensor._make_wrapper_subclass
_TORCH = {array: tensor for tensor, array in DTYPES.items()}


def torch_dtype(dtype: Any) -> Any:
    """torch's name of a NumPy dtype."""
    return _TORCH[dtype]


def array_of(tensor: Any) -> Any:
    """The tensor as an array in the same memory, or InputError."""
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
        what = tensor.dtype if tensor.layout is torch.strided else tensor.layout
        raise InputError(
            f"a tensor of shape {tuple(tensor.shape)}: expected a dense one of float32, float64, integers or bools, "
            f"got {what}. Cast it, and the module, with .float() or .double(); switch autocast off."
        )
    tensor = tensor.detach().resolve_neg()
    if tensor.device.type == "cpu":
        return tensor.numpy()
    import cupy

    return cupy.from_dlpack(tensor)


def tensor_of(array: Any) -> Any:
    """The array as a tensor in the same memory; copied where torch could not hold it so."""
    if not isinstance(array, np.ndarray | np.generic):
        return torch.from_dlpack(array)
    array = np.asarray(array)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


class TracedTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor without memory that holds a value of minijac's, traced or plain.

    One made by a view operation knows its root and where it lies in it: a write changes the root's value, and all views
    read it anew.
    """

    run: Run
    held: Any
    root: TracedTensor | None = None
    version: int = 0
    layout_: Layout | None = None
    meta_: Any = None
    stopped: bool = False
    functions: ClassVar[dict[Any, Callable[..., Any]]] = {}
    """What is met above torch's dispatcher; filled by minijac.torch.functions."""

    @staticmethod
    def __new__(cls, value: Any, run: Run, meta: Any = None) -> TracedTensor:
        if meta is None:
            self = _wrapper(cls, value.shape, dtype=_TORCH[value.dtype], device=run.device)
        else:
            self = _wrapper(cls, meta.shape, meta.stride(), meta.storage_offset(), dtype=meta.dtype, device=run.device)
            self.meta_ = meta
        self.run, self.held = run, value
        return self

    def viewed(self, value: Any, meta: Any, stopped: bool = False) -> TracedTensor:
        """A view of this tensor, by the value that it has now and a tensor without data that torch laid out."""
        result = TracedTensor(value, self.run, meta)
        root = self if self.root is None else self.root
        result.root, result.version, result.stopped = root, root.version, stopped or self.stopped
        return result

    def meta(self) -> Any:
        """A tensor without data of the same layout, on which torch works out what a view looks like."""
        if self.meta_ is None:
            self.meta_ = torch.empty(self.held.shape, dtype=_TORCH[self.held.dtype], device="meta")
        return self.meta_

    def layout_in_root(self) -> Layout:
        if self.layout_ is None:
            assert self.root is not None
            meta = self.meta_
            self.layout_ = layout_of(self.root.held.shape, tuple(meta.shape), meta.stride(), meta.storage_offset())
        return self.layout_

    def read(self) -> Any:
        """The value as it is now."""
        root = self.root
        if root is not None and self.version != root.version:
            value = self.layout_in_root().read(root.held)
            self.held, self.version = (value_of(value) if self.stopped else value), root.version
        return self.held

    def write(self, new: Any) -> None:
        """Let this tensor, its root and all their views hold what is written. Without grad the derivative stays."""
        old = self.read()
        new = np.broadcast_to(_as_dtype(new, old), old.shape)
        root = self if self.root is None else self.root
        if self.stopped or not (self.run.insists or torch.is_grad_enabled()):
            new = value_of(new)
            whole = new if root is self else self.layout_in_root().write(value_of(root.held), new, put)
            root.held = root.held + (whole - value_of(root.held)) if isinstance(root.held, Wrapped) else whole
            self.held = root.held if root is self else None
            root.version += 1
            return
        root.held = new if root is self else self.layout_in_root().write(root.held, new, put)
        root.version += 1
        if root is not self:
            self.held, self.version = new, root.version

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        function = cls.functions.get(func)
        if function is not None:
            result = function(func, args, kwargs)
            if result is not NotImplemented:
                return result
        if isinstance(func, FunctionType) and "handle_torch_function" in func.__code__.co_names and _free(func):
            return _unchecked(func)(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TraceError(
            f"{func} at {user_line()}: got a tensor that a transformation of minijac.torch followed and that was kept "
            "outside of it. Return it from the function (or as aux with has_aux=True) instead of storing it."
        )

    def __repr__(self, **_: Any) -> str:
        return f"TracedTensor({value_of(self.read())!r})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        value = value_of(self.read())
        return format(value.item() if spec and value.ndim == 0 else value, spec)

    def _refuse(self, what: str) -> Any:
        raise ConversionError(
            f"{what} at {user_line()}: got a tensor of shape {tuple(self.held.shape)} that a transformation of "
            "minijac.torch follows; an array of it would drop its derivative. Write it with torch's functions, return "
            f"it as aux, or ask for its numbers with x.detach().clone() and .item()."
        )

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("x.numpy()")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("np.asarray(x)")

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("DLPack")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._refuse("pickling x")

    def __deepcopy__(self, memo: Any) -> Any:
        return self.clone()


@cache
def _unchecked(func: Any) -> Any:
    """One of torch's functions written in Python, without its look for classes like ours; what it calls has it."""
    nothing = dict.fromkeys(("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), _no)
    copy = FunctionType(func.__code__, func.__globals__ | nothing, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


def _free(func: Any) -> bool:
    """Whether it is no method: those call their own kind in C++, which would come back here."""
    return func.__module__ in ("torch.nn.functional", "torch.functional")


def _no(*_: Any) -> bool:
    return False


def _as_dtype(new: Any, old: Any) -> Any:
    if not hasattr(new, "dtype"):
        return np.asarray(new, old.dtype)
    if new.dtype == old.dtype:
        return new
    if old.dtype.kind in "biu":
        raise MutationError(
            f"a write at {user_line()}: got values of {new.dtype} for a tensor of {old.dtype}, which holds no "
            "derivative. Make the tensor with a float dtype."
        )
    return new.astype(old.dtype)
