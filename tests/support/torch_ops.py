"""The truth about each operation: what it is in torch, as a function of tensors and the same parameters.

Where torch has no such function, it is written in torch from others. An operation without an entry fails the registry
tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial, log, pi, prod
from typing import Any

import numpy as np
import scipy.linalg
import torch
from blocks import block_by_sum
from equation_ops import BY_EQUATIONS, lambertw
from mpmath_ops import BY_MPMATH

from minijac.algebra.block import Block
from minijac.algebra.terms import Term


def picked(x: Any, positions: np.ndarray) -> Any:
    """``x.flat[positions]``."""
    return x.reshape(-1)[torch.from_numpy(np.ascontiguousarray(positions))]


def moved(function: Callable[..., np.ndarray]) -> Callable[..., Any]:
    """A function that only moves or picks entries, by what NumPy's does to their numbers."""

    def on_tensors(x: Any, **params: Any) -> Any:
        return picked(x, function(np.arange(x.numel()).reshape(x.shape), **params))

    return on_tensors


def padded(x: Any, pad_width: Sequence[tuple[int, int]], constant: float) -> Any:
    widths = [n for pair in reversed(pad_width) for n in pair]
    return torch.nn.functional.pad(x, widths, value=constant)


def taken(x: Any, positions: Any, axis: int) -> Any:
    found = x.index_select(axis, positions.long().reshape(-1))
    return found.reshape(*x.shape[:axis], *positions.shape, *x.shape[axis + 1 :])


def deposited(y: Any, positions: Any, axis: int, size: int) -> Any:
    lead, tail = y.shape[:axis], y.shape[axis + positions.ndim :]
    flat = positions.long().reshape(-1)
    return torch.zeros(*lead, size, *tail, dtype=y.dtype).index_add(axis, flat, y.reshape(*lead, -1, *tail))


def scattered(y: Any, positions: Any, passing: Any, shape: Sequence[int], lead: int = 0) -> Any:
    return deposited(y, positions, lead, prod(shape)).reshape(*y.shape[:lead], *shape)


def embedded(x: Any, shape: Sequence[int], index: Any) -> Any:
    return scattered(x, torch.from_numpy(np.arange(prod(shape)).reshape(shape)[index].copy()), (), shape)


def running_sum(x: Any, axis: int, reverse: bool = False) -> Any:
    return x.flip(axis).cumsum(axis).flip(axis) if reverse else x.cumsum(axis)


def order_statistic(x: Any, rank: Any, axis: int) -> Any:
    ordered = x.sort(axis).values
    if np.ndim(rank) == 0:
        return ordered.select(axis, rank)
    return ordered.gather(axis, torch.from_numpy(rank).unsqueeze(axis)).squeeze(axis)


def sinc_derivative(x: Any, order: int = 0) -> Any:
    f = torch.sinc
    for _ in range(order):
        f = lambda x, f=f: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]
    return f(x)


