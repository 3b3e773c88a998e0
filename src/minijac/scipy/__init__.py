"""Functions of SciPy's on traced values, under SciPy's names: `fft`, `linalg`, `stats` and `special`.

SciPy's own functions do not dispatch to traced values; code that calls them runs as it is by `minijac.adapt`.
"""

from .. import special
from . import fft, linalg, stats

__all__ = ["fft", "linalg", "special", "stats"]
