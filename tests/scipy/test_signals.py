"""Convolutions, filters and images: values as SciPy's, derivatives as differences, forward, reverse and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from helpers import close, random

import minijac as mj
from minijac.scipy import ndimage, signal

X, IMAGE = random(7, seed=1), random(4, 5, seed=2)
K3, K4, K2D = random(3, seed=3), random(4, seed=4), random(3, 2, seed=5)
B, A = np.array([0.3, 0.5]), np.array([2.0, 0.4, -0.2])
Function = Callable[..., Any]


def check(f: Function, truth: Function, x: np.ndarray) -> None:
    close(f(x), truth(x), 1e-11, 1e-11)
    steps = 1e-6 * np.eye(x.size).reshape(-1, *x.shape)
    columns = [(truth(x + step) - truth(x - step)) / 2e-6 for step in steps]
    expected = np.stack(columns, -1).reshape(*columns[0].shape, *x.shape)
    for mode in ("forward", "reverse"):
        close(mj.jacobian(f, batch_axis=None, mode=mode)(x), expected, 1e-6, 1e-6)
    close(mj.compile(mj.jacobian(f, batch_axis=None))(x), expected, 1e-6, 1e-6)


SECTIONS = np.array([[1.0, 0.4, 0.2, 1.0, -0.3, 0.1], [0.5, -0.2, 0.1, 1.0, 0.4, -0.2]])


def signals() -> Iterator[tuple[str, Function, np.ndarray]]:
    """What a module of signals is asked for, and the argument."""
    for mode in ("full", "same", "valid"):
        for name, k in (("odd", K3), ("even", K4)):
            yield f"convolve, {name}, {mode}", lambda m, x, k=k, mode=mode: m.convolve(x, k, mode), X
            yield f"fftconvolve, {name}, {mode}", lambda m, x, k=k, mode=mode: m.fftconvolve(x, k, mode), X
            yield f"correlate, {name}, {mode}", lambda m, x, k=k, mode=mode: m.correlate(x, k, mode), X
        yield f"the kernel, {mode}", lambda m, k, mode=mode: m.convolve(k, X, mode), K3
        yield f"convolve2d, {mode}", lambda m, x, mode=mode: m.convolve2d(x, K2D, mode), IMAGE
        yield f"correlate2d, {mode}", lambda m, x, mode=mode: m.correlate2d(x, K2D, mode), IMAGE
        yield f"two axes, {mode}", lambda m, x, mode=mode: m.fftconvolve(x, K2D, mode), IMAGE
        yield f"one of two axes, {mode}", lambda m, x, mode=mode: m.oaconvolve(x, K3[None], mode, axes=1), IMAGE
    yield "long", lambda m, x: m.convolve(np.tile(x, 30), np.tile(K4, 25))[::40], X
    yield "lfilter", lambda m, x: m.lfilter(B, A, x), IMAGE
    yield "lfilter along the first axis", lambda m, x: m.lfilter(B, A, x, axis=0), IMAGE
    yield "lfilter without a past", lambda m, x: m.lfilter(B, [2.0], x), IMAGE
    yield "sosfilt", lambda m, x: m.sosfilt(SECTIONS, x), IMAGE
    whole = lambda b: np.concatenate([b, SECTIONS[:, 3:]], 1)
    yield "sosfilt by its sections", lambda m, b: m.sosfilt(whole(b), IMAGE, axis=0), SECTIONS[:, :3]
    yield "lfilter by a", lambda m, a: m.lfilter(B, a, IMAGE), A
    yield "lfilter by b", lambda m, b: m.lfilter(b, A, IMAGE), B


@pytest.mark.parametrize("case", list(signals()), ids=lambda case: case[0])
def test_signals(case):
    _, f, x = case
    check(lambda x: f(signal, x), lambda x: f(scipy.signal, x), x)


IMAGES: dict[str, Function] = {
    "correlate": lambda m, x, mode: m.correlate(x, K2D, mode=mode, cval=0.7),
    "convolve": lambda m, x, mode: m.convolve(x, K2D, mode=mode, origin=(1, 0)),
    "convolve1d": lambda m, x, mode: m.convolve1d(x, K4, axis=0, mode=mode),
    "gaussian": lambda m, x, mode: m.gaussian_filter(x, 0.6, mode=mode),
    "gaussian, derivative": lambda m, x, mode: m.gaussian_filter(x, (0.6, 0.4), order=(0, 1), mode=mode),
    "gaussian_laplace": lambda m, x, mode: m.gaussian_laplace(x, 0.5, mode=mode),
    "gradient_magnitude": lambda m, x, mode: m.gaussian_gradient_magnitude(x, 0.6, mode=mode),
    "uniform": lambda m, x, mode: m.uniform_filter(x, 3, mode=mode),
    "laplace": lambda m, x, mode: m.laplace(x, mode=mode),
    "sobel": lambda m, x, mode: m.sobel(x, 0, mode=mode),
    "prewitt": lambda m, x, mode: m.prewitt(x, mode=mode),
}


@pytest.mark.parametrize("mode", ("reflect", "mirror", "nearest", "constant", "wrap"))
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, mode):
    f = IMAGES[name]
    check(lambda x: f(ndimage, x, mode), lambda x: f(scipy.ndimage, x, mode), IMAGE)


@pytest.mark.parametrize("weights", [np.ones((2, 2)), np.ones((2, 2), np.float32), np.ones((2, 2)) * 1j])
def test_images_keep_their_precision(weights):
    image = IMAGE.astype(np.float32)
    y = ndimage.correlate(image, weights)
    z = scipy.ndimage.correlate(image, weights)
    assert y.dtype == z.dtype
    close(y, z, 1e-5, 1e-5)


def test_samples_stay_apart_and_a_kernel_gives_bands():
    x = random(3, 20, seed=6)
    f = lambda x: signal.convolve(x, K3[None], "same")
    J = mj.jacobian(f, structured=True)(x)
    assert J.nbytes < 20 * 20
    close(J.todense(), mj.jacobian(f)(x))
    images = random(3, 4, 5, seed=7)
    assert mj.jacobian(lambda x: ndimage.gaussian_filter(x, 0.5, axes=(1, 2)))(images).shape == (3, 4, 5, 4, 5)
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(lambda x: ndimage.gaussian_filter(x, 0.5))(images)
    close(mj.hessian(lambda x: (signal.lfilter(B, A, x) ** 3).sum(1))(x).shape, (3, 20, 20))


def test_adapted_code_and_wrong_arguments():
    f = mj.adapt(lambda x: scipy.signal.lfilter(B, A, scipy.ndimage.gaussian_filter1d(x, 0.7)))
    close(mj.jacobian(f)(IMAGE), mj.jacobian(lambda x: signal.lfilter(B, A, ndimage.gaussian_filter1d(x, 0.7)))(IMAGE))
    for call in (
        lambda: signal.lfilter(B, A, X, zi=[0.0, 0.0]),
        lambda: signal.convolve2d(IMAGE, K2D, boundary="wrap"),
        lambda: signal.convolve(X, IMAGE),
        lambda: ndimage.correlate(IMAGE, K3),
        lambda: ndimage.correlate(IMAGE, K2D, mode="typo"),
    ):
        with pytest.raises(mj.InputError, match=r"expected|zi="):
            call()
