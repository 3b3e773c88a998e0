"""Settings of the suite, and the device that tests of the second backend run on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import count

import pytest
from gpu import Device, no_device
from hypothesis import HealthCheck, settings

from minijac.memo import Memo
from minijac.program.cpu.native import checks
from minijac.program.gpu import runtime

# no deadline: a test that is slow once, on a busy machine, is not wrong
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
settings.load_profile("suite")


EVERY = 500
"""Tests after which what is still there is taken for what stays: caches, modules."""
_run = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--checked", action="store_true", help="tiles in shuffled order; all that machine code reaches")


def pytest_configure(config: pytest.Config) -> None:
    checks.CHECKED = config.getoption("--checked")


def pytest_collection_finish() -> None:
    """Collections of garbage look at what the tests make, not at modules and at some 28,000 tests each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown() -> None:
    if next(_run) % EVERY == 0:
        pytest_collection_finish()


@pytest.fixture(params=["stand-in", *([] if no_device() else [pytest.param("cupy", marks=pytest.mark.gpu)])])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The strict stand-in for CuPy, and CuPy itself where it sees a device: else tests/backend/test_device.py says why.

    What was found out about the same functions on the host is forgotten.
    """
    Memo.clear_all()
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: pip install minijac[cuda12]")
    if request.param == "stand-in":
        import emulated
        import standin

        if emulated.COMPILER is None:
            pytest.skip(emulated.WHY_NOT)

        with standin.installed() as xp:
            yield Device(xp, standin.cupyx_module, standin.log)
        return
    import cupyx

    yield Device(cupy, cupyx, None)


@pytest.fixture
def place(device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The device, with kernels that run on it."""
    if device.log is not None:
        import kernels

        monkeypatch.setattr(runtime, "CupyRuntime", kernels.OnStandIn)
    return device
