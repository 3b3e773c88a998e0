"""Tiles: the same results as whole, whatever the tile size and the number of threads, for every operation."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from compiled import same

import minijac as mj
from minijac.program.cpu import executor, fusion, regions, tiling
from minijac.program.cpu.tiling import Region, stages

pytest.importorskip("torch")
import fuzz
from tiles import run, tile_everything

B, D, H = 12, 5, 7
N = 40 * B


@pytest.fixture(autouse=True)
def everything_is_tiled(monkeypatch):
    tile_everything(monkeypatch)


@pytest.fixture
def by_numpy(monkeypatch):
    """As where llvmlite is not installed."""
    monkeypatch.setattr(fusion, "ENABLED", False)


def regions_of(compiled, *args) -> list[Region]:
    return [stage for stage in stages(compiled.program(*args)) if isinstance(stage, Region)]


def network(rng, dtype=float):
    W, V = rng.normal(size=(D, H)).astype(dtype), rng.normal(size=(H, D)).astype(dtype)
    return lambda x: np.tanh(x @ W) @ V


@pytest.mark.parametrize("part", range(4))
def test_random_programs(monkeypatch, part):
    import random

    monkeypatch.setattr(fusion, "ENABLED", part < 3)
    for n in range(12):
        program = fuzz.build(random.Random(f"tiles/{part}/{n}").choice)
        fuzz.check(program)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 12])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "transform",
    [mj.jacobian, mj.hessian, mj.laplacian, mj.value_and_jacobian],
)
def test_any_size_on_any_number_of_threads(monkeypatch, transform, size, count):
    rng = np.random.default_rng(0)
    net = network(rng)
    scalar = transform in (mj.laplacian, mj.hessian)
    f = transform((lambda x: np.sin(net(x)).sum(-1)) if scalar else net)
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(size, count), arrays))
    compiled = mj.compile(f)
    for x in rng.normal(size=(2, B, D)):
        same(compiled(x), f(x), rtol=1e-12)
    assert regions_of(compiled, x)


def test_everything_of_a_network_is_one_region():
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    x = np.ones((B, D))
    f(x)
    (region,) = regions_of(f, x)
    assert region.batch == B
    assert [rows for _, rows in region.outs] == [tiling.Rows(0, 1)]


def test_structured_results():
    f = lambda x: np.sin(x[:, 1:] - x[:, :-1]) * x[:, 1:]
    compiled = mj.compile(mj.jacobian(f, structured=True))
    for x in np.random.default_rng(0).normal(size=(2, B, D)):
        J = compiled(x)
        assert "offsets 0, +1" in repr(J)
        same(J.todense(), mj.jacobian(f)(x), rtol=1e-12)
    assert regions_of(compiled, x)


def test_samples_that_mix_are_not_torn_apart():
    """Batch normalisation: the sums over the batch are sums over tiles, and what follows is another region."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(D, H))

    def f(x):
        y = x @ W
        y = y - y.sum(axis=0) / N
        return y / np.sqrt((y * y).sum(axis=0) / N + 1e-5)

    compiled = mj.compile(f)
    for x in rng.normal(size=(3, N, D)):
        same(compiled(x), f(x), rtol=1e-12)
    found = regions_of(compiled, x)
    assert len(found) == 3
    assert [rows for region in found for _, rows in region.outs].count(None) == 2


@pytest.mark.parametrize("size", [1, 7, 64, 100, 241, N])
def test_weight_gradients_are_summed_over_tiles(monkeypatch, size):
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(size, 2), arrays))
    rng = np.random.default_rng(0)
    W, V = rng.normal(size=(D, H)), rng.normal(size=(H, D))

    def loss(p, x):
        return np.square(np.tanh(x @ p[0]) @ p[1]).sum()

    f = mj.grad(loss)
    compiled = mj.compile(f)
    x = rng.normal(size=(N, D))
    same(compiled([W, V], x), f([W, V], x), rtol=1e-10)
    assert None in [rows for region in regions_of(compiled, [W, V], x) for _, rows in region.outs]


def test_the_step_of_a_loss_on_a_jacobian():
    """Nothing large is copied to be shown transposed, and no product has a single column."""
    rng = np.random.default_rng(0)
    x, *weights = (rng.normal(size=shape) for shape in ((64, 16), (16, 64), (64, 64), (64, 8)))

    def loss(U, V, W):
        return np.square(mj.jacobian(lambda x: np.tanh(np.tanh(x @ U) @ V) @ W)(x)).sum()

    f = mj.grad(loss, argnums=(0, 1, 2))
    compiled = mj.compile(f)
    same(compiled(*weights), f(*weights), rtol=1e-10)
    program = compiled.program(*weights)
    assert all(len(program.values[step.out].shape) == 2 for step in program.instructions if step.op.name == "matmul")
    views = {step.out for step in program.instructions if step.op.view}
    for region in regions_of(compiled, *weights):
        assert views.isdisjoint({n for n, _ in region.outs}.difference(*(own.step.args for own in region.steps)))


