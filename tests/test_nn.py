"""Functions of networks against torch.nn.functional: values, per-sample derivatives, kinks, mixing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import agrees_with_torch, close, random

import minijac as mj
from minijac import nn

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytest.importorskip("scipy")  # erf

X = random(3, 4, seed=1, low=-4.0, high=4.0)

ELEMENTWISE: dict[str, tuple[Any, Any]] = {
    "relu": (nn.relu, F.relu),
    "leaky_relu": (lambda x: nn.leaky_relu(x, 0.1), lambda x: F.leaky_relu(x, 0.1)),
    "elu": (lambda x: nn.elu(x, 1.3), lambda x: F.elu(x, 1.3)),
    "celu": (lambda x: nn.celu(x, 1.3), lambda x: F.celu(x, 1.3)),
    "selu": (nn.selu, F.selu),
    "gelu": (nn.gelu, F.gelu),
    "gelu tanh": (lambda x: nn.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (nn.silu, F.silu),
    "mish": (nn.mish, F.mish),
    "softplus": (nn.softplus, F.softplus),
    "softplus with beta": (lambda x: nn.softplus(x, 2.0, 3.0), lambda x: F.softplus(x, 2.0, 3.0)),
    "sigmoid": (nn.sigmoid, torch.sigmoid),
    "logsigmoid": (nn.logsigmoid, F.logsigmoid),
    "tanh": (nn.tanh, torch.tanh),
    "tanhshrink": (nn.tanhshrink, F.tanhshrink),
    "softsign": (nn.softsign, F.softsign),
    "hardsigmoid": (nn.hardsigmoid, F.hardsigmoid),
    "hardtanh": (nn.hardtanh, F.hardtanh),
    "hardswish": (nn.hardswish, F.hardswish),
    "relu6": (lambda x: nn.relu6(2 * x), lambda x: F.relu6(2 * x)),
    "glu": (nn.glu, F.glu),
    "softmax": (nn.softmax, lambda x: F.softmax(x, -1)),
    "log_softmax": (nn.log_softmax, lambda x: F.log_softmax(x, -1)),
    "logsumexp": (nn.logsumexp, lambda x: torch.logsumexp(x, -1)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations(name):
    f, torch_f = ELEMENTWISE[name]
    second = name not in ("hardswish", "hardsigmoid")  # torch has no second derivative of these under vmap
    single = name in ("celu", "hardsigmoid")  # whose constants torch rounds to single precision
    agrees_with_torch(f, torch_f, X, order=2 if second else 1, rtol=1e-7 if single else 1e-9)


@pytest.mark.parametrize(
    "f, torch_f, at",
    [
        (nn.relu, F.relu, (0.0,)),
        (nn.leaky_relu, F.leaky_relu, (0.0,)),
        (nn.elu, F.elu, (0.0,)),
        (nn.selu, F.selu, (0.0,)),
        (nn.softsign, F.softsign, (0.0,)),
        (nn.relu6, F.relu6, (0.0, 6.0)),
        (nn.hardtanh, F.hardtanh, (-1.0, 1.0)),
        (nn.hardsigmoid, F.hardsigmoid, (-3.0, 3.0)),
        (nn.hardswish, F.hardswish, (-3.0, 3.0)),
    ],
)
def test_kinks_are_torchs(f, torch_f, at):
    x = np.array(at)
    t = torch.tensor(x, requires_grad=True)
    torch_f(t).sum().backward()
    for mode in ("forward", "reverse"):
        close(mj.jacobian(f, mode=mode)(x), t.grad.numpy())


def test_activations_do_not_overflow():
    x = np.array([-1000.0, 1000.0])
    with np.errstate(over="raise", invalid="raise"):
        for f in (nn.sigmoid, nn.softplus, nn.silu, nn.logsigmoid, nn.gelu, nn.mish, nn.softsign):
            assert np.isfinite(mj.jacobian(f)(x)).all()
        for f in (nn.softmax, nn.log_softmax):
            assert np.isfinite(mj.jacobian(f)(x[None])).all()


def test_prelu():
    x, w = random(3, 2, 4, seed=2), np.array([0.1, 0.3])
    agrees_with_torch(nn.prelu, F.prelu, x, w, argnums=(0, 1), batch_axis=(0, None))


# --- layers -------------------------------------------------------------------------------------------------


def test_linear():
    args = X, random(5, 4, seed=3), random(5, seed=4)
    agrees_with_torch(nn.linear, F.linear, *args, argnums=(0, 1, 2), batch_axis=(0, None, None))


IMAGES, W4, B4 = random(3, 4, 3, 2, seed=5), random(4, seed=6), random(4, seed=7)
W32, B32 = random(3, 2, seed=8), random(3, 2, seed=9)
MEAN, VAR = random(4, seed=10), random(4, seed=11, low=0.5, high=2.0)


def torch_batch_norm(x: Any, mean: Any, var: Any, *scale_and_shift: Any) -> Any:
    """torch's own has no derivative for the running statistics."""
    along = lambda a: a.reshape(-1, *(1,) * (x.ndim - 2))
    y = (x - along(mean)) / torch.sqrt(along(var) + 1e-5)
    own = F.batch_norm(x, mean.detach(), var.detach(), *scale_and_shift)
    for step, a in zip((torch.mul, torch.add), scale_and_shift, strict=False):
        y = step(y, along(a))
    assert torch.allclose(y, own)
    return y


