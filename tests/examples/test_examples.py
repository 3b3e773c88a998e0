"""The examples at reduced size: they run, draw their picture, agree with torch, and reach what they claim."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
NEEDS = {
    "digits": {"sklearn": "scikit-learn", "matplotlib": "matplotlib"},
    "pinn_burgers": {"scipy": "SciPy", "matplotlib": "matplotlib"},
    "flow": {"matplotlib": "matplotlib"},
    "ekf": {"scipy": "SciPy", "matplotlib": "matplotlib"},
    "lorenz96": {"matplotlib": "matplotlib"},
    "lstm": {"sklearn": "scikit-learn", "matplotlib": "matplotlib"},
}
WITHOUT = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, "examples")
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(name: str, picture: Path, *, missing: tuple[str, ...] = (), fails: bool = False) -> str:
    """An example in a fresh process, where it may miss some modules; what it printed, errors included if it fails."""
    for module, package in NEEDS[name].items():
        if module not in missing and importlib.util.find_spec(module) is None:
            pytest.skip(f"{package} is not installed")
    argv = [f"examples/{name}.py", "--quick", "--out", str(picture)]
    command = [sys.executable, "-c", WITHOUT.format(missing=missing, argv=argv)] if missing else [sys.executable, *argv]
    where = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": where}
    process = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (process.returncode != 0) == fails, process.stderr
    return process.stderr if fails else process.stdout


def numbers(text: str, start: str) -> list[float]:
    """All numbers in the line that starts so."""
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return [float(number) for number in re.findall(NUMBER, line)]


def assert_drawn(picture: Path) -> None:
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def assert_agrees_with_torch(text: str, tolerance: float) -> None:
    if importlib.util.find_spec("torch") is None:
        assert "against torch: not checked, torch is not installed" in text
        pytest.skip("torch is not installed; everything else was checked")
    (line,) = (line for line in text.splitlines() if line.startswith("against torch: largest error"))
    found = [float(error) for error in re.findall(r"\d\.\de[+-]\d+", line)]
    assert found
    assert max(found) < tolerance


def test_digits_classifies_and_gives_all_jacobians_in_one_call(tmp_path: Path) -> None:
    text = run("digits", tmp_path / "digits.png")
    assert_drawn(tmp_path / "digits.png")
    training, held_out = numbers(text, "accuracy:")
    assert training > 0.9
    assert held_out > 0.8
    assert "Jacobians: (1797, 10, 64)" in text
    right, wrong = numbers(text, "distance to another reading:")
    assert wrong < 0.5 * right
    assert numbers(text, "told by the Jacobian and found by bisection:")[0] < 10.0
    assert_agrees_with_torch(text, 1e-12)


def test_pinn_burgers_approaches_the_exact_solution(tmp_path: Path) -> None:
    text = run("pinn_burgers", tmp_path / "pinn.png")
    assert_drawn(tmp_path / "pinn.png")
    assert numbers(text, "relative L2 error:")[1] < 0.1  # the first number is the 2 of L2
    assert_agrees_with_torch(text, 1e-9)


def test_flow_has_a_normalised_density_that_it_can_invert(tmp_path: Path) -> None:
    text = run("flow", tmp_path / "flow.png")
    assert_drawn(tmp_path / "flow.png")
    reached, possible = numbers(text, "log-likelihood:")
    assert possible - 0.8 < reached < possible
    assert numbers(text, "integral of the density:")[0] == pytest.approx(1.0, abs=0.01)
    assert numbers(text, "inverse: largest error")[0] < 1e-10
    assert_agrees_with_torch(text, 1e-9)


def test_ekf_is_consistent_and_better_than_commands_alone(tmp_path: Path) -> None:
    text = run("ekf", tmp_path / "ekf.png")
    assert_drawn(tmp_path / "ekf.png")
    assert 2.4 < numbers(text, "NEES:")[0] < 3.6
    filtered, blind = numbers(text, "position error at the end:")
    assert filtered < 0.5 * blind
    assert_agrees_with_torch(text, 1e-12)


def test_lorenz96_has_the_published_exponents(tmp_path: Path) -> None:
    text = run("lorenz96", tmp_path / "lorenz96.png")
    assert_drawn(tmp_path / "lorenz96.png")
    assert numbers(text, "largest exponent:")[0] == pytest.approx(1.68, abs=0.06)
    positive, _, dimension, _ = numbers(text, "positive exponents:")
    assert positive == 13
    assert dimension == pytest.approx(27.1, abs=0.3)
    assert numbers(text, "sum of the exponents:")[0] == pytest.approx(-40.0, abs=0.05)
    assert_agrees_with_torch(text, 1e-12)


def test_lstm_reads_digits_and_remembers_their_beginning(tmp_path: Path) -> None:
    text = run("lstm", tmp_path / "lstm.png")
    assert_drawn(tmp_path / "lstm.png")
    assert numbers(text, "accuracy:")[0] > 0.75
    assert numbers(text, "early half of the series:")[0] > 10
    assert_agrees_with_torch(text, 1e-11)


def test_without_torch_and_tqdm_an_example_still_runs_and_says_so(tmp_path: Path) -> None:
    text = run("ekf", tmp_path / "ekf.png", missing=("torch", "tqdm"))
    assert_drawn(tmp_path / "ekf.png")
    assert "against torch: not checked, torch is not installed" in text


@pytest.mark.parametrize(
    "name, module, package",
    [("digits", "sklearn", "scikit-learn"), ("ekf", "scipy", "scipy"), ("flow", "matplotlib", "matplotlib")],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(
    name: str, module: str, package: str, tmp_path: Path
) -> None:
    text = run(name, tmp_path / "none.png", missing=(module,), fails=True)
    assert text.splitlines()[-1] == f"This example needs {package}: pip install 'minijac[examples]'"
