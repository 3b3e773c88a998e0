"""The benchmark of sparse Jacobians: its functions' Jacobians are right, and hold entries alone."""

import numpy as np
import pytest
import sparsity
from helpers import close

import minijac as mj


@pytest.mark.parametrize("name", sparsity.SMALL)
def test_jacobians_are_right_and_sparse(name):
    case = sparsity.SMALL[name]()
    J = mj.jacobian(case.f, structured=True, batch_axis=None)(case.x)
    dense = mj.jacobian(case.f, batch_axis=None)(case.x)
    close(J.todense(), dense)
    assert "dense" not in J.structure
    assert J.tosparse().nnz < dense.size / 5
    close(mj.compile(mj.jacobian(case.f, structured=True, batch_axis=None))(case.x).todense(), dense)
    step = 1e-6 * np.random.default_rng(0).normal(size=case.x.shape)
    close(J @ step, (case.f(case.x + step) - case.f(case.x - step)) / 2, 1e-4, 1e-4 * abs(J @ step).max())
