"""The CPU executor: a program as straight-line Python that calls NumPy with ``out=`` into planned buffers.

Everything that is known when the program is bound is bound: buffers, and every view of a buffer or a captured array.
What is left for a call is one NumPy call for each operation that computes something, and to allocate the results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ...ops.families import Elementwise
from ...tape.op import Op
from ..ir import PYTHON_NUMBERS, Instruction, Program, Value
from ..passes.columns import Columns, columns
from ..passes.expand import expanded
from . import fusion
from .code import Code, Place
from .fusion import LANES, Fused, Stage, effort, fused, in_parts, made, paired, read, spelled_steps
from .memory import Memory, take
from .native.bound import bound
from .native.commands import Commands, NotNative, Slot, Tile
from .native.llvm import available, unwanted_on_error
from .native.mixed import Mixed
from .regions import Binders, Tiles, blas
from .steps import Repeated, Steps, with_loops
from .tiling import Region, stages

__all__ = ["Executor"]

COPIED = 1 << 16
"""Inputs of up to so many bytes of which views are taken are copied, so that the views are made once."""
COLUMNS, REARRANGED = 2.0, 2
"""How many times less effort a tile has to be in columns, in which an entry that is rearranged counts so often."""
MANY = 500
"""Steps above which those on small arrays are machine code, which takes a moment to make."""
NARROW = 1024
"""Entries of an array below which it is read across its rows as it is."""


class Executor:
    """A program bound to buffers of its own; one thread at a time may call `run`, which takes the inputs."""

    run: Callable[..., tuple[Any, ...]]

    def __init__(
        self,
        program: Program,
        plain: bool = False,
        sizes: dict[int, tuple[int, int]] | None = None,
        often: bool = False,
    ) -> None:
        """Bind a program: where it pays, tile by tile and with loops.

        Args:
            plain: Neither tiles, loops nor machine code, whose making costs more than a few calls.
            sizes: Of each region the tile size and number of threads that another executor found, and this one adds.
            often: Loops on small arrays too, whose making costs some thousands of calls' savings.
        """
        worth = fusion.OFTEN if often else fusion.WORTH
        steps = program.instructions
        whole = steps if plain else fused(stages(program), program.values, program.outputs, worth=worth)
        self._bind(Binding(program, whole, None, {} if sizes is None else sizes, _code(0) if plain else None))

    @classmethod
    def of_tile(cls, program: Program, into: Sequence[bool], times: float) -> Executor:
        """Bind the program of a tile.

        Args:
            into: For each output, of which `run` takes the array after the inputs, whether that is contiguous.
            times: How often it is called for one call of the user's.
        """
        executor = cls.__new__(cls)
        steps = fused(program.instructions, program.values, program.outputs, times)
        executor._bind(Binding(program, steps, into, {}))
        return executor

    def _bind(self, binding: Binding) -> None:
        self._memory, self._tiles = binding.memory, binding.tiles
        self._code, run = binding.bound()
        quiet = Context()  # in which NumPy does not warn; entering it costs less than numpy.errstate
        quiet.run(np.seterr, all="ignore")
        self.run = partial(quiet.run, run)
        if self._tiles:
            self.run = partial(_run_alone, self._tiles, self.run)

    @property
    def nbytes(self) -> int:
        """Bytes held between calls."""
        return self._memory.nbytes + (sum([tiles.nbytes for tiles in self._tiles]) if self._tiles else 0)

    @property
    def source(self) -> str:
        """The generated Python, and that of the tiles."""
        loops = "loops are machine code by LLVM" if available() else "llvmlite, which makes loops, is not installed"
        return "\n".join([f"# NumPy's calls; {loops}", self._code(), *(tiles.source for tiles in self._tiles)])


class Binding:
    """The stages of a program written as code, each with the arrays that it works on."""

    def __init__(
        self,
        program: Program,
        stages: Sequence[Stage],
        into: Sequence[bool] | None,
        sizes: dict[int, tuple[int, int]],
        code: Any = None,
    ) -> None:
        self.program, self.values, self.stages = program, program.values, with_loops(stages)
        self.memory, self.tiles = Memory(), list[Tiles | Steps]()
        self.code = code or _code(len(self.stages))
        self.stages = paired(self.stages, self.values, program.outputs) if isinstance(self.code, Mixed) else self.stages
        self._steps = [stage for stage in self.stages if isinstance(stage, Instruction)]
        """Those that are carried out here, and not tile by tile or in a loop."""
        self._into, self._sizes = into, sizes
        self._static: dict[int, Any] = {}  # values whose array is known now
        self._dynamic: dict[int, str] = {}  # values whose array is another in every call
        self._arrays, self._places = dict[int, Place](), dict[int, Place]()  # numbers of Python's as arrays; all others
        self._root = list(range(len(self.values)))  # of which value it is a view
        self._dummies: dict[int, Any] = {}
        self._gapped: dict[int, Any] = {}  # views with gaps that are read several times: copied, once

    def bound(self) -> tuple[Callable[[], str], Callable[..., Any]]:
        """What writes the text, and the function that it makes."""
        returned = self._written()
        names = [f"a{n}" for n in self.program.inputs] + [f"o{k}" for k, _ in enumerate(self._into or ())]
        return self.code.function(", ".join(names), "".join(f"{name}, " for name in returned))

    def _written(self) -> list[str]:
        """Write all stages, which gives the results' names."""
        for n, value in enumerate(self.values):
            if value.kind in ("captured", "constant"):
                self._static[n] = value.content
        viewed = {n for step in self._steps if step.op.view or step.op.prebound for n in step.args}
        for n in self.program.inputs:
            self._bind_input(n, n in viewed)
        uses = _uses(self.stages) if isinstance(self.code, Mixed) else Counter[int]()
        for step in self._steps:
            if step.op.view and self._makes_view(step):
                if uses[step.out] > 1 and _has_gaps(self._dummies[step.out]):
                    self._gapped[step.out] = self._dummies.pop(step.out)
                else:
                    self._root[step.out] = self._root[step.args[0]]
        last, self._results = _last_uses(self.stages, self._root, self.program.outputs), self._returned_whole()
        for number, stage in enumerate(self.stages):
            self.code.note(partial(_described, stage))
            dying = {n for n in {self._root[n] for n in read(stage)} if last.get(n, -1) <= number}
            if not isinstance(stage, Instruction):
                self._bind_several(stage)
            elif self._root[stage.out] != stage.out:
                self._bind_view(stage)
            else:
                self._bind_step(stage, dying)
            for n in dying | {n for n in made(stage) if last.get(n, -1) <= number}:
                self.memory.released(n)
        return [self._returned(k) for k in range(len(self.program.outputs))]

    # -- stages --------------------------------------------------------------------------------------------------------
    def _bind_input(self, n: int, viewed: bool) -> None:
        value = self.values[n]
        if viewed and value.number is None and value.nbytes <= COPIED:
            self._static[n] = self.memory.fixed(value.shape, value.dtype)
            self.code.line(f"copyto({self.reference(n)}, a{n})")
        else:
            self._dynamic[n] = f"a{n}"

    def _bind_view(self, step: Instruction) -> None:
        (source,) = step.args
        if source in self._static:
            self._static[step.out] = step.op.value(self._static[source], **step.params)
        else:
            self._dynamic[step.out] = f"v{step.out}"
            self.code.line(f"v{step.out} = {self.code.name(_with_params(step))}({self.reference(source)})")

    def _bind_step(self, step: Instruction, dying: set[int]) -> None:
        value = self.values[step.out]
        if value.number in PYTHON_NUMBERS:
            self._dynamic[step.out] = f"v{step.out}"
            call = ", ".join(map(self.reference, step.args))
            self.code.line(f"v{step.out} = {self.code.name(step.op.value)}({call})")
            return
        if step.out in self._results:
            self._bind_result(step.out)
        else:
            self._static[step.out] = self._output_buffer(step, dying)
        numbers = step.op.takes_numbers(len(step.args))
        out, places = self._place(step.out), [self._place(n) if numbers else self._as_array(n) for n in step.args]
        if step.out in self._gapped:
            self.code(np.copyto, out, places[0].view(_with_params(step)))
        elif step.is_ufunc:
            operands = [self._better(n, step) or place for n, place in zip(step.args, places, strict=True)]
            if step.op.value in (np.maximum, np.minimum):  # which take more operands, one day
                self.code(step.op.value, *operands, out=out)
            else:
                self.code(step.op.value, *operands, out)
        elif step.op.into is None or step.op.into(self.code, out, *places, **step.params) is False:
            call = ", ".join(place.text for place in places)
            self.code.line(f"copyto({out.text}, {self.code.name(_with_params(step))}({call}))")

    def _bind_several(self, stage: Region | Fused | Repeated) -> None:
        self._bind_made(stage)
        if isinstance(stage, Region):
            tiles = Tiles(stage, self.values, self._static.get, self._sizes, len(self.tiles), BINDERS)
            self.code(tiles, *map(self._place, tiles.arrays))
            self.tiles.append(tiles)
        elif isinstance(stage, Fused):
            for loop in in_parts(stage, self.values, self._static if isinstance(self.code, Mixed | Commands) else ()):
                self._bind_loop(loop)
        else:
            self.tiles.append(Steps(stage, BINDERS))
            self.code(self.tiles[-1], *map(self._as_array, stage.args), *map(self._place, stage.outs))

    def _bind_loop(self, loop: Fused) -> None:
        shape, arrays, given = self.values[made(loop)[0]].shape, list[Any](), list[Place]()
        for n in (*loop.args, *made(loop)):
            value = self.values[n]
            if value.weak:
                arrays.append(np.asarray(value.content, loop.dtype))
                continue
            place = self._read_in_order(n, prod(shape)) or self._as_array(n)
            arrays.append((value.shape, value.dtype) if place.array is None else np.asarray(place.array))
            if place.array is None:
                given.append(place if n in self._results else place.contiguous())
        self.code(bound(loop.dtype, shape, spelled_steps(loop), arrays, len(made(loop))), *given)

    def _bind_made(self, stage: Stage) -> None:  # in arrays of which it reads none
        for n in made(stage):
            if n in self._results:
                self._bind_result(n)
            else:
                self._static[n] = self.memory.given(n, self.values[n])

    # -- which arrays --------------------------------------------------------------------------------------------------
    def _makes_view(self, step: Instruction) -> bool:
        """Whether NumPy makes a view, tried on an array with the strides that the operand will have."""
        if self.values[step.args[0]].number is not None:
            return False
        operand = self._dummy(step.args[0])
        result = step.op.value(operand, **step.params)
        view = isinstance(result, np.ndarray) and (not result.size or np.may_share_memory(result, operand))
        if view:
            self._dummies[step.out] = result
        return bool(view)

    def _dummy(self, n: int) -> Any:
        if n in self._static:
            return self._static[n]
        if n not in self._dummies:
            self._dummies[n] = np.empty(self.values[n].shape, self.values[n].dtype)
        return self._dummies[n]

    def _output_buffer(self, step: Instruction, dying: set[int]) -> Any:
        """A buffer for a step's result: that of an operand which dies here, a free one, or a new one."""
        value = self.values[step.out]
        if step.op.keeps is not None and step.op.keeps(**step.params):  # what it does not write is written once
            return self.memory.fixed(value.shape, value.dtype)
        for n in step.overwritable:
            source = self.values[n]
            alone = [self._root[m] for m in step.args].count(n) == step.args.count(n)
            alike = source.shape == value.shape and source.dtype == value.dtype
            if n in dying and self.memory.owns(n) and alone and alike:
                self.memory.handed(n, step.out)
                return self._static[n]
        return self.memory.given(step.out, value)

    def _read_in_order(self, n: int, size: int) -> Place | None:
        """A copy, made in each call, of a small array that is read across its rows, for many entries: `size`."""
        array = self._static.get(n)
        if not isinstance(array, np.ndarray) or not NARROW <= array.size <= size // 4 or not _has_gaps(array):
            return None
        copy = self._fixed(array.shape, array.dtype)
        self.code(np.copyto, copy, self._place(n))
        return copy

    # -- results -------------------------------------------------------------------------------------------------------
    def _returned_whole(self) -> dict[int, int]:
        """Computed roots that are returned as they are, with the output's number: made anew for every call."""
        found: dict[int, int] = {}
        for k, n in enumerate(self.program.outputs):
            root = self._root[n]
            value, source = self.values[n], self.values[root]
            whole = value.kind == source.kind == "computed" and value.size == source.size
            array = source.number not in PYTHON_NUMBERS and (self._into is None or self._into[k])
            if whole and array and root not in found and self._dummy(n).flags.c_contiguous:
                found[root] = k
        return found

    def _bind_result(self, n: int) -> None:
        """Give a value that is returned the array of the output."""
        self._dynamic[n] = f"v{n}"
        if self._into is None:
            self._new(f"v{n}", self.values[n])
        else:
            self.code.line(f"v{n} = o{self._results[n]}.reshape({self.code.name(self.values[n].shape)})")

    def _returned(self, k: int) -> str:
        """The name of an output's array, which nothing else holds."""
        n = self.program.outputs[k]
        value = self.values[n]
        given = value.number is not None and value.kind in ("input", "constant")
        if self._into is None and (given or value.number in PYTHON_NUMBERS):
            return self.reference(n)
        name = self.reference(n)
        if self._results.get(self._root[n]) != k:
            name = f"r{k}" if self._into is None else f"o{k}"
            if self._into is None:
                self._new(name, value)
            self.code.line(f"copyto({name}, {self.reference(n)})")
        return name if value.number is None else f"{name}[()]"

    def _new(self, name: str, value: Value) -> None:
        """Code that makes an array for a result."""
        shape, dtype, pool = self.code.name(value.shape), self.code.name(value.dtype), self.memory.pool(value)
        make = "empty(" if pool is None else f"take({self.code.name(pool)}, "
        self.code.line(f"{name} = {make}{shape}, {dtype})")

    # -- names ---------------------------------------------------------------------------------------------------------
    def reference(self, n: int) -> str:
        """The name of a value's array in the code."""
        return self._dynamic[n] if n in self._dynamic else self.code.name(self._static[n], f"s{n}")

    def _place(self, n: int) -> Place:
        if n not in self._places:
            value, static = self.values[n], self._static.get(n)
            self._places[n] = Place(self.code, self.reference(n), value.shape, value.dtype, static)
        return self._places[n]

    def _fixed(self, shape: tuple[int, ...], dtype: Any) -> Place:
        buffer = self.memory.fixed(shape, dtype)
        return Place(self.code, self.code.name(buffer), shape, dtype, buffer)

    def _as_array(self, n: int) -> Place:
        """A value as an array, also where it is a Python number."""
        value = self.values[n]
        if value.number not in PYTHON_NUMBERS:
            return self._place(n)
        if n not in self._arrays:
            self._arrays[n] = self._fixed((), value.dtype)
            self.code.line(f"copyto({self._arrays[n].text}, {self.reference(n)})")
        return self._arrays[n]

    def _better(self, n: int, step: Instruction) -> Place | None:
        """A better operand of a ufunc than the value as it is: read in order, or of the dtype that it would become."""
        place = self._read_in_order(n, self.values[step.out].size)
        x = _as_read(self.values, n, step) if place is None else None
        return place if x is None else Place(self.code, self.code.name(x), (), x.dtype, x)


