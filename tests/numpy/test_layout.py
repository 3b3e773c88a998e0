"""How results lie in memory is NumPy's where it decides what is a view: writes to it reach as far as NumPy's do."""

from __future__ import annotations

import numpy as np
import pytest

import minijac as mj

X = np.random.default_rng(0).uniform(-1, 1, (3, 4, 5))


def changed(y):
    y[:, 1] = y[:, 0] * 2.0
    return y


def halved(y):
    y *= 0.5
    return y


PICKED = {
    "inner": lambda x: x[:, np.arange(4)],
    "innermost": lambda x: x[..., [1, 0, 3]],
    "mask": lambda x: x[:, [True, False, True, True]],
    "two": lambda x: x[:, [0, 2], [1, 1]],
    "square": lambda x: x[:, [[0, 2], [1, 1]]],
    "new axis": lambda x: x[:, None, [0, 2]],
    "apart": lambda x: x[[0, 2], :, [1, 1]],
    "outer": lambda x: x[[2, 0, 1]],
    "of a slice": lambda x: x[:, ::2, [1, 0]],
    "sorted": lambda x: np.sort(x.transpose(2, 0, 1), 1),
    "written": lambda x: changed(x[:, [1, 0, 3]]),
    "written as a whole": lambda x: halved(x[:, [1, 0, 3]]),
    "twice": lambda x: np.sin(x[:, [1, 0]])[:, [0, 1]],
}
SEEN = {
    "ravel": lambda y: y.ravel(),
    "reshape": lambda y: y.reshape(-1),
    "transposed": lambda y: y.T.ravel(),
    "a sample's": lambda y: y[0].ravel(),
    "copied": lambda y: (y * 2.0).copy("K").ravel(),
}


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("picked", PICKED)
def test_writes_reach_what_numpys_do(picked, seen):
    def f(x):
        y = PICKED[picked](x)
        view = SEEN[seen](y)
        view[1:] = 7.0
        return y, view

    for value, transformed in zip(f(X), mj.value_and_jacobian(f, batch_axis=None)(X)[0], strict=True):
        np.testing.assert_array_equal(transformed, value)
    for value, compiled in zip(f(X), mj.compile(f)(X), strict=True):
        np.testing.assert_array_equal(compiled, value)
    inner = lambda x: f(x)[0].sum()
    nested = mj.value_and_grad(lambda x: mj.value_and_grad(inner)(x)[0])
    np.testing.assert_allclose(nested(X)[0], f(X)[0].sum(), rtol=1e-13)
