"""Products and linear algebra."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ...backend import Wrapped, namespace, value_of
from ...errors import UnsupportedOperationError
from ...ops.linalg import T
from ...ops.multilinear import matmul
from ..tensors import tensor_of
from .reductions import vector_norm
from .registry import ALIKE, COMPLEX, TABLE, aten


# -- products ----------------------------------------------------------------------------------------------------------
def _sum_of(x: Any, product: Any, beta: Any, alpha: Any) -> Any:
    y = product if alpha == 1 else product * alpha
    return y if beta == 0 else y + (x if beta == 1 else x * beta)


def _added(product: Any) -> Any:
    return lambda x, a, b, beta=1, alpha=1: _sum_of(x, product(a, b), beta, alpha)


def vdot(a: Any, b: Any) -> Any:
    return np.matmul(np.conj(a), b)


def cross(a: Any, b: Any, dim: int = -1) -> Any:
    a, b = np.broadcast_arrays(a, b) if a.shape != b.shape else (a, b)
    return np.cross(a, b, axis=dim)


def cdist(a: Any, b: Any, p: float = 2.0, mode: Any = None) -> Any:
    gaps = np.expand_dims(a, -2) - np.expand_dims(b, -3)
    if not gaps.shape[-1]:
        return namespace(a).zeros(gaps.shape[:-1], a.dtype)
    return vector_norm(gaps, p, -1)


def pdist(x: Any, p: float = 2.0) -> Any:
    rows, columns = np.triu_indices(len(x), 1)
    return vector_norm(x[rows] - x[columns], p, -1)


def solve(a: Any, b: Any) -> Any:
    if not np.size(b):
        return b
    return np.linalg.solve(a, b)


# -- systems -----------------------------------------------------------------------------------------------------------
def _info(a: Any) -> Any:
    return np.zeros(a.shape[:-2], np.int32)


def _factors(a: Any, factor: Any = torch.linalg.lu_factor) -> tuple[Any, Any]:
    """torch's LU and pivots of the plain numbers."""
    value = value_of(a)
    if isinstance(value, Wrapped):
        value._refuse("the pivots of a matrix")  # type: ignore[attr-defined]
    lu, pivots, *_ = factor(tensor_of(value).clone())
    return lu.numpy(), pivots.numpy()


def _beside(a: Any) -> tuple[Any, Any]:
    """What torch's own derivative would use, which is not asked for; NaN in a recording, where no numbers are known."""
    if isinstance(value_of(a), Wrapped):
        return np.full(a.shape, math.nan, a.dtype), np.zeros(a.shape[:-1], np.int32)
    return _factors(a, torch.linalg.lu_factor_ex)  # singular ones too


def det(a: Any) -> Any:
    return np.linalg.det(a), *_beside(a)


def slogdet(a: Any) -> Any:
    sign, logabs = np.linalg.slogdet(a)
    return sign, logabs, *_beside(a)


def solve_ex(a: Any, b: Any, left: bool = True, check_errors: bool = False) -> Any:
    vector = b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])
    b = np.expand_dims(b, -1) if vector else b
    y = solve(a, b) if left else T(solve(T(a), T(b)))
    return (np.squeeze(y, -1) if vector else y), *_beside(a), _info(a)


def _triangle(a: Any, upper: bool, unit: bool) -> Any:
    a = np.triu(a, int(unit)) if upper else np.tril(a, -int(unit))
    return a + np.eye(a.shape[-1], dtype=a.dtype) if unit else a


