"""scan and checkpoint: the plain loop's values and derivatives, in every mode and order, in bounded memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import optree
import pytest

import minijac as mj

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3)) * 0.5
X0 = RNG.normal(size=(4, 3))
XS = RNG.normal(size=(7, 4, 3))
KEPT = (None, 1, 3, 7, 10)
kept = pytest.mark.parametrize("checkpoint", KEPT)
modes = pytest.mark.parametrize("mode", ["auto", "forward", "reverse", "mixed"])


def cell(carry: Any, x: Any) -> Any:
    h, n = carry
    h = np.tanh(h @ W + x)
    return (h, n * 0.5 + (h * h).sum(1)), {"norm": (h * h).sum(1), "h": h[:, ::-1]}


def unrolled(h: Any, xs: Any) -> Any:
    carry, ys = (h, h[:, 0]), []
    for n in range(len(xs)):
        carry, y = cell(carry, xs[n])
        ys.append(y)
    return carry, np.stack([y["norm"] for y in ys], 1), np.stack([y["h"] for y in ys], 1)


def scanned(checkpoint: int | None) -> Any:
    def f(h: Any, xs: Any) -> Any:
        carry, ys = mj.scan(cell, (h, h[:, 0]), xs, checkpoint=checkpoint)
        return carry, ys["norm"].T, np.swapaxes(ys["h"], 0, 1)

    return f


def same(a: Any, b: Any, rtol: float = 1e-12) -> None:
    first, tree = optree.tree_flatten(a)
    second, other = optree.tree_flatten(b)
    assert tree == other
    for x, y in zip(first, second, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol, 1e-12)


@kept
def test_on_plain_arrays_it_is_the_loop(checkpoint):
    same(scanned(checkpoint)(X0, XS), unrolled(X0, XS), 0)


@kept
@modes
@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_jacobians_are_the_unrolled_loops(checkpoint, mode, argnums):
    options = {"argnums": argnums, "batch_axis": (0, 1), "mode": mode}
    same(mj.jacobian(scanned(checkpoint), **options)(X0, XS), mj.jacobian(unrolled, **options)(X0, XS))


@kept
def test_every_transformation_goes_through(checkpoint):
    f = scanned(checkpoint)
    first = lambda g: lambda h: g(h, XS)[0][0]
    for transformation in (mj.hessian, mj.laplacian, mj.hessian_diagonal, mj.divergence):
        same(transformation(first(f))(X0), transformation(first(unrolled))(X0))
    same(mj.jacobian(mj.jacobian(first(f)))(X0), mj.jacobian(mj.jacobian(first(unrolled)))(X0))
    same(mj.partials(first(f), [(0,), (0, 1)])(X0), mj.partials(first(unrolled), [(0,), (0, 1)])(X0))
    same(mj.jvp(first(f), (X0,), (W[0] + 0 * X0,)), mj.jvp(first(unrolled), (X0,), (W[0] + 0 * X0,)))
    (y, pull), (z, pull_unrolled) = mj.vjp(first(f), X0), mj.vjp(first(unrolled), X0)
    same(y, z)
    for _ in range(2):
        same(pull(X0), pull_unrolled(X0))
    for options in ({"structured": True}, {"max_bytes": 10**6}, {"chunk_size": 2}, {"on_mixing": "full"}):
        J, expected = (mj.jacobian(first(g), **options)(X0) for g in (f, unrolled))
        same(J.todense() if "structured" in options else J, expected.todense() if "structured" in options else expected)
    compiled = mj.compile(mj.value_and_jacobian(first(f)))
    for _ in range(3):
        same(compiled(X0), mj.value_and_jacobian(first(unrolled))(X0))


@kept
def test_captured_parameters_are_differentiated(checkpoint):
    def loss(w: Any, plain: bool) -> Any:
        scale = np.exp(w)  # followed by the outer trace, and met inside
        step = lambda h, x: (np.tanh(h @ np.sin(w) + x) * scale[0], None)
        h = X0
        if plain:
            for x in XS:
                h = step(h, x)[0]
            return (h * h).sum()
        return (mj.scan(step, X0, XS, checkpoint=checkpoint)[0] ** 2).sum()

    same(mj.grad(lambda w: loss(w, False))(W), mj.grad(lambda w: loss(w, True))(W))
    for second in (mj.hessian, lambda f, **options: mj.jacobian(mj.grad(f), **options)):
        same(second(lambda w: loss(w, False), batch_axis=None)(W), second(lambda w: loss(w, True), batch_axis=None)(W))


@kept
def test_loops_nest(checkpoint):
    def inner(h: Any) -> Any:
        return mj.scan(lambda c, _: (np.sin(c) * h, None), h, None, 3, checkpoint=checkpoint)[0]

    outer = lambda h: mj.scan(lambda c, x: (inner(c) + x, c), h, XS, checkpoint=checkpoint)[0]

    def plain(h: Any) -> Any:
        for x in XS:
            c = h
            for _ in range(3):
                c = np.sin(c) * h
            h = c + x
        return h

    for transformation in (mj.jacobian, mj.hessian):
        same(transformation(outer)(X0), transformation(plain)(X0))


def test_a_jacobian_inside_a_step_is_differentiated():
    rate = lambda h: np.tanh(h @ W)
    implicit = lambda h: np.linalg.solve(np.eye(3) - 0.1 * mj.jacobian(rate)(h), (0.1 * rate(h))[..., None])[..., 0]
    step = lambda h, _: (h + implicit(h), None)
    looped = lambda checkpoint: lambda h: mj.scan(step, h, None, 4, checkpoint=checkpoint)[0]
    same(mj.jacobian(looped(2))(X0), mj.jacobian(looped(None))(X0), 1e-10)


def test_it_agrees_with_torch():
    torch = pytest.importorskip("torch")
    w, xs = torch.tensor(W), torch.tensor(XS)

    def sample(h: Any, b: int) -> Any:
        for n in range(len(XS)):
            h = torch.tanh(h @ w + xs[n, b])
        return h

    expected = np.stack([torch.func.jacrev(sample)(torch.tensor(X0[b]), b).numpy() for b in range(4)])
    for checkpoint in KEPT:
        f = lambda h, k=checkpoint: mj.scan(lambda h, x: (np.tanh(h @ W + x), None), h, XS, checkpoint=k)[0]
        np.testing.assert_allclose(mj.jacobian(f)(X0), expected, 1e-11)


def test_what_a_where_discards_stays_out():
    x = np.array([[0.0, 1.0, -1.0]])
    around = lambda x: np.where(x > 0, mj.checkpoint(np.log)(x), 0.0)
    within = mj.checkpoint(lambda x: np.where(x > 0, np.log(x), 0.0))
    with np.errstate(all="ignore"):
        for f in (around, within):
            for mode in ("forward", "reverse"):
                np.testing.assert_array_equal(mj.jacobian(f, mode=mode)(x)[0], np.diag([0.0, 1.0, 0.0]))


@kept
def test_mixing_names_the_line_of_the_step(checkpoint):
    def step(h: Any, _: Any) -> Any:
        return h - h.mean(0), None  # this line

    f = lambda h: mj.scan(step, h, None, 3, checkpoint=checkpoint)[0]
    with pytest.raises(mj.BatchMixingError, match=r"test_scan\.py:\d+") as error:
        mj.jacobian(f)(X0)
    assert f"test_scan.py:{step.__code__.co_firstlineno + 1}" in str(error.value)
    plain = lambda h: h - h.mean(0)
    same(mj.jacobian(f, on_mixing="full")(X0), mj.jacobian(plain, on_mixing="full")(X0))


def test_memory_is_that_of_the_kept_carries_and_one_part():
    h = RNG.normal(size=(64, 16))
    w = RNG.normal(size=(16, 16)) * 0.3

    def peak(steps: int, checkpoint: int | None) -> int:
        loss = lambda h: (mj.scan(lambda h, _: (np.tanh(h @ w), None), h, None, steps, checkpoint=checkpoint)[0]).sum()
        tracemalloc.start()
        mj.grad(loss)(h)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(4, 2)
    whole, short, long = peak(400, None), peak(100, 10), peak(400, 20)
    assert 8 * long < whole
    assert long < 3 * short  # twice, where the whole is four times as much


def test_a_step_of_one_structure_is_followed_once(monkeypatch):
    from minijac.ways import steps

    count = []
    original = steps.follow_samples
    monkeypatch.setattr(steps, "follow_samples", lambda *args: count.append(1) or original(*args))
    mj.jacobian(lambda h: mj.scan(lambda h, _: (np.cos(h) * 0.375, None), h, None, 40, checkpoint=4)[0])(X0)
    assert len(count) == 1


def test_no_steps_give_empty_rows():
    carry, ys = mj.scan(cell, (X0, X0[:, 0]), XS[:0])
    same(carry, (X0, X0[:, 0]))
    assert ys["h"].shape == (0, 4, 3)
    assert ys["norm"].shape == (0, 4)
    assert mj.jacobian(lambda h: mj.scan(cell, (h, h[:, 0]), XS[:0])[0][0])(X0).shape == (4, 3, 3)


def test_numbers_in_the_carry_become_arrays():
    total, counts = mj.scan(lambda c, x: (c + x.sum(), c), 0.0, XS)
    np.testing.assert_allclose(total, XS.sum())
    assert counts.shape == (7,)


SOME = np.array([[True], [False]])


def loop(step: Any, carry: Any, xs: Any = None) -> Any:
    return mj.scan(step, carry, xs, None if xs is not None else 2)


MISUSE = {
    "carry of another shape": (lambda h: loop(lambda c, _: (c[:, :1], None), h), r"\[4, 3\], got float64\[4, 1\]"),
    "carry of another dtype": (lambda h: loop(lambda c, _: (c.astype(np.float32), None), h), r"got float32\[4, 3\]"),
    "carry of other samples": (lambda h: loop(lambda c, x: (c * x, None), h[:3], XS), r"\(3, 3\) beside .*Give"),
    "carry of another tree": (lambda h: loop(lambda c, _: ((c, c), None), h), "carry of the tree"),
    "no pair": (lambda h: loop(lambda c, _: c, h), "the pair"),
    "lengths that differ": (lambda h: mj.scan(lambda c, x: (c, None), h, (XS, XS[:3])), "got 3 and 7"),
    "length beside xs": (lambda h: mj.scan(lambda c, x: (c, None), h, XS, 5), "got 5 and 7"),
    "no length": (lambda h: mj.scan(lambda c, x: (c, None), h), "got neither"),
    "traced length": (lambda h: mj.scan(lambda c, x: (c, None), h, None, h.sum()), "traced"),
    "negative length": (lambda h: mj.scan(lambda c, x: (c, None), h, None, -1), "at least 0"),
    "checkpoint": (lambda h: mj.scan(lambda c, x: (c, None), h, XS, checkpoint=0), "positive int"),
    "a number as xs": (lambda h: mj.scan(lambda c, x: (c, None), h, 3.0), "steps on axis 0"),
    "y of another tree": (lambda h: loop(lambda c, n: (c, None if n[0] else c), h, SOME), "y of the tree"),
    "y of another shape": (lambda h: loop(lambda c, n: (c, c if n[0] else c[:1]), h, SOME), "in step 1, and they are"),
    "no step": (lambda h: mj.scan(3, h, XS), "expected a function step"),
    "no function": (lambda h: mj.checkpoint(3), "function"),
}  # fmt: skip


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("f, message", MISUSE.values(), ids=MISUSE)
def test_misuse_is_named(f, message, traced):
    call = mj.jacobian(f) if traced or message == "traced" else f
    with pytest.raises(mj.InputError, match=message):
        call(X0)


def test_a_checkpointed_function_that_does_something_else_when_run_again_is_an_error():
    hidden = []

    def f(h: Any) -> Any:
        hidden.append(np.sin(h))  # kept from one run to the next
        return hidden[0] * h

    with pytest.raises(mj.TraceError, match="again"):
        mj.grad(lambda h: mj.checkpoint(f)(h).sum())(X0)
