"""Operations whose values SciPy finds: functions of matrices, triangular factors, recursive filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..algebra.labels import Label
from ..backend import namespace, of_scipy, on_host
from ..errors import InputError
from ..lines import user_line
from ..tape.op import Op
from ..tape.trace import Node
from .edges import Edge, Part
from .families import Example, along, define, labelled, opaque
from .linalg import T, matrix_maps
from .maps import linear_map

__all__ = [
    "allpole",
    "expm",
    "logm",
    "lu_pivots",
    "lu_values",
    "solve_continuous_are",
    "solve_discrete_are",
    "sqrtm",
    "sylvester",
]


# -- functions of matrices ---------------------------------------------------------------------------------------------
def _matrix_function(name: str, stacked: Callable[[Any], Any] | None = None) -> Op:
    """A function of square matrices. Its derivative is a block of the function of a matrix of twice the size.

    ``f([[A, E], [0, A]]) = [[f(A), L(A, E)], [0, f(A)]]``, and the transpose of ``L(A, .)`` is ``L(A^T, .)`` (Higham,
    Functions of Matrices, 2008, chapter 3). A matrix with entries that are not finite has NaN. `stacked` has the values
    of many matrices at once, on the CPU.
    """

    def value(a: Any) -> Any:
        finite = np.isfinite(a).all((-2, -1), keepdims=True) if on_host(a) else np.True_
        if not finite.all():  # of which SciPy's may raise for all the stack, or not return
            return np.where(finite, value(np.where(finite, a, np.eye(a.shape[-1]))), np.nan).astype(a.dtype)
        state = np.random.get_state()  # norms are estimated from random vectors, which others shall not notice
        found = (stacked if stacked is not None and on_host(a) else of_scipy("linalg", name, a))(a)
        np.random.set_state(state)
        if a.dtype.kind != "c" and found.dtype.kind == "c":
            if np.abs(found.imag).max(initial=0.0) > 1e3 * np.finfo(a.dtype).eps * np.abs(found).max(initial=0.0):
                raise InputError(
                    f"{name} at {user_line()}: expected matrices whose {name} is real, got one with eigenvalues that "
                    "are not positive. Make it complex: a.astype(complex)."
                )
            found = found.real
        return found.astype(a.dtype, copy=False)

    def edge(node: Node, k: int) -> Edge:
        a = node.args[0]
        return matrix_maps(node, k, lambda e: along_direction(a, e), lambda e: along_direction(T(a), e))

    def along_direction(a: Any, e: Any) -> Any:
        n = a.shape[-1]
        a = np.broadcast_to(a, e.shape)
        whole = np.concatenate(
            [np.concatenate([a, e], -1), np.concatenate([np.zeros_like(e), a + np.zeros_like(e)], -1)], -2
        )
        return op(whole)[..., :n, n:]

    examples = [Example((shape,), prepare=_near_one) for shape in ((3, 2, 2), (3, 2, 2, 2))]
    op = define(name, value, edge, examples, complex=True)
    return op


def _near_one(x: Any) -> Any:
    return 0.1 * x + np.eye(x.shape[-1])


NEAR, MOST_ROOTS = 0.25, 100
"""How far from 1 the quotient of eight nodes is as good as the logarithm; and after how many roots it is SciPy's."""


def _logm(a: Any) -> Any:
    """SciPy takes one matrix after the other, in Python. Inverse scaling and squaring takes a stack at once.

    ``log(a) = 2**s r(a**(2**-s) - 1)`` with r the integral of ``z / (1 + t z)`` over t by Gauss and Legendre; each root
    less 1 is ``(b - 1) / (sqrt(b) + 1)``, where nothing cancels (Al-Mohy and Higham, SIAM J. Sci. Comput. 34, 2012).
    """
    sqrtm, one = of_scipy("linalg", "sqrtm", a), np.eye(a.shape[-1])
    root = a.astype(np.result_type(a.dtype, np.float64))
    apart, roots = root - one, 0
    while not (far := np.abs(apart).sum(-1).max(initial=0.0)) <= NEAR:
        if roots == MOST_ROOTS or not np.isfinite(far):
            return of_scipy("linalg", "logm", a)(a)
        root = sqrtm(root)
        apart, roots = np.linalg.solve(one + root, apart), roots + 1
    nodes, weights = np.polynomial.legendre.leggauss(8)
    total = sum(w / 2 * np.linalg.solve(one + (1 + t) / 2 * apart, apart) for t, w in zip(nodes, weights, strict=True))
    return 2.0**roots * total


expm = _matrix_function("expm")
sqrtm = _matrix_function("sqrtm")
logm = _matrix_function("logm", _logm)


