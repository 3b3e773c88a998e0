"""Draw pictures/idea.png, the README's picture: what is asked for, beside what holds it; both computed by minijac.

python docs/make_idea.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

import minijac as mj

B, IN, HIDDEN, OUT = 3, 5, 2, 10  # the sizes of the question that people asked


def draw(path: Path) -> None:
    """Save the picture."""
    rng = np.random.default_rng(0)
    W1, W2 = rng.normal(size=(IN, HIDDEN)), rng.normal(size=(HIDDEN, OUT))
    x = 0.5 * rng.normal(size=(B, IN))

    def f(x: np.ndarray) -> np.ndarray:
        return np.tanh(x @ W1) @ W2

    full, J = mj.jacobian(f, batch_axis=None)(x), mj.jacobian(f)(x)
    most = np.abs(J).max()
    look = {"cmap": "RdBu_r", "norm": TwoSlopeNorm(0.0, -most, most)}

    figure = Figure(figsize=(8.0, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1.0))
    whole = left.subplots()
    whole.imshow(full.reshape(B * OUT, B * IN), aspect="auto", **look)
    for edge in range(1, B):
        whole.axhline(edge * OUT - 0.5, color="0.6", linewidth=0.8)
        whole.axvline(edge * IN - 0.5, color="0.6", linewidth=0.8)
    whole.set_xticks([(i + 0.5) * IN - 0.5 for i in range(B)], [f"sample {i}" for i in range(B)], fontsize=8)
    whole.set_yticks([(i + 0.5) * OUT - 0.5 for i in range(B)], [f"y of sample {i}" for i in range(B)], fontsize=8)
    whole.tick_params(length=0)
    left.suptitle(f"the usual Jacobian of a batch: {full.shape}", fontsize=10)
    for i, axis in enumerate(right.subplots(1, B)):
        axis.imshow(J[i], aspect="auto", **look)
        axis.set_xlabel(f"sample {i}", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    right.suptitle(f"mj.jacobian(f)(x): {J.shape}", fontsize=10)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(Path(__file__).parent / "pictures" / "idea.png")
