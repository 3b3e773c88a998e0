"""adapt: code for plain NumPy runs on traced values as it stands, and stays as it was."""

from __future__ import annotations

import cmath
import math
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import close

import minijac as mj

sys.path.insert(0, str(Path(__file__).parent))
import user_code

Q = np.array([0.3, 0.7])
X = np.random.default_rng(0).uniform(0.2, 1.0, (4, 3))


def differences(f, x, h=1e-6):
    columns = [(f(x + step) - f(x - step)) / (2 * h) for step in (h * np.eye(x.size)).reshape(-1, *x.shape)]
    return np.stack(columns, -1)


ALONE = ["arm", "turned", "joined", "norms", "simulated", "scaled", "in_lists", "series", "by_kind", "as_numbers"]


@pytest.mark.parametrize("name", ALONE)
def test_functions_of_one_sample_run_as_they_are_written(name):
    f = getattr(user_code, name)
    truth = differences(f, Q)
    for mode in ("forward", "reverse"):
        J = mj.jacobian(mj.adapt(f), batch_axis=None, mode=mode)
        close(J(Q), truth, 1e-7, 1e-8)
        close(mj.compile(J)(Q), truth, 1e-7, 1e-8)
    close(mj.adapt(f)(Q), f(Q), 1e-15)
    assert type(mj.adapt(f)(Q)) is type(f(Q))


@pytest.mark.parametrize("name", ["weighted", "columns"])
def test_functions_of_a_batch_run_as_they_are_written(name):
    f = getattr(user_code, name)
    g = mj.adapt(f)
    J = mj.jacobian(g)(X)
    truth = differences(f, X).reshape(4, -1, 4, 3)
    close(J, np.einsum("bibj->bij", truth), 1e-7, 1e-8)
    close(mj.compile(mj.jacobian(g))(X), J)
    close(g(X), f(X), 1e-15)


def test_over_a_batch_by_vmap():
    f = mj.vmap(mj.adapt(user_code.arm))
    x = np.random.default_rng(1).normal(size=(5, 2))
    J = mj.jacobian(f)(x)
    for one, found in zip(x, J, strict=True):
        close(found, differences(user_code.arm, one), 1e-7, 1e-8)


def test_the_original_is_untouched():
    before = dict(vars(user_code))
    adapted = mj.adapt(user_code.simulated)
    mj.jacobian(adapted, batch_axis=None)(Q)
    assert vars(user_code).keys() == before.keys()
    assert all(vars(user_code)[key] is value for key, value in before.items())
    assert user_code.np is np and user_code.math is math and math.sin.__module__ == "math"
    with pytest.raises(mj.ConversionError):
        mj.jacobian(user_code.simulated, batch_axis=None)(Q)
    assert adapted.__name__ == "simulated" and adapted.__wrapped__ is user_code.simulated


def test_a_decorator_a_class_a_method_an_object_a_module():
    @mj.adapt
    def f(q):
        y = np.zeros(2)
        y[0] = math.sin(q[0])
        return y

    close(mj.jacobian(f, batch_axis=None)(Q), [[math.cos(0.3), 0.0], [0.0, 0.0]])
    truth = differences(lambda s: user_code.MODEL.step(s, 0.1), Q)
    for step in (
        mj.adapt(user_code.Damped)(2.0, 3.0).step,
        mj.adapt(user_code.MODEL.step),
        mj.adapt(user_code.MODEL).step,
        mj.adapt(user_code).MODEL.step,
    ):
        close(mj.jacobian(lambda s, step=step: step(s, 0.1), batch_axis=None)(Q), truth, 1e-7, 1e-8)
    assert isinstance(user_code.MODEL, user_code.Damped)


def test_globals_are_read_when_they_are_used(monkeypatch):
    f = mj.adapt(user_code.scaled)
    J = mj.jacobian(f, batch_axis=None)
    assert J(Q)[0, 0] == 1.0
    monkeypatch.setattr(user_code, "SCALE", 5.0)
    assert J(Q)[0, 0] == 5.0


def test_closures_share_what_they_write():
    counted, calls = user_code.with_state()
    f = mj.adapt(counted)
    counted(Q)
    assert mj.jacobian(f, batch_axis=None)(Q)[0, 0] == 2.0
    assert calls() == 2


def test_errors_name_the_users_line():
    def f(q):
        return np.array([math.factorial(q[0]), 1.0])  # <- here

    with pytest.raises(mj.ConversionError, match=r"test_adapting\.py"):
        mj.jacobian(mj.adapt(f), batch_axis=None)(Q)


def test_what_has_no_code_is_refused():
    for thing in (len, 3.0, np.sin, np.ones(3)):
        with pytest.raises(mj.InputError, match="adapt"):
            mj.adapt(thing)


def test_threads_do_not_disturb_each_other():
    truth = differences(user_code.simulated, Q)
    for _ in range(5):
        f = mj.adapt(user_code.simulated)
        together = threading.Barrier(4)

        def work(_, f=f, together=together):
            together.wait()
            close(mj.jacobian(f, batch_axis=None)(Q), truth, 1e-6, 1e-7)
            assert type(user_code.simulated(Q)) is np.ndarray

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))