def _as_read(values: Sequence[Value], n: int, step: Instruction) -> Any:
    """A constant number of Python's as an array of the dtype that a ufunc makes of it; else None."""
    value = values[n]
    if value.kind != "constant" or value.number not in (int, float):
        return None
    operands = [values[m] for m in step.args]
    weak = [v.number if v.number in (int, float) else v.dtype for v in operands]
    dtypes = step.op.value.resolve_dtypes((*weak, None))  # type: ignore[attr-defined]
    return np.asarray(value.content, dtypes[step.args.index(n)])


def _code(stages: int) -> Code:
    """What so many stages are written into."""
    long = stages >= MANY and available() and fusion.ENABLED
    kind: Callable[..., Code] = partial(Mixed, blas().libraries()) if long else Code
    return kind(copyto=np.copyto, empty=np.empty, take=take)


def _uses(stages: Sequence[Stage]) -> Counter[int]:
    """How many loops over entries read each value."""
    loops = [
        stage for stage in stages if isinstance(stage, Fused) or (isinstance(stage, Instruction) and stage.is_ufunc)
    ]
    return Counter(n for loop in loops for n in loop.args)


def _has_gaps(view: Any) -> bool:
    """Whether vectors of a view are gathered entry by entry."""
    used = [stride for size, stride in zip(view.shape, view.strides, strict=True) if size > 1]
    return bool(view.size >= LANES and used and abs(used[-1]) > view.itemsize)


