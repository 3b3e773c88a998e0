"""Cases that were wrong once and fit no other file: writes to captured arrays, replay, samples that are none."""

import pickle

import numpy as np
import pytest

import minijac as mj

X = np.random.default_rng(0).normal(size=(3, 4))


def test_a_scratch_buffer_may_be_used_again():
    def f(x):
        factor = np.empty(2)
        for value in (2.0, 3.0):
            factor[:] = value
            x = x * factor
        return x

    for mode in ("forward", "reverse", "mixed"):
        np.testing.assert_array_equal(mj.jacobian(f, mode=mode)(np.ones((1, 2)))[0], 6.0 * np.eye(2))

    def masked(x):
        mask = np.empty(2, bool)
        for k in range(2):
            mask[:] = np.arange(2) == k
            x = np.where(mask, x * (12.0 if k else 3.0), x)
        return x

    np.testing.assert_array_equal(mj.jacobian(masked)(np.ones((1, 2)))[0], np.diag([3.0, 12.0]))


def test_a_large_captured_array_written_after_its_use_raises():
    weights = np.ones(20_000)

    def f(x):
        y = x * weights
        weights[7] = 5.0
        return y.sum(1)

    with pytest.raises(mj.MutationError, match=r"shape \(20000,\), used at .*test_regressions.py:\d+, was written"):
        mj.jacobian(f)(np.ones((1, 20_000)))


def test_a_pullback_and_a_structured_jacobian_outlive_writes():
    x = X.copy()
    _, pullback = mj.vjp(lambda x: x * np.sin(x), x)
    expected = pullback(np.ones((3, 4)))[0]
    x += 1.0
    np.testing.assert_array_equal(pullback(np.ones((3, 4)))[0], expected)
    weights, y = np.ones((4, 2)), X.copy()
    J = mj.linearize(lambda x: (x * x) @ weights, y)[1]
    dense = J.todense()
    weights[:] = 0.0
    y[:] = 0.0
    np.testing.assert_array_equal(J.todense(), dense)


def test_a_structured_diagonal_leaves_the_coupling_out_of_products_too():
    def f(x):
        return (x - x.mean(0)) / x.std(0)

    J = mj.jacobian(f, on_mixing="diagonal", structured=True)(X)
    dense = mj.jacobian(f, on_mixing="diagonal")(X)
    np.testing.assert_allclose(J.todense(), dense, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(J @ X, np.einsum("bij,bj->bi", dense, X), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(J.T @ X, np.einsum("bij,bi->bj", dense, X), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose((J @ J).todense(), dense @ dense, rtol=1e-12, atol=1e-14)


def test_replay_tells_zero_from_minus_zero_and_returns_arrays():
    found = [mj.jacobian(lambda x, c=c: np.copysign(x, c) * x)(np.ones((1, 1))) for c in (0.0, 0.0, 0.0, -0.0, -0.0)]
    assert [float(J[0, 0, 0]) for J in found] == [2.0, 2.0, 2.0, -2.0, -2.0]
    for _ in range(3):
        assert type(mj.jacobian(np.sin, batch_axis=None)(np.float64(0.3))) is np.ndarray


def test_replay_follows_data_and_constants():
    weights = X.copy()
    for n in range(6):
        x = X + n
        weights[:] = X * n
        scale = float(n % 3)
        J = mj.jacobian(lambda x, s=scale: np.sin(x * weights) * s)(x)
        np.testing.assert_allclose(np.diagonal(J, axis1=1, axis2=2), scale * weights * np.cos(x * weights), atol=1e-14)


def test_pickling_a_traced_value_raises():
    with pytest.raises(mj.ConversionError, match="pickling"):
        mj.jacobian(lambda x: pickle.loads(pickle.dumps(x)) * 2.0)(X)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.reshape(len(x), 2, 2) * 2.0,
        lambda x: np.median(x, axis=1),
        lambda x: (x.reshape(-1, 2) @ np.ones((2, 3))).reshape(len(x), 6),
    ],
)
def test_no_samples_mix_with_none(f):
    assert mj.jacobian(f)(X[:0]).shape == (0, *f(X).shape[1:], 4)


def test_python_zero_as_a_divisor_is_numpys():
    with np.errstate(divide="ignore"):
        assert mj.jacobian(lambda x: x / 0.0)(X)[0, 0, 0] in (np.inf, -np.inf)


def test_compile_keeps_the_sign_of_zero():
    g = mj.compile(lambda x: 1.0 / (x + 0.0))
    for _ in range(2):
        assert g(np.array([-0.0]))[0] == np.inf


@pytest.mark.parametrize(
    "branch",
    [
        lambda y: y.max(1, keepdims=True),
        lambda y: np.einsum("bi,bi->b", y, y)[:, None],
        lambda y: np.linalg.norm(y, axis=1, ord=np.inf)[:, None],
        lambda y: (y @ y.swapaxes(0, 1) if y.shape[0] == 1 else y) * 1.0,
    ],
)
def test_a_dead_branch_with_data_of_its_own_spoils_nothing(branch):
    x = -np.ones((1, 2))

    def f(x):
        return np.where(x > 9.0, branch(np.log(x)), x)

    with np.errstate(invalid="ignore"):
        for mode in ("forward", "reverse", "mixed"):
            np.testing.assert_array_equal(mj.jacobian(f, mode=mode, batch_axis=None)(x).reshape(2, 2), np.eye(2))
        assert not mj.hessian(f, batch_axis=None)(x).any()


def test_a_structured_jacobian_is_no_array():
    J = mj.jacobian(np.sin, structured=True)(X)
    with pytest.raises(mj.ConversionError, match="todense"):
        np.asarray(J)
    with pytest.raises(TypeError):
        X @ J


def test_a_hessian_takes_no_structured():
    with pytest.raises(mj.InputError, match="structured"):
        mj.hessian(np.sin, structured=True)
    with pytest.raises(mj.InputError, match="max_bytes"):
        mj.laplacian(np.sin, max_bytes=10)


def test_an_error_inside_another_package_names_the_users_line():
    special = pytest.importorskip("scipy.special")
    with pytest.raises(mj.MinijacError, match=r"test_regressions\.py:\d+"):
        mj.jacobian(lambda x: special.softmax(x, axis=1))(X)


def test_second_derivatives_are_not_rounded_to_single_precision():
    """A scale met data of ones that was made in single precision."""

    def f(x):
        y = np.cumsum(x[:, ::-1], axis=1)
        return np.einsum("bi,bj->bij", x, -y) * 1.7905963

    whole = mj.hessian(f)(X)
    np.testing.assert_allclose(mj.hessian_diagonal(f)(X), np.diagonal(whole, axis1=-2, axis2=-1), rtol=1e-13)
    np.testing.assert_allclose(mj.laplacian(f)(X), np.trace(whole, axis1=-2, axis2=-1), rtol=1e-13)


def test_softplus_at_infinity():
    x = np.array([[-np.inf, 0.0, np.inf]])
    expected = [[0.0, np.log(2.0), np.inf]]
    np.testing.assert_allclose(mj.nn.softplus(x), expected)
    np.testing.assert_allclose(mj.compile(mj.nn.softplus)(x), expected)
