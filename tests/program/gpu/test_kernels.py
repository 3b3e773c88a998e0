"""Generated kernels against NumPy, on a C compiler: every elementwise operation in every dtype, broadcasting, strides,
tails, reductions, structure. NVRTC compiles each source that is run here for two architectures."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from emulated import COMPILER, WHY_NOT, Device
from hypothesis import given, settings
from hypothesis import strategies as st
from nvrtc import compiles

from minijac.ops import REGISTRY
from minijac.ops.families import Elementwise, elementwise, multilinear
from minijac.ops.scalars import SCALARS
from minijac.ops.special import FADDEEVA, PAIRS, SPECIAL
from minijac.program.entry import record
from minijac.program.gpu.access import accessed
from minijac.program.gpu.executor import GraphExecutor
from minijac.program.gpu.kernels import map_kernel, module_source
from minijac.program.gpu.math import CTYPE
from minijac.program.gpu.operands import Load, Point
from minijac.program.ir import Value
from minijac.strides import View

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_NOT)

DTYPES = [np.dtype(name) for name in CTYPE]
FLOATS = [dtype for dtype in DTYPES if dtype.kind == "f"]
ELEMENTWISE = [op for op in REGISTRY.values() if isinstance(op, Elementwise)]
LOOKED_UP = {
    "sign", "floor", "ceil", "trunc", "rint", "isfinite", "isinf", "isnan", "signbit", "spacing", "equal", "not_equal",
    "less", "less_equal", "greater", "greater_equal", "floor_divide", "logical_not", "logical_and", "logical_or",
    "logical_xor", "invert", "bitwise_and", "bitwise_or", "bitwise_xor", "exponent", "round", "cast",
}  # fmt: skip
OPERATIONS = [*ELEMENTWISE, *(REGISTRY[name] for name in sorted(LOOKED_UP))]
WITHOUT_KERNEL = {"unwrap"} | {op.name for ops in (*PAIRS.values(), FADDEEVA) for op in ops}
WITHOUT_KERNEL |= {name for name in SPECIAL if name not in SCALARS}
"""Of the elementwise operations, those that are called through CuPy: CUDA has no function for them."""
EMULATED = {"erfcx", "erfinv", "erfcinv", "ndtr", "ndtri", "i0", "i1"}
"""CUDA's own functions: what is tested here is the call, since the emulation supplies them."""
ON_ITS_DOMAIN = {*EMULATED, "gamma", "gammaln", "loggamma", "exp10", "logit", "xlogy", "xlog1py", "rel_entr", "kl_div"}
"""SciPy's functions: compared on the domain of their samples."""


def executor(function: Any, *arguments: Any, device: Device | None = None) -> GraphExecutor:
    with np.errstate(all="ignore"):
        return GraphExecutor(record(function, arguments, {}).program, device or Device())


class Planning(Device):
    """A device on which nothing is compiled, for what depends on the plan alone."""

    def kernels(self, source: str, names: Any) -> Any:
        return [None] * len(names)


