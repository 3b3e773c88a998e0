"""Linear algebra on stacks of matrices: inverses, determinants and decompositions, the leading axes passing through.

A decomposition is one operation for each of its results, which take the decomposition itself as a second operand, so
that it is computed once: ``w = eigenvalues(a, d)`` and ``V = eigenvectors(a, d)`` with ``d = eigh(a)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..algebra.factors import Factor, conjugated
from ..algebra.labels import Axes, Label
from ..algebra.terms import Term
from ..backend import is_complex, namespace
from ..tape.op import Op
from ..tape.trace import Node
from .edges import Edge, Linear, Part, without_ones
from .families import Example, define, labelled, opaque
from .maps import linear_map

__all__ = [
    "H", "cholesky", "det", "eigenvalues", "eigenvectors", "eigh", "inv", "left_vectors", "logabsdet", "logdet", "pinv",
    "qr", "qr_q", "qr_r", "right_vectors", "sign_of_det", "singular_values", "solve", "svd",
]  # fmt: skip


# -- what the rules are written with -----------------------------------------------------------------------------------
def T(x: Any) -> Any:
    """The transpose of each matrix."""
    return np.swapaxes(x, -1, -2)


def conj(x: Any) -> Any:
    return np.conjugate(x) if is_complex(x) else x


def H(x: Any) -> Any:
    """The conjugate transpose of each matrix."""
    return T(conj(x))


def symmetric(x: Any) -> Any:
    return 0.5 * (x + H(x))


def triangle(n: int, x: Any, diagonal: float) -> Any:
    """Ones below the diagonal, `diagonal` on it, of the dtype of `x` and where `x` lives."""
    xp = namespace(x)
    return (xp.tri(n, k=-1) + diagonal * xp.eye(n)).astype(x.real.dtype)


def labels_of(*sizes: int) -> list[Label]:
    return [Label(n) for n in sizes]


def axes_of(labels: Sequence[Label]) -> Axes:
    return tuple((label,) for label in labels)


def factor_of(array: Any, labels: Sequence[Label]) -> Factor:
    return labelled(array, axes_of(labels), array.dtype)


def matrix_maps(
    node: Node,
    k: int,
    push: Callable[[Any], Any],
    pull: Callable[[Any], Any],
    last: bool = False,
    adjoint: bool = False,
) -> Edge:
    """The edge of linear maps between the matrices of two stacks; with `last`, their last axis passes too.

    Those of complex matrices are linear in real numbers where `adjoint` is given in place of the transpose, by the
    inner product ``re(sum(conj(a) * b))``.
    """
    source, target = np.shape(node.args[k]), node.out.shape
    passing = [(i, i) for i in range(len(source) - 2)]
    if last:
        passing.append((len(source) - 1, len(target) - 1))
    fewer = of_some(node, k)
    if adjoint and is_complex(node.out):
        return linear_map(source, target, push, lambda e: conj(pull(conj(e))), passing, real=True, fewer=fewer)
    return linear_map(source, target, push, pull, passing, fewer=fewer)


def of_some(node: Node, k: int) -> Callable[[int, Any], Linear]:
    """The maps of some of the matrices alone: those of the same operation on them."""

    def fewer(axis: int, some: Any) -> Linear:
        part, behind = node, node.out.ndim - axis - 1
        if behind > 1:  # else columns, for each of which they are the same
            at = (..., some, *(slice(None),) * behind)
            args = tuple(x[at] if x.ndim > behind else x for x in node.args)
            part = Node(node.op, node.parents, args, node.params, node.out[at], node.where)
        return node.op.edge(part, k).linear  # type: ignore[union-attr, misc]

    return fewer


def result_of(name: str, decomposed: Callable[[Any], Any], part: Any, edge: Any, examples: Any, **facts: Any) -> Op:
    """One result of a decomposition, which is made for it where it is not given: ``part(d, m)`` of m rows."""
    value = lambda a, d=None: part(decomposed(a) if d is None else d, a.shape[-2])  # noqa: E731
    return define(name, value, edge, examples, complex=True, **facts)


def _positive(x: Any) -> Any:
    return x @ T(x) + np.eye(x.shape[-1])


SQUARE = [Example(((3, 2, 2),)), Example(((3, 1, 1),)), Example(((3, 2, 3, 3),))]
TALL = [Example(((3, 3, 2),)), Example(((3, 2, 2),)), Example(((3, 2, 3, 1),))]
ANY = [*TALL, Example(((3, 2, 3),))]
SYMMETRIC = [Example(sample.shapes, prepare=symmetric) for sample in SQUARE]
POSITIVE = [Example(sample.shapes, prepare=_positive) for sample in SQUARE]


# -- inverses ----------------------------------------------------------------------------------------------------------
def _inverse_edge(node: Node, transposed: bool) -> Edge:
    """``dy = -y dx y``, or where y is the transpose of the inverse, ``-y dx^T y``."""
    y, shape = node.out, node.out.shape
    *lead, i, j, m, n = labels_of(*shape, *shape[-2:])
    factors = (factor_of(y, [*lead, i, m]), factor_of(y, [*lead, n, j]))
    inp = [*lead, n, m] if transposed else [*lead, m, n]
    return Edge(shape, shape, [Part(axes_of([*lead, i, j]), axes_of(inp), factors, -1.0)])


inv = define(
    "inv", lambda a: namespace(a).linalg.inv(a), lambda node, k: _inverse_edge(node, False), SQUARE, complex=True,
    refuses=True,
)  # fmt: skip


def _solve_along(a: Any, b: Any) -> Any:
    """Solve for right-hand sides with one more axis in front, which become columns: each matrix is factorised once."""
    seeds, *_, columns = b.shape
    flat = np.moveaxis(b, 0, -1).reshape(*b.shape[1:-1], columns * seeds)
    return np.moveaxis(solve(a, flat).reshape(*b.shape[1:], seeds), -1, 0)


def _solve_edge(node: Node, k: int) -> Edge:
    a, x = node.args[0], node.out
    if k == 1:
        return matrix_maps(node, 1, lambda b: _solve_along(a, b), lambda y: _solve_along(T(a), y), last=True)
    *lead, i, m, row, column = labels_of(*x.shape, *a.shape[-2:])
    factors = (factor_of(inv(a), [*lead, i, row]), factor_of(x, [*lead, column, m]))
    return Edge(x.shape, a.shape, [Part(axes_of([*lead, i, m]), axes_of([*lead, row, column]), factors, -1.0)])


solve = define(
    "solve",
    lambda a, b: namespace(a if hasattr(a, "shape") else b).linalg.solve(a, b),
    _solve_edge,
    [Example(((3, 2, 2), (3, 2, 4))), Example(((3, 3, 3), (3, 3, 1)))],
    complex=True,
    refuses=True,
)
"""``a``: (..., n, n), ``b``: (..., n, m), of the same leading axes."""


def _pinv_edge(node: Node, k: int) -> Edge:
    """Exact where the rank is constant (Golub and Pereyra, SIAM J. Numer. Anal. 10, 1973)."""
    a, p = node.args[0], node.out
    xp = namespace(a)
    n, m = p.shape[-2:]
    *lead, i, j, row, column = labels_of(*p.shape, m, n)
    outside = xp.eye(m, dtype=p.dtype) - a @ p, xp.eye(n, dtype=p.dtype) - p @ a
    out, inp = axes_of([*lead, i, j]), axes_of([*lead, row, column])
    pairs = [
        (-p, [i, row], p, [column, j], False),
        (p @ H(p), [i, column], outside[0], [row, j], is_complex(p)),
        (outside[1], [i, column], H(p) @ p, [row, j], is_complex(p)),
    ]
    parts = [
        Part(out, inp, (factor_of(left, [*lead, *first]), factor_of(right, [*lead, *second])), 1.0, conj)
        for left, first, right, second, conj in pairs
    ]
    return Edge(p.shape, a.shape, parts)


pinv = define(
    "pinv",
    lambda a, rcond=None: namespace(a).linalg.pinv(a) if rcond is None else namespace(a).linalg.pinv(a, rcond),
    _pinv_edge,
    ANY,
    complex=True,
    refuses=True,
)


# -- determinants ------------------------------------------------------------------------------------------------------
def _per_matrix(value: Callable[[Node], Any]) -> Callable[[Node, int], Edge]:
    """The edge of one number for each matrix, with the derivative that `value` gives as a stack of matrices."""

    def edge(node: Node, k: int) -> Edge:
        labels = labels_of(*node.args[0].shape)
        out, inp = axes_of(labels[:-2]), axes_of(labels)
        return Edge(node.out.shape, node.args[0].shape, [Part(out, inp, (factor_of(value(node), labels),))])

    return edge


det = define(
    "det", lambda a: namespace(a).linalg.det(a), _per_matrix(lambda node: cofactor(node.args[0])), SQUARE, complex=True
)


def _others(s: Any, held: int) -> Any:
    """Products of the singular values without one (or, held = 2, without two) of them: (..., n) or (..., n, n)."""
    xp = namespace(s)
    n = s.shape[-1]
    mine = xp.eye(n, dtype=bool)
    left_out = mine if held == 1 else mine[:, None] | mine[None]
    return xp.where(left_out, 1.0, s.reshape(*s.shape[:-1], *(1,) * held, n)).prod(-1)


def _cofactor_value(a: Any) -> Any:
    """Finite and exact for singular matrices too, where the inverse does not exist."""
    xp = namespace(a)
    d = xp.linalg.det(a)
    if bool((d != 0).all()):
        return d[..., None, None] * T(xp.linalg.inv(a))
    u, s, v = xp.linalg.svd(a)
    sign = xp.linalg.det(u) * xp.linalg.det(v)
    return (sign[..., None, None] * conj(u) * _others(s, 1)[..., None, :]) @ conj(v)


def _cofactor_edge(node: Node, k: int) -> Edge:
    a = node.args[0]
    slope = lambda x: cofactor_slope(a, x)  # noqa: E731 - its own transpose
    return matrix_maps(node, 0, slope, slope)


def _inner(a: Any, b: Any) -> Any:
    return (a * b).sum(axis=(-2, -1), keepdims=True)


def _cofactor_slope(c: Any, d: Any, x: Any) -> Any:
    """The derivative of the cofactors `c` along `x`, where the determinant `d`: (..., 1, 1) is not zero."""
    return (_inner(c, x) * c - c @ T(x) @ c) / d


def _cofactor_slope_value(a: Any, x: Any) -> Any:
    """In the basis of the singular vectors the second minors are products of the other singular values."""
    xp = namespace(a)
    d = xp.linalg.det(a)[..., None, None]
    if bool((d != 0).all()):
        return _cofactor_slope(d * T(xp.linalg.inv(a)), d, x)
    u, s, v = xp.linalg.svd(a)
    sign = (xp.linalg.det(u) * xp.linalg.det(v))[..., None, None]
    u, v = conj(u), conj(v)
    eye = xp.eye(s.shape[-1], dtype=s.dtype)
    minors = (_others(s, 2) * (1.0 - eye)).astype(s.dtype)
    inner = T(u) @ x @ T(v)
    along = minors @ inner.diagonal(axis1=-2, axis2=-1)[..., None]
    return sign * (u @ (along * eye - minors * T(inner)) @ v)


def _cofactor_slope_edge(node: Node, k: int) -> Edge:
    """A third derivative, symmetric in all three; infinite or NaN at singular matrices."""
    a, x = node.args
    if k == 1:
        slope = lambda y: cofactor_slope(a, y)  # noqa: E731
        return matrix_maps(node, 1, slope, slope)
    c, d, y = cofactor(a), np.expand_dims(det(a), (-2, -1)), node.out
    more = x.ndim - a.ndim  # axes of x in front of those of a: directions

    def along(z: Any, c_z: Any) -> Any:
        turned = _inner(c_z, x) * c + _inner(c, x) * c_z - c_z @ T(x) @ c - c @ T(x) @ c_z
        return (turned - y * _inner(c, z)) / d

    def push(z: Any) -> Any:
        z = z.reshape(z.shape[0], *(1,) * more, *a.shape)
        return along(z, _cofactor_slope(c, d, z))

    def pull(e: Any) -> Any:
        result = along(e, _cofactor_slope(c, d, e))
        return result.sum(axis=tuple(range(1, 1 + more))) if more else result

    lead, maps = labels_of(*a.shape[:-2]), Linear(push, pull, fewer=of_some(node, k))
    out = axes_of([*labels_of(*x.shape[:more]), *lead, *labels_of(*x.shape[-2:])])
    return Edge(y.shape, a.shape, [Part(out, axes_of([*lead, *labels_of(*a.shape[-2:])]))], maps)


cofactor: Op = define("cofactor", _cofactor_value, _cofactor_edge, SQUARE, complex=True)
"""The matrix of cofactors, ``det(a) inv(a).T`` where the inverse exists: the derivative of the determinant."""

cofactor_slope: Op = define(
    "cofactor_slope",
    _cofactor_slope_value,
    _cofactor_slope_edge,
    [Example(((3, 2, 2), (3, 2, 2))), Example(((3, 3, 3), (3, 3, 3)))],
    complex=True,
)
"""The derivative of the cofactors of `a`: (..., n, n) along `x`: (..., n, n), which may have more axes in front."""


def _inverse_transposed_value(a: Any) -> Any:
    """Infinite for a singular matrix: its cofactors over zero."""
    xp = namespace(a)
    d = xp.linalg.det(a)
    if bool((d != 0).all()):
        return T(xp.linalg.inv(a))
    with np.errstate(divide="ignore", invalid="ignore"):
        return cofactor(a) / d[..., None, None]


inverse_transposed = define(
    "inverse_transposed", _inverse_transposed_value, lambda node, k: _inverse_edge(node, True), SQUARE, complex=True
)
"""The derivative of the logarithm of the determinant's absolute value."""


