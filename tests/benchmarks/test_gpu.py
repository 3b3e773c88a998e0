"""benchmarks/gpu.py as far as it goes without a GPU: it says what is missing, and its parts do what they should."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
from workloads import WORKLOADS  # noqa: E402

_spec = importlib.util.spec_from_file_location("benchmark_on_a_gpu", BENCHMARKS / "gpu.py")
assert _spec is not None and _spec.loader is not None
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_without_a_device_it_says_what_is_missing():
    if not script.missing():
        pytest.skip("CuPy sees a device")
    done = run()
    assert done.returncode == 2
    assert "needs a GPU" in done.stderr
    assert "CuPy" in done.stderr
    assert not done.stdout


@pytest.mark.slow
def test_a_rehearsal_goes_through_all_of_it(tmp_path):
    pytest.importorskip("jax", reason="JAX is not installed: pip install minijac[bench]")
    path = tmp_path / "rehearsal.json"
    done = run("--rehearsal", "--only", "thread", "--json", str(path))
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    assert record["rehearsal"]
    for kind in ("float32", "tf32"):
        assert record[kind]["problems"] == []
        row = record[kind]["workloads"]["thread"]
        assert {way.split()[0] for way in row["ways"]} == {"minijac", "torch", "JAX"}
        assert all(way["relative_error"] < 1e-5 and way["median_ms"] > 0 for way in row["ways"].values())
        assert row["ratio compiled"] == min(row["best torch"][1], row["best JAX"][1]) / row["minijac compiled"]
    assert len(record["tf32"]["workloads"]["thread"]["ways"]) < len(record["float32"]["workloads"]["thread"]["ways"])


def row(way: str, ms: float | None, status: str = "ok") -> dict[str, Any]:
    return {"workload": "mlp-wide", "way": way, "status": status, "median_ms": ms}


def test_a_row_of_the_table():
    rows = [row("minijac", 3.0), row("minijac compiled", 0.5), row("torch a", 2.0), row("torch.compile a", 1.0),
            row("JAX b", 4.0), row("JAX c", None, "wrong by 1.0e+00")]  # fmt: skip
    work = WORKLOADS["mlp-wide"].work(WORKLOADS["mlp-wide"].data())
    limits = {"matmul_flops": work.flops / 1e-4, "copy_bytes": 1e15}
    found = script.summary(WORKLOADS["mlp-wide"], rows, limits)
    assert found["best torch"] == ("torch.compile a", 1.0)
    assert found["best JAX"] == ("JAX b", 4.0)
    assert found["ratio compiled"] == 2.0
    assert found["ratio eager"] == pytest.approx(1 / 3)
    assert (found["limit_by"], found["limit_ms"]) == ("matmul", pytest.approx(0.1))
    assert found["share of limit"] == pytest.approx(0.2)


def test_ways_that_are_timed_again_with_tf32():
    rows = [row("torch a", 2.0), row("torch b", 2.9), row("torch c", 3.1), row("torch d", None, "failed")]
    assert script.fast_ways(rows, "torch") == {"mlp-wide": ["torch a", "torch b"]}
    assert script.fast_ways([row("minijac", 9.0), row("minijac compiled", 1.0)], "minijac") == {
        "mlp-wide": ["minijac", "minijac compiled"]
    }


def test_the_time_of_all_parts_is_under_ten_minutes():
    assert script.TEST_SECONDS + sum(script.WORKER_SECONDS.values()) < 510  # and references take a minute
