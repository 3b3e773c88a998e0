"""Loops of Python's become loops of programs: the same results, in programs that do not grow with the steps."""

import numpy as np
import pytest

import minijac as mj
from minijac.program.ir import interpreted
from minijac.program.loops import LOOP, unrolled
from minijac.program.passes import rolling
from minijac.program.passes.periods import period_of, periods_of

RNG = np.random.default_rng(0)
W, U = 0.4 * RNG.normal(size=(5, 5)), 0.4 * RNG.normal(size=(3, 5))
MATRICES = [0.3 * RNG.normal(size=(3, 3)) for _ in range(120)]
X = RNG.normal(size=(4, 3))


def different_numbers(x, steps):
    for t in range(steps):
        x = x + (t + 1.0) ** 0.5 * 0.1 * np.sin(x) + 0.01 * t * x**2 / (1 + t)
    return x


def different_arrays(x, steps):
    for M in MATRICES[:steps]:
        x = np.tanh(x @ M)
    return x


def stacked(x, steps):
    rows = []
    for M in MATRICES[:steps]:
        x = np.tanh(x @ M)
        rows.append(x)
    return np.stack(rows[3:], 1)


def two_steps_back(x, steps):
    a = b = x
    for _ in range(steps):
        a, b = np.sin(a) * np.exp(0.1 * b) + 0.1 * np.cos(b) * (1.0 - b), a
    return a * b


def nested(x, steps):
    for _ in range(steps):
        for _ in range(60):
            x = x + 0.001 * np.sin(x)
        x = x * np.cos(x)
    return x


def peeled(x, steps):
    x = np.exp(-x)
    for t in range(steps):
        x = np.tanh(x @ MATRICES[0]) if t else np.sin(x)
    return x.sum(1) * np.cos(x[:, 0])


def series(x, steps):
    h = np.zeros((len(x), 5))
    for t in range(steps):
        h = np.tanh(x[:, t] @ U + h @ W)
    return h


LOOPS = [different_numbers, different_arrays, stacked, two_steps_back, nested, peeled, series]


def given(f, steps):
    return RNG.normal(size=(4, steps, 3)) if f is series else X


