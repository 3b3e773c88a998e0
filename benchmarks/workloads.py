"""What the benchmarks time: one table of workloads, each written for minijac, torch and JAX in the form that suits it.

A workload makes its data in float32. For each library it gives the ways to the same derivative as functions with their
arguments, so that the caller can compile them. `truth` is torch's reverse mode in float64, one sample at a time, for
the first samples; the reference for all samples is minijac in float64, checked against it.

Weights are captured by the functions, which lets every compiler treat them as constants, except where the derivative
is taken with respect to them. Torch and JAX are imported where they are first used.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from derivatives import (
    INDICES,
    batch_normalised,
    classifier_data,
    closed_form,
    forward_laplacian,
    gradients_truth,
    gradients_work,
    hessian_truth,
    hessian_work,
    jax_gradients,
    jax_hessians,
    jax_laplacians,
    jax_own_blocks,
    jax_partials,
    jax_steps,
    laplacian_truth,
    laplacian_work,
    minijac_gradients,
    minijac_step,
    own_blocks_truth,
    partials_truth,
    partials_work,
    scalar,
    step_truth,
    torch_gradients,
    torch_hessians,
    torch_laplacians,
    torch_own_blocks,
    torch_partials,
    torch_steps,
)
from networks import (
    ARMS,
    BUMPS,
    BURGERS,
    CONVOLUTIONS,
    RESIDUALS,
    TRANSFORMERS,
    batch_of,
    bump,
    chain_work,
    convolution_data,
    from_columns,
    from_diagonal,
    halves_in_jax,
    halves_in_torch,
    jax_diagonal,
    mlp,
    mlp_workload,
    residual_data,
    three_columns,
    torch_diagonal,
    torch_mlp,
    transformer_data,
)
from programs import ARM, PROGRAMS, axon_step
from ways import (
    Call,
    Function,
    Workload,
    jacobian_workload,
    jax,
    jax_jacobians,
    jnp,
    network_data,
    planned,
    result_only,
    torch,
)

import minijac as mj

POINTS = (2, 64, 64, 64, 1)


def program_workload(
    name: str, program: str, outputs: int, constants: Sequence[Any] = (), in_jax: Function | None = None
) -> Workload:
    """The Jacobian of one of `programs.py`; `in_jax` is JAX's own form of it."""
    function, x = PROGRAMS[program]
    single = {"x": x.astype(np.float32), "constants": [array.astype(np.float32) for array in constants]}

    def of(xp: Any) -> Function:
        return lambda d: lambda x: function(xp, x, *d["constants"])

    work = result_only(len(x) * outputs * x[0].size)
    functions = of(np), of(torch), in_jax or of(jnp)
    return jacobian_workload(name, f"{program}, B={len(x)}", lambda: single, functions, work, compiled=())


def axon_in_jax(d: Any) -> Function:
    return lambda s: jax.lax.scan(lambda s, _: (axon_step(jnp, s), None), s, None, 200)[0]


