"""The CPU executor: a program as straight-line Python that calls NumPy with ``out=`` into planned buffers.

Everything that is known when the program is bound is bound: buffers, and every view of a buffer or a captured array.
What is left for a call is one NumPy call for each operation that computes something, and to allocate the results. The
generated text holds names of this module's making and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..ir import Instruction, Program, Value
from .fusion import Fused, Stage, fused, kernel_of, made, operand_shapes, read
from .lowering import IN_PLACE, LOWER, elementwise_ufunc, fixed_background, ufunc
from .regions import Tiles, blas
from .tiling import Region, stages

__all__ = ["Executor"]

COPIED = 1 << 16
"""Inputs of up to so many bytes of which views are taken are copied, so that the views are made once."""
POOLED = 1 << 17
"""Results of so many bytes are made again from memory that the caller has let go of."""
PYTHON_NUMBERS = (bool, int, float, complex)


class Executor:
    """A program bound to buffers of its own; one thread at a time may call `run`, which takes the inputs."""

    run: Callable[..., tuple[Any, ...]]

    def __init__(
        self,
        program: Program,
        into: Sequence[bool] | None = None,
        times: float = 1.0,
        plain: bool = False,
        sizes: dict[int, tuple[int, int]] | None = None,
    ) -> None:
        """Bind a program.

        Args:
            into: Given for the program of a tile, whose `run` takes arrays for the outputs after the inputs: which of
                them are contiguous.
            times: How often it is called for one call of the user's.
            plain: Neither tiles nor loops, whose making costs more than a few calls.
            sizes: Of each region the tile size and number of threads that another executor found, and this one adds.
        """
        self.program = program
        self._into = into
        self._sizes = {} if sizes is None else sizes
        whole = program.instructions if plain or into is not None else stages(program)
        self._stages: Sequence[Stage] = whole if plain else fused(whole, program.values, program.outputs, times)
        self._tiles: list[Tiles] = []
        self._code = ""
        self._names: dict[str, Any] = {}
        self._known: dict[int, str] = {}  # objects that have a name already
        self._lines: list[str] = []
        self._static: dict[int, Any] = {}  # values whose array is known now
        self._dynamic: dict[int, str] = {}  # values whose array is another in every call
        self._arrays: dict[int, str] = {}  # numbers of Python's, as arrays
        self._root: dict[int, int] = {}
        self._maker: dict[int, Instruction] = {step.out: step for step in program.instructions}
        self._dummies: dict[int, Any] = {}
        self._owner: dict[int, Any] = {}  # root values, to the memory that they were given
        self._free: list[Any] = []
        self._pools: list[list[Any]] = []
        self._planned = 0
        self._bind()
        self._dummies.clear()
        self._known.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held between calls: buffers, and large results that are made again when the caller lets go of them."""
        pooled = sum(array.nbytes for pool in self._pools for array in pool)
        return self._planned + pooled + sum(tiles.nbytes for tiles in self._tiles)

    @property
    def source(self) -> str:
        """The generated Python, and that of the tiles; its names are of this module's making."""
        return "\n".join([self._code, *(tiles.source for tiles in self._tiles)])

    # -- binding -------------------------------------------------------------------------------------------------------
    def _bind(self) -> None:
        program = self.program
        for n, value in enumerate(program.values):
            if value.kind in ("captured", "constant"):
                self._static[n] = value.content
            self._root[n] = n
        viewed = {n for step in self._instructions() if step.op.view or step.op.name == "relabel" for n in step.args}
        for n in program.inputs:
            self._bind_input(n, n in viewed)
        self._find_roots()
        last = self._last_uses()
        results = self._results()
        for number, stage in enumerate(self._stages):
            self.line(f"# {_described(stage)}")
            if isinstance(stage, Region):
                self._bind_region(stage, results)
            elif isinstance(stage, Fused):
                self._bind_loop(stage, results)
            elif self._root[stage.out] != stage.out:
                self._view_of(stage)
            else:
                self._bind_step(stage, number, last, results)
            for n in {self._root[n] for n in read(stage)} | set(made(stage)):
                if last.get(n, -1) <= number and n in self._owner:
                    self._free.append(self._owner.pop(n))
        returned = [self._returned(k, results) for k in range(len(program.outputs))]
        self._names |= {"copyto": np.copyto, "empty": np.empty, "take": _take}
        body = "\n    ".join([*self._lines, f"return ({''.join(f'{name}, ' for name in returned)})"])
        parameters = ", ".join([f"a{n}" for n in program.inputs] + [f"o{k}" for k, _ in enumerate(self._into or ())])
        self._code = f"def run({parameters}):\n    {body}\n"
        exec(compile(self._code, "<minijac program>", "exec"), self._names)
        quiet = Context()  # in which NumPy does not warn; entering it costs less than numpy.errstate
        quiet.run(np.seterr, all="ignore")
        self.run = partial(quiet.run, self._names.pop("run"))
        if self._tiles:
            self.run = partial(_run_alone, self._tiles, self.run)

    def _bind_step(self, step: Instruction, number: int, last: dict[int, int], results: dict[int, int]) -> None:
        value = self.program.values[step.out]
        if value.number in PYTHON_NUMBERS:
            self._dynamic[step.out] = f"v{step.out}"
            self.line(f"v{step.out} = {self.name(step.op.value)}({', '.join(map(self.reference, step.args))})")
            return
        if step.out in results:
            self._bind_result(step.out, results[step.out])
        else:
            self._static[step.out] = self._output_buffer(step, number, last)
        self._compute(step)

    def _bind_result(self, n: int, k: int) -> None:
        """Give a value that is returned the array of the output."""
        self._dynamic[n] = f"v{n}"
        if self._into is not None:
            self.line(f"v{n} = o{k}.reshape({self.name(self.program.values[n].shape)})")
        else:
            self._new(f"v{n}", self.program.values[n])

    def _bind_made(self, stage: Stage, results: dict[int, int]) -> None:
        """Arrays for what a stage makes: none of them is one that it reads."""
        for n in made(stage):
            if n in results:
                self._bind_result(n, results[n])
            else:
                self._static[n] = self._buffer_for(n, self.program.values[n])

    def _bind_loop(self, loop: Fused, results: dict[int, int]) -> None:
        self._bind_made(loop, results)
        values = self.program.values
        kernel, operands = kernel_of(loop, values)
        shapes = operand_shapes(operands, values)
        names = []
        for n in operands:
            if n not in shapes:
                names.append(self.name(loop.dtype.type(values[n].content)))
                continue
            array = self._read_in_order(n, _size(values[made(loop)[0]]))
            array = self.array(n) if array is None else array
            view = array.reshape(shapes[n]) if isinstance(array, np.ndarray) else None
            shared = view is not None and (not view.size or np.may_share_memory(view, array))
            names.append(self.name(view) if shared else f"{self._as_array(n)}.reshape({self.name(shapes[n])})")
        self.line(f"{self.name(kernel)}({', '.join(names)})")

    def _bind_region(self, region: Region, results: dict[int, int]) -> None:
        self._bind_made(region, results)
        tiles = Tiles(region, self.program.values, self._static.get, self._sizes, len(self._tiles))
        self._tiles.append(tiles)
        self.line(f"{self.name(tiles)}({', '.join(map(self.reference, tiles.arrays))})")

    def _bind_input(self, n: int, viewed: bool) -> None:
        value = self.program.values[n]
        if viewed and value.number is None and _nbytes(value) <= COPIED:
            self._static[n] = self._buffer(value.shape, value.dtype)
            self.line(f"copyto({self.reference(n)}, a{n})")
        else:
            self._dynamic[n] = f"a{n}"

    def _instructions(self) -> Iterator[Instruction]:
        """The steps that are carried out here, and not tile by tile."""
        return (stage for stage in self._stages if isinstance(stage, Instruction))

    def _find_roots(self) -> None:
        """Which values are views of which: a step of a view operation, where NumPy makes a view of it."""
        for step in self._instructions():
            if step.op.view and self._makes_view(step):
                self._root[step.out] = self._root[step.args[0]]

    def _makes_view(self, step: Instruction) -> bool:
        """Try it on an array with the strides that the operand will have."""
        if self.program.values[step.args[0]].number is not None:
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
            value = self.program.values[n]
            self._dummies[n] = np.empty(value.shape, value.dtype)
        return self._dummies[n]

    def _last_uses(self) -> dict[int, int]:
        last: dict[int, int] = {}
        for number, stage in enumerate(self._stages):
            for n in read(stage):
                last[self._root[n]] = number
        for n in self.program.outputs:
            last[self._root[n]] = len(self._stages)
        return last

    def _results(self) -> dict[int, int]:
        """Computed roots that are returned as they are, with the output's number: made anew for every call."""
        found: dict[int, int] = {}
        for k, n in enumerate(self.program.outputs):
            root = self._root[n]
            value, source = self.program.values[n], self.program.values[root]
            whole = value.kind == source.kind == "computed" and _size(value) == _size(source)
            array = source.number not in PYTHON_NUMBERS and (self._into is None or self._into[k])
            if whole and array and root not in found and self._dummy(n).flags.c_contiguous:
                found[root] = k
        return found

    def _returned(self, k: int, results: dict[int, int]) -> str:
        """The name of an output's array, which nothing else holds."""
        n = self.program.outputs[k]
        value = self.program.values[n]
        if value.number in PYTHON_NUMBERS or (value.number is not None and value.kind in ("input", "constant")):
            return self.reference(n)
        name = self.reference(n)
        if results.get(self._root[n]) != k:
            name = f"r{k}" if self._into is None else f"o{k}"
            if self._into is None:
                self._new(name, value)
            self.line(f"copyto({name}, {self.reference(n)})")
        return name if value.number is None else f"{name}[()]"

    def _new(self, name: str, value: Value) -> None:
        """Code that makes an array for a result."""
        shape, dtype = self.name(value.shape), self.name(value.dtype)
        if _nbytes(value) < POOLED or not _COUNTED:
            self.line(f"{name} = empty({shape}, {dtype})")
        else:
            pool: list[Any] = []
            self._pools.append(pool)
            self.line(f"{name} = take({self.name(pool)}, {shape}, {dtype})")

    # -- buffers -------------------------------------------------------------------------------------------------------
    def _buffer(self, shape: tuple[int, ...], dtype: Any) -> Any:
        array = np.empty(shape, dtype)
        self._planned += array.nbytes
        return array

    def _output_buffer(self, step: Instruction, number: int, last: dict[int, int]) -> Any:
        """A buffer for a step's result: that of an operand which dies here, a free one, or a new one."""
        value = self.program.values[step.out]
        if fixed_background(step):  # what it does not write is written once and stays: the buffer is its own
            return self._buffer(value.shape, value.dtype)
        for n in self._overwritable(step):
            dies = last.get(n, -1) == number and n in self._owner
            source = self.program.values[n]
            alone = [self._root[m] for m in step.args].count(n) == step.args.count(n)
            if dies and alone and source.shape == value.shape and source.dtype == value.dtype:
                self._owner[step.out] = self._owner.pop(n)
                return self._static[n]
        return self._buffer_for(step.out, value)

    def _buffer_for(self, n: int, value: Value) -> Any:
        """A free buffer that is about as large, or a new one."""
        size = _nbytes(value)
        fitting = [raw for raw in self._free if size <= raw.nbytes <= 2 * size]
        if fitting:
            raw = min(fitting, key=lambda raw: raw.nbytes)
            self._free = [other for other in self._free if other is not raw]
        else:
            raw = _aligned(size)
            self._planned += size
        self._owner[n] = raw
        return raw[:size].view(value.dtype).reshape(value.shape)

    @staticmethod
    def _overwritable(step: Instruction) -> tuple[int, ...]:
        """Operands whose array the step may write its result into."""
        if elementwise_ufunc(step):
            return step.args
        if step.op.name in IN_PLACE:
            n = step.args[IN_PLACE[step.op.name]]
            return (n,) if step.args.count(n) == 1 else ()
        return ()

    # -- code ----------------------------------------------------------------------------------------------------------
    def name(self, content: Any) -> str:
        """A name for an object in the generated code."""
        name = self._known.get(id(content))
        if name is None:
            name = self._known[id(content)] = f"c{len(self._names)}"
            self._names[name] = content
        return name

    def line(self, text: str) -> None:
        """Append a line of code."""
        self._lines.append(text)

    def array(self, n: int) -> Any:
        """The array of a value, where it is the same in every call, else None."""
        return self._static.get(n)

    def reference(self, n: int) -> str:
        """The name of a value's array in the generated code."""
        if n in self._dynamic:
            return self._dynamic[n]
        self._names[f"s{n}"] = self._static[n]
        return f"s{n}"

    def part(self, n: int, index: Any) -> str:
        """The name of a view of a value's array by a basic index."""
        array = self.array(n)
        return f"{self.reference(n)}[{self.name(index)}]" if array is None else self.name(array[index])

    def _as_array(self, n: int) -> str:
        """The name of a value as an array, also where it is a Python number."""
        value = self.program.values[n]
        if value.number not in PYTHON_NUMBERS:
            return self.reference(n)
        if n not in self._arrays:
            self._arrays[n] = self.name(self._buffer((), value.dtype))
            self.line(f"copyto({self._arrays[n]}, {self.reference(n)})")
        return self._arrays[n]

    def _operand(self, n: int, step: Instruction) -> str | None:
        """A better operand of an elementwise step than the value as it is, if there is one."""
        array = self._read_in_order(n, _size(self.program.values[step.out]))
        return self._constant(n, step) if array is None else self.name(array)

    def _read_in_order(self, n: int, size: int) -> Any:
        """A copy, made in each call, of a small array that is read across its rows, for many entries: `size`."""
        array = self.array(n)
        if not isinstance(array, np.ndarray) or array.size < 1024 or size < 4 * array.size:
            return None
        used = [axis for axis, size in enumerate(array.shape) if size > 1]
        if abs(array.strides[used[-1]]) <= array.itemsize:
            return None
        copy = self._buffer(array.shape, array.dtype)
        self.line(f"copyto({self.name(copy)}, {self.reference(n)})")
        return copy

    def _constant(self, n: int, step: Instruction) -> str | None:
        """A constant Python number as an array of the dtype that it would be converted to in every call."""
        values = [self.program.values[m] for m in step.args]
        value = self.program.values[n]
        if value.kind != "constant" or value.number not in (int, float):
            return None
        ufunc: Any = step.op.value
        weak = [v.number if v.number in (int, float) else v.dtype for v in values]
        dtype = ufunc.resolve_dtypes((*weak, None))[step.args.index(n)]
        return self.name(np.asarray(value.content, dtype))

    def _view_of(self, step: Instruction) -> None:
        source = step.args[0]
        if source in self._static:
            self._static[step.out] = step.op.value(self._static[source], **step.params)
            return
        self._dynamic[step.out] = f"v{step.out}"
        operand = self.reference(source)
        if step.op.name == "getitem":
            call = f"{operand}[{self.name(step.params['index'])}]"
        elif step.op.name in ("reshape", "transpose"):
            (parameter,) = step.params.values()
            call = f"{operand}.{step.op.name}({self.name(parameter)})"
        else:
            call = f"{self.name(_with_params(step))}({operand})"
        self.line(f"v{step.out} = {call}")

    def _compute(self, step: Instruction) -> None:
        numbers = step.op.takes_numbers(len(step.args))
        args = [self.reference(n) if numbers else self._as_array(n) for n in step.args]
        out = self.reference(step.out)
        if elementwise_ufunc(step):
            names = [self._operand(n, step) or name for n, name in zip(step.args, args, strict=True)]
            ufunc(self, step, names, out)
        elif step.op.name not in LOWER or LOWER[step.op.name](self, step, args, out) is False:
            self.line(f"copyto({out}, {self.name(_with_params(step))}({', '.join(args)}))")


