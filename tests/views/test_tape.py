"""The trace as a table: operations, shapes, the lines of the source."""

from __future__ import annotations

import re

import numpy as np
from helpers import (
    HIDDEN,
    IN,
    W1,
    marked_line,
    parameters,
    parametric_net,
    places_named,
    random,
)

import minijac as mj

# --- the tape -----------------------------------------------------------------------------------------------


def taped(x):
    h = np.tanh(x @ W1)  # <- here
    return h.sum(axis=-1)


def test_tape_lists_operations_shapes_and_source_lines():
    tape = mj.trace(taped, random(4, IN))
    text = str(tape)
    for word in ("matmul", "tanh", "sum"):
        assert word in text
    assert re.search(rf"\b4, ?{HIDDEN}\b", text)
    assert marked_line(taped) in places_named(text, __file__)


def test_tape_draws_itself():
    dot = mj.trace(taped, random(4, IN)).to_dot()
    assert dot.lstrip().startswith("digraph")
    assert dot.rstrip().endswith("}")
    assert "->" in dot
    assert "tanh" in dot


def test_tape_takes_several_arguments_and_batch_axes():
    tape = mj.trace(parametric_net, parameters(), random(5, 3), batch_axis=(None, 0))
    assert "tanh" in str(tape)
