"""How cost grows with a program's length: time for each operation, from twenty operations to twenty thousand.

Run `python benchmarks/lengths.py`; see benchmarks/README.md. Runge-Kutta steps of four chemical species, as a plain
Python loop and as `mj.scan`: the Jacobian of the end by the start, eager in its first, second and third call and as a
forward sweep alone, compiled in its first call and replayed; beside jitted JAX with `lax.scan`, and unrolled. Processor
time, which does not grow when the machine is busy; medians. And what a reverse sweep holds, by the number of steps,
where `checkpoint` keeps the carries of as many as its square root.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minijac as mj
from minijac.memo import Memo

RESULTS = Path(__file__).resolve().parent / "results" / "lengths-cpu.json"
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "lengths.png"
PANELS = {
    "A plain Python loop, eager": {
        "forward sweep alone": "loop, forward alone", "first call": "loop, eager, first",
        "second": "loop, eager, second", "third": "loop, eager, third",
    },
    "First calls, compiled": {
        "plain loop": "loop, compile, first", "mj.scan": "scan, compile, first", "JAX, lax.scan": "JAX, scan, first",
        "JAX, plain loop": "JAX, unrolled, first",
    },
    "Later calls, compiled": {
        "plain loop": "loop, replay", "mj.scan": "scan, replay", "JAX, lax.scan": "JAX, scan, next",
        "JAX, plain loop": "JAX, unrolled, next",
    },
}  # fmt: skip
BATCH, H = 256, 0.01
OPERATIONS, EULER = 85, 20
"""Of one step, about, and of one of Euler's."""
STEPS = (0, 1, 3, 12, 60, 236)
"""None: one of Euler's."""
LONGEST_UNROLLED = 12
"""Steps up to which JAX compiles the plain loop."""
ROUNDS = 3
PARTS = (10, 50, 100)
"""Square roots of the numbers of steps of the reverse sweep."""


def rate(y: Any, xp: Any = np) -> Any:
    """Four species, three reactions: y (B, 4) -> dy/dt (B, 4)."""
    a, b, c, d = y[:, 0:1], y[:, 1:2], y[:, 2:3], y[:, 3:4]
    forward, back, pair = 0.5 * a * b, 0.3 * c * d, 0.1 * a * a
    return xp.concatenate([back - forward - 2 * pair, back - forward, forward - back + pair, forward - back], 1)


def step(y: Any, xp: Any = np) -> Any:
    k1 = rate(y, xp)
    k2 = rate(y + H / 2 * k1, xp)
    k3 = rate(y + H / 2 * k2, xp)
    return y + H / 6 * (k1 + 2 * k2 + 2 * k3 + rate(y + H * k3, xp))


def euler(y: Any, xp: Any = np) -> Any:
    return y + H * rate(y, xp)


def operations(count: int) -> int:
    """Of so many steps."""
    return OPERATIONS * count or EULER


def loop(count: int) -> Callable[[Any], Any]:
    one = step if count else euler

    def f(y: Any) -> Any:
        for _ in range(count or 1):
            y = one(y)
        return y

    return f


def scan(count: int) -> Callable[[Any], Any]:
    one = step if count else euler
    return lambda y: mj.scan(lambda y, _: (one(y), None), y, None, count or 1)[0]


def seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measured(count: int, y: np.ndarray) -> dict[str, float]:
    """Seconds of every way, for one length: medians of some rounds, each as if it were the first."""
    mj.compile(mj.jacobian(loop(2)))(y)  # what is imported once
    rounds = [once(count, y) for _ in range(ROUNDS)]
    return {name: float(np.median([found[name] for found in rounds])) for name in rounds[0]} | with_jax(count, y)


