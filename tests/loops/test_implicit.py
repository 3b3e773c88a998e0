"""root, fixed_point: what is found solves the equation, and its derivatives are the implicit function theorem's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize

import minijac as mj

RNG = np.random.default_rng(0)
A = RNG.normal(size=(3, 3)) * 0.3
TARGETS = RNG.normal(size=(5, 3))
START = np.zeros((5, 3))


def equation(x: Any, a: Any) -> Any:
    return x + 0.3 * np.tanh(x @ A) - a


def solved(a: Any) -> Any:
    return mj.root(equation, START, a)


def fixed(a: Any) -> Any:
    return mj.fixed_point(lambda x, a: a - 0.3 * np.tanh(x @ A), START, a)


def unrolled(a: Any, weights: Any = A) -> Any:
    x = START
    for _ in range(60):
        x = a - 0.3 * np.tanh(x @ weights)
    return x


both = pytest.mark.parametrize("f", [solved, fixed])


@both
def test_it_solves_the_equation(f):
    assert np.abs(equation(f(TARGETS), TARGETS)).max() < 1e-14
    np.testing.assert_allclose(f(TARGETS), unrolled(TARGETS), 1e-12)


@both
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
def test_the_derivative_is_the_implicit_function_theorems(f, mode):
    J = mj.jacobian(lambda x: equation(x, TARGETS))(f(TARGETS))
    np.testing.assert_allclose(mj.jacobian(f, mode=mode)(TARGETS), np.linalg.inv(J), 1e-11, 1e-13)


@both
@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("max_bytes", [None, 10**6])
def test_options_of_a_jacobian_hold(f, structured, max_bytes):
    J = mj.jacobian(f, structured=structured, max_bytes=max_bytes)(TARGETS)
    np.testing.assert_allclose(J.todense() if structured else J, mj.jacobian(unrolled)(TARGETS), 1e-10, 1e-12)


@both
def test_higher_orders_are_the_unrolled_loops(f):
    for transformation in (mj.hessian, mj.laplacian, mj.hessian_diagonal, lambda g: mj.jacobian(mj.hessian(g)),
                           lambda g: mj.partials(g, [(0, 1), (0, 0, 2), (0, 1, 1, 2)])):  # fmt: skip
        found, expected = transformation(f)(TARGETS), transformation(unrolled)(TARGETS)
        for a, b in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
            np.testing.assert_allclose(a, b, 1e-8, 1e-10)


def test_captured_parameters_are_differentiated():
    loss = lambda w: (mj.root(lambda x: x + 0.3 * np.tanh(x @ w) - TARGETS, START) ** 2).sum()
    plain = lambda w: (unrolled(TARGETS, w) ** 2).sum()
    np.testing.assert_allclose(mj.grad(loss)(A), mj.grad(plain)(A), 1e-9, 1e-11)
    for second in (mj.hessian, lambda f, **options: mj.jacobian(mj.grad(f), **options)):
        np.testing.assert_allclose(second(loss, batch_axis=None)(A), second(plain, batch_axis=None)(A), 1e-8, 1e-10)


def test_compiled_it_is_solved_anew_for_new_numbers():
    step = mj.compile(mj.value_and_jacobian(solved))
    second = mj.compile(mj.hessian(solved))
    for scale in (1.0, 2.0, 0.5):
        x, J = step(TARGETS * scale)
        np.testing.assert_allclose(x, unrolled(TARGETS * scale), 1e-11, 1e-13)
        np.testing.assert_allclose(J, mj.jacobian(unrolled)(TARGETS * scale), 1e-9, 1e-11)
        np.testing.assert_allclose(second(TARGETS * scale), mj.hessian(unrolled)(TARGETS * scale), 1e-7, 1e-9)
    assert step.cache_info().misses == 1


def test_inside_a_checkpointed_function_and_a_loop():
    loss = lambda a: (mj.checkpoint(solved)(a) ** 2).sum()
    np.testing.assert_allclose(
        mj.grad(loss)(TARGETS), mj.grad(lambda a: (unrolled(a) ** 2).sum())(TARGETS), 1e-9, 1e-11
    )
    euler = lambda y, _: (mj.root(lambda z, y: z - y + 0.1 * z**3, y, y), None)

    def plain(y: Any) -> Any:
        for _ in range(4):
            z = y
            for _ in range(40):
                z = y - 0.1 * z**3
            y = z
        return y

    y = 0.3 * TARGETS
    for checkpoint in (None, 2):
        flow = lambda y, k=checkpoint: mj.scan(euler, y, None, 4, checkpoint=k)[0]
        np.testing.assert_allclose(mj.jacobian(flow)(y), mj.jacobian(plain)(y), 1e-8, 1e-10)


def test_an_argument_may_be_what_a_checkpointed_function_captures():
    both = lambda a, c: mj.root(lambda z, a, c: z + 0.1 * z**3 * a - c, START, a, c)
    expected = mj.jacobian(lambda a: both(a, np.sin(a)))(TARGETS)
    part = lambda a: mj.checkpoint(lambda c: both(a, c))(np.sin(a))
    loop = lambda a: mj.scan(lambda c, _: (both(a, np.sin(a)) + 0 * c, None), a, None, 3, checkpoint=2)[0]
    for f in (part, loop):
        for mode in ("forward", "reverse"):
            np.testing.assert_allclose(mj.jacobian(f, mode=mode)(TARGETS), expected, 1e-9, 1e-11)


def test_float32_stays_float32():
    a = TARGETS.astype(np.float32)
    f = lambda a: mj.root(lambda x, a: x + x**3 - a, np.zeros_like(START, dtype=np.float32), a)
    x, J = mj.value_and_jacobian(f)(a)
    assert x.dtype == J.dtype == np.float32
    np.testing.assert_allclose(x + x**3, a, 1e-5, 1e-6)


def test_a_users_own_solver_is_given_plain_arrays_and_checked():
    def solver(f: Any, x0: Any, a: Any) -> Any:
        assert type(x0) is type(a) is type(f(x0, a)) is np.ndarray
        return scipy.optimize.root(lambda z: f(z.reshape(5, 3), a).ravel(), x0.ravel(), tol=1e-12).x.reshape(5, 3)

    f = lambda a: mj.root(equation, START, a, solver=solver)
    for each in (mj.jacobian(f), mj.compile(mj.jacobian(f))):
        np.testing.assert_allclose(each(TARGETS), mj.jacobian(unrolled)(TARGETS), 1e-8, 1e-10)
    captured = lambda w: (mj.root(lambda x, a: x + 0.3 * np.tanh(x @ w) - a, START, TARGETS, solver=solver) ** 2).sum()
    plain = lambda w: (unrolled(TARGETS, w) ** 2).sum()
    np.testing.assert_allclose(mj.grad(captured)(A), mj.grad(plain)(A), 1e-8, 1e-10)
    with pytest.raises(mj.ConvergenceError, match="by the given solver"):
        mj.root(equation, START, TARGETS, solver=lambda f, x0, a: x0)
    with pytest.raises(mj.InputError, match="solver to return shape"):
        mj.root(equation, START, TARGETS, solver=lambda f, x0, a: x0[0])


def test_a_step_that_overshoots_is_halved():
    x = mj.root(lambda x, a: np.arctan(x) - a, np.full((2, 1), 20.0), np.array([[0.1], [0.0]]))
    np.testing.assert_allclose(x[:, 0], [np.tan(0.1), 0.0], atol=1e-12)


def test_a_double_root_converges_though_its_jacobian_vanishes():
    assert abs(mj.root(lambda x: x * x, np.ones((1, 1)))[0, 0]) < 1e-9


def test_samples_without_a_solution_are_named():
    squares = np.array([[-1.0], [1.0], [-4.0], [2.0]])
    with pytest.raises(
        mj.ConvergenceError, match=r"test_implicit\.py:\d+: 2 of 4 samples .*: 1 \(res.* 3 \(res"
    ) as error:
        mj.root(lambda x, a: x * x + a, np.ones((4, 1)), squares)
    assert isinstance(error.value, RuntimeError)
    with pytest.raises(mj.ConvergenceError):
        mj.root(lambda x: x * np.nan, np.ones((1, 1)))
    with pytest.raises(mj.ConvergenceError, match="1 Newton steps"):
        mj.root(equation, START, TARGETS, max_steps=1)


def test_an_equation_that_mixes_samples_is_refused():
    with pytest.raises(mj.BatchMixingError, match=r"test_implicit\.py"):
        mj.root(lambda x: x - 2 * x.mean(0) + 1, TARGETS)
    with pytest.raises(mj.BatchMixingError, match=r"test_implicit\.py"):
        mj.jacobian(lambda a: mj.root(lambda x, a: x - a.mean(0), START, a))(TARGETS)


@pytest.mark.parametrize("call, message", [
    (lambda: mj.root(equation, np.zeros((5, 3), int), TARGETS), "x0: expected floats"),
    (lambda: mj.root(equation, 0.0, TARGETS), "x0: expected floats"),
    (lambda: mj.root(lambda x: x[:, :2], START), "as many equations as unknowns"),
    (lambda: mj.root(equation, START, TARGETS, max_steps=0), "max_steps"),
    (lambda: mj.root(equation, START[:4], TARGETS), r"x0: expected .* \(4, 3\) beside .* \(5, 3\).* Start from"),
    (lambda: mj.fixed_point(equation, START[:4], TARGETS), r"fixed_point: x0: expected the samples"),
    (lambda: mj.root(lambda x: x - TARGETS, START[:4]), r"x0: expected .* got shape \(4, 3\): .* Start from"),
    (lambda: mj.jacobian(lambda a: mj.root(equation, START[:4], a))(TARGETS), "x0: expected the samples"),
    (lambda: mj.compile(lambda a: mj.root(equation, START[:4], a))(TARGETS), "x0: expected the samples"),
    (lambda: mj.root(equation, START[:4], TARGETS, solver=lambda f, x, a: x - f(x, a)), "x0: expected the samples"),
    (lambda: mj.root(3, START), "f: expected a function"),
    (lambda: mj.root(equation, START, TARGETS, solver=3), "solver: expected a function"),
    (lambda: mj.root(equation, START, TARGETS, rtol=-1.0), "rtol: expected a number"),
    (lambda: mj.root(equation, START, TARGETS, rtol="a"), "rtol: expected a number"),
])  # fmt: skip
def test_misuse_is_named(call, message):
    with pytest.raises(mj.InputError, match=message):
        call()


def test_compiled_it_may_start_from_what_differs_from_call_to_call():
    cube = lambda x, a: x**3 + x - a
    given = mj.compile(lambda start, a: mj.root(cube, start, a))
    computed = mj.compile(mj.jacobian(lambda a: mj.root(cube, 1.5 * a, a)))
    for scale in (1.0, 2.0):
        x = mj.root(cube, START, scale * TARGETS)
        np.testing.assert_allclose(given(scale * START, scale * TARGETS), x, 1e-10, 1e-12)
        slope = (1 / (3 * x**2 + 1))[:, :, None] * np.eye(3)
        np.testing.assert_allclose(computed(scale * TARGETS), slope, 1e-9, 1e-11)


def test_no_samples_give_no_solutions():
    assert mj.root(lambda x: x - 1, np.zeros((0, 3))).shape == (0, 3)


def test_hvp_is_the_hessian_times_tangents():
    loss = lambda x, y: (np.tanh(x @ A) ** 2 * y).sum()
    v, w = RNG.normal(size=(2, 5, 3))
    H = mj.hessian(loss, (0, 1), batch_axis=None)(TARGETS, v)
    one = np.einsum("ijkl,kl->ij", mj.hessian(lambda x: loss(x, v), batch_axis=None)(TARGETS), w)
    np.testing.assert_allclose(mj.hvp(lambda x: loss(x, v), (TARGETS,), (w,)), one, 1e-10, 1e-12)
    found = mj.hvp(loss, (TARGETS, v), (w, v))
    expected = [sum(np.einsum("ijkl,kl->ij", H[n][m], t) for m, t in enumerate((w, v))) for n in range(2)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-10, 1e-12)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_checkpointed_root_has_second_derivatives(compiled):
    """The steps at a solution are of values that the run of a checkpoint makes of its own."""
    x = np.linspace(0.1, 1.0, 6).reshape(3, 2)
    root = lambda a: mj.root(lambda y, a: y**3 + y - a, np.zeros((3, 2)), a)
    step = mj.checkpoint(lambda carry, _: (root(carry), None))
    pairs = [
        (mj.checkpoint(root), root),
        (lambda x: mj.checkpoint(lambda y: root(y * x))(x), lambda x: root(x * x)),
        (lambda x: mj.scan(step, x, None, length=2)[0], lambda x: root(root(x))),
    ]
    for f, plain in pairs:
        for transformation in (mj.hessian, lambda f: mj.jacobian(mj.jacobian(f, mode="reverse"), mode="reverse")):
            found = mj.compile(transformation(f)) if compiled else transformation(f)
            np.testing.assert_allclose(found(x), transformation(plain)(x), atol=1e-12)
        v = np.ones_like(x)
        product = mj.hvp(lambda x, f=f: f(x).sum(), (x,), (v,))
        expected = mj.hvp(lambda x, plain=plain: plain(x).sum(), (x,), (v,))
        np.testing.assert_allclose(product, expected, atol=1e-12)
