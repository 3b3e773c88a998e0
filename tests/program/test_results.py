"""What a compiled function holds and returns: captured arrays, results, buffers, threads, the program and its text."""

from __future__ import annotations

import gc
import pickle
import re
import sys
import threading
import weakref
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import optree
import pytest
from compiled import CAPTURED, OTHER, RESULTS, TRANSFORMED, X, agrees, same
from helpers import MODES, net, random

import minijac as mj
from minijac.ops import REGISTRY, define_elementwise
from minijac.program.passes import simplify


def executor(compiled: Any) -> Any:
    """The executor of the only program of a compiled function."""
    (entry,) = compiled._entries.values()
    return entry.executors[0]


# --- captured arrays ------------------------------------------------------------------------------------------------


def test_writes_to_captured_arrays_are_seen():
    W, b = random(5, 4, seed=1), random(4, seed=2)
    V = random(3, 4, seed=3).T  # a view that is not contiguous
    transposed = W.T
    functions = [
        lambda x: np.tanh(x @ W + b) @ V,
        lambda x: x @ W @ V,  # its Jacobian is a product of captured arrays alone
        lambda x: x @ transposed.T,
        lambda x: np.einsum("bi,ij->bj", x, W) * b,
        lambda x: x * W[:, 0] + W[0, :1],
        lambda x: x[:, :4] * b.reshape(2, 2).reshape(4),
        lambda x: x[:, :4] @ V * V.T.reshape(2, 6)[0, :1],
        lambda x: np.where(np.greater(W[:, 0], 0.0 * x), x, -x),
        lambda x: np.concatenate([x, np.broadcast_to(b, (x.shape[0], 4)) * x[:, :4]], axis=1),
    ]
    wrappers = [
        lambda f: f,
        *(partial(mj.jacobian, mode=mode) for mode in MODES),
        lambda f: mj.grad(lambda x: (f(x) ** 2).sum()),
        lambda f: mj.laplacian(lambda x: (f(x) ** 2).sum(1)),
    ]
    for k, f in enumerate(functions):
        for wrap in wrappers:
            g = wrap(f)
            compiled = mj.compile(g)
            for step in range(3):
                same(compiled(X), g(X), rtol=1e-10)
                W[...] = random(5, 4, seed=10 * k + step)
                b += 0.5
                V[0] = -V[0]
            assert compiled.cache_info().misses == 1


def test_what_is_computed_from_captured_values_alone_is_computed_once():
    W = np.ones(5)
    compiled = mj.compile(lambda x: x * (W + 1.0) + W[0] + np.where(W > 0, x, 0.0))
    same(compiled(X), 3.0 * X + 1.0)
    W[...] = -5.0
    same(compiled(X), 3.0 * X + 1.0)


def test_a_captured_array_that_is_returned_is_read_in_every_call():
    W = random(2, 2, seed=1)
    compiled = mj.compile(lambda x: (x, W, W.T))
    first = compiled(X)
    W[...] = 0.0
    second = compiled(X)
    assert not second[1].any()
    assert first[1].all()
    assert not np.shares_memory(second[1], W)


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_new_contiguous_and_share_nothing(name):
    fn = RESULTS[name]
    compiled = mj.compile(fn)
    kept, copies = [], []
    inputs = [X + k for k in range(6)]
    for x in inputs:
        result = compiled(x)
        leaves = [y for y in optree.tree_leaves(result) if isinstance(y, np.ndarray)]
        for y in leaves:
            assert y.flags.c_contiguous
            assert y.flags.writeable
        kept.append(leaves)
        copies.append([y.copy() for y in leaves])
        same(result, fn(x)) if name != "views" else None
    every = [y for leaves in kept for y in leaves]
    for a, copy in zip(every, [y for leaves in copies for y in leaves], strict=True):
        np.testing.assert_array_equal(a, copy)
    for k, a in enumerate(every):
        others = [*every[k + 1 :], *inputs, CAPTURED]
        assert not any(np.shares_memory(a, other) for other in others)
    for a in every:  # writing to results disturbs nothing
        a[...] = 7
    same(optree.tree_leaves(compiled(X)), optree.tree_leaves(mj.compile(fn)(X)))


def test_memory_of_a_result_is_used_again_only_when_nothing_sees_it():
    compiled = mj.compile(lambda x: x * 2.5)
    x = random(100, 1000)
    view = compiled(x)[3:, ::2]
    reader = memoryview(compiled(x + 1.0))
    for k in range(4):
        compiled(x + k)
    np.testing.assert_array_equal(view, (x * 2.5)[3:, ::2])
    np.testing.assert_array_equal(np.asarray(reader), (x + 1.0) * 2.5)


