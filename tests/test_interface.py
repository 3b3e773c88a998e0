"""What completion shows: the interface, and none of the machinery, which stays importable."""

import importlib

import pytest

import minijac as mj

MODULES = ["errors", "nn", "ops", "special", "testing"]


def test_the_package_shows_its_interface():
    assert set(dir(mj)) == {*mj.__all__, "__version__"}
    assert "jacobian" in dir(mj) and not {"algebra", "backend", "accumulation", "lines"} & set(dir(mj))


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_shows_its_interface(name):
    module = getattr(mj, name)
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, shown) for shown in dir(module))


def test_all_that_is_named_is_there_once():
    assert len(set(mj.__all__)) == len(mj.__all__)
    assert all(hasattr(mj, name) for name in mj.__all__)


@pytest.mark.parametrize("name", ["algebra.block", "tape", "ops.families", "accumulation.graph", "program.compiled"])
def test_the_machinery_is_importable(name):
    assert importlib.import_module(f"minijac.{name}")
