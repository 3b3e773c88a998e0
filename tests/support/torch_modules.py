"""Networks as people write them in torch, small, with the input that they take; all in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
SDPBackend, sdpa_kernel = torch.nn.attention.SDPBackend, torch.nn.attention.sdpa_kernel


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cells = getattr(nn, kind)(
            3, 4, num_layers=1 + (kind == "LSTM"), batch_first=True, bidirectional=kind == "GRU"
        )
        self.out = nn.Linear(8 if kind == "GRU" else 4, 2)

    def forward(self, x):
        return self.out(self.cells(x)[0][:, -1])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm, self.skip = nn.BatchNorm2d(4), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        y = F.relu_(self.norm(self.first(x)))
        y = self.second(y)
        y += self.skip(x)
        return F.adaptive_avg_pool2d(y.relu(), 2).flatten(1)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Conv2d(6, 1, 1)

    def forward(self, x):
        kept = F.silu(self.down(x))
        y = F.silu(self.deep(F.max_pool2d(kept, 2)))
        return self.out(torch.cat([self.up(y), kept], 1))


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        y = F.interpolate(self.conv(x), scale_factor=2, mode="bilinear", align_corners=False)
        return F.pixel_unshuffle(y, 2).mean((2, 3))


class Attention(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention, self.need = nn.MultiheadAttention(8, 2, batch_first=True), need_weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.need)[0]


class Causal(nn.Module):
    """Attention written out, rotary positions that the module caches, root mean square norm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm, self.cached = nn.Linear(4, 12), nn.RMSNorm(4), None

    def forward(self, x):
        if self.cached is None:
            angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
            self.cached = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        cos, sin = self.cached
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q, k = (t * cos + torch.cat([-t[..., 2:], t[..., :2]], -1) * sin for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype).triu(1)
        return y + (q @ k.mT + mask).softmax(-1) @ v


class Buffers(nn.Module):
    """Filled buffers, writes to views and in place."""

    def forward(self, x):
        y = torch.zeros(x.shape[0], 3, dtype=x.dtype)
        y[:, 0] = x[:, 1] * x[:, 0]
        y[:, 1] += x[:, 0].sin()
        h = x.clone()
        h[:, ::2] *= 2
        h.t()[1] = h.t()[1].clone() ** 2
        h.view(x.shape[0], 2, 2)[:, 1, 0].add_(x[:, 0])
        y[:, 2] = h.prod(1)
        return y


class Hamiltonian(nn.Module):
    """A vector field by torch's autograd in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x):
        x = x if x.requires_grad else x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return torch.cat([slope[:, 2:], -slope[:, :2]], 1)


class MessagePassing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(4, 5), nn.Linear(7, 2)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 2, 3], [1, 2, 3, 0, 1]]))

    def forward(self, x):
        source, target = self.edges
        messages = F.elu(self.message(torch.cat([x[:, source], x[:, target]], -1)))
        total = torch.zeros(x.shape[0], x.shape[1], 5, dtype=x.dtype).index_add_(1, target, messages)
        return self.update(torch.cat([x, total], -1))


class Embedded(nn.Module):
    """Integers beside what is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(5, 3), nn.Bilinear(3, 3, 2)
        self.register_buffer("which", torch.tensor([0, 3]))

    def forward(self, x):
        return self.out(self.table(self.which).sum(0).expand_as(x), x)


class Coupling(nn.Module):
    """A layer of a flow: masks, chunks, exp, and a log-determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, x):
        a, b = x.chunk(2, 1)
        shift, scale = self.net(a).split(2, 1)
        return torch.cat([a, b * scale.exp() + shift, scale.sum(1, keepdim=True)], 1)


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 6), nn.Linear(6, 6)])
        self.out = nn.Linear(6, 1)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(3.0 * layer(x))
        return self.out(x)


class DeepONet(nn.Module):
    """Samples of a function in the branch, points where it is asked for in the trunk; the points are the module's."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.trunk = mlp(nn.Tanh()), nn.Sequential(nn.Linear(1, 2), nn.SiLU())
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("points", torch.linspace(0, 1, 3)[:, None])

    def forward(self, x):
        return torch.einsum("bp,np->bn", self.branch(x), self.trunk(self.points)) + self.bias


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding="same", groups=2)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1))

    def forward(self, x):
        y = self.conv(x)
        return (y * self.gate(y).sigmoid()).amax((2, 3))


