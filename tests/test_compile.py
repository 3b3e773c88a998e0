"""compile(fn) is fn: the same trees, dtypes and numbers, on the first call and on every later one."""

from __future__ import annotations

import gc
import re
import sys
import threading
import weakref
from functools import partial
from typing import Any

import numpy as np
import optree
import pytest
from helpers import MODES, net, parameters, parametric_net, random

import minijac as mj
from minijac.program import passes
from minijac.program.record import Recorder
from minijac.tape import Traced

B = 3
X = random(B, 5, seed=11)
OTHER = random(B, 5, seed=12)


def same(actual: Any, expected: Any, rtol: float = 1e-12) -> None:
    """One tree, and at each leaf one type, dtype and shape, and numbers equal to rounding."""
    flat, tree = optree.tree_flatten(actual, namespace="minijac")
    truth, true_tree = optree.tree_flatten(expected, namespace="minijac")
    assert tree == true_tree
    for y, z in zip(flat, truth, strict=True):
        if np.ndim(z) or not isinstance(z, np.ndarray | np.generic):  # else NumPy's scalar, or an array without axes
            assert type(y) is type(z), f"{type(y)}, expected {type(z)}"
        if isinstance(z, np.ndarray | np.generic):
            assert y.dtype == z.dtype
            assert y.shape == z.shape
            if np.asarray(z).dtype.kind == "f":
                rtol = max(rtol, 50 * np.finfo(z.dtype).eps)
                scale = np.abs(z[np.isfinite(z)]).max(initial=1.0)
                np.testing.assert_allclose(y, z, rtol=rtol, atol=rtol * scale)
            else:
                np.testing.assert_array_equal(y, z)
        else:
            assert y == z


def agrees(fn: Any, *calls: Any, rtol: float = 1e-12, misses: int = 1) -> Any:
    """Each call gives what the function itself gives; it was recorded `misses` times. Returns the compiled function."""
    compiled = mj.compile(fn)
    for args in calls:
        with np.errstate(all="ignore"):
            same(compiled(*args), fn(*args), rtol)
    assert compiled.cache_info().misses == misses
    return compiled


def executor(compiled: Any) -> Any:
    """The executor of the only program of a compiled function."""
    (entry,) = compiled._entries.values()
    return entry.executors[0]


# --- every transformation ---------------------------------------------------------------------------------------------


def scalar_net(x: Any) -> Any:
    return np.tanh(net(x)).sum(axis=1)


def field(x: Any) -> Any:
    return np.sin(x) * x[:, ::-1] + x.sum(axis=1, keepdims=True)