def _along_sylvester(a: Any, b: Any, e: Any) -> Any:
    """For right-hand sides with one more axis in front."""
    a, b = (np.broadcast_to(m, (*e.shape[:-2], *m.shape[-2:])) for m in (a, b))
    return sylvester(a, b, e)


def _sylvester_edge(node: Node, k: int) -> Edge:
    """``a dx + dx b = dq - da x - x db``, of which each part is another solution; so is its transpose, of a^T, b^T."""
    (a, b, _), x = node.args, node.out
    push, pull = (
        (lambda e: -_along_sylvester(a, b, e @ x), lambda y: -(_along_sylvester(T(a), T(b), y) @ T(x))),
        (lambda e: -_along_sylvester(a, b, x @ e), lambda y: -(T(x) @ _along_sylvester(T(a), T(b), y))),
        (lambda e: _along_sylvester(a, b, e), lambda y: _along_sylvester(T(a), T(b), y)),
    )[k]
    return matrix_maps(node, k, push, pull)


def _apart(a: Any) -> Any:
    return a + 12.0 * np.eye(a.shape[-1])


sylvester = define(
    "sylvester",
    lambda a, b, q: of_scipy("linalg", "solve_sylvester", q)(a, b, q),
    _sylvester_edge,
    [
        Example(((3, 2, 2), (3, 3, 3), (3, 2, 3)), prepare=_apart),
        Example(((3, 1, 1), (3, 2, 2), (3, 1, 2)), prepare=_apart),
    ],
    complex=True,
)
"""``a x + x b = q``. ``a``: (..., n, n), ``b``: (..., m, m), ``q``: (..., n, m), of the same leading axes."""


def _lu_values(a: Any) -> Any:
    return of_scipy("linalg", "lu_factor", a)(a)[0]


def _lu_pivots(a: Any) -> Any:
    return of_scipy("linalg", "lu_factor", a)(a)[1]


_SQUARE = [Example(((3, 3, 3),), prepare=_near_one)]
lu_values = opaque("lu_values", _lu_values, _SQUARE, complex=True)
"""The factors in one matrix, without a derivative."""
lu_pivots = opaque("lu_pivots", _lu_pivots, _SQUARE, complex=True)


def _riccati(name: str) -> Op:
    """A stabilising solution, without a derivative."""
    weights = {2: np.stack([np.eye(2)] * 3), 3: np.ones((3, 1, 1))}
    examples = [Example(((3, 2, 2), (3, 2, 1), (3, 2, 2), (3, 1, 1)), low=0.3, prepare=_near_one, given=weights)]
    return opaque(name, lambda *operands: of_scipy("linalg", name, operands[0])(*operands), examples)


solve_continuous_are, solve_discrete_are = _riccati("solve_continuous_are"), _riccati("solve_discrete_are")


# -- recursive filters -------------------------------------------------------------------------------------------------
def _allpole_value(x: Any, a: Any) -> Any:
    one = namespace(x).ones(1, np.result_type(x.dtype, a.dtype))
    return of_scipy("signal", "lfilter", x)(one, a, x, axis=-1)


def _allpole_edge(node: Node, k: int) -> Edge:
    """``a * y = x``, so that ``a * dy = dx - da * y``."""
    (x, a), y = node.args, node.out
    n, order = y.shape[-1], np.shape(a)[0]
    backward = lambda e: np.flip(allpole(np.flip(e, -1), a), -1)  # noqa: E731
    if k == 0:
        passing = [(i, i) for i in range(x.ndim - 1)]
        return linear_map(x.shape, y.shape, lambda e: allpole(e, a), backward, passing, uniform=True, signed=True)
    late = [np.pad(y, [(0, 0)] * (y.ndim - 1) + [(j, 0)])[..., :n] for j in range(order)]
    slopes = np.moveaxis(allpole(-np.stack(late), a), 0, -1)  # (..., n, order)
    out, inp = tuple((Label(size),) for size in y.shape), (Label(order),)
    return Edge(y.shape, (order,), [Part(out, (inp,), (labelled(slopes, (*out, inp), y.dtype),))])


_DECAYING = np.array([1.0, 0.4, -0.2])
allpole = define(
    "allpole",
    _allpole_value,
    _allpole_edge,
    [Example(((3, 5), (3,)), shared=(1,), given={1: _DECAYING}), Example(((3, 2, 4), (3,)), low=0.5, shared=(1,))],
    relation=lambda k, out, *shapes, **_: along(0, out, shapes[0], axis=-1) if k == 0 else None,
    complex=True,
)
"""``y`` with ``sum(a[j] * y[..., t - j]) = x[..., t]`` along the last axis: a filter that looks at its own past."""
