"""NVRTC, which compiles CUDA for a GPU that need not be there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

ARCHITECTURES = ("sm_80", "sm_90")


def compiler() -> Any:
    """CuPy's binding of NVRTC, or skip with the reason."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"needs CuPy and NVRTC: {type(error).__name__}: {str(error).splitlines()[0]}")
    return nvrtc


def compiles(source: str, architectures: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> None:
    """The source compiles without a warning, as CuPy's RawModule would have it: for each architecture that is given, or
    for one of the two, as its text falls."""
    nvrtc = compiler()
    for architecture in architectures or (ARCHITECTURES[crc32(source.encode()) % len(ARCHITECTURES)],):
        program = nvrtc.createProgram(source, "minijac.cu", (), ())
        try:
            nvrtc.compileProgram(program, (f"--gpu-architecture={architecture}", "--std=c++17", *options))
        except nvrtc.NVRTCError:
            raise AssertionError(f"{architecture}:\n{nvrtc.getProgramLog(program)}\n{source[:20000]}") from None
        log = nvrtc.getProgramLog(program)
        assert not log.strip(), f"{architecture}:\n{log}"
        assert nvrtc.getCUBIN(program)
        nvrtc.destroyProgram(program)


def compile_as_cupy(kernels: Sequence[Any], architecture: str) -> None:
    """Instances of `cupy.ElementwiseKernel` compile in the form, and with the headers, that CuPy gives them.

    Each for arrays that are contiguous and for others. One source holds them all, each in a namespace.
    """
    compiler()
    import cupy

    include = Path(cupy.__file__).parent / "_core" / "include"
    folders = [include, *(include / "cupy" / "_cccl" / each for each in ("cub", "thrust", "libcudacxx"))]
    headers = ("complex", "carray", "atomics", "math_constants")
    parts = [f"#include <cupy/{each}.{'h' if each == 'math_constants' else 'cuh'}>" for each in headers]
    for k, kernel in enumerate(kernels):
        for contiguous in (True, False):
            parts.append(f"namespace n{k}{contiguous} {{\n{_code(kernel, f'k{k}{contiguous}', contiguous)}\n}}")
    compiles("\n".join(parts), (architecture,), options=tuple(f"-I{folder}" for folder in folders))


def _code(kernel: Any, name: str, contiguous: bool) -> str:
    """What CuPy's own generator makes of a kernel."""
    import cupy
    from cupy._core import _carray, _kernel

    *params, _ = kernel.params
    dtypes = [p.dtype for p in params]
    *_, types = kernel._decide_params_type(tuple(dtypes[: kernel.nin]), tuple(dtypes[kernel.nin :]))
    ndim = 1 if contiguous else 3
    infos = [_kernel._ArgInfo(1, cupy.ndarray, dtype, ndim, contiguous, True) for dtype in dtypes]
    indexer = _kernel._ArgInfo(2, _carray.Indexer, None, ndim, True, True)
    code: str = _kernel._get_elementwise_kernel_code(
        (*infos, indexer), types, kernel.params, kernel.operation, name, kernel.preamble
    )
    assert "CUPY_FOR" in code and "CIndexer" in code
    return code
