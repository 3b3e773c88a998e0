"""Pressure of a mixture by Peng and Robinson (Ind. Eng. Chem. Fundam. 15, 1976)."""

import math

import numpy as np

TC, PC, OMEGA = [190.6, 305.3], [4.6, 4.87], [0.012, 0.1]
GAS = 8.314e-3


def f(x):
    T, V = x[0] * 100, x[1]
    fractions = np.array([x[2], 1 - x[2]])
    a, b = [], []
    for i in range(2):
        tc, pc, omega = TC[i], PC[i], OMEGA[i]
        kappa = 0.37464 + 1.54226 * omega - 0.26992 * omega**2
        alpha = (1 + kappa * (1 - math.sqrt(T / tc))) ** 2
        a.append(0.45724 * GAS**2 * tc**2 / pc * alpha)
        b.append(0.0778 * GAS * tc / pc)
    mixed = 0.0
    for i in range(2):
        for j in range(2):
            mixed += fractions[i] * fractions[j] * math.sqrt(a[i] * a[j])
    covolume = sum(fractions[i] * b[i] for i in range(2))
    pressure = GAS * T / (V - covolume) - mixed / (V * (V + covolume) + covolume * (V - covolume))
    return np.array([pressure, mixed, covolume])


POINT = np.array([2.5, 0.6, 0.35])
