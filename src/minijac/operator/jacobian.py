"""The structured Jacobian: a block with the interface of a linear operator, one matrix per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from html import escape
from math import prod
from typing import Any, NamedTuple

import numpy as np
import optree

from ..algebra.block import Block
from ..algebra.factors import Array, Factor, size_of
from ..algebra.terms import Term
from ..arguments import DATA, check_array, check_dtype
from ..backend import astype, at_home
from ..errors import ConversionError, InputError
from ..foreign import kind_of
from ..lines import user_line
from .arithmetic import alone, broadcast, columns, entrywise, scaled, selected
from .bands import merged
from .entries import entries, linear_operator, sparse, spied, svg
from .products import Parts, diagonal, multiplied
from .solving import solve
from .words import describe

__all__ = ["Jacobian", "with_arrays"]

MOST_DRAWN = 10**6
"""Entries of the structure up to which a page shows a picture."""


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

    __slots__ = ("_batched", "_like", "_parts", "dtype")
    __array_ufunc__ = None  # NumPy's operators leave it to this class

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ConversionError(
            f"np.asarray(J) at {user_line()}: a structured Jacobian of shape {self.shape} is no array. Ask for "
            "J.todense(), or for products with J @ v."
        )

    def __init__(self, block: Block | Parts, dtype: Any, like: Array, batched: bool) -> None:
        self._parts = block if isinstance(block, tuple) else (block,)
        self._like = like
        self._batched = batched
        self.dtype = dtype

    @property
    def block(self) -> Block:
        """The labelled block behind the operator, with the batch axis first on both sides."""
        return multiplied(self._parts)

    @property
    def parts(self) -> Parts:
        """The blocks whose product it is: one, or several, where one would hold many times their numbers."""
        return self._parts

    @property
    def _ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self._parts[0].out_shape, self._parts[-1].inp_shape

    @property
    def shape(self) -> tuple[int, ...]:
        out, inp = self._ends
        return (*out, *(inp[1:] if self._batched else inp))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data that the structure holds, positions included."""
        held: list[Any] = [x for part in self._parts for term in part.terms for x in (*term.factors, *term.listed)]
        return sum({id(x.array): x.array.nbytes for x in held if hasattr(x.array, "nbytes")}.values())

    @property
    def T(self) -> Jacobian:
        """The transpose of each sample's matrix: maps ``(B, *out)`` to ``(B, *in)``."""
        return Jacobian(tuple(part.T for part in self._parts[::-1]), self.dtype, self._like, self._batched)

    # -- arithmetic ----------------------------------------------------------------------------------------------------
    def __matmul__(self, v: Any) -> Any:
        """The product with one vector per sample, or with several.

        Args:
            v: ``(B, *in)``; returns ``(B, *out)``. ``(B, *in, k)``: ``(B, *out, k)``. Another Jacobian gives the
                composition.
        """
        if isinstance(v, Jacobian):
            if v._ends[0] != self._ends[1]:
                raise InputError(f"J @ K: expected K to end in {self._ends[1]}, got {v._ends[0]}.")
            with at_home((self._like,)):
                block = self.block @ v.block
            return Jacobian(block, np.result_type(self.dtype, v.dtype), self._like, self._batched and v._batched)
        with at_home((v,)) as (v,):
            inp = self._ends[1]
            _check(self, v, "J @ v", "v", inp, "(B, *in)")
            product = reduce(lambda block, part: part @ block, self._parts[::-1], columns(v, len(inp)))
            return product.dense(np.result_type(self.dtype, v.dtype), v)

    def __add__(self, other: Any) -> Jacobian:
        """The sum with another Jacobian, a number, or an array that broadcasts to `shape`: that of the dense arrays."""
        theirs, dtype = self._operand(other, "J + K")
        with at_home((self._like,)):
            return self._new(self.block + theirs, dtype)

    def __mul__(self, other: Any) -> Jacobian:
        """The product entry by entry, that of the dense arrays: with a number, an array, or another Jacobian."""
        if isinstance(other, int | float | np.integer | np.floating):
            parts = scaled(self._parts[0], float(other)), *self._parts[1:]
            return self._new(parts, np.result_type(self.dtype, other))
        theirs, dtype = self._operand(other, "J * K")
        with at_home((self._like,)):
            return self._new(entrywise(self.block, theirs), dtype)

    def __neg__(self) -> Jacobian:
        return self._new((scaled(self._parts[0], -1.0), *self._parts[1:]), self.dtype)

    def __sub__(self, other: Any) -> Jacobian:
        return self + -other

    def __rsub__(self, other: Any) -> Jacobian:
        return -self + other

    def __truediv__(self, number: Any) -> Jacobian:
        if isinstance(number, Jacobian):
            raise InputError("J / K: expected a number or an array, got a Jacobian. For the inverse, J.solve(rhs).")
        if not isinstance(number, int | float | complex):
            check_array("J / v", number, "a number or an array")
        inverse = np.divide(1.0, number)  # infinite or NaN where the number is 0, as of the dense array
        return self * (inverse.item() if type(number) in (int, float, complex) else inverse)

    def __rmatmul__(self, w: Any) -> Any:
        raise InputError(f"w @ J: expected the Jacobian on the left, got {kind_of(w)}. Write J.T @ w.")

    def __iter__(self) -> Iterator[Jacobian]:
        return (self[i] for i in range(self.shape[0] if self._batched else 0))

    __radd__ = __add__
    __rmul__ = __mul__

    def eye(self) -> Jacobian:
        """The identity of the same shape, for ``J.eye() - h * J``. Raises InputError where J is not square."""
        out, inp = self._ends
        if out != inp:
            raise InputError(f"J.eye(): expected output and input of one shape, got {out} and {inp}.")
        return self._new(Block.identity(out, self._parts[0].one), self.dtype)

    def __getitem__(self, i: int | slice) -> Jacobian:
        """The Jacobian of sample `i`, of shape ``(*out, *in)``, or of a slice of the samples."""
        if not self._batched:
            raise InputError("J[i]: expected a Jacobian with samples in output and input. J.todense() has the entries.")
        batch = self.shape[0]
        if isinstance(i, slice):
            some = tuple(selected(part, i) for part in self._parts)
            return self._new(some if len(some) > 1 else some[0], self.dtype)
        if isinstance(i, bool) or not isinstance(i, int | np.integer) or not -batch <= i < batch:
            raise InputError(f"J[i]: expected a sample within the {batch}, or a slice of them, got {i!r}.")
        own = slice(i % batch, i % batch + 1)
        return Jacobian(tuple(alone(selected(p, own)) for p in self._parts), self.dtype, self._like, False)

    def _new(self, block: Block | Parts, dtype: Any) -> Jacobian:
        """A Jacobian of the same samples, with the terms of one diagonal made one."""
        if isinstance(block, Block) and len(block.terms) > 1:
            block = Block(block.out_shape, block.inp_shape, merged(block.terms, dtype, self._like), block.one)
        return Jacobian(block, dtype, self._like, self._batched)

    def _operand(self, other: Any, what: str) -> tuple[Block, Any]:
        """The other operand of an entrywise operation as a block, and the dtype of the result."""
        if isinstance(other, Jacobian):
            if (other.shape, other._batched) != (self.shape, self._batched):
                raise InputError(f"{what}: expected Jacobians of one shape, got {self.shape} and {other.shape}.")
            return other.block, np.result_type(self.dtype, other.dtype)
        if not isinstance(other, int | float | complex):
            check_array(what, other, "a Jacobian, a number or an array")
        dtype = np.result_type(self.dtype, other if isinstance(other, int | float | complex) else other.dtype)
        array = astype(other, dtype, self._like)
        shape = self.shape
        pairs = zip(array.shape[::-1], shape[::-1], strict=False)
        if array.ndim > len(shape) or any(m not in (1, n) for m, n in pairs):
            raise InputError(f"{what}: expected an array that broadcasts to {shape}, got {array.shape}.")
        return broadcast(array, self.block, self._batched), dtype

    def todense(self) -> Any:
        """The array of shape ``(B, *out, *in)``, newly made."""
        with at_home((self._like,)):
            block = self.block.paired(0, 0) if self._batched else self.block
            return block.dense(self.dtype, self._like)

    def diagonal(self) -> Any:
        """The diagonal of each sample's square matrix: ``(B, *in)``, for ``*out`` equal to ``*in``."""
        out, inp = self._ends
        if out != inp:
            raise InputError(f"J.diagonal(): expected output and input of one shape, got {out} and {inp}.")
        with at_home((self._like,)):
            return diagonal(self._parts, self._batched, self.dtype, self._like)

    def solve(self, rhs: Any) -> Any:
        """The solution ``x`` of ``J x = rhs`` for each sample.

        Args:
            rhs: ``(B, *out)``; returns ``(B, *in)``. Several right-hand sides, ``(B, *out, k)``: ``(B, *in, k)``.

        A banded J (as of a stencil; a diagonal is one) takes a banded elimination with row exchanges, for all samples
        together: about ``n * width**2`` operations each, and no dense array. One with entries at listed positions (a
        mesh) takes SciPy's sparse LU, where SciPy is installed. Anything else is made dense and takes ``n**3 / 3``. On
        traced data the solution is differentiable, and taken densely.

        Raises InputError where J is not square or `rhs` has another shape, and numpy.linalg.LinAlgError where J is
        singular (on the GPU the solution is infinite or NaN then, as CuPy has it).

        >>> import numpy as np, minijac as mj
        >>> u, h = np.ones((2, 3)), 0.1
        >>> F = lambda v: v - u + h * v**2  # an implicit Euler step: F(v) = 0, by Newton's method
        >>> u - mj.jacobian(F, structured=True)(u).solve(F(u))
        array([[0.91666667, 0.91666667, 0.91666667],
               [0.91666667, 0.91666667, 0.91666667]])
        """
        out, inp = self._ends
        if prod(out) != prod(inp):
            raise InputError(f"J.solve(rhs): expected a square Jacobian, got one from {inp} to {out}.")
        with at_home((rhs,)) as (rhs,):
            _check(self, rhs, "J.solve(rhs)", "rhs", out, "(B, *out)")
            return solve(self.block, rhs, self._batched, np.result_type(self.dtype, rhs.dtype))

    # -- other forms ---------------------------------------------------------------------------------------------------
    def tosparse(self, i: int | None = None) -> Any:
        """Sample `i` as a SciPy sparse array (CSR) of shape ``(prod(out), prod(in))``, without making it dense.

        None: the whole, which is block diagonal where there are samples, ``(B * prod(out), B * prod(in))``. Needs SciPy
        (``pip install minijac[sparse]``).
        """
        return sparse(entries(_matrix(self, i), self.dtype))

    def aslinearoperator(self, i: int | None = None) -> Any:
        """Sample `i`, or the whole, as a ``scipy.sparse.linalg.LinearOperator`` of the shape of `tosparse`."""
        return linear_operator(_matrix(self, i), self.dtype)

    def spy(self, ax: Any = None) -> Any:
        """Draw where the matrix of the first sample (of all, where there are none) has entries, on Matplotlib axes.

        What is shown is the structure, whatever the values are. Returns the axes. Needs Matplotlib
        (``pip install minijac[plots]``).
        """
        return spied(entries(_matrix(self, 0 if self._batched else None), self.dtype), self.structure, ax)

    def _repr_html_(self) -> str:
        head = escape(repr(self).replace(": ", "<br>", 1)).replace("&lt;br&gt;", "<br>")
        picture = ""
        if 0 not in self.shape:
            first = _matrix(self, 0 if self._batched else None)
            if sum(size_of(term.labels()) for term in first.terms) <= MOST_DRAWN:
                picture = svg(entries(first, self.dtype))
        return f"<div>{head}<br>{picture}</div>"

    @property
    def structure(self) -> str:
        """What kind of matrix each sample has, in words."""
        words = [describe(part.terms, self._batched) for part in self._parts]
        return words[0] if len(words) == 1 else " @ ".join(f"({word})" for word in words)

    def __repr__(self) -> str:
        dense = prod(self.shape) * np.dtype(self.dtype).itemsize
        return f"Jacobian of shape {self.shape}, {self.dtype}: {self.structure}; {self.nbytes} bytes of {dense} dense"