def solve_triangular(a: Any, b: Any, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    a = _triangle(a, upper, unitriangular)
    return solve(a, b) if left else T(solve(T(a), T(b)))


def triangular_solve(b: Any, a: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> Any:
    own = _triangle(a, upper, unitriangular)
    return solve(T(own) if transpose else own, b), a


def cholesky_ex(a: Any, upper: bool = False, check_errors: bool = False) -> Any:
    if np.prod(a.shape) == 0:
        return a, _info(a)
    lower = np.linalg.cholesky(T(a) if upper else a)
    return (T(lower) if upper else lower), _info(a)


def cholesky_solve(b: Any, factor: Any, upper: bool = False) -> Any:
    lower = np.tril(T(factor)) if upper else np.tril(factor)
    return solve(T(lower), solve(lower, b))


def qr(a: Any, mode: str = "reduced") -> Any:
    if mode == "r":
        return np.zeros(0, a.dtype), np.linalg.qr(a, "r")
    q, r = np.linalg.qr(a, mode)  # type: ignore[call-overload]
    return q, r


def eigh(a: Any, uplo: str = "L", compute_v: bool = True) -> Any:
    w, v = np.linalg.eigh(a, uplo)  # type: ignore[call-overload]
    return w, (v if compute_v else np.zeros(0, w.dtype))


def eig(a: Any) -> Any:
    """Complex, also where all eigenvalues are real."""
    return tuple([x if x.dtype.kind == "c" else x + 0j for x in np.linalg.eig(a)])


def eigvals(a: Any) -> Any:
    w = np.linalg.eigvals(a)
    return w if w.dtype.kind == "c" else w + 0j


def svd(a: Any, full_matrices: bool = False, compute_uv: bool = True, driver: Any = None) -> Any:
    if not compute_uv:
        s = np.linalg.svd(a, compute_uv=False)
        return np.zeros(0, s.dtype), s, np.zeros(0, s.dtype)
    return tuple(np.linalg.svd(a, full_matrices=full_matrices))


def pinv(a: Any, rcond: Any = None, hermitian: bool = False) -> Any:
    a = np.tril(a) + T(np.tril(a, -1)) if hermitian else a
    rcond = max(a.shape[-2:]) * float(np.finfo(a.dtype).eps) if rcond is None else rcond
    return np.linalg.pinv(a, rcond)


def pinv_tolerances(a: Any, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    if atol is not None and np.any(value_of(atol) != 0):
        raise UnsupportedOperationError("torch.linalg.pinv: atol= is not followed; give rtol=.")
    rtol = None if rtol is None else value_of(rtol)
    return pinv(a, rtol, hermitian)


def _without_pivots(a: Any) -> tuple[Any, Any]:
    """Unit lower and upper factors of matrices whose rows are in the order of the pivots, column by column."""
    m, n = a.shape[-2:]
    k = min(m, n)
    columns, rows = [], []
    for j in range(k):
        row = a[..., j : j + 1, :]
        column = a[..., :, j : j + 1] / a[..., j : j + 1, j : j + 1]
        keep = (np.arange(m) >= j).astype(a.dtype)[:, None]
        columns.append(column * keep)
        rows.append(row * (np.arange(n) >= j).astype(a.dtype))
        a = a - columns[-1] * rows[-1]
    lower = np.concatenate(columns, -1) if columns else np.zeros((*a.shape[:-1], 0), a.dtype)
    upper = np.concatenate(rows, -2) if rows else np.zeros((*a.shape[:-2], 0, n), a.dtype)
    return lower, upper


def _permutation(pivots: Any, m: int) -> Any:
    """Pivots as torch has them, (..., k) from one, as matrices P with ``a = P L U``."""
    pivots = value_of(pivots)
    order = np.broadcast_to(np.arange(m), (*pivots.shape[:-1], m)).copy()
    flat, steps = order.reshape(-1, m), pivots.reshape(-1, pivots.shape[-1])
    for row, swaps in zip(flat, steps, strict=True):
        for i, j in enumerate(swaps):
            row[[i, j - 1]] = row[[j - 1, i]]
    return np.eye(m)[flat].swapaxes(-1, -2).reshape(*order.shape, m)


def lu_factor_ex(a: Any, pivot: bool = True, check_errors: bool = False) -> Any:
    m, n = a.shape[-2:]
    pivots = _factors(a)[1] if pivot else np.broadcast_to(np.arange(1, min(m, n) + 1, dtype=np.int32),
                                                           (*a.shape[:-2], min(m, n)))  # fmt: skip
    order = _permutation(pivots, m).astype(a.dtype)
    lower, upper = _without_pivots(np.matmul(T(order), a))
    k = min(m, n)
    packed = np.pad(np.tril(lower, -1), [(0, 0)] * (a.ndim - 1) + [(0, n - k)])
    return packed + np.pad(upper, [(0, 0)] * (a.ndim - 2) + [(0, m - k), (0, 0)]), pivots.copy(), _info(a)


def lu(a: Any, pivot: bool = True) -> Any:
    order = _permutation(_factors(a)[1], a.shape[-2]).astype(a.dtype)
    return order, *_without_pivots(np.matmul(T(order), a))


def lu_unpack(packed: Any, pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:
    m, n = packed.shape[-2:]
    k = min(m, n)
    lower = np.tril(packed[..., :, :k], -1) + np.eye(m, k, dtype=packed.dtype)
    empty = np.zeros(0, packed.dtype)
    return (
        _permutation(pivots, m).astype(packed.dtype) if unpack_pivots else empty,
        lower if unpack_data else empty,
        np.triu(packed[..., :k, :]) if unpack_data else empty,
    )


def lu_solve(packed: Any, pivots: Any, b: Any, left: bool = True, adjoint: bool = False) -> Any:
    order, lower, upper = lu_unpack(packed, pivots)
    a = np.matmul(order, np.matmul(lower, upper))
    a = T(a) if adjoint else a
    return solve(a, b) if left else T(solve(T(a), T(b)))


# -- functions of matrices ---------------------------------------------------------------------------------------------
_PADE = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0, 129060195264000.0,
    10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip


def matrix_exp(a: Any) -> Any:
    """Scaling and squaring with the Pade approximant of order 13 (Higham, SIAM J. Matrix Anal. Appl. 26, 2005)."""
    if not np.prod(a.shape):
        return a
    size = float(np.abs(value_of(a)).sum(-2).max())
    squarings = max(0, math.ceil(math.log2(size / 5.371920351148152))) if size > 0 and math.isfinite(size) else 0
    a = a * 2.0**-squarings
    b, one = _PADE, np.eye(a.shape[-1], dtype=a.dtype)
    a2 = np.matmul(a, a)
    a4 = np.matmul(a2, a2)
    a6 = np.matmul(a2, a4)
    u = np.matmul(a6, b[13] * a6 + b[11] * a4 + b[9] * a2) + b[7] * a6 + b[5] * a4 + b[3] * a2 + b[1] * one
    u = np.matmul(a, u)
    v = np.matmul(a6, b[12] * a6 + b[10] * a4 + b[8] * a2) + b[6] * a6 + b[4] * a4 + b[2] * a2 + b[0] * one
    y = solve(v - u, v + u)
    for _ in range(squarings):
        y = np.matmul(y, y)
    return y


def householder_product(a: Any, tau: Any) -> Any:
    """The first columns of the product of reflections ``I - tau v v^T`` that LAPACK keeps below the diagonal."""
    m, n = a.shape[-2:]
    q: Any = np.broadcast_to(np.eye(m, n, dtype=a.dtype), a.shape)
    for k in reversed(range(tau.shape[-1])):
        q = _reflected(a, tau, k, q)
    return q


def _reflected(a: Any, tau: Any, k: int, q: Any) -> Any:
    m = a.shape[-2]
    below = (np.arange(m) > k).astype(a.dtype)
    v = np.expand_dims(a[..., :, k] * below + (np.arange(m) == k).astype(a.dtype), -1)
    return q - tau[..., k : k + 1, None] * np.matmul(v, np.matmul(T(v), q))


def ormqr(a: Any, tau: Any, c: Any, left: bool = True, transpose: bool = False) -> Any:
    if not left:
        return T(ormqr(a, tau, T(c), True, not transpose))
    order = range(tau.shape[-1])
    for k in order if transpose else reversed(order):
        c = _reflected(a, tau, k, c)
    return c


def lstsq(a: Any, b: Any, rcond: Any = None, driver: Any = None) -> Any:
    vector = b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])
    right = np.expand_dims(b, -1) if vector else b
    y = np.matmul(pinv(a, rcond), right)
    rank = np.linalg.matrix_rank(value_of(a))
    empty = np.zeros(0, a.dtype)
    m, n = a.shape[-2:]
    residuals = (
        np.sum(np.square(np.matmul(a, y) - right), axis=-2)
        if m > n and driver != "gelsy" and np.all(rank == n)
        else empty
    )
    return (np.squeeze(y, -1) if vector else y), residuals, np.asarray(rank), empty


TABLE.update({
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv, aten.dot, aten.matmul), matmul), aten.vdot: vdot,
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv), _added(matmul)),
    aten.addr: _added(lambda a, b: np.expand_dims(a, 1) * b),
    aten.addbmm: _added(lambda a, b: np.sum(np.matmul(a, b), axis=0)), aten.linalg_cross: cross,
    aten._cdist_forward: cdist, aten._euclidean_dist: cdist, aten.cdist: cdist, aten._pdist_forward: pdist,
    aten._linalg_det: det, aten._linalg_slogdet: slogdet, aten._linalg_solve_ex: solve_ex,
    aten.linalg_inv_ex: lambda a, check_errors=False: (np.linalg.inv(a), _info(a)),
    aten.linalg_solve_triangular: solve_triangular, aten.triangular_solve: triangular_solve,
    aten.linalg_cholesky_ex: cholesky_ex, aten.cholesky: lambda a, upper=False: cholesky_ex(a, upper)[0],
    aten.cholesky_solve: cholesky_solve, aten.cholesky_inverse: lambda a, upper=False:
        cholesky_solve(np.broadcast_to(np.eye(a.shape[-1], dtype=a.dtype), a.shape), a, upper),
    aten.linalg_qr: qr, aten._linalg_eigh: eigh, aten.linalg_eig: eig,
    aten.linalg_eigvals: eigvals, aten._linalg_eigvals: eigvals, aten._linalg_svd: svd, aten.linalg_pinv: pinv,
    aten.linalg_pinv.atol_rtol_tensor: pinv_tolerances, aten.linalg_pinv.atol_rtol_float: pinv_tolerances,
    aten.linalg_lu_factor_ex: lu_factor_ex, aten.linalg_lu: lu, aten.lu_unpack: lu_unpack,
    aten.linalg_lu_solve: lu_solve, aten.linalg_matrix_exp: matrix_exp,
    aten.linalg_householder_product: householder_product, aten.ormqr: ormqr, aten.linalg_lstsq: lstsq,
    aten.einsum: lambda equation, tensors, path=None: np.einsum(equation, *tensors),
})  # fmt: skip
COMPLEX.update((
    aten.mm, aten.bmm, aten.mv, aten.dot, aten.vdot, aten.matmul, aten.addmm, aten.baddbmm, aten.addmv, aten.addbmm,
    aten.einsum, aten.linalg_inv_ex, aten._linalg_solve_ex, aten.linalg_solve_triangular, aten.linalg_matrix_exp,
    aten.linalg_eig, aten.linalg_eigvals, aten._linalg_eigvals,
))  # fmt: skip