@pytest.mark.parametrize(
    "f, torch_f, args",
    [
        (nn.layer_norm, lambda x, w, b: F.layer_norm(x, (4,), w, b), (X, W4, B4)),
        (lambda x, w, b: nn.layer_norm(x, w, b, normalized_shape=(3, 2)), lambda x, w, b: F.layer_norm(x, (3, 2), w, b),
         (IMAGES, W32, B32)),
        (lambda x, w: nn.rms_norm(x, w, eps=1e-3), lambda x, w: F.rms_norm(x, (4,), w, 1e-3), (X, W4)),
        (lambda x, w: nn.rms_norm(x, w), lambda x, w: F.rms_norm(x, (4,), w), (X, W4)),
        (lambda x, w, b: nn.group_norm(x, 2, w, b), lambda x, w, b: F.group_norm(x, 2, w, b), (IMAGES, W4, B4)),
        (lambda x, w, b: nn.instance_norm(x, w, b), lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
         (IMAGES, W4, B4)),
        (nn.batch_norm, torch_batch_norm, (IMAGES, MEAN, VAR, W4, B4)),
        (nn.batch_norm, torch_batch_norm, (X, MEAN, VAR)),
    ],
)  # fmt: skip
def test_normalisation(f, torch_f, args):
    axes = (0,) + (None,) * (len(args) - 1)
    agrees_with_torch(f, torch_f, *args, argnums=range(len(args)), batch_axis=axes, rtol=1e-8)


def test_batch_statistics_mix_samples():
    f = lambda x: nn.batch_norm(x, weight=W4, bias=B4)
    with pytest.raises(mj.BatchMixingError):
        mj.jacobian(f)(IMAGES)
    torch_f = lambda x: F.batch_norm(x, None, None, torch.tensor(W4), torch.tensor(B4), training=True)
    close(f(IMAGES), torch_f(torch.tensor(IMAGES)).numpy())
    whole = torch.autograd.functional.jacobian(torch_f, torch.tensor(IMAGES)).numpy()
    close(mj.jacobian(f, on_mixing="full")(IMAGES), whole, 1e-9)
    own = np.stack([whole[i][..., i, :, :, :] for i in range(3)])
    close(mj.jacobian(f, on_mixing="diagonal")(IMAGES), own, 1e-9)
    close(nn.batch_norm(IMAGES, MEAN, VAR, training=True), nn.batch_norm(IMAGES))


