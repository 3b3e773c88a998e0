"""numpy.fft on traced values: transforms along axes, cropped or padded to a length, and scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..backend import is_complex, placed
from ..lines import user_line
from ..ops import elementwise
from ..ops.fourier import fourier
from .protocol import as_array, implements

_NORMS = {None: "backward", "backward": "backward", "ortho": "ortho", "forward": "forward"}
_SWAPPED = {"backward": "forward", "ortho": "ortho", "forward": "backward"}


def _norm(norm: Any) -> str:
    if norm not in _NORMS:
        raise ValueError(f'at {user_line()}: norm: expected "backward", "ortho" or "forward", got {norm!r}')
    return _NORMS[norm]


def _of_length(a: Any, n: int, axis: int) -> Any:
    """Cropped, or with zeros at the end."""
    if n < 1:
        raise ValueError(f"at {user_line()}: expected a positive number of points, got {n}")
    if n == a.shape[axis]:
        return a
    if n < a.shape[axis]:
        return a[(slice(None),) * (axis % a.ndim) + (slice(n),)]
    return np.pad(a, [(0, n - size if k == axis % a.ndim else 0) for k, size in enumerate(a.shape)])


def _sizes(a: Any, s: Any, axes: Any) -> tuple[list[int], list[int]]:
    """The lengths and the axes of a transform of several."""
    if axes is None:
        axes = range(a.ndim) if s is None else range(-len(s), 0)
    axes = [axis % a.ndim for axis in axes]
    s = [-1] * len(axes) if s is None else list(s)
    if len(s) != len(axes):
        raise ValueError(f"at {user_line()}: expected as many lengths as axes, got {len(s)} and {len(axes)}")
    return [a.shape[axis] if n in (-1, None) else n for n, axis in zip(s, axes, strict=True)], axes


def _transformed(a: Any, s: Sequence[int], axes: Sequence[int], norm: str, inverse: bool) -> Any:
    for n, axis in zip(s, axes, strict=True):
        a = _of_length(a, n, axis)
    if len(set(axes)) < len(axes):  # an axis twice is transformed twice
        for axis in axes:
            a = fourier(a, axis=(axis,), inverse=inverse)
    else:
        a = fourier(a, axis=tuple(axes), inverse=inverse) if axes else a
    return _scaled(a, prod(s), norm, inverse)


def _scaled(a: Any, count: int, norm: str, inverse: bool) -> Any:
    if norm == "ortho":
        return a * count**-0.5
    return a * (1.0 / count) if (norm == "backward") == inverse else a


def fftn(a: Any, s: Any = None, axes: Any = None, norm: Any = None, *, inverse: bool = False) -> Any:
    a = as_array(a)
    return _transformed(a, *_sizes(a, s, axes), _norm(norm), inverse)


def rfftn(a: Any, s: Any = None, axes: Any = None, norm: Any = None) -> Any:
    a = as_array(a)
    if is_complex(a):
        raise TypeError(f"at {user_line()}: expected a real array, got {a.dtype}. Use fft for complex values.")
    s, axes = _sizes(a, s, axes)
    a = _transformed(a, s, axes, _norm(norm), False)
    return _of_length(a, s[-1] // 2 + 1, axes[-1])


def irfftn(a: Any, s: Any = None, axes: Any = None, norm: Any = None) -> Any:
    """The last axis holds half of a transform whose other half is its conjugate."""
    a = as_array(a)
    last_given = s is not None and s[-1] not in (-1, None)
    s, axes = _sizes(a, s, axes)
    n, axis = (s[-1] if last_given else 2 * (a.shape[axes[-1]] - 1)), axes[-1]
    a = _of_length(a, n // 2 + 1, axis)
    weights = np.full(n // 2 + 1, 2.0, a.real.dtype)
    weights[0] = 1.0
    if n % 2 == 0:
        weights[-1] = 1.0
    a = a * placed(weights.reshape((-1,) + (1,) * (a.ndim - axis - 1)), a)
    return elementwise.real(_transformed(a, [*s[:-1], n], axes, _norm(norm), True))


@implements(np.fft.hfft)
def hfft(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
    a = as_array(a)
    n = 2 * (a.shape[axis] - 1) if n is None else n
    return irfftn(np.conj(a), [n], [axis], _SWAPPED[_norm(norm)])


@implements(np.fft.ihfft)
def ihfft(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
    return np.conj(rfftn(a, None if n is None else [n], [axis], _SWAPPED[_norm(norm)]))


def _register(name: str, function: Callable[..., Any]) -> None:
    """The forms of one axis, of two and of several."""

    def one(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
        return function(a, None if n is None else [n], [axis], norm)

    def two(a: Any, s: Any = None, axes: Any = (-2, -1), norm: Any = None, out: Any = None) -> Any:
        return function(a, s, axes, norm)

    def several(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Any:
        return function(a, s, axes, norm)

    for form, suffix in ((one, ""), (two, "2"), (several, "n")):
        form.__name__ = name + suffix
        implements(getattr(np.fft, name + suffix))(form)


_register("fft", fftn)
_register("ifft", partial(fftn, inverse=True))
_register("rfft", rfftn)
_register("irfft", irfftn)


@implements(np.fft.fftshift)
def fftshift(x: Any, axes: Any = None) -> Any:
    return _shifted(x, axes, lambda n: n // 2)


@implements(np.fft.ifftshift)
def ifftshift(x: Any, axes: Any = None) -> Any:
    return _shifted(x, axes, lambda n: -(n // 2))


def _shifted(x: Any, axes: Any, by: Any) -> Any:
    x = as_array(x)
    axes = tuple(range(x.ndim)) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    return np.roll(x, [by(x.shape[axis]) for axis in axes], axes)
