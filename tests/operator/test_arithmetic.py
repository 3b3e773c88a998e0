"""Arithmetic of structured Jacobians, that of the dense arrays with the structure kept; samples, sparse, pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

import minijac as mj

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5))
W = RNG.normal(size=(5, 5))
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "diagonal": np.sin,
    "dense": lambda x: np.tanh(x @ W),
    "banded": lambda x: x * np.roll(x, 1, axis=1) + x**2,
    "shared": lambda x: x @ W,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    "shifted": lambda x: np.concatenate([x[:, 1:] ** 2, x[:, :1]], 1),
    "zero": lambda x: 0 * mj.stop_gradient(x),
}


def structured(name: str) -> Any:
    return mj.jacobian(FUNCTIONS[name], structured=True)(X)


def dense(name: str) -> Any:
    return mj.jacobian(FUNCTIONS[name])(X)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_and_arrays_act_as_on_the_dense_array(name: str) -> None:
    J, D = structured(name), dense(name)
    A, C = RNG.normal(size=(5, 5)), RNG.normal(size=(4, 1, 5))
    for got, want in [
        (2.5 * J, 2.5 * D), (J * 2, 2 * D), (J * np.float64(3), 3 * D), (-J, -D), (J / 4, D / 4), (J + 1.5, D + 1.5),
        (1.5 - J, 1.5 - D), (J - A, D - A), (A - J, A - D), (J * A, D * A), (C * J, C * D), (C + J, C + D),
        (J.eye() - 0.1 * J, np.eye(5) - 0.1 * D), (J * np.complex128(2j), D * 2j), (J / np.complex128(2j), D / 2j),
        (J / 2j, D / 2j), (J / A, D / A),
    ]:  # fmt: skip
        assert_allclose(got.todense(), want, atol=1e-13)


def test_entries_by_zero_are_infinite_as_of_the_dense_array() -> None:
    with np.errstate(divide="ignore"):
        for zero in (0, 0.0, np.float64(0)):
            assert_allclose((structured("shared") / zero).todense(), dense("shared") / zero)


def test_a_product_of_jacobians_has_samples_where_both_have_them() -> None:
    f, b = lambda b, x: np.tanh(x * b), RNG.normal(size=5)
    J = mj.jacobian(lambda x: np.sin(x @ W), structured=True)(f(b, X))
    by_parameters, by_samples = (mj.jacobian(f, k, batch_axis=(None, 0), structured=True)(b, X) for k in (0, 1))
    for K in (by_parameters, by_samples):
        product = J @ K
        assert_allclose(product.todense(), J.todense() @ K.todense(), atol=1e-13)
        assert_allclose((K.T @ J.T).todense() if K is by_samples else (K.T @ J.T).todense().transpose(1, 0, 2),
                        (J.todense() @ K.todense()).transpose(0, 2, 1), atol=1e-13)  # fmt: skip
    assert_allclose((J @ by_samples)[1].todense(), (J.todense() @ by_samples.todense())[1], atol=1e-13)
    with pytest.raises(mj.InputError, match="with samples"):
        (J @ by_parameters)[0]


@pytest.mark.parametrize("left", FUNCTIONS)
@pytest.mark.parametrize("right", FUNCTIONS)
def test_sums_and_products_by_entries_act_as_on_the_dense_arrays(left: str, right: str) -> None:
    J, K, D, E = structured(left), structured(right), dense(left), dense(right)
    assert_allclose((J + K).todense(), D + E, atol=1e-13)
    assert_allclose((J - K).todense(), D - E, atol=1e-13)
    assert_allclose((J * K).todense(), D * E, atol=1e-13)


def test_structure_is_kept() -> None:
    J = structured("banded")
    assert "banded (offsets -1, 0, +4)" in repr(J.eye() - 0.1 * J)
    assert "banded (offsets -1, 0, +4)" in repr(structured("dense") * J)
    assert (structured("diagonal") + J.eye()).nbytes == structured("diagonal").nbytes


def test_single_precision_stays_single_beside_numbers() -> None:
    J = mj.jacobian(np.sin, structured=True)(X.astype(np.float32))
    assert (0.5 * J + 1.0 - J.eye()).dtype == np.float32
    assert (J * np.float64(2)).dtype == np.float64


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "zero"])
def test_several_right_hand_sides_are_as_many_single_ones(name: str) -> None:
    M = RNG.normal(size=(4, 5, 3))
    J = 3.0 * structured(name).eye() - 0.1 * structured(name)
    D = 3.0 * np.eye(5) - 0.1 * dense(name)
    assert_allclose(J @ M, D @ M, atol=1e-12)
    assert_allclose(J.T @ M, D.swapaxes(1, 2) @ M, atol=1e-12)
    assert_allclose(J.solve(M), np.linalg.solve(D, M), atol=1e-12)
    assert_allclose(J.solve(M[..., 0]), np.linalg.solve(D, M)[..., 0], atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_sample_is_a_matrix_of_its_own(name: str) -> None:
    J, D = structured(name), dense(name)
    for i in (0, 2, -1):
        assert J[i].shape == (5, 5)
        for got in (J[i].todense(), J[i].tosparse().toarray(), J.tosparse(i).toarray()):
            assert_allclose(got, D[i], atol=1e-13)
        operator = J.aslinearoperator(i)
        assert_allclose(operator @ X[i], D[i] @ X[i], atol=1e-13)
        assert_allclose(operator @ X.T, D[i] @ X.T, atol=1e-13)
        assert_allclose(operator.H @ X[i], D[i].T @ X[i], atol=1e-13)
    for some in (slice(1, 3), slice(None, None, -1), slice(2, 2), slice(0, 1), slice(0, 4, 2)):
        assert_allclose(J[some].todense(), D[some], atol=1e-13)
    assert_allclose(J.tosparse().toarray(), scipy.linalg.block_diag(*D), atol=1e-13)


def test_the_adjoint_of_a_complex_matrix_is_conjugated() -> None:
    J = mj.jacobian(lambda x: np.fft.fft(x, axis=1), structured=True)(X)
    A, D, v = J.aslinearoperator(1), J.todense()[1], X[0] + 1j * X[1]
    for got, want in [(A @ v, D @ v), (A.H @ v, D.conj().T @ v), (A.T @ v, D.T @ v), (A.H @ X.T, D.conj().T @ X.T)]:
        assert_allclose(got, want, atol=1e-13)


def test_without_samples_the_whole_is_one_matrix() -> None:
    f = lambda x: x * x[:, ::-1]
    J = mj.jacobian(f, batch_axis=None, structured=True)(X)
    assert_allclose(J.tosparse().toarray(), mj.jacobian(f, batch_axis=None)(X).reshape(20, 20))
    assert J.tosparse().nnz == 36  # the two diagonals meet in the middle column
    assert_allclose(J.aslinearoperator() @ X.ravel(), J.tosparse() @ X.ravel())
    pytest.importorskip("matplotlib").use("Agg")
    assert J.spy().get_xlabel() == "input"


def test_a_page_shows_the_structure_and_a_picture() -> None:
    page = structured("banded")._repr_html_()
    assert "banded (offsets -1, 0, +4)" in page and page.count("<rect") == 10
    long = mj.jacobian(np.sin, structured=True)(np.zeros((1, 10_000)))._repr_html_()
    assert "diagonal" in long and long.count("<rect") == 40
    large = mj.jacobian(lambda x: x @ np.ones((1001, 1001)), structured=True)(np.zeros((1, 1001)))._repr_html_()
    assert "dense" in large and "<svg" not in large


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda J: J + J[:2], "one shape"),
        (lambda J: J * np.ones((3, 5)), "broadcasts to"),
        (lambda J: J + "1", "a number or an array, got str"),
        (lambda J: J[4], "within the 4"),
        (lambda J: J["a"], "within the 4"),
        (lambda J: J[0][0], "with samples"),
        (lambda J: J[True], "a sample within the 4"),
        (lambda J: J / [1.0, 2.0], "a number or an array, got list"),
        (lambda J: J @ np.ones((4, 5, 2, 2)), "one more axis for several"),
        (lambda J: J.solve(np.ones((4, 3))), "one more axis for several"),
        (lambda J: mj.jacobian(lambda x: x[:, :2], structured=True)(X).eye(), "of one shape"),
    ],
)
def test_what_does_not_fit_says_what_was_expected(make: Any, message: str) -> None:
    with pytest.raises(mj.InputError, match=message):
        make(structured("banded"))
