"""One table: minijac, eager and compiled, beside every way of torch and of jitted JAX, on the workloads of this folder.

Run `python benchmarks/table.py`; see benchmarks/README.md. Each library has a process of its own, and all sleep but the
one whose turn it is. Every result is checked against float64 before it is timed; what is wrong is reported, not timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import optree
from thread import cpu_name
from threadpoolctl import threadpool_info
from ways import TRUTHS, Workload
from workers import (
    COMPILED,
    EAGER,
    LIBRARIES,
    NUMPY_ALONE,
    Turn,
    Worker,
    WorkerError,
    hide_avx512,
    in_torch,
    instructions,
    largest_error,
    leaves_of,
    serve,
)
from workloads import WORKLOADS

import minijac as mj
from minijac.demo import forum

TOLERANCE = 1e-4  # of the largest entry of each array: float32 rounding, through normalisations and second derivatives
TRUTH_TOLERANCE = 1e-9  # of the float64 reference, against torch's reverse mode
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "table-cpu.json"
PICTURE = HERE.parent / "docs" / "pictures" / "benchmarks.png"
SCREEN = 3  # a way that takes this many times the fastest of its library is not timed further
REST = 0.5  # seconds before each turn
STEADY = 0.05  # seconds of calls in a turn, after the cold one
MOST = 4.0  # seconds that the calls of one way may take in all; a slow one has fewer turns


# -- one row -----------------------------------------------------------------------------------------------------------
@dataclass
class Way:
    """One way to a workload's derivative, and what its library's process found."""

    name: str
    library: str
    """minijac, torch, JAX, or "by hand", which is shown and not counted."""
    worker: Worker
    status: str = "ok"
    first_call_s: float | None = None
    once_s: float = 0.0
    relative_error: float | None = None
    steady_s: list[float] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)
    calls: int = 0

    @property
    def median_ms(self) -> float | None:
        """Of steady calls; where a way had no turn, of its first ones; None where it is wrong or failed."""
        seconds = statistics.median(self.steady_s) if self.steady_s else self.once_s
        return 1e3 * seconds if self.status.startswith("ok") else None

    def row(self) -> dict[str, Any]:
        return {
            "library": self.library,
            "status": self.status,
            "median_ms": self.median_ms,
            "cold_ms": 1e3 * statistics.median(self.cold_s) if self.cold_s else None,
            "calls": self.calls or 1,
            "relative_error": self.relative_error,
            "first_call_s": self.first_call_s,
        }


@dataclass(frozen=True)
class Conductor:
    """Who asks the libraries' processes, and how much."""

    workers: Sequence[Worker]
    folder: Path
    """Where the truth lies for all of them to read."""
    rounds: int
    rest: float
    steady: float
    left_out: Collection[str] = ()
    """Ways that nobody wants to see."""

    def measure(self, name: str, workload: Workload, rates: Mapping[str, float]) -> dict[str, Any]:
        """A workload's row: every way checked, and timed where it is right."""
        start = time.perf_counter()
        data = workload.data()
        truth = self.folder / "truth.npz"
        np.savez(truth, *reference(workload, data))
        ways, failed = self.ways_of(name)
        for way in ways:
            check(way, name, truth)
        fast = [way for way in ways if way.status == "ok" and within_reach(way, ways)]
        for way in ways:
            if way.status == "ok" and way not in fast:
                way.status = "ok, but slow within its library: timed once"
        checks = time.perf_counter() - start
        self.time(fast, name)
        row = summary(workload, data, ways, rates) | {"failed": failed}
        return row | {"check_s": checks, "time_s": time.perf_counter() - start - checks}

    def ways_of(self, name: str) -> tuple[list[Way], dict[str, str]]:
        """minijac's first, then the peers'; and which libraries could not say."""
        ways, failed = [], {}
        for worker in self.workers:
            try:
                found = worker.ask("ways", workload=name)
            except WorkerError as error:  # its other workloads, and the other libraries, go on
                failed[worker.library] = str(error)
                continue
            ways += [Way(way, library, worker) for way, library in found.items() if way not in self.left_out]
        return ways, failed

    def time(self, ways: Sequence[Way], name: str) -> None:
        """All in turn, A B C, A B C; before each a rest, in which the threads of the one before go to sleep."""
        for turn in range(self.rounds):
            for way in ways:
                if way.status != "ok" or turn > MOST / (2 * way.once_s + self.steady):
                    continue
                time.sleep(self.rest)
                try:
                    found = way.worker.ask("turn", workload=name, way=way.name, seconds=self.steady)
                except WorkerError as error:
                    way.status = f"failed: {error}"
                    continue
                way.steady_s.append(found["steady_s"])
                way.cold_s.append(found["cold_s"])
                way.calls += found["calls"]


