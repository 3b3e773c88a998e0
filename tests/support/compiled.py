"""What the tests of compiled functions share: when results are the same, and functions of every kind to compile."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
from helpers import MODES, net, random

import minijac as mj

B = 3
X = random(B, 5, seed=11)
OTHER = random(B, 5, seed=12)


def same(actual: Any, expected: Any, rtol: float = 1e-12) -> None:
    """One tree, and at each leaf one type, dtype and shape, and numbers equal to rounding."""
    flat, tree = optree.tree_flatten(actual, namespace="minijac")
    truth, true_tree = optree.tree_flatten(expected, namespace="minijac")
    assert tree == true_tree
    for y, z in zip(flat, truth, strict=True):
        assert type(y) is type(z), f"{type(y)}, expected {type(z)}"
        if isinstance(z, np.ndarray | np.generic):
            assert y.dtype == z.dtype
            assert y.shape == z.shape
            if np.asarray(z).dtype.kind == "f":
                rtol = max(rtol, 50 * np.finfo(z.dtype).eps)
                scale = np.abs(z[np.isfinite(z)]).max(initial=1.0)
                np.testing.assert_allclose(y, z, rtol=rtol, atol=rtol * scale)
            else:
                np.testing.assert_array_equal(y, z)
        else:
            assert y == z


def agrees(fn: Any, *calls: Any, rtol: float = 1e-12, misses: int = 1) -> Any:
    """Each call gives what the function itself gives; it was recorded `misses` times. Returns the compiled function."""
    compiled = mj.compile(fn)
    for args in calls:
        with np.errstate(all="ignore"):
            same(compiled(*args), fn(*args), rtol)
    assert compiled.cache_info().misses == misses
    return compiled


# --- functions to compile ---------------------------------------------------------------------------------------------


def scalar_net(x: Any) -> Any:
    return np.tanh(net(x)).sum(axis=1)


def field(x: Any) -> Any:
    return np.sin(x) * x[:, ::-1] + x.sum(axis=1, keepdims=True)


TRANSFORMED = {
    "the function": net,
    **{f"jacobian {mode}": mj.jacobian(net, mode=mode) for mode in MODES},
    **{f"value_and_jacobian {mode}": mj.value_and_jacobian(net, mode=mode) for mode in MODES},
    "jacobian in chunks": mj.jacobian(net, mode="forward", chunk_size=2),
    "jacobian, samples mixing": mj.jacobian(lambda x: net(x) - net(x).mean(axis=0), on_mixing="diagonal"),
    "full jacobian": mj.jacobian(lambda x: net(x) - net(x).mean(axis=0), on_mixing="full"),
    "ordinary jacobian": mj.jacobian(net, batch_axis=None),
    "jacobian of an elementwise function": mj.jacobian(lambda x: np.sin(x) * x),
    "jacobian of shifts": mj.jacobian(lambda x: np.roll(x, 1, axis=1) * x - x[:, ::-1]),
    "hessian": mj.hessian(scalar_net),
    "value_and_hessian": mj.value_and_hessian(scalar_net),
    "laplacian": mj.laplacian(scalar_net),
    "value_and_laplacian": mj.value_and_laplacian(scalar_net),
    "hessian_diagonal": mj.hessian_diagonal(scalar_net),
    "divergence": mj.divergence(field),
    "value_and_divergence": mj.value_and_divergence(field),
    "grad": mj.grad(lambda x: (net(x) ** 2).sum()),
    "value_and_grad": mj.value_and_grad(lambda x: (net(x) ** 2).mean()),
    "jvp": lambda x: mj.jvp(net, (x,), (np.cos(x),)),
    "vjp": lambda x: mj.vjp(net, x)[1](np.ones((B, 3))),
    "jacobian of jacobian": mj.jacobian(mj.jacobian(net, mode="forward"), mode="reverse"),
    "jacobian of grad": mj.jacobian(mj.grad(lambda x: (net(x) ** 3).sum()), on_mixing="diagonal"),
    "third derivative": mj.jacobian(mj.hessian(lambda x: (x**4).sum(axis=1))),
    "partials": lambda x: mj.partials(scalar_net, [(), (0,), (0, 1), (2, 2)])(x),
    "with aux": mj.jacobian(lambda x: (net(x), {"x": x * 2.0, "name": "net", "n": 3}), has_aux=True),
}
"""A function for each transformation, of an array like `X`."""

RESULTS: dict[str, Any] = {
    "input": lambda x: x,
    "views": lambda x: (x.T, x[:, ::-1], x.reshape(5, 3), x[0], np.broadcast_to(x, (2, 3, 5))),
    "twice": lambda x: (y := np.sin(x), y, y.T, y[1:], y),
    "view first": lambda x: (np.sin(x).T, np.sin(x)),
    "captured": lambda x: (CAPTURED, CAPTURED.T, CAPTURED @ x.T),
    "constants": lambda x: (1.0, 2, np.float32(3), True, np.ones(2), x, "text", None),
    "in use after": lambda x: (y := np.exp(x), y + 1, y * y, y.sum()),
    "jacobian": mj.jacobian(net),
    "value and jacobian": mj.value_and_jacobian(np.sin),
    "sparse": mj.jacobian(lambda x: x[:, 1:] * 2.0 - x[:, :-1]),
    "zero": mj.jacobian(lambda x: np.round(x)),
    "constant jacobian": mj.jacobian(lambda x: x * 3.0),
    "large": lambda x: np.sin(np.broadcast_to(x, (4000, 3, 5))),
    "large sparse": mj.jacobian(lambda x: np.sin(np.tile(x, (1, 60)))),
    "numbers": lambda x: (x.sum(), x[0, 0], x.mean(axis=0), x.sum() * 2),
    "comparison": lambda x: (x > 0, np.isnan(x)),
}
CAPTURED = random(5, 5, seed=9)
