"""What torch code does beside arithmetic: writes, modes, draws, decisions, hooks, Functions of its own, and misuse."""

import threading

import pytest

from tests.support.torch_modules import module, per_sample

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402
from minijac.torch.aten.registry import aten  # noqa: E402

DOUBLE = torch.float64


def x_of(*shape):
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=DOUBLE)


def check(f, x, rtol=1e-11):
    """Eager and compiled, both modes, against torch sample by sample."""
    wanted = per_sample(f, x).detach()
    for transformed in (mt.jacobian(f, mode="forward"), mt.jacobian(f, mode="reverse"), mt.compile(mt.jacobian(f))):
        torch.testing.assert_close(transformed(x).detach(), wanted, rtol=rtol, atol=rtol)


# --- writes -----------------------------------------------------------------------------------------------------------


def in_place(x):
    y = x.clone()
    y.relu_()
    y = y + 0.0
    y += x.sin()
    y[:, 1:].mul_(x[:, :-1])
    y.view(len(x), 2, 2).transpose(1, 2)[:, 0] -= 1.0
    return y


def put_by_position(x):
    y = torch.zeros_like(x)
    y.index_put_((torch.arange(len(x))[:, None], torch.tensor([0, 3])), x[:, :2].exp())
    y.index_add_(1, torch.tensor([1, 1]), x[:, 2:])
    y.scatter_add_(1, torch.tensor([[2, 2, 0, 1]]).expand(len(x), 4), x**2)
    return y


def copied(x):
    y = torch.empty(len(x), 2, 4, dtype=x.dtype)
    y[:, 0].copy_(x)
    y[:, 1] = x.flip(1)
    y[:, 0].fill_(2.0).mul_(x)
    return y.flatten(1).cumsum(1)


def strided(x):
    y = (x * 1.0).clone(memory_format=torch.contiguous_format)  # a program knows no strides of its arguments
    y.as_strided((len(x), 2), (4, 2), 1).mul_(3.0)
    return y + y.as_strided((len(x), 4), (4, 1), 0).detach()


def views_read_anew(x):
    y = x.clone()
    row, column = y[:, 0], y[:, 2:]
    y.mul_(x)
    column.add_(row[:, None])
    return torch.cat([y, row[:, None], column], 1)


def unsafe_parts(x):
    a, b = torch.unsafe_split(x, 2, 1)
    a.add_(b)
    return torch.cat([a, b, x], 1)


@pytest.mark.parametrize("f", [in_place, put_by_position, copied, strided, views_read_anew])
def test_writes_are_exact(f):
    check(f, x_of(3, 4))


def test_parts_that_torch_calls_unsafe_are_copies():
    x = x_of(3, 4)
    wanted = torch.cat([torch.cat([torch.eye(2), torch.eye(2)], 1), torch.eye(4)[2:], torch.eye(4)]).double()
    for J in (mt.jacobian(unsafe_parts)(x), mt.compile(mt.jacobian(unsafe_parts))(x)):
        torch.testing.assert_close(J, wanted.expand(3, 8, 4))


def test_a_result_can_be_written_into_a_given_tensor():
    def f(x):
        y = torch.zeros_like(x)
        torch.mul(x, 2.0, out=y[:, :3])
        return y * x

    torch.testing.assert_close(mt.jacobian(f)(x_of(2, 3)), torch.diag_embed(4.0 * x_of(2, 3)))


def test_a_write_to_entries_that_share_memory_is_refused():
    with pytest.raises(mj.MutationError, match="share memory"):
        mt.jacobian(lambda x: x.sum(1, keepdim=True).expand(-1, 3).add_(1.0))(x_of(2, 4))


def test_a_write_under_no_grad_changes_numbers_and_not_the_derivative():
    def f(x):
        y = x * 2.0
        with torch.no_grad():
            y.mul_(5.0)
        return y**2

    x = x_of(2, 3)
    y, J = mt.value_and_jacobian(f)(x)
    torch.testing.assert_close(y, (x * 10) ** 2)
    torch.testing.assert_close(torch.diagonal(J, dim1=1, dim2=2), 2 * (10 * x) * 2.0)


