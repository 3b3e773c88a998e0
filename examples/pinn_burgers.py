"""Burgers' equation by a physics-informed network: exactly the partial derivatives asked for, inside a loss.

    u_t + u u_x = nu u_xx   for x in [-1, 1], t in [0, 1];   u(0, x) = -sin(pi x),   u(t, -1) = u(t, 1) = 0

A sine steepens into a front at x = 0. The network sits in an ansatz that meets the initial and boundary values, so the
loss is the residual alone: u, u_t, u_x and u_xx come from one pass of `mj.partials`, the gradient with respect to all
weights from `mj.value_and_grad` around it, and SciPy's L-BFGS takes the steps. The solution is compared with the exact
one (Cole and Hopf's transformation, by quadrature); residual and gradient are checked against torch's nested reverse
mode.

    python examples/pinn_burgers.py [--quick] [--out PICTURE.png]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from common import Progress, needed, options, pyplot, save, torch_or_none
from threadpoolctl import threadpool_limits

import minijac as mj

Params: TypeAlias = dict[str, np.ndarray]
NU = 0.02
SIZES = (2, 20, 20, 20, 1)
LAYERS = len(SIZES) - 1


def start(rng: np.random.Generator) -> Params:
    """Weights of variance 2 / (inputs + outputs), biases zero."""
    params = {}
    for k, (n, m) in enumerate(pairwise(SIZES)):
        params[f"W{k}"] = rng.normal(size=(n, m)) * np.sqrt(2.0 / (n + m))
        params[f"b{k}"] = np.zeros(m)
    return params


def solution(params: Params, tx: np.ndarray) -> np.ndarray:
    """Points (t, x): (B, 2) -> u: (B,), which meets the initial and boundary values whatever the network says."""
    t, x = tx[:, 0], tx[:, 1]
    h = tx * np.array([2.0, 1.0]) - np.array([1.0, 0.0])  # both in [-1, 1]
    for k in range(LAYERS - 1):
        h = np.tanh(h @ params[f"W{k}"] + params[f"b{k}"])
    network = (h @ params[f"W{LAYERS - 1}"] + params[f"b{LAYERS - 1}"])[:, 0]
    return -np.sin(np.pi * x) + t * (1.0 - x**2) * network


def residual(params: Params, tx: np.ndarray) -> np.ndarray:
    """What is left of the equation at the points: (B,)."""
    u, u_t, u_x, u_xx = mj.partials(partial(solution, params), [(), (0,), (1,), (1, 1)])(tx)
    return u_t + u * u_x - NU * u_xx


def loss(params: Params, tx: np.ndarray) -> np.ndarray:
    """Mean squared residual."""
    return (residual(params, tx) ** 2).mean()


def exact(tx: np.ndarray, nodes: int = 200) -> np.ndarray:
    """The solution by Cole and Hopf's transformation, a Gauss-Hermite quadrature at each point: (B, 2) -> (B,).

    Source: Basdevant et al., Spectral and finite difference solutions of the Burgers equation (1986).
    """
    t, x = tx[:, :1], tx[:, 1:]
    y, weight = np.polynomial.hermite.hermgauss(nodes)
    z = x - np.sqrt(4.0 * NU * t) * y
    exponent = -np.cos(np.pi * z) / (2.0 * np.pi * NU)
    weight = weight * np.exp(exponent - exponent.max(1, keepdims=True))
    return -(np.sin(np.pi * z) * weight).sum(1) / weight.sum(1)


def points(count: int, rng: np.random.Generator) -> np.ndarray:
    """Where the residual is asked for: all over the domain, a third of them drawn towards the front."""
    tx = np.stack([rng.random(count), rng.uniform(-1.0, 1.0, count)], 1)
    tx[::3, 1] **= 3
    return tx


def train(params: Params, tx: np.ndarray, iterations: int) -> Params:
    """L-BFGS on all weights as one vector; the compiled step gives loss and gradient as dicts."""
    minimize = needed("scipy.optimize", "scipy").minimize
    step = mj.compile(mj.value_and_grad(loss))
    cuts = np.cumsum([p.size for p in params.values()])[:-1]

    def unpack(vector: np.ndarray) -> Params:
        parts = np.split(vector, cuts)
        return {name: part.reshape(p.shape) for (name, p), part in zip(params.items(), parts, strict=True)}

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = step(unpack(vector), tx)
        return float(value), np.concatenate([gradient[name].ravel() for name in params])

    with Progress(iterations, "L-BFGS") as bar:
        found = minimize(
            objective,
            np.concatenate([p.ravel() for p in params.values()]),
            jac=True,
            method="L-BFGS-B",
            callback=lambda intermediate_result: bar.step(loss=intermediate_result.fun),
            options={"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 50, "ftol": 0.0, "gtol": 1e-9},
        )
    print(f"loss: {found.fun:.2e} after {found.nit} iterations")
    return unpack(found.x)


def check(params: Params, tx: np.ndarray) -> None:
    """Residual, and gradient of the loss, against torch's nested reverse mode."""
    torch = torch_or_none()
    if torch is None:
        return
    p = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
    t, x = (torch.tensor(column, requires_grad=True) for column in tx.T)
    h = torch.stack([2.0 * t - 1.0, x], 1)
    for k in range(LAYERS - 1):
        h = torch.tanh(h @ p[f"W{k}"] + p[f"b{k}"])
    network = (h @ p[f"W{LAYERS - 1}"] + p[f"b{LAYERS - 1}"])[:, 0]
    u = -torch.sin(torch.pi * x) + t * (1.0 - x**2) * network
    u_t, u_x = torch.autograd.grad(u.sum(), (t, x), create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
    theirs = u_t + u * u_x - NU * u_xx
    (theirs**2).mean().backward()

    gradient = mj.grad(loss)(params, tx)
    by_residual = np.abs(residual(params, tx) - theirs.detach().numpy()).max()
    by_gradient = max(np.abs(gradient[name] - p[name].grad.numpy()).max() for name in params)
    print(f"against torch: largest error {by_residual:.1e} in the residual, {by_gradient:.1e} in the gradient")


def picture(params: Params, path: Any) -> None:
    """The solution, its profiles beside the exact ones, and the residual."""
    plt = pyplot()
    t, x = np.linspace(0.0, 1.0, 151), np.linspace(-1.0, 1.0, 301)
    tx = np.stack(np.meshgrid(t, x, indexing="ij"), -1).reshape(-1, 2)
    u = solution(params, tx).reshape(len(t), len(x))
    left = residual(params, tx).reshape(len(t), len(x))
    figure, (a, b, c) = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")

    image = a.pcolormesh(t, x, u.T, cmap="RdBu_r", vmin=-1, vmax=1, shading="gouraud", rasterized=True)
    figure.colorbar(image, ax=a, ticks=[-1, 0, 1])
    a.set(title="solution u(t, x) of the network", xlabel="t", ylabel="x")

    times = (0.0, 0.3, 0.6, 1.0)
    for n, time in enumerate(times):
        at = np.stack([np.full_like(x, time), x], 1)
        shade = plt.get_cmap("viridis")(0.85 * n / (len(times) - 1))
        b.plot(x, solution(params, at), color=shade, label=f"t = {time:g}")
        b.plot(x[::12], exact(at[::12]), "o", color=shade, markersize=3.5, markerfacecolor="none")
    b.legend(frameon=False, fontsize=8)
    b.set(title="network (lines) and exact (circles)", xlabel="x", ylabel="u")

    bound = np.quantile(np.abs(left), 0.995)
    image = c.pcolormesh(t, x, left.T, cmap="PuOr_r", vmin=-bound, vmax=bound, shading="gouraud", rasterized=True)
    figure.colorbar(image, ax=c, extend="both")
    c.set(title=r"residual $u_t + u\,u_x - \nu\,u_{xx}$", xlabel="t", ylabel="x")
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, compare with the exact solution, check, draw."""
    given = options(__doc__, "pinn_burgers", argv)
    rng = np.random.default_rng(0)
    tx = points(500 if given.quick else 1500, rng)
    with threadpool_limits(1):  # layers 20 wide: threads would only wait for each other
        params = train(start(rng), tx, 250 if given.quick else 2000)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 101), np.linspace(-1, 1, 201), indexing="ij"), -1).reshape(-1, 2)
    truth = exact(grid)
    error = np.linalg.norm(solution(params, grid) - truth) / np.linalg.norm(truth)
    print(f"relative L2 error: {error:.2e} against the exact solution")
    check(params, tx)
    picture(params, given.out)


if __name__ == "__main__":
    main()
