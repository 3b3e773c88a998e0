"""Van der Pol's oscillator by one implicit step, Newton's iteration written out (Hairer and Wanner, 1996)."""

import numpy as np

H, MU = 0.1, 3.0


def f(x):
    y = x.copy()
    for _ in range(6):
        residual = np.empty(2)
        residual[0] = y[0] - x[0] - H * y[1]
        residual[1] = y[1] - x[1] - H * (MU * (1 - y[0] ** 2) * y[1] - y[0])
        J = np.eye(2)
        J[0, 1] -= H
        J[1, 0] += H * (2 * MU * y[0] * y[1] + 1)
        J[1, 1] -= H * MU * (1 - y[0] ** 2)
        y -= np.linalg.solve(J, residual)
    return y


POINT = np.array([1.2, -0.4])