def test_the_callers_tensor_is_not_written():
    x = x_of(2, 3)
    before = x.clone()
    J = mt.jacobian(lambda x: x.mul_(2.0) * x)(x)
    torch.testing.assert_close(x, before)
    torch.testing.assert_close(torch.diagonal(J, dim1=1, dim2=2), 8.0 * before)


# --- what has no derivative -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * x.detach(),
        lambda x: x * x.data,
        lambda x: x * x.detach().exp().clone(),
        lambda x: x + x.round() + x.sign() * x.abs(),
        lambda x: x * (x > 0).double() + x.argmax(1, keepdim=True),
    ],
)
def test_what_is_detached_is_constant(f):
    check(f, x_of(2, 3))


def test_no_grad_inside_is_seen():
    def f(x):
        with torch.no_grad():
            scale = x.norm(dim=1, keepdim=True)
        return x / scale

    check(f, x_of(2, 3))


# --- batch norm, dropout ----------------------------------------------------------------------------------------------


def test_batch_norm_in_train_mode_raises_and_changes_nothing():
    norm = nn.BatchNorm1d(3).double()
    state = {key: value.clone() for key, value in norm.state_dict().items()}
    with pytest.raises(mj.BatchMixingError, match="test_what_torch_code_does"):
        mt.jacobian(norm)(x_of(5, 3))
    for key, value in norm.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_batch_norm_on_the_diagonal_is_exact_and_moves_the_statistics_once():
    norm, reference = nn.BatchNorm1d(3).double(), nn.BatchNorm1d(3).double()
    x = x_of(5, 3)
    J = mt.jacobian(norm, on_mixing="diagonal")(x)
    whole = torch.autograd.functional.jacobian(reference.forward, x)
    torch.testing.assert_close(J.detach(), torch.stack([whole[i, :, i] for i in range(5)]))
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[key], value)


def test_batch_norm_in_train_mode_is_refused_under_compile():
    norm = nn.BatchNorm1d(3).double()
    with pytest.raises(mj.TraceError, match="eval mode"):
        mt.compile(mt.jacobian(norm, on_mixing="diagonal"))(x_of(5, 3))


def test_dropout_draws_what_torch_draws():
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.4), nn.Tanh()).double(), x_of(3, 4)
    torch.manual_seed(3)
    y, J = mt.value_and_jacobian(net)(x)
    torch.manual_seed(3)
    own = x.clone().requires_grad_()
    wanted = net(own)
    torch.testing.assert_close(y, wanted)
    rows = [torch.autograd.grad(wanted[:, k].sum(), own, retain_graph=True)[0] for k in range(6)]
    torch.testing.assert_close(J, torch.stack(rows, 1))


def test_dropout_is_refused_under_compile():
    net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.4)).double()
    with pytest.raises(mj.TraceError, match="random draw"):
        mt.compile(mt.jacobian(net))(x_of(3, 4))


# --- decisions --------------------------------------------------------------------------------------------------------


def decides(x):
    y = x
    while y.abs().max() > 0.1:
        y = y * 0.5
    return y.sin() if x.sum().item() > -1e9 else y


def test_decisions_are_those_of_torch():
    x = x_of(2, 3)
    halvings = 0
    while (x * 0.5**halvings).abs().max() > 0.1:
        halvings += 1
    wanted = torch.diag_embed((x * 0.5**halvings).cos() * 0.5**halvings)
    torch.testing.assert_close(mt.jacobian(decides)(x), wanted)


def test_decisions_are_refused_under_compile():
    with pytest.raises(mj.TraceError, match="test_what_torch_code_does"):
        mt.compile(mt.jacobian(decides))(x_of(2, 3))


# --- modules with more to them ----------------------------------------------------------------------------------------


