"""What is met above torch's dispatcher: detaching, whole products, and what torch's autograd is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import nn
from ..backend import value_of
from .aten.registry import TABLE, aten
from .run import Restart, current
from .tensors import TracedTensor

Tensor = torch.Tensor


def detached(func: Any, args: Any, kwargs: Any) -> Any:
    """``x.detach()`` and ``x.data``: the same numbers in the same memory, without derivative."""
    x = args[0]
    if type(x) is not TracedTensor:
        return NotImplemented
    return x.viewed(value_of(x.read()), x.meta(), stopped=True)


def set_data(func: Any, args: Any, kwargs: Any) -> Any:
    x, new = args
    run = current()
    if type(x) is not TracedTensor or run is None:
        return NotImplemented
    with torch.no_grad():
        x.write(run.value(new))
    return None


def _whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation of torch's that is kept whole, unless torch's autograd has to see what it is made of."""

    def handle(func: Any, args: Any, kwargs: Any) -> Any:
        run = current()
        if run is None or run.autograd or not torch.is_grad_enabled():
            return NotImplemented
        values = []
        for arg in args:
            if isinstance(arg, Tensor):
                arg = run.value(arg)
            elif type(arg) in (list, tuple) and arg and isinstance(arg[0], Tensor):
                arg = run.values(arg)
            values.append(arg)
        kwargs = {key: run.value(arg) if isinstance(arg, Tensor) else arg for key, arg in kwargs.items()}
        result = function(*values, **kwargs)
        return NotImplemented if result is NotImplemented else run.result(result)

    return handle


def _same_dtype(*operands: Any) -> bool:
    return all(x.dtype == operands[0].dtype for x in operands[1:] if x is not None)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    return nn.linear(x, weight, bias) if _same_dtype(x, weight, bias) and weight.ndim == 2 else NotImplemented


def matmul(a: Any, b: Any) -> Any:
    return np.matmul(a, b) if _same_dtype(a, b) else NotImplemented


def einsum(equation: Any, *operands: Any) -> Any:
    if not isinstance(equation, str):
        return NotImplemented
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    return np.einsum(equation, *operands) if _same_dtype(*operands) else NotImplemented


def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
              scale: Any = None, enable_gqa: bool = False) -> Any:  # fmt: skip
    if dropout_p or enable_gqa or not _same_dtype(query, key, value):
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


def with_autograd(func: Any, args: Any, kwargs: Any) -> Any:
    """Derivatives by torch's autograd inside the function: it has to have seen every operation."""
    run = current()
    if run is not None and not run.autograd:
        raise Restart
    return NotImplemented


def reversed_matmul(a: Any, b: Any) -> Any:
    return matmul(b, a)


def _direct(function: Callable[..., Any], operands: int) -> Callable[..., Any]:
    """A function of one tensor, or of two, called with nothing else: it need not go through torch's dispatcher."""

    def handle(func: Any, args: Any, kwargs: Any) -> Any:
        run = current()
        if run is None or kwargs or len(args) != operands or run.autograd or not torch.is_grad_enabled():
            return NotImplemented
        values = [run.value(arg) if isinstance(arg, Tensor) else arg for arg in args]
        return run.result(function(*values))

    return handle


def _swapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: function(b, a)


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
for _packet in (*_UNARY, *_OPERATORS):
    for _owner in (torch, Tensor):
        _operands = 1 + (_packet in _OPERATORS)
        TracedTensor.functions[getattr(_owner, _packet.__name__)] = _direct(TABLE[_packet], _operands)
for _packet, (_operator, _reversed) in _OPERATORS.items():
    TracedTensor.functions[_operator] = _direct(TABLE[_packet], 2)
    TracedTensor.functions[_reversed] = _direct(_swapped(TABLE[_packet]), 2)
TracedTensor.functions[Tensor.__neg__] = _direct(TABLE[aten.neg], 1)
TracedTensor.functions.update(
    {
        torch.detach: detached,
        Tensor.detach: detached,
        Tensor.data.__get__: detached,
        Tensor.data.__set__: set_data,
        F.linear: _whole(linear),
        torch.matmul: _whole(matmul),
        Tensor.matmul: _whole(matmul),
        Tensor.__matmul__: _whole(matmul),
        Tensor.__rmatmul__: _whole(reversed_matmul),
        torch.einsum: _whole(einsum),
        F.scaled_dot_product_attention: attention_in_parts,
        torch.autograd.grad: with_autograd,
        torch.autograd.backward: with_autograd,
        Tensor.backward: with_autograd,
        Tensor.requires_grad_: with_autograd,
        Tensor.requires_grad.__set__: with_autograd,
        **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), unfused),
    }
)
