"""The functions that the benchmarks differentiate, each in NumPy, torch and JAX in the form that suits the library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from ways import (
    VISCOSITY,
    Array,
    Call,
    Calls,
    Data,
    Function,
    Work,
    Workload,
    jacobian_workload,
    jax,
    jnp,
    layers_of,
    network_data,
    normal,
    torch,
    torch_jacobians,
)

from minijac import nn


# -- multilayer perceptrons --------------------------------------------------------------------------------------------
def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def mlp(d: Data, activation: Function) -> Function:
    """Any library's perceptron: ``x @ W + b`` takes a batch and one sample alike."""
    *hidden, (last, offset) = d["layers"]

    def f(x: Any) -> Any:
        for W, b in hidden:
            x = activation(x @ W + b)
        return x @ last + offset

    return f


def torch_mlp(d: Data, activation: Function) -> Function:
    *hidden, last = [(W.T.contiguous(), b) for W, b in d["layers"]]
    linear = torch.nn.functional.linear

    def f(x: Any) -> Any:
        for W, b in hidden:
            x = activation(linear(x, W, b))
        return linear(x, *last)

    return f


def chain_work(batch: int, widths: tuple[int, ...]) -> Work:
    """Forward pass, and the cheapest order to multiply the layers' matrices, of every sample."""
    n = len(widths) - 1
    best = {(i, i): 0 for i in range(n)}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            best[i, j] = min(
                best[i, k] + best[k + 1, j] + widths[i] * widths[k + 1] * widths[j + 1] for k in range(i, j)
            )
    forward = sum(a * b for a, b in pairwise(widths))
    return Work(2.0 * batch * (forward + best[0, n - 1]), 4.0 * batch * widths[0] * widths[-1])


def mlp_workload(name: str, batch: int, widths: tuple[int, ...], activation: str = "tanh", **more: Any) -> Workload:
    functions = (
        lambda d: mlp(d, np.tanh if activation == "tanh" else sigmoid),
        lambda d: torch_mlp(d, getattr(torch, activation)),
        lambda d: mlp(d, jnp.tanh if activation == "tanh" else jax.nn.sigmoid),
    )
    title = f"{'-'.join(map(str, widths))} {activation}, B={batch}"
    data, work = partial(network_data, batch, widths), lambda d: chain_work(batch, widths)
    return jacobian_workload(name, title, data, functions, work, **more)


def halves_in_torch(d: Data) -> Calls:
    """The autoencoder's Jacobian as the product of the decoder's (forward) and the encoder's (reverse)."""
    encode = torch_mlp({"layers": d["layers"][:2]}, torch.tanh)
    decode = torch_mlp({"layers": d["layers"][2:]}, torch.tanh)

    def first(x: Any) -> Any:
        return torch.tanh(encode(x))

    def product(x: Any) -> Any:
        ways = torch_jacobians(decode, first(x))["vmap(jvp)"], torch_jacobians(first, x)["jacrev of sum"]
        after, before = (way.function(*way.arguments) for way in ways)
        return after @ before

    return {"two halves": Call(product, (d["x"],))}


def halves_in_jax(d: Data) -> Calls:
    encode, decode = (mlp({"layers": part}, jnp.tanh) for part in (d["layers"][:2], d["layers"][2:]))

    def one(x: Any) -> Any:
        z = jnp.tanh(encode(x))
        return jax.jacfwd(decode)(z) @ jax.jacrev(lambda x: jnp.tanh(encode(x)))(x)

    return {"two halves": Call(jax.vmap(one), (d["x"],))}


# -- elementwise, and a stencil ----------------------------------------------------------------------------------------
def bump(xp: Any) -> Function:
    return lambda x: xp.sin(x) * xp.exp(-x * x)


BUMPS = (lambda d: bump(np), lambda d: bump(torch), lambda d: bump(jnp))


def batch_of(batch: int, *shape: int) -> Callable[[], Data]:
    return lambda: {"x": normal(np.random.RandomState(0), batch, *shape)}


