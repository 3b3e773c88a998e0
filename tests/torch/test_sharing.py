"""Tensors that share memory: what torch writes through one of them is seen through the others, or refused here."""

import pytest

torch = pytest.importorskip("torch")

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402

DOUBLE = torch.float64


def drawn(*shape):
    return torch.linspace(-1.3, 1.9, torch.Size(shape).numel(), dtype=DOUBLE).reshape(shape)


SHARED = {
    "the same": lambda s: (s, s), "all of it": lambda s: (s, s[:]), "a part": lambda s: (s, s[:, 1:2]),
    "turned": lambda s: (s, s.view(3, 2, 2).transpose(1, 2).transpose(1, 2)),
}  # fmt: skip


def writes_first(a, b):
    a.mul_(2.0)
    return (a * b.flatten(1)[:, :1]).sum(1)


def writes_second(a, b):
    y = a.sin()
    b.add_(1.0)
    return (y * a.flatten(1)).sum(1)


def writes_by_the_other(a, b):
    b.copy_(b * a.flatten(1)[:, :1].reshape(3, *(1,) * (b.ndim - 1)))
    return a.sum(1)


def writes_last(a, b):
    y = (a * b.flatten(1)[:, :1]).sum(1)
    a.exp_()
    return y


WRITE = (writes_first, writes_second, writes_by_the_other)
transforms = pytest.mark.parametrize("transform", [
    mt.jacobian, lambda f: mt.jacobian(f, argnums=(0, 1)), mt.hessian, lambda f: mt.compile(mt.jacobian(f)),
    lambda f: mt.compile(mt.hessian(f)), lambda f: lambda *args: mt.vjp(f, *args),
    lambda f: lambda *args: mt.jvp(f, args, args),
], ids=["jacobian", "by both", "hessian", "compiled jacobian", "compiled hessian", "vjp", "jvp"])  # fmt: skip


@transforms
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("f", WRITE)
def test_a_write_that_another_argument_would_see_is_refused(f, name, transform):
    with pytest.raises(mj.MutationError, match=r"test_sharing.*pass x\.clone\(\)"):
        transform(f)(*SHARED[name](drawn(3, 4)))


@transforms
def test_arguments_that_share_memory_and_are_read_alone_or_apart_are_as_any(transform):
    s = drawn(3, 4)
    for f, args in (
        (lambda a, b: (a * b).sum(1), (s, s)),
        (lambda a, b: (a.clone().mul_(2.0) * b).sum(1), (s, s)),
        (writes_first, (s[:, 1:], s[:, :1])),
        (writes_first, (s.clone(), s)),
    ):
        wanted = transform(f)(*[x.clone() for x in args])
        found = transform(f)(*args)
        pairs = [(x, y) for x, y in zip(leaves(found), leaves(wanted), strict=True) if isinstance(x, torch.Tensor)]
        assert pairs
        for x, y in pairs:
            torch.testing.assert_close(x, y)


def test_a_write_after_which_no_other_is_read_is_as_any():
    s = drawn(3, 4)
    torch.testing.assert_close(mt.jacobian(writes_last)(s, s), mt.jacobian(writes_last)(s.clone(), s.clone()))


def leaves(tree):
    return [x for part in tree for x in leaves(part)] if isinstance(tree, tuple) else [tree]


def test_programs_recorded_of_tensors_apart_refuse_those_that_share():
    compiled, s = mt.compile(mt.jacobian(writes_first)), drawn(3, 4)
    for _ in range(3):
        compiled(s.clone(), s.clone())
    with pytest.raises(mj.MutationError, match=r"pass x\.clone\(\)"):
        compiled(s, s)
    s = drawn(3, 4)
    captured = mt.compile(mt.jacobian(lambda a: a.mul_(2.0) * s))
    captured(s.clone())
    with pytest.raises(mj.MutationError, match=r"pass x\.clone\(\)"):
        captured(s)


@transforms
def test_a_captured_tensor_that_an_argument_shares_its_memory_with_is_read_before_the_write_alone(transform):
    s = drawn(3, 4)
    for after in (lambda a, b: a * s, lambda a, b: a * s.sum(1, keepdim=True), lambda a, b: a * s[0].exp()):
        with pytest.raises(mj.MutationError, match=r"pass x\.clone\(\)"):
            transform(lambda a, b, after=after: after(a.mul_(2.0), b))(s, drawn(3, 4))
    s, other = drawn(3, 4), drawn(3, 4)
    with pytest.raises((mj.MutationError, mj.TraceError), match=r"pass x\.clone\(\)|lives longer"):
        transform(lambda a, b: s.mul_(2.0) * a)(s, other)


class Counts(torch.nn.Module):
    """A module with buffers that it writes in its forward pass."""

    def __init__(self, write):
        super().__init__()
        self.register_buffer("means", torch.zeros(2, 4, dtype=DOUBLE))
        self.register_buffer("calls", torch.zeros(3, dtype=torch.int64))
        self.write = write

    def forward(self, x):
        self.write(self, x)
        return x * self.means[0]


