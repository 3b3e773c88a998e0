"""Operations of random programs on several samples: picked, or in an order, and put back where they belong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Choose = Callable[[Sequence[Any]], Any]


def picking(choose: Choose, a: Any) -> Any:
    """Samples that are picked, by masks, positions and parts, and put back where they belong."""
    if not a.batched:
        return None
    B = a.shape[0]
    some = [choose([True, False]) for _ in range(B)]
    order = choose([[2, 0, 1], [1, 0, 2], [2, 1, 0]])
    back = [order.index(k) for k in range(B)]
    many, left = choose([[0, 0, 2], [1, 2, 1, 0], [0, 1, 2, 0, 1, 2]]), [1] * len(a.own)
    counts = f"torch.tensor({[float(many.count(k)) for k in range(B)]}, dtype=torch.float64).reshape(-1, *{left})"
    chosen = f"torch.tensor({some}).reshape(-1, *{left})"
    rows, inner = choose([(f"np.array({some})", "{}.T.T"), (f"np.flatnonzero({some})[::-1]", "{}")])
    picked = inner.format(f"{{0}}[{rows}]")
    options = {
        f"mj.numpy.put({{0}}, {rows}, np.tanh({picked}) * {picked} ** 2)":
            f"torch.where({chosen}, torch.tanh({{0}}) * {{0}} ** 2, {{0}})",
        f"np.sin({{0}}[np.array({order})])[np.array({back})] * {{0}}": "torch.sin({0}) * {0}",
        f"mj.numpy.add_at(0.5 * {{0}}, np.array({many}), np.tanh({{0}}[np.array({many})]))":
            f"(0.5 * {{0}} + {counts} * torch.tanh({{0}}))",
        "np.concatenate([np.sin({0}[:2]), 0.3 * {0}[2:] ** 2])": "torch.cat([torch.sin({0}[:2]), 0.3 * {0}[2:] ** 2])",
        f"np.stack([np.tanh({{0}}[k]) for k in range({B})])": "torch.tanh({0})",
        "np.roll(np.roll({0}, 1, 0) ** 2, -1, 0)": "({0} ** 2)",
    }  # fmt: skip
    if a.axes:
        options[f"np.take(np.cumsum({{0}}[np.array({order})], -1) ** 2, np.array({back}), axis=0)"] = (
            "(torch.cumsum({0}, -1) ** 2)"
        )
        mask = np.array([choose([True, False, True]) for _ in range(B * int(np.prod(a.own)))]).reshape(a.shape).tolist()
        options[f"mj.numpy.put({{0}}, np.array({mask}), np.stack([{{0}}[np.array({mask})]] * 2, 1).prod(1))"] = (
            f"torch.where(torch.tensor({mask}, dtype=torch.bool), {{0}} ** 2, {{0}})"
        )
    return choose(list(options.items()))


def in_order_of_values(inner: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """The operation that carries out one of others, or itself, on samples that are sorted by their values."""

    def sorting(choose: Choose, a: Any) -> Any:
        pair = choose([*inner, sorting])(choose, a) if a.batched else None
        if pair is None:
            return None
        numpy, torch_ = [text.replace("{0}", "s") for text in pair]
        down, flipped = choose([("", ""), ("[::-1]", ".flip(0)")])
        factor = choose(["{}", "({}) * 0.9", "np.sin({})"])
        numpy, torch_ = factor.format(numpy), factor.format(torch_).replace("np.", "torch.")
        back = choose(["({})[np.argsort(o)]", "(lambda r: mj.numpy.put(np.zeros_like(r), o, r))({})"])
        key = "np.argsort({0}.reshape(len({0}), -1)[:, -1], kind='stable')"
        torch_key = "torch.argsort({0}.detach().reshape(len({0}), -1)[:, -1], stable=True)"
        return (
            f"(lambda o: (lambda s: {back.format(numpy)})({{0}}[o]))({key}{down})",
            f"(lambda o: (lambda s: ({torch_})[torch.argsort(o)])({{0}}[o]))({torch_key}{flipped})",
        )

    return sorting
