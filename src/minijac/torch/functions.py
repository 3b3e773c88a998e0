"""What is met above torch's dispatcher: detaching, whole products, and what torch's autograd is asked for."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from operator import index
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import nn
from ..backend import value_of
from ..errors import MinijacError, UnsupportedOperationError
from ..lines import user_line
from ..ops import elementwise, multilinear, structural
from ..tape.traced import Traced, TracedArray
from .aten import shapes
from .aten.networks import CONV, normalised
from .aten.reductions import number
from .aten.registry import EXACT, TABLE, aten, of_one_dtype, of_reals
from .binding import bound, met_directly
from .jacobians import tree_map
from .run import Restart, Run, above, current, decomposed
from .tensors import TracedTensor, traced_of
from .views import contiguous, refuse_unordered

Tensor = torch.Tensor
_ADD = elementwise.UFUNCS[np.add]


def detached(func: Any, args: Any, kwargs: Any) -> Any:
    """``x.detach()`` and ``x.data``: the same numbers in the same memory, without derivative."""
    x = args[0]
    if type(x) is not TracedTensor:
        return NotImplemented
    return x.viewed(value_of(x.read()), x.place, stopped=True)


def detached_below(run: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """Detaching that the user does not write: of what autograd and scripted functions keep, which is followed on."""
    x = args[0]
    result = x.viewed(x.read(), x.place, not (run.insists or torch.is_grad_enabled()))
    result.detached = True
    return result


def copied_below(run: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """A copy. Those of ``torch.tensor(x)`` and ``y.new_tensor(x)`` are numbers: they detach and name a device."""
    x = args[0]
    result = run.carried("to", TABLE[aten._to_copy], args, kwargs)
    if type(x) is not TracedTensor or not x.detached or kwargs.get("device") is None:
        return result
    if result.dtype != x.dtype:  # as a scripted function may, which follows
        raise UnsupportedOperationError(
            f"torch.tensor(x) at {user_line()}: got a tensor that minijac.torch follows, and another dtype. torch has "
            f"no derivative there: write x.detach().to({result.dtype}) for that, and x.to({result.dtype}) for one."
        )
    return traced_of(value_of(result.read()), run)


def of_numbers_below(run: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """`torch.linspace` and `logspace`, which take numbers alone of tensors that they are given."""
    args, kwargs = tree_map(
        lambda x: run.tensor(value_of(run.value(x))) if isinstance(x, Tensor) else x, (args, kwargs)
    )
    return (decomposed(func) if run.recording else Run.plain)(run, func, args, kwargs)


def _asked(of: Callable[[Any], Any]) -> Callable[..., Any]:
    """``x.item()``, ``float(x)``, ``if x``: a number that the user asks for has no derivative."""

    def handle(func: Any, args: Any, kwargs: Any) -> Any:
        x, run = args[0], current()
        if type(x) is not TracedTensor or run is None or prod(x.place.shape) != 1:
            return NotImplemented  # torch's own error
        return of(number(run, x))

    return handle


def set_data(func: Any, args: Any, kwargs: Any) -> Any:
    x, new = args
    run = current()
    if type(x) is not TracedTensor or run is None:
        return NotImplemented
    with torch.no_grad():
        x.write(run.value(new))
    return None


def strided(func: Any, args: Any, kwargs: Any) -> Any:
    """``x.as_strided`` and its kin as the user writes them; torch's functions go by the strides that they are told."""
    x = args[0]
    if type(x) is TracedTensor:
        refuse_unordered(
            func.__name__, x.order() == 2 and (x.root is None or func.__name__.rstrip("_") == "as_strided")
        )
    return bound(func, args, kwargs)


def cloned(func: Any, args: Any, kwargs: Any) -> Any:
    if kwargs.get("memory_format") is not torch.contiguous_format:
        return bound(func, args, kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs)
    return _in_order(result)


