"""Where a view lies in its root: strides and an offset, as torch has them, read and written by minijac's operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..errors import MutationError, UnsupportedOperationError
from ..lines import user_line
from ..ops.families import Elementwise
from ..tape.trace import Trace
from ..tape.traced import Traced, traced

__all__ = ["Known", "Layout", "Place", "contiguous", "layout_of", "order", "refuse_unordered"]

Shape = tuple[int, ...]


class Place(NamedTuple):
    """Where a tensor lies in its root's memory, as torch counts it: in entries."""

    shape: Shape
    strides: Shape
    offset: int = 0

    @lru_cache(4096)  # noqa: B019 - a tuple of numbers
    def permuted(self, order: Sequence[int]) -> Place:
        return Place(tuple([self.shape[k] for k in order]), tuple([self.strides[k] for k in order]), self.offset)

    def item(self, index: Any) -> Part | None:
        """Of an index of integers, slices, None and an ellipsis; None where it has others."""
        parts: list[Any] = []
        for part in index if type(index) is tuple else (index,):
            if type(part) is slice:  # which cannot be hashed
                part = part.start, part.stop, part.step
                if not {type(bound) for bound in part} <= _BOUND:
                    return None
            elif type(part) is not int and part is not None and part is not Ellipsis:
                return None
            parts.append(part)
        return self.taken(tuple(parts))

    @lru_cache(4096)  # noqa: B019 - a tuple of numbers
    def taken(self, index: tuple[Any, ...]) -> Part | None:
        axes = list(zip(self.shape, self.strides, strict=True))
        rest, found, offset = len(axes) - sum(type(part) in (int, tuple) for part in index), [], self.offset
        basic: list[Any] = []
        if rest < 0:
            return self, None
        for part in index if Ellipsis in index else (*index, Ellipsis):
            if type(part) is int:
                n, stride = axes.pop(0)
                if not -n <= part < n:
                    return self, None
                offset += part % n * stride
                basic.append(part)
            elif type(part) is tuple:
                n, stride = axes.pop(0)
                start, stop, step = slice(*part).indices(n)
                if step < 1:
                    return None
                offset += start * stride if stop > start else 0
                found.append((len(range(start, stop, step)), step * stride))
                basic.append(WHOLE if (start, stop, step) == (0, n, 1) else slice(start, stop, step))
            elif part is None:
                found.append((1, axes[0][0] * axes[0][1] if axes else 1))
                basic.append(None)
            else:
                found += axes[:rest]
                del axes[:rest]
                basic += [WHOLE] * rest
        place = Place(tuple([n for n, _ in found]), tuple([s for _, s in found]), offset)
        return place, () if basic.count(WHOLE) == len(basic) else tuple(basic)


Part = tuple[Place, tuple[Any, ...] | None]
"""Where a part lies, and the slices, integers and None that name it, none where it is all; None: there is no such."""
WHOLE = slice(None)
_BOUND = {int, type(None)}


@lru_cache(1024)
def contiguous(shape: Shape) -> Place:
    strides, stride = [], 1
    for n in reversed(shape):
        strides.append(stride)
        stride *= max(n, 1)
    return Place(shape, tuple(reversed(strides)))


Known = dict[tuple[int, int], int]
"""What `order` found of followed values, and what torch's operations tell of their results."""


def order(value: Any, known: Known) -> int:
    """How a value lies where torch computes it: 2 in order from the start of its memory on, 1 in order, 0 not known.

    An array tells, and what is made entry by entry of such ones torch lays out as its operands.
    """
    found, seen = [_beneath(value, known)], []
    while found:
        x = found.pop()
        if not isinstance(x, Traced):
            own = (1 if _offset(x.base) else 2) if isinstance(x, np.ndarray) and x.flags.c_contiguous else 0
        elif (key := (x.home.serial, x.index)) in known:
            own = known[key]
        else:
            operands = _operands(x)
            if operands is not None:
                known[key] = 2  # unless one of them is not
                seen.append(key)
                found += [_beneath(operand, known) for operand in operands]
                continue
            own = 0
        if not own:
            known.update(dict.fromkeys(seen, 0))
            return 0
    return 2 if seen else own


def _beneath(x: Any, known: Known) -> Any:
    """What an input of a trace stands for."""
    while isinstance(x, Traced) and (x.home.serial, x.index) not in known:
        node = x.home.nodes[x.index] if x.index >= 0 and type(x.home) is Trace else None
        if x.index >= 0 and (node is None or node.op is not None):
            break
        x = x.value if node is None else node.out
    return x


def _operands(x: Traced) -> list[Any] | None:
    """Of which it is made entry by entry; None where it is not, or where one of them lies is not known."""
    node = x.home.nodes[x.index] if type(x.home) is Trace else None
    if node is None or not isinstance(node.op, Elementwise):
        return None
    pairs = list(zip(node.parents, node.args, strict=True))
    if not all(p >= 0 or isinstance(arg, Traced) or _row(arg) for p, arg in pairs):  # kept as a copy, laid out anew
        return None
    return [traced(x.home, p, arg) if p >= 0 else arg for p, arg in pairs if p >= 0 or isinstance(arg, Traced)]


