"""Whether the tests of the second backend ran on a device, too: each does once more where CuPy sees one."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import no_device


@pytest.mark.gpu
@pytest.mark.skipif(no_device() is not None, reason=f"no test ran on a device: {no_device()}")
def test_a_device_computes(device):
    np.testing.assert_allclose(device.get(device.put(np.arange(3.0)) * 2.0), [0.0, 2.0, 4.0])