def test_math_is_pythons_on_plain_numbers():
    twin = mj.adapt(user_code).math
    assert twin.pi == math.pi and twin.sin(1.0) == math.sin(1.0) and type(twin.sqrt(4)) is float
    assert twin.factorial(5) == 120 and math.isclose(twin.log(8, 2), 3.0)
    for name in ("sin", "log", "lgamma", "erf", "atan", "pow", "hypot"):
        args = (0.7, 1.3)[: 2 if name in ("pow", "hypot") else 1]
        J = mj.jacobian(lambda x, name=name, rest=args[1:]: getattr(twin, name)(x, *rest), batch_axis=None)
        h = 1e-6
        slope = (getattr(math, name)(args[0] + h, *args[1:]) - getattr(math, name)(args[0] - h, *args[1:])) / (2 * h)
        close(J(np.array(args[0])), slope, 1e-7)


def polar(x):
    z = cmath.rect(x[0], x[1]) + cmath.exp(1j * x[1]) * complex(x[0], 2.0) + cmath.sqrt(-x[0])
    buffer = np.zeros((2, 2), dtype=complex)
    buffer[0] = np.array([z, 1j * x[1]])
    buffer[1, 0] = z.conjugate() * cmath.phase(z)
    return buffer @ np.array([1.0, 1j])


def test_what_depends_on_values_runs_eager_and_is_refused_compiled():
    J = mj.jacobian(mj.adapt(user_code.trimmed), batch_axis=None)
    close(J(Q), differences(user_code.trimmed, Q), 1e-7, 1e-8)
    with pytest.raises(mj.TraceError, match="differ from call to call"):
        mj.compile(J)(Q)


def test_lists_are_looked_at_as_arrays():
    """What asks about them answers as NumPy does, and a ufunc keeps what it has beside its call."""

    def f(q):
        same = np.array_equal([q[0], q[1]], [q[0], q[1]]), np.array_equal((q[0], q[1]), [q[1], q[0]])
        return q * (1.0 if same == (True, False) else np.nan) * np.add.identity + np.sin.nin - 1

    close(mj.jacobian(mj.adapt(f), batch_axis=None)(Q), np.zeros((2, 2)))


def test_results_are_written_where_out_says():
    def f(q):
        total, whole, rest = np.zeros_like(q), np.zeros_like(q), np.zeros_like(q)
        np.add(q, [q[1], q[0]], out=(total,))
        np.divmod(q, 0.29, out=(whole, rest))
        np.multiply.reduce([q, q], axis=0, out=rest[:])
        return np.concatenate([total, whole, rest, [np.max(deque([q[0], q[1]]))]])

    close(mj.jacobian(mj.adapt(f), batch_axis=None)(Q), differences(f, Q), 1e-7, 1e-8)


def test_traced_values_are_arrays_to_isinstance():
    def f(x):
        kinds = isinstance(x, np.ndarray), isinstance(x[0], np.ndarray), isinstance(3.0, np.ndarray)
        return x * (kinds == (True, False, False)), np.ndarray((2,), float).shape, issubclass(np.ndarray, np.ndarray)

    y, shape, itself = mj.adapt(f)(Q)
    assert shape == (2,) and itself
    close(mj.jacobian(mj.adapt(lambda x: f(x)[0]), batch_axis=None)(Q), np.eye(2))
    close(y, Q)


def test_complex_numbers_as_they_are_written():
    x = np.array([0.7, 0.4])
    y, J = mj.value_and_jacobian(mj.adapt(polar), batch_axis=None)(x)
    close(y, polar(x))
    for k, e in enumerate(1e-6 * np.eye(2)):
        close(J[:, k], (polar(x + e) - polar(x - e)) / 2e-6, rtol=1e-7, atol=1e-7)
    assert isinstance(mj.adapt(lambda: complex)()(1, 2), complex)
    with pytest.raises(TypeError, match=r"float\(z\)"):
        mj.jacobian(mj.adapt(lambda x: float(x[0] * 1j) * x), batch_axis=None)(x)


def saturated(x):
    u = max(min(3.0 * x[0], 1.0), -1.0)
    return np.array([u * x[1], max(x), min([x[0], x[1], 0.4]), max(u * u, 0.1)])


def test_the_largest_of_numbers_is_another_in_each_sample_and_in_each_call():
    f = mj.adapt(saturated)
    points = np.array([[0.2, 0.7], [0.6, 0.1], [-0.9, -0.4]])
    expected = [differences(saturated, x) for x in points]
    close(mj.jacobian(mj.vmap(f))(points), np.stack(expected), 1e-7, 1e-8)
    compiled = mj.compile(mj.jacobian(f, batch_axis=None))
    for x, J in zip(points, expected, strict=True):
        close(mj.jacobian(f, batch_axis=None)(x), J, 1e-7, 1e-8)
        close(compiled(x), J, 1e-7, 1e-8)
        close(f(x), saturated(x), 0.0)


def test_the_largest_of_what_is_not_traced_is_pythons():
    f = mj.adapt(lambda x: x * max("ab", key=ord).count("b") * max((2, 1)) * max([], default=3) + min(x.shape))
    close(mj.jacobian(f, batch_axis=None)(Q), 6.0 * np.eye(2))
