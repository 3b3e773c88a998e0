"""Objects that are no arrays: what they are called, and how to hand over what is in them."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from .errors import InputError

__all__ = ["a_function", "handed_over", "kind_of", "missing", "remedy_for"]

_REMEDIES = {
    "pandas": "Pass x.to_numpy().",
    "polars": "Pass x.to_numpy().",
    "xarray": "Pass x.values, or put the transformed function into xarray.apply_ufunc.",
    "dask": "Pass x.compute(); the transformations of batched functions take Dask arrays chunked along the samples.",
    "torch": "Pass numpy.from_dlpack(x.detach()), or use minijac.torch for functions of tensors.",
    "jax": "Pass numpy.asarray(x).",
    "jaxlib": "Pass numpy.asarray(x).",
    "tensorflow": "Pass x.numpy().",
    "scipy": "Pass x.toarray(), or capture it in the function, where its products keep it sparse.",
}


def kind_of(x: Any) -> str:
    """What an object is, with the package that it comes from."""
    module = type(x).__module__.split(".")[0]
    name = type(x).__name__
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def handed_over(x: Any) -> str:
    """How to hand over another package's object, or a list, as the end of a message; nothing for other things."""
    known = type(x).__module__.split(".")[0] in _REMEDIES or (isinstance(x, list | tuple) and x)
    return f" {remedy_for(x)}" if known else ""


def remedy_for(x: Any) -> str:
    """What to write in place of an object that is no array."""
    module = type(x).__module__.split(".")[0]
    if module in _REMEDIES:
        return _REMEDIES[module]
    if isinstance(x, list | tuple) and x:
        return "A list is a tree of its items, not an array: pass numpy.array(x)."
    if is_dataclass(x):
        return (
            f"Make the class a tree of its fields: @optree.dataclasses.dataclass(namespace='minijac') for "
            f"{type(x).__name__}, in place of @dataclass."
        )
    if isinstance(x, int | float):
        return "Pass numpy.asarray(x), with an axis for the samples."
    if x is None:
        return "Pass an array; a default of None is filled in before the call."
    return "Pass the arrays in it, and capture the rest in the function."


def missing(what: str, name: str, extra: str, package: str) -> ImportError:
    """The error for what needs a package that is not installed, with commands for an install and for a checkout."""
    return ImportError(f"{what} needs {name}: pip install minijac[{extra}], or in a checkout: pip install {package}")


def a_function(f: Any) -> Any:
    """`f`, or InputError that says what to write, where a transformation is given something else."""
    if callable(f):
        return f
    raise InputError(
        f"expected a function, got {kind_of(f)}. A transformation takes the function, and what it returns takes the "
        "arguments: minijac.jacobian(f)(x), not minijac.jacobian(f(x))."
    )
