"""The second backend: transformations there, what stays there, how much is launched, and what is refused."""

from __future__ import annotations

import random as chance
from collections.abc import Callable
from itertools import count, islice
from typing import Any

import numpy as np
import pytest
from gpu import Device, on_device
from helpers import MODES, POLICIES, close, mentions, names_place, random

import minijac as mj

W1, B1 = random(4, 5, seed=1), random(5, seed=2)
W2, B2 = random(5, 3, seed=3), random(3, seed=4)
SQUARE = random(5, 4, seed=5)
X = random(6, 4, seed=6)


class Same:
    """Runs a function of arrays on the device and on the host, and compares what comes out, leaf by leaf."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def __call__(self, f: Callable[..., Any], *args: Any, rtol: float = 1e-10) -> Any:
        theirs = self.device.put(args)
        with self.device.apart():  # first, so that nothing is known from the host
            found = f(*theirs)
        expected = f(*args)
        for a, b in zip(_leaves(self.device.get(found)), _leaves(expected), strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype
            close(a, b, rtol, rtol)
        return found


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, list | tuple) else [tree]


@pytest.fixture
def same(device: Device) -> Same:
    return Same(device)


def net(x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    """x: (B, 4) -> (B, 3)."""
    return np.tanh(x @ w1 + b1) @ w2 + b2


NET = (X, W1, B1, W2, B2)
FIRST = (0, None, None, None, None)


def of_x(transform: Callable[..., Any]) -> Callable[..., Any]:
    """A transformation of the network in x alone, as a function of all arrays."""
    return lambda x, *weights: transform(lambda x: net(x, *weights))(x)


# --- every transformation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", POLICIES)
def test_jacobian(same, mode, policy):
    same(of_x(lambda f: mj.value_and_jacobian(f, mode=mode, on_mixing=policy)), *NET)


@pytest.mark.parametrize("mode", MODES)
def test_jacobian_for_shared_and_several_arguments(same, mode):
    same(mj.jacobian(net, (0, 1, 2, 3, 4), batch_axis=FIRST, mode=mode), *NET)
    same(mj.jacobian(lambda p, x: np.tanh(x @ p["w"]) * p["b"], batch_axis=(None, 0), mode=mode), {"w": W1, "b": B1}, X)


@pytest.mark.parametrize("policy", ["diagonal", "full"])
def test_mixing(same, policy):
    for f in (lambda x: x - x.mean(0), lambda x: x @ x.T @ x, lambda x: np.cumsum(np.sin(x), axis=0)):
        for mode in MODES:
            same(mj.jacobian(f, on_mixing=policy, mode=mode), X)


def test_mixing_is_found(device):
    with pytest.raises(mj.BatchMixingError, match="mean"), device.apart():
        mj.jacobian(lambda x: x - x.mean(0))(*device.put([X]))


def reordered(x: Any, order: Any, back: Any, w: Any) -> Any:
    return np.sort(np.tanh(x[order] @ w), axis=1)[back]


def put_back(x: Any, order: Any, back: Any, w: Any) -> Any:
    y = x.copy()
    y[order[:3]] = np.sin(x[order[:3]] @ w)
    return y * y


def masked(x: Any, order: Any, back: Any, w: Any) -> Any:
    y, mask = x.copy(), mj.stop_gradient(x)[:, 0] > 0
    y[mask] = np.cumsum(x[mask] @ w, axis=1)
    return y * y


PICKING: dict[str, Callable] = {
    **{mode: lambda f, mode=mode: mj.jacobian(f, mode=mode) for mode in MODES},
    "structured": lambda f: lambda x: mj.jacobian(f, structured=True)(x).todense(),
    "bounded": lambda f: mj.jacobian(f, max_bytes=10**6),
    "hessian": lambda f: mj.hessian(lambda x: f(x).sum(axis=1)),
    "laplacian": lambda f: mj.laplacian(lambda x: f(x).sum(axis=1)),
}


@pytest.mark.parametrize("transform", PICKING.values(), ids=PICKING)
@pytest.mark.parametrize("f", [reordered, put_back, masked])
def test_samples_that_positions_pick_are_followed(device, f, transform):
    order = np.array([3, 1, 4, 0, 5, 2])
    given = X, order, np.argsort(order), SQUARE[:4]
    x, *rest = device.put(given)
    found, expected = transform(lambda x: f(x, *rest))(x), transform(lambda x: f(x, *given[1:]))(X)
    assert isinstance(found, device.xp.ndarray)
    close(device.get(found), expected, 1e-10, 1e-10)
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(lambda x: f(x, *rest)[rest[0]])(x)


@pytest.mark.parametrize("policy", ["diagonal", "full"])
def test_samples_that_positions_mix(device, policy):
    order = np.array([3, 1, 4, 0, 5, 2])
    x, there = device.put((X, order))
    found = mj.jacobian(lambda x: np.sin(x[there]) * x, on_mixing=policy)(x)
    close(device.get(found), mj.jacobian(lambda x: np.sin(x[order]) * x, on_mixing=policy)(X), 1e-10, 1e-10)


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_chunks(same, chunk_size):
    for mode in ("forward", "reverse", "auto"):
        same(of_x(lambda f, mode=mode: mj.jacobian(f, chunk_size=chunk_size, mode=mode)), *NET)


def test_bounded_memory(device):
    f = lambda x: np.tanh(x @ w[0]) @ w[1]
    x = random(64, 4, seed=7)
    w = (W1, W2)
    expected = mj.value_and_jacobian(f)(x)
    w = device.put(w)
    with pytest.raises(
        mj.InputError, match=r"max_bytes=8,000: expected room for one seed of one sample, which takes 11,"
    ):
        mj.jacobian(f, max_bytes=8_000)(*device.put([x]))
    for bound in (12_000, 40_000, 10**7):
        with device.apart():
            found = mj.value_and_jacobian(f, max_bytes=bound)(*device.put([x]))
        close(device.get(found)[0], expected[0])
        close(device.get(found)[1], expected[1])


def test_products(same):
    same(lambda *args: mj.jvp(net, args, args), *NET)
    same(lambda *args: mj.vjp(net, *args)[1](net(*args)), *NET)
    same(lambda *args: mj.grad(lambda *args: (net(*args) ** 2).sum(), (0, 1, 4))(*args), *NET)
    same(mj.value_and_grad(lambda p: (p["a"] @ p["b"]).sum()), {"a": X, "b": W1})


def test_second_order(same):
    for transform in (mj.hessian, mj.hessian_diagonal, mj.laplacian, mj.value_and_hessian, mj.value_and_laplacian,
                      mj.value_and_hessian_diagonal):  # fmt: skip
        same(of_x(transform), *NET, rtol=1e-9)
        same(of_x(lambda f, transform=transform: transform(f, chunk_size=3)), *NET, rtol=1e-9)
    same(lambda x, w, v: mj.value_and_divergence(lambda x: np.tanh(x @ w) @ v)(x), X, W1, SQUARE)
    same(mj.laplacian(lambda x: np.prod(np.sort(x, axis=1), axis=1) + np.linalg.norm(x, axis=1)), X)


def test_partials(same):
    indices = [(), (0,), (3, 3), (0, 1), (0, 0, 2), (1, 1, 1, 1)]
    same(of_x(lambda f: mj.partials(f, indices)), *NET, rtol=1e-9)
    same(mj.partials(lambda x: np.prod(x, axis=1) / (2.0 + x[:, 0]), indices), X, rtol=1e-9)


def test_structured(same):
    def operator(x: Any, *weights: Any) -> Any:
        J = mj.jacobian(lambda x: net(x, *weights), structured=True)(x)
        y, K = mj.linearize(lambda x: net(x, *weights), x)
        return y, J.todense(), K @ x, K.T @ y, J.T.todense()

    same(operator, *NET)

    def stencil(u: Any) -> Any:
        J = mj.jacobian(lambda u: np.roll(u, 1, 1) * u - 3.0 * u**2, structured=True)(u)
        return J.todense(), J.diagonal(), J @ u

    same(stencil, X)


def test_solves_with_a_structured_jacobian(same):
    def newton(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda u: mj.jacobian(f, structured=True)(u).solve(f(u))

    u = random(4, 40, seed=8)
    same(newton(lambda u: 4.0 * u + 0.1 * u**2), u)
    same(newton(lambda u: 4.0 * u + np.pad(u[:, 1:] * u[:, :-1], ((0, 0), (0, 1)))), u, rtol=1e-9)
    same(newton(lambda u: 4.0 * u + np.sin(u).sum(axis=1, keepdims=True)), u)


def test_nesting(same):
    same(of_x(lambda f: mj.jacobian(mj.jacobian(f, mode="reverse"), mode="forward")), *NET)
    same(lambda *a: mj.grad(lambda w: (mj.jacobian(lambda x: net(x, w, *a[2:]))(a[0]) ** 2).sum())(a[1]), *NET)
    same(of_x(lambda f: mj.jacobian(lambda x: mj.jvp(f, (x,), (x,))[1])), *NET)
    same(of_x(lambda f: mj.jacobian(mj.laplacian(f))), *NET, rtol=1e-9)


def test_branches_not_taken(same):
    for f in (lambda x: np.where(x > 0, np.sqrt(np.where(x > 0, x, 1.0)), x), lambda x: np.where(x > 0, np.log(x), x)):
        with np.errstate(all="ignore"):
            same(mj.jacobian(f), X)
            same(mj.hessian(f), X)


def test_only_a_guarded_product_asks_whether_its_factors_are_finite(device):
    """Entries that a `where` discards, behind data that samples share: masking would give each sample its own."""
    f = lambda x, w: np.where(x @ w > 0, x @ w, 0.1 * (x @ w))
    theirs = device.put((X, W1))
    found = mj.jacobian(f, batch_axis=(0, None))(*theirs)
    close(found.get(), mj.jacobian(f, batch_axis=(0, None))(X, W1))
    with device.apart():
        mj.jacobian(lambda x, w: mj.nn.leaky_relu(x @ w), batch_axis=(0, None))(*theirs)
        with pytest.raises(device.xpx.DeviceSynchronized):
            mj.jacobian(f, batch_axis=(0, None))(*theirs)


def test_single_precision_stays(device):
    x, *weights = device.put([a.astype(np.float32) for a in NET])
    y, J = mj.value_and_jacobian(lambda x: net(x, *weights))(x)
    assert y.dtype == J.dtype == np.float32
    assert mj.laplacian(lambda x: net(x, *weights))(x).dtype == np.float32


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (3, 0)])
def test_no_samples_one_sample_and_no_features(same, shape):
    for mode in MODES:
        same(mj.value_and_jacobian(lambda x: np.concatenate([np.sin(x), x[:, :1] * 2.0], axis=1), mode=mode),
             np.ones(shape))  # fmt: skip


def test_plain_numbers_among_the_arguments_go_where_the_arrays_are(same):
    same(lambda x: mj.jacobian(lambda x, t: np.sin(x) * t, 1, batch_axis=(0, None))(x, 2.0), X)
    same(lambda x: mj.jvp(lambda x, t: x * t, (x, 2.0), (x, 1.0)), X)
    same(lambda x: mj.grad(lambda t: (x * t).sum())(x[0, 0] * 0.0 + 1.0), X)


def test_a_constant_output(same):
    same(lambda x: mj.jacobian(lambda x: x * 0.0 + mj.stop_gradient(x))(x), X)
    same(lambda x: mj.jacobian(lambda x: mj.stop_gradient(x))(x), X)


def test_the_tape_and_the_plan_are_told(device):
    x, w = device.put([X, W1])
    with device.apart():
        tape = str(mj.trace(lambda x: np.sin(x).sum(axis=1), x))
        plan = str(mj.explain(lambda x: np.tanh(x @ w), x))
    assert "sin" in tape and "forward" in plan


def test_results_are_new(device):
    (x,) = device.put([X])
    for y in mj.value_and_jacobian(lambda x: x)(x):
        y += 1.0
    close(x.get(), X)


VALUES = {
    "histogram": lambda x: np.histogram(x, 3, weights=x)[0],
    "histogram, range": lambda x: np.histogram(x, 3, range=(0.0, 1.0), weights=x)[0],
    "histogram, edges": lambda x: np.histogram(mj.stop_gradient(x), [-1.0, 0.0, 1.0], weights=x)[0],
    "histogram2d": lambda x: np.histogram2d(x[0], x[1], 2, weights=x[2])[0],
    "unique": lambda x: np.unique(x)[::2],
    "union1d": lambda x: np.union1d(x[0], x[1]),
    "setdiff1d": lambda x: np.setdiff1d(x[0], x[1]),
    "trim_zeros": lambda x: np.trim_zeros(x[0] * (x[0] > 0.0)),
    "embedding": lambda w: mj.nn.embedding(np.array([0, 2, 2]), w) ** 2,
    "quantiles": lambda x: np.percentile(x, [10, 50, 75], axis=0),
    "decision": lambda x: x * 2.0 if x.sum() > 0 else x * x,
}


@pytest.mark.parametrize("name", VALUES)
def test_functions_that_go_by_values(device, name):
    f = VALUES[name]
    found = mj.value_and_jacobian(on_device(f, device), batch_axis=None)(*device.put([X]))
    for a, b in zip(_leaves(device.get(found)), _leaves(mj.value_and_jacobian(f, batch_axis=None)(X)), strict=True):
        close(a, b)


def test_arrays_are_created_like_traced_ones(same):
    def f(x: Any) -> Any:
        y = x * np.ones(4, like=x) + np.arange(4.0, like=x) + np.zeros((6, 4), like=x) + np.full((6, 1), 2.0, like=x)
        rows = mj.numpy.asarray([x[:, 0], np.ones(6, like=x), x[:, 1]]).T
        return y + np.full_like(x, 2.0), rows, mj.numpy.put(x, (slice(None), 1), 3.0)

    same(mj.jacobian(f), X)


def test_the_checks_for_users_take_arrays_of_the_device(device):
    f = lambda x: np.sin(x) * x.sum(1, keepdims=True)
    mj.testing.check_derivatives(f, *device.put([X]), order=2)
    with pytest.raises(AssertionError, match="differ"):
        mj.testing.check_derivatives(lambda x: f(mj.stop_gradient(x)) + x, *device.put([X]))
    torch = pytest.importorskip("torch")
    assert mj.testing.compare_with_torch(np.sin, torch.sin, *device.put([X])).absolute < 1e-12
    assert mj.testing.compare_with_torch(np.sin, torch.sin, *device.put([X[:0]])) == (0.0, 0.0)


def test_positions_of_numpys_are_slices_where_they_can_be(device):
    """They are known on the host: no wait, no data, and a mask of NumPy's is no look at the device."""
    mask = np.array([True, False, True, False])
    for f in (lambda x: np.take(x, [0, 1, 2], axis=1), lambda x: x[:, [3, 2, 1]], lambda x: x[:, mask],
              lambda x: np.compress(mask, x, axis=1)):  # fmt: skip
        with device.apart():
            J = mj.jacobian(f, structured=True)(*device.put([X]))
        assert J.nbytes == 0
        close(device.get(J.todense()), mj.jacobian(f)(X))


