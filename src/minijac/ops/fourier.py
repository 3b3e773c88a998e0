"""The discrete Fourier transform: a linear map along axes, symmetric, so that it is its own transpose."""

from __future__ import annotations

from typing import Any

from ..backend import namespace
from ..tape.trace import Node
from .edges import Edge
from .families import Example, along, define
from .maps import linear_map

__all__ = ["fourier"]


def _value(x: Any, axis: tuple[int, ...], inverse: bool) -> Any:
    fft = namespace(x).fft
    return fft.ifftn(x, axes=axis, norm="forward") if inverse else fft.fftn(x, axes=axis)


def _edge(node: Node, k: int) -> Edge:
    shape, axis, inverse = node.out.shape, node.params["axis"], node.params["inverse"]
    apply = lambda x: fourier(x, axis=tuple(i + 1 for i in axis), inverse=inverse)  # noqa: E731
    passing = [(i, i) for i in range(len(shape)) if i not in axis]
    return linear_map(shape, shape, apply, apply, passing, uniform=True, signed=True)


fourier = define(
    "fourier",
    _value,
    _edge,
    [
        Example(((3, 4),), {"axis": (1,), "inverse": False}),
        Example(((3, 5, 2),), {"axis": (1, 2), "inverse": True}),
    ],
    relation=along,
    flat=True,
    complex=True,
)
"""``sum(x[n] * exp(-2j pi k n / N))`` along axes, or with ``+2j`` if `inverse`: nothing is divided by N.

Cost: that of an FFT, for each seed too.
"""
