"""minijac against stored references: torch in float64, reverse mode, one sample at a time.

The cases stand in `support/references/cases.py`; `make_references.py` beside it writes the files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from references.cases import CASES, FAMILIES, Case
from references.make_references import torch_record

import minijac as mj

REFERENCES = Path(__file__).resolve().parent / "support" / "references"


PER_SAMPLE = [name for name, case in CASES.items() if not case.mixes]
MIXING = [name for name, case in CASES.items() if case.mixes]
SECOND_ORDER = [name for name, case in CASES.items() if case.order == 2]
MODES = ("forward", "reverse", "mixed", "auto")


@cache
def stored() -> dict[str, dict[str, Any]]:
    """Every stored record by the name of its case."""
    records: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        with np.load(REFERENCES / f"{family}.npz") as arrays:
            for key, array in arrays.items():
                name, what = key.split("/")
                records.setdefault(name, {})[what] = array
    return records


def assert_equal(actual: Any, expected: Any, rtol: float) -> None:
    """Equal shapes, and values to `rtol` of each entry or of the largest one where that is all rounding allows."""
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=0.01 * rtol * scale)


def own_batch_axis(case: Case) -> Any:
    """`batch_axis` as a user would write it: one int where every argument has the same."""
    return case.batch_axis[0] if len(set(case.batch_axis)) == 1 else case.batch_axis


def test_stored_files_hold_exactly_the_cases() -> None:
    assert sorted(stored()) == sorted(CASES)
    assert sum(file.stat().st_size for file in REFERENCES.glob("*.npz")) < 300_000


@pytest.mark.parametrize("name", CASES)
def test_plain_value_is_the_reference(name: str) -> None:
    """The NumPy and the torch side of a case are one function."""
    case = CASES[name]
    assert_equal(case.numpy_f(*case.inputs), stored()[name]["value"], rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_value_and_jacobian(name: str, mode: str) -> None:
    case = CASES[name]
    for argnum in case.argnums:
        y, J = mj.value_and_jacobian(case.numpy_f, argnum, batch_axis=own_batch_axis(case), mode=mode)(*case.inputs)
        assert_equal(y, stored()[name]["value"], rtol=1e-12)
        assert_equal(J, stored()[name][f"jacobian{argnum}"], rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in PER_SAMPLE if len(CASES[name].argnums) > 1])
def test_jacobians_for_all_arguments_at_once(name: str) -> None:
    case = CASES[name]
    Js = mj.jacobian(case.numpy_f, case.argnums, batch_axis=own_batch_axis(case))(*case.inputs)
    for argnum, J in zip(case.argnums, Js, strict=True):
        assert_equal(J, stored()[name][f"jacobian{argnum}"], rtol=1e-10)


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_hessian(name: str) -> None:
    case = CASES[name]
    (argnum,) = case.argnums
    H = mj.hessian(case.numpy_f, argnum, batch_axis=own_batch_axis(case))(*case.inputs)
    assert_equal(H, stored()[name]["hessian"], rtol=1e-9)


@pytest.mark.parametrize("outer", ["forward", "reverse"])
@pytest.mark.parametrize("inner", ["forward", "reverse"])
@pytest.mark.parametrize("name", [name for name in SECOND_ORDER if CASES[name].batch_axis == (0,)])
def test_jacobian_of_jacobian_is_the_hessian_in_every_pair_of_modes(name: str, inner: str, outer: str) -> None:
    case = CASES[name]
    H = mj.jacobian(mj.jacobian(case.numpy_f, mode=inner), mode=outer)(*case.inputs)
    assert_equal(H, stored()[name]["hessian"], rtol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MIXING)
def test_where_samples_mix(name: str, mode: str) -> None:
    """By default an error; on request the exact diagonal or everything."""
    case, full = CASES[name], stored()[name]["jacobian0"]
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(case.numpy_f, mode=mode)(*case.inputs)
    J = mj.jacobian(case.numpy_f, mode=mode, on_mixing="full")(*case.inputs)
    assert_equal(J, full, rtol=1e-10)
    every = np.arange(full.shape[0])
    batch_pair = np.moveaxis(full, case.numpy_f(*case.inputs).ndim, 1)
    J = mj.jacobian(case.numpy_f, mode=mode, on_mixing="diagonal")(*case.inputs)
    assert_equal(J, batch_pair[every, every], rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_torch_today_agrees_with_the_stored_files(name: str) -> None:
    pytest.importorskip("torch")
    record = torch_record(CASES[name])
    assert sorted(record) == sorted(stored()[name])
    for what, array in record.items():
        assert_equal(array, stored()[name][what], rtol=1e-12)
