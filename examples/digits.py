"""Handwritten digits: a classifier trained with minijac's gradients, and what each pixel says to each class.

A 64-32-10 network learns scikit-learn's bundled 8 x 8 digits; the step, loss and gradient of a dict of parameters, is
compiled once and replayed. Then one call gives the Jacobian of the ten scores with respect to the 64 pixels for all
1,797 digits, ``(1797, 10, 64)``, which is checked against torch, sample by sample, and drawn as saliency maps.

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


def picture(x: np.ndarray, labels: np.ndarray, z: np.ndarray, J: np.ndarray, held_out: slice, path: Any) -> None:
    """One digit of each class in the upper row, with what speaks for its class beneath; then the most doubtful ones."""
    plt = pyplot()
    ordered = np.sort(z, 1)
    margin = ordered[:, -1] - ordered[:, -2]
    candidates = np.arange(len(x))[held_out]
    sure = [candidates[labels[candidates] == c][0] for c in range(10)]
    doubtful = sorted(candidates[np.argsort(margin[candidates])[:10]], key=lambda i: labels[i])
    figure = plt.figure(figsize=(8.4, 4.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    for part, chosen in ((upper, sure), (lower, doubtful)):
        axes = part.subplots(2, 10)
        for column, i in zip(axes.T, chosen, strict=True):
            second, first = np.argsort(z[i])[-2:]
            if part is upper:
                pull, title = J[i, labels[i]], f"{labels[i]}"
            else:
                pull, title = J[i, first] - J[i, second], f"{labels[i]}: {first} or {second}"
            bound = np.abs(pull).max()
            column[0].imshow(x[i].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            column[1].imshow(pull.reshape(8, 8), cmap="RdBu_r", vmin=-bound, vmax=bound)
            column[0].set_title(title, fontsize=8)
            for ax in column:
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
    upper.suptitle("ink that speaks for (red) and against (blue) the digit's own class", fontsize=9)
    lower.suptitle(
        "the ten closest calls, 'digit: first or second': ink for the first (red), the second (blue)", fontsize=9
    )
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
    picture(x, labels, z, J, held_out, given.out)


if __name__ == "__main__":
    main()
