"""The sample calls of docs/coverage.md: for every function one, and what its arguments are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from coverage_special import CALLS as SPECIAL_CALLS
from numpy.lib import recfunctions

import minijac as mj

RNG = np.random.default_rng(7)

# -- what the sample calls are made of ---------------------------------------------------------------------------------
# traced, all of those that a call names: vectors, matrices, one square, images, a number
TRACED = {
    "x": np.array([0.31, 0.74, 0.52, 0.87]),
    "y": np.array([0.66, 0.43, 0.91, 0.28]),
    "A": RNG.uniform(0.2, 0.9, (2, 3)),
    "B": RNG.uniform(0.2, 0.9, (2, 3)),
    "M": np.eye(3) + 0.4 * RNG.uniform(-1, 1, (3, 3)),
    "T": RNG.uniform(0.2, 0.9, (2, 2, 3)),
    "I": RNG.uniform(-1, 1, (1, 2, 6)),
    "I2": RNG.uniform(-1, 1, (1, 2, 4, 4)),
    "I3": RNG.uniform(-1, 1, (1, 1, 2, 3, 3)),
    "s": np.array(0.6),
}


def written(x: Any, write: Callable[[Any], Any]) -> Any:
    """A copy of `x` that `write` has written to."""
    y = x.copy()
    write(y)
    return y


PLAIN = {
    "np": np,
    "mj": mj,
    "written": written,
    "nn": mj.nn,
    "special": mj.special,
    "recfunctions": recfunctions,
    "mask": np.array([True, False, True, True]),
    "places": np.array([2, 0, 2]),
    "w": RNG.uniform(-1, 1, (2, 2, 3)),
    "w2": RNG.uniform(-1, 1, (2, 2, 2, 2)),
    "w3": RNG.uniform(-1, 1, (1, 1, 2, 2, 2)),
}


class Entry(NamedTuple):
    """A line of the page: the sample call, and what it must do (see `STATUS`)."""

    name: str
    call: str
    kind: str
    why: str = ""


def calls(text: str, kind: str = "both", prefix: str = "np.", why: str = "") -> list[Entry]:
    """``name: call`` on each line, or names alone, which are called on `x`."""
    entries = []
    for line in filter(None, map(str.strip, text.strip().splitlines())):
        if ": " in line:
            name, call = line.split(": ", 1)
            entries.append(Entry(name, call, kind, why))
        else:
            entries += [Entry(name, f"{prefix}{name}(x)", kind, why) for name in line.split()]
    return entries


def pairs(text: str, kind: str = "both", why: str = "") -> list[Entry]:
    """Names of functions that are called on `x` and `y`."""
    return [Entry(name, f"np.{name}(x, y)", kind, why) for name in text.split()]


def methods(text: str, kind: str = "both") -> list[Entry]:
    return [Entry(name, f"x.{name}()", kind) for name in text.split()]


def attributes(text: str, kind: str = "both") -> list[Entry]:
    return [Entry(name, f"x.{name}", kind) for name in text.split()]


def names(text: str, why: str) -> list[Entry]:
    """Names of functions that are not called on traced values."""
    return [Entry(name, "", "none", why) for name in text.split()]


NUMPY = [
    # -- elementwise
    *calls("""
        abs absolute fabs acos arccos arcsin asin arcsinh asinh arctan atan arctanh atanh cbrt
        acosh: np.acosh(1 + x)
        arccosh: np.arccosh(1 + x)
        cos cosh deg2rad degrees exp exp2 expm1 i0 log log10 log1p log2 negative positive conj conjugate rad2deg radians
        zeros_like ones_like reciprocal sin sinc sinh sqrt square tan tanh real real_if_close nan_to_num copy
        frexp: np.frexp(x)[0]
        modf: np.modf(5 * x)[0]
        ldexp: np.ldexp(x, 2)
        imag: np.imag(x) + x
        clip: np.clip(x, 0.4, 0.8)
        where: np.where(mask, x, y)
        select: np.select([x > 0.5, x > 0.7], [x, y], 0.0)
        choose: np.choose([0, 1, 1, 0], [x, y])
        piecewise: np.piecewise(x, [x > 0.5], [np.sin, np.cos])
        astype: np.astype(x, np.float64)
        full_like: np.full_like(x, s)
        unwrap: np.unwrap(8 * x)
        interp: np.interp(s, np.array([0.0, 0.5, 1.0]), x[:3])
    """),
    *pairs("""
        add arctan2 atan2 copysign divide float_power fmax fmin fmod hypot logaddexp logaddexp2 maximum
        minimum mod multiply pow power remainder subtract true_divide nextafter
    """),
    *calls("divmod: np.divmod(x, y)[1]\nheaviside: np.heaviside(x - x, s)"),
    # -- reductions
    *calls("""
        amax amin average max mean median min nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar prod ptp std
        sum var cumprod cumsum nancumprod nancumsum cumulative_prod cumulative_sum trapezoid
        percentile: np.percentile(x, 30)
        quantile: np.quantile(x, [0.1, 0.6])
        nanpercentile: np.nanpercentile(x, 30)
        nanquantile: np.nanquantile(x, 0.3)
        apply_over_axes: np.apply_over_axes(np.sum, A, [0])
        corrcoef: np.corrcoef(A)
        cov: np.cov(A)
        histogram: np.histogram(x, 2, weights=y)
        histogram2d: np.histogram2d(x, y, 2, weights=x)
        histogramdd: np.histogramdd([x, y], 2, weights=y)
        histogram_bin_edges: np.histogram_bin_edges(x, 3)
        bincount: np.bincount(np.array([0, 2, 1, 2]), x)
    """),
    # -- shapes
    *calls("""
        atleast_1d atleast_2d atleast_3d ravel squeeze transpose diag diagflat flip vander
        append: np.append(x, y)
        array_split: np.array_split(x, 3)
        block: np.block([[A, B], [B, A]])
        broadcast_arrays: np.broadcast_arrays(A, s)
        broadcast_to: np.broadcast_to(s, (2, 2))
        column_stack: np.column_stack([x, y])
        concat: np.concat([x, y])
        concatenate: np.concatenate([x, y])
        delete: np.delete(x, [1])
        diagonal: np.diagonal(M)
        dsplit: np.dsplit(T, 3)
        dstack: np.dstack([x, y])
        expand_dims: np.expand_dims(x, 0)
        fliplr: np.fliplr(A)
        flipud: np.flipud(A)
        hsplit: np.hsplit(A, 3)
        hstack: np.hstack([x, y])
        insert: np.insert(x, 1, s)
        matrix_transpose: np.matrix_transpose(A)
        meshgrid: np.meshgrid(x, y)
        moveaxis: np.moveaxis(T, 0, 2)
        pad: np.pad(x, 2, mode="reflect")
        permute_dims: np.permute_dims(T, (2, 0, 1))
        repeat: np.repeat(x, 2)
        reshape: np.reshape(A, (3, 2))
        resize: np.resize(x, (2, 3))
        roll: np.roll(x, 1)
        rollaxis: np.rollaxis(T, 2)
        rot90: np.rot90(A)
        split: np.split(x, 2)
        stack: np.stack([x, y])
        swapaxes: np.swapaxes(A, 0, 1)
        tile: np.tile(x, 2)
        tril: np.tril(M)
        triu: np.triu(M)
        unstack: np.unstack(A)
        vsplit: np.vsplit(A, 2)
        row_stack: np.row_stack([x, y])
        vstack: np.vstack([x, y])
        trim_zeros: np.trim_zeros(np.pad(x, 1))
    """),
    # -- order and positions
    *calls("""
        sort unique unique_all unique_counts unique_inverse unique_values
        partition: np.partition(x, 2)
        compress: np.compress(mask, x)
        extract: np.extract(mask, x)
        take: np.take(x, places)
        take_along_axis: np.take_along_axis(x, places, 0)
        intersect1d: np.intersect1d(x, x[1:])
        setdiff1d: np.setdiff1d(x, x[1:])
        setxor1d: np.setxor1d(x, y)
        union1d: np.union1d(x, y)
    """),
    # -- products and the like
    *calls("""
        diff ediff1d gradient polyder polyint poly
        convolve: np.convolve(x, y)
        correlate: np.correlate(x, y, "full")
        cross: np.cross(x[:3], y[:3])
        dot: np.dot(A, M)
        einsum: np.einsum("ij,jk->ik", A, M)
        inner: np.inner(x, y)
        kron: np.kron(x, y)
        matmul: np.matmul(A, M)
        matvec: np.matvec(M, x[:3])
        outer: np.outer(x, y)
        tensordot: np.tensordot(A, M, 1)
        trace: np.trace(M)
        vdot: np.vdot(x, y)
        vecdot: np.vecdot(x, y)
        vecmat: np.vecmat(x[:3], M)
        geomspace: np.geomspace(s, 2 * s, 4)
        linspace: np.linspace(s, 2 * s, 4)
        logspace: np.logspace(s, 2 * s, 4)
        polyadd: np.polyadd(x, y)
        polydiv: np.polydiv(x, y[:2])
        polyfit: np.polyfit(x, y, 1)
        polymul: np.polymul(x, y)
        polysub: np.polysub(x, y)
        polyval: np.polyval(x, s)
    """),
    # -- without a derivative
    *calls("""
        all any argmax argmin argsort argwhere around ceil fix floor flatnonzero iscomplex iscomplexobj isfinite isinf
        isnan isneginf isposinf isreal isrealobj iterable lexsort logical_not min_scalar_type nanargmax nanargmin ndim
        nonzero rint round shape sign signbit size spacing trunc array2string array_repr
        array_str angle common_type count_nonzero result_type
        argpartition: np.argpartition(x, 2)
        empty_like: np.empty_like(x).shape
        broadcast_shapes: np.broadcast_shapes(x.shape, (2, 1))
        can_cast: np.can_cast(x.dtype, np.float32)
        diag_indices_from: np.diag_indices_from(M)
        tril_indices_from: np.tril_indices_from(M)
        triu_indices_from: np.triu_indices_from(M)
        digitize: np.digitize(x, [0.2, 0.5])
        searchsorted: np.searchsorted(x, y)
        isin: np.isin(x, y)
        invert: np.invert(x > 0.5)
        bitwise_not: np.bitwise_not(x > 0.5)
        bitwise_invert: np.bitwise_invert(x > 0.5)
        bitwise_and: np.bitwise_and(x > 0.5, y > 0.5)
        bitwise_or: np.bitwise_or(x > 0.5, y > 0.5)
        bitwise_xor: np.bitwise_xor(x > 0.5, y > 0.5)
    """, "plain"),
    *pairs("""
        allclose array_equal array_equiv equal floor_divide greater greater_equal isclose less less_equal logical_and
        logical_or logical_xor may_share_memory not_equal shares_memory
    """, "plain"),
    # -- refused
    *calls("""
        copyto: written(x, lambda v: np.copyto(v, y))
        place: written(x, lambda v: np.place(v, mask, y))
        putmask: written(x, lambda v: np.putmask(v, mask, s))
        put: written(x, lambda v: np.put(v, places, y))
        put_along_axis: written(x, lambda v: np.put_along_axis(v, places, s, 0))
        fill_diagonal: written(M, lambda v: np.fill_diagonal(v, s))
    """),
    *calls(
        "array asarray asanyarray asarray_chkfinite ascontiguousarray asfortranarray require", "conversion",
        why="the derivative would be lost: `x` is an array already; `minijac.numpy.array` lets it through",
    ),
    *calls("apply_along_axis: np.apply_along_axis(np.sort, 0, A)", "refused", why="one row after another takes the "
           "samples of a batch apart: write the function for all rows, with `axis=`"),
    *calls("roots"),
    *calls("sort_complex", "refused", why="complex numbers have no order that is differentiated"),
    # -- never called on traced values
    *names("arange empty eye full identity ones tri zeros", "it creates an array; with `like=x`, where x lives"),
    *names("bartlett blackman diag_indices fromfunction hamming hanning indices kaiser tril_indices triu_indices "
           "mask_indices", "it creates an array"),
    *names("bitwise_count bitwise_left_shift bitwise_right_shift gcd lcm left_shift right_shift packbits unpackbits "
           "ravel_multi_index unravel_index ix_", "it takes integers, which carry no derivative"),
    *names("from_dlpack frombuffer fromfile fromiter fromregex fromstring genfromtxt load loadtxt save savetxt savez "
           "savez_compressed", "it reads or writes files and buffers"),
    *names("base_repr binary_repr format_float_positional format_float_scientific typename",
           "it writes numbers as text"),
    *names("busday_count busday_offset datetime_as_string datetime_data is_busday isnat", "it takes dates"),
    *names("get_include get_printoptions getbufsize geterr geterrcall info printoptions set_printoptions setbufsize "
           "seterr seterrcall show_config show_runtime test einsum_path nested_iters", "it looks at NumPy's settings, "
           "not at numbers"),
    *names("isdtype isfortran isscalar issubdtype mintypecode promote_types", "it looks at types"),
    *names("asmatrix bmat", "it makes matrices of the class `numpy.matrix`"),
    *names("frompyfunc", "it makes a ufunc of a Python function; see docs/adding-an-op.md"),
]  # fmt: skip

LINALG = [
    *calls("""
        cholesky: np.linalg.cholesky(M @ M.T)
        cond: np.linalg.cond(M)
        cross: np.linalg.cross(x[:3], y[:3])
        det: np.linalg.det(M)
        diagonal: np.linalg.diagonal(M)
        eigh: np.linalg.eigh(M @ M.T).eigenvalues
        eigvalsh: np.linalg.eigvalsh(M @ M.T)
        inv: np.linalg.inv(M)
        lstsq: np.linalg.lstsq(A.T, x[:3])
        matmul: np.linalg.matmul(A, M)
        matrix_norm: np.linalg.matrix_norm(M)
        matrix_power: np.linalg.matrix_power(M, 3)
        matrix_transpose: np.linalg.matrix_transpose(A)
        multi_dot: np.linalg.multi_dot([A, M, M])
        norm: np.linalg.norm(x)
        outer: np.linalg.outer(x, y)
        pinv: np.linalg.pinv(A)
        qr: np.linalg.qr(M)
        slogdet: np.linalg.slogdet(M)
        solve: np.linalg.solve(M, x[:3])
        svd: np.linalg.svd(A, full_matrices=False)
        svdvals: np.linalg.svdvals(A)
        tensordot: np.linalg.tensordot(A, M, axes=1)
        tensorinv: np.linalg.tensorinv(M, ind=1)
        tensorsolve: np.linalg.tensorsolve(M, x[:3])
        trace: np.linalg.trace(M)
        vecdot: np.linalg.vecdot(x, y)
        vector_norm: np.linalg.vector_norm(x)
    """),
    *calls("matrix_rank: np.linalg.matrix_rank(M)", "plain"),
    *calls("eig: np.linalg.eig(M)[0]\neigvals: np.linalg.eigvals(M)"),
]

REDUCED = "add multiply maximum minimum fmax fmin logaddexp logaddexp2 hypot subtract divide remainder fmod copysign"
UFUNC_METHODS = [
    *(Entry(f"{name}.reduce", f"np.{name}.reduce(x)", "both") for name in REDUCED.split()),
    *(Entry(f"{name}.accumulate", f"np.{name}.accumulate(x)", "both") for name in REDUCED.split()),
    *(Entry(f"{name}.reduceat", f"np.{name}.reduceat(x, [0, 2])", "both") for name in REDUCED.split()),
    Entry("outer, of all with two operands", "np.hypot.outer(x, y)", "both"),
    *(Entry(f"{name}.reduce", f"np.{name}.reduce(x)", "plain") for name in ("logical_and", "logical_or")),
    Entry("at, of add and subtract", "written(x, lambda v: np.add.at(v, places, s))", "both"),
    Entry(
        "at, of others",
        "written(x, lambda v: np.multiply.at(v, places, s))",
        "refused",
        "an entry may be named more than once: `v[index] = ...` where none is",
    ),
]

BYTES = "it hands out the memory, and the derivative would be lost"
NDARRAY = [
    *methods("conj conjugate copy cumprod cumsum max mean min prod squeeze std sum var"),
    *methods("all any argmax argmin argsort nonzero round", "plain"),
    *attributes("real"),
    *attributes("device dtype itemsize nbytes ndim shape size", "plain"),
    *calls("""
        T: A.T
        mT: A.mT
        imag: x.imag + x
        flat: list(A.flat)
        astype: x.astype(np.float64)
        clip: x.clip(0.4, 0.8)
        compress: x.compress(mask)
        diagonal: M.diagonal()
        dot: A.dot(M)
        flatten: A.flatten()
        ravel: A.ravel()
        repeat: x.repeat(2)
        reshape: A.reshape(3, 2)
        swapaxes: A.swapaxes(0, 1)
        take: x.take([2, 0])
        trace: M.trace()
        transpose: T.transpose(2, 0, 1)
        `x[...]`: x[1:]
        `iter(x)`: [row for row in A]
        `+x`: +x
        `-x`: -x
        `abs(x)`: abs(x)
        `x + y`: x + y
        `x - y`: x - y
        `x * y`: x * y
        `x / y`: x / y
        `x % y`: x % y
        `x ** y`: x ** y
        `x @ y`: A @ M
        `divmod(x, y)`: divmod(x, y)[1]
    """),
    *calls("""
        argpartition: x.argpartition(2)
        searchsorted: x.searchsorted(y)
        `x // y`: x // y
        `x < y` and the like: x < y
        `bool(x)`: bool(s)
        `len(x)`: len(x)
        `v in x`: 0.5 in x
        `~`, `&`, `|`, `^`: ~(x > 0.5) & (x < 0.7) | (x > y) ^ (y > x)
    """, "plain"),
    *calls("""
        fill: written(x, lambda v: v.fill(s))
        put: written(x, lambda v: v.put(places, s))
        sort: written(x, lambda v: v.sort())
        partition: written(x, lambda v: v.partition(2))
    """),
    *calls("resize: x.resize(2)", "refused", why="it changes a shape; `np.resize`"),
    *calls("setfield: x.setfield(0, np.float32)\nbyteswap: x.byteswap()\nsetflags: x.setflags(write=False)",
           "conversion", why="it works on the memory"),
    *calls("`x[...] = v`: written(x, lambda v: v.__setitem__(slice(1), y[:1]))"),
    *calls("`x += v` and the like: written(x, lambda v: v.__iadd__(y))"),
    *calls("`float(x)`, `int(x)`, `complex(x)`: float(s)\nitem: s.item()\ntolist: x.tolist()", "conversion",
           why="the derivative would be lost; `minijac.stop_gradient(x)` gives the plain value"),
    *calls("base: x.base\nctypes: x.ctypes\ndata: x.data\ndump: x.dump('a')\ndumps: x.dumps()\nflags: x.flags\n"
           "getfield: x.getfield(np.float32)\nstrides: x.strides\nto_device: x.to_device('cpu')\n"
           "tobytes: x.tobytes()\ntofile: x.tofile('a')\nview: x.view()", "conversion", why=BYTES),
    *names("choose", "it takes integers, which carry no derivative; `np.choose` takes traced choices"),
]  # fmt: skip

SPECIAL = [
    *calls(SPECIAL_CALLS, prefix="special."), *calls("gammasgn round", "plain", "special."),
    *calls("""
        mathieu_a: special.mathieu_a(2, x)
        mathieu_b: special.mathieu_b(2, x)
        pro_cv: special.pro_cv(1, 2, x)
        obl_cv: special.obl_cv(1, 2, x)
    """, "refused", why="a characteristic value has no closed derivative: `minijac.custom`"),
]  # fmt: skip

FFT = [
    *calls("""
        fft ifft rfft irfft hfft ihfft fftshift ifftshift
        fft2: np.fft.fft2(A)
        fftn: np.fft.fftn(A)
        ifft2: np.fft.ifft2(A)
        ifftn: np.fft.ifftn(A)
        irfft2: np.fft.irfft2(A)
        irfftn: np.fft.irfftn(A)
        rfft2: np.fft.rfft2(A)
        rfftn: np.fft.rfftn(A)
    """, prefix="np.fft."),
    *names("fftfreq rfftfreq", "they take a number of points"),
]  # fmt: skip

NN = calls("""
    celu elu gelu glu hardsigmoid hardswish hardtanh leaky_relu log_softmax logsigmoid logsumexp mish relu relu6
    selu sigmoid silu softmax softplus softsign tanh tanhshrink
    adaptive_avg_pool1d: nn.adaptive_avg_pool1d(I, 4)
    adaptive_avg_pool2d: nn.adaptive_avg_pool2d(I2, 3)
    adaptive_max_pool1d: nn.adaptive_max_pool1d(I, 4)
    adaptive_max_pool2d: nn.adaptive_max_pool2d(I2, 3)
    avg_pool1d: nn.avg_pool1d(I, 2)
    avg_pool2d: nn.avg_pool2d(I2, 2)
    batch_norm: nn.batch_norm(A, x[:3], y[:3])
    conv1d: nn.conv1d(I, w)
    conv2d: nn.conv2d(I2, w2)
    conv3d: nn.conv3d(I3, w3)
    conv_transpose1d: nn.conv_transpose1d(I, w)
    conv_transpose2d: nn.conv_transpose2d(I2, w2)
    conv_transpose3d: nn.conv_transpose3d(I3, w3)
    dropout: nn.dropout(x, mask)
    embedding: nn.embedding(np.array([0, 1, 0]), A)
    group_norm: nn.group_norm(I, 2)
    instance_norm: nn.instance_norm(I)
    layer_norm: nn.layer_norm(A)
    linear: nn.linear(A, M)
    max_pool1d: nn.max_pool1d(I, 2)
    max_pool2d: nn.max_pool2d(I2, 2)
    prelu: nn.prelu(I, x[:2])
    rms_norm: nn.rms_norm(A)
    scaled_dot_product_attention: nn.scaled_dot_product_attention(A, B, A * B)