INPUTS = {
    "no samples": np.zeros((0, 5)),
    "one sample": X[:1],
    "Fortran order": np.asfortranarray(X),
    "reversed": X[::-1, ::-1],
    "strided": random(6, 10)[::2, ::2],
    "broadcast": np.broadcast_to(X[:1], (3, 5)),
    "one number": np.broadcast_to(0.5, (3, 5)),
    "transposed": random(5, 3).T,
    "unaligned": np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(np.float64).reshape(3, 5),
    "large strided": random(40, 1000)[::2, ::200],
}


@pytest.mark.parametrize("layout", INPUTS)
def test_inputs_of_any_layout(layout):
    x = INPUTS[layout]
    x = x.view()
    x.flags.writeable = False
    shapes = lambda x: (x.reshape(-1), x.T.reshape(-1), x.T @ x, x[:, 1:].reshape(-1), np.diagonal(x), np.ravel(x.T))
    for fn in (net, mj.jacobian(net), mj.jacobian(lambda x: np.sin(x).reshape(-1, 5) * x.T.T), shapes):
        compiled = mj.compile(fn)
        same(compiled(np.ascontiguousarray(x)), fn(x))  # recorded with one layout, replayed with another
        same(compiled(x), fn(x))
        same(mj.compile(fn)(x), fn(x))


def test_no_features():
    agrees(mj.jacobian(lambda x: x * 2.0), (np.zeros((3, 0)),), (np.zeros((3, 0)),))
    agrees(mj.jacobian(lambda x: x.sum(axis=1)), (np.zeros((3, 0)),), (np.zeros((0, 2)),), misses=2)


# --- threads, memory, text --------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other():
    compiled = mj.compile(mj.value_and_jacobian(net))
    xs = [random(64, 5, seed=k) for k in range(4)]
    expected = [mj.value_and_jacobian(net)(x) for x in xs]
    errors = []

    def work(k: int) -> None:
        try:
            for _ in range(50):
                same(compiled(xs[k]), expected[k])
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors, errors[0]
    assert compiled.cache_info().misses == 1


def test_nothing_of_the_first_call_is_kept():
    alive: list[Any] = []

    def f(x):
        large = np.exp(x) * 2.0
        alive.append(weakref.ref(large.value if isinstance(large.value, np.ndarray) else large.value.value))
        return np.sin(large)

    compiled = mj.compile(mj.jacobian(f))
    x = random(100, 50)
    reference = weakref.ref(x)
    gc.disable()
    try:
        result = compiled(x)
        del x
        assert alive[0]() is None
        assert reference() is None
    finally:
        gc.enable()
    kept = weakref.ref(compiled)
    del compiled, result
    gc.collect()
    assert kept() is None


def test_buffers_are_reported_and_reused():
    def f(x):
        for _ in range(20):
            x = np.arctan(x) * 2.0 + np.cbrt(x)  # which no loop computes
        return x

    x = random(100, 100)
    compiled = mj.compile(f)
    assert compiled.buffer_bytes() == 0
    compiled(x)
    assert 0 < compiled.buffer_bytes() <= 5 * x.nbytes
    before = compiled.buffer_bytes()
    for _ in range(5):
        compiled(x)
    assert compiled.buffer_bytes() == before


def test_the_code_that_is_shown_is_that_of_the_call():
    compiled = mj.compile(mj.jacobian(net))
    source = compiled.source(X)
    bound = executor(compiled)
    compiled(X)
    assert executor(compiled) is bound  # and not one bound for the call beside one for the text
    assert compiled.source(X) == source


SECRET = "__import__('os')"


def test_generated_text_holds_its_own_names_only():
    def f(x, data):
        return {SECRET: np.sin(x) * data[SECRET] * 1234.5, "b": (x @ W1234567)[..., None]}

    W1234567 = random(5, 2)
    compiled = mj.compile(f)
    data = {SECRET: X}
    compiled(X, data)
    _, source = executor(compiled).source.split("\n", 1)  # the first line says what carries it out
    assert "import" not in source
    assert "1234" not in source
    code, comments = (re.findall(pattern, source, re.MULTILINE) for pattern in (r"^ *([^# ].*)", r"# (.*)"))
    names = set(re.findall(r"[A-Za-z_]\w*", " ".join(code)))
    words = {"def", "run", "return", "empty", "take", "copyto"}
    assert all(re.fullmatch(r"[acrsv]\d+", name) for name in names - words), names - words
    assert set(re.findall(r"[A-Za-z_]\w*", " ".join(comments))) <= set(REGISTRY)


