"""The exception types: each derives from MinijacError and from the built-in that fits."""

from __future__ import annotations

from typing import Any

from .lines import user_line

__all__ = [
    "BatchMixingError",
    "ConvergenceError",
    "ConversionError",
    "InputError",
    "MinijacError",
    "MutationError",
    "TraceError",
    "UnsupportedOperationError",
]


class MinijacError(Exception):
    """Base of every error that minijac raises on purpose."""


class BatchMixingError(MinijacError, ValueError):
    """One sample's output depends on another sample's input."""

    module: Any = None
    """The torch module whose forward mixes them, if it is another package's."""


class UnsupportedOperationError(MinijacError, NotImplementedError):
    """A function was called on a traced value for which minijac has no derivative."""


class InputError(MinijacError, TypeError, ValueError):
    """An argument has the wrong dtype, rank, size, or value."""

    def __init__(self, message: str) -> None:
        where = user_line()
        super().__init__(message if where in message else f"{message} (at {where})")


class TraceError(MinijacError, RuntimeError):
    """A traced value was used outside of the trace that it belongs to."""


class MutationError(MinijacError, TypeError):
    """A traced value was written in place."""


class ConvergenceError(MinijacError, RuntimeError):
    """`root` or `fixed_point` did not find a solution for some samples."""


class ConversionError(MinijacError, TypeError):
    """A traced value was turned into a plain number or array, which would drop its derivative."""