TRANSFORMED = {
    "the function": net,
    **{f"jacobian {mode}": mj.jacobian(net, mode=mode) for mode in MODES},
    **{f"value_and_jacobian {mode}": mj.value_and_jacobian(net, mode=mode) for mode in MODES},
    "jacobian in chunks": mj.jacobian(net, mode="forward", chunk_size=2),
    "jacobian, samples mixing": mj.jacobian(lambda x: net(x) - net(x).mean(axis=0), on_mixing="diagonal"),
    "full jacobian": mj.jacobian(lambda x: net(x) - net(x).mean(axis=0), on_mixing="full"),
    "ordinary jacobian": mj.jacobian(net, batch_axis=None),
    "jacobian of an elementwise function": mj.jacobian(lambda x: np.sin(x) * x),
    "jacobian of shifts": mj.jacobian(lambda x: np.roll(x, 1, axis=1) * x - x[:, ::-1]),
    "hessian": mj.hessian(scalar_net),
    "value_and_hessian": mj.value_and_hessian(scalar_net),
    "laplacian": mj.laplacian(scalar_net),
    "value_and_laplacian": mj.value_and_laplacian(scalar_net),
    "hessian_diagonal": mj.hessian_diagonal(scalar_net),
    "divergence": mj.divergence(field),
    "value_and_divergence": mj.value_and_divergence(field),
    "grad": mj.grad(lambda x: (net(x) ** 2).sum()),
    "value_and_grad": mj.value_and_grad(lambda x: (net(x) ** 2).mean()),
    "jvp": lambda x: mj.jvp(net, (x,), (np.cos(x),)),
    "vjp": lambda x: mj.vjp(net, x)[1](np.ones((B, 3))),
    "jacobian of jacobian": mj.jacobian(mj.jacobian(net, mode="forward"), mode="reverse"),
    "jacobian of grad": mj.jacobian(mj.grad(lambda x: (net(x) ** 3).sum()), on_mixing="diagonal"),
    "third derivative": mj.jacobian(mj.hessian(lambda x: (x**4).sum(axis=1))),
    "partials": lambda x: mj.partials(scalar_net, [(), (0,), (0, 1), (2, 2)])(x),
    "with aux": mj.jacobian(lambda x: (net(x), {"x": x * 2.0, "name": "net", "n": 3}), has_aux=True),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_every_transformation(name):
    agrees(TRANSFORMED[name], (X,), (OTHER,), (X,))


@pytest.mark.parametrize("name", TRANSFORMED)
def test_every_transformation_in_single_precision(name):
    if name != "vjp":  # whose cotangent is given in double precision
        with np.errstate(all="ignore"):
            agrees(TRANSFORMED[name], (X.astype(np.float32),), (OTHER.astype(np.float32),), rtol=1e-4)


def test_structured_jacobians_are_results():
    f = mj.jacobian(lambda x: np.sin(x) * x, structured=True)
    compiled = mj.compile(f)
    for x in (X, OTHER, X):
        J = compiled(x)
        assert isinstance(J, mj.Jacobian)
        same(J.todense(), f(x).todense())
        same(J @ x, f(x) @ x)
        assert J.nbytes == f(x).nbytes
    assert compiled.cache_info().misses == 1


def test_trees_of_parameters():
    loss = lambda p, x, y: ((parametric_net(p, x) - y) ** 2).mean()
    x, y = random(B, 3, seed=1), random(B, 2, seed=2)
    other = optree.tree_map(lambda w: w + 0.1, parameters())
    agrees(mj.value_and_grad(loss), (parameters(), x, y), (other, x * 2, y))
    agrees(mj.grad(loss, (0, 1)), (parameters(), x, y), (other, x * 2, y))
    agrees(mj.jacobian(parametric_net, (0, 1), batch_axis=(None, 0)), (parameters(), x), (other, x * 2))


def pinn_loss(p: Any, x: Any, t: Any) -> Any:
    u = lambda p, x, t: parametric_net(p, np.concatenate([x, t, x * t], axis=1)).sum(axis=1)
    u_t = mj.jacobian(u, 2, batch_axis=(None, 0, 0))(p, x, t)[:, 0]
    u_xx = mj.hessian(u, 1, batch_axis=(None, 0, 0))(p, x, t)[:, 0, 0]
    return ((u_t - 0.1 * u_xx) ** 2).mean() + (u(p, x, 0.0 * t) ** 2).mean()


def test_a_training_step_through_derivatives():
    x, t = random(7, 1, seed=1), random(7, 1, seed=2)
    step = agrees(mj.value_and_grad(pinn_loss), (parameters(), x, t), (parameters(), t, x), rtol=1e-10)
    p = parameters()
    expected = parameters()
    for _ in range(5):
        value, gradient = step(p, x, t)
        truth, true_gradient = mj.value_and_grad(pinn_loss)(expected, x, t)
        same(value, truth, rtol=1e-9)
        for k in p:
            p[k] -= 0.05 * gradient[k]  # the parameters are updated in place
            expected[k] = expected[k] - 0.05 * true_gradient[k]
    assert step.cache_info().misses == 1


def test_compile_of_a_compiled_function():
    inner = mj.compile(net)
    outer = mj.compile(lambda x: inner(x) * 2.0)
    for x in (X, OTHER):
        same(outer(x), net(x) * 2.0)
    assert inner.cache_info().misses == 0  # it took part in the outer program
    agrees(mj.compile(mj.jacobian(net)), (X,), (OTHER,))


def test_transformations_of_a_compiled_function():
    compiled = mj.compile(net)
    same(compiled(X), net(X))
    for mode in MODES:
        same(mj.jacobian(compiled, mode=mode)(X), mj.jacobian(net, mode=mode)(X))
    same(mj.grad(lambda x: compiled(x).sum())(X), mj.grad(lambda x: net(x).sum())(X))
    same(mj.jacobian(mj.compile(mj.jacobian(net)))(X), mj.jacobian(mj.jacobian(net))(X))


def test_a_captured_value_of_another_transformation_is_followed():
    f = lambda w: mj.compile(lambda x: np.sin(x * w))(X)
    for x in (X, OTHER):
        same(mj.jacobian(f)(x), mj.jacobian(lambda w: np.sin(X * w))(x))
    agrees(lambda x: mj.compile(lambda y: y * x)(OTHER), (X,), (OTHER,))


# --- NaN, infinities, where -------------------------------------------------------------------------------------------


def test_branches_with_nan():
    f = lambda x: np.where(x > 0, np.log(x), np.sqrt(-x) * 2.0)
    g = lambda x: np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0)
    x = np.array([[-1.0, 2.0], [0.0, 0.0], [np.inf, np.nan]])
    for h in (f, g, mj.jacobian(f), mj.jacobian(g), mj.jacobian(f, mode="reverse"), mj.hessian(lambda x: g(x).sum(1))):
        agrees(h, (x[:2],), (-x[1:],), (x[::-1][:2],))


