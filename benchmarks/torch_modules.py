"""Modules of torch as they are: minijac.torch against torch's ways to the same Jacobians, eager and compiled by torch.

Run `python benchmarks/torch_modules.py`; see benchmarks/README.md. Each module has a process of its own, and each
result is checked against torch in float64, sample by sample, before it is timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from thread import machine, versions

import minijac.torch as mt
from minijac.demo import forum

RESULTS = Path(__file__).resolve().parent / "results" / "torch-modules-cpu.json"
THREADS, TOLERANCE, CHECKED = 2, 1e-4, 4
Function = Callable[..., Any]
nn, F, func = torch.nn, torch.nn.functional, torch.func


# -- the modules -------------------------------------------------------------------------------------------------------
def mlp(*widths: int) -> Any:
    layers: list[Any] = []
    for n, m in pairwise(widths):
        layers += [nn.Linear(n, m), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x: Any) -> Any:
        y = self.norms[1](self.second(self.norms[0](self.first(x)).relu()))
        return F.adaptive_avg_pool2d((y + x).relu(), 2).flatten(1)


class Last(nn.Module):
    """The last step of a recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.out = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Any) -> Any:
        return self.out(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    """A block as in GPT-2, with the position that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(32), nn.LayerNorm(32)])
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Any) -> Any:
        q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in self.qkv(self.norms[0](x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return (x + self.down(F.gelu(self.up(self.norms[1](x)))))[:, -1]


class Pooled(nn.Module):
    """An encoder layer of torch's, its mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x: Any) -> Any:
        return self.layer(x).mean(1)


class DeepONet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch, self.trunk = mlp(32, 64, 16), mlp(1, 32, 16)
        self.register_buffer("points", torch.linspace(0, 1, 64)[:, None])

    def forward(self, x: Any) -> Any:
        return self.branch(x) @ self.trunk(self.points).T


class Case(NamedTuple):
    module: Function
    shape: tuple[int, ...]
    trained: bool = False
    """Whether a training step on a loss of the Jacobian is timed too."""


CASES = {
    "MLP 32-256-256-32, B=256": Case(lambda: mlp(32, 256, 256, 32), (256, 32), True),
    "contractive 16-64-8, B=64": Case(lambda: mlp(16, 64, 8), (64, 16), True),
    "autoencoder 256-64-8-64-256, B=16": Case(lambda: mlp(256, 64, 8, 64, 256), (16, 256), True),
    "CNN, B=16": Case(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(128, 10),
        ),
        (16, 1, 14, 14),
        True,
    ),
    "ResNet block, B=16": Case(Residual, (16, 4, 8, 8)),
    "LSTM of 12 steps, B=32": Case(Last, (32, 12, 4)),
    "transformer encoder layer, B=8": Case(Pooled, (8, 12, 32)),
    "GPT-2 block, B=8": Case(Attention, (8, 12, 32)),
    "MLP with layer norm, B=128": Case(
        lambda: nn.Sequential(
            nn.Linear(8, 64), nn.LayerNorm(64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 8)
        ),
        (128, 8),
    ),
    "DeepONet, B=32": Case(DeepONet, (32, 32)),
}  # fmt: skip


# -- ways --------------------------------------------------------------------------------------------------------------
def by_torch(way: Function) -> Function:
    """Compiled at the first call, of which the compiler's own import is a part."""
    compiled = cache(lambda: torch.compile(way))
    return lambda x: compiled()(x)


def ways(f: Function) -> dict[str, tuple[str, Function]]:
    """Of each way its library and the Jacobian (B, *out, *in)."""
    one = lambda s: f(s[None])[0]
    by_sum = lambda x: func.jacrev(lambda x: f(x).sum(0))(x).movedim(f(x).ndim - 1, 0)
    plain = {"vmap(jacrev)": func.vmap(func.jacrev(one)), "jacrev of the sum": by_sum,
             "vmap(jacfwd)": func.vmap(func.jacfwd(one))}  # fmt: skip
    return {
        "minijac": ("minijac", mt.jacobian(f)),
        "minijac compiled": ("minijac", mt.compile(mt.jacobian(f))),
        **{name: ("torch", way) for name, way in plain.items()},
        **{f"torch.compile, {name}": ("torch", by_torch(way)) for name, way in plain.items()},
    }


def loss(f: Function, jacobian: Function) -> Function:
    return lambda x: f(x).pow(2).mean() + 0.1 * jacobian(x).pow(2).mean()


def steps(net: Any) -> dict[str, tuple[str, Function]]:
    """Of each way its library and a step: value of a contractive loss and the gradients of the parameters."""
    jacrev = func.vmap(func.jacrev(lambda s: net(s[None])[0]))
    losses = {
        "minijac": ("minijac", loss(net, mt.jacobian(net))),
        "minijac compiled": ("minijac", mt.compile(loss(net, mt.jacobian(net)))),
        "vmap(jacrev)": ("torch", loss(net, jacrev)),
        "torch.compile, vmap(jacrev)": ("torch", by_torch(loss(net, jacrev))),
    }

    def step(value: Function, x: Any) -> Any:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value(x), list(net.parameters()))])

    return {name: (library, partial(step, value)) for name, (library, value) in losses.items()}


def truth(net: Any, x: Any) -> Any:
    net = net.double()
    rows = [torch.autograd.functional.jacobian(lambda s: net(s[None])[0], s) for s in x[:CHECKED].double()]
    net.float()
    return torch.stack(rows)


