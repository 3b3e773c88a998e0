"""scan and checkpoint: loops over steps that are alike, and functions whose inside is recomputed in reverse."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import numpy as np

from ..arguments import check_array, fitting, flatten, known_calls, unflatten
from ..backend import holds_array, placed, zeros
from ..errors import InputError
from ..foreign import a_function
from ..numpy.parts import concatenate, stack
from ..tape.traced import Traced
from ..ways.looping import as_loop
from ..ways.steps import as_step

__all__ = ["checkpoint", "scan"]


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, whose inside is recomputed when a derivative is accumulated instead of kept.

    Args:
        f: A function of pytrees of arrays that does the same whenever it is called: it is called again, with what it
            captures as it was. What it captures may be followed by a transformation, too.

    Cost: the memory of its operands and results in place of all that it computes; its time once more. Where a
    derivative is taken along the tape in one pass (`laplacian`, `partials`), by ``mode="mixed"``, under `max_bytes`,
    `compile` or `vmap`, it is `f` itself.

    >>> import numpy as np, minijac as mj
    >>> x = np.linspace(0.0, 1.0, 3)
    >>> mj.grad(lambda x: mj.checkpoint(lambda x: np.sin(np.exp(x)))(x).sum())(x).round(3)
    array([ 0.54 , -0.128, -2.478])
    """

    @wraps(a_function(f, "checkpoint"))
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return as_step(f, args, kwargs)

    return checkpointed


@known_calls
def scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    length: int | None = None,
    *,
    checkpoint: int | None = None,
) -> tuple[Any, Any]:
    """A loop ``carry, y = step(carry, x)`` over the rows of `xs`: the last carry, and all y stacked. As `jax.lax.scan`.

    Args:
        step: ``step(carry, x) -> (carry, y)``, of pytrees of arrays, that does the same whenever it is called: where
            it is differentiated or compiled, a few calls stand for all. The carry keeps its tree, shapes and dtypes; y
            may be None. Samples are on any axis of the carry; they are followed, and mixing names the line in `step`.
        carry: What the first step is given.
        xs: A pytree of arrays with the steps on axis 0 (samples on a later one), or None.
        length: The number of steps, needed where `xs` holds no array.
        checkpoint: Keep every k-th carry alone, and recompute what lies between when a derivative is accumulated. The
            square root of the number of steps takes the least memory.

    Returns ``(carry, ys)``: ys has the tree of y, and the steps on axis 0.

    Raises InputError where the carry changes its tree, a shape or a dtype, where lengths differ or are traced.

    Cost: that of the plain loop. A first derivative of a long loop, and a program that is compiled, is a loop again,
    whose making does not grow with the number of steps: unless a step decides by numbers, or draws random ones.

    >>> import numpy as np, minijac as mj
    >>> total, partial_sums = mj.scan(lambda c, x: (c + x, c + x), np.zeros(2), np.ones((3, 2)))
    >>> total, partial_sums[:, 0]
    (array([3., 3.]), array([1., 2., 3.]))
    """
    if not callable(step):
        raise InputError(f"scan: expected a function step(carry, x), got {type(step).__name__}.")
    if checkpoint is not None and (type(checkpoint) is not int or checkpoint < 1):
        raise InputError(f"scan: checkpoint: expected a positive int or None, got {checkpoint!r}.")
    count = _length(flatten(xs)[0], length)
    carry = _arrays(carry, flatten(xs)[0])
    expected = _described(carry)
    if not count:
        return carry, _no_steps(step, carry, xs, expected)
    if checkpoint is None:
        once = partial(_once, step, expected=expected)
        looped = as_loop(once, carry, xs, count, lambda: _run(step, carry, xs, count, expected))
        return _run(step, carry, xs, count, expected) if looped is None else looped
    parts = []
    for start in range(0, count, checkpoint):
        size = min(checkpoint, count - start)
        rows = _rows(xs, slice(start, start + size))
        carry, ys = as_step(_run, (step, carry, rows, size, expected), {})
        parts.append(flatten(ys)[0])
    tree = flatten(ys)[1]
    joined: list[Any] = [concatenate(column) for column in zip(*parts, strict=True)]
    return carry, unflatten(tree, joined)


