"""A GPU in plain C: the kernels that are generated for CUDA, compiled by the machine's C compiler, thread by thread.

The text of a kernel stays as it is; the few words of CUDA that it uses are given another meaning. The threads of a
block are coroutines that change at each barrier, so that what they share is tested as well. A vector that is not where
vectors have to be faults, as it does on the device.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np

from minijac.program.gpu.gemm import Gemm
from minijac.program.gpu.math import PRELUDE

COMPILER = shutil.which("cc")
_one_at_a_time = Lock()  # the place in the grid is one for all
WHY_NOT = "needs a C compiler named cc"
_FOLDER = Path(tempfile.gettempdir()) / f"minijac-kernels-{os.environ.get('PYTEST_XDIST_TESTRUNUID') or uuid4().hex}"
"""One for all workers of a run, which need many of the same."""

HEADER = r"""
#define _GNU_SOURCE
#include <math.h>
#include <stdbool.h>
#define DEVICE static inline __attribute__((unused))
#define KERNEL static void
#define SHARED static
#define SYNC barrier()
#define UNROLL
#define INFINITE HUGE_VAL
#define NOT_A_NUMBER NAN
#define VECTOR(NAME, T, W) typedef struct __attribute__((aligned(sizeof(T) * W))) { T v[W]; } NAME
#define atomicAdd(p, v) (*(p) += (v))
#define cyl_bessel_i0(x) bessel(0, x)
#define cyl_bessel_i1(x) bessel(1, x)
#define cyl_bessel_i0f(x) ((float)bessel(0, x))
#define cyl_bessel_i1f(x) ((float)bessel(1, x))
#define normcdff(x) ((float)normcdf(x))
#define normcdfinvf(x) ((float)normcdfinv(x))
#define erfinvf(x) ((float)erfinv(x))
#define erfcinvf(x) ((float)erfcinv(x))
#define erfcxf(x) ((float)erfcx(x))
extern struct place { int x, y; } threadIdx, blockIdx, blockDim;
void barrier(void);
double normcdf(double x), erfinv(double y), erfcinv(double y), normcdfinv(double y), erfcx(double x);
double bessel(int order, double x);
"""
"""The words of CUDA, ahead of each kernel's text."""

RUNTIME = r"""
#include <stdlib.h>
#include <ucontext.h>

/* the functions that CUDA has and C lacks */
double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
double erfinv(double y) {
  if (!(fabs(y) < 1)) return fabs(y) == 1 ? y * HUGE_VAL : NAN;
  double l = log1p(-y * y), a = 4.3307467508 + l / 2, x = copysign(sqrt(sqrt(a * a - l / 0.147) - a), y);
  for (int k = 0; k < 6; ++k) x -= (erf(x) - y) / (M_2_SQRTPI * exp(-x * x));
  return x;
}
double erfcinv(double y) {
  double x = erfinv(1 - y);
  for (int k = 0; k < 4 && y < 0.5 && y > 0; ++k) x += (erfc(x) - y) / (M_2_SQRTPI * exp(-x * x));
  return x;
}
double normcdfinv(double y) { return -M_SQRT2 * erfcinv(2 * y); }
double erfcx(double x) {
  double s = 1 / (x * x);
  return x < 20 ? exp(x * x) * erfc(x) : M_2_SQRTPI / 2 / x * (1 - 0.5 * s + 0.75 * s * s - 1.875 * s * s * s);
}
double bessel(int order, double x) {
  double term = order ? x / 2 : 1, sum = term;
  for (int k = 1; k < 200; ++k) sum += term *= x * x / 4 / (k * (k + order));
  return sum;
}

/* blocks */
struct place threadIdx, blockIdx, blockDim;
static ucontext_t scheduler, *running;
static void (*body)(void**);
static void** arguments;
static bool finished;
static void enter(void) { body(arguments); finished = true; swapcontext(running, &scheduler); }
void barrier(void) { swapcontext(running, &scheduler); }
static void block_of_coroutines(int threads) {
  enum { STACK = 1 << 15 };
  static char* stacks;
  if (!stacks) stacks = malloc((size_t)STACK * 1024);
  static ucontext_t contexts[1024];
  static bool done[1024];
  for (int t = 0; t < threads; ++t) {
    getcontext(&contexts[t]);
    contexts[t].uc_stack.ss_sp = stacks + (size_t)STACK * t;
    contexts[t].uc_stack.ss_size = STACK;
    contexts[t].uc_link = 0;
    makecontext(&contexts[t], enter, 0);
    done[t] = false;
  }
  for (int left = threads; left;)
    for (int t = 0; t < threads; ++t) {
      if (done[t]) continue;
      threadIdx.x = t, running = &contexts[t], finished = false;
      swapcontext(&scheduler, &contexts[t]);
      if (finished) done[t] = true, --left;
    }
}
void launch(void (*kernel)(void**), void** pointers, int columns, int rows, int threads, int barriers) {
  body = kernel, arguments = pointers, blockDim.x = threads;
  for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < columns; ++blockIdx.x)
      if (barriers) block_of_coroutines(threads);
      else for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(pointers);
}
"""