def _matrix(J: Jacobian, i: int | None) -> Block:
    if i is not None:
        return J[i].block
    return J.block.tied(0, 0) if J._batched else J.block


def _check(J: Jacobian, v: Any, what: str, name: str, shape: tuple[int, ...], axes: str) -> None:
    check_array(what, v, f"an array of shape {shape}")
    if v.shape[: len(shape)] != shape or len(v.shape) > len(shape) + 1:
        raise InputError(
            f"{what}: expected {name} of shape {shape} {axes}, or with one more axis for several, got {v.shape}."
        )
    if np.dtype(J.dtype).kind != "c" or v.dtype.kind != "c":
        check_dtype(v.dtype, f"{name} of shape {v.shape}", "Cast it with .astype(float).")


# -- as a tree of arrays -----------------------------------------------------------------------------------------------
class _Structure(NamedTuple):
    """A Jacobian without its arrays, which would live as long as a program that returns it: their numbers instead."""

    parts: Parts
    dtype: Any
    batched: bool


def _parted(J: Jacobian) -> tuple[list[Array], _Structure]:
    arrays = {id(f.array): f.array for part in J.parts for term in part.terms for f in term.factors}
    number = {key: n for n, key in enumerate(arrays)}
    bare = with_arrays(J, lambda array: number[id(array)])
    return list(arrays.values()), _Structure(bare.parts, J.dtype, J._batched)


def _joined(structure: _Structure, arrays: Sequence[Array]) -> Jacobian:
    parts, dtype, batched = structure
    return with_arrays(Jacobian(parts, dtype, parts[0].one, batched), arrays.__getitem__)


def with_arrays(J: Jacobian, new: Callable[[Any], Any]) -> Jacobian:
    """The same Jacobian with other arrays in place of its own."""
    parts = [Block(p.out_shape, p.inp_shape, [Term(
        t.out, t.inp, tuple([Factor(new(array), axes) for array, axes in t.factors]), t.scale) for t in p.terms], p.one)
        for p in J.parts]  # fmt: skip
    return Jacobian(tuple(parts), J.dtype, J._like, J._batched)


optree.register_pytree_node(Jacobian, _parted, _joined, namespace=DATA)
