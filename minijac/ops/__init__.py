"""The operations, one table for each family; importing this package registers all of them."""

from . import convolution, elementwise, indexing, linalg, multilinear, special, structural
from .families import REGISTRY

__all__ = ["REGISTRY", "convolution", "elementwise", "indexing", "linalg", "multilinear", "special", "structural"]
