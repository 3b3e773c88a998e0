"""What the transformations accept: options, positions, batch axes, leaves; and what they say to everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from itertools import islice
from math import inf
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar

import numpy as np
import optree

from .backend import check_operand, holds_array, is_array, namespace
from .errors import InputError, MinijacError
from .foreign import brief, handed_over, kind_of, needing, remedy_for
from .lines import user_line
from .tape.traced import Traced

__all__ = [
    "DATA",
    "LEAF",
    "Function",
    "Argnums",
    "BatchAxis",
    "JacobianOptions",
    "LeafAxes",
    "Mode",
    "OnMixing",
    "Options",
    "SecondOptions",
    "argument_positions",
    "batch_axes",
    "batch_size",
    "check_array",
    "check_tangent",
    "checked_options",
    "differentiable",
    "fitting",
    "flatten",
    "known_calls",
    "known_options",
    "tree_words",
    "output_leaf",
    "returned",
    "shown",
    "some_primals",
    "unflatten",
    "with_aux",
]

Function: TypeAlias = Callable[..., Any]
Argnums: TypeAlias = int | Sequence[int]
BatchAxis: TypeAlias = int | Sequence[Any] | None
"""One int or None for all arguments, or a tuple with one for each, or a tree of them where an argument is a tree."""
OnMixing: TypeAlias = Literal["raise", "diagonal", "full"]
MODES = ("forward", "reverse", "mixed", "auto")
ON_MIXING = ("raise", "diagonal", "full")
DATA = "minijac.data"
"""The namespace of pytrees in which a structured Jacobian, a leaf to transformations, is a tree of its arrays."""


class ExplicitPlan(Protocol):
    """An order of accumulation that is given in place of a mode (`accumulation.plan.Plan`)."""

    @property
    def order(self) -> Any: ...


Mode: TypeAlias = Literal["forward", "reverse", "mixed", "auto"] | ExplicitPlan


class SecondOptions(TypedDict, total=False):
    """The keywords of what takes second derivatives in one pass."""

    batch_axis: BatchAxis
    mode: Mode
    on_mixing: OnMixing
    has_aux: bool
    chunk_size: int | None
    max_bytes: int | None


class JacobianOptions(TypedDict, total=False):
    """The keywords of a Jacobian that do not change what kind of thing it returns."""

    batch_axis: BatchAxis
    mode: Mode
    on_mixing: OnMixing
    chunk_size: int | None
    max_bytes: int | None
    progress: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of a Jacobian; `checked_options` makes them."""

    argnums: Any = 0
    batch_axis: Any = 0
    mode: Any = "auto"
    on_mixing: str = "raise"
    structured: bool = False
    has_aux: bool = False
    chunk_size: Any = None
    max_bytes: Any = None
    progress: bool = False

    @property
    def leading(self) -> int:
        """How many arguments, from the first, these options speak of."""
        if self is DEFAULTS:
            return 1
        argnums = (self.argnums,) if _is_int(self.argnums) else self.argnums
        return max(*argnums, 0, len(self.batch_axis) - 1 if isinstance(self.batch_axis, tuple | list) else 0) + 1


DEFAULTS = Options()


def checked_options(**given: Any) -> Options:
    """The options given to a transformation, others by default. Raises InputError where one is wrong."""
    for name, value in given.items():
        if value is not getattr(DEFAULTS, name):
            break
    else:
        return DEFAULTS
    options = Options(**given)
    if not (hasattr(options.mode, "order") or (isinstance(options.mode, str) and options.mode in MODES)):
        raise InputError(f"mode: expected one of {', '.join(map(repr, MODES))}, got {options.mode!r}.")
    if not isinstance(options.on_mixing, str) or options.on_mixing not in ON_MIXING:
        raise InputError(f"on_mixing: expected one of {', '.join(map(repr, ON_MIXING))}, got {options.on_mixing!r}.")
    for name in ("chunk_size", "max_bytes"):
        value = getattr(options, name)
        if value is not None and (not _is_int(value) or value < 1):
            raise InputError(f"{name}: expected a positive int or None, got {value!r}.")
    for name in ("structured", "has_aux", "progress"):
        value = getattr(options, name)
        if not isinstance(value, int | np.bool_):
            raise InputError(f"{name}: expected True or False, got {value!r}.")
    argnums = options.argnums
    if not _is_int(argnums) and not (isinstance(argnums, tuple | list) and all(map(_is_int, argnums))):
        if hasattr(argnums, "shape"):
            raise InputError(
                "argnums: expected an int or a tuple of ints, got an array. A transformation takes the function, and "
                "what it returns takes the arguments: minijac.jacobian(f)(x), not minijac.jacobian(f, x)."
            )
        raise InputError(f"argnums: expected an int or a tuple of ints, got {argnums!r}.")
    if not _is_int(argnums) and not argnums:
        raise InputError("argnums: expected at least one position, got an empty tuple.")
    axis = options.batch_axis
    entries = optree.tree_leaves(tuple(axis), none_is_leaf=True, namespace="minijac") if _is_several(axis) else (axis,)
    if not all(entry is None or _is_int(entry) for entry in entries):
        raise InputError(
            "batch_axis: expected an int, None, or a tuple of these, one per argument (in it a tree of them for an "
            f"argument that is a tree), got {axis!r}."
        )
    return options