def loops(program):
    return [step.params["loop"] for step in program.instructions if step.op is LOOP]


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("f", LOOPS, ids=lambda f: f.__name__)
def test_a_compiled_loop_equals_the_loop_in_every_call(f, mode):
    g = mj.jacobian(lambda x: f(x, 40), mode=mode)
    compiled = mj.compile(g)
    x = given(f, 40)
    for scale in (1.0, 0.9, 1.1):
        np.testing.assert_allclose(compiled(scale * x), g(scale * x), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("f", LOOPS, ids=lambda f: f.__name__)
def test_a_loop_is_found_and_the_program_does_not_grow_with_its_steps(f):
    sizes = []
    for steps in (90, 120):
        program = mj.compile(lambda x, steps=steps: f(x, steps)).program(given(f, steps))
        assert loops(program)
        sizes.append(str(program).count("\n"))
    rows = 30 if f in (different_arrays, stacked) else 0  # captured arrays are listed, and put together
    assert sizes[1] - sizes[0] <= 3 * rows


def test_an_unrolled_program_is_the_same():
    compiled = mj.compile(mj.jacobian(lambda x: nested(x, 12)))
    program = compiled.program(X)
    flat = unrolled(program).verify()
    assert not loops(flat) and any(loops(loop.body) for loop in loops(program))
    np.testing.assert_allclose(interpreted(flat, [X])[0], compiled(X), rtol=1e-12)


def test_arrays_that_a_loop_captures_are_read_in_every_call():
    arrays = [m.copy() for m in MATRICES[:90]]

    def f(x):
        for M in arrays:
            x = np.tanh(x @ M)
        return x

    compiled = mj.compile(f)
    compiled(X)
    for M in arrays:
        M *= 0.5
    assert loops(compiled.program(X))
    np.testing.assert_allclose(compiled(X), f(X), rtol=1e-12)


def test_what_a_step_computes_from_nothing_new_is_computed_once():
    def f(x, M):
        for _ in range(60):
            x = x + 0.01 * x @ np.exp(M).T
        return x

    program = mj.compile(f).program(X, MATRICES[0])
    (loop,) = loops(program)
    assert "exp" in {step.op.name for step in program.instructions}
    assert "exp" not in {step.op.name for step in loop.body.instructions}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loops_keep_the_dtype(dtype):
    x = X.astype(dtype)
    found = mj.compile(mj.jacobian(lambda x: different_numbers(x, 40)))(x)
    assert found.dtype == dtype
    want = mj.jacobian(lambda x: different_numbers(x, 40))(x)
    np.testing.assert_allclose(found, want, rtol=1e-4 if dtype == np.float32 else 1e-12)


def test_second_derivatives_of_loops():
    f = lambda x: two_steps_back(x, 20).sum(1)
    for transform in (mj.hessian, mj.hessian_diagonal, mj.laplacian):
        np.testing.assert_allclose(mj.compile(transform(f))(X), transform(f)(X), rtol=1e-9, atol=1e-12)


def test_gradients_by_captured_and_given_parameters():
    x = given(series, 40)

    def loss(U, W):
        h = np.zeros((4, 5))
        for t in range(40):
            h = np.tanh(x[:, t] @ U + h @ W)
        return (h**2).sum()

    g = mj.value_and_grad(loss, argnums=(0, 1))
    value, grads = mj.compile(g)(U, W)
    want, wanted = g(U, W)
    np.testing.assert_allclose(value, want)
    for a, b in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def test_sums_over_the_steps_are_carried_along_in_the_loop():
    def loss(W, x):
        h = np.zeros((4, 5))
        for t in range(x.shape[1]):
            h = np.tanh(x[:, t] @ U + h @ W)
        return (h**2).sum()

    compiled = mj.compile(mj.grad(loss))
    programs = [compiled.program(W, given(series, steps)) for steps in (60, 90)]
    assert [loop.length for loop in loops(programs[0])] >= [50, 50]
    assert len(programs[0].instructions) == len(programs[1].instructions) < 60
    assert "where" not in str(programs[0])  # a square has no infinite derivative
    x = given(series, 60)
    np.testing.assert_allclose(compiled(W, x), mj.grad(loss)(W, x), rtol=1e-10, atol=1e-13)


def test_numbers_of_python_that_go_from_step_to_step():
    def f(x, h):
        t = h
        for _ in range(40):
            x, t = x + 0.01 * np.sin(t * x) * np.cos(x), t + h
        return x

    compiled = mj.compile(mj.jacobian(f))
    for h in (0.1, 0.2):
        np.testing.assert_allclose(compiled(X, h), mj.jacobian(f)(X, h), rtol=1e-12)


def test_periods_are_found_within_others_and_shortest_first():
    inner = [1, 2, 3] * 10
    assert period_of([7, *inner]) == (3, [(1, 10)])
    outer = ([*inner, 4, 5]) * 9
    assert periods_of(np.array(outer), 8)[0][0] in (3, len(inner) + 2)
    assert period_of([1, 2, 3, 4]) == (0, [])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_truth_values_beside_numbers_in_a_loop_are_numbers(dtype):
    def f(x):
        u, v = x, 0.3 * x
        for k in range(17):
            z = np.sqrt(1 + v**2) - 1
            u, v = v, 0.9 * u
            if k % 2:
                u = z + np.maximum(u, k % 3 == 0)
            v = np.where(u > 0.5, 0.5 * u * (k % 2 == 0), z) + 0.5 * u + (v < (k % 2 == 0)) * v
        return v

    x = X.astype(dtype)
    for g in (f, mj.jacobian(f)):
        np.testing.assert_allclose(mj.compile(g)(x), g(x), rtol=1e-5, atol=1e-6)


def clipped_from_below(x, steps):
    v = x
    for k in range(8 * steps):
        v = np.maximum(x * 0.1 * k, v)
    return v.sum()


def clipped_in_between(x, steps):
    v = x
    for k in range(steps):
        for j in range(steps):
            v = np.tanh(v * (1 + 0.1 * j)) + x * 0.1
        v = np.maximum(x * 0.1 * k, v)
    return (v**2).sum()


@pytest.mark.parametrize("steps", [4, 5, 8])
@pytest.mark.parametrize("f", [clipped_from_below, clipped_in_between])
@pytest.mark.parametrize("thresholds", [(6, 3, 2, 3), (6, 2, 1, 2)], ids=str)
def test_loops_share_no_instruction_and_begin_with_what_was_made_before_them(f, steps, thresholds, monkeypatch):
    for name, value in zip(("SHORTEST", "FEWEST", "LEAST", "LEAST_APART"), thresholds, strict=True):
        monkeypatch.setattr(rolling, name, value)
    g = mj.value_and_grad(lambda x: f(x, steps))
    for got, wanted in zip(mj.compile(g)(X), g(X), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


def swapped(x):
    a, b = x[0], x[1]
    for _ in range(14):
        a, b = b, np.sin(a) * np.cos(b) + np.exp(-a) * b + a
    return np.stack([a, b])


def kept_in_each_step(x):
    last, turn = x[0], x[1]
    for _ in range(12):
        height = np.sqrt((np.cos(turn) * np.sin(last)) ** 2 + 0.3)
        last = x[0] + 0.1 * (np.arctan2(height, np.cos(last) * turn) + height * np.cos(last) * turn)
    return last


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("f", [swapped, kept_in_each_step])
def test_numbers_that_a_step_hands_on_as_it_was_given_them_are_right(f, mode):
    """In rows of all steps, and from one step to the next."""
    g = mj.jacobian(f, batch_axis=None, mode=mode)
    compiled = mj.compile(g)
    for x in (np.array([0.3, 0.8]), np.array([0.5, -0.4])):
        np.testing.assert_allclose(compiled(x), g(x), rtol=1e-12, atol=1e-14)
