"""Values of a recording that are not computed: arrays stand for them, whose numbers nobody may rely on."""

import tracemalloc

import numpy as np
import pytest
from registry import CASES

import minijac as mj
import minijac.scipy.linalg
from minijac.ops import REGISTRY
from minijac.ops.families import Elementwise, Multilinear
from minijac.program import standing

RNG = np.random.default_rng(0)


def peak(f, x):
    tracemalloc.start()
    try:
        result = f(x)
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


WEIGHTS = [(RNG.standard_normal((256, 256)) / 16).astype(np.float32) for _ in range(3)]


def network(x):
    for w in WEIGHTS:
        x = np.tanh(x @ w)
    return x


@pytest.mark.parametrize(
    "transformed",
    [
        mj.divergence(network),
        mj.hessian_diagonal(network),
        mj.laplacian(lambda x: mj.special.logsumexp(network(x), axis=1)),
        lambda x: mj.jacobian(network, structured=True)(x).diagonal(),
    ],
    ids=["divergence", "hessian_diagonal", "laplacian", "structured diagonal"],
)
def test_the_first_call_holds_no_more_than_an_eager_one(transformed):
    x = RNG.standard_normal((64, 256)).astype(np.float32)
    transformed(x[:2])
    expected, eager = peak(transformed, x)
    found, first = peak(mj.compile(transformed), x)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    assert first < eager


def after_a_loop(x):
    return mj.scan(lambda c, _: (c * 1.1, None), x, length=20)[0]


def inverses(x):
    c = after_a_loop(x)
    for _ in range(3):
        c = np.linalg.inv(c) * 1.1
    return c


def inverses_in_a_loop(x):
    return mj.scan(lambda c, _: (np.linalg.inv(c) * 1.1, None), after_a_loop(x), length=20)[0]


def square_root(x):
    c = after_a_loop(x)
    return np.linalg.cholesky(c @ np.swapaxes(c, -1, -2))


@pytest.mark.parametrize("f", [inverses, inverses_in_a_loop, square_root])
@pytest.mark.parametrize("transform", [lambda f: f, mj.jacobian, mj.hessian_diagonal])
def test_what_fails_on_the_numbers_that_stand_for_a_loops_results_is_computed(f, transform):
    x = RNG.standard_normal((2, 3, 3)) + 3 * np.eye(3)
    np.testing.assert_allclose(mj.compile(transform(f))(x), transform(f)(x), rtol=1e-9, atol=1e-9)


def test_what_fails_on_large_values_that_were_not_computed_is_computed(monkeypatch):
    monkeypatch.setattr(standing, "LARGE", 16)
    x = RNG.standard_normal((4, 3, 3)) + 3 * np.eye(3)

    def f(x):
        y = np.tanh(np.linalg.inv(np.exp(x) @ x + 9 * np.eye(3)))
        return np.linalg.solve(y * 2 + np.eye(3), y)

    for g in (f, mj.jacobian(f), mj.laplacian(lambda x: f(x).sum((1, 2)))):
        np.testing.assert_allclose(mj.compile(g)(x), g(x), rtol=1e-9, atol=1e-9)


def test_an_error_of_the_true_numbers_is_raised_once_they_are_known():
    with pytest.raises(np.linalg.LinAlgError, match="Singular"):
        mj.compile(lambda x: np.linalg.inv(after_a_loop(x)))(np.ones((2, 3, 3)))


@pytest.mark.parametrize("turned", [False, True], ids=["in order", "turned"])
@pytest.mark.parametrize("case", [c for c in CASES if isinstance(REGISTRY[c.name], Elementwise | Multilinear)], ids=str)
def test_an_outline_is_like_the_result_in_shape_dtype_and_memory(case, turned, monkeypatch):
    monkeypatch.setattr(standing, "LARGE", 1)
    args = [np.asarray(x) for x in case.operands()]
    args = [np.ascontiguousarray(x.T).T if turned else x for x in args]
    real = np.asarray(REGISTRY[case.name].value(*args, **case.sample.params))
    found = standing._outline(REGISTRY[case.name], args, case.sample.params)
    if found is None:
        assert case.name not in ("add", "exp", "matmul", "multiply", "tanh", "where")
        return
    along = [k for k, n in enumerate(real.shape) if n > 1]
    assert (found.shape, found.dtype) == (real.shape, real.dtype)
    assert [found.strides[k] for k in along] == [real.strides[k] for k in along]


def test_an_outline_of_what_a_reshape_copies_shares_no_memory(monkeypatch):
    monkeypatch.setattr(standing, "LARGE", 1)
    reshape, x = REGISTRY["reshape"], np.ones((3, 4))
    assert standing._outline(reshape, [x], {"shape": (12,)}) is None  # a view
    found = standing._outline(reshape, [x.T], {"shape": (-1,)})
    assert found.shape == (12,) and found.flags.c_contiguous and not np.shares_memory(found, x)


def test_large_operands_that_do_not_fit_are_told_as_small_ones_are():
    for n in (3, 1200):
        x, y = np.ones((n, 600)), np.ones((500, 900))
        with pytest.raises(ValueError, match="mismatch in its core dimension 0"):
            mj.compile(lambda x, y=y: (x * 2) @ y)(x)
        with pytest.raises(ValueError, match="operands could not be broadcast together"):
            mj.compile(lambda x: (x * 2) * x[:, 1:])(x)


def test_what_stands_for_numbers_gives_no_warning(recwarn):
    f = lambda x: mj.scipy.linalg.logm(after_a_loop(x))
    x = np.random.default_rng(0).uniform(0.1, 0.5, (2, 2, 2))
    np.testing.assert_allclose(mj.compile(f)(x), f(x))
    assert not recwarn.list
