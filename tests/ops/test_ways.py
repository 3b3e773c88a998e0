"""Every operation by every way, compiled, tiled, on the second backend, by generated kernels, is what it is eagerly.

`test_registry.py` holds the eager results against torch; here is the matrix of the other ways and of what is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest

pytest.importorskip("torch")
from compiled import same
from emulated import COMPILER, WHY_NOT
from emulated import Device as Emulated
from gpu import Device, agree
from nvrtc import compiles
from registry import CASES, GROUPS, KINDS, MODES, SMOOTH, Case, calls, value_and_jacobians
from tiles import tile_everything
from torch_ops import COMPLEX

import minijac as mj
from minijac.ops import REGISTRY
from minijac.program.entry import record
from minijac.program.gpu.executor import GraphExecutor


class Program(NamedTuple):
    """A function of an operation's operands: to `rtol`, of so many derivatives, of operands made so."""

    function: Callable[..., Any]
    rtol: float = 1e-10
    order: int = 1
    arranged: Callable[[np.ndarray], np.ndarray] = lambda x: x

    def operands(self, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.arranged(x) for x in operands]


def single(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype.kind == "f" else x


# --- what is computed -------------------------------------------------------------------------------------------------


def value(case: Case) -> Iterator[Program]:
    yield Program(case, 1e-13, order=0)


def value_in_single_precision(case: Case) -> Iterator[Program]:
    yield Program(case, 2e-5, order=0, arranged=single)


def value_of_views(case: Case) -> Iterator[Program]:
    """Operands that are transposed, and results that go through views and other operations."""

    def f(*operands: Any) -> Any:
        y = case(*[x.T.T for x in operands])
        return y.T, y + 0 * y, (y.T * 1.0).reshape(-1), np.concatenate([y, y]) if y.ndim else y

    yield Program(f, 1e-13, order=0, arranged=lambda x: np.asarray(x.T, order="C").T)


def jacobians(case: Case) -> Iterator[Program]:
    for k, mode in product(case.differentiable, MODES):
        yield Program(mj.value_and_jacobian(case, k, batch_axis=case.batch_axis, mode=mode))


def chosen_jacobians(case: Case) -> Iterator[Program]:
    """By the mode that is chosen, which for an elementwise operation is as good as any: its formula is the same."""
    for k in case.differentiable:
        yield Program(mj.value_and_jacobian(case, k, batch_axis=case.batch_axis))


def single_precision(case: Case) -> Iterator[Program]:
    for k, mode in product(case.differentiable, MODES[:2]):
        f = mj.value_and_jacobian(case, k, batch_axis=case.batch_axis, mode=mode)
        yield Program(f, 2e-5, arranged=single)


def second_order(case: Case) -> Iterator[Program]:
    for j, k in product(case.differentiable, repeat=2):
        for inner, outer in product(MODES[:2], repeat=2):
            first = mj.jacobian(case, j, batch_axis=case.batch_axis, mode=inner)
            yield Program(mj.jacobian(first, k, batch_axis=case.batch_axis, mode=outer), order=2)


def second_order_in_single_precision(case: Case) -> Iterator[Program]:
    for k in case.differentiable:
        first = mj.jacobian(case, k, batch_axis=case.batch_axis)
        yield Program(mj.jacobian(first, k, batch_axis=case.batch_axis, mode="reverse"), 2e-3, 2, single)


def products(case: Case) -> Iterator[Program]:
    """Both ends, with tangents and cotangents that are made where the operands are."""

    def both(*operands: Any) -> Any:
        primals = tuple(operands[k] for k in case.differentiable)
        f = lambda *xs: case(*[xs[case.differentiable.index(k)] if k in case.differentiable else x
                               for k, x in enumerate(operands)])  # fmt: skip
        y, y_dot = mj.jvp(f, primals, tuple(x * 0.5 + 1.0 for x in primals))
        y, pullback = mj.vjp(f, *primals)
        return y, y_dot, pullback(y * 0.5 + 1.0)

    yield Program(both)


def structured(case: Case) -> Iterator[Program]:
    def operator(k: int, mode: str) -> Callable[..., Any]:
        def f(*operands: Any) -> Any:
            J = mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode, structured=True)(*operands)
            return J.todense(), J @ (operands[k] + 1.0)

        return f

    for k, mode in product(case.differentiable, MODES[:2]):
        yield Program(operator(k, mode))


def policies(case: Case) -> Iterator[Program]:
    for k, policy in product(case.differentiable, ("diagonal", "full")):
        yield Program(mj.jacobian(case, k, batch_axis=case.batch_axis, on_mixing=policy))


def chunks(case: Case) -> Iterator[Program]:
    for k, mode in product(case.differentiable, MODES[:2]):
        yield Program(mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode, chunk_size=3))


PLAIN = [case for case in CASES if case not in SMOOTH]
MATRIX: dict[str, dict[Callable[[Case], Iterator[Program]], list[Case]]] = {
    "compiled": {
        value: CASES,
        value_of_views: [*PLAIN, *KINDS],
        jacobians: KINDS,
        chosen_jacobians: SMOOTH,
        second_order_in_single_precision: [case for case in SMOOTH if case.number == 0],
    },
    "tiled": {
        value: [*PLAIN, *KINDS],
        value_in_single_precision: [*PLAIN, *KINDS],
        chosen_jacobians: KINDS,
    },
    "on a device": {
        value: CASES,
        chosen_jacobians: SMOOTH,
        **dict.fromkeys((jacobians, single_precision, second_order, products, structured, policies, chunks), KINDS),
    },
}
"""What is computed by each way, and of which cases: one of each kind where no formula makes a difference."""