@pytest.mark.parametrize("name", ["f\n    raise SystemExit", "a-b", "", "naïve", "multiply"])
def test_names_of_operations_are_new_and_fit_for_code(name):
    """A name stands in the generated code's comments, and tells operations apart."""
    before = dict(REGISTRY)
    with pytest.raises(mj.InputError, match="name of an operation"):
        define_elementwise(name, lambda x: 2 * x, lambda y, x: 2.0)
    assert before == REGISTRY


def test_programs_are_printed():
    compiled = mj.compile(mj.jacobian(net))
    text = str(compiled.program(X))
    assert compiled.cache_info().misses == 1
    assert "inputs: %0: float64[3, 5]" in text
    assert "captured:" in text
    assert "matmul" in text
    assert "outputs:" in text
    same(compiled(X), mj.jacobian(net)(X))
    assert compiled.cache_info().misses == 1


def interpreted(program: Any, inputs: list[Any]) -> list[Any]:
    """A program's outputs, one operation after the other; values have the shapes and dtypes that it says."""
    known = {n: value.content for n, value in enumerate(program.values) if value.kind in ("captured", "constant")}
    known |= dict(zip(program.inputs, inputs, strict=True))
    for step in program.instructions:
        y = step.op.value(*[known[n] for n in step.args], **step.params)
        assert (np.shape(y), y.dtype) == program.values[step.out][:2]
        known[step.out] = y
    return [known[n] for n in program.outputs]


@pytest.mark.parametrize("name", TRANSFORMED)
def test_every_pass_keeps_what_a_program_computes(name, monkeypatch):
    seen = []

    def watched(each: Any) -> Any:
        def run(program: Any) -> Any:
            after = each(program)
            seen.append(each.__name__)
            same(interpreted(after, [OTHER]), interpreted(program, [OTHER]), rtol=1e-10)
            return after

        return run

    monkeypatch.setattr(simplify, "PASSES", tuple(map(watched, simplify.PASSES)))
    mj.compile(TRANSFORMED[name])(X)
    assert len(seen) == len(simplify.PASSES)


SMALLER: dict[str, tuple[Any, list[str]]] = {
    "what nobody reads": (lambda x: (np.exp(x), np.sin(x))[1], ["sin"]),
    "the same twice": (lambda x: np.sin(x) * np.sin(x), ["sin", "multiply"]),
    "the same twice of the same twice": (
        lambda x: np.cos(x.T * 2) - np.cos(x.T * 2),
        ["transpose", "multiply", "cos", "subtract"],
    ),
    "two views of a captured array": (lambda x: x @ CAPTURED[:] + x @ CAPTURED[:], ["matmul", "add"]),
    "times one": (lambda x: 1 * (np.sin(x) / 1.0) * 1.0 - 0.0, ["sin"]),
    "transpose of transpose": (lambda x: np.sin(x.T.T), ["sin"]),
    "transposes that are one": (lambda x: x[None].transpose(1, 2, 0).transpose(2, 1, 0), ["getitem", "transpose"]),
    "reshape of reshape": (lambda x: np.sin(x.reshape(5, 3).reshape(-1).reshape(3, 5)), ["sin"]),
    "all the way round": (lambda x: np.roll(np.sin(x), 5, axis=1), ["sin"]),
    "numbers among themselves": (lambda x: x * (2 * np.pi / 3), ["multiply"]),
    "zero and minus zero": (lambda x: (x + 0.0, x - (-0.0)), ["add", "subtract"]),  # not x, where x is -0.0
}


@pytest.mark.parametrize("name", SMALLER)
def test_nothing_is_computed_in_vain(name):
    fn, names = SMALLER[name]
    compiled = agrees(fn, (X,), (OTHER,))
    assert [step.op.name for step in compiled.program(X).instructions] == names


def test_every_pass_is_verified(monkeypatch):
    def wrong(program: Any) -> Any:
        return program._replace(instructions=program.instructions[1:])

    def next_one(program: Any) -> Any:
        pytest.fail("a pass was given an invalid program")

    for k in range(len(simplify.PASSES) + 1):
        with monkeypatch.context() as patch:
            patch.setattr(simplify, "PASSES", (*simplify.PASSES[:k], wrong, next_one))
            with pytest.raises(RuntimeError, match="invalid program"):
                mj.compile(net)(X)


