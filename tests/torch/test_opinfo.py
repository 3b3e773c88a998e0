"""torch's own samples of its operations: value and Jacobian, forward and reverse, against torch's autograd.

An operation is right on every sample, or raises a named error; those that differ from torch are listed with the reason.
"""

from itertools import islice

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")

from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_unflatten  # noqa: E402

import minijac as mj  # noqa: E402
import minijac.torch as mt  # noqa: E402

DIFFERENT = {
    "__rpow__": "0 ** x has derivative 0 for x > 0, torch gives NaN",
    "as_strided_scatter": "torch adds the derivative of entries that were overwritten",
    "cholesky_inverse": "torch gives entries that are not read, on one side of the diagonal, a derivative",
    "cholesky_solve": "as cholesky_inverse",
    "cov": "a weight of float32 beside float64: the Jacobian has the wider dtype",
    "linalg.pinv.hermitian": "torch takes the matrix for its own transpose, one by the lower triangle follows it here",
    "native_group_norm": "torch has no derivative for the mean and the deviation that it returns beside the result",
    "nn.functional.max_unpool1d": "of entries written to one place the last one counts, torch differentiates all",
    "nn.functional.max_unpool2d": "as nn.functional.max_unpool1d",
    "nn.functional.max_unpool3d": "as nn.functional.max_unpool1d",
}
REFUSED = {
    "bfloat16", "chalf", "half", "linalg.svd", "nn.functional.linear_cross_entropy.chunked",
    "nn.functional.linear_cross_entropy.chunked_none", "to_sparse",
}  # fmt: skip
"""Raise UnsupportedOperationError or InputError, as some of their samples do."""
LAID_OUT = {"as_strided.partial_views", "sparse.mm.reduce", "sparse.sampled_addmm"}
"""Samples that are sparse, or views whose storage is larger than they are."""
TOO_LARGE = {"nn.functional.ctc_loss", "slice_scatter"}
"""Samples whose Jacobians torch does not make in a reasonable time."""
LARGEST = 400


def name(op):
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


OPERATIONS = {
    name(op): op
    for op in op_db
    if op.supports_autograd and torch.float64 in op.dtypes and name(op) not in LAID_OUT | TOO_LARGE
}


def posed(op, sample, largest):
    """The sample as a function of its float tensors, and these; None where that is too much or too little."""
    leaves, tree = tree_flatten((sample.input, sample.args, sample.kwargs))
    at = [k for k, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.requires_grad and x.is_floating_point()]
    xs = [leaves[k].detach().contiguous() for k in at]
    if not at or sum(x.numel() for x in xs) > largest:
        return None

    def f(*xs):
        own = list(leaves)
        for k, x in zip(at, xs, strict=True):
            own[k] = x
        first, args, kwargs = tree_unflatten(own, tree)
        torch.manual_seed(0)
        y = op(first.clone() if op.name == "zero_" else first, *args, **kwargs)
        y = sample.output_process_fn_grad(y) if sample.output_process_fn_grad else y
        results = [t for t in tree_flatten(y)[0] if isinstance(t, torch.Tensor)]
        return tuple(
            torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
            for t in results
            if t.is_floating_point() or t.is_complex()
        )

    return f, xs


def rows_of_jacobians(y, xs):
    """The derivative of each entry of ``y`` by each of ``xs``, by torch's reverse mode, at once if it can."""
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    if not len(y):
        return [x.new_zeros(0, *x.shape) for x in xs]
    try:
        found = torch.autograd.grad(y, xs, torch.eye(len(y), dtype=y.dtype), is_grads_batched=True, **options)
    except RuntimeError:
        found = map(torch.stack, zip(*(torch.autograd.grad(entry, xs, **options) for entry in y), strict=True))
    return [J.expand(len(y), *x.shape) for J, x in zip(found, xs, strict=True)]


def compared(f, xs, largest=LARGEST):
    own = [x.clone().requires_grad_() for x in xs]
    values = f(*own)
    wanted = [k for k, y in enumerate(values) if y.requires_grad and y.numel() <= largest]
    if not wanted:
        return False
    rows = {k: slice(None, None, 1 + values[k].numel() // (LARGEST + 1)) for k in wanted}  # not all of a large result's
    gradients = {k: rows_of_jacobians(values[k].reshape(-1)[rows[k]], own) for k in wanted}
    for mode in ("forward", "reverse"):
        with torch.no_grad():
            found = mt.value_and_jacobian(
                lambda *xs: tuple(f(*xs)[k] for k in wanted), tuple(range(len(xs))), batch_axis=None, mode=mode
            )(*xs)
        for y, row, k in zip(*found, wanted, strict=True):
            torch.testing.assert_close(y, values[k].detach(), rtol=1e-7, atol=1e-9, equal_nan=True)
            for n, (J, x) in enumerate(zip(row, own, strict=True)):
                assert J.shape == (*y.shape, *x.shape)
                own_rows = J.reshape(y.numel(), *x.shape)[rows[k]]
                torch.testing.assert_close(own_rows, gradients[k][n], rtol=1e-6, atol=1e-8, equal_nan=True)
    return True


def on_samples(op, most):
    """How many of the first samples were compared; one that is large where all are."""
    samples = lambda: op.sample_inputs("cpu", torch.float64, requires_grad=True)  # each takes torch long to make
    found = [compared(*question) for sample in islice(samples(), most) if (question := posed(op, sample, LARGEST))]
    for sample in samples() if not any(found) else ():
        if (question := posed(op, sample, 20 * LARGEST)) and compared(*question, 20 * LARGEST):
            return 1
    return sum(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", OPERATIONS)
def test_operation_is_right_or_refused(which):
    op = OPERATIONS[which]
    if which in DIFFERENT:
        with pytest.raises(AssertionError):
            on_samples(op, 10)
    elif which in REFUSED:
        told = r"\S+ at \S+test_opinfo\.py:\d+: .*(Write|write|Stay) "  # what, where, and what to do instead
        with pytest.raises((mj.UnsupportedOperationError, mj.InputError), match=told):
            on_samples(op, 10)
    else:
        assert on_samples(op, 4)


def test_most_operations_of_torch_are_right():
    """Those that are neither refused nor different; the slow test goes through them one by one."""
    assert len(OPERATIONS) - len(DIFFERENT) - len(REFUSED) >= 440
