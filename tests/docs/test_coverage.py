"""docs/coverage.md names every function, and says what the functions do."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

DOCS = Path(__file__).parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("make_coverage", DOCS / "make_coverage.py")
make_coverage = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_coverage)

PAGE = (DOCS / "coverage.md").read_text(encoding="utf-8")
VERSION = re.search(r"of NumPy (\d+\.\d+)", PAGE)[1]
SAME_NUMPY = np.__version__.startswith(f"{VERSION}.")
"""Other versions of NumPy have other names: what both have is compared."""


def rows(page: str) -> dict[tuple[str, str], list[str]]:
    """The cells of each line, by section and name."""
    found = {}
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        section, *lines = part.splitlines()
        for line in lines:
            if line.startswith("| ") and line != "| | | sample call |":
                cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                found[section, cells[0]] = cells
    return found


def test_the_page_is_up_to_date():
    page = make_coverage.page()
    made, shown = rows(page), rows(PAGE)
    common = made.keys() & shown.keys()
    assert len(common) > 500
    assert {key: made[key] for key in common} == {key: shown[key] for key in common}
    if SAME_NUMPY:
        assert list(made) == list(shown)
        assert re.sub(r"NumPy [\d.]+\d", "", page) == re.sub(r"NumPy [\d.]+\d", "", PAGE)


@pytest.mark.parametrize("section", make_coverage.public())
def test_every_name_is_on_the_page(section):
    missing = make_coverage.public()[section] - make_coverage.names_on(PAGE)[section]
    if not SAME_NUMPY and section.startswith(("numpy", "Methods")):
        pytest.skip(f"NumPy {np.__version__}, not {VERSION}: beside the page, {sorted(missing)}")
    assert not missing


def test_nothing_is_left_blank():
    statuses = ("both modes", "plain values: ", "no traced arguments: ", "refused: ")
    for name, status, _ in rows(PAGE).values():
        assert status.startswith(statuses), name
        assert status == "both modes" or len(status.split(": ", 1)[1]) > 3, name


def test_nearly_all_of_what_is_differentiable_is_supported():
    supported, differentiable = map(int, re.search(r"\*\*(\d+) of (\d+) differentiable", PAGE).groups())
    assert supported >= 0.95 * differentiable
    assert supported == sum(status == "both modes" for _, status, _ in rows(PAGE).values())


@pytest.mark.parametrize("section", make_coverage.SECTIONS)
def test_the_calls_do_what_the_page_says(section):
    for entry in make_coverage.SECTIONS[section]:
        if make_coverage.present(section, entry):
            assert make_coverage.status(entry).startswith(
                {"both": "both", "plain": "plain", "none": "no traced"}.get(entry.kind, "refused")
            )


def test_a_wrong_claim_is_found_out():
    """A call that loses a derivative is neither of the two that it may claim to be."""
    lost = "np.sin(x) + mj.stop_gradient(x) ** 2"
    with pytest.raises(AssertionError):
        make_coverage.run(make_coverage.Entry("lost", lost, "both"))
    with pytest.raises(AssertionError):
        make_coverage.run(make_coverage.Entry("lost", lost, "plain"))
    with pytest.raises(AssertionError):
        make_coverage.run(make_coverage.Entry("lost", lost, "refused"))
