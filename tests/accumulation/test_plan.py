"""Plans: all of them give the same Jacobian, the choice is the cheapest by its own count, and is made once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers import close, random
from hypothesis import given
from hypothesis import strategies as st

import minijac as mj
from minijac.accumulation import plan, results
from minijac.accumulation.plan import Plan, chain_of, coarse_chain, mixed_plan, plan_for, price
from minijac.accumulation.recording import Prepared, prepare
from minijac.accumulation.shadow import Ledger, Shadow
from minijac.arguments import Options
from minijac.strides import View, in_common_order
from minijac.views.plan import candidates
from minijac.ways import replay


def prepared(f: Callable, *args: Any) -> Prepared:
    return prepare(f, args, {}, Options())


def network(*sizes: int, dtype: Any = np.float32) -> Callable:
    weights = [random(*pair, seed=k, dtype=dtype) / pair[0] ** 0.5 for k, pair in enumerate(pairwise(sizes))]
    biases = [random(b, seed=90 + k, dtype=dtype) for k, b in enumerate(sizes[1:])]

    def f(x: Any) -> Any:
        for w, b in zip(weights, biases, strict=True):
            x = np.tanh(x @ w + b)
        return x

    return f


def attention(x: Any) -> Any:
    q, k, v = x @ WQ, x @ WK, x @ WV
    e = np.exp(q @ np.swapaxes(k, 1, 2))
    return x + (e / e.sum(-1, keepdims=True)) @ v


WQ, WK, WV = (random(6, 6, seed=k) for k in range(3))


def burgers(u: Any) -> Any:
    p = np.pad(u, ((0, 0), (1, 1)))
    return -u * (p[:, 2:] - p[:, :-2]) + p[:, 2:] - 2.0 * u + p[:, :-2]


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_autoencoder_takes_a_mixed_order_and_a_quarter_of_the_multiply_adds():
    x = random(16, 784, dtype=np.float32)
    ready = prepared(network(784, 256, 32, 256, 784), x)
    cost = {found.plan.mode: found.cost for found in candidates(ready.graph, ready.run.inputs, ready.nodes)}
    assert plan_for(ready.graph, "auto", ready.run.inputs, ready.nodes).mode == "mixed"
    assert 4 * cost["mixed"].multiply_adds <= min(cost["forward"].multiply_adds, cost["reverse"].multiply_adds)


FUNCTIONS = {
    "wide in the middle": (network(20, 100, 20), random(8, 20, dtype=np.float32)),
    "narrow in the middle": (network(60, 6, 60), random(8, 60, dtype=np.float32)),
    "many inputs": (network(80, 40, 20, 3), random(8, 80, dtype=np.float32)),
    "many outputs": (network(3, 20, 40, 80), random(8, 3, dtype=np.float32)),
    "attention": (attention, random(2, 5, 6)),
    "stencil": (burgers, random(4, 30)),
    "elementwise": (lambda x: np.sin(x) * np.exp(-x * x), random(4, 30)),
}
functions = pytest.mark.parametrize("f, x", FUNCTIONS.values(), ids=FUNCTIONS.keys())


@functions
def test_auto_is_no_dearer_than_the_best_by_its_own_count(f, x):
    ready = prepared(f, x)
    best = min(found.cost.nanoseconds for found in candidates(ready.graph, ready.run.inputs, ready.nodes))
    auto = plan_for(ready.graph, "auto", ready.run.inputs, ready.nodes)
    assert price(ready.graph, auto, ready.run.inputs, ready.nodes).nanoseconds <= 1.1 * best


def test_few_outputs_go_in_reverse_and_few_inputs_forward():
    for name, expected in (("many inputs", "reverse"), ("many outputs", "forward")):
        f, x = FUNCTIONS[name]
        ready = prepared(f, x)
        cost = {found.plan.mode: found.cost for found in candidates(ready.graph, ready.run.inputs, ready.nodes)}
        other = {"forward": "reverse", "reverse": "forward"}[expected]
        assert cost[expected].nanoseconds < cost[other].nanoseconds


@functions
def test_planning_is_deterministic(f, x):
    found = []
    for _ in range(2):
        plan._PLANS.clear()
        ready = prepared(f, x)
        found.append((plan_for(ready.graph, "auto", ready.run.inputs, ready.nodes),
                      mixed_plan(ready.graph, ready.run.inputs, ready.nodes),
                      candidates(ready.graph, ready.run.inputs, ready.nodes)))  # fmt: skip
    assert found[0] == found[1]


def test_a_structure_is_planned_once(monkeypatch):
    count = []
    original = plan._found_plan
    monkeypatch.setattr(plan, "_found_plan", lambda *args: count.append(1) or original(*args))
    plan._PLANS.clear()
    f = network(7, 5, 9)
    for seed in range(3):
        mj.jacobian(f)(random(4, 7, seed=seed, dtype=np.float32))
    assert len(count) == 1
    mj.jacobian(f)(random(5, 7, dtype=np.float32))  # another number of samples is another structure
    assert len(count) == 2


def test_planning_a_deep_network_stays_cheap():
    ready = prepared(network(*[8] * 40), random(2, 8, dtype=np.float32))
    chain = coarse_chain(ready.graph, chain_of(ready.graph, ready.run.inputs[0], ready.nodes[0]))
    assert len(chain) <= plan.MAX_CUTS + 2


# --- explicit plans ---------------------------------------------------------------------------------------------------


def segments(f: Callable, x: Any) -> int:
    ready = prepared(f, x)
    return len(coarse_chain(ready.graph, chain_of(ready.graph, ready.run.inputs[0], ready.nodes[0]))) - 1


def test_explicit_plans_are_carried_out():
    f, x = FUNCTIONS["narrow in the middle"]
    expected = mj.jacobian(f, mode="forward")(x)
    for order in ((1, 0), (("reverse", 1), 0), (1, ("reverse", 0))):
        close(mj.jacobian(f, mode=Plan("mixed", {(0, 0): order}))(x), expected, 1e-4, 1e-6)
    for mode in ("forward", "reverse"):
        close(mj.jacobian(f, mode=Plan(mode))(x), expected, 1e-4, 1e-6)


@pytest.mark.parametrize("order", [None, {}, {(0, 0): (0, 1)}, {(0, 0): 0}, {(0, 0): (2, (1, 0))}, {(0, 0): "ab"}])
def test_a_plan_that_does_not_fit_is_refused(order):
    f, x = FUNCTIONS["narrow in the middle"]
    with pytest.raises(mj.InputError, match=r"order\[0, 0\] multiplies the 2 segments"):
        mj.jacobian(f, mode=Plan("mixed", order))(x)


def test_a_plan_of_an_unknown_mode_is_refused():
    with pytest.raises(mj.InputError, match="sideways"):
        mj.jacobian(np.sin, mode=Plan("sideways"))(random(2, 3))


def test_chunks_of_seeds_are_kept_under_auto():
    f, x = FUNCTIONS["narrow in the middle"]
    seen = []
    original = results.seeds

    def counted(*args):
        for seed in original(*args):
            seen.append(seed)
            yield seed

    results.seeds = counted
    try:
        mj.jacobian(f, chunk_size=20)(x)
    finally:
        results.seeds = original
    assert len(seen) == 3


# --- random tapes -----------------------------------------------------------------------------------------------------

N = 4
WIDE, NARROW_IN, NARROW_OUT = random(N, N, seed=11), random(N, 2, seed=12), random(2, N, seed=13)
UNARY: list[Callable] = [
    np.tanh,
    lambda x: x @ WIDE,
    lambda x: np.sin(x @ NARROW_IN) @ NARROW_OUT,
    lambda x: np.roll(x, 1, axis=1),
    lambda x: np.pad(x[:, 1:], ((0, 0), (0, 1))),
    lambda x: x - x.mean(axis=1, keepdims=True),
    lambda x: np.where(x > 0.1, x * x, 0.5 * x),
    lambda x: x.reshape(-1, 2, 2).transpose(0, 2, 1).reshape(-1, 4),
]
BINARY: list[Callable] = [lambda x, y: x + y, lambda x, y: x * y, np.maximum, lambda x, y: x - 0.3 * y]

steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(range(len(UNARY))), st.integers(0, 5), st.none()),
        st.tuples(st.sampled_from(range(len(BINARY))), st.integers(0, 5), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=8,
)


def program(found: list[Any]) -> Callable:
    def f(x: Any) -> Any:
        values = [x]
        for k, i, j in found:
            a = values[-1 - i % len(values)]
            values.append(UNARY[k](a) if j is None else BINARY[k](a, values[-1 - j % len(values)]))
        return values[-1]

    return f


def orders(low: int, high: int) -> st.SearchStrategy:
    """All ways to multiply the segments from `low` to `high`."""
    if low == high:
        return st.sampled_from([low, ("reverse", low)])
    return st.integers(low, high - 1).flatmap(lambda k: st.tuples(orders(k + 1, high), orders(low, k)))


@given(found=steps, data=st.data())
def test_every_mode_and_every_plan_gives_the_same_jacobian(found, data):
    f, x = program(found), random(3, N, seed=5)
    expected = mj.jacobian(f, mode="forward")(x)
    for mode in ("reverse", "mixed", "auto"):
        close(mj.jacobian(f, mode=mode)(x), expected)
    count = segments(f, x)
    if count:
        order = data.draw(orders(0, count - 1))
        close(mj.jacobian(f, mode=Plan("mixed", {(0, 0): order}))(x), expected)


@given(found=steps)
def test_planning_random_tapes_is_deterministic_and_never_dearer_than_the_best(found):
    f, x = program(found), random(3, N, seed=5)
    costs = []
    for _ in range(2):
        ready = prepared(f, x)
        costs.append(candidates(ready.graph, ready.run.inputs, ready.nodes))
    assert costs[0] == costs[1]
    auto = plan_for(ready.graph, "auto", ready.run.inputs, ready.nodes)
    best = min(found.cost.nanoseconds for found in costs[0])
    assert price(ready.graph, auto, ready.run.inputs, ready.nodes).nanoseconds <= 1.1 * best


# --- shadows behave as arrays do --------------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(shape=shapes, data=st.data())
def test_a_shadow_is_copied_where_numpy_copies(shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    array = np.zeros(shape).transpose(order)
    rest, new = array.size, []
    for divisor in (2, 3, 4):
        if rest % divisor == 0 and data.draw(st.booleans()):
            new.append(divisor)
            rest //= divisor
    new.insert(data.draw(st.integers(0, len(new))), rest)
    view = View(array.shape, tuple(s // 8 for s in array.strides)).reshaped(tuple(new))
    assert (view is None) == (not np.shares_memory(array.reshape(new), array))
    if view is not None:
        actual = array.reshape(new).strides
        assert all(s * 8 == t for s, t, n in zip(view.strides, actual, new, strict=True) if n > 1)


@given(shape=shapes, data=st.data())
def test_a_shadow_is_laid_out_as_numpy_lays_out(shape, data):
    arrays = []
    for _ in range(2):
        order = data.draw(st.permutations(range(len(shape))))
        sizes = [n if data.draw(st.booleans()) else 1 for n in shape]
        arrays.append(np.zeros([sizes[k] for k in order]).transpose(np.argsort(order)))
    result = arrays[0] * arrays[1]
    ledger = Ledger()
    twins = [Shadow(a.shape, a.dtype, ledger, strides=[s // 8 for s in a.strides]) for a in arrays]
    found = in_common_order(result.shape, [View(x.shape, x.strides).broadcast(result.shape).strides for x in twins])
    assert all(s * 8 == t for s, t, n in zip(found, result.strides, result.shape, strict=True) if n > 1)


# --- long programs ----------------------------------------------------------------------------------------------------


def rotated(steps: int) -> Any:
    def f(x: Any) -> Any:
        for _ in range(steps):
            x = x + 0.01 * np.sin(x[:, ::-1])
        return x

    return f


def test_a_long_program_is_planned_without_a_rehearsal(monkeypatch):
    monkeypatch.setattr(plan, "price", lambda *args: pytest.fail("priced on the whole graph"))
    narrow = lambda x: rotated(100)(x).sum(1)
    wide = lambda x: rotated(100)(np.concatenate([x, x], 1))
    for f, expected in ((narrow, "reverse"), (wide, "forward"), (rotated(100), "forward")):
        ready = prepared(f, random(4, 3))
        assert ready.plan("auto").mode == expected


def test_a_long_program_on_large_arrays_is_rehearsed_where_that_is_a_fraction_of_its_work():
    ready = prepared(rotated(100), random(4, 3))
    assert not plan.worth_rehearsing(ready.graph, (3, 3))
    assert plan.worth_rehearsing(ready.graph, (10**9, 10**9))


def test_a_long_program_is_not_recorded_for_replays(monkeypatch):
    monkeypatch.setattr(replay, "run_recorded", lambda *args: pytest.fail("recorded"))
    jacobian = mj.jacobian(rotated(100))
    x = random(4, 3)
    first = jacobian(x)
    for _ in range(2):
        assert np.array_equal(jacobian(x), first)


@pytest.mark.parametrize("steps", [50, 200])
def test_the_cuts_of_a_chain_are_found_in_one_sweep(steps):
    count = []
    ready = prepared(rotated(steps), random(4, 3))
    operands = ready.graph.operands
    ready.graph.operands = lambda i: count.append(i) or operands(i)
    (source,), (target,) = ready.run.inputs, ready.nodes
    assert len(chain_of(ready.graph, source, target)) == steps + 1
    assert len(count) <= 5 * len(ready.graph.order)
