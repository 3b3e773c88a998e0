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
