"""A neuron's tree: currents between compartments given by their parents, summed with add.at (Hines, 1984)."""

import numpy as np

PARENT = np.array([0, 0, 1, 1, 3])


def f(v):
    axial = 0.7 * (v[PARENT] - v)
    current = axial.copy()
    np.subtract.at(current, PARENT, axial)
    leak = np.zeros_like(v)
    np.multiply(v, v, out=leak)
    leak[leak > 0.5] = 0.5
    return v + 0.1 * (current - leak)


POINT = np.array([0.9, -0.3, 0.4, 0.2, -0.6])
