"""Scalars: how one entry of NumPy's elementwise functions is spelled in generated loops and kernels, one line each."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tape.op import Scalar

__all__ = ["SCALARS"]

ARITHMETIC = {
    np.add: "({} + {})", np.subtract: "({} - {})", np.multiply: "({} * {})", np.divide: "({} / {})",
    np.negative: "(-{})", np.positive: "({})", np.square: "({0} * {0})", np.reciprocal: "(ONE / {})",
    np.sqrt: "sqrt({})", np.absolute: "abs({})", np.fabs: "abs({})", np.conjugate: "({})",
    np.maximum: "({0} if ({0} >= {1}) | ({0} != {0}) else {1})",
    np.minimum: "({0} if ({0} <= {1}) | ({0} != {0}) else {1})",
    np.where: "({1} if {0} else {2})",
    np.less: "({} < {})", np.less_equal: "({} <= {})", np.greater: "({} > {})", np.greater_equal: "({} >= {})",
    np.equal: "({} == {})", np.not_equal: "({} != {})", np.isnan: "({0} != {0})",
}  # fmt: skip
"""Operations of IEEE arithmetic, whose results are NumPy's to the last bit; of 0.0 and -0.0 either may be larger."""
CHEAP = {*ARITHMETIC, np.logical_and, np.logical_or, np.logical_not, np.isfinite, np.isinf, np.sign} - {
    np.positive, np.reciprocal, np.fabs, np.conjugate,
}  # fmt: skip
"""Operations that cost less than a read of memory."""
SCALARS: dict[Any, Scalar] = {
    function: Scalar(ARITHMETIC.get(function), {}, function in CHEAP) for function in {*ARITHMETIC, *CHEAP}
}
"""By NumPy's function."""
