"""A structured Jacobian is the dense one as an operator: products, transpose, diagonal, sparse forms."""

from __future__ import annotations

import numpy as np
import pytest
from functions import branching, elementwise, layer_norm, shared, softmax, stencil, structured, to_scalar
from helpers import (
    HIDDEN,
    IN,
    MODES,
    W1,
    close,
    is_fresh_result,
    net,
    net_jacobian,
    pulled,
    pushed,
    random,
)

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)

# --- structured Jacobians -----------------------------------------------------------------------------------


@modes
@structured
def test_structured_jacobian_is_the_dense_one_as_an_operator(f, mode):
    x = random(3, IN)
    dense = mj.jacobian(f, mode=mode)(x)
    J = mj.jacobian(f, mode=mode, structured=True)(x)
    v, w = random(3, IN, seed=1), random(*f(x).shape, seed=2)
    assert J.shape == dense.shape
    close(J.todense(), dense)
    is_fresh_result(J.todense(), x, W1)
    close(J @ v, pushed(dense, v))
    close(J.T @ w, pulled(dense, w))
    close(np.vdot(J @ v, w), np.vdot(v, J.T @ w))


@structured
def test_transposed_operator(f):
    x = random(3, IN)
    J = mj.jacobian(f, structured=True)(x)
    dense = J.todense()
    transposed = np.moveaxis(dense, -1, 1)
    assert J.T.shape == transposed.shape
    close(J.T.todense(), transposed)
    close(J.T.T.todense(), dense)


@pytest.mark.parametrize("f", [elementwise, softmax, layer_norm, branching])
def test_diagonal_of_a_square_structured_jacobian(f):
    x = random(3, IN)
    J = mj.jacobian(f, structured=True)(x)
    close(J.diagonal(), np.einsum("bii->bi", mj.jacobian(f)(x)))


@structured
def test_sparse_sample_equals_the_dense_one(f):
    sparse = pytest.importorskip("scipy.sparse")
    x = random(3, IN)
    J = mj.jacobian(f, structured=True)(x)
    dense = mj.jacobian(f)(x)
    for i in range(3):
        one = J.tosparse(i)
        assert sparse.issparse(one)
        close(one.toarray(), dense[i].reshape(-1, IN))


def test_structure_is_not_densified_until_asked():
    x = random(50, 200)
    w = random(200, 200)
    diagonal = mj.jacobian(elementwise, structured=True)(x)
    common = mj.jacobian(lambda t: t @ w, structured=True)(x)
    bands = mj.jacobian(lambda t: t[:, 1:] * t[:, :-1], structured=True)(x)
    assert diagonal.nbytes <= 2 * x.nbytes
    assert common.nbytes <= 2 * w.nbytes
    assert bands.nbytes <= 4 * x.nbytes


def test_repr_names_the_structure():
    x = random(4, IN)
    assert "diagonal" in repr(mj.jacobian(elementwise, structured=True)(x)).lower()
    assert "shared" in repr(mj.jacobian(shared, structured=True)(x)).lower()
    assert "dense" in repr(mj.jacobian(to_scalar, structured=True)(x)).lower()
    bands = repr(mj.jacobian(stencil, structured=True)(x)).lower()
    assert "band" in bands
    assert "0" in bands
    assert "1" in bands


def test_structured_trees_hold_one_operator_per_leaf():
    x = {"a": random(4, 2), "b": random(4, 3)}
    J = mj.jacobian(lambda t: {"y": t["a"].sum(-1)[:, None] * t["b"]}, structured=True)(x)
    v = random(4, 2, seed=1)
    close(J["y"]["a"] @ v, v.sum(-1)[:, None] * x["b"])
    close(J["y"]["b"].todense(), x["a"].sum(-1)[:, None, None] * np.eye(3))


def test_structured_jacobian_without_a_batch():
    x = random(3)
    J = mj.jacobian(lambda t: np.sin(t) * t.sum(), batch_axis=None, structured=True)(x)
    dense = mj.jacobian(lambda t: np.sin(t) * t.sum(), batch_axis=None)(x)
    close(J.todense(), dense)
    close(J @ x, dense @ x)
    close(J.T @ x, dense.T @ x)


def test_structured_parameter_jacobian():
    x = random(4, IN)
    J = mj.jacobian(lambda w, t: np.tanh(t @ w), batch_axis=(None, 0), structured=True)(W1, x)
    dense = mj.jacobian(lambda w, t: np.tanh(t @ w), batch_axis=(None, 0))(W1, x)
    assert J.shape == (4, HIDDEN, IN, HIDDEN)
    close(J.todense(), dense)


def test_linearize_at_another_batch_axis():
    x = random(IN, 4)
    y, J = mj.linearize(lambda t: net(t.T), x, batch_axis=1)
    close(y, net(x.T))
    close(J.todense(), net_jacobian(x.T))


def test_a_structured_diagonal_leaves_the_coupling_out_of_products_too():
    def f(x):
        return (x - x.mean(0)) / x.std(0)

    x = random(3, 4, seed=7)
    J = mj.jacobian(f, on_mixing="diagonal", structured=True)(x)
    dense = mj.jacobian(f, on_mixing="diagonal")(x)
    np.testing.assert_allclose(J.todense(), dense, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(J @ x, np.einsum("bij,bj->bi", dense, x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(J.T @ x, np.einsum("bij,bi->bj", dense, x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose((J @ J).todense(), dense @ dense, rtol=1e-12, atol=1e-14)


def test_a_structured_jacobian_is_no_array():
    J = mj.jacobian(np.sin, structured=True)(random(3, 4, seed=7))
    with pytest.raises(mj.ConversionError, match="todense"):
        np.asarray(J)
    with pytest.raises(TypeError):
        random(3, 4, seed=7) @ J


@pytest.mark.parametrize("form", ["tosparse", "aslinearoperator"])
@pytest.mark.parametrize("way", [mj.jacobian, mj.compile, lambda f: mj.jacobian(mj.jacobian(f))])
def test_scipy_s_matrices_of_a_traced_jacobian_are_refused_rather_than_lose_its_derivative(form, way):
    pytest.importorskip("scipy.sparse")

    def f(x):
        getattr(mj.jacobian(np.sin, structured=True)(x), form)(0)
        return x

    with pytest.raises(mj.ConversionError, match=f"{form}.*test_operator.py"):
        way(f)(np.ones((2, 3)))


def test_a_sparse_matrix_of_a_jacobian_at_a_point_without_derivative_is_a_constant():
    pytest.importorskip("scipy.sparse")
    x = random(2, 3)

    def f(x):
        return x @ mj.jacobian(np.sin, structured=True)(mj.stop_gradient(x)).tosparse(0)

    close(mj.jacobian(f)(x), np.broadcast_to(np.diag(np.cos(x[0])), (2, 3, 3)))