def _last_uses(stages: Sequence[Stage], root: Sequence[int], outputs: Sequence[int]) -> dict[int, int]:
    """For each value that others are views of, the last stage that reads it."""
    last: dict[int, int] = {}
    for number, stage in enumerate(stages):
        last.update((root[n], number) for n in read(stage))
    last.update((root[n], len(stages)) for n in outputs)
    return last


def _simpler(op: Op) -> Callable[..., Any] | None:
    """Operations that NumPy has no call for, in simpler ones."""
    return None if op.view or op.into is not None or isinstance(op, Elementwise) else op.expansion


class NativeBinding(Binding):
    """The program of a tile written as commands of machine code, on arrays that stand for the tile's parts."""

    def __init__(self, program: Program, slots: Sequence[Slot]) -> None:
        program, self._first = expanded(program, np.empty, _simpler), len(program.inputs)
        ends = [slot.array for slot in slots]
        self._copied: list[tuple[Any, Any]] = []
        steps = fused(program.instructions, program.values, program.outputs, every=True)
        found = columns(program) if _worth_columns(steps, program.values, slots) else None
        if found is not None:
            program, slots, ends = found.program, *self._apart(found, slots)
            steps = fused(program.instructions, program.values, program.outputs, every=True)
        outs = zip(program.outputs, ends[len(program.inputs) :], strict=True)
        into = [x.flags.c_contiguous if found is None else x.shape == program.values[n].shape for n, x in outs]
        self._commands, self._slots, self._ends = Commands(blas().libraries(), slots), slots, ends
        super().__init__(program, steps, into, {}, self._commands)

    def _apart(self, found: Columns, slots: Sequence[Slot]) -> tuple[list[Slot], list[Any]]:
        """The slots, and the columns of their arrays: in an order of their own where they may lie in any."""
        placed, ends = list[Slot](), list[Any]()
        for slot, layout in zip(slots, found.layouts, strict=True):
            array = slot.array
            if slot.free:
                array = layout.like(array)
                slot = slot._replace(array=array)
            elif len(placed) >= self._first and layout.moves(array.shape):
                array = layout.like(array)  # a loop that scatters what it makes takes long to compile
                self._copied.append((slot.array, array))
            placed.append(slot)
            ends += layout.columns(array)
        return placed, ends

    def tile(self, back: int) -> Tile:
        """The commands; NotNative where some step is none. The first outputs become the first inputs at the end."""
        self._written()
        arrays = [slot.array for slot in self._slots]
        for pair in (*self._copied, *zip(arrays[:back], arrays[self._first :], strict=False)):
            order = np.argsort([-stride for stride in pair[0].strides])  # as it lies in memory
            places = [Place(self.code, "", x.shape, x.dtype, x) for x in (y.transpose(order) for y in pair)]
            self.code(np.copyto, *places)
        text = "\n".join(["# machine code:", *[f"# {note()}" for note in self._commands.notes], ""])
        known = [value.content for value in self.values if isinstance(value.content, np.ndarray)]
        held = self.memory.nbytes + sum(x.nbytes for _, x in self._copied)
        return Tile(self._commands.commands, text, self._slots, known, held)

    def _bind_input(self, n: int, viewed: bool) -> None:
        if self.values[n].number is not None:
            raise NotNative("a number that is another one in every call")
        self._static[n] = self._ends[self.program.inputs.index(n)]

    def _bind_result(self, n: int) -> None:
        self._static[n] = self._output(self._results[n]).reshape(self.values[n].shape)

    def _output(self, k: int) -> Any:
        return self._ends[len(self.program.inputs) + k]

    def _returned(self, k: int) -> str:
        n = self.program.outputs[k]
        if self._results.get(self._root[n]) != k:
            out = self._output(k)
            self.code(np.copyto, Place(self.code, "", out.shape, out.dtype, out), self._place(n))
        return ""