def known_options(options: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in options:
        if name not in names:
            raise InputError(f"unexpected keyword argument {name!r}: expected one of {', '.join(names)}.")


_F = TypeVar("_F", bound=Callable[..., Any])


def known_calls(function: _F) -> _F:
    """Decorates a public function: an option that it does not have, and one argument too many, are told as wrong
    values of options are."""
    kinds = {name: parameter.kind for name, parameter in signature(function).parameters.items()}
    named = [name for name, kind in kinds.items() if kind is not Parameter.VAR_POSITIONAL]
    places = [kind for kind in kinds.values() if kind is Parameter.POSITIONAL_OR_KEYWORD]
    most = inf if Parameter.VAR_POSITIONAL in kinds.values() else len(places)

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        if len(args) > most:
            raise InputError(
                f"{function.__name__}: expected at most {most} argument(s) by position, got {len(args)}. Options are "
                f"given by name; arguments of the function go to what {function.__name__} returns."
            )
        known_options(options, named)
        return function(*args, **options)

    return called  # type: ignore[return-value]


def _is_int(value: Any) -> bool:
    return type(value) is int or (isinstance(value, int | np.integer) and not isinstance(value, bool))


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """Leaves and structure of a pytree; None is an empty subtree, as in JAX."""
    if type(tree) is np.ndarray or isinstance(tree, Traced):
        return [tree], LEAF
    return optree.tree_flatten(tree, namespace="minijac")


LEAF = optree.tree_structure(0, namespace="minijac")
"""The structure of a leaf alone."""


def unflatten(tree: Any, leaves: Sequence[Any]) -> Any:
    """The pytree of a structure with these leaves."""
    return leaves[0] if tree is LEAF else optree.tree_unflatten(tree, leaves)


def regrouped(leaves: Sequence[Any], trees: Sequence[Any]) -> tuple[Any, ...]:
    """The pytrees of several structures with these leaves, one after the other."""
    rest = iter(leaves)
    return tuple([unflatten(tree, list(islice(rest, tree.num_leaves))) for tree in trees])


def argument_positions(
    argnums: int | Sequence[int], args: Sequence[Any], f: Callable[..., Any] | None = None
) -> tuple[int, ...]:
    """Non-negative positions of the arguments to differentiate by, of `f`."""
    if type(argnums) is int and 0 <= argnums < len(args):
        return (argnums,)
    wanted = (argnums,) if isinstance(argnums, int | np.integer) else tuple(argnums)
    for n in wanted:
        if not -len(args) <= n < len(args):
            raise InputError(
                f"argnums: expected positions within the {len(args)} positional argument(s) of the call, got {n}. "
                f"{_not_passed(f, n)}{'' if args else ' The arguments go to what a transformation returns.'}"
            )
    positions = tuple(n % len(args) for n in wanted)
    if len(set(positions)) < len(positions):
        raise InputError(f"argnums: expected each argument once, got {argnums}.")
    return positions


def _not_passed(f: Callable[..., Any] | None, n: int) -> str:
    """What to do about an argument to differentiate by that is not among those of the call."""
    anyway = "An argument to differentiate is passed by position, or by the name that it has in the function."
    try:
        parameter = list(signature(f).parameters.values())[n]  # type: ignore[arg-type]
    except (TypeError, ValueError, IndexError):  # written in C, or without such an argument
        return anyway
    name = parameter.name
    if parameter.kind is Parameter.KEYWORD_ONLY:
        return f"{name} is a keyword alone: make it an argument, lambda x, {name}: f(x, {name}={name})."
    if parameter.default is not Parameter.empty:
        return f"The default of {name} is not differentiated by: pass {name} in the call."
    if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        return anyway
    return f"Pass {name} by position, or by the name that it has in the function."


def some_primals(name: str, primals: Sequence[Any]) -> None:
    """Raise InputError where a call that has the arguments beside the function has none."""
    if not primals:
        raise InputError(f"{name}: expected the arguments of the function after it, minijac.{name}(f, x), got none.")


def tree_words(tree: Any) -> str:
    """A structure of arrays as it is told in messages: stars for leaves."""
    return str(tree).removeprefix("PyTreeSpec(").removesuffix(")").replace(", namespace='minijac'", "")


def _is_several(batch_axis: Any) -> bool:
    return isinstance(batch_axis, tuple | list)


LeafAxes: TypeAlias = tuple[int | None, ...]
"""The batch axes of an argument's leaves."""


def batch_axes(batch_axis: Any, args: Sequence[Any], option: str = "batch_axis") -> tuple[LeafAxes, ...]:
    """The batch axes of the leaves of each positional argument, as an option says."""
    if batch_axis is None or _is_int(batch_axis):
        return tuple([(batch_axis,) * len(flatten(arg)[0]) for arg in args])
    if not _is_several(batch_axis):
        raise InputError(f"{option}: expected an int, None, or a tuple with one for each argument, got {batch_axis!r}.")
    if len(batch_axis) != len(args):
        raise InputError(
            f"{option}: expected one entry for each of the {len(args)} positional argument(s), got {batch_axis!r}."
        )
    given = enumerate(zip(batch_axis, args, strict=True))
    return tuple([_leaf_axes(entry, arg, n, option) for n, (entry, arg) in given])


def _leaf_axes(entry: Any, arg: Any, n: int, option: str) -> LeafAxes:
    """The batch axes of an argument's leaves: one for all of them, or a tree of the argument's upper levels."""
    if entry is None or _is_int(entry):
        return (entry,) * len(flatten(arg)[0])
    leaves = optree.tree_leaves(arg, none_is_leaf=True, namespace="minijac")
    try:
        axes = optree.broadcast_prefix(entry, arg, none_is_leaf=True, namespace="minijac")
        fits = all(axis is None or _is_int(axis) for axis in axes)
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"{option}: expected an int, None, or a tree like argument {n}, {tree_words(flatten(arg)[1])}, got "
            f"{entry!r}."
        )
    return tuple([axis for axis, leaf in zip(axes, leaves, strict=True) if leaf is not None])


