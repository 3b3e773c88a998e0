"""The benchmark of lengths: its loop and its scan are the same program."""

import lengths
import numpy as np

import minijac as mj


def test_the_loop_and_the_scan_are_the_same_program():
    y = np.random.default_rng(0).random((3, 4))
    loop, scan = lengths.loop(3), lengths.scan(3)
    np.testing.assert_array_equal(scan(y), loop(y))
    np.testing.assert_allclose(mj.jacobian(scan)(y), mj.jacobian(loop)(y), 1e-12)
    assert np.allclose(loop(y).sum(), y.sum(), atol=0.1)


def test_it_counts_its_operations():
    y = np.random.default_rng(0).random((3, 4))
    one, two = (len(mj.trace(lengths.loop(count), y).nodes) for count in (1, 2))
    assert abs(two - one - lengths.OPERATIONS) < 5
    assert abs(len(mj.trace(lengths.loop(0), y).nodes) - lengths.operations(0)) < 5
