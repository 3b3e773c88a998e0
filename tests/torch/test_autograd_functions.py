"""torch.autograd.Functions in unusual styles: the derivative is torch's, or an error that names the Function."""

import gc

import pytest
import torch
from torch.autograd import Function

import minijac as mj
import minijac.torch as mt

DOUBLE = torch.float64
x = torch.linspace(-1.9, 2.1, 12, dtype=DOUBLE).reshape(3, 4)


class Marked(Function):
    """A mask, which torch takes for a constant whatever backward says of it."""

    @staticmethod
    def forward(ctx, x):
        mask = (x > 0).to(x.dtype)
        ctx.save_for_backward(x)
        ctx.mark_non_differentiable(mask)
        return x**2, mask

    @staticmethod
    def backward(ctx, g, h):
        (x,) = ctx.saved_tensors
        return 2 * g * x + 100 * h


class Noisy(Function):
    """Draws in forward, and in backward uses what was drawn."""

    @staticmethod
    def forward(ctx, x):
        noise = torch.rand_like(x)
        ctx.save_for_backward(noise)
        return x**2 * noise

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


class Each(Function):
    """Outputs of which each depends on one operand alone."""

    @staticmethod
    def forward(ctx, n, *xs):
        ctx.n = n
        return tuple(x * n for x in xs)

    @staticmethod
    def backward(ctx, *gs):
        return None, *[g * ctx.n for g in gs]


def marked(x):
    y, mask = Marked.apply(x)
    return y + mask * x


def each(x):
    y, z = Each.apply(2.0, x, x.sin())
    return torch.cat([y, y * z], 1)


def reverse_mode(f):
    torch.manual_seed(3)
    J = torch.autograd.functional.jacobian(f, x)
    return torch.stack([J[i, :, i] for i in range(len(x))])


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("f", [marked, each, Noisy.apply])
def test_the_derivative_is_torchs(f, mode):
    torch.manual_seed(3)
    y, J = mt.value_and_jacobian(f, mode=mode)(x)
    drawn = torch.rand(1)
    torch.testing.assert_close(J, reverse_mode(f), rtol=1e-12, atol=1e-12)
    torch.manual_seed(3)
    torch.testing.assert_close(y, f(x), rtol=0, atol=0)
    assert torch.rand(1) == drawn  # as many numbers were drawn as torch draws


@pytest.mark.parametrize(
    "backward",
    [
        lambda g: g.clamp(-0.5, 0.5),
        lambda g: g.clamp(-100.0, 100.0),
        lambda g: g / (g.norm(dim=1, keepdim=True) + 1e-3),
        lambda g: g.relu(),
        lambda g: g + 0.1,
        lambda g: g.sign(),
    ],
    ids=["clip", "wide clip", "normalise", "guided", "offset", "sign"],
)
@pytest.mark.parametrize("transform", [mt.jacobian, mt.hessian, lambda f: mt.compile(mt.jacobian(f))])
def test_a_backward_that_is_not_linear_is_refused(backward, transform):
    Bent = type("Bent", (Function,), {"forward": lambda ctx, x: x**2, "backward": lambda ctx, g: backward(g)})
    Bent.forward, Bent.backward = staticmethod(Bent.forward), staticmethod(Bent.backward)
    with pytest.raises(mj.UnsupportedOperationError, match=r"Bent at .*test_autograd_functions.py:\d+.*linear"):
        transform(lambda x: Bent.apply(x.sin()))(x)


def test_random_draws_in_a_function_are_refused_under_compile():
    with pytest.raises(mj.TraceError, match="random draw"):
        mt.compile(mt.jacobian(Noisy.apply))(x)


class Power(Function):
    @staticmethod
    def forward(x, exponent=2.0):
        return x**exponent

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.exponent = inputs[1]

    @staticmethod
    def backward(ctx, g):
        return g * ctx.exponent * ctx.saved_tensors[0] ** (ctx.exponent - 1), None


power = Power.apply
"""Bound to a name before anything is followed, as torch's documentation has it."""


in_c = super(Function, Power).apply
"""What `apply` is from torch 2.14 on: no Python, and without defaults."""


@pytest.mark.parametrize("f", [
    power, lambda x: power(x), lambda x: Power.apply(x, 3.0), lambda x: Power.apply(x, exponent=3.0),
    lambda x: in_c(x, 3.0), lambda x: in_c(x.sin(), 3.0) * each(x)[:, :4]
])  # fmt: skip
def test_a_function_is_followed_however_it_is_called(f):
    wanted = reverse_mode(f)
    assert wanted.any()
    for transformed in (mt.jacobian(f), mt.compile(mt.jacobian(f)), mt.jacobian(f, mode="reverse")):
        torch.testing.assert_close(transformed(x), wanted)
    t = x.clone().requires_grad_()
    mt.jacobian(f)(t).sum().backward()
    s = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(s).sum(), s, create_graph=True)
    slope.sum().backward()
    torch.testing.assert_close(t.grad, s.grad)


def test_a_function_is_constant_where_torch_has_no_grad():
    for apply in (power, in_c, Power.apply):

        def f(x, apply=apply):
            with torch.no_grad():
                y = apply(x, 3.0)
            return x * y

        torch.testing.assert_close(mt.jacobian(f)(x), reverse_mode(f))


def test_a_forward_called_by_its_name_is_followed_as_any_function():
    f = lambda x: Power.forward(x, 3.0) + power(x)
    torch.testing.assert_close(mt.jacobian(f)(x), reverse_mode(f))


def test_a_function_that_is_made_and_changed_within_is_followed():
    def f(x):
        class Cube(Function):
            forward = Each.forward

            @staticmethod
            def backward(ctx, g):
                return 3 * g * ctx.saved_tensors[0] ** 2

        Cube.forward = staticmethod(lambda ctx, x: (ctx.save_for_backward(x), x**3)[1])
        return Cube.apply(x)

    torch.testing.assert_close(mt.jacobian(f)(x), reverse_mode(f))
    assert "forward" not in vars(type(Power))


def test_no_tensor_of_a_call_is_kept():
    net = torch.nn.Linear(4, 4).double()

    def step():
        mt.jacobian(lambda x: power(net(x)))(x).pow(2).sum().backward()
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    for _ in range(3):
        before = step()
    assert [step() for _ in range(5)][-1] == before


def test_checks_of_distributions_are_decisions_under_compile():
    # torch.compile turns these checks off, for the whole process
    f = mt.jacobian(lambda x: torch.distributions.Normal(x, x.exp(), validate_args=True).log_prob(x.sin()))
    assert f(x).shape == (3, 4, 4)
    with pytest.raises(mj.TraceError, match="decision"):
        mt.compile(f)(x)
