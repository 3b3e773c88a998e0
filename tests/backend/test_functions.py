"""NumPy's functions, networks and special functions on the second backend.

These are the tests of the other files once more: where those compare a function with torch or with differences, here
the device is compared with the host, the function's constants moved there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from gpu import Device, on_device

import minijac as mj

pytest.importorskip("torch")
pytest.importorskip("scipy")
from numpy_harness import Case, leaves

from tests import test_nn, test_special
from tests.numpy import test_elementwise, test_indexing, test_linalg, test_products, test_reductions, test_shape

MODULES = (
    test_linalg, test_nn, test_elementwise, test_indexing, test_reductions, test_shape, test_products, test_special,
)  # fmt: skip
LACKING = {
    "i1": r"special\.iv",
    "i1e": r"special\.ive",
}
"""Functions whose derivative needs one that CuPy lacks."""
ON_PLAIN_ARRAYS = {"positions": "keepdims"}
"""Tests that ask CuPy itself, not minijac, for a keyword that it lacks: ``np.count_nonzero(mask, keepdims=True)``."""

WAITS = {
    "linalg": ["det", "det of stacks", "slogdet", "lstsq", "norm of matrices, nuc", "norm of matrices, 2"],
    "nn": ["test_attention-1", "test_attention-2"],
    "indexing": [
        "NumPy integers", "a mask", "a mask of two axes", "a mask and an integer array", "a mask that holds nothing",
        "two arrays, broadcast", "a mask of the whole", "a mask that follows the values", "each sample's own",
        "each sample's own, several", "each sample's own, inner axes", "each sample's own, by argmax",
        "samples on another axis", "extract", "bincount", "put by position", "put twice at one place",
        "put by mask", "put into each sample's own", "add_at, several axes", "add_at each sample's own",
    ],
    "reductions": ["nanmedian", "nanquantile", "nanpercentile", "no NaN", "cov with weights"],
}  # fmt: skip
"""Tests of what looks at the device's numbers: docs/gpu.md says why each of them does."""


def _tests() -> dict[str, tuple[Any, Callable[..., None], dict[str, Any]]]:
    """Every test that compares a function: its module, the test, and one choice of its parameters."""
    found = {}
    for module in MODULES:
        for name, test in vars(module).items():
            code = getattr(test, "__code__", None)
            if not name.startswith("test_") or code is None or not {"agrees_with_torch", "check"} & {*code.co_names}:
                continue
            marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
            for choice in product(*(enumerate(mark.args[1]) for mark in marks)):
                given: dict[str, Any] = {}
                words = [module.__name__.split("test_")[-1], name]
                for mark, (number, value) in zip(marks, choice, strict=True):
                    keys = mark.args[0].replace(" ", "").split(",")
                    given |= dict(zip(keys, value if len(keys) > 1 else (value,), strict=True))
                    ids = mark.kwargs.get("ids")
                    words.append(str(value if isinstance(value, str) else [*ids][number] if ids else number))
                found["-".join(words)] = module, test, given
    return found


TESTS = _tests()


def compare(device: Device, f: Callable[..., Any], args: Any, batch_axis: Any, argnums: Any, waits: bool) -> None:
    """Value and Jacobians from both ends, here and there."""
    theirs = on_device(f, device)

    def run(f: Callable[..., Any], mode: str, args: Any) -> Any:
        g = lambda *xs: list(leaves(f(*xs)))
        with np.errstate(all="ignore"):
            return mj.value_and_jacobian(g, tuple(argnums), batch_axis=batch_axis, mode=mode)(*args)

    for mode in ("forward", "reverse"):
        moved = device.put(tuple(args))
        if waits:
            with device.apart(), pytest.raises(device.xpx.DeviceSynchronized):
                run(theirs, mode, moved)
            found = run(theirs, mode, moved)
        else:
            with device.apart():
                found = run(theirs, mode, moved)
        found, expected = device.get(found), run(f, mode, args)
        for a, b in zip(leaves(found), leaves(expected), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b[np.isfinite(b)]).max(initial=1.0))


@pytest.mark.parametrize("name", TESTS)
def test_functions(device, monkeypatch, name):
    module, test, given = TESTS[name]
    waits = any(name.startswith(own) and name.endswith(f"-{word}") for own, words in WAITS.items() for word in words)

    def against_torch(f: Any, torch_f: Any, *args: Any, argnums: Any = (0,), batch_axis: Any = 0, **_: Any) -> None:
        compare(device, f, args, batch_axis, argnums, waits)

    def against_differences(case: Case) -> None:
        compare(device, case.f, case.inputs(), case.axis, range(len(case.inputs())), waits)

    monkeypatch.setattr(module, "agrees_with_torch", against_torch, raising=False)
    monkeypatch.setattr(module, "check", against_differences, raising=False)
    last = name.split("-")[-1]
    if last in ON_PLAIN_ARRAYS:
        with pytest.raises(TypeError, match=ON_PLAIN_ARRAYS[last]):
            test(**given)
    elif last in LACKING and module is test_special:
        with pytest.raises(mj.UnsupportedOperationError, match=LACKING[last]):
            test(**given)
    else:
        test(**given)
