"""The Hessian as a sum over the operations that bend: equal to the Jacobian of the Jacobian, and chosen where less."""

import warnings

import numpy as np
import pytest
from helpers import random
from registry import SMOOTH, cases

import minijac as mj
from minijac.arguments import flatten
from minijac.ops import REGISTRY
from minijac.ops.families import Elementwise, Multilinear
from minijac.transforms import hessians

W1, W2, W3 = random(5, 7, seed=1), random(7, 7, seed=2), random(7, 2, seed=3)
X = random(4, 5, seed=4)


@pytest.fixture
def summed(monkeypatch):
    """Sums it wherever that can be done, and lists the outputs of which it did."""
    found, summed = [], hessians._summed
    monkeypatch.setattr(hessians, "_is_less", lambda ready: True)
    monkeypatch.setattr(hessians, "_summed", lambda ready: (found.append(ready.outputs), summed(ready))[1])
    return found


def both(f, argnums=0, **options):
    """The Hessian, and the Jacobian of the Jacobian."""
    within = {name: value for name, value in options.items() if name != "on_mixing"}
    return mj.hessian(f, argnums, **options), mj.jacobian(mj.jacobian(f, argnums, **within), argnums, **within)


def assert_equal(found, expected, rtol=1e-10):
    found, expected = (flatten(tree)[0] for tree in (found, expected))
    assert [J.shape for J in found] == [J.shape for J in expected]
    for H, J in zip(found, expected, strict=True):
        assert H.dtype == J.dtype and H.flags.c_contiguous and H.flags.writeable
        np.testing.assert_allclose(H, J, rtol=rtol, atol=rtol * 10)


def of_points(x, t):
    h = np.tanh(x @ W1 + t[:, None])
    return {"u": (np.sin(h @ W2) * h) @ W3, "v": (h * h).sum(1) * t, "t": t, "c": 2.0 * x}


FUNCTIONS = {
    "network": lambda x: np.tanh(np.tanh(x @ W1) @ W2) @ W3,
    "of one output": lambda x: np.exp(np.sin(x @ W1) @ W2).sum(1),
    "products": lambda x: x[:, :-1] * np.sin(x[:, 1:]) * x[:, 1:],
    "of itself": lambda x: np.einsum("bi,bj->bij", x, x),
    "matrices": lambda x: np.matmul(x[:, :4].reshape(-1, 2, 2), np.cos(x[:, 1:]).reshape(-1, 2, 2)),
    "linear": lambda x: x @ W1,
    "itself": lambda x: x,
    "constant": lambda x: np.ones((len(x), 2)),
    "dead entries": lambda x: np.where(x > 0, np.log(np.where(x > 0, x, -1.0)), x**3),
    "chosen": lambda x: np.maximum(np.sort(x**2, axis=1)[:, 1:], 0.5),
    "length": lambda x: np.linalg.norm(x * [1.0, 0.0, 0.0, 0.0, 0.0], axis=1) ** 2,
    "complex inside": lambda x: np.abs(np.exp(1j * x) * x).real,
    "by linear algebra": lambda x: np.linalg.det(np.eye(2) + x[:, :4].reshape(-1, 2, 2)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sum_equals_the_jacobian_of_the_jacobian(name, dtype, summed):
    H, J = both(FUNCTIONS[name])
    x = X.astype(dtype)
    rtol = 1e-10 if dtype is np.float64 else 2e-4
    with np.errstate(invalid="ignore"):
        expected = J(x)
        assert_equal(H(x), expected, rtol)
        assert_equal(mj.compile(H)(x), expected, rtol)
    assert len(summed) == (0 if name in ("complex inside", "by linear algebra", "constant") else 2)


WITH_FORMS = [
    case for case in SMOOTH if case.differentiable and isinstance(REGISTRY[case.name], Elementwise | Multilinear)
]


@cases(WITH_FORMS)
def test_sum_of_every_operation(case, summed):
    operands, options = case.operands(), {"argnums": tuple(case.differentiable), "batch_axis": case.batch_axis}
    squared = lambda *operands: (y := case(*operands)) + 0.5 * y * y
    H, J = (mj.hessian(squared, mode=mode, **options)(*operands) for mode in ("auto", "forward"))
    assert_equal(H, J, 1e-9)
    assert len(summed) == 1


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0)])
def test_sum_of_several_arguments_and_trees(argnums, summed):
    H, J = both(of_points, argnums)
    t = random(4, seed=5)
    assert_equal(H(X, t), J(X, t))
    tree = lambda d: of_points(d["x"] * d["x"], d["t"])
    H, J = both(tree)
    assert_equal(mj.compile(H)({"x": X, "t": t}), J({"x": X, "t": t}))
    assert len(summed) == 2


