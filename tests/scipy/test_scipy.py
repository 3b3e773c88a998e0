"""minijac.scipy against SciPy's values and finite differences, and by `adapt` from code that calls SciPy."""

from __future__ import annotations

import functools
from itertools import product

import numpy as np
import pytest
import scipy.fft
import scipy.integrate
import scipy.interpolate
import scipy.linalg
import scipy.optimize
import scipy.sparse.linalg
import scipy.spatial
import scipy.stats
from helpers import close
from numpy_harness import cases, check_jacobian, check_second, whole

import minijac as mj
from minijac.scipy import fft, linalg, stats

A = np.random.default_rng(0).normal(size=(3, 3))
S = A @ A.T + np.eye(3)
Z = np.random.default_rng(1).normal(size=(3, 3)) + 1j * np.random.default_rng(2).normal(size=(3, 3))
b = np.array([0.3, -1.0, 0.5])
D = np.diag([1.0, 2.0, 3.0])
LINALG = {
    "expm": (lambda la, x: la.expm(x), A),
    "expm, squared": (lambda la, x: la.expm(6.0 * x), A),
    "solve": (lambda la, x: la.solve(x, b), S),
    "solve, transposed": (lambda la, x: la.solve(x, b, transposed=True), A),
    "inv": (lambda la, x: la.inv(x) * la.det(x), S),
    "solve_triangular": (lambda la, x: la.solve_triangular(x, b), S),
    "solve_triangular, lower": (lambda la, x: la.solve_triangular(x, b, lower=True, trans=1), S),
    "solve_triangular, unit": (lambda la, x: la.solve_triangular(x, b, unit_diagonal=True), S),
    "cho_solve": (lambda la, x: la.cho_solve(la.cho_factor(x @ x.T), b), S),
    "cho_solve, lower": (lambda la, x: la.cho_solve(la.cho_factor(x @ x.T, lower=True), b), S),
    "cholesky": (lambda la, x: la.cholesky(x @ x.T), S),
    "sqrtm": (lambda la, x: la.sqrtm(x @ x.T), S),
    "logm": (lambda la, x: la.logm(x @ x.T), S),
    "lu_factor": (lambda la, x: la.lu_factor(x)[0], A),
    "lu_solve": (lambda la, x: la.lu_solve(la.lu_factor(x), b), A),
    "lu_solve, transposed": (lambda la, x: la.lu_solve(la.lu_factor(x), b, trans=1), A),
    "eigh": (lambda la, x: la.eigh(x @ x.T)[0] + la.eigvalsh(x @ x.T), S),
    "eigh of two": (lambda la, x: np.abs(la.eigh(D + x, x)[1]) + la.eigh(D + x, x)[0], S),
    "eigh of two, type 2": (lambda la, x: np.abs(la.eigh(S + x, x, type=2, lower=False)[1]), S),
    "eigh of two, type 3": (lambda la, x: np.abs(la.eigh(x, x + S, type=3)[1]), S),
    "eigh, some": (lambda la, x: np.abs(la.eigh(x @ x.T, subset_by_index=[1, 2])[1]), S),
    "eigvalsh of two": (lambda la, x: la.eigvalsh(D, x, subset_by_index=[0, 1]), S),
    "complex eigh of two": (lambda la, x: la.eigh(_hermitian(x), _hermitian(x.T), eigvals_only=True), A),
    "eig of two": (lambda la, x: np.abs(la.eig(x, S + x)[1]) + np.abs(la.eig(x, S + x)[0]), A),
    "eigvals of two": (lambda la, x: np.sort(np.abs(la.eigvals(D, x))), S),
    "svd": (lambda la, x: la.svd(x)[1] + la.svdvals(x), A),
    "pinv": (lambda la, x: la.pinv(x) * la.norm(x), A),
    "block_diag": (lambda la, x: la.block_diag(x, 2.0 * x[:1], x[0]), A),
    "toeplitz": (lambda la, x: la.toeplitz(x[0], x[1]), A),
    "circulant": (lambda la, x: la.circulant(x[0]), A),
    "sinm": (lambda la, x: la.sinm(x) @ la.sinm(2.0 * x), A),
    "cosm": (lambda la, x: la.cosm(x), A),
    "tanm": (lambda la, x: la.tanm(0.3 * x), A),
    "hyperbolic": (lambda la, x: la.sinhm(x) @ la.coshm(x) + la.tanhm(x), A),
    "complex sinm": (lambda la, x: la.sinm(x * Z) + la.cosm(x * Z), A),
    "signm": (lambda la, x: la.signm(x @ x.T - 2.0 * np.eye(3)), S),
    "fractional_matrix_power": (lambda la, x: la.fractional_matrix_power(x @ x.T, 0.3), S),
    "whole power": (lambda la, x: la.fractional_matrix_power(x, -2), S),
    "polar": (lambda la, x: la.polar(x)[0] + la.polar(x)[1], A),
    "polar, left": (lambda la, x: la.polar(x, side="left")[1], A),
    "polar, tall": (lambda la, x: la.polar(x[:, :2], side="left")[1] @ la.polar(x[:, :2])[0], A),
    "polar, wide": (lambda la, x: la.polar(x[:2])[0] @ la.polar(x[:2])[1] + la.polar(x[:2], "left")[0], A),
    "solve_sylvester": (lambda la, x: la.solve_sylvester(x, x[:2, :2] + 1.0, x[:, :2]), S),
    "complex solve_sylvester": (lambda la, x: la.solve_sylvester(x + Z, x[:2, :2] * 1j, x[:, :2]), S),
    "solve_continuous_lyapunov": (lambda la, x: la.solve_continuous_lyapunov(x, x @ x), S),
    "solve_discrete_lyapunov": (lambda la, x: la.solve_discrete_lyapunov(0.2 * x, x @ x), A),
    "complex solve_discrete_lyapunov": (lambda la, x: la.solve_discrete_lyapunov(0.2 * x * Z, x @ x), A),
    "eig": (lambda la, x: np.abs(la.eig(x)[1]) + np.abs(la.eig(x)[0]), S),
    "eigvals": (lambda la, x: np.sort(np.real(la.eigvals(x))), S),
    "qr": (lambda la, x: la.qr(x)[0] @ la.qr(x)[1] + la.qr(x, mode="r")[0], A),
    "qr, economic": (lambda la, x: la.qr(x[:, :2], mode="economic")[0], A),
    "qr, the factor of a tall one": (lambda la, x: la.qr(x[:, :2], mode="r")[0], A),
    "lstsq": (lambda la, x: la.lstsq(x[:, :2], b)[0] * la.lstsq(x[:, :2], b)[1], A),
    "pinvh": (lambda la, x: la.pinvh(x), S),
    "hankel": (lambda la, x: la.hankel(x[0], x[1]) + la.hankel(x[2]), A),
    "companion": (lambda la, x: la.companion(x[0]), A),
    "leslie": (lambda la, x: la.leslie(x[0], x[1, :2]), A),
    "fiedler": (lambda la, x: la.fiedler(x[0]), A),
    "khatri_rao": (lambda la, x: la.khatri_rao(x, x[:2]), A),
    "convolution_matrix": (lambda la, x: la.convolution_matrix(x[0], 4) @ la.convolution_matrix(x[1], 4, "same"), A),
    "convolution_matrix, valid": (lambda la, x: la.convolution_matrix(x[0], 5, "valid"), A),
    "matmul_toeplitz": (lambda la, x: la.matmul_toeplitz((x[0], x[1]), x), A),
    "solve_banded": (lambda la, x: la.solve_banded((1, 1), x + 5.0 * (np.arange(3) == 1)[:, None], b), A),
    "solve_banded, several": (lambda la, x: la.solve_banded((2, 0), x + 5.0 * (np.arange(3) == 0)[:, None], x), A),
    "solveh_banded": (lambda la, x: la.solveh_banded(x + 9.0 * (np.arange(3) == 2)[:, None], b), A),
    "solveh_banded, lower": (lambda la, x: la.solveh_banded(x[:2] + [[9.0], [0.0]], x, lower=True), A),
    "solve_toeplitz": (lambda la, x: la.solve_toeplitz((x[0] + 3.0 * D[0], x[1]), b) + la.solve_toeplitz(x[2], b), A),
    "solve_circulant": (lambda la, x: la.solve_circulant(x[0], x[1]) @ la.solve_circulant(x[2], x), A),
    "solve_continuous_are": (lambda la, x: la.solve_continuous_are(x, x[:, :2], S, S[:2, :2] + x[0, 0] ** 2), A),
    "solve_discrete_are": (lambda la, x: la.solve_discrete_are(x, x[:, :2], S, S[:2, :2] + x[0, 0] ** 2), A),
    "lu": (lambda la, x: la.lu(x)[0] @ la.lu(x)[1] * la.lu(x)[2] + la.lu(x, permute_l=True)[0], A),
    "expm_frechet": (lambda la, x: la.expm_frechet(x, x @ x)[1] + la.expm_frechet(x, x)[0], A),
    "eigh_tridiagonal": (lambda la, x: np.abs(la.eigh_tridiagonal(x[0], x[1, :2])[1]), A),
    "eigvalsh_tridiagonal": (lambda la, x: la.eigvalsh_tridiagonal(x[0], x[1, :2]), A),
    "orthogonal_procrustes": (lambda la, x: la.orthogonal_procrustes(x, S)[0] * la.orthogonal_procrustes(x, S)[1], A),
    "complex expm": (lambda la, x: la.expm(x * Z), A),
    "complex solve_triangular": (lambda la, x: la.solve_triangular(x * Z + 3j * np.eye(3), b, trans=2), A),
    "complex cho_solve": (lambda la, x: la.cho_solve(la.cho_factor(_hermitian(x)), b), A),
    "complex cho_solve, lower": (lambda la, x: la.cho_solve(la.cho_factor(_hermitian(x), lower=True), b), A),
    "complex cholesky": (lambda la, x: la.cholesky(_hermitian(x)), A),
    "complex toeplitz": (lambda la, x: la.toeplitz(x[0] * Z[0]), A),
}


