"""The structured Jacobian: a block with the interface of a linear operator, one matrix per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from ..algebra.block import Block
from ..algebra.factors import Array, Factor, spread
from ..algebra.labels import Axes, Axis, Label, labels_in
from ..algebra.terms import Term
from ..arguments import check_dtype
from ..backend import at_home, is_array
from ..errors import ConversionError, InputError
from ..lines import user_line
from ..tape.traced import Traced
from .bands import offsets
from .solving import solve

__all__ = ["Jacobian", "describe"]


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
    __array_ufunc__ = None  # NumPy's operators leave it to this class

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ConversionError(
            f"np.asarray(J) at {user_line()}: a structured Jacobian of shape {self.shape} is no array. Ask for "
            "J.todense(), or for products with J @ v."
        )

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
            with at_home((self._like,)):
                block = self._block @ v._block
            return Jacobian(block, np.result_type(self.dtype, v.dtype), self._like, self._batched)
        with at_home((v,)) as (v,):
            self._check(v, "J @ v", "v", self._block.inp_shape, "(B, *in)")
            product = self._block @ Block.column(v)
            return product.dense(np.result_type(self.dtype, v.dtype), v)

    def split(self) -> tuple[list[Array], Callable[[Sequence[Array]], Jacobian]]:
        """The arrays that hold the data, and the function that makes the same structure of others in their place."""
        block = self._block
        arrays = {id(f.array): f.array for term in block.terms for f in term.factors}
        place = {key: n for n, key in enumerate(arrays)}
        # without the arrays themselves, which would live as long as the function
        bare = [(t.out, t.inp, [(place[id(f.array)], f.axes) for f in t.factors], t.scale) for t in block.terms]
        out_shape, inp_shape, like, dtype, batched = (
            block.out_shape, block.inp_shape, block.one, self.dtype, self._batched
        )  # fmt: skip

        def join(new: Sequence[Array]) -> Jacobian:
            terms = [
                Term(out, inp, tuple([Factor(new[n], axes) for n, axes in factors]), scale)
                for out, inp, factors, scale in bare
            ]
            return Jacobian(Block(out_shape, inp_shape, terms, like), dtype, like, batched)

        return list(arrays.values()), join

    def todense(self) -> Any:
        """The array of shape ``(B, *out, *in)``, newly made."""
        with at_home((self._like,)):
            block = self._block.paired(0, 0) if self._batched else self._block
            return block.dense(self.dtype, self._like)

    def diagonal(self) -> Any:
        """The diagonal of each sample's square matrix: ``(B, *in)``, for ``*out`` equal to ``*in``."""
        block = self._block
        out, inp = block.out_shape, block.inp_shape
        if out != inp:
            raise InputError(f"J.diagonal(): expected output and input of one shape, got {out} and {inp}.")
        with at_home((self._like,)):
            for k in range(len(out)):
                block = block.paired(k, 0)
            return block.dense(self.dtype, self._like)

    def solve(self, rhs: Any) -> Any:
        """The solution ``x`` of ``J x = rhs`` for each sample.

        Args:
            rhs: ``(B, *out)``; returns ``(B, *in)``.

        A banded J (as of a stencil; a diagonal is one) takes a banded elimination with row exchanges, for all samples
        together: about ``n * width**2`` operations each, and no dense array. Anything else is made dense and takes
        ``n**3 / 3``. On traced data the solution is differentiable, and taken densely.

        Raises InputError where J is not square or `rhs` has another shape, and numpy.linalg.LinAlgError where J is
        singular (on the GPU the solution is infinite or NaN then, as CuPy has it).

        >>> import numpy as np, minijac as mj
        >>> u, h = np.ones((2, 3)), 0.1
        >>> F = lambda v: v - u + h * v**2  # an implicit Euler step: F(v) = 0, by Newton's method
        >>> u - mj.jacobian(F, structured=True)(u).solve(F(u))
        array([[0.91666667, 0.91666667, 0.91666667],
               [0.91666667, 0.91666667, 0.91666667]])
        """
        out, inp = self._block.out_shape, self._block.inp_shape
        if prod(out) != prod(inp):
            raise InputError(f"J.solve(rhs): expected a square Jacobian, got one from {inp} to {out}.")
        with at_home((rhs,)) as (rhs,):
            self._check(rhs, "J.solve(rhs)", "rhs", out, "(B, *out)")
            return solve(self._block, rhs, self._batched, np.result_type(self.dtype, rhs.dtype))

    def tosparse(self, i: int) -> Any:
        """Sample `i` as a SciPy sparse matrix (CSR) of shape ``(prod(out), prod(in))``, without making it dense.

        Needs SciPy (``pip install minijac[sparse]``).
        """
        try:
            from scipy.sparse import coo_array
        except ImportError as error:
            raise ImportError("J.tosparse(i) needs SciPy: pip install minijac[sparse]") from error
        shape = (prod(self._block.out_shape[1:]), prod(self._block.inp_shape[1:]))
        row, column, value = self._entries(i)
        return coo_array((value, (row, column)), shape=shape).tocsr()

    def spy(self, ax: Any = None) -> Any:
        """Draw where one sample's matrix ``(prod(out), prod(in))`` has entries, on new or given Matplotlib axes.

        What is shown is the structure, whatever the values are. Returns the axes. Needs Matplotlib
        (``pip install minijac[plots]``).
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("J.spy() needs Matplotlib: pip install minijac[plots]") from error
        row, column, _ = self._entries(0)
        ax = plt.subplots()[1] if ax is None else ax
        rows, columns = prod(self._block.out_shape[1:]), prod(self._block.inp_shape[1:])
        ax.plot(column, row, "s", markersize=max(1.0, min(6.0, 200.0 / max(rows, columns, 1))))
        ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xlabel="input", ylabel="output")
        ax.set_title(self.structure, fontsize="small")
        return ax

    def _entries(self, i: int) -> tuple[Any, Any, Any]:
        """Row, column and value of all entries of sample `i`; several of one place add up."""
        block = self._block
        if not self._batched:
            raise InputError("J.tosparse(i), J.spy(): expected a Jacobian with samples in output and input.")
        batch = block.out_shape[0]
        if not -batch <= i < batch:
            raise InputError(f"J.tosparse(i), J.spy(): expected a sample within the {batch}, got {i}.")
        found = [
            _entries(term, i % batch, block.out_shape, block.inp_shape[1:], self.dtype)
            for term in block.paired(0, 0).terms
        ]
        if not found:
            return np.zeros(0, int), np.zeros(0, int), np.zeros(0, self.dtype)
        row, column, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return row, column, value

    def _check(self, v: Any, what: str, name: str, shape: tuple[int, ...], axes: str) -> None:
        if not is_array(v) and not isinstance(v, Traced):
            raise InputError(f"{what}: expected an array of shape {shape}, got {type(v).__name__}.")
        if v.shape != shape:
            raise InputError(f"{what}: expected {name} of shape {shape} {axes}, got {v.shape}.")
        check_dtype(v.dtype, f"{name} of shape {v.shape}", "Cast it with .astype(float).")

    @property
    def structure(self) -> str:
        """What kind of matrix each sample has, in words."""
        return describe(self._block.terms, self._batched)

    def __repr__(self) -> str:
        dense = prod(self.shape) * np.dtype(self.dtype).itemsize
        return f"Jacobian of shape {self.shape}, {self.dtype}: {self.structure}; {self.nbytes} bytes of {dense} dense"


# -- entries -----------------------------------------------------------------------------------------------------------
def _entries(
    term: Term, sample: int, out_shape: tuple[int, ...], inp_shape: tuple[int, ...], dtype: Any
) -> tuple[Any, Any, Any]:
    """Row, column and value of the entries of one sample of one term."""
    labels = tuple(labels_in((*term.out, *term.inp)))
    shape = tuple(label.size for label in labels)
    index: dict[Label, Any] = dict(zip(labels, np.indices(shape, sparse=True), strict=True))
    positions = [_position(axis, index) for axis in (*term.out, *term.inp)]
    factor = term.one_factor()
    value = spread(factor, labels) if factor.axes else factor.array
    host = value.get() if hasattr(value, "get") else value
    keep = np.broadcast_to(positions[0] == sample, shape)
    row = _flat(positions[1 : len(out_shape)], out_shape[1:], shape)[keep]
    column = _flat(positions[len(out_shape) :], inp_shape, shape)[keep]
    return row, column, np.broadcast_to(host, shape)[keep].astype(dtype)


def _position(axis: Axis, index: dict[Label, Any]) -> Any:
    position: Any = 0
    for digit in axis:
        if type(digit) is Label:
            position = position * digit.size + index[digit]
        else:
            label, size, offset, step = digit  # type: ignore[misc]
            position = position * size + offset + (0 if label is None else step * index[label])
    return position


def _flat(positions: Sequence[Any], sizes: Sequence[int], shape: tuple[int, ...]) -> Any:
    flat: Any = 0
    for position, size in zip(positions, sizes, strict=True):
        flat = flat * size + position
    return np.broadcast_to(flat, shape)


# -- in words ----------------------------------------------------------------------------------------------------------
def describe(terms: Sequence[Term], batched: bool) -> str:
    """The structure of a sum of terms in words: all its diagonals in one list, then the others."""
    diagonals: dict[tuple[int, ...], list[list[str]]] = {}
    words: list[str] = []
    for term in terms:
        out, inp = (term.out[1:], term.inp[1:]) if batched else (term.out, term.inp)
        off = offsets(out, inp)
        if off is not None:
            diagonals.setdefault(off, []).append(_qualities(term, batched))
        else:
            words.append(", ".join([_kind(out, inp), *_qualities(term, batched)]))
    if diagonals:
        qualities = [found for group in diagonals.values() for found in group]
        common = [quality for quality in qualities[0] if all(quality in other for other in qualities)]
        banded = f"banded ({_listed(sorted(diagonals))})" if any(map(any, diagonals)) else "diagonal"
        words.insert(0, ", ".join([banded, *common]))
    counted = {word: words.count(word) for word in words}
    return " + ".join(word if n == 1 else f"{n} x ({word})" for word, n in counted.items()) or "zero"


def _listed(found: Sequence[tuple[int, ...]]) -> str:
    def signed(offset: int) -> str:
        return f"{offset:+d}" if offset else "0"

    names = [signed(off[0]) if len(off) == 1 else f"({', '.join(map(signed, off))})" for off in found]
    return f"offset{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _kind(out: Axes, inp: Axes) -> str:
    mine, theirs = labels_in(out), labels_in(inp)
    paired = [label for label in mine if label in theirs]
    if len(paired) == len(mine) == len(theirs):
        return "entries moved"
    return "block diagonal" if paired else "dense"


def _qualities(term: Term, batched: bool) -> list[str]:
    words = []
    samples = labels_in((term.out[0],)) if batched and term.out else {}
    if not any(label in factor.axes for factor in term.factors for label in samples):
        words.append("shared by all samples")
    if not term.factors:
        words.append("constant")
    if len(term.factors) > 1:
        words.append(f"product of {len(term.factors)} factors")
    return words