@contextmanager
def conductor(
    script: Path, libraries: Collection[str], options: argparse.Namespace, left_out: Collection[str] = ()
) -> Iterator[Conductor]:
    """With a process for each of these libraries, which end with the block; `script` serves in them."""
    rest, steady = (0.05, 0.01) if options.quick else (REST, STEADY)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        workers = [Worker(library, script, Path(name)) for library in libraries]
        for worker in workers:
            stack.callback(worker.end)
        yield Conductor(workers, Path(name), options.rounds, rest, steady, left_out)


def reference(workload: Workload, data: Any) -> list[Any]:
    """minijac in float64, all samples; checked against torch's reverse mode, one sample at a time, for the first."""
    exact = optree.tree_map(lambda a: a.astype(np.float64), data)
    call = workload.minijac(exact)
    found = leaves_of(call.function(*call.arguments))
    truth = leaves_of(workload.truth(in_torch(exact)))
    error = largest_error([a[:TRUTHS] for a in found] if workload.per_sample else found, truth)
    if not error < TRUTH_TOLERANCE:
        raise ArithmeticError(f"minijac in float64 is off torch's reverse mode by {error:.1e} on {workload.name}")
    return found


def check(way: Way, workload: str, truth: Path) -> None:
    """Its first calls; what is wrong or fails is said in `status`."""
    try:
        found = way.worker.ask("check", workload=workload, way=way.name, truth=str(truth))
    except WorkerError as error:
        way.status = f"failed: {error}"
        return
    way.first_call_s, way.relative_error, way.once_s = (
        found[key] for key in ("first_call_s", "relative_error", "once_s")
    )
    if not found["relative_error"] < TOLERANCE:
        way.status = f"wrong by {found['relative_error']:.1e}"


def within_reach(way: Way, ways: list[Way]) -> bool:
    """Whether a way may be the best of its library; minijac's own and those by hand always are."""
    if way.library in ("minijac", "by hand"):
        return True
    return way.once_s <= SCREEN * min(w.once_s for w in ways if w.library == way.library and w.status == "ok")


def summary(workload: Workload, data: Any, ways: list[Way], rates: Mapping[str, float]) -> dict[str, Any]:
    """A workload's row, as stored."""
    timed = {way.name: way.median_ms for way in ways if way.status == "ok" and way.median_ms is not None}

    def best(*libraries: str) -> tuple[str, float] | None:
        mine = {way.name: timed[way.name] for way in ways if way.library in libraries and way.name in timed}
        return min(mine.items(), key=lambda item: item[1]) if mine else None

    peer = best("torch", "JAX")
    eager, compiled = timed.get(EAGER), timed.get(COMPILED)
    work = workload.work(data)
    by_flops = work.flops / rates["sgemm_flops"]
    by_bytes = work.bytes / rates["copy_bytes"]
    limit = 1e3 * max(by_flops, by_bytes)
    return {
        "title": workload.title,
        "batch": len(data["x"]),
        "ways": {way.name: way.row() for way in ways},
        "libraries": list(dict.fromkeys(way.worker.library for way in ways if way.status.startswith("ok"))),
        EAGER: eager,
        COMPILED: compiled,
        NUMPY_ALONE: timed.get(NUMPY_ALONE),
        "best torch": best("torch"),
        "best JAX": best("JAX"),
        "best by hand": best("by hand"),
        "ratio compiled": peer[1] / compiled if peer and compiled else None,
        "ratio eager": peer[1] / eager if peer and eager else None,
        "flops": work.flops,
        "bytes": work.bytes,
        "limit_ms": limit,
        "limit_by": "matmul" if by_flops > by_bytes else "memory",
        "share of limit": limit / compiled if compiled else None,
    }


# -- the machine -------------------------------------------------------------------------------------------------------
def machine_rates(quick: bool) -> dict[str, float]:
    """What this machine can do: float32 operations a second in a large matmul, bytes a second read and written."""
    n, entries, times = (512, 2**20, 3) if quick else (2048, 2**25, 9)
    A, B = (np.random.default_rng(k).standard_normal((n, n), dtype=np.float32) for k in range(2))
    C = np.empty_like(A)
    np.matmul(A, B, out=C)
    sgemm = min(forum.seconds_of(lambda: np.matmul(A, B, out=C)) for _ in range(times))
    source, target = np.ones(entries, np.float32), np.zeros(entries, np.float32)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = list(zip(np.array_split(target, cores), np.array_split(source, cores), strict=True))
    with ThreadPoolExecutor(cores) as pool:
        copies: list[Turn] = [
            lambda: np.copyto(target, source),
            lambda: list(pool.map(lambda pair: np.copyto(*pair), parts)),
        ]
        copy = min(forum.seconds_of(turn) for turn in copies for _ in range(times))
    return {"sgemm_flops": 2.0 * n**3 / sgemm, "copy_bytes": 2.0 * source.nbytes / copy}


