"""The CPU executor: a program as straight-line Python that calls NumPy with ``out=`` into planned buffers.

Everything that is known when the program is bound is bound: buffers, and every view of a buffer or a captured array.
What is left for a call is to copy the inputs in, one NumPy call for each operation that computes something, and to
allocate the results. The generated text holds names of this module's making and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..block import _view as strided
from ..labels import labels_in
from .record import Instruction, Program

__all__ = ["Executor"]

VIEWS = ("reshape", "transpose", "getitem", "squeeze", "expand_dims", "broadcast_to", "diagonal", "flip")


class Executor:
    """A program bound to buffers of its own; one thread at a time may call it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.source = ""
        self._names: dict[str, Any] = {"copyto": np.copyto, "take": _take}
        self._lines: list[str] = []
        self._static: dict[int, Any] = {}  # values whose array is known now
        self._dynamic: dict[int, str] = {}  # values whose array is another in every call
        self._root: dict[int, int] = {}
        self._owner: dict[int, Any] = {}  # root values, to the buffer that they were given
        self._free: list[Any] = []
        self.nbytes = 0
        self._bind()

    def __call__(self, arguments: list[Any]) -> tuple[Any, ...]:
        with np.errstate(all="ignore"):
            return self._run(*arguments)  # type: ignore[no-any-return]

    # -- binding -----------------------------------------------------------------------------------------------------------
    def _bind(self) -> None:
        program = self.program
        for n, value in enumerate(program.values):
            if value.kind in ("captured", "constant"):
                self._static[n] = value.content
                self._root[n] = n
        parameters = []
        for n in program.inputs:
            parameters.append(f"a{n}")
            self._root[n] = n
            if _is_number(program, n):
                self._dynamic[n] = f"a{n}"
            else:
                self._static[n] = self._buffer(program.values[n].shape, program.values[n].dtype)
                self._emit("copyto", n, f"a{n}")
        self._roots()
        last = self._last_uses()
        results = self._results()
        for step_number, step in enumerate(program.instructions):
            if self._root[step.out] != step.out:
                self._view_of(step)
                continue
            if step.out in results:
                self._dynamic[step.out] = f"v{step.out}"
                pool = self._name([])
                value = program.values[step.out]
                self._lines.append(f"v{step.out} = take({pool}, {self._name(value.shape)}, {self._name(value.dtype)})")
            else:
                self._static[step.out] = self._output_buffer(step, step_number, last)
            self._compute(step)
            for n in set(map(self._root.__getitem__, step.args)) | {step.out}:
                if last.get(n, -1) <= step_number and n in self._owner:
                    self._free.append(self._owner.pop(n))
        returned = [self._returned(n, results) for n in program.outputs]
        body = "\n    ".join([*self._lines, f"return ({''.join(f'{name}, ' for name in returned)})"])
        bound = ", ".join(f"{name}={name}" for name in self._names)
        self.source = f"def run({', '.join([*parameters, '*', bound])}):\n    {body}\n"
        namespace = dict(self._names)
        exec(compile(self.source, "<minijac program>", "exec"), namespace)
        self._run = namespace["run"]

    def _roots(self) -> None:
        """Which values are views of which: a step of a view operation, where NumPy makes a view of it."""
        for step in self.program.instructions:
            self._root[step.out] = step.out
            if step.op.name in VIEWS and self._makes_view(step):
                self._root[step.out] = self._root[step.args[0]]

    def _makes_view(self, step: Instruction) -> bool:
        """Try it on a dummy with the strides that the operand will have."""
        operand = self._dummy(step.args[0])
        result = step.op.value(operand, **step.params)
        return bool(np.shares_memory(result, operand)) if result.size else True

    def _dummy(self, n: int) -> Any:
        if n in self._static:
            return self._static[n]
        for step in self.program.instructions:
            if step.out == n and self._root.get(n, n) != n:
                return step.op.value(self._dummy(step.args[0]), **step.params)
        value = self.program.values[n]
        return np.empty(value.shape, value.dtype)

    def _last_uses(self) -> dict[int, int]:
        last: dict[int, int] = {}
        for number, step in enumerate(self.program.instructions):
            for n in step.args:
                last[self._root[n]] = number
        for n in self.program.outputs:
            last[self._root[n]] = len(self.program.instructions)
        return last

    def _results(self) -> set[int]:
        """Computed roots that are returned as they are: made anew for every call, never in a planned buffer."""
        found = set()
        for n in self.program.outputs:
            root = self._root[n]
            value, source = self.program.values[n], self.program.values[root]
            whole = value.kind == "computed" and source.kind == "computed" and _size(value) == _size(source)
            if whole and root not in found and self._dummy(n).flags.c_contiguous:
                found.add(root)
        return found

    def _returned(self, n: int, results: set[int]) -> str:
        """The name of an output's array, which nothing else holds."""
        value = self.program.values[n]
        taken = [m for m in self.program.outputs[: self.program.outputs.index(n)] if self._root[m] == self._root[n]]
        if self._root[n] in results and not taken and _size(value) == _size(self.program.values[self._root[n]]):
            return self._reference(n)
        if value.shape == () and value.kind == "constant" and not isinstance(value.content, np.ndarray):
            return self._reference(n)
        name = f"r{len(self._lines)}"
        self._lines.append(f"{name} = take({self._name([])}, {self._name(value.shape)}, {self._name(value.dtype)})")
        self._lines.append(f"copyto({name}, {self._reference(n)})")
        return name

    def _buffer(self, shape: tuple[int, ...], dtype: Any) -> Any:
        array = np.empty(shape, dtype)
        self.nbytes += array.nbytes
        return array

    def _output_buffer(self, step: Instruction, number: int, last: dict[int, int]) -> Any:
        """A buffer for a step's result: that of an operand which dies here, a free one, or a new one."""
        value = self.program.values[step.out]
        if step.op.name in ("relabel", "pad"):  # its zeros are written once and stay: the buffer is its own
            array = self._buffer(value.shape, value.dtype)
            array[...] = step.params.get("constant", 0)
            return array
        if isinstance(step.op.value, np.ufunc):
            for n in step.args:
                dies = last.get(n, -1) == number and n in self._owner and self._root[n] == n
                same = self.program.values[n].shape == value.shape and self.program.values[n].dtype == value.dtype
                if dies and same and [self._root[m] for m in step.args].count(n) == step.args.count(n):
                    self._owner[step.out] = self._owner.pop(n)
                    return self._static[n]
        size = _size(value) * value.dtype.itemsize
        fitting = [raw for raw in self._free if size <= raw.nbytes <= 2 * size]
        if fitting:
            raw = min(fitting, key=lambda raw: raw.nbytes)
            self._free = [other for other in self._free if other is not raw]
        else:
            raw = np.empty(size, np.uint8)
            self.nbytes += size
        self._owner[step.out] = raw
        return raw[:size].view(value.dtype).reshape(value.shape)

    # -- code --------------------------------------------------------------------------------------------------------------
    def _name(self, content: Any) -> str:
        name = f"c{len(self._names)}"
        self._names[name] = content
        return name

    def _reference(self, n: int) -> str:
        """The name of a value's array in the generated code."""
        if n in self._dynamic:
            return self._dynamic[n]
        name = f"s{n}"
        self._names[name] = self._static[n]
        return name

    def _emit(self, function: str, out: int, *args: str) -> None:
        self._lines.append(f"{function}({', '.join([self._reference(out), *args])})")

    def _view_of(self, step: Instruction) -> None:
        source = step.args[0]
        if source in self._static:
            self._static[step.out] = step.op.value(self._static[source], **step.params)
        else:
            self._dynamic[step.out] = f"v{step.out}"
            call = _with_params(step.op.value, step.params)
            self._lines.append(f"v{step.out} = {self._name(call)}({self._reference(source)})")

    def _compute(self, step: Instruction) -> None:
        name, value = step.op.name, step.op.value
        args = [self._reference(n) for n in step.args]
        if isinstance(value, np.ufunc) and value.nin == len(args) and self._castable(step):
            self._lines.append(f"{self._name(value)}({', '.join([*args, self._reference(step.out)])})")
        elif name == "where":
            self._emit("copyto", step.out, args[2])
            self._lines.append(f"copyto({self._reference(step.out)}, {args[1]}, where={args[0]})")
        elif name in REDUCTIONS:
            call = _reduction(REDUCTIONS[name], step.params)
            self._lines.append(f"{self._name(call)}({args[0]}, {self._reference(step.out)})")
        elif name == "mean":
            axes = step.params["axis"]
            count = float(np.prod([self.program.values[step.args[0]].shape[k] for k in axes], dtype=float))
            call = _reduction(np.add, step.params)
            out = self._reference(step.out)
            self._lines.append(f"{self._name(call)}({args[0]}, {out})")
            self._lines.append(f"{self._name(np.divide)}({out}, {self._name(count)}, {out})")
        elif name == "relabel" and step.out in self._static and _plain_embedding(step):
            labels = tuple(labels_in(step.params["inp"]))
            self._names[f"e{step.out}"] = strided(self._static[step.out], step.params["out"], labels)
            self._lines.append(f"copyto(e{step.out}, {args[0]})")
        elif name == "sigmoid":
            out = self._reference(step.out)
            multiply, tanh, add = self._name(np.multiply), self._name(np.tanh), self._name(np.add)
            self._lines += [f"{multiply}({args[0]}, 0.5, {out})", f"{tanh}({out}, {out})"]
            self._lines += [f"{multiply}({out}, 0.5, {out})", f"{add}({out}, 0.5, {out})"]
        elif name == "relu":
            self._lines.append(f"{self._name(np.maximum)}({args[0]}, 0.0, {self._reference(step.out)})")
        elif name == "astype":
            self._lines.append(f"copyto({self._reference(step.out)}, {args[0]}, 'unsafe')")
        else:
            call = self._name(_with_params(value, step.params))
            self._emit("copyto", step.out, f"{call}({', '.join(args)})")

    def _castable(self, step: Instruction) -> bool:
        """Whether the ufunc computes in the dtype of its result, so that ``out=`` changes nothing."""
        dtypes = [self.program.values[n].dtype for n in step.args]
        wide = [d for n, d in zip(step.args, dtypes, strict=True) if not _is_number(self.program, n)]
        return bool(wide) and len({d for d in wide}) == 1