def with_slope_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that torch has no derivative for, where it adds what does not depend on the first operand."""
    return lambda x, *others, **params: x + (function(x.detach(), *others, **params) - x.detach())


def unwrapped(x: Any, axis: int, discont: Any, period: float) -> Any:
    return torch.from_numpy(np.unwrap(x.numpy(), discont, axis, period=period))


def relabelled(x: Any, inp: Any, out: Any, shape: tuple[int, ...]) -> Any:
    """By the sum over all values of the labels."""
    matrix = torch.from_numpy(block_by_sum(Block(shape, tuple(x.shape), [Term(out, inp)])))
    return torch.tensordot(matrix.to(x.dtype), x, dims=x.ndim)


def superposed(*arrays: Any, parts: Any, shape: tuple[int, ...]) -> Any:
    """By adding up, entry by entry."""
    placed = zip(arrays, parts, strict=True)
    return sum(relabelled(x, tuple((label,) for label in labels), axes, shape) for x, (labels, axes, _) in placed)


def by_eigenvalues(f: Callable[..., Any], a: Any) -> Any:
    values, vectors = torch.linalg.eig(a)
    found = vectors @ torch.diag_embed(f(values)) @ torch.linalg.inv(vectors)
    return found if a.is_complex() else torch.real(found)


def allpole(x: Any, a: Any) -> Any:
    """By the triangular matrix of the recursion."""
    n = x.shape[-1]
    matrix = sum(a[j] * torch.diag(torch.ones(n - j, dtype=a.dtype), -j) for j in range(min(n, len(a))))
    return torch.linalg.solve(matrix, x.unsqueeze(-1)).squeeze(-1)


def sylvester(a: Any, b: Any, q: Any) -> Any:
    """By Kronecker products, a matrix for each sample."""
    n, m = q.shape[-2:]
    eye = lambda k: torch.eye(k, dtype=q.dtype)
    pairs = zip(a.reshape(-1, n, n), b.reshape(-1, m, m), strict=True)
    whole = torch.stack([torch.kron(one, eye(m)) + torch.kron(eye(n), other.mT.contiguous()) for one, other in pairs])
    return torch.linalg.solve(whole, q.reshape(-1, n * m, 1)).reshape(q.shape)


def owens_t(h: Any, a: Any) -> Any:
    """By its integral over the second operand."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(40))
    t = a[..., None] * (nodes + 1) / 2
    values = torch.exp(-(h[..., None] ** 2) / 2 * (1 + t * t)) / (1 + t * t)
    return a / 2 * (values * weights).sum(-1) / (2 * torch.pi)


def clipped(x: Any, low: Any, high: Any) -> Any:
    """`torch.clamp` with broadcasting bounds."""
    return torch.clamp(x, *torch.broadcast_tensors(low, high))


def window_positions(shape: Sequence[int], kernel: Any, stride: Any, dilation: Any, behind: int = 0) -> np.ndarray:
    """Positions in an array of `shape` of the entries of each window: (*lead, *kernel, *windows, *behind)."""
    first, n = len(shape) - len(kernel) - behind, len(kernel)
    found = np.arange(prod(shape)).reshape(shape)
    for k, (count, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True)):
        reach = apart * (count - 1) + 1
        found = np.lib.stride_tricks.sliding_window_view(found, reach, first + k)[..., ::apart]
        found = found[(slice(None),) * (first + k) + (slice(None, None, step),)]
    return np.moveaxis(found, range(found.ndim - n, found.ndim), range(first, first + n))


def patches(x: Any, **params: Any) -> Any:
    return picked(x, window_positions(x.shape, **params))


def unpatches(y: Any, size: Sequence[int], behind: int = 0, **params: Any) -> Any:
    """The adjoint of `patches`: overlapping windows add up."""
    first, n = y.ndim - 2 * len(size) - behind, len(size)
    shape = (*y.shape[:first], *size, *y.shape[first + 2 * n :])
    positions = torch.from_numpy(window_positions(shape, **params, behind=behind).reshape(-1))
    return torch.zeros(prod(shape), dtype=y.dtype).index_add(0, positions, y.reshape(-1)).reshape(shape)


# --- decompositions: the vectors have NumPy's signs, and a symmetric matrix is the mean of its triangles -------------


def symmetric(a: Any) -> Any:
    return 0.5 * (a + a.mT)


def signs(vectors: Any, of_numpy: np.ndarray) -> Any:
    """1 or -1 for each column."""
    return torch.sign((vectors.detach() * torch.from_numpy(of_numpy)).sum(-2, keepdim=True))


def eigenvectors(a: Any) -> Any:
    v = torch.linalg.eigh(symmetric(a)).eigenvectors
    return v * signs(v, np.linalg.eigh(a.detach().numpy()).eigenvectors)


def eigh(a: Any) -> Any:
    return torch.cat([torch.linalg.eigvalsh(symmetric(a)).unsqueeze(-2), eigenvectors(a)], -2)


def singular_vectors(a: Any) -> tuple[Any, Any]:
    u, _, vh = torch.linalg.svd(a, full_matrices=False)
    sign = signs(u, np.linalg.svd(a.detach().numpy(), full_matrices=False).U)
    return u * sign, vh.mT * sign


def svd(a: Any) -> Any:
    u, v = singular_vectors(a)
    return torch.cat([u, torch.linalg.svdvals(a).unsqueeze(-2), v], -2)


# --- the gamma function, by recurrence and Stirling's series: torch's trigamma function has but nine digits ----

BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)


def log_gamma(x: Any) -> Any:
    z = x + 10.0
    series = sum(b / (2 * k * (2 * k - 1) * z ** (2 * k - 1)) for k, b in enumerate(BERNOULLI, 1))
    return (z - 0.5) * z.log() - z + 0.5 * log(2 * pi) + series - sum((x + k).log() for k in range(10))


def digamma(x: Any) -> Any:
    z = x + 10.0
    series = sum(b / (2 * k * z ** (2 * k)) for k, b in enumerate(BERNOULLI, 1))
    return z.log() - 0.5 / z - series - sum(1.0 / (x + k) for k in range(10))


def polygamma(n: Any, x: Any) -> Any:
    order = int(n)
    if order == 0:
        return digamma(x)
    return (-1) ** (order + 1) * factorial(order) * torch.special.zeta(order + 1, x)


def log_beta(a: Any, b: Any) -> Any:
    return log_gamma(a) + log_gamma(b) - log_gamma(a + b)


def cofactor_slope(a: Any, x: Any) -> Any:
    c = torch.linalg.det(a)[..., None, None] * torch.linalg.inv(a).mT
    inner = (c * x).sum((-2, -1), keepdim=True)
    return (inner * c - c @ x.mT @ c) / torch.linalg.det(a)[..., None, None]


