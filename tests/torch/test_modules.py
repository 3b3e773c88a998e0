"""Modules as they are: Jacobians, second order and gradients through them, against torch sample by sample."""

import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from tests.support.torch_modules import MODULES, module, per_sample, twice_differentiable

torch = pytest.importorskip("torch")

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402

ONCE = ("bags",)
"""Torch cannot differentiate these twice."""
SMOOTH = ("tanh", "fourier", "layer norm", "lstm", "attention", "coupling", "hamiltonian", "causal")


def close(a, b, rtol=1e-11):
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
@pytest.mark.parametrize("name", MODULES)
def test_jacobian_is_that_of_torch(name, mode):
    f, x = module(name)
    close(mt.jacobian(f, mode=mode)(x).detach(), per_sample(f, x).detach())


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ONCE])
def test_gradients_go_through_the_jacobian(name):
    f, x = module(name)
    x.requires_grad_()
    inputs = [x, *f.parameters()]
    wanted = torch.autograd.grad(per_sample(f, x).pow(3).sum(), inputs, allow_unused=True, materialize_grads=True)
    found = torch.autograd.grad(mt.jacobian(f)(x).pow(3).sum(), inputs, allow_unused=True, materialize_grads=True)
    for a, b in zip(found, wanted, strict=True):
        close(a, b, 1e-9)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in (*ONCE, "inside")])
def test_compiled_jacobians_and_the_gradients_of_losses_on_them(name):
    f, x = module(name)
    compiled, loss = mt.compile(mt.jacobian(f)), mt.compile(lambda x: mt.jacobian(f)(x).pow(3).sum())
    for scale in (1.0, 1.1):  # recorded, then replayed
        inputs = [(x * scale).requires_grad_(), *f.parameters()]
        wanted = per_sample(f, inputs[0])
        close(compiled(inputs[0]).detach(), wanted.detach())
        theirs, mine = wanted.pow(3).sum(), loss(inputs[0])
        for a, b in zip(*(torch.autograd.grad(y, inputs, allow_unused=True, materialize_grads=True)
                          for y in (mine, theirs)), strict=True):  # fmt: skip
            close(a, b, 1e-9)


def test_entries_chosen_by_a_mask_of_values_are_refused_under_compile():
    f, x = module("inside")
    with pytest.raises(mj.TraceError, match="torch_modules"):
        mt.compile(mt.jacobian(f))(x)


@pytest.mark.parametrize("name", ["convolutions", "residual", "decoder"])
def test_modules_in_train_mode_are_those_of_torch(name):
    """Statistics of the batch, of which the diagonal is asked; masks of dropout, drawn by the same seed."""
    f, x = module(name)
    f.train()
    state = {key: value.clone() for key, value in f.state_dict().items()}
    torch.manual_seed(3)
    with twice_differentiable():
        whole = torch.autograd.functional.jacobian(f, x)
    f.load_state_dict(state)
    torch.manual_seed(3)
    with pytest.raises(mj.BatchMixingError) if name != "decoder" else nullcontext():
        mt.jacobian(f)(x)
    torch.manual_seed(3)
    J = mt.jacobian(f, on_mixing="diagonal")(x)
    own = whole.movedim(whole.ndim - x.ndim, 1)  # the samples of the input beside those of the output
    close(J.detach(), torch.stack([own[i, i] for i in range(len(x))]))


@pytest.mark.parametrize("name", SMOOTH)
def test_second_order_is_that_of_torch(name):
    f, x = module(name)

    def scalar(x):
        return f(x).flatten(1).pow(2).sum(1)

    with twice_differentiable():
        wanted = torch.stack([torch.autograd.functional.hessian(lambda s: scalar(s[None])[0], s) for s in x])
    with torch.no_grad():
        close(mt.hessian(scalar)(x), wanted, 1e-9)
        flat = wanted.reshape(len(x), x[0].numel(), x[0].numel())
        diagonal = torch.diagonal(flat, dim1=1, dim2=2)
        close(mt.hessian_diagonal(scalar)(x).flatten(1), diagonal, 1e-9)
        close(mt.laplacian(scalar)(x), diagonal.sum(1), 1e-9)


def test_gradients_of_gradients_go_through_the_jacobian():
    f, x = module("tanh")
    x.requires_grad_()
    inputs = [x, *f.parameters()]

    def twice(J):
        first = torch.autograd.grad(J.pow(3).sum(), inputs, create_graph=True, allow_unused=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first if g is not None), inputs, allow_unused=True,
                                   materialize_grads=True)  # fmt: skip

    for a, b in zip(twice(mt.jacobian(f)(x)), twice(per_sample(f, x)), strict=True):
        close(a, b)