""", prefix="nn.")  # fmt: skip

EMATH = calls("arccos arcsin arctanh log log10 log2 sqrt\nlogn: np.emath.logn(2, x)\npower: np.emath.power(x, 2)",
              prefix="np.emath.")  # fmt: skip
STRIDES = [
    *calls("sliding_window_view: np.lib.stride_tricks.sliding_window_view(x, 2)"),
    *calls("as_strided: np.lib.stride_tricks.as_strided(x, (2, 2), (8, 8))", "refused",
           why="strides may leave the array: sliding_window_view, slices and broadcast_to say the same"),
]  # fmt: skip
SERIES = {
    "polynomial": "poly", "chebyshev": "cheb", "legendre": "leg", "hermite": "herm", "hermite_e": "herme",
    "laguerre": "lag",
}  # fmt: skip
OF_SERIES = {
    "x": "der int fromroots mulx roots companion weight trim", "x, y": "add sub mul val valfromroots",
    "x, y[:2]": "div", "x, 2": "pow", "x, 3": "vander", "x, y, 2": "fit", "x, y, A": "val2d grid2d",
    "x, y, [1, 2]": "vander2d", "x, y, x * y, [1, 1, 2]": "vander3d", "s, x[0]": "line",
}  # fmt: skip


def series(module: str) -> list[Entry]:
    """The functions of a module of `numpy.polynomial`."""
    place, prefix = f"np.polynomial.{module}", SERIES[module]
    of_series = {name: given for given, names in OF_SERIES.items() for name in names.split()}
    of_series |= {"val3d": "x, y, x * y, T", "grid3d": "x, y[:2], x[:2], T"}
    found = getattr(np.polynomial, module).__all__
    entries = [
        Entry(name, f"{place}.{name}({of_series.get(name.removeprefix(prefix), 'x')})", "both")
        for name in found
        if name.removeprefix(prefix) in of_series or name.startswith((f"{prefix}2", "poly2"))
    ]
    plain = {f"{prefix}gauss": "a number of points", f"{prefix}pts1": "a number of points",
             f"{prefix}pts2": "a number of points", f"{prefix}interpolate": "a function"}  # fmt: skip
    return entries + [Entry(name, "", "none", f"it takes {plain[name]}") for name in found if name in plain]


SECTIONS = {
    "numpy": NUMPY,
    "numpy.linalg": LINALG,
    "numpy.fft": FFT,
    "numpy.emath": EMATH,
    "numpy.lib.stride_tricks": STRIDES,
    **{f"numpy.polynomial.{module}": series(module) for module in SERIES},
    "Methods of ufuncs": UFUNC_METHODS,
    "Methods, attributes and operators of ndarray": NDARRAY,
    "scipy.special": SPECIAL,
    "minijac.nn": NN,
}
ADAPTED = "numpy.polynomial"
"""Sections whose calls are made under `adapt`."""

OTHERS = {
    "numpy.ma": ("refused", "np.ma.masked_where(x > 0.5, x)", "entries left out by a mask: `np.where`, `where=`"),
    "numpy.random": (
        "refused",
        "np.random.normal(x)",
        "draws have no derivative: `mean + scale * noise`, drawn outside",
    ),
    "numpy.rec": ("refused", "np.rec.fromarrays([x, y])", "records of several dtypes: a dict or a dataclass of arrays"),
    "numpy.lib.recfunctions": ("refused", "recfunctions.merge_arrays([x, y])", "as `numpy.rec`"),
    "numpy.char": ("none", "", "it takes text"),
    "numpy.strings": ("none", "", "it takes text"),
    "numpy.testing": ("none", "", "it asserts something of plain values: `minijac.testing` has its own"),
    "numpy.ctypeslib": ("none", "", "it takes memory"),
    "numpy.lib.array_utils": ("none", "", "it takes numbers of axes, or memory"),
    "numpy.lib.format": ("none", "", "it takes files"),
    "numpy.lib.introspect": ("none", "", "it looks at the build"),
    "numpy.polynomial.polyutils": ("none", "", "what `numpy.polynomial` is made of"),
}
"""Modules all of whose functions have one fate: the kind, a call that shows it, and why."""
