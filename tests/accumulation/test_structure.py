"""Structure survives: what has no data allocates none, what is diagonal stays diagonal, what is shared stays shared."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import close, random
from inspection import (
    FUNCTIONS,
    data_labels,
    offsets,
    peak_bytes,
    softmax,
    softmax_without_shift,
    stored,
    structured,
    terms,
)

import minijac as mj
from minijac.algebra import block
from minijac.algebra.labels import Label

modes = pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
both_ends = pytest.mark.parametrize("mode", ["forward", "reverse"])


# --- elementwise ----------------------------------------------------------------------------------------------


@modes
def test_an_elementwise_function_is_one_diagonal(mode):
    x = random(64, 256)
    J = structured(np.sin, x, mode)
    (term,) = terms(J)
    (b,), (i,) = term.out
    assert term.out == term.inp
    assert type(b) is type(i) is Label
    (factor,) = term.factors
    assert factor.axes == (b, i)
    close(factor.array, np.cos(x))
    assert J.nbytes == x.nbytes


@modes
def test_a_structured_elementwise_jacobian_makes_no_dense_array(mode):
    x = random(64, 256)
    # copies of x and of the value among them; the dense array has 256 times their bytes
    assert peak_bytes(lambda: structured(np.sin, x, mode)) < 5 * x.nbytes


@modes
def test_a_dense_elementwise_jacobian_makes_no_second_dense_array(mode):
    x = random(16, 64)
    assert peak_bytes(lambda: mj.jacobian(np.sin, mode=mode)(x)) < 1.5 * 64 * x.nbytes


@modes
def test_a_chain_of_elementwise_functions_is_still_one_array(mode):
    J = structured(lambda x: np.exp(np.sin(x) * 2.0) / (1.0 + x * x), random(4, 8), mode)
    (term,) = terms(J)
    assert stored(term) == [(4, 8)]


@modes
def test_numbers_make_no_data(mode):
    J = structured(lambda x: -(2.0 * x + 1.0) / 4.0, random(4, 8), mode)
    (term,) = terms(J)
    assert not term.factors and term.scale == -0.5
    assert J.nbytes == 0


@modes
def test_a_residual_connection_keeps_the_identity_apart(mode):
    J = structured(lambda x: x + np.tanh(x @ random(8, 8)), random(4, 8), mode)
    identity, other = sorted(terms(J), key=lambda term: len(term.factors))
    assert identity.identity and identity.out == identity.inp
    assert all(shape != (4, 8, 8) for shape in stored(other))


@modes
def test_the_identity_has_no_data(mode):
    (term,) = terms(structured(lambda x: x + 0.0, random(4, 8), mode))
    assert term.identity


# --- shared weights -------------------------------------------------------------------------------------------


@modes
def test_a_linear_layer_is_its_weight_shared_by_all_samples(mode):
    W = random(6, 3)
    J = structured(lambda x: x @ W + random(3), random(5, 6), mode)
    (term,) = terms(J)
    (factor,) = term.factors
    assert factor.array.size == W.size and np.array_equal(np.sort(factor.array, None), np.sort(W, None))
    (b,) = term.out[0]
    assert term.inp[0] == (b,) and b not in factor.axes
    assert set(factor.axes) == {term.out[1][0], term.inp[1][0]}
    assert J.nbytes == W.nbytes


@modes
def test_two_linear_layers_are_one_product_shared_by_all_samples(mode):
    A, C = random(6, 4), random(4, 3)
    (term,) = terms(structured(lambda x: (x @ A) @ C, random(50, 6), mode))
    (factor,) = term.factors
    assert factor.array.size == 18
    close(sorted(factor.array.ravel()), sorted((A @ C).ravel()))


@modes
def test_an_activation_does_not_give_the_weights_a_batch_axis(mode):
    """Slopes and weights stay apart: (B, o) beside (i, o), and no (B, o, i)."""
    (term,) = terms(structured(lambda x: np.tanh(x @ random(6, 3)), random(5, 6), mode))
    assert stored(term) in ([(3, 6), (5, 3)], [(5, 3), (6, 3)])


def test_the_jacobian_for_shared_parameters_is_not_repeated_along_the_output():
    """d(x @ w) is x for every output: (B, i), not (B, o, i, o)."""
    x = random(5, 6)
    f = lambda w, x: x @ w
    for mode in ("forward", "reverse"):
        J = mj.jacobian(f, batch_axis=(None, 0), structured=True, mode=mode)(random(6, 3), x)
        (term,) = terms(J)
        assert stored(term) == [(5, 6)]
        assert J.shape == (5, 3, 6, 3)


# --- windows --------------------------------------------------------------------------------------------------


@modes
def test_a_difference_of_neighbours_is_two_terms_without_data(mode):
    J = structured(lambda x: x[:, 1:] - x[:, :-1], random(4, 9), mode)
    assert len(terms(J)) == 2
    assert all(not term.factors for term in terms(J))
    assert sorted(term.scale for term in terms(J)) == [-1.0, 1.0]
    assert offsets(J) == [0, 1]
    assert J.nbytes == 0
    close(J.todense()[2], np.eye(8, 9, 1) - np.eye(8, 9))


@modes
def test_a_nonlinear_stencil_has_one_diagonal_for_each_offset(mode):
    def burgers(u):
        return u[:, 1:-1] * (u[:, 2:] - u[:, :-2]) + 0.1 * (u[:, 2:] - 2.0 * u[:, 1:-1] + u[:, :-2])

    J = structured(burgers, random(4, 20), mode)
    assert offsets(J) == [0, 1, 2]
    assert all(len(data_labels(term)) <= 2 for term in terms(J))
    assert J.nbytes <= 3 * 4 * 18 * 8
    close(J.todense(), mj.jacobian(burgers)(random(4, 20)))


@modes
def test_a_five_point_stencil_is_five_terms_without_data(mode):
    def laplace(u):
        middle = u[:, 1:-1, 1:-1]
        return u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2] - 4.0 * middle

    u = random(2, 7, 8)
    J = structured(laplace, u, mode)
    assert len(terms(J)) == 5
    assert sorted(term.scale for term in terms(J)) == [-4.0, 1.0, 1.0, 1.0, 1.0]
    assert J.nbytes == 0
    v = random(2, 7, 8, seed=1)
    close(J @ v, laplace(v))


@both_ends
def test_a_five_point_stencil_allocates_nothing_of_the_size_of_the_jacobian(mode):
    def laplace(u):
        return (u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2]) * u[:, 1:-1, 1:-1]

    u = random(2, 30, 30)
    assert peak_bytes(lambda: structured(laplace, u, mode)) < 40 * u.nbytes  # the dense array has 900 times its bytes


@modes
def test_a_roll_is_two_windows_without_data(mode):
    J = structured(lambda x: np.roll(x, 2, axis=1), random(4, 7), mode)
    assert len(terms(J)) == 2
    assert all(not term.factors for term in terms(J))
    assert sorted(term.out[1][0].label.size for term in terms(J)) == [2, 5]
    assert offsets(J) == [-2, 5]


@modes
def test_a_flip_has_no_data_and_undoes_itself(mode):
    (term,) = terms(structured(lambda x: x[:, ::-1], random(4, 7), mode))
    assert not term.factors
    (term,) = terms(structured(lambda x: x[:, ::-1][:, ::-1], random(4, 7), mode))
    assert term.identity


@modes
def test_slices_put_together_again_share_their_data(mode):
    J = structured(lambda x: np.concatenate([np.sin(x[:, :3]), np.cos(x[:, 3:])], axis=1), random(4, 7), mode)
    assert sorted(stored(term) for term in terms(J)) == [[(4, 3)], [(4, 4)]]
    assert all(term.out == term.inp for term in terms(J))


@modes
def test_reshapes_and_transposes_cost_no_data(mode):
    def f(x):
        return x.reshape(-1, 2, 3).transpose(0, 2, 1).reshape(-1, 6)

    (term,) = terms(structured(f, random(4, 6), mode))
    assert not term.factors
    (term,) = terms(structured(lambda x: np.sin(x).reshape(4, 2, 3).reshape(4, 6), random(4, 6), mode))
    assert term.out == term.inp and stored(term) in ([(4, 6)], [(4, 2, 3)])


@modes
def test_a_sum_of_features_has_no_data(mode):
    J = structured(lambda x: x.mean(-1), random(4, 8), mode)
    (term,) = terms(J)
    assert not term.factors and term.scale == 0.125
    assert len(term.out) == 1 and term.inp[0] == term.out[0]


# --- sums of diagonals and products -----------------------------------------------------------------------------


@both_ends
def test_softmax_is_a_diagonal_and_a_product_of_two_factors(mode):
    x = random(6, 50)
    J = structured(softmax_without_shift, x, mode)
    diagonal, product = sorted(terms(J), key=lambda term: term.out != term.inp)
    assert diagonal.out == diagonal.inp and product.out != product.inp
    assert data_labels(diagonal) == {diagonal.out[0][0], diagonal.out[1][0]}
    assert sorted(stored(product))[-2:] == [(6, 50), (6, 50)]
    assert J.nbytes < 5 * x.nbytes
    p = softmax(x)
    close(J.todense(), np.eye(50) * p[:, None, :] - p[:, :, None] * p[:, None, :])


@both_ends
@pytest.mark.parametrize("f", [softmax, softmax_without_shift])
def test_softmax_makes_no_dense_array(f, mode):
    x = random(8, 200)
    assert peak_bytes(lambda: structured(f, x, mode)) < 40 * x.nbytes  # the dense array has 200 times its bytes


@both_ends
def test_layer_norm_makes_no_dense_array(mode):
    def layer_norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    x = random(8, 200)
    assert peak_bytes(lambda: structured(layer_norm, x, mode)) < 60 * x.nbytes


# --- samples ----------------------------------------------------------------------------------------------------


@both_ends
def test_the_diagonal_of_a_batch_mean_pairs_no_samples_with_each_other(mode):
    """d y_i / d x_i of ``x - x.mean(0)`` is 1 - 1/B on the diagonal, without (B, B)."""
    x = random(4000, 3)
    J = lambda: mj.jacobian(lambda x: x - x.mean(0), on_mixing="diagonal", mode=mode)(x)
    close(J(), np.broadcast_to((1 - 1 / 4000) * np.eye(3), (4000, 3, 3)))
    assert peak_bytes(J) < 20 * x.nbytes  # a (B, B) array has 1333 times its bytes


@both_ends
def test_batch_normalisation_forms_no_array_of_pairs_of_samples(mode):
    def f(x):
        centred = x - x.mean(0)
        return centred / np.sqrt((centred * centred).mean(0) + 1e-3)

    x = random(2000, 2)
    close(
        mj.jacobian(f, on_mixing="diagonal", mode=mode)(x[:5]), _own(mj.jacobian(f, on_mixing="full", mode=mode)(x[:5]))
    )
    assert peak_bytes(lambda: mj.jacobian(f, on_mixing="diagonal", mode=mode)(x)) < 100 * x.nbytes  # a (B, B): 1000


def _own(full: np.ndarray) -> np.ndarray:
    return np.einsum("bobi->boi", full)


@both_ends
def test_the_batch_label_is_paired_in_every_term(mode):
    W, x = random(6, 6), random(5, 6)
    for f in (np.sin, lambda x: x @ W, softmax, lambda x: x + x[:, ::-1], lambda x: x.reshape(-1, 2).reshape(5, 6)):
        for term in terms(structured(f, x, mode)):
            (b,) = term.out[0]
            assert term.inp[0] == (b,) and type(b) is Label and b.size == 5


# --- the operator, on each of these structures --------------------------------------------------------------------


functions = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS.keys())


@both_ends
@functions
def test_operator_and_dense_array_agree(f, mode):
    x = random(3, 6)
    J, D = structured(f, x, mode), mj.jacobian(f, mode=mode)(x)
    v = random(3, 6, seed=1)
    assert J.shape == D.shape and J.dtype == D.dtype
    close(J.todense(), D)
    close(J @ v, np.einsum("boi,bi->bo", D, v))
    close(J.T @ v, np.einsum("boi,bo->bi", D, v))
    close(J.T.todense(), D.transpose(0, 2, 1))
    close(J.diagonal(), np.einsum("bii->bi", D))
    close((J @ J).todense(), D @ D)
    close((J.T @ J).todense(), D.transpose(0, 2, 1) @ D)


@functions
def test_sparse_matrices_hold_the_same_entries(f):
    pytest.importorskip("scipy")
    x = random(3, 6)
    J = structured(f, x)
    D = J.todense()
    for i in range(3):
        close(J.tosparse(i).toarray(), D[i])


@functions
def test_the_whole_of_a_function_and_its_mixing_agree(f):
    """A batch mean after the function: all of (B, *out, B, *in), and its diagonal, are the chain rule's."""
    x = random(3, 6)
    D = mj.jacobian(f)(x)
    mixed = lambda x: f(x) - f(x).mean(0)
    own, mean = np.eye(3), np.full((3, 3), 1 / 3)
    expected = np.einsum("bc,coi->boci", own - mean, D)
    close(mj.jacobian(mixed, on_mixing="full")(x), expected)
    close(mj.jacobian(mixed, on_mixing="diagonal")(x), _own(expected))


