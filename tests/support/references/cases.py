"""The reference cases: one formula each, written once in NumPy and once in torch, with its inputs.

`make_references.py` differentiates the torch side and stores the results; `tests/test_references.py` holds minijac
on the NumPy side to them. Torch is imported only where a torch function runs.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


class _LazyTorch:
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch"), name)


torch: Any = _LazyTorch()


@dataclass(frozen=True)
class Case:
    """One formula in both libraries.

    `batch_axis` per argument (None: shared by all samples); the outputs' batch axis is `output_batch_axis`.
    `order` 2 asks for the Hessian too. `mixes`: samples mix, and the reference is the full (B, *out, B, *in).
    """

    inputs: tuple[Array, ...]
    numpy_f: Callable[..., Any]
    torch_f: Callable[..., Any]
    argnums: tuple[int, ...] = (0,)
    batch_axis: tuple[int | None, ...] = (0,)
    output_batch_axis: int = 0
    order: int = 2
    mixes: bool = False


def _values(*shape: int, seed: int = 0, low: float = -1.5, high: float = 1.5) -> Array:
    """Inputs that never change: RandomState's stream is frozen, and no two entries tie."""
    return np.random.RandomState(1000 + seed).uniform(low, high, shape)


def _positive(*shape: int, seed: int = 0) -> Array:
    return _values(*shape, seed=seed, low=0.3, high=2.5)


def t(array: Array) -> Any:
    """A constant of the formula as a tensor."""
    return torch.tensor(array)


# ----------------------------------------------------------------------------------------------------- networks


def _layers(*widths: int, seed: int = 0) -> list[tuple[Array, Array]]:
    pairs = itertools.pairwise(widths)
    return [
        (_values(n, m, seed=seed + 2 * k) / np.sqrt(n), _values(m, seed=seed + 2 * k + 1) / 2)
        for k, (n, m) in enumerate(pairs)
    ]


