"""Tensors that stand for traced values, and the passage between tensors and arrays, which share their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import ref

import numpy as np
import torch

from ..backend import Wrapped, value_of
from ..errors import ConversionError, InputError, MutationError, TraceError
from ..foreign import kind_of
from ..lines import user_line
from ..numpy.indexing import put
from ..tape.traced import FIXED, Traced
from .views import Layout, Place, contiguous, layout_of, order

if TYPE_CHECKING:
    from .run import Run

__all__ = [
    "DTYPES",
    "TracedTensor",
    "array_of",
    "kept_array_of",
    "laid_out",
    "refuse_around",
    "tensor_of",
    "torch_dtype",
    "traced_of",
]

DTYPES: dict[Any, Any] = {
    torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64), torch.bool: np.dtype(bool),
    torch.int8: np.dtype(np.int8), torch.int16: np.dtype(np.int16), torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64), torch.uint8: np.dtype(np.uint8), torch.complex64: np.dtype(np.complex64),
    torch.complex128: np.dtype(np.complex128),
}  # fmt: skip
_wrapper = torch.Tensor._make_wrapper_subclass
_DisableTorchDispatch, _DisableFunctions = torch._C._DisableTorchDispatch, torch._C.DisableTorchFunctionSubclass
_followers = torch._C._len_torch_dispatch_stack
_TORCH = {array: tensor for tensor, array in DTYPES.items()}


def torch_dtype(dtype: Any) -> Any:
    """torch's name of a NumPy dtype."""
    return _TORCH[dtype]


def array_of(tensor: Any) -> Any:
    """The tensor as an array in the same memory, or InputError."""
    try:
        if not _followers():
            array = (tensor.detach() if tensor.requires_grad else tensor).numpy()
        else:
            with _DisableTorchDispatch():  # what is followed is not concerned, and torch would go through Python for it
                array = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    except (RuntimeError, TypeError):
        return _array_of(tensor)
    return array if array.dtype in _TORCH else _array_of(tensor)


class _Kept(NamedTuple):
    """The array of a parameter, and how that lay when it was made."""

    array: Any
    lay: Any


_KEPT: dict[int, _Kept] = {}
"""By identity of the tensor. No weak references: torch swaps no tensor that has one."""
KEPT = 512
MOST_KEPT = 1 << 14
"""Entries of a parameter up to which its array is kept: larger ones may move, and their memory would not be free."""


def kept_array_of(tensor: Any) -> Any:
    """`array_of`. That of a parameter, which is asked for in every call, is kept while it lies where it did."""
    if type(tensor) is not torch.nn.Parameter:
        return array_of(tensor)
    key = id(tensor)
    lay = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
    kept = _KEPT.get(key)
    if kept is not None and kept.lay == lay:  # the array holds that memory, so that no other tensor lies there
        return kept.array
    array = array_of(tensor)
    if tensor.device.type == "cpu" and array.size <= MOST_KEPT:
        if len(_KEPT) >= KEPT:
            _KEPT.clear()
        _KEPT[key] = _Kept(array, lay)
    return array


def refuse_around() -> None:
    """An error where a transform of torch.func, or a mode in which tensors have no numbers, is around."""
    if _followers() and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
        raise InputError(
            "minijac.torch: got a call under torch's FakeTensorMode, whose tensors have no numbers. Leave the `with "
            "FakeTensorMode()` block for this call, and pass tensors that were made outside of it."
        )
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise InputError(
            "minijac.torch: got a call from within a transform of torch.func (vmap, grad ...), whose tensors cannot be "
            "followed. Put minijac's transformation outside, or torch's inside the function."
        )


def _array_of(tensor: Any) -> Any:
    """Of a tensor that is not simply memory of the host, if there is one."""
    if tensor.is_nested or tensor.device.type not in ("cpu", "cuda"):
        what = "a nested one" if tensor.is_nested else f"one on {tensor.device}"
        raise InputError(
            f"a tensor: expected a dense one in the memory of the host or of a CUDA device, got {what}. Pad it "
            "(x.to_padded_tensor(0.0)), or make it there (x.cpu(), module.to_empty(device='cpu'))."
        )
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
        dense = tensor.layout is torch.strided
        what = tensor.dtype if dense else tensor.layout
        advice = "Cast it, and the module, with .float() or .double(); switch autocast off."
        raise InputError(
            f"a tensor of shape {tuple(tensor.shape)}: expected a dense one of float32, float64, integers or bools, "
            f"got {what}. {advice if dense else 'Pass x.to_dense().'}"
        )
    try:
        with _DisableTorchDispatch():
            if tensor.requires_grad or tensor.is_neg() or tensor.is_conj():
                tensor = tensor.detach().resolve_neg().resolve_conj()
            if tensor.device.type == "cpu":
                return tensor.numpy()
    except RuntimeError as error:  # a class of its own that hides where its numbers are
        refuse_around()
        raise InputError(
            f"a tensor of shape {tuple(tensor.shape)}: expected a plain one, got {kind_of(tensor)}, of which torch "
            "makes no array. Pass the plain tensors in it (for a MaskedTensor, x.get_data() and x.get_mask())."
        ) from error
    import cupy

    return cupy.from_dlpack(tensor)


