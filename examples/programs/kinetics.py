"""Rates of a mechanism by the law of mass action and Arrhenius's constants (in the form of Robertson, 1966)."""

import numpy as np

REACTIONS = [  # constant, reactants, products
    (0.04, [0], [1]),
    (3.0, [1, 1], [2, 1]),
    (1.0, [1, 2], [0, 2]),
]


def f(x):
    c, T = x[:3], x[3]
    out = np.zeros(3)
    for k, reactants, products in REACTIONS:
        rate = k * np.exp(-1.0 / T)
        for i in reactants:
            rate = rate * c[i]
        for i in reactants:
            out[i] -= rate
        for i in products:
            out[i] += rate
    return out


POINT = np.array([0.8, 0.3, 0.2, 1.3])
