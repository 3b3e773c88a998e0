"""adapt: code as it stands, with the modules that it uses replaced by minijac's, and the original untouched."""

from __future__ import annotations

import builtins
import functools
import sys
import sysconfig
import threading
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import numpy as np

from .errors import InputError
from .foreign import brief
from .twins import BUILTINS, TWINS, twin_function

__all__ = ["adapt"]

F = TypeVar("F")

_LIBRARIES = tuple(str(Path(path).resolve()) for path in {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"),
                   sysconfig.get_path("platlib"), str(Path(__file__).parent)} if path)  # fmt: skip


def adapt(f: F) -> F:
    """`f` with NumPy, `math` and SciPy replaced by minijac's, in it and in all that it calls of the user's own code.

    Args:
        f: A function, a method, a class, a module, or an object of a class of the user's. It stays as it is.

    Returns the same kind of thing, in whose code ``np.zeros((n, 3))`` can be filled with traced values,
    ``np.array([[c, -s], [s, c]])``, ``np.r_``, ``math.sin(x)``, ``float(x)``, ``max(x, 0)``, ``np.vectorize`` and
    ``np.apply_along_axis`` take them, lists of them are arrays to NumPy's functions (``np.linalg.norm([x, y])``), and
    `numpy.polynomial` computes with them. Functions, classes, objects and modules that it reaches by name, closure,
    default or attribute are followed where they are the user's, or of the package that `f` is of; installed packages
    and the standard library are not. Names are looked up when they are used, so rebinding them is seen. Nothing global
    changes, so it may be used on several threads. Cost: some 0.5 microseconds for each use of a global name.

    Raises InputError for what has no code to adapt, such as a function written in C.

    >>> import math
    >>> import numpy as np
    >>> import minijac as mj
    >>> def rotated(x):
    ...     y = np.zeros((len(x), 2))
    ...     y[:, 0] = x[:, 0] * math.cos(0.0)
    ...     y[:, 1] = -x[:, 1]
    ...     return y
    >>> mj.jacobian(adapt(rotated))(np.ones((1, 2)))
    array([[[ 1.,  0.],
            [ 0., -1.]]])
    """
    adapted = _Adapter(f).adapted(f)
    if adapted is f or isinstance(f, np.ufunc):
        raise InputError(f"adapt: expected a function, class, module or object of Python code, got {brief(f)}.")
    return adapted