# --- what is launched ---------------------------------------------------------------------------------------


def launches(device: Device, f: Callable[..., Any], *args: Any) -> int:
    theirs = device.put(args)
    device.log.clear()
    f(*theirs)
    assert not device.log.reads
    return len(device.log.launches)


def counted(device: Device) -> None:
    if device.log is None:
        pytest.skip("launches are counted on the stand-in")


@pytest.mark.parametrize("mode", MODES)
def test_launches_do_not_grow_with_the_samples_or_the_seeds(device, mode):
    counted(device)
    f = lambda x, w, v: mj.jacobian(lambda x: np.tanh(np.tanh(x @ w) @ v), mode=mode)(x)
    few = launches(device, f, random(2, 4), random(4, 5), random(5, 3))
    assert few < 40
    assert launches(device, f, random(64, 4), random(4, 5), random(5, 3)) == few
    many = launches(device, f, random(64, 40), random(40, 50), random(50, 30))
    assert many <= few + (8 if mode in ("mixed", "auto") else 0)  # another order of multiplication may be cheaper


@pytest.mark.parametrize("transform", [mj.hessian, mj.laplacian, mj.hessian_diagonal])
def test_launches_of_second_order_do_not_grow(device, transform):
    counted(device)
    f = lambda x, w, v: transform(lambda x: np.tanh(x @ w) @ v)(x)
    few = launches(device, f, random(2, 4), random(4, 5), random(5, 3))
    assert launches(device, f, random(32, 8), random(8, 9), random(9, 7)) <= few + 8


