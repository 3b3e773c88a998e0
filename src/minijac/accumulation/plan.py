"""Plans: the accumulation orders of a recorded graph, priced on labels and sizes alone, and the choice among them.

A mode is a contraction order. *Forward* multiplies blocks from the inputs' side, *reverse* from the outputs' side.
*Mixed* cuts the graph at the nodes that every path crosses, takes each segment as one block, and multiplies the chain
of segments in the order that costs least.

Prices come from running the accumulation on shadows (`shadow.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, TypeAlias

from ..algebra.block import Block
from ..algebra.factors import product, size_of
from ..algebra.writing import covers
from ..errors import InputError
from ..memo import Memo
from ..ops.families import Elementwise, Multilinear
from ..prices import MATMUL, MOVE
from .graph import Graph
from .shadow import Cost, Ledger, ShadowGraph

__all__ = ["Blocks", "Cost", "Plan", "accumulate", "accumulate_chunk", "chain_of", "mixed_plan", "plan_for", "price"]

Order = Any
"""How to multiply a chain of segments, numbered from the input's side: a segment's number, ``("reverse", number)`` for
one that is itself accumulated from its output's side, or a pair of orders (output's side, input's side)."""


class Plan(NamedTuple):
    """An accumulation order: ``"forward"``, ``"reverse"``, or ``"mixed"`` with the orders of its chains.

    `order` maps (number of the output, number of the input) to the order of the chain between the two.
    """

    mode: str
    order: Any = None


# -- chains ------------------------------------------------------------------------------------------------------------
def chain_of(graph: Graph, source: int, target: int) -> tuple[int, ...]:
    """The nodes that every path from one node to another crosses, both ends included.

    Sweeps the graph in order, and notes where all open paths meet in one node.
    """
    below = {target}
    for i in reversed(graph.order):
        if i in below:
            below.update(p for _, p in graph.operands(i))
    last_use: dict[int, int] = {}
    for i in graph.order:
        if i in below and i <= target:
            for _, p in graph.operands(i):
                last_use[p] = i
    reached, cuts = {source}, [source]
    pending: set[int] = {source}  # reached values that are still to be used
    for i in graph.order:
        if i not in below or i > target or not any(p in reached for _, p in graph.operands(i)):
            continue
        reached.add(i)
        pending.difference_update([p for _, p in graph.operands(i) if last_use[p] == i])
        if not pending:
            cuts.append(i)
        pending.add(i)
    return tuple(cuts)


MAX_CUTS = 12
"""Interior cuts of a chain that a plan chooses among: planning takes the cube of it."""


def coarse_chain(graph: Graph, chain: Sequence[int]) -> tuple[int, ...]:
    """The cuts at which it may pay to meet: the smallest nodes, where a value ends its way and a contraction begins."""
    if len(chain) < 2:
        return tuple(chain)
    inner = [i for i, after in pairwise(chain[1:]) if not isinstance(graph.nodes[after].op, Elementwise)]
    if len(inner) > MAX_CUTS:
        inner = sorted(inner, key=lambda i: prod(graph.nodes[i].out.shape))[:MAX_CUTS]
    return (chain[0], *sorted(inner), chain[-1])


def multiply_chain(graph: Graph, chain: Sequence[int], order: Order, one: Any) -> Block:
    """The product of the segments of a chain, from one cut to the next, in the given order."""
    if isinstance(order, int):
        return segment(graph, chain[order], chain[order + 1], one)
    if order[0] == "reverse":
        return segment(graph, chain[order[1]], chain[order[1] + 1], one, backward=True)
    after, before = order
    # the input's side first: what is smaller is made while less is held
    low = multiply_chain(graph, chain, before, one)
    return multiply_chain(graph, chain, after, one).after(low)


def segment(graph: Graph, a: int, b: int, one: Any, backward: bool = False) -> Block:
    """The block of what lies between two nodes."""
    part = graph.between(a, b)
    edges = [(i, k) for i in part.order for k, _ in part.operands(i)]
    if len(edges) == 1 and part.edge(*edges[0]).linear is None:
        block = part.edge(*edges[0]).block()
        return Block(block.out_shape, block.inp_shape, block.terms, one)
    if backward:
        return part.reverse({b: _identity(graph, b, one)})[a]
    return part.forward({a: _identity(graph, a, one)})[b]