Launch = Callable[[Sequence[int], tuple[int, int], int, Sequence[Any]], None]


def compiled(source: str) -> dict[str, Launch]:
    """The kernels of a module by name: each takes addresses, the grid, the threads of a block, and numbers."""
    assert source.startswith(PRELUDE)
    source = source.removeprefix(PRELUDE)
    found = re.findall(r"KERNEL (\w+)\(([^)]*)\) \{", source)
    calls = []
    for name, parameters in found:
        given = [
            f"a[{k}]" if "*" in parameter else f"*({parameter.rsplit(' ', 1)[0]}*)a[{k}]"
            for k, parameter in enumerate(parameters.split(", "))
        ]
        calls.append(f"void call_{name}(void** a) {{ {name}({', '.join(given)}); }}")
    library = _library("\n".join([source, *calls]))
    barriers = {name: "SYNC" in _body_of(source, name) for name, _ in found}
    return {name: _launcher(library, name, parameters.split(", "), barriers[name]) for name, parameters in found}


def elementwise(
    operation: str, preamble: str, inputs: Sequence[tuple[str, str]], outputs: Sequence[tuple[str, str]]
) -> Callable[[Sequence[Any], Sequence[Any]], None]:
    """The body of a `cupy.ElementwiseKernel` over contiguous arrays; parameters are pairs (C type, name)."""
    loads = [f"const {T} {name} = (({T}*)a[{k}])[i];" for k, (T, name) in enumerate(inputs)]
    stores = [f"(({T}*)a[{k}])[i] = {name};" for k, (T, name) in enumerate(outputs, len(inputs))]
    declared = [f"{T} {name};" for T, name in outputs]
    body = "\n".join([*loads, *declared, f"{operation};", *stores])
    loop = f"void run(void** a, long long n) {{\nfor (long long i = 0; i < n; ++i) {{\n{body}\n}}\n}}"
    library = _library("\n".join([preamble.removeprefix(PRELUDE), loop]))

    def run(given: Sequence[Any], made: Sequence[Any]) -> None:
        arrays = [*given, *made]
        assert all(x.flags.c_contiguous and x.shape == made[0].shape for x in arrays)
        library.run((ctypes.c_void_p * len(arrays))(*[x.ctypes.data for x in arrays]), ctypes.c_longlong(made[0].size))

    return run


def _body_of(source: str, name: str) -> str:
    return source.split(f"KERNEL {name}(")[1].split("\n}\n")[0]


def _library(text: str) -> Any:
    _runtime()  # has to be there before what calls it
    return _loaded(text)


@cache
def _runtime() -> Any:
    """What all kernels call, compiled once."""
    return _loaded(RUNTIME, ctypes.RTLD_GLOBAL)


def _loaded(text: str, mode: int = ctypes.DEFAULT_MODE) -> Any:
    path = _FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.so"
    if not path.exists():
        _FOLDER.mkdir(exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}.so")
        own.with_suffix(".c").write_text(HEADER + text)
        command = [str(COMPILER), "-std=gnu11", "-O1", "-fwrapv", "-w", "-shared", "-fPIC", "-o", str(own)]
        done = subprocess.run([*command, str(own.with_suffix(".c")), "-lm"], capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stderr[:3000]}\n{text[:6000]}"
        own.replace(path)
    return ctypes.CDLL(str(path), mode)


TYPES = {"double": ctypes.c_double, "long long": ctypes.c_longlong, "unsigned long long": ctypes.c_ulonglong}


def _launcher(library: Any, name: str, parameters: Sequence[str], barriers: bool) -> Launch:
    call = ctypes.cast(getattr(library, f"call_{name}"), ctypes.c_void_p)
    types = [TYPES[p.rsplit(" ", 1)[0]] for p in parameters if "*" not in p]

    def launch(pointers: Sequence[int], grid: tuple[int, int], threads: int, numbers: Sequence[Any] = ()) -> None:
        held = [kind(number) for kind, number in zip(types, numbers, strict=True)]
        addresses = [*pointers, *(ctypes.addressof(each) for each in held)]
        assert len(addresses) == len(parameters), f"{name} takes {len(parameters)} arguments, got {len(addresses)}"
        array = (ctypes.c_void_p * len(addresses))(*addresses)
        with _one_at_a_time:
            _runtime().launch(call, array, grid[0], grid[1], threads, int(barriers))

    return launch


