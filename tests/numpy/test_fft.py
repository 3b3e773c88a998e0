"""numpy.fft inside functions: values as NumPy's, derivatives as torch's, samples apart, at the cost of an FFT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import close, random

import minijac as mj

torch = pytest.importorskip("torch")

X = random(3, 6, seed=1)
IMAGES = random(3, 4, 5, seed=2)
ONE_AXIS = {
    "fft": lambda m, x: m.fft(x),
    "fft, longer": lambda m, x: m.fft(x, 8),
    "fft, shorter and forward": lambda m, x: m.fft(x, 4, norm="forward"),
    "fft of complex values": lambda m, x: m.fft(x * (1.0 - 2.0j) * x),
    "ifft": lambda m, x: m.ifft(x, 5),
    "ifft, forward": lambda m, x: m.ifft(x * 1.5j, norm="forward"),
    "rfft": lambda m, x: m.rfft(x, norm="ortho"),
    "rfft, odd": lambda m, x: m.rfft(x, 5),
    "irfft": lambda m, x: m.irfft(m.rfft(x) * (1.0 + 0.5j)),
    "irfft, odd": lambda m, x: m.irfft(m.rfft(x) ** 2, 7, norm="ortho"),
    "hfft": lambda m, x: m.hfft(x * (1.0 + 2.0j), norm="ortho"),
    "hfft, odd": lambda m, x: m.hfft(x * (1.0 + 2.0j), 9),
    "ihfft": lambda m, x: m.ihfft(x, norm="forward"),
    "a derivative": lambda m, x: m.ifft(m.fft(x) * 1j).real,
    "a power spectrum": lambda m, x: abs(m.rfft(x)) ** 2,
    "shifted": lambda m, x: m.ifftshift(m.fftshift(m.fft(x), 1)[:, :5], 1),
}
SEVERAL_AXES = {
    "fft2": (lambda x: np.fft.fft2(x), lambda x: torch.fft.fft2(x)),
    "ifft2": (lambda x: np.fft.ifft2(x, (3, 6)), lambda x: torch.fft.ifft2(x, (3, 6))),
    "rfft2": (lambda x: np.fft.rfft2(x, norm="ortho"), lambda x: torch.fft.rfft2(x, norm="ortho")),
    "irfft2": (lambda x: np.fft.irfft2(x * 1j), lambda x: torch.fft.irfft2(x * 1j)),
    "fftn": (lambda x: np.fft.fftn(x, axes=(2, 1)), lambda x: torch.fft.fftn(x, dim=(1, 0))),
    "ifftn": (lambda x: np.fft.ifftn(x, (3,), (1,)), lambda x: torch.fft.ifftn(x, (3,), (0,))),
    "rfftn": (lambda x: np.fft.rfftn(x, (6, 3), (2, 1)), lambda x: torch.fft.rfftn(x, (6, 3), (1, 0))),
    "irfftn": (lambda x: np.fft.irfftn(x * 1j, (3, 6), (1, 2)), lambda x: torch.fft.irfftn(x * 1j, (3, 6), (0, 1))),
    "fftshift": (lambda x: np.fft.fftshift(np.fft.fft2(x), (1, 2)), lambda x: torch.fft.fftshift(torch.fft.fft2(x))),
}
CASES = {
    name: (lambda x, f=f: f(np.fft, x), lambda x, f=f: f(torch.fft, x), X)
    for name, f in ONE_AXIS.items()
    if name != "shifted"
}
CASES["shifted"] = (
    lambda x: ONE_AXIS["shifted"](np.fft, x),
    lambda x: torch.fft.ifftshift(torch.fft.fftshift(torch.fft.fft(x))[:5]),
    X,
)
CASES |= {name: (*pair, IMAGES) for name, pair in SEVERAL_AXES.items()}


def truth(f: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By torch, one sample after another: values, and real and imaginary parts of the Jacobian by two passes."""
    values, jacobians = [], []
    for row in map(torch.tensor, x):
        y = f(row)
        values.append(y.detach().resolve_conj().numpy())
        parts = [torch.autograd.functional.jacobian(lambda t: torch.real(f(t)), row).numpy()]
        if y.is_complex():
            parts.append(
                1j * torch.autograd.functional.jacobian(lambda t: torch.imag(f(t).resolve_conj()), row).numpy()
            )
        jacobians.append(sum(parts))
    return np.stack(values), np.stack(jacobians)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_transforms(case):
    f, torch_f, x = case
    value, J = truth(torch_f, x)
    close(f(x), value)
    for mode in ("forward", "reverse", "auto"):
        found, slopes = mj.value_and_jacobian(f, mode=mode)(x)
        close(found, value)
        close(slopes, J, 1e-10, 1e-10)
        assert slopes.dtype == f(x).dtype
    single = x.astype(np.float32)
    assert mj.jacobian(f)(single).dtype == f(single).dtype
    close(mj.jacobian(f, chunk_size=2)(x), J, 1e-10, 1e-10)
    close(mj.compile(mj.jacobian(f))(x), J, 1e-10, 1e-10)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_second_order(case):
    f, torch_f, x = case

    def energy(x: Any) -> Any:
        y = f(x)
        return (np.cos(np.real(y)) * np.real(y) + np.imag(y) ** 3).reshape(len(x), -1).sum(1)

    def torch_energy(x: Any) -> Any:
        y = torch_f(x).resolve_conj()
        imaginary = (torch.imag(y) ** 3).sum() if y.is_complex() else 0.0
        return (torch.cos(torch.real(y)) * torch.real(y)).sum() + imaginary

    expected = np.stack([torch.autograd.functional.hessian(torch_energy, row).numpy() for row in map(torch.tensor, x)])
    close(mj.hessian(energy)(x), expected, 1e-9, 1e-9)
    close(mj.compile(mj.hessian(energy))(x), expected, 1e-9, 1e-9)


