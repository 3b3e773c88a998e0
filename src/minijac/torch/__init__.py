"""minijac for torch: a module as it is, tensors in and out, and torch's autograd through the results.

>>> import minijac.torch, torch
>>> net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
>>> J = minijac.torch.jacobian(net)(torch.randn(4, 5))
>>> J.shape
torch.Size([4, 3, 5])
>>> J.pow(2).mean().backward()
>>> net[0].weight.grad.shape
torch.Size([8, 5])
"""

from . import aten as _aten  # noqa: F401 - importing fills the tables
from . import binding as _binding  # noqa: F401
from . import custom as _custom  # noqa: F401
from . import functions as _functions  # noqa: F401
from .aten.registry import register
from .compiled import Compiled, compile
from .jacobians import TensorJacobian
from .transforms import (
    divergence,
    explain,
    grad,
    hessian,
    hessian_diagonal,
    jacobian,
    jvp,
    laplacian,
    linearize,
    lowered,
    partials,
    stop_gradient,
    trace,
    value_and_divergence,
    value_and_grad,
    value_and_hessian,
    value_and_hessian_diagonal,
    value_and_jacobian,
    value_and_laplacian,
    vjp,
)

__all__ = [
    "Compiled", "TensorJacobian", "compile", "divergence", "explain", "grad", "hessian", "hessian_diagonal", "jacobian",
    "jvp", "laplacian", "linearize", "lowered", "partials", "register", "stop_gradient", "trace",
    "value_and_divergence", "value_and_grad", "value_and_hessian", "value_and_hessian_diagonal", "value_and_jacobian",
    "value_and_laplacian", "vjp",
]  # fmt: skip