def _numpy_mlp(layers: list[tuple[Array, Array]], activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        for W, b in layers[:-1]:
            x = activation(x @ W + b)
        W, b = layers[-1]
        return x @ W + b

    return f


def _torch_mlp(layers: list[tuple[Array, Array]], activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        for W, b in layers[:-1]:
            x = activation(x @ t(W) + t(b))
        W, b = layers[-1]
        return x @ t(W) + t(b)

    return f


def _mlp_case(
    numpy_activation: Callable[[Any], Any], torch_activation: Callable[[Any], Any], *widths: int, seed: int = 0
) -> Case:
    layers = _layers(*widths, seed=seed)
    x = _values(3, widths[0], seed=seed + 50)
    return Case((x,), _numpy_mlp(layers, numpy_activation), _torch_mlp(layers, torch_activation))


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _layer_norm(x: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


(_W_IN, _B_IN), (_W_OUT, _B_OUT) = _layers(4, 6, 3, seed=10)
_Q, _K, _V, _O = (_values(4, 4, seed=20 + k) / 2 for k in range(4))


def _numpy_softmax_layer_norm(x: Any) -> Any:
    return _softmax(_layer_norm(np.tanh(x @ _W_IN + _B_IN)) @ _W_OUT + _B_OUT)


def _torch_softmax_layer_norm(x: Any) -> Any:
    h = torch.nn.functional.layer_norm(torch.tanh(x @ t(_W_IN) + t(_B_IN)), (6,), eps=1e-5)
    return torch.softmax(h @ t(_W_OUT) + t(_B_OUT), -1)


def _numpy_attention(x: Any) -> Any:
    """x: (B, tokens, 4), two heads of width 2."""
    heads = [(x @ M).reshape(x.shape[0], -1, 2, 2).transpose(0, 2, 1, 3) for M in (_Q, _K, _V)]
    q, k, v = heads
    weights = _softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(2.0))
    mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    return _layer_norm(x + mixed @ _O)


def _torch_attention(x: Any) -> Any:
    q, k, v = ((x @ t(M)).reshape(x.shape[0], -1, 2, 2).transpose(1, 2) for M in (_Q, _K, _V))
    weights = torch.softmax(q @ k.transpose(2, 3) / 2**0.5, -1)  # scaled_dot_product_attention has no second order
    mixed = (weights @ v).transpose(1, 2).reshape(x.shape)
    return torch.nn.functional.layer_norm(x + mixed @ t(_O), (4,), eps=1e-5)


_RESIDUAL = _values(5, 5, seed=31) / 2


def _numpy_residual(x: Any) -> Any:
    for _ in range(3):
        x = x + np.tanh(x @ _RESIDUAL)
    return x


def _torch_residual(x: Any) -> Any:
    for _ in range(3):
        x = x + torch.tanh(x @ t(_RESIDUAL))
    return x


NETWORKS = {
    "thread_network": _mlp_case(lambda x: 1 / (1 + np.exp(-x)), lambda x: torch.sigmoid(x), 5, 2, 10),
    "mlp_tanh": _mlp_case(np.tanh, lambda x: torch.tanh(x), 4, 6, 5, 3, seed=1),
    "mlp_relu": _mlp_case(lambda x: np.maximum(x, 0), lambda x: torch.relu(x), 4, 6, 5, 3, seed=2),
    "mlp_gelu": _mlp_case(_gelu, lambda x: torch.nn.functional.gelu(x, approximate="tanh"), 4, 6, 3, seed=3),
    "mlp_softplus": _mlp_case(lambda x: np.logaddexp(x, 0), lambda x: torch.nn.functional.softplus(x), 4, 6, 3, seed=4),
    "mlp_sine": _mlp_case(np.sin, lambda x: torch.sin(x), 2, 8, 8, 1, seed=5),
    "autoencoder": _mlp_case(np.tanh, lambda x: torch.tanh(x), 6, 4, 2, 4, 6, seed=6),
    "residual": Case((_values(3, 5, seed=30),), _numpy_residual, _torch_residual),
    "softmax_layer_norm": Case((_values(3, 4, seed=12),), _numpy_softmax_layer_norm, _torch_softmax_layer_norm),
    "attention": Case((_values(2, 3, 4, seed=24),), _numpy_attention, _torch_attention),
}


# ------------------------------------------------------------------------------------------ matmul, einsum, linalg

_A = _values(4, 4, seed=40)
_SPD = _values(3, 3, seed=41) / 3

PRODUCTS = {
    "quadratic_form": Case(
        (_values(3, 4, seed=42),),
        lambda x: np.einsum("bi,ij,bj->b", x, _A, x),
        lambda x: torch.einsum("bi,ij,bj->b", x, t(_A), x),
    ),
    "outer_product": Case(
        (_values(3, 4, seed=43),),
        lambda x: np.einsum("bi,bj->bij", x, np.sin(x)),
        lambda x: torch.einsum("bi,bj->bij", x, torch.sin(x)),
    ),
    "einsum_matrix_chain": Case(
        (_values(3, 2, 4, seed=44),),
        lambda x: np.einsum("bij,jk,blk->bil", x, _A, x),
        lambda x: torch.einsum("bij,jk,blk->bil", x, t(_A), x),
    ),
    "einsum_trace": Case(
        (_values(3, 3, 3, seed=45),),
        lambda x: np.einsum("bij,bji->b", x, x @ x),
        lambda x: torch.einsum("bij,bji->b", x, x @ x),
    ),
    "matmul_gram": Case(
        (_values(3, 2, 4, seed=46),),
        lambda x: x @ x.swapaxes(1, 2),
        lambda x: x @ x.transpose(1, 2),
    ),
    "matmul_two_arguments": Case(
        (_values(3, 2, 4, seed=47), _values(3, 4, 2, seed=48)),
        lambda x, y: np.tanh(x @ y),
        lambda x, y: torch.tanh(x @ y),
        argnums=(0, 1),
        batch_axis=(0, 0),
        order=1,
    ),
    "matrix_times_batch_last": Case(
        (_values(4, 3, seed=49),),
        lambda x: np.tanh(_A @ x),
        lambda x: torch.tanh(t(_A) @ x),
        batch_axis=(1,),
        output_batch_axis=1,
    ),
    "tensordot": Case(
        (_values(3, 2, 4, seed=50),),
        lambda x: np.tensordot(x * x, _A, axes=([2], [0])),
        lambda x: torch.tensordot(x * x, t(_A), dims=([2], [0])),
    ),
    "shared_parameters": Case(
        (_values(4, 3, seed=51), _values(3, 4, seed=52)),
        lambda W, x: np.tanh(x @ W),
        lambda W, x: torch.tanh(x @ W),
        argnums=(0, 1),
        batch_axis=(None, 0),
        order=1,
    ),
    "shared_bias_and_scale": Case(
        (_values(4, seed=53), _values(3, 4, seed=54)),
        lambda s, x: np.exp(s * x) + s,
        lambda s, x: torch.exp(s * x) + s,
        batch_axis=(None, 0),
    ),
    "solve": Case(
        (_values(3, 3, 3, seed=55) / 3, _values(3, 3, 1, seed=56)),
        lambda a, b: np.linalg.solve(a + 2 * np.eye(3), b),
        lambda a, b: torch.linalg.solve(a + 2 * torch.eye(3, dtype=a.dtype), b),
        argnums=(0, 1),
        batch_axis=(0, 0),
        order=1,
    ),
    "inverse": Case(
        (_values(2, 3, 3, seed=57) / 3,),
        lambda a: np.linalg.inv(a + 2 * np.eye(3)),
        lambda a: torch.linalg.inv(a + 2 * torch.eye(3, dtype=a.dtype)),
    ),
    "determinant": Case((_values(3, 3, 3, seed=58),), lambda a: np.linalg.det(a), lambda a: torch.linalg.det(a)),
    "log_determinant": Case(
        (_values(3, 3, 2, seed=59),),
        lambda a: np.linalg.slogdet(np.einsum("bik,bjk->bij", a, a) + np.eye(3))[1],
        lambda a: torch.linalg.slogdet(torch.einsum("bik,bjk->bij", a, a) + torch.eye(3, dtype=a.dtype))[1],
    ),
}


# -------------------------------------------------------------------------------------------------- elementwise


def _elementwise_case(
    numpy_f: Callable[..., Any], torch_f: Callable[..., Any], *, positive: bool = False, seed: int, order: int = 2
) -> Case:
    x = _positive(3, 4, seed=seed) if positive else _values(3, 4, seed=seed)
    return Case((x,), numpy_f, torch_f, order=order)


ELEMENTWISE = {
    "sin_times_gaussian": _elementwise_case(
        lambda x: np.sin(x) * np.exp(-(x**2)), lambda x: torch.sin(x) * torch.exp(-(x**2)), seed=60
    ),
    "logs_and_roots": _elementwise_case(
        lambda x: np.log1p(x) * np.sqrt(x) + np.log(x) + np.log2(x) * np.log10(x),
        lambda x: torch.log1p(x) * torch.sqrt(x) + torch.log(x) + torch.log2(x) * torch.log10(x),
        positive=True,
        seed=61,
    ),
    "exponentials": _elementwise_case(
        lambda x: np.expm1(x) + np.exp2(x) * np.exp(-x),
        lambda x: torch.expm1(x) + torch.exp2(x) * torch.exp(-x),
        seed=62,
    ),
    "powers": _elementwise_case(
        lambda x: x**3 + x**-2 + x**1.5 + 2.0**x + x**x + np.square(x) + np.reciprocal(x),
        lambda x: x**3 + x**-2 + x**1.5 + 2.0**x + x**x + torch.square(x) + torch.reciprocal(x),
        positive=True,
        seed=63,
    ),
    "quotients": _elementwise_case(
        lambda x: (x - 2) / (1 + x * x) + 3 / (x + 4) - (-x),
        lambda x: (x - 2) / (1 + x * x) + 3 / (x + 4) - (-x),
        seed=64,
    ),
    "trigonometric": _elementwise_case(
        lambda x: np.tan(x / 2) * np.cos(x) + np.arcsin(x / 2) + np.arccos(x / 3) + np.arctan(x),
        lambda x: torch.tan(x / 2) * torch.cos(x) + torch.arcsin(x / 2) + torch.arccos(x / 3) + torch.arctan(x),
        seed=65,
    ),
    "hyperbolic": _elementwise_case(
        lambda x: np.sinh(x) / np.cosh(x) ** 2 + np.arcsinh(x) * np.arctanh(x / 2) + np.arccosh(x + 3),
        lambda x: torch.sinh(x) / torch.cosh(x) ** 2 + torch.arcsinh(x) * torch.arctanh(x / 2) + torch.arccosh(x + 3),
        seed=66,
    ),
    "arctan2_and_hypot": _elementwise_case(
        lambda x: np.arctan2(x, np.cos(x)) + np.hypot(x, 2.0 + np.sin(x)),
        lambda x: torch.arctan2(x, torch.cos(x)) + torch.hypot(x, 2.0 + torch.sin(x)),
        seed=67,
    ),
    "logaddexp": _elementwise_case(
        lambda x: np.logaddexp(x, x * x) * np.logaddexp(0.5, x),
        lambda x: torch.logaddexp(x, x * x) * torch.logaddexp(torch.full_like(x, 0.5), x),
        seed=68,
    ),
    "where": _elementwise_case(
        lambda x: np.where(x > 0.2, np.sqrt(np.where(x > 0.2, x, 1.0)), x**3),
        lambda x: torch.where(x > 0.2, torch.sqrt(torch.where(x > 0.2, x, 1.0)), x**3),
        seed=69,
    ),
    "piecewise": _elementwise_case(
        lambda x: np.abs(x) * np.maximum(x, -0.3) + np.minimum(x, x * x) + np.clip(x, -0.7, 0.9) ** 2 + np.sign(x) * x,
        lambda x: (
            torch.abs(x) * torch.maximum(x, torch.full_like(x, -0.3))
            + torch.minimum(x, x * x)
            + torch.clamp(x, -0.7, 0.9) ** 2
            + torch.sign(x) * x
        ),
        seed=70,
    ),
    "two_arguments": Case(
        (_positive(3, 4, seed=71), _values(3, 4, seed=72)),
        lambda x, y: x**y * np.sin(x * y) / (x + 2),
        lambda x, y: x**y * torch.sin(x * y) / (x + 2),
        argnums=(0, 1),
        batch_axis=(0, 0),
        order=1,
    ),
    "broadcast_between_arguments": Case(
        (_values(3, 2, 1, seed=73), _values(3, 1, 4, seed=74)),
        lambda x, y: np.exp(x * y) + x - y,
        lambda x, y: torch.exp(x * y) + x - y,
        argnums=(0, 1),
        batch_axis=(0, 0),
        order=1,
    ),
    "scalar_samples": Case((_values(4, seed=75),), lambda x: np.sin(x) * x, lambda x: torch.sin(x) * x),
}

_KINKS = np.array([[0.0, 1.0, -1.0, 0.5], [0.0, 0.0, 1.0, -1.0]])

KINKS = {
    "abs_at_zero": Case((_KINKS,), lambda x: np.abs(x), lambda x: torch.abs(x), order=1),
    "relu_at_zero": Case((_KINKS,), lambda x: x * (x > 0), lambda x: torch.relu(x), order=1),
    "clip_at_bound": Case((_KINKS,), lambda x: np.clip(x, -1, 1), lambda x: torch.clamp(x, -1, 1), order=1),
    "max_ties": Case(
        (np.array([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]]),), lambda x: x.max(-1), lambda x: torch.amax(x, -1), order=1
    ),
    "min_ties": Case(
        (np.array([[1.0, 1.0, 2.0], [3.0, 3.0, 3.0]]),), lambda x: x.min(-1), lambda x: torch.amin(x, -1), order=1
    ),
    "norm_at_zero": Case(
        (np.array([[0.0, 0.0], [3.0, 4.0]]),),
        lambda x: np.linalg.norm(x, axis=-1),
        lambda x: torch.linalg.vector_norm(x, dim=-1),
        order=1,
    ),
    "product_with_zeros": Case(
        (np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 4.0]]),),
        lambda x: np.prod(x, axis=-1),
        lambda x: torch.prod(x, -1),
        order=1,
    ),
    "maximum_of_same": Case((_KINKS,), lambda x: np.maximum(x, x), lambda x: torch.maximum(x, x), order=1),
}


