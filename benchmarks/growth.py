"""How time and memory grow with the number of samples: every transformation of functions of all kinds.

Run `python benchmarks/growth.py`, or with names of functions; `--registry` goes through every registered operation
instead, `--joined` through operations on several views of one batch that are joined along its axis and picked apart
again. Printed is what grows faster than the samples do; with `--all` everything. Memory is what NumPy and Python
allocate at once in a first call (tracemalloc), time the least processor time of some later ones.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minijac as mj
from minijac.memo import Memo

SAMPLES = (64, 256, 1024)
MORE_THAN = 1.25
"""The power of the number of samples from which a growth is told."""
FLOOR = {"bytes": 200_000.0, "time": 1e-3}
"""Below, it is Python's own."""
ROUNDS = 3

W = np.random.default_rng(0).standard_normal((9, 9))


def picked(x: Any) -> Any:
    inside = x[:, 0] > 0
    y = x.copy()
    y[inside] = np.tanh(x[inside] @ W)
    return y


def entries(x: Any) -> Any:
    inside = x > 0
    y = x.copy()
    y[inside] = np.cumsum(np.tanh(x[:, :, None] * W)[inside], 1)[:, -1] * x[inside]
    return y


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "reshape": lambda x: (np.sin(x) @ W).reshape(len(x), 3, 3) ** 2,
    "broadcast_to": lambda x: np.broadcast_to(np.sin(x)[:, None], (len(x), 2, 9)) * 2.0,
    "positions": lambda x: np.sin(x)[:, [0, 3, 3]] * x[:, :1],
    "take_along_axis": lambda x: np.take_along_axis(x * x, np.argsort(mj.stop_gradient(x), 1)[:, :2], 1),
    "sort": lambda x: np.sort(np.sin(x), 1) ** 2,
    "median": lambda x: np.median(x * x, 1),
    "logsumexp": lambda x: mj.special.logsumexp(x @ W, 1),
    "log_softmax": lambda x: mj.special.log_softmax(x @ W, 1)[:, 0],
    "slogdet": lambda x: np.linalg.slogdet(np.tanh(x.reshape(-1, 3, 3) @ W[:3, :3]))[1],
    "inv": lambda x: np.linalg.inv(np.tanh(x).reshape(-1, 3, 3) + 3.0 * np.eye(3))[:, 0, 0],
    "norm": lambda x: np.cos(np.linalg.norm(x @ W, axis=1)),
    "where": lambda x: np.where(x > 0, np.log(np.abs(x)), 0.0).sum(1),
    "clip": lambda x: np.arccos(np.clip(x, -1.0, 1.0)).sum(1),
    "network": lambda x: np.tanh(np.maximum(x @ W, 0.0) @ W) @ W[:, :1],
    "picked": picked,
    "entries": entries,
}
"""Functions of (B, 9)."""


HALVES: dict[str, Callable[[Any, int], Any]] = {
    "[:B]": lambda y, n: y[:n],
    "[B:]": lambda y, n: y[n:],
    "reshape(2, B)[0]": lambda y, n: y.reshape(2, n, *y.shape[1:])[0],
    "both halves": lambda y, n: y[:n] * y[n:],
}
PAIRS: dict[str, Callable[[Any, int], Any]] = {
    "[::2]": lambda y, n: y[::2],
    "reshape(B, 2)[:, 1]": lambda y, n: y.reshape(n, 2, *y.shape[1:])[:, 1],
    "both of a pair": lambda y, n: y[::2] * y[1::2],
}
JOINS: dict[str, tuple[Callable[[Any], Any], dict[str, Callable[[Any, int], Any]]]] = {
    "concatenate": (lambda x: np.concatenate([np.sin(x), x * x]), HALVES | {"split": lambda y, n: np.split(y, 2)[1]}),
    "stack": (lambda x: np.stack([np.sin(x), x * x]).reshape(-1, 9), {"reshape(2, B)[0]": HALVES["reshape(2, B)[0]"]}),
    "tile": (lambda x: np.tile(np.sin(x), (2, 1)), HALVES),
    "repeat": (lambda x: np.repeat(np.sin(x), 2, axis=0), PAIRS),
    "stack, second": (lambda x: np.stack([np.sin(x), x * x], 1).reshape(-1, 9), PAIRS),
    "broadcast": (lambda x: np.broadcast_to(np.sin(x), (2, *x.shape)), {"[0]": lambda y, n: y[0],
                                                                       "sum": lambda y, n: y.sum(0)}),
    "written": (lambda x: _written(np.sin(x), x * x), HALVES),
    "samples second": (lambda x: np.sin(x).reshape(-1, 3, 3).swapaxes(0, 1),
                       {"swapaxes": lambda y, n: y.swapaxes(0, 1)}),
    "flattened": (lambda x: np.sin(x.reshape(-1)).reshape(-1, 3), {"reshape(B, 3)": lambda y, n: y.reshape(n, 3, -1)}),
}  # fmt: skip
"""Ways to join views of a batch, (B, 9), to an array whose last axis is one sample's, and to pick them apart again."""


