"""Random programs of complex numbers, run on NumPy's arrays and on tensors: every way to a Jacobian against torch.

``python tests/support/complex_programs.py 1000 7`` runs 1000 programs from seed 7, and prints each that fails.
"""

from __future__ import annotations

import random
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

import minijac as mj

B = 3
MODES = ("forward", "reverse", "mixed", "auto")
LARGEST = 40

ONE: dict[str, Callable[[Any, Any], Any]] = {
    "conj": lambda xp, z: xp.conj(z),
    "turned": lambda xp, z: 1j * z,
    "scaled": lambda xp, z: z * (0.5 - 0.3j),
    "shifted": lambda xp, z: z + (1 - 2j),
    "sin": lambda xp, z: xp.sin(0.3 * z),
    "exp": lambda xp, z: xp.exp(0.2j * z),
    "tanh": lambda xp, z: xp.tanh(0.3 * z + 0.1),
    "square": lambda xp, z: z * z * 0.2,
    "power": lambda xp, z: (z * 0.3 + 2.5) ** 1.5,
    "inverse": lambda xp, z: 1.0 / (z * 0.1 + (3 + 1j)),
    "log": lambda xp, z: xp.log(z * 0.1 + (3 - 1j)),
    "abs": lambda xp, z: xp.abs(z + (4 - 1j)) * (0.3 + 0.2j),
    "abs squared": lambda xp, z: xp.abs(z) ** 2 * (0.1 - 0.2j),
    "angle": lambda xp, z: xp.angle(z * 0.1 + (4 + 1j)) + 0j,
    "real": lambda xp, z: xp.real(z) + 0.1j,
    "imag": lambda xp, z: xp.imag(z) * 2j,
    "both parts": lambda xp, z: xp.real(z) * xp.imag(z) * (1 + 0j),
    "where": lambda xp, z: xp.where(xp.real(z) > 0.1, z, xp.conj(z) * 2.0),
    "cumsum": lambda xp, z: xp.cumsum(z, 1),
    "cumprod": lambda xp, z: xp.cumprod(z * 0.5 + 0.5, 1),
    "reversed": lambda xp, z: xp.flip(z, (1,)),
    "rows": lambda xp, z: z[:, 1:] if z.shape[1] > 1 else z,
    "picked": lambda xp, z: z[:, [0, z.shape[1] - 1, 0]],
    "joined": lambda xp, z: xp.concatenate([z, xp.conj(z[:, :1])], 1),
    "flat": lambda xp, z: z.reshape(B, -1),
    "column": lambda xp, z: z[..., None] if z.ndim < 4 else z,
    "swapped": lambda xp, z: xp.swapaxes(z, 1, z.ndim - 1),
    "outer": lambda xp, z: z.reshape(B, -1)[:, :, None] * xp.conj(z.reshape(B, -1))[:, None, :],
    "sum": lambda xp, z: z.sum(z.ndim - 1) if z.ndim > 2 else z,
    "mean": lambda xp, z: xp.mean(z, 1)[:, None],
    "prod": lambda xp, z: xp.prod(z * 0.3 + 1.0, 1)[:, None],
}
TWO: dict[str, Callable[[Any, Any], Any]] = {
    "sum of two": lambda a, b: a + b,
    "product": lambda a, b: a * b * 0.3,
    "product with a conjugate": lambda a, b: a * b.conj(),
    "quotient": lambda a, b: a / (0.1 * b + (3 + 2j)),
}
LAST: dict[str, Callable[[Any, Any], Any]] = {
    "as it is": lambda xp, z: z,
    "length": lambda xp, z: xp.abs(z + 5.0),
    "its real part": lambda xp, z: z.real,
    "a loss": lambda xp, z: (xp.abs(z.reshape(B, -1)) ** 2).sum(1),
}


