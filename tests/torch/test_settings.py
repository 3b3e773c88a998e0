"""Attributes and layers of a module that are others since it was compiled."""

import pytest

torch = pytest.importorskip("torch")

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