def _hermitian(x):
    a = x * Z + 1j * x.T
    return a @ np.conj(a).T + np.eye(3)


@pytest.mark.parametrize("pair", LINALG.values(), ids=LINALG.keys())
def test_linear_algebra(pair):
    f, x = pair
    close(f(linalg, x), f(scipy.linalg, x), 1e-9, 1e-9)
    case = whole(lambda x: f(linalg, x), *x.shape, points=[x])
    check_jacobian(case)
    J = mj.jacobian(mj.adapt(lambda x: f(scipy.linalg, x)), batch_axis=None)(x)
    close(J, mj.jacobian(lambda x: f(linalg, x), batch_axis=None)(x))


OF_SAMPLES = {
    "block_diag": lambda la, x: la.block_diag(x, 2.0 * x[..., :1, :]),
    "toeplitz": lambda la, x: la.toeplitz(x[..., 0], x[..., 1]),
    "circulant": lambda la, x: la.circulant(x[..., 0]),
    "companion": lambda la, x: la.companion(1.0 + x[..., 0]),
    "leslie": lambda la, x: la.leslie(x[..., 0], x[..., 1:, 1]),
    "fiedler": lambda la, x: la.fiedler(x[..., 0]),
    "hankel": lambda la, x: la.hankel(x[..., 0], x[..., 1]) + la.hankel(x[..., 2]),
    "convolution_matrix": lambda la, x: la.convolution_matrix(x[..., 0], 4, "same"),
    "khatri_rao": lambda la, x: la.khatri_rao(x, x[..., :2, :]),
    "lu_factor": lambda la, x: la.lu_factor(x)[0],
    "lu": lambda la, x: la.lu(x)[0] @ la.lu(x, permute_l=True)[0] + la.lu(x)[2],
    "lu_solve": lambda la, x: la.lu_solve(la.lu_factor(x), b),
    "lu_solve, transposed": lambda la, x: la.lu_solve(la.lu_factor(x), b, trans=1),
    "lu_solve, columns": lambda la, x: la.lu_solve(la.lu_factor(x), x[..., :2]),
    "cho_solve": lambda la, x: la.cho_solve(la.cho_factor(x @ np.swapaxes(x, -1, -2)), b),
    "qr, the factor of a tall one": lambda la, x: la.qr(x[..., :2], mode="r")[0],
    "expm_frechet": lambda la, x: la.expm_frechet(x, x @ x)[1] + la.expm_frechet(x, x)[0],
    "eigh_tridiagonal": lambda la, x: np.abs(la.eigh_tridiagonal(x[..., 0], x[..., 1:, 1])[1]),
    "orthogonal_procrustes": lambda la, x: la.orthogonal_procrustes(x, S)[0],
    "orthogonal_procrustes, values": lambda la, x: la.orthogonal_procrustes(x, S)[1],
    "solve_toeplitz": lambda la, x: la.solve_toeplitz((x[..., 0], x[..., 1]), b),
    "solve_banded": lambda la, x: la.solve_banded((1, 1), x + 5.0 * (np.arange(3) == 1)[:, None], b),
    "solveh_banded": lambda la, x: la.solveh_banded(x + 9.0 * (np.arange(3) == 2)[:, None], b),
    "solve_circulant": lambda la, x: np.moveaxis(la.solve_circulant(x[..., 0], b), 0, -1),
    "solve_continuous_are": lambda la, x: la.solve_continuous_are(x, x[..., :2], S, S[:2, :2]),
    "solve_discrete_are": lambda la, x: la.solve_discrete_are(x, x[..., :2], S, S[:2, :2]),
}


