"""Writes docs/plans.md and its pictures from what `minijac.explain` says, so that the page stays true.

Run it as ``python docs/make_plans.py``; ``--check`` only compares, and fails where the page is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minijac as mj

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)


def weight(rows: int, columns: int) -> Any:
    return (RNG.normal(size=(rows, columns)) / rows**0.5).astype(np.float32)


LAYERS = [weight(a, b) for a, b in [(784, 256), (256, 32), (32, 256), (256, 784)]]
Q, K, V = weight(32, 32), weight(32, 32), weight(32, 32)


def autoencoder(x: Any) -> Any:
    for W in LAYERS:
        x = np.tanh(x @ W)
    return x


def burgers(u: Any, dx: float = 0.1, viscosity: float = 0.01) -> Any:
    p = np.pad(u, ((0, 0), (1, 1)))
    left, right = p[:, :-2], p[:, 2:]
    advection = -u * (right - left) / (2 * dx)
    diffusion = viscosity * (right - 2 * u + left) / dx**2
    return advection + diffusion


def attention(x: Any) -> Any:
    q, k, v = x @ Q, x @ K, x @ V
    scores = np.exp(q @ np.swapaxes(k, 1, 2) / 32**0.5)
    return x + (scores / scores.sum(axis=-1, keepdims=True)) @ v


PAGE = """# Plans

*Written by `docs/make_plans.py` from what `minijac.explain` says; do not edit by hand.*

A Jacobian is a product of local derivatives along a tape, and a mode is the order in which it is multiplied:
*forward* from the inputs' side, *reverse* from the outputs' side, *mixed* from several places at once. minijac prices
all three on labels and sizes alone, without touching data, and `mode="auto"` takes the one of least predicted time;
where pricing would take longer than a sweep, as of long programs, the side with fewer entries. A plan is
made once for each structure (operations, shapes, dtypes) and kept.

```python
print(mj.explain(f, x))  # the table below
open("plan.svg", "w").write(mj.explain(f, x).to_svg())
```

How to read it: *multiply-adds* count matmuls and elementwise products; *entries moved* are those read or written
outside of matmuls; *peak bytes* are what the accumulation holds at once, beside the result and what the tape holds
(the last line); *side* is the end from which a block is multiplied; *block* is its structure, the batch apart;
*bytes* is the data that it holds. A block with no bytes is labels alone.

## An autoencoder: cut at its layers, met in the middle

784-256-32-256-784, 16 samples, float32. Every path crosses every layer, so the tape is cut there into a chain of
segments; the two halves are multiplied up to the 32-wide code and meet there. Either plain mode drags 784 seeds
through the whole.

```
{autoencoder}
```

![the tape of the autoencoder](pictures/autoencoder.svg)

## A stencil: a few diagonals

The right-hand side of Burgers' equation on 256 points, 64 samples. Padding and slices are windows of labels, so every
block is a few diagonals, and only the products with the state hold data. The dense Jacobian would take {dense:,}
bytes.

```
{burgers}
```

![the tape of the stencil](pictures/burgers.svg)

## An attention block: joins and products kept apart

16 samples of 8 tokens, 32 features, one head, with a residual connection. Paths join, so nothing but the ends is
crossed by all of them. What is linear per token stays paired along the tokens (*block diagonal*), the residual stays
an identity without data, and products of factors are multiplied out only where the result is written.

```
{attention}
```

![the tape of the attention block](pictures/attention.svg)

## Predicted and measured

Fourteen structures, each in all three orders, float32 on one core (`benchmarks/plans.py`, which also says what the
prices leave out). The chosen orders are filled.

![predicted against measured times](pictures/predicted.png)

## Choosing yourself

`mode="forward"`, `"reverse"` and `"mixed"` take that order; all agree to rounding. For research, `mode` also takes an
explicit plan: `minijac.accumulation.plan.Plan("mixed", {{(0, 0): order}})`, where `order` multiplies the segments
between input 0 and output 0, numbered from the input's side, as nested pairs (output's side, input's side). The
autoencoder's own is `((3, 2), (1, 0))`; `(3, (2, (1, 0)))` goes forward; `("reverse", k)` in place of `k`
accumulates segment k itself from its output's side.

## Within a bound on memory

`max_bytes` bounds what `jacobian`, `value_and_jacobian` and `hessian` hold at once beside inputs and result: the
recorded values, their local derivatives and the accumulation, as arrays (a few hundred kilobytes of Python objects
come on top). `f` sees its whole batch, once; what it recorded is cut afterwards, along the samples, whose labels say
where they are: the local derivatives and the accumulation of some samples at a time, then, where one sample is still
too many, of some seeds of it. Each piece is written into its place in the result. Which orders fit, and with how many
samples, is rehearsed on shadows, and the fastest of those is taken. Samples are cut where they do not mix
(`on_mixing="raise"`), none are picked by positions, and the result is dense. Each piece does the work of its own
samples, so time grows with the batch. Where it could not, samples stay together, and only seeds are taken a few at a
time: the `jvp` or `vjp` of a black box (`minijac.custom`) is a function of the whole batch, which may look at what was
kept when `f` ran. When even one seed does not fit, of one sample or of those that stay together, or the values of `f`
alone are too large, `InputError` names the least bound that can be met. A mixed order that does not fit gives way to
the better end. Inside another
transformation the bound is left to the outer one, whose tape keeps everything. `laplacian`, `hessian_diagonal` and
`divergence` take some seeds at a time within a bound, and of themselves where all at once take more than 64 MiB;
`partials` takes some multi-indices at a time.
"""

EXAMPLES: dict[str, tuple[Callable[..., Any], tuple[int, ...], Any]] = {
    "autoencoder": (autoencoder, (16, 784), np.float32),
    "burgers": (burgers, (64, 256), np.float64),
    "attention": (attention, (16, 8, 32), np.float32),
}


def files() -> dict[Path, str]:
    """The page and its pictures."""
    explained = {name: mj.explain(f, np.zeros(shape, dtype)) for name, (f, shape, dtype) in EXAMPLES.items()}
    texts = {name: str(found) for name, found in explained.items()}
    result = {HERE / "plans.md": PAGE.format(dense=64 * 256 * 256 * 8, **texts)}
    return result | {HERE / "pictures" / f"{name}.svg": found.to_svg() + "\n" for name, found in explained.items()}


def main() -> None:
    """Write the files, or with ``--check`` compare them."""
    found = files()
    if "--check" in sys.argv[1:]:
        old = [path.name for path, text in found.items() if not path.exists() or path.read_text() != text]
        if old:
            sys.exit(f"out of date: {', '.join(old)}; run python docs/make_plans.py")
        return
    for path, text in found.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