def versions() -> dict[str, str]:
    """What was compared."""
    found = {"python": platform.python_version()}
    for name in ("minijac", "numpy", "llvmlite", "torch", "jax", "jaxlib", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = str(getattr(mj, "__version__", "unknown")) if name == "minijac" else "not installed"
    return found


def machine() -> dict[str, Any]:
    """Where it ran, and what else ran there."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "instructions": instructions(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch_threads": forum.torch.get_num_threads(),
        "blas": [
            {key: library.get(key) for key in ("internal_api", "version", "architecture", "num_threads")}
            for library in threadpool_info()
            if library["user_api"] == "blas" and "numpy" in library["filepath"]
        ],
        "blas_settings": {key: value for key, value in os.environ.items() if key.startswith(("OPENBLAS_", "MKL_"))},
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


# -- output ------------------------------------------------------------------------------------------------------------
def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, never with an exponent."""
    if value is None:
        return "-"
    places = max(0, digits - 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{min(places, 5)}f}"


HEAD = ("workload", "eager", "compiled", "NumPy only", "torch", "", "JAX", "", "by hand", "c/peer", "e/peer", "limit")
WIDTHS = (23, 8, 8, 8, 8, 36, 8, 32, 8, 6, 6, 12)


def print_row(cells: Sequence[str]) -> None:
    left = (0, 5, 7)
    print(
        "  ".join(f"{c:<{w}}" if k in left else f"{c:>{w}}" for k, (c, w) in enumerate(zip(cells, WIDTHS, strict=True)))
    )


def print_workload(name: str, row: Mapping[str, Any]) -> None:
    """A line of the table, and a line for whatever failed."""

    def named(found: Sequence[Any] | None, prefix: str) -> tuple[str, str]:
        return ("-", "-") if found is None else (number(found[1]), found[0].removeprefix(prefix))

    share = row["share of limit"]
    hand = row["best by hand"]
    cells = (
        name,
        number(row[EAGER]),
        number(row[COMPILED]),
        number(row[NUMPY_ALONE]),
        *named(row["best torch"], "torch "),
        *named(row["best JAX"], "JAX "),
        number(hand[1] if hand else None),
        number(row["ratio compiled"]),
        number(row["ratio eager"]),
        "-" if share is None else f"{100 * share:.0f}% {row['limit_by']}",
    )
    print_row(cells)
    print_apart(row)
    sys.stdout.flush()


def print_apart(row: Mapping[str, Any]) -> None:
    """First and cold calls of the ways that the table names, who took part, and whatever failed."""
    named = {"compiled": COMPILED} | {k: row[f"best {k}"][0] for k in ("torch", "JAX") if row[f"best {k}"]}
    ways = {short: row["ways"][name] for short, name in named.items() if name in row["ways"]}
    first = ", ".join(f"{short} {number(way['first_call_s'], 2)}" for short, way in ways.items())
    cold = ", ".join(f"{short} {number(way['cold_ms'])}" for short, way in ways.items())
    print(f"    first call, s: {first};  cold: {cold};  of {', '.join(row['libraries'])}")
    for way, found in row["ways"].items():
        if found["status"].startswith(("wrong", "failed")):
            print(f"    {way}: {found['status']}")
    for library, error in row["failed"].items():
        print(f"    {library}: failed: {error}")


def geometric_mean(values: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Milliseconds of every workload, one dot for each way that counts, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = record["workloads"]
    names = list(rows)[::-1]
    figure, ax = plt.subplots(figsize=(9, 0.34 * len(names) + 1.7), layout="constrained")
    series: list[tuple[str, str, dict[str, Any], Callable[[Any], float | None]]] = [
        ("best torch", "#d9822b", {"marker": "s"}, lambda row: row["best torch"] and row["best torch"][1]),
        ("best JAX, jitted", "#3c8d40", {"marker": "D"}, lambda row: row["best JAX"] and row["best JAX"][1]),
        ("minijac", "#7fa8d9", {"marker": "o"}, lambda row: row[EAGER]),
        ("minijac compiled", "#1f4e9c", {"marker": "o"}, lambda row: row[COMPILED]),
    ]
    for label, colour, style, value in series:
        found = [(value(rows[name]), y) for y, name in enumerate(names)]
        points = [(v, y) for v, y in found if v is not None]
        if points:
            ax.scatter(*zip(*points, strict=True), s=42, color=colour, label=label, zorder=3, **style)
    for y, name in enumerate(names):
        ratio = rows[name]["ratio compiled"]
        if ratio is not None:
            ax.annotate(f"{number(ratio, 2)}×", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    ax.set_xscale("log")
    ax.set_yticks(range(len(names)), [rows[name]["title"] for name in names], fontsize=8)
    ax.grid(axis="both", alpha=0.25)
    cores = record["machine"]["cores"]
    ax.set_xlabel("milliseconds, median of steady calls; right: best peer's time / minijac compiled")
    ax.set_title(f"float32, {record['machine']['cpu']}, {cores} cores, {record['date'][:10]}", fontsize=9, loc="left")
    ax.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.05), borderaxespad=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("--with-torch-compile", True), ("--without-torch-compile", False)):
        parser.add_argument(
            name,
            dest="torch_compile",
            action="store_const",
            const=value,
            help="whether torch.compile takes part, which takes minutes to compile (default: unless --quick)",
        )
    options = parsed(parser, WORKLOADS, 7, RESULTS, PICTURE)
    if options.torch_compile is None:
        options.torch_compile = not options.quick
    return options


def parsed(
    parser: argparse.ArgumentParser, names: Collection[str], rounds: int, results: Path, picture: Path
) -> argparse.Namespace:
    """The command line, with the options that a benchmark of several parts has; a complete run is stored and drawn."""
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help=f"turns of each way at most (default: {rounds})")
    parser.add_argument("--quick", action="store_true", help="checks, and times in two rounds that say little")
    parser.add_argument("--avx512", action="store_true", help="AVX-512 where the CPU has it (default: AVX2 alone)")
    parser.add_argument("--json", type=Path, help=f"where results go (default, for a complete run: {results.name})")
    parser.add_argument(
        "--plot", type=Path, help=f"where the picture goes (default, for a complete run: {picture.name})"
    )
    options = parser.parse_args()
    if not options.avx512:
        hide_avx512()
    options.rounds = options.rounds or (2 if options.quick else rounds)
    if not options.quick and not options.only:
        options.json = options.json or results
        options.plot = options.plot or picture
    return options


