"""Structure survives: what has no data allocates none, what is diagonal stays diagonal, what is shared stays shared."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import close, random
from hypothesis import assume, given
from hypothesis import strategies as st

import minijac as mj
from minijac.algebra.labels import Label
from minijac.algebra.terms import Term

modes = pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
both_ends = pytest.mark.parametrize("mode", ["forward", "reverse"])


def structured(f: Callable, x: Any, mode: str = "auto", **options: Any) -> Any:
    return mj.jacobian(f, structured=True, mode=mode, **options)(x)


def terms(J: Any) -> tuple[Term, ...]:
    return J.block.terms


def stored(term: Term) -> list[tuple[int, ...]]:
    """The shapes of a term's data."""
    return sorted(np.shape(factor.array) for factor in term.factors)


def data_labels(term: Term) -> set[Label]:
    return {label for factor in term.factors for label in factor.axes}


def offsets(J: Any) -> list[int]:
    """How far input positions are ahead of output positions along the features, for each term."""
    found = []
    for term in terms(J):
        (i,), (o,) = term.inp[1], term.out[1]
        found.append(getattr(i, "offset", 0) - getattr(o, "offset", 0))
    return sorted(found)


def peak_bytes(f: Callable[[], Any]) -> int:
    """The most memory that `f` holds at once; it runs once before, so that caches are filled."""
    f()
    gc.collect()
    tracemalloc.start()
    try:
        f()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- elementwise ----------------------------------------------------------------------------------------------


@modes
def test_an_elementwise_function_is_one_diagonal(mode):
    x = random(64, 256)
    J = structured(np.sin, x, mode)
    (term,) = terms(J)
    (b,), (i,) = term.out
    assert term.out == term.inp
    assert type(b) is type(i) is Label
    (factor,) = term.factors
    assert factor.axes == (b, i)
    close(factor.array, np.cos(x))
    assert J.nbytes == x.nbytes


@modes
def test_a_structured_elementwise_jacobian_makes_no_dense_array(mode):
    x = random(64, 256)
    # copies of x and of the value among them; the dense array has 256 times their bytes
    assert peak_bytes(lambda: structured(np.sin, x, mode)) < 5 * x.nbytes


@modes
def test_a_dense_elementwise_jacobian_makes_no_second_dense_array(mode):
    x = random(16, 64)
    assert peak_bytes(lambda: mj.jacobian(np.sin, mode=mode)(x)) < 1.5 * 64 * x.nbytes


@modes
def test_a_chain_of_elementwise_functions_is_still_one_array(mode):
    J = structured(lambda x: np.exp(np.sin(x) * 2.0) / (1.0 + x * x), random(4, 8), mode)
    (term,) = terms(J)
    assert stored(term) == [(4, 8)]


@modes
def test_numbers_make_no_data(mode):
    J = structured(lambda x: -(2.0 * x + 1.0) / 4.0, random(4, 8), mode)
    (term,) = terms(J)
    assert not term.factors and term.scale == -0.5
    assert J.nbytes == 0


@modes
def test_a_residual_connection_keeps_the_identity_apart(mode):
    J = structured(lambda x: x + np.tanh(x @ random(8, 8)), random(4, 8), mode)
    identity, other = sorted(terms(J), key=lambda term: len(term.factors))
    assert identity.identity and identity.out == identity.inp
    assert all(shape != (4, 8, 8) for shape in stored(other))


@modes
def test_the_identity_has_no_data(mode):
    (term,) = terms(structured(lambda x: x + 0.0, random(4, 8), mode))
    assert term.identity


# --- shared weights -------------------------------------------------------------------------------------------


@modes
def test_a_linear_layer_is_its_weight_shared_by_all_samples(mode):
    W = random(6, 3)
    J = structured(lambda x: x @ W + random(3), random(5, 6), mode)
    (term,) = terms(J)
    (factor,) = term.factors
    assert factor.array.size == W.size and np.array_equal(np.sort(factor.array, None), np.sort(W, None))
    (b,) = term.out[0]
    assert term.inp[0] == (b,) and b not in factor.axes
    assert set(factor.axes) == {term.out[1][0], term.inp[1][0]}
    assert J.nbytes == W.nbytes


