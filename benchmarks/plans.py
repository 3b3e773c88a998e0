"""Whether the planner's prices are right: predicted against measured time of forward, reverse and mixed orders.

Run `OPENBLAS_NUM_THREADS=1 python benchmarks/plans.py`, as prices are those of one core; see benchmarks/README.md. All
orders of a structure are checked against one another before they are timed, in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from networks import (
    ARMS,
    BUMPS,
    BURGERS,
    CONVOLUTIONS,
    RESIDUALS,
    TRANSFORMERS,
    batch_of,
    convolution_data,
    mlp,
    residual_data,
    transformer_data,
)
from table import machine, number, versions
from ways import network_data

import minijac as mj
from minijac.accumulation.plan import Plan
from minijac.demo import forum

TOLERANCE = 1e-4  # of the largest entry, between two orders in float32
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "plans-cpu.json"
PICTURE = HERE.parent / "docs" / "pictures" / "predicted.png"
MODES = ("forward", "reverse", "mixed")
NEAR = 1.1  # the choice counts as right within this factor of the fastest

Data = dict[str, Any]


def tanh_mlp(d: Data) -> Callable[[Any], Any]:
    return mlp(d, np.tanh)


def network(batch: int, *widths: int) -> tuple[Callable[[Data], Any], Callable[[], Data]]:
    return tanh_mlp, partial(network_data, batch, widths)


STRUCTURES: dict[str, tuple[Callable[[Data], Any], Callable[[], Data]]] = {
    "5-8-10, B=3": network(3, 5, 8, 10),
    "32-256-256-32, B=256": network(256, 32, 256, 256, 32),
    "10-512-512-10, B=512": network(512, 10, 512, 512, 10),
    "4-128-128-64, B=512 (wide out)": network(512, 4, 128, 128, 64),
    "64-128-128-4, B=512 (wide in)": network(512, 64, 128, 128, 4),
    "3-64-64-64-64-3, B=8192": network(8192, 3, 64, 64, 64, 64, 3),
    "784-256-32-256-784, B=16": network(16, 784, 256, 32, 256, 784),
    "128-8-128-8-128, B=64": network(64, 128, 8, 128, 8, 128),
    "sin(x) exp(-x²), 64 x 256": (BUMPS[0], batch_of(64, 256)),
    "Burgers, 64 x 256": (BURGERS[0], batch_of(64, 256)),
    "arm, B=4096": (ARMS[0], batch_of(4096, 7)),
    "transformer block": (TRANSFORMERS[0], transformer_data),
    "residual blocks": (RESIDUALS[0], residual_data),
    "convolutions": (CONVOLUTIONS[0], convolution_data),
}


def measure(f: Callable[[Any], Any], x: Any, rounds: int, seconds: float) -> dict[str, Any]:
    """Predicted nanoseconds, and measured ones eager and compiled, of each order of one structure."""
    explained = mj.explain(f, x)
    plans: dict[str, Plan] = {found.plan.mode: found.plan for found in explained.candidates}
    turns: dict[str, Callable[[], Any]] = {}
    for mode in plans:
        J = mj.jacobian(f, mode=mode)
        turns[f"{mode} eager"] = partial(J, x)
        turns[f"{mode} compiled"] = partial(mj.compile(J), x)
    first = None
    for name, turn in turns.items():
        turn()
        result = turn()
        first = result if first is None else first
        error = float(np.max(np.abs(result - first)) / np.max(np.abs(first)))
        if not error < TOLERANCE:
            raise SystemExit(f"{name} differs from the first order by {error:.1e}, nothing timed")
    times = forum.interleaved(turns, rounds=rounds, seconds_each=seconds)
    row: dict[str, Any] = {
        found.plan.mode: {
            "predicted_ns": found.cost.nanoseconds,
            "multiply_adds": found.cost.multiply_adds,
            "moved": found.cost.moved,
            **{f"{kind}_ns": times[f"{found.plan.mode} {kind}"].median * 1e9 for kind in ("eager", "compiled")},
        }
        for found in explained.candidates
    }
    chosen = explained.chosen.plan.mode
    regret = {
        kind: row[chosen][f"{kind}_ns"] / min(row[mode][f"{kind}_ns"] for mode in plans)
        for kind in ("eager", "compiled")
    }
    return {"orders": row, "chosen": chosen, "chosen over fastest": regret}


def correlation(rows: Mapping[str, Any], kind: str) -> float:
    """Of the logarithms of predicted and measured times."""
    pairs = [(o["predicted_ns"], o[f"{kind}_ns"]) for row in rows.values() for o in row["orders"].values()]
    return float(np.corrcoef(np.log(np.array(pairs).T))[0, 1]) if len(pairs) > 1 else math.nan


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Predicted against measured, eager and compiled; the chosen order filled."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"forward": "#3c78d8", "reverse": "#d9822b", "mixed": "#3c8d40"}
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.5), layout="constrained", sharex=True, sharey=True)
    for ax, kind in zip(axes, ("eager", "compiled"), strict=True):
        ends: list[float] = []
        for row in record["structures"].values():
            for mode, order in row["orders"].items():
                predicted, measured = order["predicted_ns"] / 1e6, order[f"{kind}_ns"] / 1e6
                ends += [predicted, measured]
                face = colours[mode] if mode == row["chosen"] else "none"
                ax.scatter(predicted, measured, s=34, facecolor=face, edgecolor=colours[mode], zorder=3)
        line = [min(ends), max(ends)]
        ax.plot(line, line, color="#999999", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="predicted, ms", title=f"{kind}, float32")
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("measured, ms")
    for mode, colour in colours.items():
        axes[0].scatter([], [], s=34, facecolor="none", edgecolor=colour, label=mode)
    axes[0].scatter([], [], s=34, color="#666666", label="chosen (filled)")
    axes[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Price, check, time, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="interleaved rounds at most (default: 15)")
    parser.add_argument("--quick", action="store_true", help="checks, and times in two rounds that say little")
    parser.add_argument("--json", type=Path, help=f"where results go (default, unless --quick: {RESULTS.name})")
    parser.add_argument("--plot", type=Path, help=f"where the picture goes (default, unless --quick: {PICTURE.name})")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 15)
    seconds = 0.05 if options.quick else 1.0
    busy = forum.busy()
    record: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "busy": busy,
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
        "structures": {},
    }
    print(
        f"{'structure':<32}" + "".join(f"{mode + ': predicted, eager, compiled':>42}" for mode in MODES) + "   chosen"
    )
    for name, (function, data) in STRUCTURES.items():
        d = data()
        row = record["structures"][name] = measure(function(d), d["x"], rounds, seconds)
        cells = ""
        for mode in MODES:
            order = row["orders"][mode]
            figures = (number(order[f"{kind}_ns"] / 1e6) for kind in ("predicted", "eager", "compiled"))
            cells += f"{'  '.join(f'{figure:>9}' for figure in figures):>42}"
        regret = row["chosen over fastest"]
        print(f"{name:<32}{cells}   {row['chosen']}: {regret['eager']:.2f}, {regret['compiled']:.2f} of the fastest")
    rows = record["structures"]
    for kind in ("eager", "compiled"):
        right = sum(row["chosen over fastest"][kind] <= NEAR for row in rows.values())
        record[kind] = {"correlation": correlation(rows, kind), "right": right, "of": len(rows)}
        print(
            f"{kind}: choice within {NEAR:g} of the fastest order on {right} of {len(rows)}; "
            f"correlation of the logarithms {record[kind]['correlation']:.2f}"
        )
    if busy:
        print(busy)
    path, picture = options.json, options.plot
    if not options.quick:
        path, picture = path or RESULTS, picture or PICTURE
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
    if picture:
        draw(record, picture)


if __name__ == "__main__":
    main()
