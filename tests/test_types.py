"""Types: a checker and an editor know what transformations return and which options there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """
from typing import Any

import numpy as np
import minijac as mj


def f(x: Any) -> Any:
    return np.tanh(x)


x = np.ones((2, 3))
reveal_type(mj.jacobian(f, structured=True)(x))
reveal_type(mj.jacobian(f, has_aux=True)(x))
reveal_type(mj.linearize(f, x)[1])
reveal_type(mj.vjp(f, x)[1])
reveal_type(mj.value_and_jacobian(f, structured=True)(x)[1])
J = mj.jacobian(f, structured=True)(x)
reveal_type(J[0].eye() - 0.1 * J[0])
mj.jacobian(f, mode="forward", on_mixing="diagonal", batch_axis=(0,), chunk_size=4)(x)
mj.hessian(f, mode="reverse")(x)


@mj.compile(static_argnames="n")
def g(x: Any, n: int) -> Any:
    return x * n
"""

REVEALED = ["Jacobian", "tuple[Any, Any]", "Jacobian", "def (Any) -> tuple[Any, ...]", "Jacobian", "Jacobian"]

WRONG = """
import numpy as np
import minijac as mj

x = np.ones((2, 3))
mj.jacobian(np.tanh, mode="fwd")
mj.jacobian(np.tanh, on_mixing="ignore")
mj.jacobian(np.tanh, structure=True)
mj.jacobian(np.tanh, structured=True)(x).todens()
mj.hessian(np.tanh, max_byte=3)
mj.vjp(np.tanh, x)[1](x).sum()
mj.compile(np.tanh, maxsize="8")
mj.laplacian(np.tanh, chunk_size="all")
mj.linearize(np.tanh, x)[1] @ x + mj.linearize(np.tanh, x)[1].shap
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What mypy --strict says of a user's two files."""
    folder = tmp_path_factory.mktemp("types")
    for name, code in (("right", RIGHT), ("wrong", WRONG)):
        (folder / f"{name}.py").write_text(code)
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(root / "pyproject.toml")]
    command += ["--cache-dir", str(folder / "cache"), str(folder / "right.py"), str(folder / "wrong.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert not done.stderr, done.stderr
    return done.stdout


def test_what_transformations_return_is_known(said: str) -> None:
    assert not re.search(r"right\.py:\d+: error", said), said
    revealed = re.findall(r'right\.py.*Revealed type is "(.*?)"', said)
    assert [text if "Any" in text else text.split(".")[-1] for text in revealed] == REVEALED


def test_planted_errors_are_found_each_in_its_line(said: str) -> None:
    lines = {int(number) for number in re.findall(r"wrong\.py:(\d+): error", said)}
    assert lines == set(range(6, 6 + 9)), said
