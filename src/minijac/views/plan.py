"""What a plan is, said out loud: candidates and prices, the chosen order and its cuts, the structure of each block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..accumulation.graph import Graph
from ..accumulation.plan import Order, Plan, chain_of, coarse_chain, mixed_plan, price, segment, worth_rehearsing
from ..accumulation.recording import Prepared, prepare, sample_places
from ..accumulation.results import batch_first
from ..accumulation.shadow import Cost, Ledger, ShadowGraph
from ..algebra.block import Block
from ..arguments import checked_options, some_primals
from ..backend import at_home
from ..foreign import a_function
from ..operator.words import describe
from ..places import ANYWHERE, Place
from ..tape.trace import Node
from ..ways.memory import held_bytes
from .tape import line_of, name_of, table

__all__ = ["Explanation", "Step", "explain"]

COLOURS = {"forward": "#cfe2f3", "reverse": "#fce5cd", "": "#eeeeee"}
"""Of the nodes in a picture: which side their block is multiplied from."""


class Step(NamedTuple):
    """One block of a plan: at a node (forward and reverse), or of the segment that ends in it (mixed)."""

    node: int
    start: int
    """The node at the other end of the block."""
    direction: str
    """The side from which it is multiplied: ``"forward"`` from the input's, ``"reverse"`` from the output's."""
    structure: str
    bytes: int
    """Of the data that the block holds."""
    cut: str
    """``"cut"`` where the chain is cut behind the node, ``"meet"`` where products from both sides meet there."""


class Candidate(NamedTuple):
    """A plan with its price."""

    plan: Plan
    cost: Cost


def candidates(graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> list[Candidate]:
    """Forward, reverse and mixed, each with its predicted cost."""
    plans = [Plan("forward"), Plan("reverse"), mixed_plan(graph, inputs, outputs)]
    return [Candidate(plan, price(graph, plan, inputs, outputs)) for plan in plans]


class Explanation:
    """How a Jacobian would be accumulated, and why. ``print`` it, or draw it with `to_dot` and `to_svg`.

    Attributes: `candidates` (plans with their `Cost`), `plan` (the chosen one), `steps`, `orders` (one line for each
    chain of a mixed plan), `result` (the structure of each Jacobian), `held` (bytes of recorded values and local
    derivatives), `remarks` (lines of what else there is to know).
    """

    def __init__(self, ready: Prepared, args: Sequence[Any], mode: Any) -> None:
        inputs, nodes = ready.run.inputs, ready.nodes
        self.nodes: Sequence[Node] = ready.run.nodes
        self.outputs = nodes
        self.asked = mode if isinstance(mode, str) else "an explicit plan"
        self.candidates: list[Candidate] = candidates(ready.graph, inputs, nodes)
        self.plan: Plan = ready.plan(mode)
        if not isinstance(mode, str):
            self.candidates.append(Candidate(self.plan, price(ready.graph, self.plan, inputs, nodes)))
        self.priced = worth_rehearsing(ready.graph, ready.seeds)
        """Whether ``"auto"`` looks at prices, or goes from the side with fewer entries."""
        self.held = held_bytes(ready, args)
        self.orders: list[str] = []
        self.result: list[str] = []
        self.remarks: list[str] = []
        self.steps: list[Step] = list(self._steps(ready))

    @property
    def chosen(self) -> Candidate:
        """The plan that is carried out, with its price."""
        same = [found for found in self.candidates if found.plan == self.plan]
        return (same or [found for found in self.candidates if found.plan.mode == self.plan.mode])[-1]

    # -- the blocks ----------------------------------------------------------------------------------------------------
    def _steps(self, ready: Prepared) -> Iterator[Step]:
        axes = _batch_axes(ready)

        def words(block: Block, o: int, i: int) -> str:
            a, b = axes.get(o), axes.get(i)
            batched = a is not None and b is not None
            return describe((batch_first(block, a, b) if batched else block).terms, batched)

        if self.plan.mode == "mixed":
            yield from self._mixed_steps(ready, words)
            return
        forward = self.plan.mode == "forward"
        for end in ready.run.inputs if forward else ready.nodes:
            ledger = Ledger()
            graph = ShadowGraph(ready.graph, ledger)
            seed = {end: Block.identity(self.nodes[end].out.shape, ledger.one)}
            graph.outputs = [i for i in graph.order if i != end]  # keep the block of every node
            blocks = graph.forward(seed) if forward else _reverse_everywhere(graph, seed)
            for i, block in sorted(blocks.items(), reverse=not forward):
                pair = (i, end) if forward else (end, i)
                last = i in ready.nodes if forward else i in ready.run.inputs
                if last:
                    self.result.append(words(block, *pair))
                yield Step(i, end, self.plan.mode, words(block, *pair), _bytes(block), "")

    def _mixed_steps(self, ready: Prepared, words: Callable[[Block, int, int], str]) -> Iterator[Step]:
        for m, o in enumerate(ready.nodes):
            for n, i in enumerate(ready.run.inputs):
                ledger = Ledger()
                graph = ShadowGraph(ready.graph, ledger).between(i, o)
                if o not in graph.outputs or o == i:
                    continue
                chain = coarse_chain(graph, chain_of(graph, i, o))
                order = self.plan.order[m, n]
                directions, meets = _directions(order)
                named = {k: f"S{k}" for k in range(len(chain) - 1)}
                where = ", ".join(f"%{chain[k]}" for k in meets)
                meeting = f", meeting at {where}" if where else ""
                self.orders.append(f"output %{o} by input %{i}: J = {_written(order, named)}{meeting}")
                whole: Block | None = None
                for k, (a, b) in enumerate(pairwise(chain)):
                    block = segment(graph, a, b, ledger.one, k in _backward(order))
                    whole = block if whole is None else block.after(whole)
                    cut = "meet" if k + 1 in meets else "cut" if b != o else ""
                    yield Step(b, a, directions[k], words(block, b, a), _bytes(block), cut)
                assert whole is not None
                self.result.append(words(whole, o, i))

    # -- as text -------------------------------------------------------------------------------------------------------
    def __str__(self) -> str:
        chosen = self.chosen
        rows = [("candidate", "multiply-adds", "entries moved", "peak bytes", "predicted time")]
        for found in self.candidates:
            name = found.plan.mode if found is not self.candidates[-1] or len(self.candidates) == 3 else "explicit"
            cost = found.cost
            mark = " *" if found is chosen else ""
            rows.append((name + mark, f"{cost.multiply_adds:,}", f"{cost.moved:,}", f"{cost.peak_bytes:,}",
                         _time(cost.nanoseconds)))  # fmt: skip
        text = [table(rows, right=(1, 2, 3, 4)), "", self.reason]
        text += [f"order: {order}" for order in self.orders]
        mixed = self.plan.mode == "mixed"
        head = ("segment" if mixed else "node", "operation", "shape", "line", "side", "block", "bytes", "")
        rows_of_blocks: list[tuple[str, ...]] = [head]
        for k, step in enumerate(self.steps):
            node = self.nodes[step.node]
            name = f"S{self._number(k)}: %{step.start} to %{step.node}" if mixed else f"%{step.node}"
            rows_of_blocks.append((name, name_of(node), str(list(node.out.shape)), line_of(node), step.direction,
                                   step.structure, f"{step.bytes:,}", step.cut))  # fmt: skip
        text += ["", table(rows_of_blocks, right=(6,)), ""]
        text += [f"result: {words}" for words in self.result]
        text.append(f"held meanwhile: {self.held:,} bytes of recorded values and local derivatives")
        return "\n".join([*text, *self.remarks])

    __repr__ = __str__

    def _number(self, k: int) -> int:
        """The number of a segment within its chain."""
        n = 0
        while k > 0 and self.steps[k].start == self.steps[k - 1].node:
            k, n = k - 1, n + 1
        return n

    @property
    def reason(self) -> str:
        """Why this plan, in a sentence."""
        chosen = self.chosen
        others = [found for found in self.candidates if found is not chosen]
        prices = ", ".join(f"{_time(found.cost.nanoseconds)} {found.plan.mode}" for found in others)
        taken = f"{_time(chosen.cost.nanoseconds)} against {prices}"
        if self.asked == "auto":
            why = "the least predicted time" if self.priced else "from where seeds are fewer, as pricing takes long"
            return f"chosen: {chosen.plan.mode}, {why}, {taken}"
        return f"chosen: {chosen.plan.mode}, as asked for ({self.asked}); predicted time {taken}"

    # -- as a picture --------------------------------------------------------------------------------------------------
    def _colours(self) -> dict[int, str]:
        """The side of each node that a block crosses."""
        found: dict[int, str] = {}
        for step in self.steps:
            for i in range(step.start + 1, step.node + 1) if self.plan.mode == "mixed" else [step.node]:
                found.setdefault(i, step.direction)
        return found

    def _labels(self, i: int) -> list[str]:
        node = self.nodes[i]
        lines = [f"%{i} {name_of(node)} {list(node.out.shape)}"]
        for step in self.steps:
            if step.node == i:
                lines.append((f"{step.cut}: " if step.cut else "") + step.structure)
        return lines

    def to_dot(self) -> str:
        """The tape in Graphviz's language: coloured by direction, each block's structure at its node, cuts outlined."""
        colours, cuts = self._colours(), {step.node for step in self.steps if step.cut}
        lines = ["digraph plan {", '  node [shape=box, style=filled, fontname="monospace", fontsize=10];']
        for i, node in enumerate(self.nodes):
            label = "\\n".join(line.replace('"', "'") for line in self._labels(i))
            width = ", penwidth=3" if i in cuts else ""
            lines.append(f'  n{i} [label="{label}", fillcolor="{COLOURS[colours.get(i, "")]}"{width}];')
            lines += [f"  n{p} -> n{i};" for p in node.parents if p >= 0]
        return "\n".join([*lines, "}"])

    def to_svg(self) -> str:
        """The same as a picture: one box under the other, arcs for values used further down."""
        colours, cuts = self._colours(), {step.node for step in self.steps if step.cut}
        labels = [self._labels(i) for i in range(len(self.nodes))]
        heights = [14 * len(lines) + 8 for lines in labels]
        tops = [10 + sum(heights[:i]) + 14 * i for i in range(len(heights))]
        left = 110
        width = left + 20 + 7 * max((len(line) for lines in labels for line in lines), default=0)
        body = []
        for i, node in enumerate(self.nodes):
            for p in dict.fromkeys(node.parents):
                if p >= 0:
                    body.append(_arrow(p, i, tops, heights, left))
        for i, lines in enumerate(labels):
            fill, stroke = COLOURS[colours.get(i, "")], 3 if i in cuts else 1
            body.append(
                f'<rect x="{left}" y="{tops[i]}" width="{width - left - 10}" height="{heights[i]}" rx="3" '
                f'fill="{fill}" stroke="#444444" stroke-width="{stroke}"/>'
            )
            for k, line in enumerate(lines):
                body.append(f'<text x="{left + 6}" y="{tops[i] + 15 + 14 * k}">{escape(line)}</text>')
        total = tops[-1] + heights[-1] + 30 if tops else 40
        key = "".join(f'<tspan fill="{colour}" stroke="#444" stroke-width="0.4">   \u25a0</tspan> {name}'
                      for name, colour in COLOURS.items() if name)  # fmt: skip
        body.append(f'<text x="10" y="{total - 8}">plan: {escape(self.chosen.plan.mode)}{key}</text>')
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(width, 520)}" height="{total}" '
            'font-family="monospace" font-size="11">',
            '<rect width="100%" height="100%" fill="white"/>',
            *body,
            "</svg>",
        ])  # fmt: skip


def explain(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    batch_axis: int | Sequence[int | None] | None = 0,
    mode: Any = "auto",
) -> Explanation:
    """How the Jacobian of ``f(*args)`` is accumulated: candidates and prices, the choice, its cuts, the blocks.

    Args:
        f, argnums, batch_axis, mode: As for `jacobian`. `f` runs once; no Jacobian is computed.

    Returns what can be printed, and drawn with ``to_dot()`` (Graphviz) and ``to_svg()``.

    >>> import numpy as np
    >>> print(explain(lambda x: np.tanh(x @ np.ones((4, 2))), np.ones((3, 4))).result[0])
    dense, product of 2 factors
    """
    a_function(f, "explain", "x")
    some_primals("explain", args)
    options = checked_options(argnums=argnums, batch_axis=batch_axis, mode=mode)
    with at_home(args) as args:
        ready = prepare(f, args, {}, options)
        with np.errstate(all="ignore"):
            return Explanation(ready, args, mode)


# -- blocks ------------------------------------------------------------------------------------------------------------
def _bytes(block: Block) -> int:
    arrays = {id(f.array): f.array for term in block.terms for f in term.factors if hasattr(f.array, "nbytes")}
    return sum(array.nbytes for array in arrays.values())


def _reverse_everywhere(graph: ShadowGraph, seed: dict[int, Block]) -> dict[int, Block]:
    """The block from every node to the seed's."""
    blocks = dict(seed)
    for i in reversed(graph.order):
        for k, p in graph.operands(i) if i in blocks else []:
            part = graph.edge(i, k).before(blocks[i])
            blocks[p] = blocks[p] + part if p in blocks else part
    return {i: block for i, block in blocks.items() if i not in seed}


