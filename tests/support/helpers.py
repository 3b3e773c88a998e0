"""References, comparisons and small functions that the black-box tests share."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

MODES = ("forward", "reverse", "mixed", "auto")
POLICIES = ("raise", "diagonal", "full")


def random(*shape: int, seed: int = 0, dtype: Any = np.float64, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Uniform numbers of the given shape, the same ones for the same arguments."""
    numbers = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
    return np.asarray(numbers, dtype=dtype)


# --- the thread's network, in NumPy and in torch ------------------------------------------------------------

IN, HIDDEN, OUT = 5, 4, 3
W1, B1 = random(IN, HIDDEN, seed=1), random(HIDDEN, seed=2)
W2, B2 = random(HIDDEN, OUT, seed=3), random(OUT, seed=4)


def net(x: Any) -> Any:
    """x: (B, IN) -> (B, OUT)."""
    return np.tanh(x @ W1 + B1) @ W2 + B2


def torch_net(x: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tanh(x @ tensor(W1) + tensor(B1)) @ tensor(W2) + tensor(B2)


def net_jacobian(x: np.ndarray) -> np.ndarray:
    """The Jacobian of `net` by hand, x: (B, IN) -> (B, OUT, IN)."""
    slope = 1.0 - np.tanh(x @ W1 + B1) ** 2
    return np.einsum("ih,bh,ho->boi", W1, slope, W2)


def parameters() -> dict[str, np.ndarray]:
    return {"w": random(3, 4, seed=5), "b": random(4, seed=6), "v": random(4, 2, seed=7)}


def parametric_net(p: Any, x: Any) -> Any:
    """p: `parameters()`, x: (B, 3) -> (B, 2)."""
    return np.tanh(x @ p["w"] + p["b"]) @ p["v"]


def torch_parametric_net(p: Any, x: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tanh(x @ p["w"] + p["b"]) @ p["v"]


# --- torch references ---------------------------------------------------------------------------------------


def tensor(a: Any, requires_grad: bool = False) -> Any:
    """A float64 torch copy of `a`."""
    torch = pytest.importorskip("torch")
    return torch.tensor(np.array(a, dtype=np.float64), dtype=torch.float64, requires_grad=requires_grad)


def torch_full_jacobian(torch_f: Callable, x: np.ndarray) -> np.ndarray:
    """The whole Jacobian (*out, *in), nothing taken out, by torch's own `functional.jacobian` in float64."""
    torch = pytest.importorskip("torch")
    return torch.autograd.functional.jacobian(torch_f, tensor(x)).numpy()


def torch_nested(torch_f: Callable, order: int) -> Callable:
    """`torch_f` differentiated `order` times by nested reverse mode: t -> (*out, *in, ..., *in)."""
    torch = pytest.importorskip("torch")
    for _ in range(order):
        torch_f = torch.func.jacrev(torch_f)
    return torch_f


def loop_reference(
    torch_f: Callable,
    *args: Any,
    argnum: int = 0,
    batch_axis: Sequence[int | None] | int | None = 0,
    order: int = 1,
) -> np.ndarray:
    """Per-sample derivatives by a loop of nested torch reverse mode in float64: (B, *out, *in, ..., *in).

    `torch_f` gets a batch of one sample, in the layout of `args`, and returns it batch-first.
    """
    axes = tuple(batch_axis) if isinstance(batch_axis, tuple) else (batch_axis,) * len(args)
    size = next(np.shape(a)[axis] for a, axis in zip(args, axes, strict=True) if axis is not None)
    samples = []
    for i in range(size):
        one = [tensor(a if axis is None else np.take(a, [i], axis)) for a, axis in zip(args, axes, strict=True)]
        derivative = torch_nested(lambda t, one=one: torch_f(*one[:argnum], t, *one[argnum + 1 :])[0], order)
        result = derivative(one[argnum]).numpy(force=True)
        own_axis = axes[argnum]
        if own_axis is not None:
            rank = np.ndim(args[argnum])
            first = result.ndim - order * rank
            result = result.squeeze(tuple(first + k * rank + own_axis % rank for k in range(order)))
        samples.append(result)
    return np.stack(samples)


def pushed(J: np.ndarray, v: np.ndarray) -> np.ndarray:
    """J v of every sample, J: (B, *out, n), v: (B, n) -> (B, *out)."""
    return np.einsum("b...i,bi->b...", J, v)


def pulled(J: np.ndarray, w: np.ndarray) -> np.ndarray:
    """J^T w of every sample, J: (B, *out, n), w: (B, *out) -> (B, n)."""
    return np.stack([w[b].reshape(-1) @ J[b].reshape(w[b].size, -1) for b in range(len(w))])


def by_columns(f: Callable[[Any], Any], shape: tuple[int, ...]) -> np.ndarray:
    """All of a linear function's Jacobian: what it makes of each unit array."""
    eye = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    columns = np.stack([f(unit) for unit in eye], -1)
    return columns.reshape((*columns.shape[:-1], *shape))


# --- comparisons --------------------------------------------------------------------------------------------


def close(actual: Any, expected: Any, rtol: float = 1e-10, atol: float = 1e-11) -> None:
    """Equal in shape and, to rounding, in value; never by broadcasting."""
    assert np.shape(actual) == np.shape(expected), f"shape {np.shape(actual)}, expected {np.shape(expected)}"
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def is_fresh_result(result: Any, *callers_arrays: np.ndarray) -> None:
    """A plain C-contiguous writable array that shares no memory with what the caller owns."""
    assert type(result) is np.ndarray
    assert result.flags.c_contiguous
    assert result.flags.writeable
    for a in callers_arrays:
        assert not np.shares_memory(result, a)


# --- messages -----------------------------------------------------------------------------------------------


def marked_line(f: Callable, mark: str = "# <- here") -> int:
    """The number of the one line of `f` that carries the mark."""
    lines, first = inspect.getsourcelines(f)
    (offset,) = [k for k, line in enumerate(lines) if mark in line]
    return first + offset


def places_named(message: str, file: str) -> list[int]:
    """The lines that a message gives beside the file's name, as `file.py:12` or `file.py", line 12`."""
    name = re.escape(os.path.basename(file))
    return [int(n) for n in re.findall(name + r"\D{1,10}(\d+)", message)]


def names_place(error: BaseException, f: Callable, mark: str = "# <- here") -> None:
    """The message names the marked line of `f`."""
    expected, found = marked_line(f, mark), places_named(str(error), inspect.getsourcefile(f) or "")
    assert expected in found, f"line {expected} not among {found} in: {error}"


def mentions(error: BaseException, *patterns: str) -> None:
    """The message holds each pattern, upper or lower case."""
    for pattern in patterns:
        assert re.search(pattern, str(error), re.IGNORECASE), f"{pattern!r} not in: {error}"


# --- a function against torch -------------------------------------------------------------------------------


def agrees_with_torch(
    f: Callable,
    torch_f: Callable,
    *args: Any,
    argnums: Sequence[int] = (0,),
    batch_axis: Any = 0,
    order: int = 1,
    rtol: float = 1e-9,
) -> None:
    """Value, and from either end the per-sample derivatives up to `order`, are those of torch, sample by sample."""
    import minijac as mj

    def same(actual: Any, expected: Any) -> None:
        close(actual, expected, rtol, rtol * max(1.0, float(np.abs(expected).max(initial=0.0))))

    same(f(*args), torch_f(*map(tensor, args)).detach().numpy())
    for k in argnums:
        first = loop_reference(torch_f, *args, argnum=k, batch_axis=batch_axis)
        for mode in ("forward", "reverse"):
            same(mj.jacobian(f, k, batch_axis=batch_axis, mode=mode)(*args), first)
        if order == 2:
            second = loop_reference(torch_f, *args, argnum=k, batch_axis=batch_axis, order=2)
            for inner, outer in (("forward", "reverse"), ("reverse", "forward")):
                once = mj.jacobian(f, k, batch_axis=batch_axis, mode=inner)
                same(mj.jacobian(once, k, batch_axis=batch_axis, mode=outer)(*args), second)
