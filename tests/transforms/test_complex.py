"""Complex numbers inside a function: every way to a derivative gives torch's; what has no meaning for them raises.

The differentiated inputs are real. A real-linear map of complex numbers is ``A dz + B conj(dz)``: the conjugation is
kept where it means something, and nothing is left of it where both ends are real.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from helpers import close

import minijac as mj

torch = pytest.importorskip("torch")

MODES = ("forward", "reverse", "mixed", "auto")
B, N = 3, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, N))
C, W = (RNG.normal(size=shape) + 1j * RNG.normal(size=shape) for shape in ((N,), (N, N)))


class Both:
    """Constants of NumPy, or of torch, under the same names; `xp` is the module."""

    def __init__(self, xp: Any, wide: bool = True) -> None:
        self.xp = xp
        c, w = (x if wide else x.astype(np.complex64) for x in (C, W))
        self.c, self.w = (c, w) if xp is np else (torch.tensor(c), torch.tensor(w))


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "a factor": lambda k, x: 1j * x,
    "a product": lambda k, x: (x * k.c) * (x + 1j),
    "exp": lambda k, x: k.xp.exp(1j * x),
    "abs": lambda k, x: k.xp.abs((x + 1j) ** 2),
    "abs squared": lambda k, x: (k.xp.abs((x * k.c) @ k.w) ** 2).sum(-1),
    "real": lambda k, x: ((x * k.c) @ k.w).real,
    "imag": lambda k, x: k.xp.exp((x + 1j) @ k.w).imag,
    "angle": lambda k, x: k.xp.angle((x * k.c) @ k.w + 3.0),
    "conj": lambda k, x: k.xp.conj(k.xp.sin((x * k.c) @ k.w)) * (x * k.c),
    "conj of conj": lambda k, x: k.xp.conj(k.xp.conj(x * k.c) @ k.w) @ k.w,
    "there and back": lambda k, x: k.xp.exp(k.xp.abs(k.xp.sin((x * k.c) @ k.w * 0.1)) @ k.w.real * 0.1) * k.c,
    "two in real": lambda k, x: ((x * k.c) @ k.w).real * ((x * k.c) @ k.w).imag,
    "log": lambda k, x: k.xp.log(x * k.c + 0.3j),
    "sqrt": lambda k, x: k.xp.sqrt(x + 0.1j),
    "a power": lambda k, x: (x + 1j) ** 2.5,
    "a complex power": lambda k, x: (x + 1j) ** (x * 1j),
    "divide": lambda k, x: (x + 2j) / (x * k.c),
    "trigonometric": lambda k, x: k.xp.tan((x * k.c) @ k.w * 0.2) + k.xp.cos(x * k.c),
    "hyperbolic": lambda k, x: k.xp.tanh((x * k.c) @ k.w) + k.xp.cosh(x * k.c) * k.xp.sinh(x * k.c),
    "inverse": lambda k, x: k.xp.arcsin((x * k.c) @ k.w) + k.xp.arctan(x * k.c),
    "inverse hyperbolic": lambda k, x: (
        k.xp.arccosh((x * k.c) @ k.w) + k.xp.arcsinh(x * k.c) * k.xp.arctanh((x * k.c) @ k.w)
    ),
    "sums": lambda k, x: k.xp.cumsum(k.xp.conj(x * k.c), 1).sum(-1),
    "products": lambda k, x: k.xp.cumprod(x * k.c, 1) * k.xp.prod(x * k.c, 1)[:, None],
    "mean": lambda k, x: k.xp.mean(x * k.c, 1),
    "a quadratic form": lambda k, x: k.xp.einsum("bi,ij,bj->b", k.xp.conj(x * k.c), k.w, x * k.c),
    "where": lambda k, x: k.xp.where(x > 0, x * k.c, k.xp.conj(x * k.c)),
    "an index": lambda k, x: k.xp.conj((x * k.c)[:, [0, 2, 2]]),
    "a slice": lambda k, x: k.xp.conj((x * k.c)[:, 1:]) * x[:, :-1],
    "mixed parts": lambda k, x: k.xp.concatenate([x + 0j, x * k.c], 1),
}
every = pytest.mark.parametrize("name", FUNCTIONS)


def pair(name: str, wide: bool = True) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    f, ours, theirs = FUNCTIONS[name], Both(np, wide), Both(torch, wide)
    return lambda x: f(ours, x), lambda x: f(theirs, x)


def parts(y: Any) -> Any:
    return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y


def joined(J: np.ndarray, axis: int) -> np.ndarray:
    J = np.moveaxis(J, axis, -1)
    return J[..., 0] + 1j * J[..., 1]


@cache
def truth(name: str, order: int = 1, wide: bool = True) -> np.ndarray:
    """(B, *out, *in, ...) of each sample by torch."""
    g = pair(name, wide)[1]
    own = lambda r: parts(g(r[None])[0])
    derivative = torch.func.jacrev(own)
    for _ in range(order - 1):
        derivative = torch.func.jacfwd(derivative)
    given = torch.tensor(X if wide else X.astype(np.float32))
    found = torch.stack([derivative(x) for x in given]).detach().numpy()
    y = g(given)
    return joined(found, y.ndim) if y.is_complex() else found


@every
@pytest.mark.parametrize("mode", MODES)
def test_the_jacobian_is_torchs(name, mode):
    f, _ = pair(name)
    expected = truth(name)
    for _ in range(3):  # by hand, recorded, replayed
        J = mj.jacobian(f, mode=mode)(X)
        assert J.dtype == expected.dtype
        close(J, expected, rtol=1e-10, atol=1e-10)


@every
@pytest.mark.parametrize("mode", MODES)
def test_single_precision_stays_single(name, mode):
    f, _ = pair(name, wide=False)
    expected = truth(name, wide=False)
    J = mj.jacobian(f, mode=mode)(X.astype(np.float32))
    assert J.dtype == expected.dtype
    close(J, expected, rtol=3e-4, atol=3e-4)


OPTIONS: dict[str, dict[str, Any]] = {
    "chunks forward": {"chunk_size": 1, "mode": "forward"},
    "chunks reverse": {"chunk_size": 1, "mode": "reverse"},
    "bounded": {"max_bytes": 1_000_000},
    "diagonal": {"on_mixing": "diagonal"},
}


@every
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_options_change_nothing(name, options):
    close(mj.jacobian(pair(name)[0], **options)(X), truth(name), rtol=1e-10, atol=1e-10)


@every
@pytest.mark.parametrize("mode", MODES)
def test_structure_is_that_of_the_dense_jacobian(name, mode):
    expected = truth(name)
    J = mj.jacobian(pair(name)[0], structured=True, mode=mode)(X)
    close(J.todense(), expected, rtol=1e-10, atol=1e-10)
    assert J.todense().dtype == expected.dtype
    v = RNG.normal(size=X.shape)
    close(J @ v, np.einsum("b...i,bi->b...", expected, v), rtol=1e-10, atol=1e-10)


@every
def test_products_follow_torchs_convention(name):
    f, g = pair(name)
    given = torch.tensor(X, requires_grad=True)
    y = g(given)
    cotangent = RNG.normal(size=y.shape) + (1j * RNG.normal(size=y.shape) if y.is_complex() else 0.0)
    (expected,) = torch.autograd.grad(y, given, torch.tensor(cotangent))
    (found,) = mj.vjp(f, X)[1](cotangent)
    assert found.dtype == X.dtype
    close(found, expected.numpy(), rtol=1e-10, atol=1e-10)
    tangent = RNG.normal(size=X.shape)
    _, expected = torch.func.jvp(g, (torch.tensor(X),), (torch.tensor(tangent),))
    close(mj.jvp(f, (X,), (tangent,))[1], expected.resolve_conj().numpy(), rtol=1e-10, atol=1e-10)


@every
def test_second_order_is_torchs(name):
    f, _ = pair(name)
    H = truth(name, order=2)
    for mode in MODES:
        close(mj.hessian(f, mode=mode)(X), H, rtol=1e-8, atol=1e-8)
    diagonal = np.einsum("b...ii->b...i", H)
    close(mj.hessian_diagonal(f)(X), diagonal, rtol=1e-8, atol=1e-8)
    close(mj.laplacian(f)(X), diagonal.sum(-1), rtol=1e-8, atol=1e-8)
    mixed, pure = mj.partials(f, [(0, 1), (2, 2)])(X)
    close(mixed, H[..., 0, 1], rtol=1e-8, atol=1e-8)
    close(pure, H[..., 2, 2], rtol=1e-8, atol=1e-8)


def test_partials_of_a_wave_meet_complex_numbers():
    wave, k = lambda x: np.exp(1j * (2.0 * x[:, 0] - x[:, 1])) * 2j, (2j, -1j)
    for index in [(0,), (0, 0), (0, 1), (1, 1, 0)]:
        close(mj.partials(wave, [index])(X)[0], wave(X) * np.prod([k[i] for i in index]), rtol=1e-12, atol=1e-12)
    bent = lambda x: x[:, 0] * 1j * x[:, 1]
    close(mj.partials(bent, [(0, 1)])(X)[0], np.full(len(X), 1j), rtol=1e-12, atol=1e-12)


@every
def test_compiled_is_eager(name):
    f, _ = pair(name)
    for g in (f, mj.jacobian(f), mj.jacobian(f, mode="reverse"), mj.hessian(f), mj.laplacian(f)):
        compiled = mj.compile(g)
        for x in (X, X + 0.1):
            found, expected = compiled(x), g(x)
            assert found.dtype == np.asarray(expected).dtype
            close(found, expected, rtol=1e-10, atol=1e-10)


def test_forward_and_reverse_carry_no_conjugates_between_real_ends():
    """A network with a complex part costs each mode one complex block, not one for each conjugate."""
    f = lambda x: ((x * C) @ W).real @ W.imag
    for mode in ("forward", "reverse"):
        J = mj.jacobian(f, structured=True, mode=mode)(X)
        assert all(not term.conj for term in J.block.terms)
        assert {factor.array.dtype for term in J.block.terms for factor in term.factors} == {np.dtype(np.float64)}


def test_a_sample_that_mixes_through_a_conjugate_is_found():
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(lambda x: np.conj(x * C) - np.conj(x * C).mean(0))(X)
    f = lambda x: np.conj(x * C) - np.conj(x * C).mean(0)
    J = mj.jacobian(f, on_mixing="full")(X)
    close(J[np.arange(B), :, np.arange(B)], mj.jacobian(f, on_mixing="diagonal")(X))


def test_abs_squared_is_smooth_at_zero_and_abs_has_slope_zero_there():
    z = np.zeros((1, 2))
    close(mj.hessian(lambda x: (np.abs(x * (1 + 0j)) ** 2).sum(1))(z), 2 * np.eye(2)[None])
    close(mj.jacobian(lambda x: np.abs(x * 1j))(z), np.zeros((1, 2, 2)))


def test_what_does_not_depend_on_the_input_has_a_complex_zero_for_its_jacobian():
    J = mj.jacobian(lambda x: np.zeros_like(x, dtype=complex) + 1j)(X)
    assert J.dtype == complex
    assert not J.any()


def test_buffers_are_filled_and_views_read():
    def f(x):
        y = np.zeros_like(x, dtype=complex)
        y[:, 1:] = x[:, :-1] * C[1:]
        y[:, 0] = np.conj(y[:, 1])
        part = y.imag
        y *= 2j
        return y + part

    def written(x):
        first = np.conj(x[:, :1] * C[1])
        y = np.concatenate([first, x[:, :-1] * C[1:]], 1) * 2j
        return y + y.imag

    close(f(mj.numpy.array(X)), written(X))
    close(mj.jacobian(f)(X), mj.jacobian(written)(X))


@pytest.mark.parametrize("part", ["real", "imag"])
def test_the_parts_are_not_written(part):
    def f(x):
        z = x * 1j
        getattr(z, part)[:] = 1.0
        return z

    with pytest.raises(mj.MutationError, match="real or the imaginary part"):
        mj.jacobian(f)(X)


def test_the_parts_are_set():
    def f(x):
        z = x * C
        z.real = x[:, :1]
        z[:, 1:].imag = 2.0 * x[:, 1:]
        return z

    def written(x):
        return np.concatenate([x[:, :1] + 1j * (x * C).imag[:, :1], x[:, :1] + 2j * x[:, 1:]], 1)

    close(f(X * 1), written(X))
    close(mj.jacobian(f)(X), mj.jacobian(written)(X))


def test_a_cast_to_real_warns_as_numpys_does():
    with pytest.warns(np.exceptions.ComplexWarning):
        J = mj.jacobian(lambda x: (x * (2 + 1j)).astype(float))(X)
    close(J, np.broadcast_to(2 * np.eye(N), (B, N, N)))


VALUES: dict[str, Callable[[Any], Any]] = {
    "var": lambda z: np.var(z, axis=1),
    "std": lambda z: np.std(z, axis=1),
    "cov": lambda z: np.cov(z),
    "corrcoef": lambda z: np.corrcoef(z),
    "vdot": lambda z: np.vdot(z, z * z),
    "vecdot": lambda z: np.linalg.vecdot(z, z * z),
    "inner": lambda z: np.inner(z, z * z),
    "correlate": lambda z: np.correlate(z[0], z[1], "full"),
    "norm": lambda z: np.linalg.norm(z, axis=1),
    "norm of order 3": lambda z: np.linalg.norm(z, 3, axis=1),
    "round": lambda z: np.round(z, 1) * z,
    "sign": np.sign,
    "angle in degrees": lambda z: np.angle(z, deg=True),
    "nanvar": lambda z: np.nanvar(z, axis=1),
    "var of what is chosen": lambda z: np.var(z, axis=1, where=np.array([True, True, False, True])),
    "real_if_close": lambda z: np.real_if_close(z),
    "nan_to_num": lambda z: np.nan_to_num(z),
    "expm1, log1p, reciprocal": lambda z: np.expm1(z) + np.log1p(z) * np.reciprocal(z),
    "log2, log10, exp2, square": lambda z: np.log2(z) + np.log10(z) * np.exp2(z) - np.square(z),
    "interpolation": lambda z: np.interp(np.abs(z), [0.0, 10.0], [1j, 2.0]),
    "convolve": lambda z: np.convolve(z[0], z[1]),
    "matrix_power": lambda z: np.linalg.matrix_power(z[:, :3], 3),
    "reductions of ufuncs": lambda z: np.multiply.reduce(z, 1) + np.add.reduceat(z, [0, 2], 1).sum(1),
}


@pytest.mark.parametrize("f", VALUES.values(), ids=VALUES.keys())
def test_functions_mean_what_numpys_do_for_complex_numbers(f):
    """Values are NumPy's, derivatives those of differences."""
    g = lambda x: f(x * C + 0.1j)
    y, J = mj.value_and_jacobian(g, batch_axis=None)(X)
    expected = np.asarray(g(X))
    assert y.dtype == J.dtype == expected.dtype
    close(y, expected)
    for position in np.ndindex(X.shape):
        step = np.zeros_like(X)
        step[position] = 1e-6
        slope = (np.asarray(g(X + step)) - np.asarray(g(X - step))) / 2e-6
        close(J[(..., *position)], slope, rtol=1e-5, atol=1e-6)
    close(mj.jacobian(g, batch_axis=None, mode="reverse")(X), J)