@modes
def test_two_linear_layers_are_one_product_shared_by_all_samples(mode):
    A, C = random(6, 4), random(4, 3)
    (term,) = terms(structured(lambda x: (x @ A) @ C, random(50, 6), mode))
    (factor,) = term.factors
    assert factor.array.size == 18
    close(sorted(factor.array.ravel()), sorted((A @ C).ravel()))


@modes
def test_an_activation_does_not_give_the_weights_a_batch_axis(mode):
    """Slopes and weights stay apart: (B, o) beside (i, o), and no (B, o, i)."""
    (term,) = terms(structured(lambda x: np.tanh(x @ random(6, 3)), random(5, 6), mode))
    assert stored(term) in ([(3, 6), (5, 3)], [(5, 3), (6, 3)])


def test_the_jacobian_for_shared_parameters_is_not_repeated_along_the_output():
    """d(x @ w) is x for every output: (B, i), not (B, o, i, o)."""
    x = random(5, 6)
    f = lambda w, x: x @ w
    for mode in ("forward", "reverse"):
        J = mj.jacobian(f, batch_axis=(None, 0), structured=True, mode=mode)(random(6, 3), x)
        (term,) = terms(J)
        assert stored(term) == [(5, 6)]
        assert J.shape == (5, 3, 6, 3)


# --- windows --------------------------------------------------------------------------------------------------


@modes
def test_a_difference_of_neighbours_is_two_terms_without_data(mode):
    J = structured(lambda x: x[:, 1:] - x[:, :-1], random(4, 9), mode)
    assert len(terms(J)) == 2
    assert all(not term.factors for term in terms(J))
    assert sorted(term.scale for term in terms(J)) == [-1.0, 1.0]
    assert offsets(J) == [0, 1]
    assert J.nbytes == 0
    close(J.todense()[2], np.eye(8, 9, 1) - np.eye(8, 9))


@modes
def test_a_nonlinear_stencil_has_one_diagonal_for_each_offset(mode):
    def burgers(u):
        return u[:, 1:-1] * (u[:, 2:] - u[:, :-2]) + 0.1 * (u[:, 2:] - 2.0 * u[:, 1:-1] + u[:, :-2])

    J = structured(burgers, random(4, 20), mode)
    assert offsets(J) == [0, 1, 2]
    assert all(len(data_labels(term)) <= 2 for term in terms(J))
    assert J.nbytes <= 3 * 4 * 18 * 8
    close(J.todense(), mj.jacobian(burgers)(random(4, 20)))


@modes
def test_a_five_point_stencil_is_five_terms_without_data(mode):
    def laplace(u):
        middle = u[:, 1:-1, 1:-1]
        return u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2] - 4.0 * middle

    u = random(2, 7, 8)
    J = structured(laplace, u, mode)
    assert len(terms(J)) == 5
    assert sorted(term.scale for term in terms(J)) == [-4.0, 1.0, 1.0, 1.0, 1.0]
    assert J.nbytes == 0
    v = random(2, 7, 8, seed=1)
    close(J @ v, laplace(v))


@both_ends
def test_a_five_point_stencil_allocates_nothing_of_the_size_of_the_jacobian(mode):
    def laplace(u):
        return (u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2]) * u[:, 1:-1, 1:-1]

    u = random(2, 30, 30)
    assert peak_bytes(lambda: structured(laplace, u, mode)) < 40 * u.nbytes  # the dense array has 900 times its bytes


@modes
def test_a_roll_is_two_windows_without_data(mode):
    J = structured(lambda x: np.roll(x, 2, axis=1), random(4, 7), mode)
    assert len(terms(J)) == 2
    assert all(not term.factors for term in terms(J))
    assert sorted(term.out[1][0].label.size for term in terms(J)) == [2, 5]
    assert offsets(J) == [-2, 5]


@modes
def test_a_flip_has_no_data_and_undoes_itself(mode):
    (term,) = terms(structured(lambda x: x[:, ::-1], random(4, 7), mode))
    assert not term.factors
    (term,) = terms(structured(lambda x: x[:, ::-1][:, ::-1], random(4, 7), mode))
    assert term.identity