def test_a_condition_that_is_no_boolean():
    agrees(lambda x: np.where(x, 1.0 / x, x), (X,), (np.round(OTHER),))


# --- what may not be asked while recording ----------------------------------------------------------------------------


def decision(x: Any) -> Any:
    if x.sum() > 0:  # <- here
        return x
    return -x


def test_a_decision_names_its_line():
    for fn in (decision, mj.jacobian(decision), mj.grad(lambda x: decision(x).sum()), mj.hessian(decision)):
        with pytest.raises(mj.TraceError, match=r"np\.where") as caught:
            mj.compile(fn)(X)
        line = decision.__code__.co_firstlineno + 1
        assert f"test_compile.py:{line}" in str(caught.value)


LEAKS: dict[str, Any] = {
    "float": lambda x: float(x.sum()) * x,
    "int": lambda x: x * int(x.sum()),
    "item": lambda x: x * x[0, 0].item(),
    "tolist": lambda x: x * x.tolist()[0][0],
    "asarray": lambda x: np.asarray(x) * 2,
    "array": lambda x: np.array(x),
    "list of numbers": lambda x: np.array([x[0, 0], x[0, 1]]),
    "fill": lambda x: fill(np.zeros((B, 5)), x),
    "while": lambda x: loop(x),
    "and": lambda x: x if x.any() and x.all() else -x,
    "any": lambda x: x * bool(np.any(x > 0)),
    "max of two": lambda x: max(x[0, 0], x[0, 1]) * x,
    "index": lambda x: x[(x[:, 0] * 2).astype(int)],
    "mask": lambda x: x[x > 0],
    "argmax": lambda x: x[:, np.argmax(x, axis=1)],
    "nonzero": lambda x: x * len(np.nonzero(x)[0]),
    "unique": lambda x: np.unique(x),
    "count_nonzero": lambda x: x * np.count_nonzero(x),
    "allclose": lambda x: x * np.allclose(x, 0),
    "array_equal": lambda x: x * np.array_equal(x, X),
    "searchsorted": lambda x: x * np.searchsorted(np.arange(3.0), x),
    "argsort": lambda x: x * np.argsort(x, axis=1),
    "format": lambda x: x * float(f"{x.sum()}"),
    "str": lambda x: x * float(str(x[0, 0])),
    "range": lambda x: x * len(range(x[0, 0].astype(int))),
    "shape": lambda x: np.zeros(x[0, 0].astype(int)) + x,
    "python sum": lambda x: x * sum(map(float, x[0])),
    "stop_gradient": lambda x: x * float(mj.stop_gradient(x).sum()),
    "value attribute of an inner value": mj.jacobian(lambda x: x * float(mj.stop_gradient(x).sum())),
    "determinant's sign": lambda x: x * float(np.linalg.det(x[:, :3])),
    "memory": lambda x: x * memoryview(x)[0],
    "bytes": lambda x: x * len(bytes(x)),
    "buffer": lambda x: np.frombuffer(x),
    "copyto": lambda x: np.copyto(np.zeros((B, 5)), x),
    "out": lambda x: np.sin(x, out=np.zeros((B, 5))),
    "from iterable": lambda x: np.fromiter(x[0], float),
    "histogram": lambda x: x * np.histogram(x)[0].sum(),
    "hash": lambda x: {0.5: x}[x[0, 0]],
}