ORDERED: dict[str, Callable[[Any], Any]] = {
    "maximum": lambda z: np.maximum(z, 0),
    "less": lambda z: np.where(z < 0, z, 0),
    "clip": lambda z: np.clip(z, 0, 1),
    "max": lambda z: z.max(1),
    "median": lambda z: np.median(z, 1),
    "floor": np.floor,
    "fix": np.fix,
    "remainder": lambda z: z % 2.0,
    "floor_divide": lambda z: z // 2.0,
    "arctan2": lambda z: np.arctan2(z, 1.0),
    "hypot": lambda z: np.hypot(z, 1.0),
    "cbrt": np.cbrt,
    "logaddexp": lambda z: np.logaddexp(z, 0.0),
    "softmax": lambda z: mj.nn.softmax(z),
}


@pytest.mark.parametrize("f", ORDERED.values(), ids=ORDERED.keys())
@pytest.mark.parametrize("how", ["jacobian", "compiled", "laplacian"])
def test_what_orders_numbers_refuses_complex_ones_and_names_the_line(f, how):
    g = lambda x: f(x * 1j)
    way = {"jacobian": mj.jacobian(g), "compiled": mj.compile(mj.jacobian(g)), "laplacian": mj.laplacian(g)}[how]
    with pytest.raises(mj.UnsupportedOperationError, match=r"(?s)test_complex\.py.*(complex|order)"):
        way(X)