_ALL = (
    mlp_workload("thread", 3, (5, 2, 10), "sigmoid"),
    mlp_workload("mlp-wide", 256, (32, 256, 256, 32)),
    mlp_workload("mlp-512", 512, (10, 512, 512, 10)),
    mlp_workload("mlp-deep", 8192, (3, 64, 64, 64, 64, 3)),
    mlp_workload("autoencoder", 16, (784, 256, 32, 256, 784), torch_by_hand=halves_in_torch, jax_by_hand=halves_in_jax),
    jacobian_workload(
        "elementwise", "sin(x) exp(-x²), B=64, D=256, dense", batch_of(64, 256), BUMPS, result_only(64 * 256 * 256)
    ),
    jacobian_workload(
        "elementwise-structured",
        "the same, structured",
        batch_of(64, 256),
        BUMPS,
        result_only(2 * 64 * 256),
        structured=True,
        torch=torch_diagonal,
        jax=lambda d: {**jax_jacobians(bump(jnp), d["x"]), **jax_diagonal(d)},
        arrange=from_diagonal,
        compiled=("jvp of ones",),
    ),
    jacobian_workload(
        "burgers", "Burgers' right-hand side, n=256, B=64, dense", batch_of(64, 256), BURGERS, result_only(64 * 256**2)
    ),
    jacobian_workload(
        "burgers-structured",
        "the same, structured (peers dense)",
        batch_of(64, 256),
        BURGERS,
        result_only(4 * 64 * 256),
        structured=True,
        jax_by_hand=three_columns,
        arrange=from_columns,
    ),
    jacobian_workload("arm", "arm with 7 joints, B=4096", batch_of(4096, 7), ARMS, result_only(4096 * 28)),
    jacobian_workload(
        "transformer",
        "transformer block, T=8, d=32, B=16",
        transformer_data,
        TRANSFORMERS,
        planned(TRANSFORMERS[0]),
    ),
    jacobian_workload(
        "residual", "8 residual blocks, width 64, B=256", residual_data, RESIDUALS, planned(RESIDUALS[0])
    ),
    jacobian_workload(
        "convolution", "two convolutions, 16 x 16, B=32", convolution_data, CONVOLUTIONS, planned(CONVOLUTIONS[0])
    ),
    Workload(
        "laplacian",
        "Laplacian, 50-256-256-1 tanh, B=128",
        partial(network_data, 128, (50, 256, 256, 1)),
        lambda d: Call(mj.laplacian(scalar(mlp(d, np.tanh))), (d["x"],)),
        torch_laplacians,
        jax_laplacians,
        laplacian_truth,
        laplacian_work,
        compiled=("vmap(jvp of grad)", "vmap(jvp of jvp)"),
        jax_by_hand=forward_laplacian,
    ),
    Workload(
        "partials",
        "u, u_t, u_x, u_xx, 2-64-64-64-1 tanh, B=4096",
        partial(network_data, 4096, POINTS),
        lambda d: Call(mj.partials(scalar(mlp(d, np.tanh)), INDICES), (d["x"],)),
        lambda d: {k: Call(way, (d["x"],)) for k, way in torch_partials(scalar(torch_mlp(d, torch.tanh))).items()},
        lambda d: {k: Call(jax.vmap(way), (d["x"],)) for k, way in jax_partials(scalar(mlp(d, jnp.tanh))).items()},
        partials_truth,
        partials_work,
        compiled=("jvp of grad", "jvp of jvp"),
    ),
    Workload(
        "pinn-step",
        "training step on its residual, B=4096",
        partial(network_data, 4096, POINTS),
        minijac_step,
        torch_steps,
        jax_steps,
        step_truth,
        partial(partials_work, passes=3),
        compiled=("grad of jvp of grad", "grad of jvp of jvp"),
        per_sample=False,
    ),
    Workload(
        "hessian",
        "Hessian, 10-64-64-1 tanh, B=256",
        partial(network_data, 256, (10, 64, 64, 1)),
        lambda d: Call(mj.hessian(scalar(mlp(d, np.tanh))), (d["x"],)),
        torch_hessians,
        jax_hessians,
        hessian_truth,
        hessian_work,
        compiled=("vmap(jacfwd(jacrev))", "jacrev of sum of grad"),
    ),
    Workload(
        "sample-gradients",
        "gradient of each sample's loss, 32-128-10, B=256",
        classifier_data,
        minijac_gradients,
        torch_gradients,
        jax_gradients,
        gradients_truth,
        gradients_work,
        compiled=("vmap(grad)",),
    ),
    Workload(
        "batch-statistics",
        "batch statistics, exact diagonal, 16-32-8, B=64",
        partial(network_data, 64, (16, 32, 8)),
        lambda d: Call(mj.jacobian(batch_normalised(d, np.tanh, np.sqrt), on_mixing="diagonal"), (d["x"],)),
        torch_own_blocks,
        jax_own_blocks,
        own_blocks_truth,
        lambda d: chain_work(64, (16, 32, 8)),
        compiled=("own jacrev", "own jacfwd"),
        jax_by_hand=closed_form,
    ),
    program_workload("inverse-dynamics", "inverse dynamics", 6, ARM),
    program_workload("camera", "camera, 20,000", 2),
    program_workload("kinetics", "kinetics", 6),
    program_workload("axon", "axon, 200 steps", 4, in_jax=axon_in_jax),
    program_workload("finite-volumes", "finite volumes", 64),
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}
