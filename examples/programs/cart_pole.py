"""A cart and its pole, by Runge and Kutta's steps into a table (Barto et al., IEEE SMC 13, 1983)."""

import numpy as np

STEPS, H = 6, 0.05


def rates(s):
    x, v, theta, omega = s
    total, pole, length, g = 1.1, 0.1, 0.5, 9.81
    push = (pole * length * omega**2 * np.sin(theta)) / total
    alpha = (g * np.sin(theta) - np.cos(theta) * push) / (length * (4 / 3 - pole * np.cos(theta) ** 2 / total))
    return np.array([v, push - pole * length * alpha * np.cos(theta) / total, omega, alpha])


def f(s):
    table = np.zeros((STEPS + 1, 4))
    table[0] = s
    for n in range(STEPS):
        k1 = rates(table[n])
        k2 = rates(table[n] + H / 2 * k1)
        k3 = rates(table[n] + H / 2 * k2)
        k4 = rates(table[n] + H * k3)
        table[n + 1] = table[n] + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return table[-1]


POINT = np.array([0.1, -0.2, 0.4, 0.3])