def _offset(tensor: Any) -> int:
    """Where a tensor begins in its memory."""
    return int(tensor.storage_offset()) if hasattr(tensor, "storage_offset") else 0


def _row(x: Any) -> bool:
    return sum(n != 1 for n in np.shape(x)) < 2


def refuse_unordered(operation: str, in_order: bool) -> None:
    """An error where an operation goes by where entries lie in torch's memory, and that is not known."""
    if not in_order:
        raise UnsupportedOperationError(
            f"{operation} at {user_line()}: expected a tensor of which minijac.torch knows that torch has its entries "
            "in order (contiguous): an argument that is, or what is computed entry by entry of such ones, got another. "
            "Write x.clone(memory_format=torch.contiguous_format) before it."
        )


class Layout(NamedTuple):
    """A view as ``root.reshape(split)[index]``, its axes in another order, then shaped and broadcast."""

    root: Shape
    split: Shape
    index: Any
    order: tuple[int, ...]
    single: Shape
    shape: Shape

    def read(self, root: Any) -> Any:
        value = root if self.split == self.root else np.reshape(root, self.split)
        value = value[self.index] if self.index else value
        if self.order != tuple(range(len(self.order))):
            value = np.transpose(value, self.order)
        value = value if value.shape == self.single else np.reshape(value, self.single)
        return value if self.single == self.shape else np.broadcast_to(value, self.shape)

    def write(self, root: Any, new: Any, put: Callable[..., Any]) -> Any:
        """The root with `new` in place of the view."""
        if self.single != self.shape:
            raise MutationError(
                f"a write at {user_line()}: got a view of shape {self.shape} whose entries share memory (an expanded "
                "tensor). Write to a .clone() of it."
            )
        if isinstance(self.index, tuple) and self.index and isinstance(self.index[0], np.ndarray):
            new = np.reshape(new, self.index[0].shape)
        else:
            picked = tuple([n for n in self.single if n != 1])
            back = tuple([self.order.index(k) for k in range(len(self.order))])
            new = np.transpose(np.reshape(new, picked), back) if back else np.reshape(new, ())
            if all(item == slice(0, n, 1) for item, n in zip(self.index, self.split, strict=True)):
                return np.reshape(new, self.root)
        value = root if self.split == self.root else np.reshape(root, self.split)
        value = put(value, self.index, new)
        return value if self.split == self.root else np.reshape(value, self.root)


def layout_of(root: Shape, shape: Shape, strides: Sequence[int], offset: int) -> Layout:
    """The layout of a view by its strides over a contiguous root: slices where they fit, else positions."""
    long = [(s, n, axis) for axis, (n, s) in enumerate(zip(shape, strides, strict=True)) if n != 1 and s != 0]
    single = tuple([1 if s == 0 else n for n, s in zip(shape, strides, strict=True)])
    long.sort(key=lambda item: -item[0])
    for start in (root, (prod(root),)):
        found = _slices(start, [(s, n) for s, n, _ in long], offset) if prod(shape) else None
        if found is not None:
            split, index = found
            axes = [axis for _, _, axis in long]
            return Layout(root, split, index, tuple([axes.index(k) for k in sorted(axes)]), single, shape)
    positions = np.full(single, offset)
    for axis, (n, s) in enumerate(zip(single, strides, strict=True)):
        positions = positions + (np.arange(n) * s).reshape((-1,) + (1,) * (len(single) - axis - 1))
    return Layout(root, (prod(root),), (positions,), (), single, shape)


def _slices(root: Shape, dims: list[tuple[int, int]], offset: int) -> tuple[Shape, tuple[Any, ...]] | None:
    """How to split a contiguous root so that each (stride, size), largest stride first, is a slice of one axis."""
    split: list[int] = []
    index: list[Any] = []
    remaining = list(dims)
    inner = prod(root)
    for size in root:
        inner //= size or 1
        start = offset // inner % size if size else 0
        own = []
        while remaining and remaining[0][0] >= inner:
            stride, n = remaining.pop(0)
            if stride % inner:
                return None
            own.append((stride // inner, n))
        while own:
            stride, n = own.pop(0)
            if not own:  # the last one takes its steps
                if start + (n - 1) * stride >= size:
                    return None
                split.append(size)
                index.append(slice(start, start + (n - 1) * stride + 1, stride))
                if (start, n, stride) == (0, size, 1):
                    index[-1] = slice(0, size, 1)
                break
            if size % stride or start // stride + n > size // stride:
                return None
            split.append(size // stride)
            index.append(slice(start // stride, start // stride + n, 1))
            size, start = stride, start % stride
        else:
            split.append(size)
            index.append(start)
    return None if remaining else (tuple(split), tuple(index))