@modes
def test_slices_put_together_again_share_their_data(mode):
    J = structured(lambda x: np.concatenate([np.sin(x[:, :3]), np.cos(x[:, 3:])], axis=1), random(4, 7), mode)
    assert sorted(stored(term) for term in terms(J)) == [[(4, 3)], [(4, 4)]]
    assert all(term.out == term.inp for term in terms(J))


@modes
def test_reshapes_and_transposes_cost_no_data(mode):
    def f(x):
        return x.reshape(-1, 2, 3).transpose(0, 2, 1).reshape(-1, 6)

    (term,) = terms(structured(f, random(4, 6), mode))
    assert not term.factors
    (term,) = terms(structured(lambda x: np.sin(x).reshape(4, 2, 3).reshape(4, 6), random(4, 6), mode))
    assert term.out == term.inp and stored(term) in ([(4, 6)], [(4, 2, 3)])


@modes
def test_a_sum_of_features_has_no_data(mode):
    J = structured(lambda x: x.mean(-1), random(4, 8), mode)
    (term,) = terms(J)
    assert not term.factors and term.scale == 0.125
    assert len(term.out) == 1 and term.inp[0] == term.out[0]


# --- sums of diagonals and products -----------------------------------------------------------------------------


def softmax(x: Any) -> Any:
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_without_shift(x: Any) -> Any:
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


@both_ends
def test_softmax_is_a_diagonal_and_a_product_of_two_factors(mode):
    x = random(6, 50)
    J = structured(softmax_without_shift, x, mode)
    diagonal, product = sorted(terms(J), key=lambda term: term.out != term.inp)
    assert diagonal.out == diagonal.inp and product.out != product.inp
    assert data_labels(diagonal) == {diagonal.out[0][0], diagonal.out[1][0]}
    assert sorted(stored(product))[-2:] == [(6, 50), (6, 50)]
    assert J.nbytes < 5 * x.nbytes
    p = softmax(x)
    close(J.todense(), np.eye(50) * p[:, None, :] - p[:, :, None] * p[:, None, :])


@both_ends
@pytest.mark.parametrize("f", [softmax, softmax_without_shift])
def test_softmax_makes_no_dense_array(f, mode):
    x = random(8, 200)
    assert peak_bytes(lambda: structured(f, x, mode)) < 40 * x.nbytes  # the dense array has 200 times its bytes


@both_ends
def test_layer_norm_makes_no_dense_array(mode):
    def layer_norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    x = random(8, 200)
    assert peak_bytes(lambda: structured(layer_norm, x, mode)) < 60 * x.nbytes


# --- samples ----------------------------------------------------------------------------------------------------


@both_ends
def test_the_diagonal_of_a_batch_mean_pairs_no_samples_with_each_other(mode):
    """d y_i / d x_i of ``x - x.mean(0)`` is 1 - 1/B on the diagonal, without (B, B)."""
    x = random(4000, 3)
    J = lambda: mj.jacobian(lambda x: x - x.mean(0), on_mixing="diagonal", mode=mode)(x)
    close(J(), np.broadcast_to((1 - 1 / 4000) * np.eye(3), (4000, 3, 3)))
    assert peak_bytes(J) < 20 * x.nbytes  # a (B, B) array has 1333 times its bytes


@both_ends
def test_batch_normalisation_forms_no_array_of_pairs_of_samples(mode):
    def f(x):
        centred = x - x.mean(0)
        return centred / np.sqrt((centred * centred).mean(0) + 1e-3)

    x = random(2000, 2)
    close(
        mj.jacobian(f, on_mixing="diagonal", mode=mode)(x[:5]), _own(mj.jacobian(f, on_mixing="full", mode=mode)(x[:5]))
    )
    assert peak_bytes(lambda: mj.jacobian(f, on_mixing="diagonal", mode=mode)(x)) < 100 * x.nbytes  # a (B, B): 1000


def _own(full: np.ndarray) -> np.ndarray:
    return np.einsum("bobi->boi", full)


@both_ends
def test_the_batch_label_is_paired_in_every_term(mode):
    W, x = random(6, 6), random(5, 6)
    for f in (np.sin, lambda x: x @ W, softmax, lambda x: x + x[:, ::-1], lambda x: x.reshape(-1, 2).reshape(5, 6)):
        for term in terms(structured(f, x, mode)):
            (b,) = term.out[0]
            assert term.inp[0] == (b,) and type(b) is Label and b.size == 5