def _logabsdet_curved(node: Node) -> Term:
    """``-trace(inv(a) x inv(a) y)``: where each row of x is of its own inputs, as electrons are, few entries meet."""
    t, shape = inverse_transposed(node.args[0]), node.args[0].shape
    if node.live is not None:
        t = np.where(node.live[..., None, None], t, 0.0)
    *lead, i, j, k, l = labels_of(*shape, *shape[-2:])
    out, inp = axes_of(lead), axes_of([*lead, i, j, *lead, k, l])
    factors = (factor_of(t, [*lead, k, j]), factor_of(t, [*lead, i, l]))
    return Term(without_ones(out), without_ones(inp), factors, -1.0)


logabsdet = define(
    "logabsdet",
    lambda a: namespace(a).linalg.slogdet(a)[1],
    _per_matrix(lambda node: inverse_transposed(node.args[0])),
    SQUARE,
    curved=_logabsdet_curved,
)


def _logdet_value(a: Any) -> Any:
    sign, size = namespace(a).linalg.slogdet(a)
    return size + 1j * np.angle(sign)


logdet = define(
    "logdet", _logdet_value, _per_matrix(lambda node: inverse_transposed(node.args[0])), SQUARE, complex=True
)
"""The complex logarithm of the determinant."""
sign_of_det = opaque("sign_of_det", lambda a: namespace(a).linalg.slogdet(a)[0], SQUARE)


