"""Products of NumPy and what is made of them: against NumPy, and per sample against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import agrees_with_torch, close, random

import minijac as mj

torch = pytest.importorskip("torch")

X, Y, M = random(3, 4, seed=1), random(3, 4, seed=2), random(4, 2, seed=3)
S = random(3, 2, 4, seed=4)
SQUARE = random(3, 3, 3, seed=5)
V3, W3 = random(3, 3, seed=6), random(3, 2, 3, seed=7)
DEEP = random(2, 4, 3, seed=8)
U2 = random(3, 2, seed=9)

# name: NumPy's, torch's, arguments, batch axes
PER_SAMPLE: dict[str, tuple[Any, Any, tuple[Any, ...], Any]] = {
    "matmul": (np.matmul, torch.matmul, (X, M), (0, None)),
    "matmul of stacks": (np.matmul, torch.matmul, (S, random(3, 4, 3, seed=11)), 0),
    "matmul with a vector": (np.matmul, torch.matmul, (S, random(4, seed=12)), (0, None)),
    "matmul of a shared stack": (np.matmul, torch.matmul, (random(2, 1, 4, seed=13), random(3, 1, 4, 2)), (None, 0)),
    "dot": (np.dot, lambda a, b: a @ b, (X, M), (0, None)),
    "dot in three dimensions": (np.dot, lambda a, b: torch.tensordot(a, b, ([-1], [-2])), (X, DEEP), (0, None)),
    "dot method": (lambda x, m: x.dot(m), lambda x, m: x @ m, (X, M), (0, None)),
    "inner": (np.inner, lambda a, b: a @ b.T, (X, random(5, 4, seed=14)), (0, None)),
    "tensordot": (lambda a, b: np.tensordot(a, b, ((1, 2), (0, 1))), lambda a, b: torch.tensordot(a, b, 2),
                  (S, random(2, 4, 3, seed=15)), (0, None)),
    "einsum of pairs": (lambda a, b: np.einsum("bi,bi->b", a, b), lambda a, b: (a * b).sum(1), (X, Y), 0),
    "einsum bilinear": (lambda a, m, b: np.einsum("bi,ij,bj->b", a, m, b),
                        lambda a, m, b: torch.einsum("bi,ij,bj->b", a, m, b), (X, M, U2), (0, None, 0)),
    "einsum implicit": (lambda a, m: np.einsum("bi,ij", a, m), lambda a, m: a @ m, (X, M), (0, None)),
    "einsum with blanks": (lambda a, m: np.einsum("b i, i j -> b j", a, m), lambda a, m: a @ m, (X, M), (0, None)),
    "einsum ellipsis": (lambda a, m: np.einsum("...i,ij->...j", a, m), lambda a, m: a @ m, (S, M), (0, None)),
    "einsum implicit ellipsis": (lambda a, m: np.einsum("...i,ij", a, m), lambda a, m: a @ m, (S, M), (0, None)),
    "einsum trace": (lambda a: np.einsum("bii->b", a), lambda a: torch.einsum("bii->b", a), (SQUARE,), 0),
    "einsum diagonal": (lambda a: np.einsum("...ii->...i", a), lambda a: a.diagonal(0, 1, 2), (SQUARE,), 0),
    "einsum of the same twice": (lambda a: np.einsum("bij,bjk->bik", a, a), lambda a: a @ a, (SQUARE,), 0),
    "einsum transposed": (lambda a: np.einsum("bij->jbi", a).transpose(1, 0, 2), lambda a: a.transpose(1, 2), (S,), 0),
    "einsum lists": (lambda a, m: np.einsum(a, [0, 1], m, [1, 2], [0, 2]), lambda a, m: a @ m, (X, M), (0, None)),
    "einsum implicit lists": (lambda a, m: np.einsum(a, [..., 1], m, [1, 2]), lambda a, m: a @ m, (S, M), (0, None)),
    "einsum broadcast": (lambda a, b: np.einsum("bij,bij->bi", a, b), lambda a, b: (a * b).sum(-1),
                         (random(3, 2, 1, seed=16), S), 0),
    "vecdot": (np.vecdot, lambda a, b: (a * b).sum(-1), (S, X[:, None]), 0),
    "vecdot along an axis": (lambda a, b: np.vecdot(a, b, axis=1), lambda a, b: (a * b).sum(1), (S, 2 * S), 0),
    "linalg.vecdot": (np.linalg.vecdot, lambda a, b: (a * b).sum(-1), (X, Y), 0),
    "cross": (np.cross, lambda a, b: torch.linalg.cross(a, b), (V3, W3[:, 0]), 0),
    "cross with one vector": (np.cross, lambda a, b: torch.linalg.cross(a, b.expand(a.shape)), (W3, V3[0]), (0, None)),
    "cross along an axis": (lambda a, b: np.cross(a, b, axis=1), lambda a, b: torch.linalg.cross(a, b, dim=1),
                            (SQUARE, 2 + SQUARE), 0),
    "linalg.cross": (np.linalg.cross, lambda a, b: torch.linalg.cross(a, b), (V3, W3[:, 1]), 0),
    "kron": (lambda a, m: np.kron(np.expand_dims(a, 1), m[None])[:, :, 1:],
             lambda a, m: torch.stack([torch.kron(row[None], m) for row in a])[:, :, 1:], (X, M), (0, None)),
    "multi_dot": (lambda a, m, n: np.linalg.multi_dot([a, m, n]), lambda a, m, n: a @ m @ n,
                  (X, M, random(2, 5, seed=17)), (0, None, None)),
    "multi_dot to a vector": (lambda a, m, n: np.linalg.multi_dot([a, m, n]), lambda a, m, n: a @ m @ n,
                              (X, M, random(2, seed=18)), (0, None, None)),
    "matrix_power": (lambda a: np.linalg.matrix_power(a, 5), lambda a: torch.linalg.matrix_power(a, 5), (SQUARE,), 0),
    "inverse matrix_power": (lambda a: np.linalg.matrix_power(a, -2), lambda a: torch.linalg.matrix_power(a, -2),
                             (SQUARE,), 0),
    "polyval": (np.polyval, lambda p, x: p[0] * x**3 + p[1] * x**2 + p[2] * x + p[3],
                (np.array([2.0, -1.0, 0.5, 3.0]), X), (None, 0)),
}  # fmt: skip
if hasattr(np, "matvec"):
    PER_SAMPLE["matvec"] = (np.matvec, lambda a, b: (a @ b[..., None])[..., 0], (S, X), 0)
    PER_SAMPLE["vecmat"] = (np.vecmat, lambda a, b: (a[..., None, :] @ b)[..., 0, :], (X, random(3, 4, 2)), 0)
SECOND = {"matmul of stacks", "einsum bilinear", "einsum of the same twice", "cross", "matrix_power", "vecdot",
          "inverse matrix_power", "multi_dot", "polyval", "dot in three dimensions"}  # fmt: skip


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_per_sample_derivatives(name):
    f, torch_f, args, axes = PER_SAMPLE[name]
    argnums = range(len(args))
    agrees_with_torch(f, torch_f, *args, argnums=argnums, batch_axis=axes, order=2 if name in SECOND else 1)


@pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning")
@pytest.mark.parametrize(
    "f",
    [
        lambda a: np.vdot(a, a),
        lambda a: np.outer(a, a),
        lambda a: np.kron(a, a),
        lambda a: np.tensordot(a, a, axes=0),
        lambda a: np.inner(a, a),
        lambda a: np.cross(a[0, :3], a[1, :3]),
        lambda a: np.cross(a[:, :2], a[:, 2:]),
        lambda a: np.cross(a[:, :2], a[:, 1:4]),
        lambda a: np.linalg.outer(a[0], a[1]),
        lambda a: np.convolve(a[0], a[1]),
        lambda a: np.correlate(a[0], a[1, :2], "same"),
        lambda a: np.dot(a[0], 2.0) + np.dot(3.0, a[1]),
    ],
)
def test_products_of_whole_arrays(f):
    """Without a batch, both modes and finite differences agree, twice; the value is NumPy's."""
    close(mj.jvp(f, (X,), (X,))[0], f(X))
    mj.testing.check_derivatives(f, X, batch_axis=None, order=2)


