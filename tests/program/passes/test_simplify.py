"""Numbers meet products where that is exact, and signs of zero survive it."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import same

import minijac as mj
from minijac.program.passes import simplify

NEGATIVE = {"negative": lambda y: -y, "times": lambda y: -2.0 * y, "over": lambda y: y / -3}


@pytest.mark.parametrize("name", NEGATIVE)
def test_a_product_that_is_zero_times_a_negative_number_is_minus_zero(name):
    f = lambda x, W: np.arctan2(NEGATIVE[name](x @ W), -1.0)
    for shape in ((40, 3), (40, 0)):
        x, W = np.zeros(shape), np.linspace(-1, 1, shape[1] * 9).reshape(shape[1], 9)
        same(mj.compile(f)(x, W), f(x, W))


def test_no_later_pass_counts_the_cost_of_a_product_that_was_scaled(monkeypatch):
    monkeypatch.setattr(simplify, "PASSES", (simplify.scaled_early,))
    program = mj.compile(lambda x, W: 0.5 * (x @ W)).program(np.ones((40, 3)), np.ones((3, 9)))
    assert [step.op.name for step in program.instructions] == ["multiply", "matmul"]
