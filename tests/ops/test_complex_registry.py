"""Every operation that takes complex numbers, on complex samples made of those in its record, against torch.

What does not say that it takes them refuses them, by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import close
from registry import drawn

import minijac as mj
from minijac.ops import REGISTRY

torch = pytest.importorskip("torch")
from torch_ops import COMPLEX, TORCH  # noqa: E402 - needs torch

TRUTH = TORCH | COMPLEX
PHASES = {"left_vectors", "right_vectors", "eig_vectors", "eigenvectors", "svd", "eigh", "eig"}
"""Vectors whose phase is arbitrary: tests/transforms/test_complex_linalg.py has what is made of them."""
HERMITIAN = {"cholesky", "eigenvalues"}
"""Functions of Hermitian matrices, which torch's take of any: in the same place."""
TAKES = [
    pytest.param(name, sample, id=f"{name}-{n}")
    for name, op in REGISTRY.items()
    if op.complex and op.edge is not None and name not in PHASES | HERMITIAN
    for n, sample in enumerate(op.examples)
    if "dtype" not in sample.params
]
REFUSES = [name for name, op in REGISTRY.items() if not op.complex and op.examples]


def turned(x: Any, k: int) -> Any:
    """A complex operand made of a real one; in the domain of the real one, but for a part of the plane beside it."""
    return x * (1.0 + 0.1j * (k + 1)) + 0.05j


def parts(y: Any) -> Any:
    return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y


@pytest.mark.parametrize("name, sample", TAKES)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_complex_operands_are_differentiated_as_torch_does(name, sample, mode):
    operands, op = drawn(name, sample, len(sample.shapes)), REGISTRY[name]
    moves = [k for k, x in enumerate(operands) if x.dtype.kind == "f" and k not in op.inert]
    given = [turned(x, k) if k in moves else x for k, x in enumerate(operands)]
    tensors = [torch.tensor(np.asarray(x)) for x in given]
    for k in moves:
        f = lambda x: op(*given[:k], turned(x, k), *given[k + 1 :], **sample.params)  # noqa: B023
        g = lambda x: parts(TRUTH[name](*tensors[:k], turned(x, k), *tensors[k + 1 :], **sample.params))  # noqa: B023
        expected = torch.autograd.functional.jacobian(g, torch.tensor(operands[k])).numpy()
        y = f(operands[k])
        if y.dtype.kind == "c":
            expected = np.moveaxis(expected, y.ndim, -1)
            expected = expected[..., 0] + 1j * expected[..., 1]
        J = mj.jacobian(f, batch_axis=None, mode=mode)(operands[k])
        assert J.dtype == expected.dtype
        close(J, expected, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(expected).max(initial=0.0)))


@pytest.mark.parametrize("name", REFUSES)
def test_what_does_not_take_complex_operands_refuses_them_by_name(name):
    op, sample = REGISTRY[name], REGISTRY[name].examples[0]
    operands = drawn(name, sample, len(sample.shapes))
    moves = [k for k, x in enumerate(operands) if x.dtype.kind == "f"]
    f = lambda x: op(*(turned(x, k) if k == moves[0] else y for k, y in enumerate(operands)), **sample.params)
    if moves:
        with pytest.raises(mj.UnsupportedOperationError, match=name):
            mj.jvp(f, (operands[moves[0]],), (operands[moves[0]],))
