"""The code in the documentation runs as it is printed."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

import minijac as mj
from minijac.ops import REGISTRY

ROOT = Path(__file__).parents[2]
PAGES = [f"docs/{name}.md" for name in ("index", "tutorial", "recipes", "adding-an-op")] + ["README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, monkeypatch):
    monkeypatch.setattr("minijac.ops.families.REGISTRY", dict(REGISTRY))  # what a page defines is gone after it
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


def test_the_jacobian_that_is_walked_through_the_house_is_as_told():
    failed, tried = doctest.testfile(str(ROOT / "docs/design.md"), module_relative=False)
    assert tried and not failed


# --- docs/gpu.md ------------------------------------------------------------------------------------------------------


def rows(heading: str) -> dict[str, str]:
    """The table below a heading of docs/gpu.md: the expression of each row, and its second cell."""
    text = (ROOT / "docs/gpu.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in text.splitlines() if line.startswith("| `")]
    return {first.strip("`"): second for first, second in cells}


def expression(device, text):
    """An expression of x: (6, 4), as a function, and x on the device."""
    x, w, rows, k, mask = device.put([
        np.random.default_rng(0).uniform(0.5, 1.5, (6, 4)), np.ones((4, 3)), np.arange(6), np.array([0, 1, 3, 2, 0, 1]),
        np.array([True, False, True, True]),
    ])  # fmt: skip
    names = {"np": np, "mj": mj, "w": w, "rows": rows, "k": k, "mask": mask}
    return mj.jacobian(lambda x: eval(text, names | {"x": x}), batch_axis=None), x


@pytest.mark.parametrize("text", rows("What waits for the device"))
def test_what_is_said_to_wait_for_the_device_does(device, text):
    f, x = expression(device, text)
    with device.apart(), pytest.raises(device.xpx.DeviceSynchronized):
        f(x)
    assert isinstance(f(x), device.xp.ndarray)


@pytest.mark.parametrize("text", LACKING := rows("What CuPy lacks"))
def test_what_is_said_to_be_missing_in_cupy_is_named(device, text):
    if text == "np.spacing(x)":  # has no derivative, so that its value is asked
        text = "x * np.spacing(x)"
    f, x = expression(device, text)
    name = LACKING[text.removeprefix("x * ")].split("`")[1]
    with pytest.raises(NotImplementedError, match=re.escape(name)), device.apart():
        f(x)
