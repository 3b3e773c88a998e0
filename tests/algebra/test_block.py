"""The algebra of blocks is the algebra of the arrays that they stand for, whatever their structure."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from blocks import (
    FLOAT,
    LIKE,
    axes_of_size,
    block_by_sum,
    blocks,
    chains,
    dense,
    integers,
    lone,
    position,
    shapes,
    some_blocks,
    values,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from structures import STRUCTURES, B, N, data, one

import minijac as mj
from minijac.algebra.block import Block
from minijac.algebra.factors import Factor, size_of
from minijac.algebra.labels import Label, Window, axis_of, labels_in
from minijac.algebra.terms import Term
from minijac.algebra.writing import embed
from minijac.ops.structural import relabel

same = np.testing.assert_array_equal


def after(g: np.ndarray, f: np.ndarray, shared: int) -> np.ndarray:
    """The composition of dense maps that meet in `shared` axes."""
    return np.tensordot(g, f, axes=(range(g.ndim - shared, g.ndim), range(shared)))


# --- random structures --------------------------------------------------------------------------------------


@given(some_blocks())
def test_dense_is_the_sum_over_all_label_values(block):
    same(dense(block), block_by_sum(block))


@given(some_blocks())
def test_dense_is_new_and_contiguous(block):
    result = dense(block)
    assert result.flags.c_contiguous and result.flags.writeable
    assert not any(np.shares_memory(result, f.array) for term in block.terms for f in term.factors)


@given(some_blocks())
def test_dense_adds_to_a_given_total(block):
    total = np.ones((*block.out_shape, *block.inp_shape))
    result = block.dense(FLOAT, LIKE, total)
    same(result, block_by_sum(block) + 1)


@given(some_blocks())
def test_dense_in_single_precision(block):
    arrays = iter([f.array.astype(np.float32) for term in block.terms for f in term.factors])
    single = rebuilt(block, arrays)
    result = single.dense(np.dtype(np.float32), np.zeros((), np.float32))
    assert result.dtype == np.float32
    same(result, block_by_sum(block))


@given(some_blocks())
def test_transpose_exchanges_output_and_input(block):
    expected = block_by_sum(block)
    out, inp = range(len(block.out_shape)), range(len(block.out_shape), expected.ndim)
    same(dense(block.T), expected.transpose(*inp, *out))
    same(dense(block.T.T), expected)


@given(st.data())
def test_sum(data):
    out, inp = data.draw(shapes), data.draw(shapes)
    a, b = data.draw(blocks(out, inp)), data.draw(blocks(out, inp))
    same(dense(a + b), block_by_sum(a) + block_by_sum(b))


@given(some_blocks())
def test_sum_of_a_block_with_itself_and_with_zero(block):
    same(dense(block + block), 2 * block_by_sum(block))
    same(dense(block + Block(block.out_shape, block.inp_shape)), block_by_sum(block))


@given(chains(2))
def test_composition(chain):
    g, f = chain
    expected = after(block_by_sum(g), block_by_sum(f), len(f.out_shape))
    same(dense(g @ f), expected)
    same(dense(g.after(f)), expected)


@given(some_blocks())
def test_composition_of_a_block_with_its_own_transpose(block):
    """Both sides have the same labels, which `@` keeps apart."""
    expected = block_by_sum(block)
    axes = list(range(len(block.out_shape), expected.ndim))
    assume(np.prod(block.out_shape, dtype=int) ** 2 < 5000)
    same(dense(block @ block.T), np.tensordot(expected, expected, axes=(axes, axes)))


@given(some_blocks())
def test_composition_with_the_identity(block):
    same(dense(Block.identity(block.out_shape) @ block), block_by_sum(block))
    same(dense(block @ Block.identity(block.inp_shape)), block_by_sum(block))


@given(chains(3))
def test_composition_is_associative(chain):
    a, b, c = chain
    same(dense((a @ b) @ c), dense(a @ (b @ c)))


@given(chains(2))
def test_transpose_of_a_composition(chain):
    a, b = chain
    same(dense((a @ b).T), dense(b.T @ a.T))


@given(st.data())
def test_composition_distributes_over_sums(data):
    f, g = data.draw(chains(2))[::-1]
    other = data.draw(blocks(g.out_shape, g.inp_shape, 2))
    same(dense((g + other) @ f), dense(g @ f) + dense(other @ f))


@given(st.data())
def test_paired_keeps_the_entries_of_equal_positions(data):
    block = data.draw(some_blocks())
    pairs = [
        (i, j) for i, m in enumerate(block.out_shape) for j, n in enumerate(block.inp_shape) if m == n
    ]  # fmt: skip
    assume(pairs)
    i, j = data.draw(st.sampled_from(pairs))
    kept = np.diagonal(block_by_sum(block), axis1=i, axis2=len(block.out_shape) + j)
    same(dense(block.paired(i, j)), np.moveaxis(kept, -1, i))


@given(st.data())
def test_moved_axes(data):
    block = data.draw(some_blocks())
    count = len(block.out_shape)
    out = data.draw(st.permutations(range(count)))
    inp = data.draw(st.permutations(range(len(block.inp_shape))))
    moved = block.axes_moved(out, inp)
    expected = block_by_sum(block).transpose(*out, *(count + k for k in inp))
    assert (*moved.out_shape, *moved.inp_shape) == expected.shape
    same(dense(moved), expected)


@given(st.data())
def test_materialised_axes_have_labels_of_their_own(data):
    block = data.draw(some_blocks())
    axes = data.draw(st.lists(st.sampled_from(range(len(block.out_shape))), unique=True)) if block.out_shape else []
    result = block.materialised(axes)
    assert all(lone(term, k) for term in result.terms for k in axes)
    same(dense(result), block_by_sum(block))


@given(some_blocks())
def test_terms_keep_no_label_that_their_axes_lack(block):
    for result in (block + block, block @ block.T, block.materialised(range(len(block.out_shape)))):
        for term in result.terms:
            assert all(label in term.labels() for factor in term.factors for label in factor.axes)
            assert all(len(set(factor.axes)) == len(factor.axes) for factor in term.factors)
            assert all(np.shape(f.array) == tuple(label.size for label in f.axes) for f in term.factors)


@given(some_blocks())
def test_one_factor_is_the_product_of_all(block):
    for term in block.terms:
        one = Term(term.out, term.inp, (term.one_factor(),))
        same(
            dense(Block(block.out_shape, block.inp_shape, [one])),
            dense(Block(block.out_shape, block.inp_shape, [term])),
        )


@given(st.data())
def test_embed_places_data_at_the_positions_of_its_labels(data):
    shape = data.draw(shapes)
    pool: list[Label] = []
    axes = tuple(data.draw(axes_of_size(n, pool, listed=False)) for n in shape)
    labels = list(labels_in(axes))
    assume(size_of(labels) < 5000)
    array = integers(np.random.default_rng(0), labels)
    expected = np.zeros(shape)
    at = values(labels)
    np.add.at(expected, tuple(position(axis, at) for axis in axes), array)
    same(embed(array, labels, axes, shape), expected)


@given(st.data())
def test_relabel_sums_over_what_the_output_lacks_and_repeats_along_what_the_input_lacks(data):
    shape, out_shape = data.draw(shapes), data.draw(shapes)
    pool: list[Label] = []
    inp = tuple(data.draw(axes_of_size(n, pool, listed=False)) for n in shape)
    out = tuple(data.draw(axes_of_size(n, pool, listed=False)) for n in out_shape)
    assume(size_of(labels_in((*inp, *out))) < 5000)
    x = np.random.default_rng(0).integers(-3, 4, shape).astype(float)
    block = Block(out_shape, shape, [Term(out, inp)])
    expected = after(block_by_sum(block), x, len(shape))
    result = relabel(x, inp=inp, out=out, shape=out_shape)
    assert result.shape == out_shape
    same(result, expected)


# --- under an outer trace -----------------------------------------------------------------------------------


@given(chains(2))
def test_algebra_on_traced_factors_gives_the_same_and_the_right_derivative(chain):
    """A term is homogeneous in its factors, of degree their number: the derivative along them is that many times it."""
    g, f = chain
    arrays = [factor.array for block in chain for term in block.terms for factor in term.factors]
    assume(arrays)

    def algebra(*arrays: Any) -> Any:
        given = iter(arrays)
        left, right = (rebuilt(block, given) for block in (g, f))
        block = (left @ right).materialised(range(len(g.out_shape)))
        return (block + block).dense(FLOAT, LIKE)

    expected, slope = 0.0, 0.0
    for a in g.terms:
        for b in f.terms:
            one = after(
                *(block_by_sum(Block(x.out_shape, x.inp_shape, [t])) for x, t in ((g, a), (f, b))), len(f.out_shape)
            )
            expected = expected + 2 * one
            slope = slope + 2 * (len(a.factors) + len(b.factors)) * one
    y, y_dot = mj.jvp(algebra, tuple(arrays), tuple(arrays))
    same(y, algebra(*arrays))
    same(y, expected + np.zeros(y.shape))
    same(y_dot, slope + np.zeros(y.shape))
    _, pullback = mj.vjp(algebra, *arrays)
    assert sum(np.vdot(v, v_bar) for v, v_bar in zip(arrays, pullback(y), strict=True)) == np.vdot(y_dot, y)


def rebuilt(block: Block, arrays: Any) -> Block:
    """The block with other arrays in its factors."""
    return Block(
        block.out_shape,
        block.inp_shape,
        [Term(t.out, t.inp, tuple(Factor(next(arrays), f.axes) for f in t.factors), t.scale) for t in block.terms],
    )


# --- every structure against every other --------------------------------------------------------------------


kinds = pytest.mark.parametrize("kind", STRUCTURES)
EYE = np.eye(B * N).reshape(B, N, B, N)


@kinds
@pytest.mark.parametrize("other", STRUCTURES)
def test_every_structure_after_every_other(kind, other):
    g, f = STRUCTURES[kind](), STRUCTURES[other]()
    expected = after(block_by_sum(g), block_by_sum(f), 2)
    same(dense(g.after(f)), expected)
    same(dense(g @ f), expected)
    same(dense((f.T @ g.T).T), expected)


@pytest.mark.parametrize("kind, other", list(combinations(STRUCTURES, 2)))
def test_every_structure_plus_every_other(kind, other):
    a, b = STRUCTURES[kind](), STRUCTURES[other]()
    expected = block_by_sum(a) + block_by_sum(b)
    same(dense(a + b), expected)
    same(dense(b + a), expected)


@kinds
def test_every_structure_by_itself(kind):
    make = STRUCTURES[kind]
    expected = block_by_sum(make())
    same(dense(make()), expected)
    same(dense(make() + make()), 2 * expected)
    same(dense(make().T), expected.transpose(2, 3, 0, 1))
    same(dense(make().materialised([0, 1])), expected)
    same(dense(make().paired(0, 0)), np.einsum("bobi->boi", expected))
    same(dense(make().paired(1, 1)), np.einsum("bicj,ij->bic", expected, np.eye(N)))
    same(dense(make().paired(0, 0).paired(1, 0)), np.einsum("bibi->bi", expected))


# --- structure that survives --------------------------------------------------------------------------------


def factors(block: Block) -> list[int]:
    return [len(term.factors) for term in block.terms]


def arrays(block: Block) -> list[int]:
    return [id(factor.array) for term in block.terms for factor in term.factors]


def test_identity_changes_no_structure_and_no_data():
    for make in STRUCTURES.values():
        block = make()
        for composed in (Block.identity((B, N)).after(block), block.after(Block.identity((B, N)))):
            assert [term.key()[0] for term in composed.terms] == [term.key()[0] for term in block.terms]
            assert arrays(composed) == arrays(block)


def test_diagonal_after_diagonal_is_one_diagonal():
    block = STRUCTURES["diagonal"]() @ STRUCTURES["diagonal"]()
    (term,) = block.terms
    (factor,) = term.factors
    assert size_of(factor.axes) == B * N


def test_shared_after_shared_has_no_batch_label():
    (term,) = (STRUCTURES["shared_dense"]() @ STRUCTURES["shared_dense"]()).terms
    (factor,) = term.factors
    assert size_of(factor.axes) == N * N
    assert term.out[0] == term.inp[0] and term.out[0][0] not in factor.axes


def test_diagonal_after_shared_stays_a_product():
    (term,) = (STRUCTURES["diagonal"]() @ STRUCTURES["shared_dense"]()).terms
    assert sorted(size_of(factor.axes) for factor in term.factors) == [B * N, N * N]


def test_a_common_factor_is_taken_out_of_a_sum_of_products():
    """``w d s + w e t = w (d s + e t)``: what is added costs less than one more product with `w`."""
    b, i = Label(B), Label(N)
    shared, d, e = STRUCTURES["shared_dense"](), STRUCTURES["diagonal"](), STRUCTURES["diagonal"]()
    s, t = (one(((b,), (i,)), ((b,), (i,)), data(name, i)) for name in ("left", "right"))
    total = shared.after(d).after(s) + shared.after(e).after(t)
    (term,) = total.terms
    assert sorted(size_of(factor.axes) for factor in term.factors) == [B * N, N * N]
    same(dense(total), block_by_sum(shared.after(d.after(s) + e.after(t))))


def test_products_are_given_up_where_data_costs_less():
    block = STRUCTURES["low_rank"]()
    for _ in range(N):
        block = block + STRUCTURES["low_rank"]()
    assert factors(block) == [1]
    assert size_of(block.terms[0].factors[0].axes) == B * N * N


def test_flip_of_a_flip_is_the_identity():
    (term,) = (STRUCTURES["flip"]() @ STRUCTURES["flip"]()).terms
    assert not term.factors and term.out == term.inp


def test_terms_that_meet_along_the_same_axes_share_what_becomes_of_an_array():
    i, m, j, k = Label(4), Label(6), Label(5), Label(2)
    rows = ((Window(i, 6, 1, 1),),)  # of a matrix with six of them, the four that each term meets
    ends = [(Window(None, 3, n, 1),) for n in range(3)]
    g = Block(
        (3, 4), (6,), [Term((end, (i,)), rows, (Factor(np.arange(4.0) + n, (i,)),)) for n, end in enumerate(ends)]
    )
    f = Block((6,), (5,), [Term(((m,),), ((j,),), (Factor(np.arange(30.0).reshape(6, 5), (m, j)),))])
    h = Block((5,), (7,), [Term(((Window(k, 5, 0, 3),),), ((Window(k, 7, 6, -5),),))])
    found = g.after(f)
    assert len({id(term.factors[-1].array) for term in found.terms}) == 1 < len(found.terms)
    same(dense(found), after(dense(g), dense(f), 1))
    same(dense(found.after(h)), after(dense(found), dense(h), 1))


def test_windows_that_do_not_meet_give_zero():
    b, i, j = Label(B), Label(3), Label(3)
    first = one(((b,), (Window(i, N, 0, 1),)), ((b,), (Window(i, N, 0, 1),)))
    c = Label(B)
    last = one(((c,), (Window(j, N, 3, 1),)), ((c,), (Window(j, N, 3, 1),)))
    assert (first @ last).terms == ()


def test_empty_blocks_have_no_terms():
    axes = (axis_of(3), axis_of(2))
    assert Block((0, 3), (2,), [Term(axes, axes)]).terms == ()
    assert dense(Block((0, 3), (2,))).shape == (0, 3, 2)
    assert dense(Block((4,), (0, 3)) @ Block((0, 3), (2,))).shape == (4, 2)
