"""Random programs, written for NumPy and for torch at once: every way to a Jacobian against torch's reverse mode.

``python tests/support/fuzz.py 1000 7`` runs 1000 programs from seed 7, and prints the source of each that fails.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fuzz_samples import in_order_of_values, picking

import minijac as mj
from minijac.transforms import hessians

torch.set_num_threads(1)  # the arrays are small
B = 3
MODES = ("forward", "reverse", "mixed", "auto")
LARGEST = 60
"""Entries per sample of an intermediate value."""

Shape = tuple[int, ...]
Choose = Callable[[Sequence[Any]], Any]


class Value(NamedTuple):
    """A value of the program: its shape, and whether its first axis holds the samples."""

    shape: Shape
    batched: bool

    @property
    def own(self) -> Shape:
        """The shape of one sample's."""
        return self.shape[1:] if self.batched else self.shape

    @property
    def axes(self) -> list[int]:
        """The axes that an operation may work along."""
        return list(range(int(self.batched), len(self.shape)))


class Program(NamedTuple):
    """A function in two dialects, and inputs for it."""

    numpy: str
    torch: str
    inputs: list[Value]
    seed: int

    @property
    def batch_axis(self) -> tuple[int | None, ...]:
        return tuple(0 if value.batched else None for value in self.inputs)

    def data(self, call: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, call])
        return [rng.uniform(-1.5, 1.5, value.shape) for value in self.inputs]

    def function(self) -> Callable[..., Any]:
        return _function(self.numpy)

    def torch_function(self) -> Callable[..., Any]:
        return _function(self.torch)

    def __str__(self) -> str:
        shapes = ", ".join(str(value.shape) for value in self.inputs)
        return f"# inputs of shapes {shapes}; batch_axis={self.batch_axis}; seed {self.seed}\n{self.numpy}"


def _function(source: str) -> Callable[..., Any]:
    names: dict[str, Any] = {"np": np, "mj": mj, "torch": torch}
    exec(source, names)
    return names["f"]  # type: ignore[no-any-return]


# -- operations: each says how to write it in both dialects, or None where it does not apply --------------------------
def _as_index(items: Sequence[Any]) -> str:
    text = []
    for item in items:
        if isinstance(item, slice):
            parts = ["" if part is None else str(part) for part in (item.start, item.stop, item.step)]
            text.append(":".join(parts if item.step is not None else parts[:2]))
        else:
            text.append(str(item))
    return ", ".join(text)


ELEMENTWISE = {
    "np.sin({0})": "torch.sin({0})",
    "np.cos({0})": "torch.cos({0})",
    "np.tanh({0})": "torch.tanh({0})",
    "np.exp(np.tanh({0}))": "torch.exp(torch.tanh({0}))",
    "np.arctan({0})": "torch.arctan({0})",
    "np.sqrt(1.0 + {0} * {0})": "torch.sqrt(1.0 + {0} * {0})",
    "np.log1p({0} ** 2)": "torch.log1p({0} ** 2)",
    "abs({0})": "abs({0})",
    "-{0}": "-{0}",
    "1.0 / (2.0 + np.cos({0}))": "1.0 / (2.0 + torch.cos({0}))",
    "np.maximum({0}, 0.0)": "torch.maximum({0}, torch.zeros_like({0}))",
    "np.clip({0}, -0.7, 0.9)": "torch.clamp({0}, -0.7, 0.9)",
    "mj.nn.sigmoid({0})": "torch.sigmoid({0})",
    "mj.nn.softplus({0})": "torch.nn.functional.softplus({0}, threshold=100.0)",
    "np.where({0} > 0.1, {0} * {0}, 0.5 * {0})": "torch.where({0} > 0.1, {0} * {0}, 0.5 * {0})",
    "np.sign({0}) * 0.3 + {0}": "torch.sign({0}) * 0.3 + {0}",
    "0.5 * {0} ** 3 - {0}": "0.5 * {0} ** 3 - {0}",
    "mj.stop_gradient({0}) * {0}": "{0}.detach() * {0}",
    "({0} * 0.0 + 1.0)": "({0} * 0.0 + 1.0)",
}
BINARY = {
    "{0} + {1}": "{0} + {1}",
    "{0} - {1}": "{0} - {1}",
    "{0} * {1}": "{0} * {1}",
    "{0} / (1.5 + {1} ** 2)": "{0} / (1.5 + {1} ** 2)",
    "np.maximum({0}, {1})": "torch.maximum({0}, {1})",
    "np.minimum({0}, 0.3 * {1})": "torch.minimum({0}, 0.3 * {1})",
    "np.hypot({0}, 1.0 + {1} ** 2)": "torch.hypot({0}, 1.0 + {1} ** 2)",
    "np.arctan2({0}, 1.0 + {1} ** 2)": "torch.arctan2({0}, 1.0 + {1} ** 2)",
    "np.logaddexp({0}, {1})": "torch.logaddexp({0}, {1})",
    "np.where({0} > {1}, {0}, 2.0 * {1})": "torch.where({0} > {1}, {0}, 2.0 * {1})",
    "(abs({0}) + 0.5) ** np.tanh({1})": "(abs({0}) + 0.5) ** torch.tanh({1})",
}