def _in_order(result: Any) -> Any:
    """A result that torch lays out in order, whatever its operands are."""
    if type(result) is TracedTensor and isinstance(result.held, Traced):
        result.run.known[result.held.home.serial, result.held.index] = 2
    return result


def strided_below(run: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """``as_strided_copy`` and ``as_strided_scatter`` of a tensor that the function captured."""
    x = args[0]
    if type(x) is not TracedTensor:
        refuse_unordered(func.overloadpacket.__name__, x.is_contiguous() and not x.storage_offset())
    return run.carried(func.overloadpacket.__name__, TABLE[func.overloadpacket], args, kwargs)


def _or_copied(function: Callable[..., Any]) -> Callable[..., Any]:
    """What torch gives a view for, or a copy, as the entries lie: until one of the two is written they are the same."""

    def handle(func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0]
        result = function(func, args, kwargs)
        if result is NotImplemented:
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*args, **kwargs)
        if type(x) is not TracedTensor or type(result) is not TracedTensor or x.order():
            return result
        if result is x or result.root is not None:
            result = result.clone() if result.requires_grad else traced_of(result.read(), x.run)
        x.perhaps_apart(result)
        return _in_order(result) if func is Tensor.contiguous else result

    return handle


def _whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation of torch's that is kept whole, unless torch's autograd has to see what it is made of."""

    def handle(func: Any, args: Any, kwargs: Any) -> Any:
        run = above()
        if run is None:
            return NotImplemented
        return run.carried(func.__name__, function, args, kwargs)

    return handle


def _same_dtype(*operands: Any) -> bool:
    found = [x.dtype for x in operands if x is not None]
    return found.count(found[0]) == len(found)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if not _same_dtype(x, weight, bias) or len(weight.shape) != 2:
        return NotImplemented
    y = multilinear.matmul(x, weight.T if type(weight) is np.ndarray else shapes.permute(weight, (1, 0)))
    return y if bias is None else _ADD(y, bias)


def matmul(a: Any, b: Any) -> Any:
    return multilinear.matmul(a, b) if _same_dtype(a, b) else NotImplemented


def conv(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
         groups: int = 1) -> Any:  # fmt: skip
    if x.ndim != weight.ndim or x.dtype.kind == "c" or not _same_dtype(x, weight, bias):
        return NotImplemented
    stride, padding, dilation = (
        k[0] if type(k) in (list, tuple) and len(k) == 1 else k for k in (stride, padding, dilation)
    )
    return CONV[weight.ndim - 2](x, weight, bias, stride, padding, dilation, groups)


def batch_norm(x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False,
               momentum: float = 0.1, eps: float = 1e-5) -> Any:  # fmt: skip
    if training or x.dtype.kind == "c" or not _same_dtype(x, weight, bias, mean, var):
        return NotImplemented
    return normalised(x, weight, bias, mean, var, eps)


def einsum(equation: Any, *operands: Any) -> Any:
    if not isinstance(equation, str):
        return NotImplemented
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    return np.einsum(equation, *operands) if _same_dtype(*operands) else NotImplemented


def layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    if not _same_dtype(x, weight, bias):
        return NotImplemented
    return nn.layer_norm(x, weight, bias, eps, normalized_shape=shape)


def _activation(packet: Any, *names: str) -> Callable[..., Any]:
    """One of torch.nn.functional, of the operand, what `names` say, and whether to write to the operand."""
    function = of_reals(packet, TABLE[packet])

    def activation(x: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        if len(args) > len(names):
            *args, inplace = args  # type: ignore[assignment]
        return NotImplemented if inplace else function(x, *args, **kwargs)

    return _whole(activation)


def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
              scale: Any = None, enable_gqa: bool = False) -> Any:  # fmt: skip
    if dropout_p or enable_gqa or query.dtype.kind == "c" or not _same_dtype(query, key, value):
        return NotImplemented
    if is_causal and attn_mask is not None:
        return NotImplemented
    return nn.scaled_dot_product_attention(query, key, value, attn_mask, is_causal=is_causal, scale=scale)


def attention_in_parts(func: Any, args: Any, kwargs: Any) -> Any:
    """Attention as torch composes it, not as its fused kernels have it."""
    result = _attention(func, args, kwargs)
    if result is not NotImplemented:
        return result
    with torch._C.DisableTorchFunctionSubclass():
        return torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]


_attention = _whole(attention)


def unfused(func: Any, args: Any, kwargs: Any) -> Any:
    """Recurrent networks without oneDNN's fused kernels."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _ordering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Products, which torch lays out in order but for those of a matrix with a stack of them."""

    def handle(func: Any, args: Any, kwargs: Any) -> Any:
        result = function(func, args, kwargs)
        turned = type(result) is TracedTensor and result.held.ndim > 2 and func is not F.linear and args[0].ndim < 3
        return result if turned else _in_order(result)

    return handle


