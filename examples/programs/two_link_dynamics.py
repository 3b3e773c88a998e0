"""Torques of a planar arm of two links: M(q) a + C(q, v) v + g(q) (Spong et al., Robot Modeling and Control, 2006)."""

import numpy as np

M1, M2, L1, L2, G = 1.2, 0.8, 0.5, 0.4, 9.81


def f(x):
    q, v, a = x[:2], x[2:4], x[4:]
    c2, s2 = np.cos(q[1]), np.sin(q[1])
    M = np.zeros((2, 2))
    M[0, 0] = (M1 + M2) * L1**2 + M2 * L2**2 + 2 * M2 * L1 * L2 * c2
    M[0, 1] = M2 * L2**2 + M2 * L1 * L2 * c2
    M[1, 0] = M[0, 1]
    M[1, 1] = M2 * L2**2
    C = np.array([[-M2 * L1 * L2 * s2 * v[1], -M2 * L1 * L2 * s2 * (v[0] + v[1])], [M2 * L1 * L2 * s2 * v[0], 0.0]])
    g = np.empty(2)
    g[1] = M2 * G * L2 * np.cos(q[0] + q[1])
    g[0] = (M1 + M2) * G * L1 * np.cos(q[0]) + g[1]
    return M @ a + C @ v + g


POINT = np.array([0.4, 0.9, -0.3, 0.5, 0.2, -0.1])
