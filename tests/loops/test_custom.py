"""custom: a black box with its derivative given acts as the function written in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import pytest

import minijac as mj

RNG = np.random.default_rng(1)
X, Y, SHARED = RNG.normal(size=(4, 3)), RNG.normal(size=4), RNG.normal(size=3)


def written(x: Any, y: Any) -> Any:
    return np.sin(x) * y[:, None]


def black_box(x: Any, y: Any) -> Any:
    assert type(x) is type(y) is np.ndarray
    return written(x, y)


def jacobian(x: Any, y: Any) -> Any:
    return np.cos(x)[:, :, None] * np.eye(3) * y[:, None, None], np.sin(x)


def jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    return np.cos(x) * dx * y[:, None] + np.sin(x) * dy[:, None]


def vjp(primals: Any, w: Any) -> Any:
    x, y = primals
    return np.cos(x) * w * y[:, None], (np.sin(x) * w).sum(1)


GIVEN = {"jacobian": {"jacobian": jacobian}, "jvp": {"jvp": jvp}, "vjp": {"vjp": vjp}, "both": {"jvp": jvp, "vjp": vjp}}
given = pytest.mark.parametrize("options", GIVEN.values(), ids=GIVEN)


def around(f: Any) -> Any:
    return lambda x, y: np.tanh(f(x * x, y)) + x


def same(a: Any, b: Any) -> None:
    for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True):
        np.testing.assert_allclose(x, y, 1e-11, 1e-12)


@given
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_jacobians_are_the_written_functions(options, mode, argnums):
    f = around(mj.custom(black_box, **options))
    same(f(X, Y), around(written)(X, Y))
    same(mj.jacobian(f, argnums, mode=mode)(X, Y), mj.jacobian(around(written), argnums, mode=mode)(X, Y))


@given
def test_every_transformation_goes_through(options):
    f, g = around(mj.custom(black_box, **options)), around(written)
    for transformation in (mj.hessian, mj.laplacian, mj.hessian_diagonal, mj.divergence):
        same(transformation(f)(X, Y), transformation(g)(X, Y))
    for each in (mj.compile(mj.jacobian(f)), mj.compile(mj.hessian(f))):
        each(X, Y)
    same(mj.compile(mj.jacobian(f))(X, Y), mj.jacobian(g)(X, Y))
    same(mj.vjp(f, X, Y)[1](X), mj.vjp(g, X, Y)[1](X))
    same(mj.jvp(f, (X, Y), (X, Y)), mj.jvp(g, (X, Y), (X, Y)))
    compiled = mj.compile(mj.jacobian(f))
    for scale in (1.0, 2.0):
        same(compiled(scale * X, Y), mj.jacobian(g)(scale * X, Y))


def test_a_jacobian_that_is_a_black_box_too_has_no_second_derivative():
    def blind(x: Any, y: Any) -> Any:
        assert type(x) is np.ndarray
        return jacobian(x, y)

    f = mj.custom(black_box, jacobian=blind)
    compiled = mj.compile(mj.jacobian(f))
    for scale in (1.0, 2.0):
        same(compiled(scale * X, Y), mj.jacobian(written)(scale * X, Y))
    for second in (mj.hessian, mj.laplacian):
        with pytest.raises(mj.UnsupportedOperationError, match="second derivative of black_box"):
            second(f)(X, Y)


def test_a_jacobian_made_by_custom_gives_the_second_order():
    def blind(x: Any) -> Any:
        assert type(x) is np.ndarray
        return np.cos(x)[:, :, None] * np.eye(3)

    third = lambda x: -np.einsum("bi,ij,ik->bijk", np.sin(x), np.eye(3), np.eye(3))
    f = mj.custom(np.sin, jacobian=mj.custom(blind, jacobian=third))
    same(mj.hessian(f)(X), mj.hessian(np.sin)(X))


def test_an_argument_that_samples_share():
    f = mj.custom(
        lambda x, w: x * w, jacobian=lambda x, w: (w * np.eye(3) + 0 * x[:, :, None], x[:, :, None] * np.eye(3))
    )
    for argnums in (0, 1):
        options = {"argnums": argnums, "batch_axis": (0, None)}
        same(mj.jacobian(f, **options)(X, SHARED), mj.jacobian(lambda x, w: x * w, **options)(X, SHARED))


def centred(x: Any) -> Any:
    return x - x.mean(0)


MIXING = {
    "mean": (centred, lambda p, t: centred(t[0]), lambda p, w: centred(w)),
    "neighbours": (lambda x: np.roll(x, 1, 0), lambda p, t: np.roll(t[0], 1, 0), lambda p, w: np.roll(w, -1, 0)),
    "those before": (
        lambda x: np.cumsum(x, 0), lambda p, t: np.cumsum(t[0], 0), lambda p, w: np.cumsum(w[::-1], 0)[::-1]
    ),
    "those after": (
        lambda x: np.cumsum(x[::-1], 0)[::-1], lambda p, t: np.cumsum(t[0][::-1], 0)[::-1], lambda p, w: np.cumsum(w, 0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("given", ["jvp", "vjp", "both"])
@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("x", [X, X[:2]], ids=["several", "two"])
def test_samples_that_mix_in_what_is_given_are_noticed(name, given, x):
    f, forward, backward = MIXING[name]
    options = {"jvp": {"jvp": forward}, "vjp": {"vjp": backward}, "both": {"jvp": forward, "vjp": backward}}[given]
    g = mj.custom(f, **options)
    for call in (mj.jacobian(g), mj.compile(mj.jacobian(g)), mj.hessian(lambda x: np.sin(g(x)))):
        with pytest.raises(mj.BatchMixingError, match="custom"):
            call(x)
    loss = lambda f: lambda x: (np.sin(f(x)) ** 2).sum()
    same(mj.grad(loss(g))(x), mj.grad(loss(f))(x))
    same(mj.hvp(loss(g), (x,), (x,)), mj.hvp(loss(f), (x,), (x,)))
    for mode in ("forward", "reverse"):
        for option in ({"batch_axis": None}, {"on_mixing": "full"}, {"on_mixing": "diagonal"}):
            same(mj.jacobian(g, mode=mode, **option)(x), mj.jacobian(f, mode=mode, **option)(x))


@pytest.mark.parametrize("given", ["jvp", "vjp"])
def test_a_matrix_that_samples_share_may_have_as_many_rows_as_there_are_samples(given):
    W = RNG.normal(size=(4, 4))
    x = RNG.normal(size=(4, 4))
    f = lambda x, W: np.tanh(x @ W)
    forward = lambda p, t: (1 - f(*p) ** 2) * (t[0] @ p[1] + p[0] @ t[1])
    backward = lambda p, w: ((1 - f(*p) ** 2) * w @ p[1].T, p[0].T @ ((1 - f(*p) ** 2) * w))
    g = mj.custom(f, **{given: {"jvp": forward, "vjp": backward}[given]})
    for n in (0, 1):
        same(*(mj.jacobian(h, n, batch_axis=(0, None))(x, W) for h in (g, f)))


def test_the_question_whether_samples_mix_is_asked_once_for_shapes():
    asked = []
    f = mj.custom(np.sin, vjp=lambda p, w: asked.append(w.shape) or np.cos(p[0]) * w)
    counts = []
    for _ in range(3):
        asked.clear()
        same(mj.grad(lambda x: f(x).sum())(X), np.cos(X))
        counts.append(len(asked))
    assert counts == [5, 3, 3]  # a seed for each of three features, and two questions before


@pytest.mark.parametrize("make, message", [
    (lambda: mj.custom(lambda x: (x, x), jvp=jvp)(X), r"one array, \(B, \*out\), got a tuple of 2"),
    (lambda: mj.custom(lambda x: [1.0, 2.0], jvp=jvp)(X), "got a list of 2"),
    (lambda: mj.custom(lambda x: {"a": x}, jvp=jvp)(X), "got a dict of 1"),
    (lambda: mj.custom(lambda x: None, jvp=jvp)(X), "got NoneType"),
    (lambda: mj.custom(black_box, jvp=jvp)(X, y=Y), "black_box by position.*got y="),
    (lambda: mj.jacobian(lambda x: mj.custom(black_box, jvp=jvp)(x, y=Y))(X), "black_box by position.*got y="),
    (lambda: mj.custom(black_box), "none of them"),
    (lambda: mj.custom(3, jvp=jvp), "f: expected a function"),
    (lambda: mj.custom(black_box, jvp=3), "jvp: expected a function"),
    (lambda: mj.jacobian(mj.custom(np.sin, jacobian=np.cos))(X), r"\(4, 3, 3\), got \(4, 3\)"),
    (lambda: mj.jacobian(mj.custom(black_box, jacobian=lambda x, y: np.cos(x)))(X, Y), "one array for each of 2"),
    (lambda: mj.jacobian(mj.custom(np.sign, jacobian=np.cos))(X.astype(int) * 1.0)[0] and 0, r"\(4, 3, 3\)"),
    (lambda: mj.jacobian(mj.custom(np.sin, vjp=lambda p, t: None))(X), "vjp of sin to return shape .* got None"),
    (lambda: mj.jacobian(mj.custom(np.sin, jvp=lambda p, t: t[0][:2]))(X), "jvp of sin to return shape"),
    (lambda: mj.jacobian(mj.custom(lambda x: x > 0, jacobian=np.cos))(X), "an array of floats"),
])  # fmt: skip
def test_misuse_is_named(make, message):
    with pytest.raises(mj.InputError, match=message):
        make()


@pytest.mark.parametrize("given", ["jvp", "vjp"])
@pytest.mark.parametrize("shape", [(4, 0), (0, 0), (0, 3), (4, 0, 2)])
def test_no_samples_and_no_features_give_empty_jacobians(given, shape):
    rule = {"jvp": lambda p, t: np.cos(p[0]) * t[0], "vjp": lambda p, t: np.cos(p[0]) * t}[given]
    assert mj.jacobian(mj.custom(np.sin, **{given: rule}))(np.zeros(shape)).shape == (*shape, *shape[1:])


class Solver:
    """Keeps what the solution needs for the derivative, as solvers keep a factor."""

    def solve(self, a: Any) -> Any:
        self.root = np.sqrt(a)
        return self.root

    def slope(self, a: Any) -> Any:
        assert type(self.root) is type(a) is np.ndarray
        return (0.5 / self.root)[:, :, None] * np.eye(a.shape[1])


@pytest.mark.parametrize("compiled", [False, True])
def test_derivatives_are_of_what_the_function_kept_in_the_same_call(compiled: bool) -> None:
    solver = Solver()
    J = mj.jacobian(mj.custom(solver.solve, jacobian=solver.slope))
    J = mj.compile(J) if compiled else J
    for n in range(5):
        a = np.full((2, 3), 1.0 + n)
        np.testing.assert_allclose(J(a), np.broadcast_to(0.5 / np.sqrt(1.0 + n) * np.eye(3), (2, 3, 3)))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("given", ["jacobian", "jvp", "vjp"])
def test_what_derivatives_capture_is_read_in_every_call(given: str, compiled: bool) -> None:
    """Once, in a loop, in a scan and in second order."""
    k = 1.0
    derivatives = {
        "jacobian": lambda x: (2 * k * x)[:, :, None] * np.eye(2),
        "jvp": lambda primals, tangents: 2 * k * primals[0] * tangents[0],
        "vjp": lambda primals, cotangent: 2 * k * primals[0] * cotangent,
    }
    h = mj.custom(lambda x: k * x * x, **{given: derivatives[given]})

    def looped(x: Any) -> Any:
        for _ in range(200):
            x = h(x)
        return x.sum()

    scanned = lambda x: mj.scan(lambda c, _: (h(c), None), x, None, 20)[0]
    calls = [mj.jacobian(h), mj.grad(looped), mj.jacobian(scanned), mj.hessian(lambda x: h(x).sum(1))]
    calls = [mj.compile(call) for call in calls] if compiled else calls
    for n in range(4):
        k, x = 1.0 + n * 1e-3, np.full((1, 2), 1.0)
        first, loop, scan, second = (np.ravel(call(x))[0] for call in calls)
        np.testing.assert_allclose((first, second), (2 * k, 2 * k))
        for found, count in ((loop, 200), (scan, 20)):
            logs = [np.log(2 * k)]  # of the slopes 2 k x_i, where x_i = k x_{i-1}^2
            value = 0.0
            for _ in range(count - 1):
                value = np.log(k) + 2 * value
                logs.append(np.log(2 * k) + value)
            if abs(value) < 600 and sum(logs) < 600:
                np.testing.assert_allclose(found, np.exp(sum(logs)), rtol=1e-8)
