"""Histograms of traced values: counts are integers, but weights and the edges of bins carry derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import astype, lacking, namespace, placed
from ..errors import InputError
from ..lines import user_line
from ..ops import indexing
from ..tape.traced import Traced
from .protocol import as_array, implements, number_of


@implements(np.histogram_bin_edges)
def histogram_bin_edges(a: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> Any:
    """Equally spaced between the extremes of `a`, which carry the derivative, unless something else is given."""
    if not isinstance(bins, str) and np.ndim(bins) == 1:
        return as_array(bins, a)
    if namespace(a) is np:
        edges = np.histogram_bin_edges(*map(number_of, (a, bins, range, weights)))
        if range is not None or not isinstance(a, Traced):
            return edges
        count = len(edges)
    elif isinstance(bins, str):
        raise lacking(f"numpy.histogram_bin_edges with bins={bins!r}")
    elif range is not None:
        return placed(np.histogram_bin_edges(np.zeros(0), bins, range), a)
    else:
        count = int(bins) + 1
    low, high = a.min(), a.max()
    margin = 0.5 * astype(low == high, low.dtype, low)
    return np.linspace(low - margin, high + margin, count)


def _grid(
    columns: Sequence[Any], bins: Sequence[Any], ranges: Sequence[Any], density: Any, weights: Any
) -> tuple[Any, list[Any]]:
    """The sums of the weights (of ones for None) over the boxes between edges, one axis for each column."""
    columns = [np.ravel(as_array(column)) for column in columns]
    edges = [histogram_bin_edges(*three) for three in zip(columns, bins, ranges, strict=True)]
    numbers = [number_of(each) for each in edges]
    shape = tuple(len(each) - 1 for each in edges)
    place: Any = 0
    inside: Any = True
    for column, each, n in zip(map(number_of, columns), numbers, shape, strict=True):
        k = np.searchsorted(each, column, side="right") - 1
        k = np.where(column == each[-1], n - 1, k)  # the last edge belongs to the last bin
        inside = (k >= 0) & (k < n) & inside
        place = place * n + np.clip(k, 0, n - 1)
    size = int(np.prod(shape))
    if weights is None:
        sums: Any = np.bincount(place[inside], minlength=size)
    else:
        weights = np.ravel(as_array(weights, *columns))
        if weights.shape != columns[0].shape:
            raise InputError(f"histogram at {user_line()}: {weights.shape} weights for {columns[0].shape} entries.")
        sums = indexing.deposit(weights[inside], place[inside], axis=0, size=size)
    sums = np.reshape(sums, shape)
    if density:
        sums = sums / np.sum(sums)
        for k, each in enumerate(edges):
            sums = sums / np.reshape(np.diff(each), (-1,) + (1,) * (len(shape) - k - 1))
    return sums, edges


@implements(np.histogram)
def histogram(a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None) -> tuple[Any, Any]:
    sums, edges = _grid([a], [bins], [range], density, weights)
    return sums, edges[0]


@implements(np.histogramdd)
def histogramdd(
    sample: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Any, Any]:
    columns = list(sample) if isinstance(sample, list | tuple) else list(np.transpose(np.atleast_2d(as_array(sample))))
    n = len(columns)
    each = [bins] * n if isinstance(bins, int | np.integer) else list(bins)
    sums, edges = _grid(columns, each, [None] * n if range is None else range, density, weights)
    sums = sums if isinstance(sums, Traced) else sums.astype(float)
    return sums, type(np.histogramdd(np.zeros((1, 1)))[1])(edges)


@implements(np.histogram2d)
def histogram2d(
    x: Any, y: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Any, Any, Any]:
    if not isinstance(bins, int | np.integer) and len(bins) != 2:
        bins = [bins, bins]
    sums, edges = histogramdd([x, y], bins, range, density, weights)
    return sums, edges[0], edges[1]
