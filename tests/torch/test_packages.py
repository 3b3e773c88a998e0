"""Modules of published packages, small and with random weights: Jacobians, gradients through them, and compiled."""

import os

import pytest

from tests.support.torch_modules import per_sample

torch = pytest.importorskip("torch")

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402

os.environ.setdefault("DDE_BACKEND", "pytorch")

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def language(config, model, **sizes):
    transformers = pytest.importorskip("transformers")
    net = getattr(transformers, model)(getattr(transformers, config)(vocab_size=20, **sizes)).double().eval()
    return net, lambda x: net(inputs_embeds=x).last_hidden_state[:, -1], torch.randn(2, 3, 16, dtype=torch.float64)


def vision():
    transformers = pytest.importorskip("transformers")
    net = transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES))
    net = net.double().eval()
    return net, lambda x: net(x).last_hidden_state[:, 0], torch.randn(2, 1, 8, 8, dtype=torch.float64)


def flow(kind, density):
    zuko = pytest.importorskip("zuko")
    net = getattr(zuko.flows, kind)(3, transforms=2, hidden_features=(8,)).double()

    def f(x):
        return net().log_prob(x)[:, None] if density else net().transform(x)

    return net, f, torch.randn(2, 3, dtype=torch.float64) * 0.5


def spline_flow(density):
    """Splines within bounds, which masks pick and put back; beyond, the identity."""
    transforms, nets = pytest.importorskip("nflows.transforms"), pytest.importorskip("nflows.nn.nets")
    flows, distributions = pytest.importorskip("nflows.flows"), pytest.importorskip("nflows.distributions")
    spline = {"num_bins": 4, "tails": "linear", "tail_bound": 1.0}

    def inner(i, o):
        return nets.ResidualNet(i, o, hidden_features=6, num_blocks=1)

    net = transforms.PiecewiseRationalQuadraticCouplingTransform(torch.tensor([1, 0, 1]), inner, **spline)
    if density:
        autoregressive = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            3, 6, num_blocks=1, **spline
        )
        steps = transforms.CompositeTransform([net, transforms.ReversePermutation(3), autoregressive])
        net = flows.Flow(steps, distributions.StandardNormal([3]))
    for parameter in net.double().parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    f = (lambda x: net.log_prob(x)[:, None]) if density else (lambda x: net(x)[0])
    return net, f, torch.randn(4, 3, dtype=torch.float64)


def informed():
    models = pytest.importorskip("pina.model")
    net = models.ResidualFeedForward(2, 2, inner_size=6, n_layers=2).double()
    return net, net, torch.rand(3, 2, dtype=torch.float64)


def ode():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    times = torch.linspace(0, 1, 4, dtype=torch.float64)

    def f(x):
        return torchdiffeq.odeint(lambda t, y: net(y), x, times, method="rk4")[-1]

    return net, f, torch.randn(2, 2, dtype=torch.float64)


ARM = """
<robot name="arm"><link name="base"/><link name="upper"/><link name="lower"/><link name="hand"/>
<joint name="shoulder" type="revolute"><parent link="base"/><child link="upper"/><origin xyz="0 0 1"/>
<axis xyz="0 0 1"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
<joint name="elbow" type="revolute"><parent link="upper"/><child link="lower"/><origin xyz="0.5 0 0" rpy="0 1 0"/>
<axis xyz="0 1 0"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
<joint name="wrist" type="prismatic"><parent link="lower"/><child link="hand"/><origin xyz="0.4 0 0.1"/>
<axis xyz="1 0 0"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint></robot>
"""


def arm():
    kinematics = pytest.importorskip("pytorch_kinematics")
    chain = kinematics.build_serial_chain_from_urdf(ARM.strip().encode(), "hand").to(dtype=torch.float64)

    def f(x):
        return chain.forward_kinematics(x).get_matrix()[:, :3]

    return torch.nn.Identity(), f, torch.randn(2, 3, dtype=torch.float64)


