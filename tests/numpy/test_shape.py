"""Functions of NumPy that reshape, join, split, repeat, pad and reorder, on traced values."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import close
from numpy_harness import B, Case, cases, check, check_mixes, one, whole

import minijac as mj
from minijac.algebra.labels import Label

RESHAPED = {
    "reshape": one(lambda x: np.reshape(x, (len(x), 3, 2)) ** 2, 2, 3, second=True),
    "reshape method": one(lambda x: x.reshape(-1, 6) * x.reshape((len(x), -1)), 2, 3),
    "reshape, merged with the samples": one(lambda x: np.sin(x.reshape(-1, 3)).reshape(-1, 2, 3), 2, 3),
    "reshape, columns first": whole(lambda x: np.reshape(x, (3, 2), order="F") * x.reshape(3, 2, order="C"), 2, 3),
    "ravel": whole(lambda x: x.ravel() * x.flatten() + np.ravel(x, "F"), 2, 3),
    "transpose": one(lambda x: np.transpose(x, (0, 2, 1)) * x.transpose(0, 2, 1) + x.mT, 2, 3),
    "T": whole(lambda x: x.T @ x + np.transpose(x) @ x, 2, 3, second=True),
    "permute_dims": one(lambda x: np.permute_dims(x, (0, -1, 1)), 2, 3),
    "matrix_transpose": one(lambda x: np.matrix_transpose(x), 2, 3),
    "swapaxes": one(lambda x: np.swapaxes(x, 1, -1) + x.swapaxes(2, 1), 2, 3),
    "moveaxis": one(lambda x: np.moveaxis(x, 1, -1) + np.moveaxis(x, (1, 2), (2, 1)), 2, 3),
    "rollaxis": one(lambda x: np.rollaxis(x, 2, 1) + np.rollaxis(x, 1, 3), 2, 3),
    "samples moved and moved back": one(lambda x: np.moveaxis(np.sin(np.moveaxis(x, 0, -1)), -1, 0), 2, 3),
    "squeeze": one(lambda x: np.squeeze(x, 1) + x.squeeze(axis=(1,)) + np.squeeze(x, -2), 1, 3),
    "expand_dims": one(lambda x: np.expand_dims(x, (1, -1)) * x[:, None, :, None], 3),
    "broadcast_to": one(lambda x: np.broadcast_to(x[:, None], (len(x), 2, 3)) * 2.0, 3),
    "broadcast_arrays": Case(lambda x, y: np.broadcast_arrays(x, y, 1.0)[:2], ((2, 1), (1, 3))),
    "atleast": one(lambda x: [np.atleast_1d(x), np.atleast_2d(x), np.atleast_3d(x)], 2),
    "atleast of several": whole(lambda x: np.atleast_2d(x[0], x, 2.0 * x[:1]), 3),
    "meshgrid": whole(lambda x: np.meshgrid(x[:2], x[1:]), 4),
    "meshgrid, ij and sparse": whole(lambda x: np.meshgrid(x, x * x, indexing="ij", sparse=True), 3),
    "iteration": one(lambda x: np.stack([row * k for k, row in enumerate(x.T)], -1), 3),
}
REORDERED = {
    "flip": one(lambda x: np.flip(x, 1) * x + np.flip(x, (1, 2)), 2, 3),
    "fliplr": one(lambda x: np.fliplr(x), 3),
    "flipud": whole(lambda x: np.flipud(x) * x, 3, 2),
    "rot90": whole(lambda x: [np.rot90(x, k) for k in range(-1, 4)], 2, 3),
    "rot90 of features": one(lambda x: np.rot90(x, axes=(1, 2)) + np.rot90(x, 3, axes=(2, 1)), 2, 3),
    "roll": one(lambda x: np.roll(x, 1, 1) * x + np.roll(x, -2, axis=-1), 4),
    "roll of several axes": one(lambda x: np.roll(x, (1, 2), axis=(1, 2)) + np.roll(x, 1, axis=(1, 2)), 2, 3),
    "roll, flat": whole(lambda x: np.roll(x, 2) + np.roll(x, (1, 1)), 2, 3),
    "diagonal": one(lambda x: np.diagonal(x, axis1=1, axis2=2) + x.diagonal(1, -2, -1)[:, :3], 3, 4),
    "trace": one(lambda x: np.trace(x, axis1=1, axis2=2) * np.trace(x, 1, 1, 2), 3, 3),
    "diag": whole(lambda x: [np.diag(x), np.diag(x, 1), np.diag(x, k=-2)], 3),
    "diag of a matrix": whole(lambda x: np.diag(x @ x.T) + np.diag(x, 1)[:2], 2, 3),
    "diagflat": whole(lambda x: np.diagflat(x * x, -1), 2, 2, second=True),
    "tril": one(lambda x: np.tril(x) @ np.swapaxes(np.tril(x, -1), 1, 2), 3, 3, second=True),
    "triu": one(lambda x: np.triu(x, 1) + np.triu(x, k=-1), 2, 3),
    "tril of a vector": whole(lambda x: np.tril(x), 3),
}
JOINED = {
    "concatenate": Case(lambda x, y: np.concatenate([x, y * y, x], axis=1), ((2,), (3,)), second=True),
    "concatenate, inner": Case(lambda x, y: np.concatenate((x, y), -1), ((2, 1), (2, 3))),
    "concatenate with a constant": one(lambda x: np.concatenate([x, np.ones((len(x), 1), x.dtype)], 1), 2),
    "concatenate, flat": whole(lambda x: np.concatenate([x, x.T], axis=None), 2, 3),
    "concatenate, dtype": one(lambda x: np.concatenate([x, x], 1, dtype=np.float64), 2),
    "concat": one(lambda x: np.concat([x, x], axis=1), 2),
    "stack": Case(lambda x, y: np.stack([x, y, x * y], axis=1) + np.stack([x, y, x], -1).mT, ((3,), (3,))),
    "hstack": Case(lambda x, y: np.hstack([x, y]), ((2,), (3,))),
    "vstack": whole(lambda x: np.vstack([x[0], x, 1.0 * x[:1]]), 2, 3),
    "dstack": Case(lambda x, y: np.dstack([x, y]), ((2,), (2,))),
    "column_stack": Case(lambda x, y: np.column_stack([x[:, 0], y, x]), ((2,), (3,))),
    "hstack of vectors": whole(lambda x: np.hstack([x[0], x[:, 0], [1.0]]), 2, 3),
    "block": whole(lambda x: np.block([[x, x @ x.T], [np.zeros((1, 3)), np.ones((1, 2))]]), 2, 3),
    "block of samples": one(lambda x: np.block([x, 2.0 * x]), 2),
    "block of vectors": whole(lambda x: np.block([x, x[0], 1.0]), 3),
    "append": Case(lambda x, y: np.append(x, y, axis=1), ((2,), (3,))),
    "append, flat": whole(lambda x: np.append(x, x[0] * 2.0), 2, 3),
    "split": one(lambda x: np.split(x, 2, axis=1), 4),
    "split at": one(lambda x: np.split(x, [1, 3], axis=-1), 2, 4),
    "array_split": one(lambda x: np.array_split(x, 3, axis=1) + np.array_split(x, [2], axis=1), 5),
    "hsplit": one(lambda x: np.hsplit(x, 2), 4),
    "vsplit": whole(lambda x: np.vsplit(x, 2), 4, 2),
    "dsplit": one(lambda x: np.dsplit(x, [1]), 2, 3),
    "unstack": one(lambda x: np.unstack(x * x, axis=1), 3, 2),
    "delete": one(lambda x: np.delete(x, 1, axis=1), 4),
    "delete several": one(lambda x: [np.delete(x, [0, 2, 3], 1), np.delete(x, slice(1, 3), axis=1)], 5),
    "delete by mask": one(lambda x: np.delete(x, np.array([True, False, True]), axis=-1), 2, 3),
    "delete, flat": whole(lambda x: np.delete(x, [0, -1]), 2, 3),
    "insert": one(lambda x: np.insert(x, 1, 7.0, axis=1), 3),
    "insert a traced value": one(lambda x: np.insert(x, 2, x[:, 0], axis=1), 3),
    "insert several": one(lambda x: np.insert(x, [0, 2, 2], x[:, :3] * 2.0, axis=1), 4),
    "insert by slice": one(lambda x: np.insert(x, slice(0, 4, 2), 0.5, axis=1), 4),
    "insert many at one place": whole(lambda x: np.insert(x, 1, x[:2], axis=0), 3, 2),
    "insert, flat": whole(lambda x: np.insert(x, [1, 3], x[0, 0]), 2, 3),
}
REPEATED = {
    "tile": one(lambda x: np.tile(x, (1, 3)), 2),
    "tile, more axes": one(lambda x: np.tile(x, (1, 2, 3)) * 2.0, 2, 2),
    "tile in front": whole(lambda x: np.tile(x, (2, 2, 1)) ** 2, 2, 2),
    "tile by a number": one(lambda x: np.tile(x, 2), 2, 3),
    "repeat": one(lambda x: np.repeat(x, 3, axis=1) ** 2, 2, second=True),
    "repeat method": one(lambda x: x.repeat(2, axis=-1), 2, 3),
    "repeat, each its own": one(lambda x: np.repeat(x, [1, 0, 3], axis=1), 3),
    "repeat, flat": whole(lambda x: np.repeat(x, 2), 2, 2),
    "pad": one(lambda x: np.pad(x, ((0, 0), (1, 2))), 3),
    "pad with constants": one(lambda x: np.pad(x, ((0, 0), (1, 2)), constant_values=((0, 0), (1.0, 2.0))), 3),
    "pad by a dictionary": one(lambda x: np.pad(x, {-1: (2, 1), 1: 1}, "edge"), 2, 3),
    **{f"pad, {mode}": one(lambda x, mode=mode: np.pad(x, ((0, 0), (1, 2), (2, 0)), mode=mode), 2, 3) for mode in (
        "edge", "symmetric", "wrap", "linear_ramp", "maximum", "mean", "median", "minimum",
    )},
    "pad, reflect": one(lambda x: np.pad(x, ((0, 0), (2, 1), (0, 2)), mode="reflect"), 3, 3),
    "pad, more than there is": one(
        lambda x: [np.pad(x, ((0, 0), (5, 4)), mode) for mode in ("reflect", "wrap", "symmetric")], 3
    ),
    "pad, ramp to": one(lambda x: np.pad(x, ((0, 0), (2, 3)), "linear_ramp", end_values=((0, 0), (1.0, -1.0))), 3),
    "pad, statistics of a part": one(lambda x: np.pad(x, ((0, 0), (1, 1)), "mean", stat_length=2), 4),
}  # fmt: skip


@cases(RESHAPED)
def test_shapes(case):
    check(case)


@cases(REORDERED)
def test_orders_and_diagonals(case):
    check(case)


@cases(JOINED)
def test_joining_and_splitting(case):
    check(case)


@cases(REPEATED)
def test_repeating_and_padding(case):
    check(case)


# --- samples --------------------------------------------------------------------------------------------------

MIXES = {
    "flip": lambda x: np.flip(x, 0),
    "roll": lambda x: x + np.roll(x, 1, axis=0),
    "roll, flat": lambda x: np.roll(x, 1),
    "rot90": lambda x: np.rot90(x[:, :3], 2),
    "concatenate": lambda x: np.concatenate([x[1:], x[:1]]),
    "delete": lambda x: x * np.delete(x, 0, axis=0).sum(0),
    "insert": lambda x: np.insert(x, 0, x[0], axis=0)[:3],
    "pad": lambda x: np.pad(x, ((1, 0), (0, 0)), mode="edge")[:3],
    "trace": lambda x: x * np.trace(x[:, :3]),
    "transpose": lambda x: x[:, :3] + x[:, :3].T,
    "repeat": lambda x: x * np.repeat(x, 2, axis=0)[:3],
    "split": lambda x: x * np.split(x, 3)[0],
}


@pytest.mark.parametrize("f", MIXES.values(), ids=MIXES.keys())
def test_moving_entries_between_samples_mixes_them(f):
    check_mixes(f, 4)


# --- structure ------------------------------------------------------------------------------------------------

KEPT = {
    "tile": lambda x: np.tile(x, (1, 3)),
    "repeat": lambda x: np.repeat(x, 3, axis=1),
    "pad, edge": lambda x: np.pad(x, ((0, 0), (2, 2)), "edge"),
    "pad, wrap": lambda x: np.pad(x, ((0, 0), (2, 2)), "wrap"),
    "pad, reflect": lambda x: np.pad(x, ((0, 0), (2, 2)), "reflect"),
    "delete": lambda x: np.delete(x, 2, axis=1),
    "insert": lambda x: np.insert(x, 2, 0.0, axis=1),
    "split": lambda x: np.split(x, 2, axis=1)[1],
    "stack": lambda x: np.stack([x, x], -1),
    "rot90": lambda x: np.rot90(x[:, None], 1, (1, 2)),
    "diff": lambda x: np.diff(x, axis=1),
    "a range of indices": lambda x: x[:, np.arange(1, 5)],
    "a mask of neighbours": lambda x: x[:, np.array([False, True, True, True, False, False])],
    "roll": lambda x: np.roll(x, 2, axis=1),
    "add_at": lambda x: mj.numpy.add_at(np.zeros((3, 8)), (slice(None), slice(1, 7)), x),
}


@pytest.mark.parametrize("f", KEPT.values(), ids=KEPT.keys())
def test_moving_entries_costs_no_data(f):
    """The block is labels: the Jacobian holds no array along the features, let alone one for each sample."""
    x = np.random.default_rng(0).uniform(size=(B, 6))
    J = mj.jacobian(f, structured=True)(x)
    for term in J.block.terms:
        assert not any(factor.axes for factor in term.factors)
        assert all(type(digit) is Label for digit in term.inp[0]) and term.out[0] == term.inp[0]
    close(J.todense(), mj.jacobian(f)(x))
