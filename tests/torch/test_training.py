"""Training with torch's optimisers through minijac's derivatives: the losses and the weights are those of torch."""

import copy

import pytest

from tests.support.torch_modules import mlp, module, per_sample

torch = pytest.importorskip("torch")

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402
from minijac.transforms import first  # noqa: E402
from minijac.ways import replay  # noqa: E402


def contractive(net, jacobian):
    return lambda x: net(x).pow(2).mean() + 0.1 * jacobian(net)(x).pow(2).sum((1, 2)).mean()


def flow(net, jacobian):
    """The negative log-density of a residual flow with its exact log-determinant."""

    def loss(x):
        eye = torch.eye(4, dtype=x.dtype)
        z, log_det = x + 0.1 * net(x), torch.linalg.slogdet(eye + 0.1 * jacobian(net)(x))[1]
        return (0.5 * z.pow(2).sum(1) - log_det).mean()

    return loss


def poisson(net, laplacian):
    return lambda x: (laplacian(net)(x)[:, 0] - x.sin().sum(1)).pow(2).mean()


def burgers(net, partials):
    """The residual of Burgers' equation in the features t, x of the first two, by the partials of one pass."""

    def loss(x):
        u, u_t, u_x, u_xx = partials(net, [(), (0,), (1,), (1, 1)])(x)
        return (u_t + u * u_x - 0.1 * u_xx).pow(2).mean() + u.pow(2).mean()

    return loss


def torch_partials(net, multi_indices):
    def partials(x):
        x = x.requires_grad_()
        found = []
        for index in multi_indices:
            y = net(x)
            for k in index:
                (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
                y = slope[:, k : k + 1]
            found.append(y)
        return found

    return partials


def torch_laplacian(net):
    def laplacian(x):
        rows = [torch.autograd.functional.hessian(lambda s: net(s[None])[0, 0], s, create_graph=True) for s in x]
        return torch.stack([row.diagonal().sum() for row in rows])[:, None]

    return laplacian


def torch_jacobian(net):
    return lambda x: per_sample(net, x)


CASES = {
    "contractive": (contractive, 2, mt.jacobian, torch_jacobian),
    "flow": (flow, 4, mt.jacobian, torch_jacobian),
    "poisson": (poisson, 1, mt.laplacian, torch_laplacian),
    "burgers": (burgers, 1, mt.partials, torch_partials),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_training_is_that_of_torch(name, compiled):
    make, out, mine, reference = CASES[name]
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, out)).double()
    second = copy.deepcopy(first)
    losses = []
    for net, derivative in ((first, mine), (second, reference)):
        loss = make(net, derivative)
        if compiled and net is first:
            loss = mt.compile(loss)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
        generator = torch.Generator().manual_seed(1)
        history = []
        for _ in range(5):
            x = torch.randn(3, 4, dtype=torch.float64, generator=generator)
            optimiser.zero_grad()
            value = loss(x)
            value.backward()
            optimiser.step()
            history.append(value.detach())
        losses.append(torch.stack(history))
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)
    assert first.state_dict().keys() == second.state_dict().keys()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_a_module_is_left_as_it_was():
    """Its state_dict, its parameters and buffers themselves, its modes, hooks and attributes: all but the gradients."""
    net, x = module("residual")
    modules = dict(net.named_modules())
    state = {name: (t.data_ptr(), t._version, t.clone()) for name, t in net.state_dict().items()}
    parts = [*net.parameters(), *net.buffers()]
    before = {name: (set(vars(m)), m.training, len(m._forward_hooks), type(m)) for name, m in modules.items()}
    for transformed in (
        mt.jacobian(net),
        mt.compile(mt.jacobian(net)),
        mt.compile(lambda x: mt.jacobian(net)(x).sum()),
    ):
        for _ in range(2):
            transformed(x).sum().backward()
    mt.jacobian(net, parameters=True)(x)
    assert net.state_dict().keys() == state.keys() and dict(net.named_modules()) == modules
    for name, t in net.state_dict().items():
        place, version, held = state[name]
        assert (t.data_ptr(), t._version) == (place, version) and torch.equal(t, held)
    assert all(a is b for a, b in zip(parts, [*net.parameters(), *net.buffers()], strict=True))
    assert before == {name: (set(vars(m)), m.training, len(m._forward_hooks), type(m)) for name, m in modules.items()}


def test_jacobians_by_parameters():
    f, x = module("tanh")
    J = mt.jacobian(f, parameters=True)(x)
    own = dict(f.named_parameters())
    assert J.keys() == own.keys()
    for name, parameter in own.items():
        rows = [
            torch.stack([torch.autograd.grad(y, parameter, retain_graph=True)[0] for y in f(sample[None])[0]])
            for sample in x
        ]
        torch.testing.assert_close(J[name].detach(), torch.stack(rows))


