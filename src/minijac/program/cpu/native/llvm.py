"""LLVM, which `llvmlite` brings: whether it is there, and text that becomes functions."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from typing import Any

__all__ = ["Function", "address_of", "available", "compiled", "library_function", "unwanted_on_error",
           "vector_bytes"]  # fmt: skip


@cache
def available() -> bool:
    """Whether loops can be compiled: with llvmlite, on a CPU that fuses products with sums, as those since 2013 do.

    A warning where it is installed and cannot be imported.
    """
    if importlib.util.find_spec("llvmlite") is None:
        return False
    try:
        importlib.import_module("llvmlite.binding")
    except Exception as error:
        warnings.warn(
            f"minijac.compile: loops are left to NumPy, as llvmlite cannot be imported: {error}", stacklevel=2
        )
        return False
    usual = sys.implementation.name == "cpython" and sys.maxsize > 2**32
    return usual and (_machine_is_arm() or bool(_features().get("fma")))


def _machine_is_arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


@cache
def _features() -> Any:
    from llvmlite import binding

    return binding.get_host_cpu_features()


@cache
def vector_bytes() -> int:
    """Bytes of the registers that the CPU computes in."""
    return 16 if _machine_is_arm() else 64 if _features().get("avx512f") else 32


@cache
def _target() -> Callable[[], Any]:
    """What makes target machines: each engine owns one, and ends with it."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    cpu, features = binding.get_host_cpu_name(), _features().flatten()
    return partial(target.create_target_machine, cpu=cpu, features=features, opt=2, jit=True)


class Function:
    """A function of machine code, of the name that it has in a module's text, called with addresses and objects.

    It is made when it is first wanted, with all that wait by then: what a module takes beside the code of its functions
    is a third of a loop's time. Python's lock is let go of while it runs.
    """

    __slots__ = ("_address", "_engine", "_kind", "call", "name", "text")

    def __init__(self, text: str, name: str, parameters: int, result: Any) -> None:
        self.text, self.name = text, name
        self.call: Callable[..., int] = self._first
        """The function itself, after its first call."""
        self._kind = ctypes.CFUNCTYPE(result, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.py_object] * (parameters - 2))
        self._address = 0
        self._engine: Any = None  # which holds the code
        _WAITING.append(self)

    @property
    def address(self) -> int:
        """Where its code is."""
        if not self._address:
            with _MAKING:
                if not self._address:
                    self._make_all()
        return self._address

    def _first(self, *args: Any) -> int:
        self.call = self._kind(self.address)
        return self.call(*args)

    def _make_all(self) -> None:
        """All that wait, as one module."""
        from llvmlite import binding

        functions, declared = {self: None}, dict[str, None]()
        while _WAITING:  # another thread may add to them
            functions[_WAITING.pop()] = None
        texts = []
        for k, function in enumerate(functions):
            lines = function.text.replace(f"@{function.name}(", f"@f{k}(").splitlines()
            declared |= dict.fromkeys([line for line in lines if line.startswith("declare ")])
            texts += [line for line in lines if not line.startswith("declare ")]
        engine = binding.create_mcjit_compiler(binding.parse_assembly("\n".join([*declared, *texts])), _target()())
        engine.finalize_object()
        for k, function in enumerate(functions):
            function._address, function._engine = engine.get_function_address(f"f{k}"), engine


_WAITING: list[Function] = []
_MAKING = threading.Lock()


@contextmanager
def unwanted_on_error() -> Iterator[None]:
    """After an error, functions that were begun inside wait no more: who wants one all the same has it made."""
    before = set(_WAITING)
    try:
        yield
    except BaseException:
        _WAITING[:] = [function for function in _WAITING if function in before]
        raise


@lru_cache(4096)
def compiled(text: str, name: str, parameters: int, result: Any = ctypes.c_int) -> Function:
    """The function of that name in a module's text, which takes two addresses and then Python's objects."""
    return Function(text, name, parameters, result)


def address_of(function: Any) -> int:
    """Of a function that ctypes calls."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@cache
def library_function(name: str) -> int:
    """The address of one of the C library's functions."""
    library = ctypes.CDLL("ucrtbase" if os.name == "nt" else ctypes.util.find_library("m"))
    return address_of(getattr(library, name))
