"""Partial derivatives by multi-index: equal to torch and to analysis, in one pass, and only what is asked for."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from helpers import close, is_fresh_result, mentions, names_place, random, tensor

import minijac as mj
from minijac.accumulation.graph import Graph
from minijac.accumulation.recording import run_on_tape
from minijac.algebra.block import Block
from minijac.algebra.labels import Label
from minijac.ops.edges import Edge, Linear, Part
from minijac.ops.families import REGISTRY
from minijac.tape.op import Op
from minijac.transforms.partials import coefficients

W1, B1 = random(2, 8, seed=1), random(8, seed=2)
W2, B2 = random(8, 8, seed=3), random(8, seed=4)
W3, B3 = random(8, 3, seed=5), random(3, seed=6)
STACK = random(4, 2, 3, seed=7)

UP_TO_FOUR = [(), (0,), (1,), (0, 0), (0, 1), (1, 1), (0, 0, 1), (1, 1, 1), (0, 0, 1, 1), (1, 1, 1, 1), (0, 1, 1, 1)]


def points(B=4, n=2, low=0.2, high=1.0):
    return random(B, n, seed=11, low=low, high=high)


# --- the reference: nested gradients in torch ---------------------------------------------------------------


def torch_partials(torch_f, x, multi_indices):
    """One float64 array for each multi-index, each by its own chain of nested reverse passes."""
    torch = pytest.importorskip("torch")
    result = []
    for index in multi_indices:
        t = tensor(x, requires_grad=True)
        y = torch_f(t)
        columns = []
        for u in y.flatten(1).unbind(1) if y.ndim > 1 else [y]:
            for k in index:
                u = torch_derivative(torch, u, t)[:, k]
            columns.append(u.detach())
        result.append(torch.stack(columns, 1).reshape(y.shape).numpy() if columns else y.detach().numpy())
    return result


def torch_derivative(torch, u, t):
    if not u.requires_grad:
        return torch.zeros_like(t)
    (d,) = torch.autograd.grad(u.sum(), t, create_graph=True, allow_unused=True)
    return torch.zeros_like(t) if d is None else d


def mlp(act):
    return lambda x: act(act(x @ W1 + B1) @ W2 + B2) @ W3 + B3


def torch_mlp(act):
    return lambda x: act(act(x @ tensor(W1) + tensor(B1)) @ tensor(W2) + tensor(B2)) @ tensor(W3) + tensor(B3)


def torch_functions():
    torch = pytest.importorskip("torch")
    cat = lambda *parts: torch.cat(parts, -1)
    return {
        "tanh": torch_mlp(torch.tanh),
        "sin": torch_mlp(torch.sin),
        "softplus": torch_mlp(torch.nn.functional.softplus),
        "silu": torch_mlp(torch.nn.functional.silu),
        "gelu": torch_mlp(torch.nn.functional.gelu),
        "quotient": lambda x: torch.sin(x[:, 0]) / (1.0 + x[:, 1] ** 2 * x[:, 0]),
        "powers": lambda x: x[:, 0] ** 3 * x[:, 1] ** -1.5 + x[:, 0] ** x[:, 1],
        "where": lambda x: torch.where(x > 0.5, torch.log(x.clamp(min=0.4)), x**4).prod(-1),
        "einsum": lambda x: torch.einsum("bi,ijk,bj->bk", x.exp(), tensor(STACK[:2]), torch.sin(x @ tensor(W1[:, :2]))),
        "outer": lambda x: torch.einsum("bi,bj->bij", x, x),
        "softmax": lambda x: torch.softmax(x @ tensor(W1), -1),
        "pieces": lambda x: cat(x[:, 1:] * x[:, :1], torch.exp(x[:, :1] * x.flip(-1)), x * 2.0).cumsum(-1),
        "attention": lambda x: (x[:, None, :] * tensor(W1).T) @ torch.sin(x[:, :, None] * tensor(B2)),
        "norm": lambda x: torch.linalg.norm(x @ tensor(W1), dim=-1),
        "logsumexp": lambda x: torch.logsumexp(x @ tensor(W1), -1),
        "hypot": lambda x: torch.hypot(x[:, 0], torch.atan2(x[:, 1], x[:, 0])),
        "cubic": lambda x: torch.stack([x[:, 0] ** 2 * x[:, 1], (x**3).sum(-1)], -1),
        "one": lambda x: x[:, 0] * 0.0 + 1.0,
    }


def running_sum(x):
    return np.stack([x[:, : k + 1].sum(-1) for k in range(x.shape[1])], -1)


FUNCTIONS = {
    "tanh": mlp(np.tanh),
    "sin": mlp(np.sin),
    "softplus": mlp(mj.nn.softplus),
    "silu": mlp(mj.nn.silu),
    "gelu": mlp(mj.nn.gelu),
    "quotient": lambda x: np.sin(x[:, 0]) / (1.0 + x[:, 1] ** 2 * x[:, 0]),
    "powers": lambda x: x[:, 0] ** 3 * x[:, 1] ** -1.5 + x[:, 0] ** x[:, 1],
    "where": lambda x: (y := np.where(x > 0.5, np.log(np.clip(x, 0.4, None)), x**4))[:, 0] * y[:, 1],
    "einsum": lambda x: np.einsum("bi,ijk,bj->bk", np.exp(x), STACK[:2], np.sin(x @ W1[:, :2])),
    "outer": lambda x: np.einsum("bi,bj->bij", x, x),
    "softmax": lambda x: mj.nn.softmax(x @ W1),
    "pieces": lambda x: running_sum(
        np.concatenate([x[:, 1:] * x[:, :1], np.exp(x[:, :1] * x[:, ::-1]), x * 2.0], axis=-1)
    ),
    "attention": lambda x: (x[:, None, :] * W1.T) @ np.sin(x[:, :, None] * B2),
    "norm": lambda x: np.linalg.norm(x @ W1, axis=-1),
    "logsumexp": lambda x: logsumexp(x @ W1),
    "hypot": lambda x: np.hypot(x[:, 0], np.arctan2(x[:, 1], x[:, 0])),
    "cubic": lambda x: np.stack([x[:, 0] ** 2 * x[:, 1], (x**3).sum(-1)], -1),
    "one": lambda x: x[:, 0] * 0.0 + 1.0,
}


def logsumexp(x):
    peak = x.max(-1, keepdims=True)
    return np.log(np.exp(x - peak).sum(-1)) + peak[:, 0]


# --- equal to the truth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_orders_to_four_equal_torch(name):
    x = points()
    expected = torch_partials(torch_functions()[name], x, UP_TO_FOUR)
    for index, a, b in zip(UP_TO_FOUR, mj.partials(FUNCTIONS[name], UP_TO_FOUR)(x), expected, strict=True):
        scale = np.abs(b).max(initial=0.0)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11 * max(scale, 1.0), err_msg=str(index))


def test_orders_of_a_product_of_powers_equal_analysis():
    x = points()
    a, b = x.T
    indices = [(0,) * 5, (0, 0, 1, 1, 1), (0, 0, 0, 1, 1, 1), (1,) * 4]
    got = mj.partials(lambda x: x[:, 0] ** 5 * x[:, 1] ** 3, indices)(x)
    for actual, expected in zip(got, [120 * b**3, 20 * a**3 * 6, 60 * a**2 * 6, 0 * a], strict=True):
        close(actual, expected)


def test_sixth_order_of_the_sine():
    x = points(5, 1)
    for k, y in enumerate(mj.partials(lambda x: np.sin(2 * x[:, 0]), [(0,) * k for k in range(7)])(x)):
        close(y, 2.0**k * np.sin(2 * x[:, 0] + k * np.pi / 2))


def test_heat_kernel_solves_the_heat_equation():
    x = points()
    kernel = lambda x: np.exp(-(x[:, 1] ** 2) / (4.0 * x[:, 0])) / np.sqrt(4.0 * np.pi * x[:, 0])
    u_t, u_xx = mj.partials(kernel, [(0,), (1, 1)])(x)
    close(u_t, u_xx)


def _representative():
    names = [name for name, op in REGISTRY.items() if op.edge is not None and op.examples]
    return [
        pytest.param(REGISTRY[name], k, id=f"{name}-{k}") for name in names for k in range(len(REGISTRY[name].examples))
    ]


@pytest.mark.parametrize(("op", "number"), _representative())
def test_third_order_of_an_operation_equals_nested_forward_mode(op, number):
    """Along a curve through the operands of an operation: one input for each sample."""
    sample = op.examples[number]
    middle, half = 0.5 * (sample.low + sample.high), 0.45 * (sample.high - sample.low)
    arrays, steps = [], []
    for k, shape in enumerate(sample.shapes):
        arrays.append(middle + half * random(*shape, seed=20 + k))
        steps.append(0.04 * half * random(*shape, seed=30 + k))
    if sample.prepare is not None:
        arrays[0], steps[0] = sample.prepare(arrays[0]), sample.prepare(steps[0])
    given = {0: arrays[0] > 0} if op.name == "where" else sample.given

    def f(t):
        curve = np.sin(t[0, 0]) + t[0, 0] * t[0, 0]
        return op(
            *(given[k] if k in given else arrays[k] + curve * steps[k] for k in range(len(arrays))), **sample.params
        )

    t = np.array([[0.3]])
    expected, g = [], f
    for _ in range(4):
        expected.append(g(t))
        g = lambda t, g=g: mj.jvp(g, (t,), (np.ones_like(t),))[1]
    run = run_on_tape(f, (t,), {}, (0,), {}, False)
    graph = Graph(run.nodes, run.inputs, run.output_nodes)
    found = coefficients(graph, {run.inputs[0]: 1}, {(0,), (0, 0), (0, 0, 0)}).get(run.output_nodes[0], {})
    for order in (1, 2, 3):
        a, b = found.get((0,) * order, 0.0), expected[order]
        a = a.dense(b.dtype, b) if isinstance(a, Block) else np.broadcast_to(a, b.shape)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * max(1.0, np.abs(b).max(initial=0.0)))


# --- results ------------------------------------------------------------------------------------------------


def test_results_are_new_contiguous_arrays_in_the_order_asked():
    x = points()
    indices = [(1, 0), (0, 1), (), (0,), (0,), (1, 1)]
    results = mj.partials(mlp(np.tanh), indices)(x)
    assert isinstance(results, tuple) and len(results) == len(indices)
    for k, result in enumerate(results):
        assert result.shape == (4, 3)
        is_fresh_result(result, x, *results[:k])
    close(results[0], results[1])
    close(results[2], mlp(np.tanh)(x))


def test_value_of_the_identity_is_a_copy():
    x = points()
    (y,) = mj.partials(lambda x: x, [()])(x)
    is_fresh_result(y, x)
    close(y, x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_that_of_the_output(dtype):
    x = points().astype(dtype)
    f = lambda x: np.tanh(x @ W1.astype(dtype)) * x[:, :1] ** 3
    for result in mj.partials(f, UP_TO_FOUR)(x):
        assert result.dtype == dtype
    for result in mj.partials(lambda x: x * x + np.float64(1.0), [(), (0,), (0, 0)])(x):
        assert result.dtype == np.result_type(dtype, np.float64)


def test_pytree_outputs_and_further_arguments():
    x = points()
    f = lambda x, scale, power=1: {"a": scale * np.sin(x[:, 0] * x[:, 1]), "b": [x**power, np.ones(4)]}
    indices = [(), (0,), (0, 1)]
    trees = mj.partials(f, indices, batch_axis=(0, None))(x, 3.0, power=2)
    for index, tree in zip(indices, trees, strict=True):
        assert set(tree) == {"a", "b"} and isinstance(tree["b"], list)
        one = mj.partials(lambda x: 3.0 * np.sin(x[:, 0] * x[:, 1]), [index])(x)[0]
        close(tree["a"], one)
        close(tree["b"][1], np.ones(4) if index == () else np.zeros(4))
    close(mj.partials(f, [(1,)], batch_axis=(0, None))(x, 3.0, power=2)[0]["b"][0], 2 * x * np.array([0.0, 1.0]))


def test_batch_axis_of_the_input_and_where_the_output_has_it():
    x = points()
    f = lambda x: np.sin(x[0] * x[1])[None] * np.arange(1.0, 4.0)[:, None]  # (2, B) -> (3, B)
    expected = mj.partials(lambda x: np.sin(x[:, :1] * x[:, 1:]) * np.arange(1.0, 4.0), UP_TO_FOUR)(x)
    for axis in (1, -1):
        for a, b in zip(mj.partials(f, UP_TO_FOUR, batch_axis=axis)(np.ascontiguousarray(x.T)), expected, strict=True):
            is_fresh_result(a)
            close(a, b)


@pytest.mark.parametrize("B", [0, 1])
def test_no_samples_and_one_sample(B):
    x = points(B)
    for a, b in zip(
        mj.partials(mlp(np.tanh), UP_TO_FOUR)(x), torch_partials(torch_mlp_tanh(), x, UP_TO_FOUR), strict=True
    ):
        close(a, b, rtol=1e-9)


def torch_mlp_tanh():
    return torch_mlp(pytest.importorskip("torch").tanh)


def test_no_indices_and_one_feature():
    assert mj.partials(np.sin, [])(points()) == ()
    x = points(3, 1)
    close(mj.partials(lambda x: np.sin(x) * x, [(0, 0)])(x)[0], 2 * np.cos(x) - x * np.sin(x))


@pytest.mark.parametrize("layout", ["read-only", "strided", "broadcast"])
def test_any_memory_layout(layout):
    x = points()
    if layout == "read-only":
        x.flags.writeable = False
    elif layout == "strided":
        x = np.repeat(x, 2, axis=1)[:, ::2]
    else:
        x = np.broadcast_to(x[:1], x.shape)
    before = x.copy()
    for a, b in zip(
        mj.partials(mlp(np.tanh), UP_TO_FOUR)(x), mj.partials(mlp(np.tanh), UP_TO_FOUR)(before), strict=True
    ):
        close(a, b)
    close(x, before, rtol=0, atol=0)


# --- only what is asked for ---------------------------------------------------------------------------------


@contextmanager
def counted(*names):
    """Count the evaluations of operations, and the entries that they computed."""
    calls, entries = Counter(), Counter()
    kept = {name: REGISTRY[name].value for name in names}

    def counting(name):
        def value(*args, **params):
            out = kept[name](*args, **params)
            if not isinstance(out, mj.tape.Traced):
                calls[name] += 1
                entries[name] += out.size
            return out

        return value

    for name in names:
        object.__setattr__(REGISTRY[name], "value", counting(name))
    try:
        yield calls, entries
    finally:
        for name in names:
            object.__setattr__(REGISTRY[name], "value", kept[name])


@pytest.mark.parametrize("indices", [[()], [(), (0,), (1,), (1, 1)], UP_TO_FOUR])
def test_the_network_runs_once(indices):
    runs = []
    net = mlp(np.tanh)

    def f(x):
        runs.append(x.shape)
        return net(x)

    with counted("tanh") as (calls, _):
        mj.partials(f, indices)(points())
    assert runs == [(4, 2)]
    assert calls["tanh"] == 2


def test_inputs_not_asked_for_cost_nothing():
    V1, V2 = random(50, 8, seed=1), random(8, 8, seed=2)
    f = lambda x: np.tanh(np.tanh(x @ V1) @ V2) @ W3
    x = random(4, 50)
    with counted("matmul") as (_, entries):
        f(mj.tape.Trace().input(x))
        once = entries["matmul"]
    with counted("matmul") as (_, entries):
        mj.partials(f, [(3,), (7,), (7, 7)])(x)
    assert entries["matmul"] <= once + 3 * 4 * (8 + 3)  # three coefficients, from the second layer on
    close(mj.partials(f, [(3,), (7, 7)])(x)[0], mj.jacobian(f)(x)[:, :, 3])


def test_what_an_input_does_not_reach_is_no_work():
    calls = []
    kept = REGISTRY["sin"].partials
    object.__setattr__(REGISTRY["sin"], "partials", (lambda y, x: calls.append(np.shape(x)) or np.cos(x),))
    try:
        f = lambda x: np.sin(x[:, 0]) + np.exp(x[:, 1])
        result = mj.partials(f, [(1,), (1, 1), (0, 1)])(points())
    finally:
        object.__setattr__(REGISTRY["sin"], "partials", kept)
    assert not [shape for shape in calls if 0 not in shape]  # structure is read off arrays without entries
    close(result[0], np.exp(points()[:, 1]))
    close(result[2], np.zeros(4))


# --- branches, kinks, mixing, errors ------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_branch_not_taken_spoils_nothing(order):
    x = np.array([[0.0, 1.0], [2.0, 3.0], [-1.0, 0.5]])
    with np.errstate(all="ignore"):
        f = lambda x: np.where(x[:, 0] > 0, np.sqrt(x[:, 0]) * np.log(x[:, 0]) / x[:, 0], x[:, 0] ** 2) * x[:, 1]
        (got,) = mj.partials(f, [(0,) * order])(x)
        (safe,) = mj.partials(f, [(0,) * order])(np.array([[2.0, 3.0]]))
    polynomial = [x[:, 0] ** 2, 2 * x[:, 0], 2 + 0 * x[:, 0], 0 * x[:, 0], 0 * x[:, 0]][order] * x[:, 1]
    assert np.isfinite(got).all()
    close(got[[0, 2]], polynomial[[0, 2]])
    close(got[1], safe[0])


def test_powers_at_zero():
    x = np.array([[0.0, 2.0]])
    results = mj.partials(lambda x: x[:, 0] ** 3 + x[:, 0] ** x[:, 1], [(0,), (0, 0), (0, 0, 0), (0, 0, 0, 0)])(x)
    close(np.concatenate(results)[:2], np.array([0.0, 2.0]))
    close(mj.partials(lambda x: x[:, 0] ** 3, [(0,) * 3, (0,) * 4])(x), (np.array([6.0]), np.array([0.0])))


def test_kinks_have_no_curvature():
    x = random(6, 2)
    f = lambda x: np.abs(x) * x[:, :1] + np.maximum(x, 0.1) ** 2 + x.max(-1, keepdims=True) ** 3
    torch = pytest.importorskip("torch")
    g = lambda x: x.abs() * x[:, :1] + x.clamp(min=0.1) ** 2 + x.amax(-1, keepdim=True) ** 3
    for a, b in zip(mj.partials(f, UP_TO_FOUR)(x), torch_partials(g, x, UP_TO_FOUR), strict=True):
        close(a, b, rtol=1e-9)
    assert torch is not None


def test_mixing_raises_and_names_the_line():
    def f(x):
        return x - x.mean(0)  # <- here

    with pytest.raises(mj.BatchMixingError) as raised:
        mj.partials(f, [(0,)])(points())
    names_place(raised.value, f)


def test_mixing_of_what_carries_no_derivative_is_fine():
    x = points()
    f = lambda x: x[:, 0] ** 2 * mj.stop_gradient(x).mean()
    close(mj.partials(f, [(0, 0)])(x)[0], np.full(4, 2 * x.mean()))


@pytest.mark.parametrize(
    ("indices", "pattern"),
    [
        ([(2,)], "multi-index.*2"),
        ([(0, -1)], "multi-index"),
        ([0], "tuple of ints"),
        ([[0]], "tuple of ints"),
        ([(0.0,)], "tuple of ints"),
        ([(True,)], "tuple of ints"),
        (3, "multi_indices"),
    ],
)
def test_wrong_multi_indices_are_named(indices, pattern):
    with pytest.raises(mj.InputError) as raised:
        mj.partials(np.sin, indices)(points())
    mentions(raised.value, pattern)


@pytest.mark.parametrize(
    "x", [np.ones(3), np.ones((3, 2, 2)), {"a": np.ones((3, 2))}, np.ones((3, 2), int), np.ones((3, 2), complex), 1.0]
)
def test_wrong_inputs_are_named(x):
    with pytest.raises(mj.InputError):
        mj.partials(lambda x: x, [(0,)])(x)


def test_wrong_batch_axis_is_named():
    for axis in (2, None, "0"):
        with pytest.raises(mj.InputError):
            mj.partials(np.sin, [(0,)], batch_axis=axis)(points())
    with pytest.raises(mj.InputError):
        mj.partials(np.sin, [(0,)])()


# --- operations with a derivative given by hand ---------------------------------------------------------------


def _square_edge(node, k):
    (a,) = node.args
    lead, i, j = (Label(n) for n in a.shape)
    axes = ((lead,), (i,), (j,))
    own = (axes[0], (Label(a.shape[1]),), (Label(a.shape[2]),))
    T = lambda x: x.swapaxes(-1, -2)
    push = lambda d: a @ d + d @ a
    pull = lambda e: T(a) @ e + e @ T(a)
    return Edge(node.out.shape, a.shape, [Part(axes, own)], Linear(push, pull))


def test_a_nonlinear_operation_with_a_given_derivative():
    squared = Op("squared", lambda a: a @ a, _square_edge)
    matrices = lambda x: np.sin(np.einsum("bi,ijk->bjk", x, random(2, 3, 3, seed=40)))
    x = points()
    got = mj.partials(lambda x: squared(matrices(x)) ** 2, UP_TO_FOUR)(x)
    expected = mj.partials(lambda x: (matrices(x) @ matrices(x)) ** 2, UP_TO_FOUR)(x)
    for a, b in zip(got, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("name", ["inv", "det", "logabsdet", "cholesky", "solve", "eigvalsh"])
def test_linear_algebra_equals_torch(name):
    torch = pytest.importorskip("torch")
    A = random(2, 3, 3, seed=41)
    A = 0.3 * (A + A.swapaxes(1, 2))
    base = np.diag([2.0, 3.0, 4.5])
    rhs = random(3, 2, seed=42)
    f = {
        "inv": np.linalg.inv,
        "det": np.linalg.det,
        "logabsdet": lambda a: np.linalg.slogdet(a)[1],
        "cholesky": np.linalg.cholesky,
        "solve": lambda a: np.linalg.solve(a, np.sin(a[:, :, :1]) * rhs),
        "eigvalsh": np.linalg.eigvalsh,
    }[name]
    g = {
        "inv": torch.linalg.inv,
        "det": torch.linalg.det,
        "logabsdet": lambda a: torch.linalg.slogdet(a)[1],
        "cholesky": torch.linalg.cholesky,
        "solve": lambda a: torch.linalg.solve(a, torch.sin(a[:, :, :1]) * tensor(rhs)),
        "eigvalsh": torch.linalg.eigvalsh,
    }[name]
    x = points()
    got = mj.partials(lambda x: f(np.einsum("bi,ijk->bjk", np.sin(x), A) + base), UP_TO_FOUR[:9])(x)
    expected = torch_partials(
        lambda x: g(torch.einsum("bi,ijk->bjk", torch.sin(x), tensor(A)) + tensor(base)), x, UP_TO_FOUR[:9]
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * max(1.0, np.abs(b).max()))


# --- inside other transformations -----------------------------------------------------------------------------


def network_parameters():
    sizes = [(2, 16), (16, 16), (16, 1)]
    return {
        f"{kind}{k}": random(*(shape if kind == "w" else shape[1:]), seed=50 + k)
        for k, shape in enumerate(sizes)
        for kind in "wb"
    }


def burgers_loss(p, x, nu=0.01):
    u = lambda x: (np.tanh(np.tanh(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])[:, 0]
    value, u_t, u_x, u_xx = mj.partials(u, [(), (0,), (1,), (1, 1)])(x)
    return ((u_t + value * u_x - nu * u_xx) ** 2).mean()


def torch_burgers_loss(p, x, nu=0.01):
    torch = pytest.importorskip("torch")
    x = x.detach().requires_grad_()
    u = torch.tanh(torch.tanh(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (du_x,) = torch.autograd.grad(du[:, 1].sum(), x, create_graph=True)
    return ((du[:, 0] + u[:, 0] * du[:, 1] - nu * du_x[:, 1]) ** 2).mean()


def test_gradient_of_a_residual_loss_equals_torch():
    p, x = network_parameters(), random(64, 2, seed=60)
    loss, gradient = mj.value_and_grad(burgers_loss)(p, x)
    torch_p = {key: tensor(value, requires_grad=True) for key, value in p.items()}
    expected = torch_burgers_loss(torch_p, tensor(x))
    expected.backward()
    close(loss, expected.item(), rtol=1e-10)
    assert set(gradient) == set(p)
    for key in p:
        reference = torch_p[key].grad
        close(gradient[key], np.zeros_like(p[key]) if reference is None else reference.numpy(), rtol=1e-9, atol=1e-12)


def test_gradient_of_the_loss_runs_the_network_once():
    p, x = network_parameters(), random(8, 2, seed=60)
    with counted("tanh") as (calls, _):
        mj.grad(burgers_loss)(p, x)
    assert calls["tanh"] == 2


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("name", ["tanh", "quotient", "powers", "einsum", "softmax", "pieces"])
def test_jacobian_of_partials_is_the_next_order(name, mode):
    f, x = FUNCTIONS[name], points()
    first = mj.jacobian(lambda x: mj.partials(f, [(0, 1), (1,)])(x), mode=mode)(x)
    for J, stem in zip(first, [(0, 1), (1,)], strict=True):
        nexts = mj.partials(f, [(*stem, 0), (*stem, 1)])(x)
        np.testing.assert_allclose(J, np.stack(nexts, -1), rtol=1e-9, atol=1e-10)


def test_partials_of_a_jacobian_are_the_next_order():
    f, x = FUNCTIONS["tanh"], points()
    (got,) = mj.partials(mj.jacobian(f), [(0, 1)])(x)
    close(got, np.stack(mj.partials(f, [(0, 0, 1), (0, 1, 1)])(x), -1))


def test_partials_of_partials():
    f, x = FUNCTIONS["quotient"], points()
    inner = lambda x: mj.partials(f, [(0,)])(x)[0]
    close(mj.partials(inner, [(1, 1)])(x)[0], mj.partials(f, [(0, 1, 1)])(x)[0])


def test_vjp_and_jvp_of_partials():
    f, x = FUNCTIONS["tanh"], points()
    v, w = random(4, 2, seed=61), random(4, 3, seed=62)
    g = lambda x: mj.partials(f, [(0, 1)])(x)[0]
    J = np.stack(mj.partials(f, [(0, 0, 1), (0, 1, 1)])(x), -1)
    close(mj.jvp(g, (x,), (v,))[1], np.einsum("boi,bi->bo", J, v))
    close(mj.vjp(g, x)[1](w)[0], np.einsum("boi,bo->bi", J, w))


def test_a_variable_captured_from_an_outer_transformation_is_constant_within():
    """d/dx of x * (d/dy of x * y) is 2 x, not 3 x: the inner derivative does not see the outer variable."""
    x = points(4, 1)
    f = lambda x: x * mj.partials(lambda y: (x * y)[:, 0], [(0,)])(np.ones_like(mj.stop_gradient(x)))[0][:, None]
    close(mj.jacobian(f)(x), 2 * x[..., None])
