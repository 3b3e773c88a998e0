"""A recurrent network's saliency: handwritten digits read as a series, and what of it the reading depends on.

scikit-learn's digits are read in 32 steps of two pixels, row by row, by an LSTM. The loss and its gradient, a Python
loop of 32 steps, are compiled: the program has one body for all steps. The Jacobian of the ten scores by every pixel,
``(B, 10, 32, 2)``, comes from one call; it is checked against torch, and tells how far back the memory reaches.

    python examples/lstm.py [--quick] [--out PICTURE.png]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from common import BLUE, Progress, needed, options, pyplot, save, torch_or_none

import minijac as mj

Params: TypeAlias = dict[str, np.ndarray]
STEPS, PIXELS, WIDTH, BATCH = 32, 2, 32, 64
HELD_OUT = 300


def start(rng: np.random.Generator) -> Params:
    """Weights of the four gates, side by side, and of the scores; the gate that forgets is open at first."""
    b = np.zeros(4 * WIDTH)
    b[WIDTH : 2 * WIDTH] = 1.0
    return {
        "W": rng.normal(size=(PIXELS, 4 * WIDTH)) / np.sqrt(PIXELS),
        "U": rng.normal(size=(WIDTH, 4 * WIDTH)) / np.sqrt(WIDTH),
        "b": b,
        "V": rng.normal(size=(WIDTH, 10)) / np.sqrt(WIDTH),
    }


def scores(params: Params, x: np.ndarray) -> np.ndarray:
    """Ten scores after the last step: (B, 32, 2) -> (B, 10)."""
    h = np.zeros((len(x), WIDTH))
    c = np.zeros((len(x), WIDTH))
    for t in range(STEPS):
        gates = x[:, t] @ params["W"] + h @ params["U"] + params["b"]
        take, keep, show = (mj.nn.sigmoid(gates[:, k * WIDTH : (k + 1) * WIDTH]) for k in range(3))
        c = keep * c + take * np.tanh(gates[:, 3 * WIDTH :])
        h = show * np.tanh(c)
    return h @ params["V"]


def loss(params: Params, x: np.ndarray, onehot: np.ndarray) -> Any:
    return -(onehot * mj.nn.log_softmax(scores(params, x))).sum() / len(x)


def train(params: Params, x: np.ndarray, labels: np.ndarray, epochs: int, rng: np.random.Generator) -> Params:
    """Adam on batches; the step is compiled."""
    step = mj.compile(mj.value_and_grad(loss))
    onehot = np.eye(10)[labels]
    moment, square = ({name: np.zeros_like(p) for name, p in params.items()} for _ in "ms")
    count = 0
    with Progress(epochs, "training") as bar:
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for batch in order[: len(x) // BATCH * BATCH].reshape(-1, BATCH):
                count += 1
                value, gradient = step(params, x[batch], onehot[batch])
                for name, g in gradient.items():
                    moment[name] = 0.9 * moment[name] + 0.1 * g
                    square[name] = 0.999 * square[name] + 0.001 * g**2
                    mean, spread = moment[name] / (1 - 0.9**count), square[name] / (1 - 0.999**count)
                    params[name] = params[name] - 0.01 * mean / (np.sqrt(spread) + 1e-8)
            bar.step(loss=float(value))
    return params


def check(params: Params, x: np.ndarray) -> None:
    """The Jacobians against torch's reverse mode, one sample and one score at a time."""
    torch = torch_or_none()
    if torch is None:
        return
    W, U, b, V = (torch.from_numpy(params[name]) for name in "WUbV")

    def twin(x: Any) -> Any:
        h = c = torch.zeros(len(x), WIDTH, dtype=x.dtype)
        for t in range(STEPS):
            take, keep, show, new = torch.split(x[:, t] @ W + h @ U + b, WIDTH, 1)
            c = torch.sigmoid(keep) * c + torch.sigmoid(take) * torch.tanh(new)
            h = torch.sigmoid(show) * torch.tanh(c)
        return h @ V

    errors = mj.testing.compare_with_torch(partial(scores, params), twin, x, rtol=1e-9, atol=1e-11)
    print(f"against torch: largest error {errors.absolute:.1e} over {len(x)} Jacobians")


def picture(x: np.ndarray, salient: np.ndarray, read: np.ndarray, path: Any) -> None:
    """How much the score that wins depends on each step, on average; then digits beside their own saliency."""
    plt = pyplot()
    figure = plt.figure(figsize=(8.6, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.2))
    ax = left.subplots()
    ax.bar(np.arange(STEPS), np.linalg.norm(salient, axis=2).mean(0), color=BLUE)
    ax.set(xlabel="step, two pixels each", ylabel="size of d score / d pixels", title="how far back the memory reaches")
    cells = right.subplots(2, 6)
    for k, (above, below) in enumerate(cells.T):
        above.imshow(x[k].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        above.set_title(f"read {read[k]}", fontsize=8, pad=2)
        most = np.abs(salient[k]).max()
        below.imshow(salient[k].reshape(8, 8), cmap="RdBu", vmin=-most, vmax=most)
    for cell in cells.flat:
        cell.set(xticks=[], yticks=[])
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, differentiate, check, draw."""
    given = options(__doc__, "lstm", argv)
    datasets = needed("sklearn.datasets", "scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    x = (pixels / 16.0).reshape(-1, STEPS, PIXELS)
    rng = np.random.default_rng(0)
    params = train(start(rng), x[:-HELD_OUT], labels[:-HELD_OUT], 15 if given.quick else 60, rng)

    x, labels = x[-HELD_OUT:], labels[-HELD_OUT:]
    z, J = mj.value_and_jacobian(partial(scores, params))(x)
    read = z.argmax(1)
    print(f"accuracy: {(read == labels).mean():.3f} held out")
    print(f"Jacobians: {J.shape}, from one call")
    check(params, x[:4] if given.quick else x[:50])
    salient = J[np.arange(len(x)), read]
    share = (np.linalg.norm(salient, axis=2) ** 2).mean(0)
    print(f"early half of the series: {100 * share[: STEPS // 2].sum() / share.sum():.0f} % of the saliency")
    picture(x, salient, read, given.out)


if __name__ == "__main__":
    main()