def agree(found: Any, expected: Any, name: str = "", tolerance: float | None = None) -> None:
    """Same dtype and shape; integers the same; floats to rounding, with the same infinities and NaNs."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype, f"{name}: {found.dtype}, expected {expected.dtype}"
    assert found.shape == expected.shape, name
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected, err_msg=name)
        return
    rtol = tolerance or (2e-6 if expected.dtype == np.float32 else 4e-15)
    np.testing.assert_allclose(found, expected, rtol, np.finfo(expected.dtype).tiny, err_msg=name)


def numbers(dtype: np.dtype[Any], sign: bool = True) -> np.ndarray:
    """Values at which operations differ: zeros, ties, the ends of the range, and what is no number."""
    if dtype.kind == "b":
        return np.array([False, True, True, False, True])
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        chosen = [0, 1, 2, 3, 5, 7, 100, ends.max, ends.max - 1]
        return np.array(
            [*chosen, *((-1, -2, -3, -7, ends.min, ends.min + 1) if dtype.kind == "i" and sign else ())], dtype
        )
    info = np.finfo(dtype)
    chosen = [
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
        1.5,
        2.0,
        2.5,
        3.0,
        7.3,
        20.0,
        300.0,
        1e30,
        info.max,
        info.tiny,
        np.inf,
        np.nan,
    ]
    return np.array([*chosen, *(-x for x in chosen)] if sign else chosen, dtype)


@cache
def operands_of(name: str, dtype: np.dtype[Any]) -> list[np.ndarray]:
    """Operands for an operation, each combination of two numbers among them."""
    op = REGISTRY[name]
    sample = op.examples[0]
    count = len(sample.shapes)
    if name in ON_ITS_DOMAIN:
        rng = np.random.default_rng(len(name))
        return [rng.uniform(sample.low, sample.high, (7, 11)).astype(dtype) for _ in range(count)]
    if name == "where":
        return [np.arange(len(numbers(dtype))) % 3 == 0, numbers(dtype), numbers(dtype)[::-1].copy()]
    if name == "ldexp":
        return [numbers(dtype)[:, None], np.array([-3, 0, 1, 5, 200], np.int32)]
    if name == "power" and dtype.kind in "iu":
        return [numbers(dtype)[:, None], np.array([0, 1, 2, 3, 7], dtype)]
    shapes = [(-1, 1), (1, -1)] if count > 1 else [(-1,)]
    return [numbers(dtype).reshape(shape) for shape in [*shapes, (-1, 1)][:count]]


def params_of(name: str) -> list[dict[str, Any]]:
    if name in ("astype", "cast"):
        return [{"dtype": np.dtype(kind)} for kind in (np.float32, np.float64, np.int32)]
    if name == "round":
        return [{"decimals": decimals} for decimals in (0, 2, -1)]
    return [dict(REGISTRY[name].examples[0].params)]


def _defined(name: str, dtype: np.dtype[Any], params: dict[str, Any]) -> Any:
    """NumPy's result, or None where NumPy has none for the dtype."""
    try:
        with np.errstate(all="ignore"):
            return REGISTRY[name].value(*operands_of(name, dtype), **params)
    except (TypeError, np.exceptions.DTypePromotionError):
        return None


def _out_of_range(name: str, dtype: np.dtype[Any], params: dict[str, Any]) -> bool:
    """Conversions of floats to integers that cannot hold them, which no library defines."""
    return name in ("astype", "cast") and dtype.kind == "f" and np.dtype(params["dtype"]).kind in "iu"


# --- every elementwise operation --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_elementwise_operation(dtype):
    """All of them in one program for each dtype, so that it is compiled once."""
    calls = []
    for op in OPERATIONS:
        if op.name in WITHOUT_KERNEL:
            continue
        for params in params_of(op.name):
            expected = _defined(op.name, dtype, params)
            if expected is None or np.asarray(expected).dtype.name not in CTYPE:
                continue
            if _out_of_range(op.name, dtype, params):
                continue
            calls.append((op, params, operands_of(op.name, dtype), expected))

    def all_of_them(operands: Any) -> Any:
        return [op(*xs, **params) for (op, params, _, _), xs in zip(calls, operands, strict=True)]

    operands = [xs for _, _, xs, _ in calls]
    with np.errstate(all="ignore"):
        run = executor(all_of_them, operands)
        found = run.run(*(x for xs in operands for x in xs))
    assert set(run.report.uncaptured) <= FOREIGN.get(dtype.kind, set()), run.report.uncaptured
    for (op, params, _, expected), y in zip(calls, found, strict=True):
        tolerance = (1e-5 if dtype == np.float32 else 1e-10) if op.name in ON_ITS_DOMAIN else None
        agree(y, expected, f"{op.name} {params} of {dtype}", tolerance)
    compiles(run.source)


FOREIGN = {"i": {"imag", "reciprocal", "round"}, "u": {"imag", "reciprocal", "round"}, "b": {"imag", "reciprocal"}}
"""Of integers and truths: called through CuPy."""


def test_operations_without_a_kernel_are_those_that_cuda_has_no_function_for():
    found = set()
    for op in OPERATIONS:
        sample = op.examples[0]
        rng = np.random.default_rng(0)
        operands = [sample.given.get(k, rng.uniform(0.1, 0.9, shape)) for k, shape in enumerate(sample.shapes)]
        run = executor(lambda xs, op=op, sample=sample: op(*xs, **sample.params), operands, device=Planning())
        found |= set(run.report.uncaptured)
    assert found == WITHOUT_KERNEL


