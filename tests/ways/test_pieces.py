"""Bounded memory: a piece does the work of its own samples, so that time grows with the batch and not its square."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
from helpers import close, random
from registry import KINDS, NAMES_BATCH, Case, in_real_numbers, named

import minijac as mj
from minijac.accumulation.plan import Plan
from minijac.accumulation.recording import prepare
from minijac.accumulation.seeds import unit
from minijac.arguments import Options
from minijac.ways import memory

FEW, MANY = 8, 264
OBJECTS = 8_000
"""Bytes of Python's own objects, and of arrays of positions, by which two pieces may differ."""


def made_in_a_piece(f: Callable, args: Sequence[Any], options: Options) -> int:
    """The most bytes that an accumulation for two of the samples holds at once beside what it starts from."""
    made = 0
    with np.errstate(all="ignore"):
        ready = prepare(f, tuple(args), {}, options)
        rehearsal, one = memory._Rehearsal(ready, args, options), unit(ready.sources, ready.outputs)
        plan = rehearsal._mixed_plan() if options.mode == "mixed" else Plan(options.mode)
        assert rehearsal.batch is not None
        for samples in [(0, 2), (4, 6)]:  # the first fills caches
            graph = rehearsal.graph(samples)
            for end in rehearsal.ends(plan):
                for seed in islice(rehearsal.seeds(plan, end, None, samples, one), 1):
                    tracemalloc.start()
                    rehearsal.own(rehearsal.piece(graph, plan, end, seed, one), samples)
                    made = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
    return made


def check_a_piece(f_of: Callable[[int], Callable], args_of: Callable[[int], Sequence[Any]], options: Options) -> None:
    few, many = (made_in_a_piece(f_of(n), args_of(n), options) for n in (FEW, MANY))
    assert many <= few + OBJECTS


SCALABLE = [case for case in KINDS if case.name not in NAMES_BATCH]


@pytest.mark.parametrize("case", SCALABLE, ids=lambda case: f"{case.name}-{case.number}")
def test_a_piece_of_an_operation_makes_no_more_of_a_larger_batch(case: Case):
    def f_of(batch: int) -> Callable:
        def f(*operands: Any) -> Any:
            y = in_real_numbers(named(case.name)(*operands, **case.sample.params))
            return y if batch in y.shape or not y.ndim else y.reshape(batch, -1, *y.shape[1:])

        return f

    def args_of(batch: int) -> list[Any]:
        pairs = zip(case.operands(), case.batch_axis, strict=True)
        return [x if axis is None else np.concatenate([x] * batch)[:batch] for x, axis in pairs]

    for k in case.differentiable:
        for mode in ("forward", "reverse"):
            check_a_piece(f_of, args_of, Options(argnums=k, batch_axis=case.batch_axis, mode=mode))


def put(x: Any) -> Any:
    y = x * 1.0
    np.put_along_axis(y, np.argsort(mj.stop_gradient(x), 1)[:, :2], np.sin(x[:, :2]), 1)
    return y * y


def placed(x: Any) -> Any:
    y = x * 1.0
    y[np.arange(len(x)), np.arange(len(x)) % 5] = np.sin(x[:, 0])
    return y * y


COSINES = mj.custom(np.sin, jacobian=lambda x: np.cos(x)[:, :, None] * np.eye(12))
PUSHED = mj.custom(np.sin, jvp=lambda primals, tangents: np.cos(primals[0]) * tangents[0])
first = lambda x, count: np.argsort(mj.stop_gradient(x), 1)[:, :count]
FUNCTIONS: dict[str, Callable] = {
    "sorted": lambda x: np.sort(np.sin(x), 1) ** 2,
    "partitioned": lambda x: np.partition(np.sin(x).reshape(-1, 3, 4), 1, 1) ** 2,
    "median": lambda x: np.median(np.sin(x).reshape(-1, 3, 4), 1),
    "taken": lambda x: np.take_along_axis(np.sin(x), first(x, 5), 1) ** 2,
    "picked": lambda x: np.sin(x)[np.arange(len(x))[:, None], first(x, 5)] ** 2,
    "a triangle": lambda x: np.sin(x).reshape(-1, 3, 4)[:, np.triu_indices(3)[0], np.triu_indices(3)[1]] ** 2,
    "put": put,
    "placed": placed,
    "reshaped": lambda x: (np.sin(x).reshape(len(x), 4, 3) ** 2).reshape(len(x), 6, 2) ** 2,
    "reshaped, merged": lambda x: (np.sin(x).reshape(-1, 4, 3) ** 2).reshape(-1, 6, 2).reshape(-1, 12) ** 2,
    "samples merged": lambda x: np.sort(np.exp(x).reshape(-1, 3), 1).reshape(len(x), 12) ** 2,
    "samples last": lambda x: np.sort(np.exp(x.T), 0).T ** 2,
    "samples last, reshaped": lambda x: np.exp(x.T).reshape(4, 3, -1).reshape(6, 2, -1).transpose(2, 0, 1) ** 2,
    "samples second": lambda x: np.sort(np.stack([np.sin(x), x]), 2)[1] ** 2,
    "sorted again and again": lambda x: np.sort(np.cumsum(np.sort(np.tanh(x), 1), 1)[:, ::-1], 1) ** 2,
    "largest of largest": lambda x: np.max(np.max(x.reshape(-1, 4, 3), 2), 1),
    "a running maximum": lambda x: np.maximum.accumulate(np.sin(x), 1) ** 2,
    "a black box's Jacobian": lambda x: COSINES(COSINES(x)) ** 2,
    "a black box, pushed": lambda x: PUSHED(x) ** 2,
}
"""Functions of (B, 12)."""
views = lambda x: np.concatenate([np.sin(x), x])
each_twice = lambda x: np.stack([np.sin(x), x], 1).reshape(-1, 12)
positive = lambda x: (y := x.reshape(-1, 3, 4)) @ np.swapaxes(y, 1, 2) + np.diag([3.0, 5.0, 7.0])
CONCATENATED: dict[str, Callable] = {
    "concatenated, sorted": lambda x: np.sort(np.concatenate([np.sin(x), x]), 1)[: len(x)] ** 2,
    "concatenated, summed up": lambda x: np.cumsum(np.concatenate([np.sin(x), x]), 1)[len(x) :] ** 2,
    "concatenated, reshaped": lambda x: (
        np.concatenate([np.sin(x), x]).reshape(-1, 4, 3).reshape(-1, 6, 2).reshape(-1, 12)[: len(x)] ** 2
    ),
    "concatenated, transformed": lambda x: np.fft.rfft(np.concatenate([np.sin(x), x]))[len(x) :].real ** 2,
    "concatenated, sorted, one of two": lambda x: np.sort(views(x), 1).reshape(2, *x.shape)[0] ** 2,
    "concatenated, taken, one of two": lambda x: (
        np.take_along_axis(views(x), first(views(x), 5), 1).reshape(2, -1, 5)[1] ** 2
    ),
    "concatenated, factorised": lambda x: np.linalg.cholesky(positive(views(x)))[len(x) :] ** 2,
    "concatenated, solved": lambda x: np.linalg.solve(positive(views(x)), views(x).reshape(-1, 3, 4))[: len(x)] ** 2,
    "concatenated, eigenvectors, one of two": lambda x: (
        np.linalg.eigh(positive(views(x)))[1].reshape(2, -1, 3, 3)[0] ** 2
    ),
    "each twice, sorted": lambda x: np.sort(each_twice(x), 1)[::2] ** 2,
    "each twice, taken": lambda x: np.take_along_axis(each_twice(x), first(each_twice(x), 5), 1)[1::2] ** 2,
    "each twice, factorised, one of two": lambda x: np.linalg.qr(positive(each_twice(x)))[1].reshape(-1, 2, 9)[:, 1],
}
functions = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
concatenated = pytest.mark.parametrize("f", CONCATENATED.values(), ids=CONCATENATED)