def test_complex_numbers_are_sorted_by_their_parts():
    """As NumPy sorts them; entries take their derivatives along."""
    f = lambda x: np.abs(np.sort(x + 1j * x**2, 1) - 0.3) + np.argsort(1j * x - x, 1)
    J, order = mj.jacobian(f)(X), np.argsort(X, 1)
    close(mj.compile(mj.jacobian(f))(X), J)
    z, slope = X + 1j * X**2 - 0.3, 1 + 2j * X
    slopes = (np.conj(z) * slope).real / np.abs(z)
    for b, rows in enumerate(order):
        for k, p in enumerate(rows):
            close(J[b, k], slopes[b, p] * np.eye(X.shape[1])[p])


@pytest.mark.parametrize("x", [X.astype(complex), X.astype(np.complex64), 1j])
def test_complex_arguments_are_to_be_passed_in_parts(x):
    for call in (
        lambda: mj.jacobian(np.sin, batch_axis=None)(x),
        lambda: mj.jvp(np.sin, (x,), (x,)),
        lambda: mj.vjp(np.sin, x),
        lambda: mj.grad(lambda z: np.abs(z).sum())(x),
        lambda: mj.laplacian(np.sin, batch_axis=None)(x),
    ):
        with pytest.raises(mj.InputError, match=r"real and imaginary parts|float32 or float64"):
            call()


