"""What a workload is, and the ways of minijac, torch and JAX to its Jacobian, for any function.

Torch and JAX are imported where they are first used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import minijac as mj
from minijac.demo.forum import LazyModule, torch

Array = Any
Data = dict[str, Any]
Function = Callable[..., Any]


TRUTHS = 8
"""Samples that torch differentiates one by one for the reference."""
VISCOSITY = 0.01


class Call(NamedTuple):
    """A derivative and what it is called with."""

    function: Function
    arguments: tuple[Any, ...]


class Work(NamedTuple):
    """What nobody can avoid: floating point operations in matmuls, and bytes of the result."""

    flops: float
    bytes: float


Calls = Mapping[str, Call]


def nothing(data: Data) -> Calls:
    return {}


@dataclass(frozen=True)
class Workload:
    """One row of the table; what gives ways, truth and work takes the data (arrays, tensors or JAX arrays)."""

    name: str
    title: str
    data: Callable[[], Data]
    minijac: Callable[[Data], Call]
    torch: Callable[[Data], Calls]
    jax: Callable[[Data], Calls]
    truth: Function
    """The derivative in torch, for the first TRUTHS samples."""
    work: Callable[[Data], Work]
    compiled: tuple[str, ...] = ("jacrev of sum", "vmap(jvp)")
    """The torch variants that torch.compile is worth trying on."""
    torch_by_hand: Callable[[Data], Calls] = nothing
    """Not one of the library's ways to a Jacobian: the user has done the planning. Shown, and not counted."""
    jax_by_hand: Callable[[Data], Calls] = nothing
    arrange: Function = field(default=lambda leaf: leaf)
    """What a variant returns, as the dense array that it stands for."""
    per_sample: bool = True
    structured_too: Callable[[Data], Call] | None = None
    """minijac's Jacobian as an operator, beside the dense one."""


jax: Any = LazyModule("jax")
jnp: Any = LazyModule("jax.numpy")
taylor: Any = LazyModule("jax.experimental.jet")


# -- data --------------------------------------------------------------------------------------------------------------
def normal(random: Any, *shape: int, scale: float = 1.0) -> Array:
    return (scale * random.standard_normal(shape)).astype(np.float32)


def layers_of(random: Any, widths: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Weights and biases: [(in, out), (out,)] for each layer, with torch's default ranges."""
    return [
        tuple(random.uniform(-(n**-0.5), n**-0.5, shape).astype(np.float32) for shape in ((n, m), (m,)))  # type: ignore[misc]
        for n, m in pairwise(widths)
    ]


def network_data(batch: int, widths: tuple[int, ...]) -> Data:
    random = np.random.RandomState(0)
    return {"layers": layers_of(random, widths), "x": normal(random, batch, widths[0])}


# -- first order: ways to a Jacobian -----------------------------------------------------------------------------------
def torch_jacobians(f: Function, x: Any) -> Calls:
    """All ways to (B, *out, *in) for an `f` that takes a batch, or one sample."""
    func, functional = torch.func, torch.autograd.functional
    samples = f(x).ndim - 1  # the axis of the samples, where the outputs' axes come first
    basis = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])

    def summed(x: Any) -> Any:
        return f(x).sum(0)

    def by_columns(x: Any) -> Any:
        J = func.vmap(lambda e: func.jvp(f, (x,), (e.expand_as(x),))[1], out_dims=-1)(basis)
        return J.unflatten(-1, x.shape[1:])

    ways = {
        "sum trick": lambda x: functional.jacobian(summed, x).movedim(samples, 0),
        "sum trick, vectorized": lambda x: functional.jacobian(summed, x, vectorize=True).movedim(samples, 0),
        "jacrev of sum": lambda x: func.jacrev(summed)(x).movedim(samples, 0),
        "vmap(jacrev)": lambda x: func.vmap(func.jacrev(f))(x),
        "vmap(jacfwd)": lambda x: func.vmap(func.jacfwd(f))(x),
        "vmap(jvp)": by_columns,
    }
    return {name: Call(way, (x,)) for name, way in ways.items()}


def jax_jacobians(f: Function, x: Any) -> Calls:
    """Both modes, for an `f` of one sample."""
    return {
        "vmap(jacrev)": Call(jax.vmap(jax.jacrev(f)), (x,)),
        "vmap(jacfwd)": Call(jax.vmap(jax.jacfwd(f)), (x,)),
    }


def jacobian_truth(f: Function, x: Any) -> Any:
    return torch.stack([torch.autograd.functional.jacobian(f, row) for row in x[:TRUTHS]])


def jacobian_workload(
    name: str,
    title: str,
    data: Callable[[], Data],
    functions: tuple[Function, Function, Function],
    work: Callable[[Data], Work],
    *,
    structured: bool = False,
    **more: Any,
) -> Workload:
    """The Jacobian of ``functions``: from data to f of a batch in NumPy, of either in torch, of one sample in JAX."""
    in_numpy, in_torch, in_jax = functions
    return Workload(
        name,
        title,
        data,
        minijac=lambda d: Call(mj.jacobian(in_numpy(d), structured=structured), (d["x"],)),
        torch=more.pop("torch", lambda d: torch_jacobians(in_torch(d), d["x"])),
        jax=more.pop("jax", lambda d: jax_jacobians(in_jax(d), d["x"])),
        truth=lambda d: jacobian_truth(in_torch(d), d["x"]),
        work=work,
        **more,
    )


def planned(in_numpy: Function) -> Callable[[Data], Work]:
    """The multiply-adds of the cheapest order that minijac knows, where there is no formula, and the result once."""

    def work(d: Data) -> Work:
        f, x = in_numpy(d), d["x"]
        plan = mj.explain(f, x).chosen
        return Work(2.0 * plan.cost.multiply_adds, 4.0 * f(x).size * x[0].size)

    return work


def result_only(entries: int) -> Callable[[Data], Work]:
    return lambda d: Work(0.0, 4.0 * entries)
