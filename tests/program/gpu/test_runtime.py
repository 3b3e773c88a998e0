"""The seam to CUDA: names and signatures are those of the real packages, and a capture records what it is told to.

The runtime runs on a CUDA of the tests' own: memory on the host, kernels on the C compiler, and streams whose captures
record launches in place of carrying them out, as CUDA's do. Whatever it calls is looked up in the real packages first.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated import COMPILER, WHY_NOT, compiled, gemm_strided_batched
from helpers import net, random

import minijac as mj
from minijac.program.entry import record
from minijac.program.gpu import runtime as seam
from minijac.program.gpu.executor import GraphExecutor
from minijac.program.gpu.gemm import Gemm
from minijac.program.ir import Program

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: pip install minijac[cuda12]")


def signature_of(text: str) -> Signature:
    """The signature in the first line of a compiled function's documentation: ``name(int a, b=None) -> int``."""
    (found,) = re.findall(r"^[\w.]*\((.*?)\)(?: ->.*)?$", text.strip().splitlines()[0])
    parameters, kind = [], Parameter.POSITIONAL_OR_KEYWORD
    for item in filter(None, (item.strip() for item in found.replace("\\*", "*").split(","))):
        if item == "*":
            kind = Parameter.KEYWORD_ONLY
            continue
        name, _, default = item.partition("=")
        name = name.split()[-1]
        if name.startswith("**"):
            parameters.append(Parameter(name[2:], Parameter.VAR_KEYWORD))
        else:
            parameters.append(Parameter(name, kind, default=default if default else Parameter.empty))
    return Signature(parameters)


def checked(real: Any, function: Callable[..., Any], method: bool = False) -> Callable[..., Any]:
    """`function`, which may only be called as the real one may."""
    signature = signature_of(real.__doc__)
    if method and list(signature.parameters)[:1] == ["self"]:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])

    def called(*args: Any, **kwargs: Any) -> Any:
        signature.bind(*args, **kwargs)
        return function(*args, **kwargs)

    return called


# --- a CUDA of the tests' own -------------------------------------------------------------------------------------


class Pointer:
    """A MemoryPointer: memory, and a place in it."""

    def __init__(self, memory: Any, ptr: int) -> None:
        self.mem, self.ptr = memory, ptr

    def __add__(self, offset: int) -> Pointer:
        return Pointer(self.mem, self.ptr + offset)


