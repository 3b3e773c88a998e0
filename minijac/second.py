"""Second order in one pass: value, Jacobian block and second-order term go along the tape together.

With ``S`` the sum over inputs k of the second derivatives d2/dx_k2 (the Laplacian, already summed), or their list (the
Hessian's diagonal), an operation y = F(a, b, ...) gives

    S_y = sum_a F_a S_a + sum_{a,b} F_ab J_a[., k] J_b[., k]        (summed over k for the Laplacian)

Structural operations have no F_ab, multilinear ones have themselves, elementwise ones their partials differentiated.
So no operation needs a rule of its own, and a block that touches two of fifty inputs costs two. This is the forward
Laplacian of Li et al., Nature Machine Intelligence 6 (2024), in labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import optree

from .accumulate import Graph
from .arguments import Options, flatten
from .backend import namespace
from .block import Block, bilinear
from .chunking import batch_first, seeds
from .errors import InputError
from .labels import Axes, Label
from .ops.families import labelled
from .taylor import higher_partial
from .tape import Node
from .transforms import Prepared, jacobian, prepare, value_and_jacobian

__all__ = [
    "divergence",
    "hessian",
    "hessian_diagonal",
    "laplacian",
    "value_and_hessian",
    "value_and_laplacian",
]
