"""Gradients of embeddings by their weights, and layers in inference mode."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import minijac as mj
import minijac.torch as mt

DOUBLE = torch.float64
INDICES = torch.tensor([[0, 2, 2, 3], [1, 0, 4, 0]])


class Weighted(nn.Module):
    """Rows of an embedding, in a function of x."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, x):
        return (self.rows(INDICES) * x[..., None]).sin().sum(1)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("padding", [None, 0, 2, -1])
def test_the_row_of_the_padding_is_not_trained(padding, compiled):
    torch.manual_seed(0)
    net = Weighted(nn.Embedding(5, 3, padding_idx=padding).double())
    with torch.no_grad():
        net.rows.weight.add_(0.3)  # where its numbers are zero as well, the derivatives by it are not
    x = torch.randn(2, 4, dtype=DOUBLE)
    J = mt.compile(mt.jacobian(net)) if compiled else mt.jacobian(net)
    J(x).pow(2).sum().backward()
    found, net.rows.weight.grad = net.rows.weight.grad, None
    wanted = torch.autograd.functional.jacobian(net, x, create_graph=True)
    wanted.pow(2).sum().backward()
    torch.testing.assert_close(found, net.rows.weight.grad)
    assert padding is None or not found[padding].any()


def test_gradients_scaled_by_frequencies_are_refused():
    net = Weighted(nn.Embedding(5, 3, scale_grad_by_freq=True).double())
    x = torch.randn(2, 4, dtype=DOUBLE)
    with pytest.raises(mj.UnsupportedOperationError, match="scale_grad_by_freq"):
        mt.jacobian(net)(x)
    net.requires_grad_(False)
    assert mt.jacobian(net)(x).shape == (2, 3, 4)


IMAGE, SEQUENCE = torch.randn(2, 3, 6, 6, dtype=DOUBLE), torch.randn(2, 5, 6, dtype=DOUBLE)
LAYERS = {
    "bilinear by a factor": (nn.Upsample(scale_factor=0.5, mode="bilinear"), IMAGE),
    "bicubic by factors": (nn.Upsample(scale_factor=(0.7, 1.5), mode="bicubic"), IMAGE),
    "nearest by a factor": (nn.Upsample(scale_factor=1.6), IMAGE),
    "nearest to a size": (nn.Upsample(size=4), IMAGE),
    "convolution": (nn.Sequential(nn.Conv2d(3, 2, 3, padding="same"), nn.BatchNorm2d(2), nn.MaxPool2d(2)), IMAGE),
    "lstm": (nn.LSTM(6, 4, batch_first=True), SEQUENCE),
    "attention": (nn.MultiheadAttention(6, 2, batch_first=True), SEQUENCE),
    "encoder": (nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), SEQUENCE),
    "norms": (nn.Sequential(nn.LayerNorm(6), nn.RMSNorm(6), nn.GroupNorm(1, 5)), SEQUENCE),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_inference_mode_are_those_outside_of_it(name):
    layer, x = LAYERS[name]
    layer = layer.double().eval()

    def f(x):
        y = layer(x, x, x) if name == "attention" else layer(x)
        return y[0] if isinstance(y, tuple) else y

    wanted = mt.jacobian(f)(x).detach()
    with torch.inference_mode():
        torch.testing.assert_close(mt.jacobian(f)(x.clone()), wanted)
        torch.testing.assert_close(mt.value_and_jacobian(f)(x.clone())[0], f(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("left", [True, False])
def test_an_encoder_with_masked_places_does_without_nested_tensors(left):
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2).double().eval()
    masked = torch.tensor([[False, False, False, True, True], [False, False, False, False, True]])
    masked = masked if left else masked.flip(1)

    def f(x):
        return net(x, src_key_padding_mask=masked)[:, 2]

    with sdpa_kernel(SDPBackend.MATH):
        J = torch.autograd.functional.jacobian(f, SEQUENCE)
    wanted = torch.stack([J[i, :, i] for i in range(2)])
    torch.testing.assert_close(mt.jacobian(f)(SEQUENCE).detach(), wanted)
    torch.testing.assert_close(mt.compile(mt.jacobian(f))(SEQUENCE).detach(), wanted)


def test_a_pullback_is_that_of_the_call_and_moves_no_statistics():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Tanh()).double()
    x, y_bar = torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 6, dtype=DOUBLE)
    torch.manual_seed(1)
    y, pullback = mt.vjp(net, x)
    drawn, moved = torch.rand(1), net[1].running_mean.clone()
    (found,), (again,) = pullback(y_bar), pullback(y_bar)
    assert net[1].num_batches_tracked == 1 and torch.equal(net[1].running_mean, moved)
    torch.manual_seed(1)
    t = x.clone().requires_grad_()
    torch.testing.assert_close(net(t), y)
    torch.manual_seed(1)
    (wanted,) = torch.autograd.grad(net(t), t, y_bar)
    assert torch.rand(1) == drawn
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(again, wanted)


