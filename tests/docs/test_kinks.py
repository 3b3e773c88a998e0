"""docs/kinks.md says what minijac gives at kinks, in every mode."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import close

import minijac as mj

DOCS = Path(__file__).parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("make_kinks", DOCS / "make_kinks.py")
make_kinks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_kinks)

PAGE = (DOCS / "kinks.md").read_text(encoding="utf-8")
ROWS = make_kinks.rows(PAGE)
KINKS = [kink for table in make_kinks.TABLES.values() for kink in table]
every_kink = pytest.mark.parametrize("kink", KINKS, ids=lambda kink: kink.at)


@every_kink
def test_all_modes_agree_with_each_other_and_with_the_page(kink):
    first, *others = make_kinks.all_modes(kink)
    for other in others:
        close(other, first)
    assert ROWS[kink.at][1] == ROWS[kink.at][2] == make_kinks.text(first)


@every_kink
def test_products_agree_with_the_page(kink):
    """By jvp with each unit vector, and by vjp; for second order, of the gradient."""
    f = make_kinks.function(kink)
    x = np.array(kink.x)
    if kink.order == 2:
        f = lambda x, f=f: mj.vjp(f, x)[1](np.ones(()))[0]
    with np.errstate(all="ignore"):
        y, pullback = mj.vjp(f, x)
        columns = [mj.jvp(f, (x,), (unit.reshape(x.shape),))[1] for unit in np.eye(x.size)]
        lines = [pullback(unit.reshape(y.shape))[0] for unit in np.eye(y.size)]
    expected = make_kinks.minijac_derivative(kink, ("reverse",) * kink.order)
    rows = expected.reshape(y.size, x.size)
    with np.errstate(all="ignore"):  # sums, because nothing times infinity is NaN
        close(np.stack(columns, -1).reshape(rows.shape), np.stack([(rows * e).sum(-1) for e in np.eye(x.size)], -1))
        close(np.stack(lines).reshape(rows.shape), np.stack([(rows.T * e).sum(-1) for e in np.eye(y.size)]))


@pytest.mark.parametrize("kink", [kink for kink in KINKS if np.ndim(kink.x) == 0], ids=lambda kink: kink.at)
def test_a_sample_at_a_kink_leaves_the_others_alone(kink):
    f = make_kinks.function(kink)
    x = np.array(kink.x) + np.array([0.0, 0.25])
    for mode in ("forward", "reverse"):
        g, h = f, f
        for _ in range(kink.order):
            g, h = mj.jacobian(g, mode=mode), mj.jacobian(h, mode=mode, batch_axis=None)
        with np.errstate(all="ignore"):
            close(g(x), np.stack([h(sample) for sample in x]))


@every_kink
def test_no_row_is_blank(kink):
    cells = ROWS[kink.at]
    assert len(cells) == 7
    assert all(cells)
    assert "not known" not in cells


def test_the_page_has_these_rows_and_no_others():
    tables = re.findall(r"<!-- \w+ -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    shown = [row for table in tables for row in make_kinks.rows(table) if row != "at"]
    assert shown == [kink.at for kink in KINKS]


@pytest.mark.parametrize("library, place", [("torch", 3), pytest.param("jax", 4, marks=pytest.mark.slow)])
def test_the_columns_of_others_are_what_they_give(library, place):
    module = pytest.importorskip(library)
    if f"{library} {module.__version__.split('+')[0]}".lower() not in PAGE.lower():
        pytest.skip(f"the page was made with another version of {library}")
    column = {"torch": make_kinks.torch_column, "jax": make_kinks.jax_column}[library]
    different = {}
    for kink in KINKS:
        found, shown = column(kink), ROWS[kink.at][place].strip("*")
        if found != shown:
            different[kink.at] = found, shown
    assert not different
