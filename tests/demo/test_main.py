"""The command line `python -m minijac`: what it prints, with and without torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
sys.argv[0] = "minijac"
runpy.run_module("minijac", run_name="__main__")
"""

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def run(*arguments: str, without_torch: bool = False) -> str:
    """The command line in a fresh process; its output."""
    how = ["-c", WITHOUT_TORCH] if without_torch else ["-m", "minijac"]
    process = subprocess.run(
        [sys.executable, *how, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


@pytest.fixture(scope="module")
def text() -> str:
    return run("--quick")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(run("--quick", "--json", "--dtype", "float64"))


@pytest.fixture(scope="module")
def text_without_torch() -> str:
    return run("--quick", without_torch=True)


@pytest.fixture(scope="module")
def record_without_torch() -> dict[str, Any]:
    return json.loads(run("--quick", "--json", "--dtype", "float64", without_torch=True))


def rows(record: dict[str, Any], table: str, device: str = "cpu") -> dict[str, dict[str, Any]]:
    """The rows of one table by method; of several networks, the thread's own."""
    chosen = [row for row in record["rows"] if row["table"] == table and row["device"] == device]
    if table != "mixing":
        chosen = [row for row in chosen if row["network"].startswith("thread network")]
    return {row["method"]: row for row in chosen}


def test_help_lists_the_options() -> None:
    output = run("--help")
    for option in ("--json", "--quick", "--dtype", "--seed"):
        assert option in output


def test_an_unknown_option_is_refused() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "minijac", "--fast"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 2
    assert "--fast" in process.stderr


@pytest.mark.parametrize("which", ["text", "text_without_torch"])
def test_text_is_plain_and_narrow(which: str, request: pytest.FixtureRequest) -> None:
    output = request.getfixturevalue(which)
    assert output.isascii()
    assert max(map(len, output.splitlines())) <= 110


@needs_torch
def test_text_shows_the_shapes_and_the_mixing(text: str) -> None:
    assert "(3, 10, 5)" in text
    assert "(3, 10, 3, 5)" in text
    assert "(10, 3, 5)" in text
    assert "minijac.jacobian: BatchMixingError: " in text
    assert "wrong, silently" in text
    assert "GPU" in text or "on the gpu" in text


@needs_torch
def test_every_method_gives_the_per_sample_jacobian(record: dict[str, Any]) -> None:
    table = rows(record, "jacobian")
    assert len(table) == 8
    for row in table.values():
        assert row["shape"] == [3, 10, 5]
        assert row["error"] < 1e-13
        assert row["median_seconds"] > 0
        assert row["calls"] > 0
    assert table["minijac.jacobian"]["ratio"] == 1
    assert table["minijac.jacobian"]["computes"] == [3, 10, 5]
    assert table["(a) full jacobian, diagonal"]["computes"] == [3, 10, 3, 5]
    assert table["(c) sum trick"]["computes"] == [10, 3, 5]


@needs_torch
def test_second_order(record: dict[str, Any]) -> None:
    table = rows(record, "second order")
    assert len(table) == 6
    for row in table.values():
        assert row["shape"] == [3, 10, 5, 5]
        assert row["error"] < 1e-13


@needs_torch
def test_only_minijac_notices_that_samples_mix(record: dict[str, Any]) -> None:
    noticed = {method: row["notices_mixing"] for method, row in rows(record, "jacobian").items()}
    assert noticed.pop("minijac.jacobian") is True
    assert noticed.pop("minijac.torch.jacobian") is True
    assert not any(noticed.values())


@needs_torch
def test_mixing_errors_stand_in_numbers(record: dict[str, Any]) -> None:
    table = rows(record, "mixing")
    assert table["minijac.jacobian"]["shape"] is None
    assert table["minijac.jacobian"]["remark"].startswith("BatchMixingError: ")
    assert table['on_mixing="diagonal"']["error"] < 1e-10
    assert table['on_mixing="full"']["error"] < 1e-10
    assert table['on_mixing="full"']["shape"] == [8, 4, 8, 5]
    assert table["(a) full jacobian, diagonal"]["error"] < 1e-10
    for method in ("(b) loop over samples", "(c) sum trick", "(d) grad per output column", "(e) vmap(jacrev)"):
        assert table[method]["error"] > 1e-3
        assert table[method]["remark"] == "wrong, silently"
    assert table["(b) loop over samples, torch's batch_norm"]["remark"].startswith("ValueError: ")


@needs_torch
def test_json_names_versions_and_machine(record: dict[str, Any]) -> None:
    assert record["versions"]["torch"] is not None
    assert record["versions"]["minijac"] is not None
    assert record["machine"]["cores"] >= 1
    assert record["options"] == {"json": True, "plot": None, "quick": True, "dtype": "float64", "seed": 0}


def test_without_torch_it_says_so_and_checks_stored_outputs(text_without_torch: str) -> None:
    assert "torch is not installed" in text_without_torch
    assert "(3, 10, 5)" in text_without_torch
    assert "BatchMixingError" in text_without_torch
    assert "sum trick" not in text_without_torch


def test_without_torch_minijac_equals_the_stored_outputs(record_without_torch: dict[str, Any]) -> None:
    assert record_without_torch["versions"]["torch"] is None
    tables = [rows(record_without_torch, table) for table in ("jacobian", "second order", "mixing")]
    assert [len(table) for table in tables] == [1, 1, 3]
    assert tables[0]["minijac.jacobian"]["error"] < 1e-13
    assert tables[1]["minijac.jacobian, twice"]["error"] < 1e-13
    assert tables[2]['on_mixing="diagonal"']["error"] < 1e-10
    assert tables[2]['on_mixing="full"']["error"] < 1e-10


def test_importing_the_command_line_does_not_import_torch() -> None:
    code = "import minijac.__main__, sys; print('torch' in sys.modules, 'cupy' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert process.stdout == "False False\n"


def test_the_tables_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "tables.png"
    assert str(picture) in run("--quick", "--plot", str(picture), without_torch=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_panels_of_the_picture_have_titles_of_their_own_and_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    from minijac.demo.command import Row
    from minijac.demo.picture import draw

    drawn: list[Any] = []
    monkeypatch.setattr(figure, "savefig", lambda self, *args, **options: drawn.extend(self.axes))
    network = "thread network"
    draw(
        [
            Row("jacobian", "cpu", network, 3, "minijac.jacobian", median_seconds=1e-3, ratio=1.0),
            Row("jacobian", "cpu", network, 3, "a loop", median_seconds=4e-3, ratio=4.0),
            Row("jacobian", "cpu", network, 3, "the full one", not_run="1 GiB"),
            Row("second order", "cpu", network, 3, "minijac.jacobian, twice", median_seconds=2e-3, ratio=1.0),
            Row("mixing", "cpu", network, 3, "a loop", error=0.5, remark="wrong, silently"),
            Row("mixing", "cpu", network, 3, "minijac.jacobian", remark="BatchMixingError: ..."),
        ],
        "unused.png",
    )
    titles = [axis.get_title(loc="left") for axis in drawn]
    assert titles == [f"{what}, {network}" for what in ("Jacobian", "Second derivatives", "Samples mix")]
    assert [axis.get_xscale() for axis in drawn] == ["log", "log", "linear"]
    assert "multiple of minijac's, 1 ms" in drawn[0].get_xlabel()
    first = [(bar.get_x(), bar.get_width()) for bar in drawn[0].patches]
    assert first == [(1.0, 0.0), (1.0, 3.0), (1.0, 0.0)]  # from minijac's time, not from the edge of a scale
    assert [text.get_text() for text in drawn[0].texts] == ["1", "4", "not run: 1 GiB"]
    assert [text.get_text() for text in drawn[2].texts] == ["0.5, wrong, silently", "raises"]