# -- the runtime that the executor runs on in the tests ----------------------------------------------------------------
class Device:
    """A `minijac.program.gpu.runtime.CupyRuntime` on the CPU that keeps a list of what it was asked for."""

    workspace = 4096

    def __init__(self, why_no_graphs: str | None = None, refuses_capture: bool = False) -> None:
        self.why_no_graphs = why_no_graphs
        self.refuses_capture = refuses_capture
        self.calls: list[str] = []
        self.sources: list[str] = []
        self.kept: list[Any] = []
        self.capturing = False

    @contextmanager
    def device(self) -> Iterator[None]:
        yield

    def said(self, what: str) -> None:
        if not self.capturing:  # a graph is one launch
            self.calls.append(what)

    def order(self) -> None:
        self.calls.append("order")

    def block(self, nbytes: int) -> Any:
        assert not self.capturing, "memory is allocated while a graph is captured"
        raw = np.full(nbytes + 64, 0xA5, np.uint8)  # what nobody has written shows
        start = -raw.ctypes.data % 64
        self.kept.append(raw)
        return raw[start : start + nbytes]

    def empty(self, shape: Any, dtype: Any) -> Any:
        nbytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        return self.block(nbytes).view(dtype).reshape(shape)

    def address(self, array: Any) -> int:
        return int(array.__array_interface__["data"][0])

    def array(self, block: Any, offset: int, shape: Any, strides: Any, dtype: Any) -> Any:
        if 0 in shape:
            return np.empty(shape, dtype)
        memory = (ctypes.c_char * np.dtype(dtype).itemsize).from_address(self.address(block) + offset)
        memory.block = block  # which lives as long as an array over it
        return np.lib.stride_tricks.as_strided(np.ndarray((), dtype, memory), shape, strides)

    def upload(self, array: Any) -> Any:
        copy = self.empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def as_array(self, value: Any) -> Any:
        return np.asarray(value)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self.calls.append("copy")
        ctypes.memmove(target, source, nbytes)

    def kernels(self, source: str, names: Sequence[str]) -> list[Callable[..., None]]:
        self.sources.append(source)
        found = compiled(source)

        def counted(name: str) -> Callable[..., None]:
            def launch(*arguments: Any) -> None:
                self.said("kernel")
                found[name](*arguments)

            return launch

        return [counted(name) for name in names]

    def gemm(self, call: Gemm, addresses: tuple[int, int, int], tf32: bool, workspace: int) -> Callable[[], None]:
        assert workspace

        def turn() -> None:
            self.said("gemm")
            gemm_strided_batched(call, addresses)

        return turn

    def captured(self, turns: Sequence[Callable[[], None]]) -> Callable[[], None]:
        if self.refuses_capture:
            raise RuntimeError("no graphs here")
        self.calls.append("capture")

        def replay() -> None:
            self.calls.append("graph")
            self.capturing = True
            for turn in turns:
                turn()
            self.capturing = False

        return replay


def gemm_strided_batched(call: Gemm, addresses: tuple[int, int, int]) -> None:
    """cublasGemmStridedBatchedEx with alpha = 1 and beta = 0: column-major, C = op(A) op(B)."""
    (m, n, k), dtype = call.sizes, np.dtype(float if call.double else np.float32)

    def matrices(which: int, rows: int, columns: int) -> Any:
        leading, stride, itemsize = call.leading[which], call.strides[which], dtype.itemsize
        assert leading >= max(1, rows), "leading dimension"
        memory = (ctypes.c_char * itemsize).from_address(addresses[which])
        strides = (stride * itemsize, itemsize, leading * itemsize)
        return np.lib.stride_tricks.as_strided(np.ndarray((), dtype, memory), (call.batch, rows, columns), strides)

    a = matrices(0, *((k, m) if call.transposed[0] else (m, k)))
    b = matrices(1, *((n, k) if call.transposed[1] else (k, n)))
    a, b = (x.swapaxes(1, 2) if t else x for x, t in zip((a, b), call.transposed, strict=True))
    assert call.batch == 1 or call.strides[2] >= n * call.leading[2] or call.strides[2] > 0
    matrices(2, m, n)[...] = a @ b