REDUCTIONS: dict[str, Any] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def _reduction(ufunc: Any, params: dict[str, Any]) -> Callable[[Any, Any], Any]:
    axis, keepdims = params["axis"], params.get("keepdims", False)
    reduce = ufunc.reduce
    return lambda x, out: reduce(x, axis, None, out, keepdims)


def _with_params(value: Callable[..., Any], params: dict[str, Any]) -> Callable[..., Any]:
    return (lambda *args: value(*args, **params)) if params else value


def _plain_embedding(step: Instruction) -> bool:
    """Whether a relabelling writes each entry of its operand to one place, and each axis of it is one label."""
    inp, out = step.params["inp"], step.params["out"]
    labels = tuple(labels_in(inp))
    return inp == tuple((label,) for label in labels) and set(labels_in(out)) == set(labels)


def _is_number(program: Program, n: int) -> bool:
    value = program.values[n]
    return value.kind in ("input", "constant") and value.shape == () and isinstance(value.content, int | float)


def _size(value: Any) -> int:
    return int(np.prod(value.shape, dtype=int))


def _take(pool: list[Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """An array for a result: one made before that the caller has let go of, or a new one.

    A new large array costs a page fault for every 4 KiB when it is first written, more than the write itself.
    """
    for array in pool:
        if sys.getrefcount(array) == 3:  # the pool, the loop variable, and the call's argument
            return array
    array = np.empty(shape, dtype)
    if len(pool) < 2:
        pool.append(array)
    return array
