"""Handwritten digits: a classifier trained with minijac's gradients, and how far each digit is from another reading.

A 64-32-10 network learns scikit-learn's bundled 8 x 8 digits; the step, loss and gradient of a dict of parameters, is
compiled once and replayed. Then one call gives the Jacobian of the ten scores with respect to the 64 pixels for all
1,797 digits, ``(1797, 10, 64)``, which is checked against torch, sample by sample. It tells, for each digit, the least
change of ink that has it read as another; bisection finds nearly the same, and what is read wrong lies near.

    python examples/digits.py [--quick] [--out PICTURE.png]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from common import Progress, needed, options, pyplot, save, torch_or_none

import minijac as mj

Params: TypeAlias = dict[str, np.ndarray]
HELD_OUT = 297  # the last ones, never trained on


def start(rng: np.random.Generator, hidden: int = 32) -> Params:
    """Parameters of a 64-hidden-10 network, scaled so that activations keep their size."""
    return {
        "W1": rng.normal(size=(64, hidden)) / np.sqrt(64),
        "b1": np.zeros(hidden),
        "W2": rng.normal(size=(hidden, 10)) / np.sqrt(hidden),
        "b2": np.zeros(10),
    }


def scores(params: Params, x: np.ndarray) -> np.ndarray:
    """x: (B, 64) -> one score per class: (B, 10), before the softmax."""
    return np.tanh(x @ params["W1"] + params["b1"]) @ params["W2"] + params["b2"]


def loss(params: Params, x: np.ndarray, onehot: np.ndarray) -> np.ndarray:
    """Mean cross-entropy of the softmax, with a little weight decay."""
    z = scores(params, x)
    z = z - z.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    decay = (params["W1"] ** 2).sum() + (params["W2"] ** 2).sum()
    return -(onehot * log_p).sum(1).mean() + 1e-3 * decay


def train(params: Params, x: np.ndarray, labels: np.ndarray, epochs: int, rng: np.random.Generator) -> Params:
    """Adam on batches of 100."""
    step = mj.compile(mj.value_and_grad(loss))
    onehot = np.eye(10)[labels]
    moment = {name: np.zeros_like(p) for name, p in params.items()}
    square = {name: np.zeros_like(p) for name, p in params.items()}
    count = 0
    with Progress(epochs, "training") as bar:
        for epoch in range(epochs):
            rate = 1e-2 * 0.5 * (1.0 + np.cos(np.pi * epoch / epochs))
            for batch in rng.permutation(len(x)).reshape(-1, 100):
                count += 1
                value, gradient = step(params, x[batch], onehot[batch])
                for name, g in gradient.items():
                    moment[name] = 0.9 * moment[name] + 0.1 * g
                    square[name] = 0.999 * square[name] + 0.001 * g**2
                    mean, spread = moment[name] / (1 - 0.9**count), square[name] / (1 - 0.999**count)
                    params[name] = params[name] - rate * mean / (np.sqrt(spread) + 1e-8)
            bar.step(loss=float(value))
    return params


def check(params: Params, x: np.ndarray) -> None:
    """All Jacobians against torch's reverse mode, one sample and one score at a time."""
    torch = torch_or_none()
    if torch is None:
        return
    W1, b1, W2, b2 = (torch.from_numpy(params[name]) for name in ("W1", "b1", "W2", "b2"))
    errors = mj.testing.compare_with_torch(
        partial(scores, params), lambda x: torch.tanh(x @ W1 + b1) @ W2 + b2, x, rtol=1e-10, atol=1e-12
    )
    print(f"against torch: largest error {errors.absolute:.1e} over {len(x)} Jacobians")