# -- symmetric matrices: the derivative is that along symmetric matrices, as if both triangles were averaged -----------
def _cholesky_edge(node: Node, k: int) -> Edge:
    """Murray, arXiv:1602.07527."""
    y = node.out
    half = triangle(y.shape[-1], y, 0.5)
    inverse = inv(y)

    def push(d: Any) -> Any:
        return y @ (half * (inverse @ symmetric(d) @ H(inverse)))

    def pull(e: Any) -> Any:
        return symmetric(H(inverse) @ (half * (H(y) @ e)) @ inverse)

    return matrix_maps(node, 0, push, pull, adjoint=True)


cholesky = define(
    "cholesky", lambda a: namespace(a).linalg.cholesky(a), _cholesky_edge, POSITIVE, complex=True, refuses=True
)


def _eigh_value(a: Any) -> Any:
    w, v = namespace(a).linalg.eigh(a)
    return namespace(a).concatenate([w[..., None, :], v], axis=-2)


eigh = opaque("eigh", _eigh_value, SYMMETRIC, complex=True, refuses=True)
"""The eigenvalues in row 0, the eigenvectors below, for `eigenvalues` and `eigenvectors`; without derivative."""


def _eigenvalues_edge(node: Node, k: int) -> Edge:
    v = eigenvectors(*node.args)
    *lead, i, n = labels_of(*v.shape)
    j = Label(i.size)
    return _real_edge(node, factor_of(conj(v), [*lead, i, n]), factor_of(v, [*lead, j, n]), [*lead, n], [*lead, i, j])


