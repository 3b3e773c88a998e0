"""Products of NumPy on traced values, and what is made of them: convolution and interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optree

from ..backend import is_sparse, placed
from ..errors import InputError
from ..lines import user_line
from ..ops import convolution, indexing, multilinear
from ..ops.multilinear import LETTERS
from ..tape.traced import Traced
from .pointwise import conj
from .protocol import as_arrays, axes_of, implements, refuse
from .reductions import sum
from .writing import as_view

UFUNCS: dict[Any, Callable[..., Any]] = {}


@implements(np.linalg.matmul)
def matmul(a: Any, b: Any, **kwargs: Any) -> Any:
    if kwargs:
        refuse("matmul", **kwargs)
    if not (isinstance(a, Traced) or type(a) is np.ndarray) or not (type(b) is np.ndarray or isinstance(b, Traced)):
        if is_sparse(a) or is_sparse(b):
            return _sparse_product(a, b)
        a, b = as_arrays(a, b)
    if not a.shape or not b.shape:
        raise ValueError(f"matmul at {user_line()}: expected operands with axes, got shapes {a.shape}, {b.shape}")
    return multilinear.matmul(a, b)


def _sparse_product(a: Any, b: Any) -> Any:
    """``L @ x`` and ``x @ L`` with a sparse matrix of SciPy's: as many multiplications as it has entries."""
    L = a if is_sparse(a) else b
    program = dense.home.program if isinstance(dense := b if L is a else a, Traced) else None
    if program is not None:  # it is made for these entries, which are listed below
        for array in optree.tree_leaves(vars(L)):
            if isinstance(array, np.ndarray):
                program.looked_at(array)
    L = L.tocoo()
    x, axis = (b, max(b.ndim - 2, 0)) if is_sparse(a) else (a, a.ndim - 1)
    to, start = (L.row, L.col) if is_sparse(a) else (L.col, L.row)
    n, size = (L.shape[::-1]) if is_sparse(a) else L.shape
    if x.shape[axis] != n:
        raise ValueError(f"matmul at {user_line()}: a sparse matrix of shape {L.shape} and {x.shape} do not fit")
    data = L.data.astype(np.result_type(L.data, x.dtype)).reshape((-1,) + (1,) * (x.ndim - axis - 1))
    terms = indexing.take(x, placed(start.astype(np.intp), x), axis=axis) * placed(data, x)
    return indexing.deposit(terms, placed(to.astype(np.intp), x), axis=axis, size=size)


@implements(np.einsum)
def einsum(*operands: Any, out: Any = None, optimize: Any = None, **kwargs: Any) -> Any:
    refuse("einsum", **{key: value for key, value in kwargs.items() if key in ("dtype", "casting")})
    subscripts, arrays = multilinear.parse_einsum(operands)
    if len(arrays) > 1:
        return multilinear.einsum(*as_arrays(*arrays), subscripts=subscripts)
    # of one operand, NumPy returns a view where nothing is summed; which is not written through here
    return as_view(lambda x: multilinear.einsum(x, subscripts=subscripts), lambda x: None)(*arrays)


@implements(np.dot, method="dot")
def dot(a: Any, b: Any, out: Any = None) -> Any:
    a, b = as_arrays(a, b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    if b.ndim <= 2:
        return multilinear.matmul(a, b)
    return tensordot(a, b, axes=(-1, -2))


@implements(np.outer)
def outer(a: Any, b: Any, out: Any = None) -> Any:
    return np.reshape(a, (-1, 1)) * np.reshape(b, (1, -1))


@implements(np.linalg.outer)
def linalg_outer(x1: Any, x2: Any, /) -> Any:
    if np.ndim(x1) != 1 or np.ndim(x2) != 1:
        raise ValueError(
            f"numpy.linalg.outer at {user_line()}: expected vectors, got shapes {np.shape(x1)}, {np.shape(x2)}"
        )
    return outer(x1, x2)


@implements(np.inner)
def inner(a: Any, b: Any) -> Any:
    a, b = as_arrays(a, b)
    return a * b if a.ndim == 0 or b.ndim == 0 else tensordot(a, b, axes=(-1, -1))


@implements(np.vdot)
def vdot(a: Any, b: Any) -> Any:
    return sum(np.conjugate(np.ravel(a)) * np.ravel(b))


@implements(np.tensordot, np.linalg.tensordot)
def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    a, b = as_arrays(a, b)
    if isinstance(axes, int | np.integer):
        left, right = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    else:
        left, right = axes_of(a, axes[0], "tensordot"), axes_of(b, axes[1], "tensordot")
    if [a.shape[i] for i in left] != [b.shape[j] for j in right]:
        raise ValueError(f"tensordot at {user_line()}: shapes {a.shape} and {b.shape} do not match along axes={axes}")
    first, second = list(LETTERS[: a.ndim]), list(LETTERS[a.ndim : a.ndim + b.ndim])
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    free = [c for k, c in enumerate(first) if k not in left] + [c for k, c in enumerate(second) if k not in right]
    return multilinear.einsum(a, b, subscripts=f"{''.join(first)},{''.join(second)}->{''.join(free)}")


# -- stacks of vectors and matrices ------------------------------------------------------------------------------------
@implements(np.linalg.vecdot)
def vecdot(x1: Any, x2: Any, /, *, axis: int = -1, keepdims: bool = False, **kwargs: Any) -> Any:
    refuse("vecdot", **kwargs)
    a, b = (x if axis == -1 else np.moveaxis(x, axis, -1) for x in as_arrays(x1, x2))
    result = multilinear.einsum(conj(a), b, subscripts="...i,...i->...")
    return np.expand_dims(result, axis) if keepdims else result


def matvec(x1: Any, x2: Any, /, **kwargs: Any) -> Any:
    refuse("matvec", **kwargs)
    return multilinear.einsum(*as_arrays(x1, x2), subscripts="...ij,...j->...i")


def vecmat(x1: Any, x2: Any, /, **kwargs: Any) -> Any:
    refuse("vecmat", **kwargs)
    a, b = as_arrays(x1, x2)
    return multilinear.einsum(conj(a), b, subscripts="...i,...ij->...j")


UFUNCS[np.matmul] = matmul
for _name, _function in (("vecdot", vecdot), ("matvec", matvec), ("vecmat", vecmat)):
    if hasattr(np, _name):  # the latter two came with NumPy 2.2
        UFUNCS[getattr(np, _name)] = _function


@implements(np.cross)
def cross(a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Any:
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = as_arrays(a, b)
    a, b = np.moveaxis(a, axisa, -1), np.moveaxis(b, axisb, -1)
    if a.shape[-1] not in (2, 3) or b.shape[-1] not in (2, 3):
        raise ValueError(f"cross at {user_line()}: expected vectors of 2 or 3 entries, got {a.shape} and {b.shape}")
    a0, a1, a2 = (a[..., k] if k < a.shape[-1] else 0.0 for k in range(3))  # a vector of two entries lies in the plane
    b0, b1, b2 = (b[..., k] if k < b.shape[-1] else 0.0 for k in range(3))
    last = a0 * b1 - a1 * b0
    if a.shape[-1] == b.shape[-1] == 2:
        return last
    return np.moveaxis(np.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, last], -1), -1, axisc)