def test_nothing_is_copied_from_the_host(device):
    counted(device)
    theirs = device.put(NET)
    device.log.clear()
    mj.jacobian(lambda x: net(x, *theirs[1:]))(theirs[0])
    assert sum(device.log.uploads) <= 64, "numbers, and no arrays"


# --- devices ------------------------------------------------------------------------------------------------


def test_work_is_done_where_the_input_lives(device):
    counted(device)
    with device.xp.cuda.Device(1):
        x, *weights = device.put(NET)
    f = lambda x: net(x, *weights)
    results = [
        mj.jacobian(f)(x), mj.hessian(f)(x), mj.laplacian(f)(x), mj.jvp(f, (x,), (x,)), mj.partials(f, [(0, 1)])(x),
        mj.grad(lambda x: f(x).sum())(x), mj.jacobian(f, max_bytes=10**6)(x),
    ]  # fmt: skip
    y, pullback = mj.vjp(f, x)
    J = mj.jacobian(f, structured=True)(x)
    results += [pullback(y), J @ x, J.T @ y, J.todense()]
    for array in _leaves(results):
        assert array.device.id == 1
    assert device.xp.cuda.Device().id == 0


def test_work_is_done_on_the_current_stream(device):
    if device.log is not None:
        pytest.skip("the stand-in has no streams")
    x, *weights = device.put(NET)
    stream = device.xp.cuda.Stream(non_blocking=True)
    device.xp.cuda.Device().synchronize()
    with stream:
        J = mj.jacobian(lambda x: net(x, *weights))(x)
    stream.synchronize()
    close(J.get(), mj.jacobian(lambda x: net(x, *NET[1:]))(X))


