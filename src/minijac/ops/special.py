"""Special functions, elementwise: SciPy's value and one partial derivative for each operand, one line each.

SciPy (CuPy's copy of it on the GPU) is imported when a function is first called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..algebra.labels import Label
from ..backend import astype, namespace, special
from ..tape.op import Op
from ..tape.trace import Node
from .edges import Edge, Part
from .elementwise import INSIDE, LN10, ONE, POSITIVE, POSITIVE_PAIR, erf
from .families import Example, along, define, elementwise, labelled, opaque
from .scalars import SCALARS
from .structural import fresh

__all__ = ["SPECIAL", "iv", "ive", "logsumexp", "peak", "polygamma"]

ROOT_2PI = math.sqrt(2.0 * math.pi)
ROOT_PI = math.sqrt(math.pi)
UNIT = [Example(((3, 4),), low=0.05, high=0.95)]


def scipy_value(name: str) -> Callable[..., Any]:
    """SciPy's function of that name, imported when it is called."""

    return lambda *operands: special(name, *operands)(*operands)


def _at_order(name: str) -> Callable[..., Any]:
    """A function of an order. CuPy wants that as an array, and SciPy would take an integer for double precision."""

    def value(x: Any, order: int) -> Any:
        dtype = getattr(x, "dtype", np.float64)
        return special(name, x)(namespace(x).full((), order, dtype), x)

    return value


# -- functions of an integer order -------------------------------------------------------------------------------------
ORDERS = [Example(((3, 4),), {"order": n}, low=0.3, high=2.0) for n in (0, 1, 2)]
polygamma: Op = elementwise(
    "polygamma", _at_order("polygamma"), lambda y, x, order: polygamma(x, order=order + 1), examples=ORDERS
)
iv: Op = elementwise(
    "iv",
    _at_order("iv"),
    lambda y, x, order: 0.5 * (iv(x, order=abs(order - 1)) + iv(x, order=order + 1)),
    examples=ORDERS,
)
ive: Op = elementwise(
    "ive",
    _at_order("ive"),
    lambda y, x, order: 0.5 * (ive(x, order=abs(order - 1)) + ive(x, order=order + 1)) - np.sign(x) * y,
    examples=ORDERS,
)


def _log_where(x: Any, y: Any, outside: Any) -> Any:
    """log(y), but zero where both x and y are such that ``x log(y)`` is zero without it."""
    zero = np.logical_and(x == 0, outside)
    return np.where(zero, 0.0, np.log(np.where(zero, 1.0, y)))


# the name, which is SciPy's, samples, and the partial derivatives, functions of the output and the operands
TABLE: list[tuple[Any, ...]] = [
    # -- error functions -----------------------------------------------------------------------------------------------
    ("erfc", ONE, lambda y, x: -2.0 / ROOT_PI * np.exp(-x * x)),
    ("erfcx", ONE, lambda y, x: 2.0 * (x * y - 1.0 / ROOT_PI)),
    ("erfinv", INSIDE, lambda y, x: 0.5 * ROOT_PI * np.exp(y * y)),
    ("erfcinv", UNIT, lambda y, x: -0.5 * ROOT_PI * np.exp(y * y)),
    ("ndtr", ONE, lambda y, x: np.exp(-0.5 * x * x) / ROOT_2PI),
    ("ndtri", UNIT, lambda y, x: ROOT_2PI * np.exp(0.5 * y * y)),
    ("log_ndtr", ONE, lambda y, x: 2.0 / ROOT_2PI / SPECIAL["erfcx"](-x * math.sqrt(0.5))),
    # -- the gamma function and its kin --------------------------------------------------------------------------------
    ("gamma", POSITIVE, lambda y, x: y * SPECIAL["psi"](x)),
    ("rgamma", POSITIVE, lambda y, x: -y * SPECIAL["psi"](x)),
    ("gammaln", POSITIVE, lambda y, x: SPECIAL["psi"](x)),
    ("loggamma", POSITIVE, lambda y, x: SPECIAL["psi"](x)),
    ("psi", POSITIVE, lambda y, x: polygamma(x, order=1)),
    ("beta", POSITIVE_PAIR, lambda y, a, b: y * _psi_gap(a, a + b), lambda y, a, b: y * _psi_gap(b, a + b)),
    ("betaln", POSITIVE_PAIR, lambda y, a, b: _psi_gap(a, a + b), lambda y, a, b: _psi_gap(b, a + b)),
    # -- logistic ------------------------------------------------------------------------------------------------------
    ("expit", ONE, lambda y, x: y * SPECIAL["expit"](-x)),
    ("logit", UNIT, lambda y, x: 1.0 / (x * (1.0 - x))),
    ("log_expit", ONE, lambda y, x: SPECIAL["expit"](-x)),
    # -- entropies -----------------------------------------------------------------------------------------------------
    ("entr", POSITIVE, lambda y, x: -np.log(x) - 1.0),
    ("xlogy", POSITIVE_PAIR, lambda y, a, b: _log_where(a, b, b <= 0), lambda y, a, b: _ratio(a, b)),
    ("xlog1py", POSITIVE_PAIR, lambda y, a, b: _log_where(a, 1.0 + b, b <= -1), lambda y, a, b: _ratio(a, 1 + b)),
    ("rel_entr", POSITIVE_PAIR, lambda y, a, b: np.log(a / b) + 1.0, lambda y, a, b: -_ratio(a, b)),
    ("kl_div", POSITIVE_PAIR, lambda y, a, b: np.log(a / b), lambda y, a, b: 1.0 - _ratio(a, b)),
    # -- modified Bessel functions -------------------------------------------------------------------------------------
    ("i0", ONE, lambda y, x: SPECIAL["i1"](x)),
    ("i0e", ONE, lambda y, x: SPECIAL["i1e"](x) - np.sign(x) * y),
    ("i1", ONE, lambda y, x: 0.5 * (SPECIAL["i0"](x) + iv(x, order=2))),
    ("i1e", ONE, lambda y, x: 0.5 * (SPECIAL["i0e"](x) + ive(x, order=2)) - np.sign(x) * y),
    ("exp10", ONE, lambda y, x: y * LN10),
]  # fmt: skip

