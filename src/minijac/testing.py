"""Checks of derivatives, for users and for the suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree

from .arguments import LeafAxes, batch_axes, batch_size, flatten
from .backend import astype, placed, to_host
from .errors import InputError
from .foreign import kind_of
from .transforms.first import jacobian, value_and_jacobian

__all__ = ["Errors", "check_derivatives", "compare_with_torch"]


class Errors(NamedTuple):
    """The largest absolute error, and the largest relative to the largest entry of the reference."""

    absolute: float
    relative: float


def check_derivatives(
    f: Callable[..., Any],
    *args: Any,
    order: int = 1,
    batch_axis: int | Sequence[int | None] | None = 0,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Check that forward mode, reverse mode and finite differences agree, and that samples are independent.

    Args:
        f: A batched function.
        args: Its arguments; those with floating-point leaves are differentiated.
        order: Also check the derivatives of the Jacobian, up to this order.
        batch_axis: As for `jacobian`.
        rtol: Relative tolerance against finite differences (default 1e-5 for float64, 2e-2 for float32); the modes
            are compared at 1e-9 and 2e-4.
        atol: Absolute tolerance (default: `rtol` times the largest entry, at least `rtol`).

    Raises:
        AssertionError: Two of them differ; says which entry, and by how much.
        BatchMixingError: Samples mix.

    Cost: two calls of `f` for each entry of a sample, times the order.

    >>> check_derivatives(np.tanh, np.linspace(-1.0, 1.0, 6).reshape(3, 2), order=2)
    """
    if not isinstance(order, int) or order < 1:
        raise InputError(f"order: expected an int of at least 1, got {order!r}.")
    argnums = tuple(n for n, arg in enumerate(args) if _differentiable(arg))
    if not argnums:
        raise InputError("check_derivatives: expected at least one argument with floating-point arrays, got none.")
    axes = batch_axes(batch_axis, args)
    y, J = value_and_jacobian(f, argnums, batch_axis=batch_axis, mode="forward")(*args)
    R = jacobian(f, argnums, batch_axis=batch_axis, mode="reverse")(*args)
    outputs, inputs = _leaves(y), [leaf for n in argnums for leaf in _leaves(args[n])]
    single = any(getattr(x, "dtype", None) == np.float32 for x in (*outputs, *inputs))
    for n, (a, b) in enumerate(zip(_leaves(J), _leaves(R), strict=True)):
        what = f"forward and reverse mode, Jacobian of output {n // len(inputs)} for input {n % len(inputs)}"
        _assert_close(a, b, 2e-4 if single else 1e-9, None, what)
    if single:
        rtol = 2e-2 if rtol is None else rtol
    numeric = _finite_differences(f, args, argnums, axes, outputs)
    for n, (a, b) in enumerate(zip(_leaves(J), numeric, strict=True)):
        what = f"minijac and finite differences, Jacobian of output {n // len(inputs)} for input {n % len(inputs)}"
        _assert_close(a, b, 1e-5 if rtol is None else rtol, atol, what)
    if order > 1:

        def derivative(*args: Any) -> Any:
            return jacobian(f, argnums, batch_axis=batch_axis)(*args)

        check_derivatives(derivative, *args, order=order - 1, batch_axis=batch_axis, rtol=rtol, atol=atol)


def _leaves(tree: Any) -> list[Any]:
    return flatten(tree)[0]


def _differentiable(arg: Any) -> bool:
    leaves = _leaves(arg)
    return bool(leaves) and all(
        isinstance(x, float) or getattr(getattr(x, "dtype", None), "kind", "") == "f" for x in leaves
    )


def _finite_differences(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    argnums: tuple[int, ...],
    axes: Sequence[LeafAxes],
    outputs: list[Any],
) -> list[Any]:
    """Central differences in float64, all samples moved at once, in the order of the Jacobian's leaves."""
    wide = [_widened(arg) if n in argnums else arg for n, arg in enumerate(args)]
    columns: list[list[Any]] = [[] for _ in outputs]
    for n in argnums:
        leaves, tree = flatten(wide[n])
        for k, leaf in enumerate(leaves):
            axis = axes[n][k]
            moved = leaf if axis is None else np.moveaxis(leaf, axis, 0)
            shape = moved.shape if axis is None else moved.shape[1:]

            def at(
                x: Any, k: int = k, n: int = n, leaves: Any = leaves, tree: Any = tree, axis: Any = axis
            ) -> list[Any]:
                back = x if axis is None else np.moveaxis(x, 0, axis)
                changed = optree.tree_unflatten(tree, [*leaves[:k], back, *leaves[k + 1 :]])
                return [to_host(y) for y in _leaves(f(*wide[:n], changed, *wide[n + 1 :]))]

            per_output: list[list[Any]] = [[] for _ in outputs]
            for index in np.ndindex(*shape):
                step = np.zeros(shape)
                step[index] = 6e-6 * max(1.0, float(np.abs(to_host(moved)).max(initial=0.0)))
                there = placed(step, moved)
                high, low = at(moved + there), at(moved - there)
                for column, a, b in zip(per_output, high, low, strict=True):
                    column.append((a - b) / (2.0 * step[index]))
            for y, row, column in zip(outputs, columns, per_output, strict=True):
                stacked = np.stack(column, -1) if column else np.zeros((*y.shape, 0))
                row.append(stacked.reshape(*y.shape, *shape))
    return [column for row in columns for column in row]