def test_an_invalid_program_is_refused():
    program = mj.compile(lambda x: np.sin(x) * 2.0).program(X)
    first, second = program.instructions
    for wrong in ((second, first), (first, first), (second,), (first,)):
        with pytest.raises(RuntimeError, match="invalid program"):
            program._replace(instructions=wrong).verify()


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.sin(x),
        lambda x: x * np.ones(x.shape),
        lambda x: x @ np.ones((x.shape[1], 2)),
        lambda x: np.sin(x).T,
        lambda x: np.sin(x).reshape(-1),
    ],
)
def test_a_program_whose_shapes_do_not_fit_is_refused(f):
    program = mj.compile(f).program(X)
    out = program.instructions[-1].out
    values = [v._replace(shape=(7, 11, 13)) if n == out else v for n, v in enumerate(program.values)]
    with pytest.raises(RuntimeError, match="invalid program"):
        program._replace(values=tuple(values)).verify()


def test_products_are_computed_in_the_order_that_is_wanted():
    W, V = random(40, 50, seed=1), random(50, 30, seed=2)
    f = mj.jacobian(lambda x: np.tanh(x @ W) @ V)
    compiled = agrees(f, (random(20, 40, seed=3),), (random(20, 40, seed=4),))
    assert "copyto(r" not in executor(compiled).source  # the result is not copied once more
    for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        g = lambda x, axes=axes: (
            np.sin((np.exp(x).reshape(20, 40) @ W).reshape(4, 5, 50).transpose(axes)),
            np.sin((W.T @ np.exp(x).reshape(20, 40).T).reshape(50, 4, 5).transpose(axes)),
            np.sin((x[0] @ W).reshape(1, 5, 50).transpose(axes)),
        )
        agrees(g, (random(4, 5, 40, seed=1),), (random(4, 5, 40, seed=2),))


ODD = np.array([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 3e38])
SIGNS = {
    "minus minus": (lambda x, y: np.negative(-x), 0),
    "times minus one, twice": (lambda x, y: -1.0 * (x * -1), 0),
    "a product of negatives": (lambda x, y: (-x) * (-y), 1),
    "a quotient of negatives": (lambda x, y: (-x) / (-y), 1),
    "through a product": (lambda x, y: -((-x) * y), 1),
    "through two": (lambda x, y: -((y / (-x)) * y), 2),
    "into a number": (lambda x, y: 3.0 * (-x), 1),
    "into a number above": (lambda x, y: 3 / (-x), 1),
    "through a view": (lambda x, y: -((-x)[None, :].reshape(-1)), 0),
    "into a sum": (lambda x, y: y + (-x), 1),
    "into a sum from the left": (lambda x, y: (-x) + y, 1),
    "into a difference": (lambda x, y: y - (-x), 1),
    "into two sums": (lambda x, y: (y - (-x)) * (1.0 + (-x)), 3),
    "left of a difference": (lambda x, y: (-x) - y, 2),
    "both, and a result": (lambda x, y: ((-x) * y, -x), 2),
    "small and large": (lambda x, y: (-x[:1]) * y, 2),
    "of a square": (lambda x, y: (z := -x) * z, 1),
}


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_signs_meet_and_are_gone(name, dtype):
    """To the last bit, at zeros, infinities and NaN."""
    f, count = SIGNS[name]
    x, y = (a.astype(dtype).ravel() for a in np.meshgrid(ODD, ODD))
    compiled = mj.compile(f)
    with np.errstate(all="ignore"):
        computing = [step for step in compiled.program(x, y).instructions if not step.op.view]
        assert len(computing) == count
        for found, truth in zip(*(optree.tree_leaves(g(x, y)) for g in (compiled, f)), strict=True):
            np.testing.assert_array_equal(found, truth)
            number = ~np.isnan(truth)
            np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(truth[number]))


def test_signs_of_integers_stay():
    x = np.array([-128, 0, 3], np.int8)
    for f in (lambda x: 1.0 * x + (-1.0) * x, lambda x: -x / 2.0, lambda x: np.float32(2) * (x * -1.0)):
        same(mj.compile(f)(x), f(x))


