"""The operations of the registry on the samples of their records, which the tests of every way to a derivative walk."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch_ops import TORCH

import minijac as mj
from minijac.ops import REGISTRY
from minijac.ops.families import Elementwise, Example

B = 3
MODES = ("forward", "reverse", "mixed", "auto")
NAMES_BATCH = {"reshape", "broadcast_to", "gather", "scatter", "embed", "relabel", "superpose", "order_statistic"}
"""Operations whose parameters hold the number of samples."""


named = REGISTRY.__getitem__  # a call, so that a compiled case does not hold, and watch, all of the registry


def drawn(name: str, sample: Example, seed: int) -> list[np.ndarray]:
    """Operands in a sample's domain, in float64."""
    rng = np.random.default_rng([seed, *map(ord, name)])
    arrays = [rng.uniform(sample.low, sample.high, shape) for shape in sample.shapes]
    if name == "where":
        arrays[0] = arrays[0] > 0
    if sample.prepare is not None:
        arrays[0] = sample.prepare(arrays[0])
    return [sample.given.get(k, x) for k, x in enumerate(arrays)]


class Case(NamedTuple):
    """An operation on one of its samples."""

    name: str
    number: int

    @property
    def sample(self) -> Example:
        return named(self.name).examples[self.number]

    def operands(self) -> list[np.ndarray]:
        """In float64, numbers that float32 holds as well."""
        rounded = lambda k, x: x.dtype == float and k not in self.sample.given
        arrays = enumerate(self.drawn(self.number))
        return [x.astype(np.float32).astype(float) if rounded(k, x) else x for k, x in arrays]

    def drawn(self, seed: int) -> list[np.ndarray]:
        return drawn(self.name, self.sample, seed)

    @property
    def batch_axis(self) -> tuple[int | None, ...]:
        return tuple(None if k in self.sample.shared else 0 for k in range(len(self.sample.shapes)))

    @property
    def differentiable(self) -> list[int]:
        op = named(self.name)
        held = {*op.inert, *self.sample.given}
        return [k for k, x in enumerate(self.operands()) if k not in held and x.dtype.kind == "f"]

    def __call__(self, *operands: Any) -> Any:
        return self.with_samples(named(self.name)(*operands, **self.sample.params))

    def in_torch(self, *operands: Any) -> Any:
        return self.with_samples(TORCH[self.name](*operands, **self.sample.params))

    def with_samples(self, y: Any) -> Any:
        """The result; where it merged the samples with another axis, which stands in front, split again."""
        y = in_real_numbers(y)
        return y if B in y.shape or not y.ndim else y.reshape(B, -1, *y.shape[1:])


def in_real_numbers(y: Any) -> Any:
    """A complex result as its real and imaginary parts, on one more axis."""
    if isinstance(y, torch.Tensor):
        return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
    return np.stack([np.real(y), np.imag(y)], -1) if y.dtype.kind == "c" else y


CASES = [Case(name, n) for name, op in REGISTRY.items() if name in TORCH for n in range(len(op.examples))]
SMOOTH = [case for case in CASES if REGISTRY[case.name].edge is not None]


def as_the_engine_sees(case: Case) -> Any:
    """What the engine sees of an elementwise operation on an example: all but its functions, which others check."""
    op, sample = named(case.name), case.sample
    if not isinstance(op, Elementwise):
        return case
    traits = (
        op.inert,
        op.flat,
        op.chooses,
        op.unbounded,
        op.complex,
        op.conjugate,
        op.rooted is None,
        op.selects is None,
    )
    return len(sample.shapes), tuple(sample.shapes), tuple(sample.shared), tuple(sample.given), *traits


KINDS = list({as_the_engine_sees(case): case for case in reversed(SMOOTH)}.values())
"""One case for each kind of elementwise operation, and all others: for what depends on no formula."""
cases = lambda chosen: pytest.mark.parametrize("case", chosen, ids=lambda case: f"{case.name}-{case.number}")
every_case, every_smooth_case = cases(CASES), cases(SMOOTH)


def calls(case: Case) -> list[list[np.ndarray]]:
    return [case.operands(), case.drawn(1), case.drawn(2)]


TOGETHER = 12
GROUPS = [CASES[k : k + TOGETHER] for k in range(0, len(CASES), TOGETHER)]


def value_and_jacobians(case: Case, operands: Any) -> list[Any]:
    found = [case(*operands)]
    if REGISTRY[case.name].edge is not None:
        for k, mode in product(case.differentiable, ("forward", "reverse")):
            found.append(mj.jacobian(case, k, batch_axis=case.batch_axis, mode=mode)(*operands))
    return found