@pytest.mark.parametrize("f", OF_SAMPLES.values(), ids=OF_SAMPLES.keys())
def test_functions_of_matrices_of_samples_are_those_of_each(f):
    x = np.stack([A, S, A.T])  # as many as they have rows
    close(f(linalg, x), np.stack([f(scipy.linalg, each) for each in x]))
    one = mj.jacobian(lambda x: f(linalg, x), batch_axis=None)
    close(mj.jacobian(lambda x: f(linalg, x))(x), np.stack([one(each) for each in x]))


G = S + np.tril(A, -1)  # of which the upper triangle is that of a positive definite matrix, the lower is not
ASSUMED = ("diagonal", "tridiagonal", "banded", "upper triangular", "lower triangular", "sym", "her", "pos", "gen")


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("factor", [1.0, 1.0 + 0.1j])  # the diagonal too is that of no Hermitian matrix
def test_the_triangle_that_SciPy_does_not_look_at_has_no_influence_and_no_derivative(lower, factor):
    x = G.T if lower else G
    functions = [lambda la, x, a=a: la.solve(x, b, lower=lower, assume_a=a) for a in ASSUMED] + [
        lambda la, x: la.cholesky(x, lower=lower),
        lambda la, x: la.cho_solve(la.cho_factor(x, lower=lower), b),
        lambda la, x: la.eigvalsh(x, lower=lower) + la.eigh(x, lower=lower)[0],
        lambda la, x: la.pinvh(x, lower=lower),
    ]
    for f in functions:
        of = lambda la, x: f(la, factor * x)  # noqa: B023
        close(of(linalg, x), of(scipy.linalg, x), 1e-9, 1e-9)
        steps = 1e-5 * np.eye(9).reshape(9, 3, 3)
        truth = [(of(scipy.linalg, x + h) - of(scipy.linalg, x - h)) / 2e-5 for h in steps]
        J = mj.jacobian(mj.adapt(lambda x: of(scipy.linalg, x)), batch_axis=None)(x)  # noqa: B023
        close(J.reshape(*J.shape[:-2], 9), np.stack(truth, -1), 1e-6, 1e-7)