def _worth_columns(stages: Sequence[Stage], values: Sequence[Value], slots: Sequence[Slot]) -> bool:
    """Whether stages would be less effort in columns: full vectors, once what is not in columns is rearranged."""
    made = sum(len(stage.steps) * values[stage.outs[0]].size for stage in stages if isinstance(stage, Fused))
    moved = sum(x.array.size for x in slots if not x.free and sum(size > 1 for size in x.array.shape) > 1)
    return COLUMNS * (made / LANES + REARRANGED * moved) <= effort(stages, values)


def native_tile(program: Program, slots: Sequence[Slot], back: int = 0) -> Tile | None:
    """The program of a tile as machine code, for arrays in these places; None where some of it is NumPy's to do.

    So many outputs are copied into the first inputs at the end: what goes on from step to step.
    """
    if not (available() and fusion.ENABLED):
        return None
    with suppress(NotNative), unwanted_on_error():
        return NativeBinding(program, slots).tile(back)
    return None


BINDERS = Binders(Executor.of_tile, native_tile)


def _run_alone(tiles: list[Tiles | Steps], run: Callable[..., tuple[Any, ...]], *inputs: Any) -> tuple[Any, ...]:
    """Where tiles run on threads, BLAS has one in all steps: its others would wait for more on the same cores."""
    if any(each.keeps_blas for each in tiles):
        with blas():
            return run(*inputs)
    return run(*inputs)


def _described(stage: Stage) -> str:
    if isinstance(stage, Region):
        return f"{len(stage.steps)} operations for each of {stage.batch} samples, tile by tile"
    if isinstance(stage, Repeated):
        return f"{len(stage.loop.body.instructions)} operations, {stage.loop.length} times"
    steps = stage.steps if isinstance(stage, Fused) else (stage,)
    texts = [f"%{step.out} = {step.op.name}({', '.join([f'%{n}' for n in step.args])})" for step in steps]
    return ("one loop: " if isinstance(stage, Fused) else "") + "; ".join(texts)


def _with_params(step: Instruction) -> Callable[..., Any]:
    return partial(step.op.value, **step.params) if step.params else step.op.value