def test_the_tangent_kernel_by_functional_call():
    f, x = module("tanh")
    params = {name: p.detach() for name, p in f.named_parameters()}

    def outputs(params, x):
        return torch.func.functional_call(f, params, (x,))

    J = mt.jacobian(outputs, batch_axis=(None, 0))(params, x)
    mine = sum(torch.einsum("ao...,bp...->abop", j.flatten(2), j.flatten(2)) for j in J.values())
    wanted = torch.func.vmap(torch.func.jacrev(lambda p, s: outputs(p, s[None])[0]), (None, 0))(params, x)
    reference = sum(torch.einsum("ao...,bp...->abop", j.flatten(2), j.flatten(2)) for j in wanted.values())
    torch.testing.assert_close(mine, reference)


def test_parameters_of_what_is_no_module_are_refused():
    with pytest.raises(mj.InputError, match="functional_call"):
        mt.jacobian(torch.sin, parameters=True)
    with pytest.raises(mj.InputError, match="argnums"):
        mt.jacobian(mlp(), parameters=True, argnums=1)


class Norm(torch.nn.Module):
    """Layer norm, written out: third derivatives of torch's own (2.13) are wrong."""

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


@pytest.mark.parametrize("name", ["mlp", "normed"])
def test_calls_whose_parameters_require_grad_are_replayed(name, monkeypatch):
    work = []
    for owner in (replay, first):
        monkeypatch.setattr(owner, "assemble", lambda *args, known=owner.assemble: (work.append(1), known(*args))[1])
    torch.manual_seed(0)
    norm = Norm() if name == "normed" else torch.nn.Tanh()
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), norm, torch.nn.Softplus(), torch.nn.Linear(5, 2)).double()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for n in range(5):
        x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        wanted, found, calls = gradients(net, torch_jacobian(net), x), gradients(net, mt.jacobian(net), x), len(work)
        assert bool(calls) == (n < 2)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
        work.clear()
        for p, g in zip(net.parameters(), found[1][1:], strict=True):
            p.grad = g.detach()
        optimiser.step()


def gradients(net, jacobian, x):
    """A Jacobian, the gradients of a loss of it, and gradients through those."""
    own = [x, *net.parameters()]
    J = jacobian(x)
    first = torch.autograd.grad(J.sin().sum(), own, create_graph=True, materialize_grads=True)
    penalty = sum(g.pow(2).sum() for g in first)
    return J, first, torch.autograd.grad(penalty, own, materialize_grads=True)


PIECEWISE = {
    "rectified": lambda x, w: torch.relu(x + w), "floor": lambda x, w: x * torch.floor(w),
    "sign": lambda x, w: x * torch.sign(w) + w, "of a part": lambda x, w: torch.relu(x[:, 1:] * w[0].sign()),
}  # fmt: skip


@pytest.mark.parametrize("name", PIECEWISE)
def test_a_jacobian_that_is_piecewise_constant_in_the_parameters_has_derivative_zero(name):
    w, x = torch.nn.Parameter(torch.linspace(-1.5, 1.2, 4).double()), torch.randn(3, 4, dtype=torch.float64)
    f = lambda x: PIECEWISE[name](x, w)

    def rows(sample):
        sample = sample.clone().requires_grad_()
        return torch.stack([torch.autograd.grad(y, sample, create_graph=True)[0] for y in f(sample[None])[0]])

    wanted = torch.stack([rows(sample) for sample in x])
    wanted.pow(2).sum().backward()
    assert not w.grad.any()
    for transform in (lambda f: f, mt.compile):
        w.grad = None
        J = transform(mt.jacobian(f))(x)
        torch.testing.assert_close(J, wanted)
        J.pow(2).sum().backward()
        assert w.grad is not None and not w.grad.any()
        y, J = transform(mt.value_and_jacobian(f))(x)
        (slope,) = torch.autograd.grad(y.sum() + J.sum(), w, retain_graph=True)
        torch.testing.assert_close(slope, torch.autograd.grad(f(x).sum(), w)[0])
        (slope,) = torch.autograd.grad(J.sum() * w.sum(), w, create_graph=True)
        torch.testing.assert_close(slope, J.sum().expand(4))


def test_what_a_function_returns_beside_is_left_as_it_is():
    w = torch.nn.Parameter(torch.ones(4))
    f = lambda x: (torch.relu(x * w), x.detach() * 2)
    J, aux = mt.jacobian(f, has_aux=True)(torch.ones(3, 4))
    assert J.requires_grad and not aux.requires_grad
