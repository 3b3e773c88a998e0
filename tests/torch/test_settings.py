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

    def forward(self, x):
        return self.layer(x) * self.factors[0] * self.options["scale"]


FACTOR = [1.0]
CHANGES = {
    "an entry of a list": lambda net: net[0].factors.__setitem__(0, 5.0),
    "a list": lambda net: setattr(net[0], "factors", [7.0]),
    "an entry of a dict": lambda net: net[0].options.__setitem__("scale", 3.0),
    "a hook": lambda net: net[0].layer.register_forward_hook(lambda module, args, y: 2 * y),
    "a hook before": lambda net: net[1].register_forward_pre_hook(lambda module, args: (3 * args[0],)),
    "what a hook reads": lambda net: FACTOR.__setitem__(0, FACTOR[0] + 1.0),
    "a layer": lambda net: net.__setitem__(1, nn.ReLU()),
    "a weight": lambda net: setattr(net[0].layer, "weight", nn.Parameter(torch.ones(4, 4, dtype=torch.float64))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_compile_sees_what_modules_hold(what):
    net, x = nn.Sequential(Held(), nn.Tanh()), torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    net[0].register_forward_hook(lambda module, args, y: y * FACTOR[0])
    value, jacobian = mt.compile(net), mt.compile(mt.jacobian(net))
    value(x), jacobian(x)
    CHANGES[what](net)
    for _ in range(2):
        torch.testing.assert_close(value(x), net(x))
        torch.testing.assert_close(jacobian(x), mt.jacobian(net)(x))
