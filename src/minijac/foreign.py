"""Objects that are no arrays: what they are called, and how to hand over what is in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

from .errors import InputError, UnsupportedOperationError
from .lines import Call, user_line

__all__ = [
    "a_function", "brief", "handed_over", "kind_of", "left_by_sparse", "needing", "refuse_of_scipy", "remedy_for",
    "unsupported",
]  # fmt: skip

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


def brief(x: Any) -> str:
    """An object as it prints itself, on one line and cut short."""
    text = " ".join(repr(x).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def handed_over(x: Any) -> str:
    """How to hand over another package's object, a list or a dataclass, as the end of a message; else nothing."""
    known = type(x).__module__.split(".")[0] in _REMEDIES or is_dataclass(x) or (isinstance(x, list | tuple) and x)
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


@contextmanager
def needing(what: str, name: str, extra: str, package: str) -> Iterator[None]:
    """While a package is imported that may not be installed: the error has commands for an install and a checkout."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{what} needs {name}: pip install minijac[{extra}], or in a checkout: pip install {package}"
        ) from error


def a_function(f: Any, name: str = "jacobian", beside: str = "") -> Any:
    """`f`, or InputError that says what to write, where a transformation, or what has arguments `beside` the function,
    is given something else."""
    if callable(f):
        return f
    how = (
        f"and its arguments beside it: minijac.{name}(f, {beside}), not minijac.{name}(f(x))."
        if beside
        else f"and what it returns takes the arguments: minijac.{name}(f)(x), not minijac.{name}(f(x))."
    )
    raise InputError(f"expected a function, got {kind_of(f)}. A transformation takes the function, {how}")


_SPARSE_OPERATORS = {"_matmul_dispatch", "_divide", "__mul__", "__rmul__"}


def left_by_sparse(frame: Any) -> bool:
    """Whether an operator of a sparse matrix asks for an array: to one that holds an object it leaves `L @ x`."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith("scipy.sparse"):
        if frame.f_code.co_name in _SPARSE_OPERATORS:
            return True
        frame = frame.f_back
    return False


def refuse_of_scipy(called: Call) -> Any:
    """SciPy's functions beside its ufuncs make plain arrays of what they are given."""
    own = "minijac.special" if called.module == "special" else f"minijac.scipy.{called.module}"
    mine = getattr(sys.modules.get(own), called.name, None)
    if mine is None or not hasattr(mine, called.method or "__call__"):
        raise unsupported(str(called))
    raise UnsupportedOperationError(
        f"{called} at {user_line()}: got a traced value, and SciPy makes a plain array of it. Write "
        f"{'.'.join(filter(None, (own, called.name, called.method)))}, which takes both, or run the function as it is "
        "by minijac.adapt(f)."
    )


def unsupported(name: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"{name} at {user_line()}: got a traced value, and minijac has no derivative for this function. Write it with "
        "supported functions, define it (docs/adding-an-op.md), or apply it to minijac.stop_gradient(x) where its "
        "derivative is not wanted."
    )