@implements(np.linalg.cross)
def linalg_cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    return cross(x1, x2, axis=axis)


@implements(np.kron)
def kron(a: Any, b: Any) -> Any:
    a, b = as_arrays(a, b)
    n = max(a.ndim, b.ndim)
    left, right = ((1,) * (n - x.ndim) + x.shape for x in (a, b))
    product = np.reshape(a, [i for m in left for i in (m, 1)]) * np.reshape(b, [j for m in right for j in (1, m)])
    return np.reshape(product, tuple(i * j for i, j in zip(left, right, strict=True)))


@implements(np.linalg.multi_dot)
def multi_dot(arrays: Sequence[Any], *, out: Any = None) -> Any:
    """One einsum, which finds the cheapest order for the value and for the derivative."""
    arrays = as_arrays(*arrays)
    if len(arrays) < 2:
        raise ValueError(f"multi_dot at {user_line()}: expected at least two arrays, got {len(arrays)}")
    names = [LETTERS[k : k + 2] for k in range(len(arrays))]
    names[0] = names[0][2 - arrays[0].ndim :]
    names[-1] = names[-1][: arrays[-1].ndim]
    free = (names[0][0] if arrays[0].ndim == 2 else "") + (names[-1][1] if arrays[-1].ndim == 2 else "")
    return multilinear.einsum(*arrays, subscripts=f"{','.join(names)}->{free}")


# -- signals in one dimension ------------------------------------------------------------------------------------------
@implements(np.convolve)
def convolve(a: Any, v: Any, mode: str = "full") -> Any:
    a, v = _signals(a, v, "convolve")
    return _correlate(v, a[::-1], mode) if len(v) > len(a) else _correlate(a, v[::-1], mode)


@implements(np.correlate)
def correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    a, v = _signals(a, v, "correlate")
    v = conj(v)
    return _correlate(v, a, mode)[::-1] if len(v) > len(a) else _correlate(a, v, mode)


def _signals(a: Any, v: Any, name: str) -> tuple[Any, Any]:
    a, v = (np.reshape(x, (1,)) if np.ndim(x) == 0 else x for x in as_arrays(a, v))
    if a.ndim != 1 or v.ndim != 1 or not len(a) or not len(v):
        raise ValueError(
            f"{name} at {user_line()}: expected two signals of shape (n,), n > 0, got {a.shape} and {v.shape}"
        )
    return a, v


def _correlate(a: Any, v: Any, mode: str) -> Any:
    """`v`, not the longer of the two, slides along `a`."""
    n = len(v)
    widths = {"full": (n - 1, n - 1), "same": (n // 2, n - n // 2 - 1), "valid": (0, 0)}
    if mode not in widths:
        raise InputError(f"convolve at {user_line()}: expected mode='full', 'same' or 'valid', got {mode!r}.")
    windows = convolution.patches(np.pad(a, widths[mode]), kernel=(n,), stride=(1,), dilation=(1,))
    return multilinear.matmul(v, windows)


@implements(np.interp)
def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: float | None = None) -> Any:
    """At a knot, the slope of the interval to its right, at the last one that to its left."""
    x, xp, fp = as_arrays(x, xp, fp)
    if period is not None:
        x, xp = x % period, xp % period
        order = np.argsort(xp)
        xp, fp = xp[order], fp[order]
        xp = np.concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = np.concatenate([fp[-1:], fp, fp[:1]])
        left = right = None
    last = len(xp) - 1
    left, right = fp[0] if left is None else left, fp[last] if right is None else right
    if last == 0:
        inside = np.broadcast_to(fp[0], x.shape)
    else:
        k = np.clip(np.searchsorted(xp, x, side="right") - 1, 0, last - 1)
        (low, high), (left_level, right_level) = (
            (indexing.take(a, k, axis=0), indexing.take(a, k + 1, axis=0)) for a in (xp, fp)
        )
        inside = (right_level - left_level) / (high - low) * (x - low) + left_level
    return np.where(x < xp[0], left, np.where(x > xp[last], right, inside))
