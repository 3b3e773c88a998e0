"""Active and reactive power at the buses of a small grid, in polar form (Grainger and Stevenson, 1994)."""

import numpy as np

LINES = [(0, 1, 0.02, 0.06), (0, 2, 0.08, 0.24), (1, 2, 0.06, 0.18)]  # from, to, resistance, reactance


def f(x):
    n = 3
    G, B = np.zeros((n, n)), np.zeros((n, n))
    for i, j, r, reactance in LINES:
        g, b = r / (r**2 + reactance**2), -reactance / (r**2 + reactance**2)
        G[i, j] -= g
        G[j, i] -= g
        B[i, j] -= b
        B[j, i] -= b
        G[i, i] += g
        G[j, j] += g
        B[i, i] += b
        B[j, j] += b
    angle, voltage = x[:n], x[n:]
    P, Q = np.zeros(n), np.zeros(n)
    for i in range(n):
        for j in range(n):
            d = angle[i] - angle[j]
            P[i] += voltage[i] * voltage[j] * (G[i, j] * np.cos(d) + B[i, j] * np.sin(d))
            Q[i] += voltage[i] * voltage[j] * (G[i, j] * np.sin(d) - B[i, j] * np.cos(d))
    return np.concatenate((P, Q))


POINT = np.array([0.0, -0.05, -0.1, 1.05, 0.98, 0.95])