def once(count: int, y: np.ndarray) -> dict[str, float]:
    """One round of ours."""
    found: dict[str, float] = {}
    for name, f in (("loop", loop(count)), ("scan", scan(count))):
        Memo.clear_all()
        found[f"{name}, forward alone"] = seconds(lambda f=f: mj.jacobian(f, mode="forward")(y))
        Memo.clear_all()
        for call in ("first", "second", "third"):
            found[f"{name}, eager, {call}"] = seconds(lambda f=f: mj.jacobian(f)(y))
        compiled = mj.compile(mj.jacobian(f))
        found[f"{name}, compile, first"] = seconds(lambda compiled=compiled: compiled(y))
        found[f"{name}, replay"] = min(seconds(lambda compiled=compiled: compiled(y)) for _ in range(5))
    return found


def held(part: int) -> int:
    """Bytes of a reverse sweep over the square of so many steps, at its peak."""
    h, w = np.full((32, 16), 0.1), np.full((16, 16), 0.01)

    def loss(h: Any) -> Any:
        return mj.scan(lambda h, _: (np.tanh(h @ w), None), h, None, part**2, checkpoint=part)[0].sum()

    tracemalloc.start()
    mj.grad(loss)(h)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def with_jax(count: int, y: np.ndarray) -> dict[str, float]:
    """JAX's, where it is installed."""
    try:
        import jax
    except ImportError:
        return {}
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    one = lambda y: (step if count else euler)(y[None], jnp)[0]

    def scanned(y: Any) -> Any:
        return jax.lax.scan(lambda y, _: (one(y), None), y, None, count or 1)[0]

    def unrolled(y: Any) -> Any:
        for _ in range(count or 1):
            y = one(y)
        return y

    found = {}
    for name, f in (("JAX, scan", scanned), ("JAX, unrolled", unrolled)):
        if f is unrolled and count > LONGEST_UNROLLED:
            continue
        jitted = jax.jit(jax.vmap(jax.jacfwd(f)))
        found[f"{name}, first"] = seconds(lambda jitted=jitted: jitted(y).block_until_ready())
        found[f"{name}, next"] = min(seconds(lambda jitted=jitted: jitted(y).block_until_ready()) for _ in range(5))
    np.testing.assert_allclose(mj.jacobian(loop(count))(y), jax.jit(jax.vmap(jax.jacfwd(scanned)))(y), 1e-9, 1e-12)
    return found


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Microseconds for each operation, by their number, into a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(4.2 * len(PANELS), 3.4), layout="constrained")
    for ax, (title, ways) in zip(axes, PANELS.items(), strict=True):
        for style, (label, way) in zip(("o-", "s-", "^--", "v--"), ways.items(), strict=True):
            lengths = {operations(int(n)): row for n, row in rows.items()}
            points = [(length, 1e6 * row[way] / length) for length, row in lengths.items() if way in row]
            if points:
                ax.plot(*zip(*points, strict=True), style, label=label, markersize=4.5, linewidth=1.4)
        ax.set(xscale="log", yscale="log", xlabel="operations of the program", ylabel="microseconds for each")
        ax.set_title(title, fontsize=10, loc="left")
        ax.legend(fontsize=8)
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure all lengths, print microseconds for each operation, store seconds and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the four shortest lengths, not stored")
    given = parser.parse_args()
    y = np.random.default_rng(0).random((BATCH, 4))
    rows = {count: measured(count, y) for count in (STEPS[:4] if given.quick else STEPS)}
    for name in {name: None for row in rows.values() for name in row}:
        cells = [
            f"{1e6 * row[name] / operations(count):10.1f}" if name in row else " " * 10 for count, row in rows.items()
        ]
        print(f"{name:24}" + "".join(cells))
    print(f"{'microseconds for each of':24}" + "".join(f"{operations(count):10d}" for count in rows))
    if not given.quick:
        bytes_held = {part**2: held(part) for part in PARTS}
        print("bytes held in reverse, by steps: " + "  ".join(f"{n:,}: {b:,}" for n, b in bytes_held.items()))
        stored = {"operations": OPERATIONS, "seconds": rows, "bytes held in reverse": bytes_held}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
        draw(json.loads(RESULTS.read_text())["seconds"], PICTURE)


if __name__ == "__main__":
    main()
