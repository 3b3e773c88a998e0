"""The code in the documentation runs as it is printed."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

import minijac as mj
from minijac.ops import REGISTRY

ROOT = Path(__file__).parents[2]
NAMES = ("index", "tutorial", "recipes", "adding-an-op", "sharp-bits", "plans", "torch")
PAGES = [*(f"docs/{name}.md" for name in NAMES), "README.md"]


GIVEN = {"docs/plans.md": {"mj": mj, "f": np.tanh, "x": np.ones((2, 3))}}
"""What a page speaks of before its code."""


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, monkeypatch, tmp_path):
    if page == "docs/torch.md":
        pytest.importorskip("torch")
    monkeypatch.setattr("minijac.ops.families.REGISTRY", dict(REGISTRY))  # what a page defines is gone after it
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    if page in GIVEN:
        monkeypatch.chdir(tmp_path)  # it writes a file
    namespace = dict(GIVEN.get(page, {}))
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


def test_what_stands_beside_other_packages_runs():
    """The last column of the table that compares, cells with dots left out, and the network in minijac's words."""
    page = (ROOT / "docs/coming-from.md").read_text(encoding="utf-8")
    cells = [line.split("|")[-2] for line in page.splitlines() if line.startswith("| ")]
    calls = [call for cell in cells for call in re.findall(r"`(mj\.\w+\([^`]*)`", cell) if "..." not in call]
    assert len(calls) > 15
    x = np.ones((4, 3))
    names = {
        "mj": mj, "np": np, "f": lambda x: np.tanh(x), "x": x, "v": x, "params": x, "carry": x[0],
        "loss": lambda p: (p**2).sum(), "losses": lambda p, x: x @ p, "step": lambda c, x: (c, x), "xs": x,
        "W1": np.ones((3, 2)), "b1": 1.0, "W2": np.ones((2, 5)), "b2": 0.0,
    }  # fmt: skip
    for call in calls:
        own = {"f": lambda x: np.tanh(x).sum()} if call.startswith("mj.hvp") else {}
        eval(call, names | own)
    exec(re.search(r'=== "minijac"\n\n    ```py\n(.*?)    ```', page, re.DOTALL)[1].replace("    ", ""), names)
    assert names["J"].shape == (4, 5, 3)


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