def test_embedding():
    ids = np.array([[0, 2, 2], [4, 1, 0]])
    weight = random(5, 3, seed=12)
    f = lambda w: nn.embedding(ids, w)
    for mode in ("forward", "reverse"):
        J = mj.jacobian(f, batch_axis=None, mode=mode)(weight)
        close(J, np.einsum("blv,ij->blivj", np.eye(5)[ids], np.eye(3)))
    g = lambda x, w: np.expand_dims(x, 1) * nn.embedding(ids, w)
    torch_g = lambda x, ids, w: x[:, None] * F.embedding(ids.long(), w)
    h = lambda x, ids, w: g(x, w) if len(ids) == 2 else None
    agrees_with_torch(h, torch_g, random(2, 3), ids.astype(float), weight, argnums=(0, 2), batch_axis=(0, 0, None))


def test_dropout_with_a_given_mask():
    mask = random(3, 4, seed=13) > 0
    y, J = mj.value_and_jacobian(lambda x: nn.dropout(x, mask, p=0.25))(X)
    close(y, X * mask / 0.75)
    close(J, mask[:, :, None] * np.eye(4) / 0.75)


Q, K, V = random(3, 2, 4, 5, seed=14), random(3, 2, 6, 5, seed=15), random(3, 2, 6, 3, seed=16)
BOOLEAN, ADDED = random(4, 6, seed=17) > -0.3, random(4, 6, seed=18)


@pytest.mark.parametrize(
    "f, torch_f",
    [
        (nn.scaled_dot_product_attention, F.scaled_dot_product_attention),
        (lambda q, k, v: nn.scaled_dot_product_attention(q, k, v, is_causal=True),
         lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        (lambda q, k, v: nn.scaled_dot_product_attention(q, k, v, BOOLEAN, scale=0.3),
         lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.tensor(BOOLEAN), scale=0.3)),
        (lambda q, k, v: nn.scaled_dot_product_attention(q, k, v, ADDED),
         lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.tensor(ADDED))),
    ],
)  # fmt: skip
def test_attention(f, torch_f):
    agrees_with_torch(f, torch_f, Q, K, V, argnums=(0, 1, 2))


def test_attention_where_every_key_is_masked_is_zero():
    mask = np.array([[False, False], [True, False]])
    q = random(1, 2, 3, seed=19)
    t = torch.tensor(q, requires_grad=True)
    F.scaled_dot_product_attention(t, t, t, torch.tensor(mask)).sum().backward()
    f = lambda q: nn.scaled_dot_product_attention(q, q, q, mask)
    assert not f(q)[0, 0].any()
    for mode in ("forward", "reverse"):
        close(mj.jacobian(f, mode=mode)(q).sum((1, 2)), t.grad.numpy())


# --- convolutions -------------------------------------------------------------------------------------------

