"""What the benchmarks time: one table of workloads, each written for minijac, torch and JAX in the form that suits it.

A workload makes its data in float32. For each library it gives the ways to the same derivative as functions with their
arguments, so that the caller can compile them. `truth` is torch's reverse mode in float64, one sample at a time, for
the first samples; the reference for all samples is minijac in float64, checked against it.

Weights are captured by the functions, which lets every compiler treat them as constants, except where the derivative
is taken with respect to them. Torch and JAX are imported where they are first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import minijac as mj
from minijac import nn

Array = Any
Data = dict[str, Any]
Function = Callable[..., Any]

TRUTHS = 8
"""Samples that torch differentiates one by one for the reference."""
VISCOSITY = 0.01


class Call(NamedTuple):
    """A derivative and what it is called with."""

    function: Function
    arguments: tuple[Any, ...]


class Work(NamedTuple):
    """What nobody can avoid: floating point operations in matmuls, and bytes of the result."""

    flops: float
    bytes: float


Calls = Mapping[str, Call]


def nothing(data: Data) -> Calls:
    return {}


@dataclass(frozen=True)
class Workload:
    """One row of the table; what gives ways, truth and work takes the data (arrays, tensors or JAX arrays)."""

    name: str
    title: str
    data: Callable[[], Data]
    minijac: Callable[[Data], Call]
    torch: Callable[[Data], Calls]
    jax: Callable[[Data], Calls]
    truth: Function
    """The derivative in torch, for the first TRUTHS samples."""
    work: Callable[[Data], Work]
    compiled: tuple[str, ...] = ("jacrev of sum", "vmap(jvp)")
    """The torch variants that torch.compile is worth trying on."""
    torch_by_hand: Callable[[Data], Calls] = nothing
    """Not one of the library's ways to a Jacobian: the user has done the planning. Shown, and not counted."""
    jax_by_hand: Callable[[Data], Calls] = nothing
    arrange: Function = field(default=lambda leaf: leaf)
    """What a variant returns, as the dense array that it stands for."""
    per_sample: bool = True


class _Lazy:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


torch: Any = _Lazy("torch")
jax: Any = _Lazy("jax")
jnp: Any = _Lazy("jax.numpy")
taylor: Any = _Lazy("jax.experimental.jet")


# -- data --------------------------------------------------------------------------------------------------------------
def normal(random: Any, *shape: int, scale: float = 1.0) -> Array:
    return (scale * random.standard_normal(shape)).astype(np.float32)


def layers_of(random: Any, widths: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Weights and biases: [(in, out), (out,)] for each layer, with torch's default ranges."""
    return [
        tuple(random.uniform(-(n**-0.5), n**-0.5, shape).astype(np.float32) for shape in ((n, m), (m,)))  # type: ignore[misc]
        for n, m in pairwise(widths)
    ]


def network_data(batch: int, widths: tuple[int, ...]) -> Data:
    random = np.random.RandomState(0)
    return {"layers": layers_of(random, widths), "x": normal(random, batch, widths[0])}


# -- first order: ways to a Jacobian -----------------------------------------------------------------------------------
def torch_jacobians(f: Function, x: Any) -> Calls:
    """All ways to (B, *out, *in) for an `f` that takes a batch, or one sample."""
    func, functional = torch.func, torch.autograd.functional
    samples = f(x).ndim - 1  # the axis of the samples, where the outputs' axes come first
    basis = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])

    def summed(x: Any) -> Any:
        return f(x).sum(0)

    def by_columns(x: Any) -> Any:
        J = func.vmap(lambda e: func.jvp(f, (x,), (e.expand_as(x),))[1], out_dims=-1)(basis)
        return J.unflatten(-1, x.shape[1:])

    ways = {
        "sum trick": lambda x: functional.jacobian(summed, x).movedim(samples, 0),
        "sum trick, vectorized": lambda x: functional.jacobian(summed, x, vectorize=True).movedim(samples, 0),
        "jacrev of sum": lambda x: func.jacrev(summed)(x).movedim(samples, 0),
        "vmap(jacrev)": lambda x: func.vmap(func.jacrev(f))(x),
        "vmap(jacfwd)": lambda x: func.vmap(func.jacfwd(f))(x),
        "vmap(jvp)": by_columns,
    }
    return {name: Call(way, (x,)) for name, way in ways.items()}


