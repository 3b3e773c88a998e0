"""Tightening: loops without what nobody reads, and without what each step would compute anew."""

from __future__ import annotations

from ..ir import Instruction, Program, without_dead_code
from ..loops import LOOP, PICK, Loop, Rewriting

__all__ = ["tightened"]


def tightened(program: Program) -> Program:
    """Of each loop the results that are picked, the carries and operands that these need; the rest in front of it."""
    picked: dict[int, set[int]] = {}
    for step in program.instructions:
        if step.op is PICK:
            picked.setdefault(step.args[0], set()).add(step.params["index"])
    new = Rewriting(program)
    index: dict[int, dict[int, int]] = {}
    for step in program.instructions:
        step = step.reading(new.same)
        if step.op is LOOP:
            loop, args, index[step.out] = _pruned(step.params["loop"], step.args, picked.get(step.out, set()))
            loop, args = _hoisted(loop, args, new)
            new.steps.append(step._replace(args=args, params={"loop": loop}))
        elif step.op is PICK:
            new.steps.append(step._replace(params={"index": index[step.args[0]][step.params["index"]]}))
        else:
            new.steps.append(step)
    return new.result()


def _pruned(loop: Loop, args: tuple[int, ...], picked: set[int]) -> tuple[Loop, tuple[int, ...], dict[int, int]]:
    """The loop with these results alone, its operands, and where they are among the results."""
    body, count = loop.body, loop.carries
    wanted = set(picked)
    while True:
        part = without_dead_code(body._replace(outputs=tuple([body.outputs[k] for k in sorted(wanted)])))
        read = {n for step in part.instructions for n in step.args} | set(part.outputs)
        more = {k for k in range(count) if body.inputs[k] in read} - wanted
        if not more:
            break
        wanted |= more
    kept = [k for k, n in enumerate(body.inputs) if (k in wanted if k < count else n in read)]
    order = sorted(wanted)
    part = part._replace(inputs=tuple([body.inputs[k] for k in kept]))
    stacked = tuple([loop.stacked[k - count] for k in order if k >= count])
    new = Loop(
        part,
        loop.length,
        sum(k < count for k in order),
        sum(count <= k < count + loop.rows for k in kept),
        stacked,
    )
    return new, tuple([args[k] for k in kept]), {k: place for place, k in enumerate(order)}


def _hoisted(loop: Loop, args: tuple[int, ...], new: Rewriting) -> tuple[Loop, tuple[int, ...]]:
    """The loop without the steps that compute the same each time, which are added before it."""
    body, first = loop.body, loop.carries + loop.rows
    changing = set(body.inputs[:first])
    found: dict[int, Instruction] = {}
    rest: list[Instruction] = []
    for step in body.instructions:
        if step.op in (LOOP, PICK) or not changing.isdisjoint(step.args):
            changing.add(step.out)
            rest.append(step)
        else:
            found[step.out] = step
    needed: set[int] = set()
    for step in reversed(found.values()):
        if not step.op.view or step.out in needed:  # a view costs nothing where it is
            needed.update((step.out, *step.args))
    if not needed:
        return loop, args
    rest = [step for step in body.instructions if step.out not in needed or step.out in changing]
    used = {n for step in rest for n in step.args} | set(body.outputs)
    inside = [n for n in found if n in needed and n in used]
    values = tuple([
        value._replace(kind="input") if n in inside else value for n, value in enumerate(body.values)
    ])  # fmt: skip
    own = [n for n in body.inputs[first:] if n in used]
    inputs = (*body.inputs[:first], *own, *inside)
    moved = tuple([step for step in found.values() if step.out in needed])
    ends = new.copied(
        body._replace(instructions=moved, inputs=body.inputs[first:], outputs=(*own, *inside)), args[first:]
    )
    body = Program(values, tuple(rest), inputs, body.outputs)
    return Loop(body, loop.length, loop.carries, loop.rows, loop.stacked), (*args[:first], *ends)