# --------------------------------------------------------------------------------------------------- reductions

REDUCTIONS = {
    "sum_axis": Case(
        (_values(3, 2, 4, seed=80),),
        lambda x: np.sum(np.sin(x), axis=2) * x.sum((1, 2))[:, None],
        lambda x: torch.sum(torch.sin(x), 2) * x.sum((1, 2))[:, None],
    ),
    "mean_keepdims": Case(
        (_values(3, 5, seed=81),),
        lambda x: (x - x.mean(-1, keepdims=True)) ** 3,
        lambda x: (x - x.mean(-1, keepdim=True)) ** 3,
    ),
    "max_and_min": Case(
        (_values(3, 5, seed=82),),
        lambda x: np.exp(x).max(-1) - (x * x).min(-1),
        lambda x: torch.exp(x).amax(-1) - (x * x).amin(-1),
    ),
    "variance": Case(
        (_values(3, 5, seed=83),),
        lambda x: np.var(x, axis=-1) + np.std(x, axis=-1, ddof=1),
        lambda x: torch.var(x, -1, correction=0) + torch.std(x, -1, correction=1),
    ),
    "product": Case((_values(3, 4, seed=84),), lambda x: np.prod(x, axis=-1), lambda x: torch.prod(x, -1)),
    "log_sum_exp": Case(
        (_values(3, 5, seed=85),),
        lambda x: np.log(np.exp(x - 1).sum(-1)) + 1,
        lambda x: torch.logsumexp(x, -1),
    ),
    "norm": Case(
        (_values(3, 5, seed=86),),
        lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True),
        lambda x: torch.nn.functional.normalize(x, dim=-1),
    ),
    "cumulative_sum": Case(
        (_values(3, 5, seed=87),),
        lambda x: np.cumsum(x * x, axis=-1),
        lambda x: torch.cumsum(x * x, -1),
    ),
    "softmax": Case((_values(3, 5, seed=88),), _softmax, lambda x: torch.softmax(x, -1)),
    "sort": Case(
        (_values(3, 5, seed=89),),
        lambda x: np.sort(x * x, axis=-1),
        lambda x: torch.sort(x * x, -1).values,
    ),
}


