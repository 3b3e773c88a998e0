"""A kernel that slides along some axes: what convolutions of signals and images are made of."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np

from ..ops.convolution import patches

__all__ = ["slide"]

_STENCIL = 9
"""Up to so many entries a kernel is a sum of shifted arrays, whose Jacobian is as many diagonals."""


def slide(x: Any, kernel: Any, axes: list[int]) -> Any:
    """``sum(kernel[j] * x[i + j])`` over `axes`, only where the kernel fits; along others the product broadcasts."""
    if not axes:
        return x * kernel
    last = range(x.ndim - len(axes), x.ndim)
    x, kernel = np.moveaxis(x, axes, last), np.moveaxis(kernel, axes, last)
    sizes, one = kernel.shape[-len(axes) :], (1,) * len(axes)
    if prod(sizes) <= _STENCIL:
        found: Any = 0
        for offset in product(*map(range, sizes)):
            windows = zip(offset, x.shape[-len(axes) :], sizes, strict=True)
            part = x[(..., *[slice(j, n - size + j + 1) for j, n, size in windows])]
            found = found + part * kernel[(..., *[slice(j, j + 1) for j in offset])]
    else:
        spread = kernel.reshape(kernel.shape + one)
        windows = patches(x, kernel=sizes, stride=one, dilation=one)
        found = (windows * spread).sum(tuple(range(x.ndim - len(axes), x.ndim)))
    return np.moveaxis(found, last, axes)
