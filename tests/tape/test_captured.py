"""Arrays that a function captures: written between calls they are seen, written between use and derivative refused."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random

import minijac as mj


def test_a_scratch_buffer_may_be_used_again():
    def f(x):
        factor = np.empty(2)
        for value in (2.0, 3.0):
            factor[:] = value
            x = x * factor
        return x

    for mode in ("forward", "reverse", "mixed"):
        np.testing.assert_array_equal(mj.jacobian(f, mode=mode)(np.ones((1, 2)))[0], 6.0 * np.eye(2))

    def masked(x):
        mask = np.empty(2, bool)
        for k in range(2):
            mask[:] = np.arange(2) == k
            x = np.where(mask, x * (12.0 if k else 3.0), x)
        return x

    np.testing.assert_array_equal(mj.jacobian(masked)(np.ones((1, 2)))[0], np.diag([3.0, 12.0]))


def test_a_large_captured_array_written_after_its_use_raises():
    weights = np.ones(20_000)

    def f(x):
        y = x * weights
        weights[7] = 5.0
        return y.sum(1)

    with pytest.raises(mj.MutationError, match=r"shape \(20000,\), used at .*test_captured.py:\d+, was written"):
        mj.jacobian(f)(np.ones((1, 20_000)))


def test_a_pullback_and_a_structured_jacobian_outlive_writes():
    x = random(3, 4, seed=7)
    _, pullback = mj.vjp(lambda x: x * np.sin(x), x)
    expected = pullback(np.ones((3, 4)))[0]
    x += 1.0
    np.testing.assert_array_equal(pullback(np.ones((3, 4)))[0], expected)
    weights, y = np.ones((4, 2)), random(3, 4, seed=7)
    J = mj.linearize(lambda x: (x * x) @ weights, y)[1]
    dense = J.todense()
    weights[:] = 0.0
    y[:] = 0.0
    np.testing.assert_array_equal(J.todense(), dense)
