"""Lorenz's model of 1996: each neighbour in a loop with remainders for indices."""

import numpy as np


def f(x):
    n = len(x)
    out = np.zeros(n)
    for i in range(n):
        out[i] = (x[(i + 1) % n] - x[i - 2]) * x[i - 1] - x[i] + 8.0
    return x + 0.05 * out


POINT = np.linspace(-1.0, 2.0, 6)
