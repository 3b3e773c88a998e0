"""NumPy's namespace for traced values and arrays of either backend: the functions are NumPy's own, which dispatch.

``minijac.numpy.tanh`` is ``numpy.tanh``: on a plain array it runs at NumPy's speed, on a CuPy array or a traced value
it dispatches. Functions that create arrays take ``like=``, as NumPy's do, to create them where another array lives.

`array` and `asarray` let traced values through, and put lists of them together. What `zeros`, `empty`, `ones`, `full`,
`eye`, `array` and their like make inside a transformation can be filled with traced values. `put` and `add_at` return
the updated array, and write nothing.

Importing this package registers minijac's implementations with the traced values.
"""

from __future__ import annotations

import sys as _sys
from typing import Any

import numpy as _np

from ..ops import elementwise as _elementwise
from ..tape.traced import Traced as _Traced
from . import creation as _creation
from . import differences as _differences  # noqa: F401 - importing registers
from . import domains as _domains  # noqa: F401
from . import fft as _fft  # noqa: F401
from . import histograms as _histograms  # noqa: F401
from . import indexing as _indexing
from . import linalg as _linalg  # noqa: F401
from . import parts as _parts  # noqa: F401
from . import pointwise as _pointwise
from . import polynomials as _polynomials  # noqa: F401
from . import products as _products
from . import protocol as _protocol
from . import sets as _sets  # noqa: F401
from . import shape as _shape  # noqa: F401
from . import ufuncs as _ufuncs
from . import writing as _writing
from .indexing import add_at as _add_at
from .indexing import looked_up as _take
from .indexing import put as _put


def _install() -> None:
    """Give traced values minijac's functions for NumPy's."""
    for table in (_elementwise.UFUNCS, _products.UFUNCS, _pointwise.UFUNCS):
        _Traced.ufuncs.update(table)
    _Traced.ufuncs.update(_ufuncs.ufunc_methods([ufunc for ufunc in _Traced.ufuncs if isinstance(ufunc, _np.ufunc)]))
    for name, ufunc in _protocol.OPERATORS.items():
        for method in (f"__{name}", f"__r{name}"):
            setattr(_Traced, method, _protocol.operator(method, ufunc))
    _Traced.__neg__ = _protocol.negative  # type: ignore[method-assign]
    _Traced.functions.update(_protocol.FUNCTIONS)
    _Traced.creators.update(_creation.LIKE)
    _Traced.methods.update(_protocol.METHODS)
    _Traced.namespace = _sys.modules[__name__]
    _Traced.listed = staticmethod(_creation.listed)
    _Traced.write, _Traced.write_out = _indexing.setitem, _writing.ufunc_into
    for name in _VIEW_METHODS:
        _Traced.methods[name] = _writing.as_view(_protocol.METHODS[name], getattr(_np.ndarray, name))
    for function in _VIEWS:
        _Traced.functions[function] = _writing.as_view(_protocol.FUNCTIONS[function], function)
    _Traced.views.update((*_VIEW_METHODS, *_VIEWS, *_PARTS, *_ITSELF))


_VIEW_METHODS = ("reshape", "ravel", "transpose", "swapaxes", "squeeze", "diagonal")
_VIEWS = (
    _np.reshape, _np.ravel, _np.transpose, _np.permute_dims, _np.swapaxes, _np.matrix_transpose, _np.moveaxis,
    _np.rollaxis, _np.expand_dims, _np.squeeze, _np.flip, _np.fliplr, _np.flipud, _np.rot90, _np.broadcast_to,
    _np.diagonal, _np.diag, _np.linalg.diagonal, _np.linalg.matrix_transpose, _np.atleast_1d, _np.atleast_2d,
    _np.atleast_3d, _np.trim_zeros,
)  # fmt: skip
"""NumPy's functions that return a view of their first argument, where they do."""
_ITSELF = ("astype", "conj", "conjugate", _np.astype, _np.nan_to_num, _np.real, _np.imag, _np.real_if_close)
"""What returns its argument, where it makes no copy."""
_PARTS = (
    _np.array_split, _np.split, _np.hsplit, _np.vsplit, _np.dsplit, getattr(_np, "unstack", None),
    _np.broadcast_arrays, _np.einsum,
)  # fmt: skip
"""Those that return several."""


_install()
# as globals, so that finding a name costs no more than it does in numpy; those that numpy itself imports on first use
# are left to __getattr__
globals().update({_name: vars(_np)[_name] for _name in _np.__all__ if _name in vars(_np)} | _creation.MADE)
empty, empty_like = _creation.empty, _creation.empty_like
full, full_like = _creation.full, _creation.full_like
array, asarray, add_at, put, take = _creation.array, _creation.asarray, _add_at, _put, _take


def __getattr__(name: str) -> Any:
    return getattr(_np, name)


def __dir__() -> list[str]:
    return sorted({*_np.__all__, "add_at"})