def batch_size(args: Sequence[Any], axes: Sequence[LeafAxes], option: str = "batch_axis") -> int | None:
    """The number of samples, on which all batched arguments agree; None where no argument has a batch axis."""
    found: tuple[int, int, Any, int] | None = None
    for n, (arg, own) in enumerate(zip(args, axes, strict=True)):
        for leaf, axis in zip(flatten(arg)[0], own, strict=True):
            if axis is None or not (type(leaf) is np.ndarray or holds_array(leaf)):
                continue
            if not -leaf.ndim <= axis < leaf.ndim:
                raise InputError(
                    f"argument {n} of shape {leaf.shape}: expected samples on axis {axis}, got an array of "
                    f"{leaf.ndim} axes. Give it a batch axis, or say {option}=(..., None, ...) for an argument that "
                    "all samples share."
                )
            size = leaf.shape[axis]
            if found is None:
                found = size, n, leaf, axis
            elif found[0] != size:
                both = found[1:], (n, leaf, axis)
                first, now = (f"argument {m} of shape {x.shape} (axis {place})" for m, x, place in both)
                raise InputError(
                    f"batch sizes differ: expected the {found[0]} samples of {first}, got {size} in {now}. For an "
                    f"argument that all samples share, such as weights, say so: {option}=(0, None)."
                )
    batched = [] if found else [(n, axis) for n, own in enumerate(axes) for axis in own if axis is not None]
    if found is None and (batched or (args and not any(axes))):
        n, axis = batched[0] if batched else (0, 0)
        leaves = flatten(args[n])[0]
        strange = leaves[0] if leaves and not isinstance(leaves[0], int | float) else args[n]
        raise InputError(
            f"argument {n}: expected an array with samples on axis {axis}, got {kind_of(strange)}. "
            f"{remedy_for(strange)}{' For the ordinary Jacobian say batch_axis=None.' * (option == 'batch_axis')}"
        )
    return found and found[0]


