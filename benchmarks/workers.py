"""Each library in a process of its own, asleep in a read until it is asked to check one of its ways or to take a turn.

A request is a line of JSON, and so is its answer. A worker can be asked by hand:
`echo '{"do": "ways", "workload": "thread"}' | python benchmarks/table.py --worker torch`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree
from numpy._core import _multiarray_umath
from ways import Call, Workload

import minijac as mj
from minijac.demo.forum import seconds_of, torch
from minijac.program.cpu import fusion
from minijac.program.cpu.native import llvm

Turn = Callable[[], Any]

# Jitted reductions of JAX 0.10.2 are wrong on some workloads (a quarter off) without this.
XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
LIBRARIES = ("minijac", "torch", "torch.compile", "JAX", "JAX as shipped")
"""Each has a process, and its turn in this order; JAX has two, one with the flag and one without."""
EAGER, COMPILED, NUMPY_ALONE = "minijac", "minijac compiled", "minijac compiled, NumPy alone"
STRUCTURED = ", structured"
SLOW = 0.5
"""Seconds of a call that is not repeated to see how long it takes."""
ANSWER_SECONDS = 300
"""What one request may take, torch's compiler and all."""


# -- in the worker -----------------------------------------------------------------------------------------------------
class Way(NamedTuple):
    """One way to a workload's derivative."""

    library: str
    """minijac, torch, JAX, or "by hand", which is shown and not counted."""
    make: Callable[[], Turn]
    """The call, compiled where it is; its first call is the caller's."""


def serve(library: str, workloads: Mapping[str, Workload]) -> None:
    """Answer until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    bench = Bench(library, workloads)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": getattr(bench, request.pop("do"))(**request)}
        except Exception as error:  # a peer's compiler may raise anything, and its other ways go on
            message = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {message[0][:200]}"}
        print(json.dumps(answer), file=answers, flush=True)


class Bench:
    """A library's ways to one workload at a time; what a request needs and is not there yet is made."""

    def __init__(self, library: str, workloads: Mapping[str, Workload]) -> None:
        self.library = library
        self.workloads = workloads
        self.workload: Workload | None = None
        self.found: dict[str, Way] = {}
        self.turns: dict[str, Turn] = {}
        begin(library)

    def ways(self, workload: str) -> dict[str, str]:
        """Names, and the library that each counts for; the workload before is forgotten."""
        if self.library == "torch.compile":
            torch.compiler.reset()  # after some shapes of one function torch compiles no more of them
        self.turns = {}
        self.workload = self.workloads[workload]
        self.found = ways_of(self.library, self.workload)
        return {name: way.library for name, way in self.found.items()}

    def check(self, workload: str, way: str, truth: str) -> dict[str, float]:
        """The first two calls, compared as a whole (the second is another code path), and how long a call takes."""
        self._hold(workload)
        assert self.workload is not None
        start = time.perf_counter()
        turn = self.found[way].make()
        result = turn()
        first = time.perf_counter() - start
        with np.load(truth) as stored:
            exact = [stored[key] for key in stored]
        errors = [largest_error(leaves_of(result, self.workload.arrange), exact)]
        start = time.perf_counter()
        result = turn()
        once = time.perf_counter() - start
        errors.append(largest_error(leaves_of(result, self.workload.arrange), exact))
        if once < SLOW:
            once = min(seconds_of(turn) for _ in range(3))
        self.turns[way] = turn
        error = math.nan if any(map(math.isnan, errors)) else max(errors)
        return {"first_call_s": first, "relative_error": error, "once_s": once}

    def turn(self, workload: str, way: str, seconds: float) -> dict[str, Any]:
        """A cold call, and the median of calls that follow it for so long."""
        self._hold(workload)
        if way not in self.turns:  # this process was begun anew
            self.turns[way] = self.found[way].make()
            self.turns[way]()
        turn, steady = self.turns[way], []
        cold = seconds_of(turn)
        end = time.perf_counter() + seconds
        while not steady or time.perf_counter() < end:
            steady.append(seconds_of(turn))
        return {"cold_s": cold, "steady_s": statistics.median(steady), "calls": len(steady)}

    def _hold(self, workload: str) -> None:
        if self.workload is not self.workloads[workload]:
            self.ways(workload)