def fill(buffer: Any, x: Any) -> Any:
    buffer[:] = x
    return buffer


def loop(x: Any) -> Any:
    while x.max() > 0.1:
        x = x * 0.5
    return x


@pytest.mark.parametrize("name", LEAKS)
def test_nothing_is_frozen_in_silence(name):
    """Numbers that differ from call to call cannot leave the program: an error says so, or the result is right."""
    compiled = mj.compile(LEAKS[name])
    try:
        compiled(X)
    except (mj.MinijacError, TypeError, KeyError, ValueError):
        return
    same(compiled(OTHER), LEAKS[name](OTHER))


def test_an_array_written_after_its_use_raises():
    def f(x):
        buffer = np.zeros(5)
        y = x * buffer
        buffer[0] = 1.0
        return y + x * buffer

    for fn in (f, mj.jacobian(f)):
        with pytest.raises(mj.MutationError, match=r"test_compile\.py:\d+"):
            mj.compile(fn)(X)


def test_an_exception_in_the_function_leaves_nothing_open():
    broken = True

    def f(x):
        if broken:
            raise KeyError("mine")
        return np.sin(x)

    compiled = mj.compile(mj.jacobian(f))
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            compiled(X)
    assert compiled.cache_info().size == 0
    broken = False
    same(compiled(X), mj.jacobian(np.sin)(X))


def test_a_symbol_that_escapes_says_so():
    kept = []
    mj.compile(lambda x: (kept.append(x), x * 2.0)[1])(X)
    with pytest.raises(mj.TraceError):
        kept[0] + 1.0
    with pytest.raises(mj.TraceError):
        mj.compile(lambda x: x * kept[0])(X)


# --- signatures -------------------------------------------------------------------------------------------------------


def test_python_numbers_are_inputs():
    f = lambda x, a, n: x * a + a**2 * np.cos(a) * x - n
    agrees(f, (X, 2.0, 3), (X, -1.5, 7), (OTHER, 0.0, 0))
    agrees(mj.jacobian(f, batch_axis=(0, None, None)), (X, 2.0, 3), (X, -1.5, 7))
    agrees(mj.value_and_grad(lambda x, a: (x * a).sum(), (0, 1)), (X, 2.0), (OTHER, -1.0))
    agrees(lambda x, p: x**p, (abs(X), 2), (abs(X), 3))
    agrees(lambda x, p: x**p, (abs(X), 0.5), (abs(X), -1.5))
    agrees(mj.jacobian(lambda x, p: x**p, batch_axis=(0, None)), (abs(X), 2), (abs(X), 0))


SINGLE = X.astype(np.float32)
WEAK: dict[str, Any] = {
    "product": lambda x, a: x * a,
    "product of numbers first": lambda x, a: a * 2.0 * x,
    "power of a number": lambda x, a: x + a**2 / 3 - a // 2 + a % 2,
    "two numbers": lambda x, a: (a + a) * x,
    "negated": lambda x, a: x * -a + abs(a) * x + (+a),
    "reflected": lambda x, a: (1 - a) * x + (2.0 / a) * x + (2 ** (-1.0 * a)) * x,
    "where": lambda x, a: np.where(x > a, x, a),
    "where on a number": lambda x, a: np.where(a > 1.0, x, -x),
    "clip": lambda x, a: np.clip(x, -a, a),
    "maximum": lambda x, a: np.maximum(x, a),
    "comparison": lambda x, a: x < a,
    "a function of a number": lambda x, a: np.sin(a) * x,
    "an array of a number": lambda x, a: np.multiply(a, 2.0) * x,
    "a sum of a number": lambda x, a: np.sum(a) * x,
    "full of it": lambda x, a: np.stack([x[:, 0] * 0 + a, x[:, 1]]),
    "itself": lambda x, a: (a, x),
    "a number of it": lambda x, a: (a * 2, x * a),
    "sigmoid": lambda x, a: mj.nn.sigmoid(a) * x,
}


