"""Closing a function over what traces follow: its traced arguments and those that it captures become operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..arguments import flatten, unflatten
from ..errors import TraceError
from ..lines import user_line
from ..numpy.ordered import laid
from ..numpy.picked import Picked
from ..tape.op import Op
from ..tape.trace import THREAD, Node, Trace
from ..tape.traced import Traced

__all__ = ["Closed", "Inside", "Run", "as_inside", "innermost"]


class Inside(Trace):
    """The trace of a function's inside: what older traces follow enters it as an input, captured values too.

    `values` gives what operands, found on an earlier run, stand for here; without it they stand for plain arrays.
    Of traces that began `since` then values are below this one.
    """

    __slots__ = ("_begun", "_entered", "_since", "_values", "operands")

    def __init__(
        self, operands: Sequence[Traced] = (), values: Sequence[Any] | None = None, since: int | None = None
    ) -> None:
        super().__init__()
        self._since = self.serial if since is None else since
        self.operands: list[Traced] = []
        """What has entered, each once, in the order of the inputs."""
        self._entered: dict[tuple[int, int], Traced] = {}
        self._values = values
        self._begun: dict[int, int] = {}
        """How much older traces had recorded when this run began: what they record since is made of its values."""
        for value in values or ():
            while isinstance(value, Traced):
                self._begun[value.home.serial] = len(value.home.nodes)
                value = value.value
        for operand in operands:
            self._enter(operand, values[len(self.operands)])  # type: ignore[index]

    def entered(self, x: Any) -> Any:
        """The value of this trace that an operand is here."""
        if not isinstance(x, Traced) or x.home is self:
            return x
        known = x.home.known(x)
        if known is not None:
            return known
        found = self._entered.get((x.home.serial, x.index))
        if found is None:
            if x.home.serial > self._since or x.index >= self._begun.get(x.home.serial, x.index + 1):
                return x
            if self._values is not None:
                raise TraceError(
                    f"a function that is run again to be differentiated met, at {user_line()}, a traced value that it "
                    "had not met before. Expected a function that does the same whenever it is called: no state, no "
                    "random decisions."
                )
            found = self._enter(x, x.lowest())
        return found

    def process(self, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
        before, THREAD.inside = THREAD.inside, None  # the values of what is inside are outside of it
        try:
            return super().process(op, tuple([self.entered(arg) for arg in args]), params)
        finally:
            THREAD.inside = before

    def close(self) -> None:
        """End the recording. What it refers to in circles is let go of, so that memory is free without a collection."""
        super().close()
        self._entered.clear()

    def _enter(self, x: Traced, value: Any) -> Traced:
        self.operands.append(x.fresh())
        found = self._entered[x.home.serial, x.index] = self.input(value)
        return found


def as_inside(x: Any) -> Any:
    """A value as the inside that is being recorded, if one is, sees it."""
    outer: Any = THREAD.inside
    return outer.entered(x) if outer is not None and isinstance(x, Traced) and x.home.serial <= outer.serial else x


class Run(NamedTuple):
    """One run of a function's inside: its tape, and its results as leaves, with the node of each that was computed."""

    nodes: Sequence[Node]
    inputs: Sequence[int]
    outputs: Sequence[int | None]
    values: Sequence[Any]
    tree: Any


class Closed:
    """A function of its operands alone: all traced values among its arguments, then those that it captures.

    With `free`, the leaves of its arguments are given anew for every run, and the operands are what it captures.
    """

    __slots__ = ("_call", "_free", "_leaves", "_met", "_since", "_tree", "first", "operands")

    def __init__(self, f: Callable[..., Any], args: Any, kwargs: Any, free: bool = False) -> None:
        self._leaves, self._tree = flatten((args, kwargs))
        self._call = f
        self._free = free
        inside = Inside()
        self._since = inside.serial
        self.first: Run | None = self._run(
            inside, [leaf.lowest() if isinstance(leaf, Traced) else leaf for leaf in self._leaves]
        )
        """The run that found the operands, on the values below all traces."""
        self._met: Sequence[Traced] = inside.operands
        self.operands: Sequence[Traced] = [as_inside(x) for x in self._met]
        """The operands, as the inside that is being recorded sees them."""

    def run(self, values: Sequence[Any], leaves: Sequence[Any] = ()) -> Run:
        """What the function does where its operands have other values, and with `free` its arguments other leaves."""
        return self._run(Inside(self._met, values, self._since), leaves)

    def __call__(self, values: Sequence[Any], leaves: Sequence[Any] = ()) -> Any:
        """The function's result where its operands have other values."""
        run = self.run(values, leaves)
        return unflatten(run.tree, run.values)

    def _run(self, inside: Inside, leaves: Sequence[Any]) -> Run:
        with _entered(inside):
            if self._free:
                own = [inside.input(leaf) if hasattr(leaf, "dtype") else leaf for leaf in leaves]
            else:
                own = [inside.entered(leaf) for leaf in self._leaves]
            args, kwargs = unflatten(self._tree, own)
            result = self._call(*args, **kwargs)
            leaves, tree = flatten(result)
            leaves = [inside.entered(laid(leaf)) for leaf in leaves]
            for leaf in leaves:
                if isinstance(leaf, Picked) and leaf.home.serial > inside.serial:
                    leaf._refuse("a result of a step")
            inside.check_captured()
        outputs = [leaf.index if isinstance(leaf, Traced) and leaf.index >= 0 else None for leaf in leaves]
        values = [leaf.value if isinstance(leaf, Traced) else leaf for leaf in leaves]
        inputs = [n for n, node in enumerate(inside.nodes) if node.op is None]
        return Run(inside.nodes, inputs, outputs, values, tree)


@contextmanager
def _entered(inside: Inside) -> Iterator[None]:
    before, THREAD.inside = THREAD.inside, inside
    try:
        yield
    finally:
        THREAD.inside = before
        inside.close()


def innermost(operands: Sequence[Any]) -> Trace | None:
    """The youngest trace among those that follow the operands."""
    homes = [x.home for x in operands if isinstance(x, Traced)]
    return max(homes, key=lambda home: home.serial, default=None)