def _written(*views: Any) -> Any:
    y = np.zeros_like(np.concatenate(views))
    for k, view in enumerate(views):
        y[k * len(view) : (k + 1) * len(view)] = view
    return y


def _matrix(y: Any) -> Any:
    """(..., n, n), symmetric, positive and with eigenvalues apart, of (..., n)."""
    return y[..., None] * y[..., None, :] + np.diag(3.0 + np.arange(y.shape[-1]))


MIDDLES: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp,
    "matmul": lambda y: np.tanh(y @ W[: y.shape[-1]]),
    "pairs": lambda y: (y[..., None] * y[..., None, :]).sum(-1),
    "sort": lambda y: np.sort(y, -1),
    "cumsum": lambda y: np.cumsum(y, -1),
    "cumprod": lambda y: np.cumprod(y, -1),
    "take_along_axis": lambda y: np.take_along_axis(y, np.argsort(mj.stop_gradient(y), -1)[..., :2], -1),
    "positions": lambda y: y[..., [0, 2, 2]],
    "max": lambda y: y.max(-1, keepdims=True),
    "median": lambda y: np.median(y, -1, keepdims=True),
    "roll": lambda y: np.roll(y, 1, -1),
    "flip": lambda y: y[..., ::-1],
    "softmax": lambda y: mj.special.softmax(y, -1),
    "normalised": lambda y: y / np.linalg.norm(y, axis=-1, keepdims=True),
    "fft": lambda y: np.abs(np.fft.rfft(y)),
    "where": lambda y: np.where(y > 0, np.log(np.abs(y)), 0.0),
    "solve": lambda y: np.linalg.solve(_matrix(y), y[..., None])[..., 0],
    "inv": lambda y: np.linalg.inv(_matrix(y))[..., 0],
    "cholesky": lambda y: np.linalg.cholesky(_matrix(y))[..., -1],
    "eigh": lambda y: np.linalg.eigh(_matrix(y))[1][..., 0],
    "qr": lambda y: np.linalg.qr(_matrix(y))[1][..., 0],
    "convolve": lambda y: mj.special.expit(y[..., 1:] * y[..., :-1]),
    "sort, cumsum": lambda y: np.cumsum(np.sort(y, -1), -1),
}
"""What is done to each sample by itself."""


def joined() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    for (name, (join, parts)), (middle, g) in product(JOINS.items(), MIDDLES.items()):
        for part, h in parts.items():
            yield f"{name} {middle} {part}", lambda x, join=join, g=g, h=h: h(g(join(x)), len(x))


def _products(f: Any) -> dict[str, Callable[[Any], Any]]:
    return {
        "jvp": lambda x: mj.jvp(f, (x,), (x,)),
        "vjp": lambda x: mj.vjp(f, x)[1](np.ones_like(f(x))),
        "grad of grad": mj.grad(lambda x: (mj.grad(lambda z: f(z).sum())(x) ** 2).sum()),
    }