def test_hooks_and_shared_weights_run():
    layer = nn.Linear(3, 3).double()
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 2.0,))
    layer.register_forward_hook(lambda module, args, y: y.tanh())
    check(nn.Sequential(layer, layer), x_of(2, 3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_modules_run():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    check(torch.jit.script(net), x_of(2, 3))


def test_a_module_under_torch_compile_is_run_as_it_is():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    compiled, x = torch.compile(net, backend="eager"), x_of(2, 3)
    torch.testing.assert_close(mt.jacobian(compiled)(x).detach(), per_sample(net, x).detach())
    torch.testing.assert_close(compiled(x), net(x))
    torch.testing.assert_close(mt.jacobian(compiled)(x).detach(), per_sample(net, x).detach())


def test_a_checkpointed_module_runs():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double(), x_of(2, 3)
    for reentrant in (False, True):
        J = mt.jacobian(lambda x, how=reentrant: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=how))(x)
        torch.testing.assert_close(J.detach(), per_sample(net, x).detach())


def test_compile_sees_new_weights_and_modes():
    f, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).double().eval(), x_of(2, 3)
    compiled = mt.compile(mt.jacobian(f))
    for change in range(5):
        torch.testing.assert_close(compiled(x).detach(), per_sample(f, x).detach())
        with torch.no_grad():
            if change == 0:
                f[0].weight.mul_(2.0)
            elif change == 1:
                f[0].weight = nn.Parameter(torch.ones(4, 3, dtype=DOUBLE))
            elif change == 2:
                f[1].running_var.fill_(3.0)
            elif change == 3:
                f[0].weight.data = torch.full((4, 3), 0.5, dtype=DOUBLE)
    f.train()
    with pytest.raises(mj.MinijacError):
        compiled(x)


def test_parametrised_weights_are_followed_under_compile():
    f, x = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)).double(), x_of(2, 3)
    compiled = mt.compile(mt.jacobian(f))
    compiled(x)
    with torch.no_grad():
        f.parametrizations.weight.original0.mul_(3.0)
    torch.testing.assert_close(compiled(x).detach(), per_sample(f, x).detach())


def test_compile_records_anew_when_a_constant_was_written():
    scale, x = torch.tensor([2.0, 3.0, 4.0], dtype=DOUBLE), x_of(2, 3)

    def f(x):
        return x.sin() * scale if scale.sum() > 0 else x.cos() * scale

    compiled = mt.compile(mt.jacobian(f))
    for _ in range(2):
        torch.testing.assert_close(compiled(x), per_sample(f, x))
        scale.mul_(-1.0)


# --- Functions --------------------------------------------------------------------------------------------------------


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x**3 * scale

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x**2 * ctx.scale, None


class Product(torch.autograd.Function):
    @staticmethod
    def forward(x, weight):
        return x @ weight.T

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        return g @ weight, g.T @ x


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * 2.0


class Pair(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx, g, h):
        (x,) = ctx.saved_tensors
        return g * x.cos() - h * x.sin()


WEIGHT = torch.arange(6.0, dtype=DOUBLE).reshape(2, 3)


def functions(x):
    sine, cosine = Pair.apply(x)
    return Product.apply(Cube.apply(sine, 2.0), WEIGHT) + Straight.apply(x[:, :2]) * cosine[:, :2]


def test_the_backward_of_a_function_is_its_derivative():
    check(functions, x_of(4, 3))


def test_the_backward_of_a_function_differentiates_again():
    def f(x):
        return Product.apply(Cube.apply(x.sin(), 2.0), WEIGHT).sum(1)

    x = x_of(3, 3)
    wanted = torch.stack([torch.autograd.functional.hessian(lambda s: f(s[None])[0], s) for s in x])
    torch.testing.assert_close(mt.hessian(f)(x), wanted)
    torch.testing.assert_close(mt.laplacian(f)(x), torch.diagonal(wanted, dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(mt.compile(mt.hessian(f))(x), wanted)


def test_a_functions_structure_is_kept():
    _, J = mt.linearize(lambda x: Cube.apply(x, 2.0), x_of(4, 300))
    assert J.nbytes < 4 * 300 * 300


def test_a_function_that_mixes_samples_is_noticed():
    with pytest.raises(mj.BatchMixingError):
        mt.jacobian(lambda x: Cube.apply(x, x.mean(0)))(x_of(4, 3))


def inner_net(x):
    return torch.tanh(x @ torch.arange(8.0, dtype=x.dtype).reshape(4, 2).cos())


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.func.grad(lambda x: inner_net(x).pow(2).sum())(x),
        lambda x: torch.func.vmap(torch.func.grad(lambda s: inner_net(s).pow(2).sum()))(x),
        lambda x: torch.func.vmap(torch.func.jacrev(inner_net))(x).flatten(1),
    ],
)
def test_reverse_transforms_of_torch_inside_are_followed(f):
    x = x_of(3, 4)
    torch.testing.assert_close(mt.jacobian(f)(x), per_sample(f, x).detach())