class Program(NamedTuple):
    """The names of steps, with the numbers of the values that they take; `seed` draws the numbers."""

    steps: tuple[tuple[str, int, int], ...]
    last: str
    n: int
    seed: int

    def function(self, xp: Any) -> Callable[[Any], Any]:
        rng = np.random.default_rng([self.seed, 1])

        def constant(*shape: int) -> Any:
            z = rng.normal(size=shape) + 1j * rng.normal(size=shape)
            return z if xp is np else torch.tensor(z)

        first = constant(self.n)
        factors = [constant(9, 9) for _ in self.steps]

        def f(x: Any) -> Any:
            values = [x * first]
            for (name, i, j), w in zip(self.steps, factors, strict=True):
                a, b = values[i % len(values)], values[j % len(values)]
                if name in ONE:
                    y = ONE[name](xp, a)
                elif name == "matmul":
                    m = a.shape[-1]
                    y = a @ (w[:m, :m] * 0.5) if m <= 9 else a
                else:
                    y = TWO[name](a, b if b.shape == a.shape else a)
                values.append(y if np.prod(y.shape[1:]) <= LARGEST else a)
            return LAST[self.last](xp, values[-1])

        return f

    def x(self) -> np.ndarray:
        return np.random.default_rng([self.seed, 2]).uniform(-1.0, 1.0, (B, self.n))


def build(choose: Callable[[Any], Any]) -> Program:
    names = [*ONE, *TWO, "matmul", "matmul"]
    count = choose(range(1, 9))
    steps = tuple((choose(names), choose(range(max(n - 1, 0), n + 1)), choose(range(n + 1))) for n in range(count))
    return Program(steps, choose(list(LAST)), choose(range(1, 5)), choose(range(1000)))


def truth(program: Program, x: np.ndarray) -> np.ndarray:
    g = program.function(torch)
    y = g(torch.tensor(x))
    parts = lambda r: torch.view_as_real(g(r).resolve_conj()) if y.is_complex() else g(r)
    whole = torch.autograd.functional.jacobian(parts, torch.tensor(x)).numpy()
    if y.is_complex():
        whole = np.moveaxis(whole, y.ndim, -1)
        whole = whole[..., 0] + 1j * whole[..., 1]
    return np.moveaxis(np.diagonal(whole, axis1=0, axis2=y.ndim), -1, 0)


def check(program: Program, turn: int | None = None) -> None:
    """Raise AssertionError where a way to the derivatives, or the one whose turn it is, is wrong."""
    f, x = program.function(np), program.x()
    expected = truth(program, x)
    size = max(1.0, np.abs(expected).max(initial=0.0))

    def agrees(J: Any, what: str, expected: np.ndarray = expected, near: float = 1e-9) -> None:
        assert J.shape == expected.shape, f"{what}: shape {J.shape}, expected {expected.shape}"
        assert J.dtype == expected.dtype, f"{what}: {J.dtype}, expected {expected.dtype}"
        off = np.abs(J - expected).max(initial=0.0)
        assert off <= near * size, f"{what}: off by {off:.2g}"

    def by_mode(mode: str) -> None:
        for _ in range(2):
            agrees(mj.jacobian(f, mode=mode)(x), mode)

    def pulled_back() -> None:
        y = f(x)
        cotangent = np.random.default_rng(0).normal(size=y.shape) * (1 + 2j if y.dtype.kind == "c" else 1)
        pulled = np.einsum("bji,bj->bi", np.conj(expected).reshape(B, -1, program.n), cotangent.reshape(B, -1)).real
        agrees(mj.vjp(f, x)[1](cotangent)[0], "vjp", pulled)

    def twice() -> None:
        diagonal = mj.hessian_diagonal(f)(x)
        near = 1e-8 * max(1.0, np.abs(diagonal).max())
        agrees(np.einsum("b...ii->b...i", mj.hessian(f)(x)), "hessian", diagonal, near)

    ways: list[Callable[[], None]] = [
        *(partial(by_mode, mode) for mode in MODES),
        lambda: agrees(mj.jacobian(f, structured=True)(x).todense(), "structured"),
        lambda: agrees(mj.jacobian(f, mode="reverse", chunk_size=1)(x), "chunks"),
        lambda: agrees(mj.compile(mj.jacobian(f))(x), "compiled"),
        pulled_back,
        twice,
    ]
    for way in ways if turn is None else [ways[turn % len(ways)]]:
        way()


def main(count: int, seed: int) -> int:
    wrong = 0
    for n in range(count):
        program = build(random.Random(f"{seed}/{n}").choice)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                check(program)
        except Exception:
            wrong += 1
            print(program, traceback.format_exc(limit=-3), sep="\n")
    print(f"{count} programs, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
