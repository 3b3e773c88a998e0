"""Write docs/coverage.md from the live package: ``python docs/make_coverage.py``. ``--check`` only compares.

Every function has a sample call. What the page says of it is what happens when that call is made on traced values: its
Jacobian from either end, compared with the other and with finite differences; or the kind of plain value; or the error.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from coverage_calls import ADAPTED, OTHERS, PLAIN, SECTIONS, TRACED, Entry

import minijac as mj
from minijac.tape.traced import is_traced

PAGE = Path(__file__).with_name("coverage.md")


def public() -> dict[str, set[str]]:
    """The names that the installed NumPy, and minijac, offer: those that must be on the page."""
    return {
        "numpy": {name for name in np.__all__ if is_function(vars(np).get(name))},
        "numpy.fft": set(np.fft.__all__),
        **{name: functions(name) for name in SECTIONS if name.startswith("numpy.") and name != "numpy.fft"},
        "Methods, attributes and operators of ndarray": {name for name in dir(np.ndarray) if name[0] != "_"},
        "scipy.special": set(mj.special.__all__),
        "minijac.nn": set(mj.nn.__all__),
    }


def functions(module: str) -> set[str]:
    """The public functions of a module of NumPy's."""
    found = np.emath if module == "numpy.emath" else importlib.import_module(module)
    names = getattr(found, "__all__", None) or [name for name in dir(found) if name[0] != "_"]
    return {name for name in names if is_function(getattr(found, name))}


def is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type | types.ModuleType)


# -- what a call does --------------------------------------------------------------------------------------------------
def leaves(result: Any) -> list[Any]:
    return [leaf for part in result for leaf in leaves(part)] if isinstance(result, list | tuple) else [result]


def run(entry: Entry) -> str:
    """Make the call on traced values; what is to be said of it, or AssertionError where it does something else."""
    code = compile(entry.call, entry.name, "eval")
    used = [name for name in TRACED if name in code.co_names or any(name in names for names in inner_names(code))]
    seen: list[Any] = []

    call = eval(f"lambda {', '.join(used)}: {entry.call}", PLAIN | {"__name__": "coverage"})
    call = mj.adapt(call) if f"np{ADAPTED[5:]}" in entry.call else call

    def f(*args: Any) -> list[Any]:
        seen[:] = leaves(call(*args))
        return [y for y in seen if is_traced(y)] or [args[0]]

    args = [TRACED[name] for name in used]
    jacobian = {
        mode: mj.jacobian(f, tuple(range(len(args))), batch_axis=None, mode=mode) for mode in ("forward", "reverse")
    }
    if entry.kind in ("refused", "conversion"):
        try:
            jacobian["reverse"](*args)
        except mj.MinijacError:
            return "refused"
        raise AssertionError(f"{entry.call}: expected an error, got {seen}")
    found = {mode: function(*args) for mode, function in jacobian.items()}
    plain = leaves(eval(code, {**PLAIN, **dict(zip(used, args, strict=True))}))
    assert len(plain) == len(seen), entry
    for traced, truth in zip(seen, plain, strict=True):
        same(mj.stop_gradient(traced) if is_traced(traced) else traced, truth, entry)
    if entry.kind == "plain":
        assert not any(map(is_traced, seen)), f"{entry.call}: traced"
        return f"plain values: {described(plain)}"
    traced_at = [n for n, y in enumerate(seen) if is_traced(y)]
    assert traced_at, f"{entry.call}: not traced"
    for k, name in enumerate(used):
        truth = differences(code, used, args, k)
        for place, n in enumerate(traced_at):
            forward, reverse = (found[mode][place][k] for mode in ("forward", "reverse"))
            np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-11, err_msg=f"{entry.call}, {name}")
            np.testing.assert_allclose(reverse, truth[n], rtol=1e-5, atol=1e-7, err_msg=f"{entry.call}, {name}")
    return "both modes"


def inner_names(code: Any) -> Iterable[tuple[str, ...]]:
    return [const.co_names for const in code.co_consts if isinstance(const, types.CodeType)]


def same(value: Any, truth: Any, entry: Entry) -> None:
    if isinstance(truth, np.ndarray | np.generic):
        assert np.asarray(value).dtype == truth.dtype, entry
        np.testing.assert_allclose(value, truth, rtol=1e-9, atol=1e-12, err_msg=entry.call)
    else:
        assert value == truth or isinstance(truth, str), entry