@pytest.mark.parametrize("name", WEAK)
@pytest.mark.parametrize("kind", [float, int, np.float64, np.float32])
def test_numbers_promote_as_numpy_has_it(name, kind):
    agrees(WEAK[name], (SINGLE, kind(2)), (2 * SINGLE, kind(3.5)), rtol=1e-6)


def test_constants_promote_as_numpy_has_it():
    for c in (2, 2.5, np.float32(2.5), np.float64(2.5), np.array(2.5), np.array(2), True):
        agrees(lambda x, c=c: x * c + np.maximum(x, c), (SINGLE,), (2 * SINGLE,))
        agrees(mj.jacobian(lambda x, c=c: np.sin(x * c)), (SINGLE,), (2 * SINGLE,))


def test_integer_constants_of_operations_that_want_integers():
    agrees(lambda x: np.ldexp(x, 2) + x**2 + np.maximum(x, 1) * 2, (SINGLE,), (2 * SINGLE,))


def test_padding_with_a_constant_for_each_side():
    agrees(lambda x: np.pad(x, ((0, 0), (1, 2)), constant_values=((0, 0), (1.0, 2.0))), (X,), (OTHER,))


def test_static_arguments():
    def f(x, flag, how, extra=None):
        return (x if flag else -x) * {"one": 1.0, "two": 2.0}[how] + (0 if extra is None else extra)

    compiled = mj.compile(f)
    for args in ((X, True, "one"), (X, False, "one"), (X, True, "two"), (X, True, "two", X)):
        for _ in range(2):
            same(compiled(*args), f(*args))
    same(compiled(X, flag=True, how="one"), f(X, True, "one"))
    assert compiled.cache_info().misses == 5
    with pytest.raises(mj.InputError, match="object"):
        compiled(X, object(), "one")


def test_true_and_one_are_different_arguments():
    f = lambda x, a: x * a
    agrees(f, (X, True), (X, 1), (X, 1.0), misses=3)


def test_changed_shapes_and_dtypes_record_again():
    f = mj.jacobian(lambda x: np.tanh(x @ np.ones((5, 2))))
    agrees(f, (X,), (X[:2],), (SINGLE,), (X,), (X[:2],), rtol=1e-5, misses=3)


def test_recording_happens_once():
    count = 0

    def f(x):
        nonlocal count
        count += 1
        return np.sin(x)

    compiled = mj.compile(mj.jacobian(f))
    for k in range(10):
        same(compiled(X + k), mj.jacobian(np.sin)(X + k))
    assert count == 1
    assert compiled.cache_info()[:3] == (9, 1, 1)


def test_later_calls_apply_no_operation(monkeypatch):
    compiled = mj.compile(mj.jacobian(net))
    compiled(X)
    expected = mj.jacobian(net)(OTHER)
    monkeypatch.setattr(Recorder, "__init__", None)
    monkeypatch.setattr(Traced, "__init__", None)
    same(compiled(OTHER), expected)


def test_the_cache_is_bounded():
    compiled = mj.compile(np.sin, maxsize=2)
    for n in (1, 2, 3, 3, 2, 1):
        same(compiled(np.ones(n)), np.sin(np.ones(n)))
    assert compiled.cache_info() == (2, 4, 2, 2)
    assert compiled.buffer_bytes() >= 0
    compiled.cache_clear()
    assert compiled.cache_info() == (0, 0, 0, 2)


def test_scalars_of_numpy_and_arrays_without_axes():
    f = lambda a, b: (a * b, np.sin(a), a, b)
    agrees(f, (np.float64(2.0), np.float64(3.0)), (np.float64(1.0), np.float64(4.0)))
    agrees(f, (np.array(2.0), np.float32(3.0)), (np.array(1.0), np.float32(4.0)))
    agrees(mj.grad(lambda a: a * a), (np.array(2.0),), (np.array(3.0),))
    agrees(mj.grad(lambda a: a * a), (2.0,), (3.0,))