def _batch_axes(ready: Prepared) -> dict[int, int]:
    """The axis that holds the samples, for nodes that have them on an axis of their own."""
    if ready.batch is None:
        return {}
    return {
        i: place.axis
        for i, place in sample_places(ready)[0].items()
        if isinstance(place, Place)
        and place is not ANYWHERE
        and place.stride == 1
        and ready.run.nodes[i].out.shape[place.axis] == ready.batch
    }


# -- orders ------------------------------------------------------------------------------------------------------------
def _is_leaf(order: Order) -> bool:
    return isinstance(order, int) or order[0] == "reverse"


def _leaves(order: Order) -> list[int]:
    if isinstance(order, int):
        return [order]
    return [order[1]] if order[0] == "reverse" else _leaves(order[1]) + _leaves(order[0])


def _backward(order: Order) -> set[int]:
    if isinstance(order, int):
        return set()
    return {order[1]} if order[0] == "reverse" else _backward(order[0]) | _backward(order[1])


def _directions(order: Order) -> tuple[dict[int, str], list[int]]:
    """The side from which each segment is multiplied, and the cuts where products from both sides meet."""
    if _is_leaf(order):
        (k,) = _leaves(order)
        return {k: "reverse" if k in _backward(order) else "forward"}, []
    after, before = order
    (high, high_meets), (low, low_meets) = _directions(after), _directions(before)
    if not _is_leaf(after) and not _is_leaf(before):
        return low | high, [*low_meets, min(high), *high_meets]
    if _is_leaf(after):  # pushed on from the input's side
        return low | dict.fromkeys(high, "forward"), low_meets
    return dict.fromkeys(low, "reverse") | high, high_meets


def _written(order: Order, named: dict[int, str]) -> str:
    if _is_leaf(order):
        return named[_leaves(order)[0]]
    after, before = (_written(part, named) for part in order)
    parts = [f"({text})" if " " in text else text for text in (after, before)]
    return " ".join(parts)


# -- words -------------------------------------------------------------------------------------------------------------
def _time(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"


def _arrow(p: int, i: int, tops: Sequence[int], heights: Sequence[int], left: int) -> str:
    """A short line to the next box, or an arc past those between."""
    if i == p + 1:
        x = left + 30
        return f'<line x1="{x}" y1="{tops[p] + heights[p]}" x2="{x}" y2="{tops[i]}" stroke="#444444"/>'
    start, end = tops[p] + heights[p] / 2, tops[i] + heights[i] / 2
    bow = left - min(100, 14 + 8 * (i - p))
    return f'<path d="M {left} {start} C {bow} {start}, {bow} {end}, {left} {end}" fill="none" stroke="#888888"/>'