def begin(library: str) -> None:
    """Import the library and call it, so that no workload's first call pays for that."""
    zeros = np.zeros((2, 2), np.float32)
    if library == "minijac":
        if llvm.available() and not avx512():
            features = llvm._features()
            features.update(dict.fromkeys([name for name in features if name.startswith("avx512")], False))
        mj.compile(mj.jacobian(np.tanh))(zeros)
    elif library == "torch":
        torch.func.vmap(torch.func.jacrev(torch.tanh))(in_torch(zeros))
    elif library == "torch.compile":
        torch.compile(torch.tanh, dynamic=False)(in_torch(zeros))
    else:
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jitted(Call(jax.numpy.tanh, (in_jax(zeros),)))()


def ways_of(library: str, workload: Workload) -> dict[str, Way]:
    """All that are this process's to try."""
    data = workload.data()
    if library == "minijac":
        return minijac_ways(workload, data)
    if library.startswith("JAX"):
        suffix, arrays = library.removeprefix("JAX").replace(" ", ", ", 1), in_jax(data)
        calls = {"JAX": workload.jax(arrays), "by hand": workload.jax_by_hand(arrays)}
        return {
            f"JAX {name}{suffix}": Way(counts, partial(jitted, call))
            for counts, named in calls.items()
            for name, call in named.items()
        }
    tensors = in_torch(data)
    calls = {"torch": workload.torch(tensors), "by hand": workload.torch_by_hand(tensors)}
    compiles = library == "torch.compile"
    return {
        f"{library} {name}": Way(counts, partial(compiled_by_torch if compiles else called, call))
        for counts, named in calls.items()
        for name, call in named.items()
        if not compiles or counts == "by hand" or name in workload.compiled
    }


def minijac_ways(workload: Workload, data: Any) -> dict[str, Way]:
    """Eager and compiled, and compiled without machine code."""
    call = workload.minijac(data)
    makes = {
        EAGER: partial(called, call),
        COMPILED: partial(compiled, call),
        NUMPY_ALONE: partial(numpy_alone, call),
    }
    if workload.structured_too is not None:
        call = workload.structured_too(data)
        makes |= {EAGER + STRUCTURED: partial(called, call), COMPILED + STRUCTURED: partial(compiled, call)}
    return {name: Way("minijac", make) for name, make in makes.items()}


def called(call: Call) -> Turn:
    return partial(call.function, *call.arguments)


def compiled(call: Call) -> Turn:
    return partial(mj.compile(call.function), *call.arguments)


def numpy_alone(call: Call) -> Turn:
    """Compiled as where llvmlite is not installed."""
    turn = compiled(call)
    fusion.ENABLED = False
    try:
        turn()
    finally:
        fusion.ENABLED = True
    return turn


def compiled_by_torch(call: Call) -> Turn:
    return partial(torch.compile(call.function, dynamic=False), *call.arguments)


def jitted(call: Call) -> Turn:
    import jax

    function, arguments, wait = jax.jit(call.function), call.arguments, jax.block_until_ready
    return lambda: wait(function(*arguments))


def in_torch(data: Any) -> Any:
    return optree.tree_map(torch.from_numpy, data)


def in_jax(data: Any) -> Any:
    import jax

    return optree.tree_map(jax.numpy.asarray, data)


def leaves_of(result: Any, arrange: Callable[[Any], Any] = lambda leaf: leaf) -> list[Any]:
    """The arrays of a result of any library, dense."""
    leaves = optree.tree_leaves(result)
    arrays = [leaf.todense() if isinstance(leaf, mj.Jacobian) else leaf for leaf in leaves]
    return [arrange(a.detach().numpy() if hasattr(a, "detach") else np.asarray(a)) for a in arrays]