@pytest.mark.parametrize("function", [np.convolve, np.correlate])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("sizes", [(6, 3), (3, 6), (5, 4), (4, 5), (4, 4), (1, 3), (1, 1)])
def test_convolve_and_correlate(function, mode, sizes):
    """Bilinear, so that the Jacobian times the operand is the value, and with unit vectors the Jacobian itself."""
    a, v = random(sizes[0], seed=1), random(sizes[1], seed=2)
    expected = function(a, v, mode)
    y, (J, K) = mj.value_and_jacobian(lambda a, v: function(a, v, mode), (0, 1), batch_axis=None)(a, v)
    close(y, expected)
    close(J, np.stack([function(e, v, mode) for e in np.eye(len(a))], axis=-1))
    close(K, np.stack([function(a, e, mode) for e in np.eye(len(v))], axis=-1))


@pytest.mark.parametrize(
    "f",
    [
        lambda a: np.einsum("bi,ci->bc", a, a),
        lambda a: np.einsum("bi->i", a),
        lambda a: np.tensordot(a, a, axes=((0,), (0,))),
        lambda a: np.matmul(np.ones((3, 3)), a),
        lambda a: np.vdot(a, a),
    ],
)
def test_products_over_the_batch_mix_samples(f):
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(f)(X)


def test_a_batch_axis_in_the_middle_passes_through_einsum():
    x = random(2, 5, 4, seed=20)
    J = mj.jacobian(lambda x: np.einsum("ibj,jk->kbi", x, M), batch_axis=1)(x)
    close(J, np.broadcast_to(np.einsum("jk,il->kilj", M, np.eye(2)), (5, 2, 2, 2, 4)))


