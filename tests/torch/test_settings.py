"""Attributes and layers of a module that are others since it was compiled."""

from collections import deque
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402

nn = torch.nn


class Configured(nn.Module):
    """What it does stands in attributes; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.activation, self.power, self.scale, self.calls = torch.relu, 2, 1.5, 0
        self.layers = nn.Sequential(nn.ReLU())

    def forward(self, x):
        self.calls += 1
        return self.layers(self.activation(x)) * self.scale + x**self.power


def test_compile_sees_attributes_and_layers_that_are_others():
    net, x = Configured().double(), torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    value, jacobian = mt.compile(net), mt.compile(mt.jacobian(net))
    changes = [
        lambda: None,
        lambda: setattr(net, "activation", torch.tanh),
        lambda: setattr(net, "power", 3),
        lambda: setattr(net, "scale", 2.5),
        lambda: net.layers.__setitem__(0, nn.Tanh()),
    ]
    for n, change in enumerate(changes, 1):
        change()
        for _ in range(2):
            torch.testing.assert_close(value(x), net(x))
            torch.testing.assert_close(jacobian(x), mt.jacobian(net)(x))
        assert value.cache_info().misses == jacobian.cache_info().misses == n


class Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.factors, self.options = nn.Linear(4, 4).double(), [1.0, 2.0], {"scale": 1.0}
        self.listed = [nn.Linear(4, 4).double(), nn.Linear(4, 4).double()]

    def forward(self, x):
        x = self.listed[1](self.listed[0](x).sin())
        return self.layer(x) * self.factors[0] * self.options["scale"] + self.training


FACTOR = [1.0]
CHANGES = {
    "an entry of a list": lambda net: net[0].factors.__setitem__(0, 5.0),
    "layers in a list": lambda net: net[0].listed.reverse(),
    "a weight in a list": lambda net: setattr(
        net[0].listed[0], "bias", nn.Parameter(torch.ones(4, dtype=torch.float64))
    ),
    "numbers in a list": lambda net: net[0].listed[0].bias.data.add_(1.0),
    "no bias in a list": lambda net: setattr(net[0].listed[0], "bias", None),
    "new numbers in a list": lambda net: setattr(net[0].listed[0].bias, "data", torch.ones(4, dtype=torch.float64)),
    "a list": lambda net: setattr(net[0], "factors", [7.0]),
    "an entry of a dict": lambda net: net[0].options.__setitem__("scale", 3.0),
    "a hook": lambda net: net[0].layer.register_forward_hook(lambda module, args, y: 2 * y),
    "a hook before": lambda net: net[1].register_forward_pre_hook(lambda module, args: (3 * args[0],)),
    "what a hook reads": lambda net: FACTOR.__setitem__(0, FACTOR[0] + 1.0),
    "a layer": lambda net: net.__setitem__(1, nn.ReLU()),
    "a weight": lambda net: setattr(net[0].layer, "weight", nn.Parameter(torch.ones(4, 4, dtype=torch.float64))),
    "a weight's numbers": lambda net: setattr(net[0].layer.weight, "data", torch.ones(4, 4, dtype=torch.float64)),
    "how a weight lies": lambda net: setattr(net[0].layer.weight, "data", net[0].layer.weight.data.T),
    "where a weight lies": lambda net: net.share_memory(),
    "a written weight": lambda net: net[0].layer.weight.data.mul_(2.0),
    "a state that was loaded": lambda net: net.load_state_dict(
        {name: 2.0 * x for name, x in net.state_dict().items()}, assign=True
    ),
    "a weight that is computed": lambda net: nn.utils.parametrizations.weight_norm(net[0].layer),
    "the mode": lambda net: net.eval(),
    "a hook in place of another": lambda net: (net.hook.remove(), net[0].register_forward_hook(lambda m, args, y: -y)),
    "a layer more": lambda net: net.append(nn.Tanh()),
    "a layer less": lambda net: net.__delitem__(1),
    "the class": lambda net: setattr(net[0], "__class__", Negative),
    "no bias": lambda net: setattr(net[0].layer, "bias", None),
}


class Negative(Held):
    def forward(self, x):
        return -super().forward(x)


@pytest.mark.parametrize("what", CHANGES)
def test_compile_sees_what_modules_hold(what):
    net, x = nn.Sequential(Held(), nn.Tanh()), torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    net.hook = net[0].register_forward_hook(lambda module, args, y: y * FACTOR[0])
    value, jacobian = mt.compile(net), mt.compile(mt.jacobian(net))
    for _ in range(3):
        value(x), jacobian(x)
    CHANGES[what](net)
    for _ in range(2):
        torch.testing.assert_close(value(x), net(x))
        torch.testing.assert_close(jacobian(x), mt.jacobian(net)(x))


def test_compile_sees_what_functions_close_over():
    nets = [nn.Linear(4, 4).double(), nn.Linear(4, 4).double()]
    net, listed, named, x = nets[0], [nets[0]], {"net": nets[0]}, torch.ones(2, 4, dtype=torch.float64)

    def f(x):
        return net(x) + 2.0 * listed[0](x) + 3.0 * named["net"](x) + 4.0 * holder.net(x)

    class Holder:
        pass

    holder = Holder()
    holder.net = nets[0]

    def rebind():
        nonlocal net
        net = nets[1]

    value, jacobian = mt.compile(f), mt.compile(mt.jacobian(f))
    changes = [lambda: None, rebind, lambda: listed.__setitem__(0, nets[1]), lambda: named.update(net=nets[1]),
               lambda: setattr(holder, "net", nets[1]), lambda: setattr(nets[1], "bias", None)]  # fmt: skip
    for change in changes:
        change()
        for _ in range(3):
            torch.testing.assert_close(value(x), f(x))
            torch.testing.assert_close(jacobian(x), mt.jacobian(f)(x))


def test_compile_sees_which_parameters_require_grad():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double(), torch.ones(2, 4, dtype=torch.float64)
    loss = mt.compile(lambda x: mt.jacobian(net)(x).pow(2).mean())
    for frozen in (False, True, False, True):
        net[0].weight.requires_grad_(not frozen)
        for _ in range(3):
            net.zero_grad()
            y = loss(x)
            assert y.requires_grad
            y.backward()
            assert (net[0].weight.grad is None) == frozen
            assert net[0].bias.grad is not None


def test_a_call_that_finds_all_as_it_was_reads_no_weight_anew():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double(), torch.ones(2, 4, dtype=torch.float64)
    jacobian = mt.compile(mt.jacobian(net.requires_grad_(False)))
    jacobian(x)
    entry = next(iter(jacobian._entries.values()))
    arrays = entry.arrays
    with torch.no_grad():
        net[0].weight.mul_(2.0)
    torch.testing.assert_close(jacobian(x), mt.jacobian(net)(x))
    assert entry.arrays is arrays and len(arrays) == 2
    assert jacobian.cache_info().hits == 1


def test_a_tuple_that_does_not_tell_its_length_is_looked_at_as_a_tuple():
    class Shapes(tuple):
        def __len__(self):
            raise NotImplementedError

    net, x = nn.Tanh(), torch.ones(2, 4, dtype=torch.float64)
    net.shapes = Shapes([nn.Linear(4, 3).double()])
    compiled = mt.compile(mt.jacobian(lambda x: net.shapes[0](net(x))))
    for _ in range(2):
        torch.testing.assert_close(compiled(x), mt.jacobian(lambda x: net.shapes[0](net(x)))(x))
        with torch.no_grad():
            net.shapes[0].weight.mul_(2.0)


def ones(number=1.0):
    return torch.full((3,), number, dtype=torch.float64)


class OfAClass:
    held = ones()


@dataclass(slots=True)
class OfSlots:
    held: torch.Tensor

    def __call__(self, x):
        return x * self.held


def by_keyword(x, *, w=ones()):  # noqa: B008
    return x * w


QUEUE, MANY, SLOTS = deque([ones()]), [ones() for _ in range(200)], OfSlots(ones())
PLACES = {
    "a deque": (lambda x: x * QUEUE[0], lambda t: QUEUE.__setitem__(0, t)),
    "a long list": (lambda x: x * MANY[150], lambda t: MANY.__setitem__(150, t)),
    "a class": (lambda x: x * OfAClass.held, lambda t: setattr(OfAClass, "held", t)),
    "a slot": (SLOTS, lambda t: setattr(SLOTS, "held", t)),
    "a default": (by_keyword, lambda t: by_keyword.__kwdefaults__.__setitem__("w", t)),
    "a function inside": (lambda x: (lambda s: s * QUEUE[0])(x), lambda t: QUEUE.__setitem__(0, t)),
}


@pytest.mark.parametrize("where", PLACES)
def test_compile_sees_tensors_wherever_they_stand(where):
    f, bind = PLACES[where]
    compiled, x = mt.compile(f), torch.ones(2, 3, dtype=torch.float64)
    for number in (1.0, 1.0, 5.0, 2.0):
        bind(ones(number))
        torch.testing.assert_close(compiled(x), number * x)


def test_compile_sees_other_hooks_in_the_place_of_as_many_and_what_they_hold():
    net, x, held = nn.Linear(3, 2).double(), torch.ones(4, 3, dtype=torch.float64), {"k": torch.tensor(2.0).double()}
    compiled = mt.compile(lambda x: net(x))
    for hook in (lambda m, i, o: o * 2, lambda m, i, o: o * 3, lambda m, i, o: o * held["k"]):
        handle = net.register_forward_hook(hook)
        for _ in range(2):
            torch.testing.assert_close(compiled(x), net(x))
        held["k"] = held["k"] + 1
        torch.testing.assert_close(compiled(x), net(x))
        handle.remove()


def test_a_tensor_may_be_an_argument_and_captured():
    w, y = (nn.Parameter(ones(number)) for number in (1.0, 3.0))
    compiled = mt.compile(lambda x: (x * w).sum())
    for x in (w, y):
        torch.testing.assert_close(torch.autograd.grad(compiled(x), w), torch.autograd.grad((x * w).sum(), w))
    i, x = torch.tensor([0, 1, 2]), ones()
    picks = mt.compile(lambda x, j: x[i] * x[j])
    picks(x, i)
    i[0] = 2
    torch.testing.assert_close(picks(torch.arange(3.0), torch.tensor([0, 1, 2])), torch.tensor([0.0, 1.0, 4.0]))


def test_backward_through_a_call_in_which_things_stood_otherwise_is_refused_or_right():
    nets = [nn.Linear(3, 2).double() for _ in range(3)]
    x, now = torch.ones(4, 3, dtype=torch.float64), {}
    compiled = mt.compile(lambda x: torch.tanh(now["net"](x)))
    results = []
    for now["net"] in nets:
        results.append(compiled(x))
    results[-1].sum().backward()
    own = torch.autograd.grad(torch.tanh(nets[-1](x)).sum(), nets[-1].weight)[0]
    torch.testing.assert_close(nets[-1].weight.grad, own)
    with pytest.raises(mj.InputError, match="as they were in the call that backward goes through"):
        results[0].sum().backward()


def test_parameters_can_be_swapped_after_a_call():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double(), torch.ones(2, 3, dtype=torch.float64)
    mt.jacobian(net)(x)
    torch.utils.swap_tensors(net[0].weight, nn.Parameter(torch.ones(4, 3, dtype=torch.float64)))
    plain = torch.func.vmap(torch.func.jacrev(net))(x)
    torch.testing.assert_close(mt.jacobian(net)(x), plain)


def test_compile_sees_hooks_for_all_modules():
    net, x = nn.Sequential(nn.Tanh(), nn.Linear(4, 2)).double(), torch.ones(3, 4, dtype=torch.float64)
    compiled, wanted = mt.compile(mt.jacobian(net)), mt.jacobian(net)(x)
    of_all = nn.modules.module
    for register in (of_all.register_module_forward_hook, of_all.register_module_forward_pre_hook):
        for factor in (2.0, 3.0):  # one in the place of another
            torch.testing.assert_close(compiled(x), wanted)
            torch.testing.assert_close(compiled(x), wanted)
            scaled = lambda module, args, *y, factor=factor: factor * (y or args)[0] if module is net else None
            handle = register(scaled)
            try:
                assert not torch.allclose(mt.jacobian(net)(x), wanted)
                for _ in range(3):
                    torch.testing.assert_close(compiled(x), mt.jacobian(net)(x))
            finally:
                handle.remove()
    torch.testing.assert_close(compiled(x), wanted)


@pytest.mark.parametrize("transformed", [mt.jacobian, lambda net: mt.compile(mt.jacobian(net))])
@pytest.mark.parametrize("grad", [False, True])
def test_calls_under_a_mode_without_numbers_are_refused(transformed, grad):
    net, x = nn.Linear(4, 2), torch.ones(3, 4)
    f = transformed(net)
    for _ in range(2):
        with torch.set_grad_enabled(grad), torch._subclasses.FakeTensorMode() as mode:
            for given in (x, mode.from_tensor(x)):
                with pytest.raises(mj.InputError, match=r"FakeTensorMode.*made outside of it"):
                    f(given)
        torch.testing.assert_close(f(x).detach(), net.weight.expand(3, 2, 4).detach())
