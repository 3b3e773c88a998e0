"""Tensors that have no numbers to follow, and classes of tensors of their own: each is refused with what to pass."""

import pytest

torch = pytest.importorskip("torch")

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402

X = torch.ones(4, 3, dtype=torch.float64)
double = lambda x: x * 2


class Labelled(torch.Tensor):
    """As pina's LabelTensor: a tensor with names for its columns."""

    @staticmethod
    def __new__(cls, x, labels):
        return super().__new__(cls, x)

    def __init__(self, x, labels):
        super().__init__()
        self.labels = labels


REFUSED = {
    "sparse": (lambda: X.to_sparse(), r"of shape \(4, 3\): expected a dense one .*got torch.sparse_coo"),
    "on meta": (lambda: X.to("meta"), r"got one on meta.*x\.cpu\(\)"),
    "nested": (lambda: torch.nested.nested_tensor([X, X], layout=torch.jagged), r"nested one.*to_padded_tensor"),
    "nested, strided": (lambda: torch.nested.nested_tensor([X[0], X[1]]), r"nested one.*to_padded_tensor"),
    "masked": (lambda: torch.masked.masked_tensor(X, X > 0), r"got torch.MaskedTensor.*x\.get_data\(\)"),
    "half": (lambda: X.half(), "expected a dense one .*got torch.float16"),
    "integers": (lambda: X.long(), r"expected dtype float32 or float64, got int64. Cast it with \.double\(\)"),
    "complex": (lambda: X.cdouble(), "expected real numbers, got dtype complex128. Pass real and imaginary parts"),
    "a list": (lambda: X.tolist(), "got list. A list is a tree"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_without_numbers_to_follow_is_named_with_what_to_pass(name):
    make, message = REFUSED[name]
    with pytest.raises(mj.InputError, match=rf"(?s){message}.*test_refused_tensors"):
        mt.jacobian(double)(make())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["sparse", "on meta", "masked"])
def test_a_constant_without_numbers_is_refused_too(name):
    make, message = REFUSED[name]
    with pytest.raises(mj.InputError, match=f"(?s){message}"):
        mt.jacobian(lambda x: x * make())(X)


@pytest.mark.parametrize("of", [
    lambda x: x, lambda x: x.requires_grad_(), lambda x: x.detach(), lambda x: x[:3], lambda x: x.clone(),
])  # fmt: skip
@pytest.mark.parametrize("transform", [mt.jacobian, mt.hessian, lambda f: mt.compile(mt.jacobian(f))])
def test_a_tensor_of_a_class_of_its_own_is_taken_as_a_plain_one(of, transform):
    x = of(Labelled(X.clone(), "abc"))
    f = lambda x: (x**3).sum(1)
    torch.testing.assert_close(transform(f)(x), transform(f)(x.detach().as_subclass(torch.Tensor)))


@pytest.mark.parametrize("f", [lambda x: Labelled(x, "abc"), lambda x: Labelled(x * 2, "abc") * 2])
def test_a_tensor_of_a_class_of_its_own_made_inside_is_refused(f):
    with pytest.raises(mj.UnsupportedOperationError, match=r"at .*test_refused_tensors.*Make it outside, or write"):
        mt.jacobian(f)(X)


def test_what_a_class_adds_is_not_there_inside():
    with pytest.raises(AttributeError, match=r"no attribute 'labels': inside the function tensors are plain"):
        mt.jacobian(lambda x: x * len(x.labels))(Labelled(X, "abc"))
    assert not hasattr(X, "labels")


def test_lists_of_integers_are_plain_and_of_others_would_drop_a_derivative():
    assert mt.jacobian(lambda x: x * sum(x.argmax(1).tolist()))(X).sum() == 0
    with pytest.raises(mj.ConversionError, match=r"x\.tolist\(\) at .*test_refused_tensors"):
        mt.jacobian(lambda x: x * x.tolist()[0][0])(X)


def test_wrong_calls_are_told_in_words_of_torch():
    with pytest.raises(
        mj.InputError, match=r"got torch.Tensor.*minijac.torch.jacobian\(f\)\(x\), not minijac.torch.jac"
    ):
        mt.jacobian(double(X))
    with pytest.raises(mj.InputError, match=r"minijac.torch.compile\(f\)\(x\), not"):
        mt.compile(double(X))
    with pytest.raises(mj.InputError, match=r"jvp: expected primals as a tuple.*got torch.Tensor. Write \(x,\)"):
        mt.jvp(double, X, X)
    with pytest.raises(mj.InputError, match="unexpected keyword argument 'mod'"):
        mt.jacobian(double, mod="auto")


def test_autocast_inside_of_a_function_is_refused():
    net, x = torch.nn.Linear(3, 2), torch.ones(4, 3)

    by_name = lambda x: torch.einsum("bi,oi->bo", x, net.weight)
    for product in (net, by_name, lambda x: x @ net.weight.T, lambda x: torch.mm(x, net.weight.T)):

        def f(x, product=product):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return product(x)

        for transformed in (mt.jacobian(f), mt.compile(f)):
            with pytest.raises(mj.InputError, match=r"bfloat16.*autocast"):
                transformed(x)


def test_operands_that_do_not_fit_name_the_module_and_the_line():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sequential(torch.nn.Linear(5, 2)))
    with pytest.raises(ValueError, match=r"mismatch.*In Sequential\.1\.0 \(Linear\), at .*test_refused_tensors"):
        mt.jacobian(net)(torch.ones(4, 3))


def test_what_compile_refuses_is_said_in_words_of_torch():
    x = torch.ones(4, 3)
    for f in (lambda x: x * 2 if x.sum().item() > 0 else x, lambda x: x[x > 0].sum()):
        for transformed in (f, mt.jacobian(f, batch_axis=None)):
            with pytest.raises(
                mj.TraceError, match=r"test_refused_tensors.*minijac\.torch\.compile.*torch\.where"
            ) as told:
                mt.compile(transformed)(x)
            assert "np." not in str(told.value)


def test_weights_that_were_written_between_a_compiled_forward_and_backward_are_an_error():
    net, x = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh()), torch.ones(2, 3)
    for transformed in (mt.jacobian(net), lambda x: mt.jacobian(net)(x).pow(2).mean()):
        compiled = mt.compile(transformed)
        for _ in range(3):
            y = compiled(x).sum()
        with torch.no_grad():
            net[0].weight.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


def test_what_is_around_a_function_that_was_compiled_before_is_refused_as_around_another():
    net, x = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh()), torch.ones(2, 3)
    compiled = mt.compile(mt.jacobian(net))
    for _ in range(3):
        compiled(x)
    with torch.autocast("cpu"), pytest.raises(mj.InputError, match="autocast"):
        compiled(x)
    for f in (
        torch.func.vmap(compiled),
        torch.func.jacrev(compiled),
        lambda x: torch.func.jvp(compiled, (x[0],), (x[0],)),
    ):
        with pytest.raises(mj.InputError, match=r"torch\.func"):
            f(x[None])
    assert compiled(x).shape == (2, 4, 3)
