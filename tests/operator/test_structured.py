"""Structured Jacobians: stencils are a few diagonals, whatever their boundaries; their systems; what they look like."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import close, random
from hypothesis import given, settings
from hypothesis import strategies as st
from inspection import peak_bytes

import minijac as mj
from minijac.operator.bands import offsets
from minijac.operator.solving import solve_banded

modes = pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])


def diagonals(J: Any) -> list[tuple[int, ...]]:
    """The offset of each term."""
    found = [offsets(term.out[1:], term.inp[1:]) for term in J.block.terms]
    assert None not in found
    return sorted(found)  # type: ignore[type-var]


# --- right-hand sides -------------------------------------------------------------------------------------------------

DX, NU = 0.1, 0.02


def burgers_padded(u: Any) -> Any:
    p = np.pad(u, ((0, 0), (1, 1)))
    return -u * (p[:, 2:] - p[:, :-2]) / (2 * DX) + NU * (p[:, 2:] - 2.0 * u + p[:, :-2]) / DX**2


def burgers_sliced(u: Any) -> Any:
    inner = -u[:, 1:-1] * (u[:, 2:] - u[:, :-2]) / (2 * DX) + NU * (u[:, 2:] - 2.0 * u[:, 1:-1] + u[:, :-2]) / DX**2
    left = -u[:, :1] * u[:, 1:2] / (2 * DX) + NU * (u[:, 1:2] - 2.0 * u[:, :1]) / DX**2
    right = u[:, -1:] * u[:, -2:-1] / (2 * DX) + NU * (u[:, -2:-1] - 2.0 * u[:, -1:]) / DX**2
    return np.concatenate([left, inner, right], axis=1)


def burgers_periodic(u: Any) -> Any:
    after, before = np.roll(u, -1, axis=1), np.roll(u, 1, axis=1)
    return -u * (after - before) / (2 * DX) + NU * (after - 2.0 * u + before) / DX**2


def limited_flux(u: Any) -> Any:
    """A minmod-limited upwind scheme, zero outside."""
    p = np.pad(u, ((0, 0), (2, 2)))
    d = p[:, 1:] - p[:, :-1]
    a, b = d[:, :-1], d[:, 1:]
    slope = np.where(a * b > 0.0, np.where(np.abs(a) < np.abs(b), a, b), 0.0)
    flux = 0.5 * np.maximum(p[:, 1:-1] + 0.5 * slope, 0.0) ** 2
    return -(flux[:, 1:] - flux[:, :-1])[:, :-1] / DX


def five_points(u: Any) -> Any:
    p = np.pad(u, ((0, 0), (1, 1), (1, 1)))
    return (p[:, 2:, 1:-1] + p[:, :-2, 1:-1] + p[:, 1:-1, 2:] + p[:, 1:-1, :-2] - 4.0 * u) * u


STENCILS: dict[str, tuple[Callable, tuple[int, ...], list[tuple[int, ...]]]] = {
    "padded": (burgers_padded, (64, 256), [(-1,), (0,), (1,)]),
    "sliced": (burgers_sliced, (64, 256), [(-1,), (0,), (1,)]),
    "periodic": (burgers_periodic, (64, 256), [(-255,), (-1,), (0,), (1,), (255,)]),
    "limited": (limited_flux, (64, 256), [(-2,), (-1,), (0,), (1,)]),
    "two-dimensional": (five_points, (4, 32, 32), [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]),
}
stencils = pytest.mark.parametrize("f, shape, expected", STENCILS.values(), ids=STENCILS.keys())


@modes
@stencils
def test_a_stencil_is_one_term_for_each_diagonal(f, shape, expected, mode):
    J = mj.jacobian(f, structured=True, mode=mode)(random(*shape))
    assert diagonals(J) == expected
    small = random(3, *(8 for _ in shape[1:]))
    close(mj.jacobian(f, structured=True, mode=mode)(small).todense(), mj.jacobian(f, mode="forward")(small))
    v = random(*shape, seed=1)
    close(J @ v, mj.jvp(f, (random(*shape),), (v,))[1])


@modes
@stencils
def test_a_stencil_touches_nothing_of_the_size_of_the_dense_array(f, shape, expected, mode):
    u = random(*shape)
    assert peak_bytes(lambda: mj.jacobian(f, structured=True, mode=mode)(u)) < 60 * u.nbytes  # dense: 256 or 1024


@stencils
def test_stencils_agree_with_torch_or_with_differences(f, shape, expected):
    u = random(2, *(7 for _ in shape[1:]), seed=3)
    J = mj.jacobian(f, structured=True)(u).todense()
    eps = 1e-6
    for index in np.ndindex(u.shape[1:]):
        e = np.zeros(u.shape)
        e[(slice(None), *index)] = eps
        close(J[(..., *index)], (f(u + e) - f(u - e)) / (2 * eps), 1e-6, 1e-6)


def test_several_steps_stay_banded():
    step = lambda u: u + 1e-3 * burgers_sliced(u)
    J = mj.jacobian(lambda u: step(step(u)), structured=True)(random(4, 64))
    assert diagonals(J) == [(k,) for k in range(-2, 3)]
    close(J.todense(), mj.jacobian(lambda u: step(step(u)))(random(4, 64)))


def test_merging_is_differentiable():
    f = lambda u: mj.jacobian(burgers_sliced, structured=True)(u).todense()
    u = random(2, 6)
    close(mj.jacobian(f)(u), mj.jacobian(mj.jacobian(burgers_sliced))(u))


turn = st.tuples(st.sampled_from([(1, 12), (2, 6), (6, 2), (3, 4), (4, 3)]), st.integers(0, 11), st.booleans())


def turned(x: Any, to: tuple[int, int], by: int, after: bool) -> Any:
    """The entries of x as a matrix of some shape by its columns, rolled."""
    y = x.reshape(-1, *to).transpose(0, 2, 1).reshape(-1, 12)
    return np.roll(y if after else np.sin(x) * y, by, axis=1)


@settings(max_examples=20)
@given(st.lists(turn, min_size=2, max_size=3))
def test_sums_of_permutations_of_axes_are_those_of_the_dense_arrays(found):
    f, x = lambda x: sum(turned(x, *each) for each in found), random(2, 12)
    J, D = mj.jacobian(f, structured=True)(x), mj.jacobian(f, mode="forward")(x)
    close(J.todense(), D)
    close((J + J.T).todense(), D + np.swapaxes(D, 1, 2))
    g = lambda x: (f(x) * x).sum(1)
    close(mj.hessian(g, structured=True)(x).todense(), mj.hessian(g)(x))


piece = st.tuples(st.integers(0, 6), st.integers(1, 7), st.integers(-3, 3), st.booleans())
pieces = st.lists(piece, min_size=2, max_size=6)


@given(pieces)
def test_windows_of_any_diagonals_add_up(found):
    """Sums of shifted slices, padded back: terms merge or not, and the Jacobian is that of the columns."""
    n = 8

    def f(x: Any) -> Any:
        total = 0.0
        for start, length, shift, nonlinear in found:
            stop = min(start + length, n)
            lo, hi = max(start + shift, 0), min(stop + shift, n)
            if lo >= hi:
                continue
            part = x[:, lo - shift : hi - shift]
            part = np.sin(part) if nonlinear else 2.0 * part
            total = total + np.pad(part, ((0, 0), (lo, n - hi)))
        return total + 0.0 * x

    x = random(2, n)
    J = mj.jacobian(f, structured=True)(x)
    close(J.todense(), mj.jacobian(f)(x))
    close(J @ x, np.einsum("bij,bj->bi", mj.jacobian(f)(x), x))


# --- solve ------------------------------------------------------------------------------------------------------------

W = random(6, 6)
SYSTEMS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "diagonal": (lambda x: np.exp(x), (5, 40)),
    "tridiagonal": (lambda u: u - 1e-2 * burgers_padded(u), (5, 40)),
    "boundaries": (lambda u: u - 1e-2 * burgers_sliced(u), (5, 40)),
    "periodic": (lambda u: u - 1e-2 * burgers_periodic(u), (5, 40)),
    "one-sided": (lambda u: u - 1e-1 * limited_flux(u), (5, 40)),
    "two-dimensional": (lambda u: u - 1e-2 * five_points(u), (3, 20, 4)),
    "dense": (lambda x: x + np.tanh(x @ W), (5, 6)),
    "shared": (lambda x: x @ W, (5, 6)),
    "zero pivots": (
        lambda x: np.concatenate([x[:, 1:2], x[:, :1] + x[:, 2:3], x[:, 1:2] + x[:, 2:3], x[:, 3:]], axis=1),
        (5, 30),
    ),
    "reordered": (lambda x: np.sin(x[:, ::-1]), (5, 7)),
    "one entry": (lambda x: np.exp(x), (5, 1)),
    "one sample": (lambda u: u - 1e-2 * burgers_padded(u), (1, 30)),
}
systems = pytest.mark.parametrize("f, shape", SYSTEMS.values(), ids=SYSTEMS.keys())


@systems
def test_solve_solves(f, shape):
    x, rhs = random(*shape), random(*shape, seed=1)
    J = mj.jacobian(f, structured=True)(x)
    n = int(np.prod(shape[1:]))
    expected = np.linalg.solve(J.todense().reshape(shape[0], n, n), rhs.reshape(shape[0], n, 1)).reshape(shape)
    solution = J.solve(rhs)
    close(solution, expected, 1e-8, 1e-9)
    close(J @ solution, rhs, 1e-8, 1e-9)
    assert solution.flags.c_contiguous and not np.shares_memory(solution, rhs)


@given(below=st.integers(0, 3), above=st.integers(0, 3), n=st.integers(1, 12), seed=st.integers(0, 1000))
def test_a_random_band_is_solved_with_row_exchanges(below, above, n, seed):
    rng = np.random.default_rng(seed)
    dense = np.zeros((3, n, n))
    bands = {}
    for offset in range(-min(below, n - 1), min(above, n - 1) + 1):
        band = rng.normal(size=(3, n))
        i = np.arange(n)
        valid = (i + offset >= 0) & (i + offset < n)
        band[:, ~valid] = 0.0
        dense[:, i[valid], i[valid] + offset] = band[:, valid]
        bands[offset] = band
    if np.linalg.cond(dense).max() > 1e8:
        return
    rhs = rng.normal(size=(3, n))
    close(solve_banded(bands, rhs), np.linalg.solve(dense, rhs[..., None])[..., 0], 1e-6, 1e-7)


def test_a_banded_system_makes_no_dense_array():
    u = random(64, 512)
    J = mj.jacobian(lambda u: u - 1e-3 * burgers_padded(u), structured=True)(u)
    assert peak_bytes(lambda: J.solve(u)) < 40 * u.nbytes


def test_newtons_method_takes_an_implicit_step():
    u = random(8, 32)
    residual = lambda v: v - u - 0.01 * burgers_padded(v)
    v = u
    for _ in range(6):
        v = v - mj.jacobian(residual, structured=True)(v).solve(residual(v))
    assert np.abs(residual(v)).max() < 1e-12


@pytest.mark.parametrize("shape", [(3, 0), (0, 0), (0, 3)])
def test_solve_of_nothing_is_nothing(shape):
    x = np.zeros(shape)
    assert mj.jacobian(lambda x: x + x**2, structured=True)(x).solve(x).shape == shape


def test_solve_of_samples_without_axes_divides():
    one = mj.jacobian(np.sinh, structured=True)(np.ones(3))[0]
    alone = mj.jacobian(lambda z: z**2, structured=True, batch_axis=None)(3.0)
    for J, slope in ((one, np.cosh(1.0)), (alone, 6.0)):
        close(J.solve(np.array(2.0)), np.array(2.0 / slope))
        close(J.solve(np.array([2.0, 4.0])), np.array([2.0, 4.0]) / slope)
    close(mj.jacobian(lambda s: one.solve(s), batch_axis=None)(np.array(2.0)), np.array(1 / np.cosh(1.0)))


def test_solve_keeps_the_dtype():
    x = random(4, 20, dtype=np.float32)
    assert mj.jacobian(np.exp, structured=True)(x).solve(x).dtype == np.float32


@pytest.mark.parametrize("f", [np.exp, lambda u: u - 1e-2 * burgers_padded(u)], ids=["diagonal", "banded"])
def test_solve_inside_a_transformation_is_differentiated(f):
    rhs = random(2, 12, seed=1)
    g = lambda x: mj.jacobian(f, structured=True)(x).solve(rhs)
    dense = lambda x: np.linalg.solve(mj.jacobian(f)(x), rhs[:, :, None])[:, :, 0]
    x = random(2, 12)
    close(mj.jacobian(g)(x), mj.jacobian(dense)(x), 1e-8, 1e-9)
    J = mj.jacobian(f, structured=True)(x)
    close(mj.jacobian(J.solve)(rhs), np.linalg.inv(J.todense()), 1e-8, 1e-9)


def test_solve_says_what_it_expected():
    x = random(3, 6)
    with pytest.raises(mj.InputError, match="square"):
        mj.jacobian(lambda x: x[:, 1:] - x[:, :-1], structured=True)(x).solve(random(3, 5))
    J = mj.jacobian(np.exp, structured=True)(x)
    with pytest.raises(mj.InputError, match=r"\(3, 6\)"):
        J.solve(random(3, 5))
    with pytest.raises(mj.InputError, match="list"):
        J.solve([1.0])
    for f in (lambda x: 0.0 * x, lambda x: np.pad(x[:, 1:], ((0, 0), (0, 1))), lambda x: x @ np.zeros((6, 6))):
        with pytest.raises(np.linalg.LinAlgError):
            mj.jacobian(f, structured=True)(x).solve(x)


# --- what it looks like -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f, words",
    [
        (np.sin, ": diagonal; "),
        (lambda x: x + 0.0, "diagonal, shared by all samples, constant"),
        (burgers_padded, "banded (offsets -1, 0, +1)"),
        (burgers_periodic, "banded (offsets -5, -1, 0, +1, +5)"),
        (lambda x: x[:, 1:] * 2.0, "banded (offset +1), shared by all samples, constant"),
        (lambda x: x @ W, "dense, shared by all samples"),
        (lambda x: x + np.tanh(x @ W), "diagonal, shared by all samples, constant + dense, product of 2 factors"),
        (lambda x: x[:, ::-1], "entries moved"),
        (lambda x: np.floor(x) * 1.0, "zero"),
    ],
)
def test_repr_says_what_the_structure_is(f, words):
    assert words in repr(mj.jacobian(f, structured=True)(random(3, 6)))


def test_repr_has_the_offsets_of_every_axis():
    J = mj.jacobian(five_points, structured=True)(random(2, 4, 4))
    assert "banded (offsets (-1, 0), (0, -1), (0, 0), (0, +1), (+1, 0))" in repr(J)


def test_spy_draws_the_pattern():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    J = mj.jacobian(burgers_sliced, structured=True)(random(3, 9))
    ax = J.spy()
    (line,) = ax.get_lines()
    drawn = {(int(i), int(j)) for j, i in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    assert drawn == {(i, j) for i in range(9) for j in range(9) if abs(i - j) <= 1}
    assert J.spy(ax) is ax
    matplotlib.pyplot.close("all")


def test_pictures_and_sparse_matrices_say_what_to_install(monkeypatch):
    J = mj.jacobian(np.sin, structured=True)(random(3, 4))
    for name in ("matplotlib", "matplotlib.pyplot", "scipy.sparse"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"minijac\[plots\]"):
        J.spy()
    with pytest.raises(ImportError, match=r"minijac\[sparse\]"):
        J.tosparse(0)