@both_ends
def test_samples_merged_into_another_axis_are_not_looked_for_elsewhere(mode):
    """The result has an axis of length B in front, but samples are not on it."""
    f = lambda x: np.broadcast_to(x.reshape(-1), (2, 4))
    with pytest.raises(mj.InputError, match="split again"):
        mj.jacobian(f, mode=mode)(random(2, 2))


def test_data_that_stands_for_structure_rounds_nothing():
    """Where structure gives out, ones become data: of the width of the result, so that 1/3 stays 1/3."""
    picked = np.array([2, 0, 1, 1, 2, 0])
    f = lambda x: x[:, picked].reshape(-1, 2, 3).mean(-1)
    expected = np.array([[1, 1, 1], [1, 1, 1]]) / 3
    x = random(2, 3)
    for mode in ("forward", "reverse", "mixed"):
        close(mj.jacobian(f, mode=mode)(x), np.stack([expected, expected]), rtol=1e-15)
    close(mj.jvp(f, (x,), (np.ones((2, 3)),))[1], np.ones((2, 2)), rtol=1e-15)
    close(mj.grad(lambda x: f(x).sum())(x), np.full((2, 3), 2 / 3), rtol=1e-15)
    single = mj.jacobian(f)(x.astype(np.float32))
    assert single.dtype == np.float32


def advected(steps):
    def f(x):
        for _ in range(steps):
            x = x + 0.05 * ((np.roll(x, -1, 1) - np.roll(x, 2, 1)) * np.roll(x, 1, 1) - x)
        return x

    return f


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
def test_a_stencil_stepped_along_a_short_axis_becomes_one_array_and_not_pieces(mode):
    x = random(3, 12)
    J = mj.jacobian(advected(8), mode=mode, structured=True)(x)
    assert len(J.block.terms) <= block.MOST_PIECES
    close(J.todense(), dense_by_steps(x, 8))
    close(mj.hessian(advected(3))(x), mj.jacobian(mj.jacobian(advected(3)))(x))


def test_a_stencil_on_a_long_axis_stays_banded():
    J = mj.jacobian(advected(1), structured=True)(random(2, 2000))
    assert J.nbytes < 2 * 2000 * 8 * 40


def dense_by_steps(x, steps):
    """The product of the steps' own Jacobians."""
    total = np.eye(x.shape[1])
    for _ in range(steps):
        total = mj.jacobian(advected(1))(x) @ total
        x = advected(1)(x)
    return total