def _widened(arg: Any) -> Any:
    return optree.tree_map(lambda x: astype(x, np.float64, x), arg, namespace="minijac")


def _assert_close(a: Any, b: Any, rtol: float, atol: float | None, what: str) -> None:
    a, b = to_host(a), to_host(b)
    assert a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape} differ"
    if not a.size:
        return
    finite = np.abs(b[np.isfinite(b)])
    bound = rtol * max(1.0, float(finite.max(initial=0.0))) if atol is None else atol + rtol * np.abs(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        wrong = ~(same | (np.abs(a - b) <= bound))
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(np.abs(a - b), nan=np.inf), -1.0)), a.shape)
        place = tuple(int(n) for n in worst)
        raise AssertionError(
            f"{what} differ in {int(wrong.sum())} of {a.size} entries; most at {place}: {a[worst].item()!r} and "
            f"{b[worst].item()!r} (tolerance {np.max(bound):.1e})"
        )


def compare_with_torch(
    f: Callable[..., Any],
    torch_f: Callable[..., Any],
    *args: Any,
    batch_axis: int | Sequence[int | None] | None = 0,
    rtol: float | None = None,
    atol: float | None = None,
) -> Errors:
    """Compare per-sample Jacobians with torch's reverse mode in float64, one sample at a time.

    Args:
        f: A batched function of NumPy arrays.
        torch_f: The same function of torch tensors; it is called with batches of one sample, and returns them on
            axis 0.
        args: Arrays (pytrees of them); those of floating point are differentiated.
        batch_axis: As for `jacobian`.
        rtol, atol: Where given, an AssertionError is raised beyond them.

    Returns ``Errors(absolute, relative)``, the largest over all Jacobians. Needs torch
    (``pip install minijac[torch]``).

    >>> import torch  # doctest: +SKIP
    >>> compare_with_torch(np.tanh, torch.tanh, np.zeros((3, 2))).absolute  # doctest: +SKIP
    0.0
    """
    argnums = tuple(n for n, arg in enumerate(args) if _differentiable(arg))
    if not argnums or not callable(torch_f):
        raise InputError(
            "compare_with_torch: expected f, the same function of torch's tensors, and arguments with floating-point "
            f"arrays, got {kind_of(torch_f)} for the second and {len(argnums)} of the latter."
        )
    axes = batch_axes(batch_axis, args)
    batch = batch_size(args, axes)
    J = _leaves(jacobian(f, argnums, batch_axis=batch_axis)(*args))
    if batch == 0:
        return Errors(0.0, 0.0)
    reference = _torch_jacobians(torch_f, args, argnums, axes, batch)
    worst = Errors(0.0, 0.0)
    for n, (a, b) in enumerate(zip(map(to_host, J), reference, strict=True)):
        b = b.reshape(a.shape)
        if rtol is not None or atol is not None:
            _assert_close(a, b, rtol or 0.0, atol, f"minijac and torch, Jacobian {n}")
        error = float(np.abs(a - b).max(initial=0.0))
        scale = float(np.abs(b).max(initial=0.0))
        worst = Errors(max(worst.absolute, error), max(worst.relative, error / scale if scale else error))
    return worst


def _torch_jacobians(torch_f: Callable[..., Any], args: Any, argnums: Any, axes: Any, batch: int | None) -> list[Any]:
    """Torch's Jacobians for the arguments' arrays, one sample at a time, stacked."""
    import torch

    flat, tree = flatten(args)
    owners = [(n, axis) for n, own in enumerate(axes) for axis in own]

    def tensors(i: int) -> list[Any]:
        result = []
        for leaf, (n, axis) in zip(flat, owners, strict=True):
            x = to_host(leaf)
            if axis is not None and x.ndim:
                x = np.take(x, [i], axis)
            wide = torch.tensor(x, dtype=torch.float64 if x.dtype.kind == "f" else None)
            result.append(wide.requires_grad_(n in argnums))
        return result

    samples = []
    for i in range(1 if batch is None else batch):
        leaves = tensors(i)
        wanted = [leaf for leaf, (n, _) in zip(leaves, owners, strict=True) if n in argnums]
        outputs = _leaves(torch_f(*optree.tree_unflatten(tree, leaves)))
        for y in outputs:
            if not isinstance(y, torch.Tensor):
                raise InputError(
                    f"compare_with_torch: expected torch_f to return tensors, got {kind_of(y)}. Write it in torch's "
                    "functions."
                )
        samples.append([column for y in outputs for column in _torch_rows(torch, y, wanted)])
    return [np.stack(parts) for parts in zip(*samples, strict=True)]


def _torch_rows(torch: Any, y: Any, wanted: list[Any]) -> list[Any]:
    """The Jacobian of one sample's output for each wanted tensor, a row at a time."""
    rows: list[list[Any]] = [[] for _ in wanted]
    for entry in y.reshape(-1):
        grads = torch.autograd.grad(entry, wanted, retain_graph=True, allow_unused=True)
        for row, x, g in zip(rows, wanted, grads, strict=True):
            row.append((torch.zeros_like(x) if g is None else g).detach().numpy())
    return [np.stack(row) if row else np.zeros((0, *x.shape)) for row, x in zip(rows, wanted, strict=True)]