def _length(leaves: Sequence[Any], length: Any) -> int:
    """The number of steps."""
    if isinstance(length, Traced) and length.dtype.kind in "iu":
        length = operator.index(length)
    if isinstance(length, Traced):
        raise InputError(
            f"scan: length: expected an int, got a traced value of shape {length.shape}. The number "
            "of steps cannot depend on what is differentiated: pass a plain int."
        )
    if length is not None and (not isinstance(length, int | np.integer) or isinstance(length, bool) or length < 0):
        raise InputError(f"scan: length: expected an int of at least 0 or None, got {length!r}.")
    for leaf in leaves:
        if not np.shape(leaf):
            raise InputError(
                f"scan: xs: expected arrays with the steps on axis 0, got {type(leaf).__name__} of shape ()."
            )
    counts = sorted({len(leaf) for leaf in leaves} | (set() if length is None else {int(length)}))
    if len(counts) != 1:
        got = " and ".join(map(str, counts)) or "neither"
        raise InputError(
            f"scan: expected one number of steps, axis 0 of all arrays in xs and `length`, got {got}. "
            "Put the steps on axis 0 (np.moveaxis), or pass length= where there are no xs."
        )
    return counts[0]


def _arrays(carry: Any, like: Sequence[Any]) -> Any:
    """The carry, its Python numbers as arrays."""
    leaves, tree = flatten(carry)
    home = next((leaf for leaf in (*leaves, *like) if holds_array(leaf)), 0.0)
    for leaf in leaves:
        if not isinstance(leaf, int | float | complex):
            check_array("scan: carry", leaf, "arrays or numbers (in any pytree)")
    return unflatten(tree, [leaf if hasattr(leaf, "dtype") else placed(leaf, home) for leaf in leaves])


def _described(carry: Any) -> Any:
    """What a carry has to keep: its tree, shapes and dtypes."""
    leaves, tree = flatten(carry)
    return tree, [(np.shape(leaf), getattr(leaf, "dtype", None)) for leaf in leaves]


def _once(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, x: Any, expected: Any) -> tuple[Any, Any]:
    """One step, its results looked at."""
    remedy = "Give the carry as many samples as the rows have; the steps are on axis 0 of xs."
    with fitting("scan: expected a carry that step can take with what is beside it", carry, x, remedy):
        result = step(carry, x)
    if not isinstance(result, tuple) or len(result) != 2:
        raise InputError(
            f"scan: expected step(carry, x) to return the pair (carry, y), got "
            f"{type(result).__name__}. Return (carry, None) where nothing is to be stacked."
        )
    tree, described = _described(result[0])
    if tree != expected[0]:
        raise InputError(
            f"scan: expected step to return a carry of the tree {expected[0]}, got {tree}. Return the "
            "carry as it was given."
        )
    for before, after in zip(expected[1], described, strict=True):
        if before != after:
            raise InputError(
                f"scan: expected step to keep the carry's shapes and dtypes, {before[1]}"
                f"{list(before[0])}, got {after[1]}{list(after[0])}. Start from a carry of the shape and dtype that "
                "step returns, or convert what it returns (.astype, .reshape)."
            )
    return result


def _rows(xs: Any, index: Any) -> Any:
    leaves, tree = flatten(xs)
    return unflatten(tree, [leaf[index] for leaf in leaves])


def _run(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, count: int, expected: Any
) -> tuple[Any, Any]:
    """The loop itself: the last carry, and all y stacked."""
    columns: list[list[Any]] = []
    form: Any = None
    for n in range(count):
        carry, y = _once(step, carry, _rows(xs, n), expected)
        leaves, tree = flatten(y)
        if form is None:
            form, columns = tree, [[] for _ in leaves]
        elif tree != form:
            raise InputError(f"scan: expected every step to return a y of the tree {form}, got {tree} in step {n}.")
        for column, leaf in zip(columns, leaves, strict=True):
            if column and np.shape(leaf) != np.shape(column[0]):
                raise InputError(
                    f"scan: expected every step to return a y of shape {np.shape(column[0])}, got {np.shape(leaf)} in "
                    f"step {n}, and they are stacked. Pad it, or return it in the carry."
                )
            column.append(leaf)
    stacked: list[Any] = [stack(column) for column in columns]
    return carry, unflatten(form, stacked)


def _no_steps(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, expected: Any) -> Any:
    """No y, stacked: of the shapes that a step on zeros gives."""
    leaves, tree = flatten(xs)
    row = unflatten(tree, [zeros(leaf.shape[1:], leaf.dtype, leaf) for leaf in leaves])
    _, y = _once(step, carry, row, expected)
    leaves, tree = flatten(y)
    found = [zeros((0, *np.shape(leaf)), getattr(leaf, "dtype", np.result_type(leaf)), leaf) for leaf in leaves]
    return unflatten(tree, found)