def test_a_networks_jacobian_is_cut_by_samples_and_is_one_region():
    rng = np.random.default_rng(0)
    U, V, W = (rng.normal(size=shape).astype(np.float32) for shape in ((32, 256), (256, 256), (256, 32)))
    compiled = mj.compile(mj.jacobian(lambda x: np.tanh(np.tanh(x @ U) @ V) @ W))
    (region,) = regions_of(compiled, rng.normal(size=(256, 32)).astype(np.float32))
    assert region.batch == 256
    assert sum(item.step.op.name == "matmul" for item in region.steps) == 4


def test_samples_along_another_axis():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(H, D))
    compiled = mj.compile(lambda x: np.tanh(W @ x.T).T[:, ::2] * x[:, :4])
    for x in rng.normal(size=(2, B, D)):
        same(compiled(x), np.tanh(W @ x.T).T[:, ::2] * x[:, :4], rtol=1e-12)


def test_weights_with_as_many_rows_as_there_are_samples():
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(B, B)), rng.normal(size=B)
    f = mj.jacobian(lambda x: np.tanh(np.tanh(x @ W + b) @ W.T))
    compiled = mj.compile(f)
    for x in rng.normal(size=(2, B, B)):
        same(compiled(x), f(x), rtol=1e-12)
    assert regions_of(compiled, x)


def test_captured_arrays_are_read_at_replay():
    W = np.ones((D, H))
    f = mj.compile(lambda x: np.tanh(x @ W) * 2)
    x = np.ones((B, D))
    f(x)
    W *= 0.1
    same(f(x), np.tanh(x @ W) * 2, rtol=1e-12)