def test_a_structure_that_is_not_known_is_refused():
    with pytest.raises(mj.InputError, match=r"solve at .*assume_a: expected one of .*'banded'.*got 'round'"):
        linalg.solve(S, b, assume_a="round")


@pytest.mark.parametrize("call", [
    lambda x: scipy.linalg.eigh(x, subset_by_value=[0.0, 1.0]), lambda x: scipy.linalg.eig(x, x, True),
    lambda x: scipy.linalg.qr(x, pivoting=True), lambda x: scipy.linalg.pinv(x, rtol=0.1),
])  # fmt: skip
def test_an_option_of_SciPy_that_traced_values_do_not_have_is_refused_by_name(call):
    with pytest.raises(mj.UnsupportedOperationError, match=r"scipy\.linalg\.\w+ at .*On traced values.*\(a"):
        mj.jacobian(mj.adapt(call), batch_axis=None)(S)


@pytest.mark.parametrize("call, instead", [
    (lambda x: scipy.linalg.eigh(S, x), "scipy.linalg.eigh"),  # within SciPy's loop over stacks of matrices
    (lambda x: scipy.stats.norm.logpdf(x, loc=1.0), "scipy.stats.norm.logpdf"),
    (lambda x: scipy.stats.norm(x).cdf(0.0), "scipy.stats.norm.cdf"),
    (lambda x: scipy.interpolate.CubicSpline([0.0, 1.0, 2.0], b)(x), "scipy.interpolate.CubicSpline"),
])  # fmt: skip
def test_a_function_or_a_class_of_SciPy_is_told_by_its_public_name(call, instead):
    with pytest.raises(mj.UnsupportedOperationError, match=rf"^{instead} at .*test_scipy.*Write minijac\.{instead}, "):
        mj.jacobian(call, batch_axis=None)(S)


