"""compile on CuPy's arrays, from the call to the result: on the stand-in with emulated kernels, and on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import pytest
from compiled import RESULTS
from emulated import COMPILER, WHY_NOT
from emulated import Device as Emulated
from helpers import net, random

import minijac as mj
from minijac.errors import InputError, UnsupportedOperationError
from minijac.program.gpu import runtime

pytest.importorskip("torch")
from registry import GROUPS, Case, calls, value_and_jacobians

standin = pytest.importorskip("standin", reason="needs CuPy, or its stand-in beside these tests")
from gpu import Device, on_device  # noqa: E402
from workloads import WORKLOADS  # noqa: E402

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)
X = random(3, 5, seed=1)


class OnStandIn(Emulated):
    """The emulated device with the stand-in's arrays."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def device(self) -> Any:
        return standin.Device(self.number)

    def empty(self, shape: Any, dtype: Any) -> Any:
        return standin.made(super().empty(shape, dtype))

    def address(self, array: Any) -> int:
        return super().address(_host(array))

    def array(self, block: Any, offset: int, shape: Any, strides: Any, dtype: Any) -> Any:
        return standin.made(super().array(_host(block), offset, shape, strides, dtype))

    def upload(self, array: Any) -> Any:
        return array if isinstance(array, standin.ndarray) else standin.made(super().upload(array))

    def as_array(self, value: Any) -> Any:
        return value if isinstance(value, standin.ndarray) else standin.made(np.asarray(value))


def _host(array: Any) -> Any:
    return getattr(array, "_host", array)


@pytest.fixture
def place(device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The device, with kernels that run on it."""
    if device.log is not None:
        monkeypatch.setattr(runtime, "CupyRuntime", OnStandIn)
    return device


def agree(found: Any, expected: Any, device: Device, rtol: float = 1e-10) -> None:
    """Arrays of the device where NumPy gives arrays, with the same entries; dense where both are structured."""
    found, expected = (
        [leaf.todense() if isinstance(leaf, mj.Jacobian) else leaf for leaf in optree.tree_leaves(tree)]
        for tree in (found, expected)
    )
    assert len(found) == len(expected)
    for y, z in zip(found, expected, strict=True):
        if not isinstance(z, np.ndarray | np.generic):
            assert y == z
            continue
        y = device.get(y)
        assert (y.shape, y.dtype) == (np.shape(z), z.dtype)
        scale = np.abs(z[np.isfinite(z)]).max(initial=1.0) if np.asarray(z).dtype.kind == "f" else 1.0
        np.testing.assert_allclose(y, z, rtol, rtol * scale)


@pytest.mark.parametrize("name", WORKLOADS)
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


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0].name}-to-{group[-1].name}")
def test_every_operation_with_its_jacobians(group, place):
    def f(operands: Any) -> Any:
        return [value_and_jacobians(case, xs) for case, xs in zip(group, operands, strict=True)]

    group = [case for case in group if cupy_has(case, place)]
    compiled = mj.compile(f)
    with np.errstate(all="ignore"):
        for numbers in zip(*(calls(case) for case in group), strict=True):
            agree(compiled(place.put(list(numbers))), f(list(numbers)), place, 1e-9)


def cupy_has(case: Case, place: Device) -> bool:
    """Whether the operation and its derivatives run on the device uncompiled: CuPy lacks some of SciPy's functions."""
    try:
        with np.errstate(all="ignore"):
            value_and_jacobians(case, place.put(case.operands()))
    except UnsupportedOperationError:
        return False
    return True


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
