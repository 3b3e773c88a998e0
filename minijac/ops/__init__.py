"""The operations, one table for each family; importing this package registers all of them."""

from . import elementwise, indexing, multilinear, structural
from .families import REGISTRY

__all__ = ["REGISTRY", "elementwise", "indexing", "multilinear", "structural"]