# --- CuPy's own functions, and NumPy's ----------------------------------------------------------------------


def test_cupys_functions_on_traced_values(device):
    xp = device.xp
    (x,) = device.put([np.abs(X) + 0.1])
    pairs = [
        (lambda x: xp.exp(x) * xp.add(x, 1.0), lambda x: np.exp(x) * np.add(x, 1.0)),
        (lambda x: xp.where(x > 0.5, x, xp.sqrt(x)), lambda x: np.where(x > 0.5, x, np.sqrt(x))),
        (lambda x: xp.maximum(0.5, xp.true_divide(x, 3.0)), lambda x: np.maximum(0.5, x / 3.0)),
        (lambda x: xp.sum(x, axis=1), lambda x: x.sum(axis=1)),
        (lambda x: xp.sinc(x) + xp.clip(x, 0.2, 0.7), lambda x: np.sinc(x) + np.clip(x, 0.2, 0.7)),
        (lambda x: device.xpx.scipy.special.erf(x), mj.special.erf),
        (lambda x: device.xpx.scipy.special.gammaln(x) + device.xpx.scipy.special.digamma(x),
         lambda x: mj.special.gammaln(x) + mj.special.digamma(x)),
    ]  # fmt: skip
    for theirs, ours in pairs:
        with device.apart():
            found = mj.value_and_jacobian(theirs)(x)
        for a, b in zip(found, mj.value_and_jacobian(ours)(x), strict=True):
            close(a.get(), b.get())


