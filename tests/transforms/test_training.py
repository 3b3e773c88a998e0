"""Derivatives inside losses: gradients by parameters equal torch's, and training follows the same curve."""

import numpy as np
import pytest

import minijac as mj

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(11)
X = RNG.normal(size=(6, 3))
PARAMS = {
    "W1": RNG.normal(size=(3, 8)) / 2.0,
    "b1": RNG.normal(size=8) / 2.0,
    "W2": RNG.normal(size=(8, 3)) / 3.0,
    "b2": RNG.normal(size=3) / 2.0,
}


def net(p, x):
    return np.tanh(x @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"]


def torch_net(p, x):
    return torch.tanh(x @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"]


def tensors(p):
    return {k: torch.tensor(v, requires_grad=True) for k, v in p.items()}


def torch_jacobian(p, x):
    """Per-sample Jacobians that can be differentiated again."""
    y = torch_net(p, x)
    rows = [torch.autograd.grad(y[:, k].sum(), x, create_graph=True)[0] for k in range(y.shape[1])]
    return torch.stack(rows, 1)


LOSSES = {
    "contractive penalty": (
        lambda p: (mj.jacobian(lambda x: net(p, x))(X) ** 2).sum(axis=(1, 2)).mean(),
        lambda p, x: (torch_jacobian(p, x) ** 2).sum((1, 2)).mean(),
    ),
    "log-determinant of a flow": (
        lambda p: np.linalg.slogdet(np.eye(3) * 2.0 + mj.jacobian(lambda x: net(p, x))(X))[1].mean(),
        lambda p, x: torch.linalg.slogdet(torch.eye(3, dtype=torch.float64) * 2.0 + torch_jacobian(p, x))[1].mean(),
    ),
    "score matching": (
        lambda p: (mj.divergence(lambda x: net(p, x))(X) + 0.5 * (net(p, X) ** 2).sum(1)).mean(),
        lambda p, x: (
            torch_jacobian(p, x).diagonal(dim1=1, dim2=2).sum(1) + 0.5 * (torch_net(p, x) ** 2).sum(1)
        ).mean(),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_a_loss_with_a_jacobian_in_it_equals_torch(name):
    loss, torch_loss = LOSSES[name]
    t = tensors(PARAMS)
    expected = torch_loss(t, torch.tensor(X, requires_grad=True))
    grads = dict(zip(t, torch.autograd.grad(expected, list(t.values()), allow_unused=True), strict=True))
    for step in (mj.value_and_grad(loss), mj.compile(mj.value_and_grad(loss))):
        for _ in range(2):
            value, gradient = step(PARAMS)
            np.testing.assert_allclose(value, expected.item(), rtol=1e-11)
            for key, g in gradient.items():
                truth = np.zeros_like(g) if grads[key] is None else grads[key].numpy()
                np.testing.assert_allclose(g, truth, rtol=1e-9, atol=1e-12)


def sample_jacobian():
    """The Jacobian of all outputs by all parameters, one sample at a time in torch: (B, out, P)."""
    rows = []
    for x in torch.tensor(X):
        t = tensors(PARAMS)
        y = torch_net(t, x)
        grads = [torch.autograd.grad(entry, list(t.values()), retain_graph=True) for entry in y]
        rows.append(np.stack([np.concatenate([g.numpy().reshape(-1) for g in row]) for row in grads]))
    return np.stack(rows)


def test_per_sample_parameter_jacobians_and_gauss_newton_equal_torch():
    expected = sample_jacobian()
    J = mj.jacobian(net, batch_axis=(None, 0))(PARAMS, X)
    flat = np.concatenate([J[key].reshape(6, 3, -1) for key in PARAMS], axis=2)
    np.testing.assert_allclose(flat, expected, rtol=1e-10, atol=1e-13)
    gauss_newton = np.einsum("bop,boq->pq", flat, flat)
    np.testing.assert_allclose(gauss_newton, np.einsum("bop,boq->pq", expected, expected), rtol=1e-10, atol=1e-12)


def test_the_neural_tangent_kernel_is_a_product_of_operators():
    J = mj.jacobian(net, batch_axis=(None, 0), structured=True)(PARAMS, X)
    kernel = sum((J[key] @ J[key].T).todense() for key in PARAMS)
    expected = sample_jacobian().reshape(18, -1)
    np.testing.assert_allclose(kernel.reshape(18, 18), expected @ expected.T, rtol=1e-10, atol=1e-12)


def test_the_kernel_of_a_wide_layer_forms_no_jacobian():
    import tracemalloc

    x, W = RNG.normal(size=(8, 400)), RNG.normal(size=(400, 300)) / 20.0
    J = mj.jacobian(lambda W, x: np.tanh(x @ W).sum(1), batch_axis=(None, 0), structured=True)(W, x)
    tracemalloc.start()
    kernel = (J @ J.T).todense()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    d = 1.0 - np.tanh(x @ W) ** 2
    np.testing.assert_allclose(kernel, (x @ x.T) * (d @ d.T), rtol=1e-10)
    assert peak < 8 * 400 * 300  # an eighth of the bytes of the (B, P) array


def residual(p, z, nu=0.05):
    def u(z):
        return (np.tanh(np.tanh(z @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"]) @ p["W3"])[:, 0]

    value, u_x, u_t, u_xx = mj.partials(u, [(), (0,), (1,), (0, 0)])(z)
    return u_t + value * u_x - nu * u_xx


def torch_residual(p, z, nu=0.05):
    u = (torch.tanh(torch.tanh(z @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"]) @ p["W3"])[:, 0]
    (g,) = torch.autograd.grad(u.sum(), z, create_graph=True)
    (u_xx,) = torch.autograd.grad(g[:, 0].sum(), z, create_graph=True)
    return g[:, 1] + u * g[:, 0] - nu * u_xx[:, 0]


def test_a_physics_informed_network_trains_along_torchs_curve():
    shapes = {"W1": (2, 12), "b1": (12,), "W2": (12, 12), "b2": (12,), "W3": (12, 1)}
    start = {k: RNG.normal(size=s) / np.sqrt(s[0]) for k, s in shapes.items()}
    z = RNG.uniform(-1.0, 1.0, size=(40, 2))
    step = mj.value_and_grad(lambda p: (residual(p, z) ** 2).mean())
    ours, theirs = dict(start), tensors(start)
    for _ in range(50):
        value, gradient = step(ours)
        loss = (torch_residual(theirs, torch.tensor(z, requires_grad=True)) ** 2).mean()
        grads = torch.autograd.grad(loss, list(theirs.values()))
        np.testing.assert_allclose(value, loss.item(), rtol=1e-6)
        ours = {k: p - 0.1 * gradient[k] for k, p in ours.items()}
        theirs = {k: (p - 0.1 * g).detach().requires_grad_() for (k, p), g in zip(theirs.items(), grads, strict=True)}
    assert value < 0.9 * step(start)[0]