def jax_jacobians(f: Function, x: Any) -> Calls:
    """Both modes, for an `f` of one sample."""
    return {
        "vmap(jacrev)": Call(jax.vmap(jax.jacrev(f)), (x,)),
        "vmap(jacfwd)": Call(jax.vmap(jax.jacfwd(f)), (x,)),
    }


def jacobian_truth(f: Function, x: Any) -> Any:
    return torch.stack([torch.autograd.functional.jacobian(f, row) for row in x[:TRUTHS]])


def jacobian_workload(
    name: str,
    title: str,
    data: Callable[[], Data],
    functions: tuple[Function, Function, Function],
    work: Callable[[Data], Work],
    *,
    structured: bool = False,
    **more: Any,
) -> Workload:
    """The Jacobian of ``functions``: from data to f of a batch in NumPy, of either in torch, of one sample in JAX."""
    in_numpy, in_torch, in_jax = functions
    return Workload(
        name,
        title,
        data,
        minijac=lambda d: Call(mj.jacobian(in_numpy(d), structured=structured), (d["x"],)),
        torch=more.pop("torch", lambda d: torch_jacobians(in_torch(d), d["x"])),
        jax=more.pop("jax", lambda d: jax_jacobians(in_jax(d), d["x"])),
        truth=lambda d: jacobian_truth(in_torch(d), d["x"]),
        work=work,
        **more,
    )


def planned(in_numpy: Function) -> Callable[[Data], Work]:
    """The multiply-adds of the cheapest order that minijac knows, where there is no formula, and the result once."""

    def work(d: Data) -> Work:
        f, x = in_numpy(d), d["x"]
        plan = mj.explain(f, x).chosen
        return Work(2.0 * plan.cost.multiply_adds, 4.0 * f(x).size * x[0].size)

    return work


def result_only(entries: int) -> Callable[[Data], Work]:
    return lambda d: Work(0.0, 4.0 * entries)


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


# -- second order ------------------------------------------------------------------------------------------------------
def scalar(f: Function) -> Function:
    """(..., n) -> (...) of a network with one output."""
    return lambda x: f(x)[..., 0]


def torch_laplacians(d: Data) -> Calls:
    f, func, x = scalar(torch_mlp(d, torch.tanh)), torch.func, d["x"]
    n = x.shape[1]
    basis = torch.eye(n, dtype=x.dtype)
    gradient = func.grad(lambda x: f(x).sum())

    def nested(x: Any) -> Any:
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        rows = (torch.autograd.grad(g[:, k].sum(), x, retain_graph=True)[0][:, k] for k in range(n))
        return sum(rows)

    def jvp_of_grad(x: Any) -> Any:
        along = lambda e: (func.jvp(gradient, (x,), (e.expand_as(x),))[1] * e).sum(-1)
        return func.vmap(along)(basis).sum(0)

    def jvp_of_jvp(x: Any) -> Any:
        def along(e: Any) -> Any:
            e = e.expand_as(x)
            return func.jvp(lambda z: func.jvp(f, (z,), (e,))[1], (x,), (e,))[1]

        return func.vmap(along)(basis).sum(0)

    ways = {
        "nested grad": nested,
        "vmap(hessian)": func.vmap(lambda x: func.hessian(f)(x).diagonal().sum()),
        "vmap(jvp of grad)": jvp_of_grad,
        "vmap(jvp of jvp)": jvp_of_jvp,
    }
    return {name: Call(way, (x,)) for name, way in ways.items()}