ALIKE.update((
    aten.mm, aten.bmm, aten.mv, aten.dot, aten.vdot, aten.matmul, aten.addmm, aten.baddbmm, aten.addmv, aten.addbmm,
    aten._linalg_solve_ex, aten._cdist_forward, aten._euclidean_dist,
))  # fmt: skip


# -- Fourier transforms ------------------------------------------------------------------------------------------------
def _norm(normalization: int, forward: bool) -> Any:
    """NumPy's word for how torch's transforms are scaled: not at all, by the root of n, or by n."""
    return ("backward" if forward else "forward", "ortho", "forward" if forward else "backward")[normalization]


def fft_of_complex(x: Any, dims: Any, normalization: int, forward: bool) -> Any:
    transform = np.fft.fftn if forward else np.fft.ifftn
    return transform(x, axes=tuple(dims), norm=_norm(normalization, forward))


def fft_of_reals(x: Any, dims: Any, normalization: int, onesided: bool) -> Any:
    transform = np.fft.rfftn if onesided else np.fft.fftn
    return transform(x, axes=tuple(dims), norm=_norm(normalization, True))


def fft_to_reals(x: Any, dims: Any, normalization: int, size: int) -> Any:
    sizes = [x.shape[k] for k in dims[:-1]]
    return np.fft.irfftn(x, [*sizes, size], axes=tuple(dims), norm=_norm(normalization, False))


TABLE.update({aten._fft_c2c: fft_of_complex, aten._fft_r2c: fft_of_reals, aten._fft_c2r: fft_to_reals})
COMPLEX.update((aten._fft_c2c, aten._fft_c2r))
