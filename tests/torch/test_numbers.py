"""Where a function takes numbers of what is followed: torch cuts the derivative there, or refuses; so it is here."""

import pytest

torch = pytest.importorskip("torch")

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402

DOUBLE = torch.float64
x = torch.linspace(-1.3, 1.9, 12, dtype=DOUBLE).reshape(3, 4)


def reverse_mode(f):
    """By a loop over the entries of the result, through graphs that are kept."""
    at = x.clone().requires_grad_()
    y = f(at)
    rows = [torch.autograd.grad(each, at, retain_graph=True)[0] for each in y.flatten()]
    return y.detach(), torch.stack(rows).reshape(*y.shape, *x.shape)


def by_autograd(x):
    """The slope of a cube, as torch's autograd has it within the function."""
    x = x if x.requires_grad else x.clone().requires_grad_()
    return torch.autograd.grad((x**3).sum(), x, create_graph=True)[0]


WEIGHT = torch.nn.Parameter(torch.eye(4, dtype=DOUBLE))
COPIES = {
    "tensor": lambda y: torch.tensor(y), "to": lambda y: torch.as_tensor(y, dtype=torch.float32),
    "new_tensor": lambda y: y.new_tensor(y), "a part": lambda y: torch.tensor(y.sin()[:, 1:2]),
    "followed again": lambda y: torch.tensor(y).mul_(y), "of a parameter": lambda y: torch.tensor(y @ WEIGHT),
    "linspace": lambda y: torch.linspace(y[0, 0], y[1, 2], 4, dtype=DOUBLE),
    "one end": lambda y: torch.linspace(start=1.0, end=y[0, 1], steps=4, dtype=DOUBLE),
    "logspace": lambda y: torch.logspace(y[0, 0] / 9, y[1, 2] / 9, 4, dtype=DOUBLE),
    "parameter": torch.nn.Parameter, "as_tensor": torch.as_tensor, "asarray": torch.asarray,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("of", [lambda x: x.exp(), by_autograd], ids=["arithmetic", "with autograd"])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_numbers_has_the_derivative_that_it_has_in_torch(name, of):
    f = lambda x: COPIES[name](of(x)) * x
    wanted = reverse_mode(f)
    for transform in (lambda f: f, mt.compile):
        found = transform(mt.value_and_jacobian(f, batch_axis=None))(x)
        torch.testing.assert_close(found, wanted)


def test_a_copy_of_another_dtype_is_refused():
    f = lambda x: x * torch.tensor(x, dtype=torch.float32)
    with pytest.raises(mj.UnsupportedOperationError, match=r"torch\.tensor\(x\) at .*test_numbers.*x\.detach\(\)\.to"):
        mt.jacobian(f)(x)


LISTS = {
    "tensor": lambda x: torch.tensor([x[0, 0], 2.0]), "as_tensor": lambda x: torch.as_tensor([x[0, 0]]),
    "nested": lambda x: torch.tensor([[x[0, 0]], [x[1, 1]]]), "new_tensor": lambda x: x.new_tensor([x[0, 0]]),
    "constructor": lambda x: torch.DoubleTensor([x[0, 0]]),
}  # fmt: skip
NUMBERS = {
    "full": lambda x: torch.full((2,), x[0, 0]), "new_full": lambda x: x.new_full((2,), x[0, 0]),
    "full_like": lambda x: torch.full_like(x, x[0, 0]), "arange": lambda x: torch.arange(0.0, x[0, 0] + 9.0),
    "alpha": lambda x: torch.add(x, x, alpha=x[0, 0]), "value": lambda x: torch.addcmul(x, x, x, value=x[2, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_followed_numbers_is_refused_with_what_to_write(name):
    f = lambda x: x * LISTS[name](x).flatten()[0]
    for transformed in (mt.jacobian(f), mt.compile(mt.jacobian(f))):
        with pytest.raises(mj.ConversionError, match=r"test_numbers.*drop its derivative.*torch\.stack"):
            transformed(x)
    told = lambda x: x * torch.tensor([x[0, 0].item(), 2.0], dtype=DOUBLE)[0]
    torch.testing.assert_close(mt.value_and_jacobian(told, batch_axis=None)(x), reverse_mode(told))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_followed_number_is_no_plain_one(name):
    f = lambda x: x * NUMBERS[name](x).flatten()[0]
    with pytest.raises(TypeError):
        f(x.clone().requires_grad_())
    for transformed in (mt.jacobian(f), mt.compile(mt.jacobian(f))):
        with pytest.raises(TypeError, match=r"test_numbers|must be"):
            transformed(x)


def test_numbers_that_are_asked_for_are_numbers():
    for number in (float, lambda y: y.item(), lambda y: float(y) if y > 0 else complex(y).real, lambda y: int(y)):
        f = lambda x, number=number: x * number(x[2, 3])
        torch.testing.assert_close(mt.value_and_jacobian(f, batch_axis=None)(x), reverse_mode(f))