def true_step(net: Any, x: Any) -> Any:
    net = net.double()
    found = steps(net)["vmap(jacrev)"][1](x.double())
    net.float()
    return found


# -- measuring ---------------------------------------------------------------------------------------------------------
def measured(candidates: dict[str, tuple[str, Function]], x: Any, reference: Any, options: Any) -> dict[str, Any]:
    """Time of the first call, error and steady time of each way; what fails or is wrong is said and not timed."""
    rows: dict[str, Any] = {}
    for name, (library, way) in candidates.items():
        if by_compiler(name) and options.no_torch_compile:
            continue
        start = time.perf_counter()
        try:
            found = way(x)[: len(reference)]
        except Exception as error:  # what a peer cannot do
            failed = f"{type(error).__name__}: {str(error).splitlines()[0]:.120}"
            rows[name] = {"library": library, "status": failed}
            gc.collect()  # else what the traceback holds, states of torch's among it, is left at any time from now on
            continue
        first = time.perf_counter() - start
        way(x)
        error = float((way(x)[: len(reference)] - reference).abs().max() / reference.abs().max())
        status = "ok" if error < TOLERANCE else "wrong"
        rows[name] = {"library": library, "status": status, "first_call_s": first, "relative_error": error}
        del found
    turns = {name: partial(way, x) for name, (_, way) in candidates.items() if rows.get(name, {}).get("status") == "ok"}
    for name, timing in forum.interleaved(turns, rounds=options.rounds, most_calls=50).items():
        rows[name] |= {"median_ms": timing.median * 1e3, "calls": timing.calls}
    return rows


def ready(name: str, kind: str) -> tuple[Any, Any]:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    case = CASES[name]
    return case.module().eval().requires_grad_(kind == "step"), torch.randn(case.shape)


def measure(name: str, options: Any) -> dict[str, Any]:
    result = {}
    if CASES[name].trained:
        net, x = ready(name, "step")
        result["step"] = measured(steps(net), x, true_step(net, x), options)
    net, x = ready(name, "jacobian")
    return {"jacobian": measured(ways(net), x, truth(net, x), options), **result}


def first_call(name: str, kind: str, way: str) -> float:
    """Seconds until the first result of a way, compiler's import and all, in a process that has compiled nothing."""
    net, x = ready(name, kind)
    call = (steps if kind == "step" else ways)(net)[way][1]
    start = time.perf_counter()
    call(x)
    return time.perf_counter() - start


def alone(name: str, *arguments: str) -> Any:
    """What a process of its own finds of a module; a first call finds nothing on disk."""
    fresh = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    run = subprocess.run([sys.executable, __file__, "--alone", name, *arguments], stdout=subprocess.PIPE, env=fresh)
    if run.returncode:
        raise SystemExit(f"{name}: its process ended with {run.returncode}")
    return json.loads(run.stdout.splitlines()[-1])


def by_compiler(way: str) -> bool:
    return way.startswith("torch.compile")


def ratios(rows: dict[str, Any]) -> dict[str, float]:
    """The best of torch by minijac compiled: in time, and of first calls in fresh processes the sooner of torch's."""
    own = rows["minijac compiled"]
    best = min(row["median_ms"] for row in rows.values() if row["library"] == "torch" and "median_ms" in row)
    found = {"time": best / own["median_ms"]}
    for way, row in rows.items():
        if by_compiler(way) and "fresh_s" in row:
            found["first call"] = row["fresh_s"] / own["fresh_s"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, help="these modules alone; nothing is stored")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default: 15)")
    parser.add_argument("--no-torch-compile", action="store_true", help="leave out what takes minutes to compile")
    parser.add_argument("--alone", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--first", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        found = first_call(options.alone, *options.first) if options.first else measure(options.alone, options)
        print(json.dumps(found))
        return
    torch.set_num_threads(THREADS)
    record: dict[str, Any] = {"versions": versions(), "machine": machine(), "dtype": "float32", "busy": forum.busy(),
                              "modules": {}}  # fmt: skip
    for name in options.only or CASES:
        without = ["--no-torch-compile"] * options.no_torch_compile
        kinds = record["modules"][name] = alone(name, "--rounds", str(options.rounds), *without)
        for kind, rows in kinds.items():
            compiled = {
                way: row["first_call_s"] for way, row in rows.items() if by_compiler(way) and "median_ms" in row
            }
            for way in ["minijac compiled", *sorted(compiled, key=compiled.__getitem__)[:1]]:
                rows[way]["fresh_s"] = alone(name, "--first", kind, way)
        show(name, kinds)
    means = [ratios(rows["jacobian"])["time"] for rows in record["modules"].values()]
    record["mean"], record["least"] = statistics.fmean(means), min(means)
    print(f"\nbest of torch by minijac compiled: mean {record['mean']:.2f}, least {record['least']:.2f}")
    if forum.busy():
        print(forum.busy())
    if not options.only and not options.no_torch_compile:
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def show(name: str, kinds: dict[str, Any]) -> None:
    for kind, rows in kinds.items():
        told = ", ".join(f"{what} {ratio:.2f}" for what, ratio in ratios(rows).items())
        print(f"\n{name}, {kind}: best of torch by minijac compiled: {told}")
        for way, row in rows.items():
            if "median_ms" not in row:
                print(f"  {way:<34} {row['status']}")
            else:
                first = row.get("fresh_s", row["first_call_s"])
                print(f"  {way:<34} {row['median_ms']:>9.3f} ms   first call {first:>6.2f} s"
                      f"   error {row['relative_error']:.0e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
