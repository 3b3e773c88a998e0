"""Integer arguments that NumPy or Python look something plain up by: right, and one more program for each content."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minijac as mj

TABLE = np.linspace(0.5, 1.5, 12).reshape(6, 2)
ITEMS = [2.0, 3.0, 5.0]
FLAGS = [False, True]

LOOKED_UP: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "table[t]": (lambda x, t: x**2 * TABLE[t], [np.array([1, 4, 0]), np.array([5, 5, 2]), np.array([-1, 0, 1])]),
    "np.take": (lambda x, t: x**2 * np.take(TABLE, t, axis=0), [np.array([1, 4, 0]), np.array([5, 5, 2])]),
    "computed": (lambda x, t: x**2 * TABLE[(2 * t + 1) % 6], [np.array([1, 4, 0]), np.array([5, 5, 2])]),
    "one": (lambda x, n: x**2 * TABLE[n], [1, 4, 0]),
    "rows and columns": (lambda x, t: x**2 * TABLE[t[0], t[1]], [np.array([[1], [0]]), np.array([[5], [1]])]),
    "a list": (lambda x, n: x**2 * ITEMS[n], [1, 2, 0]),
    "range": (lambda x, n: sum(x**k for k in range(n)) + x, [1, 3, 2]),
    "slice": (lambda x, n: x * np.sum(TABLE[:n]), [1, 3, 2]),
    "slice of what is followed": (lambda x, n: np.cumsum(x, 1)[:, n:] ** 2, [1, 0, -1]),
    "strides": (lambda x, t: (x**2 * 1.0)[:, t[0] : t[1] : t[2]], [np.array([0, 2, 1]), np.array([1, -3, -1])]),
    "axis": (lambda x, n: (x[:, :, None] * x[:, None] ** 2).sum(axis=n), [1, 2, -1]),
    "length": (lambda x, n: mj.scan(lambda c, _: (np.sin(c) + x, None), x, None, length=n)[0], [1, 3, 2]),
    "a list so many times": (lambda x, n: np.concatenate([x**2] * n + n * [x], 1), [1, 3, 2]),
    "a tuple so many times": (lambda x, n: sum((x, x**2) * n) * len("ab" * n), [1, 3, 2]),
    "mask": (lambda x, m: x**2 * TABLE[m].sum(), [np.arange(6) > 2, np.arange(6) % 2 == 0]),
    "in steps": (
        lambda x, t: mj.scan(lambda c, t: (np.sin(c) * TABLE[t].astype(c.dtype), c), x, t)[0],
        [np.arange(30).reshape(10, 3) % 6, np.arange(30).reshape(10, 3) % 5],
    ),
    "in a loop": (
        lambda x, t: np.stack([x[:, 0] * TABLE[t[:, k], 0] for k in range(4)], 1).cumsum(1),
        [np.arange(12).reshape(3, 4) % 6, np.arange(12).reshape(3, 4) % 5],
    ),
}


def of_all(f: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {
        "value": f,
        "forward": mj.jacobian(f, mode="forward", batch_axis=(0, None)),
        "reverse": mj.jacobian(f, mode="reverse", batch_axis=(0, None)),
        "hessian": mj.hessian(lambda x, t: (f(x, t) ** 2).sum(-1), batch_axis=(0, None)),
        "grad": mj.grad(lambda x, t: np.sin(f(x, t)).sum()),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOOKED_UP)
def test_what_integer_arguments_look_up_is_right_for_all_of_their_contents(name: str, dtype: Any) -> None:
    f, contents = LOOKED_UP[name]
    x = np.random.default_rng(0).normal(size=(3, 2)).astype(dtype)
    for kind, transformed in of_all(f).items():
        compiled = mj.compile(transformed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for t in [*contents, *contents]:
                expected = transformed(x, t)
                got = compiled(x, t)
                assert got.dtype == expected.dtype, kind
                np.testing.assert_allclose(got, expected, rtol=1e-5 if dtype is np.float32 else 1e-12, err_msg=kind)
        assert compiled.cache_info().misses == compiled.cache_info().hits == len(contents), kind


def test_samples_of_positions_are_those_of_the_jacobian() -> None:
    f = lambda x, t: x**2 * TABLE[t]
    x, t = np.random.default_rng(0).normal(size=(3, 2)), np.array([1, 4, 0])
    for mode in ("forward", "reverse", "mixed"):
        J = mj.compile(mj.jacobian(f, mode=mode))(x, t)
        np.testing.assert_allclose(J, np.eye(2) * (2 * x * TABLE[t])[:, :, None], rtol=1e-14)


def test_the_second_program_is_warned_of_once_at_the_line_that_reads() -> None:
    compiled = mj.compile(lambda x, t: x * TABLE[t])
    x = np.ones((3, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(x, np.array([0, 1, 2]))
        compiled(2 * x, np.array([0, 1, 2]))
        compiled(x[:2], np.array([0, 1]))
    with pytest.warns(RuntimeWarning, match=r"reads the numbers .* at \S*test_chosen\.py:\d+, .*minijac\.numpy\.take"):
        compiled(x, np.array([0, 1, 3]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(x, np.array([0, 1, 4]))


def test_arguments_that_some_contents_alone_ask_for_join_the_signature() -> None:
    """What is read in the second program only is part of the signature from then on."""

    compiled = mj.compile(lambda x, n, k: x * (ITEMS[k] if FLAGS[n] else 7.0))
    x = np.ones((2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for n, k in [(0, 0), (0, 1), (1, 0), (1, 2), (0, 2), (1, 1), (1, 0)]:
            np.testing.assert_array_equal(compiled(x, n, k), x * (ITEMS[k] if FLAGS[n] else 7.0))


def test_captured_positions_beside_those_of_arguments_are_seen_when_they_are_others() -> None:
    beside = np.array([0, 1, 1])
    compiled = mj.compile(lambda x, t: x * TABLE[t + beside])
    x, t = np.ones((3, 2)), np.array([1, 4, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(compiled(x, t), TABLE[t + beside])
        beside[0] = 2
        np.testing.assert_array_equal(compiled(x, t), TABLE[t + beside])
        beside = np.array([1, 1, 0])
        np.testing.assert_array_equal(compiled(x, t), TABLE[t + beside])
        np.testing.assert_array_equal(compiled(x, t), TABLE[t + beside])
        beside[0] = 0
        np.testing.assert_array_equal(compiled(x, t), TABLE[t + beside])


def test_no_more_signatures_are_kept_in_mind_than_programs() -> None:
    compiled = mj.compile(lambda x, t: x * TABLE[t], maxsize=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for n in (1, 2, 3, 4, 1, 4):
            np.testing.assert_array_equal(compiled(np.ones((n, 2)), np.arange(n)), TABLE[:n])
    assert len(compiled._chosen) == compiled.cache_info().size == 2


def test_programs_for_the_numbers_of_different_arguments_are_told_apart() -> None:
    """Also where what a signature asks for was forgotten in between, and another argument was asked for then."""
    f = lambda x, n, k, m: x * (ITEMS[k] if FLAGS[n] else ITEMS[m])
    compiled = mj.compile(f, maxsize=3)
    calls = [(1, 1, 0, 0), (2, 1, 0, 0), (3, 1, 0, 0), (1, 1, 2, 0), (4, 1, 0, 0), (1, 0, 0, 1), (1, 1, 1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for size, *numbers in calls:
            x = np.ones((size, 2))
            np.testing.assert_array_equal(compiled(x, *numbers), f(x, *numbers))


def test_what_other_arguments_decide_is_refused() -> None:
    x = np.ones((3, 2))
    refused: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "positions of numbers": (lambda x: x * TABLE[np.argmax(x, 1)], (x,)),
        "a decision": (lambda x, n: x * (3 if n > 1 else 2), (x, 1)),
        "a number": (lambda x, n: x * int(n), (x, 1)),
        "a key": (lambda x, n: x * {0: 2.0, 1: 3.0}.get(n, 1.0), (x, 1)),
        "an element": (lambda x, n: x * (3.0 if n in {0, 1} else 1.0), (x, 1)),
        "a table beside picked rows": (lambda x, m: mj.numpy.put(x, m, x[m] * TABLE[:3][m]), (x, np.arange(3) > 0)),
    }
    for name, (f, args) in refused.items():
        with pytest.raises(mj.TraceError, match=r"test_chosen\.py:\d+"):
            pytest.fail(f"{name}: {mj.compile(f)(*args)}")
