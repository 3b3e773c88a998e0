"""Functions that misuse a traced value, each at a marked line, and the ways to run one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import random

import minijac as mj

B, N = 4, 3
X = random(B, N, low=0.5, high=1.5)


def calls_float(x):
    return x * float(x[0, 0])  # <- here


def calls_int(x):
    return x * int(x[0, 0])  # <- here


def calls_complex(x):
    return x * complex(x[0, 0]).real  # <- here


def calls_math(x):
    return x * math.sin(x[0, 0])  # <- here


def calls_item(x):
    return x * x[0, 0].item()  # <- here


def calls_tolist(x):
    return x * x.tolist()[0][0]  # <- here


def calls_asarray(x):
    return np.sin(np.asarray(x))  # <- here


def calls_array(x):
    return np.array([x[:, 0], x[:, 1]]).T  # <- here


def calls_array_of_scalars(x):
    return x * np.array([x[0, 0], 1.0, 2.0])  # <- here


def calls_array_of_all(x):
    return np.array(x)  # <- here


def calls_asarray_with_dtype(x):
    return np.asarray(x, dtype=np.float64)  # <- here


def calls_ascontiguousarray_of_list(x):
    return np.asarray([x, x])[0]  # <- here


def writes_into_a_buffer(x):
    buffer = np.zeros((B, N))
    buffer[0] = x[0]  # <- here
    return buffer


def writes_a_number_into_a_buffer(x):
    buffer = np.zeros((B, N))
    buffer[0, 0] = x[0, 0]  # <- here
    return buffer


def fills_a_buffer(x):
    buffer = np.zeros((B, N))
    buffer[...] = x  # <- here
    return buffer


def formats_as_number(x):
    return x * float(f"{float(x[0, 0]):.3f}")  # <- here


def uses_as_range(x):
    return x * len(range(int(x[0, 0])))  # <- here


CONVERSIONS = [
    calls_float,
    calls_int,
    calls_complex,
    calls_math,
    calls_item,
    calls_tolist,
    calls_asarray,
    calls_array,
    calls_array_of_scalars,
    calls_array_of_all,
    calls_asarray_with_dtype,
    calls_ascontiguousarray_of_list,
    writes_into_a_buffer,
    writes_a_number_into_a_buffer,
    fills_a_buffer,
    formats_as_number,
    uses_as_range,
]
RUNS: dict[str, Callable[[Callable], Any]] = {
    "jacobian": lambda f: mj.jacobian(f)(X),
    "forward": lambda f: mj.jacobian(f, mode="forward")(X),
    "ordinary": lambda f: mj.jacobian(f, batch_axis=None)(X),
    "jvp": lambda f: mj.jvp(f, (X,), (X,)),
    "vjp": lambda f: mj.vjp(f, X),
    "grad": lambda f: mj.grad(lambda x: f(x).sum())(X),
    "nested": lambda f: mj.jacobian(mj.jacobian(f))(X),
}
runs = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())


def sets_an_item(x):
    x[0] = 1.0  # <- here
    return x


def sets_everything(x):
    x[...] = 0.0  # <- here
    return x


def sets_a_column(x):
    x.reshape(-1, 1)[0] = 0.0  # <- here
    return x


def sets_from_itself(x):
    x[:, 0] = x[:, 1]  # <- here
    return x


def adds_to_an_item(x):
    y = x[:, 1:]
    y[:, 0] += 1.0  # <- here
    return y


def sets_by_mask(x):
    y = x.T
    y[x.T > 0] = 0.0  # <- here
    return y


def writes_out(x):
    np.add(x, 1.0, out=x)  # <- here
    return x


def writes_out_of_plain(x):
    np.add(X, 1.0, out=x)  # <- here
    return x


def fills(x):
    x.fill(0.0)  # <- here
    return x


def sorts_in_place(x):
    x.sort()  # <- here
    return x


def copies_to(x):
    np.copyto(x, 0.0)  # <- here
    return x


MUTATIONS = [
    sets_an_item,
    sets_everything,
    sets_a_column,
    sets_from_itself,
    adds_to_an_item,
    sets_by_mask,
    writes_out,
    writes_out_of_plain,
    fills,
    sorts_in_place,
    copies_to,
]


def calls_sort_complex(x):
    return np.sort_complex(x)  # <- here
