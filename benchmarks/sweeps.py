"""How cost grows: one quantity varied at a time, minijac beside the best eager way of torch and the best of jitted JAX.

Run `python benchmarks/sweeps.py`; see benchmarks/README.md. The centre is the per-sample Jacobian of a tanh network;
each point is checked against float64 before it is timed, as in table.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from networks import BURGERS, batch_of, mlp_workload
from table import Conductor, conductor, number, opening, parsed
from ways import Call, Workload, jacobian_workload, result_only
from workers import COMPILED, EAGER, NUMPY_ALONE, STRUCTURED, serve

import minijac as mj

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "sweeps-cpu.json"
PICTURE = HERE.parent / "docs" / "pictures" / "sweeps.png"
ROUNDS = 7
QUICK_POINTS = 2
LIBRARIES = ("minijac", "torch", "JAX")
Row = Mapping[str, Any]


# -- what is varied ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sweep:
    """One quantity, and a workload for each of its values."""

    title: str
    quantity: str
    values: tuple[int, ...]
    workload: Callable[[int], Workload]


def network(batch: int = 256, size: int = 16, width: int = 128, depth: int = 2) -> Workload:
    """A tanh network with as many inputs as outputs; `depth` counts its hidden layers."""
    return mlp_workload("network", batch, (size, *(width,) * depth, size))


def stencil(n: int) -> Workload:
    """Dense, and as an operator, which only minijac has: two more ways."""
    return jacobian_workload(
        "burgers",
        f"Burgers, n={n}, B=64",
        batch_of(64, n),
        BURGERS,
        result_only(64 * n * n),
        structured_too=lambda d: Call(mj.jacobian(BURGERS[0](d), structured=True), (d["x"],)),
    )


SWEEPS: dict[str, Sweep] = {
    "batch": Sweep("16-128-128-16, any batch", "samples B", (1, 8, 64, 512, 4096), lambda value: network(batch=value)),
    "width": Sweep(
        "16-w-w-16, B=256",
        "width w of the hidden layers",
        (16, 32, 64, 128, 256, 512),
        lambda value: network(width=value),
    ),
    "depth": Sweep("16-128-…-128-16, B=256", "hidden layers", (1, 2, 3, 4, 6, 8), lambda value: network(depth=value)),
    "size": Sweep(
        "n-128-128-n, B=256", "inputs = outputs n", (2, 4, 8, 16, 32, 64, 128), lambda value: network(size=value)
    ),
    "burgers": Sweep(
        "Burgers' right-hand side, B=64",
        "grid points n",
        (32, 64, 128, 256, 512, 1024),
        stencil,
    ),
}


POINTS = {f"{name} {value}": sweep.workload(value) for name, sweep in SWEEPS.items() for value in sweep.values}


# -- one point ---------------------------------------------------------------------------------------------------------
def own_ways(rows: Iterable[Row]) -> list[str]:
    """minijac's ways in these rows."""
    return list(dict.fromkeys(name for row in rows for name, way in row["ways"].items() if way["library"] == "minijac"))


def median(row: Row, name: str) -> float | None:
    """Milliseconds of a way, or of the best of a library ("best torch"); None where it is wrong or failed."""
    if name.startswith("best"):
        return row[name] and row[name][1]
    way = row["ways"][name]
    return way["median_ms"] if way["status"] == "ok" else None


# -- output ------------------------------------------------------------------------------------------------------------
def print_point(row: Row) -> None:
    """A line for each point, and a line for whatever failed."""
    own = "  ".join(f"{LINES[name].short} {number(median(row, name))}" for name in own_ways([row]))
    peers = "  ".join(f"{row[peer][0]} {number(row[peer][1])}" for peer in ("best torch", "best JAX") if row[peer])
    print(f"  {row['value']:>5}  {own}  {peers}  peer / compiled {number(row['ratio compiled'])}")
    for name, way in row["ways"].items():
        if not way["status"].startswith("ok"):
            print(f"    {name}: {way['status']}")
    sys.stdout.flush()


class Line(NamedTuple):
    """How a way is drawn, the same in every panel."""

    short: str
    """Beside the line's last point."""
    meaning: str
    style: dict[str, Any]