@functions
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_a_piece_of_a_function_makes_no_more_of_a_larger_batch(f, mode):
    check_a_piece(lambda _: f, lambda batch: [random(batch, 12)], Options(mode=mode))


@concatenated
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_nor_does_one_of_samples_that_are_concatenated_along_their_axis(f, mode):
    check_a_piece(lambda _: f, lambda batch: [random(batch, 12)], Options(mode=mode))


@concatenated
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_no_square_of_the_batch_is_made_of_samples_that_are_concatenated(f, mode):
    peaks = []
    for batch in (FEW, MANY):
        x = random(batch, 12)
        tracemalloc.start()
        J = mj.jacobian(f, mode=mode)(x)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        for i in (0, 5):
            close(J[i], mj.jacobian(f)(x[i : i + 1])[0], 1e-12, 1e-12)
    assert peaks[1] <= 2 * MANY / FEW * max(peaks[0], 100_000)


@pytest.mark.parametrize("f", (FUNCTIONS | CONCATENATED).values(), ids=FUNCTIONS | CONCATENATED)
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed", "auto"])
def test_pieces_are_together_what_is_made_at_once(f, mode):
    x = random(9, 12)
    free = mj.jacobian(f, mode=mode)(x)
    for bound in (least_bound(f, x, mode), 2 * least_bound(f, x, mode)):
        close(mj.jacobian(f, mode=mode, max_bytes=bound)(x), free, 1e-12, 1e-12)


def least_bound(f: Callable, x: Any, mode: str) -> int:
    with pytest.raises(mj.InputError) as error:
        mj.jacobian(f, mode=mode, max_bytes=1)(x)
    return int(str(error.value).split("Give it max_bytes=")[1].split(" ")[0].replace(",", ""))


# --- what is given all samples ----------------------------------------------------------------------------------------


def rows_given(mode: str, batch: int, bound: int) -> int:
    """How many samples a black box is given, all calls of its derivative together."""
    rows = 0

    def counted(derivative: Callable, *given: Any) -> Any:
        nonlocal rows
        rows += len(given[0][0])
        return derivative(*given)

    box = mj.custom(
        np.sin,
        jvp=partial(counted, lambda primals, tangents: np.cos(primals[0]) * tangents[0]),
        vjp=partial(counted, lambda primals, cotangent: np.cos(primals[0]) * cotangent),
    )
    x = random(batch, 12)
    close(mj.jacobian(lambda x: box(2.0 * x) ** 2, mode=mode, max_bytes=bound)(x), mj.jacobian(double)(x), 1e-12)
    return rows


def double(x: Any) -> Any:
    return np.sin(2.0 * x) ** 2


@pytest.mark.parametrize("room", [1, 3])
@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
def test_a_black_box_is_given_each_sample_once_for_each_seed(mode, room):
    """Samples stay together, and seeds are taken a few at a time: its derivative is one of the whole batch. Where not
    even one of all samples fits, the bound that it takes is named: there is no way on which time grows faster."""
    box = mj.custom(np.sin, jvp=lambda p, t: np.cos(p[0]) * t[0], vjp=lambda p, c: np.cos(p[0]) * c)
    for batch in (100, 200):
        bound = room * least_bound(lambda x: box(2.0 * x) ** 2, random(batch, 12), mode)
        assert rows_given(mode, batch, bound) <= 14 * batch  # two calls find out whether samples mix
        with pytest.raises(mj.InputError, match=f"one seed of {batch} samples"):
            rows_given(mode, batch, 1000)