def jax_laplacians(d: Data) -> Calls:
    f, x = scalar(mlp(d, jnp.tanh)), d["x"]
    basis = jnp.eye(x.shape[1], dtype=x.dtype)

    def jvp_of_grad(x: Any) -> Any:
        return jax.vmap(lambda e: jax.jvp(jax.grad(f), (x,), (e,))[1] @ e)(basis).sum()

    def jvp_of_jvp(x: Any) -> Any:
        return jax.vmap(lambda e: jax.jvp(lambda z: jax.jvp(f, (z,), (e,))[1], (x,), (e,))[1])(basis).sum()

    def second_order_jet(x: Any) -> Any:
        return jax.vmap(lambda e: taylor.jet(f, (x,), ((e, jnp.zeros_like(e)),))[1][1])(basis).sum()

    ways = {
        "vmap(hessian)": lambda x: jnp.trace(jax.hessian(f)(x)),
        "vmap(jvp of grad)": jvp_of_grad,
        "vmap(jvp of jvp)": jvp_of_jvp,
        "vmap(jet)": second_order_jet,
    }
    return {name: Call(jax.vmap(way), (x,)) for name, way in ways.items()}


def forward_laplacian(d: Data) -> Calls:
    """Value, Jacobian and Laplacian of every layer together, for this network alone."""
    *hidden, (last, offset) = d["layers"]

    def one(x: Any) -> Any:
        J, L = jnp.eye(x.shape[0], dtype=x.dtype), jnp.zeros_like(x)
        for W, b in hidden:
            x, J, L = jnp.tanh(x @ W + b), J @ W, L @ W
            slope = 1 - x * x
            J, L = slope * J, slope * L - 2 * x * slope * (J * J).sum(0)
        return (L @ last)[0]

    return {"forward Laplacian": Call(jax.vmap(one), (d["x"],))}


def laplacian_truth(d: Data) -> Any:
    f = scalar(torch_mlp(d, torch.tanh))
    return torch.stack([torch.autograd.functional.hessian(f, row).trace() for row in d["x"][:TRUTHS]])


def laplacian_work(d: Data) -> Work:
    batch, n = d["x"].shape
    rows = [1] + [n + 2] * (len(d["layers"]) - 1)  # the first layer's Jacobian is its weight
    return Work(2.0 * batch * sum(r * W.size for r, (W, _) in zip(rows, d["layers"], strict=True)), 4.0 * batch)


def torch_hessians(d: Data) -> Calls:
    f, func = scalar(torch_mlp(d, torch.tanh)), torch.func
    summed = lambda x: f(x).sum()
    ways = {
        "vmap(jacfwd(jacrev))": func.vmap(func.jacfwd(func.jacrev(f))),
        "vmap(jacrev(jacrev))": func.vmap(func.jacrev(func.jacrev(f))),
        "vmap(jacfwd(jacfwd))": func.vmap(func.jacfwd(func.jacfwd(f))),
        "jacrev of sum of grad": lambda x: func.jacrev(lambda x: func.grad(summed)(x).sum(0))(x).movedim(1, 0),
    }
    return {name: Call(way, (d["x"],)) for name, way in ways.items()}


def jax_hessians(d: Data) -> Calls:
    f = scalar(mlp(d, jnp.tanh))
    ways = {
        "vmap(jacfwd(jacrev))": jax.jacfwd(jax.jacrev(f)),
        "vmap(jacrev(jacrev))": jax.jacrev(jax.jacrev(f)),
        "vmap(jacfwd(jacfwd))": jax.jacfwd(jax.jacfwd(f)),
    }
    return {name: Call(jax.vmap(way), (d["x"],)) for name, way in ways.items()}


def hessian_truth(d: Data) -> Any:
    f = scalar(torch_mlp(d, torch.tanh))
    return torch.stack([torch.autograd.functional.hessian(f, row) for row in d["x"][:TRUTHS]])


def hessian_work(d: Data) -> Work:
    """H = sum over layers of J.T diag J: the layers' Jacobians, one reverse pass, and a product for each layer."""
    batch, n = d["x"].shape
    weights = [W for W, _ in d["layers"]]
    forward = sum(W.size for W in weights)
    jacobians = n * sum(W.size for W in weights[1:-1])
    products = sum(n * W.shape[1] * n for W in weights[:-1])
    return Work(2.0 * batch * (2 * forward + jacobians + products), 4.0 * batch * n * n)


# -- partial derivatives, and a physics-informed training step ---------------------------------------------------------
INDICES = [(), (0,), (1,), (1, 1)]
"""u, u_t, u_x, u_xx of points (t, x)."""