def matrix(way: str) -> Any:
    """The rows of a way: what is computed, and of which operation on which of its examples."""
    rows = [(what, case) for what, chosen in MATRIX[way].items() for case in chosen]
    names = [f"{what.__name__}-{case.name}-{case.number}" for what, case in rows]
    return pytest.mark.parametrize("what, case", rows, ids=names)


def test_every_operation_is_walked():
    """Here, or in test_complex_registry.py where their results are complex."""
    assert {case.name for case in CASES} | set(COMPLEX) == set(REGISTRY)


# --- compiled ---------------------------------------------------------------------------------------------------------


@matrix("compiled")
def test_compiled(what, case):
    compiled_is_eager(what, case)


TILES = [(1, 2), (2, 4), (3, 1)]
"""Samples of a tile, the second of which leaves a rest, and threads."""


@matrix("tiled")
@pytest.mark.filterwarnings("ignore:logm result may be inaccurate")  # in single precision
def test_tiled(monkeypatch, what, case):
    tile_everything(monkeypatch, *TILES[(len(what.__name__) + len(case.name) + case.number) % len(TILES)])
    compiled_is_eager(what, case)


def compiled_is_eager(what: Callable[[Case], Iterator[Program]], case: Case) -> None:
    """Value and type, also with other data than those of the recording, which is made once."""
    for program in what(case):
        compiled = mj.compile(program.function)
        for operands in map(program.operands, calls(case)):
            with np.errstate(all="ignore"):
                same(compiled(*operands), program.function(*operands), program.rtol)
        assert compiled.cache_info().misses == 1


# --- on the second backend --------------------------------------------------------------------------------------------

WAITS = {"det", "cofactor", "cofactor_slope", "inverse_transposed", "logabsdet"}
"""Operations that look whether a matrix is singular; nothing else may look at the device's numbers, but"""
WAITS_TWICE = {"eigenvectors", "left_vectors", "right_vectors"}
"""those whose second derivative looks whether what a `where` drops is finite."""


@matrix("on a device")
def test_on_a_device(device, what, case):
    for program in what(case):
        compare(device, case, program)


def has(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


def compare(device: Device, case: Case, program: Program) -> None:
    operands = program.operands(case.operands())
    theirs = device.put(operands)
    try:
        if case.name in WAITS or (case.name in WAITS_TWICE and program.order == 2):
            found = program.function(*theirs)
        else:
            with device.apart():
                found = program.function(*theirs)
    except mj.UnsupportedOperationError as error:
        missing = re.search(r"(cupyx?[\w.]*)\.(\w+)\)? at .*CuPy has no such function", str(error))
        if missing is None or has(missing[1], missing[2]):
            raise
        return
    expected = program.function(*operands)
    agree(found, expected, device, program.rtol)
    for a in optree.tree_leaves(found):
        assert isinstance(a, device.xp.ndarray), f"{type(a)} is not of the device"
        assert program.function is case or a.flags.c_contiguous


# --- by generated kernels: a dozen operations in one program ---------------------------------------------------------

groups = pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0].name}-to-{group[-1].name}")
needs_a_compiler = pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)


@needs_a_compiler
@groups
def test_by_generated_kernels(group):
    """On the emulated device, on the operands of the recording and on others; NVRTC compiles it too, for one GPU."""
    numbers = [list(each) for each in zip(*(calls(case) for case in group), strict=True)]
    with np.errstate(all="ignore"):
        program = record(lambda operands: together(group, operands), (numbers[0],), {}).program
        run = GraphExecutor(program, Emulated())
        for operands in numbers:
            found = iter(run.run(*optree.tree_leaves(operands)))
            for case, results in zip(group, together(group, operands), strict=True):
                for y in results:
                    try:
                        same(np.asarray(next(found)), np.asarray(y), rtol=1e-9)
                    except AssertionError as error:
                        raise AssertionError(f"{case.name}-{case.number}: {error}") from None
    if run.source.count("KERNEL") > 1:
        compiles(run.source)


@needs_a_compiler
@groups
def test_compiled_on_a_device(group, place):
    group = [case for case in group if device_has(case, place)]
    compiled = mj.compile(lambda operands: together(group, operands))
    with np.errstate(all="ignore"):
        for numbers in zip(*(calls(case) for case in group), strict=True):
            agree(compiled(place.put(list(numbers))), together(group, numbers), place, 1e-9)


def together(group: Sequence[Case], operands: Any) -> list[Any]:
    return [value_and_jacobians(case, xs) for case, xs in zip(group, operands, strict=True)]


def device_has(case: Case, place: Device) -> bool:
    """Whether the operation and its derivatives run on the device uncompiled: CuPy lacks some of SciPy's functions."""
    try:
        with np.errstate(all="ignore"):
            value_and_jacobians(case, place.put(case.operands()))
    except mj.UnsupportedOperationError:
        return False
    return True
