"""The benchmarks at reduced size: they run, check what they time, and store and draw it where they are told to."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def run(script: str | Path, *arguments: str, needs: Sequence[str] = ("torch", "jax", "matplotlib")) -> str:
    """A benchmark in a fresh process; what it printed."""
    for module in needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    paths = (str(ROOT), str(BENCHMARKS), os.environ.get("PYTHONPATH"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
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
    assert record["machine"]["instructions"]
    (row,) = record["workloads"].values()
    assert row["libraries"] == ["minijac", "torch", "JAX", "JAX as shipped"]
    assert row["failed"] == {}
    ways = row["ways"]
    assert {"minijac", "minijac compiled", "torch nested grad", "JAX jvp of jvp", "JAX jet, as shipped"} <= set(ways)
    assert not any(name.startswith("torch.compile") for name in ways)
    for way in ways.values():
        assert way["status"].startswith("ok")
        assert 0 < way["relative_error"] < 1e-4
        assert way["first_call_s"] > 0
        if way["status"] == "ok":
            assert way["cold_ms"] > 0
    fastest = min(row["best torch"][1], row["best JAX"][1])
    assert math.isclose(row["ratio compiled"], fastest / row["minijac compiled"])
    assert math.isclose(row["share of limit"], row["limit_ms"] / row["minijac compiled"])
    assert "\npartials " in printed
    assert "\n    first call, s: compiled " in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


FAULTY = '''
"""A table of one workload, on which torch's ways misbehave in every manner."""
import json, os, sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from table import conductor
from ways import Call
from workers import serve
from workloads import WORKLOADS

def aborting(function, after):
    calls = iter(range(after))
    return lambda x: os.abort() if next(calls, None) is None else function(x)

def raising(x):
    raise RuntimeError("no such kernel")

def torch_ways(data):
    right = WORKLOADS["thread"].torch(data)["vmap(jvp)"].function
    ways = {
        "right": right,
        "aborts": aborting(right, after=0),
        "aborts in its turn": aborting(right, after=6),
        "raises": raising,
        "is off": lambda x: 1.001 * right(x),
    }
    return {name: Call(way, (data["x"],)) for name, way in ways.items()}

workloads = {"thread": replace(WORKLOADS["thread"], torch=torch_ways)}
if sys.argv[1:2] != ["--worker"]:
    with conductor(Path(__file__), ("torch", "torch.compile", "minijac"), Namespace(quick=True, rounds=4)) as orchestra:
        row = orchestra.measure("thread", workloads["thread"], {"sgemm_flops": 1e10, "copy_bytes": 1e10})
    print(json.dumps(row))
elif sys.argv[2] == "torch.compile":
    raise ImportError("no compiler here")
else:
    serve(sys.argv[2], workloads)
'''


@pytest.mark.slow
def test_a_library_that_raises_or_ends_its_process_is_named_with_its_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    row = json.loads(run(script, needs=("torch",)))
    status = {name: way["status"] for name, way in row["ways"].items()}
    assert status["torch aborts"] == "failed: its process ended with SIGABRT: no message"
    assert status["torch aborts in its turn"] == "failed: its process ended with SIGABRT: no message"
    assert status["torch raises"] == "failed: RuntimeError: no such kernel"
    assert status["torch is off"] == "wrong by 1.0e-03"
    assert row["failed"] == {"torch.compile": "its process ended with 1: ImportError: no compiler here"}
    assert row["libraries"] == ["torch", "minijac"]
    for name in ("torch right", "minijac", "minijac compiled", "minijac compiled, NumPy alone"):
        assert status[name] == "ok"
    assert row["ways"]["torch right"]["calls"] > 1
    assert row["best torch"] == ["torch right", row["ways"]["torch right"]["median_ms"]]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a process's children")
def test_an_interrupt_leaves_no_process_behind() -> None:
    command = [sys.executable, str(BENCHMARKS / "table.py"), "--quick", "--only", "thread"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children: list[str] = []
        while process.poll() is None and not children:
            time.sleep(0.1)
            children = listed.read_text().split() if listed.exists() else []
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert children
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
