"""NumPy's namespace for traced values and plain arrays of either backend: the functions are NumPy's own, which dispatch.

``minijac.numpy.tanh`` is ``numpy.tanh``: on a plain array it runs at NumPy's speed, on a CuPy array or a traced value
it dispatches. Importing this package registers minijac's implementations with the traced values.
"""

from __future__ import annotations

from typing import Any

import numpy as _np

from ..ops import elementwise as _elementwise
from ..tape import Traced as _Traced
from . import indexing as _indexing  # noqa: F401 - importing registers
from . import pointwise as _pointwise  # noqa: F401
from . import products as _products
from . import protocol as _protocol
from . import reductions as _reductions
from . import shape as _shape  # noqa: F401


def _install() -> None:
    """Give traced values minijac's functions for NumPy's."""
    _Traced.ufuncs.update(_elementwise.UFUNCS)
    _Traced.ufuncs.update(_products.UFUNCS)
    for ufunc, reduction in (
        (_np.add, _reductions.sum),
        (_np.maximum, _reductions.max),
        (_np.minimum, _reductions.min),
    ):
        _Traced.ufuncs[ufunc, "reduce"] = _protocol.reduction_method(reduction)
    _Traced.functions.update(_protocol.FUNCTIONS)
    _Traced.methods.update(_protocol.METHODS)


_install()


def __getattr__(name: str) -> Any:
    return getattr(_np, name)


def __dir__() -> list[str]:
    return sorted(name for name in dir(_np) if not name.startswith("_"))
