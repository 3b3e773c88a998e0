"""Hessian, its diagonal, Laplacian and divergence: one pass along the tape equals nested Jacobians, and torch."""

import tracemalloc

import numpy as np
import pytest
from helpers import close, random
from registry import every_smooth_case

import minijac as mj
import minijac.scipy.linalg
from minijac.ops import REGISTRY, linalg
from minijac.ops import scipy as scipy_ops
from minijac.transforms.second import second_order

RNG = np.random.default_rng(7)
W1, W2 = RNG.normal(size=(5, 7)), RNG.normal(size=(7, 4))
SQUARE = RNG.normal(size=(5, 5))
X = RNG.normal(size=(4, 5))

FUNCTIONS = {
    "network": lambda x: np.tanh(x @ W1) @ W2,
    "deep": lambda x: np.sin(np.tanh(np.exp(0.3 * x @ W1)) @ W2),
    "formula": lambda x: np.sin(x[:, 1:] * x[:, :-1]) / (1.0 + x[:, 1:] ** 2),
    "softmax": lambda x: mj.nn.softmax(x @ W1),
    "layer_norm": lambda x: mj.nn.layer_norm(x @ W1 + x.sum(1, keepdims=True)),
    "outer": lambda x: np.einsum("bi,bj->bij", x, np.exp(x)),
    "cube": lambda x: x * x * x[:, :1],
    "divide": lambda x: x / (x[:, ::-1] ** 2 + 2.0),
    "power": lambda x: (x**2 + 1.0) ** x,
    "extreme": lambda x: (x**3).max(1),
    "where": lambda x: np.where(x > 0, np.sqrt(np.where(x > 0, x, 1.0)), np.exp(x)),
    "dead branch": lambda x: np.where(x > 10.0, np.sqrt(x - 10.0), x**3),
    "solve": lambda x: np.linalg.solve(3.0 * np.eye(5) + x[:, :, None] * x[:, None, :], x[:, :, None])[..., 0],
    "residual": lambda x: x + np.tanh(x @ SQUARE),
    "shared": lambda x: x[:, :2] + 1.0,
    "linear": lambda x: x @ W1,
    "attention": lambda x: np.einsum("bi,bj->bij", mj.nn.softmax(x), np.tanh(x)).sum(1),
    "roll": lambda x: np.roll(x, 1, axis=1) * x - np.concatenate([x[:, 3:], x[:, :3]], 1) ** 2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_pass_equals_the_hessian(name):
    f = FUNCTIONS[name]
    with np.errstate(invalid="ignore"):
        H = mj.hessian(f)(X)
        diagonal = np.diagonal(H, axis1=-2, axis2=-1)
        np.testing.assert_allclose(mj.hessian_diagonal(f)(X), diagonal, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(mj.laplacian(f)(X), diagonal.sum(-1), rtol=1e-9, atol=1e-10)
        for chunk in (1, 2, 3):
            np.testing.assert_allclose(mj.laplacian(f, chunk_size=chunk)(X), diagonal.sum(-1), rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(mj.hessian_diagonal(f, chunk_size=chunk)(X), diagonal, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
def test_hessian_equals_torch(mode):
    torch = pytest.importorskip("torch")
    w1, w2 = torch.tensor(W1), torch.tensor(W2)
    expected = [
        [
            torch.autograd.functional.hessian(lambda row, k=k: (torch.tanh(row @ w1) @ w2)[k], x).numpy()
            for k in range(4)
        ]
        for x in torch.tensor(X)
    ]
    np.testing.assert_allclose(mj.hessian(FUNCTIONS["network"], mode=mode)(X), expected, rtol=1e-9, atol=1e-12)


def test_hessian_diagonal_of_several_arguments_and_trees_has_the_jacobians_tree():
    def f(a, b):
        return {"y": np.sin(a["u"]) * b, "z": (b * b).sum(1)}

    a, b = {"u": X}, RNG.normal(size=(4, 5))
    d = mj.hessian_diagonal(f, argnums=(0, 1))(a, b)
    H = mj.hessian(f, argnums=(0, 1))(a, b)
    np.testing.assert_allclose(d["y"][0]["u"], np.diagonal(H["y"][0]["u"][0]["u"], axis1=-2, axis2=-1), atol=1e-12)
    np.testing.assert_allclose(d["y"][1], np.diagonal(H["y"][1][1], axis1=-2, axis2=-1), atol=1e-12)
    assert d["z"][1].shape == (4, 5)
    np.testing.assert_allclose(d["z"][1], np.full((4, 5), 2.0))
    np.testing.assert_allclose(mj.laplacian(f, argnums=(0, 1))(a, b)["z"], np.full(4, 10.0))


def test_values_come_from_the_same_run():
    calls = []

    def f(x):
        calls.append(x.shape)
        return np.sin(x).sum(1), {"note": x * 2.0}

    for transformed in (mj.value_and_laplacian, mj.value_and_hessian_diagonal, mj.value_and_hessian):
        calls.clear()
        (y, aux), derivative = transformed(f, has_aux=True)(X)
        assert calls == [(4, 5)]
        np.testing.assert_allclose(y, np.sin(X).sum(1))
        np.testing.assert_allclose(aux["note"], 2.0 * X)
        assert type(aux["note"]) is np.ndarray
        assert derivative.shape[0] == 4
    (y, aux), div = mj.value_and_divergence(lambda x: (np.sin(x), x), has_aux=True)(X)
    np.testing.assert_allclose(div, np.cos(X).sum(1))
    np.testing.assert_allclose(aux, X)


def test_divergence_is_the_trace():
    for f in (FUNCTIONS["residual"], FUNCTIONS["roll"], FUNCTIONS["solve"], np.tanh, lambda x: x @ SQUARE):
        expected = np.trace(mj.jacobian(f)(X), axis1=1, axis2=2)
        for mode in ("forward", "reverse", "mixed", "auto"):
            np.testing.assert_allclose(mj.divergence(f, mode=mode)(X), expected, rtol=1e-10, atol=1e-12)
    image = RNG.normal(size=(3, 2, 4))
    J = mj.jacobian(lambda x: np.sin(x) * x.sum(2, keepdims=True))(image).reshape(3, 8, 8)
    div = mj.divergence(lambda x: np.sin(x) * x.sum(2, keepdims=True))(image)
    np.testing.assert_allclose(div, np.trace(J, axis1=1, axis2=2), rtol=1e-12)


def test_divergence_refuses_what_is_not_square():
    with pytest.raises(mj.InputError, match="square"):
        mj.divergence(FUNCTIONS["network"])(X)
    with pytest.raises(mj.InputError, match="one array"):
        mj.divergence(lambda x: (x, x))(X)


@pytest.mark.parametrize("transform", [mj.laplacian, mj.hessian_diagonal, mj.hessian, mj.divergence])
def test_mixing_raises(transform):
    with pytest.raises(mj.BatchMixingError, match="mean"):
        transform(lambda x: x - x.mean(0))(X)


def test_other_batch_axes_and_no_batch():
    np.testing.assert_allclose(
        mj.laplacian(lambda x: np.tanh(W2.T @ np.tanh(W1.T @ x)), batch_axis=1)(X.T),
        mj.laplacian(lambda x: np.tanh(np.tanh(x @ W1) @ W2))(X),
    )
    np.testing.assert_allclose(mj.laplacian(lambda x: (x**3).sum(), batch_axis=None)(X), 6.0 * X.sum())


@pytest.mark.parametrize("batch", [0, 1])
def test_no_samples_and_one(batch):
    x = RNG.normal(size=(batch, 5))
    for name in ("network", "formula", "solve", "softmax"):
        f = FUNCTIONS[name]
        H = mj.hessian(f)(x)
        assert H.shape[0] == batch
        np.testing.assert_allclose(mj.laplacian(f)(x), np.trace(H, axis1=-2, axis2=-1), atol=1e-10)
        assert mj.hessian_diagonal(f)(x).shape == H.shape[:-1]


def test_parameter_gradients_of_a_laplacian_equal_torch():
    torch = pytest.importorskip("torch")
    params = {"W1": W1, "W2": W2[:, :1]}

    def loss(p):
        return (mj.laplacian(lambda x: (np.tanh(x @ p["W1"]) @ p["W2"])[:, 0])(X) ** 2).mean()

    value, g = mj.value_and_grad(loss)(params)
    t = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    x = torch.tensor(X, requires_grad=True)
    u = (torch.tanh(x @ t["W1"]) @ t["W2"])[:, 0]
    (u_x,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    lap = sum(torch.autograd.grad(u_x[:, k].sum(), x, create_graph=True)[0][:, k] for k in range(5))
    expected = (lap**2).mean()
    grads = torch.autograd.grad(expected, [t["W1"], t["W2"]])
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(g["W1"], grads[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(g["W2"], grads[1], rtol=1e-9, atol=1e-12)


def test_third_order_by_a_jacobian_of_the_laplacian():
    f = FUNCTIONS["network"]
    third = mj.jacobian(mj.jacobian(mj.jacobian(f)))(X)
    np.testing.assert_allclose(
        mj.jacobian(mj.laplacian(f))(X), np.einsum("bokki->boi", third.transpose(0, 1, 2, 3, 4)), rtol=1e-9, atol=1e-11
    )
    np.testing.assert_allclose(mj.laplacian(mj.jacobian(f))(X), np.einsum("boikk->boi", third), rtol=1e-9, atol=1e-11)


def test_the_laplacian_holds_no_array_with_two_input_axes():
    batch, inputs, width = 128, 50, 256
    a, b = RNG.normal(size=(inputs, width)) / 7.0, RNG.normal(size=(width, width)) / 16.0
    c, x = RNG.normal(size=(width, 1)), RNG.normal(size=(batch, inputs))

    def f(x):
        return np.tanh(np.tanh(x @ a) @ b) @ c

    mj.laplacian(f)(x)
    tracemalloc.start()
    mj.laplacian(f)(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a few arrays (B, D, width) of the Jacobian block are alive at once; B * D * D would be seen beside one of them
    assert peak < 4.2 * batch * inputs * width * 8


@pytest.mark.parametrize("transformation", [mj.laplacian, mj.hessian_diagonal])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: mj.special.logsumexp(x @ SQUARE, axis=1),
        lambda x: np.linalg.slogdet(x[:, :, None] * x[:, None, :] + np.eye(5))[1],
        lambda x: np.linalg.solve(3.0 * np.eye(5) + x[:, :, None] * x[:, None, :], x[:, :, None])[..., 0],
        lambda x: np.tanh(x @ W1) @ W2,
    ],
    ids=["logsumexp", "slogdet", "solve", "network"],
)
def test_memory_grows_as_the_samples(transformation, f):
    peaks = []
    for batch in (64, 512):
        x = RNG.normal(size=(batch, 5))
        transformation(f)(x)
        tracemalloc.start()
        transformation(f)(x)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 9 * peaks[0]


def electrons(n):
    """A determinant whose rows are of one electron each."""
    weights, orbitals = np.ones((3, 8)) * np.arange(8), np.sin(np.arange(8.0 * n)).reshape(8, n)
    return lambda r: np.linalg.slogdet(np.tanh(r.reshape(-1, n, 3) @ weights) @ orbitals + np.eye(n))[1]


@pytest.mark.parametrize("way", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_determinants_of_electrons_have_the_trace_of_their_hessian(dtype, way):
    f, x = electrons(4), RNG.normal(size=(3, 12))
    H = np.einsum("bii->bi", mj.hessian(f)(x))
    rtol = 2e-3 if dtype is np.float32 else 1e-9
    np.testing.assert_allclose(way(mj.laplacian(f))(x.astype(dtype)), H.sum(1), rtol=rtol)
    np.testing.assert_allclose(way(mj.hessian_diagonal(f))(x.astype(dtype)), H, rtol=rtol, atol=rtol)


def test_the_laplacian_of_a_determinant_takes_memory_as_its_entries_and_not_as_those_of_each_input():
    peaks = []
    for n in (8, 64):
        x = RNG.normal(size=(16, 3 * n))
        mj.laplacian(electrons(n))(x)
        tracemalloc.start()
        mj.laplacian(electrons(n))(x)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 64 * peaks[0]  # eight times the inputs would make 512


SECOND = {
    "hessian": (mj.hessian, lambda H: H),
    "hessian_diagonal": (mj.hessian_diagonal, lambda H: np.einsum("bii->bi", H)),
    "laplacian": (mj.laplacian, lambda H: np.einsum("bii->b", H)),
    "partials": (lambda f: lambda x: np.stack(mj.partials(f, [(0, 0), (0, 3)])(x), 1), lambda H: H[:, 0, [0, 3]]),
}


@pytest.mark.parametrize("way", [lambda f: f, mj.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", SECOND)
def test_singular_matrices_that_a_where_drops_have_no_second_derivative(name, way):
    transformation, of_hessian = SECOND[name]
    x = np.random.default_rng(5).normal(size=(4, 4))
    x[1], x[3] = [1, 2, 2, 4], 0

    def f(x):
        a = x.reshape(-1, 2, 2)
        singular = np.abs(mj.stop_gradient(a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0])) < 1e-9
        return np.where(singular, 0.0, np.linalg.slogdet(a)[1] ** 2)

    expected = np.zeros((4, 4, 4))
    expected[[0, 2]] = mj.hessian(lambda x: np.linalg.slogdet(x.reshape(-1, 2, 2))[1] ** 2)(x[[0, 2]])
    np.testing.assert_allclose(way(transformation(f))(x), of_hessian(expected), rtol=1e-9)


def test_a_block_that_touches_two_inputs_costs_two(monkeypatch):
    x = RNG.normal(size=(6, 50))
    sizes = []
    from minijac.transforms import second

    original = second.bilinear

    def counted(*args):
        block = original(*args)
        sizes.extend(f.array.size for a in (args[1], args[2]) for t in a.terms for f in t.factors)
        return block

    monkeypatch.setattr(second, "bilinear", counted)
    lap = mj.laplacian(lambda x: np.sin(x[:, 3] * x[:, 17]))(x)
    np.testing.assert_allclose(lap, -np.sin(x[:, 3] * x[:, 17]) * (x[:, 3] ** 2 + x[:, 17] ** 2))
    assert max(sizes, default=0) <= 6


def test_options_are_checked():
    with pytest.raises(mj.InputError, match="on_mixing"):
        mj.laplacian(np.sin, on_mixing="whole")
    with pytest.raises(TypeError, match="unexpected keyword"):
        mj.hessian_diagonal(np.sin, structure=True)
    with pytest.raises(mj.InputError, match="mode"):
        mj.hessian(np.sin, mode="backward")
    with pytest.raises(mj.InputError, match="chunk_size"):
        mj.laplacian(np.sin, chunk_size=0)


def test_second_order_is_empty_for_a_linear_function():
    from minijac.accumulation.graph import Graph
    from minijac.accumulation.recording import run_on_tape
    from minijac.algebra.block import Block

    run = run_on_tape(FUNCTIONS["linear"], (X,), {}, (0,), {}, False)
    graph = Graph(run.nodes, run.inputs, run.output_nodes)
    assert second_order(graph, {run.inputs[0]: Block.identity(X.shape)}, (), {}) == {}


@every_smooth_case
def test_one_pass_equals_nesting_for_every_operation(case):
    operands = case.operands()
    argnums = tuple(case.differentiable)
    if not argnums:
        pytest.skip("no operand of this sample is differentiable")
    options = {"argnums": argnums, "batch_axis": case.batch_axis}

    def squared(*operands):  # so that linear operations have a second derivative too
        y = case(*operands)
        return y if REGISTRY[case.name] in vars(linalg).values() else y + 0.5 * y * y

    H = mj.hessian(squared, on_mixing="raise", **options)(*operands)
    d = mj.hessian_diagonal(squared, **options)(*operands)
    lap = mj.laplacian(squared, **options)(*operands)
    total = 0.0
    for n, diagonal in enumerate(d):
        block = H[n][n]
        features = (block.ndim - (diagonal.ndim - lap.ndim) - lap.ndim) and diagonal.ndim - lap.ndim
        size = int(np.prod(diagonal.shape[diagonal.ndim - features :], dtype=int)) if features else 1
        flat = block.reshape(-1, size, size)
        expected = np.diagonal(flat, axis1=1, axis2=2).reshape(diagonal.shape)
        np.testing.assert_allclose(diagonal, expected, rtol=1e-9, atol=1e-9)
        total = total + diagonal.reshape(*lap.shape, -1).sum(-1)
    np.testing.assert_allclose(lap, total, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    "inner",
    [
        lambda x: mj.laplacian(lambda y: (x * y * y).sum(1))(np.ones((1, 1)))[0],
        lambda x: mj.hessian_diagonal(lambda y: (x * y * y).sum(1))(np.ones((1, 1)))[0, 0],
        lambda x: mj.divergence(lambda y: 2.0 * x * y)(np.ones((1, 1)))[0],
        lambda x: mj.partials(lambda y: (x * y * y)[:, 0], [(0, 0)])(np.ones((1, 1)))[0][0],
        lambda x: mj.hessian(lambda y: (x * y * y).sum(1))(np.ones((1, 1)))[0, 0, 0],
    ],
    ids=["laplacian", "hessian_diagonal", "divergence", "partials", "hessian"],
)
def test_inner_and_outer_perturbations_are_not_confused(inner):
    # d/dx of x * 2 x, the inner derivative being by another variable
    x = np.float64(3.0)
    np.testing.assert_allclose(mj.grad(lambda x: x * inner(x))(x), 4.0 * x)
    np.testing.assert_allclose(mj.jvp(lambda x: x * inner(x), (np.asarray(x),), (np.ones(()),))[1], 4.0 * x)
    np.testing.assert_allclose(mj.grad(mj.grad(lambda x: x * inner(x)))(x), 4.0)


def test_second_derivatives_are_not_rounded_to_single_precision():
    """A scale met data of ones that was made in single precision."""

    def f(x):
        y = np.cumsum(x[:, ::-1], axis=1)
        return np.einsum("bi,bj->bij", x, -y) * 1.7905963

    whole = mj.hessian(f)(X)
    np.testing.assert_allclose(mj.hessian_diagonal(f)(X), np.diagonal(whole, axis1=-2, axis2=-1), rtol=1e-13)
    np.testing.assert_allclose(mj.laplacian(f)(X), np.trace(whole, axis1=-2, axis2=-1), rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_banded_hessian_as_an_operator_is_its_diagonals(dtype):
    f = lambda x: (x[:, 1:] ** 2 * x[:, :-1]).sum(1)
    x = random(2, 1000, dtype=dtype)
    H = mj.hessian(f, structured=True)(x)
    assert H.shape == (2, 1000, 1000) and H.nbytes <= 3 * x.nbytes
    few = x[:, :6]
    y, H = mj.value_and_hessian(f, structured=True)(few)
    close(y, f(few), rtol=1e-6)
    close(H.todense(), mj.hessian(f)(few), rtol=1e-6)
    close(mj.compile(lambda x: mj.hessian(f, structured=True)(x) @ x)(few), H @ few, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 1}, {"chunk_size": 3}, {"batch_axis": 1}])
def test_a_divergence_by_some_seeds_at_a_time_is_the_trace(options):
    w = random(7, 7, seed=1)
    f = lambda x: np.tanh(x @ w) @ w * x
    x = random(5, 7)
    if "batch_axis" in options:
        x, g = x.T.copy(), lambda x: f(x.T).T
    else:
        g = f
    J = mj.jacobian(g, batch_axis=options.get("batch_axis", 0))(x)
    close(mj.divergence(g, **options)(x), np.trace(J, axis1=1, axis2=2))


def test_the_divergence_of_a_wide_network_makes_no_whole_jacobian():
    w = random(600, 600, dtype=np.float32) / 25.0
    x = random(64, 600, dtype=np.float32)
    f = lambda x: np.tanh(x @ w) @ w  # a Jacobian of 92 MB
    call = mj.divergence(f)
    tracemalloc.start()
    found = call(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90 * 2**20
    slope = 1.0 - np.tanh(x @ w) ** 2
    close(found, np.einsum("ij,bj,ji->b", w, slope, w, optimize=True), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["sqrtm", "logm"])
def test_second_derivatives_by_each_input_alone_take_no_pairs_of_them(monkeypatch, name):
    """``D2 f [E_k, E_k]`` of a matrix function is a block of f of a matrix four times the size, one for each k."""
    seen = []

    def counted(library, function, like):
        found = REAL(library, function, like)
        return lambda a: seen.append(np.shape(a)) or found(a)

    REAL = scipy_ops.of_scipy
    monkeypatch.setattr(scipy_ops, "of_scipy", counted)
    B, n = 3, 3
    x = np.eye(n) + 0.1 * RNG.normal(size=(B, n, n))
    f = getattr(mj.scipy.linalg, name)
    found = mj.hessian_diagonal(lambda x: np.sin(f(x)))(x)
    largest = [shape for shape in seen if shape[-1] == 4 * n]
    assert largest
    assert all(np.prod(shape[:-2]) == B * n * n for shape in largest)
    whole = mj.hessian(lambda x: np.sin(f(x)))(x)
    close(found, np.einsum("bpqijij->bpqij", whole))
    close(mj.laplacian(lambda x: np.sin(f(x)))(x), np.einsum("bpqijij->bpq", whole))