def tensor_of(array: Any) -> Any:
    """The array as a tensor in the same memory; copied where torch could not hold it so."""
    if type(array) is not np.ndarray:
        if not isinstance(array, np.ndarray | np.generic):
            return torch.from_dlpack(array)
        array = np.asarray(array)
    flags = array.flags
    if not (flags.writeable and (flags.c_contiguous or all(stride >= 0 for stride in array.strides))):
        array = array.copy()
    return torch.from_numpy(array)


def laid_out(dtype: Any, place: Place) -> Any:
    """A tensor without data that lies so."""
    with _DisableTorchDispatch():
        return torch.empty(0, dtype=_TORCH[dtype], device="meta").as_strided(*place)


TWINS = (
    "contiguous, reshape and flatten copy, or give a view, as the entries lie, which is not known here. Write "
    "x.clone(memory_format=torch.contiguous_format) before them, or write to a .clone()."
)


class _Fields(torch.Tensor):  # type: ignore[misc]
    """What every one of them has, in places of its own, and not in a dict that is made for it."""

    __slots__ = ("held", "place_", "root", "run")
    run: Run
    held: Any
    root: TracedTensor | None
    place_: Place | None


class TracedTensor(_Fields):
    """A tensor without memory that holds a value of minijac's, traced or plain.

    One made by a view operation knows its root and where it lies in it: a write changes the root's value, and all views
    read it anew.
    """

    version: int = 0
    layout_: Layout | None = None
    stopped: bool = False
    aside: bool = False
    """Whether it is a view that is not part of its root, as the real parts are: it can neither be written nor outlive
    a write."""
    spoiled: str = ""
    """Why it is not read any more, if so."""
    detached: bool = False
    """Whether torch detached it, and not the user."""
    born: Any = None
    """What a root held before it was written, if it was: writes leave it where it lies."""
    twins: list[Any] | None = None
    """Roots of which some are views of others in torch, or copies: which is not known."""
    functions: ClassVar[dict[Any, Callable[..., Any]]] = {}
    """What is met above torch's dispatcher; filled by minijac.torch.functions."""
    called: ClassVar[Callable[..., Any]]
    """What is done with all others, and by minijac.torch.binding."""

    def viewed(self, value: Any, place: Place, stopped: bool = False) -> TracedTensor:
        """A view of this tensor, by the value that it has now (None: not read yet) and where it lies."""
        run, root = self.run, self if self.root is None or self.aside else self.root
        dtype = _TORCH[root.held.dtype]
        result = _wrapper(TracedTensor, place.shape, place.strides, place.offset, dtype=dtype, device=run.device)
        result.run, result.held, result.root, result.place_ = run, value, root, place
        if stopped or self.stopped:
            result.stopped = True
        if value is None:
            result.version = -1
            return result
        if root.version:
            result.version = root.version
        if isinstance(value, Traced) and value.link is None:
            value.link = FIXED
        return result

    @property
    def place(self) -> Place:
        if self.place_ is None:
            self.place_ = contiguous(self.held.shape)
        return self.place_

    def meta(self) -> Any:
        """A tensor without data of the same layout, on which torch works out what a view looks like."""
        return laid_out(self.held.dtype, self.place)

    def layout_in_root(self) -> Layout:
        if self.layout_ is None:
            assert self.root is not None
            self.layout_ = layout_of(self.root.held.shape, *self.place)
        return self.layout_

    def order(self) -> int:
        """How its root lies in torch, as `views.order` has it."""
        root = self if self.root is None or self.aside else self.root
        return 0 if root.aside else order(root.held if root.born is None else root.born, self.run.known)

    def beside(self, value: Any, stopped: bool = False) -> TracedTensor:
        """A view of other numbers than are in memory: real and imaginary parts, a conjugate."""
        result = traced_of(value, self.run)
        root = self if self.root is None or self.aside else self.root
        result.root, result.version, result.stopped, result.aside = root, root.version, stopped or self.stopped, True
        return result

    def perhaps_apart(self, other: TracedTensor) -> None:
        """A new root shares this tensor's memory in torch, or is a copy."""
        one = self if self.root is None or self.aside else self.root
        one.twins = other.twins = one.twins or [ref(one)]
        one.twins.append(ref(other))

    def part_from_twins(self) -> None:
        """It is written: what may have been with it, or not, is read no more."""
        twins, self.twins = self.twins or [], None
        for twin in [twin() for twin in twins]:
            if twin is not None and twin is not self:
                twin.spoil(TWINS)

    def spoil(self, why: str) -> None:
        """Let nobody read this tensor, nor its views, from now on."""
        self.root, self.version, self.aside, self.spoiled = traced_of(self.held, self.run), -1, True, why

    def _not_part(self, what: str) -> None:
        if self.spoiled:
            raise MutationError(
                f"a tensor at {user_line()}: got one of shape {tuple(self.shape)} whose memory, in torch, was written "
                f"through another one, or may have been. {self.spoiled}"
            )
        raise MutationError(
            f"a view at {user_line()}: got one of real parts, imaginary parts or conjugates, and it or its base "
            f"{what}. Make a new tensor (torch.complex(re, im), x.conj().clone()) instead of writing."
        )

    def read(self) -> Any:
        """The value as it is now."""
        root = self.root
        if root is not None and root.root is not None:
            root.read()
        if root is not None and self.version != root.version:
            if self.aside:
                self._not_part("was written since")
            value = self.layout_in_root().read(root.held)
            self.held, self.version = (value_of(value) if self.stopped else value), root.version
        return self.held

    def write(self, new: Any) -> None:
        """Let this tensor, its root and all their views hold what is written. Without grad the derivative stays."""
        old = self.read()
        if self.aside or (self.root is not None and self.root.aside):
            self._not_part("is written")
        new = _as_dtype(new, old)
        new = new if new.shape == old.shape else np.broadcast_to(new, old.shape)
        root = self if self.root is None else self.root
        if root.born is None:
            root.born = root.held
            self.run.memory.written(root)
        if root.twins:
            root.part_from_twins()
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
        function = cls.functions.get(func)
        if function is None:
            function = cls.functions[func] = cls.called(func)
        result = function(func, args, kwargs or {})
        if result is NotImplemented:
            with _DisableFunctions():
                return func(*args, **kwargs or {})
        return result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TraceError(
            f"{func} at {user_line()}: got a tensor that a transformation of minijac.torch followed and that was kept "
            "outside of it. Return it from the function (or as aux with has_aux=True) instead of storing it."
        )

    def __repr__(self, **_: Any) -> str:
        return f"TracedTensor({value_of(self.read())!r})"

    __str__ = __repr__
    __hash__ = torch.Tensor.__hash__

    def __format__(self, spec: str) -> str:
        value = value_of(self.read())
        return format(value.item() if spec and value.ndim == 0 else value, spec)

    def _refuse(self, what: str) -> Any:
        raise ConversionError(
            f"{what} at {user_line()}: got a tensor of shape {tuple(self.held.shape)} that a transformation of "
            "minijac.torch follows; an array of it would drop its derivative. Write it with torch's functions (for "
            "torch.tensor([...]) torch.stack([...])), return it as aux, or ask for its numbers with x.detach().clone() "
            "and .item()."
        )

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("x.numpy()")

    def tolist(self) -> Any:
        value = self.read()
        return value_of(value).tolist() if value.dtype.kind in "biu" else self._refuse("x.tolist()")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a tensor that minijac.torch follows has no attribute {name!r}: inside the function tensors are plain, "
            "without what a class of its own adds. Take it from the argument before, and capture it."
        )

    def __len__(self) -> int:
        """For numbers torch makes a list into a tensor by their lengths, as they can be indexed."""
        return self.place.shape[0] if self.place.shape else self._refuse("len(x), or a tensor of a list with x in it,")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("np.asarray(x)")

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("DLPack")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._refuse("pickling x")

    def __deepcopy__(self, memo: Any) -> Any:
        return self.clone()


def traced_of(value: Any, run: Run) -> TracedTensor:
    """A tensor for a value, without a call of the class, which takes longer."""
    self = _wrapper(TracedTensor, value.shape, dtype=_TORCH[value.dtype], device=run.device)
    self.run, self.held, self.root, self.place_ = run, value, None, None
    if isinstance(value, Traced) and value.link is None:
        value.link = FIXED  # nobody writes to it as NumPy has it, so what views it need not know
    return self


def _as_dtype(new: Any, old: Any) -> Any:
    if not hasattr(new, "dtype"):
        return np.asarray(new, old.dtype)
    if new.dtype == old.dtype:
        return new
    if old.dtype.kind in "biu" or (new.dtype.kind == "c" and old.dtype.kind != "c"):
        lacks, kind = ("derivative", "float") if old.dtype.kind in "biu" else ("imaginary part", "complex")
        raise MutationError(
            f"a write at {user_line()}: got values of {new.dtype} for a tensor of {old.dtype}, which holds no {lacks}. "
            f"Make the tensor with a {kind} dtype."
        )
    return new.astype(old.dtype)
