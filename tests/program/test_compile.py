"""compile(fn) is fn: the same trees, dtypes and numbers, on the first call and on every later one."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import pytest
from compiled import OTHER, TRANSFORMED, B, X, agrees, same
from helpers import MODES, net, parameters, parametric_net, random

import minijac as mj
from minijac.program.record import Recorder
from minijac.tape.traced import Traced

# --- every transformation ---------------------------------------------------------------------------------------------


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


LARGE_INTEGERS = {
    "product": lambda x, k: x * k,
    "square": lambda x, k: x * (k * k),
    "sum, negated": lambda x, k: x * -(k + 1),
    "power": lambda x, k: x * k**3,
    "quotients": lambda x, k: x / k + x * (k // 3),
    "tanh": lambda x, k: np.tanh(x) * k,
    "where": lambda x, k: np.where(x > 0, k * x, x - abs(k)),
}


@pytest.mark.parametrize("name", LARGE_INTEGERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_integers_of_any_size_are_inputs(name, dtype):
    f, x = LARGE_INTEGERS[name], X.astype(dtype)
    calls = [(x, k) for k in (3, 2**40, 2**63, -(2**63), 2**70, 5)]
    for transformed in (f, mj.jacobian(f, batch_axis=(0, None)), mj.laplacian(f, batch_axis=(0, None))):
        agrees(transformed, *calls, rtol=1e-5)
        agrees(transformed, *calls[::-1], rtol=1e-5)


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


@pytest.mark.parametrize("maxsize", [0, -1, None, 2.0, True, "64"])
def test_a_cache_of_no_size_is_refused(maxsize):
    with pytest.raises(mj.InputError, match="maxsize: expected a positive int"):
        mj.compile(np.sin, maxsize=maxsize)


def test_what_is_no_function_is_refused():
    with pytest.raises(mj.InputError, match=r"expected a function, got numpy\.ndarray.*test_compile\.py"):
        mj.compile(net(X))


def test_captured_numbers_are_those_of_the_call():
    scale = 2.0
    compiled = mj.compile(lambda x: x * scale)
    same(compiled(X), 2.0 * X)
    scale = 3.0
    same(compiled(X), 3.0 * X)
    assert compiled.cache_info().misses == 2


def test_tensors_are_refused_with_what_to_write():
    torch = pytest.importorskip("torch")
    with pytest.raises(mj.InputError, match=r"got torch\.Tensor.*numpy\.from_dlpack"):
        mj.compile(net)(torch.ones(3, 5))


def test_scalars_of_numpy_and_arrays_without_axes():
    f = lambda a, b: (a * b, np.sin(a), a, b)
    agrees(f, (np.float64(2.0), np.float64(3.0)), (np.float64(1.0), np.float64(4.0)))
    agrees(f, (np.array(2.0), np.float32(3.0)), (np.array(1.0), np.float32(4.0)))
    agrees(mj.grad(lambda a: a * a), (np.array(2.0),), (np.array(3.0),))
    agrees(mj.grad(lambda a: a * a), (2.0,), (3.0,))


def test_generated_code_can_be_read():
    """Names of its own, and comments that say what is computed; nothing of the user's."""
    secret = np.full((3, 2), 12345.678)
    f = mj.compile(lambda x: np.tanh(x @ secret) * 0.123456789)
    x = np.ones((4, 3))
    assert "tile" not in f.source(x)
    f(x)
    text = f.source(x)
    assert text.startswith("# NumPy's calls; ") and "\ndef run(a0):\n" in text
    assert "# %2 = matmul(%0, %1)" in text
    assert "tanh" in text
    assert not any(word in text for word in ("12345", "0.123", "secret", "lambda"))


def test_compile_keeps_the_sign_of_zero():
    g = mj.compile(lambda x: 1.0 / (x + 0.0))
    for _ in range(2):
        assert g(np.array([-0.0]))[0] == np.inf


@pytest.mark.parametrize("transform", [mj.jacobian, lambda f: mj.hessian(lambda x: f(x).sum(-1))])
def test_a_transformation_of_a_compiled_function_compiled(transform):
    x = np.linspace(0, 1, 18).reshape(6, 3)
    f = transform(mj.compile(lambda x: np.tanh(x) * x))
    same(mj.compile(f)(x), f(x), rtol=1e-12)


def test_a_callable_with_attributes_of_the_same_names():
    class Net:
        def __init__(self):
            self._fn = np.cos

        def __call__(self, x):
            return np.sin(self._fn(x))

    x = np.ones(3)
    same(mj.compile(Net())(x), np.sin(np.cos(x)), rtol=1e-15)
    assert mj.compile(mj.compile(np.sin), maxsize=2).cache_info().maxsize == 2


@pytest.mark.parametrize("swapped", [False, True])
def test_products_of_two_dtypes_are_those_of_the_wider(swapped):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(8, 8)), rng.normal(size=(64, 8, 8))
    w, x = (w.astype(np.float32), x) if swapped else (w, x.astype(np.float32))
    f = lambda x: np.swapaxes(w @ x, 1, 2) * 1.5
    same(mj.compile(f)(x), f(x), rtol=1e-14)


def test_complex_constants_promote():
    for f in (lambda x: x * (1 + 0j), lambda x: (x + 1j) * (1 + 0j), lambda x: (x - 0j) / (1 + 0j)):
        x = np.arange(3.0)
        same(mj.compile(f)(x), f(x))


def test_signs_of_zero():
    x = np.array([-0.0, 0.0])
    for f in (lambda x: x - (-0.0), lambda x: x - 0.0, lambda x: (np.pad(x, 1), np.pad(x, 1, constant_values=-0.0))):
        for found, expected in zip(np.atleast_2d(mj.compile(f)(x)), np.atleast_2d(f(x)), strict=True):
            np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("array", [np.ma.array([1.0, 2.0], mask=[0, 1])])
def test_arrays_with_other_operations_are_refused(array):
    with pytest.raises(mj.InputError, match="plain arrays as arguments, got"):
        mj.compile(lambda x: x.sum())(array)
