"""minijac: batch-aware automatic differentiation, per-sample Jacobians without a loop over samples."""

from sys import modules as _modules
from typing import Any as _Any

from . import errors, nn, numpy, ops, scipy, special, testing
from .adapting import adapt
from .errors import (
    BatchMixingError,
    ConvergenceError,
    ConversionError,
    InputError,
    MinijacError,
    MutationError,
    TraceError,
    UnsupportedOperationError,
)
from .loops.custom import custom
from .loops.implicit import fixed_point, root
from .loops.scan import checkpoint, scan
from .operator.jacobian import Jacobian
from .program.compiled import compile
from .transforms.first import jacobian, linearize, value_and_jacobian
from .transforms.hessians import hessian, value_and_hessian
from .transforms.partials import partials
from .transforms.products import grad, hvp, jvp, stop_gradient, value_and_grad, vjp
from .transforms.second import (
    divergence,
    hessian_diagonal,
    laplacian,
    value_and_divergence,
    value_and_hessian_diagonal,
    value_and_laplacian,
)
from .transforms.vmap import vmap
from .views.plan import Explanation, explain
from .views.tape import Tape, trace

__version__ = "0.1.0"
__all__ = [
    "BatchMixingError",
    "ConvergenceError",
    "ConversionError",
    "Explanation",
    "InputError",
    "Jacobian",
    "MinijacError",
    "MutationError",
    "Tape",
    "TraceError",
    "UnsupportedOperationError",
    "adapt",
    "checkpoint",
    "custom",
    "errors",
    "explain",
    "fixed_point",
    "grad",
    "hvp",
    "jacobian",
    "jvp",
    "linearize",
    "nn",
    "numpy",
    "ops",
    "partials",
    "root",
    "scan",
    "scipy",
    "special",
    "stop_gradient",
    "testing",
    "trace",
    "value_and_grad",
    "value_and_jacobian",
    "compile",
    "divergence",
    "hessian",
    "hessian_diagonal",
    "laplacian",
    "value_and_divergence",
    "value_and_hessian",
    "value_and_hessian_diagonal",
    "value_and_laplacian",
    "vjp",
    "vmap",
]


def __getattr__(name: str) -> _Any:
    """``minijac.torch`` is imported when it is first asked for, since it needs torch."""
    if name == "torch":
        from importlib import import_module

        return import_module(f"{__name__}.torch")
    here = f": write {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{here}", name=name, obj=_modules[__name__])


_ELSEWHERE = {
    "jit": "minijac.compile(f)",
    "jacfwd": 'minijac.jacobian(f, mode="forward"), or leave the mode to it',
    "jacrev": 'minijac.jacobian(f, mode="reverse"), or leave the mode to it',
}
"""Names that other packages have, and what is meant here."""


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


for _module in (errors, nn, ops, special, testing):  # dir() of each shows its interface, as minijac.numpy's does
    _module.__dict__["__dir__"] = _module.__all__.copy
