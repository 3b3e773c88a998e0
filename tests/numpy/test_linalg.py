"""numpy.linalg on stacks of matrices: against NumPy and torch, and where a matrix is singular or eigenvalues repeat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import agrees_with_torch, close, random

import minijac as mj

torch = pytest.importorskip("torch")
L, TL = np.linalg, torch.linalg

A = random(3, 3, 3, seed=1)
TALL, WIDE = random(3, 4, 2, seed=2), random(3, 2, 3, seed=3)
B = random(3, 3, 2, seed=4)
V = random(3, 3, seed=5)
STACK = random(3, 2, 2, 2, seed=6)
EYE = np.eye(3)


def spd(a: Any) -> Any:
    """A positive definite matrix made of any."""
    return a @ np.swapaxes(a, -1, -2) + np.eye(a.shape[-1])


def tspd(a: Any) -> Any:
    return a @ a.mT + torch.eye(a.shape[-1], dtype=a.dtype)


def sym(a: Any) -> Any:
    return a + np.swapaxes(a, -1, -2)


# name: NumPy's, torch's, arguments, batch axes; vectors without a sign of their own are squared
CASES: dict[str, tuple[Any, Any, tuple[Any, ...], Any]] = {
    "inv": (L.inv, TL.inv, (A,), 0),
    "inv of stacks": (L.inv, TL.inv, (STACK,), 0),
    "inv of one entry": (L.inv, TL.inv, (1 + random(3, 1, 1),), 0),
    "solve": (L.solve, TL.solve, (A, B), 0),
    "solve for a shared vector": (L.solve, TL.solve, (A, V[0]), (0, None)),
    # expanded by hand: where solve itself broadcasts the matrix, torch.func.jacrev (2.13) is six times too large here
    "solve for a shared matrix": (L.solve, lambda a, b: TL.solve(a.expand(len(b), 3, 3), b), (A[0], B), (None, 0)),
    "solve for shared columns": (L.solve, TL.solve, (A, B[0]), (0, None)),
    "solve with broadcasting": (L.solve, TL.solve, (STACK[:, :1], STACK[:, :, :, :1] + 1), 0),
    "solve twice the same": (lambda a: L.solve(a, a @ a), lambda a: TL.solve(a, a @ a), (A,), 0),
    "det": (L.det, TL.det, (A,), 0),
    "det of stacks": (L.det, TL.det, (STACK,), 0),
    "slogdet": (lambda a: L.slogdet(a).logabsdet, lambda a: TL.slogdet(a).logabsdet, (A,), 0),
    "cholesky": (lambda a: L.cholesky(spd(a)), lambda a: TL.cholesky(tspd(a)), (A,), 0),
    "upper cholesky": (lambda a: L.cholesky(spd(a), upper=True), lambda a: TL.cholesky(tspd(a)).mT, (A,), 0),
    "cholesky of entries": (L.cholesky, TL.cholesky, (spd(A),), 0),
    "eigvalsh": (lambda a: L.eigvalsh(sym(a)), lambda a: TL.eigvalsh(a + a.mT), (A,), 0),
    "eigvalsh of entries": (L.eigvalsh, TL.eigvalsh, (sym(A),), 0),
    "eigh": (lambda a: L.eigh(sym(a))[0], lambda a: TL.eigh(a + a.mT)[0], (A,), 0),
    "eigenvectors": (lambda a: np.square(L.eigh(sym(a))[1]), lambda a: TL.eigh(a + a.mT)[1] ** 2, (A,), 0),
    "upper eigenvectors": (lambda a: np.square(L.eigh(sym(a), "U")[1]), lambda a: TL.eigh(a + a.mT)[1] ** 2, (A,), 0),
    "a function of a matrix": (
        lambda a: (lambda w, v: (v * np.expand_dims(np.exp(w), -2)) @ np.swapaxes(v, -1, -2))(*L.eigh(sym(a))),
        lambda a: TL.matrix_exp(a + a.mT), (A,), 0),
    "svdvals": (L.svdvals, TL.svdvals, (TALL,), 0),
    "svd values": (lambda a: L.svd(a, compute_uv=False), TL.svdvals, (WIDE,), 0),
    "pinv of tall": (L.pinv, TL.pinv, (TALL,), 0),
    "pinv of wide": (L.pinv, TL.pinv, (WIDE,), 0),
    "qr": (lambda a: np.square(L.qr(a).Q), lambda a: TL.qr(a).Q ** 2, (TALL,), 0),
    "qr triangle": (lambda a: np.square(L.qr(a).R), lambda a: TL.qr(a).R ** 2, (TALL,), 0),
    "qr of square": (lambda a: np.square(L.qr(a, "complete").Q), lambda a: TL.qr(a).Q ** 2, (A,), 0),
    "qr of wide": (lambda a: np.square(L.qr(a)[1]), lambda a: TL.qr(a)[1] ** 2, (WIDE,), 0),
    "qr back": (lambda a: np.matmul(*L.qr(a)), lambda a: a * 1.0, (WIDE,), 0),
    "lstsq": (lambda a, b: L.lstsq(a, b.T)[0].T, lambda a, b: TL.lstsq(a, b.T).solution.T, (TALL[0], random(3, 4)),
              (None, 0)),
    "trace": (L.trace, lambda a: a.diagonal(0, 1, 2).sum(-1), (A,), 0),
    "trace off the diagonal": (lambda a: L.trace(a, offset=1), lambda a: a.diagonal(1, 1, 2).sum(-1), (A,), 0),
    "diagonal": (lambda a: L.diagonal(a, offset=-1), lambda a: a.diagonal(-1, 1, 2), (A,), 0),
    "matrix_transpose": (L.matrix_transpose, lambda a: a.mT * 1.0, (TALL,), 0),
    "cond": (L.cond, lambda a: TL.cond(a), (A,), 0),
    "cond -2": (lambda a: L.cond(a, -2), lambda a: 1.0 / TL.cond(a), (A,), 0),
    "cond fro": (lambda a: L.cond(a, "fro"), lambda a: TL.matrix_norm(a) * TL.matrix_norm(TL.inv(a)), (A,), 0),
    "matrix_norm": (L.matrix_norm, TL.matrix_norm, (A,), 0),
    "vector_norm": (lambda a: L.vector_norm(a, axis=(1, 2), ord=3), lambda a: TL.vector_norm(a, 3, (1, 2)), (A,), 0),
    "norm": (lambda a: L.norm(a, axis=-1, keepdims=True), lambda a: TL.vector_norm(a, 2, -1, True), (A,), 0),
}  # fmt: skip
for shape in (A, TALL, WIDE):
    for part in (0, 2):
        CASES[f"svd {shape.shape[1:]} {part}"] = (
            lambda a, part=part: np.square(L.svd(a, full_matrices=False)[part]),
            lambda a, part=part: TL.svd(a, full_matrices=False)[part] ** 2, (shape,), 0,
        )  # fmt: skip
for order in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf):
    CASES[f"norm of matrices, {order}"] = (
        lambda a, order=order: L.norm(a, order, axis=(-2, -1), keepdims=True),
        lambda a, order=order: TL.matrix_norm(a, order, keepdim=True), (TALL,), 0,
    )  # fmt: skip
for order in (None, 1, 2, 3, 0.5, -1, -2.5, np.inf, -np.inf):
    CASES[f"norm of vectors, {order}"] = (
        lambda a, order=order: L.norm(a, order, axis=1),
        lambda a, order=order: TL.vector_norm(a, 2 if order is None else order, dim=1), (V,), 0,
    )  # fmt: skip
FIRST_ONLY = {"lstsq"}


@pytest.mark.parametrize("name", CASES)
def test_per_sample_derivatives(name):
    f, torch_f, args, axes = CASES[name]
    order = 1 if name in FIRST_ONLY else 2
    agrees_with_torch(f, torch_f, *args, argnums=range(len(args)), batch_axis=axes, order=order, rtol=1e-8)


@pytest.mark.parametrize("modes", [("forward", "reverse"), ("reverse", "forward")])
def test_mixed_second_derivative_of_solve_for_a_shared_matrix(modes):
    inner, outer = modes
    axes = (None, 0)
    J = mj.jacobian(L.solve, 0, batch_axis=axes, mode=inner)
    H = mj.jacobian(J, 1, batch_axis=axes, mode=outer)(A[0], B)
    P = L.inv(A[0])
    close(H, np.broadcast_to(-np.einsum("ik,jn,ml->imkjnl", P, P, np.eye(2)), H.shape))


@pytest.mark.parametrize("function", [L.inv, L.det, L.svdvals, L.pinv, L.cond, L.norm, lambda a: L.qr(a)[1]])
def test_values_are_numpys(function):
    for x in (A[0], STACK[0, 0]):
        close(mj.jvp(function, (x,), (x,))[0], function(x))


def test_results_are_numpys_named_tuples():
    mj.jacobian(lambda a: type(L.eigh(a)) is type(L.eigh(EYE)) and a)(sym(A))
    for name in ("eigh", "svd", "qr", "slogdet"):
        seen = []
        mj.jvp(lambda a, name=name, seen=seen: seen.append(getattr(L, name)(a)) or a, (A[0],), (A[0],))
        assert type(seen[0]) is type(getattr(L, name)(EYE))


@pytest.mark.parametrize(
    "f",
    [
        lambda a: L.inv(a[:, 0]),
        lambda a: L.det(np.swapaxes(a, 0, 1)),
        lambda a: L.norm(a),
        lambda a: L.norm(a, axis=0),
        lambda a: L.norm(a, "nuc", axis=(0, 1)),
        lambda a: L.solve(a[:, 0], V),
        lambda a: L.svdvals(a[..., 0]),
    ],
)
def test_linear_algebra_over_the_batch_mixes_samples(f):
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(f)(A)


def test_a_batch_axis_behind_the_matrices_moves_to_the_front():
    x = np.moveaxis(A, 0, -1)
    J = mj.jacobian(lambda x: L.inv(np.moveaxis(x, -1, 0)), batch_axis=-1)(x)
    close(J, mj.jacobian(L.inv)(A))


def test_lstsq_returns_what_numpys_does():
    for a, b in ((TALL[0], random(4, seed=1)), (TALL[0], random(4, 3, seed=1)), (WIDE[0], random(2, seed=2))):
        expected = L.lstsq(a, b)
        seen: list[Any] = []
        mj.jvp(lambda a, b=b, seen=seen: seen.extend(L.lstsq(a, b)) or a, (a,), (a,))
        for actual, wanted in zip(map(mj.stop_gradient, seen), expected, strict=True):
            close(actual, wanted)
        f = lambda a, b=b: [y for y in L.lstsq(a, b)[:2] if y.size] + [L.lstsq(a, b)[3]]
        mj.testing.check_derivatives(f, a, batch_axis=None)


def test_lstsq_of_a_stack_is_refused_as_by_numpy():
    a, b = random(3, 4, 2), random(3, 4, 1)
    for f in (lambda a: L.lstsq(a, b)[0], lambda a: L.lstsq(a[0], b)[0]):
        with pytest.raises(L.LinAlgError):
            f(a)
        with pytest.raises(L.LinAlgError, match="pinv"):
            mj.jacobian(f)(a)


def test_tensorsolve_and_tensorinv():
    a, b = random(2, 3, 6, seed=1), random(2, 3, seed=2)
    f = lambda a, b: L.tensorsolve(a, b)
    close(mj.jvp(f, (a, b), (a, b))[0], f(a, b))
    mj.testing.check_derivatives(f, a, b, batch_axis=None)
    f = lambda a: L.tensorsolve(a, b, axes=(0,))
    c = random(6, 2, 3, seed=3)
    close(mj.jvp(f, (c,), (c,))[0], f(c))
    g = lambda a: L.tensorinv(a, 1)
    close(mj.jvp(g, (c,), (c,))[0], g(c))
    mj.testing.check_derivatives(g, c, batch_axis=None)


# --- singular, repeated, rank-deficient ------------------------------------------------------------------------

RANK_TWO = np.diag([1.0, 2.0, 0.0])
RANK_ONE = np.outer([1.0, 2.0, 3.0], [1.0, -1.0, 0.5])


def cofactors(a: np.ndarray) -> np.ndarray:
    """By minors."""
    minor = lambda i, j: L.det(np.delete(np.delete(a, i, 0), j, 1))
    return np.array([[(-1) ** (i + j) * minor(i, j) for j in range(3)] for i in range(3)])


def second_cofactors() -> np.ndarray:
    """The second derivative of the determinant of 3 x 3 matrices is linear in them: that at each unit matrix."""

    def at(a: np.ndarray) -> np.ndarray:
        levi = np.zeros((3, 3, 3))
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            levi[i, j, k], levi[i, k, j] = 1.0, -1.0
        return np.einsum("ikm,jln,mn->ijkl", levi, levi, a)

    return np.stack([at(e.reshape(3, 3)) for e in np.eye(9)], -1)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("a", [RANK_TWO, RANK_ONE, np.zeros((3, 3)), A[0]])
def test_det_has_finite_derivatives_at_singular_matrices(a, mode):
    x = np.stack([a, A[1]])
    close(mj.jacobian(L.det, mode=mode)(x)[0], cofactors(a), 1e-10, 1e-12)
    H = mj.jacobian(mj.jacobian(L.det, mode=mode), mode=mode)(x)[0]
    close(H, second_cofactors() @ a.reshape(9), 1e-10, 1e-12)


def test_slogdet_is_infinite_at_singular_matrices():
    a = np.array([[[1.0, 2.0], [2.0, 4.0]], [[1.0, 0.0], [0.0, 2.0]]])
    with np.errstate(divide="ignore"):
        y, J = mj.value_and_jacobian(lambda a: L.slogdet(a)[1])(a)
    assert y[0] == -np.inf
    assert np.isinf(J[0]).all()
    close(J[1], np.diag([1.0, 0.5]))


def test_singular_matrices_raise_numpys_error():
    for f in (L.inv, lambda a: L.solve(a, V[0])):
        with pytest.raises(L.LinAlgError, match=r"[Ss]ingular"):
            mj.jacobian(f)(np.stack([RANK_TWO, EYE]))
    with pytest.raises(L.LinAlgError, match="ositive definite"):
        mj.jacobian(L.cholesky)(-A)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_repeated_eigenvalues(mode):
    """The values' derivatives are finite, and those of functions of all equal ones exact; vectors have none."""
    x = np.stack([np.diag([2.0, 1.0, 2.0]), EYE])
    J = mj.jacobian(L.eigvalsh, mode=mode)(x)
    close(J.sum(1), np.stack([EYE, EYE]))
    close(J[0, 0], np.diag([0.0, 1.0, 0.0]))
    close(J, mj.jacobian(lambda a: L.eigh(a)[0], mode=mode)(x))
    with np.errstate(all="ignore"):
        J = mj.jacobian(lambda a: L.eigh(a)[1], mode=mode)(x)
    assert not np.isfinite(J[1]).all()


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_repeated_and_vanishing_singular_values(mode):
    x = np.stack([EYE, RANK_TWO])
    J = mj.jacobian(L.svdvals, mode=mode)(x)
    close(J[0].sum(0), EYE)
    close(J[1, 0], np.diag([0.0, 1.0, 0.0]))
    close(np.abs(J[1, 2]), np.diag([0.0, 0.0, 1.0]))
    close(mj.jacobian(lambda a: L.norm(a, "nuc", axis=(1, 2)), mode=mode)(x)[0], EYE)
    with np.errstate(all="ignore"):
        J = mj.jacobian(lambda a: L.svd(a)[0], mode=mode)(x)
    assert not np.isfinite(J[0]).all()
    assert np.isfinite(J[1]).all()


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_pinv_of_deficient_rank_is_differentiated_at_constant_rank(mode):
    """Along a + t(u v') with u and v in the ranges, where the rank stays: finite differences; torch agrees."""
    x = np.stack([RANK_ONE, np.array([[1.0, 1.0, 0.0]] * 3)])
    J = mj.jacobian(L.pinv, mode=mode)(x)
    t = torch.tensor(x)
    expected = np.stack([torch.autograd.functional.jacobian(TL.pinv, s).numpy() for s in t])
    close(J, expected, 1e-9, 1e-11)
    h = 1e-6
    for i, (u, v) in enumerate((([1.0, 0.0, 2.0], [1.0, -1.0, 0.5]), ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0]))):
        d = np.outer(u, v)
        slope = (L.pinv(x[i] + h * d, 1e-9) - L.pinv(x[i] - h * d, 1e-9)) / (2 * h)
        close(np.tensordot(J[i], d, 2), slope, 1e-6, 1e-7)