# --- captured arrays ------------------------------------------------------------------------------------------------


def test_writes_to_captured_arrays_are_seen():
    W, b = random(5, 4, seed=1), random(4, seed=2)
    V = random(3, 4, seed=3).T  # a view that is not contiguous
    transposed = W.T
    functions = [
        lambda x: np.tanh(x @ W + b) @ V,
        lambda x: x @ W @ V,  # its Jacobian is a product of captured arrays alone
        lambda x: x @ transposed.T,
        lambda x: np.einsum("bi,ij->bj", x, W) * b,
        lambda x: x * W[:, 0] + W[0, :1],
        lambda x: x[:, :4] * b.reshape(2, 2).reshape(4),
        lambda x: x[:, :4] @ V * V.T.reshape(2, 6)[0, :1],
        lambda x: np.where(np.greater(W[:, 0], 0.0 * x), x, -x),
        lambda x: np.concatenate([x, np.broadcast_to(b, (x.shape[0], 4)) * x[:, :4]], axis=1),
    ]
    wrappers = [
        lambda f: f,
        *(partial(mj.jacobian, mode=mode) for mode in MODES),
        lambda f: mj.grad(lambda x: (f(x) ** 2).sum()),
        lambda f: mj.laplacian(lambda x: (f(x) ** 2).sum(1)),
    ]
    for k, f in enumerate(functions):
        for wrap in wrappers:
            g = wrap(f)
            compiled = mj.compile(g)
            for step in range(3):
                same(compiled(X), g(X), rtol=1e-10)
                W[...] = random(5, 4, seed=10 * k + step)
                b += 0.5
                V[0] = -V[0]
            assert compiled.cache_info().misses == 1


def test_what_is_computed_from_captured_values_alone_is_computed_once():
    W = np.ones(5)
    compiled = mj.compile(lambda x: x * (W + 1.0) + W[0] + np.where(W > 0, x, 0.0))
    same(compiled(X), 3.0 * X + 1.0)
    W[...] = -5.0
    same(compiled(X), 3.0 * X + 1.0)


def test_a_captured_array_that_is_returned_is_read_in_every_call():
    W = random(2, 2, seed=1)
    compiled = mj.compile(lambda x: (x, W, W.T))
    first = compiled(X)
    W[...] = 0.0
    second = compiled(X)
    assert not second[1].any()
    assert first[1].all()
    assert not np.shares_memory(second[1], W)


# --- results ----------------------------------------------------------------------------------------------------------

RESULTS: dict[str, Any] = {
    "input": lambda x: x,
    "views": lambda x: (x.T, x[:, ::-1], x.reshape(5, 3), x[0], np.broadcast_to(x, (2, 3, 5))),
    "twice": lambda x: (y := np.sin(x), y, y.T, y[1:], y),
    "view first": lambda x: (np.sin(x).T, np.sin(x)),
    "captured": lambda x: (CAPTURED, CAPTURED.T, CAPTURED @ x.T),
    "constants": lambda x: (1.0, 2, np.float32(3), True, np.ones(2), x, "text", None),
    "in use after": lambda x: (y := np.exp(x), y + 1, y * y, y.sum()),
    "jacobian": mj.jacobian(net),
    "value and jacobian": mj.value_and_jacobian(np.sin),
    "sparse": mj.jacobian(lambda x: x[:, 1:] * 2.0 - x[:, :-1]),
    "zero": mj.jacobian(lambda x: np.round(x)),
    "constant jacobian": mj.jacobian(lambda x: x * 3.0),
    "large": lambda x: np.sin(np.broadcast_to(x, (4000, 3, 5))),
    "large sparse": mj.jacobian(lambda x: np.sin(np.tile(x, (1, 60)))),
    "numbers": lambda x: (x.sum(), x[0, 0], x.mean(axis=0), x.sum() * 2),
    "comparison": lambda x: (x > 0, np.isnan(x)),
}
CAPTURED = random(5, 5, seed=9)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_new_contiguous_and_share_nothing(name):
    fn = RESULTS[name]
    compiled = mj.compile(fn)
    kept, copies = [], []
    inputs = [X + k for k in range(6)]
    for x in inputs:
        result = compiled(x)
        leaves = [y for y in optree.tree_leaves(result) if isinstance(y, np.ndarray)]
        for y in leaves:
            assert y.flags.c_contiguous
            assert y.flags.writeable
        kept.append(leaves)
        copies.append([y.copy() for y in leaves])
        same(result, fn(x)) if name != "views" else None
    every = [y for leaves in kept for y in leaves]
    for a, copy in zip(every, [y for leaves in copies for y in leaves], strict=True):
        np.testing.assert_array_equal(a, copy)
    for k, a in enumerate(every):
        others = [*every[k + 1 :], *inputs, CAPTURED]
        assert not any(np.shares_memory(a, other) for other in others)
    for a in every:  # writing to results disturbs nothing
        a[...] = 7
    same(optree.tree_leaves(compiled(X)), optree.tree_leaves(mj.compile(fn)(X)))


