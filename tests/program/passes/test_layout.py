"""Products in the order that is wanted: the same numbers, and nothing transposed by a copy."""

import numpy as np
import pytest

import minijac as mj
from minijac.ops.multilinear import matmul
from minijac.ops.structural import reshape, transpose
from minijac.program.entry import record
from minijac.program.passes.layout import products_in_order

SIZES = {"b": 5, "c": 10, "h": 8, "s": 12, "k": 9, "o": 3}


def program_of(f, *arrays):
    return record(f, arrays, {}).program


def product(order):
    """``sum_c x[b, h, s, c] w[c, (k o)]`` with its axes in some order, of an x that is made entry by entry."""

    def f(x, mask, w):
        x = np.transpose(x, (0, 2, 3, 1)) * mask
        y = np.reshape(np.reshape(x, (-1, x.shape[-1])) @ w, (*x.shape[:-1], SIZES["k"], SIZES["o"]))
        return np.transpose(y, ["bhsko".index(name) for name in order]) + 1.0

    return f


def operands():
    rng = np.random.default_rng(0)
    shapes = [[SIZES[name] for name in names] for names in ("bchs", "bhsc")]
    shapes[1][2] = 1
    return *[rng.standard_normal(shape) for shape in shapes], rng.standard_normal((SIZES["c"], SIZES["k"] * SIZES["o"]))


@pytest.mark.parametrize("order", ["bkohs", "kobhs", "bhsko", "hbkos", "sbkoh", "bkosh"])
def test_products_are_made_in_the_order_of_their_transpose(order):
    arrays = operands()
    x, mask, w = arrays
    wanted = np.einsum("bchs,bhsc,cn->bhsn", x, np.broadcast_to(mask, (5, 8, 12, 10)), w)
    wanted = wanted.reshape(5, 8, 12, 9, 3)
    wanted = wanted.transpose(["bhsko".index(name) for name in order]) + 1.0
    np.testing.assert_allclose(mj.compile(product(order))(*arrays), wanted, rtol=1e-12, atol=1e-12)


def through(n, makers):
    """What a value is a reshape of."""
    while n in makers and makers[n].op is reshape:
        n = makers[n].args[0]
    return n


@pytest.mark.parametrize("order", ["bkohs", "kobhs", "bkosh"])
def test_what_a_product_is_made_of_comes_in_its_order(order):
    program = program_of(product(order), *operands())
    makers = {step.out: step for step in program.instructions}
    (found,) = [step for step in program.instructions if step.op is matmul]
    transposed = {through(step.args[0], makers) for step in program.instructions if step.op is transpose}
    assert found.out not in transposed
    sources = [makers.get(through(n, makers)) for n in found.args]
    assert [step.op.name for step in sources if step is not None and step.op is not transpose] == ["multiply"]


def test_axes_that_are_torn_apart_are_left():
    program = program_of(product("bhkso"), *operands())
    assert products_in_order(program).instructions == program.instructions


def test_entries_that_are_transposed_and_copied_are_made_in_the_order_of_the_copy():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((40, 1, 30)), rng.standard_normal((1, 20, 30))

    def f(a, b):
        return np.reshape(np.transpose(a * b, (1, 2, 0)), (20, -1))

    program = program_of(f, a, b)
    makers = {step.out: step for step in program.instructions}
    assert makers[through(program.outputs[0], makers)].op.name == "multiply"
    np.testing.assert_array_equal(mj.compile(f)(a, b), f(a, b))


def test_entries_whose_operands_are_as_large_are_not_moved():
    a, b = np.ones((40, 30)), np.full((40, 30), 2.0)
    program = program_of(lambda a, b: np.reshape((a * b).T, (-1,)), a, b)
    assert [step.op.name for step in program.instructions] == ["multiply", "transpose", "reshape"]