def with_autograd(func: Any, args: Any, kwargs: Any) -> Any:
    """Derivatives by torch's autograd inside the function: it has to have seen every operation."""
    run = current()
    if run is not None and not run.autograd:
        raise Restart
    return NotImplemented


def reversed_matmul(a: Any, b: Any) -> Any:
    return matmul(b, a)


EXACT.update({aten.detach: detached_below, aten._to_copy: copied_below})
EXACT.update({aten.as_strided_copy: strided_below, aten.as_strided_scatter: strided_below})
EXACT.update({aten.linspace: of_numbers_below, aten.logspace: of_numbers_below})


# -- what need not go through torch's dispatcher -----------------------------------------------------------------------
def _direct(function: Callable[..., Any], operands: int, names: tuple[str, ...] = ()) -> Callable[..., Any]:
    """An operation of some operands and then of `names`, given in this order without a gap."""

    def handle(func: Any, args: Any, kwargs: Any) -> Any:
        run = above()
        if run is None:
            return NotImplemented
        if kwargs:
            args, kwargs = _placed(args, kwargs, operands, names)
        if kwargs or not operands <= len(args) <= operands + len(names):
            return NotImplemented
        return run.carried(func.__name__, function, args, kwargs)

    return handle


def _placed(args: Any, kwargs: Any, operands: int, names: tuple[str, ...]) -> tuple[Any, Any]:
    """Named arguments that come next among the positional ones put there."""
    args, kwargs = list(args), dict(kwargs)
    for name in names[max(len(args) - operands, 0) :]:
        if name not in kwargs:
            break
        args.append(kwargs.pop(name))
    return args, kwargs


def _swapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: function(b, a)


def _with_its_errors(original: Callable[..., Any]) -> Callable[..., Any]:
    """An operator, which torch's own would let return NotImplemented where an error of ours is a TypeError."""
    handle = TracedTensor.functions[original] if original in TracedTensor.functions else TracedTensor.called(original)

    def operate(self: Any, other: Any) -> Any:
        result = handle(original, (self, other), {})
        return by_torch(self, other) if result is NotImplemented else result

    def by_torch(self: Any, other: Any) -> Any:
        run = self.run
        run.failed = None
        try:
            with torch._C.DisableTorchFunctionSubclass():
                result = original(self, other)
        except TypeError as error:
            if not isinstance(error, MinijacError) and run.failed is not None:
                raise run.failed from None
            raise
        if result is NotImplemented and run.failed is not None:
            raise run.failed
        return result

    return operate


def _view(function: Callable[..., Any]) -> Callable[..., Any]:
    """A view of a followed tensor, by `function`; NotImplemented where that is left to torch."""

    def handle(func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0]
        if kwargs or type(x) is not TracedTensor or above() is None:
            return NotImplemented
        return function(x, *args[1:])

    return handle


def _sizes(args: Any) -> Any:
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def _read_directly(self: Any, index: Any) -> Any:
    """``x[index]``, which torch would hand on to `__torch_function__` after a look at all of it."""
    result = _part(None, (self, index), {})
    return Tensor.__getitem__(self, index) if result is NotImplemented else result


