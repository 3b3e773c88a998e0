"""Traced values: they answer like arrays, and stop_gradient takes the derivative from them."""

from __future__ import annotations

import inspect
import operator

import numpy as np
import pytest
from helpers import (
    IN,
    MODES,
    W1,
    close,
    random,
)

import minijac as mj
from minijac.accumulation.recording import prepare
from minijac.alike import rows_of
from minijac.arguments import checked_options
from minijac.tape import Node

modes = pytest.mark.parametrize("mode", MODES)

# --- stop_gradient and traced values ------------------------------------------------------------------------


@modes
def test_stop_gradient_is_a_constant(mode):
    x = random(4, 3)
    J = mj.jacobian(lambda t: t * mj.stop_gradient(np.sin(t)), mode=mode)(x)
    close(J, np.sin(x)[:, :, None] * np.eye(3))


def test_stop_gradient_passes_plain_values_and_trees_through():
    x = random(4, 3)
    close(mj.stop_gradient(x), x, atol=0)
    assert mj.stop_gradient(2.5) == 2.5
    g = mj.grad(lambda t: float(mj.stop_gradient(t.sum())) * t.sum())(x)
    close(g, np.full((4, 3), x.sum()))


def test_traced_values_answer_like_arrays():
    x = random(4, 3, low=1.0, high=2.0)
    seen = {}

    def f(t):
        seen.update(shape=t.shape, ndim=t.ndim, dtype=t.dtype, size=t.size, length=len(t))
        seen.update(text=str(t), all_above=bool((t > 0.5).all()), below=np.array_equal(np.asarray(t < 1.5), x < 1.5))
        columns = list(t.T)
        return np.stack([np.sin(c) for c in columns], axis=-1) if t[0, 0] > 0 else t * 0

    J = mj.jacobian(f)(x)
    close(J, np.cos(x)[:, :, None] * np.eye(3))
    assert seen["shape"] == (4, 3)
    assert seen["ndim"] == 2
    assert seen["dtype"] == x.dtype
    assert seen["size"] == 12
    assert seen["length"] == 4
    assert seen["all_above"] is True
    assert seen["below"]
    assert f"{x[0, 0]:.4f}"[:5] in seen["text"]


def test_minijac_numpy_is_one_namespace_for_plain_and_traced():
    x = random(4, IN)

    def f(t):
        return mj.numpy.tanh(mj.numpy.matmul(t, W1))

    plain = f(x)
    assert type(plain) is np.ndarray
    close(plain, np.tanh(x @ W1))
    close(mj.jacobian(f)(x), mj.jacobian(lambda t: np.tanh(t @ W1))(x))


# --- operators ----------------------------------------------------------------------------------------------


OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul]


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
@pytest.mark.parametrize("other", ["float", "int", "array", "traced", "scalar", "list"])
def test_an_operator_is_numpys_function_on_either_side(op, other):
    x = random(3, 3, low=1.0, high=2.0)
    others = {"float": 1.5, "int": 2, "array": x.T.copy(), "scalar": np.float64(1.5), "list": x.T.tolist()}
    for f in (op, lambda a, b: op(b, a)):
        run = lambda t, f=f: f(t, t if other == "traced" else others[other])
        if op is operator.matmul and other in ("float", "int", "scalar"):
            with pytest.raises(ValueError, match="axes"):
                mj.jacobian(run, batch_axis=None)(x)
            continue
        y, J = mj.value_and_jacobian(run, batch_axis=None)(x)
        np.testing.assert_array_equal(y, run(x))
        named = NAMED[op.__name__]
        same = lambda t, f=f, named=named: named(t, others.get(other, t)) if f is op else named(others.get(other, t), t)
        np.testing.assert_array_equal(J, mj.jacobian(same, batch_axis=None)(x))


NAMED = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "pow": np.power,
         "matmul": np.matmul}  # fmt: skip


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
def test_an_object_that_answers_for_operators_is_left_to_answer(op):
    class Answering:
        __array_ufunc__ = None

        def _answered(self, other):
            return other.shape

        __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rpow__ = __rmatmul__ = _answered

    seen = []
    mj.jacobian(lambda x: seen.append(op(x, Answering())) or x)(random(2, 3))
    assert seen == [(2, 3)]


# --- lines ----------------------------------------------------------------------------------------------------------


def test_an_operations_line_is_where_it_stands_in_a_statement_of_many():
    start = inspect.currentframe().f_lineno

    def f(x):
        return np.tanh(
            np.sin(x)
            * np.cos(
                x * x,
            )
        )

    nodes = [node for node in prepare(f, (random(2, 3),), {}, checked_options()).run.nodes if node.where is not None]
    assert [(node.op.name, node.where.number - start) for node in nodes] == [
        ("sin", 4), ("multiply", 6), ("cos", 5), ("multiply", 4), ("tanh", 3)
    ]  # fmt: skip
    assert all(node.where.file == __file__ for node in nodes)
    assert str(nodes[0].where) == f"{__file__}:{start + 4}"


# --- what a structure is --------------------------------------------------------------------------------------------


def test_tapes_of_one_structure_share_it_and_others_do_not():
    W = random(3, 2)
    structure = lambda f, *args, **options: prepare(f, args, {}, checked_options(**options)).graph.structure
    f = lambda x: (np.tanh(x @ W) * 2.0).sum(1)
    one = structure(f, random(4, 3))
    assert structure(lambda x: (np.tanh(x @ (W + 1)) * 3.0).sum(1), random(4, 3, seed=1)) is one
    others = [
        structure(f, random(5, 3)),
        structure(f, random(4, 3).astype(np.float32)),
        structure(lambda x: (np.tanh(x @ W.astype(np.float32)) * 2.0).sum(1), random(4, 3)),
        structure(lambda x: (np.tanh(x @ W) * 2).sum(1), random(4, 3)),
        structure(lambda x: (np.tanh(x @ W) * 2.0).sum(-1, keepdims=True), random(4, 3)),
        structure(lambda x: (np.tanh(x @ W) * np.full((), 2.0)).sum(1), random(4, 3)),
        structure(lambda x: ((np.tanh(x @ W) * 2.0).sum(1), W), random(4, 3), on_mixing="full", batch_axis=None),
        structure(f, random(4, 3), structured=True),
    ]
    assert len({id(each) for each in [one, *others]}) == len(others) + 1


def test_parameters_are_told_apart_by_value_and_arrays_by_shape_and_dtype():
    row = lambda value: rows_of([Node(None, (), (), {"parameter": value}, np.zeros(2), None)])
    apart = [np.int64(0), np.int64(1), np.dtype("f4"), np.dtype("f8"), np.int16, np.int32, np.zeros(2),
             np.zeros(2, "f4"), np.zeros(3), (2,), 2.5, slice(1, 2), [1, (2, 3)]]  # fmt: skip
    assert len({row(value) for value in apart}) == len(apart)
    assert row(np.zeros(2)) == row(np.ones(2))
