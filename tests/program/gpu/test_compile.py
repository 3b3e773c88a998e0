"""compile on CuPy's arrays, from the call to the result: on the stand-in with emulated kernels, and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import RESULTS
from emulated import COMPILER, WHY_NOT
from gpu import agree, on_device
from helpers import net, random

import minijac as mj
from minijac.errors import InputError

pytest.importorskip("torch")
from workloads import WORKLOADS

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)
X = random(3, 5, seed=1)


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "axon"])  # 200 steps: test_programs.py has it
def test_workloads(name, place):
    """float32 within 2e-5 of NumPy's, and from the second call on nothing is looked at from the host."""
    workload = WORKLOADS[name]
    data = workload.data()
    if place.log is not None:
        data |= {key: data[key][:5] for key in ("x", "y") if key in data}
    call = workload.minijac(data)
    expected = call.function(*call.arguments)
    call = workload.minijac(place.put(data))
    compiled = mj.compile(call.function)
    agree(compiled(*call.arguments), expected, place, 2e-5)
    for _ in range(2):
        with place.apart():
            found = compiled(*call.arguments)
        agree(found, expected, place, 2e-5)
    assert compiled.cache_info()[:2] == (2, 1)
    info = compiled.gpu_info(*call.arguments)
    assert info.captured and not info.uncaptured and info.nbytes == compiled.buffer_bytes()


@pytest.mark.parametrize("name", [name for name in RESULTS if name not in ("constants", "captured", "jacobian")])
def test_results(name, place):
    f = RESULTS[name]
    compiled = mj.compile(on_device(f, place))
    kept = []
    for k in range(3):
        kept.append((compiled(place.put(X + k)), f(X + k)))
    for found, expected in kept:
        agree(found, expected, place)


def test_writes_to_captured_arrays_are_seen(place):
    W = random(5, 4, seed=2)
    V = place.put(W)
    f = lambda W: mj.jacobian(lambda x: np.tanh(x @ W) * W[0])
    compiled = mj.compile(f(V))
    for _ in range(3):
        agree(compiled(place.put(X)), f(W)(X), place)
        W *= 1.5
        V *= 1.5


def test_numbers_are_inputs(place):
    compiled = mj.compile(lambda x, a, n: (np.tanh(x * a) + n, a * n))
    for a, n in ((0.5, 2), (1.5, 3), (-1.0, -2)):
        y, product = compiled(place.put(X), a, n)
        agree(y, np.tanh(X * a) + n, place)
        assert product == a * n
    assert compiled.cache_info().misses == 1


def test_each_device_has_a_program_of_its_own(place):
    if place.log is None and place.xp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("CuPy sees one device")
    compiled = mj.compile(mj.jacobian(np.tanh))
    for number in (0, 1, 0):
        with place.xp.cuda.Device(number):
            x = place.put(X)
        with place.xp.cuda.Device(1 - number):  # the caller's current one does not matter
            J = compiled(x)
        assert J.device.id == number
    assert compiled.cache_info().misses == 2


def test_arrays_in_two_places_are_refused(place):
    with pytest.raises(TypeError, match=r"one place|NumPy"):
        mj.compile(lambda x, y: (np.tanh(x), np.tanh(y)))(place.put(X), X)
    with pytest.raises(TypeError, match=r"one place|NumPy"):
        mj.compile(lambda x: x * X)(place.put(X))


def test_gpu_info_is_of_programs_on_a_gpu():
    with pytest.raises(InputError, match="gpu_info: expected arrays of CuPy's"):
        mj.compile(mj.jacobian(net)).gpu_info(X)