def test_memory_of_a_result_is_used_again_only_when_nothing_sees_it():
    compiled = mj.compile(lambda x: np.exp(x))
    x = random(100, 1000)
    view = compiled(x)[3:, ::2]
    reader = memoryview(compiled(x + 1.0))
    for k in range(4):
        compiled(x + k)
    np.testing.assert_array_equal(view, np.exp(x)[3:, ::2])
    np.testing.assert_array_equal(np.asarray(reader), np.exp(x + 1.0))


INPUTS = {
    "no samples": np.zeros((0, 5)),
    "one sample": X[:1],
    "Fortran order": np.asfortranarray(X),
    "reversed": X[::-1, ::-1],
    "strided": random(6, 10)[::2, ::2],
    "broadcast": np.broadcast_to(X[:1], (3, 5)),
    "one number": np.broadcast_to(0.5, (3, 5)),
    "transposed": random(5, 3).T,
    "unaligned": np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(np.float64).reshape(3, 5),
    "large strided": random(40, 1000)[::2, ::200],
}


@pytest.mark.parametrize("layout", INPUTS)
def test_inputs_of_any_layout(layout):
    x = INPUTS[layout]
    x = x.view()
    x.flags.writeable = False
    shapes = lambda x: (x.reshape(-1), x.T.reshape(-1), x.T @ x, x[:, 1:].reshape(-1), np.diagonal(x), np.ravel(x.T))
    for fn in (net, mj.jacobian(net), mj.jacobian(lambda x: np.sin(x).reshape(-1, 5) * x.T.T), shapes):
        compiled = mj.compile(fn)
        same(compiled(np.ascontiguousarray(x)), fn(x))  # recorded with one layout, replayed with another
        same(compiled(x), fn(x))
        same(mj.compile(fn)(x), fn(x))


def test_no_features():
    agrees(mj.jacobian(lambda x: x * 2.0), (np.zeros((3, 0)),), (np.zeros((3, 0)),))
    agrees(mj.jacobian(lambda x: x.sum(axis=1)), (np.zeros((3, 0)),), (np.zeros((0, 2)),), misses=2)


# --- threads, memory, text --------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other():
    compiled = mj.compile(mj.value_and_jacobian(net))
    xs = [random(64, 5, seed=k) for k in range(4)]
    expected = [mj.value_and_jacobian(net)(x) for x in xs]
    errors = []

    def work(k: int) -> None:
        try:
            for _ in range(50):
                same(compiled(xs[k]), expected[k])
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors, errors[0]
    assert compiled.cache_info().misses == 1


def test_nothing_of_the_first_call_is_kept():
    alive: list[Any] = []

    def f(x):
        large = np.exp(x) * 2.0
        alive.append(weakref.ref(large.value if isinstance(large.value, np.ndarray) else large.value.value))
        return np.sin(large)

    compiled = mj.compile(mj.jacobian(f))
    x = random(100, 50)
    reference = weakref.ref(x)
    gc.disable()
    try:
        result = compiled(x)
        del x
        assert alive[0]() is None
        assert reference() is None
    finally:
        gc.enable()
    kept = weakref.ref(compiled)
    del compiled, result
    gc.collect()
    assert kept() is None


