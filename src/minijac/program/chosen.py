"""The numbers for which a program is made: positions that Python or NumPy look something plain up by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..backend import on_gpu
from ..lines import user_line
from .ir import Instruction, carried_out
from .loops import LOOP, PICK

if TYPE_CHECKING:
    from .record import Recorder

__all__ = ["Chosen"]


class Chosen:
    """The numbers of integer arguments that were asked for, and of what is computed from them alone."""

    def __init__(self) -> None:
        self.known: dict[int, Any] = {}
        """By number of the value."""
        self.line = ""
        """The user's line that asked first."""

    def numbers(self, recorder: Recorder, n: int) -> Any:
        """A value's numbers; None where it is computed of other arguments than integers, of a loop, or on a GPU."""
        steps: dict[int, Instruction] = {}
        begun: dict[int, Any] = {}
        waiting = [n]
        while waiting:
            k = waiting.pop()
            step, value = recorder.maker(k), recorder.values[k]
            if k in self.known or k in steps or k in begun:
                continue
            if step is not None:
                steps[k] = step
                waiting += step.args
            elif value.kind != "input" or value.dtype.kind in "iub":
                begun[k] = recorder.given[k] if value.kind == "input" else value.content
            else:
                return None
        if any(step.op in (LOOP, PICK) for step in steps.values()) or any(map(on_gpu, begun.values())):
            return None
        recorder.look_at(begun)
        self.line = self.line or user_line()
        self.known |= begun
        for k in sorted(steps):
            op, args, params, _ = steps[k]
            self.known[k] = carried_out(op, tuple([self.known[i] for i in args]), params)
        return self.known[n]