def equivariant():
    o3 = pytest.importorskip("e3nn.o3")
    kinds = o3.Irreps("2x0e + 1x1o")
    product = o3.FullyConnectedTensorProduct(kinds, o3.Irreps("1x0e + 1x1o"), kinds).double()

    def f(x):
        directions = o3.spherical_harmonics([0, 1], x[:, 5:], normalize=True, normalization="component")
        return product(x[:, :5], directions)

    return product, f, torch.randn(2, 8, dtype=torch.float64)


def physics():
    deepxde = pytest.importorskip("deepxde")
    if deepxde.backend.backend_name != "pytorch":
        pytest.skip("deepxde runs on another backend")
    net = deepxde.nn.pytorch.PFNN([2, [4, 4], [4, 4], 2], "tanh", "Glorot normal").double()
    net.apply_output_transform(lambda x, y: x[:, :1] * (1 - x[:, :1]) * y)
    return net, net, torch.rand(2, 2, dtype=torch.float64)


CASES = {
    "an arm": (arm, 1e-10),
    "e3nn": (equivariant, 1e-10),
    "deepxde": (physics, 1e-10),
    "BERT": (lambda: language("BertConfig", "BertModel", **SIZES), 1e-10),
    "GPT-2": (
        lambda: language("GPT2Config", "GPT2Model", n_embd=16, n_layer=1, n_head=2, n_positions=8, use_cache=False,
                         bos_token_id=0, eos_token_id=0),
        1e-10,
    ),
    # these two normalise in float32 whatever they are given
    "Llama": (lambda: language("LlamaConfig", "LlamaModel", num_key_value_heads=1, use_cache=False, **SIZES), 2e-5),
    "T5": (
        lambda: language("T5Config", "T5EncoderModel", d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2),
        2e-5,
    ),
    "ViT": (vision, 1e-10),
    "NSF": (lambda: flow("NSF", False), 1e-10),
    "NSF, density": (lambda: flow("NSF", True), 1e-10),
    "MAF": (lambda: flow("MAF", False), 1e-10),
    "MAF, density": (lambda: flow("MAF", True), 1e-10),
    "nflows": (lambda: spline_flow(False), 1e-10),
    "nflows, density": (lambda: spline_flow(True), 1e-10),
    "pina": (informed, 1e-10),
    "an ODE": (ode, 1e-10),
}  # fmt: skip
PICKS = {"nflows", "nflows, density"}
"""What picks by masks, which differ from call to call: not for a program."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_modules_of_packages_are_followed(name):
    torch.manual_seed(0)
    make, tolerance = CASES[name]
    net, f, x = make()
    wanted, found = per_sample(f, x), mt.jacobian(f)(x)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    parameters = list(net.parameters())
    if parameters:
        gradients = [
            torch.autograd.grad(J.pow(2).sum(), parameters, allow_unused=True, materialize_grads=True)
            for J in (found, wanted)
        ]
        scale = max([1.0, *[float(g.abs().max()) for g in gradients[1]]])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale)
    else:  # what is scripted torch differentiates once only
        (slope,) = torch.autograd.grad(mt.jacobian(f)(x.requires_grad_()).pow(2).sum(), x)
        x, step = x.detach(), 1e-5 * torch.ones_like(x)
        ahead, behind = (per_sample(f, moved).pow(2).sum() for moved in (x + step, x - step))
        torch.testing.assert_close((slope * step).sum(), (ahead - behind) / 2, rtol=1e-6, atol=1e-12)
    compiled = mt.compile(mt.jacobian(f))
    if name in PICKS:
        with pytest.raises(mj.TraceError, match=r"at .*\.py:\d+: under minijac\.torch\.compile .* a mask picks"):
            compiled(x)
        return
    compiled(x)
    torch.testing.assert_close(compiled(x * 1.1), per_sample(f, x * 1.1), rtol=tolerance, atol=tolerance)
