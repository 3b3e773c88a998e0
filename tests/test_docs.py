"""The code in the documentation runs as it is printed."""

import re
from pathlib import Path

import pytest

from minijac.ops import REGISTRY

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/adding-an-op.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, monkeypatch):
    monkeypatch.setattr("minijac.ops.families.REGISTRY", dict(REGISTRY))  # what a page defines is gone after it
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