def test_complex_arguments_that_are_not_differentiated_are_numbers_like_others():
    close(mj.jacobian(lambda x, c: x * c, batch_axis=(0, None))(X, C), np.broadcast_to(np.diag(C), (B, N, N)))
    close(mj.compile(lambda x, c: x * c)(X, C), X * C)
    close(mj.compile(lambda x, c: x * c)(X, 2j), X * 2j)


def test_tangents_are_real_and_cotangents_of_real_results_too():
    with pytest.raises(mj.InputError, match="tangent"):
        mj.jvp(np.sin, (X,), (X * 1j,))
    with pytest.raises(mj.InputError, match="cotangent"):
        mj.vjp(np.sin, X)[1](X * 1j)


def test_the_gradient_of_a_complex_number_is_asked_for_in_parts():
    with pytest.raises(mj.InputError, match=r"y\.real"):
        mj.grad(lambda x: (x * 1j).sum())(X)


def test_numbers_of_numpys_are_numbers():
    """Whose types are not Python's: a complex scale is seen as one whatever made it."""
    for number in (np.complex128(2 + 1j), np.complex64(2 + 1j), 2 + 1j, np.array(2 + 1j)):
        for mode in MODES:
            f = lambda x: np.arctan2((x * number).imag, (x * number).real)  # noqa: B023
            J = mj.jacobian(lambda x: f(x) + np.abs(f(x[0]) * number) * x, batch_axis=None, mode=mode)(X[0])  # noqa: B023
            assert J.dtype == float
            size = np.abs(np.angle(number * np.sign(X[0, 0]))) * np.abs(number)
            close(J, size * np.eye(N), rtol=1e-6, atol=1e-6)