LINES = {
    "best torch": Line("torch", "torch, its fastest eager way", {"color": "#d9822b", "marker": "s"}),
    "best JAX": Line("JAX", "jitted JAX, its faster mode", {"color": "#3c8d40", "marker": "D"}),
    EAGER: Line("eager", "minijac", {"color": "#7fa8d9", "marker": "o"}),
    COMPILED: Line("compiled", "minijac compiled", {"color": "#1f4e9c", "marker": "o"}),
    EAGER + STRUCTURED: Line(
        "eager, structured", "minijac, structured", {"color": "#b48fd0", "marker": "^", "linestyle": "--"}
    ),
    COMPILED + STRUCTURED: Line(
        "compiled, structured", "minijac compiled, structured", {"color": "#6f3fa0", "marker": "^", "linestyle": "--"}
    ),
}


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Milliseconds against the quantity, both logarithmic, a panel for each sweep."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = len(record["sweeps"]) + 1  # the first one is for the legend
    columns = min(cells, 3)
    lines = math.ceil(cells / columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(4.2 * columns, 3.4 * lines), layout="constrained", squeeze=False
    )
    figure.get_layout_engine().set(h_pad=0.1)
    for ax in grid.flat:
        ax.set_axis_off()
    key, *panels = grid.flat
    handles: dict[str, Any] = {}
    for ax, (name, rows) in zip(panels, record["sweeps"].items(), strict=False):
        ax.set_axis_on()
        ends: dict[str, float] = {}
        for way in ("best torch", "best JAX", *own_ways(rows)):
            points = [(row["value"], found) for row in rows if (found := median(row, way)) is not None]
            if points:
                line = LINES[way]
                (handles[way],) = ax.plot(*zip(*points, strict=True), markersize=4.5, linewidth=1.4, **line.style)
                ends[way] = points[-1][1]
        values = [row["value"] for row in rows]
        ax.set(xscale="log", yscale="log", xlabel=SWEEPS[name].quantity, ylabel="milliseconds")
        ax.set_title(SWEEPS[name].title, fontsize=10, loc="left")
        ax.set_xticks(values, map(str, values))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.grid(alpha=0.25)
        label_ends(ax, ends)
    where = f"float32, {record['machine']['cpu']}, {record['machine']['cores']} cores, {record['date'][:10]}"
    names = [name for name in LINES if name in handles]
    key.legend(
        [handles[name] for name in names],
        [LINES[name].meaning for name in names],
        title=f"Per-sample Jacobians, median times\n{where}",
        alignment="left",
        loc="center left",
        fontsize=9,
        title_fontsize=9,
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def label_ends(ax: Any, ends: Mapping[str, float]) -> None:
    """The ways' short names right of their last points, moved apart where they would overlap."""
    low, high = map(math.log10, ax.get_ylim())
    gap, names = 0.055 * (high - low), sorted(ends, key=lambda name: ends[name])
    heights = [math.log10(ends[name]) for name in names]
    for _ in range(100):
        for k in range(len(names) - 1):
            overlap = gap - (heights[k + 1] - heights[k])
            if overlap > 0:
                heights[k] -= overlap / 2
                heights[k + 1] += overlap / 2
    for name, height in zip(names, heights, strict=True):
        ax.annotate(
            LINES[name].short,
            (1.02, (height - low) / (high - low)),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            color=LINES[name].style["color"],
        )


def sweep_once(name: str, orchestra: Conductor, record: dict[str, Any], most: int | None) -> list[str]:
    """A sweep's points, into the record; returns those on which minijac failed."""
    sweep, rows, failed = SWEEPS[name], [], []
    record["sweeps"][name] = rows
    print(f"{name}: {sweep.title}; {sweep.quantity}")
    for value in sweep.values[:most]:
        point = f"{name} {value}"
        try:
            rows.append({"value": value} | orchestra.measure(point, POINTS[point], record["rates"]))
        except Exception as error:  # the reference failed: said in the end, and the other points still run
            print(f"  {value:>5}  {type(error).__name__}: {error}")
            failed.append(point)
            continue
        print_point(rows[-1])
        failed += [point] * any(median(rows[-1], way) is None for way in own_ways(rows[-1:]))
    return failed


def main() -> None:
    """Check, time, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = parsed(parser, SWEEPS, ROUNDS, RESULTS, PICTURE)
    start = time.perf_counter()
    record = opening(options.quick) | {"sweeps": {}}
    with conductor(Path(__file__).resolve(), LIBRARIES, options, left_out=(NUMPY_ALONE,)) as orchestra:
        failed = [
            point
            for name in options.only or SWEEPS
            for point in sweep_once(name, orchestra, record, QUICK_POINTS if options.quick else None)
        ]
    record["seconds"] = time.perf_counter() - start
    print(f"\n{record['seconds']:.0f} s in all")
    if record["busy"]:
        print(record["busy"])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot:
        draw(record, options.plot)
    if failed:
        raise SystemExit(f"minijac failed on: {', '.join(failed)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(sys.argv[2], POINTS)
    else:
        main()