def test_a_new_operation_needs_no_kernel_of_its_own():
    """An elementwise value made of known functions, a known function, and a contraction by names of axes."""
    try:
        mish = elementwise("test_mish", lambda x: x * np.tanh(np.logaddexp(x, 0.0)), None)
        slope = elementwise("test_slope", np.arctan, lambda y, x: 1.0 / (1.0 + x * x))
        outer = multilinear("test_outer", lambda a, b: a[:, :, None] * b[:, None, :], lambda *_: (("bi", "bj"), "bij"))
        f = lambda x: (mish(x), slope(x) + mish(x) ** 2, outer(x, mish(x)), mish(slope(x)).sum(1))
        for dtype in FLOATS:
            x = np.random.default_rng(7).standard_normal((3, 5)).astype(dtype)
            run = executor(f, x)
            assert not run.report.uncaptured
            for y, expected in zip(run.run(x), f(x), strict=True):
                agree(y, expected, tolerance=1e-5 if dtype == np.float32 else 1e-12)
            compiles(run.source)
    finally:
        for name in ("test_mish", "test_slope", "test_outer"):
            REGISTRY.pop(name, None)


def test_an_operation_that_looks_at_numbers_or_other_arrays_is_called():
    table, x = np.arange(5.0), np.ones((3, 5))
    try:
        signed = elementwise("test_signed", lambda x: x if x.sum() > 0 else -x, None)
        scaled = elementwise("test_scaled", lambda x: x * table, None)
        run = executor(lambda x: (signed(x) * 2.0, scaled(x) + 1.0), x)
        assert set(run.report.uncaptured) == {"test_signed", "test_scaled"}
        for y in (x, -3.0 * x):
            table += 1.0
            for found, expected in zip(run.run(y), (signed(y) * 2.0, scaled(y) + 1.0), strict=True):
                agree(found, expected)
    finally:
        for name in ("test_signed", "test_scaled"):
            REGISTRY.pop(name, None)


def test_sums_of_windows_are_one_kernel():
    unpatches, rng = REGISTRY["unpatches"], np.random.default_rng(8)
    for example in unpatches.examples:
        y = rng.standard_normal(example.shapes[0])
        run = executor(lambda y, params=example.params: unpatches(y, **params), y)
        assert (run.report.kernels, run.report.uncaptured) == (1, ())
        agree(run.run(y)[0], unpatches(y, **example.params), tolerance=1e-14)


def test_powers_with_small_constant_exponents_are_products():
    x = numbers(np.dtype(np.float32))
    for p in (0, 1, 2, 3, 4, -1, -2, 0.5, 2.5, 2.0):
        f = lambda x, p=p: REGISTRY["power"](x, p)
        run = executor(f, x)
        assert ("powf(" in run.source) == (p == 2.5)
        with np.errstate(all="ignore"):
            agree(run.run(x)[0], np.power(x, p), f"power {p}")


def test_numbers_are_inputs_and_promote_weakly():
    x, n = numbers(np.dtype(np.float32)), np.arange(12, dtype=np.int32).reshape(3, 4)

    def f(x: Any, n: Any, a: Any, k: Any) -> Any:
        return x * a, x + k, n * k, n / a, x * (a * 2.0 + k), n // k, a * k, a

    run = executor(f, x, n, 0.1, 3)
    for a, k in ((0.1, 3), (2.7, -5), (1e-3, 2**20)):
        with np.errstate(all="ignore"):
            expected = f(x, n, a, k)
            found = run.run(x, n, a, k)
        assert found[-2:] == expected[-2:]
        for y, z in zip(found[:-2], expected[:-2], strict=True):
            agree(y, z)


# --- positions --------------------------------------------------------------------------------------------


@st.composite
def views(draw: Any) -> tuple[tuple[int, ...], list[Any]]:
    """A shape, and for each of three operands a function from memory to a view that broadcasts to it."""
    shape = tuple(draw(st.lists(st.sampled_from((1, 2, 3, 4, 5, 8, 12)), min_size=1, max_size=4)))
    made = []
    for k in range(3):
        kept = draw(st.integers(0, len(shape))) if k else 0
        own = tuple(n if draw(st.booleans()) or not k else 1 for n in shape[kept:])
        order = draw(st.permutations(range(len(own))))
        steps = [draw(st.sampled_from((1, 1, 1, -1, 2))) for _ in own]
        start = draw(st.sampled_from((0, 0, 1, 3)))
        made.append((own, order, steps, start))
    return shape, made


def viewed(x: Any, own: tuple[int, ...], order: Any, steps: Any, start: int) -> Any:
    """`x`, of one axis, as an array of shape `own` in another order of axes, with steps and an offset."""
    inner = [own[k] * abs(steps[k]) for k in order]
    x = x[start : start + int(np.prod(inner, dtype=int))].reshape(inner)
    x = x.transpose([list(order).index(k) for k in range(len(own))])
    return x[tuple(slice(None, None, step) for step in steps)] if own else x


