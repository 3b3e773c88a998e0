"""The gain of a linear regulator by iteration of Riccati's equation (Anderson and Moore, 1990)."""

import numpy as np


def f(x):
    A = np.array([[1.0, x[0]], [x[1], 1.0 - x[2]]])
    B = np.zeros((2, 1))
    B[1] = x[0]
    Q, R = np.diag([1.0, 0.5]), np.array([[0.2]])
    P = Q.copy()
    for _ in range(8):
        K = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        P = Q + A.T @ P @ (A - B @ K)
    return K.flatten()


POINT = np.array([0.3, -0.2, 0.1])