def transformations(f: Any, compiles: bool = True) -> dict[str, Callable[[Any], Any]]:
    found: dict[str, Callable[[Any], Any]] = {
        **{mode: mj.jacobian(f, mode=mode) for mode in ("forward", "reverse", "mixed", "auto")},
        "structured": mj.jacobian(f, structured=True),
        **{each.__name__: each(f) for each in (mj.hessian, mj.hessian_diagonal, mj.laplacian)},
        **_products(f),
    }
    return found | ({"compiled": mj.compile(mj.jacobian(f))} if compiles else {})


class Growth(NamedTuple):
    """What one call takes at each number of samples, and the power of them by which that grows."""

    what: str
    values: list[float]

    @property
    def power(self) -> float:
        first, last = (max(value, FLOOR[self.what]) for value in (self.values[0], self.values[-1]))
        return math.log(last / first) / math.log(SAMPLES[-1] / SAMPLES[0])

    @property
    def too_fast(self) -> bool:
        return self.power > MORE_THAN

    def __str__(self) -> str:
        scale, unit = (1e6, "MB") if self.what == "bytes" else (1e-3, "ms")
        return f"{self.what} {', '.join(f'{value / scale:.3g}' for value in self.values)} {unit}: B^{self.power:.2f}"


def measured(call: Callable[[Any], Any], inputs: list[Any]) -> list[Growth]:
    """Bytes and time of a call at each number of samples."""
    taken: dict[str, list[float]] = {"bytes": [], "time": []}
    for x in inputs:
        call(x)
        call(x)
        times = []
        for _ in range(ROUNDS):
            start = time.process_time()
            call(x)
            times.append(time.process_time() - start)
        Memo.clear_all()  # replays hold the arrays of small calls between them
        gc.collect()
        tracemalloc.start()
        call(x)
        taken["bytes"].append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        taken["time"].append(min(times))
    return [Growth(what, values) for what, values in taken.items()]


def subjects(names: list[str], registry: bool, views: bool) -> Iterator[tuple[str, Any, list[Any]]]:
    """Names, functions of one batch, and batches of each size."""
    if not registry:
        rng = np.random.default_rng(1)
        inputs = [rng.standard_normal((n, 9)) for n in SAMPLES]
        functions = dict(joined()) if views else FUNCTIONS
        yield from ((name, functions[name], inputs) for name in names or functions)
        return
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
    from registry import KINDS, NAMES_BATCH

    from minijac.ops import REGISTRY

    for case in KINDS:
        axes, operands = case.batch_axis, case.operands()
        k = next((k for k in case.differentiable if axes[k] == 0), None)
        if k is None or case.name in NAMES_BATCH or (names and case.name not in names) or axes.count(0) > 1:
            continue

        def f(x: Any, op: Any = REGISTRY[case.name], k: int = k, operands: Any = operands, case: Any = case) -> Any:
            y = op(*operands[:k], x, *operands[k + 1 :], **case.sample.params)
            return y if len(x) in y.shape or not y.ndim else y.reshape(len(x), -1, *y.shape[1:])

        yield str(case.name), f, [np.concatenate([operands[k]] * n)[:n] for n in SAMPLES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="functions, or operations with --registry")
    parser.add_argument("--registry", action="store_true")
    parser.add_argument("--joined", action="store_true")
    parser.add_argument("--all", action="store_true", help="print what grows as it should, too")
    options = parser.parse_args()
    count = fast = 0
    for name, f, inputs in subjects(options.names, options.registry, options.joined):
        gc.freeze()  # what is imported is no garbage: to look through it takes longer than all else
        for how, call in transformations(f, compiles=name not in ("picked", "entries")).items():
            try:
                with np.errstate(all="ignore"):
                    found = measured(call, inputs)
            except mj.MinijacError as error:
                print(f"{name:16} {how:18} refused: {str(error).splitlines()[0]}", flush=True)
                continue
            count += len(found)
            fast += sum(growth.too_fast for growth in found)
            for growth in found:
                if growth.too_fast or options.all:
                    print(f"{name:16} {how:18} {growth}", flush=True)
    print(f"{fast} of {count} grow faster than the samples, {', '.join(map(str, SAMPLES))}")


if __name__ == "__main__":
    main()
