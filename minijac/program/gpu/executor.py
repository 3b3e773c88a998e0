"""The GPU executor: a program as kernels and matmuls into planned memory, captured in CUDA graphs and replayed.

A call copies its inputs to where the graphs read them, replays the graphs, and carries out the last steps, those that
write large results, by plain launches into new arrays. What no kernel is generated for is called through CuPy between
two graphs. The runtime is the one seam to CUDA, so that all of this is tested without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...errors import InputError
from ..ir import Program
from .access import View, row_major
from .expand import expanded
from .gemm import Gemm
from .memory import aligned, arranged
from .plan import Foreign, Plan, plan_of
from .source import Kernel, module_source, scalars_kernel

__all__ = ["Executor", "Report", "Runtime"]

SMALL = 1 << 16
"""Results of up to so many bytes are copied out together; larger ones are written into new arrays where that can be."""
COPIED = 1 << 20
"""Inputs of more bytes than this are read in place when they come from the same memory twice in a row."""

Turn = Callable[[], None]


class Runtime(Protocol):
    """What the executor asks of CUDA. Addresses are integers; everything happens on the caller's current stream."""

    why_no_graphs: str | None
    """Why matmuls cannot be part of a graph, where they cannot."""
    workspace: int
    """Bytes that a program with matmuls needs for them."""

    def block(self, nbytes: int) -> Any: ...
    def address(self, array: Any) -> int: ...
    def array(self, block: Any, offset: int, shape: Any, strides: Any, dtype: Any) -> Any: ...
    def empty(self, shape: Any, dtype: Any) -> Any: ...
    def upload(self, array: Any) -> Any: ...
    def as_array(self, value: Any) -> Any: ...
    def copy(self, target: int, source: int, nbytes: int) -> None: ...
    def kernels(self, source: str, names: Sequence[str]) -> list[Callable[..., None]]: ...
    def gemm(self, call: Gemm, addresses: tuple[int, int, int], tf32: bool, workspace: int) -> Turn: ...
    def captured(self, turns: Sequence[Turn]) -> Turn: ...
    def order(self) -> None: ...
    def device(self) -> Any: ...


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