# ---------------------------------------------------------------------------------------------------- structural

_INDEX = np.array([3, 0, 0, 2])

STRUCTURAL = {
    "forward_difference": Case(
        (_values(3, 6, seed=90),),
        lambda x: (x[:, 1:] - x[:, :-1]) * x[:, 1:],
        lambda x: (x[:, 1:] - x[:, :-1]) * x[:, 1:],
    ),
    "strided_slices": Case(
        (_values(3, 6, seed=91),),
        lambda x: x[:, ::2] * x[:, 1::2] + x[:, ::-1][:, :3],
        lambda x: x[:, ::2] * x[:, 1::2] + x.flip(1)[:, :3],
    ),
    "padded_stencil": Case(
        (_values(3, 5, seed=92),),
        lambda x: np.pad(x, ((0, 0), (1, 0)))[:, :-1] - 2 * x + np.pad(x, ((0, 0), (0, 1)))[:, 1:] * x,
        lambda x: torch.nn.functional.pad(x, (1, 0))[:, :-1] - 2 * x + torch.nn.functional.pad(x, (0, 1))[:, 1:] * x,
    ),
    "periodic_stencil": Case(
        (_values(3, 5, seed=93),),
        lambda x: np.concatenate([x[:, 1:], x[:, :1]], axis=1) * x - np.concatenate([x[:, -1:], x[:, :-1]], axis=1),
        lambda x: torch.cat([x[:, 1:], x[:, :1]], 1) * x - torch.cat([x[:, -1:], x[:, :-1]], 1),
    ),
    "rolled_stencil": Case(
        (_values(3, 5, seed=94),),
        lambda x: np.roll(x, 1, axis=1) * (np.roll(x, -1, axis=1) - 2 * x),
        lambda x: torch.roll(x, 1, 1) * (torch.roll(x, -1, 1) - 2 * x),
    ),
    "flip_and_stack": Case(
        (_values(3, 4, seed=95),),
        lambda x: np.stack([np.flip(x, 1), x * x], axis=2),
        lambda x: torch.stack([torch.flip(x, (1,)), x * x], 2),
    ),
    "transpose_and_reshape": Case(
        (_values(3, 2, 3, seed=96),),
        lambda x: np.sin(np.transpose(x, (0, 2, 1)).reshape(-1, 6)) * x.reshape(-1, 6),
        lambda x: torch.sin(x.permute(0, 2, 1).reshape(x.shape[0], 6)) * x.reshape(-1, 6),
    ),
    "broadcast_to": Case(
        (_values(3, 4, seed=97),),
        lambda x: np.broadcast_to(x[:, None, :], (x.shape[0], 2, 4)) * x[:, :2, None],
        lambda x: x[:, None, :].expand(x.shape[0], 2, 4) * x[:, :2, None],
    ),
    "gather_columns": Case(
        (_values(3, 4, seed=98),),
        lambda x: x[:, _INDEX] * np.take(x, [1, 1, 2, 3], axis=1),
        lambda x: x[:, torch.tensor(_INDEX)] * x[:, [1, 1, 2, 3]],
    ),
    "repeat_and_tile": Case(
        (_values(3, 2, seed=99),),
        lambda x: np.repeat(x, 2, axis=1) * np.tile(x, (1, 2)),
        lambda x: torch.repeat_interleave(x, 2, 1) * x.repeat(1, 2),
    ),
    "split": Case(
        (_values(3, 6, seed=100),),
        lambda x: np.split(x, 2, axis=1)[0] * np.tanh(np.split(x, 2, axis=1)[1]),
        lambda x: x.split(3, 1)[0] * torch.tanh(x.split(3, 1)[1]),
    ),
    "expand_and_squeeze": Case(
        (_values(3, 4, seed=101),),
        lambda x: np.squeeze(np.expand_dims(x, 1) * x[:, None], 1),
        lambda x: (x.unsqueeze(1) * x[:, None]).squeeze(1),
    ),
    "triangle": Case(
        (_values(3, 3, 3, seed=102),),
        lambda x: np.tril(x) @ np.triu(x, 1),
        lambda x: torch.tril(x) @ torch.triu(x, 1),
    ),
    "batch_axis_last": Case(
        (_values(4, 3, seed=103),),
        lambda x: x[1:] * x[:-1],
        lambda x: x[1:] * x[:-1],
        batch_axis=(1,),
        output_batch_axis=1,
    ),
    "burgers_step": Case(
        (_values(2, 8, seed=104),),
        lambda u: u + 0.1 * (0.2 * (np.roll(u, -1, 1) - 2 * u + np.roll(u, 1, 1)) - u * (np.roll(u, -1, 1) - u)),
        lambda u: u + 0.1 * (0.2 * (u.roll(-1, 1) - 2 * u + u.roll(1, 1)) - u * (u.roll(-1, 1) - u)),
    ),
}


