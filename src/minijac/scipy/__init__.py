"""Functions of SciPy's on traced values, under SciPy's names: `fft`, `interpolate`,
`linalg`, `ndimage`, `signal`, `special` and `stats`.

SciPy's own functions do not dispatch to traced values; code that calls them runs as it is by `minijac.adapt`.
"""

from .. import special
from . import fft, interpolate, linalg, ndimage, signal, stats

__all__ = ["fft", "interpolate", "linalg", "ndimage", "signal", "special", "stats"]
