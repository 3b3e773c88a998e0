"""Convolutions and filters as `scipy.signal` names them, on traced values and plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..lines import user_line
from ..numpy.creation import asarray
from ..ops.scipy import allpole
from .windows import slide

__all__ = ["convolve", "convolve2d", "correlate", "correlate2d", "fftconvolve", "lfilter", "oaconvolve", "sosfilt"]

_FEW = 64
"""Up to so many entries a kernel slides along the array, and the Jacobian is banded; beyond, they are transformed."""


def convolve(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """The convolution of arrays of as many axes. Along axes where `in2` has length one it is a product.

    Cost: the entries of one times those of the other, or, of more than 64 in both, that of Fourier transforms.
    """
    return _convolved(in1, in2, mode, None if method == "auto" else method == "fft")


def fftconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """The convolution along `axes`, by Fourier transforms."""
    return _convolved(in1, in2, mode, True, axes)


def oaconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """As `fftconvolve`."""
    return _convolved(in1, in2, mode, True, axes)


def correlate(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """The correlation: the convolution with `in2` reversed and conjugated."""
    return convolve(in1, np.conj(np.flip(asarray(in2))), mode, method)


def convolve2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: float = 0) -> Any:
    """The convolution of two matrices, with zeros around."""
    if boundary != "fill" or fillvalue != 0:
        raise InputError(
            f"convolve2d at {user_line()}: expected zeros around, got boundary={boundary!r}, fillvalue={fillvalue}. "
            "Pad the matrix by np.pad, and take mode='valid'."
        )
    return _convolved(in1, in2, mode, False)


def correlate2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: float = 0) -> Any:
    """The correlation of two matrices, with zeros around."""
    return np.flip(convolve2d(np.flip(asarray(in1)), np.conj(asarray(in2)), mode, boundary, fillvalue))


def _convolved(a: Any, v: Any, mode: str, by_transform: bool | None, axes: Any = None) -> Any:
    a, v = asarray(a), asarray(v)
    if mode not in ("full", "same", "valid") or a.ndim != v.ndim:
        raise InputError(
            f"convolve at {user_line()}: expected arrays of as many axes and mode 'full', 'same' or 'valid', got "
            f"{a.shape}, {v.shape} and {mode!r}."
        )
    if axes is None:
        axes = range(a.ndim)
    axes = [k % a.ndim for k in ([axes] if isinstance(axes, int) else axes)]
    if mode == "valid" and all(a.shape[k] <= v.shape[k] for k in axes):
        a, v = v, a
    target = a.shape
    axes = [k for k in axes if v.shape[k] != 1]
    size, other = (int(np.prod([x.shape[k] for k in axes], dtype=int)) for x in (v, a))
    if by_transform is None:
        by_transform = min(size, other) > _FEW
    full = _by_transform(a, v, axes) if by_transform else _by_sliding(*((a, v) if size <= other else (v, a)), axes)
    if mode == "full":
        return full
    index: list[Any] = [slice(None)] * a.ndim
    for k in axes:
        n = target[k] if mode == "same" else a.shape[k] - v.shape[k] + 1
        start = (full.shape[k] - n) // 2
        index[k] = slice(start, start + n)
    return full[tuple(index)]


def _by_sliding(a: Any, v: Any, axes: list[int]) -> Any:
    around = [(v.shape[k] - 1,) * 2 if k in axes else (0, 0) for k in range(a.ndim)]
    return slide(np.pad(a, around), np.flip(v, tuple(axes)), axes)


def _by_transform(a: Any, v: Any, axes: list[int]) -> Any:
    if not axes:
        return a * v
    sizes = [a.shape[k] + v.shape[k] - 1 for k in axes]
    if "c" in (a.dtype.kind, v.dtype.kind):
        return np.fft.ifftn(np.fft.fftn(a, sizes, axes) * np.fft.fftn(v, sizes, axes), sizes, axes)
    return np.fft.irfftn(np.fft.rfftn(a, sizes, axes) * np.fft.rfftn(v, sizes, axes), sizes, axes)


def lfilter(b: Any, a: Any, x: Any, axis: int = -1, zi: Any = None) -> Any:
    """The linear filter ``sum(a[j] y[t - j]) = sum(b[j] x[t - j])`` along `axis`; b, a: (m,), x: any shape.

    All three may be traced. Cost: for each seed that of the filter.
    """
    if zi is not None:
        raise InputError(f"lfilter at {user_line()}: got zi=, which minijac does not take: filter from rest.")
    b, a, x = (np.atleast_1d(asarray(y)) for y in (b, a, x))
    x = np.moveaxis(x, axis, -1)
    n, m = x.shape[-1], b.shape[0]
    b = b.reshape((1,) * (x.ndim - 1) + (m,))
    driven = _by_sliding(x, b, [x.ndim - 1])[..., :n]
    return np.moveaxis(driven / a[0] if a.shape[0] == 1 else allpole(driven, a), -1, axis)


def sosfilt(sos: Any, x: Any, axis: int = -1, zi: Any = None) -> Any:
    """Sections of second order one after the other, each an `lfilter`. sos: (sections, 6)."""
    for section in asarray(sos):
        x = lfilter(section[:3], section[3:], x, axis, zi)
    return x