def torch_diagonal(d: Data) -> Calls:
    f = bump(torch)
    return {"jvp of ones": Call(lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1], (d["x"],))}


def jax_diagonal(d: Data) -> Calls:
    f = bump(jnp)
    return {"jvp of ones": Call(lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1], (d["x"],))}


def from_diagonal(leaf: Array) -> Array:
    return leaf if leaf.ndim == 3 else leaf[:, :, None] * np.eye(leaf.shape[1], dtype=leaf.dtype)


def burgers(pad: Function, dx: float = 0.1) -> Function:
    """du/dt = -u u_x + nu u_xx by central differences between zero walls; u: (..., n)."""

    def f(u: Any) -> Any:
        p = pad(u)
        left, right = p[..., :-2], p[..., 2:]
        return -u * (right - left) / (2 * dx) + VISCOSITY * (right - 2 * u + left) / dx**2

    return f


BURGERS = (
    lambda d: burgers(lambda u: np.pad(u, ((0, 0), (1, 1)))),
    lambda d: burgers(lambda u: torch.nn.functional.pad(u, (1, 1))),
    lambda d: burgers(lambda u: jnp.pad(u, 1)),
)


def three_columns(d: Data) -> Calls:
    """The Jacobian's three diagonals by three jvps: column k of colour k % 3."""
    f, n = jax.vmap(BURGERS[2](d)), d["x"].shape[1]
    colours = jnp.stack([(jnp.arange(n) % 3 == c).astype(d["x"].dtype) for c in range(3)])

    def compressed(x: Any) -> Any:
        along = lambda e: jax.jvp(f, (x,), (jnp.broadcast_to(e, x.shape),))[1]
        return jax.vmap(along)(colours)

    return {"3 jvps, compressed": Call(compressed, (d["x"],))}


def from_columns(leaf: Array) -> Array:
    """(3, B, n) of `three_columns`, or a dense array as it is."""
    if leaf.shape[0] != 3:
        return leaf
    n = leaf.shape[-1]
    row, column = np.indices((n, n))
    return leaf[column % 3, :, row].transpose(2, 0, 1) * (np.abs(row - column) <= 1)


# -- a robot arm -------------------------------------------------------------------------------------------------------
LENGTHS = (0.34, 0.0, 0.4, 0.0, 0.4, 0.0, 0.126)


def arm(sin: Function, cos: Function, joints: Function, join: Function) -> Function:
    """Where the tip of seven joints is, turning about z and y in turn, from the tip's side: (..., 7) -> (..., 3).

    Written with scalars: two components turn at each joint, and no matrix is made.
    """

    def f(q: Any) -> Any:
        s, c = sin(q), cos(q)
        x, y, z = 0.0, 0.0, LENGTHS[6]
        for k in reversed(range(7)):
            sk, ck = joints(s, k), joints(c, k)
            if k % 2:
                x, z = ck * x + sk * z, ck * z - sk * x
            else:
                x, y = ck * x - sk * y, sk * x + ck * y
            if k:
                z = z + LENGTHS[k - 1]
        return join(x, y, z)

    return f


ARMS = (
    lambda d: arm(np.sin, np.cos, lambda a, k: a[:, k], lambda *p: np.stack(p, axis=-1)),
    lambda d: arm(torch.sin, torch.cos, lambda a, k: a[..., k], lambda *p: torch.stack(p, -1)),
    lambda d: arm(jnp.sin, jnp.cos, lambda a, k: a[k], lambda *p: jnp.stack(p)),
)


# -- a transformer block -----------------------------------------------------------------------------------------------
HEADS = 4


def transformer_data() -> Data:
    random = np.random.RandomState(0)
    shapes = {"q": (32, 32), "k": (32, 32), "v": (32, 32), "o": (32, 32), "up": (32, 128), "down": (128, 32)}
    weights = {name: normal(random, *shape, scale=shape[0] ** -0.5) for name, shape in shapes.items()}
    return weights | {"x": normal(random, 16, 8, 32)}