def cheapest_order(graph: Graph, chain: Sequence[int], ledger: Ledger) -> Order:
    """Dynamic programming over where to split the chain, priced by composing shadows.

    Blocks keep products of factors apart, so what a composition costs is what it contracts, not what it collects.
    """
    n = len(chain) - 1
    one = ledger.one
    best: dict[tuple[int, int], tuple[float, Order, Block]] = {}
    for k in range(n):
        best[k, k] = min(_either_way(graph, chain, k, ledger, one), key=lambda found: found[0])
    for width in range(1, n):
        for i in range(n - width):
            j = i + width
            for k in range(i, j):
                low, high = best[i, k], best[k + 1, j]
                if (i, j) in best and low[0] + high[0] >= best[i, j][0]:
                    continue
                before = ledger.cost().nanoseconds
                block = high[2].after(low[2])
                if width == n - 1:
                    write(block, ledger)
                spent = low[0] + high[0] + ledger.cost().nanoseconds - before
                if (i, j) not in best or spent < best[i, j][0]:
                    best[i, j] = spent, (high[1], low[1]), block
    return best[0, n - 1][1]


def _either_way(
    graph: Graph, chain: Sequence[int], k: int, ledger: Ledger, one: Any
) -> list[tuple[float, Order, Block]]:
    """Price, order and block of one segment, from its input's side and from its output's."""
    found: list[tuple[float, Order, Block]] = []
    for backward in (False, True):
        before = ledger.cost().nanoseconds
        block = segment(graph, chain[k], chain[k + 1], one, backward)
        if len(chain) == 2:
            write(block, ledger)
        found.append((ledger.cost().nanoseconds - before, ("reverse", k) if backward else k, block))
        if block.terms and found[0][0] == 0.0:  # a single local derivative
            break
    return found


# -- the choice --------------------------------------------------------------------------------------------------------
Blocks: TypeAlias = dict[tuple[int, int], Block]
"""Blocks by output and input node."""


def accumulate(graph: Graph, plan: Plan, inputs: Sequence[int], outputs: Sequence[int], one: Any) -> Blocks:
    """The block of each (output, input) pair of nodes, in the order of the plan."""
    result: Blocks = {}
    if plan.mode != "mixed":
        for end in inputs if plan.mode == "forward" else outputs:
            result |= accumulate_chunk(graph, plan, end, _identity(graph, end, one))
        return result
    for m, o in enumerate(outputs):
        for n, i in enumerate(inputs):
            part = graph.between(i, o)
            if o in part.outputs:
                chain, order = coarse_chain(part, chain_of(part, i, o)), plan.order.get((m, n))
                result[o, i] = _identity(graph, i, one) if o == i else multiply_chain(part, chain, order, one)
    return result


def accumulate_chunk(graph: Graph, plan: Plan, end: int, seed: Block) -> Blocks:
    """The blocks of some seeds at one end; what the accumulation holds beside them is gone before the next."""
    if plan.mode == "forward":
        return {(o, end): block for o, block in graph.forward({end: seed}, real=True).items()}
    real = graph.nodes[end].out.dtype.kind != "c"
    return {(end, i): block for i, block in graph.reverse({end: seed.T}, real).items()}


def _identity(graph: Graph, i: int, one: Any) -> Block:
    return Block.identity(graph.nodes[i].out.shape, one)


