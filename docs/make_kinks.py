"""Fill the tables of docs/kinks.md: ``python docs/make_kinks.py``. ``--check`` only says whether they are up to date.

minijac's columns are computed anew. torch's and JAX's are computed where they are installed, and else stay as they are.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minijac as mj

PAGE = Path(__file__).with_name("kinks.md")
HEAD = "| at | minijac, forward | minijac, reverse | torch | JAX | the truth | why |\n" + "|---" * 7 + "|"
INF = np.inf
SAME = ""
"""For torch and JAX: the expression of minijac, in their functions."""


class Kink(NamedTuple):
    """A function as an expression in `x`, and the point at which its derivative is taken."""

    at: str
    f: str
    x: Any
    torch: str | None = SAME
    jax: str | None = SAME
    truth: str = ""
    why: str = ""
    order: int = 1


# what "the truth" says
SLOPES_ABS = "between -1 and 1"
SLOPES_UNIT = "between 0 and 1"
NONE = "none"
SMOOTH = "smooth, though written by a root"
CUT = "on the side on which the value is"
WHERE = "a branch that is not taken contributes nothing"
EVEN = "ties share evenly"

TABLES: dict[str, list[Kink]] = {
    "kinks": [
        Kink("`abs(x)`, x = 0", "np.abs(x)", 0.0, truth=SLOPES_ABS, why="keeps `abs` even"),
        Kink(
            "`relu(x)`, x = 0", "nn.relu(x)", 0.0, "F.relu(x)", "jax.nn.relu(x)", SLOPES_UNIT, "a unit at rest stays so"
        ),
        Kink("`clip(x, 0, 1)`, x = 0", "np.clip(x, 0.0, 1.0)", 0.0, "torch.clamp(x, 0.0, 1.0)", SAME, SLOPES_UNIT,
             "a value at its bound is a legal value"),
        Kink("`clip(x, 0, 1)`, x = 1", "np.clip(x, 0.0, 1.0)", 1.0, "torch.clamp(x, 0.0, 1.0)", SAME, SLOPES_UNIT,
             "as at the lower bound"),
        Kink("`maximum(x, 0)`, x = 0", "np.maximum(x, 0.0)", 0.0, "torch.maximum(x, 0.0 * x.detach())", SAME,
             SLOPES_UNIT, EVEN),
        Kink("`maximum(a, b)`, a = b", "np.maximum(x[0], x[1])", [1.0, 1.0], truth="shares that add up to 1", why=EVEN),
        Kink("`minimum(a, b)`, a = b", "np.minimum(x[0], x[1])", [1.0, 1.0], truth="shares that add up to 1", why=EVEN),
        Kink("`maximum(x, x)`", "np.maximum(x, x)", 1.0, truth="1", why="two halves"),
        Kink("`fmax(a, b)`, a = b", "np.fmax(x[0], x[1])", [1.0, 1.0], truth="shares that add up to 1", why=EVEN),
        Kink("`fmax(a, b)`, b is NaN", "np.fmax(x[0], x[1])", [1.0, np.nan], truth="1, 0", why="the value is a"),
        Kink("`x.max()`, two of three tie", "np.max(x)", [2.0, 1.0, 2.0], "x.max()", truth="shares that add up to 1",
             why=EVEN),
        Kink("`x.max(axis)`, two of three tie", "np.max(x, axis=-1)", [2.0, 1.0, 2.0], "x.amax(-1)",
             truth="shares that add up to 1", why=EVEN),
        Kink("`x.min(axis)`, three tie", "np.min(x, axis=-1)", [2.0, 2.0, 2.0], "x.amin(-1)",
             truth="shares that add up to 1", why=EVEN),
        Kink("the same by `max(dim)` of torch", "np.max(x, axis=-1)", [2.0, 2.0, 2.0], "x.max(-1).values",
             truth="shares that add up to 1", why="no entry was named"),
        Kink("`ptp(x)` of a constant", "np.ptp(x)", [2.0, 2.0], "x.amax() - x.amin()", truth="of either sign",
             why="the shares of both extremes cancel"),
        Kink("`median(x)`, three tie", "np.median(x)", [2.0, 2.0, 2.0], "x.median()", truth="shares that add up to 1",
             why=EVEN),
        Kink("`median(x)`, even length", "np.median(x)", [1.0, 4.0, 2.0, 9.0], "x.median()", truth="0, 1/2, 1/2, 0",
             why="torch's median is the lower one, another function"),
        Kink("`quantile(x, 0.5)`, the middle ties", "np.quantile(x, 0.5)", [1.0, 2.0, 2.0, 3.0], "x.quantile(0.5)",
             truth="shares that add up to 1", why=EVEN),
        Kink("`sort(x)[0]`, both tie", "np.sort(x)[0]", [2.0, 2.0], "x.sort(stable=True).values[0]",
             truth="shares that add up to 1", why="the order of equal entries stays, and each keeps its derivative"),
        Kink("`sign(x)`, x = 0", "np.sign(x)", 0.0, truth="none, a jump", why="0 wherever there is a derivative"),
        Kink("`floor(x)`, x = 1", "np.floor(x)", 1.0, truth="none, a jump", why="0 wherever there is a derivative"),
        Kink("`heaviside(x, 0.5)`, x = 0", "np.heaviside(x, 0.5)", 0.0,
             "torch.heaviside(x, torch.tensor(0.5, dtype=x.dtype))", truth="none, a jump",
             why="0 wherever there is a derivative"),
        Kink("`mod(x, 1)`, x = 1", "np.mod(x, 1.0)", 1.0, "torch.remainder(x, 1.0)", truth="1 from the right",
             why="the slope on both sides"),
        Kink("`copysign(x, 1)`, x = 0", "np.copysign(x, 1.0)", 0.0, truth=SLOPES_ABS, why="it is `abs(x)`"),
        Kink("`nan_to_num(x)`, x is NaN", "np.nan_to_num(x)", np.nan, truth="0", why="the value is a constant there"),
        Kink("`maximum.accumulate(x)[2]`, the second and third tie", "np.maximum.accumulate(x)[2]", [1.0, 2.0, 2.0],
             "torch.cummax(x, 0).values[2]", "jax.lax.cummax(x)[2]", "shares that add up to 1", EVEN),
    ],
    "zero": [
        Kink("`sqrt(x)`, x = 0", "np.sqrt(x)", 0.0, truth="∞", why="it truly is infinite"),
        Kink("`cbrt(x)`, x = 0", "np.cbrt(x)", 0.0, "x.sign() * x.abs() ** (1 / 3)", truth="∞",
             why="it truly is infinite"),
        Kink("`log(x)`, x = 0", "np.log(x)", 0.0, truth="∞", why="the limit from the right"),
        Kink("`1 / x`, x = 0", "1.0 / x", 0.0, truth="-∞", why="the limit from both sides"),
        Kink("`x / x`, x = 0", "x / x", 0.0, truth="the value is NaN", why="a NaN is not hidden"),
        Kink("`a / b`, both 0", "x[0] / x[1]", [0.0, 0.0], truth="the value is NaN",
             why="in a: 1 / b; in b: not hidden"),
        Kink("`x**0`, x = 0", "x ** 0", 0.0, truth="0", why="it is the constant 1"),
        Kink("`x**0.0`, x = 0", "x ** 0.0", 0.0, truth="0", why="whatever the type of the exponent"),
        Kink("`x**p`, x = 0, p an array of 0", "x ** np.array(0.0)", 0.0, "x ** torch.tensor(0.0, dtype=x.dtype)",
             "x ** jnp.array(0.0)", truth="0", why="whatever the type of the exponent"),
        Kink("`x**1.0`, x = 0, second derivative", "x ** 1.0", 0.0, truth="0", why="it is x", order=2),
        Kink("`x**2.0`, x = 0, second derivative", "x ** 2.0", 0.0, truth="2", why="it is x * x", order=2),
        Kink("`x**0.5`, x = 0", "x ** 0.5", 0.0, truth="∞", why="it is `sqrt(x)`"),
        Kink("`0**y`, y = 0", "0.0 ** x", 0.0, truth="0 from the right, where the value jumps",
             why="the slope for y > 0"),
        Kink("`0**y`, y = 1", "0.0 ** x", 1.0, truth="0", why="it is the constant 0"),
        Kink("`(-2)**y`, y = 2", "np.power(-2.0, x)", 2.0, "torch.pow(torch.tensor(-2.0, dtype=x.dtype), x)",
             truth="none: NaN beside y", why="the value is NaN on both sides"),
        Kink("`norm(x)`, x = 0", "np.linalg.norm(x)", [0.0, 0.0], "torch.linalg.norm(x)",
             truth="any vector of length up to 1", why="the symmetric one"),
        Kink("`hypot(a, b)`, both 0", "np.hypot(x[0], x[1])", [0.0, 0.0], truth="any vector of length up to 1",
             why="it is `norm`"),
        Kink("`arctan2(a, b)`, both 0", "np.arctan2(x[0], x[1])", [0.0, 0.0], truth=NONE,
             why="the angle is arbitrary; 0 is symmetric"),
        Kink("`std(x)` of a constant", "np.std(x)", [2.0, 2.0], "torch.std(x, correction=0)", truth="of either sign",
             why="the symmetric one, as for `norm`"),
        Kink("`var(x)` of a constant", "np.var(x)", [2.0, 2.0], "torch.var(x, correction=0)", truth="0, 0",
             why="smooth"),
        Kink("`prod(x)`, one zero", "np.prod(x)", [0.0, 2.0, 3.0], truth="6, 0, 0",
             why="the product of the others, without a division"),
        Kink("`prod(x)`, two zeros", "np.prod(x)", [0.0, 2.0, 0.0], truth="0, 0, 0", why="the same"),
        Kink("`prod(x)`, one zero, second derivative, mixed", "np.prod(x)", [0.0, 2.0, 3.0],
             truth="0, 3, 2; 3, 0, 0; 2, 0, 0", why="the same", order=2),
        Kink("`cumprod(x)[2]`, one zero", "np.cumprod(x)[2]", [0.0, 2.0, 3.0], "torch.cumprod(x, 0)[2]",
             truth="6, 0, 0", why="the same"),
        Kink("`sinc(x)`, x = 0", "np.sinc(x)", 0.0, truth="0", why="smooth"),
        Kink("`sinc(x)`, x = 0, second derivative", "np.sinc(x)", 0.0, truth="-π²/3 = -3.28987", why="by its series",
             order=2),
        Kink("`arcsin(x)`, x = 1", "np.arcsin(x)", 1.0, truth="∞", why="it truly is infinite"),
        Kink("`arccosh(x)`, x = 1", "np.arccosh(x)", 1.0, truth="∞", why="it truly is infinite"),
        Kink("`norm(x)`, x = 0, second derivative", "np.linalg.norm(x)", [0.0, 0.0], "torch.linalg.norm(x)",
             truth="infinite", why="none is made up", order=2),
        Kink("`norm(x)**2`, x = 0, second derivative", "np.linalg.norm(x) ** 2", [0.0, 0.0],
             "torch.linalg.norm(x) ** 2", truth="2, 0; 0, 2", why=SMOOTH, order=2),
        Kink("`cos(norm(x))`, x = 0, second derivative", "np.cos(np.linalg.norm(x))", [0.0, 0.0],
             "torch.cos(torch.linalg.norm(x))", truth="-1, 0; 0, -1", why=SMOOTH, order=2),
        Kink("`abs(x)**2`, x = 0, second derivative", "np.abs(x) ** 2", 0.0, truth="2", why=SMOOTH, order=2),
        Kink("`maximum(x, 0) + log1p(exp(-abs(x)))`, x = 0, second derivative",
             "np.maximum(x, 0 * x) + np.log1p(np.exp(-np.abs(x)))", 0.0, truth="1/4",
             why="softplus: the kinks cancel", order=2),
        Kink("`abs(x)`, x = 0, second derivative", "np.abs(x)", 0.0, truth=NONE, why="0 on both sides", order=2),
        Kink("`x * abs(x)`, x = 0, second derivative", "x * np.abs(x)", 0.0, truth="between -2 and 2",
             why="keeps it odd", order=2),
    ],
    "branches": [
        Kink("`where(x > 0, sqrt(x), 0)`, x = 0", "np.where(x > 0, np.sqrt(x), 0.0)", 0.0, truth="0 from the left",
             why=WHERE),
        Kink("`where(x > 0, log(x), 0)`, x = 0", "np.where(x > 0, np.log(x), 0.0)", 0.0, truth="0 from the left",
             why=WHERE),
        Kink("`where(x != 0, 1 / x, 0)`, x = 0", "np.where(x != 0, 1.0 / x, 0.0)", 0.0, truth=NONE, why=WHERE),
        Kink("`where(x != 0, sin(x) / x, 1)`, x = 0", "np.where(x != 0, np.sin(x) / x, 1.0)", 0.0, truth="0",
             why=WHERE),
        Kink("`where(x > 1, x, exp(x))`, x = 1000", "np.where(x > 1, x, np.exp(x))", 1000.0, truth="1", why=WHERE),
        Kink("`where(x > 0, x, x * nan)`, x = 1", "np.where(x > 0, x, x * np.nan)", 1.0, truth="1", why=WHERE),
        Kink("`where(x > 0, sqrt(x), x)`, x = 0, second derivative", "np.where(x > 0, np.sqrt(x), x)", 0.0,
             truth="0 from the left", why=WHERE, order=2),
        Kink("`select([x > 0], [log(x)], 0)`, x = 0", "np.select([x > 0], [np.log(x)], 0.0)", 0.0, None, SAME,
             truth="0 from the left", why=WHERE),
        Kink("`nansum(sqrt(x))`, x = -1, 4", "np.nansum(np.sqrt(x))", [-1.0, 4.0], truth="0, 1/4",
             why="a NaN passed over is a branch not taken"),
    ],
    "special": [
        Kink("`logsumexp(x)`, all -∞", "special.logsumexp(x)", [-INF, -INF], "torch.logsumexp(x, 0)",
             "jax.nn.logsumexp(x)", "shares that add up to 1", "`logsumexp(x + t) = logsumexp(x) + t`"),
        Kink("`logsumexp(x)`, one -∞", "special.logsumexp(x)", [-INF, 0.0], "torch.logsumexp(x, 0)",
             "jax.nn.logsumexp(x)", "0, 1", "the softmax"),
        Kink("`logsumexp(x)`, one ∞", "special.logsumexp(x)", [INF, 0.0], "torch.logsumexp(x, 0)",
             "jax.nn.logsumexp(x)", "1, 0", "the limit"),
        Kink("`logaddexp(a, b)`, both -∞", "np.logaddexp(x[0], x[1])", [-INF, -INF], truth="shares that add up to 1",
             why="as for `logsumexp`"),
        Kink("`softmax(x)[0]`, x = 0, 1000", "nn.softmax(x)[0]", [0.0, 1000.0], "torch.softmax(x, 0)[0]",
             "jax.nn.softmax(x)[0]", "0, 0", "no overflow"),
        Kink("`softplus(x)`, x = 1000", "nn.softplus(x)", 1000.0, "F.softplus(x)", "jax.nn.softplus(x)", "1",
             "no overflow"),
        Kink("`xlogy(x, y)`, x = 0, y = 0", "special.xlogy(x[0], x[1])", [0.0, 0.0], "torch.special.xlogy(x[0], x[1])",
             "jax.scipy.special.xlogy(x[0], x[1])", NONE, "the value is the constant 0 along both axes"),
        Kink("`entr(x)`, x = 0", "special.entr(x)", 0.0, "torch.special.entr(x)", "jax.scipy.special.entr(x)", "∞",
             "it truly is infinite"),
        Kink("`i0e(x)`, x = 0", "special.i0e(x)", 0.0, "torch.special.i0e(x)", "jax.scipy.special.i0e(x)", SLOPES_ABS,
             "keeps it even"),
        Kink("`leaky_relu(x, 0.1)`, x = 0", "nn.leaky_relu(x, 0.1)", 0.0, "F.leaky_relu(x, 0.1)",
             "jax.nn.leaky_relu(x, 0.1)", "between 0.1 and 1", "as torch"),
        Kink("`elu(x, 2)`, x = 0", "nn.elu(x, 2.0)", 0.0, "F.elu(x, 2.0)", "jax.nn.elu(x, 2.0)", "between 1 and 2",
             "as torch"),
        Kink("`relu6(x)`, x = 6", "nn.relu6(x)", 6.0, "F.relu6(x)", "jax.nn.relu6(x)", SLOPES_UNIT,
             "made of `relu`: 0 at its bounds"),
        Kink("`hardtanh(x)`, x = 1", "nn.hardtanh(x)", 1.0, "F.hardtanh(x)", "jax.nn.hard_tanh(x)", SLOPES_UNIT,
             "as `relu6`"),
        Kink("`hardsigmoid(x)`, x = 3", "nn.hardsigmoid(x)", 3.0, "F.hardsigmoid(x)", "jax.nn.hard_sigmoid(x)",
             "between 0 and 1/6", "as `relu6`"),
        Kink("`hardswish(x)`, x = -3", "nn.hardswish(x)", -3.0, "F.hardswish(x)", "jax.nn.hard_swish(x)",
             "between -1/2 and 0", "the outer piece"),
        Kink("`hardswish(x)`, x = 3", "nn.hardswish(x)", 3.0, "F.hardswish(x)", "jax.nn.hard_swish(x)",
             "between 1 and 3/2", "the outer piece"),
        Kink("`max_pool1d`, both of a window tie", "nn.max_pool1d(x[None, None], 2)[0, 0, 0]", [1.0, 1.0],
             "F.max_pool1d(x[None, None], 2)[0, 0, 0]", None, "shares that add up to 1", EVEN),
        Kink("`layer_norm(x)[0]` of a constant", "nn.layer_norm(x, eps=1.0)[0]", [2.0, 2.0],
             "F.layer_norm(x, (2,), eps=1.0)[0]", None, "1/2, -1/2", "smooth for eps > 0"),
    ],
    "complex": [
        Kink("`abs(1j * x)`, x = 0", "np.abs(1j * x)", 0.0, truth=SLOPES_ABS, why="as for real numbers"),
        Kink("`abs(1j * x)**2`, x = 0, second derivative", "np.abs(1j * x) ** 2", 0.0, truth="2", why=SMOOTH, order=2),
        Kink("`angle(1j * x)`, x = 0", "np.angle(1j * x)", 0.0, truth="none, a jump", why="as `arctan2`"),
        Kink("`sqrt(x + 0j).imag`, x = -4", "np.sqrt(x + 0j).imag", -4.0, truth="-1/4 from above the cut", why=CUT),
        Kink("`sqrt((x + 0j).conj()).imag`, x = -4", "np.sqrt((x + 0j).conj()).imag", -4.0,
             "torch.sqrt((x + 0j).conj()).imag", truth="1/4 from below the cut", why=CUT),
        Kink("`log(x + 0j).real`, x = -2", "np.log(x + 0j).real", -2.0, truth="-1/2", why="one slope on both sides"),
        Kink("`arcsin(x + 0j).imag`, x = 5/4", "np.arcsin(x + 0j).imag", 1.25, truth="4/3 from above the cut", why=CUT),
        Kink("`arccos(x + 0j).imag`, x = 5/4", "np.arccos(x + 0j).imag", 1.25, truth="-4/3 from above the cut",
             why=CUT),
        Kink("`arcsinh(1j * x).real`, x = 5/4", "np.arcsinh(1j * x).real", 1.25, truth="4/3 from its right", why=CUT),
    ],
}  # fmt: skip


# -- minijac -----------------------------------------------------------------------------------------------------------
def function(kink: Kink) -> Callable[[Any], Any]:
    return eval(f"lambda x: {kink.f}", {"np": np, "nn": mj.nn, "special": mj.special})


def minijac_derivative(kink: Kink, modes: Sequence[str]) -> np.ndarray:
    """The derivative with one mode for each order, the innermost first."""
    f = function(kink)
    for mode in modes:
        f = mj.jacobian(f, batch_axis=None, mode=mode)
    with np.errstate(all="ignore"):
        return f(np.array(kink.x))


def all_modes(kink: Kink) -> list[np.ndarray]:
    """By every mode, and for second order by every two of them."""
    modes = ("forward", "reverse", "mixed", "auto")
    return [minijac_derivative(kink, choice) for choice in product(modes, repeat=kink.order)]


# -- torch and JAX -----------------------------------------------------------------------------------------------------
def torch_column(kink: Kink) -> str | None:
    """What torch says; None where torch is not installed."""
    if kink.torch is None:
        return "-"
    try:
        import torch
    except ImportError:
        return None
    names = {"np": torch, "torch": torch, "F": torch.nn.functional}
    f = eval(f"lambda x: {translated(kink, kink.torch, 'torch')}", names)
    x = torch.tensor(kink.x, dtype=torch.float64)
    return by_both(f, x, kink.order, torch.func.jacrev, torch.func.jacfwd)


def jax_column(kink: Kink) -> str | None:
    """What JAX says; None where JAX is not installed."""
    if kink.jax is None:
        return "-"
    try:
        import jax
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)
    f = eval(f"lambda x: {translated(kink, kink.jax, 'jnp')}", {"jax": jax, "jnp": jax.numpy})
    return by_both(f, jax.numpy.array(kink.x), kink.order, jax.jacrev, jax.jacfwd)


def translated(kink: Kink, expression: str, name: str) -> str:
    expression = (expression or kink.f).replace("np.", f"{name}.")
    if name == "torch":
        for numpys, torchs in (("nansum", "nansum"), ("absolute", "abs")):
            expression = expression.replace(numpys, torchs)
    return expression.replace("jjnp.", "jnp.")


def by_both(f: Any, x: Any, order: int, reverse: Any, forward: Any) -> str:
    shown = []
    for mode in (reverse, forward):
        g = f
        for _ in range(order):
            g = mode(g)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                y = g(x)
                shown.append(text(y.numpy(force=True) if hasattr(y, "numpy") else np.asarray(y)))
        except (RuntimeError, NotImplementedError, ValueError):
            shown.append("an error")
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} reverse; {shown[1]} forward"


# -- the page ----------------------------------------------------------------------------------------------------------
def text(values: Any) -> str:
    """Numbers as a reader would write them; rows of a matrix apart by semicolons."""
    if np.ndim(values) == 2:
        return "; ".join(text(row) for row in values)
    return ", ".join(number(v) for v in np.ravel(values).tolist())


def number(value: float) -> str:
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else "∞" if value > 0 else "-∞"
    near = Fraction(value).limit_denominator(12)
    return str(near) if abs(near - value) < 1e-12 else f"{value:.6g}"


def row(kink: Kink, stored: dict[str, list[str]]) -> str:
    forward, reverse = (text(minijac_derivative(kink, (mode,) * kink.order)) for mode in ("forward", "reverse"))
    others = []
    for place, column in ((3, torch_column), (4, jax_column)):
        shown = column(kink)
        if shown is None:
            shown = stored[kink.at][place].strip("*") if kink.at in stored else "not known"
        others.append(shown if shown in (forward, "-") else f"**{shown}**")
    return "| " + " | ".join((kink.at, forward, reverse, *others, kink.truth, kink.why)) + " |"


def rows(page: str) -> dict[str, list[str]]:
    """The cells of the rows of all tables, by the first one."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:2] == "| "]
    return {row[0]: row for row in cells}


def filled(page: str) -> str:
    """The page with its tables made anew."""
    stored = rows(page)
    for name, kinks in TABLES.items():
        table = "\n".join([HEAD, *(row(kink, stored) for kink in kinks)])
        page, found = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", page, flags=re.DOTALL
        )
        assert found == 1, f"docs/kinks.md has no place for the table {name!r}"
    return page


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" in sys.argv:
        sys.exit(before != after)
    PAGE.write_text(after, encoding="utf-8")
