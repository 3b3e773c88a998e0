"""The forum thread that minijac answers: its networks, its methods written in torch, and a fair stopwatch.

Used by `python -m minijac` and by `benchmarks/thread.py`. Torch is imported at its first use only.
"""

from __future__ import annotations

import importlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

Array = Any  # a NumPy or CuPy array
Tensor = Any  # a torch tensor
Function = Callable[[Any], Any]

EPSILON = 1e-5  # what batch norm adds to the variance


class LazyModule:
    """A module imported at its first use, so that it stays optional."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


torch: Any = LazyModule("torch")
minijac_torch: Any = LazyModule("minijac.torch")


def has_torch() -> bool:
    """Whether torch can be imported."""
    try:
        importlib.import_module("torch")
    except ImportError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron and the batch it is evaluated on.

    weights[k]: (in, out), biases[k]: (out,), x: (B, in). With `batch_statistics` every hidden layer is
    normalised by the mean and variance over the batch, which mixes the samples.
    """

    name: str
    activation: str
    batch_statistics: bool
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    x: Array

    @property
    def batch(self) -> int:
        """Number of samples."""
        return int(self.x.shape[0])

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every layer, the input's first."""
        return (int(self.x.shape[1]), *(int(b.shape[0]) for b in self.biases))

    @property
    def label(self) -> str:
        """Name, batch size and widths in one line."""
        layers = "-".join(map(str, self.widths))
        statistics_note = ", batch statistics" if self.batch_statistics else ""
        return f"{self.name}: B={self.batch}, {layers}, {self.activation}{statistics_note}"

    def convert(self, place: Function) -> Network:
        """The same network with `place` applied to every array (a dtype, a device)."""
        weights, biases = tuple(map(place, self.weights)), tuple(map(place, self.biases))
        return replace(self, weights=weights, biases=biases, x=place(self.x))


def make_network(
    name: str,
    batch: int,
    widths: tuple[int, ...],
    activation: str = "tanh",
    *,
    batch_statistics: bool = False,
    seed: int = 0,
) -> Network:
    """A network in float64 with torch's default initialisation.

    All values fit float32 exactly, so casting does not change the network and errors are those of the arithmetic.
    RandomState, because its stream never changes between NumPy versions: stored references rely on that.
    """
    random = np.random.RandomState(seed)

    def uniform(bound: float, *shape: int) -> Array:
        return random.uniform(-bound, bound, shape).astype(np.float32).astype(np.float64)

    pairs = list(itertools.pairwise(widths))
    weights = tuple(uniform(n**-0.5, n, m) for n, m in pairs)
    biases = tuple(uniform(n**-0.5, m) for n, m in pairs)
    x = random.standard_normal((batch, widths[0])).astype(np.float32).astype(np.float64)
    return Network(name, activation, batch_statistics, weights, biases, x)


def thread_network(seed: int = 0) -> Network:
    """The thread's own: Sequential(Linear(5, 2), Sigmoid(), Linear(2, 10)) at B = 3."""
    return make_network("thread network", 3, (5, 2, 10), "sigmoid", seed=seed)


def mixing_network(seed: int = 0) -> Network:
    """A network with batch norm in it: each output depends on every sample."""
    return make_network("mixing network", 8, (5, 6, 4), "tanh", batch_statistics=True, seed=seed)


def numpy_function(network: Network) -> Function:
    """The network as a user writes it in NumPy; takes and returns the whole batch, (B, in) -> (B, out)."""
    *hidden, last = zip(network.weights, network.biases, strict=True)

    def f(x: Array) -> Array:
        for W, b in hidden:
            x = x @ W + b
            if network.batch_statistics:
                x = (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON)
            x = np.tanh(x) if network.activation == "tanh" else 1 / (1 + np.exp(-x))
        W, b = last
        return x @ W + b

    return f


def torch_function(network: Network, dtype: str, device: str = "cpu", *, own_batch_norm: bool = False) -> Function:
    """The network in torch, (B, in) -> (B, out); one sample (in,) -> (out,) counts as a batch of one.

    It is the thread's own `nn.Sequential`, but where samples mix: there the statistics of the batch are written out, or
    with `own_batch_norm` torch's batch_norm in training mode.
    """
    if not network.batch_statistics:
        return sequential(network, dtype, device)
    layers = [
        (to_tensor(W.T, dtype, device), to_tensor(b, dtype, device))
        for W, b in zip(network.weights, network.biases, strict=True)
    ]
    linear, batch_norm = torch.nn.functional.linear, torch.nn.functional.batch_norm
    activation = torch.tanh if network.activation == "tanh" else torch.sigmoid

    def normalise(x: Tensor) -> Tensor:
        if x.dim() == 1:
            return normalise(x[None])[0]
        if own_batch_norm:
            return batch_norm(x, None, None, training=True, eps=EPSILON)
        return (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + EPSILON)

    def f(x: Tensor) -> Tensor:
        for W, b in layers[:-1]:
            x = activation(normalise(linear(x, W, b)))
        return linear(x, *layers[-1])

    return f