@pytest.mark.parametrize("call, name", [
    (lambda x: scipy.integrate.solve_ivp(lambda t, y: -y, (0, 1), x[0]).y, "integrate.solve_ivp"),
    (lambda x: scipy.optimize.minimize(lambda v: ((v - x[0]) ** 2).sum(), np.zeros(3)).x, "optimize.minimize"),
    (lambda x: scipy.stats.zscore(x), "stats.zscore"),
    (lambda x: scipy.sparse.linalg.spsolve(scipy.sparse.csr_array(S), x), "sparse.linalg.spsolve"),
    (lambda x: scipy.sparse.coo_array((x[0], ([0, 1, 2], [0, 1, 2]))), "sparse.coo_array"),
    (lambda x: scipy.sparse.csr_array(S).multiply(x), "sparse.csr_array.multiply"),
    (lambda x: scipy.spatial.KDTree(S).query(x)[0], "spatial.KDTree.query"),
])  # fmt: skip
def test_what_SciPy_has_and_minijac_has_not_is_named_as_the_user_called_it(call, name):
    with pytest.raises(mj.UnsupportedOperationError, match=rf"^scipy\.{name} at .*test_scipy.*no derivative"):
        mj.jacobian(call, batch_axis=None)(S)


@pytest.mark.parametrize("name", ["expm", "inv", "sqrtm", "cholesky", "toeplitz", "solve"])
def test_a_function_of_SciPy_is_adapted_to_the_one_that_stands_for_it(name):
    args = (S, b) if name == "solve" else (b,) if name == "toeplitz" else (S,)
    mine, theirs = mj.adapt(getattr(scipy.linalg, name)), getattr(scipy.linalg, name)
    f = lambda x: mine(x, *args[1:])
    close(mine(*args), theirs(*args))
    truth = mj.jacobian(lambda x: getattr(linalg, name)(x, *args[1:]), batch_axis=None)(args[0])
    close(mj.jacobian(f, batch_axis=None)(args[0]), truth)


def test_a_users_function_by_the_name_of_one_of_SciPy_is_its_own():
    @functools.wraps(scipy.linalg.expm)
    def expm(A):
        return 2.0 * scipy.linalg.expm(A)

    close(mj.jacobian(mj.adapt(expm), batch_axis=None)(A), 2.0 * mj.jacobian(linalg.expm, batch_axis=None)(A))