# --------------------------------------------------------------------------------------------- where samples mix

_W_MIX, _B_MIX = _values(3, 4, seed=110), _values(4, seed=111)
_V_MIX = _values(4, 2, seed=112)


def _numpy_batch_norm(x: Any) -> Any:
    h = x @ _W_MIX + _B_MIX
    return np.tanh((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)) @ _V_MIX


def _torch_batch_norm(x: Any) -> Any:
    h = torch.nn.functional.batch_norm(x @ t(_W_MIX) + t(_B_MIX), None, None, training=True, eps=1e-5)
    return torch.tanh(h) @ t(_V_MIX)


MIXING = {
    "batch_norm": Case((_values(4, 3, seed=113),), _numpy_batch_norm, _torch_batch_norm, mixes=True, order=1),
    "batch_centred": Case(
        (_values(4, 3, seed=114),),
        lambda x: np.sin(x - x.mean(0)),
        lambda x: torch.sin(x - x.mean(0)),
        mixes=True,
        order=1,
    ),
    "softmax_over_batch": Case(
        (_values(4, 3, seed=115),),
        lambda x: _softmax(x, 0) * x,
        lambda x: torch.softmax(x, 0) * x,
        mixes=True,
        order=1,
    ),
    "batch_reversed": Case(
        (_values(4, 3, seed=116),), lambda x: x * x[::-1], lambda x: x * x.flip(0), mixes=True, order=1
    ),
    "pairwise_products": Case(
        (_values(3, 4, seed=117),), lambda x: np.tanh(x @ x.T), lambda x: torch.tanh(x @ x.T), mixes=True, order=1
    ),
}


FAMILIES: dict[str, dict[str, Case]] = {
    "networks": NETWORKS,
    "products": PRODUCTS,
    "elementwise": ELEMENTWISE,
    "kinks": KINKS,
    "reductions": REDUCTIONS,
    "structural": STRUCTURAL,
    "mixing": MIXING,
}
"""One stored file per family."""

CASES: dict[str, Case] = {name: case for family in FAMILIES.values() for name, case in family.items()}


def samples(case: Case) -> Iterator[tuple[Array, ...]]:
    """The inputs of one sample at a time, each with a batch of one."""
    sizes = {a.shape[axis] for a, axis in zip(case.inputs, case.batch_axis, strict=True) if axis is not None}
    (B,) = sizes
    for i in range(B):
        yield tuple(
            a if axis is None else np.take(a, [i], axis) for a, axis in zip(case.inputs, case.batch_axis, strict=True)
        )
