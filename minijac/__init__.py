"""minijac: batch-aware automatic differentiation, per-sample Jacobians without a loop over samples."""

from . import errors, nn, numpy, ops, testing
from .errors import (
    BatchMixingError,
    ConversionError,
    InputError,
    MinijacError,
    MutationError,
    TraceError,
    UnsupportedOperationError,
)
from .report import Tape, trace
from .structured import Jacobian
from .transforms import grad, jacobian, jvp, linearize, stop_gradient, value_and_grad, value_and_jacobian, vjp

__version__ = "0.1.0"
__all__ = [
    "BatchMixingError",
    "ConversionError",
    "InputError",
    "Jacobian",
    "MinijacError",
    "MutationError",
    "Tape",
    "TraceError",
    "UnsupportedOperationError",
    "errors",
    "grad",
    "jacobian",
    "jvp",
    "linearize",
    "nn",
    "numpy",
    "ops",
    "stop_gradient",
    "testing",
    "trace",
    "value_and_grad",
    "value_and_jacobian",
    "vjp",
]
