"""Sparse Jacobians: a stencil, a mesh, bundle adjustment, beside asdex (JAX: detection, colouring, products).

Run `python benchmarks/sparsity.py`; see benchmarks/README.md. Every function maps one vector to one, in float64. It is
given to minijac with `structured=True, batch_axis=None`, eager and compiled, and to asdex with its defaults, jitted.
Timed are the first call, from nothing to the entries, and later ones; then those up to a CSR matrix of SciPy's. Times
are the processor's, of all threads, so that other work on the machine changes them little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from os import getloadavg
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array

import minijac as mj
from minijac.demo.forum import interleaved
from minijac.memo import Memo

RESULTS = Path(__file__).resolve().parent / "results" / "sparsity-cpu.json"


class Case(NamedTuple):
    """A function of one vector, written for NumPy and for jax.numpy, and where its Jacobian is taken."""

    f: Callable[[Any], Any]
    of_jax: Callable[[Any, Any], Any]
    x: np.ndarray


def stencil(n: int) -> Case:
    """Burgers' equation with Dirichlet boundaries on n points."""
    dx, nu = 1.0 / n, 0.02

    def f(u: Any, np: Any = np) -> Any:
        p = np.pad(u, 1)
        return -u * (p[2:] - p[:-2]) / (2 * dx) + nu * (p[2:] - 2.0 * u + p[:-2]) / dx**2

    return Case(f, f, np.sin(np.linspace(0.0, 7.0, n)))


def mesh(n: int) -> Case:
    """Diffusion on a triangulated cloud of n points, faster where it is warm, and a reaction."""
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(0)
    triangles = Delaunay(rng.random((n, 2))).simplices
    edges = np.unique(
        np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1), axis=0
    )
    i, j = edges.T
    weights = rng.random(len(edges))

    def flux(u: Any) -> Any:
        return weights * (1.0 + 0.5 * (u[i] ** 2 + u[j] ** 2)) * (u[j] - u[i])

    def f(u: Any) -> Any:
        flow, y = flux(u), np.zeros_like(u)
        np.add.at(y, i, flow)
        np.add.at(y, j, -flow)
        return y + u - u**3

    def of_jax(u: Any, jnp: Any) -> Any:
        flow = flux(u)
        return jnp.zeros_like(u).at[i].add(flow).at[j].add(-flow) + u - u**3

    return Case(f, of_jax, rng.normal(size=n))


def bundle(cameras: int, points: int, seen: int) -> Case:
    """Reprojection errors in Snavely's cameras: rotation, translation, focal length, two distortions."""
    rng = np.random.default_rng(0)
    camera, point = rng.integers(0, cameras, seen), rng.integers(0, points, seen)
    at = rng.normal(size=(seen, 2))
    split = 9 * cameras

    def f(x: Any, np: Any = np) -> Any:
        c, p = x[:split].reshape(cameras, 9)[camera], x[split:].reshape(points, 3)[point]
        turn, move = c[:, :3], c[:, 3:6]
        angle = np.sqrt((turn * turn).sum(1, keepdims=True))
        axis = turn / angle
        along = (axis * p).sum(1, keepdims=True) * (1.0 - np.cos(angle))
        q = p * np.cos(angle) + np.cross(axis, p) * np.sin(angle) + axis * along + move
        image = -q[:, :2] / q[:, 2:]
        r2 = (image * image).sum(1, keepdims=True)
        return (c[:, 6:7] * (1.0 + c[:, 7:8] * r2 + c[:, 8:] * r2 * r2) * image - at).reshape(-1)

    x = np.concatenate(
        [rng.normal(size=(cameras, 9)) * 0.1 + [0.1, 0.1, 0.1, 0, 0, -5, 1, 0, 0], np.zeros((0, 9))]
    ).ravel()
    return Case(f, f, np.concatenate([x, rng.normal(size=3 * points)]))


CASES: dict[str, Callable[[], Case]] = {
    "stencil, 10,000 points": lambda: stencil(10_000),
    "mesh, 5,000 points": lambda: mesh(5_000),
    "bundle adjustment, 20 cameras, 2,000 points, 8,000 seen": lambda: bundle(20, 2_000, 8_000),
}
SMALL: dict[str, Callable[[], Case]] = {
    "stencil": lambda: stencil(300),
    "mesh": lambda: mesh(200),
    "bundle": lambda: bundle(4, 40, 120),
}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Processor seconds of first and later calls of both, checked against each other."""
    import asdex
    import jax

    jax.config.update("jax_enable_x64", True)
    x = case.x
    of_jax = lambda u: case.of_jax(u, jax.numpy)

    def first_of_asdex() -> Any:
        jitted = jax.jit(asdex.jacobian(of_jax, x))
        return jitted, jax.block_until_ready(jitted(x))

    jax.block_until_ready(jax.jit(jax.numpy.sin)(x))  # JAX itself is up
    first_asdex, (jitted, entries) = timed(first_of_asdex)
    Memo.clear_all()
    J = mj.jacobian(case.f, structured=True, batch_axis=None)
    first, found = timed(lambda: J(x))
    row, column = np.asarray(entries.indices).T

    def csr_of_asdex() -> Any:
        return coo_array((np.asarray(jitted(x).data), (row, column)), shape=entries.shape).tocsr()

    difference = abs(found.tosparse() - csr_of_asdex()).max()
    assert difference <= 1e-9 * abs(csr_of_asdex()).max(), difference
    compiled = mj.compile(J)
    first_compiled, _ = timed(lambda: compiled(x))
    for _ in range(2):
        J(x)  # recorded
    turns = {
        "minijac": lambda: J(x),
        "minijac, compiled": lambda: compiled(x),
        "asdex": lambda: jax.block_until_ready(jitted(x)),
        "minijac, CSR": lambda: compiled(x).tosparse(),
        "asdex, CSR": csr_of_asdex,
    }
    times = {name: timing.median for name, timing in interleaved(turns, rounds=rounds, clock=time.process_time).items()}
    firsts = {"first": first, "compiled, first": first_compiled, "asdex, first": first_asdex}
    return {**firsts, **times, "entries": found.tosparse().nnz, "structure": found.structure}


PAIRS = {
    "first": "asdex, first",
    "compiled, first": "asdex, first",
    "minijac": "asdex",
    "minijac, compiled": "asdex",
    "minijac, CSR": "asdex, CSR",
}
"""What is compared with what."""


def main() -> None:
    """Measure all cases, print milliseconds, store seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cases, not stored")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    rows = {}
    for name, make in (SMALL if given.quick else CASES).items():
        rows[name] = row = measured(make(), given.rounds)
        print(name, row["structure"], sep="\n  ")
        for one, other in PAIRS.items():
            ratio = row[other] / row[one]
            print(f"  {one:18}{1e3 * row[one]:10.2f} ms   asdex {1e3 * row[other]:10.2f} ms   {ratio:6.1f} times")
    if not given.quick:
        versions = {each: version(each) for each in ("asdex", "jax", "numpy", "scipy")}
        found = {"versions": versions, "load": getloadavg()[0], "seconds": rows}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
