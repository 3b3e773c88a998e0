"""The house itself: imports run one way, operations are known by their records alone, and nothing grows too large."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from minijac.ops import REGISTRY

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "minijac"
FILES = sorted(PACKAGE.rglob("*.py"))

ROOMS = (
    "lines", "errors", "foreign", "backend", "memo", "prices", "strides", "algebra", "picks", "places", "tape", "alike",
    "ops", "arguments", "operator", "numpy", "special_forms", "special", "scipy", "nn", "accumulation", "program",
    "ways", "transforms", "loops", "twins", "adapting", "views", "testing", "torch", "__init__", "demo", "__main__",
)  # fmt: skip
"""From the ground up: each imports only from itself and from those before it."""


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def module_of(file: Path) -> str:
    """The dotted name below the package; a package's own file goes by the package's name."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def room_of(module: str) -> str:
    return module.split(".")[0]


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below, but for what stands under ``if TYPE_CHECKING``, which is never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from executed(child)


def imports(module: str) -> set[str]:
    """The package's modules that one imports, anywhere in it."""
    file, found = MODULES[module], set()
    here = file.relative_to(PACKAGE).parent.parts
    for node in executed(tree_of(file)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "minijac":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            base = [part for part in base if part]
            found |= {named(base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                named(alias.name.split(".")[1:], "") for alias in node.names if alias.name.split(".")[0] == "minijac"
            }
    return found - {module}


def named(base: list[str], name: str) -> str:
    """The module that ``from base import name`` asks for."""
    whole = ".".join([*base, name])
    return whole if whole in MODULES else ".".join(base) or "__init__"


UPWARDS: set[tuple[str, str]] = set()
"""Imports that still run upwards: a list that only shrinks."""
CIRCLES: list[int] = []
"""How many modules still import each other in a circle: a list that only shrinks."""


def test_imports_run_downwards():
    rank = {room: k for k, room in enumerate(ROOMS)}
    assert {room_of(module) for module in MODULES} <= {*ROOMS}, "a new room: give it its place in ROOMS"
    edges = {(module, other) for module in MODULES for other in imports(module)}
    found = {(module, other) for module, other in edges if rank[room_of(other)] > rank[room_of(module)]}
    assert found == UPWARDS


def test_no_module_imports_itself_by_way_of_others():
    found = circles({module: imports(module) for module in MODULES})
    assert sorted(map(len, found), reverse=True) == CIRCLES, "\n".join(" ".join(sorted(each)) for each in found)


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        seen, waiting = set(), [start]
        while waiting:
            for other in edges[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        reached[start] = seen
    components = {frozenset({a, *(b for b in reached[a] if a in reached[b])}) for a in edges}
    return [set(component) for component in components if len(component) > 1]


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [{"b", "c"}]


# --- operations are known by their records ----------------------------------------------------------------------------

NAMESPACES = ("ops", "numpy", "special_forms", "special", "scipy", "nn", "twins")
"""Where operations are defined and named for the user."""
OTHER_MEANINGS = {
    "arguments": {"diagonal"},  # a policy of samples that mix
    "demo.forum": {"tanh"},  # the activation of a network in torch and in NumPy
    "torch.aten.pointwise": {"floor", "trunc"},  # torch's rounding modes
    "torch.aten.shapes": {"add", "mean", "multiply", "sum"},  # how torch names what scatter_reduce does
    "tape.traced": {"reshape", "transpose"},  # ndarray's methods
}
"""Words that are an operation's name, and mean something else where they stand."""
STILL_NAMED = {}
"""How often a module still decides by an operation's name, where it should ask its record: a list that only shrinks."""


def test_no_operation_is_known_by_its_name():
    found = {}
    for module, file in MODULES.items():
        if room_of(module) not in NAMESPACES:
            names = [word for word in decisive_words(tree_of(file)) if word in REGISTRY]
            if names := [name for name in names if name not in OTHER_MEANINGS.get(module, ())]:
                found[module] = len(names)
    assert found == STILL_NAMED


def test_words_that_mean_something_else_are_still_there():
    for module, words in OTHER_MEANINGS.items():
        assert words <= {*decisive_words(tree_of(MODULES[module]))} & {*REGISTRY}


def decisive_words(tree: ast.Module) -> Iterator[str]:
    """The strings that a program decides by: compared, looked up, or held in a collection, but for lists of names."""
    lists_of_names = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__all__", "__slots__")
    }
    for node in ast.walk(tree):
        if id(node) not in lists_of_names:
            for each in _decisive(node):
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield each.value


def _decisive(node: ast.AST) -> list[ast.expr | None]:
    match node:
        case ast.Compare():
            return [node.left, *node.comparators]
        case ast.Dict():
            return [*node.keys]
        case ast.Set() | ast.Tuple() | ast.List():
            return [*node.elts]
        case ast.Subscript():
            return [node.slice]
        case ast.MatchValue():
            return [node.value]
        case _:
            return []


@pytest.mark.parametrize(
    "text", ['op.name == "exp"', 'op.name in ("exp", x)', '{"exp": 1}', 'TABLE["exp"]', 'match name:\n case "exp": x']
)
def test_a_name_is_found(text):
    assert list(decisive_words(ast.parse(text))) == ["exp"]


# --- nothing grows too large ------------------------------------------------------------------------------------------

LIMITS = {"function": 60, "class": 250, "file": 600}
ENGINE = 4_200
"""Lines of what one reads in an afternoon: the algebra, the tape, the families of operations, the accumulation."""
STILL_OVER = 0
"""What the engine may have beyond, for now: a number that only shrinks."""
STILL_TOO_LARGE: set[str] = set()
"""A list that only shrinks."""


def test_functions_classes_and_files_fit_their_limits():
    found = set()
    for room in ("src", "tests", "benchmarks", "docs", "examples"):
        for file in sorted((ROOT / room).rglob("*.py")):
            found |= {f"{file.relative_to(ROOT).as_posix()} {name}".strip() for name in too_large(file)}
    assert found == STILL_TOO_LARGE


def too_large(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    if text.count("\n") > LIMITS["file"]:
        yield ""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            limit = LIMITS["class" if isinstance(node, ast.ClassDef) else "function"]
            if (node.end_lineno or 0) - node.lineno >= limit:
                yield node.name


def test_the_engine_is_read_in_an_afternoon():
    engine = [file for room in ("algebra", "tape", "accumulation") for file in (PACKAGE / room).rglob("*.py")]
    engine += [file for name in ("edges", "families") for file in (PACKAGE / "ops").glob(f"{name}.py")]
    lines = sum(file.read_text(encoding="utf-8").count("\n") for file in engine)
    assert lines <= ENGINE + STILL_OVER
    assert lines > ENGINE or not STILL_OVER, "it fits: STILL_OVER is 0 from now on"