TORCH: dict[str, Callable[..., Any]] = {
    # -- elementwise, one operand ------------------------------------------------------------------------------
    "negative": torch.neg,
    "positive": torch.positive,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "length": torch.sqrt,
    "cbrt": lambda x: x.sign() * x.abs() ** (1 / 3),
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "abs": torch.abs,
    "fabs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "arcsin": torch.arcsin,
    "arccos": torch.arccos,
    "arctan": torch.arctan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "arcsinh": torch.arcsinh,
    "arccosh": torch.arccosh,
    "arctanh": torch.arctanh,
    "deg2rad": torch.deg2rad,
    "radians": torch.deg2rad,
    "rad2deg": torch.rad2deg,
    "degrees": torch.rad2deg,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "relu": torch.relu,
    "erf": torch.erf,
    "astype": lambda x, dtype: x,
    "conjugate": torch.conj_physical,
    "sinc": sinc_derivative,
    "ldexp": lambda x, e: x * 2.0**e,
    "unwrap": with_slope_one(unwrapped),
    # -- elementwise, several operands ---------------------------------------------------------------------------
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "power": torch.pow,
    "float_power": torch.float_power,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "arctan2": torch.arctan2,
    "hypot": torch.hypot,
    "logaddexp": torch.logaddexp,
    "logaddexp2": torch.logaddexp2,
    "copysign": torch.copysign,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "where": lambda c, a, b: torch.where(c != 0, a, b),
    "clip": clipped,
    "heaviside": lambda a, b: torch.where(a == 0, b, (a > 0).to(b.dtype)),
    "nextafter": with_slope_one(lambda a, b: torch.nextafter(a, b.detach())),
    # -- derivative zero -----------------------------------------------------------------------------------------
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "rint": torch.round,
    "isfinite": torch.isfinite,
    "isinf": torch.isinf,
    "isnan": torch.isnan,
    "signbit": torch.signbit,
    "equal": torch.eq,
    "not_equal": torch.not_equal,
    "less": torch.less,
    "less_equal": torch.less_equal,
    "greater": torch.greater,
    "greater_equal": torch.greater_equal,
    "floor_divide": torch.floor_divide,
    "spacing": lambda x: torch.from_numpy(np.spacing(x.numpy())),
    "exponent": lambda x: torch.frexp(x).exponent,
    "cast": lambda x, dtype: x.to(torch.int64),
    "round": lambda x, decimals: torch.round(x, decimals=decimals),
    "logical_not": torch.logical_not,
    "logical_and": torch.logical_and,
    "invert": torch.bitwise_not,
    "bitwise_and": torch.bitwise_and,
    "bitwise_or": torch.bitwise_or,
    "bitwise_xor": torch.bitwise_xor,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    # -- indexing ------------------------------------------------------------------------------------------------
    "take": taken,
    "deposit": deposited,
    "scatter": scattered,
    "order_statistic": order_statistic,
    "argmax": lambda x, axis, keepdims=False: torch.argmax(x, axis, keepdims),
    "argmin": lambda x, axis: torch.argmin(x, axis),
    "argsort": lambda x, axis, kind: torch.argsort(x, dim=axis, stable=True),
    "argpartition": lambda x, axis, kth: torch.from_numpy(np.argpartition(x.numpy(), kth, axis)),
    "all": lambda x, axis: torch.all(x != 0, axis),
    "any": lambda x, axis: torch.any(x != 0, axis),
    "count_nonzero": lambda x, axis: torch.count_nonzero(x, axis),
    "searchsorted": lambda v, a, side: torch.searchsorted(a, v, side=side),
    "counted": lambda x, size: torch.remainder(x.long(), size),
    "gather": lambda x, positions, passing, lead=0: taken(x.flatten(lead), positions, lead),
    "max": lambda x, axis, keepdims=False: torch.amax(x, axis, keepdims),
    "min": lambda x, axis, keepdims=False: torch.amin(x, axis, keepdims),
    # -- sliding windows -----------------------------------------------------------------------------------------
    "patches": patches,
    "unpatches": unpatches,
    # -- multilinear ---------------------------------------------------------------------------------------------
    "matmul": torch.matmul,
    "einsum": lambda *operands, subscripts: torch.einsum(subscripts, *operands),
    # -- structural ----------------------------------------------------------------------------------------------
    "relabel": relabelled,
    "superpose": superposed,
    "reshape": torch.reshape,
    "transpose": lambda x, axes: x.permute(axes),
    "expand_dims": moved(np.expand_dims),
    "squeeze": moved(np.squeeze),
    "broadcast_to": lambda x, to: torch.broadcast_to(x, to),
    "sum": lambda x, axis, keepdims=False: x.sum(axis, keepdims),
    "mean": lambda x, axis, keepdims=False: x.mean(axis, keepdims),
    "embed_diagonal": lambda x, offset: torch.diag_embed(x, offset),
    "embed": embedded,
    "cumsum": running_sum,
    "diagonal": lambda x, offset, axis1, axis2: x.diagonal(offset, axis1, axis2),
    "getitem": moved(lambda x, index: x[index]),
    "flip": moved(np.flip),
    "roll": moved(np.roll),
    "pad": padded,
    "concatenate": lambda *arrays, axis: torch.cat(arrays, axis),
    # -- linear algebra ------------------------------------------------------------------------------------------
    "inv": torch.linalg.inv,
    "solve": torch.linalg.solve,
    "pinv": torch.linalg.pinv,
    "det": torch.linalg.det,
    "cofactor": lambda a: torch.linalg.det(a)[..., None, None] * torch.linalg.inv(a).mT,
    "cofactor_slope": cofactor_slope,
    "inverse_transposed": lambda a: torch.linalg.inv(a).mT,
    "real": lambda x: torch.real(x) if x.is_complex() else x,
    "imag": lambda x: torch.imag(x) if x.is_complex() else 0 * x,
    "logabsdet": lambda a: torch.linalg.slogdet(a).logabsdet,
    "sign_of_det": lambda a: torch.linalg.slogdet(a).sign,
    "cholesky": lambda a: torch.linalg.cholesky(symmetric(a)),
    "eigh": eigh,
    "eigenvalues": lambda a: torch.linalg.eigvalsh(symmetric(a)),
    "eigenvectors": eigenvectors,
    "svd": svd,
    "singular_values": torch.linalg.svdvals,
    "left_vectors": lambda a: singular_vectors(a)[0],
    "right_vectors": lambda a: singular_vectors(a)[1],
    "qr": lambda a: torch.cat(torch.linalg.qr(a), -2),
    "qr_q": lambda a: torch.linalg.qr(a).Q,
    "qr_r": lambda a: torch.linalg.qr(a).R,
    "solve_continuous_are": lambda *xs: torch.tensor(scipy.linalg.solve_continuous_are(*map(np.asarray, xs))),
    "solve_discrete_are": lambda *xs: torch.tensor(scipy.linalg.solve_discrete_are(*map(np.asarray, xs))),
    "expm": torch.linalg.matrix_exp,
    "sqrtm": lambda a: by_eigenvalues(torch.sqrt, a),
    "logm": lambda a: by_eigenvalues(torch.log, a),
    "lu_values": lambda a: torch.linalg.lu_factor(a)[0],
    "lu_pivots": lambda a: torch.linalg.lu_factor(a)[1] - 1,
    "allpole": allpole,
    "sylvester": sylvester,
    "fourier": lambda x, axis, inverse: (
        torch.fft.ifftn(x, dim=axis, norm="forward") if inverse else torch.fft.fftn(x, dim=axis)
    ),
    # -- special functions ---------------------------------------------------------------------------------------
    "erfc": torch.erfc,
    "erfcx": lambda x: torch.exp(x * x) * torch.erfc(x),
    "erfinv": torch.erfinv,
    "erfcinv": lambda x: torch.erfinv(1.0 - x),
    "ndtr": torch.special.ndtr,
    "ndtri": torch.special.ndtri,
    "log_ndtr": torch.special.log_ndtr,
    "gamma": lambda x: log_gamma(x).exp(),
    "rgamma": lambda x: (-log_gamma(x)).exp(),
    "gammaln": log_gamma,
    "loggamma": log_gamma,
    "psi": digamma,
    "polygamma": polygamma,
    "beta": lambda a, b: log_beta(a, b).exp(),
    "betaln": log_beta,
    "expit": torch.sigmoid,
    "logit": torch.logit,
    "log_expit": torch.nn.functional.logsigmoid,
    "entr": torch.special.entr,
    "xlogy": torch.xlogy,
    "xlog1py": torch.special.xlog1py,
    "rel_entr": lambda a, b: a * torch.log(a / b),
    "kl_div": lambda a, b: a * torch.log(a / b) - a + b,
    "i0": torch.special.i0,
    "i0e": torch.special.i0e,
    "i1": torch.special.i1,
    "i1e": torch.special.i1e,
    "exp10": lambda x: 10.0**x,
    "powm1": lambda x, p: x**p - 1,
    **BY_MPMATH,
    **BY_EQUATIONS,
    "sindg": lambda x: torch.sin(torch.deg2rad(x)),
    "cosdg": lambda x: torch.cos(torch.deg2rad(x)),
    "tandg": lambda x: torch.tan(torch.deg2rad(x)),
    "boxcox": lambda x, p: (x**p - 1) / p,
    "boxcox1p": lambda x, p: ((1 + x) ** p - 1) / p,
    "inv_boxcox": lambda y, p: (p * y + 1) ** (1 / p),
    "inv_boxcox1p": lambda y, p: (p * y + 1) ** (1 / p) - 1,
    "huber": lambda d, r: torch.where(r.abs() <= d, r * r / 2, d * (r.abs() - d / 2)),
    "pseudo_huber": lambda d, r: d * d * (torch.sqrt(1 + (r / d) ** 2) - 1),
    "poch": lambda z, m: (log_gamma(z + m) - log_gamma(z)).exp(),
    "binom": lambda n, k: 1 / ((n + 1) * log_beta(n - k + 1, k + 1).exp()),
    "owens_t": owens_t,
    "peak": lambda x, axis: torch.amax(x, axis, True),
    "logsumexp": torch.logsumexp,
}


def polynomial_zeros(p: Any) -> Any:
    n = p.shape[0] - 1
    companion = torch.cat([-p[1:][None] / p[0], torch.eye(n, dtype=p.dtype)[:-1]])
    return torch.linalg.eigvals(companion)


COMPLEX: dict[str, Any] = {
    "logdet": lambda a: torch.linalg.slogdet(a).logabsdet + 1j * torch.angle(torch.linalg.slogdet(a).sign),
    "eig": lambda a: torch.cat([torch.linalg.eig(a).eigenvalues[..., None, :], torch.linalg.eig(a).eigenvectors], -2),
    "eig_values": torch.linalg.eigvals,
    "eig_vectors": lambda a: torch.linalg.eig(a).eigenvectors,
    "polynomial_zeros": polynomial_zeros,
    "lambertw": lambertw,
}
"""Operations whose results are complex wherever they are taken."""
