"""Random programs that write in place: buffers, views, aliases, slices, masks, swaps; NumPy itself is the truth.

The same source runs on plain arrays, and for the derivative on complex ones (a step of 1e-200 i makes it exact), and on
traced values in every way. ``python tests/writing_programs.py 1000 7`` runs 1000 programs from seed 7.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

import minijac as mj

B, N = 5, 4  # no axis of features is as long as that of the samples, which could be mistaken for it
WAYS = ("forward", "reverse", "mixed", "auto")
STEP = 1e-200
INDICES = (
    ":, 0", ":, 1", ":, -1", ":, 1:", ":, :-1", ":, ::2", ":, ::-1", ":, 1:3", "...", ":", "..., 2", ":, [0, 2]",
    ":, np.array([1, 1, 3])", ":, np.array([True, False, True, True])",
)  # fmt: skip
VIEWS = (
    "{0}[:, 1:]", "{0}[:, ::-1]", "{0}[:, ::2]", "{0}[...]", "{0}[:]", "{0}.T", "{0}.reshape(B, -1)", "{0}.ravel()",
    "{0}[:, None]", "np.expand_dims({0}, 1)", "np.swapaxes({0}, 0, 1)", "np.flip({0}, 1)", "{0}.reshape(B, 2, -1)",
    "np.moveaxis({0}, 0, -1)", "{0}[:, 0]", "{0}[:, 2]", "np.atleast_2d({0})", "{0}", "np.squeeze({0})",
    "np.split({0}, 2, 1)[1]", "np.fliplr({0})",
)  # fmt: skip
NEW = (
    "np.zeros_like(x)", "np.ones_like({0})", "np.full_like({0}, 0.5)", "x.copy()", "{0}.copy()", "np.sin({0})",
    "0.5 * {0}", "np.copy({0})", "x * x", "{0} - 0.3", "np.zeros_like(x, shape=(B, N))", "+{0}", "{0}.flatten()",
    "np.tile({0}, 1)", "np.concatenate([{0}])", "np.repeat({0}, 1, 0)", "{0}[np.arange(len({0}))]",
    "{0}[:, np.arange({0}.shape[1])]", "{0}[np.ones(len({0}), bool)]",
)  # fmt: skip
WHOLE = (
    "{0} += {1}", "{0} *= {1}", "{0} -= 0.1", "{0} *= 0.7", "{0} /= 1.5 + {1} ** 2", "np.copyto({0}, {1})",
    "np.multiply({0}, {1}, out={0})", "np.sin({1}, out={0})", "{0}.fill(0.25)", "{0}[...] = {1}",
    "np.putmask({0}, np.real({0}) > 0.2, 0.1)", "{0}[np.real({0}) > 0.3] = 0.05", "np.add({1}, 0.2, out={0})",
    "np.copyto({0}, {1}, where=np.real({0}) > 0)",
)  # fmt: skip


def build(seed: int) -> str:
    """The source of a function of `x`, of shape (B, N), whose result has its samples in front."""
    rng = random.Random(seed)
    lines, names = [], ["x"]
    shapes: dict[str, tuple[int, ...]] = {"x": (B, N)}
    state: dict[str, Any] = {"np": np, "B": B, "N": N, "x": np.random.default_rng(seed).uniform(-1, 1, (B, N))}

    def attempt(line: str) -> bool:
        """Whether NumPy takes the line; it runs on copies that share memory as the originals do."""
        try:
            with np.errstate(all="ignore"):
                exec(line, state)
        except (ValueError, IndexError, TypeError):
            return False
        lines.append(line)
        return True

    for _ in range(rng.randrange(3, 14)):
        kind = rng.choice(("new", "view", "view", "write", "write", "write", "whole", "whole", "swap", "loop"))
        a, b = rng.choice(names), rng.choice(names)
        fresh = f"v{len(names)}"
        if kind in ("new", "view"):
            if kind == "view" and a == "x":
                continue
            text = rng.choice(NEW if kind == "new" else VIEWS).format(a)
            if attempt(f"{fresh} = {text}"):
                names.append(fresh)
                shapes[fresh] = state[fresh].shape
            continue
        if a == "x":
            continue
        if kind == "write":
            index, other = rng.choice(INDICES), rng.choice(INDICES)
            value = rng.choice((f"{b}[{other}]", f"{b}[{index}]", "0.5", f"np.sin({b}[{index}])", f"{b}"))
            attempt(f"{a}[{index}] {rng.choice(('=', '=', '+=', '*='))} {value}")
        elif kind == "whole":
            attempt(rng.choice(WHOLE).format(a, b))
        elif kind == "swap":
            i, j = rng.sample((":, 0", ":, 1", ":, 2", ":, 3"), 2)
            attempt(f"{a}[{i}], {a}[{j}] = {a}[{j}]{rng.choice(('.copy()', ''))}, {a}[{i}]")
        else:
            attempt(f"for k in range(1, {a}.shape[-1]): {a}[..., k] = {a}[..., k - 1] * 0.9 + {b}[..., k - 1]")
    ends = [name for name in names if state[name].size and len(state[name].shape) and state[name].shape[0] == B]
    return "def f(x):\n    " + "\n    ".join([*lines, f"return {', '.join(ends[-4:])},"]) + "\n"


def function(source: str) -> Callable[..., Any]:
    names: dict[str, Any] = {"np": np, "B": B, "N": N}
    exec(source, names)
    f: Callable[..., Any] = names["f"]
    return f


def check(seed: int, turn: int | None = None) -> str:
    """Raise AssertionError where a way to the Jacobian, or the one whose turn it is, is wrong; else how it ended."""
    source = build(seed)
    f = function(source)
    x = np.random.default_rng(seed).uniform(-1, 1, (B, N))
    kept = x.copy()
    expected = [np.array(y) for y in f(x)]
    truth = [np.empty((*y.shape, N)) for y in expected]
    for k in range(N):
        z = x.astype(complex)
        z[:, k] += STEP * 1j
        for J, y in zip(truth, f(z), strict=True):
            J[..., k] = y.imag / STEP
    if not all(np.isfinite(y).all() and np.abs(y).max() < 1e6 for y in (*expected, *truth)):
        return "not finite"
    ways = [(compiled, mode) for compiled in (False, True) for mode in WAYS]
    for compiled, mode in ways if turn is None else [ways[turn % len(ways)]]:
        g = mj.value_and_jacobian(f, mode=mode)
        try:
            values, found = (mj.compile(g) if compiled else g)(x)
        except mj.MutationError as error:
            if "read-only" in str(error):
                return "refused"
            raise
        except mj.BatchMixingError:
            return "mixes"
        how = f"{mode}, compiled {compiled}"
        for y, Y, J, T in zip(values, expected, found, truth, strict=True):
            assert y.shape == Y.shape and np.allclose(y, Y, 1e-12, 1e-12), f"{how}: value"
            assert J.shape == T.shape and np.allclose(J, T, 1e-9, 1e-9), f"{how}: Jacobian"
    assert (x == kept).all()
    return "right"


def main(count: int, seed: int) -> int:
    start, ends, failed = time.perf_counter(), {}, 0
    for n in range(seed, seed + count):
        try:
            with np.errstate(all="ignore"):
                end = check(n)
            ends[end] = ends.get(end, 0) + 1
        except Exception:
            failed += 1
            print(f"--- seed {n}\n{build(n)}\n{traceback.format_exc(limit=-3)}")
    print(f"{count} programs in {time.perf_counter() - start:.0f} s: {failed} failed, {ends}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