def differences(code: Any, used: list[str], args: list[Any], k: int, h: float = 1e-6) -> list[Any]:
    """Central differences of each result in argument k."""
    columns = []
    for unit in np.eye(args[k].size).reshape(-1, *args[k].shape):
        ends = []
        for step in (h, -h):
            moved = [*args[:k], args[k] + step * unit, *args[k + 1 :]]
            ends.append(leaves(eval(code, {**PLAIN, **dict(zip(used, moved, strict=True))})))
        columns.append(
            [np.subtract(a, b, dtype=np.result_type(a, b, float)) / (2 * h) for a, b in zip(*ends, strict=True)]
        )
    return [np.stack(c, -1).reshape((*c[0].shape, *args[k].shape)) for c in zip(*columns, strict=True)]


def described(results: list[Any]) -> str:
    """The kind of plain value."""
    kinds = {np.asarray(result).dtype.kind if not isinstance(result, np.dtype) else "d" for result in results}
    words = {"b": "truth values", "i": "integers", "u": "integers", "d": "a dtype", "U": "text"}
    words["f"] = "numbers, constant wherever there is a derivative"
    return " and ".join(sorted({words.get(kind, "what describes the array") for kind in kinds}))


# -- the page ----------------------------------------------------------------------------------------------------------
def status(entry: Entry) -> str:
    if entry.kind == "none":
        return f"no traced arguments: {entry.why}"
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        said = run(entry)
    return f"refused: {entry.why}" if said == "refused" else said


def present(section: str, entry: Entry) -> bool:
    """Whether the installed NumPy has the function."""
    names = public().get(section)
    return names is None or not entry.name.isidentifier() or entry.name in names


def page() -> str:
    lines, supported, differentiable = [], 0, 0
    for section, entries in SECTIONS.items():
        lines += [f"## {section}", "", "| | | sample call |", "|---|---|---|"]
        for entry in sorted((e for e in entries if present(section, e)), key=lambda e: e.name.strip("`").lower()):
            said = status(entry)
            supported += said == "both modes"
            differentiable += said == "both modes" or entry.kind == "refused"
            name = entry.name.replace("|", "\\|") if "`" in entry.name else f"`{entry.name}`"
            lines.append(f"| {name} | {said} | {shown(entry.call)} |".replace("|  |", "| |"))
        lines.append("")
    lines += others()
    share = 100.0 * supported / differentiable
    head = HEAD.format(supported=supported, differentiable=differentiable, share=share, numpy=np.__version__)
    return head + "\n".join(lines).rstrip() + "\n"


def others() -> list[str]:
    """What holds for all functions of a module alike, and their names."""
    lines = ["## Other modules of NumPy's", "", "| | | sample call |", "|---|---|---|"]
    for module, (kind, call, why) in OTHERS.items():
        lines.append(
            f"| `{module}` | {status(Entry(module, call, kind, why))} | {shown(call)} |".replace("|  |", "| |")
        )
    for module in OTHERS:
        lines += ["", f"`{module}`: {', '.join(sorted(functions(module)))}."]
    return [*lines, ""]


def shown(call: str) -> str:
    return "`" + call.replace("|", "\\|") + "`" if call else ""


HEAD = """# Coverage

What traced values can meet, function by function, of NumPy {numpy}. The page is made by `docs/make_coverage.py`, which
makes every sample call on traced values:

- **both modes**: its Jacobian from either end agrees with the other and with finite differences, to rounding.
- **plain values**: the result carries no derivative, and is what NumPy returns.
- **no traced arguments**: it creates arrays, reads files, or looks at settings.
- **refused**: it raises an error that says what to write instead.

**{supported} of {differentiable} differentiable functions are supported, {share:.1f} %.** The others are refused: their
result is made row by row, or of another shape. Not counted are those that would make a plain value of a
traced one. `numpy.polynomial` is called under `minijac.adapt`; `numpy.emath` is `numpy.lib.scimath` too.

"""


def names_on(page: str) -> dict[str, set[str]]:
    """The names of each section of a page."""
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0]: set(re.findall(r"^\| (?:`(\w+)`)", part, re.MULTILINE)) for part in sections}


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
