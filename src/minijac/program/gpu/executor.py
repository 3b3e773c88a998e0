"""The GPU executor: a program as kernels and matmuls into planned memory, captured in CUDA graphs and replayed.

A call copies its inputs to where the graphs read them, replays the graphs, and carries out the last launches, those
that write large results, by themselves into new arrays. What no kernel is generated for is called through CuPy between
two graphs. The runtime is the one seam to CUDA, so that all of this is tested without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ...strides import View
from ..ir import Program
from ..loops import unrolled
from ..passes.expand import expanded
from .gemm import Gemm
from .kernels import Kernel, module_source, scalars_kernel
from .math import simpler
from .memory import DeviceMemory, strides_of
from .runtime import CupyRuntime, Turn
from .schedule import Schedule, scheduled
from .steps import CupyCall, Launch

__all__ = ["GraphExecutor", "Report"]

COPIED = 1 << 20
"""Inputs of more bytes than this are read in place when they come from the same memory twice in a row."""


class Report(NamedTuple):
    """How a program is carried out."""

    captured: bool
    """Whether what can be in a graph is in one, from the second call on."""
    reason: str | None
    """Why not, where it is not."""
    kernels: int
    matmuls: int
    uncaptured: tuple[str, ...]
    """Operations without a kernel, which are called through CuPy between graphs."""
    nbytes: int
    """Bytes of device memory held between calls."""
    tf32: bool

    def __str__(self) -> str:
        how = "captured in CUDA graphs" if self.captured else f"launched one by one: {self.reason}"
        others = f"; called through CuPy: {', '.join(self.uncaptured)}" if self.uncaptured else ""
        return f"{self.kernels} kernels, {self.matmuls} matmuls, {self.nbytes} bytes, {how}{others}"


Segment: TypeAlias = list[Turn] | CupyCall


class Launcher:
    """The launches of a schedule as calls, given where everything lies."""

    def __init__(self, schedule: Schedule, memory: DeviceMemory, runtime: CupyRuntime, tf32: bool) -> None:
        self.memory, self.runtime, self.tf32 = memory, runtime, tf32
        self.gemms = any(isinstance(launch, Gemm) for launch in schedule.launches)
        self.nbytes = runtime.workspace if self.gemms else 0
        self._workspace = runtime.block(self.nbytes) if self.gemms else None
        kernels = [launch for launch in schedule.launches if isinstance(launch, Kernel)]
        self._numbers = [(n, slot) for n, slot in schedule.slots.items() if slot in memory.addresses]
        slots = [slot for _, slot in self._numbers]
        written = [scalars_kernel(slots, [schedule.values[n].dtype for n in slots])] if slots else []
        self.source, names = module_source([*kernels, *written])
        functions = runtime.kernels(self.source, names) if names else []
        self._functions = dict(zip(map(id, [*kernels, *written]), functions, strict=True))
        self._written = written

    def write_numbers(self, host: Mapping[int, Any]) -> None:
        """The numbers that kernels read, to where they read them."""
        for kernel in self._written:
            numbers = [self.memory.values[slot].dtype.type(host[n]) for n, slot in self._numbers]
            addresses = [self.memory.addresses[slot] for _, slot in self._numbers]
            self._functions[id(kernel)](addresses, kernel.grid, kernel.block, numbers)

    def turn(self, launch: Launch, addresses: Mapping[int, int]) -> Turn:
        places = [addresses[n] for n in (*launch.reads, *launch.writes)]
        if isinstance(launch, Kernel):
            function = self._functions[id(launch)]
            return lambda: function(places, launch.grid, launch.block)
        assert isinstance(launch, Gemm)
        itemsize = 8 if launch.double else 4
        a, b, c = (base + itemsize * offset for base, offset in zip(places, launch.offsets, strict=True))
        return self.runtime.gemm(launch, (a, b, c), self.tf32, self.runtime.address(self._workspace))

    def segments(self, launches: Sequence[Launch], addresses: Mapping[int, int]) -> list[Segment]:
        """Launches in a row, and between them what CuPy is called for."""
        segments: list[Segment] = []
        for launch in launches:
            if isinstance(launch, CupyCall):
                segments.append(launch)
                continue
            if not segments or isinstance(segments[-1], CupyCall):
                segments.append([])
            segments[-1].append(self.turn(launch, addresses))  # type: ignore[union-attr]
        return segments

    def launch(self, segments: Sequence[Segment], elsewhere: Mapping[int, Any], host: Mapping[int, Any]) -> None:
        """Carry out segments: `elsewhere` are arrays that are not in planned memory, `host` what the host knows."""
        for segment in segments:
            if isinstance(segment, CupyCall):
                self._call(segment, elsewhere, host)
                continue
            for turn in segment:
                turn()

    def _call(self, launch: CupyCall, elsewhere: Mapping[int, Any], host: Mapping[int, Any]) -> None:
        """Call CuPy's function, and copy its result to where it is read."""
        op, params = launch.step.op, launch.step.params
        numbers = op.takes_numbers(len(launch.operands))
        operands = []
        for operand in launch.operands:
            if isinstance(operand, View):
                operands.append(self.memory.array(operand, elsewhere))
            else:
                operands.append(host[operand] if numbers else self.runtime.as_array(host[operand]))
        result = self.runtime.as_array(op.value(*operands, **params))
        (n,) = launch.writes
        shape = self.memory.values[n].shape
        target = elsewhere[n] if n in elsewhere else self.memory.whole(n)
        target[...] = result.reshape(shape)


