"""Chains computed transposed: the same values, fewer small products, and only where it is cheaper."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import same

import minijac as mj
from minijac.program.cpu.executor import Executor
from minijac.program.passes.turning import _cost, _from_left, _is_transpose, _turned_at, turned_chains

B, D, H = 40, 3, 64
RNG = np.random.default_rng(0)
W, V, C = RNG.normal(size=(H, H)), RNG.normal(size=(H, D)), RNG.normal(size=(B, H, D))

CHAINS = {
    "from the left": lambda x: W @ (x[:, :, None] * C),
    "twice": lambda x: W @ (np.tanh(W @ (x[:, :, None] * C)) * C),
    "turned at the end": lambda x: (W @ (x[:, :, None] * C + V)).transpose(0, 2, 1),
    "numbers, rows and columns": lambda x: 2 * (W @ (x[:, :, None] + V + V[:, :1] + V[0])) - x[:, :, None],
    "columns of a product": lambda x: W @ ((x @ RNG_COLUMNS).reshape(B, H, D) * x[:, :, None]),
    "used twice": lambda x: (W @ (y := x[:, :, None] * C)) + y,
    "four axes": lambda x: (W @ (x[:, None, :, None] * C[:, None])).swapaxes(-1, -2) * 2,
    "a product of stacks": lambda x: (W @ (x[:, :, None] * C)).swapaxes(1, 2) @ C,
}
RNG_COLUMNS = RNG.normal(size=(H, H * D))


@pytest.mark.parametrize("chain", CHAINS)
def test_same_values(chain):
    f = CHAINS[chain]
    compiled = mj.compile(f)
    for x in RNG.normal(size=(2, B, H)):
        same(compiled(x), f(x), rtol=1e-10)


@pytest.mark.parametrize("chain", CHAINS)
def test_same_values_wherever_it_is_turned(chain):
    """Also where it does not pay: every value with two axes behind the first, one at a time."""
    f = CHAINS[chain]
    x = RNG.normal(size=(B, H))
    program = mj.compile(f).program(x)
    expected = f(x)
    turned = 0
    for step in program.instructions:
        if _is_transpose(step) or _from_left(step, program.values):
            trial = _turned_at(program, step.out)
            (found,) = Executor(trial.verify()).run(x)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
            turned += 1
    assert turned


def test_a_weight_on_the_left_is_one_large_product():
    program = mj.compile(CHAINS["twice"]).program(RNG.normal(size=(B, H)))
    shapes = [[program.values[n].shape for n in step.args] for step in program.instructions if step.op.name == "matmul"]
    assert shapes == [[(B * D, H), (H, H)]] * 2


def test_the_jacobian_of_a_networks_jacobian_has_no_stacked_products():
    weights = [RNG.normal(size=(10, H)), W, RNG.normal(size=(H, 1))]
    f = mj.jacobian(mj.jacobian(lambda x: (np.tanh(np.tanh(x @ weights[0]) @ weights[1]) @ weights[2])[:, 0]))
    x = RNG.normal(size=(B, 10))
    compiled = mj.compile(f)
    same(compiled(x), f(x), rtol=1e-10)
    products = [step for step in compiled.program(x).instructions if step.op.name == "matmul"]
    assert all(len(compiled.program(x).values[n].shape) == 2 for step in products for n in step.args)


def test_never_dearer():
    for f in CHAINS.values():
        program = mj.compile(f).program(RNG.normal(size=(B, H)))
        assert _cost(turned_chains(program)) <= _cost(program)


def test_a_long_chain():
    """Deeper than Python's stack would allow."""

    def f(x):
        y = x[:, :, None] * C
        for _ in range(1500):
            y = y + 1.0
        return (W @ y).transpose(0, 2, 1)

    x = RNG.normal(size=(B, H))
    same(mj.compile(f)(x), f(x), rtol=1e-10)