@pytest.mark.parametrize("order", [None, 2, 1, 3, 0.5, 1.5, np.inf, -np.inf, 0])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_norms_of_vectors_at_zero(order, mode):
    f = lambda x: L.norm(x, order, axis=1)
    x = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, -1.0]])
    J = mj.jacobian(f, mode=mode)(x)
    close(J[0], np.zeros(3))
    assert J[1, 0] == 0.0
    assert np.isfinite(J).all()
    H = mj.jacobian(mj.jacobian(f, mode=mode), mode=mode)(x)
    assert np.isfinite(H[1]).all()
    assert np.isnan(H[0]).all() if order in (None, 2) else np.isfinite(H[0]).all()  # a kink has no second derivative


@pytest.mark.parametrize("order", ["fro", "nuc", 1, 2, np.inf])
def test_norms_of_matrices_at_zero(order):
    assert not mj.jacobian(lambda x: L.norm(x, order, axis=(1, 2)))(np.zeros((2, 3, 3))).any()


def test_what_has_no_derivative_says_so():
    for f, text in (
        (lambda a: L.svd(a), "full_matrices=False"),
        (lambda a: L.qr(a, "complete"), "mode='reduced'"),
    ):
        with pytest.raises(mj.UnsupportedOperationError, match=text):
            mj.jacobian(f)(TALL if "full" in text or "mode" in text else A)
    assert mj.jacobian(lambda a: a * L.matrix_rank(a)[:, None, None])(A).shape == (3, 3, 3, 3, 3)
    with pytest.raises(L.LinAlgError, match="square"):
        mj.jacobian(L.inv)(TALL)


