"""The fuzzer's programs, a few hundred of them, the same ones in every run."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
import complex_programs
import fuzz
import tiles

from minijac.program.cpu.native import checks
from minijac.program.passes import rolling
from minijac.ways import looping


@pytest.fixture(autouse=True)
def checked(monkeypatch):
    """Tiles, if there are any, in shuffled order, and all that machine code will reach is looked at."""
    monkeypatch.setattr(checks, "CHECKED", True)


@st.composite
def programs(draw):
    return fuzz.build(lambda options: draw(st.sampled_from(options)))


@settings(max_examples=80, derandomize=True, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs(program):
    note(str(program))
    fuzz.check(program)


TILES = {3: (3, 1), 4: (2, 4)}
"""By which parts are carried out tile by tile: samples of a tile, and threads."""


@pytest.mark.parametrize("part", range(5))
def test_deep_random_programs(monkeypatch, part):
    if part in TILES:
        tiles.tile_everything(monkeypatch, *TILES[part])
    for n in range(15):
        program = fuzz.build(random.Random(f"{part}/{n}").choice)
        try:
            fuzz.check(program)
        except Exception as error:
            error.add_note(str(program))
            raise


@pytest.mark.parametrize("part", range(3))
def test_random_programs_within_bounds_on_other_axes_and_in_second_order(part):
    for n in range(6):
        program = fuzz.build(random.Random(f"further/{part}/{n}").choice)
        try:
            fuzz.check_further(program)
        except Exception as error:
            error.add_note(str(program))
            raise


@pytest.mark.parametrize("part", range(3))
def test_random_programs_in_which_the_shortest_loops_are_rolled(part, monkeypatch):
    for name, value in {"SHORTEST": 4, "FEWEST": 3, "LEAST": 1, "LEAST_APART": 1}.items():
        monkeypatch.setattr(rolling, name, value)
    monkeypatch.setattr(looping, "LONG", 0)
    rolled, n = 0, 0
    while rolled < 4:
        program = fuzz.build(random.Random(f"loops {part}/{n}").choice)
        n += 1
        if "for k in" in program.numpy:
            try:
                fuzz.check(program)
            except Exception as error:
                error.add_note(str(program))
                raise
            rolled += 1


def test_a_wrong_derivative_is_found():
    numpy, wrong = ("def f(v0):\n    return np.sin(v0)\n", "def f(v0):\n    return torch.sin(1.001 * v0)\n")
    program = fuzz.Program(numpy, numpy.replace("np", "torch"), [fuzz.Value((fuzz.B, 2), True)], 0)
    fuzz.check(program)
    with pytest.raises(AssertionError, match="off by"):
        fuzz.check(program._replace(torch=wrong))


def test_programs_use_every_operation():
    text = "".join(fuzz.build(random.Random(n).choice).numpy for n in range(2000))
    for name in (
        "einsum",
        "@",
        "softmax",
        "where",
        "reshape",
        "cumsum",
        "pad",
        "sort",
        "moveaxis",
        "[..., None]",
        "scan",
        "checkpoint(",
        "np.nan",
        "np.clip",
        "where=",
        "argsort",
        "mj.numpy.take(",
        "np.linalg.norm",
        "len(",
        ".mean(0)",
        "put(",
        "add_at(",
    ):
        assert text.count(name) > 20, name


@pytest.mark.parametrize("part", range(4))
def test_random_programs_of_complex_numbers(part):
    for n in range(25):
        program = complex_programs.build(random.Random(f"complex {part}/{n}").choice)
        try:
            complex_programs.check(program)
        except Exception as error:
            error.add_note(str(program))
            raise


def test_a_wrong_derivative_of_complex_numbers_is_found(monkeypatch):
    program = complex_programs.Program((("conj", 0, 0), ("product", 0, 1)), "as it is", 2, 0)
    complex_programs.check(program)
    wrong = lambda xp, z: xp.conj(z) if xp is np else xp.conj(z) * 1.001
    monkeypatch.setitem(complex_programs.ONE, "conj", wrong)
    with pytest.raises(AssertionError, match="off by"):
        complex_programs.check(program)


def test_programs_of_complex_numbers_use_every_step():
    seen = {name for n in range(500) for name, *_ in complex_programs.build(random.Random(n).choice).steps}
    assert seen == {*complex_programs.ONE, *complex_programs.TWO, "matmul"}
