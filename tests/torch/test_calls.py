"""Calls of torch's functions, which are read above its dispatcher, and copies of what is compiled."""

import copy

import pytest

from tests.support.torch_modules import per_sample

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402
from minijac.torch.aten.registry import TABLE, aten  # noqa: E402
from minijac.torch.run import Run  # noqa: E402
from minijac.torch.tensors import array_of  # noqa: E402


def x_of(*shape):
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64)


def check(f, x):
    wanted = per_sample(f, x).detach()
    for transformed in (mt.jacobian(f, mode="forward"), mt.jacobian(f, mode="reverse"), mt.compile(mt.jacobian(f))):
        torch.testing.assert_close(transformed(x).detach(), wanted, rtol=1e-11, atol=1e-11)


def test_an_operation_that_was_met_before_can_be_registered_anew():
    f, x = lambda x: torch.atan2(x, x.new_ones(())), x_of(2, 3)
    before = mt.jacobian(f)(x)
    old = TABLE[aten.atan2]
    try:
        mt.register(aten.atan2)(lambda a, b: 2.0 * old(a, b))
        assert not torch.allclose(mt.jacobian(f)(x), before)
    finally:
        mt.register(aten.atan2)(old)
    torch.testing.assert_close(mt.jacobian(f)(x), before)


def by_name_and_by_position(x):
    y = x.clamp(max=0.5).roll(1, dims=1).flip(1).flip([0]).flip(0) + x.clamp(x.new_zeros(4)) + torch.flip(x, dims=(1,))
    y = y.logsumexp(dim=1, keepdim=True) + y.std(1, keepdim=True) + y.amax(1, True) + x.prod(1, keepdim=True)
    y = y * (x > 0) - (x.ge(0.1) & (x <= 1)) * x.sub(x, alpha=2).addcmul(x, x, value=0.5).lerp(x.sin(), 0.25)
    y += F.elu(x, 0.5, False) + F.silu(x).add(F.relu(x, inplace=False), alpha=3) + F.leaky_relu(x, 0.1)
    return torch.where(x > 0, y, x.new_tensor(2.0)) + F.layer_norm(x, (4,), eps=0.1) + x.T.mT.t().t()


def test_a_choice_between_numbers_has_the_dtype_that_torch_gives_it():
    check(lambda x: x * torch.where(x > 0, 2, 3) + torch.where(x > 0.5, 2.0, 1) * x, x_of(2, 3))
    check(lambda x: x * torch.where(x > 0, True, False), x_of(2, 3))
    net = mt.compile(lambda x: (torch.where(x > 0, 2, 3), torch.where(x > 0, 2.0, 3), torch.where(x > 0, True, False)))
    assert [y.dtype for y in net(x_of(2, 3))] == [torch.int64, torch.float32, torch.bool]


def test_calls_are_read_as_torch_reads_them():
    check(by_name_and_by_position, x_of(3, 4))
    check(nn.Sequential(nn.SiLU(), nn.ELU(0.5, True), nn.Flatten(), nn.LeakyReLU(0.2), nn.Mish()), x_of(2, 3, 2))


def test_a_compiled_module_can_be_copied():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    compiled, x = mt.compile(net), x_of(2, 3)
    wanted = compiled(x)
    twin = copy.deepcopy(compiled)
    with torch.no_grad():
        net[0].weight.zero_()
    torch.testing.assert_close(twin(x), wanted)
    assert not torch.allclose(compiled(x), wanted)
    assert twin.cache_info().misses == 1


def test_a_module_that_holds_a_compiled_module_can_be_copied_and_trains():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 2).double()
            self.fast = mt.compile(self.net)

        def forward(self, x):
            return self.fast(x)

    held, x = Held(), x_of(2, 3)
    twin = copy.deepcopy(held)
    twin(x).sum().backward()
    assert twin.net.weight.grad is not None and held.net.weight.grad is None
    torch.testing.assert_close(twin(x), held(x))


def test_programs_of_modules_have_loops_on_small_arrays():
    pytest.importorskip("llvmlite")
    net = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 8)).requires_grad_(False)
    x = torch.linspace(-1.0, 1.0, 32 * 16).reshape(32, 16)
    compiled, arrays = mt.compile(mt.jacobian(net)), mj.compile(mj.jacobian(mt.lowered(net)))
    torch.testing.assert_close(compiled(x), per_sample(net, x), rtol=1e-4, atol=1e-6)
    entry = next(iter(compiled._entries.values()))
    given = [x.numpy(), *map(array_of, entry.captured)]
    assert "one loop" in entry.program.replay.source(*given)
    assert "one loop" not in arrays.source(x.numpy())  # which would take longer to make than it saves