class Masked(nn.Module):
    """Attention with a mask of padding and one of positions, then a mean over what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(4, 2, batch_first=True), nn.LayerNorm(4)
        self.register_buffer("padding", torch.tensor([False, False, False, True]))

    def forward(self, x):
        padding = self.padding.expand(x.shape[0], -1)
        later = torch.ones(4, 4, dtype=torch.bool).triu(1)
        y = self.norm(x + self.attention(x, x, x, key_padding_mask=padding, attn_mask=later, need_weights=False)[0])
        return y.masked_fill(padding[..., None], 0.0).sum(1) / (~padding).sum(1, keepdim=True)


class Bags(nn.Module):
    """Sums of embeddings, whose weights are what is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.bags, self.out = nn.EmbeddingBag(7, 3, mode="sum"), nn.Linear(3, 2)
        self.register_buffer("which", torch.tensor([1, 4, 6]))

    def forward(self, x):
        which = self.which.expand(x.shape[0], -1)
        return self.out(self.bags(which, per_sample_weights=x)).tanh()


class Inside(nn.Module):
    """A monotone map inside of an interval and the identity outside, by boolean masks out and in."""

    def __init__(self) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        inside = (x > -0.5) & (x < 0.5)
        y = torch.zeros_like(x)
        y[~inside] = x[~inside]
        own = x[inside]
        y[inside] = own + self.amount * (1.0 - 4.0 * own**2) * own.exp()
        return y


class Gated(nn.Module):
    """Gated convolutions in time, causal by padding, as in WaveNet."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(2, 4, 2, dilation=d) for d in (1, 2)])

    def forward(self, x):
        for conv in self.convs:
            x = x + F.glu(conv(F.pad(x, (conv.dilation[0], 0))), 1)
        return x[..., -1]


class Decoder(nn.Module):
    """A decoder layer that looks at a memory of the module's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(4, 2, 6, dropout=0.1, batch_first=True, norm_first=True)
        self.memory = nn.Parameter(torch.linspace(-1, 1, 8).reshape(1, 2, 4))

    def forward(self, x):
        return self.layer(x, self.memory.expand(x.shape[0], -1, -1), tgt_is_causal=False)[:, -1]


class Cell(nn.Module):
    """A loop over a cell in Python, with a state that is written step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2, 3)

    def forward(self, x):
        states, h = x.new_zeros(x.shape[0], x.shape[1], 3), x.new_zeros(x.shape[0], 3)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            states[:, t] = h
        return states.flatten(1)


class Graph(nn.Module):
    """Convolution and attention on a graph: a normalised adjacency, and a softmax over neighbours by scattering."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.score = nn.Linear(2, 3), nn.Linear(6, 1)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 2, 3, 0], [1, 2, 3, 0, 1, 2]]))

    def forward(self, x):
        source, target = self.edges
        h = self.weight(x)
        score = F.leaky_relu(self.score(torch.cat([h[:, source], h[:, target]], -1)))[..., 0].exp()
        total = torch.zeros(x.shape[0], 4, dtype=x.dtype).scatter_add(1, target.expand(x.shape[0], -1), score)
        share = score / total.gather(1, target.expand(x.shape[0], -1))
        return torch.zeros_like(h).index_add(1, target, share[..., None] * h[:, source]).relu()


