"""Linear algebra on complex matrices inside a function: torch's derivatives, where the vectors' phases do not count."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from helpers import close

import minijac as mj

torch = pytest.importorskip("torch")

MODES = ("forward", "reverse", "mixed", "auto")
B, N = 2, 3
RNG = np.random.default_rng(1)
X = RNG.normal(size=(B, N))
C, W = (RNG.normal(size=shape) + 1j * RNG.normal(size=shape) for shape in ((N,), (N, N)))


class Module:
    """What NumPy and torch spell alike, and matrices made of the input."""

    def __init__(self, xp: Any) -> None:
        self.xp, self.la = xp, xp.linalg
        self.c, self.w = (C, W) if xp is np else (torch.tensor(C), torch.tensor(W))

    def matrix(self, x: Any, rows: int = N) -> Any:
        """(B, rows, N), of full rank."""
        return (x[:, None, :] * self.c + self.w * x[:, :, None] * 1j + self.w)[:, :rows]

    def tall(self, x: Any) -> Any:
        return self.matrix(x)[..., : N - 1]

    def hermitian(self, x: Any) -> Any:
        a = self.matrix(x)
        return a + self.dagger(a)

    def positive(self, x: Any) -> Any:
        a = self.matrix(x)
        eye = np.eye(N) if self.xp is np else torch.eye(N, dtype=torch.float64)
        return a @ self.dagger(a) + eye

    def dagger(self, a: Any) -> Any:
        return self.xp.conj(self.xp.swapaxes(a, -1, -2))

    def projector(self, v: Any) -> Any:
        """Without the phase: the sum of the weighted projectors on the columns."""
        weights = np.arange(1.0, v.shape[-1] + 1)
        weights = weights if self.xp is np else torch.tensor(weights)
        return (v * weights) @ self.dagger(v)


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "inv": lambda m, x: m.la.inv(m.matrix(x)),
    "solve": lambda m, x: m.la.solve(m.matrix(x), m.tall(x)),
    "det": lambda m, x: m.la.det(m.matrix(x)),
    "slogdet": lambda m, x: m.la.slogdet(m.matrix(x))[1] + m.la.slogdet(m.matrix(x))[0],
    "pinv": lambda m, x: m.la.pinv(m.tall(x)),
    "cholesky": lambda m, x: m.la.cholesky(m.positive(x)),
    "eigvalsh": lambda m, x: m.la.eigvalsh(m.hermitian(x)),
    "eigh": lambda m, x: m.projector(m.la.eigh(m.hermitian(x))[1]),
    "svdvals": lambda m, x: m.la.svdvals(m.tall(x)),
    "svd left": lambda m, x: m.projector(m.la.svd(m.tall(x), full_matrices=False)[0]),
    "svd right": lambda m, x: m.projector(m.dagger(m.la.svd(m.tall(x), full_matrices=False)[2])),
    "svd both": lambda m, x: (lambda u, s, v: u @ v)(*m.la.svd(m.tall(x), full_matrices=False)),
    "svd wide": lambda m, x: (lambda u, s, v: (u * s[:, None]) @ v)(*m.la.svd(m.matrix(x, 2), full_matrices=False)),
    "qr": lambda m, x: m.la.qr(m.tall(x))[0],
    "qr factor": lambda m, x: m.la.qr(m.matrix(x))[1],
    "norm": lambda m, x: m.la.norm(m.matrix(x), axis=(-2, -1)) if m.xp is np else m.la.matrix_norm(m.matrix(x)),
    "spectral norm": lambda m, x: m.la.norm(m.matrix(x), 2, (-2, -1)),
    "matrix_power": lambda m, x: m.la.matrix_power(m.matrix(x), 3),
}  # fmt: skip
every = pytest.mark.parametrize("name", FUNCTIONS)


def ours(name: str) -> Callable[[Any], Any]:
    return lambda x: FUNCTIONS[name](Module(np), x)


@cache
def truth(name: str, order: int = 1) -> np.ndarray:
    """(B, *out, *in, ...) of each sample by torch."""

    def own(r: Any) -> Any:
        y = FUNCTIONS[name](Module(torch), r[None])[0]
        return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y

    found = []
    for x in torch.tensor(X):
        first = partial(torch.autograd.functional.jacobian, own, create_graph=True)
        found.append((first(x) if order == 1 else torch.autograd.functional.jacobian(first, x)).detach().numpy())
    J = np.stack(found)
    if FUNCTIONS[name](Module(np), X).dtype.kind == "c":
        J = np.moveaxis(J, J.ndim - 1 - order, -1)
        J = J[..., 0] + 1j * J[..., 1]
    return J


@every
@pytest.mark.parametrize("mode", MODES)
def test_the_jacobian_is_torchs(name, mode):
    expected = truth(name)
    for _ in range(3):
        J = mj.jacobian(ours(name), mode=mode)(X)
        assert J.dtype == expected.dtype
        close(J, expected, rtol=1e-9, atol=1e-9)


@every
def test_second_order_is_torchs(name):
    f, H = ours(name), truth(name, order=2)
    for mode in ("forward", "reverse"):
        close(mj.hessian(f, mode=mode)(X), H, rtol=1e-7, atol=1e-7)
    diagonal = np.einsum("b...ii->b...i", H)
    close(mj.hessian_diagonal(f)(X), diagonal, rtol=1e-7, atol=1e-7)
    close(mj.laplacian(f)(X), diagonal.sum(-1), rtol=1e-7, atol=1e-7)
    close(mj.partials(f, [(0, 1)])(X)[0], H[..., 0, 1], rtol=1e-7, atol=1e-7)


@every
def test_products_compiled_and_structured_agree(name):
    f, J = ours(name), truth(name)
    y = f(X)
    cotangent = RNG.normal(size=y.shape) + (1j * RNG.normal(size=y.shape) if y.dtype.kind == "c" else 0.0)
    (pulled,) = mj.vjp(f, X)[1](cotangent)
    flat = np.conj(J).reshape(B, -1, N)
    close(pulled, np.einsum("bji,bj->bi", flat, cotangent.reshape(B, -1)).real, rtol=1e-9, atol=1e-9)
    close(mj.compile(mj.jacobian(f))(X), J, rtol=1e-9, atol=1e-9)
    close(mj.jacobian(f, structured=True)(X).todense(), J, rtol=1e-9, atol=1e-9)
    close(mj.jacobian(f, chunk_size=1, mode="reverse")(X), J, rtol=1e-9, atol=1e-9)


@every
def test_a_conjugate_before_and_after_passes(name):
    """Between complex ends, where maps that are linear in real numbers alone come apart in two."""
    g = lambda x: np.conj(ours(name)(x)) * (1 + 2j)
    expected = np.conj(truth(name)) * (1 + 2j)
    for mode in MODES:
        close(mj.jacobian(g, mode=mode)(X), expected, rtol=1e-9, atol=1e-9)
    h = lambda x: mj.checkpoint(lambda z: g(np.conj(z).real))(x * (1 + 0j))
    for mode in MODES:
        close(mj.jacobian(h, mode=mode)(X), expected, rtol=1e-9, atol=1e-9)


def test_singular_matrices_have_a_determinants_derivative():
    a = np.array([[1.0 + 1j, 2.0], [2.0 + 2j, 4.0]])
    f = lambda x: np.linalg.det(a + x[:, None, None] * W[:2, :2])
    z, h = np.zeros(1), 1e-6
    J, H = mj.jacobian(f)(z), mj.hessian(f)(z)
    close(J, (f(z + h) - f(z - h)) / (2 * h), rtol=1e-8, atol=1e-8)
    close(H, np.full(1, 2 * np.linalg.det(W[:2, :2])), rtol=1e-8, atol=1e-8)


GENERAL: dict[str, Callable[[Any], Any]] = {
    "eigvals": lambda x: np.linalg.eigvals(Module(np).matrix(x)),
    "eigvals of a real matrix": lambda x: np.linalg.eigvals(_rotation(x)),
    "eigvals of a real matrix that has real ones": lambda x: np.linalg.eigvals(_triangular(x)),
    "a projector of eig": lambda x: _projector(*np.linalg.eig(Module(np).matrix(x))),
    "lengths of eig": lambda x: (np.abs(np.linalg.eig(Module(np).matrix(x))[1]) ** 2)[:, 0],
    "real eig": lambda x: np.linalg.eig(_triangular(x))[1] ** 2,
}


def _rotation(x: Any) -> Any:
    return x[:, None, :] * np.array([[0.0, -2.0, 0.1], [2.0, 0.1, 0.0], [0.3, 0.0, 1.0]]) + np.eye(N)[::-1]


def _triangular(x: Any) -> Any:
    return np.triu(x[:, None, :] * np.arange(1.0, 4.0)) + np.diag([5.0, 10.0, 15.0])


def _projector(w: Any, v: Any) -> Any:
    return (v * np.arange(1.0, N + 1)) @ np.linalg.inv(v) + w[:, None]


@pytest.mark.parametrize("f", GENERAL.values(), ids=GENERAL.keys())
def test_eigenvalues_of_general_matrices(f):
    y, J = mj.value_and_jacobian(f, mode="forward")(X)
    assert y.dtype == J.dtype == f(X).dtype
    H = mj.hessian(f)(X)
    for k in range(N):
        e, h = np.eye(N)[k], 1e-6
        close(J[..., k], (f(X + h * e) - f(X - h * e)) / (2 * h), rtol=1e-5, atol=1e-6)
        difference = (mj.jacobian(f)(X + h * e) - mj.jacobian(f)(X - h * e)) / (2 * h)
        close(H[..., k], difference, rtol=1e-4, atol=1e-5)
    for mode in MODES[1:]:
        close(mj.jacobian(f, mode=mode)(X), J, rtol=1e-9, atol=1e-9)
    close(mj.laplacian(f)(X), np.einsum("b...ii->b...", H), rtol=1e-7, atol=1e-7)


def test_a_compiled_program_keeps_eigenvalues_complex():
    f = mj.compile(lambda x: np.linalg.eigvals(_triangular(x)))
    assert f(X).dtype == complex
    close(f(X), np.linalg.eigvals(_triangular(X)).astype(complex))


@pytest.mark.parametrize("p", [[1.0, -6.0, 11.0, -6.0], [2.0, 1.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 0.0]])
def test_zeros_of_polynomials(p):
    p = np.array(p)
    x, J = mj.value_and_jacobian(np.roots, batch_axis=None)(p)
    assert x.dtype == J.dtype == np.roots(p).dtype
    close(x, np.roots(p))
    exact = -(x[:, None] ** np.arange(len(p) - 1, -1, -1)) / np.polyval(np.polyder(p), x)[:, None]
    close(J, exact, rtol=1e-9, atol=1e-9)
    close(mj.jacobian(np.roots, batch_axis=None, mode="reverse")(p), J)
    f = lambda p: (np.abs(np.roots(p)) ** 2).sum()
    h = 1e-5
    for k, e in enumerate(np.eye(len(p))):
        close(mj.grad(f)(p)[k], (f(p + h * e) - f(p - h * e)) / (2 * h), rtol=1e-6, atol=1e-6)
        slope = (mj.grad(f)(p + h * e) - mj.grad(f)(p - h * e)) / (2 * h)
        close(mj.hessian(f, batch_axis=None)(p)[k], slope, rtol=1e-5, atol=1e-5)


def test_the_characteristic_polynomial_is_numpys():
    a = RNG.normal(size=(3, 3))
    c, J = mj.value_and_jacobian(np.poly, batch_axis=None)(a)
    close(c, np.poly(a))
    close(J[1], -np.eye(3), atol=1e-9)  # the trace
    close(J[3], -np.linalg.det(a) * np.linalg.inv(a).T, rtol=1e-8, atol=1e-8)


EMATH: dict[str, Callable[[Any], Any]] = {
    "sqrt": np.emath.sqrt,
    "log": np.emath.log,
    "log2": np.emath.log2,
    "log10": np.emath.log10,
    "logn": lambda x: np.emath.logn(3.0, x),
    "power": lambda x: np.emath.power(x, 1.5),
    "arcsin": lambda x: np.emath.arcsin(2 * x),
    "arccos": lambda x: np.emath.arccos(2 * x),
    "arctanh": lambda x: np.emath.arctanh(2 * x),
}


@pytest.mark.parametrize("f", EMATH.values(), ids=EMATH.keys())
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_emath_goes_on_to_complex_numbers(f, sign):
    x = sign * np.abs(X) + 0.2 * sign
    y, J = mj.value_and_jacobian(f)(x)
    assert y.dtype == J.dtype == f(x).dtype
    close(y, f(x))
    slope = (f(x + 1e-6) - f(x - 1e-6)) / 2e-6
    close(np.diagonal(J, axis1=1, axis2=2), slope, rtol=1e-5, atol=1e-6)
