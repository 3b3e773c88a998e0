"""Eager elementwise operations on the GPU: a value and the partial derivatives that a trace needs, in one launch.

The kernels are generated from the partials that an operation declares, recorded on symbols as `compile` records a
function; so there is one definition of each. Partials that are no work (a number, an operand, the value itself) take
no part in it, nor do those that no derivative is asked for. An operation that cannot be recorded, or has no expression
in C, is carried out as on the host, and so is one whose operands broadcast, as the partials of small operands stay
small there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...ops.families import Elementwise
from ...tape.op import Op
from ...tape.trace import Trace
from ..ir import Program, without_dead_code
from ..passes.expand import expanded
from ..record import Recorder, Symbol, is_number
from .math import CTYPE, PRELUDE, Unsupported, expression, functions_of, literal, simpler

__all__ = ["Source", "source_of", "value_and_partials"]

MOST_KERNELS = 1024
MANY = 10_007
"""Entries of arrays of which an operation is recorded, beside such of one."""


class Source(NamedTuple):
    """What `cupy.ElementwiseKernel` takes: four strings and keywords."""

    in_params: str
    out_params: str
    operation: str
    name: str
    keywords: dict[str, Any]
    slopes: tuple[int, ...]
    """The operands whose partials are the outputs after the first."""


def value_and_partials(op: Op, args: Sequence[Any], params: dict[str, Any], wanted: tuple[int, ...]) -> Any:
    """The value of an elementwise operation, and its partials for some of the operands `wanted`, by operand.

    None where the operation is not carried out so: operands that are no arrays of CuPy's of one shape, beside numbers,
    operations with parameters or without a C expression, and partials that are no work.
    """
    cupy = sys.modules["cupy"]
    arrays = [x for x in args if not is_number(x)]
    alike = all(isinstance(x, cupy.ndarray) and x.shape == arrays[0].shape for x in arrays)
    if not isinstance(op, Elementwise) or params or not arrays or not alike:
        return None
    found = _kernel(cupy.ElementwiseKernel, op, tuple([_kind(op, x) for x in args]), wanted)
    if found is None:
        return None
    kernel, slopes = found
    out, *partials = kernel(*[x for x in args if not _is_exponent(op, x)])
    return out, dict(zip(slopes, partials, strict=True))


def _is_exponent(op: Op, x: Any) -> bool:
    """Whether a number is a part of the kernel, of which products are made, and not an operand."""
    return op.expansion is not None and type(x) is int


def _kind(op: Op, x: Any) -> Any:
    """What a kernel has to know of an operand: an array's dtype, a number's type, and which whole exponent it is."""
    if _is_exponent(op, x):
        return x
    return type(x) if is_number(x) else x.dtype.name


@lru_cache(MOST_KERNELS)
def _kernel(make: Any, op: Op, kinds: tuple[Any, ...], wanted: tuple[int, ...]) -> Any:
    source = source_of(op, kinds, wanted)
    return None if source is None else (make(*source[:4], **source.keywords), source.slopes)


def source_of(op: Op, kinds: tuple[Any, ...], wanted: tuple[int, ...]) -> Source | None:
    """The kernel for operands of some kinds: the name of a dtype, a type of Python's numbers, or a whole exponent."""
    found = _source(op, kinds, wanted, 1)
    return found if found == _source(op, kinds, wanted, MANY) else None  # what a user defines may ask for shapes


def _source(op: Op, kinds: tuple[Any, ...], wanted: tuple[int, ...], size: int) -> Source | None:
    assert isinstance(op, Elementwise)
    declared = {k: partial for k in wanted if callable(partial := op.partials[k])}
    if not declared:
        return None
    recorder = Recorder()
    with np.errstate(all="ignore"):  # of the numbers only shapes and dtypes are of interest
        try:
            operands = [k if type(k) is int else recorder.input(np.ones(size, k) if isinstance(k, str) else k(1))
                        for k in kinds]  # fmt: skip
            y = recorder.process(op, tuple(operands), {})
            made = {k: partial(y, *operands) for k, partial in declared.items()}
        except Exception:  # what a user defines may decide by numbers: on the host it may
            return None
        finally:
            recorder.close()
    slopes = {k: x for k, x in made.items() if isinstance(x, Symbol) and x.index > y.index and x.shape}
    inputs = tuple([x.index for x in operands if isinstance(x, Symbol)])
    if not slopes or len(recorder.arrays) > len(inputs):  # or it reads arrays that are no operands
        return None
    outputs = (y.index, *[x.index for x in slopes.values()])
    program = Program(tuple(recorder.values), tuple(recorder.instructions), inputs, outputs)
    try:
        program = expanded(without_dead_code(program), np.ones, simpler)
        operation, preamble = _body(program)
    except Unsupported:
        return None
    keywords = {"preamble": preamble, "options": ("--std=c++17",)}
    typed = [[f"{program.values[n].dtype} {letter}{n}" for n in numbers]
             for letter, numbers in (("v", program.inputs), ("out", program.outputs))]  # fmt: skip
    name = f"minijac_{op.name}"
    return Source(", ".join(typed[0]), ", ".join(typed[1]), operation, name, keywords, tuple(slopes))


def _body(program: Program) -> tuple[str, str]:
    """The instructions as C, and the functions that they call."""
    values, lines, called = program.values, [], set()
    for step in program.instructions:

        def operand(k: int, dtype: Any, args: Sequence[int] = step.args) -> tuple[str, Any]:
            value = values[args[k]]
            constant = value.kind == "constant"
            return (literal(value.content, dtype), dtype) if constant else (f"v{args[k]}", value.dtype)

        text, used = expression(step, values, operand)
        called |= used
        lines.append(f"const {CTYPE[values[step.out].dtype.name]} v{step.out} = {text};")
    lines += [f"out{n} = v{n};" for n in program.outputs]
    return "\n".join(lines), "\n".join([PRELUDE, *functions_of(called)])


Trace.eager = value_and_partials
