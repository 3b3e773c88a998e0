"""Filters of images as `scipy.ndimage` names them, on traced values and plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..lines import user_line
from ..numpy.creation import asarray
from .windows import slide

__all__ = [
    "convolve", "convolve1d", "correlate", "correlate1d", "gaussian_filter", "gaussian_filter1d",
    "gaussian_gradient_magnitude", "gaussian_laplace", "generic_laplace", "laplace", "prewitt", "sobel",
    "uniform_filter", "uniform_filter1d",
]  # fmt: skip

_PADS = {"reflect": "symmetric", "grid-mirror": "symmetric", "mirror": "reflect", "nearest": "edge",
         "constant": "constant", "grid-constant": "constant", "wrap": "wrap", "grid-wrap": "wrap"}  # fmt: skip
"""What `scipy.ndimage` calls the ways to go on beyond the edge, and NumPy."""


def correlate(input: Any, weights: Any, output: Any = None, mode: str = "reflect", cval: float = 0.0, origin: Any = 0,
              axes: Any = None) -> Any:  # fmt: skip
    """``sum(conj(weights[j]) * input[i + j - center])``; weights: as many axes as `axes`, which are all of them.

    The result has the precision of `input`, as SciPy's.
    """
    x, weights = asarray(input), asarray(weights)
    axes = list(range(x.ndim)) if axes is None else [k % x.ndim for k in ([axes] if isinstance(axes, int) else axes)]
    if weights.ndim != len(axes) or output is not None:
        raise InputError(
            f"correlate at {user_line()}: expected weights of {len(axes)} axes and no output=, got {weights.shape}."
        )
    origins = [origin] * len(axes) if np.ndim(origin) == 0 else list(origin)
    befores = [n // 2 + o for n, o in zip(weights.shape, origins, strict=True)]
    sizes = dict(zip(axes, zip(befores, weights.shape, strict=True), strict=True))
    around = [(sizes[k][0], sizes[k][1] - 1 - sizes[k][0]) if k in sizes else (0, 0) for k in range(x.ndim)]
    if mode not in _PADS or any(min(pair) < 0 for pair in around):
        raise InputError(
            f"correlate at {user_line()}: expected mode in {', '.join(_PADS)} and an origin within the weights, got "
            f"{mode!r} and {origin!r}."
        )
    options = {"constant_values": cval} if _PADS[mode] == "constant" else {}
    padded = np.pad(x, around, _PADS[mode], **options)  # type: ignore[call-overload]
    order = sorted(range(len(axes)), key=lambda j: axes[j])
    weights = np.conj(weights) if weights.dtype.kind == "c" else weights
    wide = np.transpose(weights, order).reshape([_size(weights, axes, k) for k in range(x.ndim)])
    y = slide(padded, wide, sorted(axes))
    kind = np.promote_types(x.dtype, np.complex64) if weights.dtype.kind == "c" else x.dtype
    return y if y.dtype == kind or kind.kind not in "fc" else y.astype(kind)


def _size(weights: Any, axes: Sequence[int], k: int) -> int:
    """The length of the weights along an axis of the image."""
    return int(weights.shape[list(axes).index(k)]) if k in axes else 1


def convolve(input: Any, weights: Any, output: Any = None, mode: str = "reflect", cval: float = 0.0, origin: Any = 0,
             axes: Any = None) -> Any:  # fmt: skip
    """As `correlate`, with the weights reversed."""
    weights = asarray(weights)
    origins = [origin] * weights.ndim if np.ndim(origin) == 0 else list(origin)
    origins = [-o - (n % 2 == 0) for o, n in zip(origins, weights.shape, strict=True)]
    weights = np.conj(weights) if weights.dtype.kind == "c" else weights
    return correlate(input, np.flip(weights), output, mode, cval, origins, axes)


def correlate1d(input: Any, weights: Any, axis: int = -1, output: Any = None, mode: str = "reflect", cval: float = 0.0,
                origin: int = 0) -> Any:  # fmt: skip
    """As `correlate`, along one axis."""
    return correlate(input, weights, output, mode, cval, origin, [axis])


def convolve1d(input: Any, weights: Any, axis: int = -1, output: Any = None, mode: str = "reflect", cval: float = 0.0,
               origin: int = 0) -> Any:  # fmt: skip
    """As `convolve`, along one axis."""
    return convolve(input, weights, output, mode, cval, origin, [axis])


def _along(one: Callable[..., Any], x: Any, axes: Any, values: Sequence[Any], **options: Any) -> Any:
    """A filter of one axis after another, each with values of its own."""
    x = asarray(x)
    axes = list(range(x.ndim)) if axes is None else [axes] if isinstance(axes, int) else list(axes)
    lists = [[value] * len(axes) if np.ndim(value) == 0 else list(value) for value in values]
    for k, *own in zip(axes, *lists, strict=True):
        x = one(x, *own, axis=k, **options)
    return x


def gaussian_filter1d(input: Any, sigma: float, axis: int = -1, order: int = 0, output: Any = None,
                      mode: str = "reflect", cval: float = 0.0, truncate: float = 4.0, *,
                      radius: int | None = None) -> Any:  # fmt: skip
    """A Gaussian of standard deviation `sigma` entries, or its derivative of an order."""
    radius = int(truncate * float(sigma) + 0.5) if radius is None else radius
    t = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / sigma**2 * t**2)
    weights /= weights.sum()
    polynomial = np.polynomial.Polynomial([1.0])
    for _ in range(order):
        polynomial = polynomial.deriv() + polynomial * np.polynomial.Polynomial([0.0, -1.0 / sigma**2])
    weights = (polynomial(t) * weights)[::-1]
    return correlate1d(input, weights.astype(asarray(input).dtype), axis, output, mode, cval)


def gaussian_filter(
    input: Any, sigma: Any, order: Any = 0, output: Any = None, mode: str = "reflect", cval: float = 0.0,
    truncate: float = 4.0, *, radius: Any = None, axes: Any = None,
) -> Any:  # fmt: skip
    """As `gaussian_filter1d`, along all of `axes`."""

    def one(x: Any, sigma: float, order: int, axis: int) -> Any:
        if sigma <= 1e-15:
            return x
        return gaussian_filter1d(x, sigma, axis, order, None, mode, cval, truncate, radius=radius)

    return _along(one, input, axes, (sigma, order))


def uniform_filter1d(input: Any, size: int, axis: int = -1, output: Any = None, mode: str = "reflect",
                     cval: float = 0.0, origin: int = 0) -> Any:  # fmt: skip
    """The mean of `size` entries."""
    weights = np.full(size, 1.0 / size, asarray(input).dtype)
    return correlate1d(input, weights, axis, output, mode, cval, origin)


def uniform_filter(input: Any, size: Any = 3, output: Any = None, mode: str = "reflect", cval: float = 0.0,
                   origin: Any = 0, *, axes: Any = None) -> Any:  # fmt: skip
    """As `uniform_filter1d`, along all of `axes`."""
    one = lambda x, size, origin, axis: uniform_filter1d(x, size, axis, None, mode, cval, origin)  # noqa: E731
    return _along(one, input, axes, (size, origin))


def _edges(smooth: Sequence[float]) -> Callable[..., Any]:
    def edges(input: Any, axis: int = -1, output: Any = None, mode: str = "reflect", cval: float = 0.0) -> Any:
        """A difference along `axis`, smoothed along the others."""
        x = asarray(input)
        found = correlate1d(x, np.array([-1.0, 0.0, 1.0], x.dtype), axis, output, mode, cval)
        for k in range(x.ndim):
            if k != axis % x.ndim:
                found = correlate1d(found, np.array(smooth, x.dtype), k, None, mode, cval)
        return found

    return edges


sobel, prewitt = _edges((1.0, 2.0, 1.0)), _edges((1.0, 1.0, 1.0))


def generic_laplace(input: Any, derivative2: Callable[..., Any], output: Any = None, mode: str = "reflect",
                    cval: float = 0.0, extra_arguments: Any = (), extra_keywords: Any = None, *,
                    axes: Any = None) -> Any:  # fmt: skip
    """The sum of ``derivative2(input, axis, output, mode, cval)`` over the axes."""
    x = asarray(input)
    axes = range(x.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    return sum(derivative2(x, k, None, mode, cval, *extra_arguments, **(extra_keywords or {})) for k in axes)


def laplace(input: Any, output: Any = None, mode: str = "reflect", cval: float = 0.0, *, axes: Any = None) -> Any:
    """The sum of second differences."""
    second = np.array([1.0, -2.0, 1.0], asarray(input).dtype)
    return generic_laplace(
        input, lambda x, k, output, mode, cval: correlate1d(x, second, k, output, mode, cval), output, mode, cval,
        axes=axes,
    )  # fmt: skip


def gaussian_laplace(input: Any, sigma: Any, output: Any = None, mode: str = "reflect", cval: float = 0.0, *,
                     axes: Any = None, **options: Any) -> Any:  # fmt: skip
    """The sum of second derivatives of a Gaussian."""
    x = asarray(input)
    used = list(range(x.ndim)) if axes is None else [axes] if isinstance(axes, int) else list(axes)
    orders = [[2 if k == axis else 0 for k in used] for axis in used]
    return sum(gaussian_filter(x, sigma, order, None, mode, cval, axes=used, **options) for order in orders)


def gaussian_gradient_magnitude(input: Any, sigma: Any, output: Any = None, mode: str = "reflect", cval: float = 0.0, *,
                                axes: Any = None, **options: Any) -> Any:  # fmt: skip
    """The length of the gradient of a Gaussian; 0 has a slope of 0."""
    x = asarray(input)
    used = list(range(x.ndim)) if axes is None else [axes] if isinstance(axes, int) else list(axes)
    orders = [[int(k == axis) for k in used] for axis in used]
    slopes = [gaussian_filter(x, sigma, order, None, mode, cval, axes=used, **options) for order in orders]
    return np.linalg.norm(np.stack(slopes), axis=0)
