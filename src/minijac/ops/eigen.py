"""Eigenvalues of general matrices, and zeros of polynomials: complex, also where what is given is real."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..algebra.labels import Label
from ..backend import namespace
from ..tape.trace import Node
from .edges import Edge, Part
from .families import Example, define, opaque
from .linalg import SQUARE, T, axes_of, differences, factor_of, inv, labels_of, matrix_maps, result_of

__all__ = ["eig", "eig_values", "eig_vectors", "polynomial_zeros"]


def _eig_value(a: Any) -> Any:
    w, v = namespace(a).linalg.eig(a)
    found = namespace(a).concatenate([w[..., None, :], v], axis=-2)
    return found.astype(np.result_type(found.dtype, np.complex64))


eig = opaque("eig", _eig_value, SQUARE, complex=True, refuses=True)
"""The eigenvalues in row 0, the eigenvectors below, for `eig_values` and `eig_vectors`; without derivative."""


def _eig_values_edge(node: Node, k: int) -> Edge:
    v = eig_vectors(*node.args)
    *lead, i, n = labels_of(*v.shape)
    j = Label(i.size)
    factors = (factor_of(inv(v), [*lead, n, i]), factor_of(v, [*lead, j, n]))
    return Edge(node.out.shape, node.args[0].shape, [Part(axes_of([*lead, n]), axes_of([*lead, i, j]), factors)])


def _eig_vectors_edge(node: Node, k: int) -> Edge:
    """Those that do not turn or grow along themselves; infinite, or NaN, at a repeated eigenvalue."""
    v, w = node.out, eig_values(*node.args)
    inverse, inverse_gap = inv(v), 1.0 / differences(w)

    def push(d: Any) -> Any:
        return v @ (inverse_gap * (inverse @ d @ v))

    def pull(e: Any) -> Any:
        return T(inverse) @ (inverse_gap * (T(v) @ e)) @ T(v)

    return matrix_maps(node, 0, push, pull)


eig_values = result_of(
    "eig_values", _eig_value, lambda d, m: d[..., 0, :], _eig_values_edge, SQUARE, inert=(1,), refuses=True
)
eig_vectors = result_of(
    "eig_vectors", _eig_value, lambda d, m: d[..., 1:, :], _eig_vectors_edge, SQUARE, inert=(1,), refuses=True
)


def _zeros_edge(node: Node, k: int) -> Edge:
    """``-x**k / p'(x)``, by the coefficient of ``x**k``."""
    p, x = node.args[0], node.out
    (n,), (m,) = labels_of(*x.shape), labels_of(*p.shape)
    slope = np.polyval(np.polyder(p), x)
    return Edge(
        x.shape, p.shape, [Part(((n,),), ((m,),), (factor_of(-np.vander(x, p.shape[0]) / slope[:, None], [n, m]),))]
    )


def _zeros_value(p: Any) -> Any:
    found = np.roots(p)
    return found.astype(np.result_type(found.dtype, np.complex64))


polynomial_zeros = define("polynomial_zeros", _zeros_value, _zeros_edge, [Example(((3,),), low=1.0)], complex=True)
"""The zeros of one polynomial, by its coefficients, highest power first; a repeated one has no derivative."""