@given(views(), st.sampled_from(FLOATS))
@settings(max_examples=25)
def test_operands_are_read_through_any_view(case, dtype):
    shape, made = case
    length = [
        start + int(np.prod([n * abs(s) for n, s in zip(own, steps, strict=True)], dtype=int))
        for own, _, steps, start in made
    ]
    arrays = [np.random.default_rng(n).standard_normal(n).astype(dtype) for n in length]

    def f(*arrays: Any) -> Any:
        a, b, c = (viewed(x, *how) for x, how in zip(arrays, made, strict=True))
        y = a * b + c
        return y, np.tanh(y), (y * a).T, y.reshape(-1)[::2] + 1.0

    run = executor(f, *arrays)
    for y, expected in zip(run.run(*arrays), f(*arrays), strict=True):
        agree(y, np.ascontiguousarray(expected), tolerance=1e-5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 255, 256, 257, 1023, 1025, 2051])
def test_tails_that_no_vector_holds(size, dtype):
    """The last entries are computed, and nothing is written behind them."""
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    run = executor(lambda x: (np.exp(x), x * 2.0 > 0.5), x)
    n = run.schedule.outputs[0]
    for y, expected in zip(run.run(x), (np.exp(x), x * 2.0 > 0.5), strict=True):
        agree(y, expected)
    start, nbytes = run.memory.layout.offsets[n], x.nbytes
    assert set(run.memory.block[start + nbytes : start + -(-nbytes // 512) * 512]) <= {0xA5}


def test_vectors_are_used_where_operands_allow_them():
    x, b = np.ones((8, 12), np.float32), np.ones(12, np.float32)
    with_vectors = [lambda x: x * 2.0, lambda x: x + b, lambda x: x * x[:, :1] + b, lambda x: x.reshape(4, 24) * 3.0]
    without = [lambda x: x.T * 2.0, lambda x: x[:, 1:] * 2.0, lambda x: x[:, ::2] + 1.0]
    for f in with_vectors:
        assert "vector_float4 x0 = *" in executor(f, x).source
    for f in without:
        assert "vector_float4 x0" not in executor(f, x).source
    assert "vector_double2 x0 = *" in executor(lambda x: x * 2.0, x.astype(float)).source


# --- reductions -------------------------------------------------------------------------------------------


REDUCED = [
    ((7,), (0,)), ((300, 5), (0,)), ((5, 300), (1,)), ((3, 4, 5), (1,)), ((3, 40, 70), (0, 2)), ((2, 3, 4), (0, 1, 2)),
    ((1000, 3), (0, 1)), ((64, 1), (0,)), ((3, 1, 2), (1,)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "all", "any", "count_nonzero"])
def test_reductions(name):
    """Along and across rows, of views, and of what a run computes; NaNs and zeros among the entries."""
    rng, op, arrays = np.random.default_rng(3), REGISTRY[name], []
    for (shape, axis), dtype in product(REDUCED, (np.float32, np.float64, np.int32, bool)):
        whole = np.dtype(dtype).kind in "ib"
        x = (rng.integers(-2, 3, shape) if whole else rng.standard_normal(shape)).astype(dtype)
        if not whole and x.size > 20:
            x.reshape(-1)[3] = np.nan if name in ("max", "min") else 0.0
        arrays.append((x, axis))

    def f(xs: Any) -> Any:
        found = []
        for x, (_, axis) in zip(xs, arrays, strict=True):
            back = tuple(len(x.shape) - 1 - k for k in axis)
            found += [op(x, axis=axis), op(x.T, axis=back), op(x * x, axis=axis, keepdims=True)]
        return found

    run = executor(f, [x for x, _ in arrays])
    assert not run.report.uncaptured
    for y, expected in zip(run.run(*(x for x, _ in arrays)), f([x for x, _ in arrays]), strict=True):
        agree(y, expected, tolerance=1e-4 if np.asarray(expected).dtype == np.float32 else 1e-12)
    compiles(run.source)


@pytest.mark.parametrize("shape, axis", [((20000,), 0), ((9000, 3), 0), ((2, 9001), 1)])
def test_long_reductions_are_split_over_blocks(shape, axis):
    x = np.random.default_rng(4).standard_normal(shape)
    run = executor(lambda x: (x.sum(axis), np.exp(x).max(axis)), x)
    assert any(step.grid[1] > 1 for step in run.schedule.launches)
    for y, expected in zip(run.run(x), (x.sum(axis), np.exp(x).max(axis)), strict=True):
        agree(y, expected, tolerance=1e-12)


def test_a_run_that_is_only_reduced_is_no_kernel_of_its_own():
    x = np.random.default_rng(5).standard_normal((30, 40))
    run = executor(lambda x: np.exp(x * 2.0 + x[:, :1]).sum(1), x)
    assert len(run.schedule.launches) == 1
    agree(run.run(x)[0], np.exp(x * 2.0 + x[:, :1]).sum(1), tolerance=1e-12)
    run = executor(lambda x: (y := np.exp(x), y.sum(0)), x)  # which has another reader
    assert len(run.schedule.launches) == 2


# --- structure --------------------------------------------------------------------------------------------


def test_views_cost_nothing():
    x = np.arange(24.0).reshape(2, 3, 4)
    f = lambda x: (x.transpose(2, 0, 1)[1:, ::-1, None] + np.diagonal(x, axis1=1, axis2=2).T[:1, :, None, None]).sum(0)
    run = executor(f, x)
    assert len(run.schedule.launches) == 1
    agree(run.run(x)[0], f(x), tolerance=1e-14)


def test_matmuls_of_every_layout():
    rng = np.random.default_rng(6)
    square, tall, stack = rng.standard_normal((4, 4)), rng.standard_normal((6, 4)), rng.standard_normal((3, 5, 4))
    deep = rng.standard_normal((2, 3, 5, 4))
    functions = """
        a @ a; a.T @ a; a @ b.T; b @ a[:, 0]; a[1] @ a; a[1] @ a[2]; c @ a; c @ a.T; a @ c.transpose(0, 2, 1);
        c @ c.transpose(0, 2, 1); d @ a; d @ c.transpose(0, 2, 1); d[:, :, :, ::2] @ a[:2]; d @ c[0, 0]; d @ a[:, :1];
        d.transpose(1, 0, 3, 2) @ d.transpose(1, 0, 2, 3); d[:, :1] @ c.transpose(0, 2, 1)[None]; a[:, ::-1] @ b.T;
        np.broadcast_to(a[:1], (5, 4)) @ a; c[:, :0] @ a; c[:, :, :0] @ a[:0]; c[:, 2:3] @ a; c[:, :, 1:2] @ a[1:2];
        d.transpose(2, 0, 1, 3) @ a; c.transpose(1, 0, 2) @ a.astype(np.float32); c[:, 0] @ a; a @ d[0, 0].T;
        d.transpose(3, 1, 0, 2)[1:] @ d.transpose(1, 0, 2, 3)[:, 1]
    """
    functions = [eval(f"lambda a, b, c, d: {text.strip()}") for text in functions.split(";")]
    operands = (square, tall, stack, deep)
    run = executor(lambda *xs: [f(*xs) for f in functions], *operands)
    assert not run.report.uncaptured
    for k, (y, f) in enumerate(zip(run.run(*operands), functions, strict=True)):
        agree(y, f(*operands), f"matmul {k}", tolerance=1e-12)


def test_a_shared_matrix_is_one_product():
    run = executor(lambda x, w: x @ w, np.ones((3, 5, 4)), np.ones((4, 2)))
    (gemm,) = run.schedule.launches
    assert (gemm.batch, gemm.sizes) == (1, (2, 15, 4))


def test_all_pairs_of_dtypes_in_one_expression():
    pairs = [(a, b) for a, b in product(DTYPES, DTYPES) if np.result_type(a, b).name in CTYPE]
    arrays = [[np.array([0, 1, 2, 3, 5], dtype) for dtype in pair] for pair in pairs]

    def f(arrays: Any) -> Any:
        return [(x + y, x * y, np.where(x > 1, x, y), np.maximum(x, y)) for x, y in arrays]

    run = executor(f, arrays)
    assert not run.report.uncaptured
    found = iter(run.run(*(x for pair in arrays for x in pair)))
    for (a, b), results in zip(pairs, f(arrays), strict=True):
        for expected in results:
            agree(next(found), expected, f"{a} and {b}")


def test_positions_beyond_two_billion_are_long():
    shape = (2**32 + 4,)
    values = [Value(shape, np.dtype(np.float32), kind) for kind in ("input", "computed")]
    kernel = map_kernel([Point(1, (Load(accessed(View.whole(shape, 0))),))], [1], shape[0], values)
    source, _ = module_source([kernel])
    assert "long long i = " in source
    assert kernel.grid[0] * kernel.block * 4 >= shape[0]
    compiles(source)
    strided = View((1000,), (2**22,), 0, 0)  # few entries, far apart
    source, _ = module_source([map_kernel([Point(1, (Load(accessed(strided)),))], [1], 1000, values)])
    assert "long long i = " in source