def test_all_steps_of_a_call_have_its_line_and_its_name():
    x = x_of(4, 3)
    with pytest.raises(mj.BatchMixingError, match=r"(?s)layer_norm, in its step mean.*# the first"):
        mt.jacobian(lambda x: F.layer_norm(x.T, (len(x),)).T)(x)  # the first
    with pytest.raises(IndexError):
        mt.jacobian(lambda x: x.softmax(5))(x)
    with pytest.raises(mj.BatchMixingError, match=r"(?s)mix in sum\(.*# the second"):  # what has failed leaves no name
        mt.jacobian(lambda x: x.sum(0) * x)(x)  # the second


@pytest.mark.parametrize("f", [
    lambda x: x.sum(2), lambda x: x.mean((0, -3)), lambda x: x.permute(2, 0), lambda x: torch.permute_copy(x, (3, 0)),
    lambda x: x.transpose(0, 5), lambda x: x.unsqueeze(4), lambda x: x[4], lambda x: x[0, -4], lambda x: x[0, 0, 0],
    lambda x: torch.cat([x, x], 2), lambda x: x.reshape(5, -1), lambda x: x.view(-1, -1), lambda x: x.expand(2, 5, 3),
])  # fmt: skip
def test_axes_entries_and_sizes_that_are_not_there_are_refused(f):
    for transformed in (f, mt.jacobian(f)):
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            transformed(x_of(4, 3))


@pytest.mark.parametrize("index", [(0, 3), (..., -4), 5])
def test_an_index_out_of_bounds_is_told_with_its_line(index):
    with pytest.raises(IndexError, match=r"test_calls\.py:\d+ is out of bounds"):
        mt.jacobian(lambda x: x[index])(x_of(4, 3))


def test_a_method_in_c_is_torchs_also_where_it_was_met_before():
    x, met = x_of(4, 3), []
    for _ in range(2):
        check(lambda x: x.expm1().frac() + x.expand(1, 4, 3)[0], x)
        for wrong in (lambda x: x.expand("a"), lambda x: x.expand(), lambda x: x.expm1(2), lambda x: x.frac(a=1)):
            with pytest.raises(TypeError):
                mt.jacobian(wrong)(x)
    mt.jacobian(lambda x: met.append(type(x).frac) or x)(x)
    assert met[0].__wrapped__ is torch.Tensor.frac


def convolved(x):
    w, b = torch.linspace(-1, 1, 12, dtype=x.dtype).reshape(3, 2, 2), x.new_ones(3)
    y = F.conv1d(x, w, b, 1, [1], 2) + F.conv1d(x, w, padding="same", dilation=(2,)) * 0.5
    return F.conv1d(y, y.new_ones(3, 1, 2), stride=2, groups=3)


def normalised(x):
    mean, var = x.new_tensor([0.1, -0.2]), x.new_tensor([1.5, 0.7])
    y = F.batch_norm(x, mean, var) + F.batch_norm(x, mean, var, weight=var, bias=mean, eps=0.1).sin()
    return y * nn.BatchNorm1d(2, dtype=x.dtype).eval()(x)


@pytest.mark.parametrize("f", [convolved, normalised])
def test_layers_called_by_name_and_by_position_are_torchs(f):
    check(f, x_of(2, 2, 4))


@pytest.mark.parametrize("f", [
    lambda x: torch.addmm(torch.ones(3, dtype=x.dtype), x, torch.ones(3, 3, dtype=x.dtype)), lambda x: x.clamp(0.1),
    lambda x: torch.logsumexp(x, 1, True), lambda x: x.amax(1), lambda x: torch.where(x > 0, x, 2.0 * x),
    lambda x: x.expand(2, 4, 3).repeat(1, 1, 2).flip(0, 2).sum(0),
], ids=["addmm", "clamp", "logsumexp", "amax", "where", "sizes one by one"])  # fmt: skip
def test_calls_of_functions_in_c_make_no_way_through_the_dispatcher(f, monkeypatch):
    met, through = [], Run.__torch_dispatch__
    monkeypatch.setattr(Run, "__torch_dispatch__", lambda *args: (met.append(args[1]), through(*args))[1])
    mt.jacobian(f)(torch.randn(4, 3, dtype=torch.float64))
    assert not [func for func in met if "ones" not in str(func)]
