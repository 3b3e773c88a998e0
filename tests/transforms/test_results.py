"""Results are fresh arrays of the promised dtype, for any size and layout of the input."""

from __future__ import annotations

import numpy as np
import pytest
from functions import PAIRS
from helpers import (
    IN,
    MODES,
    OUT,
    W1,
    close,
    is_fresh_result,
    loop_reference,
    net,
    net_jacobian,
    parameters,
    parametric_net,
    random,
)

import minijac as mj

modes = pytest.mark.parametrize("mode", MODES)
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())

# --- results ------------------------------------------------------------------------------------------------


CAPTURED = random(4, IN, seed=9)
RESULTS = {
    "identity": lambda x: x,
    "transposed": lambda x: x.T,
    "reversed features": lambda x: x[:, ::-1],
    "part": lambda x: x[:, 1:3],
    "captured factor": lambda x: x * CAPTURED,
    "captured matrix": lambda x: x @ W1,
    "captured value": lambda x: CAPTURED,
    "broadcast": lambda x: np.broadcast_to(x[:, None, :], (4, 2, IN)),
    "net": net,
}
results = pytest.mark.parametrize("f", RESULTS.values(), ids=RESULTS.keys())


@modes
@results
def test_jacobians_are_fresh_contiguous_arrays(f, mode):
    x = random(4, IN)
    y, J = mj.value_and_jacobian(f, mode=mode)(x)
    is_fresh_result(J, x, CAPTURED, W1)
    is_fresh_result(y, x, CAPTURED, W1)
    close(y, f(x), atol=0)


@results
def test_products_are_fresh_contiguous_arrays(f):
    x, v = random(4, IN), random(4, IN, seed=1)
    y, y_dot = mj.jvp(f, (x,), (v,))
    is_fresh_result(y, x, v, CAPTURED, W1)
    is_fresh_result(y_dot, x, v, CAPTURED, W1)
    y, pullback = mj.vjp(f, x)
    w = random(*y.shape, seed=2)
    is_fresh_result(pullback(w)[0], x, w, CAPTURED, W1)
    g = mj.grad(lambda t: (f(t) * f(CAPTURED)).sum())(x)
    is_fresh_result(g, x, CAPTURED, W1)


@results
def test_two_pullbacks_share_nothing(f):
    x = random(4, IN)
    y, pullback = mj.vjp(f, x)
    w = random(*y.shape, seed=2)
    (first,) = pullback(w)
    kept = first.copy()
    (second,) = pullback(2 * w)
    close(first, kept, atol=0)
    close(second, 2 * kept)
    first[...] = 7.0
    close(pullback(w)[0], kept)


def test_changing_the_value_does_not_change_the_pullback():
    """tanh keeps its output for the derivative, and the value that is returned is the caller's to change."""
    x = random(4, IN)
    y, pullback = mj.vjp(np.tanh, x)
    y[...] = 0.0
    close(pullback(np.ones((4, IN)))[0], 1 - np.tanh(x) ** 2)


def test_blocks_of_one_call_share_no_memory():
    x = random(4, 3)
    J = mj.jacobian(lambda t: (t * 2.0, t * 2.0))(x)
    assert not np.shares_memory(J[0], J[1])


# --- dtypes -------------------------------------------------------------------------------------------------


F32, F64 = np.float32, np.float64
W32 = random(3, 2, dtype=F32)
W64 = random(3, 2)
DTYPES = {
    "float32 alone": (F32, np.sin, F32),
    "float64 alone": (F64, np.sin, F64),
    "float32 with Python numbers": (F32, lambda x: 2.0 * x + 1, F32),
    "float32 with a float32 matrix": (F32, lambda x: np.tanh(x @ W32), F32),
    "float32 with a float64 matrix": (F32, lambda x: np.tanh(x @ W64), None),
    "float64 with a float32 matrix": (F64, lambda x: np.tanh(x @ W32), F64),
    "float32 with a float64 scalar": (F32, lambda x: np.float64(2.0) * x, None),
    "float32 with a float32 scalar": (F32, lambda x: np.float32(2.0) * x, F32),
    "float32 with integers": (F32, lambda x: x * np.arange(3), None),
    "float32 with small integers": (F32, lambda x: x * np.arange(3, dtype=np.int8), F32),
    "float32 cast up": (F32, lambda x: np.sin(x.astype(np.float64)), None),
    "float64 cast down": (F64, lambda x: np.sin(x.astype(np.float32)), None),
    "float32 power": (F32, lambda x: (x + 2) ** 2, F32),
    "float32 reduction": (F32, lambda x: x.mean(-1), F32),
    "float32 where": (F32, lambda x: np.where(x > 0, x, 0.0), None),
    "float32 constant": (F32, lambda x: np.ones((4, 2), np.float32), F32),
    "float32 unused": (F32, lambda x: (np.sin(x), np.ones((4, 2), np.float32)), F32),
}