def _real_edge(node: Node, a: Factor, b: Factor, out: Sequence[Label], inp: Sequence[Label]) -> Edge:
    """The edge ``dy = re(a b dx)`` of what is real of a matrix."""
    part = Part(axes_of(out), axes_of(inp), (a, b))
    if is_complex(node.args[0]):
        other = Part(part.out, part.inp, (conjugated(a), conjugated(b)), 0.5, True)
        return Edge(node.out.shape, node.args[0].shape, [part._replace(scale=0.5), other])
    return Edge(node.out.shape, node.args[0].shape, [part])


def _eigenvectors_edge(node: Node, k: int) -> Edge:
    """A repeated eigenvalue has no eigenvectors that vary smoothly: infinite, or NaN."""
    v, w = node.out, eigenvalues(*node.args)
    inverse_gap = 1.0 / differences(w)

    def push(d: Any) -> Any:
        return v @ (inverse_gap * (H(v) @ symmetric(d) @ v))

    def pull(e: Any) -> Any:
        return symmetric(v @ (inverse_gap * (H(v) @ e)) @ H(v))

    return matrix_maps(node, 0, push, pull, adjoint=True)


def differences(w: Any) -> Any:
    """``w_j - w_i`` in row i, column j, and infinity on the diagonal, whose inverse is zero."""
    xp = namespace(w)
    n = w.shape[-1]
    infinite = xp.where(xp.eye(n, dtype=bool), xp.asarray(xp.inf, w.dtype), xp.asarray(0.0, w.dtype))
    return np.expand_dims(w, -2) - np.expand_dims(w, -1) + infinite


