"""NVRTC, which compiles CUDA for a GPU that need not be there."""

from __future__ import annotations

from typing import Any

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


def compiles(source: str, architectures: tuple[str, ...] = ARCHITECTURES) -> None:
    """The source compiles for each architecture, without a warning, as CuPy's RawModule would have it."""
    nvrtc = compiler()
    for architecture in architectures:
        program = nvrtc.createProgram(source, "minijac.cu", (), ())
        try:
            nvrtc.compileProgram(program, (f"--gpu-architecture={architecture}", "--std=c++17"))
        except nvrtc.NVRTCError:
            raise AssertionError(f"{architecture}:\n{nvrtc.getProgramLog(program)}\n{source[:20000]}") from None
        log = nvrtc.getProgramLog(program)
        assert not log.strip(), f"{architecture}:\n{log}"
        assert nvrtc.getCUBIN(program)
        nvrtc.destroyProgram(program)