class Fourier(nn.Module):
    """A Fourier neural operator: complex weights on the lowest modes, written into a buffer of modes."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.skip, self.out = nn.Conv1d(1, 3, 1), nn.Conv1d(3, 3, 1), nn.Conv1d(3, 1, 1)
        self.weight = nn.Parameter(torch.randn(3, 3, 3, dtype=torch.complex128) * 0.3)

    def forward(self, x):
        x = self.lift(x[:, None])
        modes = torch.fft.rfft(x)
        kept = torch.zeros_like(modes)
        kept[..., :3] = torch.einsum("bik,iok->bok", modes[..., :3], self.weight)
        return self.out(torch.tanh(torch.fft.irfft(kept, n=x.shape[-1]) + self.skip(x)))[:, 0]


class Mixer(nn.Module):
    """Patches by unfolding, mixed along tokens and along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.channels = nn.Linear(4, 4), nn.Linear(4, 4)
        self.first, self.second = nn.LayerNorm(4), nn.LayerNorm(4)

    def forward(self, x):
        x = F.unfold(x, 2, stride=2).mT
        x = x + F.gelu(self.tokens(self.first(x).mT), approximate="tanh").mT
        return (x + F.hardswish(self.channels(self.second(x)))).mean(1)


def mlp(*layers: Any) -> Any:
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, 2))


MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "tanh": (lambda: mlp(nn.Tanh()), (4,)),
    "layer norm": (lambda: mlp(nn.LayerNorm(6), nn.GELU()), (4,)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (4,)),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), (4,)),
    "prelu": (lambda: mlp(nn.PReLU(), nn.Softplus()), (4,)),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
        ),
        (1, 6, 6),
    ),
    "residual": (Residual, (2, 5, 5)),
    "u-net": (UNet, (1, 4, 4)),
    "upsampling": (Upsampling, (2, 4, 4)),
    "one dimension": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, dilation=2), nn.GroupNorm(3, 3), nn.AvgPool1d(2), nn.Flatten()),
        (2, 9),
    ),
    "three dimensions": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Mish(), nn.MaxPool3d(2), nn.Flatten()),
        (1, 3, 3, 4),
    ),
    "lstm": (lambda: Recurrent("LSTM"), (2, 3)),
    "gru": (lambda: Recurrent("GRU"), (4, 3)),
    "attention": (lambda: Attention(False), (3, 8)),
    "attention with weights": (lambda: Attention(True), (3, 8)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True), (3, 8)),
    "causal": (Causal, (3, 4)),
    "buffers": (Buffers, (4,)),
    "hamiltonian": (Hamiltonian, (4,)),
    "message passing": (MessagePassing, (4, 2)),
    "embedded": (Embedded, (3,)),
    "coupling": (Coupling, (4,)),
    "siren": (Siren, (2,)),
    "deeponet": (DeepONet, (4,)),
    "squeeze and excite": (SqueezeExcite, (2, 4, 4)),
    "masked attention": (Masked, (4, 4)),
    "bags": (Bags, (3,)),
    "inside": (Inside, (3,)),
    "gated": (Gated, (2, 5)),
    "fourier": (Fourier, (7,)),
    "mixer": (Mixer, (1, 4, 4)),
    "decoder": (Decoder, (3, 4)),
    "recurrent cell": (Cell, (3, 2)),
    "gcn": (Graph, (4, 2)),
}


def module(name: str) -> tuple[Any, Any]:
    """The module, in eval mode, and a batch of two samples."""
    torch.manual_seed(0)
    make, shape = MODULES[name]
    return make().double().eval(), torch.randn(2, *shape, dtype=torch.float64)


def per_sample(f: Callable[..., Any], x: Any) -> Any:
    """The Jacobians by torch's reverse mode, one sample at a time."""
    with twice_differentiable():
        rows = [
            torch.autograd.functional.jacobian(lambda one: f(one[None])[0], sample, create_graph=True) for sample in x
        ]
    return torch.stack(rows)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Without torch's fused kernels, which it cannot differentiate twice."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
        yield