def _run_alone(tiles: list[Tiles], run: Callable[..., tuple[Any, ...]], *inputs: Any) -> tuple[Any, ...]:
    """Where tiles run on threads, BLAS has one in all steps: its others would wait for more on the same cores."""
    if any(each.spread for each in tiles):
        with blas():
            return run(*inputs)
    return run(*inputs)


def _described(stage: Stage) -> str:
    if isinstance(stage, Region):
        return f"{len(stage.steps)} operations for each of {stage.batch} samples, tile by tile"
    steps = stage.steps if isinstance(stage, Fused) else (stage,)
    texts = [f"%{step.out} = {step.op.name}({', '.join(f'%{n}' for n in step.args)})" for step in steps]
    return ("one loop: " if isinstance(stage, Fused) else "") + "; ".join(texts)


def _with_params(step: Instruction) -> Callable[..., Any]:
    value, params = step.op.value, step.params
    return (lambda *args: value(*args, **params)) if params else value


def _size(value: Value) -> int:
    return prod(value.shape)


def _nbytes(value: Value) -> int:
    return _size(value) * value.dtype.itemsize


def _aligned(size: int) -> Any:
    """Memory that begins at a cache line."""
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def _references(pool: list[Any]) -> list[int]:
    return [sys.getrefcount(array) for array in pool]


def _take(pool: list[Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """An array for a result: one made before that the caller has let go of, or a new one.

    A new large array costs a page fault for every 4 KiB when it is first written, more than the write itself.
    """
    for array, count in zip(pool, _references(pool), strict=True):
        if count == _ALONE:
            return array.view()  # which keeps a reference to it, and may be altered
    array = np.empty(shape, dtype)
    if len(pool) < 2:
        pool.append(array)
        return array.view()
    return array


_ALONE = _references([np.empty(0)])[0]
"""What `_references` counts for an array that only the pool holds."""
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)() and sys.implementation.name == "cpython"