SPECIAL: dict[str, Op] = {"erf": erf}
for _name, _examples, *_partials in TABLE:
    SPECIAL[_name] = elementwise(_name, scipy_value(_name), *_partials, examples=_examples, scalar=SCALARS.get(_name))


def _psi_gap(a: Any, b: Any) -> Any:
    return SPECIAL["psi"](a) - SPECIAL["psi"](b)


def _ratio(a: Any, b: Any) -> Any:
    """a / b, and zero for 0 / 0."""
    zero = np.logical_and(a == 0, b == 0)
    return np.where(zero, 0.0, a / np.where(zero, 1.0, b))


# -- along axes --------------------------------------------------------------------------------------------------------
def _peak_value(x: Any, axis: tuple[int, ...]) -> Any:
    if 0 in (x.shape[k] for k in axis):
        return namespace(x).zeros(tuple(1 if k in axis else n for k, n in enumerate(x.shape)), x.dtype)
    top = x.max(axis=axis, keepdims=True)
    return np.where(np.isfinite(top), top, 0.0) if top.dtype.kind == "f" else top


def _logsumexp_value(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    shift = _peak_value(x, axis)
    with np.errstate(divide="ignore"):
        y = np.log(np.exp(x - shift).sum(axis=axis, keepdims=True)) + shift
    return y if keepdims else y.squeeze(axis)


def _logsumexp_edge(node: Node, k: int) -> Edge:
    """The softmax; where the largest entries are infinite, they share evenly, as the ties of a maximum."""
    x, axis, keepdims = node.args[0], node.params["axis"], node.params["keepdims"]
    y = node.out if keepdims else np.expand_dims(node.out, axis)
    endless = np.isinf(y)
    tied = astype(x == y, y.dtype, y)
    even = tied / np.maximum(tied.sum(axis=axis, keepdims=True), 1.0)
    weights = np.where(endless, even, np.exp(np.where(endless, 0.0, x) - np.where(endless, 0.0, y)))
    inp = fresh(x.shape)
    out = tuple(((Label(1),) if i in axis else a) for i, a in enumerate(inp) if keepdims or i not in axis)
    return Edge(node.out.shape, x.shape, [Part(out, inp, (labelled(weights, inp, y.dtype),))])


peak = opaque("peak", _peak_value, [Example(((3, 4, 2),), {"axis": (1,)})], relation=along, expansion=_peak_value)
"""The maximum along axes, which are kept; 0 where it is infinite: a shift that cancels, and so needs no derivative."""

logsumexp = define(
    "logsumexp",
    _logsumexp_value,
    _logsumexp_edge,
    [
        Example(((3, 4, 2),), {"axis": (1,), "keepdims": False}),
        Example(((3, 4, 2),), {"axis": (1, 2), "keepdims": True}),
    ],
    relation=along,
    expansion=_logsumexp_value,
)