def transformer(d: Data, norm: Function, softmax: Function, gelu: Function, swap: Function) -> Function:
    """Norm, attention with four heads and a residual; norm, two layers and a residual; x: (..., T, 32)."""

    def heads(a: Any) -> Any:
        return swap(a.reshape(*a.shape[:-1], HEADS, 32 // HEADS), -3, -2)

    def f(x: Any) -> Any:
        h = norm(x)
        q, k, v = heads(h @ d["q"]), heads(h @ d["k"]), heads(h @ d["v"])
        weights = softmax(q @ swap(k, -1, -2) / (32 / HEADS) ** 0.5)
        x = x + swap(weights @ v, -3, -2).reshape(x.shape) @ d["o"]
        return x + gelu(norm(x) @ d["up"]) @ d["down"]

    return f


def jax_norm(x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)


TRANSFORMERS = (
    lambda d: transformer(d, nn.layer_norm, nn.softmax, partial(nn.gelu, approximate="tanh"), np.swapaxes),
    lambda d: transformer(
        d,
        lambda x: torch.nn.functional.layer_norm(x, (32,)),
        lambda x: torch.softmax(x, -1),
        lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        lambda x, *axes: x.transpose(*axes),
    ),
    lambda d: transformer(d, jax_norm, jax.nn.softmax, jax.nn.gelu, jnp.swapaxes),
)


# -- residual blocks ---------------------------------------------------------------------------------------------------
def residual_data() -> Data:
    random = np.random.RandomState(0)
    return {"blocks": [layers_of(random, (64, 64, 64)) for _ in range(8)], "x": normal(random, 256, 64)}


def residual(d: Data, tanh: Function) -> Function:
    def f(x: Any) -> Any:
        for (V, a), (W, b) in d["blocks"]:
            x = x + (tanh(x @ V + a) @ W + b)
        return x

    return f


RESIDUALS = (lambda d: residual(d, np.tanh), lambda d: residual(d, torch.tanh), lambda d: residual(d, jnp.tanh))


# -- a small convolution net -------------------------------------------------------------------------------------------
def convolution_data() -> Data:
    random = np.random.RandomState(0)
    return {
        "first": normal(random, 8, 1, 3, 3, scale=1 / 3),
        "second": normal(random, 16, 8, 3, 3, scale=72**-0.5),
        "last": normal(random, 256, 10, scale=1 / 16),
        "x": normal(random, 32, 1, 16, 16),
    }


def numpy_convolutions(d: Data) -> Function:
    def f(x: Any) -> Any:
        h = nn.avg_pool2d(np.tanh(nn.conv2d(x, d["first"], padding=1)), 2)
        h = nn.avg_pool2d(np.tanh(nn.conv2d(h, d["second"], padding=1)), 2)
        return np.reshape(h, (h.shape[0], 256)) @ d["last"]

    return f


def torch_convolutions(d: Data) -> Function:
    def f(x: Any) -> Any:
        F = torch.nn.functional
        h = F.avg_pool2d(torch.tanh(F.conv2d(x, d["first"], padding=1)), 2)
        h = F.avg_pool2d(torch.tanh(F.conv2d(h, d["second"], padding=1)), 2)
        return h.flatten(-3) @ d["last"]

    return f


def jax_convolutions(d: Data) -> Function:
    def pool(h: Any) -> Any:
        c, n, m = h.shape
        return h.reshape(c, n // 2, 2, m // 2, 2).mean((2, 4))

    def f(x: Any) -> Any:
        for name in ("first", "second"):
            x = pool(jnp.tanh(jax.lax.conv_general_dilated(x[None], d[name], (1, 1), "SAME")[0]))
        return x.reshape(256) @ d["last"]

    return f


CONVOLUTIONS = (numpy_convolutions, torch_convolutions, jax_convolutions)
