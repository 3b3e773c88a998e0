"""Acceleration of a satellite: the Earth's mass and its flattening J2 (Vallado, 2013), one leapfrog step in place."""

import numpy as np

MU, J2, R = 1.0, 1.0826e-3, 1.0


def acceleration(r):
    d = np.sqrt(np.dot(r, r))
    z2 = (r[2] / d) ** 2
    a = np.zeros(3)
    a -= MU * r / d**3
    factor = 1.5 * J2 * MU * R**2 / d**5
    a[0] += factor * r[0] * (5 * z2 - 1)
    a[1] += factor * r[1] * (5 * z2 - 1)
    a[2] += factor * r[2] * (5 * z2 - 3)
    return a


def f(s):
    s = s.copy()
    r, v = s[:3], s[3:]
    for _ in range(4):
        v += 0.05 * acceleration(r)
        r += 0.1 * v
        v += 0.05 * acceleration(r)
    return s


POINT = np.array([1.1, 0.2, 0.3, -0.1, 0.8, 0.2])