def distances(z: np.ndarray, J: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each digit is from being read otherwise, as its Jacobian has it: (B,), and the way there: (B, 64).

    The score of class c overtakes the largest where ``(J_top - J_c) step = z_c - z_top``; the shortest such step is
    along that row, and the nearest class counts.
    """
    rows, top = np.arange(len(z)), z.argmax(1)
    slopes = J[rows, top][:, None] - J  # (B, 10, 64)
    with np.errstate(invalid="ignore"):
        steps = (z[rows, top][:, None] - z) / np.linalg.norm(slopes, axis=2)
    steps[rows, top] = np.inf  # from itself there is no boundary
    nearest = steps.argmin(1)
    way = -slopes[rows, nearest]
    return steps[rows, nearest], way / np.linalg.norm(way, axis=1, keepdims=True)


def found(params: Params, x: np.ndarray, way: np.ndarray, farthest: float = 8.0) -> np.ndarray:
    """How far along the way the reading does change, by bisection: (B,), infinite where it does not."""
    read = scores(params, x).argmax(1)

    def changed(at: np.ndarray) -> np.ndarray:
        return scores(params, x + at[:, None] * way).argmax(1) != read

    low, high = np.zeros(len(x)), np.full(len(x), farthest)
    never = ~changed(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = np.where(changed(middle), low, middle), np.where(changed(middle), middle, high)
    return np.where(never, np.inf, high)


def picture(x: np.ndarray, labels: np.ndarray, read: np.ndarray, told: np.ndarray, real: np.ndarray, path: Any) -> None:
    """The distances that Jacobians tell against those found; then the digits nearest to another reading, farthest."""
    plt = pyplot()
    figure = plt.figure(figsize=(8.6, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.15))
    ax = left.subplots()
    wrong = read != labels
    for chosen, colour, name in ((~wrong, "#1b6ca8", "read right"), (wrong, "#c44536", "read wrong")):
        ax.scatter(told[chosen], real[chosen], s=9, color=colour, label=f"{name}: {chosen.sum()}", alpha=0.7)
    most = 1.05 * max(real[np.isfinite(real)].max(), told.max())
    ax.plot([0, most], [0, most], color="0.6", linewidth=0.8, zorder=0)
    ax.set(xlim=(0, most), ylim=(0, most), xlabel="told by the Jacobian, one step", ylabel="found by bisection")
    ax.set_title("distance to another reading, held-out digits", fontsize=9)
    ax.legend(fontsize=8, loc="lower right")
    order = np.argsort(told)
    for part, chosen, name in zip(
        right.subfigures(2, 1), (order[:10], order[-10:]), ("nearest", "farthest"), strict=True
    ):
        for cell, i in zip(part.subplots(2, 5).flat, chosen, strict=True):
            cell.imshow(x[i].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            title = f"{labels[i]}" if read[i] == labels[i] else f"{labels[i]}, read {read[i]}"
            cell.set_title(title, fontsize=8, color="#c44536" if read[i] != labels[i] else "black", pad=2)
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        part.suptitle(f"the ten {name}", fontsize=9)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, differentiate, check, draw."""
    given = options(__doc__, "digits", argv)
    datasets = needed("sklearn.datasets", "scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    x = pixels / 16.0
    rng = np.random.default_rng(0)
    known, held_out = slice(None, -HELD_OUT), slice(-HELD_OUT, None)

    params = train(start(rng), x[known], labels[known], 6 if given.quick else 60, rng)
    z, J = mj.value_and_jacobian(partial(scores, params))(x)
    right = z.argmax(1) == labels
    print(f"accuracy: {right[known].mean():.3f} in training, {right[held_out].mean():.3f} held out")
    print(f"Jacobians: {J.shape}, from one call")
    check(params, x[:100] if given.quick else x)
    told, way = distances(z[held_out], J[held_out])
    real = found(params, x[held_out], way)
    read = z[held_out].argmax(1)
    wrong = read != labels[held_out]
    off = np.median(np.abs(told / real - 1.0))
    right_ones, wrong_ones = np.median(told[~wrong]), np.median(told[wrong])
    print(f"distance to another reading: {right_ones:.2f} where right, {wrong_ones:.2f} where wrong")
    print(f"told by the Jacobian and found by bisection: {100 * off:.1f} % apart")
    picture(x[held_out], labels[held_out], read, told, real, given.out)


if __name__ == "__main__":
    main()