def test_a_large_einsum_is_numpys():
    a, b = random(20, 30, 40, seed=1), random(20, 40, 30, seed=2)
    for subscripts in ("bij,bjk->bik", "bij,bji->b", "bij,cjk->bcik", "bij,bjk->kbi", "bij,bkl->b", "bij,bjj->bi"):
        second = b[:, :, :1].repeat(40, 2) if subscripts == "bij,bjj->bi" else b
        y, y_dot = mj.jvp(lambda a, s=subscripts, m=second: np.einsum(s, a, m), (a,), (a,))
        close(y, np.einsum(subscripts, a, second), 1e-9, 1e-9)
        close(y_dot, y, 1e-9, 1e-9)


@pytest.mark.parametrize("subscripts", ["bi,ij->bk", "bi,i", "bi,ij,k", "bi,ij->bj"])
def test_impossible_products_raise(subscripts):
    with pytest.raises(ValueError, match=r"subscript|dimension|broadcast"):
        mj.jacobian(lambda a: np.einsum(subscripts, a, M[:3]))(X)


# --- interpolation and polynomials --------------------------------------------------------------------------

KNOTS = np.array([-1.0, -0.2, 0.5, 2.0])
LEVELS = np.array([3.0, -1.0, 0.5, 4.0])


def torch_interp(x: Any, xp: Any, fp: Any) -> Any:
    k = torch.clamp(torch.searchsorted(xp.detach(), x.detach(), right=True) - 1, 0, len(xp) - 2)
    inside = fp[k] + (fp[k + 1] - fp[k]) / (xp[k + 1] - xp[k]) * (x - xp[k])
    return torch.where(x < xp[0], fp[0], torch.where(x > xp[-1], fp[-1], inside))


def test_interp():
    x = random(3, 4, seed=1, low=-1.5, high=2.5)
    agrees_with_torch(np.interp, torch_interp, x, KNOTS, LEVELS, argnums=(0, 1, 2), batch_axis=(0, None, None), order=2)


def test_interp_options_keep_numpys_value():
    x = random(3, 4, seed=1, low=-9.0, high=9.0)
    for options in ({"left": -5.0}, {"right": 7.0}, {"period": 2.5}, {"period": 3.5}):
        f = lambda x, options=options: np.interp(x, KNOTS, LEVELS, **options)
        y, J = mj.value_and_jacobian(f)(x)
        close(y, f(x))
        mj.testing.check_derivatives(f, x)
    f = lambda x: np.interp(x, [0.5], [2.0], left=1.0)
    close(mj.value_and_jacobian(f)(x)[0], f(x))


def test_interp_has_at_a_knot_the_slope_to_its_right():
    slopes = np.diff(LEVELS) / np.diff(KNOTS)
    J = mj.jacobian(lambda x: np.interp(x, KNOTS, LEVELS))(KNOTS)
    close(J, np.array([slopes[0], slopes[1], slopes[2], slopes[2]]))


def test_products_of_plain_and_traced_lists():
    close(mj.grad(lambda x: np.dot(x, [1.0, 2.0]))(np.ones(2)), np.array([1.0, 2.0]))
    close(mj.grad(lambda x: np.inner([1.0, 2.0], x))(np.ones(2)), np.array([1.0, 2.0]))


P, R = np.array([2.0, -1.0, 0.5, 3.0]), np.array([1.5, 0.3, -2.0])


@pytest.mark.parametrize(
    "f, args",
    [
        (np.polyadd, (P, R)),
        (np.polysub, (R, P)),
        (np.polymul, (P, R)),
        (lambda u, v: np.concatenate(np.polydiv(u, v)), (P, R)),
        (lambda u, v: np.concatenate(np.polydiv(u, v)), (R, P)),
        (lambda p: np.polyder(p, 2), (P,)),
        (lambda p: np.polyint(p), (P,)),
        (lambda p, k: np.polyint(p, 2, k), (P, R[:2])),
        (np.poly, (P,)),
        (lambda x, y: np.polyfit(x, y, 2), (random(6, seed=1), random(6, seed=2))),
        (lambda x, y: np.polyfit(x, y, 1, w=np.arange(1.0, 7.0)), (random(6, seed=1), random(6, 2, seed=2))),
        (np.i0, (P,)),
    ],
)
def test_polynomials(f, args):
    close(mj.jvp(f, args, args)[0], f(*args))
    mj.testing.check_derivatives(f, *args, batch_axis=None, order=2)
