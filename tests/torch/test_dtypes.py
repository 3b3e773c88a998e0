"""Dtypes are torch's: of values and Jacobians, eager and compiled; and batches of one and of none."""

import pytest

from tests.support.torch_modules import per_sample

torch = pytest.importorskip("torch")

import minijac.torch as mt  # noqa: E402

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
