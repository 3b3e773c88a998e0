"""The messages on docs/errors.md are those that are raised."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minijac as mj

PAGE = (Path(__file__).parents[2] / "docs/errors.md").read_text(encoding="utf-8")
SHOWN = {
    block.split(":")[0]: block for block in re.findall(r"^```\n(\w+Error: .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
}

X = np.ones((3, 5))
saved: list[Any] = []


def centres(x: Any) -> Any:
    centred = x - x.mean(0)
    return centred


def keeps(x: Any) -> Any:
    saved.append(np.tanh(x))
    return x


def used_later() -> Any:
    mj.jacobian(keeps)(X)
    return saved[0].sum()


def writes(x: Any) -> Any:
    x[:, 0] = 0.0
    return x


def no_root() -> Any:
    return mj.root(lambda x, a: x**2 + a, np.ones((4, 1)), np.array([-1.0, 1.0, -4.0, 2.0])[:, None])


RAISED: dict[str, Callable[[], Any]] = {
    "BatchMixingError": lambda: mj.jacobian(centres)(X),
    "UnsupportedOperationError": lambda: mj.jacobian(lambda x: np.packbits(x))(X),
    "InputError": lambda: mj.jacobian(np.sin)(X.astype(int)),
    "TraceError": used_later,
    "MutationError": lambda: mj.jacobian(writes)(X),
    "ConvergenceError": no_root,
    "ConversionError": lambda: mj.jacobian(lambda x: x * float(x.max()))(X),
}


def words(message: str) -> list[str]:
    """A message without its breaks of lines, and with one name for all files."""
    return re.sub(r"\S*\.py:\d+", "model.py", message).split()


def test_every_error_is_shown() -> None:
    assert SHOWN.keys() == RAISED.keys() == {kind.__name__ for kind in mj.MinijacError.__subclasses__()}


@pytest.mark.parametrize("name", RAISED)
def test_a_message_reads_as_it_is_shown(name: str) -> None:
    with pytest.raises(getattr(mj.errors, name)) as caught:
        RAISED[name]()
    assert words(SHOWN[name]) == words(f"{name}: {caught.value}")
