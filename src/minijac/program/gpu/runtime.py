"""The seam between the GPU executor and CUDA: memory and launches through CuPy, matmuls through cuBLAS.

CuPy's own wrappers of cuBLAS refuse to be captured in a graph, so matmuls go through the raw bindings of nvmath-python
where they are installed. Without them the same calls go through CuPy, and programs with matmuls are not captured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from .gemm import Gemm

__all__ = ["CupyRuntime", "Turn"]

Turn = Callable[[], None]

# cuBLAS's and CUDA's own numbers, the same in both bindings
OPERATION = {False: 0, True: 1}
"""CUBLAS_OP_N, CUBLAS_OP_T."""
FLOAT32, FLOAT64 = 0, 1
"""CUDA_R_32F, CUDA_R_64F."""
COMPUTE_32F, COMPUTE_32F_FAST_TF32, COMPUTE_64F = 68, 77, 70
DEFAULT_MATH = 0
DEFAULT_ALGORITHM = -1

# read by cuBLAS as numbers on the host; float32's and float64's
_ONE: dict[bool, Any] = {False: np.ones(1, np.float32), True: np.ones(1, np.float64)}
_ZERO: dict[bool, Any] = {False: np.zeros(1, np.float32), True: np.zeros(1, np.float64)}
_handles = threading.local()


@cache
def _nvmath() -> Any:
    """The bindings of nvmath-python, or why there are none."""
    try:
        from nvmath.bindings import cublas
    except ImportError as error:
        return str(error)
    return cublas


class CupyRuntime:
    """What the executor asks of CUDA, on one device of CuPy's.

    Addresses are integers; everything is put on the caller's current stream.
    """

    why_no_graphs: str | None = None
    """Why matmuls cannot be part of a graph, where they cannot."""
    workspace: int
    """Bytes that a program with matmuls needs for them."""

    def __init__(self, device: int) -> None:
        import cupy

        self._cupy = cupy
        self._device = device
        self._last: Any = None
        bindings = _nvmath()
        if isinstance(bindings, str):
            self.why_no_graphs = (
                f"matmuls are captured through nvmath-python, which cannot be imported ({bindings}); "
                "pip install minijac[graphs12]"
            )
        major = int(cupy.cuda.Device(device).compute_capability[:-1])
        self.workspace = (32 if major >= 9 else 4) << 20  # what cuBLAS takes by itself

    def device(self) -> Any:
        return self._cupy.cuda.Device(self._device)

    def order(self) -> None:
        """Let the current stream wait for the work of the call before, where that was on another stream."""
        stream = self._cupy.cuda.get_current_stream()
        if self._last is not None and self._last != stream:
            stream.wait_event(self._last.record())
        self._last = stream

    # -- memory --------------------------------------------------------------------------------------------------------
    def block(self, nbytes: int) -> Any:
        return self._cupy.empty(nbytes, np.uint8)

    def empty(self, shape: Any, dtype: Any) -> Any:
        return self._cupy.empty(shape, dtype)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def array(self, block: Any, offset: int, shape: Any, strides: Any, dtype: Any) -> Any:
        return self._cupy.ndarray(shape, dtype, block.data + offset, strides)

    def upload(self, array: Any) -> Any:
        return self._cupy.asarray(array)

    def as_array(self, value: Any) -> Any:
        return self._cupy.asarray(value)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        runtime = self._cupy.cuda.runtime
        stream = self._cupy.cuda.get_current_stream()
        if nbytes:
            runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDeviceToDevice, stream.ptr)

    # -- launches ------------------------------------------------------------------------------------------------------
    def kernels(self, source: str, names: Sequence[str]) -> list[Callable[..., None]]:
        """Functions that launch the kernels of a module. No option allows less accurate arithmetic."""
        module = self._cupy.RawModule(code=source, options=("--std=c++17",))

        def launcher(name: str) -> Callable[..., None]:
            kernel = module.get_function(name)

            def launch(pointers: Sequence[int], grid: tuple[int, int], block: int, numbers: Sequence[Any] = ()) -> None:
                kernel(grid, (block,), (*map(np.uintp, pointers), *numbers))

            return launch

        return [launcher(name) for name in names]

    def gemm(self, call: Gemm, addresses: tuple[int, int, int], tf32: bool, workspace: int) -> Turn:
        """A matmul into planned memory, in the precision of its operands, or in TF32 where that is asked for."""
        kind = FLOAT64 if call.double else FLOAT32
        compute = COMPUTE_64F if call.double else COMPUTE_32F_FAST_TF32 if tf32 else COMPUTE_32F
        (a, b, c), (lda, ldb, ldc), (sa, sb, sc) = addresses, call.leading, call.strides
        arguments = (
            *(OPERATION[t] for t in call.transposed), *call.sizes, _ONE[call.double].ctypes.data,
            a, kind, lda, sa, b, kind, ldb, sb, _ZERO[call.double].ctypes.data,
            c, kind, ldc, sc, call.batch, compute, DEFAULT_ALGORITHM,
        )  # fmt: skip
        bindings = _nvmath()
        if isinstance(bindings, str):
            from cupy.cuda import cublas, device

            return lambda: cublas.gemmStridedBatchedEx(device.get_cublas_handle(), *arguments)

        self._handle(bindings)  # made before anything is captured

        def turn() -> None:
            handle = self._handle(bindings)
            bindings.set_stream(handle, self._cupy.cuda.get_current_stream().ptr)
            bindings.set_workspace(handle, workspace, self.workspace)  # which a change of stream resets
            bindings.gemm_strided_batched_ex(handle, *arguments)

        return turn

    def _handle(self, bindings: Any) -> int:
        """A cuBLAS handle for this thread and device."""
        found: dict[int, int] = _handles.__dict__.setdefault("by_device", {})
        if self._device not in found:
            found[self._device] = bindings.create()
            bindings.set_math_mode(found[self._device], DEFAULT_MATH)
        return found[self._device]

    def captured(self, turns: Sequence[Turn]) -> Turn:
        """The launches as one CUDA graph, which is launched on the stream that is current then."""
        stream = self._cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                for turn in turns:
                    turn()
            except BaseException:
                with suppress(Exception):  # the capture has failed already, and its own error says why
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        return lambda: graph.launch()
