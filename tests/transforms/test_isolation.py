"""A call leaves nothing behind: no open trace after an exception, none for other threads, no memory, no imports."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    IN,
    close,
    net,
    net_jacobian,
    random,
)

import minijac as mj

# --- exceptions, threads, memory, imports -------------------------------------------------------------------


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("transform", ["jacobian", "jvp", "vjp", "grad", "linearize"])
def test_an_exception_in_f_passes_through_and_leaves_no_trace_open(transform, kind):
    x = random(4, 3)
    error = kind("mine")
    kept = []

    def bad(t):
        kept.append(np.sin(t))
        raise error

    calls = {
        "jacobian": lambda: mj.jacobian(bad)(x),
        "jvp": lambda: mj.jvp(bad, (x,), (x,)),
        "vjp": lambda: mj.vjp(bad, x),
        "grad": lambda: mj.grad(bad)(x),
        "linearize": lambda: mj.linearize(bad, x),
    }
    with pytest.raises(kind) as caught:
        calls[transform]()
    assert caught.value is error
    assert type(np.sin(x)) is np.ndarray
    close(mj.jacobian(np.sin)(x), np.cos(x)[:, :, None] * np.eye(3))
    with pytest.raises(mj.TraceError):
        kept[0] + 1.0


def test_an_exception_of_an_inner_transformation_does_not_disturb_the_outer():
    x = random(4, 3)

    def bad(t):
        np.sin(t)
        raise ValueError("mine")

    def f(t):
        with pytest.raises(ValueError, match="mine"):
            mj.jacobian(bad)(t)
        return t**2

    close(mj.jacobian(f)(x), 2 * x[:, :, None] * np.eye(3))


def test_threads_do_not_see_each_others_traces():
    barrier = threading.Barrier(2, timeout=20)

    def work(k):
        def f(x):
            h = np.sin(k * x)
            barrier.wait()
            return mj.jacobian(lambda t: t**3)(h).sum(-1) * x

        for _ in range(10):
            x = random(4, 3, seed=k)
            h = np.sin(k * x)
            expected = 3 * h**2 + 6 * h * np.cos(k * x) * k * x
            close(mj.jacobian(f)(x), expected[:, :, None] * np.eye(3))
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (1, 2))) == [True, True]


def test_a_pullback_may_be_used_in_another_thread():
    x = random(4, IN)
    y, pullback = mj.vjp(net, x)
    with ThreadPoolExecutor(1) as pool:
        (x_bar,) = pool.submit(pullback, np.ones_like(y)).result()
    close(x_bar, net_jacobian(x).sum(1))


REPEATED = {
    "jacobian": lambda x: mj.jacobian(np.sin)(x),
    "grad": lambda x: mj.grad(lambda t: np.sin(t).sum())(x),
    "pullback": lambda x: mj.vjp(np.sin, x)[1](x),
    "nested": lambda x: mj.jacobian(mj.jacobian(np.sin))(x),
}


@pytest.mark.parametrize("call", REPEATED.values(), ids=REPEATED.keys())
def test_a_thousand_calls_do_not_grow_memory(call):
    x = random(2, 3)
    for _ in range(100):
        call(x)
    gc.collect()
    tracemalloc.start()
    try:
        call(x)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            call(x)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 50_000


def test_importing_and_using_minijac_imports_nothing_optional():
    code = (
        "import sys, numpy as np, minijac as mj\n"
        "mj.jacobian(lambda x: np.tanh(x) @ np.ones((3, 2)))(np.ones((4, 3)))\n"
        "optional = {'torch', 'jax', 'scipy', 'cupy', 'matplotlib', 'tqdm'}\n"
        "print(sorted(optional & set(sys.modules)))\n"
    )
    root = Path(mj.__file__).resolve().parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do otherwise")
def test_memory_that_a_call_frees_is_there_for_the_next_one():
    """Arrays of megabytes come from the heap, which is kept, and not page by page from the system each time."""
    code = """
import minijac, numpy as np
array = np.empty(2**22, np.uint8)
first, last = next(line.split()[0].split("-") for line in open("/proc/self/maps") if line.rstrip().endswith("[heap]"))
print(int(first, 16) <= array.ctypes.data < int(last, 16))
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "True"
