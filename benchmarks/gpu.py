"""Everything that needs a GPU, unattended and in under ten minutes: the gpu tests, and the table with its limits.

    python benchmarks/gpu.py

Each library runs in a process of its own, one after the other, so that the memory that its pool reports is its own and
none waits for another's. First float32 with TF32 off for everyone, then the ways that were fast with TF32 on for
everyone.
Every result is checked against float64 on the host before it is timed. See benchmarks/README.md.

``--rehearsal`` does the same on the host, without the tests and with another clock, to try the script out; its figures
mean nothing, and it writes no results of its own accord.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import optree
from table import geometric_mean, number, reference
from ways import Call, Workload
from workers import largest_error
from workloads import WORKLOADS

import minijac as mj

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "table-gpu.json"
LIBRARIES = ("minijac", "torch", "JAX")
COMPILED = "minijac compiled"
TOLERANCE = {False: 1e-4, True: 3e-2}
"""Of the largest entry of each array: float32 through normalisations and second derivatives; ten bits with TF32."""
TEST_SECONDS = 120
WORKER_SECONDS = {
    (False, "minijac"): 60, (False, "torch"): 120, (False, "JAX"): 60,
    (True, "minijac"): 35, (True, "torch"): 50, (True, "JAX"): 45,
}  # fmt: skip
"""For each process; with the tests this is under ten minutes. What does not fit is listed as left out."""
FAST = 1.5
"""With TF32 on, ways within this factor of the fastest of their library are timed again."""

Turn = Callable[[], Any]


# -- what is there -----------------------------------------------------------------------------------------------------
def missing() -> list[str]:
    """What keeps this script from running, in words."""
    try:
        import cupy
    except Exception as error:
        return [f"CuPy cannot be imported ({error}): pip install minijac[cuda12]"]
    try:
        if cupy.cuda.runtime.getDeviceCount():
            return []
        return ["CuPy sees no CUDA device"]
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return [f"CuPy sees no CUDA device ({error})"]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("minijac", "numpy", "cupy-cuda12x", "cupy-cuda13x", "nvmath-python", "torch", "jax", "jaxlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """The device, its driver, and what CuPy runs on."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {
        "device": properties["name"].decode(),
        "compute_capability": cupy.cuda.Device().compute_capability,
        "memory_bytes": properties["totalGlobalMem"],
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def rates(tf32: bool) -> dict[str, float]:
    """What the device can do: float32 operations a second in a large matmul, bytes a second read and written."""
    import cupy

    n = 8192
    A = cupy.random.standard_normal((n, n), dtype=np.float32)
    product = mj.compile(lambda a, b: a @ b, tf32=tf32)
    clock = Clock("minijac", rehearsal=False)
    seconds = clock.times(lambda: product(A, A), 3.0)
    source = cupy.ones(2**28, np.float32)
    target = cupy.empty_like(source)
    copy = clock.times(lambda: cupy.copyto(target, source), 1.0)
    return {"matmul_flops": 2.0 * n**3 / min(seconds), "copy_bytes": 2.0 * source.nbytes / min(copy)}


# -- one library, in a process of its own ------------------------------------------------------------------------------
class Clock:
    """Seconds of a call on the device, and the memory that it takes."""

    def __init__(self, library: str, rehearsal: bool) -> None:
        self.library = library
        self.rehearsal = rehearsal

    def wait(self, result: Any = None) -> None:
        """Until the device has nothing left to do."""
        if self.library == "JAX":
            import jax

            jax.block_until_ready(result)
        elif not self.rehearsal:
            if self.library == "torch":
                import torch

                torch.cuda.synchronize()
            else:
                import cupy

                cupy.cuda.Device().synchronize()

    def times(self, turn: Turn, seconds: float) -> list[float]:
        """Seconds of one call, from runs of calls that take a few milliseconds; the first runs warm it up."""
        self.wait(turn())
        start = time.perf_counter()
        self.wait(turn())
        once = max(time.perf_counter() - start, 1e-6)
        calls = max(1, min(200, int(0.004 / once)))
        rounds = max(3, min(25, int(seconds / (calls * once))))
        return [self._run(turn, calls) / calls for _ in range(rounds + 2)][2:]

    def _run(self, turn: Turn, calls: int) -> float:
        """CUDA events around the calls. JAX has streams of its own: the clock on the wall, and one wait at the end."""
        if self.library == "JAX" or self.rehearsal:
            start = time.perf_counter()
            result = None
            for _ in range(calls):
                result = turn()
            self.wait(result)
            return time.perf_counter() - start
        if self.library == "torch":
            import torch

            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        else:
            import cupy

            begin, end = (cupy.cuda.Event() for _ in range(2))
        begin.record()
        for _ in range(calls):
            turn()
        end.record()
        end.synchronize()
        if self.library == "torch":
            return begin.elapsed_time(end) / 1e3
        return cupy.cuda.get_elapsed_time(begin, end) / 1e3

    def peak_bytes(self, turn: Turn) -> int | None:
        """The most that the library's pool held during a call; for JAX what the executable says of itself."""
        if self.rehearsal:
            return None
        if self.library == "torch":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.wait(turn())
            return int(torch.cuda.max_memory_allocated())
        if self.library == "JAX":
            found = turn.memory_analysis()  # type: ignore[attr-defined]
            return int(found.temp_size_in_bytes + found.output_size_in_bytes + found.argument_size_in_bytes)
        import cupy

        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        self.wait(turn())
        return int(pool.total_bytes())


