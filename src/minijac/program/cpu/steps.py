"""Carrying out a loop: its body is bound once, and called for each step on other arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ir import PYTHON_NUMBERS, Instruction, Value
from ..loops import LOOP, PICK, Loop
from .native.commands import Slot, Tile, carried_out
from .regions import Binders

__all__ = ["Repeated", "Steps", "with_loops"]


class Repeated(NamedTuple):
    """A loop as a stage: the values that it reads, and those of its results that are picked."""

    loop: Loop
    args: tuple[int, ...]
    picks: tuple[tuple[int, int], ...]
    """Which result, and the value that it is."""

    @property
    def outs(self) -> tuple[int, ...]:
        return tuple([n for _, n in self.picks])


def with_loops(stages: Iterable[Any]) -> list[Any]:
    """The stages, with loops that say themselves what is picked of them."""
    stages = list(stages)
    picks: dict[int, list[tuple[int, int]]] = {}
    for stage in stages:
        if isinstance(stage, Instruction) and stage.op is PICK:
            picks.setdefault(stage.args[0], []).append((stage.params["index"], stage.out))
    result: list[Any] = []
    for stage in stages:
        if isinstance(stage, Instruction) and stage.op is LOOP:
            result.append(Repeated(stage.params["loop"], stage.args, tuple(picks.get(stage.out, ()))))
        elif not isinstance(stage, Instruction) or stage.op is not PICK:
            result.append(stage)
    return result


class Steps:
    """A loop bound to buffers of its own; called with the arrays that it is given, then those of its picked results."""

    keeps_blas = False

    def __init__(self, stage: Repeated, bind: Binders) -> None:
        loop = self._loop = stage.loop
        self._place = {result: place for place, (result, _) in enumerate(stage.picks)}
        made = [loop.body.values[n] for n in loop.body.outputs]
        self._buffers: list[tuple[Any, ...]] = [
            tuple(np.empty(value.shape, value.dtype) for _ in "ab") for value in made[: loop.carries]
        ]
        unread = [k for k in range(loop.carries, len(made)) if k not in self._place]
        self._unread = {k: np.empty(loop.result(k).shape, made[k].dtype) for k in unread}
        given = [loop.body.values[n] for n in loop.body.inputs]
        self._numbers = [value.number in PYTHON_NUMBERS for value in given[loop.carries : loop.carries + loop.rows]]
        self._tile, self._same = self._native(bind), list[Any]()
        if self._tile is not None:  # which has them in an order of its own
            own = [slot.array for slot in self._tile.slots]
            self._buffers = list(zip(own, own[len(loop.body.inputs) :], strict=False))[: loop.carries]
            self._same = own[loop.carries + loop.rows : len(loop.body.inputs)]
        self._executor: Any = self._tile or bind.calls(loop.body, [True for _ in loop.body.outputs], 1.0)

    @property
    def nbytes(self) -> int:
        copies = [x for x in self._same if not x.flags.c_contiguous]
        own: int = sum(buffer.nbytes for pair in (*self._buffers, copies) for buffer in pair)
        return own + int(self._executor.nbytes)

    @property
    def source(self) -> str:
        return f"# {self._loop.length} times:\n{self._executor.source}"

    def __call__(self, *arrays: Any) -> None:
        loop, place = self._loop, self._place
        first, last, count = loop.carries, loop.carries + loop.rows, len(loop.body.inputs)
        results = arrays[count:]
        ends = {k: results[place[k]] for k in range(first) if k in place}
        made = range(first, first + len(loop.stacked))
        ys = [results[place[k]] if k in place else self._unread[k] for k in made]
        if self._tile is None:
            self._with_calls(arrays[:first], arrays[first:last], arrays[last:count], ends, ys)
        else:
            self._with_machine_code(self._tile, arrays[:first], arrays[first:count], ends, ys)

    def _with_calls(self, state: Sequence[Any], xs: Sequence[Any], same: Any, ends: dict[int, Any], ys: Any) -> None:
        loop, run = self._loop, self._executor.run
        xs = [x.tolist() if number else x for x, number in zip(xs, self._numbers, strict=True)]
        for t in range(loop.length):
            rows = [x[t] if number else x[t, ...] for x, number in zip(xs, self._numbers, strict=True)]
            made = [y[t, ...] if stacked else y for y, stacked in zip(ys, loop.stacked, strict=True)]
            following = [pair[t % 2] for pair in self._buffers]
            if t == loop.length - 1:
                following = [ends.get(k, buffer) for k, buffer in enumerate(following)]
            run(*state, *rows, *same, *following, *made)
            state = following

    def _with_machine_code(self, tile: Tile, state: Any, given: Sequence[Any], ends: dict[int, Any], ys: Any) -> None:
        for (buffer, _), x in zip(self._buffers, state, strict=True):
            np.copyto(buffer, x)
        rows = [np.ascontiguousarray(x, dtype) for x, dtype in zip(given, self._dtypes, strict=False)]
        same = [_placed(x, own) for x, own in zip(given[len(rows) :], self._same, strict=True)]
        arrays = [*(a for a, _ in self._buffers), *rows, *same, *(b for _, b in self._buffers), *ys]
        bases = np.array([x.ctypes.data for x in arrays], np.int64)
        carried_out(tile, None, self._loop.length, np.zeros(2, np.int64), bases, arrays, in_order=True)
        for k, end in ends.items():
            np.copyto(end, self._buffers[k][0])

    def _native(self, bind: Binders) -> Tile | None:
        """The body as machine code, whose tiles are the steps; rows that are numbers have the dtype that they meet."""
        loop, body = self._loop, self._loop.body
        values = list(body.values)
        numbers = [n for n, number in zip(body.inputs[loop.carries :], self._numbers, strict=False) if number]
        for n in numbers:
            met = {values[step.out].dtype for step in body.instructions if n in step.args}
            if len(met) != 1 or any(dtype.kind != "f" for dtype in met):
                return None
            values[n] = Value((), met.pop(), "input")
        self._dtypes = [values[n].dtype for n in body.inputs[loop.carries : loop.carries + loop.rows]]
        same = len(body.inputs) - loop.carries - loop.rows
        moving = [*(False,) * loop.carries, *(True,) * loop.rows, *(False,) * (same + loop.carries), *loop.stacked]
        slots = []
        for k, (n, moves) in enumerate(zip((*body.inputs, *body.outputs), moving, strict=True)):
            array = np.empty(values[n].shape, values[n].dtype)
            own = not moves and k < len(body.inputs) + loop.carries
            slots.append(Slot(array, array.nbytes if moves else 0, own))
        return bind.native(body._replace(values=tuple(values)), slots, loop.carries)


def _placed(x: Any, like: Any) -> Any:
    """An array that lies in memory as another one does: itself, or a copy in that one."""
    if like.flags.c_contiguous:
        return np.ascontiguousarray(x, like.dtype)
    np.copyto(like, x)
    return like
