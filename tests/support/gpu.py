"""What the tests of the second backend share: the device, and how a function written for NumPy is written for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import optree

import minijac as mj


class Device(NamedTuple):
    """CuPy, or its stand-in: how arrays get there and back, and where looking at them from the host is an error."""

    xp: Any
    xpx: Any
    log: Any
    """What the stand-in counted; None on a real device."""

    def put(self, tree: Any) -> Any:
        """The tree with NumPy's arrays on the device."""
        return optree.tree_map(lambda x: self.xp.asarray(x) if isinstance(x, np.ndarray) else x, tree)

    def get(self, tree: Any) -> Any:
        """The tree with the device's arrays as NumPy's. Anything that lives elsewhere is an error."""

        def fetched(x: Any) -> Any:
            assert not isinstance(x, np.ndarray | np.generic), f"on the host: {x!r}"
            return x.get() if isinstance(x, self.xp.ndarray) else x

        return optree.tree_map(fetched, tree)

    def apart(self) -> AbstractContextManager[None]:
        """Inside, to look at an array from the host raises."""
        return self.xpx.allow_synchronize(False)


@cache
def no_device() -> str | None:
    """Why tests marked `gpu` cannot run, or None."""
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install minijac[cuda12]"
    import cupy

    try:
        return None if cupy.cuda.runtime.getDeviceCount() else "CuPy sees no device"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy sees no device: {error}"


CREATORS = ("array", "arange", "ones", "zeros", "eye", "tri", "full", "asarray")


def on_device(f: Callable[..., Any], device: Device) -> Callable[..., Any]:
    """A function of the tests as one would write it for the device: its constants there, its arrays made there."""
    if not isinstance(f, FunctionType) or (f.__module__ or "").startswith(("numpy", "minijac")):
        return f

    def there(x: Any) -> Any:
        if x is np:
            module = ModuleType("numpy")
            vars(module).update(vars(np) | {name: getattr(device.xp, name) for name in CREATORS})
            return module
        if isinstance(x, np.ndarray):
            return device.xp.asarray(x)
        return on_device(x, device)

    names = {name for code in _codes(f.__code__) for name in code.co_names}
    globals_ = {name: there(x) if name in names and x is not f else x for name, x in f.__globals__.items()}
    closure = tuple(CellType(there(cell.cell_contents)) for cell in f.__closure__ or ())
    defaults = tuple(map(there, f.__defaults__ or ()))
    moved = FunctionType(f.__code__, globals_, f.__name__, defaults, closure or None)
    moved.__kwdefaults__ = f.__kwdefaults__
    return moved


def _codes(code: Any) -> list[Any]:
    return [code, *(inner for x in code.co_consts if isinstance(x, type(code)) for inner in _codes(x))]


def agree(found: Any, expected: Any, device: Device, rtol: float = 1e-10) -> None:
    """Arrays of the device where NumPy gives arrays, with the same entries; dense where both are structured."""
    found, expected = (
        [leaf.todense() if isinstance(leaf, mj.Jacobian) else leaf for leaf in optree.tree_leaves(tree)]
        for tree in (found, expected)
    )
    assert len(found) == len(expected)
    for y, z in zip(found, expected, strict=True):
        if not isinstance(z, np.ndarray | np.generic):
            assert y == z
            continue
        y = device.get(y)
        assert (y.shape, y.dtype) == (np.shape(z), z.dtype)
        scale = np.abs(z[np.isfinite(z)]).max(initial=1.0) if np.asarray(z).dtype.kind == "f" else 1.0
        np.testing.assert_allclose(y, z, rtol, rtol * scale)