# --- the operator, on each of these structures --------------------------------------------------------------------

W = random(6, 6)
FUNCTIONS = {
    "diagonal": np.sin,
    "identity": lambda x: x + 0.0,
    "shared": lambda x: x @ W,
    "dense": lambda x: np.tanh(x @ W) @ W,
    "banded": lambda x: np.roll(x, 1, axis=1) * x,
    "flipped": lambda x: x[:, ::-1] * 2.0,
    "regrouped": lambda x: np.sin(x).reshape(-1, 2, 3).transpose(0, 2, 1).reshape(-1, 6),
    "softmax": softmax_without_shift,
    "residual": lambda x: x + np.tanh(x @ W),
    "sum": lambda x: np.broadcast_to(x.sum(-1, keepdims=True), x.shape) * x,
    "gather": lambda x: x[:, [0, 0, 5, 2, 2, 1]],
    "zero": lambda x: np.floor(x) + 0.0 * x,
}
functions = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS.keys())


@both_ends
@functions
def test_operator_and_dense_array_agree(f, mode):
    x = random(3, 6)
    J, D = structured(f, x, mode), mj.jacobian(f, mode=mode)(x)
    v = random(3, 6, seed=1)
    assert J.shape == D.shape and J.dtype == D.dtype
    close(J.todense(), D)
    close(J @ v, np.einsum("boi,bi->bo", D, v))
    close(J.T @ v, np.einsum("boi,bo->bi", D, v))
    close(J.T.todense(), D.transpose(0, 2, 1))
    close(J.diagonal(), np.einsum("bii->bi", D))
    close((J @ J).todense(), D @ D)
    close((J.T @ J).todense(), D.transpose(0, 2, 1) @ D)


@functions
def test_sparse_matrices_hold_the_same_entries(f):
    pytest.importorskip("scipy")
    x = random(3, 6)
    J = structured(f, x)
    D = J.todense()
    for i in range(3):
        close(J.tosparse(i).toarray(), D[i])


@functions
def test_the_whole_of_a_function_and_its_mixing_agree(f):
    """A batch mean after the function: all of (B, *out, B, *in), and its diagonal, are the chain rule's."""
    x = random(3, 6)
    D = mj.jacobian(f)(x)
    mixed = lambda x: f(x) - f(x).mean(0)
    own, mean = np.eye(3), np.full((3, 3), 1 / 3)
    expected = np.einsum("bc,coi->boci", own - mean, D)
    close(mj.jacobian(mixed, on_mixing="full")(x), expected)
    close(mj.jacobian(mixed, on_mixing="diagonal")(x), _own(expected))


@both_ends
def test_samples_merged_into_another_axis_are_not_looked_for_elsewhere(mode):
    """The result has an axis of length B in front, but samples are not on it."""
    f = lambda x: np.broadcast_to(x.reshape(-1), (2, 4))
    with pytest.raises(mj.InputError, match="split again"):
        mj.jacobian(f, mode=mode)(random(2, 2))


def test_data_that_stands_for_structure_rounds_nothing():
    """Where structure gives out, ones become data: of the width of the result, so that 1/3 stays 1/3."""
    picked = np.array([2, 0, 1, 1, 2, 0])
    f = lambda x: x[:, picked].reshape(-1, 2, 3).mean(-1)
    expected = np.array([[1, 1, 1], [1, 1, 1]]) / 3
    x = random(2, 3)
    for mode in ("forward", "reverse", "mixed"):
        close(mj.jacobian(f, mode=mode)(x), np.stack([expected, expected]), rtol=1e-15)
    close(mj.jvp(f, (x,), (np.ones((2, 3)),))[1], np.ones((2, 2)), rtol=1e-15)
    close(mj.grad(lambda x: f(x).sum())(x), np.full((2, 3), 2 / 3), rtol=1e-15)
    single = mj.jacobian(f)(x.astype(np.float32))
    assert single.dtype == np.float32


# --- random programs that move entries --------------------------------------------------------------------------------


