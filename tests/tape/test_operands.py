"""What meets a traced value is numbers in plain arrays: everything else raises, by whatever way it comes."""

from __future__ import annotations

import decimal
import fractions
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minijac as mj

X = np.array([[2.0, 3.0], [1.0, 4.0]])
MASKED = np.ma.array([1.0, 2.0], mask=[0, 1])

FOREIGN: dict[str, Callable[[Any], Any]] = {
    "complex256": lambda x: x * np.clongdouble(1j),
    "longdouble": lambda x: x * np.longdouble(2),
    "astype longdouble": lambda x: x.astype(np.longdouble),
    "float16": lambda x: x * np.ones(2, np.float16),
    "astype float16": lambda x: x.astype(np.float16),
    "dtype=float16": lambda x: np.mean(x, 1, dtype=np.float16),
    "an object array": lambda x: x * np.array([1.0, decimal.Decimal(2)], dtype=object),
    "a Decimal": lambda x: x * decimal.Decimal(2),
    "a Fraction": lambda x: x * fractions.Fraction(1, 2),
    "masked": lambda x: x * MASKED,
    "masked on the left": lambda x: MASKED * x,
    "a matrix": lambda x: x * np.matrix([[1.0, 2.0], [3.0, 4.0]]),
    "a matrix on the left": lambda x: np.matrix([[1.0, 2.0], [3.0, 4.0]]) * x,
    "timedelta": lambda x: x * np.timedelta64(2, "s"),
    "structured": lambda x: x * np.zeros(2, dtype=[("a", float)]),
    "text": lambda x: x * np.array(["1", "2"]),
}


def _written(value: Any, write: Callable[[Any, Any], None]) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        y = x.copy()
        write(y, value)
        return y

    return f


_WRITES: dict[str, Callable[[Any, Any], None]] = {
    "written": lambda y, value: y.__setitem__(slice(1), value),
    "written at positions": lambda y, value: y.__setitem__([0], value),
    "put": lambda y, value: np.put(y, [0], value),
    "placed": lambda y, value: np.place(y, np.array([[True, False], [False, False]]), value),
    "added at positions": lambda y, value: np.add.at(y, (slice(None), 0), value),
}
_VALUES = {
    "longdouble": np.longdouble(2),
    "float16": np.float16(2),
    "masked": MASKED[:1],
    "a matrix": np.matrix([[1.0]]),
    "a date": np.datetime64("2020", "s"),
    "structured": np.zeros(1, dtype=[("a", float)]),
    "an object array": np.array([decimal.Decimal(2)]),
}
FOREIGN |= {
    f"{name}, {how}": _written(value, write) for name, value in _VALUES.items() for how, write in _WRITES.items()
}
FOREIGN |= {f"filled, {name}": lambda x, value=value: np.full_like(x, value) * x for name, value in _VALUES.items()}
WAYS: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "jacobian": lambda f: mj.jacobian(f, batch_axis=None),
    "jvp": lambda f: lambda x: mj.jvp(f, (x,), (x,)),
    "vjp": lambda f: lambda x: mj.vjp(f, x)[1](x),
    "laplacian": lambda f: mj.laplacian(f, batch_axis=None),
    "compile": mj.compile,
    "compiled": lambda f: mj.compile(mj.jacobian(f, batch_axis=None)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("f", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nothing_but_numbers_in_plain_arrays_meets_a_traced_value(f, way, dtype):
    with pytest.raises(mj.MinijacError):
        way(f)(X.astype(dtype))


pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
ARGUMENTS = [MASKED, np.matrix([[1.0, 2.0]]), np.ones(2, object), np.ones(2, np.float16), decimal.Decimal(2)]


@pytest.mark.parametrize(
    "bad", ARGUMENTS, ids=[type(bad).__name__ + str(getattr(bad, "dtype", "")) for bad in ARGUMENTS]
)
def test_arguments_tangents_and_cotangents_are_checked_alike(bad):
    one = np.ones(2)
    for way in WAYS.values():
        with pytest.raises(mj.MinijacError):
            way(lambda x: x * 2)(bad)
    for call in (
        lambda: mj.vjp(np.sin, one)[1](bad),
        lambda: mj.jvp(np.sin, (one,), (bad,)),
        lambda: mj.jacobian(lambda x, c: x * c, batch_axis=None)(one, bad),
        lambda: mj.compile(lambda x, c: x * c)(one, bad),
    ):
        with pytest.raises(mj.MinijacError):
            call()


@pytest.mark.parametrize(
    "f, words",
    [
        (FOREIGN["float16"], "float16.*Cast it"),
        (FOREIGN["masked"], "masked array.*mask"),
        (FOREIGN["a matrix"], "np.asarray"),
        (FOREIGN["an object array"], "object.*astype"),
    ],
)
def test_the_error_says_what_came_and_what_to_do(f, words):
    with pytest.raises(mj.InputError, match=words):
        mj.jacobian(f, batch_axis=None)(X)


def test_a_memory_map_is_a_plain_array(tmp_path):
    weights = np.memmap(tmp_path / "w", dtype=np.float64, mode="w+", shape=(2,))
    weights[:] = (2.0, 3.0)
    assert np.array_equal(mj.jacobian(lambda x: x * weights)(X)[0], np.diag([2.0, 3.0]))