def test_promotion_is_numpys():
    x = X.astype(np.float32)
    for f in (lambda x: 1j * x, lambda x: x * np.complex64(1j), lambda x: x * C, lambda x: x + np.array(1j),
              lambda x: x.astype(complex), lambda x: np.abs(1j * x), lambda x: (1j * x).imag):  # fmt: skip
        y, J = mj.value_and_jacobian(f)(x)
        assert y.dtype == J.dtype == f(x).dtype


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in FUNCTIONS:
            mj.jacobian(pair(name)[0])(X)


LOOPS: dict[str, Callable[[Any], Any]] = {
    "checkpoint": lambda x: np.conj(mj.checkpoint(lambda z: np.conj(z * C) @ W)(x * C)) * x,
    "a long loop": lambda x: _long(x),
    "inverse": lambda x: np.linalg.inv((x * C)[:, :, None] * np.conj(x)[:, None] + 3 * np.eye(N)).sum(-1),
    "solve": lambda x: np.linalg.solve(W + 3 * np.eye(N), np.conj(x * C)[..., None])[..., 0],
    "solve for the matrix": lambda x: np.linalg.solve((x * C)[:, None] * W + 3 * np.eye(N), np.ones((B, N, 1)))[..., 0],
}


def _long(x: Any) -> Any:
    z = x * C
    for _ in range(60):
        z = np.conj(np.sin(z) @ W) * 0.1 + x
    return np.abs(z)


