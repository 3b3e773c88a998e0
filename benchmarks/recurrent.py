"""An LSTM over 100 steps: the Jacobian of its end by the series, and the gradient of a loss by its parameters.

Run `python benchmarks/recurrent.py`; see benchmarks/README.md. As a plain Python loop and as `mj.scan`, compiled, with
jitted JAX with `lax.scan`, in one process, by turns. Processor time, on one thread; medians.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np  # noqa: E402 - the numbers of threads first

import minijac as mj  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "recurrent-cpu.json"
STEPS, BATCH, INPUTS, UNITS, OUTPUTS = 100, 16, 8, 32, 4
ROUNDS = 25
RNG = np.random.default_rng(0)
PARAMETERS = {
    "by_input": 0.3 * RNG.normal(size=(INPUTS, 4 * UNITS)),
    "by_state": 0.2 * RNG.normal(size=(UNITS, 4 * UNITS)),
    "bias": 0.1 * RNG.normal(size=4 * UNITS),
    "out": RNG.normal(size=(UNITS, OUTPUTS)),
}
SERIES, TARGET = RNG.normal(size=(BATCH, STEPS, INPUTS)), RNG.normal(size=(BATCH, OUTPUTS))


def cell(xp: Any, p: Any, state: Any, x: Any) -> Any:
    """One step: state of h and c, each (B, units), and x (B, inputs) -> state."""
    h, c = state
    z = x @ p["by_input"] + h @ p["by_state"] + p["bias"]
    i, f, g, o = (z[:, k * UNITS : (k + 1) * UNITS] for k in range(4))
    c = c / (1 + xp.exp(-f)) + xp.tanh(g) / (1 + xp.exp(-i))
    return xp.tanh(c) / (1 + xp.exp(-o)), c


def looped(p: Any, series: Any) -> Any:
    """The network as a plain loop: series (B, steps, inputs) -> (B, outputs)."""
    state = (np.zeros((len(series), UNITS)),) * 2
    for t in range(STEPS):
        state = cell(np, p, state, series[:, t])
    return state[0] @ p["out"]


def scanned(p: Any, series: Any, xp: Any = np, scan: Any = mj.scan) -> Any:
    """The same as a scan."""
    start = (xp.zeros((len(series), UNITS)),) * 2
    (h, _), _ = scan(lambda state, x: (cell(xp, p, state, x), None), start, xp.moveaxis(series, 1, 0))
    return h @ p["out"]


def loss(network: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda p: ((network(p, SERIES) - TARGET) ** 2).mean()


def of_jax() -> dict[str, Callable[[], Any]]:
    """JAX's ways, where it is installed."""
    try:
        import jax
    except ImportError:
        return {}
    jax.config.update("jax_enable_x64", True)
    jnp, p = jax.numpy, jax.tree.map(jax.numpy.asarray, PARAMETERS)
    network = lambda p, series: scanned(p, series, jnp, jax.lax.scan)
    one = lambda row: network(p, row[None])[0]
    found: dict[str, Callable[[], Any]] = {}
    for name, mode in (("reverse", jax.jacrev), ("forward", jax.jacfwd)):
        saliency = jax.jit(jax.vmap(mode(one)))
        found[f"Jacobian, JAX {name}"] = lambda saliency=saliency: saliency(SERIES).block_until_ready()
    gradient = jax.jit(jax.value_and_grad(loss(network)))
    return found | {"gradient, JAX": lambda: jax.block_until_ready(gradient(p))}


def main() -> None:
    """Measure all, print milliseconds, store seconds."""
    ways: dict[str, Callable[[], Any]] = {}
    for name, network in (("loop", looped), ("scan", scanned)):
        saliency = mj.compile(mj.jacobian(lambda series, network=network: network(PARAMETERS, series)))
        gradient = mj.compile(mj.value_and_grad(loss(network)))
        ways[f"Jacobian, {name}"] = lambda saliency=saliency: saliency(SERIES)
        ways[f"gradient, {name}"] = lambda gradient=gradient: gradient(PARAMETERS)
    ways |= of_jax()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + ROUNDS):
        for name, call in ways.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    rows = {name: {"first": own[0], "next": float(np.median(own[1:]))} for name, own in sorted(times.items())}
    for name, row in rows.items():
        print(f"{name:24} first {1e3 * row['first']:8.0f} ms, next {1e3 * row['next']:7.2f} ms")
    RESULTS.write_text(json.dumps({"seconds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
