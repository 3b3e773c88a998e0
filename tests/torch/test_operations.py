"""Operations of torch's on samples: Jacobians and Hessians, eager and compiled, are torch's for each sample."""

import pytest

from tests.support.torch_modules import per_sample

torch = pytest.importorskip("torch")
F = torch.nn.functional

import minijac.torch as mt  # noqa: E402

torch.manual_seed(2)
PLACES = 1.4 * torch.rand(1, 2, 3, 2, 3, dtype=torch.float64) - 0.7
LENGTHS = torch.tensor([2, 0, 3])


def sampled(x, mode, padding, align=False):
    picture = x.reshape(len(x), 1, 2, 3, 2)
    places = (
        PLACES.expand(len(x), *PLACES.shape[1:]) + 0.1 * picture.sin().mean((1, 2, 3, 4))[:, None, None, None, None]
    )
    return F.grid_sample(picture, 1.3 * places, mode, padding, align_corners=align).flatten(1)


def segments(x, reduce, **options):
    lengths = LENGTHS.expand(len(x), 3)
    return torch.segment_reduce(x[:, :5] ** 2, reduce, lengths=lengths, axis=1, unsafe=True, **options)


def eigenvectors(x):
    w, v = torch.linalg.eig(x[:, :9].reshape(-1, 3, 3))
    order = (w.real + 0.1 * w.imag).detach().argsort(-1)
    return torch.cat([v.abs().flatten(1), w.gather(-1, order).abs(), (w.real**2).sum(1, keepdim=True)], 1)


FUNCTIONS = {
    "pictures by trilinear": lambda x: sampled(x, "bilinear", "zeros"),
    "pictures with a border": lambda x: sampled(x, "bilinear", "border", True),
    "pictures reflected": lambda x: sampled(x, "bilinear", "reflection"),
    "pictures reflected at corners": lambda x: sampled(x, "bilinear", "reflection", True),
    "pictures by the nearest": lambda x: sampled(x, "nearest", "zeros"),
    "sums of segments": lambda x: segments(x, "sum", initial=1.0),
    "means of segments": lambda x: segments(x, "mean", initial=2.0),
    "largest of segments": lambda x: segments(x, "max", initial=0.0),
    "least of segments": lambda x: segments(x, "min", initial=9.0),
    "products of segments": lambda x: segments(x, "prod"),
    "eigenvalues": lambda x: torch.linalg.eigvals(x[:, :9].reshape(-1, 3, 3)).pow(2).sum(1, keepdim=True).real,
    "eigenvectors": eigenvectors,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobians_are_those_of_torch_for_each_sample(name):
    f, x = FUNCTIONS[name], torch.randn(3, 12, dtype=torch.float64)
    wanted = per_sample(f, x).detach()
    assert wanted.abs().sum() > 0
    for transformed in (mt.jacobian(f, mode="forward"), mt.jacobian(f, mode="reverse"), mt.compile(mt.jacobian(f))):
        torch.testing.assert_close(transformed(x), wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["pictures by trilinear", "eigenvectors"])
def test_hessians_are_those_of_torch_for_each_sample(name):
    f, x = FUNCTIONS[name], torch.randn(2, 12, dtype=torch.float64)
    g = lambda x: (f(x) ** 2).sum(1)
    wanted = torch.stack([torch.autograd.functional.hessian(lambda s: g(s[None])[0], s) for s in x])
    torch.testing.assert_close(mt.hessian(g)(x), wanted, rtol=1e-8, atol=1e-9)


def test_the_determinant_of_a_singular_matrix_is_zero_and_its_derivative_the_cofactors():
    a = torch.tensor([[[1.0, 2.0], [2.0, 4.0]], [[0.0, 1.0], [0.0, 3.0]], [[2.0, 1.0], [1.0, 3.0]]]).double()
    cofactors = torch.stack([torch.stack([a[:, 1, 1], -a[:, 1, 0]], 1), torch.stack([-a[:, 0, 1], a[:, 0, 0]], 1)], 1)
    for f in (torch.det, torch.linalg.det):
        y, J = mt.value_and_jacobian(f)(a)
        torch.testing.assert_close(y, f(a))
        torch.testing.assert_close(J, cofactors)
    for f in (torch.logdet, lambda a: torch.linalg.slogdet(a)[1]):
        torch.testing.assert_close(mt.value_and_jacobian(f)(a)[0], f(a))