def test_backward_fills_the_gradients_of_parameters_and_input():
    f, x = module("tanh")
    x.requires_grad_()
    mt.jacobian(f)(x).pow(2).mean().backward()
    mine = [t.grad.clone() for t in (x, f[0].weight, f[0].bias, f[2].weight)]
    for t in (x, *f.parameters()):
        t.grad = None
    per_sample(f, x).pow(2).mean().backward()
    for a, b in zip(mine, (x.grad, f[0].weight.grad, f[0].bias.grad, f[2].weight.grad), strict=True):
        close(a, b)


def test_a_parameter_written_before_backward_is_an_error():
    f, x = module("tanh")
    J = mt.jacobian(f)(x)
    with torch.no_grad():
        f[0].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        J.sum().backward()


def test_closures_and_captured_tensors_are_differentiated():
    f, x = module("tanh")
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    mt.jacobian(lambda x: f(x) * scale)(x).sum().backward()
    close(scale.grad, per_sample(f, x).sum().detach())


def test_no_grad_gives_plain_results():
    f, x = module("tanh")
    with torch.no_grad():
        assert not mt.jacobian(f)(x).requires_grad


def test_products_and_values():
    f, x = module("tanh")
    J = per_sample(f, x).detach()
    v, w = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    y, along = mt.jvp(f, (x,), (v,))
    close(y.detach(), f(x).detach())
    close(along.detach(), torch.einsum("boi,bi->bo", J, v))
    y, pullback = mt.vjp(f, x)
    close(pullback(w)[0].detach(), torch.einsum("boi,bo->bi", J, w))
    y, dense = mt.value_and_jacobian(f)(x)
    close(y.detach(), f(x).detach())
    close(dense.detach(), J)
    y, structured = mt.linearize(f, x)
    close(structured @ v, torch.einsum("boi,bi->bo", J, v))
    close(structured.T @ w, torch.einsum("boi,bo->bi", J, w))
    close(structured.todense(), J)


def test_structured_jacobians_are_operators_on_tensors():
    f, x = module("tanh")
    J = mt.jacobian(f, structured=True)(x)
    close(J.todense(), per_sample(f, x).detach())
    close(J @ torch.ones(2, 4, dtype=torch.float64), per_sample(f, x).detach().sum(2))
    assert "Jacobian of shape (2, 2, 4)" in repr(J)


def test_trees_numbers_and_aux_pass():
    f, x = module("tanh")

    def g(inputs, scale, flag=False):
        y = f(inputs["x"]) * scale
        return {"y": y, "first": y[:, 0]}, (y.sum().detach(), "said")

    J, (total, word) = mt.jacobian(g, has_aux=True, batch_axis=(0, None))({"x": x}, 2.0, flag=True)
    close(J["y"]["x"].detach(), 2 * per_sample(f, x).detach())
    close(J["first"]["x"].detach(), 2 * per_sample(f, x)[:, 0].detach())
    assert word == "said" and total.shape == ()


def test_a_lowered_module_goes_through_any_transformation_of_minijac():
    f, x = module("tanh")
    g = mj.torch.lowered(f)
    expected = per_sample(f, x).detach().numpy()
    np.testing.assert_allclose(mj.jacobian(g)(x.numpy()), expected, rtol=1e-11)
    np.testing.assert_allclose(mj.compile(mj.jacobian(g))(x.numpy()), expected, rtol=1e-11)
    np.testing.assert_allclose(mj.jacobian(mj.vmap(g) if hasattr(mj, "vmap") else g)(x.numpy()), expected, rtol=1e-11)


def test_transformations_nest():
    f, x = module("tanh")
    close(mt.jacobian(mt.jacobian(f))(x).detach(), mt.hessian(f)(x).detach())
    inner = mt.jacobian(lambda x: mt.jacobian(f)(x).pow(2).sum((1, 2)))(x)
    close(inner.detach(), torch.stack([torch.autograd.functional.jacobian(
        lambda s: per_sample(f, s[None]).pow(2).sum(), s) for s in x]))  # fmt: skip


def test_explain_and_trace_look_at_a_module():
    f, x = module("tanh")
    assert "chosen" in str(mt.explain(f, x))
    assert "tanh" in str(mt.trace(f, x))


def test_explain_counts_what_torch_takes_apart():
    x = torch.randn(3, 4, dtype=torch.float64)
    told = str(mt.explain(lambda x: torch.nn.functional.huber_loss(x, 2 * x, reduction="none") + x.sin(), x))
    assert "decomposed by torch: aten.huber_loss.default, 1 times" in told and "sin.default" not in told


def test_importing_minijac_imports_no_torch():
    code = "import sys, minijac; assert 'torch' not in sys.modules; minijac.torch; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("steps", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_nothing_of_a_run_is_kept(steps):
    import gc

    f, x = module("tanh")
    x.requires_grad_()

    def step():
        mt.jacobian(f)(x).pow(2).sum().backward()

    for _ in range(3):
        step()
    gc.collect()
    before = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
    for _ in range(steps):
        step()
    gc.collect()
    assert sum(isinstance(o, torch.Tensor) for o in gc.get_objects()) <= before
