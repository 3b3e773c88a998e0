"""numpy.linalg on traced values: functions of stacks of matrices, whose leading axes pass through."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..backend import is_complex, namespace, on_host, value_of
from ..errors import InputError, UnsupportedOperationError
from ..lines import user_line
from ..ops import eigen, elementwise, linalg
from ..ops.linalg import H, T
from ..tape.traced import Traced
from .pointwise import abs_squared
from .protocol import FUNCTIONS, as_array, as_arrays, axes_of, flag, implements, plain

_ONE = np.ones((1, 1))
# the named tuples in which NumPy returns several results
EigResult, EighResult, SVDResult = type(np.linalg.eig(_ONE)), type(np.linalg.eigh(_ONE)), type(np.linalg.svd(_ONE))
QRResult, SlogdetResult = type(np.linalg.qr(_ONE)), type(np.linalg.slogdet(_ONE))


def _matrices(a: Any, name: str, square: bool = False) -> Any:
    a = as_array(a)
    if a.ndim < 2 or (square and a.shape[-1] != a.shape[-2]):
        kind = "square matrices (..., n, n)" if square else "matrices (..., m, n)"
        raise np.linalg.LinAlgError(f"numpy.linalg.{name} at {user_line()}: expected {kind}, got shape {a.shape}")
    return a


# -- inverses ----------------------------------------------------------------------------------------------------------
@implements(np.linalg.inv)
def inv(a: Any) -> Any:
    return linalg.inv(_matrices(a, "inv", square=True))


@implements(np.linalg.solve)
def solve(a: Any, b: Any) -> Any:
    a, b = as_arrays(a, b)
    a = _matrices(a, "solve", square=True)
    if b.ndim == 1:
        return solve(a, np.expand_dims(b, -1))[..., 0]
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"solve at {user_line()}: shapes {a.shape} and {b.shape} do not fit")
    if a.ndim == 2:  # one matrix for all right-hand sides, which are its columns: it is factorised once
        columns = np.moveaxis(b, -2, 0)
        return np.moveaxis(
            linalg.solve(a, columns.reshape(len(a), columns.size // max(len(a), 1))).reshape(columns.shape), 0, -2
        )
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return linalg.solve(np.broadcast_to(a, lead + a.shape[-2:]), np.broadcast_to(b, lead + b.shape[-2:]))


@implements(np.linalg.pinv)
def pinv(a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Any:
    a = _matrices(a, "pinv")
    rcond = rtol if rcond is None and rtol is not np._NoValue else rcond
    return linalg.pinv(a) if rcond is None else linalg.pinv(a, rcond=rcond)


@implements(np.linalg.lstsq)
def lstsq(a: Any, b: Any, rcond: float | None = None) -> tuple[Any, Any, Any, Any]:
    """By the pseudo-inverse, so that the solution of least norm is differentiated where the rank is deficient."""
    a, b = as_arrays(a, b)
    if a.ndim != 2 or b.ndim > 2:
        raise np.linalg.LinAlgError(
            f"numpy.linalg.lstsq at {user_line()}: expected one matrix (m, n) and b of (m,) or (m, k), got shapes "
            f"{a.shape} and {b.shape}. For a matrix of each sample write np.linalg.pinv(a) @ b."
        )
    m, n = a.shape
    eps = float(np.finfo(a.dtype).eps)
    rcond = eps * max(m, n) if rcond is None else eps if rcond == -1 else rcond
    s = svdvals(a)
    rank = (s > rcond * s[:1]).sum(dtype=np.intc)
    x = np.matmul(linalg.pinv(a, rcond=rcond), b)
    if rank != n or m <= n:
        return x, namespace(a).empty(0, x.dtype), rank, s
    squares = abs_squared(b - np.matmul(a, x)).sum(axis=0)
    return x, squares.reshape(-1), rank, s


@implements(np.linalg.tensorinv)
def tensorinv(a: Any, ind: int = 2) -> Any:
    if ind <= 0:
        raise ValueError(f"tensorinv at {user_line()}: expected ind > 0, got {ind}")
    matrix = np.reshape(a, (prod(a.shape[ind:]), -1))
    return np.reshape(inv(matrix), a.shape[ind:] + a.shape[:ind])


@implements(np.linalg.tensorsolve)
def tensorsolve(a: Any, b: Any, axes: Any = None) -> Any:
    a, b = as_arrays(a, b)
    if axes is not None:
        last = axes_of(a, axes, "tensorsolve")
        a = np.transpose(a, (*(k for k in range(a.ndim) if k not in last), *last))
    unknown = a.shape[b.ndim :]
    return np.reshape(solve(np.reshape(a, (-1, prod(unknown))), np.ravel(b)), unknown)


@implements(np.linalg.matrix_power)
def matrix_power(a: Any, n: int) -> Any:
    a = _matrices(a, "matrix_power", square=True)
    if n == 0:
        return np.broadcast_to(namespace(a).eye(a.shape[-1], dtype=a.dtype), a.shape).copy()
    result, square, n = None, a if n > 0 else inv(a), abs(int(n))
    while n:
        if n % 2:
            result = square if result is None else np.matmul(result, square)
        n //= 2
        square = np.matmul(square, square) if n else square
    return result


# -- determinants ------------------------------------------------------------------------------------------------------
@implements(np.linalg.det)
def det(a: Any) -> Any:
    return linalg.det(_matrices(a, "det", square=True))


@implements(np.linalg.slogdet)
def slogdet(a: Any) -> Any:
    a = _matrices(a, "slogdet", square=True)
    if is_complex(a):
        log = linalg.logdet(a)
        zero = np.real(log) == -np.inf
        return SlogdetResult(np.where(zero, 0.0, np.exp(1j * np.where(zero, 0.0, np.imag(log)))), np.real(log))
    return SlogdetResult(linalg.sign_of_det(a), linalg.logabsdet(a))


# -- decompositions ----------------------------------------------------------------------------------------------------
@implements(np.linalg.cholesky)
def cholesky(a: Any, /, *, upper: bool = False) -> Any:
    a = _matrices(a, "cholesky", square=True)
    return H(linalg.cholesky(H(a))) if upper else linalg.cholesky(a)


def _lower(a: Any, UPLO: str, name: str) -> Any:
    """The matrices of which the lower triangle counts."""
    a = _matrices(a, name, square=True)
    if UPLO.upper() not in ("L", "U"):
        raise ValueError(f"{name} at {user_line()}: expected UPLO='L' or 'U', got {UPLO!r}")
    return a if UPLO.upper() == "L" else H(a)


@implements(np.linalg.eigh)
def eigh(a: Any, UPLO: str = "L") -> Any:
    a = _lower(a, UPLO, "eigh")
    d = linalg.eigh(a)
    return EighResult(linalg.eigenvalues(a, d), linalg.eigenvectors(a, d))


@implements(np.linalg.eigvalsh)
def eigvalsh(a: Any, UPLO: str = "L") -> Any:
    return linalg.eigenvalues(_lower(a, UPLO, "eigvalsh"))


@implements(np.linalg.svd)
def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    a = _matrices(a, "svd")
    if not compute_uv:
        return linalg.singular_values(a)
    if hermitian or (full_matrices and a.shape[-1] != a.shape[-2]):
        raise UnsupportedOperationError(
            f"numpy.linalg.svd at {user_line()}: got shape {a.shape} with full_matrices={full_matrices}, "
            f"hermitian={hermitian}. Singular vectors beyond the rank are arbitrary and have no derivative: write "
            "full_matrices=False, and numpy.linalg.eigh for symmetric matrices."
        )
    d = linalg.svd(a)
    return SVDResult(linalg.left_vectors(a, d), linalg.singular_values(a, d), H(linalg.right_vectors(a, d)))


@implements(np.linalg.svdvals)
def svdvals(a: Any, /) -> Any:
    return linalg.singular_values(_matrices(a, "svdvals"))


@implements(np.linalg.qr)
def qr(a: Any, mode: str = "reduced") -> Any:
    a = _matrices(a, "qr")
    m, n = a.shape[-2:]
    if mode not in ("reduced", "r", "complete") or (mode == "complete" and m > n):
        raise UnsupportedOperationError(
            f"numpy.linalg.qr at {user_line()}: got mode={mode!r} for shape {a.shape}, in which not all has a "
            "derivative. Expected mode='reduced' or 'r'."
        )
    left = a[..., :m] if m < n else a
    d = linalg.qr(left)
    q, r = linalg.qr_q(left, d), linalg.qr_r(left, d)
    if m < n:
        r = np.concatenate([r, np.matmul(H(q), a[..., m:])], axis=-1)
    return r if mode == "r" else QRResult(q, r)


@implements(np.linalg.eigvals)
def eigvals(a: Any) -> Any:
    return real_if_numpys(eigen.eig_values(_matrices(a, "eigvals", square=True)), a)


@implements(np.linalg.eig)
def eig(a: Any) -> Any:
    """The vectors have length one, as NumPy's; their phases do not turn."""
    a = _matrices(a, "eig", square=True)
    d = eigen.eig(a)
    w, v = eigen.eig_values(a, d), eigen.eig_vectors(a, d)
    v = v / elementwise.length(abs_squared(v).sum(axis=-2, keepdims=True))
    return EigResult(real_if_numpys(w, a), v if real_if_numpys(w, a).dtype.kind == "c" else np.real(v))


