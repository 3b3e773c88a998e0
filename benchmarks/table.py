"""One table: minijac, eager and compiled, beside every way of torch and of jitted JAX, on the workloads of this folder.

Run `python benchmarks/table.py`; see benchmarks/README.md. Every result is checked against float64 before it is timed;
what is wrong is reported, and not timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import optree
from thread import cpu_name
from threadpoolctl import threadpool_info
from ways import TRUTHS, Call, Workload
from workloads import WORKLOADS

import minijac as mj
from minijac.demo import forum
from minijac.program.cpu import fusion

# Jitted reductions of JAX 0.10.2 are wrong on some workloads (a quarter off) without this; read when JAX is imported.
XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
TOLERANCE = 1e-4  # of the largest entry of each array: float32 rounding, through normalisations and second derivatives
TRUTH_TOLERANCE = 1e-9  # of the float64 reference, against torch's reverse mode
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "table-cpu.json"
PICTURE = HERE.parent / "docs" / "pictures" / "benchmarks.png"
EAGER, COMPILED, NUMPY_ALONE = "minijac", "minijac compiled", "minijac compiled, NumPy alone"
SCREEN = 3  # a way that takes this many times the fastest of its library is not timed further
COMPILE_SECONDS = 300  # that torch.compile may take for one way

Turn = Callable[[], Any]


# -- the ways, each as a call without arguments ------------------------------------------------------------------------
@dataclass
class Way:
    """One way to a workload's derivative."""

    name: str
    library: str
    """minijac, torch, JAX, or "by hand", which is shown and not counted."""
    make: Callable[[], Turn]
    """The call, compiled where it is; its first call is the caller's."""
    status: str = "ok"
    turn: Turn | None = None
    first_call_s: float | None = None
    second_call_s: float = 0.0
    relative_error: float | None = None
    median_ms: float | None = None
    calls: int = 0

    def row(self) -> dict[str, Any]:
        return {
            "library": self.library,
            "status": self.status,
            "median_ms": self.median_ms,
            "calls": self.calls,
            "relative_error": self.relative_error,
            "first_call_s": self.first_call_s,
        }


def ways_of(workload: Workload, data: Any, torch_compile: bool) -> list[Way]:
    """minijac first, then the peers."""
    call = workload.minijac(data)
    ways = [
        Way(EAGER, "minijac", lambda: partial(call.function, *call.arguments)),
        Way(COMPILED, "minijac", lambda: partial(mj.compile(call.function), *call.arguments)),
        Way(NUMPY_ALONE, "minijac", partial(numpy_alone, call)),
    ]
    tensors = in_torch(data)
    for name, way in workload.torch(tensors).items():
        ways.append(Way(f"torch {name}", "torch", partial(partial, way.function, *way.arguments)))
        if torch_compile and name in workload.compiled:
            ways.append(Way(f"torch.compile {name}", "torch", partial(probed, workload, name, way)))
    for name, way in workload.torch_by_hand(tensors).items():
        ways.append(Way(f"torch {name}", "by hand", partial(partial, way.function, *way.arguments)))
        if torch_compile:
            ways.append(Way(f"torch.compile {name}", "by hand", partial(probed, workload, name, way)))
    arrays = in_jax(data)
    for library, calls in (("JAX", workload.jax(arrays)), ("by hand", workload.jax_by_hand(arrays))):
        for name, way in calls.items():
            ways.append(Way(f"JAX {name}", library, partial(jitted, way)))
    return ways


def numpy_alone(call: Call) -> Turn:
    """Compiled as where llvmlite is not installed."""
    compiled = mj.compile(call.function)
    fusion.ENABLED = False
    try:
        compiled(*call.arguments)
    finally:
        fusion.ENABLED = True
    return partial(compiled, *call.arguments)


def in_torch(data: Any) -> Any:
    return optree.tree_map(forum.torch.from_numpy, data)


def in_jax(data: Any) -> Any:
    if "jax" not in sys.modules and XLA_FLAG not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAG}".strip()
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return optree.tree_map(jax.numpy.asarray, data)


