"""A normalising flow on two moons: the exact log-determinant, from per-sample Jacobians, inside a loss.

Residual layers ``x + g(x)``, with g kept a contraction by the spectral norms of its weights, map the data to a normal
distribution. Their Jacobians are full matrices with no closed form for the determinant: `mj.value_and_jacobian` gives
``(B, 2, 2)``, ``np.linalg.slogdet`` its log-determinant, and `mj.grad` the gradient through both. New samples come from
the inverse, by Newton's method with the same Jacobians. The density is checked to integrate to one; log-determinant and
gradient are checked against torch.

    python examples/flow.py [--quick] [--out PICTURE.png]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from common import BLUE, ORANGE, Progress, options, pyplot, save, torch_or_none
from threadpoolctl import threadpool_limits

import minijac as mj

Params: TypeAlias = list[dict[str, np.ndarray]]
NOISE = 0.13  # of the data about the half circles
SLOPE = 0.97  # of g at most; below one, each layer is invertible


def two_moons(count: int, rng: np.random.Generator) -> np.ndarray:
    """Two interleaved half circles with noise, about the origin: (count, 2)."""
    arcs = half_circles(np.pi * rng.random(count))
    return arcs[rng.integers(2, size=count), np.arange(count)] + NOISE * rng.normal(size=(count, 2))


def half_circles(angle: np.ndarray) -> np.ndarray:
    """Points of the upper and of the lower half circle, without noise: (2, count, 2)."""
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], 1)
    return 1.5 * np.stack([upper, -upper])


def true_log_density(x: np.ndarray) -> np.ndarray:
    """log p(x) of the two moons, by quadrature over the angle: (B, 2) -> (B,)."""
    centres = half_circles(np.pi * (np.arange(300) + 0.5) / 300).reshape(-1, 2)
    square = ((x[:, None] - centres) ** 2).sum(2)
    return np.log(np.exp(-0.5 * square / NOISE**2).mean(1)) - np.log(2.0 * np.pi * NOISE**2)


def start(layers: int, width: int, rng: np.random.Generator) -> Params:
    """Weights of the layers, small at first in what they add."""
    return [
        {
            "A": rng.normal(size=(2, width)),
            "a": rng.normal(size=width),
            "C": 0.1 * rng.normal(size=(width, 2)) / np.sqrt(width),
            "c": np.zeros(2),
        }
        for _ in range(layers)
    ]


def contractions(params: Params) -> Params:
    """The same layers with each matrix divided by its spectral norm, where that is above one."""
    return [
        {name: p / np.maximum(np.linalg.norm(p, 2), 1.0) if p.ndim == 2 else p for name, p in layer.items()}
        for layer in params
    ]


def flow(layers: Params, x: np.ndarray) -> np.ndarray:
    """Data x: (B, 2) -> z: (B, 2), normally distributed after training."""
    for p in layers:
        x = x + SLOPE * np.tanh(x @ p["A"] + p["a"]) @ p["C"] + p["c"]
    return x


def log_density(params: Params, x: np.ndarray) -> np.ndarray:
    """log p(x): (B,), the normal density of z and the change of volume, |det dz/dx|."""
    z, J = mj.value_and_jacobian(partial(flow, contractions(params)))(x)
    return -0.5 * (z**2).sum(1) - np.log(2.0 * np.pi) + np.linalg.slogdet(J).logabsdet


def loss(params: Params, x: np.ndarray) -> np.ndarray:
    """Mean negative log-likelihood."""
    return -log_density(params, x).mean()


def train(params: Params, x: np.ndarray, steps: int, batch: int, rng: np.random.Generator) -> Params:
    """Adam, with a rate that falls to zero."""
    step = mj.compile(mj.value_and_grad(loss))
    moment = [{name: np.zeros_like(p) for name, p in layer.items()} for layer in params]
    square = [{name: np.zeros_like(p) for name, p in layer.items()} for layer in params]
    with Progress(steps, "training") as bar:
        for count in range(1, steps + 1):
            rate = 5e-3 * (1.0 + np.cos(np.pi * count / steps))
            value, gradient = step(params, x[rng.integers(len(x), size=batch)])
            for layer, m, s, g in zip(params, moment, square, gradient, strict=True):
                for name in layer:
                    m[name] = 0.9 * m[name] + 0.1 * g[name]
                    s[name] = 0.99 * s[name] + 0.01 * g[name] ** 2
                    mean, spread = m[name] / (1 - 0.9**count), s[name] / (1 - 0.99**count)
                    layer[name] = layer[name] - rate * mean / (np.sqrt(spread) + 1e-8)
            bar.step(loss=float(value))
    return params


def inverse(layers: Params, z: np.ndarray) -> np.ndarray:
    """x with flow(x) = z: layer by layer, some fixed-point steps and then Newton's: (B, 2)."""
    x = z
    for p in reversed(layers):
        layer = partial(flow, [p])
        target = x
        for _ in range(30):
            x = x - (layer(x) - target)
        for _ in range(10):
            y, J = mj.value_and_jacobian(layer)(x)
            x = x - np.linalg.solve(J, (y - target)[:, :, None])[:, :, 0]
    return x


