"""Modules of published packages, small and with random weights: Jacobians, gradients through them, and compiled."""

import pytest

from tests.support.torch_modules import per_sample

torch = pytest.importorskip("torch")

import minijac.torch as mt  # noqa: E402

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


def ode():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    times = torch.linspace(0, 1, 4, dtype=torch.float64)

    def f(x):
        return torchdiffeq.odeint(lambda t, y: net(y), x, times, method="rk4")[-1]

    return net, f, torch.randn(2, 2, dtype=torch.float64)


CASES = {
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
    "an ODE": (ode, 1e-10),
}  # fmt: skip


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
    gradients = [
        torch.autograd.grad(J.pow(2).sum(), parameters, allow_unused=True, materialize_grads=True)
        for J in (found, wanted)
    ]
    scale = max(float(g.abs().max()) for g in gradients[1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(scale, 1.0))
    compiled = mt.compile(mt.jacobian(f))
    compiled(x)
    torch.testing.assert_close(compiled(x * 1.1), per_sample(f, x * 1.1), rtol=tolerance, atol=tolerance)
