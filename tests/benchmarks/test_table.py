"""The benchmarks at reduced size: they run, check what they time, and store and draw it where they are told to."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> str:
    """A benchmark in a fresh process; what it printed."""
    for module in ("torch", "jax", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.slow
def test_a_sweep_checks_and_times_minijac_and_its_peers_at_each_point(tmp_path: Path) -> None:
    stored, picture = tmp_path / "new" / "sweeps.json", tmp_path / "sweeps.png"
    printed = run("sweeps.py", "--quick", "--only", "burgers", "--json", str(stored), "--plot", str(picture))
    record = json.loads(stored.read_text())
    assert record["dtype"] == "float32"
    assert {"date", "versions", "machine", "busy"} <= set(record)
    assert list(record["sweeps"]) == ["burgers"]
    rows = record["sweeps"]["burgers"]
    assert [row["value"] for row in rows] == [32, 64]
    for row in rows:
        own = {name: way for name, way in row["ways"].items() if way["library"] == "minijac"}
        assert set(own) == {
            f"minijac{compiled}{structured}" for compiled in ("", " compiled") for structured in ("", ", structured")
        }
        for way in own.values():
            assert way["status"] == "ok"
            assert 0 < way["relative_error"] < 1e-4
            assert way["median_ms"] > 0
        for library in ("torch", "JAX"):
            ways = {name: way for name, way in row["ways"].items() if way["library"] == library}
            name, best = row[f"best {library}"]
            right = [way["median_ms"] for way in ways.values() if way["status"] == "ok"]
            assert best == ways[name]["median_ms"] == min(right)
        fastest = min(row["best torch"][1], row["best JAX"][1])
        assert math.isclose(row["ratio compiled"], fastest / own["minijac compiled"]["median_ms"])
        assert f"\n  {row['value']:>5}  eager " in printed
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


@pytest.mark.slow
def test_the_table_checks_and_times_minijac_and_its_peers(tmp_path: Path) -> None:
    stored, picture = tmp_path / "table.json", tmp_path / "table.png"
    printed = run("table.py", "--quick", "--only", "partials", "--json", str(stored), "--plot", str(picture))
    record = json.loads(stored.read_text())
    assert not record["torch_compile"]
    (row,) = record["workloads"].values()
    ways = row["ways"]
    assert {"minijac", "minijac compiled", "torch nested grad", "JAX jvp of jvp", "JAX jet"} <= set(ways)
    assert not any(name.startswith("torch.compile") for name in ways)
    for way in ways.values():
        assert way["status"].startswith("ok")
        assert 0 < way["relative_error"] < 1e-4
    fastest = min(row["best torch"][1], row["best JAX"][1])
    assert math.isclose(row["ratio compiled"], fastest / row["minijac compiled"])
    assert math.isclose(row["share of limit"], row["limit_ms"] / row["minijac compiled"])
    assert "\npartials " in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