def torch_partials(f: Function) -> dict[str, Function]:
    func = torch.func

    def nested(x: Any) -> Any:
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        u = f(x)
        (g,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g[:, 1].sum(), x, create_graph=True)
        return u, g[:, 0], g[:, 1], h[:, 1]

    def with_value(x: Any) -> Any:
        u = f(x)
        return u.sum(), u

    def jvp_of_grad(x: Any) -> Any:
        e = torch.tensor([0.0, 1.0], dtype=x.dtype).expand_as(x)
        g, h, u = func.jvp(func.grad(with_value, has_aux=True), (x,), (e,), has_aux=True)
        return u, g[:, 0], g[:, 1], h[:, 1]

    def jvp_of_jvp(x: Any) -> Any:
        t, e = (torch.tensor(v, dtype=x.dtype).expand_as(x) for v in ([1.0, 0.0], [0.0, 1.0]))
        (u, u_x), (_, u_xx) = func.jvp(lambda z: func.jvp(f, (z,), (e,)), (x,), (e,))
        return u, func.jvp(f, (x,), (t,))[1], u_x, u_xx

    return {"nested grad": nested, "jvp of grad": jvp_of_grad, "jvp of jvp": jvp_of_jvp}


def jax_partials(f: Function) -> dict[str, Function]:
    """Of one sample."""

    def jvp_of_grad(x: Any) -> Any:
        (u, g), (_, h) = jax.jvp(jax.value_and_grad(f), (x,), (jnp.array([0.0, 1.0], x.dtype),))
        return u, g[0], g[1], h[1]

    def jvp_of_jvp(x: Any) -> Any:
        t, e = jnp.array([1.0, 0.0], x.dtype), jnp.array([0.0, 1.0], x.dtype)
        (u, u_x), (_, u_xx) = jax.jvp(lambda z: jax.jvp(f, (z,), (e,)), (x,), (e,))
        return u, jax.jvp(f, (x,), (t,))[1], u_x, u_xx

    def nested_grad(x: Any) -> Any:
        u, g = jax.value_and_grad(f)(x)
        return u, g[0], g[1], jax.grad(lambda z: jax.grad(f)(z)[1])(x)[1]

    def second_order_jet(x: Any) -> Any:
        t, e = jnp.array([1.0, 0.0], x.dtype), jnp.array([0.0, 1.0], x.dtype)
        u, (u_x, u_xx) = taylor.jet(f, (x,), ((e, jnp.zeros_like(e)),))
        return u, jax.jvp(f, (x,), (t,))[1], u_x, u_xx

    return {"jvp of grad": jvp_of_grad, "jvp of jvp": jvp_of_jvp, "nested grad": nested_grad, "jet": second_order_jet}


def partials_truth(d: Data) -> Any:
    f = scalar(torch_mlp(d, torch.tanh))
    rows = [torch_partials(f)["nested grad"](row[None]) for row in d["x"][:TRUTHS]]
    return tuple(torch.cat(leaf).detach() for leaf in zip(*rows, strict=True))


def partials_work(d: Data, passes: int = 1) -> Work:
    """Four numbers for each unit go through every layer but the first, whose derivatives are its weights."""
    batch = d["x"].shape[0]
    first, *rest = [W.size for W, _ in d["layers"]]
    return Work(2.0 * passes * batch * (first + 4 * sum(rest)), 16.0 * batch)


def burgers_loss(u: Any, u_t: Any, u_x: Any, u_xx: Any) -> Any:
    return ((u_t + u * u_x - VISCOSITY * u_xx) ** 2).mean()


def minijac_step(d: Data) -> Call:
    def loss(layers: Any, x: Any) -> Any:
        return burgers_loss(*mj.partials(scalar(mlp({"layers": layers}, np.tanh)), INDICES)(x))

    return Call(mj.value_and_grad(loss), (d["layers"], d["x"]))


