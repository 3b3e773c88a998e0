"""The forum thread's question, timed: eager minijac against every eager method in torch.

Run `python benchmarks/thread.py`; see benchmarks/README.md. Every result is checked against a float64 loop over
samples before anything is timed.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import minijac as mj
from minijac.demo import forum
from minijac.demo.forum import Function, Network

DTYPE = "float32"
TOLERANCE = 1e-5  # of the largest entry: float32 rounding through these networks
RESULTS = Path(__file__).resolve().parent / "results" / "thread-cpu.json"
METHODS = (*forum.METHODS, forum.VMAP_JACFWD)
TOO_SLOW = {("wide", "full")}  # its result has 268 million entries, 1 GiB


def main() -> None:
    """Check, time, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="interleaved rounds (default: 40)")
    parser.add_argument("--profile", action="store_true", help="print where minijac's time goes, time nothing else")
    options = parser.parse_args()
    networks = [
        forum.thread_network(),
        forum.make_network("wide", 256, (32, 256, 256, 32)),
    ]
    if options.profile:
        for network in networks:
            profile(network)
        return
    warning = forum.busy()
    record: dict[str, Any] = {
        "versions": versions(),
        "machine": machine(),
        "dtype": DTYPE,
        "busy": warning,
        "networks": {},
    }
    for network in networks:
        rows = measure(network, options.rounds)
        record["networks"][network.label] = rows
        print_table(network.label, rows)
    if warning:
        print(f"\n{warning}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def minijac_call(network: Network) -> Function:
    """mj.jacobian of the plain NumPy function; takes nothing, returns (B, out, in)."""
    network = network.convert(lambda array: array.astype(DTYPE))
    J = mj.jacobian(forum.numpy_function(network))
    return partial(J, network.x)


def measure(network: Network, rounds: int) -> dict[str, dict[str, float | None]]:
    """Median milliseconds, ratio to minijac and relative error of every method."""
    f, x = forum.torch_function(network, DTYPE), forum.to_tensor(network.x, DTYPE)
    turns: dict[str, Function] = {"minijac.jacobian": minijac_call(network)}
    skipped = [method.title for method in METHODS if (network.name, method.key) in TOO_SLOW]
    turns |= {method.title: partial(method, f, x) for method in METHODS if method.title not in skipped}
    errors = check(turns, forum.reference_jacobian(network))
    timings = forum.interleaved(turns, rounds=rounds, seconds_each=6.0, most_calls=50)
    unit = timings["minijac.jacobian"].median
    rows: dict[str, dict[str, float | None]] = {
        name: {
            "median_ms": timing.median * 1e3,
            "ratio": timing.median / unit,
            "relative_error": errors[name],
            "calls": timing.calls,
        }
        for name, timing in timings.items()
    }
    return rows | {name: {"median_ms": None, "ratio": None, "relative_error": None, "calls": 0} for name in skipped}


def check(turns: dict[str, Function], reference: Any) -> dict[str, float]:
    """Largest error of every result relative to the largest entry; refuses to time what is wrong."""
    scale = float(np.max(np.abs(reference)))
    errors = {name: float(np.max(np.abs(np.asarray(turn()) - reference))) / scale for name, turn in turns.items()}
    wrong = {name: error for name, error in errors.items() if not error < TOLERANCE}
    if wrong:
        raise SystemExit(f"wrong results, nothing timed: {wrong}")
    return errors


def print_table(title: str, rows: dict[str, dict[str, float | None]]) -> None:
    """One network's rows, in milliseconds."""
    print(f"\n{title}, {DTYPE}\n  {'method':<30} {'median':>11} {'ratio':>8} {'relative error':>15}")
    for name, row in rows.items():
        if row["median_ms"] is None:
            print(f"  {name:<30} {'not run: its result needs 1 GiB':>36}")
        else:
            print(f"  {name:<30} {row['median_ms']:>8.3f} ms {row['ratio']:>8.2f} {row['relative_error']:>15.1e}")


def profile(network: Network) -> None:
    """The functions of minijac that take most time themselves, over calls of about a second in all."""
    call = minijac_call(network)
    call()
    calls = max(3, int(1.0 / forum.interleaved({"minijac": call}, rounds=3)["minijac"].median))
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(calls):
        call()
    profiler.disable()
    print(f"\n{network.label}: {calls} calls")
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(25)


def versions() -> dict[str, str]:
    """What was compared."""
    try:
        own = version("minijac")
    except PackageNotFoundError:
        own = str(getattr(mj, "__version__", "unknown"))
    return {
        "minijac": own,
        "numpy": np.__version__,
        "torch": str(forum.torch.__version__),
        "python": platform.python_version(),
    }


def machine() -> dict[str, Any]:
    """Where it ran."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "torch_threads": forum.torch.get_num_threads()}


def cpu_name() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