def reshape(x: Any, *shape: Any) -> Any:
    shape, place = _sizes(shape), x.place
    if (shape and type(shape[0]) is torch.dtype) or place.strides != contiguous(place.shape).strides:
        return NotImplemented
    value = shapes.reshape(x.read(), shape)
    new = contiguous(value.shape)
    return x.viewed(value, new._replace(offset=place.offset) if place.offset else new)


def permute(x: Any, *dims: Any) -> Any:
    dims, ndim = _sizes(dims), len(x.place.shape)
    for k in dims:
        if type(k) is not int or not -ndim <= k < ndim:
            return NotImplemented  # torch's own error
    if len(dims) != ndim:
        return NotImplemented
    return x.viewed(shapes.permute(x.read(), dims), x.place.permuted(dims))


def transpose(x: Any, a: int, b: int) -> Any:
    order = list(range(len(x.place.shape)))
    if not order:
        return NotImplemented
    order[a], order[b] = order[b], order[a]
    return permute(x, *order)


def item(x: Any, index: Any) -> Any:
    found = x.place.item(index)
    if found is None:
        return NotImplemented
    place, basic = found
    value = x.read()
    if basic is None or type(value) is not TracedArray:  # its error; or one of a mask's rows, whose parts are others
        return x.viewed(value[index], place)
    return x.viewed(structural.getitem_basic(value, index=basic) if basic else value, place)


_part = _view(item)


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    shape = x.place.shape
    if not shape or not (-len(shape) <= start_dim < len(shape) and -len(shape) <= end_dim < len(shape)):
        return NotImplemented
    start, end = start_dim % len(shape), end_dim % len(shape)
    if start >= end:
        return NotImplemented
    return reshape(x, *shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :])


def unsqueeze(x: Any, dim: int) -> Any:
    ndim = len(x.place.shape) + 1
    return item(x, (slice(None),) * (dim % ndim) + (None,)) if -ndim <= dim < ndim else NotImplemented


_UNARY = (
    aten.abs, aten.acos, aten.asin, aten.atan, aten.cos, aten.cosh, aten.erf, aten.exp, aten.expm1, aten.log,
    aten.log1p, aten.neg, aten.reciprocal, aten.relu, aten.rsqrt, aten.sigmoid, aten.sin, aten.sinh, aten.sqrt,
    aten.square, aten.tan, aten.tanh,
)  # fmt: skip
_OPERATORS = {
    aten.add: (Tensor.__add__, Tensor.__radd__), aten.sub: (Tensor.__sub__, Tensor.__rsub__),
    aten.mul: (Tensor.__mul__, Tensor.__rmul__), aten.div: (Tensor.__truediv__, Tensor.__rtruediv__),
    aten.pow: (Tensor.__pow__, Tensor.__rpow__),
}  # fmt: skip
_VIEWS: dict[Callable[..., Any], tuple[Any, ...]] = {
    reshape: (Tensor.view,), permute: (Tensor.permute, torch.permute),
    transpose: (Tensor.transpose, torch.transpose), unsqueeze: (Tensor.unsqueeze, torch.unsqueeze),
    item: (Tensor.__getitem__,), lambda x: permute(x, 1, 0): (Tensor.t, torch.t, Tensor.T.__get__),
    lambda x: transpose(x, -1, -2): (Tensor.mT.__get__,),
}  # fmt: skip
_NAMED = {
    aten.cat: "dim", aten.stack: "dim", aten.cumsum: "dim", aten.softmax: "dim", aten.sum: "dim keepdim",
    aten.mean: "dim keepdim",
}  # fmt: skip
_DIRECT: dict[Any, tuple[int, tuple[str, ...]]] = {
    **dict.fromkeys(_UNARY, (1, ())), **dict.fromkeys((*_OPERATORS, aten.maximum, aten.minimum), (2, ())),
    aten.addmm: (3, ()),
    **{packet: (1, tuple(names.split())) for packet, names in _NAMED.items()},
}  # fmt: skip
for _packet, _signature in _DIRECT.items():
    _called = _direct(of_one_dtype(_packet, of_reals(_packet, TABLE[_packet])), *_signature)
    for _owner in (torch, Tensor):
        if hasattr(_owner, _packet.__name__):
            TracedTensor.functions[getattr(_owner, _packet.__name__)] = _called