WRITES = {
    "a part": lambda m, x: m.means[0].add_(1.0), "a count": lambda m, x: m.calls[0].add_(1),
    "an entry": lambda m, x: m.means.__setitem__((0, 1), 2.0), "reshaped": lambda m, x: m.means.view(-1)[:4].mul_(2.0),
    "transposed": lambda m, x: m.means.t().add_(1.0), "out": lambda m, x: torch.add(m.means, 1.0, out=m.means),
    "out of a part": lambda m, x: torch.add(m.means[0], 1.0, out=m.means[0]),
    "several": lambda m, x: torch._foreach_add_([m.means, m.calls], 1), "data": lambda m, x: m.means.data[0].add_(1.0),
    "several outs": lambda m, x: torch.sort(x.detach()[:2], out=(m.means, torch.zeros(2, 4, dtype=torch.int64))),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_buffers_that_are_written_by_way_of_a_view_are_written_once_or_refused(name):
    x, own, other = drawn(3, 4), Counts(WRITES[name]), Counts(WRITES[name])
    for _ in range(2):
        if name != "several outs":
            torch.testing.assert_close(mt.jacobian(own, on_mixing="diagonal")(x).sum(-1), other(x) / x)
            torch.testing.assert_close(own.state_dict(), other.state_dict())
    for transformed in (mt.compile(own), mt.compile(mt.jacobian(own))):
        with pytest.raises(mj.TraceError, match=r"test_sharing.*a buffer, such as running statistics.*uncompiled"):
            transformed(x)


def test_a_compiled_function_may_write_what_it_makes():
    x = drawn(3, 4)
    for made in (
        lambda x: torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=DOUBLE).mul_(2.0), lambda x: x.new_zeros(2, 4)[1].add_(3.0),
        lambda x: torch.ones(4, dtype=DOUBLE).clone()[None].t().mul_(2.0).t(),
        lambda x: torch.nn.BatchNorm1d(4, dtype=DOUBLE).running_var,
    ):  # fmt: skip
        f = lambda x, made=made: x * made(x)
        torch.testing.assert_close(mt.compile(mt.value_and_jacobian(f))(x), mt.value_and_jacobian(f)(x))


def test_a_buffer_that_is_bound_anew_in_each_call_is_refused_one_that_is_made_once_is_not():
    x, compiled = drawn(3, 4), []
    for rebind in (
        lambda m, x: setattr(m, "means", m.means * 0.9 + 0.1),
        lambda m, x: setattr(m, "means", m.means * 0.9 + x.detach()[:2]),
        lambda m, x: setattr(m, "calls", m.calls + 1),
    ):
        for transform in (mt.compile, lambda m: mt.compile(mt.jacobian(m))):
            with pytest.raises(mj.TraceError, match=r"Counts\.(means|calls): .*each call|that has returned"):
                transform(Counts(rebind))(x)
    once = Counts(lambda m, x: setattr(m, "means", m.means if len(compiled) else compiled.append(0) or m.means + 2.0))
    torch.testing.assert_close(mt.compile(once)(x), 2.0 * x)


@pytest.mark.parametrize(
    ("f", "name"),
    [
        (lambda a, b: a + b[0].mul_(2.0), "argument 1"),
        (lambda a, b: a.t().exp_() + b.sum(), "argument 0"),
        (lambda a, b: torch.add(a, 1.0, out=b["of"]), "argument b"),
    ],
)
def test_a_compiled_function_that_writes_its_argument_is_told_which(f, name):
    s, other = drawn(3, 4), drawn(3, 4)
    args, kwargs = ((s,), {"b": {"of": other}}) if name == "argument b" else ((s, other), {})
    with pytest.raises(mj.TraceError, match=rf"test_sharing.*{name}.*Write to a \.clone\(\)"):
        mt.compile(f)(*args, **kwargs)


def test_a_write_in_a_nested_call_is_that_calls_own():
    f = lambda x: mt.jacobian(lambda y: y.mul_(2.0).sin())(x).sum(-1) + x
    s = drawn(3, 4)
    torch.testing.assert_close(mt.lowered(f)(s.numpy()), ((2 * s).cos() * 2 + s).numpy())
    with pytest.raises(mj.MutationError, match="share that memory"):
        mt.jacobian(lambda x: mt.jacobian(writes_first)(x * 1.0, x) + mt.jacobian(writes_first)(x, x))(s)


def test_a_pullback_of_a_function_that_writes_its_argument_is_at_what_it_was_given():
    s = drawn(3, 4)
    y, pullback = mt.vjp(lambda x: x.mul_(2.0).sin(), s)
    torch.testing.assert_close(s, drawn(3, 4))
    torch.testing.assert_close(y, (2 * s).sin())
    torch.testing.assert_close(pullback(torch.ones_like(s))[0], 2 * (2 * s).cos())