def differentiable(leaf: Any, n: int, xp: Any) -> Any:
    """A leaf of argument `n` as an array that can be differentiated, of the module `xp` if it is a number."""
    if type(leaf) is np.ndarray and leaf.dtype.char in "fd":
        return leaf
    if isinstance(leaf, float):
        leaf = xp.asarray(leaf)
    elif isinstance(leaf, Traced) and not holds_array(leaf) and leaf.dtype.kind == "f":
        leaf = np.positive(leaf)  # a Python number of a program being recorded, as an array
    if not is_array(leaf) and not isinstance(leaf, Traced):
        kind = "an integer" if isinstance(leaf, int) else kind_of(leaf)
        remedy = "Cast it, or leave it out of argnums." if isinstance(leaf, int) else remedy_for(leaf)
        raise InputError(
            f"argument {n}: expected arrays of dtype float32 or float64 (in any pytree) to differentiate, got {kind} "
            f"({brief(leaf)}). {remedy}"
        )
    check_dtype(
        leaf.dtype, f"argument {n} of shape {leaf.shape}", "Cast it with .astype(float), or leave it out of argnums."
    )
    return leaf if isinstance(leaf, Traced) or not isinstance(leaf, np.generic) else xp.asarray(leaf)


def check_dtype(dtype: Any, what: str, advice: str) -> None:
    if dtype.kind == "c":
        raise InputError(
            f"{what}: expected real numbers, got dtype {dtype}. Pass real and imaginary parts, and put them together "
            "inside: x + 1j * y."
        )
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise InputError(f"{what}: expected dtype float32 or float64, got {dtype}. {advice}")


def returned(result: Any, f: Callable[..., Any]) -> Any:
    if result is None:
        raise InputError(
            f"{getattr(f, '__name__', 'the function')}: expected arrays (in any pytree) as its result, got None. "
            "Is a return missing?"
        )
    return result


@contextmanager
def fitting(expected: str, given: Any, beside: Any, remedy: str) -> Iterator[None]:
    """While a function runs on arrays that were given apart from each other: NumPy's errors tell shapes alone."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, MinijacError) or not any(word in str(error) for word in ("broadcast", "core dimension")):
            raise
        given, beside = (", ".join(str(np.shape(x)) for x in flatten(tree)[0]) for tree in (given, beside))
        beside = f" beside arrays of shape {beside}" if beside else ""
        raise InputError(f"{expected}, got shape {given}{beside}: {str(error).strip():.200}. {remedy}") from error


def with_aux(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise InputError(
            f"has_aux=True: expected the function to return (y, aux), got "
            f"{'an array' if holds_array(result) else kind_of(result)}. Return a pair, or leave has_aux out."
        )
    return result


def output_leaf(y: Any, xp: Any) -> Any:
    """A leaf of the function's result as an array, of the module `xp` if it is a number, or InputError."""
    if type(y) is np.ndarray and y.dtype.char in "fdFD":
        return y
    if isinstance(y, float | complex):
        y = xp.asarray(y)
    if not is_array(y) and not isinstance(y, Traced):
        raise InputError(
            f"output: expected arrays of dtype float32 or float64 (in any pytree), got {kind_of(y)} ({brief(y)}). "
            f"{remedy_for(y) if is_dataclass(y) else 'Return the arrays in it, or the whole as aux (has_aux=True).'}"
        )
    advice = "Cast it with .astype(float), or return it as aux (has_aux=True)."
    if y.dtype.char not in "FD":
        check_dtype(y.dtype, f"output of shape {y.shape}", advice)
    return y


def check_array(what: str, x: Any, wanted: str) -> None:
    """Raise InputError for what is no array, or one whose operations are not NumPy's of arrays."""
    if not is_array(x) and not isinstance(x, Traced):
        raise InputError(f"{what}: expected {wanted}, got {kind_of(x)}.{handed_over(x)}")
    if isinstance(x, np.ma.MaskedArray | np.matrix):
        check_operand(what, x)


def check_tangent(tangent: Any, like: Any, name: str, of: str) -> Any:
    if isinstance(tangent, float | int):
        tangent = namespace(like).asarray(tangent, like.dtype)
    check_array(name, tangent, f"an array of shape {like.shape}")
    if tangent.shape != like.shape:
        raise InputError(f"{name}: expected the shape of its {of}, {like.shape}, got {tangent.shape}.")
    if tangent.dtype.kind != "c" or like.dtype.kind != "c":
        check_dtype(tangent.dtype, f"{name} of shape {tangent.shape}", "Cast it with .astype(float).")
    check_operand(name, tangent)
    if namespace(tangent) is not namespace(like):
        raise TypeError(
            f"{name} at {user_line()}: expected an array of {namespace(like).__name__} as its {of} is, got one of "
            f"{namespace(tangent).__name__}. Arrays do not move by themselves: cupy.asarray(x), or x.get()."
        )
    return tangent


def shown(work: Any, progress: bool) -> Any:
    """The work, behind a progress bar where one is wanted. Raises ImportError where tqdm is not installed."""
    if not progress:
        return work
    with needing("progress=True", "tqdm", "progress", "tqdm"):
        from tqdm.auto import tqdm
    return tqdm(work, desc="jacobian", unit="chunk")