TABLE = torch.arange(8.0, dtype=DOUBLE).reshape(4, 2)
WITHOUT_NEGATIVE = {
    "embedding": lambda x, t: x * nn.functional.embedding(t, TABLE).sum(1)[:, None],
    "rows of a table": lambda x, t: x * TABLE.index_select(0, t).sum(1)[:, None],
    "gather": lambda x, t: x.gather(1, t[:, None]) ** 2,
    "cross entropy": lambda x, t: nn.functional.cross_entropy(x, t, reduction="none"),
    "index_select": lambda x, t: x.index_select(1, t) ** 2,
    "scatter": lambda x, t: (1.0 * x).scatter(1, t[:, None], x[:, :1] ** 2),
    "scatter_add": lambda x, t: (1.0 * x).scatter_add(1, t[:, None], x[:, :1] ** 2),
    "index_add": lambda x, t: (1.0 * x).index_add(1, t, x[:, :3] ** 2),
    "index_copy": lambda x, t: (1.0 * x).index_copy(1, t, x[:, :3] ** 2),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_NEGATIVE)
def test_positions_that_torch_does_not_count_from_the_end_raise(name):
    """A label of -1 is a mistake, and not the last class: uncompiled, and in each call of a program."""
    f = WITHOUT_NEGATIVE[name]
    x = torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(3, 4)
    jacobian = mt.jacobian(f, batch_axis=(0, None))
    compiled = mt.compile(jacobian)
    for t in ([0, 3, 1], [2, 1, 3]):
        torch.testing.assert_close(compiled(x, torch.tensor(t)), jacobian(x, torch.tensor(t)))
    for t in ([0, -1, 1], [0, 4, 1]):
        with pytest.raises((IndexError, RuntimeError), match="out of"):
            f(x, torch.tensor(t))
        for way in (jacobian, compiled):
            with pytest.raises((IndexError, RuntimeError), match="out of"):
                way(x, torch.tensor(t))
    assert compiled.cache_info().misses == 1


@pytest.mark.filterwarnings("error")
def test_a_plain_table_is_looked_up_by_one_program():
    f = lambda x, t: x * TABLE[t].sum(1)[:, None] + TABLE[t, t % 2][:, None]
    compiled, x = mt.compile(f), torch.ones(3, 4, dtype=DOUBLE)
    for t in ([0, 3, 1], [2, -1, 3], [1, 1, 1]):
        torch.testing.assert_close(compiled(x, torch.tensor(t)), f(x, torch.tensor(t)))
    assert compiled.cache_info().misses == 1


def test_index_fill_counts_from_the_end_as_in_torch():
    x = torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(3, 4)
    J = mt.jacobian(lambda x: (x**2).index_fill(1, torch.tensor([-1]), 2.0))(x)
    torch.testing.assert_close(J.diagonal(dim1=1, dim2=2), 2 * x * torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=DOUBLE))