def test_single_precision_stays():
    x = A.astype(np.float32)
    for f in (L.inv, L.det, L.svdvals, L.pinv, lambda a: L.cholesky(spd(a).astype(np.float32)), lambda a: L.qr(a)[0]):
        for mode in ("forward", "reverse"):
            y, J = mj.value_and_jacobian(f, mode=mode)(x)
            assert y.dtype == J.dtype == np.float32


def test_compiled_linear_algebra_is_the_same():
    """Also where the matrices of the first call were regular and a later one is not."""
    for f in (
        L.det,
        lambda a: L.slogdet(a)[1],
        lambda a: L.eigh(spd(a))[0],
        lambda a: np.square(L.svd(a)[0]),
        lambda a: L.qr(a)[1],
        lambda a: L.solve(spd(a), V[0]),
        lambda a: L.norm(a, axis=(1, 2)),
    ):
        for g in (mj.jacobian(f), mj.jacobian(mj.jacobian(f))):
            compiled = mj.compile(g)
            compiled(A[::-1] + 0.1)
            close(compiled(A), g(A), 1e-9, 1e-9)
    singular = np.stack([RANK_TWO, RANK_ONE, np.zeros((3, 3))])
    compiled = mj.compile(mj.hessian(L.det))
    compiled(A)
    close(compiled(singular), mj.hessian(L.det)(singular))