def mixed_plan(graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> Plan:
    """The cheapest order of each chain between an input and an output."""
    orders: dict[tuple[int, int], Order] = {}
    for m, o in enumerate(outputs):
        for n, i in enumerate(inputs):
            ledger = Ledger()
            part = ShadowGraph(graph, ledger).between(i, o)
            if o in part.outputs and o != i:
                orders[m, n] = cheapest_order(part, coarse_chain(part, chain_of(part, i, o)), ledger)
    return Plan("mixed", orders)


def price(graph: Graph, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> Cost:
    """Carry a plan out on shadows."""
    ledger = Ledger()
    blocks = accumulate(ShadowGraph(graph, ledger), plan, inputs, outputs, ledger.one)
    for block in blocks.values():
        write(block, ledger)
    return ledger.cost()


def write(block: Block, ledger: Ledger, fresh: bool = True) -> None:
    """The price of making a block dense: each term's factors multiplied into place, or added to what is there."""
    for term in sorted(block.terms, key=lambda term: not covers((*term.out, *term.inp))):
        labels = tuple(term.labels())
        size = size_of(labels)
        if len(term.factors) > 1 and fresh:
            product(sorted(term.factors, key=lambda factor: size_of(factor.axes))[:-1], labels, term.scale)
            ledger.multiplied += size
            ledger.moved += size
        else:  # what is added is a temporary array
            product(term.factors, labels, term.scale)
        ledger.moved += size
        ledger.calls += 1
        fresh = False


_PLANS = Memo[Plan](1024)


REHEARSED = 256
"""Local derivatives up to which candidates are priced whatever that costs, and a replay is made: not a long loop's."""
REHEARSAL = 3e6
"""Nanoseconds that pricing the candidates takes for each local derivative, all in all."""
BRIEF = 32
"""Local derivatives up to which pricing is soon done."""
NARROW = 12
"""Seeds, and numbers of each sample, up to which structure among them saves no time that is worth to look for it."""


def is_short(graph: Graph) -> bool:
    """Whether a graph is so small that Python's work on its structure takes a moment however it is done."""
    return not graph.structure.stepped and graph.structure.edges <= REHEARSED


def is_narrow(graph: Graph, seeds: tuple[int, int]) -> bool:
    """Whether all is arithmetic on a few numbers of each sample: a sweep takes as long as it has seeds."""
    nodes = [graph.nodes[i] for i in graph.order]
    sizes = [node.out.size for node in nodes if node.out.size] or [1]
    few = max(*seeds, max(sizes) // min(sizes)) <= NARROW
    return few and graph.structure.edges > BRIEF and not any(isinstance(node.op, Multilinear) for node in nodes)


def worth_rehearsing(graph: Graph, seeds: tuple[int, int]) -> bool:
    """Whether the candidates are priced in less time than the plainest accumulation takes: by sizes alone."""
    if graph.steps or (is_short(graph) and not graph.by_positions):  # done once, unless shapes follow numbers
        return not graph.steps and not is_narrow(graph, seeds)
    entries = 0.0
    for i in graph.order:
        sizes = [graph.nodes[i].out.size, *(getattr(arg, "size", 1) for arg in graph.nodes[i].args)]
        product = float(prod(sizes)) ** 0.5 if isinstance(graph.nodes[i].op, Multilinear) else 0.0
        entries += MOVE * sizes[0] + MATMUL * product
    return graph.structure.edges * REHEARSAL < min(seeds) * entries


def plan_for(
    graph: Graph,
    mode: Any,
    inputs: Sequence[int],
    outputs: Sequence[int],
    structure: Any = None,
    seeds: Callable[[], tuple[int, int]] | None = None,
) -> Plan:
    """The plan of a mode; ``"auto"`` is the candidate of least predicted time, found once for each structure.

    ``"either"`` is the cheaper of forward and reverse. `structure` is what it depends on, if not the graph's; `seeds`
    counts those of the inputs and of the outputs, for each sample: a long program goes from where there are fewer,
    since to price it would take longer than to carry it out.
    """
    if not isinstance(mode, str):
        return _checked(mode, graph, inputs, outputs)
    if mode in ("forward", "reverse"):
        return Plan(mode)
    key = mode, graph.structure if structure is None else structure, *inputs, "to", *outputs
    return _PLANS.get(key, lambda: _found_plan(graph, mode, inputs, outputs, seeds))


def _found_plan(
    graph: Graph, mode: str, inputs: Sequence[int], outputs: Sequence[int], count: Callable[[], Sequence[int]] | None
) -> Plan:
    if mode == "mixed":
        return mixed_plan(graph, inputs, outputs)
    low, high = count() if count else [sum(graph.nodes[i].out.size for i in ends) for ends in (inputs, outputs)]
    if not worth_rehearsing(graph, (low, high)):
        return Plan("forward" if low <= high else "reverse")
    plans = [Plan("forward"), Plan("reverse")]  # "either" end is for work that is cut into chunks of seeds
    several = not len(inputs) == len(outputs) == 1
    if mode != "either" and (several or len(coarse_chain(graph, chain_of(graph, inputs[0], outputs[0]))) > 2):
        plans.append(mixed_plan(graph, inputs, outputs))
    return min(plans, key=lambda plan: price(graph, plan, inputs, outputs).nanoseconds)


def _checked(plan: Plan, graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> Plan:
    """An explicit plan, if it says how to multiply every chain of this graph; raises InputError otherwise."""
    if plan.mode not in ("forward", "reverse", "mixed"):
        raise InputError(f"mode: expected a Plan that is 'forward', 'reverse' or 'mixed', got {plan.mode!r}.")
    if plan.mode != "mixed":
        return plan
    orders = plan.order if isinstance(plan.order, dict) else {(0, 0): plan.order}
    for m, o in enumerate(outputs):
        for n, i in enumerate(inputs):
            part = graph.between(i, o)
            if o not in part.outputs or o == i:
                continue
            count = len(coarse_chain(part, chain_of(part, i, o))) - 1
            if _segments_in(orders.get((m, n))) != list(range(count)):
                raise InputError(
                    f"mode: expected a Plan whose order[{m}, {n}] multiplies the {count} segments between input {n} "
                    f"and output {m}, each once and in order, got {orders.get((m, n))!r}. Write it as nested pairs "
                    "(output's side, input's side) of the numbers from 0, for example ((2, 1), 0)."
                )
    return Plan("mixed", orders)


def _segments_in(order: Order) -> list[int] | None:
    """The segments of an order from the input's side, or None where it is no order."""
    if isinstance(order, int):
        return [order]
    if not isinstance(order, tuple) or len(order) != 2:
        return None
    if order[0] == "reverse":
        return [order[1]]
    after, before = _segments_in(order[0]), _segments_in(order[1])
    return None if after is None or before is None else before + after