def test_an_array_of_the_device_meets_a_traced_value_on_either_side(same):
    def f(x: Any, w: Any) -> Any:
        y = mj.stop_gradient(x)
        return lambda x: (y + x) * (y - x) / (y * x + 3.0) + abs(y) ** x + (y > x) * x + (w @ x[..., None])[..., 0]

    same(lambda x, w: mj.jacobian(f(x, w))(x), X, random(4, 4, seed=9))


def test_writing_into_the_devices_array_is_refused(device):
    (x,) = device.put([X])
    buffer = device.xp.zeros(X.shape)

    def add(t: Any) -> Any:
        nonlocal buffer
        buffer += t
        return buffer

    def out(t: Any) -> Any:
        return device.xp.exp(t, out=buffer)

    for f in (add, out):
        with pytest.raises(mj.ConversionError, match="plain array"):
            mj.jacobian(f)(x)


# --- what is refused ----------------------------------------------------------------------------------------


def test_mixed_operands_say_which_is_where(device):
    (x,) = device.put([X])

    def host_weights(x: Any) -> Any:
        return x @ W1  # <- here

    with pytest.raises(TypeError) as error:
        mj.jacobian(host_weights)(x)
    mentions(error.value, "matmul", "CuPy", "NumPy", r"\(4, 5\)", "cupy.asarray")
    names_place(error.value, host_weights)

    mixed = [
        lambda x: x + np.ones(4), lambda x: X * x, lambda x: np.concatenate([x, X], 1),
        lambda x: np.where(X > 0, x, 0.0), lambda x: np.einsum("bi,ij->bj", x, W1),
        lambda x: np.linalg.solve(np.eye(6), x),
    ]  # fmt: skip
    for f in mixed:
        with pytest.raises(TypeError, match="in NumPy"):
            mj.jacobian(f)(x)
    with pytest.raises(TypeError, match="in CuPy"):
        mj.jacobian(lambda t: t * x)(X)
    with pytest.raises(TypeError, match=r"tangent.*numpy"):
        mj.jvp(np.sin, (x,), (X,))
    with pytest.raises(TypeError, match=r"cotangent.*numpy"):
        mj.vjp(np.sin, x)[1](X)