class Jitted:
    """A call of JAX's, compiled."""

    def __init__(self, call: Call) -> None:
        import jax

        self.executable = jax.jit(call.function).lower(*call.arguments).compile()
        self.arguments = call.arguments

    def __call__(self) -> Any:
        return self.executable(*self.arguments)

    def memory_analysis(self) -> Any:
        return self.executable.memory_analysis()


def set_up(library: str, tf32: bool, rehearsal: bool) -> Callable[[Any], Any]:
    """Settle the precision of matmuls, and how a tree of NumPy arrays gets to the library."""
    if library == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.set_default_device("cpu" if rehearsal else "cuda")  # where the ways make their bases
        return lambda tree: optree.tree_map(torch.asarray, tree)
    if library == "JAX":
        import jax

        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")
        return lambda tree: optree.tree_map(jax.numpy.asarray, tree)
    if rehearsal:
        return lambda tree: tree
    import cupy

    return lambda tree: optree.tree_map(cupy.asarray, tree)


def on_host(leaf: Any) -> Any:
    """A leaf of any library's result as a dense array of NumPy's."""
    leaf = leaf.todense() if isinstance(leaf, mj.Jacobian) else leaf
    if hasattr(leaf, "detach"):
        return leaf.detach().cpu().numpy()
    return leaf.get() if hasattr(leaf, "get") else np.asarray(leaf)


def ways_of(workload: Workload, library: str, data: Any, tf32: bool) -> Iterator[tuple[str, Callable[[], Turn]]]:
    """The library's ways to the derivative: a name, and what makes the call."""
    if library == "minijac":
        call = workload.minijac(data)
        yield "minijac", lambda: partial(call.function, *call.arguments)
        yield COMPILED, lambda: partial(mj.compile(call.function, tf32=tf32), *call.arguments)
    elif library == "torch":
        import torch

        for name, way in workload.torch(data).items():
            yield f"torch {name}", partial(partial, way.function, *way.arguments)
        for name, way in workload.torch(data).items():
            if name in workload.compiled:
                yield (
                    f"torch.compile {name}",
                    lambda way=way: partial(torch.compile(way.function, dynamic=False), *way.arguments),
                )
    else:
        for name, way in workload.jax(data).items():
            yield f"JAX {name}", partial(Jitted, way)


def measured(
    make: Callable[[], Turn], truth: list[Any], workload: Workload, clock: Clock, tf32: bool
) -> dict[str, Any]:
    """One way: made, called twice and compared, timed."""
    row: dict[str, Any] = {"status": "ok", "median_ms": None}
    try:
        start = time.perf_counter()
        turn = make()
        result = turn()
        clock.wait(result)
        row["first_call_s"] = time.perf_counter() - start
        errors = []
        for _ in range(2):  # a replay is another code path, and so is a graph
            found = [workload.arrange(on_host(leaf)) for leaf in optree.tree_leaves(result)]
            errors.append(largest_error(found, truth))
            result = turn()
        row["relative_error"] = max(errors, key=lambda error: math.inf if math.isnan(error) else error)
        if not row["relative_error"] < TOLERANCE[tf32]:
            row["status"] = f"wrong by {row['relative_error']:.1e}"
            return row
        row["peak_bytes"] = clock.peak_bytes(turn)
        row["median_ms"] = 1e3 * statistics.median(clock.times(turn, 0.4))
    except Exception as error:  # a peer's compiler may raise anything, and the table goes on
        message = str(error).strip().splitlines() or [""]
        row["status"] = f"failed: {type(error).__name__}: {message[0][:200]}"
    return row