@st.composite
def moves(draw: Any, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """A step that moves, repeats, drops or adds entries of an array of `shape`."""
    n = len(shape)
    axis = draw(st.integers(0, n - 1))
    kind = draw(
        st.sampled_from(
            [
                "reshape",
                "transpose",
                "slice",
                "pick",
                "flip",
                "roll",
                "pad",
                "sum",
                "repeat",
                "join",
                "take",
                "new",
                "diagonal",
            ]
        )
    )
    if kind == "reshape":
        size = int(np.prod(shape))
        target: list[int] = []
        while size > 1 and len(target) < 3:
            target.append(draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
            size //= target[-1]
        to = (*target, size)
        return lambda x: x.reshape(to)
    if kind == "transpose":
        order = tuple(draw(st.permutations(range(n))))
        return lambda x: x.transpose(order)
    if kind == "slice":
        start, stop = sorted((draw(st.integers(0, shape[axis])), draw(st.integers(0, shape[axis]))))
        assume(start < stop)
        step = draw(st.sampled_from([1, 1, 2]))
        return lambda x: x[(slice(None),) * axis + (slice(start, stop, step),)]
    if kind == "pick":
        assume(n > 1)
        k = draw(st.integers(-shape[axis], shape[axis] - 1))
        return lambda x: x[(slice(None),) * axis + (k,)]
    if kind == "flip":
        return lambda x: np.flip(x, axis)
    if kind == "roll":
        shift = draw(st.integers(-3, 3))
        return lambda x: np.roll(x, shift, axis)
    if kind == "pad":
        widths = [(0, 0)] * n
        widths[axis] = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        return lambda x: np.pad(x, widths)
    if kind == "sum":
        keep = draw(st.booleans())
        assume(n > 1 or keep)
        return lambda x: x.sum(axis, keepdims=keep)
    if kind == "repeat":
        assume(int(np.prod(shape)) < 60)
        return lambda x: np.broadcast_to(x, (2, *shape))
    if kind == "join":
        assume(int(np.prod(shape)) < 60)
        return lambda x: np.concatenate([x, 2.0 * np.flip(x, axis)], axis)
    if kind == "take":
        places = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=4))
        return lambda x: x[(slice(None),) * axis + (np.array(places),)]
    if kind == "new":
        return lambda x: np.expand_dims(x, axis)
    other = draw(st.integers(0, n - 1))
    assume(other != axis)
    return lambda x: np.diagonal(x, 0, axis, other)


@st.composite
def programs(draw: Any) -> tuple[tuple[int, ...], list[Callable[[Any], Any]]]:
    """An input shape, samples first, and a few steps."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    steps: list[Callable[[Any], Any]] = []
    x = np.zeros(shape)
    for _ in range(draw(st.integers(1, 5))):
        steps.append(draw(moves(x.shape)))
        x = steps[-1](x)
    assume(x.size < 200)
    return shape, steps


def run(steps: list[Callable[[Any], Any]], x: Any) -> Any:
    for step in steps:
        x = step(x)
    return x


def by_columns(f: Callable[[Any], Any], shape: tuple[int, ...]) -> np.ndarray:
    """All of a linear function's Jacobian: what it makes of each unit array."""
    eye = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    columns = np.stack([f(unit) for unit in eye], -1)
    return columns.reshape((*columns.shape[:-1], *shape))


@both_ends
@given(program=programs())
def test_random_moves_have_the_jacobian_of_their_columns(mode, program):
    shape, steps = program
    f = lambda x: run(steps, x)
    expected = by_columns(f, shape)
    close(mj.jacobian(f, batch_axis=None, mode=mode)(random(*shape)), expected)
    close(structured(f, random(*shape), mode, batch_axis=None).todense(), expected)


@both_ends
@given(program=programs())
def test_random_moves_either_keep_samples_apart_or_raise(mode, program):
    """Where nothing is raised, the output's sample axis is where the entries of each sample went, and nowhere else."""
    shape, steps = program
    f = lambda x: run(steps, x)
    whole = by_columns(f, shape)
    y = f(np.zeros(shape))
    try:
        J = mj.jacobian(f, mode=mode)(random(*shape))
    except (mj.BatchMixingError, mj.InputError):
        return
    B = shape[0]
    for axis in (axis for axis, n in enumerate(y.shape) if n == B):
        first = np.moveaxis(whole, (axis, y.ndim), (0, 1))
        own = first[np.arange(B), np.arange(B)]
        if not first[~np.eye(B, dtype=bool)].any() and np.array_equal(J, own):
            return
    raise AssertionError("entries of other samples are missing from the result, or the result is wrong")