def test_a_transform_along_the_samples_mixes_them():
    with pytest.raises(mj.BatchMixingError, match="fourier"):
        mj.jacobian(lambda x: np.fft.fft(x, axis=0))(X)
    full = mj.jacobian(lambda x: np.fft.fft(x, axis=0), on_mixing="full")(X)
    close(full, np.einsum("ab,ij->aibj", np.fft.fft(np.eye(3)), np.eye(6)))


def test_what_numpy_refuses_is_refused():
    for call, error in (
        (lambda x: np.fft.fft(x, norm="typo"), ValueError),
        (lambda x: np.fft.fft(x, 0), ValueError),
        (lambda x: np.fft.rfft(x * 1j), TypeError),
        (lambda x: np.fft.fftn(x, (1, 2), (1,)), ValueError),
    ):
        with pytest.raises(error):
            mj.jacobian(call)(X)


def test_a_gradient_costs_transforms():
    """Of 2**18 points; a product with the matrix would take 10**10 entries."""
    x = random(1, 2**18, seed=3)
    k = np.fft.rfftfreq(2**18)
    f = lambda x: (k * abs(np.fft.rfft(x)) ** 2).sum()
    full = np.concatenate([k, k[-2:0:-1]])
    weight = np.where((full == 0) | (full == 0.5), 2.0, 1.0)  # the others are there twice in a whole transform
    expected = np.fft.ifft(weight * full * np.fft.fft(x)).real * 2**18
    for found in (mj.grad(f)(x), mj.compile(mj.grad(f))(x)):
        close(found, expected, 1e-8, 1e-8 * abs(expected).max())


def test_a_mask_goes_through_a_transform_by_structure():
    """Where masks are added up by the transform itself, all frequencies but one would seem to depend on nothing."""
    f = lambda x: np.fft.fft(x) ** 2
    close(mj.compile(mj.jacobian(f))(X), mj.jacobian(f)(X))
    f = lambda x: np.log(np.abs(np.fft.fft(np.where(X > 0, x, 0.0))) ** 2)
    close(mj.compile(mj.jacobian(f))(X), mj.jacobian(f)(X))


def test_one_sample_of_one_entry_is_transformed_in_every_mode():
    x = X[:1, :1]

    def f(x):
        return np.fft.irfft(x * (1 + 0.5j), n=1), np.fft.hfft(1j * np.exp(x) + x, n=1)

    expected = 1.0, 1.0
    for mode in ("forward", "reverse", "mixed"):
        for J, slope in zip(mj.jacobian(f, mode=mode)(x), expected, strict=True):
            np.testing.assert_allclose(J, np.full((1, 1, 1), slope), rtol=1e-12)
    for y_dot, slope in zip(mj.jvp(f, (x,), (2 * x,))[1], expected, strict=True):
        np.testing.assert_allclose(y_dot, 2 * slope * x, rtol=1e-12)