SCALED = {
    "times": lambda x, W: 0.3 * (x @ W),
    "larger": lambda x, W: 3 * (x @ W),
    "from the right": lambda x, W: (x @ W) * 0.1,
    "over": lambda x, W: (x @ W) / 7,
    "negative": lambda x, W: -(x @ W),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, int])
def test_numbers_scale_the_smaller_operand_of_a_product(name, dtype):
    f, rng = SCALED[name], np.random.default_rng(0)
    for shape, smaller in (((200, 3), (3, 50)), ((3, 50), (3, 50))):
        x, W = rng.normal(size=shape).astype(dtype), rng.normal(size=(shape[1], 50)).astype(dtype)
        compiled = mj.compile(f)
        same(compiled(x, W), f(x, W))
        (scaling,) = (step for step in compiled.program(x, W).instructions if step.op.name != "matmul")
        size = compiled.program(x, W).values[scaling.out].shape
        early = np.prod(smaller) * 2 <= shape[0] * 50 and f(x, W).dtype == dtype and name not in ("negative", "larger")
        assert size == (smaller if early else (shape[0], 50))


def test_numbers_stay_where_the_product_is_used_or_might_vanish():
    W = np.full((3, 50), 1e-30, np.float32)
    x = np.full((200, 3), 1e30, np.float32)
    for f in (lambda x: 1e-20 * (x @ W), lambda x: 1e20 * (x @ W), lambda x: (y := x @ W) + 0.3 * y):
        same(mj.compile(f)(x), f(x))
    x, W = np.full((200, 3), 1e-20, np.float32), np.full((3, 50), 1e35, np.float32)
    same(mj.compile(lambda x: 1e6 * (x @ W))(x), 1e6 * (x @ W))


def test_the_function_keeps_its_name():
    assert mj.compile(net).__name__ == "net"
    assert mj.compile(net).__doc__ == net.__doc__


def test_a_replay_gives_no_floating_point_warnings():
    compiled = mj.compile(lambda x: np.log(x) / (x - x))
    with np.errstate(all="ignore"):
        expected = compiled(-X)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(compiled(-X), expected)
        with pytest.raises(FloatingPointError):
            np.log(np.zeros(1))


@pytest.mark.parametrize("change", [
    lambda y: y.setflags(write=False), lambda y: setattr(y, "shape", (-1,)), lambda y: setattr(y, "dtype", np.int64),
])  # fmt: skip
def test_results_that_the_caller_altered(change):
    f = mj.compile(lambda x: np.sin(x))
    x = np.ones((200, 200))
    for _ in range(4):
        y = f(x)
        same(y, np.sin(x), rtol=1e-15)
        change(y)
        del y


def test_results_that_are_still_seen_are_not_written():
    f = mj.compile(lambda x: np.sin(x))
    kept = [f(np.full((200, 200), float(k)))[:: 1 + k] for k in range(5)]
    for k, y in enumerate(kept):
        assert (y == np.sin(float(k))).all()


def test_numbers_and_arrays_without_axes_stay_what_they_are():
    for f in (lambda x: x * 1.0, lambda x: x / 1.0, lambda x: x - 0.0):
        for x in (np.array(2.0), np.float64(2.0)):
            assert type(mj.compile(f)(x)) is type(f(x))


def test_dropped_functions_are_let_go_of_at_once():
    f = mj.compile(mj.jacobian(lambda x: np.tanh(x @ np.ones((50, 50)))))
    f(np.ones((200, 50)))
    (entry,) = f._entries.values()
    held = weakref.ref(entry.executors[0])
    gc.disable()
    try:
        del entry, f
        assert held() is None
    finally:
        gc.enable()


# --- methods and copies ---------------------------------------------------------------------------------------------


class Scaled:
    def __init__(self, by=1.0):
        self.by = by * np.ones(X.shape[1])

    @mj.compile
    def step(self, x):
        return x * self.by


def test_a_compiled_method_keeps_its_instance():
    np.testing.assert_array_equal(Scaled(3.0).step(X), 3.0 * X)
    step = Scaled(2.0).step
    gc.collect()
    np.testing.assert_array_equal(step(X), 2.0 * X)
    assert step.__name__ == "step" and step.cache_info().misses == 1


def test_a_copy_of_a_compiled_function_has_recorded_nothing():
    sine = mj.compile(np.sin)
    sine(X)
    for other in (deepcopy(sine), pickle.loads(pickle.dumps(sine))):
        assert other.cache_info().misses == 0
        np.testing.assert_array_equal(other(X), np.sin(X))