@both_ends
@given(program=programs())
def test_random_moves_under_both_policies(mode, program):
    shape, steps = program
    f = lambda x: run(steps, x)
    whole = by_columns(f, shape)
    B, ndim = shape[0], whole.ndim - len(shape)
    assume(ndim and whole.shape[0] == B)
    try:
        full = mj.jacobian(f, on_mixing="full", mode=mode)(random(*shape))
    except mj.InputError:
        return
    axes = [axis for axis in range(ndim) if whole.shape[axis] == B]
    candidates = [np.moveaxis(whole, axis, 0) for axis in axes]
    (match,) = [c for c in candidates if c.shape == full.shape and np.array_equal(c, full)][:1]
    diagonal = mj.jacobian(f, on_mixing="diagonal", mode=mode)(random(*shape))
    own = np.moveaxis(match, ndim, 1)[np.arange(B), np.arange(B)]
    close(diagonal, own)


@both_ends
@given(program=programs(), seed=st.integers(0, 99))
def test_random_moves_around_a_nonlinear_step(mode, program, seed):
    """The chain rule through sin and tanh, of a program applied before and after."""
    shape, steps = program
    first = by_columns(lambda x: run(steps[:2], x), shape)
    x = random(*shape, seed=seed)
    inner = run(steps[:2], x)
    last = by_columns(lambda z: run(steps[2:], z), inner.shape)
    slope = (np.cos(inner) * inner + np.sin(inner)).reshape(-1)
    m, n = int(np.prod(last.shape)) // slope.size, x.size
    expected = last.reshape(m, -1) @ (slope[:, None] * first.reshape(-1, n))

    def f(x):
        z = run(steps[:2], x)
        return run(steps[2:], np.sin(z) * z)

    close(
        mj.jacobian(f, batch_axis=None, mode=mode)(x), expected.reshape(*last.shape[: last.ndim - inner.ndim], *shape)
    )


# --- random multilinear operations ------------------------------------------------------------------------------------