def real_if_numpys(w: Any, a: Any) -> Any:
    """The eigenvalues, or zeros, of what is given; real ones where it is real and NumPy finds that they all are.

    A program that is being recorded keeps them complex: what they are in a later call it cannot know.
    """
    plain = value_of(w)
    if is_complex(a) or isinstance(plain, Traced) or not on_host(plain):
        return w
    return w if np.any(plain.imag) else np.real(w)


FUNCTIONS[np.linalg.matrix_rank] = plain(np.linalg.matrix_rank)


# -- norms -------------------------------------------------------------------------------------------------------------
@implements(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Any:
    x, keepdims = as_array(x), flag(keepdims)
    if axis is None and (ord is None or (ord == "fro" and x.ndim == 2) or (ord == 2 and x.ndim == 1)):
        return _length(x, tuple(range(x.ndim)), keepdims)
    axes = axes_of(x, axis, "norm")
    if len(axes) == 1:
        return _vector_norm(x, 2 if ord is None else ord, axes, keepdims)
    if len(axes) == 2:
        return _matrix_norm(x, "fro" if ord is None else ord, axes, keepdims)
    raise ValueError(f"norm at {user_line()}: expected one or two axes, got {axis} for shape {x.shape}")


def _length(x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    """The square root of the sum of squares; at zero, its kink, with derivative zero."""
    return elementwise.length((abs_squared(x) if is_complex(x) else np.square(x)).sum(axis=axes, keepdims=keepdims))


def _vector_norm(x: Any, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    if isinstance(ord, str):
        raise ValueError(f"norm at {user_line()}: ord={ord!r} is no norm of vectors")
    if ord == 2:
        return _length(x, axes, keepdims)
    size = np.absolute(x)
    if ord == 0:
        return (x != 0).astype(size.dtype).sum(axis=axes, keepdims=keepdims)  # constant wherever it is smooth
    if ord == np.inf:
        return size.max(axis=axes, keepdims=keepdims)
    if ord == -np.inf:
        return size.min(axis=axes, keepdims=keepdims)
    if ord == 1:
        return size.sum(axis=axes, keepdims=keepdims)
    zero = size == 0  # entries that are zero have derivative zero for every ord, also where their slope is infinite
    powers = np.where(zero, 0.0 if ord > 0 else np.inf, np.where(zero, 1.0, size) ** ord)
    total = powers.sum(axis=axes, keepdims=keepdims)
    flat = (total == 0) | np.isinf(total)
    return np.where(flat, 0.0, np.where(flat, 1.0, total) ** (1.0 / ord))


def _matrix_norm(x: Any, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    if ord in ("fro", "f"):
        return _length(x, axes, keepdims)
    x = np.moveaxis(x, axes, (-2, -1))
    if ord in (1, -1, np.inf, -np.inf):
        sums = np.absolute(x).sum(axis=-2 if abs(ord) == 1 else -1)
        result = sums.max(axis=-1) if ord > 0 else sums.min(axis=-1)
    elif ord in (2, -2, "nuc"):
        s = svdvals(x)
        result = s.sum(axis=-1) if ord == "nuc" else s.max(axis=-1) if ord > 0 else s.min(axis=-1)
        if ord != -2:  # at the zero matrix, the kink of every norm, the singular vectors say nothing
            result = np.where(result == 0, 0.0, result)
    else:
        raise InputError(f"norm at {user_line()}: ord={ord!r} is no norm of matrices.")
    return np.expand_dims(result, tuple(sorted(axes))) if keepdims else result


@implements(np.linalg.vector_norm)
def vector_norm(x: Any, /, *, axis: Any = None, keepdims: Any = False, ord: Any = 2) -> Any:
    x = as_array(x)
    return _vector_norm(x, 2 if ord is None else ord, axes_of(x, axis, "vector_norm"), flag(keepdims))


@implements(np.linalg.matrix_norm)
def matrix_norm(x: Any, /, *, keepdims: Any = False, ord: Any = "fro") -> Any:
    x = _matrices(x, "matrix_norm")
    return _matrix_norm(x, ord, (x.ndim - 2, x.ndim - 1), flag(keepdims))


@implements(np.linalg.cond)
def cond(x: Any, p: Any = None) -> Any:
    x = _matrices(x, "cond")
    if p in (None, 2, -2):
        s = svdvals(x)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    return norm(x, p, axis=(-2, -1)) * norm(inv(x), p, axis=(-2, -1))


# -- diagonals ---------------------------------------------------------------------------------------------------------
@implements(np.linalg.trace)
def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    return np.trace(x, offset, -2, -1, dtype)


@implements(np.linalg.diagonal)
def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    return np.diagonal(x, offset, -2, -1)


FUNCTIONS[np.linalg.matrix_transpose] = T