def largest_error(found: Sequence[Any], truth: Sequence[Any]) -> float:
    """Largest error in any array, relative to its largest entry."""
    if [a.shape for a in found] != [a.shape for a in truth]:
        raise ValueError(f"shapes {[a.shape for a in found]} in place of {[a.shape for a in truth]}")
    errors = [float(np.max(np.abs(a - b))) / float(np.max(np.abs(b))) for a, b in zip(found, truth, strict=True)]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


# -- whoever asks ------------------------------------------------------------------------------------------------------
class WorkerError(Exception):
    """What a library raised, or how its process ended."""


class Worker:
    """A library's process, begun when it is first asked, and again after it has died."""

    def __init__(self, library: str, script: Path, folder: Path) -> None:
        self.library = library
        self.command = [sys.executable, str(script), "--worker", library]
        # torch's compiler finds nothing of an earlier run
        self.environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
        if library == "JAX":
            self.environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAG}".strip()
        self.process: subprocess.Popen[str] | None = None
        self.words = folder / f"{library}.txt"
        """What the process writes beside its answers."""

    def ask(self, do: str, within: float = ANSWER_SECONDS, **details: Any) -> Any:
        """The answer to a request.

        Raises WorkerError where the library raised, its process ended, or took longer than that many seconds.
        """
        if self.process is None:
            self._begin()
        process, start = self.process, time.monotonic()
        alarm = threading.Timer(within, kill, [process])
        alarm.start()
        try:
            print(json.dumps({"do": do, **details}), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            alarm.cancel()
        if not line:
            late = time.monotonic() - start > within
            words = f"takes more than {within:.0f} s" if late else self._last_words()
            self.end()
            raise WorkerError(words)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["answer"]

    def _begin(self) -> None:
        """In a session of its own, so that what a compiler starts ends with it."""
        with self.words.open("w") as words:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env=self.environment,
                text=True,
                start_new_session=True,
            )

    def _last_words(self) -> str:
        code = self.process.wait()
        last = (self.words.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
        return f"its process ended with {signal.Signals(-code).name if code < 0 else code}: {last[:200]}"

    def end(self) -> None:
        """Whatever it is doing."""
        if self.process is not None:
            kill(self.process)
            self.process.communicate()
            self.process = None


def kill(process: subprocess.Popen[str]) -> None:
    """It, and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# -- the instructions that all of them may use -------------------------------------------------------------------------
def avx512() -> bool:
    """Whether this CPU has AVX-512, and this process does not hide it."""
    return _multiarray_umath.__cpu_features__.get("AVX512F", False) and not AVX2.items() <= os.environ.items()


AVX2 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}
"""With NumPy's and XLA's own settings, and LLVM's features in `begin`: nobody uses AVX-512."""


def hide_avx512() -> None:
    """Begin this process anew, if need be, as on a CPU that has no more than AVX2."""
    if not avx512():
        return
    features = _multiarray_umath.__cpu_features__
    wider = [name for name in _multiarray_umath.__cpu_dispatch__ if "512" in name or name == "X86_V4"]
    disabled = " ".join(name for name in wider if features.get(name))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2".strip()
    os.environ.update(AVX2 | {"NPY_DISABLE_CPU_FEATURES": disabled, "XLA_FLAGS": flags})
    os.execv(sys.executable, sys.orig_argv)


def instructions() -> str:
    """What the libraries may use of the CPU's, in words."""
    features = _multiarray_umath.__cpu_features__
    if avx512():
        return "AVX-512"
    hidden = " (AVX-512 hidden)" if features.get("AVX512F") else ""
    return f"AVX2{hidden}" if features.get("AVX2") else platform.machine()