def work(options: argparse.Namespace) -> None:
    """A worker: one library, all workloads, one line of JSON for each way as soon as it is known."""
    library, tf32, rehearsal = options.worker, options.tf32, options.rehearsal
    start = time.monotonic()
    to_device, clock = set_up(library, tf32, rehearsal), Clock(library, rehearsal)
    chosen = json.loads(options.ways) if options.ways else None
    late: list[tuple[str, str, Callable[[], Turn]]] = []  # torch.compile, which takes long, after everything else

    def told(name: str, way: str, row: Mapping[str, Any]) -> None:
        print(json.dumps({"workload": name, "way": way, **row}), flush=True)

    def tried(name: str, way: str, make: Callable[[], Turn]) -> None:
        if time.monotonic() - start > options.seconds:
            told(name, way, {"status": "left out: no time left", "median_ms": None})
            return
        with np.load(Path(options.truths) / f"{name}.npz") as stored:
            truth = [stored[key] for key in stored]
        told(name, way, measured(make, truth, WORKLOADS[name], clock, tf32))

    for name in options.only:
        data = to_device(WORKLOADS[name].data())
        for way, make in ways_of(WORKLOADS[name], library, data, tf32):
            if chosen is not None and way not in chosen.get(name, ()):
                continue
            if way.startswith("torch.compile") and not rehearsal:
                late.append((name, way, make))
            elif not way.startswith("torch.compile"):
                tried(name, way, make)
    for each in late:
        tried(*each)