@pytest.mark.parametrize("f", LOOPS.values(), ids=LOOPS.keys())
def test_steps_stretches_and_linear_maps_keep_conjugation(f):
    expected = mj.jacobian(f, mode="forward")(X)
    step = 1e-6
    for k in range(N):
        e = step * np.eye(N)[k]
        close(expected[..., k], (f(X + e) - f(X - e)) / (2 * step), rtol=1e-5, atol=1e-6)
    for _ in range(2):
        for mode in MODES[1:]:
            close(mj.jacobian(f, mode=mode)(X), expected, rtol=1e-9, atol=1e-9)
    cotangent = f(X) * (2 + 1j if np.iscomplexobj(expected) else 2)
    (pulled,) = mj.vjp(f, X)[1](cotangent)
    close(pulled, np.einsum("bji,bj->bi", np.conj(expected).reshape(B, -1, N), cotangent.reshape(B, -1)).real)


def test_a_structured_jacobian_multiplies_and_solves_with_complex_vectors():
    f = lambda x: np.conj(np.sin(x * C)) @ W * x
    dense, J = mj.jacobian(f)(X), mj.jacobian(f, structured=True)(X)
    v = X * C
    close(J @ v, np.einsum("boi,bi->bo", dense, v))
    close(J.T @ v, np.einsum("boi,bo->bi", dense, v))
    close(J.solve(v), np.linalg.solve(dense, v[..., None])[..., 0], rtol=1e-8, atol=1e-8)
    close((2j * J).todense(), 2j * dense)
    band = lambda x: np.concatenate([np.exp(1j * x[:, :-1]) + 0.1 * x[:, 1:], 1j * x[:, -1:]], 1)
    J = mj.jacobian(band, structured=True)(X)
    close(J.solve(v), np.linalg.solve(J.todense(), v[..., None])[..., 0])
    real = mj.jacobian(np.sin, structured=True)(X)
    with pytest.raises(mj.InputError, match="complex128"):
        real.solve(v)


def test_linearize_and_vmap():
    f = lambda x: np.conj(np.sin(x * C)) @ W * x
    dense = mj.jacobian(f)(X)
    close(mj.jacobian(mj.vmap(lambda r: np.conj(np.sin(r * C)) @ W * r))(X), dense)
    y, J = mj.linearize(f, X)
    close(y, f(X))
    close(J @ X, np.einsum("boi,bi->bo", dense, X))
    close(mj.divergence(f)(X), np.einsum("bii->b", dense))