def sequential(network: Network, dtype: str, device: str = "cpu") -> Any:
    """The network as a module of torch's; its weights do not require grad."""
    activation = torch.nn.Tanh if network.activation == "tanh" else torch.nn.Sigmoid
    modules: list[Any] = []
    for W, b in zip(network.weights, network.biases, strict=True):
        layer = torch.nn.Linear(*W.shape, dtype=getattr(torch, dtype), device=device).requires_grad_(False)
        layer.weight.copy_(to_tensor(W.T, dtype, device))
        layer.bias.copy_(to_tensor(b, dtype, device))
        modules += [layer, activation()]
    return torch.nn.Sequential(*modules[:-1])


def to_tensor(array: Array, dtype: str, device: str = "cpu") -> Tensor:
    """A NumPy array as a contiguous tensor."""
    return torch.tensor(np.ascontiguousarray(array), dtype=getattr(torch, dtype), device=device)


# ----------------------------------------------------------------------------------------- the thread's methods


@dataclass(frozen=True)
class Method:
    """One way to per-sample derivatives in torch.

    `compute(f, x)` makes what the method makes; `arrange` turns that into (B, out, in), or (B, out, in, in).
    `entries` is the size of the computed array as a product of letters: B for the samples, m and n for the outputs and
    inputs of one.
    """

    key: str
    title: str
    compute: Callable[[Function, Tensor], Tensor]
    entries: str
    arrange: Function = lambda J: J

    def __call__(self, f: Function, x: Tensor) -> Tensor:
        """The per-sample derivative."""
        return self.arrange(self.compute(f, x))


def _jacobian(f: Function, x: Tensor, **options: bool) -> Tensor:
    return torch.autograd.functional.jacobian(f, x, **options)


def _over_samples(x: Tensor, f: Function) -> Tensor:
    return torch.stack([f(row) for row in x])


def _summed(f: Function) -> Function:
    return lambda x: f(x).sum(0)


def _columns(y: Tensor, x: Tensor, create_graph: bool = False) -> Tensor:
    """One torch.autograd.grad call per column of y: (B, m), stacked: (B, m, in)."""
    ones = torch.ones_like(y[:, 0])
    last = y.shape[1] - 1
    return torch.stack(
        [
            torch.autograd.grad(y[:, k], x, ones, create_graph=create_graph, retain_graph=create_graph or k < last)[0]
            for k in range(y.shape[1])
        ],
        1,
    )