def elementwise(choose: Choose, a: Value) -> Any:
    return choose(list(ELEMENTWISE.items()))


def binary(choose: Choose, a: Value, b: Value) -> Any:
    """Both broadcast; a batched operand has to stay in front, so a lower one gets axes behind the samples."""
    texts = []
    depth = max(len(a.own), len(b.own))
    for value, place in ((a, "{0}"), (b, "{1}")):
        missing = depth - len(value.own)
        if value.batched and missing:
            place = f"{place}[:, {', '.join(['None'] * missing)}]"
        texts.append(place)
    left, right = choose(list(BINARY.items()))
    return left.format(*texts), right.format(*texts)


def reduction(choose: Choose, a: Value) -> Any:
    if not a.axes or 0 in a.shape:
        return None
    axis, keep = choose(a.axes), choose([False, True])
    every = tuple(a.axes)
    options = {
        f"{{0}}.sum(axis={axis}, keepdims={keep})": f"{{0}}.sum({axis}, keepdim={keep})",
        f"{{0}}.mean(axis={axis}, keepdims={keep})": f"{{0}}.mean({axis}, keepdim={keep})",
        f"{{0}}.sum(axis={every}, keepdims={keep})": f"{{0}}.sum({every}, keepdim={keep})",
        f"{{0}}.max(axis={axis}, keepdims={keep})": f"{{0}}.amax({axis}, keepdim={keep})",
        f"{{0}}.min(axis={every}, keepdims={keep})": f"{{0}}.amin({every}, keepdim={keep})",
        f"{{0}}.prod(axis={axis}, keepdims={keep})": f"{{0}}.prod({axis}, keepdim={keep})",
        f"{{0}}.var(axis={axis}, keepdims={keep})": f"{{0}}.var({axis}, correction=0, keepdim={keep})",
        f"np.cumsum({{0}}, axis={axis})": f"torch.cumsum({{0}}, {axis})",
        f"mj.nn.softmax({{0}}, axis={axis})": f"torch.softmax({{0}}, {axis})",
        f"mj.nn.log_softmax({{0}}, axis={axis})": f"torch.log_softmax({{0}}, {axis})",
        f"np.sqrt(({{0}} ** 2).sum(axis={axis}) + 0.1)": f"torch.sqrt(({{0}} ** 2).sum({axis}) + 0.1)",
        f"np.sort({{0}}, axis={axis})": f"torch.sort({{0}}, {axis})[0]",
    }
    return choose(list(options.items()))