class Executor:
    """A program bound to device memory of its own; one thread at a time may call `run`, which takes the inputs."""

    def __init__(self, program: Program, runtime: Runtime, tf32: bool = False) -> None:
        self.program = program
        self.runtime = runtime
        self.tf32 = tf32
        with runtime.device():
            self._bind()

    @property
    def nbytes(self) -> int:
        """Bytes of device memory held between calls."""
        return self._size + self._workspace_size

    @property
    def report(self) -> Report:
        kernels = sum(isinstance(step, Kernel) for step in self.plan.steps)
        gemms = sum(isinstance(step, Gemm) for step in self.plan.steps)
        foreign = tuple(step.step.op.name for step in self.plan.steps if isinstance(step, Foreign))
        return Report(self._reason is None, self._reason, kernels, gemms, foreign, self.nbytes, self.tf32)

    # -- binding -------------------------------------------------------------------------------------------------------
    def _bind(self) -> None:
        runtime, program = self.runtime, expanded(self.program, self.runtime.empty)
        self.plan = plan = plan_of(program, self._memory_of)
        self._constants: dict[int, Any] = {}
        read = {n for step in plan.steps for n in step.reads}
        fixed: dict[int, int] = {}
        for n, value in enumerate(program.values):
            if value.kind in ("captured", "constant") and n not in plan.on_host and n in read:
                content = value.content if value.kind == "captured" else runtime.upload(value.content)
                self._constants[n] = content  # kept, so that its memory stays
                fixed[n] = runtime.address(content)
        self._tail = self._tail_of(plan)
        self._inputs = [(k, n) for k, n in enumerate(program.inputs) if n not in plan.on_host and n in read]
        self._host_inputs = [(k, n) for k, n in enumerate(program.inputs) if n in plan.on_host]
        self._lay_out(plan, fixed)
        gemms = any(isinstance(step, Gemm) for step in plan.steps)
        self._workspace_size = runtime.workspace if gemms else 0
        self._workspace = runtime.block(self._workspace_size) if gemms else None
        self._reason: str | None = None
        if gemms and runtime.why_no_graphs is not None:
            self._say_why(runtime.why_no_graphs)
        self._load(plan)
        self._graphs: dict[Any, list[Turn | Foreign]] = {}
        self._last_binding: Any = None
        self._host = {n: v.content for n, v in enumerate(program.values) if n in plan.on_host and v.kind == "constant"}

    def _memory_of(self, array: Any) -> tuple[tuple[int, ...], bool]:
        """A captured array's strides in entries, and whether vectors of 16 bytes may be read from it."""
        itemsize = array.dtype.itemsize
        if any(stride % itemsize for stride in array.strides):
            raise InputError(
                f"compile: a captured array of shape {array.shape} and strides {array.strides} has entries that do not "
                f"lie whole numbers of {itemsize} bytes apart. Copy it before it is captured."
            )
        return tuple(stride // itemsize for stride in array.strides), self.runtime.address(array) % 16 == 0

    def _nbytes_of(self, n: int) -> int:
        value = self.plan.values[n]
        return int(np.prod(value.shape, dtype=np.int64)) * value.dtype.itemsize

    def _tail_of(self, plan: Plan) -> int:
        """The position from which on steps are launched plainly: the last ones that write large results.

        The steps are put in order so that these stand last.
        """
        outputs, late = set(plan.outputs), set[int]()
        written: set[int] = set()  # by steps that are late
        for position in reversed(range(len(plan.steps))):
            writes = set(plan.steps[position].writes)
            large = any(n in outputs and self._nbytes_of(n) > SMALL for n in writes)
            if not large and not writes & written:  # which a fill before a scatter does
                continue
            after = [k for k in range(position + 1, len(plan.steps)) if k not in late]
            if not any(writes & {*plan.steps[k].reads, *plan.steps[k].writes} for k in after):
                late.add(position)
                written |= writes
        early = [step for k, step in enumerate(plan.steps) if k not in late]
        plan.steps[:] = [*early, *(plan.steps[k] for k in sorted(late))]
        return len(early)

    def _lay_out(self, plan: Plan, fixed: dict[int, int]) -> None:
        """One block of memory: results that are copied out, numbers, inputs, and what lives between two steps."""
        computed = {n for step in plan.steps for n in step.writes}
        outputs = [n for n in dict.fromkeys(plan.outputs) if n in computed]
        tail = {n for step in plan.steps[self._tail :] for n in step.writes}
        self._fresh = [n for n in outputs if n in tail and self._nbytes_of(n) > SMALL]
        self._together = [n for n in outputs if self._nbytes_of(n) <= SMALL]
        self._copied = [n for n in outputs if n not in self._fresh and n not in self._together]
        offsets, end = {}, 0
        for n in self._together:
            offsets[n] = end
            end += aligned(self._nbytes_of(n))
        self._together_size = end
        steps = len(plan.steps)
        lives: dict[int, tuple[int, int]] = {}
        for position, step in enumerate(plan.steps):
            for n in (*step.reads, *step.writes):
                if n not in offsets and n not in fixed and n not in self._fresh:
                    first = lives[n][0] if n in lives else position
                    lives[n] = (first if n in computed else -1, position)
        for n in self._copied:
            lives[n] = lives[n][0], steps
        placed, size = arranged({n: (*lives[n], self._nbytes_of(n)) for n in lives})
        self._size = end + size
        self._block = self.runtime.block(self._size)
        start = self.runtime.address(self._block)
        self._offsets = {**offsets, **{n: end + offset for n, offset in placed.items()}}
        self._addresses = {**fixed, **{n: start + offset for n, offset in self._offsets.items()}}

    def _load(self, plan: Plan) -> None:
        """Compile the kernels."""
        kernels = [step for step in plan.steps if isinstance(step, Kernel)]
        self._slots = [n for n, slot in plan.slots.items() if slot in self._addresses]
        slots = [plan.slots[n] for n in self._slots]
        numbers = [scalars_kernel(slots, [plan.values[n].dtype for n in slots])] if slots else []
        self.source, names = module_source([*kernels, *numbers])
        functions = self.runtime.kernels(self.source, names) if names else []
        self._functions = dict(zip(map(id, kernels), functions, strict=False))
        self._write_numbers = functions[-1] if slots else None

    # -- steps as calls ------------------------------------------------------------------------------------------------
    def _turn(self, step: Any, addresses: dict[int, int]) -> Turn:
        if isinstance(step, Kernel):
            function, pointers = self._functions[id(step)], [addresses[n] for n in (*step.reads, *step.writes)]
            return lambda: function(pointers, step.grid, step.block)
        if isinstance(step, Gemm):
            a, b, c = (addresses[n] for n in (*step.reads, *step.writes))
            itemsize = 8 if step.double else 4
            places = tuple(base + itemsize * offset for base, offset in zip((a, b, c), step.offsets, strict=True))
            workspace = self.runtime.address(self._workspace)
            return self.runtime.gemm(step, places, self.tf32, workspace)  # type: ignore[arg-type]
        raise AssertionError(step)

    def _segments(self, addresses: dict[int, int]) -> list[list[Turn] | Foreign]:
        """Launches in a row, and between them what CuPy is called for."""
        segments: list[list[Turn] | Foreign] = []
        for step in self.plan.steps[: self._tail]:
            if isinstance(step, Foreign):
                segments.append(step)
                continue
            if not segments or isinstance(segments[-1], Foreign):
                segments.append([])
            segments[-1].append(self._turn(step, addresses))  # type: ignore[union-attr]
        return segments

    def _call(self, step: Foreign, memory: dict[int, Any], host: dict[int, Any]) -> None:
        """Call CuPy's function, and copy its result to where it is read."""
        op, params = step.step.op, step.step.params
        numbers = op.takes_numbers(len(step.operands))
        operands = []
        for operand in step.operands:
            if isinstance(operand, View):
                operands.append(self._array(operand, memory))
            else:
                operands.append(host[operand] if numbers else self.runtime.as_array(host[operand]))
        result = self.runtime.as_array(op.value(*operands, **params))
        (n,) = step.writes
        value = self.plan.values[n]
        target = memory[n] if n in memory else self._array(View(n, value.shape, row_major(value.shape)), memory)
        target[...] = result.reshape(value.shape)

    def _array(self, view: View, memory: dict[int, Any]) -> Any:
        """An array of CuPy's over planned memory, or over an array that is there already."""
        value = self.plan.values[view.root]
        itemsize = value.dtype.itemsize
        strides = tuple(s * itemsize for s in view.strides)
        if view.root in memory:
            whole = memory[view.root]
            return self.runtime.array(whole, view.offset * itemsize, view.shape, strides, value.dtype)
        if view.root in self._constants:
            whole = self._constants[view.root]
            return self.runtime.array(whole, view.offset * itemsize, view.shape, strides, value.dtype)
        if view.root not in self._offsets:  # without entries
            return self.runtime.empty(view.shape, value.dtype)
        offset = self._offsets[view.root] + view.offset * itemsize
        return self.runtime.array(self._block, offset, view.shape, strides, value.dtype)

    # -- a call --------------------------------------------------------------------------------------------------------
    def run(self, *inputs: Any) -> tuple[Any, ...]:
        """The outputs for these inputs: new arrays, which no later call writes to."""
        with self.runtime.device():
            self.runtime.order()
            host = self._on_host(inputs)
            if self._write_numbers is not None:
                slots = [self.plan.slots[n] for n in self._slots]
                dtypes = [self.plan.values[slot].dtype for slot in slots]
                numbers = [dtype.type(host[n]) for n, dtype in zip(self._slots, dtypes, strict=True)]
                self._write_numbers([self._addresses[slot] for slot in slots], (1, 1), 1, numbers)
            addresses, memory = self._bound(inputs)
            self._replay(addresses, memory, host)
            fresh = {n: self.runtime.empty(self.plan.values[n].shape, self.plan.values[n].dtype) for n in self._fresh}
            places = {**addresses, **{n: self.runtime.address(array) for n, array in fresh.items()}}
            for step in self.plan.steps[self._tail :]:
                if isinstance(step, Foreign):
                    self._call(step, {**memory, **fresh}, host)
                else:
                    self._turn(step, places)()
            found = fresh | self._copied_out()
            return tuple([self._output(n, found, host) for n in self.plan.outputs])

    def _on_host(self, inputs: Sequence[Any]) -> dict[int, Any]:
        host = dict(self._host)
        for k, n in self._host_inputs:
            host[n] = inputs[k]
        with np.errstate(all="ignore"):
            for step in self.plan.host:
                args = [host[n] for n in step.args]
                if not step.op.takes_numbers(len(args)):
                    args = [np.asarray(x) for x in args]
                host[step.out] = step.op.value(*args, **step.params)
        return host

    def _bound(self, inputs: Sequence[Any]) -> tuple[dict[int, int], dict[int, Any]]:
        """Where everything lies in this call; inputs are copied to where the graphs read them, or read in place."""
        runtime = self.runtime
        large = {n: inputs[k] for k, n in self._inputs if self._nbytes_of(n) > COPIED and _in_order(inputs[k])}
        binding = tuple((n, runtime.address(array)) for n, array in large.items())
        if any(address % 16 for _, address in binding):
            binding = ()
        in_place = bool(binding) and (binding == self._last_binding or binding in self._graphs)
        self._last_binding = binding
        self._binding = binding if in_place else ()
        memory = large if in_place else {}
        for k, n in self._inputs:
            if n in memory:
                continue
            array = inputs[k]
            if _in_order(array):
                runtime.copy(self._addresses[n], runtime.address(array), array.nbytes)
            else:
                value = self.plan.values[n]
                self._array(View(n, value.shape, row_major(value.shape)), {})[...] = array
        return {**self._addresses, **{n: runtime.address(array) for n, array in memory.items()}}, memory

    def _replay(self, addresses: dict[int, int], memory: dict[int, Any], host: dict[int, Any]) -> None:
        """All steps but the last ones: plainly in the first call, which warms everything up, and then as graphs."""
        graphs = self._graphs.get(self._binding)
        if graphs is None:
            self._graphs = {key: self._graphs[key] for key in self._graphs if key == ()}  # an older binding's are gone
            self._graphs[self._binding] = []  # met once
            graphs = [_one_by_one(segment) for segment in self._segments(addresses)]
        elif not graphs:
            graphs = self._graphs[self._binding] = self._captured(addresses)
        for segment in graphs:
            if isinstance(segment, Foreign):
                self._call(segment, memory, host)
            else:
                segment()

    def _captured(self, addresses: dict[int, int]) -> list[Turn | Foreign]:
        """The segments as graphs; launched one by one where that cannot be, which is said once."""
        segments = self._segments(addresses)
        if self._reason is None:
            try:
                return [each if isinstance(each, Foreign) else self.runtime.captured(each) for each in segments]
            except Exception as error:  # whatever CUDA says: the launches themselves still work
                self._say_why(f"capture failed with {type(error).__name__}: {error}")
        return [_one_by_one(segment) for segment in segments]

    def _say_why(self, reason: str) -> None:
        self._reason = reason
        warnings.warn(
            f"minijac.compile: this program is launched step by step, not as a CUDA graph: {reason}.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _copied_out(self) -> dict[int, Any]:
        """Results that lie in planned memory, in memory of their own: the small ones by one copy."""
        runtime, found = self.runtime, {}
        if self._together:
            block = runtime.block(self._together_size)
            runtime.copy(runtime.address(block), runtime.address(self._block), self._together_size)
            for n in self._together:
                value = self.plan.values[n]
                strides = tuple(s * value.dtype.itemsize for s in row_major(value.shape))
                found[n] = runtime.array(block, self._offsets[n], value.shape, strides, value.dtype)
        for n in self._copied:
            value = self.plan.values[n]
            found[n] = runtime.empty(value.shape, value.dtype)
            runtime.copy(runtime.address(found[n]), self._addresses[n], self._nbytes_of(n))
        return found

    def _output(self, n: int, found: dict[int, Any], host: dict[int, Any]) -> Any:
        if n in self.plan.on_host:
            return host[n]
        if n in found:
            return found[n]
        value = self.plan.values[n]  # without entries
        return self.runtime.empty(value.shape, value.dtype)


def _one_by_one(segment: list[Turn] | Foreign) -> Turn | Foreign:
    if isinstance(segment, Foreign):
        return segment

    def launched() -> None:
        for turn in segment:
            turn()

    return launched


def _in_order(array: Any) -> bool:
    return bool(array.flags.c_contiguous)