class Array:
    """An array of CuPy's over memory of the host."""

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"
    ) -> None:
        data = memptr
        if data is None:
            memory = np.zeros(max(1, int(np.prod(shape, dtype=int))) * np.dtype(dtype).itemsize + 512, np.uint8)
            data = Pointer(memory, -(-memory.ctypes.data // 512) * 512)
        self.data, self.shape, self.dtype = data, tuple(np.atleast_1d(shape)) if shape != () else (), np.dtype(dtype)
        cell = (ctypes.c_char * self.dtype.itemsize).from_address(data.ptr)
        if strides is None:
            strides = np.empty(self.shape, np.int8).strides
            strides = tuple(s * self.dtype.itemsize for s in strides)
        self.host = np.lib.stride_tricks.as_strided(np.ndarray((), self.dtype, cell), self.shape, strides)

    strides = property(lambda self: self.host.strides)
    nbytes = property(lambda self: self.host.nbytes)
    flags = property(lambda self: self.host.flags)

    def __setitem__(self, index: Any, value: Any) -> None:
        Cuda.done.append("setitem")
        self.host[index] = value.host

    def reshape(self, shape: Any) -> Array:
        assert shape == self.shape
        return self


class Stream:
    """CuPy's stream. While it captures, what is put on it is kept for the graph and not carried out."""

    current: Stream
    count = 0

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        Stream.count += 1
        self.ptr, self.kept = Stream.count, None  # type: ignore[var-annotated]
        self.begin_capture = checked(cupy.cuda.Stream.begin_capture, self._begin, method=True)
        self.end_capture = checked(cupy.cuda.Stream.end_capture, self._end, method=True)
        self.record = checked(cupy.cuda.Stream.record, lambda: Cuda.done.append(f"event on {self.ptr}"), method=True)
        self.wait_event = checked(
            cupy.cuda.Stream.wait_event, lambda event: Cuda.done.append(f"{self.ptr} waits"), True
        )

    def __enter__(self) -> Stream:
        self.before, Stream.current = Stream.current, self
        return self

    def __exit__(self, *_: object) -> None:
        Stream.current = self.before

    def _begin(self) -> None:
        self.kept = []

    def _end(self) -> Any:
        kept, self.kept = self.kept, None

        def launch() -> None:
            Cuda.done.append(f"graph of {len(kept)}")
            for work in kept:
                work()

        return SimpleNamespace(launch=checked(cupy.cuda.Graph.launch, launch, method=True))


class Cuda:
    """What was carried out, and the namespaces that stand for the packages."""

    done: list[str] = []  # noqa: RUF012 - emptied for each test

    @staticmethod
    def put(what: str, work: Callable[[], Any]) -> None:
        stream = Stream.current
        if stream.kept is not None:
            stream.kept.append(work)
        else:
            Cuda.done.append(what)
            work()


def _empty(shape: Any, dtype: Any = float) -> Array:
    assert Stream.current.kept is None, "memory is allocated while a stream captures"
    return Array(shape, dtype)


class Module:
    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        assert all("fast" not in option for option in options)
        self.functions = compiled(code)

    def get_function(self, name: str) -> Callable[..., None]:
        def launch(grid: Any, block: Any, args: Any) -> None:
            pointers = [int(x) for x in args if isinstance(x, np.uintp) and not isinstance(x, np.float64)]
            numbers = list(args[len(pointers) :])
            Cuda.put("kernel", lambda: self.functions[name](pointers, grid, block[0], numbers))

        return checked(cupy.RawKernel.__call__, launch, method=True)


def _memcpy(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    assert (kind, stream) == (cupy.cuda.runtime.memcpyDeviceToDevice, Stream.current.ptr)
    Cuda.put("copy", lambda: ctypes.memmove(dst, src, size))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """CuPy and nvmath-python's bindings of cuBLAS, as far as the runtime may use them."""
    if COMPILER is None:
        pytest.skip(WHY_NOT)
    Stream.current = Stream(null=True)
    Cuda.done.clear()
    real = cupy.cuda

    class OnDevice:
        compute_capability = "90"
        assert hasattr(real.Device, "compute_capability")

        def __init__(self, n: int) -> None:
            self.id = n

        def __enter__(self) -> OnDevice:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    runtime = SimpleNamespace(
        memcpyAsync=checked(real.runtime.memcpyAsync, _memcpy), memcpyDeviceToDevice=real.runtime.memcpyDeviceToDevice
    )
    fake = SimpleNamespace(
        cuda=SimpleNamespace(
            Device=OnDevice,
            Stream=Stream,
            runtime=runtime,
            get_current_stream=checked(real.get_current_stream, lambda: Stream.current),
        ),
        empty=_empty,
        ndarray=Array,
        asarray=lambda x: x if isinstance(x, Array) else _uploaded(np.asarray(x)),
        RawModule=checked(cupy.RawModule, Module),
    )
    monkeypatch.setitem(__import__("sys").modules, "cupy", fake)
    return fake


def _uploaded(x: Any) -> Array:
    array = Array(x.shape, x.dtype)
    array.host[...] = x
    return array


class Bindings:
    """nvmath.bindings.cublas: the calls, with the real ones' parameters."""

    def __init__(self, real: Any) -> None:
        self.state: dict[str, Any] = {}
        for name in ("create", "set_stream", "set_workspace", "set_math_mode", "gemm_strided_batched_ex"):
            setattr(self, name, checked(getattr(real, name), getattr(self, f"_{name}")))

    def _create(self) -> int:
        return 7

    def _set_math_mode(self, handle: int, mode: int) -> None:
        self.state["math"] = mode

    def _set_stream(self, handle: int, stream_id: int) -> None:
        assert stream_id == Stream.current.ptr
        self.state["stream"], self.state["workspace"] = stream_id, None

    def _set_workspace(self, handle: int, workspace: int, size: int) -> None:
        self.state["workspace"] = size

    def _gemm_strided_batched_ex(
        self, handle: int, transa: int, transb: int, m: int, n: int, k: int, *rest: Any
    ) -> None:
        alpha, a, atype, lda, sa, b, _, ldb, sb, beta, c, _, ldc, sc, batch, compute, algo = rest
        assert (handle, self.state["stream"], algo) == (7, Stream.current.ptr, -1)
        assert self.state["workspace"], "captured matmuls may not allocate"
        number = ctypes.c_double if atype else ctypes.c_float
        assert (number.from_address(alpha).value, number.from_address(beta).value) == (1.0, 0.0)
        self.state["compute"] = compute
        call = Gemm((0, 0), (0,), bool(atype), (bool(transa), bool(transb)), (m, n, k), (lda, ldb, ldc), (sa, sb, sc),
                    (0, 0, 0), batch)  # fmt: skip
        Cuda.put("gemm", lambda: gemm_strided_batched(call, (a, b, c)))


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> Bindings:
    real = pytest.importorskip("nvmath.bindings.cublas", reason="nvmath-python is not installed", exc_type=ImportError)
    found = Bindings(real)
    monkeypatch.setattr(seam, "_nvmath", lambda: found)
    monkeypatch.setattr(seam, "_handles", SimpleNamespace())
    return found


# --- the runtime on it --------------------------------------------------------------------------------------------

X = random(6, 5, seed=1)


def on_cuda(function: Any, *arguments: Any, tf32: bool = False) -> GraphExecutor:
    return uploaded(record(function, arguments, {}).program, tf32)


def uploaded(program: Program, tf32: bool = False) -> GraphExecutor:
    """An executor of a program whose captured arrays are on the device."""
    values = [v._replace(content=_uploaded(v.content)) if v.kind == "captured" and v.content is not None else v
              for v in program.values]  # fmt: skip
    return GraphExecutor(program._replace(values=tuple(values)), seam.CupyRuntime(0), tf32)


def test_the_runtime_replays_graphs_that_it_captured(cuda, bindings):
    f = mj.jacobian(net)
    run = on_cuda(f, X)
    sequences = []
    for k in range(4):
        Cuda.done.clear()
        (J,) = run.run(_uploaded(X + k))
        sequences.append(list(Cuda.done))
        np.testing.assert_allclose(J.host, f(X + k), rtol=1e-12)
    assert "gemm" in sequences[0] and not any(each.startswith("graph") for each in sequences[0])
    assert sequences[2] == sequences[3] == ["copy", f"graph of {len(run.schedule.launches)}", "copy"]
    assert bindings.state["math"] == seam.DEFAULT_MATH


def test_the_precision_of_matmuls_is_said_in_each_call(cuda, bindings):
    compute = {}
    for dtype in (np.float32, np.float64):
        for tf32 in (False, True):
            x = X.astype(dtype)
            on_cuda(lambda x: x @ x.T, x, tf32=tf32).run(_uploaded(x))
            compute[np.dtype(dtype).name, tf32] = bindings.state["compute"]
    assert compute["float32", False] == 68
    assert compute["float32", True] == 77
    assert compute["float64", False] == compute["float64", True] == 70


def test_a_call_on_another_stream_waits_for_the_one_before(cuda, bindings):
    run = on_cuda(lambda x: np.sin(x) @ x.T, X)
    run.run(_uploaded(X))
    first = Stream.current
    Cuda.done.clear()
    with Stream() as other:
        run.run(_uploaded(X))
        assert Cuda.done[:2] == [f"event on {first.ptr}", f"{other.ptr} waits"]
        Cuda.done.clear()
        run.run(_uploaded(X))
        assert not any("event" in each for each in Cuda.done)


def test_a_failing_capture_is_ended(cuda, bindings):
    runtime = seam.CupyRuntime(0)
    ended = []

    class Ending(Stream):
        def _end(self) -> Any:
            ended.append(True)
            return super()._end()

    cuda.cuda.Stream = Ending

    def fails() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        runtime.captured([fails])
    assert ended


def test_what_cupy_is_called_for_reads_and_writes_planned_memory(cuda, bindings):
    program = record(lambda x: np.argsort(np.sin(x), axis=1) * 2.0, (X,), {}).program
    steps = tuple(
        step._replace(op=mj.tape.Op(step.op.name, _host_sort)) if step.op.name == "argsort" else step
        for step in program.instructions
    )
    run = uploaded(program._replace(instructions=steps))
    for k in range(3):
        (y,) = run.run(_uploaded(X + k))
        np.testing.assert_allclose(y.host, np.argsort(np.sin(X + k), axis=1) * 2.0, rtol=1e-14)
    assert [each.split()[0] for each in Cuda.done[-5:]] == ["copy", "graph", "setitem", "graph", "copy"]


def _host_sort(x: Array, **params: Any) -> Array:
    return _uploaded(np.argsort(x.host, **params))


def test_without_nvmath_the_program_says_how_to_get_it(cuda, monkeypatch):
    monkeypatch.setattr(seam, "_nvmath", lambda: "No module named 'nvmath'")
    with pytest.warns(RuntimeWarning, match=r"pip install minijac\[graphs12\]"):
        run = on_cuda(lambda x: x @ x.T, X)
    assert not run.report.captured


# --- the real packages --------------------------------------------------------------------------------------------


def test_constants_are_those_of_nvmath():
    cublas = pytest.importorskip(
        "nvmath.bindings.cublas", reason="nvmath-python is not installed", exc_type=ImportError
    )
    nvmath = pytest.importorskip("nvmath")
    assert seam.OPERATION == {False: cublas.Operation.N, True: cublas.Operation.T}
    assert seam.FLOAT32 == nvmath.CudaDataType.CUDA_R_32F
    assert seam.FLOAT64 == nvmath.CudaDataType.CUDA_R_64F
    assert seam.COMPUTE_32F == cublas.ComputeType.COMPUTE_32F
    assert seam.COMPUTE_32F_FAST_TF32 == cublas.ComputeType.COMPUTE_32F_FAST_TF32
    assert seam.COMPUTE_64F == cublas.ComputeType.COMPUTE_64F
    assert seam.DEFAULT_MATH == cublas.Math.DEFAULT_MATH
    assert seam.DEFAULT_ALGORITHM == cublas.GemmAlgo.DFALT


def test_both_bindings_of_the_matmul_take_the_same_arguments():
    """CuPy's module of cuBLAS cannot be imported without the library; its signatures stand in its file as text."""
    cublas = pytest.importorskip(
        "nvmath.bindings.cublas", reason="nvmath-python is not installed", exc_type=ImportError
    )
    spec = importlib.util.find_spec("cupy_backends.cuda.libs.cublas")
    assert spec is not None and spec.origin is not None
    text = re.search(rb"gemmStridedBatchedEx\([^)]*\)", Path(spec.origin).read_bytes())
    assert text is not None
    theirs = [name.replace("_", "").lower() for name in signature_of(text[0].decode()).parameters]
    ours = [name.replace("_", "").lower() for name in signature_of(cublas.gemm_strided_batched_ex.__doc__).parameters]
    assert theirs == ours
    assert len(ours) == 23


def test_what_else_is_used_of_cupy_is_there():
    for name in ("empty", "asarray", "ndarray", "RawModule"):
        assert hasattr(cupy, name)
    assert hasattr(cupy.RawModule, "get_function")
    assert hasattr(cupy.cuda.MemoryPointer, "__add__")
    assert list(signature_of(cupy.RawModule.__doc__).parameters)[:1] == ["code"]
    assert "options" in signature_of(cupy.RawModule.__doc__).parameters
    assert "non_blocking" in signature_of(cupy.cuda.Stream.__init__.__doc__ or "f(non_blocking)").parameters
    assert cupy.cuda.device.get_cublas_handle.__doc__.startswith("get_cublas_handle()")
    constructor = next(line for line in cupy.ndarray.__doc__.splitlines() if "__init__" in line)
    assert list(signature_of(constructor.strip()).parameters) == list(signature(Array).parameters)