def _grad_per_column(f: Function, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return _columns(f(x), x)


def _diagonal(J: Tensor) -> Tensor:
    return torch.diagonal(J, dim1=0, dim2=2).permute(2, 0, 1)


def _batch_first(J: Tensor) -> Tensor:
    return J.permute(1, 0, 2)


METHODS: tuple[Method, ...] = (
    Method("full", "(a) full jacobian, diagonal", _jacobian, "BmBn", _diagonal),
    Method("loop", "(b) loop over samples", lambda f, x: _over_samples(x, partial(_jacobian, f)), "Bmn"),
    Method("sum", "(c) sum trick", lambda f, x: _jacobian(_summed(f), x), "Bmn", _batch_first),
    Method(
        "sum-vectorized", "(c) sum trick, vectorize=True", lambda f, x: _jacobian(_summed(f), x, vectorize=True),
        "Bmn", _batch_first,
    ),
    Method("columns", "(d) grad per output column", _grad_per_column, "Bmn"),
    Method("vmap-jacrev", "(e) vmap(jacrev)", lambda f, x: torch.func.vmap(torch.func.jacrev(f))(x), "Bmn"),
)  # fmt: skip
"""First order: what the thread proposes, and the vmap that it was told to wait for."""

MINIJAC_TORCH = Method("minijac-torch", "minijac.torch.jacobian", lambda f, x: minijac_torch.jacobian(f)(x), "Bmn")
"""The module as it is, by minijac."""

FIRST_ORDER = (*METHODS, MINIJAC_TORCH)

VMAP_JACFWD = Method("vmap-jacfwd", "(f) vmap(jacfwd)", lambda f, x: torch.func.vmap(torch.func.jacfwd(f))(x), "Bmn")


def _full_twice(f: Function, x: Tensor) -> Tensor:
    return _jacobian(lambda x: _diagonal(_jacobian(f, x, create_graph=True)), x)


def _sum_twice(f: Function, x: Tensor) -> Tensor:
    return _jacobian(lambda x: _jacobian(_summed(f), x, create_graph=True).sum(1), x)


def _columns_twice(f: Function, x: Tensor) -> Tensor:
    """The thread's second_order_jacobians, with a loop over inputs too: its ones would sum each Hessian's rows."""
    x = x.detach().requires_grad_()
    J = _columns(f(x), x, create_graph=True)
    return torch.stack([_columns(J[:, k], x, create_graph=True).detach() for k in range(J.shape[1])], 1)


def _loop_twice(f: Function, x: Tensor) -> Tensor:
    return _over_samples(x, lambda row: _jacobian(lambda r: _jacobian(f, r, create_graph=True), row))


SECOND_ORDER_METHODS: tuple[Method, ...] = (
    Method(
        "full", "(a) full jacobian, diagonal, twice", _full_twice,
        "BmnBn", lambda H: torch.diagonal(H, dim1=0, dim2=3).permute(3, 0, 1, 2),
    ),
    Method("loop", "(b) loop over samples, twice", _loop_twice, "Bmnn"),
    Method("sum", "(c) sum trick, twice", _sum_twice, "Bmnn", lambda H: H.permute(2, 0, 1, 3)),
    Method("columns", "(d) grad per column, twice", _columns_twice, "Bmnn"),
    Method(
        "vmap-hessian", "(e) vmap(jacfwd(jacrev))",
        lambda f, x: torch.func.vmap(torch.func.jacfwd(torch.func.jacrev(f)))(x), "Bmnn",
    ),
)  # fmt: skip
"""Second order: (B, out, in, in)."""


# --------------------------------------------------------------------------------------------------- references


def reference_jacobian(network: Network) -> Array:
    """d y_i / d x_i in float64 by torch reverse mode, one sample at a time: (B, out, in)."""
    f, x = torch_function(network, "float64"), to_tensor(network.x, "float64")
    if not network.batch_statistics:
        return _over_samples(x, partial(_jacobian, f)).numpy()

    # One sample alone would be another function: differentiate y_i on the whole batch and keep its own x_i.
    def own_block(i: int) -> Tensor:
        return _jacobian(lambda x: f(x)[i], x)[:, i]

    return torch.stack([own_block(i) for i in range(network.batch)]).numpy()


def reference_hessian(network: Network) -> Array:
    """d2 y_i / d x_i d x_i in float64 by torch reverse mode twice, one sample at a time: (B, out, in, in)."""
    f, x = torch_function(network, "float64"), to_tensor(network.x, "float64")
    return _loop_twice(f, x).numpy()


def reference_full_jacobian(network: Network) -> Array:
    """d y / d x in float64 by torch reverse mode, every pair of samples: (B, out, B, in)."""
    f, x = torch_function(network, "float64"), to_tensor(network.x, "float64")
    return _jacobian(f, x).numpy()


# ---------------------------------------------------------------------------------------------------- stopwatch


SLOW = 0.1  # seconds; a call as long as this needs no warming up


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call, over `calls` timed calls."""

    median: float
    calls: int


def interleaved(
    turns: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    seconds_each: float = 2.0,
    pause: float = 0.12,
    most_calls: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every function in rounds A B C, A B C, so that a busy moment of the machine hits all alike.

    A turn makes enough calls to fill about 5 ms (`most_calls` at most) after one untimed call; a function that would
    need more than `seconds_each` for all its turns gets fewer of them, down to a single call where one is that slow.
    The pause lets worker threads of the previous library go to sleep: OpenBLAS's, below NumPy, take turns with whatever
    else runs for 2**28 cycles after a product (0.1 s), and whoever comes next then has half a core less. The functions
    must be warm, and must have finished their work when they return (on a GPU: synchronise).
    """
    once = {name: seconds_of(function, clock) for name, function in turns.items()}
    once |= {name: min(once[name], seconds_of(turns[name], clock)) for name in turns if once[name] < SLOW}
    calls = {name: max(1, min(most_calls, int(0.005 / once[name]))) for name in turns}
    share = {name: min(rounds, int(seconds_each / (calls[name] * once[name]))) for name in turns}
    times = {name: [once[name]] if share[name] == 0 else [] for name in turns}
    for turn in range(rounds):
        for name, function in turns.items():
            if turn < share[name]:
                time.sleep(pause)
                if once[name] < SLOW:
                    function()  # caches and clocks are the previous library's
                times[name] += [seconds_of(function, clock) for _ in range(calls[name])]
    return {name: Timing(statistics.median(samples), len(samples)) for name, samples in times.items()}


def seconds_of(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The time of one call: wall-clock time, unless by another clock."""
    start = clock()
    function()
    return clock() - start


def busy() -> str | None:
    """A warning where other work keeps this machine's cores, so that times say little; else None."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= 0.75 * cores:
        return None
    return f"This machine is busy (load {load:.1f} on {cores} cores): its times, and their ratios, say little."