CONVOLUTIONS: list[tuple[int, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    (1, (2, 7), (4, 2, 3), {}),
    (1, (2, 7), (4, 2, 3), {"stride": 2, "padding": 1, "dilation": 2}),
    (1, (4, 5), (6, 2, 2), {"groups": 2}),
    (1, (2, 6), (3, 2, 4), {"padding": "same"}),
    (1, (2, 6), (3, 2, 1), {"padding": "valid"}),
    (2, (2, 4, 5), (3, 2, 2, 3), {"stride": (1, 2), "padding": (1, 0)}),
    (2, (2, 5, 5), (2, 1, 3, 2), {"groups": 2, "dilation": (1, 2), "padding": 1}),
    (3, (1, 3, 4, 3), (2, 1, 2, 2, 2), {"stride": (1, 2, 1), "padding": (0, 1, 0)}),
]
TRANSPOSED: list[tuple[int, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    (1, (2, 4), (2, 3, 3), {}),
    (1, (4, 4), (4, 1, 3), {"stride": 3, "padding": 1, "output_padding": 2, "groups": 2}),
    (1, (2, 3), (2, 2, 2), {"stride": 1, "dilation": 3, "output_padding": 2}),
    (2, (2, 3, 2), (2, 3, 2, 3), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    (3, (1, 2, 2, 3), (1, 2, 2, 1, 2), {"stride": 2}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    "kind, case", [("conv", c) for c in CONVOLUTIONS] + [("conv_transpose", c) for c in TRANSPOSED]
)
def test_convolutions(kind, case):
    n, shape, weight, options = case
    f, torch_f = getattr(nn, f"{kind}{n}d"), getattr(F, f"{kind}{n}d")
    outputs = weight[0] if kind == "conv" else weight[1] * options.get("groups", 1)
    args = random(2, *shape, seed=20), random(*weight, seed=21), random(outputs, seed=22)
    agrees_with_torch(
        lambda *a: f(*a, **options), lambda *a: torch_f(*a, **options), *args,
        argnums=(0, 1, 2), batch_axis=(0, None, None),
    )  # fmt: skip


def test_second_derivative_of_a_convolutional_network():
    w1, w2, v = random(3, 2, 3, seed=1), random(2, 3, 2, seed=2), random(2, 3, seed=3)
    f = lambda x: np.einsum("bcl,cl->b", nn.conv1d(np.tanh(nn.conv1d(x, w1, padding=1)), w2), v)
    torch_f = lambda x: torch.einsum(
        "bcl,cl->b", F.conv1d(torch.tanh(F.conv1d(x, torch.tensor(w1), padding=1)), torch.tensor(w2)), torch.tensor(v)
    )
    agrees_with_torch(f, torch_f, random(3, 2, 4, seed=4), order=2)
    net = lambda w, x: np.einsum("bcl,cl->b", nn.conv1d(np.tanh(nn.conv1d(x, w, padding=1)), w2), v)
    torch_net = lambda w, x: torch.einsum(
        "bcl,cl->b", F.conv1d(torch.tanh(F.conv1d(x, w, padding=1)), torch.tensor(w2)), torch.tensor(v)
    )
    agrees_with_torch(net, torch_net, w1, random(3, 2, 4, seed=4), batch_axis=(None, 0), order=2)


def test_the_jacobian_of_a_convolution_is_shared_by_the_samples():
    J = mj.jacobian(lambda x: nn.conv1d(x, random(4, 2, 3)), structured=True)(random(50, 2, 9))
    assert J.nbytes <= 4 * 7 * 2 * 9 * 8


def test_convolutions_say_what_does_not_fit():
    with pytest.raises(mj.InputError, match=r"\(B, C, H, W\)"):
        nn.conv2d(X, random(1, 1, 2, 2))
    with pytest.raises(mj.InputError, match="groups=2"):
        nn.conv1d(random(2, 4, 5), random(2, 4, 3), groups=2)
    with pytest.raises(mj.InputError, match="stride"):
        nn.conv1d(random(2, 4, 5), random(2, 4, 3), stride=(1, 1))
    with pytest.raises(mj.InputError, match="conv_transpose1d"):
        nn.conv_transpose1d(random(2, 4, 5), random(3, 4, 3))


# --- pooling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, shape, options",
    [
        ("max_pool1d", (2, 7), {"kernel_size": 3}),
        ("max_pool1d", (2, 7), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("max_pool1d", (2, 8), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
        ("max_pool1d", (2, 7), {"kernel_size": 2, "stride": 1, "dilation": 3}),
        ("max_pool2d", (2, 5, 4), {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 0)}),
        ("max_pool2d", (1, 6, 5), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
        ("avg_pool1d", (2, 7), {"kernel_size": 3}),
        ("avg_pool1d", (2, 7), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("avg_pool1d", (2, 7), {"kernel_size": 3, "padding": 1, "count_include_pad": False}),
        ("avg_pool1d", (2, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
        ("avg_pool2d", (2, 5, 4), {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 0)}),
        ("avg_pool2d", (1, 6, 5), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
        ("avg_pool2d", (1, 6, 5), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True,
                                   "count_include_pad": False}),
        ("avg_pool2d", (1, 4, 4), {"kernel_size": 2, "divisor_override": 3}),
        ("adaptive_avg_pool1d", (2, 7), {"output_size": 3}),
        ("adaptive_avg_pool1d", (2, 4), {"output_size": 6}),
        ("adaptive_avg_pool2d", (2, 5, 6), {"output_size": (3, None)}),
        ("adaptive_avg_pool2d", (2, 5, 6), {"output_size": 1}),
        ("adaptive_max_pool1d", (2, 7), {"output_size": 3}),
        ("adaptive_max_pool1d", (2, 4), {"output_size": 6}),
        ("adaptive_max_pool2d", (2, 5, 6), {"output_size": (3, None)}),
    ],
)  # fmt: skip
def test_pooling(name, shape, options):
    f, torch_f = getattr(nn, name), getattr(F, name)
    agrees_with_torch(lambda x: f(x, **options), lambda x: torch_f(x, **options), random(2, *shape, seed=23))


def test_ties_in_a_window_share_evenly():
    x = np.array([[[1.0, 1.0, 0.0, 1.0]]])
    close(mj.jacobian(lambda x: nn.max_pool1d(x, 2).sum(-1))(x)[0, 0, 0], np.array([0.5, 0.5, 0.0, 1.0]))


def test_single_precision_stays():
    x = random(2, 2, 6, seed=24, dtype=np.float32)
    w = random(3, 2, 3, seed=25, dtype=np.float32)
    for f in (
        lambda x: nn.conv1d(x, w, padding=1),
        lambda x: nn.conv_transpose1d(x, w[:2], stride=2),
        lambda x: nn.max_pool1d(x, 2),
        lambda x: nn.avg_pool1d(x, 3, padding=1, count_include_pad=False),
        lambda x: nn.adaptive_avg_pool1d(x, 4),
        lambda x: nn.layer_norm(x),
        lambda x: nn.rms_norm(x),
        lambda x: nn.scaled_dot_product_attention(x, x, x, is_causal=True),
        nn.gelu,
        nn.selu,
        nn.hardswish,
        nn.softmax,
    ):
        for mode in ("forward", "reverse"):
            y, J = mj.value_and_jacobian(f, mode=mode)(x)
            assert y.dtype == J.dtype == np.float32


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_entries_that_no_window_in_use_holds_do_not_spoil_the_derivative(mode):
    x = np.array([[[0.0, 0.0, 4.0, 1.0]]])
    f = lambda x: np.where(np.array([False, True]), nn.avg_pool1d(np.sqrt(x), 2), 0.0)
    close(mj.jacobian(f, mode=mode)(x)[0, 0, 1, 0], np.array([0.0, 0.0, 0.125, 0.25]))


def test_compiled_networks_are_the_same():
    w = random(3, 2, 3, seed=26)
    x, y = random(2, 2, 6, seed=27), random(2, 2, 6, seed=28)
    for f in (
        lambda x: nn.max_pool1d(nn.relu(nn.conv1d(x, w, padding=1)), 2),
        lambda x: nn.scaled_dot_product_attention(nn.layer_norm(x), x, x, is_causal=True),
        lambda x: nn.log_softmax(nn.gelu(nn.group_norm(x, 2))),
    ):
        compiled = mj.compile(mj.jacobian(f))
        compiled(y)
        close(compiled(x), mj.jacobian(f)(x))


def test_softplus_at_infinity():
    x = np.array([[-np.inf, 0.0, np.inf]])
    expected = [[0.0, np.log(2.0), np.inf]]
    np.testing.assert_allclose(mj.nn.softplus(x), expected)
    np.testing.assert_allclose(mj.compile(mj.nn.softplus)(x), expected)
