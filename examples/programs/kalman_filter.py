"""Log-likelihood of a short series by Kalman's filter, in its two noise levels (J. Basic Eng. 82, 1960)."""

import math

import numpy as np

SERIES = [0.3, 0.9, 1.1, 2.0, 2.2]


def f(logs):
    q, r = math.exp(logs[0]), math.exp(logs[1])
    F, H = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    Q, R = np.zeros((2, 2)), np.array([[r]])
    Q[0, 0], Q[0, 1], Q[1, 0], Q[1, 1] = q / 3, q / 2, q / 2, q
    m, P = np.zeros(2), np.eye(2)
    total = 0.0
    for y in SERIES:
        m = F @ m
        P = F @ P @ F.T + Q
        S = H @ P @ H.T + R
        K = P @ H.T @ np.linalg.inv(S)
        residual = y - H @ m
        m += K @ residual
        P -= K @ H @ P
        total -= 0.5 * (residual[0] ** 2 / S[0, 0] + math.log(2 * math.pi * S[0, 0]))
    return np.append(m, total)


POINT = np.array([-0.4, 0.2])