def test_forward_transforms_of_torch_inside_are_refused():
    with pytest.raises(mj.UnsupportedOperationError):
        mt.jacobian(lambda x: torch.func.jvp(inner_net, (x,), (x,))[1])(x_of(3, 4))


# --- complex numbers --------------------------------------------------------------------------------------------------

TURN = torch.polar(torch.ones(3, dtype=DOUBLE), torch.tensor([0.3, -1.0, 2.0], dtype=DOUBLE))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (torch.complex(x, x.sin()) * TURN).abs(),
        lambda x: torch.view_as_real((x * TURN).exp()).flatten(1),
        lambda x: torch.view_as_complex(torch.stack([x, x**2], -1)).conj().angle(),
        lambda x: (x + 1j).reciprocal().imag + (x * 1j).conj().imag + torch.polar(x.exp(), x).real,
        lambda x: torch.linalg.vector_norm(x * TURN + TURN, dim=1, keepdim=True) + torch.vdot(TURN, TURN).real * x,
        lambda x: torch.fft.ifft(torch.fft.fft(x, norm="ortho") * TURN).real,
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x[:, None] * x[:, :, None], norm="forward") ** 2, s=(3, 3)).flatten(
            1
        ),
    ],
)
def test_complex_numbers_inside_are_followed(f):
    check(f, x_of(2, 3))


def test_an_operation_of_real_numbers_refuses_complex_ones():
    with pytest.raises(mj.UnsupportedOperationError, match=r"aten.cummax|aten.sigmoid"):
        mt.jacobian(lambda x: torch.sigmoid(x * TURN).abs())(x_of(2, 3))


def test_real_parts_and_conjugates_are_neither_written_nor_kept_over_a_write():
    def written(x):
        z = x * TURN
        z.real.mul_(2.0)
        return z.abs()

    def kept(x):
        z = x * TURN
        real = z.real[:, :2]
        z.mul_(2.0)
        return real * 1.0

    for f in (written, kept):
        with pytest.raises(mj.MutationError, match="real parts"):
            mt.jacobian(f)(x_of(2, 3))


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_a_tensor_kept_outside_is_an_error():
    kept = []
    mt.jacobian(lambda x: (kept.append(x * 2.0), x)[1])(x_of(2, 3))
    with pytest.raises(mj.TraceError, match="outside"):
        kept[0] + 1.0
    with pytest.raises(mj.TraceError):
        mt.jacobian(lambda x: x + kept[0])(x_of(2, 3))


@pytest.mark.parametrize("cast", [lambda x: x.half(), lambda x: x.bfloat16()])
def test_half_precision_is_refused(cast):
    with pytest.raises(mj.InputError, match="float32, float64"):
        mt.jacobian(cast)(x_of(2, 3))
    with pytest.raises(mj.InputError, match="float32"):
        mt.jacobian(torch.sin)(cast(x_of(2, 3)))


def test_operators_raise_errors_by_their_name():
    half = torch.ones(3).half()
    for f in (lambda x: x * half, lambda x: half + x, lambda x: x > half, lambda x: x @ half[:, None]):
        with pytest.raises(mj.InputError, match="float32"):
            mt.jacobian(f)(x_of(2, 3))
    with pytest.raises(TypeError, match="text"):
        mt.jacobian(lambda x: x * "text")(x_of(2, 3))


def test_autocast_is_refused():
    with torch.autocast("cpu"), pytest.raises(mj.InputError, match="autocast"):
        mt.jacobian(torch.sin)(x_of(2, 3))


def test_vmap_around_is_refused():
    with pytest.raises(mj.InputError, match=r"torch\.func"):
        torch.func.vmap(lambda x: mt.jacobian(torch.sin)(x))(x_of(2, 3, 3))


@pytest.mark.filterwarnings("ignore")
def test_data_parallel_is_refused():
    with pytest.raises(mj.InputError, match=r"net\.module"):
        mt.jacobian(nn.DataParallel(nn.Linear(3, 2)))


