"""Short programs of practitioners' kind run unchanged through `adapt`: every mode, compiled, as machine code."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import close
from tiles import tile_everything

import minijac as mj

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "programs"
PROGRAMS = sorted(FOLDER.glob("*.py"))
WEIGHTS = {1: 0.75, 2: -0.15, 3: 1 / 60}


def loaded(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def truth(f, x, scale):
    """A step along the imaginary axis where the program takes one, which is exact; else differences of sixth order."""
    columns = []
    for k in range(len(x)):
        unit = np.eye(len(x))[k]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", np.exceptions.ComplexWarning)  # an imaginary part that is lost
                z = f(x + 1e-30j * unit)
            assert np.iscomplexobj(z)
            columns.append(z.imag / 1e-30)
        except (TypeError, AssertionError, np.exceptions.ComplexWarning):
            h = 2e-3 * scale * max(1.0, abs(x[k]) if scale == 1.0 else 1.0)
            columns.append(sum(w * (f(x + n * h * unit) - f(x - n * h * unit)) for n, w in WEIGHTS.items()) / h)
    return np.stack(columns, -1)


def test_there_are_twenty():
    assert len(PROGRAMS) >= 20


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: file.stem)
def test_a_program_runs_as_it_is_written(monkeypatch, file):
    program = loaded(file)
    x, f = program.POINT, mj.adapt(program.f)
    expected = truth(program.f, x, getattr(program, "SCALE", 1.0))
    size = np.abs(expected).max()
    close(f(x), program.f(x), 1e-14)
    for mode in ("forward", "reverse", "mixed", "auto"):
        close(mj.jacobian(f, batch_axis=None, mode=mode)(x), expected, 1e-7, 1e-7 * size)
    for mode in ("forward", "reverse"):
        close(mj.compile(mj.jacobian(f, batch_axis=None, mode=mode))(x), expected, 1e-7, 1e-7 * size)
        tile_everything(monkeypatch)  # the second is machine code, as far as it can be
    one = mj.jacobian(f, batch_axis=None)
    step = mj.jvp(one, (x,), (x,))[1]
    close(mj.jvp(mj.jacobian(f, batch_axis=None, mode="forward"), (x,), (x,))[1], step, 1e-9, 1e-9 * np.abs(step).max())