@st.composite
def contractions(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    """Subscripts for one to three operands, letters repeated and summed at will; shapes, some axes of length one."""
    size = {c: draw(st.integers(1, 4)) for c in "ijkl"}
    names = ["".join(draw(st.lists(st.sampled_from("ijkl"), max_size=3))) for _ in range(draw(st.integers(1, 3)))]
    used = sorted(set("".join(names)))
    out = "".join(draw(st.permutations(used))[: draw(st.integers(0, len(used)))])
    shapes = []
    for name in names:
        once = [c for c in name if name.count(c) == 1 and "".join(names).count(c) > 1]
        ones = set(draw(st.lists(st.sampled_from(once), max_size=1))) if once else set()
        shapes.append(tuple(1 if c in ones else size[c] for c in name))
    full = {
        c for name, shape in zip(names, shapes, strict=True) for c, n in zip(name, shape, strict=True) if n == size[c]
    }
    assume(full.issuperset(used))
    return f"{','.join(names)}->{out}", shapes


@both_ends
@given(contraction=contractions())
def test_random_contractions_have_the_jacobian_of_their_columns(mode, contraction):
    subscripts, shapes = contraction
    operands = [random(*shape, seed=k) for k, shape in enumerate(shapes)]
    for k, shape in enumerate(shapes):
        f = lambda x, k=k: np.einsum(subscripts, *operands[:k], x, *operands[k + 1 :])
        close(mj.jacobian(f, batch_axis=None, mode=mode)(operands[k]), by_columns(f, shape))


@st.composite
def matrix_products(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    depth, (i, k, j) = draw(st.integers(0, 2)), draw(st.tuples(*[st.integers(1, 3)] * 3))
    lead = draw(st.lists(st.integers(1, 3), min_size=depth, max_size=depth))
    sides = []
    for core in ((i, k), (k, j)):
        mine = [draw(st.sampled_from([n, 1])) for n in lead[draw(st.integers(0, depth)) :]]
        sides.append((*mine, *core))
    a, b = sides
    a = a[-1:] if draw(st.booleans()) and len(a) == 2 else a
    b = b[:1] if draw(st.booleans()) and len(b) == 2 else b
    return a, b


@both_ends
@given(sides=matrix_products())
def test_random_matrix_products_have_the_jacobian_of_their_columns(mode, sides):
    a, b = (random(*shape, seed=k) for k, shape in enumerate(sides))
    close(mj.jacobian(lambda x: x @ b, batch_axis=None, mode=mode)(a), by_columns(lambda x: x @ b, a.shape))
    close(mj.jacobian(lambda x: a @ x, batch_axis=None, mode=mode)(b), by_columns(lambda x: a @ x, b.shape))


# --- one label at several places ------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize(
    "diagonal",
    [lambda y: np.diagonal(y, axis1=1, axis2=2), lambda y: np.einsum("biik->bki", y)],
    ids=["np.diagonal", "np.einsum"],
)
@pytest.mark.parametrize(
    "step",
    [lambda y: y[..., np.array([2, 0, 0])], lambda y: y.reshape(2, 3, 3, 2, 3)[..., 1]],
    ids=["gather", "misaligned reshape"],
)
def test_a_map_that_is_no_block_before_a_diagonal(step, diagonal, mode):
    """From the output's end, the map meets a block in which one label stands on two axes that pass through it."""
    x = random(2, 3, 3, 6)
    f = lambda x: diagonal(step(np.sin(x)))
    whole = by_columns(lambda t: diagonal(step(t)), x.shape) * np.cos(x)
    close(mj.jacobian(f, mode=mode)(x), np.stack([whole[b, :, :, b] for b in range(2)]))


@modes
def test_a_misaligned_reshape_before_a_diagonal(mode):
    x = random(2, 3, 3, 2, 3)
    move = lambda y: np.einsum("biikl->bikl", y.reshape(2, 3, 3, 3, 2))
    whole = by_columns(move, x.shape) * np.cos(x)
    J = mj.jacobian(lambda x: move(np.sin(x)), mode=mode)(x)
    close(J, np.stack([whole[b, ..., b, :, :, :, :] for b in range(2)]))


@modes
def test_windows_of_a_label_beside_the_label_itself(mode):
    """x_i x_(i+1) needs the same input label whole and shifted."""
    x = random(3, 5)
    expected = np.zeros((3, 4, 5))
    for i in range(4):
        expected[:, i, i], expected[:, i, i + 1] = x[:, i + 1], x[:, i]
    close(mj.jacobian(lambda x: x[:, :-1] * x[:, 1:], mode=mode)(x), expected)


def test_repr_names_the_structures():
    names = {
        "diagonal": "diagonal",
        "shared": "shared by all samples",
        "banded": "banded",
        "softmax": "product of 2 factors",
        "identity": "constant",
    }
    for name, word in names.items():
        assert word in repr(structured(FUNCTIONS[name], random(3, 6)))


# --- when structure stops paying -----------------------------------------------------------------------------------


def recorded(f: Callable, x: Any, mode: str) -> list[tuple[str, tuple[int, ...]]]:
    """The operations of a compiled Jacobian, with the shapes of their results."""
    program = mj.compile(mj.jacobian(f, mode=mode)).program(x)
    return [(step.op.name, program.values[step.out].shape) for step in program.instructions]


WEIGHTS = [random(6, 6) for _ in range(10)]


def residual(x):
    for V, W in zip(WEIGHTS[::2], WEIGHTS[1::2], strict=True):
        x = x + np.tanh(x @ V) @ W
    return x


@both_ends
def test_an_identity_beside_a_full_array_is_added_into_it_once(mode):
    x = random(7, 6)
    steps = recorded(residual, x, mode)
    assert [name for name, _ in steps].count("superpose") == 1
    # the sum of two full arrays at each of the blocks but the first, and once where the first is not yet full
    assert steps.count(("add", (7, 6, 6))) <= 5
    if mode == "reverse":
        assert ("transpose", (7, 6, 6)) not in steps
    h = 1e-6 * random(7, 6)
    close(
        np.einsum("boi,bi->bo", mj.jacobian(residual, mode=mode)(x), h), (residual(x + h) - residual(x - h)) / 2, 1e-9
    )


@both_ends
def test_what_is_added_into_an_array_never_reaches_one_that_something_else_holds(mode):
    """Here the full array comes of two equal terms, whose data is a captured array."""
    weights = random(5, 6, 6)
    f = lambda x: 0.5 * np.einsum("bij,bj->bi", weights, x) + 0.5 * np.einsum("bij,bj->bi", weights, x) + x
    before = weights.copy()
    for _ in range(3):
        close(mj.jacobian(f, mode=mode)(random(5, 6)), before + np.eye(6), 1e-14)
    np.testing.assert_array_equal(weights, before)


@both_ends
def test_elementwise_paths_are_added_before_they_meet_the_weights(mode):
    """``w p + w q`` is ``w (p + q)``: one matmul of each matrix, however many paths an activation has."""
    V, W = random(6, 20), random(20, 6)

    def f(x):
        h = x @ V
        return (0.5 * h * (1.0 + np.tanh(0.8 * (h + 0.04 * h * h * h)))) @ W

    x = random(7, 6)
    count = [name for name, _ in recorded(f, x, mode)].count("matmul")
    assert count == [name for name, _ in recorded(lambda x: np.tanh(x @ V) @ W, x, mode)].count("matmul")


@both_ends
def test_dense_diagonals_are_written_into_one_array(mode):
    def stencil(u):
        p = np.pad(u, ((0, 0), (1, 1)))
        return u * (p[:, 2:] - p[:, :-2]) + np.roll(u * u, 1, axis=1)

    u = random(64, 128)
    dense = 128 * u.nbytes
    full = [name for name, shape in recorded(stencil, u, mode) if shape == (64, 128, 128)]
    assert full == ["superpose"]
    assert peak_bytes(lambda: mj.jacobian(stencil, mode=mode)(u)) < 1.5 * dense
    J = mj.jacobian(stencil, mode=mode)
    close(mj.compile(J)(u), J(u), 1e-14)


@st.composite
def shifts(draw):
    """A slice of nine features, and where it is put among nine."""
    size, step = draw(st.integers(1, 5)), draw(st.sampled_from([-2, -1, 1, 2]))
    start = draw(st.integers(0, 8 - abs(step) * (size - 1))) + (abs(step) * (size - 1) if step < 0 else 0)
    return np.arange(start, start + step * size, step), draw(st.integers(0, 9 - size))


@modes
@given(st.lists(shifts(), min_size=1, max_size=5))
def test_random_diagonals_superposed_are_their_sum(mode, moved):
    """Windows of the same and of other diagonals, which meet or do not; as they are, and under compile."""
    x = random(3, 9)

    def f(x):
        total = 0.0
        for source, at in moved:
            first, step = source[0], source[1] - source[0] if len(source) > 1 else 1
            stop = first + step * len(source)
            piece = np.sin(x[:, slice(first, stop if stop >= 0 else None, step)])
            total = total + np.pad(piece, ((0, 0), (at, 9 - at - len(source))))
        return total

    expected = np.zeros((3, 9, 9))
    for source, at in moved:
        expected[:, np.arange(at, at + len(source)), source] += np.cos(x[:, source])
    close(mj.jacobian(f, mode=mode)(x), expected, 1e-14)
    close(mj.compile(mj.jacobian(f, mode=mode))(x), expected, 1e-14)


@both_ends
def test_an_operand_given_twice_meets_a_block_once(mode):
    x, W, V = random(4, 6), random(6, 5), random(5, 3)
    f = lambda x: (x @ W) * (x @ W)
    g = lambda x: (lambda h: (h * h) @ V)(x @ W)
    counts = [[name for name, _ in recorded(h, x, mode)] for h in (g, lambda x: np.tanh(x @ W) @ V)]
    assert counts[0].count("matmul") == counts[1].count("matmul")
    assert "add" not in counts[0]
    (term,) = terms(structured(lambda x: x * x, x, mode))
    assert term.scale == 2.0 and stored(term) == [(4, 6)]
    close(mj.jacobian(g, mode=mode)(x), np.einsum("bij,jk->bki", 2.0 * W * (x @ W)[:, None], V), 1e-12)
    close(mj.jacobian(f, mode=mode)(x), np.einsum("bij->bji", 2.0 * W * (x @ W)[:, None]), 1e-12)
