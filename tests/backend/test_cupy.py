"""What minijac takes for granted of CuPy, held against the real package, which needs no GPU for that; and the stand-in
for it, which has to be as strict."""

from __future__ import annotations

import ast
import inspect
import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import random

import minijac as mj
from minijac.accumulation.recording import run_on_tape
from minijac.tape.trace import Trace
from minijac.tape.traced import Traced

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: pip install minijac[cuda12]")
pytest.importorskip("scipy")
import cupyx.scipy.special  # noqa: E402 - needs cupy
import standin  # noqa: E402

PACKAGE = Path(mj.__file__).parent
SOURCES = [path for path in PACKAGE.rglob("*.py") if "program" not in path.parts and path.name not in ("forum.py",)]


def hollow(*shape: int) -> Any:
    """A real array of CuPy's without memory: it has views and operators, and nothing can be computed of it."""
    memory = cupy.cuda.UnownedMemory(0, 0, None, device_id=0)
    return cupy.ndarray(shape, dtype=np.float64, memptr=cupy.cuda.MemoryPointer(memory, 0))


# --- names and keywords -------------------------------------------------------------------------------------


def _asked_of_the_namespace() -> dict[str, ast.Call | None]:
    """Each dotted name that the package takes from ``xp`` or ``namespace(...)``, where it is, and its call."""
    found: dict[str, ast.Call | None] = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or id(node) in inner:
                continue
            names, base = [], node
            while isinstance(base, ast.Attribute):
                names.insert(0, base.attr)
                base = base.value
            own = isinstance(base, ast.Name) and base.id == "xp" and names[0] != "T"
            if own or (isinstance(base, ast.Call) and getattr(base.func, "id", "") == "namespace"):
                found[f"{path.name}:{node.lineno} {'.'.join(names)}"] = calls.get(id(node))
    return found


ASKED = _asked_of_the_namespace()


def test_the_package_asks_the_namespace_for_something():
    assert len(ASKED) > 60


@pytest.mark.parametrize("where", ASKED)
def test_cupy_has_the_name_and_takes_the_keywords(where):
    names, call = where.split()[-1].split("."), ASKED[where]
    if names[0].startswith("__"):
        return
    function: Any = cupy
    for name in names:
        function = getattr(function, name)
    if call is not None and not isinstance(function, cupy.ufunc):
        starred = any(isinstance(arg, ast.Starred) for arg in call.args)
        keywords = {word.arg: None for word in call.keywords if word.arg}
        parameters = inspect.signature(function)
        parameters.bind_partial(*(() if starred else call.args), **keywords)


# --- protocols ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module, own", [(cupy, np), (cupyx.scipy.special, mj.special)], ids=["cupy", "special"])
def test_elementwise_functions_are_known_by_the_names_of_their_kernels(module, own):
    """CuPy hands a kernel to a traced value; it has to find the function that goes by that name in NumPy or SciPy."""
    trace = Trace()
    x = trace.input(np.full(3, 0.5))
    known = 0
    for name, kernel in vars(module).items():
        if not isinstance(kernel, cupy.ufunc) or kernel.nin > 2:
            continue
        original = getattr(np, name, None)
        if original not in Traced.ufuncs and original not in Traced.functions and name not in Traced.special:
            continue
        if original in (np.invert, np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.ldexp):
            continue  # not of floats alone
        operands = [x] * kernel.nin
        function = getattr(np, name, None) or getattr(mj.special, name)
        for a, b in zip(_tuple(kernel(*operands)), _tuple(function(*operands)), strict=True):
            np.testing.assert_array_equal(mj.stop_gradient(a), mj.stop_gradient(b))
        known += 1
    assert known > (60 if module is cupy else 15)


def _tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


class Asked(SimpleNamespace):
    """Answers NumPy's and CuPy's protocols with what it was asked."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return ufunc.__name__, [type(x).__name__ for x in inputs]

    def __array_function__(self, function: Any, *_: Any) -> Any:
        return function.__name__

    def __cupy_override_elementwise_kernel__(self, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        return kernel.name, [type(x).__name__ for x in args], kernel.nin, set(kwargs)


DISPATCHED: dict[str, Any] = {
    **{name: getattr(operator, name) for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lt", "le", "gt", "ge", "eq", "ne", "and_",
        "or_", "xor", "iadd", "imul",
    )},
    "np.add": np.add,
    "np.matmul": np.matmul,
    "np.concatenate": lambda a, t: np.concatenate([a, t]),
    "np.where": lambda a, t: np.where(a, t, 0.0),
    "np.linalg.solve": lambda a, t: np.linalg.solve(a, t),
}  # fmt: skip


@pytest.mark.parametrize("name", DISPATCHED)
def test_an_array_of_cupys_leaves_it_to_a_traced_value(name):
    """And the stand-in's array does it in the same way."""
    f = DISPATCHED[name]
    asked = f(hollow(3), Asked())
    assert asked == f(standin.cupy.zeros(3), Asked())
    assert isinstance(asked, tuple | str)