def test_what_cupy_lacks_says_so(device):
    (x,) = device.put([X])
    with pytest.raises(mj.UnsupportedOperationError) as error:
        mj.jacobian(lambda x: mj.special.iv(2, x))(x)
    mentions(error.value, r"cupyx\.scipy\.special\.iv", "docs/gpu.md", r"x\.get\(\)")


def test_conversions_are_refused(device):
    (x,) = device.put([X])
    for f in (lambda x: float(x[0, 0]), lambda x: np.asarray(x), lambda x: x.item()):
        with pytest.raises(mj.ConversionError):
            mj.jacobian(f)(x)


# --- DLPack -------------------------------------------------------------------------------------------------


class Foreign:
    """Another library's array: all that it can do is pass itself on."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)


def test_arrays_of_other_libraries_come_in(device):
    (x,) = device.put([X])
    transformed = [
        mj.jacobian(np.sin), mj.laplacian(np.sin), mj.partials(np.sin, [(0,)]), mj.grad(lambda x: (x * x).sum()),
        mj.jacobian(np.sin, max_bytes=10**6), lambda x: mj.jvp(np.sin, (x,), (x,)), lambda x: mj.vjp(np.sin, x)[1](x),
    ]  # fmt: skip
    for f in transformed:
        for a, b in zip(_leaves(f(Foreign(x))), _leaves(f(x)), strict=True):
            assert isinstance(a, device.xp.ndarray)
            close(a.get(), b.get())


def test_torchs_tensors_come_in_and_results_go_out():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X)
    y, J = mj.value_and_jacobian(lambda p: np.sin(p["x"]) @ W1)({"x": x})
    assert type(y) is np.ndarray
    close(torch.from_dlpack(J["x"]).numpy(), mj.jacobian(lambda x: np.sin(x) @ W1)(X))
    seen = []
    mj.jvp(lambda x: seen.append(mj.stop_gradient(x)) or x * 2.0, (x,), (x,))
    assert seen[0].ctypes.data == x.data_ptr(), "the tensor was copied"
    with pytest.raises(mj.InputError, match="grad"):
        mj.jacobian(np.sin)(x.requires_grad_())


# --- random programs ----------------------------------------------------------------------------------------


OF_NUMPY = ("np.array(", "np.arange(", "np.flatnonzero(", "where=", "np.argsort(")
"""What programs make that is NumPy's, and does not meet arrays of CuPy's, or that CuPy has not on plain arrays; and
orders of samples, which are followed on the host alone."""


@pytest.mark.parametrize("part", range(10))
def test_random_programs(device, part):
    pytest.importorskip("torch")
    import fuzz

    built = (fuzz.build(chance.Random(f"gpu {part}/{n}").choice) for n in count())
    for program in islice((p for p in built if not any(word in str(p) for word in OF_NUMPY)), 12):
        try:
            check_program(device, program)
        except Exception as error:
            error.add_note(str(program))
            raise


def check_program(device: Device, program: Any) -> None:
    data, axes = program.data(), program.batch_axis
    argnums = tuple(range(len(program.inputs)))

    def operators(f: Callable[..., Any]) -> Callable[..., Any]:
        def products(*args: Any) -> Any:
            J = mj.jacobian(f, batch_axis=axes, structured=True)(*args)
            return [[K.todense(), K @ args[0], (K @ K.T).todense()] for K in (J if isinstance(J, tuple) else (J,))]

        return products

    ways: list[Callable[..., Any]] = [
        lambda f, mode=mode: mj.value_and_jacobian(f, argnums, batch_axis=axes, mode=mode) for mode in MODES
    ]
    ways += [operators, lambda f: mj.hessian_diagonal(f, argnums, batch_axis=axes)]
    ways += [
        lambda f: mj.laplacian(f, batch_axis=axes, chunk_size=2),
        lambda f: mj.jacobian(f, batch_axis=axes, chunk_size=2),
    ]
    for way in ways:
        found = device.get(way(on_device(program.function(), device))(*device.put(data)))
        with np.errstate(all="ignore"):
            expected = way(program.function())(*data)
        for a, b in zip(_leaves(found), _leaves(expected), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(b).max(initial=0.0)))