def test_several_callers_at_once():
    rng = np.random.default_rng(0)
    f = mj.jacobian(network(rng))
    compiled = mj.compile(f)
    xs = rng.normal(size=(16, B, D))
    results: list = [None] * len(xs)

    def call(k):
        for _ in range(5):
            results[k] = compiled(xs[k])

    threads = [threading.Thread(target=call, args=(k,)) for k in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, J in zip(xs, results, strict=True):
        same(J, f(x), rtol=1e-12)


def test_blas_has_its_threads_back_afterwards():
    before = [library.num_threads for library in regions.blas()._libraries]
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    f(np.ones((B, D)))
    assert [library.num_threads for library in regions.blas()._libraries] == before


def test_a_call_beside_others_finds_as_many_threads(monkeypatch):
    """While another thread's tiles run, BLAS has one thread: that is not what the user lets it have."""
    monkeypatch.undo()
    blas = regions.blas()
    before = [library.num_threads for library in blas._libraries]
    if not before:
        pytest.skip("no BLAS that threadpoolctl knows")
    for library in blas._libraries:
        library.set_num_threads(3)
    try:
        allowed = regions.threads()
        assert allowed > 1
        with blas, blas:
            assert regions.threads() == allowed
        assert regions.threads() == allowed
    finally:
        for library, number in zip(blas._libraries, before, strict=True):
            library.set_num_threads(number)


def worked(monkeypatch) -> list[tuple[int, set[int]]]:
    """Which thread worked on which CPUs, as regions are carried out."""
    places, work = [], regions.Schedule._work

    def noted(plan, *args):
        run = args[0].run

        def running(*arrays):
            places.append((threading.get_ident(), os.sched_getaffinity(0)))
            run(*arrays)

        args[0].run = running
        try:
            work(plan, *args)
        finally:
            args[0].run = run

    monkeypatch.setattr(regions.Schedule, "_work", noted)
    return places


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not place threads")
def test_threads_keep_to_cpus_of_their_own(monkeypatch, by_numpy):
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one CPU")
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    x = np.ones((B, D))
    f(x)
    places = worked(monkeypatch)
    for _ in range(200):  # one thread may take all tiles of a call
        f(x)
        if len({thread for thread, _ in places}) == 2:
            break
    (one, here), (other, there) = dict(places).items()
    assert here | there == before
    assert not here & there
    assert os.sched_getaffinity(0) == before

    places.clear()
    with regions._placing(os.getpid()):  # as another thread's call does: the system places those beside it
        f(x)
    assert all(cpus == before for _, cpus in places)

    os.sched_setaffinity(0, {min(before)})
    try:
        places.clear()
        f(x)
        assert all(cpus == {min(before)} for _, cpus in places)
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


def test_an_error_in_a_tile_reaches_the_caller(monkeypatch, by_numpy):
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    x = np.ones((B, D))
    f(x)
    (entry,) = f._entries.values()
    (ready,) = entry.executors
    begun = threading.Event()

    def fails(*arrays):
        begun.set()
        raise FloatingPointError("in a tile")

    own, other = ready._tiles[0]._schedule.executors
    run, other.run = own.run, fails
    own.run = lambda *arrays: (begun.wait(20), run(*arrays))  # or one thread may take all tiles
    with pytest.raises(FloatingPointError, match="in a tile"):
        f(x)


def test_buffers_are_those_of_tiles():
    """What is held between calls grows with the tile, not with the batch."""
    net = network(np.random.default_rng(0))
    held = []
    for batch in (100, 400):
        f = mj.compile(mj.jacobian(net))
        f(np.ones((batch, D)))
        held.append(f.buffer_bytes())
    assert held[0] == held[1]


def test_the_fastest_plan_is_taken(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "threads", lambda: 2)
    seconds = {6: 3.0, 3: 1.0, 1: 2.0, 12: 2.5}
    tried = []

    def timed(plan, arrays):
        tried.append(plan.size)
        return seconds[plan.size]

    monkeypatch.setattr(regions, "_seconds", timed)
    monkeypatch.setattr(regions, "SMALL", 0)
    monkeypatch.setattr(regions, "ENOUGH", np.inf)
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    f(np.ones((B, D)))
    (entry,) = f._entries.values()
    assert entry.executors[0]._tiles[0]._schedule.size == 3
    assert set(tried) == {6, 3, 1, 12}


def chosen_by_time(monkeypatch, seconds) -> tuple[int, int]:
    """Tile size and threads of a program where a call of a plan takes `seconds(size, threads)`."""
    monkeypatch.undo()
    monkeypatch.setattr(tiling, "WORTH", 0)
    monkeypatch.setattr(regions, "threads", lambda: 2)
    monkeypatch.setattr(regions, "SETTLE", 0.0)
    monkeypatch.setattr(regions, "SMALL", 0)
    monkeypatch.setattr(regions, "SECONDS", np.inf)
    monkeypatch.setattr(regions, "_seconds", lambda plan, arrays: seconds(plan.size, len(plan.executors)))
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    f(np.ones((B, D)))
    ((found,),) = (entry.sizes.values() for entry in f._entries.values())
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_same_on_a_busy_machine(monkeypatch, seed):
    """Two calls in five take up to five times as long, as something else runs: what is taken is as fast as any."""
    rng = np.random.default_rng(seed)
    quiet = {(6, 2): 1.0e-3, (3, 2): 0.6e-3, (1, 2): 0.8e-3, (6, 1): 1.9e-3, (3, 1): 1.2e-3, (1, 1): 1.6e-3}
    quiet[12, 1] = 1.3e-3

    def seconds(size, count):
        return quiet[size, count] * (rng.uniform(1.2, 5.0) if rng.random() < 0.4 else rng.uniform(1.0, 1.05))

    assert chosen_by_time(monkeypatch, seconds) == (3, 2)


@pytest.mark.parametrize(("one", "threads"), [(1.1e-3, 1), (1.3e-3, 2)])
def test_several_threads_have_to_save_something(monkeypatch, one, threads):
    """They wait for each other wherever one of them is kept from its CPU."""
    quiet = {(6, 2): 2e-3, (3, 2): 1e-3, (1, 2): 2e-3, (3, 1): one, (12, 1): 2e-3}
    assert chosen_by_time(monkeypatch, lambda *plan: quiet[plan]) == (3, threads)


@pytest.mark.parametrize(("size", "kept"), [(B, False), (3, True)])
def test_blas_has_one_thread_beside_tiles_on_one_thread(monkeypatch, by_numpy, size, kept):
    """All samples at once leave their products to BLAS's threads; those of a tile are too small to share."""
    monkeypatch.setattr(regions.Tiles, "_fastest", lambda tiles, arrays: run(tiles._scheduled(size, 1), arrays))
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    running, work = [], regions.Schedule._work

    def noted(*args):
        running.append(regions.blas()._running > 0)
        work(*args)

    monkeypatch.setattr(regions.Schedule, "_work", noted)
    f(np.ones((B, D)))
    assert running == [kept]


def test_small_programs_are_left_whole(monkeypatch):
    monkeypatch.setattr(tiling, "WORTH", 1 << 22)
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    f(np.ones((B, D)))
    assert not executor.Executor(f.program(np.ones((B, D))))._tiles


def test_the_code_of_tiles_can_be_read():
    f = mj.compile(mj.jacobian(network(np.random.default_rng(0))))
    x = np.ones((B, D))
    assert "chosen by time on the first call" in f.source(x)
    f(x)
    assert "tiles of 1 of 12 samples, threads: 2" in f.source(x)
    assert f.source(x).count("def run(") + f.source(x).count("# machine code:\n") == 2


def test_what_follows_its_neighbours_along_the_samples_is_not_tiled():
    x = np.random.default_rng(0).normal(size=(B, D))
    f = lambda x: np.unwrap(np.sin(x) * 9.0, axis=0) * 2.0
    same(mj.compile(f)(x), f(x), rtol=1e-13)


@pytest.mark.parametrize("seconds", [0.02, 0.1])
def test_a_long_call_of_the_candidates_behind_the_first_is_made_once(monkeypatch, seconds):
    """The first one had everything compiled; one call of 0.05 s tells as much of the others as two."""
    calls = []
    chosen_by_time(monkeypatch, lambda size, count: calls.append((size, count)) or seconds)
    often = {plan: calls.count(plan) for plan in calls}
    if seconds < regions.ENOUGH:
        assert min(often.values()) > 2
    else:
        assert often.pop((6, 2)) == 2
        assert set(often.values()) == {1}
