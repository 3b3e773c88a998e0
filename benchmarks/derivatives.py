"""Derivatives beyond one Jacobian, in minijac, torch and JAX: second order, partials, training steps, own blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from networks import mlp, torch_mlp
from ways import TRUTHS, VISCOSITY, Call, Calls, Data, Function, Work, jax, jnp, network_data, taylor, torch

import minijac as mj
from minijac import nn


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


def closed_form(d: Data) -> Calls:
    """Worked out on paper: a centred and scaled unit z has the slope (1 - (1 + z²) / B) / sd by its own sample."""
    (V, a), (W, _) = d["layers"]

    def own(x: Any) -> Any:
        h = x @ V + a
        h = h - h.mean(0)
        scale = 1.0 / jnp.sqrt((h * h).mean(0) + 1e-5)
        z = h * scale
        slope = (1.0 - jnp.tanh(z) ** 2) * scale * (1.0 - (1.0 + z * z) / len(x))
        return (slope[:, None, :] * W.T) @ V.T

    return {"closed form": Call(own, (d["x"],))}


def own_blocks_truth(d: Data) -> Any:
    f = batch_normalised(d, torch.tanh, torch.sqrt)
    own = lambda i: torch.autograd.functional.jacobian(lambda x: f(x)[i], d["x"])[:, i]
    return torch.stack([own(i) for i in range(TRUTHS)])
