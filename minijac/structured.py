"""The structured Jacobian: a block with the interface of a linear operator, one matrix per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from .arguments import check_dtype
from .backend import is_array, namespace, value_of
from .block import Block, Term
from .errors import InputError
from .factors import Array, Factor, size_of
from .labels import Label, label_of, labels_in
from .tape import Traced

__all__ = ["Jacobian"]


class Jacobian:
    """A per-sample Jacobian as an operator: its structure kept, nothing made dense until asked.

    `shape` is ``(B, *out, *in)``, as of the dense array. It maps ``(B, *in)`` to ``(B, *out)``. Where the input has no
    batch axis (parameters), it maps ``(*in)`` to ``(B, *out)``.

    >>> import numpy as np, minijac as mj
    >>> J = mj.jacobian(np.sin, structured=True)(np.zeros((2, 3)))
    >>> J
    Jacobian of shape (2, 3, 3), float64: diagonal; 48 bytes of 144 dense
    >>> J @ np.ones((2, 3))
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """

    __slots__ = ("_batched", "_block", "_like", "dtype")

    def __init__(self, block: Block, dtype: Any, like: Array, batched: bool) -> None:
        self._block = block
        self._like = like
        self._batched = batched
        self.dtype = dtype

    @property
    def block(self) -> Block:
        """The labelled block behind the operator, with the batch axis first on both sides."""
        return self._block

    @property
    def shape(self) -> tuple[int, ...]:
        inp = self._block.inp_shape
        return (*self._block.out_shape, *(inp[1:] if self._batched else inp))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data that the structure holds."""
        arrays = {
            id(f.array): f.array for term in self._block.terms for f in term.factors if hasattr(f.array, "nbytes")
        }
        return sum(array.nbytes for array in arrays.values())

    @property
    def T(self) -> Jacobian:
        """The transpose of each sample's matrix: maps ``(B, *out)`` to ``(B, *in)``."""
        return Jacobian(self._block.T, self.dtype, self._like, self._batched)

    def __matmul__(self, v: Any) -> Any:
        """The product with one vector per sample.

        Args:
            v: ``(B, *in)``; returns ``(B, *out)``. Another Jacobian gives the composition.
        """
        if isinstance(v, Jacobian):
            if v._block.out_shape != self._block.inp_shape:
                raise InputError(
                    f"J @ K: expected K to end in shape {self._block.inp_shape}, got {v._block.out_shape}."
                )
            return Jacobian(self._block @ v._block, np.result_type(self.dtype, v.dtype), self._like, self._batched)
        if not is_array(v) and not isinstance(v, Traced):
            raise InputError(f"J @ v: expected an array of shape {self._block.inp_shape}, got {type(v).__name__}.")
        if v.shape != self._block.inp_shape:
            raise InputError(f"J @ v: expected v of shape {self._block.inp_shape} (B, *in), got {v.shape}.")
        check_dtype(v.dtype, f"v of shape {v.shape}", "Cast it with .astype(float).")
        product = self._block @ Block.column(v)
        return product.dense(np.result_type(self.dtype, v.dtype), v)

    def split(self) -> tuple[list[Array], Callable[[Sequence[Array]], Jacobian]]:
        """The arrays that hold the data, and the function that makes the same structure of others in their place."""
        block = self._block
        arrays = {id(f.array): f.array for term in block.terms for f in term.factors}
        place = {key: n for n, key in enumerate(arrays)}
        shapes = [[(place[id(f.array)], f.axes) for f in term.factors] for term in block.terms]
        like, dtype, batched = block.one, self.dtype, self._batched

        def join(new: Sequence[Array]) -> Jacobian:
            terms = [
                Term(t.out, t.inp, tuple(Factor(new[n], axes) for n, axes in factors), t.scale)
                for t, factors in zip(block.terms, shapes, strict=True)
            ]
            return Jacobian(Block(block.out_shape, block.inp_shape, terms, like), dtype, like, batched)

        return list(arrays.values()), join

    def todense(self) -> Any:
        """The array of shape ``(B, *out, *in)``, newly made."""
        block = self._block.paired(0, 0) if self._batched else self._block
        return block.dense(self.dtype, self._like)

    def diagonal(self) -> Any:
        """The diagonal of each sample's square matrix: ``(B, *in)``, for ``*out`` equal to ``*in``."""
        block = self._block
        out, inp = block.out_shape, block.inp_shape
        if out != inp:
            raise InputError(f"J.diagonal(): expected output and input of one shape, got {out} and {inp}.")
        for k in range(len(out)):
            block = block.paired(k, 0)
        return block.dense(self.dtype, self._like)

    def tosparse(self, i: int) -> Any:
        """Sample `i` as a SciPy sparse matrix (CSR) of shape ``(prod(out), prod(in))``, without making it dense.

        Needs SciPy (``pip install minijac[sparse]``).
        """
        from scipy.sparse import coo_array

        block = self._block
        if not self._batched:
            raise InputError("J.tosparse(i): expected a Jacobian with samples in output and input.")
        batch = block.out_shape[0]
        if not -batch <= i < batch:
            raise InputError(f"J.tosparse(i): expected a sample within the {batch}, got {i}.")
        shape = (prod(block.out_shape[1:]), prod(block.inp_shape[1:]))
        rows, columns, values = [], [], []
        for term in block.paired(0, 0).terms:
            row, column, value = _entries(term, i % batch, block.out_shape, block.inp_shape[1:])
            rows.append(row)
            columns.append(column)
            values.append(value.astype(self.dtype))
        if not rows:
            return coo_array(shape, dtype=self.dtype).tocsr()
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return coo_array(entries, shape=shape).tocsr()

    def __repr__(self) -> str:
        structure = " + ".join(describe(term, self._batched) for term in self._block.terms) or "zero"
        dense = prod(self.shape) * np.dtype(self.dtype).itemsize
        return f"Jacobian of shape {self.shape}, {self.dtype}: {structure}; {self.nbytes} bytes of {dense} dense"