for _packet, (_operator, _reversed) in _OPERATORS.items():
    TracedTensor.functions[_operator] = _direct(TABLE[_packet], 2)
    TracedTensor.functions[_reversed] = _direct(_swapped(TABLE[_packet]), 2)
_COPIES: dict[Callable[..., Any], tuple[Any, ...]] = {
    _view(reshape): (Tensor.reshape, torch.reshape), _view(flatten): (Tensor.flatten, torch.flatten),
    bound: (Tensor.contiguous, Tensor.ravel, torch.ravel, Tensor.reshape_as),
}  # fmt: skip
for _function, _names in _COPIES.items():
    TracedTensor.functions.update(dict.fromkeys(_names, _or_copied(_function)))
for _function, _names in _VIEWS.items():
    TracedTensor.functions.update(dict.fromkeys(_names, _view(_function)))
TracedTensor.__getitem__ = _read_directly
TracedTensor.functions[Tensor.__neg__] = _direct(TABLE[aten.neg], 1)
TracedTensor.functions.update(
    {
        torch.detach: detached,
        Tensor.detach: detached,
        Tensor.data.__get__: detached,
        Tensor.data.__set__: set_data,
        Tensor.item: _asked(lambda number: number),
        Tensor.__float__: _asked(float),
        Tensor.__int__: _asked(int),
        Tensor.__index__: _asked(index),
        Tensor.__complex__: _asked(complex),
        **dict.fromkeys((Tensor.__bool__, Tensor.is_nonzero, torch.is_nonzero), _asked(bool)),
        **dict.fromkeys((torch.clone, Tensor.clone), cloned),
        **dict.fromkeys((torch.as_strided, torch.as_strided_, Tensor.as_strided, Tensor.as_strided_), strided),
        **dict.fromkeys((torch.as_strided_copy, torch.as_strided_scatter, Tensor.as_strided_scatter), strided),
        F.linear: _ordering(_whole(linear)),
        **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), _ordering(_whole(matmul))),
        Tensor.__rmatmul__: _whole(reversed_matmul),
        torch.einsum: _whole(einsum),
        **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _whole(conv)),
        F.batch_norm: _whole(batch_norm),
        F.layer_norm: _whole(layer_norm),
        **{getattr(F, packet.__name__): _activation(packet) for packet in (aten.relu, aten.silu, aten.mish, aten.selu)},
        F.elu: _activation(aten.elu, "alpha"),
        F.leaky_relu: _activation(aten.leaky_relu, "negative_slope"),
        F.scaled_dot_product_attention: attention_in_parts,
        torch.autograd.grad: with_autograd,
        torch.autograd.backward: with_autograd,
        Tensor.backward: with_autograd,
        Tensor.requires_grad_: with_autograd,
        Tensor.requires_grad.__set__: with_autograd,
        **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), unfused),
    }
)
for _original, _function in list(TracedTensor.functions.items()):
    met_directly(_original, _function)
for _name in (
    "__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__pow__",
    "__rpow__", "__mod__", "__rmod__", "__floordiv__", "__rfloordiv__", "__matmul__", "__rmatmul__", "__lt__", "__le__",
    "__gt__", "__ge__", "__eq__", "__ne__", "__and__", "__or__", "__xor__",
):  # fmt: skip
    setattr(TracedTensor, _name, _with_its_errors(getattr(Tensor, _name)))
