"""Fourier, cosine and sine transforms as `scipy.fft` names them, on traced values and plain arrays.

``workers=``, ``overwrite_x=`` and ``plan=`` are taken and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from ..lines import user_line
from ..numpy.creation import asarray

_ALIKE = (
    "fft", "ifft", "fft2", "ifft2", "fftn", "ifftn", "rfft", "irfft", "rfft2", "irfft2", "rfftn", "irfftn", "hfft",
    "ihfft", "fftshift", "ifftshift", "fftfreq", "rfftfreq",
)  # fmt: skip
"""What `numpy.fft` has too."""
__all__ = ["dct", "dctn", "dst", "dstn", "idct", "idctn", "idst", "idstn", *_ALIKE]
_SPEED = ("overwrite_x", "workers", "plan")


def __getattr__(name: str) -> Any:
    if name not in _ALIKE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(np.fft, name)

    def transform(x: Any, *args: Any, **options: Any) -> Any:
        options = {key: value for key, value in options.items() if key not in _SPEED}
        return function(x if np.ndim(x) == 0 else asarray(x), *args, **options)

    return transform


# -- cosines, sines: 2 sum_n w[n] x[n] cos(pi (k + a) (n + b) / M), by a Fourier transform of 2 M points ---------------
_COSINE = {1: (0.0, 0.0, -1, (0, -1)), 2: (0.0, 0.5, 0, ()), 3: (0.5, 0.0, 0, (0,)), 4: (0.5, 0.5, 0, ())}
_SINE = {1: (1.0, 1.0, 1, ()), 2: (1.0, 0.5, 0, ()), 3: (0.5, 1.0, 0, (-1,)), 4: (0.5, 0.5, 0, ())}
"""For each type: a, b, M less the number of points, and the points that count half."""
_ENDS = {
    "dct": {1: ((0, -1), (0, -1)), 2: ((), (0,)), 3: ((0,), ()), 4: ((), ())},
    "dst": {1: ((), ()), 2: ((), (-1,)), 3: ((-1,), ()), 4: ((), ())},
}
"""For each type the points that count ``2**0.5`` more before, and less after, where the transform is orthonormal."""
_INVERSE = {1: 1, 2: 3, 3: 2, 4: 4}


def _transform(
    kind: str, x: Any, type: int, n: int | None, axis: int, norm: Any, orthogonalize: bool | None, inverse: bool
) -> Any:
    table = _COSINE if kind == "dct" else _SINE
    if type not in table or norm not in (None, "backward", "ortho", "forward"):
        raise InputError(
            f'{kind} at {user_line()}: expected a type of 1 to 4 and norm "backward", "ortho" or "forward", got {type} '
            f"and {norm!r}."
        )
    type = _INVERSE[type] if inverse else type
    x = np.moveaxis(asarray(x), axis, -1)
    if n is not None:
        x = x[..., :n] if n <= x.shape[-1] else np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n - x.shape[-1])])
    size = x.shape[-1]
    a, b, extra, halved = table[type]
    M = size + extra
    if M < 1:
        raise InputError(f"{kind} at {user_line()}: expected at least two points for type 1, got {size}.")
    before = np.ones(size)
    before[list(halved)] *= 0.5
    after = np.full(size, 2.0)
    ortho = norm == "ortho" if orthogonalize is None else orthogonalize
    if ortho:
        first, last = _ENDS[kind][type]
        before[list(first)] *= 2**0.5
        after[list(last)] *= 0.5**0.5
    if norm == "ortho":
        after *= (2 * M) ** -0.5
    elif (norm == "forward") != inverse:
        after /= 2 * M
    k = np.arange(size)
    dtype = np.result_type(x.dtype, np.complex64)
    turned = x * (before * np.exp(-1j * np.pi * a * k / M)).astype(dtype)
    whole = np.fft.fft(turned, 2 * M)[..., :size] * (after * np.exp(-1j * np.pi * b * (k + a) / M)).astype(dtype)
    return np.moveaxis(np.real(whole) if kind == "dct" else -np.imag(whole), -1, axis)


def _along_one(name: str, words: str) -> Callable[..., Any]:
    kind, inverse = name.removeprefix("i"), name.startswith("i")

    def transform(
        x: Any, type: int = 2, n: int | None = None, axis: int = -1, norm: Any = None, overwrite_x: bool = False,
        workers: Any = None, orthogonalize: bool | None = None,
    ) -> Any:  # fmt: skip
        return _transform(kind, x, type, n, axis, norm, orthogonalize, inverse)

    transform.__name__, transform.__doc__ = name, words
    return transform


dct = _along_one("dct", "The discrete cosine transform of type 1 to 4 along `axis`.")
dst = _along_one("dst", "The discrete sine transform of type 1 to 4 along `axis`.")
idct, idst = _along_one("idct", "The inverse of `dct`."), _along_one("idst", "The inverse of `dst`.")


def _along_all(one: Callable[..., Any], name: str) -> Callable[..., Any]:
    def transform(x: Any, type: int = 2, s: Any = None, axes: Any = None, norm: Any = None, overwrite_x: bool = False,
                  workers: Any = None, *, orthogonalize: bool | None = None) -> Any:  # fmt: skip
        x = asarray(x)
        if axes is None:
            axes = range(-len(s), 0) if s is not None else range(x.ndim)
        axes = [axes] if isinstance(axes, int) else list(axes)
        for n, axis in zip([None] * len(axes) if s is None else s, axes, strict=True):
            x = one(x, type, n, axis, norm, orthogonalize=orthogonalize)
        return x

    transform.__name__, transform.__doc__ = name, f"`{name[:-1]}` along several axes."
    return transform


dctn, idctn, dstn, idstn = (_along_all(f, f"{f.__name__}n") for f in (dct, idct, dst, idst))
