"""explain says what would be done: prices, the choice and its reason, cuts, structure; as text and as pictures."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import random

import minijac as mj
from minijac.accumulation.plan import Plan

WEIGHTS = [random(a, b, seed=k, dtype=np.float32) for k, (a, b) in enumerate([(96, 32), (32, 4), (4, 32), (32, 96)])]


def autoencoder(x: Any) -> Any:
    for w in WEIGHTS:
        x = np.tanh(x @ w)  # <- here
    return x


def burgers(u: Any) -> Any:
    p = np.pad(u, ((0, 0), (1, 1)))
    return -u * (p[:, 2:] - p[:, :-2]) + p[:, 2:] - 2.0 * u + p[:, :-2]


X = random(8, 96, dtype=np.float32)


def test_all_three_candidates_are_priced():
    explained = mj.explain(autoencoder, X)
    assert [found.plan.mode for found in explained.candidates] == ["forward", "reverse", "mixed"]
    for found in explained.candidates:
        assert found.cost.multiply_adds > 0 and found.cost.moved > 0 and found.cost.peak_bytes > 0
        assert f"{found.cost.multiply_adds:,}" in str(explained)
        assert f"{found.cost.peak_bytes:,}" in str(explained)


def test_the_chosen_plan_is_the_one_of_least_predicted_time_and_says_so():
    explained = mj.explain(autoencoder, X)
    assert explained.chosen.cost.nanoseconds == min(found.cost.nanoseconds for found in explained.candidates)
    assert explained.plan.mode == "mixed"
    assert "chosen: mixed, the least predicted time" in str(explained)


def test_a_mode_asked_for_is_the_one_explained():
    for mode in ("forward", "reverse", "mixed"):
        explained = mj.explain(autoencoder, X, mode=mode)
        assert explained.chosen.plan.mode == mode
        assert f"chosen: {mode}, as asked for" in str(explained)


def test_an_explicit_plan_is_explained():
    plan = Plan("mixed", {(0, 0): (3, (2, (1, 0)))})
    explained = mj.explain(autoencoder, X, mode=plan)
    assert "explicit" in str(explained)
    assert explained.orders == ["output %8 by input %0: J = S3 (S2 (S1 S0))"]


def test_the_autoencoder_is_cut_at_its_layers_and_meets_in_the_middle():
    explained = mj.explain(autoencoder, X)
    assert [step.cut for step in explained.steps] == ["cut", "meet", "cut", ""]
    assert [explained.nodes[step.node].out.shape for step in explained.steps] == [(8, 32), (8, 4), (8, 32), (8, 96)]
    assert explained.orders == ["output %8 by input %0: J = (S3 S2) (S1 S0), meeting at %4"]


def test_lines_operations_and_shapes_are_named():
    text = str(mj.explain(autoencoder, X))
    assert re.search(r"tanh +\[8, 4\] +test_explain\.py:\d+", text)


def test_structure_and_bytes_are_those_of_the_blocks():
    for mode in ("forward", "reverse"):
        explained = mj.explain(burgers, random(4, 20), mode=mode)
        assert explained.result == ["banded (offsets -1, 0, +1)"]
        J = mj.jacobian(burgers, structured=True, mode=mode)(random(4, 20))
        assert explained.steps[-1].bytes == J.nbytes
        assert "banded (offsets -1, 0, +1)" in str(explained)


def test_every_pair_of_several_inputs_and_outputs_has_its_result():
    W = random(5, 3)
    f = lambda x, y: {"a": np.sin(x) @ W, "b": x * y}
    for mode in ("forward", "reverse", "mixed"):
        explained = mj.explain(f, random(4, 5), random(4, 5), argnums=(0, 1), mode=mode)
        assert len(explained.result) == 3
        assert sorted(explained.result)[:2] == ["dense, product of 2 factors", "diagonal"]


def test_the_function_runs_once():
    calls = []

    def f(x):
        calls.append(x.shape)
        return np.sin(x)

    mj.explain(f, random(3, 4))
    assert calls == [(3, 4)]


def test_errors_are_those_of_jacobian():
    with pytest.raises(mj.BatchMixingError):
        mj.explain(lambda x: x - x.mean(0), random(3, 4))
    with pytest.raises(mj.InputError, match="mode"):
        mj.explain(np.sin, random(3, 4), mode="sideways")


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
@pytest.mark.parametrize("f, x", [(autoencoder, X), (burgers, random(4, 20))], ids=["autoencoder", "burgers"])
def test_pictures_show_every_node_with_its_structure(f, x, mode):
    explained = mj.explain(f, x, mode=mode)
    dot = explained.to_dot()
    assert dot.startswith("digraph") and dot.rstrip().endswith("}")
    svg = ElementTree.fromstring(explained.to_svg())
    text = "\n".join(element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text"))
    for i in range(len(explained.nodes)):
        assert f"n{i} [label=" in dot
        assert f"%{i} " in text
    for step in explained.steps:
        assert step.structure in dot and step.structure in text
    assert "fillcolor" in dot


def test_directions_have_their_colours():
    svg = mj.explain(autoencoder, X).to_svg()
    assert "#cfe2f3" in svg
    assert "#fce5cd" in mj.explain(autoencoder, X, mode="reverse").to_svg()


def test_results_without_data_are_explained_too():
    assert str(mj.explain(lambda x: np.floor(x) * 1.0, random(3, 4)))
    assert mj.explain(lambda x: x[:, ::-1], random(3, 4)).result == ["entries moved, shared by all samples, constant"]


def test_the_page_of_examples_is_up_to_date():
    script = Path(__file__).parents[2] / "docs" / "make_plans.py"
    spec = importlib.util.spec_from_file_location("make_plans", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.files().items():
        assert path.read_text() == text, f"{path.name} is out of date: run python docs/make_plans.py"


def test_where_nothing_is_priced_the_choice_is_by_seeds():
    """Long arithmetic on a few numbers of each sample: what is dearer by its prices is not called the cheapest."""

    def f(x):
        y = np.tanh(x)
        for _ in range(30):
            y = np.sin(y) * x[:, :1] + y
        return y.sum(1)[:, None] * np.ones((1, 5))

    text = str(mj.explain(f, np.ones((4, 3))))
    assert "chosen: forward, from where seeds are fewer" in text
    assert "least predicted" not in text