def test_buffers_are_reported_and_reused():
    def f(x):
        for _ in range(20):
            x = np.sin(x) * 2.0 + np.cos(x)
        return x

    x = random(100, 100)
    compiled = mj.compile(f)
    assert compiled.buffer_bytes() == 0
    compiled(x)
    assert 0 < compiled.buffer_bytes() <= 5 * x.nbytes
    before = compiled.buffer_bytes()
    for _ in range(5):
        compiled(x)
    assert compiled.buffer_bytes() == before


SECRET = "__import__('os')"


def test_generated_text_holds_its_own_names_only():
    def f(x, data):
        return {SECRET: np.sin(x) * data[SECRET] * 1234.5, "b": (x @ W1234567)[..., None]}

    W1234567 = random(5, 2)
    compiled = mj.compile(f)
    data = {SECRET: X}
    compiled(X, data)
    source = executor(compiled).source
    assert "import" not in source
    assert "1234" not in source
    names = set(re.findall(r"[A-Za-z_]\w*", source))
    words = {"def", "run", "return", "empty", "take", "copyto"}
    assert all(re.fullmatch(r"[acrsv]\d+", name) for name in names - words), names - words


def test_programs_are_printed():
    compiled = mj.compile(mj.jacobian(net))
    text = str(compiled.program(X))
    assert compiled.cache_info().misses == 1
    assert "inputs: %0: float64[3, 5]" in text
    assert "captured:" in text
    assert "matmul" in text
    assert "outputs:" in text
    same(compiled(X), mj.jacobian(net)(X))
    assert compiled.cache_info().misses == 1


def interpreted(program: Any, inputs: list[Any]) -> list[Any]:
    """A program's outputs, one operation after the other; every value has the shape and dtype that it is said to have."""
    known = {n: value.content for n, value in enumerate(program.values) if value.kind in ("captured", "constant")}
    known |= dict(zip(program.inputs, inputs, strict=True))
    for step in program.instructions:
        y = step.op.value(*[known[n] for n in step.args], **step.params)
        assert (np.shape(y), y.dtype) == program.values[step.out][:2]
        known[step.out] = y
    return [known[n] for n in program.outputs]


@pytest.mark.parametrize("name", TRANSFORMED)
def test_every_pass_keeps_what_a_program_computes(name, monkeypatch):
    seen = []

    def watched(each: Any) -> Any:
        def run(program: Any) -> Any:
            after = each(program)
            seen.append(each.__name__)
            same(interpreted(after, [OTHER]), interpreted(program, [OTHER]), rtol=1e-10)
            return after

        return run

    monkeypatch.setattr(passes, "PASSES", tuple(map(watched, passes.PASSES)))
    mj.compile(TRANSFORMED[name])(X)
    assert len(seen) == len(passes.PASSES)


def test_an_invalid_program_is_refused():
    program = mj.compile(lambda x: np.sin(x) * 2.0).program(X)
    first, second = program.instructions
    for wrong in ((second, first), (first, first), (second,), (first,)):
        with pytest.raises(RuntimeError, match="invalid program"):
            program._replace(instructions=wrong).verify()


def test_products_are_computed_in_the_order_that_is_wanted():
    W, V = random(40, 50, seed=1), random(50, 30, seed=2)
    f = mj.jacobian(lambda x: np.tanh(x @ W) @ V)
    compiled = agrees(f, (random(20, 40, seed=3),), (random(20, 40, seed=4),))
    assert "copyto(r" not in executor(compiled).source  # the result is not copied once more
    for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        g = lambda x, axes=axes: (
            np.sin((np.exp(x).reshape(20, 40) @ W).reshape(4, 5, 50).transpose(axes)),
            np.sin((W.T @ np.exp(x).reshape(20, 40).T).reshape(50, 4, 5).transpose(axes)),
            np.sin((x[0] @ W).reshape(1, 5, 50).transpose(axes)),
        )
        agrees(g, (random(4, 5, 40, seed=1),), (random(4, 5, 40, seed=2),))


def test_the_function_keeps_its_name():
    assert mj.compile(net).__name__ == "net"
    assert mj.compile(net).__doc__ == net.__doc__
