"""Samples that a mask of values picks under compile: recorded once, right whichever and however many are picked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulated import COMPILER, WHY_NOT, Device
from helpers import MODES, close, loop_reference, mentions, names_place, random, tensor

import minijac as mj
from minijac.program.entry import record
from minijac.program.gpu.executor import GraphExecutor

torch = pytest.importorskip("torch")

from picking import CASES, X, branches, entries, rows_by_mask, spline_coupling, torch_spline_coupling  # noqa: E402

B, N = X.shape
W, C = random(N, N, seed=1), random(B, N, seed=9)
OTHERS = [random(B, N, seed=3), -np.abs(X), np.abs(X)]
"""What a program is replayed with: others are picked, none, all."""

POSITIONS = {"take and put", "added up"}
"""Cases that need to know at which positions the picked are."""
masked = pytest.mark.parametrize("case", sorted(CASES.keys() - POSITIONS))


def replayed(transformed: Callable[..., Any], *first: Any) -> Callable[..., Any]:
    """Compiled, and recorded with some data."""
    compiled = mj.compile(transformed)
    compiled(*first)
    return compiled


def into(g: Callable[[Any], Any], mask: Callable[[Any], Any] = lambda x: x[:, 0] > 0) -> Callable[[Any], Any]:
    """What puts back in its place what `g` makes of the picked."""

    def f(x):
        m = mask(x)
        y = x * 1.0
        y[m] = g(x[m])
        return y

    return f


@masked
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_way_to_a_jacobian_is_that_of_each_sample_by_itself(case, dtype):
    f, torch_f = CASES[case]
    rtol = 1e-9 if dtype == np.float64 else 2e-4
    found = [replayed(mj.jacobian(f, mode=mode), X.astype(dtype)) for mode in MODES]
    if dtype == np.float64:
        found.append(replayed(lambda x: mj.jacobian(f, structured=True)(x).todense(), X))
        found.append(replayed(mj.jacobian(f, on_mixing="diagonal"), X))
        found.append(replayed(mj.jacobian(f, mode="reverse", chunk_size=2), X))
        found.append(replayed(mj.jacobian(f, max_bytes=2**20), X))
        found.append(mj.jacobian(replayed(f, X)))
    for x in OTHERS:
        truth = loop_reference(torch_f, x)
        for J in found:
            got = J(x.astype(dtype))
            assert got.dtype == dtype
            close(got, truth, rtol, rtol)


@masked
def test_second_derivatives_are_those_of_each_sample_by_itself(case):
    f, torch_f = CASES[case]
    hessian, twice = replayed(mj.hessian(f), X), replayed(mj.jacobian(mj.jacobian(f, mode="reverse")), X)
    diagonal, laplacian = replayed(mj.hessian_diagonal(f), X), replayed(mj.laplacian(f), X)
    for x in OTHERS:
        truth = loop_reference(torch_f, x, order=2)
        close(hessian(x), truth, 1e-9, 1e-9)
        close(twice(x), truth, 1e-9, 1e-9)
        close(diagonal(x), np.einsum("boii->boi", truth), 1e-9, 1e-9)
        close(laplacian(x), np.einsum("boii->bo", truth), 1e-9, 1e-9)


@masked
@pytest.mark.parametrize("size", [0, 1, 2])
def test_few_samples_are_no_special_case(case, size):
    f, _ = CASES[case]
    J = replayed(mj.jacobian(f), X[:size])
    for x in OTHERS:
        close(J(x[:size]), mj.jacobian(f)(x[:size]), 1e-9)


@masked
def test_samples_on_another_axis_are_followed_too(case):
    f, torch_f = CASES[case]
    J = replayed(mj.jacobian(lambda x: f(x.T).T, batch_axis=1), X.T.copy())
    for x in OTHERS:
        close(J(x.T.copy()), loop_reference(torch_f, x), 1e-9)


# --- programs, each right as it is uncompiled -------------------------------------------------------------------------


def buffered(v):
    h = np.zeros_like(v)
    h[:, 0] = v[:, 1]
    h[:, 1] = 1.0
    h[:, 2] += v[:, 0] ** 2
    h[h > 0.5] *= 2.0
    h[:] = h + W[0]
    return h * np.ones_like(v)


def linear_systems(x):
    m = x[:, 0] > 0
    A = x[:, :, None] * x[:, None, :] + np.where(m, 1.0, 0.0)[:, None, None] * np.eye(N)
    return mj.numpy.put(x, m, np.linalg.solve(A[m] + np.eye(N) / 9, x[m][:, :, None])[..., 0])


def one_column(x):
    m = x[:, 1] > 0
    y = x * 1.0
    y[m, 0] = np.sin(x[m, 0]) * x[m, 2]
    y[m, 1:] += x[m, 1:] ** 2
    return y


def by_pairs_of_positions(x):
    i, j = np.nonzero(x > 0)
    y = x.copy()
    y[i, j] = np.tanh(x[i, j]) * (j + 1.0)
    return y


def by_positions_found_twice(x):
    y = x * 1.0
    y[np.nonzero(x > 0)[0], np.nonzero(x > 0)[1]] = np.sin(x[np.nonzero(x > 0)])
    return y


def by_where(x):
    (i,) = np.where(x[:, 0] > 0)
    return mj.numpy.add_at(x * 1.0, i, np.sin(x[i]))


def by_argwhere(x):
    at, both = np.argwhere(x[:, 0] > 0), np.argwhere(x > 0)
    y = x * 1.0
    y[at[:, 0]] = np.tanh(x[at.ravel()])
    y[both[:, 0], both[:, 1]] += x[tuple(both.T)] ** 2
    return y


def placed_and_extracted(x):
    y = x * 1.0
    np.place(y, x > 0, np.tanh(np.extract(x > 0, x)))
    return y


def added_at_a_mask(x):
    y = x * 1.0
    np.add.at(y, x > 0, x[x > 0] ** 2)
    return y


def along_an_inner_axis(x):
    m, z = x[:, 0] > 0, x.T
    y = z * 1.0
    y[:, m] = np.sin(z[:, m]) * z[:, m][::-1]
    return y.T


def experts(x):
    e = np.argmax(x @ W, 1)
    out = np.zeros_like(x)
    for k in range(N):
        out[e == k] = np.tanh(x[e == k] * (k + 1.0))
    return out


def table_beside(x):
    m = x[:, 0] > 0
    return mj.numpy.put(x, m, x[m] * np.compress(m, C, axis=0) * mj.numpy.take(C, np.argmax(x[m], 1), axis=0))


def mask_written_since(x):
    y, m = x * 1.0, x > 0
    before, v = m.copy(), x[m]
    m[:, 0] ^= True
    y[before] = np.sin(v)
    y[m] *= 3.0
    m[:] = False
    y[x > 0] += v
    return y


def positions_of_a_mask_written_since(x):
    y, m = x * 1.0, x > 0
    i = np.nonzero(m)
    m[i] = False
    np.logical_not(m, out=m)
    y[i] = np.sin(x[i])
    return y


def active_ones(x):
    y, active = x * 1.0, np.stack([x[:, 0] > 0, x[:, 0] < 0])[0]
    for _ in range(3):
        (i,) = np.nonzero(active)
        v = y[i] * 0.5
        active[i] = v[:, 0] > 0.2
        y[i] = v
    return y


def written_where_all(v):
    h, k = v * 1.0, np.ones_like(v, dtype=bool)
    h[k] = np.sin(v[k])
    one = v[:, :1] > 0
    of_these = one[:, 0]
    q = h[of_these]
    one[...] = True
    h[(v[:, :1] > 0)[:, 0]] = q * 2.0
    return h


def constant_buffer(x):
    y, m = np.ones_like(x), x > 0
    y[m] += x[m] ** 2
    for _ in range(2):
        m = np.abs(y * y - np.abs(x)) > 1e-3
        v = y[m]
        y[m] = v - (v * v - np.abs(x[m])) / (2.0 * v)
    return y


PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "buffered": into(buffered),
    "nested": into(into(np.tanh, lambda v: v[:, 1] > 0)),
    "nested entries": into(into(np.tanh, lambda v: v > 0)),
    "nested positions": into(into(np.tanh, lambda v: np.flatnonzero(v[:, 1] > 0))),
    "linear systems": linear_systems,
    "one column": one_column,
    "by pairs of positions": by_pairs_of_positions,
    "by positions found twice": by_positions_found_twice,
    "by where": by_where,
    "by argwhere": by_argwhere,
    "placed and extracted": placed_and_extracted,
    "added at a mask": added_at_a_mask,
    "along an inner axis": along_an_inner_axis,
    "experts": experts,
    "table beside": table_beside,
    "mask written since": mask_written_since,
    "positions of a mask written since": positions_of_a_mask_written_since,
    "active ones": active_ones,
    "constant buffer": constant_buffer,
    "written where all": into(written_where_all),
    "a number": into(lambda v: 2.0),
    "one row": into(lambda v: C[:1]),
    "merged": into(lambda v: np.tanh(v.ravel()).reshape(-1, N)),
    "repeated": into(lambda v: np.repeat(v, 2, axis=0).reshape(-1, 2, N).sum(1)),
    "shaped": into(lambda v: np.broadcast_to(v[:, :1].reshape(v.shape[0], 1), v.shape) / v.shape[1]),
    "sorted": into(lambda v: np.sort(v, 1) * np.argsort(v, 1)),
    "searched": into(lambda v: np.searchsorted(C[0].cumsum() ** 2, v) * np.digitize(v, np.array([0.0, 0.5])) * v),
    "unbounded": into(lambda v: np.log(v[:, :1]) @ W[:1] + np.sqrt(v[:, :1]) * v),
    "determinants": into(lambda v: np.linalg.det(v[:, :, None] * v[:, None, :] + np.eye(N))[:, None] * v),
    "one by one": into(lambda v: mj.vmap(lambda row: np.tanh(W @ row))(v)),
    "differentiated": into(lambda v: mj.jacobian(lambda z: np.tanh(z @ W))(v).sum(2)),
    "differentiated beside": into(lambda v: mj.jacobian(lambda z: z @ W * np.sin(v))(v).sum(2)),
    "scanned": into(lambda v: mj.scan(lambda c, _: (np.tanh(c @ W.astype(v.dtype)), None), v, None, 3)[0]),
    "recomputed": into(mj.checkpoint(lambda z: np.tanh(z @ W))),
    "black box": into(mj.custom(np.tanh, jacobian=lambda x: (1 - np.tanh(x) ** 2)[:, :, None] * np.eye(N))),
}
programs = pytest.mark.parametrize("program", PROGRAMS)


@programs
def test_a_program_is_what_it_is_uncompiled_whichever_are_picked(program):
    f = PROGRAMS[program]
    ways: list[Callable[..., Any]] = [
        f, mj.jacobian(f, mode="forward"), mj.jacobian(f, mode="reverse"), mj.jacobian(f, on_mixing="full"),
        mj.hessian(f), mj.laplacian(f),
    ]  # fmt: skip
    for way in ways if program != "black box" else ways[:4]:
        compiled = replayed(way, X)
        for x in OTHERS:
            close(compiled(x), way(x), 1e-9, 1e-9)
    compiled = replayed(mj.jacobian(f), X.astype(np.float32))
    close(compiled(OTHERS[0].astype(np.float32)), mj.jacobian(f)(OTHERS[0]), 2e-3, 2e-3)


def test_weights_get_no_derivative_of_what_is_not_picked():
    """Where nothing else is a number but what the mask picks."""

    def loss(W, x):
        m = x[:, 0] > 0
        y = mj.numpy.put(x, m, np.log(x[m][:, :1]) @ W[:1] + np.sqrt(x[m][:, :1]) @ W[1:2])
        return (y**2).sum()

    both = replayed(lambda W, x: mj.value_and_grad(loss, argnums=(0, 1))(W, x), W, X)
    for x in OTHERS:
        for got, expected in zip(both(W, x)[1], mj.grad(loss, argnums=(0, 1))(W, x), strict=True):
            close(got, expected, 1e-10, 1e-12)


def test_matrices_that_the_mask_keeps_out_need_no_inverse():
    def f(x):
        m = x[:, 0] > 0
        A = np.where(m, 1.0, 0.0)[:, None, None] * (np.eye(N) + x[:, :, None] ** 2)
        y = x * 1.0
        y[m] = np.linalg.inv(A[m]).sum(1)
        return y

    J = replayed(mj.jacobian(f), X)
    for x in (OTHERS[0], OTHERS[2]):
        close(J(x), mj.jacobian(f)(x), 1e-9)


@pytest.mark.parametrize(
    "g",
    [
        np.linalg.inv,
        lambda A: np.linalg.solve(A, A @ A + A),
        lambda A: np.linalg.cholesky(A @ A.mT),
        lambda A: np.linalg.inv(np.concatenate([A, A], 1)[:, 1 : N + 1]),
        lambda A: A * np.linalg.svd(np.log(A), compute_uv=False)[:, :1, None],
        lambda A: np.linalg.eigh(np.log(A) + np.log(A).mT)[1],
        lambda A: np.linalg.pinv(np.log(A)),
        lambda A: np.linalg.eigvals(np.log(A)).real[:, :, None],
    ],
)
def test_matrices_of_which_none_is_picked_need_no_inverse(g):
    def f(x):
        m = x[:, 0] > 0
        A = np.where(m, 1.0, 0.0)[:, None, None] * (np.diag([1.0, 2.0, 4.0]) + 0.1 * W**2 + 0.2 * x[..., None] ** 2)
        B = A * 1.0
        B[m] = g(A[m])
        return B

    for way in (f, mj.jacobian(f, mode="forward"), mj.jacobian(f, mode="reverse"), mj.hessian(f)):
        compiled = replayed(way, np.abs(X))
        for x in (np.abs(X), -np.abs(X), OTHERS[0], X):
            close(compiled(x), way(x), 1e-8, 1e-10)


def test_a_matrix_of_positions_that_are_not_meant_may_be_singular():
    def f(x):
        (i,) = np.nonzero(x[:, 0] > 0)
        y = x * 1.0
        y[i] = np.linalg.inv(np.eye(N) * i[:, None, None] * 1.0).sum(1) * x[i]
        return y

    first_not_meant = np.abs(X) * np.where(np.arange(B) == 0, -1.0, 1.0)[:, None]
    for way in (f, mj.jacobian(f)):
        close(replayed(way, first_not_meant)(first_not_meant), way(first_not_meant), 1e-12)


def test_a_long_program_of_picks_stays_a_flow():
    """Couplings one after the other, as a normalising flow has them, against torch."""

    def flow(x):
        for _ in range(3):
            x = spline_coupling(x)[:, ::-1]
        return x

    def torch_flow(x):
        for _ in range(3):
            x = torch_spline_coupling(x).flip(1)
        return x

    J = replayed(mj.jacobian(flow), X)
    for x in OTHERS:
        close(J(x), loop_reference(torch_flow, x), 1e-9)


# --- what cannot be known ---------------------------------------------------------------------------------------------


def shown(h: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: x * h(x[x[:, 0] > 0])  # <- here


def some_written(v):
    h = np.zeros_like(v)
    h[1:] = 5.0
    return h


def put_by_the_mask_as_it_is_now(x, write):
    M = np.stack([x > 0, x < 0])
    m = M[0]
    v = x[m]
    write(M, m)
    return mj.numpy.put(x, m, v)  # <- here


REFUSED: dict[str, Callable[[Any], Any]] = {
    "length": shown(len),
    "shape": shown(lambda v: v.shape[0]),
    "numpy's shape": shown(lambda v: np.shape(v)[0]),
    "size": shown(lambda v: v.size),
    "numpy's size": shown(np.size),
    "bytes": shown(lambda v: v.nbytes),
    "decision by size": shown(lambda v: 2.0 if v.size else 1.0),
    "decision by shape": shown(lambda v: 2.0 if v.shape[0] > 2 else 1.0),
    "found in a set": shown(lambda v: 2.0 if v.shape[0] in {4, 3} else 1.0),
    "found in a dict": shown(lambda v: {4: 2.0}.get(v.shape[0], 1.0)),
    "at least one": shown(lambda v: 1.0 / np.maximum(v.shape[0], 1)),
    "root": shown(lambda v: np.sqrt(v.shape[0])),
    "absolute": shown(lambda v: abs(v.shape[0])),
    "rounded": shown(lambda v: round(v.shape[0])),
    "even": shown(lambda v: v.shape[0] & 1),
    "shifted": shown(lambda v: 1 << v.shape[0]),
    "with remainder": shown(lambda v: divmod(v.shape[0], 2)[1]),
    "added to an array": lambda x: np.add(x, x[x > 0].size),  # <- here
    "multiplied with an array": lambda x: C @ W * x * x[x > 0].size,  # <- here
    "matrix product with": lambda x: x[x > 0].size @ x,  # <- here
    "deleted": lambda x: x * np.delete(x, np.nonzero(x[0] > 0)[0], axis=1).sum(),  # <- here
    "inserted": lambda x: x * np.insert(x, np.nonzero(x[0] > 0)[0], 0.0, axis=1).sum(),  # <- here
    "deleted at a position": lambda x: x * np.delete(x, np.argmax(x[0]), axis=1).sum(),  # <- here
    "by a mask inverted since": lambda x: put_by_the_mask_as_it_is_now(x, lambda M, m: m.__ixor__(True)),
    "by a mask overwritten since": lambda x: put_by_the_mask_as_it_is_now(x, lambda M, m: np.logical_not(m, out=m)),
    "by a mask flipped since": lambda x: put_by_the_mask_as_it_is_now(x, lambda M, m: m.__setitem__(..., m[::-1])),
    "by a view written since": lambda x: put_by_the_mask_as_it_is_now(x, lambda M, m: M.__setitem__(0, M[1])),
    "division": shown(lambda v: 1.0 / v.shape[0]),
    "plain buffer": shown(lambda v: np.zeros(v.shape)),
    "all positions": shown(lambda v: np.arange(len(v))),
    "length inside": shown(lambda v: mj.jacobian(lambda z: np.tanh(z) / len(z))(v)),
    "shape inside": shown(lambda v: mj.checkpoint(lambda z: np.tanh(z) / np.shape(z)[0])(v)),
    "shape of a Jacobian": shown(lambda v: mj.jacobian(np.tanh, structured=True)(v).shape[0]),
    "number": shown(lambda v: float(v[0, 0])),
    "sum": shown(np.sum),
    "mean": shown(lambda v: v.mean(0)),
    "deviation": shown(lambda v: v.std(0)),
    "median": shown(lambda v: np.median(v, 0)),
    "largest": shown(lambda v: v.max(0)),
    "norm": shown(np.linalg.norm),
    "product": shown(lambda v: v.T @ v),
    "contraction": shown(lambda v: np.einsum("bi,bj->ij", v, v)),
    "first": shown(lambda v: v[0]),
    "loop": shown(lambda v: sum(row.sum() for row in v)),
    "singular values": shown(lambda v: np.linalg.svd(v, compute_uv=False)),
    "unique": shown(np.unique),
    "some written": into(some_written),
    "first written": into(lambda v: mj.numpy.put(np.zeros_like(v), 0, 1.0)),
    "cumulative": into(lambda v: np.cumsum(v, 0)),
    "in order": into(lambda v: np.sort(v, 0)),
    "reversed": into(lambda v: v[::-1]),
    "rolled": into(lambda v: np.roll(v, 1, 0)),
    "normalised": into(lambda v: mj.nn.softmax(v, axis=0)),
    "unwrapped": into(lambda v: np.unwrap(v, axis=0)),
    "diagonal": into(lambda v: np.diag(v[:, 0])[:, :1]),
    "transformed": into(lambda v: np.fft.fft(v, axis=0).real),
    "joined": into(lambda v: np.concatenate([v, v])),
    "split": into(lambda v: v.reshape(3, -1).T),
    "rows of all": into(lambda v: v * C),
    "rows of all written": into(lambda v: C),
    "filled with rows": into(lambda v: np.full_like(v, C)),
    "by their places": into(lambda v: v[np.argsort(v[:, 0])]),
    "among all": into(np.tanh, lambda x: x[x[:, 0] > 0][:, 1] > 0),
    "put by values": lambda x: np.putmask(x * 1.0, x > 0, x[x > 0]),  # <- here
    "another mask": lambda x: mj.numpy.put(x, x[:, 0] > 0, x[x[:, 1] > 0]),  # <- here
    "two masks": lambda x: mj.numpy.put(x, x > 0, x[x > 0] * x[x > 1]),  # <- here
    "not put back": lambda x: np.sin(x[x > 0]),  # <- here
    "solved": into(lambda v: mj.fixed_point(lambda z, a: 0.3 * np.tanh(z) + a, v, v)),
    "plain table": lambda x: C[x[:, 0] > 0] * 1.0,  # <- here
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_how_many_are_picked_is_refused_by_name(name):
    f = REFUSED[name]
    for transformed in (f, mj.jacobian(f, on_mixing="full"), mj.jacobian(f, batch_axis=None)):
        with pytest.raises((mj.TraceError, mj.UnsupportedOperationError)) as caught:
            mj.compile(transformed)(X)
        mentions(caught.value, "test_picked_compiled.py:", "compile" if name != "not put back" else "mask")


def test_the_error_names_the_line_and_what_to_write():
    def f(x):
        return x - x[x[:, 0] > 0].mean(0)  # <- here

    with pytest.raises(mj.TraceError) as caught:
        mj.compile(f)(X)
    names_place(caught.value, f)
    mentions(caught.value, r"y\[m\] = g\(x\[m\]\)", r"np.where\(m, v, 0.0\)", r"np.count_nonzero\(m\)")


def test_tensors_that_a_mask_picks_are_refused_by_name():
    import minijac.torch as mt

    def f(x):
        y = x.clone()
        y[x > 0] = torch.tanh(x[x > 0])
        return y

    with pytest.raises(mj.TraceError):
        mt.compile(f)(tensor(X))


def test_a_mask_computed_twice_is_one_and_another_is_not():
    J = replayed(mj.jacobian(lambda x: mj.numpy.put(x, x[:, 0] > 0.1, np.sin(x[x[:, 0] > 0.1]))), X)
    for x in OTHERS:
        slopes = np.where(x[:, :1] > 0.1, np.cos(x), 1.0)
        close(J(x), slopes[:, :, None] * np.eye(N), 1e-12)
    with pytest.raises(mj.TraceError):
        mj.compile(lambda x: mj.numpy.put(x, x[:, 0] > 0.1, np.sin(x[x[:, 0] > 0.2])))(X)
    with pytest.raises(mj.TraceError):
        mj.compile(lambda x, a: mj.numpy.put(x, x[:, 0] > a, np.sin(x[x[:, 0] > a + 1.0])))(X, 0.1)
    for one, other in ((0.0, -0.0), (0.1, np.float64(0.1))):
        x = X.astype(np.float32)
        with np.errstate(divide="ignore"), pytest.raises(mj.TraceError):
            mj.compile(lambda x: mj.numpy.put(x, 1 / (x * one) > 0, x[1 / (x * other) > 0]))(x)  # noqa: B023


@pytest.mark.parametrize("f", [rows_by_mask, branches, entries])
def test_a_captured_array_that_a_mask_picks_from_is_read_at_replay(f):
    table = C.copy()
    compiled = mj.compile(lambda x: f(x) + mj.numpy.put(x, x[:, 0] > 0, mj.numpy.compress(x[:, 0] > 0, table, axis=0)))
    compiled(X)
    table *= 2.0
    for x in OTHERS:
        close(compiled(x), f(x) + np.where(x[:, :1] > 0, table, x), 1e-12)


@pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)
@pytest.mark.parametrize("f", [rows_by_mask, entries, spline_coupling])
def test_kernels_for_a_device_know_no_more_of_what_is_picked(f):
    entry = record(mj.jacobian(f), (X.astype(np.float32),), {})
    run = GraphExecutor(entry.program, Device())
    assert run.report.captured
    assert not run.report.uncaptured
    for x in OTHERS:
        (J,) = run.run(x.astype(np.float32))
        close(J, mj.jacobian(f)(x), 1e-3, 1e-3)
