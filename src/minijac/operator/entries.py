"""The entries of a structured Jacobian one by one: sparse matrices, and pictures of where they are."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

from ..algebra.block import Block
from ..algebra.factors import spread
from ..algebra.labels import Axis, Label, labels_in
from ..algebra.terms import Term
from ..backend import Wrapped
from ..errors import ConversionError, InputError
from ..foreign import kind_of, needing
from ..lines import user_line
from ..picks import Pick
from .arithmetic import columns

__all__ = ["Entries", "entries", "linear_operator", "sparse", "spied", "svg"]

CELLS = 40
"""Of a picture in a page, along its longer side."""


class Entries(NamedTuple):
    """Rows, columns and values of a matrix, several of one place to be added, and its shape."""

    row: Any
    column: Any
    value: Any
    shape: tuple[int, int]


def entries(block: Block, dtype: Any) -> Entries:
    """The entries of a block as a matrix ``(prod(out), prod(in))``."""
    shape = prod(block.out_shape), prod(block.inp_shape)
    found = [_of_term(term, block.out_shape, block.inp_shape, dtype) for term in block.terms]
    if not found:
        return Entries(np.zeros(0, int), np.zeros(0, int), np.zeros(0, dtype), shape)
    row, column, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Entries(row, column, value, shape)


def _of_term(term: Term, out_shape: Sequence[int], inp_shape: Sequence[int], dtype: Any) -> tuple[Any, Any, Any]:
    labels = tuple(labels_in((*term.out, *term.inp)))
    shape = tuple(label.size for label in labels)
    index: dict[Label, Any] = dict(zip(labels, np.indices(shape, sparse=True), strict=True))
    row = _flat([_position(axis, index) for axis in term.out], out_shape, shape)
    column = _flat([_position(axis, index) for axis in term.inp], inp_shape, shape)
    factor = term.one_factor()
    value = spread(factor, labels) if factor.axes else factor.array
    host = value.get() if hasattr(value, "get") else value
    return row, column, np.broadcast_to(host, shape).reshape(-1).astype(dtype)


def _position(axis: Axis, index: dict[Label, Any]) -> Any:
    position: Any = 0
    for digit in axis:
        if type(digit) is Label:
            position = position * digit.size + index[digit]
        elif type(digit) is Pick:
            position = position * digit.size + digit.over(tuple(index))
        else:
            label, size, offset, step = digit  # type: ignore[misc]
            position = position * size + offset + (0 if label is None else step * index[label])
    return position


def _flat(positions: Sequence[Any], sizes: Sequence[int], shape: tuple[int, ...]) -> Any:
    flat: Any = 0
    for position, size in zip(positions, sizes, strict=True):
        flat = flat * size + position
    return np.broadcast_to(flat, shape).reshape(-1)


def _check_plain(what: str, *arrays: Any) -> None:
    """Raise where one is traced: SciPy's matrices would drop its derivative."""
    if any(isinstance(x, Wrapped) for x in arrays):
        raise ConversionError(
            f"{what} at {user_line()}: expected a Jacobian of plain numbers, got one of traced values, whose "
            "derivative would be lost. Write J @ v, J.solve(rhs) or J.todense(), or take the Jacobian at "
            "minijac.stop_gradient(x)."
        )


def sparse(found: Entries) -> Any:
    """A SciPy sparse array (CSR). Needs SciPy (``pip install minijac[sparse]``)."""
    with needing("J.tosparse()", "SciPy", "sparse", "scipy"):
        from scipy.sparse import coo_array
    _check_plain("J.tosparse()", found.value)
    return coo_array((found.value, (found.row, found.column)), shape=found.shape).tocsr()


def linear_operator(block: Block, dtype: Any) -> Any:
    """A block as a ``scipy.sparse.linalg.LinearOperator`` of the shape of its matrix."""
    with needing("J.aslinearoperator()", "SciPy", "sparse", "scipy"):
        from scipy.sparse.linalg import LinearOperator
    _check_plain("J.aslinearoperator()", *(factor.array for term in block.terms for factor in term.factors))

    def product(map: Block, v: Any) -> Any:
        v = np.asarray(v)
        given = columns(v.reshape(*map.inp_shape, *v.shape[1:]), len(map.inp_shape))
        return (map @ given).dense(np.result_type(dtype, v), v).reshape(-1, *v.shape[1:])

    def adjoint(w: Any) -> Any:
        return np.conj(product(block.T, np.conj(w)))

    return LinearOperator(
        (prod(block.out_shape), prod(block.inp_shape)),
        matvec=lambda v: product(block, v),
        rmatvec=adjoint,
        matmat=lambda v: product(block, v),
        rmatmat=adjoint,
        dtype=np.dtype(dtype),
    )


def spied(found: Entries, title: str, ax: Any) -> Any:
    """Where a matrix has entries, drawn on new or given Matplotlib axes, which are returned."""
    with needing("J.spy()", "Matplotlib", "plots", "matplotlib"):
        import matplotlib.pyplot as plt
    if not (ax is None or hasattr(ax, "plot")):
        raise InputError(f"J.spy(ax): expected Matplotlib axes or None, got {kind_of(ax)}. A sample is J[i].spy().")
    rows, columns = found.shape
    ax = plt.subplots()[1] if ax is None else ax
    ax.plot(found.column, found.row, "s", markersize=max(1.0, min(6.0, 200.0 / max(rows, columns, 1))))
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xlabel="input", ylabel="output")
    ax.set_title(title, fontsize="small")
    return ax


def svg(found: Entries) -> str:
    """Where a matrix has entries, as a picture of at most `CELLS` squares along a side."""
    rows, columns = found.shape
    size = max(1, ceil(max(rows, columns) / CELLS))
    cells = sorted(set(zip((found.row // size).tolist(), (found.column // size).tolist(), strict=True)))
    wide, high = ceil(columns / size), ceil(rows / size)
    squares = "".join(f'<rect x="{c}" y="{r}" width="1" height="1"/>' for r, c in cells)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{4 * wide}" height="{4 * high}" '
        f'style="border: 1px solid #888"><g fill="#1f77b4">{squares}</g></svg>'
    )