# -- all of them -------------------------------------------------------------------------------------------------------
def worker(
    library: str, tf32: bool, options: argparse.Namespace, truths: str, ways: Any = None
) -> list[dict[str, Any]]:
    """Run a library's process; what it had said when its time was up counts."""
    seconds = WORKER_SECONDS[tf32, library]
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", library, "--truths", truths]
    command += ["--seconds", str(0.8 * seconds), "--only", *options.only]
    command += ["--tf32"] * tf32 + ["--rehearsal"] * options.rehearsal
    command += ["--ways", json.dumps(ways)] if ways is not None else []
    environment = os.environ | {"CUPY_TF32": str(int(tf32)), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if options.rehearsal:
        environment["JAX_PLATFORMS"] = "cpu"
    try:
        done = subprocess.run(command, env=environment, timeout=seconds, capture_output=True, text=True)
        out, error = done.stdout, done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired as expired:
        out = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout or ""
        error = f"stopped after {seconds} s"
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
    if error:
        last = (error.strip().splitlines() or ["no message"])[-1]
        print(f"{library}{' with TF32' if tf32 else ''}: {last}", file=sys.stderr)
        rows.append({"workload": None, "way": library, "status": f"ended early: {last[:200]}", "median_ms": None})
    return rows


def summary(workload: Workload, found: list[dict[str, Any]], limits: Mapping[str, float] | None) -> dict[str, Any]:
    """A workload's row of the table."""
    ways = {row["way"]: {key: row[key] for key in row if key not in ("way", "workload")} for row in found}
    timed = {way: row["median_ms"] for way, row in ways.items() if row["median_ms"] is not None}

    def best(library: str) -> tuple[str, float] | None:
        mine = {way: ms for way, ms in timed.items() if way.startswith(library)}
        return min(mine.items(), key=lambda item: item[1]) if mine else None

    peers = [each for each in (best("torch"), best("JAX")) if each]
    compiled, eager = timed.get(COMPILED), timed.get("minijac")
    work = workload.work(workload.data())
    row = {
        "title": workload.title,
        "ways": ways,
        "minijac": eager,
        COMPILED: compiled,
        "best torch": best("torch"),
        "best JAX": best("JAX"),
        "ratio compiled": min(ms for _, ms in peers) / compiled if peers and compiled else None,
        "ratio eager": min(ms for _, ms in peers) / eager if peers and eager else None,
        "flops": work.flops,
        "bytes": work.bytes,
    }
    if limits is not None:
        by_flops, by_bytes = work.flops / limits["matmul_flops"], work.bytes / limits["copy_bytes"]
        limit = 1e3 * max(by_flops, by_bytes)
        row |= {
            "limit_ms": limit,
            "limit_by": "matmul" if by_flops > by_bytes else "memory",
            "share of limit": limit / compiled if compiled else None,
        }
    return row


def fast_ways(rows: list[dict[str, Any]], library: str) -> dict[str, list[str]]:
    """For each workload the ways of a library that may be its fastest with TF32 too."""
    found: dict[str, list[str]] = {}
    for name in {row["workload"] for row in rows} - {None}:
        timed = {r["way"]: r["median_ms"] for r in rows if r["workload"] == name and r["median_ms"] is not None}
        if timed:
            least = min(timed.values())
            found[name] = [way for way, ms in timed.items() if ms <= FAST * least or library == "minijac"]
    return found


def table(options: argparse.Namespace, truths: str) -> dict[str, Any]:
    """All libraries with TF32 off, then on."""
    found: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for tf32 in (False, True):
        limits = None if options.rehearsal else rates(tf32)
        rows: list[dict[str, Any]] = []
        for library in LIBRARIES:
            mine = worker(library, tf32, options, truths, chosen.get(library))
            chosen[library] = fast_ways(mine, library)
            rows += mine
        print(f"\nfloat32, TF32 {'on' if tf32 else 'off'}: milliseconds, and the best peer's time / minijac compiled")
        table = {}
        for name in options.only:
            table[name] = row = summary(WORKLOADS[name], [r for r in rows if r["workload"] == name], limits)
            print_row(name, row)
        ratios = [row["ratio compiled"] for row in table.values() if row["ratio compiled"]]
        found["tf32" if tf32 else "float32"] = {
            "rates": limits,
            "workloads": table,
            "geometric mean of ratios": geometric_mean(ratios),
            "problems": [row for row in rows if row["status"] != "ok"],
        }
    return found


def print_row(name: str, row: Mapping[str, Any]) -> None:
    cells = [number(row["minijac"]), number(row[COMPILED])]
    for library in ("best torch", "best JAX"):
        cells.append("-" if row[library] is None else f"{number(row[library][1])} {row[library][0]}")
    share = row.get("share of limit")
    cells += [number(row["ratio compiled"]), "-" if share is None else f"{100 * share:.0f}% of {row['limit_by']}"]
    print(f"{name:<23}", *(f"{cell:<34}" if " " in cell else f"{cell:>9}" for cell in cells))


def tests() -> dict[str, Any]:
    """The tests marked gpu. What fails is said, and the table goes on."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(HERE.parent / "tests")]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=HERE.parent, timeout=TEST_SECONDS, capture_output=True, text=True)
        lines, code = done.stdout.strip().splitlines(), done.returncode
    except subprocess.TimeoutExpired:
        lines, code = [f"stopped after {TEST_SECONDS} s"], -1
    print("\n".join(lines[-15:]))
    return {"returncode": code, "summary": lines[-1] if lines else "", "seconds": time.perf_counter() - start}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="NAME", default=list(WORKLOADS))
    parser.add_argument("--json", type=Path, help=f"where results go (default, for a complete run: {RESULTS.name})")
    parser.add_argument("--rehearsal", action="store_true", help="on the host, to try the script out")
    for hidden in ("--worker", "--truths", "--ways"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--tf32", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Test, check, time, print, store."""
    options = arguments()
    if options.worker:
        work(options)
        return 0
    lacking = [] if options.rehearsal else missing()
    if lacking:
        print(f"benchmarks/gpu.py needs a GPU: {'; '.join(lacking)}.", file=sys.stderr)
        return 2
    start = time.perf_counter()
    record: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rehearsal": options.rehearsal,
        "versions": versions(),
        "machine": {"device": "none"} if options.rehearsal else machine(),
        "tests": None if options.rehearsal else tests(),
    }
    with tempfile.TemporaryDirectory() as truths:
        for name in options.only:
            truth = reference(WORKLOADS[name], WORKLOADS[name].data())
            np.savez(Path(truths) / f"{name}.npz", *(np.asarray(a, np.float32) for a in truth))
        record |= table(options, truths)
    record["seconds"] = time.perf_counter() - start
    path = options.json or (RESULTS if options.only == list(WORKLOADS) and not options.rehearsal else None)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\n{path}")
    problems = [row for kind in ("float32", "tf32") for row in record[kind]["problems"]]
    wrong = [row for row in problems if row["way"].startswith("minijac")]
    return 1 if wrong or (record["tests"] or {}).get("returncode") else 0


if __name__ == "__main__":
    sys.exit(main())