def test_sum_where_parameters_are_shared_and_samples_elsewhere(summed):
    f = lambda w, x: (np.tanh(w @ x) ** 2).sum(0)
    for argnums in (0, 1, (0, 1)):
        H, J = both(f, argnums, batch_axis=(None, 1))
        assert_equal(H(W1.T, X.T), J(W1.T, X.T))
    H, J = both(lambda x: np.tanh(W1 @ x[:7]) @ x[:5], batch_axis=None)
    assert_equal(H(random(7, seed=6)), J(random(7, seed=6)))
    assert len(summed) == 4


def test_sum_is_differentiated_again_and_nests(summed):
    f = FUNCTIONS["of one output"]
    H, J = both(f)
    assert_equal(mj.jacobian(H)(X), mj.jacobian(J)(X))
    assert_equal(mj.compile(mj.grad(lambda x: (H(x) ** 2).sum()))(X), mj.grad(lambda x: (J(x) ** 2).sum())(X))
    assert_equal(mj.vmap(lambda x: mj.hessian(lambda y: f(y[None])[0], batch_axis=None)(x))(X), J(X))
    assert len(summed) == 3


def test_function_runs_once_and_gives_value_and_more(summed):
    runs = []

    def f(x):
        runs.append(len(runs))
        return np.sin(x @ W1) @ W3, x.sum()

    (y, aux), H = mj.value_and_hessian(f, has_aux=True)(X)
    assert runs == [0] and len(summed) == 1
    assert aux == X.sum() and type(y) is np.ndarray
    np.testing.assert_array_equal(y, np.sin(X @ W1) @ W3)
    assert_equal(H, both(lambda x: f(x)[0])[1](X))


def test_what_is_less_is_chosen(monkeypatch):
    """Products of 10 by 10 for each neuron are less than 10 passes back through 64 by 64; 200 by 200 are not."""
    found, summed = [], hessians._summed
    monkeypatch.setattr(hessians, "_summed", lambda ready: (found.append(ready), summed(ready))[1])
    for features, expected in ((10, 1), (200, 0)):
        weights = random(features, 64), random(64, 64), random(64, seed=1)
        f = lambda x, w=weights: np.tanh(np.tanh(x @ w[0] + w[2]) @ w[1] + w[2]) @ w[2]
        x = random(32, features, seed=2)
        mj.compile(mj.hessian(f))(x)
        assert len(found) == expected
        found.clear()
        mj.compile(mj.hessian(f, mode="reverse"))(x)
        assert not found


def test_choice_warns_of_nothing():
    """The derivatives that it looks at may be infinite, as those that are taken then."""
    f = lambda x: np.where(x > 0, np.sqrt(np.maximum(x, 0.0)) * x, x**2)
    with warnings.catch_warnings(action="error"):
        H = mj.compile(mj.hessian(f))(X)
    assert_equal(H, mj.hessian(f)(X))


def test_mixing_and_options_are_as_ever(summed):
    coupled = lambda x: np.tanh(x - x.mean(0))
    with pytest.raises(mj.BatchMixingError):
        mj.hessian(coupled)(X)
    H, J = (mj.hessian(coupled, on_mixing="diagonal"), mj.hessian(coupled, on_mixing="diagonal", mode="reverse"))
    assert_equal(H(X), J(X))
    f = FUNCTIONS["network"]
    expected = mj.hessian(f, mode="forward")(X)
    for options in ({"chunk_size": 2}, {"max_bytes": 2**20}, {"mode": "mixed"}):
        assert_equal(mj.hessian(f, **options)(X), expected)
    assert_equal(mj.hessian(f, structured=True)(X).todense(), expected)
    assert not summed
