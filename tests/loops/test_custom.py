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


@pytest.mark.parametrize("make, message", [
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
