"""How a function of NumPy is checked on traced values: one table entry, all properties.

The function is given twice the same way: as NumPy on plain arrays it is the truth about values, and by central
differences about derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import close

import minijac as mj

B = 3
ENDS = ("forward", "reverse")


class Case(NamedTuple):
    """A function of batched arrays, the shapes of one sample's inputs, and where they lie."""

    f: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = ((4,),)
    low: float = -2.0
    high: float = 2.0
    second: bool = False
    """Whether second derivatives are checked too."""
    loop: bool = True
    """Whether the function takes any number of samples."""
    axis: int | None = 0
    """The batch axis, or None: then the shapes are those of whole inputs, and the Jacobian is the ordinary one."""
    points: Any = None
    """The inputs themselves, where random ones will not do."""

    def inputs(self) -> list[np.ndarray]:
        if self.points is not None:
            return [np.array(x, float) for x in self.points]
        rng = np.random.default_rng(len(self.shapes))
        lead = () if self.axis is None else (B,)
        return [rng.uniform(self.low, self.high, (*lead, *shape)) for shape in self.shapes]


def one(f: Callable[..., Any], *shape: int, **options: Any) -> Case:
    """A case of one input, of the shape of one sample's."""
    return Case(f, (shape,), **options)


def cases(table: dict[str, Case]) -> Any:
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


def leaves(result: Any) -> list[Any]:
    return [y for part in result for y in leaves(part)] if isinstance(result, list | tuple) else [result]


def whole(f: Callable[..., Any], *shape: int, **options: Any) -> Case:
    """A case of one input without samples."""
    return Case(f, (shape,), axis=None, **options)


def differences(f: Callable[..., Any], xs: list[np.ndarray], k: int, lead: int, h: float = 1e-5) -> list[np.ndarray]:
    """Central differences of each output in each feature of input k, all samples at once: (B, *out, *in).

    `lead` is the number of axes that hold samples.
    """
    x = xs[k]
    columns: list[list[np.ndarray]] = []
    for position in np.ndindex(x.shape[lead:]):
        step = np.zeros_like(x)
        step[(slice(None),) * lead + position] = h
        above, below = (leaves(f(*xs[:k], x + sign * step, *xs[k + 1 :])) for sign in (1, -1))
        columns.append([(a - b) / (2 * h) for a, b in zip(above, below, strict=True)])
    return [np.stack(c, -1).reshape(*c[0].shape, *x.shape[lead:]) for c in zip(*columns, strict=True)]


def check_value(case: Case) -> None:
    """The value on traced inputs is NumPy's on plain ones, with its dtype and shape."""
    for dtype in (np.float64, np.float32):
        xs = [x.astype(dtype) for x in case.inputs()]
        expected = leaves(case.f(*xs))
        seen = leaves(mj.value_and_jacobian(lambda *xs: list(leaves(case.f(*xs))), batch_axis=case.axis)(*xs)[0])
        assert len(seen) == len(expected)
        for y, truth in zip(seen, expected, strict=True):
            assert y.dtype == truth.dtype
            close(y, truth, rtol=1e-12 if dtype == np.float64 else 1e-4, atol=1e-12 if dtype == np.float64 else 1e-4)


def check_jacobian(case: Case) -> None:
    """From either end, the Jacobian is what central differences say, and each sample's is the one it has alone."""
    xs = case.inputs()
    f = lambda *xs: list(leaves(case.f(*xs)))
    for k in range(len(xs)):
        truth = differences(case.f, xs, k, int(case.axis is not None))
        found = {mode: mj.jacobian(f, k, batch_axis=case.axis, mode=mode)(*xs) for mode in ENDS}
        for forward, reverse, expected in zip(*found.values(), truth, strict=True):
            close(forward, reverse, rtol=1e-10, atol=1e-12)
            close(reverse, expected, rtol=1e-5, atol=1e-6)
        for i in range(B) if case.loop and case.axis == 0 else ():
            alone = mj.jacobian(f, k)(*(x[i : i + 1] for x in xs))
            for J, mine in zip(found["reverse"], alone, strict=True):
                close(mine, J[i : i + 1], rtol=1e-10, atol=1e-12)


def check_second(case: Case) -> None:
    """Jacobians of Jacobians, from all ends, are what central differences of Jacobians say."""
    xs = case.inputs()
    f = lambda *xs: list(leaves(case.f(*xs)))
    for j, k in product(range(len(xs)), repeat=2):
        jacobian = lambda f, k, mode="auto": mj.jacobian(f, k, batch_axis=case.axis, mode=mode)
        truth = differences(jacobian(f, j), xs, k, int(case.axis is not None))
        for inner, outer in product(ENDS, repeat=2):
            H = jacobian(jacobian(f, j, inner), k, outer)(*xs)
            for found, expected in zip(H, truth, strict=True):
                close(found, expected, rtol=1e-4, atol=1e-5)


def check(case: Case) -> None:
    with np.errstate(all="ignore"):
        check_value(case)
        check_jacobian(case)
        if case.second:
            check_second(case)


def check_mixes(f: Callable[[Any], Any], *shape: int) -> None:
    """What makes one sample depend on another raises, from both ends."""
    x = np.random.default_rng(0).uniform(0.5, 1.5, (B, *shape))
    for mode in ENDS:
        with pytest.raises(mj.BatchMixingError):
            mj.jacobian(lambda x: list(leaves(f(x))), mode=mode)(x)


def derivative_at(f: Callable[..., Any], *points: Any, order: int = 1) -> list[np.ndarray]:
    """The derivative of an elementwise function in its first argument, by all orders of accumulation."""
    xs = [np.array(x, float) for x in points]
    found = []
    for modes in product(ENDS, repeat=order):
        g = f
        for mode in modes:
            g = mj.jacobian(g, mode=mode)
        with np.errstate(all="ignore"):
            found.append(g(*xs))
    return found
