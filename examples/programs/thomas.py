"""A tridiagonal system by Thomas's elimination, in place (1949)."""

import numpy as np


def f(x):
    n = len(x) // 2
    d = 4.0 + x[:n]
    b = x[n:] * 1.0
    lower = -1.0
    c = np.zeros(n)
    c[0] = -1.0 / d[0]
    b[0] /= d[0]
    for i in range(1, n):
        m = d[i] - lower * c[i - 1]
        c[i] = -1.0 / m
        b[i] = (b[i] - lower * b[i - 1]) / m
    for i in range(n - 2, -1, -1):
        b[i] -= c[i] * b[i + 1]
    return b


POINT = np.array([0.1, -0.2, 0.3, 0.4, 1.0, 2.0, -1.0, 0.5])