def test_cupys_functions_ask_the_operands_by_kernel():
    for function in ("exp", "add", "maximum", "sinc", "true_divide"):
        kernel = getattr(cupy, function)
        operands = [Asked()] * kernel.nin
        assert kernel(*operands) == getattr(standin.cupy, function)(*operands)


def test_structure_is_recorded_on_an_array_of_cupys_without_computing():
    """Views alone: nothing of this could run if a number were made or looked at."""
    seen = []

    def f(x: Any) -> tuple[()]:
        seen.append(np.swapaxes(x.reshape(2, 3, 2, 1), 1, 2)[:, :2, None].transpose(0, 3, 2, 1, 4).squeeze(4))
        return ()

    run = run_on_tape(f, (hollow(2, 6),), {}, (0,), {}, False)
    names = [node.op.name for node in run.nodes[1:]]
    assert names == ["reshape", "transpose", "getitem", "transpose", "squeeze"]
    assert isinstance(run.nodes[-1].out, cupy.ndarray) and seen[0].shape == (2, 3, 1, 2)


def test_mixed_operands_are_refused_before_cupy_computes():
    with pytest.raises(TypeError, match=r"operand 1 of shape \(6, 3\) in NumPy"):
        run_on_tape(lambda x: x @ np.ones((6, 3)), (hollow(2, 6),), {}, (0,), {}, False)


# --- the stand-in -------------------------------------------------------------------------------------------


@pytest.fixture
def xp():
    with standin.installed() as module:
        yield module


def test_the_stand_in_converts_nothing(xp):
    x = xp.asarray(random(3, 4))
    for refused in (
        lambda: np.asarray(x), lambda: x + np.ones(4), lambda: np.ones(4) * x, lambda: np.add(x, np.ones(4)),
        lambda: xp.exp(np.ones(3)), lambda: xp.sum([1.0, 2.0]), lambda: np.concatenate([x, np.ones((3, 4))]),
        lambda: xp.where(True, x, 0.0), lambda: xp.add([1.0], 2.0), lambda: x[np.array([0, 1])],
    ):  # fmt: skip
        with pytest.raises(TypeError):
            refused()


def test_the_stand_in_has_what_cupy_has_and_no_more(xp):
    x = xp.asarray(random(3, 4))
    for missing in (lambda: xp.vecdot, lambda: xp.spacing, lambda: xp.linalg.svdvals, lambda: x.partition_,
                    lambda: x.flags.writeable, lambda: x.at):  # fmt: skip
        with pytest.raises(AttributeError):
            missing()
    for unknown in (lambda: x.max(initial=0.0), lambda: x.sum(where=True), lambda: xp.zeros(3, device="cpu"),
                    lambda: xp.linalg.cholesky(x, upper=True), lambda: xp.linalg.pinv(x, rtol=1),
                    lambda: xp.exp(x, where=True), lambda: np.max(x, initial=0.0)):  # fmt: skip
        with pytest.raises(TypeError):
            unknown()
    with pytest.raises(TypeError, match="no implementation"):
        np.linalg.svdvals(x)
    with pytest.raises(ValueError, match="kind"):
        xp.argsort(x, kind="mergesort")


def test_the_stand_in_counts(xp):
    x = xp.asarray(random(3, 4))
    assert standin.log.uploads == [96] and not standin.log.launches
    views = x.T, x[1:, None], x.reshape(2, 6), xp.broadcast_to(x, (2, 3, 4)), np.expand_dims(x, 0), x.diagonal()
    assert all(view.base is x for view in views) and not standin.log.launches
    total = x.sum()
    assert type(total) is standin.ndarray and total.shape == () and standin.log.launches == ["sum"]
    x += 1.0
    assert len(standin.log.launches) == 2 and not standin.log.reads
    for look in (bool, int, float, str, repr, lambda x: x.item(), lambda x: x.get(), lambda x: x.tolist()):
        look(total)
    assert len(standin.log.reads) == 8
    with standin.cupyx_module.allow_synchronize(False), pytest.raises(cupyx.DeviceSynchronized):
        float(total)
    with standin.cupyx_module.allow_synchronize(False), pytest.raises(cupyx.DeviceSynchronized):
        x[x > 0]


def test_the_stand_in_has_devices(xp):
    with xp.cuda.Device(1):
        x = xp.ones(3)
    assert (x.device.id, xp.zeros(3).device.id) == (1, 0)
    with pytest.raises(ValueError, match="device"):
        x + 1.0
    with x.device:
        assert (x + 1.0).device.id == 1


def test_a_program_that_fetches_is_caught(xp):
    """The tests of the second backend can fail: a rule that goes by the host is seen."""
    x = xp.asarray(random(3, 4))
    through_the_host = lambda x: x * xp.asarray(mj.stop_gradient(x).get())
    with standin.cupyx_module.allow_synchronize(False), pytest.raises(cupyx.DeviceSynchronized):
        mj.jacobian(through_the_host)(x)