def test_adapted_code_gives_options_that_do_not_change_the_result_and_constants_to_SciPy():
    from scipy.linalg import inv

    def f(x):
        w, left, right = scipy.linalg.eig(S, S @ S, left=True)  # of constants, which minijac need not have
        y = scipy.linalg.solve(x, b, assume_a="pos", check_finite=False) + inv(x, overwrite_a=True)[0]
        return y * w.real[0] * np.abs(left * right).sum()

    J = mj.jacobian(mj.adapt(f), batch_axis=None)(S)
    steps = 1e-6 * np.eye(9).reshape(3, 3, 3, 3)
    by_difference = lambda x: scipy.linalg.solve(x, b, assume_a="pos") + scipy.linalg.inv(x)[0]
    scale = f(S) / by_difference(S)
    truth = [[scale * (by_difference(S + s) - by_difference(S - s)) / 2e-6 for s in row] for row in steps]
    close(J, np.moveaxis(np.array(truth), -1, 0), 1e-6, 1e-8)


def test_expm_of_a_batch_keeps_samples_apart_and_compiles():
    x = np.random.default_rng(1).normal(size=(4, 3, 3))
    J = mj.jacobian(linalg.expm)(x)
    for one, found in zip(x, J, strict=True):
        close(found, mj.jacobian(linalg.expm, batch_axis=None)(one), 1e-9, 1e-9)
    close(mj.compile(mj.jacobian(lambda x: linalg.expm(x, squarings=2)))(x), J, 1e-9, 1e-9)
    with pytest.raises(mj.InputError, match="square"):
        linalg.expm(np.ones((2, 3)))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_compiled_expm_is_right_for_matrices_of_every_norm(mode):
    J = mj.jacobian(linalg.expm, mode=mode)
    compiled, x = mj.compile(J), np.random.default_rng(1).normal(size=(4, 3, 3))
    for scale in (1.0, 0.01, 9.0):
        expected = J(scale * x)
        close(compiled(scale * x), expected, 1e-11, 1e-11 * np.abs(expected).max())


def test_functions_of_matrices_beyond_the_real_numbers():
    for name in ("sqrtm", "logm"):
        with pytest.raises(mj.InputError, match="not positive"):
            getattr(linalg, name)(-np.eye(2))
        f = lambda x: np.real(getattr(linalg, name)(x @ x.T * (1.0 + 0.5j)))  # noqa: B023
        check_jacobian(whole(f, 3, 3, points=[A]))
    before = np.random.get_state()[1].copy()
    linalg.logm(S)
    assert (np.random.get_state()[1] == before).all()


def test_logarithms_of_a_stack_are_scipys_of_each():
    rng = np.random.default_rng(0)
    near = 0.3 * rng.normal(size=(4, 4)) + np.eye(4)
    block = np.block([[near, 1e6 * rng.normal(size=(4, 4))], [np.zeros((4, 4)), near]])
    turn = np.array([[np.cos(3.0), -np.sin(3.0)], [np.sin(3.0), np.cos(3.0)]])
    jordan, graded = 2 * np.eye(3) + np.eye(3, k=1), S @ np.diag([1e-2, 1.0, 1e2]) @ S
    for a in (near, block, turn, jordan, graded, 1e-200 * S, near + 1j * near.T, np.zeros((0, 3, 3))):
        stack = np.stack([a, a])
        expected = np.reshape([scipy.linalg.logm(x) for x in stack] if a.size else [], stack.shape)
        close(linalg.logm(stack), expected, 1e-11, 1e-11 * np.abs(expected).max(initial=0.0))
    tiny = 1e-9 * rng.normal(size=(3, 3))
    close(linalg.logm(np.eye(3) + tiny), tiny, 1e-6, 1e-16)


