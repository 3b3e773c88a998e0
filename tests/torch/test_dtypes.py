"""Dtypes are torch's: of values and Jacobians, eager and compiled; and batches of one and of none."""

import pytest

from tests.support.torch_modules import per_sample

torch = pytest.importorskip("torch")

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402
from minijac.torch.aten.registry import TABLE  # noqa: E402

FUNCTIONS = {
    "a number of the same kind": lambda x: x * torch.tensor(2.0, dtype=torch.float64),
    "integers": lambda x: x / torch.tensor([1, 2, 3, 4]),
    "an integer's power": lambda x: x ** torch.tensor(2),
    "a number of float32": lambda x: torch.where(x > 0, x, torch.tensor(0.0)),
    "there and back": lambda x: x.float().double() * 3,
    "a tensor made like another": lambda x: x @ x.new_ones(4, 2),
    "bounds": lambda x: torch.clamp(x, min=torch.zeros(4, dtype=x.dtype)),
    "truths": lambda x: x.bool().double() * x + (x > 0) * x,
    "filled": lambda x: x.masked_fill(x > 0, 2.0),
    "put beside float32": lambda x: torch.cat([x, torch.zeros(len(x), 1)], 1),
    "to float32": lambda x: x.to(torch.float32),
    "numbers before": lambda x: 2 / x + 1 - x % 1.0 + 2.0**x - (3 - x),
    "integers that come of it": lambda x: x * x.long() + x.argsort(1),
    "windows": lambda x: x.unfold(1, 2, 1).sum(-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes_are_those_of_torch(name):
    f = FUNCTIONS[name]
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64)
    wanted = per_sample(f, x)
    for transformed in (mt.value_and_jacobian(f), mt.compile(mt.value_and_jacobian(f))):
        y, J = transformed(x)
        torch.testing.assert_close(y, f(x), rtol=1e-13, atol=1e-13)
        assert J.dtype == torch.float64
        torch.testing.assert_close(J, wanted.to(J.dtype), rtol=1e-6 if y.dtype == torch.float32 else 1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_batches(batch, dtype):
    net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Tanh()).to(dtype)
    J = mt.jacobian(net)(torch.ones(batch, 4, dtype=dtype))
    assert J.shape == (batch, 2, 4) and J.dtype == dtype


TWO_DTYPES = {
    "Linear": torch.nn.Linear(3, 2),
    "Linear in the middle": torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(3, 2)),
    "LayerNorm": torch.nn.LayerNorm(3),
    "convolution": lambda x: torch.nn.functional.conv1d(x[:, None], torch.ones(2, 1, 2)),
    "matmul": lambda x: x @ torch.ones(3, 2),
    "mv": lambda x: x @ torch.ones(3),
    "bmm": lambda x: torch.bmm(x[:, None], torch.ones(len(x), 3, 2)),
    "einsum": lambda x: torch.einsum("bi,oi->bo", x, torch.ones(2, 3)),
    "solve": lambda x: torch.linalg.solve(torch.eye(3).expand(len(x), 3, 3), x),
}


@pytest.mark.parametrize("name", TWO_DTYPES)
def test_operands_of_two_dtypes_are_refused_where_torch_refuses_them(name):
    f, x = TWO_DTYPES[name], torch.ones(4, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        f(x)
    with pytest.raises(mj.InputError, match=r"one dtype.*float(64|32) and float(64|32)"):
        mt.jacobian(f)(x)
    assert mt.jacobian(f)(x.float()).dtype == torch.float32


def test_operands_of_two_dtypes_are_promoted_where_torch_promotes_them():
    x = torch.ones(4, 3, dtype=torch.float64)
    for f in (
        lambda x: x * torch.ones(3),
        lambda x: torch.cat([x, x.float()], 1),
        lambda x: torch.where(x > 0, x, x.float()),
    ):
        assert mt.jacobian(f)(x).dtype == f(x).dtype == torch.float64


def operations_of_tensors():
    """Overloads of the table that take two or three tensors, and nothing else that has to be given."""
    for key in TABLE:
        packet = [getattr(key, name) for name in key.overloads()] if hasattr(key, "overloads") else [key]
        for overload in packet:
            kinds = [str(arg.type) for arg in overload._schema.arguments if not arg.has_default_value()]
            if kinds in (["Tensor"] * 2, ["Tensor"] * 3) and not overload._schema.is_mutable:
                yield overload, len(kinds)


def beside_others(first):
    """Operands of all dtypes, with axes and without, in each place but the first."""
    others = [torch.tensor([1, 2, 1, 2]), torch.tensor([True, False, True, True]), torch.rand(4) + 0.3]
    for other in (*others, torch.tensor(2), torch.tensor(0.6), *(t.double() for t in (torch.tensor(0.7), others[2]))):
        yield [first, other]
        yield [first, other, first]
        yield [first, first, other]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_operation_of_several_tensors_promotes_as_torch_does(dtype):
    first, tried = torch.rand(3, 4).add(0.2).to(dtype), 0
    for overload, count in operations_of_tensors():
        for args in beside_others(first):
            try:
                wanted = overload(*args) if len(args) == count else None
            except (RuntimeError, IndexError):
                continue
            if not isinstance(wanted, torch.Tensor) or not wanted.is_floating_point():
                continue
            if overload is torch.ops.aten.linalg_pinv.rcond_tensor and args[1].ndim:
                continue  # of a tolerance for each matrix alone
            y, _ = mt.value_and_jacobian(lambda x, f=overload, rest=args[1:]: f(x, *rest), batch_axis=None)(first)
            torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6, equal_nan=True, msg=f"{overload} {args}")
            tried += 1
    assert tried > 200


@pytest.mark.parametrize("write", [lambda y, z: y.add_(z), lambda y, z: y[:, :1].mul_(z[:, :1])])
def test_an_imaginary_part_is_not_written_to_reals(write):
    with pytest.raises(mj.MutationError, match="complex"):
        mt.jacobian(lambda x: write(x.clone(), x * 1j))(torch.ones(2, 3))