def jitted(call: Call) -> Turn:
    import jax

    function, arguments, wait = jax.jit(call.function), call.arguments, jax.block_until_ready
    return lambda: wait(function(*arguments))


def probed(workload: Workload, name: str, call: Call) -> Turn:
    """torch.compile of a way that has survived it in a process of its own, which also fills its cache on disk."""
    command = [sys.executable, str(Path(__file__).resolve()), "--probe", workload.name, name]
    try:
        found = subprocess.run(command, timeout=COMPILE_SECONDS, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"torch.compile takes more than {COMPILE_SECONDS} s") from None
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"torch.compile ends its process with {found.returncode}: {last[:160]}")
    return partial(forum.torch.compile(call.function, dynamic=False), *call.arguments)


def probe(name: str, way: str) -> None:
    """Compile and call one way, three times."""
    workload = WORKLOADS[name]
    tensors = in_torch(workload.data())
    call = {**workload.torch(tensors), **workload.torch_by_hand(tensors)}[way]
    turn = partial(forum.torch.compile(call.function, dynamic=False), *call.arguments)
    for _ in range(3):
        turn()


# -- checks ------------------------------------------------------------------------------------------------------------
def leaves_of(result: Any, arrange: Callable[[Any], Any] = lambda leaf: leaf) -> list[Any]:
    """The arrays of a result of any library, dense."""
    leaves = optree.tree_leaves(result)
    arrays = [leaf.todense() if isinstance(leaf, mj.Jacobian) else leaf for leaf in leaves]
    return [arrange(a.detach().numpy() if hasattr(a, "detach") else np.asarray(a)) for a in arrays]


def largest_error(found: Sequence[Any], truth: Sequence[Any]) -> float:
    """Largest error in any array, relative to its largest entry."""
    if [a.shape for a in found] != [a.shape for a in truth]:
        raise ValueError(f"shapes {[a.shape for a in found]} in place of {[a.shape for a in truth]}")
    errors = [float(np.max(np.abs(a - b))) / float(np.max(np.abs(b))) for a, b in zip(found, truth, strict=True)]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


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


def checked(way: Way, workload: Workload, truth: list[Any]) -> None:
    """Make the call, call it for the first time, compare; what fails is said in `status`."""
    try:
        start = time.perf_counter()
        way.turn = way.make()
        result = way.turn()
        way.first_call_s = time.perf_counter() - start
        found = leaves_of(result, workload.arrange)
        way.relative_error = largest_error(found, truth)
        start = time.perf_counter()
        result = way.turn()  # a replay is another code path
        way.second_call_s = time.perf_counter() - start
        again = largest_error(leaves_of(result, workload.arrange), truth)
        way.relative_error = math.nan if math.isnan(again) else max(way.relative_error, again)
        if not way.relative_error < TOLERANCE:
            way.status = f"wrong by {way.relative_error:.1e}"
    except Exception as error:  # a peer's compiler may raise anything, and the table goes on
        message = str(error).strip().splitlines() or [""]
        way.status = f"failed: {type(error).__name__}: {message[0][:200]}"


# -- times -------------------------------------------------------------------------------------------------------------
def measure(workload: Workload, options: argparse.Namespace, rates: Mapping[str, float]) -> dict[str, Any]:
    """A workload's row: every way checked, and timed where it is right."""
    if options.torch_compile:
        forum.torch.compiler.reset()  # after some shapes of one function torch compiles no more of them
    data = workload.data()
    ways = ways_of(workload, data, options.torch_compile)
    seconds = check_and_time(ways, workload, data, options)
    return summary(workload, data, ways, rates) | seconds