FAR = [*product(("logm", "sqrtm", "expm"), (np.inf, np.nan, 3e4)), ("expm", 1e9), ("expm", 1e300)]


@pytest.mark.parametrize("name, far", FAR)
@pytest.mark.parametrize("lower", [0.0, 0.2])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_matrix_far_from_the_others_of_its_stack_leaves_them_what_they_are(name, far, lower):
    own, f = np.array([[1.0, 0.1], [lower, 2.0]]), getattr(linalg, name)
    stack = np.stack([own, own, own])
    stack[1, 0, 0] = far
    for g in (f, mj.jacobian(f), mj.compile(f), mj.compile(mj.jacobian(f)), mj.hessian(f)):
        found, alone = g(stack), g(own[None])
        close(found[[0, 2]], np.concatenate([alone, alone]), 1e-12, 1e-14)
    assert np.isfinite(far) or np.isnan(f(stack)[1]).any()
    assert np.isfinite(far) or name != "logm" or np.isnan(f(stack)[1]).all()


@cases(
    {
        "norm": whole(lambda x: stats.norm.logpdf(x[0], x[1], np.exp(x[2])), 3),
        "expm": whole(linalg.expm, 2, 2),
        "sqrtm": whole(lambda x: linalg.sqrtm(x @ x.T + np.eye(2)), 2, 2),
        "solve_sylvester": whole(lambda x: linalg.solve_sylvester(x, x.T, x @ x), 2, 2, points=[S[:2, :2]]),
        "lu_solve": whole(lambda x: linalg.lu_solve(linalg.lu_factor(x), b), 3, 3, points=[A]),
    }
)
def test_second_order(case):
    check_second(case)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("module, name", [("special", "logsumexp"), ("special", "softmax"), ("special", "log_softmax"),
                                          ("linalg", "expm")])  # fmt: skip
def test_scipys_own_function_names_itself_and_what_to_call_instead(module, name, compiled):
    function = getattr(getattr(scipy, module), name)
    J = mj.jacobian(lambda x: function(x[:, None] * x[:, :, None]))
    own = "minijac.special" if module == "special" else f"minijac.scipy.{module}"
    with pytest.raises(mj.UnsupportedOperationError, match=rf"^scipy\.{module}\.{name} at .*Write {own}\.{name}"):
        (mj.compile(J) if compiled else J)(np.ones((2, 3)))


@pytest.mark.parametrize("kind", ("dct", "idct", "dst", "idst"))
def test_cosine_and_sine_transforms(kind):
    x = np.random.default_rng(3).normal(size=(3, 5))
    mine, theirs = getattr(fft, kind), getattr(scipy.fft, kind)
    for type, norm, n in product((1, 2, 3, 4), (None, "ortho", "forward"), (None, 4, 7)):
        close(mine(x, type, n=n, norm=norm), theirs(x, type, n=n, norm=norm), 1e-12, 1e-12)
        rows = np.stack([theirs(row, type, n=n, norm=norm) for row in np.eye(5)], -1)
        close(mj.jacobian(lambda x: mine(x, type, n=n, norm=norm))(x), np.broadcast_to(rows, (3, *rows.shape)))  # noqa: B023
    close(getattr(fft, f"{kind}n")(x, norm="ortho"), getattr(scipy.fft, f"{kind}n")(x, norm="ortho"))
    close(mine(x, 2, orthogonalize=True), theirs(x, 2, orthogonalize=True))
    with pytest.raises(mj.InputError, match="type of 1 to 4"):
        mine(x, 5)


def test_adapted_code_finds_the_transforms():
    from scipy.fft import rfft

    x = np.random.default_rng(4).normal(size=(3, 6))
    f = mj.adapt(lambda x: np.abs(rfft(x, workers=2)) + scipy.fft.dct(x)[:, :4])
    g = lambda x: np.abs(np.fft.rfft(x)) + fft.dct(x)[:, :4]
    close(mj.jacobian(f)(x), mj.jacobian(g)(x))
    assert fft.fftfreq(4).tolist() == np.fft.fftfreq(4).tolist()