def shaping(choose: Choose, a: Value) -> Any:
    lead = "{0}.shape[0], " if a.batched else ""
    options = {f"{{0}}.reshape({lead}-1)": f"{{0}}.reshape({lead}-1)"}
    if a.axes:
        options["{0}[..., None]"] = "{0}[..., None]"
        axis = choose(a.axes)
        n = a.shape[axis]
        before = ":, " * axis
        options |= {
            f"np.expand_dims({{0}}, {axis})": f"torch.unsqueeze({{0}}, {axis})",
            f"np.flip({{0}}, {axis})": f"torch.flip({{0}}, ({axis},))",
            f"np.roll({{0}}, {1 - n % 3}, {axis})": f"torch.roll({{0}}, {1 - n % 3}, {axis})",
            f"np.concatenate([{{0}}, 2.0 * {{0}}], axis={axis})": f"torch.cat([{{0}}, 2.0 * {{0}}], {axis})",
            f"np.stack([{{0}}, {{0}} * {{0}}], axis={axis})": f"torch.stack([{{0}}, {{0}} * {{0}}], {axis})",
            f"np.repeat({{0}}, 2, axis={axis})": f"torch.repeat_interleave({{0}}, 2, {axis})",
            f"({{0}}[{before}1:] - {{0}}[{before}:-1])": f"({{0}}[{before}1:] - {{0}}[{before}:-1])",
        }
        if not a.shape[axis:].count(0):
            width = [(0, 0)] * len(a.shape)
            width[axis] = (1, 2)
            flat = [n for pair in reversed(width) for n in pair]
            options[f"np.pad({{0}}, {width})"] = f"torch.nn.functional.pad({{0}}, {flat})"
        for m in (2, 3):
            if n % m == 0:
                shape = f"{lead}{', '.join(map(str, (*a.own[: axis - a.batched], m, n // m, *a.shape[axis + 1 :])))}"
                options[f"{{0}}.reshape({shape})"] = f"{{0}}.reshape({shape})"
        if n == 1:
            options[f"np.squeeze({{0}}, {axis})"] = f"torch.squeeze({{0}}, {axis})"
    if len(a.axes) > 1:
        j, k = a.axes[0], a.axes[-1]
        options[f"np.swapaxes({{0}}, {j}, {k})"] = f"torch.swapaxes({{0}}, {j}, {k})"
        if a.shape[j] == a.shape[k]:
            options[f"np.diagonal({{0}}, 0, {j}, {k})"] = f"torch.diagonal({{0}}, 0, {j}, {k})"
            if k - j == 1:
                options["np.triu({0})"] = "torch.triu({0})"
    if a.batched:  # the samples on another axis for a while
        moved = "np.moveaxis(np.moveaxis({0}, 0, -1) ** 2, -1, 0)"
        options[moved] = moved.replace("np.moveaxis", "torch.movedim")
        options["({0}.T * np.arange(1.0, {0}.shape[0] + 1)).T"] = (
            "({0}.permute(*range({0}.ndim)[::-1]) * torch.arange(1.0, {0}.shape[0] + 1, dtype=torch.float64))"
            ".permute(*range({0}.ndim)[::-1])"
        )
        whole = "{0}.reshape(-1).reshape({0}.shape)"
        options[whole] = whole
    return choose(list(options.items()))