def opening(quick: bool) -> dict[str, Any]:
    """What runs where and when, and what the machine can do: printed, and returned to be stored."""
    record: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
        "busy": forum.busy(),
        "dtype": "float32",
        "rates": machine_rates(quick),
    }
    rates, where = record["rates"], record["machine"]
    cores = f"{where['cores']} cores, {where['instructions']}"
    print(f"{where['cpu']}, {cores}; {', '.join(f'{k} {v}' for k, v in record['versions'].items())}")
    print(f"sgemm {rates['sgemm_flops'] / 1e9:.0f} Gflop/s, copy {rates['copy_bytes'] / 1e9:.1f} GB/s")
    print("medians of steady calls in ms\n")
    return record


def main() -> None:
    """Check, time, print, store, draw."""
    options = arguments()
    start = time.perf_counter()
    record = opening(options.quick) | {"torch_compile": options.torch_compile, "workloads": {}}
    print_row(HEAD)
    failed = []
    libraries = [name for name in LIBRARIES if options.torch_compile or name != "torch.compile"]
    with conductor(Path(__file__).resolve(), libraries, options) as orchestra:
        for name in options.only or WORKLOADS:
            try:
                row = orchestra.measure(name, WORKLOADS[name], record["rates"])
            except Exception as error:  # the reference failed: said in the end, and the other workloads still run
                print(f"{name}: {type(error).__name__}: {error}")
                failed.append(name)
                continue
            record["workloads"][name] = row
            print_workload(name, row)
            failed += [name] * any(row[way] is None for way in (EAGER, COMPILED))
    for ratio in ("ratio compiled", "ratio eager"):
        values = [row[ratio] for row in record["workloads"].values() if row[ratio] is not None]
        record[f"geometric mean of {ratio}"] = geometric_mean(values)
    record["seconds"] = time.perf_counter() - start
    print(
        f"\ngeometric mean of best peer / minijac: compiled {number(record['geometric mean of ratio compiled'])}, "
        f"eager {number(record['geometric mean of ratio eager'])}; {record['seconds']:.0f} s in all"
    )
    if record["busy"]:
        print(record["busy"])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot and record["workloads"]:
        draw(record, options.plot)
    if failed:
        raise SystemExit(f"minijac failed on: {', '.join(dict.fromkeys(failed))}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(sys.argv[2], WORKLOADS)
    else:
        main()
