"""A batch larger than memory should hold: Jacobians of ten million samples from a Zarr array into another, by Dask.

Run `python benchmarks/larger.py` (needs dask, distributed and zarr). It prints the throughput of one process and of two
workers, and the peak memory of each process, beside what the whole result takes; of all samples it is stored.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import zarr

import minijac as mj

RESULTS = Path(__file__).resolve().parent / "results" / "larger-cpu.json"
SAMPLES = 10_000_000
CHUNK = 50_000
RNG = np.random.default_rng(0)
W1, W2 = RNG.normal(size=(6, 32)).astype(np.float32), RNG.normal(size=(32, 3)).astype(np.float32)


def network(x: Any) -> Any:
    """x: (B, 6) to (B, 3)."""
    return np.tanh(x @ W1) @ W2


def peak_megabytes() -> float:
    """Peak resident memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def written(source: Any, folder: Path) -> float:
    """Seconds that the Jacobians of all samples take into a new Zarr array in `folder`."""
    J = mj.jacobian(network)(source)
    start = time.perf_counter()
    da.to_zarr(J, str(folder))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    samples = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x = da.random.default_rng(0).standard_normal((samples, 6), chunks=(CHUNK, 6), dtype=np.float32)
        da.to_zarr(x, str(folder / "x"))
        source = da.from_zarr(str(folder / "x"))
        print(f"{samples:,} samples; input {x.nbytes / 1e6:,.0f} MB, Jacobians {samples * 18 * 4 / 1e6:,.0f} MB")
        before = peak_megabytes()
        with dask.config.set(scheduler="synchronous"):
            one = written(source, folder / "one")
        peak = peak_megabytes()
        print(f"one process: {samples / one:,.0f} samples/s, peak {peak:,.0f} MB ({before:,.0f} before)")
        cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
        with cluster, distributed.Client(cluster) as client:
            two = written(source, folder / "two")
            peaks = list(client.run(peak_megabytes).values())
        print(f"two workers: {samples / two:,.0f} samples/s, peaks {', '.join(f'{each:,.0f} MB' for each in peaks)}")
        row = zarr.open(str(folder / "two"))[samples // 2]
        np.testing.assert_allclose(row, mj.jacobian(network)(np.asarray(source[samples // 2][None]))[0], rtol=1e-4)
    if samples == SAMPLES:
        found = {
            "samples": samples,
            "samples per second": {"one": samples / one, "two": samples / two},
            "megabytes": {"result": samples * 72 / 1e6, "before": before, "one": peak, "two": peaks},
            "load": os.getloadavg()[0],
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