def torch_steps(d: Data) -> Calls:
    def nested(layers: Any, x: Any) -> Any:
        layers = [tuple(p.detach().requires_grad_() for p in pair) for pair in layers]
        loss = burgers_loss(*torch_partials(scalar(mlp({"layers": layers}, torch.tanh)))["nested grad"](x))
        flat = torch.autograd.grad(loss, [p for pair in layers for p in pair])
        return loss.detach(), list(zip(flat[::2], flat[1::2], strict=True))

    def step(inner: str) -> Function:
        def loss(layers: Any, x: Any) -> Any:
            return burgers_loss(*torch_partials(scalar(mlp({"layers": layers}, torch.tanh)))[inner](x))

        def value_and_grad(layers: Any, x: Any) -> Any:
            gradient, value = torch.func.grad_and_value(loss)(layers, x)
            return value, gradient

        return value_and_grad

    ways = {"nested grad": nested, **{f"grad of {name}": step(name) for name in ("jvp of grad", "jvp of jvp")}}
    return {name: Call(way, (d["layers"], d["x"])) for name, way in ways.items()}


def jax_steps(d: Data) -> Calls:
    def step(inner: str) -> Function:
        def loss(layers: Any, x: Any) -> Any:
            return burgers_loss(*jax.vmap(jax_partials(scalar(mlp({"layers": layers}, jnp.tanh)))[inner])(x))

        return jax.value_and_grad(loss)

    return {
        f"grad of {name}": Call(step(name), (d["layers"], d["x"]))
        for name in ("jvp of grad", "jvp of jvp", "nested grad", "jet")
    }


def step_truth(d: Data) -> Any:
    call = torch_steps(d)["nested grad"]
    return call.function(*call.arguments)


# -- gradients of each sample's loss -----------------------------------------------------------------------------------
def classifier_data() -> Data:
    random = np.random.RandomState(0)
    data = network_data(256, (32, 128, 10))
    return data | {"y": np.eye(10, dtype=np.float32)[random.randint(0, 10, 256)]}


def minijac_gradients(d: Data) -> Call:
    def loss(layers: Any, x: Any, y: Any) -> Any:
        return -(nn.log_softmax(mlp({"layers": layers}, np.tanh)(x)) * y).sum(1)

    return Call(mj.jacobian(loss, 0, batch_axis=(None, 0, 0)), (d["layers"], d["x"], d["y"]))


def torch_loss(layers: Any, x: Any, y: Any) -> Any:
    return -(torch.log_softmax(mlp({"layers": layers}, torch.tanh)(x), -1) * y).sum(-1)


def torch_gradients(d: Data) -> Calls:
    def expanded(layers: Any, x: Any, y: Any) -> Any:
        """One copy of the weights for each sample, as a view, and one reverse pass."""
        layers = [tuple(p.expand(len(x), *p.shape).detach().requires_grad_() for p in pair) for pair in layers]
        *hidden, (W, b) = layers
        h = x
        for V, a in hidden:
            h = torch.tanh(torch.baddbmm(a[:, None], h[:, None], V)[:, 0])
        z = torch.baddbmm(b[:, None], h[:, None], W)[:, 0]
        flat = torch.autograd.grad(-(torch.log_softmax(z, -1) * y).sum(), [p for pair in layers for p in pair])
        return list(zip(flat[::2], flat[1::2], strict=True))

    ways = {"vmap(grad)": torch.func.vmap(torch.func.grad(torch_loss), (None, 0, 0)), "expanded weights": expanded}
    return {name: Call(way, (d["layers"], d["x"], d["y"])) for name, way in ways.items()}


def jax_gradients(d: Data) -> Calls:
    def loss(layers: Any, x: Any, y: Any) -> Any:
        return -(jax.nn.log_softmax(mlp({"layers": layers}, jnp.tanh)(x)) * y).sum()

    return {"vmap(grad)": Call(jax.vmap(jax.grad(loss), (None, 0, 0)), (d["layers"], d["x"], d["y"]))}


def gradients_truth(d: Data) -> Any:
    gradients = []
    for x, y in zip(d["x"][:TRUTHS], d["y"][:TRUTHS], strict=True):
        layers = [tuple(p.detach().requires_grad_() for p in pair) for pair in d["layers"]]
        gradients.append(torch.autograd.grad(torch_loss(layers, x, y), [p for pair in layers for p in pair]))
    leaves = [torch.stack(leaf) for leaf in zip(*gradients, strict=True)]
    return list(zip(leaves[::2], leaves[1::2], strict=True))


