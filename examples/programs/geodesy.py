"""Latitude, longitude and height from Cartesian coordinates (Bowring, Survey Review 23, 1976)."""

from math import atan2, cos, sin, sqrt

import numpy as np

A, B = 6378137.0, 6356752.314245
E2, EP2 = 1 - (B / A) ** 2, (A / B) ** 2 - 1


def f(xyz):
    x, y, z = (float(c) for c in xyz)
    p = sqrt(x * x + y * y)
    theta = atan2(z * A, p * B)
    latitude = atan2(z + EP2 * B * sin(theta) ** 3, p - E2 * A * cos(theta) ** 3)
    n = A / sqrt(1 - E2 * sin(latitude) ** 2)
    out = np.empty(3)
    out[0], out[1], out[2] = latitude * 1e7, atan2(y, x) * 1e7, p / cos(latitude) - n
    return out


POINT = np.array([4157222.0, 664789.0, 4774952.0])
SCALE = 1e3