class GraphExecutor:
    """A program bound to device memory of its own; one thread at a time may call `run`, which takes the inputs."""

    def __init__(self, program: Program, runtime: CupyRuntime, tf32: bool = False) -> None:
        self.runtime = runtime
        with runtime.device():
            program = expanded(unrolled(program), runtime.empty, simpler)
            self.schedule = scheduled(program, lambda array: strides_of(array, runtime.address(array)))
            self.memory = DeviceMemory(program, self.schedule, runtime)
            self._launcher = Launcher(self.schedule, self.memory, runtime, tf32)
        read = {n for launch in self.schedule.launches for n in launch.reads}
        on_host = self.schedule.on_host
        self._inputs = [(k, n) for k, n in enumerate(program.inputs) if n not in on_host and n in read]
        self._host_inputs = [(k, n) for k, n in enumerate(program.inputs) if n in on_host]
        self._host = {n: v.content for n, v in enumerate(program.values) if n in on_host and v.kind == "constant"}
        self._graphs: dict[Any, list[Segment]] = {}
        self._last_binding: Any = None
        self._reason: str | None = None
        if self._launcher.gemms and runtime.why_no_graphs is not None:
            self._say_why(runtime.why_no_graphs)

    @property
    def nbytes(self) -> int:
        """Bytes of device memory held between calls."""
        return self.memory.layout.size + self._launcher.nbytes

    @property
    def source(self) -> str:
        """The text of the kernels."""
        return self._launcher.source

    @property
    def report(self) -> Report:
        launches = self.schedule.launches
        kernels, gemms = (sum(isinstance(each, kind) for each in launches) for kind in (Kernel, Gemm))
        called = tuple(each.step.op.name for each in launches if isinstance(each, CupyCall))
        return Report(self._reason is None, self._reason, kernels, gemms, called, self.nbytes, self._launcher.tf32)

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        """The outputs for these inputs: new arrays, which no later call writes to."""
        with self.runtime.device():
            self.runtime.order()
            host = self._on_host(inputs)
            self._launcher.write_numbers(host)
            binding, elsewhere = self._bound(inputs)
            addresses = self.memory.addresses | self._places(elsewhere)
            self._replay(binding, addresses, elsewhere, host)
            fresh = {n: self.memory.new(n) for n in self.memory.layout.fresh}
            places = addresses | self._places(fresh)
            late = self._launcher.segments(self.memory.layout.late, places)
            self._launcher.launch(late, elsewhere | fresh, host)
            found = host | fresh | self.memory.copied_out()
            return tuple([found[n] if n in found else self.memory.new(n) for n in self.schedule.outputs])

    def _places(self, arrays: Mapping[int, Any]) -> dict[int, int]:
        return {n: self.runtime.address(array) for n, array in arrays.items()}

    def _on_host(self, inputs: Sequence[Any]) -> dict[int, Any]:
        """The numbers that the host knows."""
        host = self._host | {n: inputs[k] for k, n in self._host_inputs}
        with np.errstate(all="ignore"):
            for step in self.schedule.host:
                args = [host[n] for n in step.args]
                if not step.op.takes_numbers(len(args)):
                    args = [np.asarray(x) for x in args]
                host[step.out] = step.op.value(*args, **step.params)
        return host

    def _bound(self, inputs: Sequence[Any]) -> tuple[Any, dict[int, Any]]:
        """Inputs are copied to where the graphs read them, or read in place: those, and where they lie."""
        runtime, memory = self.runtime, self.memory
        large = {n: inputs[k] for k, n in self._inputs if memory.nbytes_of(n) > COPIED and _in_order(inputs[k])}
        binding = tuple(self._places(large).items())
        if any(address % 16 for _, address in binding):
            binding = ()
        in_place = bool(binding) and (binding == self._last_binding or binding in self._graphs)
        self._last_binding = binding
        elsewhere = large if in_place else {}
        for k, n in self._inputs:
            if n in elsewhere:
                continue
            if _in_order(inputs[k]):
                runtime.copy(memory.addresses[n], runtime.address(inputs[k]), inputs[k].nbytes)
            else:
                memory.whole(n)[...] = inputs[k]
        return binding if in_place else (), elsewhere

    def _replay(
        self, binding: Any, addresses: Mapping[int, int], elsewhere: Mapping[int, Any], host: Mapping[int, Any]
    ) -> None:
        """All launches but the last: plainly in the first call, which warms everything up, and then as graphs."""
        graphs = self._graphs.get(binding)
        if not graphs:
            segments = self._launcher.segments(self.memory.layout.early, addresses)
            if graphs is None:
                self._graphs = {key: self._graphs[key] for key in self._graphs if key == ()}  # an older one's are gone
                self._graphs[binding] = []  # met once
                graphs = segments
            else:
                graphs = self._graphs[binding] = self._captured(segments)
        self._launcher.launch(graphs, elsewhere, host)

    def _captured(self, segments: list[Segment]) -> list[Segment]:
        """The segments as graphs; launched one by one where that cannot be, which is said once."""
        if self._reason is None:
            try:
                return [each if isinstance(each, CupyCall) else [self.runtime.captured(each)] for each in segments]
            except Exception as error:  # whatever CUDA says: the launches themselves still work
                self._say_why(f"capture failed with {type(error).__name__}: {error}")
        return segments

    def _say_why(self, reason: str) -> None:
        self._reason = reason
        warnings.warn(
            f"minijac.compile: this program is launched step by step, not as a CUDA graph: {reason}.",
            RuntimeWarning,
            stacklevel=2,
        )


def _in_order(array: Any) -> bool:
    return bool(array.flags.c_contiguous)