def gradients_work(d: Data) -> Work:
    (V, a), (W, b) = d["layers"]
    return Work(2.0 * 256 * (V.size + 2 * W.size), 4.0 * 256 * (V.size + a.size + W.size + b.size))


# -- batch statistics --------------------------------------------------------------------------------------------------
def batch_normalised(d: Data, tanh: Function, sqrt: Function) -> Function:
    """A hidden layer normalised by mean and variance over the batch: every output depends on every sample."""
    (V, a), (W, b) = d["layers"]

    def f(x: Any) -> Any:
        h = x @ V + a
        h = h - h.mean(0)
        return tanh(h / sqrt((h * h).mean(0) + 1e-5)) @ W + b

    return f


def torch_own_blocks(d: Data) -> Calls:
    f, func = batch_normalised(d, torch.tanh, torch.sqrt), torch.func
    mask = torch.eye(len(d["x"]), dtype=d["x"].dtype)[:, :, None]

    def own(transform: Function) -> Function:
        def block(x: Any, x_i: Any, m: Any) -> Any:
            return transform(lambda z: (f(torch.where(m > 0, z, x)) * m).sum(0))(x_i)

        return lambda x: func.vmap(block, (None, 0, 0))(x, x, mask)

    def full(x: Any) -> Any:
        J = torch.autograd.functional.jacobian(f, x, vectorize=True)
        return J.diagonal(dim1=0, dim2=2).permute(2, 0, 1)

    ways = {"full, diagonal": full, "own jacrev": own(func.jacrev), "own jacfwd": own(func.jacfwd)}
    return {name: Call(way, (d["x"],)) for name, way in ways.items()}


def jax_own_blocks(d: Data) -> Calls:
    f = batch_normalised(d, jnp.tanh, jnp.sqrt)

    def own(transform: Function) -> Function:
        def block(x: Any, i: Any) -> Any:
            return transform(lambda z: f(x.at[i].set(z))[i])(x[i])

        return lambda x: jax.vmap(block, (None, 0))(x, jnp.arange(len(x)))

    def full(transform: Function) -> Function:
        return lambda x: jnp.einsum("ijik->ijk", transform(f)(x))

    ways = {
        "own jacrev": own(jax.jacrev),
        "own jacfwd": own(jax.jacfwd),
        "full jacrev, diagonal": full(jax.jacrev),
        "full jacfwd, diagonal": full(jax.jacfwd),
    }
    return {name: Call(way, (d["x"],)) for name, way in ways.items()}


def own_blocks_truth(d: Data) -> Any:
    f = batch_normalised(d, torch.tanh, torch.sqrt)
    own = lambda i: torch.autograd.functional.jacobian(lambda x: f(x)[i], d["x"])[:, i]
    return torch.stack([own(i) for i in range(TRUTHS)])


# -- the table ---------------------------------------------------------------------------------------------------------
POINTS = (2, 64, 64, 64, 1)