@pytest.mark.parametrize(("dtype", "f", "expected"), DTYPES.values(), ids=DTYPES.keys())
def test_dtype_is_the_same_in_every_mode_and_the_value_has_numpys(dtype, f, expected):
    x = random(4, 3, dtype=dtype)
    found = set()
    for mode in MODES:
        y, J = mj.value_and_jacobian(f, mode=mode)(x)
        for block, value, plain in zip(*((t if isinstance(t, tuple) else (t,)) for t in (J, y, f(x))), strict=True):
            assert value.dtype == plain.dtype
            found.add(block.dtype)
    assert len(found) == 1, found
    assert found <= {np.dtype(F32), np.dtype(F64)}
    if expected is not None:
        assert found == {np.dtype(expected)}


@pytest.mark.parametrize("dtype", [F32, F64])
def test_products_and_gradients_keep_the_dtype(dtype):
    x = random(4, 3, dtype=dtype)
    y, y_dot = mj.jvp(np.tanh, (x,), (x,))
    assert y.dtype == y_dot.dtype == dtype
    y, pullback = mj.vjp(np.tanh, x)
    assert pullback(y)[0].dtype == dtype
    value, g = mj.value_and_grad(lambda t: np.tanh(t).sum())(x)
    assert value.dtype == g.dtype == dtype


@modes
def test_float32_values_are_right_to_float32(mode):
    x = random(4, IN, dtype=F32)
    close(mj.jacobian(net, mode=mode)(x), net_jacobian(x.astype(F64)), rtol=1e-4, atol=1e-5)


# --- sizes and layouts of the input -------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("size", [0, 1, 2])
@pairs
def test_small_batches(pair, size, mode):
    f, torch_f = pair
    x = random(size, IN)
    y, J = mj.value_and_jacobian(f, mode=mode)(x)
    close(y, f(x))
    if size:
        close(J, loop_reference(torch_f, x))
    else:
        is_fresh_result(J)
        assert J.shape == (0, *f(x).shape[1:], IN)


@modes
def test_empty_features_in(mode):
    J = mj.jacobian(lambda x: x @ np.zeros((0, 4)) + 1.0, mode=mode)(np.zeros((3, 0)))
    assert J.shape == (3, 4, 0)


@modes
def test_empty_features_out(mode):
    J = mj.jacobian(lambda x: np.sin(x)[:, :0], mode=mode)(random(3, 5))
    assert J.shape == (3, 0, 5)


@modes
def test_empty_features_between(mode):
    J = mj.jacobian(lambda x: x @ np.zeros((5, 0)) @ np.zeros((0, 2)), mode=mode)(random(3, 5))
    close(J, np.zeros((3, 2, 5)), atol=0)


@modes
@pytest.mark.parametrize("structured", [False, True])
def test_empty_batch_of_parameters(mode, structured):
    J = mj.jacobian(parametric_net, batch_axis=(None, 0), mode=mode, structured=structured)(
        parameters(), np.zeros((0, 3))
    )
    assert J["w"].shape == (0, 2, 3, 4)


def test_empty_products_and_gradients():
    x = np.zeros((0, IN))
    y, y_dot = mj.jvp(net, (x,), (x,))
    assert y.shape == y_dot.shape == (0, OUT)
    y, pullback = mj.vjp(net, x)
    assert pullback(y)[0].shape == (0, IN)
    assert mj.grad(lambda t: net(t).sum())(x).shape == (0, IN)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "every second row": lambda: random(8, IN)[::2],
    "every second column": lambda: random(4, 2 * IN)[:, ::2],
    "backwards": lambda: random(4, IN)[::-1, ::-1],
    "Fortran order": lambda: np.asfortranarray(random(4, IN)),
    "transposed": lambda: random(IN, 4).T,
    "read-only": lambda: read_only(random(4, IN)),
    "broadcast along the batch": lambda: np.broadcast_to(random(IN), (4, IN)),
    "broadcast along features": lambda: np.broadcast_to(random(4, 1), (4, IN)),
    "broadcast scalar": lambda: np.broadcast_to(np.float64(0.3), (4, IN)),
    "unaligned": lambda: np.frombuffer(b"\0" + random(4, IN).tobytes(), np.uint8)[1:].view(np.float64).reshape(4, IN),
}


@modes
@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_of_the_input_does_not_matter(make, mode):
    x = make()
    before = x.copy()
    y, J = mj.value_and_jacobian(net, mode=mode)(x)
    close(y, net(before))
    close(J, net_jacobian(before))
    is_fresh_result(J, x)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_of_seeds_does_not_matter(make):
    x, v = random(4, IN, seed=1), make()
    _, y_dot = mj.jvp(np.sin, (x,), (v,))
    close(y_dot, np.cos(x) * v)
    _, pullback = mj.vjp(np.sin, x)
    (x_bar,) = pullback(v)
    close(x_bar, np.cos(x) * v)
    is_fresh_result(x_bar, v, x)