class _Adapter:
    """What one call of `adapt` has replaced, so that everything is replaced once."""

    def __init__(self, start: Any) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}
        self._unfinished: dict[int, tuple[Any, Any]] = {}
        self._lock, self._depth = threading.RLock(), 0
        self._globals: dict[int, _Names] = {}
        name = start.__name__ if isinstance(start, ModuleType) else getattr(start, "__module__", None)
        self._start = getattr(start, "__globals__", None)
        self.builtins = vars(builtins) | BUILTINS | {"__import__": self._imported}
        self._package = name.split(".")[0] if isinstance(name, str) and name != "builtins" else None

    def adapted(self, value: Any) -> Any:
        """What stands for a value; itself, where that may stay."""
        if isinstance(value, _PLAIN) or value is None:
            return value
        if type(value) in (list, tuple, dict):  # these may change
            return self._container(value)
        found = self._made.get(id(value))
        return self._new(value) if found is None else found[1]

    def _new(self, value: Any) -> Any:
        """What stands for a value that was not met before; other threads see it when it is complete."""
        with self._lock:
            found = self._made.get(id(value)) or self._unfinished.get(id(value))
            if found is None:
                self._depth += 1
                found = value, self._replaced(value)
                self._unfinished[id(value)] = found
                self._depth -= 1
            if self._depth == 0:
                self._made |= self._unfinished
                self._unfinished = {}
            return found[1]

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, ModuleType):
            return self._module(value)
        code = getattr(value, "_implementation", value)  # behind NumPy's dispatch
        if isinstance(code, FunctionType) and self._own(code.__globals__):
            library = str(code.__globals__.get("__name__")).startswith(("numpy.", "scipy."))  # which `adapt` was given
            return (library and twin_function(value)) or self._function(code)
        if isinstance(value, FunctionType):
            return twin_function(value) or value
        if isinstance(value, MethodType):
            holder = self.adapted(value.__self__)
            return value if holder is value.__self__ else getattr(holder, value.__name__)
        if isinstance(value, type):
            return twin_function(value) or self._class(value)
        if isinstance(value, functools.partial):
            return functools.partial(self.adapted(value.func), *map(self.adapted, value.args), **value.keywords)
        return twin_function(value) or self._object(value)

    def _imported(self, *args: Any, **kwargs: Any) -> Any:
        """``import`` within a function."""
        return self.adapted(builtins.__import__(*args, **kwargs))

    def _own(self, names: dict[str, Any]) -> bool:
        """Whether a module's code is the user's, by the names in it."""
        name, file = names.get("__name__") or "", names.get("__file__")
        top = name.split(".")[0]
        if names is self._start or name.startswith("numpy.polynomial"):  # Python code over NumPy's functions
            return True
        if top == "minijac" or isinstance(names, _Names):
            return False
        if file is None:
            return top not in sys.stdlib_module_names and top not in sys.builtin_module_names
        return top == self._package or not str(Path(file).resolve()).startswith(_LIBRARIES)

    def _module(self, module: ModuleType) -> ModuleType:
        twin = TWINS.get(module.__name__)
        if twin is not None:
            return twin(module).within(self.adapted)
        if any(name.startswith(f"{module.__name__}.") for name in TWINS):  # a package of modules that have twins
            return _Module(self, module)
        return _Module(self, module) if module.__name__ in sys.modules and self._own(vars(module)) else module

    def _function(self, f: FunctionType) -> FunctionType:
        names = self._globals.get(id(f.__globals__))
        if names is None:
            names = self._globals.setdefault(id(f.__globals__), _Names(self, f.__globals__))
        cells = [CellType() for _ in f.__closure__ or ()]
        copy = FunctionType(f.__code__, names, f.__name__, None, tuple(cells))
        self._unfinished[id(f)] = f, copy  # found by what it refers to
        shared = tuple(self._cell(cell, new) for cell, new in zip(f.__closure__ or (), cells, strict=True))
        if any(cell not in cells for cell in shared):
            copy = FunctionType(f.__code__, names, f.__name__, None, shared)
            self._unfinished[id(f)] = f, copy
        functools.update_wrapper(copy, f)
        copy.__defaults__ = self._container(f.__defaults__) if f.__defaults__ else None
        copy.__kwdefaults__ = self._container(f.__kwdefaults__) if f.__kwdefaults__ else None
        return copy

    def _cell(self, cell: CellType, new: CellType) -> CellType:
        """The cell itself, which others may write to, unless what it holds is replaced."""
        try:
            value = cell.cell_contents
        except ValueError:
            return cell
        adapted = self.adapted(value)
        if adapted is value:
            return cell
        new.cell_contents = adapted
        return new

    def _class(self, cls: type) -> type:
        module = sys.modules.get(cls.__module__)
        written = [item for item in vars(cls).values() if isinstance(_function_of(item), FunctionType)]
        own = module is not None and self._own(vars(module)) and not issubclass(cls, tuple | BaseException | ModuleType)
        if not own or not any(self._own(_function_of(item).__globals__) for item in written):
            return cls
        bases = tuple(self.adapted(base) for base in cls.__bases__)
        names = {key: item for key, item in vars(cls).items() if key not in ("__dict__", "__weakref__")}
        for slot in names.get("__slots__", ()):
            names.pop(slot, None)
        adapted = type(cls)(cls.__name__, bases, names | {"__qualname__": cls.__qualname__})
        self._unfinished |= {id(cls): (cls, adapted), id(adapted): (adapted, adapted)}
        for key, item in names.items():
            new = self._member(item)
            if new is not item:
                setattr(adapted, key, new)
        adapter = self

        def attribute(obj: Any, name: str) -> Any:
            value = super(adapted, obj).__getattribute__(name)  # type: ignore[arg-type]
            return value if isinstance(value, MethodType) else adapter.adapted(value)

        if "__getattribute__" not in names:
            adapted.__getattribute__ = attribute  # type: ignore[assignment]
        return adapted

    def _member(self, item: Any) -> Any:
        if isinstance(item, staticmethod | classmethod):
            return type(item)(self.adapted(item.__func__))
        if isinstance(item, property):
            fget, fset, fdel = map(self.adapted, (item.fget, item.fset, item.fdel))
            return property(fget, fset, fdel, item.__doc__)
        return self.adapted(item) if isinstance(item, FunctionType | ModuleType) else item

    def _container(self, value: Any) -> Any:
        """The same with its items replaced, if any is; large ones hold data."""
        if len(value) > 256:
            return value
        items = list(value.values()) if isinstance(value, dict) else list(value)
        new = [self.adapted(item) if not isinstance(item, list | tuple | dict) else item for item in items]
        if all(a is b for a, b in zip(items, new, strict=True)):
            return value
        return dict(zip(value, new, strict=True)) if isinstance(value, dict) else type(value)(new)

    def _object(self, value: Any) -> Any:
        """An object of the adapted class with the same attributes, where the class is adapted."""
        adapted = self.adapted(type(value))
        if adapted is type(value) or not hasattr(value, "__dict__"):
            return value
        twin = object.__new__(adapted)
        object.__setattr__(twin, "__dict__", value.__dict__)
        return twin


def _function_of(item: Any) -> Any:
    """The function behind a member of a class."""
    if isinstance(item, property):
        return item.fget
    return item.__func__ if isinstance(item, staticmethod | classmethod) else item


_PLAIN = (np.ndarray, np.generic, int, float, complex, str, bytes)


class _Names(dict[str, Any]):
    """The globals of adapted functions: the original's, looked up when they are used, and what stands for them."""

    def __init__(self, adapter: _Adapter, original: dict[str, Any]) -> None:
        super().__init__(__builtins__=adapter.builtins, __name__=original.get("__name__"))
        self._adapter, self._original = adapter, original

    def __getitem__(self, name: str) -> Any:
        if dict.__contains__(self, name):  # what adapted code has bound itself
            return dict.__getitem__(self, name)
        return self._adapter.adapted(self._original[name])

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or name in self._original

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


class _Module(ModuleType):
    """A module of the user's: its attributes, and what stands for them."""

    def __init__(self, adapter: _Adapter, original: ModuleType) -> None:
        super().__init__(original.__name__, original.__doc__)
        self.__dict__.update(_adapter=adapter, _original=original)

    def __getattr__(self, name: str) -> Any:
        return self._adapter.adapted(getattr(self._original, name))

    def __dir__(self) -> list[str]:
        return dir(self._original)
