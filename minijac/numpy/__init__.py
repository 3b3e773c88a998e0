"""NumPy's namespace for traced values and arrays of either backend: the functions are NumPy's own, which dispatch.

``minijac.numpy.tanh`` is ``numpy.tanh``: on a plain array it runs at NumPy's speed, on a CuPy array or a traced value
it dispatches. Importing this package registers minijac's implementations with the traced values.
"""

from __future__ import annotations

from typing import Any

import numpy as _np

from ..ops import elementwise as _elementwise
from ..tape import Traced as _Traced
from . import differences as _differences  # noqa: F401 - importing registers
from . import linalg as _linalg  # noqa: F401
from . import parts as _parts  # noqa: F401
from . import pointwise as _pointwise
from . import polynomials as _polynomials  # noqa: F401
from . import products as _products
from . import protocol as _protocol
from . import reductions as _reductions
from . import shape as _shape  # noqa: F401
from .indexing import add_at as add_at
from .indexing import put as put


def _install() -> None:
    """Give traced values minijac's functions for NumPy's."""
    _Traced.ufuncs.update(_elementwise.UFUNCS)
    _Traced.ufuncs.update(_products.UFUNCS)
    _Traced.ufuncs.update(_pointwise.UFUNCS)
    for (ufunc, method), function in _reductions.UFUNC_METHODS.items():
        _Traced.ufuncs[ufunc, method] = _protocol.reduction_method(function)
    for ufunc in list(_Traced.ufuncs):
        if isinstance(ufunc, _np.ufunc) and ufunc.nin == 2 and ufunc.signature is None:
            _Traced.ufuncs[ufunc, "outer"] = _protocol.outer_method(ufunc)
            _Traced.ufuncs[ufunc, "at"] = _protocol.not_in_place(
                f"numpy.{ufunc.__name__}.at", "`y = minijac.numpy.add_at(x, index, values)` or minijac.numpy.put"
            )
    _Traced.functions.update(_protocol.FUNCTIONS)
    _Traced.methods.update(_protocol.METHODS)


_install()
linalg, shape = _np.linalg, _np.shape  # NumPy's, not the files of these names


def __getattr__(name: str) -> Any:
    return getattr(_np, name)


def __dir__() -> list[str]:
    return sorted(name for name in dir(_np) if not name.startswith("_"))