def check_and_time(ways: list[Way], workload: Workload, data: Any, options: argparse.Namespace) -> dict[str, float]:
    """Check, leave out what is slow within its library, time the rest in turn; returns what both took."""
    start = time.perf_counter()
    truth = reference(workload, data)
    for way in ways:
        checked(way, workload, truth)
    del truth
    for way in ways:
        if way.status == "ok":
            way.median_ms, way.calls = screened(way) * 1e3, 1
    fast = [way for way in ways if way.status == "ok" and within_reach(way, ways)]
    for way in ways:
        if way.status == "ok" and way not in fast:
            way.status = "ok, but slow within its library: timed once"
    checks = time.perf_counter() - start
    turns = {way.name: way.turn for way in fast if way.turn is not None}
    seconds = 0.05 if options.quick else 1.2
    timings = forum.interleaved(turns, rounds=options.rounds, seconds_each=seconds, most_calls=100)
    for way in fast:
        way.median_ms, way.calls = timings[way.name].median * 1e3, timings[way.name].calls
    return {"check_s": checks, "time_s": time.perf_counter() - start - checks}


def screened(way: Way) -> float:
    """Least time of three calls; of the second call, where that took long."""
    assert way.turn is not None
    if way.second_call_s > 0.5:
        return way.second_call_s
    time.sleep(0.01)  # for the previous library's threads to go to sleep
    return min(forum.seconds_of(way.turn) for _ in range(3))


def within_reach(way: Way, ways: list[Way]) -> bool:
    """Whether a way may be the best of its library; minijac's own and those by hand always are."""
    if way.library in ("minijac", "by hand"):
        return True
    rivals = [w.median_ms for w in ways if w.library == way.library and w.status == "ok" and w.median_ms is not None]
    return way.median_ms is not None and way.median_ms <= SCREEN * min(rivals)


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
WIDTHS = (23, 8, 8, 8, 8, 30, 8, 24, 8, 6, 6, 12)


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
    for way, found in row["ways"].items():
        if found["status"].startswith(("wrong", "failed")):
            print(f"    {way}: {found['status']}")
    sys.stdout.flush()


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
    ax.set_xlabel("milliseconds, median; right: best peer's time / minijac compiled")
    ax.set_title(f"float32, {record['machine']['cpu']}, {cores} cores, {record['date'][:10]}", fontsize=9, loc="left")
    ax.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.05), borderaxespad=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--torch-compile",
        action=argparse.BooleanOptionalAction,
        help="whether torch.compile takes part, which adds ten minutes of compiling (default: unless --quick)",
    )
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parsed(parser, WORKLOADS, 25, RESULTS, PICTURE)
    if options.torch_compile is None:
        options.torch_compile = not options.quick
    return options


def parsed(
    parser: argparse.ArgumentParser, names: Collection[str], rounds: int, results: Path, picture: Path
) -> argparse.Namespace:
    """The command line, with the options that a benchmark of several parts has; a complete run is stored and drawn."""
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds at most (default: {rounds})")
    parser.add_argument("--quick", action="store_true", help="checks, and times in two rounds that say little")
    parser.add_argument("--json", type=Path, help=f"where results go (default, for a complete run: {results.name})")
    parser.add_argument(
        "--plot", type=Path, help=f"where the picture goes (default, for a complete run: {picture.name})"
    )
    options = parser.parse_args()
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
    print(f"{where['cpu']}, {where['cores']} cores; {', '.join(f'{k} {v}' for k, v in record['versions'].items())}")
    print(f"sgemm {rates['sgemm_flops'] / 1e9:.0f} Gflop/s, copy {rates['copy_bytes'] / 1e9:.1f} GB/s; medians in ms\n")
    return record


def main() -> None:
    """Check, time, print, store, draw."""
    options = arguments()
    if options.probe:
        probe(*options.probe)
        return
    start = time.perf_counter()
    record = opening(options.quick) | {"torch_compile": options.torch_compile, "workloads": {}}
    print_row(HEAD)
    failed = []
    for name in options.only or WORKLOADS:
        try:
            row = measure(WORKLOADS[name], options, record["rates"])
        except Exception as error:  # minijac's own failure: said in the end, and the other workloads still run
            print(f"{name}: {type(error).__name__}: {error}")
            failed.append(name)
            continue
        record["workloads"][name] = row
        print_workload(name, row)
        failed += [name] * any(not row["ways"][way]["status"].startswith("ok") for way in (EAGER, COMPILED))
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
    main()
