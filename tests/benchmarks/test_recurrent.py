"""The benchmark of an LSTM: its loop and its scan are the same network, with the same derivatives."""

import numpy as np
import recurrent

import minijac as mj


def test_the_loop_and_the_scan_are_the_same_network():
    series, p = recurrent.SERIES[:3], recurrent.PARAMETERS
    np.testing.assert_allclose(recurrent.scanned(p, series), recurrent.looped(p, series), 1e-12)
    by_series, by_scan = (
        mj.compile(mj.jacobian(lambda x, network=network: network(p, x)))(series)
        for network in (recurrent.looped, recurrent.scanned)
    )
    np.testing.assert_allclose(by_series, by_scan, 1e-9, 1e-12)
    by_loop, by_scan = (
        mj.grad(recurrent.loss(network))(p)["by_state"] for network in (recurrent.looped, recurrent.scanned)
    )
    np.testing.assert_allclose(by_loop, by_scan, 1e-9, 1e-12)