_ALL = (
    mlp_workload("thread", 3, (5, 2, 10), "sigmoid"),
    mlp_workload("mlp-wide", 256, (32, 256, 256, 32)),
    mlp_workload("mlp-512", 512, (10, 512, 512, 10)),
    mlp_workload("mlp-deep", 8192, (3, 64, 64, 64, 64, 3)),
    mlp_workload("autoencoder", 16, (784, 256, 32, 256, 784), torch_by_hand=halves_in_torch, jax_by_hand=halves_in_jax),
    jacobian_workload(
        "elementwise", "sin(x) exp(-x²), B=64, D=256, dense", batch_of(64, 256), BUMPS, result_only(64 * 256 * 256)
    ),
    jacobian_workload(
        "elementwise-structured",
        "the same, structured",
        batch_of(64, 256),
        BUMPS,
        result_only(2 * 64 * 256),
        structured=True,
        torch=torch_diagonal,
        jax=lambda d: {**jax_jacobians(bump(jnp), d["x"]), **jax_diagonal(d)},
        arrange=from_diagonal,
        compiled=("jvp of ones",),
    ),
    jacobian_workload(
        "burgers", "Burgers' right-hand side, n=256, B=64, dense", batch_of(64, 256), BURGERS, result_only(64 * 256**2)
    ),
    jacobian_workload(
        "burgers-structured",
        "the same, structured (peers dense)",
        batch_of(64, 256),
        BURGERS,
        result_only(4 * 64 * 256),
        structured=True,
        jax_by_hand=three_columns,
        arrange=from_columns,
    ),
    jacobian_workload("arm", "arm with 7 joints, B=4096", batch_of(4096, 7), ARMS, result_only(4096 * 28)),
    jacobian_workload(
        "transformer",
        "transformer block, T=8, d=32, B=16",
        transformer_data,
        TRANSFORMERS,
        planned(TRANSFORMERS[0]),
    ),
    jacobian_workload(
        "residual", "8 residual blocks, width 64, B=256", residual_data, RESIDUALS, planned(RESIDUALS[0])
    ),
    jacobian_workload(
        "convolution", "two convolutions, 16 x 16, B=32", convolution_data, CONVOLUTIONS, planned(CONVOLUTIONS[0])
    ),
    Workload(
        "laplacian",
        "Laplacian, 50-256-256-1 tanh, B=128",
        partial(network_data, 128, (50, 256, 256, 1)),
        lambda d: Call(mj.laplacian(scalar(mlp(d, np.tanh))), (d["x"],)),
        torch_laplacians,
        jax_laplacians,
        laplacian_truth,
        laplacian_work,
        compiled=("vmap(jvp of grad)", "vmap(jvp of jvp)"),
        jax_by_hand=forward_laplacian,
    ),
    Workload(
        "partials",
        "u, u_t, u_x, u_xx, 2-64-64-64-1 tanh, B=4096",
        partial(network_data, 4096, POINTS),
        lambda d: Call(mj.partials(scalar(mlp(d, np.tanh)), INDICES), (d["x"],)),
        lambda d: {k: Call(way, (d["x"],)) for k, way in torch_partials(scalar(torch_mlp(d, torch.tanh))).items()},
        lambda d: {k: Call(jax.vmap(way), (d["x"],)) for k, way in jax_partials(scalar(mlp(d, jnp.tanh))).items()},
        partials_truth,
        partials_work,
        compiled=("jvp of grad", "jvp of jvp"),
    ),
    Workload(
        "pinn-step",
        "training step on its residual, B=4096",
        partial(network_data, 4096, POINTS),
        minijac_step,
        torch_steps,
        jax_steps,
        step_truth,
        partial(partials_work, passes=3),
        compiled=("grad of jvp of grad", "grad of jvp of jvp"),
        per_sample=False,
    ),
    Workload(
        "hessian",
        "Hessian, 10-64-64-1 tanh, B=256",
        partial(network_data, 256, (10, 64, 64, 1)),
        lambda d: Call(mj.hessian(scalar(mlp(d, np.tanh))), (d["x"],)),
        torch_hessians,
        jax_hessians,
        hessian_truth,
        hessian_work,
        compiled=("vmap(jacfwd(jacrev))", "jacrev of sum of grad"),
    ),
    Workload(
        "sample-gradients",
        "gradient of each sample's loss, 32-128-10, B=256",
        classifier_data,
        minijac_gradients,
        torch_gradients,
        jax_gradients,
        gradients_truth,
        gradients_work,
        compiled=("vmap(grad)",),
    ),
    Workload(
        "batch-statistics",
        "batch statistics, exact diagonal, 16-32-8, B=64",
        partial(network_data, 64, (16, 32, 8)),
        lambda d: Call(mj.jacobian(batch_normalised(d, np.tanh, np.sqrt), on_mixing="diagonal"), (d["x"],)),
        torch_own_blocks,
        jax_own_blocks,
        own_blocks_truth,
        lambda d: chain_work(64, (16, 32, 8)),
        compiled=("own jacrev", "own jacfwd"),
    ),
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}