def indexing(choose: Choose, a: Value) -> Any:
    if not a.axes:
        return None
    axis = choose(a.axes)
    n = a.shape[axis]
    if n == 0:
        return None
    before = [slice(None)] * axis
    slices = [slice(0, n - 1), slice(None, None, 2), slice(n // 2, None)]
    index = _as_index([*before, choose([*slices, n - 1, 0, [n - 1, 0, 0], [0, n // 2]])])
    rolled = [slice(None)] * axis + [slice(None, None, -1)]
    reverse = f"{{0}}[{_as_index(rolled)}]", f"torch.flip({{0}}, ({axis},))"
    return choose([(f"{{0}}[{index}]", f"{{0}}[{index}]"), reverse])


def product(choose: Choose, a: Value, b: Value) -> Any:
    """Contractions; samples stay in front."""
    options: dict[str, str] = {}
    if not 0 < len(a.own) < 5 or not 0 < len(b.own) < 5:
        return None
    if a.own[-1] == (b.own[-2] if len(b.own) > 1 else b.own[-1]):
        plain = len(a.own) == len(b.own) == 2 or (len(b.own) <= 2 and not b.batched and (a.batched or len(a.own) == 2))
        if plain:
            options["{0} @ {1}"] = "{0} @ {1}"
    letters = "ijklm"
    for shared in range(min(len(a.own), len(b.own)) + 1):
        if shared and a.own[-1] != b.own[-shared]:
            continue
        left = letters[: len(a.own)]
        right = list("pqrst"[: len(b.own)])
        if shared:
            right[-shared] = left[-1]
        rest = left[:-1] if shared and choose([True, False]) else left
        out = rest + "".join(c for c in right if c not in left)
        x, y, z = ("b" if flag else "" for flag in (a.batched, b.batched, a.batched or b.batched))
        options[f"np.einsum('{x}{left},{y}{''.join(right)}->{z}{out}', {{0}}, {{1}})"] = (
            f"torch.einsum('{x}{left},{y}{''.join(right)}->{z}{out}', {{0}}, {{1}})"
        )
    return choose(list(options.items()))


def joining(choose: Choose, a: Value, b: Value) -> Any:
    if a.batched != b.batched or len(a.own) != len(b.own) or not a.axes:
        return None
    axis = choose(a.axes)
    if any(m != n for k, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if k != axis):
        return None
    return f"np.concatenate([{{0}}, {{1}}], axis={axis})", f"torch.cat([{{0}}, {{1}}], {axis})"


def looping(choose: Choose, a: Value, b: Value) -> Any:
    """A loop that carries `a` along, beside a captured `b` of its shape; loops in loops, and rows of all steps."""
    if a.batched != b.batched:
        return None
    texts = [[text.replace("{0}", "c") for text in choose(list(ELEMENTWISE.items()))]]
    if a == b:
        texts.append([text.replace("{0}", "c") for text in choose(list(BINARY.items()))])
    numpy, torch_ = texts[-1]
    numpy, torch_ = f"np.tanh({numpy})", f"torch.tanh({torch_})"
    kept, count = choose([None, 1, 2]), choose([1, 2, 3])
    form = choose(["loop", "rows", "nested", "checkpoint", "plain", "plain"])
    if form == "plain":
        return plain_loop(choose, numpy, torch_)
    if form == "checkpoint":
        return f"mj.checkpoint(lambda c: {numpy})({{0}})", f"[c := {{0}}, {torch_}][1]"
    if form == "rows":
        rows = f"mj.scan(lambda c, _: ({numpy}, c), {{0}}, None, {count}, checkpoint={kept})[1]"
        return (
            f"np.moveaxis({rows}, 0, -1)",
            f"torch.stack([c := {{0}}, *[c := {torch_} for _ in range({count - 1})]], -1)",
        )
    if form == "nested":
        numpy, count = f"mj.scan(lambda c, _: ({numpy}, None), c, None, 2)[0]", 2
    steps = 2 * count if form == "nested" else count
    return (
        f"mj.scan(lambda c, _: ({numpy}, None), {{0}}, None, {count}, checkpoint={kept})[0]",
        f"[c := {{0}}, *[c := {torch_} for _ in range({steps})]][-1]",
    )


def hazards(choose: Choose, a: Value) -> Any:
    """Entries that are left out, by masks, bounds, NaN; lengths that are zero; what looks at the whole batch."""
    options = {
        "np.sqrt(np.maximum({0} - 0.013, 0.0))": "torch.where({0} > 0.013, {0} - 0.013, 1.0).sqrt() * ({0} > 0.013)",
        "np.arccos(np.clip(1.1 * {0} + 0.013, -1.0, 1.0))": (
            "torch.where((1.1 * {0} + 0.013).abs() < 1, "
            "torch.acos(torch.where((1.1 * {0} + 0.013).abs() < 1, 1.1 * {0} + 0.013, 0.0)), "
            "torch.pi * ({0} < 0).double())"
        ),
        "np.where({0} > 0, np.log(np.where({0} > 0, {0}, -0.0)), 0.0)": (
            "torch.where({0} > 0, torch.log(torch.where({0} > 0, {0}, 1.0)), 0.0)"
        ),
        "np.exp(-abs({0} - mj.stop_gradient({0})) ** 2)": "torch.exp(-(({0} - {0}.detach()) ** 2))",
        "np.hypot({0} - mj.stop_gradient({0}), 0.0 * {0}) ** 2 + 0.3": "({0} - {0}.detach()) ** 2 + 0.3",
    }
    if a.batched:
        options |= {
            "({0} - mj.stop_gradient({0}.mean(0)))": "({0} - {0}.detach().mean(0))",
            "{0} / len({0})": "{0} / len({0})",
            "({0}.T * np.arange(len({0}))).T": (
                "({0}.permute(*range({0}.ndim)[::-1]) * torch.arange(len({0}), dtype=torch.float64))"
                ".permute(*range({0}.ndim)[::-1])"
            ),
        }
    if a.axes and 0 not in a.shape:
        axis = choose(a.axes)
        n = a.shape[axis]
        behind = (1,) * (len(a.shape) - axis - 1)
        mask = [choose([True, False]) for _ in range(n - 1)] + [True]
        shape = f".reshape({(n, *behind)})"
        bad = ", ".join("1.5" if ok else choose(["np.nan", "np.inf"]) for ok in mask)
        kept = "torch.tensor(" + str(mask) + ")" + shape
        where = "np.array(" + str(mask) + ")" + shape
        options |= {
            f"np.where({where}, {{0}} * np.array([{bad}]){shape}, 0.0)": f"torch.where({kept}, {{0}} * 1.5, 0.0)",
            f"np.sum({{0}}, axis={axis}, where={where}, initial=0.5)": f"(({{0}} * {kept}).sum({axis}) + 0.5)",
            f"np.compress({mask}, {{0}}, axis={axis})":
                f"torch.index_select({{0}}, {axis}, torch.tensor({mask}).nonzero()[:, 0])",
            f"np.nansum({{0}} * np.array([{bad.replace('np.inf', 'np.nan')}]){shape}, axis={axis})":
                f"({{0}} * 1.5 * {kept}).sum({axis})",
            f"np.take_along_axis({{0}}, (np.argsort({{0}}, axis={axis}, kind='stable') + 1) % {n}, {axis})":
                f"torch.gather({{0}}, {axis}, (torch.argsort({{0}}, dim={axis}, stable=True) + 1) % {n})",
            f"{{0}} * mj.numpy.take(np.arange(1.0, {n + 1}), np.argmax({{0}}, axis={axis}, keepdims=True))":
                f"{{0}} * torch.arange(1.0, {n + 1}, dtype=torch.float64)[torch.argmax({{0}}, {axis}, keepdim=True)]",
            f"np.exp(-np.linalg.norm({{0}} - mj.stop_gradient({{0}}), axis={axis}) ** 2)":
                f"torch.exp(-(({{0}} - {{0}}.detach()) ** 2).sum({axis}))",
        }  # fmt: skip
    return choose(list(options.items()))


def plain_loop(choose: Choose, numpy: str, torch_: str) -> Any:
    """A loop of Python's, with a number that differs between its steps, or one in the other, and what of it is used."""
    count = choose([3, 5, 9])
    step = choose(["{}", "0.9 * {} + 0.01 * k * c", "{} * (1.0 + 0.1 / (1 + k))"])
    used = choose(["c[-1]", "c[-1] + c[1]", "sum(c)", "c[-1] * c[len(c) // 2]"])
    texts = []
    for text in (numpy, torch_):
        inner = f"[c := {step.format(text)} for k in range({count})]"
        if count == 3:
            inner = f"[c := [c, *[c := {step.format(text)} for k in range(4)]][-1] * 0.9 for _ in range(3)]"
        texts.append(f"(lambda c: {used})([c := {{0}}, *{inner}])")
    return tuple(texts)


OPERATIONS: list[tuple[Callable[..., Any], int]] = [
    (elementwise, 1), (elementwise, 1), (binary, 2), (binary, 2), (reduction, 1), (shaping, 1), (shaping, 1),
    (indexing, 1), (product, 2), (product, 2), (joining, 2), (looping, 2), (hazards, 1), (hazards, 1),
    (picking, 1), (in_order_of_values([elementwise, reduction, shaping, indexing, hazards]), 1),
]  # fmt: skip


# -- programs ---------------------------------------------------------------------------------------------------------
def build(choose: Choose) -> Program:
    """A program of random operations: `choose` picks one of the given options."""
    sizes = (1, 2, 3, 4)
    inputs = [Value((B, choose(sizes), *([choose(sizes)] if choose([False, True]) else [])), True)]
    if choose([False, True]):
        inputs.append(Value((B, choose(sizes)), True))
    for _ in range(choose([0, 1, 1, 2])):
        inputs.append(Value((choose(sizes), *([choose(sizes)] if choose([True, False]) else [])), False))
    seed = choose(range(1000))
    values = list(inputs)
    used: set[int] = set()
    arrays = Program("", "", inputs, seed).data()
    names = {"np": np, "mj": mj}
    lines: list[tuple[str, str]] = []
    for _ in range(choose(range(3, 16))):
        make, count = choose(OPERATIONS)
        # one operand is recent, so that programs are deep
        operands = [choose(range(max(len(values) - 3, 0), len(values)))]
        operands += [choose(range(len(values))) for _ in range(count - 1)]
        if choose([False, True]):
            operands.reverse()
        pair = make(choose, *[values[n] for n in operands])
        if pair is None:
            continue
        texts = [text.format(*[f"v{n}" for n in operands]) for text in pair]
        try:
            with np.errstate(all="ignore"):
                result = eval(texts[0], names | {f"v{n}": array for n, array in enumerate(arrays)})
        except ValueError:  # shapes that do not broadcast
            continue
        result = np.asarray(result)
        batched = any(values[n].batched for n in operands)
        size = result.size // B if batched else result.size
        if not 0 < size <= LARGEST or not np.isfinite(result).all() or np.abs(result).max() > 1e3:
            continue
        lines.append((f"v{len(values)} = {texts[0]}", f"v{len(values)} = {texts[1]}"))
        values.append(Value(result.shape, batched))
        arrays.append(result)
        used.update(operands)
    head = f"def f({', '.join(f'v{n}' for n in range(len(inputs)))}):"
    texts = ["\n    ".join([head, *(line[k] for line in lines), _result(values, used)]) + "\n" for k in (0, 1)]
    return Program(*texts, inputs, seed)


def _result(values: list[Value], used: set[int]) -> str:
    """The last line: what nothing has used, with samples as outputs of their own, without as a scale of these."""
    ends = [n for n in range(len(values)) if n not in used]
    outputs = [n for n in ends if values[n].batched][-3:] or [max(n for n, v in enumerate(values) if v.batched)]
    shared = " + ".join(f"0.1 * v{n}.sum()" for n in ends if not values[n].batched) or "0.0"
    return f"return {', '.join(f'v{n} * (1.0 + {shared})' for n in outputs)}"


# -- checks -----------------------------------------------------------------------------------------------------------
def truth(program: Program, data: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """``J[output][input]`` by torch's reverse mode: (B, *out, *in). Checks that no sample depends on another."""
    f = program.torch_function()
    tensors = [torch.tensor(x) for x in data]
    whole = torch.autograd.functional.jacobian(lambda *xs: _tuple(f(*xs)), tuple(tensors))
    rows = []
    for row in whole:
        columns = []
        for J, value in zip(row, program.inputs, strict=True):
            J = J.numpy()
            if value.batched:
                axis = J.ndim - len(value.shape)
                moved = np.moveaxis(J, axis, 1)
                assert not moved[~np.eye(B, dtype=bool)].any(), "the program mixes samples"
                J = np.moveaxis(np.diagonal(moved, axis1=0, axis2=1), -1, 0)
            columns.append(J)
        rows.append(columns)
    return rows


def _tuple(y: Any) -> tuple[Any, ...]:
    return y if isinstance(y, tuple) else (y,)


def compare(found: Any, expected: list[list[np.ndarray]], how: str) -> None:
    for m, (row, truths) in enumerate(zip(found if len(expected) > 1 else [found], expected, strict=True)):
        for k, (J, E) in enumerate(zip(row, truths, strict=True)):
            assert J.shape == E.shape, f"{how}, output {m}, input {k}: shape {J.shape}, expected {E.shape}"
            scale = max(1.0, np.abs(E).max(initial=0.0))
            error = np.abs(J - E).max(initial=0.0) / scale
            assert error < 1e-10, f"{how}, output {m}, input {k}: off by {error:.1e} of {scale:.1e}"


def check(program: Program, turn: int | None = None) -> None:
    """Raise AssertionError where a way to the Jacobian, or the one whose turn it is, is not torch's.

    Eager, and compiled with the data of two calls.
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls, truths = [program.data(0), program.data(1)], list[Any]()
        f = program.function()
        for data in calls[: 1 if turn is not None and turn % 8 < 4 else 2]:
            truths.append(truth(program, data))
        if not all(np.isfinite(J).all() and np.abs(J).max(initial=0.0) < 1e6 for t in truths for row in t for J in row):
            return
        argnums = tuple(range(len(program.inputs)))
        ways = [(compiled, mode) for compiled in (False, True) for mode in MODES]
        for compiled, mode in ways if turn is None else [ways[turn % len(ways)]]:
            options = {"argnums": argnums, "batch_axis": program.batch_axis, "mode": mode}
            if not compiled:
                compare(mj.jacobian(f, **options)(*calls[0]), truths[0], mode)
                continue
            both = mj.compile(mj.value_and_jacobian(f, **options))
            for n, (data, expected) in enumerate(zip(calls, truths, strict=True)):
                value, found = both(*data)
                compare(found, expected, f"compiled {mode}, call {n}")
                for y, z in zip(_tuple(value), _tuple(f(*data)), strict=True):
                    np.testing.assert_allclose(y, z, rtol=1e-9, atol=1e-9, err_msg=f"value compiled, call {n}")


def check_further(program: Program, turn: int | None = None) -> None:
    """Samples on another axis, bounds on memory, and second order, for what stands behind the first input; or one."""
    data = program.data(0)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = truth(program, data)
        if not all(np.isfinite(J).all() and np.abs(J).max(initial=0.0) < 1e6 for row in expected for J in row):
            return
        ways = (_bounded, _on_another_axis, _in_second_order)
        for way in ways if turn is None else [ways[turn % len(ways)]]:
            way(program, data, expected)


def _bounded(program: Program, data: Sequence[Any], expected: Any) -> None:
    options = {"argnums": tuple(range(len(data))), "batch_axis": program.batch_axis}
    compare(bounded(mj.jacobian, program.function(), data, options), expected, "within a bound")


def _on_another_axis(program: Program, data: Sequence[Any], expected: Any) -> None:
    f, argnums = program.function(), tuple(range(len(data)))
    turned = [np.moveaxis(x, 0, -1) if value.batched else x for x, value in zip(data, program.inputs, strict=True)]
    axes = tuple(x.ndim - 1 if value.batched else None for x, value in zip(data, program.inputs, strict=True))

    def on_another_axis(*xs: Any) -> Any:
        return f(*[np.moveaxis(x, -1, 0) if v.batched else x for x, v in zip(xs, program.inputs, strict=True)])

    compare(mj.jacobian(on_another_axis, argnums, batch_axis=axes)(*turned), expected, "samples last")


def _in_second_order(program: Program, data: Sequence[Any], expected: Any) -> None:
    f, tensor_f = program.function(), program.torch_function()

    def summed(x: Any) -> Any:
        return sum(y.reshape(B, -1).sum(1) for y in _tuple(f(x, *data[1:])))

    def total(x: Any) -> Any:
        return sum(y.sum() for y in _tuple(tensor_f(x, *map(torch.tensor, data[1:]))))

    H = torch.autograd.functional.hessian(total, torch.tensor(data[0])).numpy()
    size = data[0].size
    diagonal = np.diagonal(H.reshape(size, size)).reshape(data[0].shape)
    if not np.isfinite(diagonal).all() or np.abs(diagonal).max() > 1e6:
        return
    for transformed in (mj.hessian_diagonal, mj.compile(mj.hessian_diagonal(summed))):
        found = (transformed(summed) if transformed is mj.hessian_diagonal else transformed)(data[0])
        compare([found], [[diagonal]], "second order")
    features = data[0].shape[1:]
    own = np.einsum("bibj->bij", H.reshape(B, size // B, B, size // B)).reshape(B, *features, *features)
    if np.isfinite(own).all() and np.abs(own).max(initial=0.0) < 1e6:
        compare([mj.hessian(summed)(data[0])], [[own]], "Hessian")
        with pytest.MonkeyPatch.context() as patch:  # whatever is less work
            patch.setattr(hessians, "_is_less", lambda ready: True)
            compare([mj.hessian(summed)(data[0])], [[own]], "Hessian summed over operations")
            compare([mj.compile(mj.hessian(summed))(data[0])], [[own]], "compiled Hessian summed over operations")


def bounded(transformation: Callable[..., Any], f: Any, data: Sequence[Any], options: dict[str, Any]) -> Any:
    """The result within the least bound that can be met."""
    try:
        return transformation(f, **options, max_bytes=1000)(*data)
    except mj.InputError as error:
        least = int(str(error).split("Give it max_bytes=")[1].split()[0].replace(",", ""))
    return transformation(f, **options, max_bytes=least)(*data)


def main(count: int, seed: int) -> int:
    failures = 0
    start = time.perf_counter()
    for n in range(count):
        if n % 1000 == 0:
            print(f"{n} programs, {failures} failures, {time.perf_counter() - start:.0f} s", flush=True)
        program = build(random.Random(f"{seed}/{n}").choice)
        try:
            check(program)
            check_further(program)
        except Exception:
            failures += 1
            print(f"--- program {n} of seed {seed}\n{program}\n{traceback.format_exc(limit=-3)}", flush=True)
    print(f"{count} programs from seed {seed}, {failures} failures, {time.perf_counter() - start:.0f} s")
    return failures


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:] or ["100", "0"]))))