eigenvalues = define(
    "eigenvalues",
    lambda a, d=None: namespace(a).linalg.eigvalsh(a) if d is None else d[..., 0, :].real,
    _eigenvalues_edge,
    SYMMETRIC,
    complex=True,
    refuses=True,
)
eigenvectors = result_of(
    "eigenvectors", _eigh_value, lambda d, m: d[..., 1:, :], _eigenvectors_edge, SYMMETRIC, refuses=True
)


# -- singular values ---------------------------------------------------------------------------------------------------
def _svd_value(a: Any) -> Any:
    u, s, v = namespace(a).linalg.svd(a, full_matrices=False)
    return namespace(a).concatenate([u, s[..., None, :], H(v)], axis=-2)


svd = opaque("svd", _svd_value, ANY, complex=True, refuses=True)
"""The left vectors, a row of singular values, and the right vectors, one below the other; without derivative."""


def _singular_values_edge(node: Node, k: int) -> Edge:
    a, d = node.args if len(node.args) == 2 else (node.args[0], svd(node.args[0]))
    u, v = left_vectors(a, d), right_vectors(a, d)
    *lead, i, n = labels_of(*u.shape)
    j = Label(v.shape[-2])
    return _real_edge(node, factor_of(conj(u), [*lead, i, n]), factor_of(v, [*lead, j, n]), [*lead, n], [*lead, i, j])


def _left_vectors_edge(node: Node, k: int) -> Edge:
    u, s, v = node.out, singular_values(*node.args), right_vectors(*node.args)
    push, pull = _singular_vectormatrix_maps(u, s, v)
    return matrix_maps(node, 0, push, pull, adjoint=True)