@pytest.mark.parametrize("convert", [lambda x: x.numpy(), lambda x: __import__("numpy").asarray(x)])
def test_arrays_of_what_is_followed_are_refused(convert):
    with pytest.raises(mj.ConversionError, match="drop its derivative"):
        mt.jacobian(lambda x: torch.as_tensor(convert(x)))(x_of(2, 3))


def test_an_operation_without_counterpart_is_named():
    with pytest.raises(mj.UnsupportedOperationError, match=r"aten.*test_what_torch_code_does"):
        mt.jacobian(lambda x: x.to_sparse())(x_of(2, 3))


def test_an_operation_that_torch_has_no_more_is_no_key_of_the_table():
    assert aten.sin is torch.ops.aten.sin
    assert aten.no_such_operation is None


def test_an_operation_can_be_registered():
    library = torch.library.Library("minijac_tests", "DEF")
    library.define("twice_sine(Tensor x) -> Tensor")
    library.impl("twice_sine", lambda x: 2 * x.sin(), "CPU")
    operation = torch.ops.minijac_tests.twice_sine
    with pytest.raises(mj.UnsupportedOperationError, match="twice_sine"):
        mt.jacobian(operation)(x_of(2, 3))
    mt.register(operation)(lambda x: 2 * mj.numpy.sin(x))
    torch.testing.assert_close(mt.jacobian(operation)(x_of(2, 3)), torch.diag_embed(2 * x_of(2, 3).cos()))


def test_threads_do_not_meet():
    f, x = module("tanh")
    wanted, found = per_sample(f, x).detach(), {}

    def work(n):
        with torch.no_grad():
            found[n] = [mt.jacobian(f)(x) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(J, wanted) for each in found.values() for J in each) and len(found) == 3


def test_an_error_names_the_module_and_the_line():
    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), nn.LSTM(3, 3))).double().half()
    with pytest.raises(mj.InputError, match="float32"):
        mt.jacobian(net)(x_of(2, 3).half())

    class Sparse(nn.Module):
        def forward(self, x):
            return x.to_sparse()

    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), Sparse())).double()
    with pytest.raises(mj.UnsupportedOperationError, match=r"(?s)test_what_torch.*Sequential\.1\.1 \(Sparse\)"):
        mt.jacobian(net)(x_of(2, 3))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))])

    def forward(self, x):
        return self.blocks[0](x).tanh()  # the line


@pytest.mark.parametrize("transform", [mt.jacobian, mt.hessian, mt.linearize])
@pytest.mark.parametrize("wrapped", [False, True])
def test_mixing_inside_a_module_names_its_path_and_the_line(transform, wrapped):
    net, x = Normed().double(), x_of(4, 3)
    f = (lambda x: net(x) * 2) if wrapped else net
    with pytest.raises(mj.BatchMixingError) as caught:
        mt.linearize(f, x) if transform is mt.linearize else transform(f)(x)
    told = str(caught.value)
    assert __file__ in told and "self.blocks[0](x).tanh()  # the line" in told
    assert told.endswith("In Normed.blocks.0.1 (BatchNorm1d).")


def test_mixing_under_transformations_of_transformations_names_the_module_once():
    net = Normed().double()
    with pytest.raises(mj.BatchMixingError) as caught:
        mt.jacobian(lambda x: mt.jacobian(lambda x: mt.jacobian(net)(x))(x))(x_of(4, 3))
    assert str(caught.value).count("In Normed.blocks.0.1 (BatchNorm1d).") == 1


def test_mixing_in_ones_own_forward_names_the_line_alone():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    with pytest.raises(mj.BatchMixingError, match=r"(?s)return x - x\.mean\(0\).*x\[None\]\.$"):
        mt.jacobian(Centred())(x_of(4, 3))


@pytest.mark.parametrize("descending", [False, True])
def test_samples_in_an_order_of_values_and_back_are_followed_compiled_too(descending):
    def f(x):
        order = torch.argsort(x[:, 0], descending=descending)
        z = torch.empty_like(x)
        z[order] = torch.tanh(x[order].cumsum(1))
        return z.index_copy(0, order, z[order] * x.index_select(0, order))

    compiled = mt.compile(mt.jacobian(f))
    for x in (x_of(5, 3), -x_of(5, 3), x_of(5, 3) ** 2):
        check(f, x)
        torch.testing.assert_close(compiled(x), per_sample(f, x).detach())