def _entries(term: Term, sample: int, out_shape: tuple[int, ...], inp_shape: tuple[int, ...]) -> Any:
    """Row, column and value of the entries of one sample of one term."""
    labels = tuple(labels_in((*term.out, *term.inp)))
    index: dict[Label, Any] = {}
    batch = term.out[0]
    lead = [label_of(digit) for digit in batch]
    ranges = [np.arange(label.size) for label in labels]
    grid = np.meshgrid(*ranges, indexing="ij") if labels else []
    index = dict(zip(labels, grid, strict=True))
    positions = [_position(axis, index) for axis in (*term.out, *term.inp)]
    shape = tuple(label.size for label in labels)
    factor = term.one_factor()
    from .block import spread

    value = spread(factor, labels) if labels else np.asarray(factor.array)
    keep = np.broadcast_to(np.asarray(positions[0] == sample), shape)
    del lead
    row = _flat(positions[1 : len(out_shape)], out_shape[1:], shape)[keep]
    column = _flat(positions[len(out_shape) :], inp_shape, shape)[keep]
    host = value.get() if hasattr(value, "get") else value
    return row, column, np.broadcast_to(host, shape)[keep]


def _position(axis: Any, index: dict[Label, Any]) -> Any:
    position: Any = 0
    for digit in axis:
        if type(digit) is Label:
            position = position * digit.size + index[digit]
        else:
            label, size, offset, step = digit
            position = position * size + offset + (0 if label is None else step * index[label])
    return position


def _flat(positions: Any, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    flat: Any = 0
    for position, size in zip(positions, sizes, strict=True):
        flat = flat * size + position
    return np.broadcast_to(flat, shape)


def describe(term: Term, batched: bool) -> str:
    """The structure of a term in words: diagonal, banded with its offset, shared, dense, a product."""
    out, inp = (term.out[1:], term.inp[1:]) if batched else (term.out, term.inp)
    mine, theirs = labels_in(out), labels_in(inp)
    paired = [label for label in mine if label in theirs]
    words = []
    if out == inp and len(paired) == len(mine):
        words.append("diagonal")
    elif len(paired) == len(mine) == len(theirs):
        words.append(f"banded ({_offsets(out, inp)})")
    elif paired:
        words.append("block diagonal")
    else:
        words.append("dense")
    batch_labels = labels_in((term.out[0],)) if batched and term.out else {}
    if not any(label in factor.axes for factor in term.factors for label in batch_labels):
        words.append("shared by all samples")
    if not term.factors:
        words.append("constant")
    if len(term.factors) > 1:
        words.append(f"product of {len(term.factors)} factors")
    return ", ".join(words)


def _offsets(out: Any, inp: Any) -> str:
    """How far each input axis is ahead of the output axis: one number where only one axis is shifted."""
    shifts = []
    for a, b in zip(out, inp, strict=False):
        for left, right in zip(a, b, strict=False):
            o1, s1 = (0, 1) if type(left) is Label else (left.offset, left.step)
            o2, s2 = (0, 1) if type(right) is Label else (right.offset, right.step)
            shifts.append(f"{o2 - o1:+d}" if s1 == s2 else f"{o1}+{s1}k to {o2}+{s2}k")
    moved = [shift for shift in shifts if shift != "+0"]
    return "offset " + ", ".join(moved or shifts)


def nbytes_dense(shape: tuple[int, ...], dtype: Any) -> int:
    return prod(shape) * int(np.dtype(dtype).itemsize)


_ = (namespace, value_of, size_of)