def _right_vectors_edge(node: Node, k: int) -> Edge:
    """The left vectors of the transposed matrix."""
    u, s, v = left_vectors(*node.args), singular_values(*node.args), node.out
    push, pull = _singular_vectormatrix_maps(v, s, u)
    return matrix_maps(node, 0, lambda d: push(H(d)), lambda e: H(pull(e)), adjoint=True)


def _singular_vectormatrix_maps(u: Any, s: Any, v: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Townsend, "Differentiating the singular value decomposition", 2016. NaN or infinite at a repeated value."""
    row, column = np.expand_dims(s, -2), np.expand_dims(s, -1)
    own = namespace(s).eye(s.shape[-1], dtype=s.dtype)  # only keeps the diagonal, which has no weight, from 0 / 0
    weight = 1.0 / differences(s) * (1.0 / (row + column + own))
    tall = u.shape[-2] > s.shape[-1]  # the vectors may also turn out of the space that they span
    phase = own / (4.0 * row) if is_complex(u) else None  # a pair's, of which each of the two turns by half

    def push(d: Any) -> Any:
        p = H(u) @ d @ v
        within = weight * (p * row + column * H(p))
        turned = u @ (within if phase is None else within + phase * (p - H(p)))
        return turned + (d @ v - u @ p) / row if tall else turned

    def pull(e: Any) -> Any:
        g = H(u) @ e
        h = weight * g
        within = (h + H(h)) * row
        left = u @ (within if phase is None else within + phase * (g - H(g)))
        if tall:
            left = left + (e - u @ g) / row
        return left @ H(v)

    return push, pull


singular_values = define(
    "singular_values",
    lambda a, d=None: namespace(a).linalg.svd(a, compute_uv=False) if d is None else d[..., a.shape[-2], :].real,
    _singular_values_edge,
    ANY,
    complex=True,
    refuses=True,
)
left_vectors = result_of("left_vectors", _svd_value, lambda d, m: d[..., :m, :], _left_vectors_edge, ANY, refuses=True)
right_vectors = result_of(
    "right_vectors", _svd_value, lambda d, m: d[..., m + 1 :, :], _right_vectors_edge, ANY, refuses=True
)


# -- QR of full column rank --------------------------------------------------------------------------------------------
def _qr_value(a: Any) -> Any:
    return namespace(a).concatenate(namespace(a).linalg.qr(a), axis=-2)


qr = opaque("qr", _qr_value, TALL, complex=True)
"""The orthonormal columns, and the triangular factor below them; without derivative."""


def _qr_q_edge(node: Node, k: int) -> Edge:
    """Walter, Lehmann and Lamour, Optim. Methods Softw. 27 (2012)."""
    q, inverse = node.out, inv(qr_r(*node.args))
    below = triangle(q.shape[-1], q, 0.5)  # the diagonal of the triangular factor stays real

    def push(d: Any) -> Any:
        moved = d @ inverse
        m = H(q) @ moved
        return moved + q @ (below * m - H(below * m) - m)

    def pull(e: Any) -> Any:
        g = H(q) @ e
        return (e + q @ (below * (g - H(g)) - g)) @ H(inverse)

    return matrix_maps(node, 0, push, pull, adjoint=True)


def _qr_r_edge(node: Node, k: int) -> Edge:
    r, q = node.out, qr_q(*node.args)
    inverse = inv(r)
    below = triangle(r.shape[-1], r, 0.5)

    def push(d: Any) -> Any:
        m = H(q) @ d @ inverse
        return (m - below * m + H(below * m)) @ r

    def pull(e: Any) -> Any:
        h = e @ H(r)
        return q @ (h - below * h + below * H(h)) @ H(inverse)

    return matrix_maps(node, 0, push, pull, adjoint=True)


qr_q = result_of("qr_q", _qr_value, lambda d, m: d[..., :m, :], _qr_q_edge, TALL)
qr_r = result_of("qr_r", _qr_value, lambda d, m: d[..., m:, :], _qr_r_edge, TALL)