def check(params: Params, x: np.ndarray) -> None:
    """Log-determinant, and gradient of the loss, against torch's Jacobians of one sample at a time."""
    torch = torch_or_none()
    if torch is None:
        return
    p = [{name: torch.tensor(array, requires_grad=True) for name, array in layer.items()} for layer in params]
    norm = torch.linalg.matrix_norm
    layers = [{n: v / norm(v, 2).clamp(min=1.0) if v.ndim == 2 else v for n, v in layer.items()} for layer in p]

    def torch_flow(x: Any) -> Any:
        for q in layers:
            x = x + SLOPE * torch.tanh(x @ q["A"] + q["a"]) @ q["C"] + q["c"]
        return x

    logdets, total = [], torch.zeros(())
    for sample in torch.tensor(x):
        J = torch.autograd.functional.jacobian(torch_flow, sample, create_graph=True)
        logdets.append(torch.linalg.slogdet(J).logabsdet)
        total = total + 0.5 * (torch_flow(sample) ** 2).sum() + np.log(2.0 * np.pi) - logdets[-1]
    (total / len(x)).backward()

    ours = np.linalg.slogdet(mj.jacobian(partial(flow, contractions(params)))(x)).logabsdet
    by_logdet = np.abs(ours - torch.stack(logdets).detach().numpy()).max()
    by_gradient = max(
        np.abs(g[name] - q[name].grad.numpy()).max()
        for g, q in zip(mj.grad(loss)(params, x), p, strict=True)
        for name in g
    )
    print(f"against torch: largest error {by_logdet:.1e} in log|det J|, {by_gradient:.1e} in the gradient")


def picture(data: np.ndarray, samples: np.ndarray, z: np.ndarray, density: np.ndarray, edge: float, path: Any) -> None:
    """Data, the flow's samples, its density, and where it sends the data."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 4, figsize=(11.0, 3.0), layout="constrained")
    for ax, title, dots, color in (
        (axes[0], "data", data, BLUE),
        (axes[1], "samples of the flow", samples, ORANGE),
        (axes[3], "data, mapped to z", z, BLUE),
    ):
        ax.plot(*dots.T, ".", color=color, markersize=2, alpha=0.6)
        ax.set_title(title)
    axes[2].imshow(density.T, origin="lower", extent=(-edge, edge, -edge, edge), cmap="magma")
    axes[2].set_title("density of the flow")
    for ax in axes[:3]:
        ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    for radius in (1.0, 2.0, 3.0):
        axes[3].add_patch(plt.Circle((0, 0), radius, fill=False, color="black", linewidth=0.6, linestyle=":"))
    axes[3].set(xlim=(-3.6, 3.6), ylim=(-3.6, 3.6))
    for ax in axes:
        ax.set_aspect("equal")
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, judge on fresh data, sample, check, draw."""
    given = options(__doc__, "flow", argv)
    rng = np.random.default_rng(0)
    data, fresh = two_moons(4000, rng), two_moons(2000, rng)
    layers, steps, batch = (4, 400, 200) if given.quick else (10, 1500, 500)
    with threadpool_limits(1):  # small matrices: threads would only wait for each other
        params = train(start(layers, 32, rng), data, steps, batch, rng)

    print(
        f"log-likelihood: {log_density(params, fresh).mean():.3f} on fresh data "
        f"(of the true distribution: {true_log_density(fresh).mean():.3f})"
    )
    edge, cells = 4.0, 161 if given.quick else 321
    side = np.linspace(-edge, edge, cells)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(log_density(params, grid)).reshape(cells, cells)
    print(f"integral of the density: {density.sum() * (side[1] - side[0]) ** 2:.4f}")

    trained = contractions(params)
    z = rng.normal(size=(2000, 2))
    samples = inverse(trained, z)
    print(f"inverse: largest error {np.abs(flow(trained, samples) - z).max():.1e}")
    check(params, fresh[: 20 if given.quick else 100])
    picture(fresh, samples, flow(trained, fresh), density, edge, given.out)


if __name__ == "__main__":
    main()
