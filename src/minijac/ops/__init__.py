"""The operations, one table for each family; importing this package registers all of them."""

from ..ops import (
    convolution,
    eigen,
    elementwise,
    equations,
    fourier,
    indexing,
    linalg,
    multilinear,
    scipy,
    special,
    structural,
)
from .families import REGISTRY, Example, define
from .families import elementwise as define_elementwise
from .families import multilinear as define_multilinear
from .maps import linear_map

__all__ = [
    "REGISTRY", "Example", "convolution", "define", "define_elementwise", "define_multilinear", "eigen",
    "elementwise", "equations", "fourier", "indexing", "linalg", "linear_map", "multilinear", "scipy", "special",
    "structural",
]  # fmt: skip
